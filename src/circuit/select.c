/* SPDX-License-Identifier: MIT
 *
 * Circuits: which edges are kept, by three rules, and what is left of them when dead ends are
 * dropped.
 */
#include "causa/circuit.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- a heap of candidates */

typedef struct candidate {
    double key;
    int64_t index; /* of an edge: source * R + destination; of a neuron: source * D + coordinate */
} candidate;

/* The one that is picked first is at [0]. */
typedef struct heap {
    candidate *items;
    int64_t count;
} heap;

/* Ties go to the lower index: an order that no implementation of a heap can change. */
static bool before(candidate a, candidate b) {
    return a.key > b.key || (a.key == b.key && a.index < b.index);
}

static void sift_down(heap *h, int64_t i) {
    const candidate moved = h->items[i];
    for (int64_t child = 2 * i + 1; child < h->count; child = 2 * i + 1) {
        if (child + 1 < h->count && before(h->items[child + 1], h->items[child])) child++;
        if (!before(h->items[child], moved)) break;
        h->items[i] = h->items[child];
        i = child;
    }
    h->items[i] = moved;
}

static void push(heap *h, candidate added) {
    int64_t i = h->count++;
    for (; i > 0 && before(added, h->items[(i - 1) / 2]); i = (i - 1) / 2)
        h->items[i] = h->items[(i - 1) / 2];
    h->items[i] = added;
}

static candidate pop(heap *h) {
    const candidate first = h->items[0];
    h->items[0] = h->items[--h->count];
    if (h->count > 0) sift_down(h, 0);
    return first;
}

/* ---- rules */

typedef struct selection {
    const ca_circuit_graph *g;
    const double *score;
    bool absolute;
    heap heap;
} selection;

static double key_of(const selection *s, int64_t index) {
    return s->absolute ? fabs(s->score[index]) : s->score[index];
}

/* Entries without a number are never picked. */
static void append(selection *s, int64_t index) {
    const double key = key_of(s, index);
    if (!isnan(key)) s->heap.items[s->heap.count++] = (candidate){key, index};
}

static void order(heap *h) {
    for (int64_t i = h->count / 2 - 1; i >= 0; i--) sift_down(h, i);
}

static void pick_top(selection *s, int64_t count, bool *edges) {
    const ca_circuit_graph *g = s->g;
    for (int64_t v = 0; v < g->destinations; v++) {
        const int64_t parents = ca_circuit_parents(g, v);
        for (int64_t u = 0; u < parents; u++) append(s, u * g->destinations + v);
    }
    order(&s->heap);
    for (int64_t n = 0; n < count && s->heap.count > 0; n++) edges[pop(&s->heap).index] = true;
}

/* Every edge into a column becomes a candidate. */
static void open_column(selection *s, int64_t v) {
    const int64_t parents = ca_circuit_parents(s->g, v);
    for (int64_t u = 0; u < parents; u++) {
        const int64_t index = u * s->g->destinations + v;
        const double key = key_of(s, index);
        if (!isnan(key)) push(&s->heap, (candidate){key, index});
    }
}

/* opened [R]: the columns whose edges are, or were, candidates. Heads of a group share columns. */
static void pick_greedily(selection *s, int64_t count, bool *opened, bool *edges) {
    const ca_circuit_graph *g = s->g;
    open_column(s, g->destinations - 1);
    for (int64_t n = 0; n < count && s->heap.count > 0; n++) {
        int64_t columns[3];
        const int64_t edge = pop(&s->heap).index;
        edges[edge] = true;
        const int inputs = ca_circuit_inputs(g, edge / g->destinations, columns);
        for (int i = 0; i < inputs; i++) {
            if (!opened[columns[i]]) open_column(s, columns[i]);
            opened[columns[i]] = true;
        }
    }
}

static void pick_above(const selection *s, double threshold, bool *edges) {
    const ca_circuit_graph *g = s->g;
    for (int64_t v = 0; v < g->destinations; v++) {
        const int64_t parents = ca_circuit_parents(g, v);
        for (int64_t u = 0; u < parents; u++) {
            const int64_t index = u * g->destinations + v;
            edges[index] = key_of(s, index) >= threshold;
        }
    }
}

