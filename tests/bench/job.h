/* SPDX-License-Identifier: MIT
 *
 * What benches of methods share: a model on the backend `cpu`, the machine's own sgemm, and a
 * configuration of one method.
 */
#ifndef CAUSA_TESTS_BENCH_JOB_H
#define CAUSA_TESTS_BENCH_JOB_H

#include "causa/method.h"

typedef struct bench {
    ca_backend *be;
    ca_model_file *file;
    ca_model *model;
    const char *path;
    double peak;         /* FLOP/s of the fastest matrix product so far */
    double rate;         /* FLOP/s of the last few, on the average */
    double most_seconds; /* of one case */
} bench;

/* Multiplies 2048 x 2048 matrices a few times; raises b->peak and sets b->rate. */
ca_status bench_measure_peak(bench *b) CA_MUST_USE;

/* Resolves a configuration with the options of the method. text: YAML. */
ca_status bench_resolve(const char *method, const char *text, ca_document **document,
                        ca_config **config) CA_MUST_USE;

/* main: MODEL THREADS SECONDS, all optional; SmolLM2, or the bundled model where it is not there.
 * run: between opening and closing model and backend. */
int bench_main(int argc, char **argv, double most_seconds, ca_status (*run)(bench *b));

#endif
