/*
 * model/arch.c, bind.c, layer.c, part.c, hparam.c and rope.c for Hugging Face directories: what keys switch on and off, names with and without
 * their prefix, the rotary scalings, and what is refused by name. That the families compute the right thing is share_reference_hf.c's.
 *
 * Each case is a fixture with its config.json changed and some of its tensors renamed. Frequencies were computed by the reference implementation
 * of the fixtures (numpy), not by this code.
 */
#include "model/bind.h"

#include "tap.h"

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <sys/stat.h>
#include <unistd.h>

#define MODELS   "t/fixtures/models/"
#define FREQ_TOL 2e-6       /* relative; the reference computes powers in float32 */

static char dir[64];

/* -------------------------------------------------------------- changed copies */

static void
write_file(const char *name, const void *data, size_t n)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, data, n) != (ssize_t) n) {
        perror(path);
        exit(1);
    }
    close(fd);
}

static void
clear_dir(void)
{
    DIR *d = opendir(dir);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        char path[512];
        snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
        if (e->d_name[0] != '.') {
            unlink(path);
        }
    }
    if (d != NULL) {
        closedir(d);
    }
}

/* config.json of a fixture with the members of patch set (null members: removed when the text says "-"). */
static void
write_config(const char *model, const char *patch)
{
    char path[256];
    json_error_t je;
    snprintf(path, sizeof(path), MODELS "%s/config.json", model);
    json_t *config = json_load_file(path, 0, &je), *change = json_loads(patch, 0, &je), *v;
    if (config == NULL || change == NULL) {
        printf("Bail out! %s: %s in %s\n", model, je.text, patch);
        exit(1);
    }
    const char *key;
    json_object_foreach(change, key, v) {
        const char *text = json_string_value(v);
        if (text != NULL && strcmp(text, "-") == 0) {
            json_object_del(config, key);
        } else {
            json_object_set(config, key, v);
        }
    }
    char *text = json_dumps(config, 0);
    write_file("config.json", text, strlen(text));
    free(text);
    json_decref(config);
    json_decref(change);
}

/* The fixture's weights; in names of tensors the first `from` becomes `to`; its dtype too when `to` holds one behind a blank. */
static void
write_weights(const char *model, const char *from, const char *to)
{
    static uint8_t in[1 << 20], out[1 << 20];
    char path[256];
    snprintf(path, sizeof(path), MODELS "%s/model.safetensors", model);
    FILE *f = fopen(path, "rb");
    size_t len = f != NULL ? fread(in, 1, sizeof(in), f) : 0;
    uint64_t n;
    memcpy(&n, in, 8);
    json_error_t je;
    json_t *old = len > 8 ? json_loadb((char *) in + 8, n, 0, &je) : NULL, *header = json_object(), *v;
    if (old == NULL) {
        printf("Bail out! %s\n", path);
        exit(1);
    }
    fclose(f);
    const char *key, *blank = strchr(to, ' ');
    json_object_foreach(old, key, v) {
        const char *at = from[0] != '\0' ? strstr(key, from) : NULL;
        char name[256];
        if (at == NULL) {
            snprintf(name, sizeof(name), "%s", key);
        } else {
            snprintf(name, sizeof(name), "%.*s%.*s%s", (int) (at - key), key, (int) (blank ? blank - to : (long) strlen(to)), to,
                     at + strlen(from));
            if (blank != NULL) {
                json_object_set_new(v, "dtype", json_string(blank + 1));
            }
        }
        json_object_set(header, name, v);
    }
    char *text = json_dumps(header, JSON_COMPACT);
    uint64_t m = strlen(text);
    memcpy(out, &m, 8);
    memcpy(out + 8, text, m);
    memcpy(out + 8 + m, in + 8 + n, len - 8 - n);
    write_file("model.safetensors", out, 8 + m + len - 8 - n);
    free(text);
    json_decref(old);
    json_decref(header);
}

/* A fixture in the directory, changed. */
static void
copy(const char *model, const char *patch, const char *from, const char *to)
{
    static const char *const names[] = {
        "tokenizer.json", "tokenizer_config.json", "generation_config.json", "vocab.json", "merges.txt", "special_tokens_map.json",
    };
    clear_dir();
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char target[1200], cwd[512], path[256];
        snprintf(target, sizeof(target), "%s/" MODELS "%s/%s", getcwd(cwd, sizeof(cwd)), model, names[i]);
        snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        if (access(target, F_OK) == 0 && symlink(target, path) != 0) {
            perror(path);
            exit(1);
        }
    }
    write_config(model, patch);
    write_weights(model, from, to);
}

static llm_model_t *
open_copy(const char *model, const char *patch, const char *from, const char *to)
{
    llm_err_t err = { 0 };
    llm_model_t *m;
    llm_model_conf_t conf = { .weights = dir, .check_only = true };
    copy(model, patch, from, to);
    if (!ok(llm_model_open(&m, &conf, &err) == LLM_OK, "%s with %s %s", model, patch, to)) {
        diag("%s", err.msg);
    }
    return m;
}

