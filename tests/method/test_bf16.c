/* SPDX-License-Identifier: MIT
 *
 * Forward and backward with matrices in bf16, against the same on `ref` and against values that
 * were computed without rounding.
 */
#include "executor.h"

#include <string.h>

/* What one run gives, of all prompts packed. */
typedef struct outcome {
    double *logits;   /* [PROMPTS, V] at the last rows */
    double *gradient; /* [T, D] of logits a - b of every prompt at the embeddings */
    int64_t values;   /* T D */
} outcome;

static outcome run(fixture *f) {
    ca_batch *batch = batch_of_prompts(f, 0, PROMPTS, READ_LAST);
    ca_pass *pass = run_model(f, batch, (ca_pass_limits){.lanes = 1, .keep = true}, NULL, 0);
    double *d = numbers(f, PROMPTS * f->vocab);
    for (int64_t n = 0; n < PROMPTS; n++) {
        d[n * f->vocab + f->prompts[n].a] = 1;
        d[n * f->vocab + f->prompts[n].b] = -1;
    }
    ca_tensor cotangent = tensor_of(f, 3, (int64_t[]){1, PROMPTS, f->vocab}, d);
    return (outcome){
        .logits = values_of(f, ca_pass_logits(pass)),
        .gradient = gradient_of(f, pass, (ca_backward){.lanes = 1, .d_logits = cotangent}),
        .values = batch->sequences.rows * f->width,
    };
}

/* The reference's, packed alike. */
static outcome recorded(fixture *f, int64_t values) {
    outcome o = {numbers(f, PROMPTS * f->vocab), numbers(f, values), values};
    double *to = o.gradient;
    for (int64_t n = 0; n < PROMPTS; n++) {
        const prompt *p = &f->prompts[n];
        size_t block = (size_t)(p->count * f->width);
        memcpy(o.logits + n * f->vocab, p->logits + (p->count - 1) * f->vocab,
               (size_t)f->vocab * sizeof *o.logits);
        memcpy(to, p->grad_resid, block * sizeof *to);
        to += block;
    }
    return o;
}

/* The limits of `causa doctor`. Against the reference every factor of every product is off by up to
 * 2^-9 of itself. Against `ref` the products are the same, but a sum halfway between two bf16
 * numbers may be rounded to either: 2^-8 of one element. */
static void narrow_weights(fixture *wide) {
    fixture f, ref;
    if (!wide->backend->bfloat16) return;
    fixture_open_as(&f, wide->name, wide->backend->name, CA_BF16);
    fixture_open_as(&ref, wide->name, "ref", CA_BF16);
    assert_int_equal(f.model->dtype, CA_F32);
    outcome got = run(&f), same = run(&ref), exact = recorded(&f, got.values);
    near(&f, "logits", got.logits, same.logits, PROMPTS * f.vocab, 1e-2);
    near(&f, "gradient", got.gradient, same.gradient, got.values, 3e-2);
    near(&f, "logits of f64", got.logits, exact.logits, PROMPTS * f.vocab, 0.1);
    near(&f, "gradient of f64", got.gradient, exact.gradient, got.values, 0.3);
    fixture_close(&ref);
    fixture_close(&f);
}

static void test_narrow_weights(void **state) {
    (void)state;
    on_every_backend(every_fixture, narrow_weights);
}

/* attn.result makes each head's product with its columns of W_O, a batch; the sum is the output. */
static void by_heads(fixture *wide) {
    fixture f;
    tap results;
    if (!wide->backend->bfloat16) return;
    fixture_open_as(&f, wide->name, wide->backend->name, CA_BF16);
    ca_hook hook = tap_at(&f, &results, CA_SITE_RESULT);
    ca_batch *batch = batch_of_prompts(&f, 0, PROMPTS, READ_LAST);
    ca_pass_limits limits = {.lanes = 1, .keep = true};
    const double *whole = values_of(&f, ca_pass_logits(run_model(&f, batch, limits, NULL, 0)));
    const double *heads = values_of(&f, ca_pass_logits(run_model(&f, batch, limits, &hook, 1)));
    near(&f, "logits", heads, whole, PROMPTS * f.vocab, 1e-2);
    fixture_close(&f);
}

static void test_by_heads(void **state) {
    (void)state;
    on_every_backend(some_fixtures, by_heads);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_narrow_weights),
        cmocka_unit_test(test_by_heads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
