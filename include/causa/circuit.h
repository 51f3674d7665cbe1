/* SPDX-License-Identifier: MIT
 *
 * The computation graph of a decoder as edge attribution sees it, and circuits: sets of its edges.
 *
 * Sources (rows, F): `input` (the token embedding alone), every head `a{l}.h{h}` (z W_O without the
 * output bias), every MLP `m{l}` (with its bias). Destinations (columns, R): the q, k and v input
 * of every head, the input of every MLP, the logits; each is the residual stream before the norm
 * that reads it. The residual stream is a fixed background (positions, output biases) plus the sum
 * of the outputs of all earlier sources, so every (earlier source, destination) pair is an edge.
 *
 *   row     input: 0;  a{l}.h{h}: 1 + l (H + 1) + h;  m{l}: 1 + l (H + 1) + H
 *   column  of layer l, from l (H + 2 K + 1): H queries, K keys, K values, the MLP; last: logits
 *
 * K is H ("every query head reads keys and values of its own", as the peers do with grouped-query
 * attention), or the number of key/value heads: then k and v columns are `a{l}.kv{g}<k>`, read by
 * all query heads of group g.
 *
 * Matrices [F, R] are row-major; entries that are no edges are false or NaN.
 * Source: Hanna, Pezzelle, Belinkov 2024, "Have faith in faithfulness", arXiv 2403.17806.
 */
#ifndef CAUSA_CIRCUIT_H
#define CAUSA_CIRCUIT_H

#include "causa/model.h"
#include "causa/result.h"

typedef struct ca_circuit_graph {
    int64_t layers, heads, width;
    int64_t kv_columns;                   /* K: heads, or the key/value heads */
    bool parallel;                        /* attention and MLP both read the block's input */
    int64_t sources, destinations, edges; /* F, R, how many pairs are edges */
} ca_circuit_graph;

/* kv_columns: 0 = one key and one value column per query head. */
ca_circuit_graph ca_circuit_graph_of(const ca_arch *arch, int64_t kv_columns);

typedef enum ca_circuit_input {
    CA_CIRCUIT_Q,
    CA_CIRCUIT_K,
    CA_CIRCUIT_V,
    CA_CIRCUIT_MLP,
    CA_CIRCUIT_LOGITS
} ca_circuit_input;

/* Where a row or column stands. */
typedef struct ca_circuit_place {
    int64_t layer; /* -1: input, or logits */
    int64_t head;  /* of k and v columns the column's own, in [0, K); -1: MLP, input, logits */
    ca_circuit_input input; /* of columns */
} ca_circuit_place;

/* Row and column numbers. */
int64_t ca_circuit_head(const ca_circuit_graph *g, int64_t layer, int64_t head);
int64_t ca_circuit_mlp(const ca_circuit_graph *g, int64_t layer);
/* First column of an input of a layer (of head 0); of CA_CIRCUIT_LOGITS the last one of all. */
int64_t ca_circuit_column(const ca_circuit_graph *g, int64_t layer, ca_circuit_input input);
ca_circuit_place ca_circuit_source_place(const ca_circuit_graph *g, int64_t source);
ca_circuit_place ca_circuit_destination_place(const ca_circuit_graph *g, int64_t destination);
/* Rows [0, this) have an edge into the column. */
int64_t ca_circuit_parents(const ca_circuit_graph *g, int64_t destination);
/* The columns that a source reads: 3 of a head (q, k, v; of its group where k and v are shared),
 * 1 of an MLP, 0 of the input. */
int ca_circuit_inputs(const ca_circuit_graph *g, int64_t source, int64_t columns[3]);
/* The rows [first, first + count) that read a column: one, or the heads of a group; the logits are
 * read by none. */
typedef struct ca_circuit_readers {
    int64_t first, count;
} ca_circuit_readers;
ca_circuit_readers ca_circuit_readers_of(const ca_circuit_graph *g, int64_t destination);

enum { CA_CIRCUIT_NAME_MAX = 48 };
/* "a0.h3", "m2", "input" */
const char *ca_circuit_source_name(const ca_circuit_graph *g, int64_t source,
                                   char text[CA_CIRCUIT_NAME_MAX]);
