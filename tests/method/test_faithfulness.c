/* SPDX-License-Identifier: MIT
 *
 * Circuits by options and their faithfulness: golden curves of an independent implementation, areas
 * with closed forms, a run stopped and taken up again, options that cannot be.
 */
#include "eap_golden.h"

#include "eap/faithfulness.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- areas */

static const double ten[] = {.001, .002, .005, .01, .02, .05, .1, .2, .5, 1};

static void test_areas(void **state) {
    (void)state;
    double f[10] = {0}, cpr, cmd;
    /* nothing works but the whole: half of the last interval */
    f[9] = 1;
    ca_eap_curve_areas(ten, f, 10, &cpr, &cmd);
    assert_true(fabs(cpr - 0.25) < 1e-15);
    assert_true(fabs(cmd - 0.749) < 1e-15);
    /* f = q, whose areas between 0.001 and 1 the trapezoid rule has exactly; points in any order */
    double falling[10];
    for (int i = 0; i < 10; i++) f[i] = falling[i] = ten[9 - i];
    ca_eap_curve_areas(falling, f, 10, &cpr, &cmd);
    assert_true(fabs(cpr - (1 - 1e-6) / 2) < 1e-15);
    assert_true(fabs(cmd - 0.999 * 0.999 / 2) < 1e-15);
    /* above 1: further from the model, not nearer */
    for (int i = 0; i < 10; i++) f[i] = 1.5;
    ca_eap_curve_areas(ten, f, 10, &cpr, &cmd);
    assert_true(fabs(cpr - 1.5 * 0.999) < 1e-14 && fabs(cmd - 0.5 * 0.999) < 1e-14);
    ca_eap_curve_areas(ten, f, 1, &cpr, &cmd);
    assert_true(isnan(cpr) && isnan(cmd));
}

/* ---- a job */

static const ca_option options[] = {EAP_CIRCUIT_OPTIONS, {0}};

typedef struct work {
    eap_golden *g;
    ca_document *document;
    ca_config *config;
    ca_job job;
    ca_plan plan;
    ca_metric metric;
    eap_faithfulness *faithfulness;
    char path[64];
} work;

static ca_status prepare(work *w, eap_golden *g, const char *yaml, eap_level level) {
    const ca_option *const tables[] = {options, NULL};
    *w = (work){.g = g, .metric = {.kind = ca_metric_find("logit_diff"), .sequences = &g->data}};
    ok(ca_document_parse(yaml, strlen(yaml), "test.yaml", NULL, 0, &w->document));
    ca_status st = ca_config_resolve(w->document, 0, tables, &w->config);
    if (st != CA_OK) return st;
    w->job = (ca_job){.config = w->config,
                      .arch = &g->f.model->arch,
                      .backend = g->f.backend,
                      .dtype = g->f.model->dtype,
                      .data = &g->data,
                      .memory = INT64_MAX,
                      .batch = 8, /* rows: the pairs make several groups */
                      .model = g->f.model};
    snprintf(w->path, sizeof w->path, "/tmp/causa-faithfulness-%d.h5", (int)getpid());
    return ca_eap_faithfulness_prepare(&w->job, &g->graph, &w->metric, false, level, &w->plan,
                                       &w->faithfulness);
}

static void release(work *w) {
    ca_eap_faithfulness_free(w->faithfulness);
    ca_config_free(w->config);
    ca_document_free(w->document);
    unlink(w->path);
}

static void run(work *w, const double *score) {
    int64_t done;
    ok(ca_result_create(w->path, &w->job.result));
    ok(ca_circuit_put_graph(w->job.result, &w->g->graph));
    ok(ca_eap_faithfulness_run(w->faithfulness, &w->job, NULL, score, 0, &done));
    assert_int_equal(done, w->g->data.count);
    if (w->faithfulness->evaluate) assert_true(w->plan.work_bytes > 0 && w->plan.flops > 0);
}

