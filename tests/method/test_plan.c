/* SPDX-License-Identifier: MIT
 *
 * Plans: the planned bytes are the bytes asked for, and the cut into micro-batches keeps order,
 * sizes and the memory limit.
 */
#include "executor.h"

#include <string.h>

/* ---- bytes */

/* A backend that counts what is asked of another. */
typedef struct counting {
    ca_backend backend;
    ca_backend_ops ops;
} counting;

static size_t asked;

static ca_status (*alloc_below)(ca_backend *be, size_t bytes, void **out);

static ca_status count_alloc(ca_backend *be, size_t bytes, void **out) {
    asked += bytes;
    return alloc_below(be, bytes, out);
}

static counting count_allocations(const ca_backend *be) {
    counting c = {.backend = *be, .ops = *be->ops};
    alloc_below = c.ops.alloc;
    c.ops.alloc = count_alloc;
    return c;
}

static void planned_bytes(fixture *f) {
    const ca_pass_limits all_limits[] = {
        {.rows = 30, .reads = 3, .logits = true},
        {.rows = 17, .reads = 1, .layers = 1, .key_values = true},
        {.rows = 30, .reads = 30, .lanes = 4, .keep = true, .logits = true},
        {.rows = 30, .reads = 30, .lanes = 4, .layers = 1, .logits = true},
        {.rows = 12, .reads = 1, .lanes = 1, .sites = ~0u, .edited = ~0u, .pattern = 90},
        {0},
    };
    counting c = count_allocations(f->backend);
    ca_model model = *f->model;
    model.backend = &c.backend;
    c.backend.ops = &c.ops;
    for (size_t i = 0; i < sizeof all_limits / sizeof *all_limits; i++) {
        ca_pass *pass;
        ca_batch *batch;
        const ca_pass_limits *l = &all_limits[i];
        asked = 0;
        ok(ca_pass_create(&model, l, &pass));
        assert_int_equal(asked, ca_pass_bytes(&model.arch, model.dtype, l));
        asked = 0;
        ok(ca_batch_create(&c.backend, 3, l->rows, l->reads, &batch));
        assert_int_equal(asked, ca_batch_bytes(3, l->rows, l->reads));
        ca_batch_free(batch);
        ca_pass_free(pass);
    }
}

static void test_planned_bytes(void **state) {
    (void)state;
    on_both_backends(some_fixtures, planned_bytes);
}

/* Forward and backward of a planned pass ask for nothing more. */
static void nothing_later(fixture *f) {
    counting c = count_allocations(f->backend);
    ca_model model = *f->model, *plain = f->model;
    model.backend = &c.backend;
    c.backend.ops = &c.ops;
    f->model = &model;
    ca_batch *batch = batch_of_prompts(f, 0, PROMPTS, READ_LAST);
    tap t;
    ca_hook hooks[] = {tap_at(f, &t, CA_SITE_RESULT), tap_at(f, &t, CA_SITE_PATTERN)};
    hooks[0].forward = hooks[1].forward = NULL;
    hooks[0].backward = hooks[1].backward = NULL;
    ca_pass_limits limits = {.lanes = 1, .key_values = true};
    ca_pass *pass = pass_for(f, batch, limits, hooks, 2);
    ca_tensor d = random_tensor(f, 3, (int64_t[]){1, PROMPTS, f->vocab}, "d"), gradient;
    ca_forward request = ca_forward_all(&model, batch);
    request.hooks = hooks;
    request.hook_count = 2;
    ca_backward backward = {.lanes = 1, .d_logits = d};
    asked = 0;
    ok(ca_pass_forward(pass, &request));
    ok(ca_pass_backward(pass, &backward, &gradient));
    assert_int_equal(asked, 0);
    f->model = plain;
    fixture_release(f); /* while the counting backend exists */
}

static void test_nothing_allocated_later(void **state) {
    (void)state;
    on_both_backends(some_fixtures, nothing_later);
}

/* ---- micro-batches */

static const ca_arch arch = {.layers = 3,
                             .width = 32,
                             .heads = 4,
                             .kv_heads = 2,
                             .head_dim = 8,
                             .mlp_width = 64,
                             .vocab = 100,
                             .max_positions = 4096,
                             .pre_norm = true,
                             .gated = true};

enum { MOST = 64, PLENTY = 1 << 30 };

typedef struct lengths {
    int64_t count, length[MOST], prefix[MOST];
} lengths;

