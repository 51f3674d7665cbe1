/* SPDX-License-Identifier: MIT
 *
 * Tails on a cached prefix against whole sequences: values, gradients, patterns, starts at any
 * layer; and a mask trained on such tails, as mask optimisation does it.
 *
 * A tail's rows see the same keys in the same order as in the whole sequence, and no gradient that
 * reaches them passes through prefix rows, so everything is equal bit for bit on ref.
 */
#include "executor.h"

#include <math.h>
#include <string.h>

enum { TAILS = 6, PREFIXES = 3, MOST_ROWS = 160 };

/* Prefixes are the first tokens of the prompts, packed: rows 0-2, 3-7 and 8-19. */
static const int64_t prefix_count[PREFIXES] = {3, 5, 12};

/* Tail: which prefix, how many of its first rows, and which tokens follow. */
static const struct {
    int64_t prefix, prefix_rows, prompt, start, count;
} tails[TAILS] = {
    {2, 12, 2, 12, 9}, /* goes on as the prompt does */
    {2, 12, 1, 5, 4},  /* the same prefix, another end */
    {0, 3, 0, 3, 4},   /* another length */
    {2, 9, 1, 0, 6},   /* a part of a prefix */
    {0, 0, 1, 0, 7},   /* none */
    {1, 5, 1, 5, 1},   /* a single row */
};

typedef struct setting {
    fixture *f;
    ca_batch *prefix, *tail, *whole;
    int64_t rows;                 /* of all tails */
    int64_t whole_row[MOST_ROWS]; /* of each tail row */
} setting;

static setting make_setting(fixture *f) {
    setting s = {.f = f};
    sequence prefix[PREFIXES], tail[TAILS], whole[TAILS];
    int64_t start[PREFIXES], rows = 0, at = 0;
    for (int i = 0; i < PREFIXES; i++) {
        prefix[i] = (sequence){.ids = f->prompts[i].ids, .count = prefix_count[i]};
        start[i] = rows;
        rows += prefix_count[i];
    }
    for (int i = 0; i < TAILS; i++) {
        int64_t before = tails[i].prefix_rows, count = tails[i].count;
        int32_t *ids = (int32_t *)numbers(f, before + count);
        memcpy(ids, f->prompts[tails[i].prefix].ids, (size_t)before * sizeof *ids);
        memcpy(ids + before, f->prompts[tails[i].prompt].ids + tails[i].start,
               (size_t)count * sizeof *ids);
        tail[i] = (sequence){ids + before, count, start[tails[i].prefix], before};
        whole[i] = (sequence){.ids = ids, .count = before + count};
        for (int64_t t = 0; t < count; t++) s.whole_row[s.rows++] = at + before + t;
        at += before + count;
    }
    s.prefix = batch_of(f, prefix, PREFIXES, READ_NONE);
    s.tail = batch_of(f, tail, TAILS, READ_ALL);
    s.whole = batch_of(f, whole, TAILS, READ_ALL);
    return s;
}

/* Rows of the tails out of a [lanes, whole rows, width] array. */
static double *tail_rows(const setting *s, const double *whole, int64_t lanes, int64_t width) {
    double *out = numbers(s->f, lanes * s->rows * width);
    for (int64_t r = 0; r < lanes; r++)
        for (int64_t i = 0; i < s->rows; i++)
            memcpy(out + (r * s->rows + i) * width,
                   whole + (r * s->whole->sequences.rows + s->whole_row[i]) * width,
                   (size_t)width * sizeof *out);
    return out;
}

/* The keys and values of the prefixes, in layers from `first` on. */
static ca_pass *cache_prefix(setting *s, int64_t first) {
    fixture *f = s->f;
    ca_pass_limits limits = {.key_values = true, .layers = f->layers - first};
    ca_pass *pass = pass_for(f, s->prefix, limits, NULL, 0);
    ca_forward request = {.batch = s->prefix, .first_layer = first, .last_layer = f->layers};
    if (first > 0) {
        ca_pass *below = pass_for(f, s->prefix, (ca_pass_limits){.layers = first}, NULL, 0);
        ca_forward lower = {.batch = s->prefix, .last_layer = first};
        ok(ca_pass_forward(below, &lower));
        request.resid = ca_pass_resid(below, first);
    }
    ok(ca_pass_forward(pass, &request));
    return pass;
}

/* ---- tails against whole sequences */

enum { LANES = 2 };

