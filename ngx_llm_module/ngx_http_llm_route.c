/*
 * ngx_http_llm_route.c - which route a request asks for.
 *
 * One table of paths below the location's prefix, some with names in them.  A
 * location with a one-route directive has its route already; only the method
 * is checked.
 */
#include "ngx_http_llm_request.h"


#define NGX_HTTP_LLM_READ   (NGX_HTTP_GET|NGX_HTTP_HEAD)


typedef struct {
    ngx_str_t                    path;
    ngx_uint_t                   methods;
    ngx_http_llm_route_e         route;
    const ngx_http_llm_codec_t  *codec;
} ngx_http_llm_path_t;


static ngx_str_t ngx_http_llm_route_path(ngx_http_llm_ctx_t *ctx);
static ngx_uint_t ngx_http_llm_route_below(ngx_str_t *path,
    const char *prefix);
static ngx_uint_t ngx_http_llm_route_match(ngx_http_llm_ctx_t *ctx,
    const ngx_http_llm_path_t *p, ngx_str_t *path);


/* the first line of a route gives its name */

static const ngx_http_llm_path_t  ngx_http_llm_paths[] = {

    { ngx_string("/"), NGX_HTTP_POST,
      NGX_HTTP_LLM_COMPAT, &ngx_http_llm_tgi_codec },

    { ngx_string("/v1"), NGX_HTTP_POST,
      NGX_HTTP_LLM_COMPAT, &ngx_http_llm_tgi_codec },

    { ngx_string("/generate"), NGX_HTTP_POST,
      NGX_HTTP_LLM_GENERATE, &ngx_http_llm_tgi_codec },

    { ngx_string("/generate_stream"), NGX_HTTP_POST,
      NGX_HTTP_LLM_GENERATE_STREAM, &ngx_http_llm_tgi_codec },

    { ngx_string("/v1/chat/completions"), NGX_HTTP_POST,
      NGX_HTTP_LLM_CHAT, &ngx_http_llm_chat_codec },

    { ngx_string("/chat/completions"), NGX_HTTP_POST,
      NGX_HTTP_LLM_CHAT, &ngx_http_llm_chat_codec },

    { ngx_string("/v1/completions"), NGX_HTTP_POST,
      NGX_HTTP_LLM_COMPLETIONS, &ngx_http_llm_completions_codec },

    { ngx_string("/completions"), NGX_HTTP_POST,
      NGX_HTTP_LLM_COMPLETIONS, &ngx_http_llm_completions_codec },

    { ngx_string("/v1/responses"), NGX_HTTP_POST,
      NGX_HTTP_LLM_RESPONSES, &ngx_http_llm_responses_codec },

    { ngx_string("/responses"), NGX_HTTP_POST,
      NGX_HTTP_LLM_RESPONSES, &ngx_http_llm_responses_codec },

    { ngx_string("/v1/embeddings"), NGX_HTTP_POST,
      NGX_HTTP_LLM_EMBEDDINGS, &ngx_http_llm_embeddings_codec },

    { ngx_string("/embeddings"), NGX_HTTP_POST,
      NGX_HTTP_LLM_EMBEDDINGS, &ngx_http_llm_embeddings_codec },

    { ngx_string("/invocations"), NGX_HTTP_POST,
      NGX_HTTP_LLM_INVOCATIONS, &ngx_http_llm_invocations_codec },

    { ngx_string("/vertex"), NGX_HTTP_POST,
      NGX_HTTP_LLM_VERTEX, &ngx_http_llm_tgi_codec },

    { ngx_string("/v2"), NGX_HTTP_LLM_READ,
      NGX_HTTP_LLM_KSERVE, &ngx_http_llm_tgi_codec },

    { ngx_string("/v2/health/live"), NGX_HTTP_LLM_READ,
      NGX_HTTP_LLM_KSERVE_LIVE, &ngx_http_llm_tgi_codec },

    { ngx_string("/v2/health/ready"), NGX_HTTP_LLM_READ,
      NGX_HTTP_LLM_KSERVE_LIVE, &ngx_http_llm_tgi_codec },

    { ngx_string("/v2/models/*/versions/*/ready"), NGX_HTTP_LLM_READ,
      NGX_HTTP_LLM_KSERVE_LIVE, &ngx_http_llm_tgi_codec },

    { ngx_string("/v2/models/*/versions/*"), NGX_HTTP_LLM_READ,
      NGX_HTTP_LLM_KSERVE_MODEL, &ngx_http_llm_tgi_codec },

    { ngx_string("/v2/models/*/versions/*/infer"), NGX_HTTP_POST,
      NGX_HTTP_LLM_KSERVE_INFER, &ngx_http_llm_tgi_codec },

    { ngx_string("/tokenize"), NGX_HTTP_POST,
      NGX_HTTP_LLM_TOKENIZE, &ngx_http_llm_tgi_codec },

    { ngx_string("/chat_tokenize"), NGX_HTTP_POST,
      NGX_HTTP_LLM_CHAT_TOKENIZE, &ngx_http_llm_tgi_codec },

    { ngx_string("/detokenize"), NGX_HTTP_POST,
      NGX_HTTP_LLM_DETOKENIZE, &ngx_http_llm_tgi_codec },

    { ngx_string("/tokenizer_info"), NGX_HTTP_LLM_READ,
      NGX_HTTP_LLM_TOKENIZER_INFO, &ngx_http_llm_tgi_codec },

    { ngx_string("/info"), NGX_HTTP_LLM_READ,
      NGX_HTTP_LLM_INFO, &ngx_http_llm_tgi_codec },

    { ngx_string("/v1/models"), NGX_HTTP_LLM_READ,
      NGX_HTTP_LLM_MODELS, &ngx_http_llm_chat_codec },

    { ngx_string("/models"), NGX_HTTP_LLM_READ,
      NGX_HTTP_LLM_MODELS, &ngx_http_llm_chat_codec },

    { ngx_string("/health"), NGX_HTTP_LLM_READ,
      NGX_HTTP_LLM_HEALTH, &ngx_http_llm_tgi_codec },

    { ngx_string("/v1/health"), NGX_HTTP_LLM_READ,
      NGX_HTTP_LLM_HEALTH, &ngx_http_llm_tgi_codec },

    { ngx_string("/ping"), NGX_HTTP_LLM_READ,
      NGX_HTTP_LLM_HEALTH, &ngx_http_llm_tgi_codec },

    { ngx_string("/"), NGX_HTTP_LLM_READ,
      NGX_HTTP_LLM_HEALTH, &ngx_http_llm_tgi_codec },

    { ngx_string("/metrics"), NGX_HTTP_LLM_READ,
      NGX_HTTP_LLM_METRICS, &ngx_http_llm_tgi_codec },

    { ngx_string("/openapi.json"), NGX_HTTP_LLM_READ,
      NGX_HTTP_LLM_OPENAPI, &ngx_http_llm_tgi_codec },

    { ngx_string("/api-doc/openapi.json"), NGX_HTTP_LLM_READ,
      NGX_HTTP_LLM_OPENAPI, &ngx_http_llm_tgi_codec },

    { ngx_string("/docs"), NGX_HTTP_LLM_READ,
      NGX_HTTP_LLM_DOCS, &ngx_http_llm_tgi_codec },

    { ngx_null_string, 0, 0, NULL }
};


