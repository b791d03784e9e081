/*
 * tensor_attn.c - attention of every kernel set against double precision, and the promises about bits.
 */
#include "tap.h"
#include "tensor/kern.h"
#include "tensor_data.h"

/* of the largest |v|: f32 scores of size ~10 are off by 1e-6, which is what their exponentials are off by, relatively */
#define TOL 1e-5

typedef struct {
    const char   *name;
    uint32_t      dim, group, n_q, pos0, n_keys;
    bool          causal;
    uint32_t      window;
    float         softcap;
    int           alibi;            /* 0: none, 1: plain, 2: bfloat16 */
    bool          rel;
    bool          far;              /* large scores */
} case_t;

typedef struct {
    case_t    c;
    llm_kv_type_t type;
    uint8_t  *pages;
    size_t    page_bytes, head_off;
    uint32_t *table, n_pages;
    float    *k, *v;                /* what was stored, [n_keys][dim], rounded as the type rounds */
    float    *q, *slopes, *relb, *scratch;
    size_t    ldq;
} setup_t;

static float
bf16_round(float f)
{
    union { float f; uint32_t u; } v = { .f = f };
    v.u = (v.u + 0x7fff + (v.u >> 16 & 1)) & 0xffff0000u;
    return v.f;
}

/* q8_0: value d of the token in `row`, as kern.h lays out a block of keys or values; off: where the value is. */
static float
q8_value(const uint8_t *block, uint32_t dim, size_t off, uint32_t d, uint32_t row)
{
    uint16_t scale;
    memcpy(&scale, block + LLM_KV_PAGE * dim + (d / LLM_KV_BLOCK * LLM_KV_PAGE + row) * sizeof(scale), sizeof(scale));
    return (float) (int8_t) block[off] * llm_f16_to_f32(scale);
}

/* Pages in a shuffled order, each slot that is not written full of NaN. */
static void
setup_new(setup_t *s, const case_t *c, llm_kv_type_t type, const llm_kern_t *k)
{
    s->c = *c;
    s->type = type;
    s->n_pages = (c->n_keys + LLM_KV_PAGE - 1) / LLM_KV_PAGE;
    s->head_off = 128;
    s->page_bytes = s->head_off + llm_kv_head_bytes(type, c->dim) + 64;
    s->pages = aligned_alloc(64, (s->page_bytes * s->n_pages + 63) / 64 * 64);
    memset(s->pages, 0xff, s->page_bytes * s->n_pages);
    s->table = malloc(s->n_pages * sizeof(uint32_t));
    for (uint32_t i = 0; i < s->n_pages; i++) {
        s->table[i] = s->n_pages - 1 - i;
    }
    s->k = malloc((size_t) c->n_keys * c->dim * sizeof(float));
    s->v = malloc((size_t) c->n_keys * c->dim * sizeof(float));
    for (uint32_t j = 0; j < c->n_keys; j++) {
        float *kj = s->k + (size_t) j * c->dim, *vj = s->v + (size_t) j * c->dim;
        for (uint32_t d = 0; d < c->dim; d++) {
            kj[d] = td_normal();
            vj[d] = td_normal();
        }
        k->kv_store(s->pages + s->table[j / LLM_KV_PAGE] * s->page_bytes + s->head_off, type, c->dim, j % LLM_KV_PAGE, kj, vj);
        const uint8_t *kb = s->pages + s->table[j / LLM_KV_PAGE] * s->page_bytes + s->head_off,
                      *vb = kb + llm_kv_head_bytes(type, c->dim) / 2;
        for (uint32_t d = 0, row = j % LLM_KV_PAGE; d < c->dim && type != LLM_KV_F32; d++) {
            bool q8 = type == LLM_KV_Q8_0;
            kj[d] = q8 ? q8_value(kb, c->dim, d * LLM_KV_PAGE + row, d, row) : llm_f16_to_f32(llm_f32_to_f16(kj[d]));
            vj[d] = q8 ? q8_value(vb, c->dim, row * c->dim + d, d, row) : llm_f16_to_f32(llm_f32_to_f16(vj[d]));
        }
    }
    s->ldq = (size_t) c->group * c->dim + 5;
    s->q = malloc(c->n_q * s->ldq * sizeof(float));
    for (size_t i = 0; i < c->n_q * s->ldq; i++) {
        s->q[i] = td_normal() * (c->far ? 20.0f : 1.0f);
    }
    s->slopes = malloc(c->group * sizeof(float));
    s->relb = malloc((size_t) c->group * 50 * sizeof(float));
    for (uint32_t g = 0; g < c->group; g++) {
        s->slopes[g] = bf16_round(0.3f / (float) (g + 1));
        for (int i = 0; i < 50; i++) {
            s->relb[g * 50 + i] = td_normal();
        }
    }
    size_t floats = (llm_attn_scratch_floats(c->dim, c->group) + 15) & ~(size_t) 15;
    s->scratch = aligned_alloc(64, floats * sizeof(float));
    memset(s->scratch, 0xff, floats * sizeof(float));
}

