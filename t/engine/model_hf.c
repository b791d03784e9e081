/*
 * model/source_hf.c and model/hfquant.c: settings by path, tensors of every type and orientation,
 * and 4-bit matrices against the formulas of the formats, packed here value by value.
 */
#include "model/hfquant.h"
#include "model/source_hf.h"
#include "tensor/format.h"

#include "tap.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64];

/* ----------------------------------------------------------- making checkpoints */

static char     header[1 << 14];
static uint8_t  data[1 << 16];
static size_t   header_len, data_len;

static void
begin(void)
{
    header_len = (size_t) sprintf(header, "{");
    data_len = 0;
}

/* shape as JSON: "[2,3]" */
static void
add(const char *name, const char *dtype, const char *shape, const void *bytes, size_t n)
{
    memcpy(data + data_len, bytes, n);
    header_len += (size_t) sprintf(header + header_len, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,"
                                   "\"data_offsets\":[%zu,%zu]}", header_len > 1 ? "," : "", name,
                                   dtype, shape, data_len, data_len + n);
    data_len += n;
}

static void
write_file(const char *name, const void *bytes, size_t n)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_TRUNC | O_CREAT, 0600);
    if (fd < 0 || write(fd, bytes, n) != (ssize_t) n) {
        perror(path);
        exit(1);
    }
    close(fd);
}

static void
remove_file(const char *name)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    unlink(path);
}

/* The checkpoint begun and filled above, with these settings. */
static llm_code_t
finish(llm_hf_t **h, const char *config, llm_err_t *err)
{
    static uint8_t file[sizeof(header) + sizeof(data) + 8];
    header[header_len++] = '}';
    uint64_t n = header_len;
    memcpy(file, &n, 8);
    memcpy(file + 8, header, header_len);
    memcpy(file + 8 + header_len, data, data_len);
    write_file("model.safetensors", file, 8 + header_len + data_len);
    write_file("config.json", config, strlen(config));
    *err = (llm_err_t) { 0 };
    return llm_hf_open(h, dir, err);
}

/* ------------------------------------------------------------------- settings */

