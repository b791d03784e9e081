/*
 * pool.c - a fork-join pool whose threads claim chunks from ranges, and sleep on futexes.
 *
 * Owns: the helper threads. Does not own: what a chunk does.
 *
 * The chunks of a job are cut into a range for each thread, which takes its own from the front: one
 * after the other, so that what it reads is one stream of memory. Then it takes from the back of
 * the others' ranges. A range is one atomic word, and claiming is one compare-and-swap on it. Only
 * then fn and ctx are read: the job of a claimed chunk is not over, so they are its own, and a
 * helper that was delayed since an earlier job does no harm.
 * A helper adds the chunks it ran to `done` once, when none are left; the caller returns at done ==
 * n_chunks. It never waits for a helper that has claimed nothing.
 *
 * A helper that shares its core with another busy program is preempted now and then with a chunk in
 * its hands, and everybody waits for a whole time slice. So the caller watches what its helpers are
 * worth (watch): where one fewer would have been about as fast, the last one rests for a while,
 * which also leaves a core to that program; then all are tried again.
 *
 * Sleeping, both ways: announce (n_asleep, caller_asleep), look again, futex-wait on the value
 * seen. The other side changes the value, then looks at the announcement. Both sides are
 * sequentially consistent, so one of them sees the other.
 */
#define _GNU_SOURCE
#include "base/pool.h"
#include "base/clock.h"
#include "base/thread.h"
#include "base/watch.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SPIN_NS         40000       /* a decode step starts about 150 jobs, less than this apart */
#define MAX_THREADS     1024
#define STACK_BYTES     (1024 * 1024)
#define WATCH_EVERY     4           /* jobs: reading the clock for all of them would cost 0.4 % */

typedef struct {
    llm_pool_t *pool;
    pthread_t   thread;
    uint32_t    index;
} helper_t;

/* Chunks next .. end - 1 of a job, unclaimed. */
typedef struct {
    _Alignas(64) _Atomic uint64_t left;     /* end << 32 | next */
} range_t;

struct llm_pool {
    _Alignas(64) _Atomic(llm_pool_fn) fn;
    _Atomic(void *)       ctx;

    _Alignas(64) _Atomic uint32_t done;     /* futex of the caller */
    _Atomic uint32_t      caller_asleep;

    /* futex of the helpers: the number of the job, published after its ranges */
    _Alignas(64) _Atomic uint32_t wake;
    _Atomic uint32_t      n_asleep;
    _Atomic bool          stop;

    /* futex of resting helpers: how many threads take part, the caller counted */
    _Alignas(64) _Atomic uint32_t n_active;

    _Alignas(64) uint32_t n_threads;
    uint32_t              n_jobs;           /* the caller's own count */
    llm_watch_t           watch;
    bool                  background;
    helper_t             *helpers;          /* [n_threads - 1] */
    range_t              *ranges;           /* [n_threads] */
};

static void
futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void
futex_wake(_Atomic uint32_t *word, uint32_t n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static inline void
relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* True when *word differs from `seen` before the spin time is over. */
static bool
spin_until_changed(_Atomic uint32_t *word, uint32_t seen)
{
    uint64_t end = llm_now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < 64; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != seen) {
                return true;
            }
            relax();
        }
    } while (llm_now_ns() < end);
    return false;
}

/* Takes the first chunk of a range, or its last. */
static bool
claim(range_t *r, bool first, uint32_t *i_chunk)
{
    uint64_t w = atomic_load_explicit(&r->left, memory_order_acquire);
    uint32_t next, end;

    do {
        next = (uint32_t) w;
        end = (uint32_t) (w >> 32);
        if (next >= end) {
            return false;
        }
    } while (!atomic_compare_exchange_weak_explicit(
        &r->left, &w, first ? w + 1 : w - ((uint64_t) 1 << 32), memory_order_acq_rel,
        memory_order_acquire));
    *i_chunk = first ? next : end - 1;
    return true;
}

