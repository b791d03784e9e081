/*
 * grammar_dfa.c - subset construction, products of regular automata.
 *
 * Calls of rules are symbols like bytes: a state calls a rule at most once, the places to go on in
 * are joined. Two edges over one byte may only be joined when they do the same to the counter;
 * counted rules are built so that this holds.
 */
#include "run/grammar_impl.h"

void
llm_gdfa_drop(llm_gb_t *b, llm_gdfa_t *d)
{
    LLM_GB_DROP(b, d->st, d->cap);
    LLM_GB_DROP(b, d->ed, d->cap_ed);
    LLM_GB_DROP(b, d->ca, d->cap_ca);
    *d = (llm_gdfa_t) { 0 };
}

static bool
add_edge(llm_gb_t *b, llm_gdfa_t *d, uint32_t first, llm_gedge_t e)
{
    if (d->n_ed > first) {
        llm_gedge_t *last = &d->ed[d->n_ed - 1];
        if (last->hi + 1 == e.lo && last->to == e.to && last->op == e.op) {
            last->hi = e.hi;
            return true;
        }
    }
    if (!LLM_GB_ROOM(b, d->ed, d->cap_ed, (uint64_t) d->n_ed + 1)) {
        return false;
    }
    d->ed[d->n_ed++] = e;
    return true;
}

/* ----------------------------------------------------- subset construction */

/* Targets over one stretch of bytes: a list in `link`. */
typedef struct {
    uint32_t head, n;
    uint8_t  op;
} stretch_t;

typedef struct { uint32_t to, next; } link_t;

typedef struct {
    llm_gb_t     *b;
    llm_gdfa_t   *d;
    uint32_t     *pool, n_pool, cap_pool;   /* members of all subsets, sorted */
    struct sub { uint32_t at, n, hash; } *sub;  /* per state of d */
    uint32_t      cap_sub;
    uint32_t     *slot, n_slot, cap_slot;   /* hash table: state + 1 */
    uint32_t     *single, cap_single;       /* state + 1 of the closure of one NFA state */
    uint32_t     *mark, cap_mark, stamp;
    llm_gvec_t    stack, set;
    link_t       *link;
    uint32_t      n_link, cap_link;
} det_t;

static bool
rehash(det_t *t, uint32_t n)
{
    if (!LLM_GB_ROOM(t->b, t->slot, t->cap_slot, n)) {
        return false;
    }
    memset(t->slot, 0, n * sizeof(*t->slot));
    t->n_slot = n;
    for (uint32_t i = 0; i < t->d->n; i++) {
        uint32_t k = t->sub[i].hash & (n - 1);
        while (t->slot[k] != 0) {
            k = (k + 1) & (n - 1);
        }
        t->slot[k] = i + 1;
    }
    return true;
}

static void
sort_set(uint32_t *v, uint32_t n)
{
    /* subsets are small or nearly sorted; shell sort keeps the worst case in bounds */
    for (uint32_t gap = n / 2; gap > 0; gap /= 2) {
        for (uint32_t i = gap; i < n; i++) {
            uint32_t x = v[i], k = i;
            while (k >= gap && v[k - gap] > x) {
                v[k] = v[k - gap];
                k -= gap;
            }
            v[k] = x;
        }
    }
}

/* NFA states that matter in a subset: those that read, call, or are the end. */
static bool
matters(const llm_gnfa_t *f, uint32_t s)
{
    if (s == 1) {
        return true;
    }
    for (uint32_t e = f->first[s]; e != LLM_G_NONE; e = f->ed[e].next) {
        if (f->ed[e].kind != LLM_GE_EPS) {
            return true;
        }
    }
    return false;
}

/* Adds the closure of s to t->set, unless it is there. */
static bool
close_over(det_t *t, uint32_t s)
{
    const llm_gnfa_t *f = &t->b->nfa;
    t->stack.n = 0;
    if (t->mark[s] != t->stamp) {
        t->mark[s] = t->stamp;
        llm_gvec_add(t->b, &t->stack, s);
    }
    while (t->stack.n > 0 && t->b->rc == LLM_OK) {
        s = t->stack.v[--t->stack.n];
        uint32_t n = 1;
        if (matters(f, s)) {
            llm_gvec_add(t->b, &t->set, s);
        }
        for (uint32_t e = f->first[s]; e != LLM_G_NONE; e = f->ed[e].next, n++) {
            if (f->ed[e].kind == LLM_GE_EPS && t->mark[f->ed[e].to] != t->stamp) {
                t->mark[f->ed[e].to] = t->stamp;
                llm_gvec_add(t->b, &t->stack, f->ed[e].to);
            }
        }
        llm_gb_work(t->b, n);
    }
    return t->b->rc == LLM_OK;
}

