/*
 * grammar_compile.c - from a request's grammar to a block, and the id under which it is cached.
 *
 * The id is SipHash-2-4 with 128 bits of output (J.-P. Aumasson, D. Bernstein 2012,
 * 131002.net/siphash) of kind and text under the caller's secret: a client that does not know it
 * cannot make two grammars with one id.
 */
#include "run/grammar_impl.h"

#include <stdlib.h>

/* ---------------------------------------------------------------- SipHash */

typedef struct { uint64_t v[4]; } sip_t;

static uint64_t
rotl(uint64_t x, unsigned n)
{
    return x << n | x >> (64 - n);
}

static void
sip_rounds(sip_t *h, unsigned n)
{
    uint64_t *v = h->v;
    while (n-- > 0) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = rotl(v[1], 13) ^ v[0];
        v[3] = rotl(v[3], 16) ^ v[2];
        v[0] = rotl(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = rotl(v[1], 17) ^ v[2];
        v[3] = rotl(v[3], 21) ^ v[0];
        v[2] = rotl(v[2], 32);
    }
}

static void
sip_word(sip_t *h, uint64_t m)
{
    h->v[3] ^= m;
    sip_rounds(h, 2);
    h->v[0] ^= m;
}

void
llm_grammar_key(const llm_grammar_conf_t *conf, uint64_t id[2])
{
    const uint8_t *s = (const uint8_t *) conf->text;
    size_t len = conf->kind == LLM_GRAMMAR_JSON_OBJECT ? 0 : conf->len, n = len;
    sip_t h = { { conf->secret[0] ^ 0x736f6d6570736575u,
                  conf->secret[1] ^ 0x646f72616e646f6du ^ 0xee,
                  conf->secret[0] ^ 0x6c7967656e657261u, conf->secret[1] ^ 0x7465646279746573u } };

    sip_word(&h, (uint64_t) conf->kind | (uint64_t) LLM_GRAMMAR_VERSION << 32);
    for (; n >= 8; n -= 8, s += 8) {
        uint64_t m = 0;
        for (int i = 0; i < 8; i++) {
            m |= (uint64_t) s[i] << 8 * i;
        }
        sip_word(&h, m);
    }
    uint64_t m = (uint64_t) (len + 8) << 56;
    for (size_t i = 0; i < n; i++) {
        m |= (uint64_t) s[i] << 8 * i;
    }
    sip_word(&h, m);
    h.v[2] ^= 0xee;
    sip_rounds(&h, 4);
    id[0] = h.v[0] ^ h.v[1] ^ h.v[2] ^ h.v[3];
    h.v[1] ^= 0xdd;
    sip_rounds(&h, 4);
    id[1] = h.v[0] ^ h.v[1] ^ h.v[2] ^ h.v[3];
}

/* ---------------------------------------------------------------- compile */

llm_code_t
llm_grammar_compile(llm_grammar_t **out, size_t *bytes, const llm_grammar_conf_t *conf,
                    llm_err_t *err)
{
    llm_gb_t b;
    uint32_t node = LLM_GN_FAIL_NODE;
    *out = NULL;
    *bytes = 0;
    if (!llm_gb_init(&b, err)) {
        goto done;
    }
    if (conf->vocab != NULL) {
        llm_gvocab_alphabet(conf->vocab, &b.alphabet);
    }
    if (conf->kind != LLM_GRAMMAR_JSON_OBJECT && conf->len > LLM_GRAMMAR_MAX_TEXT) {
        llm_gb_fail(&b, "its text has %zu bytes, at most %u are read", conf->len,
                    LLM_GRAMMAR_MAX_TEXT);
        goto done;
    }
    switch (conf->kind) {
    case LLM_GRAMMAR_REGEX:
        node = llm_gb_regex(&b, conf->text, conf->len, LLM_GRE_WHOLE, "regex");
        break;
    case LLM_GRAMMAR_JSON_SCHEMA:
        node = llm_gb_schema(&b, conf->text, conf->len);
        break;
    case LLM_GRAMMAR_JSON_OBJECT:
        node = llm_gj_object(&b);
        break;
    case LLM_GRAMMAR_GBNF:
        node = llm_gb_gbnf(&b, conf->text, conf->len);
        break;
    case LLM_GRAMMAR_CALLS:
        node = llm_gb_calls(&b, conf->vocab, conf->text, conf->len);
        break;
    default:
        llm_gb_fail(&b, "kind %d is not known", (int) conf->kind);
        break;
    }
    if (b.rc == LLM_OK) {
        *out = llm_gb_finish(&b, node, bytes);
    }
    if (*out != NULL) {
        llm_grammar_key(conf, (*out)->id);
    }
done:
    llm_gb_free(&b);
    return *out != NULL ? LLM_OK : b.rc;
}
