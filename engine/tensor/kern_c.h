/*
 * kern_c.h - the matrix products of the portable set (mm_c.c); private to tensor/.
 *
 * Contracts: llm_kern_t in kern.h.
 */
#ifndef LLM_KERN_C_H
#define LLM_KERN_C_H

#include "tensor/kern.h"

void llm_c_mm(const llm_mat_t *w, uint32_t tile0, uint32_t tile1, const llm_act_t *a, float *y,
              size_t ldy);
void llm_c_quant(const llm_act_t *a, uint32_t t0, uint32_t t1);

#endif
