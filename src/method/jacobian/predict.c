/* SPDX-License-Identifier: MIT
 *
 * What the model says at every read: top tokens with probabilities, the target and its logit.
 */
#include "jacobian.h"

#include "causa/ops.h"

#include <math.h>
#include <stdlib.h>

static int64_t first_read(const jacobian *j) { return j->reads.start[j->first]; }

/* The example that a read of the micro-batch belongs to. */
static const ca_example *example_of(const jacobian *j, int64_t read) {
    int64_t i = j->first;
    while (j->reads.start[i + 1] - first_read(j) <= read) i++;
    return &j->job->data->examples[i];
}

/* Top tokens; sets the targets that are the argmax. */
static ca_status predict(jacobian *j, float *probability, int32_t *id) {
    ca_status st = CA_OK;
    ca_job *job = j->job;
    ca_tensor logits = ca_pass_logits(j->pass), lse = ca_tensor_slice(j->lse, 0, 0, j->n);
    ca_tensor values = ca_tensor_slice(j->top_values, 0, 0, j->n);
    ca_tensor ids = ca_tensor_slice(j->top_ids, 0, 0, j->n);
    double *value = j->numbers, *sum = j->numbers + j->n * j->top;
    CA_TRY(ca_top_k(job->backend, values, ids, logits));
    CA_TRY(ca_log_sum_exp(job->backend, lse, logits));
    CA_TRY(ca_download_f64(job->backend, values, j->staging, value));
    CA_TRY(ca_download_f64(job->backend, lse, j->staging, sum));
    CA_TRY(ca_download(job->backend, id, ids));
    for (int64_t r = 0; r < j->n; r++) {
        jacobian_read *read = &j->reads.read[first_read(j) + r];
        if (!isfinite(sum[r]))
            return ca_fail(CA_E_NUMERIC, "%s: the logits at position %lld are not finite",
                           ca_example_place(job->data, example_of(j, r)),
                           (long long)read->position);
        for (int64_t k = 0; k < j->top; k++)
            probability[r * j->top + k] = (float)exp(value[r * j->top + k] - sum[r]);
        if (read->id < 0) read->id = id[r * j->top];
    }
out:
    return st;
}

/* direction [n, D] = d target / d y: rows of the unembedding. */
static ca_status set_direction(jacobian *j) {
    ca_status st = CA_OK;
    ca_job *job = j->job;
    const jacobian_read *read = &j->reads.read[first_read(j)];
    ca_tensor direction = ca_tensor_slice(j->direction, 0, 0, j->n);
    ca_tensor ids = ca_tensor_slice(j->ids, 0, 0, j->n),
              others = ca_tensor_slice(j->others, 0, 0, j->n);
    for (int64_t r = 0; r < j->n; r++) j->id_host[r] = read[r].id;
    CA_TRY(ca_upload(job->backend, ids, j->id_host));
    CA_TRY(ca_gather(job->backend, direction, job->model->head, ids, 1, false));
    if (!j->reads.contrast) return CA_OK;
    for (int64_t r = 0; r < j->n; r++) j->id_host[r] = read[r].other;
    CA_TRY(ca_upload(job->backend, others, j->id_host));
    CA_TRY(ca_gather(job->backend, direction, job->model->head, others, -1, true));
out:
    return st;
}

ca_status ca_jacobian_log_probability_direction(jacobian *j, ca_tensor direction) {
    ca_status st = CA_OK;
    const ca_model *m = j->job->model;
    ca_tensor d_logits = ca_tensor_slice(j->probability, 0, 0, j->n);
    ca_tensor ids = ca_tensor_slice(j->ids, 0, 0, j->n), ones = ca_tensor_slice(j->lse, 0, 0, j->n);
    if (j->reads.contrast) /* the means of both logits cancel */
        return ca_copy(m->backend, direction, ca_tensor_slice(j->direction, 0, 0, j->n));
    CA_TRY(ca_fill(m->backend, ones, 1));
    CA_TRY(ca_cross_entropy_bwd(m->backend, d_logits, ca_pass_logits(j->pass), ids, ones));
    CA_TRY(ca_matmul(m->backend, direction, d_logits, m->head, (ca_tensor){0},
                     (ca_matmul_options){.alpha = -1, .wide = true}));
out:
    return st;
}

/* The explained value at y. */
static ca_status target_values(jacobian *j, double *value) {
    ca_status st = CA_OK;
    ca_tensor values = ca_tensor_slice(j->values, 0, 0, j->n);
    CA_TRY(ca_row_dots(j->job->backend, values, ca_pass_final_norm(j->pass),
                       ca_tensor_slice(j->direction, 0, 0, j->n)));
    CA_TRY(ca_download_f64(j->job->backend, values, j->staging, value));
out:
    return st;
}

