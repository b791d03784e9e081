/*
 * ngx_http_llm_kserve.c - KServe's protocol, version 2.
 *
 * What tells about the server and a model, whatever names the client uses,
 * and POST /v2/models/{m}/versions/{v}/infer: texts as lists of bytes, each
 * of which is a native request; outputs have the order of the inputs.
 */
#include "ngx_http_llm_batch.h"


static ngx_http_llm_batch_t *ngx_http_llm_kserve_batch(
    ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_kserve_check(ngx_http_llm_ctx_t *ctx);
static json_t *ngx_http_llm_kserve_text(ngx_http_llm_ctx_t *ctx,
    json_t *input, ngx_uint_t i);
static void ngx_http_llm_kserve_reply(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_batch_t *batch);
static void ngx_http_llm_kserve_bytes(ngx_http_llm_buf_t *b, ngx_str_t *text);


void
ngx_http_llm_kserve_info(ngx_http_llm_ctx_t *ctx)
{
    ngx_http_llm_buf_t  *b;

    b = &ctx->out;

    switch (ctx->route) {

    case NGX_HTTP_LLM_KSERVE:
        ngx_http_llm_buf_lit(b, "{\"name\":\"text-generation-inference\","
                             "\"version\":\"" LLM_VERSION "\",\"extensions\":"
                             "[\"health\",\"models\",\"metrics\"]}");
        return;

    case NGX_HTTP_LLM_KSERVE_MODEL:
        ngx_http_llm_buf_lit(b, "{\"name\":");
        ngx_http_llm_buf_json_str(b, &ctx->arg);
        ngx_http_llm_buf_lit(b, ",\"version\":");
        ngx_http_llm_buf_json_str(b, &ctx->version);
        ngx_http_llm_buf_lit(b, ",\"extensions\":[\"infer\",\"ready\"]}");
        return;

    default: /* NGX_HTTP_LLM_KSERVE_LIVE */
        ngx_http_llm_buf_lit(b, "{\"live\":true}");
        return;
    }
}


ngx_int_t
ngx_http_llm_kserve_infer(ngx_http_llm_ctx_t *ctx)
{
    return ngx_http_llm_batch_step(ctx, ngx_http_llm_kserve_batch,
                                   ngx_http_llm_kserve_reply);
}


static ngx_http_llm_batch_t *
ngx_http_llm_kserve_batch(ngx_http_llm_ctx_t *ctx)
{
    json_t                *inputs, *text, *body, *params;
    ngx_uint_t             i;
    ngx_http_llm_batch_t  *batch;

    if (ngx_http_llm_kserve_check(ctx) != NGX_OK) {
        return NULL;
    }

    inputs = json_object_get(ctx->json, "inputs");

    batch = ngx_http_llm_batch_new(ctx, inputs, "inputs");
    if (batch == NULL) {
        return NULL;
    }

    params = ngx_http_llm_json_get(ctx->json, "parameters");

    for (i = 0; i < batch->n; i++) {
        text = ngx_http_llm_kserve_text(ctx, json_array_get(inputs, i), i);

        if (text == NULL) {
            return NULL;
        }

        body = json_pack("{s:o,s:O*}", "inputs", text, "parameters", params);

        if (body == NULL) {
            (void) ngx_http_llm_fail_nomem(ctx);
            return NULL;
        }

        batch->items[i].body = body;
    }

    return batch;
}


static ngx_int_t
ngx_http_llm_kserve_check(ngx_http_llm_ctx_t *ctx)
{
    size_t   i;
    json_t  *value, *outputs;

    static const struct {
        const char  *name;
        json_type    type;
        const char  *expected;
    } fields[] = {
        { "id", JSON_STRING, "a string" },
        { "inputs", JSON_ARRAY, "a sequence" },
        { "outputs", JSON_ARRAY, "a sequence" }
    };

    for (i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        value = json_object_get(ctx->json, fields[i].name);

        if (value == NULL) {
            return ngx_http_llm_malformed(ctx, "missing field `%s`",
                                          fields[i].name);
        }

        if (json_typeof(value) != fields[i].type) {
            return ngx_http_llm_json_mismatch(ctx, "", fields[i].name, value,
                                              fields[i].expected);
        }
    }

    outputs = json_object_get(ctx->json, "outputs");

    for (i = 0; i < json_array_size(outputs); i++) {

        if (!json_is_string(json_object_get(json_array_get(outputs, i),
                                            "name")))
        {
            return ngx_http_llm_malformed(ctx, "outputs[%uz]: missing field "
                                          "`name`", i);
        }
    }

    if (json_array_size(json_object_get(ctx->json, "inputs"))
        != json_array_size(outputs))
    {
        return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_LENGTH_MISMATCH,
                                 "Inputs and outputs length mismatch");
    }

    return NGX_OK;
}


