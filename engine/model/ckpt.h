/*
 * ckpt.h - the tensors of a Hugging Face checkpoint, in whatever files they lie: safetensors or
 * pytorch_model.bin, one file or shards with an index (spec models.md section 10).
 *
 * Opening reads and checks the headers only; nothing is mapped, so a file that shrinks later makes
 * llm_ckpt_read fail, not the process.
 */
#ifndef LLM_CKPT_H
#define LLM_CKPT_H

#include "llm.h"

typedef enum {
    LLM_DT_F64, LLM_DT_F32, LLM_DT_F16, LLM_DT_BF16, LLM_DT_I64, LLM_DT_I32, LLM_DT_I16, LLM_DT_I8,
    LLM_DT_U64, LLM_DT_U32, LLM_DT_U16, LLM_DT_U8, LLM_DT_BOOL, LLM_DT_F8_E4M3, LLM_DT_F8_E5M2,
    LLM_DT_COUNT
} llm_dtype_t;

typedef struct { const char *name; uint32_t bytes; } llm_dtype_info_t;
/* "BF16", 2; static storage. */
const llm_dtype_info_t *llm_dtype(llm_dtype_t t);

#define LLM_CKPT_MAX_DIMS    8
#define LLM_CKPT_MAX_TENSORS ((size_t) 1 << 20)
#define LLM_CKPT_MAX_FILES   512
#define LLM_CKPT_MAX_INDEX   ((size_t) 16 << 20)    /* bytes of an index file */

typedef struct {
    const char *name;           /* no NUL inside */
    llm_dtype_t dtype;
    uint32_t    n_dims;         /* 0: a scalar */
    uint64_t    dim[LLM_CKPT_MAX_DIMS];     /* outermost first; the product fits 64 bits */
    uint32_t    file;
    uint64_t    offset;         /* of its first byte in the file; checked to lie inside it */
    uint64_t    size;           /* bytes: product of dims and bytes of the type */
    bool        transposed;     /* of two dimensions, the file holds the other way round */
} llm_ckpt_tensor_t;

typedef struct llm_ckpt llm_ckpt_t;

/*
 * Of a directory, the first of: model.safetensors.index.json, model.safetensors,
 * pytorch_model.bin.index.json, pytorch_model.bin. A path that is no directory is opened as one
 * safetensors file. Time and memory are bounded by the sizes of the headers.
 * Errors: IO, FORMAT, UNSUPPORTED, NOMEM; the message names file and tensor.
 */
llm_code_t llm_ckpt_open(llm_ckpt_t **out, const char *path, llm_err_t *err);
void llm_ckpt_close(llm_ckpt_t *c);

size_t llm_ckpt_n_tensors(const llm_ckpt_t *c);
/* Sorted by name. */
const llm_ckpt_tensor_t *llm_ckpt_tensor_at(const llm_ckpt_t *c, size_t i);
/* NULL when absent. O(log n). */
const llm_ckpt_tensor_t *llm_ckpt_find(const llm_ckpt_t *c, const char *name);

/* Path of the file that holds the tensor, for messages. */
const char *llm_ckpt_path(const llm_ckpt_t *c, const llm_ckpt_tensor_t *t);
uint64_t llm_ckpt_file_bytes(const llm_ckpt_t *c);

/*
 * Copies n bytes, from byte `from` of the tensor's data as the file holds it, to dst. Errors: IO
 * when the file cannot be read or has become shorter since it was opened.
 */
llm_code_t llm_ckpt_read(const llm_ckpt_t *c, const llm_ckpt_tensor_t *t, uint64_t from, void *dst,
                         size_t n, llm_err_t *err);

#endif
