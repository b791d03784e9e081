/*
 * zip.c - the directory of a zip file (see zip.h).
 *
 *   { local header, name, extra, bytes } ...
 *   { central header, name, extra, comment } ...         one for each entry
 *   [ zip64 end record, zip64 locator ]  end record, comment
 *
 * The central directory is believed, and each local header only asked where its bytes start.
 */
#include "model/zip.h"

#include <stdlib.h>
#include <string.h>

#define END_BYTES      22
#define LOCATOR_BYTES  20
#define END64_BYTES    56
#define CENTRAL_BYTES  46
#define LOCAL_BYTES    30
#define MAX_COMMENT    65535
#define SHOWN_NAME     63       /* bytes of a name in a message */

enum { SIG_LOCAL = 0x04034b50, SIG_CENTRAL = 0x02014b50, SIG_END = 0x06054b50,
       SIG_END64 = 0x06064b50, SIG_LOCATOR = 0x07064b50 };

typedef struct {
    llm_zip_t             *z;
    const llm_ckpt_file_t *f;
    uint64_t               n, dir_size, dir_start;
    llm_err_t             *err;
} reader_t;

/* Little-endian and unaligned, like everything in the file. */
static uint64_t
get(const uint8_t *p, int bytes)
{
    uint64_t v = 0;
    memcpy(&v, p, (size_t) bytes);
    return v;
}

static int
shown(size_t len)
{
    return (int) (len < SHOWN_NAME ? len : SHOWN_NAME);
}

/* ------------------------------------------------------------------ the end */

/* The zip64 end record that a locator in front of the end record (at `end`) points to, if any. */
static llm_code_t
read_end64(reader_t *r, uint64_t end)
{
    uint8_t b[END64_BYTES];
    if (end < LOCATOR_BYTES) {
        return LLM_OK;
    }
    llm_code_t rc = llm_ckpt_pread(r->f, b, LOCATOR_BYTES, end - LOCATOR_BYTES, r->err);
    if (rc != LLM_OK || get(b, 4) != SIG_LOCATOR) {
        return rc;
    }
    uint64_t at = get(b + 8, 8);
    if (at > end - LOCATOR_BYTES || end - LOCATOR_BYTES - at < END64_BYTES) {
        return llm_fail(r->err, LLM_E_FORMAT, "%s: zip64 end record at %llu exceeds the file",
                        r->f->path, (ull_t) at);
    }
    rc = llm_ckpt_pread(r->f, b, END64_BYTES, at, r->err);
    if (rc == LLM_OK && get(b, 4) != SIG_END64) {
        rc = llm_fail(r->err, LLM_E_FORMAT, "%s: no zip64 end record at %llu", r->f->path,
                      (ull_t) at);
    }
    r->n = get(b + 32, 8);
    r->dir_size = get(b + 40, 8);
    r->dir_start = get(b + 48, 8);
    return rc;
}

/* Where the directory is. */
static llm_code_t
read_end(reader_t *r)
{
    uint64_t size = r->f->size, tail = size < END_BYTES + MAX_COMMENT ? size
                                                                      : END_BYTES + MAX_COMMENT;
    uint8_t *b = malloc(tail + 1);
    if (b == NULL) {
        return llm_fail(r->err, LLM_E_NOMEM, "%s: no memory", r->f->path);
    }
    llm_code_t rc = llm_ckpt_pread(r->f, b, tail, size - tail, r->err);
    uint64_t at = tail;
    bool found = false;
    for (uint64_t i = tail; rc == LLM_OK && !found && i >= END_BYTES; i--) {
        at = i - END_BYTES;
        found = get(b + at, 4) == SIG_END && get(b + at + 20, 2) == tail - i;
    }
    if (rc == LLM_OK && !found) {
        rc = llm_fail(r->err, LLM_E_FORMAT, "%s: is no zip file (those of torch before 1.6 must be "
                      "saved again)", r->f->path);
    }
    if (rc == LLM_OK && get(b + at + 4, 4) != 0) {
        rc = llm_fail(r->err, LLM_E_UNSUPPORTED, "%s: zip file of several disks", r->f->path);
    }
    if (rc == LLM_OK) {
        r->n = get(b + at + 10, 2);
        r->dir_size = get(b + at + 12, 4);
        r->dir_start = get(b + at + 16, 4);
        rc = read_end64(r, size - tail + at);
    }
    uint64_t end = size - tail + at;
    free(b);
    if (rc != LLM_OK) {
        return rc;
    }
    if (r->dir_start > end || r->dir_size > end - r->dir_start) {
        return llm_fail(r->err, LLM_E_FORMAT, "%s: zip directory %llu+%llu exceeds the file",
                        r->f->path, (ull_t) r->dir_start, (ull_t) r->dir_size);
    }
    if (r->dir_size > LLM_ZIP_MAX_DIRECTORY || r->n > r->dir_size / CENTRAL_BYTES) {
        return llm_fail(r->err, LLM_E_FORMAT, "%s: zip directory of %llu entries in %llu bytes",
                        r->f->path, (ull_t) r->n, (ull_t) r->dir_size);
    }
    return LLM_OK;
}

