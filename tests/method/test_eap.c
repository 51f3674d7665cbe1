/* SPDX-License-Identifier: MIT
 *
 * Scores of edge attribution against golden vectors of an independent implementation, against
 * finite differences of plain forwards, and their laws.
 *
 * Limits are relative to the largest score: small scores are sums of large terms of either sign,
 * whose rounding is that of the terms. The golden vectors have 16 digits; float32 has 7, and a
 * score is a sum of some hundred products of values that went through some ten layers of them.
 */
#include "attribution.h"
#include "edge_slopes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double golden_limit(const eap_golden *g) { return g->f.exact ? 1e-10 : 1e-5; }
/* Sums of the same products in another order. */
static double order_limit(const eap_golden *g) { return g->f.exact ? 1e-12 : 1e-5; }

static int64_t size_of(const eap_golden *g) { return g->graph.sources * g->graph.destinations; }

static void like_golden(attribution *a, const char *name, bool as_peer) {
    attribute(a);
    near(&a->g->f, name, mean_scores(a, as_peer), eap_golden_scores(a->g, name), size_of(a->g),
         golden_limit(a->g));
    near(&a->g->f, "corrupted metric", a->corrupted, a->g->corrupted, a->g->data.count,
         golden_limit(a->g));
    near(&a->g->f, "clean metric", a->clean, a->g->clean, a->g->data.count, golden_limit(a->g));
}

/* ---- golden vectors */

static void at_one_point(eap_golden *g) {
    attribution a = attribution_at_clean(g);
    like_golden(&a, "EAP_itemmean", false);
    cut_as_reference(&a);
    like_golden(&a, "EAP", true);
}

static void test_at_one_point(void **state) {
    (void)state;
    on_every_golden(at_one_point);
}

static void along_inputs(eap_golden *g) {
    attribution left = attribution_of(g, EAP_LEFT, 5), right = attribution_of(g, EAP_RIGHT, 5);
    like_golden(&left, "EAP-IG-inputs_m5_k0to4", true);
    cut_as_reference(&right);
    like_golden(&right, "EAP-IG-inputs_m5_k1to5", true);
}

static void test_along_inputs(void **state) {
    (void)state;
    on_every_golden(along_inputs);
}

static void at_both_ends(eap_golden *g) {
    attribution a = attribution_of(g, EAP_LEFT, 2);
    a.points[0] = (eap_point){1, 0.5};
    a.points[1] = (eap_point){0, 0.5};
    like_golden(&a, "clean-corrupted", true);
}

static void test_at_both_ends(void **state) {
    (void)state;
    on_every_golden(at_both_ends);
}

static attribution along_activations(eap_golden *g, int64_t points) {
    attribution a = attribution_of(g, EAP_RIGHT, points);
    for (int64_t l = 0; l < g->graph.layers; l++) {
        a.sites[a.site_count++] = (eap_site){CA_SITE_Z, l};
        a.sites[a.site_count++] = (eap_site){CA_SITE_MLP_OUT, l};
    }
    return a;
}

static void all_sites_like_golden(eap_golden *g) {
    attribution a = along_activations(g, 2);
    for (int64_t k = 0; k < a.point_count; k++) a.points[k].weight /= (double)a.site_count;
    like_golden(&a, "EAP-IG-activations_m2_compat", true);
}

static void test_all_sites(void **state) {
    (void)state;
    on_every_golden(all_sites_like_golden);
}

/* ---- finite differences */

static void like_finite_differences(eap_golden *g) {
    attribution a = attribution_at_clean(g);
    attribute(&a);
    like_slopes(g, 4, EAP_PATCHING, a.edge + 4 * size_of(g));
}

static void test_finite_differences(void **state) {
    (void)state;
    on_goldens("ref", like_finite_differences);
}

/* ---- laws */

/* Scores of the edges that leave a source, from the gradients at the inputs that read it; and its
 * own score, from the gradient at its output, which the backward adds up by another way. */
static void edges_sum_to_nodes(eap_golden *g) {
    attribution trials[] = {attribution_at_clean(g), attribution_of(g, EAP_GAUSS_LEGENDRE, 3),
                            along_activations(g, 2)};
    int64_t sources = g->graph.sources, columns = g->graph.destinations;
    for (size_t i = 0; i < sizeof trials / sizeof *trials; i++) {
        attribution *a = &trials[i];
        double *sum = numbers(&g->f, g->data.count * sources);
        attribute(a);
        for (int64_t u = 0; u < g->data.count * sources; u++)
            for (int64_t v = 0; v < columns; v++) sum[u] += a->edge[u * columns + v];
        near(&g->f, "sum of edges", sum, a->node, g->data.count * sources, order_limit(g));
    }
}

static void test_edges_sum_to_nodes(void **state) {
    (void)state;
    on_every_golden(edges_sum_to_nodes);
}

