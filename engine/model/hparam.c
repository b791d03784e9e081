/*
 * hparam.c - the settings of a model: rules of its family applied, numbers read and held to their
 * ranges.
 *
 * Every number in a file is untrusted: sizes are bounded here so that products of two of them fit
 * 64 bits with room, and the shapes of tensors are then checked against them (bind.c).
 */
#include "model/bind.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------ keys */

/* Alternative i of a pattern with {a} replaced; an empty string past the last one. */
static llm_name_t
key_alternative(const llm_bind_t *b, llm_key_t key, unsigned i)
{
    llm_name_t out = { "" };
    const char *p = b->keys[key];
    for (; p != NULL && i > 0; i--) {
        p = strchr(p, '|');
        p = p != NULL ? p + 1 : NULL;
    }
    size_t n = 0;
    while (p != NULL && *p != '\0' && *p != '|' && n < sizeof(out.s) - 1) {
        if (strncmp(p, "{a}", 3) == 0) {
            int len = snprintf(out.s + n, sizeof(out.s) - n, "%s", b->arch->name);
            n += (size_t) len;
            p += 3;
        } else {
            out.s[n++] = *p++;
        }
    }
    out.s[n < sizeof(out.s) ? n : sizeof(out.s) - 1] = '\0';
    return out;
}

llm_name_t
llm_bind_key_name(const llm_bind_t *b, llm_key_t key)
{
    return key_alternative(b, key, 0);
}

llm_value_t
llm_bind_value(const llm_bind_t *b, llm_key_t key, llm_name_t *name)
{
    llm_value_t v = { .kind = LLM_VALUE_NONE };
    llm_name_t n = { "" };
    for (unsigned i = 0; v.kind == LLM_VALUE_NONE; i++) {
        n = key_alternative(b, key, i);
        if (n.s[0] == '\0') {
            break;
        }
        b->src->value(b->src, n.s, &v);
    }
    if (name != NULL) {
        *name = n;
    }
    return v;
}

llm_value_t
llm_bind_element(const llm_bind_t *b, llm_key_t key, uint32_t i, llm_name_t *name)
{
    llm_name_t n, element = { "" };
    llm_value_t v = { .kind = LLM_VALUE_NONE };
    if (llm_bind_value(b, key, &n).kind != LLM_VALUE_NONE) {
        snprintf(element.s, sizeof(element.s), "%.150s.%u", n.s, i);
        b->src->value(b->src, element.s, &v);
    }
    if (name != NULL) {
        *name = element;
    }
    return v;
}

llm_code_t
llm_bind_number(llm_bind_t *b, llm_key_t key, double *out, bool *found)
{
    llm_name_t name;
    llm_value_t v = llm_bind_value(b, key, &name);
    *found = v.kind != LLM_VALUE_NONE && v.kind != LLM_VALUE_NULL;
    if (!*found) {
        return LLM_OK;
    }
    if (v.kind != LLM_VALUE_NUMBER) {
        return llm_fail(b->err, LLM_E_FORMAT, "%s: key \"%s\" is not a number", b->src->path,
                        name.s);
    }
    if (!v.uniform) {
        return llm_fail(b->err, LLM_E_UNSUPPORTED, "%s: key \"%s\" differs between layers",
                        b->src->path, name.s);
    }
    *out = v.number;
    return LLM_OK;
}

/* A number in [min, max]; whole: it must be an integer. */
static llm_code_t
ranged(llm_bind_t *b, llm_key_t key, llm_presence_t presence, double min, double max, bool whole,
       double *out, bool *found)
{
    double v = 0;
    llm_code_t rc = llm_bind_number(b, key, &v, found);
    if (rc != LLM_OK) {
        return rc;
    }
    if (!*found) {
        return presence != LLM_REQUIRED ? LLM_OK
            : llm_fail(b->err, LLM_E_FORMAT, "%s: key \"%s\" is missing", b->src->path,
                       llm_bind_key_name(b, key).s);
    }
    if (!(v >= min && v <= max) || (whole && v != floor(v))) {      /* NaN fails the first test */
        return llm_fail(b->err, LLM_E_FORMAT,
                        "%s: key \"%s\" is %.10g, allowed are %s%.10g to %.10g", b->src->path,
                        llm_bind_key_name(b, key).s, v, whole ? "integers from " : "", min, max);
    }
    *out = v;
    return LLM_OK;
}

