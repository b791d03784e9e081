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
    "  -r, --reps N          measurements of each (3), after a short warm-up\n"
    "  -s, --streams N       decode N sequences at once and count the tokens of all (1)\n"
    "  -t, --threads N       compute threads (all cores)\n"
    "      --kv f16|f32      format of the KV cache (f16)\n"
    "  -m, --model FILE      another way to name the file\n"
    "      --json            print one JSON object with every measurement instead of a table\n\n"
    "An empty LIST ('') leaves that kind out.\n\n"
    "Example: llm bench model.gguf -p 128,2048 -n 64 -r 5\n";

#define MAX_REPS 1000

typedef struct {
    const char       *model;
    uint32_t         *prefill, n_prefill, *decode, n_decode;
    uint32_t          reps, streams;
    bool              json;
    llm_engine_conf_t engine;
} bench_conf_t;

/* A list that may be empty. */
static bool
parse_sizes(const char *me, const char *option, const char *text, uint32_t **list, uint32_t *n)
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
        if ((*list)[i] < 1 || (*list)[i] > 1u << 20) {
            tool_usage(me, "%s must be 1 to %u, not %u", option, 1u << 20, (*list)[i]);
            return false;
        }
    }
    return true;
}

static int
parse_options(int argc, char **argv, bench_conf_t *c)
{
    static const struct option options[] = {
        TOOL_ENGINE_OPTIONS, { "prefill", required_argument, NULL, 'p' },
        { "decode", required_argument, NULL, 'n' }, { "reps", required_argument, NULL, 'r' },
        { "streams", required_argument, NULL, 's' }, { "model", required_argument, NULL, 'm' },
        { "json", no_argument, NULL, 2 }, { NULL, 0, NULL, 0 },
    };
    const char *me = argv[0];
    bool good = parse_sizes(me, "--prefill", "512", &c->prefill, &c->n_prefill)
                && parse_sizes(me, "--decode", "128", &c->decode, &c->n_decode);
    for (int o; good && (o = getopt_long(argc, argv, "hp:n:r:s:t:m:", options, NULL)) != -1;) {
        switch (o) {
        case 'h':
            fputs(usage, stdout);
            return -1;
        case 'p':
            good = parse_sizes(me, "--prefill", optarg, &c->prefill, &c->n_prefill);
            break;
        case 'n':
            good = parse_sizes(me, "--decode", optarg, &c->decode, &c->n_decode);
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

/*
 * n_jobs prompts of n_prompt tokens, max_new tokens each; *ns from the first start to the last
 * token.
 */
static llm_code_t
measure(bench_t *b, uint32_t n_jobs, uint32_t n_prompt, uint32_t max_new, double *ns,
        llm_err_t *err)
{
    llm_code_t rc = LLM_OK;
    uint64_t start = UINT64_MAX, stop = 0;
    uint32_t n = 0;
    for (; n < n_jobs && rc == LLM_OK; n += rc == LLM_OK) {
        llm_job_conf_t conf = { .tokens = b->tokens, .n_tokens = n_prompt, .max_new = max_new };
        llm_sampling_init(&conf.sampling);
        conf.sampling.ignore_eos = true;
        fill_prompt(b, n_prompt);
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
        start = v.started_ns < start ? v.started_ns : start;
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
print_row(const char *kind, uint32_t n, double *speed, uint32_t reps)
{
    qsort(speed, reps, sizeof(*speed), by_value);
    double median = reps % 2 ? speed[reps / 2] : (speed[reps / 2 - 1] + speed[reps / 2]) / 2;
    printf("%-8s %7u   %10.1f %10.1f %10.1f\n", kind, n, speed[0], median, speed[reps - 1]);
    fflush(stdout);
}

/* All sizes of one kind; with --json an object "size": [tokens a second of each repetition]. */
static llm_code_t
measure_kind(bench_t *b, const char *kind, bool decode, json_t *out, llm_err_t *err)
{
    const bench_conf_t *c = b->c;
    const uint32_t *sizes = decode ? c->decode : c->prefill;
    uint32_t n_sizes = decode ? c->n_decode : c->n_prefill, jobs = decode ? c->streams : 1;
    llm_code_t rc = LLM_OK;
    for (uint32_t i = 0; i < n_sizes && rc == LLM_OK; i++) {
        double speed[MAX_REPS], ns;
        json_t *list = json_array();
        for (uint32_t r = 0; r < c->reps && rc == LLM_OK; r++) {
            tool_show("%s of %u tokens: %u of %u", kind, sizes[i], r + 1, c->reps);
            rc = decode ? measure(b, jobs, 1, sizes[i], &ns, err) : measure(b, 1, sizes[i], 1, &ns,
                                                                            err);
            if (rc == LLM_OK) {
                speed[r] = (double) sizes[i] * jobs / ns * 1e9;
                json_array_append_new(list, json_real(speed[r]));
            }
        }
        tool_show(NULL);
        char key[16];
        snprintf(key, sizeof(key), "%u", sizes[i]);
        json_object_set_new(out, key, list);
        if (rc == LLM_OK && !c->json) {
            print_row(kind, sizes[i], speed, c->reps);
        }
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
    llm_code_t rc = measure(b, 1, b->c->n_prefill > 0 ? 32 : 1, 4, &ns, err);      /* warm-up */
    if (rc != LLM_OK) {
        return rc;
    }
    if (!c->json) {
        printf("%s, %s, %u threads, %s kernels, %u sequences\n\ntokens a second       min     "
               "median        max\n", info->name, info->type_name, threads, llm_kern()->name,
               c->streams);
    }
    json_t *prefill = json_object(), *decode = json_object();
    rc = measure_kind(b, "prefill", false, prefill, err);
    if (rc == LLM_OK) {
        rc = measure_kind(b, "decode", true, decode, err);
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
        uint32_t longest = 32;
        for (uint32_t i = 0; i < c.n_prefill; i++) {
            longest = c.prefill[i] > longest ? c.prefill[i] : longest;
        }
        c.engine.n_ctx = longest + 4;
        for (uint32_t i = 0; i < c.n_decode; i++) {
            c.engine.n_ctx = c.decode[i] + 2 > c.engine.n_ctx ? c.decode[i] + 2 : c.engine.n_ctx;
        }
        c.engine.n_slots = c.engine.n_parallel = c.streams;

        llm_err_t err;
        bench_t b = { .c = &c, .random = 1 };
        llm_code_t rc = tool_session_open(&b.s, c.model, &c.engine, &err);
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
    return status > 0 ? status : TOOL_OK;
}
