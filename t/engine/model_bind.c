/*
 * model/bind.c, hparam.c, rope.c, repack.c and text/open.c: every supported fixture binds with the
 * settings its file was made with and keeps its weights bit for bit; files with something missing,
 * misshapen or out of range are refused by name.
 *
 * Settings in the table are those of the generator (t/fixtures/SOURCE.md); frequencies and slopes
 * were computed by the reference implementation of the fixtures (numpy), not by this code.
 */
#include "model/bind.h"

#include "tap.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define GGUF "t/fixtures/gguf/"
#define FREQ_TOL 2e-6       /* relative; the reference computes powers in float32 */

enum {
    PRE = LLM_TOPO_PRE, PAR = LLM_TOPO_PARALLEL, PAR2 = LLM_TOPO_PARALLEL2,
    SAND = LLM_TOPO_SANDWICH
};
enum { RMS = LLM_NORM_RMS, LN = LLM_NORM_LAYER };
enum { ROPE = LLM_POS_ROPE, LEARNED = LLM_POS_LEARNED, ALIBI = LLM_POS_ALIBI };
enum { PLAIN = LLM_MLP_PLAIN, GATED = LLM_MLP_GATED, MOE = LLM_MLP_MOE };
enum { ADJ = 0, HALF = 1 };
enum { SILU = LLM_ACT_SILU, GELU = LLM_ACT_GELU, TANH = LLM_ACT_GELU_TANH };
enum { TIED = 1, HEAD = 0 };

/* half .. act of the table below */
#define LLAMA           ADJ, RMS, PRE, ROPE, GATED, SILU
#define MIXTRAL         ADJ, RMS, PRE, ROPE, MOE, SILU
#define QWEN            HALF, RMS, PRE, ROPE, GATED, SILU
#define GEMMA(topo)     HALF, RMS, topo, ROPE, GATED, TANH
#define GPT             ADJ, LN, PRE, LEARNED, PLAIN, TANH
#define NEOX(topo, act) HALF, LN, topo, ROPE, PLAIN, act
#define BIASED(act)     ADJ, LN, PRE, ALIBI, PLAIN, act

