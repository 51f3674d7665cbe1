/* SPDX-License-Identifier: MIT
 *
 * Rows, columns and names of the computation graph. Everything else in this folder, and whoever
 * fills or reads a matrix of edges, asks here which entry is which edge.
 */
#include "causa/circuit.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- sizes */

static int64_t row_stride(const ca_circuit_graph *g) { return g->heads + 1; }

static int64_t column_stride(const ca_circuit_graph *g) { return g->heads + 2 * g->kv_columns + 1; }

/* Rows that the heads of a layer can read. */
static int64_t rows_before(const ca_circuit_graph *g, int64_t layer) {
    return 1 + layer * row_stride(g);
}

static int64_t rows_before_mlp(const ca_circuit_graph *g, int64_t layer) {
    return rows_before(g, layer) + (g->parallel ? 0 : g->heads);
}

ca_circuit_graph ca_circuit_graph_of(const ca_arch *arch, int64_t kv_columns) {
    ca_circuit_graph g = {.layers = arch->layers,
                          .heads = arch->heads,
                          .width = arch->width,
                          .kv_columns = kv_columns ? kv_columns : arch->heads,
                          .parallel = arch->parallel};
    assert(g.layers > 0 && g.heads > 0 && g.kv_columns > 0 && g.heads % g.kv_columns == 0);
    g.sources = rows_before(&g, g.layers);
    g.destinations = g.layers * column_stride(&g) + 1;
    g.edges = g.sources; /* into the logits */
    for (int64_t l = 0; l < g.layers; l++)
        g.edges += rows_before(&g, l) * (column_stride(&g) - 1) + rows_before_mlp(&g, l);
    return g;
}

/* ---- rows and columns */

int64_t ca_circuit_head(const ca_circuit_graph *g, int64_t layer, int64_t head) {
    return rows_before(g, layer) + head;
}

int64_t ca_circuit_mlp(const ca_circuit_graph *g, int64_t layer) {
    return rows_before(g, layer) + g->heads;
}

int64_t ca_circuit_column(const ca_circuit_graph *g, int64_t layer, ca_circuit_input input) {
    const int64_t first = layer * column_stride(g);
    switch (input) {
    case CA_CIRCUIT_Q:
        return first;
    case CA_CIRCUIT_K:
        return first + g->heads;
    case CA_CIRCUIT_V:
        return first + g->heads + g->kv_columns;
    case CA_CIRCUIT_MLP:
        return first + g->heads + 2 * g->kv_columns;
    case CA_CIRCUIT_LOGITS:
        break;
    }
    return g->destinations - 1;
}

ca_circuit_place ca_circuit_source_place(const ca_circuit_graph *g, int64_t source) {
    assert(source >= 0 && source < g->sources);
    if (source == 0) return (ca_circuit_place){.layer = -1, .head = -1};
    const int64_t head = (source - 1) % row_stride(g);
    return (ca_circuit_place){.layer = (source - 1) / row_stride(g),
                              .head = head < g->heads ? head : -1};
}

ca_circuit_place ca_circuit_destination_place(const ca_circuit_graph *g, int64_t destination) {
    assert(destination >= 0 && destination < g->destinations);
    if (destination == g->destinations - 1)
        return (ca_circuit_place){.layer = -1, .head = -1, .input = CA_CIRCUIT_LOGITS};
    ca_circuit_place place = {.layer = destination / column_stride(g), .head = -1};
    const int64_t within = destination % column_stride(g), kv = within - g->heads;
    if (kv < 0) {
        place.input = CA_CIRCUIT_Q;
        place.head = within;
    } else if (kv < 2 * g->kv_columns) {
        place.input = kv < g->kv_columns ? CA_CIRCUIT_K : CA_CIRCUIT_V;
        place.head = kv % g->kv_columns;
    } else {
        place.input = CA_CIRCUIT_MLP;
    }
    return place;
}

int64_t ca_circuit_parents(const ca_circuit_graph *g, int64_t destination) {
    const ca_circuit_place place = ca_circuit_destination_place(g, destination);
    if (place.input == CA_CIRCUIT_LOGITS) return g->sources;
    return place.input == CA_CIRCUIT_MLP ? rows_before_mlp(g, place.layer)
                                         : rows_before(g, place.layer);
}

int ca_circuit_inputs(const ca_circuit_graph *g, int64_t source, int64_t columns[3]) {
    const ca_circuit_place place = ca_circuit_source_place(g, source);
    if (place.layer < 0) return 0;
    if (place.head < 0) {
        columns[0] = ca_circuit_column(g, place.layer, CA_CIRCUIT_MLP);
        return 1;
    }
    const int64_t group = place.head / (g->heads / g->kv_columns);
    columns[0] = ca_circuit_column(g, place.layer, CA_CIRCUIT_Q) + place.head;
    columns[1] = ca_circuit_column(g, place.layer, CA_CIRCUIT_K) + group;
    columns[2] = ca_circuit_column(g, place.layer, CA_CIRCUIT_V) + group;
    return 3;
}

