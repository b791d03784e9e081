/*
 * grammar.h - constrained output: a text that must match a regular expression, a JSON schema or a
 * GBNF grammar, or that may call functions.
 *
 *   text --llm_grammar_compile--> llm_grammar_t     a block without pointers: may be copied, cached
 *                                                   by its id, read by another process
 *   tokenizer --llm_gvocab_new--> llm_gvocab_t      trie of the bytes of all tokens
 *   llm_grammar_start, _advance, _token             state of one output: plain data, copied by
 *                                                   assignment
 *   llm_grammar_mask                                which tokens may come next: a bit for each id
 *
 * The promise: as long as only tokens of the mask are chosen, the text is the beginning of a valid
 * one; an end token is in the mask only when the text is complete, and a complete text can always
 * be reached. What the compiler cannot express is refused by name, never loosened. Limits that
 * narrow (docs/grammar.md): calls nest at most LLM_GRAMMAR_DEPTH deep, and of more than
 * LLM_GRAMMAR_HEADS ways to read an ambiguous text the first ones are kept.
 */
#ifndef LLM_GRAMMAR_H
#define LLM_GRAMMAR_H

#include "text/tok.h"

#define LLM_GRAMMAR_DEPTH 64            /* open calls of rules: nesting of recursive values */
#define LLM_GRAMMAR_HEADS 16 /* readings of the text that are followed at the same time */
#define LLM_GRAMMAR_FRAMES 160          /* open calls of all readings together */
#define LLM_GRAMMAR_MAX_TEXT (1u << 20) /* bytes of a grammar's text */
#define LLM_GRAMMAR_MAX_BYTES (8u << 20) /* of a compiled grammar */

typedef struct llm_grammar llm_grammar_t;
typedef struct llm_gvocab llm_gvocab_t;
typedef struct llm_gmask llm_gmask_t;

typedef enum {
    LLM_GRAMMAR_REGEX,          /* the whole output matches */
    LLM_GRAMMAR_JSON_SCHEMA,    /* JSON text of a schema */
    LLM_GRAMMAR_JSON_OBJECT,    /* any JSON object; no text */
    LLM_GRAMMAR_GBNF,           /* rules; the first is "root" or the one of that name */
    /*
     * Free text and calls of functions; text is a JSON object:
     *
     *   {"free": bool, "trigger": str, "open": str, "items": [{"prefix": str, "schema": {...},
     *    "suffix": str}, ...], "join": str, "close": str, "repeat": bool, "min": 0 | 1,
     *    "preamble_end": str | null}
     *
     *   output = [preamble] [text] [group]          repeat: [preamble] (text group)* [text]
     *   preamble = any text up to and with its first "preamble_end"; it must be there
     *   text     = any text without "trigger"; none unless "free"
     *   group    = open item close                  repeat: open item (join item)* close
     *   item     = prefix, JSON text of the schema, suffix of one of "items"
     *
     * There is a group at least if "min" is 1; without "free" there is one at most. "trigger" is
     * the beginning of open and each prefix together. Where a string contains the text of a special
     * token of the vocabulary, the token may be used to write it; nowhere else may special tokens
     * be.
     */
    LLM_GRAMMAR_CALLS
} llm_grammar_kind_t;

typedef struct {
    llm_grammar_kind_t  kind;
    const char         *text;   /* UTF-8, borrowed */
    size_t              len;
    const llm_gvocab_t *vocab;  /* bytes that the model can write; NULL: all */
    /* keys the id of the grammar, so that nobody can construct two with one id */
    uint64_t            secret[2];
} llm_grammar_conf_t;

/* ------------------------------------------------------------- compiling */

/*
 * Compiles to a block of *bytes bytes, which the caller frees with free(). Time and memory are
 * bounded by counted work: about 0.3 s and 64 MiB at most, for hostile input too. Errors: ARG
 * "grammar is not valid: <keyword and reason, or: too complex>"; NOMEM. *out is NULL then. Thread:
 * any, concurrently too.
 */
llm_code_t llm_grammar_compile(llm_grammar_t **out, size_t *bytes, const llm_grammar_conf_t *conf,
                               llm_err_t *err);

/* Cache key of a compilation without doing it: what llm_grammar_id of the result will be. */
void llm_grammar_key(const llm_grammar_conf_t *conf, uint64_t id[2]);
void llm_grammar_id(const llm_grammar_t *g, uint64_t id[2]);
size_t llm_grammar_bytes(const llm_grammar_t *g);

/*
 * Whether the block is a whole compiled grammar of this version whose references stay inside;
 * 8-byte aligned. O(bytes).
 */
bool llm_grammar_check(const void *block, size_t bytes);

/* ----------------------------------------------------------------- state */

typedef struct { uint32_t state, count, frame; } llm_ghead_t;
typedef struct { uint16_t parent, depth; uint32_t ret, count; } llm_gframe_t;

