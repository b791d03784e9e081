/*
 * tok_gguf.c - tokenizers of GGUF files: tokenizer.ggml.* (spec models.md section 6).
 *
 * A GGUF file names the pipeline (model and pre-tokenizer) instead of describing it; the tables
 * here say what the names mean. Control tokens (and the unknown token) are special added tokens,
 * user-defined ones are plain added tokens.
 */
#include "model/gguf.h"
#include "text/tok_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define KEY(name) "tokenizer.ggml." name

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED, TYPE_BYTE };

typedef struct {
    const llm_gguf_t    *g;
    const char          *path;
    llm_tok_t           *t;
    const llm_gguf_kv_t *tokens, *types, *scores;
    uint32_t             n;
} reader_t;

/* --------------------------------------------------------- pre-tokenizers */

enum { PRE_NFC = 1, PRE_WHOLE = 2, PRE_BOS = 4 };

#define G          { .kind = LLM_SPLIT_G }
#define T(digits)  { .kind = LLM_SPLIT_T, .n = (digits) }
#define DIGIT_EACH { .kind = LLM_SPLIT_CLASS, .mask = LLM_UC_NUMBER }

/* Published names and those that stand for the very same splitting. */
static const struct {
    const char *name;
    unsigned    flags;
    unsigned    n_stages;
    llm_stage_t stage[4];
} pres[] = {
    { "gpt-2", 0, 1, { G } },
    { "phi-2", 0, 1, { G } },
    { "mpt", PRE_NFC, 1, { G } },
    { "olmo", PRE_NFC, 1, { G } },
    { "bloom", 0, 1, { { .kind = LLM_SPLIT_BLOOM } } },
    { "starcoder", 0, 2, { DIGIT_EACH, G } },
    { "refact", 0, 2, { DIGIT_EACH, G } },
    { "smollm", 0, 2, { DIGIT_EACH, G } },
    { "llama-bpe", PRE_WHOLE | PRE_BOS, 1, { T(3) } },
    { "llama3", PRE_WHOLE | PRE_BOS, 1, { T(3) } },
    { "llama-v3", PRE_WHOLE | PRE_BOS, 1, { T(3) } },
    { "qwen2", PRE_NFC, 1, { T(1) } },
    { "deepseek-r1-qwen", PRE_NFC, 1, { T(1) } },
    { "falcon", 0, 4, {
        { .kind = LLM_SPLIT_CLASS, .mask = LLM_UC_PUNCT, .behave = LLM_BEHAVE_CONTIGUOUS },
        G,
        { .kind = LLM_SPLIT_CLASS, .mask = LLM_UC_NUMBER, .behave = LLM_BEHAVE_CONTIGUOUS,
          .mapped = true },
        { .kind = LLM_SPLIT_DIGITS3, .mapped = true } } },
};

/* Sets the stages of a byte-level tokenizer. *flags receives PRE_*. */
static llm_code_t
set_pre(reader_t *r, unsigned *flags, llm_err_t *err)
{
    llm_span_t name = { NULL, 0 };
    llm_code_t rc = llm_gguf_str(r->g, KEY("pre"), &name, err);
    if (rc != LLM_OK) {
        return rc;
    }
    if (name.data == NULL) {
        return llm_fail(err, LLM_E_UNSUPPORTED,
                        "%s: no " KEY("pre") ", so how text is split is not known", r->path);
    }
    for (size_t i = 0; i < sizeof(pres) / sizeof(pres[0]); i++) {
        if (strlen(pres[i].name) == name.len && memcmp(pres[i].name, name.data, name.len) == 0) {
            llm_tok_t *t = r->t;
            *flags = pres[i].flags;
            t->n_stages = pres[i].n_stages;
            memcpy(t->stage, pres[i].stage, sizeof(pres[i].stage));
            if (pres[i].flags & PRE_NFC) {
                t->op[t->n_ops++] = (llm_normop_t) { .kind = LLM_NORM_NFC };
            }
            return LLM_OK;
        }
    }
    return llm_fail(err, LLM_E_UNSUPPORTED, "%s: pre-tokenizer \"%.*s\" is not supported", r->path,
                    (int) (name.len < 64 ? name.len : 64), name.data);
}

