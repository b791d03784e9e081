/*
 * grammar_range.c - numbers between two limits, digit by digit.
 *
 * A range of numbers of equal length splits at its first digit into at most three parts: the
 * smallest first digit with a lower limit for the rest, digits in between with any rest, the
 * largest with an upper limit. Fractions are compared the same way. "-0" is never written.
 */
#include "run/grammar_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_FRACTION 17u                    /* digits that are written */
#define MAX_WHOLE    1000000000000000000u   /* largest whole part of a number without a limit */

static uint32_t
digits(llm_gb_t *b, uint32_t min, uint32_t max)
{
    return llm_gn_rep(b, llm_gn_byte(b, '0', '9'), min, max);
}

static uint32_t
digit(llm_gb_t *b, int lo, int hi)
{
    return lo > hi ? LLM_GN_FAIL_NODE : llm_gn_byte(b, (uint8_t) lo, (uint8_t) hi);
}

/* n digits from lo to hi. */
static uint32_t
same_length(llm_gb_t *b, const char *lo, const char *hi, uint32_t n)
{
    static const char nines[] = "99999999999999999999", zeros[] = "00000000000000000000";
    if (memcmp(lo, zeros, n) == 0 && memcmp(hi, nines, n) == 0) {
        return digits(b, n, n);
    }
    if (lo[0] == hi[0]) {
        return llm_gn_seq2(b, digit(b, lo[0], lo[0]), same_length(b, lo + 1, hi + 1, n - 1));
    }
    uint32_t part[] = {
        llm_gn_seq2(b, digit(b, lo[0], lo[0]), same_length(b, lo + 1, nines, n - 1)),
        llm_gn_seq2(b, digit(b, lo[0] + 1, hi[0] - 1), digits(b, n - 1, n - 1)),
        llm_gn_seq2(b, digit(b, hi[0], hi[0]), same_length(b, zeros, hi + 1, n - 1)),
    };
    return llm_gn_alt(b, part, 3);
}

/* Whole numbers lo..hi without leading zeros. */
static uint32_t
whole_range(llm_gb_t *b, uint64_t lo, uint64_t hi)
{
    uint32_t part[20], n = 0;
    uint64_t from = 0, to = 9;
    for (uint32_t len = 1; len <= 20 && lo <= hi; len++) {
        uint64_t x = lo > from ? lo : from, y = hi < to ? hi : to;
        if (x <= y) {
            char a[24], c[24];
            snprintf(a, sizeof(a), "%llu", (unsigned long long) x);
            snprintf(c, sizeof(c), "%llu", (unsigned long long) y);
            part[n++] = same_length(b, a, c, len);
        }
        from = len == 20 ? UINT64_MAX : to + 1;
        to = len >= 19 ? UINT64_MAX : to * 10 + 9;
    }
    return llm_gn_alt(b, part, n);
}

uint32_t
llm_gj_int_range(llm_gb_t *b, int64_t lo, int64_t hi)
{
    uint32_t part[2] = { LLM_GN_FAIL_NODE, LLM_GN_FAIL_NODE };
    if (lo > hi) {
        return LLM_GN_FAIL_NODE;
    }
    if (hi >= 0) {
        part[0] = whole_range(b, lo > 0 ? (uint64_t) lo : 0, (uint64_t) hi);
    }
    if (lo < 0) {
        uint64_t least = hi < 0 ? (uint64_t) -(hi + 1) + 1 : 1, most = (uint64_t) -(lo + 1) + 1;
        part[1] = llm_gn_seq2(b, llm_gn_byte(b, '-', '-'), whole_range(b, least, most));
    }
    return llm_gn_alt(b, part, 2);
}

/* --------------------------------------------------------------- fractions */

/* A limit without its sign: whole part and digits of the fraction, which do not end in 0. */
typedef struct {
    uint64_t whole;
    char     frac[64];
    uint32_t n;
    bool     exclusive;
} limit_t;

/* Digits k.. of a fraction that is at least f (above it: exclusive). */
static uint32_t
frac_ge(llm_gb_t *b, const limit_t *f, uint32_t k)
{
    uint32_t left = MAX_FRACTION - k;
    if (k < f->n) {
        uint32_t more = llm_gn_seq2(b, digit(b, f->frac[k] + 1, '9'), digits(b, 0, left - 1));
        return llm_gn_alt2(b, more,
                           llm_gn_seq2(b, digit(b, f->frac[k], f->frac[k]), frac_ge(b, f, k + 1)));
    }
    if (!f->exclusive) {
        return digits(b, k == 0, left);
    }
    return llm_gn_seq3(b, llm_gn_rep(b, digit(b, '0', '0'), 0, left - 1), digit(b, '1', '9'),
                       digits(b, 0, left - 1));
}

/* Digits k.. of a fraction that is at most f (below it: exclusive). */
static uint32_t
frac_le(llm_gb_t *b, const limit_t *f, uint32_t k)
{
    uint32_t left = MAX_FRACTION - k;
    if (k == f->n) {
        return f->exclusive ? LLM_GN_FAIL_NODE : llm_gn_rep(b, digit(b, '0', '0'), k == 0, left);
    }
    uint32_t part[] = {
        k > 0 ? LLM_GN_EMPTY_NODE : LLM_GN_FAIL_NODE,
        llm_gn_seq2(b, digit(b, '0', f->frac[k] - 1), digits(b, 0, left - 1)),
        llm_gn_seq2(b, digit(b, f->frac[k], f->frac[k]), frac_le(b, f, k + 1)),
    };
    return llm_gn_alt(b, part, 3);
}

