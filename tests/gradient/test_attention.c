/* SPDX-License-Identifier: MIT
 *
 * Gradients of attention, fused and in two steps, and of interventions on its patterns; the
 * identities between the two ways, between grouped and per-query-head gradients, lanes and separate
 * calls, prefixes and whole sequences.
 */
#include "gradient.h"

#include <math.h>
#include <stdlib.h>

typedef struct form {
    const char *name;
    sequence_lengths lengths;
    ca_attention a;
} form;

static const form forms[] = {
    {"plain", {1, {5}, {0}}, {.heads = 2, .kv_heads = 2, .head_dim = 3, .scale = 0.6}},
    {"ragged", {3, {3, 1, 4}, {0}}, {.heads = 2, .kv_heads = 1, .head_dim = 4, .scale = 0.5}},
    {"grouped", {2, {3, 4}, {0}}, {.heads = 6, .kv_heads = 2, .head_dim = 3, .scale = 0.7}},
    {"window",
     {2, {6, 2}, {0}},
     {.heads = 2, .kv_heads = 1, .head_dim = 3, .scale = 0.6, .window = 3}},
    {"soft cap",
     {2, {5, 2}, {0}},
     {.heads = 2, .kv_heads = 1, .head_dim = 3, .scale = 0.9, .soft_cap = 1.2}},
    {"prefix", {3, {3, 1, 2}, {2, 4, 0}}, {.heads = 3, .kv_heads = 1, .head_dim = 3, .scale = 0.6}},
    {"everything",
     {2, {4, 3}, {3, 2}},
     {.heads = 4, .kv_heads = 2, .head_dim = 4, .scale = 0.8, .soft_cap = 1.5, .window = 4}},
};

enum { FORM_COUNT = sizeof forms / sizeof forms[0], PREFIX_VALUES = 512 };

/* What an attention call needs besides its own tensors. */
typedef struct setting {
    const form *f;
    sequence_memory memory;
    const ca_sequences *s;
    ca_tensor prefix_k, prefix_v;
    double prefix_k_values[PREFIX_VALUES], prefix_v_values[PREFIX_VALUES];
    int64_t rows, query_count, key_count, pattern_count;
} setting;

static void setting_fill(setting *x, const form *f) {
    *x = (setting){.f = f};
    x->s = gradient_sequences(&x->memory, &f->lengths);
    int64_t prefix = x->memory.arrays.total_prefix;
    assert_true(prefix * f->a.kv_heads * f->a.head_dim <= PREFIX_VALUES);
    gradient_draw(x->prefix_k_values, PREFIX_VALUES, "prefix k");
    gradient_draw(x->prefix_v_values, PREFIX_VALUES, "prefix v");
    if (prefix > 0) {
        x->prefix_k =
            ca_tensor_3d(x->prefix_k_values, CA_F64, prefix, f->a.kv_heads, f->a.head_dim);
        x->prefix_v =
            ca_tensor_3d(x->prefix_v_values, CA_F64, prefix, f->a.kv_heads, f->a.head_dim);
    }
    x->rows = x->s->rows;
    x->query_count = x->rows * f->a.heads * f->a.head_dim;
    x->key_count = x->rows * f->a.kv_heads * f->a.head_dim;
    x->pattern_count = f->a.heads * x->s->pattern_start[x->s->count];
}

static ca_tensor packed(ca_backend *be, const setting *x, double *values, int64_t heads) {
    return gradient_tensor(be, ca_tensor_3d(values, CA_F64, x->rows, heads, x->f->a.head_dim));
}

static ca_tensor lanes_of(ca_backend *be, const setting *x, double *values, int64_t lanes,
                          int64_t heads) {
    return gradient_tensor(be,
                           ca_tensor_4d(values, CA_F64, lanes, x->rows, heads, x->f->a.head_dim));
}

/* [T, H], or a lane of it */
static ca_tensor by_head(ca_backend *be, const setting *x, double *values, bool lane) {
    const int64_t heads = x->f->a.heads;
    return gradient_tensor(be, lane ? ca_tensor_3d(values, CA_F64, 1, x->rows, heads)
                                    : ca_tensor_2d(values, CA_F64, x->rows, heads));
}