static void
setup_free(setup_t *s)
{
    free(s->pages);
    free(s->table);
    free(s->k);
    free(s->v);
    free(s->q);
    free(s->slopes);
    free(s->relb);
    free(s->scratch);
}

static llm_attn_t
attn_of(const setup_t *s)
{
    const case_t *c = &s->c;
    return (llm_attn_t) {
        .pages = s->pages + s->head_off, .page_bytes = s->page_bytes, .table = s->table, .type = s->type,
        .head_dim = c->dim, .group = c->group, .q = s->q, .ldq = s->ldq, .n_q = c->n_q, .pos0 = c->pos0, .causal = c->causal,
        .window = c->window, .scale = 1.0f / sqrtf((float) c->dim), .softcap = c->softcap,
        .slopes = c->alibi ? s->slopes : NULL, .alibi_bf16 = c->alibi == 2, .rel = c->rel ? s->relb : NULL, .ld_rel = 50,
        .rel_n = 40, .rel_zero = 30, .key0 = 0, .key1 = c->n_keys, .scratch = s->scratch,
    };
}

/* Runs the keys span by span and merges; out [n_q][group][dim]. */
static void
attend(const llm_kern_t *k, const llm_attn_t *whole, uint32_t span, float *out)
{
    llm_attn_t a = *whole;
    size_t stride = llm_attn_part_floats(a.head_dim), rows = (size_t) a.n_q * a.group;
    uint32_t n_parts = (a.key1 + span - 1) / span;
    float *parts = malloc(n_parts * rows * stride * sizeof(float));

    for (uint32_t i = 0; i < n_parts; i++) {
        a.key0 = i * span;
        a.key1 = whole->key1 < a.key0 + span ? whole->key1 : a.key0 + span;
        a.next[0] = i + 1 < n_parts ? a.pages + a.table[a.key1 / LLM_KV_PAGE] * a.page_bytes : NULL;
        a.part = parts + i * rows * stride;
        k->attn(&a);
    }
    for (size_t r = 0; r < rows; r++) {
        k->attn_merge(out + r * a.head_dim, parts + r * stride, n_parts, rows * stride, a.head_dim);
    }
    free(parts);
}

static void
expected(const setup_t *s, uint32_t t, uint32_t g, double *out)
{
    const case_t *c = &s->c;
    double *p = malloc(c->n_keys * sizeof(double)), max = -INFINITY, sum = 0, scale = (double) (1.0f / sqrtf((float) c->dim));
    int64_t pos = (int64_t) c->pos0 + t;

    for (int64_t j = 0; j < c->n_keys; j++) {
        const float *q = s->q + t * s->ldq + (size_t) g * c->dim;
        double x = 0;
        for (uint32_t d = 0; d < c->dim; d++) {
            x += (double) q[d] * s->k[(size_t) j * c->dim + d];
        }
        x *= scale;
        x = c->softcap > 0 ? c->softcap * tanh(x / c->softcap) : x;
        x += c->alibi == 1 ? (double) s->slopes[g] * (double) j : 0;
        x += c->alibi == 2 ? bf16_round(s->slopes[g] * (float) j) * scale : 0;
        if (c->rel) {
            int64_t i = j - pos + 30;
            x += s->relb[g * 50 + (i < 0 ? 0 : i > 39 ? 39 : i)];
        }
        bool seen = (!c->causal || j <= pos) && (c->window == 0 || j > pos - (int64_t) c->window);
        p[j] = seen ? x : -INFINITY;
        max = p[j] > max ? p[j] : max;
    }
    for (uint32_t d = 0; d < c->dim; d++) {
        out[d] = 0;
    }
    for (uint32_t j = 0; j < c->n_keys && max > -INFINITY; j++) {
        double e = exp(p[j] - max);
        sum += e;
        for (uint32_t d = 0; d < c->dim; d++) {
            out[d] += e * s->v[(size_t) j * c->dim + d];
        }
    }
    for (uint32_t d = 0; d < c->dim && sum > 0; d++) {
        out[d] /= sum;
    }
    free(p);
}

