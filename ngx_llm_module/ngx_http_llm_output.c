/*
 * ngx_http_llm_output.c - bytes to the client.
 *
 * Complete bodies and event streams, response headers, CORS, errors in the
 * form that the state of the response allows, backpressure and keep-alive
 * comments.  One buffer is on its way at a time: while the client does not
 * read, no token is taken from the engine, so a slow client costs one burst
 * of memory.
 */
#include "ngx_http_llm_request.h"


#define NGX_HTTP_LLM_BUF_SIZE  2048


typedef struct {
    ngx_uint_t                 status;
    ngx_str_t                  type;        /* error_type */
    const char                *code;        /* OpenAI; NULL: the status */
} ngx_http_llm_fault_t;


static ngx_int_t ngx_http_llm_output_header(ngx_http_llm_ctx_t *ctx,
    ngx_uint_t status, ngx_str_t *type, off_t len);
static ngx_int_t ngx_http_llm_output_add(ngx_http_request_t *r,
    const char *name, ngx_str_t *value);
static ngx_int_t ngx_http_llm_output_cors(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_output_times(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_output_number(ngx_http_request_t *r,
    const char *name, uint64_t value);
static ngx_str_t ngx_http_llm_output_allowed(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_output_send(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_output_flow(ngx_http_llm_ctx_t *ctx);
static void ngx_http_llm_output_writer(ngx_http_request_t *r);
static void ngx_http_llm_output_error_json(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_format_e format, ngx_uint_t event);


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
    /* OVERLOADED */     { 429, ngx_string("overloaded"), NULL },
    /* GENERATION */     { 424, ngx_string("generation"), NULL },
    /* INCOMPLETE */     { 500, ngx_string("incomplete_generation"), NULL },
    /* FILTERED */       { 400, ngx_string("content_filter"),
                           "content_policy_violation" },
    /* HOOK_FAILED */    { 500, ngx_string("hook_error"), NULL },
    /* NOT_FOUND */      { 404, ngx_string("not_found"), NULL },
    /* NOT_ALLOWED */    { 405, ngx_string("method_not_allowed"), NULL },
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
        return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_VALIDATION,
                                 NGX_HTTP_LLM_INVALID "%s", err->msg);

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
ngx_http_llm_fail_hook(ngx_http_llm_ctx_t *ctx, ngx_int_t rc)
{
    ngx_http_llm_lua_refusal_t  *refusal;

    refusal = &ctx->refusal;

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


/* ---------------------------------------------------------------- headers */

static ngx_int_t
ngx_http_llm_output_add(ngx_http_request_t *r, const char *name,
    ngx_str_t *value)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    h->hash = 1;
#if (nginx_version >= 1023000)
    h->next = NULL;
#endif
    h->lowcase_key = NULL;
    h->key.data = (u_char *) name;
    h->key.len = ngx_strlen(name);
    h->value = *value;

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_output_number(ngx_http_request_t *r, const char *name,
    uint64_t value)
{
    ngx_str_t  s;

    s.data = ngx_pnalloc(r->pool, NGX_INT64_LEN);
    if (s.data == NULL) {
        return NGX_ERROR;
    }

    s.len = ngx_sprintf(s.data, "%uL", value) - s.data;

    return ngx_http_llm_output_add(r, name, &s);
}


ngx_str_t *
ngx_http_llm_request_header(ngx_http_request_t *r, const char *name)
{
    size_t            len;
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    len = ngx_strlen(name);
    part = &r->headers_in.headers.part;
    h = part->elts;

    for (i = 0; /* void */ ; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                return NULL;
            }

            part = part->next;
            h = part->elts;
            i = 0;
        }

        if (h[i].key.len == len
            && ngx_strncasecmp(h[i].key.data, (u_char *) name, len) == 0)
        {
            return &h[i].value;
        }
    }
}


/* of the headers that a preflight asks for, those that clients of ours send */

static ngx_str_t
ngx_http_llm_output_allowed(ngx_http_llm_ctx_t *ctx)
{
    size_t       n;
    u_char      *p, *end, *name, *last;
    ngx_uint_t   i;
    ngx_str_t   *asked, out;

    static ngx_str_t  known[] = {
        ngx_string("authorization"), ngx_string("content-type"),
        ngx_string("x-request-id"), ngx_string("api-key"),
        ngx_string("x-stainless-"), ngx_null_string
    };

    ngx_str_set(&out, "authorization, content-type, x-request-id, api-key");

    asked = ngx_http_llm_request_header(ctx->request,
                                        "access-control-request-headers");
    if (asked == NULL) {
        return out;
    }

    last = ngx_pnalloc(ctx->request->pool, asked->len * 2 + 2);
    if (last == NULL) {
        return out;
    }

    out.data = last;
    p = asked->data;
    end = p + asked->len;

    while (p < end) {

        while (p < end && (*p == ' ' || *p == ',' || *p == '\t')) {
            p++;
        }

        name = p;

        while (p < end && *p != ',' && *p != ' ' && *p != '\t') {
            p++;
        }

        n = p - name;

        for (i = 0; known[i].len; i++) {

            if (n < known[i].len
                || ngx_strncasecmp(name, known[i].data, known[i].len) != 0
                || (n > known[i].len
                    && known[i].data[known[i].len - 1] != '-'))
            {
                continue;
            }

            if (last > out.data) {
                *last++ = ',';
                *last++ = ' ';
            }

            last = ngx_cpymem(last, name, n);
            break;
        }
    }

    out.len = last - out.data;

    return out;
}


static ngx_int_t
ngx_http_llm_output_cors(ngx_http_llm_ctx_t *ctx)
{
    ngx_str_t            headers, *origin, *allowed;
    ngx_uint_t           i;
    ngx_http_request_t  *r;

    static ngx_str_t  vary = ngx_string("Origin");
    static ngx_str_t  age = ngx_string("86400");
    static ngx_str_t  expose = ngx_string(
        "x-compute-type, x-compute-characters, x-compute-time, x-total-time, "
        "x-validation-time, x-queue-time, x-inference-time, "
        "x-time-per-token, x-prompt-tokens, x-generated-tokens, "
        "x-request-id, retry-after");

    r = ctx->request;

    if (ctx->conf->cors_origins == NULL || r != r->main) {
        return NGX_OK;
    }

    allowed = ctx->conf->cors_origins->elts;

    if (allowed[0].len != 1 || allowed[0].data[0] != '*') {

        if (ngx_http_llm_output_add(r, "Vary", &vary) != NGX_OK) {
            return NGX_ERROR;
        }

        origin = ngx_http_llm_request_header(r, "origin");

        if (origin == NULL) {
            return NGX_OK;
        }

        for (i = 0; i < ctx->conf->cors_origins->nelts; i++) {
            if (allowed[i].len == origin->len
                && ngx_strncasecmp(allowed[i].data, origin->data, origin->len)
                   == 0)
            {
                break;
            }
        }

        if (i == ctx->conf->cors_origins->nelts) {
            return NGX_OK;
        }

        allowed = origin;
    }

    if (ngx_http_llm_output_add(r, "Access-Control-Allow-Origin", allowed)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (r->method != NGX_HTTP_OPTIONS) {
        return ngx_http_llm_output_add(r, "Access-Control-Expose-Headers",
                                       &expose);
    }

    headers = ngx_http_llm_output_allowed(ctx);

    if (ngx_http_llm_output_add(r, "Access-Control-Allow-Methods",
                                ngx_http_llm_route_methods(ctx))
        != NGX_OK
        || ngx_http_llm_output_add(r, "Access-Control-Allow-Headers",
                                   &headers)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_llm_output_add(r, "Access-Control-Max-Age", &age);
}


/* what only a finished generation knows */

static ngx_int_t
ngx_http_llm_output_times(ngx_http_llm_ctx_t *ctx)
{
    uint64_t             total, valid, queue, run, values[7];
    ngx_str_t            s;
    ngx_uint_t           i;
    ngx_http_request_t  *r;

    static const char  *names[] = {
        "x-total-time", "x-validation-time", "x-queue-time",
        "x-inference-time", "x-time-per-token", "x-prompt-tokens",
        "x-generated-tokens"
    };

    r = ctx->request;

    total = ngx_http_llm_now() - ctx->start_ns;
    valid = ctx->queued_ns - ctx->start_ns;
    queue = 0;
    run = 0;

    if (ctx->started_ns) {
        queue = ctx->started_ns - ngx_min(ctx->started_ns, ctx->queued_ns);
        run = ctx->last_ns - ngx_min(ctx->last_ns, ctx->started_ns);
    }

    values[0] = total / 1000000;
    values[1] = valid / 1000000;
    values[2] = queue / 1000000;
    values[3] = run / 1000000;
    values[4] = run / ngx_max(ctx->n_generated, 1) / 1000000;
    values[5] = ctx->n_tokens;
    values[6] = ctx->n_generated;

    s.data = ngx_pnalloc(r->pool, NGX_INT64_LEN + sizeof(".000000") - 1);
    if (s.data == NULL) {
        return NGX_ERROR;
    }

    s.len = ngx_sprintf(s.data, "%uL.%06uL", total / 1000000000,
                        total / 1000 % 1000000) - s.data;

    if (ngx_http_llm_output_add(r, "x-compute-time", &s) != NGX_OK) {
        return NGX_ERROR;
    }

    for (i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        if (ngx_http_llm_output_number(r, names[i], values[i]) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_output_header(ngx_http_llm_ctx_t *ctx, ngx_uint_t status,
    ngx_str_t *type, off_t len)
{
    ngx_str_t            one, *methods;
    ngx_http_request_t  *r;

    static ngx_str_t  no = ngx_string("no");
    static ngx_str_t  no_cache = ngx_string("no-cache");

    r = ctx->request;

    r->headers_out.status = status;
    r->headers_out.content_length_n = len;
    r->headers_out.content_type = *type;
    r->headers_out.content_type_len = type->len;
    r->headers_out.content_type_lowcase = NULL;

    if (ngx_http_llm_output_cors(ctx) != NGX_OK
        || (ctx->request_id.len
            && ngx_http_llm_output_add(r, "x-request-id", &ctx->request_id)
               != NGX_OK))
    {
        return NGX_ERROR;
    }

    if (status == NGX_HTTP_NOT_ALLOWED || r->method == NGX_HTTP_OPTIONS) {
        methods = ngx_http_llm_route_methods(ctx);

        if (ngx_http_llm_output_add(r, "Allow", methods) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (status == NGX_HTTP_TOO_MANY_REQUESTS
        || status == NGX_HTTP_SERVICE_UNAVAILABLE)
    {
        ngx_str_set(&one, "1");

        if (ngx_http_llm_output_add(r, "Retry-After", &one) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (ctx->counted && status == NGX_HTTP_OK) {

        if (ngx_http_llm_output_add(r, "x-compute-type",
                                    &ctx->conf->compute_type)
            != NGX_OK
            || ngx_http_llm_output_number(r, "x-compute-characters",
                                      ngx_http_llm_utf8_length(&ctx->prompt))
               != NGX_OK)
        {
            return NGX_ERROR;
        }

        if (len != -1 && ngx_http_llm_output_times(ctx) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (len == -1
        && (ngx_http_llm_output_add(r, "Cache-Control", &no_cache) != NGX_OK
            || ngx_http_llm_output_add(r, "X-Accel-Buffering", &no)
               != NGX_OK))
    {
        return NGX_ERROR;
    }

    return ngx_http_send_header(r);
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

    rc = ngx_http_llm_output_header(ctx, status, type, ctx->out.len);

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


static void
ngx_http_llm_output_error_json(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_format_e format, ngx_uint_t event)
{
    ngx_str_t                    type;
    const char                  *kind;
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

    if (format == NGX_HTTP_LLM_FORMAT_TGI) {
        ngx_http_llm_buf_lit(out, "{\"error\":");
        ngx_http_llm_buf_json_str(out, &e->message);

    } else {
        kind = (status == 401) ? "authentication_error"
               : (status == 404) ? "not_found_error"
               : (status == 429) ? "rate_limit_error"
               : (status >= 500 || status == 424) ? "server_error"
               : "invalid_request_error";

        ngx_http_llm_buf_lit(out, "{\"error\":{\"message\":");
        ngx_http_llm_buf_json_str(out, &e->message);
        ngx_http_llm_buf_printf(out, ",\"type\":\"%s\",\"param\":null,"
                                "\"code\":", kind);

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

    if (!event) {
        ctx->out.len = 0;
        ngx_http_llm_output_error_json(ctx, format, 0);
        ngx_http_llm_output_reply(ctx, ctx->error.status,
                                  &ngx_http_llm_json_type);
        return;
    }

    ngx_http_llm_buf_lit(&ctx->out, "data: ");
    ngx_http_llm_output_error_json(ctx, format, 1);
    ngx_http_llm_buf_lit(&ctx->out, "\n\n");

    if (ctx->codec->format == NGX_HTTP_LLM_FORMAT_OPENAI) {
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

        rc = ngx_http_llm_output_header(ctx, NGX_HTTP_OK,
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

    if (!r->buffered && !c->buffered) {
        ctx->blocked = 0;

        if (wev->timer_set && !wev->delayed) {
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
