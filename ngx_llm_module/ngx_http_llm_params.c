/*
 * ngx_http_llm_params.c - the rules for the values of a request.
 *
 * Neutral values, the checks in the reference's order with its messages,
 * truncation and length limits, and the translation to what the engine
 * takes.  The protocols differ in ranges (ctx->codec->format), not in order.
 */
#include "ngx_http_llm_codec.h"


#define NGX_HTTP_LLM_CHUNK  1024    /* the reference's slice of new tokens */


static ngx_int_t ngx_http_llm_params_best_of(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_params_ranges(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_params_top(ngx_http_llm_ctx_t *ctx);
static uint64_t ngx_http_llm_params_random(void);


void
ngx_http_llm_params_init(ngx_http_llm_params_t *p)
{
    ngx_memzero(p, sizeof(ngx_http_llm_params_t));

    p->temperature = 1;
    p->repetition_penalty = 1;
    p->top_p = 1;
    p->typical_p = 1;
    p->best_of = 1;
    p->n = 1;
    p->skip_special_tokens = 1;
    p->add_special_tokens = 1;
}


/* this version has no adapters: naming one is never ignored */

ngx_int_t
ngx_http_llm_params_adapter(ngx_http_llm_ctx_t *ctx, json_t *object,
    const char *prefix)
{
    json_t     *adapter;
    ngx_str_t   name;

    adapter = ngx_http_llm_json_get(object, "adapter_id");

    if (adapter == NULL) {
        return NGX_OK;
    }

    if (!json_is_string(adapter)) {
        return ngx_http_llm_json_mismatch(ctx, prefix, "adapter_id", adapter,
                                          "a string");
    }

    name = ngx_http_llm_json_str(adapter);

    return ngx_http_llm_invalid(ctx, "adapter `%V` is not loaded", &name);
}


ngx_int_t
ngx_http_llm_params_permit(ngx_http_llm_ctx_t *ctx)
{
    llm_stats_t  stats;

    llm_engine_stats(ctx->instance->engine, &stats);

    /*
     * Exact, while the numbers of a step lag behind what was sent.  A grammar
     * is compiled to its end, also when its client has gone: it counts.
     */

    if ((uint64_t) stats.n_used + ctx->instance->n_slow + ctx->n_sequences
        > (uint64_t) ctx->conf->max_concurrent_requests
        || (ctx->conf->max_queue >= 0
            && stats.n_waiting > (uint64_t) ctx->conf->max_queue))
    {
        return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_OVERLOADED,
                                 "Model is overloaded");
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_llm_params_check(ngx_http_llm_ctx_t *ctx)
{
    ngx_http_llm_params_t    *p;
    ngx_http_llm_loc_conf_t  *conf;

    p = &ctx->params;
    conf = ctx->conf;

    if (p->stream && ctx->codec->format == NGX_HTTP_LLM_FORMAT_TGI) {

        if (p->best_of != 1) {
            return ngx_http_llm_invalid(ctx, "`best_of` != 1 is not supported "
                                        "when streaming tokens");
        }

        if (p->decoder_input_details) {
            return ngx_http_llm_invalid(ctx, "`decoder_input_details` == true "
                                        "is not supported when streaming "
                                        "tokens");
        }
    }

    /* as in the reference, the list of the prompt's tokens is empty then */

    if (p->decoder_input_details && !conf->prefill_logprobs) {

        if (p->logprobs && p->echo) {
            return ngx_http_llm_invalid(ctx, "`echo` with `logprobs` is not "
                                        "allowed for this endpoint");
        }

        p->decoder_input_details = 0;
        p->prefill = 0;
        p->details = 1;
    }

    if (ngx_http_llm_params_best_of(ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    ctx->n_sequences = p->best_of * p->n * ngx_max(ctx->n_prompts, 1);

    if (ngx_http_llm_params_permit(ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    p->sampling = (p->do_sample || p->temperature != 1 || p->top_k != 0
                   || p->top_p < 1 || p->typical_p < 1);

    if (p->temperature == 0
        && ctx->codec->format == NGX_HTTP_LLM_FORMAT_OPENAI)
    {
        p->sampling = 0;
        p->temperature = 1;
    }

    if (p->best_of > 1
        && !p->do_sample
        && !(p->given & (NGX_HTTP_LLM_GIVEN_TEMPERATURE
                         |NGX_HTTP_LLM_GIVEN_TOP_K
                         |NGX_HTTP_LLM_GIVEN_TOP_P
                         |NGX_HTTP_LLM_GIVEN_TYPICAL_P)))
    {
        return ngx_http_llm_invalid(ctx, "you must use sampling when "
                                    "`best_of` is > 1");
    }

    if (ngx_http_llm_params_ranges(ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    /* nothing new and the prompt in the answer: its log-probabilities */

    if ((p->given & NGX_HTTP_LLM_GIVEN_MAX_NEW) && p->max_new_tokens == 0
        && !p->echo)
    {
        return ngx_http_llm_invalid(ctx, "`max_new_tokens` must be strictly "
                                    "positive");
    }

    if (p->n_stop > (ngx_uint_t) conf->max_stop_sequences) {
        return ngx_http_llm_invalid(ctx, "`stop` supports up to %i stop "
                                    "sequences. Given: %ui",
                                    conf->max_stop_sequences, p->n_stop);
    }

    if (p->best_of > 1 && (p->given & NGX_HTTP_LLM_GIVEN_SEED)) {
        return ngx_http_llm_invalid(ctx, "`seed` must not be set when "
                                    "`best_of` > 1");
    }

    if (ngx_http_llm_params_top(ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ctx->prompt.len == 0
        && ctx->codec->format == NGX_HTTP_LLM_FORMAT_TGI)
    {
        return ngx_http_llm_invalid(ctx, "`inputs` cannot be empty");
    }

    if ((p->given & NGX_HTTP_LLM_GIVEN_TRUNCATE)
        && (p->truncate == 0
            || p->truncate > (uint64_t) conf->max_input_tokens))
    {
        return ngx_http_llm_invalid(ctx, "`truncate` must be strictly positive "
                                    "and less than %i. Given: %uL",
                                    conf->max_input_tokens, p->truncate);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_params_best_of(ngx_http_llm_ctx_t *ctx)
{
    ngx_int_t               max;
    ngx_http_llm_params_t  *p;

    p = &ctx->params;

    if (p->best_of > 1) {
        max = ctx->conf->max_best_of;

        if (max == 1) {
            return ngx_http_llm_invalid(ctx, "`best_of` != 1 is not allowed "
                                        "for this endpoint");
        }

        if (p->best_of > (uint64_t) max) {
            return ngx_http_llm_invalid(ctx, "`best_of` must be > 0 and <= %i. "
                                        "Given: %uL", max, p->best_of);
        }
    }

    if (p->best_of == 0) {
        p->best_of = 1;
    }

    max = ctx->conf->max_client_batch_size;

    if (p->keep == 0 && (p->n == 0 || p->n > (uint64_t) max)) {
        return ngx_http_llm_invalid(ctx, "`n` must be > 0 and <= %i. "
                                    "Given: %uL", max, p->n);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_params_ranges(ngx_http_llm_ctx_t *ctx)
{
    ngx_uint_t              openai;
    ngx_http_llm_params_t  *p;

    p = &ctx->params;
    openai = (ctx->codec->format == NGX_HTTP_LLM_FORMAT_OPENAI);

    if (p->temperature <= 0) {
        return ngx_http_llm_invalid(ctx, "`temperature` must be strictly "
                                    "positive");
    }

    if (p->repetition_penalty <= 0) {
        return ngx_http_llm_invalid(ctx, "`repetition_penalty` must be "
                                    "strictly positive");
    }

    if (p->frequency_penalty < -2 || p->frequency_penalty > 2) {
        return ngx_http_llm_invalid(ctx, "`frequency_penalty` must be >= -2.0 "
                                    "and <= 2.0");
    }

    if (p->presence_penalty < -2 || p->presence_penalty > 2) {
        return ngx_http_llm_invalid(ctx, "`presence_penalty` must be >= -2.0 "
                                    "and <= 2.0");
    }

    if (openai) {
        if (p->top_p < 0 || p->top_p > 1) {
            return ngx_http_llm_invalid(ctx, "`top_p` must be >= 0.0 and "
                                        "<= 1.0");
        }

        if (p->typical_p <= 0 || p->typical_p > 1) {
            return ngx_http_llm_invalid(ctx, "`typical_p` must be > 0.0 and "
                                        "<= 1.0");
        }

    } else {
        if ((p->given & NGX_HTTP_LLM_GIVEN_TOP_P)
            && (p->top_p <= 0 || p->top_p >= 1))
        {
            return ngx_http_llm_invalid(ctx, "`top_p` must be > 0.0 and "
                                        "< 1.0");
        }

        if ((p->given & NGX_HTTP_LLM_GIVEN_TYPICAL_P)
            && (p->typical_p <= 0 || p->typical_p >= 1))
        {
            return ngx_http_llm_invalid(ctx, "`typical_p` must be > 0.0 and "
                                        "< 1.0");
        }
    }

    /* OpenAI-style servers take 0 and -1 for "off" */

    if (openai && (p->top_k == 0 || p->top_k == -1)) {
        p->top_k = 0;

    } else if ((p->given & NGX_HTTP_LLM_GIVEN_TOP_K) && p->top_k <= 0) {
        return ngx_http_llm_invalid(ctx, "`top_k` must be strictly positive");
    }

    if (p->min_p < 0 || p->min_p > 1) {
        return ngx_http_llm_invalid(ctx, "`min_p` must be >= 0.0 and <= 1.0");
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_params_top(ngx_http_llm_ctx_t *ctx)
{
    ngx_int_t               max;
    const char             *name;
    ngx_http_llm_params_t  *p;

    p = &ctx->params;
    max = ctx->conf->max_top_n_tokens;

    name = !p->logprobs ? "top_n_tokens"
           : (ctx->route == NGX_HTTP_LLM_COMPLETIONS) ? "logprobs"
                                                      : "top_logprobs";

    if (p->top_n_tokens > (uint64_t) max) {
        return ngx_http_llm_invalid(ctx, "`%s` must be >= 0 and <= %i. "
                                    "Given: %uL", name, max, p->top_n_tokens);
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_llm_params_length(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_prompt_t *prompt, const llm_tokens_t *tokens)
{
    size_t                    n, head, tail, keep;
    int32_t                  *ids;
    uint32_t                 *starts;
    uint64_t                  room, chunk, want;
    ngx_http_llm_params_t    *p;
    ngx_http_llm_loc_conf_t  *conf;

    p = &ctx->params;
    conf = ctx->conf;
    n = tokens->n;

    /* truncation keeps what the post-processor added at both ends */

    head = 0;
    tail = 0;

    if ((ctx->tok_flags & LLM_TOK_ADD_SPECIAL) && !prompt->ids) {

        while (head < n && tokens->stop[head] == 0) {
            head++;
        }

        while (tail < n - head && tokens->stop[n - 1 - tail] == 0) {
            tail++;
        }
    }

    keep = n;

    if ((p->given & NGX_HTTP_LLM_GIVEN_TRUNCATE) && n > p->truncate) {
        keep = p->truncate;
        head = ngx_min(head, keep);
        tail = ngx_min(tail, keep - head);
    }

    room = conf->max_total_tokens;

    if (p->given & NGX_HTTP_LLM_GIVEN_MAX_NEW) {
        want = p->max_new_tokens;

    } else if (conf->default_max_new_tokens) {
        want = conf->default_max_new_tokens;

    } else {
        want = (keep < room) ? room - keep : 1;
    }

    chunk = ngx_min(want, NGX_HTTP_LLM_CHUNK);

    if (keep + chunk > room) {
        return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_CONTEXT_LENGTH,
                                 NGX_HTTP_LLM_INVALID
                                 "`inputs` tokens + `max_new_tokens` must be "
                                 "<= %uL. Given: %uz `inputs` tokens and %uL "
                                 "`max_new_tokens`", room, keep, chunk);
    }

    if (keep > (size_t) conf->max_input_tokens) {
        return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_CONTEXT_LENGTH,
                                 NGX_HTTP_LLM_INVALID
                                 "`inputs` must have less than %i tokens. "
                                 "Given: %uz", conf->max_input_tokens, keep);
    }

    if (keep == 0) {
        return ngx_http_llm_invalid(ctx, "`inputs` cannot be empty");
    }

    ids = ngx_palloc(ctx->request->pool, keep * sizeof(int32_t));
    if (ids == NULL) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    if (keep == n) {
        head = n;
        tail = 0;
    }

    ngx_memcpy(ids, tokens->ids, head * sizeof(int32_t));
    ngx_memcpy(ids + head, tokens->ids + n - (keep - head),
               (keep - head) * sizeof(int32_t));

    prompt->tokens = ids;
    prompt->n_tokens = keep;
    prompt->max_new = ngx_min(want, room - keep);

    if (!p->decoder_input_details) {
        return NGX_OK;
    }

    starts = ngx_palloc(ctx->request->pool, keep * sizeof(uint32_t));
    if (starts == NULL) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    ngx_memcpy(starts, tokens->start, head * sizeof(uint32_t));
    ngx_memcpy(starts + head, tokens->start + n - (keep - head),
               (keep - head) * sizeof(uint32_t));

    prompt->starts = starts;

    return NGX_OK;
}


void
ngx_http_llm_params_sampling(ngx_http_llm_ctx_t *ctx, ngx_uint_t i,
    llm_sampling_t *out)
{
    ngx_http_llm_params_t  *p;

    p = &ctx->params;

    llm_sampling_init(out);

    out->sample = p->sampling;
    out->seed = (p->given & NGX_HTTP_LLM_GIVEN_SEED)
                ? p->seed + i : ngx_http_llm_params_random();
    out->temperature = p->temperature;
    out->top_k = p->top_k;
    out->top_p = p->top_p;
    out->typical_p = p->typical_p;
    out->min_p = p->min_p;
    out->repetition_penalty = p->repetition_penalty;
    out->frequency_penalty = p->frequency_penalty;
    out->presence_penalty = p->presence_penalty;
    out->openai_penalties = (ctx->codec->format == NGX_HTTP_LLM_FORMAT_OPENAI);
    out->ignore_eos = p->ignore_eos;
    out->min_tokens = ngx_min(p->min_tokens, UINT32_MAX);
    out->bias = p->bias;
    out->n_bias = p->n_bias;

    if (p->watermark) {
        out->watermark_gamma = ctx->conf->watermark->gamma;
        out->watermark_delta = ctx->conf->watermark->delta;
    }
}


/* ngx_random() has 31 bits */

static uint64_t
ngx_http_llm_params_random(void)
{
    return ((uint64_t) ngx_random() << 42) ^ ((uint64_t) ngx_random() << 21)
           ^ (uint64_t) ngx_random();
}
