/*
 * ngx_http_llm_module.h - the types that the files of the glue share.
 *
 * Configuration (model and location), the loaded instance of a model, and
 * the context of a request with its sequences.  What only one file needs
 * stays in that file; what a protocol must provide is in
 * ngx_http_llm_codec.h; the seam to Lua is ngx_http_llm_lua.h.
 *
 * Processes: a model (ngx_http_llm_model_t) belongs to a cycle; an instance
 * (weights and engine) belongs to the registry of the master and outlives
 * cycles; everything else belongs to one worker.
 */
#ifndef _NGX_HTTP_LLM_MODULE_H_INCLUDED_
#define _NGX_HTTP_LLM_MODULE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_http.h>

#include <jansson.h>
#include <llm.h>

#include "ngx_http_llm_lua.h"


#define NGX_HTTP_LLM_TASK_BYTES   32768   /* longer texts leave the loop */


typedef struct ngx_http_llm_instance_s  ngx_http_llm_instance_t;
typedef struct ngx_http_llm_model_s     ngx_http_llm_model_t;
typedef struct ngx_http_llm_stats_s     ngx_http_llm_stats_t;
typedef struct ngx_http_llm_task_s      ngx_http_llm_task_t;
typedef struct ngx_http_llm_codec_s     ngx_http_llm_codec_t;
typedef struct ngx_http_llm_tools_s     ngx_http_llm_tools_t;
typedef struct ngx_http_llm_ctx_s       ngx_http_llm_ctx_t;


/* ------------------------------------------------------- configuration */

/* limits of the embedded Lua; their meaning belongs to ngx_http_llm_lua.c */
typedef struct {
    size_t                     memory;      /* bytes of one Lua state */
    ngx_uint_t                 steps;       /* VM instructions of one resume */
    ngx_msec_t                 timeout;     /* CPU time of one resume */
    size_t                     output;      /* bytes that a template renders */
    ngx_flag_t                 jit;
    ngx_str_t                  path;        /* folder that holds llm/ */
} ngx_http_llm_lua_conf_t;


/* llm_cache_path */
typedef struct {
    ngx_str_t                  path;        /* len 0: none */
    size_t                     prefixes;    /* bytes a model; 0: off */
} ngx_http_llm_cache_t;


typedef struct {
    ngx_array_t                models;      /* of ngx_http_llm_model_t * */
    ngx_http_llm_lua_conf_t    lua;
    ngx_http_llm_cache_t       cache;
    ngx_int_t                  request_id;  /* index of $request_id */
} ngx_http_llm_main_conf_t;


typedef enum {
    NGX_HTTP_LLM_FORMAT_AUTO = 0,
    NGX_HTTP_LLM_FORMAT_TGI,
    NGX_HTTP_LLM_FORMAT_OPENAI
} ngx_http_llm_format_e;


/* the green list: its part of the vocabulary, and what is added */
typedef struct {
    double                     gamma;
    double                     delta;
} ngx_http_llm_watermark_t;


typedef struct {
    ngx_http_llm_model_t      *model;       /* llm_pass */
    ngx_str_t                  model_name;
    u_char                    *file;        /* where llm_pass stands */
    ngx_uint_t                 line;
    ngx_str_t                  location;    /* name of the location */
    unsigned                   prefix:1;    /* location is a plain prefix */
    ngx_uint_t                 route;       /* of a one-route directive */
    ngx_str_t                  route_name;  /* that directive */

    ngx_int_t                  max_concurrent_requests;
    ngx_int_t                  max_queue;       /* that wait; -1: any */
    ngx_int_t                  max_best_of;
    ngx_int_t                  max_stop_sequences;
    ngx_int_t                  max_top_n_tokens;
    ngx_int_t                  max_client_batch_size;
    ngx_int_t                  set_input_tokens;    /* as configured */
    ngx_int_t                  set_total_tokens;
    ngx_int_t                  max_input_tokens;    /* for this model */
    ngx_int_t                  max_total_tokens;
    ngx_int_t                  default_max_new_tokens;

    ngx_str_t                  model_id;
    ngx_str_t                  compute_type;
    ngx_array_t               *cors_origins;    /* of ngx_str_t */
    ngx_array_t               *licenses;        /* of ngx_str_t; NULL: all */
    ngx_array_t               *api_keys;        /* of complex values, or NULL */
    ngx_flag_t                 return_full_text;
    ngx_flag_t                 prefill_logprobs;
    ngx_flag_t                 grammar;
    ngx_flag_t                 reasoning;
    ngx_str_t                  tool_prompt;
    ngx_http_llm_watermark_t  *watermark;
    ngx_uint_t                 stream_errors;   /* 1: as events */
    ngx_uint_t                 error_format;    /* ngx_http_llm_format_e */
    ngx_uint_t                 pooling;         /* llm_pooling_t */
    ngx_msec_t                 sse_keepalive;
    ngx_msec_t                 generation_timeout;
    ngx_msec_t                 queue_timeout;   /* 0: none */

    ngx_http_llm_lua_hook_t   *prompt_hook;
    ngx_http_llm_lua_hook_t   *output_hook;
} ngx_http_llm_loc_conf_t;


