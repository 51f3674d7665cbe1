/* SPDX-License-Identifier: MIT
 *
 * Fisher information of the next-token distribution at y, F = W^T (diag p - p p^T) W [D, D], at
 * many reads at once: its largest eigenpairs and its trace.
 * Source: "Jacobian Scopes", arXiv 2601.16407; block Krylov: Musco and Musco 2015, arXiv
 * 1504.05477.
 */
#ifndef CAUSA_JACOBIAN_FISHER_H
#define CAUSA_JACOBIAN_FISHER_H

#include "causa/model.h"

typedef struct jacobian_fisher jacobian_fisher;

/* rank: eigenpairs wanted, at most D. */
ca_status ca_jacobian_fisher_create(const ca_model *model, int64_t most_reads, int64_t rank,
                                    jacobian_fisher **out) CA_MUST_USE;
void ca_jacobian_fisher_free(jacobian_fisher *fisher);
/* Bytes of backend memory that it takes. */
int64_t ca_jacobian_fisher_bytes(const ca_arch *arch, ca_dtype dtype, int64_t most_reads,
                                 int64_t rank);
/* Bytes of its arrays on the host. */
int64_t ca_jacobian_fisher_host_bytes(const ca_arch *arch, ca_dtype dtype, int64_t most_reads,
                                      int64_t rank);

/* Floating-point operations of the eigenpairs of one read, about. */
double ca_jacobian_fisher_flops(const ca_arch *arch, int64_t rank);

/* Whether F itself is made for this rank, or a Krylov space of it. */
bool ca_jacobian_fisher_is_dense(const ca_arch *arch, int64_t rank);

/* logits       [n, V], not changed
 * vectors      [rank, n, D] out: sqrt(lambda_i) u_i, so that sum_i |J^T v_i|^2 is the score
 * eigenvalues  [n, rank] out, falling
 * trace        [n] out: sum of all D eigenvalues
 * Errors: CA_E_NUMERIC when eigenpairs of a Krylov space do not converge to 1e-5 of the largest
 * eigenvalue. */
ca_status ca_jacobian_fisher_eigenpairs(jacobian_fisher *fisher, ca_tensor logits,
                                        ca_tensor vectors, double *eigenvalues,
                                        double *trace) CA_MUST_USE;

#endif