/* ------------------------------------------------------------ vocabulary */

static int32_t
type_of(const reader_t *r, uint32_t id)
{
    int32_t type = TYPE_NORMAL;
    if (r->types != NULL) {
        memcpy(&type, r->types->data + (size_t) id * 4, 4);
    }
    return type;
}

static float
score_of(const reader_t *r, uint32_t id)
{
    float score = 0;
    if (r->scores != NULL) {
        memcpy(&score, r->scores->data + (size_t) id * 4, 4);
    }
    return score;
}

/* An optional array with one 4-byte element for each token. */
static llm_code_t
token_array(const reader_t *r, const char *key, bool f32, const llm_gguf_kv_t **out, llm_err_t *err)
{
    const llm_gguf_kv_t *kv = llm_gguf_find(r->g, key);
    *out = kv;
    if (kv == NULL) {
        return LLM_OK;
    }
    bool fits = kv->type == LLM_GGUF_ARRAY
                && (f32 ? kv->elem == LLM_GGUF_F32
                        : kv->elem == LLM_GGUF_I32 || kv->elem == LLM_GGUF_U32);
    if (!fits) {
        return llm_fail(err, LLM_E_FORMAT, "%s: %s is not an array of %s", r->path, key,
                        f32 ? "f32" : "i32");
    }
    if (kv->n != r->n) {
        return llm_fail(err, LLM_E_FORMAT, "%s: %s has %llu elements for %u tokens", r->path, key,
                        (unsigned long long) kv->n, r->n);
    }
    return LLM_OK;
}

static bool
is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F') || (c >= 'a' && c <= 'f');
}

/* "<0xHH>" */
static bool
is_byte_name(llm_span_t s)
{
    return s.len == 6 && memcmp(s.data, "<0x", 3) == 0 && is_hex(s.data[3]) && is_hex(s.data[4])
           && s.data[5] == '>';
}

static unsigned
flags_of(const llm_tok_t *t, int32_t type)
{
    unsigned all = t->model == LLM_TOK_UNIGRAM ? LLM_TF_MODEL : 0;
    switch (type) {
    case TYPE_NORMAL:
        return LLM_TF_MODEL;
    case TYPE_USER:
        return t->byte_level ? 0 : LLM_TF_MODEL;
    case TYPE_UNKNOWN:
    case TYPE_CONTROL:
        return LLM_TF_SPECIAL | all;
    case TYPE_BYTE:
        return t->byte_level ? LLM_TF_MODEL : LLM_TF_BYTE;
    default:
        return 0;
    }
}

static llm_code_t
read_tokens(reader_t *r, llm_err_t *err)
{
    llm_tok_t *t = r->t;
    const uint8_t *it = r->tokens->data;
    for (uint32_t id = 0; id < r->n; id++) {
        llm_span_t s = llm_gguf_next_str(&it);
        int32_t type = type_of(r, id);
        if (!llm_strs_add(&t->text, r->n, s.data, s.len)) {
            return llm_fail(err, LLM_E_NOMEM, "%s: no memory for the texts of %u tokens", r->path,
                            r->n);
        }
        unsigned f = flags_of(t, type);
        if ((f & LLM_TF_BYTE) && !is_byte_name(s)) {
            return llm_fail(err, LLM_E_FORMAT, "%s: byte token %u is not named <0xHH> but \"%.*s\"",
                            r->path, id, (int) (s.len < 64 ? s.len : 64), s.data);
        }
        bool piece = !t->byte_level && (f & LLM_TF_MODEL);
        if (piece && s.len > LLM_TOK_MAX_PIECE) {
            return llm_fail(err, LLM_E_FORMAT, "%s: token %u has %zu bytes, at most %d are allowed",
                            r->path, id, s.len, LLM_TOK_MAX_PIECE);
        }
        if (piece && r->scores != NULL && !isfinite(score_of(r, id))) {
            return llm_fail(err, LLM_E_FORMAT, "%s: the score of token %u is not a finite number",
                            r->path, id);
        }
        t->flags[id] = (uint8_t) (LLM_TF_EXISTS | f);
    }
    return LLM_OK;
}

