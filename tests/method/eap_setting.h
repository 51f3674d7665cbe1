/* SPDX-License-Identifier: MIT
 *
 * What the tests of circuits share: pairs of prompts for the tiny models, a group of pairs with its
 * prefixes, ablated outputs and engine of circuit runs, random circuits, and a slow evaluation of a
 * circuit, destination by destination.
 */
#ifndef CAUSA_TESTS_EAP_SETTING_H
#define CAUSA_TESTS_EAP_SETTING_H

#include "eap/runs.h"
#include "executor.h"

/* The prompts of a fixture as pairs, with first differences at 0, in the middle and near the end.
 * Free `examples` alone: the rest belongs to the fixture. */
ca_dataset eap_pairs_of(fixture *f);

typedef enum ablation { ABLATE_PATCHING, ABLATE_ZERO } ablation;

/* Pairs [first, last) of a data set, ready for circuit runs. */
typedef struct eap_setting {
    fixture *f;
    const ca_dataset *data;
    ca_circuit_graph graph;
    eap_group group;
    ca_batch *prefix_batch, *clean_batch, *corrupted_batch;
    ca_pass *prefix; /* NULL without prefixes */
    method_buffers buffers;
    eap_outputs ablated;
    eap_runs *runs;
    double *clean, *corrupted; /* [pairs, V] logits of plain runs of the tails */
} eap_setting;

/* kv_columns as in ca_circuit_graph_of; sources: 0 = as many as all lanes need. */
void eap_setting_open(eap_setting *s, fixture *f, const ca_dataset *data, int64_t first,
                      int64_t last, int64_t kv_columns, ablation ablated, int64_t lanes,
                      int64_t sources);
void eap_setting_close(eap_setting *s);
/* Logits [pairs, V] of each of the circuits, in as many calls as it takes. */
double *eap_setting_run(eap_setting *s, const ca_circuit *circuits, int64_t count);

/* Every edge with the given chance, pruned. */
ca_circuit random_circuit(const ca_circuit_graph *g, double chance, uint64_t seed);
/* The same with a mask that keeps every neuron with a chance of its own. */
ca_circuit random_neurons(const ca_circuit_graph *g, double edges, double neurons, uint64_t seed);
ca_circuit full_circuit(const ca_circuit_graph *g);

/* Logits [V] of a circuit at the last token of pair n of the data, on whole prompts: the input of
 * every destination is added up in float64 from the outputs of all sources, then the one head or
 * MLP that reads it is run. */
double *slow_circuit(eap_setting *s, const ca_circuit *circuit, int64_t n, ablation ablated);

#endif
