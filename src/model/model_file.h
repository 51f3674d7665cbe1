/* SPDX-License-Identifier: MIT
 *
 * An opened model: its files, its architecture, and for every tensor of ca_model the stored tensors
 * that it is made of.
 */
#ifndef CAUSA_MODEL_MODEL_FILE_H
#define CAUSA_MODEL_MODEL_FILE_H

#include "convert.h"
#include "spec.h"

typedef struct ca_binding {
    int64_t layer; /* -1: a tensor of ca_model */
    size_t field;  /* offset of the ca_tensor in ca_layer or ca_model */
    bool is_vector;
    int64_t rows, columns;
    int part_count;
    ca_part parts[CA_MAX_PARTS];
} ca_binding;

struct ca_model_file {
    ca_checkpoint *checkpoint;
    ca_spec spec;
    ca_binding *bindings;
    int64_t binding_count, binding_capacity;
};

/* Dtype of a tensor of the model: matrices have that of the precision, vectors that of values. */
ca_dtype ca_binding_dtype(const ca_binding *binding, ca_dtype precision);
/* Bytes of one tensor in the model's memory, where every tensor begins 64-aligned. */
size_t ca_model_tensor_bytes(int64_t count, ca_dtype dtype);
/* Rows of the rotary tables: all positions, or max_rows when that is fewer and not 0. */
int64_t ca_model_rope_rows(const ca_arch *arch, int64_t max_rows);

#endif
