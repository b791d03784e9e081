/*
 * ngx_http_llm_request.c - the life of one request.
 *
 * The handler finds the route and reads the body; then ngx_http_llm_run()
 * takes the request through its states:
 *
 *   PARSE       the body to JSON                       (long: in a thread)
 *   HOOK        the prompt hook                        (may wait)
 *   DECODE      fields, template, checks
 *   TOKENS      the prompt to tokens, length checks    (long: in a thread)
 *   CONSTRAIN   the grammar of the output              (in a thread)
 *   SUBMIT      jobs to the engine
 *   GENERATING  tokens to the client                   (wake-ups, hook)
 *
 * A step returns NGX_OK to go on, NGX_AGAIN to wait, NGX_ERROR with
 * ctx->error set, NGX_ABORT to drop the connection, NGX_DONE when it has
 * finalized the request itself.  Whoever wakes a request calls
 * ngx_http_llm_run() again.  The deadline timer is set for the whole time:
 * without a timer that is not cancelable a quitting worker would not wait
 * for the request.
 */
#include "ngx_http_llm_request.h"


#define NGX_HTTP_LLM_SLICE      256     /* tokens before others get a turn */
#define NGX_HTTP_LLM_BURST    16384     /* bytes before the client gets them */


typedef ngx_int_t (*ngx_http_llm_step_pt)(ngx_http_llm_ctx_t *ctx);


