/*
 * tok.c - what one asks a tokenizer about its tokens.
 */
#include "text/tok.h"

#include "text/tok_impl.h"

#include <stdlib.h>
#include <string.h>

uint32_t
llm_tok_n_vocab(const llm_tok_t *t)
{
    return t->n_vocab;
}

int32_t
llm_tok_bos(const llm_tok_t *t)
{
    return t->bos;
}

int32_t
llm_tok_eos(const llm_tok_t *t)
{
    return t->eos;
}

bool
llm_tok_adds_bos(const llm_tok_t *t)
{
    return t->bos >= 0 && t->n_pre > 0 && t->pre_id[0] == t->bos;
}

static bool
has_flag(const llm_tok_t *t, int32_t id, unsigned flag)
{
    return id >= 0 && (uint32_t) id < t->n_vocab && (t->flags[id] & flag);
}

bool
llm_tok_is_eos(const llm_tok_t *t, int32_t id)
{
    return has_flag(t, id, LLM_TF_EOG);
}

bool
llm_tok_is_special(const llm_tok_t *t, int32_t id)
{
    return has_flag(t, id, LLM_TF_SPECIAL);
}

int32_t
llm_tok_find(const llm_tok_t *t, const char *text, size_t len)
{
    const uint8_t *s = (const uint8_t *) text;
    if (t->by_text.slot != NULL) {
        return llm_shash_get(&t->by_text, llm_hash_bytes(t->seed, s, len), &t->text, s, len);
    }
    for (uint32_t id = t->n_vocab; id-- > 0;) {     /* of tokens with one text the last */
        size_t n;
        const uint8_t *other = llm_strs_get(&t->text, id, &n);
        if (n == len && (t->flags[id] & LLM_TF_EXISTS) && memcmp(other, s, n) == 0) {
            return (int32_t) id;
        }
    }
    return -1;
}

const char *
llm_tok_name(const llm_tok_t *t, int32_t id, size_t *len)
{
    *len = 0;
    bool there = has_flag(t, id, LLM_TF_EXISTS);
    return there ? (const char *) llm_strs_get(&t->text, (uint32_t) id, len) : NULL;
}

const uint8_t *
llm_tok_raw(const llm_tok_t *t, int32_t id, size_t *len)
{
    if (!has_flag(t, id, LLM_TF_EXISTS)) {
        *len = 0;
        return NULL;
    }
    return llm_tok_bytes(t, id, len);
}

size_t
llm_tok_text(const llm_tok_t *t, int32_t id, char *buf, size_t cap)
{
    char *text;
    size_t len;
    if (llm_tok_decode(t, &id, 1, false, &text, &len, NULL) != LLM_OK) {
        return 0;
    }
    if (len > cap) {
        len = cap;
        while (len > 0 && ((uint8_t) text[len] & 0xc0) == 0x80) {   /* cut between characters */
            len--;
        }
    }
    memcpy(buf, text, len);
    free(text);
    return len;
}