static const struct {
    const char *file, *arch;
    uint32_t    d, layers, heads, kv, hd, ff, vocab, n_rot, half, norm, topology, pos, mlp, act;
    double      eps;
    uint32_t    qkv_parts, tied;
} models[] = {
    { "llama-F32", "llama", 32, 2, 4, 2, 8, 96, 448, 8, LLAMA, 1e-5, 1, HEAD },
    { "llama-F16", "llama", 32, 2, 4, 2, 8, 96, 448, 8, LLAMA, 1e-5, 1, HEAD },
    { "llama-BF16", "llama", 32, 2, 4, 2, 8, 96, 448, 8, LLAMA, 1e-5, 1, HEAD },
    { "llama-Q8_0", "llama", 32, 2, 4, 2, 8, 96, 448, 8, LLAMA, 1e-5, 1, HEAD },
    { "llama-Q4_0", "llama", 32, 2, 4, 2, 8, 96, 448, 8, LLAMA, 1e-5, 1, HEAD },
    { "llama-Q4_1", "llama", 32, 2, 4, 2, 8, 96, 448, 8, LLAMA, 1e-5, 1, HEAD },
    { "llama-Q5_0", "llama", 32, 2, 4, 2, 8, 96, 448, 8, LLAMA, 1e-5, 1, HEAD },
    { "llama-Q5_1", "llama", 32, 2, 4, 2, 8, 96, 448, 8, LLAMA, 1e-5, 1, HEAD },
    { "llama-IQ4_NL", "llama", 32, 2, 4, 2, 8, 96, 448, 8, LLAMA, 1e-5, 1, HEAD },
    { "llama-MXFP4", "llama", 32, 2, 4, 2, 8, 96, 448, 8, LLAMA, 1e-5, 1, HEAD },
    { "llama3-Q8_0", "llama", 32, 2, 4, 2, 8, 96, 453, 8, LLAMA, 1e-5, 1, TIED },
    { "llama_rope_yarn-Q5_1", "llama", 32, 1, 2, 1, 16, 64, 453, 16, LLAMA, 1e-6, 1, HEAD },
    { "llama_k-Q2_K", "llama", 256, 1, 4, 1, 64, 256, 384, 64, LLAMA, 1e-5, 2, TIED },
    { "llama_k-Q3_K_M", "llama", 256, 1, 4, 1, 64, 256, 384, 64, LLAMA, 1e-5, 2, TIED },
    { "llama_k-Q4_K_M", "llama", 256, 1, 4, 1, 64, 256, 384, 64, LLAMA, 1e-5, 2, TIED },
    { "llama_k-Q5_K_M", "llama", 256, 1, 4, 1, 64, 256, 384, 64, LLAMA, 1e-5, 2, TIED },
    { "llama_k-IQ4_XS", "llama", 256, 1, 4, 1, 64, 256, 384, 64, LLAMA, 1e-5, 2, TIED },
    { "smollm2-Q4_1", "llama", 32, 2, 4, 2, 8, 96, 448, 8, LLAMA, 1e-6, 1, TIED },
    { "mixtral-Q8_0", "llama", 32, 2, 4, 2, 8, 32, 512, 8, MIXTRAL, 1e-5, 1, HEAD },
    { "smollm3-Q5_0", "smollm3", 32, 4, 4, 2, 8, 72, 454, 8, LLAMA, 1e-6, 1, TIED },
    { "qwen2-Q8_0", "qwen2", 32, 2, 4, 2, 8, 96, 464, 8, QWEN, 1e-6, 1, TIED },
    { "qwen3-Q4_0", "qwen3", 32, 2, 4, 2, 16, 96, 464, 16, QWEN, 1e-6, 1, TIED },
    { "phi3_longrope-Q8_0", "phi3", 32, 2, 4, 2, 8, 64, 528, 8, QWEN, 1e-5, 1, HEAD },
    { "gemma-BF16", "gemma", 32, 2, 4, 1, 16, 96, 512, 16, GEMMA(PRE), 1e-6, 1, TIED },
    { "gemma2-Q8_0", "gemma2", 32, 3, 4, 2, 16, 96, 512, 16, GEMMA(SAND), 1e-6, 1, TIED },
    { "gpt2-Q8_0", "gpt2", 32, 2, 2, 2, 16, 128, 448, 0, GPT, 1e-5, 1, TIED },
    { "gpt_bigcode-Q8_0", "starcoder", 32, 2, 4, 1, 8, 128, 452, 0, GPT, 1e-5, 1, TIED },
    { "starcoder2-Q8_0", "starcoder2", 32, 2, 4, 2, 8, 128, 452, 8, NEOX(PRE, TANH), 1e-5, 1,
      TIED },
    { "gpt_neox-Q8_0", "gptneox", 32, 2, 2, 2, 16, 128, 480, 4, NEOX(PAR2, GELU), 1e-5, 1, HEAD },
    { "phi-Q8_0", "phi2", 32, 2, 2, 2, 16, 128, 480, 8, NEOX(PAR, TANH), 1e-5, 1, HEAD },
    { "falcon_7b_style-Q4_0", "falcon", 32, 2, 4, 1, 8, 128, 448, 8, NEOX(PAR, GELU), 1e-5, 1,
      TIED },
    { "falcon_40b_style-Q8_0", "falcon", 32, 2, 4, 2, 8, 128, 448, 8, NEOX(PAR2, GELU), 1e-5, 1,
      TIED },
    { "bloom-F16", "bloom", 48, 2, 6, 6, 8, 192, 460, 0, BIASED(TANH), 1e-5, 1, TIED },
    { "mpt-Q8_0", "mpt", 32, 2, 4, 4, 8, 128, 472, 0, BIASED(GELU), 1e-5, 1, TIED },
};

static llm_model_t *
open_fixture(const char *name, bool check_only)
{
    char path[256];
    llm_err_t err = { 0 };
    llm_model_t *m;
    snprintf(path, sizeof(path), GGUF "%s.gguf", name);
    llm_model_conf_t conf = { .weights = path, .check_only = check_only };
    if (!ok(llm_model_open(&m, &conf, &err) == LLM_OK, "%s opens%s", name,
            check_only ? " for a check" : "")) {
        diag("%s", err.msg);
    }
    return m;
}

static void
test_settings(void)
{
    for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
        llm_model_t *m = open_fixture(models[i].file, true);
        if (m == NULL) {
            continue;
        }
        const llm_stack_t *s = &m->dec;
        const uint32_t got[] = {
            s->d, s->n_layers, s->n_heads, s->n_kv_heads, s->head_dim, s->ff, m->info.n_vocab,
            s->n_rot, s->rope_half, s->norm,
            s->topology, s->pos, s->mlp, s->act,
        };
        const uint32_t *want = &models[i].d;
        bool same = true;
        for (size_t k = 0; k < sizeof(got) / sizeof(got[0]); k++) {
            if (got[k] != want[k]) {
                diag("setting %zu is %u, want %u", k, got[k], want[k]);
                same = false;
            }
        }
        ok(same, "%s: settings", models[i].file);
        is_str(m->info.arch, models[i].arch, "its family");
        near(s->eps, models[i].eps, models[i].eps * 1e-6, "eps");
        is_int(s->layers[0].qkv.n_parts, models[i].qkv_parts, "matrices of q, k and v");
        is_int(s->layers[0].qkv.rows, (s->n_heads + 2 * s->n_kv_heads) * s->head_dim,
               "rows of q, k and v");
        ok(m->weights == NULL && m->info.weight_bytes > 0, "no weights, but their size");
        ok(m->embed.data == NULL && m->n_unused == 0, "nothing left over");
        llm_model_close(m);

        m = open_fixture(models[i].file, false);
        if (m != NULL) {
            ok((m->head.part[0].data == m->embed.data) == models[i].tied, "%s head",
               models[i].tied ? "tied" : "separate");
            llm_model_close(m);
        }
    }
}

