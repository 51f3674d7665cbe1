/* SPDX-License-Identifier: MIT
 *
 * The datasets of the method.
 *
 * With one position per prompt /attribution/<scope>/score has a value per token of /data/tokens.
 * With several it is a matrix: `matrix` holds a block [positions, tokens] per prompt, flat, with
 * `matrix_offsets` [N + 1]; /attribution/positions and position_offsets say which positions. A span
 * has these too, but one score per token.
 */
#include "jacobian.h"
#include "statistics.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

ca_status ca_jacobian_write(jacobian *j, const char *dataset, int64_t first, int64_t count,
                            const void *data) {
    return j->control ? CA_OK : ca_result_write(j->job->result, dataset, first, count, data);
}

static const char *score_name(const jacobian *j) { return j->matrix ? "matrix" : "score"; }

/* The name of a dataset with the shape of the scores, here and with its group. */
static const char *part_name(const jacobian *j, const char *name, char text[48]) {
    snprintf(text, 48, "%s%s", name, j->matrix ? "_matrix" : "");
    return text;
}

static const char *fisher_name(const jacobian *j, const char *name, char path[96]) {
    char part[48];
    snprintf(path, 96, "/attribution/fisher/%s", part_name(j, name, part));
    return path;
}

static ca_status reserve_fisher(jacobian *j, ca_result_shape scores) {
    ca_status st = CA_OK;
    char path[96];
    ca_result *r = j->job->result;
    const char *group = "/attribution/fisher";
    int64_t reads = j->reads.start[j->job->data->count];
    CA_TRY(ca_result_attribute_text(r, group, "estimator", j->probes ? "hutchinson" : "eigen"));
    CA_TRY(ca_result_reserve(r, fisher_name(j, "root", path), CA_RESULT_F32, scores));
    CA_TRY(ca_result_reserve(r, fisher_name(j, "predicted_kl", path), CA_RESULT_F32, scores));
    if (j->probes) {
        CA_TRY(ca_result_attribute_int(r, group, "probes", j->probes));
        return ca_result_reserve(r, fisher_name(j, "standard_error", path), CA_RESULT_F32, scores);
    }
    CA_TRY(ca_result_attribute_int(r, group, "rank", j->rank));
    bool dense = ca_jacobian_fisher_is_dense(j->job->arch, j->rank);
    CA_TRY(ca_result_attribute_text(r, group, "eigensolver", dense ? "dense" : "krylov"));
    CA_TRY(ca_result_reserve(r, "/attribution/fisher/eigenvalues", CA_RESULT_F64,
                             (ca_result_shape){2, {reads, j->rank}, {"position", "eigenpair"}}));
    CA_TRY(ca_result_reserve(r, "/attribution/fisher/trace", CA_RESULT_F64,
                             (ca_result_shape){1, {reads}, {"position"}}));
out:
    return st;
}

static ca_status reserve_scope(jacobian *j, const jacobian_column *c) {
    ca_status st = CA_OK;
    ca_result *r = j->job->result;
    int64_t count = j->job->data->count;
    char group[64], path[128], part[48];
    ca_result_shape scores = {
        1, {j->score_start[count]}, {j->matrix ? "position, token" : "token"}};
    snprintf(group, sizeof group, "/attribution/%s", c->scope->name);
    bool other = j->compat && c->scope->compat_target;
    CA_TRY(ca_result_attribute_text(r, group, "target",
                                    other ? c->scope->compat_target : c->scope->target));
    CA_TRY(ca_result_attribute_text(r, group, "units", c->scope->units));
    const ca_node *position = ca_config_node(j->job->config, "method.position");
    CA_TRY(ca_result_attribute_text(r, group, "position",
                                    position->kind == CA_NODE_SCALAR ? position->text : "list"));
    CA_TRY(ca_result_attribute_int(r, group, "layer", j->layer));
    snprintf(path, sizeof path, "%s/%s", group, score_name(j));
    CA_TRY(ca_result_reserve(r, path, CA_RESULT_F32, scores));
    if (c->scope->has_signed) {
        snprintf(path, sizeof path, "%s/%s", group, part_name(j, "signed", part));
        CA_TRY(ca_result_reserve(r, path, CA_RESULT_F32, scores));
    }
    if (c->scope->combine == COMBINE_SUM_SQUARES) CA_TRY(reserve_fisher(j, scores));
    if (c->scope->path) {
        CA_TRY(ca_result_attribute_int(r, group, "steps", j->steps));
        CA_TRY(ca_result_attribute_text(r, group, "baseline",
                                        ca_config_text(j->job->config, "method.baseline")));
        snprintf(path, sizeof path, "%s/residual", group);
        int64_t slots = ca_jacobian_slots_before(j, count);
        CA_TRY(
            ca_result_reserve(r, path, CA_RESULT_F64,
                              (ca_result_shape){1, {slots}, {j->matrix ? "position" : "example"}}));
    }
    if (j->matrix) {
        snprintf(path, sizeof path, "%s/matrix_offsets", group);
        CA_TRY(ca_result_put(r, path, CA_RESULT_I64, (ca_result_shape){1, {count + 1}, {"example"}},
                             j->score_start));
    }
out:
    return st;
}

