/* SPDX-License-Identifier: MIT
 *
 * `causa convert`: edge scores and circuits between result files and the JSON of other tools.
 */
#include "cli.h"

#include "causa/circuit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool ends_with(const char *text, const char *suffix) {
    const size_t n = strlen(text), m = strlen(suffix);
    return n > m && strcmp(text + n - m, suffix) == 0;
}

static ca_status check_names(const cli_arguments *a) {
    if (a->count != 2)
        return ca_fail(CA_E_USAGE, "expected a file to read and a file to write, got %lld names",
                       (long long)a->count);
    const char *in = a->words[0], *out = a->words[1];
    if (!(ends_with(in, ".h5") && ends_with(out, ".json")) &&
        !(ends_with(in, ".json") && ends_with(out, ".h5")))
        return ca_fail(CA_E_USAGE,
                       "expected one name that ends in .h5 and one that ends in .json, got '%s' "
                       "and '%s'",
                       in, out);
    if (!ca_file_exists(out) || a->overwrite) return CA_OK;
    ca_hint("--overwrite replaces it");
    return ca_fail(CA_E_USAGE, "%s: the file exists already", out);
}

/* -1: no number was given. */
static ca_status parse_circuit(const char *text, int64_t *circuit) {
    *circuit = -1;
    if (!text) return CA_OK;
    char *end;
    errno = 0;
    const long long n = strtoll(text, &end, 10);
    if (end == text || *end || errno || n < 0)
        return ca_fail(CA_E_USAGE, "--circuit: expected a number from 0 on, got '%s'", text);
    *circuit = n;
    return CA_OK;
}

static ca_status announce(const char *path, const ca_circuit_file *file) {
    ca_status st = CA_OK;
    const ca_circuit_graph *g = &file->graph;
    ca_circuit circuit = {.edges = file->in};
    CA_TRY(ca_calloc((size_t)g->sources, sizeof *circuit.nodes, &circuit.nodes));
    if (file->in) ca_circuit_count(g, &circuit);
    ca_log(CA_LOG_INFO,
           "%s: %lld layers, %lld heads, %lld edges; in the circuit: %lld edges of "
           "%lld sources",
           path, (long long)g->layers, (long long)g->heads, (long long)g->edges,
           (long long)circuit.edge_count, (long long)circuit.node_count);
    if (file->count > 1)
        ca_log(CA_LOG_INFO, "circuit %lld of %lld, numbered from 0; --circuit N takes another one",
               (long long)file->number, (long long)file->count);
out:
    free(circuit.nodes);
    return st;
}

ca_status ca_cli_convert(const cli_arguments *arguments) {
    ca_status st = CA_OK;
    ca_circuit_file file = {0};
    int64_t circuit;
    CA_TRY(check_names(arguments));
    CA_TRY(parse_circuit(arguments->circuit, &circuit));
    const char *in = arguments->words[0], *out = arguments->words[1];
    CA_TRY(circuit < 0 ? ca_circuit_file_read(in, &file)
                       : ca_circuit_file_read_at(in, circuit, &file));
    CA_TRY(ca_circuit_file_write(out, &file, in));
    CA_TRY(announce(out, &file));
    if (ends_with(out, ".json") && file.graph.kv_columns != file.graph.heads)
        ca_log(CA_LOG_WARNING,
               "%s: EAP-IG and MIB cannot read it: keys and values have columns of their own, such "
               "as a0.kv0<k>; method.kv_columns: query gives every head its own",
               out);
out:
    ca_circuit_file_free(&file);
    return st;
}
