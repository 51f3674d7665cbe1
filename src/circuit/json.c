/* SPDX-License-Identifier: MIT
 *
 * Reads the JSON form of EAP-IG and MIB: {"cfg": sizes, "nodes": {name: …}, "edges": {"u->v": …}}.
 * The file may come from anywhere. Memory is taken only when it holds as many edges as its sizes
 * ask for, and for neurons when a list of them is as long as the width.
 */
#include "file.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- numbers that JSON does not have */

/* Python writes NaN, Infinity and -Infinity, which is no JSON. Each becomes a text of the same
 * length, so that line and column in messages stay right. DEL marks such a text. */
#define MARK "\x7f"
static const struct {
    const char *literal, *text;
    double value;
} literals[] = {
    {"NaN", "\"" MARK "\"", NAN},
    {"-Infinity", "\"" MARK "-Infin\"", -INFINITY},
    {"Infinity", "\"" MARK "Infin\"", INFINITY},
};
enum { LITERALS = sizeof literals / sizeof *literals };

static void replace_literals(char *text, size_t size) {
    bool quoted = false;
    for (size_t i = 0; i < size; i++) {
        if (quoted && text[i] == '\\')
            i++;
        else if (text[i] == '"')
            quoted = !quoted;
        for (int k = 0; k < LITERALS && !quoted && i < size; k++) {
            const size_t n = strlen(literals[k].literal);
            if (n > size - i || memcmp(text + i, literals[k].literal, n) != 0) continue;
            memcpy(text + i, literals[k].text, n);
            i += n - 1;
            break;
        }
    }
}

static bool read_float(const json_t *value, double *out) {
    if (json_is_number(value)) {
        *out = json_number_value(value);
        return true;
    }
    for (int k = 0; k < LITERALS && json_is_string(value); k++) {
        const size_t n = strlen(literals[k].text) - 2; /* without the quotes */
        if (json_string_length(value) != n ||
            memcmp(json_string_value(value), literals[k].text + 1, n) != 0)
            continue;
        *out = literals[k].value;
        return true;
    }
    return false;
}

/* ---- cfg */

static const char *kind_of(const json_t *value) {
    if (!value) return "nothing";
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "a text";
    case JSON_INTEGER:
    case JSON_REAL:
        return "another number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "true or false";
    case JSON_NULL:
        break;
    }
    return "null";
}

static ca_status find_object(const char *path, const json_t *root, const char *key,
                             const json_t **out) {
    *out = json_object_get(root, key);
    if (json_is_object(*out)) return CA_OK;
    return ca_fail(CA_E_DATA, "%s: %s: expected an object, got %s", path, key, kind_of(*out));
}

/* Columns of keys and values are those of the heads unless the file says how many there are. */
static ca_status read_cfg(const char *path, const json_t *cfg, ca_circuit_graph *out) {
    int64_t sizes[CIRCUIT_SIZES];
    for (int i = 0; i < CIRCUIT_SIZES; i++) {
        const circuit_size *s = &ca_circuit_sizes[i];
        const json_t *value = json_object_get(cfg, s->json);
        sizes[i] = json_integer_value(value);
        if (i == CIRCUIT_KV_COLUMNS && !value)
            sizes[i] = sizes[CIRCUIT_HEADS];
        else if (!json_is_integer(value) || sizes[i] < s->least || sizes[i] > s->most)
            return ca_fail(CA_E_DATA,
                           "%s: cfg: %s: expected a whole number from %lld to %lld, got %s", path,
                           s->json, (long long)s->least, (long long)s->most, kind_of(value));
    }
    const json_t *parallel = json_object_get(cfg, "parallel_attn_mlp");
    if (!json_is_boolean(parallel))
        return ca_fail(CA_E_DATA, "%s: cfg: parallel_attn_mlp: expected true or false, got %s",
                       path, kind_of(parallel));
    char place[256];
    snprintf(place, sizeof place, "%s: cfg", path);
    return ca_circuit_graph_of_sizes(place, sizes, json_is_true(parallel), out);
}

/* ---- edges */