/* A dataset of the finished file. */
static double *dataset(work *w, ca_result_reader *reader, const char *path, int64_t expected) {
    int64_t count;
    double *values, *copy = numbers(&w->g->f, expected);
    ok(ca_result_reader_floats(reader, path, &values, &count));
    assert_int_equal(count, expected);
    memcpy(copy, values, (size_t)count * sizeof *copy);
    free(values);
    return copy;
}

/* ---- golden curves */

/* Circuits [first, first + count) of the file, which this configuration selects. */
static void check_curve(eap_golden *g, const char *yaml, int first, int count) {
    work w;
    ca_result_reader *reader;
    fixture *f = &g->f;
    int64_t pairs = g->data.count;
    double clean = 0, corrupted = 0, value, limit = f->exact ? 1e-10 : 1e-5;
    ok(prepare(&w, g, yaml, EAP_EDGES));
    run(&w, eap_golden_scores(g, "EAP-IG-inputs_m5_k0to4"));
    ok(ca_result_finish(w.job.result));
    ok(ca_result_reader_open_any(w.path, &reader));
    const double *each = dataset(&w, reader, "/faithfulness/per_example", count * pairs);
    const double *normalized = dataset(&w, reader, "/faithfulness/normalized", count);
    const double *metric = dataset(&w, reader, "/faithfulness/metric", count);
    const double *kept = dataset(&w, reader, "/circuits/kept_edges", count);
    for (int c = 0; c < count; c++) {
        const golden_circuit *expected = &g->circuits[first + c];
        double mean = 0;
        for (int64_t n = 0; n < pairs; n++) mean += expected->logit_diff[n] / (double)pairs;
        near(f, "per example", each + c * pairs, expected->logit_diff, pairs, limit);
        near(f, "mean", metric + c, &mean, 1, limit);
        assert_int_equal(kept[c], expected->kept);
        /* of the difference of the ends, which is smaller than the metrics */
        assert_true(fabs(normalized[c] - expected->faithfulness) < 20 * limit);
    }
    for (int64_t n = 0; n < pairs; n++) {
        clean += g->clean[n] / (double)pairs;
        corrupted += g->corrupted[n] / (double)pairs;
    }
    assert_true(ca_result_reader_float(reader, "/faithfulness", "clean", &value));
    near(f, "clean", &value, &clean, 1, limit);
    assert_true(ca_result_reader_float(reader, "/faithfulness", "corrupted", &value));
    near(f, "corrupted", &value, &corrupted, 1, limit);
    ca_result_reader_close(reader);
    release(&w);
}

static void golden_curves(eap_golden *g) {
    check_curve(g, "method: {circuit: {sizes: [0, 20, 60, 120]}, evaluate: {faithfulness: true}}",
                0, 4);
    check_curve(
        g, "method: {circuit: {sizes: 60, absolute: false}, evaluate: {faithfulness: true}}", 4, 1);
    check_curve(g,
                "method: {circuit: {select: greedy, sizes: [20, 60, 120]}, "
                "evaluate: {faithfulness: true}}",
                5, 3);
}

static void test_golden_curves(void **state) {
    (void)state;
    on_goldens("ref", golden_curves);
    on_goldens("cpu", golden_curves);
}

/* ---- other ways to choose */

/* Without sizes the ten shares, rounded down; the last one is the whole graph. A threshold at a
 * score keeps as many edges as reach it. */
