/* SPDX-License-Identifier: MIT
 *
 * The table of families, their tensor names and configuration keys. Read by the configuration
 * readers (spec.c) and by the resolver of tensor names (model_file.c).
 */
#include "family.h"

#include <string.h>

#define LAYER(name) .per_layer = true, .field = offsetof(ca_layer, name)
#define MODEL(name) .field = offsetof(ca_model, name)
#define COUNT(rows) (int)(sizeof(rows) / sizeof *(rows))

/* ---- GPT-2: Conv1D matrices are stored [in, out]; q | k | v are fused already */

static const ca_weight_row gpt2_rows[] = {
    {MODEL(embed), CA_EXTENT_WIDTH, .parts = {{"transformer.wte.weight", CA_EXTENT_VOCAB}}},
    {MODEL(positions), CA_EXTENT_WIDTH, .parts = {{"transformer.wpe.weight", CA_EXTENT_POSITIONS}}},
    {LAYER(norm1_gain), .parts = {{"transformer.h.*.ln_1.weight", CA_EXTENT_WIDTH}}},
    {LAYER(norm1_bias), .parts = {{"transformer.h.*.ln_1.bias", CA_EXTENT_WIDTH}}},
    {LAYER(qkv_weight), CA_EXTENT_WIDTH,
     .parts = {{"transformer.h.*.attn.c_attn.weight", CA_EXTENT_QKV, CA_LAYOUT_TRANSPOSED}}},
    {LAYER(qkv_bias), .parts = {{"transformer.h.*.attn.c_attn.bias", CA_EXTENT_QKV}}},
    {LAYER(out_weight), CA_EXTENT_Q,
     .parts = {{"transformer.h.*.attn.c_proj.weight", CA_EXTENT_WIDTH, CA_LAYOUT_TRANSPOSED}}},
    {LAYER(out_bias), .parts = {{"transformer.h.*.attn.c_proj.bias", CA_EXTENT_WIDTH}}},
    {LAYER(norm2_gain), .parts = {{"transformer.h.*.ln_2.weight", CA_EXTENT_WIDTH}}},
    {LAYER(norm2_bias), .parts = {{"transformer.h.*.ln_2.bias", CA_EXTENT_WIDTH}}},
    {LAYER(up_weight), CA_EXTENT_WIDTH,
     .parts = {{"transformer.h.*.mlp.c_fc.weight", CA_EXTENT_MLP, CA_LAYOUT_TRANSPOSED}}},
    {LAYER(up_bias), .parts = {{"transformer.h.*.mlp.c_fc.bias", CA_EXTENT_MLP}}},
    {LAYER(down_weight), CA_EXTENT_MLP,
     .parts = {{"transformer.h.*.mlp.c_proj.weight", CA_EXTENT_WIDTH, CA_LAYOUT_TRANSPOSED}}},
    {LAYER(down_bias), .parts = {{"transformer.h.*.mlp.c_proj.bias", CA_EXTENT_WIDTH}}},
    {MODEL(final_gain), .parts = {{"transformer.ln_f.weight", CA_EXTENT_WIDTH}}},
    {MODEL(final_bias), .parts = {{"transformer.ln_f.bias", CA_EXTENT_WIDTH}}},
    {MODEL(head), CA_EXTENT_WIDTH, CA_WHEN_UNTIED, {{"lm_head.weight", CA_EXTENT_VOCAB}}},
};

static const ca_weight_list gpt2_weights = {"transformer.", "transformer.wte.weight",
                                            "lm_head.weight", COUNT(gpt2_rows), gpt2_rows};

static const ca_size_keys gpt2_keys = {.layers = "n_layer",
                                       .width = "n_embd",
                                       .heads = "n_head",
                                       .mlp_width = "n_inner",
                                       .positions = "n_positions",
                                       .old_positions = "n_ctx",
                                       .vocab = "vocab_size",
                                       .epsilon = "layer_norm_epsilon",
                                       .activation = "activation_function"};

/* ---- GPT-NeoX (Pythia): q, k and v of each head lie together */

