/*
 * mat.c - packs weight matrices into tiles and reads single rows back.
 *
 * Owns: the way into the layouts of pack.h (drawn there) and the way back for one row. The kernels
 * read tiles themselves. Packing moves bits and never computes a value, so that a row read back
 * equals the format's dequant bit for bit. Hot at load time: each routine handles one group of
 * blocks for 16 rows, reading 16 streams and writing one.
 */
#include "tensor/mat.h"
#include "tensor/pack.h"

#include <math.h>

/* src[r]: the group's first byte in the file's row r. n: blocks of 32 columns in this group. */
typedef void (*pack_fn)(uint8_t *dst, const uint8_t *const src[LLM_TILE], uint32_t n);

#define ONES8   0x01010101u
#define THREES8 0x03030303u
#define LOWS8   0x0f0f0f0fu

/* ------------------------------------------------------------ pieces */

static inline void
put16(uint8_t *p, uint32_t i, const uint8_t *src)
{
    memcpy(p + 2 * i, src, 2);
}

static inline void
put_dword(uint8_t *body, uint32_t j, uint32_t r, uint32_t v)
{
    memcpy(body + 64 * j + 4 * r, &v, sizeof(v));
}

/* 16 bytes whose nibbles are columns i and i + 16: the dwords only change places. */
static inline void
put_nibbles_split(uint8_t *body, uint32_t r, const uint8_t *qs)
{
    for (uint32_t v = 0; v < 4; v++) {
        put_dword(body, v, r, lay_load32(qs + 4 * v));
    }
}

/* 32 bytes with one column each, in the low (shift 0) or high (shift 4) nibble. */
static inline void
put_nibbles_plane(uint8_t *body, uint32_t r, const uint8_t *qs, int shift)
{
    for (uint32_t v = 0; v < 4; v++) {
        uint32_t lo = lay_load32(qs + 4 * v) >> shift & LOWS8,
                 hi = lay_load32(qs + 16 + 4 * v) >> shift & LOWS8;
        put_dword(body, v, r, lo | hi << 4);
    }
}

/* One bit a column: bit c of `bits`. */
static inline void
put_bits_word(uint8_t *vec, uint32_t r, uint32_t bits)
{
    uint32_t out = 0;
    for (uint32_t i = 0; i < 4; i++) {
        /* gather bits i, i+4, ... i+28 into one byte */
        uint32_t x = bits >> i & 0x11111111;
        x = (x | x >> 3) & THREES8;
        x = (x | x >> 6) & 0x000f000f;
        x = (x | x >> 12) & 0xff;
        out |= x << 8 * i;
    }
    put_dword(vec, 0, r, out);
}

/* One bit a column: bit `shift` of 32 bytes. */
static inline void
put_bits_plane(uint8_t *vec, uint32_t r, const uint8_t *qh, int shift)
{
    uint32_t out = 0;
    for (uint32_t j = 0; j < 8; j++) {
        out |= (lay_load32(qh + 4 * j) >> shift & ONES8) << j;
    }
    put_dword(vec, 0, r, out);
}

/* Two bits a column: bits shift, shift + 1 of 32 bytes. */
static inline void
put_pairs_plane(uint8_t *vec, uint32_t r, const uint8_t *qh, int shift)
{
    for (uint32_t v = 0; v < 2; v++) {
        uint32_t out = 0;
        for (uint32_t j = 0; j < 4; j++) {
            out |= (lay_load32(qh + 16 * v + 4 * j) >> shift & THREES8) << 2 * j;
        }
        put_dword(vec, v, r, out);
    }
}

/* Stores 256 six-bit numbers as A, B, C. */
static void
put_six(uint8_t *abc, const uint8_t val[256])
{
    for (uint32_t k = 0; k < 64; k++) {
        const uint8_t *v = val + k;
        abc[k] = (uint8_t) ((v[0] & 15) | v[64] << 4);
        abc[64 + k] = (uint8_t) ((v[128] & 15) | v[192] << 4);
        abc[128 + k] =
            (uint8_t) (v[0] >> 4 | v[64] >> 4 << 2 | v[128] >> 4 << 4 | v[192] >> 4 << 6);
    }
}

/* ------------------------------------------------------------ one group of each layout */

