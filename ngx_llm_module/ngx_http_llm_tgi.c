/*
 * ngx_http_llm_tgi.c - the native protocol of text-generation-inference.
 *
 * POST /generate, /generate_stream and /.  One event per token; the last one
 * carries the whole text.  Where the output hook has replaced text, the
 * tokens behind it are shown as one token with id 0: their ids would tell
 * what the hook took away.
 */
#include "ngx_http_llm_codec.h"

#include <math.h>


static ngx_int_t ngx_http_llm_tgi_prefill(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s);
static ngx_int_t ngx_http_llm_tgi_decode(ngx_http_llm_ctx_t *ctx,
    json_t *root);
static ngx_int_t ngx_http_llm_tgi_prompt(ngx_http_llm_ctx_t *ctx);
static void ngx_http_llm_tgi_token(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_http_llm_token_t *t, ngx_str_t *text,
    ngx_uint_t last);
static void ngx_http_llm_tgi_reason_json(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s);
static void ngx_http_llm_tgi_lists_json(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_uint_t top);
static void ngx_http_llm_tgi_finish(ngx_http_llm_ctx_t *ctx);


static const ngx_http_llm_field_t  ngx_http_llm_tgi_fields[] = {
    ngx_http_llm_field("best_of", U64, best_of, NGX_HTTP_LLM_GIVEN_BEST_OF),
    ngx_http_llm_field("temperature", F32, temperature,
                       NGX_HTTP_LLM_GIVEN_TEMPERATURE),
    ngx_http_llm_field("repetition_penalty", F32, repetition_penalty, 0),
    ngx_http_llm_field("frequency_penalty", F32, frequency_penalty, 0),
    ngx_http_llm_field("presence_penalty", F32, presence_penalty, 0),
    ngx_http_llm_field("top_k", I32, top_k, NGX_HTTP_LLM_GIVEN_TOP_K),
    ngx_http_llm_field("top_p", F32, top_p, NGX_HTTP_LLM_GIVEN_TOP_P),
    ngx_http_llm_field("typical_p", F32, typical_p,
                       NGX_HTTP_LLM_GIVEN_TYPICAL_P),
    ngx_http_llm_field("min_p", F32, min_p, 0),
    ngx_http_llm_field("do_sample", BOOL, do_sample, 0),
    ngx_http_llm_field("max_new_tokens", U32, max_new_tokens,
                       NGX_HTTP_LLM_GIVEN_MAX_NEW),
    ngx_http_llm_field("min_tokens", U32, min_tokens, 0),
    ngx_http_llm_field("ignore_eos", BOOL, ignore_eos, 0),
    ngx_http_llm_field("return_full_text", BOOL, return_full_text,
                       NGX_HTTP_LLM_GIVEN_FULL_TEXT),
    ngx_http_llm_field("stop_sequences", STOP, stop, 0),
    ngx_http_llm_field("stop", STOP, stop, 0),
    ngx_http_llm_field("truncate", U64, truncate,
                       NGX_HTTP_LLM_GIVEN_TRUNCATE),
    ngx_http_llm_field("watermark", BOOL, watermark, 0),
    ngx_http_llm_field("details", BOOL, details, 0),
    ngx_http_llm_field("decoder_input_details", BOOL, decoder_input_details,
                       0),
    ngx_http_llm_field("seed", SEED, seed, NGX_HTTP_LLM_GIVEN_SEED),
    ngx_http_llm_field("top_n_tokens", U32, top_n_tokens, 0),
    ngx_http_llm_field("skip_special_tokens", BOOL, skip_special_tokens, 0),
    ngx_http_llm_field("logit_bias", BIAS, bias, 0),
    ngx_http_llm_null_field
};


const ngx_http_llm_codec_t  ngx_http_llm_tgi_codec = {
    NGX_HTTP_LLM_FORMAT_TGI,
    1,                              /* length_first */
    1,                              /* keep_stop */
    ngx_http_llm_tgi_decode,
    ngx_http_llm_tgi_prompt,
    ngx_http_llm_tgi_prefill,
    ngx_http_llm_tgi_unit,
    ngx_http_llm_tgi_finish,
    NULL                            /* event_number */
};


static const char  *ngx_http_llm_tgi_reasons[] = {
    "", "length", "eos_token", "stop_sequence", "stop_sequence"
};


