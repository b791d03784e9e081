/*
 * format.c - the number formats of model files: one row each in one table, and their exact values.
 *
 * A block is `bytes` little-endian bytes that stand for `block` values; a row is consecutive
 * blocks. Layouts: spec models.md section 9.1. Each product and difference is one f32 operation
 * (the files are compiled without contraction), in the order (scale * sub-scale) * q - minimum,
 * which is how the formats are defined.
 */
#include "tensor/format.h"

#include <math.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "model files are little-endian; a big-endian port must swap in format.c and mat.c"
#endif

static const int8_t codebook_iq4[16] = {
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
};
static const int8_t codebook_fp4[16] = { 0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12 };

float
llm_f16_to_f32(uint16_t h)
{
    union { uint32_t u; float f; } v;
    uint32_t sign = (uint32_t) (h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ff;

    if (exponent == 31) {
        v.u = sign | 0x7f800000 | mantissa << 13;
    } else if (exponent != 0) {
        v.u = sign | (exponent + 112) << 23 | mantissa << 13;
    } else {
        v.f = (float) mantissa * 0x1p-24f;      /* zero and subnormals, exact */
        v.u |= sign;
    }
    return v.f;
}

uint16_t
llm_f32_to_f16(float f)
{
    union { float f; uint32_t u; } v = { .f = f };
    uint16_t sign = (uint16_t) (v.u >> 16 & 0x8000);
    uint32_t mag = v.u & 0x7fffffff;

    if (mag > 0x7f800000) {
        return sign | 0x7e00 | (uint16_t) (mag >> 13 & 0x1ff);  /* quiet NaN, upper payload kept */
    }
    if (mag >= 0x477ff000) {                    /* 65520: rounds to infinity */
        return sign | 0x7c00;
    }
    if (mag < 0x38800000) { /* below 2^-14: the sum aligns and rounds the mantissa */
        v.u = mag;
        v.f += 0.5f;                            /* 0.5 has its last mantissa bit at 2^-24 */
        return sign | (uint16_t) (v.u - 0x3f000000);
    }
    uint32_t odd = mag >> 13 & 1;
    return sign | (uint16_t) ((mag + 0xfff + odd - (112u << 23)) >> 13);
}

static inline uint16_t
load16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static inline uint32_t
load32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static inline float
load_f16(const uint8_t *p)
{
    return llm_f16_to_f32(load16(p));
}

static void
dequant_f32(float *dst, const void *src, size_t n)
{
    memcpy(dst, src, n * sizeof(*dst));
}

static void
dequant_f16(float *dst, const void *src, size_t n)
{
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i++) {
        dst[i] = load_f16(p + 2 * i);
    }
}

static void
dequant_bf16(float *dst, const void *src, size_t n)
{
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i++) {
        dst[i] = llm_bf16_to_f32(load16(p + 2 * i));
    }
}

static void
dequant_q4_0(float *dst, const void *src, size_t n)
{
    const uint8_t *p = src;
    for (size_t b = 0; b < n; b += 32, p += 18, dst += 32) {
        float d = load_f16(p);
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float) ((p[2 + i] & 15) - 8);
            dst[i + 16] = d * (float) ((p[2 + i] >> 4) - 8);
        }
    }
}

static void
dequant_q4_1(float *dst, const void *src, size_t n)
{
    const uint8_t *p = src;
    for (size_t b = 0; b < n; b += 32, p += 20, dst += 32) {
        float d = load_f16(p), m = load_f16(p + 2);
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float) (p[4 + i] & 15) + m;
            dst[i + 16] = d * (float) (p[4 + i] >> 4) + m;
        }
    }
}

/* Nibbles at qs, fifth bits in qh: the value of index i of a block of 32. */
static inline int
five_bits(const uint8_t *qs, uint32_t qh, int i)
{
    int nibble = i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
    return nibble | (int) (qh >> i & 1) << 4;
}

static void
dequant_q5_0(float *dst, const void *src, size_t n)
{
    const uint8_t *p = src;
    for (size_t b = 0; b < n; b += 32, p += 22, dst += 32) {
        float d = load_f16(p);
        uint32_t qh = load32(p + 2);
        for (int i = 0; i < 32; i++) {
            dst[i] = d * (float) (five_bits(p + 6, qh, i) - 16);
        }
    }
}

