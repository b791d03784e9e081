/*
 * draft.c - speculation with a second, smaller model.
 *
 * Owns: the draft model's forward pass and its batch. Its keys and values lie in the pages of the
 * sequence, behind the model's own. It chooses with the settings, the constraint and the random
 * numbers that the sampler will have for the same position: sampled text is guessed as well.
 *
 * The draft model does not follow a sequence step by step: it is behind while nothing is drafted
 * (copied drafts, many streams, drafts that were of no use) and catches up, many tokens at once,
 * before it drafts again. A page says whether it has all of it, so what one sequence computed
 * serves those that share the page and those after a takeover. What a sequence has in a page that
 * is not full is computed again by a new leader. Nothing here can change an output: wrong keys and
 * values could only make bad drafts.
 */
#include "base/clock.h"
#include "sched_impl.h"
#include "text/tok.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_EXTRA_IDS 256       /* that one vocabulary may have at its end and the other not */
#define CATCH_UP_NS (60 * 1000000ull)   /* for what the draft model is behind, in one step */
#define MIN_CATCH_UP 32
#define FIRST_CATCH_UP 128      /* tokens while their time is not known */
#define PLAIN_EVERY 32          /* steps after which one is without drafts, to know its time */
#define PLAIN_SOON 8            /* while there is none for this number of streams */
#define STALE 256               /* steps after which the time of a pass is not known any more */
#define MAX_LAG 16              /* tokens worth reading for each that is still to come */

struct llm_drafter {
    const llm_model_t *m;
    llm_fwd_t         *fwd;
    uint32_t           n_ctx, n_vocab;
    uint32_t           n_batch, n_rows;
    llm_fwd_seq_t      batch[LLM_SPEC_MAX];     /* a step with more streams has no drafts */
    uint32_t           who[LLM_SPEC_MAX];       /* batch entry -> seqs index */
    llm_seq_t         *rows[LLM_SPEC_MAX];      /* whose logits row i is */
    int32_t            picked[LLM_SPEC_MAX];
    const float       *logits;
    /* [n_threads][the model's vocabulary]: where the draft model's is smaller; NULL otherwise */
    float             *padded;
    double             token_ns;                /* of catching up, smoothed; 0: not measured yet */
    llm_line_t         pass;                    /* ns of a pass for one more draft, by its tokens */
    uint64_t           plain_at, pass_at;       /* the last step without drafts, and with a pass */
    uint32_t           plain_streams;           /* streams of the former */
};

/* ---------------------------------------------------------- which models go together */

static bool
same_token(const llm_tok_t *a, const llm_tok_t *b, int32_t id)
{
    size_t n_a, n_b;
    const char *x = llm_tok_name(a, id, &n_a), *y = llm_tok_name(b, id, &n_b);
    return (x == NULL) == (y == NULL) && (x == NULL || (n_a == n_b && memcmp(x, y, n_a) == 0));
}

llm_code_t
llm_draft_check(const llm_model_t *m, const llm_model_t *draft, llm_err_t *err)
{
    uint32_t n = llm_tok_n_vocab(m->tok), n_draft = llm_tok_n_vocab(draft->tok),
             both = n < n_draft ? n : n_draft;

    if (m->enc.n_layers > 0) {
        return llm_fail(err, LLM_E_UNSUPPORTED,
                        "a draft model is for decoder-only models, \"%s\" has an encoder",
                        m->info.name);
    }
    if (draft->enc.n_layers > 0) {
        return llm_fail(err, LLM_E_UNSUPPORTED,
                        "the draft model must be decoder-only, \"%s\" has an encoder",
                        draft->info.name);
    }
    if (n - both > MAX_EXTRA_IDS || n_draft - both > MAX_EXTRA_IDS) {
        return llm_fail(err, LLM_E_UNSUPPORTED,
                        "the draft model must have the vocabulary of the model: it has %u tokens, "
                        "not %u", n_draft, n);
    }
    for (uint32_t id = 0; id < both; id++) {
        if (!same_token(m->tok, draft->tok, (int32_t) id)) {
            size_t a, b;
            const char *x = llm_tok_name(m->tok, (int32_t) id, &a),
                       *y = llm_tok_name(draft->tok, (int32_t) id, &b);
            return llm_fail(err, LLM_E_UNSUPPORTED,
                            "the draft model must have the vocabulary of the model: its token %u "
                            "is \"%.*s\", not \"%.*s\"",
                            id, y != NULL ? (int) (b < 60 ? b : 60) : 0, y != NULL ? y : "",
                            x != NULL ? (int) (a < 60 ? a : 60) : 0, x != NULL ? x : "");
        }
    }
    return LLM_OK;
}

