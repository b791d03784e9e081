/*
 * gguf.c - reader of one GGUF file, version 2 or 3.
 *
 *   "GGUF"  u32 version  u64 n_tensors  u64 n_kv
 *   n_kv x      { string key, u32 type, value }              string = u64 length + bytes
 *   n_tensors x { string name, u32 n_dims, u64 ne[n_dims], u32 type, u64 offset }
 *   padding to general.alignment, then tensor data; offsets count from here
 *
 * Owns: the descriptor of the open file and a copy of its header. Everything in the file is
 * untrusted: a count is compared with the bytes that are left before it is believed, tables grow
 * with what has really been parsed, and no offset leaves this file unchecked. Values are
 * little-endian and unaligned.
 *
 * While parsing, positions are offsets into `head`, which grows as the cursor asks for more; they
 * become pointers at the end (link_pointers), when it can no longer move.
 */
#define _GNU_SOURCE     /* qsort_r */

#include "model/gguf_impl.h"
#include "base/file.h"
#include "tensor/format.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF values are read in place");

#define MIN_KV_BYTES      13    /* empty key (8), type (4), a one-byte value */
#define MIN_TENSOR_BYTES  24    /* empty name (8), n_dims (4), no dims, type (4), offset (8) */
#define READ_STEP         ((size_t) 256 << 10)

/* ------------------------------------------------------------------ cursor */

static uint64_t
bytes_left(const llm_gguf_t *g)
{
    return g->file_size - g->pos;
}

/* Makes sure that the n bytes at the cursor are inside the file and in memory. */
static llm_code_t
need(llm_gguf_t *g, uint64_t n, const char *what, llm_err_t *err)
{
    if (n > bytes_left(g)) {
        return llm_fail(err, LLM_E_FORMAT, "%s: file ends inside the header: %s needs %llu bytes "
                        "at %llu, %llu are left", g->path, what, (ull_t) n, (ull_t) g->pos,
                        (ull_t) bytes_left(g));
    }
    uint64_t end = g->pos + n;
    if (end <= g->head_len) {
        return LLM_OK;
    }
    if (end > LLM_GGUF_MAX_HEADER) {
        return llm_fail(err, LLM_E_UNSUPPORTED, "%s: header is longer than %zu bytes (%s ends at "
                        "%llu)", g->path, LLM_GGUF_MAX_HEADER, what, (ull_t) end);
    }
    if (end > g->head_cap) {
        size_t cap = end > g->head_cap * 2 ? (size_t) end : g->head_cap * 2;
        cap = (cap + READ_STEP - 1) / READ_STEP * READ_STEP;
        uint8_t *head = realloc(g->head, cap);
        if (head == NULL) {
            return llm_fail(err, LLM_E_NOMEM, "%s: no memory for %zu bytes of header", g->path,
                            cap);
        }
        g->head = head;
        g->head_cap = cap;
    }
    uint64_t want = (end + READ_STEP - 1) / READ_STEP * READ_STEP;
    want = want < g->file_size ? want : g->file_size;
    want = want < g->head_cap ? want : g->head_cap;
    llm_code_t rc = llm_file_pread(g->fd, g->path, g->head + g->head_len,
                                   (size_t) want - g->head_len, g->head_len, err);
    if (rc == LLM_OK) {
        g->head_len = (size_t) want;
    }
    return rc;
}

static llm_code_t
take(llm_gguf_t *g, void *dst, size_t n, const char *what, llm_err_t *err)
{
    llm_code_t rc = need(g, n, what, err);
    if (rc == LLM_OK) {
        memcpy(dst, g->head + g->pos, n);
        g->pos += n;
    }
    return rc;
}

/* Skips a string; *off and *len say where its bytes are. */
static llm_code_t
take_string(llm_gguf_t *g, uint64_t *off, uint64_t *len, const char *what, llm_err_t *err)
{
    llm_code_t rc = take(g, len, 8, what, err);
    if (rc != LLM_OK) {
        return rc;
    }
    if (*len > bytes_left(g)) {
        return llm_fail(err, LLM_E_FORMAT, "%s: %s at %llu: string of %llu bytes is longer than "
                        "the %llu bytes left in the file", g->path, what, (ull_t) g->pos - 8,
                        (ull_t) *len, (ull_t) bytes_left(g));
    }
    rc = need(g, *len, what, err);
    if (rc == LLM_OK) {
        *off = g->pos;
        g->pos += *len;
    }
    return rc;
}

