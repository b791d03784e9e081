/*
 * arch.c - ONE table of model families; nothing else in the engine asks for the name of an
 * architecture.
 *
 * docs/models.md has each row in words. Tensor and key names of GGUF are the same for all
 * families, so one table of each serves; what a family does not have is simply absent from its
 * files.
 */
#include "model/arch.h"

#include <string.h>

static const char *const gguf_roles[LLM_ROLE_COUNT] = {
    [LLM_ROLE_TOK] = "token_embd",
    [LLM_ROLE_POS] = "position_embd",
    [LLM_ROLE_EMB_NORM] = "token_embd_norm",
    [LLM_ROLE_FINAL] = "output_norm",
    [LLM_ROLE_HEAD] = "output",
    [LLM_ROLE_ROPE_FREQS] = "rope_freqs",
    [LLM_ROLE_ROPE_LONG] = "rope_factors_long",
    [LLM_ROLE_ROPE_SHORT] = "rope_factors_short",
    [LLM_ROLE_N1] = "blk.{i}.attn_norm",
    [LLM_ROLE_N2] = "blk.{i}.ffn_norm",
    [LLM_ROLE_PN1] = "blk.{i}.post_attention_norm",
    [LLM_ROLE_PN2] = "blk.{i}.post_ffw_norm",
    [LLM_ROLE_QN] = "blk.{i}.attn_q_norm",
    [LLM_ROLE_KN] = "blk.{i}.attn_k_norm",
    [LLM_ROLE_QKV] = "blk.{i}.attn_qkv",
    [LLM_ROLE_Q] = "blk.{i}.attn_q",
    [LLM_ROLE_K] = "blk.{i}.attn_k",
    [LLM_ROLE_V] = "blk.{i}.attn_v",
    [LLM_ROLE_O] = "blk.{i}.attn_output",
    [LLM_ROLE_GATE] = "blk.{i}.ffn_gate",
    [LLM_ROLE_UP] = "blk.{i}.ffn_up",
    [LLM_ROLE_DOWN] = "blk.{i}.ffn_down",
    [LLM_ROLE_ROUTER] = "blk.{i}.ffn_gate_inp",
    [LLM_ROLE_GATE_EXPS] = "blk.{i}.ffn_gate_exps",
    [LLM_ROLE_UP_EXPS] = "blk.{i}.ffn_up_exps",
    [LLM_ROLE_DOWN_EXPS] = "blk.{i}.ffn_down_exps",
    [LLM_ROLE_GATE_EXP] = "blk.{i}.ffn_gate.{e}",
    [LLM_ROLE_UP_EXP] = "blk.{i}.ffn_up.{e}",
    [LLM_ROLE_DOWN_EXP] = "blk.{i}.ffn_down.{e}",
};

static const char *const gguf_keys[LLM_KEY_COUNT] = {
    [LLM_KEY_D] = "{a}.embedding_length",
    [LLM_KEY_LAYERS] = "{a}.block_count",
    [LLM_KEY_HEADS] = "{a}.attention.head_count",
    [LLM_KEY_KV_HEADS] = "{a}.attention.head_count_kv",
    [LLM_KEY_HEAD_DIM] = "{a}.attention.key_length",
    [LLM_KEY_V_HEAD_DIM] = "{a}.attention.value_length",
    [LLM_KEY_FF] = "{a}.feed_forward_length",
    [LLM_KEY_EPS_RMS] = "{a}.attention.layer_norm_rms_epsilon",
    [LLM_KEY_EPS_LAYER] = "{a}.attention.layer_norm_epsilon",
    [LLM_KEY_MAX_POS] = "{a}.context_length",
    [LLM_KEY_EXPERTS] = "{a}.expert_count",
    [LLM_KEY_EXPERTS_USED] = "{a}.expert_used_count",
    [LLM_KEY_ROT_DIM] = "{a}.rope.dimension_count",
    [LLM_KEY_THETA] = "{a}.rope.freq_base",
    [LLM_KEY_ROPE_TYPE] = "{a}.rope.scaling.type",
    [LLM_KEY_ROPE_FACTOR] = "{a}.rope.scaling.factor|{a}.rope.scale_linear",
    [LLM_KEY_ROPE_ORIG] = "{a}.rope.scaling.original_context_length",
    [LLM_KEY_ROPE_ATTN_FACTOR] = "{a}.rope.scaling.attn_factor|{a}.rope.scaling.yarn_attn_factor",
    [LLM_KEY_YARN_FAST] = "{a}.rope.scaling.yarn_beta_fast",
    [LLM_KEY_YARN_SLOW] = "{a}.rope.scaling.yarn_beta_slow",
    [LLM_KEY_YARN_EXT] = "{a}.rope.scaling.yarn_ext_factor",
    [LLM_KEY_YARN_LOG_MUL] = "{a}.rope.scaling.yarn_log_multiplier",
    [LLM_KEY_WINDOW] = "{a}.attention.sliding_window",
    [LLM_KEY_SCORE_CAP] = "{a}.attn_logit_softcapping",
    [LLM_KEY_LOGIT_CAP] = "{a}.final_logit_softcapping",
    [LLM_KEY_CLIP_QKV] = "{a}.attention.clamp_kqv",
    [LLM_KEY_ALIBI_MAX] = "{a}.attention.max_alibi_bias",
    [LLM_KEY_VOCAB] = "{a}.vocab_size",
};

#define GGUF(family) \
    .name = family, .source = LLM_SOURCE_GGUF, .roles = gguf_roles, .keys = gguf_keys
#define SET(f, v) .field = offsetof(llm_desc_t, f), .value = (v)

static const llm_arch_t table[] = {
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
