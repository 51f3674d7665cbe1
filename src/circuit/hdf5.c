/* SPDX-License-Identifier: MIT
 *
 * Scores and circuits in result files: groups /edges, /nodes, /neurons, /circuits. Reads those of
 * any run of the method `eap`; writes a file of its own for scores that came from elsewhere.
 */
#include "file.h"

#include "causa/version.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SCORE   "/edges/score"
#define CIRCUIT "/circuits/in_circuit"
#define MASK    "/circuits/neurons"
#define NEURONS "/neurons/score"

/* ---- reading */

/* Scores of something else than edges, and no circuits made of them. */
static ca_status check_scores(const char *path, ca_result_reader *r) {
    static const struct {
        const char *dataset, *level, *what;
    } others[] = {{"/neurons/score", "neuron", "neurons"},
                  {"/hidden/score", "hidden", "hidden units"},
                  {"/nodes/score", "node", "nodes"}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        if (ca_result_reader_has(r, "/edges") || !ca_result_reader_has(r, others[i].dataset))
            continue;
        if (strcmp(others[i].level, "hidden") == 0)
            ca_hint("method.level: edge scores edges");
        else
            ca_hint("method.level: edge scores edges; at level %s method.circuit.fractions makes "
                    "circuits",
                    others[i].level);
        return ca_fail(CA_E_DATA,
                       "%s: expected scores of edges or circuits, got scores of %s alone "
                       "(method.level: %s)",
                       path, others[i].what, others[i].level);
    }
    return CA_OK;
}

static ca_status read_graph(const char *path, ca_result_reader *r, ca_circuit_graph *out) {
    int64_t sizes[CIRCUIT_SIZES], parallel = 0;
    char place[256];
    for (int i = 0; i < CIRCUIT_SIZES; i++) {
        const circuit_size *s = &ca_circuit_sizes[i];
        if (!ca_result_reader_int(r, "/edges", s->attribute, &sizes[i]) || sizes[i] < s->least ||
            sizes[i] > s->most)
            return ca_fail(CA_E_DATA,
                           "%s: /edges: expected an attribute %s from %lld to %lld, got %s", path,
                           s->attribute, (long long)s->least, (long long)s->most,
                           ca_result_reader_has(r, "/edges") ? "none or another value"
                                                             : "a file without edges or circuits");
    }
    if (!ca_result_reader_int(r, "/edges", "parallel", &parallel))
        return ca_fail(CA_E_DATA, "%s: /edges: expected an attribute parallel, got none", path);
    snprintf(place, sizeof place, "%s: /edges", path);
    return ca_circuit_graph_of_sizes(place, sizes, parallel != 0, out);
}

/* The last `rank` sizes of a dataset; a dataset of other sizes is never read. */
static ca_status check_shape(const char *path, ca_result_reader *r, const char *name, int rank,
                             const int64_t *want) {
    ca_status st = CA_OK;
    ca_result_shape shape;
    CA_TRY(ca_result_reader_shape(r, name, &shape));
    bool fits = shape.rank == rank;
    for (int i = 0; i < rank && fits; i++) fits = want[i] < 0 || shape.size[i] == want[i];
    if (!fits)
        st =
            ca_fail(CA_E_DATA, "%s: %s: its sizes do not fit the attributes of /edges", path, name);
out:
    return st;
}

typedef const char *(*name_of)(const ca_circuit_graph *g, int64_t i,
                               char text[CA_CIRCUIT_NAME_MAX]);

static ca_status check_names(const char *path, ca_result_reader *r, const char *dataset,
                             const ca_circuit_graph *g, int64_t count, name_of name) {
    ca_status st = CA_OK;
    const char *const *names;
    char text[CA_CIRCUIT_NAME_MAX];
    CA_TRY(check_shape(path, r, dataset, 1, &count));
    CA_TRY(ca_result_reader_texts(r, dataset, &names, &count));
    for (int64_t i = 0; i < count; i++)
        if (strcmp(names[i], name(g, i, text)) != 0)
            return ca_fail(CA_E_DATA, "%s: %s[%lld]: expected '%s', got '%.*s'", path, dataset,
                           (long long)i, text, 64, names[i]);
out:
    return st;
}

