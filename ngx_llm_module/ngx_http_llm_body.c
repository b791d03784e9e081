/*
 * ngx_http_llm_body.c - the body of a request: its type, and its bytes from
 * memory or from nginx's temporary file.
 */
#include "ngx_http_llm_request.h"


/*
 * A form's type is what curl sends unless told otherwise.  It is accepted
 * only from what is no browser: a web page could send it anywhere without
 * asking, but not without saying whose page it is.
 */

ngx_int_t
ngx_http_llm_body_type(ngx_http_llm_ctx_t *ctx)
{
    size_t               len;
    u_char              *p;
    ngx_table_elt_t     *h;

    static const char    form[] = "application/x-www-form-urlencoded";

    h = ctx->request->headers_in.content_type;

    if (h) {
        p = h->value.data;

        for (len = 0; len < h->value.len; len++) {
            if (p[len] == ';' || p[len] == ' ' || p[len] == '\t') {
                break;
            }
        }

        if (len == sizeof("application/json") - 1
            && ngx_strncasecmp(p, (u_char *) "application/json", len) == 0)
        {
            return NGX_OK;
        }

        if (len > sizeof("application/+json") - 1
            && ngx_strncasecmp(p, (u_char *) "application/", 12) == 0
            && ngx_strncasecmp(p + len - 5, (u_char *) "+json", 5) == 0)
        {
            return NGX_OK;
        }

        if (len == sizeof(form) - 1
            && ngx_strncasecmp(p, (u_char *) form, len) == 0
            && !ngx_http_llm_request_header(ctx->request, "origin")
            && !ngx_http_llm_request_header(ctx->request, "referer")
            && !ngx_http_llm_request_header(ctx->request, "sec-fetch-site"))
        {
            return NGX_OK;
        }
    }

    return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_BAD_TYPE,
                             "Expected request with `Content-Type: "
                             "application/json`");
}


ngx_int_t
ngx_http_llm_body_read(ngx_http_llm_ctx_t *ctx)
{
    off_t                 len;
    u_char               *p;
    size_t                size;
    ssize_t               n;
    ngx_buf_t            *b;
    ngx_chain_t          *cl, *bufs;
    ngx_http_request_t   *r;

    r = ctx->request;
    bufs = r->request_body ? r->request_body->bufs : NULL;
    len = 0;

    for (cl = bufs; cl; cl = cl->next) {
        len += ngx_buf_size(cl->buf);
    }

    ctx->task = ngx_http_llm_task_new(ctx, ngx_http_llm_task_parse, len);
    if (ctx->task == NULL) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    p = ctx->task->text.data;

    for (cl = bufs; cl; cl = cl->next) {
        b = cl->buf;

        if (ngx_buf_size(b) == 0) {
            continue;
        }

        if (!b->in_file) {
            p = ngx_cpymem(p, b->pos, b->last - b->pos);
            continue;
        }

        size = b->file_last - b->file_pos;
        n = ngx_read_file(b->file, p, size, b->file_pos);

        if (n != (ssize_t) size) {
            ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                          "llm: body file \"%V\" has %z bytes instead of %uz",
                          &b->file->name, n, size);

            return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_INTERNAL,
                                     "The request body could not be read");
        }

        p += size;
    }

    return NGX_OK;
}
