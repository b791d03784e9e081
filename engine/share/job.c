/*
 * job.c - jobs as a worker's event loop sees them: claim a slot, look, give up. No call waits or
 * takes a lock.
 */
#include "arena.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void
llm_sampling_init(llm_sampling_t *s)
{
    *s = (llm_sampling_t) { .temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1 };
}

static llm_code_t
check_sampling(const llm_engine_t *e, const llm_sampling_t *s, llm_err_t *err)
{
    const struct { const char *name; float v, lo, hi; } range[] = {
        { "temperature", s->temperature, 1e-6f, 1e6f },
        { "top_p", s->top_p, 0, 1 },
        { "typical_p", s->typical_p, 0, 1 },
        { "min_p", s->min_p, 0, 1 },
        { "repetition_penalty", s->repetition_penalty, 1e-6f, 1e6f },
        { "frequency_penalty", s->frequency_penalty, -1e6f, 1e6f },
        { "presence_penalty", s->presence_penalty, -1e6f, 1e6f },
        { "gamma of the watermark", s->watermark_gamma, 0, 1 },
        { "delta of the watermark", s->watermark_delta, -100, 100 },
    };
    for (size_t i = 0; i < sizeof(range) / sizeof(range[0]); i++) {
        if (!(range[i].v >= range[i].lo && range[i].v <= range[i].hi)) {
            return llm_fail(err, LLM_E_ARG, "`%s` must be between %g and %g, not %g", range[i].name,
                            range[i].lo, range[i].hi, range[i].v);
        }
    }
    if (s->n_bias > LLM_MAX_BIAS) {
        return llm_fail(err, LLM_E_ARG, "`logit_bias` has %u entries; at most %u are possible",
                        s->n_bias, LLM_MAX_BIAS);
    }
    for (uint32_t i = 0; i < s->n_bias; i++) {
        if (s->bias[i].id < 0 || (uint32_t) s->bias[i].id >= e->model->head.rows
            || isnan(s->bias[i].bias)) {
            return llm_fail(err, LLM_E_ARG, "`logit_bias` names token %d; the model has %u",
                            s->bias[i].id, e->model->head.rows);
        }
    }
    return LLM_OK;
}

static llm_code_t
check(const llm_engine_t *e, const llm_job_conf_t *c, llm_err_t *err)
{
    uint32_t n_ctx = e->arena->conf.n_ctx, room = c->max_new > 0 ? 1 : 0;

    if (!e->joined) {
        return llm_fail(err, LLM_E_ENGINE, "this process has not joined the engine");
    }
    if (c->n_tokens < 1 || c->n_tokens > n_ctx - room) {
        return llm_fail(err, LLM_E_ARG, "a prompt must have 1 to %u tokens, not %u", n_ctx - room,
                        c->n_tokens);
    }
    for (uint32_t i = 0; i < c->n_tokens; i++) {
        if (c->tokens[i] < 0 || (uint32_t) c->tokens[i] >= e->model->embed.rows
            || (uint32_t) c->tokens[i] >= e->model->head.rows)
        {
            return llm_fail(err, LLM_E_ARG, "token %u of the prompt is %d; the model has %u", i,
                            c->tokens[i], e->model->embed.rows);
        }
    }
    if (c->n_top > e->arena->conf.max_top) {
        return llm_fail(err, LLM_E_ARG, "%u alternatives for a token; at most %u are possible",
                        c->n_top, e->arena->conf.max_top);
    }
    if (c->embed != LLM_EMBED_NONE && c->embed != LLM_EMBED_MEAN && c->embed != LLM_EMBED_LAST) {
        return llm_fail(err, LLM_E_ARG, "unknown pooling of embeddings: %d", (int) c->embed);
    }
    if (c->embed != LLM_EMBED_NONE && (c->max_new > 0 || c->prompt_logprobs)) {
        return llm_fail(err, LLM_E_ARG,
                        "an embedding has no output and no log-probabilities of the prompt");
    }
    return check_sampling(e, &c->sampling, err);
}

/*
 * The first free slot, signed with this worker's name, or NULL: slots behind the most that are in
 * use at once stay untouched.
 */
static llm_slot_t *
claim(llm_engine_t *e, uint32_t *index)
{
    uint64_t mine = llm_slot_owner(e->worker, e->worker_generation) | LLM_SLOT_CLAIMED;
    for (uint32_t i = 0; i < e->sh.n_slots; i++) {
        llm_slot_t *slot = llm_slot(&e->sh, i);
        uint64_t state = atomic_load_explicit(&slot->state, memory_order_relaxed);
        if (state == 0
            && atomic_compare_exchange_strong_explicit(&slot->state, &state, mine,
                                                       memory_order_acq_rel,
                                                       memory_order_relaxed)) {
            *index = i;
            return slot;
        }
    }
    return NULL;
}

