/* SPDX-License-Identifier: MIT
 *
 * See attribution.h.
 */
#include "attribution.h"

#include <math.h>
#include <string.h>

attribution attribution_of(eap_golden *g, eap_rule rule, int64_t points) {
    attribution a = {.g = g,
                     .sites = {{CA_SITE_EMBED, -1}},
                     .site_count = 1,
                     .point_count = points,
                     .at_a_time = points,
                     .cut = {0, g->data.count},
                     .groups = 1,
                     .part = MOST_PAIRS,
                     .expanded = 64,
                     .metric = "logit_diff"};
    assert_true(points <= MOST_POINTS && g->data.count <= MOST_PAIRS);
    ca_eap_points(rule, points, a.points);
    return a;
}

attribution attribution_at_clean(eap_golden *g) { return attribution_of(g, EAP_RIGHT, 1); }

void cut_as_reference(attribution *a) {
    a->groups = GOLDEN_BATCHES;
    memcpy(a->cut, a->g->batch, sizeof a->g->batch);
}

/* ---- scores */

static int64_t matrix_size(const ca_circuit_graph *g) { return g->sources * g->destinations; }

/* What a visitor of scores adds to. */
typedef struct taking {
    attribution *a;
    const eap_group *group;
    int64_t first; /* pair of the group */
} taking;

static ca_status take_scores(void *context, int64_t n, int64_t position, const double *score) {
    const taking *t = context;
    const ca_circuit_graph *graph = &t->a->g->graph;
    int64_t pair = t->group->first + t->first + n, columns = graph->destinations;
    bool equal = position >= 0 && position < t->group->data->examples[pair].first_difference;
    double *sum = t->a->edge + pair * matrix_size(graph), *most = &t->a->before_difference[pair];
    assert_int_equal(position >= 0, t->a->by_position);
    for (int64_t v = 0; v < columns; v++)
        for (int64_t u = 0; u < ca_circuit_parents(graph, v); u++) {
            sum[u * columns + v] += score[u * columns + v];
            if (equal) *most = fmax(*most, fabs(score[u * columns + v]));
        }
    return CA_OK;
}

static void add_nodes(attribution *a, const eap_gradients *e) {
    const eap_group *group = &e->part;
    int64_t all = e->points * group->rows, sources = a->g->graph.sources;
    const double *node =
        values_of(&a->g->f, ca_tensor_2d(e->all_node.data, e->all_node.dtype, sources, all));
    for (int64_t n = 0; n < group->count; n++)
        for (int64_t u = 0; u < sources; u++)
            for (int64_t k = 0; k < e->points; k++)
                for (int64_t t = group->row[n]; t < group->row[n + 1]; t++)
                    a->node[(group->first + n) * sources + u] +=
                        e->point[k].weight * node[u * all + k * group->rows + t];
}

/* The sources whose edges a path scores. */
static void sources_of(const attribution *a, eap_site site, int64_t *first, int64_t *count) {
    const ca_circuit_graph *graph = &a->g->graph;
    *first = 0;
    *count = a->own_site ? 1 : graph->sources;
    if (!a->own_site || site.kind == CA_SITE_EMBED) return;
    *first = ca_circuit_mlp(graph, site.layer);
    if (site.kind == CA_SITE_MLP_OUT) return;
    *first = ca_circuit_head(graph, site.layer, 0);
    *count = graph->heads;
}

/* ---- runs */

static eap_group_sizes sizes_of(const attribution *a, const eap_group *all) {
    eap_group_sizes sizes = {0};
    for (int64_t i = 0; i < a->groups; i++) {
        int64_t from = a->cut[i], to = a->cut[i + 1], prefix = 0;
        for (int64_t n = from; n < to; n++) prefix += all->tail[n];
        sizes.pairs = to - from > sizes.pairs ? to - from : sizes.pairs;
        sizes.rows =
            all->row[to] - all->row[from] > sizes.rows ? all->row[to] - all->row[from] : sizes.rows;
        sizes.reads = sizes.pairs;
        sizes.prefix_rows = prefix > sizes.prefix_rows ? prefix : sizes.prefix_rows;
    }
    return sizes;
}

static int64_t points_from(const attribution *a, int64_t k) {
    return a->point_count - k < a->at_a_time ? a->point_count - k : a->at_a_time;
}

static void attribute_part(attribution *a, eap_gradients *e, eap_scores *s, method_scorer *scorer,
                           int64_t pair) {
    const eap_group *group = e->ends->group;
    taking t = {a, group, pair};
    int64_t rest = group->count - pair;
    ca_eap_gradients_part(e, pair, a->part < rest ? a->part : rest);
    for (int64_t i = 0; i < a->site_count; i++)
        for (int64_t k = 0; k < a->point_count; k += a->at_a_time) {
            int64_t first, count;
            sources_of(a, a->sites[i], &first, &count);
            ok(ca_eap_gradients_run(e, a->sites[i], a->points + k, points_from(a, k), -1, scorer));
            ok(ca_eap_scores_run(s, e, first, count, take_scores, &t));
            add_nodes(a, e);
        }
}