static void
pack_q8_0(uint8_t *dst, const uint8_t *const src[LLM_TILE], uint32_t n)
{
    for (uint32_t b = 0; b < n; b++) {
        uint8_t *body = dst + 64 + 512 * b;
        for (uint32_t r = 0; r < LLM_TILE; r++) {
            const uint8_t *p = src[r] + 34 * b;
            put16(dst, 16 * b + r, p);
            for (uint32_t j = 0; j < 8; j++) {
                put_dword(body, j, r, lay_load32(p + 2 + 4 * j) ^ 0x80808080u);
            }
        }
    }
}

static void
pack_q4_0(uint8_t *dst, const uint8_t *const src[LLM_TILE], uint32_t n)
{
    for (uint32_t b = 0; b < n; b++) {
        for (uint32_t r = 0; r < LLM_TILE; r++) {
            const uint8_t *p = src[r] + 18 * b;
            put16(dst, 16 * b + r, p);
            put_nibbles_split(dst + 64 + 256 * b, r, p + 2);
        }
    }
}

static void
pack_q5_0(uint8_t *dst, const uint8_t *const src[LLM_TILE], uint32_t n)
{
    for (uint32_t b = 0; b < n; b++) {
        for (uint32_t r = 0; r < LLM_TILE; r++) {
            const uint8_t *p = src[r] + 22 * b;
            put16(dst, 16 * b + r, p);
            put_nibbles_split(dst + 64 + 320 * b, r, p + 6);
            put_bits_word(dst + 64 + 320 * b + 256, r, lay_load32(p + 2));
        }
    }
}

static void
pack_q4_1(uint8_t *dst, const uint8_t *const src[LLM_TILE], uint32_t n)
{
    (void) n;
    for (uint32_t r = 0; r < LLM_TILE; r++) {
        put16(dst, r, src[r]);
        put16(dst + 32, r, src[r] + 2);
        put_nibbles_split(dst + 64, r, src[r] + 4);
    }
}

static void
pack_q5_1(uint8_t *dst, const uint8_t *const src[LLM_TILE], uint32_t n)
{
    (void) n;
    for (uint32_t r = 0; r < LLM_TILE; r++) {
        put16(dst, r, src[r]);
        put16(dst + 32, r, src[r] + 2);
        put_nibbles_split(dst + 64, r, src[r] + 8);
        put_bits_word(dst + 64 + 256, r, lay_load32(src[r] + 4));
    }
}

static void
pack_mxfp4(uint8_t *dst, const uint8_t *const src[LLM_TILE], uint32_t n)
{
    for (uint32_t b = 0; b < n; b++) {
        for (uint32_t r = 0; r < LLM_TILE; r++) {
            const uint8_t *p = src[r] + 17 * b;
            dst[16 * b + r] = p[0];
            put_nibbles_split(dst + 64 + 256 * b, r, p + 1);
        }
    }
}

static void
pack_q2_k(uint8_t *dst, const uint8_t *const src[LLM_TILE], uint32_t n)
{
    (void) n;
    for (uint32_t r = 0; r < LLM_TILE; r++) {
        const uint8_t *p = src[r];
        put16(dst, r, p + 80);
        put16(dst + 32, r, p + 82);
        for (uint32_t h = 0; h < 16; h++) {
            dst[64 + 16 * h + r] = p[h];
        }
        for (uint32_t b = 0; b < 8; b++) {
            put_pairs_plane(dst + 320 + 128 * b, r, p + 16 + 32 * (b / 4), 2 * (int) (b % 4));
        }
    }
}

static void
pack_q3_k(uint8_t *dst, const uint8_t *const src[LLM_TILE], uint32_t n)
{
    (void) n;
    uint8_t six[256];
    for (uint32_t r = 0; r < LLM_TILE; r++) {
        const uint8_t *p = src[r], *sc = p + 96;
        put16(dst, r, p + 108);
        for (uint32_t s = 0; s < 16; s++) {
            int lo = s < 8 ? sc[s] & 15 : sc[s - 8] >> 4, hi = sc[8 + s % 4] >> 2 * (s / 4) & 3;
            six[16 * s + r] = (uint8_t) (lo | hi << 4);
        }
        for (uint32_t b = 0; b < 8; b++) {
            uint8_t *body = dst + 256 + 192 * b;
            put_pairs_plane(body, r, p + 32 + 32 * (b / 4), 2 * (int) (b % 4));
            put_bits_plane(body + 128, r, p, (int) b);
        }
    }
    memset(dst + 32, 0, 32);
    put_six(dst + 64, six);
}

