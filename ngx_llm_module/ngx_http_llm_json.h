/*
 * ngx_http_llm_json.h - JSON in (jansson, tables of fields) and out (bytes).
 */
#ifndef _NGX_HTTP_LLM_JSON_H_INCLUDED_
#define _NGX_HTTP_LLM_JSON_H_INCLUDED_


#include "ngx_http_llm_module.h"


#define NGX_HTTP_LLM_DESERIALIZE                                              \
    "Failed to deserialize the JSON body into the target type: "


/* what a parse gives besides the value; plain data for any thread */
typedef struct {
    json_t                    *value;
    uint64_t                   seed;        /* "seed" above INT64_MAX */
    ngx_uint_t                 seed_set;
    ngx_uint_t                 nomem;
    char                       error[256];  /* value == NULL */
} ngx_http_llm_json_parsed_t;


typedef enum {
    NGX_HTTP_LLM_FIELD_BOOL = 0,            /* ngx_flag_t */
    NGX_HTTP_LLM_FIELD_I32,                 /* int64_t */
    NGX_HTTP_LLM_FIELD_U32,                 /* uint64_t */
    NGX_HTTP_LLM_FIELD_COUNT,               /* uint64_t, -1 means absent */
    NGX_HTTP_LLM_FIELD_U64,                 /* uint64_t */
    NGX_HTTP_LLM_FIELD_SEED,                /* uint64_t, exact up to 2^64-1 */
    NGX_HTTP_LLM_FIELD_SIGNED_SEED,         /* the same, -1 means absent */
    NGX_HTTP_LLM_FIELD_F32,                 /* double */
    NGX_HTTP_LLM_FIELD_STRING,              /* ngx_str_t */
    NGX_HTTP_LLM_FIELD_STOP,                /* params stop, n_stop */
    NGX_HTTP_LLM_FIELD_BIAS,                /* params bias, n_bias */
    NGX_HTTP_LLM_FIELD_BIAS_OBJECT          /* the same; an array is ignored */
} ngx_http_llm_field_e;


typedef struct {
    ngx_str_t                  name;
    ngx_http_llm_field_e       type;
    size_t                     offset;      /* in ngx_http_llm_params_t */
    uint64_t                   given;       /* or-ed into params->given */
} ngx_http_llm_field_t;


#define ngx_http_llm_field(name, type, member, given)                         \
    { ngx_string(name), NGX_HTTP_LLM_FIELD_##type,                            \
      offsetof(ngx_http_llm_params_t, member), given }

#define ngx_http_llm_null_field  { ngx_null_string, 0, 0, 0 }


/* Once per process, before anything is parsed. */
void ngx_http_llm_json_init(void);

/*
 * json_loadb() without its fault: NULL, with error->text, also when memory
 * is short.  Thread: any.
 */
json_t *ngx_http_llm_json_load(const char *data, size_t len, size_t flags,
    json_error_t *error);

/*
 * Parses len bytes.  data is changed in place: lone surrogate escapes, and
 * NUL in names, become U+FFFD, integers beyond 64 bit reals.  Thread: any.
 */
void ngx_http_llm_json_parse(ngx_http_llm_json_parsed_t *out, u_char *data,
    size_t len);

/*
 * Reads the fields of the table from object into ctx->params; null and
 * absent fields keep their values, unknown ones are ignored.  prefix is the
 * path of object ("parameters.") for messages.  Strings stay owned by the
 * JSON.  NGX_ERROR: ctx->error is set.
 */
ngx_int_t ngx_http_llm_json_fields(ngx_http_llm_ctx_t *ctx, json_t *object,
    const ngx_http_llm_field_t *fields, const char *prefix);

/*
 * Fails with "Failed to deserialize the JSON body ...: <path>: invalid type:
 * <what value is>, expected <expected>".  Returns NGX_ERROR.
 */
ngx_int_t ngx_http_llm_json_mismatch(ngx_http_llm_ctx_t *ctx,
    const char *prefix, const char *name, json_t *value,
    const char *expected);

/* Member of an object; NULL when it is absent or null. */
json_t *ngx_http_llm_json_get(json_t *object, const char *name);

/* NGX_OK: a whole number in *n; 1.0 is one too.  NGX_DECLINED: it is none. */
ngx_int_t ngx_http_llm_json_integer(json_t *value, int64_t *n);

/* The string's bytes, borrowed. */
ngx_str_t ngx_http_llm_json_str(json_t *string);

/* Truth of an optional boolean member. */
ngx_int_t ngx_http_llm_json_flag(ngx_http_llm_ctx_t *ctx, json_t *object,
    const char *name, const char *prefix, ngx_flag_t *value);


/* Growing bytes.  A failure is remembered in b->failed. */
void ngx_http_llm_buf_init(ngx_http_llm_buf_t *b, ngx_pool_t *pool);
u_char *ngx_http_llm_buf_reserve(ngx_http_llm_buf_t *b, size_t len);
void ngx_http_llm_buf_add(ngx_http_llm_buf_t *b, const void *data,
    size_t len);
/* ngx_sprintf formats; the result of one call has at most 1024 bytes */
void ngx_http_llm_buf_printf(ngx_http_llm_buf_t *b, const char *fmt, ...);
/* A JSON string with its quotes; malformed UTF-8 becomes U+FFFD. */
void ngx_http_llm_buf_json(ngx_http_llm_buf_t *b, const void *data,
    size_t len);
/* The value as compact JSON text, keys in their order. */
void ngx_http_llm_buf_dump(ngx_http_llm_buf_t *b, json_t *value);
/* The shortest decimal that reads back as the same float; null if none. */
void ngx_http_llm_buf_f32(ngx_http_llm_buf_t *b, float value);

#define ngx_http_llm_buf_lit(b, text)                                         \
    ngx_http_llm_buf_add(b, text, sizeof(text) - 1)

#define ngx_http_llm_buf_json_str(b, s)                                       \
    ngx_http_llm_buf_json(b, (s)->data, (s)->len)

#define ngx_http_llm_space(c)                                                 \
    ((c) == ' ' || ((c) >= '\t' && (c) <= '\r'))

/* Unicode characters in UTF-8 text. */
size_t ngx_http_llm_utf8_length(ngx_str_t *s);


#endif /* _NGX_HTTP_LLM_JSON_H_INCLUDED_ */