/* Room for one more entry of a table that grows with what has been parsed. */
static llm_code_t
grow(void **table, uint64_t n, uint64_t *cap, size_t size, llm_err_t *err)
{
    if (n < *cap) {
        return LLM_OK;
    }
    uint64_t new_cap = *cap ? *cap * 2 : 64;
    void *p = realloc(*table, new_cap * size);
    if (p == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "no memory for a table of %llu entries", (ull_t) new_cap);
    }
    *table = p;
    *cap = new_cap;
    return LLM_OK;
}

/* ------------------------------------------------------------------ values */

/* Bytes of a scalar; 0: a string or an array; -1: no such type. */
static int
scalar_bytes(uint32_t type)
{
    static const int8_t bytes[] = {
        [LLM_GGUF_U8] = 1, [LLM_GGUF_I8] = 1, [LLM_GGUF_U16] = 2, [LLM_GGUF_I16] = 2,
        [LLM_GGUF_U32] = 4, [LLM_GGUF_I32] = 4, [LLM_GGUF_F32] = 4, [LLM_GGUF_BOOL] = 1,
        [LLM_GGUF_STRING] = 0, [LLM_GGUF_ARRAY] = 0, [LLM_GGUF_U64] = 8, [LLM_GGUF_I64] = 8,
        [LLM_GGUF_F64] = 8,
    };
    return type < sizeof(bytes) ? bytes[type] : -1;
}

static llm_code_t
check_bools(const llm_gguf_t *g, const char *key, const uint8_t *v, uint64_t n, llm_err_t *err)
{
    for (uint64_t i = 0; i < n; i++) {
        if (v[i] > 1) {
            return llm_fail(err, LLM_E_FORMAT, "%s: key \"%s\": boolean is %u, neither 0 nor 1",
                            g->path, key, v[i]);
        }
    }
    return LLM_OK;
}

static llm_code_t
parse_array(llm_gguf_t *g, llm_gguf_kv_t *kv, const char *key, llm_err_t *err)
{
    uint32_t elem;
    llm_code_t rc = take(g, &elem, 4, "array type", err);
    if (rc == LLM_OK) {
        rc = take(g, &kv->n, 8, "array count", err);
    }
    if (rc != LLM_OK) {
        return rc;
    }
    int size = scalar_bytes(elem);
    if (size < 0) {
        return llm_fail(err, LLM_E_FORMAT, "%s: key \"%s\": unknown array element type %u", g->path,
                        key, elem);
    }
    if (elem == LLM_GGUF_ARRAY) {
        return llm_fail(err, LLM_E_FORMAT, "%s: key \"%s\": nested arrays are not allowed", g->path,
                        key);
    }
    uint64_t min = elem == LLM_GGUF_STRING ? 8 : (uint64_t) size;
    if (kv->n > bytes_left(g) / min) {
        return llm_fail(err, LLM_E_FORMAT, "%s: key \"%s\": array of %llu elements is longer than "
                        "the %llu bytes left in the file", g->path, key, (ull_t) kv->n,
                        (ull_t) bytes_left(g));
    }
    kv->elem = (llm_gguf_type_t) elem;
    kv->data = (const uint8_t *) (uintptr_t) g->pos;
    if (elem == LLM_GGUF_STRING) {
        for (uint64_t i = 0; i < kv->n; i++) {
            uint64_t off, len;
            rc = take_string(g, &off, &len, key, err);
            if (rc != LLM_OK) {
                return rc;
            }
        }
        return LLM_OK;
    }
    rc = need(g, kv->n * min, key, err);
    if (rc != LLM_OK) {
        return rc;
    }
    if (elem == LLM_GGUF_BOOL) {
        rc = check_bools(g, key, g->head + g->pos, kv->n, err);
    }
    g->pos += kv->n * min;
    return rc;
}

