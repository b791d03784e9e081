/*
 * grammar_json.c - the pieces of JSON that need no schema (RFC 8259).
 *
 * One optional space is allowed where JSON allows white space between two tokens of a value, none
 * around the whole text. Strings, numbers and the any-value are built-in rules: they are equal in
 * every grammar, so their masks are shared.
 */
#include "run/grammar_impl.h"

#include <stdio.h>

uint32_t
llm_gj_space(llm_gb_t *b)
{
    return llm_gn_rep(b, llm_gn_byte(b, ' ', ' '), 0, 1);
}

uint32_t
llm_gj_comma(llm_gb_t *b)
{
    return llm_gn_seq3(b, llm_gj_space(b), llm_gn_byte(b, ',', ','), llm_gj_space(b));
}

uint32_t
llm_gj_pair(llm_gb_t *b, uint32_t key, uint32_t value)
{
    uint32_t colon = llm_gn_seq3(b, llm_gj_space(b), llm_gn_byte(b, ':', ':'), llm_gj_space(b));
    return llm_gn_seq3(b, key, colon, value);
}

/* ---------------------------------------------------------------- strings */

static uint32_t
hex(llm_gb_t *b)
{
    uint32_t x[] = { llm_gn_byte(b, '0', '9'), llm_gn_byte(b, 'A', 'F'), llm_gn_byte(b, 'a', 'f') };
    return llm_gn_alt(b, x, 3);
}

/* After \u: a code unit that stands alone, or a pair of surrogates. */
static uint32_t
code_unit(llm_gb_t *b)
{
    uint32_t first[] = {
        llm_gn_byte(b, '0', '9'), llm_gn_byte(b, 'A', 'C'), llm_gn_byte(b, 'E', 'F'),
        llm_gn_byte(b, 'a', 'c'), llm_gn_byte(b, 'e', 'f'),
    };
    uint32_t hex2 = llm_gn_rep(b, hex(b), 2, 2), d = llm_gn_oneof(b, "Dd");
    uint32_t low[] = { llm_gn_lit(b, "\\u", 2), d, llm_gn_oneof(b, "CDEFcdef"), hex2 };
    uint32_t kinds[] = {
        llm_gn_seq2(b, llm_gn_alt(b, first, 5), llm_gn_rep(b, hex(b), 3, 3)),
        llm_gn_seq3(b, d, llm_gn_byte(b, '0', '7'), hex2),
        llm_gn_seq(b, (uint32_t[]) { d, llm_gn_oneof(b, "89ABab"), hex2, llm_gn_seq(b, low, 4) },
                   4),
    };
    return llm_gn_alt(b, kinds, 3);
}

uint32_t
llm_gj_strchar(llm_gb_t *b)
{
    if (b->strchar == 0) {
        llm_gset_t plain = { 0 };
        llm_gset_add(b, &plain, 0x20, '"' - 1);
        llm_gset_add(b, &plain, '"' + 1, '\\' - 1);
        llm_gset_add(b, &plain, '\\' + 1, 0x10ffff);
        uint32_t set = llm_gset_intern(b, &plain);
        uint32_t escaped = llm_gn_alt2(b, llm_gn_oneof(b, "\"\\/bfnrt"),
                                       llm_gn_seq2(b, llm_gn_byte(b, 'u', 'u'), code_unit(b)));
        b->strchar = llm_gn_alt2(b, llm_gn_class(b, set, false),
                                 llm_gn_seq2(b, llm_gn_byte(b, '\\', '\\'), escaped));
    }
    return b->strchar;
}

uint32_t
llm_gj_anychars(llm_gb_t *b, uint32_t min, uint32_t max)
{
    return llm_gn_rep(b, llm_gn_class(b, llm_gset_any(b), true), min, max);
}

uint32_t
llm_gj_string(llm_gb_t *b, uint32_t min, uint32_t max)
{
    for (uint32_t i = 0; i < b->strings.n && llm_gb_work(b, 1); i++) {
        const llm_gbrule_t *r = &b->rule[b->strings.v[i]];
        if (r->min == min && r->max == max) {
            return llm_gn_ref(b, b->strings.v[i]);
        }
    }
    /* made here: building an automaton must not add nodes */
    llm_gj_strchar(b);
    uint32_t rule = llm_gb_rule(b);
    if (min > max || !llm_gvec_add(b, &b->strings, rule)) {
        return LLM_GN_FAIL_NODE;
    }
    b->rule[rule].kind = LLM_GR_STRING;
    b->rule[rule].builtin = LLM_GB_STRING;
    b->rule[rule].min = min;
    b->rule[rule].max = max;
    return llm_gn_ref(b, rule);
}

uint32_t
llm_gj_text(llm_gb_t *b, const char *s, size_t n, bool quoted)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    uint32_t at = b->n_bytes;
    if (!LLM_GB_ROOM(b, b->bytes, b->cap_bytes, (uint64_t) at + 6 * (uint64_t) n + 2)) {
        return LLM_GN_FAIL_NODE;
    }
    uint8_t *out = b->bytes + at;
    if (quoted) {
        *out++ = '"';
    }
    for (size_t i = 0; i < n; i++) {
        const char *p = s[i] != '\0' ? strchr(from, s[i]) : NULL;
        if (p != NULL) {
            *out++ = '\\';
            *out++ = (uint8_t) to[p - from];
        } else if ((uint8_t) s[i] < 0x20) {
            char u[8];
            snprintf(u, sizeof(u), "\\u%04x", (unsigned) (uint8_t) s[i]);
            memcpy(out, u, 6);
            out += 6;
        } else {
            *out++ = (uint8_t) s[i];
        }
    }
    if (quoted) {
        *out++ = '"';
    }
    /* the bytes are where llm_gn_lit will put them */
    size_t len = (size_t) (out - (b->bytes + at));
    return llm_gn_lit(b, NULL, len);
}

