/*
 * ngx_http_llm_completions.c - answers of OpenAI's legacy completions.
 *
 * POST /v1/completions: one object, or chunks, the closing usage and [DONE].
 * Log-probabilities are four lists of one entry a token, EOS included; with
 * echo those of the prompt come first.  Bodies are read in
 * ngx_http_llm_completions_body.c.
 */
#include "ngx_http_llm_codec.h"

#include <math.h>


#define NGX_HTTP_LLM_MAX_TOKEN  512     /* bytes of a token that are shown */


/* log-probabilities of a choice that have not been sent */
typedef struct {
    ngx_http_llm_buf_t         tokens;
    ngx_http_llm_buf_t         logprobs;
    ngx_http_llm_buf_t         top;
    ngx_http_llm_buf_t         offsets;
    ngx_uint_t                 n;
    size_t                     seen;        /* bytes counted in the text */
    size_t                     offset;      /* characters, from the prompt */
} ngx_http_llm_legacy_t;


static ngx_int_t ngx_http_llm_completions_prefill(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s);
static ngx_http_llm_legacy_t *ngx_http_llm_completions_legacy(
    ngx_pool_t *pool);
static void ngx_http_llm_completions_prompt_token(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, uint32_t i);
static void ngx_http_llm_completions_unit(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_http_llm_unit_t *unit);
static void ngx_http_llm_completions_entry(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_legacy_t *l, const llm_top_t *self, const llm_top_t *top,
    ngx_uint_t n_top);
static void ngx_http_llm_completions_top(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_buf_t *b, const llm_top_t *self, const llm_top_t *top,
    ngx_uint_t n_top);
static void ngx_http_llm_completions_token(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_buf_t *b, int32_t id);
static void ngx_http_llm_completions_lists(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_legacy_t *l);
static void ngx_http_llm_completions_head(ngx_http_llm_ctx_t *ctx);
static void ngx_http_llm_completions_chunk(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_str_t *text, ngx_http_llm_token_t *t,
    ngx_uint_t last);
static ngx_uint_t ngx_http_llm_completions_events(ngx_http_llm_ctx_t *ctx);
static void ngx_http_llm_completions_native(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_str_t *text, ngx_http_llm_token_t *t,
    ngx_uint_t last);
static void ngx_http_llm_completions_choice(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_uint_t index);
static ngx_http_llm_sequence_t *ngx_http_llm_completions_best(
    ngx_http_llm_sequence_t *s, ngx_uint_t n, ngx_uint_t rank);
static void ngx_http_llm_completions_finish(ngx_http_llm_ctx_t *ctx);


const ngx_http_llm_codec_t  ngx_http_llm_completions_codec = {
    NGX_HTTP_LLM_FORMAT_OPENAI,
    0,                              /* length_first */
    0,                              /* keep_stop */
    ngx_http_llm_completions_decode,
    ngx_http_llm_completions_prompt,
    ngx_http_llm_completions_prefill,
    ngx_http_llm_completions_unit,
    ngx_http_llm_completions_finish,
    NULL                            /* event_number */
};


static ngx_int_t
ngx_http_llm_completions_prefill(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s)
{
    uint32_t                i;
    ngx_uint_t              scored;
    ngx_http_llm_legacy_t  *l;
    ngx_http_llm_params_t  *p;

    p = &ctx->params;

    if (p->logprobs && s->data == NULL) {
        s->data = ngx_http_llm_completions_legacy(ctx->request->pool);

        if (s->data == NULL) {
            return ngx_http_llm_fail_nomem(ctx);
        }
    }

    scored = (p->logprobs && p->echo);

    if ((scored || p->prefill) && s->n_prefilled < s->prompt->n_tokens) {
        i = s->n_prefilled++;

        if (scored) {
            ngx_http_llm_completions_prompt_token(ctx, s, i);
        }

        if (p->prefill) {
            ngx_http_llm_tgi_prompt_token(ctx, s, i);
        }

        return NGX_AGAIN;
    }

    l = s->data;

    if (l) {
        l->offset = ngx_http_llm_utf8_length(&s->prompt->shown);
        l->seen = 0;
    }

    /* native events are of the answer's tokens; the last has the whole text */

    if (p->stream && p->return_full_text
        && !ngx_http_llm_completions_events(ctx))
    {
        ngx_http_llm_completions_chunk(ctx, s, &s->prompt->shown, NULL, 0);
    }

    return NGX_OK;
}


static ngx_http_llm_legacy_t *
ngx_http_llm_completions_legacy(ngx_pool_t *pool)
{
    ngx_http_llm_legacy_t  *l;

    l = ngx_pcalloc(pool, sizeof(ngx_http_llm_legacy_t));
    if (l == NULL) {
        return NULL;
    }

    ngx_http_llm_buf_init(&l->tokens, pool);
    ngx_http_llm_buf_init(&l->logprobs, pool);
    ngx_http_llm_buf_init(&l->top, pool);
    ngx_http_llm_buf_init(&l->offsets, pool);

    return l;
}