static llm_code_t
parse_kv(llm_gguf_t *g, llm_gguf_kv_t *kv, llm_err_t *err)
{
    uint64_t off, len;
    uint32_t type;
    llm_code_t rc = take_string(g, &off, &len, "key", err);
    if (rc != LLM_OK) {
        return rc;
    }
    if (len == 0) {
        return llm_fail(err, LLM_E_FORMAT, "%s: empty key at %llu", g->path, (ull_t) off);
    }
    if (len > LLM_GGUF_MAX_KEY) {
        return llm_fail(err, LLM_E_FORMAT, "%s: key at %llu has %llu bytes, the format allows %u",
                        g->path, (ull_t) off, (ull_t) len, LLM_GGUF_MAX_KEY);
    }
    shown_t key = show((llm_span_t) { (const char *) g->head + off, len });

    rc = take(g, &type, 4, key.s, err);
    if (rc != LLM_OK) {
        return rc;
    }
    int size = scalar_bytes(type);
    if (size < 0) {
        return llm_fail(err, LLM_E_FORMAT, "%s: key \"%s\": unknown value type %u", g->path, key.s,
                        type);
    }
    kv->key = (llm_span_t) { (const char *) (uintptr_t) off, len };
    kv->type = (llm_gguf_type_t) type;
    kv->elem = kv->type;
    kv->n = 1;
    kv->data = (const uint8_t *) (uintptr_t) g->pos;
    if (type == LLM_GGUF_ARRAY) {
        return parse_array(g, kv, key.s, err);
    }
    if (type == LLM_GGUF_STRING) {
        return take_string(g, &off, &len, key.s, err);
    }
    rc = need(g, (uint64_t) size, key.s, err);
    if (rc != LLM_OK) {
        return rc;
    }
    if (type == LLM_GGUF_BOOL) {
        rc = check_bools(g, key.s, g->head + g->pos, 1, err);
    }
    g->pos += (uint64_t) size;
    return rc;
}

/* ----------------------------------------------------------------- tensors */

/* What is known of a type that llm_format() does not read. */
static const char *
foreign_type(uint32_t type)
{
    static const struct { uint32_t type; const char *name; } table[] = {
        { 9, "Q8_1" }, { 15, "Q8_K" }, { 16, "IQ2_XXS" }, { 17, "IQ2_XS" }, { 18, "IQ3_XXS" },
        { 19, "IQ1_S" }, { 21, "IQ3_S" }, { 22, "IQ2_S" }, { 24, "I8" }, { 25, "I16" },
        { 26, "I32" }, { 27, "I64" }, { 28, "F64" }, { 29, "IQ1_M" }, { 34, "TQ1_0" },
        { 35, "TQ2_0" },
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        if (table[i].type == type) {
            return table[i].name;
        }
    }
    return NULL;
}

static llm_code_t
check_type(const llm_gguf_t *g, const char *name, uint32_t type, llm_err_t *err)
{
    if (llm_format(type) != NULL) {
        return LLM_OK;
    }
    if (foreign_type(type) != NULL) {
        return llm_fail(err, LLM_E_UNSUPPORTED, "%s: tensor \"%s\": type %s is not supported",
                        g->path, name, foreign_type(type));
    }
    if (type == 4 || type == 5 || (type >= 31 && type <= 33) || (type >= 36 && type <= 38)) {
        return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%s\": type %u was removed from the format",
                        g->path, name, type);
    }
    return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%s\": unknown tensor type %u", g->path, name,
                    type);
}

/* Fills t->size from shape and type; every product is checked. */
static llm_code_t
size_tensor(const llm_gguf_t *g, llm_gguf_tensor_t *t, const char *name, llm_err_t *err)
{
    uint64_t values = 1;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        if (t->ne[i] > INT64_MAX) {
            return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%s\": negative dimension %lld",
                            g->path, name, (long long) t->ne[i]);
        }
        if (__builtin_mul_overflow(values, t->ne[i], &values) || values > INT64_MAX) {
            return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%s\": element count overflows at "
                            "dimension %u (%llu)", g->path, name, i, (ull_t) t->ne[i]);
        }
    }
    const llm_format_t *f = llm_format(t->type);
    if (t->ne[0] % f->block != 0) {
        return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%s\": rows of %llu values are not a "
                        "multiple of the %u-value blocks of %s", g->path, name, (ull_t) t->ne[0],
                        f->block, f->name);
    }
    uint64_t size;
    if (__builtin_mul_overflow(values / f->block, (uint64_t) f->bytes, &size) || size > SIZE_MAX) {
        return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%s\": byte size of %llu values overflows",
                        g->path, name, (ull_t) values);
    }
    t->size = (size_t) size;
    return LLM_OK;
}

