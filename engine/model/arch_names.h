/*
 * arch_names.h - how files call tensors and keys; only arch.c includes it.
 *
 * Tensor and key names of GGUF are nearly the same for all families, so one table of each serves;
 * what a family does not have is simply absent from its files. In Hugging Face checkpoints every
 * line of models has tensor names of its own, while keys have few synonyms (spec models.md 4, 5).
 */
#ifndef LLM_ARCH_NAMES_H
#define LLM_ARCH_NAMES_H

#include "model/arch.h"

/* -------------------------------------------------------------------- GGUF */

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

/* One half of T5: "enc" or "dec". */
#define GGUF_T5(half)                                                                       \
    [LLM_ROLE_TOK] = "token_embd", [LLM_ROLE_FINAL] = half ".output_norm",                  \
    [LLM_ROLE_REL] = half ".blk.0.attn_rel_b", [LLM_ROLE_N1] = half ".blk.{i}.attn_norm",   \
    [LLM_ROLE_Q] = half ".blk.{i}.attn_q", [LLM_ROLE_K] = half ".blk.{i}.attn_k",           \
    [LLM_ROLE_V] = half ".blk.{i}.attn_v", [LLM_ROLE_O] = half ".blk.{i}.attn_o",           \
    [LLM_ROLE_N2] = half ".blk.{i}.ffn_norm", [LLM_ROLE_GATE] = half ".blk.{i}.ffn_gate",   \
    [LLM_ROLE_UP] = half ".blk.{i}.ffn_up", [LLM_ROLE_DOWN] = half ".blk.{i}.ffn_down"

static const char *const gguf_t5_enc[LLM_ROLE_COUNT] = { GGUF_T5("enc") };

static const char *const gguf_t5_dec[LLM_ROLE_COUNT] = {
    GGUF_T5("dec"),
    [LLM_ROLE_HEAD] = "output",
    [LLM_ROLE_XN] = "dec.blk.{i}.cross_attn_norm",
    [LLM_ROLE_XQ] = "dec.blk.{i}.cross_attn_q",
    [LLM_ROLE_XK] = "dec.blk.{i}.cross_attn_k",
    [LLM_ROLE_XV] = "dec.blk.{i}.cross_attn_v",
    [LLM_ROLE_XO] = "dec.blk.{i}.cross_attn_o",
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
    [LLM_KEY_REL_BUCKETS] = "{a}.attention.relative_buckets_count",
    [LLM_KEY_DEC_START] = "{a}.decoder_start_token_id",
    [LLM_KEY_VOCAB] = "{a}.vocab_size",
};

/* ------------------------------------------------------ Hugging Face: keys */

