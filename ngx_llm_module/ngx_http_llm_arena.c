/*
 * ngx_http_llm_arena.c - the life of models in the master.
 *
 * The registry holds every loaded instance (weights and engine arena) with
 * the number of cycles and llm_model blocks that use it.  It is a plain list
 * in the memory of the master, so a reload that changes neither file nor
 * settings finds its instance again and reads nothing.
 *
 * Loading happens in the init of a shared zone, the only moment of nginx's
 * start where a failure rolls a reload back and the old workers go on.  The
 * zone itself holds the counters of the model; its name says what must not
 * change under them.  Processes inherit the registry by fork and never free
 * what they did not make: ngx_process tells who may.
 */
#include "ngx_http_llm_arena.h"


#define NGX_HTTP_LLM_ZONE_SIZE       65536
#define NGX_HTTP_LLM_PROGRESS_SEC    2      /* between two lines */


typedef struct {
    ngx_log_t                 *log;
    ngx_http_llm_model_t      *model;
    time_t                     next;
} ngx_http_llm_progress_t;


static ngx_uint_t ngx_http_llm_arena_differ(ngx_str_t *a, ngx_str_t *b);
static ngx_int_t ngx_http_llm_arena_init(ngx_shm_zone_t *zone, void *data);
static ngx_int_t ngx_http_llm_arena_env(ngx_http_llm_model_t *model,
    ngx_log_t *log);
static ngx_int_t ngx_http_llm_arena_stats(ngx_shm_zone_t *zone,
    ngx_http_llm_model_t *old);
static ngx_int_t ngx_http_llm_arena_acquire(ngx_http_llm_model_t *model,
    ngx_log_t *log);
static ngx_http_llm_instance_t *ngx_http_llm_arena_load(
    ngx_http_llm_model_t *model, ngx_log_t *log);
static llm_model_t *ngx_http_llm_arena_weights(ngx_http_llm_model_t *model,
    ngx_str_t *path, ngx_log_t *log);
static void ngx_http_llm_arena_progress(void *data, size_t done,
    size_t total);
static void ngx_http_llm_arena_unused(void *data, const char *reason);
static void ngx_http_llm_arena_cleanup(void *data);
static void ngx_http_llm_arena_free(ngx_http_llm_instance_t *instance);


static ngx_queue_t  ngx_http_llm_instances = {
    &ngx_http_llm_instances, &ngx_http_llm_instances
};


static ngx_uint_t
ngx_http_llm_arena_differ(ngx_str_t *a, ngx_str_t *b)
{
    return a->len != b->len
           || (a->len && ngx_strncmp(a->data, b->data, a->len) != 0);
}


ngx_http_llm_instance_t *
ngx_http_llm_arena_find(ngx_http_llm_model_t *model, ngx_uint_t any)
{
    ngx_queue_t              *q;
    ngx_http_llm_key_t       *k, *key;
    ngx_http_llm_instance_t  *instance;

    key = &model->key;

    for (q = ngx_queue_head(&ngx_http_llm_instances);
         q != ngx_queue_sentinel(&ngx_http_llm_instances);
         q = ngx_queue_next(q))
    {
        instance = ngx_queue_data(q, ngx_http_llm_instance_t, queue);
        k = &instance->key;

        if (ngx_http_llm_arena_differ(&instance->path, &model->weights)
            || k->stamp != key->stamp
            || ngx_strcmp(k->quantize, key->quantize) != 0)
        {
            continue;
        }

        if (any
            || (!ngx_http_llm_arena_differ(&instance->draft_path,
                                           &model->draft)
                && k->draft_stamp == key->draft_stamp
                && k->engine.n_draft == key->engine.n_draft
                && k->engine.n_ctx == key->engine.n_ctx
                && k->engine.kv_type == key->engine.kv_type
                && k->engine.kv_bytes == key->engine.kv_bytes
                && k->engine.n_slots == key->engine.n_slots
                && k->engine.n_parallel == key->engine.n_parallel
                && k->engine.n_threads == key->engine.n_threads
                && k->engine.speculate == key->engine.speculate
                && k->engine.max_top == key->engine.max_top))
        {
            return instance;
        }
    }

    return NULL;
}


