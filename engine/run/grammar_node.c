/*
 * grammar_node.c - the workplace of a grammar that is being compiled: failure, memory, nodes and
 * rules.
 *
 * Failure is sticky: the first one fills the error, afterwards every constructor returns node 0 and
 * allocates nothing, so that front ends need no check after each call. Work is counted, not timed:
 * the same grammar is refused or compiled on every machine.
 */
#include "run/grammar_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* ---------------------------------------------------------------- failure */

uint32_t
llm_gb_fail(llm_gb_t *b, const char *fmt, ...)
{
    if (b->rc == LLM_OK) {
        char msg[400];
        va_list args;
        va_start(args, fmt);
        vsnprintf(msg, sizeof(msg), fmt, args);
        va_end(args);
        b->rc = llm_fail(b->err, LLM_E_ARG, "grammar is not valid: %s", msg);
    }
    return LLM_GN_FAIL_NODE;
}

uint32_t
llm_gb_nomem(llm_gb_t *b)
{
    if (b->rc == LLM_OK) {
        b->rc = llm_fail(b->err, LLM_E_NOMEM, "no memory to compile a grammar");
    }
    return LLM_GN_FAIL_NODE;
}

bool
llm_gb_work(llm_gb_t *b, uint32_t n)
{
    if (b->rc != LLM_OK) {
        return false;
    }
    if (n > LLM_GB_MAX_WORK - b->work) {
        llm_gb_fail(b, "too complex");
        return false;
    }
    b->work += n;
    return true;
}

/* ----------------------------------------------------------------- memory */

bool
llm_gb_room(llm_gb_t *b, void *array, uint32_t *cap, uint64_t need, size_t elem)
{
    if (b->rc != LLM_OK) {
        return false;
    }
    if (need <= *cap) {
        return true;
    }
    uint64_t want = need + need / 2 + 16, most = *cap + (LLM_GB_MAX_MEM - b->mem) / elem;
    if (need > most) {
        llm_gb_fail(b, "too complex");
        return false;
    }
    want = want < most ? want : most;
    void *p;
    memcpy(&p, array, sizeof(p));
    p = realloc(p, want * elem);
    if (p == NULL) {
        llm_gb_nomem(b);
        return false;
    }
    memcpy(array, &p, sizeof(p));
    b->mem += (want - *cap) * elem;
    *cap = (uint32_t) want;
    return true;
}

void
llm_gb_drop(llm_gb_t *b, void *array, uint32_t *cap, size_t elem)
{
    void *p, *none = NULL;
    memcpy(&p, array, sizeof(p));
    free(p);
    memcpy(array, &none, sizeof(none));
    b->mem -= *cap * elem;
    *cap = 0;
}

bool
llm_gvec_add(llm_gb_t *b, llm_gvec_t *v, uint32_t x)
{
    if (!LLM_GB_ROOM(b, v->v, v->cap, (uint64_t) v->n + 1)) {
        return false;
    }
    v->v[v->n++] = x;
    return true;
}

void
llm_gvec_drop(llm_gb_t *b, llm_gvec_t *v)
{
    LLM_GB_DROP(b, v->v, v->cap);
    v->n = 0;
}

/* ------------------------------------------------------------------ nodes */

static uint32_t
add(llm_gb_t *b, llm_gnode_t node)
{
    if (!llm_gb_work(b, 1) || !LLM_GB_ROOM(b, b->node, b->cap_node, (uint64_t) b->n_node + 1)) {
        return LLM_GN_FAIL_NODE;
    }
    b->node[b->n_node] = node;
    return b->n_node++;
}

bool
llm_gb_init(llm_gb_t *b, llm_err_t *err)
{
    memset(b, 0, sizeof(*b));
    b->err = err;
    memset(&b->alphabet, 0xff, sizeof(b->alphabet));
    add(b, (llm_gnode_t) { .kind = LLM_GN_FAIL });
    add(b, (llm_gnode_t) { .kind = LLM_GN_EMPTY });
    return b->rc == LLM_OK;
}

