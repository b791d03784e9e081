/*
 * text_edge.c - tokenizers at their edges: files that must be refused, long and broken texts,
 * offsets, bounded streams.
 */
#include "tap.h"

#include "base/unicode.h"
#include "text/tok_json.h"

#include <pthread.h>
#include <time.h>

#define KINDS "t/fixtures/tokenizers/"
#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)                                  \
    || __has_feature(address_sanitizer)
#define LONG        (1u << 18)      /* bytes of a long text */
#define MAX_SECONDS 30.0
#else
#define LONG        (1u << 20)
#define MAX_SECONDS 2.0
#endif

static llm_err_t err;

static double
now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double) ts.tv_sec + 1e-9 * (double) ts.tv_nsec;
}

static llm_tok_t *
open_kind(const char *kind)
{
    char path[256];
    llm_tok_t *t;
    snprintf(path, sizeof(path), KINDS "%s", kind);
    if (llm_tok_from_dir(&t, path, &err) != LLM_OK) {
        printf("Bail out! %s\n", err.msg);
        exit(1);
    }
    return t;
}

/* ----------------------------------------------------------------- refusals */

static llm_code_t
open_text(const char *json, size_t len, const char *config)
{
    llm_tok_t *t;
    llm_tok_texts_t x = { .where = "dir", .tokenizer = json, .n_tokenizer = len, .config = config };
    x.n_config = config != NULL ? strlen(config) : 0;
    err.msg[0] = '\0';
    llm_code_t rc = llm_tok_from_texts(&t, &x, &err);
    llm_tok_free(t);
    return rc;
}

#define BL \
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}," \
    "\"decoder\":{\"type\":\"ByteLevel\"},"
#define VOCAB    "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"c\":3}"
#define MODEL(m) "\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":" m "}"
#define PIECES \
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\"," \
    "\"pattern\":{\"String\":\"\u2581\"},\"content\":\" \"},{\"type\":\"ByteFallback\"}," \
    "{\"type\":\"Fuse\"}]},"
#define UNIGRAM(v, id) \
    "\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"\u2581\"}," \
    "\"model\":{\"type\":\"Unigram\",\"unk_id\":" id ",\"vocab\":" v "}"
#define ADDED(a) "\"added_tokens\":[" a "],"

