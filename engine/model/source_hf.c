/*
 * source_hf.c - a Hugging Face directory as a source of settings and tensors (see source_hf.h).
 *
 * Owns: the parsed settings, the open checkpoint, and one buffer for the tensor that was last read
 * in another form than its file's: widened or transposed. Packing reads a tensor from its start to
 * its end before the next one, so one is enough.
 */
#include "model/source_hf.h"
#include "base/json.h"
#include "model/ckpt_impl.h"
#include "model/hfquant.h"
#include "tensor/format.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_KEY  128
#define MAX_PATH 4096
#define SHOWN    63             /* bytes of a name in a message */

typedef struct {
    const llm_ckpt_tensor_t *t;     /* of a quantized matrix: its packed weights */
    char                    *module;        /* NULL: a tensor as it is */
    char                    *name;          /* module + ".weight"; NULL: that of t */
    llm_hfq_mat_t            mat;
} entry_t;

struct llm_hf {
    char          *dir;
    json_t        *config, *generation;     /* generation may be NULL */
    llm_ckpt_t    *ckpt;
    llm_hfq_conf_t quant;
    entry_t       *entries;     /* sorted by name */
    size_t         n;

    pthread_mutex_t lock;       /* of what follows */
    uint8_t       *buf;         /* a tensor in another form */
    size_t         buf_of;      /* its entry; n: none */
    bool           buf_transposed;
};

/* ----------------------------------------------------------------- settings */

/* The member of an object or array that the len bytes at key name. */
static json_t *
member(json_t *o, const char *key, size_t len)
{
    char part[MAX_KEY], *end;
    if (len == 0 || len >= sizeof(part)) {
        return NULL;
    }
    memcpy(part, key, len);
    part[len] = '\0';
    if (!json_is_array(o)) {
        return json_object_get(o, part);
    }
    unsigned long i = strtoul(part, &end, 10);
    return part[0] >= '0' && part[0] <= '9' && *end == '\0' ? json_array_get(o, i) : NULL;
}

static json_t *
lookup(const llm_hf_t *h, const char *key)
{
    static const char generation[] = "generation.";
    json_t *o = h->config;
    if (strncmp(key, generation, sizeof(generation) - 1) == 0) {
        o = h->generation;
        key += sizeof(generation) - 1;
    }
    for (;;) {
        size_t len = strcspn(key, ".");
        o = member(o, key, len);
        if (key[len] == '\0' || o == NULL) {
            return o;
        }
        key += len + 1;
    }
}

/* A number or boolean; false for anything else. */
static bool
number_of(const json_t *v, double *out)
{
    *out = json_is_true(v) ? 1 : json_is_false(v) ? 0 : json_number_value(v);
    return json_is_boolean(v) || json_is_number(v);
}

static void
hf_value(const llm_src_t *s, const char *key, llm_value_t *out)
{
    const json_t *v = lookup(s->file, key);
    *out = (llm_value_t) { .kind = LLM_VALUE_NONE, .uniform = true, .n = 1 };
    if (v == NULL) {
        return;
    }
    if (json_is_null(v)) {
        out->kind = LLM_VALUE_NULL;
    } else if (json_is_string(v)) {
        out->kind = LLM_VALUE_STRING;
        out->string = (llm_span_t) { json_string_value(v), json_string_length(v) };
    } else if (number_of(v, &out->number)) {
        out->kind = LLM_VALUE_NUMBER;
    } else {
        out->kind = LLM_VALUE_OTHER;
        out->n = json_array_size(v);
        if (out->n > 0 && number_of(json_array_get(v, 0), &out->number)) {
            out->kind = LLM_VALUE_NUMBER;
        }
        for (size_t i = 1; i < out->n && out->kind == LLM_VALUE_NUMBER; i++) {
            double x;
            if (!number_of(json_array_get(v, i), &x)) {
                out->kind = LLM_VALUE_OTHER;
                out->uniform = true;
            } else if (x != out->number) {
                out->uniform = false;
            }
        }
    }
}

/* ------------------------------------------------------------------ entries */

static const char *
name_of(const entry_t *e)
{
    return e->name != NULL ? e->name : e->t->name;
}

