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
#include "faithfulness.h"
#include "flow.h"
#include "gradients.h"
#include "neurons.h"
#include "score.h"
#include "sums.h"

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
    bool sums_edges;  /* scores of nodes are made of all those of their edges */
    bool keep_stream; /* reads the residual stream of the clean run */
    /* Floating-point operations of an example beyond its prefix and its ends, without heads. */
    double (*flops)(const ca_job *job, const eap *e, int64_t rows, int64_t prefix);
    /* Backend memory beyond that of the ends. */
    int64_t (*bytes)(const ca_job *job, const eap *e);
    ca_status (*create)(eap *e);
    /* Runs e->group and adds its scores to e->sums. */
    ca_status (*score)(eap *e);
} eap_variant;

/* NULL when unknown. */
const eap_variant *ca_eap_variant_find(const char *name);
#define EAP_VARIANTS                                                                               \
    "eap|ig-inputs=EAP-IG-inputs=EAP-IG|ig-activations=EAP-IG-activations|clean-corrupted|"        \
    "exact=EActP|information-flow=information-flow-routes=IFR"

struct eap {
    const eap_variant *variant;
    eap_level level;
    eap_ablation ablation; /* kind and positions; its means while running */
    eap_sums sums;         /* graphs and sizes; its arrays while running */
    ca_metric metric;
    eap_site *sites; /* [site_count] whose values run along a path */
    int64_t site_count;
    bool own_site;     /* a path scores the edges that leave its site alone */
    eap_rule rule;     /* of the points, where they lie on a line */
    eap_point *points; /* [point_count]; none without a path */
    int64_t point_count;
    int64_t batch_size; /* gradients of a pair are divided by that of its batch, as a peer's; 0 */
    int64_t averaged;   /* vocabulary over which a peer's divergence is a mean, not a sum; 1 */
    bool given;         /* circuits or scores come from a file: nothing is attributed */
    struct eap **compared; /* [compared_count] other variants, whose scores are set beside */
    int64_t compared_count;
    ca_circuit_file truth;          /* its circuit is the true one; empty without */
    double auroc, auroc_absolute;   /* of the scores against it */
    eap_faithfulness *faithfulness; /* NULL when no circuits are asked for */
    struct {
        double pearson, pearson_absolute, kendall, kendall_absolute;
    } agreement;        /* with the scores that it is compared with */
    bool is_compared;   /* it is such a one: writes no baseline and nothing of single pairs */
    ca_packing packing; /* examples in groups */
    eap_group_sizes sizes;
    eap_group_sizes part_sizes; /* of the pairs of a group that a path takes at a time */
    int64_t most_points;        /* of a pass */
    int64_t pass_rows;          /* most of a part's points together */
    int64_t longest;            /* tail rows of a pair */
    int64_t expand_rows;        /* whose sources have D values at a time */
    int64_t cell_rows;          /* of a pass of exact patching */
    /* while running */
    ca_job *job;
    int64_t first; /* example of the group */
    eap_group group;
    eap_ends ends;
    eap_gradients gradients;
    eap_scores scores;
    eap_neurons neurons;
    eap_exact exact;
    eap_flow flow;
    method_scorer scorer;
    double *score_host; /* [F, R], or what a pass gives of nodes, neurons or units */
    void *staging;      /* the same */
    float *row;         /* [F, R], [F], [F, D] or [L, d_ff] */
};

/* What the scores of example n of the group are multiplied by in the sums. */
double ca_eap_share(const eap *e, int64_t n);

/* options.c: the variant, the path and its points from the options. variant: one in place of that
 * of the config, or NULL. */
ca_status ca_eap_read_options(const ca_job *job, const char *variant, eap *e) CA_MUST_USE;

/* compare.c: the variants that the config names beside its own; their runs after that of `e`, and
 * how well they agree with it. */
ca_status ca_eap_compare_prepare(const ca_job *job, eap *e, ca_plan *plan) CA_MUST_USE;
ca_status ca_eap_compare(ca_job *job, eap *e) CA_MUST_USE;
ca_status ca_eap_write_comparison(ca_job *job, const eap *e) CA_MUST_USE;
ca_status ca_eap_compare_answer(const eap *e, ca_string *text) CA_MUST_USE;

/* truth.c: a circuit that is known to be the true one, and how well the scores find it. */
ca_status ca_eap_truth_read(const ca_job *job, eap *e) CA_MUST_USE;
ca_status ca_eap_write_truth(ca_job *job, eap *e) CA_MUST_USE;

/* plan.c: groups and sizes that fit the memory. */
ca_status ca_eap_plan(const ca_job *job, eap *e, ca_plan *plan) CA_MUST_USE;

/* Ends that are no points of a path's first pass, and so are run for themselves. */
int64_t ca_eap_ends_apart(const eap *e);
/* Settings of the ends, without a model. */
eap_ends ca_eap_ends_wanted(const eap *e);
/* The pair behind the last one of the part of a group that begins with `pair`. */
int64_t ca_eap_part_end(const eap *e, int64_t pair, int64_t last);

/* True when every token of a pair is run, not only those behind its first difference. */
bool ca_eap_runs_whole(const eap *e);

/* attribute.c: buffers, and the scores of examples [first, last). */
ca_status ca_eap_attribute_create(eap *e) CA_MUST_USE;
/* Frees everything but the sums and the means, which are still of use. */
void ca_eap_attribute_release(eap *e);
/* Means of the clean outputs over all examples, where the ablation needs them. */
ca_status ca_eap_make_means(eap *e) CA_MUST_USE;
void ca_eap_attribute_free(eap *e);
ca_status ca_eap_attribute(void *state, int64_t first, int64_t last) CA_MUST_USE;
int64_t ca_eap_attribute_host_bytes(const eap *e, int64_t vocab);

/* output.c: the group of the result that has a level's scores. */
const char *ca_eap_result_group(eap_level level);
/* The datasets before the first group, and the scores after the last one. */
ca_status ca_eap_reserve(ca_job *job, const eap *e) CA_MUST_USE;
ca_status ca_eap_write_scores(ca_job *job, const eap *e) CA_MUST_USE;
/* A whole dataset [F, R] of sums divided by the number of pairs; NaN where there is no edge. */
ca_status ca_eap_put_edges(ca_job *job, const eap *e, const char *dataset,
                           const double *sum) CA_MUST_USE;
ca_status ca_eap_answer(ca_job *job, void *state, ca_string *text) CA_MUST_USE;

#endif
