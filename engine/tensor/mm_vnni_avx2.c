/*
 * mm_vnni_avx2.c - matrix products on AVX2 with AVX-VNNI (vpdpbusd for 256-bit registers).
 */
#include "tensor/actbuf.h"
#include "tensor/kern_isa.h"

#define FN(x)    vnni_##x
#define TARGET   __attribute__((target("avxvnni")))
#define VEC_VNNI 1
#include "tensor/vec_avx2.h"

/* tokens from which unpacking into L1 pays */
#define MM_WIDE_FROM        20
#define MM_WIDE_FROM_COSTLY 9

/* IQ4 values + 128; FP4 values + 16 */
static const uint8_t vnni_lut[2][16] __attribute__((aligned(16))) = {
    { 1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241 },
    { 16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4 },
};

#include "tensor/mm_int8.inc"

void
llm_vnni_mm(const llm_mat_t *w, uint32_t tile0, uint32_t tile1, const llm_act_t *a, float *y,
            size_t ldy)
{
    if (lay_is_float(w->layout)) {
        llm_avx2_mm(w, tile0, tile1, a, y, ldy);
    } else {
        vnni_mm_int8(w, tile0, tile1, a, y, ldy);
    }
}
