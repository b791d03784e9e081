/*
 * ngx_http_llm_module.c - the module: directives and callbacks.
 */
#include "ngx_http_llm_conf.h"


#define NGX_HTTP_LLM_ALL                                                      \
    (NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF                   \
     |NGX_HTTP_LIF_CONF)

#define NGX_HTTP_LLM_PLACE                                                    \
    (NGX_HTTP_LOC_CONF|NGX_HTTP_LIF_CONF|NGX_HTTP_LMT_CONF)

#define ngx_http_llm_route_command(name, route)                               \
    { ngx_string(name),                                                       \
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS,                                      \
      ngx_http_llm_one_route,                                                 \
      NGX_HTTP_LOC_CONF_OFFSET,                                               \
      0,                                                                      \
      (void *) (uintptr_t) route }

#define ngx_http_llm_number_command(name, member, bounds)                     \
    { ngx_string(name),                                                       \
      NGX_HTTP_LLM_ALL|NGX_CONF_TAKE1,                                        \
      ngx_http_llm_number,                                                    \
      NGX_HTTP_LOC_CONF_OFFSET,                                               \
      offsetof(ngx_http_llm_loc_conf_t, member),                              \
      (void *) &bounds }

#define ngx_http_llm_lua_command(name, type, set, member)                     \
    { ngx_string(name),                                                       \
      NGX_HTTP_MAIN_CONF|type,                                                \
      set,                                                                    \
      NGX_HTTP_MAIN_CONF_OFFSET,                                              \
      offsetof(ngx_http_llm_main_conf_t, lua)                                 \
      + offsetof(ngx_http_llm_lua_conf_t, member),                            \
      NULL }


static ngx_int_t ngx_http_llm_preconfiguration(ngx_conf_t *cf);
static ngx_int_t ngx_http_llm_postconfiguration(ngx_conf_t *cf);
static ngx_int_t ngx_http_llm_init_process(ngx_cycle_t *cycle);
static void ngx_http_llm_exit_process(ngx_cycle_t *cycle);
static void ngx_http_llm_exit_master(ngx_cycle_t *cycle);
static char *ngx_http_llm_check_text(ngx_conf_t *cf, void *post, void *data);
static char *ngx_http_llm_check_utf8(ngx_conf_t *cf, void *post, void *data);


static ngx_conf_post_t  ngx_http_llm_text_post = { ngx_http_llm_check_text };
static ngx_conf_post_t  ngx_http_llm_utf8_post = { ngx_http_llm_check_utf8 };

static const ngx_http_llm_bounds_t  ngx_http_llm_1_to_4096 = { 1, 4096 };
static const ngx_http_llm_bounds_t  ngx_http_llm_0_to_4096 = { 0, 4096 };
static const ngx_http_llm_bounds_t  ngx_http_llm_1_to_256 = { 1, 256 };
static const ngx_http_llm_bounds_t  ngx_http_llm_0_to_256 = { 0, 256 };
static const ngx_http_llm_bounds_t  ngx_http_llm_tokens = { 1, 1048576 };


static ngx_conf_enum_t  ngx_http_llm_stream_errors[] = {
    { ngx_string("status"), 0 },
    { ngx_string("event"), 1 },
    { ngx_null_string, 0 }
};


static ngx_conf_enum_t  ngx_http_llm_error_formats[] = {
    { ngx_string("auto"), NGX_HTTP_LLM_FORMAT_AUTO },
    { ngx_string("tgi"), NGX_HTTP_LLM_FORMAT_TGI },
    { ngx_string("openai"), NGX_HTTP_LLM_FORMAT_OPENAI },
    { ngx_null_string, 0 }
};


static ngx_conf_enum_t  ngx_http_llm_poolings[] = {
    { ngx_string("mean"), LLM_EMBED_MEAN },
    { ngx_string("last"), LLM_EMBED_LAST },
    { ngx_null_string, 0 }
};


