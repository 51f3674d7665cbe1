/* SPDX-License-Identifier: MIT
 *
 * Stored rows of a weight into rows of the model, in its dtype and layout.
 */
#ifndef CAUSA_MODEL_CONVERT_H
#define CAUSA_MODEL_CONVERT_H

#include "checkpoint.h"
#include "family.h"

/* A stored tensor as rows of ours: shape and type have been checked. */
typedef struct ca_part {
    const ca_weight *weight;
    ca_layout layout;
    int64_t rows;
} ca_part;

/* Writes rows [first, first + count) of the part as f32, f64 or bf16 (to nearest even).
 *
 * out       [count, columns]
 * head_dim  rows that belong together under CA_LAYOUT_NEIGHBOURS and CA_LAYOUT_BY_HEAD
 *
 * Errors: CA_E_MODEL naming file, tensor and position of the first value that is not finite. */
ca_status ca_convert_rows(void *out, ca_dtype dtype, const ca_part *part, int64_t columns,
                          int64_t head_dim, int64_t first, int64_t count, int threads) CA_MUST_USE;

#endif
