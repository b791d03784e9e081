/*
 * gguf_write.h - writer of GGUF v3 files.
 *
 * First keys, then the table of tensors, then their bytes in the same order. The file appears under
 * its name only when it is whole: until llm_gguf_out_finish it is "<path>.part-<pid>" beside it.
 * Call order: new, kv|u32|str..., tensor..., begin, data..., finish, free.
 */
#ifndef LLM_GGUF_WRITE_H
#define LLM_GGUF_WRITE_H

#include "model/gguf.h"

typedef struct llm_gguf_out llm_gguf_out_t;

/* Errors: NOMEM, IO. llm_gguf_out_free releases it, and removes what has not been finished. */
llm_code_t llm_gguf_out_new(llm_gguf_out_t **out, const char *path, llm_err_t *err);
void llm_gguf_out_free(llm_gguf_out_t *w);

/*
 * One key. kv: of an open file, copied as it is. Keys must be unique: who calls sees to it. NOMEM.
 */
llm_code_t llm_gguf_out_kv(llm_gguf_out_t *w, const llm_gguf_kv_t *kv, llm_err_t *err);
llm_code_t llm_gguf_out_u32(llm_gguf_out_t *w, const char *key, uint32_t value, llm_err_t *err);
llm_code_t llm_gguf_out_str(llm_gguf_out_t *w, const char *key, const char *value, llm_err_t *err);

/*
 * One more tensor; ne innermost first, ne[0] a multiple of the type's block. *bytes (may be NULL):
 * what llm_gguf_out_data must get for it. Errors: NOMEM; FORMAT (sizes that do not fit).
 */
llm_code_t llm_gguf_out_tensor(llm_gguf_out_t *w, llm_span_t name, uint32_t n_dims,
                               const uint64_t *ne, uint32_t type, size_t *bytes, llm_err_t *err);

/* Writes the header; no keys and tensors after it. Errors: IO. */
llm_code_t llm_gguf_out_begin(llm_gguf_out_t *w, llm_err_t *err);
/* n bytes of the tensor that is next; padding between tensors is added here. Errors: IO, ARG. */
llm_code_t llm_gguf_out_data(llm_gguf_out_t *w, const void *data, size_t n, llm_err_t *err);
/* The file is on the disk and has its name. Errors: IO; ARG when bytes of tensors are missing. */
llm_code_t llm_gguf_out_finish(llm_gguf_out_t *w, llm_err_t *err);

#endif