/* what makes two llm_model blocks share one instance */
typedef struct {
    uint64_t                   stamp;       /* llm_model_stamp() */
    uint64_t                   draft_stamp; /* the same; 0: no draft model */
    char                       quantize[8]; /* "": as the file has it */
    llm_engine_conf_t          engine;
} ngx_http_llm_key_t;


/* llm_model NAME { ... } */
struct ngx_http_llm_model_s {
    ngx_str_t                  name;
    ngx_str_t                  weights;     /* full path */
    ngx_str_t                  draft;       /* the same; len 0: none */
    ngx_str_t                  template;    /* Jinja source, len 0: none */
    ngx_str_t                  license;     /* len 0: the file names none */
    ngx_str_t                  draft_license;
    ngx_http_llm_key_t         key;
    ngx_uint_t                 n_ctx;       /* engine.n_ctx resolved */
    u_char                    *file;        /* where the block stands */
    ngx_uint_t                 line;
    unsigned                   passed:1;    /* some location uses it */
    ngx_array_t               *env;         /* the "env" directives */
    ngx_http_llm_cache_t      *cache;       /* of the main configuration */

    ngx_http_llm_instance_t   *instance;    /* from the zone's init on */
    ngx_http_llm_stats_t      *stats;       /* shared memory */
};


/*
 * Loaded weights and their engine.  Made in the master; a worker has a copy
 * of this record from the fork and uses the second half of it.
 */
struct ngx_http_llm_instance_s {
    ngx_queue_t                queue;
    ngx_uint_t                 refs;
    ngx_str_t                  path;
    ngx_str_t                  draft_path;
    ngx_http_llm_key_t         key;
    llm_model_t               *model;
    llm_model_t               *draft;       /* NULL: none */
    llm_engine_t              *engine;
    time_t                     loaded;

    ngx_connection_t          *wake;        /* NULL: not joined here */
    ngx_queue_t                requests;    /* of ngx_http_llm_ctx_t */
    ngx_uint_t                 n_slow;      /* tasks in threads of the worker */
};


/* -------------------------------------------------------------- requests */

typedef enum {
    NGX_HTTP_LLM_ANY = 0,
    NGX_HTTP_LLM_COMPAT,                    /* POST / */
    NGX_HTTP_LLM_GENERATE,
    NGX_HTTP_LLM_GENERATE_STREAM,
    NGX_HTTP_LLM_CHAT,
    NGX_HTTP_LLM_COMPLETIONS,
    NGX_HTTP_LLM_RESPONSES,
    NGX_HTTP_LLM_EMBEDDINGS,
    NGX_HTTP_LLM_INVOCATIONS,
    NGX_HTTP_LLM_LAST_COUNTED = NGX_HTTP_LLM_INVOCATIONS,
    NGX_HTTP_LLM_VERTEX,
    NGX_HTTP_LLM_KSERVE,
    NGX_HTTP_LLM_KSERVE_LIVE,
    NGX_HTTP_LLM_KSERVE_MODEL,
    NGX_HTTP_LLM_KSERVE_INFER,
    NGX_HTTP_LLM_TOKENIZE,
    NGX_HTTP_LLM_CHAT_TOKENIZE,
    NGX_HTTP_LLM_DETOKENIZE,
    NGX_HTTP_LLM_TOKENIZER_INFO,
    NGX_HTTP_LLM_INFO,
    NGX_HTTP_LLM_MODELS,
    NGX_HTTP_LLM_HEALTH,
    NGX_HTTP_LLM_METRICS,
    NGX_HTTP_LLM_OPENAPI,
    NGX_HTTP_LLM_DOCS
} ngx_http_llm_route_e;


