/* SPDX-License-Identifier: MIT
 *
 * The driver of the parity tests; parity.h tells what it does.
 */
#include "parity.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD = 256, GUARD_BYTE = 0x7f }; /* huge in every dtype: reads show too */

const char *fill_name(fill f) {
    static const char *const names[FILL_COUNT] = {"normal", "large", "small", "mixed",
                                                  "ties",   "equal", "zero",  "rare"};
    return names[f];
}

double fill_amplitude(fill f) {
    static const double amplitudes[FILL_COUNT] = {1, 1e4, 1e-9, 1e4, 1, 1, 0, 1};
    return amplitudes[f];
}

static double draw(fill f, ca_philox_key key, uint64_t i) {
    switch (f) {
    case MIXED:
        return ca_philox_normal(key, 2 * i) * pow(10, 8 * ca_philox_uniform(key, 2 * i + 1) - 4);
    case TIES:
        return floor(3 * ca_philox_uniform(key, i)) - 1;
    case EQUAL:
        return 0.75;
    case ZERO:
        return 0;
    case RARE:
        return RARITY * ca_philox_uniform(key, 2 * i + 1) < 1 ? ca_philox_normal(key, 2 * i) : 0;
    default:
        return ca_philox_normal(key, i) * fill_amplitude(f);
    }
}

/* ---- tensors of a case */

void parity_ok(ca_status st) {
    if (st != CA_OK) fail_msg("%s", ca_error_text());
}

static ca_tensor view_of(void *data, ca_dtype dtype, int rank, const int64_t *shape) {
    int64_t n[CA_MAX_RANK] = {1, 1, 1, 1};
    memcpy(n, shape, (size_t)rank * sizeof *shape);
    ca_tensor flat = ca_tensor_4d(data, dtype, n[0], n[1], n[2], n[3]);
    return ca_tensor_reshape(flat, rank, shape);
}

/* All of a buffer's memory, guards included, for transfers. */
static ca_tensor image_of(const buffer *b) {
    return ca_tensor_1d(b->memory, CA_I32, (int64_t)(b->bytes / sizeof(int32_t)));
}

/* A new buffer whose image is guards and 0xff, which is NaN in every floating dtype. */
static buffer *new_buffer(parity *p, const char *name, ca_dtype dtype, int rank,
                          const int64_t *shape) {
    assert_true(p->count < MAX_BUFFERS);
    buffer *b = &p->buffers[p->count++];
    *b = (buffer){.name = name, .dtype = dtype, .count = 1, .tolerance = TOLERANCE};
    for (int axis = 0; axis < rank; axis++) b->count *= shape[axis];
    size_t data = (size_t)b->count * ca_dtype_size(dtype);
    b->bytes = (2 * GUARD + data + 3) / 4 * 4;
    b->before = malloc(b->bytes);
    b->after = malloc(b->bytes);
    assert_true(b->before && b->after);
    memset(b->before, GUARD_BYTE, b->bytes);
    memset(b->before + GUARD, 0xff, data);
    parity_ok(ca_alloc(p->be, b->bytes, &b->memory));
    return b;
}

static ca_tensor finish_buffer(parity *p, const buffer *b, int rank, const int64_t *shape) {
    parity_ok(ca_upload(p->be, image_of(b), b->before));
    return view_of((char *)b->memory + GUARD, b->dtype, rank, shape);
}

static void draw_values(parity *p, buffer *b, fill f) {
    /* The place in the case names the stream, so both backends get the same values. */
    ca_philox_key key = {.seed = p->seed, .stream = (uint64_t)p->count};
    for (int64_t i = 0; i < b->count; i++) {
        float value = (float)draw(f, key, (uint64_t)i);
        if (b->dtype == CA_F32)
            ((float *)(void *)(b->before + GUARD))[i] = value;
        else if (b->dtype == CA_BF16)
            ((uint16_t *)(void *)(b->before + GUARD))[i] = ca_bf16_round(value);
        else
            ((double *)(void *)(b->before + GUARD))[i] = value;
    }
}

ca_tensor parity_input(parity *p, const char *name, fill f, int rank, const int64_t *shape) {
    buffer *b = new_buffer(p, name, p->dtype, rank, shape);
    draw_values(p, b, f);
    return finish_buffer(p, b, rank, shape);
}