/* Scales of blocks 0..7, then minimums, 16 rows each, from the 12 bytes of a Q4_K or Q5_K row. */
static inline void
six_k4(uint8_t *six, uint32_t r, const uint8_t *sc)
{
    for (uint32_t b = 0; b < 4; b++) {
        six[16 * b + r] = sc[b] & 63;
        six[128 + 16 * b + r] = sc[b + 4] & 63;
        six[16 * (b + 4) + r] = (uint8_t) ((sc[b + 8] & 15) | sc[b] >> 6 << 4);
        six[128 + 16 * (b + 4) + r] = (uint8_t) (sc[b + 8] >> 4 | sc[b + 4] >> 6 << 4);
    }
}

static void
pack_q4_k(uint8_t *dst, const uint8_t *const src[LLM_TILE], uint32_t n)
{
    (void) n;
    uint8_t six[256];
    for (uint32_t r = 0; r < LLM_TILE; r++) {
        const uint8_t *p = src[r];
        put16(dst, r, p);
        put16(dst + 32, r, p + 2);
        six_k4(six, r, p + 4);
        for (uint32_t b = 0; b < 8; b++) {
            put_nibbles_plane(dst + 256 + 256 * b, r, p + 16 + 32 * (b / 2), 4 * (int) (b & 1));
        }
    }
    put_six(dst + 64, six);
}

static void
pack_q5_k(uint8_t *dst, const uint8_t *const src[LLM_TILE], uint32_t n)
{
    (void) n;
    uint8_t six[256];
    for (uint32_t r = 0; r < LLM_TILE; r++) {
        const uint8_t *p = src[r];
        put16(dst, r, p);
        put16(dst + 32, r, p + 2);
        six_k4(six, r, p + 4);
        for (uint32_t b = 0; b < 8; b++) {
            uint8_t *body = dst + 256 + 320 * b;
            put_nibbles_plane(body, r, p + 48 + 32 * (b / 2), 4 * (int) (b & 1));
            put_bits_plane(body + 256, r, p + 16, (int) b);
        }
    }
    put_six(dst + 64, six);
}

static void
pack_q6_k(uint8_t *dst, const uint8_t *const src[LLM_TILE], uint32_t n)
{
    (void) n;
    memset(dst + 32, 0, 32);
    for (uint32_t r = 0; r < LLM_TILE; r++) {
        const uint8_t *p = src[r];
        put16(dst, r, p + 208);
        for (uint32_t h = 0; h < 16; h++) {
            dst[64 + 16 * h + r] = p[192 + h];
        }
        for (uint32_t b = 0; b < 8; b++) {
            uint8_t *body = dst + 320 + 384 * b;
            put_nibbles_plane(body, r, p + 64 * (b / 4) + 32 * (b % 2), 4 * (int) (b % 4 / 2));
            put_pairs_plane(body + 256, r, p + 128 + 32 * (b / 4), 2 * (int) (b % 4));
        }
    }
}

static void
pack_iq4_xs(uint8_t *dst, const uint8_t *const src[LLM_TILE], uint32_t n)
{
    (void) n;
    uint8_t six[128];
    for (uint32_t r = 0; r < LLM_TILE; r++) {
        const uint8_t *p = src[r];
        uint32_t sh = lay_load16(p + 2);
        put16(dst, r, p);
        for (uint32_t b = 0; b < 8; b++) {
            six[16 * b + r] =
                (uint8_t) ((p[4 + b / 2] >> 4 * (b & 1) & 15) | (sh >> 2 * b & 3) << 4);
            put_nibbles_split(dst + 128 + 256 * b, r, p + 8 + 16 * b);
        }
    }
    for (uint32_t k = 0; k < 64; k++) {
        dst[64 + k] = (uint8_t) ((six[k] & 15) | six[64 + k] << 4);
    }
    for (uint32_t k = 0; k < 32; k++) {
        const uint8_t *v = six + k;
        dst[32 + k] = (uint8_t) (v[0] >> 4 | v[32] >> 4 << 2 | v[64] >> 4 << 4 | v[96] >> 4 << 6);
    }
}

/* ------------------------------------------------------------ layouts */

