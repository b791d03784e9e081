/*
 * ngx_http_llm_lua_fetch.c - llm.fetch(): a subrequest whose answer is kept in
 * memory.
 *
 * It is a background subrequest: the response of the request itself goes on
 * beside it.  Its record outlives a hook that ends early; the record's lctx
 * is NULL then, and the answer is dropped.
 */
#include "ngx_http_llm_lua_state.h"


typedef struct {
    ngx_uint_t   method;
    ngx_str_t    name;
} ngx_http_llm_lua_method_t;


static void ngx_http_llm_lua_fetch_abort(ngx_http_request_t *sr);
static ngx_int_t ngx_http_llm_lua_fetch_request(ngx_http_request_t *sr,
    lua_State *L, ngx_str_t *body);
static ngx_int_t ngx_http_llm_lua_fetch_headers(ngx_http_request_t *sr,
    lua_State *L, ngx_uint_t has_body);
static ngx_int_t ngx_http_llm_lua_fetch_inherit(ngx_http_request_t *sr,
    lua_State *L, int n);
static ngx_uint_t ngx_http_llm_lua_fetch_drops(ngx_table_elt_t *h,
    lua_State *L, int n);
static void ngx_http_llm_lua_fetch_check(lua_State *L, const char *name,
    size_t name_len, const char *value, size_t value_len);
static ngx_table_elt_t *ngx_http_llm_lua_fetch_header(ngx_http_request_t *sr,
    ngx_list_t *list, const char *name, size_t name_len, const char *value,
    size_t value_len);
static ngx_int_t ngx_http_llm_lua_fetch_body(ngx_http_request_t *sr,
    ngx_str_t *body);
static ngx_int_t ngx_http_llm_lua_fetch_done(ngx_http_request_t *sr,
    void *data, ngx_int_t rc);


static ngx_http_llm_lua_method_t  ngx_http_llm_lua_methods[] = {
    { NGX_HTTP_GET, ngx_string("GET ") },
    { NGX_HTTP_POST, ngx_string("POST ") },
    { NGX_HTTP_PUT, ngx_string("PUT ") },
    { NGX_HTTP_DELETE, ngx_string("DELETE ") },
    { NGX_HTTP_HEAD, ngx_string("HEAD ") },
    { NGX_HTTP_PATCH, ngx_string("PATCH ") },
    { NGX_HTTP_OPTIONS, ngx_string("OPTIONS ") },
    { 0, ngx_null_string }
};


int
ngx_http_llm_lua_fetch(lua_State *L)
{
    ngx_str_t                    uri, args, body, given, *bodyp;
    ngx_uint_t                   flags;
    ngx_http_request_t          *r, *sr;
    ngx_http_llm_lua_ctx_t      *lctx;
    ngx_http_llm_lua_fetch_t    *fetch;
    ngx_http_post_subrequest_t  *ps;

    lctx = ngx_http_llm_lua_api_wait(L);
    r = lctx->request;

    ngx_http_llm_lua_api_str(L, 1, &given);
    ngx_http_llm_lua_api_str(L, 3, &args);
    luaL_checktype(L, 5, LUA_TTABLE);

    uri.len = given.len;
    uri.data = ngx_http_llm_lua_api_alloc(L, r->pool, uri.len);
    ngx_memcpy(uri.data, given.data, uri.len);

    given = args;
    args.data = ngx_http_llm_lua_api_alloc(L, r->pool, args.len);
    ngx_memcpy(args.data, given.data, args.len);

    ngx_str_null(&given);
    flags = 0;

    if (uri.len == 0 || uri.data[0] != '/'
        || ngx_http_parse_unsafe_uri(r, &uri, &given, &flags) != NGX_OK)
    {
        return luaL_error(L, "llm.fetch: bad URI \"%s\"", lua_tostring(L, 1));
    }

    if (args.len == 0) {
        args = given;
    }

    bodyp = NULL;

    if (!lua_isnoneornil(L, 4)) {
        ngx_http_llm_lua_api_str(L, 4, &body);
        bodyp = &body;
    }

    fetch = ngx_pcalloc(r->pool, sizeof(ngx_http_llm_lua_fetch_t));
    ps = ngx_palloc(r->pool, sizeof(ngx_http_post_subrequest_t));

    if (fetch == NULL || ps == NULL) {
        return luaL_error(L, "not enough memory");
    }

    ps->handler = ngx_http_llm_lua_fetch_done;
    ps->data = fetch;

    /* what can be wrong with the rest is found before the request exists */

    if (ngx_http_llm_lua_fetch_request(NULL, L, bodyp) != NGX_OK) {
        return luaL_error(L, "llm.fetch: unknown method \"%s\"",
                          lua_tostring(L, 2));
    }

    if (ngx_http_subrequest(r, &uri, &args, &sr, ps,
                            NGX_HTTP_SUBREQUEST_IN_MEMORY
                            |NGX_HTTP_SUBREQUEST_BACKGROUND)
        != NGX_OK)
    {
        return luaL_error(L, "llm.fetch: the subrequest cannot be made");
    }

    if (ngx_http_llm_lua_fetch_request(sr, L, bodyp) != NGX_OK) {

        /* it is posted already: let it end where it begins */

        sr->post_subrequest = NULL;
        sr->write_event_handler = ngx_http_llm_lua_fetch_abort;

        return luaL_error(L, "not enough memory");
    }

    fetch->lctx = lctx;
    lctx->fetch = fetch;

    return lua_yield(L, 0);
}


