/*
 * ngx_http_llm_key.c - llm_api_key: who may send requests.
 *
 * A POST needs one of the keys of its location, as "Authorization: Bearer
 * KEY" or as "api-key: KEY".  What only tells about the server stays open;
 * nginx's own access rules are the way to close that too.
 */
#include "ngx_http_llm_conf.h"
#include "ngx_http_llm_request.h"


static ngx_uint_t ngx_http_llm_key_same(ngx_str_t *given, ngx_str_t *key);


/* llm_api_key KEY ... | off; */

char *
ngx_http_llm_api_key(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_llm_loc_conf_t *llcf = conf;

    ngx_str_t                         *value;
    ngx_uint_t                         i;
    ngx_http_complex_value_t          *cv;
    ngx_http_compile_complex_value_t   ccv;

    if (llcf->api_keys != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (cf->args->nelts == 2 && ngx_strcmp(value[1].data, "off") == 0) {
        llcf->api_keys = NULL;
        return NGX_CONF_OK;
    }

    llcf->api_keys = ngx_array_create(cf->pool, cf->args->nelts - 1,
                                      sizeof(ngx_http_complex_value_t));
    if (llcf->api_keys == NULL) {
        return NGX_CONF_ERROR;
    }

    for (i = 1; i < cf->args->nelts; i++) {

        if (value[i].len == 0 || ngx_strcmp(value[i].data, "off") == 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid key \"%V\" of \"%V\"", &value[i],
                               &cmd->name);
            return NGX_CONF_ERROR;
        }

        cv = ngx_array_push(llcf->api_keys);
        if (cv == NULL) {
            return NGX_CONF_ERROR;
        }

        ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

        ccv.cf = cf;
        ccv.value = &value[i];
        ccv.complex_value = cv;

        if (ngx_http_compile_complex_value(&ccv) != NGX_OK) {
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


ngx_int_t
ngx_http_llm_key_check(ngx_http_llm_ctx_t *ctx)
{
    ngx_str_t                  key, given, *header;
    ngx_uint_t                 i, found;
    ngx_http_request_t        *r;
    ngx_http_complex_value_t  *keys;

    static const char  bearer[] = "Bearer ";

    if (ctx->conf->api_keys == NULL) {
        return NGX_OK;
    }

    r = ctx->request;
    ngx_str_null(&given);

    header = ngx_http_llm_request_header(r, "authorization");

    if (header && header->len > sizeof(bearer) - 1
        && ngx_strncasecmp(header->data, (u_char *) bearer,
                           sizeof(bearer) - 1)
           == 0)
    {
        given.data = header->data + sizeof(bearer) - 1;
        given.len = header->len - (sizeof(bearer) - 1);

    } else {
        header = ngx_http_llm_request_header(r, "api-key");

        if (header) {
            given = *header;
        }
    }

    keys = ctx->conf->api_keys->elts;
    found = 0;

    for (i = 0; i < ctx->conf->api_keys->nelts; i++) {

        if (ngx_http_complex_value(r, &keys[i], &key) != NGX_OK) {
            return ngx_http_llm_fail_nomem(ctx);
        }

        found |= ngx_http_llm_key_same(&given, &key);
    }

    if (found) {
        return NGX_OK;
    }

    return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_UNAUTHORIZED,
                             "Invalid API key");
}


/* takes as long for a key that is almost right; an empty key is none */

static ngx_uint_t
ngx_http_llm_key_same(ngx_str_t *given, ngx_str_t *key)
{
    size_t      i;
    ngx_uint_t  differ;

    if (key->len == 0) {
        return 0;
    }

    differ = (given->len != key->len);

    for (i = 0; i < given->len; i++) {
        differ |= given->data[i] ^ key->data[i % key->len];
    }

    return differ == 0;
}
