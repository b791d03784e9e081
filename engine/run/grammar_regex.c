/*
 * grammar_regex.c - regular expressions (docs/grammar.md has the syntax).
 *
 * Recursive descent over the text. Constructs that dialects read differently, or that are not
 * regular, are refused by name; classes like \w mean what every dialect agrees on. Anchors are
 * nodes of their own until the end, where they decide what may stand around a match: resolve()
 * turns a node into four, one for each combination of "only at the beginning" and "only at the
 * end".
 */
#include "base/unicode.h"
#include "run/grammar_impl.h"

#include <stdio.h>

#define MAX_NEST   100
#define MAX_REPEAT 100000u

typedef struct {
    llm_gb_t      *b;
    const uint8_t *s;
    size_t         n, at;
    llm_gre_mode_t mode;
    const char    *what;        /* "regex", "pattern": starts messages */
    unsigned       nest;
} re_t;

static uint32_t parse_alt(re_t *p);

static uint32_t
refuse(re_t *p, const char *why)
{
    return llm_gb_fail(p->b, "%s: %s (at byte %zu)", p->what, why, p->at);
}

static bool
json(const re_t *p)
{
    return p->mode == LLM_GRE_SEARCH;
}

static int
peek(const re_t *p, size_t ahead)
{
    return p->n - p->at > ahead ? p->s[p->at + ahead] : -1;
}

static bool
take(re_t *p, const char *text)
{
    size_t n = strlen(text);
    if (p->n - p->at >= n && memcmp(p->s + p->at, text, n) == 0) {
        p->at += n;
        return true;
    }
    return false;
}

static uint32_t
one_char(re_t *p, uint32_t c)
{
    uint8_t u[4];
    if (json(p)) {
        return llm_gj_text(p->b, (const char *) u, llm_utf8_put(u, c), false);
    }
    return llm_gn_lit(p->b, u, llm_utf8_put(u, c));
}

static uint32_t
set_node(re_t *p, llm_gset_t *set)
{
    uint32_t i = llm_gset_intern(p->b, set);
    return llm_gn_class(p->b, i, json(p));
}

/* ---------------------------------------------------------------- escapes */

