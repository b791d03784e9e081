/*
 * ngx_http_llm_metrics.c - counters, their exposition, and log variables.
 *
 * Names are those of the reference server; a request is counted once, when
 * it ends.  What the engine counts (steps, pages, leaders) is read from its
 * arena at the moment of the scrape.
 */
#include "ngx_http_llm_metrics.h"


typedef struct {
    ngx_str_t                  name;
    ngx_http_get_variable_pt   handler;
    uintptr_t                  data;
} ngx_http_llm_variable_t;


static ngx_http_llm_err_e ngx_http_llm_metrics_err(ngx_http_llm_fault_e f);
static void ngx_http_llm_metrics_time(ngx_http_llm_stats_t *stats,
    ngx_http_llm_time_e i, uint64_t ns);
static void ngx_http_llm_metrics_length(ngx_http_llm_stats_t *stats,
    ngx_http_llm_length_e i, ngx_uint_t value);
static ngx_uint_t ngx_http_llm_metrics_bound(ngx_uint_t limit, ngx_uint_t k);
static void ngx_http_llm_metrics_requests(ngx_http_llm_buf_t *b,
    ngx_array_t *models);
static void ngx_http_llm_metrics_times(ngx_http_llm_buf_t *b,
    ngx_array_t *models);
static void ngx_http_llm_metrics_lengths(ngx_http_llm_buf_t *b,
    ngx_array_t *models);
static void ngx_http_llm_metrics_engine(ngx_http_llm_buf_t *b,
    ngx_array_t *models);
static uint64_t ngx_http_llm_metrics_value(llm_stats_t *s, ngx_uint_t i);
static void ngx_http_llm_metrics_drafts(ngx_http_llm_buf_t *b,
    ngx_array_t *models);
static void ngx_http_llm_metrics_type(ngx_http_llm_buf_t *b,
    const char *name, const char *type);
