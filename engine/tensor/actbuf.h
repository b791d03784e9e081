/*
 * actbuf.h - activations rounded to 8 bits, as the int8 kernel sets read them; private to tensor/.
 *
 * Per 32 values of one token: d = max|x| / 127, q = round to nearest even (x * (127 / max|x|)).
 * Numbers of weights are stored unsigned; an offset is folded in by starting the integer sum at -offset * sum(q), and a
 * minimum by adding min * (d * sum(q)). All multiples that a layout can need are kept ready for broadcasting.
 */
#ifndef LLM_ACTBUF_H
#define LLM_ACTBUF_H

#include "tensor/pack.h"

typedef struct {
    int8_t  q[32];
    float   d;
    float   ds;             /* d * sum of all 32 */
    float   ds_half[2];     /* d * sum of 16 */
    int32_t n8, n16, n128;  /* -8, -16, -128 times the sum of all 32 */
    int32_t n4[2], n32[2];  /* -4, -32 times the sum of 16 */
    int32_t unused;
} act_block_t;

_Static_assert(sizeof(act_block_t) == 80, "act_block_t");

#endif
