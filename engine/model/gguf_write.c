/*
 * gguf_write.c - writer of GGUF v3 files (gguf.c draws the format).
 *
 * Keys and tensor infos are collected in two growing buffers, since their numbers stand in front of
 * them; the data goes straight to the file. Alignment is always 32 and general.alignment must not
 * be among the keys.
 */
#include "model/gguf_write.h"
#include "tensor/format.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ALIGN ((uint64_t) 32)

typedef struct { uint8_t *data; size_t n, cap; } buf_t;

struct llm_gguf_out {
    char     *path, *tmp_path;
    FILE     *f;
    buf_t     kvs, infos;
    uint64_t  n_kv, n_tensors;
    uint64_t *sizes;            /* of each tensor, without padding */
    uint64_t  cap_sizes;
    uint64_t  data_bytes;       /* of all tensors with padding */
    uint64_t  i_tensor, filled; /* the one that is being written, and its bytes so far */
};

static llm_code_t
put(llm_gguf_out_t *w, buf_t *b, const void *data, size_t n, llm_err_t *err)
{
    if (n > b->cap - b->n) {
        size_t cap = b->cap * 2 > b->n + n ? b->cap * 2 : b->n + n + 4096;
        uint8_t *p = realloc(b->data, cap);
        if (p == NULL) {
            return llm_fail(err, LLM_E_NOMEM, "%s: no memory for %zu bytes of header", w->path,
                            cap);
        }
        b->data = p;
        b->cap = cap;
    }
    if (n > 0) {
        memcpy(b->data + b->n, data, n);
        b->n += n;
    }
    return LLM_OK;
}

static llm_code_t
put_string(llm_gguf_out_t *w, buf_t *b, const char *s, uint64_t len, llm_err_t *err)
{
    llm_code_t rc = put(w, b, &len, sizeof(len), err);
    return rc == LLM_OK ? put(w, b, s, len, err) : rc;
}

static llm_code_t
put_key(llm_gguf_out_t *w, llm_span_t key, uint32_t type, llm_err_t *err)
{
    llm_code_t rc = put_string(w, &w->kvs, key.data, key.len, err);
    w->n_kv++;
    return rc == LLM_OK ? put(w, &w->kvs, &type, sizeof(type), err) : rc;
}

llm_code_t
llm_gguf_out_new(llm_gguf_out_t **out, const char *path, llm_err_t *err)
{
    size_t size = strlen(path) + 32;
    llm_gguf_out_t *w = calloc(1, sizeof(*w));
    *out = NULL;
    if (w == NULL || (w->path = strdup(path)) == NULL || (w->tmp_path = malloc(size)) == NULL) {
        llm_gguf_out_free(w);
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory", path);
    }
    snprintf(w->tmp_path, size, "%s.part-%ld", path, (long) getpid());
    w->f = fopen(w->tmp_path, "wbx");
    if (w->f == NULL) {
        llm_code_t rc = llm_fail(err, LLM_E_IO, "%s: %s", w->tmp_path, strerror(errno));
        llm_gguf_out_free(w);
        return rc;
    }
    *out = w;
    return LLM_OK;
}

void
llm_gguf_out_free(llm_gguf_out_t *w)
{
    if (w == NULL) {
        return;
    }
    if (w->f != NULL) {
        fclose(w->f);
        unlink(w->tmp_path);
    }
    free(w->sizes);
    free(w->infos.data);
    free(w->kvs.data);
    free(w->tmp_path);
    free(w->path);
    free(w);
}

/* Bytes of n values of a type, strings as they stand. */
static size_t
value_bytes(llm_gguf_type_t type, const uint8_t *data, uint64_t n)
{
    static const uint8_t bytes[] = {
        [LLM_GGUF_U8] = 1, [LLM_GGUF_I8] = 1, [LLM_GGUF_U16] = 2, [LLM_GGUF_I16] = 2,
        [LLM_GGUF_U32] = 4, [LLM_GGUF_I32] = 4, [LLM_GGUF_F32] = 4, [LLM_GGUF_BOOL] = 1,
        [LLM_GGUF_U64] = 8, [LLM_GGUF_I64] = 8, [LLM_GGUF_F64] = 8,
    };
    if (type != LLM_GGUF_STRING) {
        return (size_t) n * bytes[type];
    }
    const uint8_t *end = data;
    for (uint64_t i = 0; i < n; i++) {
        llm_gguf_next_str(&end);
    }
    return (size_t) (end - data);
}

