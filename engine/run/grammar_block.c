/*
 * grammar_block.c - the last steps of a compilation: prune, measure, write the block; and check a
 * block.
 *
 * need[s]: frames that must be opened to get from state s to the end of its rule. It is found level
 * by level: everything that needs no call, then everything that needs one frame, and so on. What
 * has no level up to LLM_GRAMMAR_DEPTH has no text that could be written and is removed; so every
 * state that remains can be left.
 */
#include "run/grammar_impl.h"

#include <stdlib.h>

#define NO_NEED (LLM_GRAMMAR_DEPTH + 1)
#define MAX_DIST 65535u

/* Reverse references, lists threaded through arrays; and what is measured for each state. */
typedef struct {
    llm_gb_t    *b;
    llm_gauto_t *g;
    uint32_t *edge_head, *edge_next, *edge_from;    /* edges by target */
    uint32_t *ret_head, *ret_next, *call_from;      /* calls by the place to go on in */
    uint32_t *rule_head, *rule_next;                /* calls by rule */
    uint32_t *rule_of, *need, *dist, *number;       /* per state */
    llm_gbytes_t *first, *follow;                   /* per rule */
    uint32_t  cap[13];
} rev_t;

static bool
rev_room(rev_t *v)
{
    llm_gb_t *b = v->b;
    const llm_gdfa_t *a = &v->g->all;
    uint32_t n_rule = v->g->n_rule;
    bool good = LLM_GB_ROOM(b, v->edge_head, v->cap[0], a->n)
                && LLM_GB_ROOM(b, v->edge_next, v->cap[1], a->n_ed)
                && LLM_GB_ROOM(b, v->edge_from, v->cap[2], a->n_ed)
                && LLM_GB_ROOM(b, v->ret_head, v->cap[3], a->n)
                && LLM_GB_ROOM(b, v->ret_next, v->cap[4], a->n_ca)
                && LLM_GB_ROOM(b, v->call_from, v->cap[5], a->n_ca)
                && LLM_GB_ROOM(b, v->rule_head, v->cap[6], n_rule)
                && LLM_GB_ROOM(b, v->rule_next, v->cap[7], a->n_ca)
                && LLM_GB_ROOM(b, v->rule_of, v->cap[8], a->n)
                && LLM_GB_ROOM(b, v->need, v->cap[9], a->n)
                && LLM_GB_ROOM(b, v->dist, v->cap[10], a->n)
                && LLM_GB_ROOM(b, v->number, v->cap[11], a->n)
                && LLM_GB_ROOM(b, v->first, v->cap[12], 2 * (uint64_t) n_rule);
    if (good) {
        v->follow = v->first + n_rule;
        memset(v->first, 0, 2 * n_rule * sizeof(*v->first));
    }
    return good;
}

static void
rev_drop(rev_t *v)
{
    llm_gb_t *b = v->b;
    LLM_GB_DROP(b, v->edge_head, v->cap[0]);
    LLM_GB_DROP(b, v->edge_next, v->cap[1]);
    LLM_GB_DROP(b, v->edge_from, v->cap[2]);
    LLM_GB_DROP(b, v->ret_head, v->cap[3]);
    LLM_GB_DROP(b, v->ret_next, v->cap[4]);
    LLM_GB_DROP(b, v->call_from, v->cap[5]);
    LLM_GB_DROP(b, v->rule_head, v->cap[6]);
    LLM_GB_DROP(b, v->rule_next, v->cap[7]);
    LLM_GB_DROP(b, v->rule_of, v->cap[8]);
    LLM_GB_DROP(b, v->need, v->cap[9]);
    LLM_GB_DROP(b, v->dist, v->cap[10]);
    LLM_GB_DROP(b, v->number, v->cap[11]);
    LLM_GB_DROP(b, v->first, v->cap[12]);
}