static int
hex_digit(int c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* n hexadecimal digits; -1: they are not there. */
static int64_t
hex_number(re_t *p, unsigned n)
{
    int64_t v = 0;
    for (unsigned i = 0; i < n; i++) {
        int d = hex_digit(peek(p, i));
        if (d < 0) {
            return -1;
        }
        v = v * 16 + d;
    }
    p->at += n;
    return v;
}

/* After \u or \x. */
static int64_t
hex_escape(re_t *p, int kind)
{
    int64_t v;
    if (take(p, "{")) {
        unsigned n = 0;
        while (hex_digit(peek(p, n)) >= 0) {
            n++;
        }
        v = n >= 1 && n <= 6 ? hex_number(p, n) : -1;
        if (v < 0 || !take(p, "}")) {
            return -1;
        }
    } else {
        v = hex_number(p, kind == 'x' ? 2 : kind == 'U' ? 8 : 4);
        if (kind == 'u' && v >= 0xd800 && v <= 0xdbff && take(p, "\\u")) {
            int64_t low = hex_number(p, 4);
            return low >= 0xdc00 && low <= 0xdfff ? 0x10000 + ((v - 0xd800) << 10) + (low - 0xdc00)
                                                  : -1;
        }
    }
    return v >= LLM_UC_MAX || (v >= 0xd800 && v <= 0xdfff) ? -1 : v;
}

/*
 * Class \c, narrow: what every dialect puts into it. \d and the schema's \w are ASCII; \w of a
 * regex are the letters and digits of all scripts. The negated ones leave out what any dialect puts
 * in.
 */
static bool
narrow_class(re_t *p, llm_gset_t *set, int c)
{
    llm_gb_t *b = p->b;
    llm_gset_t s = { 0 };
    bool negated = c == 'D' || c == 'W' || c == 'S';
    switch (c) {
    case 'd':
        llm_gset_add(b, &s, '0', '9');
        break;
    case 'w':
        if (json(p)) {
            llm_gset_add(b, &s, '0', '9');
            llm_gset_add(b, &s, 'A', 'Z');
            llm_gset_add(b, &s, 'a', 'z');
        } else {
            llm_gset_add_class(b, &s, LLM_UC_LETTER | LLM_UC_NUMBER, 0);
        }
        llm_gset_add(b, &s, '_', '_');
        break;
    case 's':
        llm_gset_add_class(b, &s, LLM_UC_SPACE, 0);
        if (json(p)) {
            llm_gset_negate(b, &s);
            llm_gset_add(b, &s, 0x85, 0x85);
            llm_gset_negate(b, &s);
        }
        break;
    case 'D':
        llm_gset_add_class(b, &s, LLM_UC_NUMBER, 0);
        break;
    case 'W':
        llm_gset_add_class(b, &s, LLM_UC_WORD | LLM_UC_NUMBER, 0);
        break;
    case 'S':
        llm_gset_add_class(b, &s, LLM_UC_SPACE, 0);
        llm_gset_add(b, &s, 0x1c, 0x1f);
        llm_gset_add(b, &s, 0xfeff, 0xfeff);
        break;
    default:
        return false;
    }
    if (negated) {
        llm_gset_negate(b, &s);
    }
    llm_gset_union(b, set, &s);
    LLM_GB_DROP(b, s.r, s.cap);
    return true;
}

/* Adds class \c to the set; in a negated set (wide) what any dialect puts into it, so that none of
 * that is written. */
static bool
class_escape(re_t *p, llm_gset_t *set, int c, bool wide)
{
    llm_gset_t s = { 0 };
    if (!narrow_class(p, &s, wide ? c ^ 0x20 : c)) {
        return false;
    }
    if (wide) {
        llm_gset_negate(p->b, &s);
    }
    llm_gset_union(p->b, set, &s);
    LLM_GB_DROP(p->b, s.r, s.cap);
    return true;
}

/* After \p or \P. */
static bool
property(re_t *p, llm_gset_t *set, bool negated)
{
    const char *name = (const char *) p->s + p->at + 1;
    size_t n = 0;
    if (peek(p, 0) == '{') {
        while (peek(p, 1 + n) > ' ' && peek(p, 1 + n) != '}') {
            n++;
        }
        if (peek(p, 1 + n) != '}') {
            refuse(p, "\\p{ is not closed");
            return false;
        }
        p->at += n + 2;
    } else if (peek(p, 0) > ' ' && peek(p, 0) < 0x80) {
        name = (const char *) p->s + p->at;
        n = 1;
        p->at++;
    }
    llm_gset_t s = { 0 };
    if (!llm_gset_add_category(p->b, &s, name, n) && p->b->rc == LLM_OK) {
        llm_gb_fail(p->b,
                    "%s: \\p{%.*s} is not supported (general categories like L, Lu, N, Nd are)",
                    p->what, n > 40 ? 40 : (int) n, name);
    } else {
        if (negated) {
            llm_gset_negate(p->b, &s);
        }
        llm_gset_union(p->b, set, &s);
    }
    LLM_GB_DROP(p->b, s.r, s.cap);
    return p->b->rc == LLM_OK;
}

/* A simple escape: the character, or -1 when c starts something else. The position is behind c. */
static int64_t
char_escape(re_t *p, int c)
{
    static const char from[] = "nrtfv0", to[] = "\n\r\t\f\v";
    const char *f = c > 0 ? strchr(from, c) : NULL;
    if (f != NULL && !(c == '0' && peek(p, 0) >= '0' && peek(p, 0) <= '9')) {
        return to[f - from];
    }
    if (c == 'x' || c == 'u' || c == 'U') {
        return hex_escape(p, c);
    }
    if (c > ' ' && c < 0x7f && !(c >= '0' && c <= '9') && !(c >= 'A' && c <= 'Z')
        && !(c >= 'a' && c <= 'z'))
    {
        return c;
    }
    return c == ' ' ? c : -1;
}

static uint32_t
bad_escape(re_t *p, int c)
{
    char msg[80];
    if (c == 'b' || c == 'B') {
        return refuse(p, "word boundaries (\\b) are not supported");
    }
    if (c >= '0' && c <= '9') {
        return refuse(p, "back-references and octal escapes are not supported");
    }
    if (c == 'k') {
        return refuse(p, "back-references (\\k) are not supported");
    }
    if (c == 'x' || c == 'u' || c == 'U') {
        return refuse(p, "\\x and \\u want hexadecimal digits of a character");
    }
    if (c < 0) {
        return refuse(p, "ends in a backslash");
    }
    snprintf(msg, sizeof(msg), "escape \\%c is not supported", c < 0x7f && c > ' ' ? c : '?');
    return refuse(p, msg);
}

/* ---------------------------------------------------------------- classes */

/*
 * One character of a class as it is written; LLM_UC_MAX: it was a class of its own, which is in the
 * set now.
 */
static int64_t
class_char(re_t *p, llm_gset_t *set, bool negated)
{
    if (take(p, "\\")) {
        int c = peek(p, 0);
        p->at += c >= 0;
        if (class_escape(p, set, c, negated)) {
            return LLM_UC_MAX;
        }
        if (c == 'p' || c == 'P') {
            return property(p, set, c == 'P') ? (int64_t) LLM_UC_MAX : -1;
        }
        if (c == 'b') {
            return '\b';
        }
        int64_t v = char_escape(p, c);
        if (v < 0) {
            bad_escape(p, c);
        }
        return v;
    }
    unsigned len;
    uint32_t c = llm_utf8_get(p->s + p->at, &len);
    p->at += len;
    return c;
}

/* Set operations and named classes, which some dialects read here and others take literally. */
static bool
class_ambiguous(re_t *p)
{
    static const char *const ops[] = { "&&", "--", "~~", "[:", "[=", "[." };
    for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
        if (p->n - p->at >= 2 && memcmp(p->s + p->at, ops[i], 2) == 0) {
            refuse(p, "set operations and [:names:] inside a class are not supported");
            return true;
        }
    }
    if (peek(p, 0) == '[' && !json(p)) {
        refuse(p, "\"[\" inside a class must be written \\[");
        return true;
    }
    return false;
}