llm_code_t
llm_gguf_out_kv(llm_gguf_out_t *w, const llm_gguf_kv_t *kv, llm_err_t *err)
{
    llm_code_t rc = put_key(w, kv->key, kv->type, err);
    if (rc == LLM_OK && kv->type == LLM_GGUF_ARRAY) {
        uint32_t elem = kv->elem;
        rc = put(w, &w->kvs, &elem, sizeof(elem), err);
        if (rc == LLM_OK) {
            rc = put(w, &w->kvs, &kv->n, sizeof(kv->n), err);
        }
    }
    llm_gguf_type_t type = kv->type == LLM_GGUF_ARRAY ? kv->elem : kv->type;
    return rc == LLM_OK ? put(w, &w->kvs, kv->data, value_bytes(type, kv->data, kv->n), err) : rc;
}

llm_code_t
llm_gguf_out_u32(llm_gguf_out_t *w, const char *key, uint32_t value, llm_err_t *err)
{
    llm_code_t rc = put_key(w, (llm_span_t) { key, strlen(key) }, LLM_GGUF_U32, err);
    return rc == LLM_OK ? put(w, &w->kvs, &value, sizeof(value), err) : rc;
}

llm_code_t
llm_gguf_out_str(llm_gguf_out_t *w, const char *key, const char *value, llm_err_t *err)
{
    llm_code_t rc = put_key(w, (llm_span_t) { key, strlen(key) }, LLM_GGUF_STRING, err);
    return rc == LLM_OK ? put_string(w, &w->kvs, value, strlen(value), err) : rc;
}

static uint64_t
padded(uint64_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

llm_code_t
llm_gguf_out_tensor(llm_gguf_out_t *w, llm_span_t name, uint32_t n_dims, const uint64_t *ne,
                    uint32_t type, size_t *bytes, llm_err_t *err)
{
    const llm_format_t *f = llm_format(type);
    uint64_t size = 1, total;
    bool good = f != NULL && n_dims <= 4 && name.len > 0 && name.len <= LLM_GGUF_MAX_NAME;
    for (uint32_t i = 0; good && i < n_dims; i++) {
        good = !__builtin_mul_overflow(size, ne[i], &size);
    }
    good = good && (n_dims > 0 ? ne[0] : 1) % f->block == 0
           && !__builtin_mul_overflow(size / f->block, (uint64_t) f->bytes, &size)
           && size <= PTRDIFF_MAX && !__builtin_add_overflow(w->data_bytes, padded(size), &total)
           && total <= PTRDIFF_MAX;
    if (!good) {
        return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%.*s\" with %u dimensions cannot be "
                        "written as %s", w->path, (int) name.len, name.data, n_dims,
                        f != NULL ? f->name : "that type");
    }
    if (w->n_tensors == w->cap_sizes) {
        uint64_t cap = w->cap_sizes * 2 + 64;
        uint64_t *p = realloc(w->sizes, cap * sizeof(*p));
        if (p == NULL) {
            return llm_fail(err, LLM_E_NOMEM, "%s: no memory for %llu tensors", w->path,
                            (unsigned long long) cap);
        }
        w->sizes = p;
        w->cap_sizes = cap;
    }
    llm_code_t rc = put_string(w, &w->infos, name.data, name.len, err);
    if (rc == LLM_OK) {
        rc = put(w, &w->infos, &n_dims, sizeof(n_dims), err);
    }
    if (rc == LLM_OK) {
        rc = put(w, &w->infos, ne, n_dims * sizeof(*ne), err);
    }
    if (rc == LLM_OK) {
        rc = put(w, &w->infos, &type, sizeof(type), err);
    }
    if (rc == LLM_OK) {
        rc = put(w, &w->infos, &w->data_bytes, sizeof(w->data_bytes), err);
    }
    if (rc == LLM_OK) {
        w->sizes[w->n_tensors++] = size;
        w->data_bytes = total;
        if (bytes != NULL) {
            *bytes = (size_t) size;
        }
    }
    return rc;
}

