/*
 * run_watermark.c - green lists against the vectors of the specification (torch 2.13, manual_seed and randperm), and what the sampler does with them.
 */
#include "run/sample.h"
#include "run/watermark.h"
#include "tap.h"

#define V 1000

static const struct { int32_t t; uint32_t n, first[8]; } vectors[] = {
    { 1, 100, { 58, 77, 81, 69, 13, 31, 19, 90 } },
    { 5, 1000, { 608, 772, 242, 938, 746, 741, 313, 915 } },
    { 1, 49152, { 1726, 21449, 34601, 19398, 43529, 11284, 13015, 20412 } },
    { 42, 32000, { 26244, 15661, 11362, 2923, 1093, 826, 1376, 4654 } },
    { 128009, 128256, { 87721, 72136, 85277, 12059, 40782, 123498, 5792, 83620 } },
    { 151643, 151936, { 108770, 111958, 94212, 59563, 7275, 98952, 121546, 118726 } },
};

static void
test_vectors(void)
{
    static uint32_t green[151936], seen[151936];
    for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
        uint32_t n = vectors[i].n, twice = 0;
        llm_watermark_green(green, n, n, vectors[i].t);
        ok(memcmp(green, vectors[i].first, sizeof(vectors[i].first)) == 0, "token %d of %u", vectors[i].t, n);
        memset(seen, 0, sizeof(seen));
        for (uint32_t k = 0; k < n; k++) {
            twice += green[k] >= n || seen[green[k]]++;
        }
        is_int(twice, 0, "a permutation");
    }
    llm_watermark_green(green, 49152, 24576, 1);
    is_int(green[24575], 36598, "the last green one of 49152");
}

static void
test_count(void)
{
    static const struct { uint32_t n; float gamma; uint32_t want; } counts[] = {
        { 49152, 0.5f, 24576 }, { 151936, 0.25f, 37984 }, { 1000, 0.7f, 700 }, { 1000, 0.1f, 100 }, { 101, 0.5f, 50 },
        { 151936, 0.3f, 45580 }, { 100, 1, 100 }, { 3, 0.01f, 0 },
    };
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        char name[60];
        snprintf(name, sizeof(name), "%g of %u", counts[i].gamma, counts[i].n);
        is_int(llm_watermark_n_green(counts[i].n, counts[i].gamma), counts[i].want, name);
    }
}

/* The sampler adds delta to the green ids before anything else. */
static void
test_sampler(void)
{
    static float l[V], added[V];
    static uint32_t green[V];
    llm_sampler_t *s;
    llm_err_t err;
    int bad = 0, differ = 0;
    if (!ok(llm_sampler_new(&s, V, &err) == LLM_OK, "sampler")) {
        return;
    }
    srand(7);
    for (int k = 0; k < 300; k++) {
        int32_t tokens[3] = { rand() % V, rand() % V, rand() % V };
        llm_sampling_t conf;
        llm_sampling_init(&conf);
        conf.sample = k % 2;
        conf.seed = (uint64_t) k;
        conf.repetition_penalty = k % 3 ? 1 : 1.5f;
        conf.top_k = k % 5 ? 0 : 20;
        float gamma = k % 4 ? 0.5f : 0.25f, delta = k % 7 ? 2 : -1.5f;
        llm_watermark_green(green, V, llm_watermark_n_green(V, gamma), tokens[2]);
        for (int i = 0; i < V; i++) {
            added[i] = l[i] = 5 * ((float) rand() / RAND_MAX);
        }
        for (uint32_t i = 0; i < llm_watermark_n_green(V, gamma); i++) {
            added[green[i]] += delta;
        }
        llm_sample_in_t in = { .conf = &conf, .tokens = tokens, .n_tokens = 3, .n_prompt = 2, .n_valid = V };
        llm_sample_out_t want, got, plain;
        llm_sample(s, added, &in, &want);
        llm_sample(s, l, &in, &plain);
        conf.watermark_gamma = gamma;
        conf.watermark_delta = delta;
        llm_sample(s, l, &in, &got);
        bad += got.id != want.id || got.logprob != want.logprob;
        differ += got.id != plain.id;
    }
    is_int(bad, 0, "the bits of logits to which delta was added by hand");
    ok(differ > 100, "%d of 300 tokens are others than without", differ);
    llm_sampler_free(s);
}

int
main(void)
{
    test_vectors();
    test_count();
    test_sampler();
    return done_testing();
}
