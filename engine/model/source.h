/*
 * source.h - where a model's settings and tensors come from, whatever the file format.
 *
 * Binding (bind.c) asks for keys and tensors by name and reads bytes; a reader (GGUF now, a
 * directory of safetensors with config.json) implements these five functions over structures that
 * it has already checked.
 */
#ifndef LLM_SOURCE_H
#define LLM_SOURCE_H

#include "model/gguf.h"

typedef enum { LLM_SOURCE_GGUF, LLM_SOURCE_HF } llm_source_kind_t;

/* NULL: there, but explicitly without a value (JSON). */
typedef enum {
    LLM_VALUE_NONE, LLM_VALUE_NULL, LLM_VALUE_NUMBER, LLM_VALUE_STRING, LLM_VALUE_OTHER
} llm_value_kind_t;

/* One setting. Booleans are the numbers 0 and 1. */
typedef struct {
    llm_value_kind_t kind;
    double           number;    /* of an array of numbers: its first element */
    bool             uniform;   /* false: an array of numbers that are not all the same */
    uint64_t         n;         /* elements of an array, else 1 */
    llm_span_t       string;
} llm_value_t;

typedef struct {
    llm_span_t  name;
    uint32_t    type;           /* llm_type_t; LLM_T_COUNT: a type that no weights can have */
    const char *type_name;      /* as the source calls it */
    uint64_t    ne[4];          /* innermost first; unused ones are 1 */
    size_t      size;           /* bytes */
    uint64_t    index;          /* of the tensor in its source */
    /*
     * Of two dimensions, the reader is to turn what the source holds; set, with ne swapped, by who
     * asks (not for GGUF).
     */
    bool        transposed;
} llm_src_tensor_t;

typedef struct llm_src {
    llm_source_kind_t kind;
    const char       *path;     /* for messages */
    const void       *file;     /* the reader's own */
    uint64_t          n_tensors;

    /* kind NONE when absent. */
    void (*value)(const struct llm_src *s, const char *key, llm_value_t *out);
    /* false when absent. */
    bool (*tensor)(const struct llm_src *s, const char *name, llm_src_tensor_t *out);
    void (*tensor_at)(const struct llm_src *s, uint64_t i, llm_src_tensor_t *out);
    /* Copies bytes from..from+n-1 of a tensor. Errors: IO. Thread: any, concurrently too. */
    llm_code_t (*read)(const struct llm_src *s, const llm_src_tensor_t *t, size_t from, void *dst,
                       size_t n, llm_err_t *err);
} llm_src_t;

/* A view of an open GGUF file, which must outlive it. */
llm_src_t llm_src_gguf(const llm_gguf_t *g);

#endif