/* ------------------------------------------------------------------ entries */

/* Sizes and offset that do not fit 32 bits stand in the extra field, in this order. */
static llm_code_t
read_zip64(reader_t *r, const llm_zip_entry_t *e, const uint8_t *extra, size_t len,
           uint64_t *const fields[3])
{
    size_t at = 0, n;
    while (len - at >= 4 && get(extra + at, 2) != 1) {
        n = (size_t) get(extra + at + 2, 2);
        if (n > len - at - 4) {
            break;
        }
        at += 4 + n;
    }
    n = len - at >= 4 ? (size_t) get(extra + at + 2, 2) : 0;
    bool there = len - at >= 4 && n <= len - at - 4;
    const uint8_t *p = extra + at + 4;
    for (int i = 0; i < 3; i++) {
        if (*fields[i] != UINT32_MAX) {
            continue;
        }
        if (!there || n < 8) {
            return llm_fail(r->err, LLM_E_FORMAT, "%s: zip entry \"%.*s\" lacks its 64-bit sizes",
                            r->f->path, shown(e->len), e->name);
        }
        *fields[i] = get(p, 8);
        p += 8;
        n -= 8;
    }
    return LLM_OK;
}

/* Where the bytes start. */
static llm_code_t
read_local(reader_t *r, llm_zip_entry_t *e)
{
    uint8_t b[LOCAL_BYTES];
    if (e->start > r->dir_start || r->dir_start - e->start < LOCAL_BYTES) {
        return llm_fail(r->err, LLM_E_FORMAT, "%s: zip entry \"%.*s\" at %llu exceeds the file",
                        r->f->path, shown(e->len), e->name, (ull_t) e->start);
    }
    llm_code_t rc = llm_ckpt_pread(r->f, b, LOCAL_BYTES, e->start, r->err);
    if (rc != LLM_OK) {
        return rc;
    }
    if (get(b, 4) != SIG_LOCAL || get(b + 26, 2) != e->len) {
        return llm_fail(r->err, LLM_E_FORMAT, "%s: zip entry \"%.*s\" has no header at %llu",
                        r->f->path, shown(e->len), e->name, (ull_t) e->start);
    }
    e->offset = e->start + LOCAL_BYTES + e->len + get(b + 28, 2);
    if (e->offset > r->dir_start || e->size > r->dir_start - e->offset) {
        return llm_fail(r->err, LLM_E_FORMAT, "%s: zip entry \"%.*s\": bytes %llu+%llu exceed the "
                        "file", r->f->path, shown(e->len), e->name, (ull_t) e->offset,
                        (ull_t) e->size);
    }
    return LLM_OK;
}