void
llm_gb_free(llm_gb_t *b)
{
    for (uint32_t i = 0; i < b->n_set; i++) {
        LLM_GB_DROP(b, b->set[i].r, b->set[i].cap);
    }
    for (uint32_t i = 0; i < b->n_dfa; i++) {
        llm_gdfa_drop(b, &b->dfa[i]);
    }
    free(b->node);
    free(b->kids.v);
    free(b->strings.v);
    free(b->bytes);
    free(b->set);
    free(b->rule);
    free(b->dfa);
    free(b->frag);
    free(b->frag_st);
    free(b->frag_ed);
    free(b->nfa.first);
    free(b->nfa.last);
    free(b->nfa.ed);
}

uint32_t
llm_gn_lit(llm_gb_t *b, const void *s, size_t n)
{
    if (n == 0) {
        return LLM_GN_EMPTY_NODE;
    }
    if (!LLM_GB_ROOM(b, b->bytes, b->cap_bytes, (uint64_t) b->n_bytes + n)) {
        return LLM_GN_FAIL_NODE;
    }
    if (s != NULL) {
        memcpy(b->bytes + b->n_bytes, s, n);
    }
    b->n_bytes += (uint32_t) n;
    return add(b, (llm_gnode_t) {
                      .kind = LLM_GN_LIT, .a = b->n_bytes - (uint32_t) n, .n = (uint32_t) n });
}

uint32_t
llm_gn_byte(llm_gb_t *b, uint8_t lo, uint8_t hi)
{
    return add(b, (llm_gnode_t) { .kind = LLM_GN_BYTE, .lo = lo, .hi = hi });
}

uint32_t
llm_gn_oneof(llm_gb_t *b, const char *text)
{
    uint32_t kids[32], n = 0;
    for (; *text != '\0' && n < 32; text++) {
        kids[n++] = llm_gn_byte(b, (uint8_t) *text, (uint8_t) *text);
    }
    return llm_gn_alt(b, kids, n);
}

uint32_t
llm_gn_class(llm_gb_t *b, uint32_t set, bool json)
{
    if (b->rc != LLM_OK || b->set[set].n == 0) {
        return LLM_GN_FAIL_NODE;
    }
    return add(b, (llm_gnode_t) { .kind = LLM_GN_CLASS, .json = json, .a = set });
}

static uint32_t
list(llm_gb_t *b, llm_gkind_t kind, uint32_t from)
{
    uint32_t n = b->kids.n - from;
    return add(b, (llm_gnode_t) { .kind = (uint8_t) kind, .a = from, .n = n });
}

uint32_t
llm_gn_seq(llm_gb_t *b, const uint32_t *kids, uint32_t n)
{
    uint32_t from = b->kids.n, last = LLM_GN_EMPTY_NODE;
    for (uint32_t i = 0; i < n; i++) {
        if (kids[i] == LLM_GN_FAIL_NODE) {
            b->kids.n = from;
            return LLM_GN_FAIL_NODE;
        }
        if (kids[i] != LLM_GN_EMPTY_NODE) {
            last = kids[i];
            llm_gvec_add(b, &b->kids, kids[i]);
        }
    }
    if (b->rc != LLM_OK) {
        return LLM_GN_FAIL_NODE;
    }
    if (b->kids.n - from <= 1) {
        b->kids.n = from;
        return last;
    }
    return list(b, LLM_GN_SEQ, from);
}

uint32_t
llm_gn_alt(llm_gb_t *b, const uint32_t *kids, uint32_t n)
{
    uint32_t from = b->kids.n, last = LLM_GN_FAIL_NODE;
    for (uint32_t i = 0; i < n; i++) {
        if (kids[i] != LLM_GN_FAIL_NODE) {
            last = kids[i];
            llm_gvec_add(b, &b->kids, kids[i]);
        }
    }
    if (b->rc != LLM_OK) {
        return LLM_GN_FAIL_NODE;
    }
    if (b->kids.n - from <= 1) {
        b->kids.n = from;
        return last;
    }
    return list(b, LLM_GN_ALT, from);
}

