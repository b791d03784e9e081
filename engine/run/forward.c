/*
 * forward.c - the generic block of spec models.md section 2.1, one layer after the other.
 *
 * A layer alternates between matrix products (spread over tiles of rows) and row phases (spread
 * over tokens), where a row phase does everything that only needs its own token: add the last
 * output to the residual, norm, gate, quantize the next input. Threads meet only between the two,
 * about five times a layer.
 */
#include "forward_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* -------------------------------------------------------------- row phases */

/* Steps that are not NULL/false run in the order of the fields. */
typedef struct {
    /* h = norm(x), before the add (parallel blocks with two norms) */
    const llm_norm_t *norm_first;
    const llm_norm_t *norm_y;       /* y = norm(y) (sandwich) */
    const float      *add, *add2;   /* x += add; x += add2 */
    const llm_norm_t *norm;         /* dst = norm(x) */
    float            *norm_dst;
    bool              glu;          /* ff = act(gate) * up, or act(up) */
    const llm_act_t  *quant;        /* int8 form of this row for the next product */
} row_op_t;

static void
norm_row(const llm_fwd_t *f, const llm_norm_t *norm, float *dst, const float *src)
{
    const llm_stack_t *s = f->s;
    if (norm->w == NULL) {
        if (dst != src) {
            memcpy(dst, src, s->d * sizeof(float));
        }
    } else if (s->norm == LLM_NORM_RMS) {
        f->k->norm_rms(dst, src, norm->w, s->d, s->eps);
    } else {
        f->k->norm_layer(dst, src, norm->w, norm->b, s->d, s->eps);
    }
}

static void
row_op(llm_fwd_t *f, void *ctx, uint32_t row)
{
    const row_op_t *op = ctx;
    const llm_stack_t *s = f->s;
    size_t at = (size_t) row * s->d;
    float *x = f->x + at;

    if (op->norm_first != NULL) {
        norm_row(f, op->norm_first, f->h + at, x);
    }
    if (op->norm_y != NULL) {
        norm_row(f, op->norm_y, f->y + at, f->y + at);
    }
    if (op->add != NULL) {
        f->k->add(x, op->add + at, s->d);
    }
    if (op->add2 != NULL) {
        f->k->add(x, op->add2 + at, s->d);
    }
    if (op->norm != NULL) {
        norm_row(f, op->norm, op->norm_dst + at, x);
    }
    if (op->glu) {
        float *ff = f->ff + (size_t) row * f->ff_ld;
        f->k->act_mul(ff, ff, s->mlp == LLM_MLP_GATED ? ff + s->ff : NULL, s->ff, s->act);
    }
    if (op->quant != NULL) {
        f->k->quant(op->quant, row, row + 1);
    }
}

static void
run_rows(llm_fwd_t *f, row_op_t *op)
{
    llm_fwd_rows(f, f->n, row_op, op);
}

/* The next product's input in int8, or NULL when it needs none. */
static const llm_act_t *
quant_for(const llm_fwd_t *f, const llm_lin_t *lin, const float *in, size_t ld, llm_act_t *act)
{
    *act = (llm_act_t) { .x = in, .ldx = ld, .n = f->n, .k = lin->cols,
                         .forms = llm_fwd_act_forms(f, lin), .buf = f->act_buf };
    return act->forms != 0 ? act : NULL;
}

/* ------------------------------------------------- queries, keys and values */

typedef struct { const llm_layer_t *l; uint32_t layer; } kv_ctx_t;

/* Keys and values of all kv heads of stack s at one position. */
static void
store_kv(const llm_fwd_t *f, const llm_fwd_pages_t *pages, uint32_t layer, const llm_stack_t *s,
         const uint32_t *table, uint32_t pos, const float *k, const float *v)
{
    for (uint32_t h = 0; h < s->n_kv_heads; h++) {
        f->k->kv_store(llm_fwd_block(pages, table[pos / LLM_KV_PAGE], layer, h), f->kv_type,
                       s->head_dim, pos % LLM_KV_PAGE, k + h * s->head_dim, v + h * s->head_dim);
    }
}

