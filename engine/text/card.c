/*
 * card.c - chat template and licence of a Hugging Face directory (see card.h).
 */
#include "text/card.h"
#include "base/file.h"
#include "base/json.h"
#include "base/unicode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TEMPLATE ((size_t) 1 << 20)
#define MAX_CONFIG   ((size_t) 16 << 20)
#define MAX_README   ((size_t) 4 << 20)
#define MAX_PATH     4096

static llm_code_t
path_of(char path[MAX_PATH], const char *dir, const char *name, llm_err_t *err)
{
    int n = snprintf(path, MAX_PATH, "%s/%s", dir, name);
    return n >= 0 && n < MAX_PATH ? LLM_OK
           : llm_fail(err, LLM_E_IO, "%s: path of %d bytes is too long", dir, n);
}

/* ----------------------------------------------------------------- template */

/* The template is compiled later, so it must be text as it stands. */
static llm_code_t
check_text(const char *path, const char *text, size_t len, llm_err_t *err)
{
    size_t valid = llm_utf8_valid((const uint8_t *) text, len);
    const char *nul = memchr(text, '\0', valid);
    if (valid == len && nul == NULL) {
        return LLM_OK;
    }
    return llm_fail(err, LLM_E_FORMAT, "%s: chat template has %s at byte %zu", path,
                    nul != NULL ? "a NUL" : "malformed UTF-8",
                    nul != NULL ? (size_t) (nul - text) : valid);
}

/* The template that v holds: a text, or the default one of a list. NULL: none. */
static const json_t *
choose(const json_t *v)
{
    size_t i;
    json_t *entry;
    if (!json_is_array(v)) {
        return v;
    }
    json_array_foreach(v, i, entry) {
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name != NULL && strcmp(name, "default") == 0) {
            return json_object_get(entry, "template");
        }
    }
    return NULL;
}

/* The key "chat_template" of a JSON file. */
static llm_code_t
from_json(char **out, const char *dir, const char *name, llm_err_t *err)
{
    char path[MAX_PATH];
    json_t *root = NULL;
    llm_code_t rc = path_of(path, dir, name, err);
    if (rc == LLM_OK) {
        rc = llm_json_file(&root, path, MAX_CONFIG, true, err);
    }
    const json_t *v = choose(json_object_get(root, "chat_template"));
    if (rc == LLM_OK && v != NULL && !json_is_null(v)) {
        if (!json_is_string(v)) {
            rc = llm_fail(err, LLM_E_FORMAT, "%s: key \"chat_template\" is no text", path);
        }
        if (rc == LLM_OK) {
            rc = check_text(path, json_string_value(v), json_string_length(v), err);
        }
        if (rc == LLM_OK && json_string_length(v) > MAX_TEMPLATE) {
            rc = llm_fail(err, LLM_E_FORMAT, "%s: chat template of %zu bytes, at most %zu are read",
                          path, json_string_length(v), MAX_TEMPLATE);
        }
        if (rc == LLM_OK) {
            *out = strdup(json_string_value(v));
            rc = *out != NULL ? LLM_OK : llm_fail(err, LLM_E_NOMEM, "%s: no memory", path);
        }
    }
    json_decref(root);
    return rc;
}

llm_code_t
llm_card_template(char **out, const char *dir, llm_err_t *err)
{
    char path[MAX_PATH], *text = NULL;
    size_t len;
    *out = NULL;
    llm_code_t rc = path_of(path, dir, "chat_template.jinja", err);
    if (rc == LLM_OK) {
        rc = llm_file_read(&text, &len, path, MAX_TEMPLATE, true, err);
    }
    if (rc == LLM_OK && text != NULL) {
        rc = check_text(path, text, len, err);
        if (rc == LLM_OK) {
            *out = text;
            return LLM_OK;
        }
        free(text);
    }
    if (rc == LLM_OK) {
        rc = from_json(out, dir, "chat_template.json", err);
    }
    return rc != LLM_OK || *out != NULL ? rc : from_json(out, dir, "tokenizer_config.json", err);
}

/* ------------------------------------------------------------------ licence */

/* The value of "license:" in the YAML header of text; *len 0: there is none. */
static const char *
find_license(const char *text, size_t *len)
{
    static const char key[] = "license:";
    *len = 0;
    if (strncmp(text, "---", 3) != 0) {
        return text;
    }
    for (const char *line = strchr(text, '\n'); line != NULL; line = strchr(line, '\n')) {
        line++;
        if (strncmp(line, "---", 3) == 0) {
            break;
        }
        if (strncmp(line, key, sizeof(key) - 1) != 0) {
            continue;
        }
        line += sizeof(key) - 1;
        line += strspn(line, " \t'\"");
        *len = strcspn(line, "\r\n'\"#");
        while (*len > 0 && (line[*len - 1] == ' ' || line[*len - 1] == '\t')) {
            --*len;
        }
        return line;
    }
    return text;
}

llm_code_t
llm_card_license(char **out, const char *dir, llm_err_t *err)
{
    char path[MAX_PATH], *text = NULL;
    size_t len = 0;
    *out = NULL;
    llm_code_t rc = path_of(path, dir, "README.md", err);
    if (rc == LLM_OK) {
        rc = llm_file_read(&text, &len, path, MAX_README, true, err);
    }
    if (rc != LLM_OK) {
        return rc;
    }
    const char *value = find_license(text != NULL ? text : "", &len);
    *out = strndup(value, len);
    free(text);
    return *out != NULL ? LLM_OK : llm_fail(err, LLM_E_NOMEM, "%s: no memory", path);
}