/* --------------------------------------------------------------------- names */

static void
test_prefixes(void)
{
    static const struct { const char *model, *from, *to; } cases[] = {
        { "llama", "model.", "" }, { "gemma2", "model.", "" }, { "phi", "model.", "" }, { "mixtral", "model.", "" },
        { "starcoder2", "model.", "" }, { "bart", "model.", "" }, { "gpt_bigcode", "transformer.", "" }, { "mpt", "transformer.", "" },
        { "codegen", "transformer.", "" }, { "gptj", "transformer.", "" }, { "falcon_40b_style", "transformer.", "" },
        { "gpt_neox", "gpt_neox.", "" }, { "opt", "model.decoder.", "" }, { "opt_350m_style", "model.decoder.", "decoder." },
        { "gpt2", "h.", "transformer.h." }, { "bloom", "h.", "transformer.h." }, { "gpt2", "wte.", "transformer.wte." },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        llm_model_t *m = open_copy(cases[i].model, "{}", cases[i].from, cases[i].to);
        if (m != NULL) {
            bool quiet = true;
            for (uint32_t k = 0; k < m->n_unused; k++) {    /* mask buffers */
                const char *name = m->unused[k];
                quiet = quiet && (strstr(name, ".bias") || strstr(name, "masked_bias") || strstr(name, "inv_freq"));
            }
            ok(quiet, "every weight is used");
            llm_model_close(m);
        }
    }
    llm_model_t *m = open_copy("t5", "{}", "shared", "decoder.embed_tokens");
    ok(m != NULL && m->n_unused == 0, "T5: the embedding of the decoder serves");
    llm_model_close(m);
}

static void
test_unused(void)
{
    llm_model_t *m = open_copy("gpt2", "{}", "", "");
    bool buffers = m != NULL && m->n_unused > 0;
    for (uint32_t i = 0; buffers && i < m->n_unused; i++) {
        buffers = strstr(m->unused[i], ".attn.bias") || strstr(m->unused[i], ".attn.masked_bias");
    }
    ok(buffers, "GPT-2: mask buffers are left over");
    llm_model_close(m);
}

/* -------------------------------------------------------------------- switches */

static uint32_t
windows(const llm_model_t *m)
{
    uint32_t bits = 0;
    for (uint32_t i = 0; i < m->dec.n_layers; i++) {
        bits |= (uint32_t) (m->dec.layers[i].window > 0) << i;
    }
    return bits;
}

static uint32_t
rotated(const llm_model_t *m)
{
    uint32_t bits = 0;
    for (uint32_t i = 0; i < m->dec.n_layers; i++) {
        bits |= (uint32_t) m->dec.layers[i].rotate << i;
    }
    return bits;
}

static void
test_layers(void)
{
    static const struct { const char *model, *patch; uint32_t window, windows, rotated; } cases[] = {
        { "mistral", "{}", 16, 3, 3 },
        { "mistral", "{\"sliding_window\":null}", 0, 0, 3 },
        { "mistral", "{\"sliding_window\":\"-\"}", 0, 0, 3 },
        { "llama", "{\"sliding_window\":16}", 0, 0, 3 },
        { "qwen2_sliding", "{}", 12, 6, 7 },
        { "qwen2_sliding", "{\"layer_types\":\"-\"}", 12, 6, 7 },
        { "qwen2_sliding", "{\"layer_types\":\"-\",\"max_window_layers\":2}", 12, 4, 7 },
        { "qwen2_sliding", "{\"layer_types\":\"-\",\"max_window_layers\":\"-\"}", 0, 0, 7 },
        { "qwen2_sliding", "{\"layer_types\":[\"sliding_attention\",\"full_attention\",\"full_attention\"]}", 12, 1, 7 },
        { "qwen2_sliding", "{\"use_sliding_window\":false}", 0, 0, 7 },
        { "qwen2_sliding", "{\"use_sliding_window\":\"-\"}", 0, 0, 7 },
        { "gemma2", "{}", 14, 5, 7 },
        { "gemma2", "{\"layer_types\":\"-\"}", 14, 5, 7 },
        { "gemma2", "{\"layer_types\":\"-\",\"sliding_window\":\"-\"}", 4096, 5, 7 },
        { "gemma2", "{\"sliding_window\":null}", 0, 0, 7 },
        { "smollm3", "{}", 0, 0, 7 },
        { "smollm3", "{\"no_rope_layers\":\"-\"}", 0, 0, 7 },
        { "smollm3", "{\"no_rope_layers\":\"-\",\"no_rope_layer_interval\":2}", 0, 0, 5 },
        { "smollm3", "{\"no_rope_layers\":\"-\",\"no_rope_layer_interval\":\"-\"}", 0, 0, 7 },
        { "smollm3", "{\"no_rope_layers\":[0,1,1,1]}", 0, 0, 14 },
        { "smollm3", "{\"use_sliding_window\":true,\"sliding_window\":8,\"layer_types\":"
          "[\"full_attention\",\"sliding_attention\",\"full_attention\",\"full_attention\"]}", 8, 2, 7 },
        { "phi3", "{\"sliding_window\":33}", 33, 3, 3 },
        { "starcoder2", "{\"sliding_window\":5}", 5, 3, 3 },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        llm_model_t *m = open_copy(cases[i].model, cases[i].patch, "", "");
        if (m == NULL) {
            continue;
        }
        is_int(windows(m), cases[i].windows, "layers with a window");
        is_int(rotated(m), cases[i].rotated, "rotated layers");
        uint32_t w = 0;
        for (uint32_t l = 0; l < m->dec.n_layers; l++) {
            w = m->dec.layers[l].window > w ? m->dec.layers[l].window : w;
        }
        is_int(w, cases[i].window, "the window");
        llm_model_close(m);
    }
}

