/*
 * watch.c - trial and comparison behind the number of threads.
 */
#include "base/watch.h"

#include <stddef.h>
#include <string.h>

#define MS          1000000ull
#define WINDOW_NS   (4.0 * 1e6) /* watched time before a decision: some time slices */
#define WASTE       1.2         /* an even share of the work may take this much longer */
#define GAIN        0.97        /* fewer threads must be this much faster */
#define REST_MIN    (50 * MS)
#define REST_MAX    (800 * MS)
#define EXPLORE_MIN (100 * MS)
#define EXPLORE_MAX (3200 * MS)

void
llm_watch_init(llm_watch_t *w, uint32_t n_threads)
{
    memset(w, 0, sizeof(*w));
    w->n_threads = n_threads;
    w->rest = REST_MIN;
    w->explore = EXPLORE_MIN;
}

/* The record of a kind of job; a full table forgets the one in its place. */
static llm_watch_kind_t *
find(llm_watch_t *w, uintptr_t fn, uint32_t n_chunks)
{
    uint32_t h = (uint32_t) (((uint64_t) fn >> 4 ^ (uint64_t) n_chunks << 20)
                             * 0x9e3779b97f4a7c15u >> 32);
    llm_watch_kind_t *k = NULL;

    for (uint32_t i = 0; i < LLM_WATCH_KINDS; i++) {
        k = &w->kind[(h + i) % LLM_WATCH_KINDS];
        if (k->fn == fn && k->n_chunks == n_chunks) {
            return k;
        }
        if (k->fn == 0) {
            break;
        }
    }
    memset(k, 0, sizeof(*k));
    k->fn = fn;
    k->n_chunks = n_chunks;
    return k;
}

/* Ends a window at the present level: its means are kept. */
static void
close_window(llm_watch_t *w)
{
    for (uint32_t i = 0; i < LLM_WATCH_KINDS; i++) {
        llm_watch_kind_t *k = &w->kind[i];
        if (k->n_jobs != 0) {
            double now = k->spent / k->n_jobs, *mean = &k->mean[w->level];
            *mean = *mean == 0 ? now : 0.5 * *mean + 0.5 * now;
        }
        k->n_jobs = 0;
        k->spent = k->alone = 0;
    }
    w->spent = 0;
}

static void
enter(llm_watch_t *w, uint32_t level, uint64_t until)
{
    w->level = level;
    w->until = until;
}

/* At the end of a window: whether to let one more helper rest. */
static void
decide(llm_watch_t *w, uint64_t now)
{
    uint32_t n = w->n_threads - w->level;
    double spent = 0, alone = 0, fewer = 0;
    uint32_t unknown = 0;

    for (uint32_t i = 0; i < LLM_WATCH_KINDS; i++) {
        const llm_watch_kind_t *k = &w->kind[i];
        if (k->n_jobs == 0) {
            continue;
        }
        double mean = w->level + 1 < LLM_WATCH_LEVELS ? k->mean[w->level + 1] : 0;
        spent += k->spent;
        alone += k->alone;
        fewer += mean * k->n_jobs;
        unknown += mean == 0;
    }
    close_window(w);
    if (n == 1 || w->level + 1 >= LLM_WATCH_LEVELS || spent <= WASTE * alone / n) {
        if (w->level == 0) {
            w->rest = REST_MIN;     /* the threads have their cores */
            w->explore = EXPLORE_MIN;
        }
        return;
    }
    if (unknown == 0 && fewer < GAIN * spent) {
        enter(w, w->level + 1, now + w->rest);
        w->rest = w->rest * 2 < REST_MAX ? w->rest * 2 : REST_MAX;
    } else if (now >= w->explore_at) {
        enter(w, w->level + 1, now + REST_MIN);
        w->explore_at = now + w->explore;
        w->explore = w->explore * 2 < EXPLORE_MAX ? w->explore * 2 : EXPLORE_MAX;
    }
}

uint32_t
llm_watch_note(llm_watch_t *w, const llm_watch_job_t *job, uint64_t now)
{
    if (job->n_own != 0) {
        llm_watch_kind_t *k = find(w, job->fn, job->n_chunks);
        k->n_jobs++;
        k->spent += (double) job->spent_ns;
        k->alone += (double) job->own_ns * job->n_chunks / job->n_own;
        w->spent += (double) job->spent_ns;
    }
    if (w->until != 0 && now >= w->until) {
        close_window(w);
        enter(w, 0, 0);
    } else if (w->spent >= WINDOW_NS) {
        decide(w, now);
    }
    return w->n_threads - w->level;
}
