/* SPDX-License-Identifier: MIT
 *
 * Hooks: what taps see, in which order hooks run, what edits do, and the compositions that methods
 * are made of: patching, ablation, per-head gradients before the norm.
 */
#include "executor.h"

#include <string.h>

static const ca_pass_limits kept = {.lanes = 1, .keep = true};

static const double *logits_of(fixture *f, const ca_pass *pass) {
    return values_of(f, ca_pass_logits(pass));
}

/* ---- residual adds */

/* Counts the calls of an operation on their way to the backend. */
static ca_status (*uncounted_add)(ca_backend *be, ca_tensor y, ca_tensor x, double alpha);
static int64_t adds;

static ca_status counted_add(ca_backend *be, ca_tensor y, ca_tensor x, double alpha) {
    adds++;
    return uncounted_add(be, y, x, alpha);
}

/* On a backend that accumulates no branch is added by itself but those that a hook reads, and the
 * values are those of other backends, of two roundings less in each layer. */
static void branches_join_the_stream(fixture *f) {
    ca_backend *be = f->backend;
    const bool accumulates = be->accumulates;
    const ca_backend_ops *table = be->ops;
    ca_backend_ops counting = *table;
    tap attn, mlp, gradient_alone;
    ca_hook read[] = {tap_at(f, &attn, CA_SITE_ATTN_OUT), tap_at(f, &mlp, CA_SITE_MLP_OUT)};
    ca_hook unread = tap_at(f, &gradient_alone, CA_SITE_MLP_OUT);
    ca_batch *batch = batch_of_prompts(f, 0, 2, READ_LAST);
    int64_t logits = 2 * f->vocab, values = batch->sequences.rows * f->width;
    double limit = f->exact ? 1e-12 : 1e-5;
    ca_backward request = {.lanes = 1,
                           .d_logits = random_tensor(f, 3, (int64_t[]){1, 2, f->vocab}, "logits")};
    be->accumulates = false;
    ca_pass *apart = run_model(f, batch, kept, NULL, 0);
    const double *expected = logits_of(f, apart), *slope = gradient_of(f, apart, request);
    uncounted_add = table->add;
    counting.add = counted_add;
    be->ops = &counting;
    be->accumulates = true;
    const struct {
        ca_hook *hooks;
        int64_t count, adds;
    } runs[] = {{NULL, 0, 0}, {&unread, 1, 0}, {read, 1, f->layers}, {read, 2, 2 * f->layers}};
    unread.forward = NULL;
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        adds = 0;
        ca_pass *pass = run_model(f, batch, kept, runs[i].hooks, runs[i].count);
        assert_int_equal(adds, runs[i].adds);
        near(f, "logits", logits_of(f, pass), expected, logits, limit);
        near(f, "gradient", gradient_of(f, pass, request), slope, values, 10 * limit);
    }
    near(f, "logits, in place", logits_of(f, run_model(f, batch, (ca_pass_limits){0}, NULL, 0)),
         expected, logits, limit);
    be->ops = table;
    be->accumulates = accumulates;
}

static void test_branches_join_the_stream(void **state) {
    (void)state;
    on_every_backend(every_fixture, branches_join_the_stream);
}

/* ---- taps */

/* Reference residual streams, and the identities that hold between the sites of a block. Exact
 * sums of two terms in f64 and f32; the reference as in test_forward.c. */