static void
ngx_http_llm_completions_prompt_token(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, uint32_t i)
{
    size_t                  start;
    llm_top_t               self;
    ngx_str_t               text;
    llm_job_token_t         t;
    ngx_http_llm_legacy_t  *l;
    ngx_http_llm_prompt_t  *prompt;

    l = s->data;
    prompt = s->prompt;

    llm_job_token(&s->job, i, &t);

    /* tokens that stand for nothing in the text have no place there */

    start = ngx_min(prompt->starts[i], prompt->text.len);

    if (start > l->seen) {
        text.data = prompt->text.data + l->seen;
        text.len = start - l->seen;
        l->offset += ngx_http_llm_utf8_length(&text);
        l->seen = start;
    }

    self.id = t.id;
    self.logprob = (i == 0) ? NAN : t.logprob;

    ngx_http_llm_completions_entry(ctx, l, &self, t.top, t.n_top);
}


static void
ngx_http_llm_completions_unit(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_http_llm_unit_t *unit)
{
    llm_top_t               self;
    ngx_str_t               text, none;
    ngx_uint_t              i, n;
    ngx_http_llm_token_t   *t;
    ngx_http_llm_legacy_t  *l;

    l = s->data;

    for (i = 0; l && !unit->replaced && i < unit->n_tokens; i++) {
        t = &unit->tokens[i];

        if (t->hidden) {
            continue;
        }

        text.data = s->text.data + l->seen;
        text.len = t->text_start - l->seen;
        l->offset += ngx_http_llm_utf8_length(&text);
        l->seen = t->text_start;

        self.id = t->id;
        self.logprob = t->raw_logprob;

        ngx_http_llm_completions_entry(ctx, l, &self, t->top, t->n_top);
    }

    if (!ctx->params.stream) {

        if (ctx->params.details || ctx->params.prefill) {
            ngx_http_llm_tgi_unit(ctx, s, unit);
        }

        return;
    }

    /* native events are of one token; the text comes with the last of them */

    n = (ngx_http_llm_completions_events(ctx) && !unit->replaced)
        ? unit->n_tokens : 0;

    ngx_str_null(&none);

    for (i = 0; i + 1 < n; i++) {
        ngx_http_llm_completions_chunk(ctx, s, &none, &unit->tokens[i], 0);
    }

    if (unit->text.len || unit->last || n || (l && l->n)) {
        ngx_http_llm_completions_chunk(ctx, s, &unit->text,
                                       n ? &unit->tokens[n - 1] : NULL,
                                       unit->last);
    }
}


/* one token: logprob is NAN where there is none, top is best first */

static void
ngx_http_llm_completions_entry(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_legacy_t *l, const llm_top_t *self, const llm_top_t *top,
    ngx_uint_t n_top)
{
    if (l->n++) {
        ngx_http_llm_buf_lit(&l->tokens, ",");
        ngx_http_llm_buf_lit(&l->logprobs, ",");
        ngx_http_llm_buf_lit(&l->top, ",");
        ngx_http_llm_buf_lit(&l->offsets, ",");
    }

    ngx_http_llm_completions_token(ctx, &l->tokens, self->id);
    ngx_http_llm_buf_printf(&l->offsets, "%uz", l->offset);

    if (isnan(self->logprob)) {
        ngx_http_llm_buf_lit(&l->logprobs, "null");
        ngx_http_llm_buf_lit(&l->top, "null");

    } else {
        ngx_http_llm_openai_number(&l->logprobs, self->logprob);
        ngx_http_llm_completions_top(ctx, &l->top, self, top,
                                     ngx_min(n_top,
                                             ctx->params.top_n_tokens));
    }

    if (l->tokens.failed || l->logprobs.failed || l->top.failed
        || l->offsets.failed)
    {
        ctx->out.failed = 1;
    }
}


/*
 * The best tokens by their text, and the token itself.  Of tokens with the
 * same text the first, which has the larger value, is kept.
 */

