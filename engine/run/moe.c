/*
 * moe.c - mixture of experts (spec models.md 3.7): softmax over all experts, the n_experts_used
 * largest renormalised to sum 1.
 *
 * Each expert runs once over the rows that chose it. A row adds its experts in ascending order of
 * their numbers, so the result of a row does not depend on what other rows chose.
 */
#include "forward_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

llm_code_t
llm_fwd_moe_init(llm_fwd_t *f, llm_err_t *err)
{
    const llm_stack_t *s = &f->m->dec;
    if (s->mlp != LLM_MLP_MOE) {
        return LLM_OK;
    }
    f->router = llm_fwd_alloc(f->max_tokens, s->n_experts * sizeof(float));
    f->exp_x = llm_fwd_alloc(f->max_tokens, s->d * sizeof(float));
    f->exp_y = llm_fwd_alloc(f->max_tokens, s->d * sizeof(float));
    f->exp_rows = llm_fwd_alloc(f->max_tokens, sizeof(uint32_t));
    f->exp_w = llm_fwd_alloc(f->max_tokens, s->n_experts_used * sizeof(float));
    f->exp_top = llm_fwd_alloc(f->max_tokens, s->n_experts_used * sizeof(uint32_t));
    if (f->router == NULL || f->exp_x == NULL || f->exp_y == NULL || f->exp_rows == NULL
        || f->exp_w == NULL || f->exp_top == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "scratch for %u experts: out of memory", s->n_experts);
    }
    return LLM_OK;
}

void
llm_fwd_moe_free(llm_fwd_t *f)
{
    free(f->router);
    free(f->exp_x);
    free(f->exp_y);
    free(f->exp_rows);
    free(f->exp_w);
    free(f->exp_top);
}

/*
 * Probabilities of one row's experts, then its best ones (lowest number first on a tie) with
 * weights that sum to 1.
 */
static void
choose(llm_fwd_t *f, void *ctx, uint32_t row)
{
    (void) ctx;
    const llm_stack_t *s = f->s;
    float *p = f->router + (size_t) row * s->n_experts, sum = 0;
    float log_sum, max = f->k->log_sum_exp(p, s->n_experts, &log_sum);

    for (uint32_t e = 0; e < s->n_experts; e++) {
        p[e] = expf(p[e] - max - log_sum);
    }
    for (uint32_t i = 0; i < s->n_experts_used; i++) {
        uint32_t best = f->k->argmax(p, s->n_experts);
        f->exp_top[row * s->n_experts_used + i] = best;
        f->exp_w[row * s->n_experts_used + i] = p[best];
        sum += p[best];
        p[best] = -1;
    }
    for (uint32_t i = 0; i < s->n_experts_used; i++) {
        f->exp_w[row * s->n_experts_used + i] /= sum;
    }
}

typedef struct { uint32_t F; llm_actfn_t act; } glu_ctx_t;

static void
glu_row(llm_fwd_t *f, void *ctx, uint32_t row)
{
    const glu_ctx_t *c = ctx;
    float *ff = f->ff + (size_t) row * f->ff_ld;
    f->k->act_mul(ff, ff, ff + c->F, c->F, c->act);
}

void
llm_fwd_moe(llm_fwd_t *f, const llm_layer_t *l)
{
    const llm_stack_t *s = f->s;
    glu_ctx_t glu = { .F = s->ff, .act = s->act };

    llm_fwd_linear(f, &l->router, f->h, s->d, f->n, false, f->router, s->n_experts);
    llm_fwd_rows(f, f->n, choose, NULL);
    memset(f->y2, 0, (size_t) f->n * s->d * sizeof(float));

    for (uint32_t e = 0; e < s->n_experts; e++) {
        uint32_t n = 0;
        for (uint32_t r = 0; r < f->n; r++) {
            for (uint32_t i = 0; i < s->n_experts_used; i++) {
                if (f->exp_top[r * s->n_experts_used + i] == e) {
                    memcpy(f->exp_x + (size_t) n * s->d, f->h + (size_t) r * s->d,
                           s->d * sizeof(float));
                    f->exp_rows[n++] = r * s->n_experts_used + i;
                }
            }
        }
        if (n == 0) {
            continue;
        }
        llm_fwd_linear(f, &l->exp_in[e], f->exp_x, s->d, n, false, f->ff, f->ff_ld);
        llm_fwd_rows(f, n, glu_row, &glu);
        llm_fwd_linear(f, &l->exp_out[e], f->ff, f->ff_ld, n, false, f->exp_y, s->d);
        for (uint32_t i = 0; i < n; i++) {
            float w = f->exp_w[f->exp_rows[i]];
            float *y = f->y2 + (size_t) (f->exp_rows[i] / s->n_experts_used) * s->d;
            const float *src = f->exp_y + (size_t) i * s->d;
            for (uint32_t j = 0; j < s->d; j++) {
                y[j] += w * src[j];
            }
        }
    }
}
