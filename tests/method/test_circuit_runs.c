/* SPDX-License-Identifier: MIT
 *
 * Circuit runs against golden vectors of an independent implementation, against a slow evaluation
 * written here, and their laws: the full circuit is the clean run, the empty one the corrupted run.
 */
#include "eap_golden.h"
#include "eap_setting.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void free_circuits(ca_circuit *circuits, int64_t count) {
    for (int64_t i = 0; i < count; i++) ca_circuit_free(&circuits[i]);
}

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

/* All circuits of a file as lanes of one batch, all pairs of a batch of the reference at once. */
static void golden_circuits(eap_golden *g) {
    fixture *f = &g->f;
    ca_circuit circuits[GOLDEN_CIRCUITS];
    int64_t edges = g->graph.sources * g->graph.destinations;
    for (int i = 0; i < GOLDEN_CIRCUITS; i++) {
        ok(ca_circuit_create(&g->graph, &circuits[i]));
        memcpy(circuits[i].edges, g->circuits[i].edges, (size_t)edges);
        ca_circuit_count(&g->graph, &circuits[i]);
        assert_int_equal(circuits[i].edge_count, g->circuits[i].kept);
    }
    for (int b = 0; b < GOLDEN_BATCHES; b++) {
        eap_setting s;
        int64_t first = g->batch[b], pairs = g->batch[b + 1] - first, each = pairs * f->vocab;
        eap_setting_open(&s, f, &g->data, first, first + pairs, 0, ABLATE_PATCHING, GOLDEN_CIRCUITS,
                         0);
        const double *logits = eap_setting_run(&s, circuits, GOLDEN_CIRCUITS);
        for (int i = 0; i < GOLDEN_CIRCUITS; i++) {
            double *got = numbers(f, pairs);
            for (int64_t n = 0; n < pairs; n++)
                got[n] = logit_diff(g, logits + i * each + n * f->vocab, first + n);
            near(f, "circuit", got, g->circuits[i].logit_diff + first, pairs,
                 f->exact ? 1e-10 : 1e-5);
        }
        eap_setting_close(&s);
    }
    free_circuits(circuits, GOLDEN_CIRCUITS);
}

static void test_golden_circuits(void **state) {
    (void)state;
    on_goldens("ref", golden_circuits);
    on_goldens("cpu", golden_circuits);
}

/* ---- laws ----
 *
 * f32: the plain runs of these models lie up to 1.6e-6 of the largest logit away from their float64
 * reference, and a product over another number of rows is summed in another order. A wrong term
 * shows at 1e-3. */
static const double rounding = 1e-6, other_rows = 3e-6;

/* Calls a test with every model, with columns per query head and, where there are fewer, per
 * key/value head. */
typedef void (*law)(fixture *f, const ca_dataset *data, int64_t kv_columns);
static law running_law;

static void on_fixture(fixture *f) {
    ca_dataset data = eap_pairs_of(f);
    running_law(f, &data, 0);
    if (f->model->arch.kv_heads < f->model->arch.heads)
        running_law(f, &data, f->model->arch.kv_heads);
    free(data.examples);
}

static void on_golden(eap_golden *g) {
    running_law(&g->f, &g->data, 0);
    if (g->f.model->arch.kv_heads < g->f.model->arch.heads)
        running_law(&g->f, &g->data, g->f.model->arch.kv_heads);
}

static void on_all_models(law test) {
    running_law = test;
    on_every_backend(every_fixture, on_fixture);
    on_goldens("ref", on_golden);
    on_goldens("cpu", on_golden);
}

/* The full circuit is the clean run, the empty one the corrupted run; among other lanes. */
static void ends(fixture *f, const ca_dataset *data, int64_t kv_columns) {
    eap_setting s;
    eap_setting_open(&s, f, data, 0, data->count, kv_columns, ABLATE_PATCHING, 3, 0);
    ca_circuit circuits[] = {random_circuit(&s.graph, 0.5, 1), full_circuit(&s.graph),
                             random_circuit(&s.graph, 0, 0)};
    int64_t each = s.group.count * f->vocab;
    assert_int_equal(circuits[1].edge_count, s.graph.edges);
    assert_int_equal(circuits[2].edge_count, 0);
    const double *logits = eap_setting_run(&s, circuits, 3);
    same(f, "full circuit", logits + each, s.clean, each, rounding);
    same(f, "empty circuit", logits + 2 * each, s.corrupted, each, rounding);
    eap_setting_close(&s);
    free_circuits(circuits, 3);
}

static void test_ends(void **state) {
    (void)state;
    on_all_models(ends);
}

static bool all_zero(const double *x, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (x[i] != 0) return false;
    return true;
}

/* Random circuits, thin and thick, so that inputs are made from either side and by either way of
 * summing, against the slow evaluation. */
