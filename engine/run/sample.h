/*
 * sample.h - from logits to the next token.
 *
 * A pure function of the logits, the tokens so far and the settings: random numbers come from a
 * counter-based generator keyed by (seed, position, token id), so the same request gives the same
 * tokens whatever runs beside it, and also when a step is repeated. Order of stages and formulas:
 * spec http-api.md section 6.1.
 */
#ifndef LLM_SAMPLE_H
#define LLM_SAMPLE_H

#include "tensor/kern.h"

typedef struct {
    const llm_sampling_t *conf;
    const llm_bias_t *bias;         /* [conf->n_bias] */
    const int32_t *tokens;          /* [n_tokens] prompt and output so far */
    uint32_t       n_tokens, n_prompt;
    /*
     * Ids that the tokenizer has. Rows of the head beyond are padding: never chosen, but part of
     * the sum of probabilities as in the reference implementations, unless sampling filters them
     * out first.
     */
    uint32_t       n_valid;
    /* ids that end a generation while min_tokens is not reached; NULL: none */
    const int32_t *banned;
    uint32_t       n_banned;
    /* bit id is set for the ids that the output's grammar allows, mask_words words; NULL: all */
    const uint64_t *mask;
    uint32_t       mask_words;
    uint32_t       n_top;           /* alternatives wanted */
    bool           top_raw;
    uint32_t       top_cap;         /* room in top */
} llm_sample_in_t;

typedef struct {
    int32_t    id;                  /* -1: the logits hold no finite number */
    float      logprob, raw_logprob;
    uint32_t   n_top;
    llm_top_t *top;                 /* [top_cap], the caller's */
} llm_sample_out_t;

typedef struct llm_sampler llm_sampler_t;

/* Scratch for one thread and a vocabulary of n_vocab. Errors: NOMEM. */
llm_code_t llm_sampler_new(llm_sampler_t **out, uint32_t n_vocab, llm_err_t *err);
void llm_sampler_free(llm_sampler_t *s);

/* logits [n_vocab] are read only. No allocation. */
void llm_sample(llm_sampler_t *s, const float *logits, const llm_sample_in_t *in,
                llm_sample_out_t *out);

/* Raw log-softmax of one id, and the best alternatives: for prompt tokens. */
void llm_score(llm_sampler_t *s, const float *logits, int32_t id, uint32_t n_top, uint32_t top_cap,
               llm_sample_out_t *out);

#endif