static const struct { const char *name, *json; llm_code_t code; const char *says;
} cases[] = {
    { "the smallest tokenizer", "{" BL MODEL("[\"a b\"]") "}", LLM_OK, "" },
    { "merges as pairs", "{" BL MODEL("[[\"a\",\"b\"]]") "}", LLM_OK, "" },
    { "no type, as in early files", "{" BL "\"model\":{" VOCAB ",\"merges\":[\"a b\"]}}", LLM_OK,
      "" },
    { "a Unigram", "{" UNIGRAM("[[\"x\",-1],[\"<unk>\",0]]", "1") "}", LLM_OK, "" },
    { "a normalized added token",
      "{" BL ADDED("{\"id\":4,\"content\":\"<x>\",\"normalized\":true}") MODEL("[]") "}", LLM_OK,
      "" },

    { "not JSON", "{\"model\":", LLM_E_FORMAT, "line 1" },
    { "not an object", "[1]", LLM_E_FORMAT, "not a JSON object" },
    { "a lone surrogate", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"\\ud800\":0}}}", LLM_E_FORMAT,
      "tokenizer.json" },
    { "a duplicate key", "{" BL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"a\":1}}}",
      LLM_E_FORMAT, "duplicate" },
    { "no model", "{" BL "\"x\":1}", LLM_E_UNSUPPORTED, "model" },
    { "another model", "{" BL "\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", LLM_E_UNSUPPORTED,
      "WordPiece" },
    { "no vocabulary", "{" BL "\"model\":{\"type\":\"BPE\"}}", LLM_E_FORMAT, "vocab" },
    { "an empty vocabulary", "{" BL "\"model\":{\"type\":\"BPE\",\"vocab\":{}}}", LLM_E_FORMAT,
      "0 tokens" },
    { "a negative id", "{" BL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1}}}", LLM_E_FORMAT,
      "-1" },
    { "an id that is no number", "{" BL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":\"1\"}}}",
      LLM_E_FORMAT, "\"a\"" },
    { "a huge id", "{" BL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4194304}}}", LLM_E_FORMAT,
      "4194304" },
    { "an id of 2^63", "{" BL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":9223372036854775808}}}",
      LLM_E_FORMAT, "big" },
    { "sparse ids", "{" BL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4000000}}}", LLM_E_FORMAT,
      "4000001" },
    { "one id twice", "{" BL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1,\"b\":1}}}",
      LLM_E_FORMAT, "belongs to" },
    { "a merge of an unknown left token", "{" BL MODEL("[\"x b\"]") "}", LLM_E_FORMAT, "\"x\"" },
    { "a merge of an unknown right token", "{" BL MODEL("[\"a x\"]") "}", LLM_E_FORMAT, "\"x\"" },
    { "a merge into an unknown token", "{" BL MODEL("[\"a c\"]") "}", LLM_E_FORMAT, "\"ac\"" },
    { "a merge with nothing", "{" BL MODEL("[\"a \"]") "}", LLM_E_FORMAT, "merge 0" },
    { "a merge that makes itself", "{" BL MODEL("[[\"\",\"ab\"]]") "}", LLM_E_FORMAT, "merge 0" },
    { "a merge of three", "{" BL MODEL("[\"a b c\"]") "}", LLM_E_FORMAT, "two tokens" },
    { "a merge that is a number", "{" BL MODEL("[7]") "}", LLM_E_FORMAT, "two tokens" },
    { "a merge twice", "{" BL MODEL("[\"a b\",\"a b\"]") "}", LLM_E_FORMAT, "twice" },
    { "dropout", "{" BL "\"model\":{\"type\":\"BPE\",\"dropout\":0.1," VOCAB ",\"merges\":[]}}",
      LLM_E_UNSUPPORTED, "dropout" },
    { "a word suffix",
      "{" BL "\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\"," VOCAB
      ",\"merges\":[]}}",
      LLM_E_UNSUPPORTED, "</w>" },
    { "an unknown token that is none",
      "{" PIECES "\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\"," VOCAB ",\"merges\":[]}}",
      LLM_E_FORMAT, "<unk>" },
    { "unk_id out of range", "{" UNIGRAM("[[\"x\",-1]]", "1") "}", LLM_E_FORMAT, "unk_id 1" },
    { "a score that is text", "{" UNIGRAM("[[\"x\",\"y\"]]", "0") "}", LLM_E_FORMAT, "entry 0" },
    { "a score of 1e999", "{" UNIGRAM("[[\"x\",1e999]]", "0") "}", LLM_E_FORMAT, "" },
    { "an added token with another id than in the vocabulary",
      "{" BL ADDED("{\"id\":7,\"content\":\"a\"}") MODEL("[]") "}", LLM_E_FORMAT, "id 7" },
    { "an added token on a taken id", "{" BL ADDED("{\"id\":0,\"content\":\"x\"}") MODEL("[]") "}",
      LLM_E_FORMAT, "id 0" },
    { "an added token without content", "{" BL ADDED("{\"id\":9}") MODEL("[]") "}", LLM_E_FORMAT,
      "content" },
    { "an added token without id", "{" BL ADDED("{\"content\":\"x\"}") MODEL("[]") "}",
      LLM_E_FORMAT, "\"x\"" },
    { "an unknown normalizer", "{\"normalizer\":{\"type\":\"BertNormalizer\"}," BL MODEL("[]") "}",
      LLM_E_UNSUPPORTED, "BertNormalizer" },
    { "an unknown pattern of Replace",
      "{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"x+\"},\"content\":\"\"}," BL
          MODEL("[]") "}",
      LLM_E_UNSUPPORTED, "x+" },
    { "an empty pattern of Replace",
      "{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"x\"}," BL
          MODEL("[]") "}",
      LLM_E_FORMAT, "empty" },
    { "a charsmap that is not base64",
      "{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"!!\"}," BL MODEL(
          "[]") "}",
      LLM_E_FORMAT, "base64" },
    { "a charsmap with a trie that does not fit",
      "{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAEAAAAA\"}," BL MODEL(
          "[]") "}",
      LLM_E_FORMAT, "trie of 256 bytes" },
    { "an unknown pre_tokenizer",
      "{\"pre_tokenizer\":{\"type\":\"Whitespace\"}," PIECES MODEL("[]") "}", LLM_E_UNSUPPORTED,
      "Whitespace\"" },
    { "an unknown regex",
      "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\w+|[^a]\"},"
      "\"behavior\":\"Isolated\"}," PIECES MODEL("[]") "}",
      LLM_E_UNSUPPORTED, "\\w+|[^a]" },
    { "an unknown behavior",
      "{\"pre_tokenizer\":{\"type\":\"Punctuation\",\"behavior\":\"Odd\"}," PIECES MODEL("[]") "}",
      LLM_E_UNSUPPORTED, "Odd" },
    { "no decoder", "{" MODEL("[]") "}", LLM_E_UNSUPPORTED, "decoder" },
    { "an unknown decoder", "{\"decoder\":{\"type\":\"WordPiece\"}," MODEL("[]") "}",
      LLM_E_UNSUPPORTED, "WordPiece" },
    { "a decoder for bytes without bytes", "{\"decoder\":{\"type\":\"ByteLevel\"}," MODEL("[]") "}",
      LLM_E_UNSUPPORTED, "ByteLevel" },
    { "a part without a type", "{\"normalizer\":{}," BL MODEL("[]") "}", LLM_E_FORMAT, "type" },
    { "an unknown post_processor",
      "{\"post_processor\":{\"type\":\"BertProcessing\"}," BL MODEL("[]") "}", LLM_E_UNSUPPORTED,
      "BertProcessing" },
    { "a template with an id out of range",
      "{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
      "{\"SpecialToken\":{\"id\":\"x\"}},{\"Sequence\":{\"id\":\"A\"}}],"
      "\"special_tokens\":{\"x\":{\"ids\":[9]}}}," BL MODEL("[]") "}",
      LLM_E_FORMAT, "id 9" },
    { "a template with an unknown token",
      "{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
      "{\"SpecialToken\":{\"id\":\"x\"}},{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{}}," BL
          MODEL("[]") "}",
      LLM_E_FORMAT, "\"x\"" },
    { "a template without text",
      "{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[],"
      "\"special_tokens\":{}}," BL MODEL("[]") "}",
      LLM_E_UNSUPPORTED, "$A" },
};

