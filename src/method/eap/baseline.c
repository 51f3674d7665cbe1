/* SPDX-License-Identifier: MIT
 *
 * See baseline.h.
 */
#include "baseline.h"

#include "causa/metric.h"

#include <stdio.h>
#include <stdlib.h>

ca_status ca_eap_baseline_reserve(ca_job *job, const char *metric) {
    ca_status st = CA_OK;
    ca_result *r = job->result;
    ca_result_shape examples = {1, {job->data->count}, {"example"}};
    CA_TRY(ca_result_reserve(r, "/baseline/clean", CA_RESULT_F64, examples));
    CA_TRY(ca_result_reserve(r, "/baseline/corrupted", CA_RESULT_F64, examples));
    CA_TRY(ca_result_reserve(r, "/baseline/predicted", CA_RESULT_I32, examples));
    CA_TRY(ca_result_reserve(r, "/data/position", CA_RESULT_I64, examples));
    CA_TRY(ca_result_attribute_text(r, "/baseline", "metric", metric));
out:
    return st;
}

/* Metrics of an example, where those of the pairs were: no later example is in front. */
static void add_parts(eap_ends *ends, int64_t example, int64_t parts) {
    double clean = 0, ablated = 0;
    for (int64_t n = parts * example; n < parts * (example + 1); n++) {
        clean += ends->clean_metric[n];
        ablated += ends->ablated_metric[n];
    }
    ends->clean_metric[example] = clean;
    ends->ablated_metric[example] = ablated;
    ends->predicted[example] = ends->predicted[parts * example];
}

ca_status ca_eap_baseline_write(ca_job *job, eap_ends *ends, int64_t parts, int64_t first,
                                int64_t count) {
    ca_status st = CA_OK;
    ca_result *r = job->result;
    for (int64_t n = 0; n < count; n++) add_parts(ends, n, parts);
    CA_TRY(ca_result_write(r, "/baseline/clean", first, count, ends->clean_metric));
    CA_TRY(ca_result_write(r, "/baseline/corrupted", first, count, ends->ablated_metric));
    CA_TRY(ca_result_write(r, "/baseline/predicted", first, count, ends->predicted));
    for (int64_t n = first; n < first + count; n++) {
        int64_t position = job->data->examples[n].clean.count - 1;
        CA_TRY(ca_result_write(r, "/data/position", n, 1, &position));
    }
out:
    return st;
}

ca_status ca_eap_baseline_mean(ca_job *job, const char *name, double *mean) {
    ca_status st = CA_OK;
    int64_t count = job->data->count;
    double *values = NULL, sum = 0;
    char path[64], attribute[64];
    snprintf(path, sizeof path, "/baseline/%s", name);
    snprintf(attribute, sizeof attribute, "%s_mean", name);
    CA_TRY(ca_calloc((size_t)count + 1, sizeof *values, &values));
    CA_TRY(ca_result_read_back(job->result, path, values));
    for (int64_t i = 0; i < count; i++) sum += values[i];
    *mean = sum / (double)count;
    CA_TRY(ca_result_attribute_float(job->result, "/baseline", attribute, *mean));
out:
    free(values);
    return st;
}

static ca_status put_accuracy(ca_job *job) {
    ca_status st = CA_OK;
    int64_t count = job->data->count, right = 0;
    int32_t *predicted = NULL;
    if (job->data->unanswered == count) return CA_OK;
    CA_TRY(ca_calloc((size_t)count + 1, sizeof *predicted, &predicted));
    CA_TRY(ca_result_read_back(job->result, "/baseline/predicted", predicted));
    for (int64_t i = 0; i < count; i++)
        right += ca_metric_is_answer(&job->data->examples[i].answer, predicted[i]);
    CA_TRY(ca_result_attribute_float(job->result, "/baseline", "accuracy",
                                     (double)right / (double)count));
out:
    free(predicted);
    return st;
}

ca_status ca_eap_baseline_finish(ca_job *job, double *change) {
    ca_status st = CA_OK;
    double clean, corrupted;
    CA_TRY(ca_eap_baseline_mean(job, "clean", &clean));
    CA_TRY(ca_eap_baseline_mean(job, "corrupted", &corrupted));
    CA_TRY(put_accuracy(job));
    if (change) *change = corrupted - clean;
out:
    return st;
}
