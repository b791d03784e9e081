/*
 * quantize.c - `llm quantize`: a GGUF file with its matrices in another number format.
 */
#define _GNU_SOURCE     /* memmem */

#include "model/gguf_write.h"
#include "tensor/quantize.h"
#include "tools/tools.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BATCH_VALUES ((uint64_t) 1 << 20)

static const char usage[] =
    "Usage: llm quantize FILE OUT TYPE [OPTION...]\n\n"
    "Reads a GGUF file (or the first part of a split one) and writes OUT, one GGUF v3 file with\n"
    "the same keys and tokenizer, whose matrices are in TYPE:\n\n"
    "  type   bits a weight   what it is for\n"
    "  f16    16              to halve an f32 checkpoint without visible loss; also f32, bf16\n"
    "  q8_0   8.5             as good as f16 to read; the safe choice when memory allows\n"
    "  q6_k   6.6             hardly worse than q8_0\n"
    "  q5_k   5.5             small loss; q5_0, q5_1 for widths that are no multiple of 256\n"
    "  q4_k   4.5             the usual choice for large models; q4_0, q4_1 likewise\n\n"
    "Generation reads all weights for each token, so half the bits are nearly twice the speed.\n"
    "Norms, biases and other vectors become f32; routers of experts, positions and relative\n"
    "biases stay as they are. Rows that do not fit the blocks of a K format (256 values) get the\n"
    "legacy format with the same bits (q4_1, q5_1, q8_0), rows that fit neither f16.\n"
    "From a file that is quantized already nothing is regained: start from f16, bf16 or f32.\n\n"
    "      --output-type T   type of the embedding and the output matrix, where errors show most\n"
    "                        (q8_0 below q8_0, else TYPE)\n"
    "  -f, --force           replace OUT if it is there\n\n"
    "OUT gets its name when it is complete; until then it is OUT.part-PID.\n\n"
    "Example: llm quantize model.gguf model-q4_k.gguf q4_k\n";

typedef struct {
    const char *in, *out;
    uint32_t    type, output_type;
    bool        force;
} quantize_conf_t;

static bool
parse_type(const char *me, const char *what, const char *text, uint32_t *out)
{
    *out = llm_quantize_type(text);
    if (*out == LLM_T_COUNT) {
        tool_usage(me, "%s must be f32, f16, bf16, q8_0, q6_k, q5_k, q5_0, q5_1, q4_k, q4_0 or "
                   "q4_1, not \"%s\"", what, text);
        return false;
    }
    return true;
}

static int
parse_options(int argc, char **argv, quantize_conf_t *c)
{
    static const struct option options[] = {
        { "help", no_argument, NULL, 'h' }, { "output-type", required_argument, NULL, 1 },
        { "force", no_argument, NULL, 'f' }, { NULL, 0, NULL, 0 },
    };
    const char *me = argv[0];
    *c = (quantize_conf_t) { .output_type = LLM_T_COUNT };
    for (int o; (o = getopt_long(argc, argv, "hf", options, NULL)) != -1;) {
        switch (o) {
        case 'h':
            fputs(usage, stdout);
            return -1;
        case 'f':
            c->force = true;
            break;
        case 1:
            if (!parse_type(me, "--output-type", optarg, &c->output_type)) {
                return TOOL_USAGE;
            }
            break;
        default:
            return tool_usage(me, "wrong option");
        }
    }
    if (argc - optind != 3) {
        return tool_usage(me, "wants a model file, the file to write and a type");
    }
    c->in = argv[optind];
    c->out = argv[optind + 1];
    if (!parse_type(me, "TYPE", argv[optind + 2], &c->type)) {
        return TOOL_USAGE;
    }
    if (c->output_type == LLM_T_COUNT) {
        bool low = c->type != LLM_T_F32 && c->type != LLM_T_F16 && c->type != LLM_T_BF16;
        c->output_type = low ? LLM_T_Q8_0 : c->type;
    }
    return TOOL_OK;
}

/* ----------------------------------------------------------------- choices */

static bool
has(llm_span_t name, const char *part)
{
    return memmem(name.data, name.len, part, strlen(part)) != NULL;
}

