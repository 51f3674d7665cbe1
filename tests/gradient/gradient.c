/* SPDX-License-Identifier: MIT
 *
 * Central differences for the gradient tests; gradient.h tells the idea.
 */
#include "gradient.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- tensors of a backend that stand in for host memory, until the operation is done */

enum { MAX_MIRRORS = 24 };

static struct {
    ca_backend *be;
    ca_tensor host, there;
} mirrors[MAX_MIRRORS];
static int mirror_count;

/* Both ways: storage of the host is f64 where that of the backend is f32. */
static void widen(ca_tensor host, const float *from) {
    for (int64_t i = 0; i < ca_tensor_count(&host); i++) ((double *)host.data)[i] = (double)from[i];
}

static void narrow(float *to, ca_tensor host) {
    for (int64_t i = 0; i < ca_tensor_count(&host); i++)
        to[i] = (float)((const double *)host.data)[i];
}

static void bring_back(void) {
    for (int i = 0; i < mirror_count; i++) {
        ca_tensor host = mirrors[i].host, there = mirrors[i].there;
        if (host.dtype == CA_F64) {
            float *values = calloc((size_t)ca_tensor_count(&host) + 1, sizeof *values);
            assert_non_null(values);
            ca_status st = ca_download(mirrors[i].be, values, there);
            if (st != CA_OK) fail_msg("%s", ca_error_text());
            widen(host, values);
            free(values);
        }
        ca_release(mirrors[i].be, there.data);
    }
    mirror_count = 0;
}

void gradient_ok(ca_status st) {
    if (st != CA_OK) fail_msg("%s", ca_error_text());
    bring_back();
}

ca_tensor gradient_tensor(ca_backend *be, ca_tensor host) {
    void *data;
    ca_tensor there = host;
    if (strcmp(be->name, "ref") == 0 || !host.data) return host;
    assert_true(mirror_count < MAX_MIRRORS);
    if (host.dtype == CA_F64) there.dtype = CA_F32;
    size_t bytes = (size_t)ca_tensor_count(&there) * ca_dtype_size(there.dtype);
    void *values = calloc(bytes + 1, 1);
    assert_non_null(values);
    if (host.dtype == CA_F64)
        narrow(values, host);
    else
        memcpy(values, host.data, bytes);
    assert_int_equal(ca_alloc(be, bytes, &data), CA_OK);
    there.data = data;
    assert_int_equal(ca_upload(be, there, values), CA_OK);
    free(values);
    mirrors[mirror_count].be = be;
    mirrors[mirror_count].host = host;
    mirrors[mirror_count++].there = there;
    return there;
}

const ca_sequences *gradient_sequences_on(ca_backend *be, const ca_sequences *host) {
    static ca_sequences there;
    there = *host;
    there.row_start_b = gradient_tensor(be, host->row_start_b);
    there.pattern_start_b = gradient_tensor(be, host->pattern_start_b);
    there.prefix_start_b = gradient_tensor(be, host->prefix_start_b);
    there.prefix_rows_b = gradient_tensor(be, host->prefix_rows_b);
    there.positions = gradient_tensor(be, host->positions);
    return &there;
}

/* ---- */

ca_backend *gradient_backend(void) {
    ca_backend *be;
    gradient_ok(ca_backend_open("ref", 1, &be));
    return be;
}

void gradient_draw(double *values, int64_t count, const char *stream) {
    ca_philox_key key = {.seed = 7, .stream = ca_stream(stream)};
    for (int64_t i = 0; i < count; i++)
        values[i] = (double)(float)ca_philox_normal(key, (uint64_t)i);
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

/* ---- another backend beside ref */

static void compare(const problem *p, const char *what, const double *got, const double *expected,
                    int64_t count) {
    const double tolerance = 2e-5;
    double largest = 0;
    for (int64_t i = 0; i < count; i++) largest = fmax(largest, fabs(expected[i]));
    for (int64_t i = 0; i < count; i++)
        if (!(fabs(got[i] - expected[i]) <= tolerance * largest))
            fail_msg("%s on %s: %s[%lld]: expected %.9g within %.3g, got %.9g", p->name,
                     p->be->name, what, (long long)i, expected[i], tolerance * largest, got[i]);
}

/* Takes the place of v's array, which is returned; zeros, as before the first run. */
static double *replaced(double **v, int64_t count) {
    double *before = *v;
    *v = calloc((size_t)count + 1, sizeof **v);
    assert_non_null(*v);
    return before;
}

static void compare_backend(problem *p, const char *name, int count) {
    double *y = replaced(&p->output.x, p->output.count), *dx[MAX_INPUTS];
    for (int i = 0; i < count; i++) dx[i] = replaced(&p->inputs[i].dx, p->inputs[i].count);
    gradient_ok(ca_backend_open(name, 1, &p->be));
    p->forward(p);
    p->backward(p);
    compare(p, "y", p->output.x, y, p->output.count);
    for (int i = 0; i < count; i++) {
        char what[32];
        snprintf(what, sizeof what, "gradient of input %d", i);
        compare(p, what, p->inputs[i].dx, dx[i], p->inputs[i].count);
        free(dx[i]);
    }
    free(y);
    ca_backend_close(p->be);
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
    p->forward(p); /* y at x again */
    ca_backend_close(p->be);
    const char *other = getenv("CA_TEST_BACKEND");
    if (other) compare_backend(p, other, count);

    for (int i = 0; i < count; i++) free(p->inputs[i].x), free(p->inputs[i].dx);
    free(p->output.x), free(p->output.dx);
}
