/*
 * mm_avx2.c - matrix products on AVX2.
 */
#include "tensor/actbuf.h"
#include "tensor/kern_isa.h"

#define FN(x)    avx2_##x
#define TARGET
#define VEC_VNNI 0
#include "tensor/vec_avx2.h"

/* tokens from which unpacking into L1 pays */
#define MM_WIDE_FROM        9
#define MM_WIDE_FROM_COSTLY 9
#define FLOAT_WIDE_FROM     3

/* IQ4 values as they are (WIDE_SIGNED); FP4 values + 16 */
static const int8_t avx2_lut[2][16] __attribute__((aligned(16))) = {
    { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 },
    { 16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4 },
};

#include "tensor/mm_int8.inc"
#include "tensor/mm_float.inc"

void
llm_avx2_mm(const llm_mat_t *w, uint32_t tile0, uint32_t tile1, const llm_act_t *a, float *y,
            size_t ldy)
{
    if (lay_is_float(w->layout)) {
        avx2_mm_float(w, tile0, tile1, a, y, ldy);
    } else {
        avx2_mm_int8(w, tile0, tile1, a, y, ldy);
    }
}