static bool
is_name(llm_span_t name, const char *want)
{
    return name.len == strlen(want) && memcmp(name.data, want, name.len) == 0;
}

/* The type in which a tensor is written. */
static uint32_t
type_for(const quantize_conf_t *c, const llm_gguf_tensor_t *t)
{
    static const char *const kept[] = {
        "norm", "ffn_gate_inp", "attn_rel_b", "position_embd", "rope_", "token_types",
    };
    bool vector = t->n_dims < 2 || t->ne[1] * t->ne[2] * t->ne[3] == 1;
    if (vector) {
        return LLM_T_F32;
    }
    for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++) {
        if (has(t->name, kept[i])) {
            return t->type;
        }
    }
    bool ends = is_name(t->name, "output.weight") || is_name(t->name, "token_embd.weight");
    return llm_quantize_fit(ends ? c->output_type : c->type, t->ne[0]);
}

/* ----------------------------------------------------------------- writing */

typedef struct {
    const quantize_conf_t *conf;
    const llm_gguf_t      *in;
    llm_gguf_out_t        *out;
    llm_err_t             *err;
    uint64_t               done, total;     /* bytes of the input */
    size_t                 out_bytes;
    int                    shown;           /* per cent */
} job_t;

static void
progress(job_t *j, uint64_t bytes)
{
    j->done += bytes;
    int percent = j->total > 0 ? (int) (100 * (double) j->done / (double) j->total) : 100;
    if (percent != j->shown) {
        j->shown = percent;
        tool_show("quantizing %3d %%", percent);
    }
}

/* Keys that the new file says otherwise, or not at all. */
static bool
is_replaced(llm_span_t key)
{
    static const char *const keys[] = {
        "general.alignment", "general.file_type", "general.quantization_version", "split.no",
        "split.count", "split.tensors.count",
    };
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        if (is_name(key, keys[i])) {
            return true;
        }
    }
    return false;
}

/* general.file_type as the format's documents number it: by the type of most tensors. */
static uint32_t
file_type(uint32_t type)
{
    switch (type) {
    case LLM_T_F32: return 0;
    case LLM_T_F16: return 1;
    case LLM_T_Q4_0: return 2;
    case LLM_T_Q4_1: return 3;
    case LLM_T_Q8_0: return 7;
    case LLM_T_Q5_0: return 8;
    case LLM_T_Q5_1: return 9;
    case LLM_T_Q4_K: return 14;
    case LLM_T_Q5_K: return 16;
    case LLM_T_Q6_K: return 18;
    case LLM_T_BF16: return 32;
    default: return 1024;       /* guessed */
    }
}

static llm_code_t
write_header(job_t *j)
{
    llm_code_t rc = LLM_OK;
    for (uint64_t i = 0; i < llm_gguf_n_kv(j->in) && rc == LLM_OK; i++) {
        const llm_gguf_kv_t *kv = llm_gguf_kv(j->in, i);
        rc = is_replaced(kv->key) ? LLM_OK : llm_gguf_out_kv(j->out, kv, j->err);
    }
    if (rc == LLM_OK) {
        rc = llm_gguf_out_u32(j->out, "general.quantization_version", 2, j->err);
    }
    if (rc == LLM_OK) {
        rc = llm_gguf_out_u32(j->out, "general.file_type", file_type(j->conf->type), j->err);
    }
    for (uint64_t i = 0; i < llm_gguf_n_tensors(j->in) && rc == LLM_OK; i++) {
        const llm_gguf_tensor_t *t = llm_gguf_tensor_at(j->in, i);
        size_t bytes = 0;
        rc = llm_gguf_out_tensor(j->out, t->name, t->n_dims, t->ne, type_for(j->conf, t), &bytes,
                                 j->err);
        j->total += t->size;
        j->out_bytes += bytes;
    }
    return rc == LLM_OK ? llm_gguf_out_begin(j->out, j->err) : rc;
}

