/* SPDX-License-Identifier: MIT
 *
 * The probes v = W^T b, b_i = xi_i sqrt(p_i) - p_i sum_k xi_k sqrt(p_k), are formed in float64 on
 * the host but for the one matrix product. Taking the mean off the weights b, instead of mu off the
 * rows of W, leaves no large product to cancel. See hutchinson.h.
 */
#include "hutchinson.h"
#include "common.h"

#include "causa/ops.h"

#include <math.h>
#include <stdlib.h>

enum { MOST_WEIGHTS = 1 << 24 /* elements of [probes, chunk, V] */, SIGNS = 128 /* of one draw */ };

struct jacobian_hutchinson {
    const ca_model *model;
    int64_t probes, chunk; /* chunk: reads of one product */
    method_buffers buffers;
    ca_tensor weights, vectors; /* [probes, chunk, V], [probes, chunk, D] */
    void *staging;              /* [V] as the backend stores it */
    double *p, *row;            /* [V] of one read; of one probe */
};

static void set_sizes(jacobian_hutchinson *h, const ca_arch *a, int64_t most_reads,
                      int64_t probes) {
    int64_t fit = MOST_WEIGHTS / (probes * a->vocab) + 1;
    h->probes = probes;
    h->chunk = most_reads < fit ? most_reads : fit;
}

/* The tensors; with buffers == NULL they are only measured. */
static int64_t take_tensors(jacobian_hutchinson *h, const ca_arch *a, ca_dtype dtype,
                            method_buffers *buffers) {
    const method_tensor list[] = {
        {&h->weights, dtype, 3, {h->probes, h->chunk, a->vocab}},
        {&h->vectors, dtype, 3, {h->probes, h->chunk, a->width}},
    };
    return ca_method_take_list(buffers, list, sizeof list / sizeof *list);
}

int64_t ca_jacobian_hutchinson_bytes(const ca_arch *arch, ca_dtype dtype, int64_t most_reads,
                                     int64_t probes) {
    jacobian_hutchinson h = {0};
    set_sizes(&h, arch, most_reads, probes);
    return take_tensors(&h, arch, dtype, NULL);
}

int64_t ca_jacobian_hutchinson_host_bytes(const ca_arch *arch) {
    return 3 * arch->vocab * (int64_t)sizeof(double);
}

void ca_jacobian_hutchinson_free(jacobian_hutchinson *h) {
    if (!h) return;
    ca_method_buffers_free(&h->buffers);
    free(h->staging);
    free(h->p);
    free(h->row);
    free(h);
}

ca_status ca_jacobian_hutchinson_create(const ca_model *model, int64_t most_reads, int64_t probes,
                                        jacobian_hutchinson **out) {
    ca_status st = CA_OK;
    const ca_arch *a = &model->arch;
    jacobian_hutchinson *h = NULL;
    CA_TRY(ca_calloc(1, sizeof *h, &h));
    h->model = model;
    set_sizes(h, a, most_reads, probes);
    CA_TRY(ca_method_buffers_create(model->backend, (size_t)take_tensors(h, a, model->dtype, NULL),
                                    &h->buffers));
    take_tensors(h, a, model->dtype, &h->buffers);
    CA_TRY(ca_calloc((size_t)a->vocab, sizeof(double), &h->staging));
    CA_TRY(ca_calloc((size_t)a->vocab, sizeof *h->p, &h->p));
    CA_TRY(ca_calloc((size_t)a->vocab, sizeof *h->row, &h->row));
    *out = h;
    h = NULL;
out:
    ca_jacobian_hutchinson_free(h);
    return st;
}

/* p [V] of a row of logits, in place. */
static void softmax(double *p, int64_t count) {
    double most = p[0], sum = 0;
    for (int64_t i = 1; i < count; i++) most = p[i] > most ? p[i] : most;
    for (int64_t i = 0; i < count; i++) sum += p[i] = exp(p[i] - most);
    for (int64_t i = 0; i < count; i++) p[i] /= sum;
}

/* row [V] = the weights b of a probe over sqrt(probes). */
static void draw(const jacobian_hutchinson *h, ca_philox_key key, int64_t probe, double *row) {
    int64_t vocab = h->model->arch.vocab, draws = (vocab + SIGNS - 1) / SIGNS;
    double sum = 0, scale = 1 / sqrt((double)h->probes);
    uint32_t bits[4] = {0};
    for (int64_t i = 0; i < vocab; i++) {
        int64_t bit = i % SIGNS;
        if (bit == 0) ca_philox(key, (uint64_t)(probe * draws + i / SIGNS), bits);
        row[i] = sqrt(h->p[i]);
        if (bits[bit / 32] >> bit % 32 & 1) row[i] = -row[i];
        sum += row[i];
    }
    for (int64_t i = 0; i < vocab; i++) row[i] = scale * (row[i] - h->p[i] * sum);
}

/* Vectors [probes, n of all, D] of the reads [first, first + n). */
static ca_status probe_chunk(jacobian_hutchinson *h, ca_tensor logits, const ca_philox_key *keys,
                             int64_t first, int64_t n, ca_tensor vectors) {
    ca_status st = CA_OK;
    ca_backend *be = h->model->backend;
    int64_t vocab = h->model->arch.vocab, width = h->model->arch.width;
    ca_tensor weights = ca_tensor_3d(h->weights.data, h->weights.dtype, h->probes, n, vocab);
    ca_tensor sums = ca_tensor_3d(h->vectors.data, h->vectors.dtype, h->probes, n, width);
    for (int64_t i = 0; i < n; i++) {
        CA_TRY(ca_download_f64(be, ca_tensor_slice(logits, 0, first + i, 1), h->row, h->p));
        softmax(h->p, vocab);
        for (int64_t k = 0; k < h->probes; k++) {
            ca_tensor row = ca_tensor_slice(ca_tensor_slice(weights, 0, k, 1), 1, i, 1);
            draw(h, keys[first + i], k, h->row);
            CA_TRY(ca_upload_f64(be, row, h->staging, h->row));
        }
    }
    /* wide: the mean is off the weights, and would come back with their rounding */
    CA_TRY(ca_matmul(be, ca_tensor_rows(sums), ca_tensor_rows(weights), h->model->head,
                     (ca_tensor){0}, (ca_matmul_options){.alpha = 1, .wide = true}));
    CA_TRY(ca_copy(be, ca_tensor_slice(vectors, 1, first, n), sums));
out:
    return st;
}

ca_status ca_jacobian_hutchinson_probes(jacobian_hutchinson *h, ca_tensor logits,
                                        const ca_philox_key *keys, ca_tensor vectors) {
    ca_status st = CA_OK;
    int64_t reads = logits.shape[0];
    for (int64_t first = 0; first < reads; first += h->chunk) {
        int64_t n = h->chunk < reads - first ? h->chunk : reads - first;
        CA_TRY(probe_chunk(h, logits, keys, first, n, vectors));
    }
out:
    return st;
}