static void
test_settings(void)
{
    static const struct {
        const char *key;
        llm_value_kind_t kind;
        double number;
        uint64_t n;
        bool uniform;
    } cases[] = {
        { "n", LLM_VALUE_NUMBER, 12, 1, true }, { "f", LLM_VALUE_NUMBER, 0.5, 1, true },
        { "yes", LLM_VALUE_NUMBER, 1, 1, true }, { "no", LLM_VALUE_NUMBER, 0, 1, true },
        { "null", LLM_VALUE_NULL, 0, 1, true }, { "absent", LLM_VALUE_NONE, 0, 1, true },
        { "s", LLM_VALUE_STRING, 0, 1, true }, { "o", LLM_VALUE_OTHER, 0, 0, true },
        { "o.deep.n", LLM_VALUE_NUMBER, 7, 1, true }, { "o.deep", LLM_VALUE_OTHER, 0, 0, true },
        { "o.deep.x", LLM_VALUE_NONE, 0, 1, true }, { "o.deep.n.x", LLM_VALUE_NONE, 0, 1, true },
        { "same", LLM_VALUE_NUMBER, 3, 3, true }, { "differ", LLM_VALUE_NUMBER, 1, 3, false },
        { "differ.2", LLM_VALUE_NUMBER, 4, 1, true }, { "differ.3", LLM_VALUE_NONE, 0, 1, true },
        { "differ.x", LLM_VALUE_NONE, 0, 1, true }, { "differ.-1", LLM_VALUE_NONE, 0, 1, true },
        { "words.1", LLM_VALUE_STRING, 0, 1, true }, { "words", LLM_VALUE_OTHER, 0, 2, true },
        { "mixed", LLM_VALUE_OTHER, 0, 2, true }, { "empty", LLM_VALUE_OTHER, 0, 0, true },
        { "flags", LLM_VALUE_NUMBER, 1, 2, false }, { "", LLM_VALUE_NONE, 0, 1, true },
        { ".", LLM_VALUE_NONE, 0, 1, true }, { "o.", LLM_VALUE_NONE, 0, 1, true },
        { "generation.n", LLM_VALUE_NUMBER, 99, 1, true },
        { "generation.none", LLM_VALUE_NONE, 0, 1, true },
    };
    llm_hf_t *h;
    llm_err_t err;
    write_file("generation_config.json", "{\"n\":99}", 8);
    begin();
    if (!ok(finish(&h, "{\"n\":12,\"f\":0.5,\"yes\":true,\"no\":false,\"null\":null,\"s\":\"text\","
                   "\"o\":{\"deep\":{\"n\":7}},\"same\":[3,3,3],\"differ\":[1,2,4],\"words\":[\"a\","
                   "\"bc\"],\"mixed\":[1,\"x\"],\"empty\":[],\"flags\":[true,false]}", &err)
            == LLM_OK, "opens: %s", err.msg))
    {
        return;
    }
    llm_src_t s = llm_src_hf(h);
    llm_value_t v;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        s.value(&s, cases[i].key, &v);
        ok(v.kind == cases[i].kind && v.n == cases[i].n && v.uniform == cases[i].uniform
           && (v.kind != LLM_VALUE_NUMBER || v.number == cases[i].number), "\"%s\"", cases[i].key);
    }
    s.value(&s, "words.1", &v);
    ok(v.string.len == 2 && memcmp(v.string.data, "bc", 2) == 0, "a text inside an array");
    llm_hf_close(h);
    llm_hf_close(NULL);

    write_file("generation_config.json", "[]", 2);
    begin();
    ok(finish(&h, "{}", &err) == LLM_E_FORMAT && h == NULL && strstr(err.msg, "is no JSON object"),
       "settings that are no object: %s", err.msg);
    remove_file("generation_config.json");
    begin();
    ok(finish(&h, "{\"a\":1,\"a\":2}", &err) == LLM_E_FORMAT && strstr(err.msg, "duplicate"),
       "a key twice: %s", err.msg);
    remove_file("config.json");
    ok(llm_hf_open(&h, dir, &err) == LLM_E_IO && strstr(err.msg, "config.json"),
       "no settings: %s", err.msg);
    ok(llm_hf_open(&h, "no/such/dir", &err) == LLM_E_IO && strstr(err.msg, "no/such/dir"),
       "no directory: %s", err.msg);
}

/* -------------------------------------------------------------------- tensors */

static void
test_tensors(void)
{
    static const float f[6] = { 1, 2, 3, 4, 5, 6 };
    static const uint16_t h2[2] = { 0x3c00, 0xc000 }, b2[2] = { 0x3f80, 0xc000 };
    llm_hf_t *h;
    llm_err_t err;
    begin();
    add("b", "U8", "[1]", "x", 1);      /* what follows is unaligned */
    add("m", "F32", "[2,3]", f, 24);
    add("half", "F16", "[1,2]", h2, 4);
    add("bf", "BF16", "[2]", b2, 4);
    add("scalar", "F32", "[]", f + 1, 4);
    add("five", "F32", "[1,2,1,3,1]", f, 24);
    add("long", "I64", "[1]", f, 8);
    if (!ok(finish(&h, "{}", &err) == LLM_OK, "opens: %s", err.msg)) {
        return;
    }
    llm_src_t s = llm_src_hf(h);
    llm_src_tensor_t t;
    float got[6], turned[6] = { 1, 4, 2, 5, 3, 6 };
    is_int((long long) s.n_tensors, 7, "so many tensors");
    ok(s.tensor(&s, "m", &t) && t.type == LLM_T_F32 && t.ne[0] == 3 && t.ne[1] == 2 && t.ne[2] == 1
       && t.size == 24, "a matrix, innermost dimension first");
    ok(s.read(&s, &t, 4, got, 16, &err) == LLM_OK && memcmp(got, f + 1, 16) == 0,
       "its bytes, unaligned");
    ok(s.read(&s, &t, 12, got, 16, &err) == LLM_E_FORMAT, "none beyond: %s", err.msg);
    t.ne[0] = 2;
    t.ne[1] = 3;
    t.transposed = true;
    ok(s.read(&s, &t, 0, got, 24, &err) == LLM_OK && memcmp(got, turned, 24) == 0, "transposed");
    ok(s.read(&s, &t, 8, got, 8, &err) == LLM_OK && memcmp(got, turned + 2, 8) == 0,
       "a row of the transpose");
    ok(s.read(&s, &t, 24, got, 1, &err) == LLM_E_FORMAT, "none beyond: %s", err.msg);
    ok(s.tensor(&s, "half", &t) && t.type == LLM_T_F16 && t.ne[0] == 2 && t.ne[1] == 1, "f16");
    ok(s.tensor(&s, "bf", &t) && t.type == LLM_T_BF16 && t.ne[0] == 2, "bf16");
    ok(s.tensor(&s, "scalar", &t) && t.ne[0] == 1 && t.ne[3] == 1 && t.size == 4, "a scalar");
    ok(s.tensor(&s, "five", &t) && t.ne[0] == 1 && t.ne[1] == 3 && t.ne[2] == 1 && t.ne[3] == 2,
       "five dimensions become four");
    ok(s.tensor(&s, "long", &t) && t.type == LLM_T_COUNT && strcmp(t.type_name, "I64") == 0,
       "integers are no weights");
    ok(!s.tensor(&s, "mm", &t) && !s.tensor(&s, "", &t), "names are compared whole");
    bool in_order = true;
    for (uint64_t i = 0; i < s.n_tensors; i++) {
        llm_src_tensor_t u;
        char name[32];
        s.tensor_at(&s, i, &t);
        snprintf(name, sizeof(name), "%.*s", (int) t.name.len, t.name.data);
        in_order = in_order && t.index == i && s.tensor(&s, name, &u) && u.index == i;
    }
    ok(in_order, "every tensor is found by its name");
    llm_hf_close(h);
}

