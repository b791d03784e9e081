/*
 * sched.c - the step of the leader (sched.h).
 *
 * Fairness: every running sequence that only waits for its next token gets it in every step.
 * Prompts share what is left of the step's time in order of arrival. A prompt's piece is sized by
 * the measured speed of the machine, so that the streams beside it keep their pace and a cancelled
 * prompt is dropped soon.
 *
 * Memory: pages are taken as sequences grow, nothing is reserved. When none is left the youngest
 * sequence gives its pages back and is computed again later; with the same arithmetic it goes on
 * with the same tokens. The oldest is never paused, and one sequence of full length always fits, so
 * there is always progress.
 */
#include "sched.h"
#include "forward.h"
#include "sample.h"
#include "text/tok.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define STREAM_NS (60 * 1000000ull)     /* prompt time in a step while streams run */
#define ALONE_NS  (250 * 1000000ull)    /* and while none does: bounds the wait for a cancel */
#define MIN_PIECE 32                    /* smaller pieces waste the tiles of the matrix kernels */

/* A sequence that the leader works on. */
typedef struct {
    llm_slot_t *slot;
    uint64_t    chain;          /* hash of the last full page that is computed */
    uint32_t    n_chained;      /* tokens that chain covers */
    uint32_t    n_past, n_tokens;
    uint32_t    n_step;         /* tokens in this step */
    uint32_t    row0, n_rows;   /* its logits rows in this step */
    bool        no_share;       /* prompt log-probabilities: every position needs its own pass */
    bool        encode;         /* this step runs the encoder over its prompt */
} seq_t;

/*
 * Encoder-decoder models: the prompt is the encoder's input and takes the first pages of the table
 * (keys and values of the encoder's output for the decoder). The decoder's own sequence begins with
 * one more token, decoder_start, so the sequence has n_tokens + 1 tokens to compute, of which the
 * first n_prompt are computed at once by the encoder.
 */

struct llm_sched {
    const llm_model_t *m;
    llm_pool_t        *pool;
    llm_shared_t      *sh;
    llm_kv_t          *kv;
    llm_fwd_t         *fwd;
    llm_sched_host_t   host;
    llm_sched_stats_t *stats;
    uint32_t           n_parallel, n_threads;
    llm_sampler_t    **samplers;        /* [n_threads] */
    seq_t             *seqs;            /* [n_parallel] running, oldest first */
    uint32_t           n_seqs;
    llm_fwd_seq_t     *batch;           /* [n_parallel] */
    uint32_t          *who;             /* [n_parallel]: batch entry -> seqs index */
    uint32_t           n_batch;
    double             prefill_ns;      /* smoothed time of one prompt token; 0: not measured yet */
    int32_t           *eos;             /* ids that end a generation */
    uint32_t           n_eos;
};

static uint64_t
now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t) t.tv_sec * 1000000000u + (uint64_t) t.tv_nsec;
}

static void
count(_Atomic uint64_t *c, uint64_t n)
{
    atomic_fetch_add_explicit(c, n, memory_order_relaxed);
}

/* ------------------------------------------------------- life of a sequence */

static void
wake_owner(llm_sched_t *s, llm_slot_t *slot)
{
    s->host.wake(s->host.ctx,
                 llm_slot_worker(atomic_load_explicit(&slot->state, memory_order_relaxed)));
}

static bool
owner_alive(llm_sched_t *s, uint64_t state)
{
    return s->host.owner_alive(s->host.ctx, llm_slot_worker(state),
                               llm_slot_worker_generation(state));
}

static void
seq_drop(llm_sched_t *s, uint32_t i)
{
    memmove(&s->seqs[i], &s->seqs[i + 1], (s->n_seqs - i - 1) * sizeof(seq_t));
    s->n_seqs--;
}

static void
seq_finish(llm_sched_t *s, uint32_t i, llm_finish_t why)
{
    llm_slot_t *slot = s->seqs[i].slot;

    llm_kv_release(s->kv, slot);
    atomic_store_explicit(&slot->finish, why, memory_order_relaxed);
    wake_owner(s, slot);
    if (!llm_slot_move(slot, LLM_SLOT_RUNNING, LLM_SLOT_DONE)) {
        llm_slot_free(slot);
    }
    seq_drop(s, i);
}

