/* SPDX-License-Identifier: MIT
 *
 * The computation graph and circuits: sizes, numbers and names of edges; selections against golden
 * ones and against the plain definition on random scores; laws of pruning.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "causa/circuit.h"

static void ok(ca_status st) {
    if (st != CA_OK) fail_msg("%s", ca_error_text());
}

static ca_circuit_graph make_graph(int64_t layers, int64_t heads, int64_t kv_columns,
                                   bool parallel) {
    const ca_arch arch = {.layers = layers, .heads = heads, .width = 16, .parallel = parallel};
    return ca_circuit_graph_of(&arch, kv_columns);
}

/* Small graphs of every kind. */
static const struct {
    int64_t layers, heads, kv_columns;
    bool parallel;
} kinds[] = {{3, 4, 0, false}, {3, 4, 0, true},  {3, 4, 2, false},
             {2, 6, 2, true},  {1, 1, 0, false}, {4, 3, 1, false}};
enum { KINDS = sizeof kinds / sizeof *kinds };

static ca_circuit_graph kind(size_t i) {
    return make_graph(kinds[i].layers, kinds[i].heads, kinds[i].kv_columns, kinds[i].parallel);
}

/* ---- sizes, numbers, names */

static void test_sizes(void **state) {
    (void)state;
    static const struct {
        int64_t layers, heads;
        bool parallel;
        int64_t sources, destinations, edges;
    } models[] = {
        {12, 12, false, 157, 445, 32491},     /* GPT-2 small */
        {24, 16, false, 409, 1177, 231877},   /* medium */
        {36, 20, false, 757, 2197, 810703},   /* large */
        {48, 25, false, 1249, 3649, 2235025}, /* XL */
        {12, 12, true, 157, 445, 32347},      /* Pythia-160M */
        {32, 32, true, 1057, 3105, 1591857},  /* Pythia-2.8B */
        {24, 14, false, 361, 1033, 179749},   /* Qwen-2.5-0.5B */
        {26, 8, false, 235, 651, 74218},      /* Gemma-2-2B */
        {32, 32, false, 1057, 3105, 1592881}, /* Llama-3-8B */
    };
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        const ca_circuit_graph g =
            make_graph(models[i].layers, models[i].heads, 0, models[i].parallel);
        assert_int_equal(g.sources, models[i].sources);
        assert_int_equal(g.destinations, models[i].destinations);
        assert_int_equal(g.edges, models[i].edges);
        assert_int_equal(g.kv_columns, g.heads);
    }
}

/* R = L (H + 2 K + 1) + 1, and edges are the pairs below the number of parents. */
static void test_sizes_of_shared_columns(void **state) {
    (void)state;
    const ca_circuit_graph g = make_graph(24, 14, 2, false);
    assert_int_equal(g.destinations, 24 * (14 + 4 + 1) + 1);
    for (size_t i = 0; i < KINDS; i++) {
        const ca_circuit_graph any = kind(i);
        int64_t edges = 0;
        for (int64_t v = 0; v < any.destinations; v++) edges += ca_circuit_parents(&any, v);
        assert_int_equal(any.edges, edges);
    }
}

static void test_numbers(void **state) {
    (void)state;
    const ca_circuit_graph g = make_graph(12, 12, 0, false);
    assert_int_equal(ca_circuit_head(&g, 9, 6), 1 + 9 * 13 + 6);
    assert_int_equal(ca_circuit_mlp(&g, 11), 156);
    assert_int_equal(ca_circuit_column(&g, 5, CA_CIRCUIT_Q), 5 * 37);
    assert_int_equal(ca_circuit_column(&g, 5, CA_CIRCUIT_K), 5 * 37 + 12);
    assert_int_equal(ca_circuit_column(&g, 5, CA_CIRCUIT_V), 5 * 37 + 24);
    assert_int_equal(ca_circuit_column(&g, 5, CA_CIRCUIT_MLP), 5 * 37 + 36);
    assert_int_equal(ca_circuit_column(&g, 0, CA_CIRCUIT_LOGITS), 444);
    assert_int_equal(ca_circuit_parents(&g, 5 * 37), 1 + 5 * 13);
    assert_int_equal(ca_circuit_parents(&g, 5 * 37 + 36), 1 + 5 * 13 + 12);
    assert_int_equal(ca_circuit_parents(&g, 444), 157);
    const ca_circuit_graph parallel = make_graph(12, 12, 0, true);
    assert_int_equal(ca_circuit_parents(&parallel, 5 * 37 + 36), 1 + 5 * 13);
}

