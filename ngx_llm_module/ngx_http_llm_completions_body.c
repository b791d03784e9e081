/*
 * ngx_http_llm_completions_body.c - what a body of OpenAI's legacy
 * completions asks for.
 *
 * Fields to parameters; prompts as text, as tokens or as lists of either;
 * texts before and after a gap (suffix) as one prompt in the form that the
 * model was trained with.
 */
#include "ngx_http_llm_codec.h"


static ngx_int_t ngx_http_llm_completions_logprobs(ngx_http_llm_ctx_t *ctx,
    json_t *root);
static ngx_int_t ngx_http_llm_completions_choices(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_completions_check_ids(ngx_http_llm_ctx_t *ctx,
    const char *name, json_t *ids);
static ngx_int_t ngx_http_llm_completions_one(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_prompt_t *prompt, json_t *value);
static ngx_int_t ngx_http_llm_completions_ids(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_prompt_t *prompt, json_t *value);
static ngx_int_t ngx_http_llm_completions_text(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_prompt_t *prompt);
static ngx_int_t ngx_http_llm_completions_gap(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_prompt_t *prompt);
static ngx_int_t ngx_http_llm_completions_hooked(ngx_http_llm_ctx_t *ctx);


static const ngx_http_llm_field_t  ngx_http_llm_completions_fields[] = {
    ngx_http_llm_field("best_of", U32, best_of, NGX_HTTP_LLM_GIVEN_BEST_OF),
    ngx_http_llm_field("echo", BOOL, echo, 0),
    ngx_http_llm_field("suffix", STRING, suffix, 0),
    ngx_http_llm_field("logit_bias", BIAS, bias, 0),
    ngx_http_llm_field("return_full_text", BOOL, return_full_text, 0),
    ngx_http_llm_field("details", BOOL, details, 0),
    ngx_http_llm_field("decoder_input_details", BOOL, prefill, 0),
    ngx_http_llm_field("top_n_tokens", U32, top_n_tokens, 0),
    ngx_http_llm_field("add_special_tokens", BOOL, add_special_tokens, 0),
    ngx_http_llm_null_field
};


ngx_int_t
ngx_http_llm_completions_decode(ngx_http_llm_ctx_t *ctx, json_t *root)
{
    ngx_http_llm_params_t  *p;

    p = &ctx->params;

    if (ngx_http_llm_openai_body(ctx, root) != NGX_OK
        || ngx_http_llm_json_fields(ctx, root,
                                    ngx_http_llm_completions_fields, "")
           != NGX_OK
        || ngx_http_llm_completions_logprobs(ctx, root) != NGX_OK
        || ngx_http_llm_completions_choices(ctx) != NGX_OK
        || ngx_http_llm_completions_check(ctx, root, "prompt") != NGX_OK)
    {
        return NGX_ERROR;
    }

    /* what the prompt costs is asked of the engine only when it is shown */

    p->decoder_input_details = (p->prefill || (p->logprobs && p->echo));
    p->return_full_text |= p->echo;

    if (p->logprobs && p->echo && p->suffix.data) {
        return ngx_http_llm_invalid(ctx, "`echo` with `logprobs` is not "
                                    "supported with `suffix`");
    }

    if (p->prefill && p->stream) {
        return ngx_http_llm_invalid(ctx, "`decoder_input_details` == true is "
                                    "not supported when streaming tokens");
    }

    return NGX_OK;
}


/* a number, or a boolean as in chat completions */

static ngx_int_t
ngx_http_llm_completions_logprobs(ngx_http_llm_ctx_t *ctx, json_t *root)
{
    json_t  *value;

    static const ngx_http_llm_field_t  number[] = {
        ngx_http_llm_field("logprobs", U32, top_n_tokens,
                           NGX_HTTP_LLM_GIVEN_TOP_N),
        ngx_http_llm_null_field
    };

    value = ngx_http_llm_json_get(root, "logprobs");

    if (value == NULL || json_is_false(value)) {
        return NGX_OK;
    }

    if (ctx->params.top_n_tokens) {
        return ngx_http_llm_invalid(ctx, "`top_n_tokens` is not supported with "
                                    "`logprobs`");
    }

    ctx->params.logprobs = 1;

    if (json_is_true(value)) {
        ctx->params.top_n_tokens = 1;
        return NGX_OK;
    }

    return ngx_http_llm_json_fields(ctx, root, number, "");
}


/*
 * n choices for each prompt are the best of best_of.  For the rest of the
 * code best_of choices are made, of which the codec keeps some.
 */

static ngx_int_t
ngx_http_llm_completions_choices(ngx_http_llm_ctx_t *ctx)
{
    uint64_t                best_of;
    ngx_int_t               max;
    ngx_http_llm_params_t  *p;

    p = &ctx->params;
    best_of = p->best_of;
    p->best_of = 1;

    if (!(p->given & NGX_HTTP_LLM_GIVEN_BEST_OF) || best_of == 0
        || best_of == p->n)
    {
        return NGX_OK;
    }

    if (best_of < p->n) {
        return ngx_http_llm_invalid(ctx, "`best_of` must be >= `n`. Given: "
                                    "%uL and %uL", best_of, p->n);
    }

    max = ctx->conf->max_client_batch_size;

    if (p->n == 0 || p->n > (uint64_t) max) {
        return ngx_http_llm_invalid(ctx, "`n` must be > 0 and <= %i. "
                                    "Given: %uL", max, p->n);
    }

    max = ctx->conf->max_best_of;

    if (best_of > (uint64_t) max) {
        return ngx_http_llm_invalid(ctx, "`best_of` must be > 0 and <= %i. "
                                    "Given: %uL", max, best_of);
    }

    if (p->stream) {
        return ngx_http_llm_invalid(ctx, "`best_of` > `n` is not supported "
                                    "when streaming tokens");
    }

    p->keep = p->n;
    p->n = best_of;

    return NGX_OK;
}


ngx_int_t
ngx_http_llm_completions_check(ngx_http_llm_ctx_t *ctx, json_t *root,
    const char *name)
{
    size_t        i, n;
    json_t       *prompt, *first, *value;
    json_type     type;

    prompt = json_object_get(root, name);

    if (prompt == NULL) {
        return ngx_http_llm_malformed(ctx, "missing field `%s`", name);
    }

    if (json_is_string(prompt)) {
        ctx->params.inputs = ngx_http_llm_json_str(prompt);
        return NGX_OK;
    }

    if (json_is_null(prompt)) {
        return NGX_OK;
    }

    if (!json_is_array(prompt)) {
        return ngx_http_llm_json_mismatch(ctx, "", name, prompt,
                                          "a string, a sequence of strings, "
                                          "of token ids or of sequences of "
                                          "token ids");
    }

    n = json_array_size(prompt);

    if (n == 0) {
        return ngx_http_llm_invalid(ctx, "Empty array detected. Do not use "
                                    "an empty array for the %s.", name);
    }

    first = json_array_get(prompt, 0);
    type = json_typeof(first);

    if (type != JSON_STRING && type != JSON_ARRAY) {
        return ngx_http_llm_completions_check_ids(ctx, name, prompt);
    }

    if (n > (size_t) ctx->conf->max_client_batch_size) {
        return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_BATCH_SIZE,
                                 "Number of prompts exceeds the maximum "
                                 "allowed batch size of %i",
                                 ctx->conf->max_client_batch_size);
    }

    for (i = 0; i < n; i++) {
        value = json_array_get(prompt, i);

        if (json_typeof(value) != type) {
            return ngx_http_llm_json_mismatch(ctx, "", name, value,
                                              type == JSON_STRING
                                              ? "a string" : "a sequence");
        }

        if (type == JSON_ARRAY
            && ngx_http_llm_completions_check_ids(ctx, name, value) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_completions_check_ids(ngx_http_llm_ctx_t *ctx,
    const char *name, json_t *ids)
{
    size_t     i;
    json_t    *id;
    int64_t    n;
    uint32_t   n_vocab;

    n_vocab = llm_model_info(ctx->instance->model)->n_vocab;

    if (ctx->conf->prompt_hook) {
        return ngx_http_llm_invalid(ctx, "`%s` as token ids is not "
                                    "supported with a prompt hook", name);
    }

    if (ctx->params.suffix.data) {
        return ngx_http_llm_invalid(ctx, "`suffix` is not supported with "
                                    "`prompt` as token ids");
    }

    if (json_array_size(ids) == 0) {
        return ngx_http_llm_invalid(ctx, "Empty array detected. Do not use "
                                    "an empty array for the %s.", name);
    }

    for (i = 0; i < json_array_size(ids); i++) {
        id = json_array_get(ids, i);

        if (ngx_http_llm_json_integer(id, &n) != NGX_OK) {
            return ngx_http_llm_json_mismatch(ctx, "", name, id, "u32");
        }

        if (n < 0 || n >= n_vocab) {
            return ngx_http_llm_invalid(ctx, "`%s` token ids must be >= 0 "
                                        "and < %uD. Given: %L", name, n_vocab,
                                        n);
        }
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_llm_completions_prompt(ngx_http_llm_ctx_t *ctx)
{
    return ngx_http_llm_completions_prompts(ctx, "prompt");
}


ngx_int_t
ngx_http_llm_completions_prompts(ngx_http_llm_ctx_t *ctx, const char *name)
{
    size_t       i;
    json_t      *prompt;
    ngx_uint_t   n, list;

    prompt = json_object_get(ctx->hooked ? ctx->hooked : ctx->json, name);

    list = json_is_array(prompt)
           && !json_is_number(json_array_get(prompt, 0));
    n = list ? json_array_size(prompt) : 1;

    ctx->prompts = ngx_pcalloc(ctx->request->pool,
                               n * sizeof(ngx_http_llm_prompt_t));
    if (ctx->prompts == NULL) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    ctx->n_prompts = n;
    ctx->tok_flags = LLM_TOK_PARSE_SPECIAL;

    if (ctx->params.add_special_tokens) {
        ctx->tok_flags |= LLM_TOK_ADD_SPECIAL;
    }

    if (ctx->hook_prompt.data) {
        return ngx_http_llm_completions_hooked(ctx);
    }

    for (i = 0; i < n; i++) {

        if (ngx_http_llm_completions_one(ctx, &ctx->prompts[i],
                                         list ? json_array_get(prompt, i)
                                              : prompt)
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_completions_one(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_prompt_t *prompt, json_t *value)
{
    if (!json_is_string(value)) {
        return ngx_http_llm_completions_ids(ctx, prompt, value);
    }

    prompt->text = ngx_http_llm_json_str(value);
    prompt->shown = prompt->text;

    if (ctx->params.suffix.data) {
        return ngx_http_llm_completions_gap(ctx, prompt);
    }

    return NGX_OK;
}


/* tokens are used as they are; null stands for the one that begins a text */

static ngx_int_t
ngx_http_llm_completions_ids(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_prompt_t *prompt, json_t *value)
{
    size_t                   i, n, skip;
    int64_t                  id;
    ngx_http_llm_params_t   *p;
    const llm_model_info_t  *info;

    p = &ctx->params;
    info = llm_model_info(ctx->instance->model);
    n = json_is_array(value) ? json_array_size(value) : 1;
    skip = 0;

    if ((p->given & NGX_HTTP_LLM_GIVEN_TRUNCATE) && n > p->truncate) {
        skip = n - p->truncate;
        n = p->truncate;
    }

    prompt->ids = 1;
    prompt->n_tokens = n;
    prompt->tokens = ngx_palloc(ctx->request->pool,
                                (n + 1) * sizeof(int32_t));
    if (prompt->tokens == NULL) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    if (!json_is_array(value)) {
        prompt->tokens[0] = (info->bos_id >= 0) ? info->bos_id : info->eos_id;

        if (prompt->tokens[0] < 0) {
            return ngx_http_llm_invalid(ctx, "`prompt` cannot be null: this "
                                        "model has no token that begins a "
                                        "text");
        }

        prompt->starts = ngx_pcalloc(ctx->request->pool, sizeof(uint32_t));

        return prompt->starts ? NGX_OK : ngx_http_llm_fail_nomem(ctx);
    }

    for (i = 0; i < n; i++) {
        id = 0;     /* checked already */
        (void) ngx_http_llm_json_integer(json_array_get(value, skip + i),
                                         &id);
        prompt->tokens[i] = (int32_t) id;
    }

    /* what is too long is refused soon, and embeddings are of tokens alone */

    if (n > (size_t) ctx->conf->max_total_tokens
        || ctx->route == NGX_HTTP_LLM_EMBEDDINGS)
    {
        prompt->starts = ngx_pcalloc(ctx->request->pool,
                                     n * sizeof(uint32_t));

        return prompt->starts ? NGX_OK : ngx_http_llm_fail_nomem(ctx);
    }

    return ngx_http_llm_completions_text(ctx, prompt);
}


/* the text of tokens, and where in it each of them begins */

static ngx_int_t
ngx_http_llm_completions_text(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_prompt_t *prompt)
{
    size_t               i, len;
    llm_err_t            err;
    llm_code_t           code;
    const char          *piece;
    llm_detok_t         *detok;
    ngx_http_llm_buf_t   text;

    ngx_http_llm_buf_init(&text, ctx->request->pool);

    prompt->starts = ngx_palloc(ctx->request->pool,
                                (prompt->n_tokens + 1) * sizeof(uint32_t));
    if (prompt->starts == NULL) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    code = llm_detok_new(&detok, ctx->instance->model, 0, &err);

    for (i = 0; i <= prompt->n_tokens && code == LLM_OK; i++) {

        prompt->starts[i] = text.len;

        code = (i < prompt->n_tokens)
               ? llm_detok_push(detok, prompt->tokens[i], &piece, &len, &err)
               : llm_detok_flush(detok, &piece, &len, &err);

        if (code == LLM_OK) {
            ngx_http_llm_buf_add(&text, piece, len);
        }
    }

    llm_detok_free(detok);

    if (code != LLM_OK) {
        return ngx_http_llm_fail_engine(ctx, &err);
    }

    if (text.failed) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    prompt->text.data = text.data;
    prompt->text.len = text.len;
    prompt->shown = prompt->text;

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_completions_gap(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_prompt_t *prompt)
{
    ngx_http_llm_buf_t       b;
    const llm_model_info_t  *info;

    info = llm_model_info(ctx->instance->model);

    if (info->fim_pre[0] == '\0') {
        return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_SUFFIX,
                                 "Suffix is not supported and can be "
                                 "achieved by preprocessing the prompt.");
    }

    ngx_http_llm_buf_init(&b, ctx->request->pool);

    ngx_http_llm_buf_add(&b, info->fim_pre, ngx_strlen(info->fim_pre));
    ngx_http_llm_buf_add(&b, prompt->text.data, prompt->text.len);
    ngx_http_llm_buf_add(&b, info->fim_suf, ngx_strlen(info->fim_suf));
    ngx_http_llm_buf_add(&b, ctx->params.suffix.data, ctx->params.suffix.len);
    ngx_http_llm_buf_add(&b, info->fim_mid, ngx_strlen(info->fim_mid));

    if (b.failed) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    prompt->text.data = b.data;
    prompt->text.len = b.len;

    return NGX_OK;
}


/* a hook has written the prompt: there is one, and the client may not see it */

static ngx_int_t
ngx_http_llm_completions_hooked(ngx_http_llm_ctx_t *ctx)
{
    size_t       len;
    ngx_str_t   *text;
    const char  *bos;

    if (ctx->n_prompts > 1) {
        return ngx_http_llm_invalid(ctx, "`prompt` as a sequence is not "
                                    "supported where a hook writes the "
                                    "prompt");
    }

    if (ctx->params.decoder_input_details) {
        return ngx_http_llm_invalid(ctx, "%s is not supported where a hook "
                                    "writes the prompt",
                                    ctx->params.prefill
                                    ? "`decoder_input_details`"
                                    : "`echo` with `logprobs`");
    }

    text = &ctx->prompts[0].text;
    *text = ctx->hook_prompt;
    ctx->prompts[0].shown = ctx->inputs;

    bos = llm_model_info(ctx->instance->model)->bos_token;
    len = ngx_strlen(bos);

    if (len && text->len >= len && ngx_strncmp(text->data, bos, len) == 0) {
        ctx->tok_flags = LLM_TOK_PARSE_SPECIAL;
    }

    return NGX_OK;
}
