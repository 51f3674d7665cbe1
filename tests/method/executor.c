/* SPDX-License-Identifier: MIT
 *
 * Models, batches, passes and numbers for the tests of the executor; executor.h tells what for.
 */
#include "executor.h"

#include "causa/result.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const every_fixture[] = {
    "gpt2",  "gpt2-inner", "llama-mha",      "llama3-gqa", "llama3-gqa-new",  "smollm2",
    "qwen2", "qwen3",      "mistral-window", "pythia",     "neox-sequential", NULL};
const char *const some_fixtures[] = {"gpt2-inner",     "llama3-gqa-new", "qwen3",
                                     "mistral-window", "pythia",         NULL};

void ok(ca_status st) {
    if (st != CA_OK) fail_msg("%s", ca_error_text());
}

/* ---- what a fixture owns */

typedef struct owned owned;
struct owned {
    owned *next;
    void *host, *device;
    ca_batch *batch;
    ca_pass *pass;
};

static owned *own(fixture *f) {
    owned *o = calloc(1, sizeof *o);
    assert_non_null(o);
    o->next = f->owned;
    f->owned = o;
    return o;
}

double *numbers(fixture *f, int64_t count) {
    owned *o = own(f);
    o->host = calloc((size_t)count + 1, sizeof(double));
    assert_non_null(o->host);
    return o->host;
}

/* ---- models */

static double *read_floats(fixture *f, ca_result_reader *reader, int n, const char *name,
                           int64_t *count) {
    char path[64];
    int64_t found;
    owned *o = own(f);
    double *values;
    snprintf(path, sizeof path, "/prompt/%d/%s", n, name);
    ok(ca_result_reader_floats(reader, path, &values, &found));
    if (count) *count = found;
    o->host = values;
    return values;
}

static void read_prompt(fixture *f, ca_result_reader *reader, int n) {
    prompt *p = &f->prompts[n];
    char group[32];
    snprintf(group, sizeof group, "/prompt/%d", n);
    assert_true(ca_result_reader_int(reader, group, "a", &p->a));
    assert_true(ca_result_reader_int(reader, group, "b", &p->b));
    const double *ids = read_floats(f, reader, n, "ids", &p->count);
    p->ids = (int32_t *)numbers(f, p->count);
    for (int64_t i = 0; i < p->count; i++) p->ids[i] = (int32_t)ids[i];
    p->resid = read_floats(f, reader, n, "resid", NULL);
    p->final_norm = read_floats(f, reader, n, "final_norm", NULL);
    p->logits = read_floats(f, reader, n, "logits", NULL);
    p->grad_resid = read_floats(f, reader, n, "grad_resid", NULL);
    p->grad_embed = read_floats(f, reader, n, "grad_embed", NULL);
}

void fixture_open(fixture *f, const char *name, const char *backend) {
    fixture_open_as(f, name, backend, strcmp(backend, "ref") == 0 ? CA_F64 : CA_F32);
}

void fixture_open_as(fixture *f, const char *name, const char *backend, ca_dtype precision) {
    char path[128];
    ca_model_file *file;
    ca_result_reader *reader;
    *f = (fixture){.name = name, .exact = precision == CA_F64};
    ok(ca_backend_open(backend, 2, &f->backend));
    snprintf(path, sizeof path, "tests/fixtures/models/%s", name);
    ok(ca_model_file_open(path, &file));
    ok(ca_model_load(file, f->backend, precision, 0, &f->model));
    ca_model_file_close(file);
    f->layers = f->model->arch.layers;
    f->width = f->model->arch.width;
    f->vocab = f->model->arch.vocab;
    assert_true(f->layers <= MOST_LAYERS);
    snprintf(path, sizeof path, "tests/fixtures/models/%s/reference.h5", name);
    ok(ca_result_reader_open_any(path, &reader));
    for (int n = 0; n < PROMPTS; n++) read_prompt(f, reader, n);
    ca_result_reader_close(reader);
}

