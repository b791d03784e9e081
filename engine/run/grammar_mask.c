/*
 * grammar_mask.c - which tokens may come next.
 *
 * The trie of all tokens is walked beside the automaton. For one head the walk begins with an
 * unknown stack: where a path returns from the bottom frame, the trie node is noted. What comes
 * below is a second, small walk from the noted nodes, starting in the frame's state, and so on down
 * the stack. Every one of these walks depends on little (state, what its counter still allows up to
 * the longest token, the frames before) and is cached under exactly that key, so the interior of a
 * string is walked once, whatever the string is part of:
 *
 *   mask = OR over heads of  walk(state) | walk(state, frame 1) | walk(state, frame 1, frame 2) ...
 *
 * The cache is a ring: new entries overwrite the oldest. Nothing is allocated after llm_gmask_new.
 */
#include "run/grammar_impl.h"

#include <stdlib.h>

#define N_ROWS      128u
#define MAX_LEVELS  (LLM_GVOCAB_MAX_TOKEN + 1)
#define MAX_FRAMES  8192u
#define MAX_KEY     (32 + 8 * (LLM_GRAMMAR_DEPTH + 1))
#define DEFAULT_CACHE ((size_t) 16 << 20)
#define MAX_SPENT   50000u              /* heads looked at the slow way in a walk that is cached */
#define MAX_SPENT_STATE 8000u          /* and in one that is not */
#define CROWDED     (LLM_GRAMMAR_HEADS + 1)

/* Entries of a row: 0 nothing, SLOW: ask llm_gstep_run, else target + 1 with the operation above
 * it. */
#define SLOW     0x80000000u
#define OP_SHIFT 29
#define TO_MASK  0x1fffffffu

typedef struct { uint32_t start, n, n_frames; } level_t;

/*
 * Byte groups over which a state returns to itself, without counting and counting one; and those
 * over which it goes to one other state, as in a chain of repeats.
 */
typedef struct {
    uint64_t plain, counted, chained;
} loop_t;

/* What one walk found. The arrays belong to the cache or to scratch. */
typedef struct {
    const uint32_t *dense;      /* bits of all ids as pairs of words, or NULL */
    const uint32_t *ids;        /* n_ids ids otherwise */
    const uint32_t *resume;     /* n_resume trie nodes over whose byte the bottom frame was left */
    uint32_t n_ids, n_resume;
    uint32_t reach;             /* frames needed at most: good for every limit from here on */
    uint32_t crowd;             /* heads at the same time, at most */
    uint32_t mixed; /* of them, beside readings that left the bottom frame over the same bytes */
} found_t;

typedef struct {
    uint32_t words, n_key, hash, next;      /* next: offset + 1 of the entry in the same bucket */
    uint32_t n_ids, n_resume, reach, crowd;
    uint32_t dense, mixed;
} entry_t; /* then: key, dense bits or ids, resume; each padded to 2 words */

#define ENTRY_WORDS (sizeof(entry_t) / 4)

typedef struct {
    uint32_t *ids, *resume, *dense;
} scratch_t;

struct llm_gmask {
    const llm_gvocab_t *v;
    uint32_t   n_words;             /* of a mask, as uint32 pairs */
    uint32_t  *row, row_state[N_ROWS];      /* [N_ROWS][256] */
    uint64_t   row_id[2];
    loop_t     row_loop[N_ROWS];
    uint8_t    group[256];
    level_t    level[MAX_LEVELS];
    llm_ghead_t *heads;             /* [MAX_LEVELS * LLM_GRAMMAR_HEADS] */
    llm_gframe_t *frames;           /* [MAX_FRAMES] */
    scratch_t  scratch[2];          /* of walks that follow each other */
    uint32_t   key[MAX_KEY], n_key;

    uint32_t  *ring, cap, head, tail, end, n_entries;
    uint32_t  *bucket, n_bucket;
    llm_gmask_stats_t stats;
};

/* ------------------------------------------------------------------- cache */

static uint32_t
pad2(uint32_t n)
{
    return (n + 1) & ~1u;
}

