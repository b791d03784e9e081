/*
 * ngx_http_llm_codec.h - what a protocol provides, and what it may use.
 *
 * A codec turns a body into parameters and a prompt, and released text into
 * bytes.  It knows nothing of buffers, sockets, hooks or the engine's slots;
 * everything that it appends goes to ctx->out, which the output code sends.
 */
#ifndef _NGX_HTTP_LLM_CODEC_H_INCLUDED_
#define _NGX_HTTP_LLM_CODEC_H_INCLUDED_


#include "ngx_http_llm_json.h"


#define NGX_HTTP_LLM_INVALID  "Input validation error: "


/* a stretch of released text and the tokens that it completes */
typedef struct {
    ngx_http_llm_token_t      *tokens;
    ngx_uint_t                 n_tokens;
    ngx_str_t                  text;
    unsigned                   replaced:1;  /* by the hook: hide the tokens */
    unsigned                   last:1;      /* sequence->finish is set */
} ngx_http_llm_unit_t;


struct ngx_http_llm_codec_s {
    ngx_http_llm_format_e      format;      /* of errors */

    /* the limit comes before EOS and stop strings when both apply */
    unsigned                   length_first:1;

    /* text is cut after a stop string, not before it */
    unsigned                   keep_stop:1;

    /* Request object -> ctx->params.  NGX_ERROR: ctx->error is set. */
    ngx_int_t                (*decode)(ngx_http_llm_ctx_t *ctx, json_t *root);

    /*
     * ctx->params, ctx->json -> ctx->prompt, ctx->tok_flags, or several
     * prompts in ctx->prompts.
     */
    ngx_int_t                (*prompt)(ngx_http_llm_ctx_t *ctx);

    /*
     * The first token is there, the job is open: keep what the job knows of
     * the prompt, at most one token a call (s->n_prefilled).  NGX_OK, all is
     * kept; NGX_AGAIN, call again; NGX_ERROR, ctx->error is set.
     */
    ngx_int_t                (*prefill)(ngx_http_llm_ctx_t *ctx,
                                     ngx_http_llm_sequence_t *s);

    /* One unit of a sequence: an event, or kept for the body. */
    void                     (*unit)(ngx_http_llm_ctx_t *ctx,
                                     ngx_http_llm_sequence_t *s,
                                     ngx_http_llm_unit_t *unit);

    /* All sequences are done: the closing events, or the body. */
    void                     (*finish)(ngx_http_llm_ctx_t *ctx);

    /*
     * Number of the next event of a stream, where events have numbers and
     * names and no [DONE] follows them; otherwise NULL.
     */
    ngx_uint_t               (*event_number)(ngx_http_llm_ctx_t *ctx);
};


extern const ngx_http_llm_codec_t  ngx_http_llm_tgi_codec;
extern const ngx_http_llm_codec_t  ngx_http_llm_chat_codec;
extern const ngx_http_llm_codec_t  ngx_http_llm_completions_codec;
extern const ngx_http_llm_codec_t  ngx_http_llm_responses_codec;
extern const ngx_http_llm_codec_t  ngx_http_llm_embeddings_codec;
extern const ngx_http_llm_codec_t  ngx_http_llm_invocations_codec;


/*
 * Sets ctx->error from an ngx_sprintf format (the message is cut at 1024
 * bytes) and returns NGX_ERROR, so that `return ngx_http_llm_fail(...)`
 * reads well.
 */
ngx_int_t ngx_http_llm_fail(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_fault_e fault, const char *fmt, ...);
ngx_int_t ngx_http_llm_fail_nomem(ngx_http_llm_ctx_t *ctx);
/* The same from what a hook returned (not NGX_OK). */
ngx_int_t ngx_http_llm_fail_hook(ngx_http_llm_ctx_t *ctx, ngx_int_t rc,
    ngx_http_llm_lua_refusal_t *refusal);
/* The same from an error of the engine. */
ngx_int_t ngx_http_llm_fail_engine(ngx_http_llm_ctx_t *ctx, llm_err_t *err);


/* The same for a member that is missing or of a wrong type. */
#define ngx_http_llm_malformed(ctx, ...)                                      \
    ngx_http_llm_fail(ctx, NGX_HTTP_LLM_VALIDATION,                           \
                      NGX_HTTP_LLM_DESERIALIZE __VA_ARGS__)

/* The same for a value out of its range. */
#define ngx_http_llm_invalid(ctx, ...)                                        \
    ngx_http_llm_fail(ctx, NGX_HTTP_LLM_VALIDATION,                           \
                      NGX_HTTP_LLM_INVALID __VA_ARGS__)


/* ---------------------------------------------- ngx_http_llm_params.c */

/* Neutral values of all parameters. */
void ngx_http_llm_params_init(ngx_http_llm_params_t *p);

/* Refuses adapter_id of object; prefix is its path for messages. */
ngx_int_t ngx_http_llm_params_adapter(ngx_http_llm_ctx_t *ctx,
    json_t *object, const char *prefix);

/* The checks before the prompt is known, in the reference's order. */
ngx_int_t ngx_http_llm_params_check(ngx_http_llm_ctx_t *ctx);

/* A free place for this request: NGX_ERROR with OVERLOADED otherwise. */
ngx_int_t ngx_http_llm_params_permit(ngx_http_llm_ctx_t *ctx);

/*
 * truncate and the checks of length; sets tokens, n_tokens, max_new of the
 * prompt and, with decoder_input_details, starts.
 */
