/*
 * kv.c - reference counts, free list, order of use and prefix index of the KV pages (kv.h).
 *
 * Invariants: refs[p] is the number of slot tables that hold p. A page with refs 0 is either on the
 * free list (hash 0) or in the use-ordered list (hash != 0). The index maps a hash to at most one
 * page, whatever its refs.
 */
#include "kv.h"

#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX

struct llm_kv {
    llm_shared_t *s;
    uint64_t      clock;        /* counts uses of pages */
    uint32_t     *refs;         /* [n_pages] */
    /* [n_pages + 1] use-ordered ring of unused cached pages; n_pages is its head */
    uint32_t     *prev, *next;
    uint32_t     *free_list, n_free, n_cached;
    uint32_t     *index;        /* open addressing, index_mask + 1 entries: page or NONE */
    uint32_t      index_mask;
};

/* ------------------------------------------------------------------- hashing */

static inline uint64_t
rotl(uint64_t x, int b)
{
    return x << b | x >> (64 - b);
}

static inline void
sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotl(v[1], 13) ^ v[0];
    v[0] = rotl(v[0], 32);
    v[2] += v[3];
    v[3] = rotl(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotl(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotl(v[1], 17) ^ v[2];
    v[2] = rotl(v[2], 32);
}

/* SipHash-2-4 (Aumasson and Bernstein, 2012) over whole 64-bit words; never 0. */
static uint64_t
sip(const uint64_t key[2], uint64_t first, const void *words, size_t n)
{
    uint64_t v[4] = { key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d,
                      key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573 };
    for (size_t i = 0; i <= n + 1; i++) {
        uint64_t w = first;
        if (i == n + 1) {
            w = (uint64_t) (n + 1) << 59;
        } else if (i > 0) {
            memcpy(&w, (const uint8_t *) words + (i - 1) * 8, 8);
        }
        v[3] ^= w;
        sip_round(v);
        sip_round(v);
        v[0] ^= w;
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i++) {
        sip_round(v);
    }
    uint64_t h = v[0] ^ v[1] ^ v[2] ^ v[3];
    return h ? h : 1;
}

uint64_t
llm_kv_seed(const llm_kv_t *kv, uint64_t salt)
{
    return sip(kv->s->hash_key, salt, NULL, 0);
}

uint64_t
llm_page_hash(const uint64_t key[2], uint64_t parent, const int32_t *tokens)
{
    _Static_assert(sizeof(int32_t) * LLM_KV_PAGE % 8 == 0, "a page's tokens are whole words");
    return sip(key, parent, tokens, sizeof(int32_t) * LLM_KV_PAGE / 8);
}

uint64_t
llm_kv_hash(const llm_kv_t *kv, uint64_t parent, const int32_t *tokens)
{
    return llm_page_hash(kv->s->hash_key, parent, tokens);
}

/* --------------------------------------------------------------------- index */

static uint64_t
page_hash(const llm_kv_t *kv, uint32_t page)
{
    return atomic_load_explicit(&kv->s->pages[page].hash, memory_order_relaxed);
}

static uint32_t
index_find(const llm_kv_t *kv, uint64_t hash)
{
    for (uint32_t i = hash & kv->index_mask; kv->index[i] != NONE; i = (i + 1) & kv->index_mask) {
        if (page_hash(kv, kv->index[i]) == hash) {
            return kv->index[i];
        }
    }
    return NONE;
}

static void
index_add(llm_kv_t *kv, uint64_t hash, uint32_t page)
{
    uint32_t i = hash & kv->index_mask;
    while (kv->index[i] != NONE) {
        i = (i + 1) & kv->index_mask;
    }
    kv->index[i] = page;
}

/*
 * Removes page and closes the gap, so that no probe chain is cut. The page's hash must still be
 * set.
 */
static void
index_remove(llm_kv_t *kv, uint32_t page)
{
    uint32_t i = page_hash(kv, page) & kv->index_mask;
    while (kv->index[i] != page) {
        if (kv->index[i] == NONE) {
            return;
        }
        i = (i + 1) & kv->index_mask;
    }
    for (uint32_t j = (i + 1) & kv->index_mask; kv->index[j] != NONE;
         j = (j + 1) & kv->index_mask) {
        uint32_t home = page_hash(kv, kv->index[j]) & kv->index_mask;
        if (((j - home) & kv->index_mask) >= ((j - i) & kv->index_mask)) {
            kv->index[i] = kv->index[j];
            i = j;
        }
    }
    kv->index[i] = NONE;
}

/* -------------------------------------------------------------------- lists */

static void
list_unlink(llm_kv_t *kv, uint32_t p)
{
    kv->next[kv->prev[p]] = kv->next[p];
    kv->prev[kv->next[p]] = kv->prev[p];
    kv->n_cached--;
}

/* Newest end. */
static void
list_append(llm_kv_t *kv, uint32_t p)
{
    uint32_t head = kv->s->n_pages;
    kv->prev[p] = kv->prev[head];
    kv->next[p] = head;
    kv->next[kv->prev[head]] = p;
    kv->prev[head] = p;
    kv->n_cached++;
}

static void
touch(llm_kv_t *kv, uint32_t p)
{
    atomic_store_explicit(&kv->s->pages[p].used, ++kv->clock, memory_order_relaxed);
}

static void
ref(llm_kv_t *kv, uint32_t p)
{
    if (kv->refs[p]++ == 0) {
        list_unlink(kv, p);
    }
}

static void
unref(llm_kv_t *kv, uint32_t p)
{
    if (--kv->refs[p] > 0) {
        return;
    }
    if (page_hash(kv, p) != 0) {
        list_append(kv, p);
    } else {
        kv->free_list[kv->n_free++] = p;
    }
}

/* A page that nobody uses, taken out of the cache if need be; NONE when all are in use. */
static uint32_t
take(llm_kv_t *kv)
{
    if (kv->n_free > 0) {
        return kv->free_list[--kv->n_free];
    }
    uint32_t p = kv->next[kv->s->n_pages];
    if (p == kv->s->n_pages) {
        return NONE;
    }
    list_unlink(kv, p);
    index_remove(kv, p);
    atomic_store_explicit(&kv->s->pages[p].hash, 0, memory_order_release);
    return p;
}

/* -------------------------------------------------------------------- public */

static void
table_append(llm_kv_t *kv, llm_slot_t *slot, uint32_t page)
{
    uint32_t n = atomic_load_explicit(&slot->n_pages, memory_order_relaxed);
    llm_slot_table(kv->s, slot)[n] = page;
    atomic_store_explicit(&slot->n_pages, n + 1, memory_order_release);
}

uint32_t
llm_kv_match(llm_kv_t *kv, llm_slot_t *slot, const int32_t *tokens, uint32_t done, uint32_t n,
             uint64_t *chain)
{
    for (; n - done >= LLM_KV_PAGE; done += LLM_KV_PAGE) {
        uint64_t h = llm_kv_hash(kv, *chain, tokens + done);
        uint32_t p = index_find(kv, h);
        if (p == NONE || kv->s->pages[p].parent != *chain
            || memcmp(kv->s->pages[p].tokens, tokens + done, sizeof(kv->s->pages[p].tokens)) != 0)
        {
            break;
        }
        ref(kv, p);
        touch(kv, p);
        table_append(kv, slot, p);
        *chain = h;
    }
    return done;
}

bool
llm_kv_grow(llm_kv_t *kv, llm_slot_t *slot)
{
    uint32_t p = take(kv);
    if (p == NONE) {
        return false;
    }
    kv->refs[p] = 1;
    atomic_store_explicit(&kv->s->pages[p].drafted, 0, memory_order_relaxed);
    table_append(kv, slot, p);
    return true;
}

void
llm_kv_publish(llm_kv_t *kv, llm_slot_t *slot, uint32_t i, uint64_t parent, uint64_t hash,
               const int32_t *tokens)
{
    uint32_t p = llm_slot_table(kv->s, slot)[i];
    llm_page_t *page = &kv->s->pages[p];
    if (page_hash(kv, p) != 0 || index_find(kv, hash) != NONE) {
        return;
    }
    page->parent = parent;
    memcpy(page->tokens, tokens, sizeof(page->tokens));
    touch(kv, p);
    atomic_store_explicit(&page->hash, hash, memory_order_release);
    index_add(kv, hash, p);
}

void
llm_kv_release(llm_kv_t *kv, llm_slot_t *slot)
{
    uint32_t n = atomic_load_explicit(&slot->n_pages, memory_order_relaxed);
    const uint32_t *table = llm_slot_table(kv->s, slot);

    atomic_store_explicit(&slot->n_pages, 0, memory_order_release);
    /* last page first: the end of a prefix is of less use than its beginning and goes first */
    for (uint32_t i = n; i-- > 0;) {
        touch(kv, table[i]);
        unref(kv, table[i]);
    }
}

uint32_t
llm_kv_n_free(const llm_kv_t *kv)
{
    return kv->n_free;
}

uint32_t
llm_kv_n_cached(const llm_kv_t *kv)
{
    return kv->n_cached;
}

typedef struct { uint64_t used; uint32_t page; } aged_t;

static int
by_age(const void *a, const void *b)
{
    const aged_t *x = a, *y = b;
    return x->used != y->used ? (x->used < y->used ? -1 : 1)
                              : (x->page > y->page) - (x->page < y->page);
}

/* What the records say: tables give reference counts, hashes give the cache. */
static llm_code_t
rebuild(llm_kv_t *kv, llm_err_t *err)
{
    llm_shared_t *s = kv->s;
    aged_t *aged = malloc(s->n_pages * sizeof(*aged));
    uint32_t n_aged = 0;

    if (aged == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "index of %u pages: out of memory", s->n_pages);
    }
    for (uint32_t i = 0; i < s->n_slots; i++) {
        llm_slot_t *slot = llm_slot(s, i);
        uint32_t n = atomic_load_explicit(&slot->n_pages, memory_order_acquire);
        for (uint32_t j = 0; j < n; j++) {
            kv->refs[llm_slot_table(s, slot)[j]]++;
        }
    }
    for (uint32_t p = s->n_pages; p-- > 0;) {
        uint64_t h = page_hash(kv, p),
                 used = atomic_load_explicit(&s->pages[p].used, memory_order_relaxed);
        kv->clock = used > kv->clock ? used : kv->clock;
        if (h != 0 && index_find(kv, h) != NONE) {
            atomic_store_explicit(&s->pages[p].hash, 0, memory_order_relaxed);
            h = 0;
        }
        if (h != 0) {
            index_add(kv, h, p);
        }
        if (kv->refs[p] == 0) {
            if (h != 0) {
                aged[n_aged++] = (aged_t) { used, p };
            } else {
                kv->free_list[kv->n_free++] = p;
            }
        }
    }
    qsort(aged, n_aged, sizeof(*aged), by_age);
    for (uint32_t i = 0; i < n_aged; i++) {
        list_append(kv, aged[i].page);
    }
    free(aged);
    return LLM_OK;
}

