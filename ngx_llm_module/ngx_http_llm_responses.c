/*
 * ngx_http_llm_responses.c - OpenAI's Responses API, its text and tool form.
 *
 * POST /v1/responses: the body becomes one of chat completions
 * (ngx_http_llm_responses_body.c) and goes its way; the answer is written
 * here, as a list of items: thoughts, a message, calls.  An item is open
 * while its parts come; in a stream each step is an event with a number, and
 * the first and the last events carry the whole response.
 */
#include "ngx_http_llm_responses.h"


static ngx_int_t ngx_http_llm_responses_decode(ngx_http_llm_ctx_t *ctx,
    json_t *root);
static void ngx_http_llm_responses_cleanup(void *data);
static ngx_int_t ngx_http_llm_responses_prompt(ngx_http_llm_ctx_t *ctx);
static void ngx_http_llm_responses_unit(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_http_llm_unit_t *unit);
static void ngx_http_llm_responses_begin(ngx_http_llm_responses_t *resp);
static void ngx_http_llm_responses_part(void *data,
    ngx_http_llm_part_t *part);
static void ngx_http_llm_responses_open(ngx_http_llm_responses_t *resp,
    ngx_http_llm_item_e item);
static void ngx_http_llm_responses_delta(ngx_http_llm_responses_t *resp,
    ngx_str_t *text);
static void ngx_http_llm_responses_close(ngx_http_llm_responses_t *resp,
    ngx_uint_t complete);
static ngx_uint_t ngx_http_llm_responses_event(
    ngx_http_llm_responses_t *resp, const char *type);
static void ngx_http_llm_responses_place(ngx_http_llm_responses_t *resp,
    ngx_uint_t content);
static void ngx_http_llm_responses_item_json(ngx_http_llm_responses_t *resp,
    ngx_http_llm_buf_t *b, ngx_uint_t whole, const char *status);
static void ngx_http_llm_responses_part_json(ngx_http_llm_responses_t *resp,
    ngx_http_llm_buf_t *b, ngx_uint_t whole);
static void ngx_http_llm_responses_id(ngx_http_llm_responses_t *resp,
    ngx_http_llm_buf_t *b, const char *prefix);
static void ngx_http_llm_responses_json(ngx_http_llm_responses_t *resp,
    const char *status);
static void ngx_http_llm_responses_echo(ngx_http_llm_responses_t *resp);
static void ngx_http_llm_responses_usage(ngx_http_llm_responses_t *resp);
static const char *ngx_http_llm_responses_status(
    ngx_http_llm_responses_t *resp);
static void ngx_http_llm_responses_finish(ngx_http_llm_ctx_t *ctx);
static ngx_uint_t ngx_http_llm_responses_event_number(
    ngx_http_llm_ctx_t *ctx);


const ngx_http_llm_codec_t  ngx_http_llm_responses_codec = {
    NGX_HTTP_LLM_FORMAT_OPENAI,
    0,                              /* length_first */
    0,                              /* keep_stop */
    ngx_http_llm_responses_decode,
    ngx_http_llm_responses_prompt,
    NULL,                           /* prefill */
    ngx_http_llm_responses_unit,
    ngx_http_llm_responses_finish,
    ngx_http_llm_responses_event_number
};


/* what differs between the kinds of items */

static const struct {
    const char  *prefix;            /* of ids */
    const char  *part;              /* type of the content; NULL: none */
    const char  *delta;
    const char  *done;
    const char  *field;             /* in that event */
} ngx_http_llm_items[] = {
    { NULL, NULL, NULL, NULL, NULL },
    { "msg", "output_text", "response.output_text.delta",
      "response.output_text.done", "text" },
    { "rs", "reasoning_text", "response.reasoning_text.delta",
      "response.reasoning_text.done", "text" },
    { "fc", NULL, "response.function_call_arguments.delta",
      "response.function_call_arguments.done", "arguments" }
};


/* The second time the body is a chat already, as the hook has left it. */