/* The state of the subset t->set; it is made when it is new. */
static uint32_t
intern(det_t *t)
{
    llm_gb_t *b = t->b;
    llm_gdfa_t *d = t->d;
    uint32_t n = t->set.n, h = 2166136261u;
    sort_set(t->set.v, n);
    for (uint32_t i = 0; i < n; i++) {
        h = (h ^ t->set.v[i]) * 16777619u;
        h ^= h >> 13;
    }
    if (!llm_gb_work(b, 2 * n + 1) || (2 * (d->n + 1) > t->n_slot && !rehash(t, t->n_slot * 2))) {
        return 0;
    }
    uint32_t k = h & (t->n_slot - 1);
    for (; t->slot[k] != 0; k = (k + 1) & (t->n_slot - 1)) {
        const struct sub *s = &t->sub[t->slot[k] - 1];
        if (s->hash == h && s->n == n
            && (n == 0 || memcmp(t->pool + s->at, t->set.v, n * sizeof(uint32_t)) == 0))
        {
            return t->slot[k] - 1;
        }
    }
    if (d->n >= LLM_GB_MAX_STATES) {
        return llm_gb_fail(b, "too complex");
    }
    if (!LLM_GB_ROOM(b, d->st, d->cap, (uint64_t) d->n + 1)
        || !LLM_GB_ROOM(b, t->sub, t->cap_sub, (uint64_t) d->n + 1)
        || !LLM_GB_ROOM(b, t->pool, t->cap_pool, (uint64_t) t->n_pool + n))
    {
        return 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        t->pool[t->n_pool + i] = t->set.v[i];
    }
    t->sub[d->n] = (struct sub) { t->n_pool, n, h };
    t->n_pool += n;
    d->st[d->n] = (llm_gdstate_t) { 0 };
    t->slot[k] = ++d->n;
    return d->n - 1;
}

/* The state of the closure of all targets in the list. */
static uint32_t
target(det_t *t, uint32_t head, uint32_t n)
{
    uint32_t only = t->link[head].to;
    for (uint32_t l = head; l != LLM_G_NONE && n > 1; l = t->link[l].next) {
        if (t->link[l].to != only) {
            only = LLM_G_NONE;
            break;
        }
    }
    if (only != LLM_G_NONE && t->single[only] != 0) {
        return t->single[only] - 1;
    }
    t->set.n = 0;
    t->stamp++;
    for (uint32_t l = head; l != LLM_G_NONE; l = t->link[l].next) {
        if (!close_over(t, t->link[l].to)) {
            return 0;
        }
    }
    uint32_t s = intern(t);
    if (only != LLM_G_NONE) {
        t->single[only] = s + 1;
    }
    return s;
}

static bool
put_link(det_t *t, uint32_t *head, uint32_t to)
{
    if (!llm_gb_work(t->b, 1)
        || !LLM_GB_ROOM(t->b, t->link, t->cap_link, (uint64_t) t->n_link + 1))
    {
        return false;
    }
    t->link[t->n_link] = (link_t) { to, *head };
    *head = t->n_link++;
    return true;
}

/* Byte edges of subset s. */
static bool
byte_edges(det_t *t, const struct sub *s, uint32_t at)
{
    const llm_gnfa_t *f = &t->b->nfa;
    bool cut[257] = { [0] = true };
    uint16_t lo[256], i_of[256];
    stretch_t part[256];
    unsigned n_part = 0;

    for (uint32_t i = 0; i < s->n; i++) {
        for (uint32_t e = f->first[t->pool[s->at + i]]; e != LLM_G_NONE; e = f->ed[e].next) {
            if (f->ed[e].kind == LLM_GE_BYTE) {
                cut[f->ed[e].lo] = cut[f->ed[e].hi + 1] = true;
            }
        }
    }
    for (unsigned c = 0; c < 256; c++) {
        if (cut[c]) {
            lo[n_part] = (uint16_t) c;
            part[n_part++] = (stretch_t) { .head = LLM_G_NONE };
        }
        i_of[c] = (uint16_t) (n_part - 1);
    }
    t->n_link = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        for (uint32_t e = f->first[t->pool[s->at + i]]; e != LLM_G_NONE; e = f->ed[e].next) {
            const llm_gnedge_t *x = &f->ed[e];
            for (unsigned p = i_of[x->lo]; x->kind == LLM_GE_BYTE && p <= i_of[x->hi]; p++) {
                if (part[p].n > 0 && part[p].op != x->op) {
                    llm_gb_fail(t->b, "too complex");
                    return false;
                }
                part[p].op = x->op;
                part[p].n++;
                if (!put_link(t, &part[p].head, x->to)) {
                    return false;
                }
            }
        }
    }
    llm_gdfa_t *d = t->d;
    uint32_t first = d->n_ed;
    for (unsigned p = 0; p < n_part; p++) {
        if (part[p].n > 0) {
            uint32_t to = target(t, part[p].head, part[p].n);
            uint8_t hi = (uint8_t) (p + 1 < n_part ? lo[p + 1] - 1 : 255);
            if (t->b->rc != LLM_OK
                || !add_edge(t->b, d, first,
                             (llm_gedge_t) { (uint8_t) lo[p], hi, part[p].op, 0, to }))
            {
                return false;
            }
        }
    }
    d->st[at].edge = first;
    d->st[at].n_edges = d->n_ed - first;
    return true;
}

