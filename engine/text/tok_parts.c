/*
 * tok_parts.c - the components of tokenizer.json: normalizer, pre_tokenizer, post_processor,
 * decoder (spec models.md 8.1).
 *
 * Sequences are flattened. Whatever is not known is refused by its name: a tokenizer that is almost
 * right would feed the model text that it was never trained on.
 */
#include "text/tok_json.h"

#include <stdlib.h>
#include <string.h>

#define MAX_PARTS 16    /* members of a flattened sequence */

const char *
llm_json_str(const json_t *obj, const char *key, size_t *len)
{
    const json_t *v = json_object_get(obj, key);
    const char *s = json_string_value(v);
    size_t n = s != NULL ? json_string_length(v) : 0;
    if (len != NULL) {
        *len = n;
    } else if (s != NULL && strlen(s) != n) {
        return NULL;        /* the caller compares C strings */
    }
    return s;
}

bool
llm_json_flag(const json_t *obj, const char *key, bool dflt)
{
    const json_t *v = json_object_get(obj, key);
    return json_is_boolean(v) ? json_is_true(v) : dflt;
}

/* ---------------------------------------------------------------- flattening */

typedef struct {
    const json_t *part[MAX_PARTS];
    const char   *type[MAX_PARTS];
    unsigned      n;
} parts_t;

/* list: the key that holds the members of a Sequence. */
static llm_code_t
flatten(parts_t *p, const json_t *v, const char *what, const char *list, const char *where,
        llm_err_t *err)
{
    if (v == NULL || json_is_null(v)) {
        return LLM_OK;
    }
    const char *type = llm_json_str(v, "type", NULL);
    if (type == NULL) {
        return llm_fail(err, LLM_E_FORMAT, "%s: %s without a type", where, what);
    }
    if (strcmp(type, "Sequence") == 0) {
        const json_t *items = json_object_get(v, list);
        if (!json_is_array(items)) {
            return llm_fail(err, LLM_E_FORMAT, "%s: %s Sequence without %s", where, what, list);
        }
        llm_code_t rc = LLM_OK;
        for (size_t i = 0; rc == LLM_OK && i < json_array_size(items); i++) {
            rc = flatten(p, json_array_get(items, i), what, list, where, err);
        }
        return rc;
    }
    if (p->n == MAX_PARTS) {
        return llm_fail(err, LLM_E_UNSUPPORTED, "%s: more than %d %ss in a row", where, MAX_PARTS,
                        what);
    }
    p->part[p->n] = v;
    p->type[p->n++] = type;
    return LLM_OK;
}

static llm_code_t
unknown_part(const char *what, const char *type, const char *where, llm_err_t *err)
{
    return llm_fail(err, LLM_E_UNSUPPORTED, "%s: %s \"%.64s\" is not supported", where, what, type);
}

/* Copies a string of at most 15 bytes. */
static llm_code_t
short_string(char out[16], uint32_t *n, const char *s, size_t len, const char *what,
             const char *where, llm_err_t *err)
{
    if (s == NULL || len > 15) {
        return llm_fail(err, LLM_E_UNSUPPORTED, "%s: %s of %zu bytes, at most 15 are supported",
                        where, what, len);
    }
    memcpy(out, s, len);
    *n = (uint32_t) len;
    return LLM_OK;
}

/* -------------------------------------------------------------- normalizer */

static int
base64_value(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *p = c != '\0' ? strchr(digits, c) : NULL;
    return p != NULL ? (int) (p - digits) : -1;
}

