/* SPDX-License-Identifier: MIT
 *
 * See faithfulness.h. Pairs are run in groups; the metrics of a group's pairs lie in the checkpoint
 * until all are there, because the result has circuits first and examples second.
 */
#include "faithfulness.h"

#include "baseline.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    ROWS = 64,    /* of a group: more are no faster, and every row has room for all sources */
    LANES = 4,    /* circuits that run together */
    SOURCES = 3,  /* times F: room for the sources of these circuits */
    BASELINES = 2 /* behind the circuits: clean, ablated */
};

static const char *const METRICS = CA_RESULT_UNFINISHED "/faithfulness";

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- plan ---- */

/* Fewer circuits at once, then fewer rows, until everything fits or nothing smaller is left. */
static ca_status fit(eap_faithfulness *f, const ca_job *job, int64_t *bytes) {
    ca_status st = CA_OK;
    int64_t rows = job->batch ? job->batch : ROWS, lanes = smaller(LANES, f->selection.count);
    int64_t kept = ca_eap_selection_sources(&f->selection, &f->graph), whole = f->graph.sources;
    for (;;) {
        f->sizes.lanes = lanes;
        f->sizes.sources = larger(1, smaller(smaller(lanes, SOURCES) * whole, kept));
        CA_TRY(
            ca_eap_groups_cut(job, f->metric, f->whole, 1, 0, rows, &f->packing, &f->sizes.group));
        const eap_ends ends = {.sizes = f->sizes.group, .runs = 2};
        *bytes = ca_eap_runs_bytes(job->arch, job->dtype, &f->graph, f->sizes) +
                 ca_eap_ends_bytes(job->arch, job->dtype, &ends);
        if (*bytes <= job->memory || (lanes == 1 && (job->batch || rows <= 1))) break;
        if (lanes > 1)
            lanes /= 2;
        else
            rows /= 2;
    }
out:
    return st;
}

static double flops_of(const eap_faithfulness *f, const ca_job *job) {
    const ca_arch *a = job->arch;
    int64_t circuits = f->selection.count;
    double flops = 0;
    for (int64_t i = 0; i < f->metric->sequences->count; i++) {
        const ca_example *e = &f->metric->sequences->examples[i];
        int64_t prefix = ca_eap_prefix_rows(e, f->whole), rows = ca_eap_tail_rows(e, f->whole);
        int64_t keys = ca_sequence_keys(a, rows, prefix);
        flops += ca_flops_forward(a, prefix, ca_sequence_keys(a, prefix, 0), a->layers);
        flops += BASELINES * ca_flops_forward(a, rows, keys, a->layers);
        flops += (double)circuits * ca_eap_runs_flops(a, &f->graph, rows, keys);
        flops += ca_flops_head(a, (circuits + BASELINES) * ca_example_reads(e));
    }
    return flops;
}

static ca_status plan_runs(eap_faithfulness *f, const ca_job *job, ca_plan *plan) {
    ca_status st = CA_OK;
    int64_t bytes = 0;
    CA_TRY(fit(f, job, &bytes));
    plan->work_bytes = larger(plan->work_bytes, bytes);
    plan->batches += f->packing.batches;
    plan->batch_rows = larger(plan->batch_rows, f->sizes.lanes * f->sizes.group.rows);
    plan->flops += flops_of(f, job);
    plan->host_bytes +=
        ca_eap_runs_host_bytes(&f->graph, f->sizes) +
        ca_method_scorer_host_bytes(f->metric, job->arch->vocab, f->sizes.group.pairs) +
        (f->selection.count + BASELINES) * job->data->count * (int64_t)sizeof(double);
out:
    return st;
}

