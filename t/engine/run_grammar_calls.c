/*
 * run_grammar_calls.c - free text and calls of functions: every text of a small alphabet against the definition in grammar.h, read the slow way;
 * then with tokenizers, whose special tokens may write what they spell.
 */
#include "grammar_help.h"

#include <jansson.h>

#define MAX_LEN 6

/* ------------------------------------------------------ the definition, slowly */

typedef struct {
    const char *trigger, *open, *join, *close, *preamble_end;
    const char *item[3][3];         /* prefix, JSON text, suffix; up to NULL */
    bool        free, repeat;
    int         min;
} calls_t;

static bool
starts(const char *at, const char *with)
{
    return strncmp(at, with, strlen(with)) == 0;
}

static bool groups(const calls_t *c, const char *at, int n);

/* What may follow a whole item. */
static bool
after_item(const calls_t *c, const char *at, int n);

static bool
items(const calls_t *c, const char *at, int n)
{
    for (int i = 0; i < 3 && c->item[i][0] != NULL; i++) {
        char text[64];
        snprintf(text, sizeof(text), "%s%s%s", c->item[i][0], c->item[i][1], c->item[i][2]);
        if (starts(at, text) && after_item(c, at + strlen(text), n)) {
            return true;
        }
    }
    return false;
}

static bool
after_item(const calls_t *c, const char *at, int n)
{
    if (c->repeat && starts(at, c->join) && items(c, at + strlen(c->join), n)) {
        return true;
    }
    if (!starts(at, c->close)) {
        return false;
    }
    at += strlen(c->close);
    return c->repeat && c->free ? groups(c, at, n + 1) : *at == '\0';
}

/* The rest of a text in which n groups were read. */
static bool
groups(const calls_t *c, const char *at, int n)
{
    if (!c->free) {
        return (*at == '\0' && c->min == 0) || (starts(at, c->open) && items(c, at + strlen(c->open), n));
    }
    for (const char *end = at;; end++) {
        char text[64];
        snprintf(text, sizeof(text), "%.*s", (int) (end - at), at);
        if (strstr(text, c->trigger) != NULL) {
            return false;
        }
        if (*end == '\0') {
            return n >= c->min;
        }
        if (starts(end, c->open) && items(c, end + strlen(c->open), n)) {
            return true;
        }
    }
}

static bool
defined(const calls_t *c, const char *text)
{
    if (c->preamble_end != NULL) {
        text = strstr(text, c->preamble_end);
        if (text == NULL) {
            return false;
        }
        text += strlen(c->preamble_end);
    }
    return groups(c, text, 0);
}

/* ------------------------------------------------------------------ comparing */

static char *
describe(const calls_t *c)
{
    json_t *list = json_array();
    for (int i = 0; i < 3 && c->item[i][0] != NULL; i++) {
        json_array_append_new(list, json_pack("{s:s,s:{s:o},s:s}", "prefix", c->item[i][0], "schema", "const",
                                              json_integer(atoi(c->item[i][1])), "suffix", c->item[i][2]));
    }
    json_t *root = json_pack("{s:b,s:s,s:s,s:o,s:s,s:s,s:b,s:i,s:s?}", "free", c->free, "trigger", c->trigger, "open", c->open, "items", list,
                             "join", c->join, "close", c->close, "repeat", c->repeat, "min", c->min, "preamble_end", c->preamble_end);
    char *text = json_dumps(root, 0);
    json_decref(root);
    return text;
}