/* After "[". */
static uint32_t
parse_class(re_t *p)
{
    llm_gset_t set = { 0 };
    bool negated = take(p, "^");
    if (peek(p, 0) == ']') {
        return refuse(p, "\"]\" at the beginning of a class must be written \\]");
    }
    while (peek(p, 0) != ']' && p->b->rc == LLM_OK) {
        if (peek(p, 0) < 0) {
            refuse(p, "\"[\" is not closed");
            break;
        }
        if (class_ambiguous(p)) {
            break;
        }
        int64_t lo = class_char(p, &set, negated), hi = lo;
        if (peek(p, 0) == '-' && peek(p, 1) != ']' && lo >= 0) {
            p->at++;
            if (peek(p, 0) < 0) {
                continue;
            }
            hi = class_char(p, &set, negated);
            if (lo >= LLM_UC_MAX || hi >= LLM_UC_MAX || (hi >= 0 && hi < lo)) {
                refuse(p, "a range in a class goes from a character to a later one");
                break;
            }
        }
        if (lo >= 0 && hi >= 0 && lo < LLM_UC_MAX) {
            llm_gset_add(p->b, &set, (uint32_t) lo, (uint32_t) hi);
        }
    }
    take(p, "]");
    if (negated) {
        llm_gset_negate(p->b, &set);
    }
    return set_node(p, &set);
}

