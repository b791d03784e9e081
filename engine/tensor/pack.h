/*
 * pack.h - the packed layouts of weight tiles, private to tensor/.
 *
 * A tile is LLM_TILE = 16 rows. Float layouts store columns one after the other:
 *     F32    column c, row r    f32 at 64 c + 4 r
 *     F16    column c, row r    f16 at 32 c + 2 r                   (tile padded to 64 bytes)
 *     BF16   columns 2p, 2p+1   one u32 per row at 64 p + 4 r, the even column in its low half
 *                               (odd count: padded with 0)
 *
 * Quantized layouts cut the columns into blocks of 32 and the blocks into groups: a group is a head
 * with the scales of its blocks, then one body for each block. The last group may have fewer
 * blocks. All parts are multiples of 64 bytes.
 * A body has the columns as eight "dwords" of 4: dword j of row r stands for columns 4j..4j+3, and
 *     bytes    dword j: byte i of row r at 64 j + 4 r + i           (Q8_0: q + 128)
 *     nibbles  vector v = 0..3: byte 4 r + i of it has dword v in its low, dword v + 4 in its high
 *              nibble
 *     1 bit    one vector: bit j of byte 4 r + i belongs to dword j
 *     2 bits   two vectors: bits 2 (j % 4) of byte 4 r + i of vector j / 4 belong to dword j
 *
 *     layout          blocks  head                                            body
 *     Q8_0            2       d f16 [2][16]                                   bytes
 *     Q4_0, IQ4_NL    2       d f16 [2][16]                                   nibbles
 *     Q5_0            2       d f16 [2][16]                                   nibbles, 1 bit
 *     Q4_1            1       d f16 [16], m f16 [16]                          nibbles
 *     Q5_1            1       d f16 [16], m f16 [16]                          nibbles, 1 bit
 *     MXFP4           4       e u8 [4][16]                                    nibbles
 *     Q2_K            8       d f16 [16], dmin f16 [16], u8 [16 halves][16]   2 bits
 *                             (scale in the low, minimum in the high nibble)
 *     Q3_K            8       d f16 [16], 32 unused, six-bit A B C            2 bits, 1 bit
 *     Q4_K            8       d f16 [16], dmin f16 [16], six-bit A B C        nibbles
 *     Q5_K            8       d f16 [16], dmin f16 [16], six-bit A B C        nibbles, 1 bit
 *     Q6_K            8       d f16 [16], 32 unused, i8 [16 halves][16]       nibbles, 2 bits
 *     IQ4_XS          8       d f16 [16], six-bit C' (32 bytes), A            nibbles
 * "halves" are the 16-column halves of the blocks, for formats with a scale for each 16 columns.
 *
 * Six-bit numbers: 256 of them, as four vectors V0..V3 of 64 bytes, are stored in 192 bytes:
 * A = low nibbles of V0 | V1 << 4, B = the same of V2, V3, C = upper two bits of V0 | V1 << 2 |
 * V2 << 4 | V3 << 6. Q4_K, Q5_K: V0, V1 = scales of blocks 0-3, 4-7 (16 rows each), V2, V3 =
 * minimums. Q3_K: Vk = scales of halves 4k..4k+3. IQ4_XS: V0, V1 = scales, C' has the upper bits of
 * V0[i], V0[i+32], V1[i], V1[i+32] in byte i.
 */
#ifndef LLM_PACK_H
#define LLM_PACK_H

#include "tensor/kern.h"

#include <string.h>

typedef enum {
    LAY_F32, LAY_F16, LAY_BF16,
    LAY_Q8_0, LAY_Q4_0, LAY_IQ4_NL, LAY_MXFP4, LAY_Q5_0, LAY_Q4_1, LAY_Q5_1,
    LAY_Q4_K, LAY_Q5_K, LAY_IQ4_XS, LAY_Q2_K, LAY_Q3_K, LAY_Q6_K,
    LAY_COUNT
} lay_t;

typedef struct {
    uint32_t blocks;            /* in a group */
    uint32_t head, body;        /* bytes */
    uint32_t offset; /* value = stored number - offset, or codebook[number] when cb != 0 */
    uint8_t  cb;                /* 1: IQ4, 2: FP4 */
    bool     halves;            /* a scale for each 16 columns */
    bool     mins;
} lay_geom_t;

static const lay_geom_t lay_geom[LAY_COUNT] = {
    [LAY_Q8_0] = { 2, 64, 512, 128, 0, false, false },
    [LAY_Q4_0] = { 2, 64, 256, 8, 0, false, false },
    [LAY_IQ4_NL] = { 2, 64, 256, 0, 1, false, false },
    [LAY_MXFP4] = { 4, 64, 256, 0, 2, false, false },
    [LAY_Q5_0] = { 2, 64, 320, 16, 0, false, false },
    [LAY_Q4_1] = { 1, 64, 256, 0, 0, false, true },
    [LAY_Q5_1] = { 1, 64, 320, 0, 0, false, true },
    [LAY_Q4_K] = { 8, 256, 256, 0, 0, false, true },
    [LAY_Q5_K] = { 8, 256, 320, 0, 0, false, true },
    [LAY_IQ4_XS] = { 8, 128, 256, 0, 1, false, false },
    [LAY_Q2_K] = { 8, 320, 128, 0, 0, true, true },
    [LAY_Q3_K] = { 8, 256, 192, 4, 0, true, false },
    [LAY_Q6_K] = { 8, 320, 384, 32, 0, true, false },
};

static const int8_t lay_codebook[3][16] = {
    { 0 },
    { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 },
    { 0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12 },
};

static inline bool
lay_is_float(uint32_t lay)
{
    return lay <= LAY_BF16;
}

/* Groups of 256 columns (super-blocks): scales are integers times one number of the row. */
static inline bool
lay_is_super(uint32_t lay)
{
    return lay_geom[lay].blocks == 8;
}

static inline size_t
lay_group_bytes(uint32_t lay)
{
    return lay_geom[lay].head + (size_t) lay_geom[lay].blocks * lay_geom[lay].body;
}

/* The six-bit number with index i of 256 (A, B, C as above). */
static inline int
lay_six(const uint8_t *abc, uint32_t i)
{
    uint32_t v = i / 64, k = i % 64;
    return (abc[64 * (v / 2) + k] >> 4 * (v & 1) & 15) | (abc[128 + k] >> 2 * v & 3) << 4;
}

/*
 * Columns 32 block .. 32 block + 31 of one row of a quantized layout; one column of a float layout.
 * mat.c. Thread: any.
 */
void llm_mat_row_block(const llm_mat_t *m, uint32_t row, uint32_t block, float dst[32]);
float llm_mat_float(const llm_mat_t *m, uint32_t row, uint32_t col);
/*
 * Scale and minimum (as a number to add) of row r of a tile, half h of block i of the group that
 * starts at head.
 */
void llm_mat_scale(uint32_t lay, const uint8_t *head, uint32_t i, uint32_t h, uint32_t r,
                   float *scale, float *min);
/*
 * Minimums of a layout with super-blocks: the integer of half h of block i, and what all of a row's
 * are multiplied with.
 */
uint32_t llm_mat_min(uint32_t lay, const uint8_t *head, uint32_t i, uint32_t h, uint32_t r);
float llm_mat_dmin(const uint8_t *head, uint32_t r);

static inline uint32_t
lay_load32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static inline int32_t
lay_load_i32(const void *p)
{
    int32_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static inline uint16_t
lay_load16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

#endif
