/*
 * part.c - one tensor at a time: found by role, its shape checked, its place in memory planned.
 *
 * Patterns of roles come from the row of the family (arch.c). Used by bind.c and layer.c.
 */
#include "model/bind.h"
#include "tensor/quantize.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long ull_t;   /* for %llu */

/* ------------------------------------------------------------------ memory */

typedef struct meta_block {
    struct meta_block *next;
    max_align_t        data[];
} meta_block_t;

void *
llm_meta_alloc(llm_model_t *m, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX - sizeof(meta_block_t)) {
        return NULL;
    }
    meta_block_t *block = calloc(1, sizeof(*block) + bytes);
    if (block == NULL) {
        return NULL;
    }
    block->next = m->meta;
    m->meta = block;
    return block->data;
}

void
llm_meta_free(llm_model_t *m)
{
    for (meta_block_t *b = m->meta; b != NULL;) {
        meta_block_t *next = b->next;
        free(b);
        b = next;
    }
    m->meta = NULL;
}

void
llm_plan_free(llm_plan_t *plan)
{
    free(plan->items);
    *plan = (llm_plan_t) { 0 };
}

static llm_code_t
plan_add(llm_bind_t *b, const llm_item_t *item)
{
    llm_plan_t *p = b->plan;
    if (p->n == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 256;
        llm_item_t *items = realloc(p->items, cap * sizeof(*items));
        if (items == NULL) {
            return llm_fail(b->err, LLM_E_NOMEM, "%s: no memory for a plan of %zu items",
                            b->src->path, cap);
        }
        p->items = items;
        p->cap = cap;
    }
    size_t end;
    if (__builtin_add_overflow(p->bytes, item->bytes, &end) || end > SIZE_MAX / 2) {
        return llm_fail(b->err, LLM_E_FORMAT, "%s: weights of more than %zu bytes", b->src->path,
                        SIZE_MAX / 2);
    }
    p->items[p->n] = *item;
    p->items[p->n++].off = p->bytes;
    p->bytes = (end + 63) & ~(size_t) 63;
    return LLM_OK;
}

/* ------------------------------------------------------------------ names */

/* Start and length of alternative i of a pattern; NULL past the last one. */
static const char *
alternative(const char *pattern, unsigned i, size_t *len)
{
    for (; pattern != NULL && i > 0; i--) {
        pattern = strchr(pattern, '|');
        pattern = pattern != NULL ? pattern + 1 : NULL;
    }
    *len = pattern != NULL ? strcspn(pattern, "|") : 0;
    return pattern;
}

/* The first len bytes of a pattern with layer and expert filled in, and the suffix. */
static llm_name_t
expand(const char *pattern, size_t len, uint32_t layer, uint32_t expert, const char *suffix)
{
    llm_name_t out = { "" };
    size_t n = 0, cap = sizeof(out.s);
    for (const char *p = pattern; p < pattern + len && n < cap - 1;) {
        bool is_layer = strncmp(p, "{i}", 3) == 0;
        if (is_layer || strncmp(p, "{e}", 3) == 0) {
            n += (size_t) snprintf(out.s + n, cap - n, "%u", is_layer ? layer : expert);
            p += 3;
        } else {
            out.s[n++] = *p++;
        }
    }
    if (n < cap) {
        snprintf(out.s + n, cap - n, "%s", suffix);
    }
    return out;
}

/* Way i to begin a tensor's name: the prefix, nothing, the prefix behind its first dot; or NULL. */
static const char *
prefix_at(const llm_arch_t *a, unsigned i)
{
    const char *dot = a->prefix != NULL ? strchr(a->prefix, '.') : NULL;
    if (i == 0) {
        return a->prefix != NULL ? a->prefix : "";
    }
    if (i == 1) {
        return a->prefix != NULL ? "" : NULL;
    }
    return i == 2 && dot != NULL && dot[1] != '\0' ? dot + 1 : NULL;
}

