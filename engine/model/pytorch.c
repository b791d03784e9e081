/*
 * pytorch.c - reader of one pytorch_model.bin: a zip file of torch.save with a pickle that names
 * tensors, and one entry with the bytes of each storage.
 *
 *   NAME/data.pkl   NAME/byteorder   NAME/data/KEY ...
 *
 * Tensors may share a storage (tied weights do). A tensor's values must lie in a row, in its own
 * order or, of two dimensions, in that of its transpose; other views are refused.
 */
#include "model/pickle.h"
#include "model/zip.h"

#include <stdlib.h>
#include <string.h>

#define SHOWN     63            /* bytes of a name in a message */
#define MAX_NAME  1024          /* bytes of the name of an entry */

typedef struct {
    llm_ckpt_t            *c;
    const llm_ckpt_file_t *f;
    llm_zip_t              zip;
    const char            *root;        /* the folder inside the file, with its slash */
    size_t                 root_len;
} reader_t;

/* The entry root + folder + key. */
static const llm_zip_entry_t *
find_entry(const reader_t *r, const char *folder, const char *key, size_t len)
{
    char name[MAX_NAME];
    size_t n = strlen(folder);
    if (r->root_len + n > sizeof(name) || len > sizeof(name) - r->root_len - n) {
        return NULL;
    }
    memcpy(name, r->root, r->root_len);
    memcpy(name + r->root_len, folder, n);
    memcpy(name + r->root_len + n, key, len);
    return llm_zip_find(&r->zip, name, r->root_len + n + len);
}

/* ------------------------------------------------------------------ tensors */

/* Values lie in a row in the order of the shape, or of its transpose. */
static bool
is_dense(const llm_pickle_tensor_t *t, bool *transposed)
{
    uint64_t want = 1;
    bool rows = true, empty = false;
    for (uint32_t i = t->n_dims; i-- > 0;) {
        rows = rows && (t->dim[i] == 1 || t->stride[i] == want);
        want *= t->dim[i];      /* the product of all fits 64 bits */
        empty |= t->dim[i] == 0;
    }
    *transposed = !rows && !empty && t->n_dims == 2 && t->stride[0] == 1
                  && t->stride[1] == t->dim[0];
    return rows || empty || *transposed;
}

static llm_code_t
add_tensor(void *ctx, const llm_pickle_tensor_t *t, llm_err_t *err)
{
    const reader_t *r = ctx;
    const char *path = r->f->path;
    int shown = (int) (t->name_len < SHOWN ? t->name_len : SHOWN);
    llm_ckpt_tensor_t out = {
        .dtype = t->dtype, .n_dims = t->n_dims, .file = (uint32_t) r->c->n_files - 1,
    };
    memcpy(out.dim, t->dim, sizeof(out.dim));

    const llm_zip_entry_t *e = find_entry(r, "data/", t->storage, t->storage_len);
    if (e == NULL) {
        return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%.*s\": storage \"%.*s\" is missing", path,
                        shown, t->name, (int) (t->storage_len < SHOWN ? t->storage_len : SHOWN),
                        t->storage);
    }
    uint64_t bytes = llm_dtype(t->dtype)->bytes, size;
    if (__builtin_mul_overflow(t->storage_n, bytes, &size) || size != e->size) {
        return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%.*s\": storage of %llu values of %s has "
                        "%llu bytes", path, shown, t->name, (ull_t) t->storage_n,
                        llm_dtype(t->dtype)->name, (ull_t) e->size);
    }
    if (!llm_ckpt_size(&out)) {
        return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%.*s\": shape overflows 64 bits", path,
                        shown, t->name);
    }
    if (!is_dense(t, &out.transposed)) {
        return llm_fail(err, LLM_E_UNSUPPORTED,
                        "%s: tensor \"%.*s\": its strides are neither those "
                        "of its shape nor of the transpose",
                        path, shown, t->name);
    }
    if (t->first > t->storage_n || out.size > size - t->first * bytes) {
        return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%.*s\": %llu bytes from value %llu on "
                        "exceed a storage of %llu bytes", path, shown, t->name, (ull_t) out.size,
                        (ull_t) t->first, (ull_t) size);
    }
    out.offset = e->offset + t->first * bytes;
    return llm_ckpt_add_tensor(r->c, &out, t->name, t->name_len, err);
}

