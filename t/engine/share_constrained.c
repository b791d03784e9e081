/*
 * share_constrained.c - jobs whose output is constrained: the tokens are the best ones that the grammar allows, whatever runs beside them, and an
 * output ends when its grammar does.
 *
 * What is allowed is decided here token by token (llm_grammar_token), what is best by the list of raw alternatives of a job without a constraint.
 */
#include "engine_help.h"
#include "share/arena.h"

#define MODEL GGUF_DIR "smollm2-Q4_1.gguf"
#define N_PROMPT 20
#define N_CASES (sizeof(cases) / sizeof(cases[0]))

static const struct { llm_constraint_kind_t kind; const char *text; } cases[] = {
    { LLM_CONSTRAIN_REGEX, "[a-z]{2,9}( [a-z]{1,9}){3,5}\\." },
    { LLM_CONSTRAIN_REGEX, "(yes|no|maybe)" },
    { LLM_CONSTRAIN_SCHEMA, "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":12},"
                            "\"age\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":120}},\"required\":[\"name\",\"age\"]}" },
    { LLM_CONSTRAIN_SCHEMA, "{\"type\":\"array\",\"items\":{\"enum\":[\"red\",\"green\",\"blue\"]},\"minItems\":3,\"maxItems\":6}" },
    { LLM_CONSTRAIN_OBJECT, NULL },
    { LLM_CONSTRAIN_GBNF, "root ::= \"(\" (root | [0-9]+)* \")\"" },
};

static llm_constraint_t *
make(const rig_t *rig, size_t i)
{
    llm_err_t err = { 0 };
    llm_constraint_t *c;
    if (llm_constraint_new(&c, rig->engine, cases[i].kind, cases[i].text, cases[i].text ? strlen(cases[i].text) : 0, &err) != LLM_OK) {
        diag("%s", err.msg);
    }
    return c;
}

static llm_job_conf_t
job_of(int i, int32_t *ids, const llm_constraint_t *c)
{
    llm_job_conf_t conf = { .tokens = ids, .n_tokens = N_PROMPT, .max_new = 60, .constraint = c };
    for (int j = 0; j < N_PROMPT; j++) {
        ids[j] = (j * 13 + i * 7 + 5) % 300;
    }
    llm_sampling_init(&conf.sampling);
    conf.sampling.seed = (uint64_t) i;
    return conf;
}

/* Every token may follow those before; the text is complete when the output ended by itself. */
static bool
obeys(const rig_t *rig, const llm_constraint_t *c, const result_t *r)
{
    llm_grammar_state_t s;
    llm_grammar_start(c->grammar, &s);
    for (uint32_t i = 0; i < r->view.n_new; i++) {
        if (!llm_grammar_token(rig->engine->gvocab, c->grammar, &s, r->ids[i])) {
            diag("token %u is %d", i, r->ids[i]);
            return false;
        }
    }
    return r->view.finish == LLM_FINISH_LENGTH || (r->view.finish == LLM_FINISH_EOS && llm_grammar_accepts(c->grammar, &s));
}

static void
test_sampled(const rig_t *rig)
{
    static result_t r;
    int32_t ids[N_PROMPT];
    for (size_t i = 0; i < N_CASES; i++) {
        llm_constraint_t *c = make(rig, i);
        int bad = c == NULL, ended = 0;
        for (int k = 0; k < 12 && c != NULL; k++) {
            llm_job_conf_t conf = job_of(k, ids, c);
            conf.sampling.sample = k % 4 != 0;
            conf.sampling.temperature = k % 3 ? 1 : 3;
            conf.sampling.top_p = k % 2 ? 1 : 0.9f;
            conf.sampling.ignore_eos = k % 6 == 5;
            conf.sampling.min_tokens = k % 5 == 4 ? 8 : 0;
            bad += !job_run(rig, &conf, &r) || !obeys(rig, c, &r);
            ended += r.view.finish == LLM_FINISH_EOS;
        }
        ok(bad == 0 && (ended > 0 || i >= 4), "case %zu: %d of 12 outputs end, all obey", i, ended);
        llm_constraint_free(c);
    }
}

