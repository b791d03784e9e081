/*
 * share_embed.c - embeddings against the fixtures' reference implementation; the same bits alone, in a batch, in pieces and after a takeover.
 */
#include "engine_help.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define MODELS "t/fixtures/models/"
#define TOLERANCE 5e-4          /* of values of about 1; float sums in another order differ by 1e-5 */
#define N_LONG 900
#define WIDEST 256

/* Runs one job to its end; the embedding is copied to out, its width returned (0: failure). */
static uint32_t
embed(const rig_t *rig, const int32_t *ids, uint32_t n, llm_pooling_t pooling, float *out, llm_job_view_t *view)
{
    llm_job_conf_t conf = { .tokens = ids, .n_tokens = n, .embed = pooling };
    llm_err_t err;
    llm_job_t job;
    uint32_t width = 0;
    llm_sampling_init(&conf.sampling);
    if (llm_job_submit(rig->engine, &conf, &job, &err) != LLM_OK) {
        diag("%s", err.msg);
        return 0;
    }
    if (job_wait(rig, &job, UINT32_MAX, view, 60000)) {
        const float *x = llm_job_embedding(&job, &width);
        if (x != NULL && width <= WIDEST) {
            memcpy(out, x, width * sizeof(*out));
        }
    }
    llm_job_close(&job);
    return width;
}

static double
distance(const float *x, const json_t *want)
{
    double worst = 0;
    for (size_t i = 0; i < json_array_size(want); i++) {
        worst = fmax(worst, fabs(x[i] - json_number_value(json_array_get(want, i))));
    }
    return worst;
}

static void
check_model(const char *name, const json_t *want)
{
    char file[300], label[300];
    json_error_t e;
    snprintf(file, sizeof(file), MODELS "%s/expected.json", name);
    json_t *expected = json_load_file(file, 0, &e);
    int32_t ids[MAX_IDS];
    uint32_t n = json_ids(json_object_get(json_array_get(json_object_get(expected, "cases"), 0), "input_ids"), ids);
    json_decref(expected);
    llm_engine_conf_t conf = { .n_threads = 2, .n_ctx = n > 8 ? n : 8 };
    llm_job_view_t view;
    rig_t rig;
    snprintf(file, sizeof(file), MODELS "%s", name);
    if (!ok(n > 0 && rig_open(&rig, file, &conf) && rig_join(&rig), "%s opens", name)) {
        return;
    }
    for (int k = 0; k < 2; k++) {
        const json_t *x = json_object_get(want, k ? "last" : "mean");
        float got[WIDEST];
        uint32_t width = embed(&rig, ids, n, k ? LLM_EMBED_LAST : LLM_EMBED_MEAN, got, &view);
        snprintf(label, sizeof(label), "%s: %s of %u tokens", name, k ? "last" : "mean", n);
        near(width == json_array_size(x) && width > 0 ? distance(got, x) : INFINITY, 0, TOLERANCE, label);
    }
    rig_close(&rig);
}

static void
long_prompt(int32_t *ids, int seed)
{
    for (int i = 0; i < N_LONG; i++) {
        ids[i] = (i * 37 + seed * (i > 300) * 11 + 7) % 300;
    }
}

/* Many at once with streams beside them, in little memory, against each alone. */
static void
test_batch(void)
{
    enum { N = 6 };
    static float alone[N][WIDEST];
    static int32_t ids[N][N_LONG];
    llm_engine_conf_t conf = { .n_ctx = N_LONG + 100, .n_threads = 2 };
    llm_job_t jobs[N], stream;
    llm_job_view_t view;
    llm_stats_t st;
    llm_err_t err;
    rig_t rig;
    int bad = 0;

    if (!ok(rig_open(&rig, MODELS "llama", &conf) && rig_join(&rig), "engine")) {
        return;
    }
    for (int i = 0; i < N; i++) {
        long_prompt(ids[i], i);
        bad += embed(&rig, ids[i], N_LONG, i % 2 ? LLM_EMBED_LAST : LLM_EMBED_MEAN, alone[i], &view) == 0;
        bad += i % 2 == 0 && view.n_cached != 0;
        bad += i == 3 && view.n_cached == 0;
    }
    is_int(bad, 0, "each alone; a mean computes every token, the last one takes the prefix from the cache");
    llm_job_conf_t s = { .tokens = ids[0], .n_tokens = 20, .max_new = 1000 };
    llm_sampling_init(&s.sampling);
    s.sampling.ignore_eos = true;
    bad += llm_job_submit(rig.engine, &s, &stream, &err) != LLM_OK;
    for (int i = 0; i < N; i++) {
        llm_job_conf_t c = { .tokens = ids[i], .n_tokens = N_LONG, .embed = i % 2 ? LLM_EMBED_LAST : LLM_EMBED_MEAN };
        llm_sampling_init(&c.sampling);
        bad += llm_job_submit(rig.engine, &c, &jobs[i], &err) != LLM_OK;
    }
    for (int i = 0; i < N; i++) {
        uint32_t width;
        bad += !job_wait(&rig, &jobs[i], UINT32_MAX, &view, 60000);
        const float *x = llm_job_embedding(&jobs[i], &width);
        bad += x == NULL || memcmp(x, alone[i], width * sizeof(*x)) != 0;
        llm_job_close(&jobs[i]);
    }
    llm_job_close(&stream);
    llm_engine_stats(rig.engine, &st);
    is_int(bad, 0, "the same bits beside a stream and each other");
    rig_close(&rig);
}

