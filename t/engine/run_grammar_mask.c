/*
 * run_grammar_mask.c - masks against the obvious way: an id is allowed when llm_grammar_token takes
 * it.
 *
 * Random outputs under many grammars and tokenizers; at every step all ids are tried one by one on
 * copies of the state.
 */
#include "grammar_help.h"

#define KINDS "t/fixtures/tokenizers"

typedef struct {
    llm_tok_t    *tok;
    llm_gvocab_t *vocab;
    llm_gmask_t  *mask, *tiny;      /* tiny: a cache that is full at once */
    uint64_t     *bits, *bits2;
    uint32_t      n, n_words;
} model_t;

static bool
open_model(model_t *m, const char *kind)
{
    char dir[200];
    snprintf(dir, sizeof(dir), KINDS "/%s", kind);
    *m = (model_t) { 0 };
    if (llm_tok_from_dir(&m->tok, dir, &err) != LLM_OK
        || llm_gvocab_new(&m->vocab, m->tok, &err) != LLM_OK
        || llm_gmask_new(&m->mask, m->vocab, 0, &err) != LLM_OK
        || llm_gmask_new(&m->tiny, m->vocab, 3000, &err) != LLM_OK) {
        diag("%s", err.msg);
        return false;
    }
    m->n = llm_gvocab_n(m->vocab);
    m->n_words = (m->n + 63) / 64;
    m->bits = malloc(m->n_words * sizeof(uint64_t));
    m->bits2 = malloc(m->n_words * sizeof(uint64_t));
    return true;
}

static void
close_model(model_t *m)
{
    free(m->bits);
    free(m->bits2);
    llm_gmask_free(m->mask);
    llm_gmask_free(m->tiny);
    llm_gvocab_free(m->vocab);
    llm_tok_free(m->tok);
}

static bool
bit(const uint64_t *mask, uint32_t i)
{
    return mask[i / 64] >> (i % 64) & 1;
}

/* Compares the mask of one state with all tokens; false: a difference was shown. */
static bool
same_as_tokens(model_t *m, const llm_grammar_t *g, const llm_grammar_state_t *s, bool exact)
{
    uint32_t n = llm_grammar_mask(m->mask, g, s, m->bits),
             n2 = llm_grammar_mask(m->tiny, g, s, m->bits2), count = 0;
    if (n != n2 || memcmp(m->bits, m->bits2, m->n_words * sizeof(uint64_t)) != 0) {
        diag("the masks of two caches differ: %u and %u", n, n2);
        return false;
    }
    for (uint32_t i = 0; i < m->n; i++) {
        llm_grammar_state_t copy = *s;
        bool taken = llm_grammar_token(m->vocab, g, &copy, (int32_t) i);
        if (bit(m->bits, i) != taken && (exact || bit(m->bits, i))) {
            char text[64];
            size_t len = llm_tok_text(m->tok, (int32_t) i, text, sizeof(text));
            diag("id %u '%.*s': mask %d, token %d", i, (int) len, text, bit(m->bits, i), taken);
            return false;
        }
        count += bit(m->bits, i);
    }
    return n > 0 && count == n;
}

static uint32_t
next_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t) (*seed >> 33);
}

/* A random output; every state of it is compared. */
static bool
run(model_t *m, const llm_grammar_t *g, uint64_t seed, uint32_t steps, bool exact)
{
    llm_grammar_state_t s;
    llm_grammar_start(g, &s);
    for (uint32_t k = 0; k < steps; k++) {
        if (!same_as_tokens(m, g, &s, exact)) {
            return false;
        }
        uint32_t id = next_random(&seed) % m->n;
        while (!bit(m->bits, id)) {
            id = (id + 1) % m->n;
        }
        if (!llm_grammar_token(m->vocab, g, &s, (int32_t) id)) {
            return false;
        }
        if (s.ended) {
            llm_grammar_mask(m->mask, g, &s, m->bits);
            return bit(m->bits, id);    /* only the end may follow the end */
        }
    }
    return true;
}

