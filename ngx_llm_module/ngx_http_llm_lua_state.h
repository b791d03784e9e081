/*
 * ngx_http_llm_lua_state.h - types and functions that the ngx_http_llm_lua*.c
 * files share; nothing else includes it.
 *
 * One Lua state per process (ngx_http_llm_lua_vm).  Everything that can raise
 * a Lua error runs inside lua_cpcall() or a coroutine; outside, only calls
 * that cannot fail are made.
 */
#ifndef _NGX_HTTP_LLM_LUA_STATE_H_INCLUDED_
#define _NGX_HTTP_LLM_LUA_STATE_H_INCLUDED_


#include "ngx_http_llm_module.h"

#include <lua.h>
#include <lualib.h>
#include <lauxlib.h>
#include <luajit.h>


#define NGX_HTTP_LLM_LUA_DEPTH  200     /* nesting of JSON, as in llm.json */


/* one bundled module; the table ends with name == NULL */
typedef struct {
    const char               *name;
    const u_char             *data;
    size_t                    len;
} ngx_http_llm_lua_source_t;


struct ngx_http_llm_lua_hook_s {
    ngx_uint_t                id;       /* never used twice in a process */
    const char               *name;     /* "prompt hook" */
    ngx_str_t                 source;   /* begins at its line of the file */
    char                     *chunk;    /* "@file", for messages */
};


typedef struct {
    lua_State                *state;    /* NULL: none */
    size_t                    used;     /* bytes of Lua memory */
    size_t                    limit;    /* of used; 0: none */
    size_t                    output;
    ngx_flag_t                jit;
    ngx_str_t                 path;     /* modules of the operator */
    ngx_msec_t                timeout;  /* CPU time of one resume */
    ngx_uint_t                steps;    /* of one resume */

    ngx_http_llm_lua_ctx_t   *current;  /* whose hook runs now */
    uint64_t                  deadline; /* of what runs now, ns of CPU */
    ngx_uint_t                counted;  /* instructions */
    ngx_msec_t                allowed;  /* the timeout that applies */
    ngx_uint_t                budget;   /* the steps that apply */
    unsigned                  killed:1; /* ran past a limit */
    unsigned                  starved:1; /* that of memory */

    int                       null;     /* registry references */
    int                       array;
    int                       make_int;
    int                       make_float;
    int                       new_ctx;
    int                       prompt;
    int                       output_hook;
    int                       render;
    int                       hooks;    /* id -> factory */
} ngx_http_llm_lua_vm_t;


/* a subrequest of llm.fetch(); lives in the request's pool */
typedef struct {
    ngx_http_llm_lua_ctx_t   *lctx;     /* NULL: nobody waits any more */
    ngx_uint_t                status;
    ngx_str_t                 body;
    ngx_list_t               *headers;
    ngx_str_t                 content_type;
    unsigned                  failed:1;
} ngx_http_llm_lua_fetch_t;


struct ngx_http_llm_lua_ctx_s {
    ngx_http_request_t          *request;
    ngx_http_llm_lua_hook_t     *hook;
    ngx_str_t                    template;  /* of the model */

    lua_State                   *thread;
    int                          thread_ref;
    int                          self_ref;  /* what entry.new() made */

    /* the call in progress */
    json_t                     **req;       /* prompt hook, or NULL */
    ngx_str_t                   *prompt;
    ngx_str_t                    piece;
    ngx_http_llm_lua_out_t      *out;       /* output hook, or NULL */
    ngx_http_llm_lua_refusal_t  *refusal;
    ngx_http_llm_lua_done_pt     done;
    void                        *data;

    ngx_event_t                  timer;     /* llm.sleep */
    ngx_event_t                  wake;      /* posted when fetch is done */
    ngx_http_llm_lua_fetch_t    *fetch;

    unsigned                     last:1;
    unsigned                     refused:1;
    unsigned                     waiting:1; /* between yield and resume */
    unsigned                     released:1;
};


extern ngx_http_llm_lua_vm_t  ngx_http_llm_lua_vm;


/* -------------------------------------------- ngx_http_llm_lua_bundle.c */

/* The source of a bundled module, or NULL. */
const ngx_http_llm_lua_source_t *ngx_http_llm_lua_bundle_find(
    const char *name);


/* ------------------------------------------------ ngx_http_llm_lua_vm.c */

/*
 * Makes a Lua state with the libraries and the bundled modules.
 * NGX_ERROR: the reason is in err (at most len bytes, always terminated).
 */
ngx_int_t ngx_http_llm_lua_vm_open(ngx_http_llm_lua_vm_t *vm, u_char *err,
    size_t len);
void ngx_http_llm_lua_vm_close(ngx_http_llm_lua_vm_t *vm);

/*
 * Limits what runs from begin to end to ms of CPU and steps instructions
 * (0: no such limit).  After end, vm->killed says whether it was stopped:
 * a script may have caught the error.
 */
void ngx_http_llm_lua_vm_begin(ngx_http_llm_lua_vm_t *vm, ngx_msec_t ms,
    ngx_uint_t steps);
void ngx_http_llm_lua_vm_end(ngx_http_llm_lua_vm_t *vm);

/* Compiles a chunk without running it; the message is in err. */
ngx_int_t ngx_http_llm_lua_vm_check(ngx_str_t *source, const char *chunk,
    u_char *err, size_t len);

/* The message on top of a stack, for a log; never raises. */
const char *ngx_http_llm_lua_vm_message(lua_State *L);


/* ----------------------------------------------- ngx_http_llm_lua_api.c */

/* Pushes the table of functions that llm.sandbox is booted with. */
void ngx_http_llm_lua_api_push(lua_State *L);

/* The context of the hook that runs and may yield now; raises. */
ngx_http_llm_lua_ctx_t *ngx_http_llm_lua_api_wait(lua_State *L);

/* The string argument at index, valid while it is on the stack; raises. */
void ngx_http_llm_lua_api_str(lua_State *L, int index, ngx_str_t *str);

/* ngx_pnalloc() that raises. */
u_char *ngx_http_llm_lua_api_alloc(lua_State *L, ngx_pool_t *pool,
    size_t size);


/* --------------------------------------------- ngx_http_llm_lua_fetch.c */

/* fetch(uri, method, args, body or nil, {name, value, ...}); yields. */
int ngx_http_llm_lua_fetch(lua_State *L);

/* Pushes what llm.fetch() returns; raises. */
void ngx_http_llm_lua_fetch_push(lua_State *L,
    ngx_http_llm_lua_fetch_t *fetch);


/* ---------------------------------------------- ngx_http_llm_lua_json.c */

/*
 * Pushes a JSON value as llm.json represents it; floats: keep 1.0 apart
 * from 1, as templates need.  Raises on memory and on depth.
 */
void ngx_http_llm_lua_json_push(ngx_http_llm_lua_vm_t *vm, lua_State *L,
    json_t *value, ngx_uint_t floats);


/* --------------------------------------------------- ngx_http_llm_lua.c */

/* Resumes a hook from the event loop with what is on its stack. */
void ngx_http_llm_lua_wake(ngx_http_llm_lua_ctx_t *lctx, int nargs);

/* Collects garbage if the state is halfway to its limit. */
void ngx_http_llm_lua_collect(void);

/* Copies the string at index to pool. */
ngx_int_t ngx_http_llm_lua_str(ngx_pool_t *pool, lua_State *L, int index,
    ngx_str_t *str);


#endif /* _NGX_HTTP_LLM_LUA_STATE_H_INCLUDED_ */