static int64_t rows_of(const lengths *l, int64_t first, int64_t last) {
    int64_t rows = 0;
    for (int64_t i = first; i < last; i++) rows += l->length[i];
    return rows;
}

/* Every sequence once and in order; the limits are those of the largest micro-batch. */
static void check_packing(const lengths *l, int64_t reads, int64_t tokens, int64_t budget,
                          const ca_packing *p) {
    int64_t rows = 0, sequences = 0, pattern = 0, keys = 0;
    assert_int_equal(p->first[0], 0);
    assert_int_equal(p->first[p->batches], l->count);
    for (int64_t b = 0; b < p->batches; b++) {
        int64_t first = p->first[b], last = p->first[b + 1], own = 0;
        assert_true(first < last);
        int64_t here = rows_of(l, first, last);
        assert_true(tokens == 0 || here <= tokens || last - first == 1);
        for (int64_t i = first; i < last; i++) {
            own += l->length[i] * (l->prefix[i] + l->length[i]);
            keys += l->length[i] * l->prefix[i] + l->length[i] * (l->length[i] + 1) / 2;
        }
        if (here > rows) rows = here;
        if (last - first > sequences) sequences = last - first;
        if (own > pattern) pattern = own;
    }
    assert_int_equal(p->limits.rows, rows);
    assert_int_equal(p->max_sequences, sequences);
    assert_int_equal(p->limits.reads, sequences * reads);
    assert_int_equal(p->limits.pattern, pattern);
    assert_int_equal(p->keys, keys);
    assert_int_equal(p->bytes,
                     ca_pass_bytes(&arch, CA_F32, &p->limits) +
                         ca_batch_bytes(p->max_sequences, p->limits.rows, p->limits.reads));
    assert_true(p->bytes <= budget);
}

static ca_packing plan(const lengths *l, ca_pass_limits limits, int64_t reads, int64_t tokens,
                       int64_t budget) {
    ca_packing p;
    ok(ca_plan_packing(&arch, CA_F32, &limits, l->length, l->prefix, l->count, reads, tokens,
                       budget, &p));
    check_packing(l, reads, tokens, budget, &p);
    return p;
}

/* Lengths of 1 to 40 with prefixes of 0 to 9. */
static lengths mixed(int64_t count) {
    lengths l = {.count = count};
    for (int64_t i = 0; i < count; i++) {
        l.length[i] = 1 + i * 17 % 40;
        l.prefix[i] = i * 7 % 10;
    }
    return l;
}

static void test_chosen_tokens(void **state) {
    (void)state;
    lengths l = mixed(MOST);
    for (int64_t tokens = 1; tokens <= 2000; tokens += tokens / 2 + 1) {
        ca_packing p = plan(&l, (ca_pass_limits){.lanes = 1}, 2, tokens, PLENTY);
        assert_true(p.limits.keep);
        /* no micro-batch ends while the next sequence would still fit */
        for (int64_t b = 0; b + 1 < p.batches; b++)
            assert_true(rows_of(&l, p.first[b], p.first[b + 1] + 1) > tokens);
        ca_packing_free(&p);
    }
}

static void test_without_prefix(void **state) {
    (void)state;
    lengths l = {.count = 2, .length = {3, 4}};
    ca_packing p;
    ok(ca_plan_packing(&arch, CA_F32, &(ca_pass_limits){0}, l.length, NULL, 2, 1, 0, PLENTY, &p));
    check_packing(&l, 1, 0, PLENTY, &p);
    assert_int_equal(p.batches, 1);
    ca_packing_free(&p);
}

/* Less and less memory: smaller batches first, then recomputing, then the smallest packing. */
static void test_less_memory(void **state) {
    (void)state;
    lengths l = mixed(MOST);
    int64_t rows = INT64_MAX, sequences = INT64_MAX, budget = PLENTY;
    bool kept = true;
    ca_packing p;
    const ca_pass_limits limits = {.lanes = 3, .logits = true};
    for (;; budget = p.bytes - 1) {
        ok(ca_plan_packing(&arch, CA_F32, &limits, l.length, l.prefix, l.count, 1, 0, budget, &p));
        if (p.bytes > budget) break;
        check_packing(&l, 1, 0, budget, &p);
        assert_true(p.limits.rows <= rows && p.max_sequences <= sequences);
        if (p.limits.keep) assert_true(kept); /* never goes back */
        if (!p.limits.keep) assert_true(p.limits.rows < 2 * 40);
        rows = p.limits.rows;
        sequences = p.max_sequences;
        kept = p.limits.keep;
        ca_packing_free(&p);
    }
    /* all that is left is one sequence at a time, recomputed */
    assert_false(kept);
    assert_int_equal(rows, 40);
    assert_int_equal(sequences, 1);
    assert_int_equal(p.limits.rows, 40);
    ca_packing_free(&p);
}