static bool
is_encdec(const llm_sched_t *s)
{
    return s->m->enc.n_layers > 0;
}

/* Tokens to compute before the next one can be sampled. */
static uint32_t
seq_target(const llm_sched_t *s, const seq_t *q)
{
    return q->n_tokens + is_encdec(s);
}

static uint32_t
cross_pages(const llm_sched_t *s, const seq_t *q)
{
    return is_encdec(s) ? (q->slot->n_prompt + LLM_KV_PAGE - 1) / LLM_KV_PAGE : 0;
}

/* Tokens that the sequence's pages have room for. */
static uint32_t
seq_capacity(const llm_sched_t *s, const seq_t *q)
{
    uint32_t n = atomic_load_explicit(&q->slot->n_pages, memory_order_acquire),
             nx = cross_pages(s, q);
    if (nx == 0) {
        return n * LLM_KV_PAGE;
    }
    return n < nx ? 0 : q->slot->n_prompt + (n - nx) * LLM_KV_PAGE;
}

/*
 * Whether the record as published is complete; also true after a takeover between the last token
 * and DONE.
 */
static llm_finish_t
seq_ended(const llm_sched_t *s, const seq_t *q)
{
    llm_slot_t *slot = q->slot;
    uint32_t n_new = q->n_tokens - slot->n_prompt;
    int32_t last = llm_slot_tokens(slot)[q->n_tokens - 1];

    if (n_new > 0 && !slot->sampling.ignore_eos && llm_tok_is_eos(s->m->tok, last)) {
        return LLM_FINISH_EOS;
    }
    if (n_new >= slot->max_new && (slot->max_new > 0 || q->n_past >= slot->n_prompt)) {
        return LLM_FINISH_LENGTH;
    }
    return LLM_FINISH_NONE;
}

/* Keys of different rotations must not meet in the cache (spec 3.4: longrope, dynamic). */
static uint64_t
seq_salt(const llm_sched_t *s, const llm_slot_t *slot)
{
    const llm_stack_t *d = &s->m->dec;
    if (d->rope_dynamic) {
        return slot->n_prompt > d->rope_orig_ctx ? slot->n_prompt : 0;
    }
    return d->rope_long != NULL && slot->n_prompt + slot->max_new > d->rope_orig_ctx;
}

/* Adds the slot to the running sequences, taking what the prefix cache has of it. */
static void
seq_start(llm_sched_t *s, llm_slot_t *slot)
{
    seq_t *q = &s->seqs[s->n_seqs++];
    uint32_t n = (uint32_t) atomic_load_explicit(&slot->progress, memory_order_acquire);
    uint64_t seed = llm_kv_seed(s->kv, seq_salt(s, slot));

    *q = (seq_t) { .slot = slot, .chain = seed, .n_tokens = n, .no_share = slot->prompt_logprobs };
    if (!is_encdec(s) && (!q->no_share || n > slot->n_prompt)) {
        /* the last token must be computed: its logits are wanted */
        q->n_past = llm_kv_match(s->kv, slot, llm_slot_tokens(slot), n - 1, seed, &q->chain);
        q->n_chained = q->n_past;
    }
    if (n == slot->n_prompt && atomic_load_explicit(&slot->started_ns, memory_order_relaxed) == 0) {
        atomic_store_explicit(&slot->n_cached, q->n_past, memory_order_relaxed);
        count(&s->stats->n_cached_tokens, q->n_past);
        atomic_store_explicit(&slot->started_ns, now_ns(), memory_order_relaxed);
    }
    atomic_store_explicit(&slot->progress, llm_progress(n, q->n_past), memory_order_release);
}

