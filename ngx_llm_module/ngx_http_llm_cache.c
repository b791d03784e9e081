/*
 * ngx_http_llm_cache.c - llm_cache_path: the folder for what outlives nginx.
 *
 * Only the user of the master reads and writes there: what lies in it is
 * mapped as weights and believed as keys and values.
 *
 * Weights are written once and take as long as the disk does.  Nobody waits
 * for that: a process forked from the master, which has the weights in
 * memory that it shares, writes them while the workers start.  The prefix
 * cache is written by the master when all its workers have ended, and read
 * before the first ones start.
 */
#include "ngx_http_llm_conf.h"

#include <sys/resource.h>


#define NGX_HTTP_LLM_CACHE_PREFIXES  ((size_t) 1 << 30)


static ngx_int_t ngx_http_llm_cache_prefixes(ngx_str_t *value, size_t *size);
static void ngx_http_llm_cache_writer(ngx_http_llm_model_t *model,
    llm_model_t *m, ngx_log_t *log);


char *
ngx_http_llm_cache_path(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_llm_main_conf_t *lmcf = conf;

    ngx_str_t        *path, *value;
    ngx_file_info_t   fi;

    value = cf->args->elts;
    path = &lmcf->cache.path;

    if (path->len) {
        return "is duplicate";
    }

    if (value[1].len == 0) {
        return "must not be empty";
    }

    lmcf->cache.prefixes = NGX_HTTP_LLM_CACHE_PREFIXES;

    if (cf->args->nelts == 3
        && ngx_http_llm_cache_prefixes(&value[2], &lmcf->cache.prefixes)
           != NGX_OK)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\", it must be "
                           "\"prefixes=SIZE\" or \"prefixes=off\"",
                           &value[2]);
        return NGX_CONF_ERROR;
    }

    *path = value[1];

    if (ngx_conf_full_name(cf->cycle, path, 0) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    if (path->len > 1 && path->data[path->len - 1] == '/') {
        path->data[--path->len] = '\0';
    }

    if (ngx_process == NGX_PROCESS_SIGNALLER) {
        return NGX_CONF_OK;
    }

    if (ngx_create_dir(path->data, 0700) == NGX_FILE_ERROR
        && ngx_errno != NGX_EEXIST)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           ngx_create_dir_n " \"%V\" failed", path);
        return NGX_CONF_ERROR;
    }

    if (ngx_file_info(path->data, &fi) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           ngx_file_info_n " \"%V\" failed", path);
        return NGX_CONF_ERROR;
    }

    if (!ngx_is_dir(&fi)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"llm_cache_path\" \"%V\" is not a directory",
                           path);
        return NGX_CONF_ERROR;
    }

    if ((fi.st_uid != geteuid() && fi.st_uid != 0) || (fi.st_mode & 022)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"llm_cache_path\" \"%V\" can be written by "
                           "other users: it must belong to the user who "
                           "starts nginx, with mode 0700", path);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_llm_cache_prefixes(ngx_str_t *value, size_t *size)
{
    off_t      n;
    ngx_str_t  s;

    if (ngx_strncmp(value->data, "prefixes=", 9) != 0) {
        return NGX_ERROR;
    }

    s.len = value->len - 9;
    s.data = value->data + 9;

    if (ngx_strcmp(s.data, "off") == 0) {
        *size = 0;
        return NGX_OK;
    }

    n = ngx_parse_offset(&s);

    if (n <= 0) {
        return NGX_ERROR;
    }

    *size = (size_t) n;

    return NGX_OK;
}


/*
 * The writer is a grandchild, so that init and not the master learns of its
 * end.  In a master that runs already signals are blocked here.
 */

