/*
 * tensor_mm_c.c - the portable set's emulated fused multiply-add against the C library's.
 */
#include "../../engine/tensor/mm_c.c"
#include "tap.h"
#include "tensor_data.h"

static bool
same(float a, float b, float c)
{
    float got = fused(a, b, c), want = fmaf(a, b, c);
    if (memcmp(&got, &want, sizeof(got)) == 0 || (isnan(got) && isnan(want))) {
        return true;
    }
    diag("fma(%a, %a, %a): got %a, want %a", a, b, c, got, want);
    return false;
}

int
main(void)
{
    /* ties, ties broken by what is far below, cancellation, subnormals, overflow, zeros of both signs */
    static const float v[] = {
        0.0f, -0.0f, 1.0f, -1.0f, 0x1.000002p0f, 0x1.fffffep0f, -0x1.000002p0f, 0x1p-12f, 0x1.8p-24f, 0x1p-24f, 0x1p-25f,
        -0x1p-24f, 0x1.000002p-24f, 0x1p-126f, 0x1p-149f, 0x1.8p-127f, 0x1.fffffep127f, -0x1.fffffep127f, 0x1p127f, 3.0f,
        0x1.555556p-2f, INFINITY, -INFINITY, NAN, 0x1p-60f, -0x1p-60f, 0x1p60f,
    };
    const int n = sizeof(v) / sizeof(v[0]);
    long bad = 0;
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) {
            for (int k = 0; k < n; k++) {
                bad += !same(v[i], v[j], v[k]);
            }
        }
    }
    is_int(bad, 0, "edge cases");
    for (int i = 0; i < 3000000; i++) {
        union { uint32_t u; float f; } a = { .u = td_rand() }, b = { .u = td_rand() }, c = { .u = td_rand() };
        bad += !same(a.f, b.f, c.f);
        /* a sum near a tie: c is the negated, rounded product or far below it */
        bad += !same(a.f, b.f, -(a.f * b.f));
        bad += !same(td_unit(), td_unit(), td_unit() * 0x1p-30f);
    }
    is_int(bad, 0, "random bits");
    return done_testing();
}
