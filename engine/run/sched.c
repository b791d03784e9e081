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
#include "sched_impl.h"
#include "base/clock.h"
#include "text/tok.h"

#include <stdlib.h>
#include <string.h>

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

void
llm_seq_drop(llm_sched_t *s, uint32_t i)
{
    memmove(&s->seqs[i], &s->seqs[i + 1], (s->n_seqs - i - 1) * sizeof(llm_seq_t));
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
    llm_seq_drop(s, i);
}

/*
 * Whether the record as published is complete; also true after a takeover between the last token
 * and DONE.
 */
static llm_finish_t
seq_ended(const llm_sched_t *s, const llm_seq_t *q)
{
    llm_slot_t *slot = q->slot;
    uint32_t n_new = q->n_tokens - slot->n_prompt;
    int32_t last = llm_slot_tokens(slot)[q->n_tokens - 1];
    bool constrained = llm_constrained(slot), free_run = slot->sampling.ignore_eos;

    if (q->broken) {
        return LLM_FINISH_ERROR;
    }
    if (n_new > 0 && (constrained || !free_run) && llm_tok_is_eos(s->m->tok, last)) {
        return LLM_FINISH_EOS;
    }
    /* nothing may follow, and no end token is wanted or there is none */
    if (constrained && (free_run || s->n_eos == 0) && llm_constrain_finished(s->constrain, slot)) {
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

static bool
no_share(const llm_slot_t *slot)
{
    return slot->prompt_logprobs || slot->embed == LLM_EMBED_MEAN;
}

/* The state of a constrained output is derived from its tokens. */
static bool
constraint_fails(llm_sched_t *s, const llm_seq_t *q)
{
    llm_slot_t *slot = q->slot;
    return llm_constrained(slot)
           && !llm_constrain_start(s->constrain, slot, llm_slot_tokens(slot) + slot->n_prompt,
                                   q->n_tokens - slot->n_prompt);
}

/* It runs now, if it did not before. */
static void
mark_started(llm_slot_t *slot)
{
    if (atomic_load_explicit(&slot->started_ns, memory_order_relaxed) == 0) {
        atomic_store_explicit(&slot->started_ns, llm_now_ns(), memory_order_relaxed);
    }
}

/* Adds the slot to the running sequences. */
static void
seq_start(llm_sched_t *s, llm_slot_t *slot)
{
    llm_seq_t *q = &s->seqs[s->n_seqs++];
    uint32_t n = (uint32_t) atomic_load_explicit(&slot->progress, memory_order_acquire);

    *q = (llm_seq_t) { .slot = slot, .chain = llm_kv_seed(s->kv, seq_salt(s, slot)),
                       .n_tokens = n, .no_share = no_share(slot) };
    q->broken = constraint_fails(s, q);
    mark_started(slot);
    q->fresh = n == slot->n_prompt;
    if (q->fresh) {     /* also when it was paused before its first token: nothing of it is left */
        atomic_store_explicit(&slot->n_cached, 0, memory_order_relaxed);
    }
    /* what the prefix cache has of it is taken when its tokens are wanted (compose.c) */
    atomic_store_explicit(&slot->progress, llm_progress(n, 0), memory_order_release);
}

/* A sequence of the leader before: its pages are in the record already. */
static void
seq_adopt(llm_sched_t *s, llm_slot_t *slot)
{
    llm_seq_t *q = &s->seqs[s->n_seqs++];
    uint64_t p = atomic_load_explicit(&slot->progress, memory_order_acquire);

    *q = (llm_seq_t) { .slot = slot,
                  .chain = llm_kv_seed(s->kv, seq_salt(s, slot)),
                  .n_tokens = (uint32_t) p,
                  .n_past = (uint32_t) (p >> 32),
                  .no_share = no_share(slot) };
    q->broken = constraint_fails(s, q);
    q->fresh = q->n_tokens == slot->n_prompt;
    mark_started(slot);
    if (slot->embed == LLM_EMBED_MEAN && q->n_past < slot->n_prompt) {
        q->n_past = 0;          /* how much of it the sum has is not known */
    }
    if (q->n_past > llm_seq_capacity(s, q)) {
        q->n_past = llm_seq_capacity(s, q);     /* killed while it gave pages back */
    }
    while (!llm_sched_encdec(s) && q->n_past - q->n_chained >= LLM_KV_PAGE) {
        q->chain = llm_kv_hash(s->kv, q->chain, llm_slot_tokens(slot) + q->n_chained);
        q->n_chained += LLM_KV_PAGE;
    }
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
            llm_seq_drop(s, i);
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
    uint32_t need = (n + LLM_KV_PAGE) / LLM_KV_PAGE + llm_sched_encdec(s);
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

/* ---------------------------------------------------------------- publication */

/* Full pages of sequence q enter the prefix cache. */
static void
publish_pages(llm_sched_t *s, llm_seq_t *q)
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
        llm_seq_t *q = &s->seqs[i];
        if (q->encode) {
            llm_fwd_encode(s->fwd, llm_slot_tokens(q->slot), q->slot->n_prompt,
                           llm_slot_table(s->sh, q->slot));
            q->n_past = q->slot->n_prompt;
            total += q->n_past;
            if (q->slot->embed != LLM_EMBED_NONE) {
                llm_sched_pool(s, q->slot, 0, 0, q->n_past);
            }
            atomic_store_explicit(&q->slot->progress, llm_progress(q->n_tokens, q->n_past),
                                  memory_order_release);
        }
    }
    return total;
}

/* Takes the token that was picked for the end of the sequence. */
static void
take(llm_sched_t *s, llm_seq_t *q, int32_t id, uint64_t now)
{
    llm_slot_t *slot = q->slot;

    if (id < 0 || (llm_constrained(slot) && !llm_constrain_take(s->constrain, slot, id))) {
        q->broken = true;
        return;
    }
    llm_slot_tokens(slot)[q->n_tokens++] = id;
    llm_sched_count(&s->stats->n_decode_tokens, 1);
    if (q->n_tokens == slot->n_prompt + 1) {
        atomic_store_explicit(&slot->first_ns, now, memory_order_relaxed);
    }
    atomic_store_explicit(&slot->last_ns, now, memory_order_relaxed);
}

/*
 * Takes the tokens of the step: the one that comes next, and as long as a draft was what the
 * sampler chose, the one behind it. The keys and values of a wrong draft stay behind n_past, where
 * the right ones will overwrite them.
 */
static void
take_all(llm_sched_t *s, llm_seq_t *q, uint64_t now)
{
    const int32_t *drafts = llm_slot_tokens(q->slot) + q->n_tokens,
                  *picked = s->picked + q->row0 + q->n_rows - 1 - q->n_drafts;
    uint32_t kept = 0;

    for (;; kept++) {
        bool right = kept < q->n_drafts && drafts[kept] == picked[kept];
        take(s, q, picked[kept], now);
        if (!right || q->broken || seq_ended(s, q) != LLM_FINISH_NONE) {
            break;
        }
        q->n_past++;
    }
    if (q->n_drafts > 0) {
        if (q->drafter == LLM_DRAFT_MODEL) {
            llm_odds_learn(&q->odds, q->n_drafts, kept);
        } else {
            llm_spec_t *trust = q->drafter == LLM_DRAFT_GRAMMAR ? &q->spelt : &q->copied;
            llm_spec_learn(trust, q->n_drafts, kept);
        }
        llm_sched_count(&s->stats->n_kept[q->drafter], kept);
        llm_sched_count(&s->stats->n_dropped[q->drafter], q->n_drafts - kept);
    }
}

/* Makes the step visible: one store for each sequence. */
static void
publish(llm_sched_t *s, uint64_t now)
{
    for (uint32_t b = 0; b < s->n_batch; b++) {
        llm_seq_t *q = &s->seqs[s->who[b]];
        uint32_t before = q->n_tokens;

        q->n_past += q->n_step - q->n_drafts;
        if (q->n_past == llm_seq_target(s, q) && q->slot->max_new > 0) {
            take_all(s, q, now);
        }
        if (q->broken) {
            q->n_past--;        /* it ends below; a new leader computes this again and ends it */
        }
        if (s->drafter != NULL) {
            llm_drafter_settle(s, q);
        }
        atomic_store_explicit(&q->slot->progress, llm_progress(q->n_tokens, q->n_past),
                              memory_order_release);
        if (!llm_sched_encdec(s)) {
            publish_pages(s, q);
        }
        if (q->n_tokens > before) {
            wake_owner(s, q->slot);
        }
    }
}

static void
finish_ended(llm_sched_t *s)
{
    for (uint32_t i = s->n_seqs; i-- > 0;) {
        llm_finish_t why = seq_ended(s, &s->seqs[i]);
        if (why != LLM_FINISH_NONE) {
            seq_finish(s, i, why);
        }
    }
}

static uint32_t
count_rows(const llm_sched_t *s)
{
    uint32_t n = 0;
    for (uint32_t b = 0; b < s->n_batch; b++) {
        n += s->batch[b].n;
    }
    return n;
}

bool
llm_sched_step(llm_sched_t *s)
{
    admit(s);
    finish_ended(s);
    uint32_t n = llm_sched_compose(s), n_prefill = 0;
    for (uint32_t b = 0; b < s->n_batch; b++) {
        uint32_t n_step = s->batch[b].n - s->seqs[s->who[b]].n_drafts;
        n_prefill += n_step > 1 ? n_step : 0;
    }

    atomic_store_explicit(&s->stats->pages_free, llm_kv_n_free(s->kv), memory_order_relaxed);
    atomic_store_explicit(&s->stats->pages_cached, llm_kv_n_cached(s->kv), memory_order_relaxed);
    atomic_store_explicit(&s->stats->n_running, s->n_seqs, memory_order_relaxed);
    if (n == 0) {
        return false;
    }

    uint64_t t0 = llm_now_ns(), t_draft = 0;
    n_prefill += encode_all(s);
    if (s->drafter != NULL) {
        llm_drafter_run(s, n_prefill == 0);
        t_draft = llm_now_ns() - t0;
    }
    if (s->n_batch > 0) {
        llm_fwd_run(s->fwd, s->batch, s->n_batch);
        llm_sched_choose(s);
    }
    uint64_t t1 = llm_now_ns();

    llm_sched_count(&s->stats->n_steps, 1);
    if (n_prefill > 0) {
        llm_sched_count(&s->stats->n_prefill_tokens, n_prefill);
        llm_sched_count(&s->stats->prefill_ns, t1 - t0);
        llm_sched_smooth(&s->prefill_ns, (double) (t1 - t0 - t_draft) / n);
    } else {
        llm_sched_count(&s->stats->decode_ns, t1 - t0);
        llm_line_add(&s->decode, count_rows(s), (double) (t1 - t0 - t_draft));
    }
    publish(s, t1);
    finish_ended(s);
    return true;
}

/* ----------------------------------------------------------------------- life */

/* Ids that end a generation and have a row of the head. */
static void
collect_eos(llm_sched_t *s)
{
    s->n_eos = llm_gvocab_eos(s->sh->gvocab, &s->eos);
    while (s->n_eos > 0 && (uint32_t) s->eos[s->n_eos - 1] >= s->m->head.rows) {
        s->n_eos--;
    }
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
llm_sched_new(llm_sched_t **out, const llm_model_t *m, const llm_model_t *draft,
              llm_pool_t *pool, llm_shared_t *shared, const llm_engine_conf_t *conf,
              const llm_sched_host_t *host, llm_sched_stats_t *stats, llm_err_t *err)
{
    uint32_t n_parallel = conf->n_parallel;
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
    s->speculate = conf->speculate;
    s->n_draft = conf->n_draft;
    s->n_threads = llm_pool_size(pool);

    uint32_t max_tokens = LLM_SCHED_PIECE + n_parallel + LLM_SPEC_MAX;
    if (m->enc.n_layers > 0 && max_tokens < shared->n_ctx) {
        max_tokens = shared->n_ctx;     /* an encoder takes its whole input in one step */
    }
    s->seqs = calloc(n_parallel, sizeof(llm_seq_t));
    s->batch = calloc(n_parallel, sizeof(llm_fwd_seq_t));
    s->who = calloc(n_parallel, sizeof(uint32_t));
    s->samplers = calloc(s->n_threads, sizeof(*s->samplers));
    s->picked = calloc(max_tokens, sizeof(*s->picked));
    collect_eos(s);
    llm_code_t rc = LLM_OK;
    if (s->seqs == NULL || s->batch == NULL || s->who == NULL || s->samplers == NULL
        || s->picked == NULL) {
        rc = llm_fail(err, LLM_E_NOMEM, "scheduler for %u sequences: out of memory", n_parallel);
    }
    for (uint32_t i = 0; rc == LLM_OK && i < s->n_threads; i++) {
        rc = llm_sampler_new(&s->samplers[i], m->head.rows, err);
    }
    if (rc == LLM_OK) {
        rc = llm_constrain_new(&s->constrain, shared, s->n_threads, err);
    }
    if (rc == LLM_OK) {
        rc = llm_kv_new(&s->kv, shared, err);
    }
    if (rc == LLM_OK) {
        rc = llm_fwd_new(&s->fwd, m, pool, shared->kv, shared->page_bytes, conf->kv_type,
                         max_tokens, shared->n_ctx, err);
    }
    if (rc == LLM_OK && draft != NULL) {
        rc = llm_drafter_new(&s->drafter, s, draft, conf->kv_type, err);
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
    free(s->picked);
    llm_constrain_free(s->constrain);
    llm_kv_free(s->kv);
    llm_fwd_free(s->fwd);
    llm_drafter_free(s->drafter);
    free(s);
}
