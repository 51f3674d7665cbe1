/* SPDX-License-Identifier: MIT
 *
 * Exact patching: the change of the loss when one edge, or one node with all its edges, is ablated
 * in the clean run.
 */
#ifndef CAUSA_METHOD_EAP_EXACT_H
#define CAUSA_METHOD_EAP_EXACT_H

#include "causa/circuit.h"

#include "restart.h"

typedef struct eap_exact {
    const eap_ends *ends;          /* made with keep_stream */
    const ca_circuit_graph *graph; /* whose shared k and v columns change for all their heads */
    int64_t longest, block;        /* tail rows of a pair; sources whose inputs are made together */
    eap_restart restart;
    ca_batch *batch; /* block sequences of one pair, for their attention */
    method_buffers buffers;
    ca_tensor source;    /* [F, longest, D] differences of outputs */
    ca_tensor x, normed; /* [block longest, D] changed inputs of a layer */
    ca_tensor qkv,
        clean;        /* [block longest, (H + 2 K) Dh] of these, and of the clean input, repeated */
    ca_tensor z, lse; /* [block longest, n, Dh], [block longest, n]; n the heads of a k column */
} eap_exact;

/* Bytes of backend memory. rows: of a pass. */
int64_t ca_eap_exact_bytes(const ca_arch *arch, ca_dtype dtype, const ca_circuit_graph *graph,
                           int64_t rows, int64_t longest, int64_t reads);
ca_status ca_eap_exact_create(const eap_ends *ends, const ca_circuit_graph *graph,
                              method_scorer *scorer, int64_t rows, int64_t longest,
                              eap_exact *out) CA_MUST_USE;
void ca_eap_exact_free(eap_exact *exact);
/* Floating-point operations for one pair of `rows` tail rows on `prefix` rows. */
double ca_eap_exact_flops(const ca_arch *arch, const ca_circuit_graph *graph, int64_t rows,
                          int64_t prefix, bool nodes);

/* metric [F, R] of pair n of the ends' group with each edge ablated; entries that are no edges are
 * left alone. The ends have been run, and subtracted. */
ca_status ca_eap_exact_edges(eap_exact *exact, int64_t n, double *metric) CA_MUST_USE;
/* metric [F] with each node ablated. */
ca_status ca_eap_exact_nodes(eap_exact *exact, int64_t n, double *metric) CA_MUST_USE;

#endif