static const struct {
    uint32_t type;
    pack_fn  pack;      /* NULL: float layout */
} layouts[LAY_COUNT] = {
    [LAY_F32] = { LLM_T_F32, NULL },        [LAY_F16] = { LLM_T_F16, NULL },
    [LAY_BF16] = { LLM_T_BF16, NULL },      [LAY_Q8_0] = { LLM_T_Q8_0, pack_q8_0 },
    [LAY_Q4_0] = { LLM_T_Q4_0, pack_q4_0 }, [LAY_IQ4_NL] = { LLM_T_IQ4_NL, pack_q4_0 },
    [LAY_MXFP4] = { LLM_T_MXFP4, pack_mxfp4 }, [LAY_Q5_0] = { LLM_T_Q5_0, pack_q5_0 },
    [LAY_Q4_1] = { LLM_T_Q4_1, pack_q4_1 }, [LAY_Q5_1] = { LLM_T_Q5_1, pack_q5_1 },
    [LAY_Q4_K] = { LLM_T_Q4_K, pack_q4_k }, [LAY_Q5_K] = { LLM_T_Q5_K, pack_q5_k },
    [LAY_IQ4_XS] = { LLM_T_IQ4_XS, pack_iq4_xs }, [LAY_Q2_K] = { LLM_T_Q2_K, pack_q2_k },
    [LAY_Q3_K] = { LLM_T_Q3_K, pack_q3_k }, [LAY_Q6_K] = { LLM_T_Q6_K, pack_q6_k },
};

/* cols < 2^32, so nothing here overflows 64 bits. */
static uint64_t
tile_bytes_of(uint32_t lay, uint64_t cols)
{
    switch (lay) {
    case LAY_F32:
        return 64 * cols;
    case LAY_F16:
    case LAY_BF16:
        return (cols + 1) / 2 * 64;
    default: {
        const lay_geom_t *g = &lay_geom[lay];
        uint64_t blocks = cols / 32, groups = (blocks + g->blocks - 1) / g->blocks;
        return groups * g->head + blocks * g->body;
    }
    }
}

llm_code_t
llm_mat_init(llm_mat_t *m, uint32_t type, uint32_t rows, uint32_t cols, llm_err_t *err)
{
    memset(m, 0, sizeof(*m));
    const llm_format_t *f = llm_format(type);
    uint32_t lay = 0;
    while (lay < LAY_COUNT && layouts[lay].type != type) {
        lay++;
    }
    if (f == NULL || lay == LAY_COUNT) {
        return llm_fail(err, LLM_E_UNSUPPORTED, "matrix of %u x %u: no layout for number format %u",
                        rows, cols, type);
    }
    if (rows == 0 || cols == 0 || cols % f->block != 0) {
        return llm_fail(err, LLM_E_FORMAT,
                        "matrix of %u x %u: %s needs at least one row and columns in blocks of %u",
                        rows, cols, f->name, f->block);
    }
    uint64_t tile_bytes = tile_bytes_of(lay, cols), total;
    uint32_t n_tiles = rows / LLM_TILE + (rows % LLM_TILE != 0);
    if (__builtin_mul_overflow(tile_bytes, n_tiles, &total) || total > PTRDIFF_MAX) {
        return llm_fail(err, LLM_E_FORMAT,
                        "matrix of %u x %u: %u tiles of %llu bytes exceed the address space", rows,
                        cols, n_tiles, (unsigned long long) tile_bytes);
    }
    *m = (llm_mat_t) {
        .type = type,
        .layout = lay,
        .rows = rows,
        .cols = cols,
        .n_tiles = n_tiles,
        .tile_bytes = (size_t) tile_bytes,
    };
    return LLM_OK;
}

static void
pack_tile_f32(uint8_t *dst, const uint8_t *const src[LLM_TILE], uint32_t cols)
{
    for (size_t c = 0; c < cols; c++) {
        for (uint32_t r = 0; r < LLM_TILE; r++) {
            uint32_t v = src[r] != NULL ? lay_load32(src[r] + 4 * c) : 0;
            memcpy(dst + 64 * c + 4 * r, &v, sizeof(v));
        }
    }
}