/* A sequence of the leader before: its pages are in the record already. */
static void
seq_adopt(llm_sched_t *s, llm_slot_t *slot)
{
    seq_t *q = &s->seqs[s->n_seqs++];
    uint64_t p = atomic_load_explicit(&slot->progress, memory_order_acquire);

    *q = (seq_t) { .slot = slot,
                  .chain = llm_kv_seed(s->kv, seq_salt(s, slot)),
                  .n_tokens = (uint32_t) p,
                  .n_past = (uint32_t) (p >> 32),
                  .no_share = slot->prompt_logprobs };
    if (q->n_past > seq_capacity(s, q)) {
        q->n_past = seq_capacity(s, q);     /* killed while it gave pages back */
    }
    while (!is_encdec(s) && q->n_past - q->n_chained >= LLM_KV_PAGE) {
        q->chain = llm_kv_hash(s->kv, q->chain, llm_slot_tokens(slot) + q->n_chained);
        q->n_chained += LLM_KV_PAGE;
    }
}

/* Gives the sequence's pages back; it starts again from its tokens when there is room. */
static void
seq_pause(llm_sched_t *s, uint32_t i)
{
    llm_slot_t *slot = s->seqs[i].slot;

    count(&s->stats->n_preemptions, 1);
    atomic_store_explicit(&slot->progress, llm_progress(s->seqs[i].n_tokens, 0),
                          memory_order_release);
    llm_kv_release(s->kv, slot);
    if (!llm_slot_move(slot, LLM_SLOT_RUNNING, LLM_SLOT_QUEUED)) {
        llm_slot_free(slot);
    }
    seq_drop(s, i);
}

/* -------------------------------------------------------------------- intake */

/* Cancelled jobs and those of dead workers go; returns the oldest job that waits, or NULL. */
static llm_slot_t *
sweep(llm_sched_t *s, uint32_t *n_waiting)
{
    llm_slot_t *oldest = NULL;
    *n_waiting = 0;

    for (uint32_t i = s->n_seqs; i-- > 0;) {
        llm_slot_t *slot = s->seqs[i].slot;
        uint64_t state = atomic_load_explicit(&slot->state, memory_order_acquire);
        if ((state & LLM_SLOT_CANCEL) || !owner_alive(s, state)) {
            llm_kv_release(s->kv, slot);
            llm_slot_free(slot);
            seq_drop(s, i);
        }
    }
    for (uint32_t i = 0; i < s->sh->n_slots; i++) {
        llm_slot_t *slot = llm_slot(s->sh, i);
        uint64_t state = atomic_load_explicit(&slot->state, memory_order_acquire);
        uint32_t phase = state & LLM_SLOT_PHASE;
        if (phase == LLM_SLOT_FREE || phase == LLM_SLOT_RUNNING) {
            continue;
        }
        if (!owner_alive(s, state) || (phase == LLM_SLOT_QUEUED && (state & LLM_SLOT_CANCEL))) {
            llm_slot_free(slot);
        } else if (phase == LLM_SLOT_QUEUED) {
            ++*n_waiting;
            if (oldest == NULL || slot->ticket < oldest->ticket) {
                oldest = slot;
            }
        }
    }
    return oldest;
}

/*
 * Room for all tokens of the slot and one more page for every running sequence: less, and it would
 * be paused again before it had got anywhere.
 */
static bool
has_room(const llm_sched_t *s, llm_slot_t *slot)
{
    uint32_t n = (uint32_t) atomic_load_explicit(&slot->progress, memory_order_relaxed);
    uint32_t need = (n + LLM_KV_PAGE) / LLM_KV_PAGE + is_encdec(s);
    return s->n_seqs == 0 || llm_kv_n_free(s->kv) + llm_kv_n_cached(s->kv) >= need + s->n_seqs;
}

static void
admit(llm_sched_t *s)
{
    uint32_t n_waiting;
    llm_slot_t *slot;

    while ((slot = sweep(s, &n_waiting)) != NULL && s->n_seqs < s->n_parallel
           && has_room(s, slot)) {
        if (llm_slot_move(slot, LLM_SLOT_QUEUED, LLM_SLOT_RUNNING)) {
            seq_start(s, slot);
        }
    }
    atomic_store_explicit(&s->stats->n_waiting, n_waiting, memory_order_relaxed);
    atomic_store_explicit(&s->stats->n_running, s->n_seqs, memory_order_relaxed);
}

/* --------------------------------------------------------------- composition */

/*
 * Pages for n more tokens of sequence i, pausing younger ones if need be. Returns how many tokens
 * have room.
 */
