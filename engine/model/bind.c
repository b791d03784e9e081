/*
 * bind.c - from a source and a row of the table to a model: the order of the steps, what lies
 * outside the layers, and what is left over.
 *
 * Roles and patterns come from the row of the family (arch.c), sizes from the settings (hparam.c).
 * Tensors that nothing asked for are reported in m->unused; one that plays a role which this
 * family does not have is refused, because leaving it out would silently give wrong text.
 */
#include "model/bind.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long ull_t;   /* for %llu */

/* --------------------------------------------------------------- embeddings */

/* Rows of a table of embeddings, 1 to max. */
static llm_code_t
table_rows(const llm_bind_t *b, const llm_src_tensor_t *t, uint32_t min, uint32_t max,
           uint32_t *out)
{
    if (t->ne[1] < min || t->ne[1] > max) {
        return llm_fail(b->err, LLM_E_FORMAT, "%s: tensor \"%.*s\" has %llu rows, allowed are %u "
                        "to %u", b->src->path, (int) t->name.len, t->name.data, (ull_t) t->ne[1],
                        min, max);
    }
    *out = (uint32_t) t->ne[1];
    return LLM_OK;
}

/* The token embedding, which both stacks share; it may be narrower or wider than d. */
static llm_code_t
bind_tokens(llm_bind_t *b)
{
    llm_model_t *m = b->m;
    llm_stack_t *s = b->s;
    llm_part_t tok = { .rounding = LLM_PART_ROUND_8 };
    if (!llm_bind_find(b, LLM_ROLE_TOK, 0, ".weight", &tok.w)) {
        return llm_bind_missing(b, LLM_ROLE_TOK, 0, 0);
    }
    uint32_t width = s->d;
    bool projected = llm_bind_has(b, LLM_ROLE_PROJ_IN, 0, 0, ".weight");
    if (projected) {
        width = tok.w.ne[0] > 0 && tok.w.ne[0] <= LLM_MAX_DIM ? (uint32_t) tok.w.ne[0] : s->d;
    }
    llm_code_t rc = table_rows(b, &tok.w, 1, INT32_MAX, &tok.rows);
    m->info.n_vocab = tok.rows;
    uint32_t said;      /* padding may make the table longer than the file says, never shorter */
    if (rc == LLM_OK) {
        rc = llm_bind_u32(b, LLM_KEY_VOCAB, LLM_OPTIONAL, 1, tok.rows, &said);
    }
    if (rc == LLM_OK) {
        rc = llm_bind_shape(b, &tok.w, width, tok.rows, 1);
    }
    if (rc == LLM_OK) {
        rc = llm_bind_matrix(b, &m->embed, &tok, 1, width);
    }
    if (rc == LLM_OK && projected) {
        rc = llm_bind_linear(b, &s->proj_in, LLM_ROLE_PROJ_IN, 0, s->d, width);
    }
    if (rc == LLM_OK && projected) {
        rc = llm_bind_linear(b, &s->proj_out, LLM_ROLE_PROJ_OUT, 0, width, s->d);
    }
    return rc;
}

/* Learned positions. */
static llm_code_t
bind_learned(llm_bind_t *b)
{
    llm_stack_t *s = b->s;
    llm_src_tensor_t t;
    if (s->pos != LLM_POS_LEARNED) {
        return LLM_OK;
    }
    if (!llm_bind_find(b, LLM_ROLE_POS, 0, ".weight", &t)) {
        return llm_bind_missing(b, LLM_ROLE_POS, 0, 0);
    }
    llm_code_t rc = llm_bind_shape(b, &t, s->d, t.ne[1], 1);
    if (rc == LLM_OK) {
        rc = table_rows(b, &t, s->pos_offset + 1, LLM_MAX_CTX, &s->n_pos);
    }
    if (rc != LLM_OK) {
        return rc;
    }
    if (b->m->info.n_ctx_train > s->n_pos - s->pos_offset) {
        b->m->info.n_ctx_train = s->n_pos - s->pos_offset;
    }
    return llm_bind_vector(b, &s->pos_table, &t, (uint64_t) s->n_pos * s->d);
}