static const ca_weight_row neox_rows[] = {
    {MODEL(embed), CA_EXTENT_WIDTH, .parts = {{"gpt_neox.embed_in.weight", CA_EXTENT_VOCAB}}},
    {LAYER(norm1_gain), .parts = {{"gpt_neox.layers.*.input_layernorm.weight", CA_EXTENT_WIDTH}}},
    {LAYER(norm1_bias), .parts = {{"gpt_neox.layers.*.input_layernorm.bias", CA_EXTENT_WIDTH}}},
    {LAYER(qkv_weight), CA_EXTENT_WIDTH,
     .parts = {{"gpt_neox.layers.*.attention.query_key_value.weight", CA_EXTENT_QKV,
                CA_LAYOUT_BY_HEAD}}},
    {LAYER(qkv_bias), .when = CA_WHEN_QKV_BIAS,
     .parts = {{"gpt_neox.layers.*.attention.query_key_value.bias", CA_EXTENT_QKV,
                CA_LAYOUT_BY_HEAD}}},
    {LAYER(out_weight), CA_EXTENT_Q,
     .parts = {{"gpt_neox.layers.*.attention.dense.weight", CA_EXTENT_WIDTH}}},
    {LAYER(out_bias), .when = CA_WHEN_OUT_BIAS,
     .parts = {{"gpt_neox.layers.*.attention.dense.bias", CA_EXTENT_WIDTH}}},
    {LAYER(norm2_gain),
     .parts = {{"gpt_neox.layers.*.post_attention_layernorm.weight", CA_EXTENT_WIDTH}}},
    {LAYER(norm2_bias),
     .parts = {{"gpt_neox.layers.*.post_attention_layernorm.bias", CA_EXTENT_WIDTH}}},
    {LAYER(up_weight), CA_EXTENT_WIDTH,
     .parts = {{"gpt_neox.layers.*.mlp.dense_h_to_4h.weight", CA_EXTENT_MLP}}},
    {LAYER(up_bias), .parts = {{"gpt_neox.layers.*.mlp.dense_h_to_4h.bias", CA_EXTENT_MLP}}},
    {LAYER(down_weight), CA_EXTENT_MLP,
     .parts = {{"gpt_neox.layers.*.mlp.dense_4h_to_h.weight", CA_EXTENT_WIDTH}}},
    {LAYER(down_bias), .parts = {{"gpt_neox.layers.*.mlp.dense_4h_to_h.bias", CA_EXTENT_WIDTH}}},
    {MODEL(final_gain), .parts = {{"gpt_neox.final_layer_norm.weight", CA_EXTENT_WIDTH}}},
    {MODEL(final_bias), .parts = {{"gpt_neox.final_layer_norm.bias", CA_EXTENT_WIDTH}}},
    {MODEL(head), CA_EXTENT_WIDTH, CA_WHEN_UNTIED, {{"embed_out.weight", CA_EXTENT_VOCAB}}},
};

static const ca_weight_list neox_weights = {"gpt_neox.", "gpt_neox.embed_in.weight",
                                            "embed_out.weight", COUNT(neox_rows), neox_rows};

static const ca_size_keys neox_keys = {.layers = "num_hidden_layers",
                                       .width = "hidden_size",
                                       .heads = "num_attention_heads",
                                       .mlp_width = "intermediate_size",
                                       .positions = "max_position_embeddings",
                                       .vocab = "vocab_size",
                                       .epsilon = "layer_norm_eps",
                                       .activation = "hidden_act"};

/* ---- Llama and its relatives: separate q, k, v and gate, up */

static const ca_weight_row llama_rows[] = {
    {MODEL(embed), CA_EXTENT_WIDTH, .parts = {{"model.embed_tokens.weight", CA_EXTENT_VOCAB}}},
    {LAYER(norm1_gain), .parts = {{"model.layers.*.input_layernorm.weight", CA_EXTENT_WIDTH}}},
    {LAYER(qkv_weight), CA_EXTENT_WIDTH,
     .parts = {{"model.layers.*.self_attn.q_proj.weight", CA_EXTENT_Q},
               {"model.layers.*.self_attn.k_proj.weight", CA_EXTENT_KV},
               {"model.layers.*.self_attn.v_proj.weight", CA_EXTENT_KV}}},
    {LAYER(qkv_bias), .when = CA_WHEN_QKV_BIAS,
     .parts = {{"model.layers.*.self_attn.q_proj.bias", CA_EXTENT_Q},
               {"model.layers.*.self_attn.k_proj.bias", CA_EXTENT_KV},
               {"model.layers.*.self_attn.v_proj.bias", CA_EXTENT_KV}}},
    {LAYER(q_norm_gain), .when = CA_WHEN_QK_NORM,
     .parts = {{"model.layers.*.self_attn.q_norm.weight", CA_EXTENT_HEAD}}},
    {LAYER(k_norm_gain), .when = CA_WHEN_QK_NORM,
     .parts = {{"model.layers.*.self_attn.k_norm.weight", CA_EXTENT_HEAD}}},
    {LAYER(out_weight), CA_EXTENT_Q,
     .parts = {{"model.layers.*.self_attn.o_proj.weight", CA_EXTENT_WIDTH}}},
    {LAYER(out_bias), .when = CA_WHEN_OUT_BIAS,
     .parts = {{"model.layers.*.self_attn.o_proj.bias", CA_EXTENT_WIDTH}}},
    {LAYER(norm2_gain),
     .parts = {{"model.layers.*.post_attention_layernorm.weight", CA_EXTENT_WIDTH}}},
    {LAYER(up_weight), CA_EXTENT_WIDTH,
     .parts = {{"model.layers.*.mlp.gate_proj.weight", CA_EXTENT_MLP},
               {"model.layers.*.mlp.up_proj.weight", CA_EXTENT_MLP}}},
    {LAYER(up_bias), .when = CA_WHEN_MLP_BIAS,
     .parts = {{"model.layers.*.mlp.gate_proj.bias", CA_EXTENT_MLP},
               {"model.layers.*.mlp.up_proj.bias", CA_EXTENT_MLP}}},
    {LAYER(down_weight), CA_EXTENT_MLP,
     .parts = {{"model.layers.*.mlp.down_proj.weight", CA_EXTENT_WIDTH}}},
    {LAYER(down_bias), .when = CA_WHEN_MLP_BIAS,
     .parts = {{"model.layers.*.mlp.down_proj.bias", CA_EXTENT_WIDTH}}},
    {MODEL(final_gain), .parts = {{"model.norm.weight", CA_EXTENT_WIDTH}}},
    {MODEL(head), CA_EXTENT_WIDTH, CA_WHEN_UNTIED, {{"lm_head.weight", CA_EXTENT_VOCAB}}},
};

