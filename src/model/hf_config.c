/* SPDX-License-Identifier: MIT
 *
 * Reads config.json of a Hugging Face directory, in its old spelling (rope_theta, rope_scaling) and
 * in that of transformers 5 (rope_parameters, layer_types). A key that is null counts as absent.
 */
#include <math.h>
#include <string.h>

#include "spec.h"

/* ---- rotary embedding */

/* The kind, under "rope_type" or its older spelling "type". Without either there must be nothing to
 * scale by. */
static ca_status read_rope_kind(const ca_keys *rope, ca_rope_kind *kind) {
    static const struct {
        const char *name;
        ca_rope_kind kind;
    } known[] = {
        {"default", CA_ROPE_DEFAULT}, {"linear", CA_ROPE_LINEAR}, {"llama3", CA_ROPE_LLAMA3}};
    ca_status st = CA_OK;
    char name[32] = "default", old[32];
    if (ca_keys_has(rope, "factor")) strcpy(name, "none");
    bool has_new = ca_keys_has(rope, "rope_type"), has_old = ca_keys_has(rope, "type");
    if (has_old) {
        CA_TRY(ca_keys_text(rope, "type", old, sizeof old));
        memcpy(name, old, sizeof name);
    }
    if (has_new) CA_TRY(ca_keys_text(rope, "rope_type", name, sizeof name));
    if (has_new && has_old && strcmp(name, old) != 0) {
        st = ca_fail(CA_E_MODEL,
                     "%s: %srope_type: expected the same as the older key type ('%s'), "
                     "got '%s'",
                     rope->file, rope->prefix, old, name);
        goto out;
    }
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].name, name) != 0) continue;
        *kind = known[i].kind;
        return CA_OK;
    }
    st = ca_fail(CA_E_MODEL, "%s: %srope_type: expected default, linear or llama3, got '%s'",
                 rope->file, rope->prefix, name);
out:
    return st;
}

/* An object rope_scaling or rope_parameters; theta is also a key of its own in the old spelling. */
static ca_status read_rope_object(const ca_keys *rope, ca_rope_config *r) {
    ca_status st = CA_OK;
    CA_TRY(read_rope_kind(rope, &r->kind));
    if (ca_keys_has(rope, "rope_theta")) CA_TRY(ca_keys_positive(rope, "rope_theta", &r->theta));
    r->factor = r->low_freq_factor = r->high_freq_factor = 1;
    r->original_max_positions = 0;
    if (r->kind == CA_ROPE_DEFAULT) goto out;
    CA_TRY(ca_keys_positive(rope, "factor", &r->factor));
    if (r->kind != CA_ROPE_LLAMA3) goto out;
    CA_TRY(ca_keys_positive(rope, "low_freq_factor", &r->low_freq_factor));
    CA_TRY(ca_keys_positive(rope, "high_freq_factor", &r->high_freq_factor));
    CA_TRY(ca_keys_int(rope, "original_max_position_embeddings", 1, INT32_MAX,
                       &r->original_max_positions));
    if (r->high_freq_factor <= r->low_freq_factor)
        st = ca_fail(CA_E_MODEL,
                     "%s: %shigh_freq_factor: expected more than low_freq_factor (%g), "
                     "got %g",
                     rope->file, rope->prefix, r->low_freq_factor, r->high_freq_factor);
out:
    return st;
}

static bool same_rope(const ca_rope_config *a, const ca_rope_config *b) {
    return a->kind == b->kind && a->theta == b->theta && a->factor == b->factor &&
           a->low_freq_factor == b->low_freq_factor && a->high_freq_factor == b->high_freq_factor &&
           a->original_max_positions == b->original_max_positions;
}

/* The new spelling is read first. Where the old one is there as well it must say the same; what it
 * leaves out it inherits. */
