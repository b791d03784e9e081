/*
 * file.h - files that somebody else may be writing: opened without hanging, read whole or not at
 * all.
 */
#ifndef LLM_FILE_H
#define LLM_FILE_H

#include "llm.h"

/*
 * Opens a regular file for reading; *fd is -1 after an error. A FIFO or a device does not make it
 * wait. Errors: IO.
 */
llm_code_t llm_file_open(int *fd, uint64_t *size, const char *path, llm_err_t *err);

/* Reads n bytes at offset off, all or an error; path is for its message. Errors: IO. */
llm_code_t llm_file_pread(int fd, const char *path, void *dst, size_t n, uint64_t off,
                          llm_err_t *err);

/*
 * Reads a whole file of at most max_bytes; *text is malloc'ed and NUL-terminated after *len bytes.
 * An absent file is LLM_OK with *text == NULL when optional is set. Errors: IO, FORMAT (too large),
 * NOMEM.
 */
llm_code_t llm_file_read(char **text, size_t *len, const char *path, size_t max_bytes,
                         bool optional, llm_err_t *err);

#endif
