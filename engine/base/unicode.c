/*
 * unicode.c - UTF-8 scanning and the property table (see unicode.h).
 *
 * utf8proc knows categories, decompositions and grapheme breaks; White_Space and the sets of the
 * splitters are listed here.
 */
#include "base/unicode.h"

#include "base/unicode_late.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define N_PAGES (LLM_UC_MAX >> 8)
#define LATE_COMPOSITE 0x11938      /* the only one between Unicode 9 and 15 (see unicode_late.h) */

uint16_t *llm_uc_pages;
uint16_t  llm_uc_index[N_PAGES];

static pthread_mutex_t init_lock = PTHREAD_MUTEX_INITIALIZER;

/* PropList.txt, White_Space */
static bool
is_white_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680
           || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f
           || c == 0x205f || c == 0x3000;
}

/* the literal members of the negated class of BLOOM's pattern; white space is added by the caller
 */
static bool
is_bloom_stop(uint32_t c)
{
    static const uint32_t set[] = {
        '(', ')', '|', '.', ',', '!', '?', 0x2026, 0x3002, 0xff0c, 0x3001, 0x0964, 0x06d4, 0x060c,
    };
    for (size_t i = 0; i < sizeof(set) / sizeof(set[0]); i++) {
        if (set[i] == c) {
            return true;
        }
    }
    return false;
}

