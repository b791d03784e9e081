/*
 * ngx_http_llm_tools.h - functions that a chat may call, and the parts of an
 * answer: thoughts, text, calls.
 *
 * ngx_http_llm_tools.c reads them from a request, ngx_http_llm_syntax.c makes
 * a constraint of the output, and ngx_http_llm_calls.c takes the output, piece
 * by piece, back to its parts.
 */
#ifndef _NGX_HTTP_LLM_TOOLS_H_INCLUDED_
#define _NGX_HTTP_LLM_TOOLS_H_INCLUDED_


#include "ngx_http_llm_codec.h"


#define NGX_HTTP_LLM_CALL_ID  9         /* Mistral's templates want nine */


/*
 * How a family of models writes calls:
 *
 *     open  before NAME after ARGUMENTS suffix  { join  before ... }  close
 */
typedef struct {
    const char                *mark;    /* of the templates of this family */
    const char                *also;    /* a second one, or NULL */
    const char                *trigger; /* what no other text contains */
    const char                *open;
    const char                *before;
    const char                *after;
    const char                *suffix;
    const char                *join;
    const char                *close;
    unsigned                   single:1;    /* one call in an answer */
} ngx_http_llm_syntax_t;


typedef struct {
    const char                *open;
    const char                *close;
} ngx_http_llm_thinking_t;


typedef struct {
    ngx_str_t                  name;
    json_t                    *schema;  /* of the arguments; NULL: none */
    ngx_str_t                  first;   /* up to its arguments: a first call */
    ngx_str_t                  next;    /* the same, from the last one's on */
} ngx_http_llm_tool_t;


typedef enum {
    NGX_HTTP_LLM_TOOLS_AUTO = 0,
    NGX_HTTP_LLM_TOOLS_NONE,
    NGX_HTTP_LLM_TOOLS_REQUIRED
} ngx_http_llm_tools_choice_e;


/* what a request says of both, in r->pool; JSON is borrowed from its body */
struct ngx_http_llm_tools_s {
    ngx_http_llm_tool_t       *tools;
    ngx_uint_t                 n_tools;
    ngx_http_llm_tool_t       *only;    /* the named one */
    ngx_http_llm_tools_choice_e  choice;
    ngx_flag_t                 parallel;
    const ngx_http_llm_syntax_t    *syntax;     /* NULL: no calls to read */
    const ngx_http_llm_thinking_t  *thinking;   /* NULL: no thoughts */
    ngx_str_t                  end;     /* of a last call: suffix and close */
    unsigned                   note:1;      /* the template shows none */
    unsigned                   thinks:1;    /* thoughts come first */
    unsigned                   whole:1;     /* a call or text, not both */
};


typedef enum {
    NGX_HTTP_LLM_PART_TEXT = 0,
    NGX_HTTP_LLM_PART_THOUGHT,
    NGX_HTTP_LLM_PART_CALL,             /* a call begins: id and name */
    NGX_HTTP_LLM_PART_ARGUMENTS         /* a piece of its arguments */
} ngx_http_llm_part_e;


typedef struct {
    ngx_http_llm_part_e        type;
    ngx_uint_t                 call;    /* number of the call */
    ngx_str_t                  id;
    ngx_str_t                  text;    /* or the name */
} ngx_http_llm_part_t;


/* one answer that is being read */
typedef struct {
    ngx_http_llm_tools_t      *tools;
    ngx_uint_t                 state;
    ngx_http_llm_buf_t         held;    /* what is not decided yet */
    ngx_uint_t                 n_calls;
    ngx_uint_t                 depth;   /* in the arguments */
    unsigned                   string:1;
    unsigned                   escape:1;
    unsigned                   open:1;  /* the last call has not ended */
    unsigned                   blank:1; /* no text yet but white space */
    unsigned                   strip:1; /* which is to be left out */
    unsigned                   plain:1; /* what follows is text */
} ngx_http_llm_calls_t;


typedef void (*ngx_http_llm_part_pt)(void *data, ngx_http_llm_part_t *part);


/* -------------------------------------------------- ngx_http_llm_tools.c */

/* tools, tool_choice and their like to ctx->tools; ctx->error otherwise. */
ngx_int_t ngx_http_llm_tools_decode(ngx_http_llm_ctx_t *ctx, json_t *root);

/* The tools of root in OpenAI's form, for templates; NULL: none. */
json_t *ngx_http_llm_tools_list(json_t *root);

/*
 * Text for the last message of the user, where the template shows no tools
 * or the client has a text of its own.
 */
void ngx_http_llm_tools_note(ngx_http_llm_ctx_t *ctx, json_t *root,
    ngx_http_llm_buf_t *b);


/* ------------------------------------------------- ngx_http_llm_syntax.c */

/*
 * The prompt is known: what it says of thoughts, and the constraint for
 * calls and for what follows thoughts, to ctx->params.grammar.  continued:
 * the answer goes on with a message.
 */
ngx_int_t ngx_http_llm_syntax_constrain(ngx_http_llm_ctx_t *ctx,
    ngx_str_t *prompt, ngx_uint_t continued);

/* What a call looks like, for instructions. */
void ngx_http_llm_syntax_example(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_buf_t *b);

/* A call as text, for templates that know no calls. */
void ngx_http_llm_syntax_write(ngx_http_llm_buf_t *b, json_t *call);


/* -------------------------------------------------- ngx_http_llm_calls.c */

/* A reader for one answer, or NULL: no memory. */
ngx_http_llm_calls_t *ngx_http_llm_calls_new(ngx_pool_t *pool,
    ngx_http_llm_tools_t *tools);

/*
 * Takes the next text and hands its parts over in order; what could become
 * the beginning of a call waits.  last: no text will follow.  The same text
 * in other pieces gives the same parts in other pieces.  NGX_ERROR: no
 * memory.
 */
ngx_int_t ngx_http_llm_calls_read(ngx_http_llm_calls_t *c, ngx_str_t *text,
    ngx_uint_t last, ngx_http_llm_part_pt handler, void *data);


#endif /* _NGX_HTTP_LLM_TOOLS_H_INCLUDED_ */
