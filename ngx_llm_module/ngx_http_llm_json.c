/*
 * ngx_http_llm_json.c - JSON from clients.
 *
 * A scan that repairs what jansson refuses but our API accepts (lone
 * surrogate escapes, NUL in names, integers beyond 64 bit), jansson itself,
 * and tables of typed fields with the messages of the reference server.
 * Nothing here knows a protocol.
 */
#include "ngx_http_llm_json.h"
#include "ngx_http_llm_codec.h"

#include <math.h>
#include <setjmp.h>


static void *ngx_http_llm_json_malloc(size_t size);
static u_char *ngx_http_llm_json_scan_string(u_char *p, u_char *end);
static void ngx_http_llm_json_scan_key(u_char *key, u_char *p, u_char *end);
static u_char *ngx_http_llm_json_scan_number(u_char *p, u_char *end,
    ngx_uint_t is_seed, ngx_http_llm_json_parsed_t *out);
static ngx_int_t ngx_http_llm_json_hex4(u_char *p, u_char *end);
static ngx_int_t ngx_http_llm_json_unsigned(ngx_http_llm_ctx_t *ctx,
    const ngx_http_llm_field_t *f, json_t *value, const char *prefix,
    uint64_t *n);
static ngx_int_t ngx_http_llm_json_stop(ngx_http_llm_ctx_t *ctx,
    const ngx_http_llm_field_t *f, json_t *value, const char *prefix);
static ngx_int_t ngx_http_llm_json_bias(ngx_http_llm_ctx_t *ctx,
    const ngx_http_llm_field_t *f, json_t *value, const char *prefix);
static ngx_int_t ngx_http_llm_json_bias_add(ngx_http_llm_ctx_t *ctx,
    json_t *id, const char *key, json_t *bias, const char *prefix);
static ngx_int_t ngx_http_llm_json_field(ngx_http_llm_ctx_t *ctx,
    const ngx_http_llm_field_t *f, json_t *value, const char *prefix);


/* where the parse in progress in this thread goes on without memory */

static __thread jmp_buf  *ngx_http_llm_json_nomem;


void
ngx_http_llm_json_init(void)
{
    json_set_alloc_funcs(ngx_http_llm_json_malloc, free);
}


static void *
ngx_http_llm_json_malloc(size_t size)
{
    void  *p;

    p = malloc(size);

    if (p == NULL && ngx_http_llm_json_nomem) {
        longjmp(*ngx_http_llm_json_nomem, 1);
    }

    return p;
}


/*
 * jansson 2.14 drops the bytes of a string that it has no memory for, and
 * then copies the string up to a quote that is not there.  So a parse never
 * sees a failed allocation: it is left at once, and what it has allocated is
 * lost.
 */

json_t *
ngx_http_llm_json_load(const char *data, size_t len, size_t flags,
    json_error_t *error)
{
    json_t   *value;
    jmp_buf   nomem;

    if (setjmp(nomem) != 0) {
        ngx_http_llm_json_nomem = NULL;

        ngx_memzero(error, sizeof(json_error_t));
        ngx_memcpy(error->text, "out of memory", sizeof("out of memory"));
        error->text[JSON_ERROR_TEXT_LENGTH - 1] = json_error_out_of_memory;

        return NULL;
    }

    ngx_http_llm_json_nomem = &nomem;
    value = json_loadb(data, len, flags, error);
    ngx_http_llm_json_nomem = NULL;

    return value;
}


