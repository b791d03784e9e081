/*
 * gguf_split.c - models that are split into several GGUF files.
 *
 * Part i of n is called "<prefix>-<i+1>-of-<n>.gguf", with five digits each, and says the same in
 * split.no and split.count; split.tensors.count is the sum over all parts. The first part has the
 * keys of the model. Each part is a complete GGUF file, with offsets of its own.
 *
 * Opening joins them in the first part: it owns the others (`more`) and a table of all tensors.
 */
#include "model/gguf_impl.h"

#include <stdio.h>
#include <stdlib.h>

#define SUFFIX_BYTES  20        /* "-00001-of-00002.gguf" */

typedef struct { uint32_t no, count, tensors; } split_t;

static llm_code_t
read_split(const llm_gguf_t *g, split_t *s, llm_err_t *err)
{
    *s = (split_t) { .tensors = UINT32_MAX };
    llm_code_t rc = llm_gguf_u32(g, "split.count", &s->count, err);
    if (rc == LLM_OK) {
        rc = llm_gguf_u32(g, "split.no", &s->no, err);
    }
    if (rc == LLM_OK) {
        rc = llm_gguf_u32(g, "split.tensors.count", &s->tensors, err);
    }
    return rc;
}

/* A split that can be opened, and the file is the part that its name says. */
static llm_code_t
check_split(const llm_gguf_t *g, const split_t *s, llm_err_t *err)
{
    if (s->count > LLM_GGUF_MAX_PARTS) {
        return llm_fail(err, LLM_E_UNSUPPORTED, "%s: split.count is %u, at most %u are supported",
                        g->path, s->count, LLM_GGUF_MAX_PARTS);
    }
    if (s->no >= s->count) {
        return llm_fail(err, LLM_E_FORMAT, "%s: split.no is %u, but split.count %u", g->path, s->no,
                        s->count);
    }
    if (s->tensors == UINT32_MAX) {
        return llm_fail(err, LLM_E_FORMAT, "%s: key \"split.tensors.count\" is missing", g->path);
    }
    char want[32];
    size_t len = strlen(g->path);
    snprintf(want, sizeof(want), "-%05u-of-%05u.gguf", s->no + 1, s->count);
    if (len <= SUFFIX_BYTES || strcmp(g->path + len - SUFFIX_BYTES, want) != 0) {
        return llm_fail(err, LLM_E_FORMAT, "%s: is part %u of %u by its keys, but its name does "
                        "not end in \"%s\", so that the others cannot be found", g->path,
                        s->no + 1, s->count, want);
    }
    return LLM_OK;
}

/* Part i (from 0) beside a part with that path. */
static llm_code_t
open_part(llm_gguf_t **out, const char *path, const split_t *split, uint32_t i, llm_err_t *err)
{
    size_t prefix = strlen(path) - SUFFIX_BYTES, size = prefix + 32;
    char *name = malloc(size);
    split_t s;
    llm_err_t why = { 0 };
    *out = NULL;
    if (name == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory", path);
    }
    snprintf(name, size, "%.*s-%05u-of-%05u.gguf", (int) prefix, path, i + 1, split->count);
    llm_code_t rc = llm_gguf_open_one(out, name, &why);
    free(name);
    if (rc != LLM_OK) {
        return llm_fail(err, rc, "part %u of %u: %s", i + 1, split->count, why.msg);
    }
    rc = read_split(*out, &s, err);
    if (rc == LLM_OK && (s.no != i || s.count != split->count || s.tensors != split->tensors)) {
        rc = llm_fail(err, LLM_E_FORMAT, "%s: says part %u of %u with %u tensors in all, not part "
                      "%u of %u with %u", (*out)->path, s.no + 1, s.count, s.tensors, i + 1,
                      split->count, split->tensors);
    }
    if (rc != LLM_OK) {
        llm_gguf_close(*out);
        *out = NULL;
    }
    return rc;
}

/* The tensors of all parts in the table of the first. */
static llm_code_t
join(llm_gguf_t *g, const split_t *split, llm_err_t *err)
{
    uint64_t n = g->n_tensors;
    for (uint32_t i = 0; i < g->n_more; i++) {
        n += g->more[i]->n_tensors;
    }
    if (n != split->tensors) {
        return llm_fail(err, LLM_E_FORMAT, "%s: split.tensors.count is %u, but the %u parts have "
                        "%llu tensors", g->path, split->tensors, split->count, (ull_t) n);
    }
    if (n > LLM_GGUF_MAX_ENTRIES) {
        return llm_fail(err, LLM_E_UNSUPPORTED, "%s: %llu tensors, at most %llu are supported",
                        g->path, (ull_t) n, (ull_t) LLM_GGUF_MAX_ENTRIES);
    }
    llm_gguf_tensor_t *all = realloc(g->tensors, (n + 1) * sizeof(*all));
    if (all == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for a table of %llu tensors", g->path,
                        (ull_t) n);
    }
    g->tensors = all;
    for (uint32_t i = 0; i < g->n_more; i++) {
        const llm_gguf_t *part = g->more[i];
        for (uint64_t k = 0; k < part->n_tensors; k++) {
            all[g->n_tensors] = part->tensors[k];
            all[g->n_tensors++].part = i + 1;
        }
    }
    return llm_gguf_index_tensors(g, err);
}

/* Opens the parts but the first into g, which is the first. */
static llm_code_t
open_rest(llm_gguf_t *g, const split_t *split, llm_err_t *err)
{
    llm_code_t rc = LLM_OK;
    g->more = calloc(split->count, sizeof(llm_gguf_t *));
    if (g->more == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory", g->path);
    }
    for (uint32_t i = 1; i < split->count && rc == LLM_OK; i++) {
        rc = open_part(&g->more[g->n_more], g->path, split, i, err);
        g->n_more += rc == LLM_OK;
    }
    return rc == LLM_OK ? join(g, split, err) : rc;
}

llm_code_t
llm_gguf_open(llm_gguf_t **out, const char *path, llm_err_t *err)
{
    llm_gguf_t *g;
    split_t split;
    *out = NULL;
    llm_code_t rc = llm_gguf_open_one(&g, path, err);
    if (rc != LLM_OK) {
        return rc;
    }
    rc = read_split(g, &split, err);
    if (rc == LLM_OK && split.count > 1) {
        rc = check_split(g, &split, err);
        if (rc == LLM_OK && split.no > 0) {
            llm_gguf_t *first;
            rc = open_part(&first, g->path, &split, 0, err);
            llm_gguf_close(g);
            g = first;
        }
        if (rc == LLM_OK) {
            rc = open_rest(g, &split, err);
        }
    }
    if (rc != LLM_OK) {
        llm_gguf_close(g);
        return rc;
    }
    *out = g;
    return LLM_OK;
}
