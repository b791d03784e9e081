/*
 * split.c - pre-tokenizers: they cut text into the pieces that the model works on one by one.
 *
 * The regular expressions of published tokenizers are few; each is a hand-written scanner here
 * (spec models.md 8.2):
 *
 *   G = 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *   T = (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,n}
 *       | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 *
 * Stages nest: every piece of stage i runs through stage i + 1 at once, and through the model after
 * the last one.
 */
#define _GNU_SOURCE     /* memmem */
#include "text/tok_impl.h"

#include <string.h>

#define LNS (LLM_UC_LETTER | LLM_UC_NUMBER | LLM_UC_SPACE)

static inline unsigned
class_at(const uint8_t *s, unsigned *len)
{
    return llm_uc_class(llm_utf8_get(s, len));
}

/* End of the run of characters whose L, N, S bits are exactly want. */
static inline size_t
run_end(const uint8_t *s, size_t i, size_t end, unsigned want)
{
    unsigned len;
    while (i < end && (class_at(s + i, &len) & LNS) == want) {
        i += len;
    }
    return i;
}

/* Length of a contraction that starts with the apostrophe at s, or 0. U+017F folds to s. */
static size_t
contraction(const uint8_t *s, size_t n, bool fold)
{
    if (n < 2) {
        return 0;
    }
    uint8_t a = s[1], b = n > 2 ? s[2] : 0;
    if (fold) {
        if (a == 0xc5 && b == 0xbf) {
            return 3;
        }
        a |= a >= 'A' && a <= 'Z' ? 0x20 : 0;
        b |= b >= 'A' && b <= 'Z' ? 0x20 : 0;
    }
    if (a == 's' || a == 't' || a == 'm' || a == 'd') {
        return 2;
    }
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

/* A run of white space at i: its end, the start of its last character, and the end of its last line
 * break (0: none). */
typedef struct {
    size_t end, last, newline;
} space_run_t;

static space_run_t
space_run(const uint8_t *s, size_t i, size_t end)
{
    space_run_t r = { i, i, 0 };
    while (r.end < end) {
        unsigned len, f = class_at(s + r.end, &len);
        if (!(f & LLM_UC_SPACE)) {
            break;
        }
        r.last = r.end;
        r.end += len;
        if (f & LLM_UC_NEWLINE) {
            r.newline = r.end;
        }
    }
    return r;
}

/* \s+(?!\S)|\s+ : all of the run at the end of the text, else all but its last character, else that
 * one character */
static size_t
space_match(space_run_t r, size_t i, size_t end)
{
    return r.end == end || r.last == i ? r.end : r.last;
}

static size_t
match_g(const uint8_t *s, size_t i, size_t end)
{
    unsigned len, f;
    if (s[i] == '\'') {
        size_t n = contraction(s + i, end - i, false);
        if (n > 0) {
            return i + n;
        }
    }
    size_t j = i;
    f = class_at(s + i, &len);
    if (s[i] == ' ' && i + 1 < end) {
        unsigned next = class_at(s + i + 1, &len);
        if (!(next & LLM_UC_SPACE)) {
            f = next;
            j = i + 1;
        }
    }
    if (!(f & LLM_UC_SPACE)) {
        return run_end(s, j, end, f & LNS);
    }
    return space_match(space_run(s, i, end), i, end);
}

static size_t
match_t(const uint8_t *s, size_t i, size_t end, unsigned max_digits)
{
    if (s[i] == '\'') {
        size_t n = contraction(s + i, end - i, true);
        if (n > 0) {
            return i + n;
        }
    }
    unsigned len, next_len, f = class_at(s + i, &len), next = 0;
    size_t j = i + len;
    if (j < end) {
        next = class_at(s + j, &next_len);
    }
    if (f & LLM_UC_LETTER) {
        return run_end(s, i, end, LLM_UC_LETTER);
    }
    if (!(f & (LLM_UC_NEWLINE | LLM_UC_NUMBER)) && (next & LLM_UC_LETTER)) {
        return run_end(s, j, end, LLM_UC_LETTER);
    }
    if (f & LLM_UC_NUMBER) {
        for (unsigned n = 1; n < max_digits && j < end && (class_at(s + j, &len) & LLM_UC_NUMBER);
             n++) {
            j += len;
        }
        return j;
    }
    bool other = !(f & LLM_UC_SPACE);
    if (other || (s[i] == ' ' && j < end && !(next & LNS))) {
        j = run_end(s, other ? i : j, end, 0);
        while (j < end && (s[j] == '\r' || s[j] == '\n')) {
            j++;
        }
        return j;
    }
    space_run_t r = space_run(s, i, end);
    return r.newline > 0 ? r.newline : space_match(r, i, end);
}

/* ------------------------------------------------- matches of other patterns */

static inline unsigned
stage_class(const llm_enc_t *e, const llm_stage_t *st, size_t i, unsigned *len)
{
    if (st->mapped) {
        *len = 1;
        return e->t->mapped_class[e->s[i]];
    }
    return class_at(e->s + i, len);
}

/* ` ?[^stop]+` */
static bool
next_bloom(const uint8_t *s, size_t i, size_t end, size_t *from, size_t *to)
{
    unsigned len;
    for (; i < end; i += len) {
        unsigned f = class_at(s + i, &len);
        size_t j = i;
        if (s[i] == ' ' && i + 1 < end) {
            f = class_at(s + i + 1, &len);
            j = i + 1;
            if (f & LLM_UC_BLOOM_STOP) {
                len = 1;
            }
        }
        if (f & LLM_UC_BLOOM_STOP) {
            continue;
        }
        *from = i;
        while (j < end && !(class_at(s + j, &len) & LLM_UC_BLOOM_STOP)) {
            j += len;
        }
        *to = j;
        return true;
    }
    return false;
}

static bool
next_digits3(const uint8_t *s, size_t i, size_t end, size_t *from, size_t *to)
{
    unsigned n = 0;
    for (; i < end; i++) {
        n = s[i] >= '0' && s[i] <= '9' ? n + 1 : 0;
        if (n == 3) {
            *from = i - 2;
            *to = i + 1;
            return true;
        }
    }
    return false;
}

/* The next match at or after i. */
static bool
next_match(const llm_enc_t *e, const llm_stage_t *st, size_t i, size_t end, size_t *from,
           size_t *to)
{
    unsigned len;
    const uint8_t *hit;
    switch (st->kind) {
    case LLM_SPLIT_G:
    case LLM_SPLIT_T:       /* these match everywhere */
        *from = i;
        *to = st->kind == LLM_SPLIT_G ? match_g(e->s, i, end) : match_t(e->s, i, end, st->n);
        return true;
    case LLM_SPLIT_BLOOM:
        return next_bloom(e->s, i, end, from, to);
    case LLM_SPLIT_DIGITS3:
        return next_digits3(e->s, i, end, from, to);
    case LLM_SPLIT_CLASS:
        for (; i < end; i += len) {
            if (stage_class(e, st, i, &len) & st->mask) {
                *from = i;
                *to = i + len;
                return true;
            }
        }
        return false;
    case LLM_SPLIT_STRING:
        hit = memmem(e->s + i, end - i, st->text, st->n_text);
        if (hit == NULL) {
            return false;
        }
        *from = (size_t) (hit - e->s);
        *to = *from + st->n_text;
        return true;
    case LLM_SPLIT_PREFIX_SPACE:
    case LLM_SPLIT_METASPACE:
        break;
    }
    return false;
}

/* -------------------------------------------------------------- behaviours */

/* The piece that may still grow. */
typedef struct {
    size_t from, to;
    bool   have, match;
} pending_t;

static llm_code_t
flush(llm_enc_t *e, unsigned i, pending_t *p)
{
    bool have = p->have;
    p->have = false;
    return have ? llm_split_run(e, i + 1, p->from, p->to) : LLM_OK;
}

/* Takes the next stretch of text, which is a match or lies between matches. */
static llm_code_t
stretch(llm_enc_t *e, unsigned i, pending_t *p, size_t from, size_t to, bool match)
{
    const llm_stage_t *st = &e->t->stage[i];
    llm_code_t rc = LLM_OK;
    bool join = false;
    match ^= st->invert;
    switch (st->behave) {
    case LLM_BEHAVE_ISOLATED:
        return llm_split_run(e, i + 1, from, to);
    case LLM_BEHAVE_REMOVED:
        return match ? LLM_OK : llm_split_run(e, i + 1, from, to);
    case LLM_BEHAVE_CONTIGUOUS:
        join = p->have && match == p->match;
        break;
    case LLM_BEHAVE_PREVIOUS:
        join = p->have && match && !p->match;
        break;
    case LLM_BEHAVE_NEXT:
        join = p->have && !match && p->match;
        break;
    }
    if (join) {
        p->to = to;
        p->match = match;
        return LLM_OK;
    }
    rc = flush(e, i, p);
    *p = (pending_t) { from, to, true, match };
    return rc;
}

static llm_code_t
split_pattern(llm_enc_t *e, unsigned i, size_t from, size_t to)
{
    const llm_stage_t *st = &e->t->stage[i];
    pending_t p = { 0 };
    llm_code_t rc = LLM_OK;
    while (rc == LLM_OK && from < to) {
        size_t a, b;
        if (!next_match(e, st, from, to, &a, &b)) {
            rc = stretch(e, i, &p, from, to, false);
            break;
        }
        if (a > from) {
            rc = stretch(e, i, &p, from, a, false);
        }
        if (rc == LLM_OK) {
            rc = stretch(e, i, &p, a, b, true);
        }
        from = b;
    }
    return rc == LLM_OK ? flush(e, i, &p) : rc;
}

/* ----------------------------------------------------- stages that add text */

/* Makes stage buffer i the current text and runs `run` on all of it. */
static llm_code_t
enter(llm_enc_t *e, unsigned i, llm_code_t (*run)(llm_enc_t *, unsigned, size_t, size_t))
{
    const uint8_t *s = e->s;
    size_t n = e->n;
    e->s = e->stage[i].s;
    e->n = e->stage[i].n;
    e->map[e->n_map++] = &e->stage[i];
    llm_code_t rc = run(e, i, 0, e->n);
    e->n_map--;
    e->s = s;
    e->n = n;
    return rc;
}

static llm_code_t
next_stage(llm_enc_t *e, unsigned i, size_t from, size_t to)
{
    return llm_split_run(e, i + 1, from, to);
}

static llm_code_t
prefix_space(llm_enc_t *e, unsigned i, size_t from, size_t to)
{
    if (e->s[from] == ' ') {
        return next_stage(e, i, from, to);
    }
    llm_nbuf_t *b = &e->stage[i];
    llm_nbuf_clear(b, from);
    if (!llm_nbuf_put(b, " ", 1, 0, 0) || !llm_nbuf_copy(b, e->s + from, 0, to - from)) {
        return llm_enc_nomem(e);
    }
    return enter(e, i, next_stage);
}

/* Cuts in front of every mark. */
static llm_code_t
cut_marks(llm_enc_t *e, unsigned i, size_t from, size_t to)
{
    llm_code_t rc = LLM_OK;
    while (rc == LLM_OK && from < to) {
        const uint8_t *hit = memchr(e->s + from + 1, ' ', to - from - 1);
        size_t end = hit != NULL ? (size_t) (hit - e->s) : to;
        rc = llm_split_run(e, i + 1, from, end);
        from = end;
    }
    return rc;
}

/* Whether byte `at` of the current text comes from the very beginning of the input. */
static bool
at_beginning(const llm_enc_t *e, size_t at)
{
    for (unsigned k = e->n_map; k-- > 0;) {
        size_t i_op = (size_t) (e->map[k] - e->op);
        /* what a charsmap removed in front of the first character counts as part of it */
        bool charsmap = i_op < e->t->n_ops && e->t->op[i_op].kind == LLM_NORM_CHARSMAP;
        at = charsmap && at == 0 ? e->map[k]->base : llm_nbuf_src(e->map[k], at, false);
    }
    return at == 0;
}

static llm_code_t
metaspace(llm_enc_t *e, unsigned i, size_t from, size_t to)
{
    const llm_stage_t *st = &e->t->stage[i];
    const uint8_t *s = e->s + from;
    size_t n = to - from;
    bool marked = s[0] == ' ' || (n >= 3 && memcmp(s, LLM_SPACE_MARK, 3) == 0);
    bool prefix = !marked
                  && (st->prepend == LLM_PREPEND_ALWAYS
                      || (st->prepend == LLM_PREPEND_FIRST && at_beginning(e, from)));
    const llm_normop_t op = { .kind = LLM_NORM_SPACES, .left = prefix };
    llm_nbuf_t *b = &e->stage[i];
    bool changed;
    llm_nbuf_clear(b, from);
    if (!llm_norm_apply(e->t, &op, s, n, b, &changed)) {
        return llm_enc_nomem(e);
    }
    llm_code_t (*run)(llm_enc_t *, unsigned, size_t, size_t) = st->split ? cut_marks : next_stage;
    return changed ? enter(e, i, run) : run(e, i, from, to);
}

/* ----------------------------------------------------------------- stages */

llm_code_t
llm_split_run(llm_enc_t *e, unsigned i, size_t from, size_t to)
{
    const llm_tok_t *t = e->t;
    if (i == t->n_stages) {
        return t->model == LLM_TOK_BPE ? llm_bpe_run(e, from, to) : llm_unigram_run(e, from, to);
    }
    const llm_stage_t *st = &t->stage[i];
    llm_code_t rc = LLM_OK;
    if (st->kind == LLM_SPLIT_PREFIX_SPACE) {
        return prefix_space(e, i, from, to);
    }
    if (st->kind == LLM_SPLIT_METASPACE) {
        return metaspace(e, i, from, to);
    }
    if (st->kind == LLM_SPLIT_G && st->behave == LLM_BEHAVE_ISOLATED) {
        for (size_t end; rc == LLM_OK && from < to; from = end) {
            end = match_g(e->s, from, to);
            rc = llm_split_run(e, i + 1, from, end);
        }
        return rc;
    }
    if (st->kind == LLM_SPLIT_T && st->behave == LLM_BEHAVE_ISOLATED) {
        for (size_t end; rc == LLM_OK && from < to; from = end) {
            end = match_t(e->s, from, to, st->n);
            rc = llm_split_run(e, i + 1, from, end);
        }
        return rc;
    }
    return split_pattern(e, i, from, to);
}
