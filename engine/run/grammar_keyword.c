/*
 * grammar_keyword.c - the keywords of one schema, checked and added to its conjunction.
 *
 * ONE table says of every keyword of JSON Schema what becomes of it. A keyword that is not in the
 * table is an annotation, as the specification says.
 */
#include "run/grammar_schema.h"

#include <math.h>

typedef enum {
    K_REFUSE,       /* asks for something that is not done */
    K_NOTE,         /* says nothing about the value, or is followed by flatten() */
    K_TYPE, K_ENUM, K_CONST,
    K_MIN_LEN, K_MAX_LEN, K_PATTERN, K_FORMAT,
    K_MIN, K_MAX, K_XMIN, K_XMAX, K_MULTIPLE,
    K_OBJECT,       /* is read when the object is written; implies an object */
    K_NAMES, K_MIN_PROPS, K_MAX_PROPS, K_UNEVALUATED_PROPS,
    K_ARRAY, K_MIN_ITEMS, K_MAX_ITEMS, K_UNIQUE, K_UNEVALUATED_ITEMS
} kind_t;

static const struct { const char *name; kind_t kind; } table[] = {
    { "type", K_TYPE },
    { "enum", K_ENUM },
    { "const", K_CONST },
    { "minLength", K_MIN_LEN },
    { "maxLength", K_MAX_LEN },
    { "pattern", K_PATTERN },
    { "format", K_FORMAT },
    { "minimum", K_MIN },
    { "maximum", K_MAX },
    { "exclusiveMinimum", K_XMIN },
    { "exclusiveMaximum", K_XMAX },
    { "multipleOf", K_MULTIPLE },
    { "properties", K_OBJECT },
    { "required", K_OBJECT },
    { "additionalProperties", K_OBJECT },
    { "patternProperties", K_OBJECT },
    { "propertyNames", K_NAMES },
    { "minProperties", K_MIN_PROPS },
    { "maxProperties", K_MAX_PROPS },
    { "unevaluatedProperties", K_UNEVALUATED_PROPS },
    { "items", K_ARRAY },
    { "prefixItems", K_ARRAY },
    { "additionalItems", K_ARRAY },
    { "minItems", K_MIN_ITEMS },
    { "maxItems", K_MAX_ITEMS },
    { "uniqueItems", K_UNIQUE },
    { "unevaluatedItems", K_UNEVALUATED_ITEMS },
    { "not", K_REFUSE },
    { "if", K_REFUSE },
    { "then", K_REFUSE },
    { "else", K_REFUSE },
    { "contains", K_REFUSE },
    { "minContains", K_REFUSE },
    { "maxContains", K_REFUSE },
    { "dependentRequired", K_REFUSE },
    { "dependentSchemas", K_REFUSE },
    { "dependencies", K_REFUSE },
    { "$dynamicRef", K_REFUSE },
    { "$recursiveRef", K_REFUSE },
    { "extends", K_REFUSE },
    { "disallow", K_REFUSE },
    { "$ref", K_NOTE },
    { "allOf", K_NOTE },
    { "anyOf", K_NOTE },
    { "oneOf", K_NOTE },
};

static kind_t
kind_of(const char *name)
{
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        if (strcmp(table[i].name, name) == 0) {
            return table[i].kind;
        }
    }
    return K_NOTE;
}

/* -------------------------------------------------------------------- types */

static const struct { const char *name; unsigned bits; } type_names[] = {
    { "null", LLM_GT_NULL },       { "boolean", LLM_GT_BOOL },  { "string", LLM_GT_STRING },
    { "integer", LLM_GT_INTEGER }, { "number", LLM_GT_NUMBER }, { "object", LLM_GT_OBJECT },
    { "array", LLM_GT_ARRAY },
};

static unsigned
type_bits(const json_t *name)
{
    const char *text = json_string_value(name);
    for (size_t i = 0; text != NULL && i < sizeof(type_names) / sizeof(type_names[0]); i++) {
        if (strcmp(text, type_names[i].name) == 0) {
            return type_names[i].bits;
        }
    }
    return 0;
}

unsigned
llm_gs_type_of(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return LLM_GT_OBJECT;
    case JSON_ARRAY:
        return LLM_GT_ARRAY;
    case JSON_STRING:
        return LLM_GT_STRING;
    case JSON_INTEGER:
        return LLM_GT_INTEGER;
    case JSON_REAL:
        return floor(json_real_value(value)) == json_real_value(value) ? LLM_GT_INTEGER
                                                                       : LLM_GT_FRACTION;
    case JSON_NULL:
        return LLM_GT_NULL;
    default:
        return LLM_GT_BOOL;
    }
}

