/*
 * tensor_mm.c - matrix products of every kernel set against double precision, and the promises about bits.
 *
 * Expected values come from the format's own dequant (checked against recorded blocks in tensor_format.c) and sums in double precision.
 * The error of an int8 set is bounded by the rounding of the activations: each is off by at most d/2 = max|x of its run| / 254,
 * times |w|, summed; plus f32 rounding of the sums. A run is 64 values of formats with
 * blocks of 256, else 32.
 */
#include "tap.h"
#include "base/cpu.h"
#include "tensor/kern.h"
#include "tensor/kern_isa.h"
#include "tensor_data.h"

#define F32_TOL 4e-6        /* relative to sum |w x|: 32 f32 ulps */

typedef struct {
    float    *x, *y;
    uint8_t  *buf;
    llm_act_t a;
} acts_t;

static void
acts_new(acts_t *s, uint32_t n, uint32_t k)
{
    s->x = malloc((size_t) n * (k + 3) * sizeof(float));
    s->buf = aligned_alloc(64, llm_act_bytes(n, k));
    s->a = (llm_act_t) { .x = s->x, .ldx = k + 3, .n = n, .k = k, .buf = s->buf };
    for (size_t i = 0; i < (size_t) n * (k + 3); i++) {
        s->x[i] = td_normal() * (td_rand() % 50 == 0 ? 10.0f : 1.0f);
    }
    /* a token of zeros and a block of zeros */
    if (n > 2) {
        memset(s->x + 2 * s->a.ldx, 0, k * sizeof(float));
    }
    memset(s->x, 0, (k < 32 ? k / 2 : 32) * sizeof(float));
}

static void
acts_free(acts_t *s)
{
    free(s->x);
    free(s->buf);
}

static void
run(const llm_kern_t *k, const llm_mat_t *m, const llm_act_t *acts, float *y, size_t ldy)
{
    llm_act_t a = *acts;
    a.forms = k->act_forms(m);
    if (a.forms != 0) {
        k->quant(&a, 0, a.n);
    }
    k->mm(m, 0, m->n_tiles, &a, y, ldy);
}

/* Entries of y that are further from the double-precision product than allowed. */
static uint32_t
count_bad(const llm_kern_t *k, const llm_mat_t *m, const uint8_t *file, const llm_act_t *a, const float *y, size_t ldy)
{
    const llm_format_t *f = llm_format(m->type);
    size_t row_bytes = (size_t) m->cols / f->block * f->bytes;
    float *w = malloc(m->cols * sizeof(float));
    uint32_t bad = 0, run = f->block == 256 ? 64 : 32;

    for (uint32_t r = 0; r < m->rows; r++) {
        f->dequant(w, file + r * row_bytes, m->cols);
        for (uint32_t t = 0; t < a->n; t++) {
            const float *x = a->x + t * a->ldx;
            double sum = 0.0, size = 0.0, round = 0.0;
            for (uint32_t c0 = 0; c0 < m->cols; c0 += run) {
                double max = 0.0, abs_w = 0.0;
                for (uint32_t c = c0; c < c0 + run && c < m->cols; c++) {
                    sum += (double) w[c] * x[c];
                    size += fabs((double) w[c] * x[c]);
                    abs_w += fabs(w[c]);
                    max = fabs(x[c]) > max ? fabs(x[c]) : max;
                }
                round += abs_w * max / 254.0 * 1.0001;
            }
            double tol = F32_TOL * (size + round) + (k->act_forms(m) != 0 ? round : 0.0);
            double got = y[t * ldy + r];
            if (!(fabs(got - sum) <= tol) && bad++ == 0) {
                diag("%s row %u token %u: got %.9g, want %.9g +- %.3g", k->name, r, t, got, sum, tol);
            }
        }
    }
    free(w);
    return bad;
}

