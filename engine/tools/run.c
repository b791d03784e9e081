/*
 * run.c - `llm run`: continues a prompt, printing text as soon as it is known.
 */
#include "tools/tools.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char usage[] =
    "Usage: llm run FILE --prompt TEXT [OPTION...]\n\n"
    "Continues a prompt with the model in FILE. The text goes to standard output as it is made.\n\n"
    "  -p, --prompt TEXT     what to continue\n"
    "  -f, --file PATH       read the prompt from a file; '-' is standard input\n"
    "      --parse           recognise control tokens such as <|im_start|> in the prompt\n"
    "  -n, --tokens N        most tokens to make (128)\n"
    "      --ignore-eos      go on when the model says that it is done\n\n"
    "Without one of these the most likely token is always taken:\n"
    "      --temp T          sample with temperature T > 0; higher is more varied\n"
    "      --top-k K         among the K most likely tokens\n"
    "      --top-p P         among the most likely ones that sum to probability P\n"
    "      --min-p P         among those at least P times as likely as the best\n"
    "      --repeat X        repetition penalty (1: none)\n"
    "      --seed N          the same seed gives the same text (default: the time)\n\n"
    "  -t, --threads N       compute threads (all cores)\n"
    "  -c, --ctx N           most tokens, prompt and output (the model's, but at most 8192)\n"
    "      --kv TYPE         format of the KV cache: f32, f16 or q8_0 (f16)\n"
    "      --speculate N     try up to N tokens a step that came next before here: the same\n"
    "                        output, faster where it repeats the prompt or itself (0)\n"
    "      --draft FILE      a smaller model of the same vocabulary: its guesses are tried, too\n"
    "      --draft-tokens N  most tokens that it guesses for a step (8)\n"
    "  -s, --stats           afterwards print times on standard error\n\n"
    "Chat templates are the business of the nginx module; for a chat model without one, write its\n"
    "control tokens into the prompt and use --parse.\n\n"
    "Example: llm run model.gguf -p 'Once upon a time' -n 64 --temp 0.8 --seed 7\n";

typedef struct {
    const char       *prompt, *file, *draft;
    unsigned          tok_flags;
    uint32_t          max_new;
    bool              stats;
    llm_sampling_t    sampling;
    llm_engine_conf_t engine;
} run_conf_t;

/* Options without a letter. */
enum {
    OPT_PARSE = 1, OPT_IGNORE_EOS, OPT_TEMP, OPT_TOP_K, OPT_TOP_P, OPT_MIN_P, OPT_REPEAT,
    OPT_SEED, OPT_SPECULATE
};

static const struct option options[] = {
    TOOL_ENGINE_OPTIONS, TOOL_DRAFT_OPTIONS,
    { "prompt", required_argument, NULL, 'p' },
    { "file", required_argument, NULL, 'f' },
    { "parse", no_argument, NULL, OPT_PARSE },
    { "tokens", required_argument, NULL, 'n' },
    { "speculate", required_argument, NULL, OPT_SPECULATE },
    { "ignore-eos", no_argument, NULL, OPT_IGNORE_EOS },
    { "temp", required_argument, NULL, OPT_TEMP },
    { "top-k", required_argument, NULL, OPT_TOP_K },
    { "top-p", required_argument, NULL, OPT_TOP_P },
    { "min-p", required_argument, NULL, OPT_MIN_P },
    { "repeat", required_argument, NULL, OPT_REPEAT },
    { "seed", required_argument, NULL, OPT_SEED },
    { "ctx", required_argument, NULL, 'c' },
    { "stats", no_argument, NULL, 's' },
    { NULL, 0, NULL, 0 },
};