/* "." : what no dialect takes as the end of a line. */
static uint32_t
any_in_line(re_t *p)
{
    llm_gset_t set = { 0 };
    llm_gset_add(p->b, &set, '\n', '\n');
    if (json(p)) {
        llm_gset_add(p->b, &set, '\r', '\r');
        llm_gset_add(p->b, &set, 0x2028, 0x2029);
    }
    llm_gset_negate(p->b, &set);
    return set_node(p, &set);
}

/* ------------------------------------------------------------------ atoms */

/* After "(". */
static uint32_t
parse_group(re_t *p)
{
    if (take(p, "?")) {
        bool named = peek(p, 0) == 'P' && peek(p, 1) == '<';
        p->at += named;
        if (take(p, "<=") || take(p, "<!")) {
            return refuse(p, "look-behind is not supported");
        }
        if (take(p, "=") || take(p, "!")) {
            return refuse(p, "look-ahead is not supported");
        }
        if (take(p, "<")) {
            while (peek(p, 0) >= 0 && peek(p, 0) != '>') {
                p->at++;
            }
            if (!take(p, ">")) {
                return refuse(p, "the name of a group is not closed");
            }
        } else if (!take(p, ":")) {
            return refuse(
                p, "\"(?\" with flags, conditions, comments or atomic groups is not supported");
        }
    } else if (peek(p, 0) == '*') {
        return refuse(p, "\"(*\" verbs are not supported");
    }
    if (++p->nest > MAX_NEST) {
        return refuse(p, "groups are nested too deeply");
    }
    uint32_t node = parse_alt(p);
    p->nest--;
    if (!take(p, ")") && p->b->rc == LLM_OK) {
        return refuse(p, "\"(\" is not closed");
    }
    return node;
}

static uint32_t
anchor(re_t *p, llm_gkind_t kind)
{
    llm_gb_t *b = p->b;
    if (!LLM_GB_ROOM(b, b->node, b->cap_node, (uint64_t) b->n_node + 1)) {
        return LLM_GN_FAIL_NODE;
    }
    b->node[b->n_node] = (llm_gnode_t) { .kind = (uint8_t) kind };
    return b->n_node++;
}

/* After "\". */
static uint32_t
parse_escape(re_t *p)
{
    llm_gset_t set = { 0 };
    int c = peek(p, 0);
    p->at += c >= 0;
    if (class_escape(p, &set, c, false)) {
        return set_node(p, &set);
    }
    switch (c) {
    case 'p':
    case 'P':
        return property(p, &set, c == 'P') ? set_node(p, &set) : LLM_GN_FAIL_NODE;
    case 'A':
        return anchor(p, LLM_GN_BOL);
    case 'z':
    case 'Z':
        return anchor(p, LLM_GN_EOL);
    default:
        break;
    }
    int64_t v = char_escape(p, c);
    return v < 0 ? bad_escape(p, c) : one_char(p, (uint32_t) v);
}

static uint32_t
parse_atom(re_t *p)
{
    unsigned len;
    if (take(p, "(")) {
        return parse_group(p);
    }
    if (take(p, "[")) {
        return parse_class(p);
    }
    if (take(p, ".")) {
        return any_in_line(p);
    }
    if (take(p, "\\")) {
        return parse_escape(p);
    }
    if (take(p, "^")) {
        return anchor(p, LLM_GN_BOL);
    }
    if (take(p, "$")) {
        return anchor(p, LLM_GN_EOL);
    }
    int c = peek(p, 0);
    if (c == '*' || c == '+' || c == '?') {
        return refuse(p, "a quantifier has nothing to repeat");
    }
    uint32_t cp = llm_utf8_get(p->s + p->at, &len);
    p->at += len;
    return one_char(p, cp);
}

/* ------------------------------------------------------------- quantifiers */

static bool
number(re_t *p, uint32_t *v)
{
    size_t from = p->at;
    *v = 0;
    while (peek(p, 0) >= '0' && peek(p, 0) <= '9') {
        *v = *v > MAX_REPEAT ? *v : *v * 10 + (uint32_t) (peek(p, 0) - '0');
        p->at++;
    }
    return p->at > from;
}

