/*
 * share_spec.c - speculation changes no bit: tokens, log-probabilities, alternatives and ends are those of an engine without it.
 */
#include "engine_help.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define N_JOBS 20
#define N_NEW  120
#define N_TOP  3

typedef struct {
    result_t  r;
    float     raw[N_NEW];
    llm_top_t top[N_NEW][N_TOP];
} full_t;

static const char *const grammars[] = { NULL, "([a-z]{1,9}[ ,;])+", "(.|\\n)*", "(ab|ba|[0-9]){5,300}" };
#define N_GRAMMARS 4

typedef struct { rig_t rig; llm_constraint_t *c[N_GRAMMARS]; } engine_t;

static int
engine_open(engine_t *e, const char *file, const llm_engine_conf_t *conf, int join)
{
    llm_err_t err;
    *e = (engine_t) { 0 };
    if (!rig_open(&e->rig, file, conf) || (join && !rig_join(&e->rig))) {
        return 0;
    }
    for (int i = 1; i < N_GRAMMARS; i++) {
        if (llm_constraint_new(&e->c[i], e->rig.engine, LLM_CONSTRAIN_REGEX, grammars[i], strlen(grammars[i]), &err) != LLM_OK) {
            diag("%s", err.msg);
            return 0;
        }
    }
    return 1;
}

static void
engine_close(engine_t *e)
{
    for (int i = 1; i < N_GRAMMARS; i++) {
        llm_constraint_free(e->c[i]);
    }
    rig_close(&e->rig);
}

/* Prompts that repeat themselves; greedy outputs of random models soon do as well. */
static llm_job_conf_t
job_of(const engine_t *e, int i, int32_t *ids)
{
    uint32_t n = 2 + (uint32_t) (i * 17 % 70);
    llm_job_conf_t c = { .tokens = ids, .n_tokens = n, .max_new = N_NEW - (uint32_t) i, .n_top = i % 3 ? N_TOP : 0 };
    for (uint32_t j = 0; j < n; j++) {
        ids[j] = (int32_t) ((j % (uint32_t) (7 + i)) * 13 + 5 + (uint32_t) i) % 300;
    }
    llm_sampling_init(&c.sampling);
    c.sampling.sample = i % 4 == 1 || i % 4 == 2;
    c.sampling.temperature = i % 4 == 1 ? 0.3f : 1;
    c.sampling.seed = (uint64_t) i;
    c.sampling.ignore_eos = i % 5 != 0;
    c.sampling.min_tokens = i % 7 == 3 ? 30 : 0;
    c.sampling.repetition_penalty = i % 6 == 5 ? 1.1f : 1;
    c.sampling.frequency_penalty = i % 8 == 6 ? 0.2f : 0;
    c.sampling.watermark_gamma = 0.5f;
    c.sampling.watermark_delta = i % 9 == 8 ? 2 : 0;
    c.prompt_logprobs = i % 10 == 4;
    c.constraint = e->c[i % 5 < N_GRAMMARS ? i % 5 : 0];
    return c;
}

static void
read_all(const llm_job_t *job, full_t *f)
{
    memset(f, 0, sizeof(*f));
    job_result(job, &f->r);
    for (uint32_t i = 0; i < f->r.view.n_new; i++) {
        llm_job_token_t t;
        llm_job_token(job, f->r.view.n_prompt + i, &t);
        f->raw[i] = t.raw_logprob;
        memcpy(f->top[i], t.top, (t.n_top < N_TOP ? t.n_top : N_TOP) * sizeof(llm_top_t));
    }
}

static int
same(const full_t *a, const full_t *b)
{
    uint32_t n = a->r.view.n_new, first = a->r.view.n_prompt;
    return n == b->r.view.n_new && a->r.view.finish == b->r.view.finish && memcmp(a->r.ids, b->r.ids, n * sizeof(int32_t)) == 0
           && memcmp(a->r.logprob + first, b->r.logprob + first, n * sizeof(float)) == 0 && memcmp(a->raw, b->raw, n * sizeof(float)) == 0
           && memcmp(a->top, b->top, sizeof(a->top)) == 0;
}

/* All jobs, so many at a time; the tokens that were drafted and kept. */
static int
run_all(const char *file, const llm_engine_conf_t *conf, int at_once, full_t *out, llm_stats_t *st)
{
    llm_job_t jobs[N_JOBS];
    llm_err_t err;
    engine_t e;
    int bad = 0;
    if (!engine_open(&e, file, conf, 1)) {
        return 0;
    }
    for (int from = 0; from < N_JOBS; from += at_once) {
        int to = from + at_once < N_JOBS ? from + at_once : N_JOBS;
        for (int i = from; i < to; i++) {
            int32_t ids[MAX_IDS];
            llm_job_conf_t c = job_of(&e, i, ids);
            bad += llm_job_submit(e.rig.engine, &c, &jobs[i], &err) != LLM_OK;
        }
        for (int i = from; i < to; i++) {
            bad += !job_wait(&e.rig, &jobs[i], UINT32_MAX, &out[i].r.view, 60000);
            read_all(&jobs[i], &out[i]);
            llm_job_close(&jobs[i]);
        }
    }
    llm_engine_stats(e.rig.engine, st);
    engine_close(&e);
    return bad == 0;
}