static llm_code_t
charsmap(llm_tok_t *t, const json_t *v, const char *where, llm_err_t *err)
{
    size_t n, len = 0;
    const char *s = llm_json_str(v, "precompiled_charsmap", &n);
    if (s == NULL || t->charsmap.unit != NULL) {
        return llm_fail(err, LLM_E_FORMAT, "%s: normalizer Precompiled %s", where,
                        s == NULL ? "without precompiled_charsmap" : "appears twice");
    }
    uint8_t *blob = malloc(n / 4 * 3 + 3);
    if (blob == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for a charsmap", where);
    }
    uint32_t acc = 0;
    unsigned bits = 0;
    llm_code_t rc = LLM_OK;
    for (size_t i = 0; i < n && s[i] != '='; i++) {
        int d = base64_value(s[i]);
        if (d < 0) {
            rc = llm_fail(err, LLM_E_FORMAT,
                          "%s: precompiled_charsmap is not base64 at character %zu", where, i);
            break;
        }
        acc = acc << 6 | (uint32_t) d;
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            blob[len++] = (uint8_t) (acc >> bits);
        }
    }
    if (rc == LLM_OK) {
        rc = llm_charsmap_set(t, blob, len, where, err);
    }
    free(blob);
    return rc;
}

/* The literal of a pattern, or its regular expression. */
static const char *
pattern(const json_t *v, bool *regex, size_t *len)
{
    const json_t *p = json_object_get(v, "pattern");
    const char *s = llm_json_str(p, "String", len);
    *regex = s == NULL;
    return s != NULL ? s : llm_json_str(p, "Regex", len);
}

static llm_code_t
norm_replace(llm_normop_t *op, const json_t *v, const char *where, llm_err_t *err)
{
    bool regex;
    size_t n_from, n_to;
    const char *from = pattern(v, &regex, &n_from), *to = llm_json_str(v, "content", &n_to);
    op->kind = LLM_NORM_REPLACE;
    if (regex) {
        if (from == NULL || n_from != 5 || memcmp(from, " {2,}", 5) != 0) {
            return llm_fail(err, LLM_E_UNSUPPORTED,
                            "%s: normalizer Replace with pattern \"%.200s\" is not supported",
                            where, from != NULL ? from : "(none)");
        }
        op->kind = LLM_NORM_SPACE_RUNS;
        from = "  ";
        n_from = 2;
    }
    if (n_from == 0) {
        return llm_fail(err, LLM_E_FORMAT, "%s: normalizer Replace with an empty pattern", where);
    }
    llm_code_t rc = short_string(op->from, &op->n_from, from, n_from, "pattern of Replace", where,
                                 err);
    return rc != LLM_OK
               ? rc
               : short_string(op->to, &op->n_to, to, n_to, "content of Replace", where, err);
}

static llm_code_t
norm_part(llm_tok_t *t, const json_t *v, const char *type, const char *where, llm_err_t *err)
{
    static const struct { const char *name; llm_normop_kind_t kind; } plain[] = {
        { "NFC", LLM_NORM_NFC }, { "NFKC", LLM_NORM_NFKC }, { "Lowercase", LLM_NORM_LOWER },
    };
    if (t->n_ops == LLM_TOK_MAX_OPS) {
        return llm_fail(err, LLM_E_UNSUPPORTED, "%s: more than %d normalizers", where,
                        LLM_TOK_MAX_OPS);
    }
    llm_normop_t *op = &t->op[t->n_ops++];
    for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++) {
        if (strcmp(type, plain[i].name) == 0) {
            op->kind = plain[i].kind;
            return LLM_OK;
        }
    }
    if (strcmp(type, "Strip") == 0) {
        op->kind = LLM_NORM_STRIP;
        op->left = llm_json_flag(v, "strip_left", true);
        op->right = llm_json_flag(v, "strip_right", true);
        return LLM_OK;
    }
    if (strcmp(type, "Prepend") == 0) {
        size_t len;
        const char *s = llm_json_str(v, "prepend", &len);
        op->kind = LLM_NORM_PREPEND;
        return short_string(op->to, &op->n_to, s, len, "prepend of Prepend", where, err);
    }
    if (strcmp(type, "Replace") == 0) {
        return norm_replace(op, v, where, err);
    }
    if (strcmp(type, "Precompiled") == 0) {
        op->kind = LLM_NORM_CHARSMAP;
        return charsmap(t, v, where, err);
    }
    return unknown_part("normalizer", type, where, err);
}

