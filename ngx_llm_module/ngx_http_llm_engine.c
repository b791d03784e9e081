/*
 * ngx_http_llm_engine.c - this worker's side of the engines.
 *
 * Joining starts the engine thread of this worker and gives an eventfd that
 * becomes readable when one of our jobs has made progress; it sits in the
 * event loop as a connection of its own.  nginx tells nobody that a worker
 * begins to quit, but it closes idle connections then: ours is marked idle,
 * so its handler is called with c->close set and hands the leadership over.
 */
#include "ngx_http_llm_request.h"


static void ngx_http_llm_engine_wake(ngx_event_t *rev);
static void ngx_http_llm_engine_empty(ngx_event_t *wev);
static void ngx_http_llm_engine_queue_timeout(ngx_event_t *ev);


ngx_int_t
ngx_http_llm_engine_join(ngx_http_llm_instance_t *instance, ngx_log_t *log)
{
    int                fd;
    ngx_int_t          event;
    llm_err_t          err;
    ngx_connection_t  *c;

    if (instance->wake) {
        return NGX_OK;
    }

    if (llm_engine_join(instance->engine, &fd, &err) != LLM_OK) {
        ngx_log_error(NGX_LOG_ERR, log, 0,
                      "llm engine of \"%V\" cannot be joined: %s",
                      &instance->path, err.msg);
        return NGX_ERROR;
    }

    c = ngx_get_connection(fd, log);
    if (c == NULL) {
        llm_engine_leave(instance->engine);
        return NGX_ERROR;
    }

    c->data = instance;
    c->log = ngx_cycle->log;
    c->idle = 1;
    c->read->log = c->log;
    c->write->log = c->log;
    c->read->handler = ngx_http_llm_engine_wake;
    c->write->handler = ngx_http_llm_engine_empty;

    event = (ngx_event_flags & NGX_USE_CLEAR_EVENT) ? NGX_CLEAR_EVENT
                                                    : NGX_LEVEL_EVENT;

    if (ngx_add_event(c->read, NGX_READ_EVENT, event) != NGX_OK) {
        ngx_free_connection(c);
        c->fd = (ngx_socket_t) -1;
        llm_engine_leave(instance->engine);
        return NGX_ERROR;
    }

    ngx_queue_init(&instance->requests);
    instance->wake = c;

    return NGX_OK;
}


void
ngx_http_llm_engine_leave(ngx_http_llm_instance_t *instance)
{
    ngx_connection_t  *c;

    c = instance->wake;

    if (c == NULL) {
        return;
    }

    instance->wake = NULL;

    /* the descriptor belongs to the engine, so it is not closed here */

    if (c->read->active) {
        (void) ngx_del_event(c->read, NGX_READ_EVENT, 0);
    }

    c->idle = 0;
    ngx_free_connection(c);
    c->fd = (ngx_socket_t) -1;

    llm_engine_leave(instance->engine);
}


static void
ngx_http_llm_engine_wake(ngx_event_t *rev)
{
    ssize_t                   n;
    uint64_t                  counter;
    ngx_queue_t               queue, *q;
    ngx_connection_t         *c;
    ngx_http_llm_instance_t  *instance;

    c = rev->data;
    instance = c->data;

    if (c->close || ngx_exiting) {
        c->close = 0;
        c->idle = 0;
        llm_engine_drain(instance->engine);
    }

    do {
        n = read(c->fd, &counter, sizeof(uint64_t));
    } while (n == -1 && ngx_errno == NGX_EINTR);

    rev->ready = 0;

    if (ngx_queue_empty(&instance->requests)) {
        return;
    }

    /*
     * Going on with one request may end another one (a subrequest of a hook
     * and its parent), so the list is emptied from its head.
     */

    ngx_queue_init(&queue);
    ngx_queue_add(&queue, &instance->requests);
    ngx_queue_init(&instance->requests);

    while (!ngx_queue_empty(&queue)) {
        q = ngx_queue_head(&queue);
        ngx_queue_remove(q);
        ngx_queue_insert_tail(&instance->requests, q);

        ngx_http_llm_wake(ngx_queue_data(q, ngx_http_llm_ctx_t, queue));
    }
}


static void
ngx_http_llm_engine_empty(ngx_event_t *wev)
{
    ngx_log_debug0(NGX_LOG_DEBUG_EVENT, wev->log, 0, "llm wake: write event");
}


ngx_int_t
ngx_http_llm_engine_submit(ngx_http_llm_ctx_t *ctx)
{
    llm_err_t                 err;
    ngx_uint_t                i, n;
    llm_job_conf_t            conf;
    ngx_http_llm_params_t    *p;
    ngx_http_llm_sequence_t  *s;

    p = &ctx->params;

    ngx_memzero(&conf, sizeof(llm_job_conf_t));

    conf.prompt_logprobs = p->decoder_input_details;
    conf.n_top = p->top_n_tokens;
    conf.constraint = ctx->constraint;
    conf.top_raw = p->logprobs;

    if (ctx->route == NGX_HTTP_LLM_EMBEDDINGS) {
        conf.embed = ctx->conf->pooling;
    }

    ctx->sequences = ngx_pcalloc(ctx->request->pool, ctx->n_sequences
                                 * sizeof(ngx_http_llm_sequence_t));
    if (ctx->sequences == NULL) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    ctx->queued_ns = ngx_http_llm_now();
    n = ctx->n_sequences / ctx->n_prompts;

    for (i = 0; i < ctx->n_sequences; i++) {
        s = &ctx->sequences[i];
        s->ctx = ctx;
        s->index = i;
        s->prompt = &ctx->prompts[i / n];

        if (ngx_http_llm_text_open(ctx, s) != NGX_OK) {
            return NGX_ERROR;
        }

        ngx_http_llm_params_sampling(ctx, i % n, &conf.sampling);
        conf.tokens = s->prompt->tokens;
        conf.n_tokens = s->prompt->n_tokens;
        conf.max_new = s->prompt->max_new;
        s->seed = conf.sampling.seed;

        if (llm_job_submit(ctx->instance->engine, &conf, &s->job, &err)
            != LLM_OK)
        {
            return ngx_http_llm_fail_engine(ctx, &err);
        }

        s->open = 1;
        s->view.n_prompt = conf.n_tokens;
    }

    ngx_queue_insert_tail(&ctx->instance->requests, &ctx->queue);
    ctx->live = 1;

    if (ctx->conf->queue_timeout) {
        ctx->queue_timer.handler = ngx_http_llm_engine_queue_timeout;
        ctx->queue_timer.data = ctx;
        ctx->queue_timer.log = ctx->request->connection->log;
        ctx->queue_timer.cancelable = 1;

        ngx_add_timer(&ctx->queue_timer, ctx->conf->queue_timeout);
    }

    return NGX_OK;
}


static void
ngx_http_llm_engine_queue_timeout(ngx_event_t *ev)
{
    ngx_uint_t                i;
    llm_job_view_t            view;
    ngx_connection_t         *c;
    ngx_http_llm_ctx_t       *ctx;

    ctx = ev->data;
    c = ctx->request->connection;

    for (i = 0; i < ctx->n_sequences; i++) {

        if (!ctx->sequences[i].open) {
            return;
        }

        llm_job_poll(&ctx->sequences[i].job, &view);

        if (view.started_ns) {
            return;
        }
    }

    (void) ngx_http_llm_fail(ctx, NGX_HTTP_LLM_OVERLOADED,
                             "Model is overloaded");

    ngx_http_llm_output_error(ctx);
    ngx_http_run_posted_requests(c);
}
