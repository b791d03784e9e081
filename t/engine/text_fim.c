/*
 * text_fim.c - which tokens a model fills gaps with: families by the texts of their tokens, keys
 * of GGUF files, what is not usable.
 */
#define _GNU_SOURCE
#include "tap.h"

#include "text/fim.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STARCODER "t/fixtures/tokenizers/starcoder"

static llm_err_t err;

/* ----------------------------------------------------- tokenizers to order */

static char *
read_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    char *text = calloc(1, 1 << 20);
    if (f == NULL || text == NULL || fread(text, 1, (1 << 20) - 1, f) == 0) {
        printf("Bail out! %s cannot be read\n", path);
        exit(1);
    }
    fclose(f);
    return text;
}

/* Writes text with each of three strings replaced. */
static void
write_replaced(const char *path, const char *text, const char *const from[3],
               const char *const to[3])
{
    FILE *f = fopen(path, "wb");
    while (f != NULL && *text != '\0') {
        int i = 0;
        while (i < 3 && strncmp(text, from[i], strlen(from[i])) != 0) {
            i++;
        }
        if (i < 3) {
            fputs(to[i], f);
            text += strlen(from[i]);
        } else {
            fputc(*text++, f);
        }
    }
    if (f == NULL || fclose(f) != 0) {
        printf("Bail out! %s cannot be written\n", path);
        exit(1);
    }
}

/* StarCoder's tokenizer with other texts for its three tokens (ids 1, 3, 2). */
static llm_tok_t *
renamed(const char *pre, const char *suf, const char *mid)
{
    static const char *const from[3] = { "<fim_prefix>", "<fim_suffix>", "<fim_middle>" };
    const char *const to[3] = { pre, suf, mid };
    char dir[] = "/tmp/llm-fim-XXXXXX", path[64];
    llm_tok_t *t = NULL;
    if (mkdtemp(dir) == NULL) {
        printf("Bail out! no temporary folder\n");
        exit(1);
    }
    snprintf(path, sizeof(path), "%s/tokenizer.json", dir);
    char *text = read_file(STARCODER "/tokenizer.json");
    write_replaced(path, text, from, to);
    free(text);
    if (llm_tok_from_dir(&t, dir, &err) != LLM_OK) {
        printf("Bail out! %s\n", err.msg);
        exit(1);
    }
    unlink(path);
    rmdir(dir);
    return t;
}

/* ------------------------------------------------------------------ sources */

static const char *key_names[4];
static llm_value_t key_values[4];

static void
value_of(const llm_src_t *s, const char *key, llm_value_t *out)
{
    (void) s;
    *out = (llm_value_t) { .kind = LLM_VALUE_NONE };
    for (int i = 0; i < 4; i++) {
        if (key_names[i] != NULL && strcmp(key_names[i], key) == 0) {
            *out = key_values[i];
        }
    }
}

static const llm_src_t gguf = { .kind = LLM_SOURCE_GGUF, .path = "a.gguf", .value = value_of };
static const llm_src_t dir = { .kind = LLM_SOURCE_HF, .path = "a", .value = value_of };

static void
keys(const char *const name[3], double a, double b, double c)
{
    const double id[3] = { a, b, c };
    for (int i = 0; i < 3; i++) {
        key_names[i] = name != NULL ? name[i] : NULL;
        key_values[i] = (llm_value_t) { .kind = LLM_VALUE_NUMBER, .number = id[i], .n = 1 };
    }
}

static void
finds(const llm_tok_t *t, const llm_src_t *src, int32_t pre, int32_t suf, int32_t mid,
      const char *name)
{
    llm_fim_t f = { 0 };
    llm_code_t rc = llm_fim_find(&f, t, src, &err);
    if (!ok(rc == LLM_OK && f.pre == pre && f.suf == suf && f.mid == mid, "%s", name)) {
        diag("%s, %d %d %d", llm_code_name(rc), f.pre, f.suf, f.mid);
    }
}

/* -------------------------------------------------------------------- tests */

