/* SPDX-License-Identifier: MIT
 *
 * Reads the architecture from the metadata of a GGUF file. What config.json says by keys a GGUF
 * file often says by having a tensor: an output head, biases, divisors of rotary frequencies.
 */
#include <math.h>
#include <string.h>

#include "spec.h"

enum { MAX_ARCHITECTURE = 32 };

static ca_status find_family(const ca_keys *general, char architecture[MAX_ARCHITECTURE],
                             const ca_family **family) {
    ca_status st = CA_OK;
    CA_TRY(ca_keys_text(general, "architecture", architecture, MAX_ARCHITECTURE));
    *family = ca_family_by_gguf_architecture(architecture);
    if (*family == NULL)
        st = ca_fail(CA_E_MODEL, "%s: general.architecture: expected one of %s, got '%s'",
                     general->file, ca_family_gguf_names(), architecture);
out:
    return st;
}

/* llama.cpp writes the frequencies of Llama 3.1 and later as one divisor per pair. */
static ca_status read_divisors(const ca_checkpoint *c, ca_spec *spec) {
    const ca_weight *w = ca_checkpoint_find(c, "rope_freqs.weight");
    if (w == NULL) return CA_OK;
    int64_t pairs = spec->arch.rope[0].dim / 2;
    if (strcmp(w->type, "F32") != 0 || w->rank != 1 || w->shape[0] != pairs)
        return ca_fail(CA_E_MODEL, "%s: tensor '%s': expected [%lld] F32, got rank %d of %lld %s",
                       w->file, w->name, (long long)pairs, w->rank, (long long)w->shape[0],
                       w->type);
    for (int64_t i = 0; i < pairs; i++) {
        float divisor;
        memcpy(&divisor, w->data + (size_t)i * sizeof divisor, sizeof divisor);
        if (!(divisor > 0) || !isfinite(divisor))
            return ca_fail(CA_E_MODEL,
                           "%s: tensor '%s': expected values above 0, but value %lld is "
                           "%g",
                           w->file, w->name, (long long)i, (double)divisor);
    }
    spec->rope_divisors = w->data;
    return CA_OK;
}

/* Rows of q and k are stored for rotation of whole heads, so dimension_count must be the head
 * width. */
static ca_status read_rope(const ca_checkpoint *c, const ca_keys *keys, ca_spec *spec) {
    ca_status st = CA_OK;
    ca_arch *a = &spec->arch;
    ca_rope_config r = {.theta = 1e4, .factor = 1, .low_freq_factor = 1, .high_freq_factor = 1};
    char kind[16] = "none";
    r.dim = a->head_dim;
    if (ca_keys_has(keys, "rope.freq_base"))
        CA_TRY(ca_keys_positive(keys, "rope.freq_base", &r.theta));
    if (ca_keys_has(keys, "rope.dimension_count"))
        CA_TRY(ca_keys_int(keys, "rope.dimension_count", a->head_dim, a->head_dim, &r.dim));
    if (ca_keys_has(keys, "rope.scaling.type"))
        CA_TRY(ca_keys_text(keys, "rope.scaling.type", kind, sizeof kind));
    if (strcmp(kind, "linear") == 0) {
        r.kind = CA_ROPE_LINEAR;
        CA_TRY(ca_keys_positive(keys, "rope.scaling.factor", &r.factor));
    } else if (strcmp(kind, "none") != 0) {
        st = ca_fail(CA_E_MODEL, "%s: %srope.scaling.type: expected none or linear, got '%s'",
                     keys->file, keys->prefix, kind);
        goto out;
    }
    CA_TRY(ca_spec_set_rope(keys, a, &r));
    CA_TRY(read_divisors(c, spec));
out:
    return st;
}

ca_status ca_gguf_config_read(const ca_checkpoint *c, ca_spec *spec) {
    ca_status st = CA_OK;
    char architecture[MAX_ARCHITECTURE];
    ca_size_keys names = ca_gguf_size_keys;
    ca_keys general = {.file = c->path, .prefix = "general.", .gguf = c->gguf};
    ca_keys keys = {.file = c->path, .gguf = c->gguf};
    CA_TRY(find_family(&general, architecture, &spec->family));
    snprintf(keys.prefix, sizeof keys.prefix, "%s.", architecture);
    spec->weights = spec->family->gguf_weights;
    const ca_weight *embed = ca_checkpoint_find(c, spec->weights->embed);
    bool has_vocab = ca_keys_has(&keys, names.vocab);
    if (!has_vocab) names.vocab = NULL;
    CA_TRY(ca_spec_read_sizes(spec, &keys, &names));
    if (!has_vocab && embed != NULL && embed->shape[0] <= INT32_MAX)
        spec->arch.vocab = embed->shape[0];
    spec->arch.tied = ca_checkpoint_find(c, spec->weights->head) == NULL;
    spec->qkv_bias = ca_checkpoint_find(c, "blk.0.attn_q.bias") != NULL;
    spec->out_bias = ca_checkpoint_find(c, "blk.0.attn_output.bias") != NULL;
    spec->mlp_bias = ca_checkpoint_find(c, "blk.0.ffn_gate.bias") != NULL;
    if (ca_keys_has(&keys, "attention.sliding_window")) {
        int64_t window = 0;
        CA_TRY(ca_keys_int(&keys, "attention.sliding_window", 0, INT32_MAX, &window));
        for (int64_t l = 0; l < spec->arch.layers; l++) spec->layers[l].window = window;
    }
    CA_TRY(read_rope(c, &keys, spec));
out:
    return st;
}