static void
ngx_http_llm_lua_fetch_abort(ngx_http_request_t *sr)
{
    ngx_http_finalize_request(sr, NGX_OK);
}


/* method, body and headers; sr == NULL: only looks whether they are good */

static ngx_int_t
ngx_http_llm_lua_fetch_request(ngx_http_request_t *sr, lua_State *L,
    ngx_str_t *body)
{
    ngx_str_t                   name;
    ngx_http_llm_lua_method_t  *m;

    ngx_http_llm_lua_api_str(L, 2, &name);

    for (m = ngx_http_llm_lua_methods; m->method; m++) {
        if (m->name.len == name.len + 1
            && ngx_strncmp(m->name.data, name.data, name.len) == 0)
        {
            break;
        }
    }

    if (m->method == 0) {
        return NGX_ERROR;
    }

    if (sr) {
        sr->method = m->method;
        sr->method_name = m->name;
        sr->method_name.len--;      /* the space stays behind it */
    }

    if (ngx_http_llm_lua_fetch_headers(sr, L, body != NULL) != NGX_OK) {
        return NGX_ERROR;
    }

    return sr ? ngx_http_llm_lua_fetch_body(sr, body) : NGX_OK;
}


static ngx_int_t
ngx_http_llm_lua_fetch_body(ngx_http_request_t *sr, ngx_str_t *body)
{
    u_char                   *p;
    ngx_buf_t                *b;
    ngx_table_elt_t          *h;
    ngx_http_request_body_t  *rb;

    rb = ngx_pcalloc(sr->pool, sizeof(ngx_http_request_body_t));
    if (rb == NULL) {
        return NGX_ERROR;
    }

    sr->request_body = rb;
    sr->headers_in.content_length_n = -1;

    if (body == NULL) {
        return NGX_OK;
    }

    p = ngx_pnalloc(sr->pool, NGX_OFF_T_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    h = ngx_http_llm_lua_fetch_header(sr, &sr->headers_in.headers,
                                      "Content-Length", 14, (char *) p,
                                      ngx_sprintf(p, "%uz", body->len) - p);
    if (h == NULL) {
        return NGX_ERROR;
    }

    sr->headers_in.content_length = h;
    sr->headers_in.content_length_n = (off_t) body->len;

    if (body->len == 0) {
        return NGX_OK;
    }

    b = ngx_create_temp_buf(sr->pool, body->len);
    if (b == NULL) {
        return NGX_ERROR;
    }

    b->last = ngx_cpymem(b->last, body->data, body->len);
    b->last_buf = 1;

    rb->bufs = ngx_alloc_chain_link(sr->pool);
    if (rb->bufs == NULL) {
        return NGX_ERROR;
    }

    rb->bufs->buf = b;
    rb->bufs->next = NULL;
    rb->buf = b;

    return NGX_OK;
}


/*
 * The client's headers without those that describe its body or ask for a
 * special form of the answer, then those of the script.
 */

static ngx_int_t
ngx_http_llm_lua_fetch_headers(ngx_http_request_t *sr, lua_State *L,
    ngx_uint_t has_body)
{
    int               i, n;
    size_t            name_len, value_len;
    const char       *name, *value;
    ngx_table_elt_t  *h;

    n = (int) lua_objlen(L, 5);

    if (sr && ngx_http_llm_lua_fetch_inherit(sr, L, n) != NGX_OK) {
        return NGX_ERROR;
    }

    for (i = 1; i + 1 <= n; i += 2) {

        lua_rawgeti(L, 5, i);
        lua_rawgeti(L, 5, i + 1);

        name = lua_tolstring(L, -2, &name_len);
        value = lua_tolstring(L, -1, &value_len);

        if (name == NULL || value == NULL) {
            return luaL_error(L, "llm.fetch: bad header");
        }

        if (sr == NULL) {
            ngx_http_llm_lua_fetch_check(L, name, name_len, value, value_len);

        } else {
            h = ngx_http_llm_lua_fetch_header(sr, &sr->headers_in.headers,
                                              name, name_len, value,
                                              value_len);
            if (h == NULL) {
                return NGX_ERROR;
            }

            if (ngx_strcasecmp((u_char *) name, (u_char *) "content-type")
                == 0)
            {
                sr->headers_in.content_type = h;
            }
        }

        lua_pop(L, 2);
    }

    if (sr && has_body && sr->headers_in.content_type == NULL) {
        h = ngx_http_llm_lua_fetch_header(sr, &sr->headers_in.headers,
                                          "Content-Type", 12,
                                          "application/json", 16);
        if (h == NULL) {
            return NGX_ERROR;
        }

        sr->headers_in.content_type = h;
    }

    return NGX_OK;
}


/* headers of the client that the subrequest does not get */

static ngx_uint_t
ngx_http_llm_lua_fetch_drops(ngx_table_elt_t *h, lua_State *L, int n)
{
    int          i;
    ngx_uint_t   k, given;

    static const char  *dropped[] = {
        "content-length", "transfer-encoding", "content-type",
        "accept-encoding", "connection", "expect", "upgrade", "range",
        "if-modified-since", "if-unmodified-since", "if-match",
        "if-none-match", "if-range", "te", NULL
    };

    for (k = 0; dropped[k]; k++) {
        if (ngx_strcasecmp(h->key.data, (u_char *) dropped[k]) == 0) {
            return 1;
        }
    }

    for (i = 1; i + 1 <= n; i += 2) {

        lua_rawgeti(L, 5, i);

        given = (ngx_strcasecmp(h->key.data,
                                (u_char *) lua_tostring(L, -1)) == 0);
        lua_pop(L, 1);

        if (given) {
            return 1;
        }
    }

    return 0;
}


static ngx_int_t
ngx_http_llm_lua_fetch_inherit(ngx_http_request_t *sr, lua_State *L, int n)
{
    ngx_uint_t        i;
    ngx_list_t        list;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    if (ngx_list_init(&list, sr->pool, 8, sizeof(ngx_table_elt_t))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    part = &sr->headers_in.headers.part;
    h = part->elts;

    for (i = 0; /* void */; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                break;
            }

            part = part->next;
            h = part->elts;
            i = 0;
        }

        if (!ngx_http_llm_lua_fetch_drops(&h[i], L, n)
            && ngx_http_llm_lua_fetch_header(sr, &list,
                   (char *) h[i].key.data, h[i].key.len,
                   (char *) h[i].value.data, h[i].value.len) == NULL)
        {
            return NGX_ERROR;
        }
    }

    sr->headers_in.headers = list;

    if (list.last == &list.part) {
        sr->headers_in.headers.last = &sr->headers_in.headers.part;
    }

    sr->headers_in.content_length = NULL;
    sr->headers_in.content_type = NULL;
    sr->headers_in.transfer_encoding = NULL;
    sr->headers_in.chunked = 0;
    sr->headers_in.range = NULL;
    sr->headers_in.if_range = NULL;
    sr->headers_in.if_match = NULL;
    sr->headers_in.if_none_match = NULL;
    sr->headers_in.if_modified_since = NULL;
    sr->headers_in.if_unmodified_since = NULL;
    sr->headers_in.expect = NULL;
    sr->headers_in.upgrade = NULL;
#if (NGX_HTTP_GZIP)
    sr->headers_in.accept_encoding = NULL;
#endif

    return NGX_OK;
}