static ca_status put_positions(jacobian *j) {
    ca_status st = CA_OK;
    int64_t count = j->job->data->count, reads = j->reads.start[count], *positions = NULL;
    CA_TRY(ca_calloc((size_t)reads + 1, sizeof *positions, &positions));
    for (int64_t i = 0; i < reads; i++) positions[i] = j->reads.read[i].position;
    CA_TRY(ca_result_put(j->job->result, "/attribution/positions", CA_RESULT_I64,
                         (ca_result_shape){1, {reads}, {"position"}}, positions));
    CA_TRY(ca_result_put(j->job->result, "/attribution/position_offsets", CA_RESULT_I64,
                         (ca_result_shape){1, {count + 1}, {"example"}}, j->reads.start));
out:
    free(positions);
    return st;
}

ca_status ca_jacobian_reserve(jacobian *j) {
    ca_status st = CA_OK;
    ca_result *r = j->job->result;
    int64_t reads = j->reads.start[j->job->data->count];
    bool several = j->matrix || j->reads.span;
    const char *axis = several ? "position" : "example";
    ca_result_shape each = {1, {reads}, {axis}}, top = {2, {reads, j->top}, {axis, "rank"}};
    CA_TRY(ca_result_reserve(r, "/data/position", CA_RESULT_I64, each));
    CA_TRY(ca_result_reserve(r, "/data/target", CA_RESULT_I32, each));
    CA_TRY(ca_result_reserve(r, "/data/target_piece", CA_RESULT_TEXT, each));
    if (j->reads.contrast) {
        CA_TRY(ca_result_reserve(r, "/data/contrast", CA_RESULT_I32, each));
        CA_TRY(ca_result_reserve(r, "/data/contrast_piece", CA_RESULT_TEXT, each));
    }
    CA_TRY(ca_result_reserve(r, "/baseline/clean", CA_RESULT_F64, each));
    CA_TRY(ca_result_reserve(r, "/baseline/predicted", CA_RESULT_I32, each));
    CA_TRY(ca_result_reserve(r, "/predictions/token_ids", CA_RESULT_I32, top));
    CA_TRY(ca_result_reserve(r, "/predictions/pieces", CA_RESULT_TEXT, top));
    CA_TRY(ca_result_reserve(r, "/predictions/probability", CA_RESULT_F32, top));
    CA_TRY(ca_result_reserve(r, "/predictions/entropy", CA_RESULT_F64, each));
    CA_TRY(ca_result_reserve(r, "/predictions/norm", CA_RESULT_F64, each));
    for (int64_t c = 0; c < j->columns; c++) CA_TRY(reserve_scope(j, &j->column[c]));
    if (several) CA_TRY(put_positions(j));
out:
    return st;
}

static ca_status write_one(jacobian *j, const jacobian_column *c, const char *name,
                           const float *values) {
    ca_job *job = j->job;
    int64_t first = j->score_start[j->first], count = j->score_start[j->last] - first;
    char path[96];
    for (int64_t k = 0; k < count; k++) {
        if (isfinite(values[k])) continue;
        int64_t i = j->first;
        while (j->score_start[i + 1] - first <= k) i++;
        int64_t token = (first + k - j->score_start[i]) % job->data->examples[i].clean.count;
        return ca_fail(CA_E_NUMERIC, "%s: scope %s is not finite at token %lld",
                       ca_example_place(job->data, &job->data->examples[i]), c->scope->name,
                       (long long)token);
    }
    snprintf(path, sizeof path, "/attribution/%s/%s", c->scope->name, name);
    return ca_result_write(job->result, path, first, count, values);
}

/* Standard error of the mean over n probes. A lane's |g|^2 is x / n of the probe's x, so that the
 * score is the mean m and the variance (n^2 squares - n m^2) / (n - 1). */
static double standard_error(const jacobian *j, const jacobian_column *c, int64_t k) {
    double n = (double)j->probes, mean = (double)c->score[k];
    double square = n * c->squares[k] - mean * mean;
    return square > 0 ? sqrt(square / (n - 1)) : 0;
}

/* What sums of squares have beside the score: the divergence that zeroing a token causes, to second
 * order, which the column's signed scores hold; then in their place the root, comparable with the
 * norms of other scopes, and the error of probes. */
static ca_status write_fisher(jacobian *j, const jacobian_column *c) {
    ca_status st = CA_OK;
    int64_t count = j->score_start[j->last] - j->score_start[j->first];
    char part[48];
    CA_TRY(write_one(j, c, part_name(j, "predicted_kl", part), c->signed_score));
    for (int64_t k = 0; k < count; k++) c->signed_score[k] = sqrtf(c->score[k]);
    CA_TRY(write_one(j, c, part_name(j, "root", part), c->signed_score));
    if (!c->squares) goto out;
    for (int64_t k = 0; k < count; k++) c->signed_score[k] = (float)standard_error(j, c, k);
    CA_TRY(write_one(j, c, part_name(j, "standard_error", part), c->signed_score));
out:
    return st;
}