static const ca_weight_list llama_weights = {"model.", "model.embed_tokens.weight",
                                             "lm_head.weight", COUNT(llama_rows), llama_rows};

static const ca_size_keys llama_keys = {.layers = "num_hidden_layers",
                                        .width = "hidden_size",
                                        .heads = "num_attention_heads",
                                        .kv_heads = "num_key_value_heads",
                                        .head_dim = "head_dim",
                                        .mlp_width = "intermediate_size",
                                        .positions = "max_position_embeddings",
                                        .old_positions = "max_sequence_length",
                                        .vocab = "vocab_size",
                                        .epsilon = "rms_norm_eps",
                                        .activation = "hidden_act"};

/* ---- Llama in GGUF */

static const ca_weight_row gguf_llama_rows[] = {
    {MODEL(embed), CA_EXTENT_WIDTH, .parts = {{"token_embd.weight", CA_EXTENT_VOCAB}}},
    {LAYER(norm1_gain), .parts = {{"blk.*.attn_norm.weight", CA_EXTENT_WIDTH}}},
    {LAYER(qkv_weight), CA_EXTENT_WIDTH,
     .parts = {{"blk.*.attn_q.weight", CA_EXTENT_Q, CA_LAYOUT_NEIGHBOURS},
               {"blk.*.attn_k.weight", CA_EXTENT_KV, CA_LAYOUT_NEIGHBOURS},
               {"blk.*.attn_v.weight", CA_EXTENT_KV}}},
    {LAYER(qkv_bias), .when = CA_WHEN_QKV_BIAS,
     .parts = {{"blk.*.attn_q.bias", CA_EXTENT_Q, CA_LAYOUT_NEIGHBOURS},
               {"blk.*.attn_k.bias", CA_EXTENT_KV, CA_LAYOUT_NEIGHBOURS},
               {"blk.*.attn_v.bias", CA_EXTENT_KV}}},
    {LAYER(out_weight), CA_EXTENT_Q, .parts = {{"blk.*.attn_output.weight", CA_EXTENT_WIDTH}}},
    {LAYER(out_bias), .when = CA_WHEN_OUT_BIAS,
     .parts = {{"blk.*.attn_output.bias", CA_EXTENT_WIDTH}}},
    {LAYER(norm2_gain), .parts = {{"blk.*.ffn_norm.weight", CA_EXTENT_WIDTH}}},
    {LAYER(up_weight), CA_EXTENT_WIDTH,
     .parts = {{"blk.*.ffn_gate.weight", CA_EXTENT_MLP}, {"blk.*.ffn_up.weight", CA_EXTENT_MLP}}},
    {LAYER(up_bias), .when = CA_WHEN_MLP_BIAS,
     .parts = {{"blk.*.ffn_gate.bias", CA_EXTENT_MLP}, {"blk.*.ffn_up.bias", CA_EXTENT_MLP}}},
    {LAYER(down_weight), CA_EXTENT_MLP, .parts = {{"blk.*.ffn_down.weight", CA_EXTENT_WIDTH}}},
    {LAYER(down_bias), .when = CA_WHEN_MLP_BIAS,
     .parts = {{"blk.*.ffn_down.bias", CA_EXTENT_WIDTH}}},
    {MODEL(final_gain), .parts = {{"output_norm.weight", CA_EXTENT_WIDTH}}},
    {MODEL(head), CA_EXTENT_WIDTH, CA_WHEN_UNTIED, {{"output.weight", CA_EXTENT_VOCAB}}},
};