/* Calls of subset s: the places to go on in are joined for each rule. */
static bool
call_edges(det_t *t, const struct sub *s, uint32_t at)
{
    const llm_gnfa_t *f = &t->b->nfa;
    llm_gdfa_t *d = t->d;
    uint32_t first = d->n_ca;

    t->n_link = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        for (uint32_t e = f->first[t->pool[s->at + i]]; e != LLM_G_NONE; e = f->ed[e].next) {
            if (f->ed[e].kind != LLM_GE_CALL) {
                continue;
            }
            uint32_t k = first;
            while (k < d->n_ca && d->ca[k].rule != f->ed[e].rule) {
                k++;
            }
            if (!llm_gb_work(t->b, 1 + k - first)
                || !LLM_GB_ROOM(t->b, d->ca, d->cap_ca, (uint64_t) d->n_ca + 1))
            {
                return false;
            }
            if (k == d->n_ca) {
                d->ca[d->n_ca++] = (llm_gcall_t) { f->ed[e].rule, LLM_G_NONE, 0 };
            }
            if (!put_link(t, &d->ca[k].ret, f->ed[e].to)) {
                return false;
            }
        }
    }
    for (uint32_t k = first; k < d->n_ca && t->b->rc == LLM_OK; k++) {
        d->ca[k].ret = target(t, d->ca[k].ret, 2);
    }
    d->st[at].call = first;
    d->st[at].n_calls = d->n_ca - first;
    return t->b->rc == LLM_OK;
}

bool
llm_gnfa_determinize(llm_gb_t *b, llm_gdfa_t *d)
{
    det_t t = { .b = b, .d = d };
    uint32_t n = b->nfa.n;

    *d = (llm_gdfa_t) { 0 };
    if (LLM_GB_ROOM(b, t.single, t.cap_single, n) && LLM_GB_ROOM(b, t.mark, t.cap_mark, n)
        && rehash(&t, 64))
    {
        memset(t.single, 0, n * sizeof(*t.single));
        memset(t.mark, 0, n * sizeof(*t.mark));
        t.stamp = 1;
        close_over(&t, 0);
        intern(&t);
        for (uint32_t i = 0; i < d->n && b->rc == LLM_OK; i++) {
            struct sub s = t.sub[i];
            for (uint32_t k = 0; k < s.n; k++) {
                d->st[i].final |= t.pool[s.at + k] == 1;
            }
            if (!byte_edges(&t, &s, i) || !call_edges(&t, &s, i)) {
                break;
            }
        }
    }
    LLM_GB_DROP(b, t.pool, t.cap_pool);
    LLM_GB_DROP(b, t.sub, t.cap_sub);
    LLM_GB_DROP(b, t.slot, t.cap_slot);
    LLM_GB_DROP(b, t.single, t.cap_single);
    LLM_GB_DROP(b, t.mark, t.cap_mark);
    LLM_GB_DROP(b, t.link, t.cap_link);
    llm_gvec_drop(b, &t.stack);
    llm_gvec_drop(b, &t.set);
    if (b->rc != LLM_OK) {
        llm_gdfa_drop(b, d);
    }
    return b->rc == LLM_OK;
}

/* --------------------------------------------------------------- products */

typedef struct {
    llm_gb_t         *b;
    const llm_gdfa_t *x, *y;
    llm_gdfa_t       *out;
    struct pair { uint32_t x, y; } *pair;
    uint32_t          cap_pair;
    uint32_t         *slot, n_slot, cap_slot;
} prod_t;