static void
head_norm(const llm_fwd_t *f, const llm_norm_t *norm, float *x)
{
    const llm_stack_t *s = f->s;
    if (norm->w == NULL) {
        return;
    }
    if (s->qk_norm == LLM_NORM_RMS) {
        f->k->norm_rms(x, x, norm->w, s->head_dim, s->eps);
    } else {
        f->k->norm_layer(x, x, norm->w, norm->b, s->head_dim, s->eps);
    }
}

/*
 * Clamps, norms and rotates the row's queries and keys; stores keys and values in the row's page.
 */
static void
kv_row(llm_fwd_t *f, void *ctx, uint32_t row)
{
    const kv_ctx_t *c = ctx;
    const llm_stack_t *s = f->s;
    uint32_t hd = s->head_dim, width = (s->n_heads + 2 * s->n_kv_heads) * hd;
    float *q = f->qkv + (size_t) row * width, *k = q + s->n_heads * hd, *v = k + s->n_kv_heads * hd;

    if (s->clip_qkv > 0) {
        for (uint32_t i = 0; i < width; i++) {
            q[i] = fminf(fmaxf(q[i], -s->clip_qkv), s->clip_qkv);
        }
    }
    for (uint32_t h = 0; h < s->n_heads + s->n_kv_heads; h++) {
        head_norm(f, h < s->n_heads ? &c->l->qn : &c->l->kn, q + h * hd);
        if (s->pos == LLM_POS_ROPE && c->l->rotate) {
            f->k->rope(q + h * hd, f->rope_of[row], s->n_rot / 2, s->rope_half);
        }
    }

    const llm_fwd_span_t *sp = f->spans;
    while (row >= sp->row0 + sp->n) {
        sp++;
    }
    uint32_t pos = sp->pos0 + row - sp->row0;
    store_kv(f, &f->pages, c->layer, s, sp->table, pos, k, v);
}

/* --------------------------------------------------------------- positions */

/*
 * Dynamic NTK (spec 3.4): the base grows once the length exceeds the original context. A prompt is
 * rotated for its own length, a later token for the length it made.
 */
static void
rope_dynamic_row(const llm_fwd_t *f, const llm_fwd_seq_t *seq, uint32_t pos, float *dst)
{
    const llm_stack_t *s = f->s;
    uint32_t n = s->n_rot, len = pos < seq->n_prompt ? seq->n_prompt : pos + 1;
    double m = s->rope_orig_ctx, base = s->rope_theta;

    if (len > s->rope_orig_ctx) {
        base *= pow(s->rope_factor * len / m - (s->rope_factor - 1), (double) n / (n - 2));
    }
    for (uint32_t j = 0; j < n / 2; j++) {
        float inv = (float) (1.0 / pow(base, (float) (2 * j) / (float) n)), a = (float) pos * inv;
        dst[j] = cosf(a) * s->rope_mscale;
        dst[n / 2 + j] = sinf(a) * s->rope_mscale;
    }
}

static void
rope_angles(const llm_stack_t *s, const float *inv, uint32_t pos, float *dst)
{
    uint32_t n = s->n_rot;
    for (uint32_t j = 0; j < n / 2; j++) {
        float a = (float) pos * inv[j];
        dst[j] = cosf(a) * s->rope_mscale;
        dst[n / 2 + j] = sinf(a) * s->rope_mscale;
    }
}

/* The tables' rows are made when a sequence first gets there: memory is taken as it is needed. */
static void
rope_reach(llm_fwd_t *f, uint32_t pos)
{
    const llm_stack_t *s = &f->m->dec;
    for (; f->n_rope <= pos; f->n_rope++) {
        size_t at = (size_t) f->n_rope * s->n_rot;
        rope_angles(s, s->rope_inv, f->n_rope, f->rope + at);
        if (f->rope_long != NULL) {
            rope_angles(s, s->rope_long, f->n_rope, f->rope_long + at);
        }
    }
}