static llm_code_t
parse_tensor(llm_gguf_t *g, llm_gguf_tensor_t *t, llm_err_t *err)
{
    uint64_t off, len;
    llm_code_t rc = take_string(g, &off, &len, "tensor name", err);
    if (rc != LLM_OK) {
        return rc;
    }
    shown_t name = show((llm_span_t) { (const char *) g->head + off, len });
    if (len == 0 || len > LLM_GGUF_MAX_NAME) {
        return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%s\": name has %llu bytes, the format "
                        "allows 1 to %u", g->path, name.s, (ull_t) len, LLM_GGUF_MAX_NAME);
    }
    t->name = (llm_span_t) { (const char *) (uintptr_t) off, len };
    t->part = 0;

    rc = take(g, &t->n_dims, 4, name.s, err);
    if (rc != LLM_OK) {
        return rc;
    }
    if (t->n_dims > 4) {
        return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%s\": %u dimensions, the format allows "
                        "four", g->path, name.s, t->n_dims);
    }
    for (uint32_t i = 0; i < 4; i++) {
        t->ne[i] = 1;
    }
    rc = take(g, t->ne, t->n_dims * sizeof(t->ne[0]), name.s, err);
    if (rc == LLM_OK) {
        rc = take(g, &t->type, 4, name.s, err);
    }
    if (rc == LLM_OK) {
        rc = take(g, &t->offset, 8, name.s, err);
    }
    if (rc == LLM_OK) {
        rc = check_type(g, name.s, t->type, err);
    }
    return rc == LLM_OK ? size_tensor(g, t, name.s, err) : rc;
}

/* ------------------------------------------------------------------- order */

static int
compare_kv(const void *a, const void *b, void *g)
{
    const llm_gguf_kv_t *kv = ((const llm_gguf_t *) g)->kv;
    return compare_spans(kv[*(const uint32_t *) a].key, kv[*(const uint32_t *) b].key);
}

static int
compare_names(const void *a, const void *b, void *g)
{
    const llm_gguf_tensor_t *t = ((const llm_gguf_t *) g)->tensors;
    return compare_spans(t[*(const uint32_t *) a].name, t[*(const uint32_t *) b].name);
}

static int
compare_offsets(const void *a, const void *b, void *g)
{
    const llm_gguf_tensor_t *t = ((const llm_gguf_t *) g)->tensors;
    const llm_gguf_tensor_t *x = &t[*(const uint32_t *) a], *y = &t[*(const uint32_t *) b];
    if (x->offset != y->offset) {
        return x->offset < y->offset ? -1 : 1;
    }
    return (x->size > y->size) - (x->size < y->size);
}

static llm_code_t
sorted_order(uint32_t **out, llm_gguf_t *g, uint64_t n,
             int (*compare)(const void *, const void *, void *), llm_err_t *err)
{
    uint32_t *order = malloc((n + 1) * sizeof(*order));
    if (order == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for an index of %llu entries", g->path,
                        (ull_t) n);
    }
    for (uint64_t i = 0; i < n; i++) {
        order[i] = (uint32_t) i;
    }
    qsort_r(order, n, sizeof(*order), compare, g);
    *out = order;
    return LLM_OK;
}

/* Sorted indices of keys, which must be unique. */
static llm_code_t
index_keys(llm_gguf_t *g, llm_err_t *err)
{
    llm_code_t rc = sorted_order(&g->kv_order, g, g->n_kv, compare_kv, err);
    for (uint64_t i = 1; i < g->n_kv && rc == LLM_OK; i++) {
        if (compare_kv(&g->kv_order[i - 1], &g->kv_order[i], g) == 0) {
            rc = llm_fail(err, LLM_E_FORMAT, "%s: duplicate key \"%s\"", g->path,
                          show(g->kv[g->kv_order[i]].key).s);
        }
    }
    return rc;
}

llm_code_t
llm_gguf_index_tensors(llm_gguf_t *g, llm_err_t *err)
{
    free(g->tensor_order);
    g->tensor_order = NULL;
    llm_code_t rc = sorted_order(&g->tensor_order, g, g->n_tensors, compare_names, err);
    for (uint64_t i = 1; i < g->n_tensors && rc == LLM_OK; i++) {
        if (compare_names(&g->tensor_order[i - 1], &g->tensor_order[i], g) == 0) {
            rc = llm_fail(err, LLM_E_FORMAT, "%s: duplicate tensor \"%s\"", g->path,
                          show(g->tensors[g->tensor_order[i]].name).s);
        }
    }
    return rc;
}

