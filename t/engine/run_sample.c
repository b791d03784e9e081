/*
 * run_sample.c - the sampler against the formulas of the specification, computed here the slow way in double precision.
 */
#include "run/sample.h"
#include "tap.h"

#define V 500

static llm_sampler_t *sampler;

static void
random_logits(float *l, unsigned seed, float spread)
{
    srand(seed);
    for (int i = 0; i < V; i++) {
        l[i] = spread * ((float) rand() / RAND_MAX * 2 - 1) + (rand() % 7 == 0 ? spread : 0);
    }
}

static void
softmax(const double *l, double *p)
{
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < V; i++) {
        max = l[i] > max ? l[i] : max;
    }
    for (int i = 0; i < V; i++) {
        sum += p[i] = exp(l[i] - max);
    }
    for (int i = 0; i < V; i++) {
        p[i] /= sum;
    }
}

static const double *sort_key;

static int
ascending(const void *a, const void *b)
{
    double x = sort_key[*(const int *) a], y = sort_key[*(const int *) b];
    return (x > y) - (x < y);
}

static void
order_by(int *idx, const double *key)
{
    for (int i = 0; i < V; i++) {
        idx[i] = i;
    }
    sort_key = key;
    qsort(idx, V, sizeof(int), ascending);
}

/* Spec 6.1, each stage as written there. */
static void
reference(double *l, const llm_sample_in_t *in)
{
    const llm_sampling_t *c = in->conf;
    int count[V] = { 0 }, out_count[V] = { 0 };
    double p[V], key[V];
    int idx[V];

    for (uint32_t i = 0; i < in->n_tokens; i++) {
        count[in->tokens[i]]++;
        out_count[in->tokens[i]] += i >= in->n_prompt;
    }
    for (int i = 0; i < V; i++) {
        if (count[i]) {
            l[i] = l[i] < 0 ? l[i] * c->repetition_penalty : l[i] / c->repetition_penalty;
        }
    }
    for (int i = 0; i < V; i++) {
        int n = c->openai_penalties ? out_count[i] : count[i];
        l[i] -= c->frequency_penalty * (c->openai_penalties ? n : (double) n / in->n_tokens) + c->presence_penalty * (n > 0);
    }
    if (!c->sample) {
        return;
    }
    for (int i = 0; i < V; i++) {
        l[i] /= c->temperature;
    }
    if (c->top_k > 0 && c->top_k < V) {
        order_by(idx, l);
        double least = l[idx[V - c->top_k]];
        for (int i = 0; i < V; i++) {
            l[i] = l[i] < least ? -INFINITY : l[i];
        }
    }
    if (c->top_p < 1) {
        softmax(l, p);
        order_by(idx, l);
        double sum = 0;
        for (int i = 0; i < V - 1; i++) {
            sum += p[idx[i]];
            if (sum <= 1 - (double) c->top_p) {
                l[idx[i]] = -INFINITY;
            }
        }
    }
    if (c->typical_p < 1) {
        softmax(l, p);
        double h = 0, sum = 0;
        for (int i = 0; i < V; i++) {
            h -= p[i] > 0 ? p[i] * log(p[i]) : 0;
        }
        for (int i = 0; i < V; i++) {
            key[i] = p[i] > 0 ? fabs(-log(p[i]) - h) : INFINITY;
        }
        order_by(idx, key);
        int last = 0;
        for (; last < V - 1; last++) {
            sum += p[idx[last]];
            if (sum >= c->typical_p) {
                break;
            }
        }
        for (int i = 0; i < V; i++) {
            l[i] = key[i] > key[idx[last]] ? -INFINITY : l[i];
        }
    }
    if (c->min_p > 0) {
        softmax(l, p);
        double best = 0;
        for (int i = 0; i < V; i++) {
            best = p[i] > best ? p[i] : best;
        }
        for (int i = 0; i < V; i++) {
            l[i] = p[i] < c->min_p * best ? -INFINITY : l[i];
        }
    }
}

static const struct { const char *name; llm_sampling_t c; } cases[] = {
    { "greedy", { .temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1 } },
    { "greedy with repetition penalty", { .temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1.7f } },
    { "greedy with TGI's frequency penalty",
      { .temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .frequency_penalty = 1.5f } },
    { "greedy with OpenAI's penalties", { .temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1,
      .frequency_penalty = .5f, .presence_penalty = .75f, .openai_penalties = true } },
    { "temperature", { .sample = true, .temperature = .6f, .top_p = 1, .typical_p = 1, .repetition_penalty = 1 } },
    { "tiny temperature", { .sample = true, .temperature = 1e-4f, .top_p = 1, .typical_p = 1, .repetition_penalty = 1 } },
    { "top_k 1", { .sample = true, .temperature = 1, .top_k = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1 } },
    { "top_k 40", { .sample = true, .temperature = 1.3f, .top_k = 40, .top_p = 1, .typical_p = 1, .repetition_penalty = 1 } },
    { "top_k of all", { .sample = true, .temperature = 1, .top_k = V, .top_p = 1, .typical_p = 1, .repetition_penalty = 1 } },
    { "top_p .9", { .sample = true, .temperature = 1, .top_p = .9f, .typical_p = 1, .repetition_penalty = 1 } },
    { "top_p .01", { .sample = true, .temperature = 1, .top_p = .01f, .typical_p = 1, .repetition_penalty = 1 } },
    { "top_p 0 keeps the first", { .sample = true, .temperature = 1, .top_p = 0, .typical_p = 1, .repetition_penalty = 1 } },
    { "typical_p .5", { .sample = true, .temperature = 1, .top_p = 1, .typical_p = .5f, .repetition_penalty = 1 } },
    { "min_p .05", { .sample = true, .temperature = 1, .top_p = 1, .typical_p = 1, .min_p = .05f, .repetition_penalty = 1 } },
    { "all together", { .sample = true, .temperature = .8f, .top_k = 60, .top_p = .95f, .typical_p = .9f,
      .repetition_penalty = 1.2f, .frequency_penalty = .3f } },
};

