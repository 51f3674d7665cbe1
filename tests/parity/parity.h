/* SPDX-License-Identifier: MIT
 *
 * Runs one case of an operation on a backend with f32 storage and on `ref` with f64 storage from
 * the same f32 inputs, and compares what both wrote.
 *
 * A case is a function that makes its tensors with the functions below and calls operations; it
 * knows nothing of the backend it runs on. Every tensor lies between two guard zones. After the
 * run guards and inputs must be as they were, and every element of every output must be within
 * its limit: tolerance times the largest element of the reference, or times `scale` where larger;
 * and for what is made of terms that the operation rounds to bf16, a share of their magnitude.
 *
 * Limits with bf16: `ref` is given the bf16 values that the operation takes, so that only what is
 * rounded inside or stored counts. A copy to bf16 is rounded once: equal bit for bit. Products of
 * bf16 factors are exact in f32, and sums f32: the limit of f32. Attention rounds each probability
 * once, to nearest, which moves its term by BF16_ROUNDING of itself at most: so much of the sum of
 * the terms' magnitudes. That is one bf16 ulp of an element whose terms do not cancel, or less; of
 * one whose terms do, no number of its own ulps would hold.
 */
#ifndef CA_TESTS_PARITY_H
#define CA_TESTS_PARITY_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "causa/ops.h"

/* What inputs hold. */
typedef enum fill {
    NORMAL, /* standard normal */
    LARGE,  /* normal times 1e4 */
    SMALL,  /* normal times 1e-9 */
    MIXED,  /* normal times 10^u, u uniform in (-4, 4) */
    TIES,   /* -1, 0 or 1 */
    EQUAL,  /* 0.75 everywhere */
    ZERO,
    RARE, /* normal in one place of RARITY or so, 0 elsewhere */
    FILL_COUNT
} fill;

enum { RARITY = 200 };

const char *fill_name(fill f);
/* The size of a typical large value. */
double fill_amplitude(fill f);

enum { MAX_BUFFERS = 40 };

typedef struct buffer {
    const char *name;
    ca_dtype dtype;
    int64_t count;
    bool written;
    double scale, tolerance;
    double share; /* of the elements of buffer `magnitudes`, beside the tolerance */
    int magnitudes;
    void *memory;          /* on the backend, guards included */
    size_t bytes;          /* of all of it */
    unsigned char *before; /* host image at the start */
    unsigned char *after;  /* and at the end */
} buffer;

typedef struct parity {
    ca_backend *be;
    ca_dtype dtype; /* storage of floating tensors */
    uint64_t seed;
    int count;
    buffer buffers[MAX_BUFFERS];
} parity;

/* 2e-5 of the largest element: some 170 roundings of float32 that all fall the same way; sums of a
 * few thousand terms, whose roundings do not, stay far below. */
#define TOLERANCE 2e-5

/* Half the distance of neighbours in [1, 2), relative to the least of them: what rounding to
 * nearest, with 8 significant bits, moves a number by at most. */
#define BF16_ROUNDING 0x1p-8

#define SHAPE(...)                                                                                 \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]) { __VA_ARGS__ }

/* Contiguous; take views of it as needed. */
ca_tensor parity_input(parity *p, const char *name, fill f, int rank, const int64_t *shape);
/* The same in bf16 whatever the storage of the backend: the same bits on both sides. */
ca_tensor parity_input_bf16(parity *p, const char *name, fill f, int rank, const int64_t *shape);
/* As an input, but may change and is compared; `scale` as above. */
ca_tensor parity_inout(parity *p, const char *name, fill f, double scale, int rank,
                       const int64_t *shape);
/* Holds NaN (integers: -1) before the run; what stays unwritten must stay so on both backends. */
ca_tensor parity_output(parity *p, const char *name, double scale, int rank, const int64_t *shape);
/* The same with a dtype of its own; 16-bit floats and integers must be equal bit for bit. */
ca_tensor parity_output_typed(parity *p, const char *name, ca_dtype dtype, int rank,
                              const int64_t *shape);
ca_tensor parity_input_i64(parity *p, const char *name, ca_dtype dtype, int64_t count,
                           const int64_t *values);
/* An input of the absolute values of what the buffer under `view` held at first; the same view of
 * it. */
ca_tensor parity_magnitudes(parity *p, const char *name, ca_tensor view);
/* For the output declared last. */
void parity_set_tolerance(parity *p, double tolerance);
/* The elements of `output` may be off by a further share of those of `magnitudes`, an output of the
 * same shape, as the reference has them. */
void parity_add_share(parity *p, ca_tensor output, double share, ca_tensor magnitudes);
/* Fails the test with the stored text when an operation fails. */
void parity_ok(ca_status st);

typedef void (*parity_run)(parity *p, const void *parameters);

/* What all cases of an operation showed. */
typedef struct parity_summary {
    int64_t cases;
    double share; /* the worst share of a limit */
    char worst[256];
} parity_summary;

/* What a case adds to those before it. */
typedef enum parity_kind {
    LARGEST_SHAPE,  /* a variant at the largest of its shapes */
    FURTHER_SHAPE,  /* another shape */
    FURTHER_CONTENT /* other numbers in the same tensors */
} parity_kind;

/* Runs a case on `be` and on `ref`; fails the test when an element is beyond its limit. */
void parity_case(ca_backend *be, ca_backend *ref, parity_run run, const void *parameters,
                 parity_kind kind, const char *label, parity_summary *summary);

/* ---- recorded.c */

/* False when the environment leaves out this backend, or the case that would run next. */
bool parity_backend_is_chosen(const char *name);
bool parity_case_is_chosen(parity_kind kind);
/* Records what a case wrote, or compares it with a recorded run; true when it did the latter. */
bool parity_compare_recorded(const parity *p, const char *label);

/* ---- */

/* Calls `body` with every backend that opens here, and `ref`; says why others do not. Fails when
 * there is none. */
void parity_each_backend(void (*body)(ca_backend *be, ca_backend *ref, const void *context),
                         const void *context);

void parity_report(const ca_backend *be, const char *operation, const parity_summary *summary);

#endif
