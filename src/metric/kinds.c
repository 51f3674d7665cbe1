/* SPDX-License-Identifier: MIT
 *
 * The metrics: formulas and their gradients with respect to the logits. See metric.h.
 *
 * For a function f of the probabilities, d f / d logit_v = p_v (f_v - sum_u p_u f_u), where
 * f_v = d f / d p_v.
 */
#include "causa/metric.h"

#include <math.h>
#include <string.h>

static double probability(const ca_metric_input *in, const ca_answers *ids) {
    double sum = 0;
    for (int64_t i = 0; i < ids->count; i++) sum += exp(in->log_probs[ids->ids[i]]);
    return sum;
}

/* gradient += factor times the gradient of the probability of the ids. */
static void add_probability(const ca_metric_input *in, const ca_answers *ids, double factor,
                            double *gradient) {
    double all = probability(in, ids);
    for (int64_t v = 0; v < in->vocab; v++) gradient[v] -= factor * all * exp(in->log_probs[v]);
    for (int64_t i = 0; i < ids->count; i++)
        gradient[ids->ids[i]] += factor * exp(in->log_probs[ids->ids[i]]);
}

static void clear(const ca_metric_input *in, double *gradient) {
    memset(gradient, 0, (size_t)in->vocab * sizeof *gradient);
}

/* ---- logits and probabilities of answers ---- */

static double mean_logit(const ca_metric_input *in, const ca_answers *ids) {
    double sum = 0;
    for (int64_t i = 0; i < ids->count; i++) sum += in->logits[ids->ids[i]];
    return sum / (double)ids->count;
}

static double logit_diff(const ca_metric_input *in) {
    return mean_logit(in, &in->example->answer) - mean_logit(in, &in->example->wrong);
}

static void logit_diff_gradient(const ca_metric_input *in, double *gradient) {
    const ca_answers *a = &in->example->answer, *w = &in->example->wrong;
    clear(in, gradient);
    for (int64_t i = 0; i < a->count; i++) gradient[a->ids[i]] += 1.0 / (double)a->count;
    for (int64_t i = 0; i < w->count; i++) gradient[w->ids[i]] -= 1.0 / (double)w->count;
}

static double prob_diff(const ca_metric_input *in) {
    return probability(in, &in->example->answer) - probability(in, &in->example->wrong);
}

static void prob_diff_gradient(const ca_metric_input *in, double *gradient) {
    clear(in, gradient);
    add_probability(in, &in->example->answer, 1, gradient);
    add_probability(in, &in->example->wrong, -1, gradient);
}

static double prob(const ca_metric_input *in) { return probability(in, &in->example->answer); }

static void prob_gradient(const ca_metric_input *in, double *gradient) {
    clear(in, gradient);
    add_probability(in, &in->example->answer, 1, gradient);
}

/* Summed under the largest term: the answers may all be too improbable for exp. */
static double logprob(const ca_metric_input *in) {
    const ca_answers *a = &in->example->answer;
    double top = -INFINITY, sum = 0;
    for (int64_t i = 0; i < a->count; i++) top = fmax(top, in->log_probs[a->ids[i]]);
    for (int64_t i = 0; i < a->count; i++) sum += exp(in->log_probs[a->ids[i]] - top);
    return top + log(sum);
}

static void logprob_gradient(const ca_metric_input *in, double *gradient) {
    const ca_answers *a = &in->example->answer;
    double all = logprob(in);
    for (int64_t v = 0; v < in->vocab; v++) gradient[v] = -exp(in->log_probs[v]);
    for (int64_t i = 0; i < a->count; i++)
        gradient[a->ids[i]] += exp(in->log_probs[a->ids[i]] - all);
}

/* ---- distance from the clean run ---- */

static double kl(const ca_metric_input *in) {
    double sum = 0;
    for (int64_t v = 0; v < in->vocab; v++)
        sum += exp(in->reference[v]) * (in->reference[v] - in->log_probs[v]);
    return sum;
}

static void kl_gradient(const ca_metric_input *in, double *gradient) {
    for (int64_t v = 0; v < in->vocab; v++)
        gradient[v] = exp(in->log_probs[v]) - exp(in->reference[v]);
}

/* log((e^a + e^b) / 2) */
static double log_mean(double a, double b) {
    double top = fmax(a, b);
    return top + log1p(exp(fmin(a, b) - top)) - log(2);
}

static double js(const ca_metric_input *in) {
    double sum = 0;
    for (int64_t v = 0; v < in->vocab; v++) {
        double p = in->log_probs[v], q = in->reference[v], m = log_mean(p, q);
        sum += 0.5 * (exp(p) * (p - m) + exp(q) * (q - m));
    }
    return sum;
}