/* A number of the model after a change; the offset is into llm_model_t. */
#define DEC(field)   offsetof(llm_model_t, dec.field), false
#define FLOAT(field) offsetof(llm_model_t, field), true
#define INT(field)   offsetof(llm_model_t, field), false

static void
test_settings(void)
{
    static const struct { const char *model, *patch; size_t at; bool is_float; double want; } cases[] = {
        { "llama", "{}", FLOAT(dec.eps), 1e-5 },
        { "llama", "{\"rms_norm_eps\":\"-\"}", FLOAT(dec.eps), 1e-6 },
        { "llama", "{\"num_key_value_heads\":null}", DEC(n_kv_heads), -1 },     /* refused: the tensors have two */
        { "llama", "{\"hidden_act\":\"gelu\"}", DEC(act), LLM_ACT_GELU },
        { "llama", "{\"hidden_act\":\"gelu_pytorch_tanh\"}", DEC(act), LLM_ACT_GELU_TANH },
        { "llama", "{\"hidden_act\":\"swish\"}", DEC(act), LLM_ACT_SILU },
        { "llama", "{\"rope_theta\":\"-\"}", FLOAT(dec.rope_theta), 10000 },
        { "llama", "{\"rope_theta\":\"-\",\"rope_parameters\":{\"rope_theta\":5e5,\"rope_type\":\"default\"}}", FLOAT(dec.rope_theta), 5e5 },
        { "llama", "{\"max_position_embeddings\":99}", INT(info.n_ctx_train), 99 },
        { "llama", "{\"vocab_size\":400}", INT(info.n_vocab), 448 },
        { "gemma", "{\"hidden_act\":\"gelu\"}", DEC(act), LLM_ACT_GELU_TANH },
        { "gemma", "{\"hidden_activation\":\"gelu\"}", DEC(act), LLM_ACT_GELU },
        { "gemma", "{}", FLOAT(dec.emb_scale), 5.65685425 },                    /* sqrt(32) */
        { "gemma2", "{}", FLOAT(dec.score_cap), 4 },
        { "gemma2", "{\"attn_logit_softcapping\":\"-\"}", FLOAT(dec.score_cap), 50 },
        { "gemma2", "{\"attn_logit_softcapping\":null}", FLOAT(dec.score_cap), 0 },
        { "gemma2", "{\"final_logit_softcapping\":null}", FLOAT(logit_cap), 0 },
        { "gemma2", "{\"final_logit_softcapping\":7.5}", FLOAT(logit_cap), 7.5 },
        { "gemma2", "{\"query_pre_attn_scalar\":64}", FLOAT(dec.attn_scale), 0.125 },
        { "gemma2", "{\"query_pre_attn_scalar\":\"-\"}", FLOAT(dec.attn_scale), 0.0625 },
        { "gpt2", "{\"scale_attn_weights\":false}", FLOAT(dec.attn_scale), 1 },
        { "gpt2", "{\"n_inner\":\"-\"}", DEC(ff), 128 },
        { "gpt_bigcode", "{\"multi_query\":\"-\"}", DEC(n_kv_heads), 1 },
        { "gpt_bigcode_mha", "{}", DEC(n_kv_heads), 4 },
        { "falcon_7b_style", "{\"num_kv_heads\":71}", DEC(n_kv_heads), 1 },
        { "falcon_7b_style", "{\"model_type\":\"RefinedWebModel\"}", DEC(topology), LLM_TOPO_PARALLEL },
        { "falcon_rw_style", "{\"model_type\":\"RefinedWebModel\"}", DEC(topology), LLM_TOPO_PRE },
        { "falcon_rw_style", "{}", DEC(pos), LLM_POS_ALIBI },
        { "falcon_11b_style", "{}", DEC(topology), LLM_TOPO_PARALLEL },
        { "falcon_40b_style", "{}", DEC(topology), LLM_TOPO_PARALLEL2 },
        { "falcon_40b_style", "{\"model_type\":\"RefinedWeb\",\"new_decoder_architecture\":\"-\",\"num_kv_heads\":\"-\",\"n_head_kv\":2,"
          "\"n_head\":4,\"n_layer\":2}", DEC(n_kv_heads), 2 },
        { "gpt_neox", "{\"use_parallel_residual\":\"-\"}", DEC(topology), LLM_TOPO_PARALLEL2 },
        { "gpt_neox_sequential", "{}", DEC(topology), LLM_TOPO_PRE },
        { "gpt_neox", "{\"rotary_pct\":\"-\"}", DEC(n_rot), 4 },
        { "gpt_neox", "{\"rotary_pct\":0.7}", DEC(n_rot), -1 },                 /* int(11.2) is odd */
        { "gpt_neox", "{\"rotary_pct\":0.8}", DEC(n_rot), 12 },
        { "gpt_neox", "{\"rotary_emb_base\":777,\"rope_theta\":888}", FLOAT(dec.rope_theta), 777 },
        { "gptj", "{\"rotary_dim\":4}", DEC(n_rot), 4 },
        { "gptj", "{\"rotary_dim\":null}", DEC(n_rot), 16 },
        { "gptj", "{\"rotary_dim\":0}", DEC(n_rot), 16 },
        { "phi", "{\"partial_rotary_factor\":\"-\"}", DEC(n_rot), 8 },
        { "bloom", "{\"seq_length\":\"-\"}", INT(info.n_ctx_train), 2048 },
        { "mpt", "{\"expansion_ratio\":\"-\"}", DEC(ff), 128 },
        { "mpt", "{}", FLOAT(dec.clip_qkv), 1.25 },
        { "mpt", "{\"attn_config\":{\"clip_qkv\":null}}", FLOAT(dec.clip_qkv), 0 },
        { "opt_350m_style", "{}", DEC(topology), LLM_TOPO_POST },
        { "opt", "{}", DEC(pos_offset), 2 },
        { "qwen3", "{}", DEC(head_dim), 16 },
        { "mixtral", "{\"num_experts_per_tok\":1}", DEC(n_experts_used), 1 },
        { "t5", "{}", FLOAT(dec.attn_scale), 1 },
        { "t5", "{}", FLOAT(logit_scale), 0.1767766953 },                       /* 32^-1/2 */
        { "t5", "{\"relative_attention_max_distance\":\"-\"}", DEC(rel_max_distance), 128 },
        { "t5", "{\"feed_forward_proj\":\"gelu\"}", DEC(act), LLM_ACT_GELU },
        { "flan_t5", "{}", DEC(mlp), LLM_MLP_GATED },
        { "flan_t5", "{}", FLOAT(logit_scale), 1 },
        { "flan_t5", "{\"feed_forward_proj\":\"gated-silu\"}", DEC(act), LLM_ACT_SILU },
        { "flan_t5", "{}", INT(decoder_start_id), 0 },
        { "flan_t5", "{}", INT(forced_bos_id), -1 },
        { "bart", "{}", INT(decoder_start_id), 2 },
        { "bart", "{}", INT(forced_bos_id), 0 },
        { "bart", "{}", INT(forced_eos_id), 2 },
        { "bart", "{\"scale_embedding\":true}", FLOAT(dec.emb_scale), 6.32455532 },                /* sqrt(40) */
        { "bart", "{\"scale_embedding\":true}", FLOAT(enc.emb_scale), 6.32455532 },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        copy(cases[i].model, cases[i].patch, "", "");
        llm_err_t err = { 0 };
        llm_model_t *m;
        llm_model_conf_t conf = { .weights = dir, .check_only = true };
        llm_code_t rc = llm_model_open(&m, &conf, &err);
        double got = NAN;
        if (rc == LLM_OK) {
            const char *p = (const char *) m + cases[i].at;
            float f;
            int32_t n;
            memcpy(&f, p, 4);
            memcpy(&n, p, 4);
            got = cases[i].is_float ? (double) f : n;
        } else if (cases[i].want == -1) {
            got = -1;
        }
        char label[256];
        snprintf(label, sizeof(label), "%s with %s: %.7g", cases[i].model, cases[i].patch, cases[i].want);
        if (!near(got, cases[i].want, fabs(cases[i].want) * 1e-6, label)) {
            diag("%s", err.msg);
        }
        llm_model_close(rc == LLM_OK ? m : NULL);
    }
}