uint32_t
llm_gn_seq2(llm_gb_t *b, uint32_t x, uint32_t y)
{
    return llm_gn_seq(b, (uint32_t[]) { x, y }, 2);
}

uint32_t
llm_gn_seq3(llm_gb_t *b, uint32_t x, uint32_t y, uint32_t z)
{
    return llm_gn_seq(b, (uint32_t[]) { x, y, z }, 3);
}

uint32_t
llm_gn_alt2(llm_gb_t *b, uint32_t x, uint32_t y)
{
    return llm_gn_alt(b, (uint32_t[]) { x, y }, 2);
}

uint32_t
llm_gn_rep(llm_gb_t *b, uint32_t x, uint32_t min, uint32_t max)
{
    if (b->rc != LLM_OK || min > max) {
        return LLM_GN_FAIL_NODE;
    }
    if (max == 0 || x == LLM_GN_EMPTY_NODE) {
        return LLM_GN_EMPTY_NODE;
    }
    if (x == LLM_GN_FAIL_NODE) {
        return min == 0 ? LLM_GN_EMPTY_NODE : LLM_GN_FAIL_NODE;
    }
    if (min == 1 && max == 1) {
        return x;
    }
    return add(b, (llm_gnode_t) { .kind = LLM_GN_REP, .a = x, .min = min, .max = max });
}

uint32_t
llm_gn_ref(llm_gb_t *b, uint32_t rule)
{
    return add(b, (llm_gnode_t) { .kind = LLM_GN_REF, .a = rule });
}

uint32_t
llm_gn_dfa(llm_gb_t *b, llm_gdfa_t *d)
{
    if (b->rc != LLM_OK || d->n == 0
        || !LLM_GB_ROOM(b, b->dfa, b->cap_dfa, (uint64_t) b->n_dfa + 1))
    {
        llm_gdfa_drop(b, d);
        return LLM_GN_FAIL_NODE;
    }
    b->dfa[b->n_dfa] = *d;
    *d = (llm_gdfa_t) { 0 };
    return add(b, (llm_gnode_t) { .kind = LLM_GN_DFA, .a = b->n_dfa++ });
}

/* Kids: lead, sep, extra, then the pairs. */
uint32_t
llm_gn_members(llm_gb_t *b, const uint32_t *pairs, uint32_t n, uint32_t lead, uint32_t sep,
               uint32_t extra)
{
    uint32_t from = b->kids.n;
    llm_gvec_add(b, &b->kids, lead);
    llm_gvec_add(b, &b->kids, sep);
    llm_gvec_add(b, &b->kids, extra);
    for (uint32_t i = 0; i < n; i++) {
        bool optional = pairs[2 * i + 1] != 0;
        if (pairs[2 * i] == LLM_GN_FAIL_NODE) {
            if (!optional) {
                b->kids.n = from;
                return LLM_GN_FAIL_NODE;
            }
            continue;
        }
        llm_gvec_add(b, &b->kids, pairs[2 * i]);
        llm_gvec_add(b, &b->kids, optional);
    }
    if (b->rc != LLM_OK) {
        return LLM_GN_FAIL_NODE;
    }
    return list(b, LLM_GN_MEMBERS, from);
}

uint32_t
llm_gb_rule(llm_gb_t *b)
{
    if (!llm_gb_work(b, 1) || !LLM_GB_ROOM(b, b->rule, b->cap_rule, (uint64_t) b->n_rule + 1)) {
        return 0;
    }
    b->rule[b->n_rule] = (llm_gbrule_t) { .kind = LLM_GR_PLAIN, .max = LLM_G_INF };
    return b->n_rule++;
}
