/* SPDX-License-Identifier: MIT
 *
 * A job: one resolved configuration with everything it runs on. Made by the command line, read by
 * the methods.
 */
#ifndef CAUSA_JOB_H
#define CAUSA_JOB_H

#include "causa/config.h"
#include "causa/data.h"
#include "causa/graph.h"
#include "causa/model.h"
#include "causa/result.h"
#include "causa/tokenizer.h"

/* What a method says of its work before any weight is read. */
typedef struct ca_plan {
    int64_t examples;
    int64_t tokens;         /* over all examples */
    int64_t batch_rows;     /* largest micro-batch */
    int64_t batches;
    int64_t cells;          /* of a map: runs that start from cached states */
    int64_t lanes;
    bool recompute;         /* block values are made again in the backward */
    int64_t weight_bytes;   /* filled by the caller of prepare */
    int64_t work_bytes;     /* batches, passes and buffers in backend memory */
    int64_t host_bytes;     /* arrays of results on the host */
    double flops;
} ca_plan;

typedef struct ca_job {
    const ca_config *config;
    const ca_model_file *file;
    const ca_arch *arch; /* of the file */
    ca_backend *backend;
    ca_dtype precision; /* of matrices */
    ca_dtype dtype;     /* of values */
    ca_tokenizer *tokenizer; /* NULL when the model has none */
    ca_dataset *data;
    int64_t memory; /* bytes for everything beside the weights */
    int64_t batch;  /* rows per micro-batch, 0 = auto */
    /* from here on only while running */
    ca_model *model;
    ca_result *result;
    int64_t resume_at; /* first example that is still to do */
    ca_plan plan;
} ca_job;

/* Options of the whole job outside data and method: name, model, backend, ... */
extern const ca_option ca_job_options[];

#endif
