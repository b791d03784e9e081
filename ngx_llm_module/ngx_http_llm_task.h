/*
 * ngx_http_llm_task.h - work on a text that may be too long for the loop.
 */
#ifndef _NGX_HTTP_LLM_TASK_H_INCLUDED_
#define _NGX_HTTP_LLM_TASK_H_INCLUDED_


#include "ngx_http_llm_json.h"


typedef void (*ngx_http_llm_work_pt)(ngx_http_llm_task_t *task);


/*
 * A task owns everything that its work touches: it may outlive the request.
 * work() runs in a thread and may use nothing of nginx but task->pool.
 */
struct ngx_http_llm_task_s {
    ngx_pool_t                  *pool;
    ngx_http_llm_ctx_t          *ctx;       /* NULL: the request has gone */
    ngx_http_llm_instance_t     *instance;
    ngx_http_llm_work_pt         work;
    void                        *thread;    /* ngx_thread_task_t */

    ngx_str_t                    text;
    const llm_model_t           *model;
    unsigned                     flags;     /* LLM_TOK_* */
    llm_engine_t                *engine;
    llm_constraint_kind_t        kind;
    ngx_uint_t                   form;      /* of the tokenizer routes */
    ngx_int_t                    max_model_len;

    ngx_http_llm_json_parsed_t   parsed;
    llm_tokens_t                 tokens;
    llm_constraint_t            *constraint;
    ngx_http_llm_buf_t           out;
    llm_code_t                   code;
    llm_err_t                    err;

    unsigned                     slow:1;    /* whatever the length; counted */
    unsigned                     running:1; /* a thread has it */
    unsigned                     ran:1;     /* the result is there */
};


/* A task with room for len bytes of text; NULL: no memory. */
ngx_http_llm_task_t *ngx_http_llm_task_new(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_work_pt work, size_t len);

/*
 * Runs the task unless it has begun: NGX_OK, it has run; NGX_AGAIN, a thread
 * runs it, ngx_http_llm_run() goes on afterwards and asks again; NGX_BUSY, it
 * is slow and no thread can take it.
 */
ngx_int_t ngx_http_llm_task_run(ngx_http_llm_task_t *task);

/* Frees the task, now or when its thread has finished; task may be NULL. */
void ngx_http_llm_task_free(ngx_http_llm_task_t *task);

/* Asks for nginx's "default" thread pool; at configuration time. */
ngx_int_t ngx_http_llm_task_init(ngx_conf_t *cf);

/* task->text -> task->parsed */
void ngx_http_llm_task_parse(ngx_http_llm_task_t *task);
/* task->text, model, flags -> task->tokens, code, err */
void ngx_http_llm_task_tokenize(ngx_http_llm_task_t *task);


#endif /* _NGX_HTTP_LLM_TASK_H_INCLUDED_ */
