/* SPDX-License-Identifier: MIT
 *
 * Scores against a circuit that is known to be the true one: the area under the ROC curve.
 */
#include "eap.h"

#include <math.h>
#include <stdlib.h>

static const char *const TRUTH = "method.evaluate.truth";

ca_status ca_eap_truth_read(const ca_job *job, eap *e) {
    ca_status st = CA_OK;
    if (!ca_config_has(job->config, TRUTH)) return CA_OK;
    const char *path = ca_config_path(job->config, TRUTH);
    if (e->level != EAP_EDGES)
        return ca_config_fail(job->config, TRUTH, "expected method.level edge beside it");
    CA_TRY(ca_circuit_file_read(path, &e->truth));
    CA_TRY(ca_circuit_file_check(&e->truth, path, &e->sums.graph));
    if (!e->truth.in) st = ca_fail(CA_E_DATA, "%s: expected a circuit, got scores alone", path);
out:
    return st == CA_OK ? st : ca_context(st, "%s", ca_config_where(job->config, TRUTH));
}

/* Scores of real edges beside whether they are true. */
static int64_t collect(const eap *e, double *score, bool *truth) {
    const eap_sums *s = &e->sums;
    int64_t count = 0;
    for (int64_t i = 0; i < s->graph.sources * s->graph.destinations; i++)
        if (s->valid[i]) {
            truth[count] = e->truth.in[i];
            score[count++] = s->edge[i];
        }
    return count;
}

ca_status ca_eap_write_truth(ca_job *job, eap *e) {
    ca_status st = CA_OK;
    double *score = NULL;
    bool *truth = NULL;
    size_t edges = (size_t)e->sums.graph.edges;
    if (!e->truth.in) return CA_OK;
    CA_TRY(ca_calloc(edges, sizeof *score, &score));
    CA_TRY(ca_calloc(edges, sizeof *truth, &truth));
    int64_t count = collect(e, score, truth);
    CA_TRY(ca_auroc(score, truth, count, &e->auroc));
    for (int64_t i = 0; i < count; i++) score[i] = fabs(score[i]);
    CA_TRY(ca_auroc(score, truth, count, &e->auroc_absolute));
    CA_TRY(ca_result_attribute_float(job->result, "/edges", "auroc", e->auroc));
    CA_TRY(ca_result_attribute_float(job->result, "/edges", "auroc_absolute", e->auroc_absolute));
out:
    free(score);
    free(truth);
    return st;
}
