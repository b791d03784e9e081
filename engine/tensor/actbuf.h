/*
 * actbuf.h - activations rounded to 8 bits, as the int8 kernel sets read them; private to tensor/.
 *
 * Per 32 values of one token: d = max|x| / 127, q = x * (127 / max|x|) rounded to nearest even.
 * The arithmetic of every int8 set, for a row and a token, block after block:
 *     c    = sum over 32 columns of (number - offset) * q            exact int32
 *     acc  = fma(scale * d, (float) c, acc)
 *     acc  = fma(min, d * sum(q), acc)                               layouts with minimums
 * and for layouts with a scale for each half of a block:
 *     acc  = fma(d, fma(scale1, (float) c1, scale0 * (float) c0), acc)
 *     acc  = fma(min1, d * sum(q of half 1), fma(min0, d * sum(q of half 0), acc))
 *
 * A buffer holds panels of ACT_PANEL tokens (the last one: what is left); a panel holds for each
 * block the records of its tokens.
 */
#ifndef LLM_ACTBUF_H
#define LLM_ACTBUF_H

#include "tensor/pack.h"

#define ACT_PANEL 4
/* a block whose values are all smaller counts as zero: 127 / max would overflow */
#define ACT_TINY  1e-30f

typedef struct {
    int8_t  q[32];
    float   d;
    float   ds;                 /* d * sum(q) */
    float   ds_half[2];
    int32_t neg;                /* -sum(q): the integer sum starts at offset times this */
    int32_t neg_half[2];
    int32_t unused;
} act_block_t;

_Static_assert(sizeof(act_block_t) == 64, "one cache line");

/*
 * The first record of a panel of a buffer for n tokens; *width gets its tokens. Record of token t,
 * block b: [b * width + t].
 */
static inline act_block_t *
act_panel(const llm_act_t *a, uint32_t i_panel, uint32_t *width)
{
    uint32_t t0 = i_panel * ACT_PANEL;
    *width = a->n - t0 < ACT_PANEL ? a->n - t0 : ACT_PANEL;
    return (act_block_t *) a->buf + (size_t) t0 * ((a->k + 31) / 32);
}

#endif
