/*
 * layer.c - the layers of a stack: which tensors attention, MLP, experts and cross-attention need.
 *
 * Sizes come from the settings (hparam.c). q, k and v become one linear, gate and up another.
 */
#include "model/bind.h"

#include <string.h>

/* --------------------------------------------------------------- attention */

/* q, k and v in one tensor, whose rows may be in another order than ours. */
static llm_code_t
bind_fused(llm_bind_t *b, llm_lin_t *lin, uint32_t i)
{
    const llm_stack_t *s = b->s;
    llm_part_t part;
    if (b->desc.qkv == LLM_QKV_CODEGEN && s->n_heads % 4 != 0) {
        return llm_fail(b->err, LLM_E_FORMAT, "%s: %u heads are not a multiple of the 4 blocks of "
                        "the %s family", b->src->path, s->n_heads, b->arch->name);
    }
    uint32_t rows = (s->n_heads + 2 * s->n_kv_heads) * s->head_dim;
    llm_code_t rc = llm_bind_part(b, &part, LLM_ROLE_QKV, i, 0, rows, s->d);
    part.order = (llm_order_t) { (llm_qkv_t) b->desc.qkv, s->n_heads, s->n_kv_heads, s->head_dim };
    return rc == LLM_OK ? llm_bind_parts(b, lin, &part, 1, s->d) : rc;
}

static llm_code_t
bind_split(llm_bind_t *b, llm_lin_t *lin, uint32_t i)
{
    const llm_stack_t *s = b->s;
    uint32_t q = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim;
    const uint32_t rows[] = { q, kv, kv };
    llm_part_t part[3];
    llm_code_t rc = LLM_OK;
    for (uint32_t r = 0; r < 3 && rc == LLM_OK; r++) {
        rc = llm_bind_part(b, &part[r], (llm_role_t) (LLM_ROLE_Q + r), i, 0, rows[r], s->d);
    }
    return rc == LLM_OK ? llm_bind_parts(b, lin, part, 3, s->d) : rc;
}

static llm_code_t
bind_attention(llm_bind_t *b, llm_layer_t *l, uint32_t i)
{
    const llm_stack_t *s = b->s;
    bool fused = b->desc.qkv != LLM_QKV_SPLIT
                 && (llm_bind_has(b, LLM_ROLE_QKV, i, 0, ".weight")
                     || !llm_bind_has(b, LLM_ROLE_Q, i, 0, ".weight"));
    llm_code_t rc = fused ? bind_fused(b, &l->qkv, i) : bind_split(b, &l->qkv, i);
    if (rc == LLM_OK) {
        rc = llm_bind_norm(b, &l->qn, LLM_ROLE_QN, i, s->head_dim, b->desc.qk_norm);
    }
    if (rc == LLM_OK) {
        rc = llm_bind_norm(b, &l->kn, LLM_ROLE_KN, i, s->head_dim, b->desc.qk_norm);
    }
    return rc == LLM_OK ? llm_bind_linear(b, &l->o, LLM_ROLE_O, i, s->d, s->n_heads * s->head_dim)
                        : rc;
}

/* Queries of this stack, keys and values of the encoder's output. */
static llm_code_t
bind_cross(llm_bind_t *b, llm_layer_t *l, uint32_t i)
{
    const llm_stack_t *s = b->s;
    uint32_t width = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim;
    uint32_t d_enc = b->m->enc.d;
    llm_part_t part[2];
    llm_code_t rc = llm_bind_norm(b, &l->xn, LLM_ROLE_XN, i, s->d, LLM_REQUIRED);
    if (rc == LLM_OK) {
        rc = llm_bind_linear(b, &l->xq, LLM_ROLE_XQ, i, width, s->d);
    }
    if (rc == LLM_OK) {
        rc = llm_bind_part(b, &part[0], LLM_ROLE_XK, i, 0, kv, d_enc);
    }
    if (rc == LLM_OK) {
        rc = llm_bind_part(b, &part[1], LLM_ROLE_XV, i, 0, kv, d_enc);
    }
    if (rc == LLM_OK) {
        rc = llm_bind_parts(b, &l->xkv, part, 2, d_enc);
    }
    return rc == LLM_OK ? llm_bind_linear(b, &l->xo, LLM_ROLE_XO, i, s->d, width) : rc;
}

