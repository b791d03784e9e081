/*
 * ngx_http_llm_chat.c - messages of a chat and the model's template.
 *
 * Messages are copied into the shape that templates expect: text parts
 * joined, arguments of tool calls as objects, "developer" as "system" and
 * calls as text where the template does not know them.  A trailing message
 * of the assistant is continued instead of answered.
 */
#include "ngx_http_llm_tools.h"


static ngx_int_t ngx_http_llm_chat_check_message(ngx_http_llm_ctx_t *ctx,
    json_t *message, ngx_uint_t i);
static ngx_int_t ngx_http_llm_chat_check_content(ngx_http_llm_ctx_t *ctx,
    json_t *content, ngx_uint_t i);
static json_t *ngx_http_llm_chat_messages(ngx_http_llm_ctx_t *ctx,
    json_t *root);
static ngx_int_t ngx_http_llm_chat_note(ngx_http_llm_ctx_t *ctx, json_t *root,
    json_t *messages);
static ngx_int_t ngx_http_llm_chat_message(ngx_http_llm_ctx_t *ctx,
    json_t *message);
static json_t *ngx_http_llm_chat_join(ngx_http_llm_ctx_t *ctx,
    json_t *parts);
static ngx_int_t ngx_http_llm_chat_append(json_t *message,
    ngx_http_llm_buf_t *more);
static ngx_int_t ngx_http_llm_chat_calls(json_t *calls);
static ngx_int_t ngx_http_llm_chat_calls_text(ngx_http_llm_ctx_t *ctx,
    json_t *message, json_t *calls);
static ngx_uint_t ngx_http_llm_chat_told(ngx_http_llm_ctx_t *ctx,
    json_t *vars, ngx_str_t *prompt);
static ngx_uint_t ngx_http_llm_chat_count(ngx_str_t *text, ngx_str_t *what);
static json_t *ngx_http_llm_chat_vars(ngx_http_llm_ctx_t *ctx, json_t *root,
    ngx_str_t *last);
static void ngx_http_llm_chat_continue(ngx_http_llm_ctx_t *ctx,
    ngx_str_t *text, ngx_str_t *last);
static u_char *ngx_http_llm_chat_rfind(ngx_http_llm_ctx_t *ctx,
    ngx_str_t *text, ngx_str_t *what);