static const ca_weight_list gguf_llama_weights = {"", "token_embd.weight", "output.weight",
                                                  COUNT(gguf_llama_rows), gguf_llama_rows};

const ca_size_keys ca_gguf_size_keys = {.layers = "block_count",
                                        .width = "embedding_length",
                                        .heads = "attention.head_count",
                                        .kv_heads = "attention.head_count_kv",
                                        .head_dim = "attention.key_length",
                                        .mlp_width = "feed_forward_length",
                                        .positions = "context_length",
                                        .vocab = "vocab_size",
                                        .epsilon = "attention.layer_norm_rms_epsilon"};

/* ---- the table */

/* What Llama and its relatives have in common. */
#define LLAMA_LIKE                                                                                 \
    .keys = &llama_keys, .weights = &llama_weights, .norm = CA_NORM_RMS, .epsilon = 1e-6,          \
    .activation = "silu", .gated = true

static const ca_family families[] = {
    {.model_type = "gpt2",
     .keys = &gpt2_keys,
     .weights = &gpt2_weights,
     .norm = CA_NORM_LAYER,
     .epsilon = 1e-5,
     .activation = "gelu_new",
     .learned_positions = true,
     .tied = true,
     .attention_bias = CA_BIAS_ALL,
     .mlp_bias = CA_BIAS_ALL},
    {.model_type = "gpt_neox",
     .keys = &neox_keys,
     .weights = &neox_weights,
     .norm = CA_NORM_LAYER,
     .epsilon = 1e-5,
     .activation = "gelu",
     .attention_bias = CA_BIAS_KEY_OR_ALL,
     .mlp_bias = CA_BIAS_ALL,
     .parallel = true,
     .rotary_fraction = 0.25},
    {LLAMA_LIKE, .model_type = "llama", .gguf_architecture = "llama",
     .gguf_weights = &gguf_llama_weights, .attention_bias = CA_BIAS_KEY, .mlp_bias = CA_BIAS_KEY},
    {LLAMA_LIKE, .model_type = "mistral", .window = CA_WINDOW_ALL},
    {LLAMA_LIKE, .model_type = "qwen2", .attention_bias = CA_BIAS_QKV, .window = CA_WINDOW_UPPER},
    {LLAMA_LIKE, .model_type = "qwen3", .attention_bias = CA_BIAS_KEY, .qk_norm = CA_QK_NORM_HEAD,
     .window = CA_WINDOW_UPPER},
};

const ca_family *ca_family_by_model_type(const char *model_type) {
    for (int i = 0; i < COUNT(families); i++)
        if (strcmp(families[i].model_type, model_type) == 0) return families + i;
    return NULL;
}

const ca_family *ca_family_by_gguf_architecture(const char *architecture) {
    for (int i = 0; i < COUNT(families); i++)
        if (families[i].gguf_architecture != NULL &&
            strcmp(families[i].gguf_architecture, architecture) == 0)
            return families + i;
    return NULL;
}

/* Names of the rows, joined once: the table never changes. */
static const char *join_names(char *text, size_t size, bool gguf) {
    size_t used = 0;
    for (int i = 0; i < COUNT(families) && used < size; i++) {
        const char *name = gguf ? families[i].gguf_architecture : families[i].model_type;
        if (name == NULL) continue;
        int n = snprintf(text + used, size - used, "%s%s", used > 0 ? ", " : "", name);
        used += n > 0 ? (size_t)n : 0;
    }
    return text;
}

const char *ca_family_names(void) {
    static _Thread_local char text[512];
    return join_names(text, sizeof text, false);
}

const char *ca_family_gguf_names(void) {
    static _Thread_local char text[512];
    return join_names(text, sizeof text, true);
}

bool ca_family_ignores(const char *tensor_name) {
    /* The causal mask and mask value of GPT-2 and GPT-NeoX, old rotary frequencies; GGUF rotary
     * factors are read by the configuration. */
    static const char *const endings[] = {".attn.bias",          ".attn.masked_bias",
                                          ".attention.bias",     ".attention.masked_bias",
                                          "rotary_emb.inv_freq", "rope_freqs.weight"};
    size_t length = strlen(tensor_name);
    for (int i = 0; i < COUNT(endings); i++) {
        size_t n = strlen(endings[i]);
        if (length >= n && strcmp(tensor_name + length - n, endings[i]) == 0) return true;
    }
    return false;
}