static void
test_heads(void)
{
    static const struct { const char *model, *patch, *from, *to; bool tied; } cases[] = {
        { "llama", "{}", "", "", false },
        { "llama", "{\"tie_word_embeddings\":\"-\"}", "", "", false },
        { "llama", "{\"tie_word_embeddings\":true}", "", "", true },
        { "llama", "{}", "lm_head", "leftover", true },
        { "gemma", "{\"tie_word_embeddings\":\"-\"}", "", "", true },
        { "qwen2", "{}", "", "", true },
        { "gpt2", "{\"tie_word_embeddings\":\"-\"}", "", "", true },
        { "gpt_neox", "{\"tie_word_embeddings\":\"-\"}", "", "", false },
        { "phi", "{\"tie_word_embeddings\":\"-\"}", "", "", false },
        { "t5", "{\"tie_word_embeddings\":\"-\"}", "", "", true },
        { "flan_t5", "{}", "", "", false },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        llm_err_t err = { 0 };
        llm_model_t *m;
        llm_model_conf_t conf = { .weights = dir };
        copy(cases[i].model, cases[i].patch, cases[i].from, cases[i].to);
        if (ok(llm_model_open(&m, &conf, &err) == LLM_OK, "%s with %s %s opens%s", cases[i].model, cases[i].patch, cases[i].to, err.msg)) {
            ok((m->head.part[0].data == m->embed.data) == cases[i].tied, "its head is %s", cases[i].tied ? "the embedding" : "its own");
            llm_model_close(m);
        }
    }
}

