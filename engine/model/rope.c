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

typedef enum {
    SCALING_NONE, SCALING_LINEAR, SCALING_DYNAMIC, SCALING_LLAMA3, SCALING_YARN, SCALING_LONGROPE
} scaling_t;

typedef struct {
    scaling_t kind;
    float     factor;           /* > 0 */
    float     attn_factor;      /* times what the scaling gives; 0: not given */
    float     mscale;           /* instead of that; 0: not given */
    uint32_t  orig_ctx;         /* 0: not given */
    float     beta_fast, beta_slow;
    float     yarn_mscale, yarn_mscale_all;     /* 0: not given */
    bool      truncate;         /* yarn: bounds of the ramp are whole numbers */
    float     low_freq, high_freq;              /* llama3; 0: not given */
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
        { "none", SCALING_NONE }, { "default", SCALING_NONE }, { "linear", SCALING_LINEAR },
        { "dynamic", SCALING_DYNAMIC }, { "llama3", SCALING_LLAMA3 }, { "yarn", SCALING_YARN },
        { "longrope", SCALING_LONGROPE }, { "su", SCALING_LONGROPE },
    };
    llm_name_t name;
    llm_value_t v = llm_bind_value(b, LLM_KEY_ROPE_TYPE, &name);
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
            /* Phi-3 once called its long factors yarn */
            bool arrays = llm_bind_value(b, LLM_KEY_ROPE_LONG, NULL).kind != LLM_VALUE_NONE;
            c->kind = types[i].kind == SCALING_YARN && arrays ? SCALING_LONGROPE : types[i].kind;
            return LLM_OK;
        }
    }
    return llm_fail(b->err, LLM_E_UNSUPPORTED, "%s: key \"%s\": rotary scaling \"%.*s\" is not "
                    "supported", b->src->path, name.s,
                    (int) (v.string.len < 40 ? v.string.len : 40), v.string.data);
}

/* Values of a head that rotate: a count, or a part of the head cut to a whole number. */
static llm_code_t
read_n_rot(llm_bind_t *b)
{
    llm_stack_t *s = b->s;
    float part = b->desc.rot_part > 0 ? b->desc.rot_part : 1;
    uint32_t n = 0;
    llm_code_t rc = llm_bind_f32(b, LLM_KEY_ROT_PART, LLM_OPTIONAL, 0, 1, &part);
    if (rc == LLM_OK) {
        rc = llm_bind_u32(b, LLM_KEY_ROT_DIM, LLM_OPTIONAL, 0, s->head_dim, &n);
    }
    s->n_rot = n > 0 ? n : (uint32_t) ((double) s->head_dim * (double) part);
    if (rc == LLM_OK && (s->n_rot % 2 != 0 || s->n_rot == 0)) {
        rc = llm_fail(b->err, LLM_E_FORMAT, "%s: %u rotated values of a head, must be even",
                      b->src->path, s->n_rot);
    }
    return rc;
}

