/*
 * ngx_http_llm_responses_body.c - a body of OpenAI's Responses API as a body
 * of chat completions.
 *
 * Items become messages, flat tools nested ones, text.format becomes
 * response_format; what has the same name in both stays.  Nothing is stored
 * here, so what refers to a stored response is refused.
 */
#include "ngx_http_llm_responses.h"


static ngx_int_t ngx_http_llm_responses_refuse(ngx_http_llm_ctx_t *ctx,
    json_t *root);
static ngx_int_t ngx_http_llm_responses_input(ngx_http_llm_ctx_t *ctx,
    json_t *root, json_t *messages);
static ngx_int_t ngx_http_llm_responses_item(ngx_http_llm_ctx_t *ctx,
    json_t *item, const char *path, json_t *messages);
static ngx_int_t ngx_http_llm_responses_message(ngx_http_llm_ctx_t *ctx,
    json_t *item, const char *path, json_t *messages);
static ngx_int_t ngx_http_llm_responses_call(ngx_http_llm_ctx_t *ctx,
    json_t *item, const char *path, json_t *messages);
static ngx_int_t ngx_http_llm_responses_result(ngx_http_llm_ctx_t *ctx,
    json_t *item, const char *path, json_t *messages);
static json_t *ngx_http_llm_responses_text(ngx_http_llm_ctx_t *ctx,
    json_t *content, const char *path);
static json_t *ngx_http_llm_responses_string(ngx_http_llm_ctx_t *ctx,
    json_t *item, const char *path, const char *name);
static ngx_int_t ngx_http_llm_responses_format(ngx_http_llm_ctx_t *ctx,
    json_t *root, json_t *chat);
static ngx_int_t ngx_http_llm_responses_tools(ngx_http_llm_ctx_t *ctx,
    json_t *root, json_t *chat);
static ngx_int_t ngx_http_llm_responses_choice(ngx_http_llm_ctx_t *ctx,
    json_t *root, json_t *chat);
static ngx_int_t ngx_http_llm_responses_rest(ngx_http_llm_ctx_t *ctx,
    json_t *root, json_t *chat);


json_t *
ngx_http_llm_responses_chat(ngx_http_llm_ctx_t *ctx, json_t *root)
{
    json_t  *chat, *messages;
    size_t   i;

    /* of chat completions, or with another meaning there */

    static const char  *dropped[] = {
        "input", "instructions", "max_output_tokens", "text", "tools",
        "tool_choice", "reasoning", "include", "top_logprobs", "messages",
        "n", "logprobs", "stream_options", "max_tokens", "max_new_tokens",
        "max_completion_tokens", "response_format", "functions",
        "function_call", "tool_prompt", "prompt", NULL
    };

    if (ngx_http_llm_responses_refuse(ctx, root) != NGX_OK) {
        return NULL;
    }

    chat = json_copy(root);
    messages = json_array();

    for (i = 0; chat && dropped[i]; i++) {
        (void) json_object_del(chat, dropped[i]);
    }

    if (json_object_set_new(chat, "messages", messages) != 0) {
        json_decref(chat);
        (void) ngx_http_llm_fail_nomem(ctx);
        return NULL;
    }

    if (ngx_http_llm_responses_input(ctx, root, messages) != NGX_OK
        || ngx_http_llm_responses_format(ctx, root, chat) != NGX_OK
        || ngx_http_llm_responses_tools(ctx, root, chat) != NGX_OK
        || ngx_http_llm_responses_choice(ctx, root, chat) != NGX_OK
        || ngx_http_llm_responses_rest(ctx, root, chat) != NGX_OK)
    {
        json_decref(chat);
        return NULL;
    }

    return chat;
}


