/* SPDX-License-Identifier: MIT
 *
 * What the configuration of a model says: its architecture, what each layer differs in, and which
 * optional weights exist.
 */
#ifndef CAUSA_MODEL_SPEC_H
#define CAUSA_MODEL_SPEC_H

#include "family.h"
#include "keys.h"

typedef struct ca_layer_spec {
    int rope;       /* index into arch.rope, -1 = none */
    int64_t window; /* 0 = no limit */
} ca_layer_spec;

typedef struct ca_spec {
    const ca_family *family;
    const ca_weight_list *weights;
    ca_arch arch;
    ca_layer_spec *layers; /* [L] */
    bool qkv_bias, out_bias, mlp_bias;
    /* [rope[0].dim / 2] f32 divisors of the frequencies that some GGUF files carry, or NULL */
    const unsigned char *rope_divisors;
} ca_spec;

/* Reads the architecture from config.json or GGUF metadata. `spec` is released with ca_spec_free
 * also after an error. Errors: CA_E_MODEL naming file and key. */
ca_status ca_spec_read(const ca_checkpoint *c, ca_spec *spec) CA_MUST_USE;
void ca_spec_free(ca_spec *spec);

/* The two readers behind ca_spec_read. */
ca_status ca_hf_config_read(const ca_checkpoint *c, ca_spec *spec) CA_MUST_USE;
ca_status ca_gguf_config_read(const ca_checkpoint *c, ca_spec *spec) CA_MUST_USE;
/* What they share: sizes and the parts of the block that the family row decides. names->vocab may
 * be NULL: then the caller sets arch.vocab. */
ca_status ca_spec_read_sizes(ca_spec *spec, const ca_keys *keys,
                             const ca_size_keys *names) CA_MUST_USE;
/* Makes `rope` the one rotary table of all layers. */
ca_status ca_spec_set_rope(const ca_keys *keys, ca_arch *arch,
                           const ca_rope_config *rope) CA_MUST_USE;

#endif