/* "a0.h3<q>", "a0.kv1<k>", "m2", "logits" */
const char *ca_circuit_destination_name(const ca_circuit_graph *g, int64_t destination,
                                        char text[CA_CIRCUIT_NAME_MAX]);
/* Row of a source name, column of a destination name; -1 when there is none. */
int64_t ca_circuit_find_source(const ca_circuit_graph *g, const char *name);
int64_t ca_circuit_find_destination(const ca_circuit_graph *g, const char *name);

/* ---- selection --------------------------------------------------------------------------- */

typedef enum ca_circuit_rule {
    CA_CIRCUIT_TOP,
    CA_CIRCUIT_GREEDY,
    CA_CIRCUIT_THRESHOLD
} ca_circuit_rule;

/* A set of edges, and the sources that it keeps; the logits, always there, are not counted. With a
 * mask of neurons n_u, whoever reads source u over a kept edge has n_u * own + (1 - n_u) * ablated:
 * of a neuron, a coordinate of what u puts out, either value. */
typedef struct ca_circuit {
    bool *edges;                                  /* [F, R] */
    bool *nodes;                                  /* [F] */
    bool *neurons;                                /* [F, D]; NULL: all neurons of every source */
    int64_t edge_count, node_count, neuron_count; /* neuron_count: 0 without a mask */
} ca_circuit;

/* No edge, no node. */
ca_status ca_circuit_create(const ca_circuit_graph *g, ca_circuit *out) CA_MUST_USE;
/* Gives a circuit a mask of neurons that keeps none. */
ca_status ca_circuit_add_neurons(const ca_circuit_graph *g, ca_circuit *circuit) CA_MUST_USE;
void ca_circuit_free(ca_circuit *circuit);

/* Creates a circuit: the edges that a rule picks, pruned.
 *
 * score      [F, R]; the key of an edge is its score, or |score| when absolute; NaN is never picked
 * count      top, greedy: how many edges are picked, 0 to graph->edges; fewer where NaN or, when
 *            greedy, the frontier leaves no more
 * threshold  threshold: edges with key >= threshold
 * Top: the largest keys. Greedy: the frontier begins as the edges into the logits; its largest key
 * is picked, and the edges into every column of the source picked join it. Ties go to the lower
 * flat index u R + v.   Errors: CA_E_MEMORY.
 * Source: Hanna et al. 2024, above. */
ca_status ca_circuit_select(const ca_circuit_graph *g, const double *score, bool absolute,
                            ca_circuit_rule rule, int64_t count, double threshold,
                            ca_circuit *out) CA_MUST_USE;
/* The same of sources, score [F], count 0 to F; every edge out of a picked source is picked. The
 * rule is not greedy: nothing leads from one source to the next. */
ca_status ca_circuit_select_nodes(const ca_circuit_graph *g, const double *score, bool absolute,
                                  ca_circuit_rule rule, int64_t count, double threshold,
                                  ca_circuit *out) CA_MUST_USE;
/* The same of neurons, score [F, D], count 0 to F D, ties to the lower u D + d: the mask of the
 * circuit has those picked, and every edge out of a source that keeps one is picked. */
ca_status ca_circuit_select_neurons(const ca_circuit_graph *g, const double *score, bool absolute,
                                    ca_circuit_rule rule, int64_t count, double threshold,
                                    ca_circuit *out) CA_MUST_USE;
/* Drops, until nothing changes, edges of sources that have no edge in (but the input) and edges
 * into columns whose readers all have none out. Of a mask of neurons: first the edges of sources
 * that keep none, in the end the neurons of sources that are gone. Sets nodes and counts. Under
 * patching this never changes what the circuit computes. */
void ca_circuit_prune(const ca_circuit_graph *g, ca_circuit *circuit);
/* Sets counts and nodes from the edges, without pruning: a source is kept when it has an edge out
 * and (but the input) one in. */
void ca_circuit_count(const ca_circuit_graph *g, ca_circuit *circuit);

/* ---- agreement --------------------------------------------------------------------------- */

