/*
 * grammar_vocab.c - the trie of a tokenizer's tokens, and taking tokens.
 *
 * Special tokens have no text inside a constrained output, unless the grammar asks for them: they
 * are in the trie with a byte before their text that no other text has. End tokens are kept in a
 * list of their own.
 */
#include "run/grammar_impl.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    const uint8_t *s;
    uint32_t       len;
    int32_t        id;
} word_t;

static int
by_bytes(const void *a, const void *b)
{
    const word_t *x = a, *y = b;
    int c = memcmp(x->s, y->s, x->len < y->len ? x->len : y->len);
    if (c != 0) {
        return c;
    }
    return x->len != y->len ? (x->len > y->len) - (x->len < y->len)
                            : (x->id > y->id) - (x->id < y->id);
}

static uint32_t
common(const word_t *x, const word_t *y)
{
    uint32_t n = 0;
    while (n < x->len && n < y->len && x->s[n] == y->s[n]) {
        n++;
    }
    return n;
}

unsigned
llm_gvocab_group(uint8_t c)
{
    if (c >= 0x80) {
        return c < 0xc0 ? 58 : c < 0xc2 ? 59 : c < 0xe0 ? 60 : c < 0xf0 ? 61 : c < 0xf5 ? 62 : 63;
    }
    if (c >= '0' && c <= '9') {
        return 0;
    }
    unsigned l = c | 0x20u;
    if (l >= 'a' && l <= 'z') {
        return 1 + 2 * (l > 'f') + (c == l);
    }
    if (c < 0x20) {
        return c == '\t' ? 6 : c == '\n' ? 7 : c == '\r' ? 8 : 5;
    }
    if (c == 0x7f) {
        return 9;
    }
    /* space and punctuation: each on its own */
    return 10
           + (c < '0'   ? c - 0x20u
              : c < 'A' ? c - 0x3au + 16
              : c < 'a' ? c - 0x5bu + 23
                        : c - 0x7bu + 29);
}

/* What lies below each node, from the last one to the first. */
static void
sum_up(llm_gvocab_t *v)
{
    for (uint32_t i = 0; i < v->n_nodes; i++) {
        v->below[i] = (uint64_t) 1 << llm_gvocab_group(v->byte[i]);
        v->tail[i] = 1;
    }
    for (uint32_t i = v->n_nodes; i-- > 0;) {
        for (uint32_t k = i + 1; k < v->end[i]; k = v->end[k]) {
            v->below[i] |= v->below[k];
            v->tail[i] = v->tail[k] + 1 > v->tail[i] ? (uint8_t) (v->tail[k] + 1) : v->tail[i];
        }
    }
}

/* Nodes of the sorted words; with v->byte == NULL they are only counted. */
static void
lay_out(llm_gvocab_t *v, const word_t *w, uint32_t n)
{
    uint32_t open[LLM_GVOCAB_MAX_TOKEN + 1], node = 0, depth = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t keep = i > 0 ? common(&w[i - 1], &w[i]) : 0;
        for (; depth > keep; depth--) {
            if (v->byte != NULL) {
                v->end[open[depth]] = node;
            }
        }
        for (; depth < w[i].len; node++) {
            open[++depth] = node;
            if (v->byte != NULL) {
                v->byte[node] = w[i].s[depth - 1];
                v->depth[node] = (uint8_t) depth;
                v->tok[node] = i;
            }
        }
        if (v->byte != NULL) {
            v->id[i] = w[i].id;
        }
    }
    for (; depth > 0; depth--) {
        if (v->byte != NULL) {
            v->end[open[depth]] = node;
        }
    }
    if (v->byte != NULL) {
        v->tok[node] = n;
    }
    v->n_nodes = node;
}

/*
 * A byte below 80 needs a token of its own, so that every text of such bytes can be written. The
 * names of special tokens write no bytes: only their mark is one.
 */
static void
find_alphabet(llm_gvocab_t *v, const word_t *w, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t len = w[i].s[0] == LLM_GVOCAB_SPECIAL ? 1 : w[i].len;
        for (uint32_t k = 0; k < len; k++) {
            if (w[i].len == 1 || w[i].s[k] >= 0x80) {
                llm_gbytes_add(&v->alphabet, w[i].s[k], w[i].s[k]);
            }
        }
    }
}

