/*
 * ngx_http_llm_conf.c - configuration of locations.
 *
 * Setters, inheritance, and the checks that need several values at once.
 * Whatever is wrong is reported with the file and the line of its directive
 * where one directive is to blame.
 */
#include "ngx_http_llm_conf.h"


#define NGX_HTTP_LLM_NGINX_BODY_SIZE  (1 * 1024 * 1024)
#define NGX_HTTP_LLM_BODY_SIZE        (2 * 1024 * 1024)


static ngx_http_llm_model_t *ngx_http_llm_find_model(
    ngx_http_llm_main_conf_t *lmcf, ngx_str_t *name);
static char *ngx_http_llm_merge_pass(ngx_conf_t *cf,
    ngx_http_llm_loc_conf_t *prev, ngx_http_llm_loc_conf_t *conf);
static char *ngx_http_llm_merge_lengths(ngx_conf_t *cf,
    ngx_http_llm_loc_conf_t *conf);


static ngx_http_llm_watermark_t  ngx_http_llm_watermark_default = { 0.5, 2 };


void *
ngx_http_llm_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_llm_main_conf_t  *lmcf;

    lmcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_llm_main_conf_t));
    if (lmcf == NULL) {
        return NULL;
    }

    if (ngx_array_init(&lmcf->models, cf->pool, 4,
                       sizeof(ngx_http_llm_model_t *))
        != NGX_OK)
    {
        return NULL;
    }

    lmcf->lua.memory = NGX_CONF_UNSET_SIZE;
    lmcf->lua.steps = NGX_CONF_UNSET_UINT;
    lmcf->lua.timeout = NGX_CONF_UNSET_MSEC;
    lmcf->lua.output = NGX_CONF_UNSET_SIZE;
    lmcf->lua.jit = NGX_CONF_UNSET;

    return lmcf;
}


char *
ngx_http_llm_init_main_conf(ngx_conf_t *cf, void *conf)
{
    ngx_http_llm_main_conf_t *lmcf = conf;

    ngx_conf_init_size_value(lmcf->lua.memory, 64 * 1024 * 1024);
    ngx_conf_init_uint_value(lmcf->lua.steps, 10000000);
    ngx_conf_init_msec_value(lmcf->lua.timeout, 50);
    ngx_conf_init_size_value(lmcf->lua.output, 8 * 1024 * 1024);
    ngx_conf_init_value(lmcf->lua.jit, 0);

    return NGX_CONF_OK;
}


void *
ngx_http_llm_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_llm_loc_conf_t  *conf;

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_http_llm_loc_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     conf->model = NULL;
     *     conf->model_name = { 0, NULL };
     *     conf->route = NGX_HTTP_LLM_ANY;
     *     conf->model_id = { 0, NULL };
     *     conf->compute_type = { 0, NULL };
     */

    conf->max_concurrent_requests = NGX_CONF_UNSET;
    conf->max_queue = NGX_CONF_UNSET;
    conf->max_best_of = NGX_CONF_UNSET;
    conf->max_stop_sequences = NGX_CONF_UNSET;
    conf->max_top_n_tokens = NGX_CONF_UNSET;
    conf->max_client_batch_size = NGX_CONF_UNSET;
    conf->set_input_tokens = NGX_CONF_UNSET;
    conf->set_total_tokens = NGX_CONF_UNSET;
    conf->default_max_new_tokens = NGX_CONF_UNSET;
    conf->cors_origins = NGX_CONF_UNSET_PTR;
    conf->licenses = NGX_CONF_UNSET_PTR;
    conf->api_keys = NGX_CONF_UNSET_PTR;
    conf->return_full_text = NGX_CONF_UNSET;
    conf->prefill_logprobs = NGX_CONF_UNSET;
    conf->grammar = NGX_CONF_UNSET;
    conf->reasoning = NGX_CONF_UNSET;
    conf->watermark = NGX_CONF_UNSET_PTR;
    conf->stream_errors = NGX_CONF_UNSET_UINT;
    conf->error_format = NGX_CONF_UNSET_UINT;
    conf->pooling = NGX_CONF_UNSET_UINT;
    conf->sse_keepalive = NGX_CONF_UNSET_MSEC;
    conf->generation_timeout = NGX_CONF_UNSET_MSEC;
    conf->queue_timeout = NGX_CONF_UNSET_MSEC;
    conf->prompt_hook = NGX_CONF_UNSET_PTR;
    conf->output_hook = NGX_CONF_UNSET_PTR;

    return conf;
}


