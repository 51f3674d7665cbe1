/* SPDX-License-Identifier: MIT
 *
 * Gradients at every site against finite differences: an edit adds epsilon times a random
 * direction to the values of one site at one layer, and the slope of the outcome must be the
 * scalar product of that direction with the gradient which the same hook is given.
 */
#include "executor.h"

#include <math.h>
#include <string.h>

enum { LENGTH = 11 }; /* more than the window of the fixture that has one */

/* Random weights on all logits, or on all values after the final norm, so that every row takes
 * part. */
typedef struct problem {
    fixture *f;
    ca_batch *batch;
    ca_head head;
    int64_t width;         /* V, or D */
    const double *weights; /* [n, width] */
} problem;

static problem make_problem_at(fixture *f, ca_head head) {
    const sequence sequences[] = {{f->prompts[2].ids, LENGTH, 0, 0}, {f->prompts[0].ids, 5, 0, 0}};
    problem p = {.f = f, .batch = batch_of(f, sequences, 2, READ_ALL), .head = head};
    p.width = head == CA_HEAD_NORM ? f->width : f->vocab;
    p.weights = values_of(f, random_tensor(f, 2, (int64_t[]){p.batch->reads, p.width}, "weights"));
    return p;
}

static problem make_problem(fixture *f) { return make_problem_at(f, CA_HEAD_LOGITS); }

/* New for every backward, which may overwrite it. */
static ca_backward from_weights(const problem *p) {
    int64_t shape[] = {1, p->batch->reads, p->width};
    ca_tensor weights = tensor_of(p->f, 3, shape, p->weights);
    return p->head == CA_HEAD_NORM ? (ca_backward){.lanes = 1, .d_final_norm = weights}
                                   : (ca_backward){.lanes = 1, .d_logits = weights};
}

static double outcome(problem *p, ca_pass *pass, const ca_hook *hooks, int64_t count) {
    ca_forward request = ca_forward_all(p->f->model, p->batch);
    request.head = p->head;
    request.hooks = hooks;
    request.hook_count = count;
    ok(ca_pass_forward(pass, &request));
    const double *values =
        values_of(p->f, p->head == CA_HEAD_NORM ? ca_pass_final_norm(pass) : ca_pass_logits(pass));
    double sum = 0;
    for (int64_t i = 0; i < p->batch->reads * p->width; i++) sum += p->weights[i] * values[i];
    return sum;
}

/* How strong the edit is around which the difference is taken: one that a recomputation, or a
 * backward that reads what the forward left, must not forget. */
static const double EDIT = 0.25;

/* Fourth-order central difference. The outcome is of order 1 to 1000 and its fifth derivative of
 * the same order or some hundred times more, so steps of 1e-4 are off by 1e-16 to 1e-13 (formula)
 * and 1e-10 (rounding); slopes are of order 1 to 1000. A wrong term shows at 1e-2. */
static double difference(problem *p, ca_pass *pass, const ca_hook *hooks, int64_t count, nudge *n) {
    const double h = 1e-4;
    const double weights[] = {1, -8, 8, -1}, steps[] = {-2 * h, -h, h, 2 * h};
    double sum = 0;
    for (int i = 0; i < 4; i++) {
        n->epsilon = EDIT + steps[i];
        sum += weights[i] * outcome(p, pass, hooks, count);
    }
    n->epsilon = EDIT;
    return sum / (12 * h);
}

/* The slope along the first hook, which is `n`, in a run with all hooks. */
static void check_slope(problem *p, const ca_hook *hooks, int64_t count, nudge *n, bool keep) {
    char name[CA_SITE_NAME_MAX];
    ca_site site = {hooks->site, ca_site_in_block(hooks->site) ? hooks->first_layer : -1, -1};
    ca_pass *pass =
        pass_for(p->f, p->batch, (ca_pass_limits){.lanes = 1, .keep = keep}, hooks, count);
    double expected = difference(p, pass, hooks, count, n);
    outcome(p, pass, hooks, count);
    gradient_of(p->f, pass, from_weights(p));
    if (!(n->size > 0 && fabs(n->slope - expected) <= 1e-6 * n->size))
        fail_msg("%s, %d hooks: %s: expected slope %.12g within %.3g, got %.12g", p->f->name,
                 (int)count, ca_site_name(site, name), expected, 1e-6 * n->size, n->slope);
}

static void every_site(fixture *f) {
    problem p = make_problem(f);
    for (ca_site_kind kind = 0; kind < CA_SITE_COUNT; kind++) {
        if (kind == CA_SITE_RESID_MID && f->model->arch.parallel) continue; /* there is none */
        for (int64_t l = 0; l < (ca_site_in_block(kind) ? f->layers : 1); l++)
            for (int keep = 0; keep < 2; keep++) {
                nudge n;
                ca_hook hook = nudge_at(f, &n, kind, l);
                check_slope(&p, &hook, 1, &n, keep);
            }
    }
}

