/*
 * run_grammar_random.c - texts made of random allowed tokens: every one ends, and its grammar
 * accepts it.
 *
 * Without arguments it is a test. With --serve DIR (the folder of a tokenizer) it reads requests,
 * one JSON object a line, and answers each with a line, for t/client/grammar.t, which judges the
 * texts with other programs:
 *
 *   {"kind": "schema"|"regex"|"gbnf"|"object", "text": "...", "seed": 1, "n": 3, "limit": 60}
 *   -> {"texts": ["...", ...], "ms": 1.2}   or   {"error": "grammar is not valid: ..."}
 *
 * After `limit` tokens a text is ended by the shortest way that llm_grammar_closing knows.
 */
#include "tap.h"

#include "base/json.h"
#include "run/grammar.h"

#include <time.h>

#define KINDS "t/fixtures/tokenizers"
#define MAX_BYTES (1 << 20)

typedef struct {
    llm_tok_t    *tok;
    llm_gvocab_t *vocab;
    llm_gmask_t  *mask;
    uint64_t     *bits;
    uint32_t      n_words;
} model_t;

typedef struct {
    char    *s;
    size_t   n;
} text_t;

static llm_err_t err;

static bool
open_model(model_t *m, const char *dir)
{
    *m = (model_t) { 0 };
    if (llm_tok_from_dir(&m->tok, dir, &err) != LLM_OK
        || llm_gvocab_new(&m->vocab, m->tok, &err) != LLM_OK
        || llm_gmask_new(&m->mask, m->vocab, 1 << 20, &err) != LLM_OK) {
        return false;
    }
    m->n_words = (llm_gvocab_n(m->vocab) + 63) / 64;
    m->bits = malloc(m->n_words * sizeof(uint64_t));
    return m->bits != NULL;
}

static void
close_model(model_t *m)
{
    free(m->bits);
    llm_gmask_free(m->mask);
    llm_gvocab_free(m->vocab);
    llm_tok_free(m->tok);
}

