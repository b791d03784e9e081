/*
 * ngx_http_llm_lua.c - runs hooks: the life of a coroutine, its results and
 * errors.  Implements ngx_http_llm_lua.h together with
 * ngx_http_llm_lua_conf.c (directives) and ngx_http_llm_lua_render.c
 * (templates).
 *
 * A request has one Lua object (environment, llm.ctx) and one coroutine for
 * all its hook calls, both anchored in the registry while the request lives.
 * A hook that waits has yielded; the event that ends the wait resumes it from
 * the event loop.  Nothing of a released request is ever resumed: its timer
 * and its posted event are gone, and its subrequest finds lctx == NULL.
 *
 * What can raise a Lua error runs in lua_cpcall() or in the coroutine.  The
 * coroutine's stack is empty between calls, so that moving up to five values
 * there cannot fail.
 */
#include "ngx_http_llm_lua_state.h"
#include "ngx_http_llm_json.h"


#define NGX_HTTP_LLM_LUA_ERROR  1536  /* bytes of an error to log */


typedef struct {
    ngx_http_llm_lua_ctx_t   *lctx;
    int                       nargs;
} ngx_http_llm_lua_start_t;


static ngx_http_llm_lua_ctx_t *ngx_http_llm_lua_ctx(ngx_http_request_t *r,
    ngx_http_llm_lua_ctx_t **lctx);
static ngx_int_t ngx_http_llm_lua_start(ngx_http_llm_lua_ctx_t *lctx);
static int ngx_http_llm_lua_start_protected(lua_State *L);
static void ngx_http_llm_lua_push_factory(lua_State *L,
    ngx_http_llm_lua_hook_t *hook);
static ngx_int_t ngx_http_llm_lua_resume(ngx_http_llm_lua_ctx_t *lctx,
    int nargs);
static ngx_int_t ngx_http_llm_lua_finish(ngx_http_llm_lua_ctx_t *lctx);
static ngx_int_t ngx_http_llm_lua_finish_prompt(ngx_http_llm_lua_ctx_t *lctx,
    lua_State *L);
static ngx_int_t ngx_http_llm_lua_finish_output(ngx_http_llm_lua_ctx_t *lctx,
    lua_State *L);
static ngx_int_t ngx_http_llm_lua_fail(ngx_http_llm_lua_ctx_t *lctx,
    const char *text);
static void ngx_http_llm_lua_describe(ngx_http_llm_lua_ctx_t *lctx,
    u_char *text, size_t len);
static int ngx_http_llm_lua_describe_protected(lua_State *L);
static void ngx_http_llm_lua_end_call(ngx_http_llm_lua_ctx_t *lctx,
    ngx_uint_t drop);
static void ngx_http_llm_lua_fetched(ngx_event_t *ev);
static int ngx_http_llm_lua_fetched_protected(lua_State *L);
static int ngx_http_llm_lua_collect_protected(lua_State *L);


/* -------------------------------------------------------------- process */

ngx_int_t
ngx_http_llm_lua_init_process(ngx_cycle_t *cycle)
{
    u_char                     err[NGX_MAX_CONF_ERRSTR];
    ngx_http_llm_lua_vm_t     *vm;
    ngx_http_llm_lua_conf_t   *conf;
    ngx_http_llm_main_conf_t  *lmcf;

    vm = &ngx_http_llm_lua_vm;

    lmcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_llm_module);

    if (lmcf == NULL || vm->state) {
        return NGX_OK;
    }

    conf = &lmcf->lua;

    vm->limit = conf->memory;
    vm->output = conf->output;
    vm->jit = conf->jit;
    vm->timeout = conf->timeout;
    vm->steps = conf->steps;
    vm->path = conf->path;

    if (vm->path.len
        && ngx_conf_full_name(cycle, &vm->path, 1) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ngx_http_llm_lua_vm_open(vm, err, NGX_MAX_CONF_ERRSTR) != NGX_OK) {
        ngx_log_error(NGX_LOG_ERR, cycle->log, 0, "llm: Lua: %s", err);
        return NGX_ERROR;
    }

    return NGX_OK;
}


void
ngx_http_llm_lua_exit_process(ngx_cycle_t *cycle)
{
    ngx_http_llm_lua_vm_close(&ngx_http_llm_lua_vm);
}


/* ---------------------------------------------------------------- hooks */

