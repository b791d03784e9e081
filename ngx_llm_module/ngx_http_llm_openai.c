/*
 * ngx_http_llm_openai.c - OpenAI's chat completions.
 *
 * Bodies to parameters and messages to a prompt by the model's template;
 * chunks, the closing usage and [DONE], or one object.  Messages are shown to
 * the template in ngx_http_llm_chat.c.
 */
#include "ngx_http_llm_codec.h"


static ngx_int_t ngx_http_llm_openai_decode(ngx_http_llm_ctx_t *ctx,
    json_t *root);
static ngx_int_t ngx_http_llm_openai_refuse(ngx_http_llm_ctx_t *ctx,
    json_t *root);
static ngx_int_t ngx_http_llm_openai_refuse_tools(ngx_http_llm_ctx_t *ctx,
    json_t *root);
static ngx_int_t ngx_http_llm_openai_prompt(ngx_http_llm_ctx_t *ctx);
static void ngx_http_llm_openai_unit(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_http_llm_unit_t *unit);
static void ngx_http_llm_openai_begin(ngx_http_llm_ctx_t *ctx,
    const char *object);
static void ngx_http_llm_openai_chunk(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_str_t *text,
    ngx_http_llm_buf_t *logprobs, ngx_uint_t last);
static void ngx_http_llm_openai_logprobs(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_unit_t *unit, ngx_http_llm_buf_t *b);
static void ngx_http_llm_openai_logprob(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_buf_t *b, int32_t id, float logprob);
static void ngx_http_llm_openai_finish(ngx_http_llm_ctx_t *ctx);


static const ngx_http_llm_field_t  ngx_http_llm_openai_fields[] = {
    ngx_http_llm_field("max_completion_tokens", COUNT, max_new_tokens,
                       NGX_HTTP_LLM_GIVEN_MAX_NEW),
    ngx_http_llm_field("logprobs", BOOL, logprobs, 0),
    ngx_http_llm_field("top_logprobs", U32, top_n_tokens,
                       NGX_HTTP_LLM_GIVEN_TOP_N),
    ngx_http_llm_field("logit_bias", BIAS_OBJECT, bias, 0),
    ngx_http_llm_null_field
};


const ngx_http_llm_codec_t  ngx_http_llm_chat_codec = {
    NGX_HTTP_LLM_FORMAT_OPENAI,
    0,                              /* length_first */
    0,                              /* keep_stop */
    ngx_http_llm_openai_decode,
    ngx_http_llm_openai_prompt,
    NULL,                           /* prefill */
    ngx_http_llm_openai_unit,
    ngx_http_llm_openai_finish
};


static ngx_int_t
ngx_http_llm_openai_decode(ngx_http_llm_ctx_t *ctx, json_t *root)
{
    if (ngx_http_llm_openai_body(ctx, root) != NGX_OK
        || ngx_http_llm_json_fields(ctx, root, ngx_http_llm_openai_fields,
                                    "")
           != NGX_OK
        || ngx_http_llm_openai_refuse(ctx, root) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (!ctx->params.logprobs) {
        ctx->params.top_n_tokens = 0;
    }

    return ngx_http_llm_chat_check(ctx, root);
}


/* well-formed, but this version would have to ignore it */

static ngx_int_t
ngx_http_llm_openai_refuse(ngx_http_llm_ctx_t *ctx, json_t *root)
{
    ngx_uint_t   i;

    static const char  *refused[] = {
        "functions", "function_call", "suffix", NULL
    };

    for (i = 0; refused[i]; i++) {
        if (ngx_http_llm_json_get(root, refused[i])) {
            return ngx_http_llm_invalid(ctx, "`%s` is not supported",
                                        refused[i]);
        }
    }

    return ngx_http_llm_openai_refuse_tools(ctx, root);
}


/* with tool_choice "none" tools are shown to the template only */

static ngx_int_t
ngx_http_llm_openai_refuse_tools(ngx_http_llm_ctx_t *ctx, json_t *root)
{
    json_t      *tools, *choice;
    const char  *name;

    tools = ngx_http_llm_json_get(root, "tools");

    if (tools == NULL) {
        return NGX_OK;
    }

    if (!json_is_array(tools)) {
        return ngx_http_llm_json_mismatch(ctx, "", "tools", tools,
                                          "a sequence");
    }

    if (json_array_size(tools) == 0) {
        return NGX_OK;
    }

    choice = ngx_http_llm_json_get(root, "tool_choice");
    name = json_string_value(choice);

    if (name && ngx_strcmp(name, "none") == 0) {
        return NGX_OK;
    }

    return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_VALIDATION,
                             NGX_HTTP_LLM_INVALID
                             "`tools` is not supported with another "
                             "`tool_choice` than \"none\"");
}


