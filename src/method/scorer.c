/* SPDX-License-Identifier: MIT
 *
 * See scorer.h.
 */
#include "scorer.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

static bool compares(const ca_metric *metric) { return metric->kind->needs & CA_METRIC_REFERENCE; }

int64_t ca_method_scorer_host_bytes(const ca_metric *metric, int64_t vocab, int64_t clean_runs) {
    return (int64_t)sizeof(double) * vocab * (4 + (compares(metric) ? clean_runs : 0));
}

ca_status ca_method_scorer_create(const ca_metric *metric, const ca_dataset *data,
                                  ca_backend *backend, int64_t vocab, int64_t clean_runs,
                                  method_scorer *out) {
    ca_status st = CA_OK;
    size_t v = (size_t)vocab;
    *out = (method_scorer){.metric = metric, .data = data, .backend = backend, .vocab = vocab};
    if (compares(metric)) {
        out->references = clean_runs;
        CA_TRY(ca_calloc((size_t)clean_runs * v, sizeof(double), &out->reference));
    }
    CA_TRY(ca_calloc(v, sizeof(double), &out->logits));
    CA_TRY(ca_calloc(v, sizeof(double), &out->log_probs));
    CA_TRY(ca_calloc(v, sizeof(double), &out->gradient));
    CA_TRY(ca_calloc(v, sizeof(double), &out->staging));
out:
    if (st != CA_OK) ca_method_scorer_free(out);
    return st;
}

void ca_method_scorer_free(method_scorer *s) {
    free(s->reference);
    free(s->logits);
    free(s->log_probs);
    free(s->gradient);
    free(s->staging);
    *s = (method_scorer){0};
}

ca_status ca_method_scorer_clean(method_scorer *s, int64_t n, ca_tensor logits,
                                 int32_t *predicted) {
    ca_status st = CA_OK;
    if (!predicted && !compares(s->metric)) return CA_OK;
    CA_TRY(ca_download_f64(s->backend, ca_tensor_slice(logits, 0, 0, 1), s->staging, s->logits));
    if (predicted) *predicted = ca_metric_argmax(s->logits, s->vocab);
    if (compares(s->metric))
        ca_metric_log_softmax(s->logits, s->vocab, s->reference + n * s->vocab);
out:
    return st;
}

/* Brings a row of logits to the host. */
static ca_status fetch(method_scorer *s, const ca_example *example, int64_t n, ca_tensor logits,
                       int64_t row, ca_metric_input *in) {
    ca_status st = CA_OK;
    CA_TRY(ca_download_f64(s->backend, ca_tensor_slice(logits, 0, row, 1), s->staging, s->logits));
    if (s->metric->kind->needs & CA_METRIC_LOG_PROBS)
        ca_metric_log_softmax(s->logits, s->vocab, s->log_probs);
    *in = (ca_metric_input){
        .vocab = s->vocab,
        .logits = s->logits,
        .log_probs = s->log_probs,
        .reference = s->reference ? s->reference + n * s->vocab : NULL,
        .example = example,
        .row = row,
        .numbers = s->metric->numbers,
    };
out:
    return st;
}

static ca_status check_finite(const method_scorer *s, const ca_example *example, double value) {
    if (isfinite(value)) return CA_OK;
    return s->data ? ca_fail(CA_E_NUMERIC, "%s: the metric is not finite",
                             ca_example_place(s->data, example))
                   : ca_fail(CA_E_NUMERIC, "row %lld: the metric is not finite",
                             (long long)example->row);
}

ca_status ca_method_score(method_scorer *s, const ca_example *example, int64_t n, ca_tensor logits,
                          double *value) {
    ca_status st = CA_OK;
    ca_metric_input in;
    *value = 0;
    assert(logits.shape[0] == ca_example_reads(example));
    for (int64_t row = 0; row < logits.shape[0]; row++) {
        CA_TRY(fetch(s, example, n, logits, row, &in));
        *value += s->metric->kind->value(&in);
    }
    CA_TRY(check_finite(s, example, *value));
out:
    return st;
}

/* d_logits [n, V] of the row that `in` is of = factor times the metric's gradient. */
static ca_status send_gradient(method_scorer *s, const ca_metric_input *in, double factor,
                               ca_tensor d_logits) {
    s->metric->kind->gradient(in, s->gradient);
    for (int64_t v = 0; v < s->vocab; v++) s->gradient[v] *= factor;
    return ca_upload_f64(s->backend, ca_tensor_slice(d_logits, 0, in->row, 1), s->staging,
                         s->gradient);
}

ca_status ca_method_score_gradient(method_scorer *s, const ca_example *example, int64_t n,
                                   ca_tensor logits, double factor, double *value,
                                   ca_tensor d_logits) {
    ca_status st = CA_OK;
    ca_metric_input in;
    *value = 0;
    assert(logits.shape[0] == ca_example_reads(example));
    for (int64_t row = 0; row < logits.shape[0]; row++) {
        CA_TRY(fetch(s, example, n, logits, row, &in));
        *value += s->metric->kind->value(&in);
        CA_TRY(send_gradient(s, &in, factor, d_logits));
    }
    CA_TRY(check_finite(s, example, *value));
out:
    return st;
}

ca_status ca_method_linear_gradient(method_scorer *s, const ca_example *example, double factor,
                                    ca_tensor d_logits) {
    ca_status st = CA_OK;
    assert(ca_metric_is_linear(s->metric->kind));
    for (int64_t row = 0; row < d_logits.shape[0]; row++) {
        const ca_metric_input in = {
            .vocab = s->vocab, .example = example, .row = row, .numbers = s->metric->numbers};
        CA_TRY(send_gradient(s, &in, factor, d_logits));
    }
out:
    return st;
}
