/*
 * build.c - makes a tokenizer ready for use, whichever file it came from: alphabets, hashes, tries,
 * derived flags.
 */
#include "text/tok_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------ GPT-2's alphabet */

static bool
prints_itself(unsigned b)
{
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
}

/* The 68 other bytes take U+0100 ... in their order. */
uint32_t
llm_byte_to_char(uint8_t b)
{
    if (prints_itself(b)) {
        return b;
    }
    uint32_t c = 0x100;
    for (unsigned i = 0; i < b; i++) {
        c += !prints_itself(i);
    }
    return c;
}

int
llm_char_to_byte(uint32_t cp)
{
    if (cp < 0x100) {
        return prints_itself(cp) ? (int) cp : -1;
    }
    for (unsigned b = 0; b < 256 && cp < 0x144; b++) {
        if (!prints_itself(b) && cp-- == 0x100) {
            return (int) b;
        }
    }
    return -1;
}

/* ------------------------------------------------------------- life cycle */

llm_code_t
llm_tok_new(llm_tok_t **out, uint32_t n_vocab, llm_err_t *err)
{
    *out = NULL;
    if (!llm_unicode_init()) {
        return llm_fail(err, LLM_E_NOMEM, "no memory for character tables");
    }
    llm_tok_t *t = calloc(1, sizeof(*t));
    if (t == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "no memory for a tokenizer");
    }
    t->n_vocab = n_vocab;
    t->seed = llm_hash_seed();
    t->unk_id = t->bos = t->eos = -1;
    memset(t->byte_id, 0xff, sizeof(t->byte_id));
    memset(t->ascii_id, 0xff, sizeof(t->ascii_id));
    t->flags = calloc(n_vocab, 1);
    t->added_at = malloc((size_t) n_vocab * sizeof(*t->added_at));
    if (t->flags == NULL || t->added_at == NULL || !llm_strs_init(&t->text, n_vocab)
        || !llm_strs_init(&t->key, n_vocab) || !llm_strs_init(&t->out, n_vocab)
        || !llm_shash_init(&t->by_text, n_vocab) || !llm_shash_init(&t->by_key, n_vocab)) {
        llm_tok_free(t);
        return llm_fail(err, LLM_E_NOMEM, "no memory for a vocabulary of %u tokens", n_vocab);
    }
    memset(t->added_at, 0xff, (size_t) n_vocab * sizeof(*t->added_at));
    *out = t;
    return LLM_OK;
}

void
llm_tok_free(llm_tok_t *t)
{
    if (t == NULL) {
        return;
    }
    for (uint32_t i = 0; i < t->n_added; i++) {
        free(t->added[i].text);
    }
    free(t->added);
    free(t->added_at);
    llm_strs_free(&t->text);
    llm_strs_free(&t->key);
    llm_strs_free(&t->out);
    free(t->flags);
    free(t->by_text.slot);
    free(t->by_key.slot);
    free(t->pairs.slot);
    llm_trie_free(&t->trie);
    llm_trie_free(&t->raw_trie);
    llm_trie_free(&t->norm_trie);
    free(t->score);
    free(t->charsmap.unit);
    free(t->charsmap.text);
    free(t);
}

/* --------------------------------------------------------------- alphabets */

/* The bytes that s stands for in the byte alphabet; false when a character is outside it. */
static bool
unmap(const uint8_t *s, size_t n, llm_buf_t *b, bool *fits)
{
    b->n = 0;
    *fits = llm_utf8_valid(s, n) == n;
    for (size_t i = 0; *fits && i < n;) {
        unsigned len;
        int byte = llm_char_to_byte(llm_utf8_get(s + i, &len));
        uint8_t c = (uint8_t) byte;
        *fits = byte >= 0;
        if (*fits && !llm_buf_add(b, &c, 1)) {
            return false;
        }
        i += len;
    }
    return true;
}

/* s with every U+2581 as a space. *spaced: s has real spaces of its own. */
static bool
unmark(const uint8_t *s, size_t n, llm_buf_t *b, bool *spaced)
{
    b->n = 0;
    *spaced = false;
    for (size_t i = 0; i < n;) {
        bool mark = n - i >= 3 && memcmp(s + i, LLM_SPACE_MARK, 3) == 0;
        *spaced |= s[i] == ' ';
        if (!llm_buf_add(b, mark ? (const void *) " " : s + i, 1)) {
            return false;
        }
        i += mark ? 3 : 1;
    }
    return true;
}

