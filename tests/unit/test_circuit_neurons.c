/* SPDX-License-Identifier: MIT
 *
 * Circuits of neurons: which are picked, and what pruning leaves of them.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "causa/circuit.h"

static void ok(ca_status st) {
    if (st != CA_OK) fail_msg("%s", ca_error_text());
}

enum { WIDTH = 16 };

static ca_circuit_graph make_graph(int64_t layers, int64_t heads, int64_t kv_columns,
                                   bool parallel) {
    const ca_arch arch = {.layers = layers, .heads = heads, .width = WIDTH, .parallel = parallel};
    return ca_circuit_graph_of(&arch, kv_columns);
}

static void expect_neurons(const ca_circuit_graph *g, const ca_circuit *got, const int64_t *want,
                           int64_t count) {
    for (int64_t i = 0, n = 0; i < g->sources * g->width; i++) {
        const bool wanted = n < count && want[n] == i;
        if (got->neurons[i] != wanted) fail_msg("neuron %lld: %d", (long long)i, got->neurons[i]);
        n += wanted;
    }
    assert_int_equal(got->neuron_count, count);
}

static void test_neurons(void **state) {
    (void)state;
    const ca_circuit_graph g = make_graph(2, 2, 0, false); /* input a0.h0 a0.h1 m0 a1.h0 a1.h1 m1 */
    const int64_t a = 0 * WIDTH + 9, b = 1 * WIDTH + 3, c = 4 * WIDTH + 2, d = 4 * WIDTH + 7;
    double score[7 * WIDTH] = {0};
    ca_circuit got;
    score[a] = 5, score[b] = -4, score[c] = 2, score[d] = 3;
    score[2 * WIDTH] = NAN;
    ok(ca_circuit_select_neurons(&g, score, true, CA_CIRCUIT_TOP, 4, 0, &got));
    expect_neurons(&g, &got, (const int64_t[]){a, b, c, d}, 4);
    assert_int_equal(got.node_count, 3);
    assert_int_equal(got.edge_count, 2 * 4 + 3 + 1); /* those of the three nodes, as above */
    ca_circuit_free(&got);
    ok(ca_circuit_select_neurons(&g, score, false, CA_CIRCUIT_THRESHOLD, 0, 3, &got));
    expect_neurons(&g, &got, (const int64_t[]){a, d}, 2);
    ca_circuit_free(&got);
    ok(ca_circuit_select_neurons(&g, score, false, CA_CIRCUIT_TOP, 7 * WIDTH, 0, &got));
    assert_int_equal(got.neuron_count, 7 * WIDTH - 1); /* all but the one without a score */
    assert_int_equal(got.edge_count, g.edges);
    ca_circuit_free(&got);
    score[a] = 0; /* without the input a0.h0 has no edge in, nor a1.h0: their neurons go too */
    ok(ca_circuit_select_neurons(&g, score, true, CA_CIRCUIT_TOP, 3, 0, &got));
    expect_neurons(&g, &got, NULL, 0);
    assert_int_equal(got.edge_count + got.node_count, 0);
    ca_circuit_free(&got);
    for (int i = 0; i < 7 * WIDTH; i++) score[i] = 1;
    ok(ca_circuit_select_neurons(&g, score, true, CA_CIRCUIT_TOP, 18, 0, &got)); /* ties */
    for (int i = 0; i < 7 * WIDTH; i++) assert_int_equal(got.neurons[i], i < 18);
    ca_circuit_free(&got);
}

/* All neurons of some nodes are the circuit of these nodes; a node without one is none. */
static void test_neurons_of_whole_nodes(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        const ca_circuit_graph g = make_graph(3, 4, i == 2 ? 2 : 0, i == 1);
        const int64_t count = g.sources - 1;
        double node[32], neuron[32 * WIDTH];
        ca_circuit nodes, neurons;
        assert_true(g.sources <= 32 && g.width == WIDTH);
        for (int64_t u = 0; u < g.sources; u++) node[u] = (double)((u * 5 + 3) % 7) - 3;
        for (int64_t n = 0; n < g.sources * g.width; n++) neuron[n] = node[n / g.width];
        ok(ca_circuit_select_nodes(&g, node, false, CA_CIRCUIT_TOP, count, 0, &nodes));
        ok(ca_circuit_select_neurons(&g, neuron, false, CA_CIRCUIT_TOP, count * g.width, 0,
                                     &neurons));
        assert_memory_equal(neurons.edges, nodes.edges, (size_t)(g.sources * g.destinations));
        assert_memory_equal(neurons.nodes, nodes.nodes, (size_t)g.sources);
        assert_int_equal(neurons.neuron_count, nodes.node_count * g.width);
        ok(ca_circuit_add_neurons(&g, &nodes)); /* keeps none */
        ca_circuit_prune(&g, &nodes);
        assert_int_equal(nodes.edge_count + nodes.node_count + nodes.neuron_count, 0);
        ca_circuit_free(&nodes);
        ca_circuit_free(&neurons);
    }
}

int main(void) {
    const struct CMUnitTest all[] = {
        cmocka_unit_test(test_neurons),
        cmocka_unit_test(test_neurons_of_whole_nodes),
    };
    return cmocka_run_group_tests(all, NULL, NULL);
}
