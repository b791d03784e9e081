/*
 * kern.c - micro-benchmark of the matrix and attention kernels against what the machine can do.
 *
 *     ./bench/run --kern [OPTION...]
 * Options: -t threads (1)  -k columns (4096)  -s set (all)  -f format (all; kv: attention)  -b only the pool's overhead
 *          -r only the read bandwidth, GB/s: the median of a second, as bench/engine.py takes it before and after each run
 *
 * For each set and format: GB/s of packed weights read for one token (a matrix far larger than the caches), and 10^9
 * multiply-adds/s for more tokens. For each set and format of the KV cache: GB/s of keys and values read for one token after
 * 4096 in pages as the arena has them (shared memory, a layer and head of a page far from the next), and multiply-adds/s for
 * 16. Peaks are measured first and between formats: other work on the machine shows in both. Each figure is the best of many
 * short runs; with one thread its CPU time is taken, so that a busy machine does little harm.
 */
#define _GNU_SOURCE
#include "base/cpu.h"
#include "base/pool.h"
#include "tensor/kern.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define READ_BYTES ((size_t) 1 << 30)   /* of 256 MiB a last-level cache of 32 gives a part */
#define DOT_ROUNDS 200000     /* half a millisecond: short enough to run undisturbed on a busy machine */

static uint32_t n_threads = 1, n_cols = 4096;
static llm_pool_t *pool;

/* With one thread its CPU time, which does not count what others take; else wall time. */
static double
now(void)
{
    struct timespec ts;
    clock_gettime(n_threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &ts);
    return (double) ts.tv_sec + 1e-9 * (double) ts.tv_nsec;
}

static void *
big_alloc(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        fprintf(stderr, "no memory for %zu bytes\n", size);
        exit(1);
    }
    madvise(p, size, MADV_HUGEPAGE);
    return p;
}

/* ------------------------------------------------------------ peaks */

#if defined(__x86_64__)

#define DOT(a) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(a) : "v"(w), "v"(x))

__attribute__((target("avx512f,avx512vnni"))) static void
peak_dot(void *ctx, uint32_t i_chunk, uint32_t i_thread)
{
    (void) ctx;
    (void) i_chunk;
    (void) i_thread;
    __m512i w = _mm512_set1_epi32(0x01020304), x = w, a = w, b = w, c = w, d = w, e = w, f = w, g = w, h = w, i = w, j = w;
    for (int k = 0; k < DOT_ROUNDS; k++) {
        DOT(a); DOT(b); DOT(c); DOT(d); DOT(e); DOT(f); DOT(g); DOT(h); DOT(i); DOT(j);
    }
    __asm__ volatile("" : : "v"(a), "v"(b), "v"(c), "v"(d), "v"(e), "v"(f), "v"(g), "v"(h), "v"(i), "v"(j));
}

/* One chunk: a slice read as four streams. */
__attribute__((target("avx512f"))) static void
peak_read(void *ctx, uint32_t i_chunk, uint32_t i_thread)
{
    (void) i_thread;
    size_t slice = READ_BYTES / 64, quarter = slice / 4;
    const uint8_t *p = (const uint8_t *) ctx + i_chunk * slice;
    __m512i s0 = _mm512_setzero_si512(), s1 = s0, s2 = s0, s3 = s0;
    for (size_t o = 0; o < quarter; o += 128) {
        for (size_t u = o; u < o + 128; u += 64) {
            s0 = _mm512_or_si512(s0, _mm512_load_si512(p + u));
            s1 = _mm512_or_si512(s1, _mm512_load_si512(p + quarter + u));
            s2 = _mm512_or_si512(s2, _mm512_load_si512(p + 2 * quarter + u));
            s3 = _mm512_or_si512(s3, _mm512_load_si512(p + 3 * quarter + u));
        }
    }
    __asm__ volatile("" : : "v"(s0), "v"(s1), "v"(s2), "v"(s3));
}

static bool
can_peak(void)
{
    return (llm_cpu_features() & LLM_CPU_AVX512_VNNI) != 0;
}

#else

static void
peak_dot(void *ctx, uint32_t i_chunk, uint32_t i_thread)
{
    (void) ctx;
    (void) i_chunk;
    (void) i_thread;
}

#define peak_read peak_dot

static bool
can_peak(void)
{
    return false;
}

#endif

