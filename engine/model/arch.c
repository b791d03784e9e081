/*
 * arch.c - ONE table of model families; nothing else in the engine asks for the name of an
 * architecture.
 *
 * docs/models.md has each row in words; how tensors and keys are called is in arch_names.h.
 */
#include "model/arch_names.h"

#include <string.h>

#define GGUF_NAMED(family, tensors) \
    .name = family, .source = LLM_SOURCE_GGUF, .roles = tensors, .keys = gguf_keys
#define GGUF(family) GGUF_NAMED(family, gguf_roles)
#define SET(f, v) .field = offsetof(llm_desc_t, f), .value = (v)

#define HF(family, before, tensors)                                                         \
    .name = family, .source = LLM_SOURCE_HF, .prefix = before, .roles = tensors, .keys = hf_keys

#define FALCON_DESC                                                                         \
    { .norm = LLM_NORM_LAYER, .topology = LLM_TOPO_PARALLEL, .pos = LLM_POS_ROPE,           \
      .rope_half = 1, .qkv = LLM_QKV_FUSED, .kv_heads = LLM_KV_HEADS_ONE,                   \
      .ff = LLM_FF_PLAIN, .act = LLM_ACT_GELU, .tied = 1, .ff_ratio = 4, .max_pos = 2048,   \
      .eps = 1e-5f, .theta = 10000, .alibi_max = 8 }
#define FALCON_NEW(cond, what)                                                              \
    { cond, what, 1, SET(qkv, LLM_QKV_GROUPED) },                                           \
    { cond, what, 1, SET(kv_heads, LLM_KV_HEADS_KEY) },                                     \
    { cond, what, 1, SET(topology, LLM_TOPO_PARALLEL) }
#define FALCON_OLD                                                                          \
    { LLM_IF_KEY_IS, "multi_query", 0, SET(qkv, LLM_QKV_PER_HEAD) },                        \
    { LLM_IF_KEY_IS, "multi_query", 0, SET(kv_heads, LLM_KV_HEADS_ALL) },                   \
    { LLM_IF_KEY_IS, "parallel_attn", 0, SET(topology, LLM_TOPO_PRE) },                     \
    { LLM_IF_KEY_IS, "alibi", 1, SET(pos, LLM_POS_ALIBI) },                                 \
    { LLM_IF_KEY_IS, "alibi", 1, SET(alibi_bf16, 1) }
/* in the 11B model of the new style both sub-layers share a norm */
#define FALCON_NORMS                                                                        \
    { LLM_IF_TENSOR, "h.0.ln_attn.weight", SET(topology, LLM_TOPO_PARALLEL2) },             \
    { LLM_IF_TENSOR, "h.0.ln_attn.weight", .role = LLM_ROLE_N1, .name = "h.{i}.ln_attn" },  \
    { LLM_IF_TENSOR, "h.0.ln_attn.weight", .role = LLM_ROLE_N2, .name = "h.{i}.ln_mlp" }
#define FALCON_RULES FALCON_OLD, FALCON_NEW(LLM_IF_KEY_IS, "new_decoder_architecture"), FALCON_NORMS

