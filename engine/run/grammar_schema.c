/*
 * grammar_schema.c - JSON schemas: conjunctions, references, choices (grammar_schema.h has the
 * plan).
 *
 * Reference: JSON Schema 2020-12, with the names of drafts 4 to 7 where they differ. A schema that
 * names no type is taken to mean the types that its keywords are about. That narrows, as do the
 * rules that members come in the order of `properties` and that others come only where
 * additionalProperties or patternProperties ask for them.
 */
#include "run/grammar_schema.h"

#include "base/json.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_DEPTH 160           /* conjunctions inside each other that are not finished */
#define MAX_REFS  64            /* references and allOf inside each other */

uint32_t
llm_gs_fail(llm_gsch_t *s, const char *fmt, ...)
{
    char msg[300];
    va_list args;
    va_start(args, fmt);
    vsnprintf(msg, sizeof(msg), fmt, args);
    va_end(args);
    return llm_gb_fail(s->b, "%s%s%s", s->n_path > 0 ? s->path : "", s->n_path > 0 ? ": " : "",
                       msg);
}

bool
llm_gitems_add(llm_gb_t *b, llm_gitems_t *v, json_t *schema, uint32_t done)
{
    if (!LLM_GB_ROOM(b, v->v, v->cap, (uint64_t) v->n + 1)) {
        return false;
    }
    v->v[v->n++] = (llm_gitem_t) { schema, done };
    return true;
}

bool
llm_gptrs_add(llm_gb_t *b, llm_gptrs_t *v, json_t *p)
{
    if (!LLM_GB_ROOM(b, v->v, v->cap, (uint64_t) v->n + 1)) {
        return false;
    }
    v->v[v->n++] = p;
    return true;
}

/* --------------------------------------------------------------- references */