/* --------------------------------------------------------------------- MLP */

/* Expert e of one projection: a slab of the stacked tensor, or a tensor of its own. */
static llm_code_t
expert_part(llm_bind_t *b, llm_part_t *p, llm_role_t stacked, llm_role_t single, uint32_t layer,
            uint32_t e, uint32_t rows, uint32_t cols)
{
    *p = (llm_part_t) { .rows = rows, .row0 = (uint64_t) e * rows };
    if (llm_bind_find(b, stacked, layer, ".weight", &p->w)) {
        return llm_bind_shape(b, &p->w, cols, rows, b->s->n_experts);
    }
    bool alone = b->roles[stacked] == NULL || llm_bind_has(b, single, layer, 0, ".weight");
    return alone ? llm_bind_part(b, p, single, layer, e, rows, cols)
                 : llm_bind_missing(b, stacked, layer, e);
}

static llm_code_t
bind_experts(llm_bind_t *b, llm_layer_t *l, uint32_t i)
{
    const llm_stack_t *s = b->s;
    llm_code_t rc = llm_bind_linear(b, &l->router, LLM_ROLE_ROUTER, i, s->n_experts, s->d);
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
        llm_part_t in[2], out;
        rc = expert_part(b, &in[0], LLM_ROLE_GATE_EXPS, LLM_ROLE_GATE_EXP, i, e, s->ff, s->d);
        if (rc == LLM_OK) {
            rc = expert_part(b, &in[1], LLM_ROLE_UP_EXPS, LLM_ROLE_UP_EXP, i, e, s->ff, s->d);
        }
        if (rc == LLM_OK) {
            rc = expert_part(b, &out, LLM_ROLE_DOWN_EXPS, LLM_ROLE_DOWN_EXP, i, e, s->d, s->ff);
        }
        if (rc == LLM_OK) {
            rc = llm_bind_parts(b, &l->exp_in[e], in, 2, s->d);
        }
        if (rc == LLM_OK) {
            rc = llm_bind_parts(b, &l->exp_out[e], &out, 1, s->ff);
        }
    }
    return rc;
}

static llm_code_t
bind_mlp(llm_bind_t *b, llm_layer_t *l, uint32_t i)
{
    const llm_stack_t *s = b->s;
    llm_part_t part[2];
    llm_code_t rc;
    switch ((llm_ff_t) b->desc.ff) {
    case LLM_FF_MOE:
        return bind_experts(b, l, i);
    case LLM_FF_GATED:
        rc = llm_bind_part(b, &part[0], LLM_ROLE_GATE, i, 0, s->ff, s->d);
        if (rc == LLM_OK) {
            rc = llm_bind_part(b, &part[1], LLM_ROLE_UP, i, 0, s->ff, s->d);
        }
        if (rc == LLM_OK) {
            rc = llm_bind_parts(b, &l->ffn_in, part, 2, s->d);
        }
        break;
    case LLM_FF_GATED_FUSED:
        rc = llm_bind_linear(b, &l->ffn_in, LLM_ROLE_UP, i, 2 * s->ff, s->d);
        break;
    default:
        rc = llm_bind_linear(b, &l->ffn_in, LLM_ROLE_UP, i, s->ff, s->d);
    }
    return rc == LLM_OK ? llm_bind_linear(b, &l->ffn_out, LLM_ROLE_DOWN, i, s->d, s->ff) : rc;
}

/* ------------------------------------------------------------------- layers */

/* Whether layer i uses the window: the file may say so for each layer, else the family does. */
static llm_code_t
has_window(llm_bind_t *b, uint32_t i, uint32_t from, bool *out)
{
    llm_name_t name;
    llm_value_t v = llm_bind_element(b, LLM_KEY_LAYER_TYPES, i, &name);
    uint32_t kind = b->desc.window;
    *out = kind == LLM_WINDOW_ALL || (kind == LLM_WINDOW_EVEN && i % 2 == 0)
           || (kind == LLM_WINDOW_FROM && i >= from);
    if (v.kind != LLM_VALUE_STRING || kind == LLM_WINDOW_NONE) {
        return LLM_OK;
    }
    static const char sliding[] = "sliding_attention", full[] = "full_attention";
    *out = v.string.len == sizeof(sliding) - 1 && memcmp(v.string.data, sliding,
                                                         v.string.len) == 0;
    if (*out || (v.string.len == sizeof(full) - 1 && memcmp(v.string.data, full,
                                                            v.string.len) == 0))
    {
        return LLM_OK;
    }
    return llm_fail(b->err, LLM_E_UNSUPPORTED, "%s: key \"%s\" is \"%.*s\", supported are \"%s\" "
                    "and \"%s\"", b->src->path, name.s,
                    (int) (v.string.len < 40 ? v.string.len : 40), v.string.data, sliding, full);
}

