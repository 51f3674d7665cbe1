/* SPDX-License-Identifier: MIT
 *
 * The scopes: which vectors are pulled back, and how their gradients become scores.
 * Source: "Jacobian Scopes", arXiv 2601.16407, with the authors' code for what it leaves open.
 */
#include "jacobian.h"

#include "causa/ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int64_t one_lane(const jacobian *j) {
    (void)j;
    return 1;
}

/* The only lane of a scope as [n, D]. */
static ca_tensor single(ca_tensor vectors) {
    return ca_tensor_2d(vectors.data, vectors.dtype, vectors.shape[1], vectors.shape[2]);
}

/* Semantic: v = d logit / d y, the target's row of the unembedding. */
static ca_status semantic(jacobian *j, ca_tensor vectors) {
    return ca_copy(j->job->backend, single(vectors), ca_tensor_slice(j->direction, 0, 0, j->n));
}

/* Input x gradient: the same. Differs: with compat the log-probability's, as the baseline of that
 * implementation minimises the cross-entropy; the sign of `signed` stays that of the
 * log-probability. */
static ca_status input_x_gradient(jacobian *j, ca_tensor vectors) {
    return j->compat ? ca_jacobian_log_probability_direction(j, single(vectors))
                     : semantic(j, vectors);
}

/* Temperature: v = y / |y|, so that J^T v = d |y| / d x: the norm of y is the inverse temperature
 * of the distribution over fixed logits W y / |y|. An RMS norm with gain 1 / sqrt(D) divides by
 * |y|. */
static ca_status temperature(jacobian *j, ca_tensor vectors) {
    ca_status st = CA_OK;
    ca_backend *be = j->job->backend;
    int64_t width = j->job->arch->width;
    ca_tensor gain = ca_tensor_1d(j->slot_vectors.data, j->slot_vectors.dtype, width);
    ca_norm norm = {.kind = CA_NORM_RMS};
    CA_TRY(ca_fill(be, gain, 1 / sqrt((double)width)));
    CA_TRY(
        ca_norm_fwd(be, single(vectors), ca_pass_final_norm(j->pass), gain, (ca_tensor){0}, norm));
out:
    return st;
}

/* The largest difference of the elements of a vector [D] from each other and their mean. */
static ca_status spread_of(ca_backend *be, ca_tensor vector, double *spread, double *mean) {
    ca_status st = CA_OK;
    int64_t width = vector.shape[0];
    double *values = NULL, *staging = NULL, least = INFINITY, most = -INFINITY;
    CA_TRY(ca_calloc((size_t)width, sizeof *values, &values));
    CA_TRY(ca_calloc((size_t)width, sizeof *staging, &staging));
    CA_TRY(ca_download_f64(be, vector, staging, values));
    *mean = 0;
    for (int64_t d = 0; d < width; d++) {
        least = fmin(least, values[d]);
        most = fmax(most, values[d]);
        *mean += values[d] / (double)width;
    }
    *spread = most - least;
out:
    free(values);
    free(staging);
    return st;
}

ca_status ca_jacobian_check_gain(const jacobian *j) {
    ca_status st = CA_OK;
    const ca_model *m = j->job->model;
    double spread, mean, bias = 0, shift = 0;
    bool wanted = false;
    for (int64_t c = 0; c < j->columns; c++) wanted |= j->column[c].scope->vectors == temperature;
    if (!wanted) return CA_OK;
    CA_TRY(spread_of(m->backend, m->final_gain, &spread, &mean));
    if (m->final_bias.data) CA_TRY(spread_of(m->backend, m->final_bias, &bias, &shift));
    mean += m->arch.norm.gain_offset;
    if (spread < 1e-3 * fabs(mean) && fabs(bias) + fabs(shift) < 1e-3 * fabs(mean))
        ca_log(CA_LOG_WARNING,
               "temperature: the final norm's gains are all within %.1g of each other, which makes "
               "the norm that the scope explains a constant: its scores are rounding",
               spread);
out:
    return st;
}

