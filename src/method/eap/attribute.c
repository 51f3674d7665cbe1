/* SPDX-License-Identifier: MIT
 *
 * Scores of a group of pairs, whatever the variant: buffers, sums in float64, and what is written
 * of every pair.
 */
#include "eap.h"

#include "baseline.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Doubles of the largest array of scores that a pass gives. */
static int64_t host_count(const eap *e) {
    const ca_circuit_graph *g = &e->sums.query;
    if (e->variant->sums_edges) return g->sources * g->destinations;
    switch (e->level) {
    case EAP_NODES:
        return g->sources * e->most_points * e->part_sizes.rows;
    case EAP_NEURONS:
        return g->sources * g->width;
    case EAP_HIDDEN:
        return g->layers * e->sums.hidden;
    default:
        return g->sources * g->destinations;
    }
}

int64_t ca_eap_attribute_host_bytes(const eap *e, int64_t vocab) {
    return (int64_t)(2 * sizeof(double) + sizeof(float)) * host_count(e) +
           ca_eap_sums_bytes(&e->sums) +
           ca_method_scorer_host_bytes(&e->metric, vocab, e->sizes.pairs);
}

ca_status ca_eap_attribute_create(eap *e) {
    ca_status st = CA_OK;
    ca_job *job = e->job;
    e->ends = ca_eap_ends_wanted(e);
    e->ends.model = job->model;
    e->ends.clean_only = e->variant->clean_only;
    CA_TRY(ca_eap_ablation_create(job->model, &e->ablation));
    CA_TRY(ca_eap_group_create(e->sizes.pairs, &e->group));
    CA_TRY(ca_eap_ends_create(&e->ends));
    CA_TRY(ca_method_scorer_create(&e->metric, job->data, job->backend, job->arch->vocab,
                                   e->sizes.pairs, &e->scorer));
    size_t most = (size_t)host_count(e);
    CA_TRY(ca_calloc(most, sizeof *e->score_host, &e->score_host));
    CA_TRY(ca_calloc(most, sizeof(double), &e->staging));
    CA_TRY(ca_calloc(most, sizeof *e->row, &e->row));
    CA_TRY(ca_eap_sums_create(&e->sums));
    CA_TRY(e->variant->create(e));
out:
    return st; /* freed by the owner */
}

void ca_eap_attribute_release(eap *e) {
    ca_eap_gradients_free(&e->gradients);
    ca_eap_scores_free(&e->scores);
    ca_eap_neurons_free(&e->neurons);
    ca_eap_exact_free(&e->exact);
    ca_eap_flow_free(&e->flow);
    ca_eap_ends_free(&e->ends);
    ca_eap_group_free(&e->group);
    ca_method_scorer_free(&e->scorer);
}

void ca_eap_attribute_free(eap *e) {
    ca_eap_attribute_release(e);
    ca_eap_ablation_free(&e->ablation);
    ca_eap_sums_free(&e->sums);
    free(e->score_host);
    free(e->staging);
    free(e->row);
}

ca_status ca_eap_make_means(eap *e) {
    ca_status st = CA_OK;
    const ca_packing *p = &e->packing;
    if (!e->ablation.positions) return CA_OK;
    for (int64_t b = 0; b < p->batches; b++) {
        CA_TRY(ca_signal_status());
        ca_eap_group_set_examples(&e->group, &e->metric, p->first[b], p->first[b + 1], true);
        CA_TRY(ca_eap_ends_begin(&e->ends, &e->group));
        CA_TRY(ca_eap_ends_run(&e->ends, true, false, NULL));
        CA_TRY(ca_eap_ablation_add(&e->ablation, e->job->model, &e->group, &e->ends.clean,
                                   e->metric.sequences->count));
    }
out:
    return st;
}

/* ---- sums ---- */

/* A peer's gradients are of the mean over a batch, the last one being smaller, and its divergences
 * per entry of the vocabulary. */
double ca_eap_share(const eap *e, int64_t n) {
    if (e->batch_size == 0) return 1 / (double)e->averaged;
    int64_t batch = (e->first + n) / e->batch_size * e->batch_size;
    int64_t rest = e->job->data->count - batch;
    return 1 / (double)(e->averaged * (rest < e->batch_size ? rest : e->batch_size));
}

/* ---- groups ---- */

/* Scaled like the mean over the pairs, which it is a part of. */
static ca_status write_pair(eap *e, int64_t n) {
    const eap_sums *s = &e->sums;
    const double *score = ca_eap_sums_pair(s, n), share = ca_eap_share(e, n);
    char dataset[64];
    for (int64_t k = 0, count = ca_eap_sums_scores(s); k < count; k++)
        e->row[k] = ca_eap_sums_has(s, k) ? (float)(share * score[k]) : NAN;
    snprintf(dataset, sizeof dataset, "%s/score_per_example", ca_eap_result_group(e->level));
    return ca_result_write(e->job->result, dataset, e->first + n, 1, e->row);
}

static ca_status write_examples(eap *e) {
    ca_status st = CA_OK;
    ca_result *r = e->job->result;
    eap_ends *ends = &e->ends;
    int64_t parts = ca_metric_parts(e->metric.kind);
    int64_t first = e->first, count = e->group.count / parts;
    CA_TRY(ca_eap_baseline_write(e->job, ends, parts, first, count));
    for (int64_t n = 0; n < count; n++) {
        /* A path of inputs explains the change of the loss by the input's node. */
        double change = -e->metric.kind->sign * (ends->ablated_metric[n] - ends->clean_metric[n]);
        double residual = change - e->sums.pair_node[n * e->sums.graph.sources];
        if (e->variant->path == EAP_OF_INPUTS && e->level != EAP_HIDDEN)
            CA_TRY(ca_result_write(r, "/baseline/residual", first + n, 1, &residual));
        if (e->sums.per_pair) CA_TRY(write_pair(e, n));
    }
out:
    return st;
}

ca_status ca_eap_attribute(void *state, int64_t first, int64_t last) {
    ca_status st = CA_OK;
    eap *e = state;
    e->first = first;
    ca_eap_group_set_examples(&e->group, &e->metric, first, last, ca_eap_runs_whole(e));
    ca_eap_sums_begin(&e->sums, last - first);
    CA_TRY(e->variant->score(e));
    for (int64_t n = 0; e->sums.resamples && n < last - first; n++)
        ca_eap_sums_resample(&e->sums, n, first + n, ca_eap_share(e, n));
    if (!e->is_compared) CA_TRY(write_examples(e));
out:
    return st;
}
