/* SPDX-License-Identifier: MIT
 *
 * A metric made ready for a data set: the columns that it reads are checked, its tokens found.
 */
#include "causa/metric.h"

#include <math.h>
#include <string.h>

bool ca_metric_is_answer(const ca_answers *answers, int32_t id) {
    for (int64_t i = 0; i < answers->count; i++)
        if (answers->ids[i] == id) return true;
    return false;
}

int32_t ca_metric_argmax(const double *logits, int64_t vocab) {
    int64_t best = 0;
    for (int64_t v = 1; v < vocab; v++)
        if (logits[v] > logits[best]) best = v;
    return (int32_t)best;
}

void ca_metric_log_softmax(const double *logits, int64_t vocab, double *log_probs) {
    double top = -INFINITY, sum = 0;
    for (int64_t v = 0; v < vocab; v++) top = fmax(top, logits[v]);
    for (int64_t v = 0; v < vocab; v++) sum += exp(logits[v] - top);
    double all = top + log(sum);
    for (int64_t v = 0; v < vocab; v++) log_probs[v] = logits[v] - all;
}

static bool same_text(const ca_continuation *a, const ca_continuation *b) {
    return a->count == b->count && memcmp(a->ids, b->ids, (size_t)a->count * sizeof *a->ids) == 0;
}

static ca_status check_columns(const ca_metric_kind *kind, const ca_dataset *dataset,
                               const ca_example *e) {
    const char *column = NULL, *place = ca_example_place(dataset, e);
    if ((kind->needs & CA_METRIC_ANSWER) && e->answer.count == 0) column = "answer";
    if ((kind->needs & CA_METRIC_WRONG) && e->wrong.count == 0) column = column ? column : "wrong";
    if ((kind->needs & CA_METRIC_LABEL) && !e->has_label) column = "label";
    if ((kind->needs & CA_METRIC_ANSWER_TEXT) && e->answer_text.count == 0) column = "answer_text";
    if ((kind->needs & CA_METRIC_WRONG_TEXT) && e->wrong_text.count == 0)
        column = column ? column : "wrong_text";
    if (column)
        return ca_fail(CA_E_DATA, "%s: column %s: the metric %s needs a value, got none", place,
                       column, kind->name);
    if ((kind->needs & CA_METRIC_LABEL) && (e->label < 0 || e->label >= CA_METRIC_NUMBERS))
        return ca_fail(CA_E_DATA,
                       "%s: column label: the metric %s expects a number from 0 to 99, got %lld",
                       place, kind->name, (long long)e->label);
    if ((kind->needs & CA_METRIC_WRONG_TEXT) && same_text(&e->answer_text, &e->wrong_text))
        return ca_fail(CA_E_DATA,
                       "%s: column wrong_text: expected other tokens than those of answer_text, "
                       "got the same",
                       place);
    return CA_OK;
}

/* The last token of a two-digit number: all of it, or its second digit. -1 for neither. */
static ca_status end_of_number(const ca_tokenizer *tokenizer, const char text[3], int64_t vocab,
                               int32_t *id, bool *whole) {
    ca_status st = CA_OK;
    ca_encoding e = {0};
    CA_TRY(ca_tokenizer_encode(tokenizer, text, 2, false, &e));
    *whole = e.count == 1;
    *id = -1;
    if (e.count > 0 && e.end[e.count - 1] == 2 && e.ids[e.count - 1] < vocab &&
        (*whole || e.start[e.count - 1] == 1))
        *id = e.ids[e.count - 1];
out:
    ca_encoding_free(&e);
    return st;
}

/* The token with which each number begins: itself, or its first digit where the tokenizer writes
 * numbers digit by digit. One tokenizer does the one or the other for all of them. */
static ca_status find_numbers(const ca_config *config, const char *path,
                              const ca_tokenizer *tokenizer, int64_t vocab, int32_t *numbers) {
    ca_status st = CA_OK;
    int32_t last[CA_METRIC_NUMBERS];
    bool whole, all = false;
    if (!tokenizer)
        return ca_config_fail(config, path, "greater_than needs a tokenizer, the model has none");
    for (int n = 0; n < CA_METRIC_NUMBERS; n++) {
        const char text[3] = {(char)('0' + n / 10), (char)('0' + n % 10), '\0'};
        CA_TRY(end_of_number(tokenizer, text, vocab, &last[n], &whole));
        if (n == 0) all = whole;
        if (last[n] < 0 || whole != all || (!all && last[n] != last[n % 10]))
            return ca_config_fail(config, path,
                                  "greater_than needs a tokenizer that writes every two-digit "
                                  "number as one token or as two digits, but not \"%s\"",
                                  text);
    }
    for (int n = 0; n < CA_METRIC_NUMBERS; n++) numbers[n] = last[all ? n : n / 10];
out:
    return st;
}

ca_status ca_metric_open(const ca_config *config, const char *path, const ca_dataset *dataset,
                         const ca_tokenizer *tokenizer, int64_t vocab, int64_t positions,
                         ca_metric *out) {
    ca_status st = CA_OK;
    ca_row_problems problems = {0};
    *out = (ca_metric){.kind = ca_metric_find(ca_config_text(config, path)), .sequences = dataset};
    for (int64_t i = 0; i < dataset->count; i++)
        CA_TRY(ca_row_problems_take(&problems,
                                    check_columns(out->kind, dataset, &dataset->examples[i])));
    CA_TRY(ca_row_problems_report(&problems));
    if (out->kind->needs & CA_METRIC_LABEL)
        CA_TRY(find_numbers(config, path, tokenizer, vocab, out->numbers));
    if (out->kind->needs & CA_METRIC_ANSWER_TEXT) {
        CA_TRY(ca_dataset_continue(dataset, ca_metric_parts(out->kind) == 2, positions,
                                   &out->continued));
        out->sequences = out->continued;
    }
out:
    ca_row_problems_free(&problems);
    return st;
}

void ca_metric_close(ca_metric *metric) {
    ca_dataset_free_continued(metric->continued);
    *metric = (ca_metric){0};
}
