/* SPDX-License-Identifier: MIT
 *
 * What the two forms of a circuit file share: sizes that may come from anywhere, memory, edges.
 */
#ifndef CAUSA_CIRCUIT_FILE_H
#define CAUSA_CIRCUIT_FILE_H

#include "causa/circuit.h"

/* One size of the graph under the names that JSON and result files give it. */
typedef struct circuit_size {
    const char *json, *attribute;
    int64_t least, most;
} circuit_size;
enum { CIRCUIT_LAYERS, CIRCUIT_HEADS, CIRCUIT_WIDTH, CIRCUIT_KV_COLUMNS, CIRCUIT_SIZES };
extern const circuit_size ca_circuit_sizes[CIRCUIT_SIZES];

/* The graph of sizes within their limits. Errors: CA_E_DATA at `place` when kv_columns does not
 * divide heads. */
ca_status ca_circuit_graph_of_sizes(const char *place, const int64_t sizes[CIRCUIT_SIZES],
                                    bool parallel, ca_circuit_graph *out) CA_MUST_USE;
/* Memory for a graph: scores NaN; a circuit and node scores when asked for. */
ca_status ca_circuit_file_create(const ca_circuit_graph *g, bool circuit, bool nodes,
                                 ca_circuit_file *out) CA_MUST_USE;

/* Memory for masks that keep all neurons, or for their scores, all NaN, unless it is there. */
ca_status ca_circuit_file_add_neurons(ca_circuit_file *file) CA_MUST_USE;
ca_status ca_circuit_file_add_neuron_scores(ca_circuit_file *file) CA_MUST_USE;

ca_status ca_circuit_read_json(const char *path, ca_circuit_file *out) CA_MUST_USE;
ca_status ca_circuit_write_json(const char *path, const ca_circuit_file *file) CA_MUST_USE;
/* circuit: which one, -1 the last. */
ca_status ca_circuit_read_result(const char *path, int64_t circuit,
                                 ca_circuit_file *out) CA_MUST_USE;
ca_status ca_circuit_write_result(const char *path, const ca_circuit_file *file,
                                  const char *from) CA_MUST_USE;

#endif