static ngx_command_t  ngx_http_llm_commands[] = {

    { ngx_string("llm_model"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_BLOCK|NGX_CONF_TAKE1,
      ngx_http_llm_model,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("llm_cache_path"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE12,
      ngx_http_llm_cache_path,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("llm_pass"),
      NGX_HTTP_LLM_PLACE|NGX_CONF_TAKE1,
      ngx_http_llm_pass,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    ngx_http_llm_route_command("llm_generate", NGX_HTTP_LLM_GENERATE),
    ngx_http_llm_route_command("llm_generate_stream",
                               NGX_HTTP_LLM_GENERATE_STREAM),
    ngx_http_llm_route_command("llm_chat_completions", NGX_HTTP_LLM_CHAT),
    ngx_http_llm_route_command("llm_completions", NGX_HTTP_LLM_COMPLETIONS),
    ngx_http_llm_route_command("llm_responses", NGX_HTTP_LLM_RESPONSES),
    ngx_http_llm_route_command("llm_embeddings", NGX_HTTP_LLM_EMBEDDINGS),
    ngx_http_llm_route_command("llm_tokenize", NGX_HTTP_LLM_TOKENIZE),
    ngx_http_llm_route_command("llm_info", NGX_HTTP_LLM_INFO),
    ngx_http_llm_route_command("llm_models", NGX_HTTP_LLM_MODELS),
    ngx_http_llm_route_command("llm_health", NGX_HTTP_LLM_HEALTH),
    ngx_http_llm_route_command("llm_metrics", NGX_HTTP_LLM_METRICS),

    ngx_http_llm_number_command("llm_max_concurrent_requests",
                                max_concurrent_requests,
                                ngx_http_llm_1_to_4096),
    ngx_http_llm_number_command("llm_max_queue", max_queue,
                                ngx_http_llm_0_to_4096),
    ngx_http_llm_number_command("llm_max_best_of", max_best_of,
                                ngx_http_llm_1_to_256),
    ngx_http_llm_number_command("llm_max_stop_sequences", max_stop_sequences,
                                ngx_http_llm_0_to_256),
    ngx_http_llm_number_command("llm_max_top_n_tokens", max_top_n_tokens,
                                ngx_http_llm_0_to_256),
    ngx_http_llm_number_command("llm_max_client_batch_size",
                                max_client_batch_size, ngx_http_llm_1_to_256),
    ngx_http_llm_number_command("llm_max_input_tokens", set_input_tokens,
                                ngx_http_llm_tokens),
    ngx_http_llm_number_command("llm_max_total_tokens", set_total_tokens,
                                ngx_http_llm_tokens),
    ngx_http_llm_number_command("llm_default_max_new_tokens",
                                default_max_new_tokens, ngx_http_llm_tokens),

    { ngx_string("llm_model_id"),
      NGX_HTTP_LLM_ALL|NGX_CONF_TAKE1,
      ngx_conf_set_str_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_llm_loc_conf_t, model_id),
      &ngx_http_llm_text_post },

    { ngx_string("llm_compute_type"),
      NGX_HTTP_LLM_ALL|NGX_CONF_TAKE1,
      ngx_conf_set_str_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_llm_loc_conf_t, compute_type),
      &ngx_http_llm_text_post },

    { ngx_string("llm_return_full_text"),
      NGX_HTTP_LLM_ALL|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_llm_loc_conf_t, return_full_text),
      NULL },

    { ngx_string("llm_prefill_logprobs"),
      NGX_HTTP_LLM_ALL|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_llm_loc_conf_t, prefill_logprobs),
      NULL },

    { ngx_string("llm_grammar"),
      NGX_HTTP_LLM_ALL|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_llm_loc_conf_t, grammar),
      NULL },

    { ngx_string("llm_reasoning"),
      NGX_HTTP_LLM_ALL|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_llm_loc_conf_t, reasoning),
      NULL },

    { ngx_string("llm_tool_prompt"),
      NGX_HTTP_LLM_ALL|NGX_CONF_TAKE1,
      ngx_conf_set_str_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_llm_loc_conf_t, tool_prompt),
      &ngx_http_llm_utf8_post },

    { ngx_string("llm_watermark"),
      NGX_HTTP_LLM_ALL|NGX_CONF_TAKE12,
      ngx_http_llm_watermark,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("llm_stream_errors"),
      NGX_HTTP_LLM_ALL|NGX_CONF_TAKE1,
      ngx_conf_set_enum_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_llm_loc_conf_t, stream_errors),
      &ngx_http_llm_stream_errors },

    { ngx_string("llm_error_format"),
      NGX_HTTP_LLM_ALL|NGX_CONF_TAKE1,
      ngx_conf_set_enum_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_llm_loc_conf_t, error_format),
      &ngx_http_llm_error_formats },

    { ngx_string("llm_embedding_pooling"),
      NGX_HTTP_LLM_ALL|NGX_CONF_TAKE1,
      ngx_conf_set_enum_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_llm_loc_conf_t, pooling),
      &ngx_http_llm_poolings },

    { ngx_string("llm_sse_keepalive"),
      NGX_HTTP_LLM_ALL|NGX_CONF_TAKE1,
      ngx_http_llm_time,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_llm_loc_conf_t, sse_keepalive),
      NULL },

    { ngx_string("llm_generation_timeout"),
      NGX_HTTP_LLM_ALL|NGX_CONF_TAKE1,
      ngx_http_llm_time,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_llm_loc_conf_t, generation_timeout),
      NULL },

    { ngx_string("llm_queue_timeout"),
      NGX_HTTP_LLM_ALL|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_llm_loc_conf_t, queue_timeout),
      NULL },

    { ngx_string("llm_api_key"),
      NGX_HTTP_LLM_ALL|NGX_CONF_1MORE,
      ngx_http_llm_api_key,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("llm_license_allow"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_llm_license,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("llm_cors_allow_origin"),
      NGX_HTTP_LLM_ALL|NGX_CONF_1MORE,
      ngx_http_llm_cors,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("llm_prompt_by_lua_block"),
      NGX_HTTP_LLM_ALL|NGX_CONF_BLOCK|NGX_CONF_NOARGS,
      ngx_http_llm_lua_block,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_llm_loc_conf_t, prompt_hook),
      NULL },

    { ngx_string("llm_prompt_by_lua_file"),
      NGX_HTTP_LLM_ALL|NGX_CONF_TAKE1,
      ngx_http_llm_lua_file,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_llm_loc_conf_t, prompt_hook),
      NULL },

    { ngx_string("llm_output_by_lua_block"),
      NGX_HTTP_LLM_ALL|NGX_CONF_BLOCK|NGX_CONF_NOARGS,
      ngx_http_llm_lua_block,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_llm_loc_conf_t, output_hook),
      NULL },

    { ngx_string("llm_output_by_lua_file"),
      NGX_HTTP_LLM_ALL|NGX_CONF_TAKE1,
      ngx_http_llm_lua_file,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_llm_loc_conf_t, output_hook),
      NULL },

    ngx_http_llm_lua_command("llm_lua_memory", NGX_CONF_TAKE1,
                             ngx_http_llm_lua_memory, memory),
    ngx_http_llm_lua_command("llm_lua_steps", NGX_CONF_TAKE1,
                             ngx_conf_set_num_slot, steps),
    ngx_http_llm_lua_command("llm_lua_timeout", NGX_CONF_TAKE1,
                             ngx_conf_set_msec_slot, timeout),
    ngx_http_llm_lua_command("llm_lua_output", NGX_CONF_TAKE1,
                             ngx_conf_set_size_slot, output),
    ngx_http_llm_lua_command("llm_lua_jit", NGX_CONF_FLAG,
                             ngx_conf_set_flag_slot, jit),
    ngx_http_llm_lua_command("llm_lua_path", NGX_CONF_TAKE1,
                             ngx_conf_set_str_slot, path),

      ngx_null_command
};


