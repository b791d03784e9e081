/*
 * arch.h - the table of model families: everything in which they differ, as data.
 *
 * A row says how one architecture name is to be read from one kind of source: how the generic
 * block of spec models.md section 2 is set up, which key holds which number, which tensor plays
 * which role, and under which conditions parts of that change. Adding a family is adding a row
 * and, where its names are new, a table of names.
 */
#ifndef LLM_ARCH_H
#define LLM_ARCH_H

#include "model/model.h"
#include "model/source.h"

/*
 * What a tensor is for. Patterns hold {i} for the layer and {e} for the expert; ".weight" and
 * ".bias" are appended. "x|y": the first that is present; the others are then not used.
 */
typedef enum {
    LLM_ROLE_TOK, LLM_ROLE_POS, LLM_ROLE_EMB_NORM, LLM_ROLE_FINAL, LLM_ROLE_HEAD,
    LLM_ROLE_HEAD_BIAS,                                 /* the whole name: nothing is appended */
    LLM_ROLE_PROJ_IN, LLM_ROLE_PROJ_OUT,
    LLM_ROLE_ROPE_FREQS, LLM_ROLE_ROPE_LONG, LLM_ROLE_ROPE_SHORT,
    LLM_ROLE_REL,                                       /* T5: [buckets][heads] */
    LLM_ROLE_N1, LLM_ROLE_N2, LLM_ROLE_PN1, LLM_ROLE_PN2, LLM_ROLE_QN, LLM_ROLE_KN,
    LLM_ROLE_XN, LLM_ROLE_XQ, LLM_ROLE_XK, LLM_ROLE_XV, LLM_ROLE_XO,    /* cross-attention */
    LLM_ROLE_QKV, LLM_ROLE_Q, LLM_ROLE_K, LLM_ROLE_V, LLM_ROLE_O,
    LLM_ROLE_GATE, LLM_ROLE_UP, LLM_ROLE_DOWN,          /* gated_fused: up holds [gate: F][up: F] */
    LLM_ROLE_ROUTER,
    /* all experts in one tensor, expert outermost */
    LLM_ROLE_GATE_EXPS, LLM_ROLE_UP_EXPS, LLM_ROLE_DOWN_EXPS,
    LLM_ROLE_GATE_EXP, LLM_ROLE_UP_EXP, LLM_ROLE_DOWN_EXP,      /* one tensor an expert */
    LLM_ROLE_COUNT
} llm_role_t;

/*
 * Numbers and words that a source may hold. Patterns hold {a} for the architecture; "x|y": the
 * first that is present.
 */
typedef enum {
    LLM_KEY_D, LLM_KEY_LAYERS, LLM_KEY_HEADS, LLM_KEY_KV_HEADS, LLM_KEY_HEAD_DIM,
    LLM_KEY_V_HEAD_DIM, LLM_KEY_FF, LLM_KEY_FF_RATIO,   /* ratio: F / d */
    LLM_KEY_EPS_RMS, LLM_KEY_EPS_LAYER, LLM_KEY_MAX_POS, LLM_KEY_EXPERTS, LLM_KEY_EXPERTS_USED,
    LLM_KEY_ACT, LLM_KEY_TIE, LLM_KEY_QUERY_SCALE,
    LLM_KEY_ROT_DIM, LLM_KEY_ROT_PART, LLM_KEY_THETA,   /* part: fraction of a head */
    LLM_KEY_ROPE_TYPE, LLM_KEY_ROPE_FACTOR, LLM_KEY_ROPE_ORIG,
    LLM_KEY_ROPE_ATTN_FACTOR,                           /* times what the scaling itself gives */
    LLM_KEY_ROPE_MSCALE,                                /* instead of that */
    LLM_KEY_ROPE_LONG, LLM_KEY_ROPE_SHORT,              /* arrays of factors */
    LLM_KEY_LLAMA3_LOW, LLM_KEY_LLAMA3_HIGH,
    LLM_KEY_YARN_FAST, LLM_KEY_YARN_SLOW, LLM_KEY_YARN_EXT, LLM_KEY_YARN_LOG_MUL,
    LLM_KEY_YARN_MSCALE, LLM_KEY_YARN_MSCALE_ALL, LLM_KEY_YARN_TRUNCATE,
    LLM_KEY_WINDOW, LLM_KEY_WINDOW_FROM,                /* from: the first layer with a window */
    LLM_KEY_LAYER_TYPES, LLM_KEY_ROPE_LAYERS,           /* arrays: words; 1 where rotated */
    LLM_KEY_NOPE_INTERVAL,
    LLM_KEY_SCORE_CAP, LLM_KEY_LOGIT_CAP, LLM_KEY_CLIP_QKV, LLM_KEY_ALIBI_MAX,
    LLM_KEY_REL_BUCKETS, LLM_KEY_REL_DISTANCE,
    LLM_KEY_DEC_START, LLM_KEY_FORCED_BOS, LLM_KEY_FORCED_EOS,
    LLM_KEY_VOCAB,
    LLM_KEY_COUNT
} llm_key_t;

/*
 * Order of the rows of one fused projection, outermost first (spec models.md 3.3):
 *   FUSED     [q: H][k: K][v: K][hd]
 *   PER_HEAD  [head][q, k, v][hd]
 *   GROUPED   [kv head][H/K queries, k, v][hd]
 *   CODEGEN   [4 blocks][q, v, k][H/4 heads][hd]
 * While a model is packed they all become FUSED.
 */