static const char *const hf_keys[LLM_KEY_COUNT] = {
    [LLM_KEY_D] = "hidden_size|n_embd|d_model|n_embed",
    [LLM_KEY_LAYERS] = "num_hidden_layers|n_layer|n_layers|num_layers",
    [LLM_KEY_HEADS] = "num_attention_heads|n_head|n_heads|num_heads",
    [LLM_KEY_KV_HEADS] = "num_key_value_heads|num_kv_heads|n_head_kv|attn_config.kv_n_heads",
    [LLM_KEY_HEAD_DIM] = "head_dim|d_kv",
    [LLM_KEY_FF] = "intermediate_size|n_inner|ffn_dim|ffn_hidden_size|d_ff",
    [LLM_KEY_FF_RATIO] = "expansion_ratio",
    [LLM_KEY_EPS_RMS] = "rms_norm_eps|layer_norm_epsilon",
    [LLM_KEY_EPS_LAYER] = "layer_norm_epsilon|layer_norm_eps|norm_epsilon",
    [LLM_KEY_MAX_POS] = "max_position_embeddings|n_positions|max_seq_len|seq_length",
    [LLM_KEY_EXPERTS] = "num_local_experts",
    [LLM_KEY_EXPERTS_USED] = "num_experts_per_tok",
    [LLM_KEY_ACT] = "hidden_act|activation_function|activation",
    [LLM_KEY_TIE] = "tie_word_embeddings",
    [LLM_KEY_QUERY_SCALE] = "query_pre_attn_scalar",
    [LLM_KEY_ROT_DIM] = "rotary_dim",
    [LLM_KEY_ROT_PART] = "partial_rotary_factor|rope_parameters.partial_rotary_factor",
    [LLM_KEY_THETA] = "rope_theta|rope_parameters.rope_theta",
    [LLM_KEY_ROPE_TYPE] = "rope_scaling.rope_type|rope_scaling.type|rope_parameters.rope_type"
                          "|rope_parameters.type",
    [LLM_KEY_ROPE_FACTOR] = "rope_scaling.factor|rope_parameters.factor",
    [LLM_KEY_ROPE_ORIG] = "original_max_position_embeddings"
                          "|rope_scaling.original_max_position_embeddings"
                          "|rope_parameters.original_max_position_embeddings"
                          "|max_position_embeddings",
    [LLM_KEY_ROPE_MSCALE] = "rope_scaling.attention_factor|rope_parameters.attention_factor",
    [LLM_KEY_ROPE_LONG] = "rope_scaling.long_factor|rope_parameters.long_factor",
    [LLM_KEY_ROPE_SHORT] = "rope_scaling.short_factor|rope_parameters.short_factor",
    [LLM_KEY_LLAMA3_LOW] = "rope_scaling.low_freq_factor|rope_parameters.low_freq_factor",
    [LLM_KEY_LLAMA3_HIGH] = "rope_scaling.high_freq_factor|rope_parameters.high_freq_factor",
    [LLM_KEY_YARN_FAST] = "rope_scaling.beta_fast|rope_parameters.beta_fast",
    [LLM_KEY_YARN_SLOW] = "rope_scaling.beta_slow|rope_parameters.beta_slow",
    [LLM_KEY_YARN_MSCALE] = "rope_scaling.mscale|rope_parameters.mscale",
    [LLM_KEY_YARN_MSCALE_ALL] = "rope_scaling.mscale_all_dim|rope_parameters.mscale_all_dim",
    [LLM_KEY_YARN_TRUNCATE] = "rope_scaling.truncate|rope_parameters.truncate",
    [LLM_KEY_WINDOW] = "sliding_window",
    [LLM_KEY_WINDOW_FROM] = "max_window_layers",
    [LLM_KEY_LAYER_TYPES] = "layer_types",
    [LLM_KEY_ROPE_LAYERS] = "no_rope_layers",
    [LLM_KEY_NOPE_INTERVAL] = "no_rope_layer_interval",
    [LLM_KEY_SCORE_CAP] = "attn_logit_softcapping",
    [LLM_KEY_LOGIT_CAP] = "final_logit_softcapping",
    [LLM_KEY_CLIP_QKV] = "attn_config.clip_qkv",
    [LLM_KEY_ALIBI_MAX] = "attn_config.alibi_bias_max",
    [LLM_KEY_REL_BUCKETS] = "relative_attention_num_buckets",
    [LLM_KEY_REL_DISTANCE] = "relative_attention_max_distance",
    [LLM_KEY_DEC_START] = "generation.decoder_start_token_id|decoder_start_token_id",
    [LLM_KEY_FORCED_BOS] = "generation.forced_bos_token_id|forced_bos_token_id",
    [LLM_KEY_FORCED_EOS] = "generation.forced_eos_token_id|forced_eos_token_id",
    [LLM_KEY_VOCAB] = "vocab_size",
};

/* --------------------------------------------------- Hugging Face: tensors */

static const char *const hf_gpt2[LLM_ROLE_COUNT] = {
    [LLM_ROLE_TOK] = "wte", [LLM_ROLE_POS] = "wpe", [LLM_ROLE_FINAL] = "ln_f",
    [LLM_ROLE_HEAD] = "lm_head",
    [LLM_ROLE_N1] = "h.{i}.ln_1", [LLM_ROLE_N2] = "h.{i}.ln_2",
    [LLM_ROLE_QKV] = "h.{i}.attn.c_attn", [LLM_ROLE_O] = "h.{i}.attn.c_proj",
    [LLM_ROLE_UP] = "h.{i}.mlp.c_fc", [LLM_ROLE_DOWN] = "h.{i}.mlp.c_proj",
};

