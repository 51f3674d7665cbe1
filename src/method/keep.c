/* SPDX-License-Identifier: MIT
 *
 * data.keep: correct. Runs the clean prompts before a method does, and leaves out those that the
 * model does not answer correctly. See causa/method.h for the rule.
 *
 * Micro-batches have a size of their own, whatever the method and its memory, so that the rows kept
 * are those of the config.
 */
#include "common.h"

#include "causa/metric.h"
#include "causa/ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 256 }; /* of a micro-batch: enough for products near their full speed */

typedef struct keeper {
    const ca_job *job;
    const ca_metric_kind *kind; /* that the method is asked for; NULL when it takes none */
    ca_metric metric;           /* with numbers, where a label is what is answered */
    ca_packing packing;
    int64_t longest, reads, tokens, all_reads;
    /* while running */
    ca_batch *batch;
    ca_pass *pass;
    int32_t *ids;               /* [longest] */
    double *logits, *log_probs; /* [V] */
    void *staging;              /* [V] */
    bool *right;                /* [seen] */
    char **why;                 /* [seen], of those that are not right */
    int64_t seen;
} keeper;

/* ---- what is asked ---- */

static bool by_label(const keeper *k) { return k->kind && (k->kind->needs & CA_METRIC_LABEL); }

/* A whole continuation is what the model must say, not the first token of an answer. */
static bool by_text(const keeper *k, const ca_example *e) {
    if (by_label(k)) return false;
    return e->answer.count == 0 || (k->kind && (k->kind->needs & CA_METRIC_ANSWER_TEXT));
}

/* Tokens behind the prompt that are run too. */
static int64_t suffix_of(const keeper *k, const ca_example *e) {
    return by_text(k, e) ? e->answer_text.count - 1 : 0;
}

static ca_status check_example(const keeper *k, const ca_example *e) {
    const char *place = ca_example_place(k->job->data, e);
    int64_t positions = k->job->arch->max_positions;
    if (by_label(k)) return CA_OK; /* checked with the metric */
    if (by_text(k, e) && e->answer_text.count == 0)
        return ca_fail(CA_E_DATA, "%s: column %s: data.keep correct needs a value, got none", place,
                       k->kind && (k->kind->needs & CA_METRIC_ANSWER_TEXT) ? "answer_text"
                                                                           : "answer");
    if (e->clean.count + suffix_of(k, e) > positions)
        return ca_fail(CA_E_DATA,
                       "%s: column answer_text: prompt and continuation have %lld tokens, but the "
                       "model takes %lld",
                       place, (long long)(e->clean.count + suffix_of(k, e)), (long long)positions);
    return CA_OK;
}

static const ca_metric_kind *metric_of(const ca_job *job, const ca_method *method) {
    for (const ca_option *o = method->options; o->path; o++)
        if (strcmp(o->path, "metric") == 0)
            return ca_metric_find(ca_config_text(job->config, "metric"));
    return NULL;
}

static void keeper_free(keeper *k) {
    ca_pass_free(k->pass);
    ca_batch_free(k->batch);
    ca_packing_free(&k->packing);
    ca_metric_close(&k->metric);
    for (int64_t i = 0; k->why && i < k->seen; i++) free(k->why[i]);
    free(k->why);
    free(k->right);
    free(k->ids);
    free(k->logits);
    free(k->log_probs);
    free(k->staging);
}

/* Checks the rows and cuts them into micro-batches. */
static ca_status keeper_open(const ca_job *job, const ca_method *method, keeper *k) {
    ca_status st = CA_OK;
    ca_row_problems problems = {0};
    int64_t *lengths = NULL, count = job->data->count;
    const ca_pass_limits limits = {.logits = true};
    *k = (keeper){.job = job, .kind = metric_of(job, method)};
    if (by_label(k))
        CA_TRY(ca_metric_open(job->config, "metric", job->data, job->tokenizer, job->arch->vocab,
                              job->arch->max_positions, &k->metric));
    for (int64_t i = 0; i < count; i++)
        CA_TRY(ca_row_problems_take(&problems, check_example(k, &job->data->examples[i])));
    CA_TRY(ca_row_problems_report(&problems));
    CA_TRY(ca_calloc((size_t)count + 1, sizeof *lengths, &lengths));
    for (int64_t i = 0; i < count; i++) {
        int64_t suffix = suffix_of(k, &job->data->examples[i]);
        lengths[i] = job->data->examples[i].clean.count + suffix;
        if (lengths[i] > k->longest) k->longest = lengths[i];
        if (1 + suffix > k->reads) k->reads = 1 + suffix;
        k->tokens += lengths[i];
        k->all_reads += 1 + suffix;
    }
    CA_TRY(ca_plan_packing(job->arch, job->dtype, &limits, lengths, NULL, count, k->reads,
                           job->batch ? job->batch : ROWS, job->memory, &k->packing));
out:
    ca_row_problems_free(&problems);
    free(lengths);
    return st;
}

