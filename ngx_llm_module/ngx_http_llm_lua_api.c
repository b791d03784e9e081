/*
 * ngx_http_llm_lua_api.c - the functions below llm.* that need nginx: timers,
 * variables, headers, the log; subrequests are in ngx_http_llm_lua_fetch.c.
 *
 * lua/llm/sandbox.lua checks and shapes arguments before it calls these, but
 * nothing here relies on it.  Each function runs inside a coroutine and may
 * raise; those that wait start their work, yield, and are resumed by
 * ngx_http_llm_lua_wake().
 */
#include "ngx_http_llm_lua_state.h"


#define NGX_HTTP_LLM_LUA_MAX_SLEEP  3600    /* seconds */


static int ngx_http_llm_lua_api_sleep(lua_State *L);
static int ngx_http_llm_lua_api_log(lua_State *L);
static int ngx_http_llm_lua_api_var(lua_State *L);
static int ngx_http_llm_lua_api_header(lua_State *L);
static int ngx_http_llm_lua_api_refuse(lua_State *L);
static int ngx_http_llm_lua_api_current(lua_State *L);
static int ngx_http_llm_lua_api_template(lua_State *L);
static int ngx_http_llm_lua_api_load_module(lua_State *L);


static const luaL_Reg  ngx_http_llm_lua_functions[] = {
    { "fetch", ngx_http_llm_lua_fetch },
    { "sleep", ngx_http_llm_lua_api_sleep },
    { "log", ngx_http_llm_lua_api_log },
    { "var", ngx_http_llm_lua_api_var },
    { "header", ngx_http_llm_lua_api_header },
    { "refuse", ngx_http_llm_lua_api_refuse },
    { "current", ngx_http_llm_lua_api_current },
    { "template", ngx_http_llm_lua_api_template },
    { "load_module", ngx_http_llm_lua_api_load_module },
    { NULL, NULL }
};


void
ngx_http_llm_lua_api_push(lua_State *L)
{
    const luaL_Reg  *f;

    lua_newtable(L);

    for (f = ngx_http_llm_lua_functions; f->func; f++) {
        lua_pushcfunction(L, f->func);
        lua_setfield(L, -2, f->name);
    }
}


static ngx_http_llm_lua_ctx_t *
ngx_http_llm_lua_api_ctx(lua_State *L)
{
    ngx_http_llm_lua_ctx_t  *lctx;

    lctx = ngx_http_llm_lua_vm.current;

    if (lctx == NULL) {
        luaL_error(L, "llm functions work in hooks only");
    }

    return lctx;
}


ngx_http_llm_lua_ctx_t *
ngx_http_llm_lua_api_wait(lua_State *L)
{
    ngx_http_llm_lua_ctx_t  *lctx;

    lctx = ngx_http_llm_lua_api_ctx(L);

    if (L != lctx->thread || lctx->fetch || lctx->timer.timer_set) {
        luaL_error(L, "the hook cannot wait here");
    }

    return lctx;
}


void
ngx_http_llm_lua_api_str(lua_State *L, int index, ngx_str_t *str)
{
    size_t  len;

    str->data = (u_char *) luaL_checklstring(L, index, &len);
    str->len = len;
}


u_char *
ngx_http_llm_lua_api_alloc(lua_State *L, ngx_pool_t *pool, size_t size)
{
    u_char  *p;

    p = ngx_pnalloc(pool, size ? size : 1);

    if (p == NULL) {
        luaL_error(L, "not enough memory");
    }

    return p;
}


/* --------------------------------------------------------------- timers */

static void
ngx_http_llm_lua_sleep_done(ngx_event_t *ev)
{
    ngx_http_llm_lua_wake(ev->data, 0);
}