static llm_code_t
add_tokens(reader_t *r, llm_err_t *err)
{
    llm_tok_t *t = r->t;
    llm_code_t rc = LLM_OK;
    for (uint32_t id = 0; rc == LLM_OK && id < r->n; id++) {
        int32_t type = type_of(r, id);
        if (type == TYPE_CONTROL || type == TYPE_UNKNOWN || type == TYPE_USER) {
            size_t len;
            const uint8_t *s = llm_strs_get(&t->text, id, &len);
            llm_added_t a = { .id = (int32_t) id, .special = type != TYPE_USER };
            a.text = (char *) s;
            a.len = (uint32_t) len;
            rc = llm_tok_add(t, &a, r->path, err);
        }
    }
    return rc;
}

/* ---------------------------------------------------------------- merges */

/* "a b": both parts and what they make must be tokens. */
static llm_code_t
read_merges(reader_t *r, llm_err_t *err)
{
    llm_tok_t *t = r->t;
    const llm_gguf_kv_t *kv = llm_gguf_find(r->g, KEY("merges"));
    if (kv == NULL || kv->type != LLM_GGUF_ARRAY || kv->elem != LLM_GGUF_STRING) {
        return llm_fail(err, LLM_E_FORMAT, "%s: " KEY("merges") " is not an array of strings",
                        r->path);
    }
    if (kv->n > LLM_TOK_MAX_MERGES) {
        return llm_fail(err, LLM_E_FORMAT, "%s: %llu merges, at most %u are allowed", r->path,
                        (unsigned long long) kv->n, LLM_TOK_MAX_MERGES);
    }
    if (!llm_pairs_init(&t->pairs, (uint32_t) kv->n, t->seed)) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for %llu merges", r->path,
                        (unsigned long long) kv->n);
    }
    const uint8_t *it = kv->data;
    llm_buf_t scratch = { 0 };
    llm_code_t rc = LLM_OK;
    for (uint32_t i = 0; rc == LLM_OK && i < kv->n; i++) {
        llm_span_t s = llm_gguf_next_str(&it);
        const char *gap = s.len > 1 ? memchr(s.data + 1, ' ', s.len - 1) : NULL;
        if (gap == NULL) {
            rc = llm_fail(err, LLM_E_FORMAT, "%s: merge %u is not two tokens", r->path, i);
        } else {
            size_t n = (size_t) (gap - s.data);
            rc = llm_tok_merge(t, i, s.data, n, gap + 1, s.len - n - 1, &scratch, r->path, err);
        }
    }
    free(scratch.s);
    return rc;
}

typedef struct { float score; uint32_t id, rank; } ranked_t;

static int
by_score(const void *a, const void *b)
{
    const ranked_t *x = a, *y = b;
    return x->score > y->score ? -1 : x->score < y->score ? 1 : (x->id > y->id) - (x->id < y->id);
}

/* Appends all ways to make token id of two tokens. */
static bool
push_ways(const llm_tok_t *t, uint32_t id, uint32_t rank, llm_buf_t *ways)
{
    size_t n;
    const uint8_t *s = llm_strs_get(&t->key, id, &n);
    if (n == 0 || llm_utf8_valid(s, n) != n) {
        return true;
    }
    for (size_t k = llm_utf8_len(s[0]); k < n; k += llm_utf8_len(s[k])) {
        int32_t a = llm_shash_get(&t->by_key, llm_hash_bytes(t->seed, s, k), &t->key, s, k);
        if (a < 0) {
            continue;
        }
        int32_t b = llm_shash_get(&t->by_key, llm_hash_bytes(t->seed, s + k, n - k), &t->key, s + k,
                                  n - k);
        llm_merge_t m = { (uint32_t) a, (uint32_t) b, rank, id };
        if (b >= 0 && !llm_buf_add(ways, &m, sizeof(m))) {
            return false;
        }
    }
    return true;
}

/*
 * SentencePiece BPE merges the neighbours whose concatenation scores best, leftmost first: the same
 * as merges whose rank is the position of the score among all scores, best first, with equal scores
 * sharing a rank.
 */