static uint32_t
pair_hash(const prod_t *p, uint32_t x, uint32_t y)
{
    uint32_t h = (x * 2654435761u) ^ (y * 2246822519u);
    return (h ^ h >> 15) & (p->n_slot - 1);
}

static bool
pair_rehash(prod_t *p, uint32_t n)
{
    if (!LLM_GB_ROOM(p->b, p->slot, p->cap_slot, n)) {
        return false;
    }
    memset(p->slot, 0, n * sizeof(*p->slot));
    p->n_slot = n;
    for (uint32_t i = 0; i < p->out->n; i++) {
        uint32_t k = pair_hash(p, p->pair[i].x, p->pair[i].y);
        while (p->slot[k] != 0) {
            k = (k + 1) & (n - 1);
        }
        p->slot[k] = i + 1;
    }
    return true;
}

/* y == LLM_G_NONE: the second automaton has failed (minus only). */
static uint32_t
pair_state(prod_t *p, uint32_t x, uint32_t y)
{
    llm_gb_t *b = p->b;
    llm_gdfa_t *d = p->out;
    if (!llm_gb_work(b, 2) || (2 * (d->n + 1) > p->n_slot && !pair_rehash(p, p->n_slot * 2))) {
        return 0;
    }
    uint32_t k = pair_hash(p, x, y);
    for (; p->slot[k] != 0; k = (k + 1) & (p->n_slot - 1)) {
        if (p->pair[p->slot[k] - 1].x == x && p->pair[p->slot[k] - 1].y == y) {
            return p->slot[k] - 1;
        }
    }
    if (d->n >= LLM_GB_MAX_STATES) {
        return llm_gb_fail(b, "too complex");
    }
    if (!LLM_GB_ROOM(b, d->st, d->cap, (uint64_t) d->n + 1)
        || !LLM_GB_ROOM(b, p->pair, p->cap_pair, (uint64_t) d->n + 1))
    {
        return 0;
    }
    p->pair[d->n] = (struct pair) { x, y };
    d->st[d->n] = (llm_gdstate_t) { 0 };
    p->slot[k] = ++d->n;
    return d->n - 1;
}

static void
pair_edges(prod_t *p, uint32_t at, bool minus)
{
    llm_gdfa_t *d = p->out;
    struct pair q = p->pair[at];
    const llm_gdstate_t *sx = &p->x->st[q.x], *sy = q.y == LLM_G_NONE ? NULL : &p->y->st[q.y];
    uint32_t first = d->n_ed, k = 0;

    d->st[at].final = sx->final && (minus ? sy == NULL || !sy->final : sy != NULL && sy->final);
    for (uint32_t i = 0; i < sx->n_edges && p->b->rc == LLM_OK; i++) {
        const llm_gedge_t *ex = &p->x->ed[sx->edge + i];
        unsigned lo = ex->lo;
        while (lo <= ex->hi && p->b->rc == LLM_OK) {
            const llm_gedge_t *ey = NULL;
            while (sy != NULL && k < sy->n_edges && p->y->ed[sy->edge + k].hi < lo) {
                k++;
            }
            if (sy != NULL && k < sy->n_edges) {
                ey = &p->y->ed[sy->edge + k];
            }
            bool both = ey != NULL && ey->lo <= lo;
            unsigned hi = ex->hi;
            if (ey != NULL && !both && ey->lo <= hi) {
                hi = ey->lo - 1u;
            } else if (both && ey->hi < hi) {
                hi = ey->hi;
            }
            if (both || minus) {
                uint32_t to = pair_state(p, ex->to, both ? ey->to : LLM_G_NONE);
                add_edge(p->b, d, first,
                         (llm_gedge_t) { (uint8_t) lo, (uint8_t) hi, LLM_GOP_NONE, 0, to });
            }
            lo = hi + 1;
        }
    }
    d->st[at].edge = first;
    d->st[at].n_edges = d->n_ed - first;
}