/* The entry at byte *at of the directory; *at moves to the next. */
static llm_code_t
read_entry(reader_t *r, llm_zip_entry_t *e, size_t *at)
{
    const uint8_t *b = r->z->dir + *at;
    size_t left = (size_t) r->dir_size - *at;
    if (left < CENTRAL_BYTES || get(b, 4) != SIG_CENTRAL) {
        return llm_fail(r->err, LLM_E_FORMAT, "%s: no zip entry at byte %zu of the directory",
                        r->f->path, *at);
    }
    size_t extra = (size_t) get(b + 30, 2), comment = (size_t) get(b + 32, 2);
    unsigned flags = (unsigned) get(b + 8, 2), method = (unsigned) get(b + 10, 2);
    uint64_t packed = get(b + 20, 4);
    *e = (llm_zip_entry_t) { (const char *) b + CENTRAL_BYTES, (size_t) get(b + 28, 2),
                             get(b + 42, 4), 0, get(b + 24, 4) };
    if (left - CENTRAL_BYTES < e->len + extra + comment) {
        return llm_fail(r->err, LLM_E_FORMAT, "%s: zip entry at byte %zu of the directory exceeds "
                        "it", r->f->path, *at);
    }
    uint64_t *const fields[3] = { &e->size, &packed, &e->start };
    llm_code_t rc = read_zip64(r, e, b + CENTRAL_BYTES + e->len, extra, fields);
    if (rc == LLM_OK && (method != 0 || (flags & 1) != 0)) {
        rc = llm_fail(r->err, LLM_E_UNSUPPORTED, "%s: zip entry \"%.*s\" is %s", r->f->path,
                      shown(e->len), e->name, method != 0 ? "compressed" : "encrypted");
    }
    if (rc == LLM_OK && packed != e->size) {
        rc = llm_fail(r->err, LLM_E_FORMAT, "%s: zip entry \"%.*s\" is stored in %llu bytes, but "
                      "has %llu", r->f->path, shown(e->len), e->name, (ull_t) packed,
                      (ull_t) e->size);
    }
    *at += CENTRAL_BYTES + e->len + extra + comment;
    return rc == LLM_OK ? read_local(r, e) : rc;
}

static int
compare_names(const char *a, size_t a_len, const char *b, size_t b_len)
{
    int c = memcmp(a, b, a_len < b_len ? a_len : b_len);
    return c != 0 ? c : (a_len > b_len) - (a_len < b_len);
}

static int
by_name(const void *a, const void *b)
{
    const llm_zip_entry_t *x = a, *y = b;
    return compare_names(x->name, x->len, y->name, y->len);
}

static int
by_start(const void *a, const void *b)
{
    const llm_zip_entry_t *x = a, *y = b;
    return (x->start > y->start) - (x->start < y->start);
}

static llm_code_t
check_entries(reader_t *r)
{
    llm_zip_entry_t *e = r->z->entries;
    if (r->z->n == 0) {
        return LLM_OK;
    }
    qsort(e, r->z->n, sizeof(*e), by_start);
    for (size_t i = 1; i < r->z->n; i++) {
        if (e[i].start < e[i - 1].offset + e[i - 1].size) {
            return llm_fail(r->err, LLM_E_FORMAT, "%s: zip entries \"%.*s\" and \"%.*s\" overlap",
                            r->f->path, shown(e[i - 1].len), e[i - 1].name, shown(e[i].len),
                            e[i].name);
        }
    }
    qsort(e, r->z->n, sizeof(*e), by_name);
    for (size_t i = 1; i < r->z->n; i++) {
        if (by_name(&e[i - 1], &e[i]) == 0) {
            return llm_fail(r->err, LLM_E_FORMAT, "%s: duplicate zip entry \"%.*s\"", r->f->path,
                            shown(e[i].len), e[i].name);
        }
    }
    return LLM_OK;
}

llm_code_t
llm_zip_read(llm_zip_t *z, const llm_ckpt_file_t *f, llm_err_t *err)
{
    reader_t r = { .z = z, .f = f, .err = err };
    *z = (llm_zip_t) { 0 };
    llm_code_t rc = read_end(&r);
    if (rc != LLM_OK) {
        return rc;
    }
    z->dir = malloc((size_t) r.dir_size + 8);
    z->entries = malloc(((size_t) r.n + 1) * sizeof(*z->entries));
    rc = z->dir == NULL || z->entries == NULL
         ? llm_fail(err, LLM_E_NOMEM, "%s: no memory for %llu zip entries", f->path, (ull_t) r.n)
         : llm_ckpt_pread(f, z->dir, (size_t) r.dir_size, r.dir_start, err);
    size_t at = 0;
    for (; rc == LLM_OK && z->n < r.n; z->n++) {
        rc = read_entry(&r, &z->entries[z->n], &at);
    }
    if (rc == LLM_OK) {
        rc = check_entries(&r);
    }
    if (rc != LLM_OK) {
        llm_zip_free(z);
    }
    return rc;
}

void
llm_zip_free(llm_zip_t *z)
{
    free(z->dir);
    free(z->entries);
    *z = (llm_zip_t) { 0 };
}

const llm_zip_entry_t *
llm_zip_find(const llm_zip_t *z, const char *name, size_t len)
{
    size_t lo = 0, hi = z->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int order = compare_names(z->entries[mid].name, z->entries[mid].len, name, len);
        if (order == 0) {
            return &z->entries[mid];
        }
        if (order < 0) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return NULL;
}
