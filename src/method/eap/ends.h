/* SPDX-License-Identifier: MIT
 *
 * The two ends of every comparison: the clean run of a group of pairs and the run in which every
 * source is ablated, with the outputs of all sources in both.
 */
#ifndef CAUSA_METHOD_EAP_ENDS_H
#define CAUSA_METHOD_EAP_ENDS_H

#include "ablation.h"
#include "pairs.h"
#include "scorer.h"

enum { EAP_STREAM_HOOKS = 3 };

typedef struct eap_ends {
    const ca_model *model;
    const eap_ablation *ablation; /* NULL: patching, ablated = the corrupted run */
    eap_group_sizes sizes;
    int64_t runs;    /* 1 or 2: of a pass, where one end alone is run by it */
    bool clean_only; /* nothing is ablated: pairs need no corrupted prompt */
    bool keep_stream, keep_hidden;
    bool difference_only; /* under patching: of the ends' outputs only embed is kept */
    ca_batch *prefix_batch, *batch;
    ca_pass *prefix_pass, *pass; /* no prefix_pass when no pair has a prefix */
    method_buffers buffers;
    /* of the running group, T rows */
    const eap_group *group;
    eap_outputs clean, ablated;
    eap_outputs difference; /* ablated - clean, once both ran and ca_eap_ends_subtract */
    ca_tensor stream;       /* [L + 1, T, D] clean residual stream: entering each block, and leaving
                               the last one; with keep_stream */
    ca_tensor mlp_in;       /* [L, T, D] what the clean run's MLPs read; with keep_stream */
    double *clean_metric, *ablated_metric; /* [pairs]; NaN where not scored */
    int32_t *predicted;                    /* [pairs] by the clean run */
    /* the same memory for most rows */
    eap_outputs all_clean, all_ablated, all_difference;
    ca_tensor all_stream, all_mlp_in;
    ca_tensor ids;    /* [T] i32 */
    int32_t *id_host; /* [T] */
} eap_ends;

/* Bytes of backend memory. */
int64_t ca_eap_ends_bytes(const ca_arch *arch, ca_dtype dtype, const eap_ends *settings);
/* Fills `ends`, whose settings (model, ablation, sizes, runs, clean_only, keep_stream,
 * keep_hidden, difference_only) are set. Frees what it made on failure. */
ca_status ca_eap_ends_create(eap_ends *ends) CA_MUST_USE;
void ca_eap_ends_free(eap_ends *ends);

/* Begins a group: runs the prefixes; sets the embeddings of both ends, and what is ablated by other
 * means than a run. */
ca_status ca_eap_ends_begin(eap_ends *ends, const eap_group *group) CA_MUST_USE;
/* Runs the ends that are asked for. The ablated one is the corrupted run, whose outputs are kept,
 * or the clean prompts with all outputs replaced. scorer: for the metrics, or NULL. */
ca_status ca_eap_ends_run(eap_ends *ends, bool clean, bool ablated,
                          method_scorer *scorer) CA_MUST_USE;
/* How a forward that runs an end in rows from `from` on gives its outputs, those of rows
 * [first, first + rows) of the group. */
eap_tap ca_eap_ends_tap(const eap_ends *ends, bool clean, int64_t from, int64_t first,
                        int64_t rows);
/* difference = ablated - clean, in rows [first, first + rows). */
ca_status ca_eap_ends_subtract(eap_ends *ends, int64_t first, int64_t rows) CA_MUST_USE;
/* Metrics of an end from the logits of a pass, in which it is run k of the group's pairs
 * [first, first + part->count); of the clean one also `predicted`. */
ca_status ca_eap_ends_score(eap_ends *ends, bool clean, const eap_group *part, int64_t first,
                            ca_tensor logits, int64_t k, method_scorer *scorer) CA_MUST_USE;
/* The pass on whose keys and values the group's tails sit; NULL when it has no prefix. */
const ca_pass *ca_eap_ends_prefix(const eap_ends *ends);

#endif
