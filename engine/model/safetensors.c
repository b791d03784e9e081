/*
 * safetensors.c - reader of one safetensors file.
 *
 *   u64 n   n bytes of JSON: { "name": { "dtype", "shape", "data_offsets": [begin, end] }, ... }
 *   tensor data; offsets count from here
 *
 * The header is untrusted and may be 100 MB long, so it is not made into a tree: a parser of just
 * this form walks it once, keeps nothing but tensors and cannot nest. Tensors must tile the data:
 * no overlap, no hole, nothing behind the last one.
 */
#include "model/ckpt_impl.h"
#include "base/unicode.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the header length is read in place");

#define MAX_HEADER ((uint64_t) 100000000)   /* the format's own limit */
#define SHOWN_NAME 63                       /* bytes of a name in a message */

typedef struct {
    llm_ckpt_t *c;
    const char *path;
    const char *text;
    size_t      len, pos;
    uint64_t    data_start, data_size;      /* in the file */
    char       *str;            /* the last string, unescaped: room for len bytes */
    size_t      str_len;
    char        name[SHOWN_NAME + 1];       /* of the tensor being parsed, for messages */
    llm_err_t  *err;
} parser_t;

/* ------------------------------------------------------------------- words */

static bool
is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static void
skip_space(parser_t *p)
{
    while (p->pos < p->len && is_space(p->text[p->pos])) {
        p->pos++;
    }
}

/* The next character is c: step over it. */
static bool
accept(parser_t *p, char c)
{
    skip_space(p);
    if (p->pos >= p->len || p->text[p->pos] != c) {
        return false;
    }
    p->pos++;
    return true;
}

static llm_code_t
wrong(parser_t *p, const char *want)
{
    skip_space(p);
    if (p->pos >= p->len) {
        return llm_fail(p->err, LLM_E_FORMAT, "%s: header ends at byte %zu, expected %s", p->path,
                        p->pos, want);
    }
    char c = p->text[p->pos];
    char shown[2] = { c >= 0x20 && c < 0x7f ? c : '?' };
    return llm_fail(p->err, LLM_E_FORMAT, "%s: header byte %zu is \"%s\", expected %s", p->path,
                    p->pos, shown, want);
}

static llm_code_t
expect(parser_t *p, char c, const char *want)
{
    return accept(p, c) ? LLM_OK : wrong(p, want);
}

/* Four hexadecimal digits at the cursor; -1: they are not. */
static int
hex4(parser_t *p)
{
    int v = 0;
    if (p->len - p->pos < 4) {
        return -1;
    }
    for (int i = 0; i < 4; i++) {
        char c = p->text[p->pos++], lower = (char) (c | 0x20);
        int digit = c >= '0' && c <= '9' ? c - '0' : lower >= 'a' && lower <= 'f' ? lower - 'a' + 10
                                                                                  : -1;
        if (digit < 0) {
            return -1;
        }
        v = v * 16 + digit;
    }
    return v;
}

/* What follows a backslash; its text is never longer than the escape. */
static bool
escape(parser_t *p)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = p->pos < p->len ? p->text[p->pos++] : '\0';
    const char *at = c != '\0' ? strchr(from, c) : NULL;
    if (at != NULL) {
        p->str[p->str_len++] = to[at - from];
        return true;
    }
    int hi = c == 'u' ? hex4(p) : -1;
    if (hi < 0 || (hi >= 0xdc00 && hi < 0xe000)) {
        return false;
    }
    if (hi < 0xd800 || hi >= 0xe000) {
        p->str_len += llm_utf8_put((uint8_t *) p->str + p->str_len, (uint32_t) hi);
        return true;
    }
    if (p->len - p->pos < 6 || p->text[p->pos] != '\\' || p->text[p->pos + 1] != 'u') {
        return false;
    }
    p->pos += 2;
    int lo = hex4(p);
    if (lo < 0xdc00 || lo >= 0xe000) {
        return false;
    }
    uint32_t c32 = 0x10000 + ((uint32_t) (hi - 0xd800) << 10) + (uint32_t) (lo - 0xdc00);
    p->str_len += llm_utf8_put((uint8_t *) p->str + p->str_len, c32);
    return true;
}

/* A string into p->str. */
static llm_code_t
string(parser_t *p, const char *want)
{
    llm_code_t rc = expect(p, '"', want);
    size_t start = p->pos;
    p->str_len = 0;
    while (rc == LLM_OK) {
        if (p->pos >= p->len) {
            return llm_fail(p->err, LLM_E_FORMAT, "%s: header: string at byte %zu does not end",
                            p->path, start);
        }
        char c = p->text[p->pos++];
        if (c == '"') {
            break;
        }
        if ((unsigned char) c < 0x20 || (c == '\\' && !escape(p))) {
            return llm_fail(p->err, LLM_E_FORMAT, "%s: header: string at byte %zu holds a %s",
                            p->path, start, c == '\\' ? "bad escape" : "control character");
        }
        if (c != '\\') {
            p->str[p->str_len++] = c;
        }
    }
    return rc;
}