/* Bucket of a distance key - query (spec 3.6). */
static uint32_t
t5_bucket(const llm_stack_t *s, int32_t rel)
{
    uint32_t n = s->rel_buckets, base = 0, dist;
    if (!s->causal) {
        n /= 2;
        base = rel > 0 ? n : 0;
        dist = (uint32_t) abs(rel);
    } else {
        dist = rel < 0 ? (uint32_t) -rel : 0;
    }
    uint32_t exact = n / 2;
    if (dist < exact) {
        return base + dist;
    }
    float scale = (float) log((double) s->rel_max_distance / exact);
    uint32_t b = exact
                 + (uint32_t) (logf((float) dist / (float) exact) / scale * (float) (n - exact));
    return base + (b < n - 1 ? b : n - 1);
}

/*
 * Bias of every distance that differs from its neighbours' bucket: beyond max_distance all are
 * alike.
 */
static float *
rel_table(llm_fwd_t *f, const llm_stack_t *s)
{
    f->rel_zero = s->rel_max_distance;
    f->rel_n = 2 * s->rel_max_distance + 1;
    float *t = llm_fwd_alloc(s->n_heads, f->rel_n * sizeof(float));
    for (uint32_t i = 0; t != NULL && i < f->rel_n; i++) {
        uint32_t b = t5_bucket(s, (int32_t) i - (int32_t) f->rel_zero);
        for (uint32_t h = 0; h < s->n_heads; h++) {
            t[(size_t) h * f->rel_n + i] = s->rel_table[(size_t) b * s->n_heads + h];
        }
    }
    return t;
}

static llm_code_t
positions_init(llm_fwd_t *f, llm_err_t *err)
{
    const llm_stack_t *s = &f->m->dec, *e = &f->m->enc;

    if (s->pos == LLM_POS_ROPE) {
        f->rope_of = llm_fwd_alloc(f->max_tokens, sizeof(*f->rope_of));
        if (s->rope_dynamic) {
            f->rope_row = llm_fwd_alloc(f->max_tokens, s->n_rot * sizeof(float));
        } else {
            f->rope = llm_fwd_alloc(f->n_ctx, s->n_rot * sizeof(float));
            f->rope_long = s->rope_long ? llm_fwd_alloc(f->n_ctx, s->n_rot * sizeof(float)) : NULL;
        }
        if (f->rope_of == NULL || (f->rope == NULL && f->rope_row == NULL)
            || (s->rope_long && f->rope_long == NULL)) {
            return llm_fail(err, LLM_E_NOMEM,
                            "rotary table for %u tokens of context: out of memory", f->n_ctx);
        }
    }
    if (s->pos == LLM_POS_T5) {
        f->dec_rel = rel_table(f, s);
        f->enc_rel = e->n_layers > 0 ? rel_table(f, e) : NULL;
        if (f->dec_rel == NULL || (e->n_layers > 0 && f->enc_rel == NULL)) {
            return llm_fail(err, LLM_E_NOMEM, "relative position table: out of memory");
        }
    }
    return LLM_OK;
}

/* ------------------------------------------------------------------- layers */

static void
mlp(llm_fwd_t *f, const llm_layer_t *l, float *out)
{
    const llm_stack_t *s = f->s;
    llm_act_t act;

    if (s->mlp == LLM_MLP_MOE) {
        llm_fwd_moe(f, l);
        if (out != f->y2) {
            memcpy(out, f->y2, (size_t) f->n * s->d * sizeof(float));
        }
        return;
    }
    llm_fwd_linear(f, &l->ffn_in, f->h, s->d, f->n, true, f->ff, f->ff_ld);
    row_op_t op = { .glu = true, .quant = quant_for(f, &l->ffn_out, f->ff, f->ff_ld, &act) };
    run_rows(f, &op);
    llm_fwd_linear(f, &l->ffn_out, f->ff, f->ff_ld, f->n, true, out, s->d);
}

