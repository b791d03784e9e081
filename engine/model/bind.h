/*
 * bind.h - from a source and a row of the table to a model: settings first, then tensors by role,
 * then bytes.
 *
 * Binding checks everything and decides what goes where, but reads no weights: it leaves a plan,
 * which repack.c carries out. So a model can be checked (nginx -t, llm inspect) at the cost of its
 * header.
 */
#ifndef LLM_BIND_H
#define LLM_BIND_H

#include "model/arch.h"

#define LLM_MAX_DIM    ((uint32_t) 1 << 20)     /* d, F: the largest in use are 18432 and 73728 */
#define LLM_MAX_HEADS  1024
#define LLM_MAX_GROUP  128                      /* query heads of one kv head (kern.h) */
#define LLM_MAX_CTX    ((uint32_t) 1 << 24)
#define LLM_MAX_EXPERTS 256
#define LLM_MIN_HEAD_DIM 4                      /* kern.h */
#define LLM_MAX_HEAD_DIM 512

/*
 * Rows row0 .. row0+rows-1 of a tensor; a vector is a column. name.data == NULL: rows of zeros (an
 * absent bias).
 */
typedef struct {
    llm_src_tensor_t t;
    uint64_t         row0;
    uint32_t         rows;
} llm_seg_t;

#define LLM_MAX_SEGS 3

/* How rows of q, k and v are stored; qkv FUSED or SPLIT: as the item has them. */
typedef struct {
    llm_qkv_t qkv;
    uint32_t  n_heads, n_kv_heads, head_dim;
} llm_order_t;

/* One block of the weights mapping: a matrix, or a vector of floats. */
typedef struct {
    llm_mat_t    *mat;          /* gets its data pointer */
    const float **vec;          /* or this one does */
    llm_order_t   order;        /* of the rows in its only segment */
    float         plus;         /* added to each value of a vector */
    uint32_t      n_segs;
    llm_seg_t     seg[LLM_MAX_SEGS];
    size_t        off, bytes;   /* in the mapping; off is a multiple of 64 */
} llm_item_t;

typedef struct {
    llm_item_t *items;
    size_t      n, cap;
    size_t      bytes;          /* of all items with padding */
    bool        quantizes;      /* matrices of floats are rounded to this format */
    uint32_t    quantize;       /* llm_type_t */
} llm_plan_t;

/* State of one binding. */
typedef struct {
    llm_model_t      *m;
    llm_stack_t      *s;                        /* the stack of m that is being bound */
    llm_plan_t       *plan;
    const llm_src_t  *src;
    const llm_arch_t *arch;
    llm_desc_t        desc;                     /* the row's, after its rules */
    /* of this stack, after rules */
    const char       *roles[LLM_ROLE_COUNT];
    const char       *keys[LLM_KEY_COUNT];
    uint8_t          *used;                     /* [n_tensors] */
    llm_err_t        *err;
} llm_bind_t;

/*
 * Fills m->dec, embed, head, caps and the plan. Everything that it allocates for the model hangs
 * on m->meta; the plan is released by llm_plan_free, also after an error. Data pointers of
 * matrices and vectors stay NULL. Errors: FORMAT (a key or tensor is missing, has the wrong shape
 * or is out of range), UNSUPPORTED, IO, NOMEM.
 */
llm_code_t llm_bind(llm_model_t *m, llm_plan_t *plan, const llm_src_t *src, const llm_arch_t *arch,
                    llm_err_t *err);
void llm_plan_free(llm_plan_t *plan);

/*
 * Maps memory for the plan, reads and packs every item and sets the data pointers. On failure
 * m->weights is NULL again. Starts threads and ends them; conf->progress is called by the caller's.
 * Errors: NOMEM, IO, FORMAT: the first one in the order of the plan.
 */
llm_code_t llm_repack(llm_model_t *m, const llm_plan_t *plan, const llm_src_t *src,
                      const llm_model_conf_t *conf, llm_err_t *err);

/*
 * Zeroed memory that lives as long as the model; NULL when there is none (or n * size overflows).
 */
void *llm_meta_alloc(llm_model_t *m, size_t n, size_t size);
void llm_meta_free(llm_model_t *m);

/* --------------------------------------------------- parts of llm_bind, by file */

typedef struct { char s[192]; } llm_name_t;

/* hparam.c: rules applied, then the numbers of the stack. */
llm_code_t llm_bind_settings(llm_bind_t *b);
/* Ids with which a decoder behind an encoder starts and ends; n_vocab is known. */
llm_code_t llm_bind_specials(llm_bind_t *b);
/* The value of the first name of a key that is there; *name (may be NULL) becomes that name. */
llm_value_t llm_bind_value(const llm_bind_t *b, llm_key_t key, llm_name_t *name);
/* Element i of a key that is an array. */
llm_value_t llm_bind_element(const llm_bind_t *b, llm_key_t key, uint32_t i, llm_name_t *name);
/*
 * The number of a key; *found tells whether it is there, else *out is left alone. Errors: FORMAT,
 * UNSUPPORTED.
 */
