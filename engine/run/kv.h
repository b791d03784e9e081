/*
 * kv.h - which KV page belongs to whom, and the cache of prefixes.
 *
 * Owns (leader-local, rebuilt from the shared records at every change of leader): reference counts,
 * the free list, the order of use and the hash index. Does not own the pages or the page tables
 * (slot.h).
 *
 * A page that is full is indexed by a keyed hash of all tokens up to its end; a later prompt with
 * the same beginning takes it instead of computing it. Pages that nobody refers to stay in the
 * cache until they are needed, least recently used first.
 */
#ifndef LLM_KV_H
#define LLM_KV_H

#include "slot.h"

typedef struct llm_kv llm_kv_t;

/* Reads the page tables of all RUNNING slots. Errors: NOMEM. Thread: the leader, as all below. */
llm_code_t llm_kv_new(llm_kv_t **out, llm_shared_t *shared, llm_err_t *err);
void llm_kv_free(llm_kv_t *kv);

/* Seed of a sequence's hash chain: sequences with different seeds never share pages. */
uint64_t llm_kv_seed(const llm_kv_t *kv, uint64_t salt);
/* Hash of a page whose predecessor has the hash parent, under a secret key. */
uint64_t llm_page_hash(const uint64_t key[2], uint64_t parent, const int32_t *tokens);
uint64_t llm_kv_hash(const llm_kv_t *kv, uint64_t parent, const int32_t *tokens);

/*
 * The slot's table has the pages of tokens[0 .. done), whole ones, whose hash is *chain (the seed:
 * none). Appends the cached pages that match on to tokens[0 .. n), whole ones only. Returns how
 * many tokens the table has then; *chain becomes the hash of the last page.
 */
uint32_t llm_kv_match(llm_kv_t *kv, llm_slot_t *slot, const int32_t *tokens, uint32_t done,
                      uint32_t n, uint64_t *chain);

/*
 * Appends a page to the slot's table, evicting from the cache when none is free. False: every page
 * is in use.
 */
bool llm_kv_grow(llm_kv_t *kv, llm_slot_t *slot);

/*
 * Page i of the slot has become full: index it under hash, unless that prefix is in the cache
 * already.
 */
void llm_kv_publish(llm_kv_t *kv, llm_slot_t *slot, uint32_t i, uint64_t parent, uint64_t hash,
                    const int32_t *tokens);

/* Gives all pages of the slot back; indexed ones stay in the cache. */
void llm_kv_release(llm_kv_t *kv, llm_slot_t *slot);

uint32_t llm_kv_n_free(const llm_kv_t *kv);
uint32_t llm_kv_n_cached(const llm_kv_t *kv);   /* in the cache and in use by nobody */

#endif
