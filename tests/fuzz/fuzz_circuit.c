/* SPDX-License-Identifier: MIT
 *
 * libFuzzer harness of the JSON of circuits: an error with text comes back, or scores and a circuit
 * that hold nothing beside edges and that, written again, read as the same. The corpus is in
 * corpus/circuit.
 */
#include "causa/circuit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void require(bool condition) {
    if (!condition) abort();
}

static bool same(double a, double b) { return isnan(a) ? isnan(b) : a == b; }

static void check_edges(const ca_circuit_file *f) {
    for (int64_t v = 0; v < f->graph.destinations; v++)
        for (int64_t u = ca_circuit_parents(&f->graph, v); u < f->graph.sources; u++) {
            require(isnan(f->score[u * f->graph.destinations + v]));
            require(!f->in || !f->in[u * f->graph.destinations + v]);
        }
}

static void check_same(const ca_circuit_file *a, const ca_circuit_file *b) {
    const int64_t n = a->graph.sources * a->graph.destinations;
    require(ca_circuit_file_check(b, "again", &a->graph) == CA_OK);
    for (int64_t i = 0; i < n; i++) require(same(a->score[i], b->score[i]));
    require(!a->in == !b->in && (!a->in || memcmp(a->in, b->in, (size_t)n) == 0));
    require(!a->node_score == !b->node_score);
    for (int64_t u = 0; a->node_score && u < a->graph.sources; u++)
        require(same(a->node_score[u], b->node_score[u]));
    const int64_t neurons = a->graph.sources * a->graph.width;
    require(!a->neurons == !b->neurons && !a->neuron_score == !b->neuron_score);
    require(!a->neurons || memcmp(a->neurons, b->neurons, (size_t)neurons) == 0);
    for (int64_t i = 0; a->neuron_score && i < neurons; i++)
        require(same(a->neuron_score[i], b->neuron_score[i]));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    char path[64];
    ca_circuit_file file, again;
    ca_log_set_level(CA_LOG_ERROR);
    snprintf(path, sizeof path, "/tmp/causa-fuzz-circuit-%d.json", (int)getpid());
    FILE *out = fopen(path, "wb");
    require(out && fwrite(bytes, 1, size, out) == size && fclose(out) == 0);

    ca_error_clear();
    if (ca_circuit_file_read(path, &file) == CA_OK) {
        check_edges(&file);
        require(ca_circuit_file_write(path, &file, NULL) == CA_OK);
        require(ca_circuit_file_read(path, &again) == CA_OK);
        check_same(&file, &again);
        ca_circuit_file_free(&again);
    } else {
        require(ca_error_text()[0] != '\0');
    }
    ca_circuit_file_free(&file);
    unlink(path);
    return 0;
}