/* Runs chunks of the current job until none are left; returns how many. */
static uint32_t
run_chunks(llm_pool_t *p, uint32_t i_thread)
{
    uint32_t n_run = 0, i_chunk;

    for (uint32_t k = 0; k < p->n_threads; k++) {
        range_t *r = &p->ranges[(i_thread + k) % p->n_threads];
        while (claim(r, k == 0, &i_chunk)) {
            llm_pool_fn fn = atomic_load_explicit(&p->fn, memory_order_relaxed);
            void *ctx = atomic_load_explicit(&p->ctx, memory_order_relaxed);
            fn(ctx, i_chunk, i_thread);
            n_run++;
        }
    }
    return n_run;
}

/* Sleeps while this helper is not wanted. */
static void
rest(llm_pool_t *p, uint32_t index)
{
    uint32_t n;
    while ((n = atomic_load(&p->n_active)) <= index && !atomic_load(&p->stop)) {
        futex_wait(&p->n_active, n);
    }
}

static void *
helper_main(void *arg)
{
    helper_t *h = arg;
    llm_pool_t *p = h->pool;
    uint32_t seen = 0;

    if (p->background) {
        llm_thread_compute();
    }
    (void) pthread_setname_np(pthread_self(), "llm-compute");
    for (;;) {
        rest(p, h->index);
        if (!spin_until_changed(&p->wake, seen)) {
            atomic_fetch_add(&p->n_asleep, 1);      /* pairs with the load in llm_pool_run */
            while (atomic_load(&p->wake) == seen) {
                futex_wait(&p->wake, seen);
            }
            atomic_fetch_sub(&p->n_asleep, 1);
        }
        seen = atomic_load_explicit(&p->wake, memory_order_acquire);
        if (atomic_load_explicit(&p->stop, memory_order_acquire)) {
            return NULL;
        }
        uint32_t n_run = run_chunks(p, h->index);
        if (n_run != 0) {
            /* publishes the results; nothing of this job is touched below */
            atomic_fetch_add(&p->done, n_run);
            if (atomic_load(&p->caller_asleep)) {
                futex_wake(&p->done, 1);
            }
        }
    }
}

static void
set_active(llm_pool_t *p, uint32_t n)
{
    atomic_store(&p->n_active, n);
    futex_wake(&p->n_active, p->n_threads);
}

static void
stop_helpers(llm_pool_t *p, uint32_t n_started)
{
    atomic_store(&p->stop, true);
    set_active(p, p->n_threads);
    atomic_fetch_add(&p->wake, 1);
    futex_wake(&p->wake, n_started);
    for (uint32_t i = 0; i < n_started; i++) {
        pthread_join(p->helpers[i].thread, NULL);
    }
}

/* Starts the helpers with all signals blocked, so that none is ever delivered to them. */
static llm_code_t
start_helpers(llm_pool_t *p, llm_err_t *err)
{
    pthread_attr_t attr;
    if (pthread_attr_init(&attr) != 0) {
        return llm_fail(err, LLM_E_NOMEM, "compute threads: no memory for thread attributes");
    }
    (void) pthread_attr_setstacksize(&attr, STACK_BYTES);

    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    uint32_t n = 0;
    int rc = 0;
    for (; n < p->n_threads - 1; n++) {
        p->helpers[n] = (helper_t) { .pool = p, .index = n + 1 };
        rc = pthread_create(&p->helpers[n].thread, &attr, helper_main, &p->helpers[n]);
        if (rc != 0) {
            break;
        }
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    if (rc != 0) {
        stop_helpers(p, n);
        return llm_fail(err, LLM_E_IO, "compute thread %u of %u could not be started: %s", n + 2,
                        p->n_threads, strerror(rc));
    }
    return LLM_OK;
}

llm_code_t
llm_pool_new(llm_pool_t **out, uint32_t n_threads, bool background, llm_err_t *err)
{
    *out = NULL;
    if (n_threads < 1 || n_threads > MAX_THREADS) {
        return llm_fail(err, LLM_E_ARG, "%u compute threads: allowed are 1 to %d", n_threads,
                        MAX_THREADS);
    }
    llm_pool_t *p = aligned_alloc(64, sizeof(*p));
    helper_t *helpers = calloc(n_threads, sizeof(*helpers));
    range_t *ranges = aligned_alloc(64, n_threads * sizeof(*ranges));
    if (p == NULL || helpers == NULL || ranges == NULL) {
        free(p);
        free(helpers);
        free(ranges);
        return llm_fail(err, LLM_E_NOMEM, "no memory for a pool of %u compute threads", n_threads);
    }
    memset(p, 0, sizeof(*p));
    p->n_threads = n_threads;
    p->background = background;
    p->helpers = helpers;
    p->ranges = ranges;
    memset(ranges, 0, n_threads * sizeof(*ranges));
    llm_watch_init(&p->watch, n_threads);
    atomic_store(&p->n_active, n_threads);

    llm_code_t rc = start_helpers(p, err);
    if (rc != LLM_OK) {
        free(helpers);
        free(ranges);
        free(p);
        return rc;
    }
    *out = p;
    return LLM_OK;
}

llm_code_t
llm_pool_short(llm_pool_t **out, llm_err_t *err)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
    uint32_t want = n < 1 ? 1 : (uint32_t) n < LLM_POOL_SHORT ? (uint32_t) n : LLM_POOL_SHORT;
    if (want > 1 && llm_pool_new(out, want, true, NULL) == LLM_OK) {
        return LLM_OK;
    }
    return llm_pool_new(out, 1, true, err);
}

