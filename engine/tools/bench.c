/*
 * bench.c - `llm bench`: tokens a second of prompts and of generation.
 *
 * Every prompt has tokens of its own, so that the prefix cache never helps; decoding starts from
 * one token and an empty context. Times are the engine's: from the first step of a job to the
 * token that ends the measurement.
 */
#include "tools/tools.h"
#include "tensor/kern.h"

#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: llm bench FILE [OPTION...]\n\n"
    "Measures how fast prompts are read (prefill) and text is made (decode), in tokens/s.\n\n"
    "  -p, --prefill LIST    prompt lengths (512)\n"
    "  -n, --decode LIST     numbers of generated tokens (128)\n"
    "  -c, --context LIST    contexts to decode after, in tokens (0: one token)\n"
    "  -r, --reps N          measurements of each (3), after a short warm-up\n"
    "  -s, --streams N       decode N sequences at once and count the tokens of all (1)\n"
    "  -t, --threads N       compute threads (all cores)\n"
    "      --kv TYPE         format of the KV cache: f32, f16 or q8_0 (f16)\n"
    "      --draft FILE      a smaller model of the same vocabulary that guesses tokens\n"
    "      --draft-tokens N  most tokens that it guesses for a step (8)\n"
    "  -m, --model FILE      another way to name the file\n"
    "      --json            print one JSON object with every measurement instead of a table\n\n"
    "An empty LIST ('') leaves that kind out.\n\n"
    "Example: llm bench model.gguf -p 128,2048 -n 64 -r 5\n";

#define MAX_REPS  1000
#define SIZE_TEXT 24        /* of "1048576@1048576" */

typedef struct {
    const char       *model, *draft;
    uint32_t         *prefill, n_prefill, *decode, n_decode, *context, n_context;
    uint32_t          reps, streams;
    bool              json;
    llm_engine_conf_t engine;
} bench_conf_t;

/* A list of numbers from min on; it may be empty. */
static bool
parse_sizes(const char *me, const char *option, const char *text, uint32_t min, uint32_t **list,
            uint32_t *n)
{
    free(*list);
    *list = NULL;
    *n = 0;
    if (*text == '\0') {
        return true;
    }
    if (!tool_list(me, option, text, list, n)) {
        return false;
    }
    for (uint32_t i = 0; i < *n; i++) {
        if ((*list)[i] < min || (*list)[i] > 1u << 20) {
            tool_usage(me, "%s must be %u to %u, not %u", option, min, 1u << 20, (*list)[i]);
            return false;
        }
    }
    return true;
}

static int
parse_options(int argc, char **argv, bench_conf_t *c)
{
    static const struct option options[] = {
        TOOL_ENGINE_OPTIONS, TOOL_DRAFT_OPTIONS, { "prefill", required_argument, NULL, 'p' },
        { "decode", required_argument, NULL, 'n' }, { "reps", required_argument, NULL, 'r' },
        { "streams", required_argument, NULL, 's' },
        { "context", required_argument, NULL, 'c' }, { "model", required_argument, NULL, 'm' },
        { "json", no_argument, NULL, 2 }, { NULL, 0, NULL, 0 },
    };
    const char *me = argv[0];
    bool good = parse_sizes(me, "--prefill", "512", 1, &c->prefill, &c->n_prefill)
                && parse_sizes(me, "--decode", "128", 1, &c->decode, &c->n_decode)
                && parse_sizes(me, "--context", "0", 0, &c->context, &c->n_context);
    for (int o; good && (o = getopt_long(argc, argv, "hp:n:c:r:s:t:m:", options, NULL)) != -1;) {
        switch (o) {
        case 'h':
            fputs(usage, stdout);
            return -1;
        case 'p':
            good = parse_sizes(me, "--prefill", optarg, 1, &c->prefill, &c->n_prefill);
            break;
        case 'n':
            good = parse_sizes(me, "--decode", optarg, 1, &c->decode, &c->n_decode);
            break;
        case 'c':
            good = parse_sizes(me, "--context", optarg, 0, &c->context, &c->n_context);
            break;
        case 'r':
            good = tool_u32(me, "--reps", optarg, 1, MAX_REPS, &c->reps);
            break;
        case 's':
            good = tool_u32(me, "--streams", optarg, 1, 4096, &c->streams);
            break;
        case 'm':
            c->model = optarg;
            break;
        case TOOL_OPT_DRAFT:
        case TOOL_OPT_DRAFT_TOKENS:
            good = tool_draft_option(me, o, &c->draft, &c->engine);
            break;
        case 2:
            c->json = true;
            break;
        default:
            good = tool_engine_option(me, o, &c->engine);
        }
    }
    if (!good) {
        return TOOL_USAGE;
    }
    for (uint32_t i = 0; i < c->n_context; i++) {
        if (c->streams > 1 && c->context[i] > 0) {
            /* the first would decode while the last still read their prompts */
            return tool_usage(me, "--context %u measures one stream, not %u", c->context[i],
                              c->streams);
        }
    }
    if (argc - optind != (c->model == NULL)) {
        return tool_usage(me, "wants one model file");
    }
    c->model = c->model != NULL ? c->model : argv[optind];
    return TOOL_OK;
}

