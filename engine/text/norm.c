/*
 * norm.c - normalizers, and the maps that lead from normalised text back to its source.
 *
 * An operation reads valid UTF-8 and writes valid UTF-8 into an llm_nbuf_t. When it would change
 * nothing the buffer is not used at all, which is the usual case for everything but SentencePiece's
 * leading space.
 */
#define _GNU_SOURCE     /* memmem */
#include "text/tok_impl.h"

#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- buffers */

void
llm_nbuf_free(llm_nbuf_t *b)
{
    free(b->s);
    free(b->run);
    memset(b, 0, sizeof(*b));
}

void
llm_nbuf_clear(llm_nbuf_t *b, size_t base)
{
    b->n = b->n_run = b->cursor = 0;
    b->base = base;
}

static bool
reserve(llm_nbuf_t *b, size_t n)
{
    if (n > b->cap - b->n) {
        size_t cap = b->cap + b->cap / 2 + n + 64;
        uint8_t *s = realloc(b->s, cap);
        if (s == NULL) {
            return false;
        }
        b->s = s;
        b->cap = cap;
    }
    if (b->n_run == b->cap_run) {
        size_t cap = b->cap_run * 2 + 8;
        llm_run_t *run = realloc(b->run, cap * sizeof(*run));
        if (run == NULL) {
            return false;
        }
        b->run = run;
        b->cap_run = cap;
    }
    return true;
}

bool
llm_nbuf_copy(llm_nbuf_t *b, const uint8_t *s, size_t src, size_t n)
{
    if (n == 0) {
        return true;
    }
    if (!reserve(b, n)) {
        return false;
    }
    memcpy(b->s + b->n, s, n);
    llm_run_t *last = b->n_run > 0 ? &b->run[b->n_run - 1] : NULL;
    if (last != NULL && last->copy && last->src + (b->n - last->out) == b->base + src) {
        last->n_src += (uint32_t) n;
    } else {
        b->run[b->n_run++] = (llm_run_t) { (uint32_t) b->n, (uint32_t) (b->base + src),
                                            (uint32_t) n, true };
    }
    b->n += n;
    return true;
}

bool
llm_nbuf_put(llm_nbuf_t *b, const void *s, size_t n, size_t src, size_t n_src)
{
    if (n == 0) {
        return true;
    }
    if (!reserve(b, n)) {
        return false;
    }
    memcpy(b->s + b->n, s, n);
    b->run[b->n_run++] = (llm_run_t) { (uint32_t) b->n, (uint32_t) (b->base + src),
                                        (uint32_t) n_src, false };
    b->n += n;
    return true;
}

size_t
llm_nbuf_src(llm_nbuf_t *b, size_t pos, bool end)
{
    if (b->n_run == 0) {
        return b->base;
    }
    size_t at = end && pos > 0 ? pos - 1 : pos;
    size_t i = b->cursor;
    if (b->run[i].out > at) {
        size_t hi = i;      /* binary search in [0, hi) */
        i = 0;
        while (hi - i > 1) {
            size_t mid = i + (hi - i) / 2;
            if (b->run[mid].out <= at) {
                i = mid;
            } else {
                hi = mid;
            }
        }
    }
    while (i + 1 < b->n_run && b->run[i + 1].out <= at) {
        i++;
    }
    b->cursor = i;
    const llm_run_t *r = &b->run[i];
    if (r->copy) {
        return r->src + (pos - r->out);
    }
    return end ? (size_t) r->src + r->n_src : r->src;
}

/* -------------------------------------------------------------- charsmap */

llm_code_t
llm_charsmap_set(llm_tok_t *t, const uint8_t *blob, size_t len, const char *where, llm_err_t *err)
{
    uint32_t n_trie;
    if (len < 4) {
        return llm_fail(err, LLM_E_FORMAT, "%s: charsmap has %zu bytes, at least 4 are needed",
                        where, len);
    }
    memcpy(&n_trie, blob, 4);
    if (n_trie % 4 != 0 || n_trie < 4 || n_trie > len - 4) {
        return llm_fail(err, LLM_E_FORMAT, "%s: charsmap trie of %u bytes does not fit %zu bytes",
                        where, n_trie, len);
    }
    size_t n_text = len - 4 - n_trie;
    if (n_text > UINT32_MAX - 1 || llm_utf8_valid(blob + 4 + n_trie, n_text) != n_text) {
        return llm_fail(err, LLM_E_FORMAT, "%s: charsmap replacements are not valid UTF-8", where);
    }
    llm_charsmap_t *m = &t->charsmap;
    m->unit = malloc(n_trie);
    m->text = malloc(n_text + 1);
    if (m->unit == NULL || m->text == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for a charsmap of %zu bytes", where, len);
    }
    memcpy(m->unit, blob + 4, n_trie);
    m->n_units = n_trie / 4;
    memcpy(m->text, blob + 4 + n_trie, n_text);
    m->text[n_text] = '\0';
    m->n_text = (uint32_t) n_text;
    return LLM_OK;
}

