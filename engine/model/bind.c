/*
 * bind.c - tensors to roles: every tensor that the family needs is found, its shape checked, its
 * place in memory planned.
 *
 * Roles and patterns come from the row of the family (arch.c), sizes from the settings (hparam.c).
 * Tensors that nothing asked for are reported in m->unused; one that plays a role which this
 * family does not have is refused, because leaving it out would silently give wrong text.
 */
#include "model/bind.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One source tensor of a linear, with its bias. */
typedef struct {
    llm_src_tensor_t w, b;
    bool             has_bias;
    uint64_t         row0;      /* first row of w: stacked experts */
    uint32_t         rows;
} part_t;

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

llm_name_t
llm_bind_tensor_name(const llm_bind_t *b, llm_role_t role, uint32_t layer, uint32_t expert,
                     const char *suffix)
{
    llm_name_t out = { "" };
    const char *p = b->roles[role];
    size_t n = 0, cap = sizeof(out.s);
    while (p != NULL && *p != '\0' && n < cap - 1) {
        bool is_layer = strncmp(p, "{i}", 3) == 0;
        if (is_layer || strncmp(p, "{e}", 3) == 0) {
            n += (size_t) snprintf(out.s + n, cap - n, "%u", is_layer ? layer : expert);
            p += 3;
        } else {
            out.s[n++] = *p++;
        }
    }
    if (p != NULL && n < cap) {
        snprintf(out.s + n, cap - n, "%s", suffix);
    }
    return out;
}

static bool
find_expert(llm_bind_t *b, llm_role_t role, uint32_t layer, uint32_t expert, const char *suffix,
            llm_src_tensor_t *out)
{
    llm_name_t name = llm_bind_tensor_name(b, role, layer, expert, suffix);
    if (name.s[0] == '\0' || !b->src->tensor(b->src, name.s, out)) {
        return false;
    }
    b->used[out->index] = 1;
    return true;
}

bool
llm_bind_find(llm_bind_t *b, llm_role_t role, uint32_t layer, const char *suffix,
              llm_src_tensor_t *out)
{
    return find_expert(b, role, layer, 0, suffix, out);
}

/* The tensor must have exactly this shape, innermost dimension first. */
static llm_code_t
check_shape(const llm_bind_t *b, const llm_src_tensor_t *t, uint64_t ne0, uint64_t ne1,
            uint64_t ne2)
{
    if (t->ne[0] == ne0 && t->ne[1] == ne1 && t->ne[2] == ne2 && t->ne[3] == 1) {
        return LLM_OK;
    }
    typedef unsigned long long ull_t;
    return llm_fail(b->err, LLM_E_FORMAT, "%s: tensor \"%.*s\" has shape [%llu, %llu, %llu, %llu], "
                    "expected [%llu, %llu, %llu, 1]", b->src->path, (int) t->name.len, t->name.data,
                    (ull_t) t->ne[0], (ull_t) t->ne[1], (ull_t) t->ne[2], (ull_t) t->ne[3],
                    (ull_t) ne0, (ull_t) ne1, (ull_t) ne2);
}

static llm_code_t
missing(const llm_bind_t *b, llm_role_t role, uint32_t layer, uint32_t expert)
{
    return llm_fail(b->err, LLM_E_FORMAT, "%s: tensor \"%s\" is missing", b->src->path,
                    llm_bind_tensor_name(b, role, layer, expert, ".weight").s);
}

/* ---------------------------------------------------------------- vectors */

/* *dst = the vector of n values in up to three tensors; a zero name makes zeros. */
static llm_code_t
add_vector(llm_bind_t *b, const float **dst, const llm_seg_t *seg, uint32_t n_segs, uint64_t n)
{
    llm_item_t item = { .vec = dst, .n_segs = n_segs, .bytes = n * sizeof(float) };
    memcpy(item.seg, seg, n_segs * sizeof(*seg));
    return plan_add(b, &item);
}

/* A vector of n values in one tensor of its own. */
static llm_code_t
add_tensor(llm_bind_t *b, const float **dst, const llm_src_tensor_t *t, uint32_t n)
{
    llm_code_t rc = check_shape(b, t, n, 1, 1);
    llm_seg_t seg = { .t = *t, .rows = n };
    return rc == LLM_OK ? add_vector(b, dst, &seg, 1, n) : rc;
}

