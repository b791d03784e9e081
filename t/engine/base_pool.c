/*
 * base_pool.c - the compute pool: every chunk runs exactly once, whatever the sizes and the timing. Also meant for TSAN=1.
 */
#define _GNU_SOURCE
#include "tap.h"
#include "base/pool.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAX_CHUNKS 1000

typedef struct {
    uint32_t n_chunks, n_threads;
    uint32_t hits[MAX_CHUNKS];      /* plain: the pool orders the accesses */
    uint32_t by[64];                /* chunks each thread ran, each entry written by its thread only */
    uint32_t bad;
    unsigned sleep_us;
} job_t;

static void
count_chunk(void *ctx, uint32_t i_chunk, uint32_t i_thread)
{
    job_t *j = ctx;
    if (i_chunk >= j->n_chunks || i_thread >= j->n_threads) {
        j->bad++;
        return;
    }
    j->hits[i_chunk]++;
    j->by[i_thread]++;
    if (j->sleep_us != 0) {
        usleep(j->sleep_us);
    }
}

/* Counts the chunks that did not run exactly once and checks the sum over threads. */
static uint32_t
run_job(llm_pool_t *p, job_t *j, uint32_t n_chunks, unsigned sleep_us)
{
    uint32_t wrong = 0, sum = 0;
    memset(j, 0, sizeof(*j));
    j->n_chunks = n_chunks;
    j->n_threads = llm_pool_size(p);
    j->sleep_us = sleep_us;
    llm_pool_run(p, count_chunk, j, n_chunks);
    for (uint32_t i = 0; i < n_chunks; i++) {
        wrong += j->hits[i] != 1;
    }
    for (uint32_t i = 0; i < j->n_threads; i++) {
        sum += j->by[i];
    }
    return wrong + j->bad + (sum != n_chunks);
}

static void
test_counts(uint32_t n_threads)
{
    static const uint32_t counts[] = { 0, 1, 2, 3, 5, 7, 16, 17, 63, 64, 65, 999, 1000 };
    llm_pool_t *p;
    llm_err_t err;
    job_t *j = malloc(sizeof(*j));
    if (!ok(llm_pool_new(&p, n_threads, false, &err) == LLM_OK, "pool of %u", n_threads)) {
        return;
    }
    is_int(llm_pool_size(p), n_threads, "size");
    uint32_t wrong = 0;
    for (int round = 0; round < 1000; round++) {
        for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
            wrong += run_job(p, j, counts[c], 0);
        }
    }
    is_int(wrong, 0, "13000 jobs back to back: every chunk once");

    /* helpers fall asleep between the jobs, the caller during them */
    for (int round = 0; round < 20; round++) {
        wrong += run_job(p, j, 1 + (uint32_t) round % 5, 0);
        usleep(300);
        wrong += run_job(p, j, 3, 200);
    }
    is_int(wrong, 0, "jobs with pauses: every chunk once");
    llm_pool_free(p);
    free(j);
}

/* A job whose last chunk waits for the first: both threads must take part. */
typedef struct {
    _Atomic uint32_t arrived;
} meet_t;

static void
meet(void *ctx, uint32_t i_chunk, uint32_t i_thread)
{
    meet_t *m = ctx;
    (void) i_chunk;
    (void) i_thread;
    m->arrived++;
    for (int i = 0; i < 20000 && m->arrived < 2; i++) {
        usleep(100);
    }
}

typedef struct {
    sigset_t blocked;
    int      nice, cpus;
    uint32_t thread;
    meet_t   both;
} state_t;

static void
look(void *ctx, uint32_t i_chunk, uint32_t i_thread)
{
    state_t *s = ctx;
    (void) i_chunk;
    if (i_thread == 1) {
        cpu_set_t set;
        pthread_sigmask(SIG_BLOCK, NULL, &s->blocked);
        s->nice = getpriority(PRIO_PROCESS, (id_t) syscall(SYS_gettid));
        sched_getaffinity(0, sizeof(set), &set);
        s->cpus = CPU_COUNT(&set);
        s->thread = 1;
    }
    meet(&s->both, 0, 0);
}

static void
test_helper_state(void)
{
    cpu_set_t all, one;
    sigset_t before, after;
    llm_pool_t *p;
    state_t s = { .thread = 0 };

    sched_getaffinity(0, sizeof(all), &all);
    int first = 0;
    while (!CPU_ISSET(first, &all)) {
        first++;
    }
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    sched_setaffinity(0, sizeof(one), &one);        /* what worker_cpu_affinity does */
    pthread_sigmask(SIG_BLOCK, NULL, &before);
    is_int(llm_pool_new(&p, 2, true, NULL), LLM_OK, "pool with low priority");
    pthread_sigmask(SIG_BLOCK, NULL, &after);
    sched_setaffinity(0, sizeof(all), &all);
    llm_pool_run(p, look, &s, 2);

    is_int(s.thread, 1, "the helper ran");
    ok(sigismember(&s.blocked, SIGTERM) && sigismember(&s.blocked, SIGCHLD) && sigismember(&s.blocked, SIGHUP),
       "signals are blocked in the helper");
    ok(!sigismember(&after, SIGTERM) == !sigismember(&before, SIGTERM), "and as before in the caller");
    int mine = getpriority(PRIO_PROCESS, 0);
    is_int(s.nice, mine + 10 > 19 ? 19 : mine + 10, "nice +10");
    ok(s.cpus >= CPU_COUNT(&all), "affinity of the creator is undone: %d cpus", s.cpus);
    llm_pool_free(p);
}