static ngx_int_t
ngx_http_llm_openai_prompt(ngx_http_llm_ctx_t *ctx)
{
    ctx->tok_flags = LLM_TOK_PARSE_SPECIAL;

    if (ctx->hook_prompt.data) {
        ctx->prompt = ctx->hook_prompt;
        return NGX_OK;
    }

    return ngx_http_llm_chat_render(ctx,
                                    ctx->hooked ? ctx->hooked : ctx->json,
                                    &ctx->prompt);
}


static void
ngx_http_llm_openai_begin(ngx_http_llm_ctx_t *ctx, const char *object)
{
    ngx_str_t  *model;

    model = &ctx->params.model;

    if (model->len == 0
        || (model->len == 3 && ngx_strncmp(model->data, "tgi", 3) == 0))
    {
        model = ngx_http_llm_model_id(ctx);
    }

    ngx_http_llm_openai_head(ctx, object, "chatcmpl", model);
}


static void
ngx_http_llm_openai_unit(ngx_http_llm_ctx_t *ctx, ngx_http_llm_sequence_t *s,
    ngx_http_llm_unit_t *unit)
{
    ngx_str_t            none;
    ngx_http_llm_buf_t  *logprobs;

    logprobs = NULL;

    if (ctx->params.logprobs) {
        logprobs = &s->json;

        if (ctx->params.stream) {
            logprobs->len = 0;
        }

        if (!unit->replaced) {
            ngx_http_llm_openai_logprobs(ctx, unit, logprobs);
        }
    }

    if (!ctx->params.stream) {
        return;
    }

    if (unit->text.len || (logprobs && logprobs->len)) {
        ngx_http_llm_openai_chunk(ctx, s, &unit->text, logprobs, 0);
    }

    if (unit->last) {
        ngx_str_null(&none);
        ngx_http_llm_openai_chunk(ctx, s, &none, NULL, 1);
    }
}


static void
ngx_http_llm_openai_chunk(ngx_http_llm_ctx_t *ctx, ngx_http_llm_sequence_t *s,
    ngx_str_t *text, ngx_http_llm_buf_t *logprobs, ngx_uint_t last)
{
    ngx_http_llm_buf_t  *b;

    b = &ctx->out;

    ngx_http_llm_buf_lit(b, "data: ");
    ngx_http_llm_openai_begin(ctx, "chat.completion.chunk");
    ngx_http_llm_buf_printf(b, "{\"index\":%ui,\"delta\":{",
                            s->index);

    if (s->n_events++ == 0 || ctx->params.repeat_role) {
        ngx_http_llm_buf_lit(b, "\"role\":\"assistant\",");
    }

    ngx_http_llm_buf_lit(b, "\"content\":");
    ngx_http_llm_buf_json_str(b, text);
    ngx_http_llm_buf_lit(b, "},\"logprobs\":");

    if (logprobs) {
        ngx_http_llm_buf_lit(b, "{\"content\":[");
        ngx_http_llm_buf_add(b, logprobs->data, logprobs->len);
        ngx_http_llm_buf_lit(b, "]}");

    } else {
        ngx_http_llm_buf_lit(b, "null");
    }

    if (last) {
        ngx_http_llm_buf_printf(b, ",\"finish_reason\":\"%s\"}]",
                                ngx_http_llm_openai_reason(s));

    } else {
        ngx_http_llm_buf_lit(b, ",\"finish_reason\":null}]");
    }

    ngx_http_llm_buf_lit(b, ",\"usage\":");

    if (ctx->params.continuous_usage) {
        ngx_http_llm_openai_usage(ctx, NULL);

    } else {
        ngx_http_llm_buf_lit(b, "null");
    }

    ngx_http_llm_buf_lit(b, "}\n\n");
}