static bool
sampling_option(const char *me, int option, llm_sampling_t *s)
{
    switch (option) {
    case OPT_IGNORE_EOS:
        s->ignore_eos = true;
        return true;
    case OPT_REPEAT:
        return tool_float(me, "--repeat", optarg, 1e-3f, 100, &s->repetition_penalty);
    default:
        s->sample = true;
    }
    switch (option) {
    case OPT_TEMP:
        return tool_float(me, "--temp", optarg, 1e-3f, 100, &s->temperature);
    case OPT_TOP_K:
        return tool_u32(me, "--top-k", optarg, 1, UINT32_MAX, &s->top_k);
    case OPT_TOP_P:
        return tool_float(me, "--top-p", optarg, 0, 1, &s->top_p);
    case OPT_MIN_P:
        return tool_float(me, "--min-p", optarg, 0, 1, &s->min_p);
    default:
        return tool_u64(me, "--seed", optarg, &s->seed);
    }
}

static int
parse_options(int argc, char **argv, run_conf_t *c)
{
    const char *me = argv[0];
    for (int o; (o = getopt_long(argc, argv, "hp:f:n:t:c:s", options, NULL)) != -1;) {
        bool good = true;
        switch (o) {
        case 'h':
            fputs(usage, stdout);
            return -1;
        case 'p':
            c->prompt = optarg;
            break;
        case 'f':
            c->file = optarg;
            break;
        case 's':
            c->stats = true;
            break;
        case OPT_PARSE:
            c->tok_flags |= LLM_TOK_PARSE_SPECIAL;
            break;
        case 'n':
            good = tool_u32(me, "--tokens", optarg, 1, UINT32_MAX, &c->max_new);
            break;
        case 't':
        case TOOL_OPT_KV:
            good = tool_engine_option(me, o, &c->engine);
            break;
        case TOOL_OPT_DRAFT:
        case TOOL_OPT_DRAFT_TOKENS:
            good = tool_draft_option(me, o, &c->draft, &c->engine);
            break;
        case OPT_SPECULATE:
            good = tool_u32(me, "--speculate", optarg, 0, 16, &c->engine.speculate);
            break;
        case 'c':
            good = tool_u32(me, "--ctx", optarg, 2, UINT32_MAX, &c->engine.n_ctx);
            break;
        case '?':
            return tool_usage(me, "wrong option");
        default:
            good = sampling_option(me, o, &c->sampling);
        }
        if (!good) {
            return TOOL_USAGE;
        }
    }
    if (argc - optind != 1) {
        return tool_usage(me, "wants one model file");
    }
    if ((c->prompt == NULL) == (c->file == NULL)) {
        return tool_usage(me, "wants either --prompt or --file");
    }
    return TOOL_OK;
}

static double
seconds(uint64_t from, uint64_t to)
{
    return to > from ? (double) (to - from) / 1e9 : 0;
}

static void
print_stats(const llm_engine_t *e, const llm_job_view_t *v)
{
    static const char *const kinds[LLM_DRAFT_KINDS] = { "copied", "model's", "grammar's" };
    llm_stats_t st;
    double prefill = seconds(v->queued_ns, v->first_ns), decode = seconds(v->first_ns, v->last_ns);
    fprintf(stderr, "prompt: %u tokens in %.3f s", v->n_prompt, prefill);
    if (prefill > 0) {
        fprintf(stderr, " (%.1f tokens/s)", v->n_prompt / prefill);
    }
    fprintf(stderr, "; output: %u tokens", v->n_new);
    if (v->n_new > 1 && decode > 0) {
        fprintf(stderr, ", %.1f tokens/s", (v->n_new - 1) / decode);
    }
    llm_engine_stats(e, &st);
    for (int i = 0; i < LLM_DRAFT_KINDS; i++) {
        if (st.n_drafted[i] > 0) {
            fprintf(stderr, "; %llu of %llu %s drafts were right",
                    (unsigned long long) st.n_kept[i], (unsigned long long) st.n_drafted[i],
                    kinds[i]);
        }
    }
    fprintf(stderr, "\n");
}