/* classes of failure; the table in ngx_http_llm_output.c gives the rest */
typedef enum {
    NGX_HTTP_LLM_OK = 0,
    NGX_HTTP_LLM_BAD_SYNTAX,                /* 400 */
    NGX_HTTP_LLM_BAD_LENGTH,                /* 413 */
    NGX_HTTP_LLM_BAD_TYPE,                  /* 415 */
    NGX_HTTP_LLM_VALIDATION,                /* 422 */
    NGX_HTTP_LLM_CONTEXT_LENGTH,            /* 422, named on OpenAI routes */
    NGX_HTTP_LLM_TEMPLATE,                  /* 422 */
    NGX_HTTP_LLM_TOOL,                      /* 422 */
    NGX_HTTP_LLM_SUFFIX,                    /* 422, no tokens for it */
    NGX_HTTP_LLM_BATCH_SIZE,                /* 422 */
    NGX_HTTP_LLM_NO_INSTANCES,              /* 422, Vertex AI */
    NGX_HTTP_LLM_LENGTH_MISMATCH,           /* 422, KServe */
    NGX_HTTP_LLM_NOT_UTF8,                  /* 422, KServe */
    NGX_HTTP_LLM_OVERLOADED,                /* 429 */
    NGX_HTTP_LLM_GENERATION,                /* 424 */
    NGX_HTTP_LLM_INCOMPLETE,                /* 500 */
    NGX_HTTP_LLM_FILTERED,                  /* a hook refused */
    NGX_HTTP_LLM_HOOK_FAILED,               /* 500 */
    NGX_HTTP_LLM_NOT_FOUND,                 /* 404 */
    NGX_HTTP_LLM_NOT_ALLOWED,               /* 405 */
    NGX_HTTP_LLM_UNAUTHORIZED,              /* 401 */
    NGX_HTTP_LLM_FORBIDDEN,                 /* 403 */
    NGX_HTTP_LLM_TIMEOUT,                   /* 408 */
    NGX_HTTP_LLM_UNHEALTHY,                 /* 503 */
    NGX_HTTP_LLM_INTERNAL                   /* 500 */
} ngx_http_llm_fault_e;


typedef struct {
    ngx_http_llm_fault_e       fault;
    ngx_uint_t                 status;      /* 0: the fault's own */
    ngx_str_t                  message;
} ngx_http_llm_error_t;


/* bytes that grow in a pool; failed stays set after an allocation failure */
typedef struct {
    u_char                    *data;
    size_t                     len;
    size_t                     cap;
    ngx_pool_t                *pool;
    unsigned                   failed:1;
} ngx_http_llm_buf_t;


/* what the output must be */
typedef struct {
    ngx_flag_t                 set;
    llm_constraint_kind_t      kind;
    json_t                    *value;       /* schema or text, borrowed */
    ngx_str_t                  text;        /* without a value */
} ngx_http_llm_grammar_t;


/* what a body asks for, in either protocol */
typedef struct {
    ngx_str_t                  inputs;
    ngx_str_t                  model;       /* as the client wrote it */

    double                     temperature;
    double                     repetition_penalty;
    double                     frequency_penalty;
    double                     presence_penalty;
    double                     top_p;
    double                     typical_p;
    double                     min_p;
    int64_t                    top_k;
    uint64_t                   seed;
    uint64_t                   best_of;
    uint64_t                   n;
    uint64_t                   keep;        /* of n, the best; 0: all */
    uint64_t                   max_new_tokens;
    uint64_t                   truncate;
    uint64_t                   top_n_tokens;
    uint64_t                   min_tokens;

    ngx_str_t                  suffix;      /* data NULL: none */
    ngx_http_llm_grammar_t     grammar;
    ngx_str_t                  encoding;    /* of embeddings */
    uint64_t                   dimensions;

    ngx_str_t                 *stop;
    ngx_uint_t                 n_stop;
    llm_bias_t                *bias;
    ngx_uint_t                 n_bias;

    ngx_flag_t                 do_sample;
    ngx_flag_t                 stream;
    ngx_flag_t                 details;
    ngx_flag_t                 decoder_input_details;
    ngx_flag_t                 prefill;     /* in details of completions */
    ngx_flag_t                 return_full_text;
    ngx_flag_t                 watermark;
    ngx_flag_t                 ignore_eos;
    ngx_flag_t                 skip_special_tokens;
    ngx_flag_t                 include_stop;
    ngx_flag_t                 add_special_tokens;
    ngx_flag_t                 echo;
    ngx_flag_t                 logprobs;
    ngx_flag_t                 include_usage;
    ngx_flag_t                 continuous_usage;
    ngx_flag_t                 repeat_role;

    ngx_flag_t                 sampling;    /* derived by validation */
    uint64_t                   given;       /* NGX_HTTP_LLM_GIVEN_* */
} ngx_http_llm_params_t;