/* The slope at the embeddings while every site above is edited. */
static void edits_everywhere(fixture *f) {
    problem p = make_problem(f);
    nudge nudges[CA_SITE_COUNT];
    ca_hook hooks[CA_SITE_COUNT];
    int64_t count = 0;
    for (ca_site_kind kind = CA_SITE_EMBED; kind < CA_SITE_COUNT; kind++) {
        if (kind == CA_SITE_RESID_MID && f->model->arch.parallel) continue;
        hooks[count] = nudge_at(f, &nudges[count], kind, 0);
        hooks[count].last_layer = f->layers - 1;
        nudges[count++].epsilon = EDIT;
    }
    for (int keep = 0; keep < 2; keep++) check_slope(&p, hooks, count, nudges, keep);
}

/* The product of a cotangent after the final norm with the Jacobian, the one that every scope is
 * made of, at the first and at the last site that it passes. */
static void from_final_norm(fixture *f) {
    problem p = make_problem_at(f, CA_HEAD_NORM);
    for (int keep = 0; keep < 2; keep++) {
        nudge embed, norm;
        ca_hook at_embed = nudge_at(f, &embed, CA_SITE_EMBED, -1);
        ca_hook at_norm = nudge_at(f, &norm, CA_SITE_FINAL_NORM, -1);
        check_slope(&p, &at_embed, 1, &embed, keep);
        check_slope(&p, &at_norm, 1, &norm, keep);
    }
}

static void test_from_final_norm(void **state) {
    (void)state;
    on_fixtures(every_fixture, "ref", from_final_norm);
}

static void test_every_site(void **state) {
    (void)state;
    on_fixtures(some_fixtures, "ref", every_site);
}

static void test_edits_everywhere(void **state) {
    (void)state;
    on_fixtures(some_fixtures, "ref", edits_everywhere);
}

/* ---- what no fixture has: blocks of other families, made from the weights of one that is there */

static void parallel(ca_model *m) { m->arch.parallel = true; }

static void post_norm(ca_model *m) {
    m->arch.post_norm = true;
    for (int64_t l = 0; l < m->arch.layers; l++) {
        ca_layer *w = &m->layers[l];
        w->post_norm1_gain = w->norm2_gain, w->post_norm1_bias = w->norm2_bias;
        w->post_norm2_gain = w->norm1_gain, w->post_norm2_bias = w->norm1_bias;
    }
}

static void only_post_norm(ca_model *m) {
    post_norm(m);
    m->arch.pre_norm = false;
}

static void capped(ca_model *m) {
    m->arch.score_soft_cap = 1.5;
    m->arch.logit_soft_cap = 3;
    m->arch.embed_scale = 1.7;
}

/* Of this fixture H Dh == K Dh == D, so gains of D values fit. */
static void full_qk_norm(ca_model *m) {
    m->arch.qk_norm = CA_QK_NORM_FULL;
    for (int64_t l = 0; l < m->arch.layers; l++) {
        m->layers[l].q_norm_gain = m->layers[l].norm1_gain;
        m->layers[l].k_norm_gain = m->layers[l].norm2_gain;
    }
}

/* A forward alone updates the residual stream in place. */
static void check_in_place(fixture *f) {
    problem p = make_problem(f);
    ca_pass *plain = run_model(f, p.batch, (ca_pass_limits){0}, NULL, 0);
    ca_pass *lanes = run_model(f, p.batch, (ca_pass_limits){.lanes = 1}, NULL, 0);
    same_bits(f, "in place", values_of(f, ca_pass_logits(plain)),
              values_of(f, ca_pass_logits(lanes)), p.batch->reads * f->vocab);
}

static void test_other_blocks(void **state) {
    (void)state;
    static const struct {
        const char *fixture;
        void (*change)(ca_model *m);
    } blocks[] = {{"gpt2-inner", parallel},   {"llama3-gqa-new", parallel},
                  {"gpt2-inner", post_norm},  {"llama3-gqa-new", only_post_norm},
                  {"llama3-gqa-new", capped}, {"gpt2-inner", full_qk_norm}};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) {
        fixture f;
        fixture_open(&f, blocks[i].fixture, "ref");
        blocks[i].change(f.model);
        every_site(&f);
        edits_everywhere(&f);
        from_final_norm(&f);
        check_in_place(&f);
        fixture_close(&f);
    }
}

/* The gradient that a backward returns for the embeddings is that of the site `embed`. */
static void returned_gradient(fixture *f) {
    problem p = make_problem(f);
    nudge n;
    ca_hook hook = nudge_at(f, &n, CA_SITE_EMBED, -1);
    tap t;
    ca_hook hooks[] = {hook, tap_at(f, &t, CA_SITE_EMBED)};
    ca_pass *pass = run_model(f, p.batch, (ca_pass_limits){.lanes = 1, .keep = true}, hooks, 2);
    const double *g = gradient_of(f, pass, from_weights(&p));
    same_bits(f, "gradient", g, t.gradient[0], p.batch->sequences.rows * f->width);
}

static void test_returned_gradient(void **state) {
    (void)state;
    on_fixtures(some_fixtures, "ref", returned_gradient);
}

/* ---- keys and values per query head */

