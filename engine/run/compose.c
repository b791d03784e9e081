/*
 * compose.c - which tokens make a step.
 *
 * Sequences are visited oldest first. A prompt takes what the prefix cache has of it piece by
 * piece, when its tokens are wanted; and it waits while an older sequence computes a page that it
 * shares: of prompts with one beginning that arrive together, one computes it for all.
 */
#include "sched_impl.h"

#include <string.h>

#define STREAM_NS (60 * 1000000ull)     /* prompt time in a step while streams run */
#define ALONE_NS  (250 * 1000000ull)    /* and while none does: bounds the wait for a cancel */
#define MIN_PIECE 32                    /* smaller pieces waste the tiles of the matrix kernels */
#define PIECE_STEP 8                    /* and odd numbers their register blocks */

static uint32_t
cross_pages(const llm_sched_t *s, const llm_seq_t *q)
{
    return llm_sched_encdec(s) ? (q->slot->n_prompt + LLM_KV_PAGE - 1) / LLM_KV_PAGE : 0;
}

/* Tokens that the sequence's pages have room for. */
uint32_t
llm_seq_capacity(const llm_sched_t *s, const llm_seq_t *q)
{
    uint32_t n = atomic_load_explicit(&q->slot->n_pages, memory_order_acquire),
             nx = cross_pages(s, q);
    if (nx == 0) {
        return n * LLM_KV_PAGE;
    }
    return n < nx ? 0 : q->slot->n_prompt + (n - nx) * LLM_KV_PAGE;
}

/* Gives the sequence's pages back; it starts again from its tokens when there is room. */
static void
seq_pause(llm_sched_t *s, uint32_t i)
{
    llm_slot_t *slot = s->seqs[i].slot;

    llm_sched_count(&s->stats->n_preemptions, 1);
    atomic_store_explicit(&slot->progress, llm_progress(s->seqs[i].n_tokens, 0),
                          memory_order_release);
    llm_kv_release(s->kv, slot);
    if (!llm_slot_move(slot, LLM_SLOT_RUNNING, LLM_SLOT_QUEUED)) {
        llm_slot_free(slot);
    }
    llm_seq_drop(s, i);
}

/* ----------------------------------------------------------- shared prefixes */

/*
 * Whether the sequence stands at the beginning of a page that others may have: one whose keys and
 * values are all wanted before the last token, whose logits it needs.
 */
static bool
at_page(const llm_sched_t *s, const llm_seq_t *q)
{
    return !llm_sched_encdec(s) && q->n_past == q->n_chained
           && q->n_tokens - q->n_past > LLM_KV_PAGE
           && llm_seq_capacity(s, q) == q->n_past
           && (!q->no_share || q->n_tokens > q->slot->n_prompt);
}

/* Takes the pages that the prefix cache has of what the sequence still has to compute. */
static void
catch_up(llm_sched_t *s, llm_seq_t *q)
{
    uint32_t before = q->n_past;

    if (!at_page(s, q)) {
        return;
    }
    q->n_past = q->n_chained = llm_kv_match(s->kv, q->slot, llm_slot_tokens(q->slot), before,
                                            q->n_tokens - 1, &q->chain);
    if (q->n_past == before) {
        return;
    }
    if (q->fresh) {
        atomic_fetch_add_explicit(&q->slot->n_cached, q->n_past - before, memory_order_relaxed);
        llm_sched_count(&s->stats->n_cached_tokens, q->n_past - before);
    }
    atomic_store_explicit(&q->slot->progress, llm_progress(q->n_tokens, q->n_past),
                          memory_order_release);
}

/* Whether an older sequence is about to compute the page that comes next for sequence i. */
static bool
waits(const llm_sched_t *s, uint32_t i)
{
    const llm_seq_t *q = &s->seqs[i];
    const int32_t *page = llm_slot_tokens(q->slot) + q->n_chained;

    for (uint32_t k = 0; k < i && at_page(s, q); k++) {
        const llm_seq_t *o = &s->seqs[k];
        if (o->chain == q->chain && o->n_chained == q->n_chained
            && o->n_tokens >= o->n_chained + LLM_KV_PAGE
            && memcmp(llm_slot_tokens(o->slot) + o->n_chained, page, LLM_KV_PAGE * sizeof(*page))
                   == 0)
        {
            return true;
        }
    }
    return false;
}

