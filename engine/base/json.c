/*
 * json.c - bounded parsing of JSON texts (see json.h).
 */
#include "base/json.h"
#include "base/file.h"

#include <stdlib.h>

/* Depth of nesting outside strings; the parser finds everything else that is wrong. */
static bool
too_deep(const char *text, size_t len)
{
    unsigned depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\') {
                i++;
            } else if (c == '"') {
                in_string = false;
            }
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > LLM_JSON_MAX_DEPTH) {
                return true;
            }
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        }
    }
    return false;
}

llm_code_t
llm_json_parse(json_t **out, const char *what, const char *text, size_t len, llm_err_t *err)
{
    *out = NULL;
    if (too_deep(text, len)) {
        return llm_fail(err, LLM_E_FORMAT, "%s: JSON is nested deeper than %d levels", what,
                        LLM_JSON_MAX_DEPTH);
    }
    json_error_t je;
    *out = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je);
    if (*out == NULL) {
        if (json_error_code(&je) == json_error_out_of_memory) {
            return llm_fail(err, LLM_E_NOMEM, "%s: out of memory while parsing JSON", what);
        }
        return llm_fail(err, LLM_E_FORMAT, "%s: line %d column %d: %s", what, je.line, je.column,
                        je.text);
    }
    return LLM_OK;
}

llm_code_t
llm_json_file(json_t **out, const char *path, size_t max_bytes, bool optional, llm_err_t *err)
{
    *out = NULL;
    char *text;
    size_t len;
    llm_code_t rc = llm_file_read(&text, &len, path, max_bytes, optional, err);
    if (rc != LLM_OK || text == NULL) {
        return rc;
    }
    rc = llm_json_parse(out, path, text, len, err);
    free(text);
    return rc;
}