static bool asks_for_circuits(const ca_config *config) {
    static const char *const paths[] = {"method.circuit.sizes", "method.circuit.fractions",
                                        "method.circuit.thresholds", "method.circuit.file"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        if (ca_config_has(config, paths[i])) return true;
    return false;
}

/* Circuits, and what picks neurons: their scores and an order of them. */
static int64_t circuits_bytes(const eap_faithfulness *f) {
    const ca_circuit_graph *g = &f->graph;
    int64_t neurons = f->sizes.neurons ? g->sources * g->width : 0;
    int64_t each = g->sources * g->destinations + g->sources + neurons;
    int64_t picking = f->selection.level == EAP_NEURONS ? 3 * neurons : 0;
    return f->selection.count * each * (int64_t)sizeof(bool) + picking * (int64_t)sizeof(double);
}

ca_status ca_eap_faithfulness_prepare(const ca_job *job, const ca_circuit_graph *graph,
                                      const ca_metric *metric, bool whole, eap_level level,
                                      ca_plan *plan, eap_faithfulness **out) {
    ca_status st = CA_OK;
    eap_faithfulness *f = NULL;
    bool evaluate = ca_config_bool(job->config, "method.evaluate.faithfulness");
    bool circuits = evaluate || asks_for_circuits(job->config);
    *out = NULL;
    CA_TRY(ca_eap_selection_check(job->config, level, circuits));
    if (!circuits) return CA_OK;
    if (level == EAP_HIDDEN)
        return ca_config_fail(job->config, "method.level",
                              "expected edge, node or neuron, of which circuits are made, got "
                              "hidden");
    CA_TRY(ca_calloc(1, sizeof *f, &f));
    f->graph = *graph;
    f->metric = metric;
    f->whole = whole;
    CA_TRY(ca_eap_selection_read(job, graph, level, &f->selection));
    f->sizes.neurons = ca_eap_selection_masks(&f->selection);
    f->evaluate = evaluate || f->selection.from_file;
    plan->host_bytes += circuits_bytes(f);
    if (f->evaluate) CA_TRY(plan_runs(f, job, plan));
    *out = f;
    return CA_OK;
out:
    ca_eap_faithfulness_free(f);
    return st;
}

bool ca_eap_faithfulness_needs_score(const eap_faithfulness *f) { return !f->selection.from_file; }

/* ---- circuits ---- */

static void free_run(eap_faithfulness *f) {
    for (int64_t i = 0; f->circuits && i < f->selection.count; i++)
        ca_circuit_free(&f->circuits[i]);
    free(f->circuits);
    f->circuits = NULL;
    ca_eap_runs_free(f->runs);
    f->runs = NULL;
    ca_eap_ends_free(&f->ends);
    ca_eap_group_free(&f->group);
    ca_method_scorer_free(&f->scorer);
    free(f->values);
    f->values = NULL;
}

void ca_eap_faithfulness_free(eap_faithfulness *f) {
    if (!f) return;
    free_run(f);
    ca_packing_free(&f->packing);
    ca_eap_selection_free(&f->selection);
    free(f);
}

static ca_status put_numbers(eap_faithfulness *f) {
    ca_status st = CA_OK;
    ca_result *r = f->job->result;
    const eap_selection *s = &f->selection;
    const ca_result_shape shape = {1, {s->count}, {"size"}};
    int64_t *kept = NULL;
    CA_TRY(ca_calloc((size_t)s->count, sizeof *kept, &kept));
    CA_TRY(ca_result_put(r, "/circuits/fraction", CA_RESULT_F64, shape, s->fraction));
    CA_TRY(ca_result_put(r, "/circuits/requested", CA_RESULT_I64, shape, s->requested));
    if (s->rule == CA_CIRCUIT_THRESHOLD)
        CA_TRY(ca_result_put(r, "/circuits/threshold", CA_RESULT_F64, shape, s->threshold));
    for (int64_t i = 0; i < s->count; i++) kept[i] = f->circuits[i].edge_count;
    CA_TRY(ca_result_put(r, "/circuits/kept_edges", CA_RESULT_I64, shape, kept));
    for (int64_t i = 0; i < s->count; i++) kept[i] = f->circuits[i].node_count;
    CA_TRY(ca_result_put(r, "/circuits/kept_nodes", CA_RESULT_I64, shape, kept));
    for (int64_t i = 0; i < s->count; i++) kept[i] = f->circuits[i].neuron_count;
    if (f->sizes.neurons)
        CA_TRY(ca_result_put(r, "/circuits/kept_neurons", CA_RESULT_I64, shape, kept));
    static const char *const names[] = {"requested", "kept_edges", "kept_nodes", "kept_neurons"};
    for (int i = 0; i < (f->sizes.neurons ? 4 : 3); i++) {
        char path[48];
        snprintf(path, sizeof path, "/circuits/%s", names[i]);
        CA_TRY(ca_result_scale(r, path, 0, "/circuits/fraction"));
    }
out:
    free(kept);
    return st;
}

/* Beside the edges of each circuit the neurons that its sources keep. */
static ca_status put_masks(eap_faithfulness *f) {
    ca_status st = CA_OK;
    ca_result *r = f->job->result;
    const ca_circuit_graph *g = &f->graph;
    const char *const neurons = "/circuits/neurons";
    const ca_result_shape shape = {
        3, {f->selection.count, g->sources, g->width}, {"size", "source", "coordinate"}};
    if (!f->sizes.neurons) return CA_OK;
    CA_TRY(ca_result_reserve(r, neurons, CA_RESULT_BOOL, shape));
    for (int64_t i = 0; i < f->selection.count; i++)
        CA_TRY(ca_result_write(r, neurons, i, 1, f->circuits[i].neurons));
    CA_TRY(ca_result_scale(r, neurons, 0, "/circuits/fraction"));
    CA_TRY(ca_result_scale(r, neurons, 1, "/edges/source"));
out:
    return st;
}

ca_status ca_eap_put_lists(ca_job *job, const char *group, const eap_list *lists,
                           size_t lists_count, int64_t count, const char *scale) {
    ca_status st = CA_OK;
    char path[96];
    for (size_t i = 0; i < lists_count; i++) {
        snprintf(path, sizeof path, "%s/%s", group, lists[i].name);
        CA_TRY(ca_result_put(job->result, path, lists[i].type,
                             (ca_result_shape){1, {count}, {"size"}}, lists[i].values));
        if (scale) CA_TRY(ca_result_scale(job->result, path, 0, scale));
    }
out:
    return st;
}

static ca_status put_circuits(eap_faithfulness *f) {
    ca_status st = CA_OK;
    ca_result *r = f->job->result;
    const ca_circuit_graph *g = &f->graph;
    const char *const in = "/circuits/in_circuit";
    int64_t count = f->selection.count;
    CA_TRY(put_numbers(f));
    if (!ca_result_has(r, "/edges/source")) CA_TRY(ca_circuit_put_graph(r, g));
    CA_TRY(ca_result_reserve(r, in, CA_RESULT_BOOL,
                             (ca_result_shape){3,
                                               {count, g->sources, g->destinations},
                                               {"size", "source", "destination"}}));
    for (int64_t i = 0; i < count; i++) CA_TRY(ca_result_write(r, in, i, 1, f->circuits[i].edges));
    CA_TRY(ca_result_scale(r, in, 0, "/circuits/fraction"));
    CA_TRY(ca_result_scale(r, in, 1, "/edges/source"));
    CA_TRY(ca_result_scale(r, in, 2, "/edges/destination"));
    CA_TRY(put_masks(f));
    if (f->truth) CA_TRY(ca_eap_truth_circuits(f->job, f->truth, f->circuits, count));
    CA_TRY(ca_result_attribute_text(
        r, "/circuits", "select",
        f->selection.given ? "file" : ca_config_text(f->job->config, "method.circuit.select")));
    CA_TRY(ca_result_attribute_int(r, "/circuits", "absolute", f->selection.absolute));
out:
    return st;
}

/* ---- run ---- */

static ca_status create_run(eap_faithfulness *f, const eap_ablation *ablation) {
    ca_status st = CA_OK;
    const ca_job *job = f->job;
    int64_t examples = f->sizes.group.pairs / ca_metric_parts(f->metric->kind);
    size_t values = (size_t)(examples * (f->selection.count + BASELINES));
    f->ends =
        (eap_ends){.model = job->model, .ablation = ablation, .sizes = f->sizes.group, .runs = 2};
    CA_TRY(ca_eap_ends_create(&f->ends));
    CA_TRY(ca_eap_group_create(f->sizes.group.pairs, &f->group));
    CA_TRY(ca_eap_runs_create(job->model, &f->graph, f->sizes, &f->runs));
    CA_TRY(ca_method_scorer_create(f->metric, job->data, job->backend, job->arch->vocab,
                                   f->sizes.group.pairs, &f->scorer));
    CA_TRY(ca_calloc(values, sizeof *f->values, &f->values));
out:
    return st;
}

/* Circuits [from, from + count) of the running group. */
static ca_status score_circuits(eap_faithfulness *f, int64_t from, int64_t count) {
    ca_status st = CA_OK;
    ca_tensor logits;
    int64_t parts = ca_metric_parts(f->metric->kind);
    int64_t columns = f->selection.count + BASELINES;
    CA_TRY(ca_eap_runs_circuits(f->runs, f->circuits + from, count, &logits));
    for (int64_t c = 0; c < count; c++)
        for (int64_t n = 0; n < f->group.count; n++) {
            double value;
            CA_TRY(ca_method_score(&f->scorer, &f->group.data->examples[f->group.first + n], n,
                                   ca_eap_group_logits(&f->group, logits, c, n), &value));
            f->values[n / parts * columns + from + c] += value;
        }
out:
    return st;
}

static ca_status run_group(eap_faithfulness *f, int64_t first, int64_t last) {
    ca_status st = CA_OK;
    int64_t count = f->selection.count, columns = count + BASELINES;
    int64_t parts = ca_metric_parts(f->metric->kind);
    ca_eap_group_set_examples(&f->group, f->metric, first, last, f->whole);
    memset(f->values, 0, (size_t)((last - first) * columns) * sizeof *f->values);
    CA_TRY(ca_eap_ends_begin(&f->ends, &f->group));
    CA_TRY(ca_eap_ends_run(&f->ends, true, true, &f->scorer));
    CA_TRY(ca_eap_runs_group(f->runs, &f->group, ca_eap_ends_prefix(&f->ends), &f->ends.ablated));
    for (int64_t from = 0, n; from < count; from += n) {
        n = ca_eap_runs_fit(f->runs, f->circuits + from, count - from);
        CA_TRY(score_circuits(f, from, n));
    }
    for (int64_t n = 0; n < f->group.count; n++) {
        f->values[n / parts * columns + count] += f->ends.clean_metric[n];
        f->values[n / parts * columns + count + 1] += f->ends.ablated_metric[n];
    }
    CA_TRY(ca_result_write(f->job->result, METRICS, first, last - first, f->values));
    if (f->selection.from_file) /* no attribution has written them */
        CA_TRY(ca_eap_baseline_write(f->job, &f->ends, parts, first, last - first));
out:
    return st;
}

static ca_status run_groups(eap_faithfulness *f, int64_t first, int64_t *done) {
    ca_status st = CA_OK;
    ca_progress progress;
    ca_progress_start(&progress, "circuits", "prompt", f->job->data->count);
    ca_progress_add(&progress, first);
    for (int64_t b = 0; b < f->packing.batches; b++) {
        int64_t from = f->packing.first[b], to = f->packing.first[b + 1];
        if (to <= first) continue;
        CA_TRY(ca_signal_status());
        CA_TRY(run_group(f, from, to));
        ca_progress_add(&progress, to - from);
        *done = to;
    }
out:
    ca_progress_finish(&progress);
    return st;
}

/* ---- after ---- */

void ca_eap_curve_areas(const double *fraction, const double *normalized, int64_t count,
                        double *cpr, double *cmd) {
    double last = -HUGE_VAL; /* points are taken by rising fraction; equal ones span no area */
    int64_t before = -1;
    *cpr = *cmd = count < 2 ? NAN : 0;
    for (;;) {
        int64_t next = -1;
        for (int64_t i = 0; i < count; i++)
            if (fraction[i] > last && (next < 0 || fraction[i] < fraction[next])) next = i;
        if (next < 0) return;
        if (before >= 0) {
            double width = fraction[next] - fraction[before];
            *cpr += width * (normalized[before] + normalized[next]) / 2;
            *cmd += width * (fabs(1 - normalized[before]) + fabs(1 - normalized[next])) / 2;
        }
        before = next;
        last = fraction[next];
    }
}

/* Means over the examples of a column of [examples, columns]. */
static double mean_of(const double *values, int64_t examples, int64_t columns, int64_t column) {
    double sum = 0;
    for (int64_t i = 0; i < examples; i++) sum += values[i * columns + column];
    return sum / (double)examples;
}

static ca_status write_curve(eap_faithfulness *f, const double *metric, double clean,
                             double ablated) {
    ca_status st = CA_OK;
    ca_result *r = f->job->result;
    const eap_selection *s = &f->selection;
    const ca_result_shape shape = {1, {s->count}, {"size"}};
    const char *const group = "/faithfulness";
    double *normalized = NULL, cpr, cmd;
    CA_TRY(ca_calloc((size_t)s->count, sizeof *normalized, &normalized));
    for (int64_t i = 0; i < s->count; i++)
        normalized[i] = clean != ablated ? (metric[i] - ablated) / (clean - ablated) : NAN;
    if (clean == ablated)
        ca_log(CA_LOG_WARNING, "the clean and the ablated run have the same mean metric: the "
                               "faithfulness of circuits is NaN");
    ca_eap_curve_areas(s->fraction, normalized, s->count, &cpr, &cmd);
    CA_TRY(ca_result_put(r, "/faithfulness/metric", CA_RESULT_F64, shape, metric));
    CA_TRY(ca_result_put(r, "/faithfulness/normalized", CA_RESULT_F64, shape, normalized));
    CA_TRY(ca_result_scale(r, "/faithfulness/metric", 0, "/circuits/fraction"));
    CA_TRY(ca_result_scale(r, "/faithfulness/normalized", 0, "/circuits/fraction"));
    CA_TRY(ca_result_attribute_float(r, group, "clean", clean));
    CA_TRY(ca_result_attribute_float(r, group, "corrupted", ablated));
    CA_TRY(ca_result_attribute_float(r, group, "cpr", cpr));
    CA_TRY(ca_result_attribute_float(r, group, "cmd", cmd));
    CA_TRY(ca_result_attribute_text(r, group, "metric", f->metric->kind->name));
out:
    free(normalized);
    return st;
}

/* From the file, so that what an earlier, stopped run wrote is in. */
static ca_status summarise(eap_faithfulness *f) {
    ca_status st = CA_OK;
    ca_result *r = f->job->result;
    int64_t examples = f->job->data->count, count = f->selection.count;
    int64_t columns = count + BASELINES;
    const char *const each = "/faithfulness/per_example";
    double *values = NULL, *metric = NULL, *row = NULL;
    CA_TRY(ca_calloc((size_t)(examples * columns) + 1, sizeof *values, &values));
    CA_TRY(ca_calloc((size_t)count, sizeof *metric, &metric));
    CA_TRY(ca_calloc((size_t)examples + 1, sizeof *row, &row));
    CA_TRY(ca_result_read_back(r, METRICS, values));
    CA_TRY(ca_result_reserve(r, each, CA_RESULT_F64,
                             (ca_result_shape){2, {count, examples}, {"size", "example"}}));
    CA_TRY(ca_result_scale(r, each, 0, "/circuits/fraction"));
    for (int64_t c = 0; c < count; c++) {
        metric[c] = mean_of(values, examples, columns, c);
        for (int64_t i = 0; i < examples; i++) row[i] = values[i * columns + c];
        CA_TRY(ca_result_write(r, each, c, 1, row));
    }
    if (f->selection.from_file) CA_TRY(ca_eap_baseline_finish(f->job, NULL));
    CA_TRY(write_curve(f, metric, mean_of(values, examples, columns, count),
                       mean_of(values, examples, columns, count + 1)));
out:
    free(values);
    free(metric);
    free(row);
    return st;
}

ca_status ca_eap_faithfulness_run(eap_faithfulness *f, ca_job *job, const eap_ablation *ablation,
                                  const double *score, int64_t first, int64_t *done) {
    ca_status st = CA_OK;
    size_t count = (size_t)f->selection.count;
    f->job = job;
    *done = first;
    CA_TRY(ca_calloc(count, sizeof *f->circuits, &f->circuits));
    CA_TRY(ca_eap_selection_make(&f->selection, &f->graph, score, f->circuits));
    if (first == 0) CA_TRY(put_circuits(f));
    if (!f->evaluate) {
        *done = job->data->count;
        goto out;
    }
    if (first == 0)
        CA_TRY(ca_result_reserve(job->result, METRICS, CA_RESULT_F64,
                                 (ca_result_shape){2,
                                                   {job->data->count, (int64_t)count + BASELINES},
                                                   {"example", "run"}}));
    if (first == 0 && f->selection.from_file)
        CA_TRY(ca_eap_baseline_reserve(job, f->metric->kind->name));
    CA_TRY(create_run(f, ablation));
    CA_TRY(run_groups(f, first, done));
    CA_TRY(summarise(f));
out:
    free_run(f);
    return st;
}

/* ---- terminal ---- */

/* Areas under a part of the curve are no benchmark's. */
static ca_status put_areas(const eap_selection *s, const double *normalized, ca_string *text) {
    ca_status st = CA_OK;
    double cpr, cmd, least = HUGE_VAL, most = 0;
    if (s->count < 2) return CA_OK;
    ca_eap_curve_areas(s->fraction, normalized, s->count, &cpr, &cmd);
    for (int64_t i = 0; i < s->count; i++) {
        least = fmin(least, s->fraction[i]);
        most = fmax(most, s->fraction[i]);
    }
    CA_TRY(ca_string_printf(text, "CPR %.3f, CMD %.3f", cpr, cmd));
    if (most < 1)
        CA_TRY(ca_string_printf(text, " from %.3g to %.3g of all, not up to 1", least, most));
    CA_TRY(ca_string_printf(text, "\n  both of this selection, by %s; MIB takes %s\n",
                            s->absolute ? "|score|" : "signed score",
                            s->absolute ? "CPR by signed score (method.circuit.absolute: false)"
                                        : "CMD by |score| (method.circuit.absolute: true)"));
out:
    return st;
}

ca_status ca_eap_faithfulness_answer(const eap_faithfulness *f, ca_job *job, ca_string *text) {
    ca_status st = CA_OK;
    const eap_selection *s = &f->selection;
    double *normalized = NULL;
    int64_t *kept = NULL, *neurons = NULL;
    CA_TRY(ca_calloc((size_t)s->count, sizeof *normalized, &normalized));
    CA_TRY(ca_calloc((size_t)s->count, sizeof *kept, &kept));
    CA_TRY(ca_calloc((size_t)s->count, sizeof *neurons, &neurons));
    CA_TRY(ca_result_read_back(job->result, "/circuits/kept_edges", kept));
    if (f->sizes.neurons)
        CA_TRY(ca_result_read_back(job->result, "/circuits/kept_neurons", neurons));
    if (f->evaluate)
        CA_TRY(ca_result_read_back(job->result, "/faithfulness/normalized", normalized));
    CA_TRY(ca_string_printf(text, "circuits: %s asked for, %sedges kept%s\n",
                            ca_eap_selection_unit(s), f->sizes.neurons ? "neurons and " : "",
                            f->evaluate ? ", faithfulness (0 = ablated, 1 = clean)" : ""));
    for (int64_t i = 0; i < s->count; i++) {
        CA_TRY(ca_string_printf(text, "  %9lld", (long long)s->requested[i]));
        if (f->sizes.neurons) CA_TRY(ca_string_printf(text, " %9lld", (long long)neurons[i]));
        CA_TRY(ca_string_printf(text, " %9lld", (long long)kept[i]));
        if (f->evaluate) CA_TRY(ca_string_printf(text, "  %7.3f", normalized[i]));
        CA_TRY(ca_string_printf(text, "\n"));
    }
    if (f->evaluate) CA_TRY(put_areas(s, normalized, text));
out:
    free(normalized);
    free(kept);
    free(neurons);
    return st;
}
