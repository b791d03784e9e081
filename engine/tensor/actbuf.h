/*
 * actbuf.h - activations rounded to 8 bits, as the int8 kernel sets read them; private to tensor/.
 *
 * Per 32 values of one token d = max|x| / 127, q = x * (127 / max|x|) rounded to nearest even. The
 * arithmetic of every int8 set, for a row and a token, block after block:
 *     acc  = fma(scale * d, (float) sum of (number - offset) * q, acc)   sums are exact int32
 *     acc  = fma(min, d * sum(q), acc)                                   Q4_1, Q5_1
 *
 * Layouts with groups of 256 columns (K-quants, IQ4_XS) take one d for 64 values, so that one
 * multiplication with it serves two blocks: these formats have more scales than the others, and
 * multiplications are what bounds them. More than 64 would cost in perplexity what a larger format
 * gains. For two blocks, and halves of blocks where these have scales:
 *     part = 0
 *     part = fma(scale, (float) sum of (number - offset) * q, part)      one after the other
 *     acc  = fma(d, part, acc)
 *
 * K-quants have minimums that are integers times one number dmin of the row and of 256 columns. So
 * that one multiplication serves all of them, the sums of these columns are rounded to 15 bits, a
 * hundred times finer than q: d' = max|d * sum(q)| / 16383 over halves of blocks, s = d * sum(q)
 * times 16383 / max|d * sum(q)|, to nearest even. Before the blocks of these columns:
 *     acc  = fma(d', -dmin * (float) sum of min * s, acc)
 *
 * A buffer holds the forms that were asked for, one after the other. Each lies in panels of
 * ACT_PANEL tokens (the last one: what is left); a panel holds for each 64 columns, or 256 of the
 * sums, the records of its tokens.
 */
#ifndef LLM_ACTBUF_H
#define LLM_ACTBUF_H

#include "tensor/pack.h"

#define ACT_PANEL 4
#define ACT_RUN   64
/* values that are all smaller count as zero: 127 / max would overflow */
#define ACT_TINY  1e-30f
#define ACT_SUM   16383.0f

typedef struct {
    int8_t  q[ACT_RUN];         /* two blocks; the last record may have one, and zeros */
    float   d[2];               /* of a block; the same when one serves both */
    int32_t neg[2];             /* -sum(q) of a block: integer sums start at offset times this */
    union {
        float   ds[2];          /* d * sum(q); of LLM_ACT_32 */
        int32_t half_neg[4];    /* -sum(q) of half a block; of LLM_ACT_64 */
    };
} act_run_t;

typedef struct {
    int16_t half[16];
    int16_t sum[8];             /* of two halves each */
    float   d;
    int32_t unused[3];
} act_sums_t;

_Static_assert(sizeof(act_run_t) == 96 && sizeof(act_sums_t) == 64, "aligned to 32 bytes");

static inline size_t
act_run_count(uint32_t k)
{
    return (size_t) k / ACT_RUN + (k % ACT_RUN != 0);
}

/* Bytes of the form of 32, or that of 64. */
static inline size_t
act_run_bytes(uint32_t n, uint32_t k)
{
    return (act_run_count(k) * n * sizeof(act_run_t) + 63) & ~(size_t) 63;
}

static inline uint32_t
act_forms(const llm_mat_t *w)
{
    if (lay_is_float(w->layout)) {
        return 0;
    }
    if (!lay_is_super(w->layout)) {
        return LLM_ACT_32;
    }
    return lay_geom[w->layout].mins ? LLM_ACT_64 | LLM_ACT_SUMS : LLM_ACT_64;
}

/* Tokens of a panel. */
static inline uint32_t
act_width(const llm_act_t *a, uint32_t i_panel)
{
    uint32_t t0 = i_panel * ACT_PANEL;
    return a->n - t0 < ACT_PANEL ? a->n - t0 : ACT_PANEL;
}

/* The first record of a panel. Record of its token t, run (or 256 columns) r: [r * width + t]. */
static inline act_run_t *
act_runs(const llm_act_t *a, uint32_t form, uint32_t i_panel)
{
    const bool second = form == LLM_ACT_64 && a->forms & LLM_ACT_32;
    return (act_run_t *) (void *) (a->buf + (second ? act_run_bytes(a->n, a->k) : 0))
         + (size_t) i_panel * ACT_PANEL * act_run_count(a->k);
}

static inline act_sums_t *
act_sums(const llm_act_t *a, uint32_t i_panel)
{
    const size_t runs = act_run_bytes(a->n, a->k) * (a->forms & LLM_ACT_32 ? 2 : 1);
    return (act_sums_t *) (void *) (a->buf + runs) + (size_t) i_panel * ACT_PANEL * (a->k / 256);
}

/* What a set rounds with. */
typedef struct {
    /*
     * x: ACT_RUN values; joint: one d serves them; ds: d * sum(q) of each half block, aligned to 16
     */
    void (*run)(act_run_t *out, bool joint, float ds[4], const float *x);
    void (*sums)(act_sums_t *out, const float ds[16]);
} act_round_t;

/* Inlined: of a known form each set makes its own code. */
static inline __attribute__((always_inline)) void
act_round_form(const llm_act_t *a, const uint32_t form, uint32_t t, const act_round_t *set)
{
    const float *x = a->x + t * a->ldx;
    const size_t width = act_width(a, t / ACT_PANEL), n_runs = a->k / ACT_RUN;
    const bool joint = form == LLM_ACT_64, sums = joint && a->forms & LLM_ACT_SUMS;
    act_run_t *out = act_runs(a, form, t / ACT_PANEL) + t % ACT_PANEL;
    act_sums_t *out_sums = act_sums(a, t / ACT_PANEL) + t % ACT_PANEL;
    _Alignas(16) float ds[16];

    for (size_t r = 0; r < n_runs; r++) {
        set->run(out + r * width, joint, ds + 4 * (r % 4), x + ACT_RUN * r);
        if (sums && r % 4 == 3) {
            set->sums(out_sums + r / 4 * width, ds);
        }
    }
    if (a->k % ACT_RUN != 0) {
        float last[ACT_RUN] = { 0 };
        memcpy(last, x + ACT_RUN * n_runs, a->k % ACT_RUN * sizeof(float));
        set->run(out + n_runs * width, joint, ds, last);
    }
}

/* Fills a->forms of tokens [t0, t1). */
static inline void
act_quantize(const llm_act_t *a, uint32_t t0, uint32_t t1, const act_round_t *set)
{
    for (uint32_t t = t0; t < t1; t++) {
        if (a->forms & LLM_ACT_32) {
            act_round_form(a, LLM_ACT_32, t, set);
        }
        if (a->forms & LLM_ACT_64) {
            act_round_form(a, LLM_ACT_64, t, set);
        }
    }
}

#endif
