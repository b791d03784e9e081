/*
 * tok_impl.h - the internal form of a tokenizer; only the files of text/ include it.
 *
 * Both readers (tok_gguf.c, tok_json.c) fill one llm_tok_t; encode.c, decode.c and detok.c only
 * know this form:
 *
 *   text -> [bad UTF-8 replaced] -> added tokens -> norm ops -> added tokens (normalized)
 *        -> split stages -> model -> ids
 *
 * The alphabet of the model is bytes. For byte-level BPE a vocabulary string is kept as the bytes
 * that its characters stand for. Where the pipeline turns spaces into U+2581 (`spaces`), U+2581 is
 * kept as one 0x20 in the vocabulary and in the normalised text: no real space can reach the model
 * there, so nothing is lost and text is rarely copied.
 */
#ifndef LLM_TOK_IMPL_H
#define LLM_TOK_IMPL_H

#include "base/unicode.h"
#include "text/tok.h"

#define LLM_TOK_MAX_VOCAB   (1u << 22)      /* the largest published vocabularies have 2^18 */
#define LLM_TOK_MAX_MERGES  (1u << 23)
#define LLM_TOK_MAX_ADDED   1024            /* bytes of one added token: bounds time of matching */
#define LLM_TOK_MAX_PIECE   512             /* bytes of one SentencePiece or Unigram token */
#define LLM_TOK_MAX_TEXT    (1u << 30)
#define LLM_TOK_MAX_OPS     8
#define LLM_TOK_MAX_STAGES  8
#define LLM_TOK_MAX_SPECIAL 16              /* ids that a post-processor adds on one side */
#define LLM_TOK_HOLD_BYTES  4096            /* most text a detokenizer holds back */
#define LLM_SPACE_MARK      "\xe2\x96\x81"  /* U+2581 */

enum {
    LLM_TF_EXISTS = 1,      /* the id has a text */
    LLM_TF_SPECIAL = 2,     /* control token: skip_special drops it, text needs leave to name it */
    LLM_TF_EOG = 4,
    LLM_TF_BYTE = 8,        /* one byte of UTF-8 (byte fallback); out is that byte */
    LLM_TF_WHOLE = 16,      /* the model turns exactly this string into exactly this token */
    LLM_TF_MODEL = 32,      /* in the model's own vocabulary */
    LLM_TF_ADDED = 64       /* has an entry in `added` */
};

typedef enum { LLM_TOK_BPE, LLM_TOK_UNIGRAM } llm_tok_model_t;

/* -------------------------------------------------------------- byte buffer */

typedef struct {
    uint8_t *s;
    size_t   n, cap;
} llm_buf_t;

/* False: out of memory, nothing added. */
bool llm_buf_add(llm_buf_t *b, const void *s, size_t n);
/* Adds n bytes, bad ones as U+FFFD; leaves out an incomplete sequence at the end, *tail bytes. */
bool llm_buf_add_lossy(llm_buf_t *b, const uint8_t *s, size_t n, size_t *tail);
/* Adds the text of the first token of a METASPACE decoder: all U+2581 dropped. */
bool llm_buf_add_unmarked(llm_buf_t *b, const uint8_t *s, size_t n);

/* ------------------------------------------------------------ string hash */

/* Maps byte strings to ids. A slot is the upper half of the hash and id + 1. */
typedef struct {
    uint64_t *slot;
    uint32_t  mask;
} llm_shash_t;

/* Offsets of n strings in one blob: string i is blob[at[i] .. at[i + 1]). */
typedef struct {
    uint32_t *at;
    uint8_t  *blob;
    uint32_t  n;
    size_t    cap_blob;
} llm_strs_t;

bool llm_strs_init(llm_strs_t *s, uint32_t cap);
/* Appends string n; false when memory runs out or the blob would exceed 4 GiB. */
bool llm_strs_add(llm_strs_t *s, uint32_t cap, const void *data, size_t len);
/* Gives back what nothing was added to. */
void llm_strs_fit(llm_strs_t *s);
void llm_strs_free(llm_strs_t *s);