ca_status ca_circuit_create(const ca_circuit_graph *g, ca_circuit *out) {
    ca_status st = CA_OK;
    *out = (ca_circuit){0};
    CA_TRY(ca_calloc((size_t)(g->sources * g->destinations), sizeof *out->edges, &out->edges));
    CA_TRY(ca_calloc((size_t)g->sources, sizeof *out->nodes, &out->nodes));
    return CA_OK;
out:
    ca_circuit_free(out);
    return st;
}

ca_status ca_circuit_add_neurons(const ca_circuit_graph *g, ca_circuit *circuit) {
    return ca_calloc((size_t)(g->sources * g->width), sizeof *circuit->neurons, &circuit->neurons);
}

void ca_circuit_free(ca_circuit *circuit) {
    free(circuit->neurons);
    free(circuit->edges);
    free(circuit->nodes);
    *circuit = (ca_circuit){0};
}

ca_status ca_circuit_select(const ca_circuit_graph *g, const double *score, bool absolute,
                            ca_circuit_rule rule, int64_t count, double threshold,
                            ca_circuit *out) {
    ca_status st = CA_OK;
    selection s = {.g = g, .score = score, .absolute = absolute};
    bool *opened = NULL;
    assert(rule == CA_CIRCUIT_THRESHOLD || (count >= 0 && count <= g->edges));
    CA_TRY(ca_circuit_create(g, out));
    if (rule == CA_CIRCUIT_THRESHOLD) {
        pick_above(&s, threshold, out->edges);
    } else {
        CA_TRY(ca_calloc((size_t)g->edges, sizeof *s.heap.items, &s.heap.items));
        CA_TRY(ca_calloc((size_t)g->destinations, sizeof *opened, &opened));
        if (rule == CA_CIRCUIT_TOP)
            pick_top(&s, count, out->edges);
        else
            pick_greedily(&s, count, opened, out->edges);
    }
    ca_circuit_prune(g, out);
out:
    free(s.heap.items);
    free(opened);
    if (st != CA_OK) ca_circuit_free(out);
    return st;
}

/* Every edge out of a source. */
static void keep_row(const ca_circuit_graph *g, int64_t source, bool *edges) {
    for (int64_t v = 0; v < g->destinations; v++)
        if (source < ca_circuit_parents(g, v)) edges[source * g->destinations + v] = true;
}

/* Creates a circuit of whole sources, or with a mask of neurons. */
static ca_status select_sources(selection *s, bool neurons, ca_circuit_rule rule, int64_t count,
                                double threshold, ca_circuit *out) {
    ca_status st = CA_OK;
    const int64_t each = neurons ? s->g->width : 1, whole = s->g->sources * each;
    assert(rule != CA_CIRCUIT_GREEDY);
    assert(rule == CA_CIRCUIT_THRESHOLD || (count >= 0 && count <= whole));
    CA_TRY(ca_circuit_create(s->g, out));
    if (neurons) CA_TRY(ca_circuit_add_neurons(s->g, out));
    CA_TRY(ca_calloc((size_t)whole, sizeof *s->heap.items, &s->heap.items));
    for (int64_t i = 0; i < whole; i++) append(s, i);
    order(&s->heap);
    for (int64_t n = 0; s->heap.count > 0; n++) {
        const candidate first = pop(&s->heap);
        const int64_t source = first.index / each;
        if (rule == CA_CIRCUIT_TOP ? n >= count : first.key < threshold) break;
        if (out->neurons) out->neurons[first.index] = true;
        if (!out->nodes[source]) keep_row(s->g, source, out->edges);
        out->nodes[source] = true;
    }
    ca_circuit_prune(s->g, out);
out:
    free(s->heap.items);
    if (st != CA_OK) ca_circuit_free(out);
    return st;
}

ca_status ca_circuit_select_nodes(const ca_circuit_graph *g, const double *score, bool absolute,
                                  ca_circuit_rule rule, int64_t count, double threshold,
                                  ca_circuit *out) {
    selection s = {.g = g, .score = score, .absolute = absolute};
    return select_sources(&s, false, rule, count, threshold, out);
}

ca_status ca_circuit_select_neurons(const ca_circuit_graph *g, const double *score, bool absolute,
                                    ca_circuit_rule rule, int64_t count, double threshold,
                                    ca_circuit *out) {
    selection s = {.g = g, .score = score, .absolute = absolute};
    return select_sources(&s, true, rule, count, threshold, out);
}

