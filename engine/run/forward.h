/*
 * forward.h - one step of the model over a batch of tokens from many sequences.
 *
 * The pass is driven by the fields of llm_stack_t alone. Every sequence brings its page table; keys
 * and values of the new tokens are written to its pages, so a repeated step (after a takeover)
 * writes the same bytes to the same places. What a token computes never depends on the other tokens
 * of the step (kern.h states why).
 */
#ifndef LLM_FORWARD_H
#define LLM_FORWARD_H

#include "base/pool.h"
#include "model/model.h"

/* The tokens of one sequence in one step. */
typedef struct {
    const int32_t  *tokens;     /* [n] ids at positions pos0 .. pos0+n-1 */
    uint32_t        n, pos0;
    const uint32_t *table;      /* pages for positions 0 .. pos0+n-1 */
    uint32_t        n_prompt;   /* rope_dynamic: length that prompt tokens are rotated for */
    uint32_t        n_planned;  /* longrope: most tokens the sequence may reach */
    uint32_t        n_rows;     /* the last n_rows tokens need logits; 0..n */

    /* decoder of an encoder-decoder; n_cross is 0 otherwise */
    uint32_t        n_cross;    /* tokens of the encoder's output */
    const uint32_t *cross;      /* their pages, filled by llm_fwd_encode */
    /* the token at position 0, when pos0 is 0; tokens[0] is not read then */
    int32_t         first_id;
} llm_fwd_seq_t;

typedef struct llm_fwd llm_fwd_t;

/*
 * Scratch for steps of at most max_tokens tokens over contexts of at most n_ctx tokens. kv: the
 * model's part of the first page; page_bytes: from one page to the next, llm_fwd_page_bytes or
 * more. All memory is allocated here; steps allocate nothing. Errors: NOMEM.
 */
llm_code_t llm_fwd_new(llm_fwd_t **out, const llm_model_t *m, llm_pool_t *pool, uint8_t *kv,
                       size_t page_bytes, llm_kv_type_t kv_type, uint32_t max_tokens,
                       uint32_t n_ctx, llm_err_t *err);
void llm_fwd_free(llm_fwd_t *f);

/* Bytes that a model needs of a KV page: all layers and kv heads, LLM_KV_PAGE tokens. */
size_t llm_fwd_page_bytes(const llm_model_t *m, llm_kv_type_t type);

/*
 * Runs all sequences (sum of n <= max_tokens). Afterwards rows 0..R-1 (R = sum of n_rows, in the
 * order of seqs) can be turned into logits. Thread: the owner of the pool.
 */
void llm_fwd_run(llm_fwd_t *f, const llm_fwd_seq_t *seqs, uint32_t n_seqs);

/*
 * Encoder-decoder models: runs the encoder over all n tokens of an input (n <= max_tokens) and
 * stores the keys and values that every decoder layer needs of its output in the pages of table.
 * Thread: the owner of the pool.
 */
void llm_fwd_encode(llm_fwd_t *f, const int32_t *tokens, uint32_t n, const uint32_t *table);

/*
 * Hidden state of row `row` of the last run (behind the final norm, and the projection where there
 * is one), or after llm_fwd_encode of the encoder's token `row`: llm_fwd_width floats. Valid until
 * the next run, encode or llm_fwd_logits.
 */
const float *llm_fwd_hidden(const llm_fwd_t *f, uint32_t row);
uint32_t llm_fwd_width(const llm_model_t *m);

/* Most rows of one llm_fwd_logits call. */
#define LLM_FWD_LOGIT_ROWS 64

/*
 * Logits [n][n_vocab] of rows row0 .. row0+n-1 of the last run, n <= LLM_FWD_LOGIT_ROWS; valid
 * until the next call, run or encode.
 */
float *llm_fwd_logits(llm_fwd_t *f, uint32_t row0, uint32_t n);

#endif