/* The tokens of a sequence from `drop` on, at row0. */
static llm_fwd_span_t
span_of(const llm_fwd_seq_t *q, uint32_t row0, uint32_t drop)
{
    return (llm_fwd_span_t) { row0, q->n - drop, q->pos0 + drop, q->table, q->n_cross, q->cross };
}

/*
 * In the last layer only the rows that need logits go on once their keys and values are stored.
 * Rows move up in x, h and qkv, and the spans then name just them.
 */
static void
keep_rows(llm_fwd_t *f, const llm_fwd_seq_t *seqs, uint32_t n_seqs)
{
    const llm_stack_t *s = f->s;
    uint32_t width = (s->n_heads + 2 * s->n_kv_heads) * s->head_dim, row = 0, to = 0, n_spans = 0;

    for (uint32_t i = 0; i < n_seqs; i++) {
        uint32_t drop = seqs[i].n - seqs[i].n_rows, from = row + drop, n = seqs[i].n_rows;
        memmove(f->x + (size_t) to * s->d, f->x + (size_t) from * s->d,
                (size_t) n * s->d * sizeof(float));
        memmove(f->h + (size_t) to * s->d, f->h + (size_t) from * s->d,
                (size_t) n * s->d * sizeof(float));
        memmove(f->qkv + (size_t) to * width, f->qkv + (size_t) from * width,
                (size_t) n * width * sizeof(float));
        if (n > 0) {
            f->spans[n_spans++] = span_of(&seqs[i], to, drop);
        }
        row += seqs[i].n;
        to += n;
    }
    f->n = to;
    f->n_spans = n_spans;
}

/*
 * Cross-attention: y holds the self-attention's output on entry, the cross-attention's on return.
 */
static void
cross(llm_fwd_t *f, uint32_t i)
{
    const llm_stack_t *s = f->s;
    const llm_layer_t *l = &s->layers[i];
    const llm_norm_t none = { NULL, NULL };
    bool post = s->topology == LLM_TOPO_POST;
    uint32_t att = s->n_heads * s->head_dim;
    llm_act_t act;
    row_op_t op = { .add = f->y };

    if (post) {
        op.norm = &l->n1;
        op.norm_dst = f->x;
        run_rows(f, &op);
        op = (row_op_t) { 0 };
    }
    op.norm = post ? &none : &l->xn;
    op.norm_dst = f->h;
    op.quant = quant_for(f, &l->xq, f->h, s->d, &act);
    run_rows(f, &op);
    llm_fwd_linear(f, &l->xq, f->h, s->d, f->n, true, f->qkv, att);
    llm_fwd_attention(f, i, true, att);
    llm_fwd_linear(f, &l->xo, f->att, att, f->n, false, f->y, s->d);
}

