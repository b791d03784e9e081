/*
 * ngx_http_llm_grammar.c - what the output of a request must look like.
 *
 * `grammar` of the native protocol and `response_format` of OpenAI's say it
 * in the forms of one table.  Reading only notes the schema or the text; it
 * is compiled after all other checks, in a thread, since a hostile schema
 * may take a third of a second to be refused.
 */
#include "ngx_http_llm_request.h"


#define NGX_HTTP_LLM_GRAMMAR_TYPES                                            \
    "`json`, `json_object`, `json_schema`, `regex`, `gbnf`"


typedef struct {
    const char                *type;
    llm_constraint_kind_t      kind;
    const char                *field;       /* that the value has */
    const char                *paths[4];    /* where it may be */
    unsigned                   any:1;       /* no value: any object (OpenAI) */
} ngx_http_llm_grammar_form_t;


static json_t *ngx_http_llm_grammar_value(json_t *grammar, const char *path);
static ngx_int_t ngx_http_llm_grammar_read(ngx_http_llm_ctx_t *ctx,
    json_t *grammar, const char *path,
    const ngx_http_llm_grammar_form_t *form, ngx_uint_t openai);
static ngx_http_llm_task_t *ngx_http_llm_grammar_task(
    ngx_http_llm_ctx_t *ctx);
static void ngx_http_llm_grammar_work(ngx_http_llm_task_t *task);


static const ngx_http_llm_grammar_form_t  ngx_http_llm_grammar_forms[] = {
    { "json", LLM_CONSTRAIN_SCHEMA, "value", { "value" }, 0 },
    { "json_object", LLM_CONSTRAIN_SCHEMA, "value", { "value", "schema" }, 1 },
    { "json_schema", LLM_CONSTRAIN_SCHEMA, "schema",
      { "json_schema.schema", "value.schema", "schema" }, 0 },
    { "regex", LLM_CONSTRAIN_REGEX, "value", { "value" }, 0 },
    { "gbnf", LLM_CONSTRAIN_GBNF, "value", { "value" }, 0 },
    { NULL, 0, NULL, { NULL }, 0 }
};


ngx_int_t
ngx_http_llm_grammar_decode(ngx_http_llm_ctx_t *ctx, json_t *object,
    const char *name, const char *prefix, ngx_uint_t openai)
{
    u_char                              path[64];
    json_t                             *grammar, *value;
    const char                         *type;
    const ngx_http_llm_grammar_form_t  *form;

    grammar = ngx_http_llm_json_get(object, name);

    if (grammar == NULL) {
        return NGX_OK;
    }

    if (!json_is_object(grammar)) {
        return ngx_http_llm_json_mismatch(ctx, prefix, name, grammar,
                                          "an object with a `type`");
    }

    ngx_snprintf(path, sizeof(path), "%s%s.%Z", prefix, name);

    value = ngx_http_llm_json_get(grammar, "type");

    if (value == NULL) {
        return ngx_http_llm_malformed(ctx, "%s%s: missing field `type`",
                                      prefix, name);
    }

    if (!json_is_string(value)) {
        return ngx_http_llm_json_mismatch(ctx, (char *) path, "type", value,
                                          "a string");
    }

    type = json_string_value(value);

    if (openai && ngx_strcmp(type, "text") == 0) {
        return NGX_OK;
    }

    for (form = ngx_http_llm_grammar_forms; form->type; form++) {
        if (ngx_strcmp(type, form->type) == 0) {
            return ngx_http_llm_grammar_read(ctx, grammar, (char *) path,
                                             form, openai);
        }
    }

    return ngx_http_llm_malformed(ctx, "%stype: unknown variant `%*s`, "
                                  "expected one of %s"
                                  NGX_HTTP_LLM_GRAMMAR_TYPES, path,
                                  ngx_min(json_string_length(value), 32),
                                  type, openai ? "`text`, " : "");
}


/* the member at "a.b", which is not null */

static json_t *
ngx_http_llm_grammar_value(json_t *grammar, const char *path)
{
    u_char       name[32];
    const char  *dot;

    dot = ngx_strchr(path, '.');

    if (dot == NULL) {
        return ngx_http_llm_json_get(grammar, path);
    }

    ngx_cpystrn(name, (u_char *) path, dot - path + 1);

    return ngx_http_llm_json_get(json_object_get(grammar, (char *) name),
                                 dot + 1);
}