/* Probabilities, or lanes of them */
static ca_tensor flat(ca_backend *be, const setting *x, double *pattern) {
    return gradient_tensor(be, ca_tensor_1d(pattern, CA_F64, x->pattern_count));
}

static ca_tensor flat_lanes(ca_backend *be, const setting *x, double *pattern, int64_t lanes) {
    return gradient_tensor(be, ca_tensor_2d(pattern, CA_F64, lanes, x->pattern_count));
}

/* ---- both paths on plain arrays; `heads` is that of dk and dv */

static void fused_fwd(ca_backend *be, const setting *x, double *o, double *lse, double *q,
                      double *k, double *v) {
    ca_attention a = x->f->a;
    gradient_ok(ca_attention_fwd(be, packed(be, x, o, a.heads), by_head(be, x, lse, false),
                                 packed(be, x, q, a.heads), packed(be, x, k, a.kv_heads),
                                 packed(be, x, v, a.kv_heads), gradient_tensor(be, x->prefix_k),
                                 gradient_tensor(be, x->prefix_v), gradient_sequences_on(be, x->s),
                                 a));
}

static void fused_bwd(ca_backend *be, const setting *x, int64_t lanes, int64_t heads, double *dq,
                      double *dk, double *dv, double *d_o, double *q, double *k, double *v) {
    ca_attention a = x->f->a;
    double *o = gradient_numbers(x->query_count, "o");
    double *lse = gradient_numbers(x->rows * a.heads, "lse");
    fused_fwd(be, x, o, lse, q, k, v);
    gradient_ok(
        ca_attention_bwd(be, lanes_of(be, x, dq, lanes, a.heads), lanes_of(be, x, dk, lanes, heads),
                         lanes_of(be, x, dv, lanes, heads), lanes_of(be, x, d_o, lanes, a.heads),
                         packed(be, x, o, a.heads), by_head(be, x, lse, false),
                         packed(be, x, q, a.heads), packed(be, x, k, a.kv_heads),
                         packed(be, x, v, a.kv_heads), gradient_tensor(be, x->prefix_k),
                         gradient_tensor(be, x->prefix_v), gradient_sequences_on(be, x->s), a));
    free(o), free(lse);
}

static void steps_fwd(ca_backend *be, const setting *x, double *o, double *pattern, double *q,
                      double *k, double *v) {
    ca_attention a = x->f->a;
    gradient_ok(ca_pattern_fwd(be, flat(be, x, pattern), packed(be, x, q, a.heads),
                               packed(be, x, k, a.kv_heads), gradient_tensor(be, x->prefix_k),
                               gradient_sequences_on(be, x->s), a));
    gradient_ok(ca_pattern_apply_fwd(be, packed(be, x, o, a.heads), flat(be, x, pattern),
                                     packed(be, x, v, a.kv_heads), gradient_tensor(be, x->prefix_v),
                                     gradient_sequences_on(be, x->s), a));
}

static void steps_bwd(ca_backend *be, const setting *x, int64_t lanes, int64_t heads, double *dq,
                      double *dk, double *dv, double *d_o, double *q, double *k, double *v) {
    ca_attention a = x->f->a;
    double *o = gradient_numbers(x->query_count, "o");
    double *pattern = gradient_numbers(x->pattern_count, "pattern");
    double *d_pattern = gradient_numbers(lanes * x->pattern_count, "d_pattern");
    steps_fwd(be, x, o, pattern, q, k, v);
    gradient_ok(ca_pattern_apply_bwd(
        be, flat_lanes(be, x, d_pattern, lanes), lanes_of(be, x, dv, lanes, heads),
        lanes_of(be, x, d_o, lanes, a.heads), flat(be, x, pattern), packed(be, x, v, a.kv_heads),
        gradient_tensor(be, x->prefix_v), gradient_sequences_on(be, x->s), a));
    gradient_ok(
        ca_pattern_bwd(be, lanes_of(be, x, dq, lanes, a.heads), lanes_of(be, x, dk, lanes, heads),
                       flat_lanes(be, x, d_pattern, lanes), flat(be, x, pattern),
                       packed(be, x, q, a.heads), packed(be, x, k, a.kv_heads),
                       gradient_tensor(be, x->prefix_k), gradient_sequences_on(be, x->s), a));
    free(o), free(pattern), free(d_pattern);
}

