/*
 * vocab.c - the containers of a tokenizer: string tables, string hash, merge table, byte trie.
 *
 * Hashes are seeded per process, so that a crafted vocabulary cannot make loading quadratic.
 */
#include "text/tok_impl.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* ---------------------------------------------------------------- strings */

bool
llm_strs_init(llm_strs_t *s, uint32_t cap)
{
    memset(s, 0, sizeof(*s));
    s->at = calloc((size_t) cap + 1, sizeof(*s->at));
    return s->at != NULL;
}

bool
llm_strs_add(llm_strs_t *s, uint32_t cap, const void *data, size_t len)
{
    size_t used = s->at[s->n];
    if (s->n >= cap || len > UINT32_MAX - used) {
        return false;
    }
    if (used + len > s->cap_blob || s->blob == NULL) {
        size_t want = used + len + used / 2 + 64;
        uint8_t *blob = realloc(s->blob, want);
        if (blob == NULL) {
            return false;
        }
        s->blob = blob;
        s->cap_blob = want;
    }
    if (len > 0) {
        memcpy(s->blob + used, data, len);
    }
    s->at[++s->n] = (uint32_t) (used + len);
    return true;
}

void
llm_strs_fit(llm_strs_t *s)
{
    uint8_t *blob = realloc(s->blob, (size_t) s->at[s->n] + 1);
    if (blob != NULL) {
        s->blob = blob;
        s->cap_blob = (size_t) s->at[s->n] + 1;
    }
}

void
llm_strs_free(llm_strs_t *s)
{
    free(s->at);
    free(s->blob);
    memset(s, 0, sizeof(*s));
}

/* ------------------------------------------------------------------- hash */

uint64_t
llm_hash_seed(void)
{
    uint64_t seed;
    if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) != (ssize_t) sizeof(seed)) {
        struct timespec ts;
        clock_gettime(CLOCK_MONOTONIC, &ts);
        seed = (uint64_t) ts.tv_nsec * 0x9e3779b97f4a7c15u ^ (uint64_t) (uintptr_t) &seed;
    }
    return seed;
}

static inline uint64_t
mix(uint64_t a, uint64_t b)
{
    __uint128_t m = (__uint128_t) a * b;
    return (uint64_t) m ^ (uint64_t) (m >> 64);
}

uint64_t
llm_hash_bytes(uint64_t seed, const uint8_t *s, size_t n)
{
    uint64_t h = seed ^ n * 0x9e3779b97f4a7c15u, w;
    while (n > 8) {
        memcpy(&w, s, 8);
        h = mix(h ^ w, 0xa0761d6478bd642fu);
        s += 8;
        n -= 8;
    }
    /* the last 1 to 8 bytes in one word; two overlapping halves cover 4 to 8 without a loop */
    if (n >= 4) {
        uint32_t lo, hi;
        memcpy(&lo, s, 4);
        memcpy(&hi, s + n - 4, 4);
        w = (uint64_t) hi << 32 | lo;
    } else if (n > 0) {
        w = (uint64_t) s[0] << 16 | (uint64_t) s[n / 2] << 8 | s[n - 1];
    } else {
        w = 0;
    }
    return mix(h ^ w, 0xe7037ed1a0b428dbu);
}

/* A power of two that keeps n entries at most half full. */
static uint32_t
table_size(uint64_t n)
{
    uint64_t size = 16;
    while (size < n * 2) {
        size *= 2;
    }
    return size <= 1u << 31 ? (uint32_t) size : 0;
}

bool
llm_shash_init(llm_shash_t *h, uint32_t n)
{
    uint32_t size = table_size(n);
    h->slot = size != 0 ? calloc(size, sizeof(*h->slot)) : NULL;
    h->mask = size - 1;
    return h->slot != NULL;
}