static const llm_arch_t table[] = {
    /* -------------------------------------------------------------------- GGUF */

    /* Llama, Mistral, XGen, SmolLM2; Mixtral when there are experts */
    { GGUF("llama"),
      .desc = { .norm = LLM_NORM_RMS, .topology = LLM_TOPO_PRE, .pos = LLM_POS_ROPE,
                .ff = LLM_FF_GATED, .act = LLM_ACT_SILU, .window = LLM_WINDOW_ALL,
                .theta = 10000 },
      .rules = { { LLM_IF_KEY_POSITIVE, "llama.expert_count", SET(ff, LLM_FF_MOE) } } },
    { GGUF("smollm3"),
      .desc = { .norm = LLM_NORM_RMS, .topology = LLM_TOPO_PRE, .pos = LLM_POS_ROPE,
                .ff = LLM_FF_GATED, .act = LLM_ACT_SILU, .nope_interval = 4, .theta = 10000 } },
    { GGUF("qwen2"),
      .desc = { .norm = LLM_NORM_RMS, .topology = LLM_TOPO_PRE, .pos = LLM_POS_ROPE, .rope_half = 1,
                .ff = LLM_FF_GATED, .act = LLM_ACT_SILU, .theta = 10000 } },
    { GGUF("qwen3"),
      .desc = { .norm = LLM_NORM_RMS, .topology = LLM_TOPO_PRE, .pos = LLM_POS_ROPE, .rope_half = 1,
                .ff = LLM_FF_GATED, .act = LLM_ACT_SILU, .qk_norm = LLM_REQUIRED,
                .theta = 10000 } },
    { GGUF("phi3"),
      .desc = { .norm = LLM_NORM_RMS, .topology = LLM_TOPO_PRE, .pos = LLM_POS_ROPE, .rope_half = 1,
                .qkv = LLM_QKV_FUSED, .ff = LLM_FF_GATED_FUSED, .act = LLM_ACT_SILU,
                .window = LLM_WINDOW_ALL, .theta = 10000 } },
    /* norm weights are stored as 1 + w */
    { GGUF("gemma"),
      .desc = { .norm = LLM_NORM_RMS, .topology = LLM_TOPO_PRE, .pos = LLM_POS_ROPE, .rope_half = 1,
                .ff = LLM_FF_GATED, .act = LLM_ACT_GELU_TANH, .emb_sqrt_d = 1, .theta = 10000 } },
    /* only the 27B model, which has 46 layers, scales by d/H instead of the head size */
    { GGUF("gemma2"),
      .desc = { .norm = LLM_NORM_RMS, .topology = LLM_TOPO_SANDWICH, .pos = LLM_POS_ROPE,
                .rope_half = 1, .ff = LLM_FF_GATED, .act = LLM_ACT_GELU_TANH, .emb_sqrt_d = 1,
                .window = LLM_WINDOW_EVEN, .window_size = 4096, .theta = 10000, .score_cap = 50,
                .logit_cap = 30 },
      .rules = { { LLM_IF_KEY_IS, "gemma2.block_count", 46,
                   SET(attn_scale, LLM_SCALE_D_PER_HEAD) } } },
    { GGUF("gpt2"),
      .desc = { .norm = LLM_NORM_LAYER, .topology = LLM_TOPO_PRE, .pos = LLM_POS_LEARNED,
                .qkv = LLM_QKV_FUSED, .ff = LLM_FF_PLAIN, .act = LLM_ACT_GELU_TANH } },
    /* GPTBigCode: SantaCoder, StarCoder, StarChat */
    { GGUF("starcoder"),
      .desc = { .norm = LLM_NORM_LAYER, .topology = LLM_TOPO_PRE, .pos = LLM_POS_LEARNED,
                .qkv = LLM_QKV_FUSED, .ff = LLM_FF_PLAIN, .act = LLM_ACT_GELU_TANH } },
    { GGUF("starcoder2"),
      .desc = { .norm = LLM_NORM_LAYER, .topology = LLM_TOPO_PRE, .pos = LLM_POS_ROPE,
                .rope_half = 1, .ff = LLM_FF_PLAIN, .act = LLM_ACT_GELU_TANH,
                .window = LLM_WINDOW_ALL, .theta = 10000 } },
    /* Pythia, Dolly v2, RedPajama-INCITE, StableLM-alpha */
    { GGUF("gptneox"),
      .desc = { .norm = LLM_NORM_LAYER, .topology = LLM_TOPO_PARALLEL2, .pos = LLM_POS_ROPE,
                .rope_half = 1, .qkv = LLM_QKV_FUSED, .ff = LLM_FF_PLAIN, .act = LLM_ACT_GELU,
                .theta = 10000 },
      .rules = { { LLM_IF_KEY_IS, "gptneox.use_parallel_residual", 0,
                   SET(topology, LLM_TOPO_PRE) } } },
    { GGUF("phi2"),
      .desc = { .norm = LLM_NORM_LAYER, .topology = LLM_TOPO_PARALLEL, .pos = LLM_POS_ROPE,
                .rope_half = 1, .qkv = LLM_QKV_FUSED, .ff = LLM_FF_PLAIN, .act = LLM_ACT_GELU_TANH,
                .theta = 10000 } },
    /* the 40B style has two norms, and attn_norm is the one of the MLP there */
    { GGUF("falcon"),
      .desc = { .norm = LLM_NORM_LAYER, .topology = LLM_TOPO_PARALLEL, .pos = LLM_POS_ROPE,
                .rope_half = 1, .qkv = LLM_QKV_FUSED, .ff = LLM_FF_PLAIN, .act = LLM_ACT_GELU,
                .theta = 10000 },
      .rules = { { LLM_IF_TENSOR, "blk.0.attn_norm_2.weight", 0,
                   SET(topology, LLM_TOPO_PARALLEL2) },
                 { LLM_IF_TENSOR, "blk.0.attn_norm_2.weight",
                   .role = LLM_ROLE_N1, .name = "blk.{i}.attn_norm_2" },
                 { LLM_IF_TENSOR, "blk.0.attn_norm_2.weight",
                   .role = LLM_ROLE_N2, .name = "blk.{i}.attn_norm" } } },
    { GGUF("bloom"),
      .desc = { .norm = LLM_NORM_LAYER, .topology = LLM_TOPO_PRE, .pos = LLM_POS_ALIBI,
                .qkv = LLM_QKV_FUSED, .ff = LLM_FF_PLAIN, .act = LLM_ACT_GELU_TANH,
                .emb_norm = LLM_REQUIRED, .alibi_max = 8 } },
    { GGUF("mpt"),
      .desc = { .norm = LLM_NORM_LAYER, .topology = LLM_TOPO_PRE, .pos = LLM_POS_ALIBI,
                .qkv = LLM_QKV_FUSED, .ff = LLM_FF_PLAIN, .act = LLM_ACT_GELU, .alibi_max = 8 },
      .rules = { { LLM_IF_TENSOR, "position_embd.weight", 0, SET(pos, LLM_POS_LEARNED) } } },
    /* FLAN-T5 and version 1.1 have a gated MLP */
    { GGUF_NAMED("t5", gguf_t5_dec),
      .own = { { LLM_KEY_LAYERS, "{a}.decoder_block_count|{a}.block_count" } },
      .enc_roles = gguf_t5_enc,
      .desc = { .norm = LLM_NORM_RMS, .topology = LLM_TOPO_PRE, .pos = LLM_POS_T5,
                .ff = LLM_FF_PLAIN, .act = LLM_ACT_RELU, .attn_scale = LLM_SCALE_ONE,
                .tied_scale = 1, .rel_buckets = 32, .rel_distance = 128 },
      .rules = { { LLM_IF_TENSOR, "dec.blk.0.ffn_gate.weight", 0, SET(ff, LLM_FF_GATED) },
                 { LLM_IF_TENSOR, "dec.blk.0.ffn_gate.weight", 0,
                   SET(act, LLM_ACT_GELU_TANH) } } },

    /* ------------------------------------------------------------ Hugging Face */

    { HF("gpt2", "transformer.", hf_gpt2),
      .desc = { .norm = LLM_NORM_LAYER, .topology = LLM_TOPO_PRE, .pos = LLM_POS_LEARNED,
                .qkv = LLM_QKV_FUSED, .kv_heads = LLM_KV_HEADS_ALL, .conv1d = 1,
                .ff = LLM_FF_PLAIN, .act = LLM_ACT_GELU_TANH, .tied = 1, .ff_ratio = 4,
                .eps = 1e-5f },
      .rules = { { LLM_IF_KEY_IS, "scale_attn_weights", 0, SET(attn_scale, LLM_SCALE_ONE) },
                 { LLM_IF_KEY_IS, "scale_attn_by_inverse_layer_idx", 1, .refuse = true } } },
    /* SantaCoder, StarCoder, StarChat */
    { HF("gpt_bigcode", "transformer.", hf_gpt2),
      .desc = { .norm = LLM_NORM_LAYER, .topology = LLM_TOPO_PRE, .pos = LLM_POS_LEARNED,
                .qkv = LLM_QKV_FUSED, .kv_heads = LLM_KV_HEADS_ONE, .ff = LLM_FF_PLAIN,
                .act = LLM_ACT_GELU_TANH, .tied = 1, .ff_ratio = 4, .eps = 1e-5f },
      .rules = { { LLM_IF_KEY_IS, "multi_query", 0, SET(qkv, LLM_QKV_PER_HEAD) },
                 { LLM_IF_KEY_IS, "multi_query", 0, SET(kv_heads, LLM_KV_HEADS_ALL) },
                 { LLM_IF_KEY_IS, "scale_attn_weights", 0, SET(attn_scale, LLM_SCALE_ONE) } } },
    /* the 350M model norms after its sub-layers, and its embeddings are narrower */
    { HF("opt", "model.decoder.", hf_opt),
      .desc = { .norm = LLM_NORM_LAYER, .topology = LLM_TOPO_PRE, .pos = LLM_POS_LEARNED,
                .pos_offset = 2, .kv_heads = LLM_KV_HEADS_ALL, .ff = LLM_FF_PLAIN,
                .act = LLM_ACT_RELU, .tied = 1, .eps = 1e-5f },
      .rules = { { LLM_IF_KEY_IS, "do_layer_norm_before", 0, SET(topology, LLM_TOPO_POST) },
                 { LLM_IF_KEY_IS, "do_layer_norm_before", 0, SET(no_final_norm, 1) },
                 { LLM_IF_KEY_IS, "_remove_final_layer_norm", 1, SET(no_final_norm, 1) } } },
    { HF("bloom", "transformer.", hf_bloom), .own = { { LLM_KEY_ACT, NULL } },
      .desc = { .norm = LLM_NORM_LAYER, .topology = LLM_TOPO_PRE, .pos = LLM_POS_ALIBI,
                .qkv = LLM_QKV_PER_HEAD, .kv_heads = LLM_KV_HEADS_ALL, .ff = LLM_FF_PLAIN,
                .act = LLM_ACT_GELU_TANH, .emb_norm = LLM_REQUIRED, .tied = 1, .ff_ratio = 4,
                .max_pos = 2048, .eps = 1e-5f, .alibi_max = 8 },
      .rules = { { LLM_IF_KEY_IS, "apply_residual_connection_post_layernorm", 1,
                   .refuse = true } } },
    { HF("mpt", "transformer.", hf_mpt), .own = { { LLM_KEY_ACT, NULL } },
      .desc = { .norm = LLM_NORM_LAYER, .topology = LLM_TOPO_PRE, .pos = LLM_POS_ALIBI,
                .qkv = LLM_QKV_FUSED, .kv_heads = LLM_KV_HEADS_ALL, .ff = LLM_FF_PLAIN,
                .act = LLM_ACT_GELU, .tied = 1, .ff_ratio = 4, .eps = 1e-5f, .alibi_max = 8 },
      .rules = { { LLM_IF_KEY_IS, "attn_config.alibi", 0, SET(pos, LLM_POS_LEARNED) },
                 { LLM_IF_KEY_TEXT, "attn_config.attn_type", .text = "multiquery_attention",
                   SET(kv_heads, LLM_KV_HEADS_ONE) },
                 { LLM_IF_KEY_TEXT, "attn_config.attn_type", .text = "grouped_query_attention",
                   SET(kv_heads, LLM_KV_HEADS_KEY) },
                 { LLM_IF_KEY_IS, "attn_config.prefix_lm", 1, .refuse = true },
                 { LLM_IF_KEY_IS, "attn_config.qk_ln", 1, .refuse = true },
                 { LLM_IF_KEY_SET, "attn_config.softmax_scale", .refuse = true },
                 { LLM_IF_KEY_SET, "logit_scale", .refuse = true } } },
    /* Falcon 7B; with rules: 40B, 180B, 11B, RW. num_kv_heads means nothing in the old ones. */
    { HF("falcon", "transformer.", hf_bloom), .desc = FALCON_DESC, .rules = { FALCON_RULES } },
    { HF("RefinedWebModel", "transformer.", hf_bloom), .desc = FALCON_DESC,
      .rules = { FALCON_RULES } },
    { HF("RefinedWeb", "transformer.", hf_bloom), .desc = FALCON_DESC,
      .rules = { FALCON_OLD, FALCON_NEW(LLM_IF_KEY_POSITIVE, "n_head"), FALCON_NORMS } },
    /* Pythia, Dolly v2, OpenAssistant, RedPajama-INCITE, StableLM-alpha */
    { HF("gpt_neox", "gpt_neox.", hf_neox),
      .own = { { LLM_KEY_THETA, "rotary_emb_base|rope_theta|rope_parameters.rope_theta" },
               { LLM_KEY_ROT_PART, "rotary_pct|rope_parameters.partial_rotary_factor" } },
      .desc = { .norm = LLM_NORM_LAYER, .topology = LLM_TOPO_PARALLEL2, .pos = LLM_POS_ROPE,
                .rope_half = 1, .qkv = LLM_QKV_PER_HEAD, .kv_heads = LLM_KV_HEADS_ALL,
                .ff = LLM_FF_PLAIN, .act = LLM_ACT_GELU, .eps = 1e-5f, .rot_part = 0.25f,
                .theta = 10000 },
      .rules = { { LLM_IF_KEY_IS, "use_parallel_residual", 0, SET(topology, LLM_TOPO_PRE) } } },
    { HF("gptj", "transformer.", hf_gptj),
      .desc = { .norm = LLM_NORM_LAYER, .topology = LLM_TOPO_PARALLEL, .pos = LLM_POS_ROPE,
                .kv_heads = LLM_KV_HEADS_ALL, .ff = LLM_FF_PLAIN, .act = LLM_ACT_GELU_TANH,
                .ff_ratio = 4, .eps = 1e-5f, .theta = 10000 } },
    { HF("codegen", "transformer.", hf_gptj),
      .desc = { .norm = LLM_NORM_LAYER, .topology = LLM_TOPO_PARALLEL, .pos = LLM_POS_ROPE,
                .qkv = LLM_QKV_CODEGEN, .kv_heads = LLM_KV_HEADS_ALL, .ff = LLM_FF_PLAIN,
                .act = LLM_ACT_GELU_TANH, .ff_ratio = 4, .eps = 1e-5f, .theta = 10000 } },
    /* 1, 1.5, 2 */
    { HF("phi", "model.", hf_phi),
      .desc = { .norm = LLM_NORM_LAYER, .topology = LLM_TOPO_PARALLEL, .pos = LLM_POS_ROPE,
                .rope_half = 1, .ff = LLM_FF_PLAIN, .act = LLM_ACT_GELU_TANH, .eps = 1e-5f,
                .rot_part = 0.5f, .theta = 10000 },
      .rules = { { LLM_IF_KEY_IS, "qk_layernorm", 1, SET(qk_norm, LLM_REQUIRED) } } },
    /* 1, 2, 3, XGen, SmolLM2 */
    { HF("llama", "model.", hf_llama),
      .desc = { .norm = LLM_NORM_RMS, .topology = LLM_TOPO_PRE, .pos = LLM_POS_ROPE, .rope_half = 1,
                .ff = LLM_FF_GATED, .act = LLM_ACT_SILU, .eps = 1e-6f, .theta = 10000 } },
    { HF("mistral", "model.", hf_llama),
      .desc = { .norm = LLM_NORM_RMS, .topology = LLM_TOPO_PRE, .pos = LLM_POS_ROPE, .rope_half = 1,
                .ff = LLM_FF_GATED, .act = LLM_ACT_SILU, .window = LLM_WINDOW_ALL, .eps = 1e-6f,
                .theta = 10000 } },
    { HF("mixtral", "model.", hf_mixtral),
      .desc = { .norm = LLM_NORM_RMS, .topology = LLM_TOPO_PRE, .pos = LLM_POS_ROPE, .rope_half = 1,
                .ff = LLM_FF_MOE, .act = LLM_ACT_SILU, .window = LLM_WINDOW_ALL, .experts = 8,
                .experts_used = 2, .eps = 1e-5f, .theta = 1e6f } },
    { HF("qwen2", "model.", hf_llama),
      .desc = { .norm = LLM_NORM_RMS, .topology = LLM_TOPO_PRE, .pos = LLM_POS_ROPE, .rope_half = 1,
                .ff = LLM_FF_GATED, .act = LLM_ACT_SILU, .window_from = 28, .eps = 1e-6f,
                .theta = 10000 },
      .rules = { { LLM_IF_KEY_IS, "use_sliding_window", 1, SET(window, LLM_WINDOW_FROM) } } },
    { HF("qwen3", "model.", hf_qwen3),
      .desc = { .norm = LLM_NORM_RMS, .topology = LLM_TOPO_PRE, .pos = LLM_POS_ROPE, .rope_half = 1,
                .ff = LLM_FF_GATED, .act = LLM_ACT_SILU, .qk_norm = LLM_REQUIRED, .head_dim = 128,
                .window_from = 28, .eps = 1e-6f, .theta = 10000 },
      .rules = { { LLM_IF_KEY_IS, "use_sliding_window", 1, SET(window, LLM_WINDOW_FROM) } } },
    { HF("smollm3", "model.", hf_llama),
      .desc = { .norm = LLM_NORM_RMS, .topology = LLM_TOPO_PRE, .pos = LLM_POS_ROPE, .rope_half = 1,
                .ff = LLM_FF_GATED, .act = LLM_ACT_SILU, .nope_interval = 4, .tied = 1,
                .eps = 1e-6f, .theta = 2e6f },
      .rules = { { LLM_IF_KEY_IS, "use_sliding_window", 1, SET(window, LLM_WINDOW_TYPES) } } },
    /* 3, 3.5, 4 */
    { HF("phi3", "model.", hf_phi3),
      .desc = { .norm = LLM_NORM_RMS, .topology = LLM_TOPO_PRE, .pos = LLM_POS_ROPE, .rope_half = 1,
                .qkv = LLM_QKV_FUSED, .ff = LLM_FF_GATED_FUSED, .act = LLM_ACT_SILU,
                .window = LLM_WINDOW_ALL, .eps = 1e-5f, .theta = 10000 } },
    /* the key "hidden_act" of old files is wrong */
    { HF("gemma", "model.", hf_llama), .own = { { LLM_KEY_ACT, "hidden_activation" } },
      .desc = { .norm = LLM_NORM_RMS, .norm_plus_one = 1, .topology = LLM_TOPO_PRE,
                .pos = LLM_POS_ROPE, .rope_half = 1, .ff = LLM_FF_GATED, .act = LLM_ACT_GELU_TANH,
                .emb_sqrt_d = 1, .tied = 1, .head_dim = 256, .eps = 1e-6f, .theta = 10000 } },
    { HF("gemma2", "model.", hf_gemma2), .own = { { LLM_KEY_ACT, "hidden_activation" } },
      .desc = { .norm = LLM_NORM_RMS, .norm_plus_one = 1, .topology = LLM_TOPO_SANDWICH,
                .pos = LLM_POS_ROPE, .rope_half = 1, .ff = LLM_FF_GATED, .act = LLM_ACT_GELU_TANH,
                .attn_scale = LLM_SCALE_KEY, .emb_sqrt_d = 1, .window = LLM_WINDOW_EVEN, .tied = 1,
                .head_dim = 256, .window_size = 4096, .query_scale = 256, .eps = 1e-6f,
                .theta = 10000, .score_cap = 50, .logit_cap = 30 } },
    { HF("starcoder2", "model.", hf_starcoder2),
      .desc = { .norm = LLM_NORM_LAYER, .topology = LLM_TOPO_PRE, .pos = LLM_POS_ROPE,
                .rope_half = 1, .ff = LLM_FF_PLAIN, .act = LLM_ACT_GELU_TANH,
                .window = LLM_WINDOW_ALL, .tied = 1, .eps = 1e-5f, .theta = 10000 } },

    /* T5, FLAN-T5; version 1.1 has a gated MLP, which its activation says, and a head */
    { HF("t5", NULL, hf_t5_dec),
      .own = { { LLM_KEY_LAYERS, "num_decoder_layers|num_layers" },
               { LLM_KEY_ACT, "feed_forward_proj" } },
      .enc_roles = hf_t5_enc,
      .enc_own = { { LLM_KEY_LAYERS, "num_layers" }, { LLM_KEY_ACT, "feed_forward_proj" } },
      .desc = { .norm = LLM_NORM_RMS, .topology = LLM_TOPO_PRE, .pos = LLM_POS_T5,
                .kv_heads = LLM_KV_HEADS_ALL, .ff = LLM_FF_PLAIN, .act = LLM_ACT_RELU,
                .attn_scale = LLM_SCALE_ONE, .tied = 1, .tied_scale = 1, .max_pos = 512,
                .rel_buckets = 32, .rel_distance = 128, .eps = 1e-6f } },
    { HF("bart", "model.", hf_bart_dec),
      .own = { { LLM_KEY_LAYERS, "decoder_layers" }, { LLM_KEY_HEADS, "decoder_attention_heads" },
               { LLM_KEY_FF, "decoder_ffn_dim" } },
      .enc_roles = hf_bart_enc,
      .enc_own = { { LLM_KEY_LAYERS, "encoder_layers" },
                   { LLM_KEY_HEADS, "encoder_attention_heads" },
                   { LLM_KEY_FF, "encoder_ffn_dim" } },
      .desc = { .norm = LLM_NORM_LAYER, .topology = LLM_TOPO_POST, .pos = LLM_POS_LEARNED,
                .pos_offset = 2, .kv_heads = LLM_KV_HEADS_ALL, .ff = LLM_FF_PLAIN,
                .act = LLM_ACT_GELU, .emb_norm = LLM_REQUIRED, .no_final_norm = 1, .tied = 1,
                .decoder_start = 2, .eps = 1e-5f },
      .rules = { { LLM_IF_KEY_IS, "scale_embedding", 1, SET(emb_sqrt_d, 1) } } },
};

const llm_arch_t *
llm_arch_find(llm_source_kind_t source, llm_span_t name)
{
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        const llm_arch_t *a = &table[i];
        if (a->source == source && strlen(a->name) == name.len
            && memcmp(a->name, name.data, name.len) == 0)
        {
            return a;
        }
    }
    return NULL;
}

const llm_arch_t *
llm_arch_at(size_t i)
{
    return i < sizeof(table) / sizeof(table[0]) ? &table[i] : NULL;
}
