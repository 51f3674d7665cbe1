/* SPDX-License-Identifier: MIT
 *
 * What the options ask for: the sites whose values run along a path, and the points on it.
 */
#include "eap.h"

#include <stdlib.h>
#include <string.h>

static bool is(const ca_job *job, const char *path, const char *word) {
    return strcmp(ca_config_text(job->config, path), word) == 0;
}

/* Left for inputs and right for activations, as in the code of the source, which takes right for
 * nodes too; but not where every embedding is 0: the gradient of a norm there is that of its
 * epsilon. */
static ca_status read_rule(const ca_job *job, eap *e) {
    bool from_zero = e->ablation.kind == EAP_ZERO && e->variant->path == EAP_OF_INPUTS;
    if (is(job, "method.rule", "auto"))
        e->rule = from_zero || e->variant->path == EAP_OF_ACTIVATIONS ||
                          (e->level != EAP_EDGES && !is(job, "method.compat", "none"))
                      ? EAP_RIGHT
                      : EAP_LEFT;
    else
        e->rule = ca_eap_rule_find(ca_config_text(job->config, "method.rule"));
    if (from_zero && e->rule == EAP_LEFT)
        return ca_config_fail(job->config, "method.rule",
                              "expected another rule with ablation zero, got left: at the end of "
                              "the path every embedding is 0, and gradients of norms are those of "
                              "their epsilon");
    return CA_OK;
}

static bool is_line(const eap *e) {
    return e->variant->path == EAP_OF_INPUTS || e->variant->path == EAP_OF_ACTIVATIONS;
}

static ca_status read_points(const ca_job *job, eap *e) {
    ca_status st = CA_OK;
    eap_path path = e->variant->path;
    bool line = is_line(e);
    if (path == EAP_NO_PATH) return CA_OK;
    if (line) CA_TRY(read_rule(job, e));
    e->point_count = path == EAP_AT_BOTH ? 2 : 1;
    if (line) e->point_count = ca_config_int(job->config, "method.steps");
    CA_TRY(ca_calloc((size_t)e->point_count, sizeof *e->points, &e->points));
    if (line)
        ca_eap_points(e->rule, e->point_count, e->points);
    else
        for (int64_t k = 0; k < e->point_count; k++)
            e->points[k] = (eap_point){1 - (double)k, 1 / (double)e->point_count};
out:
    return st;
}

/* A layer's hidden units are a site of their own where a path scores its own site alone. */
static ca_status read_sites(const ca_job *job, eap *e) {
    ca_status st = CA_OK;
    bool all = e->variant->path == EAP_OF_ACTIVATIONS;
    if (e->variant->path == EAP_NO_PATH) return CA_OK;
    e->own_site = all && is(job, "method.compat", "none");
    bool hidden = e->own_site && e->level == EAP_HIDDEN;
    e->site_count = hidden ? job->arch->layers : all ? 2 * job->arch->layers + 1 : 1;
    CA_TRY(ca_calloc((size_t)e->site_count, sizeof *e->sites, &e->sites));
    for (int64_t l = 0; hidden && l < e->site_count; l++)
        e->sites[l] = (eap_site){CA_SITE_MLP_POST, l};
    if (hidden) goto out;
    e->sites[0] = (eap_site){CA_SITE_EMBED, -1};
    for (int64_t s = 1; s < e->site_count; s++)
        e->sites[s] = (eap_site){s % 2 ? CA_SITE_Z : CA_SITE_MLP_OUT, (s - 1) / 2};
    /* The peers average over the paths of all sites. */
    if (all && !e->own_site)
        for (int64_t k = 0; k < e->point_count; k++) e->points[k].weight /= (double)e->site_count;
out:
    return st;
}

/* The length of all prompts, with what follows them, for what has positions. */
static ca_status one_length(const eap *e, const char *what, int64_t *length) {
    const ca_dataset *data = e->metric.sequences;
    *length = data->count ? data->examples[0].clean.count : 1;
    for (int64_t i = 1; i < data->count; i++)
        if (data->examples[i].clean.count != *length)
            return ca_fail(CA_E_DATA,
                           "%s: column clean: %s needs prompts of one length, expected %lld tokens "
                           "as in the first, got %lld",
                           ca_example_place(data, &data->examples[i]), what, (long long)*length,
                           (long long)data->examples[i].clean.count);
    return CA_OK;
}

