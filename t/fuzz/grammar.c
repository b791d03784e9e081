/*
 * Fuzzes constrained output: the first byte of the input says what the rest is, r: a regular
 * expression, s: a JSON schema, g: rules. What follows a NUL byte chooses tokens.
 *
 * Whatever the bytes are: a grammar or an error with a message, soon. A grammar passes its check;
 * in every state some token is allowed, an allowed token is taken, there is an ending, and the text
 * of a schema is JSON.
 *
 *   make fuzz
 *   mkdir -p build-fuzz/corpus-grammar
 *   build-fuzz/grammar -max_total_time=20 -max_len=4096 -timeout=10 -rss_limit_mb=2048 \
 *       build-fuzz/corpus-grammar t/fixtures/grammar/seeds
 */
#include "base/json.h"
#include "run/grammar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOKENIZER "t/fixtures/tokenizers/smollm2"
#define MAX_STEPS 24
#define MAX_TEXT  (1 << 16)

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static llm_tok_t *tok;
static llm_gvocab_t *vocab;
static llm_gmask_t *masks;
static uint64_t *bits;

static void
check(bool fine, const char *what)
{
    if (!fine) {
        fprintf(stderr, "fuzz: %s\n", what);
        abort();
    }
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
    llm_err_t err;
    (void) argc;
    (void) argv;
    check(llm_tok_from_dir(&tok, TOKENIZER, &err) == LLM_OK, "no tokenizer");
    check(llm_gvocab_new(&vocab, tok, &err) == LLM_OK, "no trie");
    check(llm_gmask_new(&masks, vocab, 1 << 16, &err) == LLM_OK, "no masks");
    bits = calloc((llm_gvocab_n(vocab) + 63) / 64, sizeof(uint64_t));
    check(bits != NULL, "no memory");
    return 0;
}

/* The allowed id that comes first from `from` on. */
static int32_t
allowed_from(uint32_t from)
{
    uint32_t n = llm_gvocab_n(vocab);
    for (uint32_t k = 0; k < n; k++) {
        uint32_t id = (from + k) % n;
        if (bits[id / 64] >> (id % 64) & 1) {
            return (int32_t) id;
        }
    }
    return -1;
}

static void
write_text(const llm_grammar_t *g, bool json, const uint8_t *choice, size_t n_choice)
{
    static uint8_t text[MAX_TEXT];
    llm_grammar_state_t s;
    size_t n = 0, len;
    llm_grammar_start(g, &s);
    for (size_t step = 0; step < MAX_STEPS && !s.ended; step++) {
        check(llm_grammar_mask(masks, g, &s, bits) > 0, "no token is allowed");
        uint32_t seed = step < n_choice ? choice[step] : (uint32_t) (step * 7);
        int32_t id = allowed_from(seed * 2654435761u % llm_gvocab_n(vocab));
        const uint8_t *raw = llm_tok_raw(tok, id, &len);
        check(llm_grammar_token(vocab, g, &s, id), "an allowed token is refused");
        if (!s.ended) {
            memcpy(text + n, raw, len);
            n += len;
        }
    }
    len = s.ended ? 0 : llm_grammar_closing(g, &s, text + n, MAX_TEXT - n);
    if (len == SIZE_MAX) {
        return;     /* very long: lengths of thousands are fine */
    }
    check(s.ended || (llm_grammar_advance(g, &s, text + n, len) && llm_grammar_accepts(g, &s)), "the ending does not end");
    if (json) {
        json_t *v = json_loadb((char *) text, n + len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        check(v != NULL, "a text of a schema is not JSON");
        json_decref(v);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char start[] = "grammar is not valid: ";
    llm_err_t err = { 0 };
    llm_grammar_t *g;
    size_t bytes;
    if (size == 0) {
        return 0;
    }
    const uint8_t *zero = memchr(data + 1, 0, size - 1);
    size_t len = zero != NULL ? (size_t) (zero - data) - 1 : size - 1;
    llm_grammar_conf_t conf = { .text = (const char *) data + 1, .len = len, .vocab = vocab };
    conf.kind = data[0] == 'r' ? LLM_GRAMMAR_REGEX : data[0] == 's' ? LLM_GRAMMAR_JSON_SCHEMA : LLM_GRAMMAR_GBNF;
    if (llm_grammar_compile(&g, &bytes, &conf, &err) != LLM_OK) {
        check(g == NULL && err.code == LLM_E_ARG && strncmp(err.msg, start, sizeof(start) - 1) == 0
              && err.msg[sizeof(start) - 1] != '\0', "an error without a message");
        return 0;
    }
    check(llm_grammar_check(g, bytes) && llm_grammar_bytes(g) == bytes, "a fresh block does not pass its check");
    write_text(g, conf.kind == LLM_GRAMMAR_JSON_SCHEMA, zero != NULL ? zero + 1 : data, zero != NULL ? size - len - 2 : 0);
    free(g);
    return 0;
}
