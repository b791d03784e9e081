/*
 * ngx_http_llm_cloud.c - the envelopes of cloud platforms.
 *
 * POST /invocations (SageMaker): the body decides whether it is a native, a
 * chat or a completion request, which then goes on as one on its own route.
 *
 * POST /vertex (Vertex AI): a list of native and chat bodies.  Each becomes a
 * background subrequest with a context of its own, so that they share the
 * batch; the request itself waits in its step DECODE for all of them and
 * answers with their texts.  Subrequests write nothing: their codec leaves
 * the text in the record of the instance.
 */
#include "ngx_http_llm_request.h"


typedef struct ngx_http_llm_vertex_s  ngx_http_llm_vertex_t;


typedef struct {
    ngx_http_llm_vertex_t       *vertex;
    json_t                      *body;      /* borrowed from the request's */
    ngx_str_t                    text;
    unsigned                     done:1;    /* text is there */
} ngx_http_llm_instance_body_t;


struct ngx_http_llm_vertex_s {
    ngx_http_llm_ctx_t            *ctx;     /* of the request */
    ngx_http_llm_instance_body_t  *instances;
    ngx_uint_t                     n;
    ngx_uint_t                     n_running;
    ngx_http_llm_codec_t           native;
    ngx_http_llm_codec_t           chat;
    ngx_http_llm_error_t           error;   /* message set: a wrong type */
};


static ngx_int_t ngx_http_llm_invocations_decode(ngx_http_llm_ctx_t *ctx,
    json_t *root);
static ngx_http_llm_vertex_t *ngx_http_llm_vertex_new(
    ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_vertex_start(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_instance_body_t *instance);
static void ngx_http_llm_vertex_run(ngx_http_request_t *sr);
static ngx_int_t ngx_http_llm_vertex_done(ngx_http_request_t *sr, void *data,
    ngx_int_t rc);
static ngx_int_t ngx_http_llm_vertex_native(ngx_http_llm_ctx_t *ctx,
    json_t *root);
static ngx_int_t ngx_http_llm_vertex_chat(ngx_http_llm_ctx_t *ctx,
    json_t *root);
static void ngx_http_llm_vertex_unit(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_http_llm_unit_t *unit);
static void ngx_http_llm_vertex_finish(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_vertex_reply(ngx_http_llm_ctx_t *ctx);




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
        return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_VALIDATION,
                                 NGX_HTTP_LLM_DESERIALIZE
                                 "data did not match any variant of untagged "
                                 "enum SagemakerRequest");
    }

    return ctx->codec->decode(ctx, root);
}


ngx_int_t
ngx_http_llm_vertex(ngx_http_llm_ctx_t *ctx)
{
    ngx_uint_t              i;
    ngx_http_llm_vertex_t  *vertex;

    vertex = ctx->data;

    if (vertex == NULL) {
        vertex = ngx_http_llm_vertex_new(ctx);

        if (vertex == NULL) {
            return NGX_ERROR;
        }

        for (i = 0; i < vertex->n; i++) {

            if (ngx_http_llm_vertex_start(ctx, &vertex->instances[i])
                != NGX_OK)
            {
                return ngx_http_llm_fail_nomem(ctx);
            }
        }
    }

    return vertex->n_running ? NGX_AGAIN : ngx_http_llm_vertex_reply(ctx);
}


