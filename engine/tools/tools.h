/*
 * tools.h - what the subcommands of the `llm` program share. Only the program may print and exit;
 * the library may not.
 *
 * Results go to stdout, everything else to stderr. Exit status: 0 done, 1 failed, 2 wrong usage.
 */
#ifndef LLM_TOOLS_H
#define LLM_TOOLS_H

#include "llm.h"

enum { TOOL_OK = 0, TOOL_FAILED = 1, TOOL_USAGE = 2 };

/* argv[0] is "llm <name>". */
int tool_bench(int argc, char **argv);
int tool_inspect(int argc, char **argv);
int tool_logprobs(int argc, char **argv);
int tool_perplexity(int argc, char **argv);
int tool_quantize(int argc, char **argv);
int tool_run(int argc, char **argv);
int tool_tokenize(int argc, char **argv);

/*
 * "llm run: <message>" on stderr; return TOOL_FAILED and TOOL_USAGE. The second adds where to find
 * help.
 */
int tool_failed(const char *command, const llm_err_t *err);
int tool_usage(const char *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Numbers of options within [min, max]; false after a message on stderr. */
bool tool_u32(const char *command, const char *option, const char *text, uint32_t min, uint32_t max,
              uint32_t *out);
bool tool_u64(const char *command, const char *option, const char *text, uint64_t *out);
bool tool_float(const char *command, const char *option, const char *text, float min, float max,
                float *out);
/* "1,2,3" into a fresh array of at least one number. */
bool tool_list(const char *command, const char *option, const char *text, uint32_t **out,
               uint32_t *n);
bool tool_kv_type(const char *command, const char *text, llm_kv_type_t *out);

/*
 * The options of every command with an engine: for its table, and what to do when getopt_long has
 * found --threads or --kv. False after a message on stderr, also for an option that is none of
 * these.
 */
#define TOOL_OPT_KV 200
#define TOOL_ENGINE_OPTIONS                                                                 \
    { "help", no_argument, NULL, 'h' }, { "threads", required_argument, NULL, 't' },        \
    { "kv", required_argument, NULL, TOOL_OPT_KV }
bool tool_engine_option(const char *command, int option, llm_engine_conf_t *conf);

/* The same for those that may have a draft model: --draft and --draft-tokens. */
#define TOOL_OPT_DRAFT 201
#define TOOL_OPT_DRAFT_TOKENS 202
#define TOOL_DRAFT_OPTIONS                                                                  \
    { "draft", required_argument, NULL, TOOL_OPT_DRAFT },                                   \
    { "draft-tokens", required_argument, NULL, TOOL_OPT_DRAFT_TOKENS }
bool tool_draft_option(const char *command, int option, const char **draft,
                       llm_engine_conf_t *conf);

/* The whole of stdin (path "-") or of a file, malloc'ed and NUL-terminated. */
llm_code_t tool_read_text(const char *path, char **out, size_t *len, llm_err_t *err);

/* "1.5 GiB"; buf holds at least 32 bytes and is returned. */
const char *tool_bytes(char *buf, double bytes);

/*
 * A line of state on stderr, over the one before, when that is a terminal; NULL takes it away.
 */
void tool_show(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The same for a job that has been waited for longer than two seconds. */
void tool_show_job(const llm_job_view_t *view);

/* A model with an engine that this process leads. */
typedef struct {
    llm_model_t  *model, *draft;
    llm_engine_t *engine;
    int           wake_fd;
} tool_session_t;

/*
 * Opens both; loading shows on stderr when that is a terminal. On failure nothing stays open.
 * draft: file of a draft model or NULL; conf->n_draft == 0: it drafts TOOL_DEFAULT_DRAFTS tokens.
 * conf->n_ctx == 0: the context of the model, but at most TOOL_DEFAULT_CTX. The KV cache is made
 * for conf->n_parallel sequences of that length.
 */
#define TOOL_DEFAULT_CTX 8192
#define TOOL_DEFAULT_DRAFTS 8
llm_code_t tool_session_open(tool_session_t *s, const char *path, const char *draft,
                             const llm_engine_conf_t *conf, llm_err_t *err);
void tool_session_close(tool_session_t *s);
/* Sleeps until a job has made progress, or a second has passed. */
void tool_session_wait(const tool_session_t *s);
/*
 * Submits a job and waits for its end. The caller closes the job after LLM_OK. Errors: those of
 * llm_job_submit; ENGINE.
 */
llm_code_t tool_session_run(const tool_session_t *s, const llm_job_conf_t *conf, llm_job_t *job,
                            llm_job_view_t *view, llm_err_t *err);

#endif
