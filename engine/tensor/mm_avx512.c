/*
 * mm_avx512.c - matrix products on AVX-512 VNNI: the vector macros under mm_int8.inc and
 * mm_float.inc.
 */
#include "tensor/actbuf.h"
#include "tensor/kern_isa.h"
#include "tensor/vec_avx512.h"

/* tokens from which unpacking into L1 pays */
#define MM_WIDE_FROM        24
#define MM_WIDE_FROM_COSTLY 24
#define FLOAT_WIDE_FROM     17

/* IQ4 values + 128; FP4 values + 16 */
static const uint8_t avx512_lut[2][16] __attribute__((aligned(16))) = {
    { 1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241 },
    { 16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4 },
};

#include "tensor/mm_int8.inc"
#include "tensor/mm_float.inc"

void
llm_avx512_mm(const llm_mat_t *w, uint32_t tile0, uint32_t tile1, const llm_act_t *a, float *y,
              size_t ldy)
{
    if (lay_is_float(w->layout)) {
        avx512_mm_float(w, tile0, tile1, a, y, ldy);
    } else {
        avx512_mm_int8(w, tile0, tile1, a, y, ldy);
    }
}
