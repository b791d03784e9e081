/*
 * grammar.c - running a compiled grammar: the state of one output and its steps.
 *
 * A head is one reading of the text: a state, the counter of its frame and the frame to return to.
 * Frames never change once they are pushed, so heads share them; equal stacks are the same frame.
 * Heads are kept in order of the text of the grammar, and when there is no room the last ones are
 * dropped: that narrows what may follow, but whatever stays can be completed (grammar_impl.h).
 */
#include "run/grammar_impl.h"

#define MAX_TODO  256           /* calls and returns still to be followed in one step of one head */
#define MAX_FUEL  512           /* of them in all */
#define WORK_FRAMES 2048u /* frames while bytes are taken; more than all heads can have open */

static bool
fits(llm_gstep_t *st, uint32_t frames)
{
    if (frames > st->reach) {
        st->reach = frames;
    }
    return frames <= st->depth;
}

/* The frame with this content, or LLM_G_NONE when there is no room. */
static uint32_t
push(llm_gstep_t *st, uint32_t parent, uint32_t ret, uint32_t count)
{
    for (uint32_t i = st->n_frames; i-- > parent + 1;) {
        const llm_gframe_t *f = &st->frames[i];
        if (f->parent == parent && f->ret == ret && f->count == count) {
            return i;
        }
    }
    if (st->n_frames == st->max_frames) {
        return LLM_G_NONE;
    }
    st->frames[st->n_frames] = (llm_gframe_t) {
        .parent = (uint16_t) parent,
        .depth = (uint16_t) (st->frames[parent].depth + 1),
        .ret = ret,
        .count = count,
    };
    return st->n_frames++;
}

static void
put_head(llm_gstep_t *st, llm_ghead_t h)
{
    for (uint32_t i = 0; i < st->n_out; i++) {
        if (st->out[i].state == h.state && st->out[i].count == h.count
            && st->out[i].frame == h.frame)
        {
            return;
        }
    }
    if (st->n_out < st->max_out) {
        st->out[st->n_out++] = h;
    } else {
        st->full = true;
    }
}

/* The edge of h over c, when its counter allows it; *count becomes the new counter. */
static const llm_gedge_t *
own_edge(const llm_grammar_t *g, const llm_ghead_t *h, uint8_t c, uint32_t *count)
{
    const llm_gstate_t *s = &llm_g_states(g)[h->state];
    const llm_gedge_t *e = llm_g_edge(g, s, c);
    *count = h->count;
    if (e == NULL || e->op == LLM_GOP_NONE) {
        return e;
    }
    const llm_grule_t *r = &llm_g_rules(g)[s->rule];
    if (e->op == LLM_GOP_COUNT) {
        *count = h->count + (h->count < UINT32_MAX);
        return h->count < r->max ? e : NULL;
    }
    return h->count >= r->min ? e : NULL;
}

void
llm_gstep_run(llm_gstep_t *st, const llm_ghead_t *head, uint8_t c)
{
    const llm_grammar_t *g = st->g;
    const llm_gstate_t *states = llm_g_states(g);
    const llm_grule_t *rules = llm_g_rules(g);
    llm_ghead_t todo[MAX_TODO];
    uint32_t n = 1, fuel = MAX_FUEL;

    todo[0] = *head;
    for (; n > 0 && fuel-- > 0; st->spent++) {
        llm_ghead_t h = todo[--n];
        const llm_gstate_t *s = &states[h.state];
        uint32_t depth = st->frames[h.frame].depth, count;
        const llm_gedge_t *e = own_edge(g, &h, c, &count);

        if (e != NULL && fits(st, depth + states[e->to].need)) {
            put_head(st, (llm_ghead_t) { e->to, count, h.frame });
        }
        if (s->final && llm_gbytes_has(&rules[s->rule].follow, c)) {
            if (h.frame == 0) {
                st->below = true;
            } else if (n < MAX_TODO) {
                const llm_gframe_t *f = &st->frames[h.frame];
                todo[n++] = (llm_ghead_t) { f->ret, f->count, f->parent };
            }
        }
        const llm_gcall_t *calls = llm_g_calls(g) + s->call;
        for (uint32_t k = s->n_calls; k-- > 0 && n < MAX_TODO;) {
            const llm_grule_t *r = &rules[calls[k].rule];
            if (!llm_gbytes_has(&r->first, c)) {
                continue;
            }
            uint32_t frame = h.frame, inner = depth;
            if (!calls[k].tail) {
                if (!fits(st, depth + states[calls[k].ret].need)) {
                    continue;
                }
                inner = depth + 1;
            }
            if (!fits(st, inner + states[r->entry].need)) {
                continue;
            }
            if (!calls[k].tail) {
                frame = push(st, h.frame, calls[k].ret, h.count);
            }
            if (frame != LLM_G_NONE) {
                todo[n++] = (llm_ghead_t) { r->entry, 0, frame };
            }
        }
    }
}