static int
hex(int c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* One step of a JSON pointer in a URI fragment, up to "/" or the end; NULL: malformed. */
static const char *
pointer_step(const char *p, char *out, size_t cap)
{
    size_t n = 0;
    while (*p != '/' && *p != '\0') {
        char c = *p++;
        if (c == '%') {
            int h = hex(p[0]), l = h < 0 ? -1 : hex(p[1]);
            if (l < 0) {
                return NULL;
            }
            c = (char) (h * 16 + l);
            p += 2;
        }
        if (c == '~') {
            if (*p != '0' && *p != '1') {
                return NULL;
            }
            c = *p++ == '0' ? '~' : '/';
        }
        if (n + 1 >= cap || c == '\0') {
            return NULL;
        }
        out[n++] = c;
    }
    out[n] = '\0';
    return p;
}

static json_t *
array_step(json_t *at, const char *step)
{
    char *end;
    unsigned long i = strtoul(step, &end, 10);
    return *step >= '0' && *step <= '9' && *end == '\0' ? json_array_get(at, i) : NULL;
}

/* The schema that a $ref names, or NULL after a failure. */
static json_t *
resolve(llm_gsch_t *s, json_t *ref)
{
    const char *text = json_string_value(ref), *p = text;
    char step[512];
    json_t *at = s->root;
    if (text == NULL || strlen(text) != json_string_length(ref)) {
        llm_gs_fail(s, "$ref is not a string");
        return NULL;
    }
    if (*p != '#' || (p[1] != '\0' && p[1] != '/')) {
        llm_gs_fail(
            s, "$ref \"%.100s\" is not supported: only \"#\" and \"#/...\" inside the schema are",
            text);
        return NULL;
    }
    for (p++; *p == '/' && at != NULL;) {
        p = pointer_step(p + 1, step, sizeof(step));
        if (p == NULL) {
            break;
        }
        at = json_is_array(at) ? array_step(at, step) : json_object_get(at, step);
    }
    if (p == NULL || at == NULL) {
        llm_gs_fail(s, "$ref \"%.100s\" names nothing in the schema", text);
        return NULL;
    }
    return at;
}

/* ------------------------------------------------------------- conjunctions */

static const llm_gitem_t *
seen(const llm_gflat_t *f, const json_t *schema)
{
    for (uint32_t i = 0; i < f->seen.n; i++) {
        if (f->seen.v[i].s == schema) {
            return &f->seen.v[i];
        }
    }
    return NULL;
}

static bool
is_schema(const json_t *v)
{
    return json_is_object(v) || json_is_boolean(v);
}

/* A choice that is still open: the first one found. */
static void
note_choice(llm_gsch_t *s, json_t *schema, uint32_t done, llm_gflat_t *f)
{
    json_t *any = json_object_get(schema, "anyOf"), *one = json_object_get(schema, "oneOf");
    if ((any != NULL && (!json_is_array(any) || json_array_size(any) == 0))
        || (one != NULL && (!json_is_array(one) || json_array_size(one) == 0)))
    {
        llm_gs_fail(s, "anyOf and oneOf are lists of schemas that are not empty");
        return;
    }
    if (f->choice == NULL && any != NULL && !(done & LLM_GI_ANYOF)) {
        f->choice = any;
        f->choice_owner = schema;
        f->one_of = false;
    }
    if (f->choice == NULL && one != NULL && !(done & LLM_GI_ONEOF)) {
        f->choice = one;
        f->choice_owner = schema;
        f->one_of = true;
    }
}

/* open: the schemas on the way of references to here; a schema among them refers to itself. */
static bool
flatten(llm_gsch_t *s, llm_gitem_t item, llm_gflat_t *f, json_t **open, uint32_t n_open)
{
    llm_gb_t *b = s->b;
    if (!llm_gb_work(b, 1 + f->seen.n)) {
        return false;
    }
    if (!is_schema(item.s)) {
        llm_gs_fail(s, "a schema is an object, true or false");
        return false;
    }
    if (json_is_boolean(item.s)) {
        f->fail = f->fail || json_is_false(item.s);
        return true;
    }
    for (uint32_t i = 0; i < n_open; i++) {
        if (open[i] == item.s) {
            llm_gs_fail(s, "$ref leads to itself");
            return false;
        }
    }
    const llm_gitem_t *before = seen(f, item.s);
    if (before != NULL) {
        /* a schema whose choice was made here comes again from inside that choice */
        if ((before->done & ~item.done & (LLM_GI_ANYOF | LLM_GI_ONEOF)) != 0) {
            llm_gs_fail(s, "$ref leads to itself");
            return false;
        }
        return true;
    }
    if (n_open == MAX_REFS) {
        llm_gs_fail(s, "$ref and allOf are nested too deeply");
        return false;
    }
    if (!llm_gitems_add(b, &f->seen, item.s, item.done) || !llm_gs_keywords(s, item.s, f)) {
        return false;
    }
    note_choice(s, item.s, item.done, f);
    open[n_open++] = item.s;
    json_t *ref = json_object_get(item.s, "$ref"), *all = json_object_get(item.s, "allOf");
    if (ref != NULL && !(item.done & LLM_GI_EXPANDED)) {
        json_t *to = resolve(s, ref);
        if (to == NULL || !flatten(s, (llm_gitem_t) { to, 0 }, f, open, n_open)) {
            return false;
        }
    }
    if (all != NULL && !json_is_array(all)) {
        llm_gs_fail(s, "allOf is a list of schemas");
        return false;
    }
    for (size_t i = 0; !(item.done & LLM_GI_EXPANDED) && i < json_array_size(all); i++) {
        if (!flatten(s, (llm_gitem_t) { json_array_get(all, i), 0 }, f, open, n_open)) {
            return false;
        }
    }
    return b->rc == LLM_OK;
}

bool
llm_gs_flatten(llm_gsch_t *s, const llm_gitems_t *items, llm_gflat_t *f)
{
    json_t *open[MAX_REFS + 1];
    *f = (llm_gflat_t) {
        .types = LLM_GT_ALL, .max_len = LLM_G_INF, .max_items = LLM_G_INF, .max_props = LLM_G_INF
    };
    for (uint32_t i = 0; i < items->n; i++) {
        if (!flatten(s, items->v[i], f, open, 0)) {
            return false;
        }
    }
    return true;
}

void
llm_gs_flat_drop(llm_gsch_t *s, llm_gflat_t *f)
{
    LLM_GB_DROP(s->b, f->seen.v, f->seen.cap);
    llm_gptrs_t *lists[] = { &f->enums,   &f->patterns, &f->formats,
                             &f->objects, &f->arrays,   &f->names };
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        LLM_GB_DROP(s->b, lists[i]->v, lists[i]->cap);
    }
}

unsigned
llm_gs_types(const llm_gflat_t *f)
{
    unsigned t = f->typed || f->has_enum ? f->types : f->implied != 0 ? f->implied : LLM_GT_ALL;
    return f->whole ? t & ~(unsigned) LLM_GT_FRACTION : t;
}