static void
test_product(const llm_kern_t *k, uint32_t type, uint32_t rows, uint32_t cols, uint32_t n)
{
    llm_mat_t m;
    uint8_t *file = NULL;
    acts_t s;
    size_t ldy = rows + 2;
    if (!td_mat(&m, type, rows, cols, &file)) {
        ok(0, "matrix");
        return;
    }
    acts_new(&s, n, cols);
    float *y = malloc(n * ldy * sizeof(float));
    for (size_t i = 0; i < n * ldy; i++) {
        y[i] = 12345.0f;
    }
    run(k, &m, &s.a, y, ldy);
    uint32_t bad = count_bad(k, &m, file, &s.a, y, ldy), spilled = 0;
    for (uint32_t t = 0; t < n; t++) {
        spilled += y[t * ldy + rows] != 12345.0f || y[t * ldy + rows + 1] != 12345.0f;
    }
    ok(bad == 0 && spilled == 0, "%s %s %ux%u, %u tokens: within tolerance, nothing written past the rows", k->name,
       llm_format(type)->name, rows, cols, n);
    free(y);
    acts_free(&s);
    td_mat_free(&m, file);
}

/* One token alone, any batch around it, any split of the tiles: the same bits. */
static void
test_bits(const llm_kern_t *k, uint32_t type, uint32_t rows, uint32_t cols)
{
    static const uint32_t batches[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 24, 25,
                                        31, 64, 65, 70 };
    const uint32_t n_max = 70;
    llm_mat_t m;
    uint8_t *file = NULL;
    acts_t s;
    if (!td_mat(&m, type, rows, cols, &file)) {
        ok(0, "matrix");
        return;
    }
    acts_new(&s, n_max, cols);
    float *alone = malloc((size_t) n_max * rows * sizeof(float)), *y = malloc((size_t) n_max * rows * sizeof(float));
    for (uint32_t t = 0; t < n_max; t++) {
        llm_act_t one = s.a;
        one.x = s.x + t * s.a.ldx;
        one.n = 1;
        run(k, &m, &one, alone + (size_t) t * rows, rows);
    }
    uint32_t bad = 0;
    for (size_t i = 0; i < sizeof(batches) / sizeof(batches[0]); i++) {
        llm_act_t part = s.a;
        uint32_t n = batches[i], t0 = n_max - n, half = m.n_tiles / 2;
        part.x = s.x + t0 * s.a.ldx;
        part.n = n;
        part.forms = k->act_forms(&m);
        if (part.forms != 0) {
            k->quant(&part, n / 2, n);
            k->quant(&part, 0, n / 2);
        }
        k->mm(&m, half, m.n_tiles, &part, y, rows);
        k->mm(&m, 0, half > 1 ? 1 : half, &part, y, rows);
        k->mm(&m, half > 1 ? 1 : half, half, &part, y, rows);
        if (memcmp(y, alone + (size_t) t0 * rows, (size_t) n * rows * sizeof(float)) != 0) {
            diag("%s %s: %u tokens differ from one", k->name, llm_format(type)->name, n);
            bad++;
        }
    }
    ok(bad == 0, "%s %s %ux%u: a token's bits do not depend on the batch or the tiles", k->name, llm_format(type)->name, rows, cols);
    free(alone);
    free(y);
    acts_free(&s);
    td_mat_free(&m, file);
}

/* All int8 sets give the same bits for quantized layouts. */
static void
test_sets_agree(const llm_kern_t *const *sets, uint32_t n_sets, uint32_t type, uint32_t rows, uint32_t cols, uint32_t n)
{
    llm_mat_t m;
    uint8_t *file = NULL;
    acts_t s;
    const llm_kern_t *first = NULL;
    if (!td_mat(&m, type, rows, cols, &file)) {
        ok(0, "matrix");
        return;
    }
    acts_new(&s, n, cols);
    size_t size = (size_t) n * rows * sizeof(float);
    float *want = malloc(size), *y = malloc(size);
    for (uint32_t i = 0; i < n_sets; i++) {
        if (sets[i]->act_forms(&m) == 0) {
            continue;
        }
        run(sets[i], &m, &s.a, first == NULL ? want : y, rows);
        if (first == NULL) {
            first = sets[i];
        } else {
            ok(memcmp(want, y, size) == 0, "%s and %s agree bit for bit: %s, %u tokens", first->name, sets[i]->name,
               llm_format(type)->name, n);
        }
    }
    free(want);
    free(y);
    acts_free(&s);
    td_mat_free(&m, file);
}

