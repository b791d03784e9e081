/*
 * ngx_http_llm_arena.h - models in the master: the registry and its zones.
 */
#ifndef _NGX_HTTP_LLM_ARENA_H_INCLUDED_
#define _NGX_HTTP_LLM_ARENA_H_INCLUDED_


#include "ngx_http_llm_metrics.h"


/*
 * Looks for an instance of this model that is loaded already, with its
 * settings and its draft model or (any) with whatever others; NULL if there
 * is none.  Takes no reference.
 */
ngx_http_llm_instance_t *ngx_http_llm_arena_find(ngx_http_llm_model_t *model,
    ngx_uint_t any);

/* This process ends: leaves every engine that it has joined. */
void ngx_http_llm_arena_leave(void);

/*
 * Adds the zone of a model, whose init loads it, and the cleanup of the
 * cycle that gives it back.  model->file and model->line are for messages.
 */
ngx_int_t ngx_http_llm_arena_add(ngx_conf_t *cf, ngx_http_llm_model_t *model);


/* The master ends: keeps what the engines have cached. */
void ngx_http_llm_arena_keep(ngx_http_llm_cache_t *cache, ngx_log_t *log);


/* ngx_http_llm_cache.c: what is in the folder of llm_cache_path */

/* Writes the weights there, in a process of its own. */
void ngx_http_llm_cache_weights(ngx_http_llm_model_t *model, llm_model_t *m,
    ngx_log_t *log);
/* Takes what is there of the prefix cache into a new engine. */
void ngx_http_llm_cache_restore(ngx_http_llm_model_t *model,
    llm_engine_t *engine, ngx_log_t *log);
/* Writes the prefix cache of an engine that no worker uses any more. */
void ngx_http_llm_cache_keep(ngx_http_llm_instance_t *instance,
    ngx_http_llm_cache_t *cache, ngx_log_t *log);


#endif /* _NGX_HTTP_LLM_ARENA_H_INCLUDED_ */
