/* SPDX-License-Identifier: MIT
 *
 * What the evaluation is asked for, what it needs, and its order: after the scores of a micro-batch
 * are known and while the clean run's keys and values are still there.
 */
#include "evaluate.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_RUNS = 128, MOST_FRACTIONS = 64 }; /* of a batch; of a job */

#define FRACTIONS "method.evaluate.aopc.fractions"
#define ABLATION  "method.evaluate.aopc.ablation"
#define PAD       "method.evaluate.aopc.pad"
#define LOO       "method.evaluate.loo"

/* ---- what is asked for ---- */

/* `loo: {}` as the section of the contract, or `loo: true`. */
static ca_status read_loo(const ca_job *job, bool *wanted) {
    const ca_node *node = ca_config_node(job->config, LOO);
    bool empty = node->kind == CA_NODE_MAP && node->count == 0;
    bool word = node->kind == CA_NODE_SCALAR && !node->quoted;
    *wanted = empty || (word && strcmp(node->text, "true") == 0);
    if (*wanted || (word && strcmp(node->text, "false") == 0)) return CA_OK;
    return ca_config_fail(job->config, LOO, "expected true, false or {}");
}

static ca_status read_fractions(const ca_job *job, jacobian_evaluation *e) {
    ca_status st = CA_OK;
    int64_t count = ca_config_count(job->config, FRACTIONS);
    if (count < 2 || count > MOST_FRACTIONS)
        return ca_config_fail(job->config, FRACTIONS,
                              "expected 2 to %d fractions, of which an area can be taken, got %lld",
                              (int)MOST_FRACTIONS, (long long)count);
    CA_TRY(ca_calloc((size_t)count, sizeof *e->fraction, &e->fraction));
    for (int64_t f = 0; f < count; f++) {
        e->fraction[f] = ca_config_float_at(job->config, FRACTIONS, f);
        if (f > 0 && e->fraction[f] <= e->fraction[f - 1])
            return ca_config_fail(job->config, FRACTIONS,
                                  "expected rising fractions, got %g after %g", e->fraction[f],
                                  e->fraction[f - 1]);
    }
    e->fractions = count;
out:
    return st;
}

static ca_status read_ablation(const ca_job *job, jacobian_evaluation *e) {
    static const char *const names[] = {"zero", "pad", "mean", "delete"};
    const char *text = ca_config_text(job->config, ABLATION);
    while (strcmp(names[e->ablation], text) != 0) e->ablation++;
    bool has_pad = ca_config_has(job->config, PAD), wants_pad = e->ablation == ABLATE_PAD;
    if (has_pad && !wants_pad)
        return ca_config_fail(job->config, PAD, "expected ablation: pad beside it, got %s", text);
    if (!wants_pad) return CA_OK;
    if (!has_pad) {
        e->pad = job->tokenizer ? ca_tokenizer_pad(job->tokenizer) : -1;
        if (0 <= e->pad && e->pad < job->arch->vocab) return CA_OK;
        return ca_config_fail(job->config, ABLATION,
                              "the tokenizer names no pad token: give it as text or #id in " PAD);
    }
    ca_status st = ca_token_of_text(job->tokenizer, ca_config_text(job->config, PAD),
                                    job->arch->vocab, &e->pad);
    return st == CA_OK ? CA_OK : ca_context(CA_E_CONFIG, "%s", ca_config_where(job->config, PAD));
}

int64_t ca_jacobian_candidates(const jacobian *j, const ca_job *job, int64_t example,
                               int64_t *first, int64_t *count) {
    const ca_example *x = &job->data->examples[example];
    int64_t position = j->reads.read[j->reads.start[example]].position;
    *first = job->data->bos >= 0 && x->clean.ids[0] == job->data->bos;
    *count = position + 1 - *first;
    return *count + (position + 1 < x->clean.count);
}

/* Sizes of an example, and whether it has enough tokens. */
static ca_status measure_example(const ca_job *job, jacobian *j, int64_t i) {
    jacobian_evaluation *e = j->evaluation;
    int64_t first, count, sets = 0;
    ca_jacobian_candidates(j, job, i, &first, &count);
    bool one_stays = e->fractions && e->ablation == ABLATE_DELETE && first == 0;
    int64_t needed = e->loo || one_stays ? 2 : 1; /* one token has no order */
    if (count < needed)
        return ca_fail(CA_E_DATA,
                       "%s: %s: expected at least %lld tokens to ablate up to the position read, "
                       "got %lld",
                       ca_example_place(job->data, &job->data->examples[i]),
                       e->loo ? LOO : FRACTIONS, (long long)needed, (long long)count);
    for (int64_t f = 0; f < e->fractions; f++) sets += ca_jacobian_ablated_count(j, job, i, f);
    if (sets > e->most_sets) e->most_sets = sets;
    if (first + count > e->longest) e->longest = first + count;
    return CA_OK;
}