/* Entry of "u->v" in [F, R], or -1. */
static int64_t find_edge(const ca_circuit_graph *g, const char *name) {
    char source[CA_CIRCUIT_NAME_MAX];
    const char *arrow = strstr(name, "->");
    if (!arrow || arrow - name >= CA_CIRCUIT_NAME_MAX) return -1;
    memcpy(source, name, (size_t)(arrow - name));
    source[arrow - name] = '\0';
    const int64_t u = ca_circuit_find_source(g, source);
    const int64_t v = ca_circuit_find_destination(g, arrow + 2);
    return u < 0 || v < 0 || u >= ca_circuit_parents(g, v) ? -1 : u * g->destinations + v;
}

static ca_status unknown_name(const char *path, const char *key, const char *name,
                              const ca_circuit_graph *g) {
    return ca_fail(CA_E_DATA,
                   "%s: %s: expected names of a graph of %lld layers and %lld heads, got '%.*s'",
                   path, key, (long long)g->layers, (long long)g->heads, 64, name);
}

/* Fewer edges than the graph has: a wrong name explains more than the number does. */
static ca_status missing_edges(const char *path, const json_t *edges, const ca_circuit_graph *g) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)edges, name, value) {
        if (find_edge(g, name) < 0) return unknown_name(path, "edges", name, g);
    }
    return ca_fail(CA_E_DATA,
                   "%s: edges: expected all %lld of a graph of %lld layers and %lld heads, got %zu",
                   path, (long long)g->edges, (long long)g->layers, (long long)g->heads,
                   json_object_size(edges));
}

/* A score, or whether it is in the circuit, or both. */
static ca_status read_edge(const char *path, const char *name, const json_t *value, double *score,
                           bool *in) {
    const json_t *number = json_object_get(value, "score");
    const json_t *truth = json_object_get(value, "in_graph");
    if (!number && !truth)
        return ca_fail(CA_E_DATA, "%s: edges: %s: expected score or in_graph, got neither", path,
                       name);
    if (number && !read_float(number, score))
        return ca_fail(CA_E_DATA, "%s: edges: %s: score: expected a number, got %s", path, name,
                       kind_of(number));
    if (truth && !json_is_boolean(truth))
        return ca_fail(CA_E_DATA, "%s: edges: %s: in_graph: expected true or false, got %s", path,
                       name, kind_of(truth));
    *in = json_is_true(truth);
    return CA_OK;
}

/* Names are unique, all are known and there are at least as many as edges: then none is missing. */
static ca_status read_edges(const char *path, const json_t *edges, ca_circuit_file *out) {
    ca_status st = CA_OK;
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)edges, name, value) {
        const int64_t edge = find_edge(&out->graph, name);
        if (edge < 0) return unknown_name(path, "edges", name, &out->graph);
        CA_TRY(read_edge(path, name, value, &out->score[edge], &out->in[edge]));
    }
out:
    return st;
}

/* ---- nodes */

/* A list of a node with a value for each of its neurons. */
static ca_status check_list(const char *path, const char *name, const char *key, const json_t *list,
                            int64_t width, const char *values) {
    const int64_t count = (int64_t)json_array_size(list);
    if (!json_is_array(list))
        return ca_fail(CA_E_DATA, "%s: nodes: %s: %s: expected a list, got %s", path, name, key,
                       kind_of(list));
    if (count != width)
        return ca_fail(CA_E_DATA, "%s: nodes: %s: %s: expected %lld %s, got %lld", path, name, key,
                       (long long)width, values, (long long)count);
    return CA_OK;
}

static ca_status read_mask(const char *path, const char *name, const json_t *mask, int64_t u,
                           ca_circuit_file *out) {
    ca_status st = CA_OK;
    const int64_t width = out->graph.width;
    if (!mask) return CA_OK;
    CA_TRY(check_list(path, name, "neurons", mask, width, "times true or false"));
    CA_TRY(ca_circuit_file_add_neurons(out));
    for (int64_t d = 0; d < width; d++) {
        const json_t *kept = json_array_get(mask, (size_t)d);
        if (!json_is_boolean(kept))
            return ca_fail(CA_E_DATA,
                           "%s: nodes: %s: neurons[%lld]: expected true or false, got %s", path,
                           name, (long long)d, kind_of(kept));
        out->neurons[u * width + d] = json_is_true(kept);
    }
out:
    return st;
}

