/*
 * run_grammar_schema.c - JSON schemas against t/fixtures/grammar/schemas.json (t/client/grammar.t
 * has its texts judged by another implementation), and what hostile schemas cost.
 */
#include "grammar_help.h"

#include "base/json.h"

#define FIXTURE "t/fixtures/grammar/schemas.json"

/* Number of texts of the list for which accepting is not `want`. */
static int
wrong(const llm_grammar_t *g, const json_t *texts, bool want)
{
    int bad = 0;
    for (size_t i = 0; i < json_array_size(texts); i++) {
        const json_t *t = json_array_get(texts, i);
        if (accepts(g, json_string_value(t), json_string_length(t)) != want) {
            diag("%s: %s", want ? "not accepted" : "accepted", json_string_value(t));
            bad++;
        }
    }
    return bad;
}

/* Every valid text is reached byte by byte, and from each of its beginnings there is an ending. */
static int
endless(const llm_grammar_t *g, const json_t *texts)
{
    int bad = 0;
    static uint8_t ending[4096];
    for (size_t i = 0; i < json_array_size(texts); i++) {
        const char *t = json_string_value(json_array_get(texts, i));
        llm_grammar_state_t s, e;
        llm_grammar_start(g, &s);
        for (size_t k = 0; k <= strlen(t); k++) {
            size_t n = llm_grammar_closing(g, &s, ending, sizeof(ending));
            e = s;
            if (n == SIZE_MAX || !llm_grammar_advance(g, &e, ending, n)
                || !llm_grammar_accepts(g, &e)) {
                diag("no ending after %zu bytes of %s", k, t);
                bad++;
                break;
            }
            if (t[k] != '\0' && !llm_grammar_advance(g, &s, t + k, 1)) {
                bad++;
                break;
            }
        }
    }
    return bad;
}

