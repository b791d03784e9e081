/*
 * spec.h - speculation without a second model: drafts copied from what the sequence has already.
 *
 * Where the last tokens of a sequence occurred before, it may go on as it did then. The step that
 * computes the next token computes the drafts as well; as many of them as the sampler would have
 * chosen anyway are kept. So drafts change how many steps an output takes, never its tokens.
 */
#ifndef LLM_SPEC_H
#define LLM_SPEC_H

#include <stdbool.h>
#include <stdint.h>

#define LLM_SPEC_MAX 16         /* drafts in one step, of all sequences together */

/*
 * Writes to tokens[n_tokens ..] up to n drafts: what followed the longest earlier occurrence of the
 * last tokens, the latest one of equals. Returns their number. O(n_tokens).
 */
uint32_t llm_spec_lookup(int32_t *tokens, uint32_t n_tokens, uint32_t n);

/* How far a sequence is trusted. All zero: a new one. */
typedef struct {
    uint16_t width;             /* drafts to ask for */
    uint16_t rest, pause;       /* steps until the next draft; how many there were the last time */
} llm_spec_t;

/* Drafts that the sequence may have in this step, up to max; to be called once for each step. */
uint32_t llm_spec_wanted(llm_spec_t *s, uint32_t max);
/* Of n_drafts > 0, n_kept were kept. */
void llm_spec_learn(llm_spec_t *s, uint32_t n_drafts, uint32_t n_kept);

#endif