/* GPT-J has q, k and v apart, CodeGen in one. */
static const char *const hf_gptj[LLM_ROLE_COUNT] = {
    [LLM_ROLE_TOK] = "wte", [LLM_ROLE_FINAL] = "ln_f", [LLM_ROLE_HEAD] = "lm_head",
    [LLM_ROLE_N1] = "h.{i}.ln_1",
    [LLM_ROLE_Q] = "h.{i}.attn.q_proj", [LLM_ROLE_K] = "h.{i}.attn.k_proj",
    [LLM_ROLE_V] = "h.{i}.attn.v_proj", [LLM_ROLE_QKV] = "h.{i}.attn.qkv_proj",
    [LLM_ROLE_O] = "h.{i}.attn.out_proj",
    [LLM_ROLE_UP] = "h.{i}.mlp.fc_in", [LLM_ROLE_DOWN] = "h.{i}.mlp.fc_out",
};

static const char *const hf_opt[LLM_ROLE_COUNT] = {
    [LLM_ROLE_TOK] = "embed_tokens", [LLM_ROLE_POS] = "embed_positions",
    [LLM_ROLE_PROJ_IN] = "project_in", [LLM_ROLE_PROJ_OUT] = "project_out",
    [LLM_ROLE_FINAL] = "final_layer_norm", [LLM_ROLE_HEAD] = "lm_head",
    [LLM_ROLE_N1] = "layers.{i}.self_attn_layer_norm",
    [LLM_ROLE_N2] = "layers.{i}.final_layer_norm",
    [LLM_ROLE_Q] = "layers.{i}.self_attn.q_proj", [LLM_ROLE_K] = "layers.{i}.self_attn.k_proj",
    [LLM_ROLE_V] = "layers.{i}.self_attn.v_proj", [LLM_ROLE_O] = "layers.{i}.self_attn.out_proj",
    [LLM_ROLE_UP] = "layers.{i}.fc1", [LLM_ROLE_DOWN] = "layers.{i}.fc2",
};

/* Bloom has the norm of the embedding, Falcon has not. */
static const char *const hf_bloom[LLM_ROLE_COUNT] = {
    [LLM_ROLE_TOK] = "word_embeddings", [LLM_ROLE_EMB_NORM] = "word_embeddings_layernorm",
    [LLM_ROLE_FINAL] = "ln_f", [LLM_ROLE_HEAD] = "lm_head",
    [LLM_ROLE_N1] = "h.{i}.input_layernorm", [LLM_ROLE_N2] = "h.{i}.post_attention_layernorm",
    [LLM_ROLE_QKV] = "h.{i}.self_attention.query_key_value",
    [LLM_ROLE_O] = "h.{i}.self_attention.dense",
    [LLM_ROLE_UP] = "h.{i}.mlp.dense_h_to_4h", [LLM_ROLE_DOWN] = "h.{i}.mlp.dense_4h_to_h",
};

static const char *const hf_mpt[LLM_ROLE_COUNT] = {
    [LLM_ROLE_TOK] = "wte", [LLM_ROLE_POS] = "wpe", [LLM_ROLE_FINAL] = "norm_f",
    [LLM_ROLE_HEAD] = "lm_head",
    [LLM_ROLE_N1] = "blocks.{i}.norm_1", [LLM_ROLE_N2] = "blocks.{i}.norm_2",
    [LLM_ROLE_QKV] = "blocks.{i}.attn.Wqkv", [LLM_ROLE_O] = "blocks.{i}.attn.out_proj",
    [LLM_ROLE_UP] = "blocks.{i}.ffn.up_proj", [LLM_ROLE_DOWN] = "blocks.{i}.ffn.down_proj",
};

static const char *const hf_neox[LLM_ROLE_COUNT] = {
    [LLM_ROLE_TOK] = "embed_in", [LLM_ROLE_FINAL] = "final_layer_norm",
    [LLM_ROLE_HEAD] = "embed_out",
    [LLM_ROLE_N1] = "layers.{i}.input_layernorm",
    [LLM_ROLE_N2] = "layers.{i}.post_attention_layernorm",
    [LLM_ROLE_QKV] = "layers.{i}.attention.query_key_value",
    [LLM_ROLE_O] = "layers.{i}.attention.dense",
    [LLM_ROLE_UP] = "layers.{i}.mlp.dense_h_to_4h",
    [LLM_ROLE_DOWN] = "layers.{i}.mlp.dense_4h_to_h",
};

