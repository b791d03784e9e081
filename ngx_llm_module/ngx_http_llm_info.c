/*
 * ngx_http_llm_info.c - routes that generate nothing.
 *
 * Health, info, the list of models, metrics: answered at once.  The
 * tokenizer routes go through the same states as a generation up to the
 * tokens; their result is written where the text is tokenized, in a thread
 * when it is long.
 */
#include "ngx_http_llm_request.h"


#define NGX_HTTP_LLM_STALE  60000   /* ms without a step while jobs run */


/* forms of an answer with tokens */
enum {
    NGX_HTTP_LLM_TOKENS_NATIVE = 0,     /* [{"id","text","start","stop"}] */
    NGX_HTTP_LLM_TOKENS_CHAT,           /* the same with the text */
    NGX_HTTP_LLM_TOKENS_IDS,            /* {"tokens","count",...} */
    NGX_HTTP_LLM_TOKENS_PLAIN,          /* {"tokens":[ids]} */
    NGX_HTTP_LLM_TOKENS_PIECES          /* {"tokens":[{"id","piece"}]} */
};


static ngx_int_t ngx_http_llm_health(ngx_http_llm_ctx_t *ctx);
static void ngx_http_llm_info_json(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_models_json(ngx_http_llm_ctx_t *ctx);
static void ngx_http_llm_model_json(ngx_http_llm_ctx_t *ctx);
static void ngx_http_llm_tokenizer_json(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_tokenize_form(ngx_http_llm_ctx_t *ctx,
    ngx_str_t *text, ngx_uint_t *form);
static ngx_int_t ngx_http_llm_tokenize_flag(ngx_http_llm_ctx_t *ctx,
    const char *name, ngx_flag_t def);
static void ngx_http_llm_tokenize_work(ngx_http_llm_task_t *task);
static void ngx_http_llm_tokenize_native(ngx_http_llm_task_t *task);
static void ngx_http_llm_tokenize_ids(ngx_http_llm_task_t *task);
static void ngx_http_llm_tokenize_piece(ngx_http_llm_task_t *task,
    int32_t id);
static ngx_int_t ngx_http_llm_detokenize_task(ngx_http_llm_ctx_t *ctx);
static void ngx_http_llm_detokenize_work(ngx_http_llm_task_t *task);
static void ngx_http_llm_task_cleanup(void *data);


static ngx_str_t  ngx_http_llm_type_json = ngx_string("application/json");
static ngx_str_t  ngx_http_llm_type_text =
    ngx_string("text/plain; version=0.0.4; charset=utf-8");
static ngx_str_t  ngx_http_llm_type_html =
    ngx_string("text/html; charset=utf-8");
static ngx_str_t  ngx_http_llm_type_none = ngx_null_string;


void
ngx_http_llm_info(ngx_http_llm_ctx_t *ctx)
{
    ngx_int_t    rc;
    ngx_uint_t   status;
    ngx_str_t   *type;

    rc = NGX_OK;
    status = NGX_HTTP_OK;
    type = &ngx_http_llm_type_json;

    if (ctx->request->method == NGX_HTTP_OPTIONS) {
        ngx_http_llm_output_reply(ctx, NGX_HTTP_NO_CONTENT,
                                  &ngx_http_llm_type_none);
        return;
    }

    switch (ctx->route) {

    case NGX_HTTP_LLM_INFO:
        ngx_http_llm_info_json(ctx);
        break;

    case NGX_HTTP_LLM_MODELS:
        rc = ngx_http_llm_models_json(ctx);
        break;

    case NGX_HTTP_LLM_TOKENIZER_INFO:
        ngx_http_llm_tokenizer_json(ctx);
        break;

    case NGX_HTTP_LLM_METRICS:
        ngx_http_llm_metrics_write(ctx);
        type = &ngx_http_llm_type_text;
        break;

    case NGX_HTTP_LLM_KSERVE:
    case NGX_HTTP_LLM_KSERVE_MODEL:
        ngx_http_llm_kserve_info(ctx);
        break;

    case NGX_HTTP_LLM_KSERVE_LIVE:
        rc = ngx_http_llm_health(ctx);
        ngx_http_llm_kserve_info(ctx);
        break;

    case NGX_HTTP_LLM_OPENAPI:
        ngx_http_llm_web_openapi(ctx);
        break;

    case NGX_HTTP_LLM_DOCS:
        ngx_http_llm_web_docs(ctx);
        type = &ngx_http_llm_type_html;
        break;

    default: /* NGX_HTTP_LLM_HEALTH */
        rc = ngx_http_llm_health(ctx);
        type = &ngx_http_llm_type_none;
        break;
    }

    if (rc != NGX_OK) {
        ngx_http_llm_output_error(ctx);
        return;
    }

    ngx_http_llm_output_reply(ctx, status, type);
}


/* jobs that nobody works on are the sign of a sick engine */

static ngx_int_t
ngx_http_llm_health(ngx_http_llm_ctx_t *ctx)
{
    llm_stats_t  stats;

    llm_engine_stats(ctx->instance->engine, &stats);

    if ((stats.n_running || stats.n_waiting)
        && stats.last_step_age_ms > NGX_HTTP_LLM_STALE)
    {
        return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_UNHEALTHY, "unhealthy");
    }

    return NGX_OK;
}


static void
ngx_http_llm_info_json(ngx_http_llm_ctx_t *ctx)
{
    llm_stats_t                 stats;
    ngx_core_conf_t            *ccf;
    ngx_http_llm_buf_t         *b;
    ngx_http_llm_loc_conf_t    *conf;
    const llm_engine_conf_t    *engine;
    const llm_model_info_t     *info;

    b = &ctx->out;
    conf = ctx->conf;
    info = llm_model_info(ctx->instance->model);
    engine = llm_engine_conf(ctx->instance->engine);
    llm_engine_stats(ctx->instance->engine, &stats);
    ccf = (ngx_core_conf_t *) ngx_get_conf(ngx_cycle->conf_ctx,
                                           ngx_core_module);

    ngx_http_llm_buf_lit(b, "{\"model_id\":");
    ngx_http_llm_buf_json_str(b, ngx_http_llm_model_id(ctx));
    ngx_http_llm_buf_lit(b, ",\"model_sha\":null,\"model_pipeline_tag\":");
    ngx_http_llm_buf_printf(b, "%s", conf->return_full_text
                                     ? "\"text-generation\"" : "null");
    ngx_http_llm_buf_printf(b, ",\"max_concurrent_requests\":%i"
                            ",\"max_best_of\":%i,\"max_stop_sequences\":%i"
                            ",\"max_input_tokens\":%i"
                            ",\"max_total_tokens\":%i"
                            ",\"validation_workers\":%i"
                            ",\"max_client_batch_size\":%i",
                            conf->max_concurrent_requests,
                            conf->max_best_of, conf->max_stop_sequences,
                            conf->max_input_tokens, conf->max_total_tokens,
                            ccf->worker_processes,
                            conf->max_client_batch_size);
    ngx_http_llm_buf_lit(b, ",\"router\":\"ngx_llm_module\",\"version\":\""
                         LLM_VERSION "\",\"sha\":null,\"docker_label\":null"
                         ",\"model_dtype\":");
    ngx_http_llm_buf_json(b, info->type_name, ngx_strlen(info->type_name));
    ngx_http_llm_buf_printf(b, ",\"model_device_type\":\"cpu\""
                            ",\"max_input_length\":%i"
                            ",\"waiting_served_ratio\":0.0"
                            ",\"max_batch_total_tokens\":%uL"
                            ",\"max_waiting_tokens\":0"
                            ",\"max_batch_size\":%uD,\"adapters\":[]"
                            ",\"license\":",
                            conf->max_input_tokens,
                            (uint64_t) stats.pages_total * stats.page_tokens,
                            engine->n_parallel);

    if (info->license[0]) {
        ngx_http_llm_buf_json(b, info->license, ngx_strlen(info->license));

    } else {
        ngx_http_llm_buf_lit(b, "null");
    }

    ngx_http_llm_buf_lit(b, "}");
}


static ngx_int_t
ngx_http_llm_models_json(ngx_http_llm_ctx_t *ctx)
{
    ngx_str_t  *id;

    if (ctx->arg.len) {
        id = ngx_http_llm_model_id(ctx);

        if (id->len != ctx->arg.len
            || ngx_strncmp(id->data, ctx->arg.data, id->len) != 0)
        {
            return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_NOT_FOUND,
                                     "Not Found");
        }

        ngx_http_llm_model_json(ctx);
        return NGX_OK;
    }

    ngx_http_llm_buf_lit(&ctx->out, "{\"object\":\"list\",\"data\":[");
    ngx_http_llm_model_json(ctx);
    ngx_http_llm_buf_lit(&ctx->out, "]}");

    return NGX_OK;
}


