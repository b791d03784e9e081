/*
 * decode.c - ids to text, all at once (spec models.md 8.5; detok.c does it token by token).
 */
#define _GNU_SOURCE     /* memmem */
#include "text/tok_impl.h"

#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- buffers */

bool
llm_buf_add(llm_buf_t *b, const void *s, size_t n)
{
    if (n > b->cap - b->n || b->s == NULL) {
        size_t cap = b->cap + b->cap / 2 + n + 64;
        uint8_t *p = realloc(b->s, cap);
        if (p == NULL) {
            return false;
        }
        b->s = p;
        b->cap = cap;
    }
    if (n > 0) {
        memcpy(b->s + b->n, s, n);
    }
    b->n += n;
    return true;
}

bool
llm_buf_add_lossy(llm_buf_t *b, const uint8_t *s, size_t n, size_t *tail)
{
    *tail = 0;
    while (n > 0) {
        size_t good = llm_utf8_valid(s, n);
        if (!llm_buf_add(b, s, good)) {
            return false;
        }
        s += good;
        n -= good;
        if (n > 0) {
            bool cut;
            unsigned bad = llm_utf8_bad(s, n, &cut);
            if (cut) {
                *tail = n;
                return true;
            }
            if (!llm_buf_add(b, "\xef\xbf\xbd", 3)) {
                return false;
            }
            s += bad;
            n -= bad;
        }
    }
    return true;
}

bool
llm_buf_add_unmarked(llm_buf_t *b, const uint8_t *s, size_t n)
{
    while (n > 0) {
        const uint8_t *hit = memmem(s, n, LLM_SPACE_MARK, 3);
        size_t len = hit != NULL ? (size_t) (hit - s) : n;
        if (!llm_buf_add(b, s, len)) {
            return false;
        }
        len += hit != NULL ? 3 : 0;
        s += len;
        n -= len;
    }
    return true;
}

/* --------------------------------------------------------------- decoders */

static bool
decode_byte_level(const llm_tok_t *t, const int32_t *ids, size_t n, bool skip, llm_buf_t *out)
{
    llm_buf_t raw = { 0 };
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++) {
        if (!llm_dec_skips(t, ids[i], skip)) {
            size_t len;
            const uint8_t *s = llm_tok_bytes(t, ids[i], &len);
            ok = llm_buf_add(&raw, s, len);
        }
    }
    size_t tail = 0;
    ok = ok && llm_buf_add_lossy(out, raw.s, raw.n, &tail)
         && (tail == 0 || llm_buf_add(out, "\xef\xbf\xbd", 3));
    free(raw.s);
    return ok;
}

/* A run of byte tokens is text when all of it is valid UTF-8, else one U+FFFD for each byte. */
static bool
end_run(llm_buf_t *run, llm_buf_t *out)
{
    bool ok = true;
    if (llm_utf8_valid(run->s, run->n) == run->n) {
        ok = run->n == 0 || llm_buf_add(out, run->s, run->n);
    } else {
        for (size_t i = 0; ok && i < run->n; i++) {
            ok = llm_buf_add(out, "\xef\xbf\xbd", 3);
        }
    }
    run->n = 0;
    return ok;
}

static bool
decode_pieces(const llm_tok_t *t, const int32_t *ids, size_t n, bool skip, llm_buf_t *out)
{
    llm_buf_t run = { 0 };
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++) {
        if (llm_dec_skips(t, ids[i], skip)) {
            continue;
        }
        size_t len;
        const uint8_t *s = llm_tok_bytes(t, ids[i], &len);
        if (t->flags[ids[i]] & LLM_TF_BYTE) {
            ok = llm_buf_add(&run, s, len);
        } else {
            ok = end_run(&run, out) && llm_buf_add(out, s, len);
        }
    }
    ok = ok && end_run(&run, out);
    free(run.s);
    size_t cut = 0;
    while (cut < t->dec.strip_left && cut < out->n && out->s[cut] == t->dec.strip_char) {
        cut++;
    }
    if (cut > 0) {
        memmove(out->s, out->s + cut, out->n - cut);
        out->n -= cut;
    }
    return ok;
}

static bool
decode_metaspace(const llm_tok_t *t, const int32_t *ids, size_t n, bool skip, llm_buf_t *out)
{
    bool ok = true, first = t->dec.strip_marks;
    for (size_t i = 0; ok && i < n; i++) {
        if (llm_dec_skips(t, ids[i], skip)) {
            continue;
        }
        size_t len;
        const uint8_t *s = first ? llm_strs_get(&t->text, (uint32_t) ids[i], &len)
                                 : llm_tok_bytes(t, ids[i], &len);
        ok = first ? llm_buf_add_unmarked(out, s, len) : llm_buf_add(out, s, len);
        first = false;
    }
    return ok;
}

/* transformers' clean_up_tokenization: these replacements one after the other */
static void
clean_up(llm_buf_t *b)
{
    static const char *const rule[][2] = {
        { " .", "." },     { " ?", "?" },   { " !", "!" },   { " ,", "," },     { " ' ", "'" },
        { " n't", "n't" }, { " 'm", "'m" }, { " 's", "'s" }, { " 've", "'ve" }, { " 're", "'re" },
    };
    for (size_t r = 0; r < sizeof(rule) / sizeof(rule[0]); r++) {
        size_t n_from = strlen(rule[r][0]), n_to = strlen(rule[r][1]), in = 0, out = 0;
        while (in < b->n) {
            const uint8_t *hit = memmem(b->s + in, b->n - in, rule[r][0], n_from);
            size_t len = hit != NULL ? (size_t) (hit - (b->s + in)) : b->n - in;
            memmove(b->s + out, b->s + in, len);
            in += len;
            out += len;
            if (hit != NULL) {
                memcpy(b->s + out, rule[r][1], n_to);
                in += n_from;
                out += n_to;
            }
        }
        b->n = out;
    }
}

llm_code_t
llm_tok_decode(const llm_tok_t *t, const int32_t *ids, size_t n, bool skip_special, char **out,
               size_t *len, llm_err_t *err)
{
    llm_buf_t b = { 0 };
    bool ok = false;
    switch (t->dec.kind) {
    case LLM_DEC_BYTE_LEVEL:
        ok = decode_byte_level(t, ids, n, skip_special, &b);
        break;
    case LLM_DEC_PIECES:
        ok = decode_pieces(t, ids, n, skip_special, &b);
        break;
    case LLM_DEC_METASPACE:
        ok = decode_metaspace(t, ids, n, skip_special, &b);
        break;
    }
    if (ok && t->dec.clean_up) {
        clean_up(&b);
    }
    if (!ok || !llm_buf_add(&b, "", 1)) {
        free(b.s);
        *out = NULL;
        *len = 0;
        return llm_fail(err, LLM_E_NOMEM, "no memory to decode %zu tokens", n);
    }
    *out = (char *) b.s;
    *len = b.n - 1;
    return LLM_OK;
}
