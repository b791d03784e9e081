/*
 * grammar_build.c - from rules to one automaton: which rules are copied into their callers and
 * which are called.
 *
 * A rule is called when it is recursive, counts, is shared between grammars, or is large and used
 * more than once; every other one is copied, so that alternatives with a common beginning become
 * one path. Nodes refer only to nodes made before them, which bounds the recursion below by the
 * depth that check_depth measured.
 */
#include "run/grammar_impl.h"

#include <stdlib.h>

#define MAX_DEPTH     1000u     /* nodes above each other, rules copied in included */
#define COPY_MAX      400u      /* nodes of a rule that is copied more than once */
#define COPY_MAX_ONCE 20000u

/* What is known of the rules while they are analysed. */
typedef struct {
    llm_gb_t *b;
    uint32_t *depth, *size, cap_depth, cap_size;    /* per node; size 0: not measured */
    uint32_t *ref_at, cap_ref_at;                   /* per rule: its part of refs */
    llm_gvec_t refs;                                /* rules that a rule mentions */
    llm_gvec_t order;                               /* rules, those mentioned first */
    uint32_t *loop, cap_loop;                       /* per rule: 1 when it can reach itself */
} ana_t;

static uint32_t
n_kids(const llm_gnode_t *n)
{
    return n->kind == LLM_GN_SEQ || n->kind == LLM_GN_ALT || n->kind == LLM_GN_MEMBERS ? n->n : 0;
}

/* Kid i of a list; node 1 where the list holds a flag. */
static uint32_t
kid(const llm_gb_t *b, const llm_gnode_t *n, uint32_t i)
{
    if (n->kind == LLM_GN_MEMBERS && i > 3 && i % 2 == 0) {
        return LLM_GN_EMPTY_NODE;
    }
    return b->kids.v[n->a + i];
}

static bool
check_depth(ana_t *a)
{
    llm_gb_t *b = a->b;
    if (!LLM_GB_ROOM(b, a->depth, a->cap_depth, b->n_node)
        || !LLM_GB_ROOM(b, a->size, a->cap_size, b->n_node))
    {
        return false;
    }
    memset(a->size, 0, b->n_node * sizeof(*a->size));
    for (uint32_t i = 0; i < b->n_node; i++) {
        const llm_gnode_t *n = &b->node[i];
        uint32_t d = n->kind == LLM_GN_REP ? a->depth[n->a] : 0;
        for (uint32_t k = 0; k < n_kids(n); k++) {
            uint32_t kd = a->depth[kid(b, n, k)];
            d = kd > d ? kd : d;
        }
        a->depth[i] = d + 1;
        if (d >= MAX_DEPTH || !llm_gb_work(b, 1 + n_kids(n))) {
            llm_gb_fail(b, "too complex");
            return false;
        }
    }
    return true;
}

/* ---------------------------------------------------------------- nullable */

static bool
node_nullable(const llm_gb_t *b, const uint8_t *nl, const llm_gnode_t *n)
{
    bool all = true, any = false;
    switch (n->kind) {
    case LLM_GN_EMPTY:
        return true;
    case LLM_GN_SEQ:
    case LLM_GN_ALT:
        for (uint32_t k = 0; k < n->n; k++) {
            all = all && nl[b->kids.v[n->a + k]];
            any = any || nl[b->kids.v[n->a + k]];
        }
        return n->kind == LLM_GN_SEQ ? all : any;
    case LLM_GN_REP:
        return n->min == 0 || nl[n->a];
    case LLM_GN_MEMBERS:
        for (uint32_t k = 3; k < n->n; k += 2) {
            all = all && (b->kids.v[n->a + k + 1] != 0 || nl[b->kids.v[n->a + k]]);
        }
        return all;
    case LLM_GN_DFA:
        return b->dfa[n->a].st[0].final;
    case LLM_GN_REF:
        return b->rule[n->a].nullable;
    default:
        return false;
    }
}

