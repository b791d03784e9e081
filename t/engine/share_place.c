/*
 * share_place.c - grammars in the arena: shared, kept, replaced, bounded; no kill at any instruction leaves one that is wrong or a place lost.
 *
 * Blocks here are patterns instead of grammars: this layer only moves bytes.
 */
#include "../../engine/share/place.c"
#include "engine_help.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define MODEL GGUF_DIR "smollm2-Q4_1.gguf"
#define N_SLOTS 6
#define N_IDS 10
#define N_CHILDREN 3
#define KILLS 60

typedef struct {
    _Atomic uint32_t wrong, uses, busy;
} board_t;

static board_t *board;      /* shared */

/* A block of words that are all its id; some are larger than what a dropped place keeps. */
static llm_constraint_t
pattern(uint64_t id, size_t bytes)
{
    llm_constraint_t c = { .id = { id, ~id }, .bytes = bytes, .grammar = malloc(bytes) };
    for (size_t i = 0; i < bytes / 8; i++) {
        ((uint64_t *) c.grammar)[i] = id;
    }
    return c;
}

static bool
holds(const llm_engine_t *e, const llm_slot_t *slot, const llm_constraint_t *c)
{
    const uint64_t *w = (const uint64_t *) llm_place_block(&e->sh, slot->place - 1);
    for (size_t i = 0; i < c->bytes / 8; i++) {
        if (w[i] != c->id[0]) {
            return false;
        }
    }
    return slot->place > 0;
}

static llm_slot_t *
claim(llm_engine_t *e, uint32_t i)
{
    llm_slot_t *slot = llm_slot(&e->sh, i);
    uint64_t none = 0, mine = llm_slot_owner(e->worker, e->worker_generation) | LLM_SLOT_CLAIMED;
    if (!atomic_compare_exchange_strong(&slot->state, &none, mine)) {
        return NULL;
    }
    atomic_store(&slot->place, 0);
    return slot;
}

static void
test_sharing(llm_engine_t *e)
{
    llm_constraint_t c[N_SLOTS + 1];
    llm_slot_t *slot[N_SLOTS];
    int bad = 0;

    for (uint64_t i = 0; i <= N_SLOTS; i++) {
        c[i] = pattern(i + 100, 4096);
    }
    for (uint32_t i = 0; i < N_SLOTS; i++) {
        slot[i] = claim(e, i);
    }
    ok(llm_place_use(e, slot[0], &c[0]) && llm_place_use(e, slot[1], &c[0]) && slot[0]->place == slot[1]->place, "two jobs share a grammar");
    llm_slot_free(slot[0]);
    ok(holds(e, slot[1], &c[0]), "one of them ends, the other has it");
    uint32_t at = slot[1]->place;
    llm_slot_free(slot[1]);
    slot[0] = claim(e, 0);
    slot[1] = claim(e, 1);
    ok(llm_place_use(e, slot[1], &c[0]) && slot[1]->place == at, "with no user it stays until the place is needed");
    llm_slot_free(slot[1]);
    slot[1] = claim(e, 1);
    for (uint32_t i = 0; i < N_SLOTS; i++) {
        bad += !llm_place_use(e, slot[i], &c[i + 1]);
    }
    for (uint32_t i = 0; i < N_SLOTS; i++) {
        bad += !holds(e, slot[i], &c[i + 1]);
    }
    is_int(bad, 0, "as many grammars as slots");
    for (uint32_t i = 0; i < N_SLOTS; i++) {
        llm_slot_free(slot[i]);
    }
    for (uint64_t i = 0; i <= N_SLOTS; i++) {
        free(c[i].grammar);
    }
}

static void
test_bytes(llm_engine_t *e)
{
    enum { N_BIG = MAX_BYTES / LLM_GRAMMAR_MAX_BYTES };
    llm_constraint_t c[N_BIG + 1];
    llm_slot_t *slot[N_BIG + 1];
    int bad = 0;

    for (uint64_t i = 0; i <= N_BIG; i++) {
        c[i] = pattern(i + 200, LLM_GRAMMAR_MAX_BYTES);
        slot[i] = claim(e, (uint32_t) i);
        bad += i < N_BIG && !llm_place_use(e, slot[i], &c[i]);
    }
    is_int(bad, 0, "large grammars up to the limit");
    is_int((long long) total_bytes(e), MAX_BYTES, "which is reached");
    ok(!llm_place_use(e, slot[N_BIG], &c[N_BIG]) && slot[N_BIG]->place == 0, "one more finds no room");
    llm_slot_free(slot[3]);
    ok(llm_place_use(e, slot[N_BIG], &c[N_BIG]) && holds(e, slot[N_BIG], &c[N_BIG]), "but does when another has ended");
    is_int((long long) total_bytes(e), MAX_BYTES, "in whose stead it is");
    for (int i = 0; i < N_BIG; i++) {
        bad += i != 3 && !holds(e, slot[i], &c[i]);
        free(c[i].grammar);
        llm_slot_free(slot[i]);
    }
    free(c[N_BIG].grammar);
    llm_slot_free(slot[N_BIG]);
    is_int(bad, 0, "the others are untouched");
}