llm_code_t
llm_bind_u32(llm_bind_t *b, llm_key_t key, llm_presence_t presence, uint32_t min, uint32_t max,
             uint32_t *out)
{
    double v = 0;
    bool found;
    llm_code_t rc = ranged(b, key, presence, min, max, true, &v, &found);
    if (rc == LLM_OK && found) {
        *out = (uint32_t) v;
    }
    return rc;
}

llm_code_t
llm_bind_f32(llm_bind_t *b, llm_key_t key, llm_presence_t presence, float min, float max,
             float *out)
{
    double v = 0;
    bool found;
    llm_code_t rc = ranged(b, key, presence, (double) min, (double) max, false, &v, &found);
    if (rc == LLM_OK && found) {
        *out = (float) v;
    }
    return rc;
}

llm_code_t
llm_bind_cap(llm_bind_t *b, llm_key_t key, float max, float *out)
{
    if (llm_bind_value(b, key, NULL).kind == LLM_VALUE_NULL) {
        *out = 0;
    }
    return llm_bind_f32(b, key, LLM_OPTIONAL, 0, max, out);
}

static bool
text_is(llm_span_t text, const char *s)
{
    return text.len == strlen(s) && memcmp(text.data, s, text.len) == 0;
}

/* ----------------------------------------------------------------- rules */

static bool
rule_holds(const llm_bind_t *b, const llm_rule_t *r)
{
    llm_src_tensor_t t;
    llm_value_t v;
    if (r->cond == LLM_IF_TENSOR) {
        return llm_bind_lookup(b, r->what, &t);
    }
    b->src->value(b->src, r->what, &v);
    switch (r->cond) {
    case LLM_IF_KEY_SET:
        return v.kind != LLM_VALUE_NONE && v.kind != LLM_VALUE_NULL;
    case LLM_IF_KEY_TEXT:
        return v.kind == LLM_VALUE_STRING && text_is(v.string, r->text);
    default:
        return v.kind == LLM_VALUE_NUMBER
               && (r->cond == LLM_IF_KEY_IS ? v.number == r->is : v.number > 0);
    }
}

static llm_code_t
apply_rules(llm_bind_t *b)
{
    b->desc = b->arch->desc;
    for (size_t i = 0; i < LLM_MAX_RULES && b->arch->rules[i].what != NULL; i++) {
        const llm_rule_t *r = &b->arch->rules[i];
        if (!rule_holds(b, r)) {
            continue;
        }
        if (r->refuse) {
            return llm_fail(b->err, LLM_E_UNSUPPORTED, "%s: this value of key \"%s\" is not "
                            "supported in the %s family", b->src->path, r->what, b->arch->name);
        }
        if (r->name != NULL) {
            b->roles[r->role] = r->name;
        } else {
            memcpy((char *) &b->desc + r->field, &r->value, sizeof(r->value));
        }
    }
    return LLM_OK;
}

/* -------------------------------------------------------------- settings */

/* A number that a family has no default for must be in the file. */
static llm_presence_t
needed(uint32_t fallback)
{
    return fallback > 0 ? LLM_OPTIONAL : LLM_REQUIRED;
}

