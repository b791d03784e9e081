/*
 * kern_ref.h - the `ref` set, the list of sets, and what all attention kernels share; private to
 * tensor/.
 */
#ifndef LLM_KERN_REF_H
#define LLM_KERN_REF_H

#include "tensor/pack.h"

/* Contracts: llm_kern_t in kern.h. */
void llm_ref_quant(const llm_act_t *a, uint32_t t0, uint32_t t1);
void llm_ref_mm(const llm_mat_t *w, uint32_t tile0, uint32_t tile1, const llm_act_t *a, float *y,
                size_t ldy);
void llm_ref_norm_rms(float *y, const float *x, const float *w, uint32_t n, float eps);
void llm_ref_norm_layer(float *y, const float *x, const float *w, const float *b, uint32_t n,
                        float eps);
void llm_ref_act_mul(float *y, const float *gate, const float *up, uint32_t n, llm_actfn_t f);
void llm_ref_add(float *y, const float *x, uint32_t n);
void llm_ref_rope(float *x, const float *cos_sin, uint32_t n, bool half);
void llm_ref_kv_store(uint8_t *block, llm_kv_type_t type, uint32_t head_dim, uint32_t row,
                      const float *k, const float *v);
void llm_ref_attn(const llm_attn_t *a);
void llm_ref_attn_merge(float *out, const float *parts, uint32_t n, size_t stride,
                        uint32_t head_dim);
float llm_ref_log_sum_exp(const float *x, uint32_t n, float *log_sum);
uint32_t llm_ref_argmax(const float *x, uint32_t n);

extern const llm_kern_t llm_kern_ref;
extern const llm_kern_t llm_kern_c;
#if defined(__x86_64__)
extern const llm_kern_t llm_kern_avx2;
extern const llm_kern_t llm_kern_avx512;
#endif

/* A partial: m, l, 14 unused, o. */
#define LLM_ATTN_O       16
#define LLM_ATTN_MAX_DIM 512
/* (query, head) rows that a kernel works on at once; bounds its scratch memory */
#define LLM_ATTN_ROWS    16

static inline size_t
llm_attn_stride(uint32_t head_dim)
{
    return LLM_ATTN_O + (((size_t) head_dim + 15) & ~(size_t) 15);
}

/* The keys [*lo, *hi) inside [key0, key1) that query t sees; empty: *lo == *hi. */
static inline void
llm_attn_range(const llm_attn_t *a, uint32_t t, uint32_t *lo, uint32_t *hi)
{
    uint64_t pos = (uint64_t) a->pos0 + t, from = a->key0, to = a->key1;
    if (a->causal && pos + 1 < to) {
        to = pos + 1;
    }
    if (a->window != 0 && pos + 1 > a->window && pos + 1 - a->window > from) {
        from = pos + 1 - a->window;
    }
    *lo = (uint32_t) from;
    *hi = (uint32_t) (to > from ? to : from);
}

_Static_assert(LLM_KV_BLOCK == LLM_KV_PAGE, "scale[d / LLM_KV_BLOCK][row] is scale[d + row]");

/* Bytes of one value, without its share of a scale. */
static inline size_t
llm_kv_value_bytes(llm_kv_type_t type)
{
    return type == LLM_KV_F32 ? 4 : type == LLM_KV_F16 ? 2 : 1;
}

/* q8_0: scales of one token. */
static inline size_t
llm_kv_blocks(uint32_t head_dim)
{
    return (head_dim + LLM_KV_BLOCK - 1) / LLM_KV_BLOCK;
}

/* q8_0: scale[llm_kv_blocks][LLM_KV_PAGE] of a K or V block. */
static inline uint16_t *
llm_kv_scales(const uint8_t *block, uint32_t head_dim)
{
    return (uint16_t *) (uintptr_t) (block + (size_t) LLM_KV_PAGE * head_dim);
}

/*
 * q8_0: rounds n <= LLM_KV_BLOCK values; returns the scale. A NaN or infinite value, or one that
 * needs a larger scale than f16 has, makes all n of them NaN.
 */
static inline uint16_t
llm_kv_quant(int8_t q[LLM_KV_BLOCK], const float *x, uint32_t n)
{
    /* compared as integers: NaN is the largest */
    union { float f; uint32_t u; } max = { .u = 0 }, v;
    for (uint32_t i = 0; i < n; i++) {
        v.f = x[i];
        v.u &= 0x7fffffff;
        max.u = v.u > max.u ? v.u : max.u;
    }
    uint16_t scale = llm_f32_to_f16(max.f / 127.0f);
    scale += llm_f16_to_f32(scale) * 127.0f < max.f;
    scale = scale < 0x7c00 ? scale : 0x7e00;
    float d = llm_f16_to_f32(scale);
    for (uint32_t i = 0; i < n; i++) {
        float r = x[i] / d;
        r = r < 127.0f ? r : 127.0f;            /* also 0 / 0 and NaN */
        r = r > -127.0f ? r : -127.0f;
        r = (r + 12582912.0f) - 12582912.0f;    /* 1.5 * 2^23: to the nearest, ties to even */
        q[i] = (int8_t) r;
    }
    return scale;
}

/* q8_0: stores k and v of one token at row `row` of K and V. */
static inline void
llm_kv_store_q8(uint8_t *kb, uint8_t *vb, uint32_t head_dim, uint32_t row, const float *k,
                const float *v)
{
    uint16_t *ks = llm_kv_scales(kb, head_dim), *vs = llm_kv_scales(vb, head_dim);
    int8_t *kq = (int8_t *) kb, *vq = (int8_t *) vb + (size_t) row * head_dim;

    for (uint32_t d = 0; d < head_dim; d += LLM_KV_BLOCK) {
        int8_t q[LLM_KV_BLOCK];
        uint32_t n = head_dim - d < LLM_KV_BLOCK ? head_dim - d : LLM_KV_BLOCK;
        ks[d + row] = llm_kv_quant(q, k + d, n);
        for (uint32_t i = 0; i < n; i++) {
            kq[(size_t) (d + i) * LLM_KV_PAGE + row] = q[i];
        }
        vs[d + row] = llm_kv_quant(vq + d, v + d, n);
    }
}

static inline float
llm_attn_alibi(const llm_attn_t *a, uint32_t g, uint32_t key)
{
    union { float f; uint32_t u; } v = { .f = a->slopes[g] * (float) key };
    if (a->alibi_bf16) {
        /* finite: slopes are below 1, keys below 2^32 */
        v.u = (v.u + 0x7fff + (v.u >> 16 & 1)) & 0xffff0000u;
        return v.f * a->scale;
    }
    return v.f;
}

static inline uint32_t
llm_attn_rel_index(const llm_attn_t *a, uint32_t pos, uint32_t key)
{
    int64_t i = (int64_t) key - pos + a->rel_zero;
    return i < 0 ? 0 : i >= a->rel_n ? a->rel_n - 1 : (uint32_t) i;
}

#endif