/* The Llama line: what all of them share ... */
#define HF_LLAMA                                                                            \
    [LLM_ROLE_TOK] = "embed_tokens", [LLM_ROLE_HEAD] = "lm_head",                           \
    [LLM_ROLE_N1] = "layers.{i}.input_layernorm",                                           \
    [LLM_ROLE_Q] = "layers.{i}.self_attn.q_proj",                                           \
    [LLM_ROLE_K] = "layers.{i}.self_attn.k_proj",                                           \
    [LLM_ROLE_V] = "layers.{i}.self_attn.v_proj"
/* ... and what most of them do. */
#define HF_LLAMA_REST                                                                       \
    [LLM_ROLE_FINAL] = "norm", [LLM_ROLE_O] = "layers.{i}.self_attn.o_proj"
#define HF_LLAMA_N2  [LLM_ROLE_N2] = "layers.{i}.post_attention_layernorm"
#define HF_LLAMA_MLP                                                                        \
    [LLM_ROLE_GATE] = "layers.{i}.mlp.gate_proj", [LLM_ROLE_UP] = "layers.{i}.mlp.up_proj", \
    [LLM_ROLE_DOWN] = "layers.{i}.mlp.down_proj"

static const char *const hf_llama[LLM_ROLE_COUNT] = {
    HF_LLAMA, HF_LLAMA_REST, HF_LLAMA_N2, HF_LLAMA_MLP,
};

static const char *const hf_qwen3[LLM_ROLE_COUNT] = {
    HF_LLAMA, HF_LLAMA_REST, HF_LLAMA_N2, HF_LLAMA_MLP,
    [LLM_ROLE_QN] = "layers.{i}.self_attn.q_norm", [LLM_ROLE_KN] = "layers.{i}.self_attn.k_norm",
};

static const char *const hf_gemma2[LLM_ROLE_COUNT] = {
    HF_LLAMA, HF_LLAMA_REST, HF_LLAMA_MLP,
    [LLM_ROLE_PN1] = "layers.{i}.post_attention_layernorm",
    [LLM_ROLE_N2] = "layers.{i}.pre_feedforward_layernorm",
    [LLM_ROLE_PN2] = "layers.{i}.post_feedforward_layernorm",
};

static const char *const hf_mixtral[LLM_ROLE_COUNT] = {
    HF_LLAMA, HF_LLAMA_REST, HF_LLAMA_N2,
    [LLM_ROLE_ROUTER] = "layers.{i}.block_sparse_moe.gate",
    [LLM_ROLE_GATE_EXP] = "layers.{i}.block_sparse_moe.experts.{e}.w1",
    [LLM_ROLE_UP_EXP] = "layers.{i}.block_sparse_moe.experts.{e}.w3",
    [LLM_ROLE_DOWN_EXP] = "layers.{i}.block_sparse_moe.experts.{e}.w2",
};

static const char *const hf_phi3[LLM_ROLE_COUNT] = {
    HF_LLAMA, HF_LLAMA_REST, HF_LLAMA_N2,
    [LLM_ROLE_QKV] = "layers.{i}.self_attn.qkv_proj",
    [LLM_ROLE_UP] = "layers.{i}.mlp.gate_up_proj", [LLM_ROLE_DOWN] = "layers.{i}.mlp.down_proj",
};

static const char *const hf_starcoder2[LLM_ROLE_COUNT] = {
    HF_LLAMA, HF_LLAMA_REST, HF_LLAMA_N2,
    [LLM_ROLE_UP] = "layers.{i}.mlp.c_fc", [LLM_ROLE_DOWN] = "layers.{i}.mlp.c_proj",
};

static const char *const hf_phi[LLM_ROLE_COUNT] = {
    HF_LLAMA,
    [LLM_ROLE_FINAL] = "final_layernorm", [LLM_ROLE_O] = "layers.{i}.self_attn.dense",
    [LLM_ROLE_QN] = "layers.{i}.self_attn.q_layernorm",
    [LLM_ROLE_KN] = "layers.{i}.self_attn.k_layernorm",
    [LLM_ROLE_UP] = "layers.{i}.mlp.fc1", [LLM_ROLE_DOWN] = "layers.{i}.mlp.fc2",
};

