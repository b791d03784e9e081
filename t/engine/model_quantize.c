/*
 * Quantizing while a model is loaded: the packed rows are those that quantize.c makes of the rows
 * of the file, in the formats that the settings ask for.
 */
#include "model/bind.h"
#include "tensor/quantize.h"

#include "tap.h"

#define MAX_COLS 1024

/* The packed matrices of q (bound with a format) against those of f (as in the file). */
static int
same_rows(const llm_mat_t *q, const llm_mat_t *f, uint32_t type)
{
    static float row[MAX_COLS], want[MAX_COLS], got[MAX_COLS];
    static uint8_t blocks[MAX_COLS * 4];
    int same = q->type == type && q->rows == f->rows && q->cols == f->cols && f->cols <= MAX_COLS;
    for (uint32_t i = 0; same && i < f->rows; i++) {
        llm_mat_row(f, i, row);
        llm_mat_row(q, i, got);
        same = llm_quantize(type, blocks, row, f->cols);
        llm_format(type)->dequant(want, blocks, f->cols);
        same = same && memcmp(want, got, f->cols * sizeof(float)) == 0;
    }
    return same;
}

static void
test_file(const char *path, const char *format, uint32_t inside, uint32_t ends)
{
    llm_err_t err = { 0 };
    llm_model_t *f = NULL, *q = NULL, *c = NULL;
    llm_model_conf_t plain = { .weights = path }, conf = { .weights = path, .quantize = format };
    llm_model_conf_t check = conf;
    check.check_only = true;
    if (!ok(llm_model_open(&f, &plain, &err) == LLM_OK && llm_model_open(&q, &conf, &err) == LLM_OK
            && llm_model_open(&c, &check, &err) == LLM_OK, "%s as %s", path, format)) {
        diag("%s", err.msg);
    } else {
        ok(same_rows(&q->embed, &f->embed, ends), "%s: embedding", format);
        int good = 1;
        for (uint32_t i = 0; i < f->dec.n_layers; i++) {
            good &= same_rows(&q->dec.layers[i].o.part[0], &f->dec.layers[i].o.part[0], inside);
            good &= same_rows(&q->dec.layers[i].qkv.part[0], &f->dec.layers[i].qkv.part[0], inside);
        }
        ok(good, "%s: matrices of the layers", format);
        is_str(llm_model_info(c)->type_name, q->info.type_name, "the same name by checking alone");
        ok(strcmp(q->info.type_name, llm_format(inside)->name) == 0
           || strcmp(q->info.type_name, llm_format(ends)->name) == 0, "%s: shown as %s", format,
           q->info.type_name);
        is_int((long long) llm_model_info(c)->weight_bytes,
               (long long) llm_model_info(q)->weight_bytes, "checking alone knows the size");
    }
    llm_model_close(f);
    llm_model_close(q);
    llm_model_close(c);
}

int
main(void)
{
    static const char f32[] = "t/fixtures/gguf/llama-F32.gguf";
    test_file(f32, "q8_0", LLM_T_Q8_0, LLM_T_Q8_0);
    test_file(f32, "Q4_0", LLM_T_Q4_0, LLM_T_Q8_0);
    test_file(f32, "q4_k", LLM_T_Q4_1, LLM_T_Q8_0);
    test_file("t/fixtures/gguf/llama-BF16.gguf", "q5_1", LLM_T_Q5_1, LLM_T_Q8_0);
    test_file("t/fixtures/models/llama", "q5_0", LLM_T_Q5_0, LLM_T_Q8_0);

    llm_err_t err = { 0 };
    llm_model_t *a, *b;
    llm_model_conf_t conf = { .weights = "t/fixtures/gguf/llama-Q4_0.gguf", .quantize = "q8_0" };
    llm_code_t rc = llm_model_open(&a, &conf, &err);
    conf.quantize = NULL;
    ok(rc == LLM_OK && llm_model_open(&b, &conf, &err) == LLM_OK
       && llm_model_info(a)->weight_bytes == llm_model_info(b)->weight_bytes,
       "what is quantized already stays");
    is_str(llm_model_info(a)->type_name, "Q4_0", "and is called so");
    llm_model_close(a);
    llm_model_close(b);
    static const char *const wrong[] = { "", "f16", "iq4_nl", "q4", "q8_0 " };
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        conf.quantize = wrong[i];
        ok(!llm_model_can_quantize(wrong[i]) && llm_model_open(&a, &conf, &err) == LLM_E_ARG
           && a == NULL, "\"%s\" is refused: %s", wrong[i], err.msg);
    }
    return done_testing();
}
