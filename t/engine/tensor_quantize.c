/*
 * tensor/quantize.c: errors within the bounds of each format, computed in double precision, and on
 * the whole no larger than those of PyPI's gguf on the same values.
 */
#include "tensor/quantize.h"

#include "tap.h"

#define N (256 * 256)

static float   x[N], back[N];
static uint8_t packed[N * 4];

/* The values of t/gen/quant_rmse.py. */
static void
make_values(void)
{
    uint32_t state = 12345;
    for (int i = 0; i < N; i++) {
        int64_t total = 0;
        for (int k = 0; k < 4; k++) {
            state = state * 1664525u + 1013904223u;
            total += state >> 16;
        }
        x[i] = (float) (total - 131070) / 65536.0f;
    }
}

static double
rmse(uint32_t type, const float *v, size_t n)
{
    if (!llm_quantize(type, packed, v, n)) {
        return NAN;
    }
    llm_format(type)->dequant(back, packed, n);
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double diff = (double) v[i] - (double) back[i];
        sum += diff * diff;
    }
    return sqrt(sum / (double) n);
}

/* t/gen/quant_rmse.py with gguf 0.19.0: its root mean square errors on the same values */
static const struct { uint32_t type; double rmse; } reference[] = {
    { LLM_T_Q8_0, 0.00292545436 },
    { LLM_T_Q4_0, 0.0472580208 },
    { LLM_T_Q4_1, 0.0436772983 },
    { LLM_T_Q5_0, 0.0235571167 },
    { LLM_T_Q5_1, 0.0212036609 },
};

static void
test_reference(void)
{
    for (size_t i = 0; i < sizeof(reference) / sizeof(reference[0]); i++) {
        double mine = rmse(reference[i].type, x, N);
        ok(mine <= reference[i].rmse, "%s: RMSE %.6g, that of the reference is %.6g",
           llm_format(reference[i].type)->name, mine, reference[i].rmse);
    }
}

/*
 * Largest error in units of the range of a run: one step of the grid that spans it (the search may
 * trade the peak for the rest), and for K formats the rounding of scale and minimum to 6 or 8 bits.
 */
static const struct { uint32_t type; uint32_t run; double bound; } bounds[] = {
    { LLM_T_Q8_0, 32, 1.0 / 254 }, { LLM_T_Q4_0, 32, 1.0 / 15 + 1.0 / 30 },
    { LLM_T_Q4_1, 32, 1.0 / 15 }, { LLM_T_Q5_0, 32, 1.0 / 31 + 1.0 / 62 },
    { LLM_T_Q5_1, 32, 1.0 / 31 }, { LLM_T_Q4_K, 256, 1.0 / 15 }, { LLM_T_Q5_K, 256, 1.0 / 31 },
    { LLM_T_Q6_K, 256, 1.0 / 63 + 1.0 / 126 },
};

static double
span(const float *v, uint32_t n, bool symmetric)
{
    double low = 0, high = 0;
    for (uint32_t i = 0; i < n; i++) {
        low = (double) v[i] < low ? (double) v[i] : low;
        high = (double) v[i] > high ? (double) v[i] : high;
    }
    return symmetric ? 2 * (high > -low ? high : -low) : high - low;
}

static void
test_bounds(void)
{
    for (size_t k = 0; k < sizeof(bounds) / sizeof(bounds[0]); k++) {
        uint32_t type = bounds[k].type, run = bounds[k].run;
        bool affine = type == LLM_T_Q4_1 || type == LLM_T_Q5_1 || type == LLM_T_Q4_K
                      || type == LLM_T_Q5_K;
        double worst = 0;
        rmse(type, x, N);
        for (uint32_t i = 0; i < N; i++) {
            double range = span(x + i / run * run, run, !affine);
            double error = fabs((double) x[i] - (double) back[i]) / range;
            worst = error > worst ? error : worst;
        }
        ok(worst <= bounds[k].bound, "%s: largest error %.5f of the range, bound %.5f",
           llm_format(type)->name, worst, bounds[k].bound);
    }
}

/*
 * Uniform rounding with L steps over a Gaussian-like run of 32 has an RMSE of about range/L/sqrt(12)
 * with range ~ 4 sigma; K formats must not lose more than a tenth against the legacy format of the
 * same bits, whose scales are finer but not chosen per the same number of values.
 */
