/*
 * base_watch.c - how many threads a pool uses, over simulated machines: no clock is read, so nothing here depends on the
 * load of the one that runs the test.
 */
#include "tap.h"
#include "base/watch.h"

#define US 1000ull
#define MS (1000 * US)

/*
 * A machine whose job takes `even_us` when all threads have their cores and `fewer_us` for each number of resting
 * threads. With `stall_us`, every stall_every-th job with all threads waits so long for a preempted one.
 */
typedef struct {
    uint32_t n_threads, n_kinds;
    uint64_t even_us, fewer_us[LLM_WATCH_LEVELS];
    uint64_t stall_us;
    uint32_t stall_every;
    uint32_t jobs;
} machine_t;

/* Lets `ms` pass; returns the part of the time with `level` resting threads. */
static double
pass_time(llm_watch_t *w, machine_t *m, uint64_t *now, uint64_t ms, uint32_t level)
{
    uint64_t end = *now + ms * MS, at_level = 0, all = 0;
    uint32_t n = m->n_threads - w->level;

    while (*now < end) {
        uint32_t rests = m->n_threads - n, chunks = 12;
        uint64_t own = rests == 0 ? m->even_us : m->fewer_us[rests], spent = own;
        uint32_t n_own = n == 1 ? chunks : chunks / n;
        m->jobs++;
        if (rests == 0 && m->stall_every != 0 && m->jobs % m->stall_every == 0) {
            /* the preempted thread holds one chunk; the caller has taken the rest of its share */
            spent += m->stall_us;
            n_own = chunks - 1;
            own = own * n * (chunks - 1) / chunks;
            spent = own + m->stall_us;
        }
        llm_watch_job_t job = { 0x1000 + 64 * (m->jobs % m->n_kinds), chunks, n_own, own * US,
                                spent * US };
        *now += spent * US;
        all += spent;
        at_level += rests == level ? spent : 0;
        n = llm_watch_note(w, &job, *now);
        if (n < 1 || n > m->n_threads) {
            ok(0, "%u threads of %u", n, m->n_threads);
            return 0;
        }
    }
    return (double) at_level / (double) all;
}

static void
test_quiet(void)
{
    static const uint32_t threads[] = { 2, 3, 16, 200 };
    for (uint32_t i = 0; i < 4; i++) {
        llm_watch_t w;
        machine_t m = { .n_threads = threads[i], .n_kinds = 6, .even_us = 20, .fewer_us = { 0, 30, 40, 60 } };
        uint64_t now = 5;
        llm_watch_init(&w, m.n_threads);
        near(pass_time(&w, &m, &now, 2000, 0), 1, 0, "cores of their own: nobody ever rests");
    }
}

static void
test_neighbour(void)
{
    llm_watch_t w;
    machine_t m = { .n_threads = 2, .n_kinds = 6, .even_us = 20, .fewer_us = { 0, 28 }, .stall_us = 2000, .stall_every = 80 };
    uint64_t now = 5;
    llm_watch_init(&w, 2);
    pass_time(&w, &m, &now, 1000, 1);
    double part = pass_time(&w, &m, &now, 3000, 1);
    ok(part > 0.9, "a busy neighbour: one thread rests most of the time (%.2f)", part);

    m.stall_every = 0;
    pass_time(&w, &m, &now, 1500, 0);
    part = pass_time(&w, &m, &now, 3000, 0);
    near(part, 1, 0, "the neighbour has gone: all threads again");
}

static void
test_not_worth_it(void)
{
    /* stalls, but a single thread would be slower still */
    llm_watch_t w;
    machine_t m = { .n_threads = 2, .n_kinds = 6, .even_us = 200, .fewer_us = { 0, 400 }, .stall_us = 1000, .stall_every = 10 };
    uint64_t now = 5;
    llm_watch_init(&w, 2);
    pass_time(&w, &m, &now, 1000, 0);
    double part = pass_time(&w, &m, &now, 10000, 0);
    ok(part > 0.95, "fewer threads are slower: all are used (%.2f)", part);
}

static void
test_many_kinds(void)
{
    llm_watch_t w;
    machine_t m = { .n_threads = 4, .n_kinds = 3 * LLM_WATCH_KINDS, .even_us = 20, .fewer_us = { 0, 25, 30, 35 },
                    .stall_us = 3000, .stall_every = 50 };
    uint64_t now = 5;
    llm_watch_init(&w, 4);
    double part = pass_time(&w, &m, &now, 3000, 0);
    ok(part > 0 && part <= 1, "more kinds of jobs than records: still a number of threads");
}

static void
test_one(void)
{
    llm_watch_t w;
    machine_t m = { .n_threads = 1, .n_kinds = 1, .even_us = 20 };
    uint64_t now = 5;
    llm_watch_init(&w, 1);
    near(pass_time(&w, &m, &now, 100, 0), 1, 0, "one thread is always used");
}

int
main(void)
{
    test_quiet();
    test_neighbour();
    test_not_worth_it();
    test_many_kinds();
    test_one();
    return done_testing();
}