static bool
index_byte_level(llm_tok_t *t, uint32_t id, bool raw_specials, llm_buf_t *b)
{
    size_t n;
    const uint8_t *s = llm_strs_get(&t->text, id, &n);
    bool model = t->flags[id] & LLM_TF_MODEL, fits;
    if (!unmap(s, n, b, &fits)) {
        return false;
    }
    if (!fits || (raw_specials && !model)) {
        return llm_strs_add(&t->key, t->n_vocab, "", 0) && llm_strs_add(&t->out, t->n_vocab, s, n);
    }
    return llm_strs_add(&t->key, t->n_vocab, b->s, model ? b->n : 0)
           && llm_strs_add(&t->out, t->n_vocab, b->s, b->n);
}

static bool
index_text(llm_tok_t *t, uint32_t id, llm_buf_t *b)
{
    size_t n, tail;
    const uint8_t *s = llm_strs_get(&t->text, id, &n);
    if (t->flags[id] & LLM_TF_BYTE) {
        static const char hex[] = "0123456789ABCDEF";
        uint8_t byte = 0;
        for (unsigned i = 3; i < 5; i++) {      /* <0xHH>: checked when the flag was set */
            uint8_t c = s[i] >= 'a' ? (uint8_t) (s[i] - 32) : s[i];
            byte = (uint8_t) (byte << 4 | (strchr(hex, c) - hex));
        }
        return llm_strs_add(&t->key, t->n_vocab, "", 0)
               && llm_strs_add(&t->out, t->n_vocab, &byte, 1);
    }
    bool spaced;
    if (!unmark(s, n, b, &spaced)) {
        return false;
    }
    bool key = (t->flags[id] & LLM_TF_MODEL) && !(t->spaces && spaced);
    if (!llm_strs_add(&t->key, t->n_vocab, t->spaces ? b->s : s, !key ? 0 : t->spaces ? b->n : n)) {
        return false;
    }
    if (llm_utf8_valid(b->s, b->n) == b->n) {
        return llm_strs_add(&t->out, t->n_vocab, b->s, b->n);
    }
    llm_buf_t fixed = { 0 };
    bool ok = llm_buf_add_lossy(&fixed, b->s, b->n, &tail)
              && (tail == 0 || llm_buf_add(&fixed, "\xef\xbf\xbd", 3))
              && llm_strs_add(&t->out, t->n_vocab, fixed.s, fixed.n);
    free(fixed.s);
    return ok;
}

llm_code_t
llm_tok_index(llm_tok_t *t, bool raw_specials, const char *where, llm_err_t *err)
{
    llm_buf_t b = { 0 };
    bool ok = true;
    for (uint32_t id = 0; ok && id < t->n_vocab; id++) {
        ok = t->byte_level ? index_byte_level(t, id, raw_specials, &b) : index_text(t, id, &b);
        if (ok && (t->flags[id] & LLM_TF_EXISTS)) {
            llm_shash_put(&t->by_text, t->seed, &t->text, id);
            if (t->key.at[id + 1] > t->key.at[id]) {
                llm_shash_put(&t->by_key, t->seed, &t->key, id);
            }
        }
    }
    free(b.s);
    llm_strs_fit(&t->text);
    llm_strs_fit(&t->key);
    llm_strs_fit(&t->out);
    return ok ? LLM_OK
              : llm_fail(err, LLM_E_NOMEM, "%s: no memory for a vocabulary of %u tokens", where,
                         t->n_vocab);
}

/* ------------------------------------------------------------ added tokens */

llm_code_t
llm_tok_add(llm_tok_t *t, const llm_added_t *a, const char *where, llm_err_t *err)
{
    if (a->len == 0) {
        return LLM_OK;
    }
    if (a->len > LLM_TOK_MAX_ADDED) {
        return llm_fail(err, LLM_E_FORMAT,
                        "%s: added token %d has %u bytes, at most %d are allowed", where, a->id,
                        a->len, LLM_TOK_MAX_ADDED);
    }
    int32_t at = t->added_at[a->id];
    if (at < 0) {
        if (t->n_added == t->cap_added) {
            uint32_t cap = t->cap_added * 2 + 32;
            llm_added_t *p = realloc(t->added, cap * sizeof(*p));
            if (p == NULL) {
                return llm_fail(err, LLM_E_NOMEM, "%s: no memory for added tokens", where);
            }
            t->added = p;
            t->cap_added = cap;
        }
        char *text = malloc(a->len);
        if (text == NULL) {
            return llm_fail(err, LLM_E_NOMEM, "%s: no memory for added tokens", where);
        }
        memcpy(text, a->text, a->len);
        at = (int32_t) t->n_added++;
        t->added[at] = *a;
        t->added[at].text = text;
        t->added_at[a->id] = at;
    } else {
        char *text = t->added[at].text;
        if (t->added[at].len != a->len || memcmp(text, a->text, a->len) != 0) {
            return llm_fail(err, LLM_E_FORMAT,
                            "%s: id %d belongs to two added tokens, \"%.*s\" and \"%.*s\"", where,
                            a->id, (int) t->added[at].len, text, (int) a->len, a->text);
        }
        t->added[at] = *a;
        t->added[at].text = text;
    }
    t->flags[a->id] |= (uint8_t) (LLM_TF_ADDED | (a->special ? LLM_TF_SPECIAL : 0));
    return LLM_OK;
}

