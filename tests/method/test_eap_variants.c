/* SPDX-License-Identifier: MIT
 *
 * What takes an ablated output's place other than the corrupted run, and the variants without
 * gradients: exact patching and information flow routes.
 *
 * Limits are relative to the largest score, as in test_eap.c.
 */
#include "attribution.h"
#include "edge_slopes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double golden_limit(const eap_golden *g) { return g->f.exact ? 1e-10 : 1e-5; }

static int64_t size_of(const eap_golden *g) { return g->graph.sources * g->graph.destinations; }

/* ---- ablations */

static attribution ablated(eap_golden *g, eap_ablation_kind kind) {
    attribution a = attribution_at_clean(g);
    a.ablation = kind;
    a.whole = true;
    if (kind == EAP_MEAN || kind == EAP_ONE_MEAN) a.mean_positions = 1;
    if (kind == EAP_MEAN_POSITIONAL) a.mean_positions = g->data.examples[0].clean.count;
    return a;
}

static void zero_like_golden(eap_golden *g) {
    attribution a = ablated(g, EAP_ZERO);
    cut_as_reference(&a);
    attribute(&a);
    near(&g->f, "EAP_zero", mean_scores(&a, true), eap_golden_scores(g, "EAP_zero"), size_of(g),
         golden_limit(g));
}

static void test_zero(void **state) {
    (void)state;
    on_every_golden(zero_like_golden);
}

/* Scores of edges are slopes towards the ablated outputs, made here from plain runs. The groups
 * are of unequal sizes, and a mean is over all of them. */
static void slopes_of(eap_golden *g, eap_ablation_kind kind, int64_t pair) {
    attribution a = ablated(g, kind);
    a.groups = 2;
    a.cut[1] = 1;
    a.cut[2] = g->data.count;
    attribute(&a);
    like_slopes(g, pair, kind, a.edge + pair * size_of(g));
}

static void slopes_of_ablations(eap_golden *g) {
    ca_example *all = g->data.examples, some[MOST_PAIRS];
    int64_t count = g->data.count, kept = 0;
    slopes_of(g, EAP_ZERO, 4);
    slopes_of(g, EAP_MEAN, 4);
    slopes_of(g, EAP_ONE_MEAN, 4);
    /* means at positions are of prompts of one length */
    for (int64_t n = 0; n < count; n++)
        if (all[n].clean.count == all[4].clean.count) some[kept++] = all[n];
    assert_true(kept >= 3);
    g->data.examples = some;
    g->data.count = kept;
    slopes_of(g, EAP_MEAN_POSITIONAL, kept - 1);
    g->data.examples = all;
    g->data.count = count;
}

static void test_ablations(void **state) {
    (void)state;
    on_goldens("ref", slopes_of_ablations);
}

/* A path of inputs from what is ablated by other means: its completeness needs the metric of a run
 * whose embeddings alone are ablated, which no variant makes; but one point at its clean end is the
 * plain variant. */
static void path_ends_at_clean(eap_golden *g) {
    attribution plain = ablated(g, EAP_MEAN), path = plain;
    path.point_count = path.at_a_time = 2;
    path.points[0] = (eap_point){0.5, 0};
    path.points[1] = (eap_point){1, 1};
    attribute(&plain);
    attribute(&path);
    near(&g->f, "path", path.edge, plain.edge, g->data.count * size_of(g), golden_limit(g));
}

static void test_path_ends_at_clean(void **state) {
    (void)state;
    on_every_golden(path_ends_at_clean);
}

/* ---- variants without gradients */

/* The ends of all pairs, run. */
typedef struct setting {
    eap_golden *g;
    ca_metric metric;
    eap_group group;
    eap_ends ends;
    method_scorer scorer;
} setting;

static void setting_open(setting *s, eap_golden *g, bool whole) {
    const ca_model *m = g->f.model;
    *s = (setting){.g = g, .metric.kind = ca_metric_find("logit_diff")};
    ok(ca_eap_group_create(g->data.count, &s->group));
    ca_eap_group_set(&s->group, &g->data, 0, g->data.count, whole);
    s->ends =
        (eap_ends){.model = m,
                   .sizes = {g->data.count, s->group.rows, s->group.prefix_rows, g->data.count},
                   .runs = 2,
                   .keep_stream = true};
    ok(ca_eap_ends_create(&s->ends));
    ok(ca_method_scorer_create(&s->metric, &g->data, m->backend, m->arch.vocab, g->data.count,
                               &s->scorer));
    ok(ca_eap_ends_begin(&s->ends, &s->group));
    ok(ca_eap_ends_run(&s->ends, true, true, &s->scorer));
    ok(ca_eap_ends_subtract(&s->ends, 0, s->group.rows));
}