/* data, a list of bytes, as a string: a new reference, or NULL */

static json_t *
ngx_http_llm_kserve_text(ngx_http_llm_ctx_t *ctx, json_t *input, ngx_uint_t i)
{
    char     *bytes;
    size_t    k, n;
    json_t   *data, *text;
    int64_t   byte;

    data = json_object_get(input, "data");

    if (!json_is_array(data)) {
        (void) ngx_http_llm_malformed(ctx, "inputs[%ui].data: expected a "
                                      "sequence", i);
        return NULL;
    }

    n = json_array_size(data);

    bytes = ngx_pnalloc(ctx->request->pool, n + 1);
    if (bytes == NULL) {
        (void) ngx_http_llm_fail_nomem(ctx);
        return NULL;
    }

    for (k = 0; k < n; k++) {

        if (ngx_http_llm_json_integer(json_array_get(data, k), &byte)
            != NGX_OK
            || byte < 0 || byte > 255)
        {
            (void) ngx_http_llm_malformed(ctx, "inputs[%ui].data[%uz]: "
                                          "expected u8", i, k);
            return NULL;
        }

        bytes[k] = (char) byte;
    }

    text = json_stringn(bytes, n);

    if (text == NULL) {
        (void) ngx_http_llm_fail(ctx, NGX_HTTP_LLM_NOT_UTF8,
                                 "inputs[%ui].data is not valid UTF-8", i);
    }

    return text;
}


static void
ngx_http_llm_kserve_reply(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_batch_t *batch)
{
    json_t                     *outputs;
    ngx_str_t                   s;
    ngx_uint_t                  i;
    ngx_http_llm_buf_t         *b;
    ngx_http_llm_batch_item_t  *item;

    b = &ctx->out;
    outputs = json_object_get(ctx->json, "outputs");
    s = ngx_http_llm_json_str(json_object_get(ctx->json, "id"));

    ngx_http_llm_buf_lit(b, "{\"id\":");
    ngx_http_llm_buf_json_str(b, &s);
    ngx_http_llm_buf_lit(b, ",\"outputs\":[");

    for (i = 0; i < batch->n; i++) {
        item = &batch->items[i];
        s = ngx_http_llm_json_str(json_object_get(json_array_get(outputs, i),
                                                  "name"));

        ngx_http_llm_buf_printf(b, "%s{\"name\":", i ? "," : "");
        ngx_http_llm_buf_json_str(b, &s);
        ngx_http_llm_buf_printf(b, ",\"shape\":[1,%uz],\"datatype\":\"BYTES\","
                                "\"data\":[", item->text.len);

        ngx_http_llm_kserve_bytes(b, &item->text);
        ngx_http_llm_buf_lit(b, "]}");
    }

    ngx_http_llm_buf_lit(b, "]}");
}


/* a text as a list of numbers */

static void
ngx_http_llm_kserve_bytes(ngx_http_llm_buf_t *b, ngx_str_t *text)
{
    u_char  *p, c;
    size_t   i;

    p = ngx_http_llm_buf_reserve(b, text->len * (sizeof("255,") - 1));
    if (p == NULL) {
        return;
    }

    for (i = 0; i < text->len; i++) {
        c = text->data[i];

        if (i) {
            *p++ = ',';
        }

        if (c >= 100) {
            *p++ = '0' + c / 100;
        }

        if (c >= 10) {
            *p++ = '0' + c / 10 % 10;
        }

        *p++ = '0' + c % 10;
    }

    b->len = p - b->data;
}
