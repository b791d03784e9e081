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
    const char *p = b->arch->keys[key];
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

/* The value of the first alternative that is present; *name is that alternative. */
static llm_value_t
key_value(const llm_bind_t *b, llm_key_t key, llm_name_t *name)
{
    llm_value_t v = { .kind = LLM_VALUE_NONE };
    for (unsigned i = 0; v.kind == LLM_VALUE_NONE; i++) {
        *name = key_alternative(b, key, i);
        if (name->s[0] == '\0') {
            break;
        }
        b->src->value(b->src, name->s, &v);
    }
    return v;
}

llm_code_t
llm_bind_number(llm_bind_t *b, llm_key_t key, double *out, bool *found)
{
    llm_name_t name;
    llm_value_t v = key_value(b, key, &name);
    *found = v.kind != LLM_VALUE_NONE;
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
        return llm_fail(b->err, LLM_E_FORMAT, "%s: key \"%s\" is %.10g, allowed are %s%.10g to %.10g",
                        b->src->path, llm_bind_key_name(b, key).s, v, whole ? "integers from " : "",
                        min, max);
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

/* ----------------------------------------------------------------- rules */

static bool
rule_holds(const llm_bind_t *b, const llm_rule_t *r)
{
    llm_src_tensor_t t;
    llm_value_t v;
    if (r->cond == LLM_IF_TENSOR) {
        return b->src->tensor(b->src, r->what, &t);
    }
    b->src->value(b->src, r->what, &v);
    return v.kind == LLM_VALUE_NUMBER
           && (r->cond == LLM_IF_KEY_IS ? v.number == r->is : v.number > 0);
}

static void
apply_rules(llm_bind_t *b)
{
    b->desc = b->arch->desc;
    memcpy(b->roles, b->arch->roles, sizeof(b->roles));
    for (size_t i = 0; i < LLM_MAX_RULES && b->arch->rules[i].what != NULL; i++) {
        const llm_rule_t *r = &b->arch->rules[i];
        if (!rule_holds(b, r)) {
            continue;
        }
        if (r->name != NULL) {
            b->roles[r->role] = r->name;
        } else {
            memcpy((char *) &b->desc + r->field, &r->value, sizeof(r->value));
        }
    }
}

/* -------------------------------------------------------------- settings */

static llm_code_t
read_heads(llm_bind_t *b)
{
    llm_stack_t *s = b->s;
    llm_code_t rc = llm_bind_u32(b, LLM_KEY_HEADS, LLM_REQUIRED, 1, LLM_MAX_HEADS, &s->n_heads);
    s->n_kv_heads = s->n_heads;
    if (rc == LLM_OK) {
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
    llm_code_t rc = llm_bind_u32(b, LLM_KEY_EXPERTS, LLM_REQUIRED, 1, LLM_MAX_EXPERTS,
                                 &s->n_experts);
    return rc != LLM_OK ? rc : llm_bind_u32(b, LLM_KEY_EXPERTS_USED, LLM_REQUIRED, 1, s->n_experts,
                                            &s->n_experts_used);
}

/* Scales and caps. */
static llm_code_t
read_scales(llm_bind_t *b)
{
    llm_model_t *m = b->m;
    llm_stack_t *s = b->s;
    const llm_desc_t *d = &b->desc;

    uint32_t width = d->attn_scale == LLM_SCALE_D_PER_HEAD ? s->d / s->n_heads : s->head_dim;
    s->attn_scale = (float) (1.0 / sqrt((double) width));
    s->emb_scale = d->emb_sqrt_d ? (float) sqrt((double) s->d) : 1.0f;
    s->score_cap = d->score_cap;
    m->logit_cap = d->logit_cap;
    m->logit_scale = 1.0f;

    llm_code_t rc = llm_bind_f32(b, LLM_KEY_SCORE_CAP, LLM_OPTIONAL, 0, 1e9f, &s->score_cap);
    if (rc == LLM_OK) {
        rc = llm_bind_f32(b, LLM_KEY_LOGIT_CAP, LLM_OPTIONAL, 0, 1e9f, &m->logit_cap);
    }
    if (rc == LLM_OK) {
        rc = llm_bind_f32(b, LLM_KEY_CLIP_QKV, LLM_OPTIONAL, 0, 1e9f, &s->clip_qkv);
    }
    return rc;
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
    apply_rules(b);
    s->norm = (llm_norm_kind_t) b->desc.norm;
    s->qk_norm = s->norm;
    s->topology = (llm_topology_t) b->desc.topology;
    s->pos = (llm_pos_t) b->desc.pos;
    s->pos_offset = b->desc.pos_offset;
    s->rope_half = b->desc.rope_half != 0;
    s->mlp = mlp[b->desc.ff];
    s->act = (llm_actfn_t) b->desc.act;
    s->causal = true;

    llm_key_t eps = s->norm == LLM_NORM_RMS ? LLM_KEY_EPS_RMS : LLM_KEY_EPS_LAYER;
    const struct { llm_key_t key; uint32_t max; uint32_t *out; } counts[] = {
        { LLM_KEY_LAYERS, LLM_MAX_LAYERS, &s->n_layers },
        { LLM_KEY_D, LLM_MAX_DIM, &s->d },
        { LLM_KEY_FF, LLM_MAX_DIM, &s->ff },
        { LLM_KEY_MAX_POS, LLM_MAX_CTX, &b->m->info.n_ctx_train },
    };
    llm_code_t rc = LLM_OK;
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]) && rc == LLM_OK; i++) {
        rc = llm_bind_u32(b, counts[i].key, LLM_REQUIRED, 1, counts[i].max, counts[i].out);
    }
    if (rc == LLM_OK) {
        rc = llm_bind_f32(b, eps, LLM_REQUIRED, 0, 1, &s->eps);
    }
    if (rc == LLM_OK) {
        rc = read_heads(b);
    }
    if (rc == LLM_OK) {
        rc = read_experts(b);
    }
    return rc == LLM_OK ? read_scales(b) : rc;
}