/* ------------------------------------------------------------------ choices */

/*
 * Keywords that still say something when references and the choices in `done` are followed
 * elsewhere.
 */
static bool
says_more(json_t *schema, uint32_t done)
{
    static const char *const silent[] = {
        "title",     "description", "default", "examples",    "$schema",       "$id",
        "id",        "$comment",    "$defs",   "definitions", "$anchor",       "readOnly",
        "writeOnly", "deprecated",  "$ref",    "allOf",       "discriminator",
    };
    const char *key;
    json_t *value;
    json_object_foreach(schema, key, value) {
        bool skip = (strcmp(key, "anyOf") == 0 && (done & LLM_GI_ANYOF))
                    || (strcmp(key, "oneOf") == 0 && (done & LLM_GI_ONEOF));
        for (size_t i = 0; !skip && i < sizeof(silent) / sizeof(silent[0]); i++) {
            skip = strcmp(key, silent[i]) == 0;
        }
        if (!skip) {
            return true;
        }
    }
    return false;
}

/* The conjunction without its open choice. */
static bool
rest_of(llm_gsch_t *s, const llm_gflat_t *f, llm_gitems_t *rest)
{
    for (uint32_t i = 0; i < f->seen.n; i++) {
        llm_gitem_t it = f->seen.v[i];
        it.done |= LLM_GI_EXPANDED;
        if (it.s == f->choice_owner) {
            it.done |= f->one_of ? LLM_GI_ONEOF : LLM_GI_ANYOF;
        }
        if (says_more(it.s, it.done) && !llm_gitems_add(s->b, rest, it.s, it.done)) {
            return false;
        }
    }
    return true;
}

static bool
branches_differ(llm_gsch_t *s, const llm_gitems_t *rest, json_t *choice)
{
    size_t n = json_array_size(choice);
    for (size_t i = 0; i < n && s->b->rc == LLM_OK; i++) {
        for (size_t k = 0; k < n; k++) {
            llm_gitems_t x = { 0 }, y = { 0 };
            bool good = true;
            for (uint32_t j = 0; j < rest->n; j++) {
                llm_gitems_add(s->b, &x, rest->v[j].s, rest->v[j].done);
            }
            llm_gitems_add(s->b, &x, json_array_get(choice, i), 0);
            llm_gitems_add(s->b, &y, json_array_get(choice, k), 0);
            good = i == k || s->b->rc != LLM_OK || llm_gs_excludes(s, &x, &y, 0);
            LLM_GB_DROP(s->b, x.v, x.cap);
            LLM_GB_DROP(s->b, y.v, y.cap);
            if (!good) {
                llm_gs_fail(
                    s,
                    "oneOf is not supported unless its schemas exclude each other by type, by "
                    "const or enum, or by "
                    "a required member: those at %zu and %zu may both match (anyOf allows that)",
                    i, k);
                return false;
            }
        }
    }
    return s->b->rc == LLM_OK;
}

static uint32_t
choose(llm_gsch_t *s, const llm_gflat_t *f)
{
    llm_gitems_t rest = { 0 };
    llm_gvec_t kids = { 0 };
    uint32_t node = LLM_GN_FAIL_NODE;
    if (rest_of(s, f, &rest) && (!f->one_of || branches_differ(s, &rest, f->choice))) {
        uint32_t n = rest.n;
        for (size_t i = 0; i < json_array_size(f->choice) && s->b->rc == LLM_OK; i++) {
            char below[40];
            snprintf(below, sizeof(below), "%s/%zu", f->one_of ? "oneOf" : "anyOf", i);
            rest.n = n;
            if (llm_gitems_add(s->b, &rest, json_array_get(f->choice, i), 0)) {
                llm_gvec_add(s->b, &kids, llm_gs_value(s, &rest, below));
            }
        }
        node = llm_gn_alt(s->b, kids.v, kids.n);
    }
    LLM_GB_DROP(s->b, rest.v, rest.cap);
    llm_gvec_drop(s->b, &kids);
    return node;
}

/* ------------------------------------------------------------------- values */