/* A cotangent at the logits of tail rows, and the same at those rows of whole sequences. */
static void make_cotangents(setting *s, ca_tensor *tail, ca_tensor *whole) {
    fixture *f = s->f;
    int64_t v = f->vocab, rows = s->whole->sequences.rows;
    *tail = random_tensor(f, 3, (int64_t[]){LANES, s->rows, v}, "cotangent");
    const double *from = values_of(f, *tail);
    double *to = numbers(f, LANES * rows * v);
    for (int64_t r = 0; r < LANES; r++)
        for (int64_t i = 0; i < s->rows; i++)
            memcpy(to + (r * rows + s->whole_row[i]) * v, from + (r * s->rows + i) * v,
                   (size_t)v * sizeof *to);
    *whole = tensor_of(f, 3, (int64_t[]){LANES, rows, v}, to);
}

/* Tails from layer `first` on against the whole run. f32: other shapes, other order of sums. */
static void check_from(setting *s, ca_pass *whole, const double *expected, ca_tensor cotangent,
                       int64_t first, int64_t prefix_first, bool keep) {
    fixture *f = s->f;
    ca_pass_limits limits = {.lanes = LANES, .keep = keep, .layers = f->layers - first};
    ca_pass *pass = pass_for(f, s->tail, limits, NULL, 0);
    ca_forward request = ca_forward_all(f->model, s->tail);
    request.prefix = cache_prefix(s, prefix_first);
    request.first_layer = first;
    if (first > 0)
        request.resid =
            tensor_of(f, 2, (int64_t[]){s->rows, f->width},
                      tail_rows(s, values_of(f, ca_pass_resid(whole, first)), 1, f->width));
    ok(ca_pass_forward(pass, &request));
    same(f, "logits", values_of(f, ca_pass_logits(pass)),
         tail_rows(s, values_of(f, ca_pass_logits(whole)), 1, f->vocab), s->rows * f->vocab, 1e-4);
    ca_backward backward = {.lanes = LANES, .d_logits = cotangent, .stop_layer = first};
    same(f, "gradient", gradient_of(f, pass, backward), expected, LANES * s->rows * f->width, 3e-4);
}

static void tails_like_whole(fixture *f) {
    setting s = make_setting(f);
    ca_tensor d_tail, d_whole;
    make_cotangents(&s, &d_tail, &d_whole);
    ca_pass *whole = run_model(f, s.whole, (ca_pass_limits){.lanes = LANES, .keep = true}, NULL, 0);
    for (int64_t first = 0; first < f->layers; first++) {
        ca_backward all = {.lanes = LANES, .d_logits = d_whole, .stop_layer = first};
        const double *expected = tail_rows(&s, gradient_of(f, whole, all), LANES, f->width);
        check_from(&s, whole, expected, d_tail, first, 0, true);
        check_from(&s, whole, expected, d_tail, first, first, false);
    }
}

static void test_tails_like_whole_sequences(void **state) {
    (void)state;
    on_every_backend(some_fixtures, tails_like_whole);
}

/* Probabilities over prefix and own keys: [H, own, prefix + own] of each tail. */
static void patterns(fixture *f) {
    setting s = make_setting(f);
    tap of_tail, of_whole;
    ca_hook at_tail = tap_at(f, &of_tail, CA_SITE_PATTERN);
    ca_hook at_whole = tap_at(f, &of_whole, CA_SITE_PATTERN);
    ca_pass *pass = pass_for(f, s.tail, (ca_pass_limits){0}, &at_tail, 1);
    ca_forward request = ca_forward_all(f->model, s.tail);
    request.prefix = cache_prefix(&s, 0);
    request.hooks = &at_tail;
    request.hook_count = 1;
    ok(ca_pass_forward(pass, &request));
    run_model(f, s.whole, (ca_pass_limits){0}, &at_whole, 1);
    const ca_sequences *tail = &s.tail->sequences, *whole = &s.whole->sequences;
    int64_t heads = f->model->arch.heads;
    for (int64_t l = 1; l <= f->layers; l++)
        for (int64_t i = 0; i < TAILS; i++)
            for (int64_t h = 0; h < heads; h++) {
                int64_t own = tails[i].count, keys = tails[i].prefix_rows + own;
                int64_t at_own = heads * tail->pattern_start[i] + h * own * keys;
                int64_t at_all = heads * whole->pattern_start[i] + ((h + 1) * keys - own) * keys;
                same(f, "pattern", of_tail.value[l] + at_own, of_whole.value[l] + at_all,
                     own * keys, 1e-4);
            }
}

static void test_patterns(void **state) {
    (void)state;
    on_every_backend(some_fixtures, patterns);
}

/* ---- a mask on the heads' z, trained on tails with the prefix constant */

typedef struct mask {
    fixture *f;
    double value[MOST_LAYERS * 16], slope[MOST_LAYERS * 16]; /* [layer, head] */
    ca_tensor base[MOST_LAYERS];                             /* z as found */
    ca_tensor source[MOST_LAYERS];                           /* z of the other run */
} mask;

/* One head of a [..., H, Dh] view as [..., 1, Dh]. */
static ca_tensor head_of(ca_tensor t, int64_t head) {
    return ca_tensor_slice(t, t.rank - 2, head, 1);
}