#define NGX_HTTP_LLM_GIVEN_TEMPERATURE     0x0001
#define NGX_HTTP_LLM_GIVEN_TOP_K           0x0002
#define NGX_HTTP_LLM_GIVEN_TOP_P           0x0004
#define NGX_HTTP_LLM_GIVEN_TYPICAL_P       0x0008
#define NGX_HTTP_LLM_GIVEN_SEED            0x0010
#define NGX_HTTP_LLM_GIVEN_MAX_NEW         0x0020
#define NGX_HTTP_LLM_GIVEN_TRUNCATE        0x0040
#define NGX_HTTP_LLM_GIVEN_BEST_OF         0x0080
#define NGX_HTTP_LLM_GIVEN_FULL_TEXT       0x0100
#define NGX_HTTP_LLM_GIVEN_TOP_N           0x0200
#define NGX_HTTP_LLM_GIVEN_N               0x0400


/* a token on its way from the engine to the client */
typedef struct {
    int32_t                    id;
    float                      logprob;
    float                      raw_logprob;
    size_t                     start;       /* range in sequence->raw */
    size_t                     end;
    size_t                     text_start;  /* range in sequence->text */
    size_t                     text_end;
    llm_top_t                 *top;
    ngx_uint_t                 n_top;
    unsigned                   special:1;
    unsigned                   hidden:1;    /* the hook replaced its text */
} ngx_http_llm_token_t;


/* progress of one stop string in the text (Knuth, Morris, Pratt) */
typedef struct {
    ngx_str_t                  text;
    uint32_t                  *next;        /* failure links, shared */
    size_t                     matched;
} ngx_http_llm_stop_t;


typedef enum {
    NGX_HTTP_LLM_FINISH_NONE = 0,
    NGX_HTTP_LLM_FINISH_LENGTH,
    NGX_HTTP_LLM_FINISH_EOS,
    NGX_HTTP_LLM_FINISH_STOP,
    NGX_HTTP_LLM_FINISH_FILTER
} ngx_http_llm_finish_e;


/* one prompt of a request: all choices for it begin with its tokens */
typedef struct {
    ngx_str_t                  text;        /* what the tokens stand for */
    ngx_str_t                  shown;       /* what the client has sent */
    int32_t                   *tokens;      /* after truncation */
    uint32_t                  *starts;      /* in text; NULL: not asked for */
    uint32_t                   n_tokens;
    uint32_t                   max_new;     /* after all limits */
    unsigned                   ids:1;       /* given as tokens, not as text */
} ngx_http_llm_prompt_t;


/* one choice of the answer: a job of the engine and the text it has made */
typedef struct {
    ngx_http_llm_ctx_t        *ctx;
    ngx_http_llm_prompt_t     *prompt;
    void                      *data;        /* of the codec */
    ngx_uint_t                 index;
    llm_job_t                  job;
    llm_detok_t               *detok;
    llm_job_view_t             view;        /* last one seen */
    uint64_t                   seed;
    uint32_t                   n_prefilled; /* codec: tokens of the prompt */
    uint32_t                   n_tokens;    /* taken from the engine */
    double                     sum_logprob;

    ngx_http_llm_buf_t         raw;         /* special tokens included */
    ngx_http_llm_buf_t         text;        /* special tokens left out */
    ngx_http_llm_buf_t         out;         /* what the client gets */
    size_t                     raw_safe;    /* no stop can take it back */
    size_t                     safe;        /* the same as offset in text */
    size_t                     released;    /* text decided upon */
    size_t                     shown;       /* text the hook has seen */

    ngx_http_llm_token_t      *tokens;      /* not yet released */
    ngx_uint_t                 n_pending;
    ngx_uint_t                 max_pending;
    ngx_http_llm_stop_t       *stops;

    ngx_http_llm_buf_t         json;        /* codec: tokens so far */
    ngx_http_llm_buf_t         top_json;    /* codec: alternatives so far */
    ngx_http_llm_buf_t         prefill;     /* codec: prompt tokens */
    ngx_uint_t                 n_events;

    ngx_http_llm_lua_ctx_t    *lctx;        /* sequence 0 has the request's */
    ngx_http_llm_lua_out_t     hook_out;
    ngx_http_llm_lua_refusal_t refusal;
    ngx_str_t                  piece;       /* what the hook looks at */
    ngx_int_t                  hook_rc;

    ngx_http_llm_finish_e      finish;
    unsigned                   open:1;      /* job is to be closed */
    unsigned                   prefilled:1; /* the prompt has been kept */
    unsigned                   ended:1;     /* no more tokens are taken */
    unsigned                   hook_wait:1;
    unsigned                   hook_done:1;
    unsigned                   done:1;      /* last unit given to the codec */
} ngx_http_llm_sequence_t;