ngx_int_t
ngx_http_llm_chat_check(ngx_http_llm_ctx_t *ctx, json_t *root)
{
    size_t   i;
    json_t  *messages;

    messages = ngx_http_llm_json_get(root, "messages");

    if (messages == NULL) {
        return ngx_http_llm_malformed(ctx, "missing field `messages`");
    }

    if (!json_is_array(messages)) {
        return ngx_http_llm_json_mismatch(ctx, "", "messages", messages,
                                          "a sequence");
    }

    if (json_array_size(messages) == 0) {
        return ngx_http_llm_invalid(ctx, "`messages` cannot be empty");
    }

    for (i = 0; i < json_array_size(messages); i++) {

        if (ngx_http_llm_chat_check_message(ctx, json_array_get(messages, i),
                                            i)
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return ngx_http_llm_tools_decode(ctx, root);
}


static ngx_int_t
ngx_http_llm_chat_check_message(ngx_http_llm_ctx_t *ctx, json_t *message,
    ngx_uint_t i)
{
    u_char   path[64];
    json_t  *role;

    ngx_snprintf(path, sizeof(path), "messages[%ui]%Z", i);

    if (!json_is_object(message)) {
        return ngx_http_llm_json_mismatch(ctx, "", (char *) path, message,
                                          "struct Message");
    }

    role = ngx_http_llm_json_get(message, "role");

    if (!json_is_string(role)) {
        return ngx_http_llm_malformed(ctx, "%s: missing field `role`", path);
    }

    return ngx_http_llm_chat_check_content(ctx,
                                 ngx_http_llm_json_get(message, "content"),
                                 i);
}


static ngx_int_t
ngx_http_llm_chat_check_content(ngx_http_llm_ctx_t *ctx, json_t *content,
    ngx_uint_t i)
{
    size_t       k;
    u_char       path[64];
    json_t      *part;
    const char  *type;

    if (content == NULL || json_is_string(content)) {
        return NGX_OK;
    }

    ngx_snprintf(path, sizeof(path), "messages[%ui].content%Z", i);

    if (!json_is_array(content)) {
        return ngx_http_llm_json_mismatch(ctx, "", (char *) path, content,
                                          "a string or a sequence of parts");
    }

    for (k = 0; k < json_array_size(content); k++) {
        part = json_array_get(content, k);
        type = json_string_value(json_object_get(part, "type"));

        if (type && ngx_strcmp(type, "image_url") == 0) {
            return ngx_http_llm_invalid(ctx, "image modality is not "
                                        "supported");
        }

        if (type == NULL || ngx_strcmp(type, "text") != 0
            || !json_is_string(json_object_get(part, "text")))
        {
            return ngx_http_llm_malformed(ctx, "%s[%uz]: expected a part of "
                                          "type `text`", path, k);
        }
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_llm_chat_render(ngx_http_llm_ctx_t *ctx, json_t *root,
    ngx_str_t *prompt)
{
    json_t      *vars;
    ngx_int_t    rc;
    ngx_str_t    err, last;
    ngx_uint_t   told;

    if (ctx->model->template.len == 0) {
        return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_TEMPLATE,
                                 "Template error: template not found");
    }

    ngx_str_null(&err);
    ngx_str_null(&last);
    told = 0;

    vars = ngx_http_llm_chat_vars(ctx, root, &last);
    if (vars == NULL) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    rc = ngx_http_llm_lua_render(ctx->request, &ctx->model->template, vars,
                                 prompt, &err);

    if (rc == NGX_OK) {
        told = ngx_http_llm_chat_told(ctx, vars, prompt);
        ngx_http_llm_chat_continue(ctx, prompt, &last);
    }

    json_decref(vars);

    if (rc == NGX_OK) {

        if (told) {
            return NGX_OK;
        }

        ctx->tools->note = 1;
        return ngx_http_llm_chat_render(ctx, root, prompt);
    }

    if (rc == NGX_DECLINED) {
        return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_TEMPLATE,
                                 "Template error: %V", &err);
    }

    return ngx_http_llm_fail_nomem(ctx);
}


/*
 * Whether the prompt tells of the tools, if it has to: some templates take
 * them from elsewhere, or leave them out.  Where the name of a tool may come
 * from a message, a prompt without tools is compared.  vars lose them.
 */

static ngx_uint_t
ngx_http_llm_chat_told(ngx_http_llm_ctx_t *ctx, json_t *vars,
    ngx_str_t *prompt)
{
    ngx_uint_t             n;
    ngx_str_t              err, other, *name;
    ngx_http_llm_buf_t     rest;
    ngx_http_llm_tools_t  *t;

    t = ctx->tools;

    if (t->n_tools == 0 || t->choice == NGX_HTTP_LLM_TOOLS_NONE || t->note) {
        return 1;
    }

    name = &t->tools[0].name;
    n = ngx_http_llm_chat_count(prompt, name);

    if (n == 0) {
        return 0;
    }

    (void) json_object_del(vars, "tools");

    ngx_http_llm_buf_init(&rest, ctx->request->pool);
    ngx_http_llm_buf_dump(&rest, vars);
    ngx_http_llm_buf_add(&rest, ctx->model->template.data,
                         ctx->model->template.len);

    other.data = rest.data;
    other.len = rest.len;

    if (!rest.failed && ngx_http_llm_chat_count(&other, name) == 0) {
        return 1;
    }

    return ngx_http_llm_lua_render(ctx->request, &ctx->model->template, vars,
                                   &other, &err)
           != NGX_OK
           || ngx_http_llm_chat_count(&other, name) < n;
}


static ngx_uint_t
ngx_http_llm_chat_count(ngx_str_t *text, ngx_str_t *what)
{
    u_char      *p, *end;
    ngx_uint_t   n;

    end = text->data + text->len;

    for (n = 0, p = text->data; p < end; n++) {

        p = memmem(p, end - p, what->data, what->len);

        if (p == NULL) {
            break;
        }

        p += what->len;
    }

    return n;
}


/*
 * last: content of a trailing message of the assistant, owned by the value.
 * The messages are set after what the client gives the template, which could
 * replace and so free them.
 */

static json_t *
ngx_http_llm_chat_vars(ngx_http_llm_ctx_t *ctx, json_t *root, ngx_str_t *last)
{
    size_t                   i;
    json_t                  *vars, *messages, *value;
    ngx_uint_t               open, failed;
    const llm_model_info_t  *info;

    static const char  *passed[] = {
        "documents", "reasoning_effort", "enable_thinking"
    };

    vars = json_object();
    if (vars == NULL) {
        return NULL;
    }

    info = llm_model_info(ctx->instance->model);
    open = ngx_http_llm_chat_continues(root);
    failed = 0;

    value = ngx_http_llm_json_get(root, "add_generation_prompt");

    failed |= json_object_set_new(vars, "add_generation_prompt",
                                  json_boolean(!open
                                               && !json_is_false(value)));
    failed |= json_object_set_new(vars, "bos_token",
                                  json_string(info->bos_token));
    failed |= json_object_set_new(vars, "eos_token",
                                  json_string(info->eos_token));

    for (i = 0; i < sizeof(passed) / sizeof(passed[0]); i++) {
        value = ngx_http_llm_json_get(root, passed[i]);

        if (value) {
            failed |= json_object_set(vars, passed[i], value);
        }
    }

    value = ngx_http_llm_json_get(root, "chat_template_kwargs");

    if (json_is_object(value)) {
        failed |= json_object_update(vars, value);
    }

    if (ctx->tools->n_tools) {
        failed |= json_object_set_new(vars, "tools",
                                      ngx_http_llm_tools_list(root));
    }

    messages = ngx_http_llm_chat_messages(ctx, root);
    failed |= json_object_set_new(vars, "messages", messages);

    if (failed) {
        json_decref(vars);
        return NULL;
    }

    if (open) {
        i = json_array_size(messages) - 1;
        value = json_object_get(json_array_get(messages, i), "content");

        if (json_is_string(value)) {
            *last = ngx_http_llm_json_str(value);
        }
    }

    return vars;
}


ngx_uint_t
ngx_http_llm_chat_continues(json_t *root)
{
    json_t      *messages, *message;
    const char  *role;

    messages = json_object_get(root, "messages");
    message = json_array_get(messages, json_array_size(messages) - 1);
    role = json_string_value(json_object_get(message, "role"));

    return role && ngx_strcmp(role, "assistant") == 0
           && !json_is_false(json_object_get(root, "continue_final_message"));
}


static json_t *
ngx_http_llm_chat_messages(ngx_http_llm_ctx_t *ctx, json_t *root)
{
    size_t   i;
    json_t  *copy;

    copy = json_deep_copy(json_object_get(root, "messages"));

    for (i = 0; i < json_array_size(copy); i++) {

        if (ngx_http_llm_chat_message(ctx, json_array_get(copy, i))
            != NGX_OK)
        {
            json_decref(copy);
            return NULL;
        }
    }

    if (copy && ngx_http_llm_chat_note(ctx, root, copy) != NGX_OK) {
        json_decref(copy);
        return NULL;
    }

    return copy;
}


/* a text about tools goes to the last message of the user */

static ngx_int_t
ngx_http_llm_chat_note(ngx_http_llm_ctx_t *ctx, json_t *root,
    json_t *messages)
{
    size_t               i;
    json_t              *message;
    const char          *role;
    ngx_http_llm_buf_t   note;

    ngx_http_llm_buf_init(&note, ctx->request->pool);
    ngx_http_llm_tools_note(ctx, root, &note);

    if (note.failed) {
        return NGX_ERROR;
    }

    if (note.len == 0) {
        return NGX_OK;
    }

    for (i = json_array_size(messages); i > 0; i--) {
        message = json_array_get(messages, i - 1);
        role = json_string_value(json_object_get(message, "role"));

        if (ngx_strcmp(role, "user") == 0) {
            return ngx_http_llm_chat_append(message, &note);
        }
    }

    message = json_pack("{s:s,s:s}", "role", "user", "content", "");

    if (message == NULL
        || ngx_http_llm_chat_append(message, &note) != NGX_OK)
    {
        json_decref(message);
        return NGX_ERROR;
    }

    return json_array_insert_new(messages, 0, message) ? NGX_ERROR : NGX_OK;
}


/* to the content of a message, which is a string or nothing */

static ngx_int_t
ngx_http_llm_chat_append(json_t *message, ngx_http_llm_buf_t *more)
{
    ngx_str_t            text;
    ngx_http_llm_buf_t   b;

    ngx_http_llm_buf_init(&b, more->pool);

    text = ngx_http_llm_json_str(json_object_get(message, "content"));
    ngx_http_llm_buf_add(&b, text.data, text.len);
    ngx_http_llm_buf_add(&b, more->data, more->len);

    if (b.failed
        || json_object_set_new(message, "content",
                               json_stringn((char *) b.data, b.len)))
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


ngx_uint_t
ngx_http_llm_chat_knows(ngx_http_llm_ctx_t *ctx, const char *text)
{
    ngx_str_t  *template;

    template = &ctx->model->template;

    return template->len
           && ngx_strnstr(template->data, (char *) text, template->len);
}


static ngx_int_t
ngx_http_llm_chat_message(ngx_http_llm_ctx_t *ctx, json_t *message)
{
    json_t      *content, *calls;
    const char  *role, *as;

    role = json_string_value(json_object_get(message, "role"));
    as = NULL;

    if (ngx_strcmp(role, "developer") == 0
        && !ngx_http_llm_chat_knows(ctx, "developer"))
    {
        as = "system";

    } else if (ngx_strcmp(role, "tool") == 0
               && !ngx_http_llm_chat_knows(ctx, "tool"))
    {
        as = "user";
    }

    if (as && json_object_set_new(message, "role", json_string(as))) {
        return NGX_ERROR;
    }

    content = ngx_http_llm_json_get(message, "content");

    if (json_is_array(content)) {
        content = ngx_http_llm_chat_join(ctx, content);

        if (json_object_set_new(message, "content", content)) {
            return NGX_ERROR;
        }
    }

    calls = ngx_http_llm_json_get(message, "tool_calls");

    if (json_array_size(calls)) {
        if (!ngx_http_llm_chat_knows(ctx, "tool_calls")) {
            return ngx_http_llm_chat_calls_text(ctx, message, calls);
        }

        /* most templates want arguments as an object, some join strings */

        return (ngx_http_llm_chat_knows(ctx, "['arguments'] +")
                || ngx_http_llm_chat_knows(ctx, ".arguments +"))
               ? NGX_OK : ngx_http_llm_chat_calls(calls);
    }

    if (content == NULL
        && json_object_set_new(message, "content", json_string("")))
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* for templates that know no calls */

static ngx_int_t
ngx_http_llm_chat_calls_text(ngx_http_llm_ctx_t *ctx, json_t *message,
    json_t *calls)
{
    size_t               i;
    ngx_http_llm_buf_t   text;

    ngx_http_llm_buf_init(&text, ctx->request->pool);

    for (i = 0; i < json_array_size(calls); i++) {
        ngx_http_llm_syntax_write(&text, json_array_get(calls, i));
    }

    if (text.failed || ngx_http_llm_chat_append(message, &text) != NGX_OK) {
        return NGX_ERROR;
    }

    return json_object_del(message, "tool_calls") ? NGX_ERROR : NGX_OK;
}


static json_t *
ngx_http_llm_chat_join(ngx_http_llm_ctx_t *ctx, json_t *parts)
{
    size_t               i;
    ngx_str_t            text;
    ngx_http_llm_buf_t   joined;

    ngx_http_llm_buf_init(&joined, ctx->request->pool);

    for (i = 0; i < json_array_size(parts); i++) {
        text = ngx_http_llm_json_str(json_object_get(json_array_get(parts, i),
                                                     "text"));
        ngx_http_llm_buf_add(&joined, text.data, text.len);
    }

    if (joined.failed) {
        return NULL;
    }

    return json_stringn(joined.len ? (char *) joined.data : "", joined.len);
}


static ngx_int_t
ngx_http_llm_chat_calls(json_t *calls)
{
    size_t         i;
    json_t        *function, *arguments, *parsed;
    ngx_str_t      text;
    json_error_t   error;

    for (i = 0; i < json_array_size(calls); i++) {
        function = json_object_get(json_array_get(calls, i), "function");
        arguments = json_object_get(function, "arguments");

        if (!json_is_string(arguments)) {
            continue;
        }

        text = ngx_http_llm_json_str(arguments);

        /* the template gets what is long as it came, the loop does not wait */

        if (text.len > NGX_HTTP_LLM_TASK_BYTES) {
            continue;
        }

        parsed = ngx_http_llm_json_load((char *) text.data, text.len,
                                        JSON_ALLOW_NUL, &error);

        if (!json_is_object(parsed)) {
            json_decref(parsed);
            continue;
        }

        if (json_object_set_new(function, "arguments", parsed)) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* the prompt ends with the text of the message that is to be continued */

static void
ngx_http_llm_chat_continue(ngx_http_llm_ctx_t *ctx, ngx_str_t *text,
    ngx_str_t *last)
{
    u_char  *p;

    if (last->data == NULL) {
        return;
    }

    p = ngx_http_llm_chat_rfind(ctx, text, last);

    if (p == NULL) {

        /* many templates trim the content */

        while (last->len && ngx_http_llm_space(last->data[0])) {
            last->data++;
            last->len--;
        }

        while (last->len
               && ngx_http_llm_space(last->data[last->len - 1]))
        {
            last->len--;
        }

        p = ngx_http_llm_chat_rfind(ctx, text, last);
    }

    if (p) {
        text->len = p + last->len - text->data;
    }

    while (text->len && ngx_http_llm_space(text->data[text->len - 1])) {
        text->len--;
    }
}


/* linear, whatever a client writes */

static u_char *
ngx_http_llm_chat_rfind(ngx_http_llm_ctx_t *ctx, ngx_str_t *text,
    ngx_str_t *what)
{
    u_char    *found;
    size_t     i, k;
    uint32_t  *next;

    if (what->len == 0) {
        return text->data + text->len;
    }

    next = ngx_http_llm_text_links(what, ctx->request->pool);
    if (next == NULL) {
        return NULL;
    }

    found = NULL;

    for (i = 0, k = 0; i < text->len; i++) {

        while (k && text->data[i] != what->data[k]) {
            k = next[k - 1];
        }

        k += (text->data[i] == what->data[k]);

        if (k == what->len) {
            found = text->data + i + 1 - k;
            k = next[k - 1];
        }
    }

    return found;
}
