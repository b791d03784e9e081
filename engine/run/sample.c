/*
 * sample.c - penalties, filters and choice (sample.h).
 *
 * The processed logits are a copy in scratch; an id that a filter removed holds -INFINITY. Filters
 * look at candidates only where that gives the same answer as looking at all ids (each says why).
 */
#include "sample.h"
#include "grammar.h"
#include "watermark.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct llm_sampler {
    const llm_kern_t *k;
    uint32_t  n;
    float    *l;                /* [n] processed logits */
    uint32_t *count;            /* [n], zero between calls */
    struct cand { float key, p; int32_t id; } *c;   /* [n] */
    uint32_t *green;            /* [n] of which the first n_green are those after green_of */
    uint32_t  n_green;
    int32_t   green_of;         /* -1: none yet */
};

typedef struct cand cand_t;

llm_code_t
llm_sampler_new(llm_sampler_t **out, uint32_t n_vocab, llm_err_t *err)
{
    *out = NULL;
    llm_sampler_t *s = calloc(1, sizeof(*s));
    if (s != NULL) {
        s->k = llm_kern();
        s->n = n_vocab;
        s->l = malloc(n_vocab * sizeof(float));
        s->count = calloc(n_vocab, sizeof(uint32_t));
        s->c = malloc(n_vocab * sizeof(cand_t));
        s->green = malloc(n_vocab * sizeof(uint32_t));
        s->green_of = -1;
    }
    if (s == NULL || s->l == NULL || s->count == NULL || s->c == NULL || s->green == NULL) {
        llm_sampler_free(s);
        return llm_fail(err, LLM_E_NOMEM, "scratch of the sampler for %u ids: out of memory",
                        n_vocab);
    }
    *out = s;
    return LLM_OK;
}

void
llm_sampler_free(llm_sampler_t *s)
{
    if (s == NULL) {
        return;
    }
    free(s->l);
    free(s->count);
    free(s->c);
    free(s->green);
    free(s);
}

/* ------------------------------------------------------------------ penalties */

static void
watermark(llm_sampler_t *s, const llm_sample_in_t *in)
{
    int32_t last = in->tokens[in->n_tokens - 1];
    uint32_t n = llm_watermark_n_green(s->n, in->conf->watermark_gamma);

    if (last != s->green_of || n > s->n_green) {
        llm_watermark_green(s->green, s->n, n, last);
        s->green_of = last;
        s->n_green = n;
    }
    for (uint32_t i = 0; i < n; i++) {
        s->l[s->green[i]] += in->conf->watermark_delta;
    }
}

static void
penalties(llm_sampler_t *s, const llm_sample_in_t *in)
{
    const llm_sampling_t *c = in->conf;
    float *l = s->l;

    if (c->repetition_penalty != 1) {
        /* once for each distinct id of prompt and output */
        for (uint32_t i = 0; i < in->n_tokens; i++) {
            uint32_t id = (uint32_t) in->tokens[i];
            if (s->count[id]++ == 0) {
                l[id] = l[id] < 0 ? l[id] * c->repetition_penalty : l[id] / c->repetition_penalty;
            }
        }
        for (uint32_t i = 0; i < in->n_tokens; i++) {
            s->count[in->tokens[i]] = 0;
        }
    }

    if (c->frequency_penalty != 0 || c->presence_penalty != 0) {
        uint32_t from = c->openai_penalties ? in->n_prompt : 0;
        float unit = c->openai_penalties ? 1 : 1 / (float) in->n_tokens;
        for (uint32_t i = from; i < in->n_tokens; i++) {
            s->count[in->tokens[i]]++;
        }
        for (uint32_t i = from; i < in->n_tokens; i++) {
            uint32_t id = (uint32_t) in->tokens[i], n = s->count[id];
            if (n > 0) {
                l[id] -= c->frequency_penalty * (float) n * unit + c->presence_penalty;
                s->count[id] = 0;
            }
        }
    }

    for (uint32_t i = 0; i < c->n_bias; i++) {
        float b = in->bias[i].bias;
        l[in->bias[i].id] = b <= -100 ? -INFINITY : l[in->bias[i].id] + b;
    }
    for (uint32_t i = 0; i < in->n_banned; i++) {
        l[in->banned[i]] = -INFINITY;
    }
}

