/*
 * logprobs.c - `llm logprobs`: numbers to compare with a reference, as one JSON object.
 */
#include "tools/tools.h"

#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: llm logprobs FILE --prompt TEXT | --tokens N,N,... [OPTION...]\n\n"
    "Prints one JSON object: the ids of the prompt, the log-probability of each of them after the\n"
    "ones before it (null for the first), then N greedy tokens (also past EOS) with theirs.\n\n"
    "  -p, --prompt TEXT     tokenized as the model wants it, with special tokens\n"
    "      --tokens LIST     ids, with commas between them\n"
    "  -n, --new N           tokens to make (0)\n"
    "      --top K           also the K most likely alternatives of every token\n"
    "      --kv TYPE         format of the KV cache: f32, f16 or q8_0 (f32)\n"
    "  -t, --threads N       compute threads (all cores)\n\n"
    "With LLM_KERN=ref in the environment, activations are not rounded to 8 bits.\n\n"
    "Example: llm logprobs model.gguf -p 'The capital of France is' -n 4\n";

typedef struct {
    const char       *prompt;
    uint32_t         *ids, n_ids, n_new, n_top;
    llm_engine_conf_t engine;
} logprobs_conf_t;

static int
parse_options(int argc, char **argv, logprobs_conf_t *c)
{
    static const struct option options[] = {
        TOOL_ENGINE_OPTIONS, { "prompt", required_argument, NULL, 'p' },
        { "tokens", required_argument, NULL, 1 }, { "new", required_argument, NULL, 'n' },
        { "top", required_argument, NULL, 2 }, { NULL, 0, NULL, 0 },
    };
    const char *me = argv[0];
    for (int o; (o = getopt_long(argc, argv, "hp:n:t:", options, NULL)) != -1;) {
        bool good = true;
        switch (o) {
        case 'h':
            fputs(usage, stdout);
            return -1;
        case 'p':
            c->prompt = optarg;
            break;
        case 1:
            free(c->ids);
            c->ids = NULL;
            good = tool_list(me, "--tokens", optarg, &c->ids, &c->n_ids);
            break;
        case 'n':
            good = tool_u32(me, "--new", optarg, 0, UINT32_MAX, &c->n_new);
            break;
        case 2:
            good = tool_u32(me, "--top", optarg, 0, 1000, &c->n_top);
            break;
        default:
            good = tool_engine_option(me, o, &c->engine);
        }
        if (!good) {
            return TOOL_USAGE;
        }
    }
    if (argc - optind != 1) {
        return tool_usage(me, "wants one model file");
    }
    if ((c->prompt == NULL) == (c->ids == NULL)) {
        return tool_usage(me, "wants either --prompt or --tokens");
    }
    return TOOL_OK;
}

static json_t *
number(float v)
{
    return isfinite(v) ? json_real((double) v) : json_null();
}

/* Appends what is known of token i to the arrays. */
static void
add_token(const llm_job_t *job, uint32_t i, uint32_t n_top, json_t *ids, json_t *logprobs,
          json_t *tops)
{
    llm_job_token_t t;
    llm_job_token(job, i, &t);
    json_array_append_new(ids, json_integer(t.id));
    json_array_append_new(logprobs, number(t.raw_logprob));
    json_t *top = json_array();
    for (uint32_t k = 0; k < t.n_top && k < n_top; k++) {
        json_array_append_new(top, json_pack("[i,o]", t.top[k].id, number(t.top[k].logprob)));
    }
    json_array_append_new(tops, top);
}

static llm_code_t
print_result(const tool_session_t *s, const llm_job_t *job, const llm_job_view_t *v, uint32_t n_top,
             llm_err_t *err)
{
    json_t *ids = json_array(), *logprobs = json_array(), *tops = json_array();
    json_t *new_ids = json_array(), *new_logprobs = json_array(), *new_tops = json_array();
    for (uint32_t i = 0; i < v->n_prompt; i++) {
        add_token(job, i, n_top, ids, logprobs, tops);
    }
    for (uint32_t i = 0; i < v->n_new; i++) {
        add_token(job, v->n_prompt + i, n_top, new_ids, new_logprobs, new_tops);
    }
    json_t *out = json_pack("{s:s,s:o,s:o,s:{s:o,s:o}}", "model", llm_model_info(s->model)->name,
                            "input_ids", ids, "prompt_logprobs", logprobs, "greedy", "ids", new_ids,
                            "logprobs", new_logprobs);
    if (out != NULL && n_top > 0) {
        json_object_set(out, "prompt_top", tops);
        json_object_set(json_object_get(out, "greedy"), "top", new_tops);
    }
    json_decref(tops);
    json_decref(new_tops);
    bool printed = out != NULL && json_dumpf(out, stdout,
                                             JSON_COMPACT | JSON_REAL_PRECISION(9)) == 0;
    json_decref(out);
    putchar('\n');
    return printed ? LLM_OK : llm_fail(err, LLM_E_NOMEM, "no memory for the result");
}

static llm_code_t
score(const tool_session_t *s, const logprobs_conf_t *c, llm_err_t *err)
{
    llm_tokens_t t = { 0 };
    llm_job_t job;
    llm_job_view_t view;
    llm_code_t rc = LLM_OK;
    if (c->prompt != NULL) {
        rc = llm_tokenize(s->model, c->prompt, strlen(c->prompt), LLM_TOK_ADD_SPECIAL, &t, err);
    }
    llm_job_conf_t conf = {
        .tokens = c->prompt != NULL ? t.ids : (const int32_t *) c->ids,
        .n_tokens = c->prompt != NULL ? (uint32_t) t.n : c->n_ids,
        .max_new = c->n_new, .prompt_logprobs = true, .n_top = c->n_top, .top_raw = true,
    };
    llm_sampling_init(&conf.sampling);
    conf.sampling.ignore_eos = true;
    if (rc == LLM_OK) {
        rc = tool_session_run(s, &conf, &job, &view, err);
    }
    if (rc == LLM_OK) {
        rc = print_result(s, &job, &view, c->n_top, err);
        llm_job_close(&job);
    }
    llm_tokens_free(&t);
    return rc;
}

int
tool_logprobs(int argc, char **argv)
{
    logprobs_conf_t c = { .engine = { .kv_type = LLM_KV_F32, .n_slots = 1, .n_parallel = 1 } };
    int status = parse_options(argc, argv, &c);
    if (status == TOOL_OK) {
        llm_err_t err;
        tool_session_t s;
        c.engine.max_top = c.n_top;
        llm_code_t rc = tool_session_open(&s, argv[optind], NULL, &c.engine, &err);
        if (rc == LLM_OK) {
            rc = score(&s, &c, &err);
            tool_session_close(&s);
        }
        status = rc == LLM_OK ? TOOL_OK : tool_failed(argv[0], &err);
    }
    free(c.ids);
    return status > 0 ? status : TOOL_OK;
}