static void attribute_group(attribution *a, eap_gradients *e, eap_scores *s, method_scorer *scorer,
                            const eap_group *group) {
    ok(ca_eap_gradients_begin(e, group, a->sites[0], a->points, points_from(a, 0), scorer));
    for (int64_t n = 0; n < group->count; n += a->part) attribute_part(a, e, s, scorer, n);
    size_t bytes = (size_t)group->count * sizeof(double);
    memcpy(a->clean + group->first, e->ends->clean_metric, bytes);
    memcpy(a->corrupted + group->first, e->ends->ablated_metric, bytes);
}

static void take_results(attribution *a) {
    fixture *f = &a->g->f;
    int64_t pairs = a->g->data.count;
    a->edge = numbers(f, pairs * matrix_size(&a->g->graph));
    a->node = numbers(f, pairs * a->g->graph.sources);
    a->before_difference = numbers(f, pairs);
    a->clean = numbers(f, pairs);
    a->corrupted = numbers(f, pairs);
}

/* Means over all clean prompts, group by group. */
static void make_means(attribution *a, eap_ends *ends, eap_ablation *ablation, eap_group *group) {
    const ca_dataset *data = &a->g->data;
    for (int64_t i = 0; i < a->groups && ablation->positions; i++) {
        ca_eap_group_set(group, data, a->cut[i], a->cut[i + 1], true);
        ok(ca_eap_ends_begin(ends, group));
        ok(ca_eap_ends_run(ends, true, false, NULL));
        ok(ca_eap_ablation_add(ablation, a->g->f.model, group, &ends->clean, data->count));
    }
}

static void attribute_groups(attribution *a, eap_ends *ends, eap_group *group) {
    const ca_model *m = a->g->f.model;
    const ca_metric metric = {.kind = ca_metric_find(a->metric)};
    eap_gradients e = {.ends = ends,
                       .sizes = ends->sizes,
                       .most_points = a->at_a_time,
                       .wants = EAP_WANTS_EDGES | EAP_WANTS_NODES};
    eap_scores s;
    method_scorer scorer;
    ok(ca_eap_gradients_create(&e));
    ok(ca_eap_scores_create(m, &a->g->graph, a->expanded, a->by_position, &s));
    ok(ca_method_scorer_create(&metric, &a->g->data, m->backend, m->arch.vocab, ends->sizes.pairs,
                               &scorer));
    for (int64_t i = 0; i < a->groups; i++) {
        ca_eap_group_set(group, &a->g->data, a->cut[i], a->cut[i + 1], a->whole);
        attribute_group(a, &e, &s, &scorer, group);
    }
    ca_method_scorer_free(&scorer);
    ca_eap_scores_free(&s);
    ca_eap_gradients_free(&e);
}

static bool is_of_inputs(const attribution *a) {
    for (int64_t i = 0; i < a->site_count; i++)
        if (a->sites[i].kind != CA_SITE_EMBED) return false;
    return true;
}

void attribute(attribution *a) {
    const ca_dataset *data = &a->g->data;
    eap_ablation ablation = {.kind = a->ablation, .positions = a->mean_positions};
    eap_ends ends = {.model = a->g->f.model,
                     .ablation = a->ablation == EAP_PATCHING ? NULL : &ablation,
                     .runs = 2};
    eap_group group;
    take_results(a);
    ok(ca_eap_group_create(data->count, &group));
    ca_eap_group_set(&group, data, 0, data->count, a->whole);
    ends.sizes = sizes_of(a, &group);
    ends.difference_only = is_of_inputs(a) && !ends.ablation && !a->keep_ends;
    ok(ca_eap_ablation_create(ends.model, &ablation));
    ok(ca_eap_ends_create(&ends));
    make_means(a, &ends, &ablation, &group);
    attribute_groups(a, &ends, &group);
    ca_eap_ends_free(&ends);
    ca_eap_ablation_free(&ablation);
    ca_eap_group_free(&group);
}

double *mean_scores(const attribution *a, bool as_peer) {
    eap_golden *g = a->g;
    int64_t size = matrix_size(&g->graph);
    double *mean = numbers(&g->f, size);
    for (int b = 0; b < GOLDEN_BATCHES; b++)
        for (int64_t n = g->batch[b]; n < g->batch[b + 1]; n++) {
            double share = 1 / (double)g->data.count;
            if (as_peer) share /= (double)(g->batch[b + 1] - g->batch[b]);
            for (int64_t i = 0; i < size; i++) mean[i] += share * a->edge[n * size + i];
        }
    return mean;
}

typedef struct golden_test {
    void (*run)(eap_golden *g);
} golden_test;

static void run_goldens(const char *backend, const void *context) {
    on_goldens(backend, ((const golden_test *)context)->run);
}

void on_every_golden(void (*test)(eap_golden *g)) {
    each_backend(run_goldens, &(golden_test){test});
}
