/* SPDX-License-Identifier: MIT
 *
 * Edge attribution, private to src/method/eap.
 *
 * The loss is minus the metric (plus it, where a lower value means that the model does the task),
 * so a positive score says that ablating the edge makes the model worse. With a_u the clean output
 * of a source u, a~_u its ablated one and g_v the gradient of the loss at the input of a
 * destination v, before its norm,
 *
 *   S[u, v] = 1/N sum over pairs, points k of a path: w_k (a~_u - a_u) . g_v^(k)
 *
 * summed over tokens and channels. Variants differ in the path along which gradients are taken.
 *
 * Source: Hanna, Pezzelle, Belinkov 2024, "Have faith in faithfulness", arXiv 2403.17806; Syed,
 * Rager, Conmy 2023, "Attribution patching outperforms automated circuit discovery".
 */
#ifndef CAUSA_METHOD_EAP_H
#define CAUSA_METHOD_EAP_H

#include "causa/metric.h"

#include "exact.h"
#include "flow.h"
#include "gradients.h"
#include "score.h"

typedef struct eap eap;

/* Where gradients are taken. */
typedef enum eap_path {
    EAP_NO_PATH,        /* nowhere */
    EAP_AT_CLEAN,       /* in the clean run */
    EAP_AT_BOTH,        /* in the clean and in the corrupted run */
    EAP_OF_INPUTS,      /* token embeddings from ablated to clean */
    EAP_OF_ACTIVATIONS, /* one site's outputs from ablated to clean, for every site */
} eap_path;

/* A row of the table in variant.c: how the edges (or nodes) of a group are scored. */
typedef struct eap_variant {
    const char *name;
    eap_path path;
    bool clean_only;  /* nothing is ablated: one prompt per example, all its tokens */
    bool edges_only;  /* has no scores of nodes alone */
    bool keep_stream; /* reads the residual stream of the clean run */
    /* Floating-point operations of an example beyond its prefix and its ends, without heads. */
    double (*flops)(const ca_job *job, const eap *e, int64_t rows, int64_t prefix);
    /* Backend memory beyond that of the ends. */
    int64_t (*bytes)(const ca_job *job, const eap *e);
    ca_status (*create)(eap *e);
    /* Runs e->group and calls ca_eap_add_edges or ca_eap_add_node for each of its pairs. */
    ca_status (*score)(eap *e);
} eap_variant;

/* NULL when unknown. */
const eap_variant *ca_eap_variant_find(const char *name);
#define EAP_VARIANTS "eap|ig-inputs|ig-activations|clean-corrupted|exact|information-flow"

typedef enum eap_level { EAP_EDGES, EAP_NODES } eap_level;

struct eap {
    const eap_variant *variant;
    eap_level level;
    eap_ablation ablation;  /* kind and positions; its means while running */
    ca_circuit_graph graph; /* of query heads */
    ca_metric metric;
    eap_site *sites; /* [site_count] whose values run along a path */
    int64_t site_count;
    bool own_site;     /* a path scores the edges that leave its site alone */
    eap_point *points; /* [point_count]; none without a path */
    int64_t point_count;
    int64_t batch_size; /* scores of a pair are divided by that of its batch, as a peer does; 0 */
    bool per_example;
    ca_packing packing; /* examples in groups */
    eap_ends_sizes sizes;
    int64_t most_points; /* of a pass */
    int64_t longest;     /* tail rows of a pair */
    int64_t expand_rows; /* whose sources have D values at a time */
    int64_t cell_rows;   /* of a pass of exact patching */
    /* while running */
    ca_job *job;
    eap_group group;
    eap_ends ends;
    eap_gradients gradients;
    eap_scores scores;
    eap_exact exact;
    eap_flow flow;
    method_scorer scorer;
    bool *valid;        /* [F, R] */
    double *edge_sum;   /* [F, R] over the pairs done */
    double *node_sum;   /* [F] */
    double *edge;       /* [pairs, F, R] of the group's pairs; NULL unless per_example */
    double *node;       /* [pairs, F] of the group's pairs */
    double *score_host; /* [F, R], or with nodes [F, points T] */
    void *staging;      /* the same */
    float *row;         /* [F, R] */
};

/* Adds to the scores of pair n of the group: edges [F, R], of which real ones count, or a node. */
void ca_eap_add_edges(eap *e, int64_t n, const double *score);
void ca_eap_add_node(eap *e, int64_t n, int64_t source, double score);

/* options.c: the variant, the path and its points from the options. */
ca_status ca_eap_read_options(const ca_job *job, eap *e) CA_MUST_USE;

/* plan.c: groups and sizes that fit the memory. */
ca_status ca_eap_plan(const ca_job *job, eap *e, ca_plan *plan) CA_MUST_USE;

/* True when every token of a pair is run, not only those behind its first difference. */
bool ca_eap_runs_whole(const eap *e);

/* attribute.c: buffers, and the scores of examples [first, last). */
ca_status ca_eap_attribute_create(eap *e) CA_MUST_USE;
/* Means of the clean outputs over all examples, where the ablation needs them. */
ca_status ca_eap_make_means(eap *e) CA_MUST_USE;
void ca_eap_attribute_free(eap *e);
ca_status ca_eap_attribute(void *state, int64_t first, int64_t last) CA_MUST_USE;
/* Sums of a stopped run: kept in the checkpoint, and taken from it. */
ca_status ca_eap_save_sums(const eap *e) CA_MUST_USE;
ca_status ca_eap_restore_sums(eap *e) CA_MUST_USE;
int64_t ca_eap_attribute_host_bytes(const eap *e, int64_t vocab);

/* output.c: the datasets before the first group, and the scores after the last one. */
ca_status ca_eap_reserve(ca_job *job, const eap *e) CA_MUST_USE;
ca_status ca_eap_write_scores(ca_job *job, const eap *e) CA_MUST_USE;
ca_status ca_eap_answer(ca_job *job, void *state, ca_string *text) CA_MUST_USE;

#endif