static void
test_fixture(void)
{
    json_t *all;
    if (!ok(llm_json_file(&all, FIXTURE, 1 << 22, false, &err) == LLM_OK, "fixture")) {
        diag("%s", err.msg);
        return;
    }
    const json_t *list = json_object_get(all, "schemas"),
                 *refused = json_object_get(all, "refused");
    ok(json_array_size(list) >= 60, "%zu schemas", json_array_size(list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *c = json_array_get(list, i);
        char *text = json_dumps(json_object_get(c, "schema"), JSON_ENCODE_ANY | JSON_COMPACT);
        llm_grammar_t *g = compile(LLM_GRAMMAR_JSON_SCHEMA, text, strlen(text));
        int bad = g == NULL ? 1
                            : wrong(g, json_object_get(c, "valid"), true)
                                  + wrong(g, json_object_get(c, "invalid"), false)
                                  + wrong(g, json_object_get(c, "narrow"), false)
                                  + endless(g, json_object_get(c, "valid"));
        if (!ok(bad == 0 && llm_grammar_check(g, llm_grammar_bytes(g)), "schema: %s",
                json_string_value(json_object_get(c, "name"))))
        {
            diag("%s", err.msg);
        }
        free(g);
        free(text);
    }
    for (size_t i = 0; i < json_array_size(refused); i++) {
        const json_t *c = json_array_get(refused, i);
        char *text = json_dumps(json_object_get(c, "schema"), JSON_ENCODE_ANY | JSON_COMPACT);
        check_refused(LLM_GRAMMAR_JSON_SCHEMA, text,
                      json_string_value(json_object_get(c, "error")));
        free(text);
    }
    json_decref(all);
}

/*
 * Texts that are no schema at all; draft 4's booleans, which jsonschema's other drafts do not take.
 */
static void
test_texts(void)
{
    check_refused(LLM_GRAMMAR_JSON_SCHEMA, "", "a schema is an object, true or false");
    check_refused(LLM_GRAMMAR_JSON_SCHEMA, "{", "the schema: line 1");
    check_refused(LLM_GRAMMAR_JSON_SCHEMA, "{},{}", "a schema is an object, true or false");
    check_refused(LLM_GRAMMAR_JSON_SCHEMA, "{\"type\":\"string\",\"type\":\"null\"}",
                  "duplicate object key");
    check_refused(LLM_GRAMMAR_JSON_SCHEMA, "{\"properties\":3}", "properties is an object");
    check_refused(LLM_GRAMMAR_JSON_SCHEMA, "{\"required\":[1]}", "required is a list of names");
    check_refused(LLM_GRAMMAR_JSON_SCHEMA, "{\"items\":3}", "a schema is an object, true or false");
    check_texts(LLM_GRAMMAR_JSON_SCHEMA,
                "{\"type\":\"integer\",\"minimum\":1,\"exclusiveMinimum\":true,\"maximum\":3}",
                (const char *const[]){ "2", "3", NULL }, (const char *const[]){ "1", "4", NULL });
    check_texts(LLM_GRAMMAR_JSON_SCHEMA,
                "{\"type\":\"array\",\"items\":[{\"type\":\"null\"}],\"additionalItems\":false}",
                (const char *const[]){ "[null]", NULL },
                (const char *const[]){ "[null,1]", "[1]", NULL });
    check_texts(LLM_GRAMMAR_JSON_OBJECT, "",
                (const char *const[]){ "{}", "{\"a\":[{\"b\":1.5e3}, \"\\u0000\"]}", NULL },
                (const char *const[]){ "", "[]", "1", "{} ", NULL });
}

/* A schema text of n pieces. */
static char *
repeat(const char *head, const char *piece, int n, const char *tail)
{
    char *s = malloc(strlen(head) + (size_t) n * (strlen(piece) + 40) + strlen(tail) + 1), *p = s;
    p += sprintf(p, "%s", head);
    for (int i = 0; i < n; i++) {
        p += sprintf(p, i > 0 ? "," : "%s", "");
        p += sprintf(p, piece, i, i, i);
    }
    sprintf(p, "%s", tail);
    return s;
}

static void
test_cost(void)
{
    static const struct {
        const char *name, *head, *piece;
        int n;
        const char *tail;
        size_t max_bytes;
    } cases[] = {
        { "200 optional members", "{\"type\":\"object\",\"properties\":{",
          "\"member_%d\":{\"type\":\"string\"}", 200, "}}", 2000000 },
        { "2000 enumerated values", "{\"enum\":[", "\"value number %d\"", 2000, "]}", 600000 },
        { "300 variants", "{\"anyOf\":[",
          "{\"type\":\"object\",\"properties\":{\"name\":{\"const\":\"tool_%d\"},"
          "\"arguments\":{\"type\":\"object\",\"properties\":{\"a%d\":{\"type\":\"integer\"}}}},"
          "\"required\":[\"name\",\"arguments\"]}",
          300, "]}", 2000000 },
        { "items and lengths of 100000",
          "{\"type\":\"array\",\"maxItems\":100000,\"items\":{\"anyOf\":[",
          "{\"type\":\"string\",\"minLength\":%d,\"maxLength\":100000}", 3, "]}}", 20000 },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *text = repeat(cases[i].head, cases[i].piece, cases[i].n, cases[i].tail);
        llm_grammar_t *g = compile(LLM_GRAMMAR_JSON_SCHEMA, text, strlen(text));
        if (!ok(g != NULL && llm_grammar_bytes(g) < cases[i].max_bytes, "%s", cases[i].name)) {
            diag("%zu bytes, %s", g != NULL ? llm_grammar_bytes(g) : 0, err.msg);
        }
        free(g);
        free(text);
    }

    /* 25 variants of which each lacks another of 25 optional members: the sets of live variants are
     * exponential */
    char *s = malloc(1 << 20), *p = s;
    p += sprintf(p, "{\"anyOf\":[");
    for (int v = 0; v < 25; v++) {
        p += sprintf(p, "%s{\"type\":\"object\",\"properties\":{", v > 0 ? "," : "");
        for (int k = 0, first = 1; k < 25; k++) {
            if (k != v) {
                p += sprintf(p, "%s\"k%d\":{\"type\":\"integer\"}", first ? "" : ",", k);
                first = 0;
            }
        }
        p += sprintf(p, "}}");
    }
    sprintf(p, "]}");
    check_refused(LLM_GRAMMAR_JSON_SCHEMA, s, "too complex");
    free(s);
}

int
main(void)
{
    test_fixture();
    test_texts();
    test_cost();
    return done_testing();
}