static llm_code_t
bind_norm(llm_bind_t *b, llm_norm_t *norm, llm_role_t role, uint32_t layer, uint32_t n,
          llm_presence_t presence)
{
    llm_src_tensor_t t;
    if (presence == LLM_ABSENT) {
        return LLM_OK;
    }
    if (!llm_bind_find(b, role, layer, ".weight", &t)) {
        return presence == LLM_REQUIRED ? missing(b, role, layer, 0) : LLM_OK;
    }
    llm_code_t rc = add_tensor(b, &norm->w, &t, n);
    if (rc == LLM_OK && b->s->norm == LLM_NORM_LAYER && llm_bind_find(b, role, layer, ".bias",
                                                                          &t)) {
        rc = add_tensor(b, &norm->b, &t, n);
    }
    return rc;
}

/* ---------------------------------------------------------------- linears */

static llm_code_t
add_matrix(llm_bind_t *b, llm_mat_t *mat, const part_t *part, uint32_t n_parts, uint32_t cols)
{
    llm_item_t item = { .mat = mat, .n_segs = n_parts };
    uint64_t rows = 0;
    for (uint32_t i = 0; i < n_parts; i++) {
        item.seg[i] = (llm_seg_t) { .t = part[i].w, .row0 = part[i].row0, .rows = part[i].rows };
        rows += part[i].rows;
    }
    llm_err_t why = { 0 };
    llm_code_t rc = rows > INT32_MAX ? llm_fail(&why, LLM_E_FORMAT, "%llu rows",
                                                (unsigned long long) rows)
                                     : llm_mat_init(mat, part[0].w.type, (uint32_t) rows, cols,
                                                    &why);
    if (rc != LLM_OK) {
        return llm_fail(b->err, rc, "%s: tensor \"%.*s\": %s", b->src->path,
                        (int) part[0].w.name.len, part[0].w.name.data, why.msg);
    }
    item.bytes = llm_mat_bytes(mat);
    return plan_add(b, &item);
}

/* Parts stacked by rows; neighbours of one format share a matrix. */
static llm_code_t
add_linear(llm_bind_t *b, llm_lin_t *lin, const part_t *part, uint32_t n_parts, uint32_t cols)
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
        rc = add_matrix(b, &lin->part[lin->n_parts++], part + i, n, cols);
    }
    return rc == LLM_OK && any_bias ? add_vector(b, &lin->bias, bias, n_parts, lin->rows) : rc;
}

/* The part of a role with rows x cols; its bias when there is one. */
static llm_code_t
find_part(llm_bind_t *b, part_t *p, llm_role_t role, uint32_t layer, uint32_t expert, uint32_t rows,
          uint32_t cols)
{
    *p = (part_t) { .rows = rows };
    if (!find_expert(b, role, layer, expert, ".weight", &p->w)) {
        return missing(b, role, layer, expert);
    }
    llm_code_t rc = check_shape(b, &p->w, cols, rows, 1);
    p->has_bias = rc == LLM_OK && find_expert(b, role, layer, expert, ".bias", &p->b);
    return p->has_bias ? check_shape(b, &p->b, rows, 1, 1) : rc;
}

static llm_code_t
bind_linear(llm_bind_t *b, llm_lin_t *lin, llm_role_t role, uint32_t layer, uint32_t rows,
            uint32_t cols)
{
    part_t p;
    llm_code_t rc = find_part(b, &p, role, layer, 0, rows, cols);
    return rc == LLM_OK ? add_linear(b, lin, &p, 1, cols) : rc;
}

/* ----------------------------------------------------------------- layers */

static llm_code_t
bind_attention(llm_bind_t *b, llm_layer_t *l, uint32_t i)
{
    const llm_stack_t *s = b->s;
    uint32_t q = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim;
    const uint32_t rows[] = { q, kv, kv };
    part_t part[3];
    llm_src_tensor_t t;

    bool fused = b->desc.qkv == LLM_QKV_FUSED
                 && (llm_bind_find(b, LLM_ROLE_QKV, i, ".weight", &t) || !llm_bind_find(b,
                                                                                        LLM_ROLE_Q,
                                                                                        i,
                                                                                        ".weight",
                                                                                        &t));
    llm_code_t rc = LLM_OK;
    if (fused) {
        rc = bind_linear(b, &l->qkv, LLM_ROLE_QKV, i, q + 2 * kv, s->d);
    } else {
        for (uint32_t r = 0; r < 3 && rc == LLM_OK; r++) {
            rc = find_part(b, &part[r], (llm_role_t) (LLM_ROLE_Q + r), i, 0, rows[r], s->d);
        }
        if (rc == LLM_OK) {
            rc = add_linear(b, &l->qkv, part, 3, s->d);
        }
    }
    if (rc == LLM_OK) {
        rc = bind_norm(b, &l->qn, LLM_ROLE_QN, i, s->head_dim, b->desc.qk_norm);
    }
    if (rc == LLM_OK) {
        rc = bind_norm(b, &l->kn, LLM_ROLE_KN, i, s->head_dim, b->desc.qk_norm);
    }
    return rc == LLM_OK ? bind_linear(b, &l->o, LLM_ROLE_O, i, s->d, q) : rc;
}