void
ngx_http_llm_cache_weights(ngx_http_llm_model_t *model, llm_model_t *m,
    ngx_log_t *log)
{
    pid_t       pid;
    ngx_uint_t  child;

    pid = fork();
    child = 0;

    if (pid == 0) {
        child = 1;
        pid = fork();

        if (pid == 0) {
            ngx_http_llm_cache_writer(model, m, log);
        }
    }

    if (pid == -1) {
        ngx_log_error(NGX_LOG_WARN, log, ngx_errno,
                      "llm_model \"%V\": fork() failed, the weights are not "
                      "kept", &model->name);
    }

    if (child) {
        _exit(0);
    }

    if (pid > 0) {
        (void) waitpid(pid, NULL, 0);
    }
}


/*
 * It must not keep the ports of an nginx that has ended, nor a pipe whose
 * reader waits for the end of the program that started it.
 */

static void
ngx_http_llm_cache_writer(ngx_http_llm_model_t *model, llm_model_t *m,
    ngx_log_t *log)
{
    ngx_fd_t          fd, std;
    llm_err_t         err;
    ngx_uint_t        i;
    ngx_listening_t  *ls;

    (void) setsid();
    (void) setpriority(PRIO_PROCESS, 0, 10);

    fd = ngx_open_file("/dev/null", NGX_FILE_RDWR, NGX_FILE_OPEN, 0);

    for (std = STDIN_FILENO; std <= STDERR_FILENO && fd != -1; std++) {
        if (log->file == NULL || log->file->fd != std) {
            (void) dup2(fd, std);
        }
    }

    ls = ngx_cycle->listening.elts;

    for (i = 0; i < ngx_cycle->listening.nelts; i++) {
        if (ls[i].fd != (ngx_socket_t) -1) {
            (void) ngx_close_socket(ls[i].fd);
        }
    }

    if (llm_model_keep(m, (char *) model->cache->path.data, &err) != LLM_OK) {
        ngx_time_update();
        ngx_log_error(NGX_LOG_WARN, log, 0,
                      "llm_model \"%V\": weights cannot be kept: %s",
                      &model->name, err.msg);
    }
}


void
ngx_http_llm_cache_restore(ngx_http_llm_model_t *model, llm_engine_t *engine,
    ngx_log_t *log)
{
    uint64_t    start;
    llm_err_t   err;
    llm_kept_t  kept;

    start = ngx_http_llm_now();

    if (llm_engine_restore(engine, (char *) model->cache->path.data, &kept,
                           &err)
        != LLM_OK)
    {
        ngx_log_error(NGX_LOG_NOTICE, log, 0,
                      "llm_model \"%V\": kept prefixes are not used: %s",
                      &model->name, err.msg);
        return;
    }

    if (kept.n_damaged) {
        ngx_log_error(NGX_LOG_NOTICE, log, 0,
                      "llm_model \"%V\": %uD pages of kept prefixes are "
                      "damaged and not used", &model->name, kept.n_damaged);
    }

    if (kept.n_pages) {
        ngx_log_error(NGX_LOG_NOTICE, log, 0,
                      "llm_model \"%V\": %uD pages of prefixes read in %uL ms",
                      &model->name, kept.n_pages,
                      (ngx_http_llm_now() - start) / 1000000);
    }
}


void
ngx_http_llm_cache_keep(ngx_http_llm_instance_t *instance,
    ngx_http_llm_cache_t *cache, ngx_log_t *log)
{
    uint64_t    start;
    llm_err_t   err;
    llm_kept_t  kept;

    start = ngx_http_llm_now();

    if (llm_engine_keep(instance->engine, (char *) cache->path.data,
                        cache->prefixes, &kept, &err)
        != LLM_OK)
    {
        ngx_log_error(NGX_LOG_WARN, log, 0,
                      "\"%V\": prefixes cannot be kept: %s", &instance->path,
                      err.msg);
        return;
    }

    if (kept.n_pages) {
        ngx_log_error(NGX_LOG_NOTICE, log, 0,
                      "\"%V\": %uD pages of prefixes kept in %uL ms",
                      &instance->path, kept.n_pages,
                      (ngx_http_llm_now() - start) / 1000000);
    }
}