static void against_slow(fixture *f, const ca_dataset *data, int64_t kv_columns, ablation ablated) {
    enum { CIRCUITS = 5 };
    static const double chances[CIRCUITS] = {0.1, 0.25, 0.5, 0.8, 0.97};
    eap_setting s;
    ca_circuit circuits[CIRCUITS];
    eap_setting_open(&s, f, data, 0, data->count, kv_columns, ablated, CIRCUITS, 0);
    for (int i = 0; i < CIRCUITS; i++)
        circuits[i] = random_circuit(&s.graph, chances[i], (uint64_t)i);
    const double *logits = eap_setting_run(&s, circuits, CIRCUITS);
    for (int i = 0; i < CIRCUITS; i++)
        for (int64_t n = 0; n < data->count; n += 2) {
            const double *got = logits + (i * s.group.count + n) * f->vocab;
            const double *expected = slow_circuit(&s, &circuits[i], n, ablated);
            /* under zero ablation a circuit of queries alone gives nothing at all, as it should */
            if (ablated == ABLATE_ZERO && all_zero(expected, f->vocab))
                assert_true(all_zero(got, f->vocab));
            else
                near(f, "random circuit", got, expected, f->vocab, f->exact ? 1e-11 : 1e-5);
        }
    eap_setting_close(&s);
    free_circuits(circuits, CIRCUITS);
}

static void patched_like_slow(fixture *f, const ca_dataset *data, int64_t kv_columns) {
    against_slow(f, data, kv_columns, ABLATE_PATCHING);
}

static void zeroed_like_slow(fixture *f, const ca_dataset *data, int64_t kv_columns) {
    against_slow(f, data, kv_columns, ABLATE_ZERO);
}

static void test_slow_evaluation(void **state) {
    (void)state;
    running_law = patched_like_slow;
    on_fixtures(some_fixtures, "ref", on_fixture);
    on_fixtures(some_fixtures, "cpu", on_fixture);
    on_goldens("ref", on_golden);
    running_law = zeroed_like_slow;
    on_fixtures((const char *const[]){"gpt2-inner", "qwen3", "pythia", NULL}, "ref", on_fixture);
    on_goldens("ref", on_golden);
}

/* ---- masks of neurons */

/* All neurons are no mask, none the empty circuit, and those of some nodes the circuit of these. */
static void whole_nodes(fixture *f, const ca_dataset *data, int64_t kv_columns) {
    eap_setting s;
    eap_setting_open(&s, f, data, 0, data->count, kv_columns, ABLATE_PATCHING, 5, 0);
    const ca_circuit_graph *g = &s.graph;
    ca_circuit circuits[] = {random_circuit(g, 0.6, 4), random_neurons(g, 0.6, 2, 4),
                             random_neurons(g, 2, 0, 0), random_neurons(g, 2, 2, 0),
                             full_circuit(g)};
    int64_t each = s.group.count * f->vocab;
    for (int64_t u = 1; u < g->sources; u += 3) { /* of the last two: without every third source */
        for (int64_t d = 0; d < g->width; d++) circuits[3].neurons[u * g->width + d] = false;
        for (int64_t v = 0; v < g->destinations; v++)
            circuits[4].edges[u * g->destinations + v] = false;
    }
    for (int i = 3; i < 5; i++) ca_circuit_prune(g, &circuits[i]);
    assert_int_equal(circuits[3].neuron_count, circuits[4].node_count * g->width);
    const double *logits = eap_setting_run(&s, circuits, 5);
    same(f, "all neurons", logits + each, logits, each, rounding);
    same(f, "no neuron", logits + 2 * each, s.corrupted, each, rounding);
    same(f, "neurons of nodes", logits + 3 * each, logits + 4 * each, each, rounding);
    eap_setting_close(&s);
    free_circuits(circuits, 5);
}

static void test_whole_nodes(void **state) {
    (void)state;
    on_all_models(whole_nodes);
}

/* Masks of all edges and of some, beside a circuit without, against the slow evaluation, which
 * chooses between own and ablated values one by one; and they do make a difference. */
static void masked_like_slow(fixture *f, const ca_dataset *data, int64_t kv_columns) {
    enum { CIRCUITS = 4 };
    eap_setting s;
    eap_setting_open(&s, f, data, 0, data->count, kv_columns, ABLATE_PATCHING, CIRCUITS, 0);
    const ca_circuit_graph *g = &s.graph;
    ca_circuit circuits[CIRCUITS] = {random_neurons(g, 2, 0.3, 5), random_circuit(g, 0.7, 6),
                                     random_neurons(g, 0.7, 0.7, 6), random_neurons(g, 2, 0.9, 7)};
    const double *logits = eap_setting_run(&s, circuits, CIRCUITS);
    int64_t each = s.group.count * f->vocab;
    for (int i = 0; i < CIRCUITS; i++)
        for (int64_t n = 0; n < data->count; n += 2)
            near(f, "neurons", logits + i * each + n * f->vocab,
                 slow_circuit(&s, &circuits[i], n, ABLATE_PATCHING), f->vocab,
                 f->exact ? 1e-11 : 1e-5);
    double most = 0;
    for (int64_t i = 0; i < each; i++)
        most = fmax(most, fabs(logits[2 * each + i] - logits[each + i]));
    assert_true(most > 1e-3);
    eap_setting_close(&s);
    free_circuits(circuits, CIRCUITS);
}