static void expect_source(const ca_circuit_graph *g, const char *name, int64_t source) {
    char text[CA_CIRCUIT_NAME_MAX];
    assert_string_equal(ca_circuit_source_name(g, source, text), name);
    assert_int_equal(ca_circuit_find_source(g, name), source);
}

static void expect_destination(const ca_circuit_graph *g, const char *name, int64_t destination) {
    char text[CA_CIRCUIT_NAME_MAX];
    assert_string_equal(ca_circuit_destination_name(g, destination, text), name);
    assert_int_equal(ca_circuit_find_destination(g, name), destination);
}

static void test_names(void **state) {
    (void)state;
    const ca_circuit_graph g = make_graph(12, 12, 0, false), shared = make_graph(3, 4, 2, false);
    expect_source(&g, "input", 0);
    expect_source(&g, "a0.h11", 12);
    expect_source(&g, "m0", 13);
    expect_source(&g, "a11.h10", 1 + 11 * 13 + 10);
    expect_destination(&g, "a5.h5<q>", 5 * 37 + 5);
    expect_destination(&g, "a5.h5<k>", 5 * 37 + 17);
    expect_destination(&g, "a5.h5<v>", 5 * 37 + 29);
    expect_destination(&g, "m0", 36);
    expect_destination(&g, "logits", 444);
    expect_source(&shared, "a1.h3", 1 + 5 + 3);
    expect_destination(&shared, "a1.h3<q>", 9 + 3);
    expect_destination(&shared, "a1.kv1<k>", 9 + 5);
    expect_destination(&shared, "a1.kv0<v>", 9 + 6);
}

static void test_names_of_nothing(void **state) {
    (void)state;
    static const char *const sources[] = {"",
                                          "logits",
                                          "a0",
                                          "a0.h",
                                          "a0.h4",
                                          "a3.h0",
                                          "m3",
                                          "m",
                                          "m-1",
                                          "m01",
                                          "a0.h00",
                                          "A0.h0",
                                          "input ",
                                          "a0.h0<q>",
                                          "a0.kv0",
                                          "a1234567.h0",
                                          "m99999999999999999999"};
    static const char *const destinations[] = {
        "",         "input",     "a0.h0",     "a0.h0<x>", "a0.h0<q", "a0.h0<q>>", "a0.h4<q>",
        "a0.h0<k>", "a0.kv2<k>", "a0.kv0<q>", "a3.h0<q>", "m3",      "logit",     "a0.kv<k>"};
    const ca_circuit_graph g = make_graph(3, 4, 2, false);
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++)
        assert_int_equal(ca_circuit_find_source(&g, sources[i]), -1);
    for (size_t i = 0; i < sizeof destinations / sizeof *destinations; i++)
        assert_int_equal(ca_circuit_find_destination(&g, destinations[i]), -1);
}

/* Every number has a name, every name finds its number, and who reads a column has it as input. */
static void test_names_and_readers_of_all(void **state) {
    (void)state;
    for (size_t i = 0; i < KINDS; i++) {
        const ca_circuit_graph g = kind(i);
        char text[CA_CIRCUIT_NAME_MAX];
        int64_t columns[3], inputs = 0, readers = 0;
        for (int64_t u = 0; u < g.sources; u++) {
            assert_int_equal(ca_circuit_find_source(&g, ca_circuit_source_name(&g, u, text)), u);
            const int n = ca_circuit_inputs(&g, u, columns);
            inputs += n;
            for (int k = 0; k < n; k++) {
                const ca_circuit_readers r = ca_circuit_readers_of(&g, columns[k]);
                assert_true(u >= r.first && u < r.first + r.count);
                assert_true(ca_circuit_parents(&g, columns[k]) <= u);
            }
        }
        for (int64_t v = 0; v < g.destinations; v++) {
            ca_circuit_destination_name(&g, v, text);
            assert_int_equal(ca_circuit_find_destination(&g, text), v);
            readers += ca_circuit_readers_of(&g, v).count;
        }
        assert_int_equal(inputs, readers);
    }
}

/* ---- golden selections */