static void setting_close(setting *s) {
    ca_method_scorer_free(&s->scorer);
    ca_eap_ends_free(&s->ends);
    ca_eap_group_free(&s->group);
}

static int64_t longest_of(const setting *s) {
    int64_t longest = 0;
    for (int64_t n = 0; n < s->group.count; n++) {
        int64_t rows = s->group.row[n + 1] - s->group.row[n];
        longest = rows > longest ? rows : longest;
    }
    return longest;
}

/* ---- exact patching */

typedef struct exact_scores {
    double *edge; /* [N, F, R] change of the loss; 0 where there is no edge */
    double *node; /* [N, F] */
} exact_scores;

/* rows: of a pass. */
static exact_scores exact_of(setting *s, int64_t rows) {
    eap_golden *g = s->g;
    eap_exact exact;
    int64_t sources = g->graph.sources, columns = g->graph.destinations, size = size_of(g);
    exact_scores out = {numbers(&g->f, g->data.count * size),
                        numbers(&g->f, g->data.count * sources)};
    double *metric = numbers(&g->f, size);
    ok(ca_eap_exact_create(&s->ends, &g->graph, &s->scorer, rows, longest_of(s), &exact));
    for (int64_t n = 0; n < g->data.count; n++) {
        double clean = s->ends.clean_metric[n];
        ok(ca_eap_exact_edges(&exact, n, metric));
        for (int64_t v = 0; v < columns; v++)
            for (int64_t u = 0; u < ca_circuit_parents(&g->graph, v); u++)
                out.edge[n * size + u * columns + v] = clean - metric[u * columns + v];
        ok(ca_eap_exact_nodes(&exact, n, metric));
        for (int64_t u = 0; u < sources; u++) out.node[n * sources + u] = clean - metric[u];
    }
    ca_eap_exact_free(&exact);
    return out;
}

static void exact_like_golden(eap_golden *g) {
    /* whole prompts or tails, one run in a pass or many */
    const struct {
        bool whole;
        int64_t rows;
    } trials[] = {{false, 9}, {false, 200}, {true, 64}};
    for (size_t i = 0; i < sizeof trials / sizeof *trials; i++) {
        setting s;
        attribution a = attribution_at_clean(g);
        setting_open(&s, g, trials[i].whole);
        a.edge = exact_of(&s, trials[i].rows).edge;
        near(&g->f, "exact", mean_scores(&a, false), eap_golden_scores(g, "exact_loss_delta"),
             size_of(g), golden_limit(g));
        setting_close(&s);
    }
}

static void test_exact_edges(void **state) {
    (void)state;
    on_every_golden(exact_like_golden);
}

/* difference = step (ablated - clean). */
static void shrink(ca_backend *be, ca_tensor difference, ca_tensor ablated, ca_tensor clean,
                   double step) {
    ok(ca_fill(be, difference, 0));
    ok(ca_add(be, difference, ablated, step));
    ok(ca_add(be, difference, clean, -step));
}

/* Of so small a change that the loss is linear, exact patching is EAP; what is left is of the
 * second order in the step. */
static void exact_is_eap_of_small_changes(eap_golden *g) {
    const double step = 1e-6;
    setting s;
    attribution a = attribution_at_clean(g);
    int64_t count = g->data.count * size_of(g);
    if (!g->f.exact) return;
    attribute(&a);
    setting_open(&s, g, false);
    ca_backend *be = s.ends.model->backend;
    const eap_outputs *d = &s.ends.difference, *x = &s.ends.ablated, *y = &s.ends.clean;
    shrink(be, d->embed, x->embed, y->embed, step);
    shrink(be, d->z, x->z, y->z, step);
    shrink(be, d->mlp, x->mlp, y->mlp, step);
    double *edge = exact_of(&s, 64).edge;
    for (int64_t i = 0; i < count; i++) edge[i] /= step;
    near(&g->f, "small changes", edge, a.edge, count, 1e-5);
    setting_close(&s);
}

static void test_exact_is_eap_of_small_changes(void **state) {
    (void)state;
    on_every_golden(exact_is_eap_of_small_changes);
}

/* Ablating the input is the corrupted run; ablating a source with a single edge out is ablating
 * that edge. */