/* ----------------------------------------------------------------- weights */

typedef struct {
    llm_gguf_t *g;
    float      *values;
    uint64_t    cols, rows;
} tensor_t;

/* The values of a tensor, straight from the file. */
static bool
load(tensor_t *t, const char *file, const char *name)
{
    char path[256];
    llm_err_t err = { 0 };
    snprintf(path, sizeof(path), GGUF "%s.gguf", file);
    *t = (tensor_t) { 0 };
    if (llm_gguf_open(&t->g, path, &err) != LLM_OK) {
        return false;
    }
    const llm_gguf_tensor_t *x = llm_gguf_tensor(t->g, name);
    if (x == NULL) {
        return false;
    }
    t->cols = x->ne[0];
    t->rows = x->ne[1] * x->ne[2];
    void *raw = malloc(x->size);
    t->values = malloc(t->cols * t->rows * sizeof(float));
    bool good = llm_gguf_read(t->g, x, 0, raw, x->size, &err) == LLM_OK;
    if (good) {
        llm_format(x->type)->dequant(t->values, raw, t->cols * t->rows);
    }
    free(raw);
    return good;
}

static void
unload(tensor_t *t)
{
    free(t->values);
    llm_gguf_close(t->g);
}

/* Row i of a linear in whatever part holds it. */
static void
linear_row(const llm_lin_t *lin, uint32_t i, float *dst)
{
    uint32_t p = 0;
    for (; i >= lin->part[p].rows; p++) {
        i -= lin->part[p].rows;
    }
    llm_mat_row(&lin->part[p], i, dst);
}

/* Rows first.. of a linear hold tensor rows from.. (count n). */
static void
same_rows(const llm_lin_t *lin, uint32_t first, const char *file, const char *name, uint32_t from,
          uint32_t n)
{
    tensor_t t;
    float row[512];
    bool same = load(&t, file, name) && t.cols == lin->cols && from + n <= t.rows
                && first + n <= lin->rows;
    for (uint32_t r = 0; r < n && same; r++) {
        linear_row(lin, first + r, row);
        same = memcmp(row, t.values + (from + r) * t.cols, t.cols * sizeof(float)) == 0;
    }
    ok(same, "%s: %s is rows %u..%u", file, name, first, first + n - 1);
    unload(&t);
}

static void
same_vector(const float *v, const char *file, const char *name, uint32_t n)
{
    tensor_t t;
    bool same = load(&t, file, name) && v != NULL && t.cols * t.rows == n;
    ok(same && memcmp(v, t.values, n * sizeof(float)) == 0, "%s: %s", file, name);
    unload(&t);
}

static void
test_llama_weights(const char *file, bool tied)
{
    llm_model_t *m = open_fixture(file, false);
    if (m == NULL) {
        return;
    }
    const llm_stack_t *s = &m->dec;
    uint32_t q = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim, last = s->n_layers - 1;
    char name[64];
    const llm_layer_t *l = &s->layers[last];
#define NAME(x) (snprintf(name, sizeof(name), "blk.%u." x ".weight", last), name)
    same_rows(&l->qkv, 0, file, NAME("attn_q"), 0, q);
    same_rows(&l->qkv, q, file, NAME("attn_k"), 0, kv);
    same_rows(&l->qkv, q + kv, file, NAME("attn_v"), 0, kv);
    same_rows(&l->o, 0, file, NAME("attn_output"), 0, s->d);
    same_rows(&l->ffn_in, 0, file, NAME("ffn_gate"), 0, s->ff);
    same_rows(&l->ffn_in, s->ff, file, NAME("ffn_up"), 0, s->ff);
    same_rows(&l->ffn_out, 0, file, NAME("ffn_down"), 0, s->d);
    same_vector(l->n1.w, file, NAME("attn_norm"), s->d);
    same_vector(l->n2.w, file, NAME("ffn_norm"), s->d);
#undef NAME
    same_vector(s->final_norm.w, file, "output_norm.weight", s->d);
    same_rows(&m->head, 0, file, tied ? "token_embd.weight" : "output.weight", 0, m->info.n_vocab);
    ok((m->head.part[0].data == m->embed.data) == tied, "%s: the embedding is stored once when "
       "tied", file);
    ok(((uintptr_t) m->weights & 63) == 0 && m->weights_bytes >= m->info.weight_bytes,
       "aligned and large enough");
    llm_model_close(m);
}