static ngx_int_t
ngx_http_llm_responses_refuse(ngx_http_llm_ctx_t *ctx, json_t *root)
{
    size_t   i;
    json_t  *value;

    static const char  *refused[] = {
        "previous_response_id", "conversation", "prompt", NULL
    };

    for (i = 0; refused[i]; i++) {
        if (ngx_http_llm_json_get(root, refused[i])) {
            return ngx_http_llm_invalid(ctx, "`%s` is not supported: nothing "
                                        "is stored here", refused[i]);
        }
    }

    value = ngx_http_llm_json_get(root, "background");

    if (value && !json_is_false(value)) {
        return ngx_http_llm_invalid(ctx, "`background` is not supported");
    }

    value = ngx_http_llm_json_get(root, "include");

    if (value && !(json_is_array(value) && json_array_size(value) == 0)) {
        return ngx_http_llm_invalid(ctx, "`include` is not supported");
    }

    value = ngx_http_llm_json_get(root, "top_logprobs");

    if (value && !(json_is_integer(value) && json_integer_value(value) == 0)) {
        return ngx_http_llm_invalid(ctx, "`top_logprobs` is not supported");
    }

    value = ngx_http_llm_json_get(root, "truncation");

    if (value && !(json_is_string(value)
                   && ngx_strcmp(json_string_value(value), "disabled") == 0))
    {
        return ngx_http_llm_invalid(ctx, "`truncation` must be `disabled`");
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_responses_input(ngx_http_llm_ctx_t *ctx, json_t *root,
    json_t *messages)
{
    u_char   path[64];
    size_t   i;
    json_t  *input, *value;

    value = ngx_http_llm_json_get(root, "instructions");

    if (value) {
        if (!json_is_string(value)) {
            return ngx_http_llm_json_mismatch(ctx, "", "instructions", value,
                                              "a string");
        }

        if (json_array_append_new(messages,
                                  json_pack("{s:s,s:O}", "role", "system",
                                            "content", value))
            != 0)
        {
            return ngx_http_llm_fail_nomem(ctx);
        }
    }

    input = ngx_http_llm_json_get(root, "input");

    if (input == NULL) {
        return ngx_http_llm_malformed(ctx, "missing field `input`");
    }

    if (json_is_string(input)) {

        if (json_array_append_new(messages,
                                  json_pack("{s:s,s:O}", "role", "user",
                                            "content", input))
            != 0)
        {
            return ngx_http_llm_fail_nomem(ctx);
        }

        return NGX_OK;
    }

    if (!json_is_array(input)) {
        return ngx_http_llm_json_mismatch(ctx, "", "input", input,
                                          "a string or a sequence of items");
    }

    if (json_array_size(input) == 0) {
        return ngx_http_llm_invalid(ctx, "`input` cannot be empty");
    }

    for (i = 0; i < json_array_size(input); i++) {

        ngx_snprintf(path, sizeof(path), "input[%uz]%Z", i);

        if (ngx_http_llm_responses_item(ctx, json_array_get(input, i),
                                        (char *) path, messages)
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_responses_item(ngx_http_llm_ctx_t *ctx, json_t *item,
    const char *path, json_t *messages)
{
    json_t      *type;
    const char  *name;

    if (!json_is_object(item)) {
        return ngx_http_llm_json_mismatch(ctx, "", path, item, "an item");
    }

    type = ngx_http_llm_json_get(item, "type");
    name = type ? json_string_value(type) : "message";

    if (name == NULL) {
        return ngx_http_llm_json_mismatch(ctx, path, ".type", type,
                                          "a string");
    }

    if (ngx_strcmp(name, "message") == 0) {
        return ngx_http_llm_responses_message(ctx, item, path, messages);
    }

    if (ngx_strcmp(name, "function_call") == 0) {
        return ngx_http_llm_responses_call(ctx, item, path, messages);
    }

    if (ngx_strcmp(name, "function_call_output") == 0) {
        return ngx_http_llm_responses_result(ctx, item, path, messages);
    }

    /* earlier thoughts are not shown to templates */

    if (ngx_strcmp(name, "reasoning") == 0) {
        return NGX_OK;
    }

    return ngx_http_llm_invalid(ctx, "%s: items of type `%s` are not "
                                "supported", path, name);
}


static ngx_int_t
ngx_http_llm_responses_message(ngx_http_llm_ctx_t *ctx, json_t *item,
    const char *path, json_t *messages)
{
    json_t  *role, *text;

    role = ngx_http_llm_responses_string(ctx, item, path, "role");

    if (role == NULL) {
        return NGX_ERROR;
    }

    text = ngx_http_llm_responses_text(ctx, json_object_get(item, "content"),
                                       path);
    if (text == NULL) {
        return NGX_ERROR;
    }

    if (json_array_append_new(messages, json_pack("{s:O,s:o}", "role", role,
                                                  "content", text))
        != 0)
    {
        return ngx_http_llm_fail_nomem(ctx);
    }

    return NGX_OK;
}


/* calls belong to one message of the assistant, as far as they follow */

static ngx_int_t
ngx_http_llm_responses_call(ngx_http_llm_ctx_t *ctx, json_t *item,
    const char *path, json_t *messages)
{
    json_t      *id, *name, *arguments, *last, *calls, *call;
    const char  *role;

    id = ngx_http_llm_responses_string(ctx, item, path, "call_id");

    if (id == NULL) {
        return NGX_ERROR;
    }

    name = ngx_http_llm_responses_string(ctx, item, path, "name");

    if (name == NULL) {
        return NGX_ERROR;
    }

    arguments = ngx_http_llm_responses_string(ctx, item, path, "arguments");

    if (arguments == NULL) {
        return NGX_ERROR;
    }

    last = json_array_get(messages, json_array_size(messages) - 1);
    role = json_string_value(json_object_get(last, "role"));

    if (role == NULL || ngx_strcmp(role, "assistant") != 0) {
        last = json_pack("{s:s,s:n}", "role", "assistant", "content");

        if (json_array_append_new(messages, last) != 0) {
            return ngx_http_llm_fail_nomem(ctx);
        }
    }

    calls = json_object_get(last, "tool_calls");

    if (calls == NULL) {
        calls = json_array();

        if (json_object_set_new(last, "tool_calls", calls) != 0) {
            return ngx_http_llm_fail_nomem(ctx);
        }
    }

    call = json_pack("{s:O,s:s,s:{s:O,s:O}}", "id", id, "type", "function",
                     "function", "name", name, "arguments", arguments);

    if (json_array_append_new(calls, call) != 0) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_responses_result(ngx_http_llm_ctx_t *ctx, json_t *item,
    const char *path, json_t *messages)
{
    json_t  *id, *text;

    id = ngx_http_llm_responses_string(ctx, item, path, "call_id");

    if (id == NULL) {
        return NGX_ERROR;
    }

    text = ngx_http_llm_responses_text(ctx, json_object_get(item, "output"),
                                       path);
    if (text == NULL) {
        return NGX_ERROR;
    }

    if (json_array_append_new(messages,
                              json_pack("{s:s,s:O,s:o}", "role", "tool",
                                        "tool_call_id", id,
                                        "content", text))
        != 0)
    {
        return ngx_http_llm_fail_nomem(ctx);
    }

    return NGX_OK;
}


/* A string, or the text of parts: a new reference, or NULL. */

static json_t *
ngx_http_llm_responses_text(ngx_http_llm_ctx_t *ctx, json_t *content,
    const char *path)
{
    size_t               i;
    json_t              *part, *text;
    ngx_str_t            s;
    const char          *type;
    ngx_http_llm_buf_t   joined;

    if (json_is_string(content)) {
        return json_incref(content);
    }

    if (!json_is_array(content)) {
        (void) ngx_http_llm_malformed(ctx, "%s: expected a string or a "
                                      "sequence of parts", path);
        return NULL;
    }

    ngx_http_llm_buf_init(&joined, ctx->request->pool);

    for (i = 0; i < json_array_size(content); i++) {
        part = json_array_get(content, i);
        type = json_string_value(json_object_get(part, "type"));
        text = json_object_get(part, "text");

        if (type && ngx_strcmp(type, "input_image") == 0) {
            (void) ngx_http_llm_invalid(ctx, "image modality is not "
                                        "supported");
            return NULL;
        }

        if (type && ngx_strcmp(type, "refusal") == 0) {
            text = json_object_get(part, "refusal");

        } else if (type == NULL
                   || (ngx_strcmp(type, "input_text") != 0
                       && ngx_strcmp(type, "output_text") != 0
                       && ngx_strcmp(type, "text") != 0))
        {
            text = NULL;
        }

        if (!json_is_string(text)) {
            (void) ngx_http_llm_malformed(ctx, "%s: expected parts of type "
                                          "`input_text` or `output_text`",
                                          path);
            return NULL;
        }

        s = ngx_http_llm_json_str(text);
        ngx_http_llm_buf_add(&joined, s.data, s.len);
    }

    text = joined.failed ? NULL
           : json_stringn(joined.len ? (char *) joined.data : "", joined.len);

    if (text == NULL) {
        (void) ngx_http_llm_fail_nomem(ctx);
    }

    return text;
}


/* A string that must be there, borrowed. */

static json_t *
ngx_http_llm_responses_string(ngx_http_llm_ctx_t *ctx, json_t *item,
    const char *path, const char *name)
{
    json_t  *value;

    value = json_object_get(item, name);

    if (json_is_string(value)) {
        return value;
    }

    (void) ngx_http_llm_malformed(ctx, "%s.%s: expected a string", path, name);
    return NULL;
}


/* text.format, whose schema lies one level higher than in a chat */

static ngx_int_t
ngx_http_llm_responses_format(ngx_http_llm_ctx_t *ctx, json_t *root,
    json_t *chat)
{
    json_t      *text, *format, *nested;
    const char  *type;

    text = ngx_http_llm_json_get(root, "text");

    if (text && !json_is_object(text)) {
        return ngx_http_llm_json_mismatch(ctx, "", "text", text, "a map");
    }

    format = ngx_http_llm_json_get(text, "format");

    if (format == NULL) {
        return NGX_OK;
    }

    type = json_string_value(json_object_get(format, "type"));

    if (type && ngx_strcmp(type, "json_schema") == 0) {
        nested = json_pack("{s:s,s:O}", "type", type, "json_schema", format);

    } else {
        nested = json_incref(format);
    }

    if (json_object_set_new(chat, "response_format", nested) != 0) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_responses_tools(ngx_http_llm_ctx_t *ctx, json_t *root,
    json_t *chat)
{
    size_t       i;
    json_t      *tools, *list, *tool;
    const char  *type;

    tools = ngx_http_llm_json_get(root, "tools");

    if (tools == NULL) {
        return NGX_OK;
    }

    if (!json_is_array(tools)) {
        return ngx_http_llm_json_mismatch(ctx, "", "tools", tools,
                                          "a sequence");
    }

    list = json_array();

    if (json_object_set_new(chat, "tools", list) != 0) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    for (i = 0; i < json_array_size(tools); i++) {
        tool = json_array_get(tools, i);
        type = json_string_value(json_object_get(tool, "type"));

        if (type == NULL) {
            return ngx_http_llm_malformed(ctx, "tools[%uz].type: expected a "
                                          "string", i);
        }

        if (ngx_strcmp(type, "function") != 0) {
            return ngx_http_llm_invalid(ctx, "tools[%uz]: tools of type `%s` "
                                        "are not supported", i, type);
        }

        if (json_array_append_new(list, json_pack("{s:s,s:O}", "type", type,
                                                  "function", tool))
            != 0)
        {
            return ngx_http_llm_fail_nomem(ctx);
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_responses_choice(ngx_http_llm_ctx_t *ctx, json_t *root,
    json_t *chat)
{
    json_t      *choice, *nested;
    const char  *type;

    choice = ngx_http_llm_json_get(root, "tool_choice");

    if (choice == NULL) {
        return NGX_OK;
    }

    type = json_string_value(json_object_get(choice, "type"));

    if (json_is_object(choice)
        && (type == NULL || ngx_strcmp(type, "function") != 0))
    {
        return ngx_http_llm_invalid(ctx, "`tool_choice` of type `%s` is not "
                                    "supported", type ? type : "");
    }

    if (type) {
        nested = json_pack("{s:s,s:O}", "type", type, "function", choice);

    } else {
        nested = json_incref(choice);
    }

    if (json_object_set_new(chat, "tool_choice", nested) != 0) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_responses_rest(ngx_http_llm_ctx_t *ctx, json_t *root,
    json_t *chat)
{
    json_t  *value;

    value = ngx_http_llm_json_get(root, "max_output_tokens");

    if (value
        && json_object_set(chat, "max_completion_tokens", value) != 0)
    {
        return ngx_http_llm_fail_nomem(ctx);
    }

    value = ngx_http_llm_json_get(root, "reasoning");

    if (value && !json_is_object(value)) {
        return ngx_http_llm_json_mismatch(ctx, "", "reasoning", value,
                                          "a map");
    }

    value = ngx_http_llm_json_get(value, "effort");

    if (value && json_object_set(chat, "reasoning_effort", value) != 0) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    return NGX_OK;
}
