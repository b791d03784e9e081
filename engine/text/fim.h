/*
 * fim.h - fill in the middle: the tokens that put a text before and a text after into one prompt.
 *
 * Spec http-api.md section 8 (suffix).
 */
#ifndef LLM_FIM_H
#define LLM_FIM_H

#include "model/source.h"
#include "text/tok.h"

#define LLM_FIM_MARK "\xe2\x96\x81"     /* U+2581, a space of SentencePiece */

typedef struct {
    int32_t pre, suf, mid;      /* all -1: the model has none */
} llm_fim_t;

/*
 * Ids that a GGUF file names (tokenizer.ggml.fim_{pre,suf,mid}_token_id or
 * {prefix,suffix,middle}_token_id), else tokens of a family that is known by their texts. A token
 * counts only if the tokenizer makes it of its text: a prompt is written with these texts.
 * Errors: FORMAT (a key that is no id), NOMEM.
 */
llm_code_t llm_fim_find(llm_fim_t *out, const llm_tok_t *t, const llm_src_t *src, llm_err_t *err);

#endif