static ngx_http_module_t  ngx_http_llm_module_ctx = {
    ngx_http_llm_preconfiguration,         /* preconfiguration */
    ngx_http_llm_postconfiguration,        /* postconfiguration */

    ngx_http_llm_create_main_conf,         /* create main configuration */
    ngx_http_llm_init_main_conf,           /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_llm_create_loc_conf,          /* create location configuration */
    ngx_http_llm_merge_loc_conf            /* merge location configuration */
};


ngx_module_t  ngx_http_llm_module = {
    NGX_MODULE_V1,
    &ngx_http_llm_module_ctx,              /* module context */
    ngx_http_llm_commands,                 /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_http_llm_init_process,             /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_http_llm_exit_process,             /* exit process */
    ngx_http_llm_exit_master,              /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_int_t
ngx_http_llm_preconfiguration(ngx_conf_t *cf)
{
    ngx_http_llm_json_init();

    return ngx_http_llm_metrics_variables(cf);
}


static ngx_int_t
ngx_http_llm_postconfiguration(ngx_conf_t *cf)
{
    ngx_str_t                  name;
    ngx_http_llm_main_conf_t  *lmcf;

    lmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_llm_module);

    if (lmcf->models.nelts == 0) {
        return NGX_OK;
    }

    if (ngx_http_llm_license_check_rest(cf) != NGX_CONF_OK) {
        return NGX_ERROR;
    }

    ngx_str_set(&name, "request_id");

    lmcf->request_id = ngx_http_get_variable_index(cf, &name);
    if (lmcf->request_id == NGX_ERROR) {
        return NGX_ERROR;
    }

    if (ngx_http_llm_task_init(cf) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_http_llm_filter_init();
}


/*
 * A worker that cannot join an engine is still good for everything else: an
 * error here would end it for good, so requests try again instead.
 */

static ngx_int_t
ngx_http_llm_init_process(ngx_cycle_t *cycle)
{
    ngx_uint_t                  i;
    ngx_http_llm_model_t      **models;
    ngx_http_llm_main_conf_t   *lmcf;

    if (ngx_process != NGX_PROCESS_WORKER
        && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    lmcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_llm_module);

    if (lmcf == NULL || lmcf->models.nelts == 0) {
        return NGX_OK;
    }

    if (ngx_http_llm_lua_init_process(cycle) != NGX_OK) {
        ngx_log_error(NGX_LOG_ERR, cycle->log, 0,
                      "llm: no Lua state in this worker");
    }

    models = lmcf->models.elts;

    for (i = 0; i < lmcf->models.nelts; i++) {
        (void) ngx_http_llm_engine_join(models[i]->instance, cycle->log);
    }

    return NGX_OK;
}


static void
ngx_http_llm_exit_process(ngx_cycle_t *cycle)
{
    if (ngx_process != NGX_PROCESS_WORKER
        && ngx_process != NGX_PROCESS_SINGLE)
    {
        return;
    }

    ngx_http_llm_arena_leave();
    ngx_http_llm_lua_exit_process(cycle);
}


/* the workers have ended; with "master_process off" this one has left, too */

static void
ngx_http_llm_exit_master(ngx_cycle_t *cycle)
{
    ngx_http_llm_main_conf_t  *lmcf;

    lmcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_llm_module);

    if (lmcf && lmcf->cache.path.len && lmcf->cache.prefixes) {
        ngx_http_llm_arena_keep(&lmcf->cache, cycle->log);
    }
}


/* values that are copied into headers and JSON */

static char *
ngx_http_llm_check_text(ngx_conf_t *cf, void *post, void *data)
{
    size_t      i;
    ngx_str_t  *value = data;

    for (i = 0; i < value->len; i++) {
        if (value->data[i] < ' ' || value->data[i] == 0x7f) {
            return "must not contain control characters";
        }
    }

    return value->len ? ngx_http_llm_check_utf8(cf, post, data)
                      : "must not be empty";
}


/* what becomes a string of JSON */

static char *
ngx_http_llm_check_utf8(ngx_conf_t *cf, void *post, void *data)
{
    json_t     *string;
    ngx_str_t  *value = data;

    string = json_stringn((char *) value->data, value->len);
    if (string == NULL) {
        return "must be UTF-8";
    }

    json_decref(string);

    return NGX_CONF_OK;
}
