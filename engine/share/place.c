/*
 * place.c - the grammars of constrained outputs in the arena.
 *
 * A place holds one grammar for all jobs that want it. A worker that submits finds the place that
 * has it, or fills one. There is no count of users that a killed process could leave wrong: in use
 * is what a slot names that is not free. The places with nobody left keep their grammar until
 * another one needs the place.
 *
 * Two workers may be about to name a place and to fill it anew at the same time. Each first says so
 * (stores slot.place; stores FILLING) and then looks at what the other said, all in one total order
 * (seq_cst), so at least one of them sees the other and gives way:
 *
 *     user:    slot.place = i;  state == READY and the id is right?  else it looks elsewhere
 *     filler:  READY -> FILLING;  does a slot name i?  then back to READY, it looks elsewhere
 *
 * So while a queued or running slot names a place, its block does not change. A filler that died
 * leaves FILLING with its name, and another one takes the place over when no slot names it.
 *
 * Blocks are LLM_GRAMMAR_MAX_BYTES apart and untouched until they are used; large ones are given
 * back to the system when they are dropped.
 */
#include "arena.h"

#include <string.h>
#include <sys/mman.h>

#define MAX_BYTES ((uint64_t) 64 << 20)     /* of all grammars in the arena */
#define KEEP_BYTES (256u << 10)             /* a dropped block up to this size keeps its memory */

static bool
in_use(const llm_engine_t *e, uint32_t at)
{
    for (uint32_t i = 0; i < e->sh.n_slots; i++) {
        llm_slot_t *slot = llm_slot(&e->sh, i);
        /* the place first: a slot names it only while it is claimed */
        if (atomic_load(&slot->place) == at + 1 && atomic_load(&slot->state) != LLM_SLOT_FREE) {
            return true;
        }
    }
    return false;
}

/* Names the place if it holds the grammar with this id. */
static bool
name(llm_engine_t *e, llm_slot_t *slot, uint32_t at, const uint64_t id[2])
{
    llm_place_t *p = &e->sh.places[at];
    if (atomic_load_explicit(&p->id[0], memory_order_relaxed) != id[0]) {
        return false;
    }
    atomic_store(&slot->place, at + 1);
    if (atomic_load(&p->state) == LLM_PLACE_READY && atomic_load(&p->id[0]) == id[0]
        && atomic_load(&p->id[1]) == id[1])
    {
        return true;
    }
    atomic_store(&slot->place, 0);
    return false;
}

/* Whether its filler has died. */
static bool
abandoned(llm_engine_t *e, uint64_t state)
{
    return (state & LLM_SLOT_PHASE) == LLM_PLACE_FILLING
           && !llm_worker_alive(e->arena, llm_slot_worker(state),
                                llm_slot_worker_generation(state));
}

/* Takes the place for filling if nobody uses it; its grammar is dropped. */
static bool
seize(llm_engine_t *e, uint32_t at)
{
    llm_place_t *p = &e->sh.places[at];
    uint64_t was = atomic_load(&p->state),
             mine = llm_slot_owner(e->worker, e->worker_generation) | LLM_PLACE_FILLING;

    if (((was & LLM_SLOT_PHASE) == LLM_PLACE_FILLING && !abandoned(e, was)) || in_use(e, at)
        || !atomic_compare_exchange_strong(&p->state, &was, mine))
    {
        return false;
    }
    if (in_use(e, at)) {
        atomic_store(&p->state, was);
        return false;
    }
    if (atomic_load_explicit(&p->bytes, memory_order_relaxed) > KEEP_BYTES) {
        madvise(llm_place_block(&e->sh, at), LLM_GRAMMAR_MAX_BYTES, MADV_REMOVE);
    }
    atomic_store_explicit(&p->bytes, 0, memory_order_relaxed);
    return true;
}

static uint64_t
total_bytes(const llm_engine_t *e)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < e->sh.n_places; i++) {
        sum += atomic_load_explicit(&e->sh.places[i].bytes, memory_order_relaxed);
    }
    return sum;
}

/* Drops what nobody uses until the grammars, with that of place `mine`, are small enough. */
static bool
fits(llm_engine_t *e, uint32_t mine)
{
    for (uint32_t i = 0; i < e->sh.n_places && total_bytes(e) > MAX_BYTES; i++) {
        if (i != mine && atomic_load_explicit(&e->sh.places[i].bytes, memory_order_relaxed) > 0
            && seize(e, i))
        {
            atomic_store(&e->sh.places[i].state, LLM_PLACE_FREE);
        }
    }
    return total_bytes(e) <= MAX_BYTES;
}

/* Puts the grammar into the place, which this worker has seized, and names it. */
static bool
fill(llm_engine_t *e, llm_slot_t *slot, uint32_t at, const llm_constraint_t *c)
{
    llm_place_t *p = &e->sh.places[at];

    atomic_store_explicit(&p->bytes, (uint32_t) c->bytes, memory_order_relaxed);
    if (!fits(e, at)) {
        atomic_store_explicit(&p->bytes, 0, memory_order_relaxed);
        atomic_store(&p->state, LLM_PLACE_FREE);
        return false;
    }
    memcpy(llm_place_block(&e->sh, at), c->grammar, c->bytes);
    atomic_store_explicit(&p->id[0], c->id[0], memory_order_relaxed);
    atomic_store_explicit(&p->id[1], c->id[1], memory_order_relaxed);
    atomic_store(&slot->place, at + 1);
    /* everything above is visible to whoever sees READY */
    atomic_store(&p->state, LLM_PLACE_READY);
    return true;
}

bool
llm_place_use(llm_engine_t *e, llm_slot_t *slot, const llm_constraint_t *c)
{
    /* where the search begins: places of other grammars are spread, and kept for longer */
    uint32_t n = e->sh.n_places, first = (uint32_t) (c->id[0] % n);

    memcpy(slot->grammar_id, c->id, sizeof(slot->grammar_id));
    for (uint32_t i = 0; i < n; i++) {
        if (name(e, slot, (first + i) % n, c->id)) {
            return true;
        }
    }
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < n; i++) {
            uint32_t at = (first + i) % n;
            bool empty = atomic_load(&e->sh.places[at].state) == LLM_PLACE_FREE;
            if (empty == (pass == 0) && seize(e, at)) {
                return fill(e, slot, at, c);
            }
        }
    }
    return false;
}
