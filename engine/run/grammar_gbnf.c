/*
 * grammar_gbnf.c - grammars as rules, in the notation that llama.cpp made common (docs/grammar.md
 * has the syntax).
 *
 *   root ::= "yes" | "no" rest{1,3}      # a comment
 *   rest ::= [a-z]+ | "<" %json {"type": "integer"} ">"
 *
 * A rule ends at the end of its line unless a group is open or an alternative is still to come.
 * %json is followed by a JSON schema, whose texts stand at that place.
 */
#include "base/unicode.h"
#include "run/grammar_impl.h"

#include <stdio.h>

#define MAX_NEST 100
#define MAX_REPEAT 100000u
#define MAX_NAME 64

typedef struct {
    llm_gb_t      *b;
    const uint8_t *s;
    size_t         n, at;
    unsigned       nest;
    uint32_t      *slot, n_slot, cap_slot;      /* rules by name: hash table of rule + 1 */
    uint32_t       n_rules;
} gb_t;

static uint32_t parse_alt(gb_t *p);

static uint32_t
refuse(gb_t *p, const char *why)
{
    uint32_t line = 1;
    for (size_t i = 0; i < p->at && i < p->n; i++) {
        line += p->s[i] == '\n';
    }
    return llm_gb_fail(p->b, "line %u: %s", line, why);
}

static int
peek(const gb_t *p, size_t ahead)
{
    return p->n - p->at > ahead ? p->s[p->at + ahead] : -1;
}

static bool
take(gb_t *p, const char *text)
{
    size_t n = strlen(text);
    if (p->n - p->at >= n && memcmp(p->s + p->at, text, n) == 0) {
        p->at += n;
        return true;
    }
    return false;
}

static void
skip(gb_t *p, bool lines)
{
    for (;;) {
        int c = peek(p, 0);
        if (c == '#') {
            while (peek(p, 0) >= 0 && peek(p, 0) != '\n') {
                p->at++;
            }
        } else if (c == ' ' || c == '\t' || c == '\r' || (lines && c == '\n')) {
            p->at++;
        } else {
            return;
        }
    }
}

/* ------------------------------------------------------------------ names */

static bool
name_char(int c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-'
           || c == '_';
}

static size_t
name_length(const gb_t *p)
{
    size_t n = 0;
    while (name_char(peek(p, n))) {
        n++;
    }
    return n;
}

static uint32_t
name_hash(const uint8_t *s, size_t n)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; i++) {
        h = (h ^ s[i]) * 16777619u;
    }
    return h ^ h >> 15;
}

/* The slot of a name in the table. */
static uint32_t *
find(gb_t *p, const uint8_t *s, size_t n)
{
    uint32_t k = name_hash(s, n) & (p->n_slot - 1);
    for (; p->slot[k] != 0; k = (k + 1) & (p->n_slot - 1)) {
        const llm_gbrule_t *r = &p->b->rule[p->slot[k] - 1];
        if (r->n_name == n && memcmp(p->b->bytes + r->name, s, n) == 0) {
            break;
        }
    }
    return &p->slot[k];
}

static bool
grow(gb_t *p)
{
    uint32_t *old = p->slot, n_old = p->n_slot, cap_old = p->cap_slot;
    p->slot = NULL;
    p->cap_slot = 0;
    p->n_slot = n_old > 0 ? 2 * n_old : 64;
    bool good = LLM_GB_ROOM(p->b, p->slot, p->cap_slot, p->n_slot) && llm_gb_work(p->b, p->n_slot);
    if (good) {
        memset(p->slot, 0, p->n_slot * sizeof(*p->slot));
        for (uint32_t i = 0; i < n_old; i++) {
            if (old[i] != 0) {
                const llm_gbrule_t *r = &p->b->rule[old[i] - 1];
                *find(p, p->b->bytes + r->name, r->n_name) = old[i];
            }
        }
    }
    LLM_GB_DROP(p->b, old, cap_old);
    return good;
}

/* The rule of the name at the position; it is made when it is new. */
static uint32_t
named_rule(gb_t *p)
{
    llm_gb_t *b = p->b;
    size_t n = name_length(p);
    const uint8_t *s = p->s + p->at;
    if (n == 0 || n > MAX_NAME) {
        return refuse(p, n == 0 ? "a rule name is expected"
                                : "a rule name is longer than 64 characters");
    }
    if (2 * (p->n_rules + 1) > p->n_slot && !grow(p)) {
        return 0;
    }
    uint32_t *slot = find(p, s, n);
    p->at += n;
    if (*slot == 0) {
        uint32_t r = llm_gb_rule(b);
        if (!LLM_GB_ROOM(b, b->bytes, b->cap_bytes, (uint64_t) b->n_bytes + n)) {
            return 0;
        }
        memcpy(b->bytes + b->n_bytes, s, n);
        b->rule[r].name = b->n_bytes;
        b->rule[r].n_name = (uint32_t) n;
        b->n_bytes += (uint32_t) n;
        *slot = r + 1;
        p->n_rules++;
    }
    return *slot - 1;
}

