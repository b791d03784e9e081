/*
 * spec.h - speculation: drafts copied from what the sequence has already, and how many to try.
 *
 * Where the last tokens of a sequence occurred before, it may go on as it did then; elsewhere a
 * second model may draft (draft.c). The step that computes the next token computes the drafts as
 * well; as many of them as the sampler would have chosen anyway are kept. So drafts change how many
 * steps an output takes, never its tokens.
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

/* How far copies are trusted for a sequence. All zero: a new one. */
typedef struct {
    uint16_t width;             /* drafts to ask for */
    uint16_t rest, pause;       /* steps until the next draft; how many there were the last time */
} llm_spec_t;

/* Drafts that the sequence may have in this step, up to max; to be called once for each step. */
uint32_t llm_spec_wanted(llm_spec_t *s, uint32_t max);
/* Of n_drafts > 0, n_kept were kept. */
void llm_spec_learn(llm_spec_t *s, uint32_t n_drafts, uint32_t n_kept);

/* How often the drafts of a model are right for a sequence. All zero: a new one. */
typedef struct {
    float    tried, right;      /* of late; a draft behind a wrong one was not tried */
    uint16_t rest, pause;       /* as above */
} llm_odds_t;

/*
 * How many drafts, up to max, make the most tokens for their time; to be called once for each step.
 * cost: time of making and checking a draft, that of a step without being 1. When none is worth it
 * a single one is still tried after pauses that grow, unless not even right ones are.
 */
uint32_t llm_odds_wanted(llm_odds_t *o, uint32_t max, float cost);
/* Of n_drafts > 0, n_kept were kept. */
void llm_odds_learn(llm_odds_t *o, uint32_t n_drafts, uint32_t n_kept);

/* A straight line through the last points (x > 0, y > 0), for the time of a step by its rows. */
typedef struct { double n, x, y, xx, xy; } llm_line_t;    /* weight, means, sums around the means */

void llm_line_add(llm_line_t *l, double x, double y);
/* y of one more x, at least 0; the less the points tell, the nearer to `usual`. */
double llm_line_slope(const llm_line_t *l, double usual);
/* y at x. At least one point must be there. */
double llm_line_at(const llm_line_t *l, double x, double usual);

#endif