/* ---------------------------------------------------------------------- rotary */

#define YARN "\"rope_type\":\"yarn\",\"factor\":4.0,\"beta_fast\":32.0,\"beta_slow\":1.0"
#define ORIG ",\"original_max_position_embeddings\":64"

static void
test_rotary(void)
{
    static const struct { const char *scaling; double mscale, inv[8]; } cases[] = {
        { "{" YARN ORIG "}", 1.138629, { 1.0, 0.2371708, 0.05, 0.007905695, 0.0025, 0.0007905695, 0.00025, 7.905695e-05 } },
        { "{" YARN ORIG ",\"truncate\":false}", 1.138629,
          { 1.0, 0.1985835, 0.02559525, 0.007905695, 0.0025, 0.0007905695, 0.00025, 7.905695e-05 } },
        { "{" YARN ORIG ",\"attention_factor\":0.5}", 0.5,
          { 1.0, 0.2371708, 0.05, 0.007905695, 0.0025, 0.0007905695, 0.00025, 7.905695e-05 } },
        { "{" YARN ORIG ",\"mscale\":0.8,\"mscale_all_dim\":0.3}", 1.066547,
          { 1.0, 0.2371708, 0.05, 0.007905695, 0.0025, 0.0007905695, 0.00025, 7.905695e-05 } },
        { "{\"type\":\"yarn\",\"factor\":4.0,\"beta_fast\":8,\"beta_slow\":2" ORIG "}", 1.138629,
          { 1.0, 0.1976424, 0.025, 0.007905695, 0.0025, 0.0007905695, 0.00025, 7.905695e-05 } },
        { "{" YARN "}", 1.138629, { 1.0, 0.2569351, 0.0625, 0.01383497, 0.0025, 0.0007905695, 0.00025, 7.905695e-05 } },
        { "null", 1, { 1.0, 0.3162278, 0.1, 0.03162278, 0.01, 0.003162278, 0.001, 0.0003162278 } },
        { "{\"rope_type\":\"default\"}", 1, { 1.0, 0.3162278, 0.1, 0.03162278, 0.01, 0.003162278, 0.001, 0.0003162278 } },
        { "{\"rope_type\":\"linear\",\"factor\":4.0}", 1,
          { 0.25, 0.07905694, 0.025, 0.007905695, 0.0025, 0.0007905695, 0.00025, 7.905695e-05 } },
        { "{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0" ORIG "}", 1,
          { 1.0, 0.2443846, 0.01304226, 0.003952847, 0.00125, 0.0003952847, 0.000125, 3.952847e-05 } },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (int nested = 0; nested < 2; nested++) {
            char patch[512];
            if (nested && strcmp(cases[i].scaling, "null") == 0) {
                continue;
            }
            snprintf(patch, sizeof(patch), nested ? "{\"rope_scaling\":\"-\",\"rope_parameters\":%s}" : "{\"rope_scaling\":%s}",
                     cases[i].scaling);
            llm_model_t *m = open_copy("llama_rope_yarn", patch, "", "");
            if (m == NULL) {
                continue;
            }
            double worst = 0;
            for (int j = 0; j < 8; j++) {
                worst = fmax(worst, fabs(m->dec.rope_inv[j] / cases[i].inv[j] - 1));
            }
            near(worst, 0, FREQ_TOL, "frequencies");
            near(m->dec.rope_mscale, cases[i].mscale, 2e-6, "factor on cosines and sines");
            llm_model_close(m);
        }
    }
    llm_model_t *m = open_copy("llama_rope_dynamic", "{}", "", "");
    if (m != NULL) {
        ok(m->dec.rope_dynamic && m->dec.rope_factor == 2 && m->dec.rope_orig_ctx == 40, "dynamic: factor and original context");
        llm_model_close(m);
    }
    /* older names, and Phi-3's first one */
    static const char *const types[] = { "longrope", "su", "yarn" };
    for (size_t i = 0; i < 3; i++) {
        char patch[256];
        snprintf(patch, sizeof(patch), "{\"rope_scaling\":{\"type\":\"%s\",\"long_factor\":[1,2,4,8],\"short_factor\":[1,1,2,2]}}", types[i]);
        m = open_copy("phi3_longrope", patch, "", "");
        if (m != NULL) {
            const float *s = m->dec.rope_inv, *l = m->dec.rope_long;
            bool good = l != NULL && m->dec.rope_orig_ctx == 128;
            for (int j = 0; j < 4 && good; j++) {
                double plain = pow(10000, -2.0 * j / 8);
                static const double shorts[] = { 1, 1, 2, 2 }, longs[] = { 1, 2, 4, 8 };
                good = fabs(s[j] * shorts[j] / plain - 1) < FREQ_TOL && fabs(l[j] * longs[j] / plain - 1) < FREQ_TOL;
            }
            ok(good, "%s: short and long factors", types[i]);
            near(m->dec.rope_mscale, sqrt(1 + log(4) / log(128)), 1e-6, "factor on cosines and sines");
            llm_model_close(m);
        }
    }
}