static void
test_other_weights(void)
{
    llm_model_t *m = open_fixture("mixtral-Q8_0", false);
    if (m != NULL) {
        const llm_layer_t *l = &m->dec.layers[1];
        is_int(m->dec.n_experts, 5, "experts");
        is_int(m->dec.n_experts_used, 2, "of which are used");
        same_rows(&l->router, 0, "mixtral-Q8_0", "blk.1.ffn_gate_inp.weight", 0, 5);
        same_rows(&l->exp_in[3], 0, "mixtral-Q8_0", "blk.1.ffn_gate_exps.weight", 3 * 32, 32);
        same_rows(&l->exp_in[3], 32, "mixtral-Q8_0", "blk.1.ffn_up_exps.weight", 3 * 32, 32);
        same_rows(&l->exp_out[4], 0, "mixtral-Q8_0", "blk.1.ffn_down_exps.weight", 4 * 32, 32);
        llm_model_close(m);
    }
    m = open_fixture("phi3_longrope-Q8_0", false);
    if (m != NULL) {
        same_rows(&m->dec.layers[0].qkv, 0, "phi3_longrope-Q8_0", "blk.0.attn_qkv.weight", 0, 64);
        same_rows(&m->dec.layers[0].ffn_in, 0, "phi3_longrope-Q8_0", "blk.0.ffn_up.weight", 0, 128);
        llm_model_close(m);
    }
    m = open_fixture("qwen2-Q8_0", false);
    if (m != NULL) {
        const float *b = m->dec.layers[1].qkv.bias;
        same_vector(b, "qwen2-Q8_0", "blk.1.attn_q.bias", 32);
        same_vector(b + 32, "qwen2-Q8_0", "blk.1.attn_k.bias", 16);
        same_vector(b + 48, "qwen2-Q8_0", "blk.1.attn_v.bias", 16);
        ok(m->dec.layers[1].o.bias == NULL, "no bias where the file has none");
        llm_model_close(m);
    }
    m = open_fixture("falcon_40b_style-Q8_0", false);
    if (m != NULL) {
        same_vector(m->dec.layers[0].n1.w, "falcon_40b_style-Q8_0", "blk.0.attn_norm_2.weight", 32);
        same_vector(m->dec.layers[0].n2.b, "falcon_40b_style-Q8_0", "blk.0.attn_norm.bias", 32);
        llm_model_close(m);
    }
    m = open_fixture("gpt2-Q8_0", false);
    if (m != NULL) {
        is_int(m->dec.n_pos, 192, "learned positions");
        same_vector(m->dec.pos_table, "gpt2-Q8_0", "position_embd.weight", 192 * 32);
        same_vector(m->dec.layers[0].ffn_in.bias, "gpt2-Q8_0", "blk.0.ffn_up.bias", 128);
        llm_model_close(m);
    }
    m = open_fixture("qwen3-Q4_0", false);
    if (m != NULL) {
        same_vector(m->dec.layers[1].kn.w, "qwen3-Q4_0", "blk.1.attn_k_norm.weight", 16);
        llm_model_close(m);
    }
    m = open_fixture("bloom-F16", false);
    if (m != NULL) {
        same_vector(m->dec.emb_norm.b, "bloom-F16", "token_embd_norm.bias", 48);
        llm_model_close(m);
    }
}