ca_status ca_keep_plan(const ca_job *job, const ca_method *method, ca_plan *plan) {
    ca_status st = CA_OK;
    keeper k = {0};
    CA_TRY(keeper_open(job, method, &k));
    if (k.packing.bytes > plan->work_bytes) plan->work_bytes = k.packing.bytes;
    plan->flops += ca_flops_forward(job->arch, k.tokens, k.packing.keys, job->arch->layers) +
                   ca_flops_head(job->arch, k.all_reads);
out:
    keeper_free(&k);
    return st;
}

/* ---- what the model says ---- */

static ca_status fetch(keeper *k, const ca_example *e, ca_tensor logits, int64_t row) {
    ca_status st = CA_OK;
    CA_TRY(ca_download_f64(k->job->backend, ca_tensor_slice(logits, 0, row, 1), k->staging,
                           k->logits));
    for (int64_t v = 0; v < k->job->arch->vocab; v++)
        if (!isfinite(k->logits[v]))
            return ca_fail(CA_E_NUMERIC, "%s: a logit of the clean prompt is not finite",
                           ca_example_place(k->job->data, e));
out:
    return st;
}

static ca_status say_token(const keeper *k, const ca_example *e, int64_t row, int32_t said,
                           ca_string *why) {
    ca_status st = CA_OK;
    CA_TRY(
        ca_string_printf(why, "row %lld (id %s): the model answers '", (long long)e->row, e->id));
    CA_TRY(ca_method_piece(k->job, said, why));
    CA_TRY(ca_string_printf(why, "' (token %d)", said));
    if (by_text(k, e))
        CA_TRY(ca_string_printf(why, " where answer_text has token %d, its number %lld",
                                e->answer_text.ids[row], (long long)row + 1));
    else
        CA_TRY(ca_string_printf(why, ", which is not in answer"));
out:
    return st;
}

/* Every token that is asked for must be the most probable one. */
static ca_status judge_tokens(keeper *k, const ca_example *e, ca_tensor logits, ca_string *why) {
    ca_status st = CA_OK;
    for (int64_t row = 0; row <= suffix_of(k, e); row++) {
        CA_TRY(fetch(k, e, logits, row));
        int32_t said = ca_metric_argmax(k->logits, k->job->arch->vocab);
        bool right =
            by_text(k, e) ? said == e->answer_text.ids[row] : ca_metric_is_answer(&e->answer, said);
        if (right) continue;
        CA_TRY(say_token(k, e, row, said, why));
        break;
    }
out:
    return st;
}

/* The numbers that count for the task must outweigh the others. */
static ca_status judge_numbers(keeper *k, const ca_example *e, ca_tensor logits, ca_string *why) {
    ca_status st = CA_OK;
    CA_TRY(fetch(k, e, logits, 0));
    ca_metric_log_softmax(k->logits, k->job->arch->vocab, k->log_probs);
    const ca_metric_input in = {.vocab = k->job->arch->vocab,
                                .logits = k->logits,
                                .log_probs = k->log_probs,
                                .example = e,
                                .numbers = k->metric.numbers};
    double value = k->kind->value(&in);
    if (value <= 0)
        CA_TRY(ca_string_printf(why,
                                "row %lld (id %s): the model gives the numbers above %lld no more "
                                "than the others, %s is %.3g",
                                (long long)e->row, e->id, (long long)e->label, k->kind->name,
                                value));
out:
    return st;
}

