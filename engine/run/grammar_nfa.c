/*
 * grammar_nfa.c - nodes to a nondeterministic automaton (K. Thompson 1968,
 * doi.org/10.1145/363347.363387).
 *
 * State 0 is the start, state 1 the end. References to rules that are not marked `call` are built
 * in place. Edges keep the order of the text: it decides which readings of an ambiguous text are
 * kept at run time.
 */
#include "run/grammar_impl.h"

static uint32_t
state(llm_gb_t *b)
{
    llm_gnfa_t *f = &b->nfa;
    if (!llm_gb_work(b, 1) || !LLM_GB_ROOM(b, f->first, f->cap, (uint64_t) f->n + 1)
        || !LLM_GB_ROOM(b, f->last, f->cap_last, (uint64_t) f->n + 1))
    {
        return 0;
    }
    f->first[f->n] = f->last[f->n] = LLM_G_NONE;
    return f->n++;
}

static void
edge(llm_gb_t *b, uint32_t from, llm_gnedge_t e)
{
    llm_gnfa_t *f = &b->nfa;
    if (!llm_gb_work(b, 1) || !LLM_GB_ROOM(b, f->ed, f->cap_ed, (uint64_t) f->n_ed + 1)) {
        return;
    }
    e.next = LLM_G_NONE;
    f->ed[f->n_ed] = e;
    if (f->last[from] == LLM_G_NONE) {
        f->first[from] = f->n_ed;
    } else {
        f->ed[f->last[from]].next = f->n_ed;
    }
    f->last[from] = f->n_ed++;
}

static void
eps(llm_gb_t *b, uint32_t from, uint32_t to)
{
    if (from != to) {
        edge(b, from, (llm_gnedge_t) { .kind = LLM_GE_EPS, .to = to });
    }
}

static void
byte(llm_gb_t *b, uint32_t from, uint8_t lo, uint8_t hi, uint8_t op, uint32_t to)
{
    edge(b, from, (llm_gnedge_t) { .kind = LLM_GE_BYTE, .lo = lo, .hi = hi, .op = op, .to = to });
}

static void build(llm_gb_t *b, uint32_t node, uint32_t from, uint32_t to, uint8_t op);

static void
build_lit(llm_gb_t *b, const llm_gnode_t *n, uint32_t from, uint32_t to, uint8_t op)
{
    for (uint32_t i = 0; i < n->n && b->rc == LLM_OK; i++) {
        uint32_t next = i + 1 == n->n ? to : state(b);
        uint8_t c = b->bytes[n->a + i];
        byte(b, from, c, c, op, next);
        from = next;
        op = LLM_GOP_NONE;
    }
}

static void
build_class(llm_gb_t *b, const llm_gnode_t *n, uint32_t from, uint32_t to, uint8_t op)
{
    const llm_gfrag_t *f = llm_gfrag_get(b, n->a, n->json);
    if (f == NULL) {
        return;
    }
    /* the last state is the root; every other one gets a state of its own */
    uint32_t st = f->st, n_st = f->n_st, root = f->root, base = b->nfa.n;
    for (uint32_t i = 0; i + 1 < n_st; i++) {
        state(b);
    }
    for (uint32_t i = 0; i < n_st && b->rc == LLM_OK; i++) {
        const llm_gfstate_t *s = &b->frag_st[st + i];
        uint32_t at = st + i == root ? from : base + i;
        for (uint32_t k = 0; k < s->n_edges; k++) {
            const llm_gedge_t *e = &b->frag_ed[s->edge + k];
            byte(b, at, e->lo, e->hi, st + i == root ? op : LLM_GOP_NONE,
                 e->to == LLM_G_NONE ? to : base + (e->to - st));
        }
    }
}

static void
build_seq(llm_gb_t *b, const llm_gnode_t *n, uint32_t from, uint32_t to, uint8_t op)
{
    uint32_t a = n->a, count = n->n;
    for (uint32_t i = 0; i < count && b->rc == LLM_OK; i++) {
        uint32_t next = i + 1 == count ? to : state(b);
        build(b, b->kids.v[a + i], from, next, op);
        from = next;
        op = LLM_GOP_NONE;
    }
}