/* One half of T5, and its MLP, which is the last of its sub-layers. */
#define HF_T5(half, mlp)                                                                    \
    [LLM_ROLE_TOK] = "shared|decoder.embed_tokens|encoder.embed_tokens",                    \
    [LLM_ROLE_FINAL] = half ".final_layer_norm",                                            \
    [LLM_ROLE_REL] = half ".block.0.layer.0.SelfAttention.relative_attention_bias",         \
    [LLM_ROLE_N1] = half ".block.{i}.layer.0.layer_norm",                                   \
    [LLM_ROLE_Q] = half ".block.{i}.layer.0.SelfAttention.q",                               \
    [LLM_ROLE_K] = half ".block.{i}.layer.0.SelfAttention.k",                               \
    [LLM_ROLE_V] = half ".block.{i}.layer.0.SelfAttention.v",                               \
    [LLM_ROLE_O] = half ".block.{i}.layer.0.SelfAttention.o",                               \
    [LLM_ROLE_N2] = half ".block.{i}." mlp ".layer_norm",                                   \
    [LLM_ROLE_GATE] = half ".block.{i}." mlp ".DenseReluDense.wi_0",                        \
    [LLM_ROLE_UP] = half ".block.{i}." mlp ".DenseReluDense.wi|"                            \
                    half ".block.{i}." mlp ".DenseReluDense.wi_1",                          \
    [LLM_ROLE_DOWN] = half ".block.{i}." mlp ".DenseReluDense.wo"

static const char *const hf_t5_enc[LLM_ROLE_COUNT] = { HF_T5("encoder", "layer.1") };

static const char *const hf_t5_dec[LLM_ROLE_COUNT] = {
    HF_T5("decoder", "layer.2"),
    [LLM_ROLE_HEAD] = "lm_head",
    [LLM_ROLE_XN] = "decoder.block.{i}.layer.1.layer_norm",
    [LLM_ROLE_XQ] = "decoder.block.{i}.layer.1.EncDecAttention.q",
    [LLM_ROLE_XK] = "decoder.block.{i}.layer.1.EncDecAttention.k",
    [LLM_ROLE_XV] = "decoder.block.{i}.layer.1.EncDecAttention.v",
    [LLM_ROLE_XO] = "decoder.block.{i}.layer.1.EncDecAttention.o",
};

/* One half of BART. */
#define HF_BART(half)                                                                       \
    [LLM_ROLE_TOK] = "shared|decoder.embed_tokens|encoder.embed_tokens",                    \
    [LLM_ROLE_POS] = half ".embed_positions",                                               \
    [LLM_ROLE_EMB_NORM] = half ".layernorm_embedding",                                      \
    [LLM_ROLE_N1] = half ".layers.{i}.self_attn_layer_norm",                                \
    [LLM_ROLE_N2] = half ".layers.{i}.final_layer_norm",                                    \
    [LLM_ROLE_Q] = half ".layers.{i}.self_attn.q_proj",                                     \
    [LLM_ROLE_K] = half ".layers.{i}.self_attn.k_proj",                                     \
    [LLM_ROLE_V] = half ".layers.{i}.self_attn.v_proj",                                     \
    [LLM_ROLE_O] = half ".layers.{i}.self_attn.out_proj",                                   \
    [LLM_ROLE_UP] = half ".layers.{i}.fc1", [LLM_ROLE_DOWN] = half ".layers.{i}.fc2"

static const char *const hf_bart_enc[LLM_ROLE_COUNT] = { HF_BART("encoder") };

static const char *const hf_bart_dec[LLM_ROLE_COUNT] = {
    HF_BART("decoder"),
    [LLM_ROLE_HEAD] = "lm_head", [LLM_ROLE_HEAD_BIAS] = "final_logits_bias",
    [LLM_ROLE_XN] = "decoder.layers.{i}.encoder_attn_layer_norm",
    [LLM_ROLE_XQ] = "decoder.layers.{i}.encoder_attn.q_proj",
    [LLM_ROLE_XK] = "decoder.layers.{i}.encoder_attn.k_proj",
    [LLM_ROLE_XV] = "decoder.layers.{i}.encoder_attn.v_proj",
    [LLM_ROLE_XO] = "decoder.layers.{i}.encoder_attn.out_proj",
};

#endif