llm_name_t
llm_bind_tensor_name(const llm_bind_t *b, llm_role_t role, uint32_t layer, uint32_t expert,
                     const char *suffix)
{
    size_t len;
    llm_name_t out = { "" };
    const char *p = alternative(b->roles[role], 0, &len);
    if (p != NULL) {
        llm_name_t name = expand(p, len, layer, expert, suffix);
        snprintf(out.s, sizeof(out.s), "%s%.160s", prefix_at(b->arch, 0), name.s);
    }
    return out;
}

bool
llm_bind_lookup(const llm_bind_t *b, const char *name, llm_src_tensor_t *out)
{
    llm_name_t full;
    const char *prefix;
    for (unsigned i = 0; (prefix = prefix_at(b->arch, i)) != NULL; i++) {
        int n = snprintf(full.s, sizeof(full.s), "%s%s", prefix, name);
        if (n >= 0 && (size_t) n < sizeof(full.s) && b->src->tensor(b->src, full.s, out)) {
            return true;
        }
    }
    return false;
}

/* The first alternative of a role that is there; all that are become used when b->used is given. */
static bool
find_expert(const llm_bind_t *b, uint8_t *used, llm_role_t role, uint32_t layer, uint32_t expert,
            const char *suffix, llm_src_tensor_t *out)
{
    size_t len;
    bool found = false;
    const char *p;
    for (unsigned i = 0; (p = alternative(b->roles[role], i, &len)) != NULL; i++) {
        llm_src_tensor_t t;
        if (!llm_bind_lookup(b, expand(p, len, layer, expert, suffix).s, &t)) {
            continue;
        }
        if (used != NULL) {
            used[t.index] = 1;
        }
        if (!found) {
            *out = t;
        }
        found = true;
    }
    return found;
}

bool
llm_bind_find(llm_bind_t *b, llm_role_t role, uint32_t layer, const char *suffix,
              llm_src_tensor_t *out)
{
    return find_expert(b, b->used, role, layer, 0, suffix, out);
}

bool
llm_bind_has(const llm_bind_t *b, llm_role_t role, uint32_t layer, uint32_t expert,
             const char *suffix)
{
    llm_src_tensor_t t;
    return find_expert(b, NULL, role, layer, expert, suffix, &t);
}

/* name is len bytes of pattern, and ".weight" or ".bias", with digits for {i} and {e}. */
static bool
matches(const char *pattern, size_t len, const char *p, const char *end)
{
    for (const char *stop = pattern + len; pattern < stop; pattern++) {
        if (*pattern == '{') {
            const char *digits = p;
            while (p < end && *p >= '0' && *p <= '9') {
                p++;
            }
            if (p == digits) {
                return false;
            }
            pattern += 2;
        } else if (p == end || *p++ != *pattern) {
            return false;
        }
    }
    size_t left = (size_t) (end - p);
    return (left == 7 && memcmp(p, ".weight", 7) == 0) || (left == 5 && memcmp(p, ".bias", 5) == 0);
}

bool
llm_bind_plays(const llm_bind_t *b, llm_role_t role, llm_span_t name)
{
    size_t len;
    const char *p, *prefix;
    for (unsigned k = 0; (prefix = prefix_at(b->arch, k)) != NULL; k++) {
        size_t n = strlen(prefix);
        if (name.len < n || memcmp(name.data, prefix, n) != 0) {
            continue;
        }
        for (unsigned i = 0; (p = alternative(b->roles[role], i, &len)) != NULL; i++) {
            if (matches(p, len, name.data + n, name.data + name.len)) {
                return true;
            }
        }
    }
    return false;
}

/* ------------------------------------------------------------------ checks */

llm_code_t
llm_bind_missing(const llm_bind_t *b, llm_role_t role, uint32_t layer, uint32_t expert)
{
    return llm_fail(b->err, LLM_E_FORMAT, "%s: tensor \"%s\" is missing", b->src->path,
                    llm_bind_tensor_name(b, role, layer, expert, ".weight").s);
}

