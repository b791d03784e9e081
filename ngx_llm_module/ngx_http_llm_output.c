/*
 * ngx_http_llm_output.c - bytes to the client.
 *
 * Complete bodies and event streams, errors in the form that the state of
 * the response allows, backpressure and keep-alive comments.  One buffer is
 * on its way at a time: while the client does not read, no token is taken
 * from the engine, so a slow client costs one burst of memory.
 */
#include "ngx_http_llm_request.h"


#define NGX_HTTP_LLM_BUF_SIZE  2048


typedef struct {
    ngx_uint_t                 status;
    ngx_str_t                  type;        /* error_type */
    const char                *code;        /* OpenAI; NULL: the status */
} ngx_http_llm_fault_t;


static ngx_int_t ngx_http_llm_output_send(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_output_flow(ngx_http_llm_ctx_t *ctx);
static void ngx_http_llm_output_writer(ngx_http_request_t *r);
static const char *ngx_http_llm_output_kind(ngx_uint_t status);
static void ngx_http_llm_output_error_json(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_format_e format, ngx_uint_t event);
static void ngx_http_llm_output_error_members(ngx_http_llm_ctx_t *ctx);


static ngx_str_t  ngx_http_llm_json_type = ngx_string("application/json");
static ngx_str_t  ngx_http_llm_sse_type = ngx_string("text/event-stream");


static const ngx_http_llm_fault_t  ngx_http_llm_faults[] = {
    /* OK */             { 200, ngx_string(""), NULL },
    /* BAD_SYNTAX */     { 400, ngx_string("validation"), NULL },
    /* BAD_LENGTH */     { 413, ngx_string("validation"), NULL },
    /* BAD_TYPE */       { 415, ngx_string("validation"), NULL },
    /* VALIDATION */     { 422, ngx_string("validation"), NULL },
    /* CONTEXT_LENGTH */ { 422, ngx_string("validation"),
                           "context_length_exceeded" },
    /* TEMPLATE */       { 422, ngx_string("template_error"), NULL },
    /* TOOL */           { 422, ngx_string("tool_error"), NULL },
    /* SUFFIX */         { 422, ngx_string("suffix not supported"), NULL },
    /* BATCH_SIZE */     { 422, ngx_string("batch size exceeded"), NULL },
    /* NO_INSTANCES */   { 422, ngx_string("Input validation error"), NULL },
    /* LENGTH_MISMATCH */
                         { 422, ngx_string("length mismatch"), NULL },
    /* NOT_UTF8 */       { 422, ngx_string("utf8"), NULL },
    /* OVERLOADED */     { 429, ngx_string("overloaded"), NULL },
    /* GENERATION */     { 424, ngx_string("generation"), NULL },
    /* INCOMPLETE */     { 500, ngx_string("incomplete_generation"), NULL },
    /* FILTERED */       { 400, ngx_string("content_filter"),
                           "content_policy_violation" },
    /* HOOK_FAILED */    { 500, ngx_string("hook_error"), NULL },
    /* NOT_FOUND */      { 404, ngx_string("not_found"), NULL },
    /* NOT_ALLOWED */    { 405, ngx_string("method_not_allowed"), NULL },
    /* UNAUTHORIZED */   { 401, ngx_string("unauthorized"), NULL },
    /* FORBIDDEN */      { 403, ngx_string("forbidden"), NULL },
    /* TIMEOUT */        { 408, ngx_string("timeout"), NULL },
    /* UNHEALTHY */      { 503, ngx_string("healthcheck"), NULL },
    /* INTERNAL */       { 500, ngx_string("internal"), NULL }
};


/* --------------------------------------------------------------- failures */

ngx_int_t
ngx_http_llm_fail(ngx_http_llm_ctx_t *ctx, ngx_http_llm_fault_e fault,
    const char *fmt, ...)
{
    u_char    text[1024], *last;
    va_list   args;

    va_start(args, fmt);
    last = ngx_vslprintf(text, text + sizeof(text), fmt, args);
    va_end(args);

    ctx->error.fault = fault;
    ctx->error.status = ngx_http_llm_faults[fault].status;
    ctx->error.message.len = last - text;
    ctx->error.message.data = ngx_pnalloc(ctx->request->pool, last - text);

    if (ctx->error.message.data == NULL) {
        ctx->error.message.len = 0;
        return NGX_ERROR;
    }

    ngx_memcpy(ctx->error.message.data, text, last - text);

    return NGX_ERROR;
}


ngx_int_t
ngx_http_llm_fail_nomem(ngx_http_llm_ctx_t *ctx)
{
    ctx->error.fault = NGX_HTTP_LLM_GENERATION;
    ctx->error.status = ngx_http_llm_faults[NGX_HTTP_LLM_GENERATION].status;
    ngx_str_set(&ctx->error.message,
                "Request failed during generation: out of memory");

    return NGX_ERROR;
}


ngx_int_t
ngx_http_llm_fail_engine(ngx_http_llm_ctx_t *ctx, llm_err_t *err)
{
    ngx_log_error(NGX_LOG_INFO, ctx->request->connection->log, 0,
                  "llm: %s: %s", llm_code_name(err->code), err->msg);

    switch (err->code) {

    case LLM_E_ARG:
    case LLM_E_UNSUPPORTED:
        return ngx_http_llm_invalid(ctx, "%s", err->msg);

    case LLM_E_TEMPLATE:
        return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_TEMPLATE,
                                 "Template error: %s", err->msg);

    case LLM_E_BUSY:
        return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_OVERLOADED,
                                 "Model is overloaded");

    default:
        ngx_log_error(NGX_LOG_ERR, ctx->request->connection->log, 0,
                      "llm engine: %s", err->msg);

        return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_GENERATION,
                                 "Request failed during generation: %s",
                                 err->msg);
    }
}


