/*
 * main.c - the `llm` program: everything that the engine does, without nginx.
 */
#include "tools/tools.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int       (*run)(int argc, char **argv);
    const char *summary;
} commands[] = {
    { "run", tool_run, "continue a prompt and print the text as it is made" },
    { "inspect", tool_inspect,
      "say what a model file holds, what it needs and whether it is supported" },
    { "tokenize", tool_tokenize, "turn text into token ids and show the pieces" },
    { "logprobs", tool_logprobs,
      "log-probabilities of a prompt and of its greedy continuation, as JSON" },
    { "perplexity", tool_perplexity, "how well a model predicts a text: what quantization costs" },
    { "quantize", tool_quantize, "write a GGUF file with its matrices in a smaller format" },
    { "bench", tool_bench, "measure prompt and generation speed" },
};

static void
help(FILE *to)
{
    fprintf(to, "llm " LLM_VERSION " - text generation, with the engine of the nginx module\n\n"
            "Usage: llm COMMAND FILE [OPTION...]\n\n"
            "FILE is a GGUF file or a Hugging Face directory (llm quantize reads GGUF only).\n\n"
            "Commands:\n");
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].summary);
    }
    fprintf(to, "\n'llm COMMAND --help' explains a command. For example:\n"
            "  llm inspect model.gguf\n"
            "  llm run model.gguf --prompt 'The capital of France is' -n 16\n"
            "  LLM_KERN=ref llm run model.gguf --prompt Hello    # or c, avx2, avx512\n\n"
            "Results go to standard output, messages to standard error.\n"
            "Exit status: 0 done, 1 failed, 2 wrong usage.\n");
}

int
main(int argc, char **argv)
{
    if (argc < 2) {
        help(stderr);
        return TOOL_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1],
                                                                               "help") == 0) {
        help(stdout);
        return TOOL_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("llm " LLM_VERSION "\n");
        return TOOL_OK;
    }
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(argv[1], commands[i].name) == 0) {
            char name[32];
            snprintf(name, sizeof(name), "llm %s", commands[i].name);
            argv[1] = name;
            int status = commands[i].run(argc - 1, argv + 1);
            if (fflush(stdout) != 0 && status == TOOL_OK) {
                perror("llm: stdout");
                status = TOOL_FAILED;
            }
            return status;
        }
    }
    return tool_usage("llm", "there is no command \"%s\"", argv[1]);
}
