/*
 * grammar_class.c - sets of characters, and how one character of a set is read byte by byte.
 *
 * A set is a list of ascending, disjoint code point ranges without surrogates. Its fragment is the
 * smallest automaton of its UTF-8 sequences: sequences are added in order and the finished branch
 * is replaced by an equal one if there is one (J. Daciuk et al. 2000,
 * doi.org/10.1162/089120100561601). Inside a JSON string the quotation mark, the backslash and
 * control characters are written by their shortest escape, the others as they are.
 */
#include "base/unicode.h"
#include "run/grammar_impl.h"

#include <pthread.h>
#include <stdlib.h>

/* ------------------------------------------------------------------- sets */

bool
llm_gset_add(llm_gb_t *b, llm_gset_t *s, uint32_t lo, uint32_t hi)
{
    if (s->n > 0 && s->r[s->n - 1].hi + 1 == lo) {
        s->r[s->n - 1].hi = hi;
        return true;
    }
    if (!LLM_GB_ROOM(b, s->r, s->cap, (uint64_t) s->n + 1)) {
        return false;
    }
    s->r[s->n++] = (llm_grange_t) { lo, hi };
    return true;
}

bool
llm_gset_union(llm_gb_t *b, llm_gset_t *s, const llm_gset_t *o)
{
    bool good = llm_gb_work(b, o->n);
    for (uint32_t i = 0; good && i < o->n; i++) {
        good = llm_gset_add(b, s, o->r[i].lo, o->r[i].hi);
    }
    return good;
}

static int
by_lo(const void *a, const void *b)
{
    const llm_grange_t *x = a, *y = b;
    return (x->lo > y->lo) - (x->lo < y->lo);
}

/* Sorted and joined; then the surrogates are cut out. */
void
llm_gset_normal(llm_gb_t *b, llm_gset_t *s)
{
    if (s->n == 0 || !llm_gb_work(b, s->n)) {
        return;
    }
    qsort(s->r, s->n, sizeof(*s->r), by_lo);
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        if (n > 0 && s->r[i].lo <= s->r[n - 1].hi + 1) {
            if (s->r[i].hi > s->r[n - 1].hi) {
                s->r[n - 1].hi = s->r[i].hi;
            }
        } else {
            s->r[n++] = s->r[i];
        }
    }
    s->n = n;
    for (uint32_t i = 0; i < s->n; i++) {
        llm_grange_t r = s->r[i];
        if (r.hi < 0xd800 || r.lo > 0xdfff) {
            continue;
        }
        llm_grange_t part[2];
        uint32_t k = 0;
        if (r.lo < 0xd800) {
            part[k++] = (llm_grange_t) { r.lo, 0xd7ff };
        }
        if (r.hi > 0xdfff) {
            part[k++] = (llm_grange_t) { 0xe000, r.hi };
        }
        if (!LLM_GB_ROOM(b, s->r, s->cap, (uint64_t) s->n + 1)) {
            return;
        }
        memmove(&s->r[i + k], &s->r[i + 1], (s->n - i - 1) * sizeof(*s->r));
        memcpy(&s->r[i], part, k * sizeof(*part));
        s->n = s->n - 1 + k;
        i = i + k - 1;      /* ranges never touch again: i wraps back to the slot before */
    }
}

bool
llm_gset_negate(llm_gb_t *b, llm_gset_t *s)
{
    llm_gset_t out = { 0 };
    uint32_t next = 0;
    bool good = true;
    llm_gset_normal(b, s);
    for (uint32_t i = 0; good && i < s->n; i++) {
        good = s->r[i].lo <= next || llm_gset_add(b, &out, next, s->r[i].lo - 1);
        next = s->r[i].hi + 1;
    }
    good = good && (next >= LLM_UC_MAX || llm_gset_add(b, &out, next, LLM_UC_MAX - 1));
    LLM_GB_DROP(b, s->r, s->cap);
    *s = out;
    llm_gset_normal(b, s);
    return good;
}

