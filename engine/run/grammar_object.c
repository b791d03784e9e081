/*
 * grammar_object.c - objects and arrays of a schema.
 *
 * Listed members come in the order of `properties` (of the first schema that names them); required
 * ones that no schema lists follow. Other members come after them: those of patternProperties, then
 * what additionalProperties allows. Their keys are written canonically and exclude the listed ones,
 * so a listed member can never be written twice.
 */
#include "run/grammar_schema.h"

#include <stdlib.h>

#define MAX_PREFIX 256

/* An object that is being written. */
typedef struct {
    llm_gsch_t  *s;
    const llm_gflat_t *f;
    llm_gvec_t   pairs;         /* node, optional */
    llm_gvec_t   keys;          /* texts of the listed keys, without quotes */
    json_t      *listed;        /* object with the listed keys, for finding them again */
    llm_gpattern_t *pattern;
    uint32_t     n_pattern, cap_pattern;
    uint32_t     n_required;
    uint32_t     names;         /* node of what propertyNames allows */
    bool         any_name;
} obj_t;

/* ------------------------------------------------------------------ members */

static json_t *
others_of(json_t *schema)
{
    json_t *more = json_object_get(schema, "additionalProperties");
    return more != NULL ? more : json_object_get(schema, "unevaluatedProperties");
}

static bool
pattern_matches(llm_gsch_t *s, const char *pattern, size_t n, const char *key)
{
    llm_gb_t *b = s->b;
    llm_gdfa_t d = { 0 };
    uint32_t node = llm_gb_regex(b, pattern, n, LLM_GRE_SEARCH, "patternProperties");
    uint32_t text = llm_gj_text(b, key, strlen(key), false);
    bool good = b->rc == LLM_OK && llm_gdfa_node(b, node, &d);
    if (good) {
        const llm_gnode_t *t = &b->node[text];
        good = llm_gdfa_matches(&d, t->kind == LLM_GN_LIT ? b->bytes + t->a : NULL,
                                t->kind == LLM_GN_LIT ? t->n : 0);
    }
    llm_gdfa_drop(b, &d);
    return good;
}

bool
llm_gs_member(llm_gsch_t *s, const llm_gflat_t *f, const char *key, llm_gitems_t *items,
              bool *listed)
{
    *listed = false;
    for (uint32_t i = 0; i < f->objects.n && s->b->rc == LLM_OK; i++) {
        json_t *schema = f->objects.v[i], *more = others_of(schema);
        json_t *prop = json_object_get(json_object_get(schema, "properties"), key), *value;
        const char *pattern;
        bool found = prop != NULL;
        if (found) {
            *listed = true;
            llm_gitems_add(s->b, items, prop, 0);
        }
        json_object_foreach(json_object_get(schema, "patternProperties"), pattern, value) {
            if (pattern_matches(s, pattern, strlen(pattern), key)) {
                found = true;
                llm_gitems_add(s->b, items, value, 0);
            }
        }
        if (!found && more != NULL) {
            llm_gitems_add(s->b, items, more, 0);
        }
    }
    for (uint32_t i = 0; i < items->n; i++) {
        if (json_is_false(items->v[i].s)) {
            return false;
        }
    }
    return s->b->rc == LLM_OK;
}

bool
llm_gs_requires(const llm_gflat_t *f, const char *key)
{
    for (uint32_t i = 0; i < f->objects.n; i++) {
        json_t *list = json_object_get(f->objects.v[i], "required");
        for (size_t k = 0; k < json_array_size(list); k++) {
            const char *text = json_string_value(json_array_get(list, k));
            if (text != NULL && strcmp(text, key) == 0) {
                return true;
            }
        }
    }
    return false;
}