/* ------------------------------------------------------------------ state */

void
llm_grammar_start(const llm_grammar_t *g, llm_grammar_state_t *s)
{
    memset(s, 0, sizeof(*s));
    s->n_heads = 1;
    s->n_frames = 1;
    s->heads[0].state = llm_g_rules(g)[g->root].entry;
}

/*
 * Keeps the frames of the heads, in order, and as many heads as max_frames allows (at least one).
 * Frames only refer to earlier ones, so they can be moved in place.
 */
static void
compact(llm_ghead_t *heads, uint32_t *n_heads, llm_gframe_t *frames, uint32_t *n_frames,
        uint32_t max_frames)
{
    uint16_t map[WORK_FRAMES];
    uint32_t live = 1, n = 0;
    memset(map, 0, *n_frames * sizeof(*map));
    for (uint32_t i = 0; i < *n_heads; i++) {
        uint32_t more = 0;
        for (uint32_t f = heads[i].frame; f != 0 && map[f] == 0; f = frames[f].parent) {
            more++;
        }
        if (live + more > max_frames) {
            break;
        }
        for (uint32_t f = heads[i].frame; f != 0 && map[f] == 0; f = frames[f].parent) {
            map[f] = 1;
        }
        live += more;
        n++;
    }
    *n_heads = n;
    live = 1;
    for (uint32_t f = 1; f < *n_frames; f++) {
        if (map[f] != 0) {
            frames[live] = frames[f];
            frames[live].parent = map[frames[f].parent];
            map[f] = (uint16_t) live++;
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        heads[i].frame = map[heads[i].frame];
    }
    *n_frames = live;
}

bool
llm_grammar_advance(const llm_grammar_t *g, llm_grammar_state_t *s, const void *bytes, size_t n)
{
    const uint8_t *c = bytes;
    llm_ghead_t heads[2][LLM_GRAMMAR_HEADS];
    llm_gframe_t frames[WORK_FRAMES];
    uint32_t n_heads = s->n_heads, now = 0;
    llm_gstep_t st = { .g = g, .frames = frames, .n_frames = s->n_frames, .max_frames = WORK_FRAMES,
                       .max_out = LLM_GRAMMAR_HEADS, .depth = LLM_GRAMMAR_DEPTH };

    if (n > 0 && s->ended) {
        return false;
    }
    memcpy(heads[0], s->heads, n_heads * sizeof(llm_ghead_t));
    memcpy(frames, s->frames, s->n_frames * sizeof(llm_gframe_t));
    for (size_t i = 0; i < n; i++) {
        if (st.n_frames > WORK_FRAMES / 2) {
            compact(heads[now], &n_heads, frames, &st.n_frames, WORK_FRAMES);
        }
        st.out = heads[!now];
        st.n_out = 0;
        for (uint32_t k = 0; k < n_heads; k++) {
            llm_gstep_run(&st, &heads[now][k], c[i]);
        }
        now = !now;
        n_heads = st.n_out;
        if (n_heads == 0) {
            return false;
        }
    }
    compact(heads[now], &n_heads, frames, &st.n_frames, LLM_GRAMMAR_FRAMES);
    memcpy(s->heads, heads[now], n_heads * sizeof(llm_ghead_t));
    memcpy(s->frames, frames, st.n_frames * sizeof(llm_gframe_t));
    s->n_heads = (uint16_t) n_heads;
    s->n_frames = (uint16_t) st.n_frames;
    return true;
}

bool
llm_grammar_accepts(const llm_grammar_t *g, const llm_grammar_state_t *s)
{
    const llm_gstate_t *states = llm_g_states(g);
    for (uint32_t i = 0; i < s->n_heads; i++) {
        bool final = states[s->heads[i].state].final;
        for (uint32_t f = s->heads[i].frame; final && f != 0; f = s->frames[f].parent) {
            final = states[s->frames[f].ret].final;
        }
        if (final) {
            return true;
        }
    }
    return false;
}

/*
 * Bytes that may come next; a byte that a limit forbids may be among them, none that is possible is
 * missing.
 */
static void
next_bytes(const llm_grammar_t *g, const llm_grammar_state_t *s, llm_gbytes_t *set)
{
    const llm_gstate_t *states = llm_g_states(g);
    *set = (llm_gbytes_t) { 0 };
    for (uint32_t i = 0; i < s->n_heads && !s->ended; i++) {
        llm_ghead_t h = s->heads[i];
        for (;;) {
            const llm_gstate_t *st = &states[h.state];
            const llm_grule_t *r = &llm_g_rules(g)[st->rule];
            for (uint32_t k = 0; k < st->n_edges; k++) {
                const llm_gedge_t *e = &llm_g_edges(g)[st->edge + k];
                if ((e->op == LLM_GOP_COUNT && h.count >= r->max)
                    || (e->op == LLM_GOP_ENOUGH && h.count < r->min))
                {
                    continue;
                }
                llm_gbytes_add(set, e->lo, e->hi);
            }
            for (uint32_t k = 0; k < st->n_calls; k++) {
                llm_gbytes_or(set, &llm_g_rules(g)[llm_g_calls(g)[st->call + k].rule].first);
            }
            if (!st->final || h.frame == 0) {
                break;
            }
            const llm_gframe_t *f = &s->frames[h.frame];
            h = (llm_ghead_t) { f->ret, f->count, f->parent };
        }
    }
}

bool
llm_grammar_finished(const llm_grammar_t *g, const llm_grammar_state_t *s)
{
    llm_gbytes_t set;
    next_bytes(g, s, &set);
    return llm_grammar_accepts(g, s) && (set.w[0] | set.w[1] | set.w[2] | set.w[3]) == 0;
}

/*
 * The one byte of a set that has one; with a guess (spaced) also which of a space and one other
 * follows `before`.
 */
static bool
only_byte(const llm_gbytes_t *set, const bool *spaced, uint8_t before, uint8_t *out)
{
    llm_gbytes_t rest = *set;
    unsigned count = 0, c = ' ';
    bool space = spaced != NULL && llm_gbytes_has(set, ' ');
    if (space) {
        rest.w[0] &= ~((uint64_t) 1 << ' ');
    }
    for (unsigned i = 0; i < 4; i++) {
        count += (unsigned) __builtin_popcountll(rest.w[i]);
        c = rest.w[i] != 0 ? i * 64 + (unsigned) __builtin_ctzll(rest.w[i]) : c;
    }
    *out = space && spaced[before] ? ' ' : (uint8_t) c;
    return count == 1 || (space && count == 0);
}

size_t
llm_grammar_forced(const llm_grammar_t *g, const llm_grammar_state_t *s, const bool *spaced,
                   uint8_t before, uint8_t *out, size_t cap)
{
    llm_grammar_state_t t = *s;
    size_t n = 0;
    for (; n < cap && !llm_grammar_accepts(g, &t); n++) {
        llm_gbytes_t set;
        next_bytes(g, &t, &set);
        if (!only_byte(&set, spaced, n > 0 ? out[n - 1] : before, &out[n])
            || !llm_grammar_advance(g, &t, &out[n], 1))
        {
            break;
        }
    }
    return n;
}

/* Bytes to the end along this reading, and what its counters still want. */
static uint64_t
distance(const llm_grammar_t *g, const llm_grammar_state_t *s, const llm_ghead_t *h)
{
    const llm_gstate_t *states = llm_g_states(g);
    uint32_t state = h->state, count = h->count;
    uint64_t sum = 0;
    for (uint32_t f = h->frame;; f = s->frames[f].parent) {
        const llm_grule_t *r = &llm_g_rules(g)[states[state].rule];
        sum += states[state].dist + (count < r->min ? r->min - count : 0);
        if (f == 0) {
            return sum;
        }
        state = s->frames[f].ret;
        count = s->frames[f].count;
    }
}

size_t
llm_grammar_closing(const llm_grammar_t *g, const llm_grammar_state_t *s, uint8_t *out, size_t cap)
{
    llm_grammar_state_t now = *s;
    size_t n = 0;
    while (!llm_grammar_accepts(g, &now)) {
        llm_grammar_state_t best = { 0 };
        uint64_t least = UINT64_MAX;
        llm_gbytes_t set;
        next_bytes(g, &now, &set);
        for (unsigned c = 0; c < 256 && n < cap; c++) {
            llm_grammar_state_t t = now;
            uint8_t byte = (uint8_t) c;
            if (!llm_gbytes_has(&set, c) || !llm_grammar_advance(g, &t, &byte, 1)) {
                continue;
            }
            for (uint32_t i = 0; i < t.n_heads; i++) {
                uint64_t d = distance(g, &t, &t.heads[i]);
                if (d < least) {
                    least = d;
                    best = t;
                    out[n] = byte;
                }
            }
        }
        if (best.n_heads == 0) {
            return SIZE_MAX;
        }
        now = best;
        n++;
    }
    return n;
}

void
llm_grammar_id(const llm_grammar_t *g, uint64_t id[2])
{
    id[0] = g->id[0];
    id[1] = g->id[1];
}

size_t
llm_grammar_bytes(const llm_grammar_t *g)
{
    return g->bytes;
}