/* ---------------------------------------------------------------- checking */

static llm_code_t
read_alignment(const llm_gguf_t *g, uint32_t *align, llm_err_t *err)
{
    const llm_gguf_kv_t *kv = llm_gguf_find(g, "general.alignment");
    *align = 32;
    if (kv == NULL) {
        return LLM_OK;
    }
    if (kv->type != LLM_GGUF_U32) {
        return llm_fail(err, LLM_E_FORMAT, "%s: general.alignment has value type %d, not u32",
                        g->path, (int) kv->type);
    }
    memcpy(align, kv->data, 4);
    if (*align == 0 || (*align & (*align - 1)) != 0) {
        return llm_fail(err, LLM_E_FORMAT, "%s: general.alignment is %u, not a power of two",
                        g->path, *align);
    }
    return LLM_OK;
}

/* Offsets become file offsets; none may leave the file or share bytes with another tensor. */
static llm_code_t
place_tensors(llm_gguf_t *g, llm_err_t *err)
{
    uint32_t align;
    llm_code_t rc = read_alignment(g, &align, err);
    if (rc != LLM_OK) {
        return rc;
    }
    /* no overflow: pos <= LLM_GGUF_MAX_HEADER */
    uint64_t base = (g->pos + align - 1) & ~((uint64_t) align - 1);
    if (base > g->file_size && g->n_tensors > 0) {
        return llm_fail(err, LLM_E_FORMAT, "%s: file ends inside the header: data starts at %llu, "
                        "the file has %llu bytes", g->path, (ull_t) base, (ull_t) g->file_size);
    }
    uint64_t data = base < g->file_size ? g->file_size - base : 0;

    for (uint64_t i = 0; i < g->n_tensors; i++) {
        llm_gguf_tensor_t *t = &g->tensors[i];
        shown_t name = show(t->name);
        if (t->offset % align != 0) {
            return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%s\": offset %llu is not a multiple "
                            "of the alignment %u", g->path, name.s, (ull_t) t->offset, align);
        }
        if (t->offset > data || t->size > data - t->offset) {
            return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%s\": bytes %llu+%zu exceed the %llu "
                            "bytes of data in the file", g->path, name.s, (ull_t) t->offset,
                            t->size, (ull_t) data);
        }
        t->offset += base;
    }

    uint32_t *order = NULL;
    rc = sorted_order(&order, g, g->n_tensors, compare_offsets, err);
    for (uint64_t i = 1; i < g->n_tensors && rc == LLM_OK; i++) {
        const llm_gguf_tensor_t *a = &g->tensors[order[i - 1]], *b = &g->tensors[order[i]];
        if (b->offset < a->offset + a->size) {
            rc = llm_fail(err, LLM_E_FORMAT, "%s: tensors \"%s\" and \"%s\" overlap at byte %llu",
                          g->path, show(a->name).s, show(b->name).s, (ull_t) b->offset);
        }
    }
    free(order);
    return rc;
}

/* Offsets into head become pointers. */
static void
link_pointers(llm_gguf_t *g)
{
    for (uint64_t i = 0; i < g->n_kv; i++) {
        g->kv[i].key.data = (const char *) g->head + (uintptr_t) g->kv[i].key.data;
        g->kv[i].data = g->head + (uintptr_t) g->kv[i].data;
    }
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        g->tensors[i].name.data = (const char *) g->head + (uintptr_t) g->tensors[i].name.data;
    }
}

/* --------------------------------------------------------------- open, close */

static llm_code_t
check_count(const llm_gguf_t *g, uint64_t n, uint64_t min_bytes, const char *what, llm_err_t *err)
{
    if (n > bytes_left(g) / min_bytes) {
        return llm_fail(err, LLM_E_FORMAT, "%s: %llu %s are more than the file can hold (%llu "
                        "bytes left)", g->path, (ull_t) n, what, (ull_t) bytes_left(g));
    }
    if (n > LLM_GGUF_MAX_ENTRIES) {
        return llm_fail(err, LLM_E_UNSUPPORTED, "%s: %llu %s, at most %llu are supported", g->path,
                        (ull_t) n, what, (ull_t) LLM_GGUF_MAX_ENTRIES);
    }
    return LLM_OK;
}

