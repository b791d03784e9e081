/*
 * ngx_http_llm_lua_vm.c - the Lua state of a process: memory, libraries,
 * bundled modules, limits of memory, time and instructions.
 *
 * Does not own: requests, coroutines, configuration.
 *
 * Limits: a count hook looks at the number of instructions every thousand of
 * them and at the clock of the thread, which is not moved by other processes,
 * every few thousand.  Once a script is past a limit, the hook fires at every
 * instruction, so that a pcall() of the script cannot keep it alive.  The
 * hook does not fire inside C functions of LuaJIT nor, with the JIT on, in
 * compiled loops.
 *
 * Memory is limited by the same hook, because LuaJIT does not survive every
 * refusal of its allocator.  Fast functions (string.sub, string.lower,
 * tostring, ...) do not keep the top of the stack, where the error is put: a
 * refusal there overwrites the frames of their callers.  The stack cannot
 * grow without memory at the start of a Lua function, nor can lua_newstate()
 * go on.  So what goes past the limit is granted, and the next instruction
 * raises the error.  Only one operation can be past the limit at a time: a
 * fast function makes at most a buffer of twice its argument, a string as
 * long and a table of strings twice as large, together less than four times
 * what is in use.  What is refused beyond that is refused to others, which
 * cope.  If the system itself has no memory, a reserve helps out once.
 */
#include "ngx_http_llm_lua_state.h"


#define NGX_HTTP_LLM_LUA_COUNT  1000    /* instructions between two looks */
#define NGX_HTTP_LLM_LUA_CLOCK  8000    /* the same for the clock */

/* how far past the limit one operation may be: see above, and a stack */
#define NGX_HTTP_LLM_LUA_PAST     4     /* times the limit */
#define NGX_HTTP_LLM_LUA_RESERVE  (1024 * 1024)


static void *ngx_http_llm_lua_vm_alloc(void *data, void *ptr, size_t osize,
    size_t nsize);
static void ngx_http_llm_lua_vm_starve(ngx_http_llm_lua_vm_t *vm);
static void *ngx_http_llm_lua_vm_realloc(void *ptr, size_t osize,
    size_t nsize);
static void ngx_http_llm_lua_vm_free(void *ptr);
static int ngx_http_llm_lua_vm_init(lua_State *L);
static void ngx_http_llm_lua_vm_libs(lua_State *L);
static int ngx_http_llm_lua_vm_loader(lua_State *L);
static void ngx_http_llm_lua_vm_entry(ngx_http_llm_lua_vm_t *vm,
    lua_State *L);
static void ngx_http_llm_lua_vm_count(lua_State *L, lua_Debug *ar);
static uint64_t ngx_http_llm_lua_vm_now(void);


ngx_http_llm_lua_vm_t  ngx_http_llm_lua_vm;


/* costs no memory while it is not touched; empty again when all is freed */
static struct {
    u_char       data[NGX_HTTP_LLM_LUA_RESERVE] __attribute__((aligned(16)));
    size_t       used;
    ngx_uint_t   blocks;
} ngx_http_llm_lua_reserve;


ngx_int_t
ngx_http_llm_lua_vm_open(ngx_http_llm_lua_vm_t *vm, u_char *err, size_t len)
{
    int  rc;

    vm->used = 0;
    vm->current = NULL;
    vm->starved = 0;

    vm->state = lua_newstate(ngx_http_llm_lua_vm_alloc, vm);
    if (vm->state == NULL) {
        *ngx_snprintf(err, len - 1, "no memory for a Lua state") = '\0';
        return NGX_ERROR;
    }

    rc = lua_cpcall(vm->state, ngx_http_llm_lua_vm_init, vm);

    if (rc != 0) {
        *ngx_snprintf(err, len - 1, "%s",
                      ngx_http_llm_lua_vm_message(vm->state)) = '\0';
        ngx_http_llm_lua_vm_close(vm);
        return NGX_ERROR;
    }

    return NGX_OK;
}


void
ngx_http_llm_lua_vm_close(ngx_http_llm_lua_vm_t *vm)
{
    if (vm->state) {
        lua_close(vm->state);
        vm->state = NULL;
    }
}


const char *
ngx_http_llm_lua_vm_message(lua_State *L)
{
    if (lua_gettop(L) && lua_type(L, -1) == LUA_TSTRING) {
        return lua_tostring(L, -1);
    }

    return "(error object is not a string)";
}


/* -------------------------------------------------------------- memory */

static ngx_inline ngx_uint_t
ngx_http_llm_lua_vm_reserved(void *ptr)
{
    return (uintptr_t) ptr - (uintptr_t) ngx_http_llm_lua_reserve.data
           < NGX_HTTP_LLM_LUA_RESERVE;
}


