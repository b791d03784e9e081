/*
 * store.c - packed weights in memory and in a file (store.h).
 */
#define _GNU_SOURCE     /* MAP_ANONYMOUS, madvise */

#include "model/store.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/keep.h"
#include "tensor/quantize.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAGIC      0x31305754474d4c4cu      /* "LLMGTW01" where bytes are in our order */
#define PROBE_COLS 512                      /* two groups of blocks of any layout */

typedef struct {
    uint64_t magic, key, offset, bytes;
    uint64_t checksum;                      /* of the fields above */
} header_t;

/* -------------------------------------------------------------------- memory */

/* Address space for size bytes from a huge page on, without memory; NULL on failure. */
static uint8_t *
reserve(size_t size)
{
    uint8_t *p = mmap(NULL, size + LLM_HUGE_PAGE, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        return NULL;
    }
    size_t head = (LLM_HUGE_PAGE - (uintptr_t) p % LLM_HUGE_PAGE) % LLM_HUGE_PAGE;
    if (head > 0) {
        munmap(p, head);
    }
    munmap(p + head + size, LLM_HUGE_PAGE - head);
    return p + head;
}

/* Maps memory or, where fd is not -1, a file's bytes from LLM_HUGE_PAGE on. */
static void *
map(size_t size, int prot, int flags, int fd)
{
    uint8_t *at = reserve(size);
    if (at == NULL) {
        return NULL;
    }
    off_t off = fd >= 0 ? (off_t) LLM_HUGE_PAGE : 0;
    if (mmap(at, size, prot, flags | MAP_FIXED, fd, off) == MAP_FAILED) {
        int why = errno;
        munmap(at, size);
        errno = why;
        return NULL;
    }
    madvise(at, size, MADV_HUGEPAGE);
    madvise(at, size, MADV_DONTDUMP);
    return at;
}

