/*
 * vec_avx512.h - the vector macros under the .inc files, on AVX-512 F, BW, VL, DQ, VNNI; private to
 * tensor/.
 */
#ifndef LLM_VEC_AVX512_H
#define LLM_VEC_AVX512_H

#include "tensor/pack.h"

#include <immintrin.h>

#define FN(x)  avx512_##x
#define TARGET
#define UNROLL _Pragma("GCC unroll 16")
#define INLINE static inline __attribute__((always_inline)) TARGET

#define VL 16
#define VI __m512i
#define VF __m512
#define VM __mmask16

/* integers */
#define VI_LOAD(p)          _mm512_load_si512((const void *) (p))
#define VI_ZERO()           _mm512_setzero_si512()
#define VI_SET8(x)          _mm512_set1_epi8(x)
#define VI_SET16(x)         _mm512_set1_epi16(x)
#define VI_SET32(x)         _mm512_set1_epi32(x)
#define VI_AND(a, b)        _mm512_and_si512(a, b)
#define VI_OR(a, b)         _mm512_or_si512(a, b)
#define VI_XOR(a, b)        _mm512_xor_si512(a, b)
#define VI_ADD32(a, b)      _mm512_add_epi32(a, b)
#define VI_SRL16(a, n)      _mm512_srli_epi16(a, n)
#define VI_SLL16(a, n)      _mm512_slli_epi16(a, n)
#define VI_SLL32(a, n)      _mm512_slli_epi32(a, n)
#define VI_SRL32(a, n)      _mm512_srli_epi32(a, n)
#define VI_IOTA()           _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#define VI_SEL(m, a, b)     _mm512_mask_blend_epi32(m, b, a)
#define VI_STORE(p, v)      _mm512_storeu_si512(p, v)
#define VI_LUT(v, table)                                                                           \
    _mm512_shuffle_epi8(                                                                           \
        _mm512_broadcast_i32x4(_mm_load_si128((const __m128i *) (const void *) (table))), v)
#define VI_DOT(c, w, x)     _mm512_dpbusd_epi32(c, w, x)
#define VI_DOT_SIGNED(c, w, x) (c)              /* not used: WIDE_SIGNED is 0 */
#define VI_DOT16(c, a, b)   _mm512_dpwssd_epi32(c, a, b)  /* pairs of 16 bits */
#define WIDE_SIGNED         0
#define DOT_16BIT           0
#define PREFETCH(p)         _mm_prefetch((const char *) (p), _MM_HINT_T0)
#define PREFETCH_BYTES      8192

/* floats */
#define VF_ZERO()           _mm512_setzero_ps()
#define VF_SET(x)           _mm512_set1_ps(x)
#define VF_LOADU(p)         _mm512_loadu_ps(p)
#define VF_STOREU(p, v)     _mm512_storeu_ps(p, v)
#define VF_ADD(a, b)        _mm512_add_ps(a, b)
#define VF_SUB(a, b)        _mm512_sub_ps(a, b)
#define VF_MUL(a, b)        _mm512_mul_ps(a, b)
#define VF_DIV(a, b)        _mm512_div_ps(a, b)
#define VF_FMA(a, b, c)     _mm512_fmadd_ps(a, b, c)
#define VF_FNMA(a, b, c)    _mm512_fnmadd_ps(a, b, c)
#define VF_FMS(a, b, c)     _mm512_fmsub_ps(a, b, c)
#define VF_MAX(a, b)        _mm512_max_ps(a, b)         /* b when one is NaN */
#define VF_MIN(a, b)        _mm512_min_ps(a, b)
#define VF_NEG(a)           _mm512_xor_ps(a, _mm512_set1_ps(-0.0f))
#define VF_ABS(a)           _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a)
#define VF_ROUND(a)         _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define VF_SCALE2(a, n)     _mm512_scalef_ps(a, n)      /* a * 2^n, n integral */
#define VF_CVT(a)           _mm512_cvtepi32_ps(a)
#define VI_AS_F(a)          _mm512_castsi512_ps(a)
#define VF_AS_I(a)          _mm512_castps_si512(a)
#define VM_LT(a, b)         _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ)
#define VM_GE(a, b)         _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ)
#define VM_EQ(a, b)         _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ)
#define VM_AND(a, b)        ((VM) ((a) & (b)))
#define VF_SEL(m, a, b)     _mm512_mask_blend_ps(m, b, a)   /* m ? a : b */
#define VF_HADD(a)          _mm512_reduce_add_ps(a)
#define VF_HMAX(a)          _mm512_reduce_max_ps(a)
#define ROW_MASK(n)         ((__mmask16) ((n) >= 16 ? 0xffffu : (1u << (n)) - 1))
#define VF_LOADN(p, n)      _mm512_maskz_loadu_ps(ROW_MASK(n), p)
#define STORE_ROWS(p, v, n) _mm512_mask_storeu_ps(p, ROW_MASK(n), v)

/* narrow types, widened */
#define VEC_LOAD128(p)      _mm_loadu_si128((const __m128i *) (const void *) (p))
#define VF_F16(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) (const void *) (p)))
#define VF_F16N(p, n)       _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(ROW_MASK(n), p))
#define VF_U8(p)            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(VEC_LOAD128(p)))
#define VF_S8(p)            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(VEC_LOAD128(p)))
#define VF_S8N(p, n)                                                                               \
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(ROW_MASK(n), p)))
#define VF_U4(p, shift)                                                                            \
    _mm512_cvtepi32_ps(_mm512_and_si512(                                                           \
        _mm512_srli_epi32(_mm512_cvtepu8_epi32(VEC_LOAD128(p)), shift), _mm512_set1_epi32(15)))
#define VF_E8(p)            avx512_e8(_mm512_cvtepu8_epi32(VEC_LOAD128(p)))
/* bytes p[r] and p[r + 16] as the 16-bit halves of dword r */
#define VI_PAIR_U8(p)                                                                              \
    _mm512_or_si512(_mm512_cvtepu8_epi32(VEC_LOAD128(p)),                                          \
                    _mm512_slli_epi32(_mm512_cvtepu8_epi32(VEC_LOAD128((p) + 16)), 16))
#define VF_STORE_F16(p, v)                                                                         \
    _mm256_storeu_si256((__m256i *) (void *) (p),                                                  \
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))

/*
 * register blocks: vectors of rows in a matrix product of many tokens, tokens of one of few, tokens
 * of a float product, rows of attention
 */
#define NV      2
#define THIN_TOKENS 8
#define FT      6
#define ATTN_R  8
/* more rows than these take 2 vectors of keys, or values, at once instead of 4 */
#define SCORE_ROWS_WIDE 0 /* 2 are a page */
#define VALUE_ROWS_WIDE 6

/* 2^(e - 128); 2^-128 and 2^-127 are subnormal */
static inline __m512
avx512_e8(__m512i e)
{
    __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    __m512i small = _mm512_sllv_epi32(_mm512_set1_epi32(0x200000), e);
    return _mm512_castsi512_ps(
        _mm512_mask_blend_epi32(_mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2)), normal, small));
}

#endif