static void
ngx_http_llm_model_json(ngx_http_llm_ctx_t *ctx)
{
    ngx_str_t                *id;
    ngx_http_llm_buf_t       *b;
    const llm_model_info_t   *info;

    b = &ctx->out;
    id = ngx_http_llm_model_id(ctx);
    info = llm_model_info(ctx->instance->model);

    ngx_http_llm_buf_lit(b, "{\"id\":");
    ngx_http_llm_buf_json_str(b, id);
    ngx_http_llm_buf_printf(b, ",\"object\":\"model\",\"created\":%T"
                            ",\"owned_by\":", ctx->instance->loaded);
    ngx_http_llm_buf_json_str(b, id);
    ngx_http_llm_buf_printf(b, ",\"max_model_len\":%i"
                            ",\"meta\":{\"n_params\":%uL,\"n_vocab\":%uD"
                            ",\"n_embd\":%uD,\"n_ctx_train\":%uD"
                            ",\"size\":%uz,\"architecture\":",
                            ctx->conf->max_total_tokens, info->n_params,
                            info->n_vocab, info->n_embd, info->n_ctx_train,
                            info->weight_bytes);
    ngx_http_llm_buf_json(b, info->arch, ngx_strlen(info->arch));
    ngx_http_llm_buf_lit(b, ",\"name\":");
    ngx_http_llm_buf_json(b, info->name, ngx_strlen(info->name));
    ngx_http_llm_buf_lit(b, ",\"license\":");
    ngx_http_llm_buf_json(b, info->license, ngx_strlen(info->license));
    ngx_http_llm_buf_printf(b, "},\"providers\":[{\"context_length\":%i"
                            ",\"supports_tools\":%s}]"
                            ",\"architecture\":{\"input_modalities\":"
                            "[\"text\"]}}", ctx->conf->max_total_tokens,
                            (ctx->model->template.len && ctx->conf->grammar)
                            ? "true" : "false");
}


