/*
 * tok_dir.c - reads the tokenizer files of a Hugging Face directory.
 */
#include "base/file.h"
#include "text/tok_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FILE ((size_t) 256 << 20) /* bytes; the largest tokenizer.json in use has about 35 MB  \
                                       */

/* Opens dir/name if it is there. */
static llm_code_t
read_file(char **text, size_t *len, const char *dir, const char *name, llm_err_t *err)
{
    size_t n = strlen(dir) + strlen(name) + 2;
    char *path = malloc(n);
    if (path == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for a path", dir);
    }
    snprintf(path, n, "%s/%s", dir, name);
    llm_code_t rc = llm_file_read(text, len, path, MAX_FILE, true, err);
    free(path);
    return rc;
}

llm_code_t
llm_tok_from_dir(llm_tok_t **out, const char *dir, llm_err_t *err)
{
    static const char *const names[] = {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
        "vocab.json",
        "merges.txt",
    };
    enum { N = sizeof(names) / sizeof(names[0]) };
    char *text[N] = { NULL };
    size_t len[N] = { 0 };
    llm_code_t rc = LLM_OK;
    *out = NULL;
    for (unsigned i = 0; rc == LLM_OK && i < N; i++) {
        if (i < 4 || text[0] == NULL) { /* vocab.json and merges.txt only without tokenizer.json */
            rc = read_file(&text[i], &len[i], dir, names[i], err);
        }
    }
    if (rc == LLM_OK) {
        llm_tok_texts_t x = {
            .where = dir,
            .tokenizer = text[0],
            .config = text[1],
            .special_map = text[2],
            .generation = text[3],
            .vocab = text[4],
            .merges = text[5],
            .n_tokenizer = len[0],
            .n_config = len[1],
            .n_special_map = len[2],
            .n_generation = len[3],
            .n_vocab = len[4],
            .n_merges = len[5],
        };
        rc = llm_tok_from_texts(out, &x, err);
    }
    for (unsigned i = 0; i < N; i++) {
        free(text[i]);
    }
    return rc;
}