static const calls_t cases[] = {
    { "<a", "<a", "", "", NULL, { { "", "1", ">" } }, true, false, 0 },
    { "<a", "<a", "", "", NULL, { { "", "1", ">" } }, true, false, 1 },
    { "<", "<", "a", ">", NULL, { { "", "1", "" }, { "", "11", "" } }, true, true, 0 },
    { "aab", "a", "b", "<", NULL, { { "ab", "1", "" } }, true, true, 0 },
    { "aba", "aba", "", "", NULL, { { "", "1", "" }, { "b", "1", ">" } }, true, true, 1 },
    { "aa", "", "", "a", NULL, { { "aa", "1", "" } }, true, true, 0 },
    { "aabaa", "aab", "", "", NULL, { { "aa", "1", "" } }, true, false, 0 },
    { "<", "", "", "", "b>", { { "<", "1", "b" }, { "<a", "1", "b" } }, true, false, 0 },
    { "<", "<", "b", "", "aa", { { "", "1", "" } }, true, true, 1 },
    { "", "<", "b", ">", NULL, { { "", "1", "a" }, { "a", "1", "" } }, false, true, 1 },
    { "", "<", "", "", NULL, { { "a", "1", "" } }, false, false, 0 },
    { "", "", "", "", "<b", { { "a", "1", "" } }, false, true, 0 },
};

typedef struct { const calls_t *c; const llm_grammar_t *g; char text[MAX_LEN + 80]; int bad, n_yes; } walk_t;

/* All continuations of a text of n characters whose state is s (NULL: it was refused). */
static void
walk(walk_t *w, size_t n, const llm_grammar_state_t *s)
{
    bool want = defined(w->c, w->text), got = s != NULL && llm_grammar_accepts(w->g, s);
    w->n_yes += want;
    if (want != got && w->bad++ < 5) {
        diag("'%s': %d, want %d", w->text, got, want);
    }
    if (s != NULL) {
        uint8_t end[64];
        size_t k = llm_grammar_closing(w->g, s, end, sizeof(end));
        if (k <= sizeof(end)) {
            memcpy(w->text + n, end, k);
            w->text[n + k] = '\0';
        }
        if ((k > sizeof(end) || !defined(w->c, w->text)) && w->bad++ < 5) {
            diag("'%s' ends a text of %zu characters", w->text, n);
        }
        w->text[n] = '\0';
    }
    for (const char *c = "<a1>b"; *c != '\0' && n < MAX_LEN; c++) {
        llm_grammar_state_t next;
        bool fits = s != NULL;
        if (fits) {
            next = *s;
            fits = llm_grammar_advance(w->g, &next, c, 1);
        }
        w->text[n] = *c;
        w->text[n + 1] = '\0';
        walk(w, n + 1, fits ? &next : NULL);
    }
    w->text[n] = '\0';
}

static void
test_all_texts(void)
{
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *text = describe(&cases[i]);
        llm_grammar_t *g = compile(LLM_GRAMMAR_CALLS, text, strlen(text));
        walk_t w = { .c = &cases[i], .g = g };
        llm_grammar_state_t s;
        if (g != NULL) {
            llm_grammar_start(g, &s);
            walk(&w, 0, &s);
        }
        if (!ok(g != NULL && w.bad == 0 && w.n_yes > 0, "case %zu: %d texts of up to %d characters", i, w.n_yes, MAX_LEN)) {
            diag("%s %s", text, err.msg);
        }
        free(g);
        free(text);
    }
}

#define REST "\"items\":[{\"prefix\":\"\",\"schema\":{},\"suffix\":\"\"}],\"join\":\"\",\"close\":\"\",\"repeat\":false,\"min\":0}"

static void
test_refused(void)
{
    static const struct { const char *text, *part; } bad[] = {
        { "[]", "no object" },
        { "{", "description of calls" },
        { "{\"free\":true,\"trigger\":\"\",\"open\":\"<\"," REST, "\"trigger\" has 0 bytes" },
        { "{\"free\":true,\"trigger\":\"a\",\"open\":\"<\"," REST, "not the beginning" },
        { "{\"free\":true,\"trigger\":\"<a\",\"open\":\"<\"," REST, "not the beginning" },
        { "{\"free\":1,\"trigger\":\"<\",\"open\":\"<\"," REST, "\"free\"" },
        { "{\"free\":true,\"open\":\"<\"," REST, "\"trigger\" is missing" },
        { "{\"free\":false,\"open\":3," REST, "\"open\" is not a string" },
        { "{\"free\":false,\"open\":\"\",\"items\":[],\"join\":\"\",\"close\":\"\",\"repeat\":false,\"min\":0}", "\"items\"" },
        { "{\"free\":false,\"open\":\"\",\"items\":[{\"prefix\":\"\",\"suffix\":\"\"}],\"join\":\"\",\"close\":\"\",\"repeat\":false,\"min\":0}",
          "\"schema\"" },
        { "{\"free\":false,\"open\":\"\",\"items\":[{\"prefix\":\"\",\"suffix\":\"\",\"schema\":{\"type\":\"x\"}}],\"join\":\"\",\"close\":\"\","
          "\"repeat\":false,\"min\":0}",
          "type is" },
        { "{\"free\":false,\"open\":\"\",\"min\":2,\"items\":[],\"join\":\"\",\"close\":\"\",\"repeat\":false}", "\"min\"" },
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        check_refused(LLM_GRAMMAR_CALLS, bad[i].text, bad[i].part);
    }
}