void *
llm_store_alloc(size_t size)
{
    return map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

/* ----------------------------------------------------------------------- key */

static uint64_t
mix_item(uint64_t h, const llm_item_t *item)
{
    const llm_mat_t *mat = item->mat;
    const uint64_t facts[] = {
        item->off, item->bytes, item->n_segs, mat != NULL ? mat->type : LLM_T_COUNT,
        mat != NULL ? mat->layout : 0, mat != NULL ? mat->rows : 0, mat != NULL ? mat->cols : 0,
        mat != NULL ? mat->tile_bytes : 0, item->order.qkv, item->order.n_heads,
        item->order.n_kv_heads, item->order.head_dim,
    };
    h = llm_hash(llm_hash(h, facts, sizeof(facts)), &item->plus, sizeof(item->plus));
    for (uint32_t i = 0; i < item->n_segs; i++) {
        const llm_seg_t *seg = &item->seg[i];
        const uint64_t of_seg[] = {
            seg->t.name.len, seg->t.type, seg->t.size, seg->t.transposed, seg->row0, seg->rows,
        };
        h = llm_hash(llm_hash(h, of_seg, sizeof(of_seg)), seg->t.name.data, seg->t.name.len);
    }
    return h;
}

/* What packing makes of a tile of arbitrary bytes. */
static bool
mix_packed(uint64_t *h, uint32_t type)
{
    llm_mat_t mat;
    const llm_format_t *f = llm_format(type);
    if (llm_mat_init(&mat, type, LLM_TILE, PROBE_COLS, NULL) != LLM_OK) {
        return false;
    }
    size_t row = (size_t) PROBE_COLS / f->block * f->bytes;
    uint8_t *in = malloc(row + LLM_TILE), *out = aligned_alloc(64, mat.tile_bytes);
    const void *rows[LLM_TILE];
    bool good = in != NULL && out != NULL;
    if (good) {
        for (size_t i = 0; i < row + LLM_TILE; i++) {
            in[i] = (uint8_t) (i * i * 0x9e3779b1u >> 13);
        }
        for (uint32_t r = 0; r < LLM_TILE; r++) {
            rows[r] = r == 5 ? NULL : in + r;       /* rows of zeros are packed, too */
        }
        llm_mat_pack_tile(&mat, out, rows);
        *h = llm_hash(*h, out, mat.tile_bytes);
    }
    free(in);
    free(out);
    return good;
}

/* What rounding makes of some numbers. */
static bool
mix_rounded(uint64_t *h, uint32_t type)
{
    const llm_format_t *f = llm_format(type);
    float in[PROBE_COLS];
    uint8_t out[PROBE_COLS * sizeof(float)];
    for (uint32_t i = 0; i < PROBE_COLS; i++) {
        in[i] = (float) (int32_t) (i * i * 0x9e3779b1u) * 0x1p-33f;
    }
    if (!llm_quantize(type, out, in, PROBE_COLS)) {
        return false;
    }
    *h = llm_hash(*h, out, (size_t) PROBE_COLS / f->block * f->bytes);
    return true;
}

/* 0: the files changed while they were read, or no memory. */
static uint64_t
key_of(uint64_t stamp, const llm_plan_t *plan, const llm_model_conf_t *conf)
{
    uint64_t now, h = llm_hash(LLM_HASH_START, LLM_VERSION, sizeof(LLM_VERSION));
    bool packed[LLM_T_COUNT] = { false }, rounded[LLM_T_COUNT] = { false };
    if (llm_model_stamp(conf->weights, &now, NULL) != LLM_OK || now != stamp) {
        return 0;
    }
    h = llm_hash_u64(llm_hash_u64(h, stamp), plan->n);
    for (size_t i = 0; i < plan->n; i++) {
        const llm_item_t *item = &plan->items[i];
        h = mix_item(h, item);
        if (item->mat == NULL) {
            continue;
        }
        uint32_t type = item->mat->type;
        if (!packed[type] && !mix_packed(&h, type)) {
            return 0;
        }
        packed[type] = true;
        if (item->seg[0].t.type != type && !rounded[type]) {
            if (!mix_rounded(&h, type)) {
                return 0;
            }
            rounded[type] = true;
        }
    }
    return h;
}

void
llm_store_stamp(llm_model_t *m, const llm_model_conf_t *conf)
{
    if (conf->check_only || llm_model_stamp(conf->weights, &m->key, NULL) != LLM_OK) {
        m->key = 0;
    }
}

/* ---------------------------------------------------------------------- file */

static header_t
header_of(const llm_model_t *m)
{
    header_t h = {
        .magic = MAGIC, .key = m->key, .offset = LLM_HUGE_PAGE, .bytes = m->weights_bytes,
    };
    h.checksum = llm_hash(LLM_HASH_START, &h, offsetof(header_t, checksum));
    return h;
}

/* Maps an open file that is exactly what it must be. */
static llm_code_t
map_file(llm_model_t *m, int fd, uint64_t size, const char *path, llm_err_t *err)
{
    header_t want = header_of(m), got;
    if (size != LLM_HUGE_PAGE + m->weights_bytes) {
        return llm_fail(err, LLM_E_FORMAT, "%s: it has %llu bytes, not %zu", path,
                        (unsigned long long) size, LLM_HUGE_PAGE + m->weights_bytes);
    }
    llm_code_t rc = llm_file_pread(fd, path, &got, sizeof(got), 0, err);
    if (rc != LLM_OK) {
        return rc;
    }
    if (memcmp(&got, &want, sizeof(got)) != 0) {
        return llm_fail(err, LLM_E_FORMAT, "%s: its header is another one", path);
    }
    m->weights = map(m->weights_bytes, PROT_READ, MAP_SHARED, fd);
    if (m->weights == NULL) {
        return llm_fail(err, LLM_E_IO, "%s: cannot be mapped: %s", path, strerror(errno));
    }
    llm_keep_touch(fd);
    return LLM_OK;
}

bool
llm_store_map(llm_model_t *m, const llm_plan_t *plan, const llm_model_conf_t *conf)
{
    m->key = m->key != 0 ? key_of(m->key, plan, conf) : 0;
    if (m->key == 0 || conf->cache_dir == NULL) {
        return false;
    }
    char *path = llm_keep_path(conf->cache_dir, "weights", m->key);
    llm_err_t err;
    uint64_t size;
    int fd = -1;
    if (path != NULL && access(path, F_OK) == 0) {
        llm_code_t rc = llm_file_open(&fd, &size, path, &err);
        if (rc == LLM_OK) {
            rc = map_file(m, fd, size, path, &err);
            close(fd);
        }
        if (rc != LLM_OK && conf->unused != NULL) {
            conf->unused(conf->progress_ctx, err.msg);
        }
    }
    free(path);
    m->info.mapped = m->weights != NULL;
    return m->info.mapped;
}

llm_code_t
llm_model_keep(const llm_model_t *m, const char *cache_dir, llm_err_t *err)
{
    header_t header = header_of(m);
    llm_keep_t k;
    if (m->key == 0) {
        return llm_fail(err, LLM_E_ARG, "%s: the model's files have changed", m->info.name);
    }
    char *path = llm_keep_path(cache_dir, "weights", m->key);
    llm_code_t rc = path == NULL
                    ? llm_fail(err, LLM_E_NOMEM, "%s: no memory", cache_dir)
                    : llm_keep_begin(&k, path, LLM_HUGE_PAGE + m->weights_bytes, err);
    if (rc == LLM_OK) {
        rc = llm_keep_write(&k, &header, sizeof(header), 0, err);
        if (rc == LLM_OK) {
            rc = llm_keep_write(&k, m->weights, m->weights_bytes, LLM_HUGE_PAGE, err);
        }
        rc = llm_keep_end(&k, rc, err);
    }
    if (rc == LLM_OK) {
        llm_keep_prune(cache_dir);
    }
    free(path);
    return rc;
}