static uint32_t
make_room(llm_sched_t *s, uint32_t i, uint32_t n)
{
    seq_t *q = &s->seqs[i];
    for (;;) {
        uint32_t capacity = seq_capacity(s, q),
                 room = capacity > q->n_past ? capacity - q->n_past : 0;
        if (room >= n) {
            return n;
        }
        if (llm_kv_grow(s->kv, q->slot)) {
            continue;
        }
        if (s->n_seqs - 1 > i && s->seqs[s->n_seqs - 1].n_step == 0) {
            seq_pause(s, s->n_seqs - 1);
            continue;
        }
        return room;
    }
}

static void
batch_add(llm_sched_t *s, uint32_t i, uint32_t n)
{
    seq_t *q = &s->seqs[i];
    llm_slot_t *slot = q->slot;
    uint32_t nx = cross_pages(s, q), first = nx > 0 ? slot->n_prompt : 0;
    bool complete = q->n_past + n == seq_target(s, q);

    q->n_step = n;
    q->n_rows = complete && slot->max_new > 0 ? 1 : 0;
    if (nx == 0 && q->no_share && q->n_past < slot->n_prompt) {
        q->n_rows = n;
    }
    s->who[s->n_batch] = i;
    s->batch[s->n_batch++] = (llm_fwd_seq_t) {
        /* behind an encoder the token at position p of the decoder is the output token p - 1 */
        .tokens = llm_slot_tokens(slot) + q->n_past - (nx > 0), .n = n, .pos0 = q->n_past - first,
        .table = llm_slot_table(s->sh, slot) + nx, .n_prompt = slot->n_prompt,
        .n_planned = slot->n_prompt + slot->max_new, .n_rows = q->n_rows,
        .n_cross = first, .cross = llm_slot_table(s->sh, slot), .first_id = s->m->decoder_start_id,
    };
}

/*
 * The tokens of the step. Sequences are visited oldest first, so that whoever must be paused is
 * younger than who needs the room, and none that is already in the step is ever paused.
 */
static uint32_t
compose(llm_sched_t *s)
{
    uint32_t n_single = 0, total = 0;
    s->n_batch = 0;
    for (uint32_t i = 0; i < s->n_seqs; i++) {
        s->seqs[i].n_step = 0;
        s->seqs[i].encode = false;
        n_single += seq_target(s, &s->seqs[i]) - s->seqs[i].n_past == 1;
    }

    uint64_t target_ns = n_single > 0 ? STREAM_NS : ALONE_NS;
    uint32_t budget = LLM_SCHED_PIECE;
    if (s->prefill_ns > 0 && budget * s->prefill_ns > (double) target_ns) {
        budget = (uint32_t) ((double) target_ns / s->prefill_ns);
    }
    if (budget < MIN_PIECE) {
        budget = MIN_PIECE;
    }

    for (uint32_t i = 0; i < s->n_seqs; i++) {
        seq_t *q = &s->seqs[i];
        if (is_encdec(s) && q->n_past < q->slot->n_prompt) {
            q->encode = make_room(s, i, q->slot->n_prompt - q->n_past)
                        == q->slot->n_prompt - q->n_past;
            q->n_step = q->encode ? q->slot->n_prompt - q->n_past : 0;
            total += q->n_step;
            continue;
        }
        uint32_t pending = seq_target(s, q) - q->n_past, n = pending == 1       ? 1
                                                             : pending < budget ? pending
                                                                                : budget;
        if (n > 0) {
            n = make_room(s, i, n);
        }
        if (n > 0) {
            batch_add(s, i, n);
            total += n;
            budget -= pending == 1 ? 0 : n;
        }
    }
    return total;
}

/* ------------------------------------------------------------------ sampling */

typedef struct {
    llm_sched_t *s;
    const float *logits;        /* of rows row0 .. */
    uint32_t     row0, n;
} sample_ctx_t;

/*
 * BART: the model's settings may force the first token and the last possible one; free runs
 * (ignore_eos) are not forced.
 */
