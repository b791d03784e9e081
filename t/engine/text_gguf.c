/*
 * text_gguf.c - tokenizers in GGUF files that are wrong, unusual or leave keys out. The files are
 * made here.
 */
#define _GNU_SOURCE
#include "tap.h"

#include "model/gguf.h"
#include "text/tok.h"

#include <sys/mman.h>
#include <unistd.h>

enum { T_U32 = 4, T_I32 = 5, T_F32 = 6, T_BOOL = 7, T_STR = 8, T_ARR = 9 };

typedef struct {
    uint8_t  buf[16384];
    size_t   n;
    uint64_t n_kv;
} file_t;

static llm_err_t err;

static void
put(file_t *f, const void *p, size_t n)
{
    if (n > sizeof(f->buf) - f->n) {
        printf("Bail out! the test's file is too large\n");
        exit(1);
    }
    memcpy(f->buf + f->n, p, n);
    f->n += n;
}

static void
put_u32(file_t *f, uint32_t v)
{
    put(f, &v, 4);
}

static void
put_u64(file_t *f, uint64_t v)
{
    put(f, &v, 8);
}

static void
put_str(file_t *f, const char *s)
{
    put_u64(f, strlen(s));
    put(f, s, strlen(s));
}

static void
key(file_t *f, const char *name, uint32_t type)
{
    char full[64];
    snprintf(full, sizeof(full), "tokenizer.ggml.%s", name);
    put_str(f, full);
    put_u32(f, type);
    f->n_kv++;
}

static void
key_str(file_t *f, const char *name, const char *v)
{
    key(f, name, T_STR);
    put_str(f, v);
}

static void
key_u32(file_t *f, const char *name, uint32_t v)
{
    key(f, name, T_U32);
    put_u32(f, v);
}

static void
key_bool(file_t *f, const char *name, bool v)
{
    uint8_t b = v;
    key(f, name, T_BOOL);
    put(f, &b, 1);
}

/* Strings in one literal, each ended by a comma. */
static void
key_strs(file_t *f, const char *name, const char *list)
{
    uint64_t n = 0;
    for (const char *p = list; *p != '\0'; p++) {
        n += *p == ',';
    }
    key(f, name, T_ARR);
    put_u32(f, T_STR);
    put_u64(f, n);
    for (const char *p = list; *p != '\0';) {
        size_t len = strcspn(p, ",");
        put_u64(f, len);
        put(f, p, len);
        p += len + 1;
    }
}

static void
key_i32s(file_t *f, const char *name, const int32_t *v, uint64_t n)
{
    key(f, name, T_ARR);
    put_u32(f, T_I32);
    put_u64(f, n);
    put(f, v, n * 4);
}

static void
key_f32s(file_t *f, const char *name, const float *v, uint64_t n)
{
    key(f, name, T_ARR);
    put_u32(f, T_F32);
    put_u64(f, n);
    put(f, v, n * 4);
}

/* Reads the tokenizer from a memory file with these keys. */
static llm_code_t
open_keys(llm_tok_t **t, const file_t *f)
{
    char path[64];
    file_t head = { .n = 0 };
    llm_gguf_t *g;
    put(&head, "GGUF", 4);
    put_u32(&head, 3);
    put_u64(&head, 0);
    put_u64(&head, f->n_kv);
    int fd = memfd_create("gguf", 0);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (fd < 0 || write(fd, head.buf, head.n) != (ssize_t) head.n
        || write(fd, f->buf, f->n) != (ssize_t) f->n) {
        printf("Bail out! no memory file\n");
        exit(1);
    }
    *t = NULL;
    err.msg[0] = '\0';
    llm_code_t rc = llm_gguf_open(&g, path, &err);
    if (rc != LLM_OK) {
        printf("Bail out! %s\n", err.msg);
        exit(1);
    }
    rc = llm_tok_from_gguf(t, g, &err);
    llm_gguf_close(g);
    close(fd);
    return rc;
}

/* As open_keys, for files that must open. */
static llm_tok_t *
opened(const file_t *f, const char *name)
{
    llm_tok_t *t;
    if (!ok(open_keys(&t, f) == LLM_OK, "%s %s", name, err.msg)) {
        printf("Bail out! no tokenizer to test\n");
        exit(1);
    }
    return t;
}

/* Expects a refusal that says so. */
static void
refused(const file_t *f, llm_code_t code, const char *says, const char *name)
{
    llm_tok_t *t;
    llm_code_t rc = open_keys(&t, f);
    if (!ok(rc == code && t == NULL && strstr(err.msg, says) != NULL, "%s: %s", name, err.msg)) {
        diag("%s, want %s saying '%s'", llm_code_name(rc), llm_code_name(code), says);
    }
    llm_tok_free(t);
}