ngx_int_t
ngx_http_llm_route(ngx_http_llm_ctx_t *ctx)
{
    ngx_str_t                   path;
    ngx_uint_t                  found;
    ngx_http_request_t         *r;
    const ngx_http_llm_path_t  *p, *match;

    r = ctx->request;
    path = ngx_http_llm_route_path(ctx);
    found = 0;
    match = NULL;

    ctx->codec = ngx_http_llm_route_below(&path, "/v1")
                 ? &ngx_http_llm_chat_codec : &ngx_http_llm_tgi_codec;

    for (p = ngx_http_llm_paths; p->path.len; p++) {

        if (ctx->conf->route != NGX_HTTP_LLM_ANY) {

            if (p->route != ctx->conf->route) {
                continue;
            }

        } else if (!ngx_http_llm_route_match(ctx, p, &path)) {
            continue;
        }

        found = 1;

        if (match == NULL || (p->methods & r->method)) {
            match = p;
        }

        if (p->methods & r->method) {
            break;
        }
    }

    if (!found && ctx->conf->route == NGX_HTTP_LLM_ANY
        && (ngx_http_llm_route_below(&path, "/v1/models/")
            || ngx_http_llm_route_below(&path, "/models/")))
    {
        ctx->arg = path;
        ctx->arg.data += ngx_http_llm_route_below(&path, "/v1/models/")
                         ? sizeof("/v1/models/") - 1
                         : sizeof("/models/") - 1;
        ctx->arg.len = path.data + path.len - ctx->arg.data;

        for (match = ngx_http_llm_paths;
             match->route != NGX_HTTP_LLM_MODELS;
             match++)
        {
            /* void */
        }
    }

    if (match == NULL) {
        return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_NOT_FOUND, "Not Found");
    }

    ctx->route = match->route;
    ctx->codec = match->codec;

    if (r->method & (match->methods|NGX_HTTP_OPTIONS)) {
        return NGX_OK;
    }

    return ngx_http_llm_fail(ctx, NGX_HTTP_LLM_NOT_ALLOWED,
                             "Method Not Allowed");
}


