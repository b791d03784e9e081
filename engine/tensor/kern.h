/*
 * kern.h - the kernel sets and what they compute.
 *
 * A set is chosen once at start from the CPU's features; LLM_KERN=ref|c|avx2|avx512 in the
 * environment forces one, and llm_model_open refuses a name that is none (llm_kern_check of llm.h).
 *   ref     plain loops, float activations: the definition of every result; quantized weights are
 *           widened exactly
 *   c       portable, int8 activations for quantized weights
 *   avx2    the same arithmetic with AVX2 (and AVX-VNNI where the CPU has it): the same bits
 *   avx512  the same arithmetic with AVX-512 VNNI: the same bits
 *
 * Promise of every kernel: the order of additions for one row and one token never depends on the
 * number of tokens, on tile ranges, on threads or on the other tokens. So a sequence gets the same
 * bits alone and in any batch.
 *
 * All float arrays: f32, row-major, rows contiguous unless a leading dimension (ld, in elements) is
 * given.
 * Thread: any; no allocation, no locks, no errors (arguments are checked when a model is
 * bound).
 */
#ifndef LLM_KERN_H
#define LLM_KERN_H

#include "mat.h"

/*
 * Activations of n tokens with k values each, as the matrix kernels want them. x always; the int8
 * forms are filled by kern->quant only when a matrix needs them. 32, 64: for so many values
 * q = round(x / d), d = max|x| / 127, and the sums that fold in offsets. SUMS: those that fold in
 * the minimums of K-quants. buf: llm_act_bytes(n, k), 64-byte aligned; its inner layout is private
 * to tensor/.
 */
enum { LLM_ACT_32 = 1, LLM_ACT_64 = 2, LLM_ACT_SUMS = 4 };

typedef struct {
    const float *x;             /* [n][k], stride ldx */
    size_t       ldx;
    uint32_t     n, k;
    uint32_t     forms;         /* of LLM_ACT_*: those in buf, or those that quant shall fill */
    uint8_t     *buf;           /* NULL when there are none */
} llm_act_t;

/* Room for all forms. */
size_t llm_act_bytes(uint32_t n, uint32_t k);

typedef enum { LLM_ACT_RELU, LLM_ACT_SILU, LLM_ACT_GELU, LLM_ACT_GELU_TANH } llm_actfn_t;

/*
 * KV pages. A page holds LLM_KV_PAGE consecutive tokens of one sequence, all layers. For each
 * (layer, kv head) it has a K block stored dimension-major, K[head_dim][LLM_KV_PAGE], so that one
 * load covers one dimension of all tokens and scores need no horizontal sums, and a V block stored
 * token-major, V[LLM_KV_PAGE][head_dim].
 * q8_0: signed bytes, and behind those of each block their scales, f16, one for a token and (up to)
 * LLM_KV_BLOCK dimensions: scale[ceil(head_dim / LLM_KV_BLOCK)][LLM_KV_PAGE]. A value is off by at
 * most half its scale, the smallest f16 that is no less than 1/127 of the largest |value|.
 */
#define LLM_KV_PAGE  32
#define LLM_KV_BLOCK 32

/*
 * Bytes of the K and V blocks of one (layer, kv head) in a page; a multiple of 64. V starts at half
 * of it.
 */
size_t llm_kv_head_bytes(llm_kv_type_t type, uint32_t head_dim);

/* Most pages that attention asks for before it reads them. */
#define LLM_ATTN_AHEAD 6

/*
 * Attention of n_q consecutive tokens of one sequence, for the query heads that share one kv head,
 * over the keys [key0, key1) that each query may see. The result is partial: for each (query, head)
 * the running maximum m, the sum l and the unnormalised output o; llm_kern_t.attn_merge adds
 * partials of consecutive key ranges in order.
 * scores: s = cap(q.k * scale) + bias, cap(s) =
 * softcap * tanh(s / softcap) when softcap > 0.
 */
