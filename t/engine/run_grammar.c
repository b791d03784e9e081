/*
 * run_grammar.c - the state of an output, rules in GBNF, the block: copies, checks, ids.
 */
#include "grammar_help.h"

#define MAX_TEXTS 8

static const char any_array[] = "{\"type\":\"array\"}";

/* -------------------------------------------------------------------- rules */

static const struct { const char *rules, *yes[MAX_TEXTS], *no[MAX_TEXTS];
} cases[] = {
    { "root ::= \"a\"", { "a" }, { "", "b" } },
    { "root ::= \"a\" | \"b\" \"c\"\n", { "a", "bc" }, { "ab", "b" } },
    { "# comment\nroot ::= x y # more\nx ::= \"1\"\ny ::= x?", { "1", "11" }, { "", "111" } },
    { "root ::= (\"a\"\n  | \"b\")\n  | \"c\"", { "a", "b", "c" }, { "ab" } },
    { "root ::=\n  \"a\" |\n  \"b\"\nother ::= \"z\"", { "a", "b" }, { "z" } },
    { "root ::= [a-c\xc3\xa9]+ [^a-z\\n]",
      { "a1", "\xc3\xa9"
              "b-" },
      { "1", "a\n", "ab" } },
    { "root ::= \"\\x41\\u00e9\\U0001F600\\n\\\"\\\\\"",
      { "A\xc3\xa9\xf0\x9f\x98\x80\n\"\\" },
      { "" } },
    { "root ::= [\\]\\-\\\\]{2}", { "]-", "\\\\" }, { "]", "a-" } },
    { "root ::= \"x\"{2} \"y\"{1,} \"z\"{,2} \"w\"{0,1}",
      { "xxy", "xxyyzzw" },
      { "xy", "xx", "xxyzzz" } },
    { "root ::= .", { "a", "\n", "\xc3\xa9" }, { "", "ab", "\xff" } },
    { "root ::= \"(\" root \")\" | \"x\"", { "x", "((x))" }, { "(x", "()", "x)" } },
    { "root ::= sum\nsum ::= one (\"+\" one)*\none ::= [0-9]+ | \"(\" sum \")\"",
      { "1", "1+(2+3)+45" },
      { "1+", "(1", "+1" } },
    { "root ::= \"a\" root \"a\" | \"b\" root \"b\" | \"c\"",
      { "c", "abcba", "aacaa" },
      { "abcab", "aca"
                 "a" } },
    { "root ::= e e\ne ::= \"a\"*", { "", "aaa" }, { "b" } },
    { "root ::= \"a\" rest?\nrest ::= root",
      { "a", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" },
      { "" } },
    { "root ::= \"<t>\" %json {\"type\":\"object\",\"properties\":{\"a\":{\"enum\":[\"}\\\"\"]}}} "
      "\"</t>\"",
      { "<t>{}</t>", "<t>{\"a\":\"}\\\"\"}</t>" },
      { "<t></t>", "{}" } },
    { "root ::= %json true \"!\"", { "[1]!", "null!" }, { "!" } },
    { "root ::= (\"a\" | \"ab\") (\"c\" | \"bcd\")", { "ac", "abc", "abcd", "abbcd" }, { "ab" } },
};

static const struct { const char *rules, *why;
} refused[] = {
    { "", "there is no rule \"root\"" },
    { "x ::= \"a\"", "there is no rule \"root\"" },
    { "root ::= x", "rule \"x\" is not defined" },
    { "root ::= \"a\"\nroot ::= \"b\"", "rule \"root\" is defined twice" },
    { "root ::= root \"a\" | \"b\"", "rule \"root\" begins with itself" },
    { "root ::= \"x\"? a\na ::= b | \"y\"\nb ::= root", "begins with itself" },
    { "root ::= \"a\" root", "no text can match it" },
    { "root ::= (\"a\"", "line 1: \"(\" is not closed" },
    { "root ::= \"a", "a quotation mark is not closed" },
    { "root ::= [a", "\"[\" is not closed" },
    { "root ::= \"a\" )", "the end of the rule is expected" },
    { "root = \"a\"", "\"::=\" is expected" },
    { "root ::= \"\\q\"", "an escape is not one of" },
    { "root ::= \"a\"{3,1}", "with m <= n" },
    { "root ::= \"a\"{x}", "a repeat is {m}" },
    { "\nroot ::= *", "line 2: a literal" },
    { "root ::= [b-a]", "a range" },
    { "root ::= %json 3", "%json is not followed" },
    { "root ::= %json {\"not\":{}}", "not is not supported" },
    { "root ::= \"\xff\"", "not valid UTF-8" },
};

/* -------------------------------------------------------------------- state */

static void
take(const llm_grammar_t *g, llm_grammar_state_t *s, const char *text)
{
    llm_grammar_start(g, s);
    llm_grammar_advance(g, s, text, strlen(text));
}

static void
check_forced(const llm_grammar_t *g, const char *after, const char *want)
{
    llm_grammar_state_t s, before;
    uint8_t out[100];
    take(g, &s, after);
    before = s;
    size_t n = llm_grammar_forced(g, &s, NULL, 0, out, sizeof(out));
    ok(n == strlen(want) && memcmp(out, want, n) == 0 && memcmp(&s, &before, sizeof(s)) == 0,
       "after '%s' comes '%s'", after, want);
}

static void
check_likely(const llm_grammar_t *g, const char *after, const char *spaces, const char *want)
{
    llm_grammar_state_t s;
    bool spaced[256] = { false };
    uint8_t out[100];
    for (const char *c = spaces; *c != '\0'; c++) {
        spaced[(uint8_t) *c] = true;
    }
    take(g, &s, after);
    size_t len = strlen(after);
    size_t n = llm_grammar_forced(g, &s, spaced, len > 0 ? (uint8_t) after[len - 1] : 0, out,
                                  sizeof(out));
    ok(n == strlen(want) && memcmp(out, want, n) == 0, "after '%s', spaces behind '%s', comes '%s'",
       after, spaces, want);
}

static void
test_state(void)
{
    static const char text[] =
        "{\"type\":\"object\",\"properties\":{\"name\":{\"enum\":[\"alpha\",\"alto\"]},\"ok\":{"
        "\"type\":"
        "\"boolean\"}},\"required\":[\"name\",\"ok\"],\"additionalProperties\":false}";
    llm_grammar_t *g = compile(LLM_GRAMMAR_JSON_SCHEMA, text, strlen(text));
    llm_grammar_state_t s, before;
    uint8_t out[100];

    take(g, &s, "{\"name\":\"al");
    before = s;
    ok(!llm_grammar_advance(g, &s, "pha\",\"no", 8) && memcmp(&s, &before, sizeof(s)) == 0,
       "a refused text changes nothing");
    ok(!llm_grammar_accepts(g, &s) && !llm_grammar_finished(g, &s), "not complete in the middle");
    check_forced(g, "", "{");
    check_forced(g, "{\"n", "ame\"");
    check_forced(g, "{\"name\":\"", "al");
    check_forced(g, "{\"name\":\"al", "");
    check_forced(g, "{\"name\":\"alp", "ha\"");
    check_forced(g, "{\"name\":\"alpha\",\"ok\":t", "rue");
    check_forced(g, "{\"name\":\"alpha\",\"ok\":true}", "");
    check_likely(g, "", ":,", "{\"name\": \"al");
    check_likely(g, "", "", "{\"name\":\"al");
    check_likely(g, "", "{:", "{ \"name\": \"al");
    check_likely(g, "{\"name\":\"alp", ":,", "ha\", \"ok\":");
    check_likely(g, "{\"name\":\"alpha\"", "", ",\"ok\":");
    check_likely(g, "{\"name\":\"alpha\"", "\"", " ,\"ok\" :");
    check_likely(g, "{\"name\":\"alpha\",\"ok\":t", "", "rue}");
    take(g, &s, "{\"n");
    is_int((long long) llm_grammar_forced(g, &s, NULL, 0, out, 3), 3, "forced bytes stop at the room");
    take(g, &s, "{\"name\":\"alpha\",\"ok\":true}");
    ok(llm_grammar_accepts(g, &s) && llm_grammar_finished(g, &s),
       "complete, and nothing can follow");
    is_int((long long) llm_grammar_closing(g, &s, out, sizeof(out)), 0, "no ending is needed");
    take(g, &s, "{\"name");
    size_t n = llm_grammar_closing(g, &s, out, sizeof(out));
    static const char want[] = "\":\"alto\",\"ok\":true}";
    ok(n == strlen(want) && memcmp(out, want, n) == 0, "the shortest ending");
    ok(llm_grammar_closing(g, &s, out, 5) == SIZE_MAX, "an ending that has no room");
    free(g);

    g = compile(LLM_GRAMMAR_REGEX, "a+", 2);
    take(g, &s, "a");
    ok(llm_grammar_accepts(g, &s) && !llm_grammar_finished(g, &s), "complete, and more may follow");
    free(g);
}

/* Nesting: up to the limit and no further, with an ending everywhere. */
static void
test_depth(void)
{
    llm_grammar_t *g = compile(LLM_GRAMMAR_JSON_SCHEMA, any_array, strlen(any_array));
    llm_grammar_state_t s;
    uint8_t out[400];
    int depth = 0;
    llm_grammar_start(g, &s);
    while (depth < 200 && llm_grammar_advance(g, &s, "[", 1)) {
        depth++;
    }
    ok(depth > 50 && depth <= LLM_GRAMMAR_DEPTH + 1, "arrays nest %d deep", depth);
    size_t n = llm_grammar_closing(g, &s, out, sizeof(out));
    ok(n == (size_t) depth && llm_grammar_advance(g, &s, out, n) && llm_grammar_accepts(g, &s),
       "and can be closed");
    free(g);

    /* the only way out of root goes three rules down: it must stay reachable */
    static const char rules[] =
        "root ::= \"(\" (root | a) \")\"\na ::= \"1\" b \"1\"\nb ::= \"2\" c \"2\"\n"
        "c ::= \"3\" (\"x\" | root) \"3\"";
    g = compile(LLM_GRAMMAR_GBNF, rules, strlen(rules));
    llm_grammar_start(g, &s);
    for (depth = 0; depth < 200 && llm_grammar_advance(g, &s, "(", 1); depth++) {
    }
    n = llm_grammar_closing(g, &s, out, sizeof(out));
    ok(depth > 50 && n != SIZE_MAX && llm_grammar_advance(g, &s, out, n)
           && llm_grammar_accepts(g, &s),
       "what needs room to end gets it (%d deep)", depth);
    free(g);

    /* the readings of "aaa..." double with every letter: few are kept, and the text stays
     * finishable */
    static const char ambiguous[] =
        "root ::= p | q\np ::= \"a\" q \"b\" | \"a\" r | \"d\"\n"
        "q ::= \"a\" p \"b\" | \"a\" r\nr ::= \"a\" q | \"a\" p \"c\" | \"e\"";
    g = compile(LLM_GRAMMAR_GBNF, ambiguous, strlen(ambiguous));
    llm_grammar_start(g, &s);
    bool good = true, crowded = false;
    for (int i = 0; i < 50; i++) {
        good = good && llm_grammar_advance(g, &s, "a", 1) && s.n_heads <= LLM_GRAMMAR_HEADS;
        crowded = crowded || s.n_heads == LLM_GRAMMAR_HEADS;
    }
    ok(good && crowded, "an ambiguous text goes on");
    n = llm_grammar_closing(g, &s, out, sizeof(out));
    ok(n != SIZE_MAX && llm_grammar_advance(g, &s, out, n) && llm_grammar_accepts(g, &s),
       "and ends");
    free(g);
}

/* -------------------------------------------------------------------- block */

static void
test_block(void)
{
    llm_grammar_t *g = compile(LLM_GRAMMAR_JSON_OBJECT, "", 0);
    size_t bytes = llm_grammar_bytes(g);
    uint64_t id[2], other[2];
    char *copy = malloc(bytes + 64), *far = malloc(bytes + 64);

    ok(llm_grammar_check(g, bytes), "a fresh block passes");
    memcpy(copy, g, bytes);
    free(g);
    ok(llm_grammar_check(copy, bytes) && accepts((llm_grammar_t *) copy, "{\"a\":[1]}", 9),
       "a copy works");
    ok(!llm_grammar_check(copy, bytes - 8) && !llm_grammar_check(copy, 16),
       "a cut block does not pass");
    memmove(copy + 4, copy, bytes);
    ok(!llm_grammar_check(copy + 4, bytes), "a block off its alignment does not pass");
    memmove(copy, copy + 4, bytes);

    /* whatever single byte is wrong: it does not pass, or using it stays inside (the sanitizers
     * watch) */
    int passed = 0;
    for (size_t i = 0; i < bytes; i++) {
        memcpy(far, copy, bytes);
        far[i] ^= (char) (1 + i % 255);
        if (llm_grammar_check(far, bytes)) {
            uint8_t out[16];
            llm_grammar_state_t s;
            llm_grammar_start((llm_grammar_t *) far, &s);
            llm_grammar_advance((llm_grammar_t *) far, &s, "{\"ab\" : [-1.5, true, {}]}", 25);
            llm_grammar_forced((llm_grammar_t *) far, &s, NULL, 0, out, sizeof(out));
            passed++;
        }
    }
    ok(passed > 0, "%d of %zu changed blocks pass their check and can be used", passed, bytes);
    free(copy);
    free(far);

    llm_grammar_conf_t a = { .kind = LLM_GRAMMAR_REGEX,
                             .text = "abc",
                             .len = 3,
                             .secret = { 1, 2 } },
                       b = a;
    g = compile(a.kind, a.text, a.len);
    llm_grammar_id(g, id);
    llm_grammar_key(&a, other);
    ok(id[0] == other[0] && id[1] == other[1], "the id is known before compiling");
    b.kind = LLM_GRAMMAR_GBNF;
    llm_grammar_key(&b, other);
    ok(id[0] != other[0] && id[1] != other[1], "another kind, another id");
    b = a;
    b.secret[1] ^= 1;
    llm_grammar_key(&b, other);
    ok(id[0] != other[0] && id[1] != other[1], "another secret, another id");
    free(g);
}

int
main(void)
{
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        check_texts(LLM_GRAMMAR_GBNF, cases[i].rules, cases[i].yes, cases[i].no);
    }
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        check_refused(LLM_GRAMMAR_GBNF, refused[i].rules, refused[i].why);
    }
    test_state();
    test_depth();
    test_block();
    return done_testing();
}