static void
test_limits(void)
{
    llm_engine_conf_t conf = { .n_ctx = 64, .n_threads = 1 };
    int32_t ids[64] = { 1, 2, 3 };
    llm_job_conf_t c = { .tokens = ids, .n_tokens = 64, .embed = LLM_EMBED_MEAN };
    llm_job_view_t view;
    llm_err_t err;
    llm_job_t job;
    uint32_t width;
    rig_t rig;
    if (!ok(rig_open(&rig, MODELS "llama", &conf) && rig_join(&rig), "engine")) {
        return;
    }
    llm_sampling_init(&c.sampling);
    ok(llm_job_submit(rig.engine, &c, &job, &err) == LLM_OK && job_wait(&rig, &job, UINT32_MAX, &view, 60000)
           && view.finish == LLM_FINISH_LENGTH && view.n_new == 0 && llm_job_embedding(&job, &width) != NULL,
       "a prompt as long as the context");
    llm_job_close(&job);
    ok(llm_job_embedding(&job, &width) == NULL && width == 0, "none after the end");
    c.max_new = 1;
    is_int(llm_job_submit(rig.engine, &c, &job, &err), LLM_E_ARG, "no output beside it");
    c.max_new = 0;
    c.embed = (llm_pooling_t) 7;
    is_int(llm_job_submit(rig.engine, &c, &job, &err), LLM_E_ARG, "a pooling that does not exist");
    c.embed = LLM_EMBED_NONE;
    ok(llm_job_submit(rig.engine, &c, &job, &err) == LLM_OK && job_wait(&rig, &job, UINT32_MAX, &view, 60000)
           && llm_job_embedding(&job, &width) == NULL,
       "none unless asked for");
    llm_job_close(&job);
    rig_close(&rig);
}

/* The leader is killed in the middle of a prompt; another worker's job has the bits that it gets alone. */
static void
test_takeover(void)
{
    static int32_t ids[N_LONG];
    static float want[WIDEST];
    typedef struct { volatile int joined, go, done; float x[WIDEST]; uint32_t width; } board_t;
    board_t *board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    llm_engine_conf_t conf = { .n_ctx = N_LONG, .n_threads = 1 };
    llm_job_view_t view;
    rig_t rig;

    long_prompt(ids, 3);
    if (!ok(board != MAP_FAILED && rig_open(&rig, MODELS "llama", &conf) && rig_join(&rig)
                && embed(&rig, ids, N_LONG, LLM_EMBED_MEAN, want, &view) > 0, "alone")) {
        return;
    }
    rig_close(&rig);
    int bad = 0, taken = 0;
    for (int round = 0; round < 8; round++) {
        memset(board, 0, sizeof(*board));
        if (!rig_open(&rig, MODELS "llama", &conf)) {
            bad++;
            break;
        }
        fflush(stdout);
        pid_t leader = fork();
        if (leader == 0) {
            _exit(rig_join(&rig) && (board->joined = 1) ? pause() : 1);
        }
        while (!board->joined) {
            usleep(1000);
        }
        llm_stats_t st;
        do {
            llm_engine_stats(rig.engine, &st);
        } while (st.leader_pid != leader);
        pid_t worker = fork();
        if (worker == 0) {
            if (!rig_join(&rig)) {
                _exit(1);
            }
            board->go = 1;
            board->width = embed(&rig, ids, N_LONG, LLM_EMBED_MEAN, board->x, &view);
            board->done = 1;
            llm_engine_leave(rig.engine);
            _exit(0);
        }
        while (!board->go) {
            usleep(100);
        }
        usleep((useconds_t) (500 + round * 700));
        taken += !board->done;
        kill(leader, SIGKILL);
        waitpid(leader, NULL, 0);
        waitpid(worker, NULL, 0);
        bad += board->width == 0 || memcmp(board->x, want, board->width * sizeof(float)) != 0;
        llm_engine_free(rig.engine);
        llm_model_close(rig.model);
    }
    ok(bad == 0 && taken > 0, "the same bits after a takeover (%d of 8 in the middle)", taken);
}

int
main(void)
{
    json_error_t e;
    json_t *all = json_load_file("t/fixtures/embeddings.json", 0, &e), *want;
    const char *name;
    ok(json_object_size(all) > 30, "fixtures");
    json_object_foreach(all, name, want) {
        check_model(name, want);
    }
    json_decref(all);
    test_batch();
    test_limits();
    test_takeover();
    return done_testing();
}
