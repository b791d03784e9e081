/*
 * ngx_http_llm_request.h - functions that the files of the request side
 * share: its life, its text, its output, its engine.
 */
#ifndef _NGX_HTTP_LLM_REQUEST_H_INCLUDED_
#define _NGX_HTTP_LLM_REQUEST_H_INCLUDED_


#include "ngx_http_llm_codec.h"
#include "ngx_http_llm_task.h"


/* ------------------------------------------------ ngx_http_llm_request.c */

/* A context for the request, set in it; NULL: no memory. */
ngx_http_llm_ctx_t *ngx_http_llm_create_ctx(ngx_http_request_t *r);

/* The content handler of llm_pass. */
ngx_int_t ngx_http_llm_handler(ngx_http_request_t *r);

/*
 * Takes the request as far as it goes now: to the next wait or to its end.
 * The caller keeps r->connection and runs its posted requests afterwards;
 * ctx may be gone.
 */
void ngx_http_llm_run(ngx_http_llm_ctx_t *ctx);

/* The same from an event: posted requests are run too. */
void ngx_http_llm_wake(ngx_http_llm_ctx_t *ctx);

/* Jobs, timers, hooks and JSON of a request are given back.  Idempotent. */
void ngx_http_llm_release(ngx_http_llm_ctx_t *ctx);

/* CLOCK_MONOTONIC */
uint64_t ngx_http_llm_now(void);


/* ---------------------------------------------------- ngx_http_llm_key.c */

/* Whether the request has a key of its location; ctx->error otherwise. */
ngx_int_t ngx_http_llm_key_check(ngx_http_llm_ctx_t *ctx);


/* --------------------------------------------------- ngx_http_llm_body.c */

/* Whether the Content-Type is JSON; ctx->error otherwise. */
ngx_int_t ngx_http_llm_body_type(ngx_http_llm_ctx_t *ctx);

/* Makes ctx->task from the body that nginx has read. */
ngx_int_t ngx_http_llm_body_read(ngx_http_llm_ctx_t *ctx);


/* ------------------------------------------------- ngx_http_llm_prompt.c */

/*
 * The step TOKENS: ctx->prompts get their tokens, ctx->n_tokens and max_new
 * are set.  Returns what a step does.
 */
ngx_int_t ngx_http_llm_prompt_tokens(ngx_http_llm_ctx_t *ctx);


/* ------------------------------------------------ ngx_http_llm_grammar.c */

/*
 * The step CONSTRAIN: ctx->params.grammar to ctx->constraint, in a thread.
 * Returns what a step does.
 */
ngx_int_t ngx_http_llm_grammar_compile(ngx_http_llm_ctx_t *ctx);


/* -------------------------------------------------- ngx_http_llm_route.c */

/*
 * Finds the route of r->uri below the location and checks the method.
 * NGX_OK: ctx->route, codec and arg are set.  NGX_ERROR: ctx->error is.
 */
ngx_int_t ngx_http_llm_route(ngx_http_llm_ctx_t *ctx);

/* Value of the Allow header for the route. */
ngx_str_t *ngx_http_llm_route_methods(ngx_http_llm_ctx_t *ctx);

/* Name of the route for hooks: "/generate". */
const char *ngx_http_llm_route_name(ngx_http_llm_ctx_t *ctx);


/* --------------------------------------------------- ngx_http_llm_text.c */

/* Prepares sequence i; its job is open.  NGX_ERROR: ctx->error is set. */
ngx_int_t ngx_http_llm_text_open(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s);

/*
 * Takes at most one token from the engine through stop strings and the
 * output hook to the codec.
 *
 * NGX_OK     something was done, call again
 * NGX_AGAIN  nothing to do until the engine or the hook goes on
 * NGX_DONE   the sequence is complete
 * NGX_ERROR  ctx->error is set
 */
ngx_int_t ngx_http_llm_text_advance(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_sequence_t *s);

/* Closes the job and frees what is not in r->pool.  Idempotent. */
void ngx_http_llm_text_close(ngx_http_llm_sequence_t *s);


/* ------------------------------------------------- ngx_http_llm_header.c */

/* Value of a header of the request (name in lower case), or NULL. */
ngx_str_t *ngx_http_llm_request_header(ngx_http_request_t *r,
    const char *name);

/* Sets what every answer has; the status is in r->headers_out already. */
ngx_int_t ngx_http_llm_header_common(ngx_http_llm_ctx_t *ctx, ngx_str_t *type,
    off_t len);

