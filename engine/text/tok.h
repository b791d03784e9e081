/*
 * tok.h - tokenizers: byte-level BPE, SentencePiece BPE with byte fallback, Unigram.
 *
 * Immutable after construction; every function may be called from many threads at once. Semantics:
 * spec models.md section 8.
 */
#ifndef LLM_TOK_H
#define LLM_TOK_H

#include "llm.h"

struct llm_gguf;

typedef struct llm_tok llm_tok_t;

/* Reads tokenizer.ggml.* of a GGUF file. Errors: FORMAT, UNSUPPORTED (model or pre-tokenizer, by
 * name), NOMEM. Copies what it keeps. */
llm_code_t llm_tok_from_gguf(llm_tok_t **out, const struct llm_gguf *g, llm_err_t *err);
/* Reads tokenizer.json and its companions from a Hugging Face directory. Errors: IO, FORMAT,
 * UNSUPPORTED (by component name), NOMEM. */
llm_code_t llm_tok_from_dir(llm_tok_t **out, const char *dir, llm_err_t *err);
void llm_tok_free(llm_tok_t *t);

uint32_t llm_tok_n_vocab(const llm_tok_t *t);
int32_t llm_tok_bos(const llm_tok_t *t);        /* -1: none */
int32_t llm_tok_eos(const llm_tok_t *t);
bool llm_tok_adds_bos(const llm_tok_t *t);
/* Ids that end a generation: eos, and the end-of-turn/end-of-text tokens that the file names or
 * that are known by their text. */
bool llm_tok_is_eos(const llm_tok_t *t, int32_t id);
bool llm_tok_is_special(const llm_tok_t *t, int32_t id);
/* The id of exactly this text, or -1. Looks through the vocabulary: for single names only. */
int32_t llm_tok_find(const llm_tok_t *t, const char *text, size_t len);
/* The token as the file writes it, borrowed, not NUL-terminated; NULL: no such token. */
const char *llm_tok_name(const llm_tok_t *t, int32_t id, size_t *len);
/* As llm_token_text of llm.h. */
size_t llm_tok_text(const llm_tok_t *t, int32_t id, char *buf, size_t cap);

/* As llm_tokenize of llm.h. */
llm_code_t llm_tok_encode(const llm_tok_t *t, const char *text, size_t len, unsigned flags,
                          llm_tokens_t *out, llm_err_t *err);
/* Decodes all ids at once into a fresh malloc'ed NUL-terminated string. Errors: NOMEM. */
llm_code_t llm_tok_decode(const llm_tok_t *t, const int32_t *ids, size_t n, bool skip_special,
                          char **out, size_t *len, llm_err_t *err);

/* The bytes that an id adds to a text in which it is not the first token; not always whole
 * characters. Unknown ids: NULL, 0. Borrowed. */
const uint8_t *llm_tok_raw(const llm_tok_t *t, int32_t id, size_t *len);

/* llm_detok_new of llm.h for a bare tokenizer, which must outlive it. */
llm_code_t llm_detok_new_tok(llm_detok_t **out, const llm_tok_t *t, unsigned flags, llm_err_t *err);

#endif