char *
ngx_http_llm_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_llm_loc_conf_t *prev = parent;
    ngx_http_llm_loc_conf_t *conf = child;

    ngx_str_t  *any;

    if (prev->cors_origins == NGX_CONF_UNSET_PTR
        && conf->cors_origins == NGX_CONF_UNSET_PTR)
    {
        conf->cors_origins = ngx_array_create(cf->pool, 1, sizeof(ngx_str_t));
        if (conf->cors_origins == NULL) {
            return NGX_CONF_ERROR;
        }

        any = ngx_array_push(conf->cors_origins);
        ngx_str_set(any, "*");
    }

    ngx_conf_merge_ptr_value(conf->cors_origins, prev->cors_origins, NULL);
    ngx_conf_merge_ptr_value(conf->licenses, prev->licenses, NULL);
    ngx_conf_merge_ptr_value(conf->api_keys, prev->api_keys, NULL);

    ngx_conf_merge_value(conf->max_concurrent_requests,
                         prev->max_concurrent_requests, 128);
    ngx_conf_merge_value(conf->max_queue, prev->max_queue, -1);
    ngx_conf_merge_value(conf->max_best_of, prev->max_best_of, 2);
    ngx_conf_merge_value(conf->max_stop_sequences, prev->max_stop_sequences,
                         16);
    ngx_conf_merge_value(conf->max_top_n_tokens, prev->max_top_n_tokens, 20);
    ngx_conf_merge_value(conf->max_client_batch_size,
                         prev->max_client_batch_size, 32);
    ngx_conf_merge_value(conf->set_input_tokens, prev->set_input_tokens, 0);
    ngx_conf_merge_value(conf->set_total_tokens, prev->set_total_tokens, 0);
    ngx_conf_merge_value(conf->default_max_new_tokens,
                         prev->default_max_new_tokens, 0);

    ngx_conf_merge_str_value(conf->model_id, prev->model_id, "");
    ngx_conf_merge_str_value(conf->compute_type, prev->compute_type,
                             "cpu+optimized");
    ngx_conf_merge_value(conf->return_full_text, prev->return_full_text, 1);
    ngx_conf_merge_value(conf->prefill_logprobs, prev->prefill_logprobs, 1);
    ngx_conf_merge_value(conf->grammar, prev->grammar, 1);
    ngx_conf_merge_value(conf->reasoning, prev->reasoning, 1);
    ngx_conf_merge_str_value(conf->tool_prompt, prev->tool_prompt, "");
    ngx_conf_merge_ptr_value(conf->watermark, prev->watermark,
                             &ngx_http_llm_watermark_default);
    ngx_conf_merge_uint_value(conf->stream_errors, prev->stream_errors, 0);
    ngx_conf_merge_uint_value(conf->error_format, prev->error_format,
                              NGX_HTTP_LLM_FORMAT_AUTO);
    ngx_conf_merge_uint_value(conf->pooling, prev->pooling, LLM_EMBED_MEAN);
    ngx_conf_merge_msec_value(conf->sse_keepalive, prev->sse_keepalive,
                              15000);
    ngx_conf_merge_msec_value(conf->generation_timeout,
                              prev->generation_timeout, 3600000);
    ngx_conf_merge_msec_value(conf->queue_timeout, prev->queue_timeout, 0);

    ngx_conf_merge_ptr_value(conf->prompt_hook, prev->prompt_hook, NULL);
    ngx_conf_merge_ptr_value(conf->output_hook, prev->output_hook, NULL);

    return ngx_http_llm_merge_pass(cf, prev, conf);
}