static uint32_t
write_types(llm_gsch_t *s, const llm_gflat_t *f)
{
    llm_gb_t *b = s->b;
    unsigned types = llm_gs_types(f);
    uint32_t kid[6], n = 0;
    if (f->has_enum) {
        return llm_gs_enum(s, f);
    }
    if (types == LLM_GT_ALL && f->implied == 0) {
        return llm_gj_value(b);
    }
    if (types & LLM_GT_OBJECT) {
        kid[n++] = llm_gs_object(s, f);
    }
    if (types & LLM_GT_ARRAY) {
        kid[n++] = llm_gs_array(s, f);
    }
    if (types & LLM_GT_STRING) {
        kid[n++] = llm_gs_string(s, f);
    }
    if (types & LLM_GT_NUMBER) {
        kid[n++] = llm_gs_number(s, f, (types & LLM_GT_FRACTION) != 0);
    }
    if (types & LLM_GT_BOOL) {
        kid[n++] = llm_gn_alt2(b, llm_gn_lit(b, "true", 4), llm_gn_lit(b, "false", 5));
    }
    if (types & LLM_GT_NULL) {
        kid[n++] = llm_gn_lit(b, "null", 4);
    }
    return llm_gn_alt(b, kid, n);
}

static uint32_t
write_value(llm_gsch_t *s, const llm_gitems_t *items)
{
    llm_gflat_t f;
    uint32_t node = LLM_GN_FAIL_NODE;
    if (llm_gs_flatten(s, items, &f) && !f.fail) {
        node = f.choice != NULL ? choose(s, &f) : write_types(s, &f);
    }
    llm_gs_flat_drop(s, &f);
    return node;
}

static uint32_t
items_hash(const llm_gitems_t *items)
{
    uint64_t h = items->n;
    for (uint32_t i = 0; i < items->n; i++) {
        h = (h ^ (uint64_t) (uintptr_t) items->v[i].s ^ items->v[i].done) * 0xff51afd7ed558ccdu;
        h ^= h >> 29;
    }
    return (uint32_t) (h ^ h >> 32);
}

static bool
memo_grow(llm_gsch_t *s)
{
    uint32_t n = s->n_slot > 0 ? 2 * s->n_slot : 64;
    if (!LLM_GB_ROOM(s->b, s->slot, s->cap_slot, n)) {
        return false;
    }
    s->n_slot = n;
    memset(s->slot, 0, n * sizeof(*s->slot));
    for (uint32_t i = 0; i < s->n_memo; i++) {
        uint32_t k = s->memo[i].hash & (n - 1);
        while (s->slot[k] != 0) {
            k = (k + 1) & (n - 1);
        }
        s->slot[k] = i + 1;
    }
    return true;
}

/* The rule of the conjunction; *fresh: it is new and has no body yet. */
static uint32_t
memo_rule(llm_gsch_t *s, const llm_gitems_t *items, bool *fresh)
{
    llm_gb_t *b = s->b;
    *fresh = false;
    if (!llm_gb_work(b, 1 + items->n) || (2 * (s->n_memo + 1) > s->n_slot && !memo_grow(s))) {
        return 0;
    }
    uint32_t hash = items_hash(items), k = hash & (s->n_slot - 1);
    for (; s->slot[k] != 0; k = (k + 1) & (s->n_slot - 1)) {
        const struct memo *m = &s->memo[s->slot[k] - 1];
        bool same = m->hash == hash && m->n == items->n;
        for (uint32_t i = 0; same && i < m->n; i++) {
            same = s->keys.v[m->at + i].s == items->v[i].s
                   && s->keys.v[m->at + i].done == items->v[i].done;
        }
        if (same) {
            return m->rule;
        }
    }
    if (!LLM_GB_ROOM(b, s->memo, s->cap_memo, (uint64_t) s->n_memo + 1)) {
        return 0;
    }
    uint32_t at = s->keys.n, rule = llm_gb_rule(b);
    for (uint32_t i = 0; i < items->n; i++) {
        llm_gitems_add(b, &s->keys, items->v[i].s, items->v[i].done);
    }
    s->memo[s->n_memo] = (struct memo) { at, items->n, hash, rule };
    s->slot[k] = ++s->n_memo;
    *fresh = b->rc == LLM_OK;
    return rule;
}