/* Who ran which chunk, in the order of each thread. */
typedef struct {
    uint32_t chunk[8][MAX_CHUNKS], n[8];
    uint32_t slow;              /* a thread that sleeps with its first chunk in its hands; 8: none */
} order_t;

static void
note_order(void *ctx, uint32_t i_chunk, uint32_t i_thread)
{
    order_t *o = ctx;
    if (i_thread == o->slow && o->n[i_thread] == 0) {
        usleep(20000);
    }
    o->chunk[i_thread][o->n[i_thread]++] = i_chunk;
}

/* Chunks of a thread's own range that it did not take upwards, and of others' that it did not take downwards. */
static uint32_t
out_of_order(const order_t *o, uint32_t n_threads, uint32_t n_ranges, uint32_t n_chunks)
{
    uint32_t bad = 0;
    for (uint32_t t = 0; t < n_threads; t++) {
        uint32_t last[8];
        memset(last, 0xff, sizeof(last));
        for (uint32_t i = 0; i < o->n[t]; i++) {
            uint32_t c = o->chunk[t][i], owner = 0;
            while ((owner + 1) * n_chunks / n_ranges <= c) {
                owner++;
            }
            bad += last[owner] != UINT32_MAX && (owner == t ? c <= last[owner] : c >= last[owner]);
            last[owner] = c;
        }
    }
    return bad;
}

static void
test_order(void)
{
    static const uint32_t threads[] = { 2, 3, 8 };
    order_t *o = malloc(sizeof(*o));
    uint32_t bad = 0, helped = 0;
    for (int k = 0; k < 3; k++) {
        llm_pool_t *p;
        if (llm_pool_new(&p, threads[k], false, NULL) != LLM_OK) {
            bad++;
            continue;
        }
        for (int round = 0; round < 200; round++) {
            memset(o, 0, sizeof(*o));
            o->slow = round % 20 == 0 ? (uint32_t) round / 20 % threads[k] : 8;
            uint32_t n = 1 + (uint32_t) round * 7 % MAX_CHUNKS;
            llm_pool_run(p, note_order, o, n);
            uint32_t ranges = threads[k];       /* fewer while a helper rests */
            while (ranges > 1 && out_of_order(o, threads[k], ranges, n) != 0) {
                ranges--;
            }
            bad += out_of_order(o, threads[k], ranges, n);
            helped += o->slow < 8 && n > 200 && o->n[o->slow] <= 1;
        }
        llm_pool_free(p);
    }
    is_int(bad, 0, "threads take their own chunks from the front, others' from the end");
    ok(helped > 0, "the chunks of a thread that has lost its core are run by the others (%u jobs)", helped);
    free(o);
}

/* Two pools of one process do not disturb each other; a pool that never ran can be freed. */
static void
test_lifetimes(void)
{
    llm_pool_t *a, *b;
    job_t *j = malloc(sizeof(*j));
    uint32_t wrong = 0;
    for (int i = 0; i < 50; i++) {
        wrong += llm_pool_new(&a, 3, false, NULL) != LLM_OK;
        wrong += llm_pool_new(&b, 2, false, NULL) != LLM_OK;
        if (i % 2) {
            wrong += run_job(a, j, 10, 0) + run_job(b, j, 3, 0);
        }
        llm_pool_free(a);
        llm_pool_free(b);
    }
    is_int(wrong, 0, "100 pools come and go");
    llm_err_t err;
    is_int(llm_pool_new(&a, 0, false, &err), LLM_E_ARG, "no threads: refused");
    is_int(llm_pool_new(&a, 1u << 20, false, &err), LLM_E_ARG, "a million threads: refused");
    ok(a == NULL, "and nothing returned");
    llm_pool_free(NULL);
    free(j);
}

/* Idle helpers sleep: over a pause of 200 ms the process uses far less CPU time than one core. */
static void
test_idle(void)
{
    llm_pool_t *p;
    job_t *j = malloc(sizeof(*j));
    struct timespec a, b;
    llm_pool_new(&p, 4, false, NULL);
    run_job(p, j, 64, 0);
    usleep(20000);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    usleep(200000);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    double ms = 1e3 * (double) (b.tv_sec - a.tv_sec) + 1e-6 * (double) (b.tv_nsec - a.tv_nsec);
    ok(ms < 20, "idle helpers sleep (%.2f ms of CPU in 200 ms)", ms);
    llm_pool_free(p);
    free(j);
}

int
main(void)
{
    static const uint32_t threads[] = { 1, 2, 3, 8 };
    for (size_t i = 0; i < 4; i++) {
        test_counts(threads[i]);
    }
    test_order();
    test_helper_state();
    test_lifetimes();
    test_idle();
    return done_testing();
}
