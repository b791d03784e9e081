/*
 * lead.c - workers, and which of them leads.
 *
 * Every worker has an engine thread that waits for one robust mutex in the arena. Who holds it is
 * the leader: it builds a scheduler from the shared records, starts the compute threads and steps
 * until it is told to quit. When a leader dies the kernel hands the mutex to the next thread
 * (EOWNERDEAD); nothing needs repair, because what a leader keeps for itself is derived from the
 * records (run/slot.h).
 *
 * The engine thread must not touch anything of the program around it. It is never cancelled: a
 * worker that leaves waits for it only while it leads.
 */
#include "arena.h"
#include "base/thread.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define IDLE_MS   500       /* sign of life and look for dead workers while there is no work */
#define RETRY_MS  1000      /* after a failure to get memory for leading */
#define DRAIN_MS  200       /* how long a draining leader gives others to take over */
#define LEAVE_MS  50        /* between two looks at what the thread of a leaving worker does */

typedef struct {
    llm_engine_t *e;
    bool          woken[LLM_MAX_WORKERS];
} host_t;

static bool
host_owner_alive(void *ctx, uint32_t worker, uint32_t generation)
{
    host_t *h = ctx;
    return llm_worker_alive(h->e->arena, worker, generation);
}

static void
host_wake(void *ctx, uint32_t worker)
{
    host_t *h = ctx;
    if (worker < LLM_MAX_WORKERS) {
        h->woken[worker] = true;
    }
}

static void
flush_wakes(host_t *h)
{
    for (uint32_t i = 0; i < LLM_MAX_WORKERS; i++) {
        if (h->woken[i]) {
            uint64_t one = 1;
            h->woken[i] = false;
            /* EAGAIN means that 2^64-2 wake-ups are pending: the worker will see them */
            ssize_t n = write(h->e->arena->workers[i].wake_fd, &one, sizeof(one));
            (void) n;
        }
    }
}

/* True when another live worker could lead instead of this draining one. */
static bool
others_can_lead(llm_engine_t *e)
{
    llm_arena_t *a = e->arena;
    for (uint32_t i = 0; i < LLM_MAX_WORKERS; i++) {
        llm_worker_t *w = &a->workers[i];
        if (i != e->worker && atomic_load(&w->pid) != 0 && !atomic_load(&w->draining)
            && llm_worker_alive(a, i, atomic_load(&w->generation)))
        {
            return true;
        }
    }
    return false;
}

/* Steps until told to quit, or until a draining leader has a successor. */
static void
lead(llm_engine_t *e, llm_sched_t *sched, host_t *h)
{
    llm_arena_t *a = e->arena;

    while (!atomic_load(&e->quit) && !(atomic_load(&e->draining) && others_can_lead(e))) {
        uint32_t seen = atomic_load(&a->doorbell);
        atomic_store_explicit(&a->alive_ns, llm_now_ns(), memory_order_relaxed);

        bool busy = llm_sched_step(sched);
        flush_wakes(h);
        if (!busy) {
            atomic_store(&a->sleeping, 1);
            llm_futex_wait(&a->doorbell, seen, IDLE_MS);
            atomic_store(&a->sleeping, 0);
        }
    }
}

/*
 * Pages of the prefix cache that other kernels computed are not quite what these would compute:
 * they leave the cache. The name comes last: a leader that dies before leaves this to the next one.
 */
static void
adopt_pages(llm_engine_t *e)
{
    llm_arena_t *a = e->arena;
    const char *kern = llm_kern()->name;
    if (strncmp(a->kern, kern, sizeof(a->kern)) == 0) {
        return;
    }
    for (uint32_t i = 0; i < e->sh.n_pages; i++) {
        atomic_store_explicit(&e->sh.pages[i].hash, 0, memory_order_release);
    }
    strncpy(a->kern, kern, sizeof(a->kern) - 1);
}

/* A leader's term; the mutex is held. False: it could not begin (no memory). */
static bool
term(llm_engine_t *e)
{
    llm_arena_t *a = e->arena;
    host_t host = { .e = e };
    llm_sched_host_t sched_host = { &host, host_owner_alive, host_wake };
    llm_pool_t *pool = NULL;
    llm_sched_t *sched = NULL;

    adopt_pages(e);
    llm_code_t rc = llm_pool_new(&pool, a->conf.n_threads, true, NULL);
    if (rc == LLM_OK) {
        rc = llm_sched_new(&sched, e->model, e->draft, pool, &e->sh, &a->conf, &sched_host,
                           &a->stats, NULL);
    }
    if (rc == LLM_OK) {
        atomic_store(&a->leader_pid, getpid());
        atomic_fetch_add(&a->n_leaders, 1);
        llm_futex_wake(&a->n_leaders, INT32_MAX);

        lead(e, sched, &host);

        atomic_store(&a->leader_pid, 0);
    }
    llm_sched_free(sched);
    llm_pool_free(pool);
    return rc == LLM_OK;
}

static void
set_phase(llm_engine_t *e, uint32_t phase)
{
    atomic_store(&e->phase, phase);
    llm_futex_wake(&e->phase, 1);
}