static llm_code_t
read_conf(llm_bind_t *b, rope_conf_t *c)
{
    llm_stack_t *s = b->s;
    *c = (rope_conf_t) { .factor = 1, .beta_fast = 32, .beta_slow = 1, .truncate = true };
    s->rope_theta = b->desc.theta;
    s->rope_factor = 1;
    s->rope_mscale = 1;

    llm_code_t rc = read_n_rot(b);
    float ext = 1, log_mul = 0, truncate = 1;
    const struct { llm_key_t key; float min, max; float *out; } floats[] = {
        { LLM_KEY_THETA, 1.001f, 1e12f, &s->rope_theta },
        { LLM_KEY_ROPE_FACTOR, 0, 1e6f, &c->factor },
        { LLM_KEY_ROPE_ATTN_FACTOR, 0, 1e3f, &c->attn_factor },
        { LLM_KEY_ROPE_MSCALE, 0, 1e3f, &c->mscale },
        { LLM_KEY_LLAMA3_LOW, 1e-3f, 1e6f, &c->low_freq },
        { LLM_KEY_LLAMA3_HIGH, 1e-3f, 1e6f, &c->high_freq },
        { LLM_KEY_YARN_FAST, 1e-3f, 1e6f, &c->beta_fast },
        { LLM_KEY_YARN_SLOW, 1e-3f, 1e6f, &c->beta_slow },
        { LLM_KEY_YARN_EXT, -1, 1, &ext },
        { LLM_KEY_YARN_LOG_MUL, 0, 1e3f, &log_mul },
        { LLM_KEY_YARN_MSCALE, 0, 1e3f, &c->yarn_mscale },
        { LLM_KEY_YARN_MSCALE_ALL, 0, 1e3f, &c->yarn_mscale_all },
        { LLM_KEY_YARN_TRUNCATE, 0, 1, &truncate },
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
    c->truncate = truncate != 0;
    return rc;
}

/* --------------------------------------------------------------- frequencies */

static llm_code_t
check_factor(llm_bind_t *b, const char *what, const char *name, uint32_t i, double v)
{
    return v > 0 && v < 1e9 ? LLM_OK
           : llm_fail(b->err, LLM_E_FORMAT, "%s: %s \"%s\": value %u is %.9g, must be positive",
                      b->src->path, what, name, i, v);
}

/* The divisors in a key that is an array of n numbers. */
static llm_code_t
factors_of_key(llm_bind_t *b, llm_key_t key, float *dst, uint32_t n)
{
    llm_name_t name, element;
    llm_value_t v = llm_bind_value(b, key, &name);
    if (v.n != n) {
        return llm_fail(b->err, LLM_E_FORMAT, "%s: key \"%s\" has %llu values, expected %u",
                        b->src->path, name.s, (unsigned long long) v.n, n);
    }
    llm_code_t rc = LLM_OK;
    for (uint32_t i = 0; i < n && rc == LLM_OK; i++) {
        v = llm_bind_element(b, key, i, &element);
        dst[i] = v.kind == LLM_VALUE_NUMBER ? (float) v.number : 0;
        rc = check_factor(b, "key", name.s, i, (double) dst[i]);
    }
    return rc;
}

/* n divisors of the frequencies, in a tensor or a key; *found false when the file has none. */
static llm_code_t
read_factors(llm_bind_t *b, llm_role_t role, llm_key_t key, float *dst, uint32_t n, bool *found)
{
    llm_src_tensor_t t;
    *found = llm_bind_find(b, role, 0, ".weight", &t);
    if (!*found) {
        llm_value_kind_t kind = key != LLM_KEY_COUNT ? llm_bind_value(b, key, NULL).kind
                                                     : LLM_VALUE_NONE;
        *found = kind != LLM_VALUE_NONE && kind != LLM_VALUE_NULL;
        return *found ? factors_of_key(b, key, dst, n) : LLM_OK;
    }
    llm_name_t name = llm_bind_tensor_name(b, role, 0, 0, ".weight");
    if (t.ne[0] != n || t.ne[1] != 1 || t.ne[2] != 1 || t.ne[3] != 1) {
        return llm_fail(b->err, LLM_E_FORMAT, "%s: tensor \"%s\" has %llu values a row, expected "
                        "one row of %u", b->src->path, name.s, (unsigned long long) t.ne[0], n);
    }
    llm_code_t rc = llm_bind_shape(b, &t, n, 1, 1);
    if (rc == LLM_OK) {
        rc = llm_read_vector(b->src, &t, dst, n, b->err);
    }
    for (uint32_t i = 0; i < n && rc == LLM_OK; i++) {
        rc = check_factor(b, "tensor", name.s, i, (double) dst[i]);
    }
    return rc;
}

/* Factor on cosines and sines that yarn with mscale m prescribes. */
static double
yarn_scale(const rope_conf_t *c, double m)
{
    return c->factor > 1 ? 0.1 * m * log(c->factor) + 1 : 1;
}

static void
yarn(llm_stack_t *s, const rope_conf_t *c, float *inv)
{
    double n = s->n_rot, theta = s->rope_theta, orig = c->orig_ctx;
    double lo = n * log(orig / (c->beta_fast * 2 * M_PI)) / (2 * log(theta));
    double hi = n * log(orig / (c->beta_slow * 2 * M_PI)) / (2 * log(theta));
    lo = fmax(c->truncate ? floor(lo) : lo, 0);
    hi = fmin(c->truncate ? ceil(hi) : hi, n - 1);
    for (uint32_t j = 0; j < s->n_rot / 2; j++) {
        double ramp = fmin(fmax((j - lo) / (hi != lo ? hi - lo : 0.001), 0), 1);
        inv[j] = (float) (inv[j] / (double) c->factor * ramp + inv[j] * (1 - ramp));
    }
    bool ratio = c->yarn_mscale > 0 && c->yarn_mscale_all > 0;
    double own = ratio ? yarn_scale(c, c->yarn_mscale) / yarn_scale(c, c->yarn_mscale_all)
                       : yarn_scale(c, 1);
    double given = c->attn_factor > 0 ? c->attn_factor : 1;
    s->rope_mscale = c->mscale > 0 ? c->mscale : (float) (given * own);
}

/* Llama 3: long waves are stretched, short ones kept, those between blended. */
static llm_code_t
llama3(llm_bind_t *b, const rope_conf_t *c, float *inv)
{
    llm_stack_t *s = b->s;
    const struct { llm_key_t key; bool there; } need[] = {
        { LLM_KEY_ROPE_ORIG, c->orig_ctx > 0 }, { LLM_KEY_LLAMA3_LOW, c->low_freq > 0 },
        { LLM_KEY_LLAMA3_HIGH, c->high_freq > 0 },
    };
    for (size_t i = 0; i < sizeof(need) / sizeof(need[0]); i++) {
        if (!need[i].there) {
            return llm_fail(b->err, LLM_E_FORMAT, "%s: key \"%s\" is missing", b->src->path,
                            llm_bind_key_name(b, need[i].key).s);
        }
    }
    double old = c->orig_ctx, low = c->low_freq, high = c->high_freq;
    for (uint32_t j = 0; j < s->n_rot / 2; j++) {
        double wave = 2 * M_PI / inv[j], t = (old / wave - low) / (high - low);
        if (wave > old / low) {
            inv[j] = (float) (inv[j] / (double) c->factor);
        } else if (wave >= old / high) {
            inv[j] = (float) ((1 - t) * inv[j] / c->factor + t * inv[j]);
        }
    }
    return LLM_OK;
}

/* Short and long factors; inv holds the plain frequencies and gets the short ones. */
static llm_code_t
longrope(llm_bind_t *b, const rope_conf_t *c, float *inv, float *inv_long, float *factors)
{
    llm_stack_t *s = b->s;
    uint32_t n = s->n_rot / 2;
    bool have_short;
    llm_code_t rc = read_factors(b, LLM_ROLE_ROPE_SHORT, LLM_KEY_ROPE_SHORT, factors, n,
                                 &have_short);
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
    s->rope_mscale = c->mscale > 0 ? c->mscale : c->attn_factor > 0 ? c->attn_factor
                   : ratio > 1 && c->orig_ctx > 1
                   ? (float) sqrt(1 + log(ratio) / log(c->orig_ctx)) : 1;
    s->rope_orig_ctx = c->orig_ctx;
    s->rope_long = inv_long;
    return LLM_OK;
}

/* The base grows with the length, past the original context (run/forward.c). */
static llm_code_t
dynamic(llm_bind_t *b, const rope_conf_t *c)
{
    llm_stack_t *s = b->s;
    if (s->n_rot < 4) {
        return llm_fail(b->err, LLM_E_UNSUPPORTED, "%s: dynamic rotary scaling of %u values",
                        b->src->path, s->n_rot);
    }
    s->rope_dynamic = true;
    s->rope_factor = c->factor;
    s->rope_orig_ctx = b->m->info.n_ctx_train;
    return LLM_OK;
}

static llm_code_t
scale_frequencies(llm_bind_t *b, const rope_conf_t *c, float *inv, float *inv_long, float *factors)
{
    llm_stack_t *s = b->s;
    uint32_t n = s->n_rot / 2;
    bool found;

    llm_code_t rc = read_factors(b, LLM_ROLE_ROPE_LONG, LLM_KEY_ROPE_LONG, inv_long, n, &found);
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

    rc = read_factors(b, LLM_ROLE_ROPE_FREQS, LLM_KEY_COUNT, factors, n, &found);
    for (uint32_t j = 0; j < n && rc == LLM_OK && found; j++) {
        inv[j] = (float) ((double) inv[j] / factors[j]);
    }
    if (rc == LLM_OK && c->kind == SCALING_LINEAR) {
        for (uint32_t j = 0; j < n; j++) {
            inv[j] = inv[j] / c->factor;
        }
    }
    if (rc == LLM_OK && c->kind == SCALING_DYNAMIC) {
        rc = dynamic(b, c);
    }
    if (rc == LLM_OK && c->kind == SCALING_LLAMA3) {
        rc = llama3(b, c, inv);
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

/* To bfloat16, nearest even; v is finite. */
static float
round_bf16(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof(u));
    u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000u;
    memcpy(&v, &u, sizeof(v));
    return v;
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
    for (uint32_t h = 0; h < s->n_heads && s->alibi_scaled_bf16; h++) {
        slopes[h] = round_bf16(slopes[h]);      /* the kernel rounds the products */
    }
    s->slopes = slopes;
    return LLM_OK;
}

/* T5: the numbers behind the table of relative positions (spec models.md 3.6). */
static llm_code_t
bind_buckets(llm_bind_t *b)
{
    llm_stack_t *s = b->s;
    s->rel_buckets = b->desc.rel_buckets;
    s->rel_max_distance = b->desc.rel_distance;
    llm_code_t rc = llm_bind_u32(b, LLM_KEY_REL_BUCKETS, LLM_OPTIONAL, 4, 4096, &s->rel_buckets);
    if (rc == LLM_OK) {
        rc = llm_bind_u32(b, LLM_KEY_REL_DISTANCE, LLM_OPTIONAL, 1, 1 << 16,
                          &s->rel_max_distance);
    }
    /* half the buckets stand for one distance each, beyond them they widen */
    if (rc == LLM_OK && (s->rel_buckets % 4 != 0 || s->rel_max_distance <= s->rel_buckets / 2)) {
        rc = llm_fail(b->err, LLM_E_FORMAT, "%s: %u buckets of relative positions up to %u",
                      b->src->path, s->rel_buckets, s->rel_max_distance);
    }
    return rc;
}

llm_code_t
llm_bind_positions(llm_bind_t *b)
{
    switch (b->s->pos) {
    case LLM_POS_ROPE:
        return bind_rope(b);
    case LLM_POS_ALIBI:
        return bind_alibi(b);
    case LLM_POS_T5:
        return bind_buckets(b);
    default:
        return LLM_OK;
    }
}
