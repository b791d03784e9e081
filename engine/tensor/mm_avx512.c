/*
 * mm_avx512.c - matrix products with int8 activations on AVX-512 VNNI: the vector macros under mm_int8.inc.
 */
#include "tensor/actbuf.h"
#include "tensor/kern_isa.h"

#include <immintrin.h>

#define FN(x)  avx512_##x
#define TARGET
#define UNROLL _Pragma("GCC unroll 16")

#define VL 16
#define NV 2
#define VI __m512i
#define VF __m512

#define VI_LOAD(p)         _mm512_load_si512((const void *) (p))
#define VI_ZERO()          _mm512_setzero_si512()
#define VI_SET8(x)         _mm512_set1_epi8(x)
#define VI_SET32(x)        _mm512_set1_epi32(x)
#define VI_AND(a, b)       _mm512_and_si512(a, b)
#define VI_OR(a, b)        _mm512_or_si512(a, b)
#define VI_SRL16(a, n)     _mm512_srli_epi16(a, n)
#define VI_SLL16(a, n)     _mm512_slli_epi16(a, n)
#define VI_SLL32(a, n)     _mm512_slli_epi32(a, n)
#define VI_LUT(v, table)   _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_load_si128((const __m128i *) (const void *) (table))), v)
#define VI_DOT(c, w, x)    _mm512_dpbusd_epi32(c, w, x)
#define VI_DOT_SIGNED(c, w, x) (c)              /* not used: WIDE_SIGNED is 0 */
#define WIDE_SIGNED        0
#define VI_PREFETCH(p)     _mm_prefetch((const char *) (p), _MM_HINT_T0)
#define PREFETCH_BYTES     2048

#define VF_ZERO()          _mm512_setzero_ps()
#define VF_SET(x)          _mm512_set1_ps(x)
#define VF_LOADU(p)        _mm512_loadu_ps(p)
#define VF_STOREU(p, v)    _mm512_storeu_ps(p, v)
#define VF_MUL(a, b)       _mm512_mul_ps(a, b)
#define VF_SUB(a, b)       _mm512_sub_ps(a, b)
#define VF_FMA(a, b, c)    _mm512_fmadd_ps(a, b, c)
#define VF_NEG(a)          _mm512_xor_ps(a, _mm512_set1_ps(-0.0f))
#define VF_CVT(a)          _mm512_cvtepi32_ps(a)
#define LOAD128(p)         _mm_load_si128((const __m128i *) (const void *) (p))
#define VF_F16(p)          _mm512_cvtph_ps(_mm256_load_si256((const __m256i *) (const void *) (p)))
#define VF_U8(p)           _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(LOAD128(p)))
#define VF_S8(p)           _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(LOAD128(p)))
#define VF_U4(p, shift)    _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(_mm512_cvtepu8_epi32(LOAD128(p)), shift), \
                                                               _mm512_set1_epi32(15)))
/* 2^(e - 128); 2^-128 and 2^-127 are subnormal and come from shifting the implicit bit */
#define VF_E8(p)           avx512_e8(_mm512_cvtepu8_epi32(LOAD128(p)))
#define STORE_ROWS(p, v, n) _mm512_mask_storeu_ps(p, (__mmask16) ((n) >= 16 ? 0xffff : (1u << (n)) - 1), v)

#define MM_WIDE_FROM 9

static inline __m512
avx512_e8(__m512i e)
{
    __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    __m512i small = _mm512_sllv_epi32(_mm512_set1_epi32(0x200000), e);
    return _mm512_castsi512_ps(_mm512_mask_blend_epi32(_mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2)), normal, small));
}

/* IQ4 values + 128; FP4 values + 16 */
static const uint8_t avx512_lut[2][16] __attribute__((aligned(16))) = {
    { 1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241 },
    { 16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4 },
};

#include "tensor/mm_int8.inc"

void
llm_avx512_mm_int8(const llm_mat_t *w, uint32_t tile0, uint32_t tile1, const llm_act_t *a, float *y, size_t ldy)
{
    avx512_mm_int8(w, tile0, tile1, a, y, ldy);
}