static void same_scores(attribution *a, const attribution *b, const char *what) {
    attribute(a);
    near(&a->g->f, what, a->edge, b->edge, a->g->data.count * size_of(a->g), order_limit(a->g));
    near(&a->g->f, what, a->node, b->node, a->g->data.count * a->g->graph.sources,
         order_limit(a->g));
    near(&a->g->f, what, a->clean, b->clean, a->g->data.count, order_limit(a->g));
    near(&a->g->f, what, a->corrupted, b->corrupted, a->g->data.count, order_limit(a->g));
}

static void cuts_do_not_matter(eap_golden *g) {
    attribution base = attribution_of(g, EAP_LEFT, 5), a = base;
    attribute(&base);
    cut_as_reference(&a);
    same_scores(&a, &base, "groups");
    a.groups = g->data.count;
    for (int64_t n = 0; n <= g->data.count; n++) a.cut[n] = n;
    same_scores(&a, &base, "pairs alone");
    a = base;
    for (a.part = 1; a.part < 4; a.part++) same_scores(&a, &base, "groups in parts");
    a = base;
    for (a.at_a_time = 1; a.at_a_time < a.point_count; a.at_a_time++)
        same_scores(&a, &base, "points in several passes");
    a = base;
    a.keep_ends = true;
    same_scores(&a, &base, "both ends kept");
    a = base;
    a.expanded = 5; /* more than a pair has in some, fewer in others */
    same_scores(&a, &base, "few rows expanded");
    a.whole = true;
    same_scores(&a, &base, "whole prompts");
    a.by_position = true;
    same_scores(&a, &base, "tokens of whole prompts");
    for (int64_t n = 0; n < g->data.count; n++)
        if (!(a.before_difference[n] <= (g->f.exact ? 0 : 1e-6)))
            fail_msg("%s: pair %lld: expected no score before the first difference, got %g",
                     g->f.name, (long long)n, a.before_difference[n]);
    a = base;
    a.by_position = true;
    same_scores(&a, &base, "tokens");
}

static void test_cuts_do_not_matter(void **state) {
    (void)state;
    on_every_golden(cuts_do_not_matter);
}

static void order_does_not_matter(eap_golden *g) {
    attribution a = attribution_of(g, EAP_LEFT, 3), b = a;
    int64_t pairs = g->data.count, size = size_of(g);
    ca_example reversed[MOST_PAIRS], *kept = g->data.examples;
    double *edge = numbers(&g->f, pairs * size);
    attribute(&a);
    for (int64_t n = 0; n < pairs; n++) reversed[pairs - 1 - n] = kept[n];
    g->data.examples = reversed;
    b.groups = 2, b.cut[1] = 3, b.cut[2] = pairs;
    attribute(&b);
    g->data.examples = kept;
    for (int64_t n = 0; n < pairs; n++)
        memcpy(edge + n * size, b.edge + (pairs - 1 - n) * size, (size_t)size * sizeof *edge);
    near(&g->f, "order", edge, a.edge, pairs * size, order_limit(g));
}

static void test_order_does_not_matter(void **state) {
    (void)state;
    on_every_golden(order_does_not_matter);
}

/* A path scores the edges that leave its own site: all edges of the input's path alone, of the
 * first heads' path alone, ... put together. */
static void own_sites_are_rows(eap_golden *g) {
    attribution own = along_activations(g, 2);
    int64_t columns = g->graph.destinations, sources = g->graph.sources, size = size_of(g);
    double *rows = numbers(&g->f, g->data.count * size);
    own.own_site = true;
    attribute(&own);
    for (int64_t i = 0; i < own.site_count; i++) {
        attribution one = own;
        one.own_site = false;
        one.sites[0] = own.sites[i];
        one.site_count = 1;
        attribute(&one);
        for (int64_t u = 0; u < sources; u++) {
            ca_circuit_place p = ca_circuit_source_place(&g->graph, u);
            ca_site_kind kind = p.layer < 0   ? CA_SITE_EMBED
                                : p.head >= 0 ? CA_SITE_Z
                                              : CA_SITE_MLP_OUT;
            if (kind != own.sites[i].kind || p.layer != own.sites[i].layer) continue;
            for (int64_t n = 0; n < g->data.count; n++)
                memcpy(rows + n * size + u * columns, one.edge + n * size + u * columns,
                       (size_t)columns * sizeof *rows);
        }
    }
    near(&g->f, "own site", own.edge, rows, g->data.count * size, order_limit(g));
}

static void test_own_sites(void **state) {
    (void)state;
    on_every_golden(own_sites_are_rows);
}

/* ---- completeness */

/* What the edges of the input leave unexplained of the change of the loss: norm over pairs, as a
 * share of that of the change. */
