/*
 * watermark.c - the permutation of the ids that a token seeds (watermark.h).
 *
 * MT19937 (M. Matsumoto, T. Nishimura 1998) and the shuffle of R. Fisher and F. Yates from the
 * front, so what comes behind the green ids need not be shuffled.
 */
#include "watermark.h"

#define HASH_KEY 15485863u
#define MT_N 624
#define MT_M 397

typedef struct {
    uint32_t s[MT_N];
    uint32_t at;
} mt_t;

static void
mt_seed(mt_t *mt, uint32_t seed)
{
    mt->s[0] = seed;
    for (uint32_t i = 1; i < MT_N; i++) {
        mt->s[i] = 1812433253u * (mt->s[i - 1] ^ mt->s[i - 1] >> 30) + i;
    }
    mt->at = MT_N;
}

static void
mt_refill(mt_t *mt)
{
    for (uint32_t i = 0; i < MT_N; i++) {
        uint32_t next = mt->s[i + 1 < MT_N ? i + 1 : 0];
        uint32_t y = (mt->s[i] & 0x80000000u) | (next & 0x7fffffffu);
        mt->s[i] = mt->s[i + MT_M < MT_N ? i + MT_M : i + MT_M - MT_N] ^ y >> 1
                   ^ (next & 1 ? 0x9908b0dfu : 0);
    }
    mt->at = 0;
}

static uint32_t
mt_next(mt_t *mt)
{
    if (mt->at == MT_N) {
        mt_refill(mt);
    }
    uint32_t y = mt->s[mt->at++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

uint32_t
llm_watermark_n_green(uint32_t n, float gamma)
{
    /* gamma was a decimal fraction: what the float lost of it must not cost an id */
    double green = (double) n * gamma * (1 + 0x1p-24);
    return green < n ? (uint32_t) green : n;
}

void
llm_watermark_green(uint32_t *green, uint32_t n, uint32_t n_green, int32_t t)
{
    mt_t mt;
    mt_seed(&mt, HASH_KEY * (uint32_t) t);
    for (uint32_t i = 0; i < n; i++) {
        green[i] = i;
    }
    for (uint32_t i = 0; i < n_green && i + 1 < n; i++) {
        uint32_t k = i + mt_next(&mt) % (n - i), x = green[i];
        green[i] = green[k];
        green[k] = x;
    }
}
