/*
 * ngx_http_llm_web.c - what describes this API: an OpenAPI document and a
 * page to read and try it.
 *
 * Both are files of web/, which web/embed.sh puts into the binary.  In the
 * document the strings "$name" stand for values of the location: with a
 * table of them the text is copied around the values, so the file itself is
 * JSON and nothing is parsed here.
 */
#include "ngx_http_llm_request.h"
#include "ngx_http_llm_web_files.h"


typedef struct {
    ngx_str_t                  name;        /* with its quotes */
    size_t                     offset;      /* in the location's conf */
} ngx_http_llm_web_number_t;


static ngx_uint_t ngx_http_llm_web_value(ngx_http_llm_ctx_t *ctx,
    const u_char *p, size_t len);
static void ngx_http_llm_web_server(ngx_http_llm_ctx_t *ctx);


#define ngx_http_llm_web_number(member)                                       \
    { ngx_string("\"$" #member "\""),                                         \
      offsetof(ngx_http_llm_loc_conf_t, member) }

#define ngx_http_llm_web_is(p, len, name)                                     \
    (len == sizeof("\"$" name "\"") - 1                                       \
     && ngx_strncmp(p, "\"$" name "\"", len) == 0)


static const ngx_http_llm_web_number_t  ngx_http_llm_web_numbers[] = {
    ngx_http_llm_web_number(max_best_of),
    ngx_http_llm_web_number(max_stop_sequences),
    ngx_http_llm_web_number(max_top_n_tokens),
    ngx_http_llm_web_number(max_client_batch_size),
    ngx_http_llm_web_number(max_input_tokens),
    { ngx_null_string, 0 }
};


void
ngx_http_llm_web_openapi(ngx_http_llm_ctx_t *ctx)
{
    const u_char  *p, *last, *end, *copied;

    p = ngx_http_llm_web_openapi_json;
    last = p + sizeof(ngx_http_llm_web_openapi_json);
    copied = p;

    while (last - p > 2) {

        if (p[0] != '"' || p[1] != '$') {
            p++;
            continue;
        }

        end = memchr(p + 2, '"', last - (p + 2));

        if (end == NULL) {
            break;
        }

        end++;

        ngx_http_llm_buf_add(&ctx->out, copied, p - copied);

        copied = ngx_http_llm_web_value(ctx, p, end - p) ? end : p;
        p = end;
    }

    ngx_http_llm_buf_add(&ctx->out, copied, last - copied);
}


/* what a name stands for, to ctx->out; 0: it is none of ours */

static ngx_uint_t
ngx_http_llm_web_value(ngx_http_llm_ctx_t *ctx, const u_char *p, size_t len)
{
    ngx_uint_t                         format;
    ngx_http_llm_buf_t                *b;
    const ngx_http_llm_web_number_t   *n;

    b = &ctx->out;
    format = ctx->conf->error_format;

    for (n = ngx_http_llm_web_numbers; n->name.len; n++) {

        if (n->name.len == len && ngx_strncmp(n->name.data, p, len) == 0) {
            ngx_http_llm_buf_printf(b, "%i",
                                    *(ngx_int_t *) ((u_char *) ctx->conf
                                                    + n->offset));
            return 1;
        }
    }

    if (ngx_http_llm_web_is(p, len, "last_token_id")) {
        ngx_http_llm_buf_printf(b, "%uD",
                            llm_model_info(ctx->instance->model)->n_vocab - 1);

    } else if (ngx_http_llm_web_is(p, len, "n_embd")) {
        ngx_http_llm_buf_printf(b, "%uD",
                                llm_model_info(ctx->instance->model)->n_embd);

    } else if (ngx_http_llm_web_is(p, len, "version")) {
        ngx_http_llm_buf_lit(b, "\"" LLM_VERSION "\"");

    } else if (ngx_http_llm_web_is(p, len, "model_id")) {
        ngx_http_llm_buf_json_str(b, ngx_http_llm_model_id(ctx));

    } else if (ngx_http_llm_web_is(p, len, "server")) {
        ngx_http_llm_web_server(ctx);

    } else if (ngx_http_llm_web_is(p, len, "native_error")) {
        ngx_http_llm_buf_printf(b, "\"#/components/schemas/%s\"",
                                format == NGX_HTTP_LLM_FORMAT_OPENAI
                                ? "OpenAIError" : "NativeError");

    } else if (ngx_http_llm_web_is(p, len, "openai_error")) {
        ngx_http_llm_buf_printf(b, "\"#/components/schemas/%s\"",
                                format == NGX_HTTP_LLM_FORMAT_TGI
                                ? "NativeError" : "OpenAIError");

    } else {
        return 0;
    }

    return 1;
}


/* routes are below the prefix of the location */

static void
ngx_http_llm_web_server(ngx_http_llm_ctx_t *ctx)
{
    ngx_str_t  prefix;

    ngx_str_set(&prefix, "/");

    if (ctx->conf->prefix && ctx->conf->location.len > 1) {
        prefix = ctx->conf->location;

        if (prefix.data[prefix.len - 1] == '/') {
            prefix.len--;
        }
    }

    ngx_http_llm_buf_json_str(&ctx->out, &prefix);
}


void
ngx_http_llm_web_docs(ngx_http_llm_ctx_t *ctx)
{
    ngx_http_llm_buf_add(&ctx->out, ngx_http_llm_web_docs_html,
                         sizeof(ngx_http_llm_web_docs_html));
}