static ca_status judge(keeper *k, const ca_example *e, ca_tensor logits) {
    ca_status st = CA_OK;
    ca_string why = {0};
    CA_TRY((by_label(k) ? judge_numbers : judge_tokens)(k, e, logits, &why));
    k->right[k->seen] = why.length == 0;
    k->why[k->seen++] = why.text;
    why = (ca_string){0};
out:
    ca_string_free(&why);
    return st;
}

/* ---- run ---- */

static ca_status create_run(keeper *k) {
    ca_status st = CA_OK;
    const ca_job *job = k->job;
    size_t count = (size_t)job->data->count, vocab = (size_t)job->arch->vocab;
    CA_TRY(ca_batch_create(job->backend, k->packing.max_sequences, k->packing.limits.rows,
                           k->packing.limits.reads, &k->batch));
    CA_TRY(ca_pass_create(job->model, &k->packing.limits, &k->pass));
    CA_TRY(ca_calloc((size_t)k->longest, sizeof *k->ids, &k->ids));
    CA_TRY(ca_calloc(vocab, sizeof *k->logits, &k->logits));
    CA_TRY(ca_calloc(vocab, sizeof *k->log_probs, &k->log_probs));
    CA_TRY(ca_calloc(vocab, sizeof(double), &k->staging));
    CA_TRY(ca_calloc(count, sizeof *k->right, &k->right));
    CA_TRY(ca_calloc(count, sizeof *k->why, &k->why));
out:
    return st;
}

static void add_example(keeper *k, const ca_example *e) {
    int64_t suffix = suffix_of(k, e), count = e->clean.count;
    memcpy(k->ids, e->clean.ids, (size_t)count * sizeof *k->ids);
    if (suffix) memcpy(k->ids + count, e->answer_text.ids, (size_t)suffix * sizeof *k->ids);
    ca_batch_add(k->batch, k->ids, count + suffix, 0, 0);
    for (int64_t row = count - 1; row < count + suffix; row++) ca_batch_read(k->batch, row);
}

/* Examples [first, last). */
static ca_status run_batch(keeper *k, int64_t first, int64_t last) {
    ca_status st = CA_OK;
    const ca_example *examples = k->job->data->examples;
    int64_t read = 0;
    ca_batch_clear(k->batch);
    for (int64_t i = first; i < last; i++) add_example(k, &examples[i]);
    CA_TRY(ca_batch_upload(k->batch));
    const ca_forward request = ca_forward_all(k->job->model, k->batch);
    CA_TRY(ca_pass_forward(k->pass, &request));
    for (int64_t i = first; i < last; i++) {
        int64_t reads = 1 + suffix_of(k, &examples[i]);
        CA_TRY(judge(k, &examples[i], ca_tensor_slice(ca_pass_logits(k->pass), 0, read, reads)));
        read += reads;
    }
out:
    return st;
}

/* Until as many rows are right as the config asks for. */
static ca_status run_batches(keeper *k) {
    ca_status st = CA_OK;
    const ca_dataset *data = k->job->data;
    int64_t right = 0,
            wanted = data->limit < INT64_MAX - data->start ? data->start + data->limit : INT64_MAX;
    ca_progress progress;
    ca_progress_start(&progress, "keep", "prompt", data->count);
    for (int64_t b = 0; b < k->packing.batches && right < wanted; b++) {
        int64_t first = k->packing.first[b], last = k->packing.first[b + 1];
        CA_TRY(ca_signal_status());
        CA_TRY(run_batch(k, first, last));
        for (int64_t i = first; i < last; i++) right += k->right[i];
        ca_progress_add(&progress, last - first);
    }
out:
    ca_progress_finish(&progress);
    return st;
}

ca_status ca_keep_run(const ca_job *job, const ca_method *method) {
    ca_status st = CA_OK;
    keeper k = {0};
    CA_TRY(keeper_open(job, method, &k));
    CA_TRY(create_run(&k));
    CA_TRY(run_batches(&k));
    st = ca_dataset_keep(job->data, k.right, k.why, k.seen);
    if (st == CA_E_DATA) st = ca_context(st, "%s", ca_config_where(job->config, "data.keep"));
out:
    keeper_free(&k);
    return st;
}
