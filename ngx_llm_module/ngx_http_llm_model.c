/*
 * ngx_http_llm_model.c - the llm_model block.
 *
 * Settings of one model.  The file's header, tokenizer and tensors are
 * checked here, so that "nginx -t" names the line; weights are read later,
 * in the init of the model's zone.
 */
#include "ngx_http_llm_conf.h"


#define NGX_HTTP_LLM_DEFAULT_CONTEXT  8192
#define NGX_HTTP_LLM_MAX_TEMPLATE     (1024 * 1024)
#define NGX_HTTP_LLM_DRAFTS           8


typedef char *(*ngx_http_llm_set_pt)(ngx_conf_t *cf,
    ngx_http_llm_model_t *model, ngx_str_t *value);


typedef struct {
    ngx_str_t                  name;
    ngx_uint_t                 max_args;
    ngx_http_llm_set_pt        set;
    size_t                     offset;      /* in llm_engine_conf_t */
    ngx_http_llm_bounds_t      bounds;
} ngx_http_llm_setting_t;


/* what only the parsing of one block needs */
typedef struct {
    ngx_http_llm_model_t      *model;
    ngx_uint_t                 seen;        /* bit i: setting i was given */
} ngx_http_llm_block_t;


static char *ngx_http_llm_model_setting(ngx_conf_t *cf, ngx_command_t *dummy,
    void *conf);
static char *ngx_http_llm_set_weights(ngx_conf_t *cf,
    ngx_http_llm_model_t *model, ngx_str_t *value);
static char *ngx_http_llm_set_draft(ngx_conf_t *cf,
    ngx_http_llm_model_t *model, ngx_str_t *value);
static char *ngx_http_llm_model_file(ngx_conf_t *cf, ngx_str_t *value,
    ngx_str_t *path, uint64_t *stamp);
static char *ngx_http_llm_set_quantize(ngx_conf_t *cf,
    ngx_http_llm_model_t *model, ngx_str_t *value);
static char *ngx_http_llm_set_kv_cache(ngx_conf_t *cf,
    ngx_http_llm_model_t *model, ngx_str_t *value);
static char *ngx_http_llm_set_template(ngx_conf_t *cf,
    ngx_http_llm_model_t *model, ngx_str_t *value);
static char *ngx_http_llm_model_check(ngx_conf_t *cf,
    ngx_http_llm_model_t *model);
static llm_model_t *ngx_http_llm_model_headers(ngx_conf_t *cf,
    ngx_http_llm_model_t *model, ngx_str_t *path);
static char *ngx_http_llm_model_check_draft(ngx_conf_t *cf,
    ngx_http_llm_model_t *model, const llm_model_t *m,
    const llm_model_t *draft);
static char *ngx_http_llm_model_check_info(ngx_conf_t *cf,
    ngx_http_llm_model_t *model, const llm_model_t *m,
    const llm_model_t *draft);
static ngx_int_t ngx_http_llm_model_license(ngx_conf_t *cf,
    ngx_str_t *license, const llm_model_t *m);
static char *ngx_http_llm_check_name(ngx_conf_t *cf, ngx_str_t *name);


static const ngx_http_llm_setting_t  ngx_http_llm_settings[] = {

    { ngx_string("weights"), 1, ngx_http_llm_set_weights, 0, { 0, 0 } },

    { ngx_string("quantize"), 1, ngx_http_llm_set_quantize, 0, { 0, 0 } },

    { ngx_string("draft"), 2, ngx_http_llm_set_draft, 0, { 0, 0 } },

    { ngx_string("context"), 1, NULL,
      offsetof(llm_engine_conf_t, n_ctx), { 8, 1048576 } },

    { ngx_string("kv_cache"), 2, ngx_http_llm_set_kv_cache, 0, { 0, 0 } },

    { ngx_string("threads"), 1, NULL,
      offsetof(llm_engine_conf_t, n_threads), { 1, 256 } },

    { ngx_string("parallel"), 1, NULL,
      offsetof(llm_engine_conf_t, n_parallel), { 1, 256 } },

    { ngx_string("speculate"), 1, NULL,
      offsetof(llm_engine_conf_t, speculate), { 0, 16 } },

    { ngx_string("slots"), 1, NULL,
      offsetof(llm_engine_conf_t, n_slots), { 1, 4096 } },

    { ngx_string("template"), 1, ngx_http_llm_set_template, 0, { 0, 0 } },

    { ngx_null_string, 0, NULL, 0, { 0, 0 } }
};