/* ---- central differences */

static void fused_forward(problem *p) {
    const setting *x = p->parameters;
    double *lse = gradient_numbers(x->rows * x->f->a.heads, "lse");
    fused_fwd(p->be, x, p->output.x, lse, p->inputs[0].x, p->inputs[1].x, p->inputs[2].x);
    free(lse);
}

static void steps_forward(problem *p) {
    const setting *x = p->parameters;
    double *pattern = gradient_numbers(x->pattern_count, "pattern");
    steps_fwd(p->be, x, p->output.x, pattern, p->inputs[0].x, p->inputs[1].x, p->inputs[2].x);
    free(pattern);
}

static void fused_backward(problem *p) {
    const setting *x = p->parameters;
    vector *in = p->inputs;
    fused_bwd(p->be, x, 1, x->f->a.kv_heads, in[0].dx, in[1].dx, in[2].dx, p->output.dx, in[0].x,
              in[1].x, in[2].x);
}

static void steps_backward(problem *p) {
    const setting *x = p->parameters;
    vector *in = p->inputs;
    steps_bwd(p->be, x, 1, x->f->a.kv_heads, in[0].dx, in[1].dx, in[2].dx, p->output.dx, in[0].x,
              in[1].x, in[2].x);
}

static void check_path(void (*forward)(problem *), void (*backward)(problem *)) {
    for (int i = 0; i < FORM_COUNT; i++) {
        setting x;
        setting_fill(&x, &forms[i]);
        problem p = {.name = forms[i].name,
                     .forward = forward,
                     .backward = backward,
                     .parameters = &x,
                     .input_counts = {x.query_count, x.key_count, x.key_count},
                     .output_count = x.query_count};
        gradient_check(&p);
    }
}

static void test_fused(void **state) {
    (void)state;
    check_path(fused_forward, fused_backward);
}

static void test_two_steps(void **state) {
    (void)state;
    check_path(steps_forward, steps_backward);
}

/* ---- interventions on patterns: x, source and mask are the inputs */

static void mix_forward(problem *p) {
    ca_backend *be = p->be;
    const setting *x = p->parameters;
    gradient_ok(ca_pattern_mix_fwd(
        be, flat(be, x, p->output.x), flat(be, x, p->inputs[0].x), flat(be, x, p->inputs[1].x),
        by_head(be, x, p->inputs[2].x, false), gradient_sequences_on(be, x->s), x->f->a));
}

static void mix_backward(problem *p) {
    ca_backend *be = p->be;
    const setting *x = p->parameters;
    vector *in = p->inputs;
    gradient_ok(ca_pattern_mix_bwd(be, flat_lanes(be, x, in[0].dx, 1),
                                   flat_lanes(be, x, in[1].dx, 1), by_head(be, x, in[2].dx, true),
                                   flat_lanes(be, x, p->output.dx, 1), flat(be, x, in[0].x),
                                   flat(be, x, in[1].x), by_head(be, x, in[2].x, false),
                                   gradient_sequences_on(be, x->s), x->f->a, false));
}

static void test_mix(void **state) {
    (void)state;
    for (int i = 0; i < FORM_COUNT; i++) {
        setting x;
        setting_fill(&x, &forms[i]);
        problem p = {.name = forms[i].name,
                     .forward = mix_forward,
                     .backward = mix_backward,
                     .parameters = &x,
                     .input_counts = {x.pattern_count, x.pattern_count, x.rows * forms[i].a.heads},
                     .output_count = x.pattern_count};
        gradient_check(&p);
    }
}

/* ---- identities */

