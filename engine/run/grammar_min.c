/*
 * grammar_min.c - joins states of a deterministic automaton that read the same texts.
 *
 * Partition refinement over transitions (A. Valmari 2012, doi.org/10.1016/j.ipl.2011.12.004): O(m
 * log m) for m transitions, whatever the alphabet. Edges are first cut at every byte where any edge
 * of the automaton begins or ends, so that equal behaviour has equal labels. Calls are labels too.
 * Equal automata of a rule get equal numbers in every grammar.
 */
#include "run/grammar_impl.h"

#include <stdlib.h>

#define MAX_MOVES 300000u       /* an automaton with more stays as it is */

/* Sets of elements 0..n-1 that are disjoint and cover all; a set is a stretch of elem. */
typedef struct {
    uint32_t *elem, *where, *set_of;    /* per element: order, its place in the order, its set */
    /* per set: stretch, and how many at its beginning are marked */
    uint32_t *first, *past, *marked;
    uint32_t *touched, n_touched, n_sets, cap[7];
} part_t;

/* A transition: from, to, and what is read. */
typedef struct { uint32_t from, to, label; } move_t;

static bool
part_init(llm_gb_t *b, part_t *p, uint32_t n)
{
    uint32_t **all[] = { &p->elem, &p->where,  &p->set_of, &p->first,
                         &p->past, &p->marked, &p->touched };
    for (int i = 0; i < 7; i++) {
        if (!llm_gb_room(b, all[i], &p->cap[i], (uint64_t) n + 1, sizeof(uint32_t))) {
            return false;
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        p->elem[i] = p->where[i] = i;
        p->set_of[i] = 0;
    }
    p->n_sets = n > 0;
    p->first[0] = p->marked[0] = 0;
    p->past[0] = n;
    p->n_touched = 0;
    return true;
}

static void
part_drop(llm_gb_t *b, part_t *p)
{
    uint32_t **all[] = { &p->elem, &p->where,  &p->set_of, &p->first,
                         &p->past, &p->marked, &p->touched };
    for (int i = 0; i < 7; i++) {
        llm_gb_drop(b, all[i], &p->cap[i], sizeof(uint32_t));
    }
}

static void
mark(part_t *p, uint32_t e)
{
    uint32_t s = p->set_of[e], i = p->where[e], k = p->first[s] + p->marked[s];
    if (i < k) {
        return;     /* marked already */
    }
    p->elem[i] = p->elem[k];
    p->where[p->elem[i]] = i;
    p->elem[k] = e;
    p->where[e] = k;
    if (p->marked[s]++ == 0) {
        p->touched[p->n_touched++] = s;
    }
}

/*
 * Every touched set becomes two, unless all of it is marked; the smaller part gets the new number.
 */
static void
split(part_t *p)
{
    while (p->n_touched > 0) {
        uint32_t s = p->touched[--p->n_touched], k = p->first[s] + p->marked[s];
        if (k == p->past[s]) {
            p->marked[s] = 0;
            continue;
        }
        uint32_t t = p->n_sets++;
        if (p->marked[s] <= p->past[s] - k) {
            p->first[t] = p->first[s];
            p->past[t] = p->first[s] = k;
        } else {
            p->past[t] = p->past[s];
            p->first[t] = p->past[s] = k;
        }
        for (uint32_t i = p->first[t]; i < p->past[t]; i++) {
            p->set_of[p->elem[i]] = t;
        }
        p->marked[s] = p->marked[t] = 0;
    }
}

/* -------------------------------------------------------------- transitions */

typedef struct {
    llm_gb_t *b;
    llm_gdfa_t *d;
    part_t   states, moves;
    move_t  *move;
    uint32_t n_move, cap_move;
    uint32_t *into, *at, cap_into, cap_at;  /* transitions by target: into[at[s] .. at[s + 1]) */
} min_t;

static bool
add_move(min_t *m, uint32_t from, uint32_t label, uint32_t to)
{
    if (!LLM_GB_ROOM(m->b, m->move, m->cap_move, (uint64_t) m->n_move + 1)) {
        return false;
    }
    m->move[m->n_move++] = (move_t) { from, to, label };
    return true;
}

/* Where any edge begins or ends; returns the number of transitions that this makes. */
static uint64_t
find_cuts(const llm_gdfa_t *d, bool cut[257])
{
    uint32_t before[257];       /* cuts in front of a byte */
    uint64_t n = d->n_ca;
    memset(cut, 0, 257 * sizeof(bool));
    for (uint32_t k = 0; k < d->n_ed; k++) {
        cut[d->ed[k].lo] = cut[d->ed[k].hi + 1] = true;
    }
    before[0] = 0;
    for (unsigned c = 0; c < 256; c++) {
        before[c + 1] = before[c] + cut[c];
    }
    for (uint32_t k = 0; k < d->n_ed; k++) {
        n += before[d->ed[k].hi + 1] - before[d->ed[k].lo];
    }
    return n;
}

static bool
list_moves(min_t *m, const bool *cut)
{
    const llm_gdfa_t *d = m->d;
    for (uint32_t s = 0; s < d->n; s++) {
        for (uint32_t k = d->st[s].edge; k < d->st[s].edge + d->st[s].n_edges; k++) {
            const llm_gedge_t *e = &d->ed[k];
            for (unsigned c = e->lo; c <= e->hi; c++) {
                if (cut[c] && !add_move(m, s, c | (uint32_t) e->op << 8, e->to)) {
                    return false;
                }
            }
        }
        for (uint32_t k = d->st[s].call; k < d->st[s].call + d->st[s].n_calls; k++) {
            if (!add_move(m, s, 1024 + d->ca[k].rule, d->ca[k].ret)) {
                return false;
            }
        }
    }
    return llm_gb_work(m->b, 2 * m->n_move);
}

static int
by_label(const void *a, const void *b)
{
    const move_t *x = a, *y = b;
    return x->label != y->label ? (x->label > y->label) - (x->label < y->label)
         : x->from != y->from ? (x->from > y->from) - (x->from < y->from) : 0;
}

/* Transitions with equal labels are one set to begin with. */
static bool
init_moves(min_t *m)
{
    if (!part_init(m->b, &m->moves, m->n_move)) {
        return false;
    }
    qsort(m->move, m->n_move, sizeof(move_t), by_label);
    part_t *p = &m->moves;
    p->n_sets = 0;
    for (uint32_t i = 0; i < m->n_move; i++) {
        if (i == 0 || m->move[i].label != m->move[i - 1].label) {
            p->first[p->n_sets] = i;
            p->marked[p->n_sets++] = 0;
        }
        p->set_of[i] = p->n_sets - 1;
        p->past[p->n_sets - 1] = i + 1;
    }
    return true;
}

static bool
sort_by_target(min_t *m)
{
    uint32_t n = m->d->n;
    if (!LLM_GB_ROOM(m->b, m->at, m->cap_at, (uint64_t) n + 2)
        || !LLM_GB_ROOM(m->b, m->into, m->cap_into, m->n_move))
    {
        return false;
    }
    memset(m->at, 0, (n + 2) * sizeof(uint32_t));
    for (uint32_t i = 0; i < m->n_move; i++) {
        m->at[m->move[i].to + 2]++;
    }
    for (uint32_t s = 0; s < n; s++) {
        m->at[s + 1] += m->at[s];
    }
    for (uint32_t i = 0; i < m->n_move; i++) {
        m->into[m->at[m->move[i].to + 1]++] = i;
    }
    return true;
}

static void
refine(min_t *m)
{
    part_t *st = &m->states, *mv = &m->moves;
    uint32_t b = 1, c = 0;
    for (uint32_t s = 0; s < m->d->n; s++) {
        if (m->d->st[s].final) {
            mark(st, s);
        }
    }
    split(st);
    while (c < mv->n_sets) {
        if (!llm_gb_work(m->b, mv->past[c] - mv->first[c])) {
            return;
        }
        for (uint32_t i = mv->first[c]; i < mv->past[c]; i++) {
            mark(st, m->move[mv->elem[i]].from);
        }
        split(st);
        for (c++; b < st->n_sets; b++) {
            for (uint32_t i = st->first[b]; i < st->past[b]; i++) {
                uint32_t s = st->elem[i];
                for (uint32_t k = m->at[s]; k < m->at[s + 1]; k++) {
                    mark(mv, m->into[k]);
                }
            }
            split(mv);
        }
    }
}

/* ---------------------------------------------------------------- quotient */

/* One state for each set, numbered in the order in which the old states meet them. */
static bool
quotient(min_t *m)
{
    llm_gb_t *b = m->b;
    llm_gdfa_t *d = m->d, out = { 0 };
    const uint32_t *set_of = m->states.set_of;
    uint32_t *no = NULL, cap_no = 0, n = 0;

    if (!LLM_GB_ROOM(b, no, cap_no, m->states.n_sets)
        || !LLM_GB_ROOM(b, out.st, out.cap, m->states.n_sets)
        || !LLM_GB_ROOM(b, out.ed, out.cap_ed, d->n_ed)
        || !LLM_GB_ROOM(b, out.ca, out.cap_ca, d->n_ca))
    {
        LLM_GB_DROP(b, no, cap_no);
        llm_gdfa_drop(b, &out);
        return false;
    }
    memset(no, 0xff, m->states.n_sets * sizeof(uint32_t));
    for (uint32_t s = 0; s < d->n; s++) {
        if (no[set_of[s]] == LLM_G_NONE) {
            no[set_of[s]] = n++;
        }
    }
    for (uint32_t s = 0; s < d->n; s++) {
        if (no[set_of[s]] != out.n) {
            continue;
        }
        llm_gdstate_t *t = &out.st[out.n++];
        *t = (llm_gdstate_t) {
            .edge = out.n_ed, .call = out.n_ca, .n_calls = d->st[s].n_calls, .final = d->st[s].final
        };
        for (uint32_t k = d->st[s].edge; k < d->st[s].edge + d->st[s].n_edges; k++) {
            llm_gedge_t e = d->ed[k], *last = out.n_ed > t->edge ? &out.ed[out.n_ed - 1] : NULL;
            e.to = no[set_of[e.to]];
            if (last != NULL && last->to == e.to && last->op == e.op && last->hi + 1 == e.lo) {
                last->hi = e.hi;
            } else {
                out.ed[out.n_ed++] = e;
            }
        }
        t->n_edges = out.n_ed - t->edge;
        for (uint32_t k = d->st[s].call; k < d->st[s].call + d->st[s].n_calls; k++) {
            out.ca[out.n_ca++] = (llm_gcall_t) { d->ca[k].rule, no[set_of[d->ca[k].ret]], 0 };
        }
    }
    LLM_GB_DROP(b, no, cap_no);
    llm_gdfa_drop(b, d);
    *d = out;
    return true;
}

bool
llm_gdfa_minimize(llm_gb_t *b, llm_gdfa_t *d)
{
    min_t m = { .b = b, .d = d };
    bool cut[257], good = d->n < 3 || d->n_ed == 0 || find_cuts(d, cut) > MAX_MOVES;
    if (!good && part_init(b, &m.states, d->n) && list_moves(&m, cut) && init_moves(&m)
        && sort_by_target(&m))
    {
        refine(&m);
        good = b->rc == LLM_OK && (m.states.n_sets == d->n || quotient(&m));
    }
    part_drop(b, &m.states);
    part_drop(b, &m.moves);
    LLM_GB_DROP(b, m.move, m.cap_move);
    LLM_GB_DROP(b, m.into, m.cap_into);
    LLM_GB_DROP(b, m.at, m.cap_at);
    return good;
}
