/*
 * kern_avx512.c - the `avx512` kernel set.
 */
#include "tensor/kern_isa.h"
#include "tensor/kern_ref.h"
#include "tensor/quant_x86.h"
#include "tensor/vec_avx512.h"

#include <math.h>

#include "tensor/kern_float.inc"
#include "tensor/kern_attn.inc"

static void
quant(const llm_act_t *a, uint32_t t0, uint32_t t1)
{
    quant_tokens(a, t0, t1);
}

const llm_kern_t llm_kern_avx512 = {
    .name = "avx512",
    .quant = quant,
    .act_forms = act_forms,
    .mm = llm_avx512_mm,
    .norm_rms = avx512_norm_rms,
    .norm_layer = avx512_norm_layer,
    .act_mul = avx512_act_mul,
    .add = avx512_add,
    .rope = avx512_rope,
    .kv_store = avx512_kv_store,
    .attn = avx512_attn,
    .attn_merge = avx512_attn_merge,
    .log_sum_exp = avx512_log_sum_exp,
    .argmax = avx512_argmax,
};