static char *
ngx_http_llm_merge_pass(ngx_conf_t *cf, ngx_http_llm_loc_conf_t *prev,
    ngx_http_llm_loc_conf_t *conf)
{
    ngx_http_core_loc_conf_t  *clcf;
    ngx_http_llm_main_conf_t  *lmcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    /* blocks of "if" and "limit_except" are part of their location */

    if (clcf->noname) {
        conf->location = prev->location;
        conf->prefix = prev->prefix;

    } else {
        conf->location = clcf->name;
        conf->prefix = !(clcf->exact_match || clcf->named);

#if (NGX_PCRE)
        if (clcf->regex) {
            conf->prefix = 0;
        }
#endif
    }

    if (clcf->noname && conf->model_name.len == 0) {
        conf->model_name = prev->model_name;
        conf->model = prev->model;
        conf->file = prev->file;
        conf->line = prev->line;

        if (conf->route == NGX_HTTP_LLM_ANY) {
            conf->route = prev->route;
        }

        if (clcf->lmt_excpt && clcf->handler == NULL && conf->model) {
            clcf->handler = ngx_http_llm_handler;
        }
    }

    if (conf->model_name.len == 0) {

        if (conf->route != NGX_HTTP_LLM_ANY) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "\"%V\" needs \"llm_pass\" in the same location "
                          "in %s:%ui", &conf->route_name, conf->file,
                          conf->line);
            return NGX_CONF_ERROR;
        }

        return NGX_CONF_OK;
    }

    if (conf->model == NULL) {
        lmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_llm_module);
        conf->model = ngx_http_llm_find_model(lmcf, &conf->model_name);

        if (conf->model == NULL) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "unknown llm_model \"%V\" in %s:%ui",
                          &conf->model_name, conf->file, conf->line);
            return NGX_CONF_ERROR;
        }
    }

    conf->model->passed = 1;

    if (ngx_http_llm_license_check(cf, conf->licenses, conf->model,
                                   conf->file, conf->line)
        != NGX_CONF_OK)
    {
        return NGX_CONF_ERROR;
    }

    /* nginx's own default is too small for the API; 1m counts as unset */

    if (clcf->client_max_body_size == NGX_HTTP_LLM_NGINX_BODY_SIZE) {
        clcf->client_max_body_size = NGX_HTTP_LLM_BODY_SIZE;
    }

    conf->model->key.engine.max_top = ngx_max(conf->model->key.engine.max_top,
                                              (uint32_t)
                                              conf->max_top_n_tokens);

    return ngx_http_llm_merge_lengths(cf, conf);
}


static char *
ngx_http_llm_merge_lengths(ngx_conf_t *cf, ngx_http_llm_loc_conf_t *conf)
{
    ngx_int_t  n_ctx;

    n_ctx = conf->model->n_ctx;

    if (n_ctx == 0) {

        /* "nginx -s ..." does not look at models */

        return NGX_CONF_OK;
    }

    conf->max_total_tokens = conf->set_total_tokens ? conf->set_total_tokens
                                                    : n_ctx;
    conf->max_input_tokens = conf->set_input_tokens
                             ? conf->set_input_tokens
                             : conf->max_total_tokens - 1;

    if (conf->max_total_tokens > n_ctx) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"llm_max_total_tokens\" %i exceeds the context of "
                      "%i tokens of llm_model \"%V\" in %s:%ui",
                      conf->max_total_tokens, n_ctx, &conf->model->name,
                      conf->file, conf->line);
        return NGX_CONF_ERROR;
    }

    if (conf->max_input_tokens >= conf->max_total_tokens) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"llm_max_input_tokens\" %i must be less than "
                      "\"llm_max_total_tokens\" %i in %s:%ui",
                      conf->max_input_tokens, conf->max_total_tokens,
                      conf->file, conf->line);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static ngx_http_llm_model_t *
ngx_http_llm_find_model(ngx_http_llm_main_conf_t *lmcf, ngx_str_t *name)
{
    ngx_uint_t              i;
    ngx_http_llm_model_t  **models;

    models = lmcf->models.elts;

    for (i = 0; i < lmcf->models.nelts; i++) {
        if (models[i]->name.len == name->len
            && ngx_strncmp(models[i]->name.data, name->data, name->len) == 0)
        {
            return models[i];
        }
    }

    return NULL;
}


/* ---------------------------------------------------------------- setters */

char *
ngx_http_llm_pass(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_llm_loc_conf_t *llcf = conf;

    ngx_str_t                 *value;
    ngx_http_core_loc_conf_t  *clcf;

    if (llcf->model_name.len) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (value[1].len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "empty model name");
        return NGX_CONF_ERROR;
    }

    llcf->model_name = value[1];
    llcf->file = cf->conf_file->file.name.data;
    llcf->line = cf->conf_file->line;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_http_llm_handler;

    return NGX_CONF_OK;
}


char *
ngx_http_llm_one_route(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_llm_loc_conf_t *llcf = conf;

    if (llcf->route != NGX_HTTP_LLM_ANY) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" conflicts with \"%V\": a location serves "
                           "one route or all", &cmd->name, &llcf->route_name);
        return NGX_CONF_ERROR;
    }

    llcf->route = (ngx_uint_t) (uintptr_t) cmd->post;
    llcf->route_name = cmd->name;

    if (llcf->file == NULL) {
        llcf->file = cf->conf_file->file.name.data;
        llcf->line = cf->conf_file->line;
    }

    return NGX_CONF_OK;
}


