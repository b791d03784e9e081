/*
 * grammar_help.h - what the tests of grammars share.
 */
#ifndef GRAMMAR_HELP_H
#define GRAMMAR_HELP_H

#include "run/grammar_impl.h"
#include "tap.h"

static llm_err_t err;

/* The compiled grammar, or NULL with the message in err. */
__attribute__((unused)) static llm_grammar_t *
compile(llm_grammar_kind_t kind, const char *text, size_t len)
{
    llm_grammar_conf_t conf = { .kind = kind, .text = text, .len = len, .secret = { 1, 2 } };
    llm_grammar_t *g;
    size_t bytes;
    err.msg[0] = '\0';
    return llm_grammar_compile(&g, &bytes, &conf, &err) == LLM_OK ? g : NULL;
}

/* Whether the grammar accepts exactly this text. */
__attribute__((unused)) static bool
accepts(const llm_grammar_t *g, const char *text, size_t len)
{
    llm_grammar_state_t s;
    llm_grammar_start(g, &s);
    return llm_grammar_advance(g, &s, text, len) && llm_grammar_accepts(g, &s);
}

/* Compiles; every text of yes (up to NULL) is accepted and none of no. */
__attribute__((unused)) static void
check_texts(llm_grammar_kind_t kind, const char *text, const char *const *yes,
            const char *const *no)
{
    llm_grammar_t *g = compile(kind, text, strlen(text));
    int bad = 0;
    for (; g != NULL && *yes != NULL; yes++) {
        if (!accepts(g, *yes, strlen(*yes))) {
            diag("not accepted: '%s'", *yes);
            bad++;
        }
    }
    for (; g != NULL && *no != NULL; no++) {
        if (accepts(g, *no, strlen(*no))) {
            diag("accepted: '%s'", *no);
            bad++;
        }
    }
    if (!ok(g != NULL && bad == 0, "%s", text)) {
        diag("%s", err.msg);
    }
    free(g);
}

/* Does not compile, with a message that starts well and contains `part`. */
__attribute__((unused)) static void
check_refused(llm_grammar_kind_t kind, const char *text, const char *part)
{
    static const char start[] = "grammar is not valid: ";
    llm_grammar_t *g = compile(kind, text, strlen(text));
    bool good = g == NULL && err.code == LLM_E_ARG
                && strncmp(err.msg, start, sizeof(start) - 1) == 0 && strstr(err.msg, part) != NULL;
    if (!ok(good, "refused: %.60s", text)) {
        diag("got '%s', want '%s'", g != NULL ? "(compiled)" : err.msg, part);
    }
    free(g);
}

#endif
