/*
 * ngx_http_llm_batch.h - several requests in one: the envelopes of cloud
 * platforms.
 */
#ifndef _NGX_HTTP_LLM_BATCH_H_INCLUDED_
#define _NGX_HTTP_LLM_BATCH_H_INCLUDED_


#include "ngx_http_llm_request.h"


typedef struct ngx_http_llm_batch_s  ngx_http_llm_batch_t;


typedef struct {
    ngx_http_llm_batch_t      *batch;
    json_t                    *body;        /* native or chat; a reference */
    ngx_str_t                  text;
    ngx_http_llm_error_t       error;
    unsigned                   done:1;      /* text is there */
} ngx_http_llm_batch_item_t;


/* in ctx->data of the request, in r->pool */
struct ngx_http_llm_batch_s {
    ngx_http_llm_ctx_t         *ctx;
    ngx_http_llm_batch_item_t  *items;
    ngx_uint_t                  n;
    ngx_uint_t                  n_running;
    ngx_http_llm_codec_t        native;     /* decode may be changed */
    ngx_http_llm_codec_t        chat;
};


/*
 * A batch for the array list, which what ("instances") names in messages,
 * in ctx->data.  NULL: it is too long, or no memory; ctx->error is set.
 */
ngx_http_llm_batch_t *ngx_http_llm_batch_new(ngx_http_llm_ctx_t *ctx,
    json_t *list, const char *what);

/*
 * The step DECODE of such a request.  make: a batch with all its bodies, or
 * NULL and ctx->error; a subrequest is started for each, and the step is run
 * again when all have ended.  If one has failed, its error is the answer;
 * otherwise reply writes one from the texts to ctx->out.
 */
ngx_int_t ngx_http_llm_batch_step(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_batch_t *(*make)(ngx_http_llm_ctx_t *ctx),
    void (*reply)(ngx_http_llm_ctx_t *ctx, ngx_http_llm_batch_t *batch));


#endif /* _NGX_HTTP_LLM_BATCH_H_INCLUDED_ */