static void ngx_http_llm_cleanup(void *data);
static void ngx_http_llm_body(ngx_http_request_t *r);
static void ngx_http_llm_watch(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_parse(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_prompt_hook(ngx_http_llm_ctx_t *ctx);
static void ngx_http_llm_prompt_hook_done(ngx_http_request_t *r, void *data,
    ngx_int_t rc);
static ngx_int_t ngx_http_llm_decode(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_submit(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_generate(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_advance(ngx_http_llm_ctx_t *ctx,
    ngx_uint_t *n_done);
static void ngx_http_llm_collect(ngx_http_llm_ctx_t *ctx);
static void ngx_http_llm_resume(ngx_event_t *ev);
static void ngx_http_llm_deadline(ngx_event_t *ev);


static const ngx_http_llm_step_pt  ngx_http_llm_steps[] = {
    ngx_http_llm_parse,
    ngx_http_llm_prompt_hook,
    ngx_http_llm_decode,
    ngx_http_llm_prompt_tokens,
    ngx_http_llm_grammar_compile,
    ngx_http_llm_submit,
    ngx_http_llm_generate
};


uint64_t
ngx_http_llm_now(void)
{
    struct timespec  ts;

    (void) clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000000000 + ts.tv_nsec;
}


ngx_str_t *
ngx_http_llm_model_id(ngx_http_llm_ctx_t *ctx)
{
    return ctx->conf->model_id.len ? &ctx->conf->model_id : &ctx->model->name;
}


ngx_int_t
ngx_http_llm_handler(ngx_http_request_t *r)
{
    ngx_int_t            rc;
    ngx_http_llm_ctx_t  *ctx;

    ctx = ngx_http_llm_create_ctx(r);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    rc = ngx_http_llm_route(ctx);

    if (rc == NGX_OK
        && ngx_http_llm_engine_join(ctx->instance, r->connection->log)
           != NGX_OK)
    {
        rc = ngx_http_llm_fail(ctx, NGX_HTTP_LLM_UNHEALTHY, "unhealthy");
    }

    if (rc == NGX_OK && r->method == NGX_HTTP_POST) {
        rc = ngx_http_llm_key_check(ctx);

        if (rc == NGX_OK) {
            rc = ngx_http_llm_body_type(ctx);
        }

        if (rc == NGX_OK) {
            rc = ngx_http_read_client_request_body(r, ngx_http_llm_body);

            return (rc >= NGX_HTTP_SPECIAL_RESPONSE) ? rc : NGX_DONE;
        }
    }

    /* an answer that needs no body */

    if (ngx_http_discard_request_body(r) != NGX_OK) {
        r->keepalive = 0;
    }

    r->main->count++;

    if (rc != NGX_OK) {
        ngx_http_llm_output_error(ctx);

    } else {
        ngx_http_llm_info(ctx);
    }

    return NGX_DONE;
}


ngx_http_llm_ctx_t *
ngx_http_llm_create_ctx(ngx_http_request_t *r)
{
    ngx_http_cleanup_t         *cln;
    ngx_http_llm_ctx_t         *ctx;
    ngx_http_variable_value_t  *id;
    ngx_http_llm_main_conf_t   *lmcf;

    ctx = ngx_pcalloc(r->pool, sizeof(ngx_http_llm_ctx_t));
    if (ctx == NULL) {
        return NULL;
    }

    cln = ngx_http_cleanup_add(r, 0);
    if (cln == NULL) {
        return NULL;
    }

    ctx->request = r;
    ctx->conf = ngx_http_get_module_loc_conf(r, ngx_http_llm_module);
    ctx->model = ctx->conf->model;
    ctx->instance = ctx->model->instance;
    ctx->start_ns = ngx_http_llm_now();

    ngx_http_llm_params_init(&ctx->params);
    ngx_http_llm_buf_init(&ctx->out, r->pool);

    ctx->deadline.handler = ngx_http_llm_deadline;
    ctx->deadline.data = ctx;
    ctx->deadline.log = r->connection->log;

    ctx->keepalive.handler = ngx_http_llm_output_keepalive;
    ctx->keepalive.data = ctx;
    ctx->keepalive.log = r->connection->log;
    ctx->keepalive.cancelable = 1;

    ctx->resume.handler = ngx_http_llm_resume;
    ctx->resume.data = ctx;
    ctx->resume.log = r->connection->log;

    lmcf = ngx_http_get_module_main_conf(r, ngx_http_llm_module);

    if (r == r->main) {
        id = ngx_http_get_indexed_variable(r, lmcf->request_id);

        if (id && !id->not_found && id->valid) {
            ctx->request_id.len = id->len;
            ctx->request_id.data = id->data;
        }
    }

    cln->handler = ngx_http_llm_cleanup;
    cln->data = ctx;

    ngx_http_set_ctx(r, ctx, ngx_http_llm_module);

    return ctx;
}


/*
 * The request ends: regularly, when everything has been given back already,
 * or because the client has gone.
 */

static void
ngx_http_llm_cleanup(void *data)
{
    ngx_http_llm_ctx_t *ctx = data;

    ngx_http_llm_release(ctx);
}


void
ngx_http_llm_release(ngx_http_llm_ctx_t *ctx)
{
    ngx_uint_t                i;
    ngx_http_llm_sequence_t  *s;

    if (ctx->done) {
        return;
    }

    ctx->done = 1;

    if (ctx->live) {
        ngx_queue_remove(&ctx->queue);
        ctx->live = 0;
    }

    if (ctx->deadline.timer_set) {
        ngx_del_timer(&ctx->deadline);
    }

    if (ctx->queue_timer.timer_set) {
        ngx_del_timer(&ctx->queue_timer);
    }

    if (ctx->keepalive.timer_set) {
        ngx_del_timer(&ctx->keepalive);
    }

    if (ctx->resume.posted) {
        ngx_delete_posted_event(&ctx->resume);
    }

    if (ctx->sequences) {

        for (i = 0; i < ctx->n_sequences; i++) {
            s = &ctx->sequences[i];

            ngx_http_llm_text_close(s);
            ngx_http_llm_lua_release(s->lctx);
        }

        ngx_http_llm_collect(ctx);
    }

    ngx_http_llm_lua_release(ctx->lctx);
    ngx_http_llm_task_free(ctx->task);
    llm_constraint_free(ctx->constraint);

    if (ctx->counted) {
        ngx_http_llm_metrics_count(ctx);
    }

    /* the prompt and other strings of the request go with their JSON */

    json_decref(ctx->hooked);
    json_decref(ctx->json);
    ctx->hooked = NULL;
    ctx->json = NULL;
    ngx_str_null(&ctx->prompt);
    ngx_str_null(&ctx->inputs);
}


/* times and counts for headers, variables and metrics */

static void
ngx_http_llm_collect(ngx_http_llm_ctx_t *ctx)
{
    ngx_uint_t                i;
    llm_job_view_t           *view;
    ngx_http_llm_sequence_t  *s;

    ctx->n_generated = 0;

    for (i = 0; i < ctx->n_sequences; i++) {
        s = &ctx->sequences[i];
        view = &s->view;

        if (s->open) {
            llm_job_poll(&s->job, view);
        }

        ctx->n_generated += s->n_tokens;
        ctx->n_cached = ngx_max(ctx->n_cached, view->n_cached);

        if (view->started_ns
            && (ctx->started_ns == 0 || view->started_ns < ctx->started_ns))
        {
            ctx->started_ns = view->started_ns;
        }

        if (view->first_ns
            && (ctx->first_ns == 0 || view->first_ns < ctx->first_ns))
        {
            ctx->first_ns = view->first_ns;
        }

        ctx->last_ns = ngx_max(ctx->last_ns, view->last_ns);
    }
}


static void
ngx_http_llm_body(ngx_http_request_t *r)
{
    ngx_connection_t    *c;
    ngx_http_llm_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_llm_module);
    c = r->connection;

    ctx->counted = (ctx->route <= NGX_HTTP_LLM_LAST_COUNTED);

    ngx_log_debug2(NGX_LOG_DEBUG_HTTP, c->log, 0,
                   "llm request \"%V\" %s", &r->uri,
                   ngx_http_llm_route_name(ctx));

    ngx_add_timer(&ctx->deadline, ctx->conf->generation_timeout);
    ngx_http_llm_watch(ctx);

    if (ngx_http_llm_body_read(ctx) != NGX_OK) {
        ngx_http_llm_output_error(ctx);
        return;
    }

    ngx_http_llm_run(ctx);
}


/*
 * A client that leaves is noticed at once.  epoll is edge-triggered: a FIN
 * that has come already shows only in the ready flag.
 */

static void
ngx_http_llm_watch(ngx_http_llm_ctx_t *ctx)
{
    ngx_connection_t    *c;
    ngx_http_request_t  *r;

    r = ctx->request;
    c = r->connection;

    if (r != r->main) {
        return;
    }

    r->read_event_handler = ngx_http_test_reading;

    if (c->read->ready) {
        ngx_post_event(c->read, &ngx_posted_events);
    }
}


void
ngx_http_llm_wake(ngx_http_llm_ctx_t *ctx)
{
    ngx_connection_t  *c;

    c = ctx->request->connection;

    ngx_http_set_log_request(c->log, ctx->request);

    ngx_http_llm_run(ctx);
    ngx_http_run_posted_requests(c);
}


void
ngx_http_llm_run(ngx_http_llm_ctx_t *ctx)
{
    ngx_int_t  rc;

    while (!ctx->done) {

        rc = ngx_http_llm_steps[ctx->state](ctx);

        switch (rc) {

        case NGX_OK:
            ctx->state++;
            continue;

        case NGX_ERROR:
            ngx_http_llm_output_error(ctx);
            return;

        case NGX_ABORT:
            ngx_http_finalize_request(ctx->request, NGX_ERROR);
            return;

        default: /* NGX_AGAIN, NGX_DONE */
            return;
        }
    }
}


static ngx_int_t
ngx_http_llm_parse(ngx_http_llm_ctx_t *ctx)
{
    ngx_http_llm_task_t         *task;
    ngx_http_llm_json_parsed_t  *parsed;

    task = ctx->task;

    if (ngx_http_llm_task_run(task) == NGX_AGAIN) {
        return NGX_AGAIN;
    }

    parsed = &task->parsed;

    ctx->json = parsed->value;
    ctx->big_seed = parsed->seed;
    ctx->big_seed_set = parsed->seed_set;
    parsed->value = NULL;

    if (ctx->json == NULL && parsed->nomem) {
        (void) ngx_http_llm_fail_nomem(ctx);

    } else if (ctx->json == NULL) {
        (void) ngx_http_llm_fail(ctx, NGX_HTTP_LLM_BAD_SYNTAX,
                                 "Failed to parse the request body as JSON: "
                                 "%s", parsed->error);
    }

    ngx_http_llm_task_free(task);
    ctx->task = NULL;

    if (ctx->json == NULL) {
        return NGX_ERROR;
    }

    if (!json_is_object(ctx->json)) {
        return ngx_http_llm_json_mismatch(ctx, "", "body", ctx->json,
                                          "an object");
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_prompt_hook(ngx_http_llm_ctx_t *ctx)
{
    json_t     *req;
    ngx_int_t   rc;
    ngx_str_t  *name;

    if (ctx->hook_wait) {
        return NGX_AGAIN;
    }

    if (ctx->hooked) {
        rc = ctx->hook_rc;
        goto hooked;
    }

    if (!ctx->counted) {
        return NGX_OK;
    }

    /* what is wrong already is not worth a hook */

    if (ctx->codec->decode(ctx, ctx->json) != NGX_OK) {
        return NGX_ERROR;
    }

    ctx->inputs = ctx->params.inputs;

    if (ctx->conf->prompt_hook == NULL) {
        return NGX_OK;
    }

    ctx->n_sequences = 1;

    if (ngx_http_llm_params_permit(ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    req = json_deep_copy(ctx->json);
    name = ngx_http_llm_model_id(ctx);

    if (req == NULL
        || json_object_set_new(req, "route",
                               json_string(ngx_http_llm_route_name(ctx))) != 0
        || (ngx_http_llm_json_get(req, "model") == NULL
            && json_object_set_new(req, "model",
                                   json_stringn((char *) name->data,
                                                name->len)) != 0))
    {
        json_decref(req);
        return ngx_http_llm_fail_nomem(ctx);
    }

    ctx->hooked = req;

    rc = ngx_http_llm_lua_prompt(ctx->request, &ctx->lctx,
                                 ctx->conf->prompt_hook,
                                 &ctx->model->template, &ctx->hooked,
                                 &ctx->hook_prompt, &ctx->refusal,
                                 ngx_http_llm_prompt_hook_done, ctx);

    if (rc == NGX_AGAIN) {
        ctx->hook_wait = 1;
        return NGX_AGAIN;
    }

hooked:

    if (rc != NGX_OK) {
        return ngx_http_llm_fail_hook(ctx, rc, &ctx->refusal);
    }

    ngx_http_llm_watch(ctx);

    if (!json_is_object(ctx->hooked)) {
        return ngx_http_llm_json_mismatch(ctx, "", "body", ctx->hooked,
                                          "an object");
    }

    return NGX_OK;
}


/* see ngx_http_llm_text_hook_done() */

static void
ngx_http_llm_prompt_hook_done(ngx_http_request_t *r, void *data, ngx_int_t rc)
{
    ngx_http_llm_ctx_t *ctx = data;

    ctx->hook_wait = 0;
    ctx->hook_rc = rc;

    ngx_post_event(&ctx->resume, &ngx_posted_events);
}


static ngx_int_t
ngx_http_llm_decode(ngx_http_llm_ctx_t *ctx)
{
    ngx_uint_t  i;

    if (ctx->route == NGX_HTTP_LLM_VERTEX) {
        return ngx_http_llm_vertex(ctx);
    }

    if (ctx->route == NGX_HTTP_LLM_KSERVE_INFER) {
        return ngx_http_llm_kserve_infer(ctx);
    }

    if (!ctx->counted) {
        return ngx_http_llm_tokenizer_task(ctx);
    }

    if (ctx->hooked) {
        ngx_http_llm_params_init(&ctx->params);

        if (ctx->codec->decode(ctx, ctx->hooked) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (ctx->codec->prompt(ctx) != NGX_OK
        || ngx_http_llm_params_check(ctx) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ctx->prompts == NULL) {
        ctx->prompts = ngx_pcalloc(ctx->request->pool,
                                   sizeof(ngx_http_llm_prompt_t));
        if (ctx->prompts == NULL) {
            return ngx_http_llm_fail_nomem(ctx);
        }

        ctx->n_prompts = 1;
        ctx->prompts->text = ctx->prompt;
        ctx->prompts->shown = ctx->prompt;
    }

    for (i = 0; i < ctx->n_prompts; i++) {
        ctx->n_characters += ngx_http_llm_utf8_length(&ctx->prompts[i].text);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_submit(ngx_http_llm_ctx_t *ctx)
{
    /* others may have come while threads had the prompt and the grammar */

    if (ngx_http_llm_params_permit(ctx) != NGX_OK
        || ngx_http_llm_engine_submit(ctx) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ctx->params.stream) {
        ngx_add_timer(&ctx->keepalive, ctx->conf->sse_keepalive);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_generate(ngx_http_llm_ctx_t *ctx)
{
    ngx_int_t   rc;
    ngx_uint_t  i, n_done;

    static ngx_str_t  json = ngx_string("application/json");

    for (i = 0; i < NGX_HTTP_LLM_SLICE; i++) {

        if (ctx->blocked) {
            return NGX_AGAIN;
        }

        rc = ngx_http_llm_advance(ctx, &n_done);

        if (rc == NGX_ERROR) {
            return NGX_ERROR;
        }

        if (n_done == ctx->n_sequences) {
            ngx_http_llm_collect(ctx);
            ctx->codec->finish(ctx);

            if (ctx->params.stream) {
                ngx_http_llm_output_end(ctx);

            } else {
                ngx_http_llm_output_reply(ctx, NGX_HTTP_OK, &json);
            }

            return NGX_DONE;
        }

        if (ctx->params.stream
            && ctx->out.len
            && (rc == NGX_AGAIN || ctx->out.len >= NGX_HTTP_LLM_BURST))
        {
            switch (ngx_http_llm_output_event(ctx)) {

            case NGX_ERROR:
                return NGX_ABORT;

            case NGX_AGAIN:
                return NGX_AGAIN;
            }
        }

        if (rc == NGX_AGAIN) {
            return NGX_AGAIN;
        }
    }

    ngx_post_event(&ctx->resume, &ngx_posted_next_events);

    return NGX_AGAIN;
}


/* One token of every sequence that has one: NGX_OK, or NGX_AGAIN if none. */

static ngx_int_t
ngx_http_llm_advance(ngx_http_llm_ctx_t *ctx, ngx_uint_t *n_done)
{
    ngx_int_t   rc, progress;
    ngx_uint_t  i;

    progress = NGX_AGAIN;
    *n_done = 0;

    for (i = 0; i < ctx->n_sequences; i++) {

        rc = ngx_http_llm_text_advance(ctx, &ctx->sequences[i]);

        switch (rc) {

        case NGX_ERROR:
            return NGX_ERROR;

        case NGX_OK:
            progress = NGX_OK;
            break;

        case NGX_DONE:
            (*n_done)++;
            break;
        }
    }

    return progress;
}


static void
ngx_http_llm_resume(ngx_event_t *ev)
{
    ngx_http_llm_wake(ev->data);
}


static void
ngx_http_llm_deadline(ngx_event_t *ev)
{
    ngx_connection_t    *c;
    ngx_http_llm_ctx_t  *ctx;

    ctx = ev->data;
    c = ctx->request->connection;

    (void) ngx_http_llm_fail(ctx, NGX_HTTP_LLM_GENERATION,
                             "Request failed during generation: not finished "
                             "after %M ms", ctx->conf->generation_timeout);

    ngx_http_llm_output_error(ctx);
    ngx_http_run_posted_requests(c);
}
