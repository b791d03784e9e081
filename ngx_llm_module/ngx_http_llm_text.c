/*
 * ngx_http_llm_text.c - from tokens to text that the client may see.
 *
 * A sequence has two texts that grow token by token: raw, with the literal
 * text of special tokens, where stop strings are looked for; and text,
 * without them, which the client reads.  A token waits in s->tokens until
 *
 *   1. no stop string can take its text back (raw_safe, safe), and
 *   2. the output hook has decided about its text (released).
 *
 *      text:   |....released....|..seen by the hook..|..safe..|..held..|
 *                               ^released            ^shown   ^safe
 *
 * Then it goes to the codec in a unit.  The hook is asked after every token
 * that brings text, so that what it sees does not depend on timing.
 */
#include "ngx_http_llm_request.h"


#define NGX_HTTP_LLM_PRIME  16      /* prompt tokens in front of the text */


static ngx_int_t ngx_http_llm_text_stops(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s);
static ngx_int_t ngx_http_llm_text_pull(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s);
static ngx_int_t ngx_http_llm_text_prefill(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s);
static ngx_http_llm_token_t *ngx_http_llm_text_token(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, llm_job_token_t *t);
static size_t ngx_http_llm_text_visible(ngx_http_llm_ctx_t *ctx, int32_t id,
    const char *text, size_t len);
static ngx_uint_t ngx_http_llm_text_marker(ngx_http_llm_ctx_t *ctx,
    int32_t id);
static ngx_uint_t ngx_http_llm_text_match(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, size_t from);
static void ngx_http_llm_text_cut(ngx_http_llm_sequence_t *s, size_t end);
static void ngx_http_llm_text_safe(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s);
static ngx_int_t ngx_http_llm_text_offer(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s);
static void ngx_http_llm_text_hook_done(ngx_http_request_t *r, void *data,
    ngx_int_t rc);
static ngx_int_t ngx_http_llm_text_decided(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_int_t rc);
static ngx_int_t ngx_http_llm_text_release(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, size_t end, ngx_str_t *text,
    ngx_uint_t replaced, ngx_uint_t last);


ngx_int_t
ngx_http_llm_text_open(ngx_http_llm_ctx_t *ctx, ngx_http_llm_sequence_t *s)
{
    size_t                  n;
    llm_err_t               err;
    ngx_pool_t             *pool;
    ngx_http_llm_prompt_t  *prompt;

    pool = ctx->request->pool;

    ngx_http_llm_buf_init(&s->raw, pool);
    ngx_http_llm_buf_init(&s->text, pool);
    ngx_http_llm_buf_init(&s->out, pool);
    ngx_http_llm_buf_init(&s->json, pool);
    ngx_http_llm_buf_init(&s->top_json, pool);
    ngx_http_llm_buf_init(&s->prefill, pool);

    if (llm_detok_new(&s->detok, ctx->instance->model, 0, &err) != LLM_OK) {
        return ngx_http_llm_fail_engine(ctx, &err);
    }

    prompt = s->prompt;
    n = ngx_min(prompt->n_tokens, NGX_HTTP_LLM_PRIME);

    if (llm_detok_prime(s->detok, prompt->tokens + prompt->n_tokens - n, n,
                        &err)
        != LLM_OK)
    {
        return ngx_http_llm_fail_engine(ctx, &err);
    }

    return ngx_http_llm_text_stops(ctx, s);
}


/* the failure links are the same for all sequences of a request */

static ngx_int_t
ngx_http_llm_text_stops(ngx_http_llm_ctx_t *ctx, ngx_http_llm_sequence_t *s)
{
    ngx_uint_t              i, n;
    ngx_str_t              *text;
    ngx_http_llm_stop_t    *stop;
    ngx_http_llm_params_t  *p;

    p = &ctx->params;

    if (p->n_stop == 0) {
        return NGX_OK;
    }

    s->stops = ngx_pcalloc(ctx->request->pool,
                           (p->n_stop + 1) * sizeof(ngx_http_llm_stop_t));
    if (s->stops == NULL) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    n = 0;

    for (i = 0; i < p->n_stop; i++) {
        text = &p->stop[i];

        if (text->len == 0) {
            continue;
        }

        stop = &s->stops[n];
        stop->text = *text;

        if (s->index > 0) {
            stop->next = ctx->sequences[0].stops[n++].next;
            continue;
        }

        stop->next = ngx_http_llm_text_links(text, ctx->request->pool);
        if (stop->next == NULL) {
            return ngx_http_llm_fail_nomem(ctx);
        }

        n++;
    }

    return NGX_OK;
}