static void
test_k(void)
{
    static const struct { uint32_t k, legacy; } pairs[] = {
        { LLM_T_Q4_K, LLM_T_Q4_1 }, { LLM_T_Q5_K, LLM_T_Q5_1 },
    };
    for (size_t i = 0; i < 2; i++) {
        double k = rmse(pairs[i].k, x, N), legacy = rmse(pairs[i].legacy, x, N);
        ok(k <= 1.1 * legacy, "%s: RMSE %.6g, %s has %.6g", llm_format(pairs[i].k)->name, k,
           llm_format(pairs[i].legacy)->name, legacy);
    }
    double q5 = rmse(LLM_T_Q5_K, x, N), q6 = rmse(LLM_T_Q6_K, x, N), q8 = rmse(LLM_T_Q8_0, x, N);
    ok(q8 < q6 && q6 < 0.6 * q5, "Q6_K (%.6g) lies between Q5_K (%.6g) and Q8_0 (%.6g)", q6, q5,
       q8);
}

/* What a grid can hold exactly comes back exactly: multiples of a power of two. */
static void
test_exact(void)
{
    static const struct { uint32_t type; int lo, hi; float add; } grids[] = {
        { LLM_T_Q8_0, -127, 127, 0 }, { LLM_T_Q4_0, -8, 7, 0 }, { LLM_T_Q5_0, -16, 15, 0 },
        { LLM_T_Q4_1, 0, 15, 0.75f }, { LLM_T_Q5_1, 0, 31, -3.5f }, { LLM_T_F16, -200, 200, 0 },
        { LLM_T_BF16, -100, 100, 0 }, { LLM_T_F32, -1000, 1000, 0.001f },
    };
    for (size_t k = 0; k < sizeof(grids) / sizeof(grids[0]); k++) {
        float v[32];
        for (int i = 0; i < 32; i++) {
            int width = grids[k].hi - grids[k].lo;
            v[i] = (float) (grids[k].lo + i * 7919 % (width + 1)) * 0.25f + grids[k].add;
        }
        v[5] = (float) grids[k].lo * 0.25f + grids[k].add;
        v[9] = (float) grids[k].hi * 0.25f + grids[k].add;
        is_int(rmse(grids[k].type, v, 32) == 0.0, 1, llm_format(grids[k].type)->name);
    }
}

static void
test_edges(void)
{
    static const float levels[] = { 0.0f, 1.0f, -1.0f, 1e-30f, -3e-5f, 1000.0f };
    float v[256];
    for (uint32_t type = 0; type < LLM_T_COUNT; type++) {
        if (!llm_can_quantize(type)) {
            continue;
        }
        const char *name = llm_format(type)->name;
        int good = 1;
        for (size_t k = 0; k < sizeof(levels) / sizeof(levels[0]); k++) {
            for (int i = 0; i < 256; i++) {
                v[i] = levels[k];
            }
            /* a constant is representable but for the rounding of the scales; tiny ones vanish */
            double most = fabs((double) levels[k]) * 0.02 + 3e-5;
            good &= rmse(type, v, 256) <= most;
        }
        ok(good, "%s: runs of one value", name);
        v[100] = NAN;
        ok(!llm_quantize(type, packed, v, 256), "%s refuses NaN", name);
        v[100] = -INFINITY;
        ok(!llm_quantize(type, packed, v, 256), "%s refuses an infinity", name);
        v[100] = type == LLM_T_F32 ? 1.0f : 3.4e38f;
        is_int(llm_quantize(type, packed, v, 256), type == LLM_T_F32, "a value beyond its range");
    }
}

static void
test_names(void)
{
    is_int(llm_quantize_type("q4_k"), LLM_T_Q4_K, "q4_k");
    is_int(llm_quantize_type("Q8_0"), LLM_T_Q8_0, "Q8_0");
    is_int(llm_quantize_type("iq4_nl"), LLM_T_COUNT, "iq4_nl is only read");
    is_int(llm_quantize_type(""), LLM_T_COUNT, "the empty name");
    is_int(llm_quantize_fit(LLM_T_Q4_K, 512), LLM_T_Q4_K, "512 fits Q4_K");
    is_int(llm_quantize_fit(LLM_T_Q4_K, 576), LLM_T_Q4_1, "576: Q4_1 instead of Q4_K");
    is_int(llm_quantize_fit(LLM_T_Q5_K, 32), LLM_T_Q5_1, "32: Q5_1 instead of Q5_K");
    is_int(llm_quantize_fit(LLM_T_Q6_K, 255 * 32), LLM_T_Q8_0, "8160: Q8_0 instead of Q6_K");
    is_int(llm_quantize_fit(LLM_T_Q6_K, 257), LLM_T_F16, "257: F16");
    is_int(llm_quantize_fit(LLM_T_Q4_0, 31), LLM_T_F16, "31: F16");
}

int
main(void)
{
    make_values();
    test_reference();
    test_bounds();
    test_k();
    test_exact();
    test_edges();
    test_names();
    return done_testing();
}