/* Fisher: v_i = sqrt(lambda_i) u_i of the largest eigenpairs of the Fisher information at y, so
 * that the sum of |J^T v_i|^2 is the truncated trace of J^T F J. */
static int64_t fisher_lanes(const jacobian *j) { return j->probes ? j->probes : j->rank; }

/* The same trace, all of it, from random vectors. */
static ca_status fisher_probes(jacobian *j, ca_tensor vectors) {
    uint64_t seed = (uint64_t)ca_config_int(j->job->config, "seed");
    for (int64_t i = j->first; i < j->last; i++) {
        const ca_prompt_text *prompt = &j->job->data->examples[i].clean;
        for (int64_t r = j->reads.start[i]; r < j->reads.start[i + 1]; r++)
            j->keys[r - j->reads.start[j->first]] =
                (ca_philox_key){seed, ca_method_prompt_stream("jacobian.hutchinson", prompt,
                                                              j->reads.read[r].position)};
    }
    return ca_jacobian_hutchinson_probes(j->hutchinson, ca_pass_logits(j->pass), j->keys, vectors);
}

static ca_status fisher(jacobian *j, ca_tensor vectors) {
    if (j->probes) return fisher_probes(j, vectors);
    ca_status st = CA_OK;
    int64_t first = j->reads.start[j->first];
    CA_TRY(ca_jacobian_fisher_eigenpairs(j->fisher, ca_pass_logits(j->pass), vectors,
                                         j->eigenvalues, j->numbers));
    CA_TRY(ca_jacobian_write(j, "/attribution/fisher/eigenvalues", first, j->n, j->eigenvalues));
    CA_TRY(ca_jacobian_write(j, "/attribution/fisher/trace", first, j->n, j->numbers));
out:
    return st;
}

static const jacobian_scope scopes[] = {
    {.name = "semantic",
     .target = "logit of the target token (difference of logits for a contrast)",
     .units = "Euclidean norm of d logit / d x",
     .combine = COMBINE_NORM,
     .has_signed = true,
     .of_target = true,
     .lanes = one_lane,
     .vectors = semantic},
    {.name = "temperature",
     .target = "norm of the final norm's output: inverse temperature of the distribution",
     .units = "Euclidean norm of d |y| / d x",
     .combine = COMBINE_NORM,
     .has_signed = true,
     .lanes = one_lane,
     .vectors = temperature},
    {.name = "fisher",
     .target = "the whole distribution: Fisher information of the next token",
     .units = "trace of J^T F J, of the eigenpairs kept or by probes, not square-rooted",
     .combine = COMBINE_SUM_SQUARES,
     .lanes = fisher_lanes,
     .vectors = fisher},
    {.name = "input_x_gradient",
     .target = "logit of the target token (difference of logits for a contrast)",
     .compat_target = "log-probability of the target token (difference of logits for a contrast)",
     .units = "Euclidean norm of x * gradient, elementwise; signed: their dot product",
     .combine = COMBINE_PRODUCT,
     .has_signed = true,
     .of_target = true,
     .lanes = one_lane,
     .vectors = input_x_gradient},
    {.name = "integrated_gradients",
     .target = "log-probability of the target token (difference of logits for a contrast), "
               "integrated from the baseline's embeddings",
     .units = "Euclidean norm of (x - baseline) * mean gradient, elementwise; signed: their dot "
              "product",
     .combine = COMBINE_PRODUCT,
     .has_signed = true,
     .of_target = true,
     .path = PATH_LOGPROB},
    {.name = "path_semantic",
     .target = "logit of the target token (difference of logits for a contrast), integrated from "
               "the baseline's embeddings",
     .units = "Euclidean norm of (x - baseline) * mean gradient, elementwise; signed: their dot "
              "product",
     .combine = COMBINE_PRODUCT,
     .has_signed = true,
     .of_target = true,
     .path = PATH_LOGIT},
};

const jacobian_scope *ca_jacobian_scope_find(const char *name) {
    for (size_t i = 0; i < sizeof scopes / sizeof *scopes; i++)
        if (strcmp(scopes[i].name, name) == 0) return &scopes[i];
    return NULL;
}