char *
ngx_http_llm_model(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_llm_main_conf_t *lmcf = conf;

    char                   *rv;
    ngx_str_t              *value;
    ngx_uint_t              i;
    ngx_conf_t              save;
    ngx_http_llm_block_t    block;
    ngx_http_llm_model_t   *model, **models;

    value = cf->args->elts;
    models = lmcf->models.elts;

    if (ngx_http_llm_check_name(cf, &value[1]) != NGX_CONF_OK) {
        return NGX_CONF_ERROR;
    }

    for (i = 0; i < lmcf->models.nelts; i++) {
        if (models[i]->name.len == value[1].len
            && ngx_strncmp(models[i]->name.data, value[1].data, value[1].len)
               == 0)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "duplicate llm_model \"%V\"", &value[1]);
            return NGX_CONF_ERROR;
        }
    }

    model = ngx_pcalloc(cf->pool, sizeof(ngx_http_llm_model_t));
    if (model == NULL) {
        return NGX_CONF_ERROR;
    }

    model->name = value[1];
    model->file = cf->conf_file->file.name.data;
    model->line = cf->conf_file->line;
    model->cache = &lmcf->cache;
    model->key.engine.kv_type = LLM_KV_F16;

    /* the tokens are the same with and without; it won at 1 to 64 streams */
    model->key.engine.speculate = 8;

    /*
     * "threads auto": one core stays free for the event loops.  With all of
     * them computing, one request of a hundred for a static file waits for a
     * time slice of a compute thread (bench/results.md).
     */
    model->key.engine.n_threads = (ngx_ncpu > 1)
                                  ? ngx_min(ngx_ncpu - 1, 256) : 1;

    block.model = model;
    block.seen = 0;

    save = *cf;
    cf->handler = ngx_http_llm_model_setting;
    cf->handler_conf = (void *) &block;

    rv = ngx_conf_parse(cf, NULL);

    *cf = save;

    if (rv != NGX_CONF_OK) {
        return rv;
    }

    if (model->weights.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "llm_model \"%V\" has no \"weights\"",
                           &model->name);
        return NGX_CONF_ERROR;
    }

    if (ngx_process != NGX_PROCESS_SIGNALLER
        && ngx_http_llm_model_check(cf, model) != NGX_CONF_OK)
    {
        return NGX_CONF_ERROR;
    }

    models = ngx_array_push(&lmcf->models);
    if (models == NULL) {
        return NGX_CONF_ERROR;
    }

    *models = model;

    return ngx_http_llm_arena_add(cf, model) == NGX_OK ? NGX_CONF_OK
                                                       : NGX_CONF_ERROR;
}


/* names appear in labels, headers and JSON */

static char *
ngx_http_llm_check_name(ngx_conf_t *cf, ngx_str_t *name)
{
    size_t   i;
    u_char   c;

    for (i = 0; i < name->len; i++) {
        c = name->data[i];

        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
              || (c >= '0' && c <= '9')
              || c == '_' || c == '-' || c == '.' || c == '/' || c == ':'))
        {
            break;
        }
    }

    if (name->len == 0 || name->len > 128 || i < name->len) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid model name \"%V\": 1 to 128 of letters, "
                           "digits and \"_-./:\" are allowed", name);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_llm_model_setting(ngx_conf_t *cf, ngx_command_t *dummy, void *conf)
{
    ngx_int_t                      n;
    ngx_str_t                     *value;
    ngx_uint_t                     i;
    ngx_http_llm_block_t          *block;
    const ngx_http_llm_setting_t  *s;

    value = cf->args->elts;
    block = conf;

    if (ngx_strcmp(value[0].data, "include") == 0) {
        return ngx_conf_include(cf, dummy, conf);
    }

    for (i = 0; ngx_http_llm_settings[i].name.len; i++) {
        if (ngx_strcmp(value[0].data, ngx_http_llm_settings[i].name.data)
            == 0)
        {
            break;
        }
    }

    s = &ngx_http_llm_settings[i];

    if (s->name.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown directive \"%V\" in llm_model",
                           &value[0]);
        return NGX_CONF_ERROR;
    }

    if (cf->args->nelts < 2 || cf->args->nelts > s->max_args + 1) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid number of arguments in \"%V\" directive",
                           &value[0]);
        return NGX_CONF_ERROR;
    }

    if (block->seen & ((ngx_uint_t) 1 << i)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" directive is duplicate", &value[0]);
        return NGX_CONF_ERROR;
    }

    block->seen |= (ngx_uint_t) 1 << i;

    if (s->set) {
        return s->set(cf, block->model, value);
    }

    if (s->offset == offsetof(llm_engine_conf_t, n_threads)
        && ngx_strcmp(value[1].data, "auto") == 0)
    {
        return NGX_CONF_OK;
    }

    n = ngx_http_llm_parse_number(cf, &value[0], &value[1], &s->bounds);

    if (n == NGX_ERROR) {
        return NGX_CONF_ERROR;
    }

    *(uint32_t *) ((u_char *) &block->model->key.engine + s->offset) = n;

    return NGX_CONF_OK;
}