typedef struct golden {
    json_t *root;
    ca_circuit_graph g;
    double *score;
} golden;

static golden open_golden(const char *path) {
    golden file = {0};
    json_error_t error;
    file.root = json_load_file(path, 0, &error);
    if (!file.root) fail_msg("%s: %s", path, error.text);
    const json_t *cfg = json_object_get(file.root, "cfg");
    file.g = make_graph(json_integer_value(json_object_get(cfg, "n_layers")),
                        json_integer_value(json_object_get(cfg, "n_heads")), 0,
                        json_is_true(json_object_get(cfg, "parallel_attn_mlp")));
    const json_t *scores = json_object_get(file.root, "scores");
    const json_t *data = json_object_get(json_object_get(scores, "EAP-IG-inputs_m5_k0to4"), "data");
    assert_int_equal(json_array_size(data), file.g.sources * file.g.destinations);
    ok(ca_calloc(json_array_size(data), sizeof *file.score, &file.score));
    for (size_t i = 0; i < json_array_size(data); i++)
        file.score[i] = json_number_value(json_array_get(data, i));
    return file;
}

static void close_golden(golden *file) {
    free(file->score);
    json_decref(file->root);
}

static void expect_names(const golden *file) {
    char text[CA_CIRCUIT_NAME_MAX];
    const json_t *sources = json_object_get(file->root, "fwd_nodes");
    const json_t *destinations = json_object_get(file->root, "bwd_nodes");
    assert_int_equal(json_array_size(sources), file->g.sources);
    assert_int_equal(json_array_size(destinations), file->g.destinations);
    for (int64_t u = 0; u < file->g.sources; u++)
        assert_string_equal(ca_circuit_source_name(&file->g, u, text),
                            json_string_value(json_array_get(sources, (size_t)u)));
    for (int64_t v = 0; v < file->g.destinations; v++)
        assert_string_equal(ca_circuit_destination_name(&file->g, v, text),
                            json_string_value(json_array_get(destinations, (size_t)v)));
}

static int64_t find_edge(const ca_circuit_graph *g, const char *name) {
    char source[CA_CIRCUIT_NAME_MAX] = "";
    const char *arrow = strstr(name, "->");
    assert_non_null(arrow);
    memcpy(source, name, (size_t)(arrow - name));
    const int64_t u = ca_circuit_find_source(g, source);
    const int64_t v = ca_circuit_find_destination(g, arrow + 2);
    assert_true(u >= 0 && v >= 0);
    return u * g->destinations + v;
}

static void expect_selection(const golden *file, const json_t *want) {
    const char *select = json_string_value(json_object_get(want, "select"));
    const json_t *edges = json_object_get(want, "edges");
    const int64_t kept = json_integer_value(json_object_get(want, "edges_kept"));
    ca_circuit got;
    ok(ca_circuit_select(&file->g, file->score, json_is_true(json_object_get(want, "absolute")),
                         strcmp(select, "greedy") == 0 ? CA_CIRCUIT_GREEDY : CA_CIRCUIT_TOP,
                         json_integer_value(json_object_get(want, "n")), 0, &got));
    assert_int_equal(got.edge_count, kept);
    assert_int_equal(json_array_size(edges), kept);
    for (size_t i = 0; i < json_array_size(edges); i++)
        assert_true(got.edges[find_edge(&file->g, json_string_value(json_array_get(edges, i)))]);
    ca_circuit_free(&got);
}

static void test_golden_selections(void **state) {
    (void)state;
    static const char *const paths[] = {"tests/fixtures/eap/tiny_seq.json",
                                        "tests/fixtures/eap/tiny_parallel.json",
                                        "tests/fixtures/eap/tiny_gqa.json"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        golden file = open_golden(paths[i]);
        const json_t *circuits = json_object_get(file.root, "circuits");
        expect_names(&file);
        assert_int_equal(json_array_size(circuits), 8);
        for (size_t c = 0; c < json_array_size(circuits); c++)
            expect_selection(&file, json_array_get(circuits, c));
        close_golden(&file);
    }
}

/* ---- selections by their plain definition */