/* Claims, names, looks, frees, as long as it lives. */
static void
child(rig_t *rig, unsigned seed)
{
    llm_constraint_t c[N_IDS];
    for (unsigned i = 0; i < N_IDS; i++) {
        c[i] = pattern(i + 1, i % 3 == 0 ? 2 * KEEP_BYTES : 8192);
    }
    if (!rig_join(rig)) {
        _exit(1);
    }
    for (;;) {
        seed = seed * 1103515245 + 12345;
        llm_slot_t *slot = claim(rig->engine, (seed >> 16) % N_SLOTS);
        const llm_constraint_t *want = &c[(seed >> 20) % N_IDS];
        if (slot == NULL) {
            continue;
        }
        if (llm_place_use(rig->engine, slot, want)) {
            for (int k = 0; k < 3; k++) {
                board->wrong += !holds(rig->engine, slot, want);
            }
            board->uses++;
        } else {
            board->busy++;
        }
        llm_slot_free(slot);
    }
}

static void
test_kills(rig_t *rig)
{
    llm_engine_t *e = rig->engine;
    pid_t pid[N_CHILDREN] = { 0 };
    int exited = 0;

    fflush(stdout);
    for (int k = 0; k < KILLS + N_CHILDREN; k++) {
        int i = k % N_CHILDREN, status;
        if (pid[i] > 0) {
            usleep(3000 + k * 7919 % 20000);
            kill(pid[i], SIGKILL);
            waitpid(pid[i], &status, 0);
            exited += WIFEXITED(status);
        }
        pid[i] = k < KILLS ? fork() : 0;
        if (pid[i] == 0 && k < KILLS) {
            child(rig, (unsigned) k * 2654435761u + 1);
        }
    }
    is_int(exited, 0, "all were killed");
    is_int(board->wrong, 0, "no block ever changed under its user");
    ok(board->uses > 1000, "%u uses, %u times no place", board->uses, board->busy);
    if (!rig_join(rig)) {
        return;
    }
    llm_stats_t st = { 0 };
    for (int i = 0; i < 500 && (i == 0 || st.n_used > 0); i++) {
        usleep(10000);
        llm_engine_stats(e, &st);
    }
    is_int(st.n_used, 0, "the leader frees the slots of the dead");
    test_sharing(e);
}

/* Where address space for all places is not to be had, there are fewer. */
static void
test_short_of_space(void)
{
    llm_engine_conf_t conf = { .n_ctx = 64, .n_slots = 128, .n_threads = 1 };
    rig_t rig;
    struct rlimit before, tight;
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");

    ok(f != NULL && fscanf(f, "%lu", &pages) == 1, "size of the process");
    if (f != NULL) {
        fclose(f);
    }
    getrlimit(RLIMIT_AS, &before);
    tight = before;
    tight.rlim_cur = (rlim_t) pages * (rlim_t) sysconf(_SC_PAGESIZE) + ((rlim_t) 512 << 20);
    setrlimit(RLIMIT_AS, &tight);
    if (ok(rig_open(&rig, MODEL, &conf), "engine where 128 grammars of the largest size have no room")) {
        ok(rig.engine->sh.n_places >= 1 && rig.engine->sh.n_places < 64, "room for %u", rig.engine->sh.n_places);
        rig_close(&rig);
    }
    setrlimit(RLIMIT_AS, &before);
}

int
main(void)
{
    llm_engine_conf_t conf = { .n_ctx = 64, .n_slots = 16, .n_threads = 1 };
    rig_t rig;

    board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!ok(board != MAP_FAILED && rig_open(&rig, MODEL, &conf) && rig_join(&rig), "engine")) {
        return done_testing();
    }
    test_sharing(rig.engine);
    test_bytes(rig.engine);
    rig_close(&rig);

    conf.n_slots = N_SLOTS;
    if (ok(rig_open(&rig, MODEL, &conf), "engine for workers")) {
        test_kills(&rig);
        rig_close(&rig);
    }
    test_short_of_space();
    return done_testing();
}
