/*
 * attention.c - attention of one layer over paged keys and values, spread over the pool.
 *
 * The keys of a query are always cut at multiples of LLM_ATTN_SPAN and the partial results merged
 * in order. Whether the spans of one item run one after the other on one thread (many items) or on
 * several threads (few sequences with long contexts) therefore changes no bit of the result.
 */
#include "forward_impl.h"

#include <stdlib.h>

/* scores: below, waking the other threads takes longer */
#define MIN_SHARED_WORK 4096
/* items of the longest one's length for each thread: with fewer, threads would wait for the last */
#define MIN_ITEMS       8

/* Queries pos0 .. pos0+n_q-1 of one sequence (rows of the step) and one kv head. */
struct llm_attn_item {
    uint32_t row, pos0, n_q, kv_head;
    uint32_t n_keys;            /* keys 0 .. n_keys-1 exist for the last query */
    uint32_t span0, n_spans;    /* key spans that hold a visible key */
    /* split mode: where this item's partials start, in records of one span */
    uint32_t first_part;
    const uint32_t *table;
};
typedef struct llm_attn_item item_t;

typedef struct {
    llm_fwd_t *f;
    uint32_t   layer;
    bool       cross;
    size_t     ld_q;
    uint32_t   n_items, n_parts;    /* items, and key spans of all of them */
    uint32_t   max_spans;           /* of one item */
    uint64_t   work;                /* scores to compute */
    bool       single;              /* every item has one query */
} attn_ctx_t;

static size_t
span_floats(const llm_fwd_t *f, uint32_t n_q)
{
    return (size_t) n_q * (f->s->n_heads / f->s->n_kv_heads) * llm_attn_part_floats(f->s->head_dim);
}

/* A key span of an item: keys from (item->span0 + i) * LLM_ATTN_SPAN. */
typedef struct {
    const item_t *item;         /* NULL: none */
    uint32_t      i;
} span_t;

/* The pages that a span begins with. */
static void
name_next(const attn_ctx_t *c, span_t span, llm_attn_t *a)
{
    const item_t *it = span.item;
    uint32_t n_pages = (it->n_keys + LLM_KV_PAGE - 1) / LLM_KV_PAGE,
             page = (it->span0 + span.i) * (LLM_ATTN_SPAN / LLM_KV_PAGE);

    for (uint32_t i = 0; i < LLM_ATTN_AHEAD && page + i < n_pages; i++) {
        a->next[i] = llm_fwd_block(&c->f->pages, it->table[page + i], c->layer, it->kv_head);
    }
}

/* One key span into part[n_q * group records]; next: what this thread probably runs then. */
static void
run_span(const attn_ctx_t *c, span_t span, span_t next, float *part, uint32_t i_thread)
{
    const item_t *it = span.item;
    llm_fwd_t *f = c->f;
    const llm_stack_t *s = f->s;
    uint32_t group = s->n_heads / s->n_kv_heads, head0 = it->kv_head * group;
    uint32_t key0 = (it->span0 + span.i) * LLM_ATTN_SPAN, key1 = key0 + LLM_ATTN_SPAN;

    llm_attn_t a = {
        .pages = llm_fwd_block(&f->pages, 0, c->layer, it->kv_head),
        .page_bytes = f->pages.page_bytes,
        .table = it->table, .type = f->kv_type, .head_dim = s->head_dim, .group = group,
        .q = f->qkv + it->row * c->ld_q + (size_t) head0 * s->head_dim, .ldq = c->ld_q,
        .n_q = it->n_q, .pos0 = it->pos0, .scale = s->attn_scale, .softcap = s->score_cap,
        .key0 = key0, .key1 = key1 < it->n_keys ? key1 : it->n_keys, .part = part,
        .scratch = f->attn_scratch + i_thread * f->attn_scratch_ld,
    };
    if (!c->cross) {
        a.causal = s->causal;
        a.window = s->layers[c->layer].window;
        a.slopes = s->slopes ? s->slopes + head0 : NULL;
        a.alibi_bf16 = s->alibi_scaled_bf16;
        a.rel = f->rel ? f->rel + (size_t) head0 * f->rel_n : NULL;
        a.ld_rel = f->rel_n;
        a.rel_n = f->rel_n;
        a.rel_zero = f->rel_zero;
    }
    if (next.item != NULL) {
        name_next(c, next, &a);
    }
    f->k->attn(&a);
}

/* parts: [span][n_q * group records] */
static void
merge(llm_fwd_t *f, const item_t *it, const float *parts)
{
    const llm_stack_t *s = f->s;
    uint32_t group = s->n_heads / s->n_kv_heads;
    size_t part_floats = llm_attn_part_floats(s->head_dim);

    for (uint32_t q = 0; q < it->n_q; q++) {
        for (uint32_t g = 0; g < group; g++) {
            float *out = f->att
                         + ((size_t) (it->row + q) * s->n_heads + it->kv_head * group + g)
                               * s->head_dim;
            f->k->attn_merge(out, parts + (q * group + g) * part_floats, it->n_spans,
                             span_floats(f, it->n_q), s->head_dim);
        }
    }
}

static void
item_chunk(void *ctx, uint32_t i_chunk, uint32_t i_thread)
{
    attn_ctx_t *c = ctx;
    llm_fwd_t *f = c->f;
    uint32_t i_next = i_chunk + 1;      /* a thread goes on behind its chunk (pool.h) */
    const item_t *it = &f->items[i_chunk], *next = i_next < c->n_items ? &f->items[i_next] : NULL;
    float *part = f->attn_part + i_thread * f->attn_part_ld;

    for (uint32_t i = 0; i < it->n_spans; i++) {
        span_t span = { it, i }, then = { it, i + 1 };
        run_span(c, span, i + 1 < it->n_spans ? then : (span_t) { next, 0 },
                 part + i * span_floats(f, it->n_q), i_thread);
    }
    merge(f, it, part);
}

