/*
 * ngx_http_llm_calls.c - the text of an answer to its parts.
 *
 *     LEAD ----> THOUGHT ----> TEXT <----> CALL ---> ARGUMENTS ---> AFTER
 *       \_______________________^  ^                     ^____________|  |
 *                                  |_____________________________________|
 *
 * The engine lets through only calls that are written as the syntax says, so
 * every step knows what it waits for.  An output hook may have changed the
 * text: what fits nowhere is text.
 */
#include "ngx_http_llm_tools.h"


typedef enum {
    NGX_HTTP_LLM_CALLS_LEAD = 0,
    NGX_HTTP_LLM_CALLS_THOUGHT,
    NGX_HTTP_LLM_CALLS_TEXT,
    NGX_HTTP_LLM_CALLS_CALL,
    NGX_HTTP_LLM_CALLS_ARGUMENTS,
    NGX_HTTP_LLM_CALLS_AFTER
} ngx_http_llm_calls_state_e;


typedef enum {
    NGX_HTTP_LLM_CALLS_NO = 0,
    NGX_HTTP_LLM_CALLS_YES,
    NGX_HTTP_LLM_CALLS_WAIT             /* it depends on what follows */
} ngx_http_llm_calls_match_e;


/* where the reading of a piece stands */
typedef struct {
    ngx_http_llm_calls_t      *calls;
    u_char                    *pos;
    u_char                    *end;
    ngx_http_llm_part_pt       handler;
    void                      *data;
    unsigned                   last:1;
} ngx_http_llm_calls_in_t;


/* NGX_OK: go on in the state that is set; NGX_AGAIN: more text is needed */
typedef ngx_int_t (*ngx_http_llm_calls_pt)(ngx_http_llm_calls_in_t *in);


static ngx_int_t ngx_http_llm_calls_lead(ngx_http_llm_calls_in_t *in);
static ngx_int_t ngx_http_llm_calls_thought(ngx_http_llm_calls_in_t *in);
static ngx_int_t ngx_http_llm_calls_text(ngx_http_llm_calls_in_t *in);
static ngx_int_t ngx_http_llm_calls_call(ngx_http_llm_calls_in_t *in);
static ngx_int_t ngx_http_llm_calls_arguments(ngx_http_llm_calls_in_t *in);
static ngx_int_t ngx_http_llm_calls_after(ngx_http_llm_calls_in_t *in);
static ngx_http_llm_calls_match_e ngx_http_llm_calls_open(
    ngx_http_llm_calls_in_t *in, size_t offset);
static void ngx_http_llm_calls_begin(ngx_http_llm_calls_in_t *in,
    ngx_http_llm_tool_t *tool, size_t skip);
static void ngx_http_llm_calls_plain(ngx_http_llm_calls_in_t *in,
    u_char *end);
static void ngx_http_llm_calls_part(ngx_http_llm_calls_in_t *in,
    ngx_http_llm_part_e type, u_char *end);
static ngx_http_llm_calls_match_e ngx_http_llm_calls_match(
    ngx_http_llm_calls_in_t *in, u_char *p, const void *text, size_t len);
static u_char *ngx_http_llm_calls_find(ngx_http_llm_calls_in_t *in,
    const char *text, u_char **kept);
static u_char *ngx_http_llm_calls_skip(u_char *p, u_char *end);
static u_char *ngx_http_llm_calls_trim(u_char *p, u_char *end);


static const ngx_http_llm_calls_pt  ngx_http_llm_calls_states[] = {
    ngx_http_llm_calls_lead,
    ngx_http_llm_calls_thought,
    ngx_http_llm_calls_text,
    ngx_http_llm_calls_call,
    ngx_http_llm_calls_arguments,
    ngx_http_llm_calls_after
};


ngx_http_llm_calls_t *
ngx_http_llm_calls_new(ngx_pool_t *pool, ngx_http_llm_tools_t *tools)
{
    ngx_http_llm_calls_t  *c;

    c = ngx_pcalloc(pool, sizeof(ngx_http_llm_calls_t));
    if (c == NULL) {
        return NULL;
    }

    ngx_http_llm_buf_init(&c->held, pool);

    c->tools = tools;
    c->blank = 1;

    c->state = tools->thinking ? NGX_HTTP_LLM_CALLS_LEAD
                               : NGX_HTTP_LLM_CALLS_TEXT;

    return c;
}