/* Expert e of one projection: a slab of the stacked tensor, or a tensor of its own. */
static llm_code_t
expert_part(llm_bind_t *b, part_t *p, llm_role_t stacked, llm_role_t single, uint32_t layer,
            uint32_t e, uint32_t rows, uint32_t cols)
{
    *p = (part_t) { .rows = rows, .row0 = (uint64_t) e * rows };
    if (llm_bind_find(b, stacked, layer, ".weight", &p->w)) {
        return check_shape(b, &p->w, cols, rows, b->s->n_experts);
    }
    llm_src_tensor_t t;
    bool first = b->src->tensor(b->src, llm_bind_tensor_name(b, single, layer, 0, ".weight").s, &t);
    return first ? find_part(b, p, single, layer, e, rows, cols) : missing(b, stacked, layer, e);
}

static llm_code_t
bind_experts(llm_bind_t *b, llm_layer_t *l, uint32_t i)
{
    const llm_stack_t *s = b->s;
    llm_code_t rc = bind_linear(b, &l->router, LLM_ROLE_ROUTER, i, s->n_experts, s->d);
    if (rc != LLM_OK) {
        return rc;
    }
    l->exp_in = llm_meta_alloc(b->m, s->n_experts, sizeof(llm_lin_t));
    l->exp_out = llm_meta_alloc(b->m, s->n_experts, sizeof(llm_lin_t));
    if (l->exp_in == NULL || l->exp_out == NULL) {
        return llm_fail(b->err, LLM_E_NOMEM, "%s: no memory for %u experts", b->src->path,
                        s->n_experts);
    }
    for (uint32_t e = 0; e < s->n_experts && rc == LLM_OK; e++) {
        part_t in[2], out;
        rc = expert_part(b, &in[0], LLM_ROLE_GATE_EXPS, LLM_ROLE_GATE_EXP, i, e, s->ff, s->d);
        if (rc == LLM_OK) {
            rc = expert_part(b, &in[1], LLM_ROLE_UP_EXPS, LLM_ROLE_UP_EXP, i, e, s->ff, s->d);
        }
        if (rc == LLM_OK) {
            rc = expert_part(b, &out, LLM_ROLE_DOWN_EXPS, LLM_ROLE_DOWN_EXP, i, e, s->d, s->ff);
        }
        if (rc == LLM_OK) {
            rc = add_linear(b, &l->exp_in[e], in, 2, s->d);
        }
        if (rc == LLM_OK) {
            rc = add_linear(b, &l->exp_out[e], &out, 1, s->ff);
        }
    }
    return rc;
}

static llm_code_t
bind_mlp(llm_bind_t *b, llm_layer_t *l, uint32_t i)
{
    const llm_stack_t *s = b->s;
    part_t part[2];
    llm_code_t rc;
    switch ((llm_ff_t) b->desc.ff) {
    case LLM_FF_MOE:
        return bind_experts(b, l, i);
    case LLM_FF_GATED:
        rc = find_part(b, &part[0], LLM_ROLE_GATE, i, 0, s->ff, s->d);
        if (rc == LLM_OK) {
            rc = find_part(b, &part[1], LLM_ROLE_UP, i, 0, s->ff, s->d);
        }
        if (rc == LLM_OK) {
            rc = add_linear(b, &l->ffn_in, part, 2, s->d);
        }
        break;
    case LLM_FF_GATED_FUSED:
        rc = bind_linear(b, &l->ffn_in, LLM_ROLE_UP, i, 2 * s->ff, s->d);
        break;
    default:
        rc = bind_linear(b, &l->ffn_in, LLM_ROLE_UP, i, s->ff, s->d);
    }
    return rc == LLM_OK ? bind_linear(b, &l->ffn_out, LLM_ROLE_DOWN, i, s->d, s->ff) : rc;
}