static ca_status read_neuron_scores(const char *path, const char *name, const json_t *scores,
                                    int64_t u, ca_circuit_file *out) {
    ca_status st = CA_OK;
    const int64_t width = out->graph.width;
    if (!scores) return CA_OK;
    CA_TRY(check_list(path, name, "neurons_scores", scores, width, "numbers"));
    CA_TRY(ca_circuit_file_add_neuron_scores(out));
    for (int64_t d = 0; d < width; d++) {
        const json_t *score = json_array_get(scores, (size_t)d);
        if (!read_float(score, &out->neuron_score[u * width + d]))
            return ca_fail(CA_E_DATA,
                           "%s: nodes: %s: neurons_scores[%lld]: expected a number, got %s", path,
                           name, (long long)d, kind_of(score));
    }
out:
    return st;
}

static ca_status read_nodes(const char *path, const json_t *nodes, ca_circuit_file *out) {
    ca_status st = CA_OK;
    const char *name;
    json_t *value;
    int64_t found = 0;
    bool scored = false;
    json_object_foreach((json_t *)(uintptr_t)nodes, name, value) {
        if (strcmp(name, "logits") == 0) continue;
        const int64_t u = ca_circuit_find_source(&out->graph, name);
        if (u < 0) return unknown_name(path, "nodes", name, &out->graph);
        const json_t *score = json_object_get(value, "score");
        if (score && !read_float(score, &out->node_score[u]))
            return ca_fail(CA_E_DATA, "%s: nodes: %s: score: expected a number, got %s", path, name,
                           kind_of(score));
        found++;
        scored |= score != NULL;
        CA_TRY(read_mask(path, name, json_object_get(value, "neurons"), u, out));
        CA_TRY(read_neuron_scores(path, name, json_object_get(value, "neurons_scores"), u, out));
    }
    if (found != out->graph.sources)
        return ca_fail(CA_E_DATA, "%s: nodes: expected all %lld and the logits, got %lld", path,
                       (long long)out->graph.sources, (long long)found);
    if (!scored) {
        free(out->node_score);
        out->node_score = NULL;
    }
out:
    return st;
}

/* ---- the whole */

static void drop_empty_circuit(ca_circuit_file *file) {
    for (int64_t i = 0; i < file->graph.sources * file->graph.destinations; i++)
        if (file->in[i]) return;
    free(file->in);
    free(file->neurons);
    file->in = NULL;
    file->neurons = NULL;
}

static ca_status parse(const char *path, char *text, size_t size, json_t **out) {
    json_error_t error;
    replace_literals(text, size);
    *out = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    if (!*out && json_error_code(&error) == json_error_out_of_memory)
        return ca_fail(CA_E_MEMORY, "%s: no memory for the file", path);
    if (!*out)
        return ca_fail(CA_E_DATA, "%s: line %d, column %d: %s", path, error.line, error.column,
                       error.text);
    return CA_OK;
}

ca_status ca_circuit_read_json(const char *path, ca_circuit_file *out) {
    ca_status st = CA_OK;
    char *text = NULL;
    size_t size;
    json_t *root = NULL;
    const json_t *cfg, *nodes, *edges;
    ca_circuit_graph g;
    CA_TRY(ca_file_read(path, &text, &size));
    CA_TRY(parse(path, text, size, &root));
    CA_TRY(find_object(path, root, "cfg", &cfg));
    CA_TRY(find_object(path, root, "nodes", &nodes));
    CA_TRY(find_object(path, root, "edges", &edges));
    CA_TRY(read_cfg(path, cfg, &g));
    if ((int64_t)json_object_size(edges) < g.edges) CA_TRY(missing_edges(path, edges, &g));
    CA_TRY(ca_circuit_file_create(&g, true, true, out));
    CA_TRY(read_edges(path, edges, out));
    CA_TRY(read_nodes(path, nodes, out));
    drop_empty_circuit(out);
out:
    json_decref(root);
    free(text);
    if (st != CA_OK) ca_circuit_file_free(out);
    return st;
}