static ngx_int_t ngx_http_llm_variable_model(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_llm_variable_count(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_llm_variable_time(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_llm_variable_reason(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);


static const char  *ngx_http_llm_err_names[] = {
    "validation", "overloaded", "generation", "incomplete", "template",
    "dropped", "filtered", "hook"
};


static const char  *ngx_http_llm_time_names[] = {
    "tgi_request_duration",
    "tgi_request_validation_duration",
    "tgi_request_queue_duration",
    "tgi_request_inference_duration",
    "tgi_request_mean_time_per_token_duration",
    "llm_request_first_token_duration"
};


static const char  *ngx_http_llm_length_names[] = {
    "tgi_request_input_length",
    "tgi_request_max_new_tokens",
    "tgi_request_generated_tokens"
};


static const struct {
    const char  *name;
    const char  *type;
} ngx_http_llm_engine_names[] = {
    { "tgi_queue_size", "gauge" },
    { "tgi_batch_current_size", "gauge" },
    { "tgi_batch_current_max_tokens", "gauge" },
    { "tgi_batch_max_total_tokens", "gauge" },
    { "llm_slots", "gauge" },
    { "llm_slots_used", "gauge" },
    { "llm_workers", "gauge" },
    { "llm_leader_pid", "gauge" },
    { "llm_pages_total", "gauge" },
    { "llm_pages_free", "gauge" },
    { "llm_pages_cached", "gauge" },
    { "llm_page_tokens", "gauge" },
    { "llm_engine_steps", "counter" },
    { "llm_engine_prefill_tokens", "counter" },
    { "llm_engine_cached_tokens", "counter" },
    { "llm_engine_decode_tokens", "counter" },
    { "llm_engine_preemptions", "counter" },
    { "llm_engine_takeovers", "counter" },
    { "llm_engine_prefill_seconds", "counter" },
    { "llm_engine_decode_seconds", "counter" },
    { "llm_engine_last_step_age_seconds", "gauge" }
};


/* 0.0001 * 1.5^k seconds, in microseconds */

static const double  ngx_http_llm_time_bounds[] = {
    150, 225, 337.5, 506.25, 759.375, 1139.0625, 1708.59375, 2562.890625,
    3844.3359375, 5766.50390625, 8649.755859375, 12974.6337890625,
    19461.95068359375, 29192.926025390625, 43789.38903808594,
    65684.0835571289, 98526.12533569336, 147789.18800354004,
    221683.78200531006, 332525.6730079651, 498788.5095119476,
    748182.7642679215, 1122274.1464018822, 1683411.2196028233,
    2525116.829404235, 3787675.2441063526, 5681512.866159529,
    8522269.299239293, 12783403.94885894, 19175105.92328841,
    28762658.884932615, 43143988.32739892, 64715982.49109838,
    97073973.73664758, 145610960.60497137
};


static const ngx_http_llm_variable_t  ngx_http_llm_variables[] = {
    { ngx_string("llm_model"), ngx_http_llm_variable_model, 0 },
    { ngx_string("llm_prompt_tokens"), ngx_http_llm_variable_count, 0 },
    { ngx_string("llm_cached_tokens"), ngx_http_llm_variable_count, 1 },
    { ngx_string("llm_generated_tokens"), ngx_http_llm_variable_count, 2 },
    { ngx_string("llm_queue_time"), ngx_http_llm_variable_time, 0 },
    { ngx_string("llm_first_token_time"), ngx_http_llm_variable_time, 1 },
    { ngx_string("llm_finish_reason"), ngx_http_llm_variable_reason, 0 },
    { ngx_null_string, NULL, 0 }
};


/* --------------------------------------------------------------- counting */

void
ngx_http_llm_metrics_count(ngx_http_llm_ctx_t *ctx)
{
    uint64_t               now;
    ngx_uint_t             i, done;
    ngx_http_llm_stats_t  *stats;

    stats = ctx->model->stats;
    now = ngx_http_llm_now();

    (void) ngx_atomic_fetch_add(&stats->requests, 1);

    done = (ctx->sequences != NULL);

    for (i = 0; done && i < ctx->n_sequences; i++) {
        done = ctx->sequences[i].done;
    }

    if (ctx->error.fault != NGX_HTTP_LLM_OK) {
        i = ngx_http_llm_metrics_err(ctx->error.fault);
        (void) ngx_atomic_fetch_add(&stats->failure[i], 1);

    } else if (!done) {
        (void) ngx_atomic_fetch_add(
                          &stats->failure[NGX_HTTP_LLM_ERR_DROPPED], 1);

    } else {
        (void) ngx_atomic_fetch_add(&stats->success, 1);
    }

    if (ctx->queued_ns) {
        (void) ngx_atomic_fetch_add(&stats->prompt_tokens, ctx->n_tokens);
        (void) ngx_atomic_fetch_add(&stats->cached_tokens, ctx->n_cached);
        (void) ngx_atomic_fetch_add(&stats->generated_tokens,
                                    ctx->n_generated);

        ngx_http_llm_metrics_length(stats, NGX_HTTP_LLM_LENGTH_INPUT,
                                    ctx->n_tokens);
        ngx_http_llm_metrics_length(stats, NGX_HTTP_LLM_LENGTH_MAX_NEW,
                                    ctx->max_new);
        ngx_http_llm_metrics_time(stats, NGX_HTTP_LLM_TIME_VALIDATION,
                                  ctx->queued_ns - ctx->start_ns);
    }

    if (ctx->first_ns > ctx->start_ns) {
        ngx_http_llm_metrics_time(stats, NGX_HTTP_LLM_TIME_FIRST,
                                  ctx->first_ns - ctx->start_ns);
    }

    if (!done || ctx->error.fault != NGX_HTTP_LLM_OK) {
        return;
    }

    ngx_http_llm_metrics_length(stats, NGX_HTTP_LLM_LENGTH_GENERATED,
                                ctx->n_generated);
    ngx_http_llm_metrics_time(stats, NGX_HTTP_LLM_TIME_TOTAL,
                              now - ctx->start_ns);

    if (ctx->started_ns > ctx->queued_ns) {
        ngx_http_llm_metrics_time(stats, NGX_HTTP_LLM_TIME_QUEUE,
                                  ctx->started_ns - ctx->queued_ns);
    }

    if (ctx->started_ns && ctx->last_ns > ctx->started_ns) {
        now = ctx->last_ns - ctx->started_ns;
        ngx_http_llm_metrics_time(stats, NGX_HTTP_LLM_TIME_INFERENCE, now);
        ngx_http_llm_metrics_time(stats, NGX_HTTP_LLM_TIME_PER_TOKEN,
                                  now / ngx_max(ctx->n_generated, 1));
    }
}


static ngx_http_llm_err_e
ngx_http_llm_metrics_err(ngx_http_llm_fault_e fault)
{
    switch (fault) {

    case NGX_HTTP_LLM_OVERLOADED:
        return NGX_HTTP_LLM_ERR_OVERLOADED;

    case NGX_HTTP_LLM_GENERATION:
    case NGX_HTTP_LLM_INTERNAL:
        return NGX_HTTP_LLM_ERR_GENERATION;

    case NGX_HTTP_LLM_INCOMPLETE:
        return NGX_HTTP_LLM_ERR_INCOMPLETE;

    case NGX_HTTP_LLM_TEMPLATE:
        return NGX_HTTP_LLM_ERR_TEMPLATE;

    case NGX_HTTP_LLM_FILTERED:
        return NGX_HTTP_LLM_ERR_FILTERED;

    case NGX_HTTP_LLM_HOOK_FAILED:
        return NGX_HTTP_LLM_ERR_HOOK;

    default:
        return NGX_HTTP_LLM_ERR_VALIDATION;
    }
}


static void
ngx_http_llm_metrics_time(ngx_http_llm_stats_t *stats, ngx_http_llm_time_e t,
    uint64_t ns)
{
    double       us;
    ngx_uint_t   i;

    us = (double) ns / 1000;

    for (i = 0; i < NGX_HTTP_LLM_TIME_BUCKETS; i++) {
        if (us <= ngx_http_llm_time_bounds[i]) {
            break;
        }
    }

    (void) ngx_atomic_fetch_add(&stats->time[t].bucket[i], 1);
    (void) ngx_atomic_fetch_add(&stats->time[t].sum_us, ns / 1000);
}


static void
ngx_http_llm_metrics_length(ngx_http_llm_stats_t *stats,
    ngx_http_llm_length_e l, ngx_uint_t value)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_LLM_LENGTH_BUCKETS; i++) {
        if (value <= ngx_http_llm_metrics_bound(stats->limit, i + 1)) {
            break;
        }
    }

    (void) ngx_atomic_fetch_add(&stats->length[l].bucket[i], 1);
    (void) ngx_atomic_fetch_add(&stats->length[l].sum, value);
}


static ngx_uint_t
ngx_http_llm_metrics_bound(ngx_uint_t limit, ngx_uint_t k)
{
    return limit * k / NGX_HTTP_LLM_LENGTH_BUCKETS;
}


/* ------------------------------------------------------------- exposition */

#define ngx_http_llm_metrics_each(models, m, i)                               \
    for (i = 0;                                                               \
         i < (models)->nelts                                                  \
         && (m = ((ngx_http_llm_model_t **) (models)->elts)[i]);              \
         i++)


void
ngx_http_llm_metrics_write(ngx_http_llm_ctx_t *ctx)
{
    ngx_http_llm_main_conf_t  *lmcf;

    lmcf = ngx_http_get_module_main_conf(ctx->request, ngx_http_llm_module);

    ngx_http_llm_metrics_requests(&ctx->out, &lmcf->models);
    ngx_http_llm_metrics_times(&ctx->out, &lmcf->models);
    ngx_http_llm_metrics_lengths(&ctx->out, &lmcf->models);
    ngx_http_llm_metrics_engine(&ctx->out, &lmcf->models);
    ngx_http_llm_metrics_drafts(&ctx->out, &lmcf->models);
}


static void
ngx_http_llm_metrics_type(ngx_http_llm_buf_t *b, const char *name,
    const char *type)
{
    ngx_http_llm_buf_printf(b, "# TYPE %s %s\n", name, type);
}


static void
ngx_http_llm_metrics_requests(ngx_http_llm_buf_t *b, ngx_array_t *models)
{
    size_t                 k;
    ngx_uint_t             i, j;
    ngx_http_llm_model_t  *m;

    static const struct {
        const char  *name;
        size_t       offset;
    } counters[] = {
        { "tgi_request_count", offsetof(ngx_http_llm_stats_t, requests) },
        { "tgi_request_success", offsetof(ngx_http_llm_stats_t, success) },
        { "llm_prompt_tokens",
          offsetof(ngx_http_llm_stats_t, prompt_tokens) },
        { "llm_cached_tokens",
          offsetof(ngx_http_llm_stats_t, cached_tokens) },
        { "llm_generated_tokens",
          offsetof(ngx_http_llm_stats_t, generated_tokens) }
    };

    for (k = 0; k < sizeof(counters) / sizeof(counters[0]); k++) {

        ngx_http_llm_metrics_type(b, counters[k].name, "counter");

        ngx_http_llm_metrics_each(models, m, i) {
            ngx_http_llm_buf_printf(b, "%s{model=\"%V\"} %uA\n",
                          counters[k].name, &m->name,
                          *(ngx_atomic_t *) ((u_char *) m->stats
                                             + counters[k].offset));
        }
    }

    ngx_http_llm_metrics_type(b, "tgi_request_failure", "counter");

    ngx_http_llm_metrics_each(models, m, i) {
        for (j = 0; j < NGX_HTTP_LLM_ERR_N; j++) {
            ngx_http_llm_buf_printf(b, "tgi_request_failure{model=\"%V\","
                                    "err=\"%s\"} %uA\n", &m->name,
                                    ngx_http_llm_err_names[j],
                                    m->stats->failure[j]);
        }
    }
}


static void
ngx_http_llm_metrics_times(ngx_http_llm_buf_t *b, ngx_array_t *models)
{
    const char                     *name;
    ngx_uint_t                      i, j, t;
    ngx_atomic_uint_t               n;
    ngx_http_llm_model_t           *m;
    ngx_http_llm_time_histogram_t  *h;

    for (t = 0; t < NGX_HTTP_LLM_TIME_N; t++) {
        name = ngx_http_llm_time_names[t];

        ngx_http_llm_metrics_type(b, name, "histogram");

        ngx_http_llm_metrics_each(models, m, i) {
            h = &m->stats->time[t];
            n = 0;

            for (j = 0; j < NGX_HTTP_LLM_TIME_BUCKETS; j++) {
                n += h->bucket[j];
                ngx_http_llm_buf_printf(b, "%s_bucket{model=\"%V\",le=\"%.9f\""
                                        "} %uA\n", name, &m->name,
                                        ngx_http_llm_time_bounds[j] / 1e6, n);
            }

            n += h->bucket[j];

            ngx_http_llm_buf_printf(b, "%s_bucket{model=\"%V\",le=\"+Inf\"} "
                                    "%uA\n%s_sum{model=\"%V\"} %uA.%06uA\n"
                                    "%s_count{model=\"%V\"} %uA\n",
                                    name, &m->name, n,
                                    name, &m->name, h->sum_us / 1000000,
                                    h->sum_us % 1000000, name, &m->name, n);
        }
    }
}


static void
ngx_http_llm_metrics_lengths(ngx_http_llm_buf_t *b, ngx_array_t *models)
{
    const char                       *name;
    ngx_uint_t                        i, j, l;
    ngx_atomic_uint_t                 n;
    ngx_http_llm_model_t             *m;
    ngx_http_llm_length_histogram_t  *h;

    for (l = 0; l < NGX_HTTP_LLM_LENGTH_N; l++) {
        name = ngx_http_llm_length_names[l];

        ngx_http_llm_metrics_type(b, name, "histogram");

        ngx_http_llm_metrics_each(models, m, i) {
            h = &m->stats->length[l];
            n = 0;

            for (j = 0; j < NGX_HTTP_LLM_LENGTH_BUCKETS; j++) {
                n += h->bucket[j];
                ngx_http_llm_buf_printf(b, "%s_bucket{model=\"%V\",le=\"%ui\"}"
                                        " %uA\n", name, &m->name,
                                        ngx_http_llm_metrics_bound(
                                                   m->stats->limit, j + 1),
                                        n);
            }

            n += h->bucket[j];

            ngx_http_llm_buf_printf(b, "%s_bucket{model=\"%V\",le=\"+Inf\"} "
                                    "%uA\n%s_sum{model=\"%V\"} %uA\n"
                                    "%s_count{model=\"%V\"} %uA\n",
                                    name, &m->name, n, name, &m->name,
                                    h->sum, name, &m->name, n);
        }
    }
}


static void
ngx_http_llm_metrics_engine(ngx_http_llm_buf_t *b, ngx_array_t *models)
{
    size_t                 k;
    ngx_uint_t             i;
    llm_stats_t            stats;
    const char            *name;
    ngx_http_llm_model_t  *m;

    for (k = 0;
         k < sizeof(ngx_http_llm_engine_names)
             / sizeof(ngx_http_llm_engine_names[0]);
         k++)
    {
        name = ngx_http_llm_engine_names[k].name;

        ngx_http_llm_metrics_type(b, name, ngx_http_llm_engine_names[k].type);

        ngx_http_llm_metrics_each(models, m, i) {
            llm_engine_stats(m->instance->engine, &stats);

            /* the last three are times */

            if (k + 3 < sizeof(ngx_http_llm_engine_names)
                        / sizeof(ngx_http_llm_engine_names[0]))
            {
                ngx_http_llm_buf_printf(b, "%s{model=\"%V\"} %uL\n", name,
                                        &m->name,
                                        ngx_http_llm_metrics_value(&stats, k));

            } else {
                ngx_http_llm_buf_printf(b, "%s{model=\"%V\"} %.6f\n", name,
                                        &m->name,
                                        ngx_http_llm_metrics_value(&stats, k)
                                        / 1e9);
            }
        }
    }
}


static void
ngx_http_llm_metrics_drafts(ngx_http_llm_buf_t *b, ngx_array_t *models)
{
    ngx_uint_t             i, k;
    llm_stats_t            stats;
    ngx_http_llm_model_t  *m;

    static const char  *kinds[LLM_DRAFT_KINDS] = { "lookup", "model",
                                                    "grammar" };

    ngx_http_llm_metrics_type(b, "llm_engine_draft_tokens", "counter");

    ngx_http_llm_metrics_each(models, m, i) {
        llm_engine_stats(m->instance->engine, &stats);

        for (k = 0; k < LLM_DRAFT_KINDS; k++) {
            ngx_http_llm_buf_printf(b,
                          "llm_engine_draft_tokens{model=\"%V\",kind=\"%s\","
                          "result=\"kept\"} %uL\n"
                          "llm_engine_draft_tokens{model=\"%V\",kind=\"%s\","
                          "result=\"dropped\"} %uL\n",
                          &m->name, kinds[k], stats.n_kept[k],
                          &m->name, kinds[k],
                          stats.n_drafted[k] - stats.n_kept[k]);
        }
    }
}


/* in the order of ngx_http_llm_engine_names; times in nanoseconds */

static uint64_t
ngx_http_llm_metrics_value(llm_stats_t *s, ngx_uint_t i)
{
    uint64_t  unused, values[] = {
        s->n_waiting, s->n_running, 0,
        (uint64_t) s->pages_total * s->page_tokens, s->n_slots, s->n_used,
        s->n_workers, s->leader_pid > 0 ? s->leader_pid : 0, s->pages_total,
        s->pages_free, s->pages_cached, s->page_tokens, s->n_steps,
        s->n_prefill_tokens, s->n_cached_tokens, s->n_decode_tokens,
        s->n_preemptions, s->n_takeovers, s->prefill_ns, s->decode_ns,
        s->last_step_age_ms * 1000000
    };

    unused = (uint64_t) s->pages_free + s->pages_cached;
    values[2] = (s->pages_total - ngx_min(unused, s->pages_total))
                * (uint64_t) s->page_tokens;

    return values[i];
}


/* -------------------------------------------------------------- variables */

ngx_int_t
ngx_http_llm_metrics_variables(ngx_conf_t *cf)
{
    ngx_str_t                       name;
    ngx_http_variable_t            *var;
    const ngx_http_llm_variable_t  *v;

    for (v = ngx_http_llm_variables; v->name.len; v++) {
        name = v->name;

        var = ngx_http_add_variable(cf, &name, NGX_HTTP_VAR_NOCACHEABLE);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = v->handler;
        var->data = v->data;
    }

    return NGX_OK;
}


static ngx_http_llm_ctx_t *
ngx_http_llm_variable_ctx(ngx_http_request_t *r, ngx_http_variable_value_t *v)
{
    ngx_http_llm_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_llm_module);

    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = (ctx == NULL);

    return ctx;
}