void
llm_shash_put(llm_shash_t *h, uint64_t seed, const llm_strs_t *strs, uint32_t id)
{
    size_t n, m;
    const uint8_t *s = llm_strs_get(strs, id, &n);
    uint64_t hash = llm_hash_bytes(seed, s, n);
    uint64_t entry = (hash & 0xffffffff00000000u) | (id + 1);
    uint32_t i = (uint32_t) hash & h->mask;
    for (; h->slot[i] != 0; i = (i + 1) & h->mask) {
        if ((h->slot[i] ^ hash) >> 32 == 0) {
            const uint8_t *o = llm_strs_get(strs, (uint32_t) h->slot[i] - 1, &m);
            if (m == n && memcmp(o, s, n) == 0) {
                break;
            }
        }
    }
    h->slot[i] = entry;
}

int32_t
llm_shash_get(const llm_shash_t *h, uint64_t hash, const llm_strs_t *strs, const uint8_t *s,
              size_t n)
{
    for (uint32_t i = (uint32_t) hash & h->mask; h->slot[i] != 0; i = (i + 1) & h->mask) {
        if ((h->slot[i] ^ hash) >> 32 == 0) {
            size_t m;
            const uint8_t *o = llm_strs_get(strs, (uint32_t) h->slot[i] - 1, &m);
            if (m == n && memcmp(o, s, n) == 0) {
                return (int32_t) ((uint32_t) h->slot[i] - 1);
            }
        }
    }
    return -1;
}

/* ----------------------------------------------------------------- merges */

bool
llm_pairs_init(llm_pairs_t *p, uint32_t n, uint64_t seed)
{
    uint32_t size = table_size(n);
    p->slot = size != 0 ? malloc((size_t) size * sizeof(*p->slot)) : NULL;
    if (p->slot == NULL) {
        return false;
    }
    memset(p->slot, 0xff, (size_t) size * sizeof(*p->slot));
    p->mask = size - 1;
    p->n = 0;
    p->shift = 64 - (unsigned) __builtin_ctz(size);
    p->k = (seed ^ 0x9e3779b97f4a7c15u) | 1;
    return true;
}

bool
llm_pairs_put(llm_pairs_t *p, llm_merge_t m)
{
    uint32_t i = (uint32_t) ((((uint64_t) m.a << 32 | m.b) * p->k) >> p->shift);
    for (; p->slot[i].a != UINT32_MAX; i = (i + 1) & p->mask) {
        if (p->slot[i].a == m.a && p->slot[i].b == m.b) {
            return false;
        }
    }
    p->slot[i] = m;
    p->n++;
    return true;
}

/* ------------------------------------------------------------------- trie */

bool
llm_trie_init(llm_trie_t *t, size_t n_bytes, uint64_t seed)
{
    memset(t, 0, sizeof(*t));
    if (n_bytes > LLM_TRIE_MAX_BYTES) {
        return false;       /* node numbers share a word with a byte */
    }
    uint32_t size = table_size(n_bytes + 1);
    t->edge = calloc(size, sizeof(*t->edge));
    t->id = malloc((n_bytes + 1) * sizeof(*t->id));
    if (t->edge == NULL || t->id == NULL) {
        llm_trie_free(t);
        return false;
    }
    t->mask = size - 1;
    t->shift = 32 - (unsigned) __builtin_ctz(size);
    t->k = (uint32_t) seed | 1;
    t->id[0] = -1;
    t->n_nodes = 1;
    return true;
}

void
llm_trie_put(llm_trie_t *t, const uint8_t *s, size_t n, int32_t id)
{
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t next = llm_trie_step(t, node, s[i]);
        if (next == 0) {
            next = t->n_nodes++;
            t->id[next] = -1;
            uint32_t key = node << 8 | s[i];
            uint32_t j = (key * t->k) >> t->shift;
            while (t->edge[j].node != 0) {
                j = (j + 1) & t->mask;
            }
            t->edge[j].key = key;
            t->edge[j].node = next;
        }
        node = next;
    }
    t->id[node] = id;
    t->first[s[0]] = 1;
}

void
llm_trie_free(llm_trie_t *t)
{
    free(t->edge);
    free(t->id);
    memset(t, 0, sizeof(*t));
}
