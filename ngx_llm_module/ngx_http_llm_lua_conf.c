/*
 * ngx_http_llm_lua_conf.c - hooks in the configuration: reads the Lua text of
 * a block or a file and compiles it at once, so that nginx -t reports its
 * errors.  Workers compile it again in their own state.
 *
 * A block is Lua text up to the brace that closes it.  The text is cut by a
 * small state machine that knows strings, long brackets and comments, because
 * braces in them do not count.
 */
#include "ngx_http_llm_lua_state.h"
#include "ngx_http_llm_conf.h"


#define NGX_HTTP_LLM_LUA_MAX_SOURCE  (1024 * 1024)

/* loading the library takes 0.6m; the maximum keeps sums within size_t */
#define NGX_HTTP_LLM_LUA_MIN_MEMORY  ((size_t) 2 * 1024 * 1024)
#define NGX_HTTP_LLM_LUA_MAX_MEMORY  ((size_t) 64 * 1024 * 1024 * 1024)


typedef enum {
    sw_code = 0,
    sw_string,              /* ends with quote */
    sw_string_escape,
    sw_dash,                /* after one '-' */
    sw_comment_start,       /* after "--" */
    sw_comment,
    sw_open,                /* after '[' and level times '=' */
    sw_comment_open,        /* the same in a comment */
    sw_long,                /* in a long bracket */
    sw_long_close           /* after ']' and count times '=' */
} ngx_http_llm_lua_state_e;


typedef struct {
    ngx_http_llm_lua_state_e  state;
    u_char                    quote;
    ngx_uint_t                level;    /* of the long bracket */
    ngx_uint_t                count;
    ngx_uint_t                depth;    /* of braces */
} ngx_http_llm_lua_lexer_t;


static ngx_int_t ngx_http_llm_lua_read_block(ngx_conf_t *cf,
    ngx_array_t *text);
static ngx_int_t ngx_http_llm_lua_read_byte(ngx_conf_t *cf, u_char *ch);
static ngx_int_t ngx_http_llm_lua_lex(ngx_http_llm_lua_lexer_t *lexer,
    u_char ch);
static char *ngx_http_llm_lua_hook(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf, ngx_str_t *file, ngx_str_t *source);


char *
ngx_http_llm_lua_block(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_str_t     source;
    ngx_uint_t    i, start;
    ngx_array_t  *text;

    start = cf->conf_file->line;

    text = ngx_array_create(cf->pool, 1024, 1);
    if (text == NULL) {
        return NGX_CONF_ERROR;
    }

    /* the chunk has the lines of the file, for its messages */

    for (i = 1; i < start; i++) {
        u_char  *p;

        p = ngx_array_push(text);
        if (p == NULL) {
            return NGX_CONF_ERROR;
        }

        *p = LF;
    }

    if (ngx_http_llm_lua_read_block(cf, text) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    source.data = text->elts;
    source.len = text->nelts;

    return ngx_http_llm_lua_hook(cf, cmd, conf, &cf->conf_file->file.name,
                                 &source);
}


char *
ngx_http_llm_lua_file(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_str_t  *value, text;

    value = cf->args->elts;

    if (ngx_http_llm_read_file(cf, &value[1], NGX_HTTP_LLM_LUA_MAX_SOURCE,
                               &text)
        != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    return ngx_http_llm_lua_hook(cf, cmd, conf, &value[1], &text);
}


char *
ngx_http_llm_lua_memory(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char    *rv;
    size_t   size;

    rv = ngx_conf_set_size_slot(cf, cmd, conf);

    if (rv != NGX_CONF_OK) {
        return rv;
    }

    size = *(size_t *) ((char *) conf + cmd->offset);

    if (size < NGX_HTTP_LLM_LUA_MIN_MEMORY
        || size > NGX_HTTP_LLM_LUA_MAX_MEMORY)
    {
        return "must be between 2m and 65536m";
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_llm_lua_hook(ngx_conf_t *cf, ngx_command_t *cmd, void *conf,
    ngx_str_t *file, ngx_str_t *source)
{
    u_char                    err[NGX_MAX_CONF_ERRSTR];
    ngx_http_llm_lua_hook_t  *hook, **place;

    static ngx_uint_t  id;

    place = (ngx_http_llm_lua_hook_t **) ((char *) conf + cmd->offset);

    if (*place != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    hook = ngx_pcalloc(cf->pool, sizeof(ngx_http_llm_lua_hook_t));
    if (hook == NULL) {
        return NGX_CONF_ERROR;
    }

    hook->chunk = ngx_pnalloc(cf->pool, file->len + 2);
    if (hook->chunk == NULL) {
        return NGX_CONF_ERROR;
    }

    (void) ngx_sprintf((u_char *) hook->chunk, "@%V%Z", file);

    hook->id = ++id;
    hook->source = *source;
    hook->name = (ngx_strncmp(cmd->name.data, "llm_prompt", 10) == 0)
                 ? "prompt hook" : "output hook";

    if (ngx_http_llm_lua_vm_check(&hook->source, hook->chunk, err,
                                  NGX_MAX_CONF_ERRSTR)
        != NGX_OK)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "Lua: %s", err);
        return NGX_CONF_ERROR;
    }

    *place = hook;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_llm_lua_read_block(ngx_conf_t *cf, ngx_array_t *text)
{
    u_char                    ch, *p;
    ngx_uint_t                start;
    ngx_http_llm_lua_lexer_t  lexer;

    start = cf->conf_file->line;

    ngx_memzero(&lexer, sizeof(ngx_http_llm_lua_lexer_t));

    lexer.depth = 1;

    for ( ;; ) {

        switch (ngx_http_llm_lua_read_byte(cf, &ch)) {

        case NGX_OK:
            break;

        case NGX_DONE:
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "unexpected end of file, the Lua block that "
                               "starts at line %ui is not closed", start);
            return NGX_ERROR;

        default:
            return NGX_ERROR;
        }

        if (ngx_http_llm_lua_lex(&lexer, ch) == NGX_DONE) {
            return NGX_OK;
        }

        if (text->nelts >= NGX_HTTP_LLM_LUA_MAX_SOURCE) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "the Lua block that starts at line %ui is "
                               "longer than %d bytes", start,
                               NGX_HTTP_LLM_LUA_MAX_SOURCE);
            return NGX_ERROR;
        }

        p = ngx_array_push(text);
        if (p == NULL) {
            return NGX_ERROR;
        }

        *p = ch;
    }
}


/*
 * The next byte of the configuration, read as nginx's own parser reads: the
 * buffer, the line and the dump of -T stay in step.  NGX_DONE is the end.
 */

static ngx_int_t
ngx_http_llm_lua_read_byte(ngx_conf_t *cf, u_char *ch)
{
    off_t             rest;
    size_t            size;
    ssize_t           n;
    ngx_buf_t        *b, *dump;
    ngx_conf_file_t  *file;

    file = cf->conf_file;
    b = file->buffer;

    if (b->pos >= b->last) {

        rest = ngx_file_size(&file->file.info) - file->file.offset;

        if (file->file.fd == NGX_INVALID_FILE || rest <= 0) {
            return NGX_DONE;
        }

        size = (size_t) ngx_min(rest, (off_t) (b->end - b->start));

        n = ngx_read_file(&file->file, b->start, size, file->file.offset);

        if (n == NGX_ERROR) {
            return NGX_ERROR;
        }

        if (n != (ssize_t) size) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               ngx_read_file_n " returned only %z bytes "
                               "instead of %uz", n, size);
            return NGX_ERROR;
        }

        b->pos = b->start;
        b->last = b->start + size;

        dump = file->dump;

        if (dump) {
            dump->last = ngx_cpymem(dump->last, b->start, size);
        }
    }

    *ch = *b->pos++;

    if (*ch == LF) {
        file->line++;
    }

    return NGX_OK;
}


