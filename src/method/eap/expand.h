/* SPDX-License-Identifier: MIT
 *
 * Outputs of sources as D values each.
 */
#ifndef CAUSA_METHOD_EAP_EXPAND_H
#define CAUSA_METHOD_EAP_EXPAND_H

#include "causa/circuit.h"

#include "pairs.h"

/* to [F, n, D] = rows [first, first + n) of the outputs (or of differences of outputs): heads
 * through W_O, the others as they are. */
ca_status ca_eap_expand(const ca_model *model, const ca_circuit_graph *graph,
                        const eap_outputs *outputs, int64_t first, ca_tensor to) CA_MUST_USE;

#endif