ngx_int_t
ngx_http_llm_lua_prompt(ngx_http_request_t *r,
    ngx_http_llm_lua_ctx_t **lctx, ngx_http_llm_lua_hook_t *hook,
    ngx_str_t *template, json_t **req, ngx_str_t *prompt,
    ngx_http_llm_lua_refusal_t *refusal, ngx_http_llm_lua_done_pt done,
    void *data)
{
    ngx_http_llm_lua_ctx_t  *l;

    ngx_memzero(refusal, sizeof(ngx_http_llm_lua_refusal_t));
    ngx_str_null(prompt);

    l = ngx_http_llm_lua_ctx(r, lctx);
    if (l == NULL) {
        refusal->status = NGX_HTTP_INTERNAL_SERVER_ERROR;
        refusal->failed = 1;
        ngx_str_set(&refusal->message, "Out of memory");
        return NGX_ERROR;
    }

    l->hook = hook;
    l->template = *template;
    l->req = req;
    l->prompt = prompt;
    l->out = NULL;
    l->refusal = refusal;
    l->done = done;
    l->data = data;

    return ngx_http_llm_lua_start(l);
}


ngx_int_t
ngx_http_llm_lua_output(ngx_http_request_t *r,
    ngx_http_llm_lua_ctx_t **lctx, ngx_http_llm_lua_hook_t *hook,
    ngx_str_t *piece, ngx_uint_t last, ngx_http_llm_lua_out_t *out,
    ngx_http_llm_lua_refusal_t *refusal, ngx_http_llm_lua_done_pt done,
    void *data)
{
    ngx_http_llm_lua_ctx_t  *l;

    ngx_memzero(refusal, sizeof(ngx_http_llm_lua_refusal_t));
    ngx_memzero(out, sizeof(ngx_http_llm_lua_out_t));

    l = ngx_http_llm_lua_ctx(r, lctx);
    if (l == NULL) {
        refusal->status = NGX_HTTP_INTERNAL_SERVER_ERROR;
        refusal->failed = 1;
        ngx_str_set(&refusal->message, "Out of memory");
        return NGX_ERROR;
    }

    l->hook = hook;
    l->req = NULL;
    l->prompt = NULL;
    l->piece = *piece;
    l->last = last ? 1 : 0;
    l->out = out;
    l->refusal = refusal;
    l->done = done;
    l->data = data;

    return ngx_http_llm_lua_start(l);
}


static ngx_http_llm_lua_ctx_t *
ngx_http_llm_lua_ctx(ngx_http_request_t *r, ngx_http_llm_lua_ctx_t **lctx)
{
    ngx_http_llm_lua_ctx_t  *l;

    if (*lctx) {
        return *lctx;
    }

    l = ngx_pcalloc(r->pool, sizeof(ngx_http_llm_lua_ctx_t));
    if (l == NULL) {
        return NULL;
    }

    l->request = r;
    l->thread_ref = LUA_NOREF;
    l->self_ref = LUA_NOREF;

    l->wake.handler = ngx_http_llm_lua_fetched;
    l->wake.data = l;
    l->wake.log = r->connection->log;

    *lctx = l;

    return l;
}


/* puts function and arguments on the stack of the coroutine and runs it */

static ngx_int_t
ngx_http_llm_lua_start(ngx_http_llm_lua_ctx_t *lctx)
{
    lua_State                 *L;
    ngx_http_llm_lua_start_t   start;

    L = ngx_http_llm_lua_vm.state;

    lctx->refused = 0;

    if (L == NULL) {
        return ngx_http_llm_lua_fail(lctx, "no Lua state in this process");
    }

    if (lctx->waiting || lctx->released) {
        return ngx_http_llm_lua_fail(lctx, "called while it runs");
    }

    ngx_http_llm_lua_collect();

    start.lctx = lctx;
    start.nargs = 0;

    if (lua_cpcall(L, ngx_http_llm_lua_start_protected, &start) != 0) {
        ngx_int_t  rc;

        rc = ngx_http_llm_lua_fail(lctx, ngx_http_llm_lua_vm_message(L));
        lua_settop(L, 0);
        ngx_http_llm_lua_end_call(lctx, 1);
        return rc;
    }

    return ngx_http_llm_lua_resume(lctx, start.nargs);
}


