/* SPDX-License-Identifier: MIT
 *
 * Metrics: one number per prompt that says how well the model does the task, from the logits at the
 * prompt's last token and, where whole continuations are scored, at those behind it, with its
 * gradient with respect to these logits.
 *
 * A metric is a sum over rows of logits of what each gives alone; the rows are of one sequence or,
 * where two continuations are compared, of two.
 *
 * With p the softmax over the whole vocabulary, A the answers and W the wrong answers:
 *
 *   logit_diff    mean of the logits of A minus mean of the logits of W
 *   prob_diff     p(A) - p(W), each summed
 *   prob          p(A)
 *   logprob       log p(A)
 *   kl            sum of q log(q / p), q the clean run; 0 when nothing changed
 *   js            mean of KL(q, m) and KL(p, m), m = (p + q) / 2
 *   accuracy      1 when the most probable token is in A, else 0
 *   rank          1 + the number of tokens before the first of A; ties by rising id
 *   greater_than  p of the two-digit numbers above the label minus p of the others
 *   continuation       mean over the tokens of answer_text of log p, each after the prompt and the
 *                      tokens before it
 *   continuation_diff  the same minus that of wrong_text
 *
 * Where the tokenizer writes numbers digit by digit, the token read is the first digit, and the ten
 * numbers that begin with it have a tenth of its probability each: larger digits count for the
 * task, smaller ones against it, and the label's own digit as far as the numbers above the label
 * outweigh the others. Differs: MIB appends that digit to the prompt and reads the second digit
 * too.
 */
#ifndef CAUSA_METRIC_H
#define CAUSA_METRIC_H

#include "causa/data.h"

enum { CA_METRIC_NUMBERS = 100 };

/* What a metric reads; all arrays are on the host. */
typedef struct ca_metric_input {
    int64_t vocab;
    const double *logits;    /* [V] */
    const double *log_probs; /* [V] their log softmax; NULL unless the metric reads it */
    const double *reference; /* [V] log softmax of the clean run; NULL unless the metric reads it */
    const ca_example *example; /* or its sequence, see ca_dataset_continue */
    int64_t row;               /* of ca_example_reads(example), 0 = the prompt's last token */
    const int32_t *numbers;    /* [100] tokens with which "00" to "99" begin, or NULL */
} ca_metric_input;

/* What a metric needs, as bits. */
typedef enum ca_metric_need {
    CA_METRIC_ANSWER = 1,
    CA_METRIC_WRONG = 2,
    CA_METRIC_LABEL = 4,
    CA_METRIC_LOG_PROBS = 8,
    CA_METRIC_REFERENCE = 16,
    CA_METRIC_ANSWER_TEXT = 32,
    CA_METRIC_WRONG_TEXT = 64
} ca_metric_need;

typedef struct ca_metric_kind {
    const char *name;
    unsigned needs;
    int sign; /* -1 where a lower value means that the model does the task */
    /* What one row adds to the metric. */
    double (*value)(const ca_metric_input *in);
    /* Writes d value / d logits [V] of the row; NULL where the metric has none. */
    void (*gradient)(const ca_metric_input *in, double *gradient);
} ca_metric_kind;

typedef struct ca_metric {
    const ca_metric_kind *kind;
    int32_t numbers[CA_METRIC_NUMBERS];
    /* What is run and read for the metric: the examples of the data set, or as many sequences as
     * ca_metric_parts says for each of them, one behind the other. */
    const ca_dataset *sequences;
    ca_dataset *continued; /* owns them when they are not the data set */
} ca_metric;

/* The choices of an option: "logit_diff|prob_diff|...". */
#define CA_METRIC_NAMES                                                                            \
    "logit_diff|prob_diff|prob|logprob|kl|js|accuracy|rank|greater_than|continuation|"             \
    "continuation_diff"

/* Takes the metric that the config names at `path` and checks the columns that it reads. The data
 * set must outlive it. positions: longest sequence that the model takes.
 * Errors: CA_E_DATA naming file, row and column; CA_E_CONFIG when the tokenizer does not serve. */
ca_status ca_metric_open(const ca_config *config, const char *path, const ca_dataset *dataset,
                         const ca_tokenizer *tokenizer, int64_t vocab, int64_t positions,
                         ca_metric *out) CA_MUST_USE;
void ca_metric_close(ca_metric *metric);

/* True for a weighted sum of logits: its gradient is the same wherever it is taken. */
bool ca_metric_is_linear(const ca_metric_kind *kind);

/* Sequences per example, whose values add up to its metric. */
int64_t ca_metric_parts(const ca_metric_kind *kind);

/* NULL when unknown. */
const ca_metric_kind *ca_metric_find(const char *name);

/* log_probs [V] = logits - log sum exp(logits); may be the same array. */
void ca_metric_log_softmax(const double *logits, int64_t vocab, double *log_probs);

/* The most probable token, the first of equal ones. */
int32_t ca_metric_argmax(const double *logits, int64_t vocab);

/* True when a token is among the answers. */
bool ca_metric_is_answer(const ca_answers *answers, int32_t id);

#endif