uint32_t
llm_gset_intern(llm_gb_t *b, llm_gset_t *s)
{
    llm_gset_normal(b, s);
    for (uint32_t i = 0; b->rc == LLM_OK && i < b->n_set; i++) {
        if (b->set[i].n == s->n && llm_gb_work(b, 1 + s->n / 16)
            && (s->n == 0 || memcmp(b->set[i].r, s->r, s->n * sizeof(*s->r)) == 0))
        {
            LLM_GB_DROP(b, s->r, s->cap);
            s->n = 0;
            return i;
        }
    }
    if (!LLM_GB_ROOM(b, b->set, b->cap_set, (uint64_t) b->n_set + 1)) {
        LLM_GB_DROP(b, s->r, s->cap);
        s->n = 0;
        return 0;
    }
    b->set[b->n_set] = *s;
    *s = (llm_gset_t) { 0 };
    return b->n_set++;
}

uint32_t
llm_gset_any(llm_gb_t *b)
{
    if (b->anychar_set == 0) {
        llm_gset_t s = { 0 };
        llm_gset_add(b, &s, 0, LLM_UC_MAX - 1);
        b->anychar_set = llm_gset_intern(b, &s) + 1;
    }
    return b->anychar_set - 1;
}

/* ---------------------------------------------------------------- Unicode */

#define CATEGORY 0x80000000u /* in llm_gknown_t.any: the two letters of a general category below   \
                              */

/* All code points as stretches of one general category; made once for the process. */
typedef struct { uint32_t lo; char name[2]; } stretch_t;
static stretch_t *stretches;
static uint32_t n_stretches;
static pthread_mutex_t stretch_lock = PTHREAD_MUTEX_INITIALIZER;

static bool
find_stretches(void)
{
    pthread_mutex_lock(&stretch_lock);
    for (int pass = 0; pass < 2 && stretches == NULL; pass++) {
        stretch_t *out = pass == 0 ? NULL : malloc((n_stretches + 1) * sizeof(*out));
        const char *last = "";
        uint32_t n = 0;
        for (uint32_t c = 0; c < LLM_UC_MAX && (pass == 0 || out != NULL); c++) {
            const char *name = llm_uc_category(c);
            if (name[0] != last[0] || name[1] != last[1]) {
                if (pass == 1) {
                    out[n] = (stretch_t) { c, { name[0], name[1] } };
                }
                n++;
            }
            last = name;
        }
        if (out != NULL) {
            out[n] = (stretch_t) { LLM_UC_MAX, { 0 } };
        }
        n_stretches = out != NULL || pass == 0 ? n : 0;
        stretches = out;
    }
    pthread_mutex_unlock(&stretch_lock);
    return stretches != NULL;
}

static bool
scan_category(llm_gb_t *b, llm_gset_t *s, unsigned any)
{
    if (!find_stretches()) {
        llm_gb_nomem(b);
        return false;
    }
    for (uint32_t i = 0; i < n_stretches; i++) {
        const char *name = stretches[i].name;
        if (name[0] == (char) (any >> 8) && ((any & 0xff) == 0 || name[1] == (char) any)
            && !llm_gset_add(b, s, stretches[i].lo, stretches[i + 1].lo - 1))
        {
            return false;
        }
    }
    return true;
}

static bool
scan_class(llm_gb_t *b, llm_gset_t *s, unsigned any, unsigned none)
{
    uint32_t from = LLM_G_NONE;
    int uniform = 0;    /* the page before is all outside (1) or all inside (2) */
    for (uint32_t c = 0; c < LLM_UC_MAX; c++) {
        if ((c & 0xff) == 0 && c > 0 && uniform != 0
            && llm_uc_index[c >> 8] == llm_uc_index[(c >> 8) - 1])
        {
            c += 0xff;  /* the same page again */
            continue;
        }
        bool in = (llm_uc_class(c) & any) != 0 && (llm_uc_class(c) & none) == 0;
        uniform = (c & 0xff) == 0 ? 1 + in : uniform == 1 + in ? uniform : 0;
        if (in && from == LLM_G_NONE) {
            from = c;
        } else if (!in && from != LLM_G_NONE) {
            if (!llm_gset_add(b, s, from, c - 1)) {
                return false;
            }
            from = LLM_G_NONE;
        }
    }
    return from == LLM_G_NONE || llm_gset_add(b, s, from, LLM_UC_MAX - 1);
}

