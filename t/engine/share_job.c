/*
 * share_job.c - jobs through one process: batching, sharing, pausing and cancelling change no token.
 */
#include "engine_help.h"

#define MODEL GGUF_DIR "smollm2-Q4_1.gguf"
#define N_JOBS 32

static uint32_t
prompt_of(int i, int32_t *ids, uint32_t n_vocab)
{
    uint32_t n = 3 + (uint32_t) (i * 7 % 90);
    for (uint32_t j = 0; j < n; j++) {
        ids[j] = (int32_t) ((j < 40 ? j * 13 + 5 : j * 31 + (uint32_t) i * 17) % n_vocab);
    }
    return n;
}

static llm_job_conf_t
job_of(int i, int32_t *ids, uint32_t n_vocab)
{
    llm_job_conf_t c = { .tokens = ids, .n_tokens = prompt_of(i, ids, n_vocab), .max_new = 40 };
    llm_sampling_init(&c.sampling);
    c.sampling.ignore_eos = true;
    c.sampling.sample = i % 2;
    c.sampling.seed = (uint64_t) i * 1234567;
    c.sampling.repetition_penalty = i % 3 ? 1 : 1.3f;
    c.sampling.top_p = i % 4 ? 1 : 0.9f;
    return c;
}

static int
same(const result_t *a, const result_t *b)
{
    uint32_t first = a->view.n_prompt;
    return a->view.n_new == b->view.n_new && a->view.finish == b->view.finish
           && memcmp(a->ids, b->ids, a->view.n_new * sizeof(int32_t)) == 0
           && memcmp(a->logprob + first, b->logprob + first, a->view.n_new * sizeof(float)) == 0;
}

/* All jobs at once on an engine with conf; each must equal what it gave alone, bit by bit. */
static void
together(const char *name, const llm_engine_conf_t *conf, const result_t *alone, uint64_t *preemptions)
{
    static result_t r[N_JOBS];
    llm_job_t jobs[N_JOBS];
    llm_err_t err;
    rig_t rig;
    int bad = 0;

    if (!ok(rig_open(&rig, MODEL, conf) && rig_join(&rig), "%s: engine", name)) {
        return;
    }
    for (int i = 0; i < N_JOBS; i++) {
        int32_t ids[MAX_IDS];
        llm_job_conf_t c = job_of(i, ids, llm_model_info(rig.model)->n_vocab);
        bad += llm_job_submit(rig.engine, &c, &jobs[i], &err) != LLM_OK;
    }
    is_int(bad, 0, "all submitted");
    for (int i = 0; i < N_JOBS; i++) {
        job_wait(&rig, &jobs[i], UINT32_MAX, &r[i].view, 60000);
        job_result(&jobs[i], &r[i]);
        llm_job_close(&jobs[i]);
        bad += !same(&r[i], &alone[i]);
    }
    ok(bad == 0, "%s: %d jobs at once get the bits that they get alone (%d differ)", name, N_JOBS, bad);
    llm_stats_t st;
    llm_engine_stats(rig.engine, &st);
    *preemptions = st.n_preemptions;
    rig_close(&rig);
}

static void
test_cancel(rig_t *rig)
{
    int32_t ids[MAX_IDS];
    llm_job_conf_t c = job_of(0, ids, llm_model_info(rig->model)->n_vocab);
    llm_job_view_t v;
    llm_stats_t st;
    llm_err_t err;
    llm_job_t job;

    c.max_new = 400;
    bool runs = false;
    for (int i = 0; i < 50 && !runs; i++) {     /* on a busy machine it may be done before it is looked at */
        runs = llm_job_submit(rig->engine, &c, &job, &err) == LLM_OK && job_wait(rig, &job, 1, &v, 10000) && !v.done;
        if (!runs) {
            llm_job_close(&job);
        }
    }
    ok(runs, "a long job runs");
    llm_job_t copy = job;
    llm_job_close(&job);
    llm_job_close(&job);
    for (int i = 0; i < 200; i++) {
        llm_engine_stats(rig->engine, &st);
        if (st.n_running == 0) {
            break;
        }
        usleep(10000);
    }
    is_int(st.n_running, 0, "a closed job leaves the batch");
    is_int(st.pages_free + st.pages_cached, st.pages_total, "and gives its pages back");
    llm_job_poll(&copy, &v);
    ok(v.done && v.finish == LLM_FINISH_ERROR, "an old handle is dead");
}

