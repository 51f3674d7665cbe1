/* SPDX-License-Identifier: MIT
 *
 * The backward against reference gradients of an independent implementation, and its laws: lanes
 * are separate backwards, recomputing changes nothing, and it can be cut at any layer.
 */
#include "executor.h"

#include <stdlib.h>
#include <string.h>

/* As for the forward; gradients pass twice as many roundings. */
static double limit_of(const fixture *f) { return f->exact ? 1e-9 : 3e-4; }

static const ca_pass_limits kept = {.lanes = 1, .keep = true};

/* d (logits[T - 1, a] - logits[T - 1, b]) of every prompt, one row read each: [1, n, V]. */
static ca_tensor metric_at_logits(fixture *f, int64_t first, int64_t count) {
    double *d = numbers(f, count * f->vocab);
    for (int64_t n = 0; n < count; n++) {
        d[n * f->vocab + f->prompts[first + n].a] = 1;
        d[n * f->vocab + f->prompts[first + n].b] = -1;
    }
    return tensor_of(f, 3, (int64_t[]){1, count, f->vocab}, d);
}

/* The same cotangent one step earlier, W_U[a] - W_U[b]: [1, n, D]. */
static ca_tensor metric_at_final_norm(fixture *f, int64_t first, int64_t count) {
    int64_t d = f->width;
    const double *head = values_of(f, f->model->head);
    double *g = numbers(f, count * d);
    for (int64_t n = 0; n < count; n++)
        for (int64_t i = 0; i < d; i++)
            g[n * d + i] =
                head[f->prompts[first + n].a * d + i] - head[f->prompts[first + n].b * d + i];
    return tensor_of(f, 3, (int64_t[]){1, count, d}, g);
}

/* Reference gradients of all prompts at the input of a block, packed: [T, D]. */
static const double *reference_at(fixture *f, int64_t layer, int64_t *count) {
    int64_t used = 0;
    double *packed = numbers(f, 64 * f->width);
    for (int n = 0; n < PROMPTS; n++) {
        const prompt *p = &f->prompts[n];
        int64_t block = p->count * f->width;
        memcpy(packed + used, p->grad_resid + layer * block, (size_t)block * sizeof *packed);
        used += block;
    }
    *count = used;
    return packed;
}

/* ---- against the reference */

static void against_reference(fixture *f) {
    int64_t count;
    ca_batch *batch = batch_of_prompts(f, 0, PROMPTS, READ_LAST);
    tap pre;
    ca_hook hook = tap_at(f, &pre, CA_SITE_RESID_PRE);
    ca_pass *pass = run_model(f, batch, kept, &hook, 1);
    ca_tensor d_logits = metric_at_logits(f, 0, PROMPTS);
    ca_tensor d_final = metric_at_final_norm(f, 0, PROMPTS);
    for (int64_t l = 0; l < f->layers; l++) {
        const double *expected = reference_at(f, l, &count);
        ca_backward request = {.lanes = 1, .d_logits = d_logits, .stop_layer = l};
        near(f, "from logits", gradient_of(f, pass, request), expected, count, limit_of(f));
        request = (ca_backward){.lanes = 1, .d_final_norm = d_final, .stop_layer = l};
        near(f, "from final_norm", gradient_of(f, pass, request), expected, count, limit_of(f));
    }
    for (int64_t l = 0; l < f->layers; l++)
        near(f, "at resid_pre", pre.gradient[l + 1], reference_at(f, l, &count), count,
             limit_of(f));
}

static void test_reference(void **state) {
    (void)state;
    on_both_backends(every_fixture, against_reference);
}

/* grad_embed one prompt at a time; cotangents that apply are summed. */
static void embeddings_alone(fixture *f) {
    for (int64_t n = 0; n < 2; n++) {
        const prompt *p = &f->prompts[n];
        int64_t count = p->count * f->width;
        ca_batch *batch = batch_of_prompts(f, n, 1, READ_LAST);
        ca_pass *pass = run_model(f, batch, kept, NULL, 0);
        ca_backward request = {.lanes = 1, .d_logits = metric_at_logits(f, n, 1)};
        near(f, "once", gradient_of(f, pass, request), p->grad_embed, count, limit_of(f));
        request.d_final_norm = metric_at_final_norm(f, n, 1);
        double *twice = gradient_of(f, pass, request);
        for (int64_t i = 0; i < count; i++) twice[i] /= 2;
        near(f, "twice", twice, p->grad_embed, count, limit_of(f));
    }
}

