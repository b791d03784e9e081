/*
 * share_spec.c - speculation changes no bit: tokens, log-probabilities, alternatives and ends are those of an engine without it.
 */
/* The number of drafts that a model is asked for goes by the time they take: here it is the most that there is room for, unless `measured`. */
#define llm_odds_wanted measured_wanted
#include "../../engine/run/spec.c"
#undef llm_odds_wanted
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

static const char *const grammars[] = { NULL, "([a-z]{1,9}[ ,;])+", "(.|\\n)*", "(ab|ba|[0-9]){5,300}",
                                        "(the river, ?at night: ?[a-z]{1,3};)+" };
#define N_GRAMMARS 5
/* the last one leaves a model that drafts too little choice to be wrong in */
#define N_OPEN_GRAMMARS 4
static int n_used = N_GRAMMARS;

typedef struct { rig_t rig; llm_model_t *draft; llm_constraint_t *c[N_GRAMMARS]; } engine_t;

static bool measured;

uint32_t llm_odds_wanted(llm_odds_t *o, uint32_t max, float cost);

uint32_t
llm_odds_wanted(llm_odds_t *o, uint32_t max, float cost)
{
    return measured ? measured_wanted(o, max, cost) : max;
}

/* draft: file of a draft model or NULL. */
static int
engine_open(engine_t *e, const char *file, const char *draft, const llm_engine_conf_t *conf, int join)
{
    llm_err_t err;
    llm_engine_conf_t c = *conf;
    llm_model_conf_t mc = { .weights = draft };
    *e = (engine_t) { 0 };
    if (draft != NULL && llm_model_open(&e->draft, &mc, &err) != LLM_OK) {
        diag("%s", err.msg);
        return 0;
    }
    c.draft = e->draft;
    if (!rig_open(&e->rig, file, &c) || (join && !rig_join(&e->rig))) {
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
    llm_model_close(e->draft);
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
    c.constraint = e->c[i % (n_used + 1) < n_used ? i % (n_used + 1) : 0];
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

/* Jobs whose results are not the same. */
static int
n_differ(const full_t *a, const full_t *b)
{
    int n = 0;
    for (int i = 0; i < N_JOBS; i++) {
        n += !same(&a[i], &b[i]);
    }
    return n;
}

/* All jobs, so many at a time; the tokens that were drafted and kept. */
static int
run_all(const char *file, const char *draft, const llm_engine_conf_t *conf, int at_once, full_t *out, llm_stats_t *st)
{
    llm_job_t jobs[N_JOBS];
    llm_err_t err;
    engine_t e;
    int bad = 0;
    if (!engine_open(&e, file, draft, conf, 1)) {
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
check_model(const char *file, llm_kv_type_t kv)
{
    static full_t plain[N_JOBS], f[N_JOBS];
    static const struct { uint32_t speculate, threads, parallel; int at_once; } ways[] = {
        { 16, 2, 0, 1 }, { 5, 1, 0, 1 }, { 16, 2, 0, 3 }, { 16, 2, 0, N_JOBS }, { 8, 3, 4, N_JOBS },
    };
    llm_engine_conf_t conf = { .kv_type = kv, .n_ctx = 200, .n_threads = 2, .n_slots = N_JOBS };
    llm_stats_t st, base;

    if (!ok(run_all(file, NULL, &conf, 1, plain, &base) && base.n_drafted[LLM_DRAFT_LOOKUP] == 0, "%s, %s KV, without", file,
            llm_kv_name(kv))) {
        return;
    }
    for (size_t w = 0; w < sizeof(ways) / sizeof(ways[0]); w++) {
        conf.speculate = ways[w].speculate;
        conf.n_threads = ways[w].threads;
        conf.n_parallel = ways[w].parallel;
        conf.kv_bytes = 0;
        bool good = run_all(file, NULL, &conf, ways[w].at_once, f, &st);
        int differ = n_differ(f, plain);
        ok(good && differ == 0 && st.n_drafted[LLM_DRAFT_LOOKUP] > 0 && st.n_kept[LLM_DRAFT_LOOKUP] <= st.n_drafted[LLM_DRAFT_LOOKUP]
               && st.n_decode_tokens - base.n_decode_tokens == 0,
           "%u drafts, %d at once: the same bits (%d differ; %llu of %llu kept, %llu steps for %llu)", ways[w].speculate, ways[w].at_once, differ,
           (unsigned long long) st.n_kept[0], (unsigned long long) st.n_drafted[0], (unsigned long long) st.n_steps, (unsigned long long) base.n_steps);
    }
}

/*
 * With a draft model, which is right always (the same model: all but the last draft of a job, which ends there), often, or hardly ever. Twenty
 * jobs at once do not fit: sequences are paused, pages taken from the cache.
 */
typedef enum { ALWAYS, OFTEN, SELDOM } luck_t;

static void
check_draft(const char *file, const char *draft, luck_t luck)
{
    static full_t plain[N_JOBS], f[N_JOBS];
    static const struct { uint32_t n_draft, speculate, threads, parallel; int at_once; bool measured; } ways[] = {
        { 16, 0, 2, 0, 1, false }, { 3, 0, 1, 0, 1, false }, { 8, 0, 2, 0, 3, false }, { 16, 0, 2, 0, N_JOBS, false },
        { 4, 8, 3, 4, N_JOBS, false }, { 8, 0, 2, 0, 2, true },
    };
    llm_engine_conf_t conf = { .n_ctx = 200, .n_threads = 2, .n_slots = N_JOBS };
    llm_stats_t st, base;

    n_used = N_OPEN_GRAMMARS;
    if (!ok(run_all(file, NULL, &conf, 1, plain, &base), "%s without", file)) {
        n_used = N_GRAMMARS;
        return;
    }
    for (size_t w = 0; w < sizeof(ways) / sizeof(ways[0]); w++) {
        conf.n_draft = ways[w].n_draft;
        conf.speculate = ways[w].speculate;
        conf.n_threads = ways[w].threads;
        conf.n_parallel = ways[w].parallel;
        measured = ways[w].measured;
        bool good = run_all(file, draft, &conf, ways[w].at_once, f, &st);
        int differ = n_differ(f, plain);
        uint64_t drafted = st.n_drafted[LLM_DRAFT_MODEL], kept = st.n_kept[LLM_DRAFT_MODEL];
        bool lucky = luck == ALWAYS ? kept + N_JOBS >= drafted : luck == OFTEN ? 2 * kept > drafted : 5 * kept < drafted;
        ok(good && differ == 0 && (drafted > 0 || measured) && kept <= drafted && (lucky || measured) && (ways[w].speculate > 0) == (st.n_drafted[0] > 0)
               && st.n_decode_tokens == base.n_decode_tokens,
           "%s drafts %u, %d at once: the same bits (%d differ; %llu of %llu kept, %llu steps for %llu, %llu paused)", draft, conf.n_draft,
           ways[w].at_once, differ, (unsigned long long) kept, (unsigned long long) drafted, (unsigned long long) st.n_steps,
           (unsigned long long) base.n_steps, (unsigned long long) st.n_preemptions);
    }
    n_used = N_GRAMMARS;
    measured = false;
}

/* Sequences that share pages share what the draft model has in them: the same model goes on to be right. */
static void
test_draft_prefix(const char *file)
{
    enum { N = 6, N_PROMPT = 150 };
    llm_engine_conf_t conf = { .n_ctx = 256, .n_threads = 2, .n_slots = N, .n_draft = 4 };
    llm_job_t jobs[N];
    llm_stats_t st;
    llm_err_t err;
    engine_t e;
    int bad = 0;

    if (!ok(engine_open(&e, file, file, &conf, 1), "engine with a draft model")) {
        return;
    }
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < N; i++) {
            int32_t ids[N_PROMPT];
            llm_job_conf_t c = job_of(&e, 1, ids);
            for (int j = 0; j < N_PROMPT; j++) {
                ids[j] = j < 70 || i % 2 == 0 ? j * 31 % 300 : (j * 17 + i) % 300;
            }
            c.n_tokens = N_PROMPT;
            c.max_new = 60;
            c.sampling.seed = (uint64_t) (10 * round + i);
            bad += llm_job_submit(e.rig.engine, &c, &jobs[i], &err) != LLM_OK;
        }
        for (int i = 0; i < N; i++) {
            llm_job_view_t v;
            bad += !job_wait(&e.rig, &jobs[i], UINT32_MAX, &v, 60000) || v.n_new == 0;
            llm_job_close(&jobs[i]);
        }
    }
    llm_engine_stats(e.rig.engine, &st);
    ok(bad == 0 && st.n_cached_tokens > 0 && st.n_drafted[1] > 0 && st.n_kept[1] + 3 * N >= st.n_drafted[1],
       "prompts with one beginning: %llu tokens from the cache, %llu of %llu drafts kept", (unsigned long long) st.n_cached_tokens,
       (unsigned long long) st.n_kept[1], (unsigned long long) st.n_drafted[1]);
    engine_close(&e);
}

/* The leader is killed again and again while another worker's jobs run. draft: NULL, or the draft model that is used instead of copies. */
static void
test_takeover(const char *file, const char *draft, llm_kv_type_t kv)
{
    int kind = draft != NULL ? LLM_DRAFT_MODEL : LLM_DRAFT_LOOKUP;
    static full_t plain[N_JOBS];
    llm_engine_conf_t conf = { .kv_type = kv, .n_ctx = 200, .n_threads = 1, .n_slots = N_JOBS };
    llm_stats_t st;
    engine_t e;
    full_t *got = mmap(NULL, N_JOBS * sizeof(full_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int kills = 0, status;

    if (!ok(got != MAP_FAILED && run_all(file, NULL, &conf, N_JOBS, plain, &st), "takeover: without")) {
        return;
    }
    conf.speculate = draft != NULL ? 0 : 16;
    conf.n_draft = 8;
    if (!ok(engine_open(&e, file, draft, &conf, 0), "engine for workers")) {
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
    int differ = n_differ(got, plain);
    llm_engine_stats(e.rig.engine, &st);
    ok(WIFEXITED(status) && WEXITSTATUS(status) == 0 && differ == 0, "%d workers killed, %llu takeovers: the same bits (%d differ)", kills,
       (unsigned long long) st.n_takeovers, differ);
    ok(st.n_kept[kind] > 0 && st.n_takeovers > 0, "with drafts");
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
        check_model(models[i], LLM_KV_F32);
    }
    check_model(models[0], LLM_KV_Q8_0);
    check_model(models[5], LLM_KV_Q8_0);
    for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
        if (i != 5) {                                   /* an encoder cannot have one */
            check_draft(models[i], models[i], ALWAYS);
        }
    }
    check_draft(GGUF_DIR "llama-F32.gguf", GGUF_DIR "llama-F16.gguf", OFTEN);
    check_draft(models[0], "t/fixtures/models/llama_nf4", SELDOM);
    test_draft_prefix(models[0]);
    test_takeover(models[0], NULL, LLM_KV_F32);
    test_takeover(models[0], NULL, LLM_KV_Q8_0);
    test_takeover(models[0], models[0], LLM_KV_Q8_0);
    return done_testing();
}