static void
test_case(const llm_kern_t *k, const case_t *c, llm_kv_type_t type)
{
    setup_t s;
    setup_new(&s, c, type, k);
    llm_attn_t a = attn_of(&s);
    size_t n = (size_t) c->n_q * c->group * c->dim;
    float *out = malloc(n * sizeof(float)), *other = malloc(n * sizeof(float));
    double *want = malloc(c->dim * sizeof(double)), worst = 0, tol = TOL * (c->far ? 10 : 1);
    uint32_t bad = 0;

    attend(k, &a, LLM_ATTN_SPAN, out);
    for (uint32_t t = 0; t < c->n_q; t++) {
        for (uint32_t g = 0; g < c->group; g++) {
            expected(&s, t, g, want);
            for (uint32_t d = 0; d < c->dim; d++) {
                double off = fabs(out[((size_t) t * c->group + g) * c->dim + d] - want[d]);
                worst = fmax(worst, off);
                bad += !(off <= tol);
            }
        }
    }
    ok(bad == 0, "%s %s %s: as in double precision (off by %.2g)", k->name, c->name, llm_kv_name(type), worst);

    /* short spans merged: the same up to rounding */
    attend(k, &a, 64, other);
    bad = 0;
    for (size_t i = 0; i < n; i++) {
        bad += !(fabs(out[i] - other[i]) <= 2 * tol);
    }
    ok(bad == 0, "%s: short spans merged", c->name);

    /* queries one by one and heads one by one, the last key no further than needed: the same bits */
    bad = 0;
    for (uint32_t t = 0; t < c->n_q; t++) {
        llm_attn_t one = a;
        one.q = s.q + t * s.ldq;
        one.n_q = 1;
        one.pos0 = c->pos0 + t;
        one.key1 = c->causal && one.pos0 + 1 < c->n_keys ? one.pos0 + 1 : c->n_keys;
        attend(k, &one, LLM_ATTN_SPAN, other);
        bad += memcmp(other, out + (size_t) t * c->group * c->dim, (size_t) c->group * c->dim * sizeof(float)) != 0;
        one.group = 1;
        for (uint32_t g = 0; g < c->group; g++) {
            one.q = s.q + t * s.ldq + (size_t) g * c->dim;
            one.slopes = a.slopes != NULL ? a.slopes + g : NULL;
            one.rel = a.rel != NULL ? a.rel + g * a.ld_rel : NULL;
            attend(k, &one, LLM_ATTN_SPAN, other);
            bad += memcmp(other, out + ((size_t) t * c->group + g) * c->dim, c->dim * sizeof(float)) != 0;
        }
    }
    ok(bad == 0, "%s: queries and heads alone give the same bits", c->name);
    free(out);
    free(other);
    free(want);
    setup_free(&s);
}

/* NaN in the keys and values of later tokens must not reach earlier queries of the same call. */
static void
test_later_nan(const llm_kern_t *k, llm_kv_type_t type)
{
    case_t c = { .name = "later", .dim = 64, .group = 2, .n_q = 8, .pos0 = 40, .n_keys = 48, .causal = true };
    setup_t s;
    setup_new(&s, &c, type, k);
    llm_attn_t a = attn_of(&s);
    float *before = malloc(8 * 128 * sizeof(float)), *after = malloc(8 * 128 * sizeof(float)), bad[64];
    attend(k, &a, LLM_ATTN_SPAN, before);
    for (int d = 0; d < 64; d++) {
        bad[d] = d % 2 ? NAN : INFINITY;
    }
    k->kv_store(s.pages + s.table[45 / LLM_KV_PAGE] * s.page_bytes + s.head_off, type, 64, 45 % LLM_KV_PAGE, bad, bad);
    attend(k, &a, LLM_ATTN_SPAN, after);
    ok(memcmp(before, after, 5 * 128 * sizeof(float)) == 0, "%s: a broken token does not reach the queries before it", k->name);
    ok(isnan(after[5 * 128]) && isnan(after[7 * 128 + 127]), "%s: and is not hidden from those after", k->name);
    free(before);
    free(after);
    setup_free(&s);
}

