/*
 * gguf_get.c - access to what gguf.c has read and checked: lookup by name, typed values, tensor
 * bytes.
 */
#include "model/gguf_impl.h"
#include "base/file.h"

const char *
llm_gguf_path(const llm_gguf_t *g)
{
    return g->path;
}

size_t
llm_gguf_file_bytes(const llm_gguf_t *g)
{
    uint64_t sum = g->file_size;
    for (uint32_t i = 0; i < g->n_more; i++) {
        sum += g->more[i]->file_size;
    }
    return (size_t) sum;
}

const llm_gguf_kv_t *
llm_gguf_find(const llm_gguf_t *g, const char *key)
{
    llm_span_t want = { key, strlen(key) };
    for (uint64_t lo = 0, hi = g->n_kv; lo < hi;) {
        uint64_t mid = lo + (hi - lo) / 2;
        const llm_gguf_kv_t *kv = &g->kv[g->kv_order[mid]];
        int c = compare_spans(want, kv->key);
        if (c == 0) {
            return kv;
        }
        if (c < 0) {
            hi = mid;
        } else {
            lo = mid + 1;
        }
    }
    return NULL;
}

uint64_t
llm_gguf_n_kv(const llm_gguf_t *g)
{
    return g->n_kv;
}

const llm_gguf_kv_t *
llm_gguf_kv(const llm_gguf_t *g, uint64_t i)
{
    return i < g->n_kv ? &g->kv[i] : NULL;
}

static llm_code_t
wrong_type(const llm_gguf_t *g, const llm_gguf_kv_t *kv, const char *want, llm_err_t *err)
{
    static const char *const names[] = {
        "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64",
        "f64",
    };
    return llm_fail(err, LLM_E_FORMAT, "%s: key \"%s\" has type %s, not %s", g->path,
                    show(kv->key).s, names[kv->type], want);
}

/* Integers as sign and magnitude would do; *negative tells i64 from u64. */
static bool
read_integer(const llm_gguf_kv_t *kv, uint64_t *out, bool *negative)
{
    int64_t v = 0;
    *negative = false;
    switch (kv->type) {
    case LLM_GGUF_U8:
        *out = kv->data[0];
        return true;
    case LLM_GGUF_U16: {
        uint16_t x;
        memcpy(&x, kv->data, 2);
        *out = x;
        return true;
    }
    case LLM_GGUF_U32: {
        uint32_t x;
        memcpy(&x, kv->data, 4);
        *out = x;
        return true;
    }
    case LLM_GGUF_U64:
        memcpy(out, kv->data, 8);
        return true;
    case LLM_GGUF_I8:
        v = (int8_t) kv->data[0];
        break;
    case LLM_GGUF_I16: {
        int16_t x;
        memcpy(&x, kv->data, 2);
        v = x;
        break;
    }
    case LLM_GGUF_I32: {
        int32_t x;
        memcpy(&x, kv->data, 4);
        v = x;
        break;
    }
    case LLM_GGUF_I64:
        memcpy(&v, kv->data, 8);
        break;
    default:
        return false;
    }
    *out = (uint64_t) v;
    *negative = v < 0;
    return true;
}

llm_code_t
llm_gguf_u32(const llm_gguf_t *g, const char *key, uint32_t *out, llm_err_t *err)
{
    const llm_gguf_kv_t *kv = llm_gguf_find(g, key);
    uint64_t v;
    bool negative;
    if (kv == NULL) {
        return LLM_OK;
    }
    if (!read_integer(kv, &v, &negative)) {
        return wrong_type(g, kv, "an integer", err);
    }
    if (negative) {
        return llm_fail(err, LLM_E_FORMAT, "%s: key \"%s\" is %lld, must not be negative", g->path,
                        key, (long long) v);
    }
    if (v > UINT32_MAX) {
        return llm_fail(err, LLM_E_FORMAT, "%s: key \"%s\" is %llu, more than %u", g->path, key,
                        (ull_t) v, UINT32_MAX);
    }
    *out = (uint32_t) v;
    return LLM_OK;
}

llm_code_t
llm_gguf_f32(const llm_gguf_t *g, const char *key, float *out, llm_err_t *err)
{
    const llm_gguf_kv_t *kv = llm_gguf_find(g, key);
    if (kv == NULL) {
        return LLM_OK;
    }
    if (kv->type == LLM_GGUF_F32) {
        memcpy(out, kv->data, 4);
        return LLM_OK;
    }
    if (kv->type == LLM_GGUF_F64) {
        double v;
        memcpy(&v, kv->data, 8);
        *out = (float) v;
        return LLM_OK;
    }
    return wrong_type(g, kv, "a float", err);
}

llm_code_t
llm_gguf_bool(const llm_gguf_t *g, const char *key, bool *out, llm_err_t *err)
{
    const llm_gguf_kv_t *kv = llm_gguf_find(g, key);
    if (kv == NULL) {
        return LLM_OK;
    }
    if (kv->type != LLM_GGUF_BOOL) {
        return wrong_type(g, kv, "bool", err);
    }
    *out = kv->data[0] != 0;
    return LLM_OK;
}

llm_code_t
llm_gguf_str(const llm_gguf_t *g, const char *key, llm_span_t *out, llm_err_t *err)
{
    const llm_gguf_kv_t *kv = llm_gguf_find(g, key);
    if (kv == NULL) {
        return LLM_OK;
    }
    if (kv->type != LLM_GGUF_STRING) {
        return wrong_type(g, kv, "string", err);
    }
    const uint8_t *it = kv->data;
    *out = llm_gguf_next_str(&it);
    return LLM_OK;
}

llm_span_t
llm_gguf_next_str(const uint8_t **it)
{
    uint64_t len;
    memcpy(&len, *it, 8);
    llm_span_t s = { (const char *) *it + 8, (size_t) len };
    *it += 8 + len;
    return s;
}

uint64_t
llm_gguf_n_tensors(const llm_gguf_t *g)
{
    return g->n_tensors;
}

const llm_gguf_tensor_t *
llm_gguf_tensor_at(const llm_gguf_t *g, uint64_t i)
{
    return i < g->n_tensors ? &g->tensors[i] : NULL;
}

const llm_gguf_tensor_t *
llm_gguf_tensor(const llm_gguf_t *g, const char *name)
{
    llm_span_t want = { name, strlen(name) };
    for (uint64_t lo = 0, hi = g->n_tensors; lo < hi;) {
        uint64_t mid = lo + (hi - lo) / 2;
        const llm_gguf_tensor_t *t = &g->tensors[g->tensor_order[mid]];
        int c = compare_spans(want, t->name);
        if (c == 0) {
            return t;
        }
        if (c < 0) {
            hi = mid;
        } else {
            lo = mid + 1;
        }
    }
    return NULL;
}

llm_code_t
llm_gguf_read(const llm_gguf_t *g, const llm_gguf_tensor_t *t, size_t from, void *dst, size_t n,
              llm_err_t *err)
{
    if (from > t->size || n > t->size - from) {
        return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%s\": read of bytes %zu+%zu, it has %zu",
                        g->path, show(t->name).s, from, n, t->size);
    }
    const llm_gguf_t *file = t->part > 0 ? g->more[t->part - 1] : g;
    return llm_file_pread(file->fd, file->path, dst, n, t->offset + from, err);
}
