/*
 * text_tok.c - tokenizers against the fixtures: ids, decodings and streams of the transformers
 * library for 20 kinds of tokenizer.json, and the prompts of the GGUF fixtures through the GGUF
 * reader.
 */
#include "tap.h"

#include "base/json.h"
#include "model/gguf.h"
#include "text/tok.h"

#include <dirent.h>

#define KINDS "t/fixtures/tokenizers"
#define GGUFS "t/fixtures/gguf"
#define BOTH  (LLM_TOK_ADD_SPECIAL | LLM_TOK_PARSE_SPECIAL)

static llm_err_t err;

static int
by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static const char *
str_at(const json_t *obj, const char *key, size_t *len)
{
    const json_t *v = json_object_get(obj, key);
    *len = json_string_length(v);
    return json_string_value(v);
}

/* Compares ids with a JSON array and shows the first difference. */
static bool
same_ids(const char *what, const int32_t *ids, size_t n, const json_t *want)
{
    size_t i = 0;
    while (i < n && i < json_array_size(want)
           && ids[i] == json_integer_value(json_array_get(want, i))) {
        i++;
    }
    if (i == n && n == json_array_size(want)) {
        return true;
    }
    diag("%s: %zu ids, want %zu; at %zu got %d, want %lld", what, n, json_array_size(want), i,
         i < n ? ids[i] : -1, (long long) json_integer_value(json_array_get(want, i)));
    return false;
}

static bool
encodes(const llm_tok_t *t, const char *text, size_t len, unsigned flags, const json_t *want)
{
    llm_tokens_t k;
    if (llm_tok_encode(t, text, len, flags, &k, &err) != LLM_OK) {
        diag("\"%.60s\": %s", text, err.msg);
        return false;
    }
    bool same = same_ids(text, k.ids, k.n, want);
    llm_tokens_free(&k);
    return same;
}

static bool
decodes(const llm_tok_t *t, const json_t *ids, bool skip, const char *want, size_t want_len)
{
    size_t n = json_array_size(ids), len;
    int32_t *v = malloc((n + 1) * sizeof(*v));
    for (size_t i = 0; i < n; i++) {
        v[i] = (int32_t) json_integer_value(json_array_get(ids, i));
    }
    char *text;
    bool same = false;
    if (llm_tok_decode(t, v, n, skip, &text, &len, &err) == LLM_OK) {
        same = len == want_len && memcmp(text, want, len) == 0;
        if (!same) {
            diag("decoded '%s', want '%s'", text, want);
        }
        free(text);
    }
    free(v);
    return same;
}

/* ------------------------------------------------------------------ kinds */

static unsigned
bad_items(const llm_tok_t *t, const json_t *items)
{
    unsigned bad = 0;
    size_t i;
    json_t *it;
    json_array_foreach(items, i, it) {
        size_t len, n_skip, n_all;
        const char *text = str_at(it, "text", &len);
        const json_t *ids = json_object_get(it, "ids"),
                     *plain = json_object_get(it, "ids_without_special");
        const char *skip = str_at(it, "decoded", &n_skip),
                   *all = str_at(it, "decoded_with_special", &n_all);
        if (skip == NULL) {
            skip = text;
            n_skip = len;
        }
        if (all == NULL) {
            all = skip;
            n_all = n_skip;
        }
        bool good = encodes(t, text, len, BOTH, ids);
        good &= encodes(t, text, len, LLM_TOK_PARSE_SPECIAL, plain != NULL ? plain : ids);
        good &= decodes(t, ids, true, skip, n_skip) && decodes(t, ids, false, all, n_all);
        bad += !good;
    }
    return bad;
}

/* One stream: what each push gives, and all of it with the flush. */
static bool
streams(const llm_tok_t *t, const json_t *s)
{
    const json_t *ids = json_object_get(s, "ids"), *chunks = json_object_get(s, "chunks");
    size_t want_len, n_all = 0, len, i;
    const char *want = str_at(s, "decoded", &want_len), *text;
    char *all = malloc(want_len + 4096);
    llm_detok_t *d;
    json_t *id;
    bool good = llm_detok_new_tok(&d, t, LLM_DETOK_SKIP_SPECIAL, &err) == LLM_OK;
    json_array_foreach(ids, i, id) {
        const json_t *chunk = json_array_get(chunks, i);
        const char *c = json_is_null(chunk) ? "" : json_string_value(chunk);
        size_t n_c = json_is_null(chunk) ? 0 : json_string_length(chunk);
        if (llm_detok_push(d, (int32_t) json_integer_value(id), &text, &len, &err) != LLM_OK
            || len != n_c || memcmp(text, c, len) != 0) {
            diag("token %zu (%lld): got '%.*s', want '%s'", i, (long long) json_integer_value(id),
                 (int) len, text, c);
            good = false;
        }
        memcpy(all + n_all, text, n_all + len < want_len + 4096 ? len : 0);
        n_all += len;
    }
    good &= llm_detok_flush(d, &text, &len, &err) == LLM_OK;
    /* the library takes text back when a run of byte tokens turns out to be broken after it was
     * streamed */
    bool retracted = n_all > want_len || memcmp(all, want, n_all) != 0;
    if (!retracted) {
        good &= n_all + len == want_len && memcmp(want + n_all, text, len) == 0;
    }
    if (!good) {
        diag("with the flush '%.*s': want '%s'", (int) len, text, want);
    }
    llm_detok_free(d);
    free(all);
    return good && decodes(t, ids, true, want, want_len);
}

