/*
 * ngx_http_llm_syntax.c - how models write calls and thoughts.
 *
 * The family of a model is known by what its chat template contains.  Its
 * syntax becomes the constraint that lets the engine write nothing else: free
 * text in which the beginning of a call is the beginning of a whole one, or
 * calls alone.  What follows a section of thoughts is constrained in the
 * same form.
 */
#include "ngx_http_llm_tools.h"


#define NGX_HTTP_LLM_MAX_SCHEMA  1048576  /* bytes, if it is a string */


static void ngx_http_llm_syntax_think(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_tools_t *t, ngx_str_t *prompt, ngx_uint_t continued);
static ngx_uint_t ngx_http_llm_syntax_ends(ngx_str_t *text, const char *what);
static const ngx_http_llm_syntax_t *ngx_http_llm_syntax_find(
    ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_syntax_choose(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_tools_t *t);
static ngx_int_t ngx_http_llm_syntax_text(ngx_pool_t *pool, ngx_str_t *out,
    const char *a, const char *b, const char *c, ngx_str_t *name,
    const char *d);
static ngx_int_t ngx_http_llm_syntax_markers(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_tools_t *t);
static ngx_int_t ngx_http_llm_syntax_calls(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_tools_t *t, ngx_http_llm_buf_t *b);
static void ngx_http_llm_syntax_field(ngx_http_llm_buf_t *b, const char *name,
    const char *value, const char *more);
static void ngx_http_llm_syntax_items(ngx_http_llm_tools_t *t,
    ngx_http_llm_buf_t *b, ngx_uint_t whole);
static void ngx_http_llm_syntax_arguments(ngx_http_llm_buf_t *b,
    json_t *schema);
static ngx_int_t ngx_http_llm_syntax_format(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_buf_t *b);


/* the first that fits; the last fits all */

static const ngx_http_llm_syntax_t  ngx_http_llm_syntaxes[] = {

    /* Mistral, from 2025 on; what the model writes as its id is not used */
    { "[CALL_ID]", "[ARGS]", "[TOOL_CALLS]", "[TOOL_CALLS]", "",
      "[CALL_ID]000000000[ARGS]", "", "[TOOL_CALLS]", "", 0 },
    { "[ARGS]", NULL, "[TOOL_CALLS]", "[TOOL_CALLS]", "", "[ARGS]", "",
      "[TOOL_CALLS]", "", 0 },

    /* Mistral 7B v0.3, Mixtral, Large */
    { "[TOOL_CALLS] [", NULL, "[TOOL_CALLS]", "[TOOL_CALLS] [",
      "{\"name\": \"", "\", \"arguments\": ", "}", ", ", "]", 0 },

    /* Nemo, Ministral, Small */
    { "[TOOL_CALLS]", NULL, "[TOOL_CALLS]", "[TOOL_CALLS][",
      "{\"name\": \"", "\", \"arguments\": ", "}", ", ", "]", 0 },

    /* Phi 4 mini, in two forms */
    { "<|/tool_call|>", NULL, "<|tool_call|>", "<|tool_call|>",
      "{\"name\": \"", "\", \"arguments\": ", "}",
      "<|/tool_call|><|tool_call|>", "<|/tool_call|>", 0 },
    { "functools[", NULL, "functools[", "functools[", "{\"name\": \"",
      "\", \"arguments\": ", "}", ", ", "]", 0 },

    /* Nemotron */
    { "<TOOLCALL>", NULL, "<TOOLCALL>", "<TOOLCALL>[", "{\"name\": \"",
      "\", \"arguments\": ", "}", ", ", "]</TOOLCALL>", 0 },

    /* Granite 20B */
    { "<function_call>", NULL, "<function_call>", "<function_call> ",
      "{\"name\": \"", "\", \"arguments\": ", "}", "", "", 1 },

    /* Granite 3 */
    { "<|tool_call|>", NULL, "<|tool_call|>", "<|tool_call|>[",
      "{\"name\": \"", "\", \"arguments\": ", "}", ", ", "]", 0 },

    /* DeepSeek V3, R1 */
    { "<｜tool▁calls▁begin｜>", "```json", "<｜tool▁calls▁begin｜>",
      "<｜tool▁calls▁begin｜>",
      "<｜tool▁call▁begin｜>function<｜tool▁sep｜>", "\n```json\n",
      "\n```<｜tool▁call▁end｜>", "\n", "<｜tool▁calls▁end｜>", 0 },

    /* DeepSeek V3.1 */
    { "<｜tool▁calls▁begin｜>", NULL, "<｜tool▁calls▁begin｜>",
      "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>",
      "<｜tool▁call▁end｜>", "", "<｜tool▁calls▁end｜>", 0 },

    /* Hermes, Qwen, SmolLM3, Granite 4 */
    { "<tool_call>", NULL, "<tool_call>", "<tool_call>\n", "{\"name\": \"",
      "\", \"arguments\": ", "}", "\n</tool_call>\n<tool_call>\n",
      "\n</tool_call>", 0 },

    /* Llama 3, 4 */
    { "\"parameters\": dictionary", NULL, "{\"name\": \"", "", "{\"name\": \"",
      "\", \"parameters\": ", "}", "", "", 1 },

    { "", NULL, "{\"name\": \"", "", "{\"name\": \"", "\", \"arguments\": ",
      "}", "\n", "", 0 }
};

#define NGX_HTTP_LLM_N_SYNTAXES                                               \
    (sizeof(ngx_http_llm_syntaxes) / sizeof(ngx_http_llm_syntax_t))

#define ngx_http_llm_syntax_fallback                                           \
    (&ngx_http_llm_syntaxes[NGX_HTTP_LLM_N_SYNTAXES - 1])


static const ngx_http_llm_thinking_t  ngx_http_llm_thinkings[] = {
    { "<think>", "</think>" },
    { "[THINK]", "[/THINK]" },
    { NULL, NULL }
};


ngx_int_t
ngx_http_llm_syntax_constrain(ngx_http_llm_ctx_t *ctx, ngx_str_t *prompt,
    ngx_uint_t continued)
{
    ngx_http_llm_buf_t       b;
    ngx_http_llm_tools_t    *t;
    ngx_http_llm_grammar_t  *g;

    t = ctx->tools;
    g = &ctx->params.grammar;

    ngx_http_llm_syntax_think(ctx, t, prompt, continued);

    if (t->n_tools && t->choice != NGX_HTTP_LLM_TOOLS_NONE
        && ngx_http_llm_syntax_choose(ctx, t) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (g->set && (g->kind == LLM_CONSTRAIN_REGEX
                   || g->kind == LLM_CONSTRAIN_GBNF))
    {
        /* such a text is the whole output and has no parts */

        if (t->syntax) {
            return ngx_http_llm_invalid(ctx, "an output of type `regex` or "
                                        "`gbnf` is not supported with "
                                        "`tools`");
        }

        t->thinking = NULL;
        return NGX_OK;
    }

    if (ngx_http_llm_syntax_markers(ctx, t) != NGX_OK) {
        return NGX_ERROR;
    }

    if (t->syntax == NULL && !(g->set && t->thinks)) {
        return NGX_OK;
    }

    ngx_http_llm_buf_init(&b, ctx->request->pool);

    if (ngx_http_llm_syntax_calls(ctx, t, &b) != NGX_OK) {
        return NGX_ERROR;
    }

    if (b.failed) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    g->set = 1;
    g->kind = LLM_CONSTRAIN_CALLS;
    g->value = NULL;
    g->text.data = b.data;
    g->text.len = b.len;

    return NGX_OK;
}


/*
 * A section of thoughts comes first where the prompt has begun one.  Where a
 * constraint would not let the model begin one, the switch of the template
 * decides, which is on unless the client says otherwise.
 */

static void
ngx_http_llm_syntax_think(ngx_http_llm_ctx_t *ctx, ngx_http_llm_tools_t *t,
    ngx_str_t *prompt, ngx_uint_t continued)
{
    json_t                         *root, *value;
    const ngx_http_llm_thinking_t  *thinking;

    if (!ctx->conf->reasoning) {
        return;
    }

    for (thinking = ngx_http_llm_thinkings; thinking->open; thinking++) {
        if (ngx_http_llm_chat_knows(ctx, thinking->close)) {
            t->thinking = thinking;
            break;
        }
    }

    if (t->thinking == NULL) {
        return;
    }

    t->thinks = ngx_http_llm_syntax_ends(prompt, thinking->open);

    if (t->thinks || continued
        || ngx_http_llm_syntax_ends(prompt, thinking->close)
        || !ngx_http_llm_chat_knows(ctx, "enable_thinking"))
    {
        return;
    }

    /* text that is free may also come without thoughts */

    if (!ctx->params.grammar.set && t->choice != NGX_HTTP_LLM_TOOLS_REQUIRED) {
        return;
    }

    root = ctx->hooked ? ctx->hooked : ctx->json;
    value = ngx_http_llm_json_get(ngx_http_llm_json_get(root,
                                                        "chat_template_kwargs"),
                                  "enable_thinking");
    if (value == NULL) {
        value = ngx_http_llm_json_get(root, "enable_thinking");
    }

    t->thinks = !json_is_false(value);
}


/* but for white space */

static ngx_uint_t
ngx_http_llm_syntax_ends(ngx_str_t *text, const char *what)
{
    u_char  *end;
    size_t   len;

    end = text->data + text->len;
    len = ngx_strlen(what);

    while (end > text->data && ngx_http_llm_space(end[-1])) {
        end--;
    }

    return (size_t) (end - text->data) >= len
           && ngx_memcmp(end - len, what, len) == 0;
}


static const ngx_http_llm_syntax_t *
ngx_http_llm_syntax_find(ngx_http_llm_ctx_t *ctx)
{
    const ngx_http_llm_syntax_t  *s;

    for (s = ngx_http_llm_syntaxes; s->mark[0]; s++) {
        if (ngx_http_llm_chat_knows(ctx, s->mark)
            && (s->also == NULL
                || ngx_http_llm_chat_knows(ctx, s->also)))
        {
            break;
        }
    }

    return s;
}


void
ngx_http_llm_syntax_example(ngx_http_llm_ctx_t *ctx, ngx_http_llm_buf_t *b)
{
    const ngx_http_llm_syntax_t  *s;

    s = ngx_http_llm_syntax_find(ctx);

    ngx_http_llm_buf_printf(b, "%s%sNAME%s{ARGUMENTS}%s%s", s->open,
                            s->before, s->after, s->suffix, s->close);
}


/* the texts around names and arguments */

static ngx_int_t
ngx_http_llm_syntax_choose(ngx_http_llm_ctx_t *ctx, ngx_http_llm_tools_t *t)
{
    ngx_uint_t                    i;
    ngx_pool_t                   *pool;
    ngx_http_llm_tool_t          *tool;
    const ngx_http_llm_syntax_t  *s;

    s = ngx_http_llm_syntax_find(ctx);
    t->syntax = s;
    t->parallel = t->parallel && !s->single;
    pool = ctx->request->pool;

    for (i = 0; i < t->n_tools; i++) {
        tool = &t->tools[i];

        if (ngx_http_llm_syntax_text(pool, &tool->first, s->open, s->before,
                                    "", &tool->name, s->after)
            != NGX_OK
            || ngx_http_llm_syntax_text(pool, &tool->next, s->suffix, s->join,
                                       s->before, &tool->name, s->after)
               != NGX_OK)
        {
            return ngx_http_llm_fail_nomem(ctx);
        }
    }

    if (ngx_http_llm_syntax_text(pool, &t->end, s->suffix, s->close, "", NULL,
                                "")
        != NGX_OK)
    {
        return ngx_http_llm_fail_nomem(ctx);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_syntax_text(ngx_pool_t *pool, ngx_str_t *out, const char *a,
    const char *b, const char *c, ngx_str_t *name, const char *d)
{
    static ngx_str_t  none = ngx_null_string;

    name = name ? name : &none;

    out->len = ngx_strlen(a) + ngx_strlen(b) + ngx_strlen(c) + name->len
               + ngx_strlen(d);
    out->data = ngx_pnalloc(pool, out->len + 1);

    if (out->data == NULL) {
        return NGX_ERROR;
    }

    (void) ngx_sprintf(out->data, "%s%s%s%V%s", a, b, c, name, d);

    return NGX_OK;
}


/* special tokens whose text is part of the syntax stay in the output */

static ngx_int_t
ngx_http_llm_syntax_markers(ngx_http_llm_ctx_t *ctx, ngx_http_llm_tools_t *t)
{
    ngx_str_t                       *m;
    ngx_http_llm_buf_t               b;
    const ngx_http_llm_syntax_t     *s;
    const ngx_http_llm_thinking_t   *thinking;

    s = t->syntax;
    thinking = t->thinking;
    m = &ctx->markers;

    ngx_http_llm_buf_init(&b, ctx->request->pool);

    if (s) {
        ngx_http_llm_buf_printf(&b, "%s%s%s%s%s%s", s->open, s->before,
                                s->after, s->suffix, s->join, s->close);
    }

    if (thinking) {
        ngx_http_llm_buf_printf(&b, "%s%s", thinking->open, thinking->close);
    }

    m->data = b.data;
    m->len = b.len;

    return b.failed ? ngx_http_llm_fail_nomem(ctx) : NGX_OK;
}


/*
 * The constraint as text.  Where the output is constrained from its first
 * character on, that is the first one after thoughts and a blank line.
 */

static ngx_int_t
ngx_http_llm_syntax_calls(ngx_http_llm_ctx_t *ctx, ngx_http_llm_tools_t *t,
    ngx_http_llm_buf_t *b)
{
    ngx_uint_t                    free, formed;
    const char                   *blank;
    const ngx_http_llm_syntax_t  *s;

    s = t->syntax;
    formed = (ctx->params.grammar.set
              && t->choice != NGX_HTTP_LLM_TOOLS_REQUIRED);
    free = (!formed && t->choice == NGX_HTTP_LLM_TOOLS_AUTO);
    blank = (t->thinks && !free) ? "\n\n" : "";
    t->whole = (formed && s);

    ngx_http_llm_buf_printf(b, "{\"free\":%s,\"min\":%d,\"repeat\":%s",
                            free ? "true" : "false", free ? 0 : 1,
                            t->parallel && !formed ? "true" : "false");

    ngx_http_llm_syntax_field(b, ",\"preamble_end\":",
                             t->thinks ? t->thinking->close : NULL, "");
    ngx_http_llm_syntax_field(b, ",\"trigger\":", free ? s->trigger : "", "");
    ngx_http_llm_syntax_field(b, ",\"open\":", blank, formed ? "" : s->open);
    ngx_http_llm_syntax_field(b, ",\"join\":", formed ? "" : s->join, "");
    ngx_http_llm_syntax_field(b, ",\"close\":", formed ? "" : s->close, "");

    ngx_http_llm_buf_lit(b, ",\"items\":[");

    if (formed) {
        ngx_http_llm_buf_lit(b, "{\"prefix\":\"\",\"suffix\":\"\","
                             "\"schema\":");

        if (ngx_http_llm_syntax_format(ctx, b) != NGX_OK) {
            return NGX_ERROR;
        }

        ngx_http_llm_buf_lit(b, "}");
    }

    if (s) {
        ngx_http_llm_syntax_items(t, b, formed);
    }

    ngx_http_llm_buf_lit(b, "]}");

    return NGX_OK;
}


/* a JSON string of two parts, or null */

static void
ngx_http_llm_syntax_field(ngx_http_llm_buf_t *b, const char *name,
    const char *value, const char *more)
{
    u_char  text[128], *last;

    ngx_http_llm_buf_add(b, name, ngx_strlen(name));

    if (value == NULL) {
        ngx_http_llm_buf_lit(b, "null");
        return;
    }

    last = ngx_snprintf(text, sizeof(text), "%s%s", value, more);
    ngx_http_llm_buf_json(b, text, last - text);
}


static void
ngx_http_llm_syntax_items(ngx_http_llm_tools_t *t, ngx_http_llm_buf_t *b,
    ngx_uint_t whole)
{
    size_t                skip;
    ngx_str_t            *first;
    ngx_uint_t            i, n;
    const char           *suffix;
    ngx_http_llm_tool_t  *tool;

    skip = whole ? 0 : ngx_strlen(t->syntax->open);
    suffix = t->syntax->suffix;
    n = 0;

    for (i = 0; i < t->n_tools; i++) {
        tool = &t->tools[i];

        if (t->only && tool != t->only) {
            continue;
        }

        first = &tool->first;

        if (n++ || whole) {
            ngx_http_llm_buf_lit(b, ",");
        }

        ngx_http_llm_buf_lit(b, "{\"prefix\":");
        ngx_http_llm_buf_json(b, first->data + skip, first->len - skip);
        ngx_http_llm_syntax_field(b, ",\"suffix\":", suffix,
                                 whole ? t->syntax->close : "");
        ngx_http_llm_buf_lit(b, ",\"schema\":");
        ngx_http_llm_syntax_arguments(b, tool->schema);
        ngx_http_llm_buf_lit(b, "}");
    }
}


/* arguments are an object, whether or not the schema says so */

static void
ngx_http_llm_syntax_arguments(ngx_http_llm_buf_t *b, json_t *schema)
{
    json_t  *object;

    if (schema == NULL) {
        ngx_http_llm_buf_lit(b, "{\"type\":\"object\",\"properties\":{}}");
        return;
    }

    object = json_copy(schema);

    if (object == NULL
        || json_object_set_new(object, "type", json_string("object")) != 0)
    {
        b->failed = 1;

    } else {
        ngx_http_llm_buf_dump(b, object);
    }

    json_decref(object);
}


/* the schema of response_format */

static ngx_int_t
ngx_http_llm_syntax_format(ngx_http_llm_ctx_t *ctx, ngx_http_llm_buf_t *b)
{
    json_t        *value, *schema;
    ngx_str_t      text;
    json_error_t   error;

    value = ctx->params.grammar.value;

    if (value == NULL) {
        ngx_http_llm_buf_lit(b, "{\"type\":\"object\"}");
        return NGX_OK;
    }

    if (!json_is_string(value)) {
        ngx_http_llm_buf_dump(b, value);
        return NGX_OK;
    }

    text = ngx_http_llm_json_str(value);

    if (text.len > NGX_HTTP_LLM_MAX_SCHEMA) {
        return ngx_http_llm_invalid(ctx, "grammar is not valid: too complex");
    }

    schema = ngx_http_llm_json_load((char *) text.data, text.len,
                                    JSON_ALLOW_NUL|JSON_DECODE_ANY, &error);

    if (schema == NULL) {
        return ngx_http_llm_invalid(ctx, "grammar is not valid: the schema is "
                                    "no JSON: %s", error.text);
    }

    ngx_http_llm_buf_dump(b, schema);
    json_decref(schema);

    return NGX_OK;
}


void
ngx_http_llm_syntax_write(ngx_http_llm_buf_t *b, json_t *call)
{
    json_t                       *function, *arguments;
    ngx_str_t                     text;
    const ngx_http_llm_syntax_t  *syntax;

    syntax = ngx_http_llm_syntax_fallback;
    function = json_object_get(call, "function");
    arguments = json_object_get(function, "arguments");
    text = ngx_http_llm_json_str(json_object_get(function, "name"));

    if (b->len) {
        ngx_http_llm_buf_add(b, syntax->join, ngx_strlen(syntax->join));
    }

    ngx_http_llm_buf_add(b, syntax->before, ngx_strlen(syntax->before));
    ngx_http_llm_buf_add(b, text.data, text.len);
    ngx_http_llm_buf_add(b, syntax->after, ngx_strlen(syntax->after));

    if (json_is_string(arguments)) {
        text = ngx_http_llm_json_str(arguments);
        ngx_http_llm_buf_add(b, text.data, text.len);

    } else if (arguments) {
        ngx_http_llm_buf_dump(b, arguments);

    } else {
        ngx_http_llm_buf_lit(b, "{}");
    }

    ngx_http_llm_buf_add(b, syntax->suffix, ngx_strlen(syntax->suffix));
}