/* --------------------------------------------------------------- special tokens */

static bool
takes(const llm_gvocab_t *v, llm_gmask_t *m, const llm_grammar_t *g, llm_grammar_state_t *s, int32_t id)
{
    uint64_t *mask = calloc((llm_gvocab_n(v) + 63) / 64, sizeof(*mask));
    llm_grammar_mask(m, g, s, mask);
    bool in = mask[id / 64] >> (id % 64) & 1, taken = llm_grammar_token(v, g, s, id);
    free(mask);
    if (in != taken) {
        diag("id %d: mask %d, token %d", id, in, taken);
    }
    return in && taken;
}

static void
test_special(void)
{
    static const char text[] = "{\"free\":true,\"trigger\":\"<|system|>\",\"open\":\"<|system|>\",\"items\":[{\"prefix\":\"{\",\"schema\":"
                               "{\"const\":\"<|user|>\"},\"suffix\":\"}\"}],\"join\":\"\",\"close\":\"<gh_stars>\",\"repeat\":true,\"min\":0,"
                               "\"preamble_end\":\"<|assistant|>\"}";
    llm_grammar_state_t s, t;
    llm_gvocab_t *v = NULL;
    llm_gmask_t *m = NULL;
    llm_grammar_t *g = NULL;
    llm_tok_t *tok = NULL;
    size_t bytes;

    if (!ok(llm_tok_from_dir(&tok, "t/fixtures/tokenizers/starcoder", &err) == LLM_OK && llm_gvocab_new(&v, tok, &err) == LLM_OK
                && llm_gmask_new(&m, v, 0, &err) == LLM_OK,
            "a tokenizer with special tokens")) {
        return;
    }
    llm_grammar_conf_t conf = { .kind = LLM_GRAMMAR_CALLS, .text = text, .len = sizeof(text) - 1, .vocab = v };
    if (!ok(llm_grammar_compile(&g, &bytes, &conf, &err) == LLM_OK, "compiles")) {
        diag("%s", err.msg);
        return;
    }
    int32_t call = llm_tok_find(tok, "<|system|>", 10), user = llm_tok_find(tok, "<|user|>", 8), end = llm_tok_find(tok, "<gh_stars>", 10),
            answer = llm_tok_find(tok, "<|assistant|>", 13), eos = llm_tok_eos(tok);
    ok(call >= 0 && user >= 0 && end >= 0 && answer >= 0 && llm_tok_is_special(tok, call), "they exist");
    is_int((long long) llm_gvocab_special(v, "<gh_stars>x", 11), 10, "found at the beginning of a text");
    is_int((long long) llm_gvocab_special(v, "<gh_st", 6), 0, "not if it is cut");
    is_int((long long) llm_gvocab_special(v, "the", 3), 0, "ordinary tokens are none");

    llm_grammar_start(g, &s);
    ok(llm_grammar_advance(g, &s, "thinking", 8) && !takes(v, m, g, &s, call) && !takes(v, m, g, &s, eos), "neither calls nor ends in the preamble");
    t = s;
    ok(llm_grammar_advance(g, &t, "<|assistant|>", 13) && llm_grammar_accepts(g, &t), "its end may be spelled");
    ok(takes(v, m, g, &s, answer) && llm_grammar_accepts(g, &s), "or be the token");
    ok(!takes(v, m, g, &s, user) && !takes(v, m, g, &s, answer), "other special tokens are no text");
    ok(llm_grammar_advance(g, &s, "I call ", 7) && takes(v, m, g, &s, call), "the token begins a call");
    ok(!takes(v, m, g, &s, eos) && llm_grammar_advance(g, &s, "{", 1), "which must be whole");
    ok(llm_grammar_advance(g, &s, "\"", 1) && !takes(v, m, g, &s, user), "inside the arguments it is text");
    ok(llm_grammar_advance(g, &s, "<|user|>\"}", 10) && !takes(v, m, g, &s, eos) && takes(v, m, g, &s, end), "and a token ends it");
    t = s;
    ok(takes(v, m, g, &t, eos), "the output may end there");
    ok(llm_grammar_advance(g, &s, "\xc3\xa9t\xc3\xa9 <|system|", 15) && llm_grammar_advance(g, &s, ">{", 2), "text follows, and a call that is spelled");
    llm_grammar_start(g, &s);
    ok(!llm_grammar_advance(g, &s, "\xff<|assistant|>", 1) || !llm_grammar_advance(g, &s, "x", 1), "its mark alone is no text");
    free(g);
    llm_gmask_free(m);
    llm_gvocab_free(v);
    llm_tok_free(tok);
}