static ngx_http_llm_vertex_t *
ngx_http_llm_vertex_new(ngx_http_llm_ctx_t *ctx)
{
    size_t                          n;
    json_t                         *list, *body;
    ngx_uint_t                      i;
    ngx_http_llm_vertex_t          *vertex;
    ngx_http_llm_instance_body_t   *instance;

    list = json_object_get(ctx->json, "instances");

    if (!json_is_array(list)) {

        if (list == NULL) {
            (void) ngx_http_llm_fail(ctx, NGX_HTTP_LLM_VALIDATION,
                                     NGX_HTTP_LLM_DESERIALIZE
                                     "missing field `instances`");
        } else {
            (void) ngx_http_llm_json_mismatch(ctx, "", "instances", list,
                                              "a sequence");
        }

        return NULL;
    }

    n = json_array_size(list);

    if (n == 0) {
        (void) ngx_http_llm_fail(ctx, NGX_HTTP_LLM_NO_INSTANCES,
                                 "Input validation error");
        return NULL;
    }

    if (n > (size_t) ctx->conf->max_client_batch_size) {
        (void) ngx_http_llm_fail(ctx, NGX_HTTP_LLM_BATCH_SIZE,
                                 "Number of instances exceeds the maximum "
                                 "allowed batch size of %i",
                                 ctx->conf->max_client_batch_size);
        return NULL;
    }

    vertex = ngx_pcalloc(ctx->request->pool, sizeof(ngx_http_llm_vertex_t)
                         + n * sizeof(ngx_http_llm_instance_body_t));
    if (vertex == NULL) {
        (void) ngx_http_llm_fail_nomem(ctx);
        return NULL;
    }

    vertex->ctx = ctx;
    vertex->n = n;
    vertex->instances = (ngx_http_llm_instance_body_t *) &vertex[1];

    vertex->native = ngx_http_llm_tgi_codec;
    vertex->native.decode = ngx_http_llm_vertex_native;
    vertex->native.prefill = NULL;
    vertex->native.unit = ngx_http_llm_vertex_unit;
    vertex->native.finish = ngx_http_llm_vertex_finish;

    vertex->chat = ngx_http_llm_chat_codec;
    vertex->chat.format = NGX_HTTP_LLM_FORMAT_OPENAI;
    vertex->chat.decode = ngx_http_llm_vertex_chat;
    vertex->chat.unit = ngx_http_llm_vertex_unit;
    vertex->chat.finish = ngx_http_llm_vertex_finish;

    for (i = 0; i < n; i++) {
        body = json_array_get(list, i);
        instance = &vertex->instances[i];

        if (!json_is_string(json_object_get(body, "inputs"))
            && !json_is_array(json_object_get(body, "messages")))
        {
            (void) ngx_http_llm_fail(ctx, NGX_HTTP_LLM_VALIDATION,
                                     NGX_HTTP_LLM_DESERIALIZE
                                     "instances[%ui]: data did not match any "
                                     "variant of untagged enum "
                                     "VertexInstance", i);
            return NULL;
        }

        instance->vertex = vertex;
        instance->body = body;
    }

    ctx->data = vertex;

    return vertex;
}