/* ------------------------------------------------------------------ the step */

/* The youngest sequence behind i that holds pages, i: there is none. */
static uint32_t
youngest_with_pages(const llm_sched_t *s, uint32_t i)
{
    uint32_t k = s->n_seqs - 1;
    while (k > i && atomic_load_explicit(&s->seqs[k].slot->n_pages, memory_order_relaxed) == 0) {
        k--;
    }
    return k;
}

/*
 * Pages for n more tokens of sequence i, pausing younger ones if need be; those are not in the step
 * yet. Returns how many tokens have room.
 */
static uint32_t
make_room(llm_sched_t *s, uint32_t i, uint32_t n)
{
    llm_seq_t *q = &s->seqs[i];
    for (;;) {
        uint32_t capacity = llm_seq_capacity(s, q),
                 room = capacity > q->n_past ? capacity - q->n_past : 0;
        if (room >= n) {
            return n;
        }
        if (llm_kv_grow(s->kv, q->slot)) {
            continue;
        }
        uint32_t victim = youngest_with_pages(s, i);
        if (victim == i) {
            return room;
        }
        seq_pause(s, victim);
    }
}

static uint32_t
least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/*
 * Drafts for a sequence that waits for its next token only; they stand behind its tokens in the
 * record, where nobody sees them. They take no page of their own: what they compute is worth less
 * than what another sequence has in it. Best is what the grammar leaves no choice of, then what can
 * be copied; else the draft model is asked, later and for all at once.
 */
static uint32_t
draft(llm_sched_t *s, llm_seq_t *q, uint32_t max)
{
    llm_slot_t *slot = q->slot;
    int32_t *tokens = llm_slot_tokens(slot);
    uint32_t n_new = q->n_tokens - slot->n_prompt, room = llm_seq_capacity(s, q) - q->n_past - 1;

    /* one token comes without a draft */
    uint32_t most = n_new < slot->max_new ? slot->max_new - n_new - 1 : 0;
    most = least(least(most, room), max);
    if (n_new == 0 || most == 0) {
        return 0;
    }
    uint32_t copies = least(most, s->speculate), n = 0;
    if (llm_constrained(slot) && llm_spec_wanted(&q->spelt, copies) > 0) {
        q->drafter = LLM_DRAFT_GRAMMAR;
        n = llm_constrain_drafts(s->constrain, slot, tokens + slot->n_prompt, n_new,
                                 tokens + q->n_tokens, copies);
        if (n > 0) {
            return n;
        }
    }
    n = llm_spec_wanted(&q->copied, copies);
    n = n > 0 ? llm_spec_lookup(tokens, q->n_tokens, n) : 0;
    if (n > 0 && llm_constrained(slot)) {
        n = llm_constrain_fits(s->constrain, slot, tokens + q->n_tokens, n);
    }
    q->drafter = n > 0 ? LLM_DRAFT_LOOKUP : LLM_DRAFT_MODEL;
    if (n == 0 && s->drafter != NULL) {
        q->n_wanted = llm_drafter_wanted(s, q, most);
    }
    return n;
}