llm_code_t
llm_part_normalizer(llm_tok_t *t, const json_t *v, const char *where, llm_err_t *err)
{
    parts_t p = { .n = 0 };
    llm_code_t rc = flatten(&p, v, "normalizer", "normalizers", where, err);
    for (unsigned i = 0; rc == LLM_OK && i < p.n; i++) {
        rc = norm_part(t, p.part[i], p.type[i], where, err);
    }
    return rc;
}

/* ----------------------------------------------------------- pre-tokenizer */

static llm_code_t
behaviour(llm_behave_t *out, const json_t *v, const char *where, llm_err_t *err)
{
    static const struct { const char *name; llm_behave_t behave; } all[] = {
        { "Isolated", LLM_BEHAVE_ISOLATED }, { "Removed", LLM_BEHAVE_REMOVED },
        { "MergedWithPrevious", LLM_BEHAVE_PREVIOUS }, { "MergedWithNext", LLM_BEHAVE_NEXT },
        { "Contiguous", LLM_BEHAVE_CONTIGUOUS },
    };
    const char *s = llm_json_str(v, "behavior", NULL);
    *out = LLM_BEHAVE_ISOLATED;
    for (size_t i = 0; s != NULL && i < sizeof(all) / sizeof(all[0]); i++) {
        if (strcmp(s, all[i].name) == 0) {
            *out = all[i].behave;
            return LLM_OK;
        }
    }
    return s == NULL ? LLM_OK : unknown_part("behavior", s, where, err);
}

#define REST_G " ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define HEAD_T "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define REST_T "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* The patterns of published tokenizers; some are written in two ways. */
static const struct { const char *regex; llm_split_kind_t kind; unsigned n; } patterns[] = {
    { "'s|'t|'re|'ve|'m|'ll|'d|" REST_G, LLM_SPLIT_G, 0 },
    { "'(?:[sdmt]|ll|ve|re)|" REST_G, LLM_SPLIT_G, 0 },
    { HEAD_T "\\p{N}{1,3}" REST_T, LLM_SPLIT_T, 3 },
    { HEAD_T "\\p{N}" REST_T, LLM_SPLIT_T, 1 },
    { " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+", LLM_SPLIT_BLOOM, 0 },
    { "[0-9][0-9][0-9]", LLM_SPLIT_DIGITS3, 0 },
};

static llm_code_t
split_part(llm_stage_t *st, const json_t *v, const char *where, llm_err_t *err)
{
    bool regex;
    size_t len;
    const char *s = pattern(v, &regex, &len);
    llm_code_t rc = behaviour(&st->behave, v, where, err);
    if (rc != LLM_OK) {
        return rc;
    }
    st->invert = llm_json_flag(v, "invert", false);
    if (!regex) {
        st->kind = LLM_SPLIT_STRING;
        if (len == 0 || st->mapped) {
            return llm_fail(err, LLM_E_UNSUPPORTED, "%s: pre_tokenizer Split on \"%.64s\" %s",
                            where, s, len == 0 ? "(nothing)" : "after ByteLevel");
        }
        return short_string(st->text, &st->n_text, s, len, "pattern of Split", where, err);
    }
    for (size_t i = 0; s != NULL && i < sizeof(patterns) / sizeof(patterns[0]); i++) {
        if (strlen(patterns[i].regex) == len && memcmp(s, patterns[i].regex, len) == 0
            && (!st->mapped || patterns[i].kind == LLM_SPLIT_DIGITS3)) {
            st->kind = patterns[i].kind;
            st->n = patterns[i].n;
            return LLM_OK;
        }
    }
    return llm_fail(err, LLM_E_UNSUPPORTED,
                    "%s: pre_tokenizer Split with pattern \"%.200s\"%s is not supported", where,
                    s != NULL ? s : "(none)", st->mapped ? " after ByteLevel" : "");
}

