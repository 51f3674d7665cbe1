/* SPDX-License-Identifier: MIT
 *
 * Runs of a pair that differ from its clean run in one value: each begins at the block where the
 * value is, on the clean residual stream, and behind the pair's prefix. Many are sequences of one
 * batch.
 */
#ifndef CAUSA_METHOD_EAP_RESTART_H
#define CAUSA_METHOD_EAP_RESTART_H

#include "ends.h"

typedef enum eap_change {
    EAP_CHANGE_STREAM,  /* + value [T, D]: what enters the block */
    EAP_CHANGE_Z,       /* = value [T, n Dh]: attn.z of n heads of a key/value group */
    EAP_CHANGE_MLP_IN,  /* + value [T, D]: what the MLP reads */
    EAP_CHANGE_MLP_OUT, /* + value [T, D] */
} eap_change;

typedef struct eap_cell {
    int64_t head, heads; /* of EAP_CHANGE_Z: the first, and how many */
    double *to;          /* takes the metric */
} eap_cell;

enum {
    EAP_MOST_CELLS = 128 /* rows of logits together: reading the head's weights costs more than
                            fewer rows */
};

typedef struct eap_restart {
    const eap_ends *ends; /* made with keep_stream */
    method_scorer *scorer;
    int64_t most_rows;  /* of a pass */
    int64_t most_reads; /* rows of logits together; half of them do for any cell */
    ca_batch *batch;
    ca_pass *pass;
    method_buffers buffers;
    ca_tensor value;  /* [rows, D or G Dh] of the cells that wait for their pass */
    ca_tensor resid;  /* [rows, D] that they start from */
    ca_tensor normed; /* [most_reads, D] after the final norm */
    ca_tensor logits; /* [most_reads, V] */
    eap_cell *cells;  /* [most_reads], of which the first `passed` have had their pass */
    int64_t passed, waiting;
    /* of the waiting cells without a pass, and of the pair that runs */
    eap_change change;
    int64_t layer, rows;
    int64_t pair; /* of the group of `ends` */
} eap_restart;

/* Bytes of backend memory. longest: tail rows of a pair; reads: most rows of logits of a group. */
int64_t ca_eap_restart_bytes(const ca_arch *arch, ca_dtype dtype, int64_t most_rows,
                             int64_t longest, int64_t reads);
/* ends: begun for groups of any pairs when cells are added. */
ca_status ca_eap_restart_create(const eap_ends *ends, method_scorer *scorer, int64_t most_rows,
                                int64_t longest, eap_restart *out) CA_MUST_USE;
void ca_eap_restart_free(eap_restart *r);

/* Which pair of the ends' group the following cells are of. Nothing may wait. */
void ca_eap_restart_pair(eap_restart *r, int64_t pair);
/* Adds a run. value [T, n Dh or D], copied; head: the first of n, or -1; *to gets the metric, at
 * the latest by ca_eap_restart_finish. */
ca_status ca_eap_restart_add(eap_restart *r, eap_change change, int64_t layer, int64_t head,
                             ca_tensor value, double *to) CA_MUST_USE;
/* Adds a run that differs in the final residual stream only: + value [T, D]. */
ca_status ca_eap_restart_add_final(eap_restart *r, ca_tensor value, double *to) CA_MUST_USE;
/* Runs and scores all that waits. */
ca_status ca_eap_restart_finish(eap_restart *r) CA_MUST_USE;

#endif