static int32_t
forced(const llm_sched_t *s, const llm_slot_t *slot, uint32_t pos, int32_t id)
{
    uint32_t i_new = pos - slot->n_prompt;
    if (slot->sampling.ignore_eos || id < 0) {
        return id;
    }
    if (s->m->forced_bos_id >= 0 && i_new == 0) {
        return s->m->forced_bos_id;
    }
    return s->m->forced_eos_id >= 0 && i_new + 1 == slot->max_new ? s->m->forced_eos_id : id;
}

/*
 * Row r of the step: the log-probability of a prompt token, or a new token. Writes into the record;
 * nothing is visible yet.
 */
static void
sample_row(void *ctx, uint32_t i_chunk, uint32_t i_thread)
{
    sample_ctx_t *c = ctx;
    llm_sched_t *s = c->s;
    uint32_t row = c->row0 + i_chunk, b = 0;

    while (row >= s->seqs[s->who[b]].row0 + s->seqs[s->who[b]].n_rows) {
        b++;
    }
    seq_t *q = &s->seqs[s->who[b]];
    llm_slot_t *slot = q->slot;
    int32_t *tokens = llm_slot_tokens(slot);
    uint32_t pos = q->n_past + q->n_step - q->n_rows + row - q->row0 + 1
                   - is_encdec(s);      /* the token that this row predicts */
    const float *logits = c->logits + (size_t) i_chunk * s->m->head.rows;
    llm_sample_out_t out = { .top = llm_slot_top(s->sh, slot, pos < s->sh->n_ctx ? pos : 0) };

    if (pos < slot->n_prompt) {
        llm_score(s->samplers[i_thread], logits, tokens[pos], slot->n_top, s->sh->top_stride, &out);
    } else if (pos < q->n_tokens || slot->max_new == 0) {
        /* recomputed after a pause: the token is there; or nothing is to be generated */
        return;
    } else {
        bool early = pos - slot->n_prompt < slot->sampling.min_tokens;
        llm_sample_in_t in = {
            .conf = &slot->sampling,
            .bias = slot->bias,
            .tokens = tokens,
            .n_tokens = q->n_tokens,
            .n_prompt = slot->n_prompt,
            .n_valid = llm_tok_n_vocab(s->m->tok),
            .banned = early ? s->eos : NULL,
            .n_banned = early ? s->n_eos : 0,
            .n_top = slot->n_top,
            .top_raw = slot->top_raw,
            .top_cap = s->sh->top_stride,
        };
        llm_sample(s->samplers[i_thread], logits, &in, &out);
        tokens[pos] = out.id = forced(s, slot, pos, out.id);
    }
    llm_slot_logprob(s->sh, slot)[pos] = out.logprob;
    llm_slot_raw(s->sh, slot)[pos] = out.raw_logprob;
    llm_slot_n_top(s->sh, slot)[pos] = out.n_top;
}

static void
sample_all(llm_sched_t *s)
{
    uint32_t n_rows = 0;
    for (uint32_t b = 0; b < s->n_batch; b++) {
        s->seqs[s->who[b]].row0 = n_rows;
        n_rows += s->seqs[s->who[b]].n_rows;
    }
    for (uint32_t row = 0; row < n_rows; row += LLM_FWD_LOGIT_ROWS) {
        sample_ctx_t c = { .s = s,
                           .row0 = row,
                           .n = n_rows - row < LLM_FWD_LOGIT_ROWS ? n_rows - row
                                                                  : LLM_FWD_LOGIT_ROWS };
        c.logits = llm_fwd_logits(s->fwd, row, c.n);
        if (c.n == 1) {
            sample_row(&c, 0, 0);
        } else {
            llm_pool_run(s->pool, sample_row, &c, c.n);
        }
    }
}

/* ---------------------------------------------------------------- publication */

/* Full pages of sequence q enter the prefix cache. */
static void
publish_pages(llm_sched_t *s, seq_t *q)
{
    while (q->n_past - q->n_chained >= LLM_KV_PAGE) {
        const int32_t *tokens = llm_slot_tokens(q->slot) + q->n_chained;
        uint64_t h = llm_kv_hash(s->kv, q->chain, tokens);
        llm_kv_publish(s->kv, q->slot, q->n_chained / LLM_KV_PAGE, q->chain, h, tokens);
        q->chain = h;
        q->n_chained += LLM_KV_PAGE;
    }
}