ngx_int_t
ngx_http_llm_calls_read(ngx_http_llm_calls_t *c, ngx_str_t *text,
    ngx_uint_t last, ngx_http_llm_part_pt handler, void *data)
{
    ngx_http_llm_calls_in_t  in;

    ngx_http_llm_buf_add(&c->held, text->data, text->len);

    if (c->held.failed) {
        return NGX_ERROR;
    }

    in.calls = c;
    in.pos = c->held.data;
    in.end = c->held.data + c->held.len;
    in.handler = handler;
    in.data = data;
    in.last = last;

    while (ngx_http_llm_calls_states[c->state](&in) == NGX_OK) { /* void */ }

    c->held.len = in.end - in.pos;

    if (c->held.len) {
        ngx_memmove(c->held.data, in.pos, c->held.len);
    }

    return NGX_OK;
}


/* thoughts may begin here, or have begun in the prompt */

static ngx_int_t
ngx_http_llm_calls_lead(ngx_http_llm_calls_in_t *in)
{
    u_char                *p;
    size_t                 len;
    const char            *open;
    ngx_http_llm_calls_t  *c;

    c = in->calls;
    open = c->tools->thinking->open;
    len = ngx_strlen(open);

    p = ngx_http_llm_calls_skip(in->pos, in->end);

    switch (ngx_http_llm_calls_match(in, p, open, len)) {

    case NGX_HTTP_LLM_CALLS_WAIT:

        if (!in->last) {
            return NGX_AGAIN;
        }

        break;

    case NGX_HTTP_LLM_CALLS_YES:
        in->pos = p + len;
        c->state = NGX_HTTP_LLM_CALLS_THOUGHT;
        return NGX_OK;

    default: /* NGX_HTTP_LLM_CALLS_NO */
        break;
    }

    c->state = c->tools->thinks ? NGX_HTTP_LLM_CALLS_THOUGHT
                                : NGX_HTTP_LLM_CALLS_TEXT;

    return NGX_OK;
}


/* white space at both ends is left out */

