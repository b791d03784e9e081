/*
 * inspect.c - `llm inspect`: what a file or directory holds, what it needs, and why it is not
 * supported if it is not.
 *
 * Reads the header only. What can be said is said even when the model as a whole is refused.
 */
#include "tools/tools.h"
#include "model/arch.h"
#include "model/source_hf.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static const char usage[] =
    "Usage: llm inspect FILE [OPTION...]\n\n"
    "Shows what a GGUF file or a Hugging Face directory holds, how much memory it needs, and\n"
    "whether this version can run it.\n"
    "Exit status: 0 when it can, 1 when it cannot.\n\n"
    "      --tensors         list every tensor: name, format, shape (innermost first), bytes\n"
    "      --keys            list every key with its value (of a GGUF file)\n"
    "  -c, --ctx N           context to compute memory for (the model's)\n"
    "      --kv TYPE         format of the KV cache to compute for: f32, f16 or q8_0 (f16)\n\n"
    "Example: llm inspect model.gguf --ctx 4096\n";

#define MAX_KINDS 64    /* formats of tensors */

typedef struct {
    bool          tensors, keys;
    uint32_t      n_ctx;
    llm_kv_type_t kv_type;
} inspect_conf_t;

/* Text from the file for a terminal: no control characters, cut at max bytes. */
static void
print_text(llm_span_t s, size_t max)
{
    for (size_t i = 0; i < s.len && i < max; i++) {
        unsigned char c = (unsigned char) s.data[i];
        if (c == '\n') {
            printf("\\n");
        } else {
            putchar(c < 0x20 || c == 0x7f ? '?' : c);
        }
    }
    printf("%s", s.len > max ? "..." : "");
}

static void
print_formats(const llm_src_t *src)
{
    struct { const char *name; uint64_t n; double bytes; } kinds[MAX_KINDS];
    size_t n_kinds = 0;
    uint64_t params = 0;
    char buf[32];
    for (uint64_t i = 0; i < src->n_tensors; i++) {
        llm_src_tensor_t t;
        size_t k = 0;
        src->tensor_at(src, i, &t);
        params += t.type < LLM_T_COUNT ? t.ne[0] * t.ne[1] * t.ne[2] * t.ne[3] : 0;
        while (k < n_kinds && strcmp(kinds[k].name, t.type_name) != 0) {
            k++;
        }
        if (k == n_kinds && n_kinds < MAX_KINDS) {
            kinds[n_kinds++].name = t.type_name;
            kinds[k].n = 0;
            kinds[k].bytes = 0;
        }
        if (k < n_kinds) {
            kinds[k].n++;
            kinds[k].bytes += (double) t.size;
        }
    }
    printf("parameters    %.4g million in %" PRIu64 " tensors\n", (double) params / 1e6,
           src->n_tensors);
    printf("formats       ");
    for (size_t k = 0; k < n_kinds; k++) {
        printf("%s%s %s in %" PRIu64, k > 0 ? ", " : "", kinds[k].name,
               tool_bytes(buf, kinds[k].bytes), kinds[k].n);
    }
    putchar('\n');
}

static void
print_string(const llm_src_t *src, const char *label, const char *key)
{
    llm_value_t v;
    src->value(src, key, &v);
    if (v.kind == LLM_VALUE_STRING) {
        printf("%-14s", label);
        print_text(v.string, 200);
        putchar('\n');
    }
}

static void
print_keys(const llm_gguf_t *g, const llm_src_t *src)
{
    printf("\nkeys\n");
    for (uint64_t i = 0; i < llm_gguf_n_kv(g); i++) {
        const llm_gguf_kv_t *kv = llm_gguf_kv(g, i);
        char key[256];
        snprintf(key, sizeof(key), "%.*s", (int) (kv->key.len < 255 ? kv->key.len : 255),
                 kv->key.data);
        llm_value_t v;
        src->value(src, key, &v);
        printf("  ");
        print_text(kv->key, 255);
        if (kv->type == LLM_GGUF_ARRAY) {
            printf("  [%" PRIu64 " values]", kv->n);
        } else if (v.kind == LLM_VALUE_STRING) {
            printf("  \"");
            print_text(v.string, 100);
            printf("\"");
        } else if (v.kind == LLM_VALUE_NUMBER) {
            printf("  %.10g", v.number);
        }
        putchar('\n');
    }
}

