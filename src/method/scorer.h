/* SPDX-License-Identifier: MIT
 *
 * Metrics of logits that lie in backend memory: brings a row to the host, scores it, and sends its
 * gradient back. One row at a time, so the room does not depend on the batch.
 *
 * What is scored is a sequence of the metric's: logits [n, V], n = ca_example_reads(sequence). An
 * example's metric is the sum of those of its sequences.
 */
#ifndef CAUSA_METHOD_SCORER_H
#define CAUSA_METHOD_SCORER_H

#include "causa/metric.h"
#include "causa/ops.h"

typedef struct method_scorer {
    const ca_metric *metric;
    const ca_dataset *data; /* for messages; NULL: examples are told by their row */
    ca_backend *backend;
    int64_t vocab;
    int64_t
        references; /* room for log-probabilities of clean runs; 0 unless the metric reads them */
    double *reference;                     /* [references, V] */
    double *logits, *log_probs, *gradient; /* [V] */
    void *staging;                         /* [V] as the backend stores it */
} method_scorer;

/* clean_runs: how many clean runs are remembered at a time. */
ca_status ca_method_scorer_create(const ca_metric *metric, const ca_dataset *data,
                                  ca_backend *backend, int64_t vocab, int64_t clean_runs,
                                  method_scorer *out) CA_MUST_USE;
void ca_method_scorer_free(method_scorer *scorer);
int64_t ca_method_scorer_host_bytes(const ca_metric *metric, int64_t vocab, int64_t clean_runs);

/* Remembers logits [n, V] of clean run n as what others are compared with; does nothing when the
 * metric compares with none. predicted: the most probable token after the prompt, or NULL. */
ca_status ca_method_scorer_clean(method_scorer *scorer, int64_t n, ca_tensor logits,
                                 int32_t *predicted) CA_MUST_USE;
/* Metric of logits [n, V] of the sequence whose clean run is n.
 * Errors: CA_E_NUMERIC naming the example when it is not finite. */
ca_status ca_method_score(method_scorer *scorer, const ca_example *example, int64_t n,
                          ca_tensor logits, double *value) CA_MUST_USE;
/* The same, and d_logits [n, V] = factor times its gradient. */
ca_status ca_method_score_gradient(method_scorer *scorer, const ca_example *example, int64_t n,
                                   ca_tensor logits, double factor, double *value,
                                   ca_tensor d_logits) CA_MUST_USE;
/* d_logits likewise, of a metric that is linear: needs no logits. */
ca_status ca_method_linear_gradient(method_scorer *scorer, const ca_example *example, double factor,
                                    ca_tensor d_logits) CA_MUST_USE;

#endif
