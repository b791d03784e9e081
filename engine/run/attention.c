/*
 * attention.c - attention of one layer over paged keys and values, spread over the pool.
 *
 * The keys of a query are always cut at multiples of LLM_ATTN_SPAN and the partial results merged in order. Whether the spans
 * of one item run one after the other on one thread (many items) or on several threads (few sequences with long
 * contexts) therefore changes no bit of the result.
 */
#include "forward_impl.h"

#include <stdlib.h>

/* Queries q0 .. q0+n_q-1 of one sequence (rows of the step) and one kv head. */
struct llm_attn_item {
    uint32_t row, pos0, n_q, kv_head;
    uint32_t span0, n_spans;    /* key spans that hold a visible key */
    uint32_t first_part;        /* split mode: where this item's partials start, in records of one span */
    const uint32_t *table;
};
typedef struct llm_attn_item item_t;

typedef struct {
    llm_fwd_t *f;
    uint32_t   layer;
} attn_ctx_t;

/* One key span of one item into part[n_q * group records]. */
static void
run_span(llm_fwd_t *f, uint32_t layer, const item_t *it, uint32_t span, float *part, uint32_t i_thread)
{
    const llm_stack_t *s = &f->m->dec;
    uint32_t group = s->n_heads / s->n_kv_heads;
    uint32_t key0 = span * LLM_ATTN_SPAN, key1 = key0 + LLM_ATTN_SPAN, end = it->pos0 + it->n_q;
    uint32_t width = (s->n_heads + 2 * s->n_kv_heads) * s->head_dim;

    llm_attn_t a = {
        .pages = f->kv, .page_bytes = f->page_bytes,
        .head_off = layer * f->layer_bytes + it->kv_head * f->head_bytes,
        .table = it->table, .type = f->kv_type, .head_dim = s->head_dim, .group = group,
        .q = f->qkv + (size_t) it->row * width + (size_t) it->kv_head * group * s->head_dim, .ldq = width,
        .n_q = it->n_q, .pos0 = it->pos0, .causal = s->causal, .window = s->layers[layer].window,
        .scale = s->attn_scale, .softcap = s->score_cap,
        .slopes = s->slopes ? s->slopes + it->kv_head * group : NULL, .alibi_bf16 = s->alibi_scaled_bf16,
        .rel = f->rel ? f->rel + (size_t) it->kv_head * group * f->rel_n : NULL, .ld_rel = f->rel_n,
        .rel_n = f->rel_n, .rel_zero = f->rel_zero,
        .key0 = key0, .key1 = key1 < end ? key1 : end, .part = part,
        .scratch = f->attn_scratch + i_thread * f->attn_scratch_ld,
    };
    f->k->attn(&a);
}

/* parts: [span][n_q * group records] */
static void
merge(llm_fwd_t *f, const item_t *it, const float *parts)
{
    const llm_stack_t *s = &f->m->dec;
    uint32_t group = s->n_heads / s->n_kv_heads;
    size_t span_floats = (size_t) it->n_q * group * f->part_floats;

    for (uint32_t q = 0; q < it->n_q; q++) {
        for (uint32_t g = 0; g < group; g++) {
            float *out = f->att + ((size_t) (it->row + q) * s->n_heads + it->kv_head * group + g) * s->head_dim;
            f->k->attn_merge(out, parts + (q * group + g) * f->part_floats, it->n_spans, span_floats, s->head_dim);
        }
    }
}

static void
item_chunk(void *ctx, uint32_t i_chunk, uint32_t i_thread)
{
    attn_ctx_t *c = ctx;
    llm_fwd_t *f = c->f;
    const item_t *it = &f->items[i_chunk];
    size_t span_floats = (size_t) it->n_q * (f->m->dec.n_heads / f->m->dec.n_kv_heads) * f->part_floats;
    float *part = f->attn_part + i_thread * f->attn_part_ld;

    for (uint32_t i = 0; i < it->n_spans; i++) {
        run_span(f, c->layer, it, it->span0 + i, part + i * span_floats, i_thread);
    }
    merge(f, it, part);
}

