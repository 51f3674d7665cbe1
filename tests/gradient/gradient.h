/* SPDX-License-Identifier: MIT
 *
 * Checks backward operations of `ref` on f64 storage against central differences, and those of
 * the backend that CA_TEST_BACKEND names, on f32 storage, against `ref`.
 *
 * A problem has inputs x (vectors of doubles), one output y, and two functions: `forward` writes y
 * from x, `backward` writes every input's gradient from dy. The scalar that is differentiated is
 * dy . y with a random dy. `ref` computes in host memory, so its tensors are views of these
 * vectors; on another backend gradient_tensor() stands in for each.
 */
#ifndef CA_TESTS_GRADIENT_H
#define CA_TESTS_GRADIENT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "causa/ops.h"
#include "parity/sequences.h"

enum { MAX_INPUTS = 3 };

typedef struct vector {
    double *x, *dx;
    int64_t count;
} vector;

typedef struct problem problem;
struct problem {
    const char *name;
    void (*forward)(problem *p);
    void (*backward)(problem *p);
    const void *parameters;
    int64_t input_counts[MAX_INPUTS]; /* up to the first 0 */
    int64_t output_count;
    /* set by gradient_check */
    ca_backend *be;
    vector inputs[MAX_INPUTS], output;
};

/* Fails the test when a gradient is further than 1e-7 of the largest one from its central
 * difference. With steps of 1e-5 and functions of order 1 to 100 the difference itself is off by
 * about 1e-10 (the third derivative) and 1e-9 (rounding); a wrong term shows at 1e-3 or more.
 * On another backend output and gradients are within 2e-5 of the largest one, as parity.h says. */
void gradient_check(problem *p);

/* A contiguous host tensor for the next operation of a backend: on `ref` itself, else memory of
 * the backend with what it holds, f64 as f32. gradient_ok() brings back what was written. */
ca_tensor gradient_tensor(ca_backend *be, ca_tensor host);
const ca_sequences *gradient_sequences_on(ca_backend *be, const ca_sequences *host);

/* Standard normal numbers, rounded to float32, that depend on the stream only. */
void gradient_draw(double *values, int64_t count, const char *stream);
double *gradient_numbers(int64_t count, const char *stream); /* freed with free() */
void gradient_ok(ca_status st);
ca_backend *gradient_backend(void); /* ref */

/* Arrays of sequences, and tensors of them in host memory. */
typedef struct sequence_memory {
    sequence_arrays arrays;
    int32_t positions[64];
} sequence_memory;
const ca_sequences *gradient_sequences(sequence_memory *m, const sequence_lengths *lengths);

#endif
