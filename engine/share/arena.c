/*
 * arena.c - making and describing the shared memory (arena.h).
 */
#include "arena.h"
#include "run/forward.h"
#include "run/spec.h"

#include <errno.h>
#include <linux/futex.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_CTX   (1u << 20)
#define MAX_CTX_ENCODER 4096u       /* an encoder takes its whole input in one step */
#define MAX_SLOTS 4096u
#define MAX_PARALLEL 256u
#define MAX_TOP   256u
#define MAX_THREADS 256u
#define MAX_PLACES 256u             /* grammars that are in use at once */
#define FEW_PLACES 8u               /* where address space is short */

void
llm_futex_wait(_Atomic uint32_t *word, uint32_t seen, uint32_t timeout_ms)
{
    struct timespec t = { .tv_sec = timeout_ms / 1000, .tv_nsec = timeout_ms % 1000 * 1000000l };
    syscall(SYS_futex, word, FUTEX_WAIT, seen, &t, NULL, 0);
}

void
llm_futex_wake(_Atomic uint32_t *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE, n, NULL, NULL, 0);
}

void
llm_arena_ring(llm_arena_t *a)
{
    /*
     * seq_cst on both words pairs with the leader's store to sleeping and load of doorbell: one of
     * the two sees the other
     */
    atomic_fetch_add(&a->doorbell, 1);
    if (atomic_load(&a->sleeping)) {
        llm_futex_wake(&a->doorbell, 1);
    }
}

/* --------------------------------------------------------------- settings */

static llm_code_t
in_range(const char *what, uint32_t v, uint32_t lo, uint32_t hi, llm_err_t *err)
{
    if (v < lo || v > hi) {
        return llm_fail(err, LLM_E_ARG, "%s must be %u to %u, not %u", what, lo, hi, v);
    }
    return LLM_OK;
}

/*
 * Most pages of one sequence. Behind an encoder there are two parts and one more token
 * (run/sched.c).
 */
static uint32_t
table_pages(const llm_model_t *m, uint32_t n_ctx)
{
    return (n_ctx + LLM_KV_PAGE - 1) / LLM_KV_PAGE + (m->enc.n_layers > 0 ? 2 : 0);
}

/* Bytes of a page: the model's keys and values, then at *draft_off those of the draft model. */
static size_t
page_bytes(const llm_model_t *m, const llm_engine_conf_t *c, size_t *draft_off)
{
    *draft_off = llm_fwd_page_bytes(m, c->kv_type);
    return *draft_off + (c->draft != NULL ? llm_fwd_page_bytes(c->draft, c->kv_type) : 0);
}