static void
ngx_http_llm_completions_top(ngx_http_llm_ctx_t *ctx, ngx_http_llm_buf_t *b,
    const llm_top_t *self, const llm_top_t *top, ngx_uint_t n_top)
{
    size_t              len, other_len;
    ngx_uint_t          i, j, n, found;
    const char         *text, *other;
    const llm_top_t    *t;
    const llm_model_t  *model;

    model = ctx->instance->model;
    found = 0;
    n = 0;

    ngx_http_llm_buf_lit(b, "{");

    for (i = 0; i < n_top + 1; i++) {

        if (i == n_top && found) {
            break;
        }

        t = (i < n_top) ? &top[i] : self;
        found |= (t->id == self->id);
        text = llm_token_bytes(model, t->id, &len);

        for (j = 0; j < i; j++) {
            other = llm_token_bytes(model, top[j].id, &other_len);

            if (len == other_len
                && (len == 0 || ngx_memcmp(text, other, len) == 0))
            {
                break;
            }
        }

        if (j < i) {
            continue;
        }

        if (n++) {
            ngx_http_llm_buf_lit(b, ",");
        }

        ngx_http_llm_completions_token(ctx, b, t->id);
        ngx_http_llm_buf_lit(b, ":");

        /* the very same number as in the other list */

        ngx_http_llm_openai_number(b, t->id == self->id ? self->logprob
                                                        : t->logprob);
    }

    ngx_http_llm_buf_lit(b, "}");
}


/* a token that is no text by itself is written as its bytes */

static void
ngx_http_llm_completions_token(ngx_http_llm_ctx_t *ctx, ngx_http_llm_buf_t *b,
    int32_t id)
{
    size_t       i, len;
    u_char       hex[NGX_HTTP_LLM_MAX_TOKEN * 4 + 6], *p, *end, *last;
    ngx_uint_t   valid;
    const char  *text;

    text = llm_token_bytes(ctx->instance->model, id, &len);
    len = ngx_min(len, NGX_HTTP_LLM_MAX_TOKEN);

    p = (u_char *) text;
    end = p + len;
    valid = 1;

    while (p < end && valid) {

        if (*p < 0x80) {
            p++;

        } else {
            valid = ngx_utf8_decode(&p, end - p) <= 0x10ffff;
        }
    }

    if (valid) {
        ngx_http_llm_buf_json(b, text, len);
        return;
    }

    last = ngx_cpymem(hex, "bytes:", 6);

    for (i = 0; i < len; i++) {
        last = ngx_sprintf(last, "\\x%02xi", (ngx_int_t) (u_char) text[i]);
    }

    ngx_http_llm_buf_json(b, hex, last - hex);
}


/* the lists to ctx->out; they are empty afterwards */

static void
ngx_http_llm_completions_lists(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_legacy_t *l)
{
    ngx_http_llm_buf_t  *b;

    b = &ctx->out;

    if (l == NULL) {
        ngx_http_llm_buf_lit(b, "null");
        return;
    }

    ngx_http_llm_buf_lit(b, "{\"tokens\":[");
    ngx_http_llm_buf_add(b, l->tokens.data, l->tokens.len);
    ngx_http_llm_buf_lit(b, "],\"token_logprobs\":[");
    ngx_http_llm_buf_add(b, l->logprobs.data, l->logprobs.len);
    ngx_http_llm_buf_lit(b, "],\"top_logprobs\":[");
    ngx_http_llm_buf_add(b, l->top.data, l->top.len);
    ngx_http_llm_buf_lit(b, "],\"text_offset\":[");
    ngx_http_llm_buf_add(b, l->offsets.data, l->offsets.len);
    ngx_http_llm_buf_lit(b, "]}");

    l->tokens.len = 0;
    l->logprobs.len = 0;
    l->top.len = 0;
    l->offsets.len = 0;
    l->n = 0;
}


static void
ngx_http_llm_completions_head(ngx_http_llm_ctx_t *ctx)
{
    ngx_http_llm_openai_head(ctx, "text_completion", "cmpl",
                             ngx_http_llm_model_id(ctx));
}


static void
ngx_http_llm_completions_chunk(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_str_t *text, ngx_http_llm_token_t *t,
    ngx_uint_t last)
{
    ngx_http_llm_buf_t     *b;
    ngx_http_llm_legacy_t  *l;

    b = &ctx->out;
    l = s->data;

    ngx_http_llm_buf_lit(b, "data: ");
    ngx_http_llm_completions_head(ctx);
    ngx_http_llm_buf_printf(b, "{\"index\":%ui,\"text\":", s->index);
    ngx_http_llm_buf_json_str(b, text);
    ngx_http_llm_buf_lit(b, ",\"logprobs\":");
    ngx_http_llm_completions_lists(ctx, (l && l->n) ? l : NULL);

    if (last) {
        ngx_http_llm_buf_printf(b, ",\"finish_reason\":\"%s\"}]",
                                ngx_http_llm_openai_reason(s));

    } else {
        ngx_http_llm_buf_lit(b, ",\"finish_reason\":null}]");
    }

    if (ctx->params.continuous_usage || (last && !ctx->params.include_usage)) {
        ngx_http_llm_buf_lit(b, ",\"usage\":");
        ngx_http_llm_openai_usage(ctx, s);

    } else if (ctx->params.include_usage) {
        ngx_http_llm_buf_lit(b, ",\"usage\":null");
    }

    ngx_http_llm_completions_native(ctx, s, text, t, last);
    ngx_http_llm_buf_lit(b, "}\n\n");
}