uint32_t *
ngx_http_llm_text_links(ngx_str_t *text, ngx_pool_t *pool)
{
    size_t     i, k;
    uint32_t  *next;

    if (text->len > NGX_MAX_INT32_VALUE / sizeof(uint32_t)) {
        return NULL;
    }

    next = ngx_palloc(pool, text->len * sizeof(uint32_t));
    if (next == NULL) {
        return NULL;
    }

    next[0] = 0;

    for (i = 1, k = 0; i < text->len; i++) {

        while (k && text->data[i] != text->data[k]) {
            k = next[k - 1];
        }

        k += (text->data[i] == text->data[k]);
        next[i] = k;
    }

    return next;
}


void
ngx_http_llm_text_close(ngx_http_llm_sequence_t *s)
{
    if (s->open) {
        llm_job_poll(&s->job, &s->view);
        llm_job_close(&s->job);
        s->open = 0;
    }

    if (s->detok) {
        llm_detok_free(s->detok);
        s->detok = NULL;
    }
}


ngx_int_t
ngx_http_llm_text_advance(ngx_http_llm_ctx_t *ctx, ngx_http_llm_sequence_t *s)
{
    ngx_int_t  rc;

    if (s->done) {
        return NGX_DONE;
    }

    if (s->hook_wait) {
        return NGX_AGAIN;
    }

    if (s->hook_done) {
        s->hook_done = 0;
        return ngx_http_llm_text_decided(ctx, s, s->hook_rc);
    }

    if (!s->ended) {
        rc = ngx_http_llm_text_pull(ctx, s);

        if (rc != NGX_OK) {
            return rc;
        }

        ngx_http_llm_text_safe(ctx, s);
    }

    return ngx_http_llm_text_offer(ctx, s);
}


static ngx_int_t
ngx_http_llm_text_pull(ngx_http_llm_ctx_t *ctx, ngx_http_llm_sequence_t *s)
{
    ngx_uint_t             eos;
    llm_job_token_t        t;
    ngx_http_llm_token_t  *token;

    if (s->n_tokens == s->view.n_new) {

        llm_job_poll(&s->job, &s->view);

        if (s->n_tokens == s->view.n_new) {

            if (!s->view.done) {
                return NGX_AGAIN;
            }

            if (s->view.finish == LLM_FINISH_ERROR) {
                return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_GENERATION,
                                         "Request failed during generation: "
                                         "the engine could not go on");
            }

            if (s->prompt->max_new != 0) {
                return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_INCOMPLETE,
                                         "Incomplete generation");
            }
        }
    }

    if (ctx->codec->prefill && !s->prefilled) {
        return ngx_http_llm_text_prefill(ctx, s);
    }

    if (s->prompt->max_new == 0) {

        /* a job that only scores its prompt */

        s->finish = NGX_HTTP_LLM_FINISH_LENGTH;
        s->ended = 1;

        ngx_http_llm_text_close(s);

        return NGX_OK;
    }

    llm_job_token(&s->job, s->prompt->n_tokens + s->n_tokens, &t);

    eos = llm_token_is_eos(ctx->instance->model, t.id)
          && !ctx->params.ignore_eos;

    token = ngx_http_llm_text_token(ctx, s, &t);

    if (token == NULL) {
        return NGX_ERROR;
    }

    s->n_tokens++;
    s->sum_logprob += t.logprob;

    if (eos) {
        s->finish = NGX_HTTP_LLM_FINISH_EOS;

    } else if (s->stops && ngx_http_llm_text_match(ctx, s, token->start)) {
        s->finish = NGX_HTTP_LLM_FINISH_STOP;
    }

    if (s->n_tokens == s->prompt->max_new
        && (s->finish == NGX_HTTP_LLM_FINISH_NONE
            || ctx->codec->length_first))
    {
        s->finish = NGX_HTTP_LLM_FINISH_LENGTH;
    }

    if (s->finish != NGX_HTTP_LLM_FINISH_NONE) {
        s->ended = 1;
        ngx_http_llm_text_close(s);
    }

    return NGX_OK;
}