llm_code_t
llm_job_submit(llm_engine_t *e, const llm_job_conf_t *conf, llm_job_t *job, llm_err_t *err)
{
    llm_code_t rc = check(e, conf, err);
    uint32_t index;

    if (rc != LLM_OK) {
        return rc;
    }
    llm_slot_t *slot = claim(e, &index);
    if (slot == NULL) {
        return llm_fail(err, LLM_E_BUSY, "all %u slots are taken", e->sh.n_slots);
    }

    atomic_store_explicit(&slot->place, 0, memory_order_relaxed);
    if (conf->constraint != NULL && !llm_place_use(e, slot, conf->constraint)) {
        llm_slot_free(slot);
        return llm_fail(err, LLM_E_BUSY, "all places for grammars are taken");
    }

    uint32_t room = e->arena->conf.n_ctx - conf->n_tokens;
    slot->n_prompt = conf->n_tokens;
    slot->max_new = conf->max_new < room ? conf->max_new : room;
    slot->n_top = conf->n_top;
    slot->prompt_logprobs = conf->prompt_logprobs;
    slot->top_raw = conf->top_raw;
    slot->embed = conf->embed;
    slot->sampling = conf->sampling;
    slot->sampling.bias = NULL;
    slot->n_bias = conf->sampling.n_bias;
    if (slot->n_bias > 0) {
        memcpy(slot->bias, conf->sampling.bias, slot->n_bias * sizeof(llm_bias_t));
    }
    memcpy(llm_slot_tokens(slot), conf->tokens, conf->n_tokens * sizeof(int32_t));
    float *logprob = llm_slot_logprob(&e->sh, slot), *raw = llm_slot_raw(&e->sh, slot);
    uint32_t *n_top = llm_slot_n_top(&e->sh, slot);
    for (uint32_t i = 0; i < conf->n_tokens; i++) {
        logprob[i] = raw[i] = NAN;
        n_top[i] = 0;
    }

    atomic_store_explicit(&slot->n_pages, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->n_cached, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->finish, LLM_FINISH_NONE, memory_order_relaxed);
    atomic_store_explicit(&slot->queued_ns, llm_now_ns(), memory_order_relaxed);
    atomic_store_explicit(&slot->started_ns, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->first_ns, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->last_ns, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->progress, llm_progress(conf->n_tokens, 0), memory_order_relaxed);
    slot->ticket = 1 + atomic_fetch_add_explicit(&e->arena->ticket, 1, memory_order_relaxed);

    *job = (llm_job_t) { e, index, atomic_load_explicit(&slot->generation, memory_order_relaxed) };
    /*
     * pairs with the acquire load in the leader's sweep: everything above is visible once QUEUED is
     */
    llm_slot_move(slot, LLM_SLOT_CLAIMED, LLM_SLOT_QUEUED);
    llm_arena_ring(e->arena);
    return LLM_OK;
}

static llm_slot_t *
slot_of(const llm_job_t *job)
{
    if (job->engine == NULL) {
        return NULL;
    }
    llm_slot_t *slot = llm_slot(&job->engine->sh, job->slot);
    return atomic_load_explicit(&slot->generation, memory_order_relaxed) == job->generation ? slot
                                                                                            : NULL;
}

void
llm_job_poll(const llm_job_t *job, llm_job_view_t *view)
{
    llm_slot_t *slot = slot_of(job);

    *view = (llm_job_view_t) { .done = true, .finish = LLM_FINISH_ERROR };
    if (slot == NULL) {
        return;
    }
    /* state before progress: when DONE is seen, all tokens are */
    view->done = (atomic_load_explicit(&slot->state, memory_order_acquire) & LLM_SLOT_PHASE)
                 == LLM_SLOT_DONE;
    view->finish = view->done
                       ? (llm_finish_t) atomic_load_explicit(&slot->finish, memory_order_relaxed)
                       : LLM_FINISH_NONE;
    view->n_prompt = slot->n_prompt;
    view->n_new = (uint32_t) atomic_load_explicit(&slot->progress, memory_order_acquire)
                  - slot->n_prompt;
    view->n_cached = atomic_load_explicit(&slot->n_cached, memory_order_relaxed);
    view->queued_ns = atomic_load_explicit(&slot->queued_ns, memory_order_relaxed);
    view->started_ns = atomic_load_explicit(&slot->started_ns, memory_order_relaxed);
    view->first_ns = atomic_load_explicit(&slot->first_ns, memory_order_relaxed);
    view->last_ns = atomic_load_explicit(&slot->last_ns, memory_order_relaxed);
}

void
llm_job_token(const llm_job_t *job, uint32_t i, llm_job_token_t *out)
{
    llm_slot_t *slot = slot_of(job);

    *out = (llm_job_token_t) { .id = -1, .logprob = NAN, .raw_logprob = NAN };
    if (slot == NULL
        || i >= (uint32_t) atomic_load_explicit(&slot->progress, memory_order_acquire)) {
        return;
    }
    const llm_shared_t *sh = &job->engine->sh;
    out->id = llm_slot_tokens(slot)[i];
    out->logprob = llm_slot_logprob(sh, slot)[i];
    out->raw_logprob = llm_slot_raw(sh, slot)[i];
    out->n_top = llm_slot_n_top(sh, slot)[i];
    out->top = llm_slot_top(sh, slot, i);
}

const float *
llm_job_embedding(const llm_job_t *job, uint32_t *n)
{
    llm_slot_t *slot = slot_of(job);

    *n = 0;
    if (slot == NULL || slot->embed == LLM_EMBED_NONE
        || (atomic_load_explicit(&slot->state, memory_order_acquire) & LLM_SLOT_PHASE)
               != LLM_SLOT_DONE
        || atomic_load_explicit(&slot->finish, memory_order_relaxed) == LLM_FINISH_ERROR)
    {
        return NULL;
    }
    *n = job->engine->sh.n_embd;
    return llm_slot_embedding(&job->engine->sh, slot);
}

void
llm_job_close(llm_job_t *job)
{
    llm_slot_t *slot = slot_of(job);
    llm_engine_t *e = job->engine;

    job->engine = NULL;
    if (slot == NULL) {
        return;
    }
    uint64_t s = atomic_load_explicit(&slot->state, memory_order_acquire);
    for (;;) {
        if ((s & LLM_SLOT_PHASE) == LLM_SLOT_DONE) {
            llm_slot_free(slot);
            return;
        }
        /* from here on the record belongs to the leader */
        if (atomic_compare_exchange_weak_explicit(&slot->state, &s, s | LLM_SLOT_CANCEL,
                                                  memory_order_acq_rel, memory_order_acquire)) {
            llm_arena_ring(e->arena);
            return;
        }
    }
}
