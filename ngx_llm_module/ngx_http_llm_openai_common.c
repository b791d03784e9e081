/*
 * ngx_http_llm_openai_common.c - what both OpenAI routes have in common.
 *
 * Of bodies: sampling, limits, streams, the form of the output; what only
 * one route knows is read by its own code afterwards.  Of answers: the first
 * fields, usage, reasons, numbers.
 */
#include "ngx_http_llm_codec.h"

#include <math.h>


static ngx_int_t ngx_http_llm_openai_common_stream(ngx_http_llm_ctx_t *ctx,
    json_t *root);


static const ngx_http_llm_field_t  ngx_http_llm_openai_common_fields[] = {
    ngx_http_llm_field("model", STRING, model, 0),
    ngx_http_llm_field("stream", BOOL, stream, 0),
    ngx_http_llm_field("max_new_tokens", COUNT, max_new_tokens,
                       NGX_HTTP_LLM_GIVEN_MAX_NEW),
    ngx_http_llm_field("max_tokens", COUNT, max_new_tokens,
                       NGX_HTTP_LLM_GIVEN_MAX_NEW),
    ngx_http_llm_field("temperature", F32, temperature,
                       NGX_HTTP_LLM_GIVEN_TEMPERATURE),
    ngx_http_llm_field("top_p", F32, top_p, NGX_HTTP_LLM_GIVEN_TOP_P),
    ngx_http_llm_field("top_k", I32, top_k, NGX_HTTP_LLM_GIVEN_TOP_K),
    ngx_http_llm_field("typical_p", F32, typical_p,
                       NGX_HTTP_LLM_GIVEN_TYPICAL_P),
    ngx_http_llm_field("min_p", F32, min_p, 0),
    ngx_http_llm_field("do_sample", BOOL, do_sample, 0),
    ngx_http_llm_field("frequency_penalty", F32, frequency_penalty, 0),
    ngx_http_llm_field("presence_penalty", F32, presence_penalty, 0),
    ngx_http_llm_field("repetition_penalty", F32, repetition_penalty, 0),
    ngx_http_llm_field("stop", STOP, stop, 0),
    ngx_http_llm_field("seed", SIGNED_SEED, seed, NGX_HTTP_LLM_GIVEN_SEED),
    ngx_http_llm_field("n", U32, n, NGX_HTTP_LLM_GIVEN_N),
    ngx_http_llm_field("truncate", U64, truncate,
                       NGX_HTTP_LLM_GIVEN_TRUNCATE),
    ngx_http_llm_field("watermark", BOOL, watermark, 0),
    ngx_http_llm_field("ignore_eos", BOOL, ignore_eos, 0),
    ngx_http_llm_field("min_tokens", U32, min_tokens, 0),
    ngx_http_llm_field("skip_special_tokens", BOOL, skip_special_tokens, 0),
    ngx_http_llm_field("include_stop_str_in_output", BOOL, include_stop, 0),
    ngx_http_llm_null_field
};


ngx_int_t
ngx_http_llm_openai_body(ngx_http_llm_ctx_t *ctx, json_t *root)
{
    ctx->params.do_sample = 1;

    if (ngx_http_llm_json_fields(ctx, root, ngx_http_llm_openai_common_fields,
                                 "")
        != NGX_OK
        || ngx_http_llm_openai_common_stream(ctx, root) != NGX_OK
        || ngx_http_llm_grammar_decode(ctx, root, "grammar", "", 1) != NGX_OK
        || ngx_http_llm_grammar_decode(ctx, root, "response_format", "", 1)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_llm_params_adapter(ctx, root, "");
}


static ngx_int_t
ngx_http_llm_openai_common_stream(ngx_http_llm_ctx_t *ctx, json_t *root)
{
    json_t                 *options;
    ngx_http_llm_params_t  *p;

    p = &ctx->params;

    /* the one client that sends this key wants the role in every chunk */

    p->repeat_role = (json_object_get(root, "tool_prompt") != NULL);

    options = ngx_http_llm_json_get(root, "stream_options");

    if (options == NULL) {
        return NGX_OK;
    }

    if (!json_is_object(options)) {
        return ngx_http_llm_json_mismatch(ctx, "", "stream_options", options,
                                          "struct StreamOptions");
    }

    if (ngx_http_llm_json_flag(ctx, options, "include_usage",
                               "stream_options.", &p->include_usage)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_llm_json_flag(ctx, options, "continuous_usage_stats",
                                  "stream_options.", &p->continuous_usage);
}


ngx_uint_t
ngx_http_llm_openai_ended(ngx_http_llm_sequence_t *s)
{
    return s->finish == NGX_HTTP_LLM_FINISH_EOS
           || s->finish == NGX_HTTP_LLM_FINISH_STOP;
}


const char *
ngx_http_llm_openai_reason(ngx_http_llm_sequence_t *s)
{
    static const char  *reasons[] = {
        "", "length", "stop", "stop", "content_filter"
    };

    return reasons[s->finish];
}


void
ngx_http_llm_openai_id(ngx_http_llm_ctx_t *ctx, ngx_http_llm_buf_t *b)
{
    if (ctx->request_id.len) {
        ngx_http_llm_buf_add(b, ctx->request_id.data, ctx->request_id.len);

    } else {
        ngx_http_llm_buf_printf(b, "%016xL", ctx->start_ns);
    }
}


void
ngx_http_llm_openai_head(ngx_http_llm_ctx_t *ctx, const char *object,
    const char *id, ngx_str_t *model)
{
    ngx_http_llm_buf_t  *b;

    b = &ctx->out;

    ngx_http_llm_buf_printf(b, "{\"object\":\"%s\",\"id\":\"%s-", object,
                            id);

    ngx_http_llm_openai_id(ctx, b);
    ngx_http_llm_buf_printf(b, "\",\"created\":%T,\"model\":",
                            ctx->request->start_sec);
    ngx_http_llm_buf_json_str(b, model);
    ngx_http_llm_buf_lit(b, ",\"system_fingerprint\":\"" LLM_VERSION
                         "-native\",\"choices\":[");
}


void
ngx_http_llm_openai_usage(ngx_http_llm_ctx_t *ctx, ngx_http_llm_sequence_t *s)
{
    uint32_t     prompt, generated, cached;
    ngx_uint_t   i;

    prompt = s ? s->prompt->n_tokens : ctx->n_tokens;
    generated = s ? s->n_tokens : 0;
    cached = s ? s->view.n_cached : 0;

    for (i = 0; s == NULL && i < ctx->n_sequences; i++) {
        generated += ctx->sequences[i].n_tokens;
        cached = ngx_max(cached, ctx->sequences[i].view.n_cached);
    }

    ngx_http_llm_buf_printf(&ctx->out, "{\"prompt_tokens\":%uD,"
                            "\"completion_tokens\":%uD,\"total_tokens\":%uD,"
                            "\"prompt_tokens_details\":"
                            "{\"cached_tokens\":%uD}}",
                            prompt, generated, prompt + generated, cached);
}


void
ngx_http_llm_openai_number(ngx_http_llm_buf_t *b, float logprob)
{
    if (isfinite(logprob)) {
        ngx_http_llm_buf_f32(b, logprob);

    } else {
        ngx_http_llm_buf_lit(b, "-9999.0");
    }
}