/* the EOS token is not listed, nor what the hook or a stop string hides */

static void
ngx_http_llm_openai_logprobs(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_unit_t *unit, ngx_http_llm_buf_t *b)
{
    ngx_uint_t             i, j;
    ngx_http_llm_token_t  *t;

    for (i = 0; i < unit->n_tokens; i++) {
        t = &unit->tokens[i];

        if (t->hidden
            || (llm_token_is_eos(ctx->instance->model, t->id)
                && !ctx->params.ignore_eos))
        {
            continue;
        }

        if (b->len) {
            ngx_http_llm_buf_lit(b, ",");
        }

        ngx_http_llm_openai_logprob(ctx, b, t->id, t->raw_logprob);
        ngx_http_llm_buf_lit(b, ",\"top_logprobs\":[");

        for (j = 0; j < ngx_min(t->n_top, ctx->params.top_n_tokens); j++) {

            if (j) {
                ngx_http_llm_buf_lit(b, ",");
            }

            ngx_http_llm_openai_logprob(ctx, b, t->top[j].id,
                                        t->top[j].logprob);
            ngx_http_llm_buf_lit(b, "}");
        }

        ngx_http_llm_buf_lit(b, "]}");
    }
}


/* without the closing brace */

static void
ngx_http_llm_openai_logprob(ngx_http_llm_ctx_t *ctx, ngx_http_llm_buf_t *b,
    int32_t id, float logprob)
{
    size_t       i, len;
    const char  *text;

    /* not always whole characters: the string shows what can be shown */

    text = llm_token_bytes(ctx->instance->model, id, &len);

    ngx_http_llm_buf_lit(b, "{\"token\":");
    ngx_http_llm_buf_json(b, text, len);
    ngx_http_llm_buf_lit(b, ",\"logprob\":");

    ngx_http_llm_openai_number(b, logprob);
    ngx_http_llm_buf_lit(b, ",\"bytes\":[");

    for (i = 0; i < len; i++) {
        ngx_http_llm_buf_printf(b, "%s%ud", i ? "," : "",
                                (unsigned) (u_char) text[i]);
    }

    ngx_http_llm_buf_lit(b, "]");
}


static void
ngx_http_llm_openai_finish(ngx_http_llm_ctx_t *ctx)
{
    ngx_uint_t                i;
    ngx_http_llm_buf_t       *b;
    ngx_http_llm_sequence_t  *s;

    b = &ctx->out;

    if (ctx->params.stream) {

        if (ctx->params.include_usage) {
            ngx_http_llm_buf_lit(b, "data: ");
            ngx_http_llm_openai_begin(ctx, "chat.completion.chunk");
            ngx_http_llm_buf_lit(b, "],\"usage\":");
            ngx_http_llm_openai_usage(ctx, NULL);
            ngx_http_llm_buf_lit(b, "}\n\n");
        }

        ngx_http_llm_buf_lit(b, "data: [DONE]\n\n");
        return;
    }

    ngx_http_llm_openai_begin(ctx, "chat.completion");

    for (i = 0; i < ctx->n_sequences; i++) {
        s = &ctx->sequences[i];

        ngx_http_llm_buf_printf(b, "%s{\"index\":%ui,\"message\":{\"role\":"
                                "\"assistant\",\"content\":",
                                i ? "," : "", i);
        ngx_http_llm_buf_json(b, s->out.data, s->out.len);
        ngx_http_llm_buf_lit(b, "},\"logprobs\":");

        if (ctx->params.logprobs) {
            ngx_http_llm_buf_lit(b, "{\"content\":[");
            ngx_http_llm_buf_add(b, s->json.data, s->json.len);
            ngx_http_llm_buf_lit(b, "]}");

        } else {
            ngx_http_llm_buf_lit(b, "null");
        }

        ngx_http_llm_buf_printf(b, ",\"finish_reason\":\"%s\"}",
                                ngx_http_llm_openai_reason(s));
    }

    ngx_http_llm_buf_lit(b, "],\"usage\":");
    ngx_http_llm_openai_usage(ctx, NULL);
    ngx_http_llm_buf_lit(b, "}");
}