static void
dequant_q5_1(float *dst, const void *src, size_t n)
{
    const uint8_t *p = src;
    for (size_t b = 0; b < n; b += 32, p += 24, dst += 32) {
        float d = load_f16(p), m = load_f16(p + 2);
        uint32_t qh = load32(p + 4);
        for (int i = 0; i < 32; i++) {
            dst[i] = d * (float) five_bits(p + 8, qh, i) + m;
        }
    }
}

static void
dequant_q8_0(float *dst, const void *src, size_t n)
{
    const uint8_t *p = src;
    for (size_t b = 0; b < n; b += 32, p += 34, dst += 32) {
        float d = load_f16(p);
        for (int i = 0; i < 32; i++) {
            dst[i] = d * (float) (int8_t) p[2 + i];
        }
    }
}

static void
dequant_q2_k(float *dst, const void *src, size_t n)
{
    const uint8_t *p = src;
    for (size_t b = 0; b < n; b += 256, p += 84, dst += 256) {
        float d = load_f16(p + 80), dmin = load_f16(p + 82);
        for (int i = 0; i < 256; i++) {
            int q = p[16 + 32 * (i / 128) + i % 32] >> 2 * (i % 128 / 32) & 3;
            int s = p[i / 16];
            dst[i] = d * (float) (s & 15) * (float) q - dmin * (float) (s >> 4);
        }
    }
}

static void
dequant_q3_k(float *dst, const void *src, size_t n)
{
    const uint8_t *p = src;
    for (size_t b = 0; b < n; b += 256, p += 110, dst += 256) {
        const uint8_t *sc = p + 96;
        float d = load_f16(p + 108);
        for (int i = 0; i < 256; i++) {
            int q = (p[32 + 32 * (i / 128) + i % 32] >> 2 * (i % 128 / 32) & 3)
                  - (p[i % 32] >> i / 32 & 1 ? 0 : 4);
            int s = i / 16;
            int lo = s < 8 ? sc[s] & 15 : sc[s - 8] >> 4, hi = sc[8 + s % 4] >> 2 * (s / 4) & 3;
            dst[i] = d * (float) ((lo | hi << 4) - 32) * (float) q;
        }
    }
}

/* The 6-bit scale and minimum of sub-block b in Q4_K and Q5_K. */
static inline void
scale_min_k4(const uint8_t *sc, int b, int *scale, int *min)
{
    if (b < 4) {
        *scale = sc[b] & 63;
        *min = sc[b + 4] & 63;
    } else {
        *scale = (sc[b + 4] & 15) | sc[b - 4] >> 6 << 4;
        *min = sc[b + 4] >> 4 | sc[b] >> 6 << 4;
    }
}

static void
dequant_q4_k(float *dst, const void *src, size_t n)
{
    const uint8_t *p = src;
    for (size_t k = 0; k < n; k += 256, p += 144, dst += 256) {
        float d = load_f16(p), dmin = load_f16(p + 2);
        for (int b = 0; b < 8; b++) {
            int s, m;
            scale_min_k4(p + 4, b, &s, &m);
            float scale = d * (float) s, min = dmin * (float) m;
            for (int i = 0; i < 32; i++) {
                int q = p[16 + 32 * (b / 2) + i] >> 4 * (b & 1) & 15;
                dst[32 * b + i] = scale * (float) q - min;
            }
        }
    }
}

static void
dequant_q5_k(float *dst, const void *src, size_t n)
{
    const uint8_t *p = src;
    for (size_t k = 0; k < n; k += 256, p += 176, dst += 256) {
        float d = load_f16(p), dmin = load_f16(p + 2);
        for (int b = 0; b < 8; b++) {
            int s, m;
            scale_min_k4(p + 4, b, &s, &m);
            float scale = d * (float) s, min = dmin * (float) m;
            for (int i = 0; i < 32; i++) {
                int q = (p[48 + 32 * (b / 2) + i] >> 4 * (b & 1) & 15) | (p[16 + i] >> b & 1) << 4;
                dst[32 * b + i] = scale * (float) q - min;
            }
        }
    }
}