static void shares_and_thresholds(eap_golden *g) {
    work w;
    const ca_circuit_graph *graph = &g->graph;
    double *score = eap_golden_scores(g, "EAP"), value[10];
    int64_t requested[10], kept[10];
    ok(prepare(&w, g, "method: {evaluate: {faithfulness: true}}", EAP_EDGES));
    run(&w, score);
    ok(ca_result_read_back(w.job.result, "/circuits/requested", requested));
    ok(ca_result_read_back(w.job.result, "/circuits/kept_edges", kept));
    ok(ca_result_read_back(w.job.result, "/faithfulness/normalized", value));
    for (int i = 0; i < 10; i++)
        assert_int_equal(requested[i], (int64_t)(ten[i] * (double)graph->edges));
    assert_int_equal(kept[9], graph->edges);
    assert_true(fabs(value[9] - 1) < 1e-12);
    ca_result_abandon(w.job.result);
    release(&w);

    int64_t reach = 0, edges = graph->sources * graph->destinations;
    for (int64_t i = 0; i < edges; i++) reach += fabs(score[i]) >= 0.01;
    ok(prepare(&w, g, "method: {circuit: {select: threshold, thresholds: [0.01]}}", EAP_EDGES));
    assert_false(w.faithfulness->evaluate);
    run(&w, score);
    assert_false(ca_result_has(w.job.result, "/faithfulness"));
    ok(ca_result_read_back(w.job.result, "/circuits/requested", requested));
    assert_true(reach > 10 && requested[0] == reach);
    ca_result_abandon(w.job.result);
    release(&w);
}

/* Nodes by their scores: all outgoing edges of a kept one. */
static void whole_nodes(eap_golden *g) {
    work w;
    double *score = numbers(&g->f, g->graph.sources), value[2];
    int64_t kept[2];
    for (int64_t u = 0; u < g->graph.sources; u++) score[u] = (double)(u + 1);
    ok(prepare(&w, g, "method: {circuit: {fractions: [0.5, 1]}, evaluate: {faithfulness: true}}",
               EAP_NODES));
    run(&w, score);
    ok(ca_result_read_back(w.job.result, "/circuits/kept_edges", kept));
    ok(ca_result_read_back(w.job.result, "/faithfulness/normalized", value));
    assert_int_equal(kept[1], g->graph.edges);
    assert_true(fabs(value[1] - 1) < 1e-12);
    /* the later half has no input: nothing is left after pruning */
    assert_int_equal(kept[0], 0);
    assert_true(fabs(value[0]) < 1e-12);
    ca_result_abandon(w.job.result);
    release(&w);
}

/* Neurons by their scores: none and all are the ends, those of whole nodes the nodes' circuit, and
 * a threshold counts those that reach it. */
static void parts_of_nodes(eap_golden *g) {
    int64_t sources = g->graph.sources, width = g->graph.width, all = sources * width;
    double *node = numbers(&g->f, sources), *score = numbers(&g->f, all), of_nodes, value[4];
    int64_t kept[4], requested[4];
    char yaml[160];
    work w;
    for (int64_t u = 0; u < sources; u++) node[u] = (double)(sources - u);
    for (int64_t i = 0; i < all; i++) score[i] = node[i / width];
    ok(prepare(&w, g, "method: {circuit: {sizes: [5]}, evaluate: {faithfulness: true}}",
               EAP_NODES));
    run(&w, node);
    ok(ca_result_read_back(w.job.result, "/faithfulness/normalized", &of_nodes));
    ca_result_abandon(w.job.result);
    release(&w);
    snprintf(yaml, sizeof yaml,
             "method: {circuit: {sizes: [0, %lld, %lld, %lld]}, evaluate: {faithfulness: true}}",
             (long long)(5 * width), (long long)(5 * width + 3), (long long)all);
    ok(prepare(&w, g, yaml, EAP_NEURONS));
    run(&w, score);
    ok(ca_result_read_back(w.job.result, "/circuits/kept_neurons", kept));
    ok(ca_result_read_back(w.job.result, "/faithfulness/normalized", value));
    assert_true(kept[0] == 0 && kept[2] == 5 * width + 3 && kept[3] == all);
    assert_true(fabs(value[0]) < 1e-12 && fabs(value[3] - 1) < 1e-12);
    assert_true(fabs(value[1] - of_nodes) < 1e-12 && fabs(value[2] - of_nodes) > 1e-6);
    ca_result_abandon(w.job.result);
    release(&w);
    ok(prepare(&w, g, "method: {circuit: {select: threshold, thresholds: [3, 2, 1, 1e9]}}",
               EAP_NEURONS));
    run(&w, score);
    ok(ca_result_read_back(w.job.result, "/circuits/requested", requested));
    for (int i = 0; i < 3; i++) assert_int_equal(requested[i], all - (2 - i) * width);
    assert_int_equal(requested[3], 0);
    ca_result_abandon(w.job.result);
    release(&w);
}