static void
test_refusals(void)
{
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        llm_code_t rc = open_text(cases[i].json, strlen(cases[i].json), NULL);
        if (!ok(rc == cases[i].code && (rc == LLM_OK || strstr(err.msg, cases[i].says) != NULL),
                "%s: %s", cases[i].name, rc == LLM_OK ? "accepted" : err.msg)) {
            diag("%s, want %s saying '%s'", llm_code_name(rc), llm_code_name(cases[i].code),
                 cases[i].says);
        }
    }
    const char *good = cases[0].json;
    ok(open_text(good, strlen(good), "{\"added_tokens_decoder\":{\"x\":{\"content\":\"y\"}}}")
           == LLM_E_FORMAT,
       "a settings file with an id that is no number: %s", err.msg);
    ok(open_text(good, strlen(good), "{\"added_tokens_decoder\":{\"4\":{\"content\":\"y\"}}}")
           == LLM_OK,
       "a settings file with one more token");
    llm_tok_t *t;
    ok(llm_tok_from_dir(&t, "t/fixtures/no such place", &err) == LLM_E_IO && t == NULL,
       "a missing directory: %s", err.msg);
}

/* JSON that is nested or long without end. */
static void
test_floods(void)
{
    size_t n = 200000;
    char *s = malloc(n + 64);
    memset(s, '[', n);
    ok(open_text(s, n, NULL) == LLM_E_FORMAT && strstr(err.msg, "deeper") != NULL,
       "200000 brackets: %s", err.msg);
    char *p = s + sprintf(s, "{\"normalizer\":");
    for (int i = 0; i < 40; i++) {
        p += sprintf(p, "{\"type\":\"Sequence\",\"normalizers\":[");
    }
    ok(open_text(s, (size_t) (p - s), NULL) == LLM_E_FORMAT && strstr(err.msg, "deeper") != NULL,
       "40 sequences: %s", err.msg);
    p = s + sprintf(s, "{" BL ADDED("{\"id\":4,\"content\":\""));
    memset(p, 'x', 2000);
    p += 2000;
    p += sprintf(p, "\"}],%s}", MODEL("[]"));
    p = strstr(s, "\"}],");
    ok(open_text(s, strlen(s), NULL) == LLM_E_FORMAT, "an added token of 2000 bytes: %s", err.msg);
    free(s);
}