ngx_int_t
ngx_http_llm_arena_add(ngx_conf_t *cf, ngx_http_llm_model_t *model)
{
    u_char              *p;
    ngx_str_t            name;
    ngx_shm_zone_t      *zone;
    ngx_core_conf_t     *ccf;
    ngx_pool_cleanup_t  *cln;

    ccf = (ngx_core_conf_t *) ngx_get_conf(cf->cycle->conf_ctx,
                                           ngx_core_module);
    model->env = &ccf->env;

    /* the buckets of the histograms depend on the context */

    name.len = sizeof("llm_model::") - 1 + model->name.len + NGX_INT_T_LEN;
    name.data = ngx_pnalloc(cf->pool, name.len);
    if (name.data == NULL) {
        return NGX_ERROR;
    }

    p = ngx_sprintf(name.data, "llm_model:%V:%ui", &model->name,
                    model->n_ctx);
    name.len = p - name.data;

    zone = ngx_shared_memory_add(cf, &name, NGX_HTTP_LLM_ZONE_SIZE,
                                 &ngx_http_llm_module);
    if (zone == NULL) {
        return NGX_ERROR;
    }

    zone->init = ngx_http_llm_arena_init;
    zone->data = model;

    cln = ngx_pool_cleanup_add(cf->cycle->pool, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    cln->handler = ngx_http_llm_arena_cleanup;
    cln->data = model;

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_arena_init(ngx_shm_zone_t *zone, void *data)
{
    ngx_log_t  *log;

    log = zone->shm.log;

    if (ngx_http_llm_arena_env(zone->data, log) != NGX_OK
        || ngx_http_llm_arena_stats(zone, data) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ngx_test_config) {
        return NGX_OK;
    }

    return ngx_http_llm_arena_acquire(zone->data, log);
}


/* "env LLM_KERN=..." reaches the workers only; it may follow http {} */

static ngx_int_t
ngx_http_llm_arena_env(ngx_http_llm_model_t *model, ngx_log_t *log)
{
    ngx_str_t   *value;
    llm_err_t    err;
    ngx_uint_t   i;

    value = model->env->elts;

    for (i = 0; i < model->env->nelts; i++) {
        if (ngx_strncmp(value[i].data, "LLM_KERN=", 9) == 0
            && llm_kern_check((char *) value[i].data + 9, &err) != LLM_OK)
        {
            ngx_log_error(NGX_LOG_EMERG, log, 0, "\"env\" directive: %s",
                          err.msg);
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_arena_stats(ngx_shm_zone_t *zone, ngx_http_llm_model_t *old)
{
    ngx_slab_pool_t       *shpool;
    ngx_http_llm_model_t  *model;

    model = zone->data;
    shpool = (ngx_slab_pool_t *) zone->shm.addr;

    if (old && old->stats == shpool->data) {
        model->stats = old->stats;
        return NGX_OK;
    }

    model->stats = ngx_slab_calloc(shpool, sizeof(ngx_http_llm_stats_t));
    if (model->stats == NULL) {
        return NGX_ERROR;
    }

    model->stats->limit = model->n_ctx;
    shpool->data = model->stats;

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_arena_acquire(ngx_http_llm_model_t *model, ngx_log_t *log)
{
    ngx_http_llm_instance_t  *instance;

    instance = ngx_http_llm_arena_find(model, 0);

    if (instance == NULL) {
        instance = ngx_http_llm_arena_load(model, log);

        if (instance == NULL) {
            return NGX_ERROR;
        }

        ngx_queue_insert_tail(&ngx_http_llm_instances, &instance->queue);
    }

    instance->refs++;
    model->instance = instance;

    return NGX_OK;
}


static ngx_http_llm_instance_t *
ngx_http_llm_arena_load(ngx_http_llm_model_t *model, ngx_log_t *log)
{
    size_t                    size;
    u_char                   *p;
    uint64_t                  start;
    llm_err_t                 err;
    llm_engine_conf_t         conf;
    ngx_http_llm_instance_t  *instance;

    instance = ngx_calloc(sizeof(ngx_http_llm_instance_t) + model->weights.len
                          + model->draft.len, log);
    if (instance == NULL) {
        return NULL;
    }

    instance->path.len = model->weights.len;
    instance->path.data = (u_char *) (instance + 1);
    p = ngx_cpymem(instance->path.data, model->weights.data,
                   model->weights.len);

    if (model->draft.len) {
        instance->draft_path.len = model->draft.len;
        instance->draft_path.data = p;
        ngx_memcpy(p, model->draft.data, model->draft.len);
    }

    instance->key = model->key;

    start = ngx_http_llm_now();

    instance->model = ngx_http_llm_arena_weights(model, &model->weights, log);

    if (instance->model == NULL) {
        goto failed;
    }

    size = llm_model_info(instance->model)->weight_bytes;
    conf = model->key.engine;

    if (model->draft.len) {
        instance->draft = ngx_http_llm_arena_weights(model, &model->draft,
                                                     log);
        if (instance->draft == NULL) {
            goto failed;
        }

        size += llm_model_info(instance->draft)->weight_bytes;
        conf.draft = instance->draft;
    }

    if (llm_engine_new(&instance->engine, instance->model, &conf, &err)
        != LLM_OK)
    {
        ngx_log_error(NGX_LOG_EMERG, log, 0,
                      "llm_model \"%V\": %s in %s:%ui",
                      &model->name, err.msg, model->file, model->line);
        goto failed;
    }

    instance->loaded = ngx_time();

    ngx_log_error(NGX_LOG_NOTICE, log, 0,
                  "llm_model \"%V\": %uz MB of weights %s in %uL ms",
                  &model->name, size >> 20,
                  llm_model_info(instance->model)->mapped ? "mapped"
                                                          : "loaded",
                  (ngx_http_llm_now() - start) / 1000000);

    if (model->cache->path.len && model->cache->prefixes) {
        ngx_http_llm_cache_restore(model, instance->engine, log);
    }

    return instance;

failed:

    llm_model_close(instance->draft);
    llm_model_close(instance->model);
    ngx_free(instance);

    return NULL;
}


static llm_model_t *
ngx_http_llm_arena_weights(ngx_http_llm_model_t *model, ngx_str_t *path,
    ngx_log_t *log)
{
    llm_err_t                err;
    llm_model_t             *m;
    llm_model_conf_t         conf;
    ngx_http_llm_progress_t  progress;

    progress.log = log;
    progress.model = model;
    progress.next = ngx_http_llm_now() / 1000000000
                    + NGX_HTTP_LLM_PROGRESS_SEC;

    ngx_memzero(&conf, sizeof(llm_model_conf_t));
    conf.weights = (char *) path->data;
    conf.quantize = model->key.quantize[0] ? model->key.quantize : NULL;
    conf.progress = ngx_http_llm_arena_progress;
    conf.progress_ctx = &progress;
    conf.unused = ngx_http_llm_arena_unused;

    if (model->cache->path.len) {
        conf.cache_dir = (char *) model->cache->path.data;
    }

    if (llm_model_open(&m, &conf, &err) != LLM_OK) {
        ngx_log_error(NGX_LOG_EMERG, log, 0,
                      "llm_model \"%V\" cannot be loaded: %s in %s:%ui",
                      &model->name, err.msg, model->file, model->line);
        return NULL;
    }

    if (conf.cache_dir && !llm_model_info(m)->mapped) {
        ngx_http_llm_cache_weights(model, m, log);
    }

    return m;
}


static void
ngx_http_llm_arena_progress(void *data, size_t done, size_t total)
{
    ngx_http_llm_progress_t *progress = data;

    time_t  now;

    now = ngx_http_llm_now() / 1000000000;

    if (now < progress->next || total == 0) {
        return;
    }

    progress->next = now + NGX_HTTP_LLM_PROGRESS_SEC;

    ngx_time_update();

    ngx_log_error(NGX_LOG_NOTICE, progress->log, 0,
                  "llm_model \"%V\": %uz of %uz MB loaded",
                  &progress->model->name, done >> 20, total >> 20);
}


static void
ngx_http_llm_arena_unused(void *data, const char *reason)
{
    ngx_http_llm_progress_t *progress = data;

    ngx_log_error(NGX_LOG_NOTICE, progress->log, 0,
                  "llm_model \"%V\": kept weights are not used: %s",
                  &progress->model->name, reason);
}


/*
 * Runs when a cycle ends: in the master after a reload or a failed start,
 * and in every worker at its exit, where an engine thread may still be in
 * the arena.
 */

static void
ngx_http_llm_arena_cleanup(void *data)
{
    ngx_http_llm_model_t *model = data;

    ngx_http_llm_instance_t  *instance;

    instance = model->instance;
    model->instance = NULL;

    if (instance == NULL
        || ngx_process == NGX_PROCESS_WORKER
        || ngx_process == NGX_PROCESS_HELPER)
    {
        return;
    }

    if (--instance->refs == 0) {
        ngx_http_llm_arena_free(instance);
    }
}


void
ngx_http_llm_arena_leave(void)
{
    ngx_queue_t              *q;
    ngx_http_llm_instance_t  *instance;

    for (q = ngx_queue_head(&ngx_http_llm_instances);
         q != ngx_queue_sentinel(&ngx_http_llm_instances);
         q = ngx_queue_next(q))
    {
        instance = ngx_queue_data(q, ngx_http_llm_instance_t, queue);
        ngx_http_llm_engine_leave(instance);
    }
}


void
ngx_http_llm_arena_keep(ngx_http_llm_cache_t *cache, ngx_log_t *log)
{
    ngx_queue_t              *q;
    ngx_http_llm_instance_t  *instance;

    for (q = ngx_queue_head(&ngx_http_llm_instances);
         q != ngx_queue_sentinel(&ngx_http_llm_instances);
         q = ngx_queue_next(q))
    {
        instance = ngx_queue_data(q, ngx_http_llm_instance_t, queue);
        ngx_http_llm_cache_keep(instance, cache, log);
    }
}


static void
ngx_http_llm_arena_free(ngx_http_llm_instance_t *instance)
{
    ngx_queue_remove(&instance->queue);

    /* with "master_process off" this process serves too */

    ngx_http_llm_engine_leave(instance);

    llm_engine_free(instance->engine);
    llm_model_close(instance->draft);
    llm_model_close(instance->model);
    ngx_free(instance);
}