/* n tokens of the sequence, the last n_drafts of which are drafts. */
static void
batch_add(llm_sched_t *s, uint32_t i, uint32_t n, uint32_t n_drafts)
{
    llm_seq_t *q = &s->seqs[i];
    llm_slot_t *slot = q->slot;
    uint32_t nx = cross_pages(s, q), first = nx > 0 ? slot->n_prompt : 0;
    bool complete = q->n_past + n == llm_seq_target(s, q) + n_drafts;

    if (n == 0) {
        return;
    }
    q->n_step = n;
    q->n_drafts = n_drafts;
    q->n_rows = complete && (slot->max_new > 0 || slot->embed != LLM_EMBED_NONE) ? 1 + n_drafts : 0;
    /* once there is output, what is known of the prompt is published and stays as it is */
    if (nx == 0 && q->no_share && q->n_past < slot->n_prompt && q->n_tokens == slot->n_prompt) {
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

/* Moves the sequences that want embeddings behind the others: their rows become no logits. */
static void
embeddings_last(llm_sched_t *s)
{
    for (uint32_t done = 0, at = 0; done < s->n_batch; done++) {
        llm_fwd_seq_t f = s->batch[at];
        uint32_t i = s->who[at];
        if (s->seqs[i].slot->embed == LLM_EMBED_NONE) {
            at++;
            continue;
        }
        uint32_t behind = s->n_batch - at - 1;
        memmove(&s->batch[at], &s->batch[at + 1], behind * sizeof(f));
        memmove(&s->who[at], &s->who[at + 1], behind * sizeof(i));
        s->batch[s->n_batch - 1] = f;
        s->who[s->n_batch - 1] = i;
    }
}

/* Sequences that wait for their next token only. */
static uint32_t
count_streams(const llm_sched_t *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_seqs; i++) {
        n += llm_seq_target(s, &s->seqs[i]) - s->seqs[i].n_past == 1;
    }
    return n;
}

/* Prompt tokens of this step: as many as its time allows. */
static uint32_t
prompt_budget(const llm_sched_t *s, uint32_t n_streams)
{
    uint32_t budget = LLM_SCHED_PIECE;
    uint64_t target_ns = n_streams > 0 ? STREAM_NS : ALONE_NS;
    if (s->prefill_ns > 0 && budget * s->prefill_ns > (double) target_ns) {
        budget = (uint32_t) ((double) target_ns / s->prefill_ns) / PIECE_STEP * PIECE_STEP;
    }
    return budget < MIN_PIECE ? MIN_PIECE : budget;
}

/*
 * Tokens beyond the budget with which prompts may end: a step of their own would read all weights
 * once more.
 */
static uint32_t
prompt_slack(uint32_t budget)
{
    uint32_t room = LLM_SCHED_PIECE - budget;
    return budget / 4 < room ? budget / 4 : room;
}

/*
 * The whole prompt goes through the encoder when there is room, and time: it cannot be cut, so the
 * first one of a step goes whatever its length, and what exceeds the budget beside it has to wait.
 * Returns its tokens.
 */
static uint32_t
encode(llm_sched_t *s, uint32_t i, uint32_t encoded, uint32_t budget)
{
    llm_seq_t *q = &s->seqs[i];
    uint32_t n = q->slot->n_prompt - q->n_past;
    if (encoded > 0 && encoded + n > budget) {
        return 0;
    }
    q->encode = make_room(s, i, n) == n;
    q->n_step = q->encode ? n : 0;
    return q->n_step;
}

/* Whoever must be paused is younger than who needs the room, and not in the step yet. */
uint32_t
llm_sched_compose(llm_sched_t *s)
{
    uint32_t total = 0, encoded = 0;
    s->n_batch = 0;
    for (uint32_t i = 0; i < s->n_seqs; i++) {
        s->seqs[i].n_step = s->seqs[i].n_drafts = s->seqs[i].n_wanted = 0;
        s->seqs[i].encode = false;
        catch_up(s, &s->seqs[i]);
    }
    uint32_t n_streams = count_streams(s), budget = prompt_budget(s, n_streams);
    uint32_t slack = prompt_slack(budget);
    /* the more streams fill the step, the more a row costs: they share the drafts */
    s->n_streams = n_streams;
    uint32_t n_each = n_streams > 0 ? LLM_SPEC_MAX / n_streams : 0;
    for (uint32_t i = 0; i < s->n_seqs; i++) {
        llm_seq_t *q = &s->seqs[i];
        if (llm_sched_encdec(s) && q->n_past < q->slot->n_prompt) {
            encoded += encode(s, i, encoded, budget);
            continue;
        }
        uint32_t pending = llm_seq_target(s, q) - q->n_past,
                 n = pending == 1 || pending <= budget + slack ? pending : budget;
        if (n > 0 && !waits(s, i)) {
            n = make_room(s, i, n);
            uint32_t n_drafts = pending == 1 && n == 1 && n_each > 0 ? draft(s, q, n_each) : 0;
            batch_add(s, i, n + n_drafts, n_drafts);
            total += n + n_drafts;
            if (pending > 1) {
                slack -= n > budget ? n - budget : 0;
                budget -= n < budget ? n : budget;
            }
        }
    }
    embeddings_last(s);
    return total + encoded;
}