/* Sums in another order: a few roundings of doubles of order 1 to 10. */
static void assert_near(const char *form_name, const char *what, const double *a, const double *b,
                        int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (!(fabs(a[i] - b[i]) <= 1e-13 * fmax(1, fabs(b[i]))))
            fail_msg("%s: %s[%lld]: expected %.17g, got %.17g", form_name, what, (long long)i, b[i],
                     a[i]);
}

/* Inputs, R cotangents, and gradients of the two ways that are compared. */
enum { LANES = 3 };
typedef struct arrays {
    double *q, *k, *v, *d_o;
    double *dq, *dk, *dv, *dq2, *dk2, *dv2;
} arrays;

static arrays arrays_make(const setting *x) {
    int64_t n = LANES * x->query_count; /* no gradient is larger */
    return (arrays){
        .q = gradient_numbers(x->query_count, "q"),
        .k = gradient_numbers(x->key_count, "k"),
        .v = gradient_numbers(x->key_count, "v"),
        .d_o = gradient_numbers(n, "d_o"),
        .dq = gradient_numbers(n, "unset"),
        .dk = gradient_numbers(n, "unset"),
        .dv = gradient_numbers(n, "unset"),
        .dq2 = gradient_numbers(n, "unset too"),
        .dk2 = gradient_numbers(n, "unset too"),
        .dv2 = gradient_numbers(n, "unset too"),
    };
}

static void arrays_free(arrays *m) {
    free(m->q), free(m->k), free(m->v), free(m->d_o);
    free(m->dq), free(m->dk), free(m->dv), free(m->dq2), free(m->dk2), free(m->dv2);
}

typedef void (*identity)(ca_backend *be, const setting *x, arrays *m);

static void check_identity(identity check) {
    ca_backend *be = gradient_backend();
    for (int i = 0; i < FORM_COUNT; i++) {
        setting x;
        setting_fill(&x, &forms[i]);
        arrays m = arrays_make(&x);
        check(be, &x, &m);
        arrays_free(&m);
    }
    ca_backend_close(be);
}

static void fused_is_two_steps(ca_backend *be, const setting *x, arrays *m) {
    const char *name = x->f->name;
    double *lse = gradient_numbers(x->rows * x->f->a.heads, "lse");
    double *pattern = gradient_numbers(x->pattern_count, "pattern");
    fused_fwd(be, x, m->dq, lse, m->q, m->k, m->v);
    steps_fwd(be, x, m->dq2, pattern, m->q, m->k, m->v);
    assert_near(name, "o", m->dq, m->dq2, x->query_count);
    free(lse), free(pattern);

    int64_t heads[] = {x->f->a.kv_heads, x->f->a.heads};
    for (int i = 0; i < 2; i++) {
        int64_t count = LANES * x->rows * heads[i] * x->f->a.head_dim;
        fused_bwd(be, x, LANES, heads[i], m->dq, m->dk, m->dv, m->d_o, m->q, m->k, m->v);
        steps_bwd(be, x, LANES, heads[i], m->dq2, m->dk2, m->dv2, m->d_o, m->q, m->k, m->v);
        assert_near(name, "dq", m->dq, m->dq2, LANES * x->query_count);
        assert_near(name, "dk", m->dk, m->dk2, count);
        assert_near(name, "dv", m->dv, m->dv2, count);
    }
}

/* sum [R T, K, Dh] of a per-query-head gradient [R T, K, H / K, Dh], in place */
static void sum_groups(const setting *x, double *d) {
    int64_t group = x->f->a.heads / x->f->a.kv_heads, e = x->f->a.head_dim;
    for (int64_t target = 0; target < LANES * x->rows * x->f->a.kv_heads; target++)
        for (int64_t i = 0; i < e; i++) {
            double sum = 0;
            for (int64_t g = 0; g < group; g++) sum += d[(target * group + g) * e + i];
            d[target * e + i] = sum;
        }
}