static void
test_limits(rig_t *rig)
{
    int32_t ids[MAX_IDS] = { 1, 2, 3 };
    llm_job_conf_t c = { .tokens = ids, .n_tokens = 3, .max_new = 5 };
    uint32_t n_ctx = llm_engine_conf(rig->engine)->n_ctx, n_slots = llm_engine_conf(rig->engine)->n_slots;
    llm_err_t err;
    llm_job_t job, many[300];
    result_t *r = malloc(sizeof(*r));

    llm_sampling_init(&c.sampling);
    c.n_tokens = 0;
    is_int(llm_job_submit(rig->engine, &c, &job, &err), LLM_E_ARG, "empty prompt");
    c.n_tokens = n_ctx;
    is_int(llm_job_submit(rig->engine, &c, &job, &err), LLM_E_ARG, "prompt that leaves no room");
    c.max_new = 0;
    c.prompt_logprobs = true;
    ok(job_run(rig, &c, r) && r->view.n_new == 0 && r->view.finish == LLM_FINISH_LENGTH, "a full context can be scored");
    ok(isnan(r->logprob[0]) && isfinite(r->logprob[n_ctx - 1]), "every prompt token but the first has a log-probability");
    c.prompt_logprobs = false;
    c.max_new = 1000000;
    c.n_tokens = 3;
    c.sampling.ignore_eos = true;
    ok(job_run(rig, &c, r) && r->view.n_new == n_ctx - 3, "output is capped by the context");
    ids[1] = -1;
    is_int(llm_job_submit(rig->engine, &c, &job, &err), LLM_E_ARG, "negative token");
    ids[1] = 1 << 30;
    is_int(llm_job_submit(rig->engine, &c, &job, &err), LLM_E_ARG, "token beyond the vocabulary");
    ids[1] = 2;
    c.sampling.temperature = NAN;
    is_int(llm_job_submit(rig->engine, &c, &job, &err), LLM_E_ARG, "temperature that is no number");
    c.sampling.temperature = 1;

    uint32_t n = 0;
    while (n < 300 && llm_job_submit(rig->engine, &c, &many[n], &err) == LLM_OK) {
        n++;
    }
    is_int(n, n_slots, "as many jobs as slots");
    is_int(err.code, LLM_E_BUSY, "then busy");
    while (n > 0) {
        llm_job_close(&many[--n]);
    }
    llm_stats_t st = { 0 };
    for (int i = 0; i < 200 && (i == 0 || st.n_used > 0); i++) {
        usleep(10000);
        llm_engine_stats(rig->engine, &st);
    }
    c.max_new = 2;
    ok(job_run(rig, &c, r), "free again");
    free(r);
}

static void
test_prefix(rig_t *rig)
{
    int32_t ids[MAX_IDS];
    llm_job_conf_t c = { .tokens = ids, .n_tokens = 150, .max_new = 20, .n_top = 3 };
    static result_t a, b;

    for (int i = 0; i < 150; i++) {
        ids[i] = (i * 37 + 11) % 300;
    }
    llm_sampling_init(&c.sampling);
    c.sampling.ignore_eos = true;
    ok(job_run(rig, &c, &a), "first time");
    is_int(a.view.n_cached, 0, "nothing cached");
    ok(job_run(rig, &c, &b), "second time");
    is_int(b.view.n_cached, 128, "four whole pages come from the cache");
    ok(same(&a, &b), "the same bits");
    c.n_tokens = 128;
    ok(job_run(rig, &c, &b) && b.view.n_cached == 96, "the last token is always computed");
    c.n_tokens = 150;
    c.prompt_logprobs = true;
    ok(job_run(rig, &c, &b) && b.view.n_cached == 0, "prompt log-probabilities compute every token");
    c.max_new = 0;
    ok(job_run(rig, &c, &b), "scored alone");
}

enum { N_CHOICES = 4, N_TOKENS = 1000, N_COMMON = 700 };

