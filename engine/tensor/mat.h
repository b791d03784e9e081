/*
 * mat.h - weight matrices repacked for the kernels.
 *
 * A matrix of rows x cols (rows = outputs, y = W x) is stored in tiles of LLM_TILE rows. Inside a
 * tile the columns are grouped so that one 64-byte load feeds the same few columns of all 16 rows
 * (engine/tensor/pack.h draws each layout). One layout serves one token (bandwidth bound) and many
 * (compute bound), and single rows can still be read back (embedding lookup), so a tied matrix is
 * stored once. Packing changes no value: llm_mat_row equals the format's dequant.
 */
#ifndef LLM_MAT_H
#define LLM_MAT_H

#include "format.h"

#define LLM_TILE 16

typedef struct {
    uint32_t       type;        /* format in the file (llm_type_t) */
    uint32_t       layout;      /* packed layout, private to tensor/ */
    uint32_t       rows, cols;
    uint32_t       n_tiles;     /* ceil(rows / LLM_TILE); missing rows of the last tile are zero */
    size_t         tile_bytes;  /* a multiple of 64 */
    const uint8_t *data;        /* llm_mat_bytes(), 64-byte aligned; borrowed; NULL until set */
} llm_mat_t;

/*
 * Chooses the layout and computes sizes; data stays NULL.
 * Errors: UNSUPPORTED (type), FORMAT (cols not a multiple of the block, sizes that overflow).
 */
llm_code_t llm_mat_init(llm_mat_t *m, uint32_t type, uint32_t rows, uint32_t cols, llm_err_t *err);

static inline size_t
llm_mat_bytes(const llm_mat_t *m)
{
    return (size_t) m->n_tiles * m->tile_bytes;
}

/*
 * Packs one tile. dst: tile_bytes, 64-byte aligned. src[r]: the row in the file's format
 * (cols/block blocks, maybe unaligned) or NULL for a row of zeros. Which file row becomes which row
 * of the matrix is the caller's choice: permutations and concatenations of q, k, v happen here for
 * free.
 */
void llm_mat_pack_tile(const llm_mat_t *m, uint8_t *dst, const void *const src[LLM_TILE]);

/* Row i as cols floats. */
void llm_mat_row(const llm_mat_t *m, uint32_t i, float *dst);

#endif