static void shares_sum_to_grouped(ca_backend *be, const setting *x, arrays *m) {
    ca_attention a = x->f->a;
    fused_bwd(be, x, LANES, a.kv_heads, m->dq, m->dk, m->dv, m->d_o, m->q, m->k, m->v);
    fused_bwd(be, x, LANES, a.heads, m->dq2, m->dk2, m->dv2, m->d_o, m->q, m->k, m->v);
    sum_groups(x, m->dk2);
    sum_groups(x, m->dv2);
    assert_near(x->f->name, "dq", m->dq2, m->dq, LANES * x->query_count);
    assert_near(x->f->name, "dk", m->dk2, m->dk, LANES * x->key_count);
    assert_near(x->f->name, "dv", m->dv2, m->dv, LANES * x->key_count);
}

/* Bit for bit: on `ref` a lane does not know of the others. */
static void lanes_are_calls(ca_backend *be, const setting *x, arrays *m) {
    int64_t nq = x->query_count, nk = x->key_count, heads = x->f->a.kv_heads;
    fused_bwd(be, x, LANES, heads, m->dq, m->dk, m->dv, m->d_o, m->q, m->k, m->v);
    for (int64_t r = 0; r < LANES; r++)
        fused_bwd(be, x, 1, heads, m->dq2 + r * nq, m->dk2 + r * nk, m->dv2 + r * nk,
                  m->d_o + r * nq, m->q, m->k, m->v);
    assert_memory_equal(m->dq, m->dq2, (size_t)(LANES * nq) * sizeof(double));
    assert_memory_equal(m->dk, m->dk2, (size_t)(LANES * nk) * sizeof(double));
    assert_memory_equal(m->dv, m->dv2, (size_t)(LANES * nk) * sizeof(double));
}

static void test_fused_is_two_steps(void **state) {
    (void)state;
    check_identity(fused_is_two_steps);
}

static void test_shares_sum_to_grouped(void **state) {
    (void)state;
    check_identity(shares_sum_to_grouped);
}

static void test_lanes_are_calls(void **state) {
    (void)state;
    check_identity(lanes_are_calls);
}

/* The rows behind a prefix are the last rows of the whole sequence, bit for bit. */
static void test_prefix_is_head_of_sequence(void **state) {
    (void)state;
    enum { PREFIX = 3, OWN = 4, HEADS = 4, KV_HEADS = 2, WIDTH = 3 };
    const ca_attention a = {.heads = HEADS,
                            .kv_heads = KV_HEADS,
                            .head_dim = WIDTH,
                            .scale = 0.7,
                            .soft_cap = 2,
                            .window = 5};
    const form whole = {"whole", {1, {PREFIX + OWN}, {0}}, a},
               tail = {"tail", {1, {OWN}, {PREFIX}}, a};
    ca_backend *be = gradient_backend();
    setting x, y;
    setting_fill(&x, &whole);
    setting_fill(&y, &tail);
    arrays m = arrays_make(&x);
    double lse[(PREFIX + OWN) * HEADS], tail_lse[OWN * HEADS];
    fused_fwd(be, &x, m.dq, lse, m.q, m.k, m.v);
    /* Prefix row 0 belongs to nobody, see sequences.h. */
    for (int64_t i = 0; i < PREFIX * KV_HEADS * WIDTH; i++) {
        y.prefix_k_values[KV_HEADS * WIDTH + i] = m.k[i];
        y.prefix_v_values[KV_HEADS * WIDTH + i] = m.v[i];
    }
    int64_t skip_q = PREFIX * HEADS * WIDTH, skip_k = PREFIX * KV_HEADS * WIDTH;
    fused_fwd(be, &y, m.dq2, tail_lse, m.q + skip_q, m.k + skip_k, m.v + skip_k);
    assert_memory_equal(m.dq2, m.dq + skip_q, (size_t)y.query_count * sizeof(double));
    assert_memory_equal(tail_lse, lse + PREFIX * HEADS, sizeof tail_lse);
    arrays_free(&m);
    ca_backend_close(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fused),
        cmocka_unit_test(test_two_steps),
        cmocka_unit_test(test_mix),
        cmocka_unit_test(test_fused_is_two_steps),
        cmocka_unit_test(test_shares_sum_to_grouped),
        cmocka_unit_test(test_lanes_are_calls),
        cmocka_unit_test(test_prefix_is_head_of_sequence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
