/*
 * mm_c.c - the matrix products of the portable set, with int8 activations.
 *
 * The arithmetic is that of actbuf.h, so the bits equal those of the x86 sets. Loops run over the
 * 16 rows of a tile, which compilers turn into vectors of any width. A chunk of columns is unpacked
 * once and used by all tokens.
 */
#include "tensor/actbuf.h"
#include "tensor/kern_c.h"
#include "tensor/vec_c.h"

#include <math.h>

#define CHUNK       8           /* blocks unpacked at once */
#define FLOAT_CHUNK 256         /* columns */

typedef struct {
    int16_t q[LLM_TILE][32];    /* values by row */
    float   s[2][LLM_TILE], m[2][LLM_TILE];
} block_t;

/*
 * fmaf(a, b, c), exactly, without needing it in hardware: the product is exact in double precision
 * and the sum is rounded to odd there, which makes the second rounding harmless (Boldo and
 * Melquiond, "Emulation of a FMA and correctly rounded sums", 2008).
 */
static float
fused(float a, float b, float c)
{
    double p = (double) a * b, s = p + c, bb = s - p, err = (p - (s - bb)) + (c - bb);
    union { double d; uint64_t u; } v = { .d = s };
    if ((err < 0.0 || err > 0.0) && !(v.u & 1)) {
        v.u += (err > 0.0) == (s > 0.0) ? 1 : (uint64_t) -1;
    }
    return (float) v.d;
}

/*
 * out[r] = fmaf(a[r], b[r], c[r]). Rounding the double-precision sum once more is right unless it
 * lies exactly between two floats or near the subnormal ones; then all rows go the exact way.
 */
static inline void
fused_rows(float out[LLM_TILE], const float a[LLM_TILE], const float b[LLM_TILE],
           const float c[LLM_TILE])
{
#if defined(FP_FAST_FMAF) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    for (int r = 0; r < LLM_TILE; r++) {
        out[r] = fmaf(a[r], b[r], c[r]);
    }
#else
    typedef float vf __attribute__((vector_size(16)));
    typedef double vd __attribute__((vector_size(32)));
    typedef int32_t vi __attribute__((vector_size(32)));
    const vi low_mask = { 0x1fffffff, 0, 0x1fffffff, 0, 0x1fffffff, 0, 0x1fffffff, 0 };
    const vi tie = { 0x10000000, 1, 0x10000000, 1, 0x10000000, 1, 0x10000000, 1 };
    const vi high_mask = { 0, 0x7fffffff, 0, 0x7fffffff, 0, 0x7fffffff, 0, 0x7fffffff };
    /* 2^-119 in the upper halves */
    const vi small = { -1, 0x38800000, -1, 0x38800000, -1, 0x38800000, -1, 0x38800000 };
    float quick[LLM_TILE];
    vi seen = { 0 };
    for (int r = 0; r < LLM_TILE; r += 4) {
        vf va, vb, vc, q;
        memcpy(&va, a + r, sizeof(va));
        memcpy(&vb, b + r, sizeof(vb));
        memcpy(&vc, c + r, sizeof(vc));
        vd s = __builtin_convertvector(va, vd) * __builtin_convertvector(vb, vd)
             + __builtin_convertvector(vc, vd);
        q = __builtin_convertvector(s, vf);
        seen |= (((vi) s & low_mask) == tie) | (((vi) s & high_mask) < small);
        memcpy(quick + r, &q, sizeof(q));
    }
    int32_t doubt = 0;
    for (int i = 0; i < 8; i++) {
        doubt |= seen[i];
    }
    if (doubt) {
        for (int r = 0; r < LLM_TILE; r++) {
            quick[r] = fused(a[r], b[r], c[r]);
        }
    }
    memcpy(out, quick, sizeof(quick));
#endif
}

/* Numbers of a body as values, row by row. */
static void
unpack_values(uint32_t lay, const uint8_t *body, int16_t q[LLM_TILE][32])
{
    uint8_t num[8][64], row[32];
    const lay_geom_t *g = &lay_geom[lay];
    const bool bytes = lay == LAY_Q8_0, pairs = lay == LAY_Q2_K || lay == LAY_Q3_K;
    const int mask = bytes ? 255 : pairs ? 3 : 15;

    for (int j = 0; j < 8; j++) {
        const uint8_t *v = body + 64 * (bytes ? j : pairs ? j / 4 : j % 4);
        const int shift = bytes ? 0 : pairs ? 2 * (j % 4) : 4 * (j / 4);
        for (int i = 0; i < 64; i++) {
            num[j][i] = (uint8_t) (v[i] >> shift & mask);
        }
    }
    for (int j = 0; j < 8; j++) {
        switch (lay) {
        case LAY_Q3_K:
            for (int i = 0; i < 64; i++) {
                num[j][i] |= (uint8_t) ((body[128 + i] >> j & 1) << 2);
            }
            break;
        case LAY_Q5_0:
        case LAY_Q5_1:
        case LAY_Q5_K:
            for (int i = 0; i < 64; i++) {
                num[j][i] |= (uint8_t) ((body[256 + i] >> j & 1) << 4);
            }
            break;
        case LAY_Q6_K:
            for (int i = 0; i < 64; i++) {
                num[j][i] |= (uint8_t) ((body[256 + 64 * (j / 4) + i] >> 2 * (j % 4) & 3) << 4);
            }
            break;
        default:
            break;
        }
    }
    for (int r = 0; r < LLM_TILE; r++) {
        for (int j = 0; j < 8; j++) {
            memcpy(row + 4 * j, num[j] + 4 * r, 4);
        }
        if (g->cb) {
            for (int c = 0; c < 32; c++) {
                q[r][c] = lay_codebook[g->cb][row[c]];
            }
        } else {
            for (int c = 0; c < 32; c++) {
                q[r][c] = (int16_t) (row[c] - (int) g->offset);
            }
        }
    }
}

