/*
 * fim.c - the tokens of fill in the middle (see fim.h).
 */
#include "text/fim.h"

#include <stdio.h>
#include <string.h>

enum { PRE, SUF, MID, N_PARTS };

/* Families by the texts of their tokens: prefix, suffix, middle. */
static const char *const families[][N_PARTS] = {
    { "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>" },       /* Qwen, CodeGemma, Granite 4 */
    { "<fim_prefix>", "<fim_suffix>", "<fim_middle>" },             /* StarCoder */
    { "<fim-prefix>", "<fim-suffix>", "<fim-middle>" },             /* SantaCoder */
    { LLM_FIM_MARK "<PRE>", LLM_FIM_MARK "<SUF>", LLM_FIM_MARK "<MID>" },   /* CodeLlama */
    { "<PRE>", "<SUF>", "<MID>" },
    /* DeepSeek: the hole stands where the text is to go, between prefix and suffix */
    { "<\xef\xbd\x9c" "fim\xe2\x96\x81" "begin\xef\xbd\x9c>",
      "<\xef\xbd\x9c" "fim\xe2\x96\x81" "hole\xef\xbd\x9c>",
      "<\xef\xbd\x9c" "fim\xe2\x96\x81" "end\xef\xbd\x9c>" },
};

/* The id, if the tokenizer makes this one token of its text, else -1. */
static llm_code_t
usable(int32_t *out, const llm_tok_t *t, int32_t id, llm_err_t *err)
{
    size_t len;
    llm_tokens_t ids;
    const char *text = llm_tok_name(t, id, &len);
    *out = -1;
    if (text == NULL) {
        return LLM_OK;
    }
    llm_code_t rc = llm_tok_encode(t, text, len, LLM_TOK_PARSE_SPECIAL, &ids, err);
    if (rc == LLM_OK) {
        *out = ids.n == 1 && ids.ids[0] == id ? id : -1;
        llm_tokens_free(&ids);
    }
    return rc;
}

/* The ids that the keys of a GGUF file give; -1 where they give none. */
static llm_code_t
from_keys(int32_t id[N_PARTS], const llm_src_t *src, uint32_t n_vocab, llm_err_t *err)
{
    static const char *const keys[][N_PARTS] = {
        { "fim_pre", "fim_suf", "fim_mid" }, { "prefix", "suffix", "middle" }
    };
    for (int i = 0; i < N_PARTS; i++) {
        id[i] = -1;
        for (int k = 0; k < 2 && id[i] < 0; k++) {
            char key[64];
            llm_value_t v;
            snprintf(key, sizeof(key), "tokenizer.ggml.%s_token_id", keys[k][i]);
            src->value(src, key, &v);
            if (v.kind == LLM_VALUE_NONE) {
                continue;
            }
            if (v.kind != LLM_VALUE_NUMBER || v.n != 1 || v.number < 0 || v.number >= n_vocab) {
                return llm_fail(err, LLM_E_FORMAT, "%s: key \"%s\" is no id of %u tokens",
                                src->path, key, n_vocab);
            }
            id[i] = (int32_t) v.number;
        }
    }
    return LLM_OK;
}

llm_code_t
llm_fim_find(llm_fim_t *out, const llm_tok_t *t, const llm_src_t *src, llm_err_t *err)
{
    int32_t id[N_PARTS] = { -1, -1, -1 };
    llm_code_t rc = LLM_OK;
    if (src->kind == LLM_SOURCE_GGUF) {
        rc = from_keys(id, src, llm_tok_n_vocab(t), err);
    }
    for (size_t f = 0; rc == LLM_OK && f < sizeof(families) / sizeof(families[0]); f++) {
        if (id[PRE] >= 0 && id[SUF] >= 0 && id[MID] >= 0) {
            break;
        }
        for (int i = 0; i < N_PARTS; i++) {
            id[i] = llm_tok_find(t, families[f][i], strlen(families[f][i]));
        }
    }
    for (int i = 0; rc == LLM_OK && i < N_PARTS; i++) {
        rc = usable(&id[i], t, id[i], err);
    }
    if (rc != LLM_OK || id[PRE] < 0 || id[SUF] < 0 || id[MID] < 0) {
        id[PRE] = id[SUF] = id[MID] = -1;
    }
    *out = (llm_fim_t) { .pre = id[PRE], .suf = id[SUF], .mid = id[MID] };
    return rc;
}