/* What an added token is matched by: a `normalized` one is normalised itself. */
static llm_code_t
added_pattern(llm_enc_t *e, const llm_added_t *a, const uint8_t **s, size_t *n)
{
    size_t from = 0, to = a->len;
    e->s = (const uint8_t *) a->text;
    e->n = a->len;
    e->n_map = 0;
    if (a->normalized) {
        llm_code_t rc = llm_enc_normalize(e, &from, &to);
        if (rc != LLM_OK) {
            return rc;
        }
    }
    *s = e->s + from;
    *n = to - from;
    return LLM_OK;
}

static llm_code_t
build_added(llm_tok_t *t, const char *where, llm_err_t *err)
{
    llm_enc_t e;
    memset(&e, 0, sizeof(e));
    e.t = t;
    e.err = err;
    size_t total[2] = { 0, 0 };
    llm_code_t rc = LLM_OK;
    for (unsigned pass = 0; rc == LLM_OK && pass < 2; pass++) {
        for (uint32_t i = 0; rc == LLM_OK && i < t->n_added; i++) {
            const llm_added_t *a = &t->added[i];
            const uint8_t *s;
            size_t n;
            /* bytes that are not UTF-8 cannot occur in a text that was made valid */
            if (llm_utf8_valid((const uint8_t *) a->text, a->len) != a->len) {
                continue;
            }
            rc = added_pattern(&e, a, &s, &n);
            if (rc == LLM_OK && n > 0 && pass == 0) {
                total[a->normalized] += n;
            } else if (rc == LLM_OK && n > 0) {
                llm_trie_put(a->normalized ? &t->norm_trie : &t->raw_trie, s, n, (int32_t) i);
            }
        }
        for (unsigned k = 0; rc == LLM_OK && pass == 0 && k < 2; k++) {
            if (total[k] > LLM_TRIE_MAX_BYTES) {
                rc = llm_fail(err, LLM_E_FORMAT,
                              "%s: added tokens of %zu bytes together, at most %u are allowed",
                              where, total[k], LLM_TRIE_MAX_BYTES);
            } else if (total[k] > 0
                       && !llm_trie_init(k ? &t->norm_trie : &t->raw_trie, total[k], t->seed)) {
                rc = llm_fail(err, LLM_E_NOMEM, "%s: no memory for added tokens", where);
            }
        }
    }
    llm_enc_free(&e);
    return rc;
}

/* ----------------------------------------------------------------- merges */

static llm_code_t
no_such_token(uint32_t rank, const char *s, size_t n, const char *where, llm_err_t *err)
{
    return llm_fail(err, LLM_E_FORMAT, "%s: merge %u needs \"%.*s\", which is not a token", where,
                    rank, (int) (n < 64 ? n : 64), s);
}

llm_code_t
llm_tok_merge(llm_tok_t *t, uint32_t rank, const char *a, size_t n_a, const char *b, size_t n_b,
              llm_buf_t *scratch, const char *where, llm_err_t *err)
{
    scratch->n = 0;
    if (!llm_buf_add(scratch, a, n_a) || !llm_buf_add(scratch, b, n_b)) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for merges", where);
    }
    const char *ab = (const char *) scratch->s;
    int32_t ia = llm_tok_find(t, a, n_a), ib = llm_tok_find(t, b, n_b),
            iab = llm_tok_find(t, ab, scratch->n);
    if (ia < 0 || n_a == 0) {
        return no_such_token(rank, a, n_a, where, err);
    }
    if (ib < 0 || n_b == 0) {
        return no_such_token(rank, b, n_b, where, err);
    }
    if (iab < 0) {
        return no_such_token(rank, ab, scratch->n, where, err);
    }
    if (!llm_pairs_put(&t->pairs,
                       (llm_merge_t) { (uint32_t) ia, (uint32_t) ib, rank, (uint32_t) iab })) {
        return llm_fail(err, LLM_E_FORMAT, "%s: merge %u, \"%.*s\" with \"%.*s\", is listed twice",
                        where, rank, (int) (n_a < 64 ? n_a : 64), a, (int) (n_b < 64 ? n_b : 64),
                        b);
    }
    return LLM_OK;
}

/* ----------------------------------------------------------------- finish */