llm_code_t
llm_bind_shape(const llm_bind_t *b, const llm_src_tensor_t *t, uint64_t ne0, uint64_t ne1,
               uint64_t ne2)
{
    if (t->ne[0] != ne0 || t->ne[1] != ne1 || t->ne[2] != ne2 || t->ne[3] != 1) {
        return llm_fail(b->err, LLM_E_FORMAT, "%s: tensor \"%.*s\" has shape [%llu, %llu, %llu, "
                        "%llu], expected [%llu, %llu, %llu, 1]", b->src->path, (int) t->name.len,
                        t->name.data, (ull_t) t->ne[0], (ull_t) t->ne[1], (ull_t) t->ne[2],
                        (ull_t) t->ne[3], (ull_t) ne0, (ull_t) ne1, (ull_t) ne2);
    }
    if (llm_format(t->type) == NULL) {
        return llm_fail(b->err, LLM_E_UNSUPPORTED, "%s: tensor \"%.*s\" has values of type %s, "
                        "which no weights can have", b->src->path, (int) t->name.len, t->name.data,
                        t->type_name);
    }
    return LLM_OK;
}

/* ---------------------------------------------------------------- vectors */

/* *dst = the vector of n values in up to three tensors; a zero name makes zeros. */
static llm_code_t
add_vector(llm_bind_t *b, const float **dst, const llm_seg_t *seg, uint32_t n_segs, uint64_t n,
           llm_order_t order, float plus)
{
    llm_item_t item = { .vec = dst, .n_segs = n_segs, .bytes = n * sizeof(float), .order = order,
                        .plus = plus };
    memcpy(item.seg, seg, n_segs * sizeof(*seg));
    return plan_add(b, &item);
}

llm_code_t
llm_bind_vector(llm_bind_t *b, const float **dst, const llm_src_tensor_t *t, uint64_t n)
{
    llm_seg_t seg = { .t = *t, .rows = (uint32_t) t->ne[1] };
    return add_vector(b, dst, &seg, 1, n, (llm_order_t) { 0 }, 0);
}

llm_code_t
llm_bind_norm(llm_bind_t *b, llm_norm_t *norm, llm_role_t role, uint32_t layer, uint32_t n,
              llm_presence_t presence)
{
    llm_src_tensor_t t;
    if (presence == LLM_ABSENT) {
        return LLM_OK;
    }
    if (!llm_bind_find(b, role, layer, ".weight", &t)) {
        return presence == LLM_REQUIRED ? llm_bind_missing(b, role, layer, 0) : LLM_OK;
    }
    llm_code_t rc = llm_bind_shape(b, &t, n, 1, 1);
    if (rc == LLM_OK) {
        llm_seg_t seg = { .t = t, .rows = n };
        rc = add_vector(b, &norm->w, &seg, 1, n, (llm_order_t) { 0 },
                        b->desc.norm_plus_one ? 1.0f : 0.0f);
    }
    bool bias = rc == LLM_OK && b->s->norm == LLM_NORM_LAYER
                && llm_bind_find(b, role, layer, ".bias", &t);
    if (bias) {
        rc = llm_bind_shape(b, &t, n, 1, 1);
    }
    return bias && rc == LLM_OK ? llm_bind_vector(b, &norm->b, &t, n) : rc;
}

/* ---------------------------------------------------------------- linears */

/* The format in which a matrix is packed. */
static uint32_t
packed_type(const llm_bind_t *b, const llm_part_t *part, uint32_t cols)
{
    uint32_t type = part->w.type;
    bool floats = type == LLM_T_F32 || type == LLM_T_F16 || type == LLM_T_BF16;
    if (!b->plan->quantizes || !floats || part->rounding == LLM_PART_KEEP) {
        return type;
    }
    uint32_t want = part->rounding == LLM_PART_ROUND_8 ? LLM_T_Q8_0 : b->plan->quantize;
    want = llm_quantize_fit(want, cols);
    return llm_format(want)->block > 1 ? want : type;
}