/* Prints what the job makes until it is done. */
static llm_code_t
stream(const tool_session_t *s, llm_job_t *job, llm_detok_t *detok, llm_job_view_t *view,
       llm_err_t *err)
{
    const char *text;
    size_t len;
    uint32_t next = 0;
    llm_code_t rc = LLM_OK;
    do {
        llm_job_poll(job, view);
        if (view->n_new > 0 || view->done) {
            tool_show(NULL);
        } else {
            tool_show_job(view);
        }
        for (; next < view->n_new && rc == LLM_OK; next++) {
            llm_job_token_t token;
            llm_job_token(job, view->n_prompt + next, &token);
            rc = llm_detok_push(detok, token.id, &text, &len, err);
            if (rc == LLM_OK) {
                fwrite(text, 1, len, stdout);
            }
        }
        if (fflush(stdout) != 0) {
            return llm_fail(err, LLM_E_IO, "standard output cannot be written");
        }
        if (!view->done) {
            tool_session_wait(s);
        }
    } while (!view->done && rc == LLM_OK);

    if (rc == LLM_OK) {
        rc = llm_detok_flush(detok, &text, &len, err);
    }
    if (rc == LLM_OK) {
        fwrite(text, 1, len, stdout);
        putchar('\n');
    }
    if (rc == LLM_OK && view->finish == LLM_FINISH_ERROR) {
        rc = llm_fail(err, LLM_E_ENGINE, "generation failed after %u tokens", view->n_new);
    }
    return rc;
}

static llm_code_t
generate(const tool_session_t *s, const run_conf_t *c, const char *prompt, size_t len,
         llm_err_t *err)
{
    llm_tokens_t t = { 0 };
    llm_detok_t *detok = NULL;
    llm_job_t job;
    llm_job_view_t view;
    llm_code_t rc = llm_tokenize(s->model, prompt, len, c->tok_flags, &t, err);
    if (rc == LLM_OK && t.n > UINT32_MAX) {
        rc = llm_fail(err, LLM_E_ARG, "the prompt has %zu tokens", t.n);
    }
    if (rc == LLM_OK) {
        rc = llm_detok_new(&detok, s->model, LLM_DETOK_SKIP_SPECIAL, err);
    }
    if (rc == LLM_OK) {
        rc = llm_detok_prime(detok, t.ids, t.n, err);
    }
    if (rc == LLM_OK) {
        llm_job_conf_t conf = {
            .tokens = t.ids, .n_tokens = (uint32_t) t.n, .max_new = c->max_new,
            .sampling = c->sampling,
        };
        rc = llm_job_submit(s->engine, &conf, &job, err);
    }
    if (rc == LLM_OK) {
        rc = stream(s, &job, detok, &view, err);
        llm_job_close(&job);
        if (c->stats) {
            print_stats(s->engine, &view);
        }
    }
    llm_detok_free(detok);
    llm_tokens_free(&t);
    return rc;
}

int
tool_run(int argc, char **argv)
{
    run_conf_t c = {
        .tok_flags = LLM_TOK_ADD_SPECIAL, .max_new = 128,
        .engine = { .kv_type = LLM_KV_F16, .n_slots = 1, .n_parallel = 1 },
    };
    llm_sampling_init(&c.sampling);
    c.sampling.seed = (uint64_t) time(NULL);
    int status = parse_options(argc, argv, &c);
    if (status != TOOL_OK) {
        return status > 0 ? status : TOOL_OK;
    }

    llm_err_t err;
    tool_session_t s;
    char *text = NULL;
    size_t len = c.prompt != NULL ? strlen(c.prompt) : 0;
    llm_code_t rc = c.file != NULL ? tool_read_text(c.file, &text, &len, &err) : LLM_OK;
    if (rc == LLM_OK) {
        rc = tool_session_open(&s, argv[optind], c.draft, &c.engine, &err);
    }
    if (rc == LLM_OK) {
        rc = generate(&s, &c, text != NULL ? text : c.prompt, len, &err);
        tool_session_close(&s);
    }
    free(text);
    return rc == LLM_OK ? TOOL_OK : tool_failed(argv[0], &err);
}
