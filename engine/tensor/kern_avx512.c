/*
 * kern_avx512.c - the `avx512` kernel set.
 */
#include "tensor/kern_isa.h"
#include "tensor/kern_ref.h"
#include "tensor/quant_x86.h"

static void
quant(const llm_act_t *a, uint32_t t0, uint32_t t1)
{
    quant_tokens(a, t0, t1);
}

static bool
needs_quant(const llm_mat_t *w)
{
    return !lay_is_float(w->layout);
}

static void
mm(const llm_mat_t *w, uint32_t tile0, uint32_t tile1, const llm_act_t *a, float *y, size_t ldy)
{
    if (lay_is_float(w->layout)) {
        llm_ref_mm(w, tile0, tile1, a, y, ldy);
    } else {
        llm_avx512_mm_int8(w, tile0, tile1, a, y, ldy);
    }
}

const llm_kern_t llm_kern_avx512 = {
    .name = "avx512", .quant = quant, .needs_quant = needs_quant, .mm = mm,
    .norm_rms = llm_ref_norm_rms, .norm_layer = llm_ref_norm_layer, .act_mul = llm_ref_act_mul, .add = llm_ref_add,
    .rope = llm_ref_rope, .kv_store = llm_ref_kv_store, .attn = llm_ref_attn, .attn_merge = llm_ref_attn_merge,
    .log_sum_exp = llm_ref_log_sum_exp, .argmax = llm_ref_argmax,
};