static void taps_see_the_run(fixture *f) {
    enum { N = CA_SITE_COUNT };
    tap taps[N];
    ca_hook hooks[N];
    const prompt *p = &f->prompts[1];
    int64_t d = f->width, rows = p->count, heads = f->model->arch.heads;
    double limit = f->exact ? 1e-9 : 1e-4, rounding = f->exact ? 1e-14 : 1e-5;
    for (int i = 0; i < N; i++) hooks[i] = tap_at(f, &taps[i], (ca_site_kind)i);
    ca_pass *pass =
        run_model(f, batch_of_prompts(f, 1, 1, READ_ALL), (ca_pass_limits){0}, hooks, N);
    near(f, "final_norm", taps[CA_SITE_FINAL_NORM].value[0], p->final_norm, rows * d, limit);
    near(f, "logits", taps[CA_SITE_LOGITS].value[0], p->logits, rows * f->vocab, limit);
    same_bits(f, "logits", taps[CA_SITE_LOGITS].value[0], logits_of(f, pass), rows * f->vocab);
    if (!f->model->arch.learned_positions)
        same_bits(f, "embed", taps[CA_SITE_EMBED].value[0], taps[CA_SITE_RESID_PRE].value[1],
                  rows * d);
    for (int64_t l = 0; l < f->layers; l++) {
#define AT(site) taps[CA_SITE_##site].value[l + 1]
        near(f, "resid_pre", AT(RESID_PRE), p->resid + l * rows * d, rows * d, limit);
        near(f, "resid_post", AT(RESID_POST), p->resid + (l + 1) * rows * d, rows * d, limit);
        ca_tensor b = f->model->layers[l].out_bias;
        const double *bias = b.data ? values_of(f, b) : numbers(f, d);
        double *mid = numbers(f, rows * d), *post = numbers(f, rows * d);
        double *attn = numbers(f, rows * d);
        for (int64_t i = 0; i < rows * d; i++) {
            mid[i] = AT(RESID_PRE)[i] + AT(ATTN_OUT)[i];
            post[i] = AT(RESID_MID)[i] + AT(MLP_OUT)[i];
            attn[i] = bias[i % d];
            for (int64_t h = 0; h < heads; h++)
                attn[i] += AT(RESULT)[(i / d * heads + h) * d + i % d];
        }
        near(f, "resid_mid", AT(RESID_MID), mid, rows * d, rounding);
        near(f, "resid_post", AT(RESID_POST), post, rows * d, rounding);
        near(f, "attn_out", AT(ATTN_OUT), attn, rows * d, rounding);
        for (int64_t row = 0; row < heads * rows; row++) {
            double sum = 0;
            for (int64_t k = 0; k < rows; k++) {
                double probability = AT(PATTERN)[row * rows + k];
                sum += probability;
                if (k > row % rows) assert_true(probability == 0);
            }
            assert_float_equal(sum, 1, rounding);
        }
#undef AT
    }
}

static void test_taps_see_the_run(void **state) {
    (void)state;
    on_every_backend(every_fixture, taps_see_the_run);
}

static void called_once(fixture *f) {
    for (int keep = 0; keep < 2; keep++) {
        tap inside, outside;
        ca_hook hooks[] = {tap_at(f, &inside, CA_SITE_Z), tap_at(f, &outside, CA_SITE_FINAL_NORM)};
        ca_batch *batch = batch_of_prompts(f, 0, 1, READ_LAST);
        ca_pass *pass = run_model(f, batch, (ca_pass_limits){.lanes = 1, .keep = keep}, hooks, 2);
        ca_tensor d = random_tensor(f, 3, (int64_t[]){1, 1, f->vocab}, "d");
        gradient_of(f, pass, (ca_backward){.lanes = 1, .d_logits = d, .stop_layer = 1});
        assert_int_equal(inside.forwards, f->layers);
        assert_int_equal(inside.recomputes, keep ? 0 : f->layers - 1);
        assert_int_equal(inside.backwards, f->layers - 1);
        assert_int_equal(outside.forwards, 1);
        assert_int_equal(outside.recomputes, 0);
        assert_int_equal(outside.backwards, 1);
    }
}

static void test_called_once_per_layer(void **state) {
    (void)state;
    on_fixtures(some_fixtures, "ref", called_once);
}

/* ---- order */

typedef struct note {
    char name;
    char *log; /* shared */
    fixture *f;
} note;

static void write_down(const note *n, const ca_hook_call *call) {
    char entry[8];
    snprintf(entry, sizeof entry, "%c%d", n->name, (int)call->layer);
    strcat(n->log, entry);
}

