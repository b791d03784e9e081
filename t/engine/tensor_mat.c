/*
 * tensor_mat.c - packed matrices: every row read back equals the format's dequant bit for bit.
 */
#include "tap.h"
#include "tensor/mat.h"
#include "tensor_data.h"

static void
test_rows(uint32_t type, uint32_t rows, uint32_t cols)
{
    llm_mat_t m;
    uint8_t *file = NULL;
    const llm_format_t *f = llm_format(type);
    if (!ok(td_mat(&m, type, rows, cols, &file), "%s %ux%u packs", f->name, rows, cols)) {
        return;
    }
    size_t row_bytes = (size_t) cols / f->block * f->bytes;
    float *want = malloc(cols * sizeof(float)), *got = malloc(cols * sizeof(float));
    uint32_t bad = 0;
    for (uint32_t r = 0; r < rows; r++) {
        f->dequant(want, file + r * row_bytes, cols);
        llm_mat_row(&m, r, got);
        bad += memcmp(want, got, cols * sizeof(float)) != 0;
    }
    is_int(bad, 0, "rows differ");
    is_int(m.n_tiles, (rows + 15) / 16, "tiles");
    ok(m.tile_bytes % 64 == 0, "tile size is a multiple of 64");
    free(want);
    free(got);
    td_mat_free(&m, file);
}

/* Rows of the file in any order, with gaps: the caller decides. */
static void
test_permutation(void)
{
    llm_mat_t m;
    uint8_t row[3][34 * 2];
    float got[64], want[64];
    for (int i = 0; i < 3; i++) {
        td_row(LLM_T_Q8_0, 64, row[i]);
    }
    const void *src[LLM_TILE] = { row[2], NULL, row[0], row[0] };
    llm_mat_init(&m, LLM_T_Q8_0, 4, 64, NULL);
    uint8_t *data = aligned_alloc(64, llm_mat_bytes(&m));
    llm_mat_pack_tile(&m, data, src);
    m.data = data;
    llm_format(LLM_T_Q8_0)->dequant(want, row[2], 64);
    llm_mat_row(&m, 0, got);
    ok(memcmp(want, got, sizeof(want)) == 0, "row 0 is file row 2");
    llm_format(LLM_T_Q8_0)->dequant(want, row[0], 64);
    llm_mat_row(&m, 3, got);
    ok(memcmp(want, got, sizeof(want)) == 0, "row 3 is file row 0");
    llm_mat_row(&m, 1, got);
    int zeros = 0;
    for (int i = 0; i < 64; i++) {
        zeros += got[i] == 0.0f;
    }
    is_int(zeros, 64, "a missing row is zero");
    free(data);
}

static void
test_refusals(void)
{
    llm_mat_t m;
    llm_err_t err;
    is_int(llm_mat_init(&m, 7, 16, 33, &err), LLM_E_FORMAT, "33 columns of Q5_1");
    is_int(llm_mat_init(&m, LLM_T_Q4_K, 16, 128, &err), LLM_E_FORMAT, "128 columns of Q4_K");
    is_int(llm_mat_init(&m, 4, 16, 32, &err), LLM_E_UNSUPPORTED, "unknown format");
    is_int(llm_mat_init(&m, LLM_T_F32, 0, 32, &err), LLM_E_FORMAT, "no rows");
    is_int(llm_mat_init(&m, LLM_T_F32, 16, 0, &err), LLM_E_FORMAT, "no columns");
    is_int(llm_mat_init(&m, LLM_T_F32, UINT32_MAX, UINT32_MAX, &err), LLM_E_FORMAT, "more than the address space");
    ok(m.data == NULL && m.n_tiles == 0, "nothing is left behind by a refusal");
}

int
main(void)
{
    static const uint32_t rows[] = { 1, 15, 16, 17, 33 };
    static const uint32_t cols[] = { 1, 7, 32, 64, 96, 256, 288, 576, 768 };

    for (size_t t = 0; t < TD_TYPES; t++) {
        for (size_t c = 0; c < sizeof(cols) / sizeof(cols[0]); c++) {
            if (cols[c] % llm_format(td_types[t])->block == 0) {
                test_rows(td_types[t], rows[(t + c) % 5], cols[c]);
            }
        }
    }
    test_permutation();
    test_refusals();
    return done_testing();
}