/* raises if a header of the script cannot be sent */

static void
ngx_http_llm_lua_fetch_check(lua_State *L, const char *name, size_t name_len,
    const char *value, size_t value_len)
{
    u_char  ch;
    size_t  i;

    for (i = 0; i < name_len; i++) {
        ch = name[i];

        if (!((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z')
              || (ch >= '0' && ch <= '9') || ch == '-' || ch == '_'))
        {
            break;
        }
    }

    if (i < name_len || name_len == 0
        || ngx_strcasecmp((u_char *) name, (u_char *) "content-length") == 0
        || ngx_strcasecmp((u_char *) name, (u_char *) "transfer-encoding")
           == 0)
    {
        luaL_error(L, "llm.fetch: header \"%s\" cannot be set", name);
    }

    for (i = 0; i < value_len; i++) {
        if (value[i] == CR || value[i] == LF || value[i] == '\0') {
            luaL_error(L, "llm.fetch: bad value of header \"%s\"", name);
        }
    }
}


/* appends a copy of a header */

static ngx_table_elt_t *
ngx_http_llm_lua_fetch_header(ngx_http_request_t *sr, ngx_list_t *list,
    const char *name, size_t name_len, const char *value, size_t value_len)
{
    u_char           *p;
    ngx_table_elt_t  *h;

    h = ngx_list_push(list);
    if (h == NULL) {
        return NULL;
    }

    p = ngx_pnalloc(sr->pool, 2 * name_len + value_len + 3);
    if (p == NULL) {
        h->hash = 0;
        return NULL;
    }

    ngx_memzero(h, sizeof(ngx_table_elt_t));

    h->key.data = p;
    h->key.len = name_len;
    p = ngx_cpymem(p, name, name_len);
    *p++ = '\0';

    h->value.data = p;
    h->value.len = value_len;
    p = ngx_cpymem(p, value, value_len);
    *p++ = '\0';

    h->lowcase_key = p;
    h->hash = ngx_hash_strlow(p, h->key.data, name_len);
    p[name_len] = '\0';

    return h;
}


/*
 * The end of a subrequest.  It always ends well for nginx: an error of it is
 * a status for the script, not the end of the client's request.
 */

static ngx_int_t
ngx_http_llm_lua_fetch_done(ngx_http_request_t *sr, void *data, ngx_int_t rc)
{
    ngx_buf_t                 *b;
    ngx_connection_t          *c;
    ngx_http_llm_lua_ctx_t    *lctx;
    ngx_http_llm_lua_fetch_t  *fetch = data;

    lctx = fetch->lctx;
    c = sr->connection;

    /*
     * A filter that fails marks the connection as broken and keeps the rest
     * of its input, although only the answer of this subrequest was too large
     * for its buffer.
     */

    if (rc == NGX_ERROR && !c->read->error && !c->read->eof
        && !c->write->error && !c->timedout)
    {
        c->error = 0;
        sr->buffered = 0;
    }

    if (lctx == NULL || fetch->status) {
        return NGX_OK;
    }

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE
        || rc == NGX_HTTP_CREATED || rc == NGX_HTTP_NO_CONTENT)
    {
        fetch->status = rc;

    } else if (rc == NGX_ERROR) {
        fetch->status = NGX_HTTP_INTERNAL_SERVER_ERROR;
        fetch->failed = 1;

    } else {
        fetch->status = sr->headers_out.status ? sr->headers_out.status
                                               : NGX_HTTP_OK;
        fetch->headers = &sr->headers_out.headers;
        fetch->content_type = sr->headers_out.content_type;

        if (sr->out && sr->out->buf) {
            b = sr->out->buf;

            fetch->body.data = b->pos;
            fetch->body.len = b->last - b->pos;
        }
    }

    ngx_post_event(&lctx->wake, &ngx_posted_events);

    return NGX_OK;
}


