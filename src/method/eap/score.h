/* SPDX-License-Identifier: MIT
 *
 * Scores of edges from the sums that gradients.h keeps:
 *
 *   S[u, v] = sum over rows and channels of (ablated_u - clean_u) . g_v
 *
 * as one matrix product per unit and group of layers. A unit is what has scores of its own: a pair,
 * or one token of it. Outputs and gradients are expanded to D values for a few rows at a time only.
 *
 * With precision bf16 both factors are rounded to bf16, as those of the model's own products are,
 * and summed in f32. Each is rounded when it is complete: the difference of two outputs, which
 * cancels, and the sum over points are made in f32. A term is off by up to 2^-8 of itself.
 */
#ifndef CAUSA_METHOD_EAP_SCORE_H
#define CAUSA_METHOD_EAP_SCORE_H

#include "causa/circuit.h"

#include "gradients.h"

/* Takes the scores of a unit: rows of a token (positions: relative to the prompt) or of all tokens
 * (position -1) of pair n of the group. score [F, R] of the last pass; entries that are no edges
 * hold anything. Called in rising order. */
typedef ca_status (*eap_score_visitor)(void *context, int64_t n, int64_t position,
                                       const double *score);

typedef struct eap_scores {
    const ca_model *model;
    const ca_circuit_graph *graph; /* of query heads */
    int64_t rows;                  /* expanded at a time */
    bool by_position;              /* units are tokens */
    int64_t layers, units;         /* of a group of columns; at a time */
    method_buffers buffers;
    ca_tensor source;                       /* [F, rows, D] differences of outputs */
    ca_tensor column;                       /* [layers (3 H + 1) + 1, rows, D] gradients */
    ca_tensor ones;                         /* [D] */
    ca_tensor mean;                         /* [3 H, rows] */
    ca_tensor narrow_source, narrow_column; /* both in bf16, where precision says so; else absent */
    ca_tensor score;                        /* [units, F, R] */
    void *staging;                          /* [F, R] */
    double *host;                           /* [F, R] */
} eap_scores;

/* Bytes of backend memory. precision: of the model; rows: how many tail rows are expanded at a
 * time. */
int64_t ca_eap_scores_bytes(ca_dtype precision, const ca_circuit_graph *graph, int64_t rows,
                            bool by_position);
ca_status ca_eap_scores_create(const ca_model *model, const ca_circuit_graph *graph, int64_t rows,
                               bool by_position, eap_scores *out) CA_MUST_USE;
void ca_eap_scores_free(eap_scores *scores);

/* Floating-point operations for `rows` tail rows. */
double ca_eap_scores_flops(const ca_arch *arch, const ca_circuit_graph *graph, int64_t rows,
                           int64_t points);

/* Visits all units of the group that `gradients` ran last. first_source, sources: only rows
 * [first_source, first_source + sources) are made, the others hold 0. */
ca_status ca_eap_scores_run(eap_scores *scores, eap_gradients *gradients, int64_t first_source,
                            int64_t sources, eap_score_visitor visit, void *context) CA_MUST_USE;

#endif