ngx_int_t
ngx_http_llm_fail_hook(ngx_http_llm_ctx_t *ctx, ngx_int_t rc,
    ngx_http_llm_lua_refusal_t *refusal)
{
    if (rc == NGX_DECLINED && !refusal->failed) {

        if (refusal->message.len) {
            (void) ngx_http_llm_fail(ctx, NGX_HTTP_LLM_FILTERED, "%V",
                                     &refusal->message);
        } else {
            (void) ngx_http_llm_fail(ctx, NGX_HTTP_LLM_FILTERED,
                                     "Request refused by content policy");
        }

        if (refusal->status >= 400 && refusal->status <= 599) {
            ctx->error.status = refusal->status;
        }

        return NGX_ERROR;
    }

    /* what went wrong is in the error log, not for the client */

    return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_HOOK_FAILED,
                             "A hook of this server failed");
}


/* ---------------------------------------------------------- whole answers */

void
ngx_http_llm_output_reply(ngx_http_llm_ctx_t *ctx, ngx_uint_t status,
    ngx_str_t *type)
{
    ngx_int_t            rc;
    ngx_buf_t           *b;
    ngx_chain_t          out;
    ngx_http_request_t  *r;

    r = ctx->request;

    ngx_http_llm_release(ctx);

    if (ctx->out.failed) {
        ngx_http_finalize_request(r, NGX_HTTP_INTERNAL_SERVER_ERROR);
        return;
    }

    rc = ngx_http_llm_header_send(ctx, status, type, ctx->out.len);

    if (rc == NGX_ERROR && !r->header_sent) {
        ngx_http_finalize_request(r, NGX_HTTP_INTERNAL_SERVER_ERROR);
        return;
    }

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        ngx_http_finalize_request(r, rc);
        return;
    }

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        ngx_http_finalize_request(r, NGX_ERROR);
        return;
    }

    b->pos = ctx->out.data;
    b->last = ctx->out.data + ctx->out.len;
    b->memory = (ctx->out.len != 0);
    b->last_buf = (r == r->main);
    b->last_in_chain = 1;
    b->sync = (ctx->out.len == 0);

    out.buf = b;
    out.next = NULL;

    ngx_http_finalize_request(r, ngx_http_output_filter(r, &out));
}