static void exact_nodes(eap_golden *g) {
    setting s;
    int64_t sources = g->graph.sources, columns = g->graph.destinations, size = size_of(g);
    double *node = numbers(&g->f, g->data.count * sources), *expected;
    int64_t count = 0;
    setting_open(&s, g, false);
    exact_scores e = exact_of(&s, 40);
    expected = numbers(&g->f, g->data.count * sources);
    for (int64_t n = 0; n < g->data.count; n++)
        for (int64_t u = 0; u < sources; u++) {
            int64_t out = 0;
            for (int64_t v = 0; v < columns; v++) out += u < ca_circuit_parents(&g->graph, v);
            if (u > 0 && out > 1) continue;
            node[count] = e.node[n * sources + u];
            expected[count++] =
                u ? e.edge[n * size + u * columns + columns - 1] : g->clean[n] - g->corrupted[n];
        }
    /* the last MLP; of parallel blocks its layer's heads too */
    assert_int_equal(count, g->data.count * (2 + (g->graph.parallel ? g->graph.heads : 0)));
    near(&g->f, "node", node, expected, count, golden_limit(g));
    setting_close(&s);
}

static void test_exact_nodes(void **state) {
    (void)state;
    on_every_golden(exact_nodes);
}

/* ---- information flow */

static double norm1(const double *x, const double *a, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += fabs(x[i] - (a ? a[i] : 0));
    return sum;
}

/* Adds the column's scores by the definition, from what the destination reads, [T, D]. */
static void slow_flow(eap_golden *g, const double *x, const double *outputs, int64_t rows,
                      int64_t column, double *score) {
    int64_t width = g->graph.width, parents = ca_circuit_parents(&g->graph, column);
    double *near_ = numbers(&g->f, parents);
    for (int64_t t = 0; t < rows; t++) {
        double all = 0, whole = norm1(x + t * width, NULL, width);
        for (int64_t u = 0; u < parents; u++) {
            const double *a = outputs + (u * rows + t) * width;
            near_[u] = fmax(0, whole - norm1(x + t * width, a, width));
            all += near_[u];
        }
        for (int64_t u = 0; u < parents && all > 0; u++)
            score[u * g->graph.destinations + column] += near_[u] / all / (double)rows;
    }
}

static double *slow_flows(eap_golden *g, int64_t n) {
    static const ca_site_kind sites[] = {CA_SITE_RESID_PRE, CA_SITE_MLP_IN, CA_SITE_RESID_POST};
    enum { SITES = 3 };
    const ca_circuit_graph *graph = &g->graph;
    const ca_prompt_text *text = &g->data.examples[n].clean;
    const sequence whole = {.ids = text->ids, .count = text->count};
    double *score = numbers(&g->f, size_of(g)), *outputs = outputs_of(g, text);
    tap taps[SITES];
    ca_hook hooks[SITES];
    for (int i = 0; i < SITES; i++) hooks[i] = tap_at(&g->f, &taps[i], sites[i]);
    run_model(&g->f, batch_of(&g->f, &whole, 1, READ_LAST), (ca_pass_limits){0}, hooks, SITES);
    for (int64_t v = 0; v < graph->destinations; v++) {
        ca_circuit_place place = ca_circuit_destination_place(graph, v);
        int site = place.layer < 0 ? 2 : place.head >= 0 ? 0 : 1;
        int64_t layer = place.layer < 0 ? graph->layers - 1 : place.layer;
        slow_flow(g, taps[site].value[layer + 1], outputs, text->count, v, score);
    }
    return score;
}

static void flow_like_definition(eap_golden *g) {
    setting s;
    eap_flow flow;
    setting_open(&s, g, true);
    ok(ca_eap_flow_create(&s.ends, &g->graph, 5, &flow)); /* fewer rows than most prompts have */
    for (int64_t n = 0; n < g->data.count; n++) {
        double *score = numbers(&g->f, size_of(g));
        ok(ca_eap_flow_pair(&flow, n, score));
        near(&g->f, "flow", score, slow_flows(g, n), size_of(g), golden_limit(g));
    }
    ca_eap_flow_free(&flow);
    setting_close(&s);
}

static void test_information_flow(void **state) {
    (void)state;
    on_every_golden(flow_like_definition);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_zero),
        cmocka_unit_test(test_ablations),
        cmocka_unit_test(test_path_ends_at_clean),
        cmocka_unit_test(test_exact_edges),
        cmocka_unit_test(test_exact_is_eap_of_small_changes),
        cmocka_unit_test(test_exact_nodes),
        cmocka_unit_test(test_information_flow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