static void
print_tensors(const llm_src_t *src)
{
    printf("\ntensors\n");
    for (uint64_t i = 0; i < src->n_tensors; i++) {
        llm_src_tensor_t t;
        char shape[96];
        src->tensor_at(src, i, &t);
        int n = snprintf(shape, sizeof(shape), "%" PRIu64, t.ne[0]);
        for (int d = 1; d < 4 && (t.ne[1] > 1 || t.ne[2] > 1 || t.ne[3] > 1); d++) {
            if (d == 1 || t.ne[d] != 1 || (d == 2 && t.ne[3] != 1)) {
                n += snprintf(shape + n, sizeof(shape) - (size_t) n, " x %" PRIu64, t.ne[d]);
            }
        }
        printf("  %-6s %-22s %12zu  ", t.type_name, shape, t.size);
        print_text(t.name, 63);
        putchar('\n');
    }
}

/* What only a model that binds can tell. */
static void
print_model(const llm_model_t *m, const inspect_conf_t *c)
{
    const llm_model_info_t *info = llm_model_info(m);
    uint32_t n_ctx = c->n_ctx > 0 ? c->n_ctx : info->n_ctx_train;
    size_t kv = llm_model_kv_bytes(m, c->kv_type);
    char a[32], b[32], d[32], e[32];
    printf("layers        %u of width %u; %u heads of %u, %u key/value heads\n", info->n_layers,
           info->n_embd, info->n_heads, info->head_dim, info->n_kv_heads);
    printf("vocabulary    %u rows\n", info->n_vocab);
    printf("context       %u tokens\n", info->n_ctx_train);
    printf("BOS, EOS      %d \"%s\"%s, %d \"%s\"\n", info->bos_id, info->bos_token,
           info->add_bos ? " (added)" : "", info->eos_id, info->eos_token);
    printf("memory        %s weights + %s for a context of %u tokens (%s each in %s) = %s\n",
           tool_bytes(a, (double) info->weight_bytes), tool_bytes(b, (double) kv * n_ctx), n_ctx,
           tool_bytes(d, (double) kv), llm_kv_name(c->kv_type),
           tool_bytes(e, (double) info->weight_bytes + (double) kv * n_ctx));
    for (uint32_t i = 0; i < m->n_unused; i++) {
        printf("%-14s%s\n", i == 0 ? "not used" : "", m->unused[i]);
    }
}

/* Whether the model opens, and what can then be said. */
static llm_code_t
print_verdict(const char *path, const inspect_conf_t *c, bool is_dir)
{
    llm_err_t err;
    llm_model_t *m;
    llm_model_conf_t conf = { .weights = path, .check_only = true };
    llm_code_t rc = llm_model_open(&m, &conf, &err);
    if (rc == LLM_OK && is_dir) {
        const char *template = llm_model_info(m)->chat_template;
        const char *license = llm_model_info(m)->license;
        printf("licence       %s\n", license[0] != '\0' ? license : "not stated");
        printf(template != NULL ? "chat template yes, %zu bytes\n" : "chat template no\n",
               template != NULL ? strlen(template) : 0);
    }
    if (rc == LLM_OK) {
        print_model(m, c);
        llm_model_close(m);
    }
    printf("supported     %s%s\n", rc == LLM_OK ? "yes" : "no: ", rc == LLM_OK ? "" : err.msg);
    for (size_t i = 0; rc == LLM_E_UNSUPPORTED && llm_arch_at(i) != NULL; i++) {
        const llm_arch_t *a = llm_arch_at(i);
        bool here = (a->source == LLM_SOURCE_HF) == is_dir;
        printf("%s%s", i == 0 ? "families     " : "", here ? " " : "");
        printf("%s%s", here ? a->name : "", llm_arch_at(i + 1) == NULL ? "\n" : "");
    }
    return rc;
}