static uint64_t
next_random(uint64_t *seed)
{
    uint64_t x = *seed += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/*
 * One of the allowed ids, all alike; an end token only in one of four cases when there is a choice.
 */
static int32_t
choose(const model_t *m, uint32_t n, uint64_t *seed)
{
    int32_t id = -1;
    for (int tries = 0; tries < 4; tries++) {
        uint64_t k = next_random(seed) % n;
        for (uint32_t w = 0; w < m->n_words; w++) {
            uint64_t bits = m->bits[w];
            uint32_t here = (uint32_t) __builtin_popcountll(bits);
            if (k >= here) {
                k -= here;
                continue;
            }
            while (k-- > 0) {
                bits &= bits - 1;
            }
            id = (int32_t) (64 * w + (uint32_t) __builtin_ctzll(bits));
            break;
        }
        if (!llm_tok_is_eos(m->tok, id)) {
            break;
        }
    }
    return id;
}

/* The id of the allowed token that is exactly this byte. */
static int32_t
byte_token(const model_t *m, uint8_t byte)
{
    for (uint32_t i = 0; i < llm_gvocab_n(m->vocab); i++) {
        size_t len;
        const uint8_t *s = llm_tok_raw(m->tok, (int32_t) i, &len);
        if (len == 1 && s[0] == byte && m->bits[i / 64] >> (i % 64) & 1) {
            return (int32_t) i;
        }
    }
    return -1;
}

/* Writes one text into *t; a message when a promise was broken. */
static const char *
write_text(model_t *m, const llm_grammar_t *g, uint64_t *seed, uint32_t limit, text_t *t)
{
    llm_grammar_state_t s;
    static uint8_t ending[MAX_BYTES];
    size_t n_ending = 0, at = 0;
    llm_grammar_start(g, &s);
    t->n = 0;
    for (uint32_t step = 0;; step++) {
        uint32_t n = llm_grammar_mask(m->mask, g, &s, m->bits);
        if (n == 0) {
            return "no token is allowed";
        }
        if (step == limit) {
            n_ending = llm_grammar_closing(g, &s, ending, sizeof(ending));
            if (n_ending == SIZE_MAX) {
                return "there is no ending";
            }
        }
        int32_t id;
        if (step < limit) {
            id = choose(m, n, seed);
        } else if (at < n_ending) {
            id = byte_token(m, ending[at++]);
            if (id < 0) {
                return "a byte of the ending is not allowed";
            }
        } else {
            id = llm_tok_eos(m->tok);
            if (id < 0 || !(m->bits[id / 64] >> (id % 64) & 1)) {
                return "the end is not allowed after the ending";
            }
        }
        if (!llm_grammar_token(m->vocab, g, &s, id)) {
            return "an allowed token is refused";
        }
        if (llm_tok_is_eos(m->tok, id)) {
            return NULL;
        }
        size_t len;
        const uint8_t *raw = llm_tok_raw(m->tok, id, &len);
        if (len > MAX_BYTES - t->n) {
            return "too long";
        }
        memcpy(t->s + t->n, raw, len);
        t->n += len;
    }
}

/* ------------------------------------------------------------------- serve */

static json_t *
answer(model_t *m, json_t *req, text_t *t)
{
    static const struct { const char *name; llm_grammar_kind_t kind;
    } kinds[] = {
        { "schema", LLM_GRAMMAR_JSON_SCHEMA },
        { "regex", LLM_GRAMMAR_REGEX },
        { "gbnf", LLM_GRAMMAR_GBNF },
        { "object", LLM_GRAMMAR_JSON_OBJECT },
    };
    const char *kind = json_string_value(json_object_get(req, "kind"));
    const json_t *text = json_object_get(req, "text");
    uint64_t seed = (uint64_t) json_integer_value(json_object_get(req, "seed"));
    json_int_t n = json_integer_value(json_object_get(req, "n")),
               limit = json_integer_value(json_object_get(req, "limit"));
    llm_grammar_conf_t conf = { .text = json_string_value(text),
                                .len = json_string_length(text),
                                .vocab = m->vocab };
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (kind != NULL && strcmp(kinds[i].name, kind) == 0) {
            conf.kind = kinds[i].kind;
        }
    }
    llm_grammar_t *g;
    size_t bytes;
    struct timespec t0, t1;
    clock_gettime(CLOCK_MONOTONIC, &t0);
    if (llm_grammar_compile(&g, &bytes, &conf, &err) != LLM_OK) {
        return json_pack("{s:s}", "error", err.msg);
    }
    clock_gettime(CLOCK_MONOTONIC, &t1);
    json_t *texts = json_array();
    const char *bad = llm_grammar_check(g, bytes) ? NULL : "the block does not pass its check";
    for (json_int_t i = 0; bad == NULL && i < n; i++) {
        bad = write_text(m, g, &seed, (uint32_t) limit, t);
        json_t *one = bad == NULL ? json_stringn(t->s, t->n) : NULL;
        if (bad == NULL && (one == NULL || json_array_append_new(texts, one) != 0)) {
            bad = "a text is not valid UTF-8";
        }
    }
    free(g);
    if (bad != NULL) {
        json_decref(texts);
        return json_pack("{s:s}", "broken", bad);
    }
    double ms = (double) (t1.tv_sec - t0.tv_sec) * 1e3 + (double) (t1.tv_nsec - t0.tv_nsec) / 1e6;
    return json_pack("{s:o,s:f}", "texts", texts, "ms", ms);
}