static void
rev_link(rev_t *v)
{
    const llm_gauto_t *g = v->g;
    const llm_gdfa_t *a = &g->all;
    memset(v->edge_head, 0xff, a->n * sizeof(uint32_t));
    memset(v->ret_head, 0xff, a->n * sizeof(uint32_t));
    memset(v->rule_head, 0xff, g->n_rule * sizeof(uint32_t));
    for (uint32_t r = 0; r < g->n_rule; r++) {
        for (uint32_t i = 0; i < g->rule[r].n_states; i++) {
            v->rule_of[g->rule[r].state0 + i] = r;
        }
    }
    for (uint32_t i = 0; i < a->n; i++) {
        for (uint32_t k = a->st[i].edge; k < a->st[i].edge + a->st[i].n_edges; k++) {
            v->edge_from[k] = i;
            v->edge_next[k] = v->edge_head[a->ed[k].to];
            v->edge_head[a->ed[k].to] = k;
        }
        for (uint32_t k = a->st[i].call; k < a->st[i].call + a->st[i].n_calls; k++) {
            v->call_from[k] = i;
            v->ret_next[k] = v->ret_head[a->ca[k].ret];
            v->ret_head[a->ca[k].ret] = k;
            v->rule_next[k] = v->rule_head[a->ca[k].rule];
            v->rule_head[a->ca[k].rule] = k;
        }
    }
}

/* ------------------------------------------------------------ need and dist */

static bool
is_tail(const llm_gdfa_t *a, const llm_gcall_t *c)
{
    const llm_gdstate_t *s = &a->st[c->ret];
    return s->final && s->n_edges == 0 && s->n_calls == 0;
}

static void
settle(rev_t *v, llm_gvec_t *queue, uint32_t s, uint32_t level)
{
    if (v->need[s] > level) {
        v->need[s] = level;
        llm_gvec_add(v->b, queue, s);
    }
}

/* Settles the caller when both the rule and the place to go on in are within the level. */
static void
settle_call(rev_t *v, llm_gvec_t *queue, uint32_t call, uint32_t level)
{
    const llm_gdfa_t *a = &v->g->all;
    const llm_gcall_t *c = &a->ca[call];
    uint32_t inner = v->need[v->g->rule[c->rule].state0];
    if (inner < NO_NEED && inner + !is_tail(a, c) <= level && v->need[c->ret] <= level) {
        settle(v, queue, v->call_from[call], level);
    }
}

static bool
find_need(rev_t *v)
{
    llm_gb_t *b = v->b;
    const llm_gauto_t *g = v->g;
    const llm_gdfa_t *a = &g->all;
    llm_gvec_t queue = { 0 };
    uint32_t n_before = 0;

    for (uint32_t i = 0; i < a->n; i++) {
        v->need[i] = NO_NEED;
    }
    for (uint32_t i = 0; i < a->n; i++) {
        if (a->st[i].final) {
            settle(v, &queue, i, 0);
        }
    }
    for (uint32_t level = 0; level <= LLM_GRAMMAR_DEPTH && llm_gb_work(b, a->n_ca + 1); level++) {
        for (uint32_t k = 0; k < a->n_ca; k++) {
            settle_call(v, &queue, k, level);
        }
        for (uint32_t i = n_before; i < queue.n && llm_gb_work(b, 1); i++) {
            uint32_t s = queue.v[i];
            for (uint32_t k = v->edge_head[s]; k != LLM_G_NONE; k = v->edge_next[k]) {
                settle(v, &queue, v->edge_from[k], level);
            }
            for (uint32_t k = v->ret_head[s]; k != LLM_G_NONE; k = v->ret_next[k]) {
                settle_call(v, &queue, k, level);
            }
            if (s == g->rule[v->rule_of[s]].state0) {
                for (uint32_t k = v->rule_head[v->rule_of[s]]; k != LLM_G_NONE;
                     k = v->rule_next[k])
                {
                    settle_call(v, &queue, k, level);
                }
            }
        }
        if (queue.n == n_before) {
            break;      /* an empty level: a call could only build on it */
        }
        n_before = queue.n;
    }
    llm_gvec_drop(b, &queue);
    return b->rc == LLM_OK;
}

/* Buckets of states by distance, lists through `next`. */
typedef struct { uint32_t state, next; } item_t;