static void *
engine_thread(void *arg)
{
    llm_engine_t *e = arg;
    llm_arena_t *a = e->arena;

    llm_thread_compute();       /* created by an event loop */

    while (!atomic_load(&e->quit)) {
        int rc = pthread_mutex_lock(&a->leader);
        if (rc == EOWNERDEAD) {
            pthread_mutex_consistent(&a->leader);
            atomic_fetch_add(&a->n_takeovers, 1);
        } else if (rc != 0) {
            break;
        }
        set_phase(e, LLM_LEAD_LEADING);
        atomic_store(&a->sleeping, 0);

        uint32_t leaders = atomic_load(&a->n_leaders);
        bool led = true, yield = atomic_load(&e->draining) && others_can_lead(e);
        if (!atomic_load(&e->quit) && !yield) {
            led = term(e);
            leaders = atomic_load(&a->n_leaders);
        }
        set_phase(e, LLM_LEAD_WAITING);
        pthread_mutex_unlock(&a->leader);

        /* the mutex is not fair: stand back until somebody else leads, or could have */
        if (!led || atomic_load(&e->draining)) {
            llm_futex_wait(&a->n_leaders, leaders, led ? DRAIN_MS : RETRY_MS);
        }
    }
    set_phase(e, LLM_LEAD_GONE);
    return NULL;
}

/* ------------------------------------------------------------------- workers */

/* A record that nobody holds becomes this process's. */
static llm_code_t
claim_record(llm_engine_t *e, llm_err_t *err)
{
    llm_arena_t *a = e->arena;
    for (uint32_t i = 0; i < LLM_MAX_WORKERS; i++) {
        llm_worker_t *w = &a->workers[i];
        int rc = pthread_mutex_trylock(&w->alive);
        if (rc == EOWNERDEAD) {
            rc = pthread_mutex_consistent(&w->alive);
        }
        if (rc != 0) {
            continue;
        }
        e->worker = i;
        e->worker_generation = atomic_fetch_add(&w->generation, 1) + 1;
        atomic_store(&w->draining, 0);
        atomic_store(&w->pid, getpid());
        uint64_t stale;
        ssize_t n = read(w->wake_fd, &stale, sizeof(stale));    /* of the owner before */
        (void) n;
        return LLM_OK;
    }
    return llm_fail(err, LLM_E_BUSY, "%u processes use this model already", LLM_MAX_WORKERS);
}

llm_code_t
llm_engine_join(llm_engine_t *e, int *wake_fd, llm_err_t *err)
{
    sigset_t all, before;
    llm_code_t rc = claim_record(e, err);

    if (rc != LLM_OK) {
        return rc;
    }
    atomic_store(&e->quit, 0);
    atomic_store(&e->draining, 0);
    atomic_store(&e->phase, LLM_LEAD_WAITING);

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&e->thread, NULL, engine_thread, e);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        atomic_store(&e->arena->workers[e->worker].pid, 0);
        pthread_mutex_unlock(&e->arena->workers[e->worker].alive);
        return llm_fail(err, LLM_E_IO, "engine thread: %s", strerror(failed));
    }
    llm_thread_events();
    e->joined = true;
    *wake_fd = e->arena->workers[e->worker].wake_fd;
    return LLM_OK;
}

void
llm_engine_drain(llm_engine_t *e)
{
    if (e->joined && !atomic_exchange(&e->draining, 1)) {
        atomic_store(&e->arena->workers[e->worker].draining, 1);
        llm_arena_ring(e->arena);
    }
}

/*
 * Whether this process's thread is blocked behind a leader of another process, where it cannot be
 * joined: process exit takes it. A thread that leads, or is about to, or has just ended, sees quit
 * soon and is worth waiting for: it must not run on while the process exits.
 */
static bool
behind_another(llm_engine_t *e)
{
    llm_arena_t *a = e->arena;
    int32_t leader = atomic_load(&a->leader_pid);

    if (atomic_load(&e->phase) != LLM_LEAD_WAITING || leader == 0 || leader == getpid()) {
        return false;
    }
    int rc = pthread_mutex_trylock(&a->leader);
    if (rc == EOWNERDEAD) {
        pthread_mutex_consistent(&a->leader);
        atomic_store(&a->leader_pid, 0);
    }
    if (rc == 0 || rc == EOWNERDEAD) {
        pthread_mutex_unlock(&a->leader);
    }
    return rc == EBUSY;
}

void
llm_engine_leave(llm_engine_t *e)
{
    llm_arena_t *a = e->arena;

    if (!e->joined) {
        return;
    }
    e->joined = false;
    atomic_store(&e->quit, 1);
    llm_arena_ring(a);

    while (atomic_load(&e->phase) != LLM_LEAD_GONE && !behind_another(e)) {
        llm_futex_wait(&e->phase, atomic_load(&e->phase), LEAVE_MS);
    }
    if (atomic_load(&e->phase) == LLM_LEAD_GONE) {
        pthread_join(e->thread, NULL);
    } else {
        pthread_detach(e->thread);
        e->stuck = true;
    }
    atomic_store(&a->workers[e->worker].pid, 0);
    pthread_mutex_unlock(&a->workers[e->worker].alive);
}