/* 10^9 multiply-adds per second of vpdpbusd from registers: 64 in each */
static double
dot_peak(void)
{
    double best = 0.0;
    for (int i = 0; i < 100 && can_peak(); i++) {
        double t = now();
        llm_pool_run(pool, peak_dot, NULL, n_threads);
        best = fmax(best, 1.0 * n_threads * DOT_ROUNDS * 10 * 64 / (now() - t) * 1e-9);
    }
    return best;
}

static double
read_peak(const uint8_t *mem)
{
    double best = 0.0;
    for (int i = 0; i < 5 && can_peak(); i++) {
        double t = now();
        llm_pool_run(pool, peak_read, (void *) (uintptr_t) mem, 64);
        best = fmax(best, (double) READ_BYTES / (now() - t) * 1e-9);
    }
    return best;
}

#define N_READS 100

static int
by_size(const void *a, const void *b)
{
    double x = *(const double *) a, y = *(const double *) b;
    return (x > y) - (x < y);
}

/* What a second of reading gives, not its best moment: other users of the memory bus take their share of it. */
static double
read_median(const uint8_t *mem)
{
    double gbs[N_READS], end = now() + 1.0;
    size_t n = 0;
    do {
        double t = now();
        llm_pool_run(pool, peak_read, (void *) (uintptr_t) mem, 64);
        gbs[n++] = (double) READ_BYTES / (now() - t) * 1e-9;
    } while (n < N_READS && now() < end);
    qsort(gbs, n, sizeof(gbs[0]), by_size);
    return gbs[n / 2];
}

/* ------------------------------------------------------------ kernels */

typedef struct {
    const llm_kern_t *k;
    const llm_mat_t  *m;
    const llm_act_t  *a;
    float            *y;
    uint32_t          tiles;    /* of a chunk */
} work_t;

static void
mm_chunk(void *ctx, uint32_t i_chunk, uint32_t i_thread)
{
    work_t *w = ctx;
    (void) i_thread;
    uint32_t t0 = i_chunk * w->tiles, t1 = t0 + w->tiles < w->m->n_tiles ? t0 + w->tiles : w->m->n_tiles;
    w->k->mm(w->m, t0, t1, w->a, w->y, w->m->rows);
}

/* Random scales of weights' size; the numbers do not matter for time. */
static void
fill_tile(const llm_mat_t *m, uint8_t *tile)
{
    const llm_format_t *f = llm_format(m->type);
    size_t row_bytes = (size_t) m->cols / f->block * f->bytes;
    uint8_t *rows = malloc(row_bytes * LLM_TILE);
    const void *src[LLM_TILE];
    for (size_t i = 0; i < row_bytes * LLM_TILE; i++) {
        rows[i] = (uint8_t) (rand() >> 8) & 0x3b;       /* no exponent of ones in any field */
    }
    for (uint32_t r = 0; r < LLM_TILE; r++) {
        src[r] = rows + r * row_bytes;
    }
    llm_mat_pack_tile(m, tile, src);
    free(rows);
}

/* Seconds of one product, best of several. */
static double
time_mm(const llm_kern_t *k, const llm_mat_t *m, uint32_t n, double budget)
{
    float *x = big_alloc((size_t) n * m->cols * sizeof(float)), *y = big_alloc((size_t) n * m->rows * sizeof(float));
    uint8_t *buf = big_alloc(llm_act_bytes(n, m->cols) + 64);
    for (size_t i = 0; i < (size_t) n * m->cols; i++) {
        x[i] = (float) (rand() % 2001 - 1000);
    }
    llm_act_t a = { .x = x, .ldx = m->cols, .n = n, .k = m->cols, .forms = k->act_forms(m), .buf = buf };
    if (a.forms != 0) {
        k->quant(&a, 0, n);
    }
    work_t w = { k, m, &a, y, n == 1 ? 32 : 8 };
    double best = 1e9, end = now() + budget;
    do {
        double t = now();
        llm_pool_run(pool, mm_chunk, &w, (m->n_tiles + w.tiles - 1) / w.tiles);
        best = fmin(best, now() - t);
    } while (now() < end);
    munmap(x, (size_t) n * m->cols * sizeof(float));
    munmap(y, (size_t) n * m->rows * sizeof(float));
    munmap(buf, llm_act_bytes(n, m->cols) + 64);
    return best;
}