static bool
str_is(const parser_t *p, const char *s)
{
    return p->str_len == strlen(s) && memcmp(p->str, s, p->str_len) == 0;
}

/* A non-negative integer. */
static llm_code_t
integer(parser_t *p, const char *field, uint64_t *out)
{
    skip_space(p);
    size_t start = p->pos;
    bool negative = accept(p, '-');
    uint64_t v = 0;
    bool over = false;
    size_t digits = p->pos;
    while (p->pos < p->len && p->text[p->pos] >= '0' && p->text[p->pos] <= '9') {
        over |= __builtin_mul_overflow(v, 10, &v)
                || __builtin_add_overflow(v, (uint64_t) (p->text[p->pos] - '0'), &v);
        p->pos++;
    }
    if (p->pos == digits) {
        return wrong(p, "a number");
    }
    char next = p->pos < p->len ? p->text[p->pos] : ']';
    bool whole = next != '.' && next != 'e' && next != 'E';
    bool zero_first = p->text[digits] == '0' && p->pos > digits + 1;
    if (negative || !whole || over || zero_first) {
        return llm_fail(p->err, LLM_E_FORMAT, "%s: tensor \"%s\": %s holds \"%.*s%s\", %s", p->path,
                        p->name, field, (int) (p->pos - start < 40 ? p->pos - start : 40),
                        p->text + start, whole ? "" : "...",
                        negative ? "which is negative" : !whole ? "which is not an integer"
                        : over ? "which exceeds 64 bits" : "which starts with a zero");
    }
    *out = v;
    return LLM_OK;
}

/* At most max integers in brackets. */
static llm_code_t
integers(parser_t *p, const char *field, uint64_t *out, uint32_t max, uint32_t *n)
{
    llm_code_t rc = expect(p, '[', "'['");
    *n = 0;
    if (rc != LLM_OK || accept(p, ']')) {
        return rc;
    }
    do {
        uint64_t v = 0;
        rc = integer(p, field, &v);
        if (rc == LLM_OK && *n == max) {
            rc = llm_fail(p->err, LLM_E_UNSUPPORTED, "%s: tensor \"%s\": %s has more than %u "
                          "numbers", p->path, p->name, field, max);
        }
        if (rc == LLM_OK) {
            out[(*n)++] = v;
        }
    } while (rc == LLM_OK && accept(p, ','));
    return rc == LLM_OK ? expect(p, ']', "',' or ']'") : rc;
}

/* ----------------------------------------------------------------- tensors */

/* The format's names; those that only newer files have are the same as ours. */
static bool
dtype_of(const parser_t *p, llm_dtype_t *out)
{
    for (int t = 0; t < LLM_DT_COUNT; t++) {
        if (str_is(p, llm_dtype((llm_dtype_t) t)->name)) {
            *out = (llm_dtype_t) t;
            return true;
        }
    }
    return false;
}

/* The rest of a tensor's object has been read: is it sound? */
static llm_code_t
check_tensor(parser_t *p, llm_ckpt_tensor_t *t, const uint64_t *offsets)
{
    if (!llm_ckpt_size(t)) {
        return llm_fail(p->err, LLM_E_FORMAT, "%s: tensor \"%s\": shape overflows 64 bits", p->path,
                        p->name);
    }
    if (offsets[0] > offsets[1]) {
        return llm_fail(p->err, LLM_E_FORMAT, "%s: tensor \"%s\": data_offsets begin at %llu and "
                        "end at %llu", p->path, p->name, (ull_t) offsets[0], (ull_t) offsets[1]);
    }
    if (offsets[1] > p->data_size) {
        return llm_fail(p->err, LLM_E_FORMAT, "%s: tensor \"%s\": data_offsets end at %llu, the "
                        "file has %llu bytes of data", p->path, p->name, (ull_t) offsets[1],
                        (ull_t) p->data_size);
    }
    if (t->size != offsets[1] - offsets[0]) {
        return llm_fail(p->err, LLM_E_FORMAT, "%s: tensor \"%s\": shape and dtype %s make %llu "
                        "bytes, data_offsets %llu", p->path, p->name, llm_dtype(t->dtype)->name,
                        (ull_t) t->size, (ull_t) (offsets[1] - offsets[0]));
    }
    t->offset = p->data_start + offsets[0];
    return LLM_OK;
}

