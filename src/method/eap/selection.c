/* SPDX-License-Identifier: MIT
 *
 * Which circuits the options of method `eap` ask for. See faithfulness.h.
 */
#include "faithfulness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SELECT      "method.circuit.select"
#define SIZES       "method.circuit.sizes"
#define FRACTIONS   "method.circuit.fractions"
#define THRESHOLDS  "method.circuit.thresholds"
#define FILE_OPTION "method.circuit.file"
#define NUMBER      "method.circuit.number"
#define ABSOLUTE    "method.circuit.absolute"

static const double default_fractions[] = {.001, .002, .005, .01, .02, .05, .1, .2, .5, 1};
enum { DEFAULT_FRACTIONS = sizeof default_fractions / sizeof *default_fractions };

/* Edges, sources or neurons, of which shares are taken. */
static int64_t whole_of(const eap_selection *s, const ca_circuit_graph *g) {
    if (s->level == EAP_EDGES) return g->edges;
    return g->sources * (s->level == EAP_NEURONS ? g->width : 1);
}

const char *ca_eap_selection_unit(const eap_selection *s) {
    static const char *const units[] = {
        [EAP_EDGES] = "edges", [EAP_NODES] = "sources", [EAP_NEURONS] = "neurons"};
    return units[s->level];
}

bool ca_eap_selection_masks(const eap_selection *s) {
    return s->level == EAP_NEURONS || (s->given && s->file.neurons);
}

/* ---- options ---- */

/* Which of the lists says what is picked; NULL: the default fractions. */
static const char *list_of(const ca_config *config) {
    static const char *const lists[] = {SIZES, FRACTIONS, THRESHOLDS};
    for (int i = 0; i < 3; i++)
        if (ca_config_has(config, lists[i])) return lists[i];
    return NULL;
}

/* An option that differs from its default, with its value; NULL when none does. Defaults may stand
 * in any config: the resolved one has them all. */
static const char *chosen_rule(const ca_config *config, const char **value) {
    *value = ca_config_text(config, SELECT);
    if (strcmp(*value, "top") != 0) return SELECT;
    *value = "false";
    return ca_config_bool(config, ABSOLUTE) ? NULL : ABSOLUTE;
}

ca_status ca_eap_selection_check(const ca_config *config, eap_level level, bool circuits) {
    const char *value, *chosen = chosen_rule(config, &value);
    const char *list = list_of(config), *number = ca_config_text(config, NUMBER);
    bool file = ca_config_has(config, FILE_OPTION), numbered = strcmp(number, "auto") != 0;
    if (chosen && !circuits && level == EAP_HIDDEN)
        return ca_config_fail(config, chosen,
                              "expected level edge, node or neuron, of which circuits are made, "
                              "beside it, got %s with level hidden",
                              value);
    if (chosen && !circuits) {
        ca_hint("method.evaluate.faithfulness=true takes ten shares of all");
        return ca_config_fail(config, chosen,
                              "expected method.circuit.sizes, fractions or thresholds beside it, "
                              "got %s alone, which makes no circuit",
                              value);
    }
    if (chosen && file && !list)
        return ca_config_fail(config, chosen,
                              "expected method.circuit.sizes, fractions or thresholds beside it, "
                              "got %s with a file whose circuit is run as it is",
                              value);
    if (numbered && !file)
        return ca_config_fail(config, NUMBER,
                              "expected method.circuit.file beside it, got %s alone", number);
    if (numbered && list)
        return ca_config_fail(config, NUMBER,
                              "expected auto beside %s, which picks by the file's scores, got %s",
                              list, number);
    return CA_OK;
}

/* A list that picks nothing makes no circuit to run. */
static ca_status check_lists(const ca_config *config) {
    static const struct {
        const char *path, *item;
    } lists[] = {{SIZES, "size"}, {FRACTIONS, "fraction"}, {THRESHOLDS, "threshold"}};
    for (int i = 0; i < 3; i++) {
        if (!ca_config_has(config, lists[i].path) || ca_config_count(config, lists[i].path) > 0)
            continue;
        return ca_config_fail(config, lists[i].path, "expected at least one %s, got an empty list",
                              lists[i].item);
    }
    return CA_OK;
}

