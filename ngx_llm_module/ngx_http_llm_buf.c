/*
 * ngx_http_llm_buf.c - bytes that grow in a pool, and JSON written to them.
 *
 * Strings with escapes, floats in their shortest form.  A failed allocation
 * is remembered, so that writers need not check every call.
 */
#include "ngx_http_llm_json.h"

#include <math.h>


static int ngx_http_llm_buf_dumped(const char *data, size_t len, void *buf);


void
ngx_http_llm_buf_init(ngx_http_llm_buf_t *b, ngx_pool_t *pool)
{
    ngx_memzero(b, sizeof(ngx_http_llm_buf_t));
    b->pool = pool;
}


u_char *
ngx_http_llm_buf_reserve(ngx_http_llm_buf_t *b, size_t len)
{
    size_t   cap;
    u_char  *data;

    if (b->failed) {
        return NULL;
    }

    if (len <= b->cap - b->len) {
        return b->data + b->len;
    }

    if (len > NGX_MAX_SIZE_T_VALUE / 4 || b->len > NGX_MAX_SIZE_T_VALUE / 4) {
        b->failed = 1;
        return NULL;
    }

    cap = ngx_max(b->cap * 2, 256);

    while (cap - b->len < len) {
        cap *= 2;
    }

    data = ngx_pnalloc(b->pool, cap);
    if (data == NULL) {
        b->failed = 1;
        return NULL;
    }

    if (b->len) {
        ngx_memcpy(data, b->data, b->len);
    }

    if (b->cap > b->pool->max) {
        (void) ngx_pfree(b->pool, b->data);
    }

    b->data = data;
    b->cap = cap;

    return data + b->len;
}


void
ngx_http_llm_buf_add(ngx_http_llm_buf_t *b, const void *data, size_t len)
{
    u_char  *p;

    if (len == 0) {
        return;
    }

    p = ngx_http_llm_buf_reserve(b, len);
    if (p == NULL) {
        return;
    }

    ngx_memcpy(p, data, len);
    b->len += len;
}


void
ngx_http_llm_buf_printf(ngx_http_llm_buf_t *b, const char *fmt, ...)
{
    u_char   *p;
    va_list   args;

    p = ngx_http_llm_buf_reserve(b, 1024);
    if (p == NULL) {
        return;
    }

    va_start(args, fmt);
    b->len = ngx_vslprintf(p, p + 1024, fmt, args) - b->data;
    va_end(args);
}


void
ngx_http_llm_buf_dump(ngx_http_llm_buf_t *b, json_t *value)
{
    if (json_dump_callback(value, ngx_http_llm_buf_dumped, b,
                           JSON_COMPACT|JSON_ENCODE_ANY)
        != 0)
    {
        b->failed = 1;
    }
}


static int
ngx_http_llm_buf_dumped(const char *data, size_t len, void *buf)
{
    ngx_http_llm_buf_t *b = buf;

    ngx_http_llm_buf_add(b, data, len);

    return b->failed ? -1 : 0;
}


void
ngx_http_llm_buf_json(ngx_http_llm_buf_t *b, const void *data, size_t len)
{
    u_char    *p, *end, *dst, *start;
    uint32_t   c;

    static u_char  hex[] = "0123456789abcdef";

    if (len > NGX_MAX_SIZE_T_VALUE / 16) {
        b->failed = 1;
        return;
    }

    dst = ngx_http_llm_buf_reserve(b, len * 6 + 2);
    if (dst == NULL) {
        return;
    }

    p = (u_char *) data;
    end = p + len;

    *dst++ = '"';

    while (p < end) {

        if (*p >= 0x80) {
            start = p;
            c = ngx_utf8_decode(&p, end - p);

            /* ngx_utf8_decode() lets surrogates pass */

            if (c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) {
                dst = ngx_cpymem(dst, "\xef\xbf\xbd", 3);
                p = start + 1;

                while (p < end && (*p & 0xc0) == 0x80) {
                    p++;
                }

            } else {
                dst = ngx_cpymem(dst, start, p - start);
            }

            continue;
        }

        c = *p++;

        switch (c) {

        case '"':
        case '\\':
            *dst++ = '\\';
            *dst++ = (u_char) c;
            continue;

        case '\b':
            c = 'b';
            break;

        case '\f':
            c = 'f';
            break;

        case '\n':
            c = 'n';
            break;

        case '\r':
            c = 'r';
            break;

        case '\t':
            c = 't';
            break;

        default:

            if (c >= 0x20) {
                *dst++ = (u_char) c;
                continue;
            }

            dst = ngx_cpymem(dst, "\\u00", 4);
            *dst++ = hex[c >> 4];
            *dst++ = hex[c & 0xf];
            continue;
        }

        *dst++ = '\\';
        *dst++ = (u_char) c;
    }

    *dst++ = '"';

    b->len = dst - b->data;
}


void
ngx_http_llm_buf_f32(ngx_http_llm_buf_t *b, float value)
{
    int    n, digits;
    char   text[32];

    if (!isfinite(value)) {
        ngx_http_llm_buf_lit(b, "null");
        return;
    }

    n = 0;

    for (digits = 6; digits <= 9; digits++) {
        n = snprintf(text, sizeof(text), "%.*g", digits, (double) value);

        if (strtof(text, NULL) == value) {
            break;
        }
    }

    ngx_http_llm_buf_add(b, text, n);

    if (strpbrk(text, ".e") == NULL) {
        ngx_http_llm_buf_lit(b, ".0");
    }
}


size_t
ngx_http_llm_utf8_length(ngx_str_t *s)
{
    size_t  i, n;

    n = 0;

    for (i = 0; i < s->len; i++) {
        n += (s->data[i] & 0xc0) != 0x80;
    }

    return n;
}
