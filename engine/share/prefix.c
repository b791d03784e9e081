/*
 * prefix.c - the prefix cache in a file between two lives of an engine.
 *
 * The file (kv-KEY.llm, base/keep.h) has a header, a table with what is known of each page, and the
 * pages, the last used first:
 *
 *     0            header_t
 *     TABLE_OFF    record_t [n_pages]
 *     data_off     keys and values as in the arena, page_bytes a page
 *
 * KEY stands for the weights, the version, what the kernels compute (LLM_KERN_REVISION) and the
 * form of a page; that the same set of kernels computes is seen by the leader (lead.c). Nothing is
 * believed: the header has a checksum, the hash of a record is computed again from the key of the
 * hash, which is secret and kept with it, and a page has a checksum, which its record's hash
 * enters. A page that is not sound is left out; those behind it are never found then, and go as the
 * least recently used ones do.
 */
#include "arena.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/keep.h"
#include "base/pool.h"
#include "tensor/kern.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAGIC       0x3130564b4d4c4c4cu
#define TABLE_OFF   4096u

typedef struct {
    uint64_t magic, key;
    uint64_t hash_key[2];
    char     kern[LLM_KERN_NAME];   /* the set of kernels that computed the pages */
    uint64_t n_pages, page_bytes, data_off;
    uint64_t checksum;              /* of the fields above */
} header_t;

typedef struct {
    uint64_t hash, parent;
    uint64_t checksum;              /* of the page */
    int32_t  tokens[LLM_KV_PAGE];
    uint32_t drafted, reserved;
} record_t;

/* 0: the weights have no name. */
static uint64_t
key_of(const llm_engine_t *e)
{
    const llm_arena_t *a = e->arena;
    const uint64_t facts[] = {
        e->model->key, e->draft != NULL ? e->draft->key : 0, a->conf.kv_type, a->page_bytes,
        a->draft_off, LLM_KV_PAGE, sizeof(record_t), LLM_KERN_REVISION,
    };
    if (e->model->key == 0 || (e->draft != NULL && e->draft->key == 0)) {
        return 0;
    }
    return llm_hash(llm_hash(LLM_HASH_START, LLM_VERSION, sizeof(LLM_VERSION)), facts,
                    sizeof(facts));
}

static uint64_t
data_off(uint64_t n_pages)
{
    return (TABLE_OFF + n_pages * sizeof(record_t) + 4095) / 4096 * 4096;
}

static uint64_t
header_checksum(const header_t *h)
{
    return llm_hash(LLM_HASH_START, h, offsetof(header_t, checksum));
}

static uint8_t *
page_data(const llm_engine_t *e, uint32_t page)
{
    return e->sh.kv + (size_t) page * e->sh.page_bytes;
}

/* The path of the file, in fresh memory. Errors: ARG, NOMEM. */
static llm_code_t
path_of(const llm_engine_t *e, const char *cache_dir, char **path, llm_err_t *err)
{
    uint64_t key = key_of(e);
    *path = NULL;
    if (key == 0) {
        return llm_fail(err, LLM_E_ARG, "%s: the model's files changed while it was opened",
                        e->model->info.name);
    }
    *path = llm_keep_path(cache_dir, "kv", key);
    return *path != NULL ? LLM_OK : llm_fail(err, LLM_E_NOMEM, "%s: no memory", cache_dir);
}

/* -------------------------------------------------------------------- writing */

typedef struct { uint64_t used; uint32_t page; } aged_t;

static int
newest_first(const void *a, const void *b)
{
    const aged_t *x = a, *y = b;
    return (x->used < y->used) - (x->used > y->used);
}

/* The pages of the cache in the order of the file. */
static uint32_t
list_pages(const llm_engine_t *e, aged_t *out)
{
    uint32_t n = 0;
    for (uint32_t p = 0; p < e->sh.n_pages; p++) {
        if (atomic_load_explicit(&e->sh.pages[p].hash, memory_order_acquire) != 0) {
            out[n++] = (aged_t) { atomic_load(&e->sh.pages[p].used), p };
        }
    }
    qsort(out, n, sizeof(*out), newest_first);
    return n;
}

