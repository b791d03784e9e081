/*
 * ngx_http_llm_filter.c - nginx's own error pages in the form of the API.
 *
 * Clients decode every answer that is not 200 as JSON.  In locations with
 * llm_pass the pages that nginx makes itself (a body too large, a limit, a
 * refused access) are therefore replaced by an error body; an "error_page"
 * of the operator leads elsewhere and is not touched.
 */
#include "ngx_http_llm_request.h"


typedef struct {
    ngx_uint_t                 status;
    ngx_http_llm_fault_e       fault;
    const char                *message;
} ngx_http_llm_page_t;


static ngx_int_t ngx_http_llm_header_filter(ngx_http_request_t *r);
static ngx_int_t ngx_http_llm_body_filter(ngx_http_request_t *r,
    ngx_chain_t *in);
static ngx_http_llm_ctx_t *ngx_http_llm_filter_ctx(ngx_http_request_t *r);


static ngx_http_output_header_filter_pt  ngx_http_next_header_filter;
static ngx_http_output_body_filter_pt    ngx_http_next_body_filter;


static const ngx_http_llm_page_t  ngx_http_llm_pages[] = {
    { 400, NGX_HTTP_LLM_BAD_SYNTAX, "Bad Request" },
    { 401, NGX_HTTP_LLM_UNAUTHORIZED, "Unauthorized" },
    { 403, NGX_HTTP_LLM_FORBIDDEN, "Forbidden" },
    { 404, NGX_HTTP_LLM_NOT_FOUND, "Not Found" },
    { 405, NGX_HTTP_LLM_NOT_ALLOWED, "Method Not Allowed" },
    { 408, NGX_HTTP_LLM_TIMEOUT, "Request Timeout" },
    { 413, NGX_HTTP_LLM_BAD_LENGTH,
      "Failed to buffer the request body: length limit exceeded" },
    { 415, NGX_HTTP_LLM_BAD_TYPE, "Unsupported Media Type" },
    { 429, NGX_HTTP_LLM_OVERLOADED, "Too Many Requests" },
    { 503, NGX_HTTP_LLM_OVERLOADED, "Service Unavailable" },
    { 0, NGX_HTTP_LLM_INTERNAL, "Internal Server Error" }
};


ngx_int_t
ngx_http_llm_filter_init(void)
{
    ngx_http_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_http_llm_header_filter;

    ngx_http_next_body_filter = ngx_http_top_body_filter;
    ngx_http_top_body_filter = ngx_http_llm_body_filter;

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_header_filter(ngx_http_request_t *r)
{
    ngx_http_llm_ctx_t         *ctx;
    const ngx_http_llm_page_t  *page;

    ctx = ngx_http_llm_filter_ctx(r);

    if (ctx == NULL) {
        return ngx_http_next_header_filter(r);
    }

    for (page = ngx_http_llm_pages; page->status; page++) {
        if (page->status == r->headers_out.status) {
            break;
        }
    }

    (void) ngx_http_llm_fail(ctx, page->fault, "%s", page->message);

    ctx->error.status = r->headers_out.status;

    if (ngx_http_llm_output_page(ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    ctx->replace = 1;

    return ngx_http_next_header_filter(r);
}


/* The context of a request whose answer is an error page, or NULL. */

static ngx_http_llm_ctx_t *
ngx_http_llm_filter_ctx(ngx_http_request_t *r)
{
    ngx_str_t                *type;
    ngx_http_llm_ctx_t       *ctx;
    ngx_http_llm_loc_conf_t  *conf;

    if (r != r->main || r->err_status < NGX_HTTP_BAD_REQUEST) {
        return NULL;
    }

    conf = ngx_http_get_module_loc_conf(r, ngx_http_llm_module);

    if (conf->model == NULL) {
        return NULL;
    }

    type = &r->headers_out.content_type;

    if (type->len != sizeof("text/html") - 1
        || ngx_strncmp(type->data, "text/html", type->len) != 0)
    {
        return NULL;
    }

    ctx = ngx_http_get_module_ctx(r, ngx_http_llm_module);

    if (ctx == NULL) {
        ctx = ngx_http_llm_create_ctx(r);

        if (ctx) {
            (void) ngx_http_llm_route(ctx);
        }

        return ctx;
    }

    return ctx->answered ? NULL : ctx;
}


static ngx_int_t
ngx_http_llm_body_filter(ngx_http_request_t *r, ngx_chain_t *in)
{
    ngx_buf_t           *b;
    ngx_chain_t         *cl, out;
    ngx_http_llm_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_llm_module);

    if (ctx == NULL || !ctx->replace || in == NULL) {
        return ngx_http_next_body_filter(r, in);
    }

    for (cl = in; cl; cl = cl->next) {
        cl->buf->pos = cl->buf->last;
        cl->buf->file_pos = cl->buf->file_last;
    }

    if (ctx->replaced) {
        return NGX_OK;
    }

    ctx->replaced = 1;

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_ERROR;
    }

    b->pos = ctx->out.data;
    b->last = ctx->out.data + ctx->out.len;
    b->memory = 1;
    b->last_buf = 1;
    b->last_in_chain = 1;

    out.buf = b;
    out.next = NULL;

    return ngx_http_next_body_filter(r, &out);
}