static llm_code_t
metaspace_part(llm_stage_t *st, const json_t *v, const char *where, llm_err_t *err)
{
    const char *mark = llm_json_str(v, "replacement", NULL);
    const char *scheme = llm_json_str(v, "prepend_scheme", NULL);
    st->kind = LLM_SPLIT_METASPACE;
    st->split = llm_json_flag(v, "split", true);
    if (mark == NULL || strcmp(mark, LLM_SPACE_MARK) != 0) {
        return llm_fail(err, LLM_E_UNSUPPORTED,
                        "%s: Metaspace with replacement \"%.16s\" is not supported", where,
                        mark != NULL ? mark : "");
    }
    if (scheme == NULL) {
        st->prepend = llm_json_flag(v, "add_prefix_space", true) ? LLM_PREPEND_ALWAYS
                                                                 : LLM_PREPEND_NEVER;
    } else if (strcmp(scheme, "always") == 0) {
        st->prepend = LLM_PREPEND_ALWAYS;
    } else if (strcmp(scheme, "first") == 0) {
        st->prepend = LLM_PREPEND_FIRST;
    } else if (strcmp(scheme, "never") == 0) {
        st->prepend = LLM_PREPEND_NEVER;
    } else {
        return unknown_part("prepend_scheme", scheme, where, err);
    }
    return LLM_OK;
}

static llm_code_t
add_stage(llm_tok_t *t, llm_stage_t st, const char *where, llm_err_t *err)
{
    if (t->n_stages == LLM_TOK_MAX_STAGES) {
        return llm_fail(err, LLM_E_UNSUPPORTED, "%s: more than %d pre_tokenizers", where,
                        LLM_TOK_MAX_STAGES);
    }
    t->stage[t->n_stages++] = st;
    return LLM_OK;
}

static llm_code_t
byte_level_part(llm_tok_t *t, const json_t *v, int prefix_space, const char *where, llm_err_t *err)
{
    bool prefix = prefix_space >= 0 ? prefix_space : llm_json_flag(v, "add_prefix_space", true);
    llm_code_t rc = LLM_OK;
    if (t->byte_level) {
        return llm_fail(err, LLM_E_UNSUPPORTED, "%s: two ByteLevel pre_tokenizers", where);
    }
    if (prefix) {
        rc = add_stage(t, (llm_stage_t) { .kind = LLM_SPLIT_PREFIX_SPACE }, where, err);
    }
    if (rc == LLM_OK && llm_json_flag(v, "use_regex", true)) {
        rc = add_stage(t, (llm_stage_t) { .kind = LLM_SPLIT_G }, where, err);
    }
    t->byte_level = true;
    return rc;
}

static llm_code_t
pre_part(llm_tok_t *t, const json_t *v, const char *type, int prefix_space, const char *where,
         llm_err_t *err)
{
    llm_stage_t st = { .kind = LLM_SPLIT_CLASS, .mapped = t->byte_level };
    llm_code_t rc = LLM_OK;
    if (strcmp(type, "ByteLevel") == 0) {
        return byte_level_part(t, v, prefix_space, where, err);
    }
    if (strcmp(type, "Split") == 0) {
        rc = split_part(&st, v, where, err);
    } else if (strcmp(type, "Digits") == 0) {
        st.mask = LLM_UC_NUMBER;
        st.behave = llm_json_flag(v, "individual_digits", false) ? LLM_BEHAVE_ISOLATED
                                                                 : LLM_BEHAVE_CONTIGUOUS;
    } else if (strcmp(type, "Punctuation") == 0) {
        st.mask = LLM_UC_PUNCT;
        rc = behaviour(&st.behave, v, where, err);
    } else if (strcmp(type, "WhitespaceSplit") == 0) {
        st.mask = LLM_UC_SPACE;
        st.behave = LLM_BEHAVE_REMOVED;
    } else if (strcmp(type, "Metaspace") == 0 && !t->byte_level) {
        rc = metaspace_part(&st, v, where, err);
    } else {
        return unknown_part(t->byte_level ? "pre_tokenizer after ByteLevel" : "pre_tokenizer", type,
                            where, err);
    }
    return rc != LLM_OK ? rc : add_stage(t, st, where, err);
}