ngx_int_t
ngx_http_llm_parse_number(ngx_conf_t *cf, ngx_str_t *name, ngx_str_t *value,
    const ngx_http_llm_bounds_t *bounds)
{
    ngx_int_t  n;

    n = ngx_atoi(value->data, value->len);

    if (n == NGX_ERROR || n < bounds->low || n > bounds->high) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value \"%V\" of \"%V\", it must be from "
                           "%i to %i", value, name, bounds->low,
                           bounds->high);
        return NGX_ERROR;
    }

    return n;
}


char *
ngx_http_llm_number(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char  *p = conf;

    ngx_int_t  *np, n;
    ngx_str_t  *value;

    np = (ngx_int_t *) (p + cmd->offset);

    if (*np != NGX_CONF_UNSET) {
        return "is duplicate";
    }

    value = cf->args->elts;

    n = ngx_http_llm_parse_number(cf, &value[0], &value[1], cmd->post);

    if (n == NGX_ERROR) {
        return NGX_CONF_ERROR;
    }

    *np = n;

    return NGX_CONF_OK;
}


char *
ngx_http_llm_time(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char  *p = conf;

    char        *rv;
    ngx_msec_t  *msp;

    rv = ngx_conf_set_msec_slot(cf, cmd, conf);

    if (rv != NGX_CONF_OK) {
        return rv;
    }

    msp = (ngx_msec_t *) (p + cmd->offset);

    if (*msp == 0) {
        return "must not be zero";
    }

    return NGX_CONF_OK;
}


char *
ngx_http_llm_cors(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_llm_loc_conf_t *llcf = conf;

    u_char      *p, *end;
    ngx_str_t   *value, *origin;
    ngx_uint_t   i;

    if (llcf->cors_origins != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (cf->args->nelts == 2 && ngx_strcmp(value[1].data, "off") == 0) {
        llcf->cors_origins = NULL;
        return NGX_CONF_OK;
    }

    llcf->cors_origins = ngx_array_create(cf->pool, cf->args->nelts,
                                          sizeof(ngx_str_t));
    if (llcf->cors_origins == NULL) {
        return NGX_CONF_ERROR;
    }

    for (i = 1; i < cf->args->nelts; i++) {

        if (cf->args->nelts == 2 && ngx_strcmp(value[i].data, "*") == 0) {
            goto valid;
        }

        if (value[i].len < 8
            || (ngx_strncmp(value[i].data, "http://", 7) != 0
                && ngx_strncmp(value[i].data, "https://", 8) != 0))
        {
            goto invalid;
        }

        end = value[i].data + value[i].len;

        for (p = value[i].data; p < end; p++) {
            if (*p <= ' ' || *p == ',' || *p == '"' || *p >= 0x7f) {
                goto invalid;
            }
        }

    valid:

        origin = ngx_array_push(llcf->cors_origins);
        if (origin == NULL) {
            return NGX_CONF_ERROR;
        }

        *origin = value[i];
    }

    return NGX_CONF_OK;

invalid:

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid origin \"%V\": an origin begins with "
                       "\"http://\" or \"https://\"; \"*\" and \"off\" stand "
                       "alone", &value[i]);

    return NGX_CONF_ERROR;
}


char *
ngx_http_llm_watermark(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_llm_loc_conf_t *llcf = conf;

    double                    *number;
    ngx_int_t                  n, max;
    ngx_str_t                 *value;
    ngx_uint_t                 i;
    ngx_http_llm_watermark_t  *watermark;

    if (llcf->watermark != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    watermark = ngx_palloc(cf->pool, sizeof(ngx_http_llm_watermark_t));
    if (watermark == NULL) {
        return NGX_CONF_ERROR;
    }

    *watermark = ngx_http_llm_watermark_default;
    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "gamma=", 6) == 0) {
            number = &watermark->gamma;
            max = 999999;

        } else if (ngx_strncmp(value[i].data, "delta=", 6) == 0) {
            number = &watermark->delta;
            max = 100000000;

        } else {
            goto invalid;
        }

        n = ngx_atofp(value[i].data + 6, value[i].len - 6, 6);

        if (n < 1 || n > max) {
            goto invalid;
        }

        *number = n / 1e6;
    }

    llcf->watermark = watermark;

    return NGX_CONF_OK;

invalid:

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid parameter \"%V\": \"gamma=\" is between 0 and "
                       "1, \"delta=\" above 0 and at most 100", &value[i]);

    return NGX_CONF_ERROR;
}
