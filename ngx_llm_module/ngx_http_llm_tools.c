/*
 * ngx_http_llm_tools.c - functions that a chat may call: the list and the
 * choice in a request, and how both are shown to the model.
 */
#include "ngx_http_llm_tools.h"


#define NGX_HTTP_LLM_MAX_TOOLS  512
#define NGX_HTTP_LLM_MAX_NAME   128

#define ngx_http_llm_tool_fail(ctx, ...)                                      \
    ngx_http_llm_fail(ctx, NGX_HTTP_LLM_TOOL, "Tool error: " __VA_ARGS__)


static ngx_int_t ngx_http_llm_tools_read(ngx_http_llm_ctx_t *ctx,
    json_t *function, const char *path, ngx_http_llm_tools_t *t);
static ngx_int_t ngx_http_llm_tools_schema(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_tool_t *tool, json_t *function);
static ngx_int_t ngx_http_llm_tools_choose(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_tools_t *t, json_t *root, const char *field);
static ngx_int_t ngx_http_llm_tools_named(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_tools_t *t, json_t *name);


ngx_int_t
ngx_http_llm_tools_decode(ngx_http_llm_ctx_t *ctx, json_t *root)
{
    size_t                 i, n;
    u_char                 path[64];
    json_t                *list, *tool;
    ngx_uint_t             old;
    const char            *name;
    ngx_http_llm_tools_t  *t;

    t = ngx_pcalloc(ctx->request->pool, sizeof(ngx_http_llm_tools_t));
    if (t == NULL) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    ctx->tools = t;

    /* OpenAI's form of 2023 has a list of bare functions */

    old = (ngx_http_llm_json_get(root, "tools") == NULL
           && ngx_http_llm_json_get(root, "functions") != NULL);

    name = old ? "functions" : "tools";
    list = ngx_http_llm_json_get(root, name);
    n = json_array_size(list);

    if (list && !json_is_array(list)) {
        return ngx_http_llm_json_mismatch(ctx, "", name, list, "a sequence");
    }

    if (n > NGX_HTTP_LLM_MAX_TOOLS) {
        return ngx_http_llm_tool_fail(ctx, "at most %d tools are supported. "
                                      "Given: %uz", NGX_HTTP_LLM_MAX_TOOLS,
                                      n);
    }

    t->tools = ngx_pcalloc(ctx->request->pool,
                           (n + 1) * sizeof(ngx_http_llm_tool_t));
    if (t->tools == NULL) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    for (i = 0; i < n; i++) {
        tool = json_array_get(list, i);
        ngx_snprintf(path, sizeof(path), "%s[%uz]%Z", name, i);

        if (!json_is_object(tool)) {
            return ngx_http_llm_json_mismatch(ctx, "", (char *) path, tool,
                                              "struct Tool");
        }

        if (!old) {
            tool = ngx_http_llm_json_get(tool, "function");
        }

        if (!json_is_object(tool)) {
            return ngx_http_llm_malformed(ctx, "%s: missing field `function`",
                                          path);
        }

        if (ngx_http_llm_tools_read(ctx, tool, (char *) path, t) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    t->parallel = 1;

    if (ngx_http_llm_json_flag(ctx, root, "parallel_tool_calls", "",
                               &t->parallel)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ngx_http_llm_tools_choose(ctx, t, root,
                                  old ? "function_call" : "tool_choice")
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    t->note = (t->choice != NGX_HTTP_LLM_TOOLS_NONE
               && !ngx_http_llm_chat_knows(ctx, "tools"));

    return NGX_OK;
}


/* names are the same text in all syntaxes, JSON or not */

static ngx_int_t
ngx_http_llm_tools_read(ngx_http_llm_ctx_t *ctx, json_t *function,
    const char *path, ngx_http_llm_tools_t *t)
{
    u_char                c;
    size_t                i;
    json_t               *name;
    ngx_http_llm_tool_t  *tool;

    name = ngx_http_llm_json_get(function, "name");

    if (name == NULL) {
        return ngx_http_llm_malformed(ctx, "%s.function: missing field "
                                      "`name`", path);
    }

    if (!json_is_string(name)) {
        return ngx_http_llm_json_mismatch(ctx, path, ".function.name", name,
                                          "a string");
    }

    tool = &t->tools[t->n_tools++];
    tool->name = ngx_http_llm_json_str(name);

    if (tool->name.len == 0 || tool->name.len > NGX_HTTP_LLM_MAX_NAME) {
        return ngx_http_llm_tool_fail(ctx, "the name of a tool must have 1 to "
                                      "%d bytes. Given: %uz",
                                      NGX_HTTP_LLM_MAX_NAME, tool->name.len);
    }

    for (i = 0; i < tool->name.len; i++) {
        c = tool->name.data[i];

        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
              || (c >= '0' && c <= '9') || ngx_strchr("_-.:/", c))
            || c == '\0')
        {
            return ngx_http_llm_tool_fail(ctx, "the name of a tool must have "
                                          "letters, digits and \"_-.:/\" "
                                          "only: %V", &tool->name);
        }
    }

    for (i = 0; i < t->n_tools - 1; i++) {
        if (t->tools[i].name.len == tool->name.len
            && ngx_memcmp(t->tools[i].name.data, tool->name.data,
                          tool->name.len)
               == 0)
        {
            return ngx_http_llm_tool_fail(ctx, "two tools have the name %V",
                                          &tool->name);
        }
    }

    return ngx_http_llm_tools_schema(ctx, tool, function);
}


/* TGI's name for parameters is "arguments" */

static ngx_int_t
ngx_http_llm_tools_schema(ngx_http_llm_ctx_t *ctx, ngx_http_llm_tool_t *tool,
    json_t *function)
{
    size_t   i;
    json_t  *schema, *type;

    schema = ngx_http_llm_json_get(function, "parameters");

    if (schema == NULL) {
        schema = ngx_http_llm_json_get(function, "arguments");
    }

    if (schema == NULL) {
        return NGX_OK;
    }

    if (!json_is_object(schema)) {
        return ngx_http_llm_tool_fail(ctx, "the parameters of %V are no JSON "
                                      "schema", &tool->name);
    }

    type = json_object_get(schema, "type");

    for (i = 0; i < json_array_size(type); i++) {
        if (json_is_string(json_array_get(type, i))
            && ngx_strcmp(json_string_value(json_array_get(type, i)),
                          "object")
               == 0)
        {
            type = NULL;
        }
    }

    if (type && !(json_is_string(type)
                  && ngx_strcmp(json_string_value(type), "object") == 0))
    {
        return ngx_http_llm_tool_fail(ctx, "the parameters of %V must be of "
                                      "type object", &tool->name);
    }

    tool->schema = schema;

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_tools_choose(ngx_http_llm_ctx_t *ctx, ngx_http_llm_tools_t *t,
    json_t *root, const char *field)
{
    json_t      *choice, *function;
    const char  *name;

    choice = ngx_http_llm_json_get(root, field);

    if (choice == NULL) {
        return NGX_OK;
    }

    if (json_is_object(choice)) {
        function = ngx_http_llm_json_get(choice, "function");
        function = json_is_object(function) ? function : choice;

        return ngx_http_llm_tools_named(ctx, t,
                                        ngx_http_llm_json_get(function,
                                                              "name"));
    }

    if (!json_is_string(choice)) {
        return ngx_http_llm_json_mismatch(ctx, "", field, choice,
                                          "a string or a named function");
    }

    name = json_string_value(choice);

    if (ngx_strcmp(name, "auto") == 0) {
        return NGX_OK;
    }

    if (ngx_strcmp(name, "none") == 0) {
        t->choice = NGX_HTTP_LLM_TOOLS_NONE;
        return NGX_OK;
    }

    if (ngx_strcmp(name, "required") != 0) {
        return ngx_http_llm_tools_named(ctx, t, choice);
    }

    if (t->n_tools == 0) {
        return ngx_http_llm_tool_fail(ctx, "`%s` is \"required\", but there "
                                      "are no tools", field);
    }

    t->choice = NGX_HTTP_LLM_TOOLS_REQUIRED;

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_tools_named(ngx_http_llm_ctx_t *ctx, ngx_http_llm_tools_t *t,
    json_t *value)
{
    ngx_str_t    name;
    ngx_uint_t   i;

    if (!json_is_string(value)) {
        return ngx_http_llm_malformed(ctx, "tool_choice.function: missing "
                                      "field `name`");
    }

    name = ngx_http_llm_json_str(value);

    for (i = 0; i < t->n_tools; i++) {
        if (t->tools[i].name.len == name.len
            && ngx_memcmp(t->tools[i].name.data, name.data, name.len) == 0)
        {
            t->only = &t->tools[i];
            t->choice = NGX_HTTP_LLM_TOOLS_REQUIRED;
            t->parallel = 0;
            return NGX_OK;
        }
    }

    return ngx_http_llm_tool_fail(ctx, "Tool with name %V not found", &name);
}


json_t *
ngx_http_llm_tools_list(json_t *root)
{
    size_t       i;
    json_t      *list, *copy, *tool, *function, *arguments;
    ngx_uint_t   failed, functions;

    list = ngx_http_llm_json_get(root, "tools");
    functions = (list == NULL);

    if (functions) {
        list = ngx_http_llm_json_get(root, "functions");
    }

    if (json_array_size(list) == 0) {
        return NULL;
    }

    copy = json_array();
    failed = (copy == NULL);

    for (i = 0; i < json_array_size(list) && !failed; i++) {
        tool = json_array_get(list, i);

        tool = functions ? json_pack("{s:s,s:O}", "type", "function",
                                     "function", tool)
                         : json_copy(tool);

        function = json_object_get(tool, "function");
        arguments = ngx_http_llm_json_get(function, "arguments");

        if (arguments && ngx_http_llm_json_get(function, "parameters") == NULL)
        {
            function = json_copy(function);
            failed |= json_object_set(function, "parameters", arguments);
            failed |= json_object_del(function, "arguments");
            failed |= json_object_set_new(tool, "function", function);
        }

        failed |= json_array_append_new(copy, tool);
    }

    if (failed) {
        json_decref(copy);
        return NULL;
    }

    return copy;
}


void
ngx_http_llm_tools_note(ngx_http_llm_ctx_t *ctx, json_t *root,
    ngx_http_llm_buf_t *b)
{
    json_t                *list, *prompt;
    ngx_str_t              text;
    ngx_http_llm_tools_t  *t;

    t = ctx->tools;

    if (t == NULL || t->n_tools == 0) {
        return;
    }

    if (t->note) {
        list = ngx_http_llm_tools_list(root);
        if (list == NULL) {
            b->failed = 1;
            return;
        }

        ngx_http_llm_buf_lit(b, "\n---\n");

        if (ctx->conf->tool_prompt.len) {
            ngx_http_llm_buf_add(b, ctx->conf->tool_prompt.data,
                                 ctx->conf->tool_prompt.len);

        } else {
            ngx_http_llm_buf_lit(b, "You can call the functions below. To call "
                                 "one, answer with nothing but its name and "
                                 "its arguments as JSON in this form:\n");
            ngx_http_llm_syntax_example(ctx, b);
        }

        ngx_http_llm_buf_lit(b, "\n");
        ngx_http_llm_buf_dump(b, list);
        json_decref(list);
    }

    prompt = ngx_http_llm_json_get(root, "tool_prompt");

    if (json_is_string(prompt)) {
        text = ngx_http_llm_json_str(prompt);
        ngx_http_llm_buf_lit(b, "\n---\n");
        ngx_http_llm_buf_add(b, text.data, text.len);
    }
}