static ngx_int_t
ngx_http_llm_tgi_decode(ngx_http_llm_ctx_t *ctx, json_t *root)
{
    json_t                 *inputs, *params;
    ngx_http_llm_params_t  *p;

    p = &ctx->params;

    if (ctx->route == NGX_HTTP_LLM_COMPAT) {

        if (ngx_http_llm_json_flag(ctx, root, "stream", "", &p->stream)
            != NGX_OK)
        {
            return NGX_ERROR;
        }

        p->return_full_text = ctx->conf->return_full_text;

    } else {
        p->stream = (ctx->route == NGX_HTTP_LLM_GENERATE_STREAM);
    }

    inputs = ngx_http_llm_json_get(root, "inputs");

    if (inputs == NULL) {
        return ngx_http_llm_malformed(ctx, "missing field `inputs`");
    }

    if (!json_is_string(inputs)) {
        return ngx_http_llm_json_mismatch(ctx, "", "inputs", inputs,
                                          "a string");
    }

    p->inputs = ngx_http_llm_json_str(inputs);

    params = ngx_http_llm_json_get(root, "parameters");

    if (params == NULL) {
        p->do_sample = 1;
        return NGX_OK;
    }

    if (!json_is_object(params)) {
        return ngx_http_llm_json_mismatch(ctx, "", "parameters", params,
                                          "struct GenerateParameters");
    }

    if (ngx_http_llm_json_fields(ctx, params, ngx_http_llm_tgi_fields,
                                 "parameters.")
        != NGX_OK
        || ngx_http_llm_grammar_decode(ctx, params, "grammar", "parameters.",
                                       0)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_llm_params_adapter(ctx, params, "parameters.");
}


static ngx_int_t
ngx_http_llm_tgi_prompt(ngx_http_llm_ctx_t *ctx)
{
    size_t       len;
    const char  *bos;

    ctx->prompt = ctx->params.inputs;
    ctx->tok_flags = LLM_TOK_ADD_SPECIAL|LLM_TOK_PARSE_SPECIAL;

    if (ctx->hook_prompt.data == NULL) {
        return NGX_OK;
    }

    /* a hook that has used the template has written the BOS token itself */

    ctx->prompt = ctx->hook_prompt;
    bos = llm_model_info(ctx->instance->model)->bos_token;
    len = ngx_strlen(bos);

    if (len && ctx->prompt.len >= len
        && ngx_strncmp(ctx->prompt.data, bos, len) == 0)
    {
        ctx->tok_flags = LLM_TOK_PARSE_SPECIAL;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_tgi_prefill(ngx_http_llm_ctx_t *ctx, ngx_http_llm_sequence_t *s)
{
    if (!ctx->params.decoder_input_details
        || s->n_prefilled == s->prompt->n_tokens)
    {
        return NGX_OK;
    }

    ngx_http_llm_tgi_prompt_token(ctx, s, s->n_prefilled++);

    return NGX_AGAIN;
}


void
ngx_http_llm_tgi_prompt_token(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, uint32_t i)
{
    char                 text[256];
    ngx_str_t            str;
    llm_job_token_t      t;
    ngx_http_llm_buf_t  *b;

    b = &s->prefill;

    llm_job_token(&s->job, i, &t);

    str.data = (u_char *) text;
    str.len = llm_token_text(ctx->instance->model, t.id, text, sizeof(text));

    ngx_http_llm_buf_printf(b, "%s{\"id\":%D,\"text\":", i ? "," : "", t.id);
    ngx_http_llm_buf_json_str(b, &str);
    ngx_http_llm_buf_lit(b, ",\"logprob\":");
    ngx_http_llm_buf_f32(b, t.logprob);
    ngx_http_llm_buf_lit(b, "}");
}


void
ngx_http_llm_tgi_unit(ngx_http_llm_ctx_t *ctx, ngx_http_llm_sequence_t *s,
    ngx_http_llm_unit_t *unit)
{
    ngx_str_t              text;
    ngx_uint_t             i, n;
    ngx_http_llm_token_t   hidden, *t;

    n = unit->n_tokens;
    i = 0;

    if (unit->replaced) {

        /* the end of the text is no secret */

        if (unit->last && n && s->finish == NGX_HTTP_LLM_FINISH_EOS) {
            i = n - 1;

        } else {
            i = n;
        }
    }

    if (unit->replaced || n == 0) {

        if (unit->text.len || (unit->last && i == n)) {
            ngx_memzero(&hidden, sizeof(ngx_http_llm_token_t));
            hidden.hidden = 1;

            ngx_http_llm_tgi_token(ctx, s, &hidden, &unit->text,
                                   unit->last && i == n);
        }
    }

    for ( /* void */ ; i < n; i++) {
        t = &unit->tokens[i];
        text.data = s->raw.data + t->start;
        text.len = t->end - t->start;

        ngx_http_llm_tgi_token(ctx, s, t, &text, unit->last && i == n - 1);
    }
}


static void
ngx_http_llm_tgi_token(ngx_http_llm_ctx_t *ctx, ngx_http_llm_sequence_t *s,
    ngx_http_llm_token_t *t, ngx_str_t *text, ngx_uint_t last)
{
    float                   logprob;
    ngx_http_llm_buf_t     *b;
    ngx_http_llm_params_t  *p;

    p = &ctx->params;
    logprob = t->hidden ? NAN : t->logprob;
    s->n_events++;

    if (!p->stream) {

        if (!p->details && !p->decoder_input_details) {
            return;
        }

        if (s->n_events > 1) {
            ngx_http_llm_buf_lit(&s->json, ",");
        }

        ngx_http_llm_tgi_token_json(&s->json, t->id, text, logprob,
                                    t->special);

        if (p->top_n_tokens) {
            if (s->n_events > 1) {
                ngx_http_llm_buf_lit(&s->top_json, ",");
            }

            ngx_http_llm_tgi_top_json(ctx, &s->top_json, t);
        }

        return;
    }

    b = &ctx->out;

    ngx_http_llm_buf_printf(b, "data: {\"index\":%ui,\"token\":",
                            s->n_events);
    ngx_http_llm_tgi_token_json(b, t->id, text, logprob, t->special);

    if (t->n_top) {
        ngx_http_llm_buf_lit(b, ",\"top_tokens\":");
        ngx_http_llm_tgi_top_json(ctx, b, t);
    }

    ngx_http_llm_tgi_end_json(ctx, s, &ctx->inputs, last);
    ngx_http_llm_buf_lit(b, "}\n\n");
}


void
ngx_http_llm_tgi_end_json(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_str_t *prompt, ngx_uint_t last)
{
    ngx_http_llm_buf_t  *b;

    b = &ctx->out;

    if (!last) {
        ngx_http_llm_buf_lit(b, ",\"generated_text\":null,\"details\":null");
        return;
    }

    ngx_http_llm_buf_lit(b, ",\"generated_text\":");
    ngx_http_llm_tgi_text_json(ctx, s, prompt);
    ngx_http_llm_buf_lit(b, ",\"details\":");

    if (ctx->params.details) {
        ngx_http_llm_buf_lit(b, "{");
        ngx_http_llm_tgi_reason_json(ctx, s);
        ngx_http_llm_buf_printf(b, ",\"input_length\":%uD}",
                                s->prompt->n_tokens);

    } else {
        ngx_http_llm_buf_lit(b, "null");
    }
}


void
ngx_http_llm_tgi_token_json(ngx_http_llm_buf_t *b, int32_t id,
    ngx_str_t *text, float logprob, ngx_uint_t special)
{
    ngx_http_llm_buf_printf(b, "{\"id\":%D,\"text\":", id);
    ngx_http_llm_buf_json_str(b, text);
    ngx_http_llm_buf_lit(b, ",\"logprob\":");
    ngx_http_llm_buf_f32(b, logprob);
    ngx_http_llm_buf_printf(b, ",\"special\":%s}",
                            special ? "true" : "false");
}


void
ngx_http_llm_tgi_top_json(ngx_http_llm_ctx_t *ctx, ngx_http_llm_buf_t *b,
    ngx_http_llm_token_t *t)
{
    char                text[256];
    ngx_str_t           str;
    ngx_uint_t          i;
    const llm_model_t  *model;

    model = ctx->instance->model;

    ngx_http_llm_buf_lit(b, "[");

    for (i = 0; i < t->n_top; i++) {
        str.data = (u_char *) text;
        str.len = llm_token_text(model, t->top[i].id, text, sizeof(text));

        if (i) {
            ngx_http_llm_buf_lit(b, ",");
        }

        ngx_http_llm_tgi_token_json(b, t->top[i].id, &str,
                                    t->top[i].logprob,
                                    llm_token_is_special(model,
                                                         t->top[i].id));
    }

    ngx_http_llm_buf_lit(b, "]");
}


void
ngx_http_llm_tgi_text_json(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_str_t *prompt)
{
    ngx_http_llm_buf_t  text;

    if (!ctx->params.return_full_text) {
        ngx_http_llm_buf_json(&ctx->out, s->out.data, s->out.len);
        return;
    }

    ngx_http_llm_buf_init(&text, ctx->request->pool);
    ngx_http_llm_buf_add(&text, prompt->data, prompt->len);
    ngx_http_llm_buf_add(&text, s->out.data, s->out.len);

    if (text.failed) {
        ctx->out.failed = 1;
        return;
    }

    ngx_http_llm_buf_json(&ctx->out, text.data, text.len);
}


static void
ngx_http_llm_tgi_reason_json(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s)
{
    ngx_http_llm_buf_printf(&ctx->out, "\"finish_reason\":\"%s\","
                            "\"generated_tokens\":%uD,\"seed\":",
                            ngx_http_llm_tgi_reasons[s->finish],
                            s->n_tokens);

    if (ctx->params.sampling) {
        ngx_http_llm_buf_printf(&ctx->out, "%uL", s->seed);

    } else {
        ngx_http_llm_buf_lit(&ctx->out, "null");
    }
}


static void
ngx_http_llm_tgi_lists_json(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_uint_t top)
{
    ngx_http_llm_buf_t  *b;

    b = &ctx->out;

    if (top) {
        if (ctx->params.top_n_tokens) {
            ngx_http_llm_buf_lit(b, ",\"top_tokens\":[");
            ngx_http_llm_buf_add(b, s->top_json.data, s->top_json.len);
            ngx_http_llm_buf_lit(b, "]");
        }

        return;
    }

    ngx_http_llm_buf_lit(b, ",\"prefill\":[");
    ngx_http_llm_buf_add(b, s->prefill.data, s->prefill.len);
    ngx_http_llm_buf_lit(b, "],\"tokens\":[");
    ngx_http_llm_buf_add(b, s->json.data, s->json.len);
    ngx_http_llm_buf_lit(b, "]");
}


void
ngx_http_llm_tgi_details_json(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s)
{
    ngx_http_llm_tgi_reason_json(ctx, s);
    ngx_http_llm_tgi_lists_json(ctx, s, 0);
    ngx_http_llm_tgi_lists_json(ctx, s, 1);
}


ngx_http_llm_sequence_t *
ngx_http_llm_tgi_best(ngx_http_llm_ctx_t *ctx)
{
    double                    mean, best_mean;
    ngx_uint_t                i;
    ngx_http_llm_sequence_t  *s, *best;

    best = NULL;
    best_mean = 0;

    for (i = 0; i < ctx->n_sequences; i++) {
        s = &ctx->sequences[i];
        mean = s->sum_logprob / ngx_max(s->n_tokens, 1);

        if (best == NULL || mean > best_mean) {
            best = s;
            best_mean = mean;
        }
    }

    return best;
}


static void
ngx_http_llm_tgi_finish(ngx_http_llm_ctx_t *ctx)
{
    ngx_uint_t                i, n;
    ngx_http_llm_buf_t       *b;
    ngx_http_llm_params_t    *p;
    ngx_http_llm_sequence_t  *s, *best;

    p = &ctx->params;
    b = &ctx->out;

    if (p->stream) {
        return;
    }

    best = ngx_http_llm_tgi_best(ctx);

    if (ctx->route == NGX_HTTP_LLM_COMPAT) {
        ngx_http_llm_buf_lit(b, "[");
    }

    ngx_http_llm_buf_lit(b, "{\"generated_text\":");
    ngx_http_llm_tgi_text_json(ctx, best, &ctx->inputs);

    if (p->details || p->decoder_input_details) {
        ngx_http_llm_buf_lit(b, ",\"details\":{");
        ngx_http_llm_tgi_reason_json(ctx, best);
        ngx_http_llm_tgi_lists_json(ctx, best, 0);

        if (ctx->n_sequences > 1) {
            ngx_http_llm_buf_lit(b, ",\"best_of_sequences\":[");

            for (i = 0, n = 0; i < ctx->n_sequences; i++) {
                s = &ctx->sequences[i];

                if (s == best) {
                    continue;
                }

                if (n++) {
                    ngx_http_llm_buf_lit(b, ",");
                }

                ngx_http_llm_buf_lit(b, "{\"generated_text\":");
                ngx_http_llm_tgi_text_json(ctx, s, &ctx->inputs);
                ngx_http_llm_buf_lit(b, ",");
                ngx_http_llm_tgi_details_json(ctx, s);
                ngx_http_llm_buf_lit(b, "}");
            }

            ngx_http_llm_buf_lit(b, "]");
        }

        ngx_http_llm_tgi_lists_json(ctx, best, 1);
        ngx_http_llm_buf_lit(b, "}");
    }

    ngx_http_llm_buf_lit(b, "}");

    if (ctx->route == NGX_HTTP_LLM_COMPAT) {
        ngx_http_llm_buf_lit(b, "]");
    }
}