/* Likewise whether it is rotated. */
static bool
is_rotated(const llm_bind_t *b, uint32_t i, uint32_t nope_interval)
{
    llm_value_t v = llm_bind_element(b, LLM_KEY_ROPE_LAYERS, i, NULL);
    if (b->s->pos != LLM_POS_ROPE) {
        return false;
    }
    return v.kind == LLM_VALUE_NUMBER ? v.number != 0
                                      : nope_interval == 0 || (i + 1) % nope_interval != 0;
}

static llm_code_t
bind_layer(llm_bind_t *b, llm_layer_t *l, uint32_t i)
{
    const llm_stack_t *s = b->s;
    llm_presence_t post = s->topology == LLM_TOPO_SANDWICH ? LLM_REQUIRED : LLM_ABSENT;
    llm_presence_t second = s->topology == LLM_TOPO_PARALLEL ? LLM_ABSENT : LLM_REQUIRED;

    llm_code_t rc = llm_bind_norm(b, &l->n1, LLM_ROLE_N1, i, s->d, LLM_REQUIRED);
    if (rc == LLM_OK) {
        rc = llm_bind_norm(b, &l->n2, LLM_ROLE_N2, i, s->d, second);
    }
    if (rc == LLM_OK) {
        rc = llm_bind_norm(b, &l->pn1, LLM_ROLE_PN1, i, s->d, post);
    }
    if (rc == LLM_OK) {
        rc = llm_bind_norm(b, &l->pn2, LLM_ROLE_PN2, i, s->d, post);
    }
    if (rc == LLM_OK) {
        rc = bind_attention(b, l, i);
    }
    if (rc == LLM_OK && s->causal && b->m->enc.n_layers > 0) {
        rc = bind_cross(b, l, i);
    }
    return rc == LLM_OK ? bind_mlp(b, l, i) : rc;
}

llm_code_t
llm_bind_layers(llm_bind_t *b)
{
    llm_stack_t *s = b->s;
    uint32_t window = b->desc.window_size, from = b->desc.window_from;
    uint32_t nope_interval = b->desc.nope_interval;
    llm_code_t rc = LLM_OK;
    if (b->desc.window != LLM_WINDOW_NONE) {
        bool null = llm_bind_value(b, LLM_KEY_WINDOW, NULL).kind == LLM_VALUE_NULL;
        window = null ? 0 : window;
        rc = llm_bind_u32(b, LLM_KEY_WINDOW, LLM_OPTIONAL, 0, LLM_MAX_CTX, &window);
    }
    if (rc == LLM_OK && b->desc.window == LLM_WINDOW_FROM) {
        rc = llm_bind_u32(b, LLM_KEY_WINDOW_FROM, LLM_OPTIONAL, 0, LLM_MAX_LAYERS, &from);
    }
    if (rc == LLM_OK && nope_interval > 0) {
        rc = llm_bind_u32(b, LLM_KEY_NOPE_INTERVAL, LLM_OPTIONAL, 1, LLM_MAX_LAYERS,
                          &nope_interval);
    }
    s->layers = llm_meta_alloc(b->m, s->n_layers, sizeof(*s->layers));
    if (rc == LLM_OK && s->layers == NULL) {
        rc = llm_fail(b->err, LLM_E_NOMEM, "%s: no memory for %u layers", b->src->path,
                      s->n_layers);
    }
    for (uint32_t i = 0; i < s->n_layers && rc == LLM_OK; i++) {
        llm_layer_t *l = &s->layers[i];
        bool windowed = false;
        rc = has_window(b, i, from, &windowed);
        l->window = windowed ? window : 0;
        l->rotate = is_rotated(b, i, nope_interval);
        if (rc == LLM_OK) {
            rc = bind_layer(b, l, i);
        }
    }
    return rc;
}
