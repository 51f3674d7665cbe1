/* SPDX-License-Identifier: MIT
 *
 * What takes the place of a source's output when it is ablated, other than its output on the
 * corrupted prompt: nothing, or its mean over the clean prompts of the data.
 */
#ifndef CAUSA_METHOD_EAP_ABLATION_H
#define CAUSA_METHOD_EAP_ABLATION_H

#include "pairs.h"

typedef enum eap_ablation_kind {
    EAP_PATCHING,        /* its output on the corrupted prompt */
    EAP_ZERO,            /* nothing: biases of outputs are part of an MLP and not of a head */
    EAP_MEAN,            /* mean over prompts of the mean over a prompt's tokens */
    EAP_MEAN_POSITIONAL, /* mean over prompts at the same position: prompts of one length */
    /* A peer's means, which are the same for all sources: mean over sources and prompts of the
     * output at the last token divided by the prompt's length. The output itself is ablated by
     * nothing, and this one vector added to every source's difference. */
    EAP_ONE_MEAN
} eap_ablation_kind;

typedef struct eap_ablation {
    eap_ablation_kind kind;
    int64_t positions; /* P: 1, or the length of all prompts; 0 when there is no mean */
    bool hidden;       /* hidden units are ablated too */
    method_buffers buffers;
    eap_outputs mean; /* of P rows */
    eap_outputs sum;  /* of one row: scratch */
    ca_tensor one;    /* [D] of EAP_ONE_MEAN, else absent */
} eap_ablation;

/* Bytes of backend memory for the kind, with P positions and hidden units or not. */
int64_t ca_eap_ablation_bytes(const ca_arch *arch, ca_dtype dtype, const eap_ablation *ablation);
/* kind, positions and hidden are set. The means are 0 at first. */
ca_status ca_eap_ablation_create(const ca_model *model, eap_ablation *ablation) CA_MUST_USE;
void ca_eap_ablation_free(eap_ablation *ablation);

/* Adds the clean outputs of a group of whole prompts to the means over `examples` prompts. */
ca_status ca_eap_ablation_add(eap_ablation *ablation, const ca_model *model, const eap_group *group,
                              const eap_outputs *clean, int64_t examples) CA_MUST_USE;
/* Outputs of ablated sources, and hidden units, in the rows of a group of whole prompts. */
ca_status ca_eap_ablation_fill(const eap_ablation *ablation, ca_backend *backend,
                               const eap_group *group, const eap_outputs *to) CA_MUST_USE;

#endif