/* Magic, version and the two counts. */
static llm_code_t
parse_preamble(llm_gguf_t *g, uint64_t *n_kv, uint64_t *n_tensors, llm_err_t *err)
{
    uint8_t magic[4];
    uint32_t version = 0;
    llm_code_t rc = take(g, magic, 4, "magic", err);
    if (rc != LLM_OK) {
        return rc;
    }
    if (memcmp(magic, "GGUF", 4) != 0) {
        return llm_fail(err, LLM_E_FORMAT, "%s: not a GGUF file: magic is %02x %02x %02x %02x",
                        g->path, magic[0], magic[1], magic[2], magic[3]);
    }
    rc = take(g, &version, 4, "version", err);
    if (rc != LLM_OK) {
        return rc;
    }
    if (version != 0 && (version & 0xffff) == 0) {
        return llm_fail(err, LLM_E_UNSUPPORTED, "%s: version field 0x%08x: big-endian byte order "
                        "is not supported", g->path, version);
    }
    if (version != 2 && version != 3) {
        return llm_fail(err, LLM_E_UNSUPPORTED, "%s: GGUF version %u, only 2 and 3 are supported",
                        g->path, version);
    }
    rc = take(g, n_tensors, 8, "tensor count", err);
    if (rc == LLM_OK) {
        rc = take(g, n_kv, 8, "key count", err);
    }
    return rc;
}

static llm_code_t
parse(llm_gguf_t *g, llm_err_t *err)
{
    uint64_t n_kv = 0, n_tensors = 0, cap = 0;
    llm_code_t rc = parse_preamble(g, &n_kv, &n_tensors, err);
    if (rc == LLM_OK) {
        rc = check_count(g, n_kv, MIN_KV_BYTES, "keys", err);
    }
    if (rc == LLM_OK) {
        rc = check_count(g, n_tensors, MIN_TENSOR_BYTES, "tensors", err);
    }
    for (; rc == LLM_OK && g->n_kv < n_kv; g->n_kv += rc == LLM_OK) {
        rc = grow((void **) &g->kv, g->n_kv, &cap, sizeof(*g->kv), err);
        if (rc == LLM_OK) {
            rc = parse_kv(g, &g->kv[g->n_kv], err);
        }
    }
    cap = 0;
    for (; rc == LLM_OK && g->n_tensors < n_tensors; g->n_tensors += rc == LLM_OK) {
        rc = grow((void **) &g->tensors, g->n_tensors, &cap, sizeof(*g->tensors), err);
        if (rc == LLM_OK) {
            rc = parse_tensor(g, &g->tensors[g->n_tensors], err);
        }
    }
    if (rc != LLM_OK) {
        return rc;
    }
    link_pointers(g);
    rc = index_keys(g, err);
    if (rc == LLM_OK) {
        rc = llm_gguf_index_tensors(g, err);
    }
    return rc == LLM_OK ? place_tensors(g, err) : rc;
}

llm_code_t
llm_gguf_open_one(llm_gguf_t **out, const char *path, llm_err_t *err)
{
    *out = NULL;
    llm_gguf_t *g = calloc(1, sizeof(*g));
    if (g == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory", path);
    }
    g->fd = -1;
    g->path = strdup(path);
    llm_code_t rc = g->path != NULL ? llm_file_open(&g->fd, &g->file_size, path, err)
                                    : llm_fail(err, LLM_E_NOMEM, "%s: no memory", path);
    if (rc == LLM_OK) {
        posix_fadvise(g->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
        rc = parse(g, err);
    }
    if (rc != LLM_OK) {
        llm_gguf_close(g);
        return rc;
    }
    *out = g;
    return LLM_OK;
}

void
llm_gguf_close(llm_gguf_t *g)
{
    if (g == NULL) {
        return;
    }
    for (uint32_t i = 0; i < g->n_more; i++) {
        llm_gguf_close(g->more[i]);
    }
    free(g->more);
    if (g->fd >= 0) {
        close(g->fd);
    }
    free(g->tensor_order);
    free(g->kv_order);
    free(g->tensors);
    free(g->kv);
    free(g->head);
    free(g->path);
    free(g);
}