/* Doubles a value or a gradient. */
static ca_status doubled(const note *n, const ca_hook_call *call, ca_tensor x) {
    write_down(n, call);
    return ca_add(call->backend, x, tensor_of(n->f, x.rank, x.shape, values_of(n->f, x)), 1);
}

static ca_status note_forward(void *context, const ca_hook_call *call, ca_tensor value) {
    assert_int_equal(call->lanes, 0);
    assert_int_equal(call->site, CA_SITE_ATTN_OUT);
    return doubled(context, call, value);
}

static ca_status note_backward(void *context, const ca_hook_call *call, ca_tensor gradient) {
    assert_int_equal(call->lanes, 2);
    assert_int_equal(gradient.shape[0], 2);
    return doubled(context, call, gradient);
}

static ca_hook note_at(note *n, int64_t first, int64_t last) {
    return (ca_hook){.site = CA_SITE_ATTN_OUT,
                     .first_layer = first,
                     .last_layer = last,
                     .edits = true,
                     .forward = note_forward,
                     .backward = note_backward,
                     .context = n};
}

static void order_of_hooks(fixture *f) {
    char log[64] = "";
    note a = {'a', log, f}, b = {'b', log, f};
    tap before, after;
    ca_hook hooks[] = {tap_at(f, &before, CA_SITE_ATTN_OUT), note_at(&a, 0, 1), note_at(&b, 1, 1),
                       tap_at(f, &after, CA_SITE_ATTN_OUT)};
    ca_batch *batch = batch_of_prompts(f, 0, 1, READ_LAST);
    ca_pass *pass = run_model(f, batch, (ca_pass_limits){.lanes = 2, .keep = true}, hooks, 4);
    assert_string_equal(log, "a0a1b1");
    log[0] = '\0';
    ca_tensor d = random_tensor(f, 3, (int64_t[]){2, 1, f->vocab}, "d");
    int64_t count = batch->sequences.rows * f->width;
    gradient_of(f, pass, (ca_backward){.lanes = 2, .d_logits = d});
    assert_string_equal(log, "b1a1a0");
    /* doubling is exact: twice at layer 1, both ways */
    for (int64_t i = 0; i < count; i++) {
        assert_true(after.value[2][i] == 4 * before.value[2][i]);
        assert_true(before.gradient[2][i] == 4 * after.gradient[2][i]);
        assert_true(after.value[1][i] == 2 * before.value[1][i]);
    }
}

static void test_order_of_hooks(void **state) {
    (void)state;
    on_every_backend(some_fixtures, order_of_hooks);
}

/* ---- patching */

/* Every site replaced by its own values: nothing changes. Hooked patterns and results take the
 * way through stored probabilities and per-head results, so that is what it is compared with. */
static void patch_nothing(fixture *f) {
    ca_batch *batch = batch_of_prompts(f, 0, 2, READ_ALL);
    for (ca_site_kind kind = CA_SITE_RESID_PRE; kind <= CA_SITE_RESID_POST; kind++) {
        tap t;
        ca_hook hook = tap_at(f, &t, kind);
        ca_pass *plain = run_model(f, batch, (ca_pass_limits){0}, &hook, 1);
        const double *expected = logits_of(f, plain);
        for (int64_t l = 0; l < f->layers; l++) {
            patch p = {.source = tensor_of(f, 1, &t.count, t.value[l + 1]), .head = -1};
            int64_t rows = batch->sequences.rows, wide = t.count / rows;
            int64_t heads = ca_site_has_heads(kind) ? ca_site_heads(&f->model->arch, kind) : 1;
            if (kind != CA_SITE_PATTERN)
                p.source =
                    heads > 1 || ca_site_has_heads(kind)
                        ? ca_tensor_reshape(p.source, 3, (int64_t[]){rows, heads, wide / heads})
                        : ca_tensor_reshape(p.source, 2, (int64_t[]){rows, wide});
            ca_hook hooks[] = {hook, patch_at(&p, kind, l)};
            ca_pass *patched = run_model(f, batch, (ca_pass_limits){0}, hooks, 2);
            same_bits(f, ca_site_kind_name(kind), logits_of(f, patched), expected,
                      batch->reads * f->vocab);
        }
    }
}