static void
test_families(void)
{
    static const char *const family[][3] = {
        { "<fim_prefix>", "<fim_suffix>", "<fim_middle>" },
        { "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>" },
        { "<fim-prefix>", "<fim-suffix>", "<fim-middle>" },
        { "\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>" },
        { "<PRE>", "<SUF>", "<MID>" },
        { "<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>",
          "<\uff5cfim\u2581end\uff5c>" },
    };
    for (size_t i = 0; i < sizeof(family) / sizeof(family[0]); i++) {
        llm_tok_t *t = renamed(family[i][0], family[i][1], family[i][2]);
        size_t len;
        finds(t, &dir, 1, 3, 2, family[i][0]);
        const char *name = llm_tok_name(t, 1, &len);
        ok(name != NULL && len == strlen(family[i][0]) && memcmp(name, family[i][0], len) == 0,
           "%s: its name", family[i][0]);
        llm_tok_free(t);
    }
    llm_tok_t *t = renamed("<fim_prefix>", "<fim_suffix>", "<fim_other>");
    finds(t, &dir, -1, -1, -1, "two of three are none");
    llm_tok_free(t);
    t = renamed("<|fim_prefix|>", "<fim_suffix>", "<fim_middle>");
    finds(t, &dir, -1, -1, -1, "nor are those of two families");
    llm_tok_free(t);
}

static void
test_keys(void)
{
    static const char *const fim[3] = {
        "tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.fim_suf_token_id",
        "tokenizer.ggml.fim_mid_token_id"
    };
    static const char *const old[3] = {
        "tokenizer.ggml.prefix_token_id", "tokenizer.ggml.suffix_token_id",
        "tokenizer.ggml.middle_token_id"
    };
    llm_tok_t *t = renamed("<x>", "<y>", "<z>");
    llm_fim_t f;
    keys(NULL, 0, 0, 0);
    finds(t, &gguf, -1, -1, -1, "no keys, no known texts");
    keys(fim, 1, 3, 2);
    finds(t, &gguf, 1, 3, 2, "fim_pre_token_id ...");
    finds(t, &dir, -1, -1, -1, "keys are those of GGUF files");
    keys(old, 1, 3, 2);
    finds(t, &gguf, 1, 3, 2, "prefix_token_id ...");
    keys(fim, 1, 3, 448 + 4);
    is_int(llm_fim_find(&f, t, &gguf, &err), LLM_E_FORMAT, "an id that is no token");
    ok(strstr(err.msg, "fim_mid_token_id") != NULL, "named: %s", err.msg);
    keys(fim, -1, 3, 2);
    is_int(llm_fim_find(&f, t, &gguf, &err), LLM_E_FORMAT, "a negative id");
    keys(fim, 1, 3, 2);
    key_values[1].kind = LLM_VALUE_STRING;
    is_int(llm_fim_find(&f, t, &gguf, &err), LLM_E_FORMAT, "no number");
    /* the vocabulary's name of the token of a space; as text it is another character */
    int32_t space = llm_tok_find(t, "\u0120", 2);
    ok(space >= 0, "a byte-level vocabulary");
    keys(fim, 1, 3, space);
    finds(t, &gguf, -1, -1, -1, "a token counts only if its text makes it");
    keys(NULL, 0, 0, 0);
    llm_tok_free(t);
}

static void
test_models(void)
{
    static const struct { const char *path, *pre, *suf, *mid; } model[] = {
        { "t/fixtures/models/gpt_bigcode", "<fim_prefix>", "<fim_suffix>", "<fim_middle>" },
        { "t/fixtures/gguf/starcoder2-Q8_0.gguf", "<fim_prefix>", "<fim_suffix>", "<fim_middle>" },
        { "t/fixtures/gguf/llama-F32.gguf", "", "", "" },
    };
    for (size_t i = 0; i < sizeof(model) / sizeof(model[0]); i++) {
        llm_model_t *m;
        llm_model_conf_t conf = { .weights = model[i].path, .check_only = true };
        if (!ok(llm_model_open(&m, &conf, &err) == LLM_OK, "%s %s", model[i].path, err.msg)) {
            continue;
        }
        const llm_model_info_t *info = llm_model_info(m);
        is_str(info->fim_pre, model[i].pre, "prefix");
        is_str(info->fim_suf, model[i].suf, "suffix");
        is_str(info->fim_mid, model[i].mid, "middle");
        size_t len;
        ok(llm_token_bytes(m, 5, &len) != NULL && len > 0, "llm_token_bytes");
        ok(llm_token_bytes(m, -1, &len) == NULL && len == 0, "of no token");
        llm_model_close(m);
    }
}

int
main(void)
{
    test_families();
    test_keys();
    test_models();
    return done_testing();
}