/* ---- what is kept of a circuit */

static bool *row(const ca_circuit_graph *g, const ca_circuit *circuit, int64_t source) {
    return circuit->edges + source * g->destinations;
}

static int64_t edges_out(const ca_circuit_graph *g, const ca_circuit *circuit, int64_t source) {
    int64_t count = 0;
    const bool *edges = row(g, circuit, source);
    for (int64_t v = 0; v < g->destinations; v++) count += edges[v];
    return count;
}

static bool column_is_read(const ca_circuit_graph *g, const ca_circuit *circuit, int64_t v) {
    const int64_t parents = ca_circuit_parents(g, v);
    for (int64_t u = 0; u < parents; u++)
        if (row(g, circuit, u)[v]) return true;
    return false;
}

/* The input stands for the tokens and needs no edge in. */
static bool has_edge_in(const ca_circuit_graph *g, const ca_circuit *circuit, int64_t source) {
    int64_t columns[3];
    const int inputs = ca_circuit_inputs(g, source, columns);
    for (int i = 0; i < inputs; i++)
        if (column_is_read(g, circuit, columns[i])) return true;
    return inputs == 0;
}

static void clear_column_without_readers(const ca_circuit_graph *g, const ca_circuit *circuit,
                                         int64_t v) {
    const ca_circuit_readers readers = ca_circuit_readers_of(g, v);
    for (int64_t i = 0; i < readers.count; i++)
        if (circuit->nodes[readers.first + i]) return;
    const int64_t parents = ca_circuit_parents(g, v);
    for (int64_t u = 0; u < parents; u++) row(g, circuit, u)[v] = false;
}

static int64_t count_neurons(const ca_circuit_graph *g, const ca_circuit *circuit, int64_t source) {
    int64_t count = 0;
    for (int64_t d = 0; d < g->width; d++) count += circuit->neurons[source * g->width + d];
    return count;
}

/* Nothing of what such a source puts out is its own. */
static void drop_sources_without_neurons(const ca_circuit_graph *g, const ca_circuit *circuit) {
    for (int64_t u = 0; u < g->sources; u++)
        if (count_neurons(g, circuit, u) == 0)
            memset(row(g, circuit, u), 0, (size_t)g->destinations);
}

static void clear_neurons_of_dropped(const ca_circuit_graph *g, ca_circuit *circuit) {
    for (int64_t u = 0; u < g->sources; u++) {
        if (circuit->nodes[u]) continue;
        circuit->neuron_count -= count_neurons(g, circuit, u);
        memset(circuit->neurons + u * g->width, 0, (size_t)g->width * sizeof(bool));
    }
}

void ca_circuit_count(const ca_circuit_graph *g, ca_circuit *circuit) {
    circuit->edge_count = circuit->node_count = circuit->neuron_count = 0;
    for (int64_t u = 0; u < g->sources; u++) {
        const int64_t out = edges_out(g, circuit, u);
        circuit->nodes[u] = out > 0 && has_edge_in(g, circuit, u);
        circuit->edge_count += out;
        circuit->node_count += circuit->nodes[u];
        if (circuit->neurons) circuit->neuron_count += count_neurons(g, circuit, u);
    }
}

/* Two sweeps reach the fixpoint, because edges lead from lower to higher rows. Upwards: when a row
 * is met, all rows that could feed it are settled. Downwards: likewise all that could read it; and
 * what is dropped there has no edge out, so nobody loses an edge in. */
void ca_circuit_prune(const ca_circuit_graph *g, ca_circuit *circuit) {
    if (circuit->neurons) drop_sources_without_neurons(g, circuit);
    for (int64_t u = 0; u < g->sources; u++) {
        circuit->nodes[u] = has_edge_in(g, circuit, u);
        if (!circuit->nodes[u]) memset(row(g, circuit, u), 0, (size_t)g->destinations);
    }
    for (int64_t u = g->sources - 1; u >= 0; u--) {
        int64_t columns[3];
        if (edges_out(g, circuit, u) > 0) continue;
        circuit->nodes[u] = false;
        const int inputs = ca_circuit_inputs(g, u, columns);
        for (int i = 0; i < inputs; i++) clear_column_without_readers(g, circuit, columns[i]);
    }
    ca_circuit_count(g, circuit);
    if (circuit->neurons) clear_neurons_of_dropped(g, circuit);
}