static int
inspect_dir(const char *me, const char *path, const inspect_conf_t *c)
{
    llm_err_t err;
    llm_hf_t *h;
    char buf[32];
    if (llm_hf_open(&h, path, &err) != LLM_OK) {
        return tool_failed(me, &err);
    }
    llm_src_t src = llm_src_hf(h);
    printf("directory     %s, %s\n", path, tool_bytes(buf, (double) llm_hf_file_bytes(h)));
    print_string(&src, "architecture", "model_type");
    print_formats(&src);
    print_string(&src, "quantization", "quantization_config.quant_method");
    llm_code_t rc = print_verdict(path, c, true);
    if (c->tensors) {
        print_tensors(&src);
    }
    llm_hf_close(h);
    return rc == LLM_OK ? TOOL_OK : TOOL_FAILED;
}

static int
inspect(const char *me, const char *path, const inspect_conf_t *c)
{
    llm_err_t err;
    llm_gguf_t *g;
    struct stat st;
    char buf[32];
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        return inspect_dir(me, path, c);
    }
    if (llm_gguf_open(&g, path, &err) != LLM_OK) {
        return tool_failed(me, &err);
    }
    llm_src_t src = llm_src_gguf(g);
    printf("file          %s, %s\n", path, tool_bytes(buf, (double) llm_gguf_file_bytes(g)));
    print_string(&src, "name", "general.name");
    print_string(&src, "architecture", "general.architecture");
    print_string(&src, "licence", "general.license");
    print_formats(&src);
    print_string(&src, "tokenizer", "tokenizer.ggml.model");
    print_string(&src, "pre-tokenizer", "tokenizer.ggml.pre");
    llm_value_t template;
    src.value(&src, "tokenizer.chat_template", &template);
    if (template.kind == LLM_VALUE_STRING) {
        printf("chat template yes, %zu bytes\n", template.string.len);
    } else {
        printf("chat template no\n");
    }

    llm_code_t rc = print_verdict(path, c, false);
    if (c->keys) {
        print_keys(g, &src);
    }
    if (c->tensors) {
        print_tensors(&src);
    }
    llm_gguf_close(g);
    return rc == LLM_OK ? TOOL_OK : TOOL_FAILED;
}

int
tool_inspect(int argc, char **argv)
{
    static const struct option options[] = {
        { "help", no_argument, NULL, 'h' }, { "tensors", no_argument, NULL, 1 },
        { "keys", no_argument, NULL, 2 },
        { "ctx", required_argument, NULL, 'c' }, { "kv", required_argument, NULL, 3 },
        { NULL, 0, NULL, 0 },
    };
    inspect_conf_t c = { .kv_type = LLM_KV_F16 };
    for (int o; (o = getopt_long(argc, argv, "hc:", options, NULL)) != -1;) {
        bool good = true;
        switch (o) {
        case 'h':
            fputs(usage, stdout);
            return TOOL_OK;
        case 1:
            c.tensors = true;
            break;
        case 2:
            c.keys = true;
            break;
        case 'c':
            good = tool_u32(argv[0], "--ctx", optarg, 1, UINT32_MAX, &c.n_ctx);
            break;
        case 3:
            good = tool_kv_type(argv[0], optarg, &c.kv_type);
            break;
        default:
            return tool_usage(argv[0], "wrong option");
        }
        if (!good) {
            return TOOL_USAGE;
        }
    }
    if (argc - optind != 1) {
        return tool_usage(argv[0], "wants one model file");
    }
    return inspect(argv[0], argv[optind], &c);
}