static inline const uint8_t *
llm_strs_get(const llm_strs_t *s, uint32_t i, size_t *len)
{
    *len = s->at[i + 1] - s->at[i];
    return s->blob + s->at[i];
}

uint64_t llm_hash_seed(void);
uint64_t llm_hash_bytes(uint64_t seed, const uint8_t *s, size_t n);
bool llm_shash_init(llm_shash_t *h, uint32_t n);
/* Later ids replace earlier ones with the same string. */
void llm_shash_put(llm_shash_t *h, uint64_t seed, const llm_strs_t *strs, uint32_t id);
/* -1: not there */
int32_t llm_shash_get(const llm_shash_t *h, uint64_t hash, const llm_strs_t *strs,
                      const uint8_t *s, size_t n);

/* ------------------------------------------------------------ merge table */

typedef struct { uint32_t a, b, rank, id; } llm_merge_t;

typedef struct {
    llm_merge_t *slot;      /* a == UINT32_MAX: empty */
    uint32_t     mask, n;
    unsigned     shift;
    uint64_t     k;
} llm_pairs_t;

bool llm_pairs_init(llm_pairs_t *p, uint32_t n, uint64_t seed);
/* False when the pair is there already. */
bool llm_pairs_put(llm_pairs_t *p, llm_merge_t m);

static inline const llm_merge_t *
llm_pairs_get(const llm_pairs_t *p, uint32_t a, uint32_t b)
{
    uint32_t i = (uint32_t) ((((uint64_t) a << 32 | b) * p->k) >> p->shift);
    for (;; i = (i + 1) & p->mask) {
        const llm_merge_t *m = &p->slot[i];
        if (m->a == a && m->b == b) {
            return m;
        }
        if (m->a == UINT32_MAX) {
            return NULL;
        }
    }
}

/* ------------------------------------------------------------------- trie */

/* Byte trie whose edges are one hash table: key node << 8 | byte. Node 0 is the root. */
typedef struct {
    struct { uint32_t key, node; } *edge;
    int32_t  *id;           /* per node, -1: no string ends here */
    uint32_t  k, mask, n_nodes;
    unsigned  shift;
    uint8_t   first[256];   /* 1: some string starts with this byte */
} llm_trie_t;

#define LLM_TRIE_MAX_BYTES ((1u << 24) - 2)

/* n_bytes: of all strings to come, at most LLM_TRIE_MAX_BYTES. False: out of memory. */
bool llm_trie_init(llm_trie_t *t, size_t n_bytes, uint64_t seed);
/* The string must not be empty; a second id for the same string replaces the first. */
void llm_trie_put(llm_trie_t *t, const uint8_t *s, size_t n, int32_t id);
void llm_trie_free(llm_trie_t *t);

/* The child of node along byte b, or 0. */
static inline uint32_t
llm_trie_step(const llm_trie_t *t, uint32_t node, uint8_t b)
{
    uint32_t key = node << 8 | b;
    uint32_t i = (key * t->k) >> t->shift;
    for (;; i = (i + 1) & t->mask) {
        if (t->edge[i].key == key && t->edge[i].node != 0) {
            return t->edge[i].node;
        }
        if (t->edge[i].node == 0) {
            return 0;
        }
    }
}

/* ------------------------------------------------------------- components */

typedef struct {
    int32_t id;
    bool    special, normalized, single_word, lstrip, rstrip;
    char   *text;
    uint32_t len;
} llm_added_t;

typedef enum {
    LLM_NORM_NFC, LLM_NORM_NFKC, LLM_NORM_LOWER, LLM_NORM_STRIP, LLM_NORM_PREPEND,
    LLM_NORM_REPLACE, LLM_NORM_SPACE_RUNS, LLM_NORM_CHARSMAP, LLM_NORM_SPACES
} llm_normop_kind_t;

