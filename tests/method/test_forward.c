/* SPDX-License-Identifier: MIT
 *
 * The forward against reference values of an independent implementation, and its laws: results do
 * not depend on what else is in the batch, on where the run starts, on which rows are read, or on
 * whether a backward follows.
 */
#include "executor.h"

#include <stdlib.h>
#include <string.h>

/* The reference is exact to about 1e-14 and so is `ref` on f64; rounding grows over at most 7
 * norms and 33-row softmaxes to 1e-12 or so. `cpu` computes in f32 (6e-8) over sums of at most 150
 * terms: 1e-5 of the largest value is normal, an error in a formula shows at 1e-2. */
static double limit_of(const fixture *f) { return f->exact ? 1e-9 : 1e-4; }

/* ---- against the reference */

/* Residual streams kept at blocks 0 .. L, final norm and logits of prompts packed end to end. */
static void check_prompts(fixture *f, const ca_batch *batch, int64_t first, int64_t count) {
    int64_t d = f->width, v = f->vocab, row = 0;
    ca_pass *pass = run_model(f, batch, (ca_pass_limits){.lanes = 1, .keep = true}, NULL, 0);
    const double *norm = values_of(f, ca_pass_final_norm(pass));
    const double *logits = values_of(f, ca_pass_logits(pass));
    for (int64_t n = first; n < first + count; n++) {
        const prompt *p = &f->prompts[n];
        for (int64_t l = 0; l <= f->layers; l++) {
            const double *resid = values_of(f, ca_pass_resid(pass, l));
            near(f, "resid", resid + row * d, p->resid + l * p->count * d, p->count * d,
                 limit_of(f));
        }
        near(f, "final_norm", norm + row * d, p->final_norm, p->count * d, limit_of(f));
        near(f, "logits", logits + row * v, p->logits, p->count * v, limit_of(f));
        row += p->count;
    }
}

static void reference_packed(fixture *f) {
    check_prompts(f, batch_of_prompts(f, 0, PROMPTS, READ_ALL), 0, PROMPTS);
}

static void reference_alone(fixture *f) {
    for (int64_t n = 0; n < PROMPTS; n++)
        check_prompts(f, batch_of_prompts(f, n, 1, READ_ALL), n, 1);
}

static void test_reference_packed(void **state) {
    (void)state;
    on_every_backend(every_fixture, reference_packed);
}

static void test_reference_one_by_one(void **state) {
    (void)state;
    on_every_backend(every_fixture, reference_alone);
}

/* ---- laws */

static const double *all_logits(fixture *f, const ca_batch *batch, ca_pass_limits limits) {
    return values_of(f, ca_pass_logits(run_model(f, batch, limits, NULL, 0)));
}

static void any_order(fixture *f) {
    const prompt *p = f->prompts;
    /* the same prompts in another order, one of them twice */
    const sequence order[] = {{p[2].ids, p[2].count, 0, 0},
                              {p[0].ids, p[0].count, 0, 0},
                              {p[2].ids, p[2].count, 0, 0},
                              {p[1].ids, p[1].count, 0, 0}};
    const int64_t number[] = {2, 0, 2, 1};
    const double *packed = all_logits(f, batch_of(f, order, 4, READ_ALL), (ca_pass_limits){0});
    for (int64_t i = 0, row = 0; i < 4; row += order[i++].count) {
        ca_batch *alone = batch_of_prompts(f, number[i], 1, READ_ALL);
        /* f32: the same sums in another order of blocks */
        same(f, "logits", packed + row * f->vocab, all_logits(f, alone, (ca_pass_limits){0}),
             order[i].count * f->vocab, 1e-5);
    }
}

static void test_any_batch_any_order(void **state) {
    (void)state;
    on_every_backend(some_fixtures, any_order);
}

static void chosen_rows(fixture *f) {
    const double *full =
        all_logits(f, batch_of_prompts(f, 0, PROMPTS, READ_ALL), (ca_pass_limits){0});
    ca_batch *batch;
    int64_t rows = 0, n = 0, chosen[2 * PROMPTS];
    for (int i = 0; i < PROMPTS; i++) rows += f->prompts[i].count;
    ok(ca_batch_create(f->backend, PROMPTS, rows, 2 * PROMPTS, &batch));
    for (int i = 0; i < PROMPTS; i++) {
        const prompt *p = &f->prompts[i];
        int64_t start = batch->sequences.rows;
        ca_batch_add(batch, p->ids, p->count, 0, 0);
        ca_batch_read(batch, i); /* a different row of each, and all but the first's last row */
        chosen[n++] = start + i;
        if (i == 0) continue;
        ca_batch_read(batch, p->count - 1);
        chosen[n++] = start + p->count - 1;
    }
    ok(ca_batch_upload(batch));
    const double *few = all_logits(f, batch, (ca_pass_limits){0});
    for (int64_t i = 0; i < n; i++)
        same(f, "chosen logits", few + i * f->vocab, full + chosen[i] * f->vocab, f->vocab, 1e-5);
    ca_batch_free(batch);
}

static void test_chosen_rows(void **state) {
    (void)state;
    on_every_backend(some_fixtures, chosen_rows);
}