/* All sets store the same bytes. */
static void
test_store(const llm_kern_t *const *sets, uint32_t n_sets)
{
    for (int type = 0; type < LLM_KV_COUNT; type++) {
        static const uint32_t dims[] = { 8, 10, 64, 72, 128 };
        uint32_t bad = 0;
        for (size_t i = 0; i < 5; i++) {
            size_t size = llm_kv_head_bytes((llm_kv_type_t) type, dims[i]);
            uint8_t *a = aligned_alloc(64, size), *b = aligned_alloc(64, size);
            memset(a, 0x55, size);
            memset(b, 0x55, size);
            float k[128], v[128];
            for (uint32_t d = 0; d < dims[i]; d++) {
                k[d] = td_normal() * (d == 3 ? 1e6f : d == 4 ? 1e-7f : 1.0f);
                v[d] = td_normal();
            }
            sets[n_sets - 1]->kv_store(a, (llm_kv_type_t) type, dims[i], 13, k, v);
            ok(type != LLM_KV_F32 || ((float *) a)[32 * 5 + 13] == k[5], "f32 keys lie by dimension");
            ok(type != LLM_KV_F32 || ((float *) (a + size / 2))[13 * dims[i] + 5] == v[5], "f32 values lie by token");
            for (uint32_t s = 0; s + 1 < n_sets; s++) {
                sets[s]->kv_store(b, (llm_kv_type_t) type, dims[i], 13, k, v);
                bad += memcmp(a, b, size) != 0;
            }
            free(a);
            free(b);
        }
        is_int(bad, 0, "every set stores the same bytes");
    }
}

/*
 * Every value within half a scale, and the scale the smallest f16 that is not below 1/127 of the largest value (f16 has 11 bits,
 * down to 2^-24). Whatever is not finite makes its block NaN, and nothing else.
 */
static void
test_q8(const llm_kern_t *k)
{
    enum { DIM = 72 };
    static const float sizes[] = { 1.0f, 1e-3f, 1e-5f, 1e-9f, 0.0f, 3e4f, 8e6f };
    uint8_t block[2 * LLM_KV_PAGE * (DIM + 2 * 3)];
    is_int((long long) llm_kv_head_bytes(LLM_KV_Q8_0, DIM), sizeof(block), "q8_0: a byte a value, two bytes for 32");
    uint32_t bad = 0;
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        float x[2][DIM];
        for (int d = 0; d < 2 * DIM; d++) {
            x[d / DIM][d % DIM] = fmaxf(fminf(td_normal(), 1.0f), -1.0f) * sizes[s];
        }
        memset(block, 0x55, sizeof(block));
        k->kv_store(block, LLM_KV_Q8_0, DIM, 7, x[0], x[1]);
        for (uint32_t d = 0; d < 2 * DIM; d++) {
            uint32_t i = d % DIM, v = d / DIM, from = i / 32 * 32, to = from + 32 < DIM ? from + 32 : DIM;
            const uint8_t *half = block + v * sizeof(block) / 2;
            uint16_t scale;
            memcpy(&scale, half + 32 * DIM + (from + 7) * 2, 2);
            double top = 0, c = llm_f16_to_f32(scale), y = q8_value(half, DIM, v ? 7 * DIM + i : i * 32 + 7, i, 7);
            for (uint32_t j = from; j < to; j++) {
                top = fmax(top, fabs((double) x[v][j]));
            }
            bad += !(fabs(y - (double) x[v][i]) <= 0.5 * c * (1 + 1e-6)) || c < top / 127 * (1 - 1e-7)
                   || c - fmax(ldexp(c, -10), ldexp(1, -24)) >= top / 127;
        }
    }
    ok(bad == 0, "%s q8_0: rounded to the nearest, scales no larger than needed", k->name);

    static const float broken[] = { NAN, -INFINITY, 9e6f };
    for (size_t b = 0; b < 3; b++) {
        float x[DIM] = { 1.0f };
        x[40] = broken[b];
        k->kv_store(block, LLM_KV_Q8_0, DIM, 0, x, x);
        bad = 0;
        for (uint32_t d = 0; d < DIM; d++) {
            bool nan_k = isnan(q8_value(block, DIM, d * 32, d, 0)),
                 nan_v = isnan(q8_value(block + sizeof(block) / 2, DIM, d, d, 0)), want = d / 32 == 1;
            bad += nan_k != want || nan_v != want;
        }
        ok(bad == 0, "%s q8_0: %g makes its block NaN", k->name, (double) broken[b]);
    }
}

