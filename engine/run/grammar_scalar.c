/*
 * grammar_scalar.c - strings, numbers and enumerated values of a schema.
 */
#include "run/grammar_schema.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ------------------------------------------------------------------ formats */

#define YEAR     "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"
#define LEAP     "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
#define DATE \
    "(?:" YEAR \
    "-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)" \
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))|" LEAP "-02-29)"
#define CLOCK    "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
#define TIME     CLOCK ":[0-5][0-9](?:\\.[0-9]{1,6})?(?:Z|[+-]" CLOCK ")"
#define COUNT    "[0-9]{1,4}"
#define DURATION_DATE \
    "(?:" COUNT "D|" COUNT "M(?:" COUNT "D)?|" COUNT "Y(?:" COUNT "M(?:" COUNT "D)?)?)"
#define DURATION_TIME \
    "T(?:" COUNT "H(?:" COUNT "M(?:" COUNT "S)?)?|" COUNT "M(?:" COUNT "S)?|" COUNT "S)"
#define OCTET    "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
#define IPV4     OCTET "(?:\\." OCTET "){3}"
#define H16      "[0-9A-Fa-f]{1,4}"
#define LABEL    "[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
#define HOST     LABEL "(?:\\." LABEL "){0,3}"
#define DOMAIN   "(?:" LABEL "\\.){1,3}[A-Za-z]{2,24}"
#define ATEXT    "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}"
#define PCHAR    "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
#define URL \
    "[a-z][a-z0-9+.-]{0,15}://" HOST "(?::[1-9][0-9]{0,3})?(?:/" PCHAR "*)*(?:\\?(?:" PCHAR \
    "|[/?])*)?" \
    "(?:#(?:" PCHAR "|[/?])*)?"

static const struct { const char *name, *regex; } formats[] = {
    { "date", DATE },
    { "time", TIME },
    { "date-time", DATE "T" TIME },
    { "duration", "P(?:" DURATION_DATE "(?:" DURATION_TIME ")?|" DURATION_TIME "|" COUNT "W)" },
    { "uuid", "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}" },
    { "ipv4", IPV4 },
    { "ipv6", "(?:" H16 ":){7}" H16 "|(?:" H16 ":){1,7}:|(?:" H16 ":){1,6}:" H16 "|(?:" H16
              ":){1,5}(?::" H16 "){1,2}"
              "|(?:" H16 ":){1,4}(?::" H16 "){1,3}|(?:" H16 ":){1,3}(?::" H16 "){1,4}|(?:" H16
              ":){1,2}(?::" H16 "){1,5}"
              "|" H16 ":(?::" H16 "){1,6}|:(?:(?::" H16 "){1,7}|:)" },
    { "hostname", HOST },
    { "email", ATEXT "(?:\\." ATEXT "){0,2}@" DOMAIN },
    { "uri", URL "|(?:urn:[a-z][a-z0-9-]{1,15}|mailto|tel):" PCHAR "+" },
};

const char *
llm_gs_format(const char *name)
{
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        if (strcmp(formats[i].name, name) == 0) {
            return formats[i].regex;
        }
    }
    return NULL;
}

/* ------------------------------------------------------------------ strings */

uint32_t
llm_gs_content(llm_gsch_t *s, const llm_gflat_t *f, bool *free_text)
{
    llm_gb_t *b = s->b;
    uint32_t node = LLM_GN_FAIL_NODE;
    bool any = true, length = f->min_len > 0 || f->max_len != LLM_G_INF;
    if (f->min_len > f->max_len || f->min_len == LLM_G_INF) {
        *free_text = false;
        return LLM_GN_FAIL_NODE;
    }
    for (uint32_t i = 0; i < f->patterns.n + f->formats.n + length && b->rc == LLM_OK; i++) {
        uint32_t x;
        if (i < f->patterns.n) {
            json_t *p = f->patterns.v[i];
            char what[300];
            snprintf(what, sizeof(what), "%s: pattern", s->path);
            x = llm_gb_regex(b, json_string_value(p), json_string_length(p), LLM_GRE_SEARCH, what);
        } else if (i < f->patterns.n + f->formats.n) {
            const char *regex = llm_gs_format(json_string_value(f->formats.v[i - f->patterns.n]));
            x = llm_gb_regex(b, regex, strlen(regex), LLM_GRE_WHOLE, "format");
        } else {
            x = llm_gj_anychars(b, f->min_len, f->max_len);
        }
        node = any ? x : llm_gn_and(b, node, x);
        any = false;
    }
    *free_text = any;
    return node;
}