/* ----------------------------------------------------------------- catching up */

/* Steps over pages that have been computed already. */
static void
skip_known(const llm_sched_t *s, llm_seq_t *q)
{
    const uint32_t *table = llm_slot_table(s->sh, q->slot);
    for (uint32_t i = q->n_draft_past / LLM_KV_PAGE; (i + 1) * LLM_KV_PAGE <= q->n_past
         && atomic_load_explicit(&s->sh->pages[table[i]].drafted, memory_order_relaxed) != 0; i++)
    {
        q->n_draft_past = (i + 1) * LLM_KV_PAGE;
        q->n_draft_pages = i + 1;
    }
}

static uint64_t
step_no(const llm_sched_t *s)
{
    return atomic_load_explicit(&s->stats->n_steps, memory_order_relaxed);
}

/* Time of making and checking one more draft for every stream, that of a step without being 1. */
static float
cost(const llm_sched_t *s)
{
    const llm_drafter_t *d = s->drafter;
    double n = s->n_streams, usual = s->prefill_ns;
    return (float) ((llm_line_at(&d->pass, n, d->token_ns) + n * llm_line_slope(&s->decode, usual))
                    / llm_line_at(&s->decode, n, usual));
}

/* Whether this step should be without drafts, for the sake of comparison. */
static bool
plain_due(const llm_sched_t *s)
{
    const llm_drafter_t *d = s->drafter;
    uint64_t since = step_no(s) - d->plain_at;
    return s->decode.n == 0
           || since >= (d->plain_streams == s->n_streams ? PLAIN_EVERY : PLAIN_SOON);
}

uint32_t
llm_drafter_wanted(const llm_sched_t *s, llm_seq_t *q, uint32_t max)
{
    const llm_slot_t *slot = q->slot;
    const llm_drafter_t *d = s->drafter;
    uint32_t n_ctx = d->n_ctx, left = slot->n_prompt + slot->max_new - q->n_tokens;

    skip_known(s, q);
    if (max == 0 || plain_due(s) || q->undraftable || q->n_tokens > n_ctx
        || q->n_tokens - q->n_draft_past > MAX_LAG * left)
    {
        return 0;
    }
    if (d->pass.n == 0 || step_no(s) - d->pass_at >= STALE) {
        return 1;       /* what it costs is not known */
    }
    /* the last draft is not an input of the draft model any more */
    uint32_t n = n_ctx - q->n_tokens + 1;
    n = n < s->n_draft ? n : s->n_draft;
    return llm_odds_wanted(&q->odds, n < max ? n : max, cost(s));
}

/* Whether a sequence of this pass computes a page of q's next n tokens, which the two share. */
static bool
page_taken(const llm_sched_t *s, llm_seq_t *q, uint32_t n)
{
    const llm_drafter_t *d = s->drafter;
    const uint32_t *table = llm_slot_table(s->sh, q->slot);
    uint32_t first = q->n_draft_past / LLM_KV_PAGE, last = (q->n_draft_past + n - 1) / LLM_KV_PAGE;
    for (uint32_t b = 0; b < d->n_batch; b++) {
        const llm_fwd_seq_t *o = &d->batch[b];
        uint32_t from = o->pos0 / LLM_KV_PAGE, to = (o->pos0 + o->n - 1) / LLM_KV_PAGE;
        /* a page of both is at one place of both tables */
        for (uint32_t i = first > from ? first : from; i <= last && i <= to; i++) {
            if (table[i] == o->table[i]) {
                return true;
            }
        }
    }
    return false;
}

