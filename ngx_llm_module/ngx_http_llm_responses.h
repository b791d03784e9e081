/*
 * ngx_http_llm_responses.h - what both halves of OpenAI's Responses API know
 * of a request.
 */
#ifndef _NGX_HTTP_LLM_RESPONSES_H_INCLUDED_
#define _NGX_HTTP_LLM_RESPONSES_H_INCLUDED_


#include "ngx_http_llm_tools.h"


typedef enum {
    NGX_HTTP_LLM_ITEM_NONE = 0,
    NGX_HTTP_LLM_ITEM_MESSAGE,
    NGX_HTTP_LLM_ITEM_REASONING,
    NGX_HTTP_LLM_ITEM_CALL
} ngx_http_llm_item_e;


/* in ctx->data */
typedef struct {
    ngx_http_llm_ctx_t        *ctx;
    json_t                    *body;        /* as the client sent it */

    ngx_http_llm_calls_t      *calls;       /* NULL: all is text */
    ngx_http_llm_item_e        item;        /* that is being written */
    ngx_uint_t                 n_items;     /* finished ones */
    ngx_uint_t                 n_events;
    ngx_uint_t                 n_thought;   /* tokens of thoughts */
    ngx_http_llm_buf_t         text;        /* of the item, or arguments */
    ngx_http_llm_buf_t         output;      /* finished items as JSON */
    ngx_str_t                  call_id;
    ngx_str_t                  name;
    u_char                     call_id_bytes[NGX_HTTP_LLM_CALL_ID];
    unsigned                   begun:1;
} ngx_http_llm_responses_t;


/*
 * A body of /v1/responses as one of /v1/chat/completions, a new reference.
 * NULL: ctx->error is set.
 */
json_t *ngx_http_llm_responses_chat(ngx_http_llm_ctx_t *ctx, json_t *root);


#endif /* _NGX_HTTP_LLM_RESPONSES_H_INCLUDED_ */