typedef enum {
    LLM_QKV_SPLIT, LLM_QKV_FUSED, LLM_QKV_PER_HEAD, LLM_QKV_GROUPED, LLM_QKV_CODEGEN
} llm_qkv_t;
typedef enum { LLM_FF_PLAIN, LLM_FF_GATED, LLM_FF_GATED_FUSED, LLM_FF_MOE } llm_ff_t;
typedef enum {
    LLM_SCALE_HEAD_DIM, LLM_SCALE_D_PER_HEAD, LLM_SCALE_KEY,                        /* ^-1/2 */
    LLM_SCALE_ONE
} llm_scale_t;
/* layers that use the window; TYPES: as the array of words says, which wins in any case */
typedef enum {
    LLM_WINDOW_NONE, LLM_WINDOW_ALL, LLM_WINDOW_EVEN, LLM_WINDOW_FROM, LLM_WINDOW_TYPES
} llm_window_t;
typedef enum { LLM_KV_HEADS_KEY, LLM_KV_HEADS_ALL, LLM_KV_HEADS_ONE } llm_kv_heads_t;
typedef enum { LLM_ABSENT, LLM_OPTIONAL, LLM_REQUIRED } llm_presence_t;

/*
 * How the generic block is set up. Fields that rules may change are uint32_t and hold the enums
 * above or of model.h.
 */
typedef struct {
    uint32_t norm;              /* llm_norm_kind_t */
    uint32_t norm_plus_one;     /* norm weights are stored as w - 1 */
    uint32_t topology;          /* llm_topology_t */
    uint32_t pos;               /* llm_pos_t */
    uint32_t pos_offset;
    uint32_t rope_half;
    uint32_t qkv;               /* llm_qkv_t */
    uint32_t kv_heads;          /* llm_kv_heads_t */
    uint32_t conv1d;            /* matrices of the layers are stored [in][out] */
    uint32_t ff;                /* llm_ff_t */
    uint32_t act;               /* llm_actfn_t; used when the key is absent */
    uint32_t emb_norm;          /* llm_presence_t */
    uint32_t no_final_norm;
    uint32_t qk_norm;           /* llm_presence_t; of the same kind as norm */
    uint32_t attn_scale;        /* llm_scale_t */
    uint32_t emb_sqrt_d;        /* embeddings times sqrt(d) */
    uint32_t window;            /* llm_window_t */
    uint32_t nope_interval;     /* every n-th layer is not rotated; 0: all are */
    uint32_t alibi_bf16;        /* Falcon-RW: the bias is scaled and rounded to bfloat16 */
    /*
     * Unless the key says otherwise the head is the token embedding, also when there is a tensor
     * for it; if 0, only when there is none.
     */
    uint32_t tied;
    uint32_t tied_scale;        /* T5: logits times d^-1/2 while the head is tied */

    /* used when the key is absent; 0: the key is required, or the feature off */
    uint32_t head_dim, ff_ratio, max_pos, window_size, window_from, query_scale;
    uint32_t experts, experts_used, rel_buckets, rel_distance;
    uint32_t decoder_start;
    float    eps, rot_part, theta, alibi_max, score_cap, logit_cap;
} llm_desc_t;

typedef enum {
    LLM_IF_KEY_IS, LLM_IF_KEY_POSITIVE, LLM_IF_KEY_SET, LLM_IF_KEY_TEXT, LLM_IF_TENSOR
} llm_cond_t;

/*
 * When the condition holds, *(uint32_t *) (desc + field) = value; or, with a name, the role's
 * pattern becomes name; or, with refuse, the model is not supported.
 */
typedef struct {
    llm_cond_t  cond;
    const char *what;           /* key or tensor; NULL ends the list */
    double      is;             /* LLM_IF_KEY_IS */
    const char *text;           /* LLM_IF_KEY_TEXT */
    size_t      field;
    uint32_t    value;
    llm_role_t  role;
    const char *name;
    bool        refuse;
} llm_rule_t;

#define LLM_MAX_RULES    12
#define LLM_MAX_OWN_KEYS 4

/* A key that this family names otherwise than the rest; pattern NULL: has not. */
typedef struct { llm_key_t key; const char *pattern; } llm_own_key_t;

typedef struct {
    const char        *name;    /* as the source names the family */
    llm_source_kind_t  source;
    /*
     * In front of each tensor's name, perhaps: names are tried with the prefix, without it, and
     * with what follows its first dot. NULL: there is none.
     */
    const char        *prefix;
    const char *const *roles;   /* [LLM_ROLE_COUNT], NULL: no such tensor */
    const char *const *keys;    /* [LLM_KEY_COUNT] */
    llm_own_key_t      own[LLM_MAX_OWN_KEYS];       /* ends at { 0 } */
    /* Encoder-decoder: the same for the encoder; NULL: decoder only. */
    const char *const *enc_roles;
    llm_own_key_t      enc_own[LLM_MAX_OWN_KEYS];
    llm_desc_t         desc;
    llm_rule_t         rules[LLM_MAX_RULES];
} llm_arch_t;

/* NULL: not supported. */
const llm_arch_t *llm_arch_find(llm_source_kind_t source, llm_span_t name);
/* Row i, or NULL past the end. */
const llm_arch_t *llm_arch_at(size_t i);

#endif