/* The circuit that stands for all: see ca_circuit_file_read. */
static ca_status choose_circuit(ca_result_reader *r, int64_t count, int64_t *circuit) {
    ca_status st = CA_OK;
    static const char *const faithfulness = "/faithfulness/normalized";
    static const char *const size = "/circuits/fraction";
    double *normalized = NULL, *fraction = NULL;
    int64_t measured = 0, sizes = 0;
    *circuit = count - 1;
    if (!ca_result_reader_has(r, faithfulness) || !ca_result_reader_has(r, size)) return CA_OK;
    CA_TRY(ca_result_reader_floats(r, faithfulness, &normalized, &measured));
    CA_TRY(ca_result_reader_floats(r, size, &fraction, &sizes));
    if (measured != count || sizes != count) goto out;
    int64_t best = -1;
    for (int64_t i = 0; i < count; i++)
        if (normalized[i] >= CA_CIRCUIT_FAITHFUL && (best < 0 || fraction[i] < fraction[best]))
            best = i;
    if (best >= 0) *circuit = best;
out:
    free(normalized);
    free(fraction);
    return st;
}

/* Circuit -1: the one that stands for all, if there is any. */
static ca_status read_circuit(const char *path, ca_result_reader *r, int64_t circuit,
                              ca_circuit_file *out) {
    ca_status st = CA_OK;
    ca_result_shape shape;
    int64_t count;
    const int64_t want[] = {-1, out->graph.sources, out->graph.destinations};
    if (!ca_result_reader_has(r, CIRCUIT)) return CA_OK;
    CA_TRY(check_shape(path, r, CIRCUIT, 3, want));
    CA_TRY(ca_result_reader_shape(r, CIRCUIT, &shape));
    if (circuit < 0) CA_TRY(choose_circuit(r, shape.size[0], &circuit));
    if (circuit < 0) return CA_OK;
    CA_TRY(ca_result_reader_bools(r, CIRCUIT, circuit, &out->in, &count));
    const int64_t masks[] = {shape.size[0], out->graph.sources, out->graph.width};
    if (ca_result_reader_has(r, MASK)) {
        CA_TRY(check_shape(path, r, MASK, 3, masks));
        CA_TRY(ca_result_reader_bools(r, MASK, circuit, &out->neurons, &count));
    }
    out->number = circuit;
    out->count = shape.size[0];
out:
    return st;
}

static ca_status read_node_scores(const char *path, ca_result_reader *r, ca_circuit_file *out) {
    ca_status st = CA_OK;
    int64_t count = out->graph.sources;
    if (!ca_result_reader_has(r, "/nodes/score")) return CA_OK;
    CA_TRY(check_shape(path, r, "/nodes/score", 1, &count));
    CA_TRY(ca_result_reader_floats(r, "/nodes/score", &out->node_score, &count));
out:
    return st;
}

static ca_status read_neuron_scores(const char *path, ca_result_reader *r, ca_circuit_file *out) {
    ca_status st = CA_OK;
    const int64_t want[] = {out->graph.sources, out->graph.width};
    int64_t count = want[0] * want[1];
    if (!ca_result_reader_has(r, NEURONS)) return CA_OK;
    CA_TRY(check_shape(path, r, NEURONS, 2, want));
    CA_TRY(ca_result_reader_floats(r, NEURONS, &out->neuron_score, &count));
out:
    return st;
}

/* Whatever a file says of pairs that are no edges does not count. */
static void clear_pairs_without_edge(ca_circuit_file *file) {
    const ca_circuit_graph *g = &file->graph;
    for (int64_t v = 0; v < g->destinations; v++)
        for (int64_t u = ca_circuit_parents(g, v); u < g->sources; u++) {
            file->score[u * g->destinations + v] = NAN;
            if (file->in) file->in[u * g->destinations + v] = false;
        }
}

/* Scores of edges; a result that has circuits of nodes, or of a file, has none. */
static ca_status read_scores(const char *path, ca_result_reader *r, ca_circuit_file *out) {
    ca_status st = CA_OK;
    const ca_circuit_graph *g = &out->graph;
    int64_t count = g->sources * g->destinations;
    if (ca_result_reader_has(r, SCORE) || !ca_result_reader_has(r, CIRCUIT)) {
        CA_TRY(check_shape(path, r, SCORE, 2, (const int64_t[]){g->sources, g->destinations}));
        return ca_result_reader_floats(r, SCORE, &out->score, &count);
    }
    CA_TRY(ca_calloc((size_t)count, sizeof *out->score, &out->score));
    for (int64_t i = 0; i < count; i++) out->score[i] = NAN;
out:
    return st;
}