bool
llm_gset_add_class(llm_gb_t *b, llm_gset_t *s, unsigned any, unsigned none)
{
    if (!llm_unicode_init()) {
        llm_gb_nomem(b);
        return false;
    }
    uint32_t i = 0;
    while (i < b->n_known && (b->known[i].any != any || b->known[i].none != none)) {
        i++;
    }
    if (i == b->n_known) {
        llm_gset_t fresh = { 0 };
        if (!llm_gb_work(b, LLM_UC_MAX / 64)
            || !(any & CATEGORY ? scan_category(b, &fresh, any) : scan_class(b, &fresh, any, none)))
        {
            LLM_GB_DROP(b, fresh.r, fresh.cap);
            return false;
        }
        uint32_t set = llm_gset_intern(b, &fresh);
        if (i == LLM_GB_KNOWN || b->rc != LLM_OK) {
            return b->rc == LLM_OK && llm_gset_union(b, s, &b->set[set]);
        }
        b->known[b->n_known++] = (llm_gknown_t) { any, none, set };
    }
    return llm_gset_union(b, s, &b->set[b->known[i].set]);
}

bool
llm_gset_add_category(llm_gb_t *b, llm_gset_t *s, const char *name, size_t n)
{
    static const char names[] = "L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po "
                                "S Sm Sc Sk So Z Zs Zl Zp Cc Cf Co ";
    static const struct { const char *name, *category; } longer[] = {
        { "Letter", "L" }, { "Uppercase_Letter", "Lu" }, { "Lowercase_Letter", "Ll" },
        { "Mark", "M" }, { "Number", "N" }, { "Decimal_Number", "Nd" }, { "Punctuation", "P" },
        { "Symbol", "S" }, { "Separator", "Z" },
    };
    for (size_t i = 0; i < sizeof(longer) / sizeof(longer[0]); i++) {
        if (strlen(longer[i].name) == n && memcmp(longer[i].name, name, n) == 0) {
            name = longer[i].category;
            n = strlen(name);
        }
    }
    for (const char *p = names; n > 0 && n <= 2 && *p != '\0'; p = strchr(p, ' ') + 1) {
        if (memcmp(p, name, n) == 0 && p[n] == ' ') {
            unsigned second = n == 2 ? (uint8_t) name[1] : 0;
            return llm_gset_add_class(b, s, CATEGORY | (unsigned) name[0] << 8 | second, 0);
        }
    }
    return false;
}

/* -------------------------------------------------------------- sequences */

#define MAX_SEQ 6

/* Bytes of consecutive characters: each position is a range. */
typedef struct { uint8_t n, lo[MAX_SEQ], hi[MAX_SEQ]; } seq_t;
typedef struct { seq_t *v; uint32_t n, cap; } seqs_t;

static bool
put_seq(llm_gb_t *b, seqs_t *out, const seq_t *s)
{
    if (!LLM_GB_ROOM(b, out->v, out->cap, (uint64_t) out->n + 1)) {
        return false;
    }
    out->v[out->n++] = *s;
    return true;
}

/*
 * Splits lo..hi until, in each part, every byte position runs through its whole range independently
 * of the others: at changes of length, and where trailing bytes do not cover 80..bf.
 */
