/*
 * common.c - options, texts, progress, and the session that the generating subcommands share.
 */
#include "tools/tools.h"
#include "base/clock.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_TEXT ((size_t) 64 << 20)

int
tool_failed(const char *command, const llm_err_t *err)
{
    fflush(stdout);
    fprintf(stderr, "%s: %s\n", command, err->msg);
    return TOOL_FAILED;
}

int
tool_usage(const char *command, const char *fmt, ...)
{
    va_list args;
    fprintf(stderr, "%s: ", command);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fprintf(stderr, "\nTry '%s --help'.\n", command);
    return TOOL_USAGE;
}

bool
tool_u64(const char *command, const char *option, const char *text, uint64_t *out)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0) {
        tool_usage(command, "%s wants a whole number, not \"%s\"", option, text);
        return false;
    }
    *out = v;
    return true;
}

bool
tool_u32(const char *command, const char *option, const char *text, uint32_t min, uint32_t max,
         uint32_t *out)
{
    uint64_t v;
    if (!tool_u64(command, option, text, &v)) {
        return false;
    }
    if (v < min || v > max) {
        tool_usage(command, "%s must be %u to %u, not %s", option, min, max, text);
        return false;
    }
    *out = (uint32_t) v;
    return true;
}

bool
tool_float(const char *command, const char *option, const char *text, float min, float max,
           float *out)
{
    char *end;
    float v = strtof(text, &end);
    if (end == text || *end != '\0' || !(v >= min && v <= max)) {
        tool_usage(command, "%s must be a number from %g to %g, not \"%s\"", option, (double) min,
                   (double) max, text);
        return false;
    }
    *out = v;
    return true;
}

bool
tool_list(const char *command, const char *option, const char *text, uint32_t **out, uint32_t *n)
{
    size_t cap = 1;
    for (const char *p = text; *p != '\0'; p++) {
        cap += *p == ',';
    }
    uint32_t *list = malloc(cap * sizeof(*list)), count = 0;
    for (const char *p = text; list != NULL && count < cap;) {
        char *end;
        errno = 0;
        unsigned long v = strtoul(p, &end, 10);
        if (*p < '0' || *p > '9' || (*end != ',' && *end != '\0') || errno != 0 || v > INT32_MAX) {
            break;
        }
        list[count++] = (uint32_t) v;
        if (*end == '\0') {
            *out = list;
            *n = count;
            return true;
        }
        p = end + 1;
    }
    free(list);
    tool_usage(command, "%s wants whole numbers with commas between them, not \"%s\"", option,
               text);
    return false;
}

bool
tool_kv_type(const char *command, const char *text, llm_kv_type_t *out)
{
    if (!llm_kv_by_name(text, out)) {
        tool_usage(command, "--kv must be f32, f16 or q8_0, not \"%s\"", text);
        return false;
    }
    return true;
}

bool
tool_engine_option(const char *command, int option, llm_engine_conf_t *conf)
{
    switch (option) {
    case 't':
        return tool_u32(command, "--threads", optarg, 1, 1024, &conf->n_threads);
    case TOOL_OPT_KV:
        return tool_kv_type(command, optarg, &conf->kv_type);
    default:
        tool_usage(command, "wrong option");
        return false;
    }
}

bool
tool_draft_option(const char *command, int option, const char **draft, llm_engine_conf_t *conf)
{
    if (option == TOOL_OPT_DRAFT) {
        *draft = optarg;
        return true;
    }
    return tool_u32(command, "--draft-tokens", optarg, 1, 16, &conf->n_draft);
}

llm_code_t
tool_read_text(const char *path, char **out, size_t *len, llm_err_t *err)
{
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    char *text = NULL;
    size_t n = 0, cap = 0, got = 1;
    if (f == NULL) {
        return llm_fail(err, LLM_E_IO, "%s: %s", path, strerror(errno));
    }
    while (got > 0 && n <= MAX_TEXT) {
        if (cap - n < 2) {
            cap = cap ? cap * 2 : 64 << 10;
            char *more = realloc(text, cap);
            if (more == NULL) {
                n = MAX_TEXT + 1;
                break;
            }
            text = more;
        }
        got = fread(text + n, 1, cap - n - 1, f);
        n += got;
    }
    bool failed = ferror(f) != 0;
    int why = errno;
    if (f != stdin) {
        fclose(f);
    }
    if (failed || n > MAX_TEXT) {
        free(text);
        return failed ? llm_fail(err, LLM_E_IO, "%s: %s", path, strerror(why))
                      : llm_fail(err, LLM_E_ARG, "%s: longer than %zu bytes, or no memory for it",
                                 path, MAX_TEXT);
    }
    text[n] = '\0';
    *out = text;
    *len = n;
    return LLM_OK;
}

const char *
tool_bytes(char *buf, double bytes)
{
    static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB" };
    size_t u = 0;
    while (bytes >= 1024 && u < 4) {
        bytes /= 1024;
        u++;
    }
    snprintf(buf, 32, "%.*f %s", u == 0 || bytes >= 100 ? 0 : 1, bytes, units[u]);
    return buf;
}