typedef struct {
    llm_normop_kind_t kind;
    bool     left, right;               /* STRIP; SPACES: left = prepend a mark */
    char     from[16], to[16];          /* PREPEND, REPLACE; SPACE_RUNS: two or more become `to` */
    uint32_t n_from, n_to;
} llm_normop_t;

/* Trie and strings of a SentencePiece charsmap (spec models.md 8.4). */
typedef struct {
    uint32_t *unit;
    uint32_t  n_units;
    char     *text;                     /* NUL-terminated replacements, valid UTF-8 */
    uint32_t  n_text;
} llm_charsmap_t;

typedef enum {
    LLM_SPLIT_G,            /* GPT-2 */
    LLM_SPLIT_T,            /* Llama-3; digits in groups of at most n */
    LLM_SPLIT_BLOOM,
    LLM_SPLIT_DIGITS3,      /* [0-9][0-9][0-9] */
    LLM_SPLIT_CLASS,        /* every character of a class (mask) */
    LLM_SPLIT_STRING,       /* every occurrence of one character sequence */
    LLM_SPLIT_PREFIX_SPACE, /* ByteLevel's add_prefix_space */
    LLM_SPLIT_METASPACE
} llm_split_kind_t;

typedef enum {
    LLM_BEHAVE_ISOLATED, LLM_BEHAVE_REMOVED, LLM_BEHAVE_PREVIOUS, LLM_BEHAVE_NEXT,
    LLM_BEHAVE_CONTIGUOUS
} llm_behave_t;

typedef enum { LLM_PREPEND_NEVER, LLM_PREPEND_FIRST, LLM_PREPEND_ALWAYS } llm_prepend_t;

typedef struct {
    llm_split_kind_t kind;
    llm_behave_t     behave;
    bool             invert;
    bool             mapped;        /* after ByteLevel: characters are stand-ins for bytes */
    bool             split;         /* METASPACE */
    llm_prepend_t    prepend;       /* METASPACE */
    unsigned         mask;          /* CLASS */
    unsigned         n;             /* T: digits in a group */
    char             text[16];      /* STRING */
    uint32_t         n_text;
} llm_stage_t;

typedef enum { LLM_DEC_BYTE_LEVEL, LLM_DEC_PIECES, LLM_DEC_METASPACE } llm_dec_kind_t;

typedef struct {
    llm_dec_kind_t kind;
    bool           byte_fallback;   /* PIECES */
    bool           strip_marks;     /* METASPACE: all U+2581 of the first token are dropped */
    uint32_t       strip_left;      /* PIECES: drops at most so many leading strip_char of a text */
    uint8_t        strip_char;
    bool           clean_up;        /* transformers' clean_up_tokenization_spaces; whole texts */
} llm_dec_t;

struct llm_tok {
    uint32_t     n_vocab;
    uint64_t     seed;
    llm_strs_t   text;              /* as the file writes it */
    llm_strs_t   key;               /* as the model sees it; empty: never matches */
    llm_strs_t   out;               /* as it adds to a text when it is not the first token */
    uint8_t     *flags;             /* [n_vocab] LLM_TF_* */
    llm_shash_t  by_key;
    llm_shash_t  by_text;           /* no slots once the tokenizer is finished */

    llm_tok_model_t model;
    bool         byte_level;
    bool         spaces;            /* U+2581 is 0x20 inside */
    bool         ignore_merges, fuse_unk, byte_fallback;
    bool         split_words;       /* no merge crosses from a non-space to a space */
    int32_t      unk_id;
    int32_t      byte_id[256];      /* byte-level: of each byte; fallback: of <0xHH>; -1: none */
    int32_t      ascii_id[128];     /* tokens of single ASCII characters (not byte-level) */
    llm_pairs_t  pairs;
    llm_trie_t   trie;              /* UNIGRAM */
    double      *score;             /* UNIGRAM [n_vocab] */
    double       unk_score;