static int
ngx_http_llm_lua_api_sleep(lua_State *L)
{
    lua_Number               seconds;
    ngx_http_llm_lua_ctx_t  *lctx;

    lctx = ngx_http_llm_lua_api_wait(L);
    seconds = luaL_checknumber(L, 1);

    if (!(seconds >= 0 && seconds <= NGX_HTTP_LLM_LUA_MAX_SLEEP)) {
        return luaL_error(L, "llm.sleep: seconds must be between 0 and %d",
                          NGX_HTTP_LLM_LUA_MAX_SLEEP);
    }

    lctx->timer.handler = ngx_http_llm_lua_sleep_done;
    lctx->timer.data = lctx;
    lctx->timer.log = lctx->request->connection->log;

    /* not cancelable: a quitting worker waits for it */

    ngx_add_timer(&lctx->timer, (ngx_msec_t) (seconds * 1000));

    return lua_yield(L, 0);
}


/* ------------------------------------------------- what the request says */

static int
ngx_http_llm_lua_api_log(lua_State *L)
{
    ngx_str_t                level, text;
    ngx_uint_t               i;
    ngx_http_llm_lua_ctx_t  *lctx;

    static struct {
        ngx_str_t   name;
        ngx_uint_t  level;
    } levels[] = {
        { ngx_string("debug"), NGX_LOG_DEBUG },
        { ngx_string("info"), NGX_LOG_INFO },
        { ngx_string("notice"), NGX_LOG_NOTICE },
        { ngx_string("warn"), NGX_LOG_WARN },
        { ngx_string("error"), NGX_LOG_ERR }
    };

    lctx = ngx_http_llm_lua_api_ctx(L);

    ngx_http_llm_lua_api_str(L, 1, &level);
    ngx_http_llm_lua_api_str(L, 2, &text);

    for (i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
        if (levels[i].name.len == level.len
            && ngx_memcmp(levels[i].name.data, level.data, level.len) == 0)
        {
            ngx_log_error(levels[i].level, lctx->request->connection->log, 0,
                          "llm %s: %V", lctx->hook->name, &text);
            return 0;
        }
    }

    return luaL_error(L, "llm.log: unknown level \"%s\"",
                      lua_tostring(L, 1));
}


static int
ngx_http_llm_lua_api_var(lua_State *L)
{
    u_char                     *low;
    ngx_str_t                   name;
    ngx_uint_t                  hash;
    ngx_http_llm_lua_ctx_t     *lctx;
    ngx_http_variable_value_t  *v;

    lctx = ngx_http_llm_lua_api_ctx(L);

    ngx_http_llm_lua_api_str(L, 1, &name);

    low = ngx_http_llm_lua_api_alloc(L, lctx->request->pool, name.len);
    hash = ngx_hash_strlow(low, name.data, name.len);
    name.data = low;

    v = ngx_http_get_variable(lctx->request, &name, hash);

    if (v == NULL || v->not_found) {
        lua_pushnil(L);

    } else {
        lua_pushlstring(L, (char *) v->data, v->len);
    }

    return 1;
}


/* a request header; several of one name are joined with commas */

static int
ngx_http_llm_lua_api_header(lua_State *L)
{
    int                      n;
    ngx_str_t                name;
    ngx_uint_t               i;
    ngx_list_part_t         *part;
    ngx_table_elt_t         *h;
    ngx_http_llm_lua_ctx_t  *lctx;

    lctx = ngx_http_llm_lua_api_ctx(L);

    ngx_http_llm_lua_api_str(L, 1, &name);

    part = &lctx->request->headers_in.headers.part;
    h = part->elts;
    n = 0;

    for (i = 0; /* void */; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                break;
            }

            part = part->next;
            h = part->elts;
            i = 0;
        }

        if (h[i].key.len != name.len
            || ngx_strncasecmp(h[i].key.data, name.data, name.len) != 0)
        {
            continue;
        }

        luaL_checkstack(L, 4, NULL);

        if (n++) {
            lua_pushliteral(L, ", ");
        }

        lua_pushlstring(L, (char *) h[i].value.data, h[i].value.len);

        if (n > 1) {
            lua_concat(L, 3);
        }
    }

    if (n == 0) {
        lua_pushnil(L);
    }

    return 1;
}