uint32_t
llm_gs_string(llm_gsch_t *s, const llm_gflat_t *f)
{
    llm_gb_t *b = s->b;
    bool free_text;
    if (f->patterns.n == 0 && f->formats.n == 0) {
        return f->min_len > f->max_len || f->min_len == LLM_G_INF
                   ? LLM_GN_FAIL_NODE
                   : llm_gj_string(b, f->min_len, f->max_len);
    }
    uint32_t quote = llm_gn_byte(b, '"', '"');
    return llm_gn_seq3(b, quote, llm_gs_content(s, f, &free_text), quote);
}

/* ------------------------------------------------------------------ numbers */

/* The least (is_min) or largest integer within the bound; false: there is none that is written. */
static bool
int_limit(const llm_gbound_t *x, bool is_min, int64_t *v)
{
    const double edge = 9223372036854775808.0;      /* 2^63 */
    if (!x->present) {
        *v = is_min ? INT64_MIN : INT64_MAX;
        return true;
    }
    *v = x->i;
    bool strict = x->exclusive;
    if (!x->is_int) {
        double d = is_min ? ceil(x->d) : floor(x->d);
        if (d >= edge || d < -edge) {
            *v = is_min ? INT64_MIN : INT64_MAX;
            return is_min ? d < 0 : d > 0;
        }
        *v = (int64_t) d;
        strict = strict && d == x->d;
    }
    if (strict) {
        if (*v == (is_min ? INT64_MAX : INT64_MIN)) {
            return false;
        }
        *v += is_min ? 1 : -1;
    }
    return true;
}

uint32_t
llm_gs_number(llm_gsch_t *s, const llm_gflat_t *f, bool fractions)
{
    llm_gb_t *b = s->b;
    if (!f->lo.present && !f->hi.present) {
        return fractions ? llm_gj_number(b) : llm_gj_integer(b);
    }
    if (fractions) {
        return llm_gj_num_range(b, &f->lo, &f->hi);
    }
    int64_t lo, hi;
    return int_limit(&f->lo, true, &lo) && int_limit(&f->hi, false, &hi)
               ? llm_gj_int_range(b, lo, hi)
               : LLM_GN_FAIL_NODE;
}

/* -------------------------------------------------------------------- enums */

bool
llm_gs_equal(const json_t *x, const json_t *y)
{
    if (json_is_integer(x) && json_is_integer(y)) {
        return json_integer_value(x) == json_integer_value(y);
    }
    if (json_is_number(x) && json_is_number(y)) {
        return json_number_value(x) == json_number_value(y);
    }
    if (json_typeof(x) != json_typeof(y)) {
        return false;
    }
    if (json_is_array(x)) {
        bool same = json_array_size(x) == json_array_size(y);
        for (size_t i = 0; same && i < json_array_size(x); i++) {
            same = llm_gs_equal(json_array_get(x, i), json_array_get(y, i));
        }
        return same;
    }
    if (json_is_object(x)) {
        bool same = json_object_size(x) == json_object_size(y);
        const char *key;
        json_t *value;
        json_object_foreach((json_t *) x, key, value) {
            json_t *other = json_object_get(y, key);
            same = same && other != NULL && llm_gs_equal(value, other);
        }
        return same;
    }
    return json_equal(x, y) == 1;
}

/* The text of one value. */
static uint32_t
literal(llm_gb_t *b, json_t *v)
{
    char num[40];
    llm_gvec_t kids = { 0 };
    uint32_t node, open = 0, close = 0;
    switch (json_typeof(v)) {
    case JSON_NULL:
        return llm_gn_lit(b, "null", 4);
    case JSON_TRUE:
        return llm_gn_lit(b, "true", 4);
    case JSON_FALSE:
        return llm_gn_lit(b, "false", 5);
    case JSON_INTEGER:
        snprintf(num, sizeof(num), "%lld", (long long) json_integer_value(v));
        return llm_gn_lit(b, num, strlen(num));
    case JSON_REAL:
        for (int p = 1; p <= 17; p++) {
            snprintf(num, sizeof(num), "%.*g", p, json_real_value(v));
            if (strtod(num, NULL) == json_real_value(v)) {
                break;
            }
        }
        for (char *c = num; *c != '\0'; c++) {
            *c = *c == ',' ? '.' : *c;      /* the locale's decimal comma */
        }
        return llm_gn_lit(b, num, strlen(num));
    case JSON_STRING:
        return llm_gj_text(b, json_string_value(v), json_string_length(v), true);
    case JSON_ARRAY:
        open = llm_gn_byte(b, '[', '[');
        close = llm_gn_byte(b, ']', ']');
        for (size_t i = 0; i < json_array_size(v); i++) {
            llm_gvec_add(b, &kids, literal(b, json_array_get(v, i)));
            llm_gvec_add(b, &kids, false);
        }
        break;
    default: {
        const char *key;
        json_t *value;
        open = llm_gn_byte(b, '{', '{');
        close = llm_gn_byte(b, '}', '}');
        json_object_foreach(v, key, value) {
            uint32_t k = llm_gj_text(b, key, strlen(key), true);
            llm_gvec_add(b, &kids, llm_gj_pair(b, k, literal(b, value)));
            llm_gvec_add(b, &kids, false);
        }
        break;
    }
    }
    node = llm_gn_members(b, kids.v, kids.n / 2, llm_gj_space(b), llm_gj_comma(b),
                          LLM_GN_FAIL_NODE);
    llm_gvec_drop(b, &kids);
    return llm_gn_seq(b, (uint32_t[]) { open, node, llm_gj_space(b), close }, 4);
}