ca_tensor parity_input_bf16(parity *p, const char *name, fill f, int rank, const int64_t *shape) {
    buffer *b = new_buffer(p, name, CA_BF16, rank, shape);
    draw_values(p, b, f);
    return finish_buffer(p, b, rank, shape);
}

ca_tensor parity_inout(parity *p, const char *name, fill f, double scale, int rank,
                       const int64_t *shape) {
    buffer *b = new_buffer(p, name, p->dtype, rank, shape);
    b->written = true;
    b->scale = scale;
    draw_values(p, b, f);
    return finish_buffer(p, b, rank, shape);
}

ca_tensor parity_output_typed(parity *p, const char *name, ca_dtype dtype, int rank,
                              const int64_t *shape) {
    buffer *b = new_buffer(p, name, dtype, rank, shape);
    b->written = true;
    return finish_buffer(p, b, rank, shape);
}

ca_tensor parity_output(parity *p, const char *name, double scale, int rank, const int64_t *shape) {
    ca_tensor t = parity_output_typed(p, name, p->dtype, rank, shape);
    p->buffers[p->count - 1].scale = scale;
    return t;
}

ca_tensor parity_input_i64(parity *p, const char *name, ca_dtype dtype, int64_t count,
                           const int64_t *values) {
    buffer *b = new_buffer(p, name, dtype, SHAPE(count));
    for (int64_t i = 0; i < count; i++) {
        if (dtype == CA_I32)
            ((int32_t *)(void *)(b->before + GUARD))[i] = (int32_t)values[i];
        else
            ((int64_t *)(void *)(b->before + GUARD))[i] = values[i];
    }
    return finish_buffer(p, b, SHAPE(count));
}

static int buffer_under(const parity *p, ca_tensor view) {
    for (int i = 0; i < p->count; i++) {
        const char *memory = p->buffers[i].memory, *at = view.data;
        if (at >= memory && at < memory + p->buffers[i].bytes) return i;
    }
    fail_msg("no buffer of the case holds %s", ca_tensor_text(&view));
    return -1;
}

ca_tensor parity_magnitudes(parity *p, const char *name, ca_tensor view) {
    const buffer *of = &p->buffers[buffer_under(p, view)];
    buffer *b = new_buffer(p, name, of->dtype, SHAPE(of->count));
    const size_t size = ca_dtype_size(of->dtype), sign = size - 1; /* little-endian */
    memcpy(b->before, of->before, b->bytes);
    for (int64_t i = 0; i < b->count; i++) b->before[GUARD + (size_t)i * size + sign] &= 0x7f;
    finish_buffer(p, b, SHAPE(b->count));
    view.data = (char *)b->memory + ((char *)view.data - (char *)of->memory);
    return view;
}

void parity_set_tolerance(parity *p, double tolerance) {
    p->buffers[p->count - 1].tolerance = tolerance;
}

void parity_add_share(parity *p, ca_tensor output, double share, ca_tensor magnitudes) {
    buffer *b = &p->buffers[buffer_under(p, output)];
    b->share = share;
    b->magnitudes = buffer_under(p, magnitudes);
}

/* ---- running and comparing */

static void run_on(parity *p, ca_backend *be, ca_dtype dtype, parity_run run,
                   const void *parameters, const char *label) {
    *p = (parity){.be = be, .dtype = dtype, .seed = ca_stream(label)};
    run(p, parameters);
    for (int i = 0; i < p->count; i++) {
        buffer *b = &p->buffers[i];
        parity_ok(ca_download(be, b->after, image_of(b)));
        size_t data = (size_t)b->count * ca_dtype_size(b->dtype), end = GUARD + data;
        if (memcmp(b->before, b->after, GUARD) != 0)
            fail_msg("%s: %s: %s: written before its beginning", be->name, label, b->name);
        if (memcmp(b->before + end, b->after + end, b->bytes - end) != 0)
            fail_msg("%s: %s: %s: written behind its end", be->name, label, b->name);
        if (!b->written && memcmp(b->before, b->after, b->bytes) != 0)
            fail_msg("%s: %s: %s: an input was changed", be->name, label, b->name);
    }
}

static void free_buffers(parity *p) {
    for (int i = 0; i < p->count; i++) {
        ca_release(p->be, p->buffers[i].memory);
        free(p->buffers[i].before);
        free(p->buffers[i].after);
    }
}