uint32_t
llm_gs_value(llm_gsch_t *s, const llm_gitems_t *items, const char *below)
{
    llm_gb_t *b = s->b;
    uint32_t n_path = s->n_path;
    bool fresh;
    int len = snprintf(s->path + n_path, sizeof(s->path) - n_path, "/%s", below);
    s->n_path = len > 0 && (size_t) len < sizeof(s->path) - n_path ? n_path + (uint32_t) len
                                                                   : n_path;
    s->path[s->n_path] = '\0';

    uint32_t rule = memo_rule(s, items, &fresh), node = LLM_GN_FAIL_NODE;
    if (s->depth == MAX_DEPTH) {
        llm_gs_fail(s, "schemas are nested too deeply");
    }
    if (b->rc == LLM_OK && fresh) {
        s->depth++;
        uint32_t body = write_value(s, items);
        s->depth--;
        b->rule[rule].body = body;
        b->rule[rule].defined = true;
    }
    if (b->rc == LLM_OK && (!b->rule[rule].defined || b->rule[rule].body != LLM_GN_FAIL_NODE)) {
        node = llm_gn_ref(b, rule);
    }
    s->n_path = n_path;
    s->path[n_path] = '\0';
    return node;
}

/* -------------------------------------------------------------------- entry */

static uint32_t
compile(llm_gb_t *b, json_t *root)
{
    llm_gsch_t s = { .b = b, .root = root };
    llm_gitems_t items = { 0 };
    uint32_t node = LLM_GN_FAIL_NODE;

    s.path[0] = '#';
    s.n_path = 1;
    if (llm_gitems_add(b, &items, root, 0)) {
        bool fresh;
        uint32_t rule = memo_rule(&s, &items, &fresh);
        uint32_t body = b->rc == LLM_OK ? write_value(&s, &items) : LLM_GN_FAIL_NODE;
        if (b->rc == LLM_OK) {
            b->rule[rule].body = body;
            b->rule[rule].defined = true;
            node = llm_gn_ref(b, rule);
        }
    }
    LLM_GB_DROP(b, items.v, items.cap);
    LLM_GB_DROP(b, s.keys.v, s.keys.cap);
    LLM_GB_DROP(b, s.memo, s.cap_memo);
    LLM_GB_DROP(b, s.slot, s.cap_slot);
    for (uint32_t i = 0; i < s.made.n; i++) {
        json_decref(s.made.v[i]);
    }
    LLM_GB_DROP(b, s.made.v, s.made.cap);
    return node;
}

/*
 * Parses the text inside a list, because the parser wants an array or object while `true` is a
 * schema too.
 */
uint32_t
llm_gb_schema(llm_gb_t *b, const char *text, size_t len)
{
    char *wrapped = malloc(len + 2);
    json_t *list = NULL;
    llm_err_t err;
    uint32_t node = LLM_GN_FAIL_NODE;
    if (wrapped == NULL) {
        return llm_gb_nomem(b);
    }
    wrapped[0] = '[';
    memcpy(wrapped + 1, text, len);
    wrapped[len + 1] = ']';
    llm_code_t rc = llm_json_parse(&list, "the schema", wrapped, len + 2, &err);
    free(wrapped);
    if (rc == LLM_E_NOMEM) {
        llm_gb_nomem(b);
    } else if (rc != LLM_OK) {
        llm_gb_fail(b, "%s", err.msg);
    } else if (json_array_size(list) != 1 || !is_schema(json_array_get(list, 0))) {
        llm_gb_fail(b, "a schema is an object, true or false");
    } else {
        node = compile(b, json_array_get(list, 0));
    }
    json_decref(list);
    return node;
}

/* Length of the JSON object, true or false at text, 0: there is none. */
static size_t
value_length(const char *text, size_t len)
{
    size_t depth = 0, i = 0;
    if (len >= 4 && memcmp(text, "true", 4) == 0) {
        return 4;
    }
    if (len >= 5 && memcmp(text, "false", 5) == 0) {
        return 5;
    }
    for (bool quoted = false; i < len && (i == 0 ? text[0] == '{' : true); i++) {
        if (quoted) {
            quoted = text[i] != '"';
            i += text[i] == '\\';
        } else if (text[i] == '"') {
            quoted = true;
        } else if (text[i] == '{' || text[i] == '[') {
            depth++;
        } else if ((text[i] == '}' || text[i] == ']') && --depth == 0) {
            return i + 1;
        }
    }
    return 0;
}

uint32_t
llm_gb_schema_at(llm_gb_t *b, const char *text, size_t len, size_t *used)
{
    *used = value_length(text, len);
    if (*used == 0) {
        return llm_gb_fail(b, "%%json is not followed by a JSON schema");
    }
    return llm_gb_schema(b, text, *used);
}
