/*
 * Fuzzes tokenizers: reading tokenizer.json from any bytes, and encoding, decoding and streaming
 * any text. The input is JSON, a NUL byte, a text (and, after one more NUL, tokenizer_config.json).
 * Input without NUL is a text for the tokenizers of the fixtures, which the first byte selects.
 *
 * Whatever the bytes are: a tokenizer or an error with a message; ids inside the vocabulary;
 * offsets inside the text; decoded text that is UTF-8; a stream that ends in the same text as
 * decoding everything (byte-level; the others may take back a broken run of byte tokens).
 *
 *   B=build-fuzz SAN=address,undefined
 *   make -C engine BUILD=$PWD/$B CC=clang-14 CFLAGS="-O1 -fsanitize=fuzzer-no-link,$SAN" lib
 *   clang-14 -g -O1 -fsanitize=fuzzer,$SAN -fno-sanitize-recover=undefined -Iengine \
 *       t/fuzz/tokenizer.c $B/libllm.a -ljansson -lutf8proc -lpcre2-8 -lm -o $B/tokenizer
 *   mkdir -p $B/corpus-tokenizer
 *   $B/tokenizer -max_total_time=20 -max_len=16384 -timeout=10 -rss_limit_mb=2048 \
 *       $B/corpus-tokenizer t/fixtures/tokenizers
 */
#include "base/unicode.h"
#include "text/tok_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const kinds[] = {
    "llama3", "qwen2", "llama", "mistral", "gemma", "phi3", "falcon", "bloom", "flan_nmt", "t5",
    "neox", "bart", "opt", "starcoder",
};
#define N_KINDS (sizeof(kinds) / sizeof(kinds[0]))

static llm_tok_t *fixed[N_KINDS];

static void
check(bool fine, const char *what)
{
    if (!fine) {
        fprintf(stderr, "fuzz: %s\n", what);
        abort();
    }
}

/* Streams the ids and compares with the whole. */
static void
stream(const llm_tok_t *t, const llm_tokens_t *k, bool skip, const char *whole, size_t whole_len)
{
    llm_err_t err;
    llm_detok_t *d;
    llm_buf_t all = { 0 };
    const char *s;
    size_t len;
    check(llm_detok_new_tok(&d, t, skip ? LLM_DETOK_SKIP_SPECIAL : 0, &err) == LLM_OK, "detok");
    for (size_t i = 0; i <= k->n; i++) {
        llm_code_t rc = i < k->n ? llm_detok_push(d, k->ids[i], &s, &len, &err)
                                 : llm_detok_flush(d, &s, &len, &err);
        check(rc == LLM_OK && llm_utf8_valid((const uint8_t *) s, len) == len, "streamed UTF-8");
        check(llm_buf_add(&all, s, len), "memory");
    }
    if (t->byte_level && !t->dec.clean_up) {
        check(all.n == whole_len && memcmp(all.s, whole, all.n) == 0, "stream and whole differ");
    }
    free(all.s);
    llm_detok_free(d);
}

static void
use(const llm_tok_t *t, const char *text, size_t len)
{
    for (unsigned flags = 0; flags < 4; flags++) {
        llm_tokens_t k;
        llm_err_t err;
        char *s;
        size_t n;
        if (llm_tok_encode(t, text, len, flags, &k, &err) != LLM_OK) {
            check(err.msg[0] != '\0' && k.ids == NULL, "a failure without a message");
            continue;
        }
        for (size_t i = 0; i < k.n; i++) {
            char piece[16];
            check(k.ids[i] >= 0 && (uint32_t) k.ids[i] < t->n_vocab, "id");
            check(k.start[i] <= k.stop[i] && k.stop[i] <= len, "offsets");
            size_t m = llm_tok_text(t, k.ids[i], piece, sizeof(piece));
            check(llm_utf8_valid((const uint8_t *) piece, m) == m, "token text");
        }
        for (int skip = 0; skip < 2; skip++) {
            check(llm_tok_decode(t, k.ids, k.n, skip, &s, &n, &err) == LLM_OK, "decode");
            check(llm_utf8_valid((const uint8_t *) s, n) == n, "decoded UTF-8");
            stream(t, &k, skip, s, n);
            free(s);
        }
        free(k.ids);
        free(k.start);
        free(k.stop);
    }
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void) argc;
    (void) argv;
    for (size_t i = 0; i < N_KINDS; i++) {
        char path[128];
        llm_err_t err;
        snprintf(path, sizeof(path), "t/fixtures/tokenizers/%s", kinds[i]);
        check(llm_tok_from_dir(&fixed[i], path, &err) == LLM_OK, err.msg);
    }
    return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *s = (const char *) data;
    const char *nul = size > 0 ? memchr(s, '\0', size) : NULL;
    if (nul == NULL) {
        if (size > 0) {
            use(fixed[data[0] % N_KINDS], s + 1, size - 1);
        }
        return 0;
    }
    llm_tok_texts_t x = { .where = "fuzz", .tokenizer = s, .n_tokenizer = (size_t) (nul - s) };
    const char *text = nul + 1;
    size_t len = size - x.n_tokenizer - 1;
    const char *more = memchr(text, '\0', len);
    if (more != NULL) {
        x.config = more + 1;
        x.n_config = len - (size_t) (more + 1 - text);
        len = (size_t) (more - text);
    }
    llm_tok_t *t;
    llm_err_t err = { .msg = "" };
    llm_code_t rc = llm_tok_from_texts(&t, &x, &err);
    if (rc != LLM_OK) {
        check(t == NULL && err.msg[0] != '\0' && strchr(err.msg, '\n') == NULL, "a bad failure");
        return 0;
    }
    use(t, text, len);
    llm_tok_free(t);
    return 0;
}
