/*
 * run_sched.c - the scheduler step by step, with this test as the leader: what sequences keep when
 * they are paused or taken over, who is paused, and what fits into a step.
 */
#include "../../engine/run/compose.c"
#include "../../engine/run/sched.c"
#include "engine_help.h"
#include "share/arena.h"

#define DECODER GGUF_DIR "smollm2-Q4_1.gguf"
#define ENCODER GGUF_DIR "flan_t5-Q8_0.gguf"
#define N_CTX   256
#define N_NEW   5

static rig_t rig;
static llm_pool_t *pool;
static llm_sched_t *sched;
static llm_sched_stats_t stats;

static bool
alive(void *ctx, uint32_t worker, uint32_t generation)
{
    (void) ctx;
    return worker == 0 && generation == 0;
}

static void
wake(void *ctx, uint32_t worker)
{
    (void) ctx;
    (void) worker;
}

/* A scheduler over the records as they are: what a new leader does. */
static bool
lead(void)
{
    static const llm_sched_host_t host = { NULL, alive, wake };
    llm_err_t err = { 0 };

    llm_sched_free(sched);
    if (llm_sched_new(&sched, rig.model, NULL, pool, &rig.engine->sh, &rig.engine->arena->conf, &host, &stats, &err)
        != LLM_OK)
    {
        diag("%s", err.msg);
        return false;
    }
    return true;
}

static bool
begin(const char *file)
{
    llm_engine_conf_t conf = { .n_ctx = N_CTX, .n_threads = 1, .n_parallel = 8 };
    bool good = rig_open(&rig, file, &conf) && llm_pool_new(&pool, 1, false, NULL) == LLM_OK
                && lead();
    if (ok(good, "%s", file)) {
        rig.engine->joined = true;      /* jobs may come, but no thread leads */
    }
    return good;
}

static void
end(void)
{
    llm_sched_free(sched);
    sched = NULL;
    llm_pool_free(pool);
    rig.engine->joined = false;
    rig_close(&rig);
}

static llm_job_t
submit(uint32_t n_prompt, int salt, bool prompt_logprobs)
{
    int32_t ids[N_CTX];
    llm_job_conf_t c = { .tokens = ids, .n_tokens = n_prompt, .max_new = N_NEW,
                         .prompt_logprobs = prompt_logprobs };
    llm_err_t err = { 0 };
    llm_job_t job = { 0 };

    llm_sampling_init(&c.sampling);
    c.sampling.ignore_eos = true;
    for (uint32_t i = 0; i < n_prompt; i++) {
        ids[i] = ((int32_t) i * 37 + 11 + salt) % 300;
    }
    if (llm_job_submit(rig.engine, &c, &job, &err) != LLM_OK) {
        diag("%s", err.msg);
    }
    return job;
}

static llm_job_view_t
look(const llm_job_t *job)
{
    llm_job_view_t v;
    llm_job_poll(job, &v);
    return v;
}

static void
finish(llm_job_t *job, result_t *r)
{
    for (int i = 0; i < 1000 && llm_sched_step(sched); i++) {
    }
    ok(look(job).done, "it ends");
    job_result(job, r);
    llm_job_close(job);
}

/*
 * Log-probabilities of the prompt are published with the first token: workers read them from then
 * on.
 */
static void
test_prompt_logprobs(void)
{
    static result_t whole, paused;
    /* behind the pages that it finds in the cache */
    enum { N = 100, AT = N / LLM_KV_PAGE * LLM_KV_PAGE + 2 };
    const float mark = 42;
    llm_job_t job = submit(N, 0, true);

    finish(&job, &whole);
    ok(isfinite(whole.logprob[1]) && isfinite(whole.logprob[N - 1]),
       "log-probabilities of the prompt");
    job = submit(N, 0, true);
    llm_sched_step(sched);
    llm_slot_logprob(sched->sh, sched->seqs[0].slot)[AT] = mark;
    seq_pause(sched, 0);
    llm_sched_step(sched);
    ok(llm_slot_logprob(sched->sh, sched->seqs[0].slot)[AT] == mark,
       "stay as they are when the keys are computed again");
    finish(&job, &paused);
    paused.logprob[AT] = whole.logprob[AT];
    ok(memcmp(whole.ids, paused.ids, N_NEW * sizeof(int32_t)) == 0
           && memcmp(&whole.logprob[1], &paused.logprob[1], (N - 1 + N_NEW) * sizeof(float)) == 0,
       "all others are the same");

    job = submit(N, 1, true);
    admit(sched);
    llm_sched_compose(sched);
    seq_pause(sched, 0);
    finish(&job, &paused);
    ok(isfinite(paused.logprob[1]) && isfinite(paused.logprob[N - 1]),
       "before there are any, a pause loses none");
}