/* ----------------------------------------------------------------- 4-bit matrices */

#define IN      16
#define OUT     8
#define GROUP   8
#define GROUPS  (IN / GROUP)

static int q_of(int i, int o) { return (i * 7 + o * 3 + i * o) & 15; }
static int z_of(int g, int o) { return (g * 5 + o * 11) & 15; }
static float s_of(int g, int o) { return 0.25f * (float) (1 + g) + 0.125f * (float) o; }

/* All of these are exact in f16. */
static uint16_t
half(float f)
{
    return llm_f32_to_f16(f);
}

static void
add_scales(const char *shape)
{
    uint16_t s[GROUPS][OUT];
    for (int g = 0; g < GROUPS; g++) {
        for (int o = 0; o < OUT; o++) {
            s[g][o] = half(s_of(g, o));
        }
    }
    add("l.scales", "F16", shape, s, sizeof(s));
}

static void
add_gptq(const int32_t *g_idx)
{
    uint32_t w[IN / 8][OUT] = { 0 }, z[GROUPS][OUT / 8] = { 0 };
    for (int o = 0; o < OUT; o++) {
        for (int i = 0; i < IN; i++) {
            w[i / 8][o] |= (uint32_t) q_of(i, o) << 4 * (i % 8);
        }
        for (int g = 0; g < GROUPS; g++) {
            z[g][o / 8] |= (uint32_t) z_of(g, o) << 4 * (o % 8);
        }
    }
    begin();
    add("l.qweight", "I32", "[2,8]", w, sizeof(w));
    add("l.qzeros", "I32", "[2,1]", z, sizeof(z));
    add_scales("[2,8]");
    if (g_idx != NULL) {
        add("l.g_idx", "I32", "[16]", g_idx, IN * 4);
    }
    add("l.bias", "F16", "[8]", w, 16);
}

static void
add_awq(void)
{
    static const int order[8] = { 0, 2, 4, 6, 1, 3, 5, 7 };
    uint32_t w[IN][OUT / 8] = { 0 }, z[GROUPS][OUT / 8] = { 0 };
    for (int n = 0; n < 8; n++) {
        for (int c = 0; c < OUT / 8; c++) {
            int o = 8 * c + order[n];
            for (int i = 0; i < IN; i++) {
                w[i][c] |= (uint32_t) q_of(i, o) << 4 * n;
            }
            for (int g = 0; g < GROUPS; g++) {
                z[g][c] |= (uint32_t) z_of(g, o) << 4 * n;
            }
        }
    }
    begin();
    add("l.qweight", "I32", "[16,1]", w, sizeof(w));
    add("l.qzeros", "I32", "[2,1]", z, sizeof(z));
    add_scales("[2,8]");
}

