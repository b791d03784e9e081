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

#define CHUNK       8           /* blocks unpacked at once: 256 columns */
#define FLOAT_CHUNK 256         /* columns */

typedef struct {
    int16_t q[LLM_TILE][32];    /* values by row */
    float   s[2][LLM_TILE];     /* by half */
    float   m[LLM_TILE];        /* minimums of blocks */
    int16_t min[2][LLM_TILE];   /* of K-quants, by half */
    float   dmin[LLM_TILE];
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

/* v[h][r] = the integer sums of a block's columns, or of both halves. */
static inline void
dots(bool halves, const block_t *b, const int8_t *values, float v[2][LLM_TILE])
{
    int32_t c[2][LLM_TILE];
    int16_t q[32];

    for (int i = 0; i < 32; i++) {
        q[i] = values[i];
    }
    for (int r = 0; r < LLM_TILE; r++) {
        c[0][r] = dot(b->q[r], q, halves ? 16 : 32);
        c[1][r] = halves ? dot(b->q[r] + 16, q + 16, 16) : 0;
    }
    for (int h = 0; h < (halves ? 2 : 1); h++) {
        for (int r = 0; r < LLM_TILE; r++) {
            v[h][r] = (float) c[h][r];
        }
    }
}

static inline void
fill_row(float out[LLM_TILE], float v)
{
    for (int r = 0; r < LLM_TILE; r++) {
        out[r] = v;
    }
}

/* A block with its own d, the i-th of the record. */
static void
add_block(bool mins, const block_t *b, uint32_t i, const act_run_t *x, float acc[LLM_TILE])
{
    float v[2][LLM_TILE], u[LLM_TILE];

    dots(false, b, x->q + 32 * i, v);
    for (int r = 0; r < LLM_TILE; r++) {
        u[r] = b->s[0][r] * x->d[i];
    }
    fused_rows(acc, u, v[0], acc);
    if (mins) {
        fill_row(u, x->ds[i]);
        fused_rows(acc, b->m, u, acc);
    }
}

/* Both blocks of a record. */
static inline void
add_pair(bool halves, const block_t b[2], const act_run_t *x, float acc[LLM_TILE])
{
    float part[LLM_TILE] = { 0 }, v[2][LLM_TILE];

    for (int i = 0; i < 2; i++) {
        dots(halves, &b[i], x->q + 32 * i, v);
        for (int h = 0; h < (halves ? 2 : 1); h++) {
            fused_rows(part, b[i].s[h], v[h], part);
        }
    }
    fill_row(v[0], x->d[0]);
    fused_rows(acc, v[0], part, acc);
}

/* The minimums of the blocks b[0..7]. */
static void
add_mins(const block_t *b, const act_sums_t *x, float acc[LLM_TILE])
{
    int32_t sum[LLM_TILE] = { 0 };
    float v[LLM_TILE], d[LLM_TILE];

    for (int h = 0; h < 16; h++) {
        for (int r = 0; r < LLM_TILE; r++) {
            sum[r] += b[h / 2].min[h % 2][r] * x->half[h];
        }
    }
    for (int r = 0; r < LLM_TILE; r++) {
        v[r] = -b[0].dmin[r] * (float) sum[r];
    }
    fill_row(d, x->d);
    fused_rows(acc, d, v, acc);
}

/* Blocks b0..b0+n-1 of a tile. */
static void
fill(const llm_mat_t *w, const uint8_t *tile, uint32_t b0, uint32_t n, block_t *out)
{
    const lay_geom_t *g = &lay_geom[w->layout];
    const bool mins = act_forms(w) & LLM_ACT_SUMS;

    for (uint32_t b = b0; b < b0 + n; b++, out++) {
        const uint8_t *head = tile + b / g->blocks * lay_group_bytes(w->layout);
        uint32_t i = b % g->blocks;
        unpack_values(w->layout, head + g->head + (size_t) i * g->body, out->q);
        for (uint32_t r = 0; r < LLM_TILE; r++) {
            for (uint32_t h = 0; h < 2; h++) {
                llm_mat_scale(w->layout, head, i, h, r, &out->s[h][r], &out->m[r]);
                if (mins) {
                    out->min[h][r] = (int16_t) llm_mat_min(w->layout, head, i, h, r);
                }
            }
            if (mins) {
                out->dmin[r] = llm_mat_dmin(head, r);
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
    const uint32_t forms = act_forms(w);
    const bool sums = forms & LLM_ACT_SUMS, joint = forms & LLM_ACT_64;
    block_t chunk[CHUNK];

    for (uint32_t b0 = 0; b0 < blocks; b0 += CHUNK) {
        uint32_t n = blocks - b0 < CHUNK ? blocks - b0 : CHUNK;
        fill(w, tile, b0, n, chunk);
        for (uint32_t t = 0; t < a->n; t++) {
            uint32_t i_panel = t / ACT_PANEL, width = act_width(a, i_panel);
            float acc[LLM_TILE] = { 0 };
            if (b0 != 0) {
                memcpy(acc, y + t * ldy + row, n_rows * sizeof(float));
            }
            if (sums) {
                add_mins(chunk, act_sums(a, i_panel) + (size_t) b0 / 8 * width + t % ACT_PANEL,
                         acc);
            }
            const act_run_t *x = act_runs(a, joint ? LLM_ACT_64 : LLM_ACT_32, i_panel)
                               + (size_t) b0 / 2 * width + t % ACT_PANEL;
            for (uint32_t b = 0; b < n; b++) {
                const act_run_t *xb = x + (size_t) b / 2 * width;
                if (!joint) {
                    add_block(g->mins, &chunk[b], b % 2, xb, acc);
                } else if (b % 2 == 0) {
                    if (g->halves) {
                        add_pair(true, &chunk[b], xb, acc);
                    } else {
                        add_pair(false, &chunk[b], xb, acc);
                    }
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

/* To nearest even by adding 1.5 * 2^23. */
static inline int32_t
nearest(float v)
{
    union { float f; uint32_t u; } sum = { .f = v + 12582912.0f };
    return (int32_t) (sum.u - 0x4b400000);
}

static void
quant_run(act_run_t *out, bool joint, float ds[4], const float *x)
{
    float max[2] = { 0.0f, 0.0f };
    int32_t neg[4];
    for (int i = 0; i < ACT_RUN; i++) {
        float v = fabsf(x[i]), *m = &max[joint ? 0 : i / 32];
        *m = v > *m || v != v ? v : *m;
    }
    for (int h = 0; h < 4; h++) {
        float m = max[joint ? 0 : h / 2], d = m < ACT_TINY ? 0.0f : m / 127.0f,
              inverse = m < ACT_TINY ? 0.0f : 127.0f / m;
        int32_t sum = 0;
        for (int i = 16 * h; i < 16 * h + 16; i++) {
            /* infinity and NaN times 0 or NaN end as some int8 beside a d that is not finite */
            out->q[i] = (int8_t) (uint8_t) nearest(x[i] * inverse);
            sum += out->q[i];
        }
        out->d[h / 2] = d;
        neg[h] = -sum;
        ds[h] = d * (float) sum;
    }
    memcpy(out->half_neg, neg, sizeof(neg));
    for (int i = 0; i < 2; i++) {
        out->neg[i] = neg[2 * i] + neg[2 * i + 1];
        if (!joint) {
            out->ds[i] = out->d[i] * (float) -out->neg[i];
        }
    }
}

static void
quant_sums(act_sums_t *out, const float ds[16])
{
    float max = 0.0f;
    for (int h = 0; h < 16; h++) {
        float v = fabsf(ds[h]);
        max = v > max || v != v ? v : max;
    }
    float inverse = max > 0.0f ? ACT_SUM / max : 0.0f;
    for (int h = 0; h < 16; h++) {
        out->half[h] = (int16_t) (uint16_t) nearest(ds[h] * inverse);
    }
    for (int i = 0; i < 8; i++) {
        out->sum[i] = (int16_t) (out->half[2 * i] + out->half[2 * i + 1]);
    }
    out->d = max / ACT_SUM;
    memset(out->unused, 0, sizeof(out->unused));
}

void
llm_c_quant(const llm_act_t *a, uint32_t t0, uint32_t t1)
{
    static const act_round_t set = { quant_run, quant_sums };
    act_quantize(a, t0, t1, &set);
}