/* Adds a listed member; false: it is required and cannot be there. */
static bool
add_member(obj_t *o, const char *key, bool required)
{
    llm_gsch_t *s = o->s;
    llm_gb_t *b = s->b;
    llm_gitems_t items = { 0 };
    bool listed, good = true;
    char below[96];

    if (!llm_gb_work(b, 4) || json_object_get(o->listed, key) != NULL) {
        return b->rc == LLM_OK;
    }
    if (json_object_set_new(o->listed, key, json_true()) != 0) {
        llm_gb_nomem(b);
        return false;
    }
    snprintf(below, sizeof(below), "properties/%.60s", key);
    uint32_t text = llm_gj_text(b, key, strlen(key), false), node = LLM_GN_FAIL_NODE,
             quote = llm_gn_byte(b, '"', '"');
    llm_gvec_add(b, &o->keys, text);
    if (llm_gs_member(s, o->f, key, &items, &listed)) {
        uint32_t value = items.n > 0 ? llm_gs_value(s, &items, below) : llm_gj_value(b);
        uint32_t name = o->any_name ? text : llm_gn_and(b, text, o->names);
        node = llm_gn_seq(b, (uint32_t[]) { quote, name, quote }, 3);
        node = name == LLM_GN_FAIL_NODE ? name : llm_gj_pair(b, node, value);
    }
    if (node == LLM_GN_FAIL_NODE) {
        good = !required && b->rc == LLM_OK;
    } else {
        llm_gvec_add(b, &o->pairs, node);
        llm_gvec_add(b, &o->pairs, !required);
        o->n_required += required;
    }
    LLM_GB_DROP(b, items.v, items.cap);
    return good;
}

static bool
add_listed(obj_t *o)
{
    llm_gsch_t *s = o->s;
    for (uint32_t i = 0; i < o->f->objects.n; i++) {
        json_t *props = json_object_get(o->f->objects.v[i], "properties"), *value;
        const char *key;
        if (props != NULL && !json_is_object(props)) {
            llm_gs_fail(s, "properties is an object");
            return false;
        }
        json_object_foreach(props, key, value) {
            if (!add_member(o, key, llm_gs_requires(o->f, key))) {
                return false;
            }
        }
    }
    for (uint32_t i = 0; i < o->f->objects.n; i++) {
        json_t *list = json_object_get(o->f->objects.v[i], "required");
        if (list != NULL && !json_is_array(list) && !json_is_boolean(list)) {
            llm_gs_fail(s, "required is a list of names");
            return false;
        }
        for (size_t k = 0; k < json_array_size(list); k++) {
            json_t *name = json_array_get(list, k);
            if (!json_is_string(name)
                || strlen(json_string_value(name)) != json_string_length(name))
            {
                llm_gs_fail(s, "required is a list of names");
                return false;
            }
            if (!add_member(o, json_string_value(name), true)) {
                return false;
            }
        }
    }
    return s->b->rc == LLM_OK;
}

/* ------------------------------------------------------------ other members */

static bool
collect_patterns(obj_t *o)
{
    llm_gb_t *b = o->s->b;
    for (uint32_t i = 0; i < o->f->objects.n; i++) {
        json_t *map = json_object_get(o->f->objects.v[i], "patternProperties"), *value;
        const char *pattern;
        if (map != NULL && !json_is_object(map)) {
            llm_gs_fail(o->s, "patternProperties is an object");
            return false;
        }
        json_object_foreach(map, pattern, value) {
            uint32_t node = llm_gb_regex(b, pattern, strlen(pattern), LLM_GRE_SEARCH,
                                         "patternProperties");
            if (!LLM_GB_ROOM(b, o->pattern, o->cap_pattern, (uint64_t) o->n_pattern + 1)) {
                return false;
            }
            o->pattern[o->n_pattern++] = (llm_gpattern_t) { .owner = o->f->objects.v[i],
                                                           .schema = value,
                                                           .node = node };
        }
    }
    return b->rc == LLM_OK;
}

/* Keys of `base` that are not listed and match no pattern but `own`. */
static uint32_t
other_keys(obj_t *o, uint32_t base, const llm_gpattern_t *own)
{
    llm_gb_t *b = o->s->b;
    llm_gvec_t out = { 0 };
    for (uint32_t i = 0; i < o->keys.n; i++) {
        llm_gvec_add(b, &out, o->keys.v[i]);
    }
    for (uint32_t i = 0; i < o->n_pattern; i++) {
        if (&o->pattern[i] != own) {
            llm_gvec_add(b, &out, o->pattern[i].node);
        }
    }
    uint32_t not = llm_gn_alt(b, out.v, out.n);
    llm_gvec_drop(b, &out);
    if (!o->any_name) {
        base = llm_gn_and(b, base, o->names);
    }
    return not == LLM_GN_FAIL_NODE ? base : llm_gn_minus(b, base, not);
}

