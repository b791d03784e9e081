/*
 * card.h - what a Hugging Face directory says about its model beside weights and tokenizer.
 */
#ifndef LLM_CARD_H
#define LLM_CARD_H

#include "llm.h"

/*
 * The chat template of dir, malloc'ed and NUL-terminated; NULL when there is none. The first of:
 * chat_template.jinja, chat_template.json, "chat_template" of tokenizer_config.json (a text, or a
 * list of {"name", "template"}, of which "default" is taken).
 * Errors: IO, FORMAT (malformed JSON; not UTF-8; a NUL inside), NOMEM.
 */
llm_code_t llm_card_template(char **out, const char *dir, llm_err_t *err);

/*
 * The licence that the header of README.md names, malloc'ed; "" when it names none.
 * Errors: IO, NOMEM.
 */
llm_code_t llm_card_license(char **out, const char *dir, llm_err_t *err);

#endif