typedef struct {
    rev_t    *v;
    uint32_t *head, cap_head;
    item_t   *item;
    uint32_t  n_item, cap_item;
} bucket_t;

static void
relax(bucket_t *q, uint32_t s, uint32_t d)
{
    rev_t *v = q->v;
    if (d >= v->dist[s] || d >= MAX_DIST
        || !LLM_GB_ROOM(v->b, q->item, q->cap_item, (uint64_t) q->n_item + 1))
    {
        return;
    }
    v->dist[s] = d;
    q->item[q->n_item] = (item_t) { s, q->head[d] };
    q->head[d] = q->n_item++;
}

static void
relax_call(bucket_t *q, uint32_t call)
{
    rev_t *v = q->v;
    const llm_gcall_t *c = &v->g->all.ca[call];
    relax(q, v->call_from[call], v->dist[v->g->rule[c->rule].state0] + v->dist[c->ret]);
}

/*
 * Least number of bytes to the end of the rule (D. Knuth 1977,
 * doi.org/10.1016/0020-0190(77)90002-3).
 */
static bool
find_dist(rev_t *v)
{
    const llm_gauto_t *g = v->g;
    bucket_t q = { .v = v };
    if (!LLM_GB_ROOM(v->b, q.head, q.cap_head, MAX_DIST)) {
        return false;
    }
    memset(q.head, 0xff, MAX_DIST * sizeof(uint32_t));
    for (uint32_t i = 0; i < g->all.n; i++) {
        v->dist[i] = MAX_DIST;
    }
    for (uint32_t i = 0; i < g->all.n; i++) {
        if (g->all.st[i].final) {
            relax(&q, i, 0);
        }
    }
    for (uint32_t d = 0; d < MAX_DIST && v->b->rc == LLM_OK; d++) {
        while (q.head[d] != LLM_G_NONE && llm_gb_work(v->b, 1)) {
            item_t it = q.item[q.head[d]];
            q.head[d] = it.next;
            if (v->dist[it.state] != d) {
                continue;
            }
            for (uint32_t k = v->edge_head[it.state]; k != LLM_G_NONE; k = v->edge_next[k]) {
                relax(&q, v->edge_from[k], d + 1);
            }
            for (uint32_t k = v->ret_head[it.state]; k != LLM_G_NONE; k = v->ret_next[k]) {
                relax_call(&q, k);
            }
            uint32_t r = v->rule_of[it.state];
            for (uint32_t k = it.state == g->rule[r].state0 ? v->rule_head[r] : LLM_G_NONE;
                 k != LLM_G_NONE; k = v->rule_next[k])
            {
                relax_call(&q, k);
            }
        }
    }
    LLM_GB_DROP(v->b, q.head, q.cap_head);
    LLM_GB_DROP(v->b, q.item, q.cap_item);
    return v->b->rc == LLM_OK;
}

/* ------------------------------------------------------------------ pruning */

static bool
alive(const rev_t *v, uint32_t state)
{
    return v->need[state] < NO_NEED;
}

static bool
call_alive(const rev_t *v, const llm_gcall_t *c)
{
    return alive(v, c->ret) && alive(v, v->g->rule[c->rule].state0);
}

static void
reach(rev_t *v, llm_gvec_t *queue, uint32_t s)
{
    if (alive(v, s) && v->number[s] == LLM_G_NONE) {
        v->number[s] = 0;
        llm_gvec_add(v->b, queue, s);
    }
}

/*
 * number[s]: index of the state in the block, for those that are alive and can be reached; returns
 * their count.
 */
static uint32_t
number_states(rev_t *v)
{
    const llm_gdfa_t *a = &v->g->all;
    llm_gvec_t queue = { 0 };
    memset(v->number, 0xff, a->n * sizeof(uint32_t));
    reach(v, &queue, 0);
    for (uint32_t i = 0; i < queue.n && llm_gb_work(v->b, 1); i++) {
        const llm_gdstate_t *s = &a->st[queue.v[i]];
        for (uint32_t k = 0; k < s->n_edges; k++) {
            reach(v, &queue, a->ed[s->edge + k].to);
        }
        for (uint32_t k = 0; k < s->n_calls; k++) {
            const llm_gcall_t *c = &a->ca[s->call + k];
            if (call_alive(v, c)) {
                reach(v, &queue, c->ret);
                reach(v, &queue, v->g->rule[c->rule].state0);
            }
        }
    }
    llm_gvec_drop(v->b, &queue);
    uint32_t n = 0;
    for (uint32_t i = 0; i < a->n; i++) {
        v->number[i] = v->number[i] == LLM_G_NONE ? LLM_G_NONE : n++;
    }
    return n;
}

