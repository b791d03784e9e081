/*
 * detok.c - ids to text one by one, for streams (spec models.md 8.5).
 *
 * What comes out is what decoding everything gives, in pieces that end at character borders: text
 * is held back while it ends in U+FFFD or in a sequence that more bytes could complete. The state
 * is a few bytes, so a token costs the same however long the text is:
 *
 *   out   decoded text not yet handed out
 *   tail  byte-level: the beginning of a character (at most 3 bytes);
 *         pieces: byte tokens in a row that are not yet text
 *
 * A run of byte tokens is text only if all of it is valid UTF-8 (decode.c). Once a valid beginning
 * of a run was handed out it stays; the rest is judged on its own. At most LLM_TOK_HOLD_BYTES are
 * held: a model that writes nothing but broken characters gets them handed out then.
 */
#include "model/model.h"
#include "text/tok_impl.h"

#include <stdlib.h>
#include <string.h>

struct llm_detok {
    const llm_tok_t *t;
    bool      skip_special;
    bool      first;            /* METASPACE: no token yet */
    bool      run_bad;          /* PIECES: the run has bytes that are not UTF-8, each is U+FFFD */
    uint32_t  strip_left;       /* PIECES: leading characters that may still be dropped */
    llm_buf_t out, tail, given;
};

llm_code_t
llm_detok_new(llm_detok_t **out, const llm_model_t *m, unsigned flags, llm_err_t *err)
{
    return llm_detok_new_tok(out, m->tok, flags, err);
}

llm_code_t
llm_detok_new_tok(llm_detok_t **out, const llm_tok_t *t, unsigned flags, llm_err_t *err)
{
    llm_detok_t *d = calloc(1, sizeof(*d));
    *out = d;
    if (d == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "no memory for a detokenizer");
    }
    d->t = t;
    d->skip_special = flags & LLM_DETOK_SKIP_SPECIAL;
    d->first = t->dec.strip_marks;
    d->strip_left = t->dec.strip_left;
    return LLM_OK;
}

void
llm_detok_free(llm_detok_t *d)
{
    if (d != NULL) {
        free(d->out.s);
        free(d->tail.s);
        free(d->given.s);
        free(d);
    }
}

static bool
add_text(llm_detok_t *d, const uint8_t *s, size_t n)
{
    while (d->strip_left > 0 && n > 0) {
        if (*s != d->t->dec.strip_char) {
            d->strip_left = 0;
            break;
        }
        d->strip_left--;
        s++;
        n--;
    }
    return llm_buf_add(&d->out, s, n);
}

static bool
add_bad(llm_detok_t *d, size_t n)
{
    bool ok = true;
    while (ok && n-- > 0) {
        ok = add_text(d, (const uint8_t *) "\xef\xbf\xbd", 3);
    }
    return ok;
}

/* ------------------------------------------------------------ byte-level */

static bool
push_bytes(llm_detok_t *d, const uint8_t *s, size_t n)
{
    size_t tail;
    if (d->tail.n == 0) {
        return llm_buf_add_lossy(&d->out, s, n, &tail) && llm_buf_add(&d->tail, s + n - tail, tail);
    }
    if (!llm_buf_add(&d->tail, s, n) || !llm_buf_add_lossy(&d->out, d->tail.s, d->tail.n, &tail)) {
        return false;
    }
    memmove(d->tail.s, d->tail.s + d->tail.n - tail, tail);
    d->tail.n = tail;
    return true;
}

/* ---------------------------------------------------------------- pieces */

/* One more byte of a run of byte tokens. */
static bool
push_run(llm_detok_t *d, uint8_t byte)
{
    if (!llm_buf_add(&d->tail, &byte, 1)) {
        return false;
    }
    if (!d->run_bad) {
        size_t good = llm_utf8_valid(d->tail.s, d->tail.n);
        bool cut = true;
        if (good == d->tail.n) {
            /* whole characters; only U+FFFD itself goes on being held */
            if (good >= 3 && memcmp(d->tail.s + good - 3, "\xef\xbf\xbd", 3) == 0) {
                return true;
            }
            bool ok = add_text(d, d->tail.s, good);
            d->tail.n = 0;
            return ok;
        }
        llm_utf8_bad(d->tail.s + good, d->tail.n - good, &cut);
        d->run_bad = !cut;
    }
    return true;
}

