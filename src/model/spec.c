/* SPDX-License-Identifier: MIT
 *
 * The part of reading an architecture that is the same for config.json and GGUF metadata: sizes,
 * their limits and agreement, and what the family row decides. Called by model_file.c.
 */
#include "spec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Products of any three sizes stay far below 2^63. */
enum {
    MAX_LAYERS = 1 << 12,
    MAX_HEADS = 1 << 14,
    MAX_HEAD_DIM = 1 << 14,
    MAX_WIDTH = 1 << 24,
    MAX_LENGTH = INT32_MAX /* positions and token ids are 32-bit */
};

static ca_status read_activation(const ca_keys *keys, const char *key, const char *otherwise,
                                 ca_activation *activation) {
    static const struct {
        const char *name;
        ca_activation activation;
    } known[] = {{"silu", CA_SILU},
                 {"swish", CA_SILU},
                 {"gelu_new", CA_GELU_TANH},
                 {"gelu_pytorch_tanh", CA_GELU_TANH},
                 {"gelu_fast", CA_GELU_TANH},
                 {"gelu", CA_GELU},
                 {"relu", CA_RELU}};
    ca_status st = CA_OK;
    char name[32];
    snprintf(name, sizeof name, "%s", otherwise);
    if (ca_keys_has(keys, key)) CA_TRY(ca_keys_text(keys, key, name, sizeof name));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].name, name) != 0) continue;
        *activation = known[i].activation;
        return CA_OK;
    }
    st = ca_fail(CA_E_MODEL,
                 "%s: %s: expected silu, gelu, gelu_new, gelu_pytorch_tanh or relu, "
                 "got '%s'",
                 keys->file, key, name);
out:
    return st;
}

static ca_status read_heads(ca_arch *a, const ca_keys *keys, const ca_size_keys *names) {
    ca_status st = CA_OK;
    CA_TRY(ca_keys_int(keys, names->heads, 1, MAX_HEADS, &a->heads));
    a->kv_heads = a->heads;
    if (ca_keys_has(keys, names->kv_heads))
        CA_TRY(ca_keys_int(keys, names->kv_heads, 1, MAX_HEADS, &a->kv_heads));
    if (a->heads % a->kv_heads != 0) {
        st = ca_fail(CA_E_MODEL, "%s: %s%s: expected a divisor of %lld (%s), got %lld", keys->file,
                     keys->prefix, names->kv_heads, (long long)a->heads, names->heads,
                     (long long)a->kv_heads);
        goto out;
    }
    if (ca_keys_has(keys, names->head_dim)) {
        CA_TRY(ca_keys_int(keys, names->head_dim, 1, MAX_HEAD_DIM, &a->head_dim));
    } else if (a->width % a->heads != 0) {
        st = ca_fail(CA_E_MODEL, "%s: %s%s: expected a divisor of %lld (%s), got %lld", keys->file,
                     keys->prefix, names->heads, (long long)a->width, names->width,
                     (long long)a->heads);
    } else {
        a->head_dim = a->width / a->heads;
    }
out:
    return st;
}

ca_status ca_spec_read_sizes(ca_spec *spec, const ca_keys *keys, const ca_size_keys *names) {
    ca_status st = CA_OK;
    const ca_family *family = spec->family;
    ca_arch *a = &spec->arch;
    const char *positions = names->positions;
    if (!ca_keys_has(keys, positions) && ca_keys_has(keys, names->old_positions))
        positions = names->old_positions;
    *a = (ca_arch){.family = family->model_type,
                   .pre_norm = true,
                   .qk_norm = family->qk_norm,
                   .gated = family->gated,
                   .learned_positions = family->learned_positions,
                   .embed_scale = 1,
                   .initializer_range = 0.02,
                   .norm = {family->norm, family->epsilon, 0}};
    CA_TRY(ca_keys_int(keys, names->layers, 1, MAX_LAYERS, &a->layers));
    CA_TRY(ca_keys_int(keys, names->width, 1, MAX_WIDTH, &a->width));
    CA_TRY(read_heads(a, keys, names));
    a->mlp_width = 4 * a->width;
    if (ca_keys_has(keys, names->mlp_width) || family->gated)
        CA_TRY(ca_keys_int(keys, names->mlp_width, 1, MAX_WIDTH, &a->mlp_width));
    CA_TRY(ca_keys_int(keys, positions, 1, MAX_LENGTH, &a->max_positions));
    if (names->vocab != NULL) CA_TRY(ca_keys_int(keys, names->vocab, 1, MAX_LENGTH, &a->vocab));
    if (ca_keys_has(keys, names->epsilon))
        CA_TRY(ca_keys_positive(keys, names->epsilon, &a->norm.epsilon));
    CA_TRY(read_activation(keys, names->activation, family->activation, &a->activation));
    a->attention_scale = 1 / sqrt((double)a->head_dim);
    CA_TRY(ca_calloc((size_t)a->layers, sizeof *spec->layers, &spec->layers));
    for (int64_t l = 0; l < a->layers; l++)
        spec->layers[l].rope = family->learned_positions ? -1 : 0;
out:
    return st;
}

ca_status ca_spec_set_rope(const ca_keys *keys, ca_arch *arch, const ca_rope_config *rope) {
    if (rope->dim < 2 || rope->dim > arch->head_dim || rope->dim % 2 != 0)
        return ca_fail(CA_E_MODEL,
                       "%s: rotary embedding: expected an even number of rotated values "
                       "up to %lld (head width), got %lld",
                       keys->file, (long long)arch->head_dim, (long long)rope->dim);
    arch->rope[0] = *rope;
    arch->rope_count = 1;
    return CA_OK;
}

ca_status ca_spec_read(const ca_checkpoint *c, ca_spec *spec) {
    return c->gguf != NULL ? ca_gguf_config_read(c, spec) : ca_hf_config_read(c, spec);
}

void ca_spec_free(ca_spec *spec) {
    free(spec->layers);
    spec->layers = NULL;
}