static const struct { llm_grammar_kind_t kind; const char *text; bool ambiguous;
} cases[] = {
    { LLM_GRAMMAR_JSON_OBJECT, "", false },
    { LLM_GRAMMAR_JSON_SCHEMA, "true", false },
    { LLM_GRAMMAR_JSON_SCHEMA, "{\"type\":\"string\",\"maxLength\":12}", false },
    { LLM_GRAMMAR_JSON_SCHEMA, "{\"type\":\"string\",\"minLength\":5,\"maxLength\":6}", false },
    { LLM_GRAMMAR_JSON_SCHEMA,
      "{\"type\":\"array\",\"items\":{\"type\":\"array\",\"items\":{\"type\":[\"integer\",\"null\"]"
      "},"
      "\"maxItems\":3},\"minItems\":2,\"maxItems\":5}",
      false },
    { LLM_GRAMMAR_JSON_SCHEMA,
      "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"},\"the\":{\"type\":"
      "\"number\"},"
      "\"then\":{\"enum\":[\"the\",\"then\"]}},\"additionalProperties\":{\"type\":\"boolean\"}}",
      false },
    { LLM_GRAMMAR_JSON_SCHEMA,
      "{\"anyOf\":[{\"type\":\"string\",\"maxLength\":3},{\"type\":\"string\",\"minLength\":6},"
      "{\"enum\":[\"the end\"]}]}",
      false },
    { LLM_GRAMMAR_JSON_SCHEMA,
      "{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},\"k\":{\"type\":\"array\","
      "\"items\":{\"$ref\":\"#\"}}},\"required\":[\"k\"]}",
      false },
    { LLM_GRAMMAR_CALLS,
      "{\"free\":true,\"trigger\":\"the\",\"open\":\"\",\"close\":\".\",\"items\":[{\"prefix\":\"the {\","
      "\"schema\":{\"type\":\"integer\"},\"suffix\":\"}\"},{\"prefix\":\"the \",\"schema\":{\"type\":\"object\"},"
      "\"suffix\":\"\"}],\"join\":\", \",\"repeat\":true,\"min\":0,\"preamble_end\":null}",
      false },
    { LLM_GRAMMAR_REGEX, "[a-z]+( [a-z]+)*\\.?", false },
    { LLM_GRAMMAR_REGEX, "(\\w|\xe2\x82\xac){1,9}", false },
    { LLM_GRAMMAR_REGEX, "(.|\\n)*the(.|\\n)*", false },
    { LLM_GRAMMAR_GBNF,
      "root ::= sum\nsum ::= one ((\"+\" | \"-\") one)*\none ::= [0-9]{1,3} | \"(\" sum \")\" | "
      "\"((\"",
      false },
    { LLM_GRAMMAR_GBNF, "root ::= \"[\" root \"]\" | \"(\" root* \")\" | \"a\"", false },
    { LLM_GRAMMAR_GBNF,
      "root ::= p | q\np ::= \"a\" q \"b\" | \"a\" r | \"d\"\nq ::= \"a\" p \"b\" | \"a\" r\n"
      "r ::= \"a\" q | \"a\" p \"c\" | \"e\"",
      true },
    { LLM_GRAMMAR_GBNF,
      "root ::= (x | y | z)*\nx ::= [a-z] x? \";\"\ny ::= [a-z] y? [;,]\nz ::= [a-z]+ [;.]", true },
};

static void
test_masks(const char *kind)
{
    model_t m;
    if (!ok(open_model(&m, kind), "%s: tokenizer and trie", kind)) {
        return;
    }
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        llm_grammar_t *g = compile(cases[i].kind, cases[i].text, strlen(cases[i].text));
        bool good = g != NULL;
        for (uint64_t seed = 1; good && seed <= 3; seed++) {
            good = run(&m, g, seed * 1000 + i, 25, !cases[i].ambiguous);
        }
        if (!ok(good, "%s: masks of case %zu", kind, i)) {
            diag("%s %s", cases[i].text, err.msg);
        }
        free(g);
    }
    close_model(&m);
}

