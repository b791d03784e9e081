/*
 * run_grammar_regex.c - regular expressions: what they match and what is refused. What the texts
 * should do follows from the meaning of the expressions in Python's re and Rust's regex.
 */
#include "grammar_help.h"

#define MAX_TEXTS 10

static const struct { const char *regex, *yes[MAX_TEXTS], *no[MAX_TEXTS];
} cases[] = {
    { "", { "" }, { "a" } },
    { "a", { "a" }, { "", "b", "aa" } },
    { "abc", { "abc" }, { "ab", "abcd" } },
    { "a|b|cd", { "a", "b", "cd" }, { "", "c", "ab" } },
    { "a|", { "a", "" }, { "b" } },
    { "a?b*c+", { "c", "ac", "abbcc", "bc" }, { "", "a", "aac" } },
    { "a*?b+?c??", { "b", "aabc" }, { "a", "c" } },
    { "(ab)*", { "", "ab", "abab" }, { "a", "aba" } },
    { "(?:ab|c){2}", { "abab", "cc", "abc", "cab" }, { "ab", "ccc" } },
    { "(?P<x>a)(?<y>b)", { "ab" }, { "a" } },
    { "a{3}", { "aaa" }, { "aa", "aaaa" } },
    { "a{0}", { "" }, { "a" } },
    { "a{1,3}", { "a", "aaa" }, { "", "aaaa" } },
    { "a{2,}", { "aa", "aaaaaaa" }, { "a" } },
    { "(a{2}){2,3}", { "aaaa", "aaaaaa" }, { "aa", "aaaaa", "aaaaaaaa" } },
    { "x{", { "x{" }, { "x" } },
    { "x{a}", { "x{a}" }, { "xa" } },
    { "a}b]", { "a}b]" }, { "ab" } },
    { "[abc]", { "a", "c" }, { "d", "" } },
    { "[a-c0-9]", { "b", "5" }, { "d", "-" } },
    { "[^a-c]", { "d", "\xc3\xa9", "\n" }, { "a", "b" } },
    { "[-a]", { "-", "a" }, { "b" } },
    { "[a-]", { "-", "a" }, { "b" } },
    { "[\\]\\[\\-\\\\]", { "]", "[", "-", "\\" }, { "a" } },
    { "[\\d.]+", { "1.2.3" }, { "a" } },
    { "[^\\s,]+", { "ab" }, { "a b", "a,b", "\x1c" } },
    { "[\\w-]+", { "a-b_\xc3\xa9" }, { "a b" } },
    { "\\d\\D", { "1a" }, { "11", "aa", "1\xd9\xa1" } },
    { "\\w\\W", { "a-", "\xc3\xa9 " }, { "--", "a\xc3\xa9" } },
    { "\\s\\S", { " a", "\t\xc3\xa9", "\xe3\x80\x80x" }, { "aa", " \xe3\x80\x80" } },
    { ".", { "a", "\xc3\xa9", "\xf0\x9f\x98\x80", "\r" }, { "\n", "", "ab" } },
    { "(.|\\n)*",
      { "", "a\nb" },
      { "\xff", "\xc3", "\xed\xa0\x80", "\xf5\x80\x80\x80", "\xc0\x80" } },
    { "\xc3\xa9+", { "\xc3\xa9\xc3\xa9" }, { "\xc3", "e" } },
    { "[\xc3\xa0-\xc3\xaf]", { "\xc3\xa9" }, { "\xc3\xb0", "\xc3" } },
    { "[\xe6\x97\xa5-\xe6\x9c\xac]",
      { "\xe6\x97\xa5", "\xe6\x98\x80" },
      { "\xe6\x97\xa4", "\xe7\x80\x80" } },
    { "[^\xc3\xa9]", { "e", "\xc3\xa8", "\xf4\x8f\xbf\xbf" }, { "\xc3\xa9" } },
    { "\\u00e9\\xe9\\u{1F600}\\ud83d\\ude00",
      { "\xc3\xa9\xc3\xa9\xf0\x9f\x98\x80\xf0\x9f\x98\x80" },
      { "" } },
    { "\\n\\t\\r\\f\\v\\0", { NULL }, { "n" } },
    { "\\.\\*\\+\\?\\(\\)\\{\\}\\|\\^\\$\\/\\-\\ ", { ".*+?(){}|^$/- " }, { "" } },
    { "^abc$", { "abc" }, { "xabc", "abcx" } },
    { "\\Aabc\\Z", { "abc" }, { "xabc" } },
    { "^a|b$|^$", { "a", "b", "" }, { "ab" } },
    { "(^a$)|(b)", { "a", "b" }, { "ab" } },
    { "\\p{L}+", { "aZ\xc3\xa9\xe6\x97\xa5" }, { "1", "a1" } },
    { "\\p{Lu}\\p{Ll}*\\pN",
      { "\xc3\x89t\xc3\xa9"
        "1",
        "A9" },
      { "a1", "AB1" } },
    { "[\\p{Lu}\\d]\\P{L}", { "A1", "1-" }, { "a1", "AA" } },
    { "\\p{Decimal_Number}", { "7", "\xd9\xa1" }, { "a" } },
    { "[0-9]{3}-[0-9]{4}", { "555-1234" }, { "5551234" } },
    { "(([a-z]+\\.)+[a-z]{2,4})(:\\d{1,5})?(/.*)?",
      { "a.bc", "x.y.org:80/a b" },
      { "a", "a.b", "a.bc:" } },
    { "(a|ab)(c|bcd)(d*)", { "ac", "abc", "abcd", "acd", "abbcd" }, { "ab", "a" } },
};