static void
pack_tile_f16(uint8_t *dst, const uint8_t *const src[LLM_TILE], uint32_t cols)
{
    for (size_t c = 0; c < cols; c++) {
        for (uint32_t r = 0; r < LLM_TILE; r++) {
            uint16_t v = src[r] != NULL ? lay_load16(src[r] + 2 * c) : 0;
            memcpy(dst + 32 * c + 2 * r, &v, sizeof(v));
        }
    }
    if (cols & 1) {
        memset(dst + 32 * (size_t) cols, 0, 32);
    }
}

static void
pack_tile_bf16(uint8_t *dst, const uint8_t *const src[LLM_TILE], uint32_t cols)
{
    for (size_t p = 0; p < cols / 2; p++) {
        for (uint32_t r = 0; r < LLM_TILE; r++) {
            uint32_t v = src[r] != NULL ? lay_load32(src[r] + 4 * p) : 0;
            memcpy(dst + 64 * p + 4 * r, &v, sizeof(v));
        }
    }
    if (cols & 1) {
        for (uint32_t r = 0; r < LLM_TILE; r++) {
            uint32_t v = src[r] != NULL ? lay_load16(src[r] + 2 * ((size_t) cols - 1)) : 0;
            memcpy(dst + 64 * (size_t) (cols / 2) + 4 * r, &v, sizeof(v));
        }
    }
}

void
llm_mat_pack_tile(const llm_mat_t *m, uint8_t *dst, const void *const src[LLM_TILE])
{
    /* a group of any quantized format; all-zero blocks stand for zeros */
    static const uint8_t zeros[256];
    const uint8_t *p[LLM_TILE];

    for (uint32_t r = 0; r < LLM_TILE; r++) {
        p[r] = src[r];
    }
    switch (m->layout) {
    case LAY_F32:
        pack_tile_f32(dst, p, m->cols);
        return;
    case LAY_F16:
        pack_tile_f16(dst, p, m->cols);
        return;
    case LAY_BF16:
        pack_tile_bf16(dst, p, m->cols);
        return;
    default:
        break;
    }

    const lay_geom_t *g = &lay_geom[m->layout];
    const llm_format_t *f = llm_format(m->type);
    pack_fn pack = layouts[m->layout].pack;
    uint32_t blocks = m->cols / 32;
    size_t file_bytes = (size_t) g->blocks * 32 / f->block * f->bytes;      /* of one row's group */

    for (uint32_t r = 0; r < LLM_TILE; r++) {
        p[r] = src[r] != NULL ? src[r] : zeros;
    }
    for (uint32_t b = 0; b < blocks; b += g->blocks) {
        uint32_t n = blocks - b < g->blocks ? blocks - b : g->blocks;
        if (n < g->blocks) {
            memset(dst, 0, g->head);
        }
        pack(dst, p, n);
        dst += lay_group_bytes(m->layout);
        for (uint32_t r = 0; r < LLM_TILE; r++) {
            p[r] += p[r] != zeros ? file_bytes : 0;
        }
    }
}

/* ------------------------------------------------------------ one row back */

/* Numbers of one row of a body as values: offsets subtracted, codebooks applied. */
static void
row_quants(uint32_t lay, const uint8_t *body, uint32_t r, int8_t q[32])
{
    const lay_geom_t *g = &lay_geom[lay];
    const uint8_t *p = body + 4 * r;

    for (uint32_t c = 0; c < 32; c++) {
        uint32_t j = c / 4, i = c % 4, v;
        switch (lay) {
        case LAY_Q8_0:
            v = p[64 * j + i];
            break;
        case LAY_Q2_K:
        case LAY_Q3_K:
            v = p[64 * (j / 4) + i] >> 2 * (j % 4) & 3;
            break;
        default:
            v = p[64 * (j % 4) + i] >> 4 * (j / 4) & 15;
            break;
        }
        switch (lay) {
        case LAY_Q3_K:
            v |= (p[128 + i] >> j & 1u) << 2;
            break;
        case LAY_Q5_0:
        case LAY_Q5_1:
        case LAY_Q5_K:
            v |= (p[256 + i] >> j & 1u) << 4;
            break;
        case LAY_Q6_K:
            v |= (p[256 + 64 * (j / 4) + i] >> 2 * (j % 4) & 3u) << 4;
            break;
        default:
            break;
        }
        q[c] = g->cb ? lay_codebook[g->cb][v] : (int8_t) ((int) v - (int) g->offset);
    }
}