/* The raw alternatives of the token that would follow: all that the list holds. */
static bool
alternatives(const rig_t *rig, const int32_t *tokens, uint32_t n, llm_top_t *top, uint32_t *n_top)
{
    llm_job_conf_t conf = { .tokens = tokens, .n_tokens = n, .max_new = 1, .n_top = 256, .top_raw = true };
    llm_job_view_t view;
    llm_job_token_t t;
    llm_err_t err;
    llm_job_t job;
    llm_sampling_init(&conf.sampling);
    if (llm_job_submit(rig->engine, &conf, &job, &err) != LLM_OK) {
        return false;
    }
    bool in_time = job_wait(rig, &job, 1, &view, 60000);
    llm_job_token(&job, n, &t);
    *n_top = t.n_top;
    memcpy(top, t.top, t.n_top * sizeof(*top));
    llm_job_close(&job);
    return in_time;
}

/* Greedy: each token is the first of the raw list that the grammar allows. */
static void
test_greedy(const rig_t *rig)
{
    static result_t r;
    static llm_top_t top[512];
    int32_t ids[N_PROMPT + 64];
    int checked = 0;
    for (size_t i = 0; i < N_CASES; i++) {
        llm_constraint_t *c = make(rig, i);
        llm_job_conf_t conf = job_of((int) i, ids, c);
        llm_grammar_state_t s;
        int bad = !job_run(rig, &conf, &r);
        llm_grammar_start(c->grammar, &s);
        for (uint32_t k = 0; k < r.view.n_new && bad == 0; k++) {
            uint32_t n_top = 0, at = 0;
            bad += !alternatives(rig, ids, N_PROMPT + k, top, &n_top);
            for (; at < n_top; at++) {
                llm_grammar_state_t copy = s;
                if (llm_grammar_token(rig->engine->gvocab, c->grammar, &copy, top[at].id)) {
                    break;
                }
            }
            checked += at < n_top;
            bad += at < n_top && top[at].id != r.ids[k];
            bad += !llm_grammar_token(rig->engine->gvocab, c->grammar, &s, r.ids[k]);
            ids[N_PROMPT + k] = r.ids[k];
        }
        ok(bad == 0, "case %zu: greedy takes the best of what is allowed", i);
        llm_constraint_free(c);
    }
    ok(checked > 60, "%d tokens were compared", checked);
}

/* Processed log-probabilities: alternatives are allowed ids, and sum to one when they are few. */
static void
test_logprobs(const rig_t *rig)
{
    int32_t ids[N_PROMPT];
    llm_constraint_t *c = make(rig, 1);
    llm_job_conf_t conf = job_of(1, ids, c);
    llm_job_view_t view;
    llm_err_t err;
    llm_job_t job;
    int bad = 0;

    conf.n_top = 200;
    ok(llm_job_submit(rig->engine, &conf, &job, &err) == LLM_OK && job_wait(rig, &job, UINT32_MAX, &view, 60000), "a job with alternatives");
    llm_grammar_state_t s;
    llm_grammar_start(c->grammar, &s);
    for (uint32_t k = 0; k < view.n_new; k++) {
        llm_job_token_t t;
        double sum = 0;
        llm_job_token(&job, N_PROMPT + k, &t);
        for (uint32_t a = 0; a < t.n_top; a++) {
            llm_grammar_state_t copy = s;
            bad += !llm_grammar_token(rig->engine->gvocab, c->grammar, &copy, t.top[a].id);
            sum += exp(t.top[a].logprob);
        }
        bad += t.n_top == 0 || fabs(sum - 1) > 1e-5 || fabs(t.logprob - t.top[0].logprob) > 1e-5 || t.raw_logprob > t.logprob;
        llm_grammar_token(rig->engine->gvocab, c->grammar, &s, t.id);
    }
    is_int(bad, 0, "only what the grammar allows has a probability");
    llm_job_close(&job);
    llm_constraint_free(c);
}