static void
check_facts(const llm_tok_t *t, const json_t *e, const char *kind)
{
    static const char *const names[] = { "bos", "eos" };
    int32_t got[] = { llm_tok_bos(t), llm_tok_eos(t) };
    bool good = true;
    for (int i = 0; i < 2; i++) {
        const json_t *v = json_object_get(e, names[i]);
        int32_t want = json_is_integer(v) ? (int32_t) json_integer_value(v) : -1;
        good &= got[i] == want && (want < 0 || llm_tok_is_special(t, want));
    }
    good &= got[1] < 0 || llm_tok_is_eos(t, got[1]);
    good &= !llm_tok_is_eos(t, -1) && !llm_tok_is_eos(t, (int32_t) llm_tok_n_vocab(t));
    ok(good, "%s: bos %d and eos %d", kind, got[0], got[1]);
}

/* Without PARSE_SPECIAL no text can name a control token. */
static void
check_injection(const llm_tok_t *t, const char *kind)
{
    unsigned bad = 0, n = 0;
    for (int32_t id = 0; id < (int32_t) llm_tok_n_vocab(t); id++) {
        char text[256];
        size_t len = llm_tok_text(t, id, text, sizeof(text));
        llm_tokens_t k;
        if (!llm_tok_is_special(t, id) || llm_tok_encode(t, text, len, 0, &k, &err) != LLM_OK) {
            continue;
        }
        n++;
        for (size_t i = 0; i < k.n; i++) {
            /* the unknown token may stand for a character that is not in the vocabulary */
            bad += llm_tok_is_special(t, k.ids[i]) && llm_tok_find(t, "<unk>", 5) != k.ids[i];
        }
        llm_tokens_free(&k);
    }
    ok(bad == 0,
       "%s: the texts of %u special tokens are plain text where special tokens are not allowed",
       kind, n);
}

static void
test_kind(const char *kind)
{
    char path[512];
    json_t *e;
    llm_tok_t *t;
    snprintf(path, sizeof(path), "%s/%s", KINDS, kind);
    if (!ok(llm_tok_from_dir(&t, path, &err) == LLM_OK, "%s opens", kind)) {
        diag("%s", err.msg);
        return;
    }
    snprintf(path, sizeof(path), "%s/%s/expected_tokens.json", KINDS, kind);
    if (!ok(llm_json_file(&e, path, 64 << 20, false, &err) == LLM_OK, "%s has expectations",
            kind)) {
        diag("%s", err.msg);
        llm_tok_free(t);
        return;
    }
    const json_t *items = json_object_get(e, "items"), *all = json_object_get(e, "streams");
    ok(json_array_size(items) > 50 && bad_items(t, items) == 0, "%s: %zu texts encode and decode",
       kind, json_array_size(items));
    unsigned bad = 0;
    size_t i;
    json_t *s;
    json_array_foreach(all, i, s) {
        bad += !streams(t, s);
    }
    ok(json_array_size(all) > 5 && bad == 0, "%s: %zu streams", kind, json_array_size(all));
    check_facts(t, e, kind);
    check_injection(t, kind);
    json_decref(e);
    llm_tok_free(t);
}

/* ------------------------------------------------------------------- GGUF */

/* A GGUF file cannot say that its space prefix is left out in front of a space (spec models.md 8.3,
 * legacy: false). */
static bool
gguf_lacks(const char *name, const char *prompt)
{
    return strncmp(name, "mixtral", 7) == 0 && prompt[0] == ' ';
}

static void
test_gguf(const char *name)
{
    char path[512];
    json_t *e;
    llm_gguf_t *g;
    llm_tok_t *t;
    snprintf(path, sizeof(path), "%s/%s.expected.json", GGUFS, name);
    if (!ok(llm_json_file(&e, path, 64 << 20, false, &err) == LLM_OK, "%s has expectations",
            name)) {
        return;
    }
    snprintf(path, sizeof(path), "%s/%s.gguf", GGUFS, name);
    if (!ok(llm_gguf_open(&g, path, &err) == LLM_OK && llm_tok_from_gguf(&t, g, &err) == LLM_OK,
            "%s opens", name)) {
        diag("%s", err.msg);
        json_decref(e);
        return;
    }
    unsigned bad = 0, n = 0;
    size_t i;
    json_t *c;
    json_array_foreach(json_object_get(e, "cases"), i, c) {
        size_t len, n_text;
        const char *prompt = str_at(c, "prompt", &len);
        const json_t *greedy = json_object_get(c, "greedy");
        const char *text = str_at(greedy, "text", &n_text);
        if (!gguf_lacks(name, prompt)) {
            bad += !encodes(t, prompt, len, BOTH, json_object_get(c, "input_ids"));
            n++;
        }
        bad += text != NULL && !decodes(t, json_object_get(greedy, "ids"), true, text, n_text);
    }
    ok(n > 0 && bad == 0, "%s: %u prompts and their continuations", name, n);
    llm_tok_free(t);
    llm_gguf_close(g);
    json_decref(e);
}

static void
each(const char *dir, const char *suffix, void (*test)(const char *))
{
    struct dirent **list;
    int n = scandir(dir, &list, NULL, by_name), used = 0;
    for (int i = 0; i < n; i++) {
        char *name = list[i]->d_name;
        size_t len = strlen(name), cut = strlen(suffix);
        if (name[0] != '.' && len > cut && strcmp(name + len - cut, suffix) == 0) {
            name[len - cut] = '\0';
            test(name);
            used++;
        }
        free(list[i]);
    }
    if (n >= 0) {
        free(list);
    }
    ok(used > 0, "%s holds %d fixtures", dir, used);
}

int
main(void)
{
    each(KINDS, "", test_kind);
    each(GGUFS, ".gguf", test_gguf);
    return done_testing();
}