static bool
end_run(llm_detok_t *d)
{
    bool ok;
    if (!d->run_bad && llm_utf8_valid(d->tail.s, d->tail.n) == d->tail.n) {
        ok = d->tail.n == 0 || add_text(d, d->tail.s, d->tail.n);
    } else {
        ok = add_bad(d, d->tail.n);
    }
    d->tail.n = 0;
    d->run_bad = false;
    return ok;
}

/* A run that is too long to be held is settled as it stands. */
static bool
settle_run(llm_detok_t *d)
{
    if (d->tail.n < LLM_TOK_HOLD_BYTES) {
        return true;
    }
    bool bad = d->run_bad, ok = end_run(d);
    d->run_bad = bad;
    return ok;
}

/* ------------------------------------------------------------------ tokens */

static bool
feed(llm_detok_t *d, int32_t id)
{
    const llm_tok_t *t = d->t;
    if (llm_dec_skips(t, id, d->skip_special)) {
        return true;
    }
    size_t n;
    const uint8_t *s = llm_tok_bytes(t, id, &n);
    switch (t->dec.kind) {
    case LLM_DEC_BYTE_LEVEL:
        return push_bytes(d, s, n);
    case LLM_DEC_PIECES:
        if (t->flags[id] & LLM_TF_BYTE) {
            return push_run(d, s[0]) && settle_run(d);
        }
        return end_run(d) && add_text(d, s, n);
    case LLM_DEC_METASPACE:
        if (d->first) {
            d->first = false;
            s = llm_strs_get(&t->text, (uint32_t) id, &n);
            return llm_buf_add_unmarked(&d->out, s, n);
        }
        return llm_buf_add(&d->out, s, n);
    }
    return false;
}

/* Moves everything in `out` to `given`. */
static void
hand_out(llm_detok_t *d, const char **text, size_t *len)
{
    llm_buf_t b = d->given;
    d->given = d->out;
    d->out = b;
    d->out.n = 0;
    *text = d->given.s != NULL ? (const char *) d->given.s : "";
    *len = d->given.n;
}

static llm_code_t
no_memory(const char **text, size_t *len, llm_err_t *err)
{
    *text = "";
    *len = 0;
    return llm_fail(err, LLM_E_NOMEM, "no memory to decode a token");
}

llm_code_t
llm_detok_prime(llm_detok_t *d, const int32_t *ids, size_t n, llm_err_t *err)
{
    for (size_t i = 0; i < n; i++) {
        if (!feed(d, ids[i])) {
            return llm_fail(err, LLM_E_NOMEM, "no memory to decode a token");
        }
        d->out.n = 0;
    }
    return LLM_OK;
}

llm_code_t
llm_detok_push(llm_detok_t *d, int32_t id, const char **text, size_t *len, llm_err_t *err)
{
    if (!feed(d, id)) {
        return no_memory(text, len, err);
    }
    const llm_buf_t *o = &d->out;
    bool open = d->tail.n > 0 || (o->n >= 3 && memcmp(o->s + o->n - 3, "\xef\xbf\xbd", 3) == 0);
    if (o->n == 0 || (open && o->n < LLM_TOK_HOLD_BYTES)) {
        *text = "";
        *len = 0;
        return LLM_OK;
    }
    hand_out(d, text, len);
    return LLM_OK;
}

llm_code_t
llm_detok_flush(llm_detok_t *d, const char **text, size_t *len, llm_err_t *err)
{
    bool ok = true;
    if (d->t->dec.kind == LLM_DEC_PIECES) {
        ok = end_run(d);
    } else if (d->tail.n > 0) {
        ok = add_bad(d, 1);     /* the beginning of one character */
        d->tail.n = 0;
    }
    if (!ok) {
        return no_memory(text, len, err);
    }
    hand_out(d, text, len);
    return LLM_OK;
}