ca_circuit_readers ca_circuit_readers_of(const ca_circuit_graph *g, int64_t destination) {
    const ca_circuit_place place = ca_circuit_destination_place(g, destination);
    const int64_t group = g->heads / g->kv_columns;
    switch (place.input) {
    case CA_CIRCUIT_Q:
        return (ca_circuit_readers){ca_circuit_head(g, place.layer, place.head), 1};
    case CA_CIRCUIT_K:
    case CA_CIRCUIT_V:
        return (ca_circuit_readers){ca_circuit_head(g, place.layer, place.head * group), group};
    case CA_CIRCUIT_MLP:
        return (ca_circuit_readers){ca_circuit_mlp(g, place.layer), 1};
    case CA_CIRCUIT_LOGITS:
        break;
    }
    return (ca_circuit_readers){g->sources, 0};
}

/* ---- names */

const char *ca_circuit_source_name(const ca_circuit_graph *g, int64_t source,
                                   char text[CA_CIRCUIT_NAME_MAX]) {
    const ca_circuit_place place = ca_circuit_source_place(g, source);
    const long long layer = place.layer, head = place.head;
    if (layer < 0)
        snprintf(text, CA_CIRCUIT_NAME_MAX, "input");
    else if (head < 0)
        snprintf(text, CA_CIRCUIT_NAME_MAX, "m%lld", layer);
    else
        snprintf(text, CA_CIRCUIT_NAME_MAX, "a%lld.h%lld", layer, head);
    return text;
}

const char *ca_circuit_destination_name(const ca_circuit_graph *g, int64_t destination,
                                        char text[CA_CIRCUIT_NAME_MAX]) {
    const ca_circuit_place place = ca_circuit_destination_place(g, destination);
    const long long layer = place.layer, head = place.head;
    if (place.input == CA_CIRCUIT_LOGITS) {
        snprintf(text, CA_CIRCUIT_NAME_MAX, "logits");
    } else if (place.input == CA_CIRCUIT_MLP) {
        snprintf(text, CA_CIRCUIT_NAME_MAX, "m%lld", layer);
    } else {
        const bool shared = place.input != CA_CIRCUIT_Q && g->kv_columns != g->heads;
        snprintf(text, CA_CIRCUIT_NAME_MAX, "a%lld.%s%lld<%c>", layer, shared ? "kv" : "h", head,
                 "qkv"[place.input]);
    }
    return text;
}

/* A number of at most six digits; longer ones are left unread and so make no name. */
static const char *read_number(const char *text, int64_t *value) {
    *value = 0;
    for (int digits = 0; digits < 6 && *text >= '0' && *text <= '9'; digits++, text++)
        *value = *value * 10 + (*text - '0');
    return text;
}

/* "a{layer}.{kind}{head}", behind which *rest begins; false when it is something else. */
static bool read_head(const char *name, const char *kind, int64_t *layer, int64_t *head,
                      const char **rest) {
    if (*name != 'a') return false;
    const char *p = read_number(name + 1, layer);
    const size_t n = strlen(kind);
    if (*p != '.' || strncmp(p + 1, kind, n) != 0) return false;
    *rest = read_number(p + 1 + n, head);
    return true;
}

/* Lookups guess a number from the digits; the name of that number then decides, so "a00.h1" or
 * "a0.h" are no names. */
int64_t ca_circuit_find_source(const ca_circuit_graph *g, const char *name) {
    int64_t layer = 0, head = 0, source = 0; /* the input */
    const char *rest;
    char text[CA_CIRCUIT_NAME_MAX];
    if (*name == 'm') {
        (void)read_number(name + 1, &layer);
        source = ca_circuit_mlp(g, layer);
    } else if (read_head(name, "h", &layer, &head, &rest)) {
        source = ca_circuit_head(g, layer, head);
    }
    if (source >= g->sources || strcmp(ca_circuit_source_name(g, source, text), name) != 0)
        return -1;
    return source;
}

int64_t ca_circuit_find_destination(const ca_circuit_graph *g, const char *name) {
    int64_t layer = 0, head = 0, destination = g->destinations - 1;
    const char *rest;
    char text[CA_CIRCUIT_NAME_MAX];
    if (*name == 'm') {
        (void)read_number(name + 1, &layer);
        destination = ca_circuit_column(g, layer, CA_CIRCUIT_MLP);
    } else if (read_head(name, "h", &layer, &head, &rest) ||
               read_head(name, "kv", &layer, &head, &rest)) {
        const char letter = *rest ? rest[1] : '\0';
        const ca_circuit_input input = letter == 'k'   ? CA_CIRCUIT_K
                                       : letter == 'v' ? CA_CIRCUIT_V
                                                       : CA_CIRCUIT_Q;
        destination = ca_circuit_column(g, layer, input) + head;
    }
    if (destination >= g->destinations ||
        strcmp(ca_circuit_destination_name(g, destination, text), name) != 0)
        return -1;
    return destination;
}