llm_code_t llm_bind_number(llm_bind_t *b, llm_key_t key, double *out, bool *found);
/* The same within [min, max]; integers must be whole. */
llm_code_t llm_bind_u32(llm_bind_t *b, llm_key_t key, llm_presence_t presence, uint32_t min,
                        uint32_t max, uint32_t *out);
llm_code_t llm_bind_f32(llm_bind_t *b, llm_key_t key, llm_presence_t presence, float min, float max,
                        float *out);
/* The same for floats that are switched off when they are explicitly null. */
llm_code_t llm_bind_cap(llm_bind_t *b, llm_key_t key, float max, float *out);
/* First name of a key, for messages. */
llm_name_t llm_bind_key_name(const llm_bind_t *b, llm_key_t key);

/*
 * part.c: the tensor of a role in a layer and expert, marked as used. A role without a name is
 * never found.
 */
llm_name_t llm_bind_tensor_name(const llm_bind_t *b, llm_role_t role, uint32_t layer,
                                uint32_t expert, const char *suffix);
bool llm_bind_find(llm_bind_t *b, llm_role_t role, uint32_t layer, const char *suffix,
                   llm_src_tensor_t *out);
/* The same without marking it. */
bool llm_bind_has(const llm_bind_t *b, llm_role_t role, uint32_t layer, uint32_t expert,
                  const char *suffix);
/* The tensor of this whole name, perhaps behind the family's prefix. */
bool llm_bind_lookup(const llm_bind_t *b, const char *name, llm_src_tensor_t *out);
/* name is a tensor of that role in some layer and expert. */
bool llm_bind_plays(const llm_bind_t *b, llm_role_t role, llm_span_t name);
llm_code_t llm_bind_missing(const llm_bind_t *b, llm_role_t role, uint32_t layer, uint32_t expert);
/* The tensor holds floats and has exactly this shape, innermost dimension first. */
llm_code_t llm_bind_shape(const llm_bind_t *b, const llm_src_tensor_t *t, uint64_t ne0,
                          uint64_t ne1, uint64_t ne2);

/* One source tensor of a linear, with its bias. */
typedef struct {
    llm_src_tensor_t w, b;
    bool             has_bias;
    uint64_t         row0;      /* first row of w: stacked experts */
    uint32_t         rows;
    llm_order_t      order;
    /* what quantizing while loading makes of it */
    enum { LLM_PART_ROUND, LLM_PART_ROUND_8, LLM_PART_KEEP } rounding;
} llm_part_t;

/* The part of a role with rows x cols; its bias when there is one. */
llm_code_t llm_bind_part(llm_bind_t *b, llm_part_t *p, llm_role_t role, uint32_t layer,
                         uint32_t expert, uint32_t rows, uint32_t cols);
/* Parts stacked by rows; neighbours of one format share a matrix. */
llm_code_t llm_bind_parts(llm_bind_t *b, llm_lin_t *lin, const llm_part_t *part, uint32_t n_parts,
                          uint32_t cols);
/* A linear of one part. */
llm_code_t llm_bind_linear(llm_bind_t *b, llm_lin_t *lin, llm_role_t role, uint32_t layer,
                           uint32_t rows, uint32_t cols);
llm_code_t llm_bind_matrix(llm_bind_t *b, llm_mat_t *mat, const llm_part_t *part, uint32_t n_parts,
                           uint32_t cols);
/* *dst = all n values of a tensor. */
llm_code_t llm_bind_vector(llm_bind_t *b, const float **dst, const llm_src_tensor_t *t, uint64_t n);
llm_code_t llm_bind_norm(llm_bind_t *b, llm_norm_t *norm, llm_role_t role, uint32_t layer,
                         uint32_t n, llm_presence_t presence);

/* layer.c: all layers of the stack. */
llm_code_t llm_bind_layers(llm_bind_t *b);

/* rope.c: inverse frequencies and ALiBi slopes. */
llm_code_t llm_bind_positions(llm_bind_t *b);
/* slopes[h] for h < n_heads (spec models.md 3.5). */
void llm_alibi_slopes(float *slopes, uint32_t n_heads, float max_bias);

/* repack.c: n values of a vector tensor, widened. */
llm_code_t llm_read_vector(const llm_src_t *src, const llm_src_tensor_t *t, float *dst, size_t n,
                           llm_err_t *err);

#endif