static llm_code_t
merges_from_scores(reader_t *r, llm_err_t *err)
{
    llm_tok_t *t = r->t;
    ranked_t *v = malloc((size_t) r->n * sizeof(*v));
    llm_buf_t ways = { 0 };
    llm_code_t rc = LLM_OK;
    uint32_t n = 0, rank = 0;
    bool ok = v != NULL;
    for (uint32_t id = 0; ok && id < r->n; id++) {
        if (type_of(r, id) == TYPE_NORMAL) {
            v[n++] = (ranked_t) { score_of(r, id), id, 0 };
        }
    }
    if (ok) {
        qsort(v, n, sizeof(*v), by_score);
    }
    for (uint32_t i = 0; ok && i < n; i++) {
        rank += i > 0 && v[i].score < v[i - 1].score;
        ok = push_ways(t, v[i].id, rank, &ways);
        if (ways.n / sizeof(llm_merge_t) > LLM_TOK_MAX_MERGES) {
            rc = llm_fail(err, LLM_E_FORMAT, "%s: more than %u ways to merge tokens", r->path,
                          LLM_TOK_MAX_MERGES);
            break;
        }
    }
    uint32_t n_ways = (uint32_t) (ways.n / sizeof(llm_merge_t));
    ok = ok && (rc != LLM_OK || llm_pairs_init(&t->pairs, n_ways, t->seed));
    for (uint32_t i = 0; ok && rc == LLM_OK && i < n_ways; i++) {
        llm_merge_t m;
        memcpy(&m, ways.s + (size_t) i * sizeof(m), sizeof(m));
        llm_pairs_put(&t->pairs, m);    /* a pair that is there already makes the same text */
    }
    free(v);
    free(ways.s);
    return ok ? rc
              : llm_fail(err, LLM_E_NOMEM, "%s: no memory for merges of %u tokens", r->path, r->n);
}

/* ------------------------------------------------------------ special ids */

/* Reads a token id; absent (or all ones, which some writers use for "none"): fallback, where it is
 * a control token. */
static llm_code_t
read_id(reader_t *r, const char *key, int32_t fallback, int32_t *out, llm_err_t *err)
{
    uint32_t id = UINT32_MAX;
    const llm_gguf_kv_t *kv = llm_gguf_find(r->g, key);
    *out = -1;
    if (kv == NULL) {
        if (fallback >= 0 && (uint32_t) fallback < r->n
            && (r->t->flags[fallback] & LLM_TF_SPECIAL)) {
            *out = fallback;
        }
        return LLM_OK;
    }
    int32_t none;
    if (kv->type == LLM_GGUF_I32) {
        memcpy(&none, kv->data, 4);
        if (none == -1) {
            return LLM_OK;
        }
    }
    llm_code_t rc = llm_gguf_u32(r->g, key, &id, err);
    if (rc != LLM_OK || id == UINT32_MAX) {
        return rc;
    }
    if (id >= r->n) {
        return llm_fail(err, LLM_E_FORMAT, "%s: %s is %u, the vocabulary has %u tokens", r->path,
                        key, id, r->n);
    }
    *out = (int32_t) id;
    return LLM_OK;
}

static llm_code_t
read_special_ids(reader_t *r, bool add_bos, bool add_eos, const int32_t fallback[3], llm_err_t *err)
{
    llm_tok_t *t = r->t;
    int32_t eot = -1, eom = -1;
    llm_code_t rc;
    if ((rc = read_id(r, KEY("bos_token_id"), fallback[0], &t->bos, err)) != LLM_OK
        || (rc = read_id(r, KEY("eos_token_id"), fallback[1], &t->eos, err)) != LLM_OK
        || (rc = read_id(r, KEY("unknown_token_id"), fallback[2], &t->unk_id, err)) != LLM_OK
        || (rc = read_id(r, KEY("eot_token_id"), -1, &eot, err)) != LLM_OK
        || (rc = read_id(r, KEY("eom_token_id"), -1, &eom, err)) != LLM_OK
        || (rc = llm_gguf_bool(r->g, KEY("add_bos_token"), &add_bos, err)) != LLM_OK
        || (rc = llm_gguf_bool(r->g, KEY("add_eos_token"), &add_eos, err)) != LLM_OK)
    {
        return rc;
    }
    if (add_bos && t->bos >= 0) {
        t->pre_id[t->n_pre++] = t->bos;
    }
    if (add_eos && t->eos >= 0) {
        t->post_id[t->n_post++] = t->eos;
    }
    for (unsigned i = 0; i < 2; i++) {
        int32_t id = i == 0 ? eot : eom;
        if (id >= 0) {
            t->flags[id] |= LLM_TF_EOG;
        }
    }
    llm_tok_mark_eog(t);
    return LLM_OK;
}