/* Pairs of one kind of other members: those of the pattern `own`, or (NULL) those of no pattern. */
static uint32_t
other_pairs(obj_t *o, const llm_gpattern_t *own)
{
    llm_gsch_t *s = o->s;
    llm_gb_t *b = s->b;
    llm_gitems_t items = { 0 };
    bool good = true;
    if (own != NULL) {
        llm_gitems_add(b, &items, own->schema, 0);
    }
    for (uint32_t i = 0; i < o->f->objects.n; i++) {
        json_t *more = others_of(o->f->objects.v[i]);
        if (more != NULL && !(own != NULL && own->owner == o->f->objects.v[i])
            && !json_is_true(more))
        {
            llm_gitems_add(b, &items, more, 0);
        }
    }
    for (uint32_t i = 0; i < items.n; i++) {
        good = good && !json_is_false(items.v[i].s);
    }
    uint32_t node = LLM_GN_FAIL_NODE, quote = llm_gn_byte(b, '"', '"');
    if (good && b->rc == LLM_OK) {
        bool free_key = own == NULL && o->any_name && o->keys.n == 0 && o->n_pattern == 0;
        uint32_t key = free_key
                           ? llm_gj_string(b, 0, LLM_G_INF)
                           : other_keys(o,
                                        own != NULL ? own->node : llm_gj_anychars(b, 0, LLM_G_INF),
                                        own);
        if (!free_key) {
            key = llm_gn_seq3(b, quote, key, quote);
        }
        uint32_t value = items.n > 0 ? llm_gs_value(s, &items,
                                                    own != NULL ? "patternProperties"
                                                                : "additionalProperties")
                                     : llm_gj_value(b);
        if (key != LLM_GN_FAIL_NODE && value != LLM_GN_FAIL_NODE) {
            node = llm_gj_pair(b, key, value);
        }
    }
    LLM_GB_DROP(b, items.v, items.cap);
    return node;
}

/* Whether members come that nobody names: asked for, or nothing at all is named. */
static bool
wants_others(const obj_t *o)
{
    bool named = false;
    for (uint32_t i = 0; i < o->f->objects.n; i++) {
        json_t *more = others_of(o->f->objects.v[i]);
        if (more != NULL && !json_is_false(more)) {
            return true;
        }
        named = named || json_object_get(o->f->objects.v[i], "properties") != NULL
                || json_object_get(o->f->objects.v[i], "patternProperties") != NULL;
    }
    return !named;
}

static uint32_t
add_others(obj_t *o)
{
    llm_gb_t *b = o->s->b;
    llm_gvec_t kids = { 0 };
    if (!collect_patterns(o)) {
        return LLM_GN_FAIL_NODE;
    }
    for (uint32_t i = 0; i < o->n_pattern && b->rc == LLM_OK; i++) {
        llm_gvec_add(b, &kids, other_pairs(o, &o->pattern[i]));
    }
    if (wants_others(o)) {
        llm_gvec_add(b, &kids, other_pairs(o, NULL));
    }
    uint32_t node = llm_gn_alt(b, kids.v, kids.n);
    llm_gvec_drop(b, &kids);
    return node;
}

/* ------------------------------------------------------------------- object */