static void
test_quirks(void)
{
    llm_model_t *m = open_fixture("gemma2-Q8_0", true);
    if (m != NULL) {
        const llm_stack_t *s = &m->dec;
        ok(s->layers[0].window == 14 && s->layers[1].window == 0 && s->layers[2].window == 14,
           "window on even layers");
        ok(s->score_cap == 4 && m->logit_cap == 9, "caps");
        near(s->emb_scale, sqrt(32), 1e-6, "embedding scale");
        near(s->attn_scale, 0.25, 1e-7, "score scale");
        llm_model_close(m);
    }
    m = open_fixture("smollm3-Q5_0", true);
    if (m != NULL) {
        const llm_layer_t *l = m->dec.layers;
        ok(l[0].rotate && l[1].rotate && l[2].rotate && !l[3].rotate,
           "every fourth layer is not rotated");
        llm_model_close(m);
    }
    m = open_fixture("mpt-Q8_0", true);
    if (m != NULL) {
        near(m->dec.clip_qkv, 1.25, 0, "clamp");
        llm_model_close(m);
    }
    m = open_fixture("smollm2-Q4_1", true);
    if (m != NULL) {
        /* 2 layers x 2 kv heads x (K and V) x 8 values of 2 bytes, or 4 */
        is_int((long long) llm_model_kv_bytes(m, LLM_KV_F16), 2 * 2 * 2 * 8 * 2,
               "bytes of a token in f16");
        is_int((long long) llm_model_kv_bytes(m, LLM_KV_F32), 2 * 2 * 2 * 8 * 4,
               "bytes of a token in f32");
        is_str(m->info.name, "tiny-smollm2", "name");
        is_str(m->info.type_name, "Q4_1", "format");
        ok(m->info.chat_template != NULL && strstr(m->info.chat_template, "im_start"), "template");
        is_int(m->info.n_ctx_train, 256, "context");
        llm_model_close(m);
    }
}

/* --------------------------------------------------------------- positions */

static void
near_all(const float *got, const float *want, size_t n, const char *name)
{
    bool good = got != NULL;
    for (size_t i = 0; i < n && good; i++) {
        good = fabs((double) got[i] - want[i]) <= FREQ_TOL * fabs((double) want[i]);
        if (!good) {
            diag("%zu: %.9g, want %.9g", i, got[i], want[i]);
        }
    }
    ok(good, "%s", name);
}

static void
test_positions(void)
{
    static const float yarn[] = {
        1, 0.237170815f, 0.049999997f, 0.00790569466f, 0.00249999994f, 0.000790569466f,
        0.000250000012f, 7.90569466e-05f,
    };
    static const float shorts[] = { 1, 0.095238097f, 0.0090909088f, 0.000869565236f };
    static const float longs[] = { 1, 0.0526315793f, 0.00357142859f, 0.000270270277f };
    static const float llama3[] = { 1, 0.00470075384f, 0.000176776681f, 6.64787058e-06f };
    static const float plain[] = { 1, 0.0562341288f, 0.00316227786f, 0.00017782794f };
    static const float neox[] = { 1, 0.00999999978f };
    static const float six[] = { 0.25f, 0.0625f, 0.015625f, 0.00390625f, 0.5f, 0.125f };
    static const float twelve[] = {
        0.25f, 0.0625f, 0.015625f, 0.00390625f, 0.0009765625f, 0.000244140625f, 6.10351562e-05f,
        1.52587891e-05f,
        0.5f, 0.125f, 0.03125f, 0.0078125f,
    };
    static const struct {
        const char *file;
        const float *want, *want_long;
        size_t n;
        double scale;
    } cases[] = {
        { "smollm2-Q4_1", plain, NULL, 4, 1 },
        { "gpt_neox-Q8_0", neox, NULL, 2, 1 },
        { "llama3-Q8_0", llama3, NULL, 4, 1 },
        { "llama_rope_yarn-Q5_1", yarn, NULL, 8, 1.138629436111989 },
        { "phi3_longrope-Q8_0", shorts, longs, 4, 1.1338934190276817 },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        llm_model_t *m = open_fixture(cases[i].file, true);
        if (m == NULL) {
            continue;
        }
        near_all(m->dec.rope_inv, cases[i].want, cases[i].n, "frequencies");
        near(m->dec.rope_mscale, cases[i].scale, 1e-6, "factor on cos and sin");
        if (cases[i].want_long != NULL) {
            near_all(m->dec.rope_long, cases[i].want_long, cases[i].n, "long frequencies");
            is_int(m->dec.rope_orig_ctx, 128, "used beyond");
        } else {
            ok(m->dec.rope_long == NULL, "no long frequencies");
        }
        llm_model_close(m);
    }
    llm_model_t *m = open_fixture("bloom-F16", true);
    if (m != NULL) {
        near_all(m->dec.slopes, six, 6, "slopes of six heads");
        llm_model_close(m);
    }
    float slopes[12];
    llm_alibi_slopes(slopes, 12, 16);
    near_all(slopes, twelve, 12, "slopes of twelve heads, maximum 16");
}

/* ------------------------------------------------------------------ errors */

static char tmp_path[] = "/tmp/llm-bind-XXXXXX";

#define U32(x) { (x) & 0xff, (x) >> 8 & 0xff, (x) >> 16 & 0xff, (x) >> 24 & 0xff }

