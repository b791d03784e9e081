/*
 * keep.h - files that outlive the process, in a folder that is ours alone.
 *
 * A file appears under its name whole or not at all: it is written beside it, brought to the disk
 * and renamed. It never changes afterwards, so it may be mapped. Names are WHAT-KEY.llm with KEY in
 * 16 hexadecimal digits, with six more characters behind a dot while it is written.
 */
#ifndef LLM_KEEP_H
#define LLM_KEEP_H

#include "llm.h"

#define LLM_KEEP_DAYS 30        /* how long a file that nobody uses stays */

/* A file that is being written. */
typedef struct {
    int   fd;
    char *path, *tmp;
} llm_keep_t;

/* "dir/what-key.llm" in fresh memory; NULL when there is none. */
char *llm_keep_path(const char *dir, const char *what, uint64_t key);

/*
 * Begins a file that will have `bytes` bytes, mode 0600; room for them is taken at once where the
 * file system can, so that a full disk is found here. path is borrowed. Errors: IO, NOMEM.
 */
llm_code_t llm_keep_begin(llm_keep_t *k, const char *path, uint64_t bytes, llm_err_t *err);
/* Errors: IO. */
llm_code_t llm_keep_write(llm_keep_t *k, const void *data, size_t n, uint64_t off, llm_err_t *err);
/*
 * After rc == LLM_OK the file gets its name, else it is removed. Returns rc, or IO when the disk
 * does not take it. Either way k is done with.
 */
llm_code_t llm_keep_end(llm_keep_t *k, llm_code_t rc, llm_err_t *err);

/* The open file is in use now. */
void llm_keep_touch(int fd);
/*
 * Removes files of ours that were not touched for LLM_KEEP_DAYS, and half-written ones that nobody
 * has written to for a day. Others are left alone. Failures are passed over.
 */
void llm_keep_prune(const char *dir);

#endif