static bool
allocate(llm_gvocab_t *v)
{
    size_t n = v->n_nodes + 1;
    v->byte = malloc(n);
    v->depth = malloc(n);
    v->tail = malloc(n);
    v->below = malloc(n * sizeof(uint64_t));
    v->end = malloc(n * sizeof(uint32_t));
    v->tok = malloc(n * sizeof(uint32_t));
    v->id = malloc((v->n_ids + 1) * sizeof(int32_t));
    return v->byte != NULL && v->depth != NULL && v->tail != NULL && v->below != NULL
           && v->end != NULL && v->tok != NULL && v->id != NULL;
}

/*
 * The token as it is in the trie, with len > 0; false: it is not in it, as those of the byte that
 * marks special ones, which no character has. Special ones are copied to buf, of
 * LLM_GVOCAB_MAX_TOKEN bytes.
 */
static bool
word_of(const llm_tok_t *tok, int32_t id, uint8_t *buf, word_t *w)
{
    size_t len;
    const uint8_t *s = llm_tok_raw(tok, id, &len);
    if (llm_tok_is_special(tok, id)) {
        const char *name = llm_tok_name(tok, id, &len);
        if (name == NULL || len == 0 || len >= LLM_GVOCAB_MAX_TOKEN) {
            return false;
        }
        buf[0] = LLM_GVOCAB_SPECIAL;
        memcpy(buf + 1, name, len);
        s = buf;
        len++;
    } else if (s != NULL && memchr(s, LLM_GVOCAB_SPECIAL, len) != NULL) {
        return false;
    }
    *w = (word_t) { s, (uint32_t) len, id };
    return s != NULL && len > 0 && len <= LLM_GVOCAB_MAX_TOKEN;
}

/* Lists the words and end tokens; the text of special tokens goes to v->special. */
static bool
collect(llm_gvocab_t *v, word_t *w)
{
    uint8_t buf[LLM_GVOCAB_MAX_TOKEN];
    size_t n_special = 0, at = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < v->n_vocab; i++) {
            word_t word;
            if (llm_tok_is_eos(v->t, (int32_t) i)) {
                if (pass == 1) {
                    v->eos[v->n_eos++] = (int32_t) i;
                }
            } else if (!word_of(v->t, (int32_t) i, buf, &word)) {
                continue;
            } else if (pass == 0) {
                n_special += word.s == buf ? word.len : 0;
            } else {
                if (word.s == buf) {
                    word.s = memcpy(v->special + at, buf, word.len);
                    at += word.len;
                }
                w[v->n_ids++] = word;
            }
        }
        if (pass == 0 && (v->special = malloc(n_special + 1)) == NULL) {
            return false;
        }
    }
    return true;
}

llm_code_t
llm_gvocab_new(llm_gvocab_t **out, const llm_tok_t *tok, llm_err_t *err)
{
    uint32_t n_vocab = llm_tok_n_vocab(tok);
    llm_gvocab_t *v = calloc(1, sizeof(*v));
    word_t *w = malloc((n_vocab + 1) * sizeof(*w));
    bool good =
        v != NULL && w != NULL && (v->eos = malloc((n_vocab + 1) * sizeof(int32_t))) != NULL;

    *out = NULL;
    if (good) {
        v->t = tok;
        v->n_vocab = n_vocab;
        good = collect(v, w);
    }
    if (good) {
        qsort(w, v->n_ids, sizeof(*w), by_bytes);
        lay_out(v, w, v->n_ids);
        good = allocate(v);
    }
    if (good) {
        lay_out(v, w, v->n_ids);
        find_alphabet(v, w, v->n_ids);
        sum_up(v);
        int32_t *eos = realloc(v->eos, (v->n_eos + 1) * sizeof(*eos));
        v->eos = eos != NULL ? eos : v->eos;
    }
    free(w);
    if (!good) {
        llm_gvocab_free(v);
        return llm_fail(err, LLM_E_NOMEM, "no memory for the token trie of %u tokens", n_vocab);
    }
    *out = v;
    return LLM_OK;
}

void
llm_gvocab_free(llm_gvocab_t *v)
{
    if (v != NULL) {
        free(v->byte);
        free(v->depth);
        free(v->tail);
        free(v->below);
        free(v->end);
        free(v->tok);
        free(v->id);
        free(v->eos);
        free(v->special);
        free(v);
    }
}