static void
ids_are(const llm_tok_t *t, const char *text, unsigned flags, const char *want, const char *name)
{
    char got[256] = "";
    llm_tokens_t k;
    if (llm_tok_encode(t, text, strlen(text), flags, &k, &err) == LLM_OK) {
        for (size_t i = 0; i < k.n; i++) {
            snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s%d", i > 0 ? " " : "",
                     k.ids[i]);
        }
        llm_tokens_free(&k);
    }
    is_str(got, want, name);
}

/* ----------------------------------------------------------- byte-level BPE */

#define GPT2_TOKENS "<|endoftext|>,<|im_end|>,a,b,ab,\u0120,\u0120a,<tool>,"
static const int32_t gpt2_types[] = { 3, 3, 1, 1, 1, 1, 1, 4 };

static file_t
gpt2(const char *pre, const char *merges)
{
    file_t f = { .n = 0 };
    key_str(&f, "model", "gpt2");
    if (pre != NULL) {
        key_str(&f, "pre", pre);
    }
    key_strs(&f, "tokens", GPT2_TOKENS);
    key_i32s(&f, "token_type", gpt2_types, 8);
    if (merges != NULL) {
        key_strs(&f, "merges", merges);
    }
    return f;
}

static void
test_gpt2(void)
{
    llm_tok_t *t;
    file_t f = gpt2("gpt-2", "a b,\u0120 a,");
    key_u32(&f, "eos_token_id", 0);
    t = opened(&f, "a small vocabulary opens");
    /* by hand: "ab" merges first, then the space with a; a byte without a token is left out */
    ids_are(t, "ab a\x01" "b", 0, "4 6 3", "merges by rank, missing bytes are left out");
    ids_are(t, "<|im_end|>a", LLM_TOK_PARSE_SPECIAL, "1 2",
            "control tokens where they are allowed");
    ids_are(t, "<|im_end|>a", 0, "2", "and only there");
    ids_are(t, "a<tool>", 0, "2 7", "user-defined tokens always");
    ids_are(t, "a", LLM_TOK_ADD_SPECIAL, "2", "nothing is added unless the file says so");
    ok(llm_tok_is_eos(t, 0) && llm_tok_is_eos(t, 1) && !llm_tok_is_eos(t, 7),
       "both ends of text end a generation");
    is_int(llm_tok_find(t, "<|im_end|>", 10), 1, "a token by its text");
    llm_tok_free(t);

    f = gpt2("llama-bpe", "a b,");
    key_u32(&f, "bos_token_id", 0);
    ok(open_keys(&t, &f) == LLM_OK && llm_tok_adds_bos(t), "llama-bpe adds BOS %s", err.msg);
    llm_tok_free(t);
    f = gpt2("llama-bpe", "a b,");
    key_u32(&f, "bos_token_id", 0);
    key_bool(&f, "add_bos_token", false);
    ok(open_keys(&t, &f) == LLM_OK && !llm_tok_adds_bos(t), "unless the file says no %s", err.msg);
    llm_tok_free(t);
    f = gpt2("gpt-2", "a b,");
    key_u32(&f, "bos_token_id", UINT32_MAX);
    ok(open_keys(&t, &f) == LLM_OK && llm_tok_bos(t) == -1, "an id of all ones is none %s",
       err.msg);
    llm_tok_free(t);
}

static void
test_gpt2_refused(void)
{
    file_t f = gpt2("my-own", "a b,");
    refused(&f, LLM_E_UNSUPPORTED, "\"my-own\"", "an unknown pre-tokenizer");
    f = gpt2(NULL, "a b,");
    refused(&f, LLM_E_UNSUPPORTED, "tokenizer.ggml.pre", "no pre-tokenizer");
    f = gpt2("gpt-2", NULL);
    refused(&f, LLM_E_FORMAT, "merges", "no merges");
    f = gpt2("gpt-2", "a x,");
    refused(&f, LLM_E_FORMAT, "\"x\"", "a merge of an unknown token");
    f = gpt2("gpt-2", "b a,");
    refused(&f, LLM_E_FORMAT, "\"ba\"", "a merge into an unknown token");
    f = gpt2("gpt-2", "ab,");
    refused(&f, LLM_E_FORMAT, "merge 0", "a merge of one");
    f = gpt2("gpt-2", "a b,a b,");
    refused(&f, LLM_E_FORMAT, "twice", "a merge twice");
    f = gpt2("gpt-2", "a b,");
    key_u32(&f, "eos_token_id", 8);
    refused(&f, LLM_E_FORMAT, "eos_token_id is 8", "an id out of range");
    f = gpt2("gpt-2", "a b,");
    key_str(&f, "bos_token_id", "0");
    refused(&f, LLM_E_FORMAT, "bos_token_id", "an id that is text");

    file_t g = { .n = 0 };
    refused(&g, LLM_E_FORMAT, "tokenizer.ggml.model", "nothing");
    key_str(&g, "model", "gpt2");
    refused(&g, LLM_E_FORMAT, "tokenizer.ggml.tokens", "no tokens");
    file_t h = g;
    key_strs(&h, "tokens", "");
    refused(&h, LLM_E_FORMAT, "0 tokens", "no token");
    h = g;
    key_str(&h, "tokens", "a");
    refused(&h, LLM_E_FORMAT, "tokenizer.ggml.tokens", "tokens that are one string");
    h = g;
    key_strs(&h, "tokens", "a,b,");
    key_i32s(&h, "token_type", gpt2_types, 3);
    refused(&h, LLM_E_FORMAT, "3 elements for 2 tokens", "types of another length");
    h = (file_t) { .n = 0 };
    key_str(&h, "model", "bert");
    key_strs(&h, "tokens", "a,");
    refused(&h, LLM_E_UNSUPPORTED, "\"bert\"", "another model");
}