/* ------------------------------------------------------------------- texts */

static uint64_t rng_state = 42;

static uint32_t
rnd(uint32_t n)
{
    rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t) (rng_state >> 33) % n;
}

/* n bytes by repeating s, with what does not fit cut off at a character. */
static char *
repeat(const char *s, size_t n, size_t *len)
{
    size_t m = strlen(s);
    char *out = malloc(n + 1);
    for (*len = 0; *len + m <= n; *len += m) {
        memcpy(out + *len, s, m);
    }
    return out;
}

static bool
sane_offsets(const llm_tokens_t *k, const char *text, size_t len, bool covered)
{
    size_t at = 0;
    bool valid = llm_utf8_valid((const uint8_t *) text, len) == len;
    for (size_t i = 0; i < k->n; i++) {
        bool special = k->start[i] == 0 && k->stop[i] == 0;
        bool cut = (k->start[i] < len && ((uint8_t) text[k->start[i]] & 0xc0) == 0x80)
                   || (k->stop[i] < len && ((uint8_t) text[k->stop[i]] & 0xc0) == 0x80);
        if (k->start[i] > k->stop[i] || k->stop[i] > len || (valid && cut)
            || (covered && !special && k->start[i] > at))
        {
            diag("token %zu covers [%u, %u) of %zu, before it %zu", i, k->start[i], k->stop[i], len,
                 at);
            return false;
        }
        at = k->stop[i] > at ? k->stop[i] : at;
    }
    return !covered || at == len;
}

static void
test_long(void)
{
    static const char *const kinds[] = { "smollm2", "llama", "gemma",    "mistral", "qwen2",
                                         "falcon",  "bloom", "flan_nmt", "t5",      "neox" };
    static const struct { const char *name, *unit;
    } texts[] = {
        { "a", "a" },
        { "spaces", " " },
        { "newlines", "\n" },
        { "digits", "7" },
        { "apostrophes", "'" },
        { "emoji families", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466" },
        { "marks out of order", "\u0301\u0323" },
        { "marks on a letter", "a\u0301\u0323\u0327" },
        { "marks of SentencePiece", "\u2581" },
        { "Chinese", "\u4e2d\u6587" },
        { "spaces and a line", " \n" },
        { "beginnings of specials", "<|im_" },
        { "words", "the quick " },
        { "NUL", "\0" },
    };
    for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
        llm_tok_t *t = open_kind(kinds[k]);
        double worst = 0;
        unsigned bad = 0;
        for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
            size_t len = LONG;
            char *s = texts[i].unit[0] != '\0' ? repeat(texts[i].unit, LONG, &len)
                                               : calloc(LONG, 1);
            llm_tokens_t out;
            double start = now();
            bool good = llm_tok_encode(t, s, len, LLM_TOK_ADD_SPECIAL | LLM_TOK_PARSE_SPECIAL, &out,
                                       &err)
                            == LLM_OK
                        && sane_offsets(&out, s, len, false);
            double took = now() - start;
            if (!good || took > MAX_SECONDS) {
                diag("%s, %s: %.2f s, %s", kinds[k], texts[i].name, took,
                     good ? "ok" : err.msg);
                bad++;
            }
            worst = took > worst ? took : worst;
            if (good) {
                llm_tokens_free(&out);
            }
            free(s);
        }
        ok(bad == 0, "%s: %zu long monotonous texts, at most %.2f s each", kinds[k],
           sizeof(texts) / sizeof(texts[0]), worst);
        llm_tok_free(t);
    }
}