static void
layer(llm_fwd_t *f, uint32_t i, const llm_fwd_seq_t *seqs, uint32_t n_seqs, const float *add,
      const float *add2)
{
    const llm_stack_t *s = f->s;
    const llm_layer_t *l = &s->layers[i];
    uint32_t width = (s->n_heads + 2 * s->n_kv_heads) * s->head_dim, att = s->n_heads * s->head_dim;
    bool post = s->topology == LLM_TOPO_POST, last = i + 1 == s->n_layers;
    bool parallel = s->topology == LLM_TOPO_PARALLEL || s->topology == LLM_TOPO_PARALLEL2;
    llm_act_t act;
    row_op_t op;

    /* finish the layer before, then this one's attention input */
    const llm_norm_t none = { NULL, NULL };
    const llm_norm_t *prev = post && i > 0 ? &s->layers[i - 1].n2 : NULL;
    const llm_norm_t *prev_y = s->topology == LLM_TOPO_SANDWICH && i > 0 ? &s->layers[i - 1].pn2
                                                                         : NULL;
    op = (row_op_t) { .norm_y = prev_y, .add = add, .add2 = add2 };
    if (post) {
        op.norm = prev;
        op.norm_dst = f->x;
        run_rows(f, &op);
        op = (row_op_t) { 0 };
    }
    op.norm = post ? &none : &l->n1;
    op.norm_dst = f->h;
    op.quant = quant_for(f, &l->qkv, f->h, s->d, &act);
    run_rows(f, &op);

    llm_fwd_linear(f, &l->qkv, f->h, s->d, f->n, true, f->qkv, width);
    kv_ctx_t kv = { .l = l, .layer = i };
    llm_fwd_rows(f, f->n, kv_row, &kv);
    if (last && s == &f->m->dec) {
        keep_rows(f, seqs, n_seqs);
        if (f->n == 0) {
            return;
        }
    }

    llm_fwd_attention(f, i, false, width);
    llm_fwd_linear(f, &l->o, f->att, att, f->n, false, f->y, s->d);
    if (l->xq.n_parts > 0) {
        cross(f, i);
    }

    switch (s->topology) {
    case LLM_TOPO_PARALLEL:
        /* h is still n1(x), but its int8 form is not */
        op = (row_op_t) { .quant = quant_for(f, &l->ffn_in, f->h, s->d, &act) };
        break;
    case LLM_TOPO_PARALLEL2:
        op = (row_op_t) { .norm_first = &l->n2,
                         .quant = quant_for(f, &l->ffn_in, f->h, s->d, &act) };
        break;
    case LLM_TOPO_POST:
        op = (row_op_t) { .add = f->y,
                         .norm = l->xq.n_parts > 0 ? &l->xn : &l->n1,
                         .norm_dst = f->x };
        run_rows(f, &op);
        op = (row_op_t) { .norm = &none,
                         .norm_dst = f->h,
                         .quant = quant_for(f, &l->ffn_in, f->h, s->d, &act) };
        break;
    case LLM_TOPO_SANDWICH:
        op = (row_op_t) { .norm_y = &l->pn1, .add = f->y, .norm = &l->n2, .norm_dst = f->h,
                          .quant = quant_for(f, &l->ffn_in, f->h, s->d, &act) };
        break;
    case LLM_TOPO_PRE:
        op = (row_op_t) { .add = f->y, .norm = &l->n2, .norm_dst = f->h,
                          .quant = quant_for(f, &l->ffn_in, f->h, s->d, &act) };
        break;
    }
    run_rows(f, &op);
    mlp(f, l, parallel ? f->y2 : f->y);
}

static void
embed(llm_fwd_t *f, const llm_fwd_seq_t *seqs, uint32_t n_seqs)
{
    const llm_stack_t *s = f->s;
    const llm_mat_t *e = &f->m->embed;
    float *dst = f->wide != NULL && s->proj_in.n_parts > 0 ? f->wide : f->x;
    uint32_t row = 0;

    for (uint32_t i = 0; i < n_seqs; i++) {
        for (uint32_t t = 0; t < seqs[i].n; t++, row++) {
            float *x = dst + (size_t) row * e->cols;
            int32_t id = seqs[i].n_cross > 0 && seqs[i].pos0 + t == 0 ? seqs[i].first_id
                                                                      : seqs[i].tokens[t];
            llm_mat_row(e, (uint32_t) id, x);
            for (uint32_t j = 0; s->emb_scale != 1 && j < e->cols; j++) {
                x[j] *= s->emb_scale;
            }
            uint32_t pos = seqs[i].pos0 + t;
            if (f->rope_row != NULL) {
                rope_dynamic_row(f, &seqs[i], pos, f->rope_row + (size_t) row * s->n_rot);
                f->rope_of[row] = f->rope_row + (size_t) row * s->n_rot;
            } else if (f->rope != NULL) {
                rope_reach(f, pos);
                const float *tab = f->rope_long != NULL && seqs[i].n_planned > s->rope_orig_ctx
                                       ? f->rope_long
                                       : f->rope;
                f->rope_of[row] = tab + (size_t) pos * s->n_rot;
            }
        }
    }
    if (dst != f->x) {
        llm_fwd_linear(f, &s->proj_in, dst, e->cols, row, false, f->x, s->d);
    }

    row = 0;
    for (uint32_t i = 0; i < n_seqs; i++) {
        for (uint32_t t = 0; t < seqs[i].n; t++, row++) {
            float *x = f->x + (size_t) row * s->d;
            if (s->pos == LLM_POS_LEARNED) {
                f->k->add(x, s->pos_table + (size_t) (seqs[i].pos0 + t + s->pos_offset) * s->d,
                          s->d);
            }
            norm_row(f, &s->emb_norm, x, x);
        }
    }
}

