/*
 * gguf_impl.h - what the parts of the GGUF reader share: gguf.c (parsing and checks of one file),
 * gguf_split.c (models in several files) and gguf_get.c (access).
 */
#ifndef LLM_GGUF_IMPL_H
#define LLM_GGUF_IMPL_H

#include "model/gguf.h"

#include <string.h>

struct llm_gguf {
    char              *path;
    int                fd;
    uint64_t           file_size;
    uint8_t           *head;        /* the first head_len bytes of the file */
    size_t             head_len, head_cap;
    uint64_t           pos;         /* of the parser */

    uint64_t           n_kv, n_tensors;
    llm_gguf_kv_t     *kv;
    llm_gguf_tensor_t *tensors;
    uint32_t          *kv_order;        /* indices sorted by key */
    uint32_t          *tensor_order;    /* indices sorted by name */

    /* of the first part of a split: the others, part 1 first */
    llm_gguf_t       **more;
    uint32_t           n_more;
};

/* A name from the file for a message: printable ASCII, cut at 63 bytes. */
typedef struct { char s[64]; } shown_t;

typedef unsigned long long ull_t;    /* for %llu */

static inline shown_t
show(llm_span_t name)
{
    shown_t out;
    size_t n = name.len < sizeof(out.s) - 1 ? name.len : sizeof(out.s) - 1;
    for (size_t i = 0; i < n; i++) {
        out.s[i] = name.data[i] >= 0x20 && name.data[i] < 0x7f ? name.data[i] : '?';
    }
    out.s[n] = '\0';
    return out;
}

/* Bytewise order of names. */
static inline int
compare_spans(llm_span_t a, llm_span_t b)
{
    int c = memcmp(a.data, b.data, a.len < b.len ? a.len : b.len);
    return c != 0 ? c : (a.len > b.len) - (a.len < b.len);
}

/* One file, whatever it says of a split. */
llm_code_t llm_gguf_open_one(llm_gguf_t **out, const char *path, llm_err_t *err);
/* tensor_order anew; names must be unique. */
llm_code_t llm_gguf_index_tensors(llm_gguf_t *g, llm_err_t *err);

#endif
