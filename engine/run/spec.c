/*
 * spec.c - prompt lookup, and when drafts are worth their time (spec.h).
 *
 * Copies cost nothing to make. One that fails costs the time of its row. So a sequence begins with
 * few, gets twice as many when all are kept and half when fewer than half are; and after one that
 * was of no use it goes without for a number of steps that doubles each time.
 *
 * Drafts of a model cost time to make, known by measurement. With probability p that one is right
 * where the one before it was, n of them give 1 + p + ... + p^n tokens for the time 1 + n cost.
 */
#include "spec.h"

#define MIN_MATCH  2            /* tokens that must have occurred before */
#define ENOUGH     8            /* a longer match is no better */
#define MAX_LOOK   16384u       /* how far back */
#define FIRST_WIDTH 3
#define MAX_PAUSE  128
#define FIRST_TRIED 2.0f        /* as if so many had been tried ... */
#define FIRST_RIGHT 1.5f        /* ... and so many right */
#define FORGET     0.9f         /* what is left of that at each step with drafts */
#define LINE_FORGET 0.98        /* and of the weight of a point with each one that follows */
#define LINE_USUAL 4.0          /* how much points must spread to count as much as what is usual */

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

static uint16_t
longer(uint16_t pause)
{
    return pause == 0 ? 1 : pause < MAX_PAUSE ? (uint16_t) (2 * pause) : MAX_PAUSE;
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
        s->rest = s->pause = longer(s->pause);
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

uint32_t
llm_odds_wanted(llm_odds_t *o, uint32_t max, float cost)
{
    if (o->rest > 0) {
        o->rest--;
        return 0;
    }
    if (o->tried == 0) {
        o->tried = FIRST_TRIED;
        o->right = FIRST_RIGHT;
    }
    float p = o->right / o->tried, reach = 1, tokens = 1, best = 1;
    uint32_t n = 0;
    for (uint32_t i = 1; i <= max; i++) {
        reach *= p;
        tokens += reach;
        if (tokens > best * (1 + (float) i * cost)) {
            best = tokens / (1 + (float) i * cost);
            n = i;
        }
    }
    if (n > 0 || max == 0) {
        o->pause /= 2;
        return n;
    }
    if (cost >= 1) {
        return 0;
    }
    bool rested = o->pause > 0;
    o->rest = o->pause = longer(o->pause);
    return rested;
}

void
llm_odds_learn(llm_odds_t *o, uint32_t n_drafts, uint32_t n_kept)
{
    o->tried = FORGET * o->tried + (float) (n_kept < n_drafts ? n_kept + 1 : n_drafts);
    o->right = FORGET * o->right + (float) n_kept;
}

void
llm_line_add(llm_line_t *l, double x, double y)
{
    if (l->n > 0 && y > 3 * l->y) {
        y = 3 * l->y;           /* another process had the cores */
    }
    l->n = LINE_FORGET * l->n + 1;
    double dx = x - l->x;
    l->x += dx / l->n;
    l->y += (y - l->y) / l->n;
    l->xx = LINE_FORGET * l->xx + dx * (x - l->x);
    l->xy = LINE_FORGET * l->xy + dx * (y - l->y);
}

double
llm_line_slope(const llm_line_t *l, double usual)
{
    double slope = (l->xy + LINE_USUAL * usual) / (l->xx + LINE_USUAL);
    double most = l->y / l->x;          /* nothing costs less than nothing */
    return slope < 0 ? 0 : slope < most ? slope : most;
}

double
llm_line_at(const llm_line_t *l, double x, double usual)
{
    return l->y + llm_line_slope(l, usual) * (x - l->x);
}