/* Added tokens that are white space and swallow it on both sides: each match must not look at all
 * of it again. */
static void
test_swallowing(void)
{
    static const char json[] = "{" BL ADDED(
        "{\"id\":4,\"content\":\"\\n\",\"lstrip\":true,\"rstrip\":true,\"normalized\":false}")
        MODEL("[]") "}";
    llm_tok_texts_t x = { .where = "dir", .tokenizer = json, .n_tokenizer = sizeof(json) - 1 };
    llm_tok_t *t;
    llm_tokens_t k;
    size_t len;
    char *s = repeat("\n", LONG, &len);
    bool good = llm_tok_from_texts(&t, &x, &err) == LLM_OK;
    double start = now();
    good = good && llm_tok_encode(t, s, len, 0, &k, &err) == LLM_OK;
    ok(good && k.n == 1 && k.start[0] == 0 && k.stop[0] == len && now() - start < MAX_SECONDS,
       "a token that swallows %zu line ends, in %.3f s", len, now() - start);
    llm_tokens_free(&k);
    free(s);
    llm_tok_free(t);
}

/* What a decoder makes of bytes that are not UTF-8, written down on its own: one U+FFFD for each
 * maximal subpart. */
static size_t
lossy(const char *s, size_t n, char *out)
{
    size_t m = 0;
    for (size_t i = 0; i < n;) {
        bool cut;
        size_t good = llm_utf8_valid((const uint8_t *) s + i, n - i);
        memcpy(out + m, s + i, good);
        m += good;
        i += good;
        if (i < n) {
            i += llm_utf8_bad((const uint8_t *) s + i, n - i, &cut);
            memcpy(out + m, "\xef\xbf\xbd", 3);
            m += 3;
        }
    }
    return m;
}

static void
test_round_trips(void)
{
    static const char *const kinds[] = { "gpt2",  "smollm2",   "llama3", "falcon",
                                         "bloom", "starcoder", "bart" };
    for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
        llm_tok_t *t = open_kind(kinds[k]);
        unsigned bad = 0;
        for (int round = 0; round < 400; round++) {
            char s[300], want[900], *got;
            size_t n = rnd(sizeof(s)), len, m;
            for (size_t i = 0; i < n;) {
                unsigned l = round % 2 == 0 ? 1
                                            : llm_utf8_put((uint8_t *) s + i,
                                                           0x20 + rnd(rnd(2) ? 0x60 : 0xd7e0));
                if (round % 2 == 0) {
                    s[i] = (char) rnd(rnd(3) ? 256 : 128);
                }
                i += l;
                n = i + 4 > sizeof(s) ? i : n > i ? n : i;
            }
            m = lossy(s, n, want);
            llm_tokens_t out;
            if (llm_tok_encode(t, s, n, 0, &out, &err) != LLM_OK) {
                bad++;
                continue;
            }
            bool same = llm_tok_decode(t, out.ids, out.n, false, &got, &len, &err) == LLM_OK
                        && len == m && memcmp(got, want, m) == 0;
            bad += !same || !sane_offsets(&out, s, n, true);
            free(got);
            llm_tokens_free(&out);
        }
        ok(bad == 0, "%s: 400 random texts come back", kinds[k]);
        llm_tok_free(t);
    }
}

