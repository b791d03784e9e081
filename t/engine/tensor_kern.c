/*
 * tensor_kern.c - norms, activations, rope and reductions of every kernel set against double precision.
 */
#include "tap.h"
#include "tensor/kern.h"
#include "tensor_data.h"

/* Elementwise results: 1e-6 of the value, and a little of the input where the value all but vanishes. */
#define REL_TOL 1e-6
/* Norms: sums of n squares in f32 lanes. */
#define NORM_TOL 2e-6

#define MAX_N 1100

static const uint32_t sizes[] = { 1, 2, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 129, 576, 1099 };
#define N_SIZES (sizeof(sizes) / sizeof(sizes[0]))

static double
activation(double x, llm_actfn_t f)
{
    switch (f) {
    case LLM_ACT_RELU:
        return x > 0 ? x : 0;
    case LLM_ACT_SILU:
        return x / (1 + exp(-x));
    case LLM_ACT_GELU:
        return x * 0.5 * erfc(-x / sqrt(2));
    default:
        /* the textbook form cancels for large negative x; this is the same function */
        return x / (1 + exp(-2 * sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    }
}

static void
test_activations(const llm_kern_t *k)
{
    static const char *const names[] = { "relu", "silu", "gelu", "gelu_tanh" };
    static float gate[40001], up[40001], y[40001], z[40001];
    for (int i = 0; i <= 40000; i++) {
        gate[i] = (float) (i - 20000) * 0x1p-10f + (i % 3 == 0 ? 1e-4f * td_unit() : 0.0f);
        up[i] = td_normal();
    }
    for (int f = 0; f < 4; f++) {
        double worst = 0.0;
        uint32_t bad = 0;
        k->act_mul(y, gate, NULL, 40001, (llm_actfn_t) f);
        k->act_mul(z, gate, up, 40001, (llm_actfn_t) f);
        for (int i = 0; i <= 40000; i++) {
            double want = activation(gate[i], (llm_actfn_t) f), tol = REL_TOL * fabs(want) + 2e-8 * fabs(gate[i]) + 1e-38;
            if (!(fabs(y[i] - want) <= tol) && bad++ == 0) {
                diag("%s(%.9g): got %.9g, want %.9g", names[f], gate[i], y[i], want);
            }
            bad += !(fabs(z[i] - want * up[i]) <= (tol + 1e-7 * fabs(want)) * fabs(up[i]) + 1e-38);
            if (fabs(want) > 1e-6) {
                worst = fmax(worst, fabs(y[i] - want) / fabs(want));
            }
        }
        ok(bad == 0, "%s %s over [-19.5, 19.5] (worst %.2g above 1e-6)", k->name, names[f], worst);

        bad = 0;
        for (size_t s = 0; s < N_SIZES; s++) {
            memset(y, 0x7f, sizeof(y));
            memcpy(y, gate + 19000, sizes[s] * sizeof(float));
            k->act_mul(y, y, up, sizes[s], (llm_actfn_t) f);        /* in place */
            k->act_mul(z, gate + 19000, up, 1099, (llm_actfn_t) f);
            bad += memcmp(y, z, sizes[s] * sizeof(float)) != 0 || ((uint8_t *) y)[sizes[s] * 4] != 0x7f;
        }
        ok(bad == 0, "%s %s: lengths with tails, in place", k->name, names[f]);
    }
    static const float far[] = { -1e4f, -200.0f, -104.0f, -88.0f, 88.0f, 200.0f, 1e4f };
    uint32_t bad = 0;
    for (int f = 0; f < 4; f++) {
        k->act_mul(y, far, NULL, 7, (llm_actfn_t) f);
        for (int i = 0; i < 7; i++) {
            bad += !(fabs(y[i] - activation(far[i], (llm_actfn_t) f)) <= REL_TOL * fabs(far[i] > 0 ? far[i] : 0) + 1e-36);
        }
    }
    ok(bad == 0, "%s: far out, no NaN and no overflow", k->name);
    float nan_in[1] = { NAN };
    k->act_mul(y, nan_in, NULL, 1, LLM_ACT_SILU);
    ok(isnan(y[0]), "%s: NaN is not hidden", k->name);
}

static void
test_norms(const llm_kern_t *k)
{
    float x[MAX_N], w[MAX_N], b[MAX_N], y[MAX_N + 1], z[MAX_N];
    uint32_t bad_rms = 0, bad_layer = 0, bad_nobias = 0, bad_place = 0, spilled = 0;

    for (size_t s = 0; s < N_SIZES; s++) {
        uint32_t n = sizes[s];
        double sum = 0, sq = 0, var = 0;
        for (uint32_t i = 0; i < n; i++) {
            x[i] = 3.0f * td_normal() + 0.5f;
            w[i] = td_unit();
            b[i] = td_unit();
            sum += x[i];
            sq += (double) x[i] * x[i];
        }
        double mean = sum / n;
        for (uint32_t i = 0; i < n; i++) {
            var += (x[i] - mean) * (x[i] - mean);
        }
        double rms = 1 / sqrt(sq / n + 1e-5), inv = 1 / sqrt(var / n + 1e-5);
        y[n] = 77.0f;
        k->norm_rms(y, x, w, n, 1e-5f);
        for (uint32_t i = 0; i < n; i++) {
            double want = x[i] * rms * w[i];
            bad_rms += !(fabs(y[i] - want) <= NORM_TOL * fabs(want));
        }
        memcpy(z, x, n * sizeof(float));
        k->norm_rms(z, z, w, n, 1e-5f);
        bad_place += memcmp(y, z, n * sizeof(float)) != 0;
        k->norm_layer(y, x, w, b, n, 1e-5f);
        for (uint32_t i = 0; i < n; i++) {
            double c = (x[i] - mean) * inv * w[i], want = c + b[i];
            bad_layer += !(fabs(y[i] - want) <= NORM_TOL * (fabs(c) + fabs(b[i]) + (fabs(mean) + 1e-4) * inv * fabs(w[i])));
        }
        k->norm_layer(z, x, w, NULL, n, 1e-5f);
        for (uint32_t i = 0; i < n; i++) {
            double want = (x[i] - mean) * inv * w[i];
            bad_nobias += !(fabs(z[i] - want) <= NORM_TOL * (fabs(want) + (fabs(mean) + 1e-4) * inv * fabs(w[i])));
        }
        memcpy(z, x, n * sizeof(float));
        k->norm_layer(z, z, w, b, n, 1e-5f);
        bad_place += memcmp(y, z, n * sizeof(float)) != 0;
        spilled += y[n] != 77.0f;
    }
    is_int(bad_rms, 0, "norm_rms");
    is_int(bad_layer, 0, "norm_layer");
    is_int(bad_nobias, 0, "norm_layer without bias");
    is_int(bad_place, 0, "norms in place");
    is_int(spilled, 0, "norms write n values");
}

static void
test_rope(const llm_kern_t *k)
{
    static const uint32_t ns[] = { 1, 3, 4, 8, 16, 20, 32, 64 };
    uint32_t bad = 0;
    for (size_t s = 0; s < 8; s++) {
        for (int half = 0; half < 2; half++) {
            uint32_t n = ns[s];
            float x[140], y[140], cs[128];
            for (uint32_t i = 0; i < 2 * n + 4; i++) {
                x[i] = y[i] = td_normal();
            }
            for (uint32_t j = 0; j < n; j++) {
                cs[j] = cosf(0.3f * (float) j);
                cs[n + j] = sinf(0.3f * (float) j);
            }
            k->rope(y, cs, n, half);
            for (uint32_t j = 0; j < n; j++) {
                uint32_t iu = half ? j : 2 * j, iv = half ? j + n : 2 * j + 1;
                double u = x[iu], v = x[iv], c = cs[j], si = cs[n + j];
                bad += !(fabs(y[iu] - (u * c - v * si)) <= 3e-7 * (fabs(u) + fabs(v)));
                bad += !(fabs(y[iv] - (v * c + u * si)) <= 3e-7 * (fabs(u) + fabs(v)));
            }
            bad += memcmp(x + 2 * n, y + 2 * n, 4 * sizeof(float)) != 0;
        }
    }
    is_int(bad, 0, "rope, both pairings, the rest untouched");
}

static void
test_reductions(const llm_kern_t *k)
{
    static float x[50000];
    uint32_t bad_max = 0, bad_sum = 0, bad_arg = 0;
    for (size_t s = 0; s < N_SIZES; s++) {
        uint32_t n = sizes[s];
        for (int round = 0; round < 8; round++) {
            uint32_t want_at = 0;
            double sum = 0;
            for (uint32_t i = 0; i < n; i++) {
                x[i] = round < 4 ? (float) (int) (5 * td_normal()) : 20 * td_normal();    /* ties in the first half */
                want_at = x[i] > x[want_at] ? i : want_at;
            }
            for (uint32_t i = 0; i < n; i++) {
                sum += exp((double) x[i] - x[want_at]);
            }
            float log_sum, max = k->log_sum_exp(x, n, &log_sum);
            bad_max += max != x[want_at];
            bad_sum += !(fabs(log_sum - log(sum)) <= 1e-6 + 1e-6 * log(sum));
            bad_arg += k->argmax(x, n) != want_at;
        }
    }
    is_int(bad_max, 0, "log_sum_exp: maximum");
    is_int(bad_sum, 0, "log_sum_exp: sum");
    is_int(bad_arg, 0, "argmax: lowest index of the largest");

    double sum = 0;
    for (int i = 0; i < 50000; i++) {
        x[i] = 2 * td_normal();
        sum += exp(x[i]);
    }
    float log_sum, max = k->log_sum_exp(x, 50000, &log_sum);
    near((double) max + log_sum, log(sum), 2e-6, "log_sum_exp over a vocabulary");
    x[7] = -INFINITY;
    x[49999] = 1e30f;
    max = k->log_sum_exp(x, 50000, &log_sum);
    ok(max == 1e30f && log_sum == 0.0f, "one value outweighs all");
    for (int i = 0; i < 50; i++) {
        x[i] = i == 33 ? -3.0f : -INFINITY;
    }
    max = k->log_sum_exp(x, 50, &log_sum);
    ok(max == -3.0f && log_sum == 0.0f, "masked values count nothing");
    is_int(k->argmax(x, 50), 33, "argmax among masked values");
    x[33] = -INFINITY;
    is_int(k->argmax(x, 50), 0, "argmax when all are masked");

    float a[67], b[67];
    uint32_t bad = 0;
    for (int i = 0; i < 67; i++) {
        a[i] = td_normal();
        b[i] = td_normal();
        x[i] = a[i] + b[i];
    }
    k->add(a, b, 66);
    bad = memcmp(a, x, 66 * sizeof(float)) != 0;
    ok(bad == 0 && a[66] != x[66], "add");
}

int
main(void)
{
    const llm_kern_t *sets[4];
    uint32_t n = llm_kern_all(sets);
    ok(n >= 2 && strcmp(sets[n - 1]->name, "ref") == 0, "%u sets run here, ref is always one", n);
    for (uint32_t i = 0; i < n; i++) {
        diag("set %s", sets[i]->name);
        test_activations(sets[i]);
        test_norms(sets[i]);
        test_rope(sets[i]);
        test_reductions(sets[i]);
    }
    const llm_kern_t *k = llm_kern();
    const char *forced = getenv("LLM_KERN");
    ok(forced == NULL ? k == sets[0] : strcmp(k->name, forced) == 0, "the set in use is %s", k->name);
    return done_testing();
}