/* -------------------------------------------------------------------- files */

/* The one data.pkl; its folder becomes r->root. */
static llm_code_t
find_pickle(reader_t *r, const llm_zip_entry_t **out, llm_err_t *err)
{
    static const char tail[] = "/data.pkl";
    size_t n = sizeof(tail) - 1;
    *out = NULL;
    for (size_t i = 0; i < r->zip.n; i++) {
        const llm_zip_entry_t *e = &r->zip.entries[i];
        if (e->len <= n || memcmp(e->name + e->len - n, tail, n) != 0) {
            continue;
        }
        if (*out != NULL) {
            return llm_fail(err, LLM_E_FORMAT, "%s: zip file with more than one data.pkl",
                            r->f->path);
        }
        *out = e;
        r->root = e->name;
        r->root_len = e->len - n + 1;
    }
    return *out != NULL ? LLM_OK : llm_fail(err, LLM_E_FORMAT, "%s: zip file without data.pkl",
                                            r->f->path);
}

static llm_code_t
check_byte_order(const reader_t *r, llm_err_t *err)
{
    static const char little[] = "little";
    const llm_zip_entry_t *e = find_entry(r, "byteorder", "", 0);
    char order[sizeof(little)] = "";
    if (e == NULL) {            /* files of torch before 2.0 */
        return LLM_OK;
    }
    size_t n = e->size < sizeof(order) - 1 ? (size_t) e->size : sizeof(order) - 1;
    llm_code_t rc = llm_ckpt_pread(r->f, order, n, e->offset, err);
    if (rc == LLM_OK && (e->size != sizeof(little) - 1 || strcmp(order, little) != 0)) {
        rc = llm_fail(err, LLM_E_UNSUPPORTED, "%s: byte order \"%s\" is not supported", r->f->path,
                      order);
    }
    return rc;
}

static llm_code_t
read_zip(reader_t *r, llm_err_t *err)
{
    const llm_zip_entry_t *e;
    llm_code_t rc = find_pickle(r, &e, err);
    if (rc == LLM_OK) {
        rc = check_byte_order(r, err);
    }
    if (rc != LLM_OK) {
        return rc;
    }
    if (e->size > LLM_PICKLE_MAX_BYTES) {
        return llm_fail(err, LLM_E_UNSUPPORTED, "%s: data.pkl has %llu bytes, at most %llu are "
                        "read", r->f->path, (ull_t) e->size, (ull_t) LLM_PICKLE_MAX_BYTES);
    }
    uint8_t *data = malloc((size_t) e->size + 1);
    if (data == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for a pickle of %llu bytes", r->f->path,
                        (ull_t) e->size);
    }
    size_t first = r->c->n_tensors;
    rc = llm_ckpt_pread(r->f, data, (size_t) e->size, e->offset, err);
    if (rc == LLM_OK) {
        rc = llm_pickle_tensors(r->f->path, data, (size_t) e->size, add_tensor, r, err);
    }
    free(data);
    if (rc == LLM_OK && r->c->n_tensors == first) {
        rc = llm_fail(err, LLM_E_FORMAT, "%s: holds no tensors", r->f->path);
    }
    return rc;
}

llm_code_t
llm_pytorch_read(llm_ckpt_t *c, llm_err_t *err)
{
    reader_t r = { .c = c, .f = &c->files[c->n_files - 1] };
    llm_code_t rc = llm_zip_read(&r.zip, r.f, err);
    if (rc == LLM_OK) {
        rc = read_zip(&r, err);
        llm_zip_free(&r.zip);
    }
    return rc;
}
