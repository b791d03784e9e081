/*
 * vec_avx2.h - the vector macros under the .inc files, on AVX2 with FMA and F16C; private to
 * tensor/.
 *
 * The including file defines VEC_VNNI to 1 and TARGET to the attribute that enables AVX-VNNI, or
 * VEC_VNNI to 0.
 */
#ifndef LLM_VEC_AVX2_H
#define LLM_VEC_AVX2_H

#include "tensor/pack.h"

#include <immintrin.h>

#define UNROLL _Pragma("GCC unroll 16")
#define INLINE static inline __attribute__((always_inline)) TARGET

#define VL 8
#define VI __m256i
#define VF __m256
#define VM __m256

/* integers */
#define VI_LOAD(p)          _mm256_load_si256((const __m256i *) (const void *) (p))
#define VI_ZERO()           _mm256_setzero_si256()
#define VI_SET8(x)          _mm256_set1_epi8(x)
#define VI_SET16(x)         _mm256_set1_epi16(x)
#define VI_SET32(x)         _mm256_set1_epi32(x)
#define VI_AND(a, b)        _mm256_and_si256(a, b)
#define VI_OR(a, b)         _mm256_or_si256(a, b)
#define VI_XOR(a, b)        _mm256_xor_si256(a, b)
#define VI_ADD32(a, b)      avx2_keep(_mm256_add_epi32(a, b))
#define VI_ADD16(a, b)      avx2_keep(_mm256_add_epi16(a, b))
#define VI_SRL16(a, n)      _mm256_srli_epi16(a, n)
#define VI_SLL16(a, n)      _mm256_slli_epi16(a, n)
#define VI_SLL32(a, n)      _mm256_slli_epi32(a, n)
#define VI_SRL32(a, n)      _mm256_srli_epi32(a, n)
#define VI_IOTA()           _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)
#define VI_SEL(m, a, b)     _mm256_blendv_epi8(b, a, _mm256_castps_si256(m))
#define VI_STORE(p, v)      _mm256_storeu_si256((__m256i *) (void *) (p), v)
#define VI_LUT(v, table)                                                                           \
    _mm256_shuffle_epi8(                                                                           \
        _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *) (const void *) (table))), v)

#if VEC_VNNI
#define WIDE_SIGNED         0
#define DOT_16BIT           0
#define VI_DOT(c, w, x)     _mm256_dpbusd_avx_epi32(c, w, x)
#define VI_DOT16(c, a, b)   _mm256_dpwssd_avx_epi32(c, a, b)  /* pairs of 16 bits */
#define VI_DOT_SIGNED(c, w, x) (c)              /* not used: WIDE_SIGNED is 0 */
#else
/*
 * vpmaddubsw adds two products with saturation to 16 bits. Numbers below 64 never reach it; numbers
 * of 8 bits are kept signed and the sign moves to the activation: |w| <= 128 and |x| <= 127 give at
 * most 32512.
 */
#define WIDE_SIGNED         1
#define DOT_16BIT           1
#define VI_PAIRS(w, x)      _mm256_maddubs_epi16(w, x)
#define VI_WIDEN16(v)       _mm256_madd_epi16(v, _mm256_set1_epi16(1))
#define VI_DOT(c, w, x)     VI_ADD32(c, VI_WIDEN16(VI_PAIRS(w, x)))
#define VI_DOT16(c, a, b)   VI_ADD32(c, _mm256_madd_epi16(a, b))
#define VI_DOT_SIGNED(c, w, x) VI_DOT(c, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
#endif

#define PREFETCH(p)         _mm_prefetch((const char *) (p), _MM_HINT_T0)
#define PREFETCH_BYTES      8192

