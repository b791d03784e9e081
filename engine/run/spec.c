/*
 * spec.c - prompt lookup, and when it is worth its time (spec.h).
 *
 * A draft that fails costs the time of its row. So a sequence begins with few, gets twice as many
 * when all are kept and half when fewer than half are; and after one that was of no use it goes
 * without for a number of steps that doubles each time.
 */
#include "spec.h"

#define MIN_MATCH  2            /* tokens that must have occurred before */
#define ENOUGH     8            /* a longer match is no better */
#define MAX_LOOK   16384u       /* how far back */
#define FIRST_WIDTH 3
#define MAX_PAUSE  128

/* Tokens before a and b that are equal, with tokens[a] and tokens[b], up to ENOUGH. */
static uint32_t
match(const int32_t *tokens, uint32_t a, uint32_t b)
{
    uint32_t n = 0;
    while (n < ENOUGH && n <= a && tokens[a - n] == tokens[b - n]) {
        n++;
    }
    return n;
}

uint32_t
llm_spec_lookup(int32_t *tokens, uint32_t n_tokens, uint32_t n)
{
    uint32_t longest = MIN_MATCH - 1, from = 0;
    uint32_t last = n_tokens - 1, first = n_tokens > MAX_LOOK ? n_tokens - MAX_LOOK : 0;

    for (uint32_t at = last; at-- > first && longest < ENOUGH;) {
        if (tokens[at] == tokens[last]) {
            uint32_t len = match(tokens, at, last);
            if (len > longest) {
                longest = len;
                from = at + 1;
            }
        }
    }
    if (from == 0) {
        return 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        tokens[n_tokens + i] = tokens[from + i];    /* may go on with the drafts themselves */
    }
    return n;
}

uint32_t
llm_spec_wanted(llm_spec_t *s, uint32_t max)
{
    if (s->rest > 0) {
        s->rest--;
        return 0;
    }
    if (s->width == 0) {
        s->width = FIRST_WIDTH;
    }
    return s->width < max ? s->width : max;
}

void
llm_spec_learn(llm_spec_t *s, uint32_t n_drafts, uint32_t n_kept)
{
    if (n_kept == 0) {
        s->pause = s->pause == 0 ? 1 : s->pause < MAX_PAUSE ? 2 * s->pause : MAX_PAUSE;
        s->rest = s->pause;
        s->width = FIRST_WIDTH;
        return;
    }
    s->pause /= 2;
    if (n_kept == n_drafts) {
        s->width = n_drafts < s->width ? s->width : s->width < LLM_SPEC_MAX / 2 ? 2 * s->width
                                                                                : LLM_SPEC_MAX;
    } else if (2 * n_kept < n_drafts) {
        s->width = s->width > 2 ? s->width / 2 : 1;
    }
}