/* What a job took from the cache is what its last run before the first token took. */
static void
test_cached(void)
{
    static result_t r;
    llm_job_t job = submit(150, 2, false);

    finish(&job, &r);
    is_int(r.view.n_cached, 0, "nothing is cached");

    job = submit(150, 2, false);
    admit(sched);
    seq_pause(sched, 0);
    finish(&job, &r);
    is_int(r.view.n_cached, 128, "four pages are, also after a pause that came before them");

    job = submit(150, 2, false);
    admit(sched);
    llm_sched_compose(sched);
    is_int(look(&job).n_cached, 128, "they are taken when they are wanted");
    seq_pause(sched, 0);
    finish(&job, &r);
    is_int(r.view.n_cached, 128, "and not counted twice");

    job = submit(150, 2, false);
    admit(sched);
    uint64_t started = look(&job).started_ns;
    ok(started > 0 && lead() && sched->n_seqs == 1, "a new leader");
    finish(&job, &r);
    is_int(r.view.n_cached, 128, "counts what it takes");
    ok(r.view.started_ns == started, "the job started before it");

    job = submit(150, 2, false);
    admit(sched);
    /* the old leader died between two stores */
    atomic_store(&sched->seqs[0].slot->started_ns, 0);
    ok(lead() && look(&job).started_ns > 0, "unless nobody said so");
    finish(&job, &r);
}

/* Whoever has no page yields none: it is not paused. */
static void
test_victim(void)
{
    enum { N = 8 };
    static result_t r;
    llm_job_t jobs[N];

    for (int i = 0; i < N; i++) {
        jobs[i] = submit(33, 3 + i, false);
    }
    admit(sched);
    is_int(sched->n_seqs, N, "sequences run");
    uint32_t holder = 0;
    for (uint32_t i = 1; i < N - 1; i++) {
        llm_slot_t *slot = sched->seqs[i].slot;
        while (llm_seq_capacity(sched, &sched->seqs[i]) < N_CTX && llm_kv_grow(sched->kv, slot)) {
            holder = i;
        }
    }
    llm_slot_t *victim = sched->seqs[holder].slot, *last = sched->seqs[N - 1].slot;
    uint64_t before = atomic_load(&stats.n_preemptions);
    ok(holder > 1 && llm_kv_n_free(sched->kv) + llm_kv_n_cached(sched->kv) == 0,
       "and hold all pages");
    is_int(make_room(sched, 0, 33), 33, "an older one gets what it needs");
    is_int((long long) (atomic_load(&stats.n_preemptions) - before), 1, "of one other");
    ok((atomic_load(&victim->state) & LLM_SLOT_PHASE) == LLM_SLOT_QUEUED,
       "which is the youngest with pages");
    ok(sched->n_seqs == N - 1 && sched->seqs[N - 2].slot == last,
       "the youngest has none and stays");
    for (int i = 0; i < N; i++) {
        finish(&jobs[i], &r);
    }
}

/* An encoder's input is not cut: what does not fit into the time of a step waits for the next. */
static void
test_encode(void)
{
    enum { N = 4 };
    static result_t r;
    static const struct { double prefill_ns; int want; } cases[] = {
        { 0, 2 },               /* not measured: 512 tokens */
        { 1e9, 1 },             /* no time for one: it goes alone */
        { 250e6 / 400, 2 },     /* just enough for two */
        { 250e6 / 399, 1 },
    };
    llm_job_t jobs[N];

    for (int i = 0; i < N; i++) {
        jobs[i] = submit(200, i, false);
    }
    admit(sched);
    is_int(sched->n_seqs, N, "inputs of 200 tokens run");
    for (size_t k = 0; k < sizeof(cases) / sizeof(cases[0]); k++) {
        sched->prefill_ns = cases[k].prefill_ns;
        uint32_t total = llm_sched_compose(sched);
        int n = 0;
        for (uint32_t i = 0; i < sched->n_seqs; i++) {
            n += sched->seqs[i].encode;
        }
        ok(n == cases[k].want && total == 200u * (uint32_t) n && sched->seqs[0].encode,
           "%g ns for a token: %d in a step (%d)", cases[k].prefill_ns, cases[k].want, n);
    }
    for (int i = 0; i < N; i++) {
        finish(&jobs[i], &r);
        is_int(r.view.n_new, N_NEW, "with its output");
    }
}

int
main(void)
{
    if (begin(DECODER)) {
        test_prompt_logprobs();
        test_cached();
        test_victim();
        end();
    }
    if (begin(ENCODER)) {
        test_encode();
        end();
    }
    return done_testing();
}
