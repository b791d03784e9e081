/*
 * sched_impl.h - what the files of the scheduler share: its state and the running sequences.
 *
 *   sched.c    sequences come and go; the step from composition to publication
 *   compose.c  which tokens make a step: prefixes that others have, pages, pieces of prompts
 *   draft.c    drafts for the step that the draft model makes
 *   choose.c   the rows of a step: log-probabilities of prompts, new tokens, embeddings
 */
#ifndef LLM_SCHED_IMPL_H
#define LLM_SCHED_IMPL_H

#include "constrain.h"
#include "forward.h"
#include "sample.h"
#include "sched.h"
#include "spec.h"

/* A sequence that the leader works on. */
typedef struct {
    llm_slot_t *slot;
    uint64_t    chain;          /* hash of the last full page that is computed */
    uint32_t    n_chained;      /* tokens that chain covers */
    uint32_t    n_past, n_tokens;
    uint32_t    n_step;         /* tokens in this step ... */
    uint32_t    n_drafts;       /* ... the last ones of which are guesses */
    uint32_t    drafter;        /* whose: LLM_DRAFT_* */
    /* trust in copies, in what the grammar leaves no choice of, and in the draft model */
    llm_spec_t  copied, spelt;
    llm_odds_t  odds;
    uint32_t    n_wanted;       /* drafts that the draft model is to make for this step */
    /* tokens whose keys and values of the draft model are in the pages; its pages that say so */
    uint32_t    n_draft_past, n_draft_pages;
    uint32_t    row0, n_rows;   /* its logits rows in this step */
    bool        no_share;       /* every position needs its own pass: none is from the cache */
    bool        encode;         /* this step runs the encoder over its prompt */
    bool        undraftable;    /* has a token that the draft model lacks */
    bool        fresh;          /* without output yet: what it has from the cache is counted */
    bool        broken;         /* no token can follow: it ends with an error */
} llm_seq_t;

/*
 * Encoder-decoder models: the prompt is the encoder's input and takes the first pages of the table
 * (keys and values of the encoder's output for the decoder). The decoder's own sequence begins with
 * one more token, decoder_start, so the sequence has n_tokens + 1 tokens to compute, of which the
 * first n_prompt are computed at once by the encoder.
 */

typedef struct llm_drafter llm_drafter_t;

struct llm_sched {
    const llm_model_t *m;
    llm_pool_t        *pool;
    llm_shared_t      *sh;
    llm_kv_t          *kv;
    llm_fwd_t         *fwd;
    llm_sched_host_t   host;
    llm_sched_stats_t *stats;
    llm_drafter_t     *drafter;         /* NULL: no draft model */
    uint32_t           n_parallel, n_threads, speculate, n_draft;
    llm_sampler_t    **samplers;        /* [n_threads] */
    llm_seq_t         *seqs;            /* [n_parallel] running, oldest first */
    uint32_t           n_seqs;
    llm_fwd_seq_t     *batch;           /* [n_parallel] */
    uint32_t          *who;             /* [n_parallel]: batch entry -> seqs index */
    uint32_t           n_batch;
    double             prefill_ns;      /* smoothed time of one prompt token; 0: not measured yet */
    llm_line_t         decode;          /* ns of a step without prompt tokens, by its rows */
    uint32_t           n_streams;       /* of this step: those that want their next token */
    const int32_t     *eos;             /* ids that end a generation */
    uint32_t           n_eos;
    llm_constrain_t   *constrain;
    int32_t           *picked;          /* [rows of a step]: new tokens; -1: there is none */
};

static inline bool
llm_sched_encdec(const llm_sched_t *s)
{
    return s->m->enc.n_layers > 0;
}

/* Tokens to compute before the next one can be sampled. */
static inline uint32_t
llm_seq_target(const llm_sched_t *s, const llm_seq_t *q)
{
    return q->n_tokens + llm_sched_encdec(s);
}

static inline void
llm_sched_count(_Atomic uint64_t *c, uint64_t n)
{
    atomic_fetch_add_explicit(c, n, memory_order_relaxed);
}

/* A mean of times in which the last ones count most; 0: none yet. */
static inline void
llm_sched_smooth(double *mean, double value)
{
    *mean = *mean > 0 ? 0.75 * *mean + 0.25 * value : value;
}

/* -- sched.c */

/* Takes sequence i out of the list. */
void llm_seq_drop(llm_sched_t *s, uint32_t i);

/* -- compose.c */

/* Tokens that the sequence's pages have room for. */
uint32_t llm_seq_capacity(const llm_sched_t *s, const llm_seq_t *q);

/*
 * Chooses the tokens of the step: s->batch, and encode of the sequences whose prompt goes through
 * the encoder. Takes pages, pauses sequences when there are too few. Returns the number of tokens.
 */
uint32_t llm_sched_compose(llm_sched_t *s);

/* -- draft.c */

/* s has everything but the drafter. Errors: NOMEM. */
llm_code_t llm_drafter_new(llm_drafter_t **out, const llm_sched_t *s, const llm_model_t *draft,
                           llm_kv_type_t kv_type, llm_err_t *err);
void llm_drafter_free(llm_drafter_t *d);

/*
 * How many drafts, up to max, the draft model is to make for the sequence in this step; to be
 * called once for each step.
 */
uint32_t llm_drafter_wanted(const llm_sched_t *s, llm_seq_t *q, uint32_t max);

/*
 * Makes the drafts that sequences of the step want (n_wanted) and adds them to the step. A sequence
 * that the draft model has not followed gets none until it has caught up. timed: the step has no
 * prompt tokens, its time is that of its rows.
 */
void llm_drafter_run(llm_sched_t *s, bool timed);

/* The step has been taken: n_past of the sequence says what was kept of its drafts. */
void llm_drafter_settle(llm_sched_t *s, llm_seq_t *q);

/* -- choose.c */

/*
 * The token at pos, behind the sequence's own tokens and drafts up to there, as the sequence's
 * settings, its constraint and the random numbers of the position choose it from logits of the
 * model's vocabulary; -1: none. Fills *out; n_top: alternatives wanted. Thread: i_thread of the
 * pool.
 */
int32_t llm_sched_pick(llm_sched_t *s, const llm_seq_t *q, uint32_t pos, const float *logits,
                       uint32_t i_thread, uint32_t n_top, llm_sample_out_t *out);

/*
 * Logits of all rows of the step, and what they give: log-probabilities of prompt tokens and new
 * tokens, which go to s->picked. Writes into the records what belongs to those tokens; nothing is
 * visible yet.
 */
void llm_sched_choose(llm_sched_t *s);

/*
 * Adds n hidden states, those of the prompt's tokens from position pos on, which are rows row0 ..
 * of the forward pass, to the embedding that the slot wants. With the last one it is complete.
 */
void llm_sched_pool(llm_sched_t *s, llm_slot_t *slot, uint32_t row0, uint32_t pos, uint32_t n);

#endif