static void
build_tables(llm_tok_t *t)
{
    for (unsigned c = 0; c < 256; c++) {
        uint8_t b = (uint8_t) c;
        char name[8];
        int32_t id = llm_shash_get(&t->by_key, llm_hash_bytes(t->seed, &b, 1), &t->key, &b, 1);
        if (c < 128) {
            t->ascii_id[c] = id;
        }
        if (t->byte_level) {
            t->byte_id[c] = id;
        } else if (t->byte_fallback) {
            snprintf(name, sizeof(name), "<0x%02X>", c);
            t->byte_id[c] = llm_tok_find(t, name, 6);
        }
        t->mapped_class[c] = (uint16_t) llm_uc_class(llm_byte_to_char(b));
    }
}

/* Words can be merged one by one when no merge joins a non-space to a space after it. */
static bool
can_split_words(const llm_tok_t *t)
{
    if (t->model != LLM_TOK_BPE || !t->spaces || t->ascii_id[' '] < 0) {
        return false;
    }
    for (uint32_t i = 0; t->pairs.slot != NULL && i <= t->pairs.mask; i++) {
        const llm_merge_t *m = &t->pairs.slot[i];
        if (m->a == UINT32_MAX) {
            continue;
        }
        size_t na, nb;
        const uint8_t *a = llm_strs_get(&t->key, m->a, &na), *b = llm_strs_get(&t->key, m->b, &nb);
        if (na == 0 || nb == 0 || (a[na - 1] != ' ' && b[0] == ' ')) {
            return false;
        }
    }
    return true;
}

static void
mark_whole(llm_tok_t *t)
{
    llm_enc_t e;
    memset(&e, 0, sizeof(e));
    e.t = t;
    for (uint32_t id = 0; id < t->n_vocab; id++) {
        if (t->key.at[id + 1] > t->key.at[id]
            && (t->ignore_merges || llm_bpe_rebuilds(&e, (int32_t) id))) {
            t->flags[id] |= LLM_TF_WHOLE;
        }
    }
    llm_enc_free(&e);
}

static llm_code_t
build_unigram(llm_tok_t *t, const char *where, llm_err_t *err)
{
    if (t->key.at[t->n_vocab] > LLM_TRIE_MAX_BYTES) {
        return llm_fail(err, LLM_E_FORMAT, "%s: vocabulary of %u bytes, at most %u are allowed",
                        where, t->key.at[t->n_vocab], LLM_TRIE_MAX_BYTES);
    }
    if (!llm_trie_init(&t->trie, t->key.at[t->n_vocab], t->seed)) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for a vocabulary of %u tokens", where,
                        t->n_vocab);
    }
    for (uint32_t id = 0; id < t->n_vocab; id++) {
        size_t n;
        const uint8_t *s = llm_strs_get(&t->key, id, &n);
        if (n > LLM_TOK_MAX_PIECE) {
            return llm_fail(err, LLM_E_FORMAT, "%s: token %u has %zu bytes, at most %d are allowed",
                            where, id, n, LLM_TOK_MAX_PIECE);
        }
        /* a token that is not UTF-8 cannot occur, and must not be found inside a character */
        if (n > 0 && llm_utf8_valid(s, n) == n) {
            llm_trie_put(&t->trie, s, n, (int32_t) id);
        }
    }
    return LLM_OK;
}

llm_code_t
llm_tok_finish(llm_tok_t *t, const char *where, llm_err_t *err)
{
    llm_code_t rc = build_added(t, where, err);
    if (rc != LLM_OK) {
        return rc;
    }
    build_tables(t);
    free(t->by_text.slot);
    free(t->added_at);
    t->by_text.slot = NULL;
    t->added_at = NULL;
    if (t->model == LLM_TOK_UNIGRAM) {
        return build_unigram(t, where, err);
    }
    if (t->pairs.slot == NULL && !llm_pairs_init(&t->pairs, 0, t->seed)) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for merges", where);
    }
    t->split_words = can_split_words(t);
    mark_whole(t);
    return LLM_OK;
}

void
llm_tok_mark_eog(llm_tok_t *t)
{
    static const char *const names[] = {
        "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>",
        "<end_of_turn>", "<|end|>", "</s>", "<eos>", "<|eot|>", "<|end_of_turn|>", "<|endofturn|>",
        "<|return|>", "<EOT>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        int32_t id = llm_tok_find(t, names[i], strlen(names[i]));
        if (id >= 0 && (t->flags[id] & LLM_TF_SPECIAL)) {
            t->flags[id] |= LLM_TF_EOG;
        }
    }
    if (t->eos >= 0) {
        t->flags[t->eos] |= LLM_TF_EOG;
    }
}