/* End tokens: banned for a while, banned for good, banned by a bias. */
static void
test_ends(const rig_t *rig)
{
    static result_t r;
    int32_t ids[N_PROMPT];
    llm_bias_t bias[LLM_MAX_BIAS];
    const llm_model_info_t *info = llm_model_info(rig->model);
    llm_constraint_t *c = make(rig, 1);
    llm_job_conf_t conf = job_of(2, ids, c);

    ok(job_run(rig, &conf, &r) && r.view.finish == LLM_FINISH_EOS && llm_token_is_eos(rig->model, r.ids[r.view.n_new - 1]),
       "an output ends with an end token");
    uint32_t n = r.view.n_new;
    conf.sampling.min_tokens = 50;
    ok(job_run(rig, &conf, &r) && r.view.finish == LLM_FINISH_EOS && r.view.n_new == n, "min_tokens yields where nothing else can follow");
    conf.sampling.min_tokens = 0;
    conf.sampling.ignore_eos = true;
    ok(job_run(rig, &conf, &r) && r.view.finish == LLM_FINISH_EOS && r.view.n_new == n - 1 && obeys(rig, c, &r),
       "ignore_eos: it ends without one when the grammar does");
    conf.sampling.ignore_eos = false;
    conf.sampling.bias = bias;
    for (uint32_t i = 0; i < info->n_vocab && conf.sampling.n_bias < LLM_MAX_BIAS; i++) {
        llm_grammar_state_t s;
        llm_grammar_start(c->grammar, &s);
        if (llm_token_is_eos(rig->model, (int32_t) i) || llm_grammar_token(rig->engine->gvocab, c->grammar, &s, (int32_t) i)) {
            bias[conf.sampling.n_bias++] = (llm_bias_t) { (int32_t) i, -100 };
        }
    }
    ok(job_run(rig, &conf, &r) && r.view.finish == LLM_FINISH_EOS && obeys(rig, c, &r), "the grammar wins over %u bans", conf.sampling.n_bias);
    llm_constraint_free(c);

    conf = job_of(3, ids, c = make(rig, 0));
    conf.sampling.min_tokens = 30;
    conf.max_new = 7;
    ok(job_run(rig, &conf, &r) && r.view.finish == LLM_FINISH_LENGTH && r.view.n_new == 7 && obeys(rig, c, &r), "cut by its length");
    llm_constraint_free(c);
}

/* Many at once, with and without constraints, in little memory: the bits of each alone. */
static void
test_together(const llm_engine_conf_t *conf)
{
    enum { N = 24 };
    static result_t alone[N], r[N];
    llm_constraint_t *c[N_CASES + 1] = { NULL };
    llm_job_t jobs[N];
    llm_err_t err;
    llm_stats_t st;
    rig_t rig;
    int bad = 0;

    if (!ok(rig_open(&rig, MODEL, conf) && rig_join(&rig), "engine in little memory")) {
        return;
    }
    for (size_t i = 0; i < N_CASES; i++) {
        c[i] = make(&rig, i);
    }
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < N; i++) {
            int32_t ids[N_PROMPT];
            llm_job_conf_t job = job_of(i, ids, c[(size_t) i % (N_CASES + 1)]);
            job.sampling.sample = i % 3;
            job.max_new = 100;
            job.sampling.ignore_eos = i % 4 == 1;
            if (pass == 0) {
                bad += !job_run(&rig, &job, &alone[i]);
            } else {
                bad += llm_job_submit(rig.engine, &job, &jobs[i], &err) != LLM_OK;
            }
        }
    }
    for (int i = 0; i < N; i++) {
        job_wait(&rig, &jobs[i], UINT32_MAX, &r[i].view, 60000);
        job_result(&jobs[i], &r[i]);
        llm_job_close(&jobs[i]);
        bad += r[i].view.n_new != alone[i].view.n_new || r[i].view.finish != alone[i].view.finish
               || memcmp(r[i].ids, alone[i].ids, r[i].view.n_new * sizeof(int32_t)) != 0
               || memcmp(r[i].logprob + N_PROMPT, alone[i].logprob + N_PROMPT, r[i].view.n_new * sizeof(float)) != 0;
    }
    llm_engine_stats(rig.engine, &st);
    ok(bad == 0, "%d jobs at once get the bits that they get alone (%d differ)", N, bad);
    ok(st.n_preemptions > 0, "some were paused (%llu)", (unsigned long long) st.n_preemptions);
    for (size_t i = 0; i < N_CASES; i++) {
        llm_constraint_free(c[i]);
    }
    rig_close(&rig);
}

int
main(void)
{
    llm_engine_conf_t conf = { .n_ctx = 256, .n_threads = 2, .max_top = 256 };
    rig_t rig;
    if (!ok(rig_open(&rig, MODEL, &conf) && rig_join(&rig), "engine")) {
        return done_testing();
    }
    test_sampled(&rig);
    test_greedy(&rig);
    test_logprobs(&rig);
    test_ends(&rig);
    conf.n_ctx = 128;
    conf.n_parallel = 16;
    /* room for two whole ones, so that some must be paused however fast they come and go */
    conf.kv_bytes = 2 * conf.n_ctx * llm_model_kv_bytes(rig.model, conf.kv_type);
    rig_close(&rig);
    test_together(&conf);
    return done_testing();
}