static void test_does_not_fit(void **state) {
    (void)state;
    lengths l = mixed(5);
    const int64_t budget = 100 * 1024;
    ca_packing p = {0};
    const ca_pass_limits limits = {.lanes = 1};
    ok(ca_plan_packing(&arch, CA_F32, &limits, l.length, l.prefix, l.count, 1, 70, budget, &p));
    assert_int_equal(p.limits.rows, 66);
    assert_true(p.bytes > budget);
    ca_packing_free(&p);
}

/* A forward alone has nothing to recompute. */
static void test_forward_only(void **state) {
    (void)state;
    lengths l = mixed(8);
    ca_packing p = plan(&l, (ca_pass_limits){.logits = true}, 1, 0, PLENTY);
    assert_true(p.limits.keep);
    ca_packing_free(&p);
}

static void test_many_short_and_one_long(void **state) {
    (void)state;
    /* The long one decides the rows; room for reads must shrink with the number of short ones. */
    static int64_t length[1000];
    for (int i = 0; i < 1000; i++) length[i] = 1;
    length[500] = 1500;
    const ca_pass_limits limits = {.logits = true};
    ca_packing all, few;
    ok(ca_plan_packing(&arch, CA_F32, &limits, length, NULL, 1000, 1, 0, PLENTY, &all));
    ok(ca_plan_packing(&arch, CA_F32, &limits, length, NULL, 1000, 1, 0, all.bytes - 1, &few));
    assert_int_equal(all.limits.rows, 1500);
    assert_int_equal(few.limits.rows, 1500);
    assert_true(few.max_sequences < all.max_sequences);
    ca_packing_free(&all);
    ca_packing_free(&few);
}

static void test_nothing_to_do(void **state) {
    (void)state;
    lengths l = {0};
    ca_packing p = plan(&l, (ca_pass_limits){.lanes = 1, .logits = true}, 3, 0, PLENTY);
    assert_int_equal(p.batches, 0);
    ca_packing_free(&p);
    l = (lengths){.count = 3}; /* of no tokens */
    p = plan(&l, (ca_pass_limits){.lanes = 1}, 0, 0, PLENTY);
    assert_int_equal(p.batches, 1);
    ca_packing_free(&p);
}

/* ---- operations */

/* GPT-2 small: 12 blocks of 7.08 M weights, 38.6 M in the head. */
static void test_operations(void **state) {
    (void)state;
    const ca_arch gpt2 = {.layers = 12,
                          .width = 768,
                          .heads = 12,
                          .kv_heads = 12,
                          .head_dim = 64,
                          .mlp_width = 3072,
                          .vocab = 50257};
    const double block = 2.0 * 12 * 768 * 768;
    const int64_t keys = ca_sequence_keys(&gpt2, 10, 3);
    assert_int_equal(keys, 85); /* 4 + 5 + ... + 13 */
    assert_float_equal(ca_flops_forward(&gpt2, 10, 0, 12), 12 * 10 * block, 1);
    assert_float_equal(ca_flops_forward(&gpt2, 0, keys, 1), 4.0 * 768 * 85, 1);
    assert_float_equal(ca_flops_head(&gpt2, 2), 2 * 2.0 * 768 * 50257, 1);
    /* no weight gradients: a lane costs a forward, and twice its attention */
    assert_float_equal(ca_flops_backward(&gpt2, 10, 0, 12, 3, true), 3 * 12 * 10 * block, 1);
    assert_true(ca_flops_backward(&gpt2, 10, keys, 12, 3, false) >
                ca_flops_backward(&gpt2, 10, keys, 12, 3, true));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_planned_bytes), cmocka_unit_test(test_nothing_allocated_later),
        cmocka_unit_test(test_chosen_tokens), cmocka_unit_test(test_without_prefix),
        cmocka_unit_test(test_less_memory),   cmocka_unit_test(test_does_not_fit),
        cmocka_unit_test(test_forward_only),  cmocka_unit_test(test_many_short_and_one_long),
        cmocka_unit_test(test_nothing_to_do), cmocka_unit_test(test_operations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