/* At the limit of the depth the mask follows the limit. */
static void
test_depth(void)
{
    static const char rules[] = "root ::= \"[\" root \"]\" | \"[[\" \"]]\" | \"1\"";
    model_t m;
    llm_grammar_t *g = compile(LLM_GRAMMAR_GBNF, rules, strlen(rules));
    llm_grammar_state_t s;
    if (g == NULL || !open_model(&m, "smollm2")) {
        ok(0, "depth");
        return;
    }
    llm_grammar_start(g, &s);
    bool good = true;
    int n = 0;
    do {
        good = good && same_as_tokens(&m, g, &s, true);
    } while (n++ < 200 && llm_grammar_advance(g, &s, "[", 1));
    ok(good && n > 60 && n < 70, "masks up to %d levels", n);
    while (llm_grammar_advance(g, &s, "]", 1)) {
        good = good && same_as_tokens(&m, g, &s, true);
    }
    ok(good, "and back");
    free(g);
    close_model(&m);
}

/* Hits where the walk was made before: for the same state, another request, and a string inside
 * another grammar. */
static void
test_cache(void)
{
    static const char a[] =
        "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"}},\"required\":[\"a\"]}";
    static const char b[] = "{\"type\":\"object\",\"properties\":{\"x\":{\"type\":\"string\"},"
                            "\"y\":{}},\"required\":[\"x\"]}";
    model_t m;
    llm_gmask_stats_t s0, s1, s2;
    llm_grammar_state_t s;
    llm_grammar_t *ga = compile(LLM_GRAMMAR_JSON_SCHEMA, a, strlen(a)),
                  *again = compile(LLM_GRAMMAR_JSON_SCHEMA, a, strlen(a));
    llm_grammar_t *gb = compile(LLM_GRAMMAR_JSON_SCHEMA, b, strlen(b));
    if (ga == NULL || gb == NULL || again == NULL || !open_model(&m, "smollm2")) {
        ok(0, "cache");
        return;
    }
    llm_grammar_start(ga, &s);
    llm_grammar_advance(ga, &s, "{\"a\":\"abc", 9);
    llm_grammar_mask(m.mask, ga, &s, m.bits);
    llm_gmask_stats(m.mask, &s0);
    llm_grammar_mask(m.mask, again, &s, m.bits);
    llm_gmask_stats(m.mask, &s1);
    ok(s1.walks == s0.walks && s1.hits > s0.hits, "the same grammar compiled again needs no walk");

    llm_grammar_start(gb, &s);
    llm_grammar_advance(gb, &s, "{\"x\":\"abc", 9);
    llm_grammar_mask(m.mask, gb, &s, m.bits);
    llm_gmask_stats(m.mask, &s2);
    ok(s2.hits > s1.hits && s2.nodes - s1.nodes < s0.nodes,
       "the interior of a string is known from another grammar");
    ok(same_as_tokens(&m, gb, &s, true), "and right");
    free(ga);
    free(gb);
    free(again);
    close_model(&m);
}