/* OpenAI's types of errors */

static const char *
ngx_http_llm_output_kind(ngx_uint_t status)
{
    return (status == 401) ? "authentication_error"
           : (status == 404) ? "not_found_error"
           : (status == 429) ? "rate_limit_error"
           : (status >= 500 || status == 424) ? "server_error"
           : "invalid_request_error";
}


static void
ngx_http_llm_output_error_json(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_format_e format, ngx_uint_t event)
{
    ngx_str_t                    type;
    ngx_uint_t                   status;
    ngx_http_llm_buf_t          *out;
    ngx_http_llm_error_t        *e;
    const ngx_http_llm_fault_t  *fault;

    out = &ctx->out;
    e = &ctx->error;
    fault = &ngx_http_llm_faults[e->fault];
    status = e->status;
    type = fault->type;

    if (event && e->fault == NGX_HTTP_LLM_INCOMPLETE) {
        ngx_str_set(&type, "incomplete_generation_stream");
        ngx_str_set(&e->message, "Incomplete generation stream");
    }

    ngx_http_llm_buf_lit(out, "{");

    if (event && ctx->codec->event_number) {
        ngx_http_llm_output_error_members(ctx);
    }

    if (format == NGX_HTTP_LLM_FORMAT_TGI) {
        ngx_http_llm_buf_lit(out, "\"error\":");
        ngx_http_llm_buf_json_str(out, &e->message);

    } else {
        ngx_http_llm_buf_lit(out, "\"error\":{\"message\":");
        ngx_http_llm_buf_json_str(out, &e->message);
        ngx_http_llm_buf_printf(out, ",\"type\":\"%s\",\"param\":null,"
                                "\"code\":",
                                ngx_http_llm_output_kind(status));

        if (fault->code) {
            ngx_http_llm_buf_printf(out, "\"%s\"", fault->code);

        } else {
            ngx_http_llm_buf_printf(out, "%ui", status);
        }

        if (event) {
            ngx_http_llm_buf_printf(out, ",\"http_status_code\":%ui", status);
        }

        ngx_http_llm_buf_lit(out, "}");
    }

    ngx_http_llm_buf_lit(out, ",\"error_type\":");
    ngx_http_llm_buf_json_str(out, &type);
    ngx_http_llm_buf_lit(out, "}");
}


/* what the error event of the Responses API has besides */

static void
ngx_http_llm_output_error_members(ngx_http_llm_ctx_t *ctx)
{
    const char            *code;
    ngx_http_llm_error_t  *e;

    e = &ctx->error;
    code = ngx_http_llm_faults[e->fault].code;

    ngx_http_llm_buf_printf(&ctx->out, "\"type\":\"error\","
                            "\"sequence_number\":%ui,\"code\":\"%s\","
                            "\"message\":", ctx->codec->event_number(ctx),
                            code ? code
                                 : ngx_http_llm_output_kind(e->status));
    ngx_http_llm_buf_json_str(&ctx->out, &e->message);
    ngx_http_llm_buf_lit(&ctx->out, ",\"param\":null,");
}


ngx_int_t
ngx_http_llm_output_page(ngx_http_llm_ctx_t *ctx)
{
    ngx_http_request_t  *r;

    r = ctx->request;

    ngx_http_llm_buf_init(&ctx->out, r->pool);
    ngx_http_llm_output_error_json(ctx, ctx->conf->error_format
                                        ? ctx->conf->error_format
                                        : ctx->codec->format, 0);

    if (ctx->out.failed) {
        return NGX_ERROR;
    }

    if (r->headers_out.content_length) {
        r->headers_out.content_length->hash = 0;
        r->headers_out.content_length = NULL;
    }

    return ngx_http_llm_header_common(ctx, &ngx_http_llm_json_type,
                                      ctx->out.len);
}


