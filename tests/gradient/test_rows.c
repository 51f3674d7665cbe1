/* SPDX-License-Identifier: MIT
 *
 * Gradients of norms, activations, soft cap, linear maps, rows, rotary positions, interventions and
 * cross entropy.
 */
#include "gradient.h"

#include <string.h>

enum { ROWS = 3, WIDTH = 7, OUT = 5 };

static ca_tensor absent;

static ca_tensor matrix(ca_backend *be, double *x, int64_t rows, int64_t columns) {
    return gradient_tensor(be, ca_tensor_2d(x, CA_F64, rows, columns));
}

static ca_tensor list(ca_backend *be, void *x, ca_dtype dtype, int64_t count) {
    return gradient_tensor(be, ca_tensor_1d(x, dtype, count));
}

/* ---- norm */

static double gain_values[WIDTH];

static ca_tensor gain(ca_backend *be) {
    gradient_draw(gain_values, WIDTH, "gain");
    return list(be, gain_values, CA_F64, WIDTH);
}

static void norm_forward(problem *p) {
    gradient_ok(ca_norm_fwd(p->be, matrix(p->be, p->output.x, ROWS, WIDTH),
                            matrix(p->be, p->inputs[0].x, ROWS, WIDTH), gain(p->be), absent,
                            *(const ca_norm *)p->parameters));
}

static void norm_backward(problem *p) {
    gradient_ok(ca_norm_bwd(p->be, matrix(p->be, p->inputs[0].dx, ROWS, WIDTH),
                            matrix(p->be, p->output.dx, ROWS, WIDTH),
                            matrix(p->be, p->inputs[0].x, ROWS, WIDTH), gain(p->be),
                            *(const ca_norm *)p->parameters, false));
}

static void test_norm(void **state) {
    (void)state;
    static const ca_norm norms[] = {{CA_NORM_RMS, 1e-5, 0},
                                    {CA_NORM_RMS, 0.5, 1},
                                    {CA_NORM_LAYER, 1e-5, 0},
                                    {CA_NORM_LAYER, 0.5, 1}};
    for (size_t i = 0; i < sizeof norms / sizeof norms[0]; i++) {
        problem p = {.name = norms[i].kind == CA_NORM_RMS ? "RMS norm" : "layer norm",
                     .forward = norm_forward,
                     .backward = norm_backward,
                     .parameters = &norms[i],
                     .input_counts = {ROWS * WIDTH},
                     .output_count = ROWS * WIDTH};
        gradient_check(&p);
    }
}

/* ---- activations */

typedef struct act_form {
    const char *name;
    ca_activation kind;
    bool gated;
} act_form;

static void act_forward(problem *p) {
    const act_form *form = p->parameters;
    gradient_ok(ca_act_fwd(p->be, matrix(p->be, p->output.x, ROWS, WIDTH),
                           matrix(p->be, p->inputs[0].x, ROWS, form->gated ? 2 * WIDTH : WIDTH),
                           form->kind, form->gated));
}

static void act_backward(problem *p) {
    const act_form *form = p->parameters;
    int64_t width = form->gated ? 2 * WIDTH : WIDTH;
    gradient_ok(ca_act_bwd(p->be, matrix(p->be, p->inputs[0].dx, ROWS, width),
                           matrix(p->be, p->output.dx, ROWS, WIDTH),
                           matrix(p->be, p->inputs[0].x, ROWS, width), form->kind, form->gated));
}

static void test_act(void **state) {
    (void)state;
    static const act_form forms[] = {
        {"gelu", CA_GELU, false},           {"gated gelu", CA_GELU, true},
        {"tanh gelu", CA_GELU_TANH, false}, {"gated tanh gelu", CA_GELU_TANH, true},
        {"silu", CA_SILU, false},           {"gated silu", CA_SILU, true},
        {"relu", CA_RELU, false},           {"gated relu", CA_RELU, true},
    };
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        problem p = {.name = forms[i].name,
                     .forward = act_forward,
                     .backward = act_backward,
                     .parameters = &forms[i],
                     .input_counts = {ROWS * (forms[i].gated ? 2 * WIDTH : WIDTH)},
                     .output_count = ROWS * WIDTH};
        gradient_check(&p);
    }
}

/* ---- soft cap */

static const double cap = 0.8;

