/*
 * ngx_http_llm_conf.h - configuration callbacks and setters.
 */
#ifndef _NGX_HTTP_LLM_CONF_H_INCLUDED_
#define _NGX_HTTP_LLM_CONF_H_INCLUDED_


#include "ngx_http_llm_arena.h"


void *ngx_http_llm_create_main_conf(ngx_conf_t *cf);
char *ngx_http_llm_init_main_conf(ngx_conf_t *cf, void *conf);
void *ngx_http_llm_create_loc_conf(ngx_conf_t *cf);
char *ngx_http_llm_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child);

/* llm_model NAME { ... } (ngx_http_llm_model.c) */
char *ngx_http_llm_model(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
/* llm_pass NAME; */
char *ngx_http_llm_pass(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
/* llm_generate; ... : cmd->post is the route */
char *ngx_http_llm_one_route(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
/* a number with bounds: cmd->post is an ngx_http_llm_bounds_t */
char *ngx_http_llm_number(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
/* a time that is not zero */
char *ngx_http_llm_time(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
/* llm_watermark [gamma=NUMBER] [delta=NUMBER]; */
char *ngx_http_llm_watermark(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
/* llm_cors_allow_origin ORIGIN ... | off; */
char *ngx_http_llm_cors(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);

/* llm_api_key KEY ... | off; (ngx_http_llm_key.c) */
char *ngx_http_llm_api_key(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);

/* llm_cache_path PATH [prefixes=SIZE | prefixes=off]; (ngx_http_llm_cache.c) */
char *ngx_http_llm_cache_path(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* llm_license_allow NAME ...; (ngx_http_llm_license.c) */
char *ngx_http_llm_license(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
/* whether the licence of the model is listed; a message otherwise */
char *ngx_http_llm_license_check(ngx_conf_t *cf, ngx_array_t *licenses,
    ngx_http_llm_model_t *model, u_char *file, ngx_uint_t line);
/* the same for models that no location uses, at the end of http {} */
char *ngx_http_llm_license_check_rest(ngx_conf_t *cf);


typedef struct {
    ngx_int_t                  low;
    ngx_int_t                  high;
} ngx_http_llm_bounds_t;


/* value must be a number in bounds; NGX_ERROR after a message otherwise */
ngx_int_t ngx_http_llm_parse_number(ngx_conf_t *cf, ngx_str_t *name,
    ngx_str_t *value, const ngx_http_llm_bounds_t *bounds);


/*
 * Reads a file of at most max bytes into cf->pool; *path becomes its full
 * name.  NGX_ERROR after a message.
 */
ngx_int_t ngx_http_llm_read_file(ngx_conf_t *cf, ngx_str_t *path, size_t max,
    ngx_str_t *text);


/* the chat template of a prompt format with this name, or NULL */
ngx_str_t *ngx_http_llm_format_find(ngx_str_t *name);


#endif /* _NGX_HTTP_LLM_CONF_H_INCLUDED_ */
