/* SPDX-License-Identifier: MIT
 *
 * Random probes of the Fisher information of the next-token distribution at many reads.
 *
 *   v = sum_i xi_i sqrt(p_i) (w_i - mu), xi_i = +1 or -1      E |J^T v|^2 = tr(J^T F J)
 *
 * so that one backward per probe estimates the trace of all tokens, without bias.
 * Source: Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix".
 */
#ifndef CAUSA_JACOBIAN_HUTCHINSON_H
#define CAUSA_JACOBIAN_HUTCHINSON_H

#include "causa/model.h"

typedef struct jacobian_hutchinson jacobian_hutchinson;

ca_status ca_jacobian_hutchinson_create(const ca_model *model, int64_t most_reads, int64_t probes,
                                        jacobian_hutchinson **out) CA_MUST_USE;
void ca_jacobian_hutchinson_free(jacobian_hutchinson *h);
/* Bytes of backend memory that it takes. */
int64_t ca_jacobian_hutchinson_bytes(const ca_arch *arch, ca_dtype dtype, int64_t most_reads,
                                     int64_t probes);
/* Bytes of its arrays on the host. */
int64_t ca_jacobian_hutchinson_host_bytes(const ca_arch *arch);

/* logits   [n, V], not changed
 * keys     [n] of the reads: what their signs depend on
 * vectors  [probes, n, D] out: v / sqrt(probes), so that the sum of |J^T v|^2 is the estimate */
ca_status ca_jacobian_hutchinson_probes(jacobian_hutchinson *h, ca_tensor logits,
                                        const ca_philox_key *keys, ca_tensor vectors) CA_MUST_USE;

#endif