/* Runs the encoder for the sequences that came to it; returns the number of tokens. */
static uint32_t
encode_all(llm_sched_t *s)
{
    uint32_t total = 0;
    for (uint32_t i = 0; i < s->n_seqs; i++) {
        seq_t *q = &s->seqs[i];
        if (q->encode) {
            llm_fwd_encode(s->fwd, llm_slot_tokens(q->slot), q->slot->n_prompt,
                           llm_slot_table(s->sh, q->slot));
            q->n_past = q->slot->n_prompt;
            total += q->n_past;
            atomic_store_explicit(&q->slot->progress, llm_progress(q->n_tokens, q->n_past),
                                  memory_order_release);
        }
    }
    return total;
}

/* Makes the step visible: one store for each sequence. */
static void
publish(llm_sched_t *s, uint64_t now)
{
    for (uint32_t b = 0; b < s->n_batch; b++) {
        seq_t *q = &s->seqs[s->who[b]];
        llm_slot_t *slot = q->slot;
        uint32_t before = q->n_tokens;

        q->n_past += q->n_step;
        if (q->n_past == seq_target(s, q) && slot->max_new > 0) {
            if (llm_slot_tokens(slot)[q->n_tokens] < 0) {
                continue;       /* no token: ended below */
            }
            q->n_tokens++;
            count(&s->stats->n_decode_tokens, 1);
            if (before == slot->n_prompt) {
                atomic_store_explicit(&slot->first_ns, now, memory_order_relaxed);
            }
            atomic_store_explicit(&slot->last_ns, now, memory_order_relaxed);
        }
        atomic_store_explicit(&slot->progress, llm_progress(q->n_tokens, q->n_past),
                              memory_order_release);
        if (!is_encdec(s)) {
            publish_pages(s, q);
        }
        if (q->n_tokens > before) {
            wake_owner(s, slot);
        }
    }
}

static void
finish_ended(llm_sched_t *s)
{
    for (uint32_t i = s->n_seqs; i-- > 0;) {
        seq_t *q = &s->seqs[i];
        if (q->n_past == seq_target(s, q) && q->slot->max_new > 0) {
            seq_finish(s, i, LLM_FINISH_ERROR);
            continue;
        }
        llm_finish_t why = seq_ended(s, q);
        if (why != LLM_FINISH_NONE) {
            seq_finish(s, i, why);
        }
    }
}

bool
llm_sched_step(llm_sched_t *s)
{
    admit(s);
    finish_ended(s);
    uint32_t n = compose(s), n_prefill = 0;
    for (uint32_t b = 0; b < s->n_batch; b++) {
        n_prefill += s->batch[b].n > 1 ? s->batch[b].n : 0;
    }

    atomic_store_explicit(&s->stats->pages_free, llm_kv_n_free(s->kv), memory_order_relaxed);
    atomic_store_explicit(&s->stats->pages_cached, llm_kv_n_cached(s->kv), memory_order_relaxed);
    atomic_store_explicit(&s->stats->n_running, s->n_seqs, memory_order_relaxed);
    if (n == 0) {
        return false;
    }

    uint64_t t0 = now_ns();
    n_prefill += encode_all(s);
    if (s->n_batch > 0) {
        llm_fwd_run(s->fwd, s->batch, s->n_batch);
        sample_all(s);
    }
    uint64_t t1 = now_ns();

    count(&s->stats->n_steps, 1);
    if (n_prefill > 0) {
        count(&s->stats->n_prefill_tokens, n_prefill);
        count(&s->stats->prefill_ns, t1 - t0);
        double each = (double) (t1 - t0) / n;
        s->prefill_ns = s->prefill_ns > 0 ? 0.75 * s->prefill_ns + 0.25 * each : each;
    } else {
        count(&s->stats->decode_ns, t1 - t0);
    }
    publish(s, t1);
    finish_ended(s);
    return true;
}

/* ----------------------------------------------------------------------- life */