static inline float
head_f16(const uint8_t *head, uint32_t i)
{
    return llm_f16_to_f32(lay_load16(head + 2 * i));
}

/* The scale of half h of block i of a super-block, without the number that all are times. */
static int32_t
super_scale(uint32_t lay, const uint8_t *head, uint32_t i, uint32_t h, uint32_t r)
{
    uint32_t half = 2 * i + h, k = 16 * i + r;
    switch (lay) {
    case LAY_Q2_K:
        return head[64 + 16 * half + r] & 15;
    case LAY_Q3_K:
        return lay_six(head + 64, 16 * half + r) - 32;
    case LAY_Q6_K:
        return (int8_t) head[64 + 16 * half + r];
    case LAY_IQ4_XS:
        return ((head[64 + k % 64] >> 4 * (k / 64) & 15)
                | (head[32 + k % 32] >> 2 * (k / 32) & 3) << 4) - 32;
    default:
        return lay_six(head + 64, k);
    }
}

uint32_t
llm_mat_min(uint32_t lay, const uint8_t *head, uint32_t i, uint32_t h, uint32_t r)
{
    return lay == LAY_Q2_K ? head[64 + 16 * (2 * i + h) + r] >> 4
                           : (uint32_t) lay_six(head + 64, 128 + 16 * i + r);
}

float
llm_mat_dmin(const uint8_t *head, uint32_t r)
{
    return head_f16(head + 32, r);
}

void
llm_mat_scale(uint32_t lay, const uint8_t *head, uint32_t i, uint32_t h, uint32_t r, float *scale,
              float *min)
{
    *min = 0.0f;
    if (lay_is_super(lay)) {
        *scale = head_f16(head, r) * (float) super_scale(lay, head, i, h, r);
        if (lay_geom[lay].mins) {
            *min = -(llm_mat_dmin(head, r) * (float) llm_mat_min(lay, head, i, h, r));
        }
        return;
    }
    switch (lay) {
    case LAY_Q4_1:
    case LAY_Q5_1:
        *scale = head_f16(head, r);
        *min = head_f16(head + 32, r);
        return;
    case LAY_MXFP4:
        *scale = ldexpf(1.0f, head[16 * i + r] - 128);
        return;
    default:
        *scale = head_f16(head, 16 * i + r);
        return;
    }
}

void
llm_mat_row_block(const llm_mat_t *m, uint32_t row, uint32_t block, float dst[32])
{
    const lay_geom_t *g = &lay_geom[m->layout];
    const uint8_t *head =
        m->data + row / LLM_TILE * m->tile_bytes + block / g->blocks * lay_group_bytes(m->layout);
    uint32_t r = row % LLM_TILE, i = block % g->blocks;
    int8_t q[32];

    row_quants(m->layout, head + g->head + (size_t) i * g->body, r, q);
    for (uint32_t h = 0; h < 2; h++) {
        float scale, min;
        llm_mat_scale(m->layout, head, i, h, r, &scale, &min);
        for (uint32_t c = 16 * h; c < 16 * h + 16; c++) {
            dst[c] = g->mins ? scale * (float) q[c] + min : scale * (float) q[c];
        }
    }
}

float
llm_mat_float(const llm_mat_t *m, uint32_t row, uint32_t col)
{
    const uint8_t *tile = m->data + row / LLM_TILE * m->tile_bytes;
    uint32_t r = row % LLM_TILE;
    float v;

    switch (m->layout) {
    case LAY_F32:
        memcpy(&v, tile + 64 * (size_t) col + 4 * r, sizeof(v));
        return v;
    case LAY_F16:
        return llm_f16_to_f32(lay_load16(tile + 32 * (size_t) col + 2 * r));
    default:
        return llm_bf16_to_f32(lay_load16(tile + 64 * (size_t) (col / 2) + 4 * r + 2 * (col & 1)));
    }
}

void
llm_mat_row(const llm_mat_t *m, uint32_t i, float *dst)
{
    if (lay_is_float(m->layout)) {
        for (uint32_t c = 0; c < m->cols; c++) {
            dst[c] = llm_mat_float(m, i, c);
        }
        return;
    }
    for (uint32_t b = 0; b < m->cols / 32; b++) {
        llm_mat_row_block(m, i, b, dst + 32 * (size_t) b);
    }
}