/* All layers and the final norm, from embeddings to dst [n][ld of the norm's width]. */
static void
run_stack(llm_fwd_t *f, const llm_fwd_seq_t *seqs, uint32_t n_seqs, float *dst)
{
    const llm_stack_t *s = f->s;
    bool parallel = s->topology == LLM_TOPO_PARALLEL || s->topology == LLM_TOPO_PARALLEL2;
    uint32_t row = 0;

    for (uint32_t i = 0; i < n_seqs; i++) {
        f->spans[i] = span_of(&seqs[i], row, 0);
        row += seqs[i].n;
    }
    f->n = row;
    f->n_spans = n_seqs;

    embed(f, seqs, n_seqs);
    for (uint32_t i = 0; i < s->n_layers; i++) {
        layer(f, i, seqs, n_seqs, i > 0 ? f->y : NULL, i > 0 && parallel ? f->y2 : NULL);
    }
    if (f->n == 0) {
        return;
    }

    const llm_layer_t *l = &s->layers[s->n_layers - 1];
    row_op_t op = { .norm_y = s->topology == LLM_TOPO_SANDWICH ? &l->pn2 : NULL,
                    .add = f->y, .add2 = parallel ? f->y2 : NULL };
    if (s->topology == LLM_TOPO_POST) {
        op.norm = &l->n2;
        op.norm_dst = f->x;
        run_rows(f, &op);
        op = (row_op_t) { 0 };
    }
    op.norm = &s->final_norm;
    op.norm_dst = dst;
    run_rows(f, &op);
}

void
llm_fwd_run(llm_fwd_t *f, const llm_fwd_seq_t *seqs, uint32_t n_seqs)
{
    const llm_stack_t *s = &f->m->dec;

    f->s = s;
    f->pages = f->dec_pages;
    f->rel = f->dec_rel;
    run_stack(f, seqs, n_seqs, s->proj_out.n_parts > 0 ? f->h : f->out);
    if (s->proj_out.n_parts > 0) {
        llm_fwd_linear(f, &s->proj_out, f->h, s->d, f->n, false, f->out, f->out_ld);
    }
}

void
llm_fwd_encode(llm_fwd_t *f, const int32_t *tokens, uint32_t n, const uint32_t *table)
{
    const llm_stack_t *d = &f->m->dec;
    llm_fwd_seq_t seq = { .tokens = tokens, .n = n, .table = f->enc_table, .n_rows = n };
    uint32_t width = 2 * d->n_kv_heads * d->head_dim;

    f->s = &f->m->enc;
    f->pages = f->enc_pages;
    f->rel = f->enc_rel;
    run_stack(f, &seq, 1, f->h);

    for (uint32_t i = 0; i < d->n_layers; i++) {
        llm_fwd_linear(f, &d->layers[i].xkv, f->h, f->s->d, n, false, f->qkv, width);
        for (uint32_t pos = 0; pos < n; pos++) {
            const float *k = f->qkv + (size_t) pos * width;
            store_kv(f, &f->dec_pages, i, d, table, pos, k, k + width / 2);
        }
    }
}

const float *
llm_fwd_hidden(const llm_fwd_t *f, uint32_t row)
{
    return f->s == &f->m->enc ? f->h + (size_t) row * f->s->d : f->out + (size_t) row * f->out_ld;
}