llm_code_t
llm_part_pretokenizer(llm_tok_t *t, const json_t *v, int prefix_space, const char *where,
                      llm_err_t *err)
{
    parts_t p = { .n = 0 };
    const char *top = llm_json_str(v, "type", NULL);
    if (top == NULL || strcmp(top, "ByteLevel") != 0) {
        prefix_space = -1;
    }
    llm_code_t rc = flatten(&p, v, "pre_tokenizer", "pretokenizers", where, err);
    for (unsigned i = 0; rc == LLM_OK && i < p.n; i++) {
        rc = pre_part(t, p.part[i], p.type[i], prefix_space, where, err);
    }
    return rc;
}

static bool
is_mark(const char *s, uint32_t n)
{
    return n == 3 && memcmp(s, LLM_SPACE_MARK, 3) == 0;
}

llm_code_t
llm_part_settle(llm_tok_t *t, const char *where, llm_err_t *err)
{
    for (unsigned i = 0; i < t->n_stages; i++) {
        if (t->stage[i].kind == LLM_SPLIT_METASPACE) {
            if (i + 1 < t->n_stages) {
                return llm_fail(err, LLM_E_UNSUPPORTED,
                                "%s: a pre_tokenizer after Metaspace is not supported", where);
            }
            t->spaces = true;
        }
    }
    llm_normop_t *last = t->n_ops > 0 ? &t->op[t->n_ops - 1] : NULL;
    if (last == NULL || t->byte_level || last->kind != LLM_NORM_REPLACE || last->n_from != 1
        || last->from[0] != ' ' || !is_mark(last->to, last->n_to)) {
        return LLM_OK;
    }
    /* nothing is left to split on spaces then (Gemma); any other stage sees real marks */
    if (t->n_stages == 1 && t->stage[0].kind == LLM_SPLIT_STRING && t->stage[0].n_text == 1
        && t->stage[0].text[0] == ' ' && !t->stage[0].invert) {
        t->n_stages = 0;
    }
    if (t->n_stages == 0 || (t->n_stages == 1 && t->spaces)) {
        last->kind = LLM_NORM_SPACES;
        t->spaces = true;
        if (t->n_ops > 1 && last[-1].kind == LLM_NORM_PREPEND
            && is_mark(last[-1].to, last[-1].n_to)) {
            last[-1] = (llm_normop_t) { .kind = LLM_NORM_SPACES, .left = true };
            t->n_ops--;
        }
    }
    return LLM_OK;
}

/* ---------------------------------------------------------------- decoder */

static bool
is_replace_mark(const json_t *v)
{
    bool regex;
    size_t n, m;
    const char *from = pattern(v, &regex, &n), *to = llm_json_str(v, "content", &m);
    return from != NULL && !regex && is_mark(from, (uint32_t) n) && to != NULL && m == 1
           && to[0] == ' ';
}

static llm_code_t
strip_part(llm_tok_t *t, const json_t *v, const char *where, llm_err_t *err)
{
    size_t len;
    const char *s = llm_json_str(v, "content", &len);
    json_int_t start = json_integer_value(json_object_get(v, "start")),
               stop = json_integer_value(json_object_get(v, "stop"));
    if (s == NULL || len != 1 || (uint8_t) s[0] >= 0x80 || stop != 0 || start < 0 || start > 1000) {
        return llm_fail(err, LLM_E_UNSUPPORTED,
                        "%s: decoder Strip of \"%.16s\" (%lld, %lld) is not supported", where,
                        s != NULL ? s : "", (long long) start, (long long) stop);
    }
    t->dec.strip_left = (uint32_t) start;
    t->dec.strip_char = (uint8_t) s[0];
    return LLM_OK;
}

