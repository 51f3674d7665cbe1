/* SPDX-License-Identifier: MIT
 *
 * Metrics: values written out by hand for a vocabulary of four, gradients against differences,
 * numbers that overflow exp.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "causa/metric.h"

#include <math.h>
#include <string.h>

enum { VOCAB = 120 };

static const char *const names[] = {"logit_diff",   "prob_diff",    "prob",     "logprob",
                                    "kl",           "js",           "accuracy", "rank",
                                    "greater_than", "continuation", NULL};

static int32_t answer_ids[] = {1, 3}, wrong_ids[] = {0}, text_ids[] = {17, 4};
static const ca_example example = {
    .answer = {2, answer_ids}, .wrong = {1, wrong_ids}, .label = 41, .answer_text = {2, text_ids}};

/* softmax(log x) = x / sum x: logits whose probabilities are 0.1, 0.2, 0.3, 0.4. */
static void tenths(double *logits, const double *shares, int64_t vocab) {
    for (int64_t v = 0; v < vocab; v++) logits[v] = 3 + log(shares[v]);
}

/* Tokens of the numbers, set by whole_numbers or digits. */
static int32_t numbers[CA_METRIC_NUMBERS];

static void whole_numbers(void) {
    for (int n = 0; n < CA_METRIC_NUMBERS; n++) numbers[n] = (n + 7) % VOCAB;
}

static void digits(void) {
    for (int n = 0; n < CA_METRIC_NUMBERS; n++) numbers[n] = 7 + n / 10;
}

static double value_of(const char *name, const double *logits, const double *reference,
                       int64_t vocab) {
    double log_probs[VOCAB];
    ca_metric_log_softmax(logits, vocab, log_probs);
    return ca_metric_find(name)->value(&(ca_metric_input){
        .vocab = vocab,
        .logits = logits,
        .log_probs = log_probs,
        .reference = reference,
        .example = &example,
        .numbers = numbers,
    });
}

static void close_to(double got, double expected) {
    if (!(fabs(got - expected) <= 1e-12 * fmax(1, fabs(expected))))
        fail_msg("expected %.15g, got %.15g", expected, got);
}

static void test_values(void **state) {
    (void)state;
    double logits[4], other[4], reference[4];
    tenths(logits, (const double[]){0.1, 0.2, 0.3, 0.4}, 4);
    tenths(other, (const double[]){0.4, 0.3, 0.2, 0.1}, 4);
    ca_metric_log_softmax(other, 4, reference);
    close_to(value_of("logit_diff", logits, NULL, 4), (log(0.2) + log(0.4)) / 2 - log(0.1));
    close_to(value_of("prob_diff", logits, NULL, 4), 0.5);
    close_to(value_of("prob", logits, NULL, 4), 0.6);
    close_to(value_of("logprob", logits, NULL, 4), log(0.6));
    close_to(value_of("accuracy", logits, NULL, 4), 1);
    close_to(value_of("accuracy", other, NULL, 4), 0);
    close_to(value_of("rank", logits, NULL, 4), 1);
    close_to(value_of("rank", other, NULL, 4), 2);
    close_to(value_of("kl", logits, reference, 4),
             0.4 * log(4) + 0.3 * log(1.5) + 0.2 * log(1 / 1.5) + 0.1 * log(0.25));
    close_to(value_of("js", logits, reference, 4), 0.4 * log(0.4 / 0.25) + 0.1 * log(0.1 / 0.25) +
                                                       0.3 * log(0.3 / 0.25) +
                                                       0.2 * log(0.2 / 0.25));
    ca_metric_log_softmax(logits, 4, reference);
    assert_true(fabs(value_of("kl", logits, reference, 4)) < 1e-15);
    assert_true(fabs(value_of("js", logits, reference, 4)) < 1e-15);
    assert_null(ca_metric_find("logits"));
}

/* Each row gives its token's log-probability, by as many as there are: two of four and of one. */
static void test_continuations(void **state) {
    (void)state;
    int32_t answer[] = {2, 0}, wrong[] = {3};
    double log_probs[4], total = 0;
    ca_example sequence = {.answer_text = {2, answer}, .wrong_text = {1, wrong}, .suffix = 1};
    ca_metric_input in = {.vocab = 4, .log_probs = log_probs, .example = &sequence};
    const ca_metric_kind *one = ca_metric_find("continuation");
    const ca_metric_kind *two = ca_metric_find("continuation_diff");
    assert_int_equal(ca_metric_parts(one), 1);
    assert_int_equal(ca_metric_parts(two), 2);
    assert_int_equal(ca_metric_parts(ca_metric_find("logit_diff")), 1);
    assert_int_equal(ca_example_reads(&sequence), 2);
    tenths(log_probs, (const double[]){0.1, 0.2, 0.3, 0.4}, 4);
    ca_metric_log_softmax(log_probs, 4, log_probs);
    for (in.row = 0; in.row < 2; in.row++) total += one->value(&in);
    close_to(total, (log(0.3) + log(0.1)) / 2);
    sequence.suffix = 0;
    sequence.suffix_wrong = true;
    in.row = 0;
    close_to(total + two->value(&in), (log(0.3) + log(0.1)) / 2 - log(0.4));
}