static char *
ngx_http_llm_set_weights(ngx_conf_t *cf, ngx_http_llm_model_t *model,
    ngx_str_t *value)
{
    return ngx_http_llm_model_file(cf, value, &model->weights,
                                   &model->key.stamp);
}


static char *
ngx_http_llm_set_draft(ngx_conf_t *cf, ngx_http_llm_model_t *model,
    ngx_str_t *value)
{
    ngx_int_t   n;
    ngx_str_t   number;

    static ngx_str_t                    name = ngx_string("draft tokens=");
    static const ngx_http_llm_bounds_t  bounds = { 1, 16 };

    model->key.engine.n_draft = NGX_HTTP_LLM_DRAFTS;

    if (cf->args->nelts == 3) {

        if (ngx_strncmp(value[2].data, "tokens=", 7) != 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\" of \"draft\"",
                               &value[2]);
            return NGX_CONF_ERROR;
        }

        number.data = value[2].data + 7;
        number.len = value[2].len - 7;

        n = ngx_http_llm_parse_number(cf, &name, &number, &bounds);

        if (n == NGX_ERROR) {
            return NGX_CONF_ERROR;
        }

        model->key.engine.n_draft = n;
    }

    return ngx_http_llm_model_file(cf, value, &model->draft,
                                   &model->key.draft_stamp);
}


/* the file or directory of a model that value[1] names */

