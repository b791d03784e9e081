/*
 * repack.c - reads the weights of a bound model into one private mapping, in the layouts of the
 * kernels.
 *
 * The mapping is filled before the process forks and made read-only then: workers share its pages
 * and no stray write can split them. It is aligned for huge pages. The file is read in batches
 * through a buffer, never mapped, so that a file that is cut short meanwhile gives an error.
 *
 * The work is cut into pieces in the order of the plan, which some threads take one after the
 * other: most of the time goes into fresh pages and copies. The threads are gone when llm_repack
 * returns. All pieces before a taken one are taken, so the first error in that order is found
 * however the threads run.
 */
#include "base/pool.h"
#include "model/bind.h"
#include "model/store.h"
#include "tensor/quantize.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BATCH_BYTES ((size_t) 256 << 10)    /* of the file, read at once: stays in the cache */
#define PIECE_BYTES (2 * LLM_HUGE_PAGE)     /* of the mapping: few huge pages have two writers */

/* What one thread needs. */
typedef struct {
    const llm_src_t *src;
    uint8_t         *buf;       /* rows of the file */
    uint8_t         *rounded;   /* the same rows in another format */
    float           *row;       /* one of them on the way there */
} lane_t;

/* Rows first .. first+n-1 of a matrix, whole tiles, or a whole vector. */
typedef struct {
    const llm_item_t *item;
    uint32_t          first, n;
} piece_t;