static void test_patch_nothing(void **state) {
    (void)state;
    on_every_backend(some_fixtures, patch_nothing);
}

/* Two prompts of 12 tokens; the whole residual stream of one put into the run of the other. */
static void patch_everything(fixture *f) {
    const int64_t n = f->prompts[1].count;
    ca_batch *clean = batch_of(f, &(sequence){f->prompts[1].ids, n, 0, 0}, 1, READ_ALL);
    ca_batch *other = batch_of(f, &(sequence){f->prompts[2].ids, n, 0, 0}, 1, READ_ALL);
    tap taps[2];
    ca_hook hooks[] = {tap_at(f, &taps[0], CA_SITE_RESID_PRE),
                       tap_at(f, &taps[1], CA_SITE_RESID_POST)};
    const double *expected = logits_of(f, run_model(f, clean, (ca_pass_limits){0}, hooks, 2));
    for (int post = 0; post < 2; post++)
        for (int64_t l = 0; l < f->layers; l++) {
            int64_t shape[] = {n, f->width};
            patch p = {.source = tensor_of(f, 2, shape, taps[post].value[l + 1]), .head = -1};
            ca_hook hook = patch_at(&p, post ? CA_SITE_RESID_POST : CA_SITE_RESID_PRE, l);
            ca_pass *patched = run_model(f, other, (ca_pass_limits){0}, &hook, 1);
            same_bits(f, "patched", logits_of(f, patched), expected, n * f->vocab);
        }
}

static void test_patch_everything(void **state) {
    (void)state;
    on_every_backend(some_fixtures, patch_everything);
}

/* With every head's result 0, attention writes its bias and nothing else. */
static void ablate_all_heads(fixture *f) {
    int64_t d = f->width, rows = f->prompts[0].count, heads = f->model->arch.heads;
    ca_batch *batch = batch_of_prompts(f, 0, 1, READ_ALL);
    patch zero = {.source =
                      tensor_of(f, 3, (int64_t[]){rows, heads, d}, numbers(f, rows * heads * d)),
                  .head = -1};
    tap out;
    ca_hook hooks[] = {patch_at(&zero, CA_SITE_RESULT, 1), tap_at(f, &out, CA_SITE_ATTN_OUT)};
    run_model(f, batch, (ca_pass_limits){0}, hooks, 2);
    ca_tensor b = f->model->layers[1].out_bias;
    const double *bias = b.data ? values_of(f, b) : numbers(f, d);
    for (int64_t i = 0; i < rows * d; i++) assert_true(out.value[2][i] == bias[i % d]);
    bool other_layer = false; /* whose heads were left alone */
    for (int64_t i = 0; i < rows * d; i++) other_layer |= out.value[1][i] != bias[i % d];
    assert_true(other_layer);
}

static void test_ablate_all_heads(void **state) {
    (void)state;
    on_every_backend(some_fixtures, ablate_all_heads);
}

