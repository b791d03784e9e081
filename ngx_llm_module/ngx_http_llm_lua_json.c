/*
 * ngx_http_llm_lua_json.c - jansson values as Lua values.
 *
 * The other direction goes through text: llm.json encodes, jansson parses.
 * The forms are those of lua/llm/json.lua.
 */
#include "ngx_http_llm_lua_state.h"


#define NGX_HTTP_LLM_LUA_EXACT  9007199254740992LL  /* 2^53 */


static void ngx_http_llm_lua_json_object(ngx_http_llm_lua_vm_t *vm,
    lua_State *L, json_t *value, ngx_uint_t floats, ngx_uint_t depth);
static void ngx_http_llm_lua_json_value(ngx_http_llm_lua_vm_t *vm,
    lua_State *L, json_t *value, ngx_uint_t floats, ngx_uint_t depth);


void
ngx_http_llm_lua_json_push(ngx_http_llm_lua_vm_t *vm, lua_State *L,
    json_t *value, ngx_uint_t floats)
{
    ngx_http_llm_lua_json_value(vm, L, value, floats, 1);
}


static void
ngx_http_llm_lua_json_integer(ngx_http_llm_lua_vm_t *vm, lua_State *L,
    json_int_t n)
{
    u_char  *p, text[NGX_INT64_LEN + 1];

    if (n <= NGX_HTTP_LLM_LUA_EXACT && n >= -NGX_HTTP_LLM_LUA_EXACT) {
        lua_pushnumber(L, (lua_Number) n);
        return;
    }

    p = ngx_sprintf(text, "%L", (int64_t) n);

    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->make_int);
    lua_pushlstring(L, (char *) text, p - text);
    lua_call(L, 1, 1);
}


static void
ngx_http_llm_lua_json_real(ngx_http_llm_lua_vm_t *vm, lua_State *L,
    double n, ngx_uint_t floats)
{
    if (!floats) {
        lua_pushnumber(L, n);
        return;
    }

    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->make_float);
    lua_pushnumber(L, n);
    lua_call(L, 1, 1);
}


static void
ngx_http_llm_lua_json_array(ngx_http_llm_lua_vm_t *vm, lua_State *L,
    json_t *value, ngx_uint_t floats, ngx_uint_t depth)
{
    size_t  i, n;

    n = json_array_size(value);

    lua_createtable(L, (int) ngx_min(n, 65536), 0);

    for (i = 0; i < n; i++) {
        ngx_http_llm_lua_json_value(vm, L, json_array_get(value, i), floats,
                                    depth + 1);
        lua_rawseti(L, -2, (int) i + 1);
    }

    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->array);
    lua_setmetatable(L, -2);
}


/* the order of keys is in the metatable */

static void
ngx_http_llm_lua_json_object(ngx_http_llm_lua_vm_t *vm, lua_State *L,
    json_t *value, ngx_uint_t floats, ngx_uint_t depth)
{
    int          i, n;
    size_t       len;
    json_t      *item;
    const char  *key;
    void        *iter;

    n = (int) ngx_min(json_object_size(value), 65536);

    lua_createtable(L, 0, n);
    lua_createtable(L, n, 0);

    i = 0;

    for (iter = json_object_iter(value);
         iter;
         iter = json_object_iter_next(value, iter))
    {
        key = json_object_iter_key(iter);
        item = json_object_iter_value(iter);
        len = ngx_strlen(key);

        lua_pushlstring(L, key, len);
        lua_pushvalue(L, -1);
        lua_rawseti(L, -3, ++i);

        ngx_http_llm_lua_json_value(vm, L, item, floats, depth + 1);
        lua_rawset(L, -4);
    }

    lua_createtable(L, 0, 3);

    lua_insert(L, -2);
    lua_setfield(L, -2, "keys");

    lua_pushliteral(L, "object");
    lua_setfield(L, -2, "kind");

    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");

    lua_setmetatable(L, -2);
}


static void
ngx_http_llm_lua_json_value(ngx_http_llm_lua_vm_t *vm, lua_State *L,
    json_t *value, ngx_uint_t floats, ngx_uint_t depth)
{
    if (depth > NGX_HTTP_LLM_LUA_DEPTH) {
        luaL_error(L, "JSON nested deeper than %d", NGX_HTTP_LLM_LUA_DEPTH);
    }

    luaL_checkstack(L, 6, "JSON");

    switch (json_typeof(value)) {

    case JSON_OBJECT:
        ngx_http_llm_lua_json_object(vm, L, value, floats, depth);
        break;

    case JSON_ARRAY:
        ngx_http_llm_lua_json_array(vm, L, value, floats, depth);
        break;

    case JSON_STRING:
        lua_pushlstring(L, json_string_value(value),
                        json_string_length(value));
        break;

    case JSON_INTEGER:
        ngx_http_llm_lua_json_integer(vm, L, json_integer_value(value));
        break;

    case JSON_REAL:
        ngx_http_llm_lua_json_real(vm, L, json_real_value(value), floats);
        break;

    case JSON_TRUE:
    case JSON_FALSE:
        lua_pushboolean(L, json_is_true(value));
        break;

    default: /* JSON_NULL */
        lua_rawgeti(L, LUA_REGISTRYINDEX, vm->null);
        break;
    }
}
