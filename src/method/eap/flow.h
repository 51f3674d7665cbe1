/* SPDX-License-Identifier: MIT
 *
 * Information flow routes: how near each source's output brings a destination's input, without
 * gradients and in the clean run alone.
 *
 *   proximity(u, v) = max(0, |x_v|_1 - |x_v - a_u|_1)
 *   S[u, v] = mean over a prompt's tokens of proximity / sum over v's sources of proximity
 *
 * 0 where no source is near. Heads of a layer read the same input, so their columns are equal.
 * Source: Ferrando and Voita 2024, "Information flow routes", arXiv 2403.00824, with the edges of
 * edge attribution.
 */
#ifndef CAUSA_METHOD_EAP_FLOW_H
#define CAUSA_METHOD_EAP_FLOW_H

#include "causa/circuit.h"

#include "ends.h"

typedef struct eap_flow {
    const eap_ends *ends; /* made with keep_stream */
    const ca_circuit_graph *graph;
    int64_t rows; /* expanded at a time */
    method_buffers buffers;
    ca_tensor source;         /* [F, rows, D] clean outputs */
    ca_tensor distance, norm; /* [F, rows], [rows] */
    void *staging;            /* [F, rows] */
    double *distance_host, *norm_host;
} eap_flow;

int64_t ca_eap_flow_bytes(ca_dtype dtype, const ca_circuit_graph *graph, int64_t rows);
ca_status ca_eap_flow_create(const eap_ends *ends, const ca_circuit_graph *graph, int64_t rows,
                             eap_flow *out) CA_MUST_USE;
void ca_eap_flow_free(eap_flow *flow);
double ca_eap_flow_flops(const ca_circuit_graph *graph, int64_t rows);

/* Adds the scores of pair n of the ends' group, whose clean run is done, to score [F, R]. */
ca_status ca_eap_flow_pair(eap_flow *flow, int64_t n, double *score) CA_MUST_USE;

#endif