/* The sequences of two examples: prompts with all but the last token of each continuation. */
static void test_sequences(void **state) {
    (void)state;
    int32_t prompt[] = {5, 6}, other[] = {7, 6}, answer[] = {1, 2, 3}, wrong[] = {4};
    int64_t bytes[2] = {0};
    const ca_example pair = {.id = "a",
                             .row = 1,
                             .clean = {NULL, 2, prompt, bytes, bytes},
                             .corrupted = {NULL, 2, other, bytes, bytes},
                             .answer_text = {3, answer},
                             .wrong_text = {1, wrong}};
    ca_example examples[] = {pair, pair};
    const ca_dataset data = {.path = "p.csv", .count = 2, .examples = examples};
    const int32_t clean[] = {5, 6, 1, 2}, corrupted[] = {7, 6, 1, 2};
    ca_dataset *sequences;
    assert_int_equal(ca_dataset_continue(&data, true, 4, &sequences), CA_OK);
    assert_int_equal(sequences->count, 4);
    for (int i = 0; i < 4; i++) {
        const ca_example *s = &sequences->examples[i];
        assert_int_equal(s->suffix_wrong, i % 2);
        assert_int_equal(ca_example_reads(s), i % 2 ? 1 : 3);
        assert_int_equal(s->clean.count, i % 2 ? 2 : 4);
        assert_int_equal(s->corrupted.count, s->clean.count);
        size_t size = (size_t)s->clean.count * sizeof *clean;
        assert_memory_equal(s->clean.ids, clean, size);
        assert_memory_equal(s->corrupted.ids, corrupted, size);
    }
    ca_dataset_free_continued(sequences);
    assert_int_equal(ca_dataset_continue(&data, false, 4, &sequences), CA_OK);
    assert_int_equal(sequences->count, 2);
    ca_dataset_free_continued(sequences);
    examples[1].wrong_text.count = 0;
    assert_int_equal(ca_dataset_continue(&data, true, 3, &sequences), CA_E_DATA);
    assert_non_null(strstr(ca_error_text(), "column answer_text: prompt and continuation have 4"));
    assert_non_null(
        strstr(ca_error_text(), "column wrong_text: expected a continuation, got none"));
}

/* Equal logits: 100 of 120 tokens are numbers, 58 above the label 41 and 42 not. */
static void test_greater_than(void **state) {
    (void)state;
    double logits[VOCAB] = {0};
    whole_numbers();
    close_to(value_of("greater_than", logits, NULL, VOCAB), 16.0 / 120);
    logits[(41 + 7) % VOCAB] = 800; /* the label itself does not count as above */
    close_to(value_of("greater_than", logits, NULL, VOCAB), -1);
    logits[(42 + 7) % VOCAB] = 1600;
    close_to(value_of("greater_than", logits, NULL, VOCAB), 1);
}

/* The label 41 is the second of its ten: eight above, two not. */
static void test_greater_than_by_digits(void **state) {
    (void)state;
    double logits[VOCAB] = {0};
    digits();
    close_to(value_of("greater_than", logits, NULL, VOCAB), (5 - 4 + 0.8 - 0.2) / 120);
    logits[7 + 4] = 800;
    close_to(value_of("greater_than", logits, NULL, VOCAB), 0.6);
    logits[7 + 5] = 1600;
    close_to(value_of("greater_than", logits, NULL, VOCAB), 1);
    logits[7 + 3] = 2400;
    close_to(value_of("greater_than", logits, NULL, VOCAB), -1);
}

/* Answers that are too improbable for exp still have a log-probability. */
static void test_extreme_logits(void **state) {
    (void)state;
    const double logits[4] = {2000, 0, 1999, 1};
    close_to(value_of("logprob", logits, NULL, 4), 1 + log1p(exp(-1)) - 2000 - log1p(exp(-1)));
    close_to(value_of("prob", logits, NULL, 4), 0);
    close_to(value_of("logit_diff", logits, NULL, 4), 0.5 - 2000);
}

static void check_gradients(void) {
    double logits[VOCAB], reference[VOCAB], log_probs[VOCAB], gradient[VOCAB];
    ca_philox_key key = {.seed = 3, .stream = ca_stream("test.metric")};
    for (int v = 0; v < VOCAB; v++) {
        logits[v] = 2 * ca_philox_normal(key, (uint64_t)v);
        reference[v] = 2 * ca_philox_normal(key, (uint64_t)(v + VOCAB));
    }
    ca_metric_log_softmax(reference, VOCAB, reference);
    ca_metric_log_softmax(logits, VOCAB, log_probs);
    for (int m = 0; names[m]; m++) {
        const ca_metric_kind *kind = ca_metric_find(names[m]);
        if (!kind->gradient) continue;
        memset(gradient, 0xFF, sizeof gradient);
        kind->gradient(&(ca_metric_input){.vocab = VOCAB,
                                          .logits = logits,
                                          .log_probs = log_probs,
                                          .reference = reference,
                                          .example = &example,
                                          .numbers = numbers},
                       gradient);
        for (int v = 0; v < VOCAB; v++) {
            double at = logits[v], step = 1e-5;
            logits[v] = at + step;
            double above = value_of(names[m], logits, reference, VOCAB);
            logits[v] = at - step;
            double slope = (above - value_of(names[m], logits, reference, VOCAB)) / (2 * step);
            logits[v] = at;
            /* rounding of the difference: 1e-16 / 1e-5, and its curvature: 1e-10 */
            if (!(fabs(gradient[v] - slope) <= 1e-9))
                fail_msg("%s: d/d logit %d: expected %.12g, got %.12g", names[m], v, slope,
                         gradient[v]);
        }
    }
}

static void test_gradients(void **state) {
    (void)state;
    whole_numbers();
    check_gradients();
    digits();
    check_gradients();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_continuations),
        cmocka_unit_test(test_sequences),
        cmocka_unit_test(test_greater_than),
        cmocka_unit_test(test_greater_than_by_digits),
        cmocka_unit_test(test_extreme_logits),
        cmocka_unit_test(test_gradients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
