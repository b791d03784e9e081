/*
 * ngx_http_llm_task.c - work that must not hold the event loop.
 *
 * Parsing and tokenizing take time in proportion to the text.  Short texts
 * are done at once; longer ones go to nginx's thread pool where the build
 * has one.  A task has its own pool and shares nothing with the request, so
 * a client that leaves in the meantime costs nothing: the request is freed
 * at once, the task when its thread gives it back.
 */
#include "ngx_http_llm_task.h"
#include "ngx_http_llm_request.h"


#if (NGX_THREADS)

static void ngx_http_llm_task_thread(void *data, ngx_log_t *log);
static void ngx_http_llm_task_done(ngx_event_t *ev);


static ngx_str_t  ngx_http_llm_task_pool = ngx_string("default");

#endif


static void ngx_http_llm_task_destroy(ngx_http_llm_task_t *task);


ngx_int_t
ngx_http_llm_task_init(ngx_conf_t *cf)
{
#if (NGX_THREADS)

    if (ngx_thread_pool_add(cf, NULL) == NULL) {
        return NGX_ERROR;
    }

#endif

    return NGX_OK;
}


ngx_http_llm_task_t *
ngx_http_llm_task_new(ngx_http_llm_ctx_t *ctx, ngx_http_llm_work_pt work,
    size_t len)
{
    ngx_pool_t           *pool;
    ngx_http_llm_task_t  *task;

    pool = ngx_create_pool(1024, ngx_cycle->log);
    if (pool == NULL) {
        return NULL;
    }

    task = ngx_pcalloc(pool, sizeof(ngx_http_llm_task_t));
    if (task == NULL) {
        ngx_destroy_pool(pool);
        return NULL;
    }

    task->pool = pool;
    task->ctx = ctx;
    task->work = work;
    task->instance = ctx->instance;
    task->model = ctx->instance->model;
    task->text.len = len;
    task->text.data = ngx_pnalloc(pool, len + 1);

    if (task->text.data == NULL) {
        ngx_destroy_pool(pool);
        return NULL;
    }

    ngx_http_llm_buf_init(&task->out, pool);

    return task;
}


ngx_int_t
ngx_http_llm_task_run(ngx_http_llm_task_t *task)
{
#if (NGX_THREADS)

    ngx_thread_pool_t  *tp;
    ngx_thread_task_t  *t;

#endif

    if (task->ran) {
        return NGX_OK;
    }

    if (task->running) {
        return NGX_AGAIN;
    }

#if (NGX_THREADS)

    if (task->slow || task->text.len > NGX_HTTP_LLM_TASK_BYTES) {

        tp = ngx_thread_pool_get((ngx_cycle_t *) ngx_cycle,
                                 &ngx_http_llm_task_pool);

        t = tp ? ngx_thread_task_alloc(task->pool, 0) : NULL;

        if (t) {
            t->ctx = task;
            t->handler = ngx_http_llm_task_thread;
            t->event.data = task;
            t->event.handler = ngx_http_llm_task_done;
            t->event.log = ngx_cycle->log;

            task->thread = t;
            task->running = 1;

            if (ngx_thread_task_post(tp, t) == NGX_OK) {
                task->instance->n_slow += task->slow;
                return NGX_AGAIN;
            }

            task->running = 0;
        }

        /* the queue is full: parsing here is better than failing */

        if (task->slow) {
            return NGX_BUSY;
        }
    }

#endif

    task->work(task);
    task->ran = 1;

    return NGX_OK;
}


#if (NGX_THREADS)

static void
ngx_http_llm_task_thread(void *data, ngx_log_t *log)
{
    ngx_http_llm_task_t  *task = data;

    task->work(task);
}


static void
ngx_http_llm_task_done(ngx_event_t *ev)
{
    ngx_http_llm_task_t  *task;

    task = ev->data;
    task->running = 0;
    task->ran = 1;
    task->instance->n_slow -= task->slow;

    if (task->ctx == NULL) {
        ngx_http_llm_task_destroy(task);
        return;
    }

    ngx_http_llm_wake(task->ctx);
}

#endif


void
ngx_http_llm_task_free(ngx_http_llm_task_t *task)
{
    if (task == NULL) {
        return;
    }

    task->ctx = NULL;

    if (!task->running) {
        ngx_http_llm_task_destroy(task);
    }
}


static void
ngx_http_llm_task_destroy(ngx_http_llm_task_t *task)
{
    if (task->parsed.value) {
        json_decref(task->parsed.value);
    }

    llm_tokens_free(&task->tokens);
    llm_constraint_free(task->constraint);
    ngx_destroy_pool(task->pool);
}


void
ngx_http_llm_task_parse(ngx_http_llm_task_t *task)
{
    ngx_http_llm_json_parse(&task->parsed, task->text.data, task->text.len);
}


void
ngx_http_llm_task_tokenize(ngx_http_llm_task_t *task)
{
    task->code = llm_tokenize(task->model, (char *) task->text.data,
                              task->text.len, task->flags, &task->tokens,
                              &task->err);
}