/*
 * Sends the header of an answer of ours: len -1 is a stream.  Returns what
 * ngx_http_send_header() does.
 */
ngx_int_t ngx_http_llm_header_send(ngx_http_llm_ctx_t *ctx, ngx_uint_t status,
    ngx_str_t *type, off_t len);


/* ------------------------------------------------- ngx_http_llm_output.c */

/*
 * Answers with one complete body and finalizes the request: nobody may
 * touch ctx afterwards.  ctx->out is the body.
 */
void ngx_http_llm_output_reply(ngx_http_llm_ctx_t *ctx, ngx_uint_t status,
    ngx_str_t *type);

/* Answers with ctx->error, as the state of the response allows; the same. */
void ngx_http_llm_output_error(ngx_http_llm_ctx_t *ctx);

/*
 * Writes ctx->error to ctx->out and sets the headers for it; the status has
 * been set.  For answers that nginx sends itself.
 */
ngx_int_t ngx_http_llm_output_page(ngx_http_llm_ctx_t *ctx);

/*
 * Sends ctx->out as part of an event stream; the first call sends the
 * header.  NGX_OK; NGX_AGAIN, the client must read first and
 * ngx_http_llm_run() goes on then; NGX_ERROR, finalize with NGX_ERROR.
 */
ngx_int_t ngx_http_llm_output_event(ngx_http_llm_ctx_t *ctx);

/* Ends the stream and finalizes the request. */
void ngx_http_llm_output_end(ngx_http_llm_ctx_t *ctx);

/* Timer handler: a comment line in the silence of a stream. */
void ngx_http_llm_output_keepalive(ngx_event_t *ev);


/* ------------------------------------------------- ngx_http_llm_filter.c */

/* Installs the filters that replace nginx's own error pages. */
ngx_int_t ngx_http_llm_filter_init(void);


/* ------------------------------------------------- ngx_http_llm_engine.c */

/* Joins the engine of an instance in this process, if it has not yet. */
ngx_int_t ngx_http_llm_engine_join(ngx_http_llm_instance_t *instance,
    ngx_log_t *log);
void ngx_http_llm_engine_leave(ngx_http_llm_instance_t *instance);

/* Opens the jobs of all sequences.  NGX_ERROR: ctx->error is set. */
ngx_int_t ngx_http_llm_engine_submit(ngx_http_llm_ctx_t *ctx);


/* --------------------------------------------------- ngx_http_llm_info.c */

/* Routes that answer at once: health, info, models, tokenizer_info. */
void ngx_http_llm_info(ngx_http_llm_ctx_t *ctx);

/* Decodes the body of a tokenizer route: ctx->prompt, a task to run. */
ngx_int_t ngx_http_llm_tokenizer_task(ngx_http_llm_ctx_t *ctx);
/* Moves its result to ctx->out. */
ngx_int_t ngx_http_llm_tokenizer_reply(ngx_http_llm_ctx_t *ctx);


/* ---------------------------------------------------- ngx_http_llm_web.c */

/* The OpenAPI document with the values of the location, to ctx->out. */
void ngx_http_llm_web_openapi(ngx_http_llm_ctx_t *ctx);
/* The page that shows it, to ctx->out. */
void ngx_http_llm_web_docs(ngx_http_llm_ctx_t *ctx);


/* -------------------------------------------------- ngx_http_llm_cloud.c */

/* POST /vertex: the step DECODE, which waits for all instances and answers. */
ngx_int_t ngx_http_llm_vertex(ngx_http_llm_ctx_t *ctx);


/* ------------------------------------------------- ngx_http_llm_kserve.c */

/* The same for infer. */
ngx_int_t ngx_http_llm_kserve_infer(ngx_http_llm_ctx_t *ctx);

/* The other routes, to ctx->out. */
void ngx_http_llm_kserve_info(ngx_http_llm_ctx_t *ctx);


/* ------------------------------------------------ ngx_http_llm_metrics.c */

/* Counts the end of a request; fault is NGX_HTTP_LLM_OK for success. */
void ngx_http_llm_metrics_count(ngx_http_llm_ctx_t *ctx);
/* The exposition of all models to ctx->out. */
void ngx_http_llm_metrics_write(ngx_http_llm_ctx_t *ctx);


#endif /* _NGX_HTTP_LLM_REQUEST_H_INCLUDED_ */
