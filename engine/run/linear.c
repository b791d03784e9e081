/*
 * linear.c - matrix products of a step, spread over the pool by row tiles.
 *
 * A linear may be stored in several matrices (model.h); their tiles are numbered through, and cut
 * into a share for each thread and chunks of it. A chunk computes its rows for all tokens of the
 * step, then adds the bias of its rows.
 */
#define _GNU_SOURCE     /* madvise */
#include "forward_impl.h"
#include "base/cpu.h"

#include <stdlib.h>
#include <sys/mman.h>

typedef struct {
    const llm_fwd_t *f;
    const llm_lin_t *lin;
    const llm_act_t *act;
    float           *out;
    size_t           ld_out;
    uint32_t         n_tiles, n_shares;
    uint32_t         even;                      /* shares begin at multiples of this */
    /* chunks of a share: n_large of `large` tiles, then n_small of `small` ones */
    uint32_t         n_large, large, n_small, small;
} mm_ctx_t;

static uint32_t
share_start(const mm_ctx_t *c, uint32_t i)
{
    uint32_t t = (uint32_t) ((uint64_t) i * c->n_tiles / c->n_shares);
    return i < c->n_shares ? t / c->even * c->even : c->n_tiles;
}

/* Tiles *t0 .. *t1-1; there may be none. */
static void
chunk_tiles(const mm_ctx_t *c, uint32_t i_chunk, uint32_t *t0, uint32_t *t1)
{
    uint32_t n = c->n_large + c->n_small, share = i_chunk / n, i = i_chunk % n;
    uint32_t end = share_start(c, share + 1), large = i < c->n_large ? i : c->n_large;

    *t0 = share_start(c, share) + large * c->large + (i - large) * c->small;
    *t0 = *t0 < end ? *t0 : end;
    *t1 = *t0 + (i < c->n_large ? c->large : c->small);
    *t1 = *t1 < end ? *t1 : end;
}

static void
mm_chunk(void *ctx, uint32_t i_chunk, uint32_t i_thread)
{
    (void) i_thread;
    const mm_ctx_t *c = ctx;
    uint32_t t0, t1, first = 0, row0 = 0;

    chunk_tiles(c, i_chunk, &t0, &t1);
    for (uint32_t p = 0; p < c->lin->n_parts; p++) {
        const llm_mat_t *w = &c->lin->part[p];
        uint32_t a = t0 > first ? t0 - first : 0;
        uint32_t b = t1 > first ? t1 - first : 0;
        if (b > w->n_tiles) {
            b = w->n_tiles;
        }
        if (a < b) {
            c->f->k->mm(w, a, b, c->act, c->out + row0, c->ld_out);
            if (c->lin->bias != NULL) {
                uint32_t r0 = a * LLM_TILE, r1 = b * LLM_TILE < w->rows ? b * LLM_TILE : w->rows;
                for (uint32_t t = 0; t < c->act->n; t++) {
                    c->f->k->add(c->out + row0 + r0 + t * c->ld_out, c->lin->bias + row0 + r0,
                                 r1 - r0);
                }
            }
        }
        first += w->n_tiles;
        row0 += w->rows;
    }
}

uint32_t
llm_fwd_act_forms(const llm_fwd_t *f, const llm_lin_t *lin)
{
    uint32_t forms = 0;
    for (uint32_t p = 0; p < lin->n_parts; p++) {
        forms |= f->k->act_forms(&lin->part[p]);
    }
    return forms;
}

static void
quant_row(llm_fwd_t *f, void *ctx, uint32_t row)
{
    f->k->quant(ctx, row, row + 1);
}

/*
 * A share for each thread, since it reads its own as one stream (pool.h): a thread that takes turns
 * with others in small chunks fetches a part of its next lines in vain. Chunks small enough that a
 * thread which loses its core holds up little, and large enough that claiming one does not show: at
 * least 16 KB of weights for one token. The last quarter goes in smaller ones, so that the threads
 * end together. Returns the number of chunks.
 */