void
ngx_http_llm_output_error(ngx_http_llm_ctx_t *ctx)
{
    ngx_uint_t             event, level;
    ngx_http_request_t    *r;
    ngx_http_llm_format_e  format;

    r = ctx->request;

    event = ctx->streaming
            || (ctx->counted && ctx->params.stream && ctx->conf->stream_errors);

    format = ctx->conf->error_format ? ctx->conf->error_format
                                     : ctx->codec->format;

    level = (ctx->error.status >= 500) ? NGX_LOG_ERR : NGX_LOG_INFO;

    ngx_log_error(level, r->connection->log, 0, "llm request failed, %ui: %V",
                  ctx->error.status, &ctx->error.message);

    /* what has failed may have been the answer; the error is short */

    if (!event || ctx->out.failed) {
        ngx_http_llm_buf_init(&ctx->out, r->pool);
    }

    if (!event) {
        ngx_http_llm_output_error_json(ctx, format, 0);
        ngx_http_llm_output_reply(ctx, ctx->error.status,
                                  &ngx_http_llm_json_type);
        return;
    }

    if (ctx->codec->event_number) {
        ngx_http_llm_buf_lit(&ctx->out, "event: error\n");
    }

    ngx_http_llm_buf_lit(&ctx->out, "data: ");
    ngx_http_llm_output_error_json(ctx, format, 1);
    ngx_http_llm_buf_lit(&ctx->out, "\n\n");

    if (ctx->codec->format == NGX_HTTP_LLM_FORMAT_OPENAI
        && ctx->codec->event_number == NULL)
    {
        ngx_http_llm_buf_lit(&ctx->out, "data: [DONE]\n\n");
    }

    ngx_http_llm_output_end(ctx);
}


/* ---------------------------------------------------------------- streams */