static llm_code_t
read_heads(llm_bind_t *b)
{
    llm_stack_t *s = b->s;
    llm_code_t rc = llm_bind_u32(b, LLM_KEY_HEADS, LLM_REQUIRED, 1, LLM_MAX_HEADS, &s->n_heads);
    s->n_kv_heads = b->desc.kv_heads == LLM_KV_HEADS_ONE ? 1 : s->n_heads;
    s->head_dim = b->desc.head_dim;
    if (rc == LLM_OK && b->desc.kv_heads == LLM_KV_HEADS_KEY) {
        rc = llm_bind_u32(b, LLM_KEY_KV_HEADS, LLM_OPTIONAL, 1, LLM_MAX_HEADS, &s->n_kv_heads);
    }
    if (rc != LLM_OK) {
        return rc;
    }
    if (s->n_heads % s->n_kv_heads != 0) {
        return llm_fail(b->err, LLM_E_FORMAT, "%s: %u heads are not a multiple of %u key/value "
                        "heads", b->src->path, s->n_heads, s->n_kv_heads);
    }
    if (s->n_heads / s->n_kv_heads > LLM_MAX_GROUP) {
        return llm_fail(b->err, LLM_E_UNSUPPORTED, "%s: %u heads share a key/value head, at most "
                        "%u are supported", b->src->path, s->n_heads / s->n_kv_heads,
                        LLM_MAX_GROUP);
    }

    rc = llm_bind_u32(b, LLM_KEY_HEAD_DIM, LLM_OPTIONAL, 1, LLM_MAX_DIM, &s->head_dim);
    if (rc == LLM_OK && s->head_dim == 0) {
        if (s->d % s->n_heads != 0) {
            return llm_fail(b->err, LLM_E_FORMAT, "%s: embedding length %u is not a multiple of %u "
                            "heads", b->src->path, s->d, s->n_heads);
        }
        s->head_dim = s->d / s->n_heads;
    }
    uint32_t v_dim = s->head_dim;
    if (rc == LLM_OK) {
        rc = llm_bind_u32(b, LLM_KEY_V_HEAD_DIM, LLM_OPTIONAL, 1, LLM_MAX_DIM, &v_dim);
    }
    if (rc == LLM_OK && v_dim != s->head_dim) {
        rc = llm_fail(b->err, LLM_E_UNSUPPORTED, "%s: value heads of %u and key heads of %u values",
                      b->src->path, v_dim, s->head_dim);
    }
    bool fits = s->head_dim >= LLM_MIN_HEAD_DIM && s->head_dim <= LLM_MAX_HEAD_DIM
                && s->head_dim % 2 == 0;
    if (rc == LLM_OK && !fits) {
        rc = llm_fail(b->err, LLM_E_UNSUPPORTED, "%s: heads of %u values, supported are even sizes "
                      "from %u to %u", b->src->path, s->head_dim, LLM_MIN_HEAD_DIM,
                      LLM_MAX_HEAD_DIM);
    }
    return rc;
}

static llm_code_t
read_experts(llm_bind_t *b)
{
    llm_stack_t *s = b->s;
    if (b->desc.ff != LLM_FF_MOE) {
        return LLM_OK;
    }
    s->n_experts = b->desc.experts;
    s->n_experts_used = b->desc.experts_used;
    llm_code_t rc = llm_bind_u32(b, LLM_KEY_EXPERTS, needed(s->n_experts), 1, LLM_MAX_EXPERTS,
                                 &s->n_experts);
    return rc != LLM_OK ? rc : llm_bind_u32(b, LLM_KEY_EXPERTS_USED, needed(s->n_experts_used), 1,
                                            s->n_experts, &s->n_experts_used);
}