/* The form that compilers know as a dot product of 16-bit numbers. */
static inline int32_t
dot(const int16_t *q, const int16_t *x, const int n)
{
    int32_t sum = 0;
    for (int i = 0; i < n; i++) {
        sum += (int32_t) q[i] * x[i];
    }
    return sum;
}

static inline void
step(bool halves, bool mins, const block_t *b, const act_block_t *x, float acc[LLM_TILE])
{
    int32_t c[2][LLM_TILE];
    int16_t q[32];

    for (int i = 0; i < 32; i++) {
        q[i] = x->q[i];
    }
    for (int r = 0; r < LLM_TILE; r++) {
        c[0][r] = dot(b->q[r], q, halves ? 16 : 32);
        c[1][r] = halves ? dot(b->q[r] + 16, q + 16, 16) : 0;
    }
    float v[2][LLM_TILE], u[LLM_TILE], scale[LLM_TILE];
    for (int h = 0; h < (halves ? 2 : 1); h++) {
        for (int r = 0; r < LLM_TILE; r++) {
            v[h][r] = (float) c[h][r];
        }
    }
    if (halves) {
        for (int r = 0; r < LLM_TILE; r++) {
            u[r] = b->s[0][r] * v[0][r];
            scale[r] = x->d;
        }
        fused_rows(u, b->s[1], v[1], u);
        fused_rows(acc, scale, u, acc);
    } else {
        for (int r = 0; r < LLM_TILE; r++) {
            scale[r] = b->s[0][r] * x->d;
        }
        fused_rows(acc, scale, v[0], acc);
    }
    for (int h = 0; mins && h < (halves ? 2 : 1); h++) {
        for (int r = 0; r < LLM_TILE; r++) {
            u[r] = halves ? x->ds_half[h] : x->ds;
        }
        fused_rows(acc, b->m[h], u, acc);
    }
}

/* Blocks b0..b0+n-1 of a tile. */
static void
fill(const llm_mat_t *w, const uint8_t *tile, uint32_t b0, uint32_t n, block_t *out)
{
    const lay_geom_t *g = &lay_geom[w->layout];

    for (uint32_t b = b0; b < b0 + n; b++, out++) {
        const uint8_t *head = tile + b / g->blocks * lay_group_bytes(w->layout);
        uint32_t i = b % g->blocks;
        unpack_values(w->layout, head + g->head + (size_t) i * g->body, out->q);
        for (uint32_t h = 0; h < (g->halves ? 2 : 1); h++) {
            for (uint32_t r = 0; r < LLM_TILE; r++) {
                llm_mat_scale(w->layout, head, i, h, r, &out->s[h][r], &out->m[h][r]);
            }
        }
    }
}

static void
mm_int8(const llm_mat_t *w, uint32_t i_tile, const llm_act_t *a, float *y, size_t ldy)
{
    const lay_geom_t *g = &lay_geom[w->layout];
    const uint8_t *tile = w->data + i_tile * w->tile_bytes;
    uint32_t row = i_tile * LLM_TILE, n_rows = w->rows - row < LLM_TILE ? w->rows - row : LLM_TILE,
             blocks = w->cols / 32;
    block_t chunk[CHUNK];

    for (uint32_t b0 = 0; b0 < blocks; b0 += CHUNK) {
        uint32_t n = blocks - b0 < CHUNK ? blocks - b0 : CHUNK;
        fill(w, tile, b0, n, chunk);
        for (uint32_t t = 0; t < a->n; t++) {
            uint32_t width;
            const act_block_t *x = act_panel(a, t / ACT_PANEL, &width) + t % ACT_PANEL;
            float acc[LLM_TILE] = { 0 };
            if (b0 != 0) {
                memcpy(acc, y + t * ldy + row, n_rows * sizeof(float));
            }
            for (uint32_t b = 0; b < n; b++) {
                const act_block_t *xb = x + (size_t) (b0 + b) * width;
                if (g->halves) {
                    step(true, g->mins, &chunk[b], xb, acc);
                } else {
                    step(false, g->mins, &chunk[b], xb, acc);
                }
            }
            memcpy(y + t * ldy + row, acc, n_rows * sizeof(float));
        }
    }
}