static void
hf_tensor_at(const llm_src_t *s, uint64_t i, llm_src_tensor_t *out)
{
    static const struct { llm_dtype_t dtype; uint32_t type; } types[] = {
        { LLM_DT_F32, LLM_T_F32 }, { LLM_DT_F16, LLM_T_F16 }, { LLM_DT_BF16, LLM_T_BF16 },
    };
    const llm_hf_t *h = s->file;
    const entry_t *e = &h->entries[i];
    const llm_ckpt_tensor_t *t = e->t;
    *out = (llm_src_tensor_t) {
        .name = { name_of(e), strlen(name_of(e)) }, .type = LLM_T_COUNT, .ne = { 1, 1, 1, 1 },
        .size = (size_t) t->size, .index = i, .type_name = llm_dtype(t->dtype)->name,
    };
    if (e->module != NULL) {
        out->type = LLM_T_F32;
        out->type_name = llm_hfq_name(h->quant.kind);
        out->ne[0] = e->mat.cols;
        out->ne[1] = e->mat.rows;
        out->size = (size_t) (e->mat.cols * e->mat.rows) * sizeof(float);
        return;
    }
    for (size_t k = 0; k < sizeof(types) / sizeof(types[0]); k++) {
        out->type = t->dtype == types[k].dtype ? types[k].type : out->type;
    }
    for (uint32_t d = 0; d < t->n_dims; d++) {      /* beyond four, the outer ones are one */
        uint32_t to = t->n_dims - 1 - d;
        out->ne[to < 3 ? to : 3] *= t->dim[d];
    }
}

static bool
hf_tensor(const llm_src_t *s, const char *name, llm_src_tensor_t *out)
{
    const llm_hf_t *h = s->file;
    size_t lo = 0, hi = h->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int order = strcmp(name_of(&h->entries[mid]), name);
        if (order == 0) {
            hf_tensor_at(s, mid, out);
            return true;
        }
        if (order < 0) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return false;
}

static int
by_name(const void *a, const void *b)
{
    return strcmp(name_of(a), name_of(b));
}

/* A quantized matrix whose module's name has len bytes. */
static llm_code_t
add_matrix(llm_hf_t *h, entry_t *e, size_t len, llm_err_t *err)
{
    e->module = malloc(len + 1);
    e->name = malloc(len + sizeof(".weight"));
    if (e->module == NULL || e->name == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for a name", h->dir);
    }
    memcpy(e->module, e->t->name, len);
    e->module[len] = '\0';
    snprintf(e->name, len + sizeof(".weight"), "%s.weight", e->module);
    return llm_hfq_open(&e->mat, &h->quant, h->ckpt, e->module, len, err);
}

static llm_code_t
list_tensors(llm_hf_t *h, llm_err_t *err)
{
    size_t n = llm_ckpt_n_tensors(h->ckpt);
    h->entries = calloc(n + 1, sizeof(*h->entries));
    if (h->entries == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for %zu tensors", h->dir, n);
    }
    llm_code_t rc = LLM_OK;
    for (size_t i = 0; i < n && rc == LLM_OK; i++) {
        bool part;
        const llm_ckpt_tensor_t *t = llm_ckpt_tensor_at(h->ckpt, i);
        size_t len = llm_hfq_module(&h->quant, h->ckpt, t, &part);
        if (!part) {
            entry_t *e = &h->entries[h->n++];
            e->t = t;
            rc = len > 0 ? add_matrix(h, e, len, err) : LLM_OK;
        }
    }
    if (rc == LLM_OK && h->n > 0) {
        qsort(h->entries, h->n, sizeof(*h->entries), by_name);
    }
    for (size_t i = 1; i < h->n && rc == LLM_OK; i++) {
        if (by_name(&h->entries[i - 1], &h->entries[i]) == 0) {
            rc = llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%.*s\" is there quantized and as it is",
                          h->dir, SHOWN, name_of(&h->entries[i]));
        }
    }
    h->buf_of = h->n;
    return rc;
}

/* --------------------------------------------------------------------- read */

/* A block of the transpose: both sides of it stay in the cache. */
#define TURN_BLOCK 32