/* ------------------------------------------------------------------ models */

static llm_code_t
read_gpt2(reader_t *r, llm_err_t *err)
{
    static const int32_t none[3] = { -1, -1, -1 };
    llm_tok_t *t = r->t;
    unsigned pre = 0;
    t->model = LLM_TOK_BPE;
    t->byte_level = true;
    t->dec.kind = LLM_DEC_BYTE_LEVEL;
    llm_code_t rc;
    if ((rc = set_pre(r, &pre, err)) != LLM_OK || (rc = read_tokens(r, err)) != LLM_OK
        || (rc = llm_tok_index(t, true, r->path, err)) != LLM_OK
        || (rc = read_merges(r, err)) != LLM_OK) {
        return rc;
    }
    t->ignore_merges = pre & PRE_WHOLE;
    rc = read_special_ids(r, pre & PRE_BOS, false, none, err);
    t->unk_id = -1;     /* of no use: a byte without a token is left out */
    return rc;
}

static llm_code_t
read_llama(reader_t *r, llm_err_t *err)
{
    static const int32_t ids[3] = { 1, 2, 0 };
    llm_tok_t *t = r->t;
    bool prefix = true;
    t->model = LLM_TOK_BPE;
    t->spaces = t->byte_fallback = t->fuse_unk = true;
    llm_code_t rc = llm_gguf_bool(r->g, KEY("add_space_prefix"), &prefix, err);
    if (rc != LLM_OK) {
        return rc;
    }
    if (r->scores == NULL) {
        return llm_fail(err, LLM_E_FORMAT, "%s: no " KEY("scores") " for a SentencePiece tokenizer",
                        r->path);
    }
    t->dec = (llm_dec_t){
        .kind = LLM_DEC_PIECES, .byte_fallback = true, .strip_left = prefix, .strip_char = ' '
    };
    t->op[t->n_ops++] = (llm_normop_t) { .kind = LLM_NORM_SPACES, .left = prefix };
    if ((rc = read_tokens(r, err)) != LLM_OK
        || (rc = llm_tok_index(t, true, r->path, err)) != LLM_OK
        || (rc = merges_from_scores(r, err)) != LLM_OK) {
        return rc;
    }
    return read_special_ids(r, true, false, ids, err);
}

static llm_code_t
read_charsmap(reader_t *r, llm_err_t *err)
{
    llm_tok_t *t = r->t;
    const llm_gguf_kv_t *kv = llm_gguf_find(r->g, KEY("precompiled_charsmap"));
    if (kv == NULL || (kv->type == LLM_GGUF_ARRAY && kv->n == 0)) {
        return LLM_OK;
    }
    if (kv->type != LLM_GGUF_ARRAY || (kv->elem != LLM_GGUF_U8 && kv->elem != LLM_GGUF_I8)) {
        return llm_fail(err, LLM_E_FORMAT,
                        "%s: " KEY("precompiled_charsmap") " is not an array of bytes", r->path);
    }
    t->op[t->n_ops++] = (llm_normop_t) { .kind = LLM_NORM_CHARSMAP };
    return llm_charsmap_set(t, kv->data, (size_t) kv->n, r->path, err);
}