void
ngx_http_llm_lua_fetch_push(lua_State *L,
    ngx_http_llm_lua_fetch_t *fetch)
{
    u_char           *low;
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    lua_createtable(L, 0, 4);

    lua_pushinteger(L, fetch->status);
    lua_setfield(L, -2, "status");

    lua_pushlstring(L, (char *) fetch->body.data, fetch->body.len);
    lua_setfield(L, -2, "body");

    if (fetch->failed) {
        lua_pushliteral(L, "the subrequest failed, see the error log");
        lua_setfield(L, -2, "error");
    }

    lua_newtable(L);

    if (fetch->content_type.len) {
        lua_pushlstring(L, (char *) fetch->content_type.data,
                        fetch->content_type.len);
        lua_setfield(L, -2, "content-type");
    }

    if (fetch->headers) {
        part = &fetch->headers->part;
        h = part->elts;

        for (i = 0; /* void */; i++) {

            if (i >= part->nelts) {
                if (part->next == NULL) {
                    break;
                }

                part = part->next;
                h = part->elts;
                i = 0;
            }

            if (h[i].hash == 0) {
                continue;
            }

            low = lua_newuserdata(L, h[i].key.len + 1);
            ngx_strlow(low, h[i].key.data, h[i].key.len);

            lua_pushlstring(L, (char *) low, h[i].key.len);
            lua_pushlstring(L, (char *) h[i].value.data, h[i].value.len);
            lua_rawset(L, -4);
            lua_pop(L, 1);
        }
    }

    lua_setfield(L, -2, "headers");
}