static ngx_int_t
ngx_http_llm_grammar_read(ngx_http_llm_ctx_t *ctx, json_t *grammar,
    const char *path, const ngx_http_llm_grammar_form_t *form,
    ngx_uint_t openai)
{
    json_t                  *value;
    ngx_uint_t               i, schema;
    ngx_http_llm_grammar_t  *g;

    g = &ctx->params.grammar;

    if (g->set) {
        return ngx_http_llm_invalid(ctx, "`grammar` and `response_format` "
                                    "are mutually exclusive");
    }

    g->set = 1;
    g->kind = form->kind;
    g->value = NULL;
    schema = (form->kind == LLM_CONSTRAIN_SCHEMA);

    for (i = 0; form->paths[i]; i++) {
        value = ngx_http_llm_grammar_value(grammar, form->paths[i]);

        if (value == NULL) {
            continue;
        }

        if (!json_is_string(value)
            && !(schema && (json_is_object(value) || json_is_boolean(value))))
        {
            return ngx_http_llm_json_mismatch(ctx, path, form->paths[i],
                                              value,
                                              schema ? "a JSON schema"
                                                     : "a string");
        }

        g->value = value;
        return NGX_OK;
    }

    if (form->any && openai) {
        g->kind = LLM_CONSTRAIN_OBJECT;
        return NGX_OK;
    }

    return ngx_http_llm_malformed(ctx, "%*s: missing field `%s`",
                                  ngx_strlen(path) - 1, path, form->field);
}


ngx_int_t
ngx_http_llm_grammar_compile(ngx_http_llm_ctx_t *ctx)
{
    ngx_int_t             rc;
    ngx_http_llm_task_t  *task;

    if (!ctx->params.grammar.set) {
        return NGX_OK;
    }

    if (!ctx->conf->grammar) {
        return ngx_http_llm_invalid(ctx, "grammar is not supported");
    }

    if (ctx->task == NULL) {

        if (ngx_http_llm_params_permit(ctx) != NGX_OK) {
            return NGX_ERROR;
        }

        ctx->task = ngx_http_llm_grammar_task(ctx);

        if (ctx->task == NULL) {
            return ngx_http_llm_fail_nomem(ctx);
        }
    }

    task = ctx->task;

    rc = ngx_http_llm_task_run(task);

    if (rc == NGX_AGAIN) {
        return NGX_AGAIN;
    }

    if (rc == NGX_BUSY) {
        return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_OVERLOADED,
                                 "Model is overloaded");
    }

    if (task->code != LLM_OK) {
        return ngx_http_llm_fail_engine(ctx, &task->err);
    }

    ctx->constraint = task->constraint;
    task->constraint = NULL;

    ngx_http_llm_task_free(task);
    ctx->task = NULL;

    return NGX_OK;
}


static ngx_http_llm_task_t *
ngx_http_llm_grammar_task(ngx_http_llm_ctx_t *ctx)
{
    ngx_str_t                text;
    ngx_http_llm_buf_t       dump;
    ngx_http_llm_task_t     *task;
    ngx_http_llm_grammar_t  *g;

    g = &ctx->params.grammar;
    text = g->text;

    if (json_is_string(g->value)) {
        text = ngx_http_llm_json_str(g->value);

    } else if (g->value) {
        ngx_http_llm_buf_init(&dump, ctx->request->pool);
        ngx_http_llm_buf_dump(&dump, g->value);

        if (dump.failed) {
            return NULL;
        }

        text.data = dump.data;
        text.len = dump.len;
    }

    task = ngx_http_llm_task_new(ctx, ngx_http_llm_grammar_work, text.len);

    if (task == NULL) {
        return NULL;
    }

    if (text.len) {
        ngx_memcpy(task->text.data, text.data, text.len);
    }

    task->engine = ctx->instance->engine;
    task->kind = g->kind;
    task->slow = 1;

    return task;
}


static void
ngx_http_llm_grammar_work(ngx_http_llm_task_t *task)
{
    task->code = llm_constraint_new(&task->constraint, task->engine,
                                    task->kind, (char *) task->text.data,
                                    task->text.len, &task->err);
}