#define TURN(type)                                                                          \
    static void                                                                             \
    turn_##type(type *dst, const type *src, uint64_t rows, uint64_t cols)                   \
    {                                                                                       \
        for (uint64_t r0 = 0; r0 < rows; r0 += TURN_BLOCK) {                                \
            for (uint64_t c0 = 0; c0 < cols; c0 += TURN_BLOCK) {                            \
                for (uint64_t r = r0; r < rows && r < r0 + TURN_BLOCK; r++) {               \
                    for (uint64_t c = c0; c < cols && c < c0 + TURN_BLOCK; c++) {           \
                        dst[c * rows + r] = src[r * cols + c];                              \
                    }                                                                       \
                }                                                                           \
            }                                                                               \
        }                                                                                   \
    }

TURN(uint16_t)
TURN(uint32_t)

/* dst [cols][rows] = src [rows][cols], values of size bytes: 2 or 4. */
static void
transpose(uint8_t *dst, const uint8_t *src, uint64_t rows, uint64_t cols, size_t size)
{
    if (size == 4) {
        turn_uint32_t((uint32_t *) dst, (const uint32_t *) src, rows, cols);
    } else {
        turn_uint16_t((uint16_t *) dst, (const uint16_t *) src, rows, cols);
    }
}

/* The whole tensor as the file has it or, of a quantized matrix, widened; in fresh memory. */
static llm_code_t
load_whole(llm_hf_t *h, const entry_t *e, size_t size, uint8_t **out, llm_err_t *err)
{
    *out = malloc(size + 1);
    if (*out == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for %zu bytes of tensor \"%.*s\"", h->dir,
                        size, SHOWN, name_of(e));
    }
    llm_code_t rc = e->module != NULL ? llm_hfq_dequant(&e->mat, h->ckpt, (float *) *out, err)
                                      : llm_ckpt_read(h->ckpt, e->t, 0, *out, size, err);
    if (rc != LLM_OK) {
        free(*out);
        *out = NULL;
    }
    return rc;
}

/* h->buf becomes the tensor, transposed if asked for. */
static llm_code_t
fill_buffer(llm_hf_t *h, const llm_src_tensor_t *t, bool flip, llm_err_t *err)
{
    const entry_t *e = &h->entries[t->index];
    uint8_t *whole, *turned = NULL;
    free(h->buf);
    h->buf = NULL;
    h->buf_of = h->n;
    llm_code_t rc = load_whole(h, e, t->size, &whole, err);
    if (rc != LLM_OK) {
        return rc;
    }
    if (flip) {
        /* t->ne describes what is asked for, so the file holds ne[1] values a row */
        size_t size = e->module != NULL ? sizeof(float) : llm_dtype(e->t->dtype)->bytes;
        turned = size == 2 || size == 4 ? malloc(t->size + 1) : NULL;
        if (turned == NULL) {
            free(whole);
            return llm_fail(err, LLM_E_NOMEM, "%s: no memory for %zu bytes of tensor \"%.*s\"",
                            h->dir, t->size, SHOWN, name_of(e));
        }
        transpose(turned, whole, t->ne[0], t->ne[1], size);
        free(whole);
        whole = turned;
    }
    h->buf = whole;
    h->buf_of = (size_t) t->index;
    h->buf_transposed = flip;
    return LLM_OK;
}

static llm_code_t
hf_read(const llm_src_t *s, const llm_src_tensor_t *t, size_t from, void *dst, size_t n,
        llm_err_t *err)
{
    llm_hf_t *h = (llm_hf_t *) s->file;     /* llm_src_hf got it so */
    const entry_t *e = &h->entries[t->index];
    bool flip = e->t->transposed != t->transposed;
    if (e->module == NULL && !flip) {
        return llm_ckpt_read(h->ckpt, e->t, from, dst, n, err);
    }
    if (from > t->size || n > t->size - from) {
        return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%.*s\": bytes %zu+%zu exceed its %zu",
                        h->dir, SHOWN, name_of(e), from, n, t->size);
    }
    llm_code_t rc = LLM_OK;
    pthread_mutex_lock(&h->lock);
    if (h->buf_of != t->index || h->buf_transposed != flip) {
        rc = fill_buffer(h, t, flip, err);
    }
    if (rc == LLM_OK) {
        memcpy(dst, h->buf + from, n);
    }
    pthread_mutex_unlock(&h->lock);
    return rc;
}

