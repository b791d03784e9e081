/*
 * tok_json.c - tokenizer.json with its companions: vocabulary, merges, added and special tokens,
 * and the settings of tokenizer_config.json that override it (spec models.md 8.1). The components
 * are read by tok_parts.c.
 */
#include "text/tok_json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SPARE_IDS                                                                                  \
    4096 /* ids may exceed twice the number of tokens by so many: bounds memory of hostile files   \
          */

typedef struct { const char *s; size_t len; } text_t;

typedef struct {
    const char  *where;         /* file name for messages */
    const json_t *model, *vocab, *added, *config, *special_map,
        *extra; /* extra: added_tokens_decoder */
    bool         unigram;
    llm_tok_t   *t;
    text_t *text; /* [n] by id while the vocabulary is put together; s == NULL: no token */
    uint32_t     n;
} reader_t;

/* ------------------------------------------------------------ counting ids */

static llm_code_t
see_id(reader_t *r, json_int_t id, const char *s, uint32_t *n, llm_err_t *err)
{
    if (id < 0 || id >= LLM_TOK_MAX_VOCAB) {
        return llm_fail(err, LLM_E_FORMAT, "%s: token \"%.64s\" has id %lld, 0 to %u are allowed",
                        r->where, s, (long long) id, LLM_TOK_MAX_VOCAB - 1);
    }
    if ((uint32_t) id >= *n) {
        *n = (uint32_t) id + 1;
    }
    return LLM_OK;
}

/* The id of a member of added_tokens (its "id") or of added_tokens_decoder (its key); -1 when it is
 * no number. */
static json_int_t
added_id(const json_t *def, const char *key)
{
    const json_t *id = json_object_get(def, "id");
    if (key == NULL) {
        return json_is_integer(id) ? json_integer_value(id) : -1;
    }
    json_int_t n = 0;
    for (const char *p = key; *p != '\0'; p++) {
        if (*p < '0' || *p > '9' || n > LLM_TOK_MAX_VOCAB) {
            return -1;
        }
        n = n * 10 + (*p - '0');
    }
    return *key != '\0' ? n : -1;
}

/* Sets r->n to one past the largest id. */
static llm_code_t
count_ids(reader_t *r, llm_err_t *err)
{
    uint32_t n = 0;
    size_t count = r->unigram ? json_array_size(r->vocab) : json_object_size(r->vocab);
    llm_code_t rc = LLM_OK;
    const char *key;
    json_t *v;
    size_t i;
    if (r->unigram) {
        rc = count > 0 ? see_id(r, (json_int_t) count - 1, "(last)", &n, err) : LLM_OK;
    } else {
        json_object_foreach((json_t *) r->vocab, key, v) {
            if (rc == LLM_OK) {
                rc = see_id(r, json_is_integer(v) ? json_integer_value(v) : -1, key, &n, err);
            }
        }
    }
    json_array_foreach(r->added, i, v) {
        if (rc == LLM_OK) {
            const char *s = llm_json_str(v, "content", NULL);
            rc = see_id(r, added_id(v, NULL), s != NULL ? s : "", &n, err);
        }
    }
    json_object_foreach((json_t *) r->extra, key, v) {
        if (rc == LLM_OK) {
            const char *s = llm_json_str(v, "content", NULL);
            rc = see_id(r, added_id(v, key), s != NULL ? s : "", &n, err);
        }
    }
    count += json_array_size(r->added) + json_object_size(r->extra);
    if (rc == LLM_OK && (n == 0 || n / 2 > count + SPARE_IDS)) {
        return llm_fail(err, LLM_E_FORMAT, "%s: ids up to %u for %zu tokens", r->where, n, count);
    }
    r->n = n;
    return rc;
}

/* -------------------------------------------------------------- vocabulary */

static llm_code_t
take(reader_t *r, json_int_t id, const char *s, size_t len, llm_err_t *err)
{
    text_t *x = &r->text[id];
    if (x->s != NULL && (x->len != len || memcmp(x->s, s, len) != 0)) {
        return llm_fail(err, LLM_E_FORMAT, "%s: id %lld belongs to \"%.64s\" and to \"%.64s\"",
                        r->where, (long long) id, x->s, s);
    }
    x->s = s;
    x->len = len;
    return LLM_OK;
}