static void test_choices(void **state) {
    (void)state;
    on_goldens("ref", parts_of_nodes);
    on_goldens("ref", shares_and_thresholds);
    on_goldens("ref", whole_nodes);
}

/* ---- stopped and taken up again */

static int64_t calls_until_signal;

/* logit_diff that asks the run to stop at one of its calls. */
static double stopping(const ca_metric_input *in) {
    if (--calls_until_signal == 0) {
        assert_int_equal(kill(getpid(), SIGTERM), 0);
        while (!ca_signal_received()) usleep(1000);
    }
    return ca_metric_find("logit_diff")->value(in);
}

static void stopped(eap_golden *g) {
    const double *score = eap_golden_scores(g, "EAP");
    ca_metric_kind kind = *ca_metric_find("logit_diff");
    double whole[14], resumed[14];
    int64_t done;
    work w;
    kind.value = stopping;
    assert_int_equal(2 * g->data.count, 14);
    ok(prepare(&w, g, "method: {circuit: {sizes: [20, 60]}, evaluate: {faithfulness: true}}",
               EAP_EDGES));
    assert_true(w.faithfulness->packing.batches > 2);
    run(&w, score);
    ok(ca_result_read_back(w.job.result, "/faithfulness/per_example", whole));
    ca_result_abandon(w.job.result);

    w.metric.kind = &kind;
    calls_until_signal = 4 * w.faithfulness->packing.first[1] + 2; /* in the second group */
    ok(ca_result_create(w.path, &w.job.result));
    assert_int_equal(ca_eap_faithfulness_run(w.faithfulness, &w.job, NULL, score, 0, &done),
                     CA_E_PREEMPTED);
    assert_int_equal(done, w.faithfulness->packing.first[2]);
    assert_false(ca_result_has(w.job.result, "/faithfulness"));
    ca_signals_install(); /* forgets the signal */
    ok(ca_eap_faithfulness_run(w.faithfulness, &w.job, NULL, score, done, &done));
    assert_int_equal(done, g->data.count);
    ok(ca_result_read_back(w.job.result, "/faithfulness/per_example", resumed));
    assert_memory_equal(whole, resumed, sizeof whole);
    ca_result_abandon(w.job.result);
    release(&w);
}

static void test_stopped_run(void **state) {
    (void)state;
    on_goldens("ref", stopped);
}

/* ---- options that cannot be */

static void refused(eap_golden *g, const char *yaml, eap_level level, const char *message) {
    work w;
    ca_status st = prepare(&w, g, yaml, level);
    assert_int_not_equal(st, CA_OK);
    if (!strstr(ca_error_text(), message))
        fail_msg("expected '%s' in '%s'", message, ca_error_text());
    ca_error_clear();
    release(&w);
}

static void bad_options(eap_golden *g) {
    refused(g, "method: {circuit: {sizes: [10, 100000]}}", EAP_EDGES,
            "test.yaml:1:27: method.circuit.sizes: expected at most");
    refused(g, "method: {circuit: {fractions: [0.5, 1.5]}}", EAP_EDGES,
            "method.circuit.fractions[1]: expected a number in (0..1]");
    refused(g, "method: {circuit: {fractions: [0]}}", EAP_EDGES,
            "method.circuit.fractions[0]: expected a number in (0..1]");
    refused(g, "method: {circuit: {fractions: [0.5], sizes: [3]}}", EAP_EDGES,
            "method.circuit.fractions: expected sizes or fractions, got both");
    refused(g, "method: {circuit: {select: threshold}, evaluate: {faithfulness: true}}", EAP_EDGES,
            "method.circuit.select: expected method.circuit.thresholds");
    refused(g, "method: {circuit: {thresholds: [1]}}", EAP_EDGES,
            "method.circuit.thresholds: expected select: threshold");
    refused(g, "method: {circuit: {select: greedy, sizes: [3]}}", EAP_NODES,
            "method.circuit.select: expected top or threshold where nodes are scored, got greedy");
    refused(
        g, "method: {circuit: {select: greedy, sizes: [3]}}", EAP_NEURONS,
        "method.circuit.select: expected top or threshold where neurons are scored, got greedy");
    refused(g, "method: {circuit: {sizes: [1000000]}}", EAP_NEURONS,
            "the neurons of the model, got");
    refused(g, "method: {circuit: {file: /nowhere/circuit.json}}", EAP_EDGES,
            "test.yaml:1:26: method.circuit.file: /nowhere/circuit.json");
}

