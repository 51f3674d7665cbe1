/* SPDX-License-Identifier: MIT
 *
 * Methods: a row in the list and a file that composes the executor.
 */
#ifndef CAUSA_METHOD_H
#define CAUSA_METHOD_H

#include "causa/job.h"

typedef struct ca_method {
    const char *kind;         /* method.kind */
    const char *summary;      /* one line for `causa help` */
    const ca_option *options; /* rows "method.*" beyond kind and compat */
    ca_data_needs needs;

    /* Checks everything that can be checked without weights (targets, sites, positions), and plans.
     * state: owned by the method, given back to run and release. */
    ca_status (*prepare)(const ca_job *job, ca_plan *plan, void **state);
    /* Runs examples job->resume_at .. and writes its groups of the result. On a signal it finishes
     * the micro-batch, sets *done to the number of finished examples and returns
     * ca_signal_status(). Work of examples that it has begun may be left in
     * CA_RESULT_UNFINISHED. */
    ca_status (*run)(ca_job *job, void *state, int64_t *done);
    /* The result in a few lines of text for the terminal, after a complete run; may be NULL. */
    ca_status (*answer)(ca_job *job, void *state, ca_string *text);
    void (*release)(void *state);
    /* One line per convention, NULL-terminated: sign, direction, units. */
    const char *const *conventions;
    /* Datasets or attributes that a sweep's index collects, "path@attribute", NULL-terminated. */
    const char *const *headlines;
} ca_method;

/* NULL-terminated. */
const ca_method *const *ca_methods(void);
const ca_method *ca_method_find(const char *kind); /* NULL when unknown */

#endif
