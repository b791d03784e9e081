/*
 * ngx_http_llm_openai.c - OpenAI's chat completions.
 *
 * Messages to a prompt by the model's template (ngx_http_llm_chat.c), calls
 * and thoughts in the output (ngx_http_llm_tools.c, _calls.c); chunks, the
 * closing usage and [DONE], or one object.
 */
#include "ngx_http_llm_tools.h"


/* what a choice has besides its sequence */
typedef struct {
    ngx_http_llm_sequence_t   *sequence;
    ngx_http_llm_calls_t      *calls;       /* NULL: all is text */
    ngx_http_llm_buf_t        *logprobs;    /* for the next chunk, or NULL */
    ngx_str_t                  id;          /* of the last call, and name */
    ngx_str_t                  name;
    u_char                     id_bytes[NGX_HTTP_LLM_CALL_ID];

    ngx_http_llm_buf_t         text;        /* of an answer in one piece */
    ngx_http_llm_buf_t         thoughts;
    ngx_http_llm_buf_t         arguments;
    ngx_http_llm_buf_t         list;        /* finished calls as JSON */
} ngx_http_llm_choice_t;


static ngx_int_t ngx_http_llm_openai_decode(ngx_http_llm_ctx_t *ctx,
    json_t *root);
static ngx_int_t ngx_http_llm_openai_prompt(ngx_http_llm_ctx_t *ctx);
static void ngx_http_llm_openai_begin(ngx_http_llm_ctx_t *ctx,
    const char *object);
static ngx_http_llm_choice_t *ngx_http_llm_openai_choice(
    ngx_http_llm_ctx_t *ctx, ngx_http_llm_sequence_t *s);
static void ngx_http_llm_openai_unit(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_http_llm_unit_t *unit);
static void ngx_http_llm_openai_part(void *data, ngx_http_llm_part_t *part);
static void ngx_http_llm_openai_end(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_choice_t *choice);
static void ngx_http_llm_openai_chunk_head(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_choice_t *choice);
static void ngx_http_llm_openai_chunk_text(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_choice_t *choice, ngx_str_t *text);
static void ngx_http_llm_openai_chunk_call(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_choice_t *choice, ngx_http_llm_part_t *part);
static void ngx_http_llm_openai_chunk_tail(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_choice_t *choice, const char *reason);
static void ngx_http_llm_openai_logprobs(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_unit_t *unit, ngx_http_llm_buf_t *b);
static void ngx_http_llm_openai_logprob(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_buf_t *b, int32_t id, float logprob);
static const char *ngx_http_llm_openai_finished(
    ngx_http_llm_choice_t *choice);
static void ngx_http_llm_openai_collect(void *data,
    ngx_http_llm_part_t *part);
static void ngx_http_llm_openai_collect_call(ngx_http_llm_choice_t *choice);
static void ngx_http_llm_openai_message(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s);
static void ngx_http_llm_openai_finish(ngx_http_llm_ctx_t *ctx);


static const ngx_http_llm_field_t  ngx_http_llm_openai_fields[] = {
    ngx_http_llm_field("max_completion_tokens", COUNT, max_new_tokens,
                       NGX_HTTP_LLM_GIVEN_MAX_NEW),
    ngx_http_llm_field("logprobs", BOOL, logprobs, 0),
    ngx_http_llm_field("top_logprobs", U32, top_n_tokens,
                       NGX_HTTP_LLM_GIVEN_TOP_N),
    ngx_http_llm_field("logit_bias", BIAS_OBJECT, bias, 0),
    ngx_http_llm_null_field
};


const ngx_http_llm_codec_t  ngx_http_llm_chat_codec = {
    NGX_HTTP_LLM_FORMAT_OPENAI,
    0,                              /* length_first */
    0,                              /* keep_stop */
    ngx_http_llm_openai_decode,
    ngx_http_llm_openai_prompt,
    NULL,                           /* prefill */
    ngx_http_llm_openai_unit,
    ngx_http_llm_openai_finish,
    NULL                            /* event_number */
};