/* z_h = m_h z_h + (1 - m_h) source_h */
static ca_status mask_forward(void *context, const ca_hook_call *call, ca_tensor z) {
    ca_status st = CA_OK;
    mask *m = context;
    int64_t heads = z.shape[1], l = call->layer;
    CA_TRY(ca_copy(call->backend, m->base[l], z));
    for (int64_t h = 0; h < heads; h++) {
        double rest = 1 - m->value[l * heads + h];
        CA_TRY(ca_add(call->backend, head_of(z, h), head_of(m->base[l], h), -rest));
        CA_TRY(ca_add(call->backend, head_of(z, h), head_of(m->source[l], h), rest));
    }
out:
    return st;
}

/* d m_h = sum dz_h (base_h - source_h);  dz_h = m_h dz_h */
static ca_status mask_backward(void *context, const ca_hook_call *call, ca_tensor dz) {
    ca_status st = CA_OK;
    mask *m = context;
    int64_t rows = dz.shape[1], heads = dz.shape[2], width = dz.shape[3], l = call->layer;
    const double *g = values_of(m->f, dz), *base = values_of(m->f, m->base[l]);
    const double *source = values_of(m->f, m->source[l]);
    ca_tensor copy = tensor_of(m->f, 4, dz.shape, g);
    assert_int_equal(call->lanes, 1);
    for (int64_t h = 0; h < heads; h++) m->slope[l * heads + h] = 0;
    for (int64_t i = 0; i < rows * heads * width; i++)
        m->slope[l * heads + i / width % heads] += g[i] * (base[i] - source[i]);
    for (int64_t h = 0; h < heads; h++)
        CA_TRY(
            ca_add(call->backend, head_of(dz, h), head_of(copy, h), m->value[l * heads + h] - 1));
out:
    return st;
}

static double outcome(fixture *f, ca_pass *pass, const ca_forward *request, const double *weights) {
    ok(ca_pass_forward(pass, request));
    const double *logits = values_of(f, ca_pass_logits(pass));
    double sum = 0;
    for (int64_t i = 0; i < request->batch->reads * f->vocab; i++) sum += weights[i] * logits[i];
    return sum;
}

/* Central differences with steps of 1e-4 are off by 1e-8 of the third derivative; masks enter the
 * outcome smoothly, so 1e-6 of the largest slope leaves room, and a wrong term shows at 1e-2. */
static void mask_gradient(fixture *f) {
    const ca_arch *a = &f->model->arch;
    setting s = make_setting(f);
    mask m = {.f = f};
    int64_t count = f->layers * a->heads, shape[] = {s.rows, a->heads, a->head_dim};
    for (int64_t l = 0; l < f->layers; l++) {
        m.base[l] = tensor_of(f, 3, shape, numbers(f, shape[0] * shape[1] * shape[2]));
        m.source[l] = random_tensor(f, 3, shape, "source");
    }
    for (int64_t i = 0; i < count; i++) m.value[i] = 0.2 + 0.6 * (double)i / (double)count;
    ca_hook hook = {.site = CA_SITE_Z,
                    .last_layer = f->layers - 1,
                    .edits = true,
                    .forward = mask_forward,
                    .backward = mask_backward,
                    .context = &m};
    ca_tensor weights = random_tensor(f, 3, (int64_t[]){1, s.rows, f->vocab}, "weights");
    const double *w = values_of(f, weights);
    for (int keep = 0; keep < 2; keep++) {
        ca_pass *pass = pass_for(f, s.tail, (ca_pass_limits){.lanes = 1, .keep = keep}, &hook, 1);
        ca_forward request = ca_forward_all(f->model, s.tail);
        request.prefix = cache_prefix(&s, 0);
        request.hooks = &hook;
        request.hook_count = 1;
        outcome(f, pass, &request, w);
        gradient_of(f, pass, (ca_backward){.lanes = 1, .d_logits = weights});
        double got[MOST_LAYERS * 16], expected[MOST_LAYERS * 16];
        memcpy(got, m.slope, sizeof got);
        for (int64_t i = 0; i < count; i++) {
            double value = m.value[i], step = 1e-4;
            m.value[i] = value + step;
            double above = outcome(f, pass, &request, w);
            m.value[i] = value - step;
            expected[i] = (above - outcome(f, pass, &request, w)) / (2 * step);
            m.value[i] = value;
        }
        near(f, "d mask", got, expected, count, 1e-6);
    }
}

static void test_mask_gradient(void **state) {
    (void)state;
    on_fixtures((const char *const[]){"gpt2-inner", "llama3-gqa-new", NULL}, "ref", mask_gradient);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tails_like_whole_sequences),
        cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_mask_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
