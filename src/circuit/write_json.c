/* SPDX-License-Identifier: MIT
 *
 * Writes the JSON form of EAP-IG and MIB: names in their order, numbers and spaces as Python's json
 * writes them, so that a file read from there and written here is the same file.
 */
#include "file.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct writer {
    FILE *out;
    const ca_circuit_file *file;
    bool first; /* of the edges */
} writer;

static const char *truth(bool value) { return value ? "true" : "false"; }

/* The shortest decimal number that reads back as the same one. */
static void write_number(FILE *out, double value) {
    char text[40];
    if (isnan(value) || isinf(value)) {
        fputs(isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity", out);
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    fputs(text, out);
    if (!strpbrk(text, ".e")) fputs(".0", out);
}

static void write_edge(writer *w, int64_t u, int64_t v) {
    char source[CA_CIRCUIT_NAME_MAX], destination[CA_CIRCUIT_NAME_MAX];
    const ca_circuit_graph *g = &w->file->graph;
    const int64_t edge = u * g->destinations + v;
    fprintf(w->out, "%s\"%s->%s\": {\"score\": ", w->first ? "" : ", ",
            ca_circuit_source_name(g, u, source), ca_circuit_destination_name(g, v, destination));
    write_number(w->out, w->file->score[edge]);
    fprintf(w->out, ", \"in_graph\": %s}", truth(w->file->in && w->file->in[edge]));
    w->first = false;
}

/* The i-th column of a layer in the order of the peers: q, k, v of each head; columns that heads
 * share, which the peers do not have, follow all q: k, v of each group. */
static int64_t column(const ca_circuit_graph *g, int64_t layer, int64_t i) {
    if (g->kv_columns == g->heads)
        return ca_circuit_column(g, layer, (ca_circuit_input)(i % 3)) + i / 3;
    if (i < g->heads) return ca_circuit_column(g, layer, CA_CIRCUIT_Q) + i;
    i -= g->heads;
    return ca_circuit_column(g, layer, i % 2 ? CA_CIRCUIT_V : CA_CIRCUIT_K) + i / 2;
}

/* Where blocks are parallel, each source's edge into the MLP follows those into the heads. */
static void write_layer(writer *w, int64_t layer) {
    const ca_circuit_graph *g = &w->file->graph;
    const int64_t mlp = ca_circuit_column(g, layer, CA_CIRCUIT_MLP);
    const int64_t columns = g->heads + 2 * g->kv_columns;
    const int64_t parents = ca_circuit_parents(g, ca_circuit_column(g, layer, CA_CIRCUIT_Q));
    for (int64_t u = 0; u < parents; u++) {
        for (int64_t i = 0; i < columns; i++) write_edge(w, u, column(g, layer, i));
        if (g->parallel) write_edge(w, u, mlp);
    }
    for (int64_t u = 0; u < ca_circuit_parents(g, mlp) && !g->parallel; u++) write_edge(w, u, mlp);
}

/* What a source's neurons have, where the file has it. */
static void write_neurons(writer *w, int64_t u) {
    const ca_circuit_file *f = w->file;
    const int64_t width = f->graph.width;
    if (f->neurons) {
        fputs(", \"neurons\": [", w->out);
        for (int64_t d = 0; d < width; d++)
            fprintf(w->out, "%s%s", d ? ", " : "", truth(f->neurons[u * width + d]));
        fputs("]", w->out);
    }
    if (f->neuron_score) {
        fputs(", \"neurons_scores\": [", w->out);
        for (int64_t d = 0; d < width; d++) {
            if (d) fputs(", ", w->out);
            write_number(w->out, f->neuron_score[u * width + d]);
        }
        fputs("]", w->out);
    }
}

static void write_nodes(writer *w, const bool *nodes) {
    char name[CA_CIRCUIT_NAME_MAX];
    const ca_circuit_graph *g = &w->file->graph;
    for (int64_t u = 0; u < g->sources; u++) {
        fprintf(w->out, "\"%s\": {\"in_graph\": %s", ca_circuit_source_name(g, u, name),
                truth(nodes[u]));
        if (w->file->node_score) {
            fputs(", \"score\": ", w->out);
            write_number(w->out, w->file->node_score[u]);
        }
        write_neurons(w, u);
        fputs("}, ", w->out);
    }
    fputs("\"logits\": {\"in_graph\": true}", w->out);
}

/* nodes [F]: those of the circuit. */
static void write_all(writer *w, const bool *nodes) {
    const ca_circuit_graph *g = &w->file->graph;
    fprintf(w->out,
            "{\"cfg\": {\"n_layers\": %lld, \"n_heads\": %lld, \"parallel_attn_mlp\": %s, "
            "\"d_model\": %lld",
            (long long)g->layers, (long long)g->heads, truth(g->parallel), (long long)g->width);
    if (g->kv_columns != g->heads)
        fprintf(w->out, ", \"kv_columns\": %lld", (long long)g->kv_columns);
    fputs("}, \"nodes\": {", w->out);
    write_nodes(w, nodes);
    fputs("}, \"edges\": {", w->out);
    for (int64_t l = 0; l < g->layers; l++) write_layer(w, l);
    for (int64_t u = 0; u < g->sources; u++) write_edge(w, u, g->destinations - 1);
    fputs("}}", w->out);
}

/* On the disk, then under its name: a file of that name is whole. */
static ca_status close_and_rename(FILE *out, const char *temporary, const char *path) {
    int error = 0; /* of the first call that failed; after a failed write errno is still its */
    if (ferror(out) || fflush(out) != 0 || fsync(fileno(out)) != 0) error = errno;
    if (fclose(out) != 0 && !error) error = errno;
    if (!error && rename(temporary, path) == 0) return CA_OK;
    if (!error) error = errno;
    (void)unlink(temporary);
    return ca_fail(CA_E_IO, "%s: cannot write it: %s", path, strerror(error));
}

ca_status ca_circuit_write_json(const char *path, const ca_circuit_file *file) {
    ca_status st = CA_OK;
    ca_string temporary = {0};
    ca_circuit circuit = {.edges = file->in};
    writer w = {.file = file, .first = true};
    CA_TRY(ca_calloc((size_t)file->graph.sources, sizeof *circuit.nodes, &circuit.nodes));
    if (file->in) ca_circuit_count(&file->graph, &circuit);
    CA_TRY(ca_string_printf(&temporary, "%s.tmp", path));
    w.out = fopen(temporary.text, "w");
    if (!w.out) {
        st = ca_fail(CA_E_IO, "%s: cannot create it: %s", temporary.text, strerror(errno));
        goto out;
    }
    write_all(&w, circuit.nodes);
    st = close_and_rename(w.out, temporary.text, path);
out:
    free(circuit.nodes);
    ca_string_free(&temporary);
    return st;
}
