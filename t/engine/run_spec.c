/*
 * run_spec.c - lookup of drafts against the obvious way, how trust grows and shrinks, and what drafts of a model are worth.
 */
#include "../../engine/run/spec.c"
#include "tap.h"

#define MAX 300

/* The longest earlier occurrence of the last tokens, the latest one of equals, by trying all. */
static uint32_t
slow(const int32_t *t, uint32_t n, uint32_t *from)
{
    uint32_t best = 0;
    for (uint32_t end = 1; end < n; end++) {        /* t[.. end) ends like t[.. n) */
        uint32_t len = 0;
        while (len < end && len < ENOUGH && t[end - 1 - len] == t[n - 1 - len]) {
            len++;
        }
        if (len >= best) {
            best = len;
            *from = end;
        }
    }
    return best >= MIN_MATCH ? best : 0;
}

static void
test_lookup(void)
{
    int bad = 0, found = 0;
    srand(3);
    for (int i = 0; i < 20000; i++) {
        int32_t t[MAX + LLM_SPEC_MAX];
        uint32_t n = 1 + (uint32_t) rand() % (MAX - 1), from = 0, want = 1 + (uint32_t) rand() % LLM_SPEC_MAX;
        int32_t kinds = 1 + rand() % 40;
        for (uint32_t k = 0; k < n; k++) {
            t[k] = rand() % kinds;
        }
        bool there = slow(t, n, &from) > 0;
        uint32_t got = llm_spec_lookup(t, n, want);
        bad += got != (there ? want : 0);
        for (uint32_t k = 0; k < got; k++) {
            bad += t[n + k] != t[from + k];
        }
        found += there;
    }
    ok(bad == 0 && found > 5000, "the longest and latest occurrence (%d of 20000 have one)", found);

    int32_t loop[20] = { 7, 1, 2, 1, 2 };
    ok(llm_spec_lookup(loop, 5, 6) == 6 && loop[5] == 1 && loop[6] == 2 && loop[9] == 1 && loop[10] == 2, "a loop goes on with its own drafts");
    int32_t one[20] = { 4, 9, 4 };
    is_int(llm_spec_lookup(one, 3, 4), 0, "one equal token is not enough");
    is_int(llm_spec_lookup(one, 1, 4), 0, "nothing before");
}

/* Share of rows that are drafts which fail, over n steps in which nothing is ever kept. */
static void
test_trust(void)
{
    llm_spec_t s = { 0 };
    uint32_t drafts = 0;
    for (int i = 0; i < 1000; i++) {
        uint32_t n = llm_spec_wanted(&s, LLM_SPEC_MAX);
        drafts += n;
        if (n > 0) {
            llm_spec_learn(&s, n, 0);
        }
    }
    ok(drafts > 0 && drafts < 50, "1000 steps without luck: %u drafts", drafts);
    uint32_t steps = 0;
    for (; llm_spec_wanted(&s, LLM_SPEC_MAX) == 0 && steps < 1000; steps++) {
    }
    ok(steps <= MAX_PAUSE, "but it tries again");
    s = (llm_spec_t) { 0 };
    for (int i = 0; i < 5; i++) {
        uint32_t n = llm_spec_wanted(&s, LLM_SPEC_MAX);
        llm_spec_learn(&s, n, n);
    }
    is_int(llm_spec_wanted(&s, LLM_SPEC_MAX), LLM_SPEC_MAX, "with luck it soon has the most");
    is_int(llm_spec_wanted(&s, 2), 2, "or what is allowed");
    llm_spec_learn(&s, LLM_SPEC_MAX, 1);
    is_int(llm_spec_wanted(&s, LLM_SPEC_MAX), LLM_SPEC_MAX / 2, "and half of it when most were wrong");
}

/*
 * Tokens for the time of a step without drafts, over many steps in which each draft is right with probability p where the one before it was;
 * fixed > 0: always so many drafts, 0: as many as are wanted.
 */
static double
speed(double p, float cost, uint32_t fixed)
{
    llm_odds_t o = { 0 };
    double tokens = 0, time = 0;
    srand(7);
    for (int i = 0; i < 20000; i++) {
        uint32_t n = fixed > 0 ? fixed : llm_odds_wanted(&o, LLM_SPEC_MAX, cost), kept = 0;
        while (kept < n && rand() < p * RAND_MAX) {
            kept++;
        }
        if (n > 0 && fixed == 0) {
            llm_odds_learn(&o, n, kept);
        }
        tokens += 1 + kept;
        time += 1 + n * (double) cost;
    }
    return tokens / time;
}

static void
test_odds(void)
{
    static const double ps[] = { 0, 0.05, 0.3, 0.6, 0.8, 0.95, 1 };
    static const float costs[] = { 0.02f, 0.1f, 0.3f, 0.6f, 1, 2 };
    for (size_t i = 0; i < sizeof(ps) / sizeof(ps[0]); i++) {
        int bad = 0;
        for (size_t k = 0; k < sizeof(costs) / sizeof(costs[0]); k++) {
            double best = 1, got = speed(ps[i], costs[k], 0);
            for (uint32_t n = 1; n <= LLM_SPEC_MAX; n++) {
                double v = speed(ps[i], costs[k], n);
                best = v > best ? v : best;
            }
            if (got < 0.9 * best) {
                diag("cost %g: %.3f tokens for the time of one, %.3f with the best number of drafts", (double) costs[k], got, best);
                bad++;
            }
        }
        ok(bad == 0, "drafts that are right %g of the time: within a tenth of the best fixed number, or of none", ps[i]);
    }
    llm_odds_t o = { 0 };
    is_int(llm_odds_wanted(&o, 0, 0.1f), 0, "no more than there is room for");
    is_int(llm_odds_wanted(&o, 1, 0.1f), 1, "or just as many");
}

/* Points of a line, with and without what disturbs it; the measure is the line itself. */
static void
test_line(void)
{
    llm_line_t l = { 0 };
    srand(5);
    for (int i = 0; i < 300; i++) {
        double x = 1 + rand() % 9, noise = 0.9 + 0.2 * rand() / RAND_MAX;
        llm_line_add(&l, x, (16 + 2 * x) * noise * (i % 37 == 36 ? 20 : 1));
    }
    double slope = llm_line_slope(&l, 0.5), at = llm_line_at(&l, 1, 0.5);
    ok(slope > 1 && slope < 3 && at > 15 && at < 24, "a line of 16 + 2 x: slope %.2f, %.2f at 1", slope, at);
    for (int i = 0; i < 300; i++) {
        llm_line_add(&l, i % 64 == 0 ? 16 : 32, i % 64 == 0 ? 36 : 68);
    }
    slope = llm_line_slope(&l, 0.5);
    ok(slope > 1.5 && slope < 2.5, "one point of 64 elsewhere is enough: slope %.2f", slope);
    l = (llm_line_t) { 0 };
    llm_line_add(&l, 4, 20);
    ok(llm_line_slope(&l, 3) == 3 && llm_line_at(&l, 2, 3) == 14, "a single point: as usual");
    ok(llm_line_slope(&l, 9) == 5 && llm_line_at(&l, 2, 9) == 10, "but nothing is for nothing");
    llm_line_add(&l, 400, 1);
    ok(llm_line_slope(&l, 3) == 0, "more is never cheaper");
}

int
main(void)
{
    test_lookup();
    test_trust();
    test_odds();
    test_line();
    return done_testing();
}