static void *
ngx_http_llm_lua_vm_alloc(void *data, void *ptr, size_t osize, size_t nsize)
{
    ngx_http_llm_lua_vm_t *vm = data;

    void    *new;
    size_t   most;

    if (nsize == 0) {
        vm->used -= osize;
        ngx_http_llm_lua_vm_free(ptr);
        return NULL;
    }

    if (vm->limit && nsize > osize) {
        most = vm->limit + vm->limit * NGX_HTTP_LLM_LUA_PAST
               + NGX_HTTP_LLM_LUA_RESERVE;

        if (vm->used > most || nsize - osize > most - vm->used) {
            return NULL;
        }

        if (vm->used + nsize - osize > vm->limit) {
            ngx_http_llm_lua_vm_starve(vm);
        }
    }

    new = ngx_http_llm_lua_vm_realloc(ptr, osize, nsize);

    if (new == NULL) {
        return NULL;
    }

    if (ngx_http_llm_lua_vm_reserved(new)) {
        ngx_http_llm_lua_vm_starve(vm);
    }

    vm->used += nsize - osize;

    return new;
}


/* what runs ends at its next instruction; lua_sethook() may be called here */

static void
ngx_http_llm_lua_vm_starve(ngx_http_llm_lua_vm_t *vm)
{
    if (vm->starved || vm->state == NULL) {
        return;
    }

    vm->starved = 1;
    vm->killed = 1;

    lua_sethook(vm->state, ngx_http_llm_lua_vm_count, LUA_MASKCOUNT, 1);
}


/* realloc(), and where the system has no memory the reserve */

static void *
ngx_http_llm_lua_vm_realloc(void *ptr, size_t osize, size_t nsize)
{
    void        *new;
    size_t       size;
    ngx_uint_t   reserved;

    reserved = ngx_http_llm_lua_vm_reserved(ptr);

    new = realloc(reserved ? NULL : ptr, nsize);

    if (new == NULL) {
        size = ngx_align(nsize, 16);

        if (size > NGX_HTTP_LLM_LUA_RESERVE - ngx_http_llm_lua_reserve.used) {
            return NULL;
        }

        new = ngx_http_llm_lua_reserve.data + ngx_http_llm_lua_reserve.used;
        ngx_http_llm_lua_reserve.used += size;
        ngx_http_llm_lua_reserve.blocks++;

    } else if (!reserved) {
        return new;
    }

    if (ptr) {
        ngx_memcpy(new, ptr, ngx_min(osize, nsize));
        ngx_http_llm_lua_vm_free(ptr);
    }

    return new;
}


static void
ngx_http_llm_lua_vm_free(void *ptr)
{
    if (!ngx_http_llm_lua_vm_reserved(ptr)) {
        ngx_free(ptr);
        return;
    }

    if (--ngx_http_llm_lua_reserve.blocks == 0) {
        ngx_http_llm_lua_reserve.used = 0;
    }
}


/* ------------------------------------------------------------- making it */

static int
ngx_http_llm_lua_vm_init(lua_State *L)
{
    ngx_http_llm_lua_vm_t  *vm = lua_touserdata(L, 1);

    ngx_http_llm_lua_vm_libs(L);

    if (vm->jit) {
        lua_pushcfunction(L, luaopen_jit);
        lua_pushliteral(L, LUA_JITLIBNAME);
        lua_call(L, 1, 0);

    } else {
        luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE|LUAJIT_MODE_OFF);
    }

    lua_getglobal(L, "require");
    lua_pushliteral(L, "llm.sandbox");
    lua_call(L, 1, 1);

    ngx_http_llm_lua_api_push(L);

    lua_createtable(L, 0, 1);
    lua_pushnumber(L, (lua_Number) vm->output);
    lua_setfield(L, -2, "output");

    lua_call(L, 2, 1);

    ngx_http_llm_lua_vm_entry(vm, L);

    lua_newtable(L);
    vm->hooks = luaL_ref(L, LUA_REGISTRYINDEX);

    /* the first luaL_unref() may allocate; later ones are not protected */

    lua_pushboolean(L, 1);
    luaL_unref(L, LUA_REGISTRYINDEX, luaL_ref(L, LUA_REGISTRYINDEX));

    lua_gc(L, LUA_GCCOLLECT, 0);

    return 0;
}


/*
 * The libraries that bundled modules use.  require() finds nothing else, and
 * hooks get even less: lua/llm/sandbox.lua.
 */

static void
ngx_http_llm_lua_vm_libs(lua_State *L)
{
    const luaL_Reg  *lib;

    static const luaL_Reg  libs[] = {
        { "", luaopen_base },
        { LUA_STRLIBNAME, luaopen_string },
        { LUA_TABLIBNAME, luaopen_table },
        { LUA_MATHLIBNAME, luaopen_math },
        { LUA_OSLIBNAME, luaopen_os },
        { LUA_DBLIBNAME, luaopen_debug },
        { LUA_BITLIBNAME, luaopen_bit },
        { NULL, NULL }
    };

    for (lib = libs; lib->func; lib++) {
        lua_pushcfunction(L, lib->func);
        lua_pushstring(L, lib->name);
        lua_call(L, 1, 0);
    }

    lua_newtable(L);                        /* the modules loaded so far */
    lua_pushcclosure(L, ngx_http_llm_lua_vm_loader, 1);
    lua_setglobal(L, "require");
}