int
main(void)
{
    static const case_t cases[] = {
        { .name = "one key", .dim = 64, .group = 1, .n_q = 1, .pos0 = 0, .n_keys = 1, .causal = true },
        { .name = "decode, group 3", .dim = 64, .group = 3, .n_q = 1, .pos0 = 699, .n_keys = 700, .causal = true },
        { .name = "decode, no groups", .dim = 128, .group = 1, .n_q = 1, .pos0 = 1039, .n_keys = 1040, .causal = true },
        { .name = "decode, group 7", .dim = 80, .group = 7, .n_q = 1, .pos0 = 95, .n_keys = 96, .causal = true },
        { .name = "prefill, group 3", .dim = 64, .group = 3, .n_q = 16, .pos0 = 0, .n_keys = 16, .causal = true },
        { .name = "prefill in the middle", .dim = 128, .group = 4, .n_q = 16, .pos0 = 500, .n_keys = 516, .causal = true },
        { .name = "prefill across a span", .dim = 64, .group = 1, .n_q = 11, .pos0 = 507, .n_keys = 518, .causal = true },
        { .name = "head_dim 8", .dim = 8, .group = 2, .n_q = 5, .pos0 = 60, .n_keys = 65, .causal = true },
        { .name = "head_dim 10", .dim = 10, .group = 5, .n_q = 3, .pos0 = 33, .n_keys = 36, .causal = true },
        { .name = "head_dim 72", .dim = 72, .group = 2, .n_q = 2, .pos0 = 62, .n_keys = 64, .causal = true },
        { .name = "head_dim 512", .dim = 512, .group = 2, .n_q = 2, .pos0 = 40, .n_keys = 42, .causal = true },
        { .name = "group 128", .dim = 16, .group = 128, .n_q = 2, .pos0 = 70, .n_keys = 72, .causal = true },
        { .name = "not causal", .dim = 64, .group = 1, .n_q = 16, .pos0 = 0, .n_keys = 77 },
        { .name = "window 5", .dim = 64, .group = 3, .n_q = 16, .pos0 = 100, .n_keys = 116, .causal = true, .window = 5 },
        { .name = "window 1", .dim = 32, .group = 2, .n_q = 4, .pos0 = 30, .n_keys = 34, .causal = true, .window = 1 },
        { .name = "window 600", .dim = 64, .group = 2, .n_q = 9, .pos0 = 1191, .n_keys = 1200, .causal = true, .window = 600 },
        { .name = "window, spans without keys", .dim = 64, .group = 1, .n_q = 2, .pos0 = 1100, .n_keys = 1102, .causal = true,
          .window = 20 },
        { .name = "softcap", .dim = 64, .group = 2, .n_q = 7, .pos0 = 90, .n_keys = 97, .causal = true, .softcap = 1.5f },
        { .name = "softcap, large scores", .dim = 64, .group = 2, .n_q = 7, .pos0 = 90, .n_keys = 97, .causal = true,
          .softcap = 30.0f, .far = true },
        { .name = "large scores", .dim = 64, .group = 4, .n_q = 3, .pos0 = 90, .n_keys = 93, .causal = true, .far = true },
        { .name = "alibi", .dim = 64, .group = 4, .n_q = 5, .pos0 = 300, .n_keys = 305, .causal = true, .alibi = 1 },
        { .name = "alibi in bfloat16", .dim = 64, .group = 4, .n_q = 5, .pos0 = 300, .n_keys = 305, .causal = true, .alibi = 2 },
        { .name = "relative bias", .dim = 64, .group = 3, .n_q = 6, .pos0 = 50, .n_keys = 100, .rel = true },
        { .name = "relative bias, causal", .dim = 64, .group = 3, .n_q = 6, .pos0 = 50, .n_keys = 56, .causal = true, .rel = true },
    };
    const llm_kern_t *sets[4];
    uint32_t n_sets = llm_kern_all(sets);
    for (uint32_t i = 0; i < n_sets; i++) {
        for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
            for (int type = 0; type < LLM_KV_COUNT; type++) {
                test_case(sets[i], &cases[c], (llm_kv_type_t) type);
            }
        }
        for (int type = 0; type < LLM_KV_COUNT; type++) {
            test_later_nan(sets[i], (llm_kv_type_t) type);
        }
        test_q8(sets[i]);
    }
    test_store(sets, n_sets);
    return done_testing();
}