/* The language of all propertyNames together. */
static bool
find_names(obj_t *o)
{
    llm_gsch_t *s = o->s;
    llm_gb_t *b = s->b;
    llm_gitems_t items = { 0 };
    llm_gflat_t f = { 0 };
    o->any_name = true;
    if (o->f->names.n == 0) {
        return true;
    }
    for (uint32_t i = 0; i < o->f->names.n; i++) {
        llm_gitems_add(b, &items, o->f->names.v[i], 0);
    }
    if (b->rc == LLM_OK && llm_gs_flatten(s, &items, &f)) {
        if (f.choice != NULL) {
            llm_gs_fail(s, "propertyNames with anyOf or oneOf is not supported");
        } else if (f.fail || !(f.types & LLM_GT_STRING)) {
            o->any_name = false;
        } else if (f.has_enum) {
            /* the values come with quotes: strip them by intersecting from inside */
            llm_gvec_t kids = { 0 };
            bool free_text;
            uint32_t content = llm_gs_content(s, &f, &free_text);
            for (size_t i = 0; i < json_array_size(f.enums.v[0]); i++) {
                json_t *v = json_array_get(f.enums.v[0], i);
                if (json_is_string(v)) {
                    llm_gvec_add(b, &kids,
                                 llm_gj_text(b, json_string_value(v), json_string_length(v),
                                             false));
                }
            }
            if (f.enums.n > 1) {
                llm_gs_fail(s, "propertyNames with several enums is not supported");
            }
            o->names = llm_gn_alt(b, kids.v, kids.n);
            o->names = free_text ? o->names : llm_gn_and(b, o->names, content);
            o->any_name = false;
            llm_gvec_drop(b, &kids);
        } else {
            o->names = llm_gs_content(s, &f, &o->any_name);
        }
    }
    llm_gs_flat_drop(s, &f);
    LLM_GB_DROP(b, items.v, items.cap);
    return b->rc == LLM_OK;
}

static uint32_t
braces(obj_t *o, uint32_t extra)
{
    llm_gb_t *b = o->s->b;
    const llm_gflat_t *f = o->f;
    uint32_t n = o->pairs.n / 2;
    if (n == 0 && f->min_props <= 1) {
        return llm_gj_list(b, '{', extra, '}', f->min_props, f->max_props);
    }
    if (f->min_props > o->n_required && f->min_props <= n && extra == LLM_GN_FAIL_NODE
        && f->min_props == n)
    {
        for (uint32_t i = 0; i < n; i++) {
            o->pairs.v[2 * i + 1] = false;      /* all of them */
        }
    } else if (f->min_props > o->n_required) {
        return llm_gs_fail(o->s, "minProperties is not supported where it is not a number of "
                                 "listed members that are required");
    }
    if (f->max_props < o->n_required) {
        return LLM_GN_FAIL_NODE;
    }
    if (f->max_props < n || (f->max_props != LLM_G_INF && extra != LLM_GN_FAIL_NODE)) {
        return llm_gs_fail(
            o->s, "maxProperties is not supported beside listed members that are optional");
    }
    uint32_t members = llm_gn_members(b, o->pairs.v, n, llm_gj_space(b), llm_gj_comma(b), extra);
    return llm_gn_seq(b,
                      (uint32_t[]) { llm_gn_byte(b, '{', '{'), members, llm_gj_space(b),
                                    llm_gn_byte(b, '}', '}') },
                      4);
}

uint32_t
llm_gs_object(llm_gsch_t *s, const llm_gflat_t *f)
{
    llm_gb_t *b = s->b;
    obj_t o = { .s = s, .f = f, .listed = json_object() };
    uint32_t node = LLM_GN_FAIL_NODE;
    if (f->min_props > f->max_props) {
        json_decref(o.listed);
        return node;
    }
    if (o.listed == NULL) {
        return llm_gb_nomem(b);
    }
    if (find_names(&o) && add_listed(&o)) {
        uint32_t extra = add_others(&o);
        if (b->rc == LLM_OK) {
            node = braces(&o, extra);
        }
    }
    json_decref(o.listed);
    llm_gvec_drop(b, &o.pairs);
    llm_gvec_drop(b, &o.keys);
    LLM_GB_DROP(b, o.pattern, o.cap_pattern);
    return node;
}

/* -------------------------------------------------------------------- array */

/*
 * The schemas of items at fixed places, and the one for items after them, under the names of all
 * drafts.
 */
static json_t *
prefix_of(json_t *schema)
{
    json_t *prefix = json_object_get(schema, "prefixItems"),
           *items = json_object_get(schema, "items");
    return prefix != NULL ? prefix : json_is_array(items) ? items : NULL;
}