/* NGX_OK: a step was done, though there may be others */

static ngx_int_t
ngx_http_llm_text_prefill(ngx_http_llm_ctx_t *ctx, ngx_http_llm_sequence_t *s)
{
    ngx_int_t  rc;

    rc = ctx->codec->prefill(ctx, s);

    if (rc == NGX_AGAIN) {
        return NGX_OK;
    }

    s->prefilled = 1;

    return rc;
}


static ngx_http_llm_token_t *
ngx_http_llm_text_token(ngx_http_llm_ctx_t *ctx, ngx_http_llm_sequence_t *s,
    llm_job_token_t *t)
{
    size_t                 len, visible;
    llm_err_t              err;
    ngx_uint_t             max;
    const char            *text;
    const llm_model_t     *model;
    ngx_http_llm_token_t  *token;

    model = ctx->instance->model;

    if (s->n_pending == s->max_pending) {
        max = s->max_pending ? s->max_pending * 2 : 8;

        token = ngx_palloc(ctx->request->pool,
                           max * sizeof(ngx_http_llm_token_t));
        if (token == NULL) {
            (void) ngx_http_llm_fail_nomem(ctx);
            return NULL;
        }

        if (s->n_pending) {
            ngx_memcpy(token, s->tokens,
                       s->n_pending * sizeof(ngx_http_llm_token_t));
        }

        s->tokens = token;
        s->max_pending = max;
    }

    if (llm_detok_push(s->detok, t->id, &text, &len, &err) != LLM_OK) {
        (void) ngx_http_llm_fail_engine(ctx, &err);
        return NULL;
    }

    token = &s->tokens[s->n_pending];
    ngx_memzero(token, sizeof(ngx_http_llm_token_t));

    token->id = t->id;
    token->logprob = t->logprob;
    token->raw_logprob = t->raw_logprob;
    token->special = llm_token_is_special(model, t->id);

    if (t->n_top) {
        token->top = ngx_palloc(ctx->request->pool,
                                t->n_top * sizeof(llm_top_t));
        if (token->top == NULL) {
            (void) ngx_http_llm_fail_nomem(ctx);
            return NULL;
        }

        ngx_memcpy(token->top, t->top, t->n_top * sizeof(llm_top_t));
        token->n_top = t->n_top;
    }

    visible = len;

    if ((token->special && ctx->params.skip_special_tokens
         && !ngx_http_llm_text_marker(ctx, t->id))
        || (llm_token_is_eos(model, t->id) && !ctx->params.ignore_eos))
    {
        visible = ngx_http_llm_text_visible(ctx, t->id, text, len);
    }

    token->start = s->raw.len;
    token->text_start = s->text.len;

    ngx_http_llm_buf_add(&s->raw, text, len);
    ngx_http_llm_buf_add(&s->text, text, visible);

    token->end = s->raw.len;
    token->text_end = s->text.len;

    if (s->raw.failed || s->text.failed) {
        (void) ngx_http_llm_fail_nomem(ctx);
        return NULL;
    }

    s->n_pending++;

    return token;
}


/*
 * A special token is not part of the visible text; what the detokenizer had
 * held back before it (the end of a broken character) is.
 */

static size_t
ngx_http_llm_text_visible(ngx_http_llm_ctx_t *ctx, int32_t id,
    const char *text, size_t len)
{
    size_t  own;
    char    literal[256];

    own = llm_token_text(ctx->instance->model, id, literal, sizeof(literal));

    if (own == 0 || own > len
        || ngx_memcmp(text + len - own, literal, own) != 0)
    {
        return 0;
    }

    return len - own;
}


/* whether a special token is a part of how the model writes calls */