/* Scales and caps. */
static llm_code_t
read_scales(llm_bind_t *b)
{
    llm_model_t *m = b->m;
    llm_stack_t *s = b->s;
    const llm_desc_t *d = &b->desc;
    uint32_t width = d->attn_scale == LLM_SCALE_KEY ? d->query_scale
                   : d->attn_scale == LLM_SCALE_ONE ? 1
                   : d->attn_scale == LLM_SCALE_D_PER_HEAD ? s->d / s->n_heads : s->head_dim;
    llm_code_t rc = d->attn_scale != LLM_SCALE_KEY ? LLM_OK
                  : llm_bind_u32(b, LLM_KEY_QUERY_SCALE, LLM_OPTIONAL, 1, LLM_MAX_DIM, &width);
    s->attn_scale = (float) (1.0 / sqrt((double) width));
    s->emb_scale = d->emb_sqrt_d ? (float) sqrt((double) s->d) : 1.0f;
    s->score_cap = d->score_cap;
    m->logit_cap = d->logit_cap;
    m->logit_scale = 1.0f;
    if (rc == LLM_OK) {
        rc = llm_bind_cap(b, LLM_KEY_SCORE_CAP, 1e9f, &s->score_cap);
    }
    if (rc == LLM_OK) {
        rc = llm_bind_cap(b, LLM_KEY_LOGIT_CAP, 1e9f, &m->logit_cap);
    }
    if (rc == LLM_OK) {
        rc = llm_bind_cap(b, LLM_KEY_CLIP_QKV, 1e9f, &s->clip_qkv);
    }
    return rc;
}

/* The activation by its name, which for T5 also says whether the MLP is gated (spec 3.2, 2.4). */
static llm_code_t
read_activation(llm_bind_t *b)
{
    static const struct { const char *name; llm_actfn_t act; bool gated; } acts[] = {
        { "relu", LLM_ACT_RELU, false }, { "silu", LLM_ACT_SILU, false },
        { "swish", LLM_ACT_SILU, false }, { "gelu", LLM_ACT_GELU, false },
        { "gelu_new", LLM_ACT_GELU_TANH, false }, { "gelu_fast", LLM_ACT_GELU_TANH, false },
        { "gelu_pytorch_tanh", LLM_ACT_GELU_TANH, false },
        { "gated-relu", LLM_ACT_RELU, true }, { "gated-silu", LLM_ACT_SILU, true },
        { "gated-gelu", LLM_ACT_GELU_TANH, true },
    };
    llm_name_t name;
    llm_value_t v = llm_bind_value(b, LLM_KEY_ACT, &name);
    if (v.kind == LLM_VALUE_NONE || v.kind == LLM_VALUE_NULL) {
        return LLM_OK;
    }
    if (v.kind != LLM_VALUE_STRING) {
        return llm_fail(b->err, LLM_E_FORMAT, "%s: key \"%s\" is not a string", b->src->path,
                        name.s);
    }
    for (size_t i = 0; i < sizeof(acts) / sizeof(acts[0]); i++) {
        if (text_is(v.string, acts[i].name)) {
            b->desc.act = acts[i].act;
            b->desc.ff = acts[i].gated ? LLM_FF_GATED : b->desc.ff;
            return LLM_OK;
        }
    }
    return llm_fail(b->err, LLM_E_UNSUPPORTED, "%s: key \"%s\": activation \"%.*s\" is not "
                    "supported", b->src->path, name.s,
                    (int) (v.string.len < 40 ? v.string.len : 40), v.string.data);
}

/* Layers and widths. */
static llm_code_t
read_sizes(llm_bind_t *b)
{
    llm_stack_t *s = b->s;
    uint32_t ratio = b->desc.ff_ratio;
    llm_code_t rc = llm_bind_u32(b, LLM_KEY_LAYERS, LLM_REQUIRED, 1, LLM_MAX_LAYERS, &s->n_layers);
    if (rc == LLM_OK) {
        rc = llm_bind_u32(b, LLM_KEY_D, LLM_REQUIRED, 1, LLM_MAX_DIM, &s->d);
    }
    if (rc == LLM_OK) {
        rc = llm_bind_u32(b, LLM_KEY_FF_RATIO, LLM_OPTIONAL, 1, 64, &ratio);
    }
    if (rc != LLM_OK) {
        return rc;
    }
    s->ff = ratio * s->d;
    rc = llm_bind_u32(b, LLM_KEY_FF, needed(s->ff), 1, LLM_MAX_DIM, &s->ff);
    if (rc == LLM_OK && s->ff > LLM_MAX_DIM) {
        rc = llm_fail(b->err, LLM_E_FORMAT, "%s: MLP of %u values, at most %u are supported",
                      b->src->path, s->ff, LLM_MAX_DIM);
    }
    b->m->info.n_ctx_train = b->desc.max_pos;
    return rc != LLM_OK ? rc : llm_bind_u32(b, LLM_KEY_MAX_POS, needed(b->desc.max_pos), 1,
                                            LLM_MAX_CTX, &b->m->info.n_ctx_train);
}

