/* SPDX-License-Identifier: MIT
 *
 * How ops.c describes the arguments of an operation, and the one function that verifies them.
 *
 * A shape is written as in ops.h, one letter an axis: "RTHE". Equal letters are equal sizes. A
 * leading '*' stands for any number of axes and a leading '?' for none or one; they mean the same
 * axes in every argument of the operation. A letter gets its size from the first argument that uses
 * it, or from ca_dims_set.
 */
#ifndef CA_BACKEND_CHECKS_H
#define CA_BACKEND_CHECKS_H

#include "causa/backend.h"

typedef enum ca_argument_flags {
    CA_IN = 0,
    CA_OUT = 1,      /* written: not repeated, not shared with another argument */
    CA_OPTIONAL = 2, /* data may be NULL */
    CA_INDEX = 4,    /* i32 or i64 in place of the operation's floating dtype */
    CA_INT32 = 8,
    CA_INT64 = 16,
    CA_ANY_DTYPE = 32,
    CA_MATRIX = 64 /* bf16, where offered, in place of the operation's floating dtype */
} ca_argument_flags;

typedef struct ca_argument {
    const char *name;
    const ca_tensor *tensor;
    const char *shape;
    unsigned flags;
    const ca_tensor *in_place; /* an input that may be this very view */
} ca_argument;

/* Sizes by letter 'A'..'Z' and the axes that '*' or '?' stands for. Start from {0}. */
typedef struct ca_dims {
    bool known[26];
    int64_t size[26];
    bool leading_known;
    int leading_rank;
    int64_t leading[CA_MAX_RANK];
} ca_dims;

void ca_dims_set(ca_dims *dims, char letter, int64_t size);

/* Verifies shapes, dtypes, strides and aliasing of all arguments of `operation`. */
ca_status ca_arguments_check(const ca_backend *be, const char *operation,
                             const ca_argument *arguments, int count, ca_dims *dims) CA_MUST_USE;
/* No argument that is written has an element. */
bool ca_arguments_empty(const ca_argument *arguments, int count);

/* Verifies the numbers of an attention and how its rows form sequences.
 *
 * prefix  prefix keys or values [P, K, Dh], or absent; NULL when the operation reads none
 * Errors: CA_E_SHAPE. Only the host arrays are looked into. */
ca_status ca_attention_check(const ca_backend *be, const char *operation,
                             const ca_sequences *sequences, ca_attention attention,
                             const ca_tensor *prefix) CA_MUST_USE;

#endif