ca_status ca_circuit_read_result(const char *path, int64_t circuit, ca_circuit_file *out) {
    ca_status st = CA_OK;
    ca_result_reader *r = NULL;
    ca_circuit_graph *g = &out->graph;
    const char *model = NULL;
    ca_string copy = {0};
    CA_TRY(ca_result_reader_open(path, &r));
    CA_TRY(check_scores(path, r));
    CA_TRY(read_graph(path, r, g));
    CA_TRY(check_names(path, r, "/edges/source", g, g->sources, ca_circuit_source_name));
    CA_TRY(check_names(path, r, "/edges/destination", g, g->destinations,
                       ca_circuit_destination_name));
    CA_TRY(read_scores(path, r, out));
    CA_TRY(read_circuit(path, r, circuit, out));
    CA_TRY(read_node_scores(path, r, out));
    CA_TRY(read_neuron_scores(path, r, out));
    clear_pairs_without_edge(out);
    if (ca_result_reader_text(r, "/", "model_path", &model)) {
        CA_TRY(ca_string_printf(&copy, "%s", model));
        out->model = copy.text;
    }
out:
    ca_result_reader_close(r);
    if (st != CA_OK) ca_circuit_file_free(out);
    return st;
}

/* ---- writing */

static ca_status put_names(ca_result *r, const char *dataset, const char *label,
                           const ca_circuit_graph *g, int64_t count, name_of name) {
    ca_status st = CA_OK;
    char(*texts)[CA_CIRCUIT_NAME_MAX] = NULL;
    const char **names = NULL;
    CA_TRY(ca_calloc((size_t)count, sizeof *texts, &texts));
    CA_TRY(ca_calloc((size_t)count, sizeof *names, &names));
    for (int64_t i = 0; i < count; i++) names[i] = name(g, i, texts[i]);
    CA_TRY(
        ca_result_put(r, dataset, CA_RESULT_TEXT, (ca_result_shape){1, {count}, {label}}, names));
out:
    free(texts);
    free(names);
    return st;
}

static ca_status put_floats(ca_result *r, const char *dataset, ca_result_shape shape,
                            const double *values, int64_t count) {
    ca_status st = CA_OK;
    float *floats = NULL;
    CA_TRY(ca_calloc((size_t)count, sizeof *floats, &floats));
    for (int64_t i = 0; i < count; i++) floats[i] = (float)values[i];
    CA_TRY(ca_result_put(r, dataset, CA_RESULT_F32, shape, floats));
out:
    free(floats);
    return st;
}

ca_status ca_circuit_put_graph(ca_result *r, const ca_circuit_graph *g) {
    ca_status st = CA_OK;
    const int64_t sizes[CIRCUIT_SIZES] = {g->layers, g->heads, g->width, g->kv_columns};
    const ca_result_shape shape = {2, {g->sources, g->destinations}, {"source", "destination"}};
    int8_t *valid = NULL;
    CA_TRY(put_names(r, "/edges/source", "source", g, g->sources, ca_circuit_source_name));
    CA_TRY(put_names(r, "/edges/destination", "destination", g, g->destinations,
                     ca_circuit_destination_name));
    CA_TRY(ca_calloc((size_t)(g->sources * g->destinations), sizeof *valid, &valid));
    for (int64_t v = 0; v < g->destinations; v++)
        for (int64_t u = 0; u < ca_circuit_parents(g, v); u++) valid[u * g->destinations + v] = 1;
    CA_TRY(ca_result_put(r, "/edges/valid", CA_RESULT_BOOL, shape, valid));
    for (int i = 0; i < CIRCUIT_SIZES; i++)
        CA_TRY(ca_result_attribute_int(r, "/edges", ca_circuit_sizes[i].attribute, sizes[i]));
    CA_TRY(ca_result_attribute_int(r, "/edges", "parallel", g->parallel));
out:
    free(valid);
    return st;
}

