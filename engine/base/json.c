/*
 * json.c - bounded parsing of JSON texts and reading of whole files (see json.h).
 */
#include "base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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

/* Reads size bytes and checks that the file ends there. */
static llm_code_t
read_all(char *buf, size_t size, int fd, const char *path, llm_err_t *err)
{
    size_t n = 0;
    while (n < size) {
        ssize_t r = read(fd, buf + n, size - n);
        if (r < 0 && errno == EINTR) {
            continue;
        }
        if (r < 0) {
            return llm_fail(err, LLM_E_IO, "%s: read failed: %s", path, strerror(errno));
        }
        if (r == 0) {
            return llm_fail(err, LLM_E_IO, "%s: ended after %zu of %zu bytes", path, n, size);
        }
        n += (size_t) r;
    }
    buf[size] = '\0';
    return LLM_OK;
}

llm_code_t
llm_file_read(char **text, size_t *len, const char *path, size_t max_bytes, bool optional,
              llm_err_t *err)
{
    *text = NULL;
    *len = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        if (errno == ENOENT && optional) {
            return LLM_OK;
        }
        return llm_fail(err, LLM_E_IO, "%s: cannot open: %s", path, strerror(errno));
    }
    llm_code_t rc;
    struct stat st;
    char *buf = NULL;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        rc = llm_fail(err, LLM_E_IO, "%s: not a regular file", path);
        goto done;
    }
    if (st.st_size < 0 || (uint64_t) st.st_size > max_bytes) {
        rc = llm_fail(err, LLM_E_FORMAT, "%s: %lld bytes, at most %zu are read", path,
                      (long long) st.st_size, max_bytes);
        goto done;
    }
    buf = malloc((size_t) st.st_size + 1);
    if (buf == NULL) {
        rc = llm_fail(err, LLM_E_NOMEM, "%s: no memory for %lld bytes", path,
                      (long long) st.st_size);
        goto done;
    }
    rc = read_all(buf, (size_t) st.st_size, fd, path, err);
    if (rc == LLM_OK) {
        *text = buf;
        *len = (size_t) st.st_size;
        buf = NULL;
    }
done:
    free(buf);
    close(fd);
    return rc;
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
