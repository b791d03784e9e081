/*
 * slot.h - the records of the shared arena that outlive a leader.
 *
 * Everything a generation needs is here: the tokens, the sampler's settings, the page table, and
 * how far it has come. The leader keeps only what can be derived from these records (run/kv.c,
 * run/sched.c), so a leader may be killed between any two instructions: the next one reads the
 * records and redoes the step that was not finished. Redoing writes the same values to the same
 * places, because a step is a pure function of the record.
 *
 * Phases of a slot. The state is one word: phase, a cancel bit set by the worker that gives the job
 * up, and the owner, so that claiming a slot and signing it are one instruction (FREE is 0, without
 * an owner):
 *
 *     FREE -> CLAIMED   worker, compare-and-swap
 *     CLAIMED -> QUEUED worker, release store: publishes the job
 *     QUEUED -> RUNNING leader
 *     RUNNING -> QUEUED leader, under memory pressure: the pages are gone, the tokens stay
 *     RUNNING -> DONE   leader, compare-and-swap; fails when CANCEL was set, then the leader frees
 * the slot DONE -> FREE      worker; or the leader, when the worker is dead
 *
 * One store makes a step visible: `progress`. What it covers (tokens, log-probabilities, keys and
 * values) is written before.
 */
#ifndef LLM_SLOT_H
#define LLM_SLOT_H

#include "grammar.h"
#include "llm.h"
#include "tensor/kern.h"

#include <stdatomic.h>

enum {
    LLM_SLOT_FREE,
    LLM_SLOT_CLAIMED,
    LLM_SLOT_QUEUED,
    LLM_SLOT_RUNNING,
    LLM_SLOT_DONE,
    LLM_SLOT_PHASE = 0xff
};
#define LLM_SLOT_CANCEL 0x100u

static inline uint64_t
llm_slot_owner(uint32_t worker, uint32_t generation)
{
    return (uint64_t) generation << 32 | (worker & 0xffff) << 16;
}

static inline uint32_t
llm_slot_worker(uint64_t state)
{
    return (uint32_t) (state >> 16) & 0xffff;
}

static inline uint32_t
llm_slot_worker_generation(uint64_t state)
{
    return (uint32_t) (state >> 32);
}

/* Alternatives kept for one token: ties may exceed what was asked for. */
#define LLM_TOP_EXTRA 4

typedef struct {
    /* phase, LLM_SLOT_CANCEL, owner: worker record and which life of it */
    _Atomic uint64_t state;
    /* counts the jobs of this slot; a handle with an older number is dead */
    _Atomic uint32_t generation;
    _Atomic uint32_t n_cached;          /* prompt tokens found in the prefix cache */
    uint64_t         ticket;            /* order of arrival, from 1 */

    /*
     * n_tokens in the low half, n_past (tokens whose keys and values are in the pages) in the high
     * half
     */
    _Atomic uint64_t progress;
    /* valid entries of the page table; each was written before this count */
    _Atomic uint32_t n_pages;
    _Atomic uint32_t finish;            /* llm_finish_t; written before DONE */
    _Atomic uint64_t queued_ns, started_ns, first_ns, last_ns;

    /*
     * Number + 1 of the place (llm_place_t) with the grammar of the output, 0: none. While a worker
     * still fills the record it may name a place that it is about to check.
     */
    _Atomic uint32_t place;
    uint64_t         grammar_id[2];

    uint32_t         n_prompt, max_new, n_top, n_bias;
    bool             prompt_logprobs, top_raw;
    llm_pooling_t    embed;
    llm_sampling_t   sampling;          /* its bias pointer is unused: see bias below */
    llm_bias_t       bias[LLM_MAX_BIAS];
} llm_slot_t;

static inline uint64_t
llm_progress(uint32_t n_tokens, uint32_t n_past)
{
    return n_tokens | (uint64_t) n_past << 32;
}

/* Moves the slot from one phase to another unless it was cancelled; keeps the owner. */
static inline bool
llm_slot_move(llm_slot_t *slot, uint32_t from, uint32_t to)
{
    uint64_t s = atomic_load_explicit(&slot->state, memory_order_acquire);
    while ((s & LLM_SLOT_PHASE) == from && (s & LLM_SLOT_CANCEL) == 0) {
        if (atomic_compare_exchange_weak_explicit(&slot->state, &s,
                                                  (s & ~(uint64_t) LLM_SLOT_PHASE) | to,
                                                  memory_order_acq_rel, memory_order_acquire)) {
            return true;
        }
    }
    return false;
}

/* Back to the free ones; the new generation makes handles of the old job dead. */
static inline void
llm_slot_free(llm_slot_t *slot)
{
    atomic_fetch_add_explicit(&slot->generation, 1, memory_order_relaxed);
    atomic_store_explicit(&slot->state, 0, memory_order_release);
}

/* What is known of one KV page; hash 0: its content is not in the prefix cache. */
typedef struct {
    _Atomic uint64_t hash;              /* of (parent, tokens); written last */
    uint64_t         parent;            /* hash of the page before, or the seed of the sequence */
    int32_t          tokens[LLM_KV_PAGE];
    /* clock of the last use: order of eviction after a takeover */
    _Atomic uint64_t used;
    /* the draft model's keys and values are there, too; when that is wrong, drafts are bad */
    _Atomic uint32_t drafted;
} llm_page_t;