/* One circuit, as it was found: what was asked for is not known, so it counts as what is kept. */
static ca_status put_circuit(ca_result *r, const ca_circuit_file *file) {
    ca_status st = CA_OK;
    const ca_circuit_graph *g = &file->graph;
    const ca_result_shape curve = {1, {1}, {"size"}};
    ca_circuit circuit = {.edges = file->in, .neurons = file->neurons};
    CA_TRY(ca_calloc((size_t)g->sources, sizeof *circuit.nodes, &circuit.nodes));
    ca_circuit_count(g, &circuit);
    const double fraction = (double)circuit.edge_count / (double)g->edges;
    CA_TRY(ca_result_put(r, "/circuits/fraction", CA_RESULT_F64, curve, &fraction));
    CA_TRY(ca_result_put(r, "/circuits/requested", CA_RESULT_I64, curve, &circuit.edge_count));
    CA_TRY(ca_result_put(r, "/circuits/kept_edges", CA_RESULT_I64, curve, &circuit.edge_count));
    CA_TRY(ca_result_put(r, "/circuits/kept_nodes", CA_RESULT_I64, curve, &circuit.node_count));
    CA_TRY(ca_result_put(
        r, CIRCUIT, CA_RESULT_BOOL,
        (ca_result_shape){3, {1, g->sources, g->destinations}, {"size", "source", "destination"}},
        circuit.edges));
    if (!circuit.neurons) goto out;
    CA_TRY(ca_result_put(r, "/circuits/kept_neurons", CA_RESULT_I64, curve, &circuit.neuron_count));
    CA_TRY(ca_result_put(
        r, MASK, CA_RESULT_BOOL,
        (ca_result_shape){3, {1, g->sources, g->width}, {"size", "source", "coordinate"}},
        circuit.neurons));
out:
    free(circuit.nodes);
    return st;
}

static ca_status put_provenance(ca_result *r, const ca_circuit_file *file, const char *from) {
    ca_status st = CA_OK;
    static const char *const conventions[] = {
        "sign and normalisation of the scores: those of the source",
        "circuit: as the source has it, not pruned; requested = kept"};
    CA_TRY(ca_result_attribute_text(r, "/", "tool_version", ca_version()));
    CA_TRY(ca_result_attribute_text(r, "/", "git_revision", ca_git_revision()));
    CA_TRY(ca_result_attribute_text(r, "/", "method", "eap"));
    if (file->model) CA_TRY(ca_result_attribute_text(r, "/", "model_path", file->model));
    if (from) CA_TRY(ca_result_attribute_text(r, "/", "source", from));
    CA_TRY(ca_result_attribute_texts(r, "/", "conventions", conventions, 2));
out:
    return st;
}

ca_status ca_circuit_write_result(const char *path, const ca_circuit_file *file, const char *from) {
    ca_status st = CA_OK;
    const ca_circuit_graph *g = &file->graph;
    const ca_result_shape edges = {2, {g->sources, g->destinations}, {"source", "destination"}};
    const ca_result_shape nodes = {1, {g->sources}, {"source"}};
    const ca_result_shape neurons = {2, {g->sources, g->width}, {"source", "coordinate"}};
    ca_result *r = NULL;
    CA_TRY(ca_result_create(path, &r));
    CA_TRY(put_provenance(r, file, from));
    CA_TRY(ca_circuit_put_graph(r, g));
    CA_TRY(put_floats(r, SCORE, edges, file->score, g->sources * g->destinations));
    if (file->node_score) {
        CA_TRY(put_names(r, "/nodes/name", "source", g, g->sources, ca_circuit_source_name));
        CA_TRY(put_floats(r, "/nodes/score", nodes, file->node_score, g->sources));
    }
    if (file->neuron_score) {
        CA_TRY(put_names(r, "/neurons/name", "source", g, g->sources, ca_circuit_source_name));
        CA_TRY(put_floats(r, NEURONS, neurons, file->neuron_score, g->sources * g->width));
    }
    if (file->in) CA_TRY(put_circuit(r, file));
    st = ca_result_finish(r);
    r = NULL;
out:
    ca_result_abandon(r);
    return st;
}