ngx_int_t ngx_http_llm_params_length(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_prompt_t *prompt, const llm_tokens_t *tokens);

/* What the engine is told for choice i of a prompt. */
void ngx_http_llm_params_sampling(ngx_http_llm_ctx_t *ctx, ngx_uint_t i,
    llm_sampling_t *out);


/* ------------------------------------------------ ngx_http_llm_grammar.c */

/*
 * Reads the member name ("grammar", "response_format") of object, where it
 * is, to ctx->params.grammar; prefix is the path of object for messages.
 * openai: "text" is a type, and "json_object" needs no schema.
 */
ngx_int_t ngx_http_llm_grammar_decode(ngx_http_llm_ctx_t *ctx,
    json_t *object, const char *name, const char *prefix, ngx_uint_t openai);


/* --------------------------------------------------- ngx_http_llm_text.c */

/*
 * Failure links of a text that is not empty (Knuth, Morris, Pratt): length
 * of the longest proper border of each prefix.  NULL: no memory.
 */
uint32_t *ngx_http_llm_text_links(ngx_str_t *text, ngx_pool_t *pool);


/* ---------------------------------------------------- ngx_http_llm_tgi.c */

/* The first of the sequences with the highest mean log-probability. */
ngx_http_llm_sequence_t *ngx_http_llm_tgi_best(ngx_http_llm_ctx_t *ctx);

/* Token i of the prompt, and those of a unit, as native answers have them. */
void ngx_http_llm_tgi_prompt_token(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, uint32_t i);
void ngx_http_llm_tgi_unit(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_http_llm_unit_t *unit);

/* Members of details, to ctx->out: what those two have kept. */
void ngx_http_llm_tgi_details_json(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s);

/* The list of alternatives to a token. */
void ngx_http_llm_tgi_top_json(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_buf_t *b, ngx_http_llm_token_t *t);

/* A token as native answers have it. */
void ngx_http_llm_tgi_token_json(ngx_http_llm_buf_t *b, int32_t id,
    ngx_str_t *text, float logprob, ngx_uint_t special);

/* The whole text to ctx->out, the prompt first with return_full_text. */
void ngx_http_llm_tgi_text_json(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_str_t *prompt);

/* ,"generated_text":…,"details":… of a native event, to ctx->out. */
void ngx_http_llm_tgi_end_json(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s, ngx_str_t *prompt, ngx_uint_t last);


/* --------------------------------------------------- ngx_http_llm_chat.c */

/* Whether root has messages of the right shape; ctx->error otherwise. */
ngx_int_t ngx_http_llm_chat_check(ngx_http_llm_ctx_t *ctx, json_t *root);

/* Whether the model's template contains the text. */
ngx_uint_t ngx_http_llm_chat_knows(ngx_http_llm_ctx_t *ctx, const char *text);

/* Whether the answer goes on with the last message of root. */
ngx_uint_t ngx_http_llm_chat_continues(json_t *root);

/* The checked messages of root through the model's template. */
ngx_int_t ngx_http_llm_chat_render(ngx_http_llm_ctx_t *ctx, json_t *root,
    ngx_str_t *prompt);


/* ------------------------------------------ ngx_http_llm_openai_common.c */

/* What both OpenAI routes read of a body -> ctx->params. */
ngx_int_t ngx_http_llm_openai_body(ngx_http_llm_ctx_t *ctx, json_t *root);

/* What makes ids of this request its own. */
void ngx_http_llm_openai_id(ngx_http_llm_ctx_t *ctx, ngx_http_llm_buf_t *b);

/* To ctx->out: an answer up to the bracket that opens its choices. */
void ngx_http_llm_openai_head(ngx_http_llm_ctx_t *ctx, const char *object,
    const char *id, ngx_str_t *model);

/* To ctx->out: usage of one choice, or of all where s is NULL. */
void ngx_http_llm_openai_usage(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s);

/* A log-probability; JSON has no infinity. */
void ngx_http_llm_openai_number(ngx_http_llm_buf_t *b, float logprob);

/* Whether the answer has ended by itself: nothing was cut. */
ngx_uint_t ngx_http_llm_openai_ended(ngx_http_llm_sequence_t *s);

/* Name of s->finish. */
const char *ngx_http_llm_openai_reason(ngx_http_llm_sequence_t *s);


/* ------------------------------------------- ngx_http_llm_completions*.c */

/* A body to ctx->params, and its prompts to ctx->prompts. */
ngx_int_t ngx_http_llm_completions_decode(ngx_http_llm_ctx_t *ctx,
    json_t *root);
ngx_int_t ngx_http_llm_completions_prompt(ngx_http_llm_ctx_t *ctx);

/*
 * Whether field name of root is a string, token ids, a list of either, or
 * null; ctx->error otherwise.
 */
ngx_int_t ngx_http_llm_completions_check(ngx_http_llm_ctx_t *ctx,
    json_t *root, const char *name);
/* The checked field of that name to ctx->prompts. */
ngx_int_t ngx_http_llm_completions_prompts(ngx_http_llm_ctx_t *ctx,
    const char *name);


/* ------------------------------------------------ ngx_http_llm_request.c */

/* The name that the API shows for the model. */
ngx_str_t *ngx_http_llm_model_id(ngx_http_llm_ctx_t *ctx);


#endif /* _NGX_HTTP_LLM_CODEC_H_INCLUDED_ */
