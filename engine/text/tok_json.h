/*
 * tok_json.h - what the readers of tokenizer.json share: tok_dir.c (files), tok_json.c (vocabulary,
 * special tokens, settings of tokenizer_config.json) and tok_parts.c (the components of the
 * pipeline).
 */
#ifndef LLM_TOK_JSON_H
#define LLM_TOK_JSON_H

#include "base/json.h"
#include "text/tok_impl.h"

/* The texts of the files; NULL: there is no such file. tokenizer, or vocab and merges, must be
 * there. */
typedef struct {
    const char *where;              /* the directory, for messages */
    const char *tokenizer, *config, *special_map, *generation, *vocab, *merges;
    size_t      n_tokenizer, n_config, n_special_map, n_generation, n_vocab, n_merges;
} llm_tok_texts_t;

/* As llm_tok_from_dir, from memory. */
llm_code_t llm_tok_from_texts(llm_tok_t **out, const llm_tok_texts_t *x, llm_err_t *err);

/*
 * The functions below read one component of tokenizer.json (NULL or null: none) into t; where is
 * the file's name. Errors: FORMAT, NOMEM; UNSUPPORTED with the name of the component or pattern.
 * llm_part_pretokenizer: prefix_space >= 0 overrides add_prefix_space of a ByteLevel that stands
 * alone.
 */
llm_code_t llm_part_normalizer(llm_tok_t *t, const json_t *v, const char *where, llm_err_t *err);
llm_code_t llm_part_pretokenizer(llm_tok_t *t, const json_t *v, int prefix_space, const char *where,
                                 llm_err_t *err);
llm_code_t llm_part_decoder(llm_tok_t *t, const json_t *v, const char *where, llm_err_t *err);
/* After the vocabulary: ids are looked up and checked. */
llm_code_t llm_part_postprocessor(llm_tok_t *t, const json_t *v, const char *where, llm_err_t *err);

/* After normalizer and pre-tokenizer: finds where spaces become U+2581 and sets t->spaces. */
llm_code_t llm_part_settle(llm_tok_t *t, const char *where, llm_err_t *err);

/* The string at key, or NULL. With len == NULL a string that contains NUL counts as absent. */
const char *llm_json_str(const json_t *obj, const char *key, size_t *len);
/* The boolean at key, or the default when it is absent or null. */
bool llm_json_flag(const json_t *obj, const char *key, bool dflt);

#endif