/* The peers' paths of inputs begin at the corrupted prompt: their one mean is no prompt's
 * embedding, and taken for one it makes scores of any size. */
static ca_status check_ablation(const ca_job *job, const eap *e) {
    const char *name = ca_config_text(job->config, "method.ablation");
    const eap_variant *v = e->variant;
    bool peer = !is(job, "method.compat", "none") && !e->given;
    if (e->ablation.kind == EAP_PATCHING) return CA_OK;
    if (v->path == EAP_AT_BOTH || v->clean_only)
        return ca_config_fail(job->config, "method.ablation",
                              "expected patching with the variant %s, got %s", v->name, name);
    if (peer && v->path == EAP_OF_INPUTS) {
        ca_hint("with compat the variants eap and ig-activations take it, without compat all of "
                "these");
        return ca_config_fail(job->config, "method.ablation",
                              "expected patching with the variant %s and compat %s, got %s",
                              v->name, ca_config_text(job->config, "method.compat"), name);
    }
    return CA_OK;
}

static ca_status read_ablation(const ca_job *job, eap *e) {
    ca_status st = CA_OK;
    static const char *const names[] = {[EAP_PATCHING] = "patching",
                                        [EAP_ZERO] = "zero",
                                        [EAP_MEAN] = "mean",
                                        [EAP_MEAN_POSITIONAL] = "mean-positional"};
    while (!is(job, "method.ablation", names[e->ablation.kind])) e->ablation.kind++;
    e->ablation.hidden = e->level == EAP_HIDDEN;
    if (e->ablation.kind == EAP_MEAN) {
        e->ablation.positions = 1;
        if (!is(job, "method.compat", "none")) e->ablation.kind = EAP_ONE_MEAN;
    }
    if (e->ablation.kind == EAP_MEAN_POSITIONAL)
        CA_TRY(one_length(e, "ablation mean-positional", &e->ablation.positions));
    CA_TRY(check_ablation(job, e));
out:
    return st;
}

static void read_level(const ca_job *job, eap *e) {
    static const char *const names[] = {[EAP_EDGES] = "edge",
                                        [EAP_NODES] = "node",
                                        [EAP_NEURONS] = "neuron",
                                        [EAP_HIDDEN] = "hidden"};
    while (!is(job, "method.level", names[e->level])) e->level++;
}

static ca_status check_level(const ca_job *job, const eap *e) {
    static const char *const names[] = {
        [EAP_NODES] = "nodes", [EAP_NEURONS] = "neurons", [EAP_HIDDEN] = "hidden units"};
    bool gradients = e->variant->path != EAP_NO_PATH;
    if (e->ablation.kind == EAP_ONE_MEAN && (e->level != EAP_EDGES || !gradients)) {
        ca_hint("compat none takes a mean for each source, with every variant and level");
        return ca_config_fail(
            job->config, "method.ablation",
            "expected patching, zero or mean-positional with compat %s and %s "
            "%s, got mean: the peer's one mean of all sources stands in for "
            "edges that gradients score, and for nothing else",
            ca_config_text(job->config, "method.compat"), gradients ? "level" : "variant",
            gradients ? ca_config_text(job->config, "method.level") : e->variant->name);
    }
    if (e->level == EAP_EDGES || e->level == EAP_NODES) return CA_OK;
    if (!gradients)
        return ca_config_fail(job->config, "method.level", "the variant %s has no scores of %s",
                              e->variant->name, names[e->level]);
    return CA_OK;
}