void
ngx_http_llm_json_parse(ngx_http_llm_json_parsed_t *out, u_char *data,
    size_t len)
{
    u_char        *p, *end, *key;
    size_t         key_len;
    ngx_uint_t     is_seed;
    json_error_t   error;

    ngx_memzero(out, sizeof(ngx_http_llm_json_parsed_t));

    p = data;
    end = data + len;
    key = NULL;
    key_len = 0;

    while (p < end) {

        if (*p == '"') {
            key = p;
            p = ngx_http_llm_json_scan_string(p + 1, end);
            key_len = p - key;
            ngx_http_llm_json_scan_key(key, p, end);

        } else if (*p == '-' || (*p >= '0' && *p <= '9')) {
            is_seed = (key_len == sizeof("\"seed\"") - 1
                       && ngx_strncmp(key, "\"seed\"", key_len) == 0);
            p = ngx_http_llm_json_scan_number(p, end, is_seed, out);

        } else {
            if (*p == ',' || *p == '[' || *p == '{') {
                key_len = 0;
            }

            p++;
        }
    }

    out->value = ngx_http_llm_json_load((char *) data, len,
                                        JSON_ALLOW_NUL|JSON_DECODE_ANY,
                                        &error);

    if (out->value == NULL) {
        out->nomem = (json_error_code(&error) == json_error_out_of_memory);

        ngx_snprintf((u_char *) out->error, sizeof(out->error),
                     "%s at line %d column %d%Z", error.text, error.line,
                     error.column);
        out->error[sizeof(out->error) - 1] = '\0';
    }
}


static u_char *
ngx_http_llm_json_scan_string(u_char *p, u_char *end)
{
    ngx_int_t  c, low;

    while (p < end && *p != '"') {

        if (*p != '\\') {
            p++;
            continue;
        }

        if (p + 1 < end && p[1] != 'u') {
            p += 2;
            continue;
        }

        c = ngx_http_llm_json_hex4(p + 2, end);

        if (c < 0xd800 || c > 0xdfff) {
            p += 2;
            continue;
        }

        low = -1;

        if (c < 0xdc00 && end - p >= 12 && p[6] == '\\' && p[7] == 'u') {
            low = ngx_http_llm_json_hex4(p + 8, end);
        }

        if (low >= 0xdc00 && low <= 0xdfff) {
            p += 12;
            continue;
        }

        ngx_memcpy(p + 2, "fffd", 4);
        p += 6;
    }

    return (p < end) ? p + 1 : end;
}


/* jansson allows NUL in strings only: in a name it becomes U+FFFD */

static void
ngx_http_llm_json_scan_key(u_char *key, u_char *p, u_char *end)
{
    u_char  *colon;

    for (colon = p; colon < end; colon++) {
        if (*colon != ' ' && *colon != '\t' && *colon != CR && *colon != LF) {
            break;
        }
    }

    if (colon == end || *colon != ':') {
        return;
    }

    for ( /* void */ ; p - key >= 6; key++) {

        if (*key != '\\') {
            continue;
        }

        if (key[1] != 'u') {
            key++;

        } else if (ngx_strncmp(key + 2, "0000", 4) == 0) {
            ngx_memcpy(key + 2, "fffd", 4);
        }
    }
}


/*
 * An integer that does not fit loses its last two digits to "e2": a double
 * has no more than 17 digits anyway.
 */

static u_char *
ngx_http_llm_json_scan_number(u_char *p, u_char *end, ngx_uint_t is_seed,
    ngx_http_llm_json_parsed_t *out)
{
    u_char      *start, *digits;
    uint64_t     n, limit;
    ngx_uint_t   fits;

    start = p;

    if (*p == '-') {
        p++;
    }

    limit = (uint64_t) INT64_MAX + (*start == '-');
    digits = p;
    n = 0;
    fits = 1;

    for ( /* void */ ; p < end && *p >= '0' && *p <= '9'; p++) {

        if (n > (UINT64_MAX - (*p - '0')) / 10) {
            fits = 0;
            continue;
        }

        n = n * 10 + (*p - '0');
    }

    if (p < end && (*p == '.' || *p == 'e' || *p == 'E')) {

        while (p < end && (*p == '.' || *p == 'e' || *p == 'E' || *p == '+'
                           || *p == '-' || (*p >= '0' && *p <= '9')))
        {
            p++;
        }

        return p;
    }

    if ((fits && n <= limit) || p - digits < 19) {
        return p;
    }

    if (is_seed && fits && *start != '-') {
        out->seed = n;
        out->seed_set = 1;
    }

    p[-2] = 'e';
    p[-1] = '2';

    return p;
}


