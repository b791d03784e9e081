/*
 * pool.h - compute threads that share work in chunks.
 *
 * One caller (the leader's engine thread) and n-1 helpers. A job is a function over chunks
 * 0..n_chunks-1. Thread t of T begins with chunk t * n_chunks / T and goes on from there; when its
 * share is done it takes chunks from the ends of the others'. So a thread that loses its core
 * delays the chunk it holds and nothing else. Idle helpers spin briefly, then sleep on a futex.
 */
#ifndef LLM_POOL_H
#define LLM_POOL_H

#include "llm.h"

typedef struct llm_pool llm_pool_t;

/*
 * i_thread < llm_pool_size; 0 is the caller. Chunks must not depend on each other or on who runs
 * them.
 */
typedef void (*llm_pool_fn)(void *ctx, uint32_t i_chunk, uint32_t i_thread);

/*
 * n_threads >= 1 counts the caller; helpers block all signals and step back behind event loops
 * (llm_thread_compute) when background is set.
 * Errors: NOMEM, IO (a thread could not be started).
 */
llm_code_t llm_pool_new(llm_pool_t **out, uint32_t n_threads, bool background, llm_err_t *err);
/*
 * A pool for one large job of a process that has no compute threads: one thread for each processor
 * that the caller may use, at most LLM_POOL_SHORT, in the background; the caller alone where no
 * threads can be had. Errors: NOMEM.
 */
#define LLM_POOL_SHORT 16u
llm_code_t llm_pool_short(llm_pool_t **out, llm_err_t *err);
void llm_pool_free(llm_pool_t *p);
uint32_t llm_pool_size(const llm_pool_t *p);

/*
 * Runs fn over all chunks and returns when every one is done. Thread: the caller only. No
 * allocation.
 */
void llm_pool_run(llm_pool_t *p, llm_pool_fn fn, void *ctx, uint32_t n_chunks);

#endif