static uint32_t
hash_key(const uint32_t *key, uint32_t n)
{
    uint64_t h = 0x9e3779b97f4a7c15u;
    for (uint32_t i = 0; i < n; i++) {
        h = (h ^ key[i]) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    return (uint32_t) h;
}

static void
to_found(const entry_t *e, found_t *f)
{
    const uint32_t *p = (const uint32_t *) e + ENTRY_WORDS + pad2(e->n_key);
    *f = (found_t) { .dense = e->dense ? p : NULL,
                    .ids = e->dense ? NULL : p,
                    .n_ids = e->n_ids,
                    .n_resume = e->n_resume,
                    .reach = e->reach,
                    .crowd = e->crowd,
                    .mixed = e->mixed };
    f->resume = p + (e->dense ? e->dense : pad2(e->n_ids));
}

static bool
lookup(llm_gmask_t *m, found_t *f)
{
    uint32_t hash = hash_key(m->key, m->n_key);
    for (uint32_t at = m->bucket[hash & (m->n_bucket - 1)]; at != 0;) {
        const entry_t *e = (const entry_t *) (m->ring + at - 1);
        if (e->hash == hash && e->n_key == m->n_key
            && memcmp((const uint32_t *) e + ENTRY_WORDS, m->key, m->n_key * sizeof(uint32_t)) == 0)
        {
            to_found(e, f);
            m->stats.hits++;
            return true;
        }
        at = e->next;
    }
    return false;
}

static void
evict(llm_gmask_t *m)
{
    entry_t *e = (entry_t *) (m->ring + m->tail);
    uint32_t *at = &m->bucket[e->hash & (m->n_bucket - 1)];
    while (*at != m->tail + 1) {
        at = &((entry_t *) (m->ring + *at - 1))->next;
    }
    *at = e->next;
    m->tail += e->words;
    m->n_entries--;
    if (m->tail >= m->end) {
        m->tail = 0;
        m->end = m->cap;
    }
}

/* Room for n words at m->head, over the oldest entries. */
static bool
make_room(llm_gmask_t *m, uint32_t n)
{
    if (n > m->cap / 4) {
        return false;
    }
    if (n > m->cap - m->head) {
        while (m->n_entries > 0 && m->tail >= m->head) {
            evict(m);
        }
        m->end = m->head;
        m->head = 0;
    }
    while (m->n_entries > 0 && m->tail >= m->head && m->tail < m->head + n) {
        evict(m);
    }
    if (m->n_entries == 0) {
        m->tail = m->head;
        m->end = m->cap;
    }
    return true;
}

static void
store(llm_gmask_t *m, const found_t *f)
{
    uint32_t n_data = f->dense != NULL ? m->n_words : pad2(f->n_ids);
    uint32_t words = ENTRY_WORDS + pad2(m->n_key) + n_data + pad2(f->n_resume);
    if (!make_room(m, words)) {
        return;
    }
    entry_t *e = (entry_t *) (m->ring + m->head);
    uint32_t hash = hash_key(m->key, m->n_key), *bucket = &m->bucket[hash & (m->n_bucket - 1)];
    *e = (entry_t) { .words = words,
                    .n_key = m->n_key,
                    .hash = hash,
                    .next = *bucket,
                    .n_ids = f->n_ids,
                    .n_resume = f->n_resume,
                    .reach = f->reach,
                    .crowd = f->crowd,
                    .mixed = f->mixed,
                    .dense = f->dense != NULL ? n_data : 0 };
    uint32_t *p = (uint32_t *) e + ENTRY_WORDS;
    memcpy(p, m->key, m->n_key * sizeof(uint32_t));
    p += pad2(m->n_key);
    memcpy(p, f->dense != NULL ? f->dense : f->ids,
           (f->dense != NULL ? n_data : f->n_ids) * sizeof(uint32_t));
    memcpy(p + n_data, f->resume, f->n_resume * sizeof(uint32_t));
    *bucket = m->head + 1;
    m->head += words;
    m->n_entries++;
}

/* -------------------------------------------------------------------- walk */

/* Where each byte leads from a state, for the current grammar. */
static const uint32_t *
row_of(llm_gmask_t *m, const llm_grammar_t *g, uint32_t state)
{
    uint32_t slot = state % N_ROWS, *row = m->row + (size_t) slot * 256;
    if (m->row_state[slot] == state) {
        return row;
    }
    m->row_state[slot] = state;
    memset(row, 0, 256 * sizeof(*row));
    const llm_gstate_t *states = llm_g_states(g), *s = &states[state];
    for (uint32_t k = 0; k < s->n_edges; k++) {
        const llm_gedge_t *e = &llm_g_edges(g)[s->edge + k];
        uint32_t x =
            states[e->to].need > s->need ? SLOW : (e->to + 1) | (uint32_t) e->op << OP_SHIFT;
        for (unsigned c = e->lo; c <= e->hi; c++) {
            row[c] = x;
        }
    }
    llm_gbytes_t slow = { 0 };
    for (uint32_t k = 0; k < s->n_calls; k++) {
        llm_gbytes_or(&slow, &llm_g_rules(g)[llm_g_calls(g)[s->call + k].rule].first);
    }
    if (s->final) {
        llm_gbytes_or(&slow, &llm_g_rules(g)[s->rule].follow);
    }
    for (unsigned i = 0; i < 4; i++) {
        for (uint64_t w = slow.w[i]; w != 0; w &= w - 1) {
            row[i * 64 + (unsigned) __builtin_ctzll(w)] = SLOW;
        }
    }
    loop_t loop = { UINT64_MAX, UINT64_MAX, UINT64_MAX };
    uint32_t next = s->run > 0 ? s->next + 1 : SLOW;
    for (unsigned c = 0; c < 256; c++) {
        uint64_t bit = (uint64_t) 1 << m->group[c];
        loop.plain &= row[c] == state + 1 ? UINT64_MAX : ~bit;
        loop.counted &= row[c] == ((state + 1) | LLM_GOP_COUNT << OP_SHIFT) ? UINT64_MAX : ~bit;
        loop.chained &= row[c] == next && row[c] != SLOW ? UINT64_MAX : ~bit;
    }
    m->row_loop[slot] = loop;
    return row;
}

/*
 * One head over one byte without calls and returns. 0: dead, 1: *to is the head, 2: the slow way.
 */
static int
fast_step(llm_gmask_t *m, const llm_grammar_t *g, const llm_ghead_t *h, uint8_t c, llm_ghead_t *to)
{
    uint32_t x = row_of(m, g, h->state)[c];
    if (x == 0 || x & SLOW) {
        return x == 0 ? 0 : 2;
    }
    *to = (llm_ghead_t) { (x & TO_MASK) - 1, h->count, h->frame };
    unsigned op = x >> OP_SHIFT & 3;
    if (op != LLM_GOP_NONE) {
        const llm_grule_t *r = &llm_g_rules(g)[llm_g_states(g)[h->state].rule];
        if (op == LLM_GOP_COUNT) {
            to->count += h->count < UINT32_MAX;
            return h->count < r->max;
        }
        return h->count >= r->min;
    }
    return 1;
}

/*
 * Whether every path of the subtree of node i can be read by h: it stays what it is but for its
 * counter, or goes along a chain of states.
 */
static bool
takes_all(llm_gmask_t *m, const llm_grammar_t *g, const llm_ghead_t *h, uint32_t i)
{
    row_of(m, g, h->state);
    loop_t loop = m->row_loop[h->state % N_ROWS];
    uint64_t below = m->v->below[i];
    if ((below & ~loop.plain) == 0) {
        return true;
    }
    if ((below & ~loop.chained) == 0) {
        return m->v->tail[i] <= llm_g_states(g)[h->state].run;
    }
    if ((below & ~(loop.plain | loop.counted)) != 0) {
        return false;
    }
    uint32_t max = llm_g_rules(g)[llm_g_states(g)[h->state].rule].max;
    return h->count < max && max - h->count >= m->v->tail[i];
}

/*
 * Walks the trie nodes [from, to), whose parent's heads are in m->level[depth of from - 1]. Ids and
 * left nodes are added to the scratch of the walk. Once it has cost too much, only tokens of one
 * byte are looked at the slow way: fewer tokens are allowed then, but never none.
 */
static void
walk(llm_gmask_t *m, llm_gstep_t *st, uint32_t from, uint32_t to, scratch_t *out, found_t *f)
{
    const llm_gvocab_t *v = m->v;
    uint64_t nodes = 0;
    for (uint32_t i = from; i < to; nodes++) {
        uint8_t c = v->byte[i];
        const level_t *up = &m->level[v->depth[i] - 1];
        level_t *now = &m->level[v->depth[i]];
        if (up->n == 1 && takes_all(m, st->g, &m->heads[up->start], i)) {
            uint32_t n = v->tok[v->end[i]] - v->tok[i];
            memcpy(out->ids + f->n_ids, v->id + v->tok[i], n * sizeof(uint32_t));
            f->n_ids += n;
            i = v->end[i];
            continue;
        }
        now->start = up->start + up->n;
        now->n_frames = up->n_frames;
        int kind =
            up->n == 1 ? fast_step(m, st->g, &m->heads[up->start], c, &m->heads[now->start]) : 2;
        now->n = (uint32_t) kind;
        if (kind == 2 && v->depth[i] > 1 && st->spent > st->max_spent) {
            i = v->end[i];
            continue;
        }
        if (kind == 2) {
            st->out = m->heads + now->start;
            st->n_out = 0;
            st->n_frames = up->n_frames;
            st->below = st->full = false;
            for (uint32_t k = 0; k < up->n; k++) {
                llm_gstep_run(st, &m->heads[up->start + k], c);
            }
            now->n = st->n_out;
            now->n_frames = st->n_frames;
            if (st->below) {
                out->resume[f->n_resume++] = i;
                f->mixed |= now->n > 0;
            }
            uint32_t crowd = st->full ? CROWDED : now->n;
            f->crowd = crowd > f->crowd ? crowd : f->crowd;
        }
        if (now->n == 0) {
            i = v->end[i];
            continue;
        }
        for (uint32_t k = v->tok[i]; k < v->tok[i + 1]; k++) {
            out->ids[f->n_ids++] = (uint32_t) v->id[k];
        }
        i++;
    }
    m->stats.nodes += nodes;
}

static void
finish_walk(llm_gmask_t *m, scratch_t *out, const llm_gstep_t *st, found_t *f)
{
    f->ids = out->ids;
    f->resume = out->resume;
    f->reach = st->reach;
    f->mixed = f->mixed ? f->crowd : 0;
    if (f->n_ids > m->n_words) {
        memset(out->dense, 0, m->n_words * sizeof(uint32_t));
        uint64_t *bits = (uint64_t *) out->dense;
        for (uint32_t i = 0; i < f->n_ids; i++) {
            bits[out->ids[i] / 64] |= (uint64_t) 1 << (out->ids[i] % 64);
        }
        f->dense = out->dense;
        f->ids = NULL;
    }
    m->stats.walks++;
}

/*
 * From one head whose frame is the bottom: over the whole trie, or (before != NULL) over the nodes
 * at which the walk before left its bottom frame.
 */
static void
walk_head(llm_gmask_t *m, const llm_grammar_t *g, llm_ghead_t h, uint32_t limit,
          const found_t *before, scratch_t *out, found_t *f)
{
    llm_gstep_t st = { .g = g,
                       .frames = m->frames,
                       .max_frames = MAX_FRAMES,
                       .max_out = LLM_GRAMMAR_HEADS,
                       .depth = limit,
                       .max_spent = MAX_SPENT };
    *f = (found_t) { .crowd = 1 };
    h.frame = 0;
    m->frames[0] = (llm_gframe_t) { 0 };
    m->heads[0] = h;
    if (before == NULL) {
        m->level[0] = (level_t) { 0, 1, 1 };
        walk(m, &st, 0, m->v->n_nodes, out, f);
    } else {
        for (uint32_t i = 0; i < before->n_resume; i++) {
            uint32_t node = before->resume[i];
            m->level[m->v->depth[node] - 1] = (level_t) { 0, 1, 1 };
            walk(m, &st, node, m->v->end[node], out, f);
        }
    }
    finish_walk(m, out, &st, f);
}

/* All heads of the state at once: exact when readings crowd each other out, and not cached. */
static void
walk_state(llm_gmask_t *m, const llm_grammar_t *g, const llm_grammar_state_t *s, found_t *f)
{
    llm_gstep_t st = { .g = g,
                       .frames = m->frames,
                       .max_frames = MAX_FRAMES,
                       .max_out = LLM_GRAMMAR_HEADS,
                       .depth = LLM_GRAMMAR_DEPTH,
                       .max_spent = MAX_SPENT_STATE };
    *f = (found_t) { 0 };
    memcpy(m->heads, s->heads, s->n_heads * sizeof(llm_ghead_t));
    memcpy(m->frames, s->frames, s->n_frames * sizeof(llm_gframe_t));
    m->level[0] = (level_t) { 0, s->n_heads, s->n_frames };
    walk(m, &st, 0, m->v->n_nodes, &m->scratch[0], f);
    finish_walk(m, &m->scratch[0], &st, f);
}

/* -------------------------------------------------------------------- keys */

static void
put_key(llm_gmask_t *m, uint32_t x)
{
    m->key[m->n_key++] = x;
}

static void
put_id(llm_gmask_t *m, const llm_grammar_t *g)
{
    for (int i = 0; i < 2; i++) {
        put_key(m, (uint32_t) g->id[i]);
        put_key(m, (uint32_t) (g->id[i] >> 32));
    }
}

/* What the counter still allows and wants; more than a token can use makes no difference. */
static void
put_counter(llm_gmask_t *m, const llm_grule_t *r, uint32_t count)
{
    uint32_t left = r->max > count ? r->max - count : 0, lack = r->min > count ? r->min - count : 0;
    put_key(m, left < LLM_GVOCAB_MAX_TOKEN ? left : LLM_GVOCAB_MAX_TOKEN);
    put_key(m, lack < LLM_GVOCAB_MAX_TOKEN ? lack : LLM_GVOCAB_MAX_TOKEN);
}

static void
key_of_head(llm_gmask_t *m, const llm_grammar_t *g, const llm_ghead_t *h)
{
    const llm_gstate_t *s = &llm_g_states(g)[h->state];
    const llm_grule_t *r = &llm_g_rules(g)[s->rule];
    bool shared = g->shared && r->builtin != LLM_GB_PRIVATE;
    m->n_key = 0;
    put_key(m, shared ? r->builtin : LLM_GB_PRIVATE);
    if (shared) {
        /* equal in every grammar, up to what may follow */
        put_key(m, r->min);
        put_key(m, r->max);
        for (int i = 0; i < 4; i++) {
            put_key(m, (uint32_t) r->follow.w[i]);
            put_key(m, (uint32_t) (r->follow.w[i] >> 32));
        }
    } else {
        put_id(m, g);
    }
    put_key(m, h->state - (shared ? r->state0 : 0));
    put_counter(m, r, h->count);
}

/* Finds or computes one walk. limit: frames that may still be opened above the bottom. */
static void
get(llm_gmask_t *m, const llm_grammar_t *g, llm_ghead_t h, uint32_t limit, const found_t *before,
    unsigned turn, found_t *f)
{
    uint32_t any = m->n_key;
    put_key(m, LLM_G_NONE);
    bool known = lookup(m, f);
    if (!known) {
        walk_head(m, g, h, MAX_FRAMES, before, &m->scratch[turn], f);
    }
    if (f->reach > limit) {
        /* so near to the limit of the depth the limit matters */
        m->key[any] = limit;
        known = lookup(m, f);
        if (!known) {
            walk_head(m, g, h, limit, before, &m->scratch[turn], f);
        }
    }
    if (!known) {
        store(m, f);    /* may overwrite what `before` borrows: it is not needed any more */
    }
}

static void
add_found(const llm_gmask_t *m, const found_t *f, uint64_t *mask)
{
    if (f->dense != NULL) {
        const uint64_t *bits = (const uint64_t *) f->dense;
        for (uint32_t i = 0; i < m->n_words / 2; i++) {
            mask[i] |= bits[i];
        }
    } else {
        for (uint32_t i = 0; i < f->n_ids; i++) {
            mask[f->ids[i] / 64] |= (uint64_t) 1 << (f->ids[i] % 64);
        }
    }
}

/* Adds the tokens of one head; returns a bound of the readings that were followed at once. */
static uint32_t
add_head(llm_gmask_t *m, const llm_grammar_t *g, const llm_grammar_state_t *s, const llm_ghead_t *h,
         uint64_t *mask)
{
    found_t f, before;
    uint32_t frame = h->frame;
    key_of_head(m, g, h);
    get(m, g, *h, LLM_GRAMMAR_DEPTH - s->frames[frame].depth, NULL, 0, &f);
    add_found(m, &f, mask);
    uint32_t crowd = f.crowd, beside = f.mixed;
    for (unsigned turn = 1; f.n_resume > 0 && frame != 0; turn = !turn) {
        const llm_gframe_t *fr = &s->frames[frame];
        llm_ghead_t below = { fr->ret, fr->count, 0 };
        const llm_gstate_t *st = &llm_g_states(g)[fr->ret];
        before = f;
        if (frame == h->frame) {
            put_id(m, g);
        }
        put_key(m, fr->ret);
        put_counter(m, &llm_g_rules(g)[st->rule], fr->count);
        frame = fr->parent;
        get(m, g, below, LLM_GRAMMAR_DEPTH - s->frames[frame].depth, &before, turn, &f);
        add_found(m, &f, mask);
        crowd = beside + f.crowd > crowd ? beside + f.crowd : crowd;
        beside += f.mixed;
    }
    return crowd;
}

uint32_t
llm_grammar_mask(llm_gmask_t *m, const llm_grammar_t *g, const llm_grammar_state_t *s,
                 uint64_t *mask)
{
    uint32_t n = 0, crowd = 0;
    memset(mask, 0, m->n_words * sizeof(uint32_t));
    if (memcmp(m->row_id, g->id, sizeof(m->row_id)) != 0) {
        memcpy(m->row_id, g->id, sizeof(m->row_id));
        memset(m->row_state, 0xff, sizeof(m->row_state));
    }
    for (uint32_t i = 0; i < s->n_heads && !s->ended; i++) {
        crowd += add_head(m, g, s, &s->heads[i], mask);
    }
    if (crowd > LLM_GRAMMAR_HEADS) {
        found_t f;
        walk_state(m, g, s, &f);
        memset(mask, 0, m->n_words * sizeof(uint32_t));
        add_found(m, &f, mask);
    }
    if (llm_grammar_accepts(g, s)) {
        for (uint32_t i = 0; i < m->v->n_eos; i++) {
            mask[m->v->eos[i] / 64] |= (uint64_t) 1 << (m->v->eos[i] % 64);
        }
    }
    for (uint32_t i = 0; i < m->n_words / 2; i++) {
        n += (uint32_t) __builtin_popcountll(mask[i]);
    }
    return n;
}

/* -------------------------------------------------------------------- life */

llm_code_t
llm_gmask_new(llm_gmask_t **out, const llm_gvocab_t *v, size_t cache_bytes, llm_err_t *err)
{
    llm_gmask_t *m = calloc(1, sizeof(*m));
    *out = NULL;
    if (m == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "no memory for token masks");
    }
    cache_bytes = cache_bytes == 0           ? DEFAULT_CACHE
                  : cache_bytes > UINT32_MAX ? UINT32_MAX
                                             : cache_bytes;
    m->v = v;
    m->n_words = (v->n_vocab + 63) / 64 * 2;
    m->cap = m->end = (uint32_t) (cache_bytes / 4) & ~1u;
    m->n_bucket = 1024;
    while (m->n_bucket < m->cap / 1024) {
        m->n_bucket *= 2;
    }
    m->row = malloc(N_ROWS * 256 * sizeof(uint32_t));
    m->heads = malloc((MAX_LEVELS + 1) * LLM_GRAMMAR_HEADS * sizeof(llm_ghead_t));
    m->frames = malloc(MAX_FRAMES * sizeof(llm_gframe_t));
    m->ring = malloc((size_t) m->cap * sizeof(uint32_t) + 8);
    m->bucket = calloc(m->n_bucket, sizeof(uint32_t));
    bool good = m->row != NULL && m->heads != NULL && m->frames != NULL && m->ring != NULL
                && m->bucket != NULL;
    for (int i = 0; good && i < 2; i++) {
        scratch_t *s = &m->scratch[i];
        s->ids = malloc((v->n_ids + 1) * sizeof(uint32_t));
        s->resume = malloc((v->n_nodes + 1) * sizeof(uint32_t));
        s->dense = malloc((m->n_words + 2) * sizeof(uint32_t));
        good = s->ids != NULL && s->resume != NULL && s->dense != NULL;
    }
    memset(m->row_state, 0xff, sizeof(m->row_state));
    for (unsigned c = 0; c < 256; c++) {
        m->group[c] = (uint8_t) llm_gvocab_group((uint8_t) c);
    }
    if (!good) {
        llm_gmask_free(m);
        return llm_fail(err, LLM_E_NOMEM,
                        "no memory for token masks of %u tokens and %zu bytes of cache", v->n_vocab,
                        cache_bytes);
    }
    *out = m;
    return LLM_OK;
}

void
llm_gmask_free(llm_gmask_t *m)
{
    if (m == NULL) {
        return;
    }
    for (int i = 0; i < 2; i++) {
        free(m->scratch[i].ids);
        free(m->scratch[i].resume);
        free(m->scratch[i].dense);
    }
    free(m->row);
    free(m->heads);
    free(m->frames);
    free(m->ring);
    free(m->bucket);
    free(m);
}

void
llm_gmask_stats(const llm_gmask_t *m, llm_gmask_stats_t *out)
{
    *out = m->stats;
}