static int
ngx_http_llm_lua_start_protected(lua_State *L)
{
    int                        top;
    ngx_http_llm_lua_vm_t     *vm;
    ngx_http_llm_lua_ctx_t    *lctx;
    ngx_http_llm_lua_start_t  *start = lua_touserdata(L, 1);

    vm = &ngx_http_llm_lua_vm;
    lctx = start->lctx;

    if (lctx->thread == NULL) {
        lctx->thread = lua_newthread(L);
        lctx->thread_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    }

    if (lctx->self_ref == LUA_NOREF) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, vm->new_ctx);
        lua_call(L, 0, 1);
        lctx->self_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    }

    top = lua_gettop(L);

    lua_rawgeti(L, LUA_REGISTRYINDEX,
                lctx->out ? vm->output_hook : vm->prompt);
    lua_rawgeti(L, LUA_REGISTRYINDEX, lctx->self_ref);
    ngx_http_llm_lua_push_factory(L, lctx->hook);

    if (lctx->out) {
        lua_pushlstring(L, (char *) lctx->piece.data, lctx->piece.len);
        lua_pushboolean(L, lctx->last);

    } else {
        ngx_http_llm_lua_json_push(vm, L, *lctx->req, 0);
    }

    start->nargs = lua_gettop(L) - top - 1;
    lua_xmove(L, lctx->thread, start->nargs + 1);

    return 0;
}


/*
 * The compiled hook, made at its first use in this process: a function that
 * returns the function of the hook, so that each request has its own.
 */

static void
ngx_http_llm_lua_push_factory(lua_State *L, ngx_http_llm_lua_hook_t *hook)
{
    size_t       len;
    const char  *source;

    lua_rawgeti(L, LUA_REGISTRYINDEX, ngx_http_llm_lua_vm.hooks);
    lua_rawgeti(L, -1, (int) hook->id);

    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);

        lua_pushliteral(L, "return function(...) ");
        lua_pushlstring(L, (char *) hook->source.data, hook->source.len);
        lua_pushliteral(L, "\nend");
        lua_concat(L, 3);

        source = lua_tolstring(L, -1, &len);

        if (luaL_loadbufferx(L, source, len, hook->chunk, "t") != 0) {
            lua_error(L);
        }

        lua_remove(L, -2);

        lua_pushvalue(L, -1);
        lua_rawseti(L, -3, (int) hook->id);
    }

    lua_remove(L, -2);
}


/* runs the coroutine until it waits or ends */

static ngx_int_t
ngx_http_llm_lua_resume(ngx_http_llm_lua_ctx_t *lctx, int nargs)
{
    int                     rc;
    u_char                  text[NGX_HTTP_LLM_LUA_ERROR];
    ngx_int_t               result;
    ngx_http_llm_lua_vm_t  *vm;

    vm = &ngx_http_llm_lua_vm;

    vm->current = lctx;
    ngx_http_llm_lua_vm_begin(vm, vm->timeout, vm->steps);

    rc = lua_resume(lctx->thread, nargs);

    ngx_http_llm_lua_vm_end(vm);
    vm->current = NULL;

    if (rc == LUA_YIELD && !vm->killed && !lctx->refused
        && (lctx->fetch || lctx->timer.timer_set))
    {
        lctx->waiting = 1;
        return NGX_AGAIN;
    }

    if (lctx->refused) {
        result = NGX_DECLINED;

    } else if (vm->killed && (rc == 0 || rc == LUA_YIELD)) {
        result = ngx_http_llm_lua_fail(lctx, vm->starved
                                             ? "not enough memory"
                                             : "ran past its limits");

    } else if (rc == 0) {
        result = ngx_http_llm_lua_finish(lctx);

    } else if (rc == LUA_YIELD) {
        result = ngx_http_llm_lua_fail(lctx, "attempt to yield");

    } else {
        ngx_http_llm_lua_describe(lctx, text, NGX_HTTP_LLM_LUA_ERROR);
        result = ngx_http_llm_lua_fail(lctx, (char *) text);
    }

    ngx_http_llm_lua_end_call(lctx, rc != 0);

    return result;
}


void
ngx_http_llm_lua_wake(ngx_http_llm_lua_ctx_t *lctx, int nargs)
{
    ngx_int_t            rc;
    ngx_connection_t    *c;
    ngx_http_request_t  *r;

    if (!lctx->waiting) {
        return;
    }

    r = lctx->request;
    c = r->connection;

    ngx_http_set_log_request(c->log, r);

    lctx->waiting = 0;

    rc = ngx_http_llm_lua_resume(lctx, nargs);

    if (rc != NGX_AGAIN) {
        lctx->done(r, lctx->data, rc);
    }

    ngx_http_run_posted_requests(c);
}


