/*
 * kern_isa.h - functions of the ISA objects that the tables of their sets are made of; private to
 * tensor/.
 *
 * Contracts: llm_kern_t in kern.h.
 */
#ifndef LLM_KERN_ISA_H
#define LLM_KERN_ISA_H

#include "tensor/kern.h"

void llm_avx512_mm(const llm_mat_t *w, uint32_t tile0, uint32_t tile1, const llm_act_t *a, float *y,
                   size_t ldy);
void llm_avx2_mm(const llm_mat_t *w, uint32_t tile0, uint32_t tile1, const llm_act_t *a, float *y,
                 size_t ldy);
/* AVX2 with AVX-VNNI: the same bits, faster. */
void llm_vnni_mm(const llm_mat_t *w, uint32_t tile0, uint32_t tile1, const llm_act_t *a, float *y,
                 size_t ldy);

#endif