/* The same operations in the same order, so equal on every backend. */
static void with_and_without_lanes(fixture *f) {
    ca_batch *batch = batch_of_prompts(f, 0, 2, READ_ALL);
    int64_t count = batch->reads * f->vocab;
    const double *forward_only = all_logits(f, batch, (ca_pass_limits){0});
    same_bits(f, "kept", all_logits(f, batch, (ca_pass_limits){.lanes = 2, .keep = true}),
              forward_only, count);
    same_bits(f, "recomputed", all_logits(f, batch, (ca_pass_limits){.lanes = 2}), forward_only,
              count);
    same_bits(f, "prefix", all_logits(f, batch, (ca_pass_limits){.key_values = true}), forward_only,
              count);
}

static void test_with_and_without_lanes(void **state) {
    (void)state;
    on_every_backend(some_fixtures, with_and_without_lanes);
}

/* Blocks [0, split) in one pass, [split, L) in another that has room for just these. */
static void from_the_middle(fixture *f) {
    ca_batch *batch = batch_of_prompts(f, 0, 2, READ_LAST);
    const double *whole = all_logits(f, batch, (ca_pass_limits){0});
    for (int64_t split = 0; split <= f->layers; split++) {
        ca_pass *low = pass_for(f, batch, (ca_pass_limits){.layers = split}, NULL, 0);
        ca_pass *high = pass_for(
            f, batch, (ca_pass_limits){.layers = f->layers - split, .lanes = 1, .keep = true}, NULL,
            0);
        ca_forward lower = {.batch = batch, .last_layer = split};
        ok(ca_pass_forward(low, &lower));
        ca_forward upper = {.batch = batch,
                            .first_layer = split,
                            .last_layer = f->layers,
                            .resid = ca_pass_resid(low, split),
                            .head = CA_HEAD_LOGITS};
        ok(ca_pass_forward(high, &upper));
        same_bits(f, "logits", values_of(f, ca_pass_logits(high)), whole, batch->reads * f->vocab);
    }
}

static void test_from_the_middle(void **state) {
    (void)state;
    on_every_backend(some_fixtures, from_the_middle);
}

/* Tokens are ignored when the run starts from residuals. */
static void without_tokens(fixture *f) {
    const prompt *p = &f->prompts[1];
    ca_batch *batch = batch_of_prompts(f, 1, 1, READ_ALL);
    ca_batch *blank = batch_of(f, &(sequence){.count = p->count}, 1, READ_ALL);
    ca_pass *pass = pass_for(f, blank, (ca_pass_limits){0}, NULL, 0);
    ca_forward request = ca_forward_all(f->model, blank);
    request.resid = tensor_of(f, 2, (int64_t[]){p->count, f->width}, p->resid);
    ok(ca_pass_forward(pass, &request));
    near(f, "logits", values_of(f, ca_pass_logits(pass)), all_logits(f, batch, (ca_pass_limits){0}),
         p->count * f->vocab, limit_of(f));
}

static void test_from_residuals_without_tokens(void **state) {
    (void)state;
    on_every_backend(some_fixtures, without_tokens);
}

/* A pass made for a large batch serves smaller ones, in any order. */
static void one_pass_many_batches(fixture *f) {
    ca_pass_limits limits = {.lanes = 1, .keep = true};
    ca_batch *all = batch_of_prompts(f, 0, PROMPTS, READ_ALL);
    ca_pass *pass = pass_for(f, all, limits, NULL, 0);
    for (int64_t n = 1; n >= 0; n--) {
        ca_batch *alone = batch_of_prompts(f, n, 1, READ_LAST);
        ca_forward large = ca_forward_all(f->model, all), small = ca_forward_all(f->model, alone);
        ok(ca_pass_forward(pass, &large));
        ok(ca_pass_forward(pass, &small));
        same_bits(f, "logits", values_of(f, ca_pass_logits(pass)), all_logits(f, alone, limits),
                  f->vocab);
    }
}

static void test_one_pass_many_batches(void **state) {
    (void)state;
    on_every_backend(some_fixtures, one_pass_many_batches);
}

static void no_reads(fixture *f) {
    ca_batch *batch = batch_of_prompts(f, 0, 1, READ_NONE);
    ca_pass *pass = pass_for(f, batch, (ca_pass_limits){0}, NULL, 0);
    ca_forward request = {.batch = batch, .last_layer = f->layers, .head = CA_HEAD_NORM};
    ok(ca_pass_forward(pass, &request));
    const prompt *p = &f->prompts[0];
    near(f, "resid", values_of(f, ca_pass_resid(pass, f->layers)),
         p->resid + f->layers * p->count * f->width, p->count * f->width, limit_of(f));
}

static void test_no_rows_read(void **state) {
    (void)state;
    on_every_backend(some_fixtures, no_reads);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_packed),
        cmocka_unit_test(test_reference_one_by_one),
        cmocka_unit_test(test_any_batch_any_order),
        cmocka_unit_test(test_chosen_rows),
        cmocka_unit_test(test_with_and_without_lanes),
        cmocka_unit_test(test_from_the_middle),
        cmocka_unit_test(test_from_residuals_without_tokens),
        cmocka_unit_test(test_one_pass_many_batches),
        cmocka_unit_test(test_no_rows_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
