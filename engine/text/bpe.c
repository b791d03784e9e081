/*
 * bpe.c - byte-pair merging: lowest rank first, leftmost first.
 *
 * Two ways to the same result: short pieces rescan a small array for the lowest rank; long ones
 * keep a heap, so that a piece of n symbols costs O(n log n). Most pieces need neither: a piece
 * that is a token which merging would rebuild (LLM_TF_WHOLE, computed once when the tokenizer is
 * opened) is looked up as a whole.
 */
#include "text/tok_impl.h"

#include <stdlib.h>
#include <string.h>

#define SHORT 24
#define NONE  UINT32_MAX

/* ---------------------------------------------------------------- symbols */

static bool
push_symbol(llm_enc_t *e, int32_t id, size_t at, size_t len)
{
    if (e->n_sym == e->cap_sym) {
        size_t cap = e->cap_sym * 2 + 256;
        llm_sym_t *sym = realloc(e->sym, cap * sizeof(*sym));
        if (sym == NULL) {
            return false;
        }
        e->sym = sym;
        e->cap_sym = cap;
    }
    e->sym[e->n_sym++] = (llm_sym_t) {
        .id = (uint32_t) id, .at = (uint32_t) at, .len = (uint32_t) len };
    return true;
}

/* The token of one character (or byte) of the model's alphabet, -1: none. */
static int32_t
unit_id(const llm_tok_t *t, const uint8_t *s, size_t len)
{
    if (t->byte_level) {
        return t->byte_id[s[0]];
    }
    if (s[0] < 0x80) {
        return t->ascii_id[s[0]];
    }
    return llm_shash_get(&t->by_key, llm_hash_bytes(t->seed, s, len), &t->key, s, len);
}

/* 1: pushed as byte tokens, 0: some byte has none, -1: no memory */
static int
push_bytes(llm_enc_t *e, size_t at, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (e->t->byte_id[e->s[at + i]] < 0) {
            return 0;
        }
    }
    for (size_t i = 0; i < len; i++) {
        if (!push_symbol(e, e->t->byte_id[e->s[at + i]], at + i, 1)) {
            return -1;
        }
    }
    return 1;
}

/*
 * Splits [from, to) into symbols. What the vocabulary lacks becomes byte tokens or the unknown
 * token, neighbours of which are fused into one when the model says so; without either it is left
 * out (SmolLM2 has no token for some control characters). A byte fallback does not end an unknown
 * run. All as in `tokenizers`.
 */
static llm_code_t
make_symbols(llm_enc_t *e, size_t from, size_t to)
{
    const llm_tok_t *t = e->t;
    size_t unk_at = 0, unk_len = 0;
    bool ok = true;
    e->n_sym = 0;
    for (size_t i = from, len; ok && i < to; i += len) {
        len = t->byte_level ? 1 : llm_utf8_len(e->s[i]);
        int32_t id = unit_id(t, e->s + i, len);
        if (id >= 0) {
            if (unk_len > 0) {
                ok = push_symbol(e, t->unk_id, unk_at, unk_len);
                unk_len = 0;
            }
            ok = ok && push_symbol(e, id, i, len);
            continue;
        }
        if (t->byte_fallback) {
            int r = push_bytes(e, i, len);
            ok = r >= 0;
            if (r != 0) {
                continue;
            }
        }
        if (t->unk_id < 0) {
            continue;
        }
        if (unk_len > 0 && t->fuse_unk) {
            unk_len += len;
            continue;
        }
        if (unk_len > 0) {
            ok = push_symbol(e, t->unk_id, unk_at, unk_len);
        }
        unk_at = i;
        unk_len = len;
    }
    if (ok && unk_len > 0) {
        ok = push_symbol(e, t->unk_id, unk_at, unk_len);
    }
    return ok ? LLM_OK : llm_enc_nomem(e);
}

/* ---------------------------------------------------------------- merging */

static inline void
look_up(const llm_tok_t *t, llm_sym_t *a, const llm_sym_t *b)
{
    const llm_merge_t *m = llm_pairs_get(&t->pairs, a->id, b->id);
    a->rank = m != NULL ? m->rank : NONE;
    a->nid = m != NULL ? m->id : 0;
}

/* Merges e->sym in place by rescanning. */
static void
merge_short(llm_enc_t *e)
{
    const llm_tok_t *t = e->t;
    llm_sym_t *y = e->sym;
    size_t n = e->n_sym;
    for (size_t i = 0; i + 1 < n; i++) {
        look_up(t, &y[i], &y[i + 1]);
    }
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++) {
            if (y[i].rank < y[best].rank) {
                best = i;
            }
        }
        if (y[best].rank == NONE) {
            break;
        }
        y[best].id = y[best].nid;
        y[best].len += y[best + 1].len;
        n--;
        memmove(&y[best + 1], &y[best + 2], (n - best - 1) * sizeof(*y));
        if (best + 1 < n) {
            look_up(t, &y[best], &y[best + 1]);
        }
        if (best > 0) {
            look_up(t, &y[best - 1], &y[best]);
        }
    }
    e->n_sym = n;
}

static void
sift_down(uint64_t *h, size_t n, size_t i)
{
    uint64_t x = h[i];
    for (size_t c; (c = 2 * i + 1) < n; i = c) {
        if (c + 1 < n && h[c + 1] < h[c]) {
            c++;
        }
        if (x <= h[c]) {
            break;
        }
        h[i] = h[c];
    }
    h[i] = x;
}