/* ---------------------------------------------------------------- numbers */

static uint32_t
builtin(llm_gb_t *b, uint32_t body, uint32_t which)
{
    uint32_t rule = llm_gb_rule(b);
    if (b->rc == LLM_OK) {
        b->rule[rule].body = body;
        b->rule[rule].builtin = which;
    }
    return llm_gn_ref(b, rule);
}

/*
 * Digits are bounded so that every number is finite as a double, and so that a model cannot write
 * digits for ever.
 */
uint32_t
llm_gj_number(llm_gb_t *b)
{
    if (b->number == 0) {
        uint32_t digit = llm_gn_byte(b, '0', '9');
        uint32_t whole = llm_gn_alt2(b, llm_gn_byte(b, '0', '0'),
                                     llm_gn_seq2(b, llm_gn_byte(b, '1', '9'),
                                                 llm_gn_rep(b, digit, 0, 17)));
        uint32_t frac = llm_gn_seq2(b, llm_gn_byte(b, '.', '.'), llm_gn_rep(b, digit, 1, 17));
        uint32_t exp = llm_gn_seq3(b, llm_gn_oneof(b, "Ee"),
                                   llm_gn_rep(b, llm_gn_oneof(b, "+-"), 0, 1),
                                   llm_gn_rep(b, digit, 1, 2));
        uint32_t parts[] = {
            llm_gn_rep(b, llm_gn_byte(b, '-', '-'), 0, 1),
            whole,
            llm_gn_rep(b, frac, 0, 1),
            llm_gn_rep(b, exp, 0, 1),
        };
        b->number = builtin(b, llm_gn_seq(b, parts, 4), LLM_GB_NUMBER);
    }
    return b->number;
}

uint32_t
llm_gj_integer(llm_gb_t *b)
{
    if (b->integer == 0) {
        b->integer = builtin(b, llm_gj_int_range(b, INT64_MIN, INT64_MAX), LLM_GB_INTEGER);
    }
    return b->integer;
}

/* ------------------------------------------------------------ any value */

static uint32_t
brackets(llm_gb_t *b, char open, uint32_t item, char close)
{
    uint32_t items = llm_gn_members(b, NULL, 0, llm_gj_space(b), llm_gj_comma(b), item);
    uint32_t parts[] = {
        llm_gn_byte(b, (uint8_t) open, (uint8_t) open), items, llm_gj_space(b),
        llm_gn_byte(b, (uint8_t) close, (uint8_t) close),
    };
    return llm_gn_seq(b, parts, 4);
}

uint32_t
llm_gj_object(llm_gb_t *b)
{
    return brackets(b, '{', llm_gj_pair(b, llm_gj_string(b, 0, LLM_G_INF), llm_gj_value(b)), '}');
}

uint32_t
llm_gj_array(llm_gb_t *b)
{
    return brackets(b, '[', llm_gj_value(b), ']');
}

uint32_t
llm_gj_value(llm_gb_t *b)
{
    if (b->value == 0) {
        uint32_t rule = llm_gb_rule(b);
        b->value = llm_gn_ref(b, rule);
        uint32_t kinds[] = {
            llm_gj_object(b), llm_gj_array(b), llm_gj_string(b, 0, LLM_G_INF), llm_gj_number(b),
            llm_gn_lit(b, "true", 4), llm_gn_lit(b, "false", 5), llm_gn_lit(b, "null", 4),
        };
        uint32_t body = llm_gn_alt(b, kinds, 7);
        if (b->rc == LLM_OK) {
            b->rule[rule].body = body;
            b->rule[rule].builtin = LLM_GB_VALUE;
        }
    }
    return b->value;
}

uint32_t
llm_gj_list(llm_gb_t *b, char open, uint32_t item, char close, uint32_t min, uint32_t max)
{
    if (min > max) {
        return LLM_GN_FAIL_NODE;
    }
    if (max == 0 || (item == LLM_GN_FAIL_NODE && min == 0)) {
        return llm_gn_seq3(b, llm_gn_byte(b, (uint8_t) open, (uint8_t) open), llm_gj_space(b),
                           llm_gn_byte(b, (uint8_t) close, (uint8_t) close));
    }
    if (item == LLM_GN_FAIL_NODE) {
        return LLM_GN_FAIL_NODE;
    }
    if (min == 0 && max == LLM_G_INF) {
        return brackets(b, open, item, close);
    }
    uint32_t rule = llm_gb_rule(b);
    if (b->rc == LLM_OK) {
        llm_gbrule_t *r = &b->rule[rule];
        r->kind = LLM_GR_LIST;
        r->body = item;
        r->open = (uint8_t) open;
        r->close = (uint8_t) close;
        r->empty = min == 0;
        r->min = min > 0 ? min - 1 : 0;
        r->max = max == LLM_G_INF ? LLM_G_INF : max - 1;
        llm_gj_space(b);
    }
    return llm_gn_ref(b, rule);
}
