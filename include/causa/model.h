/* SPDX-License-Identifier: MIT
 *
 * A frozen decoder: its architecture (one parametrised block for every family) and its weights in
 * a backend's memory. Immutable after loading and shared by everything.
 */
#ifndef CAUSA_MODEL_H
#define CAUSA_MODEL_H

#include "causa/backend.h"

typedef enum ca_qk_norm {
    CA_QK_NORM_NONE,
    CA_QK_NORM_HEAD, /* RMS over each head's Dh values */
    CA_QK_NORM_FULL  /* RMS over all heads' values at once */
} ca_qk_norm;

typedef enum ca_rope_kind { CA_ROPE_DEFAULT, CA_ROPE_LINEAR, CA_ROPE_LLAMA3 } ca_rope_kind;

/* One rotary table. inverse frequency of pair i: theta^(-2 i / dim), scaled by kind. */
typedef struct ca_rope_config {
    ca_rope_kind kind;
    double theta;
    int64_t dim; /* values rotated per head, <= head_dim; 0 = no rotation */
    double factor, low_freq_factor, high_freq_factor;
    int64_t original_max_positions;
} ca_rope_config;

enum { CA_MAX_ROPES = 2 }; /* global and local layers */

typedef struct ca_arch {
    const char *family; /* model_type of config.json, a string of the family table */
    int64_t layers, width, heads, kv_heads, head_dim, mlp_width, vocab;
    int64_t max_positions; /* longest sequence */

    ca_norm norm;
    bool pre_norm;  /* norm before attention and MLP */
    bool post_norm; /* norm of attention and MLP outputs before the residual add */
    bool parallel;  /* attention and MLP both read the block's input */
    ca_qk_norm qk_norm;

    ca_activation activation;
    bool gated;

    double attention_scale;
    bool scale_by_layer; /* divide the scale by layer + 1 (GPT-2 option) */
    double score_soft_cap, logit_soft_cap; /* 0 = none */

    bool learned_positions;
    int rope_count;
    ca_rope_config rope[CA_MAX_ROPES];

    double embed_scale; /* 1 unless Gemma */
    bool tied;          /* the head is the embedding */
    double initializer_range; /* standard deviation of matrices before training; 0.02 if unsaid */
} ca_arch;

/* Weights of one block. Absent ones have data == NULL. Matrices are [out, in]. */
typedef struct ca_layer {
    ca_tensor norm1_gain, norm1_bias;           /* [D] before attention */
    ca_tensor qkv_weight, qkv_bias;             /* [(H + 2 K) Dh, D], rows q | k | v */
    ca_tensor q_norm_gain, k_norm_gain;         /* [Dh] or [H Dh], [K Dh] */
    ca_tensor out_weight, out_bias;             /* [D, H Dh] */
    ca_tensor post_norm1_gain, post_norm1_bias; /* [D] after attention */
    ca_tensor norm2_gain, norm2_bias;           /* [D] before the MLP */
    ca_tensor up_weight, up_bias;               /* [F, D], or [2 F, D] rows gate | up */
    ca_tensor down_weight, down_bias;           /* [D, F] */
    ca_tensor post_norm2_gain, post_norm2_bias; /* [D] after the MLP */
    int rope;                                   /* index into ca_model.cosine, -1 = none */
    int64_t window;                             /* 0 = no limit */
    double attention_scale;                     /* with scale_by_layer applied */
} ca_layer;

/* What the headers say, before any weight is read: enough for `plan` and `inspect`. */
typedef struct ca_model_file ca_model_file;

/* Opens a Hugging Face directory or a GGUF file, reads config and tensor headers, checks that every
 * tensor is there with the right shape. Errors: CA_E_MODEL naming file, tensor or key. */
ca_status ca_model_file_open(const char *path, ca_model_file **out) CA_MUST_USE;
void ca_model_file_close(ca_model_file *file);
const ca_arch *ca_model_file_arch(const ca_model_file *file);
const char *ca_model_file_path(const ca_model_file *file);
/* "safetensors BF16, 3 shards" / "GGUF v3 Q4_1" */
const char *ca_model_file_format(const ca_model_file *file);
/* Parameters counted once when tied. */
int64_t ca_model_file_parameters(const ca_model_file *file);
/* A precision is CA_F32, CA_F64 or CA_BF16: the dtype of matrices. Gains, biases, rotary tables and
 * values have this dtype: CA_F32 with matrices in bf16. */
ca_dtype ca_precision_values(ca_dtype precision);
/* Bytes of all weights once loaded (rotary tables included). */
int64_t ca_model_file_bytes(const ca_model_file *file, ca_dtype precision);
/* SHA-256 over config and tensor headers and sampled blocks of the data, hex. */
ca_status ca_model_file_sha256(const ca_model_file *file, char hex[65]) CA_MUST_USE;

typedef struct ca_model {
    ca_arch arch;
    ca_backend *backend;
    ca_dtype precision; /* of matrices: CA_F32, CA_F64 or CA_BF16 */
    ca_dtype dtype;     /* of everything else: ca_precision_values(precision) */
    ca_layer *layers;
    ca_tensor embed;                   /* [V, D] */
    ca_tensor positions;               /* [P, D] learned positions or absent */
    ca_tensor final_gain, final_bias;  /* [D] */
    ca_tensor head, head_bias;         /* [V, D], [V]; head == embed when tied */
    ca_tensor cosine[CA_MAX_ROPES];    /* [P, dim / 2] */
    ca_tensor sine[CA_MAX_ROPES];
    int64_t bytes; /* in backend memory */
    void *memory;  /* one allocation behind all tensors */
} ca_model;

/* Reads all weights into `backend`, rounded to nearest even for CA_BF16; at most one extra tensor in host memory. Rotary
 * tables cover `max_rows` positions (0: all that the model allows).
 * Errors: CA_E_MODEL (NaN or infinity in a weight: file and tensor named), CA_E_MEMORY,
 * CA_E_BACKEND when the backend does not offer the precision. */
ca_status ca_model_load(const ca_model_file *file, ca_backend *backend, ca_dtype precision,
                        int64_t max_rows, ca_model **out) CA_MUST_USE;
void ca_model_free(ca_model *model);

/* Names of the supported model types, for messages: "gpt2, llama". */
const char *ca_family_names(void);

#endif