static double element(const buffer *b, int64_t i) {
    const void *data = b->after + GUARD;
    if (b->dtype == CA_F32) return (double)((const float *)data)[i];
    return ((const double *)data)[i];
}

static void compare_exactly(const buffer *got, const buffer *expected, const char *label) {
    size_t size = ca_dtype_size(got->dtype);
    for (int64_t i = 0; i < got->count; i++) {
        size_t at = GUARD + (size_t)i * size;
        if (memcmp(got->after + at, expected->after + at, size) != 0)
            fail_msg("%s: %s[%lld]: differs from the reference", label, got->name, (long long)i);
    }
}

/* Infinite and NaN elements must be so on both sides. */
static double error_of(double got, double expected) {
    if (isnan(got) && isnan(expected)) return 0;
    if (isinf(got) || isinf(expected)) return got == expected ? 0 : (double)INFINITY;
    return isnan(got) || isnan(expected) ? (double)INFINITY : fabs(got - expected);
}

/* `magnitudes`: of what may be off by a share of them. */
static void compare(const buffer *got, const buffer *expected, const buffer *magnitudes,
                    const char *label, parity_summary *summary) {
    double largest = fmax(expected->scale, FLT_MIN); /* float32 keeps no digits below it */
    for (int64_t i = 0; i < expected->count; i++) {
        double value = fabs(element(expected, i));
        if (isfinite(value) && value > largest) largest = value;
    }
    for (int64_t i = 0; i < expected->count; i++) {
        double limit = expected->tolerance * largest;
        if (expected->share > 0) limit += expected->share * fabs(element(magnitudes, i));
        double error = error_of(element(got, i), element(expected, i));
        double share = error == 0 ? 0 : error / limit; /* infinite at a limit of zero */
        if (share > 1)
            fail_msg("%s: %s[%lld]: expected %.9g within %.3g, got %.9g", label, got->name,
                     (long long)i, element(expected, i), limit, element(got, i));
        if (share > summary->share) {
            summary->share = share;
            snprintf(summary->worst, sizeof summary->worst, "%s, %s[%lld]: %.9g for %.9g", label,
                     got->name, (long long)i, element(got, i), element(expected, i));
        }
    }
}

void parity_case(ca_backend *be, ca_backend *ref, parity_run run, const void *parameters,
                 parity_kind kind, const char *label, parity_summary *summary) {
    static parity tested, reference;
    if (!parity_case_is_chosen(kind)) return;
    run_on(&tested, be, CA_F32, run, parameters, label);
    summary->cases++;
    if (parity_compare_recorded(&tested, label)) {
        free_buffers(&tested);
        return;
    }
    run_on(&reference, ref, CA_F64, run, parameters, label);
    assert_int_equal(tested.count, reference.count);
    for (int i = 0; i < tested.count; i++) {
        const buffer *got = &tested.buffers[i], *expected = &reference.buffers[i];
        if (!got->written) continue;
        if (got->dtype == CA_F32)
            compare(got, expected, &reference.buffers[expected->magnitudes], label, summary);
        else
            compare_exactly(got, expected, label);
    }
    free_buffers(&tested);
    free_buffers(&reference);
}

void parity_each_backend(void (*body)(ca_backend *be, ca_backend *ref, const void *context),
                         const void *context) {
    ca_backend *ref;
    parity_ok(ca_backend_open("ref", 1, &ref));
    int opened = 0;
    for (const ca_backend_entry *const *entry = ca_backend_entries(); *entry; entry++) {
        ca_backend *be;
        if (!parity_backend_is_chosen((*entry)->name)) continue;
        if (ca_backend_open((*entry)->name, 2, &be) != CA_OK) {
            print_message("[  SKIPPED ] %s\n", ca_error_text());
            continue;
        }
        body(be, ref, context);
        ca_backend_close(be);
        opened++;
    }
    ca_backend_close(ref);
    assert_true(opened > 0);
}

void parity_report(const ca_backend *be, const char *operation, const parity_summary *summary) {
    if (summary->cases == 0) fail_msg("%s: none of its cases was chosen", operation);
    print_message("%-5s %-18s %4lld cases, worst %.3f of the limit%s%s\n", be->name, operation,
                  (long long)summary->cases, summary->share, summary->share > 0 ? ": " : "",
                  summary->worst);
}