/* the subrequest of llm.fetch() is complete */

static void
ngx_http_llm_lua_fetched(ngx_event_t *ev)
{
    lua_State               *L;
    ngx_http_llm_lua_ctx_t  *lctx = ev->data;

    L = ngx_http_llm_lua_vm.state;

    if (lctx->fetch == NULL || !lctx->waiting) {
        return;
    }

    if (lua_cpcall(L, ngx_http_llm_lua_fetched_protected, lctx) != 0) {

        /* no memory for the answer: the script sees none */

        lua_settop(L, 0);
        lua_pushnil(lctx->thread);
    }

    lctx->fetch->lctx = NULL;
    lctx->fetch = NULL;

    ngx_http_llm_lua_wake(lctx, 1);
}


static int
ngx_http_llm_lua_fetched_protected(lua_State *L)
{
    ngx_http_llm_lua_ctx_t  *lctx = lua_touserdata(L, 1);

    ngx_http_llm_lua_fetch_push(L, lctx->fetch);
    lua_xmove(L, lctx->thread, 1);

    return 0;
}


/* -------------------------------------------------------------- results */

static ngx_int_t
ngx_http_llm_lua_finish(ngx_http_llm_lua_ctx_t *lctx)
{
    if (lctx->out) {
        return ngx_http_llm_lua_finish_output(lctx, lctx->thread);
    }

    return ngx_http_llm_lua_finish_prompt(lctx, lctx->thread);
}


/* the stack has the request as JSON text and the prompt or nil */

static ngx_int_t
ngx_http_llm_lua_finish_prompt(ngx_http_llm_lua_ctx_t *lctx, lua_State *L)
{
    size_t         len;
    json_t        *req;
    const char    *text;
    json_error_t   error;

    if (lua_gettop(L) < 1 || lua_type(L, 1) != LUA_TSTRING) {
        return ngx_http_llm_lua_fail(lctx, "no result");
    }

    text = lua_tolstring(L, 1, &len);

    req = ngx_http_llm_json_load(text, len, JSON_DECODE_ANY|JSON_ALLOW_NUL,
                                 &error);

    if (req == NULL) {
        return ngx_http_llm_lua_fail(lctx, error.text);
    }

    if (lua_gettop(L) >= 2 && lua_type(L, 2) == LUA_TSTRING
        && ngx_http_llm_lua_str(lctx->request->pool, L, 2, lctx->prompt)
           != NGX_OK)
    {
        json_decref(req);
        return ngx_http_llm_lua_fail(lctx, "not enough memory");
    }

    json_decref(*lctx->req);
    *lctx->req = req;

    return NGX_OK;
}


/* the stack has text and whether to stop, or nil */

static ngx_int_t
ngx_http_llm_lua_finish_output(ngx_http_llm_lua_ctx_t *lctx, lua_State *L)
{
    if (lua_gettop(L) < 1 || lua_type(L, 1) != LUA_TSTRING) {
        lctx->out->hold = 1;
        lctx->out->text.data = (u_char *) "";
        return NGX_OK;
    }

    if (ngx_http_llm_lua_str(lctx->request->pool, L, 1, &lctx->out->text)
        != NGX_OK)
    {
        return ngx_http_llm_lua_fail(lctx, "not enough memory");
    }

    lctx->out->stop = lua_toboolean(L, 2) ? 1 : 0;

    return NGX_OK;
}