static span_t
span_of_part(const attn_ctx_t *c, uint32_t part)
{
    const item_t *it = c->f->items;
    if (part >= c->n_parts) {
        return (span_t) { NULL, 0 };
    }
    while (part >= it->first_part + it->n_spans) {
        it++;
    }
    return (span_t) { it, part - it->first_part };
}

/* Split mode: chunk = one span of one item (all items have n_q == 1). */
static void
span_chunk(void *ctx, uint32_t i_chunk, uint32_t i_thread)
{
    attn_ctx_t *c = ctx;
    run_span(c, span_of_part(c, i_chunk), span_of_part(c, i_chunk + 1),
             c->f->split_part + i_chunk * span_floats(c->f, 1), i_thread);
}

/* Cuts the rows of the step into items. */
static void
make_items(attn_ctx_t *c)
{
    llm_fwd_t *f = c->f;
    const llm_stack_t *s = f->s;
    uint32_t window = c->cross ? 0 : s->layers[c->layer].window;

    c->single = true;
    for (uint32_t i = 0; i < f->n_spans; i++) {
        const llm_fwd_span_t *sp = &f->spans[i];
        for (uint32_t q0 = 0; q0 < sp->n; q0 += LLM_ATTN_MAX_Q) {
            uint32_t n_q = sp->n - q0 < LLM_ATTN_MAX_Q ? sp->n - q0 : LLM_ATTN_MAX_Q,
                     pos0 = sp->pos0 + q0;
            uint32_t n_keys = c->cross ? sp->n_cross : s->causal ? pos0 + n_q : sp->pos0 + sp->n;
            uint32_t first = window != 0 && pos0 + 1 > window ? pos0 + 1 - window : 0,
                     span0 = first / LLM_ATTN_SPAN,
                     n_spans = (n_keys + LLM_ATTN_SPAN - 1) / LLM_ATTN_SPAN - span0;
            for (uint32_t h = 0; h < s->n_kv_heads; h++) {
                f->items[c->n_items++] = (item_t) {
                    .row = sp->row0 + q0,
                    .pos0 = pos0,
                    .n_q = n_q,
                    .kv_head = h,
                    .n_keys = n_keys,
                    .span0 = span0,
                    .n_spans = n_spans,
                    .first_part = c->n_parts,
                    .table = c->cross ? sp->cross : sp->table,
                };
                c->n_parts += n_spans;
            }
            c->single = c->single && n_q == 1;
            c->max_spans = n_spans > c->max_spans ? n_spans : c->max_spans;
            c->work += (uint64_t) n_q * (n_keys - first) * s->n_heads;
        }
    }
}

void
llm_fwd_attention(llm_fwd_t *f, uint32_t layer, bool cross, size_t ld_q)
{
    attn_ctx_t c = { .f = f, .layer = layer, .cross = cross, .ld_q = ld_q };
    uint32_t threads = llm_pool_size(f->pool);

    make_items(&c);
    if (c.work < MIN_SHARED_WORK || threads == 1) {
        for (uint32_t i = 0; i < c.n_items; i++) {
            item_chunk(&c, i, 0);
        }
    } else if (c.single && c.max_spans > 1 && c.n_parts < MIN_ITEMS * threads * c.max_spans) {
        llm_pool_run(f->pool, span_chunk, &c, c.n_parts);
        for (uint32_t i = 0; i < c.n_items; i++) {
            merge(f, &f->items[i], f->split_part + f->items[i].first_part * span_floats(f, 1));
        }
    } else {
        llm_pool_run(f->pool, item_chunk, &c, c.n_items);
    }
}

llm_code_t
llm_fwd_attention_init(llm_fwd_t *f, llm_err_t *err)
{
    const llm_stack_t *d = &f->m->dec, *e = &f->m->enc;
    uint32_t threads = llm_pool_size(f->pool),
             max_spans = (f->n_ctx + LLM_ATTN_SPAN - 1) / LLM_ATTN_SPAN;
    uint32_t group = LLM_FWD_MAX(f->m, d->n_heads / d->n_kv_heads, e->n_heads / e->n_kv_heads);
    uint32_t head_dim = LLM_FWD_MAX(f->m, d->head_dim, e->head_dim);
    uint32_t kv_heads = LLM_FWD_MAX(f->m, d->n_kv_heads, e->n_kv_heads);

    size_t part_floats = llm_attn_part_floats(head_dim);

    f->attn_part_ld = (size_t) max_spans * LLM_ATTN_MAX_Q * group * part_floats;
    f->attn_scratch_ld = (llm_attn_scratch_floats(head_dim, group) + 15) & ~(size_t) 15;

    f->attn_part = llm_fwd_alloc(threads, f->attn_part_ld * sizeof(float));
    f->attn_scratch = llm_fwd_alloc(threads, f->attn_scratch_ld * sizeof(float));
    /* every sequence of a step may have one token */
    f->items = llm_fwd_alloc((size_t) f->max_tokens * kv_heads, sizeof(item_t));
    f->split_part = llm_fwd_alloc((size_t) MIN_ITEMS * threads * max_spans,
                                  group * part_floats * sizeof(float));
    if (f->attn_part == NULL || f->attn_scratch == NULL || f->items == NULL
        || f->split_part == NULL) {
        return llm_fail(err, LLM_E_NOMEM,
                        "attention scratch for %u tokens of context: out of memory", f->n_ctx);
    }
    return LLM_OK;
}

void
llm_fwd_attention_free(llm_fwd_t *f)
{
    free(f->attn_part);
    free(f->attn_scratch);
    free(f->items);
    free(f->split_part);
}
