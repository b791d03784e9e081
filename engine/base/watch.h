/*
 * watch.h - how many threads a pool should use beside other busy programs.
 *
 * A thread that shares its core is preempted now and then with a chunk in its hands, and the whole
 * pool waits for a time slice. Then one thread fewer is faster, and leaves a core to the other
 * program. Whether that is so cannot be computed: what a thread adds depends on the memory as well.
 * So it is tried: where the threads' time is badly used, one helper rests for a while, the times of
 * equal jobs are compared, and the better number is kept; all threads are tried again regularly.
 *
 * Arithmetic only: no threads, no clock. Results of jobs never depend on it.
 */
#ifndef LLM_WATCH_H
#define LLM_WATCH_H

#include <stdint.h>

#define LLM_WATCH_LEVELS 4      /* at most 3 helpers rest */
#define LLM_WATCH_KINDS  32     /* kinds of jobs that are told apart */

typedef struct {
    uintptr_t fn;               /* 0: unused */
    uint32_t  n_chunks;
    uint32_t  n_jobs;           /* in this window */
    double    spent;            /* ns, in this window */
    double    alone;            /* ns that the caller would have needed alone, estimated */
    double    mean[LLM_WATCH_LEVELS];   /* ns of a job; 0: not known */
} llm_watch_kind_t;

typedef struct {
    uint32_t n_threads, level;  /* level: how many helpers rest */
    uint64_t until;             /* ns: the rest ends */
    uint64_t rest, explore;     /* ns: next rest; pause before the next trial */
    uint64_t explore_at;        /* ns: earliest next trial */
    double   spent;             /* ns, all kinds of this window */
    llm_watch_kind_t kind[LLM_WATCH_KINDS];
} llm_watch_t;

/* One job as the caller saw it: ns from its start to its own last chunk, and to the end of all. */
typedef struct {
    uintptr_t fn;
    uint32_t  n_chunks, n_own;  /* chunks; of these run by the caller */
    uint64_t  own_ns, spent_ns;
} llm_watch_job_t;

void llm_watch_init(llm_watch_t *w, uint32_t n_threads);

/*
 * Takes note of a job that ended at `now`. Returns how many threads, the caller counted, the next
 * jobs shall use: 1 .. n_threads.
 */
uint32_t llm_watch_note(llm_watch_t *w, const llm_watch_job_t *job, uint64_t now);

#endif