static void test_embeddings_one_by_one(void **state) {
    (void)state;
    on_both_backends(every_fixture, embeddings_alone);
}

/* ---- laws */

enum { LANES = 3 };

/* Three cotangents of each kind as lanes, and one after the other. */
static void lanes_are_separate(fixture *f) {
    int64_t rows, n, d = f->width;
    ca_batch *batch = batch_of_prompts(f, 0, 2, READ_ALL);
    ca_pass *pass = run_model(f, batch, (ca_pass_limits){.lanes = LANES, .keep = true}, NULL, 0);
    rows = batch->sequences.rows;
    n = batch->reads;
    ca_tensor logits = random_tensor(f, 3, (int64_t[]){LANES, n, f->vocab}, "logits");
    ca_tensor norm = random_tensor(f, 3, (int64_t[]){LANES, n, d}, "norm");
    ca_tensor resid = random_tensor(f, 3, (int64_t[]){LANES, rows, d}, "resid");
    const double *together = gradient_of(
        f, pass,
        (ca_backward){.lanes = LANES, .d_logits = logits, .d_final_norm = norm, .d_resid = resid});
    for (int64_t r = 0; r < LANES; r++) {
        ca_backward one = {.lanes = 1,
                           .d_logits = ca_tensor_slice(logits, 0, r, 1),
                           .d_final_norm = ca_tensor_slice(norm, 0, r, 1),
                           .d_resid = ca_tensor_slice(resid, 0, r, 1)};
        /* f32: a product of other shape may sum in another order */
        same(f, "lane", together + r * rows * d, gradient_of(f, pass, one), rows * d, 1e-5);
    }
}

static void test_lanes_are_separate_backwards(void **state) {
    (void)state;
    on_both_backends(some_fixtures, lanes_are_separate);
}

/* Cotangents that apply are summed; gradients are linear in them. */
static void cotangents_add_up(fixture *f) {
    ca_batch *batch = batch_of_prompts(f, 0, 2, READ_ALL);
    int64_t rows = batch->sequences.rows, d = f->width, count = rows * d;
    ca_pass *pass = run_model(f, batch, kept, NULL, 0);
    ca_tensor logits = random_tensor(f, 3, (int64_t[]){1, batch->reads, f->vocab}, "logits");
    ca_tensor norm = random_tensor(f, 3, (int64_t[]){1, batch->reads, d}, "norm");
    ca_tensor resid = random_tensor(f, 3, (int64_t[]){1, rows, d}, "resid");
    double *sum = numbers(f, count);
    const ca_backward parts[] = {{.lanes = 1, .d_logits = logits},
                                 {.lanes = 1, .d_final_norm = norm},
                                 {.lanes = 1, .d_resid = resid}};
    for (int i = 0; i < 3; i++) {
        const double *part = gradient_of(f, pass, parts[i]);
        for (int64_t k = 0; k < count; k++) sum[k] += part[k];
    }
    ca_backward all = {.lanes = 1, .d_logits = logits, .d_final_norm = norm, .d_resid = resid};
    near(f, "sum", gradient_of(f, pass, all), sum, count, f->exact ? 1e-12 : 1e-5);
}

static void test_cotangents_add_up(void **state) {
    (void)state;
    on_both_backends(some_fixtures, cotangents_add_up);
}

/* An edit at every site at which a recomputed value depends on one. */
static int edit_everywhere(fixture *f, nudge *n, ca_hook *hooks) {
    const ca_site_kind kinds[] = {
        CA_SITE_RESID_PRE, CA_SITE_Q,       CA_SITE_K,         CA_SITE_V,         CA_SITE_PATTERN,
        CA_SITE_Z,         CA_SITE_RESULT,  CA_SITE_ATTN_OUT,  CA_SITE_RESID_MID, CA_SITE_MLP_PRE,
        CA_SITE_MLP_POST,  CA_SITE_MLP_OUT, CA_SITE_RESID_POST};
    int count = (int)(sizeof kinds / sizeof *kinds);
    for (int i = 0; i < count; i++) {
        hooks[i] = nudge_at(f, &n[i], kinds[i], 0);
        hooks[i].last_layer = f->layers - 1;
        n[i].epsilon = 0.1;
    }
    return count;
}