/* Least fixed point over all rules. */
static bool
find_nullable(llm_gb_t *b)
{
    uint8_t *nl = NULL;
    uint32_t cap = 0;
    bool changed = LLM_GB_ROOM(b, nl, cap, b->n_node);
    while (changed && llm_gb_work(b, b->n_node + b->kids.n)) {
        changed = false;
        for (uint32_t i = 0; i < b->n_node; i++) {
            nl[i] = node_nullable(b, nl, &b->node[i]);
        }
        for (uint32_t r = 0; r < b->n_rule; r++) {
            if (!b->rule[r].nullable && b->rule[r].kind == LLM_GR_PLAIN && nl[b->rule[r].body]) {
                b->rule[r].nullable = changed = true;
            }
        }
    }
    LLM_GB_DROP(b, nl, cap);
    return b->rc == LLM_OK;
}

/* --------------------------------------------------------------- references */

/* refs: the rules that each rule mentions, once each. */
static bool
find_refs(ana_t *a)
{
    llm_gb_t *b = a->b;
    llm_gvec_t stack = { 0 };
    uint32_t *seen = NULL, *seen_rule = NULL, cap_seen = 0, cap_rule = 0;
    bool good = LLM_GB_ROOM(b, a->ref_at, a->cap_ref_at, (uint64_t) b->n_rule + 1)
                && LLM_GB_ROOM(b, seen, cap_seen, b->n_node)
                && LLM_GB_ROOM(b, seen_rule, cap_rule, b->n_rule);
    if (good) {
        memset(seen, 0, b->n_node * sizeof(*seen));
        memset(seen_rule, 0, b->n_rule * sizeof(*seen_rule));
    }
    for (uint32_t r = 0; good && r < b->n_rule; r++) {
        a->ref_at[r] = a->refs.n;
        llm_gvec_add(b, &stack, b->rule[r].body);
        while (stack.n > 0 && b->rc == LLM_OK) {
            uint32_t i = stack.v[--stack.n];
            const llm_gnode_t *n = &b->node[i];
            if (seen[i] == r + 1 || !llm_gb_work(b, 1 + n_kids(n))) {
                continue;
            }
            seen[i] = r + 1;
            if (n->kind == LLM_GN_REF) {
                b->rule[n->a].uses++;
                if (seen_rule[n->a] != r + 1) {
                    seen_rule[n->a] = r + 1;
                    llm_gvec_add(b, &a->refs, n->a);
                }
            } else if (n->kind == LLM_GN_REP) {
                llm_gvec_add(b, &stack, n->a);
            }
            for (uint32_t k = 0; k < n_kids(n); k++) {
                llm_gvec_add(b, &stack, kid(b, n, k));
            }
        }
        a->ref_at[r + 1] = a->refs.n;
    }
    LLM_GB_DROP(b, seen, cap_seen);
    LLM_GB_DROP(b, seen_rule, cap_rule);
    llm_gvec_drop(b, &stack);
    return b->rc == LLM_OK;
}

/* One rule on the path of the depth-first search. */
typedef struct { uint32_t rule, next; } visit_t;

/*
 * Strongly connected components (R. Tarjan 1972, doi.org/10.1137/0201010) without recursion:
 * a->order gets the rules with those they mention first, a->loop[r] is 1 for rules of a component
 * that has a cycle.
 */