static ca_status read_rope(const ca_keys *keys, const ca_family *family, ca_arch *a) {
    ca_status st = CA_OK;
    ca_keys inner;
    double fraction = family->rotary_fraction > 0 ? family->rotary_fraction : 1;
    ca_rope_config r = {.theta = 1e4, .factor = 1, .low_freq_factor = 1, .high_freq_factor = 1};
    bool is_new = ca_keys_has(keys, "rope_parameters");
    if (ca_keys_has(keys, "rotary_pct")) CA_TRY(ca_keys_positive(keys, "rotary_pct", &fraction));
    if (ca_keys_has(keys, "partial_rotary_factor"))
        CA_TRY(ca_keys_positive(keys, "partial_rotary_factor", &fraction));
    if (is_new) {
        CA_TRY(ca_keys_object(keys, "rope_parameters", &inner));
        CA_TRY(read_rope_object(&inner, &r));
        if (ca_keys_has(&inner, "partial_rotary_factor"))
            CA_TRY(ca_keys_positive(&inner, "partial_rotary_factor", &fraction));
    }
    ca_rope_config old = r;
    if (ca_keys_has(keys, "rotary_emb_base"))
        CA_TRY(ca_keys_positive(keys, "rotary_emb_base", &old.theta));
    if (ca_keys_has(keys, "rope_theta")) CA_TRY(ca_keys_positive(keys, "rope_theta", &old.theta));
    if (ca_keys_has(keys, "rope_scaling")) {
        CA_TRY(ca_keys_object(keys, "rope_scaling", &inner));
        CA_TRY(read_rope_object(&inner, &old));
    }
    if (is_new && !same_rope(&r, &old)) {
        st = ca_fail(CA_E_MODEL,
                     "%s: rope_parameters: expected the same as the older keys "
                     "rope_theta and rope_scaling, got other values",
                     keys->file);
        goto out;
    }
    if (fraction > 1) {
        st = ca_fail(CA_E_MODEL, "%s: partial_rotary_factor: expected at most 1, got %g",
                     keys->file, fraction);
        goto out;
    }
    old.dim = (int64_t)(fraction * (double)a->head_dim);
    CA_TRY(ca_spec_set_rope(keys, a, &old));
out:
    return st;
}

/* ---- attention window */

/* layer_types, where given, says which layers are windowed. */
static ca_status read_layer_types(const ca_keys *keys, ca_spec *spec, int64_t window) {
    json_t *types = json_object_get(keys->object, "layer_types");
    if (!json_is_array(types) || json_array_size(types) != (size_t)spec->arch.layers)
        return ca_fail(CA_E_MODEL,
                       "%s: layer_types: expected an array of %lld strings, got another "
                       "value",
                       keys->file, (long long)spec->arch.layers);
    for (int64_t l = 0; l < spec->arch.layers; l++) {
        const char *type = json_string_value(json_array_get(types, (size_t)l));
        bool is_local = type != NULL && strcmp(type, "sliding_attention") == 0;
        if (!is_local && (type == NULL || strcmp(type, "full_attention") != 0))
            return ca_fail(CA_E_MODEL,
                           "%s: layer_types[%lld]: expected full_attention or "
                           "sliding_attention, got '%.40s'",
                           keys->file, (long long)l, type == NULL ? "another value" : type);
        if (is_local && window == 0)
            return ca_fail(CA_E_MODEL,
                           "%s: layer_types[%lld]: expected full_attention because "
                           "sliding_window is off, got sliding_attention",
                           keys->file, (long long)l);
        spec->layers[l].window = is_local ? window : 0;
    }
    return CA_OK;
}

static ca_status read_windows(const ca_keys *keys, ca_spec *spec) {
    ca_status st = CA_OK;
    ca_window_rule rule = spec->family->window;
    int64_t window = 0, first = 0;
    bool is_on = rule == CA_WINDOW_ALL;
    if (rule == CA_WINDOW_NONE) return CA_OK;
    if (rule == CA_WINDOW_UPPER && ca_keys_has(keys, "use_sliding_window"))
        CA_TRY(ca_keys_bool(keys, "use_sliding_window", &is_on));
    if (is_on && ca_keys_has(keys, "sliding_window"))
        CA_TRY(ca_keys_int(keys, "sliding_window", 1, INT32_MAX, &window));
    if (ca_keys_has(keys, "layer_types")) {
        CA_TRY(read_layer_types(keys, spec, window));
        goto out;
    }
    if (window > 0 && rule == CA_WINDOW_UPPER)
        CA_TRY(ca_keys_int(keys, "max_window_layers", 0, INT32_MAX, &first));
    for (int64_t l = first; l < spec->arch.layers; l++) spec->layers[l].window = window;
out:
    return st;
}

/* ---- the rest */

