/*
 * repack.c - reads the weights of a bound model into one private mapping, in the layouts of the
 * kernels.
 *
 * The mapping is filled before the process forks and made read-only then: workers share its pages
 * and no stray write can split them. It is aligned for huge pages. The file is read in large
 * pieces through a buffer, never mapped, so that a file that is cut short meanwhile gives an
 * error.
 */
#define _GNU_SOURCE     /* MAP_ANONYMOUS, madvise */

#include "model/bind.h"
#include "tensor/quantize.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE    ((size_t) 2 << 20)
#define BATCH_BYTES  ((size_t) 1 << 20)     /* of the file, read at once */

typedef struct {
    llm_model_t            *m;
    const llm_src_t        *src;
    const llm_model_conf_t *conf;
    uint8_t                *buf;        /* rows of the file */
    uint8_t                *rounded;    /* the same rows in another format, and one row of floats */
    float                  *row;
    size_t                  done, total;
} repack_t;

llm_code_t
llm_read_vector(const llm_src_t *src, const llm_src_tensor_t *t, float *dst, size_t n,
                llm_err_t *err)
{
    const llm_format_t *f = llm_format(t->type);
    if (f == NULL) {
        return llm_fail(err, LLM_E_UNSUPPORTED,
                        "%s: tensor \"%.*s\" has a type that weights cannot "
                        "have",
                        src->path, (int) t->name.len, t->name.data);
    }
    if (t->type == LLM_T_F32) {
        return src->read(src, t, 0, dst, n * sizeof(float), err);
    }
    void *raw = malloc(t->size + 1);
    if (raw == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for %zu bytes of tensor \"%.*s\"",
                        src->path, t->size, (int) t->name.len, t->name.data);
    }
    llm_code_t rc = src->read(src, t, 0, raw, t->size, err);
    if (rc == LLM_OK) {
        f->dequant(dst, raw, n);
    }
    free(raw);
    return rc;
}

static void
progress(repack_t *r, size_t bytes)
{
    r->done += bytes;
    if (r->conf->progress != NULL) {
        r->conf->progress(r->conf->progress_ctx, r->done, r->total);
    }
}

/* Which row of the file becomes row r of [q][k][v] (arch.h draws the orders). */
static uint32_t
source_row(const llm_order_t *o, uint32_t r)
{
    uint32_t hd = o->head_dim, h = r / hd, j = r % hd, group = o->n_heads / o->n_kv_heads;
    uint32_t part = h < o->n_heads ? 0 : h < o->n_heads + o->n_kv_heads ? 1 : 2;
    h -= part == 0 ? 0 : o->n_heads + (part - 1) * o->n_kv_heads;
    switch (o->qkv) {
    case LLM_QKV_PER_HEAD:
        return (h * 3 + part) * hd + j;
    case LLM_QKV_GROUPED:
        return part == 0 ? (h / group * (group + 2) + h % group) * hd + j
                         : (h * (group + 2) + group + part - 1) * hd + j;
    case LLM_QKV_CODEGEN: {
        uint32_t per_block = o->n_heads / 4, place = part == 0 ? 0 : 3 - part;
        return ((h / per_block * 3 + place) * per_block + h % per_block) * hd + j;
    }
    default:
        return r;
    }
}

static bool
is_reordered(const llm_order_t *o)
{
    return o->qkv != LLM_QKV_SPLIT && o->qkv != LLM_QKV_FUSED;
}

/* A vector of n values whose elements stand for rows in another order. */
static llm_code_t
reorder(const llm_order_t *o, float *v, size_t n, llm_err_t *err)
{
    float *copy = malloc(n * sizeof(*copy) + 1);
    if (copy == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "no memory for %zu values", n);
    }
    memcpy(copy, v, n * sizeof(*copy));
    for (size_t r = 0; r < n; r++) {
        v[r] = copy[source_row(o, (uint32_t) r)];
    }
    free(copy);
    return LLM_OK;
}

static llm_code_t
fill_vector(repack_t *r, const llm_item_t *item, float *dst, llm_err_t *err)
{
    for (uint32_t i = 0; i < item->n_segs; i++) {
        const llm_seg_t *seg = &item->seg[i];
        size_t n = item->n_segs > 1 ? seg->rows : item->bytes / sizeof(float);
        if (seg->t.name.data != NULL) {         /* else zeros, as the mapping has them */
            llm_code_t rc = llm_read_vector(r->src, &seg->t, dst, n, err);
            if (rc != LLM_OK) {
                return rc;
            }
        }
        dst += n;
    }
    size_t n = item->bytes / sizeof(float);
    dst -= n;
    for (size_t i = 0; i < n && item->plus != 0; i++) {
        dst[i] += item->plus;
    }
    *item->vec = dst;
    progress(r, item->bytes);
    return is_reordered(&item->order) ? reorder(&item->order, dst, n, err) : LLM_OK;
}