static void test_masks_of_neurons(void **state) {
    (void)state;
    running_law = masked_like_slow;
    on_fixtures(some_fixtures, "ref", on_fixture);
    on_fixtures(some_fixtures, "cpu", on_fixture);
    on_goldens("ref", on_golden);
}

/* Edges that pruning drops change nothing: what they lead to, or come from, is not in the circuit.
 */
static void dead_ends(fixture *f, const ca_dataset *data, int64_t kv_columns) {
    eap_setting s;
    eap_setting_open(&s, f, data, 0, data->count, kv_columns, ABLATE_PATCHING, 2, 0);
    const ca_circuit_graph *g = &s.graph;
    ca_circuit circuits[2] = {random_circuit(g, 0.2, 3), random_circuit(g, 0.2, 3)};
    ca_circuit *c = &circuits[1];
    /* the first head is read by nobody any more; the first MLP reads nothing */
    int64_t head = ca_circuit_head(g, 0, 0), mlp = ca_circuit_mlp(g, 0);
    for (int64_t v = 0; v < g->destinations; v++) c->edges[head * g->destinations + v] = false;
    for (int64_t u = 0; u < g->sources; u++)
        c->edges[u * g->destinations + ca_circuit_column(g, 0, CA_CIRCUIT_MLP)] = false;
    memcpy(circuits[0].edges, c->edges, (size_t)(g->sources * g->destinations));
    c->edges[0 * g->destinations + ca_circuit_column(g, 0, CA_CIRCUIT_Q)] = true;
    c->edges[mlp * g->destinations + g->destinations - 1] = true;
    ca_circuit_prune(g, &circuits[0]);
    ca_circuit_count(g, c);
    assert_true(circuits[0].edge_count < c->edge_count);
    const double *logits = eap_setting_run(&s, circuits, 2);
    int64_t each = s.group.count * f->vocab;
    same(f, "dead ends", logits + each, logits, each, rounding);
    eap_setting_close(&s);
    free_circuits(circuits, 2);
}

static void test_dead_ends(void **state) {
    (void)state;
    running_law = dead_ends;
    on_fixtures(some_fixtures, "ref", on_fixture);
    on_goldens("ref", on_golden);
}

/* A circuit's logits depend neither on the circuits nor on the pairs that share its batch, nor on
 * how many slots there are. */
static void company(fixture *f, const ca_dataset *data, int64_t kv_columns) {
    enum { CIRCUITS = 4 };
    eap_setting s;
    ca_circuit circuits[CIRCUITS];
    eap_setting_open(&s, f, data, 0, data->count, kv_columns, ABLATE_PATCHING, CIRCUITS, 0);
    for (int i = 0; i < CIRCUITS; i++)
        circuits[i] = random_circuit(&s.graph, 0.2 + 0.2 * i, (uint64_t)i);
    int64_t each = s.group.count * f->vocab;
    const double *together = eap_setting_run(&s, circuits, CIRCUITS);
    for (int i = 0; i < CIRCUITS; i++)
        same(f, "alone", eap_setting_run(&s, &circuits[i], 1), together + i * each, each,
             other_rows);
    eap_setting_close(&s);
    for (int64_t n = 0; n < data->count; n++) {
        eap_setting_open(&s, f, data, n, n + 1, kv_columns, ABLATE_PATCHING, 2,
                         s.graph.sources + 1);
        const double *one = eap_setting_run(&s, circuits, CIRCUITS);
        for (int i = 0; i < CIRCUITS; i++)
            same(f, "one pair", one + i * f->vocab, together + i * each + n * f->vocab, f->vocab,
                 other_rows);
        eap_setting_close(&s);
    }
    free_circuits(circuits, CIRCUITS);
}

static void test_company(void **state) {
    (void)state;
    running_law = company;
    on_fixtures(some_fixtures, "ref", on_fixture);
    on_fixtures(some_fixtures, "cpu", on_fixture);
    on_goldens("ref", on_golden);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_models), cmocka_unit_test(test_golden_circuits),
        cmocka_unit_test(test_ends),          cmocka_unit_test(test_slow_evaluation),
        cmocka_unit_test(test_whole_nodes),   cmocka_unit_test(test_masks_of_neurons),
        cmocka_unit_test(test_dead_ends),     cmocka_unit_test(test_company),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