static llm_code_t
bind_layer(llm_bind_t *b, llm_layer_t *l, uint32_t i, uint32_t window)
{
    const llm_stack_t *s = b->s;
    bool sandwich = s->topology == LLM_TOPO_SANDWICH;
    llm_presence_t post = sandwich ? LLM_REQUIRED : LLM_ABSENT;
    llm_presence_t second = s->topology == LLM_TOPO_PARALLEL ? LLM_ABSENT : LLM_REQUIRED;
    uint32_t kind = b->desc.window;

    l->window = kind == LLM_WINDOW_ALL || (kind == LLM_WINDOW_EVEN && i % 2 == 0) ? window : 0;
    l->rotate = s->pos == LLM_POS_ROPE
                && (b->desc.nope_interval == 0 || (i + 1) % b->desc.nope_interval != 0);

    llm_code_t rc = bind_norm(b, &l->n1, LLM_ROLE_N1, i, s->d, LLM_REQUIRED);
    if (rc == LLM_OK) {
        rc = bind_norm(b, &l->n2, LLM_ROLE_N2, i, s->d, second);
    }
    if (rc == LLM_OK) {
        rc = bind_norm(b, &l->pn1, LLM_ROLE_PN1, i, s->d, post);
    }
    if (rc == LLM_OK) {
        rc = bind_norm(b, &l->pn2, LLM_ROLE_PN2, i, s->d, post);
    }
    if (rc == LLM_OK) {
        rc = bind_attention(b, l, i);
    }
    return rc == LLM_OK ? bind_mlp(b, l, i) : rc;
}

static llm_code_t
bind_layers(llm_bind_t *b)
{
    llm_stack_t *s = b->s;
    uint32_t window = b->desc.window_size;
    llm_code_t rc = LLM_OK;
    if (b->desc.window != LLM_WINDOW_NONE) {
        rc = llm_bind_u32(b, LLM_KEY_WINDOW, LLM_OPTIONAL, 0, LLM_MAX_CTX, &window);
    }
    s->layers = llm_meta_alloc(b->m, s->n_layers, sizeof(*s->layers));
    if (rc == LLM_OK && s->layers == NULL) {
        rc = llm_fail(b->err, LLM_E_NOMEM, "%s: no memory for %u layers", b->src->path,
                      s->n_layers);
    }
    for (uint32_t i = 0; i < s->n_layers && rc == LLM_OK; i++) {
        rc = bind_layer(b, &s->layers[i], i, window);
    }
    return rc;
}

/* ------------------------------------------------------------- whole model */

/* Token embedding, and the table of learned positions. */
static llm_code_t
bind_embedding(llm_bind_t *b)
{
    llm_model_t *m = b->m;
    llm_stack_t *s = b->s;
    part_t tok = { 0 };
    if (!llm_bind_find(b, LLM_ROLE_TOK, 0, ".weight", &tok.w)) {
        return missing(b, LLM_ROLE_TOK, 0, 0);
    }
    uint64_t rows = tok.w.ne[1];
    if (rows == 0 || rows > INT32_MAX) {
        return llm_fail(b->err, LLM_E_FORMAT, "%s: tensor \"%.*s\" has %llu rows, allowed are 1 to "
                        "%d", b->src->path, (int) tok.w.name.len, tok.w.name.data,
                        (unsigned long long) rows, INT32_MAX);
    }
    tok.rows = m->info.n_vocab = (uint32_t) rows;
    uint32_t said;      /* padding may make the table longer than the file says, never shorter */
    llm_code_t rc = llm_bind_u32(b, LLM_KEY_VOCAB, LLM_OPTIONAL, 1, tok.rows, &said);
    if (rc == LLM_OK) {
        rc = check_shape(b, &tok.w, s->d, rows, 1);
    }
    if (rc == LLM_OK) {
        rc = add_matrix(b, &m->embed, &tok, 1, s->d);
    }
    if (rc == LLM_OK) {
        rc = bind_norm(b, &s->emb_norm, LLM_ROLE_EMB_NORM, 0, s->d, b->desc.emb_norm);
    }
    if (rc != LLM_OK || s->pos != LLM_POS_LEARNED) {
        return rc;
    }

    llm_seg_t pos = { 0 };
    if (!llm_bind_find(b, LLM_ROLE_POS, 0, ".weight", &pos.t)) {
        return missing(b, LLM_ROLE_POS, 0, 0);
    }
    rows = pos.t.ne[1];
    rc = check_shape(b, &pos.t, s->d, rows, 1);
    if (rc != LLM_OK) {
        return rc;
    }
    if (rows <= s->pos_offset || rows > LLM_MAX_CTX) {
        return llm_fail(b->err, LLM_E_FORMAT, "%s: tensor \"%.*s\" has %llu rows, allowed are %u "
                        "to %u", b->src->path, (int) pos.t.name.len, pos.t.name.data,
                        (unsigned long long) rows, s->pos_offset + 1, LLM_MAX_CTX);
    }
    s->n_pos = (uint32_t) rows;
    pos.rows = s->n_pos;
    if (m->info.n_ctx_train > s->n_pos - s->pos_offset) {
        m->info.n_ctx_train = s->n_pos - s->pos_offset;
    }
    return add_vector(b, &s->pos_table, &pos, 1, rows * s->d);
}