static ngx_int_t
ngx_http_llm_openai_decode(ngx_http_llm_ctx_t *ctx, json_t *root)
{
    if (ngx_http_llm_openai_body(ctx, root) != NGX_OK
        || ngx_http_llm_json_fields(ctx, root, ngx_http_llm_openai_fields,
                                    "")
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    /* well-formed, but it would have to be ignored */

    if (ngx_http_llm_json_get(root, "suffix")) {
        return ngx_http_llm_invalid(ctx, "`suffix` is not supported");
    }

    if (!ctx->params.logprobs) {
        ctx->params.top_n_tokens = 0;
    }

    return ngx_http_llm_chat_check(ctx, root);
}


static ngx_int_t
ngx_http_llm_openai_prompt(ngx_http_llm_ctx_t *ctx)
{
    json_t      *root;
    ngx_uint_t   continued;

    ctx->tok_flags = LLM_TOK_PARSE_SPECIAL;

    if (ctx->hook_prompt.data) {
        ctx->prompt = ctx->hook_prompt;
        continued = 0;

    } else {
        root = ctx->hooked ? ctx->hooked : ctx->json;

        if (ngx_http_llm_chat_render(ctx, root, &ctx->prompt) != NGX_OK) {
            return NGX_ERROR;
        }

        continued = ngx_http_llm_chat_continues(root);
    }

    return ngx_http_llm_syntax_constrain(ctx, &ctx->prompt, continued);
}


static void
ngx_http_llm_openai_begin(ngx_http_llm_ctx_t *ctx, const char *object)
{
    ngx_str_t  *model;

    model = &ctx->params.model;

    if (model->len == 0
        || (model->len == 3 && ngx_strncmp(model->data, "tgi", 3) == 0))
    {
        model = ngx_http_llm_model_id(ctx);
    }

    ngx_http_llm_openai_head(ctx, object, "chatcmpl", model);
}


/* NULL: no memory, which ctx->out remembers */

static ngx_http_llm_choice_t *
ngx_http_llm_openai_choice(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s)
{
    ngx_pool_t             *pool;
    ngx_http_llm_choice_t  *choice;

    if (s->data) {
        return s->data;
    }

    pool = ctx->request->pool;

    choice = ngx_pcalloc(pool, sizeof(ngx_http_llm_choice_t));
    if (choice == NULL) {
        ctx->out.failed = 1;
        return NULL;
    }

    choice->sequence = s;
    choice->id.data = choice->id_bytes;
    choice->id.len = NGX_HTTP_LLM_CALL_ID;

    ngx_http_llm_buf_init(&choice->text, pool);
    ngx_http_llm_buf_init(&choice->thoughts, pool);
    ngx_http_llm_buf_init(&choice->arguments, pool);
    ngx_http_llm_buf_init(&choice->list, pool);

    if (ctx->tools->syntax || ctx->tools->thinking) {
        choice->calls = ngx_http_llm_calls_new(pool, ctx->tools);

        if (choice->calls == NULL) {
            ctx->out.failed = 1;
            return NULL;
        }
    }

    s->data = choice;

    return choice;
}


static void
ngx_http_llm_openai_unit(ngx_http_llm_ctx_t *ctx, ngx_http_llm_sequence_t *s,
    ngx_http_llm_unit_t *unit)
{
    ngx_http_llm_buf_t     *logprobs;
    ngx_http_llm_choice_t  *choice;

    logprobs = &s->json;

    if (ctx->params.logprobs) {

        if (ctx->params.stream) {
            logprobs->len = 0;
        }

        if (!unit->replaced) {
            ngx_http_llm_openai_logprobs(ctx, unit, logprobs);
        }
    }

    if (!ctx->params.stream) {
        return;
    }

    choice = ngx_http_llm_openai_choice(ctx, s);
    if (choice == NULL) {
        return;
    }

    choice->logprobs = ctx->params.logprobs ? logprobs : NULL;

    if (choice->calls == NULL) {

        if (unit->text.len) {
            ngx_http_llm_openai_chunk_text(ctx, choice, &unit->text);
        }

    } else if (ngx_http_llm_calls_read(choice->calls, &unit->text, unit->last,
                                       ngx_http_llm_openai_part, choice)
               != NGX_OK)
    {
        ctx->out.failed = 1;
        return;
    }

    if (choice->logprobs && logprobs->len) {

        /* tokens whose text has not come to light */

        ngx_http_llm_openai_chunk_text(ctx, choice, NULL);
    }

    if (unit->last) {
        choice->logprobs = NULL;
        ngx_http_llm_openai_end(ctx, choice);
    }
}


/* a part of a streamed answer */

static void
ngx_http_llm_openai_part(void *data, ngx_http_llm_part_t *part)
{
    ngx_http_llm_choice_t *choice = data;

    ngx_http_llm_buf_t  *b;
    ngx_http_llm_ctx_t  *ctx;

    ctx = choice->sequence->ctx;
    b = &ctx->out;

    switch (part->type) {

    case NGX_HTTP_LLM_PART_TEXT:
        ngx_http_llm_openai_chunk_text(ctx, choice, &part->text);
        return;

    case NGX_HTTP_LLM_PART_THOUGHT:
        ngx_http_llm_openai_chunk_head(ctx, choice);
        ngx_http_llm_buf_lit(b, "\"content\":\"\",\"reasoning_content\":");
        ngx_http_llm_buf_json_str(b, &part->text);
        ngx_http_llm_buf_lit(b, ",\"reasoning\":");
        ngx_http_llm_buf_json_str(b, &part->text);
        ngx_http_llm_openai_chunk_tail(ctx, choice, NULL);
        return;

    default: /* NGX_HTTP_LLM_PART_CALL, NGX_HTTP_LLM_PART_ARGUMENTS */
        ngx_http_llm_openai_chunk_call(ctx, choice, part);
        ngx_http_llm_openai_chunk_tail(ctx, choice, NULL);
        return;
    }
}


/* the last chunk of a choice has the kind of the ones before it */

static void
ngx_http_llm_openai_end(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_choice_t *choice)
{
    ngx_http_llm_part_t    part;
    ngx_http_llm_calls_t  *calls;

    calls = choice->calls;

    if (calls && calls->n_calls) {
        ngx_memzero(&part, sizeof(ngx_http_llm_part_t));
        part.type = NGX_HTTP_LLM_PART_ARGUMENTS;
        part.call = calls->n_calls - 1;

        ngx_http_llm_openai_chunk_call(ctx, choice, &part);

    } else {
        ngx_http_llm_openai_chunk_head(ctx, choice);
        ngx_http_llm_buf_lit(&ctx->out, "\"content\":\"\"");
    }

    ngx_http_llm_openai_chunk_tail(ctx, choice,
                                   ngx_http_llm_openai_finished(choice));
}


/* up to the first member of the delta */

static void
ngx_http_llm_openai_chunk_head(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_choice_t *choice)
{
    ngx_http_llm_buf_t       *b;
    ngx_http_llm_sequence_t  *s;

    b = &ctx->out;
    s = choice->sequence;

    ngx_http_llm_buf_lit(b, "data: ");
    ngx_http_llm_openai_begin(ctx, "chat.completion.chunk");
    ngx_http_llm_buf_printf(b, "{\"index\":%ui,\"delta\":{", s->index);

    if (s->n_events++ == 0 || ctx->params.repeat_role) {
        ngx_http_llm_buf_lit(b, "\"role\":\"assistant\",");
    }
}


static void
ngx_http_llm_openai_chunk_text(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_choice_t *choice, ngx_str_t *text)
{
    ngx_http_llm_openai_chunk_head(ctx, choice);

    ngx_http_llm_buf_lit(&ctx->out, "\"content\":");

    if (text) {
        ngx_http_llm_buf_json_str(&ctx->out, text);

    } else {
        ngx_http_llm_buf_lit(&ctx->out, "\"\"");
    }

    ngx_http_llm_openai_chunk_tail(ctx, choice, NULL);
}


/*
 * Id, type and name come once, since clients join repeated strings; the
 * client that sends tool_prompt wants them in every chunk.
 */

static void
ngx_http_llm_openai_chunk_call(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_choice_t *choice, ngx_http_llm_part_t *part)
{
    ngx_uint_t           begin;
    ngx_http_llm_buf_t  *b;

    b = &ctx->out;
    begin = (part->type == NGX_HTTP_LLM_PART_CALL);

    ngx_http_llm_openai_chunk_head(ctx, choice);

    if (begin) {
        ngx_memcpy(choice->id.data, part->id.data, NGX_HTTP_LLM_CALL_ID);
        ngx_http_llm_buf_lit(b, "\"content\":null,");
    }

    ngx_http_llm_buf_printf(b, "\"tool_calls\":[{\"index\":%ui,", part->call);

    if (begin || ctx->params.repeat_role) {
        ngx_http_llm_buf_printf(b, "\"id\":\"%V\",\"type\":\"function\",",
                                &choice->id);
    }

    ngx_http_llm_buf_lit(b, "\"function\":{");

    if (begin) {
        ngx_http_llm_buf_lit(b, "\"name\":");
        ngx_http_llm_buf_json_str(b, &part->text);
        ngx_http_llm_buf_lit(b, ",\"arguments\":\"\"}}]");
        return;
    }

    if (ctx->params.repeat_role) {
        ngx_http_llm_buf_lit(b, "\"name\":null,");
    }

    ngx_http_llm_buf_lit(b, "\"arguments\":");
    ngx_http_llm_buf_json_str(b, &part->text);
    ngx_http_llm_buf_lit(b, "}}]");
}


/* from the end of the delta on */

static void
ngx_http_llm_openai_chunk_tail(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_choice_t *choice, const char *reason)
{
    ngx_http_llm_buf_t  *b;

    b = &ctx->out;

    ngx_http_llm_buf_lit(b, "},\"logprobs\":");

    if (choice->logprobs) {
        ngx_http_llm_buf_lit(b, "{\"content\":[");
        ngx_http_llm_buf_add(b, choice->logprobs->data,
                             choice->logprobs->len);
        ngx_http_llm_buf_lit(b, "]}");
        choice->logprobs = NULL;

    } else {
        ngx_http_llm_buf_lit(b, "null");
    }

    if (reason) {
        ngx_http_llm_buf_printf(b, ",\"finish_reason\":\"%s\"}]", reason);

    } else {
        ngx_http_llm_buf_lit(b, ",\"finish_reason\":null}]");
    }

    ngx_http_llm_buf_lit(b, ",\"usage\":");

    if (ctx->params.continuous_usage) {
        ngx_http_llm_openai_usage(ctx, NULL);

    } else {
        ngx_http_llm_buf_lit(b, "null");
    }

    ngx_http_llm_buf_lit(b, "}\n\n");
}


/* the EOS token is not listed, nor what the hook or a stop string hides */

static void
ngx_http_llm_openai_logprobs(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_unit_t *unit, ngx_http_llm_buf_t *b)
{
    ngx_uint_t             i, j;
    ngx_http_llm_token_t  *t;

    for (i = 0; i < unit->n_tokens; i++) {
        t = &unit->tokens[i];

        if (t->hidden
            || (llm_token_is_eos(ctx->instance->model, t->id)
                && !ctx->params.ignore_eos))
        {
            continue;
        }

        if (b->len) {
            ngx_http_llm_buf_lit(b, ",");
        }

        ngx_http_llm_openai_logprob(ctx, b, t->id, t->raw_logprob);
        ngx_http_llm_buf_lit(b, ",\"top_logprobs\":[");

        for (j = 0; j < ngx_min(t->n_top, ctx->params.top_n_tokens); j++) {

            if (j) {
                ngx_http_llm_buf_lit(b, ",");
            }

            ngx_http_llm_openai_logprob(ctx, b, t->top[j].id,
                                        t->top[j].logprob);
            ngx_http_llm_buf_lit(b, "}");
        }

        ngx_http_llm_buf_lit(b, "]}");
    }
}


/* without the closing brace */

static void
ngx_http_llm_openai_logprob(ngx_http_llm_ctx_t *ctx, ngx_http_llm_buf_t *b,
    int32_t id, float logprob)
{
    size_t       i, len;
    const char  *text;

    /* not always whole characters: the string shows what can be shown */

    text = llm_token_bytes(ctx->instance->model, id, &len);

    ngx_http_llm_buf_lit(b, "{\"token\":");
    ngx_http_llm_buf_json(b, text, len);
    ngx_http_llm_buf_lit(b, ",\"logprob\":");

    ngx_http_llm_openai_number(b, logprob);
    ngx_http_llm_buf_lit(b, ",\"bytes\":[");

    for (i = 0; i < len; i++) {
        ngx_http_llm_buf_printf(b, "%s%ud", i ? "," : "",
                                (unsigned) (u_char) text[i]);
    }

    ngx_http_llm_buf_lit(b, "]");
}


static const char *
ngx_http_llm_openai_finished(ngx_http_llm_choice_t *choice)
{
    if (choice->calls && choice->calls->n_calls && !choice->calls->open
        && ngx_http_llm_openai_ended(choice->sequence))
    {
        return "tool_calls";
    }

    return ngx_http_llm_openai_reason(choice->sequence);
}


/* a part of an answer that is sent in one piece */

static void
ngx_http_llm_openai_collect(void *data, ngx_http_llm_part_t *part)
{
    ngx_http_llm_choice_t *choice = data;

    switch (part->type) {

    case NGX_HTTP_LLM_PART_TEXT:
        ngx_http_llm_buf_add(&choice->text, part->text.data, part->text.len);
        return;

    case NGX_HTTP_LLM_PART_THOUGHT:
        ngx_http_llm_buf_add(&choice->thoughts, part->text.data,
                             part->text.len);
        return;

    case NGX_HTTP_LLM_PART_CALL:
        ngx_http_llm_openai_collect_call(choice);
        ngx_memcpy(choice->id.data, part->id.data, NGX_HTTP_LLM_CALL_ID);
        choice->name = part->text;
        return;

    case NGX_HTTP_LLM_PART_ARGUMENTS:
        ngx_http_llm_buf_add(&choice->arguments, part->text.data,
                             part->text.len);
        return;
    }
}


/* the call that has ended, if there is one */

static void
ngx_http_llm_openai_collect_call(ngx_http_llm_choice_t *choice)
{
    ngx_http_llm_buf_t  *b;

    if (choice->name.data == NULL) {
        return;
    }

    b = &choice->list;

    ngx_http_llm_buf_printf(b, "%s{\"id\":\"%V\",\"type\":\"function\","
                            "\"function\":{\"name\":", b->len ? "," : "",
                            &choice->id);
    ngx_http_llm_buf_json_str(b, &choice->name);
    ngx_http_llm_buf_lit(b, ",\"arguments\":");
    ngx_http_llm_buf_json(b, choice->arguments.data, choice->arguments.len);
    ngx_http_llm_buf_lit(b, "}}");

    b->failed |= choice->arguments.failed;

    choice->arguments.len = 0;
    ngx_str_null(&choice->name);
}


/* members of the message after its role, and the rest of the choice */

static void
ngx_http_llm_openai_message(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s)
{
    ngx_str_t               all;
    ngx_http_llm_buf_t     *b, *text;
    ngx_http_llm_choice_t  *choice;

    b = &ctx->out;

    choice = ngx_http_llm_openai_choice(ctx, s);
    if (choice == NULL) {
        return;
    }

    text = &s->out;

    if (choice->calls) {
        all.data = s->out.data;
        all.len = s->out.len;

        if (ngx_http_llm_calls_read(choice->calls, &all, 1,
                                    ngx_http_llm_openai_collect, choice)
            != NGX_OK)
        {
            b->failed = 1;
            return;
        }

        ngx_http_llm_openai_collect_call(choice);

        text = &choice->text;
        b->failed |= (text->failed || choice->thoughts.failed
                      || choice->list.failed);
    }

    if (choice->list.len && text->len == 0) {
        ngx_http_llm_buf_lit(b, "null");

    } else {
        ngx_http_llm_buf_json(b, text->data, text->len);
    }

    if (choice->thoughts.len) {
        ngx_http_llm_buf_lit(b, ",\"reasoning_content\":");
        ngx_http_llm_buf_json(b, choice->thoughts.data, choice->thoughts.len);
        ngx_http_llm_buf_lit(b, ",\"reasoning\":");
        ngx_http_llm_buf_json(b, choice->thoughts.data, choice->thoughts.len);
    }

    if (choice->list.len) {
        ngx_http_llm_buf_lit(b, ",\"tool_calls\":[");
        ngx_http_llm_buf_add(b, choice->list.data, choice->list.len);
        ngx_http_llm_buf_lit(b, "]");
    }

    ngx_http_llm_buf_lit(b, "},\"logprobs\":");

    if (ctx->params.logprobs) {
        ngx_http_llm_buf_lit(b, "{\"content\":[");
        ngx_http_llm_buf_add(b, s->json.data, s->json.len);
        ngx_http_llm_buf_lit(b, "]}");

    } else {
        ngx_http_llm_buf_lit(b, "null");
    }

    ngx_http_llm_buf_printf(b, ",\"finish_reason\":\"%s\"}",
                            ngx_http_llm_openai_finished(choice));
}


static void
ngx_http_llm_openai_finish(ngx_http_llm_ctx_t *ctx)
{
    ngx_uint_t           i;
    ngx_http_llm_buf_t  *b;

    b = &ctx->out;

    if (ctx->params.stream) {

        if (ctx->params.include_usage) {
            ngx_http_llm_buf_lit(b, "data: ");
            ngx_http_llm_openai_begin(ctx, "chat.completion.chunk");
            ngx_http_llm_buf_lit(b, "],\"usage\":");
            ngx_http_llm_openai_usage(ctx, NULL);
            ngx_http_llm_buf_lit(b, "}\n\n");
        }

        ngx_http_llm_buf_lit(b, "data: [DONE]\n\n");
        return;
    }

    ngx_http_llm_openai_begin(ctx, "chat.completion");

    for (i = 0; i < ctx->n_sequences; i++) {
        ngx_http_llm_buf_printf(b, "%s{\"index\":%ui,\"message\":{\"role\":"
                                "\"assistant\",\"content\":",
                                i ? "," : "", i);
        ngx_http_llm_openai_message(ctx, &ctx->sequences[i]);
    }

    ngx_http_llm_buf_lit(b, "],\"usage\":");
    ngx_http_llm_openai_usage(ctx, NULL);
    ngx_http_llm_buf_lit(b, "}");
}
