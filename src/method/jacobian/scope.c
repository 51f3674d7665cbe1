/* SPDX-License-Identifier: MIT
 *
 * The scopes: which vectors are pulled back, and how the gradients become scores.
 * Source: "Jacobian Scopes", arXiv 2601.16407.
 */
#include "jacobian.h"

#include "causa/ops.h"

#include <string.h>

/* Semantic: v = d logit / d y = the target's row of the unembedding; score = |J_t^T v|. */
static ca_status semantic_cotangents(const jacobian_batch *batch, ca_tensor cotangents) {
    ca_tensor v =
        ca_tensor_reshape(cotangents, 2, (int64_t[]){batch->examples, batch->model->arch.width});
    return ca_copy(batch->model->backend, v, batch->direction);
}

static ca_status norm_of_lane(const jacobian_batch *batch, ca_tensor gradients, ca_tensor scores) {
    ca_tensor g =
        ca_tensor_reshape(gradients, 2, (int64_t[]){batch->rows, batch->model->arch.width});
    return ca_row_norms(batch->model->backend, scores, g);
}

static const jacobian_scope scopes[] = {
    {"semantic", "logit of the target token (difference of logits for a contrast)",
     "Euclidean norm of d logit / d token embedding", 1, semantic_cotangents, norm_of_lane},
};

const jacobian_scope *ca_jacobian_scope_find(const char *name) {
    for (size_t i = 0; i < sizeof scopes / sizeof *scopes; i++)
        if (strcmp(scopes[i].name, name) == 0) return &scopes[i];
    return NULL;
}
