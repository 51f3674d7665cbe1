/* SPDX-License-Identifier: MIT
 *
 * Jacobian Scopes, private to src/method/jacobian.
 *
 * For a prompt with tokens t_0 .. t_{T-1}, x_t the embedding of token t and y the output of the
 * final norm at the position p that is read, every scope chooses row vectors v and scores a token
 * by the size of J_t^T v, J_t = d y / d x_t. The vectors of all scopes are lanes of one backward.
 */
#ifndef CAUSA_JACOBIAN_H
#define CAUSA_JACOBIAN_H

#include "causa/method.h"

/* What is explained at the position that is read: the logit of `id`, or logit(id) - logit(other).
 */
typedef struct jacobian_target {
    int64_t position; /* token read */
    int32_t id;       /* -1: the argmax, known after the forward */
    int32_t other;    /* -1: none */
    bool held_out;    /* the target is the prompt's own next token */
} jacobian_target;

/* target.c: targets and positions of all examples. Errors name config place or data row. */
ca_status ca_jacobian_targets(const ca_job *job, jacobian_target *targets) CA_MUST_USE;

/* One micro-batch as the scopes see it: n examples, T rows. */
typedef struct jacobian_batch {
    const ca_model *model;
    int64_t examples, rows;
    ca_tensor final;     /* [n, D] y */
    ca_tensor direction; /* [n, D] d target / d y */
} jacobian_batch;

/* A scope: a row of the table and one function pair. */
typedef struct jacobian_scope {
    const char *name;
    const char *target; /* what is explained, for the group's attributes */
    const char *units;
    int64_t lanes;
    /* Writes the vectors v of all examples: cotangents [lanes, n, D]. */
    ca_status (*cotangents)(const jacobian_batch *batch, ca_tensor cotangents);
    /* Scores [T] from the gradients [lanes, T, D] at the embeddings. */
    ca_status (*reduce)(const jacobian_batch *batch, ca_tensor gradients, ca_tensor scores);
} jacobian_scope;

/* answer.c: per prompt the prediction and the tokens that moved it most, for the terminal.
 *
 * scopes       [scope_count]
 * token_start  [N + 1] first row of each example in /attribution/<scope>/score
 * top          columns of /predictions */
ca_status ca_jacobian_answer(ca_job *job, const jacobian_target *targets,
                             const struct jacobian_scope *const *scopes, int64_t scope_count,
                             const int64_t *token_start, int64_t top, ca_string *text) CA_MUST_USE;

/* NULL when unknown. */
const jacobian_scope *ca_jacobian_scope_find(const char *name);

#endif
