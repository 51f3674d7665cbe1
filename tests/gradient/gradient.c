/* SPDX-License-Identifier: MIT
 *
 * Central differences for the gradient tests; gradient.h tells the idea.
 */
#include "gradient.h"

#include <math.h>
#include <stdlib.h>

void gradient_ok(ca_status st) {
    if (st != CA_OK) fail_msg("%s", ca_error_text());
}

ca_backend *gradient_backend(void) {
    ca_backend *be;
    gradient_ok(ca_backend_open("ref", 1, &be));
    return be;
}

void gradient_draw(double *values, int64_t count, const char *stream) {
    ca_philox_key key = {.seed = 7, .stream = ca_stream(stream)};
    for (int64_t i = 0; i < count; i++) values[i] = ca_philox_normal(key, (uint64_t)i);
}

double *gradient_numbers(int64_t count, const char *stream) {
    double *values = calloc((size_t)count + 1, sizeof *values);
    assert_non_null(values);
    gradient_draw(values, count, stream);
    return values;
}

const ca_sequences *gradient_sequences(sequence_memory *m, const sequence_lengths *lengths) {
    sequence_arrays_fill(&m->arrays, lengths);
    ca_sequences *q = &m->arrays.sequences;
    for (int64_t s = 0; s < q->count; s++)
        for (int64_t t = q->row_start[s]; t < q->row_start[s + 1]; t++)
            m->positions[t] = (int32_t)(q->prefix_rows[s] + t - q->row_start[s]);
    q->row_start_b = ca_tensor_1d(m->arrays.row_start, CA_I64, q->count + 1);
    q->pattern_start_b = ca_tensor_1d(m->arrays.pattern_start, CA_I64, q->count + 1);
    q->prefix_start_b = ca_tensor_1d(m->arrays.prefix_start, CA_I64, q->count);
    q->prefix_rows_b = ca_tensor_1d(m->arrays.prefix_rows, CA_I64, q->count);
    q->positions = ca_tensor_1d(m->positions, CA_I32, q->rows);
    return q;
}

static vector make_vector(int64_t count, const char *stream) {
    vector v = {.x = gradient_numbers(count, stream),
                .dx = calloc((size_t)count + 1, sizeof(double)),
                .count = count};
    assert_non_null(v.dx);
    return v;
}

static double weighted_output(problem *p) {
    p->forward(p);
    double sum = 0;
    for (int64_t i = 0; i < p->output.count; i++) sum += p->output.x[i] * p->output.dx[i];
    return sum;
}

static void check_input(problem *p, const vector *v, int number) {
    const double step = 1e-5, limit = 1e-7;
    double largest = 0;
    for (int64_t i = 0; i < v->count; i++) largest = fmax(largest, fabs(v->dx[i]));
    if (!(largest > 0)) fail_msg("%s: input %d: the gradient is 0 or NaN", p->name, number);
    for (int64_t i = 0; i < v->count; i++) {
        double x = v->x[i];
        v->x[i] = x + step;
        double above = weighted_output(p);
        v->x[i] = x - step;
        double below = weighted_output(p);
        v->x[i] = x;
        double expected = (above - below) / (2 * step);
        if (!(fabs(v->dx[i] - expected) <= limit * largest))
            fail_msg("%s: input %d[%lld]: expected %.12g within %.3g, got %.12g", p->name, number,
                     (long long)i, expected, limit * largest, v->dx[i]);
    }
}

void gradient_check(problem *p) {
    static const char *const streams[MAX_INPUTS] = {"input 0", "input 1", "input 2"};
    p->be = gradient_backend();
    p->output = make_vector(p->output_count, "output");
    gradient_draw(p->output.dx, p->output_count, "cotangent");
    int count = 0;
    for (; count < MAX_INPUTS && p->input_counts[count] > 0; count++)
        p->inputs[count] = make_vector(p->input_counts[count], streams[count]);

    p->forward(p);
    p->backward(p);
    for (int i = 0; i < count; i++) check_input(p, &p->inputs[i], i);

    for (int i = 0; i < count; i++) free(p->inputs[i].x), free(p->inputs[i].dx);
    free(p->output.x), free(p->output.dx);
    ca_backend_close(p->be);
}
