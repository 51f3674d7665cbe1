/* SPDX-License-Identifier: MIT
 *
 * Circuit files by their suffix; what both forms need.
 */
#include "file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Larger than any model, and small enough that no product of them overflows. */
const circuit_size ca_circuit_sizes[CIRCUIT_SIZES] = {
    [CIRCUIT_LAYERS] = {"n_layers", "layers", 1, 4096},
    [CIRCUIT_HEADS] = {"n_heads", "heads", 1, 1024},
    [CIRCUIT_WIDTH] = {"d_model", "width", 1, 1 << 20},
    [CIRCUIT_KV_COLUMNS] = {"kv_columns", "kv_columns", 1, 1024},
};

ca_status ca_circuit_graph_of_sizes(const char *place, const int64_t sizes[CIRCUIT_SIZES],
                                    bool parallel, ca_circuit_graph *out) {
    const ca_arch arch = {.layers = sizes[CIRCUIT_LAYERS],
                          .heads = sizes[CIRCUIT_HEADS],
                          .width = sizes[CIRCUIT_WIDTH],
                          .parallel = parallel};
    const int64_t kv_columns = sizes[CIRCUIT_KV_COLUMNS];
    if (kv_columns > arch.heads || arch.heads % kv_columns != 0)
        return ca_fail(CA_E_DATA, "%s: kv_columns: expected a divisor of %lld heads, got %lld",
                       place, (long long)arch.heads, (long long)kv_columns);
    *out = ca_circuit_graph_of(&arch, kv_columns);
    return CA_OK;
}

ca_status ca_circuit_file_create(const ca_circuit_graph *g, bool circuit, bool nodes,
                                 ca_circuit_file *out) {
    ca_status st = CA_OK;
    const int64_t entries = g->sources * g->destinations;
    *out = (ca_circuit_file){.graph = *g};
    CA_TRY(ca_calloc((size_t)entries, sizeof *out->score, &out->score));
    if (circuit) CA_TRY(ca_calloc((size_t)entries, sizeof *out->in, &out->in));
    if (nodes) CA_TRY(ca_calloc((size_t)g->sources, sizeof *out->node_score, &out->node_score));
    for (int64_t i = 0; i < entries; i++) out->score[i] = NAN;
    for (int64_t u = 0; nodes && u < g->sources; u++) out->node_score[u] = NAN;
    return CA_OK;
out:
    ca_circuit_file_free(out);
    return st;
}

ca_status ca_circuit_file_add_neurons(ca_circuit_file *file) {
    ca_status st = CA_OK;
    const size_t count = (size_t)(file->graph.sources * file->graph.width);
    if (file->neurons) return CA_OK;
    CA_TRY(ca_calloc(count, sizeof *file->neurons, &file->neurons));
    memset(file->neurons, true, count * sizeof *file->neurons);
out:
    return st;
}

ca_status ca_circuit_file_add_neuron_scores(ca_circuit_file *file) {
    ca_status st = CA_OK;
    const size_t count = (size_t)(file->graph.sources * file->graph.width);
    if (file->neuron_score) return CA_OK;
    CA_TRY(ca_calloc(count, sizeof *file->neuron_score, &file->neuron_score));
    for (size_t i = 0; i < count; i++) file->neuron_score[i] = NAN;
out:
    return st;
}

void ca_circuit_file_free(ca_circuit_file *file) {
    free(file->score);
    free(file->in);
    free(file->neurons);
    free(file->neuron_score);
    free(file->node_score);
    free(file->model);
    *file = (ca_circuit_file){0};
}

/* Keys and values have a column for every query head, or for those of the model. */
static ca_status other_columns(const ca_circuit_file *file, const char *path,
                               const ca_circuit_graph *g) {
    const long long got = file->graph.kv_columns, want = g->kv_columns, heads = g->heads;
    if (got == heads || want == heads) {
        const char *theirs = got == heads ? "query" : "native",
                   *ours = got == heads ? "native" : "query";
        ca_hint("method.kv_columns=%s reads it", theirs);
        return ca_fail(CA_E_DATA,
                       "%s: expected key and value columns of kv_columns %s, %lld a layer, got "
                       "those of kv_columns %s, %lld a layer",
                       path, ours, want, theirs, got);
    }
    return ca_fail(CA_E_DATA,
                   "%s: of another model: expected %lld key and value columns a layer, got %lld",
                   path, want, got);
}

ca_status ca_circuit_file_check(const ca_circuit_file *file, const char *path,
                                const ca_circuit_graph *g) {
    const struct {
        const char *name;
        int64_t got, want;
    } sizes[] = {{"layers", file->graph.layers, g->layers},
                 {"heads", file->graph.heads, g->heads},
                 {"width", file->graph.width, g->width}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].got != sizes[i].want)
            return ca_fail(CA_E_DATA, "%s: of another model: expected %lld %s, got %lld", path,
                           (long long)sizes[i].want, sizes[i].name, (long long)sizes[i].got);
    if (file->graph.parallel != g->parallel)
        return ca_fail(CA_E_DATA, "%s: of another model: expected %s blocks, got %s ones", path,
                       g->parallel ? "parallel" : "sequential",
                       file->graph.parallel ? "parallel" : "sequential");
    return file->graph.kv_columns == g->kv_columns ? CA_OK : other_columns(file, path, g);
}

static bool ends_with(const char *text, const char *suffix) {
    const size_t n = strlen(text), m = strlen(suffix);
    return n >= m && strcmp(text + n - m, suffix) == 0;
}

static ca_status unknown_form(const char *path) {
    return ca_fail(CA_E_DATA, "%s: expected a name that ends in .json or .h5", path);
}

/* A file that cannot be opened is bad data, as one that cannot be understood is. */
static ca_status read_form(const char *path, int64_t circuit, ca_circuit_file *out) {
    ca_status st;
    if (!ends_with(path, ".h5") && !ends_with(path, ".json")) return unknown_form(path);
    if (ends_with(path, ".h5"))
        st = ca_circuit_read_result(path, circuit, out);
    else if (circuit > 0)
        st = ca_fail(CA_E_DATA, "%s: circuit %lld: a JSON file holds one circuit at most", path,
                     (long long)circuit);
    else
        st = ca_circuit_read_json(path, out);
    return st == CA_E_IO ? CA_E_DATA : st;
}

ca_status ca_circuit_file_read(const char *path, ca_circuit_file *out) {
    *out = (ca_circuit_file){0};
    return read_form(path, -1, out);
}

ca_status ca_circuit_file_read_at(const char *path, int64_t circuit, ca_circuit_file *out) {
    *out = (ca_circuit_file){0};
    ca_status st = read_form(path, circuit, out);
    if (st == CA_OK && !out->in) {
        ca_circuit_file_free(out);
        st = ca_fail(CA_E_DATA, "%s: expected a circuit, got scores only", path);
    }
    return st;
}

ca_status ca_circuit_file_write(const char *path, const ca_circuit_file *file, const char *from) {
    if (ends_with(path, ".h5")) return ca_circuit_write_result(path, file, from);
    if (ends_with(path, ".json")) return ca_circuit_write_json(path, file);
    return unknown_form(path);
}