static ngx_int_t
ngx_http_llm_calls_thought(ngx_http_llm_calls_in_t *in)
{
    u_char                *end, *kept;
    const char            *close;
    ngx_http_llm_calls_t  *c;

    c = in->calls;
    close = c->tools->thinking->close;

    if (c->blank) {
        in->pos = ngx_http_llm_calls_skip(in->pos, in->end);
    }

    end = ngx_http_llm_calls_find(in, close, &kept);
    kept = ngx_http_llm_calls_trim(in->pos, end ? end : kept);

    if (kept > in->pos) {
        c->blank = 0;
        ngx_http_llm_calls_part(in, NGX_HTTP_LLM_PART_THOUGHT, kept);
    }

    if (end == NULL) {

        if (in->last) {
            in->pos = in->end;
        }

        return NGX_AGAIN;
    }

    in->pos = end + ngx_strlen(close);
    c->blank = 1;
    c->strip = 1;
    c->state = NGX_HTTP_LLM_CALLS_TEXT;

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_calls_text(ngx_http_llm_calls_in_t *in)
{
    u_char                       *p, *call, *kept;
    ngx_http_llm_calls_t         *c;
    const ngx_http_llm_syntax_t  *syntax;

    c = in->calls;
    syntax = c->plain ? NULL : c->tools->syntax;
    call = NULL;
    kept = in->end;

    if (syntax) {
        call = ngx_http_llm_calls_find(in, syntax->trigger, &kept);
    }

    p = ngx_http_llm_calls_skip(in->pos, call ? call : kept);

    /* in an answer that is all text or all call the first word decides */

    if (c->tools->whole && !c->plain && p < (call ? call : kept)) {
        c->plain = 1;
        return NGX_OK;
    }

    if (c->blank && c->strip) {
        in->pos = p;
    }

    if (call) {

        if (c->blank && p == call) {
            in->pos = call;
        }

        ngx_http_llm_calls_plain(in, call);
        c->state = NGX_HTTP_LLM_CALLS_CALL;
        return NGX_OK;
    }

    /* white space before a call is none of the text */

    if (syntax && c->blank && p == kept && !in->last) {
        return NGX_AGAIN;
    }

    ngx_http_llm_calls_plain(in, kept);

    return NGX_AGAIN;
}


/* at the trigger of a first call */

static ngx_int_t
ngx_http_llm_calls_call(ngx_http_llm_calls_in_t *in)
{
    ngx_http_llm_calls_t        *c;
    ngx_http_llm_calls_match_e   match;

    c = in->calls;
    match = ngx_http_llm_calls_open(in, offsetof(ngx_http_llm_tool_t, first));

    if (match == NGX_HTTP_LLM_CALLS_YES) {
        return NGX_OK;
    }

    if (match == NGX_HTTP_LLM_CALLS_WAIT) {

        if (in->last) {

            /* cut off before it had a name */

            in->pos = in->end;
        }

        return NGX_AGAIN;
    }

    ngx_http_llm_calls_plain(in, ngx_min(in->end, in->pos
                                         + ngx_strlen(c->tools->syntax
                                                      ->trigger)));
    c->state = NGX_HTTP_LLM_CALLS_TEXT;

    return NGX_OK;
}


/* a JSON object ends with the brace that closes it */

static ngx_int_t
ngx_http_llm_calls_arguments(ngx_http_llm_calls_in_t *in)
{
    u_char                *p;
    ngx_http_llm_calls_t  *c;

    c = in->calls;

    if (c->depth == 0) {
        in->pos = ngx_http_llm_calls_skip(in->pos, in->end);

        if (in->pos == in->end) {
            return NGX_AGAIN;
        }

        if (*in->pos != '{') {
            c->state = NGX_HTTP_LLM_CALLS_TEXT;
            return NGX_OK;
        }
    }

    for (p = in->pos; p < in->end; p++) {

        if (c->string) {

            if (c->escape) {
                c->escape = 0;

            } else if (*p == '\\') {
                c->escape = 1;

            } else if (*p == '"') {
                c->string = 0;
            }

            continue;
        }

        if (*p == '"') {
            c->string = 1;

        } else if (*p == '{' || *p == '[') {
            c->depth++;

        } else if ((*p == '}' || *p == ']') && --c->depth == 0) {
            ngx_http_llm_calls_part(in, NGX_HTTP_LLM_PART_ARGUMENTS, p + 1);
            c->open = 0;
            c->state = NGX_HTTP_LLM_CALLS_AFTER;
            return NGX_OK;
        }
    }

    ngx_http_llm_calls_part(in, NGX_HTTP_LLM_PART_ARGUMENTS, in->end);

    return NGX_AGAIN;
}


/* another call, or the end of them */

static ngx_int_t
ngx_http_llm_calls_after(ngx_http_llm_calls_in_t *in)
{
    ngx_str_t                   *end;
    ngx_http_llm_calls_t        *c;
    ngx_http_llm_calls_match_e   rc, match;

    c = in->calls;
    match = ngx_http_llm_calls_open(in, offsetof(ngx_http_llm_tool_t, next));

    if (match == NGX_HTTP_LLM_CALLS_YES) {
        return NGX_OK;
    }

    end = &c->tools->end;
    rc = ngx_http_llm_calls_match(in, in->pos, end->data, end->len);

    if (match == NGX_HTTP_LLM_CALLS_WAIT || rc == NGX_HTTP_LLM_CALLS_WAIT) {

        if (in->last) {
            in->pos = in->end;
        }

        return NGX_AGAIN;
    }

    if (rc == NGX_HTTP_LLM_CALLS_YES) {
        in->pos += end->len;
    }

    c->blank = 1;
    c->strip = 1;
    c->state = NGX_HTTP_LLM_CALLS_TEXT;

    return NGX_OK;
}


/* begins the call whose string at offset of the tool stands here */

static ngx_http_llm_calls_match_e
ngx_http_llm_calls_open(ngx_http_llm_calls_in_t *in, size_t offset)
{
    ngx_str_t                   *text;
    ngx_uint_t                   i;
    ngx_http_llm_tool_t         *tool;
    ngx_http_llm_calls_match_e   rc, match;

    match = NGX_HTTP_LLM_CALLS_NO;

    for (i = 0; i < in->calls->tools->n_tools; i++) {
        tool = &in->calls->tools->tools[i];
        text = (ngx_str_t *) ((u_char *) tool + offset);

        rc = ngx_http_llm_calls_match(in, in->pos, text->data, text->len);

        if (rc == NGX_HTTP_LLM_CALLS_YES) {
            ngx_http_llm_calls_begin(in, tool, text->len);
            return rc;
        }

        match |= rc;
    }

    return match;
}


static void
ngx_http_llm_calls_begin(ngx_http_llm_calls_in_t *in,
    ngx_http_llm_tool_t *tool, size_t skip)
{
    u_char                id[NGX_HTTP_LLM_CALL_ID];
    uint64_t              bits;
    ngx_uint_t            i;
    ngx_http_llm_part_t   part;

    static u_char  letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                               "abcdefghijklmnopqrstuvwxyz0123456789";

    /* ngx_random() has 31 bits; nine letters are 54 */

    bits = ((uint64_t) ngx_random() << 31) ^ (uint64_t) ngx_random();

    for (i = 0; i < NGX_HTTP_LLM_CALL_ID; i++) {
        id[i] = letters[bits % (sizeof(letters) - 1)];
        bits /= sizeof(letters) - 1;
    }

    in->pos += skip;

    part.type = NGX_HTTP_LLM_PART_CALL;
    part.call = in->calls->n_calls++;
    part.id.data = id;
    part.id.len = NGX_HTTP_LLM_CALL_ID;
    part.text = tool->name;

    in->handler(in->data, &part);

    in->calls->depth = 0;
    in->calls->open = 1;
    in->calls->state = NGX_HTTP_LLM_CALLS_ARGUMENTS;
}


/* text up to end */

static void
ngx_http_llm_calls_plain(ngx_http_llm_calls_in_t *in, u_char *end)
{
    if (end > in->pos) {
        in->calls->blank = 0;
        ngx_http_llm_calls_part(in, NGX_HTTP_LLM_PART_TEXT, end);
    }
}


static void
ngx_http_llm_calls_part(ngx_http_llm_calls_in_t *in, ngx_http_llm_part_e type,
    u_char *end)
{
    ngx_http_llm_part_t  part;

    if (end == in->pos) {
        return;
    }

    part.type = type;
    part.call = in->calls->n_calls ? in->calls->n_calls - 1 : 0;
    part.text.data = in->pos;
    part.text.len = end - in->pos;
    ngx_str_null(&part.id);

    in->pos = end;
    in->handler(in->data, &part);
}


/* whether the text at p begins with text */

static ngx_http_llm_calls_match_e
ngx_http_llm_calls_match(ngx_http_llm_calls_in_t *in, u_char *p,
    const void *text, size_t len)
{
    size_t  n;

    n = ngx_min((size_t) (in->end - p), len);

    if (n && ngx_memcmp(p, text, n) != 0) {
        return NGX_HTTP_LLM_CALLS_NO;
    }

    return (n == len) ? NGX_HTTP_LLM_CALLS_YES : NGX_HTTP_LLM_CALLS_WAIT;
}


/*
 * The first text, or NULL: *kept is then where a text that goes on behind
 * the end may begin.
 */

static u_char *
ngx_http_llm_calls_find(ngx_http_llm_calls_in_t *in, const char *text,
    u_char **kept)
{
    u_char  *p;
    size_t   len;

    len = ngx_strlen(text);

    for (p = in->pos; p < in->end; p++) {

        switch (ngx_http_llm_calls_match(in, p, text, len)) {

        case NGX_HTTP_LLM_CALLS_YES:
            return p;

        case NGX_HTTP_LLM_CALLS_WAIT:

            if (!in->last) {
                *kept = p;
                return NULL;
            }

            break;

        default: /* NGX_HTTP_LLM_CALLS_NO */
            break;
        }
    }

    *kept = in->end;

    return NULL;
}


static u_char *
ngx_http_llm_calls_skip(u_char *p, u_char *end)
{
    while (p < end && ngx_http_llm_space(*p)) {
        p++;
    }

    return p;
}


static u_char *
ngx_http_llm_calls_trim(u_char *p, u_char *end)
{
    while (end > p && ngx_http_llm_space(end[-1])) {
        end--;
    }

    return end;
}