/*
 * One output. Plain data without pointers; valid for the grammar (by id) that it was started with.
 */
typedef struct {
    uint16_t     n_heads, n_frames;
    uint32_t     ended;                         /* an end token was taken */
    llm_ghead_t  heads[LLM_GRAMMAR_HEADS];
    llm_gframe_t frames[LLM_GRAMMAR_FRAMES];    /* frame 0: the bottom */
} llm_grammar_state_t;

/* The state of an empty output. */
void llm_grammar_start(const llm_grammar_t *g, llm_grammar_state_t *s);

/* Takes n bytes of output. False when they do not fit: *s is unchanged then. No allocation. */
bool llm_grammar_advance(const llm_grammar_t *g, llm_grammar_state_t *s, const void *bytes,
                         size_t n);

/* The output may end here. */
bool llm_grammar_accepts(const llm_grammar_t *g, const llm_grammar_state_t *s);

/* The output must end here: it may, and nothing can follow. */
bool llm_grammar_finished(const llm_grammar_t *g, const llm_grammar_state_t *s);

/*
 * The bytes that must follow, as far as they are certain and fit into cap; returns their number (0:
 * there is a choice). *s is unchanged. spaced NULL, or a guess for drafts: where a space may stand
 * it is taken to stand behind the bytes c with spaced[c], of 256; before: the last byte of the
 * output, 0: none. A caller that appends bytes without asking the model must tokenize them together
 * with what precedes and may keep only tokens that no later byte can change.
 */
size_t llm_grammar_forced(const llm_grammar_t *g, const llm_grammar_state_t *s, const bool *spaced,
                          uint8_t before, uint8_t *out, size_t cap);

/*
 * A short ending: bytes after which the output is complete. Returns their number, or SIZE_MAX when
 * it exceeds cap. *s is unchanged.
 */
size_t llm_grammar_closing(const llm_grammar_t *g, const llm_grammar_state_t *s, uint8_t *out,
                           size_t cap);

/* ---------------------------------------------------------------- tokens */

#define LLM_GVOCAB_MAX_TOKEN 255    /* bytes; longer tokens are never in a mask */
#define LLM_GVOCAB_SPECIAL   0xff

/*
 * Builds the trie; immutable afterwards, any thread may use it. tok must outlive it. Special tokens
 * are in it as LLM_GVOCAB_SPECIAL and their text, which no text of characters contains.
 * Errors: NOMEM.
 */
llm_code_t llm_gvocab_new(llm_gvocab_t **out, const llm_tok_t *tok, llm_err_t *err);
void llm_gvocab_free(llm_gvocab_t *v);
uint32_t llm_gvocab_n(const llm_gvocab_t *v);
/* The longest token that the n bytes begin with, and its length in bytes; -1: there is none. */
int32_t llm_gvocab_longest(const llm_gvocab_t *v, const void *bytes, size_t n, size_t *len);
/* Bytes that the token adds to the text, borrowed; NULL: none, it is special or unknown. */
const uint8_t *llm_gvocab_bytes(const llm_gvocab_t *v, int32_t id, size_t *len);
/* The end tokens, borrowed; returns their number. */
uint32_t llm_gvocab_eos(const llm_gvocab_t *v, const int32_t **ids);

/*
 * Takes one token: its bytes, or an end token when the output may end. False: not allowed, *s is
 * unchanged.
 */
bool llm_grammar_token(const llm_gvocab_t *v, const llm_grammar_t *g, llm_grammar_state_t *s,
                       int32_t id);

/*
 * What computes masks: scratch and a cache of cache_bytes (0: 16 MiB), allocated here and never
 * later. The cache is keyed by the grammar's id, so it stays good when the block is copied or
 * compiled again; grammars must be compiled with this vocab or one of equal bytes. Errors: NOMEM.
 * Thread: one at a time.
 */
llm_code_t llm_gmask_new(llm_gmask_t **out, const llm_gvocab_t *v, size_t cache_bytes,
                         llm_err_t *err);
void llm_gmask_free(llm_gmask_t *m);

/*
 * Sets bit id of mask[(n_vocab + 63) / 64] for every token that may come next and clears all
 * others. Returns the number of set bits; 0 only when the vocabulary lacks a character that the
 * grammar needs. No allocation.
 */
uint32_t llm_grammar_mask(llm_gmask_t *m, const llm_grammar_t *g, const llm_grammar_state_t *s,
                          uint64_t *mask);

/*
 * logits[i] = -INFINITY where bit i is clear, for i < n; ids from 64 * n_words on count as clear.
 */
void llm_grammar_apply(const uint64_t *mask, uint32_t n_words, float *logits, uint32_t n);

/* Counters of one llm_gmask_t. */
typedef struct { uint64_t hits, walks, nodes; } llm_gmask_stats_t;
void llm_gmask_stats(const llm_gmask_t *m, llm_gmask_stats_t *out);

#endif
