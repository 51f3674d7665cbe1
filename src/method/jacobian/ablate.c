/* SPDX-License-Identifier: MIT
 *
 * Ablated runs: packed on the clean run's prefixes, run, and turned into log-probabilities.
 */
#include "evaluate.h"

#include "causa/ops.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* ---- embeddings ---- */

ca_status ca_jacobian_mean_embedding(const ca_model *m, ca_tensor ones, ca_tensor mean) {
    ca_status st = CA_OK;
    double scale = m->arch.embed_scale / (double)m->arch.vocab;
    CA_TRY(ca_fill(m->backend, ones, 1));
    CA_TRY(ca_matmul(m->backend, mean, ones, m->embed, (ca_tensor){0},
                     (ca_matmul_options){.alpha = scale}));
out:
    return st;
}

/* x - x is exactly zero, whatever x is. */
ca_status ca_jacobian_ablate_embeddings(void *context, const ca_hook_call *call, ca_tensor value) {
    ca_status st = CA_OK;
    jacobian *j = context;
    jacobian_evaluation *e = j->evaluation;
    ca_backend *be = call->backend;
    if (e->edited == 0) return CA_OK;
    ca_tensor index = ca_tensor_slice(e->index, 0, 0, e->edited);
    ca_tensor rows = ca_tensor_slice(e->edited_rows, 0, 0, e->edited);
    CA_TRY(ca_upload(be, index, e->index_host));
    CA_TRY(ca_gather(be, rows, value, index, -1, false));
    CA_TRY(ca_scatter_add(be, value, index, rows));
    if (e->kind == ABLATE_MEAN) {
        ca_tensor mean = ca_tensor_1d(e->mean.data, e->mean.dtype, e->mean.shape[1]);
        CA_TRY(ca_scatter_add(be, value, index, ca_tensor_repeat(mean, e->edited)));
    }
out:
    return st;
}

/* ---- log-probabilities ---- */

/* log_p [V] of one row of logits of an example, in float64 on the host. */
static ca_status log_probabilities(jacobian *j, int64_t example, ca_tensor logits, int64_t row,
                                   double *log_p) {
    ca_status st = CA_OK;
    int64_t vocab = j->job->arch->vocab;
    double most = -INFINITY, sum = 0;
    CA_TRY(ca_download_f64(j->job->backend, ca_tensor_slice(logits, 0, row, 1),
                           j->evaluation->staging, log_p));
    for (int64_t i = 0; i < vocab; i++) most = log_p[i] > most ? log_p[i] : most;
    for (int64_t i = 0; i < vocab; i++) sum += exp(log_p[i] - most);
    double shift = most + log(sum);
    if (!isfinite(shift))
        return ca_fail(CA_E_NUMERIC, "%s: the logits of an ablated run are not finite",
                       ca_example_place(j->job->data, &j->job->data->examples[example]));
    for (int64_t i = 0; i < vocab; i++) log_p[i] -= shift;
out:
    return st;
}

/* The clean distribution of an example, unless it is there already. */
static ca_status set_clean(jacobian *j, int64_t example) {
    ca_status st = CA_OK;
    jacobian_evaluation *e = j->evaluation;
    int64_t vocab = j->job->arch->vocab;
    if (e->clean_example == example) return CA_OK;
    CA_TRY(log_probabilities(j, example, ca_pass_logits(j->pass),
                             ca_jacobian_read_of(j, example, 0), e->clean));
    e->predicted = 0;
    for (int64_t i = 0; i < vocab; i++) {
        e->probability[i] = exp(e->clean[i]);
        if (e->clean[i] > e->clean[e->predicted]) e->predicted = (int32_t)i;
    }
    e->clean_example = example;
out:
    return st;
}

double ca_jacobian_divergence(const jacobian *j, const double *log_q) {
    const jacobian_evaluation *e = j->evaluation;
    double sum = 0;
    for (int64_t i = 0, vocab = j->job->arch->vocab; i < vocab; i++)
        if (e->probability[i] > 0) sum += e->probability[i] * (e->clean[i] - log_q[i]);
    return sum;
}

/* ---- runs ---- */

static void clear(jacobian_evaluation *e) {
    ca_batch_clear(e->batch);
    e->edited = 0;
}

void ca_jacobian_ablate_begin(jacobian *j, jacobian_ablation kind, jacobian_ablated take) {
    jacobian_evaluation *e = j->evaluation;
    e->kind = kind;
    e->take = take;
    e->clean_example = -1;
    clear(e);
}

ca_status ca_jacobian_ablate_end(jacobian *j) {
    ca_status st = CA_OK;
    jacobian_evaluation *e = j->evaluation;
    if (e->batch->reads == 0) return CA_OK;
    CA_TRY(ca_batch_upload(e->batch));
    ca_forward forward = ca_forward_all(j->job->model, e->batch);
    forward.prefix = j->pass;
    forward.hooks = &e->hook;
    forward.hook_count = 1;
    CA_TRY(ca_pass_forward(e->pass, &forward));
    for (int64_t r = 0; r < e->batch->reads; r++) {
        CA_TRY(set_clean(j, e->run[r].example));
        CA_TRY(log_probabilities(j, e->run[r].example, ca_pass_logits(e->pass), r, e->ablated));
        e->take(j, e->run[r].example, e->run[r].index, e->ablated);
    }
    clear(e);
out:
    return st;
}

/* The prompt with the tokens deleted or replaced, into e->ids. Returns its length. */
static int64_t ablate_ids(jacobian *j, int64_t example, const int64_t *tokens, int64_t count) {
    jacobian_evaluation *e = j->evaluation;
    const int32_t *ids = j->job->data->examples[example].clean.ids;
    int64_t rows = j->reads.read[j->reads.start[example]].position + 1, length = 0;
    for (int64_t t = 0, k = 0; t < rows; t++) {
        bool ablated = k < count && tokens[k] == t;
        k += ablated;
        if (ablated && e->kind == ABLATE_DELETE) continue;
        e->ids[length++] = ablated && e->kind == ABLATE_PAD ? e->pad : ids[t];
    }
    return length;
}

ca_status ca_jacobian_ablate(jacobian *j, int64_t example, const int64_t *tokens, int64_t count,
                             int64_t index) {
    ca_status st = CA_OK;
    jacobian_evaluation *e = j->evaluation;
    const ca_sequences *s = &e->batch->sequences;
    int64_t length = ablate_ids(j, example, tokens, count);
    assert(count > 0 && length > 0);
    /* When everything from the first ablated token on is deleted, the last row left is run again.
     */
    int64_t prefix = tokens[0] < length ? tokens[0] : length - 1;
    if (e->batch->reads == e->most_runs || s->rows + length - prefix > e->rows)
        CA_TRY(ca_jacobian_ablate_end(j));
    if (e->kind == ABLATE_ZERO || e->kind == ABLATE_MEAN)
        for (int64_t k = 0; k < count; k++)
            e->index_host[e->edited++] = s->rows + tokens[k] - prefix;
    e->run[e->batch->reads].example = example;
    e->run[e->batch->reads].index = index;
    ca_batch_add(e->batch, e->ids + prefix, length - prefix,
                 j->batch->sequences.row_start[example - j->first], prefix);
    ca_batch_read(e->batch, length - prefix - 1);
out:
    return st;
}
