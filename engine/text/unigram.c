/*
 * unigram.c - the most probable segmentation (Viterbi over log-probabilities).
 *
 * Sums are made in double precision in the order of the text and ties keep the earlier candidate,
 * as in `tokenizers`: both decide which of two equally likely segmentations a model was trained
 * with.
 */
#include "text/tok_impl.h"

#include <stdlib.h>

typedef struct {
    double   score;
    uint32_t start;         /* UINT32_MAX: not reached */
    int32_t  id;
} node_t;

static bool
reserve(llm_enc_t *e, size_t n)
{
    if (n > e->cap_path) {
        free(e->path);
        size_t cap = n + n / 2;
        e->path = malloc(cap * sizeof(node_t));
        e->cap_path = e->path != NULL ? cap : 0;
    }
    return e->path != NULL;
}

static inline void
offer(node_t *target, double score, size_t start, int32_t id)
{
    if (target->start == UINT32_MAX || score > target->score) {
        *target = (node_t) { score, (uint32_t) start, id };
    }
}

/* The unknown text [from, to) of e->s. */
static llm_code_t
emit_unknown(llm_enc_t *e, size_t from, size_t to)
{
    const llm_tok_t *t = e->t;
    bool bytes = t->byte_fallback;
    for (size_t i = from; bytes && i < to; i++) {
        bytes = t->byte_id[e->s[i]] >= 0;
    }
    if (!bytes) {
        return llm_enc_emit(e, t->unk_id, from, to);
    }
    llm_code_t rc = LLM_OK;
    for (size_t i = from; rc == LLM_OK && i < to; i++) {
        rc = llm_enc_emit(e, t->byte_id[e->s[i]], i, i + 1);
    }
    return rc;
}

/* Walks the best path back, turning it around in place: node i of the path ends up in slot i. */
static llm_code_t
emit_path(llm_enc_t *e, node_t *best, size_t from, size_t n)
{
    size_t count = 0;
    for (size_t end = n; end > 0; end = best[end].start) {
        count++;
    }
    /* store the end of each token where its start is, so that the path can be read forwards */
    for (size_t end = n; end > 0;) {
        size_t start = best[end].start;
        best[start].score = (double) end;
        end = start;
    }
    llm_code_t rc = LLM_OK;
    for (size_t i = 0, at = 0; rc == LLM_OK && i < count;) {
        size_t end = (size_t) best[at].score, start = at;
        int32_t id = best[end].id;
        i++;
        if (id != e->t->unk_id) {
            rc = llm_enc_emit(e, id, from + start, from + end);
            at = end;
            continue;
        }
        while (i < count
               && best[(size_t) best[end].score].id == id) { /* unknown neighbours are one token */
            end = (size_t) best[end].score;
            i++;
        }
        rc = emit_unknown(e, from + start, from + end);
        at = end;
    }
    return rc;
}

llm_code_t
llm_unigram_run(llm_enc_t *e, size_t from, size_t to)
{
    const llm_tok_t *t = e->t;
    size_t n = to - from;
    if (!reserve(e, n + 1)) {
        return llm_enc_nomem(e);
    }
    node_t *best = e->path;
    const uint8_t *s = e->s + from;
    for (size_t i = 0; i <= n; i++) {
        best[i] = (node_t) { 0, UINT32_MAX, -1 };
    }
    for (size_t i = 0; i < n;) {
        double till = best[i].score;
        size_t len = llm_utf8_len(s[i]);
        bool single = false;
        uint32_t node = 0;
        for (size_t j = i; j < n && (node = llm_trie_step(&t->trie, node, s[j])) != 0; j++) {
            int32_t id = t->trie.id[node];
            if (id < 0
                || ((t->flags[id] & LLM_TF_SPECIAL) && !(e->flags & LLM_TOK_PARSE_SPECIAL))) {
                continue;
            }
            offer(&best[j + 1], t->score[id] + till, i, id);
            single |= j + 1 - i == len;
        }
        if (!single) {
            if (t->unk_id < 0) {
                unsigned l;
                return llm_fail(e->err, LLM_E_UNSUPPORTED, "the vocabulary has no token for U+%04X",
                                llm_utf8_get(s + i, &l));
            }
            offer(&best[i + len], t->unk_score + till, i, t->unk_id);
        }
        i += len;
    }
    return emit_path(e, best, from, n);
}