/* A batch of n values of t that starts at value `from`, through the buffers. */
static llm_code_t
convert(job_t *j, const llm_gguf_tensor_t *t, uint64_t from, uint64_t n, uint8_t *raw,
        float *values)
{
    const llm_format_t *f = llm_format(t->type), *g = llm_format(type_for(j->conf, t));
    size_t bytes = (size_t) (n / f->block * f->bytes);
    llm_code_t rc = llm_gguf_read(j->in, t, (size_t) (from / f->block * f->bytes), raw, bytes,
                                  j->err);
    if (rc != LLM_OK) {
        return rc;
    }
    if (f != g) {
        f->dequant(values, raw, (size_t) n);
        if (!llm_quantize(type_for(j->conf, t), raw, values, (size_t) n)) {
            return llm_fail(j->err, LLM_E_FORMAT, "%s: tensor \"%.*s\": a value is not finite or "
                            "beyond the range of %s", j->conf->in, (int) t->name.len, t->name.data,
                            g->name);
        }
    }
    progress(j, bytes);
    return llm_gguf_out_data(j->out, raw, (size_t) (n / g->block * g->bytes), j->err);
}

static llm_code_t
write_tensors(job_t *j)
{
    uint8_t *raw = malloc(BATCH_VALUES * sizeof(float));     /* no format has more bytes a value */
    float *values = malloc(BATCH_VALUES * sizeof(float));
    llm_code_t rc = raw != NULL && values != NULL
                    ? LLM_OK : llm_fail(j->err, LLM_E_NOMEM, "no memory for %llu values",
                                        (unsigned long long) BATCH_VALUES);
    for (uint64_t i = 0; i < llm_gguf_n_tensors(j->in) && rc == LLM_OK; i++) {
        const llm_gguf_tensor_t *t = llm_gguf_tensor_at(j->in, i);
        uint64_t n = t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3], take;
        for (uint64_t from = 0; from < n && rc == LLM_OK; from += take) {
            /* rows are whole blocks and BATCH_VALUES is a multiple of each block */
            take = n - from < BATCH_VALUES ? n - from : BATCH_VALUES;
            rc = convert(j, t, from, take, raw, values);
        }
    }
    free(raw);
    free(values);
    return rc;
}

static llm_code_t
quantize(const quantize_conf_t *c, llm_err_t *err)
{
    llm_gguf_t *in = NULL;
    job_t j = { .conf = c, .err = err, .shown = -1 };
    struct stat st;
    if (stat(c->in, &st) == 0 && S_ISDIR(st.st_mode)) {
        return llm_fail(err, LLM_E_UNSUPPORTED, "%s: is a directory; only GGUF files can be "
                        "written anew (llm_model can quantize a directory while it loads)", c->in);
    }
    llm_code_t rc = llm_gguf_open(&in, c->in, err);
    if (rc == LLM_OK && !c->force && access(c->out, F_OK) == 0) {
        rc = llm_fail(err, LLM_E_ARG, "%s: is there already (--force replaces it)", c->out);
    }
    if (rc == LLM_OK) {
        j.in = in;
        rc = llm_gguf_out_new(&j.out, c->out, err);
    }
    if (rc == LLM_OK) {
        rc = write_header(&j);
    }
    if (rc == LLM_OK) {
        rc = write_tensors(&j);
        tool_show(NULL);
    }
    if (rc == LLM_OK) {
        rc = llm_gguf_out_finish(j.out, err);
    }
    if (rc == LLM_OK) {
        char a[32], b[32];
        printf("%s: %llu tensors, %s of weights (before: %s)\n", c->out,
               (unsigned long long) llm_gguf_n_tensors(in), tool_bytes(a, (double) j.out_bytes),
               tool_bytes(b, (double) j.total));
    }
    llm_gguf_out_free(j.out);
    llm_gguf_close(in);
    return rc;
}

int
tool_quantize(int argc, char **argv)
{
    quantize_conf_t c;
    int status = parse_options(argc, argv, &c);
    if (status == TOOL_OK) {
        llm_err_t err;
        status = quantize(&c, &err) == LLM_OK ? TOOL_OK : tool_failed(argv[0], &err);
    }
    return status > 0 ? status : TOOL_OK;
}