static ca_status read_bias(const ca_keys *keys, const char *key, ca_bias_rule rule, bool *inner,
                           bool *outer) {
    ca_status st = CA_OK;
    bool value = rule == CA_BIAS_KEY_OR_ALL;
    if ((rule == CA_BIAS_KEY || rule == CA_BIAS_KEY_OR_ALL) && ca_keys_has(keys, key))
        CA_TRY(ca_keys_bool(keys, key, &value));
    *inner = value || rule == CA_BIAS_ALL || rule == CA_BIAS_QKV;
    *outer = value || rule == CA_BIAS_ALL;
out:
    return st;
}

/* Variants that would run without a complaint and give other numbers. */
static ca_status refuse_variants(const ca_keys *keys) {
    static const char *const unwanted[] = {"add_cross_attention", "is_encoder_decoder"};
    ca_status st = CA_OK;
    for (size_t i = 0; i < sizeof unwanted / sizeof *unwanted; i++) {
        bool value = false;
        if (ca_keys_has(keys, unwanted[i])) CA_TRY(ca_keys_bool(keys, unwanted[i], &value));
        if (!value) continue;
        st = ca_fail(CA_E_MODEL, "%s: %s: expected false (a decoder alone), got true", keys->file,
                     unwanted[i]);
        goto out;
    }
    if (ca_keys_has(keys, "quantization_config"))
        st = ca_fail(CA_E_MODEL,
                     "%s: quantization_config: expected weights in F32, F16 or BF16, or "
                     "a GGUF file, got quantised ones",
                     keys->file);
out:
    return st;
}

/* GPT-2's options for the scale of attention scores. */
static ca_status read_scale(const ca_keys *keys, ca_arch *a) {
    ca_status st = CA_OK;
    bool is_scaled = true;
    if (ca_keys_has(keys, "scale_attn_weights"))
        CA_TRY(ca_keys_bool(keys, "scale_attn_weights", &is_scaled));
    if (!is_scaled) a->attention_scale = 1;
    if (ca_keys_has(keys, "scale_attn_by_inverse_layer_idx"))
        CA_TRY(ca_keys_bool(keys, "scale_attn_by_inverse_layer_idx", &a->scale_by_layer));
out:
    return st;
}

static ca_status find_family(const ca_keys *keys, const ca_family **family) {
    ca_status st = CA_OK;
    char model_type[64], class_name[64] = "none";
    CA_TRY(ca_keys_text(keys, "model_type", model_type, sizeof model_type));
    *family = ca_family_by_model_type(model_type);
    if (*family != NULL) goto out;
    json_t *first = json_array_get(json_object_get(keys->object, "architectures"), 0);
    if (json_is_string(first))
        snprintf(class_name, sizeof class_name, "%s", json_string_value(first));
    st = ca_fail(CA_E_MODEL, "%s: model_type: expected one of %s, got '%s' (architectures: %s)",
                 keys->file, ca_family_names(), model_type, class_name);
out:
    return st;
}

ca_status ca_hf_config_read(const ca_checkpoint *c, ca_spec *spec) {
    ca_status st = CA_OK;
    ca_keys keys = {.file = c->config_file, .object = c->json};
    CA_TRY(find_family(&keys, &spec->family));
    const ca_family *family = spec->family;
    ca_arch *a = &spec->arch;
    spec->weights = family->weights;
    CA_TRY(refuse_variants(&keys));
    CA_TRY(ca_spec_read_sizes(spec, &keys, family->keys));
    a->tied = family->tied;
    if (ca_keys_has(&keys, "tie_word_embeddings"))
        CA_TRY(ca_keys_bool(&keys, "tie_word_embeddings", &a->tied));
    CA_TRY(read_bias(&keys, "attention_bias", family->attention_bias, &spec->qkv_bias,
                     &spec->out_bias));
    CA_TRY(read_bias(&keys, "mlp_bias", family->mlp_bias, &spec->mlp_bias, &spec->mlp_bias));
    a->parallel = family->parallel;
    if (ca_keys_has(&keys, "use_parallel_residual"))
        CA_TRY(ca_keys_bool(&keys, "use_parallel_residual", &a->parallel));
    if (ca_keys_has(&keys, "initializer_range"))
        CA_TRY(ca_keys_positive(&keys, "initializer_range", &a->initializer_range));
    CA_TRY(read_windows(&keys, spec));
    if (family->learned_positions)
        CA_TRY(read_scale(&keys, a));
    else
        CA_TRY(read_rope(&keys, family, a));
out:
    return st;
}
