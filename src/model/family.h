/* SPDX-License-Identifier: MIT
 *
 * The families of decoders: one table row says how a family spells its configuration, which parts
 * its block has and what its tensors are called. To add a family, add a row (and a list of weights
 * where the names are new).
 */
#ifndef CAUSA_MODEL_FAMILY_H
#define CAUSA_MODEL_FAMILY_H

#include "causa/model.h"

/* Names of the sizes in config.json or, without their prefix, in GGUF metadata. NULL: no such key.
 */
typedef struct ca_size_keys {
    const char *layers, *width, *heads, *kv_heads, *head_dim, *mlp_width;
    const char *positions, *old_positions, *vocab, *epsilon, *activation;
} ca_size_keys;

/* An axis of a tensor. */
typedef enum ca_extent {
    CA_EXTENT_ONE,   /* second axis of a vector */
    CA_EXTENT_WIDTH, /* D */
    CA_EXTENT_Q,     /* H Dh */
    CA_EXTENT_KV,    /* K Dh */
    CA_EXTENT_QKV,   /* (H + 2 K) Dh */
    CA_EXTENT_HEAD,  /* Dh */
    CA_EXTENT_MLP,   /* F */
    CA_EXTENT_VOCAB, /* V */
    CA_EXTENT_POSITIONS
} ca_extent;

/* How the rows of a stored tensor become rows of ours. */
typedef enum ca_layout {
    CA_LAYOUT_ROWS,       /* as they are */
    CA_LAYOUT_TRANSPOSED, /* stored [in, out] */
    CA_LAYOUT_NEIGHBOURS, /* rotary pairs stored as neighbours (2 i, 2 i + 1), ours (i, i + Dh/2) */
    CA_LAYOUT_BY_HEAD     /* q, k and v of each head together, ours those of all heads together */
} ca_layout;

/* When a weight exists. */
typedef enum ca_when {
    CA_WHEN_ALWAYS,
    CA_WHEN_UNTIED,
    CA_WHEN_QKV_BIAS,
    CA_WHEN_OUT_BIAS,
    CA_WHEN_MLP_BIAS,
    CA_WHEN_QK_NORM
} ca_when;

/* One stored tensor that fills the next `rows` rows of ours. */
typedef struct ca_weight_part {
    const char *name; /* '*' stands for the layer */
    ca_extent rows;
    ca_layout layout;
} ca_weight_part;

enum { CA_MAX_PARTS = 3 };

/* One tensor of ca_layer or ca_model, made of stored tensors one after the other. */
typedef struct ca_weight_row {
    bool per_layer;
    size_t field; /* offset of the ca_tensor in ca_layer or ca_model */
    ca_extent columns;
    ca_when when;
    ca_weight_part parts[CA_MAX_PARTS]; /* ends at the first without a name */
} ca_weight_row;

typedef struct ca_weight_list {
    const char *prefix; /* left out of the names by some files; "" when never */
    const char *embed, *head;
    int count;
    const ca_weight_row *rows;
} ca_weight_list;

typedef enum ca_bias_rule {
    CA_BIAS_NONE,
    CA_BIAS_ALL,
    CA_BIAS_QKV,       /* on q, k and v only */
    CA_BIAS_KEY,       /* attention_bias or mlp_bias says it */
    CA_BIAS_KEY_OR_ALL /* the same; without such a key everywhere */
} ca_bias_rule;

typedef enum ca_window_rule {
    CA_WINDOW_NONE,
    CA_WINDOW_ALL,  /* sliding_window holds in every layer */
    CA_WINDOW_UPPER /* from layer max_window_layers on, when use_sliding_window is true */
} ca_window_rule;

typedef struct ca_family {
    const char *model_type;        /* of config.json */
    const char *gguf_architecture; /* NULL: not read from GGUF */
    const ca_size_keys *keys;
    const ca_weight_list *weights, *gguf_weights;
    ca_norm_kind norm;
    double epsilon;                      /* when the configuration gives none */
    const char *activation;              /* when the configuration names none */
    bool gated, learned_positions, tied; /* tied: when the configuration does not say */
    ca_qk_norm qk_norm;
    ca_bias_rule attention_bias, mlp_bias;
    ca_window_rule window;
    bool parallel;          /* when use_parallel_residual does not say */
    double rotary_fraction; /* of a head's width, when the configuration gives none; 0 = all */
} ca_family;

/* NULL when there is no such family. */
const ca_family *ca_family_by_model_type(const char *model_type);
const ca_family *ca_family_by_gguf_architecture(const char *architecture);
/* "llama", for messages. */
const char *ca_family_gguf_names(void);
/* Keys of GGUF metadata, the same for every architecture. */
extern const ca_size_keys ca_gguf_size_keys;
/* True for tensors that checkpoints hold although they are no parameters (masks, tables). */
bool ca_family_ignores(const char *tensor_name);

#endif