/* z of one head set, or its result set to W_O of the same numbers. */
static void head_at_z_and_result(fixture *f) {
    const ca_arch *a = &f->model->arch;
    int64_t rows = f->prompts[0].count, d = f->width, dh = a->head_dim, h = a->heads - 1;
    ca_batch *batch = batch_of_prompts(f, 0, 1, READ_ALL);
    for (int64_t l = 0; l < f->layers; l++) {
        patch z = {.source = random_tensor(f, 3, (int64_t[]){rows, 1, dh}, "z"), .head = h};
        ca_tensor w = ca_tensor_slice(f->model->layers[l].out_weight, 1, h * dh, dh);
        patch result = {.source = tensor_of(f, 3, (int64_t[]){rows, 1, d}, numbers(f, rows * d)),
                        .head = h};
        ok(ca_linear_fwd(f->backend, ca_tensor_2d(result.source.data, w.dtype, rows, d),
                         ca_tensor_2d(z.source.data, w.dtype, rows, dh), w, (ca_tensor){0}));
        ca_hook at_z = patch_at(&z, CA_SITE_Z, l), at_result = patch_at(&result, CA_SITE_RESULT, l);
        ca_pass *one = run_model(f, batch, kept, &at_z, 1);
        ca_pass *two = run_model(f, batch, kept, &at_result, 1);
        /* two ways to sum over heads; limits as for any other rounding */
        near(f, "patched", logits_of(f, one), logits_of(f, two), rows * f->vocab,
             f->exact ? 1e-11 : 1e-4);
        ca_tensor cotangent = random_tensor(f, 3, (int64_t[]){1, rows, f->vocab}, "d");
        ca_backward request = {.lanes = 1, .d_logits = cotangent};
        near(f, "gradient", gradient_of(f, one, request), gradient_of(f, two, request), rows * d,
             f->exact ? 1e-10 : 3e-4);
    }
}

static void test_head_at_z_and_result(void **state) {
    (void)state;
    on_every_backend(some_fixtures, head_at_z_and_result);
}

/* ---- gradients */

static ca_status cut(void *context, const ca_hook_call *call, ca_tensor gradient) {
    (void)context;
    return ca_fill(call->backend, gradient, 0);
}

/* Without gradients through attention and MLP, what reaches the embeddings is what the final norm
 * hands down, at the rows that are read and at no other. */
static void rewritten_gradients(fixture *f) {
    tap last;
    ca_hook hooks[] = {
        {.site = CA_SITE_ATTN_OUT, .last_layer = f->layers - 1, .backward = cut},
        {.site = CA_SITE_MLP_OUT, .last_layer = f->layers - 1, .backward = cut},
        tap_at(f, &last, CA_SITE_RESID_POST),
    };
    const prompt *p = &f->prompts[0];
    int64_t d = f->width;
    ca_pass *pass = run_model(f, batch_of_prompts(f, 0, 1, READ_LAST), kept, hooks, 3);
    ca_tensor cotangent = random_tensor(f, 3, (int64_t[]){1, 1, f->vocab}, "d");
    const double *g = gradient_of(f, pass, (ca_backward){.lanes = 1, .d_logits = cotangent});
    for (int64_t i = 0; i < (p->count - 1) * d; i++) assert_true(g[i] == 0);
    same_bits(f, "gradient", g, last.gradient[f->layers], p->count * d);
}

static void test_rewritten_gradients(void **state) {
    (void)state;
    on_every_backend(some_fixtures, rewritten_gradients);
}

/* d x [T, D] += of one head's share of q, k or v: its rows of W_qkv, then the norm. */
static void add_head(fixture *f, ca_pass *pass, int64_t layer, ca_tensor sum, ca_tensor d_head,
                     int64_t row) {
    const ca_layer *w = &f->model->layers[layer];
    int64_t rows = sum.shape[0], dh = d_head.shape[1];
    ca_tensor through = tensor_of(f, 2, (int64_t[]){rows, f->width}, numbers(f, rows * f->width));
    ok(ca_linear_bwd(f->backend, through, d_head, ca_tensor_slice(w->qkv_weight, 0, row * dh, dh)));
    ok(ca_norm_bwd(f->backend, sum, through, ca_pass_resid(pass, layer), w->norm1_gain,
                   f->model->arch.norm, true));
}

/* The gradients of q, k and v, taken per head and led back through the norm, add up to what
 * attention adds to the gradient of the residual stream: resid_pre - resid_mid. */
