/*
 * kern_ref.c - the `ref` kernel set: plain loops that define every result.
 *
 * Sums are formed in double precision and rounded once, transcendental functions are libm's.
 * Weights are widened exactly and activations are never quantized. Nothing here is fast; `c`
 * borrows what it does not bring itself.
 */
#include "tensor/kern_ref.h"

#include <math.h>

void
llm_ref_quant(const llm_act_t *a, uint32_t t0, uint32_t t1)
{
    (void) a;
    (void) t0;
    (void) t1;
}

static uint32_t
act_forms(const llm_mat_t *w)
{
    (void) w;
    return 0;
}

#define MM_TOKENS 16

/* sum[t] = row . x[t0 + t] */
static void
dot_row(const llm_mat_t *w, uint32_t row, const llm_act_t *a, uint32_t t0, uint32_t n,
        double sum[MM_TOKENS])
{
    float v[32];
    for (uint32_t t = 0; t < n; t++) {
        sum[t] = 0.0;
    }
    for (uint32_t c = 0; c < w->cols; c += 32) {
        uint32_t n_cols = w->cols - c < 32 ? w->cols - c : 32;
        if (lay_is_float(w->layout)) {
            for (uint32_t i = 0; i < n_cols; i++) {
                v[i] = llm_mat_float(w, row, c + i);
            }
        } else {
            llm_mat_row_block(w, row, c / 32, v);
        }
        for (uint32_t t = 0; t < n; t++) {
            const float *x = a->x + (t0 + t) * a->ldx + c;
            for (uint32_t i = 0; i < n_cols; i++) {
                sum[t] += (double) v[i] * x[i];
            }
        }
    }
}

void
llm_ref_mm(const llm_mat_t *w, uint32_t tile0, uint32_t tile1, const llm_act_t *a, float *y,
           size_t ldy)
{
    uint32_t row1 = tile1 * LLM_TILE < w->rows ? tile1 * LLM_TILE : w->rows;
    double sum[MM_TOKENS];

    for (uint32_t t0 = 0; t0 < a->n; t0 += MM_TOKENS) {
        uint32_t n = a->n - t0 < MM_TOKENS ? a->n - t0 : MM_TOKENS;
        for (uint32_t row = tile0 * LLM_TILE; row < row1; row++) {
            dot_row(w, row, a, t0, n, sum);
            for (uint32_t t = 0; t < n; t++) {
                y[(t0 + t) * ldy + row] = (float) sum[t];
            }
        }
    }
}

void
llm_ref_norm_rms(float *y, const float *x, const float *w, uint32_t n, float eps)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        sum += (double) x[i] * x[i];
    }
    double scale = 1.0 / sqrt(sum / n + eps);
    for (uint32_t i = 0; i < n; i++) {
        y[i] = (float) (x[i] * scale * w[i]);
    }
}

void
llm_ref_norm_layer(float *y, const float *x, const float *w, const float *b, uint32_t n, float eps)
{
    double sum = 0.0, var = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        sum += x[i];
    }
    double mean = sum / n;
    for (uint32_t i = 0; i < n; i++) {
        var += (x[i] - mean) * (x[i] - mean);
    }
    double scale = 1.0 / sqrt(var / n + eps);
    for (uint32_t i = 0; i < n; i++) {
        y[i] = (float) ((x[i] - mean) * scale * w[i] + (b != NULL ? b[i] : 0.0f));
    }
}