/* In this order, all but the first optional; Strip needs Fuse. */
static llm_code_t
pieces_decoder(llm_tok_t *t, const parts_t *p, const char *where, llm_err_t *err)
{
    static const char *const order[] = { "Replace", "ByteFallback", "Fuse", "Strip" };
    unsigned at = 0;
    bool fused = false;
    t->dec.kind = LLM_DEC_PIECES;
    for (unsigned i = 0; i < p->n; i++) {
        unsigned k = at;
        while (k < 4 && strcmp(p->type[i], order[k]) != 0) {
            k++;
        }
        if (k == 4 || (i == 0) != (k == 0) || (k == 0 && !is_replace_mark(p->part[i]))
            || (k == 3 && !fused)) {
            return llm_fail(err, LLM_E_UNSUPPORTED,
                            "%s: decoder \"%.64s\" in place %u is not supported", where, p->type[i],
                            i);
        }
        fused |= k == 2;
        t->dec.byte_fallback |= k == 1;
        if (k == 3) {
            llm_code_t rc = strip_part(t, p->part[i], where, err);
            if (rc != LLM_OK) {
                return rc;
            }
        }
        at = k + 1;
    }
    return LLM_OK;
}

llm_code_t
llm_part_decoder(llm_tok_t *t, const json_t *v, const char *where, llm_err_t *err)
{
    parts_t p = { .n = 0 };
    llm_code_t rc = flatten(&p, v, "decoder", "decoders", where, err);
    if (rc != LLM_OK) {
        return rc;
    }
    if (p.n == 0) {
        return llm_fail(err, LLM_E_UNSUPPORTED, "%s: no decoder", where);
    }
    bool bytes = p.n == 1 && strcmp(p.type[0], "ByteLevel") == 0;
    if (bytes != t->byte_level) {
        return llm_fail(err, LLM_E_UNSUPPORTED,
                        "%s: decoder \"%.64s\" with a model over %s is not supported", where,
                        p.type[0], t->byte_level ? "bytes" : "characters");
    }
    if (bytes) {
        t->dec.kind = LLM_DEC_BYTE_LEVEL;
        return LLM_OK;
    }
    if (p.n == 1 && strcmp(p.type[0], "Metaspace") == 0) {
        llm_stage_t st = { .kind = LLM_SPLIT_METASPACE };
        rc = metaspace_part(&st, p.part[0], where, err);
        t->dec.kind = LLM_DEC_METASPACE;
        t->dec.strip_marks = st.prepend != LLM_PREPEND_NEVER;
        return rc;
    }
    return pieces_decoder(t, &p, where, err);
}

/* ---------------------------------------------------------- post-processor */

/* Puts ids in front of (or behind) those that are there. */
static llm_code_t
wrap(int32_t *dst, unsigned *n, const int32_t *ids, unsigned n_ids, bool front, const char *where,
     llm_err_t *err)
{
    if (n_ids > LLM_TOK_MAX_SPECIAL - *n) {
        return llm_fail(err, LLM_E_UNSUPPORTED, "%s: post_processor adds more than %d tokens",
                        where, LLM_TOK_MAX_SPECIAL);
    }
    if (front) {
        memmove(dst + n_ids, dst, *n * sizeof(*dst));
    }
    memcpy(front ? dst : dst + *n, ids, n_ids * sizeof(*dst));
    *n += n_ids;
    return LLM_OK;
}

static llm_code_t
check_id(const llm_tok_t *t, const json_t *v, int32_t *id, const char *where, llm_err_t *err)
{
    json_int_t n = json_integer_value(v);
    if (!json_is_integer(v) || n < 0 || n >= (json_int_t) t->n_vocab
        || !(t->flags[n] & LLM_TF_EXISTS)) {
        return llm_fail(err, LLM_E_FORMAT,
                        "%s: post_processor adds id %lld, which is not a token (vocabulary of %u)",
                        where, (long long) n, t->n_vocab);
    }
    *id = (int32_t) n;
    return LLM_OK;
}