/* Keeps the edges and calls between numbered states, in place. */
static bool
prune(rev_t *v)
{
    llm_gdfa_t *a = &v->g->all;
    uint32_t n_ed = 0, n_ca = 0;
    for (uint32_t i = 0; i < a->n; i++) {
        llm_gdstate_t *s = &a->st[i];
        uint32_t edge = n_ed, call = n_ca;
        for (uint32_t k = 0; v->number[i] != LLM_G_NONE && k < s->n_edges; k++) {
            if (alive(v, a->ed[s->edge + k].to)) {
                a->ed[n_ed++] = a->ed[s->edge + k];
            }
        }
        for (uint32_t k = 0; v->number[i] != LLM_G_NONE && k < s->n_calls; k++) {
            if (call_alive(v, &a->ca[s->call + k])) {
                a->ca[n_ca++] = a->ca[s->call + k];
            }
        }
        *s = (llm_gdstate_t) { edge, call, n_ed - edge, n_ca - call, s->final };
    }
    a->n_ed = n_ed;
    a->n_ca = n_ca;
    for (uint32_t k = 0; k < n_ca; k++) {
        a->ca[k].tail = is_tail(a, &a->ca[k]);
    }
    return llm_gb_work(v->b, a->n + n_ed + n_ca);
}

/* ---------------------------------------------------------- first and follow */

static bool
state_first(const rev_t *v, uint32_t s, llm_gbytes_t *set)
{
    const llm_gdfa_t *a = &v->g->all;
    const llm_gdstate_t *st = &a->st[s];
    bool news = false;
    for (uint32_t k = 0; k < st->n_edges; k++) {
        llm_gbytes_t x = { 0 };
        llm_gbytes_add(&x, a->ed[st->edge + k].lo, a->ed[st->edge + k].hi);
        news |= llm_gbytes_or(set, &x);
    }
    for (uint32_t k = 0; k < st->n_calls; k++) {
        news |= llm_gbytes_or(set, &v->first[a->ca[st->call + k].rule]);
    }
    return news;
}

static bool
find_first_follow(rev_t *v)
{
    const llm_gauto_t *g = v->g;
    bool news = true;
    while (news && llm_gb_work(v->b, 16 * g->n_rule)) {
        news = false;
        for (uint32_t r = g->n_rule; r-- > 0;) {
            news |= v->number[g->rule[r].state0] != LLM_G_NONE
                    && state_first(v, g->rule[r].state0, &v->first[r]);
        }
    }
    for (uint32_t r = 0; r < g->n_rule; r++) {
        /* what follows a value anywhere: built-in rules are then equal in most grammars */
        if (v->b->rule[g->rule[r].rule].builtin != LLM_GB_PRIVATE) {
            for (const char *c = " ,:]}"; *c != '\0'; c++) {
                llm_gbytes_add(&v->follow[r], (uint8_t) *c, (uint8_t) *c);
            }
        }
    }
    news = true;
    while (news && llm_gb_work(v->b, g->all.n + 8 * g->all.n_ca)) {
        news = false;
        for (uint32_t i = 0; i < g->all.n; i++) {
            const llm_gdstate_t *s = &g->all.st[i];
            for (uint32_t k = 0; k < s->n_calls; k++) {
                const llm_gcall_t *c = &g->all.ca[s->call + k];
                news |= state_first(v, c->ret, &v->follow[c->rule]);
                if (g->all.st[c->ret].final) {
                    news |= llm_gbytes_or(&v->follow[c->rule], &v->follow[v->rule_of[i]]);
                }
            }
        }
    }
    return v->b->rc == LLM_OK;
}

