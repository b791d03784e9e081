/*
 * tokenize.c - `llm tokenize`: ids and pieces of a text.
 */
#include "tools/tools.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: llm tokenize FILE [TEXT|-] [OPTION...]\n\n"
    "Prints one line for each token of TEXT (of standard input when TEXT is '-' or missing):\n"
    "its id, the bytes of the text that it covers, and its own text. No weights are read.\n\n"
    "  --no-special   leave out the tokens that the model wants around a text (BOS, EOS)\n"
    "  --parse        recognise control tokens such as <|im_start|> in the text\n"
    "  --ids          only the ids, on one line with commas: for `llm logprobs --tokens`\n\n"
    "Example: llm tokenize model.gguf 'Hello, world' --ids\n";

/* Text of a token with control characters and quotes written as escapes. */
static void
print_piece(const llm_model_t *m, int32_t id)
{
    char text[512];
    size_t n = llm_token_text(m, id, text, sizeof(text));
    putchar('"');
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char) text[i];
        if (c == '"' || c == '\\') {
            printf("\\%c", c);
        } else if (c == '\n') {
            printf("\\n");
        } else if (c < 0x20 || c == 0x7f) {
            printf("\\x%02x", c);
        } else {
            putchar(c);
        }
    }
    printf("\"%s", llm_token_is_special(m, id) ? "  special" : "");
}

static void
print_tokens(const llm_model_t *m, const llm_tokens_t *t, bool ids_only)
{
    for (size_t i = 0; i < t->n; i++) {
        if (ids_only) {
            printf("%s%d", i > 0 ? "," : "", t->ids[i]);
            continue;
        }
        printf("%8d  %6u..%-6u  ", t->ids[i], t->start[i], t->stop[i]);
        print_piece(m, t->ids[i]);
        putchar('\n');
    }
    if (ids_only) {
        putchar('\n');
    }
}

int
tool_tokenize(int argc, char **argv)
{
    static const struct option options[] = {
        { "help", no_argument, NULL, 'h' }, { "no-special", no_argument, NULL, 's' },
        { "parse", no_argument, NULL, 'p' },
        { "ids", no_argument, NULL, 'i' }, { NULL, 0, NULL, 0 },
    };
    unsigned flags = LLM_TOK_ADD_SPECIAL;
    bool ids_only = false;
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        switch (c) {
        case 'h':
            fputs(usage, stdout);
            return TOOL_OK;
        case 's':
            flags &= ~(unsigned) LLM_TOK_ADD_SPECIAL;
            break;
        case 'p':
            flags |= LLM_TOK_PARSE_SPECIAL;
            break;
        case 'i':
            ids_only = true;
            break;
        default:
            return tool_usage(argv[0], "wrong option");
        }
    }
    if (argc - optind < 1 || argc - optind > 2) {
        return tool_usage(argv[0], "wants a model file and at most one text");
    }
    const char *arg = argc - optind == 2 ? argv[optind + 1] : "-";

    llm_err_t err;
    llm_model_t *m = NULL;
    llm_model_conf_t conf = { .weights = argv[optind], .check_only = true };
    llm_tokens_t t = { 0 };
    char *read_text = NULL;
    const char *text = arg;
    size_t len = strlen(arg);
    llm_code_t rc = llm_model_open(&m, &conf, &err);
    if (rc == LLM_OK && strcmp(arg, "-") == 0) {
        rc = tool_read_text("-", &read_text, &len, &err);
        text = read_text;
    }
    if (rc == LLM_OK) {
        rc = llm_tokenize(m, text, len, flags, &t, &err);
    }
    if (rc == LLM_OK) {
        print_tokens(m, &t, ids_only);
    }
    llm_tokens_free(&t);
    free(read_text);
    llm_model_close(m);
    return rc == LLM_OK ? TOOL_OK : tool_failed(argv[0], &err);
}