/* The first ones have one prompt, the others one beginning. */
static llm_job_conf_t
choice(int i, int32_t *ids)
{
    llm_job_conf_t c = { .tokens = ids, .n_tokens = N_TOKENS, .max_new = 30 };
    llm_sampling_init(&c.sampling);
    c.sampling.ignore_eos = c.sampling.sample = true;
    c.sampling.seed = (uint64_t) i;
    for (int j = 0; j < N_TOKENS; j++) {
        ids[j] = i < N_CHOICES ? (j * 37 + 11) % 300 : (j * 31 + 5 + i * (j >= N_COMMON)) % 300;
    }
    return c;
}

/* Prompts that arrive together: what they have in common is computed once. */
static void
test_choices(void)
{
    enum { N = N_CHOICES };
    static result_t alone[2 * N], r;
    int32_t ids[N_TOKENS];
    llm_engine_conf_t conf = { .n_ctx = 1100, .n_threads = 2 };
    llm_job_t jobs[2 * N];
    llm_stats_t before, after;
    llm_err_t err;
    rig_t rig;
    int bad = 0;

    for (int pass = 0; pass < 2; pass++) {
        if (!ok(rig_open(&rig, MODEL, &conf) && rig_join(&rig), "engine")) {
            return;
        }
        for (int i = 0; i < 2 * N && pass == 0; i++) {
            llm_job_conf_t c = choice(i, ids);
            bad += !job_run(&rig, &c, &alone[i]);
        }
        for (int group = 0; group < 2 && pass == 1; group++) {
            llm_engine_stats(rig.engine, &before);
            for (int i = group * N; i < (group + 1) * N; i++) {
                llm_job_conf_t c = choice(i, ids);
                bad += llm_job_submit(rig.engine, &c, &jobs[i], &err) != LLM_OK;
            }
            for (int i = group * N; i < (group + 1) * N; i++) {
                bad += !job_wait(&rig, &jobs[i], UINT32_MAX, &r.view, 60000);
                job_result(&jobs[i], &r);
                bad += !same(&r, &alone[i]);
                llm_job_close(&jobs[i]);
            }
            llm_engine_stats(rig.engine, &after);
            uint64_t got = after.n_prefill_tokens - before.n_prefill_tokens;
            uint32_t page = after.page_tokens, common = group == 0 ? N_TOKENS : N_COMMON;
            /* every one computes what is behind the last whole page that it shares */
            ok(got >= N_TOKENS && got <= N_TOKENS + (N - 1) * (N_TOKENS - common / page * page),
               "%d prompts of %d tokens, %u in common: %llu computed", N, N_TOKENS, common, (unsigned long long) got);
        }
        rig_close(&rig);
    }
    is_int(bad, 0, "each has the bits that it gets alone");
}

static void
test_batches(llm_kv_type_t kv)
{
    static result_t alone[N_JOBS];
    llm_engine_conf_t conf = { .n_ctx = 256, .n_threads = 2, .kv_type = kv, .n_slots = 40 };
    uint64_t preempted;
    rig_t rig;

    if (!ok(rig_open(&rig, MODEL, &conf) && rig_join(&rig), "engine with %s KV", llm_kv_name(kv))) {
        return;
    }
    for (int i = 0; i < N_JOBS; i++) {
        int32_t ids[MAX_IDS];
        llm_job_conf_t c = job_of(i, ids, llm_model_info(rig.model)->n_vocab);
        if (!job_run(&rig, &c, &alone[i]) || alone[i].view.n_new != 40) {
            ok(0, "job %d alone", i);
        }
    }
    test_prefix(&rig);
    test_cancel(&rig);
    test_limits(&rig);
    llm_stats_t st;
    llm_engine_stats(rig.engine, &st);
    is_int(st.n_takeovers, 0, "no takeover");
    rig_close(&rig);

    conf.kv_bytes = 64 << 20;
    together("ample memory", &conf, alone, &preempted);
    is_int((long long) preempted, 0, "nobody is paused");
    conf.n_threads = 1;
    together("one thread", &conf, alone, &preempted);
    conf.n_threads = 3;
    conf.n_parallel = 5;
    together("five at a time", &conf, alone, &preempted);
    conf.n_parallel = 32;
    conf.kv_bytes = 0;
    together("memory for four full sequences", &conf, alone, &preempted);
    ok(preempted > 0, "some were paused and computed again (%llu)", (unsigned long long) preempted);
}

int
main(void)
{
    test_batches(LLM_KV_F32);
    test_batches(LLM_KV_Q8_0);
    test_choices();
    return done_testing();
}