/* ------------------------------------------------------------------- chains */

/* The state that most likely text leads to, or LLM_G_NONE. */
static uint32_t
next_of(const llm_grammar_t *h, uint32_t state)
{
    const llm_gstate_t *s = &llm_g_states(h)[state];
    for (const char *c = "ea0 E"; *c != '\0'; c++) {
        const llm_gedge_t *e = llm_g_edge(h, s, (uint8_t) *c);
        if (e != NULL && e->op == LLM_GOP_NONE) {
            return e->to;
        }
    }
    return LLM_G_NONE;
}

/* The groups of llm_gvocab_group: of each byte, and the bytes of each. */
typedef struct {
    uint8_t      of[256];
    llm_gbytes_t bytes[64];
} groups_t;

/* The groups of bytes that lead from a state to another, and nowhere else. */
static uint64_t
groups_to(const llm_grammar_t *h, const groups_t *g, uint32_t state, uint32_t to)
{
    const llm_gstate_t *s = &llm_g_states(h)[state];
    llm_gbytes_t in = { 0 };
    uint64_t touched = 0, set = 0;
    for (uint32_t k = 0; k < s->n_edges; k++) {
        const llm_gedge_t *e = &llm_g_edges(h)[s->edge + k];
        if (e->to == to && e->op == LLM_GOP_NONE) {
            llm_gbytes_add(&in, e->lo, e->hi);
        }
    }
    for (unsigned i = 0; i < 4; i++) {
        for (uint64_t w = in.w[i]; w != 0; w &= w - 1) {
            touched |= (uint64_t) 1 << g->of[i * 64 + (unsigned) __builtin_ctzll(w)];
        }
    }
    for (; touched != 0; touched &= touched - 1) {
        unsigned k = (unsigned) __builtin_ctzll(touched);
        bool all = true;
        for (unsigned i = 0; i < 4; i++) {
            all = all && (g->bytes[k].w[i] & ~in.w[i]) == 0;
        }
        set |= (uint64_t) all << k;
    }
    return set;
}

/*
 * Chains, as repeats make them: over the same groups of bytes each state leads to the next. Such
 * text needs no look at every token. Chains mostly run towards higher numbers, so going backwards
 * finds their rest already counted.
 */
static bool
find_chains(llm_gb_t *b, llm_grammar_t *h)
{
    llm_gstate_t *st = (llm_gstate_t *) ((char *) h + h->states);
    groups_t g = { 0 };
    for (unsigned c = 0; c < 256; c++) {
        g.of[c] = (uint8_t) llm_gvocab_group((uint8_t) c);
        llm_gbytes_add(&g.bytes[g.of[c]], c, c);
    }
    for (uint32_t i = h->n_states; i-- > 0 && llm_gb_work(b, 8 + st[i].n_edges);) {
        uint32_t to = next_of(h, i);
        uint64_t set = to == LLM_G_NONE ? 0 : groups_to(h, &g, i, to);
        st[i].next = to;
        if (set != 0 && to != i) {
            bool loops = (set & ~groups_to(h, &g, to, to)) == 0;
            bool goes_on = st[to].run > 0 && (set & ~groups_to(h, &g, to, st[to].next)) == 0;
            st[i].run =
                loops ? UINT32_MAX : 1 + (goes_on ? st[to].run - (st[to].run == UINT32_MAX) : 0);
        }
    }
    return b->rc == LLM_OK;
}

/* -------------------------------------------------------------------- block */