/* Relative positions of T5. */
static llm_code_t
bind_relative(llm_bind_t *b)
{
    llm_stack_t *s = b->s;
    llm_src_tensor_t t;
    if (s->pos != LLM_POS_T5) {
        return LLM_OK;
    }
    if (!llm_bind_find(b, LLM_ROLE_REL, 0, ".weight", &t)) {
        return llm_bind_missing(b, LLM_ROLE_REL, 0, 0);
    }
    llm_code_t rc = llm_bind_shape(b, &t, s->n_heads, s->rel_buckets, 1);
    return rc == LLM_OK ? llm_bind_vector(b, &s->rel_table, &t,
                                          (uint64_t) s->rel_buckets * s->n_heads) : rc;
}

/* --------------------------------------------------------------------- head */

/* Whether the head is the token embedding, also when the file has a tensor for it. */
static llm_code_t
is_tied(llm_bind_t *b, bool *out)
{
    double v = b->desc.tied;
    bool found;
    llm_code_t rc = llm_bind_number(b, LLM_KEY_TIE, &v, &found);
    *out = v != 0 || !llm_bind_has(b, LLM_ROLE_HEAD, 0, 0, ".weight");
    return rc;
}

/* A bias of the logits that belongs to no linear. */
static llm_code_t
bind_logit_bias(llm_bind_t *b)
{
    llm_model_t *m = b->m;
    llm_src_tensor_t t;
    if (!llm_bind_find(b, LLM_ROLE_HEAD_BIAS, 0, "", &t)) {
        return LLM_OK;
    }
    if (m->head.bias != NULL) {
        return llm_fail(b->err, LLM_E_UNSUPPORTED, "%s: tensor \"%.*s\" and a bias of the head",
                        b->src->path, (int) t.name.len, t.name.data);
    }
    llm_code_t rc = llm_bind_shape(b, &t, m->info.n_vocab, 1, 1);
    return rc == LLM_OK ? llm_bind_vector(b, &m->head.bias, &t, m->info.n_vocab) : rc;
}

static llm_code_t
bind_head(llm_bind_t *b)
{
    llm_model_t *m = b->m;
    llm_src_tensor_t t;
    uint32_t width = m->embed.cols;
    bool tied;
    llm_code_t rc = is_tied(b, &tied);
    if (rc != LLM_OK) {
        return rc;
    }
    if (!tied) {
        rc = llm_bind_linear(b, &m->head, LLM_ROLE_HEAD, 0, m->info.n_vocab, width);
        return rc == LLM_OK ? bind_logit_bias(b) : rc;
    }
    m->head = (llm_lin_t) {
        .n_parts = 1, .rows = m->info.n_vocab, .cols = width, .part = { m->embed },
    };
    if (b->desc.tied_scale) {
        m->logit_scale = (float) (1.0 / sqrt((double) m->dec.d));
    }
    bool unused = llm_bind_find(b, LLM_ROLE_HEAD, 0, ".weight", &t);
    if (llm_bind_find(b, LLM_ROLE_HEAD, 0, ".bias", &t) && !unused) {
        rc = llm_bind_shape(b, &t, m->info.n_vocab, 1, 1);
        rc = rc == LLM_OK ? llm_bind_vector(b, &m->head.bias, &t, m->info.n_vocab) : rc;
    }
    return rc == LLM_OK ? bind_logit_bias(b) : rc;
}

/* ---------------------------------------------------------------- leftovers */

/* A tensor that was not used plays a role in one of the stacks. */
static bool
plays_a_role(llm_bind_t *b, llm_span_t name)
{
    for (size_t r = 0; r < LLM_ROLE_COUNT; r++) {
        if (b->roles[r] != NULL && llm_bind_plays(b, (llm_role_t) r, name)) {
            return true;
        }
    }
    return false;
}

static llm_code_t
refuse_unused(llm_bind_t *b)
{
    llm_src_tensor_t t;
    for (uint64_t i = 0; i < b->src->n_tensors; i++) {
        if (b->used[i]) {
            continue;
        }
        b->src->tensor_at(b->src, i, &t);
        if (plays_a_role(b, t.name)) {
            return llm_fail(b->err, LLM_E_UNSUPPORTED, "%s: tensor \"%.*s\" has no place in a "
                            "model of %u layers of the %s family", b->src->path,
                            (int) t.name.len, t.name.data, b->s->n_layers, b->arch->name);
        }
    }
    return LLM_OK;
}

