/*
 * ngx_http_llm_prompt.c - the prompts of a request to tokens.
 *
 * Prompt after prompt, a long one in a thread; those that came as tokens
 * have them already.
 */
#include "ngx_http_llm_request.h"


static ngx_int_t ngx_http_llm_tokenize_prompt(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_prompt_t *prompt);
static ngx_int_t ngx_http_llm_tokenize(ngx_http_llm_ctx_t *ctx);


ngx_int_t
ngx_http_llm_prompt_tokens(ngx_http_llm_ctx_t *ctx)
{
    ngx_int_t               rc;
    llm_tokens_t            given;
    ngx_http_llm_prompt_t  *prompt;

    if (!ctx->counted) {
        rc = ngx_http_llm_tokenize(ctx);

        return (rc == NGX_OK) ? ngx_http_llm_tokenizer_reply(ctx) : rc;
    }

    while (ctx->n_tokenized < ctx->n_prompts) {
        prompt = &ctx->prompts[ctx->n_tokenized];

        if (prompt->ids) {
            given.ids = prompt->tokens;
            given.start = prompt->starts;
            given.stop = prompt->starts;
            given.n = prompt->n_tokens;

            rc = ngx_http_llm_params_length(ctx, prompt, &given);

        } else {
            rc = ngx_http_llm_tokenize_prompt(ctx, prompt);
        }

        if (rc != NGX_OK) {
            return rc;
        }

        ctx->n_tokens += prompt->n_tokens;
        ctx->max_new = ngx_max(ctx->max_new, prompt->max_new);
        ctx->n_tokenized++;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_tokenize_prompt(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_prompt_t *prompt)
{
    ngx_int_t  rc;

    if (ctx->task == NULL) {
        ctx->task = ngx_http_llm_task_new(ctx, ngx_http_llm_task_tokenize,
                                          prompt->text.len);
        if (ctx->task == NULL) {
            return ngx_http_llm_fail_nomem(ctx);
        }

        if (prompt->text.len) {
            ngx_memcpy(ctx->task->text.data, prompt->text.data,
                       prompt->text.len);
        }

        ctx->task->flags = ctx->tok_flags;
    }

    rc = ngx_http_llm_tokenize(ctx);

    if (rc != NGX_OK) {
        return rc;
    }

    rc = ngx_http_llm_params_length(ctx, prompt, &ctx->task->tokens);

    ngx_http_llm_task_free(ctx->task);
    ctx->task = NULL;

    return rc;
}


/* ctx->task: NGX_OK, it has its tokens */

static ngx_int_t
ngx_http_llm_tokenize(ngx_http_llm_ctx_t *ctx)
{
    if (ngx_http_llm_task_run(ctx->task) == NGX_AGAIN) {
        return NGX_AGAIN;
    }

    if (ctx->task->code != LLM_OK) {
        return ngx_http_llm_fail_engine(ctx, &ctx->task->err);
    }

    return NGX_OK;
}