static bool
add_type(llm_gsch_t *s, const json_t *value, llm_gflat_t *f)
{
    unsigned bits = type_bits(value);
    bool good = json_is_array(value) ? json_array_size(value) > 0 : bits != 0;
    for (size_t i = 0; good && i < json_array_size(value); i++) {
        unsigned one = type_bits(json_array_get(value, i));
        good = one != 0;
        bits |= one;
    }
    if (!good) {
        llm_gs_fail(s, "type is \"null\", \"boolean\", \"string\", \"integer\", \"number\", "
                       "\"object\", \"array\" or a list of these");
        return false;
    }
    f->types &= bits;
    f->typed = true;
    return true;
}

static bool
add_values(llm_gsch_t *s, json_t *list, llm_gflat_t *f)
{
    unsigned bits = 0;
    if (!json_is_array(list) || json_array_size(list) == 0) {
        llm_gs_fail(s, "enum is a list of values that is not empty");
        return false;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        bits |= llm_gs_type_of(json_array_get(list, i));
    }
    f->types &= bits;
    f->has_enum = true;
    return llm_gptrs_add(s->b, &f->enums, list);
}

static bool
add_const(llm_gsch_t *s, json_t *value, llm_gflat_t *f)
{
    json_t *list = json_array();
    if (list == NULL || json_array_append(list, value) != 0
        || !llm_gptrs_add(s->b, &s->made, list))
    {
        json_decref(list);
        llm_gb_nomem(s->b);
        return false;
    }
    return add_values(s, list, f);
}

/* ------------------------------------------------------------------- limits */

/* A non-negative integer; one too large for any text is no limit. */
static bool
count_of(llm_gsch_t *s, const char *key, const json_t *value, uint32_t *n)
{
    double d = json_number_value(value);
    if (!json_is_number(value) || d < 0 || floor(d) != d) {
        llm_gs_fail(s, "%s is an integer that is not negative", key);
        return false;
    }
    *n = d >= UINT32_MAX ? LLM_G_INF : (uint32_t) d;
    return true;
}

static bool
raise(llm_gsch_t *s, const char *key, const json_t *value, uint32_t *limit)
{
    uint32_t n;
    if (!count_of(s, key, value, &n)) {
        return false;
    }
    *limit = n > *limit ? n : *limit;
    return true;
}

static bool
lower(llm_gsch_t *s, const char *key, const json_t *value, uint32_t *limit)
{
    uint32_t n;
    if (!count_of(s, key, value, &n)) {
        return false;
    }
    *limit = n < *limit ? n : *limit;
    return true;
}

static double
bound_value(const llm_gbound_t *x)
{
    return x->is_int ? (double) x->i : x->d;
}

/* Keeps the tighter of two bounds. */
static bool
add_bound(llm_gsch_t *s, const char *key, const json_t *value, bool is_min, bool exclusive,
          llm_gflat_t *f)
{
    llm_gbound_t *old = is_min ? &f->lo : &f->hi, x = { .present = true, .exclusive = exclusive };
    if (!json_is_number(value)) {
        llm_gs_fail(s, "%s is a number", key);
        return false;
    }
    x.is_int = json_is_integer(value);
    x.i = x.is_int ? json_integer_value(value) : 0;
    x.d = json_number_value(value);
    if (!old->present) {
        *old = x;
        return true;
    }
    double a = bound_value(old), b = bound_value(&x);
    bool both = old->is_int && x.is_int;
    bool tighter = both ? (is_min ? x.i > old->i : x.i < old->i) : is_min ? b > a : b < a;
    bool equal = both ? x.i == old->i : a == b;
    if (tighter || (equal && exclusive)) {
        *old = x;
    }
    return true;
}

/* Draft 4 has exclusiveMinimum: true beside minimum. */
static bool
add_exclusive(llm_gsch_t *s, json_t *schema, const char *key, const json_t *value, bool is_min,
              llm_gflat_t *f)
{
    if (!json_is_boolean(value)) {
        return add_bound(s, key, value, is_min, true, f);
    }
    const char *plain = is_min ? "minimum" : "maximum";
    json_t *with = json_object_get(schema, plain);
    return !json_is_true(value) || with == NULL || add_bound(s, plain, with, is_min, true, f);
}

/* ------------------------------------------------------------------ formats */

/* Formats of numbers are those of OpenAPI; formats of strings are grammar_scalar.c's. */
static bool
add_format(llm_gsch_t *s, json_t *value, llm_gflat_t *f)
{
    static const struct { const char *name; int64_t lo, hi; } ints[] = {
        { "int32", INT32_MIN, INT32_MAX }, { "int64", INT64_MIN, INT64_MAX },
    };
    const char *name = json_string_value(value);
    if (name == NULL) {
        llm_gs_fail(s, "format is a string");
        return false;
    }
    for (size_t i = 0; i < sizeof(ints) / sizeof(ints[0]); i++) {
        if (strcmp(name, ints[i].name) == 0) {
            json_t *lo = json_integer(ints[i].lo), *hi = json_integer(ints[i].hi);
            bool good = lo != NULL && hi != NULL && add_bound(s, "format", lo, true, false, f)
                        && add_bound(s, "format", hi, false, false, f);
            json_decref(lo);
            json_decref(hi);
            f->whole = true;
            f->implied |= LLM_GT_INTEGER;
            return good;
        }
    }
    if (strcmp(name, "float") == 0 || strcmp(name, "double") == 0) {
        f->implied |= LLM_GT_NUMBER;
        return true;
    }
    f->implied |= LLM_GT_STRING;
    if (strcmp(name, "password") == 0) {
        return true;
    }
    if (llm_gs_format(name) == NULL) {
        llm_gs_fail(s, "format \"%.60s\" is not supported", name);
        return false;
    }
    return llm_gptrs_add(s->b, &f->formats, value);
}