static void soft_cap_forward(problem *p) {
    gradient_ok(ca_soft_cap_fwd(p->be, matrix(p->be, p->output.x, ROWS, WIDTH),
                                matrix(p->be, p->inputs[0].x, ROWS, WIDTH), cap));
}

static void soft_cap_backward(problem *p) {
    gradient_ok(ca_soft_cap_bwd(p->be, matrix(p->be, p->inputs[0].dx, ROWS, WIDTH),
                                matrix(p->be, p->output.dx, ROWS, WIDTH),
                                matrix(p->be, p->output.x, ROWS, WIDTH), cap));
}

static void test_soft_cap(void **state) {
    (void)state;
    problem p = {.name = "soft cap",
                 .forward = soft_cap_forward,
                 .backward = soft_cap_backward,
                 .input_counts = {ROWS * WIDTH},
                 .output_count = ROWS * WIDTH};
    gradient_check(&p);
}

/* ---- linear map */

static double weight_values[OUT * WIDTH];

static ca_tensor weight(ca_backend *be) {
    gradient_draw(weight_values, OUT * WIDTH, "weight");
    return matrix(be, weight_values, OUT, WIDTH);
}

static void linear_forward(problem *p) {
    gradient_ok(ca_linear_fwd(p->be, matrix(p->be, p->output.x, ROWS, OUT),
                              matrix(p->be, p->inputs[0].x, ROWS, WIDTH), weight(p->be), absent));
}

static void linear_backward(problem *p) {
    gradient_ok(ca_linear_bwd(p->be, matrix(p->be, p->inputs[0].dx, ROWS, WIDTH),
                              matrix(p->be, p->output.dx, ROWS, OUT), weight(p->be)));
}

static void test_linear(void **state) {
    (void)state;
    problem p = {.name = "linear",
                 .forward = linear_forward,
                 .backward = linear_backward,
                 .input_counts = {ROWS * WIDTH},
                 .output_count = ROWS * OUT};
    gradient_check(&p);
}

/* ---- gather and its adjoint */

static int64_t chosen_rows[] = {1, 2};

static void gather_forward(problem *p) {
    gradient_ok(ca_gather(p->be, matrix(p->be, p->output.x, 2, WIDTH),
                          matrix(p->be, p->inputs[0].x, ROWS, WIDTH),
                          list(p->be, chosen_rows, CA_I64, 2), 1, false));
}

static void gather_backward(problem *p) {
    gradient_ok(ca_scatter_add(p->be, matrix(p->be, p->inputs[0].dx, ROWS, WIDTH),
                               list(p->be, chosen_rows, CA_I64, 2),
                               matrix(p->be, p->output.dx, 2, WIDTH)));
}

static void test_gather(void **state) {
    (void)state;
    problem p = {.name = "gather",
                 .forward = gather_forward,
                 .backward = gather_backward,
                 .input_counts = {ROWS * WIDTH},
                 .output_count = 2 * WIDTH};
    gradient_check(&p);
}

/* ---- rotary positions: the gradient is the inverse turn */

enum { HEADS = 2, HEAD_DIM = 7, HALF = 3, POSITIONS = 5 };

static void rope_turn(ca_backend *be, double *to, double *from, bool inverse) {
    static double cosine[POSITIONS * HALF], sine[POSITIONS * HALF];
    static int32_t positions[ROWS] = {4, 0, 2};
    gradient_draw(cosine, POSITIONS * HALF, "cosine");
    gradient_draw(sine, POSITIONS * HALF, "sine");
    memcpy(to, from, ROWS * HEADS * HEAD_DIM * sizeof *to);
    gradient_ok(ca_rope(be, gradient_tensor(be, ca_tensor_3d(to, CA_F64, ROWS, HEADS, HEAD_DIM)),
                        matrix(be, cosine, POSITIONS, HALF), matrix(be, sine, POSITIONS, HALF),
                        list(be, positions, CA_I32, ROWS), inverse));
}

static void rope_forward(problem *p) { rope_turn(p->be, p->output.x, p->inputs[0].x, false); }
static void rope_backward(problem *p) { rope_turn(p->be, p->inputs[0].dx, p->output.dx, true); }

