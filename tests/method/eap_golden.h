/* SPDX-License-Identifier: MIT
 *
 * Golden vectors of edge attribution: tiny random-weight decoders (sequential and parallel blocks,
 * grouped keys and values) with seven pairs of prompts, and the scores and circuit runs that an
 * independent implementation in float64 computed for them. tests/fixtures/eap holds the files.
 */
#ifndef CAUSA_TESTS_EAP_GOLDEN_H
#define CAUSA_TESTS_EAP_GOLDEN_H

#include "causa/circuit.h"
#include "causa/data.h"

#include "executor.h"

/* A selection by the score "EAP-IG-inputs_m5_k0to4", pruned, and what it computes. */
typedef struct golden_circuit {
    ca_circuit_rule rule; /* top or greedy */
    int64_t count;        /* edges asked for */
    bool absolute;
    int64_t kept;       /* edges left after pruning */
    bool *edges;        /* [F, R]; nodes are not recorded */
    double *logit_diff; /* [N] */
    double faithfulness;
} golden_circuit;

enum { GOLDEN_BATCHES = 3, GOLDEN_CIRCUITS = 8 };

typedef struct eap_golden {
    fixture f; /* backend, model, helpers; it has no prompts */
    ca_circuit_graph graph;
    ca_dataset data;                   /* [N] pairs: ids, one answer, one wrong */
    int64_t batch[GOLDEN_BATCHES + 1]; /* first pair of each of the reference's batches */
    double *clean, *corrupted;         /* [N] logit_diff */
    golden_circuit circuits[GOLDEN_CIRCUITS];
    void *root; /* the parsed file */
} eap_golden;

/* NULL-terminated: "tiny_seq", "tiny_parallel", "tiny_gqa". */
extern const char *const every_golden[];

void eap_golden_open(eap_golden *g, const char *name, const char *backend);
void eap_golden_close(eap_golden *g);
/* Scores [F, R] by their name in the file, e.g. "EAP_itemmean"; 0 where there is no edge. They
 * belong to the fixture. */
double *eap_golden_scores(eap_golden *g, const char *name);
/* Runs a test on every model. */
void on_goldens(const char *backend, void (*test)(eap_golden *g));

#endif
