/*
 * grammar.c - what constrained output costs: compiling a grammar, finding the mask of a step, applying it.
 *
 * Build and run from the repository root:
 *     make -C engine lib
 *     cc -O2 -Iengine -o build/bench_grammar bench/grammar.c build/libllm.a -ljansson -lutf8proc -lpcre2-8 -lm -pthread
 *     build/bench_grammar MODEL.gguf
 *
 * For each grammar random outputs are written with the vocabulary of the model. cold: masks of states that were never seen (a fresh
 * cache for each grammar), mean and maximum; warm: the same outputs again. The time of a thread is counted, so that other work
 * on the machine does little harm; hostile grammars come last, for their worst mask and worst token.
 */
#define _GNU_SOURCE
#include "model/gguf.h"
#include "run/grammar_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define OUTPUTS 20
#define TOKENS  80

static llm_tok_t *tok;
static llm_gvocab_t *vocab;
static uint64_t *mask;
static uint32_t n_words;
static llm_err_t err;

static const char person[] =
    "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":60},\"age\":{\"type\":\"integer\",\"minimum\":0,"
    "\"maximum\":150},\"email\":{\"type\":\"string\",\"format\":\"email\"},\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\"},"
    "\"maxItems\":5},\"address\":{\"$ref\":\"#/$defs/address\"}},\"required\":[\"name\",\"age\",\"address\"],\"$defs\":{\"address\":{"
    "\"type\":\"object\",\"properties\":{\"street\":{\"type\":\"string\"},\"city\":{\"type\":\"string\"},\"zip\":{\"type\":\"string\","
    "\"pattern\":\"^[0-9]{5}$\"}},\"required\":[\"street\",\"city\",\"zip\"]}}}";
static const char tree[] =
    "{\"$ref\":\"#/$defs/t\",\"$defs\":{\"t\":{\"type\":\"object\",\"properties\":{\"value\":{\"type\":[\"string\",\"number\"]},"
    "\"children\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/t\"}}},\"required\":[\"value\",\"children\"]}}}";
static const char twins[] = "root ::= p | q\np ::= \"a\" q \"b\" | [a-z] r | \"d\"\nq ::= [a-z] p \"b\" | \"a\" r\n"
                            "r ::= [a-z] q | \"a\" p \"c\" | \"e\"";
static const char words[] = "root ::= (x | y | z)+\nx ::= [a-z ] x? \";\"\ny ::= [a-z ] y? [;,]\nz ::= [a-z ]+ z? [;.]";

static const char calls[] =
    "{\"free\":true,\"trigger\":\"<tool_call>\",\"open\":\"\",\"items\":[{\"prefix\":\"<tool_call>\\n{\\\"name\\\": \\\"find\\\", \\\"arguments\\\": \","
    "\"schema\":{\"type\":\"object\",\"properties\":{\"query\":{\"type\":\"string\"},\"limit\":{\"type\":\"integer\"}},\"required\":[\"query\"]},"
    "\"suffix\":\"}\\n</tool_call>\"}],\"join\":\"\\n\",\"close\":\"\",\"repeat\":true,\"min\":0}";

static struct { const char *name; llm_grammar_kind_t kind; const char *text; } cases[] = {
    { "any object", LLM_GRAMMAR_JSON_OBJECT, "" },
    { "schema: a person", LLM_GRAMMAR_JSON_SCHEMA, person },
    { "schema: a tree", LLM_GRAMMAR_JSON_SCHEMA, tree },
    { "schema: 100 optional members", LLM_GRAMMAR_JSON_SCHEMA, NULL },
    { "schema: 64 tools", LLM_GRAMMAR_JSON_SCHEMA, NULL },
    { "regex: words", LLM_GRAMMAR_REGEX, "\\w+( \\w+)*[.!?]" },
    { "regex: date and time", LLM_GRAMMAR_REGEX, "\\d{4}-(0[1-9]|1[0-2])-([0-2]\\d|3[01])T[0-2]\\d(:[0-5]\\d){2}Z" },
    { "regex: up to 500 characters", LLM_GRAMMAR_REGEX, ".{1,500}" },
    { "calls: text and one tool", LLM_GRAMMAR_CALLS, calls },
    { "hostile: (a|b)*a(a|b){14}", LLM_GRAMMAR_REGEX, "(a|b)*a(a|b){14}" },
    { "hostile: (.*the){9}.{40}", LLM_GRAMMAR_REGEX, "(.*t){6}(h|.){7}" },
    { "hostile: \\p{L}{1,100}", LLM_GRAMMAR_REGEX, "\\p{L}{1,100}" },
    { "hostile: rules that double", LLM_GRAMMAR_GBNF, twins },
    { "hostile: nested words", LLM_GRAMMAR_GBNF, words },
};

static double
now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double) t.tv_sec * 1e6 + (double) t.tv_nsec / 1e3;
}