static bool
find_loops(ana_t *a)
{
    llm_gb_t *b = a->b;
    uint32_t *num = NULL, *low = NULL, cap_num = 0, cap_low = 0, count = 0, n_path = 0,
             cap_path = 0;
    visit_t *path = NULL;
    llm_gvec_t open = { 0 };

    if (LLM_GB_ROOM(b, num, cap_num, b->n_rule) && LLM_GB_ROOM(b, low, cap_low, b->n_rule)
        && LLM_GB_ROOM(b, a->loop, a->cap_loop, b->n_rule)
        && LLM_GB_ROOM(b, path, cap_path, b->n_rule))
    {
        memset(num, 0, b->n_rule * sizeof(*num));
        memset(a->loop, 0, b->n_rule * sizeof(*a->loop));
    }
    for (uint32_t root = 0; b->rc == LLM_OK && root < b->n_rule; root++) {
        if (num[root] != 0) {
            continue;
        }
        path[n_path++] = (visit_t) { root, a->ref_at[root] };
        num[root] = low[root] = ++count;
        llm_gvec_add(b, &open, root);
        while (n_path > 0 && llm_gb_work(b, 1)) {
            visit_t *v = &path[n_path - 1];
            uint32_t r = v->rule;
            if (v->next < a->ref_at[r + 1]) {
                uint32_t to = a->refs.v[v->next++];
                if (to == r) {
                    a->loop[r] = 1;
                }
                if (num[to] == 0) {
                    num[to] = low[to] = ++count;
                    llm_gvec_add(b, &open, to);
                    path[n_path++] = (visit_t) { to, a->ref_at[to] };
                } else if (num[to] != LLM_G_NONE && num[to] < low[r]) {
                    low[r] = num[to];
                }
                continue;
            }
            n_path--;
            if (n_path > 0 && low[r] < low[path[n_path - 1].rule]) {
                low[path[n_path - 1].rule] = low[r];
            }
            llm_gvec_add(b, &a->order, r);
            if (low[r] == num[r] && b->rc == LLM_OK) {
                bool many = open.v[open.n - 1] != r;
                uint32_t x;
                do {
                    x = open.v[--open.n];
                    a->loop[x] |= many;
                    num[x] = LLM_G_NONE;
                } while (x != r);
            }
        }
    }
    LLM_GB_DROP(b, num, cap_num);
    LLM_GB_DROP(b, low, cap_low);
    LLM_GB_DROP(b, path, cap_path);
    llm_gvec_drop(b, &open);
    return b->rc == LLM_OK;
}

/* ------------------------------------------------------------- copy or call */

static uint32_t
sat_add(uint32_t x, uint32_t y)
{
    return x > UINT32_MAX - 1 - y ? UINT32_MAX - 1 : x + y;
}

/* Size and depth of a node with the rules that are copied into it. */
static void
measure(ana_t *a, uint32_t i)
{
    llm_gb_t *b = a->b;
    const llm_gnode_t *n = &b->node[i];
    uint32_t size = 1, depth = 0;
    if (a->size[i] != 0) {
        return;
    }
    for (uint32_t k = 0; k < n_kids(n); k++) {
        uint32_t x = kid(b, n, k);
        measure(a, x);
        size = sat_add(size, a->size[x]);
        depth = a->depth[x] > depth ? a->depth[x] : depth;
    }
    switch (n->kind) {
    case LLM_GN_LIT:
        size = n->n;
        break;
    case LLM_GN_CLASS:
        size = 4 + b->set[n->a].n;
        break;
    case LLM_GN_DFA:
        size = b->dfa[n->a].n;
        break;
    case LLM_GN_REP:
        measure(a, n->a);
        depth = a->depth[n->a];
        size = n->max == LLM_G_INF ? n->min + 1 : n->max;
        size = a->size[n->a] > (UINT32_MAX - 2) / size ? UINT32_MAX - 1 : size * a->size[n->a];
        break;
    case LLM_GN_REF:
        if (!b->rule[n->a].call) {
            size = b->rule[n->a].size;
            depth = b->rule[n->a].depth;
        }
        break;
    default:
        break;
    }
    a->size[i] = size > 0 ? size : 1;
    a->depth[i] = depth + 1;
}

static void
decide(ana_t *a)
{
    llm_gb_t *b = a->b;
    for (uint32_t i = 0; i < b->n_rule; i++) {
        llm_gbrule_t *r = &b->rule[i];
        r->call = r->builtin != 0 || r->kind != LLM_GR_PLAIN || a->loop[i];
    }
    for (uint32_t i = 0; i < a->order.n; i++) {
        llm_gbrule_t *r = &b->rule[a->order.v[i]];
        measure(a, r->body);
        r->size = a->size[r->body];
        r->depth = a->depth[r->body];
        r->call = r->call || r->size > (r->uses > 1 ? COPY_MAX : COPY_MAX_ONCE)
                  || r->depth > MAX_DEPTH / 2;
    }
}