/* Values of "l.weight" that differ from the formula; -1: it does not open. */
static int
packed_errors(const char *config, const int32_t *g_idx, int zero_add)
{
    llm_hf_t *h;
    llm_err_t err;
    if (finish(&h, config, &err) != LLM_OK) {
        diag("%s", err.msg);
        return -1;
    }
    llm_src_t s = llm_src_hf(h);
    llm_src_tensor_t t, u;
    float w[OUT][IN];
    int bad = !s.tensor(&s, "l.weight", &t) || t.type != LLM_T_F32 || t.ne[0] != IN
              || t.ne[1] != OUT || t.size != sizeof(w) || s.tensor(&s, "l.qweight", &u)
              || s.tensor(&s, "l.scales", &u) || s.tensor(&s, "l.g_idx", &u);
    if (bad || s.read(&s, &t, 0, w, sizeof(w), &err) != LLM_OK) {
        diag("%s", err.msg);
        llm_hf_close(h);
        return -1;
    }
    for (int o = 0; o < OUT; o++) {
        for (int i = 0; i < IN; i++) {
            int g = g_idx != NULL ? g_idx[i] : i / GROUP;
            bad += w[o][i] != s_of(g, o) * (float) (q_of(i, o) - (z_of(g, o) + zero_add));
        }
    }
    llm_hf_close(h);
    return bad;
}

#define QUANT(fields) "{\"quantization_config\":{" fields "}}"
#define GPTQ "\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":8"

static void
test_packed(void)
{
    static const int32_t order[IN] = { 1, 0, 0, 1, 1, 0, 1, 0, 0, 0, 1, 1, 0, 1, 0, 1 };
    add_gptq(NULL);
    is_int(packed_errors(QUANT(GPTQ), NULL, 1), 0, "GPTQ: zero points are stored minus one");
    add_gptq(NULL);
    is_int(packed_errors(QUANT(GPTQ ",\"checkpoint_format\":\"gptq\""), NULL, 1), 0,
           "GPTQ: also when the format is named");
    add_gptq(NULL);
    is_int(packed_errors(QUANT(GPTQ ",\"checkpoint_format\":\"gptq_v2\""), NULL, 0), 0,
           "GPTQ v2: zero points as they are");
    add_gptq(order);
    is_int(packed_errors(QUANT(GPTQ ",\"desc_act\":true"), order, 1), 0,
           "GPTQ: the group of each input");
    add_awq();
    is_int(packed_errors(QUANT("\"quant_method\":\"awq\",\"bits\":4,\"group_size\":8,"
                               "\"version\":\"gemm\""), NULL, 0), 0, "AWQ: its own order of bits");

    static const char old_gptq[] = "{\"bits\":4,\"group_size\":8,\"desc_act\":false}";
    write_file("quantize_config.json", old_gptq, strlen(old_gptq));
    add_gptq(NULL);
    is_int(packed_errors("{}", NULL, 1), 0, "GPTQ: settings in a file of their own");
    remove_file("quantize_config.json");
    static const char old_awq[] = "{\"w_bit\":4,\"q_group_size\":8,\"version\":\"GEMM\"}";
    write_file("quant_config.json", old_awq, strlen(old_awq));
    add_awq();
    is_int(packed_errors("{}", NULL, 0), 0, "AWQ: settings in a file of their own");
    remove_file("quant_config.json");
}

#define NF4 "\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true,\"bnb_4bit_quant_type\":\"nf4\""
#define N_ROWS 3
#define N_COLS 21           /* 63 values: the last byte is half used */
#define BLOCK  16
#define BLOCKS 4