/* ------------------------------------------------- SentencePiece and Unigram */

#define M "\u2581"
#define LLAMA_TOKENS "<unk>,<s>,</s>,<0x0A>,<0xC3>,<0xA9>," M ",a,b," M "a,ab," M "ab,"
static const int32_t llama_types[] = { 2, 3, 3, 6, 6, 6, 1, 1, 1, 1, 1, 1 };
static const float   llama_scores[] = { 0, 0, 0, 0, 0, 0, -5, -6, -7, -1, -2, -3 };

static file_t
llama(void)
{
    file_t f = { .n = 0 };
    key_str(&f, "model", "llama");
    key_strs(&f, "tokens", LLAMA_TOKENS);
    key_i32s(&f, "token_type", llama_types, 12);
    return f;
}

static void
test_llama(void)
{
    llm_tok_t *t;
    char *s;
    size_t len;
    file_t f = llama();
    key_f32s(&f, "scores", llama_scores, 12);
    t = opened(&f, "a small SentencePiece vocabulary opens");
    /* by hand: _a (-1) is made before ab (-2), then _ab (-3) of _a and b */
    ids_are(t, "ab", LLM_TOK_ADD_SPECIAL, "1 11", "best score first; BOS and the space are added");
    ids_are(t, "aab", 0, "9 10", "the left one of two ways");
    ids_are(t, "\n\u00e9", 0, "6 3 4 5", "missing characters are bytes");
    ids_are(t, "x", 0, "6 0", "and what has no byte tokens is unknown");
    const int32_t ids[] = { 9, 8, 3, 6, 7 };
    llm_tok_decode(t, ids, 5, false, &s, &len, &err);
    is_str(s, "ab\n a", "decoding drops one leading space");
    free(s);
    llm_tok_free(t);

    f = llama();
    key_f32s(&f, "scores", llama_scores, 12);
    key_bool(&f, "add_space_prefix", false);
    t = opened(&f, "without the prefix");
    ids_are(t, "ab", 0, "10", "no space is added");
    llm_tok_free(t);

    f = llama();
    refused(&f, LLM_E_FORMAT, "scores", "no scores");
    float nan[12] = { 0 };
    nan[7] = NAN;
    key_f32s(&f, "scores", nan, 12);
    refused(&f, LLM_E_FORMAT, "score of token 7", "a score that is no number");
    f = (file_t) { .n = 0 };
    key_str(&f, "model", "llama");
    key_strs(&f, "tokens", "<0xG0>,");
    key_i32s(&f, "token_type", llama_types + 3, 1);
    key_f32s(&f, "scores", llama_scores, 1);
    refused(&f, LLM_E_FORMAT, "<0xHH>", "a byte token with another name");
}

static void
test_t5(void)
{
    static const int32_t types[] = { 3, 3, 2, 1, 1, 1 };
    static const float scores[] = { 0, 0, 0, -2, -3, -4 };
    llm_tok_t *t;
    file_t f = { .n = 0 };
    key_str(&f, "model", "t5");
    key_strs(&f, "tokens", "<pad>,</s>,<unk>," M ",a," M "a,");
    key_i32s(&f, "token_type", types, 6);
    key_f32s(&f, "scores", scores, 6);
    t = opened(&f, "a small Unigram vocabulary opens");
    /* by hand: _a costs 4, _ and a cost 5 */
    ids_are(t, "a  aa", LLM_TOK_ADD_SPECIAL, "5 5 4 1", "the best path; EOS is added");
    ids_are(t, "xya", 0, "3 2 4", "unknown neighbours are one token");
    ids_are(t, "</s>", 0, "3 2", "no text names a control token");
    llm_tok_free(t);
    static const uint8_t blob[] = { 0, 1, 0, 0, 1, 2, 3, 4 };
    key(&f, "precompiled_charsmap", T_ARR);
    put_u32(&f, 0);
    put_u64(&f, sizeof(blob));
    put(&f, blob, sizeof(blob));
    refused(&f, LLM_E_FORMAT, "trie of 256 bytes", "a charsmap whose trie does not fit");
}

int
main(void)
{
    test_gpt2();
    test_gpt2_refused();
    test_llama();
    test_t5();
    return done_testing();
}
