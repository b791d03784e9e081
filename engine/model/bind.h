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
#define LLM_MIN_HEAD_DIM 8                      /* kern.h */
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

/* One block of the weights mapping: a matrix, or a vector of floats. */
typedef struct {
    llm_mat_t    *mat;          /* gets its data pointer */
    const float **vec;          /* or this one does */
    uint32_t      n_segs;
    llm_seg_t     seg[LLM_MAX_SEGS];
    size_t        off, bytes;   /* in the mapping; off is a multiple of 64 */
} llm_item_t;

typedef struct {
    llm_item_t *items;
    size_t      n, cap;
    size_t      bytes;          /* of all items with padding */
} llm_plan_t;

/* State of one binding. */
typedef struct {
    llm_model_t      *m;
    llm_stack_t      *s;                        /* the stack of m that is being bound */
    llm_plan_t       *plan;
    const llm_src_t  *src;
    const llm_arch_t *arch;
    llm_desc_t        desc;                     /* the row's, after its rules */
    const char       *roles[LLM_ROLE_COUNT];
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
 * m->weights is NULL again. Single-threaded. Errors: NOMEM, IO.
 */
llm_code_t llm_repack(llm_model_t *m, const llm_plan_t *plan, const llm_src_t *src,
                      const llm_model_conf_t *conf, llm_err_t *err);

/*
 * Zeroed memory that lives as long as the model; NULL when there is none (or n * size overflows).
 */
void *llm_meta_alloc(llm_model_t *m, size_t n, size_t size);
void llm_meta_free(llm_model_t *m);

/* --------------------------------------------------- parts of llm_bind, by file */

/* hparam.c: rules applied, then the numbers of the stack. */
llm_code_t llm_bind_settings(llm_bind_t *b);
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
/* First name of a key, for messages. */
typedef struct { char s[128]; } llm_name_t;
llm_name_t llm_bind_key_name(const llm_bind_t *b, llm_key_t key);

/*
 * bind.c: the tensor of a role in a layer and expert, marked as used. A role without a name is
 * never found.
 */
llm_name_t llm_bind_tensor_name(const llm_bind_t *b, llm_role_t role, uint32_t layer,
                                uint32_t expert, const char *suffix);
bool llm_bind_find(llm_bind_t *b, llm_role_t role, uint32_t layer, const char *suffix,
                   llm_src_tensor_t *out);

/* rope.c: inverse frequencies and ALiBi slopes. */
llm_code_t llm_bind_positions(llm_bind_t *b);
/* slopes[h] for h < n_heads (spec models.md 3.5). */
void llm_alibi_slopes(float *slopes, uint32_t n_heads, float max_bias);

/* repack.c: n values of a vector tensor, widened. */
llm_code_t llm_read_vector(const llm_src_t *src, const llm_src_tensor_t *t, float *dst, size_t n,
                           llm_err_t *err);

#endif
