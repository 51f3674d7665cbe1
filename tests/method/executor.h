/* SPDX-License-Identifier: MIT
 *
 * What the tests of the executor share: the tiny models with their reference values, batches and
 * passes made in one line, comparisons, and hooks that record, nudge or replace values.
 *
 * Whatever these functions return belongs to the fixture and lives until fixture_close.
 */
#ifndef CAUSA_TESTS_EXECUTOR_H
#define CAUSA_TESTS_EXECUTOR_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "causa/graph.h"
#include "causa/ops.h"

enum { PROMPTS = 3, MOST_LAYERS = 8 };

/* A prompt with what an independent implementation computed for it in float64. */
typedef struct prompt {
    int32_t *ids;
    int64_t count, a,
        b;              /* the scalar that is differentiated: logits[T - 1, a] - logits[T - 1, b] */
    double *resid;      /* [L + 1, T, D] */
    double *final_norm; /* [T, D] */
    double *logits;     /* [T, V] */
    double *grad_resid; /* [L, T, D] */
    double *grad_embed; /* [T, D] */
} prompt;

typedef struct fixture {
    const char *name;
    ca_backend *backend;
    ca_model *model; /* f64 on ref, f32 on cpu */
    bool exact;      /* f64 on ref: results of equal computations are equal bit for bit */
    int64_t layers, width, vocab;
    prompt prompts[PROMPTS];
    struct owned *owned;
} fixture;

/* One of each kind: learned positions, plain rotary, GQA, window, biases, q/k norm. */
extern const char *const every_fixture[]; /* NULL-terminated */
/* Both families, GQA, window and q/k norm: for tests that take longer. */
extern const char *const some_fixtures[];

void ok(ca_status st);
void fixture_open(fixture *f, const char *name, const char *backend);
/* With weights in another precision. */
void fixture_open_as(fixture *f, const char *name, const char *backend, ca_dtype precision);
void fixture_close(fixture *f);
/* Frees all that belongs to the fixture but its model; fixture_close does it too. */
void fixture_release(fixture *f);
/* Runs a test on each of the named models. */
void on_fixtures(const char *const *names, const char *backend, void (*test)(fixture *f));
/* On the backend that CA_TEST_BACKEND names, which must open; without it on each that opens here,
 * and says why another does not. */
void on_every_backend(const char *const *names, void (*test)(fixture *f));
/* The same for tests of other models: runs with the name of each backend, or with the one that
 * CA_TEST_BACKEND demands, which must open. */
void each_backend(void (*run)(const char *backend, const void *context), const void *context);

/* ---- batches and passes */

typedef struct sequence {
    const int32_t *ids;
    int64_t count, prefix_start, prefix_rows;
} sequence;

typedef enum reading { READ_NONE, READ_LAST, READ_ALL } reading;

ca_batch *batch_of(fixture *f, const sequence *sequences, int64_t count, reading reads);
ca_batch *batch_of_prompts(fixture *f, int64_t first, int64_t count, reading reads);
/* A pass just large enough for the batch; sizes in `limits` are filled in, hooks added. */
ca_pass *pass_for(fixture *f, const ca_batch *batch, ca_pass_limits limits, const ca_hook *hooks,
                  int64_t count);
/* embed to logits with hooks. */
ca_pass *run_model(fixture *f, const ca_batch *batch, ca_pass_limits limits, const ca_hook *hooks,
                   int64_t count);
/* Gradient [R, T, D] at the input of stop_layer. */
double *gradient_of(fixture *f, ca_pass *pass, ca_backward request);

/* ---- numbers */

double *numbers(fixture *f, int64_t count); /* zeroed */
/* Any view, as contiguous doubles. */
double *values_of(fixture *f, ca_tensor t);
/* A tensor of the model's dtype with these values. */
ca_tensor tensor_of(fixture *f, int rank, const int64_t *shape, const double *values);
/* Standard normal numbers that depend on the stream only. */
ca_tensor random_tensor(fixture *f, int rank, const int64_t *shape, const char *stream);

/* |a - b| <= limit times the largest |b|, for every element. */
void near(const fixture *f, const char *what, const double *a, const double *b, int64_t count,
          double limit);
void same_bits(const fixture *f, const char *what, const double *a, const double *b, int64_t count);
/* same_bits when exact, else near. */
void same(const fixture *f, const char *what, const double *a, const double *b, int64_t count,
          double limit);

/* ---- hooks */

/* Keeps what it sees at each layer (index 0: outside blocks, layer + 1 otherwise). */
typedef struct tap {
    fixture *f;
    double *value[MOST_LAYERS + 1], *gradient[MOST_LAYERS + 1];
    int64_t count; /* elements of the last value */
    int forwards, recomputes, backwards;
} tap;
ca_hook tap_at(fixture *f, tap *t, ca_site_kind site);

/* Adds epsilon times a fixed random direction to one site; sets `slope` to the scalar product of
 * the direction and the gradient, and `size` to what it would be for random signs. */
typedef struct nudge {
    fixture *f;
    double epsilon, slope, size;
} nudge;
ca_hook nudge_at(fixture *f, nudge *n, ca_site_kind site, int64_t layer);

/* Sets rows or heads of a site: view(value) = source; gradients of what was there become 0. */
typedef struct patch {
    ca_tensor source;
    int64_t head; /* -1 = everything */
} patch;
ca_hook patch_at(patch *p, ca_site_kind site, int64_t layer);

#endif
