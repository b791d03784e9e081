/*
 * share_constraint.c - constraints of a process: compiled once for equal texts, by any thread, and dropped in order of use.
 */
#include "../../engine/share/constraint.c"
#include "engine_help.h"

#include <sys/wait.h>

#define MODEL GGUF_DIR "smollm2-Q4_1.gguf"
#define N_THREADS 4
#define SCHEMA "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"}},\"required\":[\"a\"]}"

static llm_engine_t *engine;

static llm_constraint_t *
make(llm_constraint_kind_t kind, const char *text, llm_err_t *err)
{
    llm_constraint_t *c;
    return llm_constraint_new(&c, engine, kind, text, text != NULL ? strlen(text) : 0, err) == LLM_OK ? c : NULL;
}

static void
test_kinds(void)
{
    static const struct { llm_constraint_kind_t kind; const char *text, *bad; } cases[] = {
        { LLM_CONSTRAIN_REGEX, "[ab]+", "[ab" },
        { LLM_CONSTRAIN_SCHEMA, SCHEMA, "{\"type\":\"nothing\"}" },
        { LLM_CONSTRAIN_OBJECT, NULL, NULL },
        { LLM_CONSTRAIN_GBNF, "root ::= \"a\" | \"b\"", "root ::= other" },
        { LLM_CONSTRAIN_CALLS,
          "{\"free\":true,\"trigger\":\"<\",\"open\":\"<\",\"items\":[{\"prefix\":\"\",\"schema\":{},\"suffix\":\"\"}],\"join\":\"\","
          "\"close\":\"\",\"repeat\":true,\"min\":0}",
          "{\"free\":true}" },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        llm_err_t err = { 0 };
        llm_constraint_t *c = make(cases[i].kind, cases[i].text, &err), *again = make(cases[i].kind, cases[i].text, &err);
        ok(c != NULL && c == again, "kind %zu: equal texts give one constraint", i);
        llm_constraint_free(c);
        llm_constraint_free(again);
        if (cases[i].bad != NULL) {
            c = make(cases[i].kind, cases[i].bad, &err);
            ok(c == NULL && err.code == LLM_E_ARG && strncmp(err.msg, "grammar is not valid: ", 22) == 0, "%s", err.msg);
        }
    }
    llm_err_t err = { 0 };
    ok(make((llm_constraint_kind_t) 99, "", &err) == NULL && err.code == LLM_E_ARG, "a kind that does not exist");
    llm_constraint_free(NULL);
}

/* More texts than the cache holds; one in use stays good, the one that is used now and then stays in the cache. */
static void
test_order(void)
{
    llm_err_t err = { 0 };
    llm_constraint_t *dropped = make(LLM_CONSTRAIN_REGEX, "first", &err), *kept = make(LLM_CONSTRAIN_REGEX, "second", &err);
    int bad = dropped == NULL || kept == NULL;
    for (unsigned i = 0; i < 3 * CACHE_ENTRIES; i++) {
        char text[40];
        snprintf(text, sizeof(text), "x{%u}", i + 1);
        llm_constraint_t *c = make(LLM_CONSTRAIN_REGEX, text, &err), *again = make(LLM_CONSTRAIN_REGEX, "second", &err);
        bad += c == NULL || again != kept;
        llm_constraint_free(c);
        llm_constraint_free(again);
    }
    is_int(bad, 0, "what is used stays");
    is_int(engine->constraints->n, CACHE_ENTRIES, "the cache is full");
    llm_constraint_t *c = make(LLM_CONSTRAIN_REGEX, "first", &err);
    ok(c != NULL && c != dropped, "the oldest was dropped and is compiled again");
    llm_grammar_state_t s;
    llm_grammar_start(dropped->grammar, &s);
    ok(llm_grammar_advance(dropped->grammar, &s, "first", 5) && llm_grammar_accepts(dropped->grammar, &s), "whose user still has it");
    llm_constraint_free(c);
    llm_constraint_free(dropped);
    llm_constraint_free(kept);
    size_t bytes = 0;
    for (uint32_t i = 0; i < engine->constraints->n; i++) {
        bytes += engine->constraints->entry[i]->bytes;
    }
    is_int((long long) bytes, (long long) engine->constraints->bytes, "bytes are counted");
}

static void *
many(void *arg)
{
    unsigned seed = *(unsigned *) arg, bad = 0;
    for (int i = 0; i < 400; i++) {
        llm_err_t err;
        char text[40];
        seed = seed * 1103515245 + 12345;
        snprintf(text, sizeof(text), "y{%u}", 1 + (seed >> 16) % 100);
        llm_constraint_t *c = make(LLM_CONSTRAIN_REGEX, text, &err);
        bad += c == NULL || !llm_grammar_check(c->grammar, c->bytes);
        llm_constraint_free(c);
    }
    *(unsigned *) arg = bad;
    return NULL;
}

static void
test_threads(void)
{
    pthread_t t[N_THREADS];
    unsigned arg[N_THREADS], bad = 0;
    for (unsigned i = 0; i < N_THREADS; i++) {
        arg[i] = i;
        pthread_create(&t[i], NULL, many, &arg[i]);
    }
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(t[i], NULL);
        bad += arg[i];
    }
    is_int(bad, 0, "threads compile, share and drop at once");
}

/* Ids are equal in all processes of an engine: a constraint of one is found by the grammar of another. */
static void
test_fork(void)
{
    uint64_t id[2] = { 0 };
    llm_err_t err;
    int fd[2], status = -1;
    llm_constraint_t *c = make(LLM_CONSTRAIN_SCHEMA, SCHEMA, &err);
    fflush(stdout);
    pid_t pid = pipe(fd) == 0 ? fork() : -1;
    if (pid == 0) {
        llm_constraint_t *other = make(LLM_CONSTRAIN_SCHEMA, SCHEMA, &err);
        _exit(other == NULL || write(fd[1], other->id, sizeof(id)) != sizeof(id));
    }
    waitpid(pid, &status, 0);
    ok(status == 0 && read(fd[0], id, sizeof(id)) == sizeof(id) && c != NULL && memcmp(id, c->id, sizeof(id)) == 0,
       "one id in two processes");
    llm_constraint_free(c);
    close(fd[0]);
    close(fd[1]);
}

int
main(void)
{
    llm_engine_conf_t conf = { .n_ctx = 64, .n_slots = 2 };
    llm_err_t err;
    rig_t rig;
    if (!ok(rig_open(&rig, MODEL, &conf), "engine")) {
        return done_testing();
    }
    engine = rig.engine;
    test_kinds();
    test_order();
    test_threads();
    test_fork();
    llm_constraint_t *c = make(LLM_CONSTRAIN_OBJECT, NULL, &err);
    rig_close(&rig);
    ok(llm_grammar_check(c->grammar, c->bytes), "a constraint outlives its engine");
    llm_constraint_free(c);
    return done_testing();
}
