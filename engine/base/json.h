/*
 * json.h - a safe face of jansson for files and requests that nobody vouches for.
 *
 * Size and depth are bounded before the parser sees the text (jansson itself recurses), duplicate
 * keys and invalid UTF-8 are refused. Values are released with json_decref.
 */
#ifndef LLM_JSON_H
#define LLM_JSON_H

#include "llm.h"

#include <jansson.h>

#define LLM_JSON_MAX_DEPTH 64

/*
 * Parses len bytes that hold one array or object. what names the source in messages.
 * Errors: FORMAT (with line and column), NOMEM; *out is NULL then.
 */
llm_code_t llm_json_parse(json_t **out, const char *what, const char *text, size_t len,
                          llm_err_t *err);

/* llm_file_read and llm_json_parse; *out stays NULL for an absent optional file. */
llm_code_t llm_json_file(json_t **out, const char *path, size_t max_bytes, bool optional,
                         llm_err_t *err);

#endif