/* --------------------------------------------------------------------- refused */

static const struct { const char *model, *patch, *from, *to; llm_code_t code; const char *word; } bad[] = {
    { "llama", "{\"model_type\":\"no-such\"}", "", "", LLM_E_UNSUPPORTED, "architecture \"no-such\" is not supported" },
    { "llama", "{\"model_type\":\"-\"}", "", "", LLM_E_FORMAT, "key \"model_type\" is missing" },
    { "llama", "{\"model_type\":7}", "", "", LLM_E_FORMAT, "key \"model_type\" is not a string" },
    { "llama", "{\"hidden_size\":\"-\"}", "", "", LLM_E_FORMAT, "key \"hidden_size\" is missing" },
    { "llama", "{\"num_hidden_layers\":0}", "", "", LLM_E_FORMAT, "\"num_hidden_layers\" is 0" },
    { "llama", "{\"num_hidden_layers\":1e9}", "", "", LLM_E_FORMAT, "\"num_hidden_layers\" is 1000000000" },
    { "llama", "{\"num_hidden_layers\":2.5}", "", "", LLM_E_FORMAT, "\"num_hidden_layers\" is 2.5" },
    { "llama", "{\"num_hidden_layers\":3}", "", "", LLM_E_FORMAT, "\"model.layers.2.input_layernorm.weight\" is missing" },
    { "llama", "{\"num_hidden_layers\":1}", "", "", LLM_E_UNSUPPORTED, "has no place in a model of 1 layers of the llama family" },
    { "llama", "{\"num_attention_heads\":\"4\"}", "", "", LLM_E_FORMAT, "\"num_attention_heads\" is not a number" },
    { "llama", "{\"num_attention_heads\":3}", "", "", LLM_E_FORMAT, "3 heads are not a multiple of 2 key/value heads" },
    { "llama", "{\"num_key_value_heads\":[2,1]}", "", "", LLM_E_UNSUPPORTED, "\"num_key_value_heads\" differs between layers" },
    { "llama", "{\"head_dim\":6}", "", "", LLM_E_FORMAT, "q_proj.weight\" has shape [32, 32" },
    { "llama", "{\"head_dim\":7}", "", "", LLM_E_UNSUPPORTED, "heads of 7 values" },
    { "llama", "{\"head_dim\":2}", "", "", LLM_E_UNSUPPORTED, "heads of 2 values" },
    { "llama", "{\"intermediate_size\":95}", "", "", LLM_E_FORMAT, "expected [32, 95, 1, 1]" },
    { "llama", "{\"vocab_size\":449}", "", "", LLM_E_FORMAT, "\"vocab_size\" is 449, allowed are integers from 1 to 448" },
    { "llama", "{\"hidden_act\":\"mish\"}", "", "", LLM_E_UNSUPPORTED, "activation \"mish\"" },
    { "llama", "{\"hidden_act\":3}", "", "", LLM_E_FORMAT, "\"hidden_act\" is not a string" },
    { "llama", "{\"tie_word_embeddings\":\"yes\"}", "", "", LLM_E_FORMAT, "\"tie_word_embeddings\" is not a number" },
    { "llama", "{}", "model.norm", "model.nurm", LLM_E_FORMAT, "tensor \"model.norm.weight\" is missing" },
    { "llama", "{}", "embed_tokens", "embedding", LLM_E_FORMAT, "tensor \"model.embed_tokens.weight\" is missing" },
    { "llama", "{}", "0.mlp.up_proj", "0.mlp.upp", LLM_E_FORMAT, "tensor \"model.layers.0.mlp.up_proj.weight\" is missing" },
    { "llama", "{}", "model.norm", "model.norm I32", LLM_E_UNSUPPORTED, "\"model.norm.weight\" has values of type I32" },
    { "llama", "{}", "0.mlp.up_proj", "0.mlp.up_proj U32", LLM_E_UNSUPPORTED, "up_proj.weight\" has values of type U32" },
    { "llama", "{\"num_hidden_layers\":1}", "layers.1.", "layers.01.", LLM_E_UNSUPPORTED, "has no place" },
    { "llama", "{\"rope_scaling\":{\"rope_type\":\"ntk\"}}", "", "", LLM_E_UNSUPPORTED, "rotary scaling \"ntk\"" },
    { "llama", "{\"rope_scaling\":{\"rope_type\":5}}", "", "", LLM_E_FORMAT, "\"rope_scaling.rope_type\" is not a string" },
    { "llama", "{\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":-1}}", "", "", LLM_E_FORMAT, "\"rope_scaling.factor\" is -1" },
    { "llama", "{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}}", "", "", LLM_E_FORMAT, "low_freq_factor\" is missing" },
    { "llama", "{\"rope_theta\":1}", "", "", LLM_E_FORMAT, "\"rope_theta\" is 1," },
    { "phi3_longrope", "{\"rope_scaling\":{\"type\":\"longrope\",\"long_factor\":[1,2,3],\"short_factor\":[1,1,1,1]}}", "", "",
      LLM_E_FORMAT, "\"rope_scaling.long_factor\" has 3 values, expected 4" },
    { "phi3_longrope", "{\"rope_scaling\":{\"type\":\"longrope\",\"long_factor\":[1,2,3,0],\"short_factor\":[1,1,1,1]}}", "", "",
      LLM_E_FORMAT, "\"rope_scaling.long_factor\": value 3 is 0" },
    { "phi3_longrope", "{\"rope_scaling\":{\"type\":\"longrope\",\"long_factor\":[1,2,3,\"x\"],\"short_factor\":[1,1,1,1]}}", "", "",
      LLM_E_FORMAT, "value 3 is 0" },
    { "phi3_longrope", "{\"rope_scaling\":{\"type\":\"longrope\",\"long_factor\":[1,2,3,4]}}", "", "", LLM_E_FORMAT, "long rotary factors need" },
    { "phi3_longrope", "{\"rope_scaling\":{\"type\":\"longrope\",\"long_factor\":7}}", "", "", LLM_E_FORMAT, "has 1 values, expected 4" },
    { "qwen2_sliding", "{\"layer_types\":[\"full_attention\",\"odd\",\"full_attention\"]}", "", "", LLM_E_UNSUPPORTED,
      "\"layer_types.1\" is \"odd\"" },
    { "gpt2", "{\"scale_attn_by_inverse_layer_idx\":true}", "", "", LLM_E_UNSUPPORTED, "\"scale_attn_by_inverse_layer_idx\"" },
    { "gpt2", "{}", "wpe", "wpee", LLM_E_FORMAT, "tensor \"transformer.wpe.weight\" is missing" },
    { "gpt2", "{\"n_head\":5}", "", "", LLM_E_FORMAT, "32 is not a multiple of 5 heads" },
    { "bloom", "{\"apply_residual_connection_post_layernorm\":true}", "", "", LLM_E_UNSUPPORTED, "\"apply_residual_connection_post_layernorm\"" },
    { "mpt", "{\"attn_config\":{\"prefix_lm\":true}}", "", "", LLM_E_UNSUPPORTED, "\"attn_config.prefix_lm\"" },
    { "mpt", "{\"attn_config\":{\"qk_ln\":true}}", "", "", LLM_E_UNSUPPORTED, "\"attn_config.qk_ln\"" },
    { "mpt", "{\"attn_config\":{\"softmax_scale\":0.1}}", "", "", LLM_E_UNSUPPORTED, "\"attn_config.softmax_scale\"" },
    { "mpt", "{\"attn_config\":{\"alibi\":false}}", "", "", LLM_E_FORMAT, "tensor \"transformer.wpe.weight\" is missing" },
    { "mpt", "{\"logit_scale\":\"inv_sqrt_d_model\"}", "", "", LLM_E_UNSUPPORTED, "\"logit_scale\"" },
    { "codegen", "{\"n_head\":2}", "", "", LLM_E_FORMAT, "2 heads are not a multiple of the 4 blocks" },
    { "gptj", "{\"rotary_dim\":5}", "", "", LLM_E_FORMAT, "5 rotated values" },
    { "gptj", "{\"rotary_dim\":64}", "", "", LLM_E_FORMAT, "\"rotary_dim\" is 64" },
    { "mixtral", "{\"num_local_experts\":0}", "", "", LLM_E_FORMAT, "\"num_local_experts\" is 0" },
    { "mixtral", "{\"num_experts_per_tok\":99}", "", "", LLM_E_FORMAT, "\"num_experts_per_tok\" is 99" },
    { "mixtral", "{}", "0.block_sparse_moe.experts.1.w2", "0.block_sparse_moe.experts.1.w9", LLM_E_FORMAT,
      "\"model.layers.0.block_sparse_moe.experts.1.w2.weight\" is missing" },
    { "qwen3", "{}", "0.self_attn.q_norm", "0.self_attn.q_nrm", LLM_E_FORMAT, "\"model.layers.0.self_attn.q_norm.weight\" is missing" },
    { "opt_350m_style", "{}", "project_out", "project_away", LLM_E_FORMAT, "\"model.decoder.project_out.weight\" is missing" },
    { "falcon_40b_style", "{\"num_kv_heads\":1}", "", "", LLM_E_FORMAT, "query_key_value.weight\" has shape [32, 64" },
    { "t5", "{\"relative_attention_num_buckets\":8}", "", "", LLM_E_FORMAT, "relative_attention_bias.weight\" has shape" },
    { "t5", "{\"relative_attention_num_buckets\":30}", "", "", LLM_E_FORMAT, "30 buckets of relative positions" },
    { "t5", "{\"relative_attention_max_distance\":4}", "", "", LLM_E_FORMAT, "buckets of relative positions up to 4" },
    { "t5", "{\"feed_forward_proj\":\"gated-mish\"}", "", "", LLM_E_UNSUPPORTED, "activation \"gated-mish\"" },
    { "t5", "{\"d_kv\":4}", "", "", LLM_E_FORMAT, "SelfAttention.q.weight\" has shape" },
    { "t5", "{}", "decoder.block.0.layer.1.EncDecAttention.k", "decoder.block.0.layer.1.EncDecAttention.kk", LLM_E_FORMAT,
      "\"decoder.block.0.layer.1.EncDecAttention.k.weight\" is missing" },
    { "t5", "{}", "encoder.final_layer_norm", "encoder.last_layer_norm", LLM_E_FORMAT, "\"encoder.final_layer_norm.weight\" is missing" },
    { "t5", "{\"num_decoder_layers\":1}", "", "", LLM_E_UNSUPPORTED, "has no place in a model of 1 layers of the t5 family" },
    { "t5", "{\"num_layers\":1,\"num_decoder_layers\":2}", "", "", LLM_E_UNSUPPORTED, "\"encoder.block.1" },
    { "bart", "{}", "final_logits_bias", "final_logits_bias I16", LLM_E_UNSUPPORTED, "\"final_logits_bias\" has values of type I16" },
    { "llama_gptq", "{}", "layers.0.self_attn.q_proj.qzeros", "layers.0.self_attn.q_proj.zeros", LLM_E_FORMAT,
      "\"model.layers.0.self_attn.q_proj.qzeros\" is missing" },
    { "llama_gptq", "{\"quantization_config\":\"-\"}", "", "", LLM_E_FORMAT, "q_proj.weight\" is missing" },
    { "llama_awq", "{\"quantization_config\":{\"quant_method\":\"exl2\"}}", "", "", LLM_E_UNSUPPORTED, "method \"exl2\"" },
};

