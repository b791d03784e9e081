/*
 * kern_c.c - the `c` kernel set: int8 activations and short vectors in portable C.
 */
#include "tensor/actbuf.h"
#include "tensor/kern_c.h"
#include "tensor/kern_ref.h"
#include "tensor/vec_c.h"

#include <math.h>

#include "tensor/kern_float.inc"
#include "tensor/kern_attn.inc"

const llm_kern_t llm_kern_c = {
    .name = "c", .quant = llm_c_quant, .act_forms = act_forms, .mm = llm_c_mm,
    .norm_rms = c_norm_rms, .norm_layer = c_norm_layer, .act_mul = c_act_mul, .add = c_add,
    .rope = c_rope, .kv_store = c_kv_store, .attn = c_attn, .attn_merge = c_attn_merge,
    .log_sum_exp = c_log_sum_exp, .argmax = c_argmax,
};
