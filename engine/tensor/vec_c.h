/*
 * vec_c.h - the vector macros under kern_float.inc and kern_attn.inc in portable C; private to
 * tensor/.
 *
 * 16-byte vectors of the compiler's vector extension: SSE2 on any x86-64, NEON on ARM, plain code
 * elsewhere. A multiply-add is two roundings here: fused ones are not portable at any speed.
 */
#ifndef LLM_VEC_C_H
#define LLM_VEC_C_H

#include "tensor/pack.h"

#define FN(x)  c_##x
#define TARGET
#define UNROLL _Pragma("GCC unroll 16")
#define INLINE static inline __attribute__((always_inline))

#define VL 4
#define PREFETCH(p) __builtin_prefetch(p)
typedef int32_t c_vi __attribute__((vector_size(16)));
typedef uint32_t c_vu __attribute__((vector_size(16)));
typedef float c_vf __attribute__((vector_size(16)));
#define VI c_vi
#define VF c_vf
#define VM c_vi

#define VI_ZERO()           ((c_vi) { 0 })
#define VI_SET32(x)         ((c_vi) { 0 } + (int32_t) (x))
#define VI_AND(a, b)        ((a) & (b))
#define VI_ADD32(a, b)      ((a) + (b))
#define VI_SRL32(a, n)      ((c_vi) ((c_vu) (a) >> (n)))
#define VI_IOTA()           ((c_vi) { 0, 1, 2, 3 })
#define VI_SEL(m, a, b)     (((m) & (a)) | (~(m) & (b)))
#define VI_STORE(p, v)      c_store_i(p, v)

#define VF_ZERO()           ((c_vf) { 0 })
#define VF_SET(x)           c_set(x)
#define VF_LOADU(p)         c_load(p)
#define VF_STOREU(p, v)     c_store(p, v)
#define VF_ADD(a, b)        ((a) + (b))
#define VF_SUB(a, b)        ((a) - (b))
#define VF_MUL(a, b)        ((a) * (b))
#define VF_DIV(a, b)        ((a) / (b))
#define VF_FMA(a, b, c)     ((a) * (b) + (c))
#define VF_FNMA(a, b, c)    ((c) - (a) * (b))
#define VF_FMS(a, b, c)     c_fms(a, b, c)
#define VF_MAX(a, b)        c_max(a, b)
#define VF_MIN(a, b)        c_min(a, b)
#define VF_NEG(a)           (-(a))
#define VF_ABS(a)           ((c_vf) ((c_vi) (a) & VI_SET32(0x7fffffff)))
#define VF_ROUND(a)         (((a) + 12582912.0f) - 12582912.0f)     /* 1.5 * 2^23; for |a| < 2^22 */
#define VF_SCALE2(a, n)     c_scale2(a, n)
#define VF_CVT(a)           __builtin_convertvector(a, c_vf)
#define VI_AS_F(a)          ((c_vf) (a))
#define VF_AS_I(a)          ((c_vi) (a))
#define VM_LT(a, b)         ((a) < (b))
#define VM_GE(a, b)         ((a) >= (b))
#define VM_EQ(a, b)         ((a) == (b))
#define VM_AND(a, b)        ((a) & (b))
#define VF_SEL(m, a, b)     ((c_vf) (((m) & (c_vi) (a)) | (~(m) & (c_vi) (b))))
#define VF_HADD(a)          c_hadd(a)
#define VF_HMAX(a)          c_hmax(a)
#define VF_LOADN(p, n)      c_loadn(p, n)
#define STORE_ROWS(p, v, n) c_storen(p, v, n)
#define VF_F16(p)           c_f16(p)
#define VF_F16N(p, n)       c_f16n(p, n)
#define VF_S8(p)            c_s8n(p, VL)
#define VF_S8N(p, n)        c_s8n(p, n)
#define VF_STORE_F16(p, v)  c_store_f16(p, v)

#define ATTN_R  4
#define SCORE_ROWS_WIDE 1
#define VALUE_ROWS_WIDE 1

INLINE c_vf
c_set(float x)
{
    return (c_vf) { x, x, x, x };
}

INLINE c_vf
c_load(const float *p)
{
    c_vf v;
    memcpy(&v, p, sizeof(v));
    return v;
}

INLINE void
c_store(float *p, c_vf v)
{
    memcpy(p, &v, sizeof(v));
}

INLINE void
c_store_i(uint32_t *p, c_vi v)
{
    memcpy(p, &v, sizeof(v));
}

INLINE c_vf
c_loadn(const float *p, uint32_t n)
{
    c_vf v = { 0 };
    memcpy(&v, p, (n < VL ? n : VL) * sizeof(float));
    return v;
}

INLINE void
c_storen(float *p, c_vf v, uint32_t n)
{
    memcpy(p, &v, (n < VL ? n : VL) * sizeof(float));
}

/* b when one is NaN */
INLINE c_vf
c_max(c_vf a, c_vf b)
{
    return VF_SEL(a > b, a, b);
}

INLINE c_vf
c_min(c_vf a, c_vf b)
{
    return VF_SEL(a < b, a, b);
}

/* a * b - c without rounding the product: it is exact in double precision */
INLINE c_vf
c_fms(c_vf a, c_vf b, c_vf c)
{
    c_vf out;
    for (int i = 0; i < VL; i++) {
        out[i] = (float) ((double) a[i] * b[i] - c[i]);
    }
    return out;
}

/*
 * a * 2^n for integral n in [-252, 254], in two factors so that subnormal results and overflow come
 * out right
 */
INLINE c_vf
c_scale2(c_vf a, c_vf n)
{
    c_vi i = __builtin_convertvector(n, c_vi), h = i >> 1;
    return a * (c_vf) ((h + 127) << 23) * (c_vf) ((i - h + 127) << 23);
}

INLINE float
c_hadd(c_vf v)
{
    return (v[0] + v[2]) + (v[1] + v[3]);
}

INLINE float
c_hmax(c_vf v)
{
    float a = v[0] > v[1] ? v[0] : v[1], b = v[2] > v[3] ? v[2] : v[3];
    return a > b ? a : b;
}

/*
 * Exact: the half's bits as a small float, times 2^112; infinities and NaN get the largest
 * exponent.
 */
INLINE c_vf
c_f16(const void *p)
{
    uint16_t h[VL];
    memcpy(h, p, sizeof(h));
    c_vi v = { h[0], h[1], h[2], h[3] };
    c_vi mag = v & 0x7fff;
    c_vf f = (c_vf) (mag << 13) * c_set(0x1p112f);
    c_vi special = (mag >= 0x7c00) & 0x7f800000;
    return (c_vf) ((c_vi) f | special | (v & 0x8000) << 16);
}

INLINE c_vf
c_f16n(const uint16_t *p, uint32_t n)
{
    uint16_t h[VL] = { 0 };
    memcpy(h, p, (n < VL ? n : VL) * sizeof(*h));
    return c_f16(h);
}

INLINE c_vf
c_s8n(const void *p, uint32_t n)
{
    int8_t q[VL] = { 0 };
    memcpy(q, p, n < VL ? n : VL);
    return (c_vf) { q[0], q[1], q[2], q[3] };
}

INLINE void
c_store_f16(uint16_t *p, c_vf v)
{
    for (int i = 0; i < VL; i++) {
        p[i] = llm_f32_to_f16(v[i]);
    }
}

#endif
