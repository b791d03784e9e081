/*
 * ngx_http_llm_batch.c - several requests in one.
 *
 * Each becomes a background subrequest with a context of its own, so that
 * they share the engine's batch; the request itself waits in its step DECODE
 * for all of them.  Subrequests write nothing: their codec leaves the text in
 * the item.
 */
#include "ngx_http_llm_batch.h"


static void ngx_http_llm_batch_cleanup(void *data);
static ngx_int_t ngx_http_llm_batch_start(ngx_http_llm_batch_t *batch);
static void ngx_http_llm_batch_run(ngx_http_request_t *sr);
static ngx_int_t ngx_http_llm_batch_done(ngx_http_request_t *sr, void *data,
    ngx_int_t rc);
static ngx_int_t ngx_http_llm_batch_chat(ngx_http_llm_ctx_t *ctx,
    json_t *root);
static void ngx_http_llm_batch_unit(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_http_llm_unit_t *unit);
static void ngx_http_llm_batch_finish(ngx_http_llm_ctx_t *ctx);


ngx_http_llm_batch_t *
ngx_http_llm_batch_new(ngx_http_llm_ctx_t *ctx, json_t *list,
    const char *what)
{
    size_t                 n;
    ngx_uint_t             i;
    ngx_pool_cleanup_t    *cln;
    ngx_http_llm_batch_t  *batch;

    n = json_array_size(list);

    if (n > (size_t) ctx->conf->max_client_batch_size) {
        (void) ngx_http_llm_fail(ctx, NGX_HTTP_LLM_BATCH_SIZE,
                                 "Number of %s exceeds the maximum "
                                 "allowed batch size of %i", what,
                                 ctx->conf->max_client_batch_size);
        return NULL;
    }

    batch = ngx_pcalloc(ctx->request->pool, sizeof(ngx_http_llm_batch_t)
                        + n * sizeof(ngx_http_llm_batch_item_t));
    cln = ngx_pool_cleanup_add(ctx->request->pool, 0);

    if (batch == NULL || cln == NULL) {
        (void) ngx_http_llm_fail_nomem(ctx);
        return NULL;
    }

    cln->handler = ngx_http_llm_batch_cleanup;
    cln->data = batch;

    batch->ctx = ctx;
    batch->n = n;
    batch->items = (ngx_http_llm_batch_item_t *) &batch[1];

    for (i = 0; i < n; i++) {
        batch->items[i].batch = batch;
    }

    batch->native = ngx_http_llm_tgi_codec;
    batch->native.prefill = NULL;
    batch->native.unit = ngx_http_llm_batch_unit;
    batch->native.finish = ngx_http_llm_batch_finish;

    batch->chat = ngx_http_llm_chat_codec;
    batch->chat.decode = ngx_http_llm_batch_chat;
    batch->chat.unit = ngx_http_llm_batch_unit;
    batch->chat.finish = ngx_http_llm_batch_finish;

    ctx->data = batch;

    return batch;
}


static void
ngx_http_llm_batch_cleanup(void *data)
{
    ngx_http_llm_batch_t *batch = data;

    ngx_uint_t  i;

    for (i = 0; i < batch->n; i++) {
        json_decref(batch->items[i].body);
    }
}


