/*
 * constrain.c - states of constrained outputs and their masks (constrain.h).
 *
 * Every compute thread has a mask cache of its own, so that a mask that is new is computed beside
 * the sampling of other rows and no thread waits for another's.
 */
#include "constrain.h"

#include <stdlib.h>
#include <string.h>

#define CACHE_ALL  ((size_t) 32 << 20)  /* mask caches of all threads together */
#define CACHE_LEAST ((size_t) 2 << 20)  /* and of one */
#define LOOK_BACK   64u                 /* tokens of the output that show its style */

typedef struct {
    llm_gmask_t *mask;
    uint64_t    *bits;          /* [n_words] */
} worker_t;

typedef struct { uint64_t id[2]; bool good; } checked_t;

struct llm_constrain {
    const llm_shared_t  *sh;
    llm_grammar_state_t *state;         /* [n_slots] */
    checked_t           *checked;       /* [n_places]: what was found at the last look */
    worker_t            *worker;        /* [n_threads] */
    uint32_t             n_threads, n_words;
};

llm_code_t
llm_constrain_new(llm_constrain_t **out, const llm_shared_t *shared, uint32_t n_threads,
                  llm_err_t *err)
{
    size_t cache = CACHE_ALL / n_threads > CACHE_LEAST ? CACHE_ALL / n_threads : CACHE_LEAST;
    llm_constrain_t *c = calloc(1, sizeof(*c));
    llm_code_t rc = LLM_OK;

    *out = NULL;
    if (c != NULL) {
        c->sh = shared;
        c->n_threads = n_threads;
        c->n_words = (llm_gvocab_n(shared->gvocab) + 63) / 64;
        c->state = calloc(shared->n_slots, sizeof(*c->state));
        c->checked = calloc(shared->n_places, sizeof(*c->checked));
        c->worker = calloc(n_threads, sizeof(*c->worker));
    }
    if (c == NULL || c->state == NULL || c->checked == NULL || c->worker == NULL) {
        rc = llm_fail(err, LLM_E_NOMEM, "states of %u constrained outputs: out of memory",
                      shared->n_slots);
    }
    for (uint32_t i = 0; rc == LLM_OK && i < n_threads; i++) {
        rc = llm_gmask_new(&c->worker[i].mask, shared->gvocab, cache, err);
        c->worker[i].bits = malloc(c->n_words * sizeof(uint64_t));
        if (rc == LLM_OK && c->worker[i].bits == NULL) {
            rc = llm_fail(err, LLM_E_NOMEM, "mask of %u words: out of memory", c->n_words);
        }
    }
    if (rc != LLM_OK) {
        llm_constrain_free(c);
        return rc;
    }
    *out = c;
    return LLM_OK;
}

void
llm_constrain_free(llm_constrain_t *c)
{
    if (c == NULL) {
        return;
    }
    for (uint32_t i = 0; c->worker != NULL && i < c->n_threads; i++) {
        llm_gmask_free(c->worker[i].mask);
        free(c->worker[i].bits);
    }
    free(c->worker);
    free(c->checked);
    free(c->state);
    free(c);
}

static uint32_t
place_of(const llm_slot_t *slot)
{
    return atomic_load_explicit(&slot->place, memory_order_relaxed) - 1;
}

static const llm_grammar_t *
grammar_of(const llm_constrain_t *c, const llm_slot_t *slot)
{
    return llm_place_block(c->sh, place_of(slot));
}

static llm_grammar_state_t *
state_of(const llm_constrain_t *c, const llm_slot_t *slot)
{
    return &c->state[llm_slot_index(c->sh, slot)];
}

/* Whether the slot's place holds a whole grammar, the one that was submitted. */
static bool
check(llm_constrain_t *c, const llm_slot_t *slot)
{
    uint32_t at = place_of(slot);
    if (at >= c->sh->n_places) {
        return false;
    }
    checked_t *seen = &c->checked[at];
    if (memcmp(seen->id, slot->grammar_id, sizeof(seen->id)) != 0) {
        const llm_grammar_t *g = llm_place_block(c->sh, at);
        uint32_t bytes = atomic_load_explicit(&c->sh->places[at].bytes, memory_order_relaxed);
        uint64_t id[2];
        seen->good = bytes <= LLM_GRAMMAR_MAX_BYTES && llm_grammar_check(g, bytes);
        if (seen->good) {
            llm_grammar_id(g, id);
            seen->good = memcmp(id, slot->grammar_id, sizeof(id)) == 0;
        }
        memcpy(seen->id, slot->grammar_id, sizeof(seen->id));
    }
    return seen->good;
}

