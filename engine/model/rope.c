/*
 * rope.c - tables of positions that are made when a model is bound: rotary frequencies and ALiBi
 * slopes.
 *
 * Formulas: spec models.md 3.4 and 3.5. Computed in double and rounded once to the floats that the
 * forward pass uses.
 */
#include "model/bind.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef enum { SCALING_NONE, SCALING_LINEAR, SCALING_YARN, SCALING_LONGROPE } scaling_t;

typedef struct {
    scaling_t kind;
    float     factor;           /* > 0 */
    float     attn_factor;      /* 0: not given */
    uint32_t  orig_ctx;         /* 0: not given */
    float     beta_fast, beta_slow;
} rope_conf_t;

void
llm_alibi_slopes(float *slopes, uint32_t n_heads, float max_bias)
{
    uint32_t p = 1;
    while (p * 2 <= n_heads) {
        p *= 2;
    }
    double m0 = exp2(-(double) max_bias / p), m1 = exp2(-(double) max_bias / (2.0 * p));
    for (uint32_t h = 0; h < n_heads; h++) {
        slopes[h] = (float) (h < p ? pow(m0, h + 1.0) : pow(m1, 2.0 * (h - p) + 1.0));
    }
}

/* ------------------------------------------------------------------ settings */

static llm_code_t
read_type(llm_bind_t *b, rope_conf_t *c)
{
    static const struct { const char *name; scaling_t kind; } types[] = {
        { "none", SCALING_NONE }, { "linear", SCALING_LINEAR }, { "yarn", SCALING_YARN },
        { "longrope", SCALING_LONGROPE },
    };
    llm_name_t name = llm_bind_key_name(b, LLM_KEY_ROPE_TYPE);
    llm_value_t v;
    b->src->value(b->src, name.s, &v);
    c->kind = SCALING_LINEAR;       /* without a type, a factor that is there is linear */
    if (v.kind == LLM_VALUE_NONE) {
        return LLM_OK;
    }
    if (v.kind != LLM_VALUE_STRING) {
        return llm_fail(b->err, LLM_E_FORMAT, "%s: key \"%s\" is not a string", b->src->path,
                        name.s);
    }
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        if (v.string.len == strlen(types[i].name) && memcmp(v.string.data, types[i].name,
                                                            v.string.len) == 0) {
            c->kind = types[i].kind;
            return LLM_OK;
        }
    }
    return llm_fail(b->err, LLM_E_UNSUPPORTED, "%s: key \"%s\": rotary scaling \"%.*s\" is not "
                    "supported", b->src->path, name.s,
                    (int) (v.string.len < 40 ? v.string.len : 40), v.string.data);
}

static llm_code_t
read_conf(llm_bind_t *b, rope_conf_t *c)
{
    llm_stack_t *s = b->s;
    *c = (rope_conf_t) { .factor = 1, .beta_fast = 32, .beta_slow = 1 };
    s->rope_theta = b->desc.theta;
    s->rope_factor = 1;
    s->rope_mscale = 1;
    s->n_rot = s->head_dim;

    llm_code_t rc = llm_bind_u32(b, LLM_KEY_ROT_DIM, LLM_OPTIONAL, 2, s->head_dim, &s->n_rot);
    if (rc == LLM_OK && s->n_rot % 2 != 0) {
        rc = llm_fail(b->err, LLM_E_FORMAT, "%s: %u rotated values of a head, must be even",
                      b->src->path, s->n_rot);
    }
    float ext = 1, log_mul = 0;
    const struct { llm_key_t key; float min, max; float *out; } floats[] = {
        { LLM_KEY_THETA, 1.001f, 1e12f, &s->rope_theta },
        { LLM_KEY_ROPE_FACTOR, 0, 1e6f, &c->factor },
        { LLM_KEY_ROPE_ATTN_FACTOR, 0, 1e3f, &c->attn_factor },
        { LLM_KEY_YARN_FAST, 1e-3f, 1e6f, &c->beta_fast },
        { LLM_KEY_YARN_SLOW, 1e-3f, 1e6f, &c->beta_slow },
        { LLM_KEY_YARN_EXT, -1, 1, &ext },
        { LLM_KEY_YARN_LOG_MUL, 0, 1e3f, &log_mul },
    };
    for (size_t i = 0; i < sizeof(floats) / sizeof(floats[0]) && rc == LLM_OK; i++) {
        rc = llm_bind_f32(b, floats[i].key, LLM_OPTIONAL, floats[i].min, floats[i].max,
                          floats[i].out);
    }
    if (rc == LLM_OK) {
        rc = llm_bind_u32(b, LLM_KEY_ROPE_ORIG, LLM_OPTIONAL, 0, LLM_MAX_CTX, &c->orig_ctx);
    }
    if (rc == LLM_OK) {
        rc = read_type(b, c);
    }
    if (rc == LLM_OK && c->kind == SCALING_YARN && ((ext >= 0 && ext != 1) || log_mul != 0)) {
        rc = llm_fail(b->err, LLM_E_UNSUPPORTED, "%s: yarn with \"%s\" %.9g and \"%s\" %.9g",
                      b->src->path, llm_bind_key_name(b, LLM_KEY_YARN_EXT).s, (double) ext,
                      llm_bind_key_name(b, LLM_KEY_YARN_LOG_MUL).s, (double) log_mul);
    }
    c->factor = c->factor > 0 ? c->factor : 1;
    return rc;
}