static llm_code_t
take_unigram(reader_t *r, llm_err_t *err)
{
    llm_tok_t *t = r->t;
    llm_code_t rc = LLM_OK;
    double least = INFINITY;
    t->score = calloc(r->n, sizeof(*t->score));
    if (t->score == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for %u scores", r->where, r->n);
    }
    for (size_t i = 0; rc == LLM_OK && i < json_array_size(r->vocab); i++) {
        const json_t *pair = json_array_get(r->vocab, i), *s = json_array_get(pair, 0),
                     *score = json_array_get(pair, 1);
        if (!json_is_string(s) || !json_is_number(score) || !isfinite(json_number_value(score))) {
            return llm_fail(err, LLM_E_FORMAT, "%s: vocab entry %zu is not a text and a score",
                            r->where, i);
        }
        t->score[i] = json_number_value(score);
        least = t->score[i] < least ? t->score[i] : least;
        t->flags[i] |= LLM_TF_MODEL;
        rc = take(r, (json_int_t) i, json_string_value(s), json_string_length(s), err);
    }
    t->unk_score = least - LLM_UNIGRAM_UNK_PENALTY;
    return rc;
}

static llm_code_t
take_bpe(reader_t *r, llm_err_t *err)
{
    llm_code_t rc = LLM_OK;
    const char *key;
    json_t *v;
    json_object_foreach((json_t *) r->vocab, key, v) {
        if (rc == LLM_OK) {
            json_int_t id = json_integer_value(v);
            r->t->flags[id] |= LLM_TF_MODEL;
            rc = take(r, id, key, strlen(key), err);
        }
    }
    return rc;
}

static bool
is_byte_name(const char *s, size_t len)
{
    return len == 6 && memcmp(s, "<0x", 3) == 0 && s[5] == '>'
           && strspn(s + 3, "0123456789abcdefABCDEF") == 2;
}

/* Texts of tokens that are only added; a text that the model has already keeps the model's id. */
static llm_code_t
take_added(reader_t *r, const json_t *def, json_int_t id, llm_err_t *err)
{
    size_t len;
    const char *s = llm_json_str(def, "content", &len);
    if (s == NULL) {
        return llm_fail(err, LLM_E_FORMAT, "%s: added token %lld without content", r->where,
                        (long long) id);
    }
    const json_t *known = !r->unigram && strlen(s) == len ? json_object_get(r->vocab, s) : NULL;
    if (known != NULL && json_integer_value(known) != id) {
        return llm_fail(err, LLM_E_FORMAT,
                        "%s: added token \"%.64s\" has id %lld, but %lld in the vocabulary",
                        r->where, s, (long long) id, (long long) json_integer_value(known));
    }
    return take(r, id, s, len, err);
}

/* Fills texts and flags and makes the hashes. */
static llm_code_t
read_vocab(reader_t *r, llm_err_t *err)
{
    llm_tok_t *t = r->t;
    llm_code_t rc = r->unigram ? take_unigram(r, err) : take_bpe(r, err);
    const char *key;
    json_t *v;
    size_t i;
    json_array_foreach(r->added, i, v) {
        rc = rc == LLM_OK ? take_added(r, v, added_id(v, NULL), err) : rc;
    }
    json_object_foreach((json_t *) r->extra, key, v) {
        rc = rc == LLM_OK ? take_added(r, v, added_id(v, key), err) : rc;
    }
    for (uint32_t id = 0; rc == LLM_OK && id < r->n; id++) {
        const text_t *x = &r->text[id];
        if (!llm_strs_add(&t->text, r->n, x->s, x->len)) {
            return llm_fail(err, LLM_E_NOMEM, "%s: no memory for the texts of %u tokens", r->where,
                            r->n);
        }
        if (x->s != NULL) {
            t->flags[id] |= LLM_TF_EXISTS;
            if (t->dec.byte_fallback && is_byte_name(x->s, x->len)) {
                t->flags[id] |= LLM_TF_BYTE;
            }
        }
    }
    return rc == LLM_OK ? llm_tok_index(t, false, r->where, err) : rc;
}

/* ------------------------------------------------------------------ merges */

