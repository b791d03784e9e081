/*
 * quant_x86.h - rounds activations to 8 bits with 256-bit vectors, for the x86 sets; private to
 * tensor/.
 *
 * One pass over 32 values at a time; the arithmetic of actbuf.h.
 */
#ifndef LLM_QUANT_X86_H
#define LLM_QUANT_X86_H

#include "tensor/actbuf.h"

#include <immintrin.h>
#include <stddef.h>

/* the sums of a record are stored four at a time */
_Static_assert(offsetof(act_block_t, d) == 32 && offsetof(act_block_t, neg) == 48,
               "d, d * sums and sums as they are stored");

static inline float
quant_max(__m256 v)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    m = _mm_max_ss(m, _mm_movehdup_ps(m));
    return _mm_cvtss_f32(m);
}

/* Four sums of 4 neighbours each, of 16 signed bytes. */
static inline __m128i
quant_sum4(__m128i q)
{
    return _mm_madd_epi16(_mm_maddubs_epi16(_mm_set1_epi8(1), q), _mm_set1_epi16(1));
}

static inline void
quant_block(act_block_t *out, const float *x)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 v[4];
    __m256i q[4];

    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
    }
    float max = quant_max(
        _mm256_max_ps(_mm256_max_ps(_mm256_andnot_ps(sign, v[0]), _mm256_andnot_ps(sign, v[1])),
                      _mm256_max_ps(_mm256_andnot_ps(sign, v[2]), _mm256_andnot_ps(sign, v[3]))));
    bool tiny = max < ACT_TINY;
    float d = tiny ? 0.0f : max / 127.0f;
    __m256 inverse = _mm256_set1_ps(tiny ? 0.0f : 127.0f / max);
    for (int i = 0; i < 4; i++) {
        q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
    }
    /* the packs work inside 128-bit halves: dwords come out in the order 0 2 4 6 1 3 5 7 */
    __m256i w01 = _mm256_packs_epi32(q[0], q[1]), w23 = _mm256_packs_epi32(q[2], q[3]);
    __m256i b = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(w01, w23),
                                            _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_store_si256((__m256i *) (void *) out->q, b);

    /* s0 s1 s0 s1: the sums of both halves; then both added, both added, s0, s1 */
    __m128i s = _mm_hadd_epi32(quant_sum4(_mm256_castsi256_si128(b)),
                               quant_sum4(_mm256_extracti128_si256(b, 1)));
    s = _mm_hadd_epi32(s, s);
    s = _mm_unpacklo_epi64(_mm_hadd_epi32(s, s), s);
    __m128 ds = _mm_mul_ps(_mm_set1_ps(d), _mm_cvtepi32_ps(s));
    _mm_store_ps(&out->d, _mm_blend_ps(ds, _mm_set_ss(d), 1));
    __m128i neg = _mm_sub_epi32(_mm_setzero_si128(), _mm_shuffle_epi32(s, _MM_SHUFFLE(3, 3, 2, 1)));
    _mm_store_si128((__m128i *) (void *) &out->neg,
                    _mm_blend_epi16(neg, _mm_setzero_si128(), 0xc0));
}

static inline void
quant_tokens(const llm_act_t *a, uint32_t t0, uint32_t t1)
{
    for (uint32_t t = t0; t < t1; t++) {
        uint32_t width, n_blocks = a->k / 32;
        act_block_t *out = act_panel(a, t / ACT_PANEL, &width) + t % ACT_PANEL;
        for (uint32_t b = 0; b < n_blocks; b++) {
            quant_block(out + (size_t) b * width, a->x + t * a->ldx + 32 * (size_t) b);
        }
    }
}

#endif