static bool
put_utf8(llm_gb_t *b, seqs_t *out, uint32_t lo, uint32_t hi)
{
    static const uint32_t last_of_length[] = { 0x7f, 0x7ff, 0xffff };
    for (int i = 0; i < 3; i++) {
        if (lo <= last_of_length[i] && hi > last_of_length[i]) {
            return put_utf8(b, out, lo, last_of_length[i])
                   && put_utf8(b, out, last_of_length[i] + 1, hi);
        }
    }
    for (unsigned bits = 6; hi > 0x7f && bits <= 18; bits += 6) {
        uint32_t mask = ((uint32_t) 1 << bits) - 1;
        if ((lo & ~mask) != (hi & ~mask)) {
            if ((lo & mask) != 0) {
                return put_utf8(b, out, lo, lo | mask) && put_utf8(b, out, (lo | mask) + 1, hi);
            }
            if ((hi & mask) != mask) {
                return put_utf8(b, out, lo, (hi & ~mask) - 1) && put_utf8(b, out, hi & ~mask, hi);
            }
        }
    }
    seq_t s = { 0 };
    s.n = (uint8_t) llm_utf8_put(s.lo, lo);
    llm_utf8_put(s.hi, hi);
    return put_seq(b, out, &s);
}

static bool
put_escape(llm_gb_t *b, seqs_t *out, uint32_t c)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    seq_t s = { .n = 2, .lo = { '\\' } };
    const char *p = c != 0 ? strchr(from, (int) c) : NULL;
    if (p != NULL) {
        s.lo[1] = (uint8_t) to[p - from];
    } else {
        s.n = 6;
        s.lo[1] = 'u';
        s.lo[2] = s.lo[3] = '0';
        s.lo[4] = (uint8_t) ('0' + (c >> 4));
        s.lo[5] = (uint8_t) "0123456789abcdef"[c & 15];
    }
    memcpy(s.hi, s.lo, sizeof(s.hi));
    return put_seq(b, out, &s);
}

static bool
put_range(llm_gb_t *b, seqs_t *out, uint32_t lo, uint32_t hi, bool json)
{
    if (!json) {
        return put_utf8(b, out, lo, hi);
    }
    bool good = true;
    while (good && lo <= hi) {
        uint32_t to = hi;
        if (lo < 0x20 || lo == '"' || lo == '\\') {
            good = put_escape(b, out, lo);
            lo++;
            continue;
        }
        if (lo < '"' && to >= '"') {
            to = '"' - 1;
        } else if (lo < '\\' && to >= '\\') {
            to = '\\' - 1;
        }
        good = put_utf8(b, out, lo, to);
        lo = to + 1;
    }
    return good;
}

static int
by_bytes(const void *a, const void *b)
{
    const seq_t *x = a, *y = b;
    unsigned n = x->n < y->n ? x->n : y->n;
    int c = memcmp(x->lo, y->lo, n);
    return c != 0 ? c : (int) x->n - (int) y->n;
}

/* --------------------------------------------------------------- fragment */

/*
 * States on the path of the last sequence, not yet final; edge k of level i leads to level i + 1
 * while it is open.
 */
typedef struct {
    llm_gedge_t ed[256];
    uint32_t    n;
} level_t;

typedef struct {
    level_t   level[MAX_SEQ];
    uint32_t *slot, mask, cap;      /* finished states by content: index + 1 */
} path_t;

static bool
same(const llm_gb_t *b, uint32_t st, const level_t *l)
{
    const llm_gfstate_t *s = &b->frag_st[st];
    return s->n_edges == l->n
           && memcmp(&b->frag_ed[s->edge], l->ed, l->n * sizeof(llm_gedge_t)) == 0;
}

