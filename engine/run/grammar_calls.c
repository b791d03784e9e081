/*
 * grammar_calls.c - free text and calls of functions (grammar.h has the form of the description).
 *
 * "Any text without a string" is the automaton of that string's matcher (D. Knuth, J. Morris,
 * V. Pratt 1977) with the state of a match left out, and cut with the texts of whole characters.
 */
#include "base/json.h"
#include "run/grammar_impl.h"

#include <stdlib.h>

#define MAX_STRING 1024         /* bytes of a trigger and of the end of a preamble */

typedef struct {
    llm_gb_t           *b;
    const llm_gvocab_t *vocab;
    const json_t       *root;
} calls_t;

/* ------------------------------------------------------------------ fields */

/* The string under key; NULL: it is absent or null where that is allowed, or a failure. */
static const json_t *
string(calls_t *p, const json_t *in, const char *key, bool optional)
{
    const json_t *x = json_object_get(in, key);
    if (x == NULL || json_is_null(x)) {
        if (!optional) {
            llm_gb_fail(p->b, "calls: \"%s\" is missing", key);
        }
        return NULL;
    }
    if (!json_is_string(x)) {
        llm_gb_fail(p->b, "calls: \"%s\" is not a string", key);
        return NULL;
    }
    return x;
}

static bool
flag(calls_t *p, const char *key)
{
    const json_t *x = json_object_get(p->root, key);
    if (!json_is_boolean(x)) {
        llm_gb_fail(p->b, "calls: \"%s\" is not true or false", key);
    }
    return json_is_true(x);
}

/* ----------------------------------------------------------------- strings */

/* The bytes, and wherever they are those of a special token, that token instead. */
static uint32_t
literal_bytes(calls_t *p, const char *s, size_t n)
{
    uint32_t node = LLM_GN_EMPTY_NODE;
    size_t plain = 0;
    for (size_t i = 0; i < n && llm_gb_work(p->b, 1);) {
        size_t len = p->vocab != NULL ? llm_gvocab_special(p->vocab, s + i, n - i) : 0;
        if (len == 0) {
            i++;
            continue;
        }
        const uint8_t mark = LLM_GVOCAB_SPECIAL;
        uint32_t text = llm_gn_lit(p->b, s + i, len);
        uint32_t token = llm_gn_seq2(p->b, llm_gn_byte(p->b, mark, mark), text);
        node = llm_gn_seq3(p->b, node, llm_gn_lit(p->b, s + plain, i - plain),
                           llm_gn_alt2(p->b, text, token));
        i += len;
        plain = i;
    }
    return llm_gn_seq2(p->b, node, llm_gn_lit(p->b, s + plain, n - plain));
}

static uint32_t
literal(calls_t *p, const json_t *s)
{
    return s == NULL ? LLM_GN_FAIL_NODE
                     : literal_bytes(p, json_string_value(s), json_string_length(s));
}

/*
 * Edges of state k of the matcher of s[0 .. n). For bytes that do not fit it goes where state
 * `back` goes, which is an earlier one (k == 0: to 0).
 */
static bool
match_edges(llm_gb_t *b, llm_gdfa_t *d, const uint8_t *s, uint32_t n, uint32_t k, uint32_t back,
            bool with_match)
{
    uint32_t to[256] = { 0 };
    for (uint32_t i = 0; k > 0 && i < d->st[back].n_edges; i++) {
        const llm_gedge_t *e = &d->ed[d->st[back].edge + i];
        for (unsigned c = e->lo; c <= e->hi; c++) {
            to[c] = e->to;
        }
    }
    to[s[k]] = k + 1;
    for (unsigned lo = 0, hi; lo < 256; lo = hi + 1) {
        for (hi = lo; hi < 255 && to[hi + 1] == to[lo]; hi++) {
        }
        if (to[lo] == n && !with_match) {
            continue;
        }
        if (!LLM_GB_ROOM(b, d->ed, d->cap_ed, (uint64_t) d->n_ed + 1)) {
            return false;
        }
        d->ed[d->n_ed++] =
            (llm_gedge_t) { .lo = (uint8_t) lo, .hi = (uint8_t) hi, .to = to[lo] };
    }
    return llm_gb_work(b, 256);
}

