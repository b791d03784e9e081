/*
 * share_lead.c - several processes, one batch: takeover after SIGKILL, handing over on drain, records of the dead.
 */
#include "engine_help.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define MODEL GGUF_DIR "smollm2-Q4_1.gguf"
#define N_NEW 1500

/* What a child shows its parent. */
typedef struct {
    volatile int joined, drained, n_new, done;
    result_t     r;
} child_t;

static child_t *board;      /* shared */
static llm_constraint_t *constraint;        /* of job 2; made before the fork for the engine in use */
static volatile sig_atomic_t want_drain, want_leave;

static void
on_drain(int sig)
{
    (void) sig;
    want_drain = 1;
}

static void
on_leave(int sig)
{
    (void) sig;
    want_leave = 1;
}

static llm_job_conf_t
job_of(int i, int32_t *ids)
{
    llm_job_conf_t c = { .tokens = ids, .n_tokens = 60, .max_new = N_NEW };
    for (int j = 0; j < 60; j++) {
        ids[j] = j < 40 ? (j * 13 + 5) % 300 : (j * 31 + i * 17) % 300;
    }
    llm_sampling_init(&c.sampling);
    c.sampling.ignore_eos = true;
    c.sampling.sample = true;
    c.sampling.seed = (uint64_t) i;
    c.constraint = i == 2 ? constraint : NULL;
    return c;
}

static int
open_all(rig_t *rig, const llm_engine_conf_t *conf)
{
    static const char words[] = "([a-z]{1,9}[ ,;])+";
    llm_err_t err;
    if (!rig_open(rig, MODEL, conf)) {
        return 0;
    }
    llm_constraint_free(constraint);
    return llm_constraint_new(&constraint, rig->engine, LLM_CONSTRAIN_REGEX, words, strlen(words), &err) == LLM_OK;
}

/* Joins, runs job i slowly enough to be disturbed, leaves. */
static void
child(rig_t *rig, int i)
{
    int32_t ids[MAX_IDS];
    llm_job_conf_t c = job_of(i, ids);
    llm_err_t err;
    llm_job_t job;

    signal(SIGUSR1, on_drain);
    signal(SIGUSR2, on_leave);
    if (!rig_join(rig)) {
        _exit(1);
    }
    board[i].joined = 1;
    if (llm_job_submit(rig->engine, &c, &job, &err) != LLM_OK) {
        _exit(2);
    }
    for (;;) {
        llm_job_view_t v;
        if (want_drain && !board[i].drained) {
            llm_engine_drain(rig->engine);
            board[i].drained = 1;
        }
        job_wait(rig, &job, (uint32_t) board[i].n_new + 1, &v, 100);
        board[i].n_new = (int) v.n_new;
        if (v.done) {
            break;
        }
    }
    job_result(&job, &board[i].r);
    llm_job_close(&job);
    board[i].done = 1;
    while (!want_leave) {
        usleep(2000);
    }
    llm_engine_leave(rig->engine);
    _exit(0);
}

static pid_t
start(rig_t *rig, int i)
{
    memset(&board[i], 0, sizeof(board[i]));
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        child(rig, i);
    }
    return pid;
}

static int
until(volatile int *what, int value)
{
    for (int i = 0; i < 6000 && *what < value; i++) {
        usleep(5000);
    }
    return *what >= value;
}

static int32_t
leader(const rig_t *rig, int32_t not_this)
{
    llm_stats_t st = { 0 };
    for (int i = 0; i < 2000; i++) {
        llm_engine_stats(rig->engine, &st);
        if (st.leader_pid != 0 && st.leader_pid != not_this) {
            break;
        }
        usleep(1000);
    }
    return st.leader_pid;
}

