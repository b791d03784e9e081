/*
 * unicode_late.c - where the Unicode version of utf8proc matters.
 *
 * Text must be split exactly as by the reference (`tokenizers` 0.22), whose parts know different
 * versions of Unicode: its regular expressions 16, its normalizers 9, its punctuation 8.
 * utf8proc 2.8 knows 15. Ranges are inclusive.
 */
#include "base/unicode_late.h"

typedef struct { uint32_t from, to; } range_t;

/* Category L since Unicode 15.1 or 16 */
static const range_t letters[] = {
    { 0x1c89, 0x1c8a }, { 0xa7cb, 0xa7cd }, { 0xa7da, 0xa7dc }, { 0x105c0, 0x105f3 },
    { 0x10d4a, 0x10d65 }, { 0x10d6f, 0x10d85 }, { 0x10ec2, 0x10ec4 }, { 0x11380, 0x11389 },
    { 0x1138b, 0x1138b }, { 0x1138e, 0x1138e }, { 0x11390, 0x113b5 }, { 0x113b7, 0x113b7 },
    { 0x113d1, 0x113d1 }, { 0x113d3, 0x113d3 }, { 0x11bc0, 0x11be0 }, { 0x13460, 0x143fa },
    { 0x16100, 0x1611d }, { 0x16d40, 0x16d6c }, { 0x18cff, 0x18cff }, { 0x1e5d0, 0x1e5ed },
    { 0x1e5f0, 0x1e5f0 }, { 0x2ebf0, 0x2ee5d },
};

/* Category N since Unicode 16 */
static const range_t numbers[] = {
    { 0x10d40, 0x10d49 }, { 0x116d0, 0x116e3 }, { 0x11bf0, 0x11bf9 }, { 0x16130, 0x16139 },
    { 0x16d70, 0x16d79 }, { 0x1ccf0, 0x1ccf9 }, { 0x1e5f1, 0x1e5fa },
};

/* Category P, but not yet in Unicode 8 */
static const range_t late_punct[] = {
    { 0x61d, 0x61d }, { 0x9fd, 0x9fd }, { 0xa76, 0xa76 }, { 0xc77, 0xc77 }, { 0xc84, 0xc84 },
    { 0x1b7d, 0x1b7e }, { 0x2e43, 0x2e4f }, { 0x2e52, 0x2e5d }, { 0x10ead, 0x10ead },
    { 0x10f55, 0x10f59 }, { 0x10f86, 0x10f89 }, { 0x1144b, 0x1144f }, { 0x1145a, 0x1145b },
    { 0x1145d, 0x1145d }, { 0x11660, 0x1166c }, { 0x116b9, 0x116b9 }, { 0x1183b, 0x1183b },
    { 0x11944, 0x11946 }, { 0x119e2, 0x119e2 }, { 0x11a3f, 0x11a46 }, { 0x11a9a, 0x11a9c },
    { 0x11a9e, 0x11aa2 }, { 0x11b00, 0x11b09 }, { 0x11c41, 0x11c45 }, { 0x11c70, 0x11c71 },
    { 0x11ef7, 0x11ef8 }, { 0x11f43, 0x11f4f }, { 0x11fff, 0x11fff }, { 0x12ff1, 0x12ff2 },
    { 0x16e97, 0x16e9a }, { 0x16fe2, 0x16fe2 }, { 0x1e95e, 0x1e95f },
};

/* Category P in Unicode 8, another one today */
static const range_t early_punct[] = { { 0x166d, 0x166d }, { 0x111c9, 0x111c9 } };

/* Marks with a combining class that came after Unicode 9: to the normalizers they are starters */
static const range_t late_marks[] = {
    { 0x7fd, 0x7fd }, { 0x898, 0x89f }, { 0x8ca, 0x8d3 }, { 0x9fe, 0x9fe }, { 0xc3c, 0xc3c },
    { 0xd3b, 0xd3c }, { 0xeba, 0xeba }, { 0x1715, 0x1715 }, { 0x1abf, 0x1ace }, { 0x1df6, 0x1dfa },
    { 0xa82c, 0xa82c }, { 0x10d24, 0x10d27 }, { 0x10eab, 0x10eac }, { 0x10efd, 0x10eff },
    { 0x10f46, 0x10f50 }, { 0x10f82, 0x10f85 }, { 0x11070, 0x11070 }, { 0x1133b, 0x1133b },
    { 0x1145e, 0x1145e }, { 0x11839, 0x1183a }, { 0x1193d, 0x1193e }, { 0x11943, 0x11943 },
    { 0x119e0, 0x119e0 }, { 0x11a34, 0x11a34 }, { 0x11a47, 0x11a47 }, { 0x11a99, 0x11a99 },
    { 0x11d42, 0x11d42 }, { 0x11d44, 0x11d45 }, { 0x11d97, 0x11d97 }, { 0x11f41, 0x11f42 },
    { 0x16ff0, 0x16ff1 }, { 0x1e08f, 0x1e08f }, { 0x1e130, 0x1e136 }, { 0x1e2ae, 0x1e2ae },
    { 0x1e2ec, 0x1e2ef }, { 0x1e4ec, 0x1e4ef },
};

/* Compatibility decompositions that came after Unicode 9 */
static const range_t late_compat[] = {
    { 0x32ff, 0x32ff }, { 0xa7f2, 0xa7f4 }, { 0xab69, 0xab69 }, { 0x10781, 0x10785 },
    { 0x10787, 0x107b0 }, { 0x107b2, 0x107ba }, { 0x1e030, 0x1e06d }, { 0x1f16c, 0x1f16c },
    { 0x1fbf0, 0x1fbf9 },
};

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

static void
change(uint16_t *flags, const range_t *r, size_t n, unsigned set, unsigned clear)
{
    for (size_t i = 0; i < n; i++) {
        for (uint32_t c = r[i].from; c <= r[i].to; c++) {
            flags[c] = (uint16_t) ((flags[c] & ~clear) | set);
        }
    }
}

void
llm_uc_late_flags(uint16_t *flags)
{
    change(flags, letters, COUNT(letters), LLM_UC_LETTER | LLM_UC_WORD, 0);
    change(flags, numbers, COUNT(numbers), LLM_UC_NUMBER | LLM_UC_WORD, 0);
    change(flags, late_punct, COUNT(late_punct), 0, LLM_UC_PUNCT);
    change(flags, early_punct, COUNT(early_punct), LLM_UC_PUNCT, 0);
}

/* The ranges ascend. */
static bool
in(const range_t *r, size_t n, uint32_t cp)
{
    for (size_t i = 0; i < n && cp >= r[i].from; i++) {
        if (cp <= r[i].to) {
            return true;
        }
    }
    return false;
}

bool
llm_uc_late_mark(uint32_t cp)
{
    return in(late_marks, COUNT(late_marks), cp);
}

bool
llm_uc_late_compat(uint32_t cp)
{
    return in(late_compat, COUNT(late_compat), cp);
}
