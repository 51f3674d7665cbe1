/* SPDX-License-Identifier: MIT
 *
 * Circuit runs against golden vectors of an independent implementation, against a slow evaluation
 * written here, and their laws: the full circuit is the clean run, the empty one the corrupted run.
 */
#include "eap_golden.h"

/* ---- the golden models themselves */

static double logit_diff(const eap_golden *g, const double *logits, int64_t n) {
    const ca_example *e = &g->data.examples[n];
    return logits[e->answer.ids[0]] - logits[e->wrong.ids[0]];
}

/* Plain runs of both prompts against the recorded metrics. */
static void plain_runs(eap_golden *g) {
    fixture *f = &g->f;
    for (int corrupted = 0; corrupted < 2; corrupted++) {
        double *got = numbers(f, g->data.count);
        for (int64_t n = 0; n < g->data.count; n++) {
            const ca_example *e = &g->data.examples[n];
            const ca_prompt_text *p = corrupted ? &e->corrupted : &e->clean;
            sequence s = {.ids = p->ids, .count = p->count};
            ca_batch *batch = batch_of(f, &s, 1, READ_LAST);
            ca_pass *pass = run_model(f, batch, (ca_pass_limits){0}, NULL, 0);
            got[n] = logit_diff(g, values_of(f, ca_pass_logits(pass)), n);
        }
        near(f, "logit_diff", got, corrupted ? g->corrupted : g->clean, g->data.count,
             f->exact ? 1e-12 : 1e-5);
    }
}

static void test_golden_models(void **state) {
    (void)state;
    on_goldens("ref", plain_runs);
    on_goldens("cpu", plain_runs);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