/* ---------------------------------------------------------------- progress */

void
tool_show(const char *fmt, ...)
{
    static int shown;           /* columns */
    char line[128] = "";
    if (!isatty(STDERR_FILENO)) {
        return;
    }
    if (fmt != NULL) {
        va_list args;
        va_start(args, fmt);
        vsnprintf(line, sizeof(line), fmt, args);
        va_end(args);
    }
    int n = (int) strlen(line);
    if (n > 0 || shown > 0) {
        fprintf(stderr, "\r%s%*s%s", line, shown > n ? shown - n : 0, "", n > 0 ? "" : "\r");
    }
    shown = n;
}

void
tool_show_job(const llm_job_view_t *view)
{
    double seconds = 1e-9 * (double) (llm_now_ns() - view->queued_ns);
    if (seconds < 2) {
        return;
    }
    if (view->n_new == 0) {
        tool_show("reading %u tokens: %.0f s", view->n_prompt, seconds);
    } else {
        tool_show("%u tokens: %.0f s", view->n_new, seconds);
    }
}

/* ----------------------------------------------------------------- session */

static void
show_loading(void *ctx, size_t done, size_t total)
{
    int *shown = ctx, percent = total > 0 ? (int) (100.0 * (double) done / (double) total) : 100;
    if (percent != *shown) {
        *shown = percent;
        tool_show("loading %3d %%", percent);
    }
}

static llm_code_t
load(llm_model_t **out, const char *path, llm_err_t *err)
{
    int shown = -1;
    llm_model_conf_t conf = {
        .weights = path, .progress = show_loading, .progress_ctx = &shown,
    };
    llm_code_t rc = llm_model_open(out, &conf, err);
    tool_show(NULL);
    return rc;
}

llm_code_t
tool_session_open(tool_session_t *s, const char *path, const char *draft,
                  const llm_engine_conf_t *conf, llm_err_t *err)
{
    *s = (tool_session_t) { .wake_fd = -1 };
    llm_code_t rc = load(&s->model, path, err);
    if (rc == LLM_OK && draft != NULL) {
        rc = load(&s->draft, draft, err);
    }
    if (rc == LLM_OK) {
        llm_engine_conf_t c = *conf;
        size_t token_bytes = llm_model_kv_bytes(s->model, c.kv_type);
        if (s->draft != NULL) {
            token_bytes += llm_model_kv_bytes(s->draft, c.kv_type);
            c.draft = s->draft;
            c.n_draft = c.n_draft == 0 ? TOOL_DEFAULT_DRAFTS : c.n_draft;
        }
        uint32_t trained = llm_model_info(s->model)->n_ctx_train;
        if (c.n_ctx == 0) {
            c.n_ctx = trained < TOOL_DEFAULT_CTX ? trained : TOOL_DEFAULT_CTX;
        }
        /* no more than these jobs can fill, with room for a page that is begun */
        c.kv_bytes = (size_t) c.n_parallel * ((size_t) c.n_ctx + 64) * token_bytes;
        rc = llm_engine_new(&s->engine, s->model, &c, err);
    }
    if (rc == LLM_OK) {
        rc = llm_engine_join(s->engine, &s->wake_fd, err);
        if (rc == LLM_OK) {
            return LLM_OK;
        }
        llm_engine_free(s->engine);
    }
    llm_model_close(s->draft);
    llm_model_close(s->model);
    *s = (tool_session_t) { .wake_fd = -1 };
    return rc;
}

void
tool_session_close(tool_session_t *s)
{
    if (s->engine != NULL) {
        llm_engine_leave(s->engine);
        llm_engine_free(s->engine);
    }
    llm_model_close(s->draft);
    llm_model_close(s->model);
    *s = (tool_session_t) { .wake_fd = -1 };
}

void
tool_session_wait(const tool_session_t *s)
{
    struct pollfd fd = { .fd = s->wake_fd, .events = POLLIN };
    uint64_t count;
    if (poll(&fd, 1, 1000) == 1 && read(s->wake_fd, &count, sizeof(count)) < 0) {
        return;     /* somebody else took the event: the caller polls its jobs anyway */
    }
}

llm_code_t
tool_session_run(const tool_session_t *s, const llm_job_conf_t *conf, llm_job_t *job,
                 llm_job_view_t *view, llm_err_t *err)
{
    llm_code_t rc = llm_job_submit(s->engine, conf, job, err);
    if (rc != LLM_OK) {
        return rc;
    }
    for (llm_job_poll(job, view); !view->done; llm_job_poll(job, view)) {
        tool_show_job(view);
        tool_session_wait(s);
    }
    tool_show(NULL);
    if (view->finish == LLM_FINISH_ERROR) {
        llm_job_close(job);
        return llm_fail(err, LLM_E_ENGINE, "the engine failed after %u tokens", view->n_new);
    }
    return LLM_OK;
}