static double
activate(double x, llm_actfn_t f)
{
    switch (f) {
    case LLM_ACT_RELU:
        return x < 0.0 ? 0.0 : x;
    case LLM_ACT_SILU:
        return x / (1.0 + exp(-x));
    case LLM_ACT_GELU:
        return 0.5 * x * erfc(-x * M_SQRT1_2);
    default:
        /*
         * 1/2 (1 + tanh u) = 1 / (1 + exp(-2u)), which does not cancel; spec models.md section 3.2
         */
        return x / (1.0 + exp(-2.0 * sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
    }
}

void
llm_ref_act_mul(float *y, const float *gate, const float *up, uint32_t n, llm_actfn_t f)
{
    for (uint32_t i = 0; i < n; i++) {
        double v = activate(gate[i], f);
        y[i] = (float) (up != NULL ? v * up[i] : v);
    }
}

void
llm_ref_add(float *y, const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        y[i] += x[i];
    }
}

void
llm_ref_rope(float *x, const float *cos_sin, uint32_t n, bool half)
{
    for (uint32_t j = 0; j < n; j++) {
        float *pu = half ? &x[j] : &x[2 * j], *pv = half ? &x[j + n] : &x[2 * j + 1];
        double u = *pu, v = *pv, c = cos_sin[j], s = cos_sin[n + j];
        *pu = (float) (u * c - v * s);
        *pv = (float) (v * c + u * s);
    }
}

void
llm_ref_kv_store(uint8_t *block, llm_kv_type_t type, uint32_t head_dim, uint32_t row,
                 const float *k, const float *v)
{
    uint8_t *vblock = block + llm_kv_head_bytes(type, head_dim) / 2;
    if (type == LLM_KV_Q8_0) {
        llm_kv_store_q8(block, vblock, head_dim, row, k, v);
        return;
    }
    for (uint32_t d = 0; d < head_dim; d++) {
        size_t ki = (size_t) d * LLM_KV_PAGE + row, vi = (size_t) row * head_dim + d;
        if (type == LLM_KV_F32) {
            ((float *) block)[ki] = k[d];
            ((float *) vblock)[vi] = v[d];
        } else {
            ((uint16_t *) block)[ki] = llm_f32_to_f16(k[d]);
            ((uint16_t *) vblock)[vi] = llm_f32_to_f16(v[d]);
        }
    }
}

/* Value number i of a K or V block: dimension d of the token in row `row`. */
static inline double
kv_value(const llm_attn_t *a, const uint8_t *block, size_t i, uint32_t d, uint32_t row)
{
    switch (a->type) {
    case LLM_KV_F32:
        return ((const float *) block)[i];
    case LLM_KV_F16:
        return llm_f16_to_f32(((const uint16_t *) block)[i]);
    default:
        d -= d % LLM_KV_BLOCK;
        return (double) ((const int8_t *) block)[i]
               * llm_f16_to_f32(llm_kv_scales(block, a->head_dim)[d + row]);
    }
}

/* One score; the bias terms follow the comments of llm_attn_t. */
static double
score(const llm_attn_t *a, const float *q, uint32_t g, uint32_t pos, uint32_t key)
{
    const uint8_t *kb = a->pages + a->table[key / LLM_KV_PAGE] * a->page_bytes;
    double s = 0.0;
    uint32_t row = key % LLM_KV_PAGE;
    for (uint32_t d = 0; d < a->head_dim; d++) {
        s += q[d] * kv_value(a, kb, (size_t) d * LLM_KV_PAGE + row, d, row);
    }
    s *= a->scale;
    if (a->softcap > 0.0f) {
        s = a->softcap * tanh(s / a->softcap);
    }
    if (a->slopes != NULL) {
        s += llm_attn_alibi(a, g, key);
    }
    if (a->rel != NULL) {
        s += a->rel[g * a->ld_rel + llm_attn_rel_index(a, pos, key)];
    }
    return s;
}

void
llm_ref_attn(const llm_attn_t *a)
{
    size_t stride = llm_attn_part_floats(a->head_dim),
           v_off = llm_kv_head_bytes(a->type, a->head_dim) / 2;

    for (uint32_t i = 0; i < a->n_q * a->group; i++) {
        uint32_t t = i / a->group, g = i % a->group, lo, hi;
        const float *q = a->q + t * a->ldq + (size_t) g * a->head_dim;
        float *part = a->part + i * stride, *o = part + LLM_ATTN_O;
        float m = -INFINITY;
        double l = 0.0, acc[LLM_ATTN_MAX_DIM] = { 0.0 };

        llm_attn_range(a, t, &lo, &hi);
        for (uint32_t key = lo; key < hi; key++) {
            float s = (float) score(a, q, g, a->pos0 + t, key);
            a->scratch[key - a->key0] = s;
            m = s > m ? s : m;
        }
        for (uint32_t key = lo; key < hi; key++) {
            const uint8_t *vb = a->pages + a->table[key / LLM_KV_PAGE] * a->page_bytes + v_off;
            double p = exp((double) a->scratch[key - a->key0] - (m > -INFINITY ? m : 0.0f));
            l += p;
            uint32_t row = key % LLM_KV_PAGE;
            for (uint32_t d = 0; d < a->head_dim; d++) {
                acc[d] += p * kv_value(a, vb, (size_t) row * a->head_dim + d, d, row);
            }
        }
        part[0] = m;
        part[1] = (float) l;
        for (uint32_t d = 0; d < a->head_dim; d++) {
            o[d] = (float) acc[d];
        }
    }
}

void
llm_ref_attn_merge(float *out, const float *parts, uint32_t n, size_t stride, uint32_t head_dim)
{
    float m = -INFINITY;
    double l = 0.0, acc[LLM_ATTN_MAX_DIM] = { 0.0 };

    for (uint32_t i = 0; i < n; i++) {
        const float *p = parts + i * stride;
        m = p[1] != 0.0f && p[0] > m ? p[0] : m;
    }
    for (uint32_t i = 0; i < n; i++) {
        const float *p = parts + i * stride;
        if (p[1] == 0.0f) {
            continue;
        }
        double f = exp((double) p[0] - (m > -INFINITY ? m : 0.0f));
        l += f * p[1];
        for (uint32_t d = 0; d < head_dim; d++) {
            acc[d] += f * p[LLM_ATTN_O + d];
        }
    }
    for (uint32_t d = 0; d < head_dim; d++) {
        out[d] = l != 0.0 ? (float) (acc[d] / l) : 0.0f;
    }
}

float
llm_ref_log_sum_exp(const float *x, uint32_t n, float *log_sum)
{
    float max = -INFINITY;
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        max = x[i] > max ? x[i] : max;
    }
    for (uint32_t i = 0; i < n; i++) {
        sum += x[i] > -INFINITY ? exp((double) x[i] - max) : 0.0;
    }
    *log_sum = (float) log(sum);
    return max;
}

uint32_t
llm_ref_argmax(const float *x, uint32_t n)
{
    uint32_t best = 0;
    float max = -INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        if (x[i] > max) {
            max = x[i];
            best = i;
        }
    }
    return best;
}

const llm_kern_t llm_kern_ref = {
    .name = "ref",
    .quant = llm_ref_quant,
    .act_forms = act_forms,
    .mm = llm_ref_mm,
    .norm_rms = llm_ref_norm_rms,
    .norm_layer = llm_ref_norm_layer,
    .act_mul = llm_ref_act_mul,
    .add = llm_ref_add,
    .rope = llm_ref_rope,
    .kv_store = llm_ref_kv_store,
    .attn = llm_ref_attn,
    .attn_merge = llm_ref_attn_merge,
    .log_sum_exp = llm_ref_log_sum_exp,
    .argmax = llm_ref_argmax,
};