/* Texts without the string (until false), or up to and with its first occurrence (until true). */
static uint32_t
text_around(calls_t *p, const json_t *string, bool until)
{
    llm_gb_t *b = p->b;
    const uint8_t *s = (const uint8_t *) json_string_value(string);
    uint32_t n = (uint32_t) json_string_length(string), back[MAX_STRING + 1] = { 0 };
    llm_gdfa_t d = { 0 };

    if (b->rc != LLM_OK || !LLM_GB_ROOM(b, d.st, d.cap, n + 1)) {
        return LLM_GN_FAIL_NODE;
    }
    for (uint32_t i = 1, k = 0; i < n; i++) {
        while (k > 0 && s[i] != s[k]) {
            k = back[k];
        }
        k += s[i] == s[k];
        back[i + 1] = k;
    }
    d.n = until ? n + 1 : n;
    for (uint32_t k = 0; k < n; k++) {
        d.st[k] = (llm_gdstate_t) { .edge = d.n_ed, .final = !until };
        if (!match_edges(b, &d, s, n, k, back[k], until)) {
            break;
        }
        d.st[k].n_edges = d.n_ed - d.st[k].edge;
    }
    d.st[n] = (llm_gdstate_t) { .edge = d.n_ed, .final = true };
    uint32_t any = llm_gn_rep(b, llm_gn_class(b, llm_gset_any(b), false), 0, LLM_G_INF);
    return llm_gn_and(b, llm_gn_dfa(b, &d), any);
}

/* A string to look for in free text. */
static bool
searchable(calls_t *p, const json_t *s, const char *key)
{
    size_t n = json_string_length(s);
    if (s != NULL && (n == 0 || n > MAX_STRING)) {
        llm_gb_fail(p->b, "calls: \"%s\" has %zu bytes, not 1 to %d", key, n, MAX_STRING);
    }
    return p->b->rc == LLM_OK;
}

/* ------------------------------------------------------------------- parts */

static uint32_t
preamble(calls_t *p)
{
    const json_t *end = string(p, p->root, "preamble_end", true);
    if (end == NULL || !searchable(p, end, "preamble_end")) {
        return LLM_GN_EMPTY_NODE;
    }
    const char *s = json_string_value(end);
    size_t n = json_string_length(end);
    uint32_t text = text_around(p, end, true);
    if (p->vocab == NULL || llm_gvocab_special(p->vocab, s, n) != n) {
        return text;
    }
    const uint8_t mark = LLM_GVOCAB_SPECIAL;
    uint32_t token = llm_gn_seq2(p->b, llm_gn_byte(p->b, mark, mark), llm_gn_lit(p->b, s, n));
    return llm_gn_alt2(p->b, text, llm_gn_seq2(p->b, text_around(p, end, false), token));
}

/* Whether the trigger is the beginning of open and prefix together. */
static bool
triggers(const json_t *trigger, const json_t *open, const json_t *prefix)
{
    size_t n = json_string_length(trigger), k = json_string_length(open);
    k = k < n ? k : n;
    return memcmp(json_string_value(trigger), json_string_value(open), k) == 0
           && json_string_length(prefix) >= n - k
           && memcmp(json_string_value(trigger) + k, json_string_value(prefix), n - k) == 0;
}

static uint32_t
item(calls_t *p, const json_t *it, const json_t *open, const json_t *trigger)
{
    const json_t *prefix = string(p, it, "prefix", false), *suffix = string(p, it, "suffix", false),
                 *schema = json_object_get(it, "schema");
    if (p->b->rc == LLM_OK && trigger != NULL && !triggers(trigger, open, prefix)) {
        llm_gb_fail(p->b, "calls: \"trigger\" is not the beginning of \"open\" and a \"prefix\"");
    }
    if (p->b->rc == LLM_OK && schema == NULL) {
        llm_gb_fail(p->b, "calls: \"schema\" is missing");
    }
    if (p->b->rc != LLM_OK) {
        return LLM_GN_FAIL_NODE;
    }
    char *text = json_dumps(schema, JSON_ENCODE_ANY | JSON_COMPACT);
    if (text == NULL) {
        return llm_gb_nomem(p->b);
    }
    uint32_t value = llm_gb_schema(p->b, text, strlen(text));
    free(text);
    return llm_gn_seq3(p->b, literal(p, prefix), value, literal(p, suffix));
}

