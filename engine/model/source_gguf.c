/*
 * source_gguf.c - a GGUF file as a source of settings and tensors.
 */
#include "model/source.h"
#include "tensor/format.h"

#include <string.h>

/* A number of any type at p; false for strings and arrays. *size: bytes of one. */
static bool
number_at(llm_gguf_type_t type, const uint8_t *p, double *out, size_t *size)
{
#define AS(type_name)                \
    do {                             \
        type_name x;                 \
        memcpy(&x, p, sizeof(x));    \
        *out = (double) x;           \
        *size = sizeof(x);           \
        return true;                 \
    } while (0)

    switch (type) {
    case LLM_GGUF_U8:
    case LLM_GGUF_BOOL:
        AS(uint8_t);
    case LLM_GGUF_I8:
        AS(int8_t);
    case LLM_GGUF_U16:
        AS(uint16_t);
    case LLM_GGUF_I16:
        AS(int16_t);
    case LLM_GGUF_U32:
        AS(uint32_t);
    case LLM_GGUF_I32:
        AS(int32_t);
    case LLM_GGUF_U64:
        AS(uint64_t);
    case LLM_GGUF_I64:
        AS(int64_t);
    case LLM_GGUF_F32:
        AS(float);
    case LLM_GGUF_F64:
        AS(double);
    case LLM_GGUF_STRING:
    case LLM_GGUF_ARRAY:
        break;
    }
    return false;
#undef AS
}

static void
gguf_value(const llm_src_t *s, const char *key, llm_value_t *out)
{
    const llm_gguf_kv_t *kv = llm_gguf_find(s->file, key);
    *out = (llm_value_t) { .kind = LLM_VALUE_NONE, .uniform = true, .n = 1 };
    if (kv == NULL) {
        return;
    }
    out->kind = LLM_VALUE_OTHER;
    out->n = kv->n;
    if (kv->type == LLM_GGUF_STRING) {
        const uint8_t *it = kv->data;
        out->kind = LLM_VALUE_STRING;
        out->string = llm_gguf_next_str(&it);
        return;
    }
    llm_gguf_type_t type = kv->type == LLM_GGUF_ARRAY ? kv->elem : kv->type;
    size_t size = 0;
    if (kv->n == 0 || !number_at(type, kv->data, &out->number, &size)) {
        return;
    }
    out->kind = LLM_VALUE_NUMBER;
    for (uint64_t i = 1; i < kv->n && out->uniform; i++) {
        double x = 0;
        number_at(type, kv->data + i * size, &x, &size);
        out->uniform = x == out->number;
    }
}

static void
convert(const llm_gguf_tensor_t *t, uint64_t index, llm_src_tensor_t *out)
{
    const llm_format_t *f = llm_format(t->type);
    *out = (llm_src_tensor_t) {
        .name = t->name, .type = t->type, .type_name = f != NULL ? f->name : "unknown",
        .size = t->size, .index = index,
    };
    memcpy(out->ne, t->ne, sizeof(out->ne));
}

static bool
gguf_tensor(const llm_src_t *s, const char *name, llm_src_tensor_t *out)
{
    const llm_gguf_tensor_t *t = llm_gguf_tensor(s->file, name);
    if (t == NULL) {
        return false;
    }
    convert(t, (uint64_t) (t - llm_gguf_tensor_at(s->file, 0)), out);
    return true;
}

static void
gguf_tensor_at(const llm_src_t *s, uint64_t i, llm_src_tensor_t *out)
{
    convert(llm_gguf_tensor_at(s->file, i), i, out);
}

static llm_code_t
gguf_read(const llm_src_t *s, const llm_src_tensor_t *t, size_t from, void *dst, size_t n,
          llm_err_t *err)
{
    return llm_gguf_read(s->file, llm_gguf_tensor_at(s->file, t->index), from, dst, n, err);
}

llm_src_t
llm_src_gguf(const llm_gguf_t *g)
{
    return (llm_src_t) {
        .kind = LLM_SOURCE_GGUF,
        .path = llm_gguf_path(g),
        .file = g,
        .n_tensors = llm_gguf_n_tensors(g),
        .value = gguf_value,
        .tensor = gguf_tensor,
        .tensor_at = gguf_tensor_at,
        .read = gguf_read,
    };
}