static double *random_scores(const ca_circuit_graph *g, uint64_t seed, bool tied) {
    double *score;
    const ca_philox_key key = {seed, 5};
    ok(ca_calloc((size_t)(g->sources * g->destinations), sizeof *score, &score));
    for (int64_t v = 0; v < g->destinations; v++)
        for (int64_t u = 0; u < g->sources; u++) {
            const int64_t i = u * g->destinations + v;
            const double x = ca_philox_normal(key, (uint64_t)i);
            score[i] = u >= ca_circuit_parents(g, v) ? NAN : tied ? round(x) : x;
        }
    return score;
}

/* Of the open edges not yet picked, the one with the largest key and then the lowest index. */
static int64_t best_edge(const ca_circuit_graph *g, const double *score, const bool *open,
                         const bool *picked) {
    int64_t best = -1;
    for (int64_t u = 0; u < g->sources; u++)
        for (int64_t v = 0; v < g->destinations; v++) {
            const int64_t i = u * g->destinations + v;
            if (u >= ca_circuit_parents(g, v) || !open[v] || picked[i] || isnan(score[i])) continue;
            if (best < 0 || fabs(score[i]) > fabs(score[best])) best = i;
        }
    return best;
}

/* Passes over all nodes and edges until a pass changes nothing. */
static void prune_plainly(const ca_circuit_graph *g, bool *edges) {
    bool changed = true;
    while (changed) {
        changed = false;
        for (int64_t u = 0; u < g->sources; u++) {
            int64_t columns[3];
            const int inputs = ca_circuit_inputs(g, u, columns);
            bool in = u == 0, out = false;
            for (int k = 0; k < inputs; k++)
                for (int64_t s = 0; s < g->sources; s++)
                    in |= edges[s * g->destinations + columns[k]];
            for (int64_t v = 0; v < g->destinations; v++) out |= edges[u * g->destinations + v];
            for (int64_t v = 0; v < g->destinations && !in; v++) {
                changed |= edges[u * g->destinations + v];
                edges[u * g->destinations + v] = false;
            }
            for (int k = 0; k < inputs && !out; k++) {
                const ca_circuit_readers r = ca_circuit_readers_of(g, columns[k]);
                bool wanted = false; /* by another head of the group */
                for (int64_t s = r.first; s < r.first + r.count; s++)
                    for (int64_t v = 0; v < g->destinations; v++)
                        wanted |= edges[s * g->destinations + v];
                for (int64_t s = 0; s < g->sources && !wanted; s++) {
                    changed |= edges[s * g->destinations + columns[k]];
                    edges[s * g->destinations + columns[k]] = false;
                }
            }
        }
    }
}

static void select_plainly(const ca_circuit_graph *g, const double *score, bool greedy,
                           int64_t count, bool *edges) {
    bool *open;
    ok(ca_calloc((size_t)g->destinations, sizeof *open, &open));
    for (int64_t v = 0; v < g->destinations; v++) open[v] = !greedy || v == g->destinations - 1;
    for (int64_t n = 0; n < count; n++) {
        int64_t columns[3];
        const int64_t best = best_edge(g, score, open, edges);
        if (best < 0) break;
        edges[best] = true;
        const int inputs = ca_circuit_inputs(g, best / g->destinations, columns);
        for (int k = 0; k < inputs; k++) open[columns[k]] = true;
    }
    free(open);
    prune_plainly(g, edges);
}

static void expect_edges(const ca_circuit_graph *g, const ca_circuit *got, const bool *want) {
    int64_t count = 0;
    for (int64_t i = 0; i < g->sources * g->destinations; i++) {
        if (got->edges[i] != want[i])
            fail_msg("edge %lld: got %d, expected %d", (long long)i, got->edges[i], want[i]);
        count += want[i];
    }
    assert_int_equal(got->edge_count, count);
}

static void test_selections_are_their_definition(void **state) {
    (void)state;
    for (size_t i = 0; i < KINDS; i++)
        for (int variant = 0; variant < 4; variant++) {
            const ca_circuit_graph g = kind(i);
            const bool greedy = variant & 1, tied = variant & 2;
            double *score = random_scores(&g, 7 * i + (uint64_t)tied, tied);
            for (int64_t count = 0; count <= g.edges; count += 1 + g.edges / 7) {
                bool *want;
                ca_circuit got;
                ok(ca_calloc((size_t)(g.sources * g.destinations), sizeof *want, &want));
                select_plainly(&g, score, greedy, count, want);
                ok(ca_circuit_select(&g, score, true, greedy ? CA_CIRCUIT_GREEDY : CA_CIRCUIT_TOP,
                                     count, 0, &got));
                expect_edges(&g, &got, want);
                ca_circuit_free(&got);
                free(want);
            }
            free(score);
        }
}