    llm_normop_t op[LLM_TOK_MAX_OPS];
    unsigned     n_ops;
    llm_charsmap_t charsmap;
    llm_stage_t  stage[LLM_TOK_MAX_STAGES];
    unsigned     n_stages;

    llm_added_t *added;
    uint32_t     n_added, cap_added;
    int32_t     *added_at;          /* [n_vocab] index in `added` or -1; NULL once finished */
    llm_trie_t   raw_trie, norm_trie;   /* ids are indices of `added` */

    int32_t      pre_id[LLM_TOK_MAX_SPECIAL], post_id[LLM_TOK_MAX_SPECIAL];
    unsigned     n_pre, n_post;
    int32_t      bos, eos;

    llm_dec_t    dec;
    uint16_t     mapped_class[256]; /* class of the stand-in of each byte */
};

/* -------------------------------------------------------------- building */

/* GPT-2's stand-in characters: code point of a byte, and byte of a code point (-1: none). */
uint32_t llm_byte_to_char(uint8_t b);
int llm_char_to_byte(uint32_t cp);

/* A fresh tokenizer for n_vocab ids with all counts zero and all ids -1. Errors: NOMEM. */
llm_code_t llm_tok_new(llm_tok_t **out, uint32_t n_vocab, llm_err_t *err);

/*
 * After `text`, `flags` (EXISTS, SPECIAL, BYTE, MODEL), model kind, byte_level, spaces and dec are
 * set: makes key, out and both hashes. raw_specials: tokens that are not MODEL keep their text as
 * it is (GGUF) instead of going through the byte alphabet.
 */
llm_code_t llm_tok_index(llm_tok_t *t, bool raw_specials, const char *where, llm_err_t *err);

/* Copies the definition; one for the same id replaces it. Errors: NOMEM, FORMAT (too long). */
llm_code_t llm_tok_add(llm_tok_t *t, const llm_added_t *a, const char *where, llm_err_t *err);

/*
 * Last step: tries of added tokens, tables, split_words, WHOLE flags, trie of a Unigram. What only
 * the readers need is freed.
 */
llm_code_t llm_tok_finish(llm_tok_t *t, const char *where, llm_err_t *err);

/* Marks tokens whose text is a known end of turn or end of text and that are special. */
void llm_tok_mark_eog(llm_tok_t *t);

/* An unknown character costs this much below the least score (SentencePiece, unigram_model.cc). */
#define LLM_UNIGRAM_UNK_PENALTY 10.0

/*
 * Puts merge `rank` of the tokens with texts a and b into t->pairs. scratch is reused.
 * Errors: FORMAT (a part or the result is no token, the pair is there already), NOMEM.
 */
llm_code_t llm_tok_merge(llm_tok_t *t, uint32_t rank, const char *a, size_t n_a, const char *b,
                         size_t n_b, llm_buf_t *scratch, const char *where, llm_err_t *err);

/* Checks and copies a charsmap blob. */
llm_code_t llm_charsmap_set(llm_tok_t *t, const uint8_t *blob, size_t len, const char *where,
                            llm_err_t *err);

/* ------------------------------------------------------------ normalizing */

/* A stretch of normalised text: copied bytes, or what n_src source bytes became. */
typedef struct {
    uint32_t out, src, n_src;
    bool     copy;
} llm_run_t;

typedef struct {
    uint8_t   *s;
    size_t     n, cap;
    llm_run_t *run;
    size_t     n_run, cap_run;
    size_t     base;            /* source position of the first byte that was normalised */
    size_t     cursor;          /* of llm_nbuf_src: queries mostly ascend */
} llm_nbuf_t;