/* --------------------------------------------------------------------- open */

static llm_code_t
read_json(const llm_hf_t *h, const char *name, bool optional, json_t **out, llm_err_t *err)
{
    char path[MAX_PATH];
    int n = snprintf(path, sizeof(path), "%s/%s", h->dir, name);
    if (n < 0 || (size_t) n >= sizeof(path)) {
        return llm_fail(err, LLM_E_IO, "%s: path of %d bytes is too long", h->dir, n);
    }
    llm_code_t rc = llm_json_file(out, path, LLM_HF_MAX_CONFIG, optional, err);
    if (rc == LLM_OK && *out != NULL && !json_is_object(*out)) {
        rc = llm_fail(err, LLM_E_FORMAT, "%s: is no JSON object", path);
    }
    return rc;
}

/* How weights are quantized: in config.json, or in files of their own that older tools wrote. */
static llm_code_t
read_quant(llm_hf_t *h, llm_err_t *err)
{
    static const struct { const char *file, *method; } old[] = {
        { "quantize_config.json", "gptq" }, { "quant_config.json", "awq" },
    };
    char path[MAX_PATH];
    json_t *o = json_object_get(h->config, "quantization_config");
    llm_code_t rc = LLM_OK;
    snprintf(path, sizeof(path), "%s/config.json", h->dir);
    if (o != NULL && !json_is_null(o)) {
        return llm_hfq_conf(&h->quant, path, o, err);
    }
    for (size_t i = 0; i < sizeof(old) / sizeof(old[0]) && rc == LLM_OK; i++) {
        json_t *file = NULL;
        rc = read_json(h, old[i].file, true, &file, err);
        if (rc == LLM_OK && file != NULL) {
            snprintf(path, sizeof(path), "%s/%s", h->dir, old[i].file);
            rc = json_object_set_new(file, "quant_method", json_string(old[i].method)) != 0
                 ? llm_fail(err, LLM_E_NOMEM, "%s: no memory", path)
                 : llm_hfq_conf(&h->quant, path, file, err);
        }
        json_decref(file);
    }
    return rc;
}

llm_code_t
llm_hf_open(llm_hf_t **out, const char *dir, llm_err_t *err)
{
    *out = NULL;
    llm_hf_t *h = calloc(1, sizeof(*h));
    char *copy = strdup(dir);
    if (h == NULL || copy == NULL) {
        free(h);
        free(copy);
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory", dir);
    }
    pthread_mutex_init(&h->lock, NULL);
    h->dir = copy;
    llm_code_t rc = read_json(h, "config.json", false, &h->config, err);
    if (rc == LLM_OK) {
        rc = read_json(h, "generation_config.json", true, &h->generation, err);
    }
    if (rc == LLM_OK) {
        rc = read_quant(h, err);
    }
    if (rc == LLM_OK) {
        rc = llm_ckpt_open(&h->ckpt, dir, err);
    }
    if (rc == LLM_OK) {
        rc = list_tensors(h, err);
    }
    if (rc != LLM_OK) {
        llm_hf_close(h);
        return rc;
    }
    *out = h;
    return LLM_OK;
}

void
llm_hf_close(llm_hf_t *h)
{
    if (h == NULL) {
        return;
    }
    for (size_t i = 0; i < h->n; i++) {
        free(h->entries[i].module);
        free(h->entries[i].name);
    }
    free(h->entries);
    free(h->buf);
    pthread_mutex_destroy(&h->lock);
    llm_ckpt_close(h->ckpt);
    json_decref(h->config);
    json_decref(h->generation);
    free(h->dir);
    free(h);
}

llm_src_t
llm_src_hf(llm_hf_t *h)
{
    return (llm_src_t) {
        .kind = LLM_SOURCE_HF,
        .path = h->dir,
        .file = h,
        .n_tensors = h->n,
        .value = hf_value,
        .tensor = hf_tensor,
        .tensor_at = hf_tensor_at,
        .read = hf_read,
    };
}

const char *
llm_hf_path(const llm_hf_t *h)
{
    return h->dir;
}

uint64_t
llm_hf_file_bytes(const llm_hf_t *h)
{
    return llm_ckpt_file_bytes(h->ckpt);
}