/* Entropy of the distributions in nats, log sum exp(z) - sum p z, the first of which is known. */
static ca_status write_entropy(jacobian *j) {
    ca_status st = CA_OK;
    ca_backend *be = j->job->backend;
    ca_tensor logits = ca_pass_logits(j->pass), lse = ca_tensor_slice(j->lse, 0, 0, j->n);
    ca_tensor mean = ca_tensor_slice(j->values, 0, 0, j->n);
    for (int64_t first = 0; first < j->n; first += JACOBIAN_ENTROPY) {
        int64_t count = j->n - first < JACOBIAN_ENTROPY ? j->n - first : JACOBIAN_ENTROPY;
        ca_tensor z = ca_tensor_slice(logits, 0, first, count);
        ca_tensor p = ca_tensor_slice(j->probability, 0, 0, count);
        CA_TRY(ca_softmax(be, p, z));
        CA_TRY(ca_row_dots(be, ca_tensor_slice(mean, 0, first, count), p, z));
    }
    CA_TRY(ca_add(be, lse, mean, -1));
    CA_TRY(ca_download_f64(be, lse, j->staging, j->numbers));
    CA_TRY(ca_jacobian_write(j, "/predictions/entropy", first_read(j), j->n, j->numbers));
out:
    return st;
}

/* The norm of y: the inverse temperature of the distribution over W y / |y|. */
static ca_status write_norm(jacobian *j) {
    ca_status st = CA_OK;
    ca_tensor norm = ca_tensor_slice(j->values, 0, 0, j->n);
    CA_TRY(ca_row_norms(j->job->backend, norm, ca_pass_final_norm(j->pass)));
    CA_TRY(ca_download_f64(j->job->backend, norm, j->staging, j->numbers));
    CA_TRY(ca_jacobian_write(j, "/predictions/norm", first_read(j), j->n, j->numbers));
out:
    return st;
}

static ca_status write_pieces(jacobian *j, const char *path, int64_t per_read, const int32_t *ids) {
    ca_status st = CA_OK;
    ca_string text = {0};
    const char **pieces = NULL;
    CA_TRY(ca_method_pieces(j->job, ids, j->n * per_read, &text, &pieces));
    CA_TRY(ca_jacobian_write(j, path, first_read(j), j->n, pieces));
out:
    free(pieces);
    ca_string_free(&text);
    return st;
}

static ca_status write_reads(jacobian *j, const float *probability, const int32_t *id) {
    ca_status st = CA_OK;
    const jacobian_read *read = &j->reads.read[first_read(j)];
    int64_t first = first_read(j);
    CA_TRY(ca_jacobian_write(j, "/predictions/token_ids", first, j->n, id));
    CA_TRY(ca_jacobian_write(j, "/predictions/probability", first, j->n, probability));
    CA_TRY(write_pieces(j, "/predictions/pieces", j->top, id));
    for (int64_t i = 0; i < j->n; i++) j->id_host[i] = id[i * j->top];
    CA_TRY(ca_jacobian_write(j, "/baseline/predicted", first, j->n, j->id_host));
    for (int64_t i = 0; i < j->n; i++) j->id_host[i] = read[i].id;
    CA_TRY(ca_jacobian_write(j, "/data/target", first, j->n, j->id_host));
    CA_TRY(write_pieces(j, "/data/target_piece", 1, j->id_host));
    for (int64_t i = 0; j->reads.contrast && i < j->n; i++) j->id_host[i] = read[i].other;
    if (j->reads.contrast) {
        CA_TRY(ca_jacobian_write(j, "/data/contrast", first, j->n, j->id_host));
        CA_TRY(write_pieces(j, "/data/contrast_piece", 1, j->id_host));
    }
    CA_TRY(target_values(j, j->numbers));
    CA_TRY(ca_jacobian_write(j, "/baseline/clean", first, j->n, j->numbers));
    for (int64_t i = 0; i < j->n; i++) j->row_host[i] = read[i].position;
    CA_TRY(ca_jacobian_write(j, "/data/position", first, j->n, j->row_host));
out:
    return st;
}

ca_status ca_jacobian_predict(jacobian *j) {
    ca_status st = CA_OK;
    float *probability = NULL;
    int32_t *id = NULL;
    if (j->n == 0) return CA_OK;
    CA_TRY(ca_calloc((size_t)(j->n * j->top), sizeof *probability, &probability));
    CA_TRY(ca_calloc((size_t)(j->n * j->top), sizeof *id, &id));
    CA_TRY(predict(j, probability, id));
    CA_TRY(set_direction(j));
    CA_TRY(write_reads(j, probability, id));
    CA_TRY(write_entropy(j));
    CA_TRY(write_norm(j));
out:
    free(probability);
    free(id);
    return st;
}