static uint32_t
cut(mm_ctx_t *c, uint32_t n_threads, size_t bytes)
{
    size_t floor_bytes = c->act->n == 1 ? 16384 : 4096, tile_bytes = bytes / c->n_tiles;
    uint32_t least = (uint32_t) ((floor_bytes + tile_bytes - 1) / tile_bytes);

    c->even = c->act->n > 1 ? 2 : 1;            /* the wide kernels take pairs */
    c->n_shares = c->n_tiles / least < n_threads ? c->n_tiles / least : n_threads;
    if (c->n_shares <= 1) {
        c->n_shares = c->n_large = 1;
        c->large = c->n_tiles;
        return 1;
    }
    uint32_t share = (c->n_tiles + c->n_shares - 1) / c->n_shares + c->even - 1;
    c->large = (share + 7) / 8;
    c->large = c->large > least ? c->large : least;
    c->small = c->large / 4 > least ? c->large / 4 : least;
    c->large += c->large > 1 ? c->large % c->even : 0;
    c->small += c->small > 1 ? c->small % c->even : 0;
    c->n_large = share * 3 / 4 / c->large;
    c->n_small = (share - c->n_large * c->large + c->small - 1) / c->small;
    return c->n_shares * (c->n_large + c->n_small);
}

void
llm_fwd_linear(llm_fwd_t *f, const llm_lin_t *lin, const float *in, size_t ld_in, uint32_t n,
               bool quantized, float *out, size_t ld_out)
{
    llm_act_t act = { .x = in, .ldx = ld_in, .n = n, .k = lin->cols,
                      .forms = llm_fwd_act_forms(f, lin), .buf = f->act_buf };

    if (n == 0) {
        return;
    }
    if (!quantized && act.forms != 0) {
        llm_fwd_rows(f, n, quant_row, &act);
    }

    mm_ctx_t c = { .f = f, .lin = lin, .act = &act, .out = out, .ld_out = ld_out };
    size_t bytes = 0;
    for (uint32_t p = 0; p < lin->n_parts; p++) {
        c.n_tiles += lin->part[p].n_tiles;
        bytes += llm_mat_bytes(&lin->part[p]);
    }
    uint32_t n_chunks = cut(&c, llm_pool_size(f->pool), bytes);
    llm_pool_run(f->pool, mm_chunk, &c, n_chunks);
}

/* ---------------------------------------------------------------------- rows */

#define ROWS_INLINE 4       /* fewer rows than this are not worth waking a thread */
#define ROWS_CHUNK  8

typedef struct {
    llm_fwd_t     *f;
    llm_fwd_row_fn fn;
    void          *ctx;
    uint32_t       n;
} rows_ctx_t;

static void
rows_chunk(void *ctx, uint32_t i_chunk, uint32_t i_thread)
{
    (void) i_thread;
    const rows_ctx_t *c = ctx;
    uint32_t end = (i_chunk + 1) * ROWS_CHUNK < c->n ? (i_chunk + 1) * ROWS_CHUNK : c->n;
    for (uint32_t r = i_chunk * ROWS_CHUNK; r < end; r++) {
        c->fn(c->f, c->ctx, r);
    }
}

void
llm_fwd_rows(llm_fwd_t *f, uint32_t n, llm_fwd_row_fn fn, void *ctx)
{
    if (n <= ROWS_INLINE || llm_pool_size(f->pool) == 1) {
        for (uint32_t r = 0; r < n; r++) {
            fn(f, ctx, r);
        }
        return;
    }
    rows_ctx_t c = { .f = f, .fn = fn, .ctx = ctx, .n = n };
    llm_pool_run(f->pool, rows_chunk, &c, (n + ROWS_CHUNK - 1) / ROWS_CHUNK);
}

void *
llm_fwd_alloc(size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX / 2) {
        return NULL;
    }
    /* rows of a step lie kilobytes apart: with small pages each would need an entry of its own */
    size_t align = bytes >= LLM_HUGE_PAGE ? LLM_HUGE_PAGE : 64;
    bytes = bytes > 0 ? (bytes + align - 1) & ~(align - 1) : align;
    void *p = aligned_alloc(align, bytes);
    if (p != NULL && align == LLM_HUGE_PAGE) {
        (void) madvise(p, bytes, MADV_HUGEPAGE);
    }
    return p;
}