/* ----------------------------------------------------------- characters */

static int64_t
hex(gb_t *p, unsigned n)
{
    int64_t v = 0;
    for (unsigned i = 0; i < n; i++) {
        int c = peek(p, i);
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (d < 0) {
            return -1;
        }
        v = v * 16 + d;
    }
    p->at += n;
    return v;
}

/* A character of a literal or class, escapes resolved; -1 after a failure. */
static int64_t
character(gb_t *p)
{
    unsigned len;
    if (!take(p, "\\")) {
        uint32_t cp = llm_utf8_get(p->s + p->at, &len);
        p->at += len;
        return cp;
    }
    int c = peek(p, 0);
    p->at += c >= 0;
    int64_t v = -1;
    switch (c) {
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    case 'x':
        v = hex(p, 2);
        break;
    case 'u':
        v = hex(p, 4);
        break;
    case 'U':
        v = hex(p, 8);
        break;
    case '\\': case '"': case '[': case ']': case '-': case '^': case '\'': case '/':
        return c;
    default:
        break;
    }
    if (v < 0 || v >= LLM_UC_MAX || (v >= 0xd800 && v <= 0xdfff)) {
        refuse(p, "an escape is not one of \\n \\r \\t \\\\ \\\" \\[ \\] \\- \\^ \\xHH \\uHHHH "
                  "\\UHHHHHHHH");
        return -1;
    }
    return v;
}

/* After the quotation mark. */
static uint32_t
parse_literal(gb_t *p)
{
    llm_gb_t *b = p->b;
    uint8_t *text = NULL;
    uint32_t n = 0, cap = 0;
    while (!take(p, "\"")) {
        if (peek(p, 0) < 0 || peek(p, 0) == '\n') {
            refuse(p, "a quotation mark is not closed");
            break;
        }
        int64_t c = character(p);
        if (c < 0 || !LLM_GB_ROOM(b, text, cap, (uint64_t) n + 4)) {
            break;
        }
        n += llm_utf8_put(text + n, (uint32_t) c);
    }
    uint32_t node = b->rc == LLM_OK ? llm_gn_lit(b, text, n) : LLM_GN_FAIL_NODE;
    LLM_GB_DROP(b, text, cap);
    return node;
}

/* After "[". */
static uint32_t
parse_class(gb_t *p)
{
    llm_gset_t set = { 0 };
    bool negated = take(p, "^");
    while (!take(p, "]") && p->b->rc == LLM_OK) {
        if (peek(p, 0) < 0 || peek(p, 0) == '\n') {
            refuse(p, "\"[\" is not closed");
            break;
        }
        int64_t lo = character(p), hi = lo;
        if (peek(p, 0) == '-' && peek(p, 1) != ']') {
            p->at++;
            hi = peek(p, 0) < 0 ? -1 : character(p);
            if (hi < lo) {
                refuse(p, "a range in a class goes from a character to a later one");
            }
        }
        if (lo >= 0 && hi >= lo) {
            llm_gset_add(p->b, &set, (uint32_t) lo, (uint32_t) hi);
        }
    }
    if (negated) {
        llm_gset_negate(p->b, &set);
    }
    uint32_t i = llm_gset_intern(p->b, &set);
    return llm_gn_class(p->b, i, false);
}

/* ------------------------------------------------------------------ rules */

static uint32_t
parse_atom(gb_t *p)
{
    llm_gb_t *b = p->b;
    if (take(p, "\"")) {
        return parse_literal(p);
    }
    if (take(p, "[")) {
        return parse_class(p);
    }
    if (take(p, ".")) {
        return llm_gn_class(b, llm_gset_any(b), false);
    }
    if (take(p, "(")) {
        if (++p->nest > MAX_NEST) {
            return refuse(p, "groups are nested too deeply");
        }
        uint32_t node = parse_alt(p);
        p->nest--;
        skip(p, true);
        return take(p, ")") ? node : refuse(p, "\"(\" is not closed");
    }
    if (take(p, "%json")) {
        size_t used = 0;
        skip(p, true);
        uint32_t node = llm_gb_schema_at(b, (const char *) p->s + p->at, p->n - p->at, &used);
        p->at += used;
        return node;
    }
    if (name_char(peek(p, 0))) {
        uint32_t r = named_rule(p);
        return b->rc == LLM_OK ? llm_gn_ref(b, r) : LLM_GN_FAIL_NODE;
    }
    return refuse(p, "a literal, a class, a group, \".\", \"%json\" or a rule name is expected");
}