/* Replaces zeros by defaults and checks the rest. */
static llm_code_t
resolve(llm_engine_conf_t *c, const llm_model_t *m, llm_err_t *err)
{
    const llm_model_info_t *info = llm_model_info(m);
    llm_code_t rc;

    if (c->n_ctx == 0) {
        c->n_ctx = info->n_ctx_train < 8192 ? info->n_ctx_train : 8192;
    }
    if (c->n_slots == 0) {
        c->n_slots = 128;
    }
    if (c->n_parallel == 0) {
        c->n_parallel = 64;
    }
    if (c->n_threads == 0) {
        long n = sysconf(_SC_NPROCESSORS_ONLN);
        c->n_threads = n < 1 ? 1 : n > (long) MAX_THREADS ? MAX_THREADS : (uint32_t) n;
    }
    if (c->max_top == 0) {
        c->max_top = 20;
    }
    if ((rc = in_range("context", c->n_ctx, 8, MAX_CTX, err)) != LLM_OK
        || (rc = in_range("slots", c->n_slots, 1, MAX_SLOTS, err)) != LLM_OK
        || (rc = in_range("parallel", c->n_parallel, 1, MAX_PARALLEL, err)) != LLM_OK
        || (rc = in_range("threads", c->n_threads, 1, MAX_THREADS, err)) != LLM_OK
        || (rc = in_range("alternatives of a token", c->max_top, 1, MAX_TOP, err)) != LLM_OK
        || (rc = in_range("drafts", c->speculate, 0, LLM_SPEC_MAX, err)) != LLM_OK
        || (c->draft != NULL
            && ((rc = in_range("drafts of a model", c->n_draft, 1, LLM_SPEC_MAX, err)) != LLM_OK
                || (rc = llm_draft_check(m, c->draft, err)) != LLM_OK)))
    {
        return rc;
    }
    if (c->n_parallel > c->n_slots) {
        c->n_parallel = c->n_slots;
    }
    if (m->dec.pos == LLM_POS_LEARNED && c->n_ctx > m->dec.n_pos - m->dec.pos_offset) {
        return llm_fail(err, LLM_E_ARG,
                        "context %u: the model has learned positions for %u tokens only", c->n_ctx,
                        m->dec.n_pos - m->dec.pos_offset);
    }
    if ((unsigned) c->kv_type >= LLM_KV_COUNT) {
        return llm_fail(err, LLM_E_ARG, "unknown type of the KV cache: %d", (int) c->kv_type);
    }

    if (m->enc.n_layers > 0 && c->n_ctx > MAX_CTX_ENCODER) {
        return llm_fail(err, LLM_E_ARG, "context %u: encoder-decoder models run with at most %u",
                        c->n_ctx, MAX_CTX_ENCODER);
    }

    size_t draft_off;
    uint64_t page = page_bytes(m, c, &draft_off);
    uint64_t one = (uint64_t) table_pages(m, c->n_ctx) * page;
    if (c->kv_bytes == 0) {
        c->kv_bytes = 4 * one;
    }
    if (c->kv_bytes < one) {
        return llm_fail(
            err, LLM_E_ARG,
            "a KV cache of %zu bytes cannot hold one sequence of %u tokens: %llu bytes are needed",
            c->kv_bytes, c->n_ctx, (unsigned long long) one);
    }
    if (c->kv_bytes / page > UINT32_MAX - 1) {
        return llm_fail(err, LLM_E_ARG, "a KV cache of %zu bytes is too large", c->kv_bytes);
    }
    return LLM_OK;
}

/* -------------------------------------------------------------------- making */

static llm_code_t
shared_mutex(pthread_mutex_t *m, llm_err_t *err)
{
    pthread_mutexattr_t attr;
    int rc = pthread_mutexattr_init(&attr);
    if (rc == 0) {
        rc = pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
        rc = rc ? rc : pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
        rc = rc ? rc : pthread_mutex_init(m, &attr);
        pthread_mutexattr_destroy(&attr);
    }
    return rc == 0 ? LLM_OK : llm_fail(err, LLM_E_IO, "process-shared mutex: %s", strerror(rc));
}

static void
layout(llm_arena_t *a, const llm_model_t *m, uint32_t max_places)
{
    const size_t page = 4096;
    a->page_bytes = page_bytes(m, &a->conf, &a->draft_off);
    a->n_pages = (uint32_t) (a->conf.kv_bytes / a->page_bytes);
    a->n_table = table_pages(m, a->conf.n_ctx);
    a->top_stride = a->conf.max_top + LLM_TOP_EXTRA;
    a->n_embd = llm_fwd_width(m);
    a->slot_bytes = llm_slot_bytes(a->conf.n_ctx, a->n_table, a->top_stride, a->n_embd);
    a->slots_off = (sizeof(*a) + page - 1) & ~(page - 1);
    a->pages_off = (a->slots_off + a->conf.n_slots * a->slot_bytes + page - 1) & ~(page - 1);
    a->kv_off = (a->pages_off + a->n_pages * sizeof(llm_page_t) + page - 1) & ~(page - 1);
    a->n_places = a->conf.n_slots < max_places ? a->conf.n_slots : max_places;
    a->places_off = (a->kv_off + a->n_pages * a->page_bytes + page - 1) & ~(page - 1);
    a->blocks_off = (a->places_off + a->n_places * sizeof(llm_place_t) + page - 1) & ~(page - 1);
    a->bytes = a->blocks_off + (size_t) a->n_places * LLM_GRAMMAR_MAX_BYTES;
}