/* ------------------------------------------------------------- the rest */

/* refuse(status, message): does not return */

static int
ngx_http_llm_lua_api_refuse(lua_State *L)
{
    lua_Number               status;
    ngx_str_t                text;
    ngx_http_llm_lua_ctx_t  *lctx;

    lctx = ngx_http_llm_lua_api_ctx(L);

    status = luaL_optnumber(L, 1, NGX_HTTP_BAD_REQUEST);

    if (!(status >= 400 && status <= 599)) {
        return luaL_error(L, "llm.refuse: status must be between 400 and "
                          "599");
    }

    if (lua_isnoneornil(L, 2)) {
        ngx_str_set(&text, "Request refused by content policy");

    } else {
        ngx_http_llm_lua_api_str(L, 2, &text);
    }

    lctx->refusal->message.len = text.len;
    lctx->refusal->message.data = ngx_http_llm_lua_api_alloc(L,
                                       lctx->request->pool, text.len);
    ngx_memcpy(lctx->refusal->message.data, text.data, text.len);

    lctx->refusal->status = (ngx_uint_t) status;
    lctx->refusal->failed = 0;
    lctx->refused = 1;

    return luaL_error(L, "refused");
}


/* what entry.new() made for the request whose hook runs */

static int
ngx_http_llm_lua_api_current(lua_State *L)
{
    ngx_http_llm_lua_ctx_t  *lctx;

    lctx = ngx_http_llm_lua_api_ctx(L);

    lua_rawgeti(L, LUA_REGISTRYINDEX, lctx->self_ref);

    return 1;
}


/* the source of the chat template and the model's BOS and EOS text */

static int
ngx_http_llm_lua_api_template(lua_State *L)
{
    ngx_http_llm_ctx_t      *ctx;
    ngx_http_llm_lua_ctx_t  *lctx;
    const llm_model_info_t  *info;

    lctx = ngx_http_llm_lua_api_ctx(L);

    lua_pushlstring(L, (char *) lctx->template.data, lctx->template.len);

    ctx = ngx_http_get_module_ctx(lctx->request, ngx_http_llm_module);

    if (ctx == NULL || ctx->instance == NULL) {
        return 1;
    }

    info = llm_model_info(ctx->instance->model);

    lua_pushstring(L, info->bos_token);
    lua_pushstring(L, info->eos_token);

    return 3;
}


/* load_module("a.b"): the chunk of PATH/a/b.lua, or nil and a message */

static int
ngx_http_llm_lua_api_load_module(lua_State *L)
{
    char        *p, *path;
    size_t       i;
    ngx_str_t    name, *dir;

    ngx_http_llm_lua_api_str(L, 1, &name);

    dir = &ngx_http_llm_lua_vm.path;

    if (dir->len == 0) {
        lua_pushnil(L);
        lua_pushliteral(L, "llm_lua_path is not set");
        return 2;
    }

    path = lua_newuserdata(L, dir->len + name.len + sizeof("/.lua"));

    p = (char *) ngx_cpymem((u_char *) path, dir->data, dir->len);
    *p++ = '/';

    for (i = 0; i < name.len; i++) {
        u_char  ch;

        ch = name.data[i];

        if (ch == '.' && i > 0 && name.data[i - 1] != '.') {
            *p++ = '/';

        } else if ((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z')
                   || (ch >= '0' && ch <= '9') || ch == '-' || ch == '_')
        {
            *p++ = ch;

        } else {
            lua_pushnil(L);
            lua_pushliteral(L, "bad name");
            return 2;
        }
    }

    ngx_memcpy(p, ".lua", sizeof(".lua"));

    if (luaL_loadfilex(L, path, "t") != 0) {
        lua_pushnil(L);
        lua_insert(L, -2);
        return 2;
    }

    return 1;
}