static bool
within(const llm_gbound_t *x, const json_t *v, bool is_min)
{
    if (!x->present) {
        return true;
    }
    if (x->is_int && json_is_integer(v)) {
        int64_t i = json_integer_value(v);
        return i == x->i ? !x->exclusive : is_min ? i > x->i : i < x->i;
    }
    double d = json_number_value(v), limit = x->is_int ? (double) x->i : x->d;
    return d == limit ? !x->exclusive : is_min ? d > limit : d < limit;
}

/*
 * Whether a value of one enum is in the others and satisfies the rest; strings (or NULL) are what
 * strings must be.
 */
static bool
fits(llm_gsch_t *s, const llm_gflat_t *f, json_t *v, const llm_gdfa_t *strings)
{
    llm_gb_t *b = s->b;
    unsigned type = llm_gs_type_of(v);
    if (!(type & f->types) || (type == LLM_GT_FRACTION && f->whole)) {
        return false;
    }
    for (uint32_t i = 1; i < f->enums.n; i++) {
        bool found = false;
        for (size_t k = 0; !found && k < json_array_size(f->enums.v[i]) && llm_gb_work(b, 4); k++) {
            found = llm_gs_equal(v, json_array_get(f->enums.v[i], k));
        }
        if (!found) {
            return false;
        }
    }
    if (type & LLM_GT_NUMBER) {
        return within(&f->lo, v, true) && within(&f->hi, v, false);
    }
    bool limited = type == LLM_GT_OBJECT
                       ? f->objects.n > 0 || f->names.n > 0 || f->min_props > 0
                             || f->max_props != LLM_G_INF
                       : f->arrays.n > 0 || f->min_items > 0 || f->max_items != LLM_G_INF;
    if ((type == LLM_GT_OBJECT || type == LLM_GT_ARRAY) && limited) {
        llm_gs_fail(
            s, "enum or const with an object or array beside keywords for these is not supported");
        return false;
    }
    if (type == LLM_GT_STRING && strings != NULL) {
        /*
         * the canonical text is made as a literal and compared; its bytes stay, which the limits
         * allow for
         */
        uint32_t at = llm_gj_text(b, json_string_value(v), json_string_length(v), false);
        if (b->rc != LLM_OK) {
            return false;
        }
        const llm_gnode_t *n = &b->node[at];
        return llm_gdfa_matches(strings, n->kind == LLM_GN_LIT ? b->bytes + n->a : NULL,
                                n->kind == LLM_GN_LIT ? n->n : 0);
    }
    return true;
}

uint32_t
llm_gs_enum(llm_gsch_t *s, const llm_gflat_t *f)
{
    llm_gb_t *b = s->b;
    llm_gdfa_t strings = { 0 };
    llm_gvec_t kids = { 0 };
    bool free_text = true, good = true;
    uint32_t content = llm_gs_content(s, f, &free_text), node = LLM_GN_FAIL_NODE;
    if (!free_text) {
        good = llm_gdfa_node(b, content, &strings);
    }
    for (size_t i = 0; good && i < json_array_size(f->enums.v[0]) && b->rc == LLM_OK; i++) {
        json_t *v = json_array_get(f->enums.v[0], i);
        if (fits(s, f, v, free_text ? NULL : &strings)) {
            llm_gvec_add(b, &kids, literal(b, v));
        }
    }
    node = llm_gn_alt(b, kids.v, kids.n);
    llm_gdfa_drop(b, &strings);
    llm_gvec_drop(b, &kids);
    return node;
}