/* The same operations on the same numbers: equal bit for bit on every backend. */
static void recompute_changes_nothing(fixture *f) {
    enum { MOST = 16 };
    nudge nudges[MOST];
    ca_hook hooks[MOST];
    ca_batch *batch = batch_of_prompts(f, 0, 2, READ_LAST);
    ca_backward request = {.lanes = 1, .d_logits = metric_at_logits(f, 0, 2)};
    int edits = edit_everywhere(f, nudges, hooks);
    int64_t count = batch->sequences.rows * f->width;
    const double *plain = NULL;
    for (int hooked = 0; hooked <= edits; hooked += edits) {
        ca_pass *keep = run_model(f, batch, kept, hooks, hooked);
        ca_pass *again = run_model(f, batch, (ca_pass_limits){.lanes = 1}, hooks, hooked);
        const double *expected = gradient_of(f, keep, request);
        same_bits(f, "recomputed", gradient_of(f, again, request), expected, count);
        same_bits(f, "recomputed twice", gradient_of(f, again, request), expected, count);
        if (hooked) assert_memory_not_equal(plain, expected, (size_t)count * sizeof *plain);
        plain = expected;
    }
}

static void test_recompute_changes_nothing(void **state) {
    (void)state;
    on_both_backends(some_fixtures, recompute_changes_nothing);
}

/* Upper half, then lower half with the upper one's gradient as its cotangent. */
static void cut_in_the_middle(fixture *f) {
    ca_batch *batch = batch_of_prompts(f, 0, 2, READ_LAST);
    int64_t count = batch->sequences.rows * f->width;
    ca_tensor d_logits = metric_at_logits(f, 0, 2), middle;
    ca_pass *whole = run_model(f, batch, kept, NULL, 0);
    const double *expected = gradient_of(f, whole, (ca_backward){.lanes = 1, .d_logits = d_logits});
    for (int64_t split = 0; split <= f->layers; split++) {
        ca_pass *low = pass_for(f, batch, kept, NULL, 0), *high = pass_for(f, batch, kept, NULL, 0);
        ca_forward lower = {.batch = batch, .last_layer = split};
        ok(ca_pass_forward(low, &lower));
        ca_forward upper = {.batch = batch,
                            .first_layer = split,
                            .last_layer = f->layers,
                            .resid = ca_pass_resid(low, split),
                            .head = CA_HEAD_LOGITS};
        ok(ca_pass_forward(high, &upper));
        ca_backward request = {.lanes = 1, .d_logits = d_logits, .stop_layer = split};
        ok(ca_pass_backward(high, &request, &middle));
        request = (ca_backward){.lanes = 1, .d_resid = middle};
        same_bits(f, "two halves", gradient_of(f, low, request), expected, count);
    }
}

static void test_cut_in_the_middle(void **state) {
    (void)state;
    on_both_backends(some_fixtures, cut_in_the_middle);
}

static void any_batch(fixture *f) {
    ca_pass *packed = run_model(f, batch_of_prompts(f, 0, 2, READ_LAST), kept, NULL, 0);
    const double *together =
        gradient_of(f, packed, (ca_backward){.lanes = 1, .d_logits = metric_at_logits(f, 0, 2)});
    for (int64_t n = 0, at = 0; n < 2; at += f->prompts[n++].count * f->width) {
        ca_pass *alone = run_model(f, batch_of_prompts(f, n, 1, READ_LAST), kept, NULL, 0);
        ca_backward request = {.lanes = 1, .d_logits = metric_at_logits(f, n, 1)};
        same(f, "packed", together + at, gradient_of(f, alone, request),
             f->prompts[n].count * f->width, 1e-5);
    }
}

static void test_any_batch(void **state) {
    (void)state;
    on_both_backends(some_fixtures, any_batch);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference),
        cmocka_unit_test(test_embeddings_one_by_one),
        cmocka_unit_test(test_lanes_are_separate_backwards),
        cmocka_unit_test(test_cotangents_add_up),
        cmocka_unit_test(test_recompute_changes_nothing),
        cmocka_unit_test(test_cut_in_the_middle),
        cmocka_unit_test(test_any_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