/* Extreme numbers: int32 sums and the int8 range must hold. */
static void
test_extremes(const llm_kern_t *k)
{
    llm_mat_t m;
    uint8_t row[34 * 2], *p = row;
    float x[64], y[1];
    for (int b = 0; b < 2; b++, p += 34) {
        td_put_f16(p, 1.0f);
        memset(p + 2, 0x80, 32);        /* -128, which no quantizer writes but a file may hold */
    }
    llm_mat_init(&m, LLM_T_Q8_0, 1, 64, NULL);
    uint8_t *data = aligned_alloc(64, llm_mat_bytes(&m)), *buf = aligned_alloc(64, llm_act_bytes(1, 64));
    const void *src[LLM_TILE] = { row };
    llm_mat_pack_tile(&m, data, src);
    m.data = data;
    for (int i = 0; i < 64; i++) {
        x[i] = -127.0f;
    }
    llm_act_t a = { .x = x, .ldx = 64, .n = 1, .k = 64, .buf = buf };
    run(k, &m, &a, y, 1);
    near(y[0], 64.0 * 127 * 128, 0, "64 products of -128 and -127");
    x[3] = 127.0f;
    run(k, &m, &a, y, 1);
    near(y[0], 62.0 * 127 * 128, 0, "one of them positive");
    for (int i = 0; i < 64; i++) {
        x[i] = i < 32 ? 1e-38f : 0.0f;
    }
    run(k, &m, &a, y, 1);
    near(y[0], 0.0, 1e-33, "values next to zero stay finite");
    free(data);
    free(buf);
}

int
main(void)
{
    static const uint32_t rows[] = { 1, 15, 16, 17, 33, 64, 80 };
    static const uint32_t cols[] = { 1, 31, 32, 33, 64, 96, 256, 288, 576, 768, 1056 };
    static const uint32_t tokens[] = { 1, 2, 3, 7, 8, 9, 16, 17, 64, 65 };
    const llm_kern_t *sets[5];
    uint32_t n_sets = llm_kern_all(sets), pick = 0;
#if defined(__x86_64__)
    /* the avx2 set picks one of two; the other is tested as a set of its own */
    llm_kern_t plain;
    for (uint32_t i = 0; i < n_sets; i++) {
        if (strcmp(sets[i]->name, "avx2") == 0 && (llm_cpu_features() & LLM_CPU_AVX_VNNI)) {
            plain = *sets[i];
            plain.name = "avx2-without-vnni";
            plain.mm = llm_avx2_mm;
            sets[n_sets++] = &plain;
            break;
        }
    }
#endif

    for (uint32_t i = 0; i < n_sets; i++) {
        diag("set %s", sets[i]->name);
        for (size_t t = 0; t < TD_TYPES; t++) {
            for (size_t c = 0; c < sizeof(cols) / sizeof(cols[0]); c++) {
                if (cols[c] % llm_format(td_types[t])->block != 0) {
                    continue;
                }
                for (int j = 0; j < 5; j++, pick++) {
                    test_product(sets[i], td_types[t], rows[pick % 7], cols[c], tokens[pick % 10]);
                }
            }
            test_bits(sets[i], td_types[t], 83, 768);
            test_bits(sets[i], td_types[t], 48, llm_format(td_types[t])->block == 1 ? 301 : 256);
        }
        test_extremes(sets[i]);
    }
    for (size_t t = 0; t < TD_TYPES; t++) {
        test_sets_agree(sets, n_sets, td_types[t], 83, 1024, 1);
        test_sets_agree(sets, n_sets, td_types[t], 83, 768, 21);
    }
    return done_testing();
}