/* Adds the matrix; returns its values, row by row. */
static const float *
add_nf4(bool nested, const char *state)
{
    static float want[N_ROWS * N_COLS];
    float map[16], absmax[BLOCKS], nested_map[256], nested_absmax[2] = { 3.0f, 0.7f };
    uint8_t packed[(N_ROWS * N_COLS + 1) / 2] = { 0 }, codes[BLOCKS] = { 0, 255, 17, 100 };
    float offset = 0.3f;
    for (int i = 0; i < 16; i++) {
        map[i] = (float) (i - 7) / 9.0f;
    }
    for (int i = 0; i < 256; i++) {
        nested_map[i] = (float) (i - 100) / 77.0f;
    }
    for (int b = 0; b < BLOCKS; b++) {
        absmax[b] = 1.5f + (float) b;
    }
    for (int i = 0; i < N_ROWS * N_COLS; i++) {
        int q = (i * 11 + i / 5) & 15, b = i / BLOCK;
        float scale = absmax[b];
        packed[i / 2] |= (uint8_t) (i % 2 == 0 ? q << 4 : q);
        if (nested) {
            scale = nested_map[codes[b]] * nested_absmax[b / 2];
            scale += offset;
        }
        want[i] = map[q] * scale;
    }
    begin();
    add("l.weight", "U8", "[32,1]", packed, sizeof(packed));
    add("l.weight.quant_map", "F32", "[16]", map, sizeof(map));
    if (nested) {
        add("l.weight.absmax", "U8", "[4]", codes, sizeof(codes));
        add("l.weight.nested_absmax", "F32", "[2]", nested_absmax, sizeof(nested_absmax));
        add("l.weight.nested_quant_map", "F32", "[256]", nested_map, sizeof(nested_map));
    } else {
        add("l.weight.absmax", "F32", "[4]", absmax, sizeof(absmax));
    }
    char shape[32];
    snprintf(shape, sizeof(shape), "[%zu]", strlen(state));
    add("l.weight.quant_state.bitsandbytes__nf4", "U8", shape, state, strlen(state));
    add("x.weight", "F32", "[16]", map, sizeof(map));
    return want;
}

static const char plain_state[] = "{\"quant_type\":\"nf4\",\"blocksize\":16,\"shape\":[3,21]}";
static const char nested_state[] = "{\"quant_type\":\"nf4\",\"blocksize\":16,\"shape\":[3,21],"
    "\"nested_blocksize\":2,\"nested_dtype\":\"float32\",\"nested_offset\":0.30000001192092896}";

static void
test_nf4(void)
{
    for (int nested = 0; nested < 2; nested++) {
        llm_hf_t *h;
        llm_err_t err;
        const float *want = add_nf4(nested, nested ? nested_state : plain_state);
        if (!ok(finish(&h, QUANT(NF4), &err) == LLM_OK, "nf4 opens: %s", err.msg)) {
            continue;
        }
        llm_src_t s = llm_src_hf(h);
        llm_src_tensor_t t;
        float w[N_ROWS * N_COLS];
        ok(s.tensor(&s, "l.weight", &t) && t.type == LLM_T_F32 && t.ne[0] == N_COLS
           && t.ne[1] == N_ROWS && s.n_tensors == 2 && s.read(&s, &t, 0, w, sizeof(w), &err)
           == LLM_OK && memcmp(w, want, sizeof(w)) == 0, "nf4, %s: every value",
           nested ? "double quantization" : "plain");
        ok(s.tensor(&s, "x.weight", &t) && strcmp(t.type_name, "F32") == 0,
           "what is not quantized is left as it is");
        llm_hf_close(h);
    }
}

/* A fault and what is said about it. */
static void
refused(const char *config, const char *word)
{
    llm_hf_t *h;
    llm_err_t err;
    llm_code_t rc = finish(&h, config, &err);
    if (!ok(rc != LLM_OK && h == NULL && strstr(err.msg, word) != NULL, "%s", word)) {
        diag("%s: %s", llm_code_name(rc), rc != LLM_OK ? err.msg : "");
        llm_hf_close(rc == LLM_OK ? h : NULL);
    }
}