/* The finished state with the edges of the level. */
static uint32_t
freeze(llm_gb_t *b, path_t *p, level_t *l)
{
    uint32_t h = 2166136261u;
    for (uint32_t i = 0; i < l->n; i++) {
        h = (h ^ (l->ed[i].lo | (uint32_t) l->ed[i].hi << 8)) * 16777619u;
        h = (h ^ l->ed[i].to) * 16777619u;
    }
    if (!llm_gb_work(b, l->n + 4)) {
        return 0;
    }
    uint32_t i = (h ^ h >> 15) & p->mask;
    while (p->slot[i] != 0 && !same(b, p->slot[i] - 1, l)) {
        i = (i + 1) & p->mask;
    }
    if (p->slot[i] == 0) {
        if (!LLM_GB_ROOM(b, b->frag_st, b->cap_frag_st, (uint64_t) b->n_frag_st + 1)
            || !LLM_GB_ROOM(b, b->frag_ed, b->cap_frag_ed, (uint64_t) b->n_frag_ed + l->n))
        {
            return 0;
        }
        memcpy(&b->frag_ed[b->n_frag_ed], l->ed, l->n * sizeof(llm_gedge_t));
        b->frag_st[b->n_frag_st] = (llm_gfstate_t) { b->n_frag_ed, l->n };
        b->n_frag_ed += l->n;
        p->slot[i] = ++b->n_frag_st;
    }
    l->n = 0;
    return p->slot[i] - 1;
}

/* Finishes the levels below `keep`: the last edge of each level above gets its target. */
static void
close_levels(llm_gb_t *b, path_t *p, unsigned keep, unsigned n_last)
{
    for (unsigned i = n_last; i-- > keep + 1;) {
        level_t *up = &p->level[i - 1];
        up->ed[up->n - 1].to = freeze(b, p, &p->level[i]);
    }
}

static void
build_frag(llm_gb_t *b, const seqs_t *in, llm_gfrag_t *f)
{
    path_t *p = calloc(1, sizeof(*p));
    uint32_t cap = 64;
    while (cap < in->n * 8) {
        cap *= 2;
    }
    uint32_t *slot = NULL, slot_cap = 0;
    if (p == NULL) {
        llm_gb_nomem(b);
    }
    if (!LLM_GB_ROOM(b, slot, slot_cap, cap)) {
        free(p);
        return;
    }
    memset(slot, 0, slot_cap * sizeof(*slot));
    p->slot = slot;
    p->mask = cap - 1;
    f->st = b->n_frag_st;

    const seq_t *last = NULL;
    for (uint32_t i = 0; i < in->n && b->rc == LLM_OK; i++) {
        const seq_t *s = &in->v[i];
        unsigned same_n = 0;
        while (last != NULL && same_n < s->n && same_n < last->n
               && s->lo[same_n] == last->lo[same_n] && s->hi[same_n] == last->hi[same_n])
        {
            same_n++;
        }
        if (last != NULL) {
            close_levels(b, p, same_n, last->n);
        }
        for (unsigned k = same_n; k < s->n; k++) {
            level_t *l = &p->level[k];
            l->ed[l->n++] = (llm_gedge_t) { .lo = s->lo[k], .hi = s->hi[k], .to = LLM_G_NONE };
        }
        last = s;
    }
    if (last != NULL && b->rc == LLM_OK) {
        close_levels(b, p, 0, last->n);
        f->root = freeze(b, p, &p->level[0]);
    }
    f->n_st = b->n_frag_st - f->st;
    LLM_GB_DROP(b, slot, slot_cap);
    free(p);
}

const llm_gfrag_t *
llm_gfrag_get(llm_gb_t *b, uint32_t set, bool json)
{
    uint32_t i = 2 * set + json, had = b->cap_frag;
    if (!LLM_GB_ROOM(b, b->frag, b->cap_frag, (uint64_t) i + 1)) {
        return NULL;
    }
    memset(&b->frag[had], 0, (b->cap_frag - had) * sizeof(*b->frag));
    if (b->frag[i].n_st == 0) {
        seqs_t seqs = { 0 };
        bool good = true;
        for (uint32_t k = 0; good && k < b->set[set].n; k++) {
            good = put_range(b, &seqs, b->set[set].r[k].lo, b->set[set].r[k].hi, json);
        }
        if (good) {
            qsort(seqs.v, seqs.n, sizeof(seq_t), by_bytes);
            build_frag(b, &seqs, &b->frag[i]);
        }
        LLM_GB_DROP(b, seqs.v, seqs.cap);
    }
    return b->rc == LLM_OK ? &b->frag[i] : NULL;
}