static llm_code_t
collect_eos(llm_sched_t *s, llm_err_t *err)
{
    uint32_t n_vocab = llm_tok_n_vocab(s->m->tok);
    for (int pass = 0; pass < 2; pass++) {
        s->n_eos = 0;
        for (uint32_t id = 0; id < n_vocab && id < s->m->head.rows; id++) {
            if (llm_tok_is_eos(s->m->tok, (int32_t) id)) {
                if (pass == 1) {
                    s->eos[s->n_eos] = (int32_t) id;
                }
                s->n_eos++;
            }
        }
        if (pass == 0) {
            s->eos = malloc((s->n_eos + 1) * sizeof(int32_t));
            if (s->eos == NULL) {
                return llm_fail(err, LLM_E_NOMEM, "list of end tokens: out of memory");
            }
        }
    }
    return LLM_OK;
}

/* Running sequences of the leader before, oldest first; more than n_parallel cannot be. */
static void
adopt_all(llm_sched_t *s)
{
    uint64_t after = 0;
    for (;;) {
        llm_slot_t *next = NULL;
        for (uint32_t i = 0; i < s->sh->n_slots; i++) {
            llm_slot_t *slot = llm_slot(s->sh, i);
            uint64_t state = atomic_load_explicit(&slot->state, memory_order_acquire);
            if ((state & LLM_SLOT_PHASE) == LLM_SLOT_RUNNING && slot->ticket > after
                && (next == NULL || slot->ticket < next->ticket)) {
                next = slot;
            }
        }
        if (next == NULL || s->n_seqs == s->n_parallel) {
            return;
        }
        after = next->ticket;
        seq_adopt(s, next);
    }
}

llm_code_t
llm_sched_new(llm_sched_t **out, const llm_model_t *m, llm_pool_t *pool, llm_shared_t *shared,
              llm_kv_type_t kv_type, uint32_t n_parallel, const llm_sched_host_t *host,
              llm_sched_stats_t *stats, llm_err_t *err)
{
    *out = NULL;
    llm_sched_t *s = calloc(1, sizeof(*s));
    if (s == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "scheduler: out of memory");
    }
    s->m = m;
    s->pool = pool;
    s->sh = shared;
    s->host = *host;
    s->stats = stats;
    s->n_parallel = n_parallel;
    s->n_threads = llm_pool_size(pool);

    s->seqs = calloc(n_parallel, sizeof(seq_t));
    s->batch = calloc(n_parallel, sizeof(llm_fwd_seq_t));
    s->who = calloc(n_parallel, sizeof(uint32_t));
    s->samplers = calloc(s->n_threads, sizeof(*s->samplers));
    llm_code_t rc = LLM_OK;
    if (s->seqs == NULL || s->batch == NULL || s->who == NULL || s->samplers == NULL) {
        rc = llm_fail(err, LLM_E_NOMEM, "scheduler for %u sequences: out of memory", n_parallel);
    }
    for (uint32_t i = 0; rc == LLM_OK && i < s->n_threads; i++) {
        rc = llm_sampler_new(&s->samplers[i], m->head.rows, err);
    }
    if (rc == LLM_OK) {
        rc = collect_eos(s, err);
    }
    if (rc == LLM_OK) {
        rc = llm_kv_new(&s->kv, shared, err);
    }
    if (rc == LLM_OK) {
        /* an encoder takes its whole input in one step */
        uint32_t max_tokens = LLM_SCHED_PIECE + n_parallel;
        if (m->enc.n_layers > 0 && max_tokens < shared->n_ctx) {
            max_tokens = shared->n_ctx;
        }
        rc = llm_fwd_new(&s->fwd, m, pool, shared->kv, kv_type, max_tokens, shared->n_ctx, err);
    }
    if (rc != LLM_OK) {
        llm_sched_free(s);
        return rc;
    }
    adopt_all(s);
    *out = s;
    return LLM_OK;
}

void
llm_sched_free(llm_sched_t *s)
{
    if (s == NULL) {
        return;
    }
    for (uint32_t i = 0; s->samplers != NULL && i < s->n_threads; i++) {
        llm_sampler_free(s->samplers[i]);
    }
    free(s->samplers);
    free(s->seqs);
    free(s->batch);
    free(s->who);
    free(s->eos);
    llm_kv_free(s->kv);
    llm_fwd_free(s->fwd);
    free(s);
}
