/*
 * ngx_http_llm_header.c - headers of answers: CORS, times and counts, request
 * id, Allow, Retry-After.
 */
#include "ngx_http_llm_request.h"


static ngx_int_t ngx_http_llm_header_add(ngx_http_request_t *r,
    const char *name, ngx_str_t *value);
static ngx_int_t ngx_http_llm_header_cors(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_header_times(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_header_number(ngx_http_request_t *r,
    const char *name, uint64_t value);
static ngx_str_t ngx_http_llm_header_allowed(ngx_http_llm_ctx_t *ctx);


static ngx_int_t
ngx_http_llm_header_add(ngx_http_request_t *r, const char *name,
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
ngx_http_llm_header_number(ngx_http_request_t *r, const char *name,
    uint64_t value)
{
    ngx_str_t  s;

    s.data = ngx_pnalloc(r->pool, NGX_INT64_LEN);
    if (s.data == NULL) {
        return NGX_ERROR;
    }

    s.len = ngx_sprintf(s.data, "%uL", value) - s.data;

    return ngx_http_llm_header_add(r, name, &s);
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
ngx_http_llm_header_allowed(ngx_http_llm_ctx_t *ctx)
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
ngx_http_llm_header_cors(ngx_http_llm_ctx_t *ctx)
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

        if (ngx_http_llm_header_add(r, "Vary", &vary) != NGX_OK) {
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

    if (ngx_http_llm_header_add(r, "Access-Control-Allow-Origin", allowed)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (r->method != NGX_HTTP_OPTIONS) {
        return ngx_http_llm_header_add(r, "Access-Control-Expose-Headers",
                                       &expose);
    }

    headers = ngx_http_llm_header_allowed(ctx);

    if (ngx_http_llm_header_add(r, "Access-Control-Allow-Methods",
                                ngx_http_llm_route_methods(ctx))
        != NGX_OK
        || ngx_http_llm_header_add(r, "Access-Control-Allow-Headers",
                                   &headers)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_llm_header_add(r, "Access-Control-Max-Age", &age);
}


/* what only a finished generation knows */

static ngx_int_t
ngx_http_llm_header_times(ngx_http_llm_ctx_t *ctx)
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

    if (ngx_http_llm_header_add(r, "x-compute-time", &s) != NGX_OK) {
        return NGX_ERROR;
    }

    for (i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        if (ngx_http_llm_header_number(r, names[i], values[i]) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* headers of every answer, errors and nginx's own pages included */

ngx_int_t
ngx_http_llm_header_common(ngx_http_llm_ctx_t *ctx, ngx_str_t *type,
    off_t len)
{
    ngx_uint_t           status;
    ngx_str_t            one, *methods;
    ngx_http_request_t  *r;

    r = ctx->request;
    status = r->headers_out.status;

    r->headers_out.content_length_n = len;
    r->headers_out.content_type = *type;
    r->headers_out.content_type_len = type->len;
    r->headers_out.content_type_lowcase = NULL;

    if (ngx_http_llm_header_cors(ctx) != NGX_OK
        || (ctx->request_id.len
            && ngx_http_llm_header_add(r, "x-request-id", &ctx->request_id)
               != NGX_OK))
    {
        return NGX_ERROR;
    }

    if (status == NGX_HTTP_NOT_ALLOWED || r->method == NGX_HTTP_OPTIONS) {
        methods = ngx_http_llm_route_methods(ctx);

        if (ngx_http_llm_header_add(r, "Allow", methods) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (status == NGX_HTTP_TOO_MANY_REQUESTS
        || status == NGX_HTTP_SERVICE_UNAVAILABLE)
    {
        ngx_str_set(&one, "1");

        return ngx_http_llm_header_add(r, "Retry-After", &one);
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_llm_header_send(ngx_http_llm_ctx_t *ctx, ngx_uint_t status,
    ngx_str_t *type, off_t len)
{
    ngx_http_request_t  *r;

    static ngx_str_t  no = ngx_string("no");
    static ngx_str_t  no_cache = ngx_string("no-cache");

    r = ctx->request;

    ctx->answered = 1;

    r->headers_out.status = status;

    if (ngx_http_llm_header_common(ctx, type, len) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ctx->counted && status == NGX_HTTP_OK) {

        if (ngx_http_llm_header_add(r, "x-compute-type",
                                    &ctx->conf->compute_type)
            != NGX_OK
            || ngx_http_llm_header_number(r, "x-compute-characters",
                                         ctx->n_characters)
               != NGX_OK)
        {
            return NGX_ERROR;
        }

        if (len != -1 && ngx_http_llm_header_times(ctx) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (len == -1
        && (ngx_http_llm_header_add(r, "Cache-Control", &no_cache) != NGX_OK
            || ngx_http_llm_header_add(r, "X-Accel-Buffering", &no)
               != NGX_OK))
    {
        return NGX_ERROR;
    }

    return ngx_http_send_header(r);
}