static void
write_rules(const rev_t *v, llm_grammar_t *h, const uint32_t *rule_no)
{
    const llm_gauto_t *g = v->g;
    llm_grule_t *out = (llm_grule_t *) ((char *) h + h->rules);
    for (uint32_t r = 0; r < g->n_rule; r++) {
        if (rule_no[r] == LLM_G_NONE) {
            continue;
        }
        const llm_gbrule_t *src = &v->b->rule[g->rule[r].rule];
        llm_grule_t *o = &out[rule_no[r]];
        uint32_t lo = g->rule[r].state0, n = 0;
        for (uint32_t i = 0; i < g->rule[r].n_states; i++) {
            n += v->number[lo + i] != LLM_G_NONE;
        }
        /* number[] ascends, so the first numbered state of the rule is its entry */
        *o = (llm_grule_t) {
            .first = v->first[r],
            .follow = v->follow[r],
            .entry = v->number[lo],
            .state0 = v->number[lo],
            .n_states = n,
            .min = src->min,
            .max = src->max,
            .builtin = src->builtin,
        };
        if (src->kind == LLM_GR_PLAIN) {
            o->min = 0;
            o->max = LLM_G_INF;
        }
    }
}

static void
write_states(const rev_t *v, llm_grammar_t *h, const uint32_t *rule_no)
{
    const llm_gdfa_t *a = &v->g->all;
    llm_gstate_t *st = (llm_gstate_t *) ((char *) h + h->states);
    llm_gedge_t *ed = (llm_gedge_t *) ((char *) h + h->edges);
    llm_gcall_t *ca = (llm_gcall_t *) ((char *) h + h->calls);
    for (uint32_t i = 0; i < a->n; i++) {
        const llm_gdstate_t *s = &a->st[i];
        if (v->number[i] == LLM_G_NONE) {
            continue;
        }
        st[v->number[i]] = (llm_gstate_t) {
            .edge = s->edge,
            .call = s->call,
            .n_edges = (uint16_t) s->n_edges,
            .n_calls = (uint16_t) s->n_calls,
            .rule = rule_no[v->rule_of[i]],
            .final = s->final,
            .need = (uint8_t) v->need[i],
            .dist = (uint16_t) v->dist[i],
        };
    }
    for (uint32_t k = 0; k < a->n_ed; k++) {
        ed[k] = a->ed[k];
        ed[k].to = v->number[a->ed[k].to];
    }
    for (uint32_t k = 0; k < a->n_ca; k++) {
        ca[k] = (llm_gcall_t) { rule_no[a->ca[k].rule], v->number[a->ca[k].ret], a->ca[k].tail };
    }
}

static llm_grammar_t *
write_block(rev_t *v, uint32_t n_states, size_t *bytes)
{
    llm_gb_t *b = v->b;
    const llm_gauto_t *g = v->g;
    llm_gvec_t rule_no = { 0 };
    uint32_t n_rules = 0;
    llm_grammar_t *h = NULL;

    for (uint32_t r = 0; r < g->n_rule; r++) {
        llm_gvec_add(b, &rule_no,
                     v->number[g->rule[r].state0] == LLM_G_NONE ? LLM_G_NONE : n_rules++);
    }
    for (uint32_t i = 0; i < g->all.n; i++) {
        if (g->all.st[i].n_calls > UINT16_MAX) {
            llm_gb_fail(b, "too complex");
        }
    }
    size_t at = (sizeof(llm_grammar_t) + 7) & ~(size_t) 7, rules = at;
    at += n_rules * sizeof(llm_grule_t);
    size_t states = at;
    at += n_states * sizeof(llm_gstate_t);
    size_t edges = at;
    at += g->all.n_ed * sizeof(llm_gedge_t);
    size_t calls = at;
    at += g->all.n_ca * sizeof(llm_gcall_t);
    at = (at + 7) & ~(size_t) 7;
    if (at > LLM_GRAMMAR_MAX_BYTES) {
        llm_gb_fail(b, "too complex");
    }
    if (b->rc == LLM_OK && (h = calloc(1, at)) == NULL) {
        llm_gb_nomem(b);
    }
    if (h != NULL) {
        *h = (llm_grammar_t) {
            .magic = LLM_GRAMMAR_MAGIC,
            .version = LLM_GRAMMAR_VERSION,
            .bytes = (uint32_t) at,
            .n_rules = n_rules,
            .n_states = n_states,
            .n_edges = g->all.n_ed,
            .n_calls = g->all.n_ca,
            .rules = (uint32_t) rules,
            .states = (uint32_t) states,
            .edges = (uint32_t) edges,
            .calls = (uint32_t) calls,
            .accepts_empty = g->all.st[0].final,
            .shared = 1,
        };
        for (int i = 0; i < 4; i++) {
            h->shared &= b->alphabet.w[i] == UINT64_MAX;
        }
        write_rules(v, h, rule_no.v);
        write_states(v, h, rule_no.v);
        *bytes = at;
        if (!find_chains(b, h)) {
            free(h);
            h = NULL;
        }
    }
    llm_gvec_drop(b, &rule_no);
    return h;
}

