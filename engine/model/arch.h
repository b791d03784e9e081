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
 * ".bias" are appended.
 */
typedef enum {
    LLM_ROLE_TOK, LLM_ROLE_POS, LLM_ROLE_EMB_NORM, LLM_ROLE_FINAL, LLM_ROLE_HEAD,
    LLM_ROLE_ROPE_FREQS, LLM_ROLE_ROPE_LONG, LLM_ROLE_ROPE_SHORT,
    LLM_ROLE_N1, LLM_ROLE_N2, LLM_ROLE_PN1, LLM_ROLE_PN2, LLM_ROLE_QN, LLM_ROLE_KN,
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
    LLM_KEY_V_HEAD_DIM, LLM_KEY_FF,
    LLM_KEY_EPS_RMS, LLM_KEY_EPS_LAYER, LLM_KEY_MAX_POS, LLM_KEY_EXPERTS, LLM_KEY_EXPERTS_USED,
    LLM_KEY_ROT_DIM, LLM_KEY_THETA, LLM_KEY_ROPE_TYPE, LLM_KEY_ROPE_FACTOR, LLM_KEY_ROPE_ORIG,
    LLM_KEY_ROPE_ATTN_FACTOR,
    LLM_KEY_YARN_FAST, LLM_KEY_YARN_SLOW, LLM_KEY_YARN_EXT, LLM_KEY_YARN_LOG_MUL,
    LLM_KEY_WINDOW, LLM_KEY_SCORE_CAP, LLM_KEY_LOGIT_CAP, LLM_KEY_CLIP_QKV, LLM_KEY_ALIBI_MAX,
    LLM_KEY_VOCAB,
    LLM_KEY_COUNT
} llm_key_t;

/* FUSED: [q: H*hd][k: K*hd][v: K*hd] when not split */
typedef enum { LLM_QKV_SPLIT, LLM_QKV_FUSED } llm_qkv_t;
typedef enum { LLM_FF_PLAIN, LLM_FF_GATED, LLM_FF_GATED_FUSED, LLM_FF_MOE } llm_ff_t;
typedef enum { LLM_SCALE_HEAD_DIM, LLM_SCALE_D_PER_HEAD } llm_scale_t;              /* ^-1/2 */
/* layers that use the window */
typedef enum { LLM_WINDOW_NONE, LLM_WINDOW_ALL, LLM_WINDOW_EVEN } llm_window_t;
typedef enum { LLM_ABSENT, LLM_OPTIONAL, LLM_REQUIRED } llm_presence_t;

/*
 * How the generic block is set up. Fields that rules may change are uint32_t and hold the enums
 * above or of model.h.
 */
typedef struct {
    uint32_t norm;              /* llm_norm_kind_t */
    uint32_t topology;          /* llm_topology_t */
    uint32_t pos;               /* llm_pos_t */
    uint32_t pos_offset;
    uint32_t rope_half;
    uint32_t qkv;               /* llm_qkv_t */
    uint32_t ff;                /* llm_ff_t */
    uint32_t act;               /* llm_actfn_t */
    uint32_t emb_norm;          /* llm_presence_t */
    uint32_t qk_norm;           /* llm_presence_t; of the same kind as norm */
    uint32_t attn_scale;        /* llm_scale_t */
    uint32_t emb_sqrt_d;        /* embeddings times sqrt(d) */
    uint32_t window;            /* llm_window_t */
    uint32_t nope_interval;     /* every n-th layer is not rotated; 0: all are */
    float    theta, alibi_max;  /* used when the key is absent */
    float    score_cap, logit_cap;
    uint32_t window_size;
} llm_desc_t;

typedef enum { LLM_IF_KEY_IS, LLM_IF_KEY_POSITIVE, LLM_IF_TENSOR } llm_cond_t;

/*
 * When the condition holds, *(uint32_t *) (desc + field) = value, or, with a name, the role's
 * pattern becomes name.
 */
typedef struct {
    llm_cond_t  cond;
    const char *what;           /* key or tensor; NULL ends the list */
    double      is;             /* LLM_IF_KEY_IS */
    size_t      field;
    uint32_t    value;
    llm_role_t  role;
    const char *name;
} llm_rule_t;

#define LLM_MAX_RULES 4

typedef struct {
    const char        *name;    /* as the source names the family */
    llm_source_kind_t  source;
    const char *const *roles;   /* [LLM_ROLE_COUNT], NULL: no such tensor */
    const char *const *keys;    /* [LLM_KEY_COUNT] */
    llm_desc_t         desc;
    llm_rule_t         rules[LLM_MAX_RULES];
} llm_arch_t;

/* NULL: not supported. */
const llm_arch_t *llm_arch_find(llm_source_kind_t source, llm_span_t name);
/* Row i, or NULL past the end. */
const llm_arch_t *llm_arch_at(size_t i);

#endif
