/* SPDX-License-Identifier: MIT
 *
 * Inside of circuit runs, private to runs.c (life, the ablated stream, logits), mixture.c (inputs
 * of destinations) and layer.c (attention and MLP of the lanes).
 *
 * Every source u of a lane's circuit has a slot, which takes delta_u = out_u - ablated_u. The input
 * of a destination is the lane's own stream minus the deltas of the sources that are not kept, or
 * the ablated stream plus those of the kept ones: whichever side has fewer terms. Slots lie in the
 * order of the sources, so those of all earlier sources are one matrix. A mask of neurons takes the
 * coordinates that are not kept out of the delta, and with it out of the stream: everybody who
 * reads the source has the same mixture.
 */
#ifndef CAUSA_METHOD_EAP_LANES_H
#define CAUSA_METHOD_EAP_LANES_H

#include "runs.h"

/* How the input of a destination is made. */
typedef struct eap_mixture {
    bool read;     /* by a node of the circuit; else nobody needs it */
    bool own;      /* from the lane's own stream, else from the ablated one */
    int64_t terms; /* deltas that are subtracted or added */
} eap_mixture;

/* A circuit that runs. */
typedef struct eap_lane {
    const ca_circuit *circuit;
    int64_t slot;         /* its first one */
    int64_t *rank;        /* [F + 1] sources of the circuit below u */
    bool *masked;         /* [F] of the circuit, but without some of their neurons */
    eap_mixture *mixture; /* [R] */
    int64_t *mask;        /* [L] where the layer's mask matrix begins; -1: terms are added singly */
} eap_lane;

struct eap_runs {
    const ca_model *model;
    ca_circuit_graph graph;
    eap_runs_sizes sizes;
    method_buffers buffers;
    ca_batch *batch; /* the clean tails, once per lane */

    /* the running group, T rows */
    int64_t rows, pairs, reads;
    const ca_pass *prefix;
    eap_outputs ablated;
    ca_tensor clean; /* [T, D] token embeddings of the clean prompts */
    ca_tensor start; /* [T, D] the same with positions */
    ca_tensor
        ablated_pre; /* [L + 1, T, D] ablated stream that enters each block, and the last one */
    ca_tensor ablated_qkv;  /* [L, T, C Dh] its projections, C = H + 2 K as the graph has columns */
    ca_tensor ablated_attn; /* [L, T, D] */

    /* the running lanes, S of them */
    eap_lane *lanes;
    int64_t count;
    ca_tensor resid; /* [S, T, D] the lanes' own streams */
    ca_tensor slots; /* [sources, T, D] */
    ca_tensor masks; /* mask matrices, [read columns of a layer, slots below it] each */
    int64_t masks_used;
    double *mask_host; /* of one lane */
    void *mask_staging;
    ca_tensor neurons;    /* [sources, D] 1 where the slot's source keeps the neuron */
    double *neurons_host; /* [F, D] of one lane */
    void *neurons_staging;

    /* a layer. Its lanes with heads are numbered j < n, those with an MLP m < n. */
    int64_t *columns;             /* [C + 1] read ones of a lane, counted from the layer's first */
    int64_t *attn_lanes;          /* [S] */
    int64_t *mlp_lanes;           /* [S] */
    ca_tensor input;              /* [C + 1, T, D] of one lane's read columns */
    ca_tensor normed;             /* [C, n, T, D] */
    ca_tensor mlp_input;          /* [S, T, D] */
    ca_tensor qkv;                /* [S T, C Dh] */
    ca_tensor z, delta_z;         /* [S T, H Dh] */
    ca_tensor lse;                /* [S T, H] */
    ca_tensor branch;             /* [S T, D] */
    ca_tensor up, hidden;         /* [S T, F or 2 F], [S T, F] */
    ca_tensor prefix_k, prefix_v; /* [P, K, Dh] when a group of heads has columns of its own */
    ca_tensor last, logits;       /* [S reads, D], [S reads, V] */
};

/* Heads' columns of a layer, C. */
static inline int64_t eap_columns(const ca_circuit_graph *g) {
    return g->heads + 2 * g->kv_columns;
}

/* Element n of [N, T, D] memory, T rows of the running group, as [count, T, D]. */
static inline ca_tensor eap_stack(const eap_runs *r, ca_tensor t, int64_t n, int64_t count) {
    int64_t width = r->model->arch.width;
    char *data = (char *)t.data + (size_t)(n * r->rows * width) * ca_dtype_size(t.dtype);
    return ca_tensor_3d(data, t.dtype, count, r->rows, width);
}

/* [T, D] of the same. */
static inline ca_tensor eap_rows(const eap_runs *r, ca_tensor t, int64_t n) {
    return ca_tensor_rows(eap_stack(r, t, n, 1));
}

/* Layer l of [L, T, n] as [T, n]. */
static inline ca_tensor eap_layer_of(ca_tensor t, int64_t layer) {
    return ca_tensor_rows(ca_tensor_slice(t, 0, layer, 1));
}

/* The slot of a source of the lane's circuit. */
static inline int64_t eap_slot(const eap_lane *lane, int64_t source) {
    return lane->slot + lane->rank[source];
}

/* mixture.c: gives circuits their slots, mixtures and masks. */
ca_status ca_eap_lanes_set(eap_runs *runs, const ca_circuit *circuits, int64_t count) CA_MUST_USE;
/* 1, -1 or 0: the factor of source u's delta in the input of a destination. */
int ca_eap_lane_factor(const eap_runs *runs, const eap_lane *lane, int64_t source,
                       int64_t destination);
/* Clears what a delta [T, D] of a source has in coordinates that the lane does not keep; nothing is
 * done where all are kept. */
ca_status ca_eap_lane_mask(const eap_runs *runs, const eap_lane *lane, int64_t source,
                           ca_tensor delta) CA_MUST_USE;
/* Inputs of a layer's destinations that a lane reads: those of heads normed into `normed` as j of
 * n, that of the MLP into mlp_input as m, complete in parallel blocks, else what the sources of
 * earlier layers add to the stream. j, m: -1 when the lane has no such node. */
ca_status ca_eap_lane_inputs(eap_runs *runs, int64_t layer, int64_t lane, int64_t j, int64_t n,
                             int64_t m) CA_MUST_USE;

/* layer.c: runs one block in all lanes. */
ca_status ca_eap_lanes_block(eap_runs *runs, int64_t layer) CA_MUST_USE;

#endif
