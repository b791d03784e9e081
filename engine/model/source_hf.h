/*
 * source_hf.h - a Hugging Face directory as a source of settings and tensors.
 *
 * Settings are those of config.json; "a.b" names a key inside another, "a.3" an element of an
 * array, "generation.a" a key of generation_config.json. Tensors are those of the checkpoint
 * (ckpt.h); quantized matrices appear as NAME.weight in f32 (hfquant.h).
 */
#ifndef LLM_SOURCE_HF_H
#define LLM_SOURCE_HF_H

#include "model/source.h"

#define LLM_HF_MAX_CONFIG ((size_t) 4 << 20)    /* bytes of a settings file */

typedef struct llm_hf llm_hf_t;

/*
 * Reads the settings and the headers of all weight files. Errors: IO, FORMAT, UNSUPPORTED (a
 * quantization method), NOMEM; the message names file and field.
 */
llm_code_t llm_hf_open(llm_hf_t **out, const char *dir, llm_err_t *err);
void llm_hf_close(llm_hf_t *h);

/* A view of an open directory, which must outlive it. Not for two threads at once. */
llm_src_t llm_src_hf(llm_hf_t *h);

const char *llm_hf_path(const llm_hf_t *h);
uint64_t llm_hf_file_bytes(const llm_hf_t *h);

#endif