static void
heap_push(llm_enc_t *e, uint64_t x)
{
    uint64_t *h = e->heap;
    size_t i = e->n_heap++;
    while (i > 0 && x < h[(i - 1) / 2]) {
        h[i] = h[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    h[i] = x;
}

/* A merge takes one symbol away and adds at most two candidates to the n - 1 of the start. */
static bool
heap_reserve(llm_enc_t *e, size_t n)
{
    size_t need = 3 * n;
    if (need > e->cap_heap) {
        free(e->heap);
        e->heap = malloc(need * sizeof(*e->heap));
        e->cap_heap = e->heap != NULL ? need : 0;
    }
    return e->heap != NULL;
}

static void
candidate(llm_enc_t *e, uint32_t i)
{
    llm_sym_t *y = e->sym;
    look_up(e->t, &y[i], &y[y[i].next]);
    if (y[i].rank != NONE) {
        heap_push(e, (uint64_t) y[i].rank << 32 | i);
    }
}

/* Merges e->sym with a heap; an entry is stale when its position has another rank by now. */
static llm_code_t
merge_long(llm_enc_t *e)
{
    llm_sym_t *y = e->sym;
    size_t n = e->n_sym;
    if (!heap_reserve(e, n)) {
        return llm_enc_nomem(e);
    }
    e->n_heap = 0;
    for (size_t i = 0; i < n; i++) {
        y[i].prev = i > 0 ? (uint32_t) (i - 1) : NONE;
        y[i].next = i + 1 < n ? (uint32_t) (i + 1) : NONE;
        y[i].rank = NONE;
        if (i + 1 < n) {
            look_up(e->t, &y[i], &y[i + 1]);
            if (y[i].rank != NONE) {
                e->heap[e->n_heap++] = (uint64_t) y[i].rank << 32 | i;
            }
        }
    }
    for (size_t i = e->n_heap / 2; i-- > 0;) {
        sift_down(e->heap, e->n_heap, i);
    }
    while (e->n_heap > 0) {
        uint64_t top = e->heap[0];
        e->heap[0] = e->heap[--e->n_heap];
        sift_down(e->heap, e->n_heap, 0);
        uint32_t i = (uint32_t) top, rank = (uint32_t) (top >> 32);
        if (y[i].rank != rank) {
            continue;
        }
        uint32_t r = y[i].next, after = y[r].next;
        y[i].id = y[i].nid;
        y[i].len += y[r].len;
        y[i].next = after;
        y[i].rank = NONE;
        y[r].rank = NONE;
        if (after != NONE) {
            y[after].prev = i;
            candidate(e, i);
        }
        if (y[i].prev != NONE) {
            candidate(e, y[i].prev);
        }
    }
    size_t out = 0;
    for (uint32_t i = 0; i != NONE;) {      /* out never passes i */
        uint32_t next = y[i].next;
        y[out++] = y[i];
        i = next;
    }
    e->n_sym = out;
    return LLM_OK;
}

static llm_code_t
merge(llm_enc_t *e, size_t from, size_t to)
{
    llm_code_t rc = make_symbols(e, from, to);
    if (rc != LLM_OK || e->n_sym < 2) {
        return rc;
    }
    if (e->n_sym <= SHORT) {
        merge_short(e);
        return LLM_OK;
    }
    return merge_long(e);
}

/* ------------------------------------------------------------------ pieces */

static llm_code_t
piece(llm_enc_t *e, size_t from, size_t to)
{
    const llm_tok_t *t = e->t;
    const uint8_t *s = e->s + from;
    int32_t id = llm_shash_get(&t->by_key, llm_hash_bytes(t->seed, s, to - from), &t->key, s,
                               to - from);
    if (id >= 0 && (t->flags[id] & LLM_TF_WHOLE)
        && (!(t->flags[id] & LLM_TF_SPECIAL) || (e->flags & LLM_TOK_PARSE_SPECIAL)))
    {
        return llm_enc_emit(e, id, from, to);
    }
    llm_code_t rc = merge(e, from, to);
    for (size_t i = 0; rc == LLM_OK && i < e->n_sym; i++) {
        const llm_sym_t *y = &e->sym[i];
        rc = llm_enc_emit(e, (int32_t) y->id, y->at, (size_t) y->at + y->len);
    }
    return rc;
}

llm_code_t
llm_bpe_run(llm_enc_t *e, size_t from, size_t to)
{
    if (!e->t->split_words) {
        return piece(e, from, to);
    }
    /* words: a run of spaces and what follows it */
    while (from < to) {
        size_t i = from;
        while (i < to && e->s[i] == ' ') {
            i++;
        }
        while (i < to && e->s[i] != ' ') {
            i++;
        }
        llm_code_t rc = piece(e, from, i);
        if (rc != LLM_OK) {
            return rc;
        }
        from = i;
    }
    return LLM_OK;
}

bool
llm_bpe_rebuilds(llm_enc_t *e, int32_t id)
{
    e->s = llm_strs_get(&e->t->key, (uint32_t) id, &e->n);
    return merge(e, 0, e->n) == LLM_OK && e->n_sym == 1 && e->sym[0].id == (uint32_t) id;
}