/*
 * Memory for the arena; fills the layout of *plan. Pages are touched as they are used:
 * alternatives of tokens, for instance, cost nothing until somebody asks for them. A system that
 * counts them all the same (vm.overcommit_memory 2) may have room for fewer grammars.
 */
static llm_arena_t *
map(llm_arena_t *plan, const llm_model_t *m)
{
    llm_arena_t *a = MAP_FAILED;
    static const uint32_t places[] = { MAX_PLACES, FEW_PLACES };
    for (uint32_t i = 0; i < 2 && a == MAP_FAILED; i++) {
        layout(plan, m, places[i]);
        a = mmap(NULL, plan->bytes, PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
    if (a != MAP_FAILED) {
        /* a wish: shared memory gets huge pages where shmem_enabled says advise */
        (void) madvise((uint8_t *) a + plan->kv_off, plan->places_off - plan->kv_off,
                       MADV_HUGEPAGE);
    }
    return a;
}

static llm_code_t
workers_init(llm_arena_t *a, llm_err_t *err)
{
    llm_code_t rc = shared_mutex(&a->leader, err);
    for (uint32_t i = 0; i < LLM_MAX_WORKERS; i++) {
        a->workers[i].wake_fd = -1;
    }
    for (uint32_t i = 0; rc == LLM_OK && i < LLM_MAX_WORKERS; i++) {
        rc = shared_mutex(&a->workers[i].alive, err);
        if (rc == LLM_OK) {
            a->workers[i].wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
            if (a->workers[i].wake_fd < 0) {
                rc = llm_fail(err, LLM_E_IO, "eventfd for worker %u: %s", i, strerror(errno));
            }
        }
    }
    return rc;
}

llm_code_t
llm_engine_new(llm_engine_t **out, const llm_model_t *m, const llm_engine_conf_t *conf,
               llm_err_t *err)
{
    llm_arena_t plan = { .conf = *conf };
    llm_code_t rc = resolve(&plan.conf, m, err);

    *out = NULL;
    if (rc != LLM_OK) {
        return rc;
    }
    if (getrandom(plan.hash_key, sizeof(plan.hash_key), 0) != (ssize_t) sizeof(plan.hash_key)) {
        return llm_fail(err, LLM_E_IO, "getrandom: %s", strerror(errno));
    }

    llm_engine_t *e = calloc(1, sizeof(*e));
    if (e == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "engine: out of memory");
    }
    llm_arena_t *a = map(&plan, m);
    if (a == MAP_FAILED) {
        rc = llm_fail(err, LLM_E_NOMEM, "shared arena of %zu bytes: %s", plan.bytes,
                      strerror(errno));
        free(e);
        return rc;
    }
    *a = plan;
    a->conf.draft = NULL;
    e->arena = a;
    e->model = m;
    e->draft = plan.conf.draft;
    e->sh = (llm_shared_t) {
        .n_slots = a->conf.n_slots,
        .n_pages = a->n_pages,
        .n_ctx = a->conf.n_ctx,
        .top_stride = a->top_stride,
        .n_table = a->n_table,
        .n_embd = a->n_embd,
        .slots = (uint8_t *) a + a->slots_off,
        .slot_bytes = a->slot_bytes,
        .pages = (llm_page_t *) ((uint8_t *) a + a->pages_off),
        .kv = (uint8_t *) a + a->kv_off,
        .page_bytes = a->page_bytes,
        .draft_off = a->draft_off,
        .hash_key = { a->hash_key[0], a->hash_key[1] },
        .n_places = a->n_places,
        .places = (llm_place_t *) ((uint8_t *) a + a->places_off),
        .blocks = (uint8_t *) a + a->blocks_off,
    };
    rc = workers_init(a, err);
    if (rc == LLM_OK) {
        rc = llm_gvocab_new(&e->gvocab, m->tok, err);
        e->sh.gvocab = e->gvocab;
    }
    if (rc == LLM_OK) {
        rc = llm_constraints_new(&e->constraints, err);
    }
    if (rc != LLM_OK) {
        llm_engine_free(e);
        return rc;
    }
#ifdef __GLIBC__
    malloc_trim(0);     /* what reading and packing the model left */
#endif
    *out = e;
    return LLM_OK;
}

void
llm_engine_free(llm_engine_t *e)
{
    if (e == NULL || e->joined || e->stuck) {
        return;
    }
    for (uint32_t i = 0; i < LLM_MAX_WORKERS; i++) {
        if (e->arena->workers[i].wake_fd >= 0) {
            close(e->arena->workers[i].wake_fd);
        }
    }
    munmap(e->arena, e->arena->bytes);
    llm_constraints_free(e->constraints);
    llm_gvocab_free(e->gvocab);
    free(e);
}

const llm_engine_conf_t *
llm_engine_conf(const llm_engine_t *e)
{
    return &e->arena->conf;
}

/* ------------------------------------------------------------------- reading */

bool
llm_worker_alive(llm_arena_t *a, uint32_t worker, uint32_t generation)
{
    if (worker >= LLM_MAX_WORKERS) {
        return false;
    }
    llm_worker_t *w = &a->workers[worker];
    if (atomic_load_explicit(&w->generation, memory_order_acquire) != generation) {
        return false;
    }
    int rc = pthread_mutex_trylock(&w->alive);
    if (rc == EBUSY) {
        return true;
    }
    if (rc == EOWNERDEAD) {
        pthread_mutex_consistent(&w->alive);
    } else if (rc != 0) {
        return false;
    }
    atomic_store_explicit(&w->pid, 0, memory_order_relaxed);
    pthread_mutex_unlock(&w->alive);
    return false;
}

void
llm_engine_stats(const llm_engine_t *e, llm_stats_t *out)
{
    const llm_arena_t *a = e->arena;
    const llm_sched_stats_t *s = &a->stats;

    *out = (llm_stats_t) {
        .n_waiting = s->n_waiting,
        .n_running = s->n_running,
        .n_slots = a->conf.n_slots,
        .pages_total = a->n_pages,
        .pages_free = s->pages_free,
        .pages_cached = s->pages_cached,
        .page_tokens = LLM_KV_PAGE,
        .n_steps = s->n_steps,
        .n_prefill_tokens = s->n_prefill_tokens,
        .n_cached_tokens = s->n_cached_tokens,
        .n_decode_tokens = s->n_decode_tokens,
        .n_preemptions = s->n_preemptions,
        .n_takeovers = a->n_takeovers,
        .prefill_ns = s->prefill_ns,
        .decode_ns = s->decode_ns,
        .leader_pid = a->leader_pid,
    };
    for (uint32_t i = 0; i < LLM_MAX_WORKERS; i++) {
        out->n_workers += a->workers[i].pid != 0;
    }
    for (uint32_t i = 0; i < LLM_DRAFT_KINDS; i++) {
        out->n_kept[i] = s->n_kept[i];
        out->n_drafted[i] = out->n_kept[i] + s->n_dropped[i];
    }
    for (uint32_t i = 0; i < e->sh.n_slots; i++) {
        out->n_used += atomic_load_explicit(&llm_slot(&e->sh, i)->state, memory_order_relaxed) != 0;
    }
    uint64_t seen = a->alive_ns, now = llm_now_ns();
    out->last_step_age_ms = now > seen ? (now - seen) / 1000000 : 0;
}