uint32_t
llm_fwd_width(const llm_model_t *m)
{
    return m->enc.n_layers > 0 ? m->enc.d : m->head.cols;
}

float *
llm_fwd_logits(llm_fwd_t *f, uint32_t row0, uint32_t n)
{
    const llm_model_t *m = f->m;
    uint32_t V = m->head.rows;
    float *in = f->out + (size_t) row0 * f->out_ld;

    if (m->logit_scale != 1) {
        /* scales the input, as the reference does; the rows are not used again */
        for (size_t i = 0; i < (size_t) n * f->out_ld; i++) {
            in[i] *= m->logit_scale;
        }
    }
    llm_fwd_linear(f, &m->head, in, f->out_ld, n, false, f->logits, V);
    if (m->logit_cap > 0) {
        for (size_t i = 0; i < (size_t) n * V; i++) {
            f->logits[i] = m->logit_cap * tanhf(f->logits[i] / m->logit_cap);
        }
    }
    return f->logits;
}

/* -------------------------------------------------------------------- memory */

static llm_fwd_pages_t
pages_of(const llm_stack_t *s, llm_kv_type_t type, uint8_t *base)
{
    size_t head = llm_kv_head_bytes(type, s->head_dim), layer_bytes = s->n_kv_heads * head;
    return (llm_fwd_pages_t) { base, s->n_layers * layer_bytes, layer_bytes, head };
}

size_t
llm_fwd_page_bytes(const llm_model_t *m, llm_kv_type_t type)
{
    return pages_of(&m->dec, type, NULL).page_bytes;
}

/* Pages for the encoder's own keys and values, of one input of max_tokens. */
static llm_code_t
encoder_init(llm_fwd_t *f, llm_err_t *err)
{
    const llm_stack_t *e = &f->m->enc;
    uint32_t n = (f->max_tokens + LLM_KV_PAGE - 1) / LLM_KV_PAGE;

    if (e->n_layers == 0) {
        return LLM_OK;
    }
    f->enc_pages = pages_of(e, f->kv_type, NULL);
    f->enc_pages.base = llm_fwd_alloc(n, f->enc_pages.page_bytes);
    f->enc_table = llm_fwd_alloc(n, sizeof(uint32_t));
    if (f->enc_pages.base == NULL || f->enc_table == NULL) {
        return llm_fail(err, LLM_E_NOMEM,
                        "keys and values of the encoder for %u tokens: out of memory",
                        f->max_tokens);
    }
    for (uint32_t i = 0; i < n; i++) {
        f->enc_table[i] = i;
    }
    return LLM_OK;
}

/* Whether the stack's layers have two outputs at once. */
static bool
uses_y2(const llm_stack_t *s)
{
    return s->topology == LLM_TOPO_PARALLEL || s->topology == LLM_TOPO_PARALLEL2
           || s->mlp == LLM_MLP_MOE;
}

/* The next array of n rows. */
static float *
rows_of(float **at, size_t n, size_t width)
{
    float *rows = *at;
    *at += n * width;
    return rows;
}

/*
 * Rows of a step in one block: those that live from layer to layer, then those of the parts of a
 * layer, which never live at the same time. Behind the last layer all of them are dead, and the
 * logits take the block.
 */
static bool
rows_init(llm_fwd_t *f, size_t width, size_t att)
{
    const llm_model_t *m = f->m;
    size_t d = m->dec.d, wide = m->dec.proj_in.n_parts > 0 ? m->embed.cols : 0;
    bool two = uses_y2(&m->dec) || (m->enc.n_layers > 0 && uses_y2(&m->enc));
    size_t part = width + att > f->ff_ld ? width + att : f->ff_ld,
           row = (two ? 4 : 3) * d + (part > wide ? part : wide);
    size_t n = ((size_t) f->max_tokens + 15) & ~(size_t) 15,    /* arrays begin at 64 bytes */
           n_logits = ((size_t) LLM_FWD_LOGIT_ROWS * m->head.rows + row - 1) / row;

    float *at = f->block = llm_fwd_alloc(n > n_logits ? n : n_logits, row * sizeof(float));
    if (at == NULL) {
        return false;
    }
    f->logits = at;
    f->x = rows_of(&at, n, d);
    f->h = rows_of(&at, n, d);
    f->y = rows_of(&at, n, d);
    f->y2 = two ? rows_of(&at, n, d) : NULL;
    f->ff = at;
    f->wide = wide > 0 ? at : NULL;
    f->qkv = rows_of(&at, n, width);
    f->att = at;
    return true;
}