void fixture_release(fixture *f) {
    while (f->owned) {
        owned *o = f->owned;
        f->owned = o->next;
        ca_pass_free(o->pass);
        ca_batch_free(o->batch);
        ca_release(f->backend, o->device);
        free(o->host);
        free(o);
    }
}

void fixture_close(fixture *f) {
    fixture_release(f);
    ca_model_free(f->model);
    ca_backend_close(f->backend);
}

void on_fixtures(const char *const *names, const char *backend, void (*test)(fixture *f)) {
    for (; *names; names++) {
        fixture f;
        fixture_open(&f, *names, backend);
        test(&f);
        fixture_close(&f);
    }
}

void each_backend(void (*run)(const char *backend, const void *context), const void *context) {
    const char *only = getenv("CA_TEST_BACKEND");
    if (only) {
        run(only, context);
        return;
    }
    for (const ca_backend_entry *const *entry = ca_backend_entries(); *entry; entry++) {
        ca_backend *be;
        if (ca_backend_open((*entry)->name, 1, &be) != CA_OK) {
            print_message("[  SKIPPED ] %s\n", ca_error_text());
            continue;
        }
        ca_backend_close(be);
        run((*entry)->name, context);
    }
}

typedef struct on_fixtures_of {
    const char *const *names;
    void (*test)(fixture *f);
} on_fixtures_of;

static void run_fixtures(const char *backend, const void *context) {
    const on_fixtures_of *of = context;
    on_fixtures(of->names, backend, of->test);
}

void on_every_backend(const char *const *names, void (*test)(fixture *f)) {
    each_backend(run_fixtures, &(on_fixtures_of){names, test});
}

/* ---- batches and passes */

ca_batch *batch_of(fixture *f, const sequence *sequences, int64_t count, reading reads) {
    int64_t rows = 0;
    owned *o = own(f);
    for (int64_t s = 0; s < count; s++) rows += sequences[s].count;
    ok(ca_batch_create(f->backend, count, rows, reads == READ_ALL ? rows : count, &o->batch));
    for (int64_t s = 0; s < count; s++) {
        const sequence *q = &sequences[s];
        ca_batch_add(o->batch, q->ids, q->count, q->prefix_start, q->prefix_rows);
        for (int64_t row = 0; row < q->count; row++)
            if (reads == READ_ALL || (reads == READ_LAST && row == q->count - 1))
                ca_batch_read(o->batch, row);
    }
    ok(ca_batch_upload(o->batch));
    return o->batch;
}

ca_batch *batch_of_prompts(fixture *f, int64_t first, int64_t count, reading reads) {
    sequence sequences[PROMPTS];
    for (int64_t n = 0; n < count; n++)
        sequences[n] =
            (sequence){.ids = f->prompts[first + n].ids, .count = f->prompts[first + n].count};
    return batch_of(f, sequences, count, reads);
}

ca_pass *pass_for(fixture *f, const ca_batch *batch, ca_pass_limits limits, const ca_hook *hooks,
                  int64_t count) {
    const ca_sequences *s = &batch->sequences;
    owned *o = own(f);
    limits.rows = s->rows;
    limits.reads = batch->reads;
    limits.logits = batch->reads > 0;
    ca_pass_limits_add_hooks(&limits, hooks, count);
    if (limits.sites & CA_SITE_BIT(CA_SITE_PATTERN)) limits.pattern = s->pattern_start[s->count];
    ok(ca_pass_create(f->model, &limits, &o->pass));
    return o->pass;
}

ca_pass *run_model(fixture *f, const ca_batch *batch, ca_pass_limits limits, const ca_hook *hooks,
                   int64_t count) {
    ca_pass *pass = pass_for(f, batch, limits, hooks, count);
    ca_forward request = ca_forward_all(f->model, batch);
    request.hooks = hooks;
    request.hook_count = count;
    ok(ca_pass_forward(pass, &request));
    return pass;
}