/* The model with key and value heads repeated for every query head of their group. */
static void ungroup(fixture *f) {
    ca_model *m = f->model;
    int64_t group = m->arch.heads / m->arch.kv_heads, q = m->arch.heads * m->arch.head_dim;
    for (int64_t l = 0; l < f->layers; l++) {
        ca_layer *w = &m->layers[l];
        bool biased = w->qkv_bias.data != NULL;
        const double *from = values_of(f, w->qkv_weight), *bias = NULL;
        double *to = numbers(f, 3 * q * f->width), *to_bias = numbers(f, 3 * q);
        if (biased) bias = values_of(f, w->qkv_bias);
        for (int64_t r = 0; r < 3 * q; r++) {
            int64_t head = (r % q) / m->arch.head_dim, in_head = r % m->arch.head_dim;
            int64_t kv = (r / q - 1) * m->arch.kv_heads + head / group;
            int64_t row = r < q ? r : q + kv * m->arch.head_dim + in_head;
            memcpy(to + r * f->width, from + row * f->width, (size_t)f->width * sizeof *to);
            if (biased) to_bias[r] = bias[row];
        }
        w->qkv_weight = tensor_of(f, 2, (int64_t[]){3 * q, f->width}, to);
        if (biased) w->qkv_bias = tensor_of(f, 1, (int64_t[]){3 * q}, to_bias);
    }
    m->arch.kv_heads = m->arch.heads;
}

/* Each query head's share of the gradient is the gradient of the ungrouped model. */
static void shares(fixture *f) {
    fixture apart;
    tap share[2], whole[2], expected[2];
    ca_site_kind sites[] = {CA_SITE_K, CA_SITE_V};
    ca_hook hooks[4], plain[2];
    fixture_open(&apart, f->name, "ref");
    ungroup(&apart);
    for (int i = 0; i < 2; i++) {
        hooks[i] = tap_at(f, &share[i], sites[i]);
        hooks[i].per_query_head = true;
        hooks[i].forward = NULL;
        hooks[2 + i] = tap_at(f, &whole[i], sites[i]);
        plain[i] = tap_at(&apart, &expected[i], sites[i]);
    }
    for (int keep = 0; keep < 2; keep++) {
        problem p = make_problem(f), q = make_problem(&apart);
        ca_pass_limits limits = {.lanes = 1, .keep = keep};
        double *g = gradient_of(f, run_model(f, p.batch, limits, hooks, 4), from_weights(&p));
        double *e =
            gradient_of(&apart, run_model(&apart, q.batch, limits, plain, 2), from_weights(&q));
        int64_t rows = p.batch->sequences.rows, n = f->model->arch.heads * f->model->arch.head_dim;
        near(f, "embed", g, e, rows * f->width, 1e-12);
        for (int i = 0; i < 2; i++)
            for (int64_t l = 1; l <= f->layers; l++)
                near(f, ca_site_kind_name(sites[i]), share[i].gradient[l], expected[i].gradient[l],
                     rows * n, 1e-12);
    }
    fixture_close(&apart);
}

static void test_shares(void **state) {
    (void)state;
    on_fixtures(every_fixture, "ref", shares);
}

/* ---- every site on cpu: the same gradients as ref */

static void gradients_at_sites(fixture *f, tap *taps, ca_hook *hooks) {
    problem p = make_problem(f);
    for (int i = 0; i < CA_SITE_COUNT; i++) hooks[i] = tap_at(f, &taps[i], (ca_site_kind)i);
    ca_pass *pass =
        run_model(f, p.batch, (ca_pass_limits){.lanes = 1, .keep = true}, hooks, CA_SITE_COUNT);
    gradient_of(f, pass, from_weights(&p));
}

static void test_cpu_sees_what_ref_sees(void **state) {
    (void)state;
    for (const char *const *name = some_fixtures; *name; name++) {
        fixture ref, cpu;
        tap expected[CA_SITE_COUNT], got[CA_SITE_COUNT];
        ca_hook hooks[CA_SITE_COUNT];
        fixture_open(&ref, *name, "ref");
        fixture_open(&cpu, *name, "cpu");
        gradients_at_sites(&ref, expected, hooks);
        gradients_at_sites(&cpu, got, hooks);
        for (int i = 0; i < CA_SITE_COUNT; i++) {
            bool in_block = ca_site_in_block((ca_site_kind)i);
            for (int64_t l = in_block ? 1 : 0; l <= (in_block ? ref.layers : 0); l++) {
                const char *what = ca_site_kind_name((ca_site_kind)i);
                assert_int_equal(expected[i].count, got[i].count);
                near(&cpu, what, got[i].value[l], expected[i].value[l], got[i].count, 1e-4);
                near(&cpu, what, got[i].gradient[l], expected[i].gradient[l], got[i].count, 3e-4);
            }
        }
        fixture_close(&ref);
        fixture_close(&cpu);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_site),
        cmocka_unit_test(test_edits_everywhere),
        cmocka_unit_test(test_from_final_norm),
        cmocka_unit_test(test_other_blocks),
        cmocka_unit_test(test_returned_gradient),
        cmocka_unit_test(test_cpu_sees_what_ref_sees),
        cmocka_unit_test(test_shares),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