/*
 * One change to a fixture: after the name `find`, skip bytes, then n bytes of `with` are written.
 * A value follows its key after 4 bytes of type, a dimension its tensor's name after 4 bytes of
 * count (and 8 a dimension).
 */
typedef struct {
    const char *name, *file, *find;
    int         skip;
    uint8_t     with[20];
    uint32_t    n;
    llm_code_t  code;
    const char *word;
    const char *hide;           /* a key that is renamed as well */
} edit_t;

static const edit_t edits[] = {
    { "no block count", "llama-F32", "llama.block_count", -1, "T", 1, LLM_E_FORMAT,
      "key \"llama.block_count\" is missing" },
    { "no layers", "llama-F32", "llama.block_count", 4, U32(0), 4, LLM_E_FORMAT,
      "\"llama.block_count\" is 0, allowed" },
    { "many layers", "llama-F32", "llama.block_count", 4, U32(513), 4, LLM_E_FORMAT,
      "is 513, allowed are integers from 1 to 512" },
    { "one layer more", "llama-F32", "llama.block_count", 4, U32(3), 4, LLM_E_FORMAT,
      "\"blk.2.attn_norm.weight\" is missing" },
    { "one layer less", "llama-F32", "llama.block_count", 4, U32(1), 4, LLM_E_UNSUPPORTED,
      "\"blk.1.attn_k.weight\" has no place" },
    { "a float of layers", "llama-F32", "llama.block_count", 0, U32(6), 4, LLM_E_FORMAT,
      "allowed are integers" },
    { "no d", "llama-F32", "llama.embedding_length", -1, "X", 1, LLM_E_FORMAT,
      "\"llama.embedding_length\" is missing" },
    { "wrong d", "llama-F32", "llama.embedding_length", 4, U32(64), 4, LLM_E_FORMAT,
      "\"token_embd.weight\" has shape [32, 448, 1, 1], expected [64, 448, 1, 1]" },
    { "no heads", "llama-F32", "llama.attention.head_count", 4, U32(0), 4, LLM_E_FORMAT,
      "head_count\" is 0, allowed" },
    { "heads and kv heads", "llama-F32", "llama.attention.head_count_kv", 4, U32(3), 4,
      LLM_E_FORMAT,
      "4 heads are not a multiple of 3" },
    { "no kv heads", "llama-F32", "llama.attention.head_count_kv", 4, U32(0), 4, LLM_E_FORMAT,
      "head_count_kv\" is 0" },
    { "other kv heads", "llama-F32", "llama.attention.head_count_kv", 4, U32(4), 4, LLM_E_FORMAT,
      "\"blk.0.attn_k.weight\" has shape [32, 16, 1, 1], expected [32, 32, 1, 1]" },
    { "d and heads", "mixtral-Q8_0", "llama.attention.head_count", 4, U32(6), 4, LLM_E_FORMAT,
      "32 is not a multiple of 6 heads" },
    { "odd head size", "llama-F32", "llama.attention.key_length", 4, U32(9), 4, LLM_E_UNSUPPORTED,
      "value heads of 8 and key heads of 9" },
    { "ff", "llama-F32", "llama.feed_forward_length", 4, U32(64), 4, LLM_E_FORMAT,
      "\"blk.0.ffn_gate.weight\" has shape [32, 96, 1, 1], expected [32, 64, 1, 1]" },
    { "no context", "llama-F32", "llama.context_length", 4, U32(0), 4, LLM_E_FORMAT,
      "context_length\" is 0" },
    { "huge context", "llama-F32", "llama.context_length", 4, U32(0xffffffffu), 4, LLM_E_FORMAT,
      "is 4294967295, allowed" },
    { "NaN eps", "llama-F32", "llama.attention.layer_norm_rms_epsilon", 4, U32(0x7fc00000u), 4,
      LLM_E_FORMAT, "epsilon\" is nan" },
    { "negative eps", "llama-F32", "llama.attention.layer_norm_rms_epsilon", 3 + 4, { 0xb7 }, 1,
      LLM_E_FORMAT, "epsilon\" is -" },
    { "odd rotation", "llama-F32", "llama.rope.dimension_count", 4, U32(7), 4, LLM_E_FORMAT,
      "7 rotated values" },
    { "wide rotation", "llama-F32", "llama.rope.dimension_count", 4, U32(10), 4, LLM_E_FORMAT,
      "dimension_count\" is 10, allowed" },
    { "theta", "llama-F32", "llama.rope.freq_base", 4, U32(0x7f800000u), 4, LLM_E_FORMAT,
      "freq_base\" is inf" },
    { "rotary scaling", "llama_rope_yarn-Q5_1", "llama.rope.scaling.type", 12, "x", 1,
      LLM_E_UNSUPPORTED, "scaling \"xarn\"" },
    { "yarn without length", "llama_rope_yarn-Q5_1", "llama.rope.scaling.original_context_length",
      -1, "X", 1, LLM_E_FORMAT,
      "original_context_length\" is missing" },
    { "unknown tensor", "llama3-Q8_0", "rope_freqs.weight", -17, "X", 1, LLM_OK, "" },
    { "known role elsewhere", "llama3-Q8_0", "rope_freqs.weight", -17, "blk.9.attn_q.bias", 17,
      LLM_E_UNSUPPORTED,
      "\"blk.9.attn_q.bias\" has no place in a model of 2 layers" },
    { "long factors alone", "phi3_longrope-Q8_0", "rope_factors_short.weight", -1, "X", 1,
      LLM_E_FORMAT,
      "need tensor \"rope_factors_short.weight\"" },
    { "experts used", "mixtral-Q8_0", "llama.expert_used_count", 4, U32(6), 4, LLM_E_FORMAT,
      "expert_used_count\" is 6" },
    { "experts", "mixtral-Q8_0", "llama.expert_count", 4, U32(4), 4, LLM_E_FORMAT,
      "\"blk.0.ffn_gate_inp.weight\" has shape" },
    { "no tensor", "llama-F32", "blk.0.attn_q.weight", -8, "X", 1, LLM_E_FORMAT,
      "\"blk.0.attn_q.weight\" is missing" },
    { "no norm", "llama-F32", "blk.1.ffn_norm.weight", -1, "X", 1, LLM_E_FORMAT,
      "\"blk.1.ffn_norm.weight\" is missing" },
    { "no embedding", "llama-F32", "token_embd.weight", -1, "X", 1, LLM_E_FORMAT,
      "\"token_embd.weight\" is missing" },
    { "no positions", "gpt2-Q8_0", "position_embd.weight", -1, "X", 1, LLM_E_FORMAT,
      "\"position_embd.weight\" is missing" },
    { "no query norm", "qwen3-Q4_0", "blk.0.attn_q_norm.weight", -1, "X", 1, LLM_E_FORMAT,
      "\"blk.0.attn_q_norm.weight\" is missing" },
    { "no embedding norm", "bloom-F16", "token_embd_norm.weight", -1, "X", 1, LLM_E_FORMAT,
      "\"token_embd_norm.weight\" is missing" },
    { "no fused tensor", "gpt2-Q8_0", "blk.0.attn_qkv.weight", -1, "X", 1, LLM_E_FORMAT,
      "\"blk.0.attn_qkv.weight\" is missing" },
    { "no expert", "mixtral-Q8_0", "blk.1.ffn_up_exps.weight", -1, "X", 1, LLM_E_FORMAT,
      "\"blk.1.ffn_up_exps.weight\" is missing" },
    { "transposed", "llama-F32", "blk.0.attn_k.weight", 4, U32(16), 4, LLM_E_FORMAT,
      "has shape [16, 16, 1, 1], expected [32, 16, 1, 1]" },
    { "fewer rows than words", "smollm2-Q4_1", "token_embd.weight", 4 + 8, U32(447), 4,
      LLM_E_FORMAT, "\"llama.vocab_size\" is 448, allowed are integers from 1 to 447" },
    { "fewer rows than tokens", "smollm2-Q4_1", "token_embd.weight", 4 + 8, U32(447), 4,
      LLM_E_FORMAT, "448 tokens, but the embedding has 447 rows", .hide = "llama.vocab_size" },
    { "more words than rows", "llama-F32", "llama.vocab_size", 4, U32(449), 4, LLM_E_FORMAT,
      "\"llama.vocab_size\" is 449, allowed are integers from 1 to 448" },
    { "family", "llama-F32", "general.architecture", 4 + 8, "x", 1, LLM_E_UNSUPPORTED,
      "architecture \"xlama\" is not supported" },
    { "no family", "llama-F32", "general.architecture", -1, "X", 1, LLM_E_FORMAT,
      "\"general.architecture\" is missing" },
    { "layer named otherwise", "llama-F32", "blk.1.attn_q.weight", -15, "7", 1, LLM_E_FORMAT,
      "\"blk.1.attn_q.weight\" is missing" },
};

