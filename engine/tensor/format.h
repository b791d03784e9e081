/*
 * format.h - number formats of model files: one table of block layouts (spec models.md
 * section 9.1).
 */
#ifndef LLM_FORMAT_H
#define LLM_FORMAT_H

#include "llm.h"

/* The ids of GGUF; LLM_T_COUNT bounds the table. */
typedef enum {
    LLM_T_F32 = 0, LLM_T_F16 = 1, LLM_T_BF16 = 30,
    LLM_T_Q4_0 = 2, LLM_T_Q4_1 = 3, LLM_T_Q5_0 = 6, LLM_T_Q5_1 = 7, LLM_T_Q8_0 = 8,
    LLM_T_Q2_K = 10, LLM_T_Q3_K = 11, LLM_T_Q4_K = 12, LLM_T_Q5_K = 13, LLM_T_Q6_K = 14,
    LLM_T_IQ4_NL = 20, LLM_T_IQ4_XS = 23, LLM_T_MXFP4 = 39,
    LLM_T_COUNT = 40
} llm_type_t;

typedef struct {
    const char *name;           /* "Q4_K" */
    uint32_t    block;          /* values in a block */
    uint32_t    bytes;          /* bytes of a block */
    /*
     * n values (a multiple of block) from src, which may be unaligned, to dst. Exact: products are
     * formed in f32.
     */
    void      (*dequant)(float *dst, const void *src, size_t n);
} llm_format_t;

/* NULL for a type that does not exist or that this version does not read. */
const llm_format_t *llm_format(uint32_t type);

/* Round to nearest even; NaN stays NaN. */
float    llm_f16_to_f32(uint16_t h);
uint16_t llm_f32_to_f16(float f);
static inline float
llm_bf16_to_f32(uint16_t h)
{
    union { uint32_t u; float f; } v = { .u = (uint32_t) h << 16 };
    return v.f;
}

#endif
