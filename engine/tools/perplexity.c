/*
 * perplexity.c - `llm perplexity`: how well a model predicts a text, as one number.
 */
#define _GNU_SOURCE     /* setenv */

#include "tools/tools.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_WINDOW 512

static const char usage[] =
    "Usage: llm perplexity FILE TEXT [OPTION...]\n\n"
    "Cuts the tokens of the file TEXT (-: standard input) into windows that are scored on their\n"
    "own, each behind BOS if the model uses it, and prints\n\n"
    "  perplexity = exp(-mean log-probability of a token after the ones before it)\n\n"
    "over all tokens but the first of a window (with BOS: over all). Lower is better. The number\n"
    "means something beside that of another model file or kernel set on the same text with the\n"
    "same window: it shows what quantization costs.\n\n"
    "      --ctx N           tokens of a window (512, or the model's context if that is smaller)\n"
    "      --kern NAME       kernels: ref (activations are not rounded), c, avx2, avx512 ...\n"
    "      --kv TYPE         format of the KV cache: f32, f16 or q8_0 (f32)\n"
    "  -t, --threads N       compute threads (all cores)\n\n"
    "Example: llm perplexity model.gguf text.txt --ctx 1024\n";

typedef struct {
    const char       *model, *text;
    llm_engine_conf_t engine;
} perplexity_conf_t;

static int
parse_options(int argc, char **argv, perplexity_conf_t *c)
{
    static const struct option options[] = {
        TOOL_ENGINE_OPTIONS, { "ctx", required_argument, NULL, 1 },
        { "kern", required_argument, NULL, 2 }, { NULL, 0, NULL, 0 },
    };
    const char *me = argv[0];
    for (int o; (o = getopt_long(argc, argv, "ht:", options, NULL)) != -1;) {
        bool good = true;
        switch (o) {
        case 'h':
            fputs(usage, stdout);
            return -1;
        case 1:
            good = tool_u32(me, "--ctx", optarg, 2, 1 << 24, &c->engine.n_ctx);
            break;
        case 2:
            good = setenv("LLM_KERN", optarg, 1) == 0;
            break;
        default:
            good = tool_engine_option(me, o, &c->engine);
        }
        if (!good) {
            return TOOL_USAGE;
        }
    }
    if (argc - optind != 2) {
        return tool_usage(me, "wants a model file and a text");
    }
    c->model = argv[optind];
    c->text = argv[optind + 1];
    return TOOL_OK;
}

typedef struct { double sum; uint64_t n; } score_t;     /* of log-probabilities */

/* Scores tokens[0..n-1] as one window; token 0 has nothing before it. */
static llm_code_t
score_window(const tool_session_t *s, const int32_t *tokens, uint32_t n, score_t *score,
             llm_err_t *err)
{
    llm_job_conf_t conf = { .tokens = tokens, .n_tokens = n, .prompt_logprobs = true };
    llm_job_t job;
    llm_job_view_t view;
    llm_sampling_init(&conf.sampling);
    llm_code_t rc = tool_session_run(s, &conf, &job, &view, err);
    if (rc != LLM_OK) {
        return rc;
    }
    for (uint32_t i = 1; i < n; i++) {
        llm_job_token_t t;
        llm_job_token(&job, i, &t);
        score->sum += (double) t.raw_logprob;
        score->n++;
    }
    llm_job_close(&job);
    return LLM_OK;
}

static llm_code_t
score_text(const tool_session_t *s, const llm_tokens_t *t, score_t *score, uint32_t *windows,
           llm_err_t *err)
{
    const llm_model_info_t *info = llm_model_info(s->model);
    uint32_t size = llm_engine_conf(s->engine)->n_ctx;
    uint32_t bos = info->add_bos && info->bos_id >= 0 ? 1 : 0, room = size - bos;
    int32_t *window = malloc(size * sizeof(*window));
    llm_code_t rc = LLM_OK;
    if (window == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "no memory for a window of %u tokens", size);
    }
    for (size_t from = 0, n; from < t->n && rc == LLM_OK; from += n) {
        n = t->n - from < room ? t->n - from : room;
        if (n + bos < 2) {
            break;              /* a single token at the end, which nothing predicts */
        }
        window[0] = info->bos_id;
        memcpy(window + bos, t->ids + from, n * sizeof(*window));
        rc = score_window(s, window, (uint32_t) n + bos, score, err);
        ++*windows;
        if (rc == LLM_OK) {
            tool_show("%zu of %zu tokens, so far %.4f", from + n, t->n,
                      exp(-score->sum / (double) score->n));
        }
    }
    tool_show(NULL);
    free(window);
    return rc == LLM_OK && score->n == 0
           ? llm_fail(err, LLM_E_ARG, "the text has %zu tokens, too few to predict one", t->n) : rc;
}

static llm_code_t
perplexity(perplexity_conf_t *c, llm_err_t *err)
{
    char *text = NULL;
    size_t len = 0;
    tool_session_t s;
    llm_tokens_t t = { 0 };
    score_t score = { 0 };
    uint32_t windows = 0;
    llm_code_t rc = tool_session_open(&s, c->model, NULL, &c->engine, err);
    if (rc != LLM_OK) {
        return rc;
    }
    rc = tool_read_text(c->text, &text, &len, err);
    if (rc == LLM_OK) {
        rc = llm_tokenize(s.model, text, len, 0, &t, err);
    }
    if (rc == LLM_OK) {
        rc = score_text(&s, &t, &score, &windows, err);
    }
    if (rc == LLM_OK) {
        printf("perplexity %.4f over %llu tokens in %u windows of %u\n",
               exp(-score.sum / (double) score.n), (unsigned long long) score.n, windows,
               llm_engine_conf(s.engine)->n_ctx);
    }
    llm_tokens_free(&t);
    free(text);
    tool_session_close(&s);
    return rc;
}

/* The default window: not beyond the context of the model. */
static llm_code_t
choose_window(perplexity_conf_t *c, llm_err_t *err)
{
    llm_model_t *m;
    llm_model_conf_t conf = { .weights = c->model, .check_only = true };
    if (c->engine.n_ctx != 0) {
        return LLM_OK;
    }
    llm_code_t rc = llm_model_open(&m, &conf, err);
    if (rc == LLM_OK) {
        uint32_t trained = llm_model_info(m)->n_ctx_train;
        c->engine.n_ctx = trained < DEFAULT_WINDOW ? trained : DEFAULT_WINDOW;
        llm_model_close(m);
    }
    return rc;
}

int
tool_perplexity(int argc, char **argv)
{
    perplexity_conf_t c = { .engine = { .kv_type = LLM_KV_F32, .n_slots = 1, .n_parallel = 1 } };
    int status = parse_options(argc, argv, &c);
    if (status == TOOL_OK) {
        llm_err_t err;
        llm_code_t rc = choose_window(&c, &err);
        if (rc == LLM_OK) {
            rc = perplexity(&c, &err);
        }
        status = rc == LLM_OK ? TOOL_OK : tool_failed(argv[0], &err);
    }
    return status > 0 ? status : TOOL_OK;
}
