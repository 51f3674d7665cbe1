/* SPDX-License-Identifier: MIT
 *
 * Pairs of prompts as edge attribution runs them, and the outputs of all sources that it keeps.
 *
 * Up to the first token that differs a clean and a corrupted prompt have the same values
 * everywhere: these tokens are the pair's prefix, run once, and all runs of the pair start behind
 * it, on the prefix's keys and values. The tokens behind it are its tail. The tails of a group of
 * pairs lie end to end, T rows; every run of the group (clean, corrupted, points between them,
 * circuits) has these T rows in the same order.
 *
 * With a metric of whole continuations a pair is one of the metric's sequences, whose prompts end
 * with a continuation; an example may have several of them, which are always in one group.
 */
#ifndef CAUSA_METHOD_EAP_PAIRS_H
#define CAUSA_METHOD_EAP_PAIRS_H

#include "causa/graph.h"
#include "causa/metric.h"

#include "common.h"

/* Examples [first, first + count) of a data set. */
typedef struct eap_group {
    const ca_dataset *data;
    int64_t first, count;
    int64_t rows;          /* T */
    int64_t prefix_rows;   /* of all prefixes together */
    int64_t *tail;         /* [count] first token that differs, or 0 when everything is run */
    int64_t *row;          /* [count + 1] first row of each tail; the last one is T */
    int64_t *prefix_start; /* [count] first row of each prefix in the prefix pass */
    int64_t *read;         /* [count + 1] first of each pair's rows of logits in a run */
    int64_t most;          /* capacity of the arrays */
} eap_group;

ca_status ca_eap_group_create(int64_t most, eap_group *out) CA_MUST_USE;
void ca_eap_group_free(eap_group *group);
/* whole: tails are whole prompts and prefixes empty, for ablations that change every token. */
void ca_eap_group_set(eap_group *group, const ca_dataset *data, int64_t first, int64_t last,
                      bool whole);

/* Pairs [first, first + count) of a group, whose prefixes stay where they are. */
void ca_eap_group_part(const eap_group *group, int64_t first, int64_t count, eap_group *part);

/* Tokens of an example's prefix and of its tail. */
int64_t ca_eap_prefix_rows(const ca_example *example, bool whole);
int64_t ca_eap_tail_rows(const ca_example *example, bool whole);

/* Upper bounds of groups: pairs, T, rows of all prefixes, rows of logits of a run. */
typedef struct eap_group_sizes {
    int64_t pairs, rows, prefix_rows, reads;
} eap_group_sizes;
/* Cuts the examples into groups whose runs fill at most `rows` rows of a pass, or are of one
 * example. The pairs of a group are the metric's sequences of its examples.
 *
 * runs   how often a group's tails stand in a pass
 * least  rows that a tail counts for at the least for each row of logits, to bound these
 * sizes  of the largest group */
ca_status ca_eap_groups_cut(const ca_job *job, const ca_metric *metric, bool whole, int64_t runs,
                            int64_t least, int64_t rows, ca_packing *packing,
                            eap_group_sizes *sizes) CA_MUST_USE;
/* The group of examples [first, last). */
void ca_eap_group_set_examples(eap_group *group, const ca_metric *metric, int64_t first,
                               int64_t last, bool whole);

/* Appends the prefixes to a batch, nothing read. */
void ca_eap_group_add_prefixes(const eap_group *group, ca_batch *batch);
/* Appends one run: the tails of all pairs, of the clean or the corrupted prompts, read at the last
 * tokens of each. */
void ca_eap_group_add_run(const eap_group *group, ca_batch *batch, bool corrupted);

/* Outputs of all sources in T rows. A head's output is z W_O, kept as z. All but embed may be
 * absent. */
typedef struct eap_outputs {
    ca_tensor embed;  /* [T, D] token embeddings, positions not added */
    ca_tensor z;      /* [L, T, H Dh] */
    ca_tensor mlp;    /* [L, T, D] */
    ca_tensor hidden; /* [L, T, d_ff] hidden units of the MLPs; absent unless they are scored */
} eap_outputs;

/* Rows of logits [runs * reads, V] that are of pair n in run k. */
ca_tensor ca_eap_group_logits(const eap_group *group, ca_tensor logits, int64_t k, int64_t n);

/* Elements of outputs of T rows, for ca_method_buffer_bytes. */
int64_t ca_eap_outputs_count(const ca_arch *arch, int64_t rows);
/* Takes outputs of at most `rows` rows from the buffers. */
eap_outputs ca_eap_outputs_take(method_buffers *buffers, const ca_arch *arch, ca_dtype dtype,
                                int64_t rows);
/* The same memory for T rows. */
eap_outputs ca_eap_outputs_rows(const eap_outputs *outputs, int64_t rows);
/* Rows [first, first + rows) of the outputs. */
eap_outputs ca_eap_outputs_part(const eap_outputs *outputs, int64_t first, int64_t rows);

/* Values [L, T, n] in memory of more rows: the layers of fewer rows lie closer together. */
ca_tensor ca_eap_with_rows(ca_tensor t, int64_t rows);

/* Outputs [T, n] of one site: embed, attn.z, mlp_out or mlp.post of a layer. */
ca_tensor ca_eap_outputs_at(const eap_outputs *outputs, ca_site_kind kind, int64_t layer);

/* Takes the outputs of rows [from, from + T) of a forward. */
typedef struct eap_tap {
    int64_t from;
    eap_outputs to; /* of T rows */
    int add;        /* 1, -1: they are added, or subtracted, but for embed; 0: they are kept */
} eap_tap;

enum { EAP_TAP_HOOKS = 4 };
/* The hooks of a tap, over all layers; gives their number. The tap must outlive the forward. */
int64_t ca_eap_tap_hooks(eap_tap *tap, const ca_arch *arch, ca_hook hooks[EAP_TAP_HOOKS]);

#endif