static ca_status read_rule(const ca_config *config, eap_selection *s) {
    const char *select = ca_config_text(config, SELECT);
    bool by_threshold = strcmp(select, "threshold") == 0;
    s->rule = by_threshold                    ? CA_CIRCUIT_THRESHOLD
              : strcmp(select, "greedy") == 0 ? CA_CIRCUIT_GREEDY
                                              : CA_CIRCUIT_TOP;
    s->absolute = ca_config_bool(config, ABSOLUTE);
    if (s->level != EAP_EDGES && s->rule == CA_CIRCUIT_GREEDY)
        return ca_config_fail(config, SELECT,
                              "expected top or threshold where %s are scored, got greedy",
                              s->level == EAP_NODES ? "nodes" : "neurons");
    if (ca_config_has(config, SIZES) && ca_config_has(config, FRACTIONS))
        return ca_config_fail(config, FRACTIONS, "expected sizes or fractions, got both");
    if (by_threshold && !ca_config_has(config, THRESHOLDS))
        return ca_config_fail(config, SELECT, "expected method.circuit.thresholds beside it");
    for (int i = 0; i < 2; i++) {
        const char *path = i ? FRACTIONS : SIZES;
        if (by_threshold && ca_config_has(config, path))
            return ca_config_fail(config, path, "expected thresholds with select: threshold");
    }
    if (!by_threshold && ca_config_has(config, THRESHOLDS))
        return ca_config_fail(config, THRESHOLDS, "expected select: threshold beside it, got %s",
                              select);
    return CA_OK;
}

/* The number of edges in a share of them. A share such as 0.3 of 10 may lie a rounding below the
 * whole number that is meant. */
static int64_t share(double fraction, int64_t whole) {
    double exact = fraction * (double)whole;
    return (int64_t)floor(exact * (1 + 1e-15));
}

static ca_status read_sizes(const ca_config *config, const ca_circuit_graph *g, const char *list,
                            eap_selection *s) {
    int64_t whole = whole_of(s, g);
    for (int64_t i = 0; i < s->count; i++) {
        if (!list || strcmp(list, FRACTIONS) == 0) {
            s->fraction[i] = list ? ca_config_float_at(config, list, i) : default_fractions[i];
            s->requested[i] = share(s->fraction[i], whole);
        } else if (strcmp(list, SIZES) == 0) {
            s->requested[i] = ca_config_int_at(config, list, i);
            s->fraction[i] = (double)s->requested[i] / (double)whole;
            if (s->requested[i] > whole)
                return ca_config_fail(
                    config, SIZES, "expected at most %lld, the %s of the model, got %lld",
                    (long long)whole, ca_eap_selection_unit(s), (long long)s->requested[i]);
        } else {
            s->threshold[i] = ca_config_float_at(config, list, i);
        }
    }
    return CA_OK;
}

/* Scores of a file that circuits of a level are picked by; NULL: it has none. */
static const double *file_scores(const ca_circuit_file *file, eap_level level) {
    const ca_circuit_graph *g = &file->graph;
    const double *score = level == EAP_EDGES   ? file->score
                          : level == EAP_NODES ? file->node_score
                                               : file->neuron_score;
    int64_t count = g->sources * (level == EAP_EDGES     ? g->destinations
                                  : level == EAP_NEURONS ? g->width
                                                         : 1);
    for (int64_t i = 0; score && i < count; i++)
        if (!isnan(score[i])) return score;
    return NULL;
}

/* A level without scores in the file would make circuits of nothing. */
static ca_status check_file_scores(const ca_config *config, const char *path,
                                   const eap_selection *s) {
    static const char *const names[] = {
        [EAP_EDGES] = "edge", [EAP_NODES] = "node", [EAP_NEURONS] = "neuron"};
    if (file_scores(&s->file, s->level)) return CA_OK;
    for (eap_level other = EAP_EDGES; other <= EAP_NEURONS; other++) {
        if (!file_scores(&s->file, other)) continue;
        ca_hint("method.level=%s picks circuits by them", names[other]);
        return ca_fail(CA_E_DATA, "%s: expected scores of %ss beside %s, got a file with %s scores",
                       path, names[s->level], list_of(config), names[other]);
    }
    return ca_fail(CA_E_DATA, "%s: expected scores of %ss beside %s, got a file without scores",
                   path, names[s->level], list_of(config));
}

static ca_status read_file(const ca_job *job, const ca_circuit_graph *g, const char *list,
                           eap_selection *s) {
    ca_status st = CA_OK;
    const char *path = ca_config_path(job->config, FILE_OPTION);
    if (s->level != EAP_EDGES && !list) {
        ca_hint("method.circuit.sizes or fractions pick circuits by the file's scores of that "
                "level");
        return ca_config_fail(job->config, FILE_OPTION,
                              "expected method.level edge beside a circuit that is run as it is, "
                              "got %s",
                              ca_config_text(job->config, "method.level"));
    }
    const char *number = ca_config_text(job->config, NUMBER);
    CA_TRY(strcmp(number, "auto") == 0
               ? ca_circuit_file_read(path, &s->file)
               : ca_circuit_file_read_at(path, ca_config_int(job->config, NUMBER), &s->file));
    s->from_file = true;
    CA_TRY(ca_circuit_file_check(&s->file, path, g));
    s->given = !list;
    if (list) CA_TRY(check_file_scores(job->config, path, s));
    if (s->given && !s->file.in) {
        ca_hint("method.circuit.fractions or sizes pick circuits by the file's scores");
        st = ca_fail(CA_E_DATA, "%s: expected a circuit, got a file in which no edge is in one",
                     path);
        goto out;
    }
    if (s->given && s->file.count > 1)
        ca_log(CA_LOG_INFO, "%s: circuit %lld of %lld, numbered from 0", path,
               (long long)s->file.number, (long long)s->file.count);
out:
    return st == CA_OK ? st : ca_context(st, "%s", ca_config_where(job->config, FILE_OPTION));
}