/* d js / d p_v = log(p_v / m_v) / 2 */
static void js_gradient(const ca_metric_input *in, double *gradient) {
    double mean = 0;
    for (int64_t v = 0; v < in->vocab; v++) {
        double p = in->log_probs[v];
        gradient[v] = 0.5 * (p - log_mean(p, in->reference[v]));
        mean += exp(p) * gradient[v];
    }
    for (int64_t v = 0; v < in->vocab; v++)
        gradient[v] = exp(in->log_probs[v]) * (gradient[v] - mean);
}

/* ---- order of the logits ---- */

static double accuracy(const ca_metric_input *in) {
    return ca_metric_is_answer(&in->example->answer, ca_metric_argmax(in->logits, in->vocab));
}

static double rank(const ca_metric_input *in) {
    const ca_answers *a = &in->example->answer;
    int64_t best = INT64_MAX;
    for (int64_t i = 0; i < a->count; i++) {
        int64_t before = 0;
        double own = in->logits[a->ids[i]];
        for (int64_t v = 0; v < in->vocab; v++)
            before += in->logits[v] > own || (in->logits[v] == own && v < a->ids[i]);
        if (before < best) best = before;
    }
    return (double)best + 1;
}

/* ---- numbers ---- */

static double above(const ca_metric_input *in, int64_t number) {
    return number > in->example->label ? 1 : -1;
}

/* Share of a token's probability that each number which begins with it has: see metric.h. */
static double share(const ca_metric_input *in) {
    return in->numbers[0] == in->numbers[1] ? 0.1 : 1;
}

static double greater_than(const ca_metric_input *in) {
    double sum = 0;
    for (int64_t n = 0; n < CA_METRIC_NUMBERS; n++)
        sum += above(in, n) * share(in) * exp(in->log_probs[in->numbers[n]]);
    return sum;
}

static void greater_than_gradient(const ca_metric_input *in, double *gradient) {
    double all = greater_than(in);
    for (int64_t v = 0; v < in->vocab; v++) gradient[v] = -all * exp(in->log_probs[v]);
    for (int64_t n = 0; n < CA_METRIC_NUMBERS; n++)
        gradient[in->numbers[n]] += above(in, n) * share(in) * exp(in->log_probs[in->numbers[n]]);
}

/* ---- whole continuations ---- */

/* A row's token, and the share of its log-probability in the metric. */
static double share_of_token(const ca_metric_input *in, int32_t *id) {
    const ca_example *e = in->example;
    const ca_continuation *text = e->suffix_wrong ? &e->wrong_text : &e->answer_text;
    *id = text->ids[in->row];
    return (e->suffix_wrong ? -1 : 1) / (double)text->count;
}

static double continuation(const ca_metric_input *in) {
    int32_t id;
    double part = share_of_token(in, &id);
    return part * in->log_probs[id];
}

static void continuation_gradient(const ca_metric_input *in, double *gradient) {
    int32_t id;
    double part = share_of_token(in, &id);
    for (int64_t v = 0; v < in->vocab; v++) gradient[v] = -part * exp(in->log_probs[v]);
    gradient[id] += part;
}

/* ---- table ---- */

enum {
    ANSWER = CA_METRIC_ANSWER,
    WRONG = CA_METRIC_WRONG,
    LABEL = CA_METRIC_LABEL,
    SOFT = CA_METRIC_LOG_PROBS,
    REFERENCE = CA_METRIC_LOG_PROBS | CA_METRIC_REFERENCE,
    ANSWER_TEXT = CA_METRIC_LOG_PROBS | CA_METRIC_ANSWER_TEXT,
    BOTH_TEXTS = ANSWER_TEXT | CA_METRIC_WRONG_TEXT
};

static const ca_metric_kind kinds[] = {
    {"logit_diff", ANSWER | WRONG, 1, logit_diff, logit_diff_gradient},
    {"prob_diff", ANSWER | WRONG | SOFT, 1, prob_diff, prob_diff_gradient},
    {"prob", ANSWER | SOFT, 1, prob, prob_gradient},
    {"logprob", ANSWER | SOFT, 1, logprob, logprob_gradient},
    {"kl", REFERENCE, -1, kl, kl_gradient},
    {"js", REFERENCE, -1, js, js_gradient},
    {"accuracy", ANSWER, 1, accuracy, NULL},
    {"rank", ANSWER, -1, rank, NULL},
    {"greater_than", LABEL | SOFT, 1, greater_than, greater_than_gradient},
    {"continuation", ANSWER_TEXT, 1, continuation, continuation_gradient},
    {"continuation_diff", BOTH_TEXTS, 1, continuation, continuation_gradient},
};

bool ca_metric_is_linear(const ca_metric_kind *kind) {
    return kind->gradient && !(kind->needs & CA_METRIC_LOG_PROBS);
}

int64_t ca_metric_parts(const ca_metric_kind *kind) {
    return kind->needs & CA_METRIC_WRONG_TEXT ? 2 : 1;
}

const ca_metric_kind *ca_metric_find(const char *name) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].name, name) == 0) return &kinds[i];
    return NULL;
}
