/*
 * ngx_http_llm_cloud.c - SageMaker and Vertex AI.
 *
 * POST /invocations: the body decides whether it is a native, a chat or a
 * completion request, which then goes on as one on its own route.
 * POST /vertex: a list of native and chat bodies, answered by their texts.
 */
#include "ngx_http_llm_batch.h"


static ngx_int_t ngx_http_llm_invocations_decode(ngx_http_llm_ctx_t *ctx,
    json_t *root);
static ngx_http_llm_batch_t *ngx_http_llm_vertex_batch(
    ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_vertex_native(ngx_http_llm_ctx_t *ctx,
    json_t *root);
static void ngx_http_llm_vertex_reply(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_batch_t *batch);


const ngx_http_llm_codec_t  ngx_http_llm_invocations_codec = {
    .format = NGX_HTTP_LLM_FORMAT_TGI,
    .decode = ngx_http_llm_invocations_decode
};


/* ctx->codec and ctx->route become those that the body is for */

static ngx_int_t
ngx_http_llm_invocations_decode(ngx_http_llm_ctx_t *ctx, json_t *root)
{
    if (json_is_string(json_object_get(root, "inputs"))) {
        ctx->route = NGX_HTTP_LLM_COMPAT;
        ctx->codec = &ngx_http_llm_tgi_codec;

    } else if (json_is_array(json_object_get(root, "messages"))) {
        ctx->route = NGX_HTTP_LLM_CHAT;
        ctx->codec = &ngx_http_llm_chat_codec;

    } else if (json_object_get(root, "prompt")) {
        ctx->route = NGX_HTTP_LLM_COMPLETIONS;
        ctx->codec = &ngx_http_llm_completions_codec;

    } else {
        return ngx_http_llm_malformed(ctx, "data did not match any variant "
                                      "of untagged enum SagemakerRequest");
    }

    return ctx->codec->decode(ctx, root);
}


ngx_int_t
ngx_http_llm_vertex(ngx_http_llm_ctx_t *ctx)
{
    return ngx_http_llm_batch_step(ctx, ngx_http_llm_vertex_batch,
                                   ngx_http_llm_vertex_reply);
}


static ngx_http_llm_batch_t *
ngx_http_llm_vertex_batch(ngx_http_llm_ctx_t *ctx)
{
    json_t                *list, *body;
    ngx_uint_t             i;
    ngx_http_llm_batch_t  *batch;

    list = json_object_get(ctx->json, "instances");

    if (list == NULL) {
        (void) ngx_http_llm_malformed(ctx, "missing field `instances`");
        return NULL;
    }

    if (!json_is_array(list)) {
        (void) ngx_http_llm_json_mismatch(ctx, "", "instances", list,
                                          "a sequence");
        return NULL;
    }

    if (json_array_size(list) == 0) {
        (void) ngx_http_llm_fail(ctx, NGX_HTTP_LLM_NO_INSTANCES,
                                 "Input validation error");
        return NULL;
    }

    batch = ngx_http_llm_batch_new(ctx, list, "instances");
    if (batch == NULL) {
        return NULL;
    }

    batch->native.decode = ngx_http_llm_vertex_native;

    for (i = 0; i < batch->n; i++) {
        body = json_array_get(list, i);

        if (!json_is_string(json_object_get(body, "inputs"))
            && !json_is_array(json_object_get(body, "messages")))
        {
            (void) ngx_http_llm_malformed(ctx, "instances[%ui]: data did "
                                          "not match any variant of "
                                          "untagged enum VertexInstance", i);
            return NULL;
        }

        batch->items[i].body = json_incref(body);
    }

    return batch;
}


/* unlike elsewhere, it samples with parameters too */

static ngx_int_t
ngx_http_llm_vertex_native(ngx_http_llm_ctx_t *ctx, json_t *root)
{
    ctx->params.do_sample = 1;

    return ngx_http_llm_tgi_codec.decode(ctx, root);
}


static void
ngx_http_llm_vertex_reply(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_batch_t *batch)
{
    ngx_uint_t  i;

    ngx_http_llm_buf_lit(&ctx->out, "{\"predictions\":[");

    for (i = 0; i < batch->n; i++) {

        if (i) {
            ngx_http_llm_buf_lit(&ctx->out, ",");
        }

        ngx_http_llm_buf_json_str(&ctx->out, &batch->items[i].text);
    }

    ngx_http_llm_buf_lit(&ctx->out, "]}");
}
