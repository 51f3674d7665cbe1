/* SPDX-License-Identifier: MIT
 *
 * Scores of neurons: coordinates of every source's output, and of hidden units of the MLPs, from
 * the gradients at these outputs that gradients.h sums.
 *
 *   S[u, d] = sum over rows of (ablated_u - clean_u)[d] g_u[d]
 */
#ifndef CAUSA_METHOD_EAP_NEURONS_H
#define CAUSA_METHOD_EAP_NEURONS_H

#include "causa/circuit.h"

#include "gradients.h"

typedef struct eap_neurons {
    const eap_gradients *gradients;
    const ca_circuit_graph *graph;
    int64_t longest; /* rows of a pair */
    bool hidden;     /* hidden units, else outputs */
    method_buffers buffers;
    ca_tensor product; /* [F, longest, D] or [L, longest, d_ff] */
    ca_tensor score;   /* [F, D] or [L, d_ff] */
} eap_neurons;

int64_t ca_eap_neurons_bytes(const ca_arch *arch, ca_dtype dtype, const ca_circuit_graph *graph,
                             int64_t longest, bool hidden);
ca_status ca_eap_neurons_create(const eap_gradients *gradients, const ca_circuit_graph *graph,
                                int64_t longest, bool hidden, eap_neurons *out) CA_MUST_USE;
void ca_eap_neurons_free(eap_neurons *neurons);

/* Scores of pair n of the group from the last pass, [count, D] of sources or [count, d_ff] of
 * layers from `first` on; valid until the next call. */
ca_status ca_eap_neurons_pair(eap_neurons *neurons, int64_t n, int64_t first, int64_t count,
                              ca_tensor *score) CA_MUST_USE;

#endif
