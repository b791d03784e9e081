/*
 * encode.c - the pipeline of one text: bad UTF-8, added tokens, normalization, pieces,
 * post-processing, offsets.
 */
#include "text/tok_impl.h"

#include <stdlib.h>
#include <string.h>

llm_code_t
llm_enc_nomem(llm_enc_t *e)
{
    return llm_fail(e->err, LLM_E_NOMEM, "no memory to tokenize %zu bytes", e->n);
}

static bool
grow(llm_enc_t *e)
{
    size_t cap = e->cap + e->cap / 2 + 64;
    int32_t *ids = realloc(e->out.ids, cap * sizeof(*ids));
    if (ids != NULL) {
        e->out.ids = ids;
    }
    uint32_t *start = realloc(e->out.start, cap * sizeof(*start));
    if (start != NULL) {
        e->out.start = start;
    }
    uint32_t *stop = realloc(e->out.stop, cap * sizeof(*stop));
    if (stop != NULL) {
        e->out.stop = stop;
    }
    if (ids == NULL || start == NULL || stop == NULL) {
        return false;
    }
    e->cap = cap;
    return true;
}

static llm_code_t
append(llm_enc_t *e, int32_t id, size_t start, size_t stop)
{
    if (e->out.n == e->cap && !grow(e)) {
        return llm_enc_nomem(e);
    }
    size_t i = e->out.n++;
    e->out.ids[i] = id;
    e->out.start[i] = (uint32_t) start;
    e->out.stop[i] = (uint32_t) stop;
    return LLM_OK;
}

/* A token that holds part of a character covers all of it. */
llm_code_t
llm_enc_emit(llm_enc_t *e, int32_t id, size_t from, size_t to)
{
    while (from > 0 && (e->s[from] & 0xc0) == 0x80) {
        from--;
    }
    while (to < e->n && (e->s[to] & 0xc0) == 0x80) {
        to++;
    }
    for (unsigned k = e->n_map; k-- > 0;) {
        size_t begin = llm_nbuf_src(e->map[k], from, false);
        to = to > from ? llm_nbuf_src(e->map[k], to, true) : begin;     /* empty: an added space */
        from = begin;
    }
    return append(e, id, from, to);
}

/* ----------------------------------------------------------- added tokens */

/* The longest added token at the first place that has one. */
static const llm_added_t *
find_added(const llm_tok_t *t, const llm_trie_t *trie, const uint8_t *s, size_t i, size_t end,
           size_t *from, size_t *to)
{
    for (; i < end; i++) {
        if (!trie->first[s[i]]) {
            continue;
        }
        int32_t hit = -1;
        uint32_t node = 0;
        for (size_t j = i; j < end && (node = llm_trie_step(trie, node, s[j])) != 0; j++) {
            if (trie->id[node] >= 0) {
                hit = trie->id[node];
                *to = j + 1;
            }
        }
        if (hit >= 0) {
            *from = i;
            return &t->added[hit];
        }
    }
    return NULL;
}

/* In text whose spaces were made U+2581 by a normalizer 0x20 is neither space nor word. */
static inline unsigned
text_class(const llm_enc_t *e, const uint8_t *s, bool normalized, unsigned *len)
{
    const llm_tok_t *t = e->t;
    uint32_t c = llm_utf8_get(s, len);
    bool mark = c == ' ' && normalized && t->n_ops > 0
                && t->op[t->n_ops - 1].kind == LLM_NORM_SPACES;
    return mark ? 0 : llm_uc_class(c);
}

static size_t
char_before(const uint8_t *s, size_t i)
{
    do {
        i--;
    } while ((s[i] & 0xc0) == 0x80);
    return i;
}

static bool
touches_word(const llm_enc_t *e, size_t lo, size_t hi, size_t from, size_t to, bool normalized)
{
    unsigned len;
    return (from > lo
            && (text_class(e, e->s + char_before(e->s, from), normalized, &len) & LLM_UC_WORD))
           || (to < hi && (text_class(e, e->s + to, normalized, &len) & LLM_UC_WORD));
}

/*
 * Lets the match [*from, *to) swallow white space as the token says. `done` is where the last match
 * ended with what it swallowed: nothing below it is taken twice, nor looked at twice.
 */
static void
swallow(const llm_enc_t *e, const llm_added_t *a, size_t hi, size_t done, size_t *from, size_t *to,
        bool normalized)
{
    unsigned len;
    if (a->lstrip) {
        size_t i = *from > done ? *from : done;
        while (i > done) {
            size_t p = char_before(e->s, i);
            if (!(text_class(e, e->s + p, normalized, &len) & LLM_UC_SPACE)) {
                break;
            }
            i = p;
        }
        *from = i;
    }
    if (a->rstrip && *to < done) {
        *to = done;
    }
    while (a->rstrip && *to < hi && (text_class(e, e->s + *to, normalized, &len) & LLM_UC_SPACE)) {
        *to += len;
    }
}

/*
 * Cuts [lo, hi) at the added tokens of one trie; what lies between goes to `rest`. The search goes
 * on at the end of the match proper, and a match that is skipped hides shorter ones inside it: both
 * as in `tokenizers`.
 */