/* -------------------------------------------------------------------- filters */

/* The k-th largest of x[0..n), 1 <= k <= n; reorders x. Quickselect with the median of three. */
static float
kth_largest(float *x, uint32_t n, uint32_t k)
{
    uint32_t lo = 0, hi = n - 1, at = k - 1;
    while (lo < hi) {
        float a = x[lo], b = x[lo + (hi - lo) / 2], c = x[hi];
        float pivot = a > b ? (b > c ? b : a > c ? c : a) : (a > c ? a : b > c ? c : b);
        uint32_t i = lo, j = hi;
        while (i <= j) {
            while (x[i] > pivot) {
                i++;
            }
            while (x[j] < pivot) {
                j--;
            }
            if (i <= j) {
                float t = x[i];
                x[i] = x[j];
                x[j] = t;
                i++;
                if (j == 0) {
                    break;
                }
                j--;
            }
        }
        if (at <= j) {
            hi = j;
        } else if (at >= i) {
            lo = i;
        } else {
            break;
        }
    }
    return x[at];
}

static void
top_k(llm_sampler_t *s, uint32_t k)
{
    if (k >= s->n) {
        return;
    }
    float *copy = (float *) s->c;
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        if (s->l[i] > -INFINITY) {
            copy[n++] = s->l[i];
        }
    }
    if (k >= n) {
        return;
    }
    float least = kth_largest(copy, n, k);
    for (uint32_t i = 0; i < s->n; i++) {
        if (s->l[i] < least) {
            s->l[i] = -INFINITY;
        }
    }
}

/* Largest probability first; the lowest id on a tie. */
static int
by_p(const void *a, const void *b)
{
    const cand_t *x = a, *y = b;
    return x->p != y->p ? (x->p > y->p ? -1 : 1) : (x->id > y->id) - (x->id < y->id);
}

static int
by_key(const void *a, const void *b)
{
    const cand_t *x = a, *y = b;
    return x->key != y->key ? (x->key < y->key ? -1 : 1) : (x->id > y->id) - (x->id < y->id);
}

/*
 * Nucleus: an id stays iff the probabilities before it, in descending order, sum to less than p;
 * the first always stays. All ids below (1 - p) / n together have less than 1 - p and so are never
 * needed: only the others are sorted.
 */
static void
top_p(llm_sampler_t *s, float p)
{
    float log_sum, max = s->k->log_sum_exp(s->l, s->n, &log_sum);
    float least = fminf((1 - p) / (float) s->n, 1) * 0.999f;
    uint32_t n = 0;

    float floor_l = least > 0 ? max + log_sum + logf(least) : -INFINITY;
    for (uint32_t i = 0; i < s->n; i++) {
        if (s->l[i] >= floor_l && s->l[i] > -INFINITY) {
            s->c[n++] = (cand_t) { 0, expf(s->l[i] - max - log_sum), (int32_t) i };
        }
        s->l[i] = s->l[i] >= floor_l ? s->l[i] : -INFINITY;
    }
    qsort(s->c, n, sizeof(cand_t), by_p);
    double before = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (i > 0 && before >= p) {
            s->l[s->c[i].id] = -INFINITY;
        }
        before += s->c[i].p;
    }
}

/*
 * Locally typical sampling (Meister et al. 2022): ids whose surprise is nearest to the entropy, up
 * to the mass p.
 */