double *gradient_of(fixture *f, ca_pass *pass, ca_backward request) {
    ca_tensor gradient;
    ok(ca_pass_backward(pass, &request, &gradient));
    return values_of(f, gradient);
}

/* ---- numbers */

static void *device_memory(fixture *f, int64_t count) {
    owned *o = own(f);
    ok(ca_alloc(f->backend, (size_t)(count + 1) * sizeof(double), &o->device));
    return o->device;
}

static ca_tensor contiguous(void *data, ca_dtype dtype, int rank, const int64_t *shape) {
    int64_t count = 1;
    for (int axis = 0; axis < rank; axis++) count *= shape[axis];
    return ca_tensor_reshape(ca_tensor_1d(data, dtype, count), rank, shape);
}

double *values_of(fixture *f, ca_tensor t) {
    int64_t count = ca_tensor_count(&t);
    double *out = numbers(f, count);
    float *narrow = (float *)numbers(f, count);
    ca_tensor copy = contiguous(device_memory(f, count), t.dtype, t.rank, t.shape);
    ok(ca_copy(f->backend, copy, t));
    if (t.dtype == CA_F64) {
        ok(ca_download(f->backend, out, copy));
        return out;
    }
    ok(ca_download(f->backend, narrow, copy));
    for (int64_t i = 0; i < count; i++) out[i] = (double)narrow[i];
    return out;
}

ca_tensor tensor_of(fixture *f, int rank, const int64_t *shape, const double *values) {
    int64_t count = 1;
    for (int axis = 0; axis < rank; axis++) count *= shape[axis];
    ca_tensor t = contiguous(device_memory(f, count), f->model->dtype, rank, shape);
    if (t.dtype == CA_F64) {
        ok(ca_upload(f->backend, t, values));
        return t;
    }
    float *narrow = (float *)numbers(f, count);
    for (int64_t i = 0; i < count; i++) narrow[i] = (float)values[i];
    ok(ca_upload(f->backend, t, narrow));
    return t;
}

ca_tensor random_tensor(fixture *f, int rank, const int64_t *shape, const char *stream) {
    ca_philox_key key = {.seed = 11, .stream = ca_stream(stream)};
    int64_t count = 1;
    for (int axis = 0; axis < rank; axis++) count *= shape[axis];
    double *values = numbers(f, count);
    for (int64_t i = 0; i < count; i++) values[i] = ca_philox_normal(key, (uint64_t)i);
    return tensor_of(f, rank, shape, values);
}

void near(const fixture *f, const char *what, const double *a, const double *b, int64_t count,
          double limit) {
    double largest = 0;
    for (int64_t i = 0; i < count; i++) largest = fmax(largest, fabs(b[i]));
    if (!(largest > 0)) fail_msg("%s: %s: nothing but zeros to compare with", f->name, what);
    for (int64_t i = 0; i < count; i++)
        if (!(fabs(a[i] - b[i]) <= limit * largest))
            fail_msg("%s on %s: %s[%lld]: expected %.12g within %.3g, got %.12g", f->name,
                     f->backend->name, what, (long long)i, b[i], limit * largest, a[i]);
}

void same_bits(const fixture *f, const char *what, const double *a, const double *b,
               int64_t count) {
    near(f, what, a, b, count, HUGE_VAL); /* neither NaN nor all zero */
    for (int64_t i = 0; i < count; i++)
        if (memcmp(a + i, b + i, sizeof *a) != 0)
            fail_msg("%s on %s: %s[%lld]: expected exactly %.17g, got %.17g", f->name,
                     f->backend->name, what, (long long)i, b[i], a[i]);
}

void same(const fixture *f, const char *what, const double *a, const double *b, int64_t count,
          double limit) {
    if (f->exact)
        same_bits(f, what, a, b, count);
    else
        near(f, what, a, b, count, limit);
}