static ngx_uint_t
ngx_http_llm_text_marker(ngx_http_llm_ctx_t *ctx, int32_t id)
{
    char    literal[256];
    size_t  i, len;

    len = llm_token_text(ctx->instance->model, id, literal, sizeof(literal));

    for (i = 0; len && i + len <= ctx->markers.len; i++) {
        if (ngx_memcmp(ctx->markers.data + i, literal, len) == 0) {
            return 1;
        }
    }

    return 0;
}


/*
 * Looks for stop strings that end in raw[from..].  The one that starts first
 * wins, then the longest.  Cuts the text and returns 1 if there is one.
 */

static ngx_uint_t
ngx_http_llm_text_match(ngx_http_llm_ctx_t *ctx, ngx_http_llm_sequence_t *s,
    size_t from)
{
    size_t                i, start, best_start, best_len;
    u_char                c;
    ngx_http_llm_stop_t  *stop;

    best_start = 0;
    best_len = 0;

    for (i = from; i < s->raw.len; i++) {
        c = s->raw.data[i];

        for (stop = s->stops; stop->text.len; stop++) {

            while (stop->matched && stop->text.data[stop->matched] != c) {
                stop->matched = stop->next[stop->matched - 1];
            }

            stop->matched += (stop->text.data[stop->matched] == c);

            if (stop->matched < stop->text.len) {
                continue;
            }

            stop->matched = stop->next[stop->matched - 1];
            start = i + 1 - stop->text.len;

            if (best_len == 0
                || start < best_start
                || (start == best_start && stop->text.len > best_len))
            {
                best_start = start;
                best_len = stop->text.len;
            }
        }
    }

    if (best_len == 0) {
        return 0;
    }

    ngx_http_llm_text_cut(s, best_start + ((ctx->codec->keep_stop
                                            || ctx->params.include_stop)
                                           ? best_len : 0));

    return 1;
}


/* Drops raw text from end on, and the tokens that begin there. */

static void
ngx_http_llm_text_cut(ngx_http_llm_sequence_t *s, size_t end)
{
    size_t                 text_end;
    ngx_http_llm_token_t  *token;

    text_end = s->text.len;

    while (s->n_pending) {
        token = &s->tokens[s->n_pending - 1];

        if (token->start < end) {

            if (token->end > end) {
                token->end = end;
                text_end = token->text_start
                           + ngx_min(end - token->start,
                                     token->text_end - token->text_start);
                token->text_end = text_end;
            }

            break;
        }

        text_end = token->text_start;
        s->n_pending--;
    }

    s->raw.len = end;
    s->text.len = text_end;
}


static void
ngx_http_llm_text_safe(ngx_http_llm_ctx_t *ctx, ngx_http_llm_sequence_t *s)
{
    size_t                 held;
    ngx_uint_t             i;
    ngx_http_llm_stop_t   *stop;
    ngx_http_llm_token_t  *token;

    held = 0;

    if (s->stops && !s->ended
        && !ctx->codec->keep_stop && !ctx->params.include_stop)
    {
        for (stop = s->stops; stop->text.len; stop++) {
            held = ngx_max(held, stop->matched);
        }
    }

    s->raw_safe = s->raw.len - held;
    s->safe = s->text.len;

    for (i = s->n_pending; i > 0 && held; i--) {
        token = &s->tokens[i - 1];

        if (token->start <= s->raw_safe) {
            s->safe = token->text_start
                      + ngx_min(s->raw_safe - token->start,
                                token->text_end - token->text_start);
            break;
        }
    }
}