static llm_code_t
cut_added(llm_enc_t *e, const llm_trie_t *trie, size_t lo, size_t hi, bool normalized,
          llm_code_t (*rest)(llm_enc_t *, size_t, size_t))
{
    size_t done = lo, at = lo, from = lo, to = lo;
    const llm_added_t *a;
    llm_code_t rc = LLM_OK;
    while (rc == LLM_OK && trie->n_nodes > 0
           && (a = find_added(e->t, trie, e->s, at, hi, &from, &to)) != NULL) {
        at = to;
        if ((a->special && !(e->flags & LLM_TOK_PARSE_SPECIAL))
            || (a->single_word && touches_word(e, lo, hi, from, to, normalized)))
        {
            continue;
        }
        swallow(e, a, hi, done, &from, &to, normalized);
        if (from >= to) {       /* white space that the token before has swallowed */
            continue;
        }
        if (done < from) {
            rc = rest(e, done, from);
        }
        if (rc == LLM_OK) {
            rc = llm_enc_emit(e, a->id, from, to);
        }
        done = to;
    }
    return rc == LLM_OK && done < hi ? rest(e, done, hi) : rc;
}

/* --------------------------------------------------------------- pipeline */

static llm_code_t
run_pieces(llm_enc_t *e, size_t from, size_t to)
{
    return llm_split_run(e, 0, from, to);
}

static llm_code_t
run_raw(llm_enc_t *e, size_t from, size_t to)
{
    const uint8_t *s = e->s;
    size_t n = e->n;
    unsigned n_map = e->n_map;
    llm_code_t rc = llm_enc_normalize(e, &from, &to);
    if (rc == LLM_OK && from < to) {
        rc = cut_added(e, &e->t->norm_trie, from, to, true, run_pieces);
    }
    e->s = s;
    e->n = n;
    e->n_map = n_map;
    return rc;
}

/* Replaces what is not UTF-8, if anything. */
static llm_code_t
sanitize(llm_enc_t *e)
{
    size_t good = llm_utf8_valid(e->s, e->n), i = 0;
    if (good == e->n) {
        return LLM_OK;
    }
    llm_nbuf_t *b = &e->sane;
    llm_nbuf_clear(b, 0);
    while (i < e->n) {
        if (!llm_nbuf_copy(b, e->s + i, i, good)) {
            return llm_enc_nomem(e);
        }
        i += good;
        if (i < e->n) {
            bool cut;
            unsigned bad = llm_utf8_bad(e->s + i, e->n - i, &cut);
            if (!llm_nbuf_put(b, "\xef\xbf\xbd", 3, i, bad)) {
                return llm_enc_nomem(e);
            }
            i += bad;
            good = llm_utf8_valid(e->s + i, e->n - i);
        }
    }
    e->s = b->s;
    e->n = b->n;
    e->map[e->n_map++] = b;
    return LLM_OK;
}

void
llm_enc_free(llm_enc_t *e)
{
    llm_nbuf_free(&e->sane);
    for (unsigned i = 0; i < LLM_TOK_MAX_OPS; i++) {
        llm_nbuf_free(&e->op[i]);
    }
    for (unsigned i = 0; i < LLM_TOK_MAX_STAGES; i++) {
        llm_nbuf_free(&e->stage[i]);
    }
    free(e->sym);
    free(e->heap);
    free(e->path);
}

static llm_code_t
add_specials(llm_enc_t *e, const int32_t *ids, unsigned n)
{
    llm_code_t rc = LLM_OK;
    for (unsigned i = 0; rc == LLM_OK && i < n && (e->flags & LLM_TOK_ADD_SPECIAL); i++) {
        rc = append(e, ids[i], 0, 0);
    }
    return rc;
}

llm_code_t
llm_tok_encode(const llm_tok_t *t, const char *text, size_t len, unsigned flags, llm_tokens_t *out,
               llm_err_t *err)
{
    memset(out, 0, sizeof(*out));
    if (len > LLM_TOK_MAX_TEXT) {
        return llm_fail(err, LLM_E_ARG, "text of %zu bytes, at most %u can be tokenized", len,
                        LLM_TOK_MAX_TEXT);
    }
    llm_enc_t e;
    memset(&e, 0, sizeof(e));
    e.t = t;
    e.flags = flags;
    e.s = (const uint8_t *) text;
    e.n = len;
    e.err = err;
    llm_code_t rc = sanitize(&e);
    if (rc == LLM_OK) {
        rc = add_specials(&e, t->pre_id, t->n_pre);
    }
    if (rc == LLM_OK && e.n > 0) {
        rc = cut_added(&e, &t->raw_trie, 0, e.n, false, run_raw);
    }
    if (rc == LLM_OK) {
        rc = add_specials(&e, t->post_id, t->n_post);
    }
    llm_enc_free(&e);
    if (rc != LLM_OK) {
        free(e.out.ids);
        free(e.out.start);
        free(e.out.stop);
        return rc;
    }
    *out = e.out;
    return LLM_OK;
}