/* The token of the byte alone that marks special tokens in the trie; -1: none. */
static int32_t
mark_token(const llm_tok_t *tok)
{
    for (int32_t i = 0; i < (int32_t) llm_tok_n_vocab(tok); i++) {
        size_t len;
        const uint8_t *s = llm_tok_raw(tok, i, &len);
        if (!llm_tok_is_special(tok, i) && s != NULL && len == 1 && s[0] == LLM_GVOCAB_SPECIAL) {
            return i;
        }
    }
    return -1;
}

/* Where a special token may stand, a plain token of the byte that marks them may not. */
static void
test_mark(const char *kind, const char *special)
{
    char dir[80], text[400];
    llm_grammar_state_t s;
    llm_gvocab_t *v = NULL;
    llm_gmask_t *m = NULL;
    llm_grammar_t *g = NULL;
    llm_tok_t *tok = NULL;
    size_t bytes;

    snprintf(dir, sizeof(dir), "t/fixtures/tokenizers/%s", kind);
    snprintf(text, sizeof(text), "{\"free\":true,\"trigger\":\"%s\",\"open\":\"%s\"," REST, special,
             special);
    if (!ok(llm_tok_from_dir(&tok, dir, &err) == LLM_OK && llm_gvocab_new(&v, tok, &err) == LLM_OK
                && llm_gmask_new(&m, v, 0, &err) == LLM_OK,
            "%s: a tokenizer with bytes", kind)) {
        return;
    }
    llm_grammar_conf_t conf = { .kind = LLM_GRAMMAR_CALLS, .text = text, .len = strlen(text),
                                .vocab = v };
    if (!ok(llm_grammar_compile(&g, &bytes, &conf, &err) == LLM_OK, "%s: compiles", kind)) {
        diag("%s", err.msg);
        return;
    }
    int32_t mark = mark_token(tok), call = llm_tok_find(tok, special, strlen(special));
    ok(mark >= 0 && call >= 0 && llm_tok_is_special(tok, call), "%s: has both", kind);
    llm_grammar_start(g, &s);
    uint64_t *mask = calloc((llm_gvocab_n(v) + 63) / 64, sizeof(*mask));
    llm_grammar_mask(m, g, &s, mask);
    llm_grammar_state_t t = s;
    ok(!(mask[mark / 64] >> (mark % 64) & 1) && !llm_grammar_token(v, g, &t, mark),
       "%s: the byte is no text", kind);
    ok(takes(v, m, g, &s, call), "%s: the special token is", kind);
    free(mask);
    free(g);
    llm_gmask_free(m);
    llm_gvocab_free(v);
    llm_tok_free(tok);
}

int
main(void)
{
    test_all_texts();
    test_refused();
    test_special();
    test_mark("starcoder", "<|system|>");
    test_mark("llama", "<unk>");
    return done_testing();
}