/*
 * Hugging Face's JavaScript client sends textGenerationStream() here, with
 * the URL as the model, and hands the chunks on as if they were native events.
 */

static ngx_uint_t
ngx_http_llm_completions_events(ngx_http_llm_ctx_t *ctx)
{
    ngx_str_t  *model;

    model = &ctx->params.model;

    return ctx->params.details
           || (model->len >= 7 && ngx_strncmp(model->data, "http://", 7) == 0)
           || (model->len >= 8 && ngx_strncmp(model->data, "https://", 8) == 0);
}


/* t: NULL where the text is of no token, as one that a hook has written */

static void
ngx_http_llm_completions_native(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_str_t *text, ngx_http_llm_token_t *t,
    ngx_uint_t last)
{
    ngx_str_t            own;
    ngx_http_llm_buf_t  *b;

    b = &ctx->out;

    if (!ngx_http_llm_completions_events(ctx)) {
        return;
    }

    ngx_http_llm_buf_lit(b, ",\"token\":");

    if (t && !t->hidden) {
        own.data = s->raw.data + t->start;
        own.len = t->end - t->start;

        ngx_http_llm_tgi_token_json(b, t->id, &own, t->logprob, t->special);

        if (ctx->params.top_n_tokens && !ctx->params.logprobs) {
            ngx_http_llm_buf_lit(b, ",\"top_tokens\":");
            ngx_http_llm_tgi_top_json(ctx, b, t);
        }

    } else {
        ngx_http_llm_tgi_token_json(b, 0, text, NAN, 0);
    }

    ngx_http_llm_tgi_end_json(ctx, s, &s->prompt->shown, last);
}


static void
ngx_http_llm_completions_choice(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_uint_t index)
{
    ngx_http_llm_buf_t  *b;

    b = &ctx->out;

    ngx_http_llm_buf_printf(b, "%s{\"index\":%ui,\"text\":",
                            index ? "," : "", index);
    ngx_http_llm_tgi_text_json(ctx, s, &s->prompt->shown);
    ngx_http_llm_buf_lit(b, ",\"logprobs\":");
    ngx_http_llm_completions_lists(ctx, s->data);
    ngx_http_llm_buf_printf(b, ",\"finish_reason\":\"%s\"",
                            ngx_http_llm_openai_reason(s));

    if (ctx->params.details || ctx->params.prefill) {
        ngx_http_llm_buf_lit(b, ",\"details\":{");
        ngx_http_llm_tgi_details_json(ctx, s);
        ngx_http_llm_buf_lit(b, "}");
    }

    ngx_http_llm_buf_lit(b, "}");
}


/* of n choices the one with the rank-th highest mean log-probability */

static ngx_http_llm_sequence_t *
ngx_http_llm_completions_best(ngx_http_llm_sequence_t *s, ngx_uint_t n,
    ngx_uint_t rank)
{
    double      mean, other;
    ngx_uint_t  i, j, better;

    for (i = 0; i < n - 1; i++) {
        mean = s[i].sum_logprob / ngx_max(s[i].n_tokens, 1);
        better = 0;

        for (j = 0; j < n; j++) {
            other = s[j].sum_logprob / ngx_max(s[j].n_tokens, 1);
            better += (other > mean || (other == mean && j < i));
        }

        if (better == rank) {
            break;
        }
    }

    return &s[i];
}


static void
ngx_http_llm_completions_finish(ngx_http_llm_ctx_t *ctx)
{
    ngx_uint_t                i, made, kept;
    ngx_http_llm_buf_t       *b;
    ngx_http_llm_sequence_t  *s;

    b = &ctx->out;

    if (ctx->params.stream) {

        if (ctx->params.include_usage) {
            ngx_http_llm_buf_lit(b, "data: ");
            ngx_http_llm_completions_head(ctx);
            ngx_http_llm_buf_lit(b, "],\"usage\":");
            ngx_http_llm_openai_usage(ctx, NULL);
            ngx_http_llm_buf_lit(b, "}\n\n");
        }

        ngx_http_llm_buf_lit(b, "data: [DONE]\n\n");
        return;
    }

    made = ctx->n_sequences / ctx->n_prompts;
    kept = ctx->params.keep ? ctx->params.keep : made;

    ngx_http_llm_completions_head(ctx);

    for (i = 0; i < ctx->n_prompts * kept; i++) {
        s = &ctx->sequences[i / kept * made];

        s = (kept < made) ? ngx_http_llm_completions_best(s, made, i % kept)
                          : s + i % kept;

        ngx_http_llm_completions_choice(ctx, s, i);
    }

    ngx_http_llm_buf_lit(b, "],\"usage\":");
    ngx_http_llm_openai_usage(ctx, NULL);
    ngx_http_llm_buf_lit(b, "}");
}