llm_grammar_t *
llm_gblock_write(llm_gb_t *b, llm_gauto_t *g, size_t *bytes)
{
    rev_t v = { .b = b, .g = g };
    llm_grammar_t *h = NULL;

    if (rev_room(&v)) {
        rev_link(&v);
        if (find_need(&v) && !alive(&v, 0)) {
            llm_gb_fail(b, "no text can match it%s",
                        b->alphabet.w[0] != UINT64_MAX || b->alphabet.w[1] != UINT64_MAX
                            ? " (it may need characters that the vocabulary of the model lacks)"
                            : "");
        }
        if (b->rc == LLM_OK && find_dist(&v)) {
            uint32_t n = number_states(&v);
            if (prune(&v) && find_first_follow(&v)) {
                h = write_block(&v, n, bytes);
            }
        }
    }
    rev_drop(&v);
    return h;
}

/* -------------------------------------------------------------------- check */

static bool
array_inside(uint32_t at, uint32_t n, size_t elem, uint32_t bytes)
{
    return at % 4 == 0 && at >= sizeof(llm_grammar_t) && at <= bytes && n <= (bytes - at) / elem;
}

static bool
check_state(const llm_grammar_t *h, const llm_gstate_t *s)
{
    if (s->rule >= h->n_rules || s->n_edges > 256 || s->edge > h->n_edges
        || s->n_edges > h->n_edges - s->edge || s->call > h->n_calls
        || s->n_calls > h->n_calls - s->call || s->need > LLM_GRAMMAR_DEPTH)
    {
        return false;
    }
    for (uint32_t k = 0; k < s->n_edges; k++) {
        const llm_gedge_t *e = &llm_g_edges(h)[s->edge + k];
        if (e->to >= h->n_states || e->lo > e->hi || e->op > LLM_GOP_ENOUGH
            || (k > 0 && e[-1].hi >= e->lo))
        {
            return false;
        }
    }
    for (uint32_t k = 0; k < s->n_calls; k++) {
        const llm_gcall_t *c = &llm_g_calls(h)[s->call + k];
        if (c->rule >= h->n_rules || c->ret >= h->n_states) {
            return false;
        }
    }
    return true;
}

bool
llm_grammar_check(const void *block, size_t bytes)
{
    const llm_grammar_t *h = block;
    if (bytes < sizeof(*h) || (uintptr_t) block % 8 != 0 || h->magic != LLM_GRAMMAR_MAGIC
        || h->version != LLM_GRAMMAR_VERSION || h->bytes != bytes || h->n_rules == 0
        || h->n_states == 0 || h->n_states > (1u << 28) || h->root >= h->n_rules
        || h->rules % 8 != 0 || !array_inside(h->rules, h->n_rules, sizeof(llm_grule_t), h->bytes)
        || !array_inside(h->states, h->n_states, sizeof(llm_gstate_t), h->bytes)
        || !array_inside(h->edges, h->n_edges, sizeof(llm_gedge_t), h->bytes)
        || !array_inside(h->calls, h->n_calls, sizeof(llm_gcall_t), h->bytes))
    {
        return false;
    }
    for (uint32_t i = 0; i < h->n_rules; i++) {
        const llm_grule_t *r = &llm_g_rules(h)[i];
        if (r->entry >= h->n_states || r->state0 > h->n_states
            || r->n_states > h->n_states - r->state0)
        {
            return false;
        }
    }
    for (uint32_t i = 0; i < h->n_states; i++) {
        if (!check_state(h, &llm_g_states(h)[i])) {
            return false;
        }
    }
    return true;
}