static ngx_int_t
ngx_http_llm_responses_decode(ngx_http_llm_ctx_t *ctx, json_t *root)
{
    json_t                    *chat;
    ngx_pool_t                *pool;
    ngx_pool_cleanup_t        *cln;
    ngx_http_llm_responses_t  *resp;

    if (ctx->data) {
        return ngx_http_llm_chat_codec.decode(ctx, root);
    }

    pool = ctx->request->pool;

    resp = ngx_pcalloc(pool, sizeof(ngx_http_llm_responses_t));
    cln = ngx_pool_cleanup_add(pool, 0);

    if (resp == NULL || cln == NULL) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    chat = ngx_http_llm_responses_chat(ctx, root);
    if (chat == NULL) {
        return NGX_ERROR;
    }

    /* the answer repeats parts of the body, which is no longer ctx's */

    cln->handler = ngx_http_llm_responses_cleanup;
    cln->data = root;

    ctx->json = chat;

    resp->ctx = ctx;
    resp->body = root;
    resp->call_id.data = resp->call_id_bytes;
    resp->call_id.len = NGX_HTTP_LLM_CALL_ID;

    ngx_http_llm_buf_init(&resp->text, pool);
    ngx_http_llm_buf_init(&resp->output, pool);

    ctx->data = resp;

    return ngx_http_llm_chat_codec.decode(ctx, chat);
}


static void
ngx_http_llm_responses_cleanup(void *data)
{
    json_decref(data);
}


static ngx_int_t
ngx_http_llm_responses_prompt(ngx_http_llm_ctx_t *ctx)
{
    return ngx_http_llm_chat_codec.prompt(ctx);
}


static void
ngx_http_llm_responses_unit(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_http_llm_unit_t *unit)
{
    ngx_http_llm_part_t        part;
    ngx_http_llm_responses_t  *resp;

    resp = ctx->data;

    if (!resp->begun) {
        ngx_http_llm_responses_begin(resp);
    }

    if (resp->calls) {

        if (ngx_http_llm_calls_read(resp->calls, &unit->text, unit->last,
                                    ngx_http_llm_responses_part, resp)
            != NGX_OK)
        {
            ctx->out.failed = 1;
            return;
        }

    } else if (unit->text.len) {
        ngx_memzero(&part, sizeof(ngx_http_llm_part_t));
        part.type = NGX_HTTP_LLM_PART_TEXT;
        part.text = unit->text;

        ngx_http_llm_responses_part(resp, &part);
    }

    if (resp->item == NGX_HTTP_LLM_ITEM_REASONING) {
        resp->n_thought += unit->n_tokens;
    }

    if (unit->last) {

        /* an answer without any text has a message all the same */

        if (resp->item == NGX_HTTP_LLM_ITEM_NONE && resp->n_items == 0) {
            ngx_http_llm_responses_open(resp, NGX_HTTP_LLM_ITEM_MESSAGE);
        }

        ngx_http_llm_responses_close(resp, ngx_http_llm_openai_ended(s));
    }

    ctx->out.failed |= (resp->text.failed || resp->output.failed);
}


static void
ngx_http_llm_responses_begin(ngx_http_llm_responses_t *resp)
{
    ngx_uint_t           i;
    ngx_http_llm_ctx_t  *ctx;

    static const char  *first[] = {
        "response.created", "response.in_progress"
    };

    ctx = resp->ctx;
    resp->begun = 1;

    if (ctx->tools->syntax || ctx->tools->thinking) {
        resp->calls = ngx_http_llm_calls_new(ctx->request->pool, ctx->tools);

        if (resp->calls == NULL) {
            ctx->out.failed = 1;
            return;
        }
    }

    for (i = 0; i < sizeof(first) / sizeof(first[0]); i++) {

        if (ngx_http_llm_responses_event(resp, first[i])) {
            ngx_http_llm_buf_lit(&ctx->out, ",\"response\":");
            ngx_http_llm_responses_json(resp, "in_progress");
            ngx_http_llm_buf_lit(&ctx->out, "}\n\n");
        }
    }
}


static void
ngx_http_llm_responses_part(void *data, ngx_http_llm_part_t *part)
{
    ngx_http_llm_responses_t *resp = data;

    ngx_http_llm_item_e  item;

    item = (part->type == NGX_HTTP_LLM_PART_TEXT) ? NGX_HTTP_LLM_ITEM_MESSAGE
           : (part->type == NGX_HTTP_LLM_PART_THOUGHT)
             ? NGX_HTTP_LLM_ITEM_REASONING
             : NGX_HTTP_LLM_ITEM_CALL;

    if (part->type == NGX_HTTP_LLM_PART_CALL) {
        ngx_http_llm_responses_close(resp, 1);

        ngx_memcpy(resp->call_id.data, part->id.data, NGX_HTTP_LLM_CALL_ID);
        resp->name = part->text;

        ngx_http_llm_responses_open(resp, item);
        return;
    }

    if (part->text.len == 0) {
        return;
    }

    if (resp->item != item) {
        ngx_http_llm_responses_close(resp, 1);
        ngx_http_llm_responses_open(resp, item);
    }

    ngx_http_llm_responses_delta(resp, &part->text);
}