/* --------------------------------------------------------------- frequencies */

/* n divisors of the frequencies; *found false when the file has none. */
static llm_code_t
read_factors(llm_bind_t *b, llm_role_t role, float *dst, uint32_t n, bool *found)
{
    llm_src_tensor_t t;
    *found = llm_bind_find(b, role, 0, ".weight", &t);
    if (!*found) {
        return LLM_OK;
    }
    llm_name_t name = llm_bind_tensor_name(b, role, 0, 0, ".weight");
    if (t.ne[0] != n || t.ne[1] != 1 || t.ne[2] != 1 || t.ne[3] != 1) {
        return llm_fail(b->err, LLM_E_FORMAT, "%s: tensor \"%s\" has %llu values a row, expected "
                        "one row of %u", b->src->path, name.s, (unsigned long long) t.ne[0], n);
    }
    llm_code_t rc = llm_read_vector(b->src, &t, dst, n, b->err);
    for (uint32_t i = 0; i < n && rc == LLM_OK; i++) {
        if (!(dst[i] > 0 && dst[i] < 1e9f)) {
            rc = llm_fail(b->err, LLM_E_FORMAT, "%s: tensor \"%s\": value %u is %.9g, must be "
                          "positive", b->src->path, name.s, i, (double) dst[i]);
        }
    }
    return rc;
}

static void
yarn(llm_stack_t *s, const rope_conf_t *c, float *inv)
{
    double n = s->n_rot, theta = s->rope_theta, orig = c->orig_ctx;
    double lo = floor(n * log(orig / (c->beta_fast * 2 * M_PI)) / (2 * log(theta)));
    double hi = ceil(n * log(orig / (c->beta_slow * 2 * M_PI)) / (2 * log(theta)));
    lo = fmax(lo, 0);
    hi = fmin(hi, n - 1);
    for (uint32_t j = 0; j < s->n_rot / 2; j++) {
        double ramp = fmin(fmax((j - lo) / (hi != lo ? hi - lo : 0.001), 0), 1);
        inv[j] = (float) (inv[j] / (double) c->factor * ramp + inv[j] * (1 - ramp));
    }
    double given = c->attn_factor > 0 ? c->attn_factor : 1;
    s->rope_mscale = (float) (given * (c->factor > 1 ? 0.1 * log(c->factor) + 1 : 1));
}

/* Short and long factors; inv holds the plain frequencies and gets the short ones. */
static llm_code_t
longrope(llm_bind_t *b, const rope_conf_t *c, float *inv, float *inv_long, float *factors)
{
    llm_stack_t *s = b->s;
    uint32_t n = s->n_rot / 2;
    bool have_short;
    llm_code_t rc = read_factors(b, LLM_ROLE_ROPE_SHORT, factors, n, &have_short);
    if (rc != LLM_OK) {
        return rc;
    }
    if (!have_short || c->orig_ctx == 0) {
        return llm_fail(b->err, LLM_E_FORMAT, "%s: long rotary factors need %s \"%s\"",
                        b->src->path, have_short ? "key" : "tensor",
                        have_short ? llm_bind_key_name(b, LLM_KEY_ROPE_ORIG).s
                        : llm_bind_tensor_name(b, LLM_ROLE_ROPE_SHORT, 0, 0, ".weight").s);
    }
    for (uint32_t j = 0; j < n; j++) {
        inv_long[j] = (float) ((double) inv[j] / inv_long[j]);
        inv[j] = (float) ((double) inv[j] / factors[j]);
    }
    double ratio = (double) b->m->info.n_ctx_train / c->orig_ctx;
    s->rope_mscale = c->attn_factor > 0 ? c->attn_factor
                   : ratio > 1 && c->orig_ctx > 1
                   ? (float) sqrt(1 + log(ratio) / log(c->orig_ctx)) : 1;
    s->rope_orig_ctx = c->orig_ctx;
    s->rope_long = inv_long;
    return LLM_OK;
}