/* Rows first .. first+n-1 of a matrix whose only tensor has them in another order. */
static llm_code_t
read_reordered(repack_t *r, const llm_item_t *item, uint32_t first, uint32_t n, size_t row_bytes,
               llm_err_t *err)
{
    const llm_seg_t *seg = &item->seg[0];
    for (uint32_t i = 0, run; i < n; i += run) {
        uint32_t from = source_row(&item->order, first + i);
        for (run = 1; i + run < n && source_row(&item->order, first + i + run) == from + run;) {
            run++;
        }
        llm_code_t rc = r->src->read(r->src, &seg->t, (seg->row0 + from) * row_bytes,
                                     r->buf + i * row_bytes, run * row_bytes, err);
        if (rc != LLM_OK) {
            return rc;
        }
    }
    return LLM_OK;
}

/* Rows first .. first+n-1 of a matrix, which may lie in several tensors, into r->buf. */
static llm_code_t
read_rows(repack_t *r, const llm_item_t *item, uint32_t first, uint32_t n, size_t row_bytes,
          llm_err_t *err)
{
    uint8_t *dst = r->buf;
    uint32_t seg_first = 0;
    if (is_reordered(&item->order)) {
        return read_reordered(r, item, first, n, row_bytes, err);
    }
    for (uint32_t i = 0; i < item->n_segs && n > 0; i++) {
        const llm_seg_t *seg = &item->seg[i];
        if (first < seg_first + seg->rows) {
            uint32_t skip = first - seg_first;
            uint32_t take = seg->rows - skip < n ? seg->rows - skip : n;
            llm_code_t rc = r->src->read(r->src, &seg->t, (seg->row0 + skip) * row_bytes, dst,
                                         take * row_bytes, err);
            if (rc != LLM_OK) {
                return rc;
            }
            dst += take * row_bytes;
            first += take;
            n -= take;
        }
        seg_first += seg->rows;
    }
    return LLM_OK;
}

/* Bytes of a row with that many values. */
static size_t
row_bytes_of(uint32_t type, uint32_t cols)
{
    const llm_format_t *f = llm_format(type);
    return (size_t) cols / f->block * f->bytes;
}

/* The n rows in r->buf, in another format in r->rounded. */
static llm_code_t
round_rows(repack_t *r, const llm_item_t *item, uint32_t n, llm_err_t *err)
{
    const llm_mat_t *mat = item->mat;
    const llm_src_tensor_t *t = &item->seg[0].t;
    size_t from = row_bytes_of(t->type, mat->cols), to = row_bytes_of(mat->type, mat->cols);
    for (uint32_t i = 0; i < n; i++) {
        llm_format(t->type)->dequant(r->row, r->buf + i * from, mat->cols);
        if (!llm_quantize(mat->type, r->rounded + i * to, r->row, mat->cols)) {
            return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%.*s\": a value is not finite or "
                            "beyond the range of %s", r->src->path, (int) t->name.len, t->name.data,
                            llm_format(mat->type)->name);
        }
    }
    return LLM_OK;
}

/* Rows read at once: whole tiles. */
static uint32_t
batch_rows(size_t row_bytes)
{
    size_t tiles = row_bytes > 0 ? BATCH_BYTES / row_bytes / LLM_TILE : 0;
    return (uint32_t) (tiles > 0 ? tiles : 1) * LLM_TILE;
}

