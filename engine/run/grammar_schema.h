/*
 * grammar_schema.h - the inner forms of the schema compiler (grammar_schema*.c only).
 *
 * The unit of work is a conjunction: schemas that a value must all satisfy. `allOf`, `$ref` and
 * members that several schemas name make conjunctions larger, anyOf and oneOf split them. A
 * conjunction is flattened into one llm_gflat_t and written as nodes; it is a rule of its own,
 * found again by its schemas, which is what makes recursion finite.
 */
#ifndef LLM_GRAMMAR_SCHEMA_H
#define LLM_GRAMMAR_SCHEMA_H

#include "run/grammar_impl.h"

#include <jansson.h>
#include <stdio.h>

enum {
    LLM_GT_NULL = 1,
    LLM_GT_BOOL = 2,
    LLM_GT_STRING = 4,
    LLM_GT_INTEGER = 8,
    LLM_GT_FRACTION = 16,
    LLM_GT_OBJECT = 32,
    LLM_GT_ARRAY = 64,
    LLM_GT_NUMBER = LLM_GT_INTEGER | LLM_GT_FRACTION,
    LLM_GT_ALL = 127
};

/* A schema of a conjunction, and what of it is done elsewhere. */
enum { LLM_GI_ANYOF = 1, LLM_GI_ONEOF = 2, LLM_GI_EXPANDED = 4 };
typedef struct { json_t *s; uint32_t done; } llm_gitem_t;
typedef struct { llm_gitem_t *v; uint32_t n, cap; } llm_gitems_t;
typedef struct { json_t **v; uint32_t n, cap; } llm_gptrs_t;

/* Pattern properties of an object schema. */
typedef struct {
    json_t    *owner, *schema;
    uint32_t   node;            /* keys that match, canonical, without quotes */
    llm_gdfa_t dfa;
} llm_gpattern_t;

/* What a conjunction asks for. */
typedef struct {
    bool         fail;          /* nothing satisfies it */
    unsigned     types, implied;
    bool         typed, has_enum, whole;    /* whole: no fractions (multipleOf 1) */
    /* all schemas of the conjunction, with the bits of what was not followed */
    llm_gitems_t seen;
    llm_gptrs_t  enums;         /* arrays of values; a value must be in all of them */
    llm_gptrs_t  patterns, formats;         /* JSON strings */
    llm_gptrs_t  objects, arrays;           /* schemas with keywords for these */
    llm_gptrs_t  names;         /* propertyNames */
    json_t      *choice, *choice_owner;     /* an anyOf or oneOf that is not decided */
    bool         one_of;
    uint32_t     min_len, max_len, min_items, max_items, min_props, max_props;
    bool         has_min_items;
    llm_gbound_t lo, hi;
} llm_gflat_t;

typedef struct {
    llm_gb_t   *b;
    json_t     *root;
    llm_gitems_t keys;          /* schemas of all conjunctions that have a rule */
    struct memo { uint32_t at, n, hash, rule; } *memo;
    uint32_t    n_memo, cap_memo;
    uint32_t   *slot, n_slot, cap_slot;     /* hash table of memo + 1 */
    llm_gptrs_t made;           /* values made here, released at the end */
    uint32_t    depth;
    char        path[256];      /* where in the schema, for messages */
    uint32_t    n_path;
} llm_gsch_t;

/* -- grammar_schema.c */

/* "grammar is not valid: <path>: <message>". */
uint32_t llm_gs_fail(llm_gsch_t *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool llm_gitems_add(llm_gb_t *b, llm_gitems_t *v, json_t *schema, uint32_t done);
bool llm_gptrs_add(llm_gb_t *b, llm_gptrs_t *v, json_t *p);
/* The node of a value that satisfies all items; below is the step of the path that leads there. */
uint32_t llm_gs_value(llm_gsch_t *s, const llm_gitems_t *items, const char *below);
bool llm_gs_flatten(llm_gsch_t *s, const llm_gitems_t *items, llm_gflat_t *f);
void llm_gs_flat_drop(llm_gsch_t *s, llm_gflat_t *f);
/* Types of the values that are written for it. */
unsigned llm_gs_types(const llm_gflat_t *f);

/* -- grammar_keyword.c: one schema's keywords into *f */
bool llm_gs_keywords(llm_gsch_t *s, json_t *schema, llm_gflat_t *f);
unsigned llm_gs_type_of(const json_t *value);

/* -- grammar_scalar.c */
uint32_t llm_gs_number(llm_gsch_t *s, const llm_gflat_t *f, bool fractions);
uint32_t llm_gs_string(llm_gsch_t *s, const llm_gflat_t *f);
/* Characters between the quotes, canonical; 0 with *free set: any. */
uint32_t llm_gs_content(llm_gsch_t *s, const llm_gflat_t *f, bool *free);
uint32_t llm_gs_enum(llm_gsch_t *s, const llm_gflat_t *f);
bool llm_gs_equal(const json_t *x, const json_t *y);
/* A format of strings as a regular expression, or NULL. */
const char *llm_gs_format(const char *name);

/* -- grammar_object.c */
uint32_t llm_gs_object(llm_gsch_t *s, const llm_gflat_t *f);
uint32_t llm_gs_array(llm_gsch_t *s, const llm_gflat_t *f);
/* Schemas for the value of a key in *items; false: the key cannot be there. */
bool llm_gs_member(llm_gsch_t *s, const llm_gflat_t *f, const char *key, llm_gitems_t *items,
                   bool *listed);
bool llm_gs_requires(const llm_gflat_t *f, const char *key);

/* -- grammar_oneof.c */
/* Every value that is written for a violates b. */
bool llm_gs_excludes(llm_gsch_t *s, const llm_gitems_t *a, const llm_gitems_t *b, unsigned depth);

#endif