llm_code_t
llm_bind_settings(llm_bind_t *b)
{
    static const llm_mlp_t mlp[] = {
        [LLM_FF_PLAIN] = LLM_MLP_PLAIN, [LLM_FF_GATED] = LLM_MLP_GATED,
        [LLM_FF_GATED_FUSED] = LLM_MLP_GATED,
        [LLM_FF_MOE] = LLM_MLP_MOE,
    };
    llm_stack_t *s = b->s;
    llm_code_t rc = apply_rules(b);
    if (rc == LLM_OK) {
        rc = read_activation(b);
    }
    if (rc != LLM_OK) {
        return rc;
    }
    s->norm = (llm_norm_kind_t) b->desc.norm;
    s->qk_norm = s->norm;
    s->topology = (llm_topology_t) b->desc.topology;
    s->pos = (llm_pos_t) b->desc.pos;
    s->pos_offset = b->desc.pos_offset;
    s->rope_half = b->desc.rope_half != 0;
    s->alibi_scaled_bf16 = b->desc.alibi_bf16 != 0;
    s->mlp = mlp[b->desc.ff];
    s->act = (llm_actfn_t) b->desc.act;
    s->causal = s == &b->m->dec;
    s->eps = b->desc.eps;

    llm_key_t eps = s->norm == LLM_NORM_RMS ? LLM_KEY_EPS_RMS : LLM_KEY_EPS_LAYER;
    rc = read_sizes(b);
    if (rc == LLM_OK) {
        rc = llm_bind_f32(b, eps, s->eps > 0 ? LLM_OPTIONAL : LLM_REQUIRED, 0, 1, &s->eps);
    }
    if (rc == LLM_OK) {
        rc = read_heads(b);
    }
    if (rc == LLM_OK) {
        rc = read_experts(b);
    }
    return rc == LLM_OK ? read_scales(b) : rc;
}

llm_code_t
llm_bind_specials(llm_bind_t *b)
{
    llm_model_t *m = b->m;
    const struct { llm_key_t key; int32_t *id; int32_t fallback; } ids[] = {
        { LLM_KEY_DEC_START, &m->decoder_start_id, (int32_t) b->desc.decoder_start },
        { LLM_KEY_FORCED_BOS, &m->forced_bos_id, -1 },
        { LLM_KEY_FORCED_EOS, &m->forced_eos_id, -1 },
    };
    llm_code_t rc = LLM_OK;
    for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]) && rc == LLM_OK; i++) {
        uint32_t id = UINT32_MAX;
        if (m->enc.n_layers > 0) {
            rc = llm_bind_u32(b, ids[i].key, LLM_OPTIONAL, 0, m->info.n_vocab - 1, &id);
            *ids[i].id = id != UINT32_MAX ? (int32_t) id : ids[i].fallback;
        }
    }
    if (rc == LLM_OK && m->decoder_start_id >= (int32_t) m->info.n_vocab) {
        rc = llm_fail(b->err, LLM_E_FORMAT, "%s: a vocabulary of %u has no token %d to start with",
                      b->src->path, m->info.n_vocab, m->decoder_start_id);
    }
    return rc;
}
