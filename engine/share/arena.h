/*
 * arena.h - the memory that all processes share, and one process's view of it.
 *
 * The arena is anonymous shared memory made before the workers are forked, so every process sees it
 * at the same address. It holds the worker records, the slots (run/slot.h), the page records, the
 * KV pages and the grammars of constrained outputs. Nothing in it is a pointer.
 */
#ifndef LLM_ARENA_H
#define LLM_ARENA_H

#include "base/clock.h"
#include "run/grammar.h"
#include "run/kv.h"
#include "run/sched.h"

#include <pthread.h>

#define LLM_KERN_NAME   16      /* bytes, the NUL counted */
#define LLM_MAX_WORKERS 64      /* live at once, all generations of a reload together */

/*
 * One process that submits jobs. The record is taken by locking `alive`, which its main thread then
 * holds for life: when the process dies, however it dies, the kernel marks the mutex and anybody
 * can tell.
 */
typedef struct {
    pthread_mutex_t  alive;             /* robust, process-shared */
    _Atomic uint32_t generation;        /* counts the lives of this record, from 1 */
    _Atomic int32_t  pid;               /* 0: nobody */
    _Atomic uint32_t draining;          /* leads only if nobody else can */
    int32_t          wake_fd;           /* eventfd, open in every process of the family */
} llm_worker_t;

typedef struct {
    llm_engine_conf_t conf;             /* without the pointer to the draft model */
    uint32_t          n_pages, n_table, top_stride, n_embd;
    size_t            slot_bytes, page_bytes, draft_off, bytes;
    size_t            slots_off, pages_off, kv_off, places_off, blocks_off;
    uint32_t          n_places;
    uint64_t          hash_key[2];
    /* the set of kernels of the last leader, whose results the pages have; "": none yet */
    char              kern[LLM_KERN_NAME];

    pthread_mutex_t   leader;           /* robust, process-shared: who holds it leads */
    _Atomic int32_t   leader_pid;
    _Atomic uint32_t  n_leaders;        /* futex: counts changes of leader */
    _Atomic uint32_t  doorbell;         /* futex: a job came, went, or a worker quits */
    _Atomic uint32_t  sleeping;         /* the leader waits at the doorbell */
    _Atomic uint64_t  alive_ns;         /* last sign of life of a leader */
    _Atomic uint64_t  n_takeovers;      /* from a leader that died */
    _Atomic uint64_t  ticket;
    llm_sched_stats_t stats;
    llm_worker_t      workers[LLM_MAX_WORKERS];
} llm_arena_t;

/* The constraints that a process compiled last (constraint.c). */
typedef struct llm_constraints llm_constraints_t;

struct llm_constraint {
    _Atomic uint32_t refs;              /* its users', and one of the cache that holds it */
    uint64_t         id[2], used;       /* used: the cache's clock at the last use */
    llm_grammar_t   *grammar;
    size_t           bytes;
};

struct llm_engine {
    llm_arena_t       *arena;
    llm_shared_t       sh;
    const llm_model_t *model, *draft;   /* draft: NULL when there is none */
    llm_gvocab_t      *gvocab;          /* made before the fork, only read afterwards */
    llm_constraints_t *constraints;     /* of this process */
    /* a thread that cannot be joined may still touch the arena */
    bool               stuck;

    /* of this process */
    bool               joined;
    uint32_t           worker, worker_generation;
    pthread_t          thread;
    _Atomic uint32_t   quit, draining;
    _Atomic uint32_t   phase;           /* of the engine thread, futex: LLM_LEAD_* */
};

enum { LLM_LEAD_NONE, LLM_LEAD_WAITING, LLM_LEAD_LEADING, LLM_LEAD_GONE };

/* Wakes the leader if it sleeps. Thread: any; never waits. */
void llm_arena_ring(llm_arena_t *a);

/*
 * Futexes on process-shared words; wait returns when the word changes, at a wake or after
 * timeout_ms.
 */
void llm_futex_wait(_Atomic uint32_t *word, uint32_t seen, uint32_t timeout_ms);
void llm_futex_wake(_Atomic uint32_t *word, int n);

/*
 * True while that life of a worker record goes on; a record whose owner died is made ready for the
 * next one.
 */
bool llm_worker_alive(llm_arena_t *a, uint32_t worker, uint32_t generation);

/* An empty cache. Errors: NOMEM. */
llm_code_t llm_constraints_new(llm_constraints_t **out, llm_err_t *err);
void llm_constraints_free(llm_constraints_t *c);

/*
 * Makes the slot, which this worker has claimed, name a place with the grammar of the constraint:
 * one that has it already, or one that nobody uses, into which it is copied (place.c). O(bytes of
 * the grammar), no lock. False: no place is free.   Thread: the worker's, as llm_job_submit.
 */
bool llm_place_use(llm_engine_t *e, llm_slot_t *slot, const llm_constraint_t *c);

#endif