/* open, an item or several, close. */
static uint32_t
group(calls_t *p, const json_t *open, const json_t *trigger, bool repeat)
{
    llm_gb_t *b = p->b;
    const json_t *items = json_object_get(p->root, "items"),
                 *join = string(p, p->root, "join", !repeat),
                 *close = string(p, p->root, "close", false);
    llm_gvec_t kinds = { 0 };

    if (!json_is_array(items) || json_array_size(items) == 0) {
        return llm_gb_fail(b, "calls: \"items\" is not a list of one or more");
    }
    for (size_t i = 0; i < json_array_size(items) && b->rc == LLM_OK; i++) {
        llm_gvec_add(b, &kinds, item(p, json_array_get(items, i), open, trigger));
    }
    /* a rule: what is mentioned twice need not be there twice */
    uint32_t rule = llm_gb_rule(b), body = llm_gn_alt(b, kinds.v, kinds.n);
    llm_gvec_drop(b, &kinds);
    if (b->rc != LLM_OK) {
        return LLM_GN_FAIL_NODE;
    }
    b->rule[rule].body = body;
    uint32_t one = llm_gn_ref(b, rule), more = LLM_GN_EMPTY_NODE;
    if (repeat) {
        more = llm_gn_rep(b, llm_gn_seq2(b, literal(p, join), one), 0, LLM_G_INF);
    }
    return llm_gn_seq3(b, literal(p, open), one, llm_gn_seq2(b, more, literal(p, close)));
}

static uint32_t
whole(calls_t *p)
{
    llm_gb_t *b = p->b;
    const json_t *min = json_object_get(p->root, "min"),
                 *open = string(p, p->root, "open", false);
    bool is_free = flag(p, "free"), repeat = flag(p, "repeat");
    const json_t *trigger = is_free ? string(p, p->root, "trigger", false) : NULL;
    if (!json_is_integer(min) || json_integer_value(min) < 0 || json_integer_value(min) > 1) {
        llm_gb_fail(b, "calls: \"min\" is not 0 or 1");
    }
    if (b->rc != LLM_OK || (is_free && !searchable(p, trigger, "trigger"))) {
        return LLM_GN_FAIL_NODE;
    }
    uint32_t least = (uint32_t) json_integer_value(min), calls = group(p, open, trigger, repeat);
    if (is_free && b->rc == LLM_OK) {
        uint32_t text = text_around(p, trigger, false);
        uint32_t some = llm_gn_rep(b, llm_gn_seq2(b, text, calls), least, repeat ? LLM_G_INF : 1);
        if (repeat) {
            calls = llm_gn_seq2(b, some, text);
        } else {
            calls = least == 0 ? llm_gn_alt2(b, text, some) : some;
        }
    } else {
        calls = llm_gn_rep(b, calls, least, 1);
    }
    return llm_gn_seq2(b, preamble(p), calls);
}

uint32_t
llm_gb_calls(llm_gb_t *b, const llm_gvocab_t *vocab, const char *text, size_t len)
{
    json_t *root = NULL;
    llm_err_t err;
    llm_code_t rc = llm_json_parse(&root, "the description of calls", text, len, &err);
    if (rc == LLM_E_NOMEM) {
        return llm_gb_nomem(b);
    }
    if (rc != LLM_OK) {
        return llm_gb_fail(b, "%s", err.msg);
    }
    calls_t p = { .b = b, .vocab = vocab, .root = root };
    uint32_t node = json_is_object(root) ? whole(&p)
                                         : llm_gb_fail(b, "calls: no object describes them");
    json_decref(root);
    return node;
}