static uint32_t
with_point(llm_gb_t *b, uint32_t frac, bool may_be_absent)
{
    uint32_t node = llm_gn_seq2(b, llm_gn_byte(b, '.', '.'), frac);
    return may_be_absent ? llm_gn_alt2(b, LLM_GN_EMPTY_NODE, node) : node;
}

/* Numbers from lo to hi, both without sign. */
static uint32_t
magnitudes(llm_gb_t *b, const limit_t *lo, const limit_t *hi)
{
    if (lo->whole > hi->whole) {
        return LLM_GN_FAIL_NODE;
    }
    uint32_t ge = with_point(b, frac_ge(b, lo, 0), lo->n == 0 && !lo->exclusive);
    uint32_t le = with_point(b, frac_le(b, hi, 0), hi->n > 0 || !hi->exclusive);
    uint32_t first = whole_range(b, lo->whole, lo->whole),
             last = whole_range(b, hi->whole, hi->whole);
    if (lo->whole == hi->whole) {
        return llm_gn_seq2(b, first, llm_gn_and(b, ge, le));
    }
    uint32_t part[] = {
        llm_gn_seq2(b, first, ge),
        hi->whole - lo->whole < 2 ? LLM_GN_FAIL_NODE
                                  : llm_gn_seq2(b, whole_range(b, lo->whole + 1, hi->whole - 1),
                                                with_point(b, digits(b, 1, MAX_FRACTION), true)),
        llm_gn_seq2(b, last, le),
    };
    return llm_gn_alt(b, part, 3);
}

/* The shortest decimal that reads as |d|, as digits and the number of them before the point. */
static int
shortest(double d, char *out, int *n_digits)
{
    char s[40];
    for (int p = 0; p < 17; p++) {
        snprintf(s, sizeof(s), "%.*e", p, d);
        if (strtod(s, NULL) == d) {
            break;
        }
    }
    int n = 0;
    const char *c = s;
    for (; *c != 'e' && *c != '\0'; c++) {
        if (*c >= '0' && *c <= '9') {
            out[n++] = *c;
        }
    }
    *n_digits = n;
    return *c == 'e' ? atoi(c + 1) + 1 : 1;
}

/*
 * Fills *l with |bound|; false after a failure. Beyond what is written, the limit is where that
 * ends.
 */
static bool
to_limit(llm_gb_t *b, const llm_gbound_t *x, limit_t *l)
{
    *l = (limit_t) { .exclusive = x->exclusive };
    if (x->is_int) {
        l->whole = x->i < 0 ? (uint64_t) -(x->i + 1) + 1 : (uint64_t) x->i;
    } else if (fabs(x->d) < (double) MAX_WHOLE) {
        char s[40];
        int n, point = shortest(fabs(x->d), s, &n);
        for (int i = 0; i < point; i++) {
            l->whole = l->whole * 10 + (uint64_t) (i < n ? s[i] - '0' : 0);
        }
        for (int i = point; i < n && x->d != 0; i++) {
            if (l->n == MAX_FRACTION - 1) {
                llm_gb_fail(b, "a limit of numbers has more than %u digits after the point",
                            MAX_FRACTION - 1);
                return false;
            }
            l->frac[l->n++] = i < 0 ? '0' : s[i];
        }
        while (l->n > 0 && l->frac[l->n - 1] == '0') {
            l->n--;
        }
    } else {
        l->whole = MAX_WHOLE + 1;
    }
    if (l->whole > MAX_WHOLE) {
        *l = (limit_t) { .whole = MAX_WHOLE };
    }
    return true;
}

uint32_t
llm_gj_num_range(llm_gb_t *b, const llm_gbound_t *lo, const llm_gbound_t *hi)
{
    limit_t low = { .whole = MAX_WHOLE }, high = { .whole = MAX_WHOLE }, zero = { 0 },
            above_zero = { .exclusive = true };
    double l = lo->is_int ? (double) lo->i : lo->d, h = hi->is_int ? (double) hi->i : hi->d;
    if ((lo->present && !to_limit(b, lo, &low)) || (hi->present && !to_limit(b, hi, &high))) {
        return LLM_GN_FAIL_NODE;
    }
    bool low_neg = !lo->present || l < 0, high_neg = hi->present && h < 0;
    if ((lo->present && l > (double) MAX_WHOLE) || (hi->present && h < -(double) MAX_WHOLE)) {
        return llm_gb_fail(b, "numbers beyond %llu are not written",
                           (unsigned long long) MAX_WHOLE);
    }
    uint32_t part[2] = { LLM_GN_FAIL_NODE, LLM_GN_FAIL_NODE };
    if (!high_neg) {
        part[0] = magnitudes(b, low_neg ? &zero : &low, &high);
    }
    if (low_neg) {
        part[1] = llm_gn_seq2(b, llm_gn_byte(b, '-', '-'),
                              magnitudes(b, high_neg ? &high : &above_zero, &low));
    }
    return llm_gn_alt(b, part, 2);
}