static ngx_int_t
ngx_http_llm_json_hex4(u_char *p, u_char *end)
{
    if (end - p < 4) {
        return NGX_ERROR;
    }

    return ngx_hextoi(p, 4);
}


json_t *
ngx_http_llm_json_get(json_t *object, const char *name)
{
    json_t  *value;

    value = json_object_get(object, name);

    return json_is_null(value) ? NULL : value;
}


ngx_str_t
ngx_http_llm_json_str(json_t *string)
{
    ngx_str_t  s;

    s.data = (u_char *) json_string_value(string);
    s.len = json_string_length(string);

    return s;
}


ngx_int_t
ngx_http_llm_json_mismatch(ngx_http_llm_ctx_t *ctx, const char *prefix,
    const char *name, json_t *value, const char *expected)
{
    u_char  what[96], *last;

    last = what + sizeof(what);

    switch (json_typeof(value)) {

    case JSON_OBJECT:
        last = ngx_slprintf(what, last, "type: map");
        break;

    case JSON_ARRAY:
        last = ngx_slprintf(what, last, "type: sequence");
        break;

    case JSON_STRING:
        last = ngx_slprintf(what, last, "type: string \"%*s\"",
                            ngx_min(json_string_length(value), 32),
                            json_string_value(value));
        break;

    case JSON_INTEGER:
        last = ngx_slprintf(what, last, "value: integer `%L`",
                            (int64_t) json_integer_value(value));
        break;

    case JSON_REAL:
        last = ngx_slprintf(what, last, "value: floating point number");
        break;

    case JSON_TRUE:
        last = ngx_slprintf(what, last, "type: boolean `true`");
        break;

    case JSON_FALSE:
        last = ngx_slprintf(what, last, "type: boolean `false`");
        break;

    default:
        last = ngx_slprintf(what, last, "type: null");
        break;
    }

    return ngx_http_llm_malformed(ctx, "%s%s: invalid %*s, expected %s",
                                  prefix, name, last - what, what, expected);
}


ngx_int_t
ngx_http_llm_json_flag(ngx_http_llm_ctx_t *ctx, json_t *object,
    const char *name, const char *prefix, ngx_flag_t *value)
{
    json_t  *v;

    v = ngx_http_llm_json_get(object, name);

    if (v == NULL) {
        return NGX_OK;
    }

    if (!json_is_boolean(v)) {
        return ngx_http_llm_json_mismatch(ctx, prefix, name, v, "a boolean");
    }

    *value = json_is_true(v);

    return NGX_OK;
}


