/*
 * constrain.h - the grammars of running jobs as the leader sees them.
 *
 * Owns (leader-local): the state of every constrained output and the scratch of the masks. A state
 * is derived: a new leader, or a sequence that was paused, replays the output tokens. The blocks
 * are in the arena (slot.h); a block is checked once by each leader before anything reads it.
 *
 * Thread: the leader; llm_constrain_mask may run for different threads at the same time.
 */
#ifndef LLM_CONSTRAIN_H
#define LLM_CONSTRAIN_H

#include "slot.h"

typedef struct llm_constrain llm_constrain_t;

/* All memory is allocated here, and none of it touched before a job needs it. Errors: NOMEM. */
llm_code_t llm_constrain_new(llm_constrain_t **out, const llm_shared_t *shared, uint32_t n_threads,
                             llm_err_t *err);
void llm_constrain_free(llm_constrain_t *c);

/* Whether the slot's output is constrained. */
static inline bool
llm_constrained(const llm_slot_t *slot)
{
    return atomic_load_explicit(&slot->place, memory_order_relaxed) != 0;
}

/*
 * The functions below are for constrained slots that are running.
 */

/*
 * Makes the state of an output of n tokens. False: the block is damaged, or the tokens do not fit.
 */
bool llm_constrain_start(llm_constrain_t *c, llm_slot_t *slot, const int32_t *tokens, uint32_t n);
/* The output grows by one token. False: it does not fit, the state is unchanged. */
bool llm_constrain_take(llm_constrain_t *c, llm_slot_t *slot, int32_t id);
/* Nothing can follow but an end token. */
bool llm_constrain_finished(const llm_constrain_t *c, const llm_slot_t *slot);
/* How many of the n tokens can follow, one after the other. */
uint32_t llm_constrain_fits(const llm_constrain_t *c, llm_slot_t *slot, const int32_t *tokens,
                            uint32_t n);

/*
 * Tokens for what the grammar leaves no choice of, or only that of a space: drafts of which most
 * are kept. out: the n_out tokens of the output so far; drafts: room for n. Returns how many.
 */
uint32_t llm_constrain_drafts(const llm_constrain_t *c, llm_slot_t *slot, const int32_t *out,
                              uint32_t n_out, int32_t *drafts, uint32_t n);

/*
 * Bits of the ids that may follow the output and n more tokens that fit; without the end tokens
 * (ban_eos) unless nothing else can follow. Borrowed until the next call for the same thread;
 * *n_words: its length. NULL: no id can follow, the vocabulary lacks a character.
 */
const uint64_t *llm_constrain_mask(llm_constrain_t *c, const llm_slot_t *slot, uint32_t thread,
                                   const int32_t *tokens, uint32_t n, bool ban_eos,
                                   uint32_t *n_words);

#endif