/* "a b", or ["a", "b"] */
static llm_code_t
read_merge(reader_t *r, uint32_t rank, const json_t *v, llm_buf_t *scratch, llm_err_t *err)
{
    if (json_is_string(v)) {
        const char *s = json_string_value(v);
        size_t n = json_string_length(v);
        const char *gap = memchr(s, ' ', n);
        if (gap != NULL && memchr(gap + 1, ' ', n - (size_t) (gap + 1 - s)) == NULL) {
            return llm_tok_merge(r->t, rank, s, (size_t) (gap - s), gap + 1,
                                 n - (size_t) (gap + 1 - s), scratch, r->where, err);
        }
    } else if (json_array_size(v) == 2) {
        const json_t *a = json_array_get(v, 0), *b = json_array_get(v, 1);
        if (json_is_string(a) && json_is_string(b)) {
            return llm_tok_merge(r->t, rank, json_string_value(a), json_string_length(a),
                                 json_string_value(b), json_string_length(b), scratch, r->where,
                                 err);
        }
    }
    return llm_fail(err, LLM_E_FORMAT, "%s: merge %u is not two tokens", r->where, rank);
}

static llm_code_t
init_merges(reader_t *r, size_t n, llm_err_t *err)
{
    if (n > LLM_TOK_MAX_MERGES) {
        return llm_fail(err, LLM_E_FORMAT, "%s: %zu merges, at most %u are allowed", r->where, n,
                        LLM_TOK_MAX_MERGES);
    }
    if (!llm_pairs_init(&r->t->pairs, (uint32_t) n, r->t->seed)) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for %zu merges", r->where, n);
    }
    return LLM_OK;
}

static llm_code_t
read_merges(reader_t *r, const json_t *merges, llm_err_t *err)
{
    size_t n = json_array_size(merges);
    llm_buf_t scratch = { 0 };
    llm_code_t rc = init_merges(r, n, err);
    for (size_t i = 0; rc == LLM_OK && i < n; i++) {
        rc = read_merge(r, (uint32_t) i, json_array_get(merges, i), &scratch, err);
    }
    free(scratch.s);
    return rc;
}

/* merges.txt: a comment line "#version…", then "a b" on each line */
static llm_code_t
read_merges_txt(reader_t *r, const char *s, size_t n, llm_err_t *err)
{
    size_t lines = 1;
    for (size_t i = 0; i < n; i++) {
        lines += s[i] == '\n';
    }
    llm_buf_t scratch = { 0 };
    llm_code_t rc = init_merges(r, lines, err);
    uint32_t rank = 0;
    for (size_t at = 0, line = 1; rc == LLM_OK && at < n; line++) {
        const char *p = s + at, *nl = memchr(p, '\n', n - at);
        size_t len = nl != NULL ? (size_t) (nl - p) : n - at;
        at += len + 1;
        if (len > 0 && p[len - 1] == '\r') {
            len--;
        }
        if (len == 0 || (len >= 8 && memcmp(p, "#version", 8) == 0)) {
            continue;
        }
        const char *gap = memchr(p, ' ', len);
        size_t n_a = gap != NULL ? (size_t) (gap - p) : len;
        if (gap == NULL || memchr(gap + 1, ' ', len - n_a - 1) != NULL) {
            rc = llm_fail(err, LLM_E_FORMAT, "%s: line %zu of merges.txt is not two tokens",
                          r->where, line);
        } else {
            rc = llm_tok_merge(r->t, rank++, p, n_a, gap + 1, len - n_a - 1, &scratch, r->where,
                               err);
        }
    }
    free(scratch.s);
    return rc;
}

/* ----------------------------------------------------- added, special tokens */

static llm_code_t
add_one(reader_t *r, const json_t *def, int32_t id, bool special, bool normalized, llm_err_t *err)
{
    size_t len;
    const uint8_t *s = llm_strs_get(&r->t->text, (uint32_t) id, &len);
    llm_added_t a = {
        .id = id, .text = (char *) s, .len = (uint32_t) len,
        .special = special || llm_json_flag(def, "special", false),
        .normalized = llm_json_flag(def, "normalized", normalized),
        .single_word = llm_json_flag(def, "single_word", false),
        .lstrip = llm_json_flag(def, "lstrip", false),
        .rstrip = llm_json_flag(def, "rstrip", false),
    };
    return llm_tok_add(r->t, &a, r->where, err);
}