static void
test_bad(void)
{
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        llm_err_t err = { 0 };
        llm_model_t *m;
        llm_model_conf_t conf = { .weights = dir, .check_only = true };
        copy(bad[i].model, bad[i].patch, bad[i].from, bad[i].to);
        llm_code_t rc = llm_model_open(&m, &conf, &err);
        if (!ok(rc == bad[i].code && m == NULL && strstr(err.msg, bad[i].word) != NULL && strstr(err.msg, dir) == err.msg, "%s: %s",
                bad[i].model, bad[i].word))
        {
            diag("%s: %s", llm_code_name(rc), err.msg);
            llm_model_close(rc == LLM_OK ? m : NULL);
        }
    }
    clear_dir();
    llm_err_t err;
    llm_model_t *m;
    llm_model_conf_t conf = { .weights = dir, .check_only = true };
    ok(llm_model_open(&m, &conf, &err) == LLM_E_IO && strstr(err.msg, "config.json"), "an empty directory: %s", err.msg);
    write_config("llama", "{}");
    ok(llm_model_open(&m, &conf, &err) == LLM_E_IO && strstr(err.msg, "neither model.safetensors nor pytorch_model.bin"),
       "no weights: %s", err.msg);
    write_weights("llama", "", "");
    ok(llm_model_open(&m, &conf, &err) != LLM_OK && strstr(err.msg, "tokenizer"), "no tokenizer: %s", err.msg);
}

int
main(void)
{
    snprintf(dir, sizeof(dir), "/tmp/llm-bind-hf-XXXXXX");
    if (mkdtemp(dir) == NULL) {
        perror(dir);
        return 1;
    }
    test_prefixes();
    test_unused();
    test_layers();
    test_settings();
    test_heads();
    test_rotary();
    test_bad();
    clear_dir();
    rmdir(dir);
    return done_testing();
}
