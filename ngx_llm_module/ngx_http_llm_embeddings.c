/*
 * ngx_http_llm_embeddings.c - OpenAI's embeddings.
 *
 * POST /v1/embeddings: the inputs have the forms of the prompts of a
 * completion; each is a job that generates nothing and leaves the pooled
 * hidden states of its tokens.  They are brought to length 1 here and written
 * as numbers, or as the base64 of little-endian floats.
 */
#include "ngx_http_llm_codec.h"

#include <math.h>


static ngx_int_t ngx_http_llm_embeddings_decode(ngx_http_llm_ctx_t *ctx,
    json_t *root);
static ngx_int_t ngx_http_llm_embeddings_inputs(ngx_http_llm_ctx_t *ctx,
    json_t *root);
static ngx_int_t ngx_http_llm_embeddings_prompt(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_embeddings_prefill(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s);
static void ngx_http_llm_embeddings_numbers(ngx_http_llm_buf_t *b,
    const float *values, uint32_t n);
static ngx_int_t ngx_http_llm_embeddings_base64(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_buf_t *b, const float *values, uint32_t n);
static void ngx_http_llm_embeddings_unit(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_http_llm_unit_t *unit);
static void ngx_http_llm_embeddings_finish(ngx_http_llm_ctx_t *ctx);


static const ngx_http_llm_field_t  ngx_http_llm_embeddings_fields[] = {
    ngx_http_llm_field("model", STRING, model, 0),
    ngx_http_llm_field("encoding_format", STRING, encoding, 0),
    ngx_http_llm_field("dimensions", U32, dimensions, 0),
    ngx_http_llm_field("truncate_prompt_tokens", U64, truncate,
                       NGX_HTTP_LLM_GIVEN_TRUNCATE),
    ngx_http_llm_field("add_special_tokens", BOOL, add_special_tokens, 0),
    ngx_http_llm_null_field
};


const ngx_http_llm_codec_t  ngx_http_llm_embeddings_codec = {
    NGX_HTTP_LLM_FORMAT_OPENAI,
    0,                              /* length_first */
    0,                              /* keep_stop */
    ngx_http_llm_embeddings_decode,
    ngx_http_llm_embeddings_prompt,
    ngx_http_llm_embeddings_prefill,
    ngx_http_llm_embeddings_unit,
    ngx_http_llm_embeddings_finish,
    NULL                            /* event_number */
};


static ngx_int_t
ngx_http_llm_embeddings_decode(ngx_http_llm_ctx_t *ctx, json_t *root)
{
    uint32_t                n_embd;
    ngx_http_llm_params_t  *p;

    p = &ctx->params;
    n_embd = llm_model_info(ctx->instance->model)->n_embd;
    p->dimensions = n_embd;

    if (ngx_http_llm_json_fields(ctx, root, ngx_http_llm_embeddings_fields,
                                 "")
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (p->dimensions != n_embd) {
        return ngx_http_llm_invalid(ctx, "`dimensions` must be %uD for this "
                                    "model. Given: %uL", n_embd,
                                    p->dimensions);
    }

    if (p->encoding.len
        && !(p->encoding.len == 5
             && ngx_strncmp(p->encoding.data, "float", 5) == 0)
        && !(p->encoding.len == 6
             && ngx_strncmp(p->encoding.data, "base64", 6) == 0))
    {
        return ngx_http_llm_invalid(ctx, "`encoding_format` must be `float` "
                                    "or `base64`");
    }

    /* a job without new tokens, as the one that scores a prompt */

    p->given |= NGX_HTTP_LLM_GIVEN_MAX_NEW;
    p->max_new_tokens = 0;
    p->echo = 1;

    return ngx_http_llm_embeddings_inputs(ctx, root);
}


static ngx_int_t
ngx_http_llm_embeddings_inputs(ngx_http_llm_ctx_t *ctx, json_t *root)
{
    size_t   i, n;
    json_t  *input, *value;

    if (ngx_http_llm_completions_check(ctx, root, "input") != NGX_OK) {
        return NGX_ERROR;
    }

    input = json_object_get(root, "input");

    if (json_is_null(input)) {
        return ngx_http_llm_json_mismatch(ctx, "", "input", input,
                                          "a string or a sequence");
    }

    n = json_is_array(input) ? json_array_size(input) : 1;

    for (i = 0; i < n; i++) {
        value = json_is_array(input) ? json_array_get(input, i) : input;

        if (json_is_string(value) && json_string_length(value) == 0) {
            return ngx_http_llm_invalid(ctx, "`input` cannot be an empty "
                                        "string");
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_embeddings_prompt(ngx_http_llm_ctx_t *ctx)
{
    return ngx_http_llm_completions_prompts(ctx, "input");
}


static ngx_int_t
ngx_http_llm_embeddings_prefill(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s)
{
    float         norm, *scaled;
    double        sum;
    uint32_t      i, n;
    const float  *values;

    values = llm_job_embedding(&s->job, &n);

    if (values == NULL) {
        return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_GENERATION,
                                 "Request failed during generation: the "
                                 "engine has left no embedding");
    }

    scaled = ngx_palloc(ctx->request->pool, n * sizeof(float));
    if (scaled == NULL) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    sum = 0;

    for (i = 0; i < n; i++) {
        sum += (double) values[i] * values[i];
    }

    if (!isfinite(sum)) {
        return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_GENERATION,
                                 "Request failed during generation: the "
                                 "embedding is not finite");
    }

    norm = (sum > 0) ? (float) sqrt(sum) : 1;

    for (i = 0; i < n; i++) {
        scaled[i] = values[i] / norm;
    }

    if (ctx->params.encoding.len == sizeof("base64") - 1) {
        return ngx_http_llm_embeddings_base64(ctx, &s->json, scaled, n);
    }

    ngx_http_llm_embeddings_numbers(&s->json, scaled, n);

    return NGX_OK;
}


/*
 * Eleven decimals, which is closer than a float of this size is exact and
 * takes a tenth of the time of its shortest form.
 */

static void
ngx_http_llm_embeddings_numbers(ngx_http_llm_buf_t *b, const float *values,
    uint32_t n)
{
    u_char    *p, *start;
    uint32_t   i;
    uint64_t   fixed;

    start = ngx_http_llm_buf_reserve(b, (size_t) n
                                        * (sizeof("-1.00000000000,") - 1)
                                        + 2);
    if (start == NULL) {
        return;
    }

    p = start;
    *p++ = '[';

    for (i = 0; i < n; i++) {

        if (i) {
            *p++ = ',';
        }

        if (values[i] < 0) {
            *p++ = '-';
        }

        fixed = (uint64_t) (fabs((double) values[i]) * 1e11 + 0.5);

        p = ngx_sprintf(p, "%uL.%011uL", fixed / 100000000000,
                        fixed % 100000000000);
    }

    *p++ = ']';
    b->len += p - start;
}


static ngx_int_t
ngx_http_llm_embeddings_base64(ngx_http_llm_ctx_t *ctx, ngx_http_llm_buf_t *b,
    const float *values, uint32_t n)
{
    u_char     *p;
    uint32_t    i, bits;
    ngx_str_t   bytes, text;

    bytes.len = n * sizeof(uint32_t);
    bytes.data = ngx_pnalloc(ctx->request->pool, bytes.len);
    text.data = ngx_http_llm_buf_reserve(b, ngx_base64_encoded_length(bytes.len)
                                            + 2);

    if (bytes.data == NULL || text.data == NULL) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    p = bytes.data;

    for (i = 0; i < n; i++) {
        ngx_memcpy(&bits, &values[i], sizeof(uint32_t));

        *p++ = (u_char) bits;
        *p++ = (u_char) (bits >> 8);
        *p++ = (u_char) (bits >> 16);
        *p++ = (u_char) (bits >> 24);
    }

    *text.data++ = '"';
    ngx_encode_base64(&text, &bytes);
    text.data[text.len] = '"';

    b->len += text.len + 2;

    return NGX_OK;
}


static void
ngx_http_llm_embeddings_unit(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_http_llm_unit_t *unit)
{
    /* there is no text */
}


static void
ngx_http_llm_embeddings_finish(ngx_http_llm_ctx_t *ctx)
{
    ngx_str_t                *model;
    ngx_uint_t                i;
    ngx_http_llm_buf_t       *b;
    ngx_http_llm_sequence_t  *s;

    b = &ctx->out;
    model = ctx->params.model.len ? &ctx->params.model
                                  : ngx_http_llm_model_id(ctx);

    ngx_http_llm_buf_lit(b, "{\"object\":\"list\",\"data\":[");

    for (i = 0; i < ctx->n_sequences; i++) {
        s = &ctx->sequences[i];

        ngx_http_llm_buf_printf(b, "%s{\"object\":\"embedding\",\"index\":%ui,"
                                "\"embedding\":", i ? "," : "", i);
        ngx_http_llm_buf_add(b, s->json.data, s->json.len);
        ngx_http_llm_buf_lit(b, "}");
    }

    ngx_http_llm_buf_lit(b, "],\"model\":");
    ngx_http_llm_buf_json_str(b, model);
    ngx_http_llm_buf_printf(b, ",\"usage\":{\"prompt_tokens\":%uD,"
                            "\"total_tokens\":%uD}}",
                            ctx->n_tokens, ctx->n_tokens);
}