static void
ngx_http_llm_responses_open(ngx_http_llm_responses_t *resp,
    ngx_http_llm_item_e item)
{
    ngx_http_llm_buf_t  *b;

    b = &resp->ctx->out;
    resp->item = item;
    resp->text.len = 0;

    if (ngx_http_llm_responses_event(resp, "response.output_item.added")) {
        ngx_http_llm_buf_printf(b, ",\"output_index\":%ui,\"item\":",
                                resp->n_items);
        ngx_http_llm_responses_item_json(resp, b, 0, "in_progress");
        ngx_http_llm_buf_lit(b, "}\n\n");
    }

    if (ngx_http_llm_items[item].part
        && ngx_http_llm_responses_event(resp, "response.content_part.added"))
    {
        ngx_http_llm_responses_place(resp, 1);
        ngx_http_llm_buf_lit(b, ",\"part\":");
        ngx_http_llm_responses_part_json(resp, b, 0);
        ngx_http_llm_buf_lit(b, "}\n\n");
    }
}


static void
ngx_http_llm_responses_delta(ngx_http_llm_responses_t *resp, ngx_str_t *text)
{
    ngx_http_llm_buf_t  *b;

    b = &resp->ctx->out;

    ngx_http_llm_buf_add(&resp->text, text->data, text->len);

    if (!ngx_http_llm_responses_event(resp,
                                      ngx_http_llm_items[resp->item].delta))
    {
        return;
    }

    ngx_http_llm_responses_place(resp, ngx_http_llm_items[resp->item].part
                                       != NULL);
    ngx_http_llm_buf_lit(b, ",\"delta\":");
    ngx_http_llm_buf_json_str(b, text);

    if (resp->item == NGX_HTTP_LLM_ITEM_MESSAGE) {
        ngx_http_llm_buf_lit(b, ",\"logprobs\":[]");
    }

    ngx_http_llm_buf_lit(b, "}\n\n");
}


/*
 * The item is finished: complete says whether the answer ended by itself, in
 * which a call may be cut all the same.
 */

static void
ngx_http_llm_responses_close(ngx_http_llm_responses_t *resp,
    ngx_uint_t complete)
{
    const char          *status;
    ngx_http_llm_buf_t  *b;

    if (resp->item == NGX_HTTP_LLM_ITEM_NONE) {
        return;
    }

    if (resp->item == NGX_HTTP_LLM_ITEM_CALL && resp->calls->open) {
        complete = 0;
    }

    b = &resp->ctx->out;
    status = complete ? "completed" : "incomplete";

    if (ngx_http_llm_responses_event(resp,
                                     ngx_http_llm_items[resp->item].done))
    {
        ngx_http_llm_responses_place(resp, ngx_http_llm_items[resp->item].part
                                           != NULL);
        ngx_http_llm_buf_printf(b, ",\"%s\":",
                                ngx_http_llm_items[resp->item].field);
        ngx_http_llm_buf_json(b, resp->text.data, resp->text.len);

        if (resp->item == NGX_HTTP_LLM_ITEM_MESSAGE) {
            ngx_http_llm_buf_lit(b, ",\"logprobs\":[]");

        } else if (resp->item == NGX_HTTP_LLM_ITEM_CALL) {
            ngx_http_llm_buf_lit(b, ",\"name\":");
            ngx_http_llm_buf_json_str(b, &resp->name);
        }

        ngx_http_llm_buf_lit(b, "}\n\n");
    }

    if (ngx_http_llm_items[resp->item].part
        && ngx_http_llm_responses_event(resp, "response.content_part.done"))
    {
        ngx_http_llm_responses_place(resp, 1);
        ngx_http_llm_buf_lit(b, ",\"part\":");
        ngx_http_llm_responses_part_json(resp, b, 1);
        ngx_http_llm_buf_lit(b, "}\n\n");
    }

    if (ngx_http_llm_responses_event(resp, "response.output_item.done")) {
        ngx_http_llm_buf_printf(b, ",\"output_index\":%ui,\"item\":",
                                resp->n_items);
        ngx_http_llm_responses_item_json(resp, b, 1, status);
        ngx_http_llm_buf_lit(b, "}\n\n");
    }

    if (resp->n_items) {
        ngx_http_llm_buf_lit(&resp->output, ",");
    }

    ngx_http_llm_responses_item_json(resp, &resp->output, 1, status);

    resp->n_items++;
    resp->item = NGX_HTTP_LLM_ITEM_NONE;
}


/* The first members of an event; 0: this is no stream. */