ngx_int_t
ngx_http_llm_json_fields(ngx_http_llm_ctx_t *ctx, json_t *object,
    const ngx_http_llm_field_t *fields, const char *prefix)
{
    json_t                      *value;
    const ngx_http_llm_field_t  *f;

    for (f = fields; f->name.len; f++) {

        value = ngx_http_llm_json_get(object, (char *) f->name.data);

        if (value == NULL) {
            continue;
        }

        if (ngx_http_llm_json_field(ctx, f, value, prefix) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_json_field(ngx_http_llm_ctx_t *ctx,
    const ngx_http_llm_field_t *f, json_t *value, const char *prefix)
{
    char     *name, *p;
    double    d;
    int64_t   n;
    uint64_t  u;

    name = (char *) f->name.data;
    p = (char *) &ctx->params + f->offset;
    u = 0;

    switch (f->type) {

    case NGX_HTTP_LLM_FIELD_BOOL:
        if (!json_is_boolean(value)) {
            return ngx_http_llm_json_mismatch(ctx, prefix, name, value,
                                              "a boolean");
        }

        *(ngx_flag_t *) p = json_is_true(value);
        break;

    case NGX_HTTP_LLM_FIELD_I32:
        if (ngx_http_llm_json_integer(value, &n) != NGX_OK
            || n < INT32_MIN || n > INT32_MAX)
        {
            return ngx_http_llm_json_mismatch(ctx, prefix, name, value, "i32");
        }

        *(int64_t *) p = n;
        break;

    case NGX_HTTP_LLM_FIELD_COUNT:
    case NGX_HTTP_LLM_FIELD_SIGNED_SEED:
        if (ngx_http_llm_json_integer(value, &n) == NGX_OK && n == -1) {
            return NGX_OK;
        }

        /* fall through */

    case NGX_HTTP_LLM_FIELD_U32:
    case NGX_HTTP_LLM_FIELD_U64:
    case NGX_HTTP_LLM_FIELD_SEED:
        if (ngx_http_llm_json_unsigned(ctx, f, value, prefix, &u) != NGX_OK) {
            return NGX_ERROR;
        }

        *(uint64_t *) p = u;
        break;

    case NGX_HTTP_LLM_FIELD_F32:
        if (!json_is_number(value)) {
            return ngx_http_llm_json_mismatch(ctx, prefix, name, value, "f32");
        }

        d = json_number_value(value);

        if (!isfinite((float) d)) {
            return ngx_http_llm_json_mismatch(ctx, prefix, name, value, "f32");
        }

        *(double *) p = (float) d;
        break;

    case NGX_HTTP_LLM_FIELD_STRING:
        if (!json_is_string(value)) {
            return ngx_http_llm_json_mismatch(ctx, prefix, name, value,
                                              "a string");
        }

        *(ngx_str_t *) p = ngx_http_llm_json_str(value);
        break;

    case NGX_HTTP_LLM_FIELD_STOP:
        if (ngx_http_llm_json_stop(ctx, f, value, prefix) != NGX_OK) {
            return NGX_ERROR;
        }

        break;

    case NGX_HTTP_LLM_FIELD_BIAS_OBJECT:
        if (json_is_array(value)) {
            return NGX_OK;
        }

        /* fall through */

    case NGX_HTTP_LLM_FIELD_BIAS:
        if (ngx_http_llm_json_bias(ctx, f, value, prefix) != NGX_OK) {
            return NGX_ERROR;
        }

        break;
    }

    ctx->params.given |= f->given;

    return NGX_OK;
}


ngx_int_t
ngx_http_llm_json_integer(json_t *value, int64_t *n)
{
    double  d;

    if (json_is_integer(value)) {
        *n = json_integer_value(value);
        return NGX_OK;
    }

    if (json_is_real(value)) {
        d = json_real_value(value);

        if (d == floor(d) && fabs(d) <= 9007199254740992.0) {
            *n = (int64_t) d;
            return NGX_OK;
        }
    }

    return NGX_DECLINED;
}


static ngx_int_t
ngx_http_llm_json_unsigned(ngx_http_llm_ctx_t *ctx,
    const ngx_http_llm_field_t *f, json_t *value, const char *prefix,
    uint64_t *n)
{
    int64_t      i;
    ngx_uint_t   is_seed, is_signed;
    const char  *expected;

    is_signed = (f->type == NGX_HTTP_LLM_FIELD_SIGNED_SEED);
    is_seed = (is_signed || f->type == NGX_HTTP_LLM_FIELD_SEED);

    if (is_seed && ctx->big_seed_set && json_is_real(value)
        && json_real_value(value) >= 9223372036854775807.0)
    {
        *n = ctx->big_seed;
        return NGX_OK;
    }

    if (ngx_http_llm_json_integer(value, &i) == NGX_OK
        && (i >= 0 || is_signed)
        && (i <= UINT32_MAX || is_seed || f->type == NGX_HTTP_LLM_FIELD_U64))
    {
        *n = (uint64_t) i;
        return NGX_OK;
    }

    expected = (is_seed || f->type == NGX_HTTP_LLM_FIELD_U64) ? "u64" : "u32";

    return ngx_http_llm_json_mismatch(ctx, prefix, (char *) f->name.data,
                                      value, expected);
}


static ngx_int_t
ngx_http_llm_json_stop(ngx_http_llm_ctx_t *ctx,
    const ngx_http_llm_field_t *f, json_t *value, const char *prefix)
{
    size_t       i, n;
    json_t      *item;
    ngx_str_t   *stop;

    n = json_is_array(value) ? json_array_size(value) : 1;

    stop = ngx_palloc(ctx->request->pool, (n + 1) * sizeof(ngx_str_t));
    if (stop == NULL) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    for (i = 0; i < n; i++) {
        item = json_is_array(value) ? json_array_get(value, i) : value;

        if (!json_is_string(item)) {
            return ngx_http_llm_json_mismatch(ctx, prefix,
                                              (char *) f->name.data, item,
                                              "a string or a sequence of"
                                              " strings");
        }

        stop[i] = ngx_http_llm_json_str(item);
    }

    ctx->params.stop = stop;
    ctx->params.n_stop = n;

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_json_bias(ngx_http_llm_ctx_t *ctx,
    const ngx_http_llm_field_t *f, json_t *value, const char *prefix)
{
    size_t        i, n;
    void         *iter;
    json_t       *pair;
    const char   *name;

    name = (char *) f->name.data;

    if (!json_is_object(value) && !json_is_array(value)) {
        return ngx_http_llm_json_mismatch(ctx, prefix, name, value, "a map");
    }

    n = json_is_object(value) ? json_object_size(value)
                              : json_array_size(value);

    if (n > LLM_MAX_BIAS) {
        return ngx_http_llm_invalid(ctx, "`logit_bias` supports up to %d "
                                    "entries. Given: %uz", LLM_MAX_BIAS, n);
    }

    ctx->params.bias = ngx_palloc(ctx->request->pool,
                                  (n + 1) * sizeof(llm_bias_t));
    if (ctx->params.bias == NULL) {
        return ngx_http_llm_fail_nomem(ctx);
    }

    ctx->params.n_bias = 0;

    if (json_is_object(value)) {

        for (iter = json_object_iter(value);
             iter;
             iter = json_object_iter_next(value, iter))
        {
            if (ngx_http_llm_json_bias_add(ctx, NULL,
                                           json_object_iter_key(iter),
                                           json_object_iter_value(iter),
                                           prefix)
                != NGX_OK)
            {
                return NGX_ERROR;
            }
        }

        return NGX_OK;
    }

    for (i = 0; i < n; i++) {
        pair = json_array_get(value, i);

        if (!json_is_array(pair) || json_array_size(pair) != 2) {
            return ngx_http_llm_json_mismatch(ctx, prefix, name, pair,
                                              "a pair [id, bias]");
        }

        if (ngx_http_llm_json_bias_add(ctx, json_array_get(pair, 0), NULL,
                                       json_array_get(pair, 1), prefix)
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_json_bias_add(ngx_http_llm_ctx_t *ctx, json_t *id,
    const char *key, json_t *bias, const char *prefix)
{
    double                    d;
    int64_t                   n;
    llm_bias_t               *b;
    const llm_model_info_t   *info;

    info = llm_model_info(ctx->instance->model);
    n = -1;

    if (key) {
        n = ngx_atoi((u_char *) key, ngx_strlen(key));

    } else if (ngx_http_llm_json_integer(id, &n) != NGX_OK) {
        n = -1;
    }

    if (n < 0 || n >= info->n_vocab) {
        return ngx_http_llm_invalid(ctx, "`logit_bias` token ids must be >= "
                                    "0 and < %uD", info->n_vocab);
    }

    if (!json_is_number(bias)) {
        return ngx_http_llm_json_mismatch(ctx, prefix, "logit_bias", bias,
                                          "f32");
    }

    d = json_number_value(bias);

    if (!(d >= -100 && d <= 100)) {
        return ngx_http_llm_invalid(ctx, "`logit_bias` values must be >= "
                                    "-100 and <= 100");
    }

    b = &ctx->params.bias[ctx->params.n_bias++];
    b->id = (int32_t) n;
    b->bias = (d <= -100) ? -INFINITY : (float) d;

    return NGX_OK;
}
