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
    /* Attributes that a sweep's index collects, "path@attribute", NULL-terminated. Of several with
     * the same attribute a result has one. */
    const char *const *headlines;
} ca_method;

/* data.keep: correct. A row is answered correctly when
 *   - the most probable token after its clean prompt is in `answer`; or
 *   - where it has none, or the metric reads `answer_text`, every token of that is the most probable
 *     one after the prompt and those before it; or
 *   - where the metric is greater_than, its value is above 0: the numbers above the label have more
 *     probability than the others. */

/* Checks that every row can be judged, and adds to a prepared plan what it takes.
 * Errors: CA_E_DATA naming the rows without an answer. */
ca_status ca_keep_plan(const ca_job *job, const ca_method *method, ca_plan *plan) CA_MUST_USE;
/* Runs the clean prompts of job->data on job->model and drops the rows that are not answered
 * correctly from it, which it lists with what the model says instead. No method may have prepared
 * the data. The same rows whatever method is to follow.
 * Errors: CA_E_DATA when no row is left, CA_E_NUMERIC, those of a stop signal. */
ca_status ca_keep_run(const ca_job *job, const ca_method *method) CA_MUST_USE;

/* NULL-terminated. */
const ca_method *const *ca_methods(void);
const ca_method *ca_method_find(const char *kind); /* NULL when unknown */

#endif
