/* SPDX-License-Identifier: MIT
 *
 * See expand.h.
 */
#include "expand.h"

#include "causa/ops.h"

/* Rows [first, first + count) of the last axis but one. */
static ca_tensor rows_of(ca_tensor t, int64_t first, int64_t count) {
    return ca_tensor_slice(t, t.rank - 2, first, count);
}

ca_status ca_eap_expand(const ca_model *m, const ca_circuit_graph *graph, const eap_outputs *o,
                        int64_t first, ca_tensor to) {
    ca_status st = CA_OK;
    const ca_arch *a = &m->arch;
    int64_t rows = to.shape[1];
    CA_TRY(ca_copy(m->backend, ca_tensor_at(to, 0, 0), rows_of(o->embed, first, rows)));
    for (int64_t l = 0; l < a->layers; l++) {
        ca_tensor z = rows_of(ca_tensor_at(o->z, 0, l), first, rows);
        ca_tensor w = ca_tensor_split_last(m->layers[l].out_weight, a->heads);
        CA_TRY(ca_matmul(m->backend, ca_tensor_slice(to, 0, ca_circuit_head(graph, l, 0), a->heads),
                         ca_tensor_swap_axes(ca_tensor_split_last(z, a->heads), 0, 1),
                         ca_tensor_swap_axes(w, 0, 1), (ca_tensor){0},
                         (ca_matmul_options){.transpose_b = true, .alpha = 1, .wide = true}));
        CA_TRY(ca_copy(m->backend, ca_tensor_at(to, 0, ca_circuit_mlp(graph, l)),
                       rows_of(ca_tensor_at(o->mlp, 0, l), first, rows)));
    }
out:
    return st;
}