static llm_code_t
read_t5(reader_t *r, llm_err_t *err)
{
    static const int32_t ids[3] = { -1, 1, 2 };
    llm_tok_t *t = r->t;
    bool prefix = true, squeeze = true;
    t->model = LLM_TOK_UNIGRAM;
    t->spaces = true;
    llm_code_t rc;
    if ((rc = llm_gguf_bool(r->g, KEY("add_space_prefix"), &prefix, err)) != LLM_OK
        || (rc = llm_gguf_bool(r->g, KEY("remove_extra_whitespaces"), &squeeze, err)) != LLM_OK
        || (rc = read_charsmap(r, err)) != LLM_OK)
    {
        return rc;
    }
    if (r->scores == NULL) {
        return llm_fail(err, LLM_E_FORMAT, "%s: no " KEY("scores") " for a Unigram tokenizer",
                        r->path);
    }
    t->dec = (llm_dec_t) { .kind = LLM_DEC_METASPACE, .strip_marks = prefix };
    if (squeeze) {
        t->stage[t->n_stages++] = (llm_stage_t) {
            .kind = LLM_SPLIT_CLASS, .mask = LLM_UC_SPACE, .behave = LLM_BEHAVE_REMOVED };
    }
    t->stage[t->n_stages++] = (llm_stage_t) { .kind = LLM_SPLIT_METASPACE,
                                             .split = true,
                                             .prepend = prefix ? LLM_PREPEND_ALWAYS
                                                               : LLM_PREPEND_NEVER };
    if ((rc = read_tokens(r, err)) != LLM_OK
        || (rc = llm_tok_index(t, true, r->path, err)) != LLM_OK) {
        return rc;
    }
    t->score = malloc((size_t) r->n * sizeof(*t->score));
    if (t->score == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for %u scores", r->path, r->n);
    }
    double least = 0;
    for (uint32_t id = 0; id < r->n; id++) {
        t->score[id] = score_of(r, id);
        if (type_of(r, id) == TYPE_NORMAL && t->score[id] < least) {
            least = t->score[id];
        }
    }
    t->unk_score = least - LLM_UNIGRAM_UNK_PENALTY;
    return read_special_ids(r, false, true, ids, err);
}

llm_code_t
llm_tok_from_gguf(llm_tok_t **out, const llm_gguf_t *g, llm_err_t *err)
{
    static const struct {
        const char *name;
        llm_code_t (*read)(reader_t *, llm_err_t *);
    } models[] = { { "gpt2", read_gpt2 }, { "llama", read_llama }, { "t5", read_t5 } };

    *out = NULL;
    reader_t r = { .g = g, .path = llm_gguf_path(g) };
    llm_span_t model = { NULL, 0 };
    llm_code_t rc = llm_gguf_str(g, KEY("model"), &model, err);
    if (rc != LLM_OK) {
        return rc;
    }
    r.tokens = llm_gguf_find(g, KEY("tokens"));
    if (model.data == NULL || r.tokens == NULL || r.tokens->type != LLM_GGUF_ARRAY
        || r.tokens->elem != LLM_GGUF_STRING) {
        return llm_fail(err, LLM_E_FORMAT, "%s: no tokenizer (%s is missing or of another type)",
                        r.path, model.data == NULL ? KEY("model") : KEY("tokens"));
    }
    if (r.tokens->n == 0 || r.tokens->n > LLM_TOK_MAX_VOCAB) {
        return llm_fail(err, LLM_E_FORMAT, "%s: %llu tokens, 1 to %u are allowed", r.path,
                        (unsigned long long) r.tokens->n, LLM_TOK_MAX_VOCAB);
    }
    r.n = (uint32_t) r.tokens->n;
    size_t i = 0;
    while (i < 3
           && !(strlen(models[i].name) == model.len
                && memcmp(models[i].name, model.data, model.len) == 0)) {
        i++;
    }
    if (i == 3) {
        return llm_fail(err, LLM_E_UNSUPPORTED, "%s: tokenizer model \"%.*s\" is not supported",
                        r.path, (int) (model.len < 64 ? model.len : 64), model.data);
    }
    if ((rc = token_array(&r, KEY("token_type"), false, &r.types, err)) != LLM_OK
        || (rc = token_array(&r, KEY("scores"), true, &r.scores, err)) != LLM_OK
        || (rc = llm_tok_new(&r.t, r.n, err)) != LLM_OK)
    {
        return rc;
    }
    if ((rc = models[i].read(&r, err)) != LLM_OK || (rc = add_tokens(&r, err)) != LLM_OK
        || (rc = llm_tok_finish(r.t, r.path, err)) != LLM_OK)
    {
        llm_tok_free(r.t);
        return rc;
    }
    *out = r.t;
    return LLM_OK;
}