/* With circuits or scores of a file nothing is attributed, so nothing of it can be kept. */
static ca_status check_given(const ca_job *job) {
    const struct {
        const char *path;
        bool set;
    } keys[] = {{"method.per_example", ca_config_bool(job->config, "method.per_example")},
                {"method.by_position", ca_config_bool(job->config, "method.by_position")},
                {"method.bootstrap", ca_config_int(job->config, "method.bootstrap") > 0},
                {"method.compare", ca_config_count(job->config, "method.compare") > 0}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (keys[i].set)
            return ca_config_fail(job->config, keys[i].path,
                                  "expected no method.circuit.file beside it: with one nothing is "
                                  "attributed");
    return CA_OK;
}

/* What is kept beside the scores. */
static ca_status read_sums(const ca_job *job, eap *e) {
    ca_status st = CA_OK;
    eap_sums *s = &e->sums;
    bool shared = is(job, "method.kv_columns", "native");
    bool edges = e->level == EAP_EDGES, gradients = e->variant->path != EAP_NO_PATH;
    s->edges = edges;
    s->neurons = e->level == EAP_NEURONS;
    s->hidden = e->level == EAP_HIDDEN ? job->arch->mlp_width : 0;
    s->graph = ca_circuit_graph_of(job->arch, shared ? job->arch->kv_heads : 0);
    s->query = gradients ? ca_circuit_graph_of(job->arch, 0) : s->graph;
    if (e->is_compared) return CA_OK;
    s->per_pair = ca_config_bool(job->config, "method.per_example");
    s->resamples = ca_config_int(job->config, "method.bootstrap");
    s->seed = (uint64_t)ca_config_int(job->config, "seed");
    if (ca_config_bool(job->config, "method.by_position")) {
        if (!gradients || !edges)
            return ca_config_fail(job->config, "method.by_position",
                                  "expected false: only edges scored by gradients have positions");
        CA_TRY(one_length(e, "by_position", &s->positions));
    }
out:
    return st;
}

/* The input of a head or an MLP must be the normed sum of outputs. */
static ca_status check_family(const ca_arch *a) {
    if (a->pre_norm && !a->post_norm && a->qk_norm != CA_QK_NORM_FULL) return CA_OK;
    return ca_fail(
        CA_E_MODEL,
        "%s: edges are attributed in models that norm before attention and MLP only, and "
        "queries and keys head by head, if at all",
        a->family);
}

static ca_status read_metric(const ca_job *job, eap *e) {
    ca_status st = CA_OK;
    CA_TRY(ca_metric_open(job->config, "metric", job->data, job->tokenizer, job->arch->vocab,
                          job->arch->max_positions, &e->metric));
    bool gradients = e->variant->path != EAP_NO_PATH && !e->given;
    if (gradients && e->variant->path == EAP_AT_CLEAN &&
        (e->metric.kind->needs & CA_METRIC_REFERENCE)) {
        ca_hint("variant ig-inputs or clean-corrupted takes it elsewhere too");
        return ca_config_fail(job->config, "metric",
                              "expected another metric than %s with the variant %s: the gradient "
                              "of a divergence from the clean run is 0 in the clean run",
                              e->metric.kind->name, e->variant->name);
    }
    if (gradients && !e->metric.kind->gradient)
        return ca_config_fail(job->config, "metric",
                              "expected a metric with a gradient, got %s, which has none",
                              e->metric.kind->name);
    if (e->variant->clean_only && (e->metric.kind->needs & CA_METRIC_ANSWER_TEXT))
        return ca_config_fail(job->config, "metric",
                              "expected a metric of the prompt's last token with the variant %s, "
                              "which follows what the prompt's own tokens say, got %s",
                              e->variant->name, e->metric.kind->name);
out:
    return st;
}

/* The peers take gradients of a batch's mean loss, but exact patching's metrics pair by pair, and
 * information flow has no metric. */
static void read_scaling(const ca_job *job, eap *e) {
    bool divergence = e->metric.kind->needs & CA_METRIC_REFERENCE;
    e->averaged = 1;
    if (is(job, "method.compat", "none")) return;
    if (e->variant->path != EAP_NO_PATH)
        e->batch_size = ca_config_int(job->config, "method.batch_size");
    if (divergence && !e->variant->clean_only) e->averaged = job->arch->vocab;
}

ca_status ca_eap_read_options(const ca_job *job, const char *variant, eap *e) {
    ca_status st = CA_OK;
    if (!variant) variant = ca_config_text(job->config, "method.variant");
    e->variant = ca_eap_variant_find(variant);
    e->given = ca_config_has(job->config, "method.circuit.file");
    CA_TRY(check_family(job->arch));
    if (e->given) CA_TRY(check_given(job));
    CA_TRY(read_metric(job, e));
    read_scaling(job, e);
    read_level(job, e);
    CA_TRY(read_ablation(job, e));
    CA_TRY(read_points(job, e));
    CA_TRY(read_sites(job, e));
    CA_TRY(check_level(job, e));
    CA_TRY(read_sums(job, e));
out:
    return st;
}