static void test_threshold(void **state) {
    (void)state;
    const ca_circuit_graph g = kind(2);
    double *score = random_scores(&g, 3, false);
    ca_circuit above, top;
    int64_t count = 0;
    for (int64_t i = 0; i < g.sources * g.destinations; i++) count += score[i] >= 0.5;
    assert_true(count > 20);
    ok(ca_circuit_select(&g, score, false, CA_CIRCUIT_THRESHOLD, 0, 0.5, &above));
    ok(ca_circuit_select(&g, score, false, CA_CIRCUIT_TOP, count, 0, &top));
    assert_memory_equal(above.edges, top.edges, (size_t)(g.sources * g.destinations));
    ca_circuit_free(&above);
    ca_circuit_free(&top);
    free(score);
}

/* Only edges into the logits survive alone: from the input they stay, from elsewhere they have
 * nothing to say. */
static void test_ties_and_missing_scores(void **state) {
    (void)state;
    const ca_circuit_graph g = make_graph(1, 2, 0, false);
    double score[4 * 8];
    ca_circuit got;
    for (int i = 0; i < 32; i++) score[i] = 1;
    ok(ca_circuit_select(&g, score, false, CA_CIRCUIT_TOP, 8, 0, &got));
    /* the first row whole: six inputs of heads and the MLP's are dead ends */
    assert_int_equal(got.edge_count, 1);
    assert_true(got.edges[7]);
    assert_int_equal(got.node_count, 1);
    ca_circuit_free(&got);
    for (int i = 0; i < 32; i++) score[i] = NAN;
    score[0 * 8 + 7] = -3; /* input -> logits */
    ok(ca_circuit_select(&g, score, false, CA_CIRCUIT_TOP, g.edges, 0, &got));
    assert_int_equal(got.edge_count, 1);
    ca_circuit_free(&got);
    ok(ca_circuit_select(&g, score, true, CA_CIRCUIT_GREEDY, g.edges, 0, &got));
    assert_int_equal(got.edge_count, 1);
    ca_circuit_free(&got);
    ok(ca_circuit_select(&g, score, false, CA_CIRCUIT_THRESHOLD, 0, -3, &got));
    assert_int_equal(got.edge_count, 1);
    ca_circuit_free(&got);
}

static void test_nodes(void **state) {
    (void)state;
    const ca_circuit_graph g = make_graph(2, 2, 0, false); /* input a0.h0 a0.h1 m0 a1.h0 a1.h1 m1 */
    const double score[] = {5, -4, NAN, 0.5, 3, 0.25, -1};
    ca_circuit got;
    ok(ca_circuit_select_nodes(&g, score, true, CA_CIRCUIT_TOP, 3, 0, &got)); /* 0 1 4 */
    const bool want[] = {true, true, false, false, true, false, false};
    assert_memory_equal(got.nodes, want, sizeof want);
    assert_int_equal(got.node_count, 3);
    /* input and a0.h0: into a1.h0 (3 each) and the logits; input into a0.h0 (3); a1.h0 -> logits */
    assert_int_equal(got.edge_count, 2 * 4 + 3 + 1);
    ca_circuit_free(&got);
    ok(ca_circuit_select_nodes(&g, score, false, CA_CIRCUIT_THRESHOLD, 0, 0.5, &got)); /* 0 3 4 */
    assert_true(got.nodes[0] && got.nodes[3] && got.nodes[4] && got.node_count == 3);
    ca_circuit_free(&got);
    ok(ca_circuit_select_nodes(&g, score, true, CA_CIRCUIT_TOP, g.sources, 0, &got));
    assert_int_equal(got.node_count, 6); /* all but the one without a score */
    ca_circuit_free(&got);
}

/* ---- pruning */

static void test_everything_survives(void **state) {
    (void)state;
    for (size_t i = 0; i < KINDS; i++) {
        const ca_circuit_graph g = kind(i);
        ca_circuit all;
        ok(ca_circuit_create(&g, &all));
        for (int64_t v = 0; v < g.destinations; v++)
            for (int64_t u = 0; u < ca_circuit_parents(&g, v); u++)
                all.edges[u * g.destinations + v] = true;
        ca_circuit_prune(&g, &all);
        assert_int_equal(all.edge_count, g.edges);
        assert_int_equal(all.node_count, g.sources);
        ca_circuit_free(&all);
    }
}

