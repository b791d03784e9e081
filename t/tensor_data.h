/*
 * tensor_data.h - random weights in every format, for the tensor tests.
 */
#ifndef TENSOR_DATA_H
#define TENSOR_DATA_H

#include "tensor/mat.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const uint32_t td_types[] = {
    LLM_T_F32, LLM_T_F16, LLM_T_BF16, LLM_T_Q8_0, LLM_T_Q4_0, LLM_T_Q4_1, LLM_T_Q5_0, LLM_T_Q5_1, LLM_T_Q4_K, LLM_T_Q5_K,
    LLM_T_Q6_K, LLM_T_Q2_K, LLM_T_Q3_K, LLM_T_IQ4_NL, LLM_T_IQ4_XS, LLM_T_MXFP4,
};
#define TD_TYPES (sizeof(td_types) / sizeof(td_types[0]))

static uint64_t td_state = 1;

__attribute__((unused)) static uint32_t
td_rand(void)
{
    td_state = td_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t) (td_state >> 33) ^ (uint32_t) (td_state >> 13);
}

/* uniform in [-1, 1) */
__attribute__((unused)) static float
td_unit(void)
{
    return (float) (int32_t) td_rand() * 0x1p-31f;
}

/* roughly normal */
__attribute__((unused)) static float
td_normal(void)
{
    return 1.0f * (td_unit() + td_unit() + td_unit());
}

static inline void
td_put_f16(uint8_t *p, float f)
{
    uint16_t h = llm_f32_to_f16(f);
    memcpy(p, &h, 2);
}

/* One row of random numbers; scales are kept finite and of a size that weights have. */
__attribute__((unused)) static void
td_row(uint32_t type, uint32_t cols, uint8_t *dst)
{
    static const struct { uint32_t type; int d, m; } fields[] = {
        { LLM_T_Q8_0, 0, -1 }, { LLM_T_Q4_0, 0, -1 }, { LLM_T_Q4_1, 0, 2 }, { LLM_T_Q5_0, 0, -1 }, { LLM_T_Q5_1, 0, 2 },
        { LLM_T_Q2_K, 80, 82 }, { LLM_T_Q3_K, 108, -1 }, { LLM_T_Q4_K, 0, 2 }, { LLM_T_Q5_K, 0, 2 }, { LLM_T_Q6_K, 208, -1 },
        { LLM_T_IQ4_NL, 0, -1 }, { LLM_T_IQ4_XS, 0, -1 },
    };
    const llm_format_t *f = llm_format(type);
    for (uint32_t b = 0; b < cols / f->block; b++, dst += f->bytes) {
        for (uint32_t i = 0; i < f->bytes; i++) {
            dst[i] = (uint8_t) td_rand();
        }
        if (type == LLM_T_F32) {
            float v = td_normal();
            memcpy(dst, &v, 4);
        } else if (type == LLM_T_F16) {
            td_put_f16(dst, td_normal());
        } else if (type == LLM_T_BF16) {
            float v = td_normal();
            memcpy(dst, (uint8_t *) &v + 2, 2);
        } else if (type == LLM_T_MXFP4) {
            dst[0] = (uint8_t) (120 + td_rand() % 8);
        }
        for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
            if (fields[i].type == type) {
                td_put_f16(dst + fields[i].d, 0.05f * td_unit());
                if (fields[i].m >= 0) {
                    td_put_f16(dst + fields[i].m, 0.2f * td_unit());
                }
            }
        }
    }
}

/* A matrix of random rows: m->data is malloced; *file gets the rows in the file's format (malloced, row after row). */
__attribute__((unused)) static int
td_mat(llm_mat_t *m, uint32_t type, uint32_t rows, uint32_t cols, uint8_t **file)
{
    if (llm_mat_init(m, type, rows, cols, NULL) != LLM_OK) {
        return 0;
    }
    const llm_format_t *f = llm_format(type);
    size_t row_bytes = (size_t) cols / f->block * f->bytes;
    uint8_t *raw = malloc(row_bytes * rows + 1), *data = aligned_alloc(64, llm_mat_bytes(m));

    memset(data, 0xa5, llm_mat_bytes(m));
    for (uint32_t r = 0; r < rows; r++) {
        td_row(type, cols, raw + r * row_bytes);
    }
    for (uint32_t t = 0; t < m->n_tiles; t++) {
        const void *src[LLM_TILE];
        for (uint32_t r = 0; r < LLM_TILE; r++) {
            uint32_t row = t * LLM_TILE + r;
            src[r] = row < rows ? raw + row * row_bytes : NULL;
        }
        llm_mat_pack_tile(m, data + t * m->tile_bytes, src);
    }
    m->data = data;
    *file = raw;
    return 1;
}

__attribute__((unused)) static void
td_mat_free(llm_mat_t *m, uint8_t *file)
{
    free((void *) (uintptr_t) m->data);
    free(file);
}

#endif