static void test_rope(void **state) {
    (void)state;
    problem p = {.name = "rope",
                 .forward = rope_forward,
                 .backward = rope_backward,
                 .input_counts = {ROWS * HEADS * HEAD_DIM},
                 .output_count = ROWS * HEADS * HEAD_DIM};
    gradient_check(&p);
}

/* ---- interventions: x, source and mask are the inputs */

typedef struct mix_form {
    const char *name;
    int64_t weights; /* of a mask row */
    bool one_row;    /* the same weights for all rows: their gradient is summed over rows */
} mix_form;

static ca_tensor mix_mask(ca_backend *be, const mix_form *form, double *weights) {
    if (!form->one_row) return matrix(be, weights, ROWS, form->weights);
    return ca_tensor_repeat(list(be, weights, CA_F64, form->weights), ROWS);
}

static void mix_forward(problem *p) {
    gradient_ok(ca_mix_fwd(p->be, matrix(p->be, p->output.x, ROWS, WIDTH),
                           matrix(p->be, p->inputs[0].x, ROWS, WIDTH),
                           matrix(p->be, p->inputs[1].x, ROWS, WIDTH),
                           mix_mask(p->be, p->parameters, p->inputs[2].x)));
}

static void mix_backward(problem *p) {
    const mix_form *form = p->parameters;
    double d_mask[ROWS * WIDTH] = {0};
    gradient_ok(ca_mix_bwd(
        p->be, matrix(p->be, p->inputs[0].dx, ROWS, WIDTH),
        matrix(p->be, p->inputs[1].dx, ROWS, WIDTH), matrix(p->be, d_mask, ROWS, form->weights),
        matrix(p->be, p->output.dx, ROWS, WIDTH), matrix(p->be, p->inputs[0].x, ROWS, WIDTH),
        matrix(p->be, p->inputs[1].x, ROWS, WIDTH), mix_mask(p->be, form, p->inputs[2].x),
        true)); /* onto zeros */
    if (form->one_row)
        gradient_ok(ca_column_sums(p->be, list(p->be, p->inputs[2].dx, CA_F64, form->weights),
                                   matrix(p->be, d_mask, ROWS, form->weights)));
    else
        memcpy(p->inputs[2].dx, d_mask, (size_t)p->inputs[2].count * sizeof *d_mask);
}

static void test_mix(void **state) {
    (void)state;
    static const mix_form forms[] = {{"mix by elements", WIDTH, false},
                                     {"mix by channels", WIDTH, true},
                                     {"mix by rows", 1, false},
                                     {"mix by one weight", 1, true}};
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        problem p = {.name = forms[i].name,
                     .forward = mix_forward,
                     .backward = mix_backward,
                     .parameters = &forms[i],
                     .input_counts = {ROWS * WIDTH, ROWS * WIDTH,
                                      forms[i].weights * (forms[i].one_row ? 1 : ROWS)},
                     .output_count = ROWS * WIDTH};
        gradient_check(&p);
    }
}

/* ---- cross entropy */

static int32_t targets[ROWS] = {6, 0, 2};

static void cross_entropy_forward(problem *p) {
    gradient_ok(ca_cross_entropy_fwd(p->be, list(p->be, p->output.x, CA_F64, ROWS),
                                     matrix(p->be, p->inputs[0].x, ROWS, WIDTH),
                                     list(p->be, targets, CA_I32, ROWS)));
}

static void cross_entropy_backward(problem *p) {
    gradient_ok(ca_cross_entropy_bwd(p->be, matrix(p->be, p->inputs[0].dx, ROWS, WIDTH),
                                     matrix(p->be, p->inputs[0].x, ROWS, WIDTH),
                                     list(p->be, targets, CA_I32, ROWS),
                                     list(p->be, p->output.dx, CA_F64, ROWS)));
}

static void test_cross_entropy(void **state) {
    (void)state;
    problem p = {.name = "cross entropy",
                 .forward = cross_entropy_forward,
                 .backward = cross_entropy_backward,
                 .input_counts = {ROWS * WIDTH},
                 .output_count = ROWS};
    gradient_check(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norm),     cmocka_unit_test(test_act),
        cmocka_unit_test(test_soft_cap), cmocka_unit_test(test_linear),
        cmocka_unit_test(test_gather),   cmocka_unit_test(test_rope),
        cmocka_unit_test(test_mix),      cmocka_unit_test(test_cross_entropy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