/* {m}, {m,} or {m,n} at the position. */
static bool
braces(re_t *p, uint32_t *min, uint32_t *max)
{
    size_t from = p->at;
    if (take(p, "{")) {
        if (number(p, min)) {
            *max = *min;
            if (take(p, ",") && !number(p, max)) {
                *max = LLM_G_INF;
            }
            if (take(p, "}")) {
                return true;
            }
        } else if (peek(p, 0) == ',') {
            refuse(p, "\"{,\" must be written {0,");
        }
        p->at = from;
    }
    return false;
}

static uint32_t
parse_repeat(re_t *p)
{
    size_t from = p->at;
    uint32_t node = parse_atom(p), min = 1, max = 1;
    if (p->b->rc != LLM_OK) {
        return LLM_GN_FAIL_NODE;
    }
    if (take(p, "*")) {
        min = 0;
        max = LLM_G_INF;
    } else if (take(p, "+")) {
        max = LLM_G_INF;
    } else if (take(p, "?")) {
        min = 0;
    } else if (!braces(p, &min, &max)) {
        return node;
    }
    if (max < min || min > MAX_REPEAT || (max != LLM_G_INF && max > MAX_REPEAT)) {
        return refuse(p, max < min ? "a repeat ends before it begins"
                                   : "a repeat count is over 100000");
    }
    const llm_gnode_t *n = &p->b->node[node];
    if (n->kind == LLM_GN_BOL || n->kind == LLM_GN_EOL) {
        p->at = from;
        return refuse(p, "an anchor cannot be repeated");
    }
    take(p, "?");       /* lazy: the same texts match */
    int c = peek(p, 0);
    uint32_t x, y;
    size_t at = p->at;
    if (c == '*' || c == '+' || c == '?' || braces(p, &x, &y)) {
        p->at = at;
        return refuse(p, "possessive and double quantifiers are not supported");
    }
    return llm_gn_rep(p->b, node, min, max);
}

static uint32_t
parse_seq(re_t *p)
{
    llm_gvec_t kids = { 0 };
    while (p->b->rc == LLM_OK && peek(p, 0) >= 0 && peek(p, 0) != '|' && peek(p, 0) != ')')
    {
        llm_gvec_add(p->b, &kids, parse_repeat(p));
    }
    uint32_t node = llm_gn_seq(p->b, kids.v, kids.n);
    llm_gvec_drop(p->b, &kids);
    return node;
}

static uint32_t
parse_alt(re_t *p)
{
    llm_gvec_t kids = { 0 };
    do {
        llm_gvec_add(p->b, &kids, parse_seq(p));
    } while (p->b->rc == LLM_OK && take(p, "|"));
    uint32_t node = llm_gn_alt(p->b, kids.v, kids.n);
    llm_gvec_drop(p->b, &kids);
    return node;
}

/* ---------------------------------------------------------------- anchors */

/* v[s + 2 * e]: matches that must begin at the beginning (s) and end at the end (e) of the text. */
typedef struct { uint32_t v[4]; } parts_t;

static bool
plain(const parts_t *x)
{
    return x->v[1] == 0 && x->v[2] == 0 && x->v[3] == 0;
}

static void
join(re_t *p, parts_t *x, const parts_t *y)
{
    for (int i = 0; i < 4; i++) {
        x->v[i] = x->v[i] == 0   ? y->v[i]
                  : y->v[i] == 0 ? x->v[i]
                                 : llm_gn_alt2(p->b, x->v[i], y->v[i]);
    }
}

/*
 * x followed by y: an anchor of the beginning needs nothing in front of it, one of the end nothing
 * behind it.
 */
static parts_t
follow(re_t *p, const parts_t *x, const parts_t *y)
{
    parts_t out = { { 0 } };
    for (int i = 0; i < 4; i++) {
        for (int k = 0; k < 4; k++) {
            if (x->v[i] == 0 || y->v[k] == 0) {
                continue;
            }
            if (((k & 1) && x->v[i] != LLM_GN_EMPTY_NODE)
                || ((i & 2) && y->v[k] != LLM_GN_EMPTY_NODE))
            {
                refuse(p, "an anchor (^ or $) in the middle is not supported");
                return out;
            }
            parts_t one = { { 0 } };
            one.v[(i | k) & 3] = llm_gn_seq2(p->b, x->v[i], y->v[k]);
            join(p, &out, &one);
        }
    }
    return out;
}