/* Replacement for the shortest prefix of s that has one, or NULL. */
static const char *
charsmap_find(const llm_charsmap_t *m, const uint8_t *s, size_t n)
{
    uint32_t pos = 0, unit = m->unit[0];
    pos ^= unit >> 10 << ((unit & 0x200) >> 6);
    for (size_t i = 0; i < n && s[i] != 0; i++) {
        pos ^= s[i];
        if (pos >= m->n_units) {
            return NULL;
        }
        unit = m->unit[pos];
        if ((unit & 0x800000ffu) != s[i]) {
            return NULL;
        }
        pos ^= unit >> 10 << ((unit & 0x200) >> 6);
        if (unit >> 8 & 1) {
            if (pos >= m->n_units) {
                return NULL;
            }
            uint32_t at = m->unit[pos] & 0x7fffffffu;
            if (at > m->n_text || ((uint8_t) m->text[at] & 0xc0) == 0x80) {
                return NULL;
            }
            return m->text + at;
        }
    }
    return NULL;
}

/* End of the extended grapheme cluster that starts at i. */
static size_t
cluster_end(const uint8_t *s, size_t i, size_t n)
{
    int state = 0;
    unsigned len;
    uint32_t a = llm_utf8_get(s + i, &len);
    i += len;
    while (i < n) {
        uint32_t b = llm_utf8_get(s + i, &len);
        if ((a < 0x80 && b < 0x80 && a != '\r') || llm_uc_grapheme_break(a, b, &state)) {
            break;
        }
        i += len;
        a = b;
    }
    return i;
}

/*
 * One cluster: a short one is replaced as a whole by what its shortest matching prefix stands for;
 * else character by character. That drops marks in places; it is what the `tokenizers` library does
 * and models were trained with.
 */
static bool
charsmap_cluster(const llm_charsmap_t *m, const uint8_t *s, size_t i, size_t end, llm_nbuf_t *b,
                 bool *changed)
{
    if (end - i < 6) {
        const char *to = charsmap_find(m, s + i, end - i);
        if (to != NULL) {
            *changed = true;
            return llm_nbuf_put(b, to, strlen(to), i, end - i);
        }
    }
    while (i < end) {
        unsigned len = llm_utf8_len(s[i]);
        const char *to = charsmap_find(m, s + i, len);
        if (to != NULL) {
            *changed = true;
            if (!llm_nbuf_put(b, to, strlen(to), i, len)) {
                return false;
            }
        } else if (!llm_nbuf_copy(b, s + i, i, len)) {
            return false;
        }
        i += len;
    }
    return true;
}

static bool
apply_charsmap(const llm_charsmap_t *m, const uint8_t *s, size_t n, llm_nbuf_t *b, bool *changed)
{
    for (size_t i = 0; i < n;) {
        size_t end = cluster_end(s, i, n);
        if (!charsmap_cluster(m, s, i, end, b, changed)) {
            return false;
        }
        i = end;
    }
    return true;
}

/* ------------------------------------------------------------- operations */

static bool
apply_lower(const uint8_t *s, size_t n, llm_nbuf_t *b, bool *changed)
{
    for (size_t i = 0; i < n;) {
        unsigned len;
        uint32_t c = llm_utf8_get(s + i, &len), l = llm_uc_lower(c);
        bool ok;
        if (c == 0x130) {       /* the only character whose lower case is two */
            ok = llm_nbuf_put(b, "i\xcc\x87", 3, i, len);
        } else if (l != c) {
            uint8_t buf[4];
            ok = llm_nbuf_put(b, buf, llm_utf8_put(buf, l), i, len);
        } else {
            ok = llm_nbuf_copy(b, s + i, i, len);
        }
        if (!ok) {
            return false;
        }
        *changed |= l != c || c == 0x130;
        i += len;
    }
    return true;
}