static ngx_uint_t
ngx_http_llm_responses_event(ngx_http_llm_responses_t *resp, const char *type)
{
    if (!resp->ctx->params.stream) {
        return 0;
    }

    ngx_http_llm_buf_printf(&resp->ctx->out, "event: %s\ndata: {\"type\":"
                            "\"%s\",\"sequence_number\":%ui", type, type,
                            resp->n_events++);

    return 1;
}


/* members that say which item an event is about */

static void
ngx_http_llm_responses_place(ngx_http_llm_responses_t *resp,
    ngx_uint_t content)
{
    ngx_http_llm_buf_t  *b;

    b = &resp->ctx->out;

    ngx_http_llm_buf_lit(b, ",\"item_id\":");
    ngx_http_llm_responses_id(resp, b, ngx_http_llm_items[resp->item].prefix);
    ngx_http_llm_buf_printf(b, ",\"output_index\":%ui%s", resp->n_items,
                            content ? ",\"content_index\":0" : "");
}


/* whole: with its content, otherwise as it begins */

static void
ngx_http_llm_responses_item_json(ngx_http_llm_responses_t *resp,
    ngx_http_llm_buf_t *b, ngx_uint_t whole, const char *status)
{
    ngx_http_llm_buf_lit(b, "{\"id\":");
    ngx_http_llm_responses_id(resp, b, ngx_http_llm_items[resp->item].prefix);

    if (resp->item == NGX_HTTP_LLM_ITEM_CALL) {
        ngx_http_llm_buf_printf(b, ",\"type\":\"function_call\",\"status\":"
                                "\"%s\",\"call_id\":\"%V\",\"name\":",
                                status, &resp->call_id);
        ngx_http_llm_buf_json_str(b, &resp->name);
        ngx_http_llm_buf_lit(b, ",\"arguments\":");
        ngx_http_llm_buf_json(b, resp->text.data,
                              whole ? resp->text.len : 0);
        ngx_http_llm_buf_lit(b, "}");
        return;
    }

    if (resp->item == NGX_HTTP_LLM_ITEM_REASONING) {
        ngx_http_llm_buf_lit(b, ",\"type\":\"reasoning\",\"summary\":[]");

    } else {
        ngx_http_llm_buf_lit(b, ",\"type\":\"message\",\"role\":"
                             "\"assistant\"");
    }

    ngx_http_llm_buf_printf(b, ",\"status\":\"%s\",\"content\":[", status);

    if (whole) {
        ngx_http_llm_responses_part_json(resp, b, 1);
    }

    ngx_http_llm_buf_lit(b, "]}");
}


static void
ngx_http_llm_responses_part_json(ngx_http_llm_responses_t *resp,
    ngx_http_llm_buf_t *b, ngx_uint_t whole)
{
    ngx_http_llm_buf_printf(b, "{\"type\":\"%s\",\"text\":",
                            ngx_http_llm_items[resp->item].part);
    ngx_http_llm_buf_json(b, resp->text.data, whole ? resp->text.len : 0);

    if (resp->item == NGX_HTTP_LLM_ITEM_MESSAGE) {
        ngx_http_llm_buf_lit(b, ",\"annotations\":[],\"logprobs\":[]");
    }

    ngx_http_llm_buf_lit(b, "}");
}


/* of the response, or with its number of an item */

static void
ngx_http_llm_responses_id(ngx_http_llm_responses_t *resp,
    ngx_http_llm_buf_t *b, const char *prefix)
{
    ngx_http_llm_buf_printf(b, "\"%s_", prefix ? prefix : "resp");

    ngx_http_llm_openai_id(resp->ctx, b);

    if (prefix) {
        ngx_http_llm_buf_printf(b, "%03ui", resp->n_items);
    }

    ngx_http_llm_buf_lit(b, "\"");
}


/* the whole response as it is now, to ctx->out */

