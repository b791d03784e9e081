/*
 * kern_avx2.c - the `avx2` kernel set. Matrix products use AVX-VNNI where the CPU has it.
 */
#include "base/cpu.h"
#include "tensor/kern_isa.h"
#include "tensor/kern_ref.h"
#include "tensor/quant_x86.h"

#define FN(x)    avx2_##x
#define TARGET
#define VEC_VNNI 0
#include "tensor/vec_avx2.h"

#include <math.h>

#include "tensor/kern_float.inc"
#include "tensor/kern_attn.inc"

static void
quant(const llm_act_t *a, uint32_t t0, uint32_t t1)
{
    quant_tokens(a, t0, t1);
}

static void
mm(const llm_mat_t *w, uint32_t tile0, uint32_t tile1, const llm_act_t *a, float *y, size_t ldy)
{
    if (llm_cpu_features() & LLM_CPU_AVX_VNNI) {
        llm_vnni_mm(w, tile0, tile1, a, y, ldy);
    } else {
        llm_avx2_mm(w, tile0, tile1, a, y, ldy);
    }
}

const llm_kern_t llm_kern_avx2 = {
    .name = "avx2",
    .quant = quant,
    .act_forms = act_forms,
    .mm = mm,
    .norm_rms = avx2_norm_rms,
    .norm_layer = avx2_norm_layer,
    .act_mul = avx2_act_mul,
    .add = avx2_add,
    .rope = avx2_rope,
    .kv_store = avx2_kv_store,
    .attn = avx2_attn,
    .attn_merge = avx2_attn_merge,
    .log_sum_exp = avx2_log_sum_exp,
    .argmax = avx2_argmax,
};
