/*
 * norm_nf.c - NFC and NFKC with a map back to the source, in linear time.
 *
 * Only segments that normalization can touch are worked on: a plain character followed by
 * characters that are not plain (unicode.h). Marks are ordered by counting, because a client may
 * send a megabyte of them in the wrong order.
 */
#include "text/tok_impl.h"

#include <stdlib.h>
#include <string.h>

/* A code point of a segment and the source bytes it comes from. */
typedef struct {
    uint32_t cp, from, to;
    uint32_t ccc;
} unit_t;

typedef struct {
    unit_t *u, *tmp;
    size_t  n, cap;
} seg_t;

static bool
seg_push(seg_t *g, unit_t u)
{
    if (g->n == g->cap) {
        size_t cap = g->cap * 2 + 64;
        unit_t *p = realloc(g->u, cap * sizeof(*p));
        if (p == NULL) {
            return false;
        }
        g->u = p;
        p = realloc(g->tmp, cap * sizeof(*p));
        if (p == NULL) {
            return false;
        }
        g->tmp = p;
        g->cap = cap;
    }
    g->u[g->n++] = u;
    return true;
}

static bool
seg_decompose(seg_t *g, bool compat, const uint8_t *s, size_t from, size_t to)
{
    g->n = 0;
    while (from < to) {
        unsigned len;
        int32_t d[LLM_UC_MAX_DECOMP];
        uint32_t c = llm_utf8_get(s + from, &len);
        unsigned n = llm_uc_decompose(c, compat, d);
        for (unsigned i = 0; i < n; i++) {
            unit_t u = { (uint32_t) d[i], (uint32_t) from, (uint32_t) (from + len),
                         llm_uc_ccc((uint32_t) d[i]) };
            if (!seg_push(g, u)) {
                return false;
            }
        }
        from += len;
    }
    return true;
}

/* Canonical ordering: a stable counting sort of each run of non-starters by combining class. */
static void
seg_order(seg_t *g)
{
    for (size_t i = 0; i < g->n;) {
        if (g->u[i].ccc == 0) {
            i++;
            continue;
        }
        size_t j = i;
        bool sorted = true;
        for (; j < g->n && g->u[j].ccc != 0; j++) {
            sorted &= j == i || g->u[j - 1].ccc <= g->u[j].ccc;
        }
        if (!sorted) {
            uint32_t count[257] = { 0 };
            for (size_t k = i; k < j; k++) {
                count[g->u[k].ccc + 1]++;
            }
            for (unsigned k = 1; k < 257; k++) {
                count[k] += count[k - 1];
            }
            for (size_t k = i; k < j; k++) {
                g->tmp[count[g->u[k].ccc]++] = g->u[k];
            }
            memcpy(g->u + i, g->tmp, (j - i) * sizeof(*g->u));
        }
        i = j;
    }
}

/* Canonical composition (UAX 15): a character joins the last starter unless something of its class
 * or above is between. */
static void
seg_compose(seg_t *g)
{
    size_t out = 0, starter = SIZE_MAX;
    int between = -1;
    for (size_t i = 0; i < g->n; i++) {
        unit_t u = g->u[i];
        if (starter != SIZE_MAX && between < (int) u.ccc) {
            unit_t *st = &g->u[starter];
            uint32_t c = llm_uc_compose(st->cp, u.cp);
            if (c != 0) {
                st->cp = c;
                st->from = st->from < u.from ? st->from : u.from;
                st->to = st->to > u.to ? st->to : u.to;
                continue;
            }
        }
        if (u.ccc == 0) {
            starter = out;
            between = -1;
        } else {
            between = (int) u.ccc;
        }
        g->u[out++] = u;
    }
    g->n = out;
}

/* Writes the segment; characters that came out as they were are copied, so that their bytes map one
 * to one. */
static bool
seg_write(const seg_t *g, const uint8_t *s, llm_nbuf_t *b, bool *changed)
{
    for (size_t i = 0; i < g->n; i++) {
        const unit_t *u = &g->u[i];
        uint8_t buf[4];
        unsigned len = llm_utf8_put(buf, u->cp);
        bool same = len == u->to - u->from && memcmp(s + u->from, buf, len) == 0;
        if (!(same ? llm_nbuf_copy(b, buf, u->from, len)
                   : llm_nbuf_put(b, buf, len, u->from, u->to - u->from))) {
            return false;
        }
        *changed |= !same;
    }
    return true;
}

/* One segment; a segment whose order alone changed is also a change. */
static bool
segment(seg_t *g, bool compat, const uint8_t *s, size_t from, size_t to, llm_nbuf_t *b,
        bool *changed)
{
    if (!seg_decompose(g, compat, s, from, to)) {
        return false;
    }
    seg_order(g);
    seg_compose(g);
    size_t before = b->n;
    if (!seg_write(g, s, b, changed)) {
        return false;
    }
    *changed |= b->n - before != to - from || memcmp(b->s + before, s + from, to - from) != 0;
    return true;
}

bool
llm_norm_nf(bool compat, const uint8_t *s, size_t n, llm_nbuf_t *b, bool *changed)
{
    unsigned plain = compat ? LLM_UC_NFKC_PLAIN : LLM_UC_NFC_PLAIN;
    seg_t g = { 0 };
    bool ok = true;
    size_t done = 0, last = 0;      /* bytes already written; start of the last plain character */
    for (size_t i = 0; ok && i < n;) {
        unsigned len = 1;
        if (s[i] < 0x80 || (llm_uc_class(llm_utf8_get(s + i, &len)) & plain)) {
            last = i;
            i += len;
            continue;
        }
        size_t end = i;
        while (end < n && s[end] >= 0x80 && !(llm_uc_class(llm_utf8_get(s + end, &len)) & plain)) {
            end += len;
        }
        ok = llm_nbuf_copy(b, s + done, done, last - done)
             && segment(&g, compat, s, last, end, b, changed);
        done = last = i = end;
    }
    ok = ok && (!*changed || llm_nbuf_copy(b, s + done, done, n - done));
    free(g.u);
    free(g.tmp);
    return ok;
}
