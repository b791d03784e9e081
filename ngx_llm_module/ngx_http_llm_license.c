/*
 * ngx_http_llm_license.c - which licences of models may be loaded.
 */
#include "ngx_http_llm_conf.h"


static ngx_uint_t ngx_http_llm_license_listed(ngx_array_t *licenses,
    ngx_str_t *license);


char *
ngx_http_llm_license(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_llm_loc_conf_t *llcf = conf;

    ngx_str_t   *value, *name;
    ngx_uint_t   i;

    if (llcf->licenses != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    llcf->licenses = ngx_array_create(cf->pool, cf->args->nelts,
                                      sizeof(ngx_str_t));
    if (llcf->licenses == NULL) {
        return NGX_CONF_ERROR;
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (value[i].len == 0) {
            return "must not have an empty name";
        }

        name = ngx_array_push(llcf->licenses);
        *name = value[i];
    }

    return NGX_CONF_OK;
}


char *
ngx_http_llm_license_check(ngx_conf_t *cf, ngx_array_t *licenses,
    ngx_http_llm_model_t *model, u_char *file, ngx_uint_t line)
{
    const char  *what;
    ngx_str_t   *license;

    static ngx_str_t  unknown = ngx_string("unknown");

    /* "nginx -s ..." does not look at models */

    if (licenses == NULL || model->n_ctx == 0) {
        return NGX_CONF_OK;
    }

    what = "";
    license = model->license.len ? &model->license : &unknown;

    if (ngx_http_llm_license_listed(licenses, license)) {

        if (model->draft.len == 0) {
            return NGX_CONF_OK;
        }

        what = "\"draft\" of ";
        license = model->draft_license.len ? &model->draft_license : &unknown;

        if (ngx_http_llm_license_listed(licenses, license)) {
            return NGX_CONF_OK;
        }
    }

    ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                  "the licence \"%V\" of %sllm_model \"%V\" is not in "
                  "\"llm_license_allow\" in %s:%ui", license, what,
                  &model->name, file, line);

    return NGX_CONF_ERROR;
}


static ngx_uint_t
ngx_http_llm_license_listed(ngx_array_t *licenses, ngx_str_t *license)
{
    ngx_str_t   *name;
    ngx_uint_t   i;

    name = licenses->elts;

    for (i = 0; i < licenses->nelts; i++) {
        if (name[i].len == license->len
            && ngx_strncasecmp(name[i].data, license->data, license->len)
               == 0)
        {
            return 1;
        }
    }

    return 0;
}


char *
ngx_http_llm_license_check_rest(ngx_conf_t *cf)
{
    ngx_uint_t                  i;
    ngx_http_llm_model_t      **models;
    ngx_http_llm_loc_conf_t    *llcf;
    ngx_http_llm_main_conf_t   *lmcf;

    lmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_llm_module);
    llcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_llm_module);

    if (llcf->licenses == NGX_CONF_UNSET_PTR) {
        return NGX_CONF_OK;
    }

    models = lmcf->models.elts;

    for (i = 0; i < lmcf->models.nelts; i++) {

        if (!models[i]->passed
            && ngx_http_llm_license_check(cf, llcf->licenses, models[i],
                                          models[i]->file, models[i]->line)
               != NGX_CONF_OK)
        {
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}