static void
typical_p(llm_sampler_t *s, float p)
{
    float log_sum, max = s->k->log_sum_exp(s->l, s->n, &log_sum);
    double entropy = 0;
    uint32_t n = 0;

    for (uint32_t i = 0; i < s->n; i++) {
        if (s->l[i] > -INFINITY) {
            float lp = s->l[i] - max - log_sum;
            entropy -= (double) expf(lp) * lp;
            s->c[n++] = (cand_t) { lp, expf(lp), (int32_t) i };
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        s->c[i].key = fabsf(-s->c[i].key - (float) entropy);
    }
    qsort(s->c, n, sizeof(cand_t), by_key);
    double sum = 0;
    uint32_t last = 0;
    while (last < n) {
        sum += s->c[last].p;
        if (sum >= p || last + 1 == n) {
            break;
        }
        last++;
    }
    for (uint32_t i = last + 1; i < n; i++) {
        if (s->c[i].key > s->c[last].key) {
            s->l[s->c[i].id] = -INFINITY;
        }
    }
}

static void
min_p(llm_sampler_t *s, float p)
{
    float max = s->l[s->k->argmax(s->l, s->n)], least = max + logf(p);
    for (uint32_t i = 0; i < s->n; i++) {
        if (s->l[i] < least) {
            s->l[i] = -INFINITY;
        }
    }
}

/* --------------------------------------------------------------------- choice */

static uint64_t
mix64(uint64_t x)
{
    /* finaliser of SplitMix64 (Steele, Lea, Flood 2014) */
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Uniform in (0, 1), a function of key and id alone. */
static float
uniform(uint64_t key, uint32_t id)
{
    uint64_t x = mix64(key + (uint64_t) (id + 1) * 0x9e3779b97f4a7c15u);
    return ((float) (x >> 41) + 0.5f) * 0x1p-23f;
}

/*
 * Exponential race: argmax of p / Exp(1), which is argmax of l - log(-log(u)). u >= 2^-24 keeps the
 * second term below MAX_NOISE, so an id that is further than that below the best score so far
 * cannot win and needs no random number.
 */
#define MAX_NOISE 17.4f         /* -log(-log(1 - 2^-24)) = 16.64 */

static int32_t
race(const llm_sampler_t *s, uint64_t seed, uint32_t position)
{
    uint64_t key = mix64(seed + mix64(position + 0x9e3779b97f4a7c15u));
    uint32_t first = s->k->argmax(s->l, s->n), best = first;
    float top = s->l[first] - logf(-logf(uniform(key, first)));

    for (uint32_t i = 0; i < s->n; i++) {
        if (s->l[i] + MAX_NOISE > top && i != first) {
            float score = s->l[i] - logf(-logf(uniform(key, i)));
            if (score > top || (score == top && i < best)) {
                top = score;
                best = i;
            }
        }
    }
    return (int32_t) best;
}

/*
 * The n largest of l and everything equal to the n-th, as far as cap goes; log-probabilities, best
 * first, lowest id on a tie.
 */
static uint32_t
best_n(const float *l, uint32_t n_ids, float log_z, uint32_t n, uint32_t cap, llm_top_t *top)
{
    uint32_t m = 0;
    for (uint32_t i = 0; i < n_ids; i++) {
        if (l[i] == -INFINITY || (m == cap && l[i] <= top[m - 1].logprob)
            || (m >= n && l[i] < top[n - 1].logprob)) {
            continue;
        }
        uint32_t at = m < cap ? m++ : m - 1;
        while (at > 0 && top[at - 1].logprob < l[i]) {
            top[at] = top[at - 1];
            at--;
        }
        top[at] = (llm_top_t) { (int32_t) i, l[i] };
    }
    while (m > n && top[m - 1].logprob < top[n - 1].logprob) {
        m--;
    }
    for (uint32_t i = 0; i < m; i++) {
        top[i].logprob -= log_z;
    }
    return m;
}

/* The grammar always wins: where biases banned all that it allows, they are left out. */
static void
constrain(llm_sampler_t *s, const float *logits, const llm_sample_in_t *in)
{
    llm_grammar_apply(in->mask, in->mask_words, s->l, s->n);
    if (in->conf->n_bias > 0 && s->l[s->k->argmax(s->l, s->n)] == -INFINITY) {
        memcpy(s->l, logits, s->n * sizeof(float));
        llm_grammar_apply(in->mask, in->mask_words, s->l, s->n);
    }
}

void
llm_sample(llm_sampler_t *s, const float *logits, const llm_sample_in_t *in, llm_sample_out_t *out)
{
    const llm_sampling_t *c = in->conf;
    uint32_t n_valid = in->n_valid < s->n ? in->n_valid : s->n;
    float raw_sum, raw_max = s->k->log_sum_exp(logits, s->n, &raw_sum);
    bool copy = c->repetition_penalty != 1 || c->frequency_penalty != 0 || c->presence_penalty != 0
                || c->n_bias > 0 || in->n_banned > 0 || in->mask != NULL || c->sample
                || c->watermark_delta != 0;

    out->n_top = 0;
    if (!isfinite(raw_max) || !isfinite(raw_sum)) {
        out->id = -1;
        return;
    }

    if (!copy) {
        out->id = (int32_t) s->k->argmax(logits, n_valid);
        out->raw_logprob = out->logprob = logits[out->id] - raw_max - raw_sum;
        if (in->n_top > 0) {
            out->n_top = best_n(logits, n_valid, raw_max + raw_sum, in->n_top, in->top_cap,
                                out->top);
        }
        return;
    }

    memcpy(s->l, logits, s->n * sizeof(float));
    if (c->watermark_delta != 0) {
        watermark(s, in);
    }
    penalties(s, in);
    if (in->mask != NULL) {
        constrain(s, logits, in);
    }
    if (c->sample) {
        for (uint32_t i = n_valid; i < s->n; i++) {
            s->l[i] = -INFINITY;
        }
        if (c->temperature != 1) {
            /*
             * a true division: with a tiny temperature 1/t would overflow; shifted by the maximum,
             * so that the largest stays finite
             */
            float max = s->l[s->k->argmax(s->l, s->n)];
            for (uint32_t i = 0; i < s->n; i++) {
                s->l[i] = (s->l[i] - max) / c->temperature;
            }
        }
        if (c->top_k > 0) {
            top_k(s, c->top_k);
        }
        if (c->top_p < 1) {
            top_p(s, c->top_p);
        }
        if (c->typical_p < 1) {
            typical_p(s, c->typical_p);
        }
        if (c->min_p > 0) {
            min_p(s, c->min_p);
        }
    }

    float sum, max = s->k->log_sum_exp(s->l, s->n, &sum);
    if (!isfinite(max)) {
        out->id = -1;       /* biases banned every id */
        return;
    }
    out->id = c->sample ? race(s, c->seed, in->n_tokens) : (int32_t) s->k->argmax(s->l, n_valid);
    if (s->l[out->id] == -INFINITY) {
        out->id = -1;
        return;
    }
    out->logprob = s->l[out->id] - max - sum;
    out->raw_logprob = logits[out->id] - raw_max - raw_sum;
    if (in->n_top > 0) {
        out->n_top = in->top_raw
                         ? best_n(logits, n_valid, raw_max + raw_sum, in->n_top, in->top_cap,
                                  out->top)
                         : best_n(s->l, n_valid, max + sum, in->n_top, in->top_cap, out->top);
    }
}

void
llm_score(llm_sampler_t *s, const float *logits, int32_t id, uint32_t n_top, uint32_t top_cap,
          llm_sample_out_t *out)
{
    float sum, max = s->k->log_sum_exp(logits, s->n, &sum);
    out->id = id;
    out->logprob = out->raw_logprob = logits[id] - max - sum;
    out->n_top = n_top > 0 ? best_n(logits, s->n, max + sum, n_top, top_cap, out->top) : 0;
}