static llm_code_t
template_part(llm_tok_t *t, const json_t *v, const char *where, llm_err_t *err)
{
    const json_t *single = json_object_get(v, "single"),
                 *special = json_object_get(v, "special_tokens");
    int32_t side[2][LLM_TOK_MAX_SPECIAL];
    unsigned n[2] = { 0, 0 }, after = 0;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i),
                     *token = json_object_get(item, "SpecialToken");
        if (token == NULL) {
            const char *id = llm_json_str(json_object_get(item, "Sequence"), "id", NULL);
            if (id == NULL || strcmp(id, "A") != 0 || after++ > 0) {
                return llm_fail(err, LLM_E_UNSUPPORTED,
                                "%s: TemplateProcessing whose single is not tokens around one $A",
                                where);
            }
            continue;
        }
        const char *name = llm_json_str(token, "id", NULL);
        const json_t *ids = name != NULL ? json_object_get(json_object_get(special, name), "ids")
                                         : NULL;
        for (size_t k = 0; k < json_array_size(ids); k++) {
            if (n[after] == LLM_TOK_MAX_SPECIAL) {
                return llm_fail(err, LLM_E_UNSUPPORTED,
                                "%s: post_processor adds more than %d tokens", where,
                                LLM_TOK_MAX_SPECIAL);
            }
            llm_code_t rc = check_id(t, json_array_get(ids, k), &side[after][n[after]++], where,
                                     err);
            if (rc != LLM_OK) {
                return rc;
            }
        }
        if (json_array_size(ids) == 0) {
            return llm_fail(err, LLM_E_FORMAT,
                            "%s: TemplateProcessing uses \"%.64s\", which special_tokens lacks",
                            where, name != NULL ? name : "");
        }
    }
    if (after == 0) {
        return llm_fail(err, LLM_E_UNSUPPORTED, "%s: TemplateProcessing without $A", where);
    }
    llm_code_t rc = wrap(t->pre_id, &t->n_pre, side[0], n[0], true, where, err);
    return rc != LLM_OK ? rc : wrap(t->post_id, &t->n_post, side[1], n[1], false, where, err);
}

static llm_code_t
roberta_part(llm_tok_t *t, const json_t *v, const char *where, llm_err_t *err)
{
    int32_t cls = -1, sep = -1;
    llm_code_t rc;
    if ((rc = check_id(t, json_array_get(json_object_get(v, "cls"), 1), &cls, where, err)) != LLM_OK
        || (rc = check_id(t, json_array_get(json_object_get(v, "sep"), 1), &sep, where, err))
               != LLM_OK
        || (rc = wrap(t->pre_id, &t->n_pre, &cls, 1, true, where, err)) != LLM_OK) {
        return rc;
    }
    return wrap(t->post_id, &t->n_post, &sep, 1, false, where, err);
}

llm_code_t
llm_part_postprocessor(llm_tok_t *t, const json_t *v, const char *where, llm_err_t *err)
{
    parts_t p = { .n = 0 };
    llm_code_t rc = flatten(&p, v, "post_processor", "processors", where, err);
    for (unsigned i = 0; rc == LLM_OK && i < p.n; i++) {
        if (strcmp(p.type[i], "TemplateProcessing") == 0) {
            rc = template_part(t, p.part[i], where, err);
        } else if (strcmp(p.type[i], "RobertaProcessing") == 0) {
            rc = roberta_part(t, p.part[i], where, err);
        } else if (strcmp(p.type[i], "ByteLevel") != 0) {      /* ByteLevel only trims offsets */
            rc = unknown_part("post_processor", p.type[i], where, err);
        }
    }
    return rc;
}