static llm_code_t
write_all(llm_gguf_out_t *w, const void *data, size_t n, llm_err_t *err)
{
    if (n > 0 && fwrite(data, 1, n, w->f) != n) {
        return llm_fail(err, LLM_E_IO, "%s: %zu bytes could not be written: %s", w->tmp_path, n,
                        strerror(errno));
    }
    return LLM_OK;
}

static llm_code_t
write_padding(llm_gguf_out_t *w, uint64_t written, llm_err_t *err)
{
    static const uint8_t zeros[32];
    return write_all(w, zeros, (size_t) (padded(written) - written), err);
}

llm_code_t
llm_gguf_out_begin(llm_gguf_out_t *w, llm_err_t *err)
{
    uint8_t preamble[24] = "GGUF";
    uint32_t version = 3;
    memcpy(preamble + 4, &version, 4);
    memcpy(preamble + 8, &w->n_tensors, 8);
    memcpy(preamble + 16, &w->n_kv, 8);
    llm_code_t rc = write_all(w, preamble, sizeof(preamble), err);
    if (rc == LLM_OK) {
        rc = write_all(w, w->kvs.data, w->kvs.n, err);
    }
    if (rc == LLM_OK) {
        rc = write_all(w, w->infos.data, w->infos.n, err);
    }
    return rc == LLM_OK ? write_padding(w, sizeof(preamble) + w->kvs.n + w->infos.n, err) : rc;
}

/* Tensors without bytes are complete as they are. */
static void
skip_empty(llm_gguf_out_t *w)
{
    while (w->i_tensor < w->n_tensors && w->sizes[w->i_tensor] == 0) {
        w->i_tensor++;
    }
}

llm_code_t
llm_gguf_out_data(llm_gguf_out_t *w, const void *data, size_t n, llm_err_t *err)
{
    skip_empty(w);
    if (n == 0) {
        return LLM_OK;
    }
    if (w->i_tensor == w->n_tensors || n > w->sizes[w->i_tensor] - w->filled) {
        return llm_fail(err, LLM_E_ARG, "%s: %zu bytes are more than tensor %llu has room for",
                        w->path, n, (unsigned long long) w->i_tensor);
    }
    llm_code_t rc = write_all(w, data, n, err);
    w->filled += n;
    if (rc == LLM_OK && w->filled == w->sizes[w->i_tensor]) {
        rc = write_padding(w, w->filled, err);
        w->i_tensor++;
        w->filled = 0;
    }
    return rc;
}

llm_code_t
llm_gguf_out_finish(llm_gguf_out_t *w, llm_err_t *err)
{
    skip_empty(w);
    if (w->i_tensor != w->n_tensors) {
        return llm_fail(err, LLM_E_ARG, "%s: tensor %llu of %llu has not got all its bytes",
                        w->path, (unsigned long long) w->i_tensor,
                        (unsigned long long) w->n_tensors);
    }
    if (fflush(w->f) != 0 || fsync(fileno(w->f)) != 0) {
        return llm_fail(err, LLM_E_IO, "%s: %s", w->tmp_path, strerror(errno));
    }
    if (rename(w->tmp_path, w->path) != 0) {
        return llm_fail(err, LLM_E_IO, "%s: cannot be renamed to %s: %s", w->tmp_path, w->path,
                        strerror(errno));
    }
    int bad = fclose(w->f);
    w->f = NULL;
    return bad == 0 ? LLM_OK : llm_fail(err, LLM_E_IO, "%s: %s", w->path, strerror(errno));
}