/* ------------------------------------------------------------ one automaton */

/* Edges over bytes that the model cannot write are left out. */
static bool
copy_edges(llm_gb_t *b, const llm_gdfa_t *d, const llm_gdstate_t *s, uint32_t base, llm_gdfa_t *all)
{
    for (uint32_t k = 0; k < s->n_edges; k++) {
        llm_gedge_t e = d->ed[s->edge + k];
        for (unsigned c = e.lo; c <= e.hi; c++) {
            if (!llm_gbytes_has(&b->alphabet, c)) {
                continue;
            }
            unsigned hi = c;
            while (hi < e.hi && llm_gbytes_has(&b->alphabet, hi + 1)) {
                hi++;
            }
            if (!LLM_GB_ROOM(b, all->ed, all->cap_ed, (uint64_t) all->n_ed + 1)) {
                return false;
            }
            all->ed[all->n_ed++]
                = (llm_gedge_t) { (uint8_t) c, (uint8_t) hi, e.op, 0, base + e.to };
            c = hi;
        }
    }
    return true;
}

/*
 * Appends the automaton of a rule. A rule that is called must not match the empty text: its entry
 * becomes a state that no edge leads to and that is not final.
 */
static bool
append(llm_gb_t *b, const llm_gdfa_t *d, bool called, llm_gauto_t *g)
{
    llm_gdfa_t *all = &g->all;
    bool fresh = called && d->st[0].final, entered = false;
    for (uint32_t i = 0; fresh && i < d->n_ed; i++) {
        entered = entered || d->ed[i].to == 0;
    }
    for (uint32_t i = 0; fresh && i < d->n_ca; i++) {
        entered = entered || d->ca[i].ret == 0;
    }
    uint32_t base = all->n, n = d->n + (fresh && entered), shift = fresh && entered;
    if (all->n + n > LLM_GB_MAX_STATES) {
        llm_gb_fail(b, "too complex");
        return false;
    }
    if (!LLM_GB_ROOM(b, all->st, all->cap, (uint64_t) all->n + n)
        || !LLM_GB_ROOM(b, all->ca, all->cap_ca, (uint64_t) all->n_ca + 2 * d->n_ca))
    {
        return false;
    }
    for (uint32_t i = 0; i < n; i++) {
        const llm_gdstate_t *s = &d->st[i < shift ? 0 : i - shift];
        llm_gdstate_t *t = &all->st[base + i];
        *t = (llm_gdstate_t) { .edge = all->n_ed, .call = all->n_ca, .n_calls = s->n_calls };
        t->final = s->final && !(fresh && i == 0);
        if (!llm_gb_work(b, 1 + s->n_edges + s->n_calls)
            || !copy_edges(b, d, s, base + shift, all))
        {
            return false;
        }
        t->n_edges = all->n_ed - t->edge;
        for (uint32_t k = 0; k < s->n_calls; k++) {
            llm_gcall_t c = d->ca[s->call + k];
            all->ca[all->n_ca++] = (llm_gcall_t) { c.rule, base + shift + c.ret, 0 };
        }
    }
    all->n += n;
    return true;
}

/*
 * The rules that can be reached by calls from the root, each with its states; calls refer to these
 * rules afterwards.
 */