/* End tokens, special tokens, a vocabulary that lacks characters. */
static void
test_vocab(void)
{
    model_t m;
    llm_grammar_state_t s;
    llm_grammar_t *g = compile(LLM_GRAMMAR_REGEX, "yes|no", 6);
    if (g == NULL || !open_model(&m, "smollm2")) {
        ok(0, "vocabulary");
        return;
    }
    int32_t eos = llm_tok_eos(m.tok);
    bool special = false;
    llm_grammar_start(g, &s);
    llm_grammar_mask(m.mask, g, &s, m.bits);
    for (uint32_t i = 0; i < m.n; i++) {
        special = special || (llm_tok_is_special(m.tok, (int32_t) i) && bit(m.bits, i));
    }
    ok(!special && !llm_grammar_token(m.vocab, g, &s, eos),
       "no special token and no end before the text is complete");
    llm_grammar_advance(g, &s, "yes", 3);
    uint32_t n = llm_grammar_mask(m.mask, g, &s, m.bits), ends = 0;
    for (uint32_t i = 0; i < m.n; i++) {
        ends += llm_tok_is_eos(m.tok, (int32_t) i);
    }
    ok(n == ends && bit(m.bits, (uint32_t) eos), "only ends at the end");
    ok(llm_grammar_token(m.vocab, g, &s, eos) && s.ended && !llm_grammar_advance(g, &s, "x", 1),
       "nothing after the end");
    ok(!llm_grammar_token(m.vocab, g, &s, -1) && !llm_grammar_token(m.vocab, g, &s, (int32_t) m.n),
       "unknown ids are refused");

    size_t len = 0, raw_len = 0;
    int32_t id = llm_gvocab_longest(m.vocab, " there\": 1", 10, &len);
    const uint8_t *raw = llm_gvocab_bytes(m.vocab, id, &raw_len);
    ok(id >= 0 && len > 1 && raw != NULL && raw_len == len && memcmp(raw, " there", len) == 0,
       "the longest token at a place has %zu bytes", len);
    bool longer = false;
    for (uint32_t i = 0; i < m.n; i++) {
        const uint8_t *t = llm_gvocab_bytes(m.vocab, (int32_t) i, &raw_len);
        longer = longer
                 || (t != NULL && raw_len > len && raw_len <= 10
                     && memcmp(t, " there\": 1", raw_len) == 0);
    }
    ok(!longer, "and none is longer");
    is_int(llm_gvocab_longest(m.vocab, "", 0, &len), -1, "no text, no token");
    ok(llm_gvocab_bytes(m.vocab, eos, &len) == NULL, "an end token writes no bytes");

    float l[130];
    uint64_t mask[2] = { 5, UINT64_MAX };
    bool good = true;
    for (int i = 0; i < 130; i++) {
        l[i] = (float) i;
    }
    llm_grammar_apply(mask, 2, l, 130);
    for (int i = 0; i < 130; i++) {
        bool kept = i == 0 || i == 2 || (i >= 64 && i < 128);
        good = good && (kept ? l[i] == (float) i : l[i] == -INFINITY);
    }
    ok(good, "a mask over logits, with a padded tail");
    free(g);
    close_model(&m);

    /* a Unigram vocabulary without byte tokens has no line feed */
    if (!open_model(&m, "t5")) {
        ok(0, "t5");
        return;
    }
    llm_grammar_conf_t conf = {
        .kind = LLM_GRAMMAR_REGEX, .text = "a\\nb|\\n", .len = 7, .vocab = m.vocab
    };
    size_t bytes;
    ok(llm_tok_find(m.tok, "\n", 1) < 0 && llm_grammar_compile(&g, &bytes, &conf, &err) != LLM_OK
           && strstr(err.msg, "the vocabulary of the model lacks") != NULL,
       "what the vocabulary cannot write is refused");
    conf.text = "a|a\\nb|{";
    conf.len = 8;
    bool good2 = llm_grammar_compile(&g, &bytes, &conf, &err) == LLM_OK;
    ok(good2 && accepts(g, "a", 1) && accepts(g, "{", 1) && !accepts(g, "a\nb", 3),
       "or left out where there is another way");
    free(g);
    close_model(&m);
}

int
main(void)
{
    static const char *const kinds[] = { "smollm2", "llama", "qwen2", "gemma", "mistral" };
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        test_masks(kinds[i]);
    }
    test_depth();
    test_cache();
    test_vocab();
    return done_testing();
}
