/*
 * quantize.h - floats into the blocks of format.h.
 */
#ifndef LLM_QUANTIZE_H
#define LLM_QUANTIZE_H

#include "tensor/format.h"

/* F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K can be written. */
bool llm_can_quantize(uint32_t type);

/* The type with this name, whatever its case, that can be written; LLM_T_COUNT: none. */
uint32_t llm_quantize_type(const char *name);

/*
 * The type itself, or what takes its place in rows of cols values: K formats need 256 (else the
 * legacy format with the same bits, Q8_0 for Q6_K), legacy ones 32 (else F16).
 */
uint32_t llm_quantize_fit(uint32_t type, uint64_t cols);

/*
 * n values (a multiple of the type's block) from src to dst, n / block * bytes bytes, maybe
 * unaligned. Numbers are rounded to nearest for the scale (and minimum) that is stored; of a series
 * of scales, each refined by least squares, the one with the smallest squared error wins.
 * false: a value is not finite, or needs a scale beyond the range of f16; dst is undefined then.
 * Thread: any.
 * Tolerance: no error is larger than 1.5 steps of the grid that spans its block, and the RMSE of
 * legacy formats is no larger than that of PyPI's gguf 0.19 (t/engine/tensor_quantize.c).
 */
bool llm_quantize(uint32_t type, void *dst, const float *src, size_t n);

#endif