void llm_nbuf_free(llm_nbuf_t *b);
void llm_nbuf_clear(llm_nbuf_t *b, size_t base);
/* src counts from base in the two functions below. False: out of memory. */
/* Source bytes [src, src + n) taken over as they are. */
bool llm_nbuf_copy(llm_nbuf_t *b, const uint8_t *s, size_t src, size_t n);
/* n bytes that stand for source bytes [src, src + n_src). */
bool llm_nbuf_put(llm_nbuf_t *b, const void *s, size_t n, size_t src, size_t n_src);
/* Source position of normalised byte `pos`: its beginning, or (end) the end of byte pos - 1. */
size_t llm_nbuf_src(llm_nbuf_t *b, size_t pos, bool end);

/* Applies one operation to s; *changed tells whether b holds the result. False: out of memory. */
bool llm_norm_apply(const llm_tok_t *t, const llm_normop_t *op, const uint8_t *s, size_t n,
                    llm_nbuf_t *b, bool *changed);
/* NFC or NFKC (norm_nf.c). */
bool llm_norm_nf(bool compat, const uint8_t *s, size_t n, llm_nbuf_t *b, bool *changed);

/* --------------------------------------------------------------- encoding */

/* A symbol of a piece: bytes [at, at + len), its neighbours, and its merge with the next one. */
typedef struct {
    uint32_t id, at, len, prev, next;
    uint32_t rank, nid;             /* rank UINT32_MAX: no such merge */
} llm_sym_t;

/* One call of llm_tok_encode. */
typedef struct {
    const llm_tok_t *t;
    unsigned         flags;
    llm_tokens_t     out;
    size_t           cap;

    const uint8_t   *s;             /* the text that positions of stages and model refer to */
    size_t           n;             /* its length */
    /* the last one leads from s one level back, the first one to the input */
    llm_nbuf_t      *map[LLM_TOK_MAX_OPS + LLM_TOK_MAX_STAGES + 2];
    unsigned         n_map;

    llm_nbuf_t       sane, op[LLM_TOK_MAX_OPS], stage[LLM_TOK_MAX_STAGES];
    llm_sym_t       *sym;
    size_t           n_sym, cap_sym;
    uint64_t        *heap;          /* rank << 32 | position of the left symbol; smallest first */
    size_t           n_heap, cap_heap;
    void            *path;          /* Viterbi nodes */
    size_t           cap_path;
    llm_err_t       *err;
} llm_enc_t;

/* Appends a token for bytes [from, to) of e->s. */
llm_code_t llm_enc_emit(llm_enc_t *e, int32_t id, size_t from, size_t to);
llm_code_t llm_enc_nomem(llm_enc_t *e);

/* Stage i and all later ones, then the model, on bytes [from, to) of e->s. */
llm_code_t llm_split_run(llm_enc_t *e, unsigned i, size_t from, size_t to);
llm_code_t llm_bpe_run(llm_enc_t *e, size_t from, size_t to);
/* Whether merging the characters of its key gives id again; false when memory runs out. */
bool llm_bpe_rebuilds(llm_enc_t *e, int32_t id);
void llm_enc_free(llm_enc_t *e);
llm_code_t llm_unigram_run(llm_enc_t *e, size_t from, size_t to);

/* Normalises [*from, *to) of e->s, pushing maps; on return e->s, *from and *to are the result. */
llm_code_t llm_enc_normalize(llm_enc_t *e, size_t *from, size_t *to);

/* --------------------------------------------------------------- decoding */

/* Whether id is dropped when decoding. */
static inline bool
llm_dec_skips(const llm_tok_t *t, int32_t id, bool skip_special)
{
    return id < 0 || (uint32_t) id >= t->n_vocab || !(t->flags[id] & LLM_TF_EXISTS)
           || (skip_special && (t->flags[id] & LLM_TF_SPECIAL));
}

/* The raw bytes that the token stands for; borrowed. Not always whole UTF-8 characters. */
static inline const uint8_t *
llm_tok_bytes(const llm_tok_t *t, int32_t id, size_t *len)
{
    return llm_strs_get(&t->out, (uint32_t) id, len);
}

#endif
