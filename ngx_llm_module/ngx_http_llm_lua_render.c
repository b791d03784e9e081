/*
 * ngx_http_llm_lua_render.c - chat templates: renders them in the state of
 * the worker, and checks them in a state of their own in the master.
 *
 * The limits on steps, output and depth are those of
 * lua/llm/template_limits.lua; the clock here is for what they misjudge.
 */
#include "ngx_http_llm_lua_state.h"


#define NGX_HTTP_LLM_LUA_TEMPLATE_MS   1000
#define NGX_HTTP_LLM_LUA_CHECK_MEMORY  (64 * 1024 * 1024)


typedef struct {
    ngx_http_request_t       *request;
    ngx_str_t                *source;
    json_t                   *vars;
    ngx_str_t                *out;
    ngx_str_t                *err;
    unsigned                  rendered:1;
    unsigned                  failed:1;
} ngx_http_llm_lua_render_t;


typedef struct {
    ngx_str_t                *source;
    u_char                   *err;
    size_t                    len;
    unsigned                  ok:1;
} ngx_http_llm_lua_check_t;


static int ngx_http_llm_lua_render_protected(lua_State *L);
static int ngx_http_llm_lua_check_protected(lua_State *L);


ngx_int_t
ngx_http_llm_lua_render(ngx_http_request_t *r, ngx_str_t *source,
    json_t *vars, ngx_str_t *out, ngx_str_t *err)
{
    int                         rc;
    ngx_http_llm_lua_vm_t      *vm;
    ngx_http_llm_lua_render_t   render;

    vm = &ngx_http_llm_lua_vm;

    ngx_str_null(out);
    ngx_str_set(err, "not enough memory");

    if (vm->state == NULL) {
        ngx_str_set(err, "no Lua state");
        return NGX_ERROR;
    }

    ngx_http_llm_lua_collect();

    ngx_memzero(&render, sizeof(ngx_http_llm_lua_render_t));

    render.request = r;
    render.source = source;
    render.vars = vars;
    render.out = out;
    render.err = err;

    ngx_http_llm_lua_vm_begin(vm, NGX_HTTP_LLM_LUA_TEMPLATE_MS, 0);

    rc = lua_cpcall(vm->state, ngx_http_llm_lua_render_protected, &render);

    ngx_http_llm_lua_vm_end(vm);

    if (rc != 0) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "llm chat template failed: %s",
                      ngx_http_llm_lua_vm_message(vm->state));
        lua_settop(vm->state, 0);
        return NGX_ERROR;
    }

    if (render.failed) {
        return NGX_ERROR;
    }

    return render.rendered ? NGX_OK : NGX_DECLINED;
}


static int
ngx_http_llm_lua_render_protected(lua_State *L)
{
    ngx_str_t                  *str;
    ngx_http_llm_lua_vm_t      *vm;
    ngx_http_llm_lua_render_t  *render = lua_touserdata(L, 1);

    vm = &ngx_http_llm_lua_vm;

    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->render);
    lua_pushlstring(L, (char *) render->source->data, render->source->len);
    ngx_http_llm_lua_json_push(vm, L, render->vars, 1);
    lua_pushnumber(L, (lua_Number) vm->output);
    lua_call(L, 3, 2);

    if (lua_type(L, -2) == LUA_TSTRING) {
        render->rendered = 1;
        str = render->out;
        lua_pop(L, 1);

    } else {
        str = render->err;

        if (lua_type(L, -1) != LUA_TSTRING) {
            render->failed = 1;
            return 0;
        }
    }

    if (ngx_http_llm_lua_str(render->request->pool, L, -1, str) != NGX_OK) {
        ngx_str_set(render->err, "not enough memory");
        render->failed = 1;
    }

    return 0;
}


ngx_int_t
ngx_http_llm_lua_check_template(ngx_conf_t *cf, ngx_str_t *source,
    ngx_str_t *err)
{
    u_char                    text[NGX_MAX_CONF_ERRSTR];
    ngx_int_t                 rc;
    ngx_http_llm_lua_vm_t     vm;
    ngx_http_llm_lua_check_t  check;

    ngx_memzero(&vm, sizeof(ngx_http_llm_lua_vm_t));

    vm.limit = NGX_HTTP_LLM_LUA_CHECK_MEMORY;

    check.source = source;
    check.err = text;
    check.len = NGX_MAX_CONF_ERRSTR;
    check.ok = 0;

    rc = ngx_http_llm_lua_vm_open(&vm, text, NGX_MAX_CONF_ERRSTR);

    if (rc == NGX_OK) {

        if (lua_cpcall(vm.state, ngx_http_llm_lua_check_protected, &check)
            != 0)
        {
            (void) ngx_cpystrn(text, (u_char *)
                               ngx_http_llm_lua_vm_message(vm.state),
                               NGX_MAX_CONF_ERRSTR);
        }

        ngx_http_llm_lua_vm_close(&vm);
    }

    if (rc == NGX_OK && check.ok) {
        return NGX_OK;
    }

    err->len = ngx_strlen(text);
    err->data = ngx_pnalloc(cf->pool, err->len);

    if (err->data == NULL) {
        ngx_str_set(err, "not enough memory");
        return NGX_ERROR;
    }

    ngx_memcpy(err->data, text, err->len);

    return NGX_ERROR;
}


static int
ngx_http_llm_lua_check_protected(lua_State *L)
{
    ngx_http_llm_lua_check_t  *check = lua_touserdata(L, 1);

    lua_getglobal(L, "require");
    lua_pushliteral(L, "llm.template");
    lua_call(L, 1, 1);

    lua_getfield(L, -1, "compile");
    lua_pushlstring(L, (char *) check->source->data, check->source->len);
    lua_call(L, 1, 2);

    if (!lua_isnil(L, -2)) {
        check->ok = 1;
        return 0;
    }

    (void) ngx_cpystrn(check->err, (u_char *)
                       ngx_http_llm_lua_vm_message(L), check->len);

    return 0;
}