/* The text of a special token: a string, or an object with content. */
static const char *
token_text(const json_t *v, size_t *len)
{
    if (json_is_string(v)) {
        *len = json_string_length(v);
        return json_string_value(v);
    }
    return llm_json_str(v, "content", len);
}

/* A setting of tokenizer_config.json, or of special_tokens_map.json. */
static const json_t *
setting(const reader_t *r, const char *key)
{
    const json_t *v = json_object_get(r->config, key);
    return v != NULL ? v : json_object_get(r->special_map, key);
}

/* A named special token that is in the vocabulary but not among the added ones becomes one. */
static llm_code_t
name_special(reader_t *r, const json_t *v, int32_t *id, llm_err_t *err)
{
    size_t len;
    const char *s = token_text(v, &len);
    *id = s != NULL ? llm_tok_find(r->t, s, len) : -1;
    if (*id < 0 || (r->t->flags[*id] & LLM_TF_ADDED)) {
        return LLM_OK;
    }
    return add_one(r, v, *id, true, false, err);
}

static llm_code_t
read_added(reader_t *r, llm_err_t *err)
{
    static const char *const names[] = {
        "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
    };
    llm_tok_t *t = r->t;
    llm_code_t rc = LLM_OK;
    const char *key;
    json_t *v;
    size_t i;
    json_array_foreach(r->added, i, v) {
        rc = rc == LLM_OK ? add_one(r, v, (int32_t) added_id(v, NULL), false, true, err) : rc;
    }
    json_object_foreach((json_t *) r->extra, key, v) {
        rc = rc == LLM_OK ? add_one(r, v, (int32_t) added_id(v, key), false, true, err) : rc;
    }
    for (i = 0; rc == LLM_OK && i < sizeof(names) / sizeof(names[0]); i++) {
        int32_t id;
        rc = name_special(r, setting(r, names[i]), &id, err);
        if (i < 2) {
            *(i == 0 ? &t->bos : &t->eos) = id;
        }
    }
    const json_t *more = setting(r, "additional_special_tokens");
    json_array_foreach(more, i, v) {
        int32_t id;
        rc = rc == LLM_OK ? name_special(r, v, &id, err) : rc;
    }
    return rc;
}

/* ---------------------------------------------------------------- settings */

/* tokenizer_class without its "Fast". */
static bool
is_class(const reader_t *r, const char *const *names, size_t n)
{
    const char *s = llm_json_str(r->config, "tokenizer_class", NULL);
    size_t len = s != NULL ? strlen(s) : 0;
    if (len > 4 && strcmp(s + len - 4, "Fast") == 0) {
        len -= 4;
    }
    for (size_t i = 0; i < n; i++) {
        if (strlen(names[i]) == len && memcmp(names[i], s, len) == 0) {
            return true;
        }
    }
    return false;
}

/* Classes whose own settings decide about BOS and EOS, whatever post_processor says. */
static void
apply_class(reader_t *r)
{
    static const char *const always[] = { "LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer",
                                          "GPTNeoXTokenizer" };
    static const char *const bos_only[] = { "GPT2Tokenizer", "CodeGenTokenizer" };
    llm_tok_t *t = r->t;
    bool all = is_class(r, always, 4), neox = is_class(r, always + 3, 1);
    bool bos = llm_json_flag(r->config, "add_bos_token", all && !neox),
         eos = llm_json_flag(r->config, "add_eos_token", false);
    if (all || (is_class(r, bos_only, 2) && bos)) {
        t->n_pre = t->n_post = 0;
        if (bos && t->bos >= 0) {
            t->pre_id[t->n_pre++] = t->bos;
        }
        if (all && eos && t->eos >= 0) {
            t->post_id[t->n_post++] = t->eos;
        }
    }
    t->dec.clean_up = llm_json_flag(r->config, "clean_up_tokenization_spaces", false);
}

/* generation_config.json may name more ids that end a generation. */
static void
read_generation(reader_t *r, const json_t *generation)
{
    const json_t *v = json_object_get(generation, "eos_token_id");
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *x = json_is_array(v) ? json_array_get(v, i) : v;
        json_int_t id = json_integer_value(x);
        if (json_is_integer(x) && id >= 0 && id < (json_int_t) r->n) {
            r->t->flags[id] |= LLM_TF_EOG;
        }
    }
}