llm_code_t
llm_bind_matrix(llm_bind_t *b, llm_mat_t *mat, const llm_part_t *part, uint32_t n_parts,
                uint32_t cols)
{
    llm_item_t item = { .mat = mat, .n_segs = n_parts, .order = part[0].order };
    uint64_t rows = 0;
    for (uint32_t i = 0; i < n_parts; i++) {
        item.seg[i] = (llm_seg_t) { .t = part[i].w, .row0 = part[i].row0, .rows = part[i].rows };
        rows += part[i].rows;
    }
    llm_err_t why = { 0 };
    llm_code_t rc = rows > INT32_MAX ? llm_fail(&why, LLM_E_FORMAT, "%llu rows", (ull_t) rows)
                                     : llm_mat_init(mat, packed_type(b, part, cols),
                                                    (uint32_t) rows, cols, &why);
    if (rc != LLM_OK) {
        return llm_fail(b->err, rc, "%s: tensor \"%.*s\": %s", b->src->path,
                        (int) part[0].w.name.len, part[0].w.name.data, why.msg);
    }
    item.bytes = llm_mat_bytes(mat);
    return plan_add(b, &item);
}

llm_code_t
llm_bind_parts(llm_bind_t *b, llm_lin_t *lin, const llm_part_t *part, uint32_t n_parts,
               uint32_t cols)
{
    llm_code_t rc = LLM_OK;
    llm_seg_t bias[LLM_MAX_SEGS] = { 0 };
    bool any_bias = false;
    *lin = (llm_lin_t) { .cols = cols };
    for (uint32_t i = 0; i < n_parts; i++) {
        /* each at most LLM_MAX_DIM or LLM_MAX_HEADS * LLM_MAX_HEAD_DIM */
        lin->rows += part[i].rows;
        bias[i].rows = part[i].rows;
        if (part[i].has_bias) {
            bias[i].t = part[i].b;
            any_bias = true;
        }
    }
    for (uint32_t i = 0, n; i < n_parts && rc == LLM_OK; i += n) {
        for (n = 1; i + n < n_parts && part[i + n].w.type == part[i].w.type; n++) {
        }
        rc = llm_bind_matrix(b, &lin->part[lin->n_parts++], part + i, n, cols);
    }
    return rc == LLM_OK && any_bias
           ? add_vector(b, &lin->bias, bias, n_parts, lin->rows, part[0].order, 0) : rc;
}

/* The matrices of the layers, which Conv1D stores the other way round. */
static bool
is_turned(const llm_bind_t *b, llm_role_t role)
{
    return b->desc.conv1d && role >= LLM_ROLE_QKV && role <= LLM_ROLE_DOWN;
}

llm_code_t
llm_bind_part(llm_bind_t *b, llm_part_t *p, llm_role_t role, uint32_t layer, uint32_t expert,
              uint32_t rows, uint32_t cols)
{
    *p = (llm_part_t) {
        .rows = rows,
        .rounding = role == LLM_ROLE_ROUTER ? LLM_PART_KEEP
                    : role == LLM_ROLE_HEAD ? LLM_PART_ROUND_8 : LLM_PART_ROUND,
    };
    if (!find_expert(b, b->used, role, layer, expert, ".weight", &p->w)) {
        return llm_bind_missing(b, role, layer, expert);
    }
    bool turned = is_turned(b, role);
    llm_code_t rc = turned ? llm_bind_shape(b, &p->w, rows, cols, 1)
                           : llm_bind_shape(b, &p->w, cols, rows, 1);
    if (turned) {
        p->w.transposed = true;
        p->w.ne[0] = cols;
        p->w.ne[1] = rows;
    }
    p->has_bias = rc == LLM_OK
                  && find_expert(b, b->used, role, layer, expert, ".bias", &p->b);
    return p->has_bias ? llm_bind_shape(b, &p->b, rows, 1, 1) : rc;
}

llm_code_t
llm_bind_linear(llm_bind_t *b, llm_lin_t *lin, llm_role_t role, uint32_t layer, uint32_t rows,
                uint32_t cols)
{
    llm_part_t p;
    llm_code_t rc = llm_bind_part(b, &p, role, layer, 0, rows, cols);
    return rc == LLM_OK ? llm_bind_parts(b, lin, &p, 1, cols) : rc;
}