static void
fill_record(const llm_engine_t *e, uint32_t p, record_t *r)
{
    const llm_page_t *page = &e->sh.pages[p];
    *r = (record_t) {
        .hash = atomic_load(&page->hash),
        .parent = page->parent,
        .drafted = atomic_load(&page->drafted),
    };
    memcpy(r->tokens, page->tokens, sizeof(r->tokens));
    r->checksum = llm_checksum(r->hash, page_data(e, p), e->sh.page_bytes);
}

static llm_code_t
write_pages(const llm_engine_t *e, const aged_t *pages, uint32_t n, record_t *table, llm_keep_t *k,
            llm_err_t *err)
{
    header_t h = {
        .magic = MAGIC, .key = key_of(e), .hash_key = { e->sh.hash_key[0], e->sh.hash_key[1] },
        .n_pages = n, .page_bytes = e->sh.page_bytes, .data_off = data_off(n),
    };
    memcpy(h.kern, e->arena->kern, sizeof(h.kern));
    h.checksum = header_checksum(&h);
    llm_code_t rc = llm_keep_write(k, &h, sizeof(h), 0, err);
    for (uint32_t i = 0; i < n && rc == LLM_OK; i++) {
        fill_record(e, pages[i].page, &table[i]);
        rc = llm_keep_write(k, page_data(e, pages[i].page), e->sh.page_bytes,
                            h.data_off + (uint64_t) i * e->sh.page_bytes, err);
    }
    return rc == LLM_OK ? llm_keep_write(k, table, n * sizeof(*table), TABLE_OFF, err) : rc;
}

llm_code_t
llm_engine_keep(const llm_engine_t *e, const char *cache_dir, size_t max_bytes, llm_kept_t *out,
                llm_err_t *err)
{
    llm_keep_t k;
    char *path;
    *out = (llm_kept_t) { 0 };
    llm_code_t rc = path_of(e, cache_dir, &path, err);
    if (rc != LLM_OK) {
        return rc;
    }
    aged_t *pages = malloc(e->sh.n_pages * sizeof(*pages) + 1);
    uint32_t n = pages != NULL ? list_pages(e, pages) : 0;
    n = max_bytes / e->sh.page_bytes < n ? (uint32_t) (max_bytes / e->sh.page_bytes) : n;
    record_t *table = malloc(n * sizeof(*table) + 1);
    if (pages == NULL || table == NULL) {
        rc = llm_fail(err, LLM_E_NOMEM, "%s: no memory", path);
    } else if (n > 0) {
        rc = llm_keep_begin(&k, path, data_off(n) + n * (uint64_t) e->sh.page_bytes, err);
        if (rc == LLM_OK) {
            rc = write_pages(e, pages, n, table, &k, err);
            rc = llm_keep_end(&k, rc, err);
        }
    }
    if (rc == LLM_OK) {
        out->n_pages = n;
        llm_keep_prune(cache_dir);
    }
    free(table);
    free(pages);
    free(path);
    return rc;
}

/* -------------------------------------------------------------------- reading */

typedef struct {
    llm_engine_t     *e;
    int               fd;
    const char       *path;
    const header_t   *h;
    const record_t   *table;
    uint32_t          n;            /* pages that are taken */
    _Atomic uint32_t  n_damaged;
} load_t;