ngx_int_t
ngx_http_llm_batch_step(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_batch_t *(*make)(ngx_http_llm_ctx_t *ctx),
    void (*reply)(ngx_http_llm_ctx_t *ctx, ngx_http_llm_batch_t *batch))
{
    ngx_uint_t                  i;
    ngx_http_llm_batch_t       *batch;
    ngx_http_llm_batch_item_t  *item;

    static ngx_str_t  json = ngx_string("application/json");

    batch = ctx->data;

    if (batch == NULL) {
        batch = make(ctx);

        if (batch == NULL || ngx_http_llm_batch_start(batch) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (batch->n_running) {
        return NGX_AGAIN;
    }

    for (i = 0; i < batch->n; i++) {
        item = &batch->items[i];

        if (item->error.fault != NGX_HTTP_LLM_OK) {
            ctx->error = item->error;
            return NGX_ERROR;
        }

        if (!item->done) {
            return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_INCOMPLETE,
                                     "Incomplete generation");
        }
    }

    reply(ctx, batch);

    ngx_http_llm_output_reply(ctx, NGX_HTTP_OK, &json);

    return NGX_DONE;
}


static ngx_int_t
ngx_http_llm_batch_start(ngx_http_llm_batch_t *batch)
{
    ngx_uint_t                   i;
    ngx_http_request_t          *r, *sr;
    ngx_http_post_subrequest_t  *ps;

    r = batch->ctx->request;

    for (i = 0; i < batch->n; i++) {

        ps = ngx_palloc(r->pool, sizeof(ngx_http_post_subrequest_t));
        if (ps == NULL) {
            return ngx_http_llm_fail_nomem(batch->ctx);
        }

        ps->handler = ngx_http_llm_batch_done;
        ps->data = &batch->items[i];

        if (ngx_http_subrequest(r, &r->uri, NULL, &sr, ps,
                                NGX_HTTP_SUBREQUEST_IN_MEMORY
                                |NGX_HTTP_SUBREQUEST_BACKGROUND
                                |NGX_HTTP_SUBREQUEST_CLONE)
            != NGX_OK)
        {
            return ngx_http_llm_fail_nomem(batch->ctx);
        }

        sr->write_event_handler = ngx_http_llm_batch_run;
        batch->n_running++;
    }

    return NGX_OK;
}


/* the subrequest begins, where others have found their route and body */

static void
ngx_http_llm_batch_run(ngx_http_request_t *sr)
{
    ngx_http_llm_ctx_t         *ctx;
    ngx_http_llm_batch_t       *batch;
    ngx_http_llm_batch_item_t  *item;

    sr->write_event_handler = ngx_http_request_empty_handler;

    item = sr->post_subrequest->data;
    batch = item->batch;

    ctx = ngx_http_llm_create_ctx(sr);
    if (ctx == NULL) {
        ngx_http_finalize_request(sr, NGX_HTTP_INTERNAL_SERVER_ERROR);
        return;
    }

    if (json_is_string(json_object_get(item->body, "inputs"))) {
        ctx->route = NGX_HTTP_LLM_GENERATE;
        ctx->codec = &batch->native;

    } else {
        ctx->route = NGX_HTTP_LLM_CHAT;
        ctx->codec = &batch->chat;
    }

    ctx->data = item;
    ctx->json = json_incref(item->body);
    ctx->big_seed = batch->ctx->big_seed;
    ctx->big_seed_set = batch->ctx->big_seed_set;
    ctx->counted = 1;
    ctx->state = NGX_HTTP_LLM_HOOK;

    ngx_add_timer(&ctx->deadline, ctx->conf->generation_timeout);

    ngx_http_llm_run(ctx);
}


static ngx_int_t
ngx_http_llm_batch_done(ngx_http_request_t *sr, void *data, ngx_int_t rc)
{
    ngx_http_llm_ctx_t         *ctx;
    ngx_http_llm_batch_t       *batch;
    ngx_http_llm_batch_item_t  *item = data;

    batch = item->batch;
    ctx = ngx_http_get_module_ctx(sr, ngx_http_llm_module);

    if (ctx) {
        item->error = ctx->error;
    }

    batch->n_running--;

    if (batch->n_running == 0 && !batch->ctx->done) {
        ngx_post_event(&batch->ctx->resume, &ngx_posted_events);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_batch_chat(ngx_http_llm_ctx_t *ctx, json_t *root)
{
    ngx_int_t  rc;

    rc = ngx_http_llm_chat_codec.decode(ctx, root);

    ctx->params.stream = 0;

    return rc;
}


static void
ngx_http_llm_batch_unit(ngx_http_llm_ctx_t *ctx, ngx_http_llm_sequence_t *s,
    ngx_http_llm_unit_t *unit)
{
    /* the text is in s->out */
}


static void
ngx_http_llm_batch_finish(ngx_http_llm_ctx_t *ctx)
{
    ngx_http_llm_sequence_t    *s;
    ngx_http_llm_batch_item_t  *item;

    item = ctx->data;
    s = ngx_http_llm_tgi_best(ctx);

    item->text.data = s->out.data;
    item->text.len = s->out.len;
    item->done = 1;
}