static int
serve(const char *dir)
{
    model_t m;
    text_t t = { malloc(MAX_BYTES), 0 };
    char *line = NULL;
    size_t cap = 0;
    if (t.s == NULL || !open_model(&m, dir)) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    while (getline(&line, &cap, stdin) > 0) {
        json_t *req = json_loads(line, JSON_ALLOW_NUL, NULL), *out = answer(&m, req, &t);
        char *s = json_dumps(out, JSON_COMPACT);
        puts(s);
        fflush(stdout);
        free(s);
        json_decref(out);
        json_decref(req);
    }
    free(line);
    free(t.s);
    close_model(&m);
    return 0;
}

/* -------------------------------------------------------------------- test */

static const struct { llm_grammar_kind_t kind; const char *text;
} cases[] = {
    { LLM_GRAMMAR_JSON_OBJECT, "" },
    { LLM_GRAMMAR_REGEX, "(yes|no)" },
    { LLM_GRAMMAR_REGEX, "[a-z]{2,5}(-[0-9]+)?" },
    { LLM_GRAMMAR_REGEX, "\\w+( \\w+){0,3}[.!?\xe2\x80\xa6]" },
    { LLM_GRAMMAR_JSON_SCHEMA, "true" },
    { LLM_GRAMMAR_JSON_SCHEMA,
      "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\",\"maxLength\":9},"
      "\"b\":{\"type\":\"array\",\"items\":{\"type\":\"number\"},\"minItems\":2}},\"required\":["
      "\"b\"]}" },
    { LLM_GRAMMAR_JSON_SCHEMA,
      "{\"$ref\":\"#/$defs/t\",\"$defs\":{\"t\":{\"type\":\"object\",\"properties\":{\"v\":"
      "{\"type\":\"integer\"},\"kids\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/t\"}}},"
      "\"required\":[\"v\",\"kids\"]}}}" },
    { LLM_GRAMMAR_GBNF,
      "root ::= sum\nsum ::= one ((\"+\" | \"-\") one)*\none ::= [0-9]{1,3} | \"(\" sum \")\"" },
    { LLM_GRAMMAR_GBNF, "root ::= \"a\" root \"a\" | \"b\" root \"b\" | \"c\"" },
};

int
main(int argc, char **argv)
{
    static const char *const kinds[] = { "smollm2", "llama",   "qwen2", "gemma",
                                         "bloom",   "mistral", "llama3" };
    if (argc == 3 && strcmp(argv[1], "--serve") == 0) {
        return serve(argv[2]);
    }
    text_t t = { malloc(MAX_BYTES), 0 };
    for (size_t k = 0; t.s != NULL && k < sizeof(kinds) / sizeof(kinds[0]); k++) {
        model_t m;
        char dir[200];
        snprintf(dir, sizeof(dir), KINDS "/%s", kinds[k]);
        if (!ok(open_model(&m, dir), "%s: tokenizer", kinds[k])) {
            diag("%s", err.msg);
            continue;
        }
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
            llm_grammar_conf_t conf = { .kind = cases[i].kind,
                                        .text = cases[i].text,
                                        .len = strlen(cases[i].text),
                                        .vocab = m.vocab };
            llm_grammar_t *g;
            size_t bytes;
            uint64_t seed = i + 100 * k;
            if (!ok(llm_grammar_compile(&g, &bytes, &conf, &err) == LLM_OK, "%s: case %zu compiles",
                    kinds[k], i)) {
                diag("%s", err.msg);
                continue;
            }
            const char *bad = NULL;
            for (int n = 0; n < 40 && bad == NULL; n++) {
                llm_grammar_state_t s;
                bad = write_text(&m, g, &seed, 40, &t);
                llm_grammar_start(g, &s);
                if (bad == NULL
                    && (!llm_grammar_advance(g, &s, t.s, t.n) || !llm_grammar_accepts(g, &s))) {
                    bad = "the whole text is not accepted";
                }
            }
            if (!ok(bad == NULL, "%s: case %zu, 40 random texts", kinds[k], i)) {
                diag("%s", bad);
            }
            free(g);
        }
        close_model(&m);
    }
    free(t.s);
    return done_testing();
}