/* The value of one key of a tensor's object; *seen gets a bit for each. */
static llm_code_t
tensor_field(parser_t *p, llm_ckpt_tensor_t *t, uint64_t *offsets, unsigned *seen)
{
    static const char *const fields[] = { "dtype", "shape", "data_offsets" };
    unsigned f = 0;
    llm_code_t rc = string(p, "a key");
    while (rc == LLM_OK && f < 3 && !str_is(p, fields[f])) {
        f++;
    }
    if (rc == LLM_OK && (f == 3 || (*seen & 1u << f))) {
        return llm_fail(p->err, LLM_E_FORMAT, "%s: tensor \"%s\": %s key \"%.*s\"", p->path,
                        p->name, f == 3 ? "unknown" : "duplicate",
                        (int) (p->str_len < SHOWN_NAME ? p->str_len : SHOWN_NAME), p->str);
    }
    if (rc == LLM_OK) {
        rc = expect(p, ':', "':'");
    }
    if (rc != LLM_OK) {
        return rc;
    }
    *seen |= 1u << f;
    uint32_t n;
    if (f == 1) {
        return integers(p, "shape", t->dim, LLM_CKPT_MAX_DIMS, &t->n_dims);
    }
    if (f == 2) {
        rc = integers(p, "data_offsets", offsets, 2, &n);
        return rc != LLM_OK || n == 2 ? rc
               : llm_fail(p->err, LLM_E_FORMAT, "%s: tensor \"%s\": data_offsets has %u numbers, "
                          "expected 2", p->path, p->name, n);
    }
    rc = string(p, "a dtype");
    if (rc == LLM_OK && !dtype_of(p, &t->dtype)) {
        rc = llm_fail(p->err, LLM_E_UNSUPPORTED, "%s: tensor \"%s\": unknown dtype \"%.*s\"",
                      p->path, p->name, (int) (p->str_len < 20 ? p->str_len : 20), p->str);
    }
    return rc;
}

/* A tensor whose name (in p->str) and colon have been read. */
static llm_code_t
tensor(parser_t *p)
{
    static const char *const fields[] = { "dtype", "shape", "data_offsets" };
    llm_ckpt_tensor_t t = { .file = (uint32_t) p->c->n_files - 1 };
    uint64_t offsets[2];
    unsigned seen = 0;

    size_t len = p->str_len, shown = len < SHOWN_NAME ? len : SHOWN_NAME;
    char *name = malloc(len + 1);
    if (name == NULL) {
        return llm_fail(p->err, LLM_E_NOMEM, "%s: no memory for a name of %zu bytes", p->path, len);
    }
    memcpy(name, p->str, len);
    memcpy(p->name, name, shown);
    p->name[shown] = '\0';

    llm_code_t rc = accept(p, '{') ? LLM_OK
                  : llm_fail(p->err, LLM_E_FORMAT, "%s: tensor \"%s\" is no object", p->path,
                             p->name);
    if (rc == LLM_OK && !accept(p, '}')) {
        do {
            rc = tensor_field(p, &t, offsets, &seen);
        } while (rc == LLM_OK && accept(p, ','));
        if (rc == LLM_OK) {
            rc = expect(p, '}', "',' or '}'");
        }
    }
    for (unsigned f = 0; f < 3 && rc == LLM_OK; f++) {
        if ((seen & 1u << f) == 0) {
            rc = llm_fail(p->err, LLM_E_FORMAT, "%s: tensor \"%s\": \"%s\" is missing", p->path,
                          p->name, fields[f]);
        }
    }
    if (rc == LLM_OK) {
        rc = check_tensor(p, &t, offsets);
    }
    if (rc == LLM_OK) {
        rc = llm_ckpt_add_tensor(p->c, &t, name, len, p->err);
    }
    free(name);
    return rc;
}

/* Texts about the file; nothing needs them. */
static llm_code_t
metadata(parser_t *p)
{
    llm_code_t rc = expect(p, '{', "'{' of __metadata__");
    if (rc != LLM_OK || accept(p, '}')) {
        return rc;
    }
    do {
        rc = string(p, "a key of __metadata__");
        if (rc == LLM_OK) {
            rc = expect(p, ':', "':'");
        }
        if (rc == LLM_OK) {
            rc = string(p, "a string in __metadata__");
        }
    } while (rc == LLM_OK && accept(p, ','));
    return rc == LLM_OK ? expect(p, '}', "',' or '}'") : rc;
}