ngx_int_t
ngx_http_llm_output_event(ngx_http_llm_ctx_t *ctx)
{
    if (ngx_http_llm_output_send(ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_add_timer(&ctx->keepalive, ctx->conf->sse_keepalive);

    return ngx_http_llm_output_flow(ctx);
}


static ngx_int_t
ngx_http_llm_output_send(ngx_http_llm_ctx_t *ctx)
{
    size_t               size;
    ngx_int_t            rc;
    ngx_buf_t           *b;
    ngx_chain_t         *cl, *out;
    ngx_http_request_t  *r;

    r = ctx->request;

    if (ctx->out.failed) {
        return NGX_ERROR;
    }

    if (!ctx->streaming) {
        ctx->streaming = 1;

        rc = ngx_http_llm_header_send(ctx, NGX_HTTP_OK,
                                        &ngx_http_llm_sse_type, -1);

        if (rc == NGX_ERROR || rc > NGX_OK) {
            return NGX_ERROR;
        }

        if (r == r->main && ngx_tcp_nodelay(r->connection) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (ctx->out.len == 0 || r->header_only) {
        ctx->out.len = 0;
        return NGX_OK;
    }

    cl = ngx_chain_get_free_buf(r->pool, &ctx->free);
    if (cl == NULL) {
        return NGX_ERROR;
    }

    b = cl->buf;

    if ((size_t) (b->end - b->start) < ctx->out.len) {

        if (b->start) {
            (void) ngx_pfree(r->pool, b->start);
        }

        size = ngx_max(NGX_HTTP_LLM_BUF_SIZE, ctx->out.len * 2);

        ngx_memzero(b, sizeof(ngx_buf_t));

        b->start = ngx_palloc(r->pool, size);
        if (b->start == NULL) {
            return NGX_ERROR;
        }

        b->end = b->start + size;
    }

    b->pos = b->start;
    b->last = ngx_cpymem(b->start, ctx->out.data, ctx->out.len);
    b->temporary = 1;
    b->flush = 1;
    b->tag = (ngx_buf_tag_t) &ngx_http_llm_module;

    ctx->out.len = 0;
    out = cl;

    rc = ngx_http_output_filter(r, out);

    ngx_chain_update_chains(r->pool, &ctx->free, &ctx->busy, &out,
                            (ngx_buf_tag_t) &ngx_http_llm_module);

    return (rc == NGX_ERROR) ? NGX_ERROR : NGX_OK;
}


/* Stops the flow of tokens while the client does not read. */

static ngx_int_t
ngx_http_llm_output_flow(ngx_http_llm_ctx_t *ctx)
{
    ngx_event_t               *wev;
    ngx_connection_t          *c;
    ngx_http_request_t        *r;
    ngx_http_core_loc_conf_t  *clcf;

    r = ctx->request;
    c = r->connection;
    wev = c->write;

    r->write_event_handler = ngx_http_llm_output_writer;

    /* a subrequest is collected in memory and gets no write events */

    if (r != r->main || (!r->buffered && !c->buffered)) {
        ctx->blocked = 0;

        if (r == r->main && wev->timer_set && !wev->delayed) {
            ngx_del_timer(wev);
        }

        return NGX_OK;
    }

    ctx->blocked = 1;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    if (!wev->delayed) {
        ngx_add_timer(wev, clcf->send_timeout);
    }

    if (ngx_handle_write_event(wev, clcf->send_lowat) != NGX_OK) {
        return NGX_ERROR;
    }

    return NGX_AGAIN;
}


static void
ngx_http_llm_output_writer(ngx_http_request_t *r)
{
    ngx_int_t            rc;
    ngx_uint_t           blocked;
    ngx_chain_t         *out;
    ngx_event_t         *wev;
    ngx_connection_t    *c;
    ngx_http_llm_ctx_t  *ctx;

    c = r->connection;
    wev = c->write;
    ctx = ngx_http_get_module_ctx(r, ngx_http_llm_module);

    if (wev->timedout) {
        ngx_log_error(NGX_LOG_INFO, c->log, NGX_ETIMEDOUT,
                      "client timed out");
        c->timedout = 1;

        ngx_http_finalize_request(r, NGX_HTTP_REQUEST_TIME_OUT);
        return;
    }

    blocked = ctx->blocked;
    out = NULL;

    rc = ngx_http_output_filter(r, NULL);

    ngx_chain_update_chains(r->pool, &ctx->free, &ctx->busy, &out,
                            (ngx_buf_tag_t) &ngx_http_llm_module);

    if (rc != NGX_ERROR) {
        rc = ngx_http_llm_output_flow(ctx);
    }

    if (rc == NGX_ERROR) {
        ngx_http_finalize_request(r, NGX_ERROR);
        return;
    }

    if (rc == NGX_OK && blocked) {
        ngx_http_llm_run(ctx);
    }
}


void
ngx_http_llm_output_end(ngx_http_llm_ctx_t *ctx)
{
    ngx_http_request_t  *r;

    r = ctx->request;

    ngx_http_llm_release(ctx);

    if (ngx_http_llm_output_send(ctx) != NGX_OK) {
        ngx_http_finalize_request(r, NGX_ERROR);
        return;
    }

    ngx_http_finalize_request(r, ngx_http_send_special(r, NGX_HTTP_LAST));
}


void
ngx_http_llm_output_keepalive(ngx_event_t *ev)
{
    ngx_int_t            rc;
    ngx_connection_t    *c;
    ngx_http_request_t  *r;
    ngx_http_llm_ctx_t  *ctx;

    ctx = ev->data;
    r = ctx->request;
    c = r->connection;

    if (ctx->blocked || r != c->data) {
        ngx_add_timer(ev, ctx->conf->sse_keepalive);
        return;
    }

    ngx_http_llm_buf_lit(&ctx->out, ":\n\n");

    rc = ngx_http_llm_output_event(ctx);

    if (rc == NGX_ERROR) {
        ngx_http_finalize_request(r, NGX_ERROR);
    }

    ngx_http_run_posted_requests(c);
}