/* The next n tokens of sequence i, whose page table has room for them. */
static void
batch_add(llm_sched_t *s, uint32_t i, uint32_t n, uint32_t n_rows)
{
    llm_drafter_t *d = s->drafter;
    llm_seq_t *q = &s->seqs[i];
    llm_slot_t *slot = q->slot;

    d->who[d->n_batch] = i;
    d->batch[d->n_batch++] = (llm_fwd_seq_t) {
        .tokens = llm_slot_tokens(slot) + q->n_draft_past, .n = n, .pos0 = q->n_draft_past,
        .table = llm_slot_table(s->sh, slot), .n_prompt = slot->n_prompt,
        .n_planned = slot->n_prompt + slot->max_new, .n_rows = n_rows,
    };
    if (n_rows > 0) {
        d->rows[d->n_rows++] = q;
    }
    q->n_draft_past += n;
}

static bool
knows(const llm_drafter_t *d, const int32_t *tokens, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if ((uint32_t) tokens[i] >= d->n_vocab) {
            return false;
        }
    }
    return true;
}

/*
 * The first pass: what the draft model has not seen of the sequences. Those that it cannot read to
 * the end in this step get no drafts. Returns the number of tokens.
 */
static uint32_t
catch_up(llm_sched_t *s)
{
    llm_drafter_t *d = s->drafter;
    uint32_t budget = FIRST_CATCH_UP, total = 0;

    if (d->token_ns > 0) {
        budget = d->token_ns * LLM_SCHED_PIECE < (double) CATCH_UP_NS
                     ? LLM_SCHED_PIECE
                     : (uint32_t) ((double) CATCH_UP_NS / d->token_ns);
    }
    budget = budget < MIN_CATCH_UP ? MIN_CATCH_UP : budget;
    d->n_batch = d->n_rows = 0;
    for (uint32_t b = 0; b < s->n_batch; b++) {
        llm_seq_t *q = &s->seqs[s->who[b]];
        if (q->n_wanted == 0) {
            continue;
        }
        uint32_t behind = q->n_tokens - q->n_draft_past, n = behind < budget ? behind : budget;
        q->undraftable = !knows(d, llm_slot_tokens(q->slot) + q->n_draft_past, n);
        if (n > 0 && (q->undraftable || page_taken(s, q, n))) {
            n = 0;
        }
        q->n_wanted = n == behind ? q->n_wanted : 0;
        if (n > 0) {
            batch_add(s, s->who[b], n, n == behind);
        }
        budget -= n;
        total += n;
    }
    return total;
}

/* -------------------------------------------------------------------- drafting */

static void
propose_row(void *ctx, uint32_t row, uint32_t i_thread)
{
    llm_sched_t *s = ctx;
    llm_drafter_t *d = s->drafter;
    const llm_seq_t *q = d->rows[row];
    uint32_t n = s->m->head.rows, n_draft = d->m->head.rows;
    const float *logits = d->logits + (size_t) row * n_draft;
    llm_sample_out_t out;

    if (d->padded != NULL) {
        float *p = d->padded + (size_t) i_thread * n;
        memcpy(p, logits, n_draft * sizeof(float));
        for (uint32_t i = n_draft; i < n; i++) {
            p[i] = -INFINITY;
        }
        logits = p;
    }
    d->picked[row] = llm_sched_pick(s, q, q->n_tokens + q->n_drafts, logits, i_thread, 0, &out);
}

/* One draft for each row; the sequences that want more make the next pass. */
static void
propose(llm_sched_t *s)
{
    llm_drafter_t *d = s->drafter;
    uint32_t n_batch = d->n_batch, n_rows = d->n_rows;

    d->logits = llm_fwd_logits(d->fwd, 0, n_rows);
    if (n_rows == 1) {
        propose_row(s, 0, 0);
    } else {
        llm_pool_run(s->pool, propose_row, s, n_rows);
    }
    d->n_batch = d->n_rows = 0;
    for (uint32_t b = 0, row = 0; b < n_batch; b++) {
        if (d->batch[b].n_rows == 0) {
            continue;
        }
        llm_seq_t *q = &s->seqs[d->who[b]];
        int32_t id = d->picked[row++];
        if (id < 0 || (uint32_t) id >= d->n_vocab) {
            continue;
        }
        llm_slot_tokens(q->slot)[q->n_tokens + q->n_drafts++] = id;
        if (q->n_drafts < q->n_wanted && !llm_tok_is_eos(s->m->tok, id)) {
            batch_add(s, d->who[b], 1, 1);      /* at or before b: what is there has been read */
        }
    }
}