llm_code_t
llm_kv_new(llm_kv_t **out, llm_shared_t *shared, llm_err_t *err)
{
    uint32_t n = shared->n_pages, size = 4;
    *out = NULL;
    while (size < 2 * n) {
        size *= 2;
    }

    llm_kv_t *kv = calloc(1, sizeof(*kv));
    if (kv != NULL) {
        kv->s = shared;
        kv->index_mask = size - 1;
        kv->refs = calloc(n, sizeof(uint32_t));
        kv->prev = calloc((size_t) n + 1, sizeof(uint32_t));
        kv->next = calloc((size_t) n + 1, sizeof(uint32_t));
        kv->free_list = calloc(n, sizeof(uint32_t));
        kv->index = malloc(size * sizeof(uint32_t));
    }
    if (kv == NULL || kv->refs == NULL || kv->prev == NULL || kv->next == NULL
        || kv->free_list == NULL || kv->index == NULL) {
        llm_kv_free(kv);
        return llm_fail(err, LLM_E_NOMEM, "index of %u pages: out of memory", n);
    }
    memset(kv->index, 0xff, size * sizeof(uint32_t));
    kv->prev[n] = kv->next[n] = n;

    llm_code_t rc = rebuild(kv, err);
    if (rc != LLM_OK) {
        llm_kv_free(kv);
        return rc;
    }
    *out = kv;
    return LLM_OK;
}

void
llm_kv_free(llm_kv_t *kv)
{
    if (kv == NULL) {
        return;
    }
    free(kv->refs);
    free(kv->prev);
    free(kv->next);
    free(kv->free_list);
    free(kv->index);
    free(kv);
}