static llm_code_t
list_unused(llm_bind_t *b)
{
    llm_model_t *m = b->m;
    llm_src_tensor_t t;
    uint32_t n = 0;
    for (uint64_t i = 0; i < b->src->n_tensors; i++) {
        n += !b->used[i];
    }
    char **names = n > 0 ? llm_meta_alloc(m, n, sizeof(*names)) : NULL;
    m->unused = (const char *const *) names;
    for (uint64_t i = 0; n > 0 && i < b->src->n_tensors; i++) {
        if (b->used[i]) {
            continue;
        }
        b->src->tensor_at(b->src, i, &t);
        char *name = names != NULL ? llm_meta_alloc(m, t.name.len + 1, 1) : NULL;
        if (name == NULL) {
            return llm_fail(b->err, LLM_E_NOMEM, "%s: no memory for %u names", b->src->path, n);
        }
        memcpy(name, t.name.data, t.name.len);
        names[m->n_unused++] = name;
    }
    return LLM_OK;
}

/* -------------------------------------------------------------- whole model */

static llm_code_t
bind_final_norm(llm_bind_t *b)
{
    return llm_bind_norm(b, &b->s->final_norm, LLM_ROLE_FINAL, 0, b->s->d,
                         b->desc.no_final_norm ? LLM_ABSENT : LLM_REQUIRED);
}

static llm_code_t
bind_emb_norm(llm_bind_t *b)
{
    return llm_bind_norm(b, &b->s->emb_norm, LLM_ROLE_EMB_NORM, 0, b->s->d, b->desc.emb_norm);
}

/* Names of tensors and keys for one stack. */
static void
choose_names(llm_bind_t *b, const char *const *roles, const llm_own_key_t *own)
{
    memcpy(b->roles, roles, sizeof(b->roles));
    memcpy(b->keys, b->arch->keys, sizeof(b->keys));
    for (size_t i = 0; i < LLM_MAX_OWN_KEYS && (own[i].pattern != NULL || own[i].key != 0); i++) {
        b->keys[own[i].key] = own[i].pattern;
    }
}

/* The stacks read the same embeddings, and the encoder's output is as wide as the decoder. */
static llm_code_t
check_stacks(llm_bind_t *b)
{
    const llm_stack_t *e = &b->m->enc, *d = &b->m->dec;
    if (e->n_layers > 0 && (e->d != d->d || e->head_dim != d->head_dim)) {
        return llm_fail(b->err, LLM_E_UNSUPPORTED, "%s: encoder of width %u with heads of %u, "
                        "decoder of width %u with heads of %u", b->src->path, e->d, e->head_dim,
                        d->d, d->head_dim);
    }
    return LLM_OK;
}

llm_code_t
llm_bind(llm_model_t *m, llm_plan_t *plan, const llm_src_t *src, const llm_arch_t *arch,
         llm_err_t *err)
{
    typedef llm_code_t (*step_t)(llm_bind_t *b);
    static const step_t enc_steps[] = {
        llm_bind_settings, llm_bind_positions, bind_learned, bind_relative, bind_emb_norm,
        llm_bind_layers, bind_final_norm, NULL,
    };
    static const step_t dec_steps[] = {
        llm_bind_settings, check_stacks, llm_bind_positions, bind_tokens, bind_emb_norm,
        bind_learned, bind_relative, llm_bind_layers, bind_final_norm, bind_head, llm_bind_specials,
        refuse_unused, NULL,
    };
    llm_bind_t enc, b = { .m = m, .plan = plan, .src = src, .arch = arch, .err = err };
    b.used = calloc(src->n_tensors + 1, 1);
    if (b.used == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for %llu tensors", src->path,
                        (ull_t) src->n_tensors);
    }
    llm_code_t rc = LLM_OK;
    if (arch->enc_roles != NULL) {
        b.s = &m->enc;
        choose_names(&b, arch->enc_roles, arch->enc_own);
        for (const step_t *step = enc_steps; *step != NULL && rc == LLM_OK; step++) {
            rc = (*step)(&b);
        }
    }
    enc = b;
    b.s = &m->dec;
    choose_names(&b, arch->roles, arch->own);
    for (const step_t *step = dec_steps; *step != NULL && rc == LLM_OK; step++) {
        rc = (*step)(&b);
    }
    if (rc == LLM_OK && arch->enc_roles != NULL) {
        rc = refuse_unused(&enc);
    }
    if (rc == LLM_OK) {
        rc = list_unused(&b);
    }
    free(b.used);
    return rc;
}