llm_code_t
llm_fwd_new(llm_fwd_t **out, const llm_model_t *m, llm_pool_t *pool, uint8_t *kv,
            size_t page_bytes, llm_kv_type_t kv_type, uint32_t max_tokens, uint32_t n_ctx,
            llm_err_t *err)
{
    const llm_stack_t *s = &m->dec, *e = &m->enc;
    size_t n = max_tokens;

    *out = NULL;
    llm_fwd_t *f = calloc(1, sizeof(*f));
    if (f == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "scratch of the forward pass: out of memory");
    }
    f->m = m;
    f->k = llm_kern();
    f->pool = pool;
    f->kv_type = kv_type;
    f->dec_pages = pages_of(s, kv_type, kv);
    f->dec_pages.page_bytes = page_bytes;
    f->s = s;
    f->max_tokens = max_tokens;
    f->n_ctx = n_ctx;
    f->out_ld = m->head.cols;

    uint32_t ff = LLM_FWD_MAX(m, s->ff, e->ff),
             att = LLM_FWD_MAX(m, s->n_heads * s->head_dim, e->n_heads * e->head_dim);
    uint32_t width = LLM_FWD_MAX(m, (s->n_heads + 2 * s->n_kv_heads) * s->head_dim,
                                 (e->n_heads + 2 * e->n_kv_heads) * e->head_dim);
    uint32_t widest = s->d > att ? s->d : att;
    widest = widest > ff ? widest : ff;
    f->ff_ld = s->mlp == LLM_MLP_PLAIN && (e->n_layers == 0 || e->mlp == LLM_MLP_PLAIN) ? ff
                                                                                        : 2 * ff;
    widest = widest > f->out_ld ? widest : f->out_ld;
    widest = widest > m->embed.cols ? widest : m->embed.cols;

    f->spans = llm_fwd_alloc(n, sizeof(*f->spans));
    f->out = llm_fwd_alloc(n, f->out_ld * sizeof(float));
    f->act_buf = llm_fwd_alloc(1, llm_act_bytes(max_tokens, widest));
    if (!rows_init(f, width, att) || f->spans == NULL || f->out == NULL || f->act_buf == NULL) {
        llm_fail(err, LLM_E_NOMEM,
                 "scratch of the forward pass for %u tokens a step: out of memory", max_tokens);
        llm_fwd_free(f);
        return LLM_E_NOMEM;
    }

    llm_code_t rc = positions_init(f, err);
    if (rc == LLM_OK) {
        rc = llm_fwd_attention_init(f, err);
    }
    if (rc == LLM_OK) {
        rc = llm_fwd_moe_init(f, err);
    }
    if (rc == LLM_OK) {
        rc = encoder_init(f, err);
    }
    if (rc != LLM_OK) {
        llm_fwd_free(f);
        return rc;
    }
    *out = f;
    return LLM_OK;
}

void
llm_fwd_free(llm_fwd_t *f)
{
    if (f == NULL) {
        return;
    }
    llm_fwd_attention_free(f);
    llm_fwd_moe_free(f);
    free(f->spans);
    free(f->block);
    free(f->out);
    free(f->act_buf);
    free(f->rope);
    free(f->rope_long);
    free(f->rope_row);
    free(f->rope_of);
    free(f->dec_rel);
    free(f->enc_rel);
    free(f->enc_pages.base);
    free(f->enc_table);
    free(f);
}