/* The set of ids that may be drawn and their log-probabilities, seen through top_n of everything. */
static void
test_stages(void)
{
    static const int32_t tokens[] = { 3, 7, 3, 3, 99, 450, 7, 12, 13, 12 };
    float l[V];
    llm_top_t top[V];

    for (size_t k = 0; k < sizeof(cases) / sizeof(cases[0]); k++) {
        int bad = 0;
        double worst = 0;
        for (unsigned seed = 1; seed <= 20; seed++) {
            random_logits(l, seed, 1 + (float) (seed % 5) * 2);
            llm_sample_in_t in = { .conf = &cases[k].c, .tokens = tokens, .n_tokens = 10, .n_prompt = 6, .n_valid = V,
                                   .n_top = V, .top_cap = V };
            llm_sample_out_t out = { .top = top };
            llm_sample(sampler, l, &in, &out);

            double want[V], p[V];
            uint32_t n = 0;
            for (int i = 0; i < V; i++) {
                want[i] = l[i];
            }
            reference(want, &in);
            softmax(want, p);
            for (int i = 0; i < V; i++) {
                n += want[i] > -INFINITY;
            }
            bad += n != out.n_top;
            for (uint32_t i = 0; i < out.n_top; i++) {
                bad += want[top[i].id] == -INFINITY;
                double d = fabs(top[i].logprob - log(p[top[i].id]));
                if (p[top[i].id] > 1e-30) {
                    worst = d > worst ? d : worst;
                }
                bad += i > 0 && top[i].logprob > top[i - 1].logprob;
            }
            bad += want[out.id] == -INFINITY;
            double raw[V];
            for (int i = 0; i < V; i++) {
                raw[i] = l[i];
            }
            softmax(raw, p);
            bad += !(fabs(out.raw_logprob - log(p[out.id])) < 1e-4);
        }
        ok(bad == 0, "%s: the same ids stay", cases[k].name);
        near(worst, 0, cases[k].c.temperature < .01f ? 0.5 : 1e-4, cases[k].name);
    }
}

/* Draws follow the distribution: chi-square of 20000 draws over 10 ids, 9 degrees of freedom, p = 1e-6 at 44.8. */
static void
test_distribution(void)
{
    float l[V];
    double p[V], raw[V], chi = 0;
    int count[V] = { 0 };
    llm_sampling_t c = { .sample = true, .temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1 };
    int32_t tokens[V * 50];

    for (int i = 0; i < V; i++) {
        l[i] = i < 10 ? -0.3f * (float) i : -INFINITY;
        raw[i] = l[i];
    }
    memset(tokens, 0, sizeof(tokens));
    softmax(raw, p);
    for (int i = 0; i < 20000; i++) {
        c.seed = (uint64_t) i / 100;
        llm_sample_in_t in = { .conf = &c, .tokens = tokens, .n_tokens = 1 + (uint32_t) (i % 100), .n_prompt = 1, .n_valid = V };
        llm_sample_out_t out = { .top = NULL };
        llm_sample(sampler, l, &in, &out);
        count[out.id]++;
    }
    for (int i = 0; i < 10; i++) {
        chi += pow(count[i] - 20000 * p[i], 2) / (20000 * p[i]);
    }
    ok(chi < 44.8, "draws follow the distribution (chi-square %.1f)", chi);
}

static void
test_edges(void)
{
    float l[V];
    llm_top_t top[8];
    int32_t tokens[] = { 1 }, ban[] = { 400 };
    llm_bias_t bias[] = { { 5, 30 }, { 6, -100 } };
    llm_sampling_t c = { .temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1 };
    llm_sample_in_t in = { .conf = &c, .bias = bias, .tokens = tokens, .n_tokens = 1, .n_prompt = 1, .n_valid = V, .top_cap = 8 };
    llm_sample_out_t out = { .top = top };

    random_logits(l, 1, 1);
    l[400] = l[401] = 9;
    llm_sample(sampler, l, &in, &out);
    is_int(out.id, 400, "the lowest id wins a tie");
    in.banned = ban;
    in.n_banned = 1;
    llm_sample(sampler, l, &in, &out);
    is_int(out.id, 401, "a banned end token is not chosen");
    in.n_banned = 0;
    in.n_valid = 400;
    llm_sample(sampler, l, &in, &out);
    ok(out.id < 400, "rows beyond the vocabulary are padding");
    in.n_valid = V;
    c.n_bias = 2;
    llm_sample(sampler, l, &in, &out);
    is_int(out.id, 5, "a bias is added");
    c.n_bias = 0;

    in.n_top = 1;
    llm_sample(sampler, l, &in, &out);
    is_int(out.n_top, 2, "ties make the list longer than asked");
    is_int(top[0].id, 400, "best first");

    for (int i = 0; i < V; i++) {
        l[i] = NAN;
    }
    llm_sample(sampler, l, &in, &out);
    is_int(out.id, -1, "logits that are no numbers give no token");
    c.sample = true;
    llm_sample(sampler, l, &in, &out);
    is_int(out.id, -1, "nor when sampling");
}

int
main(void)
{
    llm_err_t err;
    ok(llm_sampler_new(&sampler, V, &err) == LLM_OK, "sampler");
    test_stages();
    test_distribution();
    test_edges();
    llm_sampler_free(sampler);
    return done_testing();
}