static json_t *
rest_of(json_t *schema)
{
    json_t *items = json_object_get(schema, "items");
    if (json_is_array(items)) {
        items = json_object_get(schema, "additionalItems");
    }
    return items != NULL ? items : json_object_get(schema, "unevaluatedItems");
}

/* The item at place i; beyond all prefixes (i == LLM_G_NONE) the others. */
static uint32_t
item_node(llm_gsch_t *s, const llm_gflat_t *f, uint32_t i)
{
    llm_gb_t *b = s->b;
    llm_gitems_t items = { 0 };
    char below[40] = "items";
    for (uint32_t k = 0; k < f->arrays.n; k++) {
        json_t *at = i == LLM_G_NONE ? NULL : json_array_get(prefix_of(f->arrays.v[k]), i);
        at = at != NULL ? at : rest_of(f->arrays.v[k]);
        if (at != NULL) {
            llm_gitems_add(b, &items, at, 0);
        }
    }
    if (i != LLM_G_NONE) {
        snprintf(below, sizeof(below), "prefixItems/%u", i);
    }
    uint32_t node = items.n > 0 ? llm_gs_value(s, &items, below) : llm_gj_value(b);
    LLM_GB_DROP(b, items.v, items.cap);
    return node;
}

/* Items at fixed places, then others: [a, b, ...] built from its end. */
static uint32_t
tuple(llm_gsch_t *s, const llm_gflat_t *f, uint32_t n, uint32_t min, uint32_t max, bool others)
{
    llm_gb_t *b = s->b;
    uint32_t item[MAX_PREFIX], comma = llm_gj_comma(b), node = LLM_GN_EMPTY_NODE;
    for (uint32_t i = 0; i < n && i < max && b->rc == LLM_OK; i++) {
        item[i] = item_node(s, f, i);
        if (item[i] == LLM_GN_FAIL_NODE) {
            max = i;
        }
    }
    if (n > max) {
        n = max;
    } else if (others && max > n) {
        uint32_t rest = llm_gn_seq2(b, comma, item_node(s, f, LLM_G_NONE));
        node = llm_gn_rep(b, rest, min > n ? min - n : 0, max == LLM_G_INF ? LLM_G_INF : max - n);
    } else {
        max = n;
    }
    if (min > max) {
        return LLM_GN_FAIL_NODE;
    }
    for (uint32_t i = n; i-- > 0;) {
        node = llm_gn_seq3(b, i > 0 ? comma : llm_gj_space(b), item[i], node);
        node = i >= min ? llm_gn_rep(b, node, 0, 1) : node;
    }
    return llm_gn_seq(b,
                      (uint32_t[]) { llm_gn_byte(b, '[', '['), node, llm_gj_space(b),
                                    llm_gn_byte(b, ']', ']') },
                      4);
}

uint32_t
llm_gs_array(llm_gsch_t *s, const llm_gflat_t *f)
{
    uint32_t n = 0;
    bool others = false;
    if (f->min_items > f->max_items || f->min_items == LLM_G_INF) {
        return LLM_GN_FAIL_NODE;
    }
    for (uint32_t i = 0; i < f->arrays.n; i++) {
        json_t *prefix = prefix_of(f->arrays.v[i]), *rest = rest_of(f->arrays.v[i]);
        if (prefix != NULL && (!json_is_array(prefix) || json_array_size(prefix) > MAX_PREFIX)) {
            return llm_gs_fail(s, "prefixItems is a list of at most %d schemas", MAX_PREFIX);
        }
        n = json_array_size(prefix) > n ? (uint32_t) json_array_size(prefix) : n;
        others = others || (rest != NULL && !json_is_false(rest));
    }
    if (n == 0) {
        return llm_gj_list(s->b, '[', item_node(s, f, LLM_G_NONE), ']', f->min_items, f->max_items);
    }
    uint32_t min = f->has_min_items ? f->min_items : n < f->max_items ? n : f->max_items;
    return tuple(s, f, n, min, f->max_items, others || min > n);
}