/* Drops states that cannot reach a final one; n == 0 when the entry is among them. */
static void
trim(llm_gb_t *b, llm_gdfa_t *d)
{
    uint32_t *from = NULL, *head = NULL, *next = NULL, cap_from = 0, cap_head = 0, cap_next = 0;
    llm_gvec_t stack = { 0 };
    uint32_t *live = NULL, cap_live = 0;

    if (!LLM_GB_ROOM(b, from, cap_from, d->n_ed) || !LLM_GB_ROOM(b, next, cap_next, d->n_ed)
        || !LLM_GB_ROOM(b, head, cap_head, d->n) || !LLM_GB_ROOM(b, live, cap_live, d->n)
        || !llm_gb_work(b, d->n + d->n_ed))
    {
        goto done;
    }
    memset(live, 0, d->n * sizeof(*live));
    memset(head, 0xff, d->n * sizeof(*head));
    for (uint32_t i = 0; i < d->n; i++) {
        for (uint32_t k = 0; k < d->st[i].n_edges; k++) {
            uint32_t e = d->st[i].edge + k;
            from[e] = i;
            next[e] = head[d->ed[e].to];
            head[d->ed[e].to] = e;
        }
        if (d->st[i].final) {
            live[i] = 1;
            llm_gvec_add(b, &stack, i);
        }
    }
    while (stack.n > 0 && b->rc == LLM_OK) {
        for (uint32_t e = head[stack.v[--stack.n]]; e != LLM_G_NONE; e = next[e]) {
            if (!live[from[e]]) {
                live[from[e]] = 1;
                llm_gvec_add(b, &stack, from[e]);
            }
        }
    }
    if (b->rc != LLM_OK || !live[0]) {
        goto done;
    }
    uint32_t n = 0;
    for (uint32_t i = 0; i < d->n; i++) {
        live[i] = live[i] ? ++n : 0;
    }
    for (uint32_t i = 0; i < d->n; i++) {
        llm_gdstate_t s = d->st[i];
        uint32_t kept = 0;
        for (uint32_t k = 0; k < s.n_edges; k++) {
            llm_gedge_t e = d->ed[s.edge + k];
            if (live[e.to]) {
                e.to = live[e.to] - 1;
                d->ed[s.edge + kept++] = e;
            }
        }
        s.n_edges = kept;
        if (live[i]) {
            d->st[live[i] - 1] = s;
        }
    }
    d->n = n;
done:
    if (live == NULL || d->n == 0 || b->rc != LLM_OK || !live[0]) {
        llm_gdfa_drop(b, d);
    }
    LLM_GB_DROP(b, from, cap_from);
    LLM_GB_DROP(b, next, cap_next);
    LLM_GB_DROP(b, head, cap_head);
    LLM_GB_DROP(b, live, cap_live);
    llm_gvec_drop(b, &stack);
}

bool
llm_gdfa_product(llm_gb_t *b, const llm_gdfa_t *x, const llm_gdfa_t *y, bool minus, llm_gdfa_t *out)
{
    prod_t p = { .b = b, .x = x, .y = y, .out = out };
    *out = (llm_gdfa_t) { 0 };
    if (x->n == 0 || (y->n == 0 && !minus) || !pair_rehash(&p, 64)) {
        return b->rc == LLM_OK;
    }
    pair_state(&p, 0, y->n == 0 ? LLM_G_NONE : 0);
    for (uint32_t i = 0; i < out->n && b->rc == LLM_OK; i++) {
        pair_edges(&p, i, minus);
    }
    LLM_GB_DROP(b, p.pair, p.cap_pair);
    LLM_GB_DROP(b, p.slot, p.cap_slot);
    if (b->rc == LLM_OK) {
        trim(b, out);
    } else {
        llm_gdfa_drop(b, out);
    }
    return b->rc == LLM_OK;
}

bool
llm_gdfa_matches(const llm_gdfa_t *d, const void *s, size_t n)
{
    const uint8_t *c = s;
    uint32_t at = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t k = 0;
        const llm_gdstate_t *st = d->n > 0 ? &d->st[at] : NULL;
        while (st != NULL && k < st->n_edges && d->ed[st->edge + k].hi < c[i]) {
            k++;
        }
        if (st == NULL || k == st->n_edges || d->ed[st->edge + k].lo > c[i]) {
            return false;
        }
        at = d->ed[st->edge + k].to;
    }
    return d->n > 0 && d->st[at].final;
}

static uint32_t
product_node(llm_gb_t *b, uint32_t x, uint32_t y, bool minus)
{
    llm_gdfa_t dx = { 0 }, dy = { 0 }, out = { 0 };
    uint32_t node = LLM_GN_FAIL_NODE;
    if (llm_gdfa_node(b, x, &dx) && llm_gdfa_node(b, y, &dy)
        && llm_gdfa_product(b, &dx, &dy, minus, &out))
    {
        node = llm_gn_dfa(b, &out);
    }
    llm_gdfa_drop(b, &dx);
    llm_gdfa_drop(b, &dy);
    return node;
}

uint32_t
llm_gn_and(llm_gb_t *b, uint32_t x, uint32_t y)
{
    return product_node(b, x, y, false);
}

uint32_t
llm_gn_minus(llm_gb_t *b, uint32_t x, uint32_t y)
{
    return product_node(b, x, y, true);
}