typedef struct {
    uint8_t                *weights;
    const llm_model_conf_t *conf;
    lane_t                 *lanes;      /* [threads] */
    piece_t                *pieces;
    uint32_t                n_pieces;
    size_t                  total;

    pthread_mutex_t         lock;       /* of what follows */
    size_t                  done;
    uint32_t                failed;     /* the first piece with an error, or n_pieces ... */
    llm_code_t              rc;
    llm_err_t               err;        /* ... and which error */
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
fill_vector(const lane_t *lane, const llm_item_t *item, float *dst, llm_err_t *err)
{
    for (uint32_t i = 0; i < item->n_segs; i++) {
        const llm_seg_t *seg = &item->seg[i];
        size_t n = item->n_segs > 1 ? seg->rows : item->bytes / sizeof(float);
        if (seg->t.name.data != NULL) {         /* else zeros, as the mapping has them */
            llm_code_t rc = llm_read_vector(lane->src, &seg->t, dst, n, err);
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
    return is_reordered(&item->order) ? reorder(&item->order, dst, n, err) : LLM_OK;
}

/* Rows first .. first+n-1 of a matrix whose only tensor has them in another order. */
static llm_code_t
read_reordered(const lane_t *lane, const llm_item_t *item, uint32_t first, uint32_t n,
               size_t row_bytes, llm_err_t *err)
{
    const llm_seg_t *seg = &item->seg[0];
    for (uint32_t i = 0, run; i < n; i += run) {
        uint32_t from = source_row(&item->order, first + i);
        for (run = 1; i + run < n && source_row(&item->order, first + i + run) == from + run;) {
            run++;
        }
        llm_code_t rc = lane->src->read(lane->src, &seg->t, (seg->row0 + from) * row_bytes,
                                     lane->buf + i * row_bytes, run * row_bytes, err);
        if (rc != LLM_OK) {
            return rc;
        }
    }
    return LLM_OK;
}

/* Rows first .. first+n-1 of a matrix, which may lie in several tensors, into lane->buf. */
static llm_code_t
read_rows(const lane_t *lane, const llm_item_t *item, uint32_t first, uint32_t n, size_t row_bytes,
          llm_err_t *err)
{
    uint8_t *dst = lane->buf;
    uint32_t seg_first = 0;
    if (is_reordered(&item->order)) {
        return read_reordered(lane, item, first, n, row_bytes, err);
    }
    for (uint32_t i = 0; i < item->n_segs && n > 0; i++) {
        const llm_seg_t *seg = &item->seg[i];
        if (first < seg_first + seg->rows) {
            uint32_t skip = first - seg_first;
            uint32_t take = seg->rows - skip < n ? seg->rows - skip : n;
            llm_code_t rc = lane->src->read(lane->src, &seg->t, (seg->row0 + skip) * row_bytes, dst,
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

/* The n rows in lane->buf, in another format in lane->rounded. */
static llm_code_t
round_rows(const lane_t *lane, const llm_item_t *item, uint32_t n, llm_err_t *err)
{
    const llm_mat_t *mat = item->mat;
    const llm_src_tensor_t *t = &item->seg[0].t;
    size_t from = row_bytes_of(t->type, mat->cols), to = row_bytes_of(mat->type, mat->cols);
    for (uint32_t i = 0; i < n; i++) {
        llm_format(t->type)->dequant(lane->row, lane->buf + i * from, mat->cols);
        if (!llm_quantize(mat->type, lane->rounded + i * to, lane->row, mat->cols)) {
            return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%.*s\": a value is not finite or "
                            "beyond the range of %s", lane->src->path, (int) t->name.len,
                            t->name.data, llm_format(mat->type)->name);
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
fill_rows(const lane_t *lane, const piece_t *p, uint8_t *dst, llm_err_t *err)
{
    const llm_item_t *item = p->item;
    const llm_mat_t *mat = item->mat;
    bool rounds = item->seg[0].t.type != mat->type;
    size_t file_bytes = row_bytes_of(item->seg[0].t.type, mat->cols);
    size_t row_bytes = row_bytes_of(mat->type, mat->cols);
    uint32_t batch = batch_rows(file_bytes);
    const uint8_t *packed = rounds ? lane->rounded : lane->buf;

    for (uint32_t done = 0; done < p->n; done += batch) {
        uint32_t first = p->first + done, n = p->n - done < batch ? p->n - done : batch;
        llm_code_t rc = read_rows(lane, item, first, n, file_bytes, err);
        if (rc == LLM_OK && rounds) {
            rc = round_rows(lane, item, n, err);
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
    }
    return LLM_OK;
}

/* Bytes of the mapping that a piece fills. */
static size_t
piece_bytes(const piece_t *p)
{
    const llm_mat_t *mat = p->item->mat;
    return mat != NULL ? (size_t) (p->n / LLM_TILE + (p->n % LLM_TILE != 0)) * mat->tile_bytes
                       : p->item->bytes;
}

static bool
is_wanted(repack_t *r, uint32_t i)
{
    pthread_mutex_lock(&r->lock);
    bool wanted = i < r->failed;
    pthread_mutex_unlock(&r->lock);
    return wanted;
}

/* Takes down how piece i went; returns the bytes done so far. */
static size_t
note(repack_t *r, uint32_t i, llm_code_t rc, const llm_err_t *err)
{
    pthread_mutex_lock(&r->lock);
    if (rc == LLM_OK) {
        r->done += piece_bytes(&r->pieces[i]);
    } else if (i < r->failed) {
        r->failed = i;
        r->rc = rc;
        r->err = *err;
    }
    size_t done = r->done;
    pthread_mutex_unlock(&r->lock);
    return done;
}

/* A chunk of the pool. */
static void
run_piece(void *ctx, uint32_t i, uint32_t thread)
{
    repack_t *r = ctx;
    const piece_t *p = &r->pieces[i];
    uint8_t *dst = r->weights + p->item->off;
    llm_err_t err;
    if (!is_wanted(r, i)) {
        return;
    }
    llm_code_t rc = p->item->mat != NULL
                    ? fill_rows(&r->lanes[thread], p, dst, &err)
                    : fill_vector(&r->lanes[thread], p->item, (float *) dst, &err);
    size_t done = note(r, i, rc, &err);
    if (thread == 0 && rc == LLM_OK && r->conf->progress != NULL) {
        r->conf->progress(r->conf->progress_ctx, done, r->total);
    }
}

/* The pieces of all items; returns how many, and writes them unless out is NULL. */
static uint32_t
cut(const llm_plan_t *plan, piece_t *out)
{
    uint32_t n = 0;
    for (size_t i = 0; i < plan->n; i++) {
        const llm_item_t *item = &plan->items[i];
        uint32_t rows = item->mat != NULL ? item->mat->rows : 1, step = rows;
        if (item->mat != NULL) {
            size_t tiles = PIECE_BYTES / item->mat->tile_bytes;
            size_t most = (tiles > 0 ? tiles : 1) * LLM_TILE;
            step = most < rows ? (uint32_t) most : rows;
        }
        for (uint32_t first = 0; first < rows; first += step, n++) {
            if (out != NULL) {
                out[n] = (piece_t) { item, first, rows - first < step ? rows - first : step };
            }
        }
    }
    return n;
}

static void
lane_free(lane_t *lane)
{
    free(lane->row);
    free(lane->rounded);
    free(lane->buf);
}

/* Buffers for any item of the plan. */
static llm_code_t
lane_init(lane_t *lane, const llm_plan_t *plan, const llm_src_t *src, llm_err_t *err)
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
    *lane = (lane_t) {
        .src = src,
        .buf = malloc(largest + 1),
        .rounded = malloc(rounded + 1),
        .row = malloc((rounded > 0 ? cols : 0) * sizeof(float) + 1),
    };
    if (lane->buf == NULL || lane->rounded == NULL || lane->row == NULL) {
        lane_free(lane);
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for buffers of %zu and %zu bytes",
                        src->path, largest, rounded);
    }
    return LLM_OK;
}

/* Runs all pieces; r is complete but for the lanes. */
static llm_code_t
fill(repack_t *r, const llm_plan_t *plan, const llm_src_t *src, llm_err_t *err)
{
    llm_pool_t *pool = NULL;
    lane_t lanes[LLM_POOL_SHORT];
    uint32_t n = 0;
    llm_code_t rc = llm_pool_short(&pool, err);
    for (; rc == LLM_OK && n < llm_pool_size(pool); n++) {
        rc = lane_init(&lanes[n], plan, src, err);
        if (rc != LLM_OK) {
            break;
        }
    }
    if (rc == LLM_OK) {
        r->lanes = lanes;
        llm_pool_run(pool, run_piece, r, r->n_pieces);
        rc = r->rc;
        if (rc != LLM_OK && err != NULL) {
            *err = r->err;
        }
    }
    llm_pool_free(pool);
    while (n > 0) {
        lane_free(&lanes[--n]);
    }
    return rc;
}

/* Fills the mapping of the model. */
static llm_code_t
pack(const llm_model_t *m, const llm_plan_t *plan, const llm_src_t *src,
     const llm_model_conf_t *conf, llm_err_t *err)
{
    repack_t r = { .weights = m->weights, .conf = conf, .n_pieces = cut(plan, NULL) };
    r.failed = r.n_pieces;
    r.pieces = malloc(r.n_pieces * sizeof(*r.pieces) + 1);
    if (r.pieces == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for a list of %u pieces", src->path,
                        r.n_pieces);
    }
    cut(plan, r.pieces);
    for (size_t i = 0; i < plan->n; i++) {
        r.total += plan->items[i].bytes;
    }
    pthread_mutex_init(&r.lock, NULL);
    llm_code_t rc = fill(&r, plan, src, err);
    pthread_mutex_destroy(&r.lock);
    free(r.pieces);
    if (rc == LLM_OK && conf->progress != NULL) {
        conf->progress(conf->progress_ctx, r.total, r.total);
    }
    return rc;
}

/* Matrices and vectors get their places in the mapping. */
static void
point(llm_model_t *m, const llm_plan_t *plan)
{
    const uint8_t *weights = m->weights;
    for (size_t i = 0; i < plan->n; i++) {
        const llm_item_t *item = &plan->items[i];
        if (item->mat != NULL) {
            item->mat->data = weights + item->off;
        } else {
            *item->vec = (const float *) (weights + item->off);
        }
    }
    if (m->head.n_parts == 1 && m->head.part[0].data == NULL) {
        m->head.part[0] = m->embed;     /* tied */
    }
}

llm_code_t
llm_repack(llm_model_t *m, const llm_plan_t *plan, const llm_src_t *src,
           const llm_model_conf_t *conf, llm_err_t *err)
{
    /* plan->bytes <= SIZE_MAX / 2; the last ones do not fill a huge page and get small ones */
    size_t page = (size_t) sysconf(_SC_PAGESIZE),
           size = (plan->bytes + page - 1) / page * page;
    m->weights_bytes = size;
    if (llm_store_map(m, plan, conf)) {
        point(m, plan);
        return LLM_OK;
    }
    m->weights = llm_store_alloc(size);
    if (m->weights == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for %zu bytes of weights: %s", src->path,
                        size, strerror(errno));
    }
    llm_code_t rc = pack(m, plan, src, conf, err);
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
    point(m, plan);
    return LLM_OK;
}