static void test_bad_options(void **state) {
    (void)state;
    eap_golden g;
    eap_golden_open(&g, "tiny_seq", "ref");
    bad_options(&g);
    eap_golden_close(&g);
}

/* ---- circuit files */

/* A circuit that comes from a file; and the same file with sizes, for which its scores count. */
static void circuit_files(eap_golden *g) {
    work w;
    char yaml[256], path[64];
    double *score = eap_golden_scores(g, "EAP-IG-inputs_m5_k0to4"), value[7], clean[7];
    ca_circuit_file file = {.graph = g->graph, .score = score, .in = g->circuits[2].edges};
    int64_t kept[2];
    snprintf(path, sizeof path, "/tmp/causa-circuit-%d.json", (int)getpid());
    ok(ca_circuit_file_write(path, &file, NULL));
    snprintf(yaml, sizeof yaml, "method: {circuit: {file: %s}}", path);
    ok(prepare(&w, g, yaml, EAP_EDGES));
    assert_false(ca_eap_faithfulness_needs_score(w.faithfulness));
    run(&w, NULL);
    ok(ca_result_read_back(w.job.result, "/faithfulness/per_example", value));
    near(&g->f, "circuit of a file", value, g->circuits[2].logit_diff, 7, 1e-10);
    ok(ca_result_read_back(w.job.result, "/baseline/clean", clean));
    near(&g->f, "baseline", clean, g->clean, 7, 1e-10);
    ca_result_abandon(w.job.result);
    release(&w);

    snprintf(yaml, sizeof yaml, "method: {circuit: {file: %s, sizes: [20, 120]}}", path);
    ok(prepare(&w, g, yaml, EAP_EDGES));
    run(&w, NULL);
    ok(ca_result_read_back(w.job.result, "/circuits/kept_edges", kept));
    assert_int_equal(kept[0], g->circuits[1].kept);
    assert_int_equal(kept[1], g->circuits[3].kept);
    ca_result_abandon(w.job.result);
    release(&w);
    unlink(path);
}

/* A file of another model is told by the place of the option. */
static void test_circuit_files(void **state) {
    (void)state;
    on_goldens("ref", circuit_files);
    eap_golden g;
    char yaml[256], path[64];
    eap_golden_open(&g, "tiny_parallel", "ref");
    ca_circuit_file file = {.graph = g.graph, .score = eap_golden_scores(&g, "EAP")};
    snprintf(path, sizeof path, "/tmp/causa-circuit-%d.json", (int)getpid());
    ok(ca_circuit_file_write(path, &file, NULL));
    eap_golden_close(&g);
    eap_golden_open(&g, "tiny_seq", "ref");
    snprintf(yaml, sizeof yaml, "method: {circuit: {file: %s}}", path);
    refused(&g, yaml, EAP_EDGES, "test.yaml:1:26: method.circuit.file: ");
    eap_golden_close(&g);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_areas),       cmocka_unit_test(test_golden_curves),
        cmocka_unit_test(test_choices),     cmocka_unit_test(test_stopped_run),
        cmocka_unit_test(test_bad_options), cmocka_unit_test(test_circuit_files),
    };
    ca_signals_install();
    ca_log_set_level(CA_LOG_ERROR); /* no progress lines */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
