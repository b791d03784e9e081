/*
 * unicode.h - UTF-8 and the few character properties that tokenizers ask for.
 *
 * One read-only table holds the properties of every code point (two levels: 256-entry pages, equal
 * pages stored once). It is built from utf8proc by llm_unicode_init, which everything that opens a
 * tokenizer calls; before a fork it is shared.
 */
#ifndef LLM_UNICODE_H
#define LLM_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    LLM_UC_LETTER = 1,      /* category L */
    LLM_UC_NUMBER = 2,      /* Nd, Nl, No */
    LLM_UC_SPACE = 4,       /* White_Space */
    LLM_UC_PUNCT = 8,       /* category P, and the ASCII punctuation that is S */
    LLM_UC_WORD = 16,       /* \w: Alphabetic (by category), M, Nd, Pc, joiners */
    LLM_UC_NEWLINE = 32,    /* \r \n */
    LLM_UC_BLOOM_STOP = 64, /* what BLOOM's splitter leaves out: white space ( ) | . , ! ? and some
                               of other scripts */
    LLM_UC_NFC_PLAIN = 256, /* NFC leaves it alone and it composes with nothing in front of it */
    LLM_UC_NFKC_PLAIN = 512
};

#define LLM_UC_MAX 0x110000u
#define LLM_REPLACEMENT 0xfffdu

/* Filled by llm_unicode_init; use llm_uc_class. */
extern uint16_t *llm_uc_pages;
extern uint16_t  llm_uc_index[LLM_UC_MAX >> 8];

/* Builds the table once. Thread: any. False when memory ran out (the next call tries again). */
bool llm_unicode_init(void);

/* Flags of a code point < LLM_UC_MAX. */
static inline unsigned
llm_uc_class(uint32_t cp)
{
    return llm_uc_pages[((uint32_t) llm_uc_index[cp >> 8] << 8) | (cp & 0xff)];
}

/* Length of the sequence that starts with this lead byte of valid UTF-8. */
static inline unsigned
llm_utf8_len(uint8_t lead)
{
    return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

/* Decodes one character of valid UTF-8. */
static inline uint32_t
llm_utf8_get(const uint8_t *s, unsigned *len)
{
    uint32_t c = s[0];
    if (c < 0x80) {
        *len = 1;
        return c;
    }
    if (c < 0xe0) {
        *len = 2;
        return (c & 0x1f) << 6 | (s[1] & 0x3fu);
    }
    if (c < 0xf0) {
        *len = 3;
        return (c & 0x0f) << 12 | (s[1] & 0x3fu) << 6 | (s[2] & 0x3fu);
    }
    *len = 4;
    return (c & 0x07) << 18 | (s[1] & 0x3fu) << 12 | (s[2] & 0x3fu) << 6 | (s[3] & 0x3fu);
}

/* Writes 1 to 4 bytes and returns their number; cp is a scalar value. */
unsigned llm_utf8_put(uint8_t *out, uint32_t cp);

/* Number of leading bytes of s that are valid UTF-8 and end at a character border. */
size_t llm_utf8_valid(const uint8_t *s, size_t n);

/*
 * For s that does not start with a valid character (n > 0): the length of the maximal subpart that
 * one U+FFFD replaces (Unicode 3.9, 1 to 3). *cut is set when the bytes end inside a sequence that
 * more bytes could complete.
 */
unsigned llm_utf8_bad(const uint8_t *s, size_t n, bool *cut);

/* General category as two letters ("Lu"); static storage. */
const char *llm_uc_category(uint32_t cp);

/* Canonical combining class. */
unsigned llm_uc_ccc(uint32_t cp);

/*
 * Full canonical (compat: compatibility) decomposition of one code point into out; returns the
 * count, at most LLM_UC_MAX_DECOMP.
 */
#define LLM_UC_MAX_DECOMP 32
unsigned llm_uc_decompose(uint32_t cp, bool compat, int32_t *out);

/* The primary composite of a and b, or 0. */
uint32_t llm_uc_compose(uint32_t a, uint32_t b);

/* Simple lower case of one code point. */
uint32_t llm_uc_lower(uint32_t cp);

/* True when an extended grapheme cluster ends between a and b. *state is 0 at the start of a
 * cluster. */
bool llm_uc_grapheme_break(uint32_t a, uint32_t b, int *state);

#endif