/*
 * A place for one compiled grammar, which jobs share. Nobody counts its users: they are the slots
 * that name it (share/place.c). Written by workers, read by the leader for slots that are queued or
 * running.
 */
typedef struct {
    _Atomic uint64_t state;             /* LLM_PLACE_*, while it is filled with the owner */
    _Atomic uint64_t id[2];             /* of the grammar */
    _Atomic uint32_t bytes;
} llm_place_t;

enum { LLM_PLACE_FREE, LLM_PLACE_FILLING, LLM_PLACE_READY };

/* The shared state as the scheduler sees it; pointers into the arena, valid in every process. */
typedef struct {
    uint32_t    n_slots, n_pages, n_ctx, top_stride, n_table;
    uint32_t    n_embd;                 /* width of an embedding */
    uint8_t    *slots;                  /* n_slots records, slot_bytes apart */
    size_t      slot_bytes;
    llm_page_t *pages;
    uint8_t    *kv;                     /* n_pages pages */
    /* of a page; the draft model's part begins at draft_off, behind the model's */
    size_t      page_bytes, draft_off;
    /* random: nobody can construct a collision of prefix hashes */
    uint64_t    hash_key[2];

    uint32_t     n_places;
    llm_place_t *places;
    uint8_t     *blocks;                /* n_places grammars, LLM_GRAMMAR_MAX_BYTES apart */
    /* outside the arena, but made before the fork as well */
    const llm_gvocab_t *gvocab;
} llm_shared_t;

/*
 * Arrays behind a slot record, each n_ctx long (table: n_table). tokens[i], logprob[i], raw[i]
 * belong to position i.
 */
static inline llm_slot_t *
llm_slot(const llm_shared_t *s, uint32_t i)
{
    return (llm_slot_t *) (s->slots + (size_t) i * s->slot_bytes);
}

static inline uint32_t
llm_slot_index(const llm_shared_t *s, const llm_slot_t *sl)
{
    return (uint32_t) ((size_t) ((const uint8_t *) sl - s->slots) / s->slot_bytes);
}

static inline llm_grammar_t *
llm_place_block(const llm_shared_t *s, uint32_t i)
{
    return (llm_grammar_t *) (s->blocks + (size_t) i * LLM_GRAMMAR_MAX_BYTES);
}

#define LLM_SLOT_HEAD ((sizeof(llm_slot_t) + 63) & ~(size_t) 63)

static inline int32_t *
llm_slot_tokens(llm_slot_t *sl)
{
    return (int32_t *) ((uint8_t *) sl + LLM_SLOT_HEAD);
}

static inline float *
llm_slot_logprob(const llm_shared_t *s, llm_slot_t *sl)
{
    return (float *) (llm_slot_tokens(sl) + s->n_ctx);
}

static inline float *
llm_slot_raw(const llm_shared_t *s, llm_slot_t *sl)
{
    return llm_slot_logprob(s, sl) + s->n_ctx;
}

static inline uint32_t *
llm_slot_n_top(const llm_shared_t *s, llm_slot_t *sl)
{
    return (uint32_t *) (llm_slot_raw(s, sl) + s->n_ctx);
}

static inline uint32_t *
llm_slot_table(const llm_shared_t *s, llm_slot_t *sl)
{
    return llm_slot_n_top(s, sl) + s->n_ctx;
}

static inline llm_top_t *
llm_slot_top(const llm_shared_t *s, llm_slot_t *sl, uint32_t pos)
{
    return (llm_top_t *) (llm_slot_table(s, sl) + s->n_table) + (size_t) pos * s->top_stride;
}

/* Sums of an embedding while it is made, then the embedding as floats behind them. */
static inline size_t
llm_slot_embed_bytes(uint32_t n_embd)
{
    return (n_embd * (sizeof(double) + sizeof(float)) + 63) & ~(size_t) 63;
}

static inline double *
llm_slot_sums(const llm_shared_t *s, llm_slot_t *sl)
{
    return (double *) ((uint8_t *) sl + s->slot_bytes - llm_slot_embed_bytes(s->n_embd));
}

static inline float *
llm_slot_embedding(const llm_shared_t *s, llm_slot_t *sl)
{
    return (float *) (llm_slot_sums(s, sl) + s->n_embd);
}

static inline size_t
llm_slot_bytes(uint32_t n_ctx, uint32_t n_table, uint32_t top_stride, uint32_t n_embd)
{
    size_t n = LLM_SLOT_HEAD
               + (size_t) n_ctx * (sizeof(int32_t) + 2 * sizeof(float) + sizeof(uint32_t))
               + (size_t) n_table * sizeof(uint32_t)
               + (size_t) n_ctx * top_stride * sizeof(llm_top_t);
    n = ((n + 63) & ~(size_t) 63) + llm_slot_embed_bytes(n_embd);
    return (n + 4095) & ~(size_t) 4095;     /* a short job touches few pages of 4096 bytes */
}

#endif