static char *
ngx_http_llm_model_file(ngx_conf_t *cf, ngx_str_t *value, ngx_str_t *path,
    uint64_t *stamp)
{
    llm_err_t  err;

    *path = value[1];

    if (ngx_conf_full_name(cf->cycle, path, 1) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    if (ngx_process == NGX_PROCESS_SIGNALLER) {
        return NGX_CONF_OK;
    }

    if (llm_model_stamp((char *) path->data, stamp, &err) != LLM_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" cannot be used: %s", &value[0], err.msg);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_llm_set_quantize(ngx_conf_t *cf, ngx_http_llm_model_t *model,
    ngx_str_t *value)
{
    ngx_uint_t           i;
    ngx_http_llm_key_t  *key;

    key = &model->key;

    if (value[1].len >= sizeof(key->quantize)
        || !llm_model_can_quantize((char *) value[1].data))
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid type \"%V\" of \"quantize\", it must be "
                           "\"q8_0\", \"q6_k\", \"q5_k\", \"q5_1\", \"q5_0\", "
                           "\"q4_k\", \"q4_1\" or \"q4_0\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    for (i = 0; i <= value[1].len; i++) {
        key->quantize[i] = ngx_tolower(value[1].data[i]);
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_llm_set_kv_cache(ngx_conf_t *cf, ngx_http_llm_model_t *model,
    ngx_str_t *value)
{
    off_t  size;

    size = ngx_parse_offset(&value[1]);

    if (size == NGX_ERROR || size == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid size \"%V\" of \"kv_cache\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    model->key.engine.kv_bytes = (size_t) size;

    if (cf->args->nelts == 2) {
        return NGX_CONF_OK;
    }

    if (!llm_kv_by_name((char *) value[2].data, &model->key.engine.kv_type)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid type \"%V\" of \"kv_cache\", it must be "
                           "\"f32\", \"f16\" or \"q8_0\"", &value[2]);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_llm_set_template(ngx_conf_t *cf, ngx_http_llm_model_t *model,
    ngx_str_t *value)
{
    ngx_str_t  err, *format;

    if (ngx_process == NGX_PROCESS_SIGNALLER) {
        return NGX_CONF_OK;
    }

    format = ngx_http_llm_format_find(&value[1]);

    if (format) {
        model->template = *format;
        return NGX_CONF_OK;
    }

    if (ngx_http_llm_read_file(cf, &value[1], NGX_HTTP_LLM_MAX_TEMPLATE,
                               &model->template)
        != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    if (model->template.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "template \"%V\" is empty",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    if (ngx_http_llm_lua_check_template(cf, &model->template, &err)
        != NGX_OK)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "template \"%V\": %V",
                           &value[1], &err);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


/* a model that is loaded already need not be read again */

static char *
ngx_http_llm_model_check(ngx_conf_t *cf, ngx_http_llm_model_t *model)
{
    char                     *rv;
    llm_model_t              *m, *draft, *opened, *opened_draft;
    ngx_http_llm_instance_t  *instance;

    rv = NGX_CONF_ERROR;
    opened = NULL;
    opened_draft = NULL;

    instance = ngx_http_llm_arena_find(model, 1);

    if (instance) {
        m = instance->model;

    } else {
        m = opened = ngx_http_llm_model_headers(cf, model, &model->weights);

        if (m == NULL) {
            goto done;
        }
    }

    if (model->key.engine.n_ctx == 0) {
        model->key.engine.n_ctx = ngx_min(llm_model_info(m)->n_ctx_train,
                                          NGX_HTTP_LLM_DEFAULT_CONTEXT);
    }

    model->n_ctx = model->key.engine.n_ctx;

    instance = ngx_http_llm_arena_find(model, 0);

    if (instance || model->draft.len == 0) {
        draft = instance ? instance->draft : NULL;

    } else {
        draft = opened_draft = ngx_http_llm_model_headers(cf, model,
                                                          &model->draft);

        if (draft == NULL
            || ngx_http_llm_model_check_draft(cf, model, m, draft)
               != NGX_CONF_OK)
        {
            goto done;
        }
    }

    rv = ngx_http_llm_model_check_info(cf, model, m, draft);

done:

    llm_model_close(opened_draft);
    llm_model_close(opened);

    return rv;
}


static llm_model_t *
ngx_http_llm_model_headers(ngx_conf_t *cf, ngx_http_llm_model_t *model,
    ngx_str_t *path)
{
    llm_err_t          err;
    llm_model_t       *m;
    llm_model_conf_t   conf;

    ngx_memzero(&conf, sizeof(llm_model_conf_t));
    conf.weights = (char *) path->data;
    conf.quantize = model->key.quantize[0] ? model->key.quantize : NULL;
    conf.check_only = true;

    if (llm_model_open(&m, &conf, &err) != LLM_OK) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "llm_model \"%V\": %s in %s:%ui", &model->name,
                      err.msg, model->file, model->line);
        return NULL;
    }

    return m;
}


static char *
ngx_http_llm_model_check_draft(ngx_conf_t *cf, ngx_http_llm_model_t *model,
    const llm_model_t *m, const llm_model_t *draft)
{
    llm_err_t  err;

    if (llm_draft_check(m, draft, &err) != LLM_OK) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "llm_model \"%V\": \"draft\" cannot be used: %s "
                      "in %s:%ui", &model->name, err.msg, model->file,
                      model->line);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_llm_model_license(ngx_conf_t *cf, ngx_str_t *license,
    const llm_model_t *m)
{
    const char  *text;

    text = llm_model_info(m)->license;

    license->len = ngx_strlen(text);
    license->data = ngx_pnalloc(cf->pool, license->len + 1);

    if (license->data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(license->data, text, license->len);

    return NGX_OK;
}


static char *
ngx_http_llm_model_check_info(ngx_conf_t *cf, ngx_http_llm_model_t *model,
    const llm_model_t *m, const llm_model_t *draft)
{
    size_t                    len, need;
    ngx_str_t                 err;
    llm_engine_conf_t        *engine;
    const llm_model_info_t   *info;

    info = llm_model_info(m);
    engine = &model->key.engine;

    need = llm_model_kv_bytes(m, engine->kv_type);

    if (draft) {
        need += llm_model_kv_bytes(draft, engine->kv_type);
    }

    need *= engine->n_ctx;

    if (engine->kv_bytes && engine->kv_bytes < need) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "llm_model \"%V\": a \"kv_cache\" of %uz bytes does not "
                      "hold one context of %ui tokens, which needs %uz, "
                      "in %s:%ui", &model->name, engine->kv_bytes,
                      model->n_ctx, need, model->file, model->line);
        return NGX_CONF_ERROR;
    }

    if (ngx_http_llm_model_license(cf, &model->license, m) != NGX_OK
        || (draft
            && ngx_http_llm_model_license(cf, &model->draft_license, draft)
               != NGX_OK))
    {
        return NGX_CONF_ERROR;
    }

    if (model->template.len || info->chat_template == NULL) {
        return NGX_CONF_OK;
    }

    len = ngx_strlen(info->chat_template);

    model->template.data = ngx_pnalloc(cf->pool, len);
    if (model->template.data == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memcpy(model->template.data, info->chat_template, len);
    model->template.len = len;

    /* a model whose template we cannot read is still good for /generate */

    if (ngx_http_llm_lua_check_template(cf, &model->template, &err)
        != NGX_OK)
    {
        ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                      "llm_model \"%V\": its chat template cannot be used: "
                      "%V in %s:%ui", &model->name, &err, model->file,
                      model->line);
    }

    return NGX_CONF_OK;
}