static void
check_model(const char *file)
{
    static full_t plain[N_JOBS], f[N_JOBS];
    static const struct { uint32_t speculate, threads, parallel; int at_once; } ways[] = {
        { 16, 2, 0, 1 }, { 5, 1, 0, 1 }, { 16, 2, 0, 3 }, { 16, 2, 0, N_JOBS }, { 8, 3, 4, N_JOBS },
    };
    llm_engine_conf_t conf = { .n_ctx = 200, .n_threads = 2, .n_slots = N_JOBS };
    llm_stats_t st, base;

    if (!ok(run_all(file, &conf, 1, plain, &base) && base.n_drafted == 0, "%s without", file)) {
        return;
    }
    for (size_t w = 0; w < sizeof(ways) / sizeof(ways[0]); w++) {
        int differ = 0;
        conf.speculate = ways[w].speculate;
        conf.n_threads = ways[w].threads;
        conf.n_parallel = ways[w].parallel;
        conf.kv_bytes = 0;
        bool good = run_all(file, &conf, ways[w].at_once, f, &st);
        for (int i = 0; i < N_JOBS; i++) {
            differ += !same(&f[i], &plain[i]);
        }
        ok(good && differ == 0 && st.n_drafted > 0 && st.n_accepted <= st.n_drafted
               && st.n_decode_tokens - base.n_decode_tokens == 0,
           "%u drafts, %d at once: the same bits (%d differ; %llu of %llu kept, %llu steps for %llu)", ways[w].speculate, ways[w].at_once, differ,
           (unsigned long long) st.n_accepted, (unsigned long long) st.n_drafted, (unsigned long long) st.n_steps, (unsigned long long) base.n_steps);
    }
}

/* The leader is killed again and again while another worker's jobs run. */
static void
test_takeover(const char *file)
{
    static full_t plain[N_JOBS];
    llm_engine_conf_t conf = { .n_ctx = 200, .n_threads = 1, .n_slots = N_JOBS };
    llm_stats_t st;
    engine_t e;
    full_t *got = mmap(NULL, N_JOBS * sizeof(full_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int differ = 0, kills = 0, status;

    if (!ok(got != MAP_FAILED && run_all(file, &conf, N_JOBS, plain, &st), "takeover: without")) {
        return;
    }
    conf.speculate = 16;
    if (!ok(engine_open(&e, file, &conf, 0), "engine for workers")) {
        return;
    }
    fflush(stdout);
    pid_t worker = fork();
    if (worker == 0) {
        llm_job_t jobs[N_JOBS];
        llm_err_t err;
        if (!rig_join(&e.rig)) {
            _exit(1);
        }
        llm_engine_drain(e.rig.engine);     /* leads only while nobody else can */
        for (int round = 0; round < 12; round++) {
            for (int i = 0; i < N_JOBS; i++) {
                int32_t ids[MAX_IDS];
                llm_job_conf_t c = job_of(&e, i, ids);
                if (llm_job_submit(e.rig.engine, &c, &jobs[i], &err) != LLM_OK) {
                    _exit(2);
                }
            }
            for (int i = 0; i < N_JOBS; i++) {
                full_t f;
                job_wait(&e.rig, &jobs[i], UINT32_MAX, &f.r.view, 60000);
                read_all(&jobs[i], &f);
                llm_job_close(&jobs[i]);
                if (round == 0 || !same(&f, &plain[i])) {
                    got[i] = f;
                }
            }
        }
        llm_engine_leave(e.rig.engine);
        _exit(0);
    }
    /* others lead for a while and die */
    for (;;) {
        pid_t other = fork();
        if (other == 0) {
            _exit(rig_join(&e.rig) ? pause() : 1);
        }
        usleep(6000 + kills * 977 % 9000);
        kill(other, SIGKILL);
        waitpid(other, NULL, 0);
        kills++;
        if (waitpid(worker, &status, WNOHANG) == worker) {
            break;
        }
    }
    for (int i = 0; i < N_JOBS; i++) {
        differ += !same(&got[i], &plain[i]);
    }
    llm_engine_stats(e.rig.engine, &st);
    ok(WIFEXITED(status) && WEXITSTATUS(status) == 0 && differ == 0, "%d workers killed, %llu takeovers: the same bits (%d differ)", kills,
       (unsigned long long) st.n_takeovers, differ);
    ok(st.n_accepted > 0 && st.n_takeovers > 0, "with drafts");
    engine_close(&e);
}

int
main(void)
{
    static const char *const models[] = {
        GGUF_DIR "smollm2-Q4_1.gguf", GGUF_DIR "llama_k-Q4_K_M.gguf", GGUF_DIR "gemma2-Q8_0.gguf", GGUF_DIR "mixtral-Q8_0.gguf",
        GGUF_DIR "bloom-F16.gguf", GGUF_DIR "flan_t5-Q8_0.gguf", "t/fixtures/models/llama_rope_dynamic", "t/fixtures/models/phi3_longrope",
        "t/fixtures/models/qwen2_sliding",
    };
    for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
        check_model(models[i]);
    }
    test_takeover(models[0]);
    return done_testing();
}