static void
ngx_http_llm_responses_json(ngx_http_llm_responses_t *resp,
    const char *status)
{
    ngx_str_t                *model;
    ngx_uint_t                ended;
    ngx_http_llm_ctx_t       *ctx;
    ngx_http_llm_buf_t       *b;
    ngx_http_llm_sequence_t  *s;

    ctx = resp->ctx;
    b = &ctx->out;
    s = &ctx->sequences[0];
    ended = (ngx_strcmp(status, "in_progress") != 0);

    model = ctx->params.model.len ? &ctx->params.model
                                  : ngx_http_llm_model_id(ctx);

    ngx_http_llm_buf_lit(b, "{\"id\":");
    ngx_http_llm_responses_id(resp, b, NULL);
    ngx_http_llm_buf_printf(b, ",\"object\":\"response\",\"created_at\":%T,"
                            "\"status\":\"%s\",\"background\":false,"
                            "\"error\":null,\"incomplete_details\":",
                            ctx->request->start_sec, status);

    if (ngx_strcmp(status, "incomplete") == 0) {
        ngx_http_llm_buf_printf(b, "{\"reason\":\"%s\"}",
                                s->finish == NGX_HTTP_LLM_FINISH_FILTER
                                ? "content_filter" : "max_output_tokens");

    } else {
        ngx_http_llm_buf_lit(b, "null");
    }

    ngx_http_llm_buf_lit(b, ",\"model\":");
    ngx_http_llm_buf_json_str(b, model);
    ngx_http_llm_buf_lit(b, ",\"output\":[");
    ngx_http_llm_buf_add(b, resp->output.data, resp->output.len);
    ngx_http_llm_buf_lit(b, "]");

    ngx_http_llm_responses_echo(resp);

    ngx_http_llm_buf_lit(b, ",\"usage\":");

    if (ended) {
        ngx_http_llm_responses_usage(resp);

    } else {
        ngx_http_llm_buf_lit(b, "null");
    }

    ngx_http_llm_buf_lit(b, "}");
}


/* members of the request that the response repeats */

static void
ngx_http_llm_responses_echo(ngx_http_llm_responses_t *resp)
{
    json_t              *value;
    ngx_uint_t           i;
    ngx_http_llm_buf_t  *b;

    static const struct {
        const char  *name;
        const char  *absent;
    } fields[] = {
        { "instructions", "null" },
        { "max_output_tokens", "null" },
        { "metadata", "{}" },
        { "parallel_tool_calls", "true" },
        { "reasoning", "{\"effort\":null,\"summary\":null}" },
        { "temperature", "1.0" },
        { "text", "{\"format\":{\"type\":\"text\"}}" },
        { "tool_choice", "\"auto\"" },
        { "tools", "[]" },
        { "top_p", "1.0" },
        { "user", "null" }
    };

    b = &resp->ctx->out;

    for (i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        value = ngx_http_llm_json_get(resp->body, fields[i].name);

        ngx_http_llm_buf_printf(b, ",\"%s\":", fields[i].name);

        if (value) {
            ngx_http_llm_buf_dump(b, value);

        } else {
            ngx_http_llm_buf_printf(b, "%s", fields[i].absent);
        }
    }

    ngx_http_llm_buf_lit(b, ",\"previous_response_id\":null,\"store\":false,"
                         "\"truncation\":\"disabled\"");
}


static void
ngx_http_llm_responses_usage(ngx_http_llm_responses_t *resp)
{
    ngx_http_llm_ctx_t       *ctx;
    ngx_http_llm_sequence_t  *s;

    ctx = resp->ctx;
    s = &ctx->sequences[0];

    ngx_http_llm_buf_printf(&ctx->out, "{\"input_tokens\":%uD,"
                            "\"input_tokens_details\":{\"cached_tokens\":%uD,"
                            "\"cache_write_tokens\":0},"
                            "\"output_tokens\":%uD,"
                            "\"output_tokens_details\":"
                            "{\"reasoning_tokens\":%ui},"
                            "\"total_tokens\":%uD}",
                            ctx->n_tokens, s->view.n_cached, s->n_tokens,
                            resp->n_thought, ctx->n_tokens + s->n_tokens);
}


static const char *
ngx_http_llm_responses_status(ngx_http_llm_responses_t *resp)
{
    return ngx_http_llm_openai_ended(&resp->ctx->sequences[0])
           ? "completed" : "incomplete";
}


static void
ngx_http_llm_responses_finish(ngx_http_llm_ctx_t *ctx)
{
    u_char                     type[64];
    const char                *status;
    ngx_http_llm_responses_t  *resp;

    resp = ctx->data;
    status = ngx_http_llm_responses_status(resp);

    if (!ctx->params.stream) {
        ngx_http_llm_responses_json(resp, status);
        return;
    }

    ngx_snprintf(type, sizeof(type), "response.%s%Z", status);

    (void) ngx_http_llm_responses_event(resp, (char *) type);

    ngx_http_llm_buf_lit(&ctx->out, ",\"response\":");
    ngx_http_llm_responses_json(resp, status);
    ngx_http_llm_buf_lit(&ctx->out, "}\n\n");
}


static ngx_uint_t
ngx_http_llm_responses_event_number(ngx_http_llm_ctx_t *ctx)
{
    ngx_http_llm_responses_t *resp = ctx->data;

    return resp ? resp->n_events : 0;
}