static ca_status measure_examples(const ca_job *job, jacobian *j) {
    ca_status st = CA_OK;
    ca_row_problems problems = {0};
    for (int64_t i = 0; i < job->data->count; i++)
        CA_TRY(ca_row_problems_take(&problems, measure_example(job, j, i)));
    CA_TRY(ca_row_problems_report(&problems));
out:
    ca_row_problems_free(&problems);
    return st;
}

ca_status ca_jacobian_evaluation_prepare(const ca_job *job, jacobian *j) {
    ca_status st = CA_OK;
    bool loo, aopc = ca_config_has(job->config, FRACTIONS);
    CA_TRY(read_loo(job, &loo));
    if (!aopc && !loo) return CA_OK;
    if (j->reads.most > 1 || j->reads.span)
        return ca_config_fail(job->config, aopc ? FRACTIONS : LOO,
                              "expected one position per prompt in method.position, got up to %lld",
                              (long long)j->reads.most);
    CA_TRY(ca_calloc(1, sizeof *j->evaluation, &j->evaluation));
    j->evaluation->loo = loo;
    if (aopc) {
        CA_TRY(read_fractions(job, j->evaluation));
        CA_TRY(read_ablation(job, j->evaluation));
    }
    CA_TRY(measure_examples(job, j));
out:
    return st;
}

/* ---- what it needs ---- */

/* Zero and mean rewrite embeddings; leave-one-out zeroes. */
static ca_hook hook_of(jacobian *j) {
    return (ca_hook){.site = CA_SITE_EMBED,
                     .edits = true,
                     .forward = ca_jacobian_ablate_embeddings,
                     .context = j};
}

static ca_pass_limits limits_of(const jacobian *j) {
    const jacobian_evaluation *e = j->evaluation;
    ca_pass_limits limits = {.rows = e->rows, .reads = e->most_runs, .logits = true};
    ca_hook hook = hook_of(NULL);
    ca_pass_limits_add_hooks(&limits, &hook, 1);
    return limits;
}

/* The tensors; with buffers == NULL they are only measured. */
static int64_t take_tensors(jacobian_evaluation *e, const ca_job *job, method_buffers *buffers) {
    bool mean = e->ablation == ABLATE_MEAN;
    const struct {
        ca_tensor *tensor;
        ca_dtype dtype;
        int rank;
        int64_t shape[2];
    } list[] = {
        {&e->index, CA_I64, 1, {e->rows}},
        {&e->edited_rows, job->dtype, 2, {e->rows, job->arch->width}},
        {&e->ones, job->dtype, 2, {1, mean ? job->arch->vocab : 1}},
        {&e->mean, job->dtype, 2, {1, job->arch->width}},
    };
    size_t bytes = 0;
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        bytes += ca_method_buffer_bytes(
            list[i].shape[0] * (list[i].rank > 1 ? list[i].shape[1] : 1), list[i].dtype);
        if (buffers)
            *list[i].tensor =
                ca_method_buffers_take(buffers, list[i].dtype, list[i].rank, list[i].shape);
    }
    return (int64_t)bytes;
}

int64_t ca_jacobian_evaluation_bytes(jacobian *j, const ca_job *job) {
    jacobian_evaluation *e = j->evaluation;
    if (!e) return 0;
    e->rows = j->packing.limits.rows;
    e->most_runs = e->rows < MOST_RUNS ? e->rows : MOST_RUNS;
    ca_pass_limits limits = limits_of(j);
    return ca_pass_bytes(job->arch, job->dtype, &limits) +
           ca_batch_bytes(e->most_runs, e->rows, e->most_runs) + take_tensors(e, job, NULL);
}

static double run_flops(const ca_job *job, int64_t rows, int64_t prefix) {
    int64_t keys = ca_sequence_keys(job->arch, rows, prefix);
    return ca_flops_forward(job->arch, rows, keys, job->arch->layers) + ca_flops_head(job->arch, 1);
}

void ca_jacobian_evaluation_plan(jacobian *j, const ca_job *job, ca_plan *plan) {
    jacobian_evaluation *e = j->evaluation;
    if (!e) return;
    plan->work_bytes += ca_jacobian_evaluation_bytes(j, job);
    plan->host_bytes += 4 * job->arch->vocab * (int64_t)sizeof(double);
    for (int64_t i = 0; i < job->data->count; i++) {
        int64_t first, count;
        ca_jacobian_candidates(j, job, i, &first, &count);
        /* Which tokens come first is not known: as if nothing were shared. */
        plan->flops += (double)((j->columns + 1) * e->fractions) * run_flops(job, first + count, 0);
        for (int64_t t = first; e->loo && t < first + count; t++)
            plan->flops += run_flops(job, first + count - t, t);
    }
}