static parts_t resolve(re_t *p, uint32_t node);

/* Items without anchors between two with anchors stay one sequence. */
static parts_t
resolve_seq(re_t *p, uint32_t node)
{
    llm_gnode_t n = p->b->node[node];
    llm_gvec_t run = { 0 };
    parts_t out = { { LLM_GN_EMPTY_NODE } };
    bool all_plain = true;

    for (uint32_t i = 0; i <= n.n && p->b->rc == LLM_OK; i++) {
        uint32_t item = i < n.n ? p->b->kids.v[n.a + i] : LLM_GN_EMPTY_NODE;
        parts_t x = resolve(p, item);
        if (i < n.n && plain(&x)) {
            llm_gvec_add(p->b, &run, item);
            continue;
        }
        if (i == n.n && all_plain) {
            out.v[0] = node;
            break;
        }
        parts_t y = { { llm_gn_seq(p->b, run.v, run.n) } };
        run.n = 0;
        all_plain = false;
        out = follow(p, &out, &y);
        out = follow(p, &out, &x);
    }
    llm_gvec_drop(p->b, &run);
    return out;
}

static parts_t
resolve(re_t *p, uint32_t node)
{
    llm_gnode_t n = p->b->node[node];
    parts_t out = { { 0 } };
    switch (n.kind) {
    case LLM_GN_BOL:
        out.v[1] = LLM_GN_EMPTY_NODE;
        break;
    case LLM_GN_EOL:
        out.v[2] = LLM_GN_EMPTY_NODE;
        break;
    case LLM_GN_ALT:
        for (uint32_t i = 0; i < n.n && p->b->rc == LLM_OK; i++) {
            parts_t x = resolve(p, p->b->kids.v[n.a + i]);
            join(p, &out, &x);
        }
        break;
    case LLM_GN_SEQ:
        out = resolve_seq(p, node);
        break;
    case LLM_GN_REP: {
        parts_t x = resolve(p, n.a);
        if (!plain(&x)) {
            refuse(p, "an anchor (^ or $) inside a repeat is not supported");
        }
        out.v[0] = node;
        break;
    }
    default:
        out.v[0] = node;
        break;
    }
    return out;
}

uint32_t
llm_gb_regex(llm_gb_t *b, const char *text, size_t len, llm_gre_mode_t mode, const char *what)
{
    re_t p = { .b = b, .s = (const uint8_t *) text, .n = len, .mode = mode, .what = what };
    if (llm_utf8_valid(p.s, len) != len) {
        return llm_gb_fail(b, "%s: not valid UTF-8", what);
    }
    uint32_t node = parse_alt(&p);
    if (b->rc == LLM_OK && p.at < len) {
        return refuse(&p, "\")\" without \"(\"");
    }
    if (b->rc != LLM_OK || node == LLM_GN_FAIL_NODE) {
        return LLM_GN_FAIL_NODE;
    }
    parts_t x = resolve(&p, node);
    if (b->rc != LLM_OK) {
        return LLM_GN_FAIL_NODE;
    }
    if (mode == LLM_GRE_WHOLE) {
        return llm_gn_alt(b, x.v, 4);
    }
    uint32_t any = llm_gj_anychars(b, 0, LLM_G_INF), part[4];
    for (int i = 0; i < 4; i++) {
        part[i] = x.v[i] == 0 ? 0
                              : llm_gn_seq3(b, i & 1 ? LLM_GN_EMPTY_NODE : any, x.v[i],
                                            i & 2 ? LLM_GN_EMPTY_NODE : any);
    }
    return llm_gn_alt(b, part, 4);
}