void
llm_drafter_run(llm_sched_t *s, bool timed)
{
    llm_drafter_t *d = s->drafter;
    uint32_t n = catch_up(s);

    if (d->n_batch > 0) {
        d->pass_at = step_no(s);
    } else if (timed) {
        d->plain_at = step_no(s);
        d->plain_streams = s->n_streams;
    }
    for (; d->n_batch > 0; n = d->n_batch) {
        uint64_t t0 = llm_now_ns();
        llm_fwd_run(d->fwd, d->batch, d->n_batch);
        if (d->n_rows > 0) {
            propose(s);
        } else {
            d->n_batch = 0;
        }
        double ns = (double) (llm_now_ns() - t0);
        if (n >= MIN_CATCH_UP) {
            llm_sched_smooth(&d->token_ns, ns / n);
        } else {
            llm_line_add(&d->pass, n, ns);
        }
    }
    for (uint32_t b = 0; b < s->n_batch; b++) {
        llm_seq_t *q = &s->seqs[s->who[b]];
        if (q->n_wanted > 0) {
            q->n_step += q->n_drafts;
            q->n_rows += q->n_drafts;
            s->batch[b].n += q->n_drafts;
            s->batch[b].n_rows += q->n_drafts;
        }
    }
}

void
llm_drafter_settle(llm_sched_t *s, llm_seq_t *q)
{
    const uint32_t *table = llm_slot_table(s->sh, q->slot);

    if (q->n_draft_past > q->n_past) {
        q->n_draft_past = q->n_past;        /* behind it are drafts that were not kept */
    }
    for (; (q->n_draft_pages + 1) * LLM_KV_PAGE <= q->n_draft_past; q->n_draft_pages++) {
        atomic_store_explicit(&s->sh->pages[table[q->n_draft_pages]].drafted, 1,
                              memory_order_relaxed);
    }
}

/* ------------------------------------------------------------------------ life */

/* Positions that the draft model was made for. */
static uint32_t
context(const llm_model_t *m, uint32_t n_ctx)
{
    uint32_t n = m->info.n_ctx_train;
    if (m->dec.pos == LLM_POS_LEARNED && n > m->dec.n_pos - m->dec.pos_offset) {
        n = m->dec.n_pos - m->dec.pos_offset;
    }
    return n > 0 && n < n_ctx ? n : n_ctx;
}

llm_code_t
llm_drafter_new(llm_drafter_t **out, const llm_sched_t *s, const llm_model_t *draft,
                llm_kv_type_t kv_type, llm_err_t *err)
{
    *out = NULL;
    llm_drafter_t *d = calloc(1, sizeof(*d));
    if (d == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "draft model: out of memory");
    }
    d->m = draft;
    d->n_ctx = context(draft, s->sh->n_ctx);
    d->n_vocab = draft->embed.rows < draft->head.rows ? draft->embed.rows : draft->head.rows;
    llm_code_t rc = LLM_OK;
    if (draft->head.rows < s->m->head.rows) {
        d->padded = calloc(s->n_threads, (size_t) s->m->head.rows * sizeof(float));
        rc = d->padded != NULL ? LLM_OK : llm_fail(err, LLM_E_NOMEM, "draft model: out of memory");
    }
    if (rc == LLM_OK) {
        rc = llm_fwd_new(&d->fwd, draft, s->pool, s->sh->kv + s->sh->draft_off, s->sh->page_bytes,
                         kv_type, LLM_SCHED_PIECE + LLM_SPEC_MAX, d->n_ctx, err);
    }
    if (rc != LLM_OK) {
        llm_drafter_free(d);
        return rc;
    }
    *out = d;
    return LLM_OK;
}

void
llm_drafter_free(llm_drafter_t *d)
{
    if (d == NULL) {
        return;
    }
    llm_fwd_free(d->fwd);
    free(d->padded);
    free(d);
}