/* Where a name ends, found with its length in front of it; NULL when it is not there. */
static uint8_t *
after_name(uint8_t *data, size_t len, const char *name)
{
    uint64_t want = strlen(name), stored;
    for (size_t i = 8; i + want + 16 < len; i++) {
        memcpy(&stored, data + i - 8, 8);
        if (stored == want && memcmp(data + i, name, want) == 0) {
            return data + i + want;
        }
    }
    return NULL;
}

/* The file with the edit applied is written to tmp_path; false when the name is not in it. */
static bool
write_edited(const edit_t *e)
{
    char path[256];
    snprintf(path, sizeof(path), GGUF "%s.gguf", e->file);
    FILE *f = fopen(path, "rb");
    if (f == NULL) {
        return false;
    }
    fseek(f, 0, SEEK_END);
    size_t len = (size_t) ftell(f);
    rewind(f);
    uint8_t *data = malloc(len + 1);
    bool good = data != NULL && fread(data, 1, len, f) == len;
    fclose(f);

    uint8_t *at = good ? after_name(data, len, e->find) : NULL;
    uint8_t *hidden = good && e->hide != NULL ? after_name(data, len, e->hide) : at;
    good = at != NULL && hidden != NULL;
    if (good) {
        memcpy(at + e->skip, e->with, e->n);
        if (e->hide != NULL) {
            hidden[-1] = 'X';
        }
        int fd = open(tmp_path, O_WRONLY | O_TRUNC);
        good = fd >= 0 && write(fd, data, len) == (ssize_t) len;
        close(fd);
    }
    free(data);
    return good;
}

