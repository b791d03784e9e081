/*
 * ngx_http_llm_lua.h - hook points and chat templates: the seam between the
 * request code and the embedded LuaJIT.
 *
 * The request code (ngx_http_llm_request.c, ngx_http_llm_output.c) calls the
 * functions below; ngx_http_llm_lua*.c implement them and know nothing of
 * protocols, jobs or buffers.  Nothing here blocks: a hook that waits yields
 * its coroutine, the function returns NGX_AGAIN, and the done handler runs
 * from the event loop later.
 */
#ifndef _NGX_HTTP_LLM_LUA_H_INCLUDED_
#define _NGX_HTTP_LLM_LUA_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <jansson.h>


/* one compiled *_by_lua_block or *_by_lua_file of the configuration */
typedef struct ngx_http_llm_lua_hook_s  ngx_http_llm_lua_hook_t;

/* the Lua side of one request; created at its first hook */
typedef struct ngx_http_llm_lua_ctx_s   ngx_http_llm_lua_ctx_t;

typedef void (*ngx_http_llm_lua_done_pt)(ngx_http_request_t *r, void *data,
    ngx_int_t rc);


/* why a hook refused: llm.refuse(status, message) or the error of a hook */
typedef struct {
    ngx_uint_t   status;        /* 400..599 */
    ngx_str_t    message;       /* in r->pool */
    unsigned     failed:1;      /* the hook itself failed (logged) */
} ngx_http_llm_lua_refusal_t;


/* what an output hook decided about a piece of text */
typedef struct {
    ngx_str_t    text;          /* to be sent now, in r->pool; may be empty */
    unsigned     hold:1;        /* keep the piece: it comes again, longer */
    unsigned     stop:1;        /* send text, then end the generation */
} ngx_http_llm_lua_out_t;


/*
 * Directive setters.  cmd->offset is that of an ngx_http_llm_lua_hook_t * in
 * the location configuration; unset is NGX_CONF_UNSET_PTR, so that
 * ngx_conf_merge_ptr_value(conf, prev, NULL) inherits it.  The chunk is
 * compiled at once: syntax errors are reported with file and line by nginx -t.
 */
char *ngx_http_llm_lua_block(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_llm_lua_file(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_llm_lua_memory(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);

/*
 * Checks that a chat template compiles; called in the master when a model is
 * configured (never in the signaller).  err is filled on NGX_ERROR.
 */
ngx_int_t ngx_http_llm_lua_check_template(ngx_conf_t *cf, ngx_str_t *source,
    ngx_str_t *err);

/* one Lua state per worker; Lua memory is capped (llm_lua_memory) */
ngx_int_t ngx_http_llm_lua_init_process(ngx_cycle_t *cycle);
void ngx_http_llm_lua_exit_process(ngx_cycle_t *cycle);


/*
 * Renders a chat template with variables vars (messages, tools,
 * add_generation_prompt, bos_token, ...).  Synchronous, within limits on
 * steps, output and depth.  NGX_OK: *out in r->pool.  NGX_DECLINED: the
 * template failed, *err has the text after "Template error: ".  NGX_ERROR:
 * no memory or no Lua state.
 */
ngx_int_t ngx_http_llm_lua_render(ngx_http_request_t *r, ngx_str_t *source,
    json_t *vars, ngx_str_t *out, ngx_str_t *err);

/*
 * Runs the prompt hook.  req is the parsed request as the hook sees it:
 * {route, model, inputs | messages | prompt, parameters, ...}; the hook may
 * change it in place (the changed object replaces *req, which the caller
 * owns).  template is the model's chat template (len 0: none) for
 * llm.template().  If the hook returns a string it is the whole prompt:
 * prompt->data is not NULL.
 *
 * NGX_OK        done
 * NGX_AGAIN     waits; done(r, data, rc) runs later with one of the others
 * NGX_DECLINED  refused, see refusal
 * NGX_ERROR     the hook failed or ran past a limit, see refusal (500)
 */
ngx_int_t ngx_http_llm_lua_prompt(ngx_http_request_t *r,
    ngx_http_llm_lua_ctx_t **lctx, ngx_http_llm_lua_hook_t *hook,
    ngx_str_t *template, json_t **req, ngx_str_t *prompt,
    ngx_http_llm_lua_refusal_t *refusal, ngx_http_llm_lua_done_pt done,
    void *data);

/*
 * Runs the output hook on a piece of text (what is new plus what was held);
 * last is set once, at the end, possibly with an empty piece.  The same
 * coroutine environment serves all pieces of a request, so a hook can keep
 * state in llm.ctx.  One call at a time.  Results as above; *out is valid on
 * NGX_OK and when done gets NGX_OK.
 */
ngx_int_t ngx_http_llm_lua_output(ngx_http_request_t *r,
    ngx_http_llm_lua_ctx_t **lctx, ngx_http_llm_lua_hook_t *hook,
    ngx_str_t *piece, ngx_uint_t last, ngx_http_llm_lua_out_t *out,
    ngx_http_llm_lua_refusal_t *refusal, ngx_http_llm_lua_done_pt done,
    void *data);

/*
 * Releases the coroutine and its registry anchors; a waiting one is dropped.
 * Called from the request's cleanup handler; lctx may be NULL.
 */
void ngx_http_llm_lua_release(ngx_http_llm_lua_ctx_t *lctx);


#endif /* _NGX_HTTP_LLM_LUA_H_INCLUDED_ */