static double residual_of(eap_golden *g, eap_rule rule, int64_t points) {
    attribution a = attribution_of(g, rule, points);
    double rest = 0, all = 0;
    a.at_a_time = 32;
    attribute(&a);
    for (int64_t n = 0; n < g->data.count; n++) {
        double change = g->clean[n] - g->corrupted[n], sum = 0;
        for (int64_t v = 0; v < g->graph.destinations; v++) sum += a.edge[n * size_of(g) + v];
        rest += (change - sum) * (change - sum);
        all += change * change;
    }
    return sqrt(rest / all);
}

/* The midpoint rule is off by 1/m^2 once m is large beside what bends in these random models,
 * Gauss-Legendre by less than any power of m. */
static void paths_are_complete(eap_golden *g) {
    double half = residual_of(g, EAP_MIDPOINT, 64), all = residual_of(g, EAP_MIDPOINT, 128);
    double few = residual_of(g, EAP_GAUSS_LEGENDRE, 32);
    double many = residual_of(g, EAP_GAUSS_LEGENDRE, 64);
    if (!(all / half > 0.24 && all / half < 0.26))
        fail_msg("%s: expected that 128 midpoints leave a quarter of what 64 leave, got %g of %g",
                 g->f.name, all, half);
    if (!(many < few / 16 && many < all))
        fail_msg("%s: expected that 64 Gauss-Legendre nodes leave less than 32 and than 128 "
                 "midpoints, got %g of %g and %g",
                 g->f.name, many, few, all);
}

static void test_completeness(void **state) {
    (void)state;
    on_goldens("ref", paths_are_complete);
}

/* ---- rules */

static double integral(eap_rule rule, int64_t points, int power) {
    eap_point p[MOST_POINTS];
    double sum = 0;
    ca_eap_points(rule, points, p);
    for (int64_t k = 0; k < points; k++) sum += p[k].weight * pow(p[k].alpha, power);
    return sum;
}

static void close_to(double got, double expected) {
    if (!(fabs(got - expected) <= 1e-14)) fail_msg("expected %.17g, got %.17g", expected, got);
}

static void test_equal_steps(void **state) {
    (void)state;
    for (int64_t m = 1; m <= 64; m++) {
        double n = (double)m;
        eap_point p[MOST_POINTS];
        close_to(integral(EAP_LEFT, m, 1), (n - 1) / (2 * n));
        close_to(integral(EAP_RIGHT, m, 1), (n + 1) / (2 * n));
        close_to(integral(EAP_MIDPOINT, m, 1), 0.5);
        close_to(integral(EAP_MIDPOINT, m, 2), 1.0 / 3 - 1 / (12 * n * n));
        ca_eap_points(EAP_LEFT, m, p);
        assert_true(p[0].alpha == 0); /* the corrupted run itself */
        ca_eap_points(EAP_RIGHT, m, p);
        assert_true(p[m - 1].alpha == 1); /* the clean run itself */
    }
}

/* n nodes integrate powers below 2 n; the next power misses by (n!)^4 / ((2 n + 1) (2 n)!^2)
 * (Abramowitz and Stegun 25.4.30, on [0, 1]). */
static void test_gauss_legendre(void **state) {
    (void)state;
    double miss = 1;
    for (int n = 1; n <= 64; n++) {
        for (int power = 0; power < 2 * n; power++)
            close_to(integral(EAP_GAUSS_LEGENDRE, n, power), 1.0 / (power + 1));
        miss *= pow(n, 4) / pow((2.0 * n - 1) * 2 * n, 2);
        if (n <= 10) close_to(integral(EAP_GAUSS_LEGENDRE, n, 2 * n), (1 - miss) / (2 * n + 1));
    }
}

static void test_rules_rise(void **state) {
    (void)state;
    for (eap_rule rule = EAP_LEFT; rule <= EAP_GAUSS_LEGENDRE; rule++)
        for (int64_t m = 1; m <= 64; m++) {
            eap_point p[MOST_POINTS];
            ca_eap_points(rule, m, p);
            close_to(integral(rule, m, 0), 1);
            for (int64_t k = 0; k < m; k++) {
                assert_true(p[k].alpha >= 0 && p[k].alpha <= 1 && p[k].weight > 0);
                if (k) assert_true(p[k].alpha > p[k - 1].alpha);
            }
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_steps),
        cmocka_unit_test(test_gauss_legendre),
        cmocka_unit_test(test_rules_rise),
        cmocka_unit_test(test_at_one_point),
        cmocka_unit_test(test_along_inputs),
        cmocka_unit_test(test_at_both_ends),
        cmocka_unit_test(test_all_sites),
        cmocka_unit_test(test_finite_differences),
        cmocka_unit_test(test_edges_sum_to_nodes),
        cmocka_unit_test(test_cuts_do_not_matter),
        cmocka_unit_test(test_order_does_not_matter),
        cmocka_unit_test(test_own_sites),
        cmocka_unit_test(test_completeness),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