static llm_code_t
fill_matrix(repack_t *r, const llm_item_t *item, uint8_t *dst, llm_err_t *err)
{
    llm_mat_t *mat = item->mat;
    bool rounds = item->seg[0].t.type != mat->type;
    size_t file_bytes = row_bytes_of(item->seg[0].t.type, mat->cols);
    size_t row_bytes = row_bytes_of(mat->type, mat->cols);
    uint32_t batch = batch_rows(file_bytes);
    const uint8_t *packed = rounds ? r->rounded : r->buf;

    for (uint32_t first = 0; first < mat->rows; first += batch) {
        uint32_t n = mat->rows - first < batch ? mat->rows - first : batch;
        llm_code_t rc = read_rows(r, item, first, n, file_bytes, err);
        if (rc == LLM_OK && rounds) {
            rc = round_rows(r, item, n, err);
        }
        if (rc != LLM_OK) {
            return rc;
        }
        uint32_t tile = first / LLM_TILE;
        for (uint32_t row = 0; row < n; row += LLM_TILE, tile++) {
            const void *rows[LLM_TILE];
            for (uint32_t k = 0; k < LLM_TILE; k++) {
                rows[k] = row + k < n ? packed + (row + k) * row_bytes : NULL;
            }
            llm_mat_pack_tile(mat, dst + tile * mat->tile_bytes, rows);
        }
        progress(r, (tile - first / LLM_TILE) * mat->tile_bytes);
    }
    mat->data = dst;
    return LLM_OK;
}

/* Anonymous memory that starts at a huge page; NULL on failure. */
static void *
map_aligned(size_t size)
{
    uint8_t *p = mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        return NULL;
    }
    size_t head = (HUGE_PAGE - (uintptr_t) p % HUGE_PAGE) % HUGE_PAGE;
    if (head > 0) {
        munmap(p, head);
    }
    munmap(p + head + size, HUGE_PAGE - head);
    p += head;
    madvise(p, size, MADV_HUGEPAGE);
    madvise(p, size, MADV_DONTDUMP);
    return p;
}

static llm_code_t
fill(repack_t *r, const llm_plan_t *plan, llm_err_t *err)
{
    size_t largest = 0, rounded = 0, cols = 0;
    for (size_t i = 0; i < plan->n; i++) {
        const llm_mat_t *mat = plan->items[i].mat;
        if (mat != NULL) {
            uint32_t type = plan->items[i].seg[0].t.type;
            size_t rows = batch_rows(row_bytes_of(type, mat->cols));
            size_t bytes = rows * row_bytes_of(type, mat->cols);
            largest = bytes > largest ? bytes : largest;
            bytes = type != mat->type ? rows * row_bytes_of(mat->type, mat->cols) : 0;
            rounded = bytes > rounded ? bytes : rounded;
            cols = mat->cols > cols ? mat->cols : cols;
        }
    }
    r->buf = malloc(largest + 1);
    r->rounded = malloc(rounded + 1);
    r->row = malloc((rounded > 0 ? cols : 0) * sizeof(float) + 1);
    llm_code_t rc = LLM_OK;
    if (r->buf == NULL || r->rounded == NULL || r->row == NULL) {
        rc = llm_fail(err, LLM_E_NOMEM, "%s: no memory for buffers of %zu and %zu bytes",
                      r->src->path, largest, rounded);
    }
    for (size_t i = 0; i < plan->n && rc == LLM_OK; i++) {
        const llm_item_t *item = &plan->items[i];
        uint8_t *dst = (uint8_t *) r->m->weights + item->off;
        rc = item->mat != NULL ? fill_matrix(r, item, dst, err) : fill_vector(r, item,
                                                                              (float *) dst, err);
    }
    free(r->row);
    free(r->rounded);
    free(r->buf);
    return rc;
}

llm_code_t
llm_repack(llm_model_t *m, const llm_plan_t *plan, const llm_src_t *src,
           const llm_model_conf_t *conf, llm_err_t *err)
{
    /* plan->bytes <= SIZE_MAX / 2 */
    size_t size = (plan->bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    repack_t r = { .m = m, .src = src, .conf = conf };
    for (size_t i = 0; i < plan->n; i++) {
        r.total += plan->items[i].bytes;
    }
    m->weights = map_aligned(size);
    if (m->weights == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for %zu bytes of weights: %s", src->path,
                        size, strerror(errno));
    }
    m->weights_bytes = size;

    llm_code_t rc = fill(&r, plan, err);
    if (rc == LLM_OK && mprotect(m->weights, size, PROT_READ) != 0) {
        rc = llm_fail(err, LLM_E_NOMEM, "%s: %zu bytes of weights cannot be made read-only: %s",
                      src->path, size, strerror(errno));
    }
    if (rc != LLM_OK) {
        munmap(m->weights, m->weights_bytes);
        m->weights = NULL;
        m->weights_bytes = 0;
        return rc;
    }
    if (m->head.n_parts == 1 && m->head.part[0].data == NULL) {
        m->head.part[0] = m->embed;     /* tied */
    }
    return LLM_OK;
}