/* ----------------------------------------------------------------- offsets */

static void
test_offsets(void)
{
    static const struct {
        const char *kind, *text;
        unsigned    flags, n;
        uint32_t    range[12];
    } all[] = {
        /* one token a character; the two tokens of the letter cover both of its bytes; a digit is
           on its own */
        { "smollm2", "z\u00e97", 0, 4, { 0, 1, 1, 3, 1, 3, 3, 4 } },
        /* the special token covers its text */
        { "smollm2", "z<|im_end|>z", LLM_TOK_PARSE_SPECIAL, 3, { 0, 1, 1, 11, 11, 12 } },
        /* BOS covers nothing; the added space covers nothing */
        { "llama", "\n", LLM_TOK_ADD_SPECIAL, 3, { 0, 0, 0, 0, 0, 1 } },
        /* normalized: letter and mark became one letter of two bytes */
        { "qwen2", "ze\u0301z", 0, 4, { 0, 1, 1, 4, 1, 4, 4, 5 } },
        /* rstrip swallows the white space after the token */
        { "phi3", "<|user|>\n\n", LLM_TOK_PARSE_SPECIAL, 1, { 0, 10 } },
        /* not UTF-8: U+FFFD (three byte tokens) covers the bad byte */
        { "smollm2",
          "z\xff"
          "7",
          0,
          5,
          { 0, 1, 1, 2, 1, 2, 1, 2, 2, 3 } },
    };
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        llm_tok_t *t = open_kind(all[i].kind);
        llm_tokens_t k;
        bool good = llm_tok_encode(t, all[i].text, strlen(all[i].text), all[i].flags, &k, &err)
                        == LLM_OK
                    && k.n == all[i].n;
        for (size_t j = 0; good && j < k.n; j++) {
            good = k.start[j] == all[i].range[2 * j] && k.stop[j] == all[i].range[2 * j + 1];
        }
        if (!ok(good, "%s: offsets of case %zu", all[i].kind, i)) {
            for (size_t j = 0; j < k.n; j++) {
                diag("%d [%u, %u)", k.ids[j], k.start[j], k.stop[j]);
            }
        }
        llm_tokens_free(&k);
        llm_tok_free(t);
    }
}

/* Texts of which normalizers and added tokens take parts away. */
static void
test_vanishing(void)
{
    static const char *const kinds[] = { "flan",  "flan_nmt", "t5",  "phi3",
                                         "llama", "mistral",  "bart" };
    static const char *const texts[] = {
        "z \ufeffB", "\ufeff", "\n \n", " \x01 ", "\x01\x01 a", "a\x01", "<|user|>  \n<|user|>",
        " <mask>  <mask> ", "<extra_id_0>  \n <extra_id_0>", "\u3000<|end|>\u2003<|end|>\u00a0",
        "\xb5\n\xff \ufeff\xe2\x96 x",
    };
    for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
        llm_tok_t *t = open_kind(kinds[k]);
        unsigned bad = 0;
        for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
            llm_tokens_t out;
            bool good = llm_tok_encode(t, texts[i], strlen(texts[i]), LLM_TOK_PARSE_SPECIAL, &out,
                                       &err)
                        == LLM_OK;
            bad += !good || !sane_offsets(&out, texts[i], strlen(texts[i]), false);
            llm_tokens_free(&out);
        }
        ok(bad == 0, "%s: texts that lose parts keep sane offsets", kinds[k]);
        llm_tok_free(t);
    }
}

/* ----------------------------------------------------------------- streams */