ca_status ca_jacobian_evaluation_create(jacobian *j) {
    ca_status st = CA_OK;
    ca_job *job = j->job;
    jacobian_evaluation *e = j->evaluation;
    if (!e) return CA_OK;
    size_t vocab = (size_t)job->arch->vocab, longest = (size_t)e->longest;
    size_t deltas = (size_t)((j->columns + 1) * j->packing.max_sequences * e->fractions);
    ca_pass_limits limits = limits_of(j);
    e->hook = hook_of(j);
    CA_TRY(ca_batch_create(job->backend, e->most_runs, e->rows, e->most_runs, &e->batch));
    CA_TRY(ca_pass_create(job->model, &limits, &e->pass));
    CA_TRY(ca_method_buffers_create(job->backend, (size_t)take_tensors(e, job, NULL), &e->buffers));
    take_tensors(e, job, &e->buffers);
    if (e->ablation == ABLATE_MEAN)
        CA_TRY(ca_jacobian_mean_embedding(job->model, e->ones, e->mean));
    CA_TRY(ca_calloc((size_t)e->rows, sizeof *e->index_host, &e->index_host));
    CA_TRY(ca_calloc((size_t)e->most_runs, sizeof *e->run, &e->run));
    CA_TRY(ca_calloc(longest, sizeof *e->ids, &e->ids));
    CA_TRY(ca_calloc(longest, sizeof *e->tokens, &e->tokens));
    CA_TRY(ca_calloc(vocab, sizeof(double), &e->staging));
    CA_TRY(ca_calloc(vocab, sizeof *e->clean, &e->clean));
    CA_TRY(ca_calloc(vocab, sizeof *e->probability, &e->probability));
    CA_TRY(ca_calloc(vocab, sizeof *e->ablated, &e->ablated));
    CA_TRY(ca_calloc(deltas + 1, sizeof *e->delta, &e->delta));
    CA_TRY(ca_calloc(deltas + 1, sizeof *e->divergence, &e->divergence));
    CA_TRY(ca_calloc(deltas + 1, sizeof *e->flipped, &e->flipped));
    CA_TRY(ca_calloc((size_t)e->most_sets + 1, sizeof *e->set, &e->set));
    CA_TRY(ca_calloc((size_t)j->most_scores, sizeof *e->kl, &e->kl));
    CA_TRY(ca_calloc(longest, sizeof *e->score, &e->score));
    CA_TRY(ca_calloc(longest, sizeof *e->ranking, &e->ranking));
    CA_TRY(ca_calloc(2 * longest, sizeof *e->ranks, &e->ranks));
out:
    return st;
}

void ca_jacobian_evaluation_free(jacobian_evaluation *e) {
    if (!e) return;
    ca_pass_free(e->pass);
    ca_batch_free(e->batch);
    ca_method_buffers_free(&e->buffers);
    void *arrays[] = {e->fraction,    e->index_host, e->run,   e->ids,     e->tokens,
                      e->staging,     e->clean,      e->delta, e->set,     e->kl,
                      e->probability, e->ablated,    e->score, e->ranking, e->ranks,
                      e->divergence,  e->flipped};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) free(arrays[i]);
    free(e);
}

/* ---- order ---- */

ca_status ca_jacobian_evaluation_reserve(jacobian *j) {
    ca_status st = CA_OK;
    if (j->evaluation && j->evaluation->fractions) CA_TRY(ca_jacobian_aopc_reserve(j));
    if (j->evaluation && j->evaluation->loo) CA_TRY(ca_jacobian_loo_reserve(j));
out:
    return st;
}

ca_status ca_jacobian_evaluate(jacobian *j) {
    ca_status st = CA_OK;
    if (j->evaluation && j->evaluation->fractions) CA_TRY(ca_jacobian_aopc(j));
    if (j->evaluation && j->evaluation->loo) CA_TRY(ca_jacobian_loo(j));
out:
    return st;
}

ca_status ca_jacobian_evaluation_summary(jacobian *j) {
    ca_status st = CA_OK;
    if (j->evaluation && j->evaluation->fractions) {
        CA_TRY(ca_jacobian_aopc_summary(j));
        CA_TRY(ca_jacobian_whole_words_summary(j));
    }
    if (j->evaluation && j->evaluation->loo) CA_TRY(ca_jacobian_loo_summary(j));
out:
    return st;
}

ca_status ca_jacobian_evaluation_answer(const jacobian *j, ca_job *job, ca_string *text) {
    if (!j->evaluation || !j->evaluation->fractions || !job->tokenizer) return CA_OK;
    return ca_jacobian_whole_words_answer(j, job, text);
}
