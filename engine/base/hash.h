/*
 * hash.h - hashes against accidents, not against attackers: names of versions (FNV-1a) and a
 * checksum of much data.
 */
#ifndef LLM_HASH_H
#define LLM_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LLM_HASH_START 0xcbf29ce484222325u

/* FNV-1a, 64 bits, of n more bytes; the first call gets LLM_HASH_START. */
static inline uint64_t
llm_hash(uint64_t hash, const void *data, size_t n)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < n; i++) {
        hash = (hash ^ p[i]) * 0x100000001b3u;
    }
    return hash;
}

static inline uint64_t
llm_hash_u64(uint64_t hash, uint64_t value)
{
    return llm_hash(hash, &value, sizeof(value));
}

/*
 * Checksum of n bytes at about the speed of memory. Each of four lanes takes a word by a step that
 * can be undone, so data that differ in one word always differ in their checksum.
 */
static inline uint64_t
llm_checksum(uint64_t seed, const void *data, size_t n)
{
    const uint64_t odd = 0x9e3779b97f4a7c15u;
    const uint8_t *p = data;
    uint64_t lane[4] = { seed, seed ^ odd, seed + odd, ~seed };
    size_t i = 0;
    for (; n - i >= 32; i += 32) {
        for (unsigned k = 0; k < 4; k++) {
            uint64_t w;
            memcpy(&w, p + i + 8 * k, 8);
            w = (lane[k] ^ w) * odd;
            lane[k] = w ^ w >> 32;
        }
    }
    uint64_t h = llm_hash(n, p + i, n - i);
    for (unsigned k = 0; k < 4; k++) {
        h = (h ^ lane[k]) * odd;
        h ^= h >> 32;
    }
    return h;
}

#endif
