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

static ca_status check_columns(const ca_metric_kind *kind, const ca_dataset *dataset,
                               const ca_example *e) {
    const char *column = NULL, *place = ca_example_place(dataset, e);
    if ((kind->needs & CA_METRIC_ANSWER) && e->answer.count == 0) column = "answer";
    if ((kind->needs & CA_METRIC_WRONG) && e->wrong.count == 0) column = column ? column : "wrong";
    if ((kind->needs & CA_METRIC_LABEL) && !e->has_label) column = "label";
    if (column)
        return ca_fail(CA_E_DATA, "%s: column %s: the metric %s needs a value, got none", place,
                       column, kind->name);
    if ((kind->needs & CA_METRIC_LABEL) && (e->label < 0 || e->label >= CA_METRIC_NUMBERS))
        return ca_fail(CA_E_DATA,
                       "%s: column label: the metric %s expects a number from 0 to 99, got %lld",
                       place, kind->name, (long long)e->label);
    return CA_OK;
}

/* Tokens of "00" to "99". Tokenizers that write numbers digit by digit have none: there the next
 * token alone does not tell the number. */
static ca_status find_numbers(const ca_config *config, const char *path,
                              const ca_tokenizer *tokenizer, int64_t vocab, int32_t *numbers) {
    char text[3] = "00";
    if (!tokenizer)
        return ca_config_fail(config, path, "greater_than needs a tokenizer, the model has none");
    for (int n = 0; n < CA_METRIC_NUMBERS; n++) {
        text[0] = (char)('0' + n / 10);
        text[1] = (char)('0' + n % 10);
        if (ca_token_of_text(tokenizer, text, vocab, &numbers[n]) != CA_OK) {
            ca_error_clear();
            return ca_config_fail(config, path,
                                  "greater_than needs a tokenizer in which every two-digit number "
                                  "is one token, but \"%s\" is not",
                                  text);
        }
    }
    return CA_OK;
}

ca_status ca_metric_open(const ca_config *config, const char *path, const ca_dataset *dataset,
                         const ca_tokenizer *tokenizer, int64_t vocab, ca_metric *out) {
    ca_status st = CA_OK;
    *out = (ca_metric){.kind = ca_metric_find(ca_config_text(config, path))};
    for (int64_t i = 0; i < dataset->count; i++)
        CA_TRY(check_columns(out->kind, dataset, &dataset->examples[i]));
    if (out->kind->needs & CA_METRIC_LABEL)
        CA_TRY(find_numbers(config, path, tokenizer, vocab, out->numbers));
out:
    return st;
}
