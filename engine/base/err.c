/*
 * err.c - errors as values: a code and one line of text.
 */
#include "llm.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

llm_code_t
llm_fail(llm_err_t *err, llm_code_t code, const char *fmt, ...)
{
    if (err == NULL) {
        return code;
    }
    err->code = code;

    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(err->msg, sizeof(err->msg), fmt, args);
    va_end(args);

    if (n >= (int) sizeof(err->msg)) {
        /* a cut may have split a UTF-8 sequence: drop its head */
        size_t end = sizeof(err->msg) - 1, i = end;
        while (i > 0 && ((unsigned char) err->msg[i - 1] & 0xc0) == 0x80) {
            i--;
        }
        if (i > 0 && (unsigned char) err->msg[i - 1] >= 0xc0) {
            unsigned char lead = (unsigned char) err->msg[i - 1];
            size_t need = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
            if (end - (i - 1) < need) {
                end = i - 1;
            }
        }
        err->msg[end] = '\0';
    }

    /*
     * file names and keys come from outside: a control character would break the one-line promise
     */
    for (char *p = err->msg; *p != '\0'; p++) {
        if ((unsigned char) *p < 0x20 || *p == 0x7f) {
            *p = '?';
        }
    }
    return code;
}

const char *
llm_code_name(llm_code_t code)
{
    static const char *const names[] = {
        "LLM_OK", "LLM_E_ARG", "LLM_E_FORMAT", "LLM_E_UNSUPPORTED", "LLM_E_IO", "LLM_E_NOMEM",
        "LLM_E_BUSY", "LLM_E_TEMPLATE", "LLM_E_ENGINE", "LLM_E_CANCEL",
    };
    return (unsigned) code < sizeof(names) / sizeof(names[0]) ? names[code] : "LLM_E_?";
}