static void
test_errors(void)
{
    llm_model_conf_t conf = { .weights = tmp_path, .check_only = true };
    for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++) {
        const edit_t *e = &edits[i];
        llm_err_t err = { 0 };
        llm_model_t *m = (llm_model_t *) &err;
        if (!write_edited(e)) {
            ok(false, "%s: \"%s\" is not in %s", e->name, e->find, e->file);
            continue;
        }
        llm_code_t rc = llm_model_open(&m, &conf, &err);
        if (!ok(rc == e->code && strstr(err.msg, e->word) != NULL, "%s: %s", e->name, e->word)) {
            diag("%s: %s", llm_code_name(rc), err.msg);
        }
        if (rc == LLM_OK) {
            ok(m->n_unused == 1, "reported as left over: %s", m->n_unused ? m->unused[0] : "none");
            llm_model_close(m);
        } else {
            ok(m == NULL, "no model");
        }
    }
    static const struct { const char *path; llm_code_t code; const char *word; } files[] = {
        { "t/fixtures/malformed/no_architecture.gguf", LLM_E_FORMAT,
          "\"general.architecture\" is missing" },
        { "t/fixtures/malformed/unsupported_architecture.gguf", LLM_E_UNSUPPORTED,
          "architecture \"no-such-model\"" },
        { "t/fixtures/malformed/missing_hyperparameters.gguf", LLM_E_FORMAT,
          "\"llama.block_count\" is missing" },
        { "t/fixtures/malformed/truncated_data.gguf", LLM_E_FORMAT, "exceed" },
        { "t/fixtures/gguf/nothing.gguf", LLM_E_IO, "No such file" },
    };
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        llm_model_t *m;
        llm_err_t err = { 0 };
        conf.weights = files[i].path;
        llm_code_t rc = llm_model_open(&m, &conf, &err);
        ok(rc == files[i].code && m == NULL && strstr(err.msg, files[i].word), "%s: %s",
           files[i].path, err.msg);
    }
    llm_model_close(NULL);
}

static size_t progress_calls, progress_done, progress_total;

static void
count_progress(void *ctx, size_t done, size_t total)
{
    progress_calls += ctx == &progress_calls && done >= progress_done && done <= total;
    progress_done = done;
    progress_total = total;
}

static void
test_progress(void)
{
    llm_model_t *m;
    llm_err_t err;
    llm_model_conf_t conf = {
        .weights = GGUF "llama-Q8_0.gguf", .progress = count_progress,
        .progress_ctx = &progress_calls,
    };
    ok(llm_model_open(&m, &conf, &err) == LLM_OK, "opens with progress");
    ok(progress_calls > 1 && progress_done == progress_total && progress_total > 0,
       "progress ends at the total");
    llm_model_close(m);
}

int
main(void)
{
    int fd = mkstemp(tmp_path);
    if (fd < 0) {
        perror(tmp_path);
        return 1;
    }
    close(fd);
    test_settings();
    test_llama_weights("llama-F32", false);
    test_llama_weights("llama-Q5_1", false);
    test_llama_weights("smollm2-Q4_1", true);
    test_llama_weights("llama_k-Q4_K_M", true);
    test_llama_weights("smollm3-Q5_0", true);
    test_other_weights();
    test_quirks();
    test_positions();
    test_errors();
    test_progress();
    unlink(tmp_path);
    return done_testing();
}