static void
build_rep(llm_gb_t *b, const llm_gnode_t *n, uint32_t from, uint32_t to)
{
    uint32_t x = n->a, min = n->min, max = n->max;
    for (uint32_t i = 0; i < min && b->rc == LLM_OK; i++) {
        uint32_t next = state(b);
        build(b, x, from, next, LLM_GOP_NONE);
        from = next;
    }
    if (max == LLM_G_INF) {
        /* a loop of its own: from and to may have other edges */
        uint32_t loop = state(b);
        eps(b, from, loop);
        build(b, x, loop, loop, LLM_GOP_NONE);
        eps(b, loop, to);
        return;
    }
    for (uint32_t i = min; i < max && b->rc == LLM_OK; i++) {
        uint32_t next = state(b);
        build(b, x, from, next, LLM_GOP_NONE);
        eps(b, from, to);
        from = next;
    }
    eps(b, from, to);
}

static void
build_dfa(llm_gb_t *b, const llm_gdfa_t *d, uint32_t from, uint32_t to)
{
    uint32_t base = b->nfa.n;
    for (uint32_t i = 0; i < d->n; i++) {
        state(b);
    }
    eps(b, from, base);
    for (uint32_t i = 0; i < d->n && b->rc == LLM_OK; i++) {
        const llm_gdstate_t *s = &d->st[i];
        for (uint32_t k = 0; k < s->n_edges; k++) {
            const llm_gedge_t *e = &d->ed[s->edge + k];
            byte(b, base + i, e->lo, e->hi, LLM_GOP_NONE, base + e->to);
        }
        if (s->final) {
            eps(b, base + i, to);
        }
    }
}

/*
 * Items in order, some of them optional. none: nothing was written yet; some: something was. Both
 * lead to the same item, so n optional items take n states, not 2^n.
 */
static void
build_members(llm_gb_t *b, const llm_gnode_t *n, uint32_t from, uint32_t to)
{
    uint32_t a = n->a, n_items = (n->n - 3) / 2;
    uint32_t lead = b->kids.v[a], sep = b->kids.v[a + 1], extra = b->kids.v[a + 2];
    uint32_t none = from, some = LLM_G_NONE;

    for (uint32_t i = 0; i < n_items && b->rc == LLM_OK; i++) {
        uint32_t item = b->kids.v[a + 3 + 2 * i];
        bool optional = b->kids.v[a + 4 + 2 * i] != 0;
        uint32_t at = state(b), after = state(b);
        if (none != LLM_G_NONE) {
            build(b, lead, none, at, LLM_GOP_NONE);
        }
        if (some != LLM_G_NONE) {
            build(b, sep, some, at, LLM_GOP_NONE);
        }
        build(b, item, at, after, LLM_GOP_NONE);
        if (optional && some != LLM_G_NONE) {
            eps(b, some, after);
        }
        none = optional ? none : LLM_G_NONE;
        some = after;
    }
    if (extra != LLM_GN_FAIL_NODE) {
        uint32_t at = state(b), after = state(b);
        if (none != LLM_G_NONE) {
            build(b, lead, none, at, LLM_GOP_NONE);
        }
        if (some != LLM_G_NONE) {
            build(b, sep, some, at, LLM_GOP_NONE);
            eps(b, some, after);
        }
        build(b, extra, at, after, LLM_GOP_NONE);
        build(b, sep, after, at, LLM_GOP_NONE);
        some = after;
    }
    if (none != LLM_G_NONE) {
        eps(b, none, to);
    }
    if (some != LLM_G_NONE) {
        eps(b, some, to);
    }
}

