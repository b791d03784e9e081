/*
 * tensor_format.c - every format against the recorded blocks, and the half-precision conversions.
 *
 * t/fixtures/quant/blocks.json was written by another implementation (see t/fixtures/SOURCE.md); it prints enough digits to
 * tell f32 values apart.
 */
#include "tap.h"
#include "tensor/format.h"

#include <jansson.h>

static void
test_blocks(const char *name, json_t *t)
{
    uint32_t type = (uint32_t) json_integer_value(json_object_get(t, "ggml_type"));
    const llm_format_t *f = llm_format(type);
    if (!ok(f != NULL && strcmp(f->name, name) == 0, "%s: type %u is known", name, type)) {
        return;
    }
    is_int(f->block, json_integer_value(json_object_get(t, "block")), "values in a block");
    is_int(f->bytes, json_integer_value(json_object_get(t, "bytes")), "bytes of a block");

    const char *hex = json_string_value(json_object_get(t, "data"));
    json_t *values = json_object_get(t, "values");
    size_t n_bytes = strlen(hex) / 2, n = json_array_size(values);
    is_int((long long) (n_bytes / f->bytes * f->block), (long long) n, "data and values agree in length");

    uint8_t *mem = malloc(n_bytes + 1), *raw = mem + 1;     /* odd address: src may be unaligned */
    float *got = malloc(n * sizeof(float));
    for (size_t i = 0; i < n_bytes; i++) {
        unsigned b;
        sscanf(hex + 2 * i, "%2x", &b);
        raw[i] = (uint8_t) b;
    }
    f->dequant(got, raw, n);
    size_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        float want = (float) json_number_value(json_array_get(values, i));
        if (got[i] != want && bad++ < 3) {
            diag("[%zu] got %.9g, want %.9g", i, got[i], want);
        }
    }
    is_int((long long) bad, 0, "values differ");
    free(mem);
    free(got);
}

static void
test_f16(void)
{
    static const struct { uint16_t h; float f; } known[] = {
        { 0x0000, 0.0f }, { 0x3c00, 1.0f }, { 0xc000, -2.0f }, { 0x7bff, 65504.0f }, { 0x0400, 0x1p-14f },
        { 0x03ff, 0x1.ff8p-15f }, { 0x0001, 0x1p-24f }, { 0x3555, 0x1.554p-2f }, { 0x7c00, INFINITY }, { 0xfc00, -INFINITY },
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        ok(llm_f16_to_f32(known[i].h) == known[i].f, "f16 %04x is %g", known[i].h, known[i].f);
        is_int(llm_f32_to_f16(known[i].f), known[i].h, "and back");
    }
    /* ties and limits: nearest even */
    static const struct { float f; uint16_t h; } rounds[] = {
        { 0x1.002p0f, 0x3c00 }, { 0x1.006p0f, 0x3c02 }, { 0x1.002002p0f, 0x3c01 }, { 65519.9f, 0x7bff }, { 65520.0f, 0x7c00 },
        { 0x1p-25f, 0x0000 }, { 0x1.000002p-25f, 0x0001 }, { 0x1.8p-24f, 0x0002 }, { -0x1p-26f, 0x8000 },
        { 0x1.ffcp-15f, 0x0400 }, { 1e30f, 0x7c00 },
    };
    for (size_t i = 0; i < sizeof(rounds) / sizeof(rounds[0]); i++) {
        is_int(llm_f32_to_f16(rounds[i].f), rounds[i].h, "rounded to nearest even");
    }
    ok(isnan(llm_f16_to_f32(0x7e01)) && (llm_f32_to_f16(NAN) & 0x7fff) > 0x7c00, "NaN stays NaN");
    long bad = 0;
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f = llm_f16_to_f32((uint16_t) h);
        bad += !isnan(f) && llm_f32_to_f16(f) != h;
    }
    is_int(bad, 0, "every f16 survives the round trip");
}

int
main(void)
{
    json_error_t e;
    json_t *all = json_load_file("t/fixtures/quant/blocks.json", 0, &e), *t;
    if (!ok(all != NULL, "fixture loads")) {
        diag("%s", e.text);
        return done_testing();
    }
    const char *name;
    json_object_foreach(all, name, t) {
        test_blocks(name, t);
    }
    json_decref(all);
    ok(llm_format(4) == NULL && llm_format(31) == NULL && llm_format(40) == NULL && llm_format(~0u) == NULL,
       "unknown types are refused");
    test_f16();
    return done_testing();
}
