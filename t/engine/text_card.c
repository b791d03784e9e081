/*
 * text/card.c: which chat template and licence a directory has.
 */
#include "text/card.h"

#include "tap.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64];

/* NULL content: the file is removed. */
static void
file(const char *name, const char *content, size_t n)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    unlink(path);
    if (content == NULL) {
        return;
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, content, n) != (ssize_t) n) {
        perror(path);
        exit(1);
    }
    close(fd);
}

static void
text_file(const char *name, const char *content)
{
    file(name, content, content != NULL ? strlen(content) : 0);
}

static void
test_templates(void)
{
    static const struct { const char *name, *jinja, *json, *config, *want, *word; } cases[] = {
        { "nothing", NULL, NULL, NULL, NULL, NULL },
        { "no key", NULL, "{}", "{\"bos_token\":\"<s>\"}", NULL, NULL },
        { "a null", NULL, NULL, "{\"chat_template\":null}", NULL, NULL },
        { "tokenizer_config.json", NULL, NULL, "{\"chat_template\":\"{{ a }}\\n\"}", "{{ a }}\n", NULL },
        { "a list", NULL, NULL, "{\"chat_template\":[{\"name\":\"rag\",\"template\":\"R\"},{\"name\":\"default\",\"template\":\"D\"}]}", "D",
          NULL },
        { "a list without a default", NULL, NULL, "{\"chat_template\":[{\"name\":\"rag\",\"template\":\"R\"}]}", NULL, NULL },
        { "chat_template.json goes before it", NULL, "{\"chat_template\":\"J\"}", "{\"chat_template\":\"C\"}", "J", NULL },
        { "chat_template.jinja goes before both", "X\xc3\xa9\n", "{\"chat_template\":\"J\"}", "{\"chat_template\":\"C\"}", "X\xc3\xa9\n", NULL },
        { "an empty template", "", NULL, "{\"chat_template\":\"C\"}", "", NULL },
        { "a number", NULL, NULL, "{\"chat_template\":7}", NULL, "tokenizer_config.json: key \"chat_template\" is no text" },
        { "a number in a list", NULL, NULL, "{\"chat_template\":[{\"name\":\"default\",\"template\":7}]}", NULL, "is no text" },
        { "half a character", "abc\xc3", NULL, NULL, NULL, "chat_template.jinja: chat template has malformed UTF-8 at byte 3" },
        { "an escaped NUL", NULL, NULL, "{\"chat_template\":\"ab\\u0000c\"}", NULL, "has a NUL at byte 2" },
        { "no JSON", NULL, "{", NULL, NULL, "chat_template.json: line 1" },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        text_file("chat_template.jinja", cases[i].jinja);
        text_file("chat_template.json", cases[i].json);
        text_file("tokenizer_config.json", cases[i].config);
        char *out = dir;
        llm_err_t err = { 0 };
        llm_code_t rc = llm_card_template(&out, dir, &err);
        bool good = cases[i].word != NULL ? rc == LLM_E_FORMAT && out == NULL && strstr(err.msg, cases[i].word) != NULL
                  : rc == LLM_OK && (cases[i].want == NULL ? out == NULL : out != NULL && strcmp(out, cases[i].want) == 0);
        if (!ok(good, "template: %s", cases[i].name)) {
            diag("%s: %s", out ? out : "(null)", err.msg);
        }
        free(rc == LLM_OK ? out : NULL);
    }
    file("chat_template.jinja", "a\0b", 3);
    char *out;
    llm_err_t err;
    ok(llm_card_template(&out, dir, &err) == LLM_E_FORMAT && strstr(err.msg, "a NUL at byte 1"), "template: a NUL: %s", err.msg);
    static char large[(1 << 20) + 1];
    memset(large, 'x', sizeof(large));
    file("chat_template.jinja", large, sizeof(large));
    ok(llm_card_template(&out, dir, &err) == LLM_E_FORMAT && strstr(err.msg, "at most"), "template: too large: %s", err.msg);
    text_file("chat_template.jinja", NULL);
    text_file("chat_template.json", NULL);
    text_file("tokenizer_config.json", NULL);
}

static void
test_licenses(void)
{
    static const struct { const char *name, *readme, *want; } cases[] = {
        { "no README.md", NULL, "" },
        { "no header", "# Model\nlicense: mit\n", "" },
        { "in the header", "---\nlanguage: en\nlicense: apache-2.0\ntags:\n- x\n---\n# Model\n", "apache-2.0" },
        { "quotes and blanks", "---\r\nlicense:   \"llama3.1\"  \r\n---\r\n", "llama3.1" },
        { "a comment", "---\nlicense: mit # really\n---\n", "mit" },
        { "only behind the header", "---\ntags: []\n---\nlicense: mit\n", "" },
        { "another key", "---\nlicense_name: x\n license: y\n---\n", "" },
        { "no value", "---\nlicense:\n---\n", "" },
        { "no end", "---\nlicense: gpl-3.0", "gpl-3.0" },
        { "empty", "", "" },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        text_file("README.md", cases[i].readme);
        char *out = NULL;
        llm_err_t err = { 0 };
        ok(llm_card_license(&out, dir, &err) == LLM_OK, "licence: %s%s", cases[i].name, err.msg);
        is_str(out, cases[i].want, "its value");
        free(out);
    }
    text_file("README.md", NULL);
}

int
main(void)
{
    snprintf(dir, sizeof(dir), "/tmp/llm-card-XXXXXX");
    if (mkdtemp(dir) == NULL) {
        perror(dir);
        return 1;
    }
    test_templates();
    test_licenses();
    rmdir(dir);
    return done_testing();
}