typedef enum {
    NGX_HTTP_LLM_PARSE = 0,
    NGX_HTTP_LLM_HOOK,
    NGX_HTTP_LLM_DECODE,
    NGX_HTTP_LLM_TOKENS,
    NGX_HTTP_LLM_CONSTRAIN,
    NGX_HTTP_LLM_SUBMIT,
    NGX_HTTP_LLM_GENERATING,
    NGX_HTTP_LLM_FINISHED
} ngx_http_llm_state_e;


struct ngx_http_llm_ctx_s {
    ngx_queue_t                queue;       /* in instance->requests */
    ngx_http_request_t        *request;
    ngx_http_llm_loc_conf_t   *conf;
    ngx_http_llm_model_t      *model;
    ngx_http_llm_instance_t   *instance;
    const ngx_http_llm_codec_t  *codec;
    ngx_http_llm_route_e       route;
    ngx_http_llm_state_e       state;
    ngx_str_t                  arg;         /* name of a model in the path */
    ngx_str_t                  version;     /* the same, of its version */
    ngx_str_t                  request_id;
    void                      *data;        /* of the route */

    ngx_http_llm_task_t       *task;
    json_t                    *json;        /* as the client sent it */
    json_t                    *hooked;      /* as the prompt hook left it */
    ngx_str_t                  inputs;      /* of the client, in json */
    uint64_t                   big_seed;    /* a seed above INT64_MAX */
    ngx_http_llm_params_t      params;
    ngx_http_llm_tools_t      *tools;       /* of a chat */
    ngx_str_t                  markers;     /* special tokens kept in text */
    ngx_str_t                  prompt;
    ngx_str_t                  hook_prompt;
    size_t                     n_characters;    /* of the prompt */
    unsigned                   tok_flags;
    ngx_http_llm_prompt_t     *prompts;     /* set by a codec, or one */
    ngx_uint_t                 n_prompts;
    ngx_uint_t                 n_tokenized;
    uint32_t                   n_tokens;    /* of all prompts */
    uint32_t                   max_new;     /* the largest of them */
    llm_constraint_t          *constraint;  /* NULL: any text */

    ngx_http_llm_sequence_t   *sequences;
    ngx_uint_t                 n_sequences;

    ngx_http_llm_buf_t         out;         /* bytes of the burst */
    ngx_chain_t               *free;
    ngx_chain_t               *busy;

    ngx_event_t                deadline;    /* keeps a quitting worker */
    ngx_event_t                queue_timer;
    ngx_event_t                keepalive;
    ngx_event_t                resume;      /* posted after a hook */

    ngx_http_llm_lua_ctx_t    *lctx;
    ngx_int_t                  hook_rc;
    ngx_http_llm_lua_refusal_t refusal;
    ngx_http_llm_error_t       error;

    uint64_t                   start_ns;    /* CLOCK_MONOTONIC */
    uint64_t                   queued_ns;
    uint64_t                   started_ns;
    uint64_t                   first_ns;
    uint64_t                   last_ns;
    ngx_uint_t                 n_cached;
    ngx_uint_t                 n_generated;

    unsigned                   live:1;      /* in instance->requests */
    unsigned                   counted:1;   /* is an inference request */
    unsigned                   hook_wait:1; /* the prompt hook waits */
    unsigned                   big_seed_set:1;
    unsigned                   blocked:1;   /* the client does not read */
    unsigned                   streaming:1; /* the header has been sent */
    unsigned                   answered:1;  /* the response is ours */
    unsigned                   replace:1;   /* an error page of nginx is */
    unsigned                   replaced:1;
    unsigned                   done:1;      /* finalized */
};


extern ngx_module_t  ngx_http_llm_module;


#endif /* _NGX_HTTP_LLM_MODULE_H_INCLUDED_ */