static llm_code_t
header(parser_t *p)
{
    bool have_metadata = false;
    if (p->len == 0 || p->text[0] != '{') {
        return wrong(p, "'{' as its first byte");
    }
    p->pos = 1;
    llm_code_t rc = LLM_OK;
    if (!accept(p, '}')) {
        do {
            rc = string(p, "the name of a tensor");
            if (rc == LLM_OK) {
                rc = expect(p, ':', "':'");
            }
            if (rc != LLM_OK || !str_is(p, "__metadata__")) {
                rc = rc == LLM_OK ? tensor(p) : rc;
                continue;
            }
            rc = have_metadata ? llm_fail(p->err, LLM_E_FORMAT, "%s: header: duplicate key "
                                          "\"__metadata__\"", p->path)
                               : metadata(p);
            have_metadata = true;
        } while (rc == LLM_OK && accept(p, ','));
        if (rc == LLM_OK) {
            rc = expect(p, '}', "',' or '}'");
        }
    }
    skip_space(p);
    return rc == LLM_OK && p->pos < p->len ? wrong(p, "the end") : rc;
}

/* ------------------------------------------------------------------ layout */

static int
by_offset(const void *a, const void *b)
{
    const llm_ckpt_tensor_t *x = a, *y = b;
    uint64_t x_end = x->offset + x->size, y_end = y->offset + y->size;
    return x->offset != y->offset ? (x->offset > y->offset) - (x->offset < y->offset)
                                  : (x_end > y_end) - (x_end < y_end);
}

/* The file's tensors, from number first on, tile its data. Sorts them. */
static llm_code_t
check_tiling(parser_t *p, size_t first)
{
    size_t n = p->c->n_tensors - first;
    llm_ckpt_tensor_t *t = n > 0 ? p->c->tensors + first : NULL;
    uint64_t at = p->data_start, end = p->data_start + p->data_size;
    if (n > 0) {
        qsort(t, n, sizeof(*t), by_offset);
    }
    for (size_t i = 0; i < n; i++) {
        if (t[i].offset < at && strcmp(t[i - 1].name, t[i].name) == 0) {
            return llm_fail(p->err, LLM_E_FORMAT, "%s: duplicate tensor \"%.*s\"", p->path,
                            SHOWN_NAME, t[i].name);
        }
        if (t[i].offset < at) {
            return llm_fail(p->err, LLM_E_FORMAT, "%s: tensors \"%.*s\" and \"%.*s\" overlap",
                            p->path, SHOWN_NAME, t[i - 1].name, SHOWN_NAME, t[i].name);
        }
        if (t[i].offset > at) {
            return llm_fail(p->err, LLM_E_FORMAT, "%s: hole of %llu bytes in front of tensor "
                            "\"%.*s\"", p->path, (ull_t) (t[i].offset - at), SHOWN_NAME, t[i].name);
        }
        at += t[i].size;
    }
    if (at < end) {
        return llm_fail(p->err, LLM_E_FORMAT, "%s: %llu trailing bytes after the last tensor",
                        p->path, (ull_t) (end - at));
    }
    return LLM_OK;
}

llm_code_t
llm_safetensors_read(llm_ckpt_t *c, llm_err_t *err)
{
    const llm_ckpt_file_t *f = &c->files[c->n_files - 1];
    uint64_t n = 0;
    if (f->size < 8) {
        return llm_fail(err, LLM_E_FORMAT, "%s: file of %llu bytes has no header length", f->path,
                        (ull_t) f->size);
    }
    llm_code_t rc = llm_ckpt_pread(f, &n, 8, 0, err);
    if (rc != LLM_OK) {
        return rc;
    }
    if (n > MAX_HEADER) {
        return llm_fail(err, LLM_E_FORMAT, "%s: header length is %llu, at most %llu are allowed",
                        f->path, (ull_t) n, (ull_t) MAX_HEADER);
    }
    if (n > f->size - 8) {
        return llm_fail(err, LLM_E_FORMAT, "%s: header of %llu bytes exceeds the file of %llu",
                        f->path, (ull_t) n, (ull_t) f->size);
    }
    char *text = malloc(2 * (size_t) n + 1);
    if (text == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for a header of %llu bytes", f->path,
                        (ull_t) n);
    }
    parser_t p = { .c = c, .path = f->path, .text = text, .len = (size_t) n, .str = text + n,
                   .data_start = 8 + n, .data_size = f->size - 8 - n, .err = err };
    size_t first = c->n_tensors;
    rc = llm_ckpt_pread(f, text, (size_t) n, 8, err);
    size_t valid = rc == LLM_OK ? llm_utf8_valid((const uint8_t *) text, (size_t) n) : 0;
    if (rc == LLM_OK && valid < n) {
        rc = llm_fail(err, LLM_E_FORMAT, "%s: header is not UTF-8 at byte %zu", f->path, valid);
    }
    if (rc == LLM_OK) {
        rc = header(&p);
    }
    if (rc == LLM_OK) {
        rc = check_tiling(&p, first);
    }
    free(text);
    return rc;
}