static void
bench_format(const llm_kern_t *k, uint32_t type, uint8_t *mem, double gbs_peak)
{
    static const uint32_t tokens[] = { 2, 4, 8, 12, 16, 20, 24, 32, 64, 512 };
    llm_mat_t m;
    if (llm_mat_init(&m, type, LLM_TILE, n_cols, NULL) != LLM_OK) {
        return;
    }
    bool slow = strcmp(k->name, "ref") == 0;
    uint32_t tiles = (uint32_t) ((slow ? READ_BYTES / 256 : READ_BYTES) / m.tile_bytes);
    m.rows = tiles * LLM_TILE;
    m.n_tiles = tiles;
    fill_tile(&m, mem);
    for (uint32_t i = 1; i < tiles; i++) {
        memcpy(mem + i * m.tile_bytes, mem, m.tile_bytes);
    }
    m.data = mem;
    double gbs = (double) llm_mat_bytes(&m) / time_mm(k, &m, 1, 0.3) * 1e-9;
    printf("%-7s %-7s %5.2f bits  n=1 %6.1f GB/s", k->name, llm_format(type)->name,
           8.0 * (double) m.tile_bytes / LLM_TILE / m.cols, gbs);
    if (gbs_peak > 0) {
        printf(" (%3.0f%%)", 100 * gbs / gbs_peak);
    }
    double peak = dot_peak();
    for (size_t i = 0; i < sizeof(tokens) / sizeof(tokens[0]) && !(slow && tokens[i] > 8); i++) {
        m.rows = slow ? 64 : tokens[i] > 64 ? 256 : 1536;
        m.n_tiles = m.rows / LLM_TILE;
        double gops = (double) m.rows * m.cols * tokens[i] / time_mm(k, &m, tokens[i], 0.1) * 1e-9;
        printf("  n=%u %.0f", tokens[i], gops);
        if (peak > 0) {
            printf(" (%.0f%%)", 100 * gops / peak);
        }
    }
    printf("\n");
    fflush(stdout);
}

/* ------------------------------------------------------------ attention */

/* SmolLM2-135M */
enum { LAYERS = 30, KV_HEADS = 3, GROUP = 3, HEAD_DIM = 64, CONTEXT = 4096, PAGES = CONTEXT / LLM_KV_PAGE, N_Q = 16 };

typedef struct {
    const llm_kern_t *k;
    llm_attn_t        a;            /* of layer and head 0 */
    size_t            head_bytes;
    float            *memory;       /* [threads]: partials, scratch */
    size_t            part_floats, thread_floats;
} attn_work_t;

/* Chunk: a kv head of a layer. */
static void
attn_chunk(void *ctx, uint32_t i_chunk, uint32_t i_thread)
{
    const attn_work_t *w = ctx;
    llm_attn_t a = w->a;
    a.pages += i_chunk * w->head_bytes;
    a.part = w->memory + i_thread * w->thread_floats;
    a.scratch = a.part + w->part_floats;
    for (a.key0 = 0; a.key0 < CONTEXT; a.key0 = a.key1) {
        a.key1 = a.key0 + LLM_ATTN_SPAN;
        for (uint32_t i = 0; i < LLM_ATTN_AHEAD && a.key1 < CONTEXT; i++) {
            a.next[i] = a.pages + a.table[a.key1 / LLM_KV_PAGE + i] * a.page_bytes;
        }
        w->k->attn(&a);
    }
}

/* Seconds of one pass over all layers for n_q tokens, best of several. */
static double
time_attn(attn_work_t *w, uint32_t n_q)
{
    double best = 1e9, end = now() + 0.3;
    w->a.n_q = n_q;
    w->a.pos0 = CONTEXT - n_q;
    do {
        double t = now();
        llm_pool_run(pool, attn_chunk, w, LAYERS * KV_HEADS);
        best = fmin(best, now() - t);
    } while (now() < end);
    return best;
}