/* NGX_DONE: ch is the brace that closes the block */

static ngx_int_t
ngx_http_llm_lua_lex(ngx_http_llm_lua_lexer_t *lexer, u_char ch)
{
    switch (lexer->state) {

    case sw_string_escape:
        lexer->state = sw_string;
        return NGX_OK;

    case sw_string:
        if (ch == '\\') {
            lexer->state = sw_string_escape;

        } else if (ch == lexer->quote || ch == LF) {
            lexer->state = sw_code;
        }

        return NGX_OK;

    case sw_comment:
        if (ch == LF) {
            lexer->state = sw_code;
        }

        return NGX_OK;

    case sw_comment_start:
    case sw_comment_open:
        if (lexer->state == sw_comment_start && ch == '[') {
            lexer->state = sw_comment_open;
            lexer->level = 0;

        } else if (lexer->state == sw_comment_open && ch == '=') {
            lexer->level++;

        } else if (lexer->state == sw_comment_open && ch == '[') {
            lexer->state = sw_long;

        } else {
            lexer->state = (ch == LF) ? sw_code : sw_comment;
        }

        return NGX_OK;

    case sw_long:
        if (ch == ']') {
            lexer->state = sw_long_close;
            lexer->count = 0;
        }

        return NGX_OK;

    case sw_long_close:
        if (ch == ']' && lexer->count == lexer->level) {
            lexer->state = sw_code;

        } else if (ch == ']') {
            lexer->count = 0;

        } else if (ch == '=') {
            lexer->count++;

        } else {
            lexer->state = sw_long;
        }

        return NGX_OK;

    case sw_dash:
        if (ch == '-') {
            lexer->state = sw_comment_start;
            return NGX_OK;
        }

        break;

    case sw_open:
        if (ch == '=') {
            lexer->level++;
            return NGX_OK;
        }

        if (ch == '[') {

            /* "[=[" opens a long string; "[[" too; "t[t[1]]" is code */

            lexer->state = sw_long;
            return NGX_OK;
        }

        break;

    default: /* sw_code */
        break;
    }

    lexer->state = sw_code;

    switch (ch) {

    case '"':
    case '\'':
        lexer->state = sw_string;
        lexer->quote = ch;
        break;

    case '-':
        lexer->state = sw_dash;
        break;

    case '[':
        lexer->state = sw_open;
        lexer->level = 0;
        break;

    case '{':
        lexer->depth++;
        break;

    case '}':
        if (--lexer->depth == 0) {
            return NGX_DONE;
        }

        break;
    }

    return NGX_OK;
}