static bool
collect(llm_gb_t *b, uint32_t root, llm_gauto_t *g)
{
    llm_gvec_t at = { 0 };      /* index + 1 of a rule in g->rule */
    for (uint32_t i = 0; i < b->n_rule; i++) {
        llm_gvec_add(b, &at, 0);
    }
    if (!LLM_GB_ROOM(b, g->rule, g->cap_rule, 1)) {
        goto done;
    }
    g->rule[g->n_rule++] = (llm_garule_t) { .rule = root };
    at.v[root] = 1;
    for (uint32_t i = 0; i < g->n_rule && b->rc == LLM_OK; i++) {
        llm_gdfa_t d = { 0 };
        uint32_t first_call = g->all.n_ca;
        g->rule[i].state0 = g->all.n;
        if (!llm_gdfa_rule(b, g->rule[i].rule, &d) || !append(b, &d, i > 0, g)) {
            llm_gdfa_drop(b, &d);
            break;
        }
        llm_gdfa_drop(b, &d);
        g->rule[i].n_states = g->all.n - g->rule[i].state0;
        for (uint32_t k = first_call; k < g->all.n_ca; k++) {
            uint32_t r = g->all.ca[k].rule;
            if (at.v[r] == 0) {
                if (!LLM_GB_ROOM(b, g->rule, g->cap_rule, (uint64_t) g->n_rule + 1)) {
                    break;
                }
                g->rule[g->n_rule] = (llm_garule_t) { .rule = r };
                at.v[r] = ++g->n_rule;
            }
            g->all.ca[k].rule = at.v[r] - 1;
        }
    }
done:
    llm_gvec_drop(b, &at);
    return b->rc == LLM_OK;
}

/* A rule that calls itself before it has read a byte would call for ever. */
static bool
check_left(llm_gb_t *b, const llm_gauto_t *g)
{
    /* 0 new, 1 on the path, 2 done */
    uint32_t *state = NULL, cap = 0, cap_path = 0, n_path = 0;
    visit_t *path = NULL;
    if (!LLM_GB_ROOM(b, state, cap, g->n_rule) || !LLM_GB_ROOM(b, path, cap_path, g->n_rule)) {
        goto done;
    }
    memset(state, 0, g->n_rule * sizeof(*state));
    for (uint32_t root = 0; root < g->n_rule && b->rc == LLM_OK; root++) {
        if (state[root] == 0) {
            state[root] = 1;
            path[n_path++] = (visit_t) { root, 0 };
        }
        while (n_path > 0 && llm_gb_work(b, 1)) {
            visit_t *v = &path[n_path - 1];
            const llm_gdstate_t *s = &g->all.st[g->rule[v->rule].state0];
            if (v->next == s->n_calls) {
                state[v->rule] = 2;
                n_path--;
                continue;
            }
            uint32_t to = g->all.ca[s->call + v->next++].rule;
            if (state[to] == 0) {
                state[to] = 1;
                path[n_path++] = (visit_t) { to, 0 };
            } else if (state[to] == 1) {
                const llm_gbrule_t *r = &b->rule[g->rule[to].rule];
                if (r->n_name > 0) {
                    llm_gb_fail(b, "rule \"%.*s\" begins with itself (left recursion)",
                                (int) r->n_name, (const char *) b->bytes + r->name);
                } else {
                    llm_gb_fail(b, "recursion without content: a value would contain only itself");
                }
            }
        }
    }
done:
    LLM_GB_DROP(b, state, cap);
    LLM_GB_DROP(b, path, cap_path);
    return b->rc == LLM_OK;
}

llm_grammar_t *
llm_gb_finish(llm_gb_t *b, uint32_t node, size_t *bytes)
{
    ana_t a = { .b = b };
    llm_gauto_t g = { 0 };
    llm_grammar_t *block = NULL;
    uint32_t root = llm_gb_rule(b);

    if (b->rc == LLM_OK) {
        b->rule[root].body = node;
    }
    if (check_depth(&a) && find_nullable(b) && find_refs(&a) && find_loops(&a)) {
        decide(&a);
        if (collect(b, root, &g) && check_left(b, &g)) {
            block = llm_gblock_write(b, &g, bytes);
        }
    }
    LLM_GB_DROP(b, a.depth, a.cap_depth);
    LLM_GB_DROP(b, a.size, a.cap_size);
    LLM_GB_DROP(b, a.ref_at, a.cap_ref_at);
    LLM_GB_DROP(b, a.loop, a.cap_loop);
    llm_gvec_drop(b, &a.refs);
    llm_gvec_drop(b, &a.order);
    llm_gdfa_drop(b, &g.all);
    LLM_GB_DROP(b, g.rule, g.cap_rule);
    return block;
}
