/*
 * choose.c - what the rows of a step give: log-probabilities of prompt tokens, new tokens,
 * embeddings.
 *
 * Rows that become logits are independent of each other and spread over the threads.
 */
#include "sched_impl.h"
#include "text/tok.h"

typedef struct {
    llm_sched_t *s;
    const float *logits;        /* of rows row0 .. */
    uint32_t     row0, n;
} chunk_t;

/*
 * BART: the model's settings may force the first token and the last possible one; free runs
 * (ignore_eos) and constrained outputs are not forced.
 */
static int32_t
forced(const llm_sched_t *s, const llm_slot_t *slot, uint32_t pos, int32_t id)
{
    uint32_t i_new = pos - slot->n_prompt;
    if (slot->sampling.ignore_eos || id < 0 || llm_constrained(slot)) {
        return id;
    }
    if (s->m->forced_bos_id >= 0 && i_new == 0) {
        return s->m->forced_bos_id;
    }
    return s->m->forced_eos_id >= 0 && i_new + 1 == slot->max_new ? s->m->forced_eos_id : id;
}

int32_t
llm_sched_pick(llm_sched_t *s, const llm_seq_t *q, uint32_t pos, const float *logits,
               uint32_t i_thread, uint32_t n_top, llm_sample_out_t *out)
{
    llm_slot_t *slot = q->slot;
    const int32_t *tokens = llm_slot_tokens(slot);
    bool early = pos - slot->n_prompt < slot->sampling.min_tokens;
    llm_sample_in_t in = {
        .conf = &slot->sampling,
        .bias = slot->bias,
        .tokens = tokens,
        .n_tokens = pos,
        .n_prompt = slot->n_prompt,
        .n_valid = llm_tok_n_vocab(s->m->tok),
        .n_top = n_top,
        .top_raw = slot->top_raw,
        .top_cap = s->sh->top_stride,
    };

    out->id = -1;
    if (llm_constrained(slot)) {
        in.mask = llm_constrain_mask(s->constrain, slot, i_thread, tokens + q->n_tokens,
                                     pos - q->n_tokens, early || slot->sampling.ignore_eos,
                                     &in.mask_words);
        if (in.mask == NULL) {
            return -1;
        }
    } else if (early) {
        in.banned = s->eos;
        in.n_banned = s->n_eos;
    }
    llm_sample(s->samplers[i_thread], logits, &in, out);
    return forced(s, slot, pos, out->id);
}

/*
 * Row i_chunk of the chunk. What belongs to the token that it predicts goes to the record, where
 * nothing is visible yet.
 */
static void
choose_row(void *ctx, uint32_t i_chunk, uint32_t i_thread)
{
    chunk_t *c = ctx;
    llm_sched_t *s = c->s;
    uint32_t row = c->row0 + i_chunk, b = 0;

    while (row >= s->seqs[s->who[b]].row0 + s->seqs[s->who[b]].n_rows) {
        b++;
    }
    llm_seq_t *q = &s->seqs[s->who[b]];
    llm_slot_t *slot = q->slot;
    uint32_t pos = q->n_past + q->n_step - q->n_rows + row - q->row0 + 1
                   - llm_sched_encdec(s);       /* the token that this row predicts */
    const float *logits = c->logits + (size_t) i_chunk * s->m->head.rows;
    llm_sample_out_t out = { .top = llm_slot_top(s->sh, slot, pos < s->sh->n_ctx ? pos : 0) };

    if (pos < slot->n_prompt) {
        llm_score(s->samplers[i_thread], logits, llm_slot_tokens(slot)[pos], slot->n_top,
                  s->sh->top_stride, &out);
    } else if (pos < q->n_tokens || slot->max_new == 0) {
        /* recomputed after a pause: the token is there; or nothing is to be generated */
        return;
    } else {
        s->picked[row] = llm_sched_pick(s, q, pos, logits, i_thread, slot->n_top, &out);
    }
    llm_slot_logprob(s->sh, slot)[pos] = out.logprob;
    llm_slot_raw(s->sh, slot)[pos] = out.raw_logprob;
    llm_slot_n_top(s->sh, slot)[pos] = out.n_top;
}

/*
 * Sums are of doubles, in the order of the tokens whatever pieces they come in, and start anew with
 * the first token: so the embedding does not depend on the steps that it took.
 */
void
llm_sched_pool(llm_sched_t *s, llm_slot_t *slot, uint32_t row0, uint32_t pos, uint32_t n)
{
    uint32_t width = s->sh->n_embd;
    double *sum = llm_slot_sums(s->sh, slot);

    for (uint32_t t = 0; t < n; t++) {
        const float *h = llm_fwd_hidden(s->fwd, row0 + t);
        bool first = pos + t == 0 || slot->embed == LLM_EMBED_LAST;
        for (uint32_t i = 0; i < width; i++) {
            sum[i] = (first ? 0 : sum[i]) + h[i];
        }
    }
    if (pos + n == slot->n_prompt) {
        float *out = llm_slot_embedding(s->sh, slot);
        double count = slot->embed == LLM_EMBED_MEAN ? slot->n_prompt : 1;
        for (uint32_t i = 0; i < width; i++) {
            out[i] = (float) (sum[i] / count);
        }
    }
}

void
llm_sched_choose(llm_sched_t *s)
{
    uint32_t n_rows = 0, n_logits = 0;
    for (uint32_t b = 0; b < s->n_batch; b++) {
        llm_seq_t *q = &s->seqs[s->who[b]];
        q->row0 = n_rows;
        n_rows += q->n_rows;
        /* those that want embeddings are the last ones (compose) */
        n_logits += q->slot->embed == LLM_EMBED_NONE ? q->n_rows : 0;
        if (q->slot->embed != LLM_EMBED_NONE) {
            llm_sched_pool(s, q->slot, q->row0, q->n_past + q->n_step - q->n_rows, q->n_rows);
        }
    }
    for (uint32_t row = 0; row < n_logits; row += LLM_FWD_LOGIT_ROWS) {
        uint32_t left = n_logits - row;
        chunk_t c = { .s = s,
                      .row0 = row,
                      .n = left < LLM_FWD_LOGIT_ROWS ? left : LLM_FWD_LOGIT_ROWS };
        c.logits = llm_fwd_logits(s->fwd, row, c.n);
        if (c.n == 1) {
            choose_row(&c, 0, 0);
        } else {
            llm_pool_run(s->pool, choose_row, &c, c.n);
        }
    }
}