static bool
number(gb_t *p, uint32_t *v)
{
    size_t from = p->at;
    *v = 0;
    while (peek(p, 0) >= '0' && peek(p, 0) <= '9') {
        *v = *v > MAX_REPEAT ? *v : *v * 10 + (uint32_t) (peek(p, 0) - '0');
        p->at++;
    }
    return p->at > from;
}

/* After "{". */
static uint32_t
parse_count(gb_t *p, uint32_t node)
{
    uint32_t min, max;
    bool low = number(p, &min);
    max = min;
    if (take(p, ",")) {
        max = number(p, &max) ? max : LLM_G_INF;
    } else if (!low) {
        return refuse(p, "a repeat is {m}, {m,}, {,n} or {m,n}");
    }
    if (!take(p, "}") || min > max || min > MAX_REPEAT || (max != LLM_G_INF && max > MAX_REPEAT)) {
        return refuse(p, "a repeat is {m}, {m,}, {,n} or {m,n} with m <= n <= 100000");
    }
    return llm_gn_rep(p->b, node, min, max);
}

static uint32_t
parse_item(gb_t *p)
{
    uint32_t node = parse_atom(p);
    while (p->b->rc == LLM_OK) {
        if (take(p, "*")) {
            node = llm_gn_rep(p->b, node, 0, LLM_G_INF);
        } else if (take(p, "+")) {
            node = llm_gn_rep(p->b, node, 1, LLM_G_INF);
        } else if (take(p, "?")) {
            node = llm_gn_rep(p->b, node, 0, 1);
        } else if (take(p, "{")) {
            node = parse_count(p, node);
        } else {
            break;
        }
    }
    return node;
}

static uint32_t
parse_seq(gb_t *p)
{
    llm_gvec_t kids = { 0 };
    for (;;) {
        skip(p, p->nest > 0);
        int c = peek(p, 0);
        if (c < 0 || c == '|' || c == ')' || c == '\n' || p->b->rc != LLM_OK)
    {
            break;
        }
        llm_gvec_add(p->b, &kids, parse_item(p));
    }
    uint32_t node = llm_gn_seq(p->b, kids.v, kids.n);
    llm_gvec_drop(p->b, &kids);
    return node;
}

/* Alternatives; "|" may also begin the next line. */
static uint32_t
parse_alt(gb_t *p)
{
    llm_gvec_t kids = { 0 };
    for (;;) {
        skip(p, true);
        llm_gvec_add(p->b, &kids, parse_seq(p));
        size_t at = p->at;
        skip(p, true);
        if (p->b->rc != LLM_OK || !take(p, "|")) {
            p->at = at;
            break;
        }
    }
    uint32_t node = llm_gn_alt(p->b, kids.v, kids.n);
    llm_gvec_drop(p->b, &kids);
    return node;
}

static void
parse_rule(gb_t *p)
{
    uint32_t r = named_rule(p);
    skip(p, false);
    if (p->b->rc != LLM_OK || !take(p, "::=")) {
        refuse(p, "\"::=\" is expected after a rule name");
        return;
    }
    if (p->b->rule[r].defined) {
        llm_gb_fail(p->b, "rule \"%.*s\" is defined twice", (int) p->b->rule[r].n_name,
                    (const char *) p->b->bytes + p->b->rule[r].name);
        return;
    }
    p->b->rule[r].defined = true;
    uint32_t body = parse_alt(p);
    if (p->b->rc != LLM_OK) {
        return;
    }
    p->b->rule[r].body = body;
    skip(p, false);
    if (peek(p, 0) >= 0 && peek(p, 0) != '\n') {
        refuse(p, "the end of the rule is expected");
    }
}

uint32_t
llm_gb_gbnf(llm_gb_t *b, const char *text, size_t len)
{
    gb_t p = { .b = b, .s = (const uint8_t *) text, .n = len };
    uint32_t node = LLM_GN_FAIL_NODE;
    if (llm_utf8_valid(p.s, len) != len) {
        return llm_gb_fail(b, "not valid UTF-8");
    }
    for (skip(&p, true); b->rc == LLM_OK && p.at < len; skip(&p, true)) {
        parse_rule(&p);
    }
    for (uint32_t i = 0; b->rc == LLM_OK && i < p.n_slot; i++) {
        const llm_gbrule_t *r = p.slot[i] != 0 ? &b->rule[p.slot[i] - 1] : NULL;
        if (r != NULL && !r->defined) {
            llm_gb_fail(b, "rule \"%.*s\" is not defined", (int) r->n_name,
                        (const char *) b->bytes + r->name);
        }
    }
    if (b->rc == LLM_OK) {
        uint32_t *root = p.n_slot > 0 ? find(&p, (const uint8_t *) "root", 4) : NULL;
        node = root != NULL && *root != 0 ? llm_gn_ref(b, *root - 1)
                                          : llm_gb_fail(b, "there is no rule \"root\"");
    }
    LLM_GB_DROP(b, p.slot, p.cap_slot);
    return node;
}