static void
dequant_q6_k(float *dst, const void *src, size_t n)
{
    const uint8_t *p = src;
    for (size_t b = 0; b < n; b += 256, p += 210, dst += 256) {
        const int8_t *sc = (const int8_t *) p + 192;
        float d = load_f16(p + 208);
        for (int i = 0; i < 256; i++) {
            int h = i / 128, r = i % 128;
            int q = (p[64 * h + r % 64] >> 4 * (r / 64) & 15)
                  | (p[128 + 32 * h + r % 32] >> 2 * (r / 32) & 3) << 4;
            dst[i] = d * (float) sc[i / 16] * (float) (q - 32);
        }
    }
}

static void
dequant_iq4_nl(float *dst, const void *src, size_t n)
{
    const uint8_t *p = src;
    for (size_t b = 0; b < n; b += 32, p += 18, dst += 32) {
        float d = load_f16(p);
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float) codebook_iq4[p[2 + i] & 15];
            dst[i + 16] = d * (float) codebook_iq4[p[2 + i] >> 4];
        }
    }
}

static void
dequant_iq4_xs(float *dst, const void *src, size_t n)
{
    const uint8_t *p = src;
    for (size_t k = 0; k < n; k += 256, p += 136, dst += 256) {
        float d = load_f16(p);
        uint16_t sh = load16(p + 2);
        for (int b = 0; b < 8; b++) {
            int s = (p[4 + b / 2] >> 4 * (b & 1) & 15) | (sh >> 2 * b & 3) << 4;
            float scale = d * (float) (s - 32);
            for (int i = 0; i < 16; i++) {
                dst[32 * b + i] = scale * (float) codebook_iq4[p[8 + 16 * b + i] & 15];
                dst[32 * b + i + 16] = scale * (float) codebook_iq4[p[8 + 16 * b + i] >> 4];
            }
        }
    }
}

static void
dequant_mxfp4(float *dst, const void *src, size_t n)
{
    const uint8_t *p = src;
    for (size_t b = 0; b < n; b += 32, p += 17, dst += 32) {
        float d = ldexpf(1.0f, p[0] - 128);
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float) codebook_fp4[p[1 + i] & 15];
            dst[i + 16] = d * (float) codebook_fp4[p[1 + i] >> 4];
        }
    }
}

static const llm_format_t formats[LLM_T_COUNT] = {
    [LLM_T_F32] = { "F32", 1, 4, dequant_f32 },
    [LLM_T_F16] = { "F16", 1, 2, dequant_f16 },
    [LLM_T_BF16] = { "BF16", 1, 2, dequant_bf16 },
    [LLM_T_Q4_0] = { "Q4_0", 32, 18, dequant_q4_0 },
    [LLM_T_Q4_1] = { "Q4_1", 32, 20, dequant_q4_1 },
    [LLM_T_Q5_0] = { "Q5_0", 32, 22, dequant_q5_0 },
    [LLM_T_Q5_1] = { "Q5_1", 32, 24, dequant_q5_1 },
    [LLM_T_Q8_0] = { "Q8_0", 32, 34, dequant_q8_0 },
    [LLM_T_Q2_K] = { "Q2_K", 256, 84, dequant_q2_k },
    [LLM_T_Q3_K] = { "Q3_K", 256, 110, dequant_q3_k },
    [LLM_T_Q4_K] = { "Q4_K", 256, 144, dequant_q4_k },
    [LLM_T_Q5_K] = { "Q5_K", 256, 176, dequant_q5_k },
    [LLM_T_Q6_K] = { "Q6_K", 256, 210, dequant_q6_k },
    [LLM_T_IQ4_NL] = { "IQ4_NL", 32, 18, dequant_iq4_nl },
    [LLM_T_IQ4_XS] = { "IQ4_XS", 256, 136, dequant_iq4_xs },
    [LLM_T_MXFP4] = { "MXFP4", 32, 17, dequant_mxfp4 },
};

const llm_format_t *
llm_format(uint32_t type)
{
    return type < LLM_T_COUNT && formats[type].name != NULL ? &formats[type] : NULL;
}
