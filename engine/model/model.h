/*
 * model.h - a loaded model as the forward pass sees it: hyper-parameters and bound weights by role.
 *
 * Everything that differs between families is data here; run/forward.c never asks for a name. The
 * fields are those of spec models.md section 2.2, with these simplifications made when a model is
 * bound:
 *   - q, k and v are one linear whose output is always [q: H*hd][k: K*hd][v: K*hd] (rows permuted
 *   while packing);
 *   - gate and up are one linear with output [gate: F][up: F];
 *   - rms1p norms have 1 + w stored; a tied head is the token embedding itself;
 *   - absent norms and biases are NULL and are not applied.
 */
#ifndef LLM_MODEL_H
#define LLM_MODEL_H

#include "tensor/kern.h"

/*
 * The tokenizer (text/tok.h), opened with the model in text/open.c; nothing in this layer looks
 * inside.
 */
typedef struct llm_tok llm_tok_t;

typedef enum { LLM_NORM_RMS, LLM_NORM_LAYER } llm_norm_kind_t;
typedef enum {
    LLM_TOPO_PRE, LLM_TOPO_PARALLEL, LLM_TOPO_PARALLEL2, LLM_TOPO_POST, LLM_TOPO_SANDWICH
} llm_topology_t;
typedef enum { LLM_POS_NONE, LLM_POS_LEARNED, LLM_POS_ROPE, LLM_POS_ALIBI, LLM_POS_T5 } llm_pos_t;
typedef enum { LLM_MLP_PLAIN, LLM_MLP_GATED, LLM_MLP_MOE } llm_mlp_t;

#define LLM_MAX_LAYERS  512
#define LLM_LIN_PARTS   3

/*
 * y = W x + b. W may be stored in up to three matrices of different formats (Q4_K_M keeps v in
 * Q6_K), stacked by rows. cols is the same for all parts; rows is their sum.
 */
typedef struct {
    uint32_t     n_parts;       /* 0: this linear does not exist */
    uint32_t     rows, cols;
    llm_mat_t    part[LLM_LIN_PARTS];
    const float *bias;          /* [rows] or NULL */
} llm_lin_t;

typedef struct {
    const float *w;             /* [n] or NULL: no norm here */
    const float *b;             /* [n] or NULL */
} llm_norm_t;

typedef struct {
    llm_norm_t n1, n2;          /* before attention / before the MLP (after, for post topology) */
    llm_norm_t pn1, pn2;        /* sandwich: after attention / after the MLP */
    llm_norm_t qn, kn;          /* per head, [head_dim], before the rotation */
    llm_lin_t  qkv, o;
    /* cross-attention of decoders; the linears below exist only there */
    llm_norm_t xn;
    llm_lin_t  xq, xkv, xo;     /* xkv: [k: K*hd][v: K*hd], applied to the encoder's output */
    llm_lin_t  ffn_in;          /* gated: [gate: F][up: F]; plain: [up: F] */
    llm_lin_t  ffn_out;
    llm_lin_t  router;          /* mixture of experts: [n_experts] */
    llm_lin_t *exp_in, *exp_out;/* [n_experts], owned by the model */
    uint32_t   window;          /* 0: full attention */
    bool       rotate;          /* false: this layer has no rotary embedding */
} llm_layer_t;

/* One stack of blocks: a decoder-only model has one, an encoder-decoder two. */
typedef struct {
    llm_norm_kind_t norm;
    llm_topology_t  topology;
    llm_pos_t       pos;
    llm_mlp_t       mlp;
    llm_actfn_t     act;
    bool            causal;
    float           eps;
    uint32_t        d, n_layers, n_heads, n_kv_heads, head_dim, ff;
    uint32_t        n_experts, n_experts_used;
    llm_norm_kind_t qk_norm;    /* used where qn/kn exist */

    uint32_t        pos_offset; /* learned: row = position + offset */
    uint32_t        n_pos;      /* rows of the position table */
    const float    *pos_table;  /* [n_pos][d] f32 */

    uint32_t        n_rot;      /* rotated values of a head (even); pairs = n_rot / 2 */
    bool            rope_half;
    /*
     * Inverse frequencies [n_rot/2] and the factor on cos and sin. rope_long is used instead when
     * the planned length of a sequence exceeds rope_orig_ctx (longrope); NULL otherwise.
     * rope_dynamic: theta grows with the length (spec 3.4).
     */
    const float    *rope_inv, *rope_long;
    float           rope_mscale;
    uint32_t        rope_orig_ctx;
    bool            rope_dynamic;
    float           rope_theta, rope_factor;

    const float    *slopes;     /* ALiBi [n_heads] */
    bool            alibi_scaled_bf16;  /* Falcon-RW */
    const float    *rel_table;  /* T5 buckets [rel_buckets][n_heads] */
    uint32_t        rel_buckets, rel_max_distance;

    float           attn_scale, score_cap, clip_qkv;    /* caps: 0 = off */
    float           emb_scale;
    llm_norm_t      emb_norm, final_norm;
    llm_lin_t       proj_in, proj_out;
    llm_layer_t    *layers;     /* [n_layers], owned by the model */
} llm_stack_t;

struct llm_model {
    llm_model_info_t info;
    llm_tok_t       *tok;
    llm_stack_t      dec;       /* the stack that generates */
    llm_stack_t      enc;       /* n_layers == 0: decoder-only */
    /* [n_vocab][d of dec, or width of proj_in]; shared by both stacks */
    llm_mat_t        embed;
    llm_lin_t        head;      /* its part aliases embed when tied */
    float            logit_scale, logit_cap;    /* 1 and 0 when off */
    int32_t          decoder_start_id, forced_bos_id, forced_eos_id;    /* -1: none */

    /*
     * One mapping with all packed matrices and float vectors, anonymous and private or of a file
     * (store.h); NULL when check_only.
     */
    void            *weights;
    size_t           weights_bytes;
    uint64_t         key;       /* names these weights among all (store.h); 0: they have no name */
    void            *meta;      /* heap blocks: layers, experts, strings, small tables */
    const char *const *unused;  /* names of tensors that nothing asked for, for llm inspect */
    uint32_t         n_unused;
};

#endif
