/*
 * gguf.h - reader of GGUF v2 and v3 files (spec models.md sections 6 and 10).
 *
 * Opening reads the header (keys, tensor table) into memory and checks every offset, size, count
 * and name before anything is used, so that the rest of the engine can trust what it gets. Nothing
 * is mapped: a file that shrinks later makes llm_gguf_read fail, not the process. Keys, values and
 * names are borrowed until llm_gguf_close.
 */
#ifndef LLM_GGUF_H
#define LLM_GGUF_H

#include "llm.h"

typedef enum {
    LLM_GGUF_U8, LLM_GGUF_I8, LLM_GGUF_U16, LLM_GGUF_I16, LLM_GGUF_U32, LLM_GGUF_I32,
    LLM_GGUF_F32, LLM_GGUF_BOOL, LLM_GGUF_STRING, LLM_GGUF_ARRAY, LLM_GGUF_U64, LLM_GGUF_I64,
    LLM_GGUF_F64
} llm_gguf_type_t;

typedef struct { const char *data; size_t len; } llm_span_t;    /* not NUL-terminated */

typedef struct {
    llm_span_t      key;
    llm_gguf_type_t type;
    llm_gguf_type_t elem;       /* arrays: element type */
    uint64_t        n;          /* arrays: elements; else 1 */
    /* first byte of the value, unaligned; of a string: its u64 length */
    const uint8_t  *data;
} llm_gguf_kv_t;

typedef struct {
    llm_span_t     name;
    uint32_t       type;        /* llm_type_t, known to llm_format() or listed by the spec */
    uint32_t       n_dims;
    uint64_t       ne[4];       /* innermost first; unused ones are 1 */
    uint32_t       part;        /* the file that holds it: 0, or the number of a part of a split */
    uint64_t       offset;      /* of its first byte in that file; checked to lie inside it */
    size_t         size;        /* bytes */
} llm_gguf_tensor_t;

typedef struct llm_gguf llm_gguf_t;

#define LLM_GGUF_MAX_HEADER  ((size_t) 1 << 30)     /* bytes; the largest in use are about 20 MB */
#define LLM_GGUF_MAX_ENTRIES ((uint64_t) 1 << 20)   /* keys, and tensors */
#define LLM_GGUF_MAX_KEY     65535                  /* bytes, by the format */
#define LLM_GGUF_MAX_NAME    63                     /* bytes of a tensor's name, by the format */
#define LLM_GGUF_MAX_PARTS   256                    /* each holds a descriptor while it is open */

/*
 * A model that is split into files "...-00001-of-0000N.gguf" opens by the path of any of them: keys
 * are those of the first part, tensors those of all. Each part is checked like a file of its own,
 * and that the parts belong together; a missing one is named.
 *
 * Time and memory are bounded by the size of the header: O(n log n), at most LLM_GGUF_MAX_HEADER
 * bytes plus about 150 an entry. Errors: IO, FORMAT, UNSUPPORTED (version, tensor type), NOMEM;
 * the message names file and field.
 */
llm_code_t llm_gguf_open(llm_gguf_t **out, const char *path, llm_err_t *err);
void llm_gguf_close(llm_gguf_t *g);
/* Of a split: its first part. */
const char *llm_gguf_path(const llm_gguf_t *g);
/* Of all parts. */
size_t llm_gguf_file_bytes(const llm_gguf_t *g);

/* NULL when absent. O(log n) or better. */
const llm_gguf_kv_t *llm_gguf_find(const llm_gguf_t *g, const char *key);
uint64_t llm_gguf_n_kv(const llm_gguf_t *g);
const llm_gguf_kv_t *llm_gguf_kv(const llm_gguf_t *g, uint64_t i);

/*
 * Typed readers. Absent key: *out keeps its value and the result is LLM_OK. Wrong type or out of
 * range: FORMAT. Integers of every width and sign are accepted when the value fits.
 */
llm_code_t llm_gguf_u32(const llm_gguf_t *g, const char *key, uint32_t *out, llm_err_t *err);
llm_code_t llm_gguf_f32(const llm_gguf_t *g, const char *key, float *out, llm_err_t *err);
llm_code_t llm_gguf_bool(const llm_gguf_t *g, const char *key, bool *out, llm_err_t *err);
llm_code_t llm_gguf_str(const llm_gguf_t *g, const char *key, llm_span_t *out, llm_err_t *err);

/* Iteration over a string array: *it starts at kv->data; call n times. */
llm_span_t llm_gguf_next_str(const uint8_t **it);

uint64_t llm_gguf_n_tensors(const llm_gguf_t *g);
const llm_gguf_tensor_t *llm_gguf_tensor_at(const llm_gguf_t *g, uint64_t i);
/* NULL when absent. O(log n). */
const llm_gguf_tensor_t *llm_gguf_tensor(const llm_gguf_t *g, const char *name);

/*
 * Copies n bytes, from byte `from` of a tensor's data on, to dst.
 * Errors: IO when the file cannot be read or has become shorter since it was opened.
 */
llm_code_t llm_gguf_read(const llm_gguf_t *g, const llm_gguf_tensor_t *t, size_t from, void *dst,
                         size_t n, llm_err_t *err);

#endif
