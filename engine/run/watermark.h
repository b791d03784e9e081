/*
 * watermark.h - green lists (Kirchenbauer et al. 2023, arXiv:2301.10226), those of TGI on a CPU.
 *
 * The token before seeds a permutation of the ids, as torch's manual_seed and randperm make it; its
 * first part is green. Whoever knows the key can tell from a text that too many of its tokens are
 * green.
 */
#ifndef LLM_WATERMARK_H
#define LLM_WATERMARK_H

#include <stdint.h>

/* Ids of n that are green for a part gamma: the floor of n * gamma. */
uint32_t llm_watermark_n_green(uint32_t n, float gamma);

/*
 * green[0 .. n_green) becomes the green ids after token t, in the order of the permutation of
 * 0 .. n-1; the rest of green[0 .. n) is scratch. n_green <= n. O(n).
 * Source: spec http-api.md 6.2; its vectors are in t/engine/run_watermark.c.
 */
void llm_watermark_green(uint32_t *green, uint32_t n, uint32_t n_green, int32_t t);

#endif