static int
end_child(pid_t pid)
{
    int status = -1;
    kill(pid, SIGUSR2);
    waitpid(pid, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void
test_takeover(rig_t *rig, const result_t *alone)
{
    llm_stats_t before, after = { 0 };
    pid_t pid[3];

    llm_engine_stats(rig->engine, &before);
    for (int i = 0; i < 3; i++) {
        pid[i] = start(rig, i);
    }
    for (int i = 0; i < 3; i++) {
        ok(until(&board[i].n_new, 10), "worker %d streams", i);
    }
    int32_t victim = leader(rig, 0);
    int v = victim == pid[0] ? 0 : victim == pid[1] ? 1 : 2;
    ok(victim == pid[v] && board[v].n_new < N_NEW, "worker %d leads in the middle of its job", v);
    kill(victim, SIGKILL);
    waitpid(victim, NULL, 0);
    ok(leader(rig, victim) != victim, "another one leads");
    for (int i = 0; i < 3; i++) {
        if (i != v) {
            ok(until(&board[i].done, 1), "worker %d ends", i);
            ok(board[i].r.view.n_new == N_NEW && memcmp(board[i].r.ids, alone[i].ids, N_NEW * sizeof(int32_t)) == 0,
               "with the tokens that it gets alone");
        }
    }
    for (int i = 0; i < 400 && (i == 0 || after.n_running > 0); i++) {
        usleep(10000);
        llm_engine_stats(rig->engine, &after);
    }
    is_int(after.n_running, 0, "the dead worker's job is gone");
    is_int((long long) (after.n_takeovers - before.n_takeovers), 1, "one takeover");
    is_int(after.pages_free + after.pages_cached, after.pages_total, "no page is lost");
    for (int i = 0; i < 3; i++) {
        if (i != v) {
            ok(end_child(pid[i]), "worker %d leaves", i);
        }
    }
}

static void
test_drain(rig_t *rig, const result_t *alone)
{
    llm_stats_t before, after;
    pid_t pid[2];

    pid[0] = start(rig, 0);
    ok(until(&board[0].n_new, 5), "the only worker streams");
    llm_engine_stats(rig->engine, &before);     /* it may have followed a dead leader of an earlier test */
    is_int(leader(rig, 0), pid[0], "and leads");
    kill(pid[0], SIGUSR1);
    ok(until(&board[0].drained, 1), "it is told to drain");
    int seen = board[0].n_new;
    ok(until(&board[0].n_new, seen + 10) || board[0].done, "with nobody else it goes on leading");

    pid[1] = start(rig, 1);
    ok(until(&board[1].joined, 1), "a new worker comes");
    is_int(leader(rig, pid[0]), pid[1], "and is handed the lead");
    for (int i = 0; i < 2; i++) {
        ok(until(&board[i].done, 1) && memcmp(board[i].r.ids, alone[i].ids, N_NEW * sizeof(int32_t)) == 0,
           "worker %d ends with its tokens", i);
    }
    ok(end_child(pid[0]), "the drained worker leaves");
    ok(end_child(pid[1]), "the leader leaves");
    llm_engine_stats(rig->engine, &after);
    is_int((long long) (after.n_takeovers - before.n_takeovers), 0, "nobody had to take over");
    is_int(after.n_workers, 0, "no worker is left");
}

/* Records of dead workers are used again: many more lives than records. */
static void
test_records(rig_t *rig)
{
    int bad = 0;
    for (int i = 0; i < 100; i++) {
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            _exit(rig_join(rig) ? 0 : 1);       /* gone without leaving */
        }
        int status;
        waitpid(pid, &status, 0);
        bad += !WIFEXITED(status) || WEXITSTATUS(status) != 0;
    }
    is_int(bad, 0, "100 processes joined and died");
}

int
main(void)
{
    static result_t alone[3];
    llm_engine_conf_t conf = { .n_ctx = 2048, .n_threads = 2 };
    rig_t rig;

    board = mmap(NULL, 3 * sizeof(child_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!ok(board != MAP_FAILED && open_all(&rig, &conf) && rig_join(&rig), "engine")) {
        return done_testing();
    }
    for (int i = 0; i < 3; i++) {
        int32_t ids[MAX_IDS];
        llm_job_conf_t c = job_of(i, ids);
        ok(job_run(&rig, &c, &alone[i]) && alone[i].view.n_new == N_NEW, "job %d alone", i);
    }
    rig_close(&rig);

    if (ok(open_all(&rig, &conf), "engine for workers")) {
        for (int round = 0; round < 3; round++) {
            test_takeover(&rig, alone);
        }
        test_drain(&rig, alone);
        test_records(&rig);
        test_drain(&rig, alone);
        llm_engine_free(rig.engine);
        llm_model_close(rig.model);
        llm_constraint_free(constraint);
    }
    return done_testing();
}