uint32_t
llm_gvocab_n(const llm_gvocab_t *v)
{
    return v->n_vocab;
}

uint32_t
llm_gvocab_eos(const llm_gvocab_t *v, const int32_t **ids)
{
    *ids = v->eos;
    return v->n_eos;
}

void
llm_gvocab_alphabet(const llm_gvocab_t *v, llm_gbytes_t *set)
{
    *set = v->alphabet;
}

size_t
llm_gvocab_special(const llm_gvocab_t *v, const void *s, size_t n)
{
    const uint8_t *c = s;
    uint32_t from = 0, to = v->n_nodes;
    size_t longest = 0;
    /* depth 0: the byte in front of special tokens */
    for (size_t depth = 0; depth <= n; depth++) {
        uint8_t want = depth == 0 ? LLM_GVOCAB_SPECIAL : c[depth - 1];
        while (from < to && v->byte[from] != want) {
            from = v->end[from];
        }
        if (from == to) {
            break;
        }
        if (v->tok[from + 1] > v->tok[from]) {
            longest = depth;
        }
        to = v->end[from];
        from++;
    }
    return longest;
}

int32_t
llm_gvocab_longest(const llm_gvocab_t *v, const void *bytes, size_t n, size_t *len)
{
    const uint8_t *c = bytes;
    uint32_t from = 0, to = v->n_nodes;
    int32_t id = -1;
    for (size_t depth = 0; depth < n; depth++) {
        while (from < to && v->byte[from] != c[depth]) {
            from = v->end[from];
        }
        if (from == to) {
            break;
        }
        if (v->tok[from + 1] > v->tok[from]) {
            id = v->id[v->tok[from]];
            *len = depth + 1;
        }
        to = v->end[from];
        from++;
    }
    return id;
}

const uint8_t *
llm_gvocab_bytes(const llm_gvocab_t *v, int32_t id, size_t *len)
{
    return llm_tok_is_special(v->t, id) ? NULL : llm_tok_raw(v->t, id, len);
}

bool
llm_grammar_token(const llm_gvocab_t *v, const llm_grammar_t *g, llm_grammar_state_t *s, int32_t id)
{
    uint8_t buf[LLM_GVOCAB_MAX_TOKEN];
    word_t w;
    if (llm_tok_is_eos(v->t, id)) {
        bool good = llm_grammar_accepts(g, s);
        s->ended |= good;
        return good;
    }
    return word_of(v->t, id, buf, &w) && llm_grammar_advance(g, s, w.s, w.len);
}

/* Four floats as bits; all ones where bit k of the index is set. */
typedef uint32_t lanes_t __attribute__((vector_size(16)));
#define LANES(i) { -((i) & 1u), -((i) >> 1 & 1u), -((i) >> 2 & 1u), -((i) >> 3 & 1u) }
static const lanes_t keep_lanes[16] = {
    LANES(0), LANES(1), LANES(2),  LANES(3),  LANES(4),  LANES(5),  LANES(6),  LANES(7),
    LANES(8), LANES(9), LANES(10), LANES(11), LANES(12), LANES(13), LANES(14), LANES(15),
};

/* Without a branch for each bit: those of a dense mask are as good as random. */
static void
apply_word(uint64_t w, float *logits)
{
    const float banned = -INFINITY;
    uint32_t bits;
    memcpy(&bits, &banned, sizeof(bits));
    for (uint32_t k = 0; k < 64; k += 4) {
        lanes_t keep = keep_lanes[w >> k & 15], x;
        memcpy(&x, logits + k, sizeof(x));
        x = (x & keep) | (bits & ~keep);
        memcpy(logits + k, &x, sizeof(x));
    }
}

void
llm_grammar_apply(const uint64_t *mask, uint32_t n_words, float *logits, uint32_t n)
{
    uint32_t i = 0;
    for (; n - i >= 64; i += 64) {
        uint64_t w = i / 64 < n_words ? mask[i / 64] : 0;
        if (w != UINT64_MAX) {
            apply_word(w, logits + i);
        }
    }
    for (uint64_t w = i < n && i / 64 < n_words ? mask[i / 64] : 0; i < n; i++, w >>= 1) {
        logits[i] = w & 1 ? logits[i] : -INFINITY;
    }
}