void
llm_pool_free(llm_pool_t *p)
{
    if (p == NULL) {
        return;
    }
    stop_helpers(p, p->n_threads - 1);
    free(p->helpers);
    free(p->ranges);
    free(p);
}

uint32_t
llm_pool_size(const llm_pool_t *p)
{
    return p->n_threads;
}

static void
wait_done(llm_pool_t *p, uint32_t n_chunks)
{
    uint32_t seen;
    while ((seen = atomic_load_explicit(&p->done, memory_order_acquire)) != n_chunks) {
        if (spin_until_changed(&p->done, seen)) {
            continue;
        }
        atomic_store(&p->caller_asleep, 1);         /* pairs with the load in helper_main */
        while ((seen = atomic_load(&p->done)) != n_chunks) {
            futex_wait(&p->done, seen);
        }
        atomic_store_explicit(&p->caller_asleep, 0, memory_order_relaxed);
    }
}

/* Starts a job of more than one chunk and takes part in it; returns how many chunks it ran. */
static uint32_t
share(llm_pool_t *p, llm_pool_fn fn, void *ctx, uint32_t n_chunks)
{
    /* every chunk of the last job is done and counted: nobody reads these fields */
    atomic_store_explicit(&p->fn, fn, memory_order_relaxed);
    atomic_store_explicit(&p->ctx, ctx, memory_order_relaxed);
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    uint64_t n_ranges = atomic_load_explicit(&p->n_active, memory_order_relaxed);
    for (uint64_t k = 0; k < n_ranges; k++) {
        uint64_t next = k * n_chunks / n_ranges, end = (k + 1) * n_chunks / n_ranges;
        atomic_store_explicit(&p->ranges[k].left, end << 32 | next, memory_order_release);
    }
    atomic_fetch_add(&p->wake, 1);
    uint32_t asleep = atomic_load(&p->n_asleep);
    if (asleep != 0) {
        futex_wake(&p->wake, asleep < n_chunks - 1 ? asleep : n_chunks - 1);
    }
    uint32_t n_run = run_chunks(p, 0);
    atomic_fetch_add_explicit(&p->done, n_run, memory_order_acq_rel);
    return n_run;
}

void
llm_pool_run(llm_pool_t *p, llm_pool_fn fn, void *ctx, uint32_t n_chunks)
{
    if (p->n_threads == 1 || n_chunks <= 1) {
        for (uint32_t i = 0; i < n_chunks; i++) {
            fn(ctx, i, 0);
        }
        return;
    }
    p->n_jobs++;
    if (p->n_jobs % WATCH_EVERY != 0) {
        (void) share(p, fn, ctx, n_chunks);
        wait_done(p, n_chunks);
        return;
    }
    uint64_t start = llm_now_ns();
    uint32_t n_run = share(p, fn, ctx, n_chunks);
    uint64_t own = llm_now_ns();
    wait_done(p, n_chunks);
    uint64_t end = llm_now_ns();
    llm_watch_job_t job = { (uintptr_t) fn, n_chunks, n_run, own - start, end - start };
    uint32_t n = llm_watch_note(&p->watch, &job, end);
    if (n != atomic_load_explicit(&p->n_active, memory_order_relaxed)) {
        set_active(p, n);
    }
}