ca_status ca_eap_selection_read(const ca_job *job, const ca_circuit_graph *g, eap_level level,
                                eap_selection *s) {
    ca_status st = CA_OK;
    const char *list = list_of(job->config);
    *s = (eap_selection){.level = level};
    CA_TRY(check_lists(job->config));
    CA_TRY(read_rule(job->config, s));
    if (ca_config_has(job->config, FILE_OPTION)) CA_TRY(read_file(job, g, list, s));
    s->count = s->given ? 1 : list ? ca_config_count(job->config, list) : DEFAULT_FRACTIONS;
    CA_TRY(ca_calloc((size_t)s->count + 1, sizeof *s->requested, &s->requested));
    CA_TRY(ca_calloc((size_t)s->count + 1, sizeof *s->threshold, &s->threshold));
    CA_TRY(ca_calloc((size_t)s->count + 1, sizeof *s->fraction, &s->fraction));
    if (!s->given) CA_TRY(read_sizes(job->config, g, list, s));
out:
    if (st != CA_OK) ca_eap_selection_free(s);
    return st;
}

int64_t ca_eap_selection_sources(const eap_selection *s, const ca_circuit_graph *g) {
    int64_t sum = 0;
    bool known = !s->given && s->rule != CA_CIRCUIT_THRESHOLD;
    for (int64_t i = 0; i < s->count; i++)
        sum += known && s->requested[i] < g->sources ? s->requested[i] : g->sources;
    return sum;
}

void ca_eap_selection_free(eap_selection *s) {
    free(s->requested);
    free(s->threshold);
    free(s->fraction);
    if (s->from_file) ca_circuit_file_free(&s->file);
    *s = (eap_selection){0};
}

/* ---- circuits ---- */

/* How many scores reach a threshold. */
static int64_t reaching(const eap_selection *s, const ca_circuit_graph *g, const double *score,
                        double threshold) {
    bool edges = s->level == EAP_EDGES;
    int64_t count = 0, columns = edges ? g->destinations : whole_of(s, g) / g->sources;
    for (int64_t v = 0; v < columns; v++) {
        int64_t parents = edges ? ca_circuit_parents(g, v) : g->sources;
        for (int64_t u = 0; u < parents; u++) {
            double key = score[u * columns + v];
            count += (s->absolute ? fabs(key) : key) >= threshold;
        }
    }
    return count;
}

static ca_status take_given(eap_selection *s, const ca_circuit_graph *g, ca_circuit *circuit) {
    ca_status st = CA_OK;
    CA_TRY(ca_circuit_create(g, circuit));
    memcpy(circuit->edges, s->file.in, (size_t)(g->sources * g->destinations) * sizeof(bool));
    if (s->file.neurons) {
        CA_TRY(ca_circuit_add_neurons(g, circuit));
        memcpy(circuit->neurons, s->file.neurons, (size_t)(g->sources * g->width) * sizeof(bool));
    }
    ca_circuit_count(g, circuit);
    s->requested[0] = circuit->edge_count;
    s->fraction[0] = (double)circuit->edge_count / (double)g->edges;
    ca_circuit_prune(g, circuit);
out:
    return st;
}

typedef ca_status (*rule_of)(const ca_circuit_graph *g, const double *score, bool absolute,
                             ca_circuit_rule rule, int64_t count, double threshold,
                             ca_circuit *out);

ca_status ca_eap_selection_make(eap_selection *s, const ca_circuit_graph *g, const double *score,
                                ca_circuit *circuits) {
    ca_status st = CA_OK;
    static const rule_of rules[] = {[EAP_EDGES] = ca_circuit_select,
                                    [EAP_NODES] = ca_circuit_select_nodes,
                                    [EAP_NEURONS] = ca_circuit_select_neurons};
    if (s->given) return take_given(s, g, &circuits[0]);
    if (s->from_file) score = file_scores(&s->file, s->level);
    for (int64_t i = 0; i < s->count; i++) {
        if (s->rule == CA_CIRCUIT_THRESHOLD) {
            s->requested[i] = reaching(s, g, score, s->threshold[i]);
            s->fraction[i] = (double)s->requested[i] / (double)whole_of(s, g);
        }
        CA_TRY(rules[s->level](g, score, s->absolute, s->rule, s->requested[i], s->threshold[i],
                               &circuits[i]));
    }
out:
    return st;
}
