/* SPDX-License-Identifier: MIT
 *
 * Circuit runs: the clean prompts run so that every destination of a circuit reads a mixture of its
 * own, current outputs over kept edges and ablated outputs over all others. Several circuits of a
 * group of pairs are lanes of one batch.
 *
 *   x_v = background + sum over kept u -> v of out_u + sum over the others of ablated_u
 *
 * where out_u is what u computes, or with a mask of neurons n_u * it + (1 - n_u) * ablated_u.
 *
 * A source outside the circuit puts out its ablated output and is not run. So the circuit of all
 * edges is the clean run and the empty one the ablated run (the corrupted one under patching), on
 * `ref` bit for bit.
 */
#ifndef CAUSA_METHOD_EAP_RUNS_H
#define CAUSA_METHOD_EAP_RUNS_H

#include "causa/circuit.h"

#include "pairs.h"

/* Upper bounds of what an engine holds. */
typedef struct eap_runs_sizes {
    eap_group_sizes group;
    int64_t lanes;   /* circuits that run together */
    int64_t sources; /* of all circuits that run together, enough for any one of them */
    bool neurons;    /* circuits may have masks of neurons */
} eap_runs_sizes;

typedef struct eap_runs eap_runs;

/* Backend memory and host memory that an engine takes. */
int64_t ca_eap_runs_bytes(const ca_arch *arch, ca_dtype dtype, const ca_circuit_graph *graph,
                          eap_runs_sizes sizes);
int64_t ca_eap_runs_host_bytes(const ca_circuit_graph *graph, eap_runs_sizes sizes);
/* Floating-point operations of one circuit with all nodes over `rows` rows that see `keys` keys,
 * without the head: an upper bound, since nodes outside a circuit cost nothing. */
double ca_eap_runs_flops(const ca_arch *arch, const ca_circuit_graph *graph, int64_t rows,
                         int64_t keys);
/* The model's family must be one with norms before, and none after, attention and MLP, and without
 * a q/k norm over all heads (asserted): there, the input of a head is no sum of outputs. */
ca_status ca_eap_runs_create(const ca_model *model, const ca_circuit_graph *graph,
                             eap_runs_sizes sizes, eap_runs **out) CA_MUST_USE;
void ca_eap_runs_free(eap_runs *runs);

/* Begins a group: runs the ablated residual stream once.
 *
 * prefix   the pass over the group's prefixes, made with key_values; NULL without prefixes
 * ablated  outputs of T rows
 * All three must outlive the runs of the group. */
ca_status ca_eap_runs_group(eap_runs *runs, const eap_group *group, const ca_pass *prefix,
                            const eap_outputs *ablated) CA_MUST_USE;
/* How many circuits, from the first on, can run together; at least one. */
int64_t ca_eap_runs_fit(const eap_runs *runs, const ca_circuit *circuits, int64_t count);
/* Runs circuits that fit together. logits [count * reads, V] at the tokens that are read of the
 * pairs, all pairs of the first circuit first; valid until the next call. */
ca_status ca_eap_runs_circuits(eap_runs *runs, const ca_circuit *circuits, int64_t count,
                               ca_tensor *logits) CA_MUST_USE;

#endif