static void
bench_attn(const llm_kern_t *k, llm_kv_type_t type, double gbs_peak)
{
    static float q[GROUP * HEAD_DIM];
    static uint32_t table[PAGES];
    size_t head_bytes = llm_kv_head_bytes(type, HEAD_DIM), page_bytes = LAYERS * KV_HEADS * head_bytes;
    size_t part_floats = N_Q * GROUP * llm_attn_part_floats(HEAD_DIM),
           thread_floats = (part_floats + llm_attn_scratch_floats(HEAD_DIM, GROUP) + 15) & ~(size_t) 15;
    uint8_t *mem = mmap(NULL, PAGES * page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    float *memory = aligned_alloc(64, n_threads * thread_floats * sizeof(float));
    if (mem == MAP_FAILED || memory == NULL) {
        fprintf(stderr, "no memory for keys and values\n");
        exit(1);
    }
    for (uint32_t i = 0; i < GROUP * HEAD_DIM; i++) {
        q[i] = (float) (rand() % 2001 - 1000) * 1e-3f;
    }
    for (uint32_t p = 0; p < PAGES; p++) {
        table[p] = p;
        for (uint32_t h = 0; h < LAYERS * KV_HEADS; h++) {
            for (uint32_t row = 0; row < LLM_KV_PAGE; row++) {
                k->kv_store(mem + p * page_bytes + h * head_bytes, type, HEAD_DIM, row, q, q + HEAD_DIM);
            }
        }
    }
    attn_work_t w = {
        .k = k, .head_bytes = head_bytes, .memory = memory, .part_floats = part_floats, .thread_floats = thread_floats,
        .a = { .pages = mem, .page_bytes = page_bytes, .table = table, .type = type, .head_dim = HEAD_DIM, .group = GROUP, .q = q,
               .causal = true, .scale = 0.125f },
    };
    double gbs = (double) (PAGES * page_bytes) / time_attn(&w, 1) * 1e-9;
    printf("%-7s kv %-4s n=1 %6.1f GB/s", k->name, llm_kv_name(type), gbs);
    if (gbs_peak > 0) {
        printf(" (%3.0f%%)", 100 * gbs / gbs_peak);
    }
    double ops = 2.0 * LAYERS * KV_HEADS * GROUP * HEAD_DIM * CONTEXT * N_Q;
    printf("  n=%d %.0f\n", N_Q, ops / time_attn(&w, N_Q) * 1e-9);
    munmap(mem, PAGES * page_bytes);
    free(memory);
}

static void
nothing(void *ctx, uint32_t i_chunk, uint32_t i_thread)
{
    (void) ctx;
    (void) i_chunk;
    (void) i_thread;
}

static void
bench_pool(void)
{
    double best = 1e9;
    for (int i = 0; i < 20; i++) {
        double t = now();
        for (int j = 0; j < 1000; j++) {
            llm_pool_run(pool, nothing, NULL, 16);
        }
        best = fmin(best, now() - t);
    }
    printf("pool: %.2f us for a job of 16 empty chunks on %u threads\n", best * 1e3, n_threads);
}

int
main(int argc, char **argv)
{
    const char *only_set = NULL, *only_format = NULL;
    bool only_pool = false, only_read = false;
    int opt;
    while ((opt = getopt(argc, argv, "t:k:s:f:br")) != -1) {
        switch (opt) {
        case 't':
            n_threads = (uint32_t) atoi(optarg);
            break;
        case 'k':
            n_cols = (uint32_t) atoi(optarg);
            break;
        case 's':
            only_set = optarg;
            break;
        case 'f':
            only_format = optarg;
            break;
        case 'b':
            only_pool = true;
            break;
        case 'r':
            only_read = true;
            break;
        default:
            return 2;
        }
    }
    llm_err_t err;
    if (llm_pool_new(&pool, n_threads, false, &err) != LLM_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    uint8_t *mem = big_alloc(READ_BYTES);
    memset(mem, 1, READ_BYTES);
    if (only_read) {
        if (!can_peak()) {
            fprintf(stderr, "the read loop needs AVX-512\n");
            return 1;
        }
        printf("%.1f\n", read_median(mem));
        return 0;
    }
    bench_pool();
    if (only_pool) {
        return 0;
    }
    double gbs_peak = read_peak(mem);
    printf("peaks on %u threads: read %.1f GB/s, vpdpbusd %.0f 10^9 multiply-adds/s\n", n_threads, gbs_peak, dot_peak());

    const llm_kern_t *sets[4];
    uint32_t n_sets = llm_kern_all(sets);
    for (uint32_t i = 0; i < n_sets; i++) {
        bool attn = (only_set == NULL || strcmp(only_set, sets[i]->name) == 0) && strcmp(sets[i]->name, "ref") != 0
                    && (only_format == NULL || strcmp(only_format, "kv") == 0);
        for (int type = 0; type < LLM_KV_COUNT && attn; type++) {
            bench_attn(sets[i], (llm_kv_type_t) type, gbs_peak);
        }
        for (uint32_t type = 0; type < LLM_T_COUNT; type++) {
            const llm_format_t *f = llm_format(type);
            if (f == NULL || (only_set != NULL && strcmp(only_set, sets[i]->name) != 0)
                || (only_format != NULL && strcmp(only_format, f->name) != 0)) {
                continue;
            }
            bench_format(sets[i], type, mem, gbs_peak);
        }
    }
    llm_pool_free(pool);
    return 0;
}