ngx_int_t
ngx_http_llm_lua_str(ngx_pool_t *pool, lua_State *L, int index,
    ngx_str_t *str)
{
    size_t       len;
    const char  *text;

    text = lua_tolstring(L, index, &len);

    str->data = ngx_pnalloc(pool, len + 1);
    if (str->data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(str->data, text, len);
    str->data[len] = '\0';
    str->len = len;

    return NGX_OK;
}


/* --------------------------------------------------------------- errors */

/* logs why a hook failed; the client learns only that it did */

static ngx_int_t
ngx_http_llm_lua_fail(ngx_http_llm_lua_ctx_t *lctx, const char *text)
{
    ngx_log_error(NGX_LOG_ERR, lctx->request->connection->log, 0,
                  "llm %s failed: %s", lctx->hook->name, text);

    lctx->refusal->status = NGX_HTTP_INTERNAL_SERVER_ERROR;
    lctx->refusal->failed = 1;
    ngx_str_set(&lctx->refusal->message,
                "Request refused: a hook of this server failed");

    return NGX_ERROR;
}


/* the error of a coroutine and its traceback, in one line */

static void
ngx_http_llm_lua_describe(ngx_http_llm_lua_ctx_t *lctx, u_char *text,
    size_t len)
{
    size_t       n;
    u_char      *p;
    lua_State   *L;
    const char  *message;

    L = ngx_http_llm_lua_vm.state;

    if (lua_cpcall(L, ngx_http_llm_lua_describe_protected, lctx) != 0) {
        (void) ngx_cpystrn(text, (u_char *)
                           ngx_http_llm_lua_vm_message(lctx->thread), len);
        lua_settop(L, 0);

    } else {

        /* left on the stack of the coroutine by what ran above */

        message = ngx_http_llm_lua_vm_message(lctx->thread);
        (void) ngx_cpystrn(text, (u_char *) message, len);
    }

    for (p = text, n = 0; *p; p++) {

        if (*p == '\t') {
            continue;
        }

        text[n++] = (*p == LF) ? ' ' : *p;
    }

    text[n] = '\0';
}


static int
ngx_http_llm_lua_describe_protected(lua_State *L)
{
    int                      top;
    lua_State               *thread;
    ngx_http_llm_lua_ctx_t  *lctx = lua_touserdata(L, 1);

    thread = lctx->thread;
    top = lua_gettop(thread);

    if (top == 0 || !lua_isstring(thread, -1)) {
        lua_pushliteral(L, "(error object is not a string)");

    } else {
        lua_pushvalue(thread, -1);
        lua_xmove(thread, L, 1);
    }

    luaL_traceback(L, thread, lua_tostring(L, -1), 0);

    lua_settop(thread, 0);
    lua_xmove(L, thread, 1);

    return 0;
}


/* ------------------------------------------------------------- clean up */

/* drop: the coroutine cannot be used again */

static void
ngx_http_llm_lua_end_call(ngx_http_llm_lua_ctx_t *lctx, ngx_uint_t drop)
{
    lctx->waiting = 0;

    if (lctx->timer.timer_set) {
        ngx_del_timer(&lctx->timer);
    }

    if (lctx->wake.posted) {
        ngx_delete_posted_event(&lctx->wake);
    }

    if (lctx->fetch) {
        lctx->fetch->lctx = NULL;
        lctx->fetch = NULL;
    }

    if (lctx->thread == NULL || ngx_http_llm_lua_vm.state == NULL) {
        return;
    }

    if (drop) {
        luaL_unref(ngx_http_llm_lua_vm.state, LUA_REGISTRYINDEX,
                   lctx->thread_ref);
        lctx->thread_ref = LUA_NOREF;
        lctx->thread = NULL;

    } else {
        lua_settop(lctx->thread, 0);
    }
}


void
ngx_http_llm_lua_release(ngx_http_llm_lua_ctx_t *lctx)
{
    if (lctx == NULL || lctx->released) {
        return;
    }

    lctx->released = 1;

    ngx_http_llm_lua_end_call(lctx, 1);

    if (ngx_http_llm_lua_vm.state) {
        luaL_unref(ngx_http_llm_lua_vm.state, LUA_REGISTRYINDEX,
                   lctx->self_ref);
        lctx->self_ref = LUA_NOREF;
    }
}


/*
 * LuaJIT does not collect because memory is short, so garbage is collected
 * well before the limit.
 */

void
ngx_http_llm_lua_collect(void)
{
    size_t                  limit;
    ngx_http_llm_lua_vm_t  *vm;

    vm = &ngx_http_llm_lua_vm;
    limit = vm->limit;

    if (vm->starved) {
        vm->starved = 0;
        ngx_http_llm_lua_vm_end(vm);
    }

    if (limit == 0 || vm->used < limit / 2) {
        return;
    }

    vm->limit = 0;              /* the little that this takes is granted */

    if (lua_cpcall(vm->state, ngx_http_llm_lua_collect_protected, NULL)
        != 0)
    {
        lua_settop(vm->state, 0);
    }

    vm->limit = limit;
}


static int
ngx_http_llm_lua_collect_protected(lua_State *L)
{
    lua_gc(L, LUA_GCCOLLECT, 0);

    return 0;
}