static void heads_add_up(fixture *f) {
    enum { Q, K, V, PRE, MID, N };
    static const ca_site_kind kinds[N] = {CA_SITE_Q, CA_SITE_K, CA_SITE_V, CA_SITE_RESID_PRE,
                                          CA_SITE_RESID_MID};
    const ca_arch *a = &f->model->arch;
    tap taps[N];
    ca_hook hooks[N];
    for (int i = 0; i < N; i++) hooks[i] = tap_at(f, &taps[i], kinds[i]);
    ca_batch *batch = batch_of_prompts(f, 1, 1, READ_LAST);
    ca_pass *pass = run_model(f, batch, kept, hooks, N);
    ca_tensor cotangent = random_tensor(f, 3, (int64_t[]){1, 1, f->vocab}, "d");
    gradient_of(f, pass, (ca_backward){.lanes = 1, .d_logits = cotangent});
    int64_t rows = batch->sequences.rows, dh = a->head_dim;
    for (int64_t l = 0; l < f->layers; l++) {
        ca_tensor sum = tensor_of(f, 2, (int64_t[]){rows, f->width}, numbers(f, rows * f->width));
        for (int64_t part = Q, at = 0; part <= V; part++) {
            int64_t heads = ca_site_heads(a, kinds[part]);
            const double *g = taps[part].gradient[l + 1]; /* [T, heads, Dh] */
            for (int64_t h = 0; h < heads; h++, at++) {
                double *head = numbers(f, rows * dh);
                for (int64_t t = 0; t < rows; t++)
                    memcpy(head + t * dh, g + (t * heads + h) * dh, (size_t)dh * sizeof *head);
                add_head(f, pass, l, sum, tensor_of(f, 2, (int64_t[]){rows, dh}, head), at);
            }
        }
        double *expected = numbers(f, rows * f->width);
        for (int64_t i = 0; i < rows * f->width; i++)
            expected[i] = taps[PRE].gradient[l + 1][i] - taps[MID].gradient[l + 1][i];
        near(f, "per-head gradients", values_of(f, sum), expected, rows * f->width,
             f->exact ? 1e-11 : 3e-4);
    }
}

static void test_per_head_gradients_add_up(void **state) {
    (void)state;
    on_every_backend(some_fixtures, heads_add_up);
}

/* Room for the patterns of short prompts is no limit for requests that do not ask for them. */
static void unused_room_for_patterns(fixture *f) {
    tap t;
    ca_hook hook = tap_at(f, &t, CA_SITE_PATTERN);
    ca_batch *small = batch_of_prompts(f, 0, 1, READ_LAST);
    ca_batch *large = batch_of_prompts(f, 2, 1, READ_LAST);
    ca_pass_limits limits = kept;
    ca_pass_limits_add_hooks(&limits, &hook, 1);
    limits.rows = large->sequences.rows;
    limits.reads = 1;
    limits.logits = true;
    limits.pattern = small->sequences.pattern_start[1];
    ca_pass *pass;
    ok(ca_pass_create(f->model, &limits, &pass));
    ca_forward with = ca_forward_all(f->model, small), without = ca_forward_all(f->model, large);
    with.hooks = &hook;
    with.hook_count = 1;
    ok(ca_pass_forward(pass, &with));
    ok(ca_pass_forward(pass, &without));
    ca_tensor cotangent = random_tensor(f, 3, (int64_t[]){1, 1, f->vocab}, "d");
    ca_backward request = {.lanes = 1, .d_logits = cotangent};
    same_bits(f, "gradient", gradient_of(f, pass, request),
              gradient_of(f, run_model(f, large, kept, NULL, 0), request),
              large->sequences.rows * f->width);
    ca_pass_free(pass);
}

static void test_unused_room_for_patterns(void **state) {
    (void)state;
    on_every_backend(some_fixtures, unused_room_for_patterns);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_branches_join_the_stream),
        cmocka_unit_test(test_taps_see_the_run),
        cmocka_unit_test(test_called_once_per_layer),
        cmocka_unit_test(test_order_of_hooks),
        cmocka_unit_test(test_patch_nothing),
        cmocka_unit_test(test_patch_everything),
        cmocka_unit_test(test_ablate_all_heads),
        cmocka_unit_test(test_head_at_z_and_result),
        cmocka_unit_test(test_rewritten_gradients),
        cmocka_unit_test(test_per_head_gradients_add_up),
        cmocka_unit_test(test_unused_room_for_patterns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