/* ------------------------------------------------------------- measurements */

typedef struct {
    tool_session_t    s;
    const bench_conf_t *c;
    uint64_t          random;       /* state of the prompts' generator */
    int32_t          *tokens;       /* [longest prompt] */
    llm_job_t        *jobs;         /* [streams] */
} bench_t;

static void
fill_prompt(bench_t *b, uint32_t n)
{
    uint32_t vocab = llm_model_info(b->s.model)->n_vocab;
    for (uint32_t i = 0; i < n; i++) {
        b->random = b->random * 6364136223846793005u + 1442695040888963407u;
        b->tokens[i] = (int32_t) ((b->random >> 33) % vocab);
    }
}

/* What one measurement runs: jobs at once, each a prompt of n_prompt tokens and n_new after it. */
typedef struct {
    uint32_t n_jobs, n_prompt, n_new;
    bool     after_prompt;      /* the time begins with the first new token, not with the prompt */
} work_t;

/* *ns: to the last token of all. */
static llm_code_t
measure(bench_t *b, work_t w, double *ns, llm_err_t *err)
{
    llm_code_t rc = LLM_OK;
    uint64_t start = UINT64_MAX, stop = 0;
    uint32_t n = 0, max_new = w.n_new + w.after_prompt;
    for (; n < w.n_jobs && rc == LLM_OK; n += rc == LLM_OK) {
        llm_job_conf_t conf = { .tokens = b->tokens, .n_tokens = w.n_prompt, .max_new = max_new };
        llm_sampling_init(&conf.sampling);
        conf.sampling.ignore_eos = true;
        fill_prompt(b, w.n_prompt);
        rc = llm_job_submit(b->s.engine, &conf, &b->jobs[n], err);
    }
    for (uint32_t i = 0; i < n; i++) {
        llm_job_view_t v;
        for (llm_job_poll(&b->jobs[i], &v); rc == LLM_OK && !v.done; llm_job_poll(&b->jobs[i],
                                                                                  &v)) {
            tool_session_wait(&b->s);
        }
        if (rc == LLM_OK && v.n_new != max_new) {
            rc = llm_fail(err, LLM_E_ENGINE, "the engine made %u of %u tokens", v.n_new, max_new);
        }
        uint64_t began = w.after_prompt ? v.first_ns : v.started_ns;
        start = began < start ? began : start;
        stop = v.last_ns > stop ? v.last_ns : stop;
        llm_job_close(&b->jobs[i]);
    }
    *ns = stop > start ? (double) (stop - start) : 1;
    return rc;
}

static int
by_value(const void *a, const void *b)
{
    double x = *(const double *) a, y = *(const double *) b;
    return (x > y) - (x < y);
}

static void
print_row(const char *kind, const char *size, double *speed, uint32_t reps)
{
    qsort(speed, reps, sizeof(*speed), by_value);
    double median = reps % 2 ? speed[reps / 2] : (speed[reps / 2 - 1] + speed[reps / 2]) / 2;
    printf("%-8s %12s   %10.1f %10.1f %10.1f\n", kind, size, speed[0], median, speed[reps - 1]);
    fflush(stdout);
}

/* All repetitions of one size; out (an object) gets "size": [tokens a second of each]. */
static llm_code_t
measure_size(bench_t *b, const char *kind, const char *size, uint32_t n_tokens, work_t work,
             json_t *out, llm_err_t *err)
{
    const bench_conf_t *c = b->c;
    double speed[MAX_REPS], ns;
    llm_code_t rc = LLM_OK;
    json_t *list = json_array();
    for (uint32_t r = 0; r < c->reps && rc == LLM_OK; r++) {
        tool_show("%s of %s tokens: %u of %u", kind, size, r + 1, c->reps);
        rc = measure(b, work, &ns, err);
        if (rc == LLM_OK) {
            speed[r] = (double) n_tokens * work.n_jobs / ns * 1e9;
            json_array_append_new(list, json_real(speed[r]));
        }
    }
    tool_show(NULL);
    json_object_set_new(out, size, list);
    if (rc == LLM_OK && !c->json) {
        print_row(kind, size, speed, c->reps);
    }
    return rc;
}

