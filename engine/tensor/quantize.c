/*
 * quantize.c - floats into the blocks of format.h.
 *
 * Everything rests on two searches over one run of values. fit_scale looks for x ~ d q with q in
 * [lo, hi], fit_affine for x ~ d q + m with q in [0, hi]. Both try scales around the one that just
 * spans the run, round to nearest, improve the scale by least squares for these numbers and keep
 * what has the smallest squared error. Legacy formats store d and m as f16, and errors are measured
 * with the stored values; K formats search per sub-block in f32 first, then round scales to their
 * integers, where neighbours are tried with the stored d, and d itself is improved once.
 */
#include "tensor/quantize.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#define F16_MAX    65504.0f
#define MAX_RUN    32
#define N_SCALES   6            /* tried on each side of the spanning one */
#define LANES 8 /* partial sums, so that loops vectorize; runs are multiples of it */

/* To the nearest whole number, for |x| < 2^22; vectorizes where nearbyintf does not. */
static inline float
nearest(float x)
{
    return (x + 12582912.0f) - 12582912.0f;
}

static inline float
clamp(float x, float lo, float hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}

static inline float
stored(float x, bool f16)
{
    return f16 ? llm_f16_to_f32(llm_f32_to_f16(x)) : x;
}

static inline float
dot(const float *a, const float *b, int n)
{
    float sum[LANES] = { 0 };
    for (int i = 0; i < n; i += LANES) {
        for (int k = 0; k < LANES; k++) {
            sum[k] += a[i + k] * b[i + k];
        }
    }
    return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

/* Numbers q of n values for x ~ d q + m; returns the squared error. */
static float
round_run(float *q, const float *x, int n, float d, float m, float lo, float hi)
{
    float diff[MAX_RUN], inverse = d != 0 ? 1 / d : 0;
    inverse = isfinite(inverse) ? inverse : 0;
    for (int i = 0; i < n; i++) {
        q[i] = nearest(clamp((x[i] - m) * inverse, lo, hi));
        diff[i] = x[i] - (d * q[i] + m);
    }
    return dot(diff, diff, n);
}

typedef struct { float d, m, error; } fit_t;

static void
keep_better(fit_t *best, const float *x, int n, float d, float m, float lo, float hi)
{
    float q[MAX_RUN], error = round_run(q, x, n, d, m, lo, hi);
    if (error < best->error) {
        *best = (fit_t) { d, m, error };
    }
}

/* x ~ d q; d may be negative, so that the largest value can take the longer side. */
static fit_t
fit_scale(const float *x, int n, float lo, float hi, bool f16)
{
    float q[MAX_RUN], peak = 0;
    for (int i = 0; i < n; i++) {
        peak = fabsf(x[i]) > fabsf(peak) ? x[i] : peak;
    }
    fit_t best = { 0, 0, INFINITY };
    keep_better(&best, x, n, 0, 0, lo, hi);
    keep_better(&best, x, n, stored(peak / lo, f16), 0, lo, hi);
    keep_better(&best, x, n, stored(peak / hi, f16), 0, lo, hi);
    for (int k = -N_SCALES; k <= N_SCALES && peak != 0; k++) {
        for (int side = 0; side < 2; side++) {
            float level = side == 0 ? lo - 0.15f * (float) k : hi + 0.15f * (float) k;
            round_run(q, x, n, peak / level, 0, lo, hi);
            float qq = dot(q, q, n);
            if (qq > 0) {
                keep_better(&best, x, n, stored(dot(x, q, n) / qq, f16), 0, lo, hi);
            }
        }
    }
    return best;
}

/* x ~ d q + m; with m <= 0 where a format can only subtract. */
static fit_t
fit_affine(const float *x, int n, float hi, bool f16, bool below)
{
    float q[MAX_RUN], ones[MAX_RUN], low = x[0], high = x[0];
    for (int i = 0; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
        ones[i] = 1;
    }
    float sum_x = dot(x, ones, n);
    low = below && low > 0 ? 0 : low;
    high = below && high < 0 ? low : high;
    fit_t best = { 0, 0, INFINITY };
    keep_better(&best, x, n, 0, stored(low, f16), 0, hi);
    keep_better(&best, x, n, stored((high - low) / hi, f16), stored(low, f16), 0, hi);
    for (int k = -N_SCALES; k <= N_SCALES && high > low; k++) {
        round_run(q, x, n, (high - low) / (hi + 0.2f * (float) k), low, 0, hi);
        float sum_q = dot(q, ones, n), qq = dot(q, q, n), xq = dot(x, q, n);
        float det = (float) n * qq - sum_q * sum_q;
        if (det <= 0) {
            continue;
        }
        float d = ((float) n * xq - sum_q * sum_x) / det, m = (sum_x - d * sum_q) / (float) n;
        if (below && m > 0) {
            m = 0;
            d = xq / qq;
        }
        keep_better(&best, x, n, stored(d, f16), stored(m, f16), 0, hi);
    }
    return best;
}

static void
put_f16(uint8_t *dst, float x)
{
    uint16_t h = llm_f32_to_f16(x);
    memcpy(dst, &h, sizeof(h));
}

/* ------------------------------------------------------------ plain floats */

static void
quant_f32(uint8_t *dst, const float *x)
{
    memcpy(dst, x, 4);
}

static void
quant_f16(uint8_t *dst, const float *x)
{
    put_f16(dst, *x);
}

static void
quant_bf16(uint8_t *dst, const float *x)
{
    uint32_t u;
    memcpy(&u, x, 4);
    uint16_t h = (uint16_t) ((u + 0x7fff + (u >> 16 & 1)) >> 16);
    memcpy(dst, &h, 2);
}

/* ---------------------------------------------------------- blocks of 32 */

/* Nibbles of 32 numbers at dst; the fifth bits, if there are any, into *high. */
static void
put_nibbles(uint8_t *dst, const float *q, float offset, uint32_t *high)
{
    *high = 0;
    for (int i = 0; i < 16; i++) {
        uint32_t a = (uint32_t) (q[i] + offset), b = (uint32_t) (q[i + 16] + offset);
        dst[i] = (uint8_t) ((a & 15) | (b & 15) << 4);
        *high |= (a >> 4) << i | (b >> 4) << (i + 16);
    }
}

static void
quant_q8_0(uint8_t *dst, const float *x)
{
    float q[32];
    fit_t f = fit_scale(x, 32, -127, 127, true);
    round_run(q, x, 32, f.d, 0, -127, 127);
    put_f16(dst, f.d);
    for (int i = 0; i < 32; i++) {
        dst[2 + i] = (uint8_t) (int8_t) q[i];
    }
}

static void
quant_q4_0(uint8_t *dst, const float *x)
{
    float q[32];
    uint32_t high;
    fit_t f = fit_scale(x, 32, -8, 7, true);
    round_run(q, x, 32, f.d, 0, -8, 7);
    put_f16(dst, f.d);
    put_nibbles(dst + 2, q, 8, &high);
}

static void
quant_q4_1(uint8_t *dst, const float *x)
{
    float q[32];
    uint32_t high;
    fit_t f = fit_affine(x, 32, 15, true, false);
    round_run(q, x, 32, f.d, f.m, 0, 15);
    put_f16(dst, f.d);
    put_f16(dst + 2, f.m);
    put_nibbles(dst + 4, q, 0, &high);
}

static void
quant_q5_0(uint8_t *dst, const float *x)
{
    float q[32];
    uint32_t high;
    fit_t f = fit_scale(x, 32, -16, 15, true);
    round_run(q, x, 32, f.d, 0, -16, 15);
    put_f16(dst, f.d);
    put_nibbles(dst + 6, q, 16, &high);
    memcpy(dst + 2, &high, sizeof(high));
}

static void
quant_q5_1(uint8_t *dst, const float *x)
{
    float q[32];
    uint32_t high;
    fit_t f = fit_affine(x, 32, 31, true, false);
    round_run(q, x, 32, f.d, f.m, 0, 31);
    put_f16(dst, f.d);
    put_f16(dst + 2, f.m);
    put_nibbles(dst + 8, q, 0, &high);
    memcpy(dst + 4, &high, sizeof(high));
}

/* -------------------------------------------------------- blocks of 256 */

/* Eight sub-blocks of 32 with scale d*s and minimum dmin*m. */
typedef struct {
    float d, dmin;
    float s[8], m[8];           /* whole numbers, 0..63 */
    float q[256];               /* 0..hi */
    float error;
} k45_t;

/* For stored d and dmin: the best of the whole scales and minimums next to the wanted ones. */
static void
round_k45(k45_t *k, const float *x, const fit_t *want, float d, float dmin, float hi)
{
    *k = (k45_t) { .d = stored(d, true), .dmin = stored(dmin, true) };
    for (int b = 0; b < 8; b++) {
        float s0 = k->d > 0 ? clamp(nearest(clamp(want[b].d / k->d, 0, 100)), 0, 63) : 0;
        float m0 = k->dmin > 0 ? clamp(nearest(clamp(-want[b].m / k->dmin, 0, 100)), 0, 63) : 0;
        float least = INFINITY, q[32];
        for (float s = s0 > 0 ? s0 - 1 : 0; s <= s0 + 1 && s <= 63; s++) {
            for (float m = m0 > 0 ? m0 - 1 : 0; m <= m0 + 1 && m <= 63; m++) {
                float error = round_run(q, x + 32 * b, 32, k->d * s, -(k->dmin * m), 0, hi);
                if (error < least) {
                    least = error;
                    k->s[b] = s;
                    k->m[b] = m;
                    memcpy(k->q + 32 * b, q, sizeof(q));
                }
            }
        }
        k->error += least;
    }
}

/* d and dmin that are best for the numbers in k: x ~ d (s q) + dmin (-m). */
static bool
improve_k45(const k45_t *k, const float *x, float *d, float *dmin)
{
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
    for (int i = 0; i < 256; i++) {
        double a = (double) k->s[i / 32] * (double) k->q[i], b = -(double) k->m[i / 32];
        aa += a * a;
        ab += a * b;
        bb += b * b;
        ax += a * (double) x[i];
        bx += b * (double) x[i];
    }
    double det = aa * bb - ab * ab;
    if (det > 1e-9 * aa * bb) {
        *d = (float) ((ax * bb - bx * ab) / det);
        *dmin = (float) ((bx * aa - ax * ab) / det);
    } else if (aa > 0 && bb == 0) {
        *d = (float) (ax / aa);
        *dmin = 0;
    } else {
        return false;
    }
    return *d >= 0 && *dmin >= 0;
}

static void
fit_k45(k45_t *best, const float *x, float hi)
{
    fit_t want[8];
    float top_d = 0, top_m = 0, d, dmin;
    k45_t other;
    for (int b = 0; b < 8; b++) {
        want[b] = fit_affine(x + 32 * b, 32, hi, false, true);
        top_d = want[b].d > top_d ? want[b].d : top_d;
        top_m = -want[b].m > top_m ? -want[b].m : top_m;
    }
    round_k45(best, x, want, top_d / 63, top_m / 63, hi);
    for (int turn = 0; turn < 2 && improve_k45(best, x, &d, &dmin); turn++) {
        round_k45(&other, x, want, d, dmin, hi);
        if (other.error >= best->error) {
            break;
        }
        *best = other;
    }
}

/* d, dmin and the twelve bytes of six-bit numbers. */
static void
put_k45_head(uint8_t *dst, const k45_t *k)
{
    put_f16(dst, k->d);
    put_f16(dst + 2, k->dmin);
    memset(dst + 4, 0, 12);
    for (int b = 0; b < 4; b++) {
        unsigned s = (unsigned) k->s[b], m = (unsigned) k->m[b];
        unsigned s4 = (unsigned) k->s[b + 4], m4 = (unsigned) k->m[b + 4];
        dst[4 + b] = (uint8_t) (s | s4 >> 4 << 6);
        dst[8 + b] = (uint8_t) (m | m4 >> 4 << 6);
        dst[12 + b] = (uint8_t) ((s4 & 15) | (m4 & 15) << 4);
    }
}

static void
quant_q4_k(uint8_t *dst, const float *x)
{
    k45_t k;
    fit_k45(&k, x, 15);
    put_k45_head(dst, &k);
    for (int i = 0; i < 128; i++) {
        const float *q = k.q + i / 32 * 64 + i % 32;
        dst[16 + i] = (uint8_t) ((unsigned) q[0] | (unsigned) q[32] << 4);
    }
}

static void
quant_q5_k(uint8_t *dst, const float *x)
{
    k45_t k;
    fit_k45(&k, x, 31);
    put_k45_head(dst, &k);
    for (int i = 0; i < 128; i++) {
        const float *q = k.q + i / 32 * 64 + i % 32;
        dst[48 + i] = (uint8_t) (((unsigned) q[0] & 15) | ((unsigned) q[32] & 15) << 4);
    }
    for (int i = 0; i < 32; i++) {
        unsigned bits = 0;
        for (int b = 0; b < 8; b++) {
            bits |= (unsigned) k.q[32 * b + i] >> 4 << b;
        }
        dst[16 + i] = (uint8_t) bits;
    }
}

/* Sixteen sub-blocks of 16 with scale d*s, s in -128..127. */
typedef struct {
    float d, s[16], q[256], error;
} k6_t;

static void
round_k6(k6_t *k, const float *x, const fit_t *want, float d)
{
    *k = (k6_t) { .d = stored(d, true) };
    for (int b = 0; b < 16; b++) {
        float s0 = k->d != 0 ? nearest(clamp(want[b].d / k->d, -128, 127)) : 0;
        float least = INFINITY, q[16];
        for (float s = s0 - 1; s <= s0 + 1; s++) {
            if (s < -128 || s > 127) {
                continue;
            }
            float error = round_run(q, x + 16 * b, 16, k->d * s, 0, -32, 31);
            if (error < least) {
                least = error;
                k->s[b] = s;
                memcpy(k->q + 16 * b, q, sizeof(q));
            }
        }
        k->error += least;
    }
}

static void
quant_q6_k(uint8_t *dst, const float *x)
{
    fit_t want[16];
    float peak = 0;
    k6_t k, other;
    for (int b = 0; b < 16; b++) {
        want[b] = fit_scale(x + 16 * b, 16, -32, 31, false);
        peak = fabsf(want[b].d) > fabsf(peak) ? want[b].d : peak;
    }
    round_k6(&k, x, want, peak / -128);
    double aa = 0, ax = 0;
    for (int i = 0; i < 256; i++) {
        double a = (double) k.s[i / 16] * (double) k.q[i];
        aa += a * a;
        ax += a * (double) x[i];
    }
    if (aa > 0) {
        round_k6(&other, x, want, (float) (ax / aa));
        k = other.error < k.error ? other : k;
    }
    memset(dst, 0, 192);
    for (int i = 0; i < 256; i++) {
        unsigned h = (unsigned) i / 128, r = (unsigned) i % 128, q = (unsigned) (k.q[i] + 32);
        dst[64 * h + r % 64] |= (uint8_t) ((q & 15) << 4 * (r / 64));
        dst[128 + 32 * h + r % 32] |= (uint8_t) (q >> 4 << 2 * (r / 32));
    }
    for (int b = 0; b < 16; b++) {
        dst[192 + b] = (uint8_t) (int8_t) k.s[b];
    }
    put_f16(dst + 208, k.d);
}

/* ------------------------------------------------------------------- table */

typedef struct {
    void   (*block)(uint8_t *dst, const float *x);
    uint32_t instead;           /* where rows are no multiple of its block */
    float    levels;            /* a value beyond F16_MAX * levels has no scale */
} quant_t;

static const quant_t quants[LLM_T_COUNT] = {
    [LLM_T_F32] = { quant_f32, LLM_T_F32, INFINITY },
    [LLM_T_F16] = { quant_f16, LLM_T_F16, 1 },
    [LLM_T_BF16] = { quant_bf16, LLM_T_BF16, 0x1p111f },
    [LLM_T_Q8_0] = { quant_q8_0, LLM_T_F16, 127 },
    [LLM_T_Q4_0] = { quant_q4_0, LLM_T_F16, 7 },
    [LLM_T_Q4_1] = { quant_q4_1, LLM_T_F16, 1 },
    [LLM_T_Q5_0] = { quant_q5_0, LLM_T_F16, 15 },
    [LLM_T_Q5_1] = { quant_q5_1, LLM_T_F16, 1 },
    [LLM_T_Q4_K] = { quant_q4_k, LLM_T_Q4_1, 15 },
    [LLM_T_Q5_K] = { quant_q5_k, LLM_T_Q5_1, 31 },
    [LLM_T_Q6_K] = { quant_q6_k, LLM_T_Q8_0, 31 },
};

bool
llm_can_quantize(uint32_t type)
{
    return type < LLM_T_COUNT && quants[type].block != NULL;
}

uint32_t
llm_quantize_type(const char *name)
{
    uint32_t type = 0;
    while (type < LLM_T_COUNT
           && !(llm_can_quantize(type) && strcasecmp(llm_format(type)->name, name) == 0)) {
        type++;
    }
    return type;
}

uint32_t
llm_quantize_fit(uint32_t type, uint64_t cols)
{
    while (cols % llm_format(type)->block != 0) {
        type = quants[type].instead;
    }
    return type;
}

bool
llm_quantize(uint32_t type, void *dst, const float *src, size_t n)
{
    const llm_format_t *f = llm_format(type);
    const quant_t *quant = &quants[type];
    float limit = F16_MAX * quant->levels;
    bool good = true;
    for (size_t i = 0; i < n; i++) {
        good &= isfinite(src[i]) && fabsf(src[i]) <= limit;
    }
    uint8_t *p = dst;
    for (size_t i = 0; good && i < n; i += f->block, p += f->bytes) {
        quant->block(p, src + i);
    }
    return good;
}