/* floats */
#define VF_ZERO()           _mm256_setzero_ps()
#define VF_SET(x)           _mm256_set1_ps(x)
#define VF_LOADU(p)         _mm256_loadu_ps(p)
#define VF_STOREU(p, v)     _mm256_storeu_ps(p, v)
#define VF_ADD(a, b)        _mm256_add_ps(a, b)
#define VF_SUB(a, b)        _mm256_sub_ps(a, b)
#define VF_MUL(a, b)        _mm256_mul_ps(a, b)
#define VF_DIV(a, b)        _mm256_div_ps(a, b)
#define VF_FMA(a, b, c)     _mm256_fmadd_ps(a, b, c)
#define VF_FNMA(a, b, c)    _mm256_fnmadd_ps(a, b, c)
#define VF_FMS(a, b, c)     _mm256_fmsub_ps(a, b, c)
#define VF_MAX(a, b)        _mm256_max_ps(a, b)         /* b when one is NaN */
#define VF_MIN(a, b)        _mm256_min_ps(a, b)
#define VF_NEG(a)           _mm256_xor_ps(a, _mm256_set1_ps(-0.0f))
#define VF_ABS(a)           _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a)
#define VF_ROUND(a)         _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define VF_SCALE2(a, n)     avx2_scale2(a, n)
#define VF_CVT(a)           _mm256_cvtepi32_ps(a)
#define VI_AS_F(a)          _mm256_castsi256_ps(a)
#define VF_AS_I(a)          _mm256_castps_si256(a)
#define VM_LT(a, b)         _mm256_cmp_ps(a, b, _CMP_LT_OQ)
#define VM_GE(a, b)         _mm256_cmp_ps(a, b, _CMP_GE_OQ)
#define VM_EQ(a, b)         _mm256_cmp_ps(a, b, _CMP_EQ_OQ)
#define VM_AND(a, b)        _mm256_and_ps(a, b)
#define VF_SEL(m, a, b)     _mm256_blendv_ps(b, a, m)   /* m ? a : b */
#define VF_HADD(a)          avx2_hadd(a)
#define VF_HMAX(a)          avx2_hmax(a)
#define ROW_MASK(n) _mm256_cmpgt_epi32(_mm256_set1_epi32((n) > 8 ? 8 : (int) (n)), VI_IOTA())
#define VF_LOADN(p, n)      _mm256_maskload_ps(p, ROW_MASK(n))
#define STORE_ROWS(p, v, n) _mm256_maskstore_ps(p, ROW_MASK(n), v)

/* narrow types, widened */
#define VEC_LOAD64(p)       _mm_loadl_epi64((const __m128i *) (const void *) (p))
#define VF_F16(p)           _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) (const void *) (p)))
#define VF_F16N(p, n)       avx2_f16n(p, n)
#define VF_U8(p)            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(VEC_LOAD64(p)))
#define VF_S8(p)            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(VEC_LOAD64(p)))
#define VF_S8N(p, n)        avx2_s8n(p, n)
#define VF_U4(p, shift)                                                                            \
    _mm256_cvtepi32_ps(_mm256_and_si256(                                                           \
        _mm256_srli_epi32(_mm256_cvtepu8_epi32(VEC_LOAD64(p)), shift), _mm256_set1_epi32(15)))
#define VF_E8(p)            avx2_e8(_mm256_cvtepu8_epi32(VEC_LOAD64(p)))
/* bytes p[r] and p[r + 16] as the 16-bit halves of dword r */
#define VI_PAIR_U8(p)                                                                              \
    _mm256_or_si256(_mm256_cvtepu8_epi32(VEC_LOAD64(p)),                                           \
                    _mm256_slli_epi32(_mm256_cvtepu8_epi32(VEC_LOAD64((p) + 16)), 16))
#define VF_STORE_F16(p, v)                                                                         \
    _mm_storeu_si128((__m128i *) (void *) (p),                                                     \
                     _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))

/*
 * register blocks: vectors of rows in a matrix product of many tokens, tokens of one of few, tokens
 * of a float product, rows of attention
 */
#define NV      2
#define THIN_TOKENS 4
#define FT      3
#define ATTN_R  4
/* more rows than these take 2 vectors of keys, or values, at once instead of 4 */
#define SCORE_ROWS_WIDE 3
#define VALUE_ROWS_WIDE 3

/*
 * A sum that is made here and now: compilers turn a chain of integer additions into a tree, which
 * needs more registers than there are.
 */
INLINE __m256i
avx2_keep(__m256i sum)
{
    __asm__("" : "+x"(sum));
    return sum;
}

/*
 * a * 2^n for integral n in [-252, 254], in two factors so that subnormal results and overflow come
 * out right
 */
INLINE __m256
avx2_scale2(__m256 a, __m256 n)
{
    __m256i i = _mm256_cvtps_epi32(n), h = _mm256_srai_epi32(i, 1), bias = _mm256_set1_epi32(127);
    __m256 f1 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(h, bias), 23));
    __m256 f2 =
        _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(i, h), bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(a, f1), f2);
}

INLINE float
avx2_hadd(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

INLINE float
avx2_hmax(__m256 v)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

INLINE __m256
avx2_f16n(const uint16_t *p, uint32_t n)
{
    uint16_t h[8] = { 0 };
    memcpy(h, p, (n < 8 ? n : 8) * sizeof(*h));
    return VF_F16(h);
}

INLINE __m256
avx2_s8n(const void *p, uint32_t n)
{
    int8_t q[8] = { 0 };
    memcpy(q, p, n < 8 ? n : 8);
    return VF_S8(q);
}

/* 2^(e - 128); 2^-128 and 2^-127 are subnormal */
INLINE __m256
avx2_e8(__m256i e)
{
    __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    __m256i small = _mm256_sllv_epi32(_mm256_set1_epi32(0x200000), e);
    return _mm256_castsi256_ps(
        _mm256_blendv_epi8(normal, small, _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e)));
}

#endif