static llm_code_t
scale_frequencies(llm_bind_t *b, const rope_conf_t *c, float *inv, float *inv_long, float *factors)
{
    llm_stack_t *s = b->s;
    uint32_t n = s->n_rot / 2;
    bool found;

    llm_code_t rc = read_factors(b, LLM_ROLE_ROPE_LONG, inv_long, n, &found);
    if (rc != LLM_OK) {
        return rc;
    }
    if (found) {
        return longrope(b, c, inv, inv_long, factors);
    }
    if (c->kind == SCALING_LONGROPE) {
        return llm_fail(b->err, LLM_E_FORMAT, "%s: tensor \"%s\" is missing", b->src->path,
                        llm_bind_tensor_name(b, LLM_ROLE_ROPE_LONG, 0, 0, ".weight").s);
    }

    rc = read_factors(b, LLM_ROLE_ROPE_FREQS, factors, n, &found);
    for (uint32_t j = 0; j < n && rc == LLM_OK && found; j++) {
        inv[j] = (float) ((double) inv[j] / factors[j]);
    }
    if (rc == LLM_OK && c->kind == SCALING_LINEAR) {
        for (uint32_t j = 0; j < n; j++) {
            inv[j] = inv[j] / c->factor;
        }
    }
    if (rc == LLM_OK && c->kind == SCALING_YARN) {
        if (c->orig_ctx == 0) {
            return llm_fail(b->err, LLM_E_FORMAT, "%s: key \"%s\" is missing", b->src->path,
                            llm_bind_key_name(b, LLM_KEY_ROPE_ORIG).s);
        }
        yarn(s, c, inv);
    }
    return rc;
}

static llm_code_t
bind_rope(llm_bind_t *b)
{
    llm_stack_t *s = b->s;
    rope_conf_t c;
    llm_code_t rc = read_conf(b, &c);
    if (rc != LLM_OK) {
        return rc;
    }
    uint32_t n = s->n_rot / 2;
    float *inv = llm_meta_alloc(b->m, n, sizeof(float));
    float *inv_long = llm_meta_alloc(b->m, n, sizeof(float));
    float *factors = llm_meta_alloc(b->m, n, sizeof(float));
    if (inv == NULL || inv_long == NULL || factors == NULL) {
        return llm_fail(b->err, LLM_E_NOMEM, "%s: no memory for %u rotary frequencies",
                        b->src->path, n);
    }
    for (uint32_t j = 0; j < n; j++) {
        inv[j] = (float) (1.0 / pow(s->rope_theta, 2.0 * j / s->n_rot));
    }
    s->rope_inv = inv;
    return scale_frequencies(b, &c, inv, inv_long, factors);
}

static llm_code_t
bind_alibi(llm_bind_t *b)
{
    llm_stack_t *s = b->s;
    float max_bias = b->desc.alibi_max;
    llm_code_t rc = llm_bind_f32(b, LLM_KEY_ALIBI_MAX, LLM_OPTIONAL, 1e-3f, 1e3f, &max_bias);
    if (rc != LLM_OK) {
        return rc;
    }
    float *slopes = llm_meta_alloc(b->m, s->n_heads, sizeof(float));
    if (slopes == NULL) {
        return llm_fail(b->err, LLM_E_NOMEM, "%s: no memory for %u slopes", b->src->path,
                        s->n_heads);
    }
    llm_alibi_slopes(slopes, s->n_heads, max_bias);
    s->slopes = slopes;
    return LLM_OK;
}

llm_code_t
llm_bind_positions(llm_bind_t *b)
{
    switch (b->s->pos) {
    case LLM_POS_ROPE:
        return bind_rope(b);
    case LLM_POS_ALIBI:
        return bind_alibi(b);
    default:
        return LLM_OK;
    }
}
