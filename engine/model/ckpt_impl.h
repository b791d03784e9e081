/*
 * ckpt_impl.h - what the readers of single files (safetensors.c, pickle.c) fill in a checkpoint.
 */
#ifndef LLM_CKPT_IMPL_H
#define LLM_CKPT_IMPL_H

#include "model/ckpt.h"

typedef unsigned long long ull_t;   /* for %llu */

typedef struct {
    char    *path;
    int      fd;
    uint64_t size;
} llm_ckpt_file_t;

struct llm_ckpt {
    llm_ckpt_file_t   *files;
    size_t             n_files;
    llm_ckpt_tensor_t *tensors;     /* names are owned */
    size_t             n_tensors, cap;
    uint64_t           bytes;
};

/* Opens a regular file and appends it to c->files. Errors: IO, UNSUPPORTED (too many), NOMEM. */
llm_code_t llm_ckpt_add_file(llm_ckpt_t *c, const char *path, llm_err_t *err);
/* Reads n bytes of a file, all or an error. */
llm_code_t llm_ckpt_pread(const llm_ckpt_file_t *f, void *dst, size_t n, uint64_t off,
                          llm_err_t *err);
/*
 * Appends a tensor whose fields are checked; name (len bytes) is copied. Errors: FORMAT (NUL in the
 * name), UNSUPPORTED (too many tensors), NOMEM.
 */
llm_code_t llm_ckpt_add_tensor(llm_ckpt_t *c, const llm_ckpt_tensor_t *t, const char *name,
                               size_t len, llm_err_t *err);
/* Sets t->size from its dims and dtype; false when it overflows. */
bool llm_ckpt_size(llm_ckpt_tensor_t *t);

/* Tensors of the last file of c. Errors as llm_ckpt_open. */
llm_code_t llm_safetensors_read(llm_ckpt_t *c, llm_err_t *err);
llm_code_t llm_pytorch_read(llm_ckpt_t *c, llm_err_t *err);

#endif