static void
test_prime(void)
{
    llm_tok_t *t = open_kind("llama");
    llm_tokens_t k;
    llm_detok_t *d;
    const char *s;
    size_t len;
    llm_tok_encode(t, "the", 3, 0, &k, &err);
    for (int primed = 0; primed < 2; primed++) {
        char all[64] = "";
        llm_detok_new_tok(&d, t, LLM_DETOK_SKIP_SPECIAL, &err);
        if (primed) {
            llm_detok_prime(d, k.ids, k.n, &err);
        }
        for (size_t i = 0; i < k.n; i++) {
            llm_detok_push(d, k.ids[i], &s, &len, &err);
            strncat(all, s, len);
        }
        is_str(all, primed ? " the" : "the",
               primed ? "after a prompt the leading space stays" : "at the start it goes");
        llm_detok_free(d);
    }
    llm_tokens_free(&k);
    llm_tok_free(t);
}

/* A model that writes only broken characters: text comes out all the same, a bounded piece at a
 * time. */
static void
test_hold(void)
{
    static const struct {
        const char *kind;
        const char *token;
    } all[] = { { "smollm2", "\u00ff" }, { "llama", "<0xFF>" } };
    for (size_t i = 0; i < 2; i++) {
        llm_tok_t *t = open_kind(all[i].kind);
        int32_t id = llm_tok_find(t, all[i].token, strlen(all[i].token));
        const char *s;
        size_t len, total = 0, most = 0, n = 50000;
        llm_detok_t *d;
        llm_detok_new_tok(&d, t, 0, &err);
        bool good = id >= 0;
        double start = now();
        for (size_t k = 0; k < n; k++) {
            good &= llm_detok_push(d, id, &s, &len, &err) == LLM_OK
                    && llm_utf8_valid((const uint8_t *) s, len) == len;
            total += len;
            most = len > most ? len : most;
        }
        good &= llm_detok_flush(d, &s, &len, &err) == LLM_OK;
        ok(good && total + len == 3 * n && most < 20000,
           "%s: %zu broken characters in pieces of at most %zu bytes", all[i].kind, n, most);
        ok(now() - start < MAX_SECONDS, "%s: in %.3f s", all[i].kind, now() - start);
        llm_detok_free(d);
        llm_tok_free(t);
    }
}

/* ------------------------------------------------------------------ threads */

typedef struct {
    const llm_tok_t *t;
    const char      *s;
    size_t           len, n;
    uint64_t         sum;
} task_t;

static void *
work(void *arg)
{
    task_t *w = arg;
    for (int i = 0; i < 20; i++) {
        llm_tokens_t k;
        llm_err_t e;
        if (llm_tok_encode(w->t, w->s, w->len, 0, &k, &e) != LLM_OK) {
            return NULL;
        }
        w->n += k.n;
        for (size_t j = 0; j < k.n; j++) {
            w->sum = w->sum * 31 + (uint64_t) k.ids[j];
        }
        llm_tokens_free(&k);
    }
    return NULL;
}

static void
test_threads(void)
{
    enum { N = 4 };
    llm_tok_t *t = open_kind("qwen2");
    size_t len;
    char *s = repeat("def f(x):\n\treturn x**2  # na\u00efve cafe\u0301 123\n", 20000, &len);
    task_t w[N];
    pthread_t th[N];
    for (int i = 0; i < N; i++) {
        w[i] = (task_t) { t, s, len, 0, 0 };
        pthread_create(&th[i], NULL, work, &w[i]);
    }
    bool same = true;
    for (int i = 0; i < N; i++) {
        pthread_join(th[i], NULL);
        same &= w[i].n > 0 && w[i].sum == w[0].sum;
    }
    ok(same, "%d threads get the same tokens from one tokenizer", N);
    free(s);
    llm_tok_free(t);
}

int
main(void)
{
    test_refusals();
    test_floods();
    test_offsets();
    test_vanishing();
    test_round_trips();
    test_prime();
    test_hold();
    test_threads();
    test_long();
    test_swallowing();
    return done_testing();
}
