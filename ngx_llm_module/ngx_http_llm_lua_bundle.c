/*
 * ngx_http_llm_lua_bundle.c - the Lua modules of lua/llm/ inside the binary,
 * so that nothing has to be installed.  The header is written by
 * lua/embed.sh when the module is built.
 */
#include "ngx_http_llm_lua_state.h"
#include "ngx_http_llm_lua_sources.h"


const ngx_http_llm_lua_source_t *
ngx_http_llm_lua_bundle_find(const char *name)
{
    const ngx_http_llm_lua_source_t  *source;

    for (source = ngx_http_llm_lua_sources; source->name; source++) {
        if (ngx_strcmp(source->name, name) == 0) {
            return source;
        }
    }

    return NULL;
}