/* Split mode: chunk = one span of one item (all items have n_q == 1). */
static void
span_chunk(void *ctx, uint32_t i_chunk, uint32_t i_thread)
{
    attn_ctx_t *c = ctx;
    llm_fwd_t *f = c->f;
    const item_t *it = f->items;
    while (i_chunk >= it->first_part + it->n_spans) {
        it++;
    }
    size_t span_floats = (size_t) (f->m->dec.n_heads / f->m->dec.n_kv_heads) * f->part_floats;
    run_span(f, c->layer, it, it->span0 + i_chunk - it->first_part, f->split_part + i_chunk * span_floats, i_thread);
}

void
llm_fwd_attention(llm_fwd_t *f, uint32_t layer)
{
    const llm_stack_t *s = &f->m->dec;
    uint32_t window = s->layers[layer].window, n_items = 0, n_parts = 0, threads = llm_pool_size(f->pool);
    uint64_t work = 0;
    bool single = true;

    for (uint32_t i = 0; i < f->n_spans; i++) {
        const llm_fwd_span_t *sp = &f->spans[i];
        for (uint32_t q0 = 0; q0 < sp->n; q0 += LLM_ATTN_MAX_Q) {
            uint32_t n_q = sp->n - q0 < LLM_ATTN_MAX_Q ? sp->n - q0 : LLM_ATTN_MAX_Q;
            uint32_t pos0 = sp->pos0 + q0, end = pos0 + n_q;
            uint32_t first = window != 0 && pos0 + 1 > window ? pos0 + 1 - window : 0;
            uint32_t span0 = first / LLM_ATTN_SPAN;
            for (uint32_t h = 0; h < s->n_kv_heads; h++) {
                f->items[n_items++] = (item_t) {
                    .row = sp->row0 + q0, .pos0 = pos0, .n_q = n_q, .kv_head = h, .span0 = span0,
                    .n_spans = (end + LLM_ATTN_SPAN - 1) / LLM_ATTN_SPAN - span0, .first_part = n_parts, .table = sp->table,
                };
                n_parts += f->items[n_items - 1].n_spans;
            }
            single = single && n_q == 1;
            work += (uint64_t) n_q * (end - first) * s->n_heads;
        }
    }

    attn_ctx_t c = { .f = f, .layer = layer };

    if (work < 4096 || threads == 1) {
        for (uint32_t i = 0; i < n_items; i++) {
            item_chunk(&c, i, 0);
        }
    } else if (single && n_items < 4 * threads && n_parts > n_items && n_parts <= f->max_split) {
        llm_pool_run(f->pool, span_chunk, &c, n_parts);
        size_t span_floats = (size_t) (s->n_heads / s->n_kv_heads) * f->part_floats;
        for (uint32_t i = 0; i < n_items; i++) {
            merge(f, &f->items[i], f->split_part + f->items[i].first_part * span_floats);
        }
    } else {
        llm_pool_run(f->pool, item_chunk, &c, n_items);
    }
}

llm_code_t
llm_fwd_attention_init(llm_fwd_t *f, llm_err_t *err)
{
    const llm_stack_t *s = &f->m->dec;
    uint32_t group = s->n_heads / s->n_kv_heads, threads = llm_pool_size(f->pool);

    f->max_key_spans = (f->n_ctx + LLM_ATTN_SPAN - 1) / LLM_ATTN_SPAN;
    f->part_floats = llm_attn_part_floats(s->head_dim);
    f->attn_part_ld = (size_t) f->max_key_spans * LLM_ATTN_MAX_Q * group * f->part_floats;
    f->attn_scratch_ld = (llm_attn_scratch_floats(s->head_dim, group) + 15) & ~(size_t) 15;
    f->max_items = f->max_tokens * s->n_kv_heads;       /* every sequence of a step may have one token */
    f->max_split = 4 * threads * f->max_key_spans;

    f->attn_part = llm_fwd_alloc(threads, f->attn_part_ld * sizeof(float));
    f->attn_scratch = llm_fwd_alloc(threads, f->attn_scratch_ld * sizeof(float));
    f->items = llm_fwd_alloc(f->max_items, sizeof(item_t));
    f->split_part = llm_fwd_alloc(f->max_split, group * f->part_floats * sizeof(float));
    if (f->attn_part == NULL || f->attn_scratch == NULL || f->items == NULL || f->split_part == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "attention scratch for %u tokens of context: out of memory", f->n_ctx);
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
