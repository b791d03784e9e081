/*
 * hfquant.h - the 4-bit matrices of Hugging Face checkpoints: GPTQ, AWQ and bitsandbytes nf4 (spec
 * models.md section 9.2).
 *
 * Their layouts are not the blocks of tensor/format.h, and scales times zero points do not fit
 * those exactly, so a matrix is widened to f32 when it is loaded: exact, at four bytes a weight.
 */
#ifndef LLM_HFQUANT_H
#define LLM_HFQUANT_H

#include "model/ckpt.h"

#include <jansson.h>

typedef enum { LLM_HFQ_NONE, LLM_HFQ_GPTQ, LLM_HFQ_AWQ, LLM_HFQ_NF4 } llm_hfq_kind_t;

/* What config.json says about all quantized matrices. */
typedef struct {
    llm_hfq_kind_t kind;
    uint32_t       group_size;      /* inputs that share a scale; 0: all of them */
    uint32_t       zero_add;        /* GPTQ: 1 where zero points are stored minus one */
} llm_hfq_conf_t;

/* One matrix [rows][cols]; its tensors belong to the checkpoint. */
typedef struct {
    llm_hfq_conf_t           conf;
    uint64_t                 rows, cols;
    const llm_ckpt_tensor_t *weight, *zeros, *scales, *g_idx;   /* GPTQ, AWQ; g_idx may be NULL */
    /* nf4: absmax of each block, perhaps itself quantized with nested_map and nested_absmax */
    const llm_ckpt_tensor_t *map, *absmax, *nested_map, *nested_absmax;
    uint32_t                 block, nested_block;
    float                    nested_offset;
} llm_hfq_mat_t;

/* "GPTQ" ...; static storage. */
const char *llm_hfq_name(llm_hfq_kind_t kind);

/*
 * Reads the object "quantization_config" (NULL: none); path names its file in messages.
 * Errors: FORMAT, UNSUPPORTED (another method, other than 4 bits).
 */
llm_code_t llm_hfq_conf(llm_hfq_conf_t *out, const char *path, const json_t *config,
                        llm_err_t *err);

/*
 * If t is the tensor that holds the weights of a quantized matrix, *name_len becomes the length of
 * the module's name in t->name; else 0. *part tells whether t is another part of such a matrix.
 */
size_t llm_hfq_module(const llm_hfq_conf_t *conf, const llm_ckpt_t *c, const llm_ckpt_tensor_t *t,
                      bool *part);

/* The matrix of a module. Errors: FORMAT (a part is missing or of the wrong shape), IO, NOMEM. */
llm_code_t llm_hfq_open(llm_hfq_mat_t *out, const llm_hfq_conf_t *conf, const llm_ckpt_t *c,
                        const char *module, size_t module_len, llm_err_t *err);

/* All rows * cols weights. Errors: IO, FORMAT (a group that does not exist), NOMEM. */
llm_code_t llm_hfq_dequant(const llm_hfq_mat_t *m, const llm_ckpt_t *c, float *dst, llm_err_t *err);

#endif