/* Other_Alphabetic outside L, Nl and M: circled and squared letters */
static bool
is_other_alphabetic(uint32_t c)
{
    return (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149)
           || (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
}

static unsigned
category_flags(uint32_t c)
{
    switch (utf8proc_category((utf8proc_int32_t) c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return LLM_UC_LETTER | LLM_UC_WORD;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
        return LLM_UC_NUMBER | LLM_UC_WORD;
    case UTF8PROC_CATEGORY_NO:
        return LLM_UC_NUMBER;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
        return LLM_UC_WORD;
    case UTF8PROC_CATEGORY_PC:
        return LLM_UC_PUNCT | LLM_UC_WORD;
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
        return LLM_UC_PUNCT;
    default:
        return 0;
    }
}

/* Ranges that have no decompositions at all: skipping them makes the table quick to build. */
static bool
is_ideograph(uint32_t c)
{
    return (c >= 0x3400 && c <= 0x9fff) || (c >= 0x20000 && c <= 0x2f7ff)
           || (c >= 0x30000 && c < 0xe0000);
}

static unsigned
base_flags(uint32_t c)
{
    unsigned f = category_flags(c);
    if (is_white_space(c)) {
        f |= LLM_UC_SPACE | LLM_UC_BLOOM_STOP;
    }
    if (is_bloom_stop(c)) {
        f |= LLM_UC_BLOOM_STOP;
    }
    if (c == '\r' || c == '\n') {
        f |= LLM_UC_NEWLINE;
    }
    if (c < 0x80 && c > 0x20 && c != 0x7f && !(f & (LLM_UC_LETTER | LLM_UC_NUMBER))) {
        f |= LLM_UC_PUNCT;
    }
    if (is_other_alphabetic(c) || c == 0x200c || c == 0x200d) {
        f |= LLM_UC_WORD;
    }
    return f;
}

/* Recomposes a decomposition (n >= 1) and tells whether it is c again. */
static bool
recomposes(uint32_t c, const int32_t *d, unsigned n)
{
    utf8proc_int32_t buf[LLM_UC_MAX_DECOMP];
    memcpy(buf, d, n * sizeof(buf[0]));
    utf8proc_ssize_t m = utf8proc_normalize_utf32(buf, n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    return m == 1 && buf[0] == (utf8proc_int32_t) c;
}

/*
 * Clears the PLAIN flags of characters that normalization can change, and of those that can join
 * what stands in front of them (every later part of a decomposition, vowel and final jamo): a
 * superset is fine, it only costs time.
 */
static void
mark_decompositions(uint16_t *flat)
{
    for (uint32_t c = 0x80; c < LLM_UC_MAX; c++) {
        if (is_ideograph(c) || (c >= 0xac00 && c <= 0xd7a3) || (c >= 0xd800 && c <= 0xf8ff)
            || c >= 0xf0000) {
            continue;
        }
        if (llm_uc_ccc(c) != 0 || (c >= 0x1161 && c <= 0x11ff)) {
            flat[c] &= (uint16_t) ~(LLM_UC_NFC_PLAIN | LLM_UC_NFKC_PLAIN);
        }
        int32_t d[LLM_UC_MAX_DECOMP];
        unsigned n = llm_uc_decompose(c, false, d);
        if (n != 1 || d[0] != (int32_t) c) {
            if (!recomposes(c, d, n)) {
                flat[c] &= (uint16_t) ~(LLM_UC_NFC_PLAIN | LLM_UC_NFKC_PLAIN);
            }
            for (unsigned i = 1; i < n; i++) {
                flat[d[i]] &= (uint16_t) ~(LLM_UC_NFC_PLAIN | LLM_UC_NFKC_PLAIN);
            }
        }
        n = llm_uc_decompose(c, true, d);
        if ((n != 1 || d[0] != (int32_t) c) && !recomposes(c, d, n)) {
            flat[c] &= (uint16_t) ~LLM_UC_NFKC_PLAIN;
        }
    }
}

static uint32_t
page_hash(const uint16_t *page)
{
    uint32_t h = 2166136261u;
    for (unsigned i = 0; i < 256; i++) {
        h = (h ^ page[i]) * 16777619u;
    }
    return h;
}

/* Folds equal pages together: at most N_PAGES pages are looked up by hash first. */
static bool
fold_pages(const uint16_t *flat)
{
    uint32_t *hash = malloc(N_PAGES * sizeof(*hash));
    uint16_t *pages = malloc(LLM_UC_MAX * sizeof(*pages));
    if (hash == NULL || pages == NULL) {
        free(hash);
        free(pages);
        return false;
    }
    unsigned n = 0;
    for (unsigned p = 0; p < N_PAGES; p++) {
        const uint16_t *src = flat + (size_t) p * 256;
        uint32_t h = page_hash(src);
        unsigned i = 0;
        while (i < n && !(hash[i] == h && memcmp(pages + (size_t) i * 256, src, 512) == 0)) {
            i++;
        }
        if (i == n) {
            memcpy(pages + (size_t) n * 256, src, 512);
            hash[n++] = h;
        }
        llm_uc_index[p] = (uint16_t) i;
    }
    free(hash);
    uint16_t *fit = realloc(pages, (size_t) n * 512);
    __atomic_store_n(&llm_uc_pages, fit != NULL ? fit : pages, __ATOMIC_RELEASE);
    return true;
}

bool
llm_unicode_init(void)
{
    if (__atomic_load_n(&llm_uc_pages, __ATOMIC_ACQUIRE) != NULL) {
        return true;
    }
    bool ok = true;
    pthread_mutex_lock(&init_lock);
    if (llm_uc_pages == NULL) {
        uint16_t *flat = malloc(LLM_UC_MAX * sizeof(*flat));
        ok = flat != NULL;
        if (ok) {
            for (uint32_t c = 0; c < LLM_UC_MAX; c++) {
                flat[c] = (uint16_t) (base_flags(c) | LLM_UC_NFC_PLAIN | LLM_UC_NFKC_PLAIN);
            }
            llm_uc_late_flags(flat);
            mark_decompositions(flat);
            ok = fold_pages(flat);
            free(flat);
        }
    }
    pthread_mutex_unlock(&init_lock);
    return ok;
}

unsigned
llm_utf8_put(uint8_t *out, uint32_t cp)
{
    if (cp < 0x80) {
        out[0] = (uint8_t) cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (uint8_t) (0xc0 | cp >> 6);
        out[1] = (uint8_t) (0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (uint8_t) (0xe0 | cp >> 12);
        out[1] = (uint8_t) (0x80 | (cp >> 6 & 0x3f));
        out[2] = (uint8_t) (0x80 | (cp & 0x3f));
        return 3;
    }
    out[0] = (uint8_t) (0xf0 | cp >> 18);
    out[1] = (uint8_t) (0x80 | (cp >> 12 & 0x3f));
    out[2] = (uint8_t) (0x80 | (cp >> 6 & 0x3f));
    out[3] = (uint8_t) (0x80 | (cp & 0x3f));
    return 4;
}

/*
 * Steps over one sequence: its length when valid, else 0 with *good set to the bytes that are a
 * proper beginning (0: the lead byte itself is wrong). The ranges of the second byte are those of
 * table 3-7 of the Unicode Standard.
 */
static unsigned
sequence(const uint8_t *s, size_t n, unsigned *good)
{
    uint8_t c = s[0];
    if (c < 0x80) {
        return 1;
    }
    *good = 0;
    if (c < 0xc2 || c > 0xf4) {
        return 0;
    }
    unsigned len = llm_utf8_len(c);
    uint8_t lo = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    uint8_t hi = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    *good = 1;
    for (unsigned i = 1; i < len; i++) {
        if (i >= n || s[i] < lo || s[i] > hi) {
            return 0;
        }
        *good = i + 1;
        lo = 0x80;
        hi = 0xbf;
    }
    return len;
}

size_t
llm_utf8_valid(const uint8_t *s, size_t n)
{
    size_t i = 0;
    while (i < n) {
        uint64_t w;
        while (n - i >= sizeof(w)) {
            memcpy(&w, s + i, sizeof(w));
            if (w & 0x8080808080808080u) {
                break;
            }
            i += sizeof(w);
        }
        if (i == n) {
            break;
        }
        unsigned good, len = sequence(s + i, n - i, &good);
        if (len == 0) {
            break;
        }
        i += len;
    }
    return i;
}

unsigned
llm_utf8_bad(const uint8_t *s, size_t n, bool *cut)
{
    unsigned good = 0;
    unsigned len = sequence(s, n, &good);
    if (len != 0) {
        *cut = false;
        return len;
    }
    *cut = good > 0 && good == n;
    return good > 0 ? good : 1;
}

const char *
llm_uc_category(uint32_t cp)
{
    return utf8proc_category_string((utf8proc_int32_t) cp);
}

unsigned
llm_uc_ccc(uint32_t cp)
{
    unsigned ccc = (unsigned) utf8proc_get_property((utf8proc_int32_t) cp)->combining_class;
    return ccc != 0 && llm_uc_late_mark(cp) ? 0 : ccc;
}

unsigned
llm_uc_decompose(uint32_t cp, bool compat, int32_t *out)
{
    int boundclass = 0;
    utf8proc_option_t opt = UTF8PROC_DECOMPOSE | UTF8PROC_STABLE;
    if (compat && !llm_uc_late_compat(cp)) {
        opt |= UTF8PROC_COMPAT;
    }
    utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t) cp, out, LLM_UC_MAX_DECOMP, opt,
                                                 &boundclass);
    if (n < 1 || n > LLM_UC_MAX_DECOMP || cp == LATE_COMPOSITE) {
        out[0] = (int32_t) cp;
        return 1;
    }
    return (unsigned) n;
}

uint32_t
llm_uc_compose(uint32_t a, uint32_t b)
{
    utf8proc_int32_t buf[2] = { (utf8proc_int32_t) a, (utf8proc_int32_t) b };
    utf8proc_ssize_t n = utf8proc_normalize_utf32(buf, 2, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    return n == 1 && buf[0] != LATE_COMPOSITE ? (uint32_t) buf[0] : 0;
}

uint32_t
llm_uc_lower(uint32_t cp)
{
    return (uint32_t) utf8proc_tolower((utf8proc_int32_t) cp);
}

bool
llm_uc_grapheme_break(uint32_t a, uint32_t b, int *state)
{
    utf8proc_int32_t st = (utf8proc_int32_t) *state;
    bool brk = utf8proc_grapheme_break_stateful((utf8proc_int32_t) a, (utf8proc_int32_t) b, &st);
    *state = st;
    return brk;
}