static ngx_int_t
ngx_http_llm_text_offer(ngx_http_llm_ctx_t *ctx, ngx_http_llm_sequence_t *s)
{
    ngx_int_t                 rc;
    ngx_str_t                 text;
    ngx_http_llm_lua_ctx_t  **lctx;

    text.data = s->text.data + s->released;
    text.len = s->safe - s->released;

    if (ctx->conf->output_hook == NULL) {
        return ngx_http_llm_text_release(ctx, s, s->safe, &text, 0, s->ended);
    }

    /* a token without text may be the beginning of a character: it waits */

    if (s->safe == s->shown && !s->ended) {
        return NGX_OK;
    }

    s->piece = text;

    if (s->piece.len == 0) {
        s->piece.data = (u_char *) "";
    }

    ngx_memzero(&s->hook_out, sizeof(ngx_http_llm_lua_out_t));
    lctx = s->index ? &s->lctx : &ctx->lctx;

    rc = ngx_http_llm_lua_output(ctx->request, lctx, ctx->conf->output_hook,
                                 &s->piece, s->ended, &s->hook_out,
                                 &s->refusal, ngx_http_llm_text_hook_done, s);

    if (rc == NGX_AGAIN) {
        s->hook_wait = 1;
        return NGX_AGAIN;
    }

    return ngx_http_llm_text_decided(ctx, s, rc);
}


/*
 * Called by the Lua side from wherever its wait has ended; the request goes
 * on from the event loop.
 */

static void
ngx_http_llm_text_hook_done(ngx_http_request_t *r, void *data, ngx_int_t rc)
{
    ngx_http_llm_sequence_t *s = data;

    s->hook_wait = 0;
    s->hook_done = 1;
    s->hook_rc = rc;

    ngx_post_event(&s->ctx->resume, &ngx_posted_events);
}


static ngx_int_t
ngx_http_llm_text_decided(ngx_http_llm_ctx_t *ctx, ngx_http_llm_sequence_t *s,
    ngx_int_t rc)
{
    size_t                   end;
    ngx_str_t                none;
    ngx_uint_t               last, replaced;
    ngx_http_llm_lua_out_t  *out;

    if (rc != NGX_OK) {
        return ngx_http_llm_fail_hook(ctx, rc, &s->refusal);
    }

    out = &s->hook_out;
    end = s->released + s->piece.len;
    last = s->ended;

    if (out->stop && !s->ended) {
        s->finish = NGX_HTTP_LLM_FINISH_FILTER;
        s->ended = 1;
        last = 1;
        ngx_http_llm_text_close(s);
    }

    if (out->hold && !last) {
        s->shown = end;
        return NGX_OK;
    }

    /* what is still held at the end was never approved */

    if (out->hold) {
        ngx_str_null(&none);
        return ngx_http_llm_text_release(ctx, s, end, &none,
                                         s->piece.len != 0, 1);
    }

    replaced = (out->text.len != s->piece.len
                || (out->text.len
                    && ngx_memcmp(out->text.data, s->piece.data,
                                  out->text.len) != 0));

    return ngx_http_llm_text_release(ctx, s, end, &out->text, replaced, last);
}


static ngx_int_t
ngx_http_llm_text_release(ngx_http_llm_ctx_t *ctx, ngx_http_llm_sequence_t *s,
    size_t end, ngx_str_t *text, ngx_uint_t replaced, ngx_uint_t last)
{
    ngx_uint_t            i, n;
    ngx_http_llm_unit_t   unit;

    n = 0;

    while (n < s->n_pending
           && s->tokens[n].text_end <= end
           && s->tokens[n].end <= s->raw_safe)
    {
        n++;
    }

    s->released = end;
    s->shown = end;

    for (i = n; replaced && i < s->n_pending; i++) {
        if (s->tokens[i].text_start < end) {
            s->tokens[i].hidden = 1;
        }
    }

    if (n == 0 && text->len == 0 && !replaced && !last) {
        return NGX_OK;
    }

    ngx_http_llm_buf_add(&s->out, text->data, text->len);

    unit.tokens = s->tokens;
    unit.n_tokens = n;
    unit.text = *text;
    unit.replaced = replaced;
    unit.last = last;

    ctx->codec->unit(ctx, s, &unit);

    s->n_pending -= n;

    if (s->n_pending) {
        ngx_memmove(s->tokens, s->tokens + n,
                    s->n_pending * sizeof(ngx_http_llm_token_t));
    }

    s->done = last;

    if (s->out.failed || s->json.failed || s->top_json.failed
        || s->prefill.failed || ctx->out.failed)
    {
        return ngx_http_llm_fail_nomem(ctx);
    }

    return NGX_OK;
}