static void
ngx_http_llm_tokenizer_json(ngx_http_llm_ctx_t *ctx)
{
    ngx_http_llm_buf_t      *b;
    const llm_model_info_t  *info;

    b = &ctx->out;
    info = llm_model_info(ctx->instance->model);

    ngx_http_llm_buf_lit(b, "{\"tokenizer_class\":\"PreTrainedTokenizerFast\""
                         ",\"bos_token\":");

    if (info->bos_id >= 0) {
        ngx_http_llm_buf_json(b, info->bos_token,
                              ngx_strlen(info->bos_token));
    } else {
        ngx_http_llm_buf_lit(b, "null");
    }

    ngx_http_llm_buf_lit(b, ",\"eos_token\":");

    if (info->eos_id >= 0) {
        ngx_http_llm_buf_json(b, info->eos_token,
                              ngx_strlen(info->eos_token));
    } else {
        ngx_http_llm_buf_lit(b, "null");
    }

    ngx_http_llm_buf_lit(b, ",\"pad_token\":null,\"chat_template\":");

    if (ctx->model->template.len) {
        ngx_http_llm_buf_json_str(b, &ctx->model->template);
    } else {
        ngx_http_llm_buf_lit(b, "null");
    }

    ngx_http_llm_buf_lit(b, "}");
}