static void
make_texts(void)
{
    static char members[20000], tools[40000];
    char *p = members + sprintf(members, "{\"type\":\"object\",\"properties\":{");
    for (int i = 0; i < 100; i++) {
        p += sprintf(p, "%s\"property_%d\":{\"type\":[\"string\",\"null\"]}", i > 0 ? "," : "", i);
    }
    sprintf(p, "}}");
    p = tools + sprintf(tools, "{\"anyOf\":[");
    for (int i = 0; i < 64; i++) {
        p += sprintf(p, "%s{\"type\":\"object\",\"properties\":{\"name\":{\"const\":\"tool_%d\"},\"arguments\":{\"type\":\"object\","
                     "\"properties\":{\"query_%d\":{\"type\":\"string\"},\"limit\":{\"type\":\"integer\"}},\"required\":[\"query_%d\"]}},"
                     "\"required\":[\"name\",\"arguments\"]}", i > 0 ? "," : "", i, i, i);
    }
    sprintf(p, "]}");
    cases[3].text = members;
    cases[4].text = tools;
}

static int32_t
choose(uint32_t n, uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    uint64_t k = (*seed >> 33) % n;
    for (uint32_t w = 0;; w++) {
        uint64_t bits = mask[w];
        uint32_t here = (uint32_t) __builtin_popcountll(bits);
        if (k >= here) {
            k -= here;
            continue;
        }
        while (k-- > 0) {
            bits &= bits - 1;
        }
        return (int32_t) (64 * w + (uint32_t) __builtin_ctzll(bits));
    }
}

typedef struct { double sum, max, token_max; uint32_t n; } times_t;

/* The outputs of the case; times of masks that needed a walk (cold) or of all. */
static void
write_outputs(llm_gmask_t *m, const llm_grammar_t *g, bool cold_only, times_t *t)
{
    uint64_t seed = 1;
    *t = (times_t) { 0 };
    for (int i = 0; i < OUTPUTS; i++) {
        llm_grammar_state_t s;
        llm_grammar_start(g, &s);
        for (int k = 0; k < TOKENS && !s.ended; k++) {
            llm_gmask_stats_t before, after;
            llm_gmask_stats(m, &before);
            double t0 = now_us();
            uint32_t n = llm_grammar_mask(m, g, &s, mask);
            double us = now_us() - t0;
            llm_gmask_stats(m, &after);
            if (!cold_only || after.walks != before.walks) {
                t->sum += us;
                t->max = us > t->max ? us : t->max;
                t->n++;
            }
            if (n == 0) {
                return;
            }
            int32_t id = choose(n, &seed);
            t0 = now_us();
            llm_grammar_token(vocab, g, &s, id);
            us = now_us() - t0;
            t->token_max = us > t->token_max ? us : t->token_max;
        }
    }
}

static void
bench(const char *name, const llm_grammar_conf_t *conf)
{
    llm_grammar_t *g = NULL;
    size_t bytes = 0;
    double best = 1e18;
    for (int i = 0; i < 7; i++) {
        free(g);
        double t0 = now_us();
        if (llm_grammar_compile(&g, &bytes, conf, &err) != LLM_OK) {
            printf("%-32s %8.2f ms  %s\n", name, (now_us() - t0) / 1e3, err.msg);
            return;
        }
        double us = now_us() - t0;
        best = us < best ? us : best;
    }
    llm_gmask_t *m;
    times_t cold, warm;
    if (llm_gmask_new(&m, vocab, 0, &err) != LLM_OK) {
        printf("%s\n", err.msg);
        exit(1);
    }
    write_outputs(m, g, true, &cold);
    write_outputs(m, g, false, &warm);
    printf("%-32s %8.2f ms %7.1f KB %6u states | cold %8.1f us, max %8.1f (%4u) | warm %6.2f us, max %8.1f | token max %7.1f us\n",
           name, best / 1e3, (double) bytes / 1024, g->n_states, cold.n > 0 ? cold.sum / cold.n : 0, cold.max, cold.n,
           warm.n > 0 ? warm.sum / warm.n : 0, warm.max, warm.token_max);
    llm_gmask_free(m);
    free(g);
}

int
main(int argc, char **argv)
{
    llm_gguf_t *g;
    if (argc != 2) {
        fprintf(stderr, "usage: %s MODEL.gguf\n", argv[0]);
        return 1;
    }
    if (llm_gguf_open(&g, argv[1], &err) != LLM_OK || llm_tok_from_gguf(&tok, g, &err) != LLM_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    double t0 = now_us();
    if (llm_gvocab_new(&vocab, tok, &err) != LLM_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    uint32_t n = llm_gvocab_n(vocab);
    printf("vocabulary of %u tokens, trie of %u nodes in %.1f ms\n", n, vocab->n_nodes, (now_us() - t0) / 1e3);
    n_words = (n + 63) / 64;
    mask = calloc(n_words, sizeof(uint64_t));
    float *logits = calloc(n, sizeof(float));
    if (mask == NULL || logits == NULL) {
        return 1;
    }
    make_texts();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        llm_grammar_conf_t conf = { .kind = cases[i].kind, .text = cases[i].text, .len = strlen(cases[i].text), .vocab = vocab };
        bench(cases[i].name, &conf);
    }
    for (int fill = 0; fill < 2; fill++) {
        memset(mask, fill == 0 ? 0x00 : 0xfe, n_words * sizeof(uint64_t));
        t0 = now_us();
        for (int i = 0; i < 200; i++) {
            llm_grammar_apply(mask, n_words, logits, n);
        }
        printf("applying a mask with %s: %.1f us\n", fill == 0 ? "nothing set" : "7 of 8 bits set", (now_us() - t0) / 200);
    }
    return 0;
}