static void
test_refused(void)
{
    static const struct { const char *config, *word; } configs[] = {
        { QUANT("\"quant_method\":\"aqlm\""), "method \"aqlm\" is not supported" },
        { QUANT("\"bits\":4"), "method \"\" is not supported" },
        { QUANT("\"quant_method\":\"gptq\",\"bits\":3"), "GPTQ weights of 3 bits" },
        { QUANT("\"quant_method\":\"gptq\",\"bits\":\"4\""), "\"bits\" is not an integer" },
        { QUANT("\"quant_method\":\"gptq\",\"group_size\":0"), "\"group_size\" is 0" },
        { QUANT(GPTQ ",\"checkpoint_format\":\"marlin\""), "checkpoint_format \"marlin\"" },
        { QUANT("\"quant_method\":\"awq\",\"version\":\"gemv\""), "version \"gemv\" of AWQ" },
        { QUANT("\"quant_method\":\"bitsandbytes\",\"load_in_8bit\":true"), "are of 8 bits" },
        { QUANT("\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true,"
                "\"bnb_4bit_quant_type\":\"fp4\""), "are fp4, only nf4" },
        { QUANT("\"quant_method\":\"gptq\",\"group_size\":4"), "\"l.scales\" of F16 does not" },
    };
    for (size_t i = 0; i < sizeof(configs) / sizeof(configs[0]); i++) {
        add_gptq(NULL);
        refused(configs[i].config, configs[i].word);
    }
    uint32_t some[64] = { 0 };
    begin();
    add("l.qweight", "I32", "[2,8]", some, 64);
    refused(QUANT(GPTQ), "\"l.scales\" is missing");
    begin();
    add("l.qweight", "F32", "[2,8]", some, 64);
    refused(QUANT(GPTQ), "\"l.qweight\" of F32 does not have two dimensions of I32");
    begin();
    add("l.qweight", "I32", "[2,8]", some, 64);
    add_scales("[2,8]");
    add("l.qzeros", "I32", "[2,2]", some, 16);
    refused(QUANT(GPTQ), "\"l.qzeros\" of I32 does not have");
    add_gptq(NULL);
    add("l.weight", "F32", "[1]", some, 4);
    refused(QUANT(GPTQ), "\"l.weight\" is there quantized and as it is");

    int32_t order[IN] = { 0 };
    static const int32_t wrong[] = { GROUPS, -1, INT32_MIN };
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        llm_hf_t *h;
        llm_err_t err;
        llm_src_tensor_t t;
        float w;
        order[3] = wrong[i];
        add_gptq(order);
        if (ok(finish(&h, QUANT(GPTQ), &err) == LLM_OK, "opens: %s", err.msg)) {
            llm_src_t s = llm_src_hf(h);
            ok(s.tensor(&s, "l.weight", &t) && s.read(&s, &t, 0, &w, 4, &err) == LLM_E_FORMAT
               && strstr(err.msg, "\"l.g_idx\": value 3 is"), "a wrong group: %s", err.msg);
            llm_hf_close(h);
        }
    }

    static const struct { const char *state, *word; } states[] = {
        { "{}", "are no such numbers" },
        { "{\"blocksize\":0,\"shape\":[3,21]}", "are no such numbers" },
        { "{\"blocksize\":16,\"shape\":[3,-21]}", "are no such numbers" },
        { "{\"blocksize\":16,\"shape\":[3,21,1]}", "are no such numbers" },
        { "{\"blocksize\":16,\"shape\":[4611686018427387904,4]}", "are no such numbers" },
        { "{\"blocksize\":\"16\",\"shape\":[3,21]}", "\"blocksize\" is not an integer" },
        { "{\"blocksize\":16,\"shape\":[3,24]}", "\"l.weight\" of U8 does not have half a byte" },
        { "{\"blocksize\":8,\"shape\":[3,21]}", "\"l.weight.absmax\" of F32 does not have" },
        { "{\"blocksize\":16,\"shape\":[3,21],\"nested_blocksize\":2,\"nested_offset\":0}",
          "\"l.weight.nested_absmax\" is missing" },
        { "{\"blocksize\":16", "line 1" },
    };
    for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
        add_nf4(false, states[i].state);
        refused(QUANT(NF4), states[i].word);
    }
}

int
main(void)
{
    snprintf(dir, sizeof(dir), "/tmp/llm-hf-XXXXXX");
    if (mkdtemp(dir) == NULL) {
        perror(dir);
        return 1;
    }
    test_settings();
    test_tensors();
    test_packed();
    test_nf4();
    test_refused();
    remove_file("model.safetensors");
    remove_file("config.json");
    rmdir(dir);
    return done_testing();
}