/* require() of bundled modules */

static int
ngx_http_llm_lua_vm_loader(lua_State *L)
{
    const char                       *name;
    char                              chunk[64];
    const ngx_http_llm_lua_source_t  *source;

    name = luaL_checkstring(L, 1);

    lua_pushvalue(L, 1);
    lua_rawget(L, lua_upvalueindex(1));

    if (!lua_isnil(L, -1)) {
        return 1;
    }

    source = ngx_http_llm_lua_bundle_find(name);

    if (source == NULL) {
        return luaL_error(L, "module '%s' not found", name);
    }

    *ngx_snprintf((u_char *) chunk, sizeof(chunk) - 1, "=%s", name) = '\0';

    if (luaL_loadbuffer(L, (const char *) source->data, source->len, chunk)
        != 0)
    {
        return lua_error(L);
    }

    lua_pushvalue(L, 1);
    lua_call(L, 1, 1);

    lua_pushvalue(L, 1);
    lua_pushvalue(L, -2);
    lua_rawset(L, lua_upvalueindex(1));

    return 1;
}


/* keeps the functions of the table on top of the stack, which is popped */

static void
ngx_http_llm_lua_vm_entry(ngx_http_llm_lua_vm_t *vm, lua_State *L)
{
    ngx_uint_t  i;

    struct {
        const char  *name;
        int         *ref;
    } entries[] = {
        { "null", &vm->null },
        { "int", &vm->make_int },
        { "float", &vm->make_float },
        { "new", &vm->new_ctx },
        { "prompt", &vm->prompt },
        { "output", &vm->output_hook },
        { "render", &vm->render }
    };

    for (i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
        lua_getfield(L, -1, entries[i].name);
        *entries[i].ref = luaL_ref(L, LUA_REGISTRYINDEX);
    }

    lua_getfield(L, -1, "array");
    lua_getmetatable(L, -1);
    vm->array = luaL_ref(L, LUA_REGISTRYINDEX);

    lua_pop(L, 2);
}


ngx_int_t
ngx_http_llm_lua_vm_check(ngx_str_t *source, const char *chunk, u_char *err,
    size_t len)
{
    int         rc;
    lua_State  *L;

    L = luaL_newstate();
    if (L == NULL) {
        *ngx_snprintf(err, len - 1, "no memory for a Lua state") = '\0';
        return NGX_ERROR;
    }

    /* luaL_loadbuffer() is protected and returns memory errors too */

    rc = luaL_loadbuffer(L, (char *) source->data, source->len, chunk);

    if (rc != 0) {
        *ngx_snprintf(err, len - 1, "%s", ngx_http_llm_lua_vm_message(L))
            = '\0';
    }

    lua_close(L);

    return rc == 0 ? NGX_OK : NGX_ERROR;
}


/* ---------------------------------------------------------------- limits */

void
ngx_http_llm_lua_vm_begin(ngx_http_llm_lua_vm_t *vm, ngx_msec_t ms,
    ngx_uint_t steps)
{
    vm->killed = 0;
    vm->starved = 0;
    vm->counted = 0;
    vm->allowed = ms;
    vm->budget = steps;
    vm->deadline = ms ? ngx_http_llm_lua_vm_now() + (uint64_t) ms * 1000000
                      : 0;

    lua_sethook(vm->state, ngx_http_llm_lua_vm_count, LUA_MASKCOUNT,
                NGX_HTTP_LLM_LUA_COUNT);
}


void
ngx_http_llm_lua_vm_end(ngx_http_llm_lua_vm_t *vm)
{
    lua_sethook(vm->state, NULL, 0, 0);
}


static void
ngx_http_llm_lua_vm_count(lua_State *L, lua_Debug *ar)
{
    void                   *data;
    ngx_http_llm_lua_vm_t  *vm;

    (void) lua_getallocf(L, &data);
    vm = data;

    if (!vm->killed) {
        vm->counted += NGX_HTTP_LLM_LUA_COUNT;

        if ((vm->budget == 0 || vm->counted <= vm->budget)
            && (vm->deadline == 0
                || vm->counted % NGX_HTTP_LLM_LUA_CLOCK
                || ngx_http_llm_lua_vm_now() <= vm->deadline))
        {
            return;
        }

        vm->killed = 1;

        lua_sethook(L, ngx_http_llm_lua_vm_count, LUA_MASKCOUNT, 1);
    }

    luaL_where(L, 0);               /* a hook has no level of its own */

    if (vm->starved) {
        lua_pushliteral(L, "not enough memory");

    } else if (vm->budget && vm->counted > vm->budget) {
        lua_pushfstring(L, "ran for more than %d instructions",
                        (int) vm->budget);

    } else {
        lua_pushfstring(L, "ran for more than %d ms", (int) vm->allowed);
    }

    lua_concat(L, 2);
    lua_error(L);
}


static uint64_t
ngx_http_llm_lua_vm_now(void)
{
    struct timespec  ts;

    (void) clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);

    return (uint64_t) ts.tv_sec * 1000000000 + ts.tv_nsec;
}
