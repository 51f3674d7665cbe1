/* SPDX-License-Identifier: MIT
 *
 * Scores added up on the host in float64: over passes, points and pairs, of edges, nodes, neurons
 * and hidden units, and what a stopped run keeps of them.
 */
#ifndef CAUSA_METHOD_EAP_SUMS_H
#define CAUSA_METHOD_EAP_SUMS_H

#include "causa/circuit.h"
#include "causa/result.h"

/* What is scored; columns of /edges are those of `graph`. */
typedef struct eap_sums {
    ca_circuit_graph query; /* what the passes give: of gradients one k and v column per query head,
                               else as `graph` */
    ca_circuit_graph graph; /* one k and v column per query head, or shared ones */
    int64_t hidden;         /* d_ff with scores of hidden units, else 0 */
    bool edges, neurons;    /* scores of edges, of coordinates of the sources' outputs */
    int64_t pairs;          /* most of a group */
    int64_t positions;      /* P: also scores per token position; 0 without */
    int64_t resamples;      /* of the bootstrap; 0 without */
    uint64_t seed;
    bool per_pair;   /* scores of single pairs are wanted */
    int64_t *column; /* [R of query] column of `graph` */
    bool *valid;     /* [F, R] */
    /* over the pairs that are done, not yet divided by their number */
    double *edge;     /* [F, R] */
    double *position; /* [P, F, R] */
    double *node;     /* [F] */
    double *neuron;   /* [F, D] */
    double *unit;     /* [L, d_ff] */
    float *resampled; /* [resamples, scores] */
    double *weight;   /* [resamples] pairs in each */
    /* of the running group */
    double *pair_score; /* [pairs, scores] but of nodes; NULL unless per_pair or with resamples */
    double *pair_node;  /* [pairs, F] */
} eap_sums;

/* How many scores there are of what is scored: F R of edges, F of nodes, F D of neurons, L d_ff of
 * hidden units. */
int64_t ca_eap_sums_scores(const eap_sums *sums);

int64_t ca_eap_sums_bytes(const eap_sums *sums);
/* Allocates what the sizes of `sums` ask for. */
ca_status ca_eap_sums_create(eap_sums *sums) CA_MUST_USE;
void ca_eap_sums_free(eap_sums *sums);

void ca_eap_sums_begin(eap_sums *sums, int64_t count);
/* Adds scores of a pass to pair n of the group. share: what the pair's scores are multiplied by in
 * the sums. score [F, R of query], of which real edges count; position: of a token, or -1. */
void ca_eap_sums_edges(eap_sums *sums, int64_t n, int64_t position, double share,
                       const double *score);
void ca_eap_sums_node(eap_sums *sums, int64_t n, double share, int64_t source, double score);
/* score [count, D] of sources, [count, d_ff] of layers, from `first` on */
void ca_eap_sums_neurons(eap_sums *sums, int64_t n, double share, int64_t first, int64_t count,
                         const double *score);
void ca_eap_sums_units(eap_sums *sums, int64_t n, double share, int64_t first, int64_t count,
                       const double *score);
/* [scores] of pair n of the group; with per_pair or resamples. */
const double *ca_eap_sums_pair(const eap_sums *sums, int64_t n);
/* False where score i is of no edge. */
static inline bool ca_eap_sums_has(const eap_sums *sums, int64_t i) {
    return !sums->edges || sums->valid[i];
}
/* Draws how often each resample has a pair whose scores are complete. */
void ca_eap_sums_resample(eap_sums *sums, int64_t n, int64_t example, double share);

/* low_high [scores, 2]: the middle 95 % of the resamples' means; NaN where there is no edge. */
ca_status ca_eap_sums_interval(const eap_sums *sums, float *low_high) CA_MUST_USE;

/* Into CA_RESULT_UNFINISHED, and back. */
ca_status ca_eap_sums_save(const eap_sums *sums, ca_result *result) CA_MUST_USE;
ca_status ca_eap_sums_restore(eap_sums *sums, ca_result *result) CA_MUST_USE;

#endif