/* ----------------------------------------------------------------- one key */

static bool
add_once(llm_gb_t *b, llm_gptrs_t *v, json_t *schema)
{
    return (v->n > 0 && v->v[v->n - 1] == schema) || llm_gptrs_add(b, v, schema);
}

static bool
refuse(llm_gsch_t *s, const char *key)
{
    llm_gs_fail(s, "%s is not supported", key);
    return false;
}

/* False says the same as additionalProperties: false where the schema does not lean on others. */
static bool
unevaluated(llm_gsch_t *s, json_t *schema, const char *key, const json_t *value, llm_gflat_t *f)
{
    static const char *const others[] = { "$ref", "allOf", "anyOf", "oneOf", "if" };
    bool object = strcmp(key, "unevaluatedProperties") == 0;
    f->implied |= object ? LLM_GT_OBJECT : LLM_GT_ARRAY;
    if (json_is_true(value)) {
        return true;
    }
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        if (json_object_get(schema, others[i]) != NULL) {
            llm_gs_fail(s, "%s beside %s is not supported", key, others[i]);
            return false;
        }
    }
    return json_is_false(value) ? add_once(s->b, object ? &f->objects : &f->arrays, schema)
                                : refuse(s, key);
}

static bool
add_key(llm_gsch_t *s, json_t *schema, const char *key, json_t *value, llm_gflat_t *f)
{
    switch (kind_of(key)) {
    case K_REFUSE:
        return refuse(s, key);
    case K_TYPE:
        return add_type(s, value, f);
    case K_ENUM:
        return add_values(s, value, f);
    case K_CONST:
        return add_const(s, value, f);
    case K_MIN_LEN:
        f->implied |= LLM_GT_STRING;
        return raise(s, key, value, &f->min_len);
    case K_MAX_LEN:
        f->implied |= LLM_GT_STRING;
        return lower(s, key, value, &f->max_len);
    case K_PATTERN:
        f->implied |= LLM_GT_STRING;
        if (!json_is_string(value)) {
            llm_gs_fail(s, "pattern is a string");
            return false;
        }
        return llm_gptrs_add(s->b, &f->patterns, value);
    case K_FORMAT:
        return add_format(s, value, f);
    case K_MIN:
    case K_MAX:
        f->implied |= LLM_GT_NUMBER;
        return add_bound(s, key, value, key[1] == 'i', false, f);
    case K_XMIN:
    case K_XMAX:
        f->implied |= LLM_GT_NUMBER;
        return add_exclusive(s, schema, key, value, key[10] == 'i', f);
    case K_MULTIPLE:
        f->implied |= LLM_GT_NUMBER;
        f->whole = true;
        return json_number_value(value) == 1 || refuse(s, "multipleOf (other than 1)");
    case K_OBJECT:
        f->implied |= LLM_GT_OBJECT;
        return add_once(s->b, &f->objects, schema);
    case K_NAMES:
        f->implied |= LLM_GT_OBJECT;
        return llm_gptrs_add(s->b, &f->names, value);
    case K_MIN_PROPS:
        f->implied |= LLM_GT_OBJECT;
        return raise(s, key, value, &f->min_props);
    case K_MAX_PROPS:
        f->implied |= LLM_GT_OBJECT;
        return lower(s, key, value, &f->max_props);
    case K_ARRAY:
        f->implied |= LLM_GT_ARRAY;
        return add_once(s->b, &f->arrays, schema);
    case K_MIN_ITEMS:
        f->implied |= LLM_GT_ARRAY;
        f->has_min_items = true;
        return raise(s, key, value, &f->min_items);
    case K_MAX_ITEMS:
        f->implied |= LLM_GT_ARRAY;
        return lower(s, key, value, &f->max_items);
    case K_UNIQUE:
        f->implied |= LLM_GT_ARRAY;
        return json_is_false(value) || refuse(s, "uniqueItems");
    case K_UNEVALUATED_PROPS:
    case K_UNEVALUATED_ITEMS:
        return unevaluated(s, schema, key, value, f);
    default:
        return true;
    }
}

bool
llm_gs_keywords(llm_gsch_t *s, json_t *schema, llm_gflat_t *f)
{
    const char *key;
    json_t *value;
    json_object_foreach(schema, key, value) {
        if (!llm_gb_work(s->b, 8) || !add_key(s, schema, key, value, f)) {
            return false;
        }
    }
    return s->b->rc == LLM_OK;
}