static bool
apply_strip(const llm_normop_t *op, const uint8_t *s, size_t n, llm_nbuf_t *b, bool *changed)
{
    size_t from = 0, to = n;
    unsigned len;
    while (op->left && from < to && (llm_uc_class(llm_utf8_get(s + from, &len)) & LLM_UC_SPACE)) {
        from += len;
    }
    while (op->right && from < to) {
        size_t i = to - 1;
        while ((s[i] & 0xc0) == 0x80) {
            i--;
        }
        if (!(llm_uc_class(llm_utf8_get(s + i, &len)) & LLM_UC_SPACE)) {
            break;
        }
        to = i;
    }
    *changed = from > 0 || to < n;
    return !*changed || llm_nbuf_copy(b, s + from, from, to - from);
}

static bool
apply_replace(const llm_normop_t *op, const uint8_t *s, size_t n, llm_nbuf_t *b, bool *changed)
{
    size_t done = 0;
    for (size_t i = 0; i + op->n_from <= n;) {
        const uint8_t *hit = memmem(s + i, n - i, op->from, op->n_from);
        if (hit == NULL) {
            break;
        }
        i = (size_t) (hit - s);
        size_t end = i + op->n_from;
        if (op->kind == LLM_NORM_SPACE_RUNS) {      /* from is two spaces: take the whole run */
            while (end < n && s[end] == ' ') {
                end++;
            }
        }
        if (!llm_nbuf_copy(b, s + done, done, i - done)
            || !llm_nbuf_put(b, op->to, op->n_to, i, end - i)) {
            return false;
        }
        *changed = true;
        done = i = end;
    }
    return !*changed || llm_nbuf_copy(b, s + done, done, n - done);
}

/* Every space and every U+2581 is 0x20 inside (tok_impl.h), so only marks that are written in the
 * text move bytes. */
static bool
apply_spaces(bool prefix, const uint8_t *s, size_t n, llm_nbuf_t *b, bool *changed)
{
    static const llm_normop_t mark = {
        .kind = LLM_NORM_REPLACE, .from = LLM_SPACE_MARK, .n_from = 3, .to = " ", .n_to = 1
    };
    if (prefix && n > 0) {
        if (!llm_nbuf_put(b, " ", 1, 0, 0)) {
            return false;
        }
    }
    if (!apply_replace(&mark, s, n, b, changed)) {
        return false;
    }
    if (!*changed && prefix && n > 0) {
        *changed = true;
        return llm_nbuf_copy(b, s, 0, n);
    }
    return true;
}

bool
llm_norm_apply(const llm_tok_t *t, const llm_normop_t *op, const uint8_t *s, size_t n,
               llm_nbuf_t *b, bool *changed)
{
    *changed = false;
    switch (op->kind) {
    case LLM_NORM_NFC:
        return llm_norm_nf(false, s, n, b, changed);
    case LLM_NORM_NFKC:
        return llm_norm_nf(true, s, n, b, changed);
    case LLM_NORM_LOWER:
        return apply_lower(s, n, b, changed);
    case LLM_NORM_STRIP:
        return apply_strip(op, s, n, b, changed);
    case LLM_NORM_PREPEND:
        *changed = n > 0;
        return n == 0 || (llm_nbuf_put(b, op->to, op->n_to, 0, 0) && llm_nbuf_copy(b, s, 0, n));
    case LLM_NORM_REPLACE:
    case LLM_NORM_SPACE_RUNS:
        return apply_replace(op, s, n, b, changed);
    case LLM_NORM_CHARSMAP:
        return apply_charsmap(&t->charsmap, s, n, b, changed);
    case LLM_NORM_SPACES:
        return apply_spaces(op->left, s, n, b, changed);
    }
    return false;
}

llm_code_t
llm_enc_normalize(llm_enc_t *e, size_t *from, size_t *to)
{
    const llm_tok_t *t = e->t;
    for (unsigned i = 0; i < t->n_ops && *from < *to; i++) {
        bool changed;
        llm_nbuf_t *b = &e->op[i];
        llm_nbuf_clear(b, *from);
        if (!llm_norm_apply(t, &t->op[i], e->s + *from, *to - *from, b, &changed)) {
            return llm_enc_nomem(e);
        }
        if (changed) {
            e->s = b->s;
            e->n = b->n;
            e->map[e->n_map++] = b;
            *from = 0;
            *to = b->n;
        }
    }
    return LLM_OK;
}