/* Final norm and head; without a head tensor the embedding serves. */
static llm_code_t
bind_head(llm_bind_t *b)
{
    llm_model_t *m = b->m;
    llm_src_tensor_t t;
    llm_code_t rc = bind_norm(b, &b->s->final_norm, LLM_ROLE_FINAL, 0, b->s->d, LLM_REQUIRED);
    if (rc != LLM_OK) {
        return rc;
    }
    if (llm_bind_find(b, LLM_ROLE_HEAD, 0, ".weight", &t)) {
        return bind_linear(b, &m->head, LLM_ROLE_HEAD, 0, m->info.n_vocab, b->s->d);
    }
    m->head = (llm_lin_t) {
        .n_parts = 1, .rows = m->info.n_vocab, .cols = b->s->d, .part = { m->embed },
    };
    return llm_bind_find(b, LLM_ROLE_HEAD, 0, ".bias", &t)
           ? add_tensor(b, &m->head.bias, &t, m->info.n_vocab) : LLM_OK;
}

/* name is pattern + ".weight" or ".bias", with digits for {i} and {e}. */
static bool
matches(const char *pattern, llm_span_t name)
{
    const char *p = name.data, *end = p + name.len;
    for (; *pattern != '\0'; pattern++) {
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

static llm_code_t
check_unused(llm_bind_t *b)
{
    llm_model_t *m = b->m;
    llm_src_tensor_t t;
    uint32_t n = 0;
    for (uint64_t i = 0; i < b->src->n_tensors; i++) {
        if (b->used[i]) {
            continue;
        }
        n++;
        b->src->tensor_at(b->src, i, &t);
        for (size_t r = 0; r < LLM_ROLE_COUNT; r++) {
            if (b->roles[r] != NULL && matches(b->roles[r], t.name)) {
                return llm_fail(b->err, LLM_E_UNSUPPORTED, "%s: tensor \"%.*s\" has no place in a "
                                "model of %u layers of the %s family", b->src->path,
                                (int) t.name.len, t.name.data, b->s->n_layers, b->arch->name);
            }
        }
    }
    if (n == 0) {
        return LLM_OK;
    }
    char **names = llm_meta_alloc(m, n, sizeof(*names));
    if (names == NULL) {
        return llm_fail(b->err, LLM_E_NOMEM, "%s: no memory for %u names", b->src->path, n);
    }
    m->unused = (const char *const *) names;
    for (uint64_t i = 0; i < b->src->n_tensors; i++) {
        if (b->used[i]) {
            continue;
        }
        b->src->tensor_at(b->src, i, &t);
        char *name = llm_meta_alloc(m, t.name.len + 1, 1);
        if (name == NULL) {
            return llm_fail(b->err, LLM_E_NOMEM, "%s: no memory for %u names", b->src->path, n);
        }
        memcpy(name, t.name.data, t.name.len);
        names[m->n_unused++] = name;
    }
    return LLM_OK;
}

llm_code_t
llm_bind(llm_model_t *m, llm_plan_t *plan, const llm_src_t *src, const llm_arch_t *arch,
         llm_err_t *err)
{
    llm_bind_t b = { .m = m, .s = &m->dec, .plan = plan, .src = src, .arch = arch, .err = err };
    b.used = calloc(src->n_tensors + 1, 1);
    if (b.used == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for %llu tensors", src->path,
                        (unsigned long long) src->n_tensors);
    }
    llm_code_t (*const steps[])(llm_bind_t *) = {
        llm_bind_settings, llm_bind_positions, bind_embedding, bind_layers, bind_head, check_unused,
    };
    llm_code_t rc = LLM_OK;
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]) && rc == LLM_OK; i++) {
        rc = steps[i](&b);
    }
    free(b.used);
    return rc;
}