static ngx_int_t
ngx_http_llm_variable_model(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_llm_ctx_t  *ctx;

    ctx = ngx_http_llm_variable_ctx(r, v);

    if (ctx) {
        v->len = ctx->model->name.len;
        v->data = ctx->model->name.data;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_variable_count(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_uint_t           n;
    ngx_http_llm_ctx_t  *ctx;

    ctx = ngx_http_llm_variable_ctx(r, v);

    if (ctx == NULL || ctx->queued_ns == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    n = (data == 0) ? ctx->n_tokens
                    : (data == 1) ? ctx->n_cached : ctx->n_generated;

    v->data = ngx_pnalloc(r->pool, NGX_INT_T_LEN);
    if (v->data == NULL) {
        return NGX_ERROR;
    }

    v->len = ngx_sprintf(v->data, "%ui", n) - v->data;

    return NGX_OK;
}


/* seconds with milliseconds, as nginx's own times */

static ngx_int_t
ngx_http_llm_variable_time(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    uint64_t             from, to;
    ngx_http_llm_ctx_t  *ctx;

    ctx = ngx_http_llm_variable_ctx(r, v);

    if (ctx == NULL) {
        return NGX_OK;
    }

    from = data ? ctx->start_ns : ctx->queued_ns;
    to = data ? ctx->first_ns : ctx->started_ns;

    if (from == 0 || to == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    to = (to > from) ? (to - from) / 1000000 : 0;

    v->data = ngx_pnalloc(r->pool, NGX_INT64_LEN + 4);
    if (v->data == NULL) {
        return NGX_ERROR;
    }

    v->len = ngx_sprintf(v->data, "%uL.%03uL", to / 1000, to % 1000)
             - v->data;

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_variable_reason(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_uint_t           reason;
    ngx_http_llm_ctx_t  *ctx;

    static ngx_str_t  reasons[] = {
        ngx_string("dropped"), ngx_string("length"), ngx_string("eos_token"),
        ngx_string("stop_sequence"), ngx_string("content_filter")
    };
    static ngx_str_t  error = ngx_string("error");

    ctx = ngx_http_llm_variable_ctx(r, v);

    if (ctx == NULL || !ctx->counted) {
        v->not_found = 1;
        return NGX_OK;
    }

    reason = (ctx->sequences && ctx->sequences[0].done)
             ? ctx->sequences[0].finish : NGX_HTTP_LLM_FINISH_NONE;

    v->len = reasons[reason].len;
    v->data = reasons[reason].data;

    if (ctx->error.fault != NGX_HTTP_LLM_OK) {
        v->len = error.len;
        v->data = error.data;
    }

    return NGX_OK;
}