/* Of two sets of n things with a and b members, `both` of them in each. */
typedef struct ca_overlap {
    int64_t a, b, both, of;
    double iou;         /* both / either; 1 when both are empty */
    double a_in_b;      /* both / a; 1 when a is empty */
    double b_in_a;      /* both / b; 1 when b is empty */
    double probability; /* hypergeometric: of `both` or more by chance; 0 below 1e-308 */
} ca_overlap;
/* Things that `valid` leaves out do not count; NULL: all n do. */
ca_overlap ca_overlap_of(const bool *a, const bool *b, const bool *valid, int64_t n);
/* Agreement of n pairs of numbers, none NaN: Pearson's r and Kendall's tau-b; NaN where one side is
 * constant. Kendall in O(n log n).   Errors: CA_E_MEMORY.
 * Source: Knight 1966, "A computer method for calculating Kendall's tau with ungrouped data". */
double ca_pearson(const double *a, const double *b, int64_t n);
ca_status ca_kendall(const double *a, const double *b, int64_t n, double *tau) CA_MUST_USE;
/* Area under the true-positive rate over the false-positive rate when things are taken by falling
 * score (no NaN): the share of (true, false) pairs whose true one scores higher, ties counting
 * half (Mann-Whitney). NaN when all or none are true.   Errors: CA_E_MEMORY. */
ca_status ca_auroc(const double *score, const bool *truth, int64_t n, double *area) CA_MUST_USE;

/* ---- files ------------------------------------------------------------------------------- */

/* Scores of one graph and one circuit, as a file holds them. */
typedef struct ca_circuit_file {
    ca_circuit_graph graph;
    double *score; /* [F, R]; NaN where there is no edge or no score */
    bool *in;      /* [F, R] the circuit, as the file has it: unpruned; NULL when it has none */
    bool *neurons; /* [F, D] those that the circuit's sources keep; NULL: all, or no circuit */
    double *node_score;    /* [F], NaN where there is none; or NULL */
    double *neuron_score;  /* [F, D], NaN where there is none; or NULL */
    char *model;           /* of a result file: model_path; or NULL */
    int64_t number, count; /* which of how many circuits of the file `in` is; count 0 without */
} ca_circuit_file;

/* The share of the metric that the circuit which stands for several keeps at the least. */
#define CA_CIRCUIT_FAITHFUL 0.9

/* Reads the JSON form of EAP-IG and MIB (suffix .json), or a result file of this tool (.h5; of its
 * circuits the one with a number from 0 on, or else the smallest whose faithfulness, where it was
 * measured, is CA_CIRCUIT_FAITHFUL or more; if none is, the last).
 * JSON: NaN and Infinity literals are accepted; every edge and node must be there; edges say what
 * the circuit is, nodes follow from them; a file none of whose edges is in_graph holds scores only;
 * where some nodes have a mask of neurons, the others keep all of theirs. HDF5: scores of nodes,
 * neurons or hidden units alone are no such file. Errors: CA_E_DATA naming file and key, and what
 * was expected. */
ca_status ca_circuit_file_read(const char *path, ca_circuit_file *out) CA_MUST_USE;
ca_status ca_circuit_file_read_at(const char *path, int64_t circuit,
                                  ca_circuit_file *out) CA_MUST_USE;
/* Writes the form of the suffix, `<path>.tmp` first. JSON: edges and nodes in the order of EAP-IG,
 * numbers as Python prints them. HDF5: groups /edges, /nodes, /neurons and, of a circuit,
 * /circuits. from: the file that was read, kept as the attribute `source`; NULL: none. Errors:
 * CA_E_IO, CA_E_DATA for another suffix. */
ca_status ca_circuit_file_write(const char *path, const ca_circuit_file *file,
                                const char *from) CA_MUST_USE;
void ca_circuit_file_free(ca_circuit_file *file);
/* Writes what a result file says of the graph: names, `valid` and the attributes of /edges. */
ca_status ca_circuit_put_graph(ca_result *r, const ca_circuit_graph *g) CA_MUST_USE;
/* CA_E_DATA naming the file and the first size that differs unless both graphs are the same;
 * columns of keys and values that another method.kv_columns would give are told apart from another
 * model's. */
ca_status ca_circuit_file_check(const ca_circuit_file *file, const char *path,
                                const ca_circuit_graph *g) CA_MUST_USE;

#endif
