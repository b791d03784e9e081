/*
 * quant_x86.h - rounds activations to 8 bits with 256-bit vectors, for the x86 sets; private to
 * tensor/.
 *
 * The arithmetic of actbuf.h.
 */
#ifndef LLM_QUANT_X86_H
#define LLM_QUANT_X86_H

#include "tensor/actbuf.h"

#include <immintrin.h>
#include <stddef.h>

_Static_assert(offsetof(act_run_t, d) == 64 && offsetof(act_run_t, half_neg) == 80,
               "d and neg are stored at once");

static inline float
quant_max(__m256 v)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    m = _mm_max_ss(m, _mm_movehdup_ps(m));
    return _mm_cvtss_f32(m);
}

static inline __m256
quant_abs(__m256 v)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
}

/* Rounds 32 values and stores them. Returns sums of 4, the first half's in the lower lane. */
static inline __m256i
quant_round(int8_t q[32], const __m256 v[4], __m256 inverse)
{
    __m256i i[4];

    for (int k = 0; k < 4; k++) {
        i[k] = _mm256_cvtps_epi32(_mm256_mul_ps(v[k], inverse));
    }
    /* the packs work inside 128-bit halves: dwords come out in the order 0 2 4 6 1 3 5 7 */
    __m256i w01 = _mm256_packs_epi32(i[0], i[1]), w23 = _mm256_packs_epi32(i[2], i[3]);
    __m256i b = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(w01, w23),
                                            _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_store_si256((__m256i *) (void *) q, b);
    return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), b), _mm256_set1_epi16(1));
}

/* The largest |x| in each of four parts of 32. */
static inline __m128
quant_max32(const __m256 v[4])
{
    __m256 m = _mm256_max_ps(_mm256_max_ps(quant_abs(v[0]), quant_abs(v[1])),
                             _mm256_max_ps(quant_abs(v[2]), quant_abs(v[3])));
    return _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
}

static inline void
quant_run(act_run_t *out, bool joint, float ds[4], const float *x)
{
    __m256 v[8];

    for (int i = 0; i < 8; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
    }
    /* max, dd and inverse: twice that of the first block, twice that of the second */
    __m128 m0 = quant_max32(v), m1 = quant_max32(v + 4);
    __m128 max = _mm_max_ps(_mm_unpacklo_ps(m0, m1), _mm_unpackhi_ps(m0, m1));
    max = _mm_max_ps(max, _mm_movehl_ps(max, max));
    max = _mm_unpacklo_ps(max, max);
    if (joint) {
        max = _mm_max_ps(max, _mm_shuffle_ps(max, max, _MM_SHUFFLE(0, 0, 2, 2)));
    }
    const __m128 top = _mm_set1_ps(127.0f), tiny = _mm_cmplt_ps(max, _mm_set1_ps(ACT_TINY));
    __m128 dd = _mm_andnot_ps(tiny, _mm_div_ps(max, top));
    __m128 inverse = _mm_andnot_ps(tiny, _mm_div_ps(top, max));

    __m256i a = quant_round(out->q, v, _mm256_broadcastss_ps(inverse));
    __m256i b = quant_round(out->q + 32, v + 4,
                            _mm256_broadcastss_ps(_mm_movehl_ps(inverse, inverse)));
    __m256i pairs = _mm256_hadd_epi32(a, b);        /* halves 0 0 2 2, 1 1 3 3 */
    pairs = _mm256_hadd_epi32(pairs, pairs);        /* 0 2 0 2, 1 3 1 3 */
    __m128i sums = _mm_unpacklo_epi32(_mm256_castsi256_si128(pairs),
                                      _mm256_extracti128_si256(pairs, 1));
    __m128i neg = _mm_sub_epi32(_mm_setzero_si128(), sums);
    _mm_store_ps(ds, _mm_mul_ps(dd, _mm_cvtepi32_ps(sums)));
    __m128i blocks = _mm_hadd_epi32(neg, neg);
    dd = _mm_shuffle_ps(dd, dd, _MM_SHUFFLE(2, 0, 2, 0));       /* one and the other, twice */
    _mm_store_ps(out->d, _mm_movelh_ps(dd, _mm_castsi128_ps(blocks)));
    if (joint) {
        _mm_store_si128((__m128i *) (void *) out->half_neg, neg);
    } else {
        blocks = _mm_sub_epi32(_mm_setzero_si128(), blocks);
        _mm_store_ps(out->ds, _mm_mul_ps(dd, _mm_cvtepi32_ps(blocks)));
    }
}

static inline void
quant_sums(act_sums_t *out, const float ds[16])
{
    __m256 a = _mm256_loadu_ps(ds), b = _mm256_loadu_ps(ds + 8);
    float max = quant_max(_mm256_max_ps(quant_abs(a), quant_abs(b)));
    __m256 inverse = _mm256_set1_ps(max > 0.0f ? ACT_SUM / max : 0.0f);
    __m256i s = _mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(a, inverse)),
                                   _mm256_cvtps_epi32(_mm256_mul_ps(b, inverse)));
    s = _mm256_permute4x64_epi64(s, _MM_SHUFFLE(3, 1, 2, 0));
    __m128i low = _mm256_castsi256_si128(s), high = _mm256_extracti128_si256(s, 1);
    _mm256_store_si256((__m256i *) (void *) out->half, s);
    _mm_store_si128((__m128i *) (void *) out->sum, _mm_hadd_epi16(low, high));
    _mm_store_ps(&out->d, _mm_set_ss(max / ACT_SUM));
}

static inline void
quant_tokens(const llm_act_t *a, uint32_t t0, uint32_t t1)
{
    static const act_round_t set = { quant_run, quant_sums };
    act_quantize(a, t0, t1, &set);
}

#endif