static void
widen(const llm_mat_t *w, const uint8_t *tile, uint32_t c0, uint32_t n,
      float out[FLOAT_CHUNK][LLM_TILE])
{
    for (uint32_t i = 0; i < n; i++) {
        size_t c = (size_t) c0 + i;
        switch (w->layout) {
        case LAY_F32:
            memcpy(out[i], tile + 64 * c, sizeof(out[i]));
            break;
        case LAY_F16:
            for (uint32_t r = 0; r < LLM_TILE; r += VL) {
                VF_STOREU(out[i] + r, VF_F16(tile + 32 * c + 2 * r));
            }
            break;
        default:
            for (uint32_t r = 0; r < LLM_TILE; r++) {
                out[i][r] = llm_bf16_to_f32(lay_load16(tile + 64 * (c / 2) + 4 * r + 2 * (c & 1)));
            }
            break;
        }
    }
}

/* Even and odd columns of a chunk are summed apart, then both and the chunk's sum are added. */
static void
mm_float(const llm_mat_t *w, uint32_t i_tile, const llm_act_t *a, float *y, size_t ldy)
{
    const uint8_t *tile = w->data + i_tile * w->tile_bytes;
    uint32_t row = i_tile * LLM_TILE, n_rows = w->rows - row < LLM_TILE ? w->rows - row : LLM_TILE;
    float chunk[FLOAT_CHUNK][LLM_TILE];

    for (uint32_t c0 = 0; c0 < w->cols; c0 += FLOAT_CHUNK) {
        uint32_t n = w->cols - c0 < FLOAT_CHUNK ? w->cols - c0 : FLOAT_CHUNK;
        widen(w, tile, c0, n, chunk);
        for (uint32_t t = 0; t < a->n; t++) {
            const float *x = a->x + t * a->ldx + c0;
            float *out = y + t * ldy + row, s[2][LLM_TILE] = { { 0 } };
            for (uint32_t i = 0; i < n; i++) {
                for (uint32_t r = 0; r < LLM_TILE; r++) {
                    s[i & 1][r] += chunk[i][r] * x[i];
                }
            }
            for (uint32_t r = 0; r < n_rows; r++) {
                out[r] = (c0 != 0 ? out[r] : 0.0f) + (s[0][r] + s[1][r]);
            }
        }
    }
}

void
llm_c_mm(const llm_mat_t *w, uint32_t tile0, uint32_t tile1, const llm_act_t *a, float *y,
         size_t ldy)
{
    for (uint32_t tile = tile0; tile < tile1; tile++) {
        if (lay_is_float(w->layout)) {
            mm_float(w, tile, a, y, ldy);
        } else {
            mm_int8(w, tile, a, y, ldy);
        }
    }
}

/* ------------------------------------------------------------ activations */

static void
quant_block(act_block_t *out, const float *x)
{
    float max = 0.0f;
    for (int i = 0; i < 32; i++) {
        float v = fabsf(x[i]);
        max = v > max || v != v ? v : max;
    }
    bool tiny = max < ACT_TINY;
    float d = tiny ? 0.0f : max / 127.0f, inverse = tiny ? 0.0f : 127.0f / max;
    int32_t sum[2] = { 0, 0 };
    for (int i = 0; i < 32; i++) {
        /*
         * to nearest even by adding 1.5 * 2^23; infinity and NaN times 0 or NaN end as some int8
         * beside a d that is not finite
         */
        union { float f; uint32_t u; } v = { .f = x[i] * inverse + 12582912.0f };
        out->q[i] = (int8_t) (uint8_t) v.u;
        sum[i / 16] += out->q[i];
    }
    out->d = d;
    out->ds = d * (float) (sum[0] + sum[1]);
    out->ds_half[0] = d * (float) sum[0];
    out->ds_half[1] = d * (float) sum[1];
    out->neg = -(sum[0] + sum[1]);
    out->neg_half[0] = -sum[0];
    out->neg_half[1] = -sum[1];
    out->unused = 0;
}

void
llm_c_quant(const llm_act_t *a, uint32_t t0, uint32_t t1)
{
    for (uint32_t t = t0; t < t1; t++) {
        uint32_t width, n_blocks = a->k / 32;
        act_block_t *out = act_panel(a, t / ACT_PANEL, &width) + t % ACT_PANEL;
        for (uint32_t b = 0; b < n_blocks; b++) {
            quant_block(out + (size_t) b * width, a->x + t * a->ldx + 32 * (size_t) b);
        }
    }
}