ca_status ca_jacobian_write_scores(jacobian *j) {
    ca_status st = CA_OK;
    char part[48];
    for (int64_t c = 0; c < j->columns; c++) {
        const jacobian_column *column = &j->column[c];
        CA_TRY(write_one(j, column, score_name(j), column->score));
        if (column->scope->has_signed)
            CA_TRY(write_one(j, column, part_name(j, "signed", part), column->signed_score));
        if (column->scope->combine == COMBINE_SUM_SQUARES) CA_TRY(write_fisher(j, column));
    }
out:
    return st;
}

ca_status ca_jacobian_write_residual(jacobian *j, int64_t column, int64_t count) {
    char path[96];
    snprintf(path, sizeof path, "/attribution/%s/residual", j->column[column].scope->name);
    return ca_jacobian_write(j, path, ca_jacobian_slots_before(j, j->first), count, j->residual);
}

/* How far the signed scores of a path miss the change f(x) - f(b) that they divide up, as a share
 * of it: the median of the prompts' slots, and how many miss by more than a tenth. The compat paths
 * do not divide it up. */
static ca_status summarise_residuals(jacobian *j, const char *scope) {
    ca_status st = CA_OK;
    int64_t examples = j->job->data->count, count = ca_jacobian_slots_before(j, examples);
    int64_t large = 0, n = 0;
    double *residual = NULL, median;
    float *score = NULL;
    ranked_value *share = NULL;
    char path[96], part[48];
    CA_TRY(ca_calloc((size_t)count, sizeof *residual, &residual));
    CA_TRY(ca_calloc((size_t)count, sizeof *share, &share));
    CA_TRY(ca_calloc((size_t)j->score_start[examples] + 1, sizeof *score, &score));
    snprintf(path, sizeof path, "/attribution/%s/residual", scope);
    CA_TRY(ca_result_read_back(j->job->result, path, residual));
    snprintf(path, sizeof path, "/attribution/%s/%s", scope, part_name(j, "signed", part));
    CA_TRY(ca_result_read_back(j->job->result, path, score));
    for (int64_t i = 0; i < examples; i++) {
        int64_t tokens = j->job->data->examples[i].clean.count;
        for (int64_t at = j->score_start[i]; at < j->score_start[i + 1]; at += tokens, n++) {
            double change = residual[n];
            for (int64_t t = at; t < at + tokens; t++) change += (double)score[t];
            share[n] = (ranked_value){fabs(residual[n]) / fmax(fabs(change), DBL_MIN), n};
            large += share[n].value > 0.1;
        }
    }
    ca_statistics_sort(share, count);
    median = (share[count / 2].value + share[(count - 1) / 2].value) / 2;
    snprintf(path, sizeof path, "/attribution/%s", scope);
    CA_TRY(ca_result_attribute_float(j->job->result, path, "residual_share", median));
    if (large && !j->compat)
        ca_log(CA_LOG_WARNING,
               "%s: in %lld of %lld %s the signed scores miss the change of the target by more "
               "than a tenth of it (median %.2g): more method.steps bring them nearer, slowly "
               "where RMS norms put the change next to zero embeddings (method.baseline)",
               scope, (long long)large, (long long)count, j->matrix ? "positions" : "prompts",
               median);
out:
    free(residual);
    free(share);
    free(score);
    return st;
}

/* Means over all reads, those of an earlier, interrupted run included. */
ca_status ca_jacobian_write_summary(jacobian *j) {
    ca_status st = CA_OK;
    ca_result *r = j->job->result;
    int64_t reads = j->reads.start[j->job->data->count], right = 0;
    double *value = NULL, sum = 0;
    int32_t *predicted = NULL, *target = NULL;
    CA_TRY(ca_calloc((size_t)reads + 1, sizeof *value, &value));
    CA_TRY(ca_calloc((size_t)reads + 1, sizeof *predicted, &predicted));
    CA_TRY(ca_calloc((size_t)reads + 1, sizeof *target, &target));
    CA_TRY(ca_result_read_back(r, "/baseline/clean", value));
    CA_TRY(ca_result_read_back(r, "/baseline/predicted", predicted));
    CA_TRY(ca_result_read_back(r, "/data/target", target));
    for (int64_t i = 0; i < reads; i++) {
        sum += value[i];
        right += predicted[i] == target[i];
    }
    CA_TRY(ca_result_attribute_text(r, "/baseline", "metric", "target logit"));
    CA_TRY(
        ca_result_attribute_float(r, "/baseline", "clean_mean", reads ? sum / (double)reads : NAN));
    if (j->gold)
        CA_TRY(ca_result_attribute_float(r, "/baseline", "accuracy",
                                         reads ? (double)right / (double)reads : NAN));
    for (int64_t c = 0; c < j->columns; c++)
        if (j->column[c].scope->path) CA_TRY(summarise_residuals(j, j->column[c].scope->name));
out:
    free(value);
    free(predicted);
    free(target);
    return st;
}
