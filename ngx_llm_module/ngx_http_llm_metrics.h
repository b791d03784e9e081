/*
 * ngx_http_llm_metrics.h - counters of a model, in shared memory.
 */
#ifndef _NGX_HTTP_LLM_METRICS_H_INCLUDED_
#define _NGX_HTTP_LLM_METRICS_H_INCLUDED_


#include "ngx_http_llm_request.h"


#define NGX_HTTP_LLM_TIME_BUCKETS    35     /* 0.0001 * 1.5^k s, k = 1.. */
#define NGX_HTTP_LLM_LENGTH_BUCKETS  100    /* limit / 100 * k, k = 1.. */


typedef enum {
    NGX_HTTP_LLM_ERR_VALIDATION = 0,
    NGX_HTTP_LLM_ERR_OVERLOADED,
    NGX_HTTP_LLM_ERR_GENERATION,
    NGX_HTTP_LLM_ERR_INCOMPLETE,
    NGX_HTTP_LLM_ERR_TEMPLATE,
    NGX_HTTP_LLM_ERR_DROPPED,
    NGX_HTTP_LLM_ERR_FILTERED,
    NGX_HTTP_LLM_ERR_HOOK,
    NGX_HTTP_LLM_ERR_N
} ngx_http_llm_err_e;


typedef enum {
    NGX_HTTP_LLM_TIME_TOTAL = 0,
    NGX_HTTP_LLM_TIME_VALIDATION,
    NGX_HTTP_LLM_TIME_QUEUE,
    NGX_HTTP_LLM_TIME_INFERENCE,
    NGX_HTTP_LLM_TIME_PER_TOKEN,
    NGX_HTTP_LLM_TIME_FIRST,
    NGX_HTTP_LLM_TIME_N
} ngx_http_llm_time_e;


typedef enum {
    NGX_HTTP_LLM_LENGTH_INPUT = 0,
    NGX_HTTP_LLM_LENGTH_MAX_NEW,
    NGX_HTTP_LLM_LENGTH_GENERATED,
    NGX_HTTP_LLM_LENGTH_N
} ngx_http_llm_length_e;


/* bucket i counts values in (bound i-1, bound i]; the last one the rest */
typedef struct {
    ngx_atomic_t               bucket[NGX_HTTP_LLM_TIME_BUCKETS + 1];
    ngx_atomic_t               sum_us;
} ngx_http_llm_time_histogram_t;


typedef struct {
    ngx_atomic_t               bucket[NGX_HTTP_LLM_LENGTH_BUCKETS + 1];
    ngx_atomic_t               sum;
} ngx_http_llm_length_histogram_t;


/*
 * All workers add to the same words: a request changes about twenty of them
 * once, at its end.
 */
struct ngx_http_llm_stats_s {
    ngx_uint_t                       limit;     /* of the length buckets */
    ngx_atomic_t                     requests;
    ngx_atomic_t                     success;
    ngx_atomic_t                     failure[NGX_HTTP_LLM_ERR_N];
    ngx_atomic_t                     prompt_tokens;
    ngx_atomic_t                     cached_tokens;
    ngx_atomic_t                     generated_tokens;
    ngx_http_llm_time_histogram_t    time[NGX_HTTP_LLM_TIME_N];
    ngx_http_llm_length_histogram_t  length[NGX_HTTP_LLM_LENGTH_N];
};


/* Adds the $llm_* variables. */
ngx_int_t ngx_http_llm_metrics_variables(ngx_conf_t *cf);


#endif /* _NGX_HTTP_LLM_METRICS_H_INCLUDED_ */