static void
build(llm_gb_t *b, uint32_t node, uint32_t from, uint32_t to, uint8_t op)
{
    if (b->rc != LLM_OK) {
        return;
    }
    llm_gnode_t n = b->node[node];      /* a copy: building may move the array */
    switch (n.kind) {
    case LLM_GN_EMPTY:
        eps(b, from, to);
        break;
    case LLM_GN_LIT:
        build_lit(b, &n, from, to, op);
        break;
    case LLM_GN_BYTE:
        byte(b, from, n.lo, n.hi, op, to);
        break;
    case LLM_GN_CLASS:
        build_class(b, &n, from, to, op);
        break;
    case LLM_GN_SEQ:
        build_seq(b, &n, from, to, op);
        break;
    case LLM_GN_ALT:
        for (uint32_t i = 0; i < n.n; i++) {
            build(b, b->kids.v[n.a + i], from, to, op);
        }
        break;
    case LLM_GN_REP:
        build_rep(b, &n, from, to);
        break;
    case LLM_GN_MEMBERS:
        build_members(b, &n, from, to);
        break;
    case LLM_GN_DFA:
        build_dfa(b, &b->dfa[n.a], from, to);
        break;
    case LLM_GN_REF:
        if (!b->rule[n.a].call) {
            build(b, b->rule[n.a].body, from, to, op);
            break;
        }
        if (n.a == b->building && to == 1 && from != 0) {
            /* the rule ends in itself: it goes on at its beginning, without a frame */
            eps(b, from, 0);
            break;
        }
        edge(b, from, (llm_gnedge_t) { .kind = LLM_GE_CALL, .rule = n.a, .to = to });
        if (b->rule[n.a].nullable) {
            eps(b, from, to);
        }
        break;
    default:
        break;      /* FAIL; anchors do not leave the regex parser */
    }
}

/* A string of counted characters: 0 -"-> m, m -char-> m, m -"-> 1. */
static void
build_string(llm_gb_t *b, const llm_gbrule_t *r)
{
    bool counted = r->min > 0 || r->max != LLM_G_INF;
    uint32_t m = state(b);
    byte(b, 0, '"', '"', LLM_GOP_NONE, m);
    build(b, llm_gj_strchar(b), m, m, counted ? LLM_GOP_COUNT : LLM_GOP_NONE);
    byte(b, m, '"', '"', counted ? LLM_GOP_ENOUGH : LLM_GOP_NONE, 1);
}

/* A list whose commas are counted: one less than its items. */
static void
build_list(llm_gb_t *b, const llm_gbrule_t *r)
{
    uint32_t open = state(b), first = state(b), item = state(b), done = state(b);
    uint32_t gap = state(b), comma = state(b);
    byte(b, 0, r->open, r->open, LLM_GOP_NONE, open);
    build(b, llm_gj_space(b), open, first, LLM_GOP_NONE);
    if (r->empty) {
        byte(b, first, r->close, r->close, LLM_GOP_NONE, 1);
    }
    eps(b, first, item);
    build(b, r->body, item, done, LLM_GOP_NONE);
    build(b, llm_gj_space(b), done, gap, LLM_GOP_NONE);
    byte(b, gap, ',', ',', LLM_GOP_COUNT, comma);
    byte(b, gap, r->close, r->close, LLM_GOP_ENOUGH, 1);
    build(b, llm_gj_space(b), comma, item, LLM_GOP_NONE);
}

static void
reset(llm_gb_t *b)
{
    b->nfa.n = b->nfa.n_ed = 0;
    state(b);
    state(b);
}

bool
llm_gdfa_rule(llm_gb_t *b, uint32_t rule, llm_gdfa_t *d)
{
    llm_gbrule_t r = b->rule[rule];
    reset(b);
    b->building = rule;
    switch (r.kind) {
    case LLM_GR_STRING:
        build_string(b, &r);
        break;
    case LLM_GR_LIST:
        build_list(b, &r);
        break;
    default:
        build(b, r.body, 0, 1, LLM_GOP_NONE);
        break;
    }
    if (!llm_gnfa_determinize(b, d)) {
        return false;
    }
    if (!llm_gdfa_minimize(b, d)) {
        llm_gdfa_drop(b, d);
        return false;
    }
    return true;
}

bool
llm_gdfa_node(llm_gb_t *b, uint32_t node, llm_gdfa_t *d)
{
    reset(b);
    b->building = LLM_G_NONE;
    build(b, node, 0, 1, LLM_GOP_NONE);
    return llm_gnfa_determinize(b, d);
}