static ngx_int_t
ngx_http_llm_vertex_start(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_instance_body_t *instance)
{
    ngx_http_request_t          *r, *sr;
    ngx_http_post_subrequest_t  *ps;

    r = ctx->request;

    ps = ngx_palloc(r->pool, sizeof(ngx_http_post_subrequest_t));
    if (ps == NULL) {
        return NGX_ERROR;
    }

    ps->handler = ngx_http_llm_vertex_done;
    ps->data = instance;

    if (ngx_http_subrequest(r, &r->uri, NULL, &sr, ps,
                            NGX_HTTP_SUBREQUEST_IN_MEMORY
                            |NGX_HTTP_SUBREQUEST_BACKGROUND
                            |NGX_HTTP_SUBREQUEST_CLONE)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    sr->write_event_handler = ngx_http_llm_vertex_run;
    instance->vertex->n_running++;

    return NGX_OK;
}


/* the subrequest begins, where others have found their route and body */

static void
ngx_http_llm_vertex_run(ngx_http_request_t *sr)
{
    ngx_http_llm_ctx_t            *ctx;
    ngx_http_llm_vertex_t         *vertex;
    ngx_http_llm_instance_body_t  *instance;

    sr->write_event_handler = ngx_http_request_empty_handler;

    instance = sr->post_subrequest->data;
    vertex = instance->vertex;

    ctx = ngx_http_llm_create_ctx(sr);
    if (ctx == NULL) {
        ngx_http_finalize_request(sr, NGX_HTTP_INTERNAL_SERVER_ERROR);
        return;
    }

    if (json_is_string(json_object_get(instance->body, "inputs"))) {
        ctx->route = NGX_HTTP_LLM_GENERATE;
        ctx->codec = &vertex->native;

    } else {
        ctx->route = NGX_HTTP_LLM_CHAT;
        ctx->codec = &vertex->chat;
    }

    ctx->data = instance;
    ctx->json = json_incref(instance->body);
    ctx->big_seed = vertex->ctx->big_seed;
    ctx->big_seed_set = vertex->ctx->big_seed_set;
    ctx->counted = 1;
    ctx->state = NGX_HTTP_LLM_HOOK;

    ngx_add_timer(&ctx->deadline, ctx->conf->generation_timeout);

    ngx_http_llm_run(ctx);
}


static ngx_int_t
ngx_http_llm_vertex_done(ngx_http_request_t *sr, void *data, ngx_int_t rc)
{
    ngx_http_llm_ctx_t            *ctx;
    ngx_http_llm_vertex_t         *vertex;
    ngx_http_llm_instance_body_t  *instance = data;

    vertex = instance->vertex;
    ctx = ngx_http_get_module_ctx(sr, ngx_http_llm_module);

    /* what does not have the right shape is the client's to know */

    if (ctx && vertex->error.message.len == 0
        && ctx->error.fault == NGX_HTTP_LLM_VALIDATION
        && ctx->error.message.len > sizeof(NGX_HTTP_LLM_DESERIALIZE) - 1
        && ngx_strncmp(ctx->error.message.data, NGX_HTTP_LLM_DESERIALIZE,
                       sizeof(NGX_HTTP_LLM_DESERIALIZE) - 1) == 0)
    {
        vertex->error = ctx->error;
    }

    vertex->n_running--;

    if (vertex->n_running == 0 && !vertex->ctx->done) {
        ngx_post_event(&vertex->ctx->resume, &ngx_posted_events);
    }

    return NGX_OK;
}


/* unlike elsewhere, it samples with parameters too */

static ngx_int_t
ngx_http_llm_vertex_native(ngx_http_llm_ctx_t *ctx, json_t *root)
{
    ctx->params.do_sample = 1;

    return ngx_http_llm_tgi_codec.decode(ctx, root);
}


static ngx_int_t
ngx_http_llm_vertex_chat(ngx_http_llm_ctx_t *ctx, json_t *root)
{
    ngx_int_t  rc;

    rc = ngx_http_llm_chat_codec.decode(ctx, root);

    ctx->params.stream = 0;

    return rc;
}


static void
ngx_http_llm_vertex_unit(ngx_http_llm_ctx_t *ctx, ngx_http_llm_sequence_t *s,
    ngx_http_llm_unit_t *unit)
{
    /* the text is in s->out */
}


static void
ngx_http_llm_vertex_finish(ngx_http_llm_ctx_t *ctx)
{
    ngx_http_llm_sequence_t       *s;
    ngx_http_llm_instance_body_t  *instance;

    instance = ctx->data;
    s = ngx_http_llm_tgi_best(ctx);

    instance->text.data = s->out.data;
    instance->text.len = s->out.len;
    instance->done = 1;
}


static ngx_int_t
ngx_http_llm_vertex_reply(ngx_http_llm_ctx_t *ctx)
{
    ngx_uint_t                     i;
    ngx_http_llm_vertex_t         *vertex;
    ngx_http_llm_instance_body_t  *instance;

    static ngx_str_t  json = ngx_string("application/json");

    vertex = ctx->data;

    if (vertex->error.message.len) {
        ctx->error = vertex->error;
        return NGX_ERROR;
    }

    ngx_http_llm_buf_lit(&ctx->out, "{\"predictions\":[");

    for (i = 0; i < vertex->n; i++) {
        instance = &vertex->instances[i];

        if (!instance->done) {
            return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_FAILED_INSTANCE,
                                     "Incomplete generation");
        }

        if (i) {
            ngx_http_llm_buf_lit(&ctx->out, ",");
        }

        ngx_http_llm_buf_json_str(&ctx->out, &instance->text);
    }

    ngx_http_llm_buf_lit(&ctx->out, "]}");

    ngx_http_llm_output_reply(ctx, NGX_HTTP_OK, &json);

    return NGX_DONE;
}