/* r->uri below the location, beginning with a slash, without one at the end */

static ngx_str_t
ngx_http_llm_route_path(ngx_http_llm_ctx_t *ctx)
{
    size_t      n;
    ngx_str_t   path;

    path = ctx->request->uri;

    if (ctx->conf->prefix) {
        n = ctx->conf->location.len;

        if (n && ctx->conf->location.data[n - 1] == '/') {
            n--;
        }

        n = ngx_min(n, path.len);
        path.data += n;
        path.len -= n;
    }

    while (path.len > 1 && path.data[path.len - 1] == '/') {
        path.len--;
    }

    if (path.len == 0) {
        ngx_str_set(&path, "/");
    }

    return path;
}


static ngx_uint_t
ngx_http_llm_route_below(ngx_str_t *path, const char *prefix)
{
    size_t  n;

    n = ngx_strlen(prefix);

    return path->len > n && ngx_strncmp(path->data, prefix, n) == 0;
}


/*
 * Whether the path is that of the table.  There, * stands for a segment: the
 * first for the name of a model, the second for its version.
 */

static ngx_uint_t
ngx_http_llm_route_match(ngx_http_llm_ctx_t *ctx,
    const ngx_http_llm_path_t *p, ngx_str_t *path)
{
    u_char      *c, *end, *pattern, *last;
    ngx_str_t    names[2];
    ngx_uint_t   n;

    n = 0;
    c = path->data;
    end = c + path->len;
    last = p->path.data + p->path.len;

    for (pattern = p->path.data; pattern < last; pattern++) {

        if (*pattern != '*') {

            if (c == end || *c++ != *pattern) {
                return 0;
            }

            continue;
        }

        names[n].data = c;

        while (c < end && *c != '/') {
            c++;
        }

        names[n].len = c - names[n].data;

        if (names[n++].len == 0) {
            return 0;
        }
    }

    if (c != end) {
        return 0;
    }

    if (n) {
        ctx->arg = names[0];
        ctx->version = names[n - 1];
    }

    return 1;
}


ngx_str_t *
ngx_http_llm_route_methods(ngx_http_llm_ctx_t *ctx)
{
    ngx_uint_t                  methods;
    ngx_str_t                   path;
    const ngx_http_llm_path_t  *p;

    static ngx_str_t  get = ngx_string("GET, HEAD, OPTIONS");
    static ngx_str_t  post = ngx_string("POST, OPTIONS");
    static ngx_str_t  both = ngx_string("GET, HEAD, POST, OPTIONS");

    methods = 0;
    path = ngx_http_llm_route_path(ctx);

    for (p = ngx_http_llm_paths; p->path.len; p++) {

        if (ctx->conf->route == NGX_HTTP_LLM_ANY
            && ctx->route != NGX_HTTP_LLM_MODELS
            ? ngx_http_llm_route_match(ctx, p, &path)
            : p->route == ctx->route)
        {
            methods |= p->methods;
        }
    }

    if (!(methods & NGX_HTTP_POST)) {
        return &get;
    }

    return (methods & NGX_HTTP_GET) ? &both : &post;
}


const char *
ngx_http_llm_route_name(ngx_http_llm_ctx_t *ctx)
{
    const ngx_http_llm_path_t  *p;

    for (p = ngx_http_llm_paths; p->path.len; p++) {
        if (p->route == ctx->route) {
            return (char *) p->path.data;
        }
    }

    return "";
}