/* Chunk i: page i of the file becomes page i of the arena. */
static void
load_page(void *ctx, uint32_t i, uint32_t thread)
{
    load_t *l = ctx;
    const record_t *r = &l->table[i];
    llm_page_t *page = &l->e->sh.pages[i];
    uint8_t *data = page_data(l->e, i);
    uint64_t at = l->h->data_off + (uint64_t) i * l->h->page_bytes;

    (void) thread;
    if (r->hash == 0 || llm_page_hash(l->h->hash_key, r->parent, r->tokens) != r->hash
        || llm_file_pread(l->fd, l->path, data, l->e->sh.page_bytes, at, NULL) != LLM_OK
        || llm_checksum(r->hash, data, l->e->sh.page_bytes) != r->checksum)
    {
        atomic_fetch_add(&l->n_damaged, 1);
        return;
    }
    page->parent = r->parent;
    memcpy(page->tokens, r->tokens, sizeof(page->tokens));
    atomic_store(&page->used, l->n - i);
    atomic_store(&page->drafted, r->drafted != 0);
    atomic_store_explicit(&page->hash, r->hash, memory_order_release);
}

/* The sizes in the header are those of the file. */
static llm_code_t
check_header(const llm_engine_t *e, const header_t *h, uint64_t size, const char *path,
             llm_err_t *err)
{
    if (h->magic != MAGIC || h->checksum != header_checksum(h) || h->key != key_of(e)) {
        return llm_fail(err, LLM_E_FORMAT, "%s: its header is damaged or another one", path);
    }
    if (h->page_bytes != e->sh.page_bytes || h->n_pages > UINT32_MAX - 1
        || h->n_pages > size / h->page_bytes || h->data_off != data_off(h->n_pages)
        || size != h->data_off + h->n_pages * h->page_bytes
        || memchr(h->kern, '\0', sizeof(h->kern)) == NULL)
    {
        return llm_fail(err, LLM_E_FORMAT, "%s: it has %llu bytes, which are not %llu pages of "
                        "%zu bytes", path, (unsigned long long) size,
                        (unsigned long long) h->n_pages, e->sh.page_bytes);
    }
    return LLM_OK;
}

/* Reads the table and then pages, each by a thread. */
static llm_code_t
load_pages(load_t *l, llm_err_t *err)
{
    llm_pool_t *pool = NULL;
    record_t *table = malloc(l->n * sizeof(*table) + 1);
    if (table == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for %u pages", l->path, l->n);
    }
    llm_code_t rc = llm_file_pread(l->fd, l->path, table, l->n * sizeof(*table), TABLE_OFF, err);
    if (rc == LLM_OK) {
        rc = llm_pool_short(&pool, err);
    }
    if (rc == LLM_OK) {
        l->table = table;
        memcpy(l->e->arena->kern, l->h->kern, sizeof(l->h->kern));
        memcpy(l->e->arena->hash_key, l->h->hash_key, sizeof(l->h->hash_key));
        memcpy(l->e->sh.hash_key, l->h->hash_key, sizeof(l->h->hash_key));
        llm_pool_run(pool, load_page, l, l->n);
    }
    llm_pool_free(pool);
    free(table);
    return rc;
}

llm_code_t
llm_engine_restore(llm_engine_t *e, const char *cache_dir, llm_kept_t *out, llm_err_t *err)
{
    header_t h;
    load_t l = { .e = e, .h = &h };
    char *path;
    uint64_t size;
    *out = (llm_kept_t) { 0 };
    llm_code_t rc = path_of(e, cache_dir, &path, err);
    if (rc != LLM_OK) {
        return rc;
    }
    if (access(path, F_OK) != 0) {
        free(path);
        return LLM_OK;
    }
    rc = llm_file_open(&l.fd, &size, path, err);
    if (rc == LLM_OK) {
        rc = llm_file_pread(l.fd, path, &h, sizeof(h), 0, err);
        if (rc == LLM_OK) {
            rc = check_header(e, &h, size, path, err);
        }
        if (rc == LLM_OK) {
            l.path = path;
            l.n = h.n_pages < e->sh.n_pages ? (uint32_t) h.n_pages : e->sh.n_pages;
            rc = load_pages(&l, err);
        }
        close(l.fd);
    }
    if (rc == LLM_OK) {
        out->n_damaged = atomic_load(&l.n_damaged);
        out->n_pages = l.n - out->n_damaged;
    }
    free(path);
    return rc;
}
