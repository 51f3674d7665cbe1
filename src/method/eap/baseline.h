/* SPDX-License-Identifier: MIT
 *
 * The groups /baseline and /data/position: the metric of both ends of every example and what the
 * clean run predicts, the same whether scores were made or circuits were given.
 */
#ifndef CAUSA_METHOD_EAP_BASELINE_H
#define CAUSA_METHOD_EAP_BASELINE_H

#include "causa/method.h"

#include "ends.h"

/* Reserves clean [N] f64, corrupted [N] f64, predicted [N] i32 and position [N] i64; metric: what
 * the first two hold. */
ca_status ca_eap_baseline_reserve(ca_job *job, const char *metric) CA_MUST_USE;
/* Writes examples [first, first + count), the ones of the running group. Sums their pairs' metrics,
 * `parts` an example, in place: clean_metric, ablated_metric and predicted of the ends are then one
 * an example. */
ca_status ca_eap_baseline_write(ca_job *job, eap_ends *ends, int64_t parts, int64_t first,
                                int64_t count) CA_MUST_USE;
/* The mean of a dataset of /baseline over all examples, from the file: an earlier, stopped run may
 * have written a part. Also the attribute NAME_mean. */
ca_status ca_eap_baseline_mean(ca_job *job, const char *name, double *mean) CA_MUST_USE;
/* The attributes clean_mean, corrupted_mean and, where examples have answers, accuracy, once all
 * examples are written. change: corrupted minus clean, or NULL. */
ca_status ca_eap_baseline_finish(ca_job *job, double *change) CA_MUST_USE;

#endif