/* ------------------------------------------------------------------- model */

static llm_code_t
check_model(reader_t *r, llm_err_t *err)
{
    static const char *const affixes[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    const char *type = llm_json_str(r->model, "type", NULL);
    if (type == NULL) {     /* early files leave it out */
        type = json_object_get(r->model, "merges") != NULL   ? "BPE"
               : json_object_get(r->model, "unk_id") != NULL ? "Unigram"
                                                             : "";
    }
    r->unigram = strcmp(type, "Unigram") == 0;
    if (!r->unigram && strcmp(type, "BPE") != 0) {
        return llm_fail(err, LLM_E_UNSUPPORTED, "%s: model \"%.64s\" is not supported", r->where,
                        type);
    }
    for (size_t i = 0; i < 2; i++) {
        const char *s = llm_json_str(r->model, affixes[i], NULL);
        if (s != NULL && *s != '\0') {
            return llm_fail(err, LLM_E_UNSUPPORTED, "%s: %s \"%.64s\" is not supported", r->where,
                            affixes[i], s);
        }
    }
    if (json_number_value(json_object_get(r->model, "dropout")) != 0) {
        return llm_fail(err, LLM_E_UNSUPPORTED, "%s: BPE dropout is not supported", r->where);
    }
    r->vocab = json_object_get(r->model, "vocab");
    if (r->unigram ? !json_is_array(r->vocab) : !json_is_object(r->vocab)) {
        return llm_fail(err, LLM_E_FORMAT, "%s: model has no vocab", r->where);
    }
    return LLM_OK;
}

static llm_code_t
read_unknown(reader_t *r, llm_err_t *err)
{
    llm_tok_t *t = r->t;
    size_t len;
    const char *unk = llm_json_str(r->model, "unk_token", &len);
    const json_t *id = json_object_get(r->model, "unk_id");
    t->byte_fallback = llm_json_flag(r->model, "byte_fallback", false);
    t->fuse_unk = llm_json_flag(r->model, "fuse_unk", false);
    t->ignore_merges = llm_json_flag(r->model, "ignore_merges", false);
    if (r->unigram) {
        if (json_is_integer(id)) {
            json_int_t n = json_integer_value(id);
            if (n < 0 || (size_t) n >= json_array_size(r->vocab)) {
                return llm_fail(err, LLM_E_FORMAT, "%s: unk_id %lld, the vocabulary has %zu tokens",
                                r->where, (long long) n, json_array_size(r->vocab));
            }
            t->unk_id = (int32_t) n;
        }
    } else if (unk != NULL) {
        t->unk_id = llm_tok_find(t, unk, len);
        if (t->unk_id < 0 && !t->byte_level) {
            return llm_fail(err, LLM_E_FORMAT, "%s: unk_token \"%.64s\" is not a token", r->where,
                            unk);
        }
    }
    return LLM_OK;
}

/* Everything after the JSON was parsed; root is NULL for vocab.json + merges.txt. */
static llm_code_t
build(reader_t *r, const json_t *root, const json_t *generation, const llm_tok_texts_t *x,
      llm_err_t *err)
{
    llm_code_t rc;
    if ((rc = count_ids(r, err)) != LLM_OK || (rc = llm_tok_new(&r->t, r->n, err)) != LLM_OK) {
        return rc;
    }
    llm_tok_t *t = r->t;
    t->model = r->unigram ? LLM_TOK_UNIGRAM : LLM_TOK_BPE;
    r->text = calloc(r->n, sizeof(*r->text));
    if (r->text == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for %u tokens", r->where, r->n);
    }
    int prefix = r->config != NULL ? llm_json_flag(r->config, "add_prefix_space", false) : -1;
    if (root == NULL) {
        t->byte_level = true;
        t->dec.kind = LLM_DEC_BYTE_LEVEL;
        if (prefix > 0) {
            t->stage[t->n_stages++] = (llm_stage_t) { .kind = LLM_SPLIT_PREFIX_SPACE };
        }
        t->stage[t->n_stages++] = (llm_stage_t) { .kind = LLM_SPLIT_G };
    } else if ((rc = llm_part_normalizer(t, json_object_get(root, "normalizer"), r->where, err))
                   != LLM_OK
               || (rc = llm_part_pretokenizer(t, json_object_get(root, "pre_tokenizer"), prefix,
                                              r->where, err))
                      != LLM_OK
               || (rc = llm_part_settle(t, r->where, err)) != LLM_OK
               || (rc = llm_part_decoder(t, json_object_get(root, "decoder"), r->where, err))
                      != LLM_OK) {
        return rc;
    }
    if (r->unigram && t->byte_level) {
        return llm_fail(err, LLM_E_UNSUPPORTED, "%s: a Unigram model over bytes is not supported",
                        r->where);
    }
    if ((rc = read_vocab(r, err)) != LLM_OK || (rc = read_unknown(r, err)) != LLM_OK) {
        return rc;
    }
    if (root == NULL) {
        rc = read_merges_txt(r, x->merges, x->n_merges, err);
    } else if (!r->unigram) {
        rc = read_merges(r, json_object_get(r->model, "merges"), err);
    }
    if (rc != LLM_OK || (rc = read_added(r, err)) != LLM_OK
        || (rc = llm_part_postprocessor(t, json_object_get(root, "post_processor"), r->where, err))
               != LLM_OK) {
        return rc;
    }
    apply_class(r);
    read_generation(r, generation);
    llm_tok_mark_eog(t);
    return llm_tok_finish(t, r->where, err);
}

/* Parses one of the texts; an absent one is NULL. */
static llm_code_t
parse(json_t **out, const llm_tok_texts_t *x, const char *file, const char *s, size_t n,
      llm_err_t *err)
{
    char what[256];
    *out = NULL;
    if (s == NULL) {
        return LLM_OK;
    }
    snprintf(what, sizeof(what), "%.200s/%s", x->where, file);
    llm_code_t rc = llm_json_parse(out, what, s, n, err);
    if (rc == LLM_OK && !json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        return llm_fail(err, LLM_E_FORMAT, "%s: not a JSON object", what);
    }
    return rc;
}

llm_code_t
llm_tok_from_texts(llm_tok_t **out, const llm_tok_texts_t *x, llm_err_t *err)
{
    json_t *root = NULL, *config = NULL, *map = NULL, *generation = NULL, *vocab = NULL;
    char where[256];
    reader_t r = { .where = where };
    llm_code_t rc;
    *out = NULL;
    snprintf(where, sizeof(where), "%.200s/%s", x->where,
             x->tokenizer != NULL ? "tokenizer.json" : "vocab.json");
    if (x->tokenizer == NULL && (x->vocab == NULL || x->merges == NULL)) {
        return llm_fail(err, LLM_E_IO, "%s: neither tokenizer.json nor vocab.json with merges.txt",
                        x->where);
    }
    if ((rc = parse(&root, x, "tokenizer.json", x->tokenizer, x->n_tokenizer, err)) != LLM_OK
        || (rc = parse(&config, x, "tokenizer_config.json", x->config, x->n_config, err)) != LLM_OK
        || (rc = parse(&map, x, "special_tokens_map.json", x->special_map, x->n_special_map, err))
               != LLM_OK
        || (rc = parse(&generation, x, "generation_config.json", x->generation, x->n_generation,
                       err))
               != LLM_OK
        || (rc = parse(&vocab, x, "vocab.json", root == NULL ? x->vocab : NULL, x->n_vocab, err))
               != LLM_OK) {
        goto done;
    }
    r.config = config;
    r.special_map = map;
    r.extra = json_object_get(config, "added_tokens_decoder");
    r.vocab = vocab;
    if (root != NULL) {
        r.model = json_object_get(root, "model");
        r.added = json_object_get(root, "added_tokens");
        rc = check_model(&r, err);
    }
    if (rc == LLM_OK) {
        rc = build(&r, root, generation, x, err);
    }
    if (rc == LLM_OK) {
        *out = r.t;
        r.t = NULL;
    }
done:
    llm_tok_free(r.t);
    free(r.text);
    json_decref(root);
    json_decref(config);
    json_decref(map);
    json_decref(generation);
    json_decref(vocab);
    return rc;
}