static const struct { const char *regex, *why;
} refused[] = {
    { "(", "\"(\" is not closed" },
    { "a)", "\")\" without \"(\"" },
    { "[a", "\"[\" is not closed" },
    { "[]", "\"]\" at the beginning of a class" },
    { "[^]", "\"]\" at the beginning of a class" },
    { "[b-a]", "a range in a class" },
    { "[a-\\d]", "a range in a class" },
    { "*a", "nothing to repeat" },
    { "(|*)", "nothing to repeat" },
    { "a**", "double quantifiers" },
    { "a*+", "possessive" },
    { "a{2}{3}", "double quantifiers" },
    { "a{3,2}", "ends before it begins" },
    { "a{100001}", "repeat count is over 100000" },
    { "x{,2}", "must be written {0," },
    { "(?=a)", "look-ahead" },
    { "(?!a)", "look-ahead" },
    { "(?<=a)", "look-behind" },
    { "(?<!a)", "look-behind" },
    { "(?i)a", "flags" },
    { "(?#x)", "comments" },
    { "(?>a)", "atomic" },
    { "(?P=x)", "flags" },
    { "(*FAIL)", "verbs" },
    { "(a)\\1", "back-references" },
    { "\\k<a>", "back-references" },
    { "\\bword", "word boundaries" },
    { "\\Bx", "word boundaries" },
    { "\\G", "escape \\G" },
    { "\\q", "escape \\q" },
    { "a\\", "ends in a backslash" },
    { "\\x4", "hexadecimal" },
    { "\\u12", "hexadecimal" },
    { "\\ud83d", "hexadecimal" },
    { "\\u{110000}", "hexadecimal" },
    { "\\p{Greek}", "\\p{Greek} is not supported" },
    { "\\p{L", "is not closed" },
    { "\\px", "\\p{x} is not supported" },
    { "[[:alpha:]]", "[:names:]" },
    { "[a&&b]", "set operations" },
    { "[a[b]", "must be written \\[" },
    { "a^b", "an anchor" },
    { "a$b", "an anchor" },
    { "(^a)*", "inside a repeat" },
    { "^*", "an anchor cannot be repeated" },
    { "\xff", "not valid UTF-8" },
    { "[^\\s\\S]", "no text can match it" },
    { "a[^\\d\\D]b", "no text can match it" },
};

/* Doubling costs linear time, hostile expressions end in an error, and soon. */
static void
test_limits(void)
{
    static const char *const hostile[] = {
        "(a|b)*a(a|b){20}",
        "(a|b)*a(a|b){100}",
        "(((a{1,1000}){1,1000}){1,1000})",
        "(\\w{1,1000}){1,1000}",
        "(.*a){30}(.*b){30}.{1,500}.*c.{300}",
    };
    for (size_t i = 0; i < sizeof(hostile) / sizeof(hostile[0]); i++) {
        check_refused(LLM_GRAMMAR_REGEX, hostile[i], "too complex");
    }
    char deep[1000];
    memset(deep, '(', 300);
    deep[300] = 'a';
    memset(deep + 301, ')', 300);
    deep[601] = '\0';
    check_refused(LLM_GRAMMAR_REGEX, deep, "nested too deeply");

    static char big[LLM_GRAMMAR_MAX_TEXT + 2];
    memset(big, 'a', sizeof(big) - 1);
    check_refused(LLM_GRAMMAR_REGEX, big, "bytes, at most");

    llm_grammar_t *g = compile(LLM_GRAMMAR_REGEX, "[a-z ]{1,2000}", 14);
    ok(g != NULL && llm_grammar_bytes(g) < 200000, "a long repeat is a chain");
    free(g);
}

int
main(void)
{
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        check_texts(LLM_GRAMMAR_REGEX, cases[i].regex, cases[i].yes, cases[i].no);
    }
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        check_refused(LLM_GRAMMAR_REGEX, refused[i].regex, refused[i].why);
    }
    llm_grammar_t *g = compile(LLM_GRAMMAR_REGEX, "\\n\\t\\r\\f\\v\\0", 12);
    ok(g != NULL && accepts(g, "\n\t\r\f\v", 6), "control characters");
    free(g);
    test_limits();
    return done_testing();
}
