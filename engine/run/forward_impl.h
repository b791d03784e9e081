/*
 * forward_impl.h - what forward.c, linear.c and attention.c share: the scratch of a step.
 */
#ifndef LLM_FORWARD_IMPL_H
#define LLM_FORWARD_IMPL_H

#include "forward.h"

/* Where the tokens of one sequence lie in the row-major scratch arrays. */
typedef struct {
    uint32_t        row0, n, pos0;
    const uint32_t *table;          /* pages of its own keys and values */
    /* decoder of an encoder-decoder: tokens of the encoder's output ... */
    uint32_t        n_cross;
    const uint32_t *cross;          /* ... and the pages of their keys and values */
} llm_fwd_span_t;

/* Pages as one stack lays them out. */
typedef struct {
    uint8_t *base;
    size_t   page_bytes, layer_bytes, head_bytes;
} llm_fwd_pages_t;

/* The K block of a (layer, kv head) in a page; V behind it (kern.h). */
static inline uint8_t *
llm_fwd_block(const llm_fwd_pages_t *p, uint32_t page, uint32_t layer, uint32_t head)
{
    return p->base + page * p->page_bytes + layer * p->layer_bytes + head * p->head_bytes;
}

struct llm_fwd {
    const llm_model_t *m;
    const llm_kern_t  *k;
    llm_pool_t        *pool;
    llm_kv_type_t      kv_type;
    uint32_t           max_tokens, n_ctx;
    llm_fwd_pages_t    dec_pages;   /* the arena's */
    /* scratch: keys and values of the encoder live for one call of llm_fwd_encode */
    llm_fwd_pages_t    enc_pages;
    uint32_t          *enc_table;   /* 0, 1, 2, ... */

    /* of the pass that runs now: the decoder's, or for a while the encoder's */
    const llm_stack_t *s;
    llm_fwd_pages_t    pages;
    const float       *rel;         /* T5: [H][rel_n] */

    uint32_t           n;           /* rows of the step; shrinks in the last layer */
    uint32_t           n_spans;
    llm_fwd_span_t    *spans;       /* [max_tokens] */

    /* [max_tokens][...] f32, in one block with the logits (rows_init in forward.c) */
    float   *block;
    float   *x;                     /* residual stream, d */
    float   *h;                     /* normed input of a sub-layer, d */
    float   *y;                     /* output of a sub-layer, d */
    float   *y2;                    /* of a second one; NULL unless the model has these */
    float   *qkv;                   /* (H + 2K) * hd; where ff is */
    float   *att;                   /* H * hd; where ff is */
    float   *ff;                    /* 2F or F */
    float   *wide;                  /* embedding before proj_in; where ff is; NULL: there is none */
    uint32_t ff_ld;
    float   *logits;                /* [LLM_FWD_LOGIT_ROWS][n_vocab]; where all of the above are */
    uint8_t *act_buf;               /* int8 form of a linear's input */
    float   *out;                   /* [rows][width of the head's input] after the final norm */
    uint32_t out_ld;

    float   *rope;                  /* [n_ctx][n_rot]: cosines then sines; NULL unless rotary */
    float   *rope_long;             /* the same with the long factors; NULL unless longrope */
    uint32_t n_rope;                /* rows of both that are there */
    /* [max_tokens][n_rot]: angles that depend on the sequence (dynamic) */
    float   *rope_row;
    const float **rope_of;          /* [max_tokens]: angles of each row */
    float   *dec_rel, *enc_rel;     /* T5: [H][rel_n] */
    uint32_t rel_n, rel_zero;

    float   *attn_scratch;          /* [threads][attn_scratch_ld] */
    size_t   attn_scratch_ld;
    /* [threads][attn_part_ld]: partials of all key spans of one item */
    float   *attn_part;
    size_t   attn_part_ld;
    struct llm_attn_item *items;    /* [max items of a step] */
    /* partials when key spans of few items are spread over threads */
    float   *split_part;

    float   *router;                /* experts: [max_tokens][n_experts] */
    float   *exp_x, *exp_y;         /* rows gathered for one expert */
    uint32_t *exp_rows;
    float   *exp_w;
    uint32_t *exp_top;              /* [max_tokens][n_experts_used] */
};

/*
 * out[t][0..rows) = W in[t] + b for n tokens; quantized says that f->act_buf already holds
 * the int8 forms of in that this linear needs.
 */
void llm_fwd_linear(llm_fwd_t *f, const llm_lin_t *lin, const float *in, size_t ld_in, uint32_t n,
                    bool quantized, float *out, size_t ld_out);
/* The forms of llm_act_t that its matrices need, 0 for none. */
uint32_t llm_fwd_act_forms(const llm_fwd_t *f, const llm_lin_t *lin);

/* Calls fn(f, ctx, row) for rows 0..n-1, on the pool when there are enough of them. */
typedef void (*llm_fwd_row_fn)(llm_fwd_t *f, void *ctx, uint32_t row);
void llm_fwd_rows(llm_fwd_t *f, uint32_t n, llm_fwd_row_fn fn, void *ctx);

/*
 * f->att = attention of a layer for the rows in f->spans over their own keys, or (cross) over the
 * encoder's; queries are in f->qkv with ld_q floats a row, keys and values in the pages.
 */
llm_code_t llm_fwd_attention_init(llm_fwd_t *f, llm_err_t *err);
void llm_fwd_attention(llm_fwd_t *f, uint32_t layer, bool cross, size_t ld_q);
void llm_fwd_attention_free(llm_fwd_t *f);

/* f->y2 = mixture of experts of f->h. */
llm_code_t llm_fwd_moe_init(llm_fwd_t *f, llm_err_t *err);
void llm_fwd_moe(llm_fwd_t *f, const llm_layer_t *l);
void llm_fwd_moe_free(llm_fwd_t *f);

/* The larger of a number of the decoder and the encoder stack. */
#define LLM_FWD_MAX(m, expr_dec, expr_enc) \
    ((m)->enc.n_layers > 0 && (expr_enc) > (expr_dec) ? (expr_enc) : (expr_dec))

/*
 * 64-byte aligned, not initialised (pages stay untouched until used); NULL on failure or overflow.
 * Freed with free().
 */
void *llm_fwd_alloc(size_t n, size_t size);

#endif