typedef struct {
    const uint8_t  *pages;      /* the blocks of page p start at pages + p * page_bytes */
    size_t          page_bytes;
    const uint32_t *table;      /* page numbers of the sequence: key j is in [j / LLM_KV_PAGE] */
    llm_kv_type_t   type;
    uint32_t        head_dim;   /* LLM_MIN_HEAD_DIM..512, a multiple of 2 */
    uint32_t        group;      /* query heads that share the kv head, 1..128 */
    const float    *q;          /* token t, head g at q + t * ldq + g * head_dim; not scaled yet */
    size_t          ldq;
    uint32_t        n_q;        /* 1..LLM_ATTN_MAX_Q */
    uint32_t        pos0;       /* query t sits at position pos0 + t */
    bool            causal;     /* key j visible iff j <= position */
    uint32_t        window;     /* 0: all; else also j > position - window */
    float           scale, softcap;
    const float    *slopes;     /* ALiBi: [group] or NULL; adds slopes[g] * j */
    bool            alibi_bf16; /* Falcon-RW: the product rounded to bfloat16, then times scale */
    /* relative bias or NULL: adds rel[g * ld_rel + clamp(j - position + rel_zero, 0, rel_n - 1)] */
    const float    *rel;
    size_t          ld_rel;
    uint32_t        rel_n, rel_zero;
    uint32_t        key0, key1; /* key0 is a multiple of LLM_KV_PAGE */
    /* hint: K blocks that the thread probably reads after this call; NULL where unknown */
    const uint8_t  *next[LLM_ATTN_AHEAD];
    /* out: [n_q][group] records of llm_attn_part_floats(head_dim) floats: m, l, pad, o[head_dim] */
    float          *part;
    float          *scratch;    /* llm_attn_scratch_floats(), 64-byte aligned, one a thread */
} llm_attn_t;

#define LLM_ATTN_MAX_Q 16
/* Keys of one partial. Always the same split, so threads never change a result. */
#define LLM_ATTN_SPAN 512

/* A multiple of 16. */
size_t llm_attn_part_floats(uint32_t head_dim);
/* For n_q = LLM_ATTN_MAX_Q and a span of LLM_ATTN_SPAN keys. */
size_t llm_attn_scratch_floats(uint32_t head_dim, uint32_t group);

/*
 * Raised with every change of what a set computes, by a bit of a result: what was kept of the
 * results of another revision is not used (share/prefix.c).
 */
#define LLM_KERN_REVISION 2

typedef struct llm_kern {
    const char *name;

    /* Fills a->buf from a->x for tokens [t0, t1): all of a->forms. */
    void (*quant)(const llm_act_t *a, uint32_t t0, uint32_t t1);
    /* The forms that mm needs for this layout, or 0. */
    uint32_t (*act_forms)(const llm_mat_t *w);
    /*
     * y[t * ldy + r] = sum_c w[r][c] * a[t][c] for the rows r of tiles [tile0, tile1) and all a->n
     * tokens. Float layouts use a->x. Tolerance: t/engine/tensor_mm.c.
     */
    void (*mm)(const llm_mat_t *w, uint32_t tile0, uint32_t tile1, const llm_act_t *a, float *y,
               size_t ldy);

    /* y = x / sqrt(mean(x^2) + eps) * w;  y may be x. */
    void (*norm_rms)(float *y, const float *x, const float *w, uint32_t n, float eps);
    /* y = (x - mean) / sqrt(var + eps) * w + b; b may be NULL; y may be x. */
    void (*norm_layer)(float *y, const float *x, const float *w, const float *b, uint32_t n,
                       float eps);
    /* y = f(gate) * up, or f(gate) when up is NULL; y may be gate. */
    void (*act_mul)(float *y, const float *gate, const float *up, uint32_t n, llm_actfn_t f);
    /* y += x */
    void (*add)(float *y, const float *x, uint32_t n);
    /*
     * Rotates the first 2*n values of one head in place; cos_sin: n cosines, then n sines.
     * half: pairs (x[j], x[j+n]); else adjacent: (x[2j], x[2j+1]).
     */
    void (*rope)(float *x, const float *cos_sin, uint32_t n, bool half);
    /*
     * Writes one token's k and v (head_dim floats each) of one kv head at row (position %
     * LLM_KV_PAGE) of its block.
     */
    void (*kv_store)(uint8_t *block, llm_kv_type_t type, uint32_t head_dim, uint32_t row,
                     const float *k, const float *v);
    void (*attn)(const llm_attn_t *a);
    /*
     * out[head_dim] = merged and normalised; parts are n records `stride` floats apart, in key
     * order; records with l == 0 are empty.
     */
    void (*attn_merge)(float *out, const float *parts, uint32_t n, size_t stride,
                       uint32_t head_dim);

    /* max over x, and log(sum(exp(x - max))) in *log_sum. */
    float (*log_sum_exp)(const float *x, uint32_t n, float *log_sum);
    /* Lowest index of the largest value. */
    uint32_t (*argmax)(const float *x, uint32_t n);
} llm_kern_t;

/* The set in use; decided at the first call, the same in every process of one machine. */
const llm_kern_t *llm_kern(void);
/* Every set that this CPU can run, for tests: sets[0..return-1]. */
uint32_t llm_kern_all(const llm_kern_t *sets[4]);

#endif