/* A chain holds together; without its first edge all of it goes, without its last edge too. */
static void test_chains(void **state) {
    (void)state;
    static const char *const chain[] = {"input->a0.h1<k>", "a0.h1->m1", "m1->a2.h3<v>",
                                        "a2.h3->logits"};
    const ca_circuit_graph g = make_graph(3, 4, 0, false);
    for (size_t cut = 0; cut <= 4; cut++) {
        ca_circuit c;
        ok(ca_circuit_create(&g, &c));
        for (size_t i = 0; i < 4; i++) c.edges[find_edge(&g, chain[i])] = i != cut;
        ca_circuit_count(&g, &c);
        assert_int_equal(c.edge_count, cut == 4 ? 4 : 3);
        assert_int_equal(c.node_count, cut == 4 ? 4 : cut == 0 ? 2 : 2 + (cut == 3 ? 1 : 0));
        ca_circuit_prune(&g, &c);
        assert_int_equal(c.edge_count, cut == 4 ? 4 : 0);
        assert_int_equal(c.node_count, cut == 4 ? 4 : 0);
        ca_circuit_free(&c);
    }
}

/* A shared key column stays while one head of its group is read. */
static void test_shared_columns(void **state) {
    (void)state;
    const ca_circuit_graph g = make_graph(1, 4, 2, false);
    ca_circuit c;
    ok(ca_circuit_create(&g, &c));
    c.edges[find_edge(&g, "input->a0.kv1<k>")] = true;
    c.edges[find_edge(&g, "input->a0.h2<q>")] = true; /* nobody reads a0.h2 */
    c.edges[find_edge(&g, "a0.h3->logits")] = true;
    c.edges[find_edge(&g, "input->a0.kv0<v>")] = true; /* nor a head of group 0 */
    ca_circuit_prune(&g, &c);
    assert_int_equal(c.edge_count, 2);
    assert_int_equal(c.node_count, 2);
    assert_true(c.edges[find_edge(&g, "input->a0.kv1<k>")]);
    ca_circuit_free(&c);
}

static void test_pruning_is_a_fixpoint(void **state) {
    (void)state;
    for (size_t i = 0; i < KINDS; i++)
        for (uint64_t seed = 0; seed < 30; seed++) {
            const ca_circuit_graph g = kind(i);
            const size_t n = (size_t)(g.sources * g.destinations);
            const double density = 0.5 * ca_philox_uniform((ca_philox_key){seed, 9}, 0);
            ca_circuit c;
            bool *want;
            ok(ca_circuit_create(&g, &c));
            ok(ca_calloc(n, sizeof *want, &want));
            for (int64_t v = 0; v < g.destinations; v++)
                for (int64_t u = 0; u < ca_circuit_parents(&g, v); u++) {
                    const int64_t e = u * g.destinations + v;
                    c.edges[e] = ca_philox_uniform((ca_philox_key){seed, i}, (uint64_t)e) < density;
                }
            memcpy(want, c.edges, n);
            prune_plainly(&g, want);
            ca_circuit_prune(&g, &c);
            expect_edges(&g, &c, want);
            const int64_t nodes = c.node_count;
            ca_circuit_prune(&g, &c);
            expect_edges(&g, &c, want);
            assert_int_equal(c.node_count, nodes);
            ca_circuit_free(&c);
            free(want);
        }
}

int main(void) {
    const struct CMUnitTest all[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_sizes_of_shared_columns),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_names_of_nothing),
        cmocka_unit_test(test_names_and_readers_of_all),
        cmocka_unit_test(test_golden_selections),
        cmocka_unit_test(test_selections_are_their_definition),
        cmocka_unit_test(test_threshold),
        cmocka_unit_test(test_ties_and_missing_scores),
        cmocka_unit_test(test_nodes),
        cmocka_unit_test(test_everything_survives),
        cmocka_unit_test(test_chains),
        cmocka_unit_test(test_shared_columns),
        cmocka_unit_test(test_pruning_is_a_fixpoint),
    };
    return cmocka_run_group_tests(all, NULL, NULL);
}