static llm_code_t
measure_prefill(bench_t *b, json_t *out, llm_err_t *err)
{
    llm_code_t rc = LLM_OK;
    for (uint32_t i = 0; i < b->c->n_prefill && rc == LLM_OK; i++) {
        uint32_t n = b->c->prefill[i];
        char size[SIZE_TEXT];
        snprintf(size, sizeof(size), "%u", n);
        rc = measure_size(b, "prefill", size, n, (work_t) { 1, n, 1, false }, out, err);
    }
    return rc;
}

/* "128" tokens from an empty context, "128@4096" after 4096. */
static llm_code_t
measure_decode(bench_t *b, json_t *out, llm_err_t *err)
{
    const bench_conf_t *c = b->c;
    llm_code_t rc = LLM_OK;
    for (uint32_t i = 0; i < c->n_decode * c->n_context && rc == LLM_OK; i++) {
        uint32_t n = c->decode[i / c->n_context], context = c->context[i % c->n_context];
        char size[SIZE_TEXT];
        snprintf(size, sizeof(size), context > 0 ? "%u@%u" : "%u", n, context);
        work_t work = { c->streams, context > 0 ? context : 1, n, context > 0 };
        rc = measure_size(b, "decode", size, n, work, out, err);
    }
    return rc;
}

static llm_code_t
run_all(bench_t *b, llm_err_t *err)
{
    const bench_conf_t *c = b->c;
    const llm_model_info_t *info = llm_model_info(b->s.model);
    uint32_t threads = llm_engine_conf(b->s.engine)->n_threads;
    double ns;
    work_t warm_up = { 1, c->n_prefill > 0 ? 32 : 1, 4, false };
    llm_code_t rc = measure(b, warm_up, &ns, err);
    if (rc != LLM_OK) {
        return rc;
    }
    if (!c->json) {
        printf("%s, %s, %u threads, %s kernels, %u sequences\n\ntokens a second            min  "
               "   median        max\n", info->name, info->type_name, threads, llm_kern()->name,
               c->streams);
    }
    json_t *prefill = json_object(), *decode = json_object();
    rc = measure_prefill(b, prefill, err);
    if (rc == LLM_OK) {
        rc = measure_decode(b, decode, err);
    }
    json_t *out = json_pack("{s:s,s:s,s:i,s:s,s:i,s:o,s:o}", "model", info->name, "type",
                            info->type_name, "threads", (int) threads, "kernels", llm_kern()->name,
                            "streams", (int) c->streams, "prefill", prefill, "decode", decode);
    if (rc == LLM_OK && c->json) {
        bool printed = out != NULL && json_dumpf(out, stdout,
                                                 JSON_COMPACT | JSON_REAL_PRECISION(6)) == 0;
        putchar('\n');
        rc = printed ? LLM_OK : llm_fail(err, LLM_E_NOMEM, "no memory for the result");
    }
    json_decref(out);
    return rc;
}

int
tool_bench(int argc, char **argv)
{
    bench_conf_t c = { .reps = 3, .streams = 1, .engine = { .kv_type = LLM_KV_F16 } };
    int status = parse_options(argc, argv, &c);
    if (status == TOOL_OK) {
        uint32_t longest = 32, n_ctx = 0;
        for (uint32_t i = 0; i < c.n_prefill; i++) {
            longest = c.prefill[i] > longest ? c.prefill[i] : longest;
        }
        for (uint32_t i = 0; i < c.n_context; i++) {
            longest = c.context[i] > longest ? c.context[i] : longest;
        }
        for (uint32_t i = 0; i < c.n_decode; i++) {
            n_ctx = c.decode[i] > n_ctx ? c.decode[i] : n_ctx;
        }
        c.engine.n_ctx = longest + n_ctx + 4;
        c.engine.n_slots = c.engine.n_parallel = c.streams;

        llm_err_t err;
        bench_t b = { .c = &c, .random = 1 };
        llm_code_t rc = tool_session_open(&b.s, c.model, c.draft, &c.engine, &err);
        if (rc == LLM_OK) {
            b.tokens = malloc(longest * sizeof(*b.tokens));
            b.jobs = calloc(c.streams, sizeof(*b.jobs));
            rc = b.tokens != NULL && b.jobs != NULL ? run_all(&b, &err) : llm_fail(&err,
                                                                                   LLM_E_NOMEM,
                                                                                   "no memory");
            tool_session_close(&b.s);
        }
        free(b.tokens);
        free(b.jobs);
        status = rc == LLM_OK ? TOOL_OK : tool_failed(argv[0], &err);
    }
    free(c.prefill);
    free(c.decode);
    free(c.context);
    return status > 0 ? status : TOOL_OK;
}
