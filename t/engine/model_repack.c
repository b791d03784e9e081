/*
 * Packing by several threads: every row arrives in its place, the error that is reported is the
 * first one in the order of the plan, and progress comes from the caller's thread. The source is a
 * function of the position, so what a row must hold needs no file.
 */
#include "../tap.h"
#include "model/bind.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define COLS    2048
#define ROWS    6000                            /* Q8_0: 12.6 MB packed, more than two pieces */
#define ROW     ((size_t) COLS / 32 * 34)
#define N_ITEMS 5

/* Byte `at` of tensor t. The scale of a block is 1. */
static uint8_t
source_byte(uint64_t t, size_t at)
{
    size_t in = at % 34;
    if (in < 2) {
        return in == 0 ? 0x00 : 0x3c;
    }
    uint64_t x = (at + 1) * 0x9e3779b97f4a7c15u + t;
    return (uint8_t) (x >> 56);
}

/* Reads that start in these bytes of a tensor fail. */
static struct { uint64_t tensor; size_t from, to; } bad[3];
static size_t n_bad;

static llm_code_t
fake_read(const llm_src_t *s, const llm_src_tensor_t *t, size_t from, void *dst, size_t n,
          llm_err_t *err)
{
    (void) s;
    for (size_t i = 0; i < n_bad; i++) {
        if (bad[i].tensor == t->index && from >= bad[i].from && from < bad[i].to) {
            return llm_fail(err, LLM_E_IO, "bad place %zu", i);
        }
    }
    if (t->type == LLM_T_F32) {
        for (size_t i = 0; i < n / 4; i++) {
            ((float *) dst)[i] = (float) (from / 4 + i);
        }
        return LLM_OK;
    }
    for (size_t i = 0; i < n; i++) {
        ((uint8_t *) dst)[i] = source_byte(t->index, from + i);
    }
    return LLM_OK;
}

static const llm_src_t source = { .path = "fake", .read = fake_read };

static pthread_t caller;
static size_t calls, wrong_calls, last_done, last_total;

static void
progress(void *ctx, size_t done, size_t total)
{
    calls++;
    wrong_calls += ctx != &calls || !pthread_equal(pthread_self(), caller) || done < last_done
                   || done > total;
    last_done = done;
    last_total = total;
}

typedef struct {
    llm_mat_t    mat[N_ITEMS];
    const float *vec;
    llm_item_t   item[N_ITEMS + 1];
    llm_plan_t   plan;
    llm_model_t  model;
} rig_t;

/* Some matrices and a vector between them. */
static void
rig_init(rig_t *r)
{
    llm_err_t err;
    memset(r, 0, sizeof(*r));
    size_t off = 0;
    for (uint32_t i = 0; i <= N_ITEMS; i++) {
        llm_item_t *item = &r->item[i];
        bool vector = i == N_ITEMS - 1;
        uint32_t rows = vector ? 1 : ROWS - 7 * i;
        item->n_segs = 1;
        item->seg[0] = (llm_seg_t) {
            .t = { .name = { "t", 1 }, .type = vector ? LLM_T_F32 : LLM_T_Q8_0, .index = i,
                   .size = vector ? COLS * sizeof(float) : rows * ROW },
            .rows = rows,
        };
        item->off = off;
        if (vector) {
            item->vec = &r->vec;
            item->plus = 0.5f;
            item->bytes = COLS * sizeof(float);
        } else {
            item->mat = &r->mat[i < N_ITEMS ? i : N_ITEMS - 1];
            llm_mat_init(item->mat, LLM_T_Q8_0, rows, COLS, &err);
            item->bytes = llm_mat_bytes(item->mat);
        }
        off += item->bytes;
    }
    r->plan = (llm_plan_t) { .items = r->item, .n = N_ITEMS + 1, .bytes = off };
}

static size_t
wrong_rows(const llm_item_t *item)
{
    size_t wrong = 0;
    float got[COLS];
    for (uint32_t row = 0; row < item->mat->rows; row += row % 97 == 0 ? 1 : 13) {
        llm_mat_row(item->mat, row, got);
        for (size_t c = 0; c < COLS; c++) {
            size_t at = row * ROW + c / 32 * 34 + 2 + c % 32;
            wrong += got[c] != (float) (int8_t) source_byte(item->seg[0].t.index, at);
        }
    }
    return wrong;
}

static void
test_contents(void)
{
    rig_t r;
    llm_err_t err = { 0 };
    llm_model_conf_t conf = { .progress = progress, .progress_ctx = &calls };
    rig_init(&r);
    n_bad = 0;
    calls = wrong_calls = last_done = 0;
    ok(llm_repack(&r.model, &r.plan, &source, &conf, &err) == LLM_OK, "packed %s", err.msg);
    for (uint32_t i = 0; i <= N_ITEMS; i++) {
        if (r.item[i].mat != NULL) {
            ok(wrong_rows(&r.item[i]) == 0, "item %u: all values in their places", i);
        }
    }
    size_t wrong = 0;
    for (size_t c = 0; c < COLS; c++) {
        wrong += r.vec[c] != (float) c + 0.5f;
    }
    ok(wrong == 0, "the vector too");
    ok(calls > 1 && wrong_calls == 0, "progress grows and comes from the caller's thread");
    ok(last_done == r.plan.bytes && last_total == r.plan.bytes, "progress ends at the total");
    munmap(r.model.weights, r.model.weights_bytes);
}

/* Whichever thread comes first, the error is that of the first place in the plan. */
static void
test_errors(void)
{
    llm_model_conf_t conf = { .progress = NULL };
    static const struct { const char *name; uint32_t item[3]; size_t row[3]; uint32_t first; } cases[] = {
        { "one in the last item", { 5, 5, 5 }, { 10, 10, 10 }, 0 },
        { "in three items", { 3, 0, 5 }, { 0, 5990, 0 }, 1 },
        { "in three pieces of one item", { 2, 2, 2 }, { 5900, 3000, 100 }, 2 },
        { "in the vector and behind it", { 5, 4, 5 }, { 0, 0, 5000 }, 1 },
    };
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        uint32_t right = 0;
        for (uint32_t run = 0; run < 10; run++) {
            rig_t r;
            llm_err_t err = { 0 };
            rig_init(&r);
            n_bad = 3;
            for (size_t i = 0; i < 3; i++) {
                bad[i].tensor = cases[c].item[i];
                bad[i].from = 0;
                bad[i].to = SIZE_MAX;
                if (cases[c].item[i] != N_ITEMS - 1) {
                    /* batches of reads begin at any row: the one that begins near this one */
                    bad[i].from = cases[c].row[i] > 400 ? (cases[c].row[i] - 400) * ROW : 0;
                    bad[i].to = (cases[c].row[i] + 1) * ROW;
                }
            }
            char want[32];
            snprintf(want, sizeof(want), "bad place %u", cases[c].first);
            right += llm_repack(&r.model, &r.plan, &source, &conf, &err) == LLM_E_IO
                     && strcmp(err.msg, want) == 0 && r.model.weights == NULL;
        }
        ok(right == 10, "%s: the first error, %u times of 10", cases[c].name, right);
    }
}

int
main(void)
{
    caller = pthread_self();
    test_contents();
    test_errors();
    return done_testing();
}