bool
llm_constrain_start(llm_constrain_t *c, llm_slot_t *slot, const int32_t *tokens, uint32_t n)
{
    if (!check(c, slot)) {
        return false;
    }
    llm_grammar_start(grammar_of(c, slot), state_of(c, slot));
    for (uint32_t i = 0; i < n; i++) {
        if (!llm_constrain_take(c, slot, tokens[i])) {
            return false;
        }
    }
    return true;
}

bool
llm_constrain_take(llm_constrain_t *c, llm_slot_t *slot, int32_t id)
{
    return llm_grammar_token(c->sh->gvocab, grammar_of(c, slot), state_of(c, slot), id);
}

bool
llm_constrain_finished(const llm_constrain_t *c, const llm_slot_t *slot)
{
    return llm_grammar_finished(grammar_of(c, slot), state_of(c, slot));
}

uint32_t
llm_constrain_fits(const llm_constrain_t *c, llm_slot_t *slot, const int32_t *tokens, uint32_t n)
{
    llm_grammar_state_t s = *state_of(c, slot);
    uint32_t i = 0;
    while (i < n && llm_grammar_token(c->sh->gvocab, grammar_of(c, slot), &s, tokens[i])) {
        i++;
    }
    return i;
}

/*
 * Behind which bytes the output puts spaces; where it does not show it, as most models write JSON.
 * Returns its last byte, 0: none.
 */
static uint8_t
look_back(const llm_constrain_t *c, const int32_t *out, uint32_t n_out, bool spaced[256])
{
    uint8_t last = 0;
    memset(spaced, 0, 256 * sizeof(*spaced));
    spaced[':'] = spaced[','] = true;
    for (uint32_t i = n_out > LOOK_BACK ? n_out - LOOK_BACK : 0; i < n_out; i++) {
        size_t len = 0;
        const uint8_t *s = llm_gvocab_bytes(c->sh->gvocab, out[i], &len);
        for (size_t k = 0; s != NULL && k < len; k++) {
            spaced[last] = s[k] == ' ';
            last = s[k];
        }
    }
    return last;
}

uint32_t
llm_constrain_drafts(const llm_constrain_t *c, llm_slot_t *slot, const int32_t *out,
                     uint32_t n_out, int32_t *drafts, uint32_t n)
{
    uint8_t text[LLM_GVOCAB_MAX_TOKEN];
    bool spaced[256];
    uint8_t before = look_back(c, out, n_out, spaced);
    size_t len = llm_grammar_forced(grammar_of(c, slot), state_of(c, slot), spaced, before, text,
                                    sizeof(text));
    uint32_t i = 0;
    /* a last space begins the token of what follows */
    len -= len > 0 && text[len - 1] == ' ';
    for (size_t at = 0, step; i < n && at < len; at += step) {
        int32_t id = llm_gvocab_longest(c->sh->gvocab, text + at, len - at, &step);
        if (id < 0) {
            break;
        }
        drafts[i++] = id;
    }
    return llm_constrain_fits(c, slot, drafts, i);
}

/* Takes the end tokens out unless they are all there is. */
static void
without_eos(const llm_constrain_t *c, uint64_t *bits, uint32_t n_set)
{
    const int32_t *eos;
    uint32_t n = llm_gvocab_eos(c->sh->gvocab, &eos), there = 0;
    for (uint32_t i = 0; i < n; i++) {
        there += bits[eos[i] / 64] >> (eos[i] % 64) & 1;
    }
    for (uint32_t i = 0; i < n && there < n_set; i++) {
        bits[eos[i] / 64] &= ~((uint64_t) 1 << (eos[i] % 64));
    }
}

const uint64_t *
llm_constrain_mask(llm_constrain_t *c, const llm_slot_t *slot, uint32_t thread,
                   const int32_t *tokens, uint32_t n, bool ban_eos, uint32_t *n_words)
{
    const llm_grammar_t *g = grammar_of(c, slot);
    worker_t *w = &c->worker[thread];
    llm_grammar_state_t ahead, *s = state_of(c, slot);

    if (n > 0) {
        ahead = *s;
        s = &ahead;
        for (uint32_t i = 0; i < n; i++) {
            llm_grammar_token(c->sh->gvocab, g, s, tokens[i]);
        }
    }
    uint32_t n_set = llm_grammar_mask(w->mask, g, s, w->bits);
    if (ban_eos) {
        without_eos(c, w->bits, n_set);
    }
    *n_words = c->n_words;
    return n_set > 0 ? w->bits : NULL;
}
