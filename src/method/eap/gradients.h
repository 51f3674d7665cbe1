/* SPDX-License-Identifier: MIT
 *
 * Gradients of the loss at the inputs of all destinations, for some pairs of a group, summed over
 * points of a path, in a form that takes little room. The ends are run for the whole group: many
 * pairs share the weights' way through the caches there, while a pass that is run backward keeps
 * every block's values and so takes few.
 *
 * The gradient at the q input of a head, before the norm, is J^T c with c = (gain W_q)^T d: d
 * [Dh] is what the ordinary backward has at the head's projection, and J, the norm's Jacobian at
 * the row x, gives
 *
 *   J^T c = (c - mean(c) - xhat mean(c xhat)) / sigma       (mean(c): layer norm only)
 *
 * Since c . xhat = d . (W_q (gain xhat)) = d . (q - q0), with q0 the projection of a row whose xhat
 * is 0, the sum over points k with weights w_k needs only
 *
 *   heads        sum of w_k d_k / sigma_k          [Dh] a row, which is multiplied by W_q once
 *   coefficient  d_k . (q_k - q0) / sigma_k        a number a row and point, for the xhat_k term
 *
 * and no [D] vector per head, row and point. One norm and one projection serve all heads.
 */
#ifndef CAUSA_METHOD_EAP_GRADIENTS_H
#define CAUSA_METHOD_EAP_GRADIENTS_H

#include "ablation.h"
#include "ends.h"
#include "points.h"

/* A site whose value runs along the path: embed, attn.z, mlp_out or mlp.post of a layer. */
typedef struct eap_site {
    ca_site_kind kind;
    int64_t layer; /* -1 for embed */
} eap_site;

enum { EAP_MOST_POINTS = 64 /* of one pass */ };

/* What the sums are taken of. */
typedef enum eap_wants {
    EAP_WANTS_EDGES = 1,   /* heads, coefficient, branch */
    EAP_WANTS_NODES = 2,   /* node */
    EAP_WANTS_OUTPUTS = 4, /* output */
    EAP_WANTS_HIDDEN = 8   /* hidden; of ends made with keep_hidden */
} eap_wants;

/* A metric linear in what the vocabulary head gives has one gradient at all points, and logits are
 * needed of the ends alone. */
static inline bool ca_eap_one_gradient(const ca_arch *arch, const ca_metric_kind *kind) {
    return ca_metric_is_linear(kind) && arch->logit_soft_cap == 0;
}

typedef struct eap_gradients {
    eap_ends *ends;        /* of the groups */
    eap_group_sizes sizes; /* of the parts */
    int64_t most_points;   /* of one pass */
    unsigned wants;
    bool from_site;    /* passes begin at the block of their site, on the clean residual stream, and
                          give the gradients of that block and those above; of ends made with
                          keep_stream */
    bool one_gradient; /* see ca_eap_one_gradient */
    ca_batch *batch;
    ca_pass *pass;
    method_buffers buffers;
    /* the part that runs, T rows */
    eap_group part;
    int64_t first; /* its first pair in the group */
    eap_outputs clean, ablated, difference;
    /* of the last pass */
    int64_t points;
    const eap_point *point; /* [points] */
    eap_site site;
    ca_tensor heads;  /* [L, 3 H, T, Dh] q | k | v: sums over its points */
    ca_tensor branch; /* [L + 1, T, D] at the inputs of the MLPs, last at the logits: likewise */
    ca_tensor output; /* [1 + 2 L, T, D] at the embeddings, attn_out and mlp_out of each layer */
    ca_tensor hidden; /* [L, T, d_ff] at the hidden units */
    bool differs;     /* `difference` is that of the part */
    /* while it runs, and for most rows */
    ca_tensor all_heads, all_branch, all_output, all_hidden;
    ca_tensor all_coefficient;     /* [L, 3 H, points T] */
    ca_tensor all_node;            /* [F, points T] difference . gradient at the sources' outputs */
    ca_tensor projected;           /* [points T, H Dh] q or k of a layer, before their rotation */
    ca_tensor rest;                /* [L, (H + 2 K) Dh] q0 | k0 | v0; absent when all are 0 */
    ca_tensor xhat, inverse, dots; /* [points T, D], [points T], [H, points T] */
    ca_tensor d_logits;            /* [1, n, V], n the reads of all points, or of one_gradient */
    ca_tensor logits, d_final;     /* with one_gradient: [n, V] of an end, [1, points n, D] */
    ca_tensor alphas;              /* [points] */
    ca_tensor start;               /* [points T, D] with from_site */
    eap_tap clean_tap, ablated_tap;
    void *staging; /* [points] */
} eap_gradients;

/* Bytes of backend memory, without those of the ends. */
int64_t ca_eap_gradients_bytes(const ca_arch *arch, ca_dtype dtype, eap_group_sizes sizes,
                               int64_t most_points, unsigned wants, bool from_site,
                               bool one_gradient);
/* Fills `g`, whose ends, sizes, most_points, wants, from_site and one_gradient are set. Frees what
 * it made on failure. */
ca_status ca_eap_gradients_create(eap_gradients *g) CA_MUST_USE;
void ca_eap_gradients_free(eap_gradients *g);

/* Begins a group, with the ends; runs those of them that `point` [points] at `site`, the first pass
 * of every part, will not run anyway. */
ca_status ca_eap_gradients_begin(eap_gradients *g, const eap_group *group, eap_site site,
                                 const eap_point *point, int64_t points,
                                 method_scorer *scorer) CA_MUST_USE;
/* Begins pairs [first, first + count) of the group. */
void ca_eap_gradients_part(eap_gradients *g, int64_t first, int64_t count);
/* Runs the points of the part forward and backward; the sums are of them alone. factor: multiplies
 * the gradient of the metric. */
ca_status ca_eap_gradients_run(eap_gradients *g, eap_site site, const eap_point *point,
                               int64_t points, double factor, method_scorer *scorer) CA_MUST_USE;

/* The coefficients [H, points T] of a layer's inputs, of which `column` is the first: 0, H or 2 H.
 */
ca_tensor ca_eap_coefficients(const eap_gradients *g, int64_t layer, int64_t column);

/* The norm of the last pass at the residual stream that enters a layer, in rows [first, first +
 * rows) of T at every point: xhat [points, rows, D]; recomputed, as is g->inverse [points, rows].
 */
ca_status ca_eap_gradients_xhat(eap_gradients *g, int64_t layer, int64_t first, int64_t rows,
                                ca_tensor *xhat) CA_MUST_USE;

#endif