/* ------------------------------------------------------- tokenizer routes */

ngx_int_t
ngx_http_llm_tokenizer_task(ngx_http_llm_ctx_t *ctx)
{
    ngx_str_t    text;
    ngx_uint_t   form;

    if (ctx->route == NGX_HTTP_LLM_DETOKENIZE) {
        return ngx_http_llm_detokenize_task(ctx);
    }

    form = NGX_HTTP_LLM_TOKENS_NATIVE;
    ngx_str_null(&text);

    if (ngx_http_llm_tokenize_form(ctx, &text, &form) != NGX_OK) {
        return NGX_ERROR;
    }

    ctx->task = ngx_http_llm_task_new(ctx, ngx_http_llm_tokenize_work,
                                      text.len);
    if (ctx->task == NULL) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    if (text.len) {
        ngx_memcpy(ctx->task->text.data, text.data, text.len);
    }

    ctx->task->flags = ctx->tok_flags;
    ctx->task->form = form;
    ctx->task->max_model_len = ctx->conf->max_total_tokens;

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_tokenize_form(ngx_http_llm_ctx_t *ctx, ngx_str_t *text,
    ngx_uint_t *form)
{
    json_t                     *value;
    ngx_uint_t                  i, chat;

    static const struct {
        const char  *key;
        const char  *special;
        ngx_uint_t   form;
    } forms[] = {
        { "inputs", NULL, NGX_HTTP_LLM_TOKENS_NATIVE },
        { "prompt", "add_special_tokens", NGX_HTTP_LLM_TOKENS_IDS },
        { "content", "add_special", NGX_HTTP_LLM_TOKENS_PLAIN }
    };

    chat = (ctx->route == NGX_HTTP_LLM_CHAT_TOKENIZE);
    ctx->tok_flags = LLM_TOK_PARSE_SPECIAL;

    if (chat || ngx_http_llm_json_get(ctx->json, "messages")) {

        *form = chat ? NGX_HTTP_LLM_TOKENS_CHAT : NGX_HTTP_LLM_TOKENS_IDS;

        if (ngx_http_llm_tokenize_flag(ctx, "add_special_tokens", 0) == 1) {
            ctx->tok_flags |= LLM_TOK_ADD_SPECIAL;
        }

        if (ngx_http_llm_chat_check(ctx, ctx->json) != NGX_OK) {
            return NGX_ERROR;
        }

        return ngx_http_llm_chat_render(ctx, ctx->json, text);
    }

    for (i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        value = ngx_http_llm_json_get(ctx->json, forms[i].key);

        if (value == NULL) {
            continue;
        }

        if (!json_is_string(value)) {
            return ngx_http_llm_json_mismatch(ctx, "", forms[i].key, value,
                                              "a string");
        }

        *text = ngx_http_llm_json_str(value);
        *form = forms[i].form;

        if (forms[i].special == NULL
            || ngx_http_llm_tokenize_flag(ctx, forms[i].special,
                                   *form == NGX_HTTP_LLM_TOKENS_IDS))
        {
            ctx->tok_flags |= LLM_TOK_ADD_SPECIAL;
        }

        if (*form == NGX_HTTP_LLM_TOKENS_PLAIN
            && ngx_http_llm_tokenize_flag(ctx, "with_pieces", 0))
        {
            *form = NGX_HTTP_LLM_TOKENS_PIECES;
        }

        return NGX_OK;
    }

    return ngx_http_llm_malformed(ctx, "missing field `inputs`");
}


static ngx_int_t
ngx_http_llm_tokenize_flag(ngx_http_llm_ctx_t *ctx, const char *name,
    ngx_flag_t def)
{
    json_t  *value;

    value = ngx_http_llm_json_get(ctx->json, name);

    return json_is_boolean(value) ? json_is_true(value) : def;
}


static void
ngx_http_llm_tokenize_work(ngx_http_llm_task_t *task)
{
    ngx_http_llm_task_tokenize(task);

    if (task->code != LLM_OK) {
        return;
    }

    if (task->form == NGX_HTTP_LLM_TOKENS_NATIVE) {
        ngx_http_llm_tokenize_native(task);

    } else if (task->form == NGX_HTTP_LLM_TOKENS_CHAT) {
        ngx_http_llm_buf_lit(&task->out, "{\"tokenize_response\":");
        ngx_http_llm_tokenize_native(task);
        ngx_http_llm_buf_lit(&task->out, ",\"templated_text\":");
        ngx_http_llm_buf_json_str(&task->out, &task->text);
        ngx_http_llm_buf_lit(&task->out, "}");

    } else {
        ngx_http_llm_tokenize_ids(task);
    }
}


static void
ngx_http_llm_tokenize_native(ngx_http_llm_task_t *task)
{
    size_t               i;
    llm_tokens_t        *t;
    ngx_http_llm_buf_t  *b;

    b = &task->out;
    t = &task->tokens;

    ngx_http_llm_buf_lit(b, "[");

    for (i = 0; i < t->n; i++) {
        ngx_http_llm_buf_printf(b, "%s{\"id\":%D,\"text\":", i ? "," : "",
                                t->ids[i]);
        ngx_http_llm_buf_json(b, task->text.data + t->start[i],
                              t->stop[i] - t->start[i]);
        ngx_http_llm_buf_printf(b, ",\"start\":%uD,\"stop\":%uD}",
                                t->start[i], t->stop[i]);
    }

    ngx_http_llm_buf_lit(b, "]");
}


static void
ngx_http_llm_tokenize_ids(ngx_http_llm_task_t *task)
{
    size_t               i;
    llm_tokens_t        *t;
    ngx_http_llm_buf_t  *b;

    b = &task->out;
    t = &task->tokens;

    ngx_http_llm_buf_lit(b, "{\"tokens\":[");

    for (i = 0; i < t->n; i++) {

        if (i) {
            ngx_http_llm_buf_lit(b, ",");
        }

        if (task->form == NGX_HTTP_LLM_TOKENS_PIECES) {
            ngx_http_llm_tokenize_piece(task, t->ids[i]);

        } else {
            ngx_http_llm_buf_printf(b, "%D", t->ids[i]);
        }
    }

    ngx_http_llm_buf_lit(b, "]");

    if (task->form == NGX_HTTP_LLM_TOKENS_IDS) {
        ngx_http_llm_buf_printf(b, ",\"count\":%uz,\"max_model_len\":%i",
                                t->n, task->max_model_len);
    }

    ngx_http_llm_buf_lit(b, "}");
}


/* a piece that is not UTF-8 by itself is a list of bytes */

static void
ngx_http_llm_tokenize_piece(ngx_http_llm_task_t *task, int32_t id)
{
    char                 text[256];
    size_t               i, len;
    u_char              *p, *end;
    ngx_http_llm_buf_t  *b;

    b = &task->out;
    len = llm_token_text(task->model, id, text, sizeof(text));
    p = (u_char *) text;
    end = p + len;

    while (p < end && (*p < 0x80 || ngx_utf8_decode(&p, end - p) <= 0x10ffff))
    {
        p += (*p < 0x80);
    }

    ngx_http_llm_buf_printf(b, "{\"id\":%D,\"piece\":", id);

    if (p == end) {
        ngx_http_llm_buf_json(b, text, len);

    } else {
        for (i = 0; i < len; i++) {
            ngx_http_llm_buf_printf(b, "%s%ud", i ? "," : "[",
                                    (unsigned) (u_char) text[i]);
        }

        ngx_http_llm_buf_lit(b, "]");
    }

    ngx_http_llm_buf_lit(b, "}");
}


static ngx_int_t
ngx_http_llm_detokenize_task(ngx_http_llm_ctx_t *ctx)
{
    size_t     i, n;
    json_t    *tokens, *id;
    int32_t   *ids;
    int64_t    value;
    uint32_t   n_vocab;

    tokens = ngx_http_llm_json_get(ctx->json, "tokens");

    if (tokens == NULL) {
        return ngx_http_llm_malformed(ctx, "missing field `tokens`");
    }

    if (!json_is_array(tokens)) {
        return ngx_http_llm_json_mismatch(ctx, "", "tokens", tokens,
                                          "a sequence");
    }

    n = json_array_size(tokens);
    n_vocab = llm_model_info(ctx->instance->model)->n_vocab;

    ctx->task = ngx_http_llm_task_new(ctx, ngx_http_llm_detokenize_work,
                                      n * sizeof(int32_t));
    if (ctx->task == NULL) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    ids = (int32_t *) ctx->task->text.data;

    for (i = 0; i < n; i++) {
        id = json_array_get(tokens, i);

        if (ngx_http_llm_json_integer(id, &value) != NGX_OK) {
            return ngx_http_llm_json_mismatch(ctx, "", "tokens", id, "u32");
        }

        if (value < 0 || value >= n_vocab) {
            return ngx_http_llm_invalid(ctx, "`tokens` must be >= 0 and < "
                                        "%uD. Given: %L", n_vocab, value);
        }

        ids[i] = value;
    }

    return NGX_OK;
}


static void
ngx_http_llm_detokenize_work(ngx_http_llm_task_t *task)
{
    size_t               i, n, len;
    int32_t             *ids;
    const char          *piece;
    llm_detok_t         *detok;
    ngx_http_llm_buf_t   text, *b;

    b = &task->out;
    ids = (int32_t *) task->text.data;
    n = task->text.len / sizeof(int32_t);

    ngx_http_llm_buf_init(&text, task->pool);

    task->code = llm_detok_new(&detok, task->model, 0, &task->err);

    for (i = 0; i <= n && task->code == LLM_OK; i++) {

        task->code = (i < n)
                     ? llm_detok_push(detok, ids[i], &piece, &len, &task->err)
                     : llm_detok_flush(detok, &piece, &len, &task->err);

        if (task->code == LLM_OK) {
            ngx_http_llm_buf_add(&text, piece, len);
        }
    }

    llm_detok_free(detok);

    ngx_http_llm_buf_lit(b, "{\"prompt\":");
    ngx_http_llm_buf_json(b, text.data, text.len);
    ngx_http_llm_buf_lit(b, ",\"content\":");
    ngx_http_llm_buf_json(b, text.data, text.len);
    ngx_http_llm_buf_lit(b, "}");

    b->failed |= text.failed;
}


/* the answer stays where the task has written it */

ngx_int_t
ngx_http_llm_tokenizer_reply(ngx_http_llm_ctx_t *ctx)
{
    ngx_pool_cleanup_t  *cln;

    cln = ngx_pool_cleanup_add(ctx->request->pool, 0);
    if (cln == NULL) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    cln->handler = ngx_http_llm_task_cleanup;
    cln->data = ctx->task;

    ctx->out = ctx->task->out;
    ctx->task = NULL;

    ngx_http_llm_output_reply(ctx, NGX_HTTP_OK, &ngx_http_llm_type_json);

    return NGX_DONE;
}


static void
ngx_http_llm_task_cleanup(void *data)
{
    ngx_http_llm_task_free(data);
}
