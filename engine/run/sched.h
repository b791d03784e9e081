/*
 * sched.h - continuous batching: which tokens of which sequences make the next step.
 *
 * The scheduler belongs to the leader and derives everything from the slot records (slot.h), so a
 * new leader makes its own. One step: take in cancelled and new jobs, choose tokens (first one for
 * every running sequence, then pieces of prompts in order of arrival under a time budget), run the
 * model, sample, publish.
 */
#ifndef LLM_SCHED_H
#define LLM_SCHED_H

#include "base/pool.h"
#include "kv.h"
#include "model/model.h"

typedef struct llm_sched llm_sched_t;

/* What the leader is told about the world outside the scheduler. */
typedef struct {
    void *ctx;
    /* True while that life of the worker record goes on. */
    bool (*owner_alive)(void *ctx, uint32_t worker, uint32_t generation);
    /* A job of this worker has made progress. */
    void (*wake)(void *ctx, uint32_t worker);
} llm_sched_host_t;

/* Counters in the arena; written by the leader only. */
typedef struct {
    _Atomic uint64_t n_steps, n_prefill_tokens, n_cached_tokens, n_decode_tokens, n_preemptions;
    _Atomic uint64_t n_kept[LLM_DRAFT_KINDS], n_dropped[LLM_DRAFT_KINDS];   /* drafts */
    _Atomic uint64_t prefill_ns, decode_ns;
    _Atomic uint32_t n_waiting, n_running, pages_free, pages_cached;
} llm_sched_stats_t;

/*
 * draft: a model that drafts, or NULL; conf: the engine's settings, read here only. Errors: NOMEM.
 * Thread: the leader, as all below.
 */
llm_code_t llm_sched_new(llm_sched_t **out, const llm_model_t *m, const llm_model_t *draft,
                         llm_pool_t *pool, llm_shared_t *shared, const llm_engine_conf_t *conf,
                         const llm_sched_host_t *host, llm_sched_stats_t *stats, llm_err_t *err);
void llm_sched_free(llm_sched_t *s);

/* One step. False: there was nothing to do. No allocation. */
bool llm_sched_step(llm_sched_t *s);

/* Most prompt tokens in one step, beside one token of every running sequence. */
#define LLM_SCHED_PIECE 512

#endif
