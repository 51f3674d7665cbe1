/* SPDX-License-Identifier: MIT
 *
 * See neurons.h.
 */
#include "neurons.h"

#include "causa/ops.h"
#include "expand.h"

static int64_t take(eap_neurons *n, const ca_arch *a, ca_dtype type, bool measure) {
    int64_t count = n->hidden ? a->layers : n->graph->sources;
    int64_t width = n->hidden ? a->mlp_width : a->width;
    const method_tensor list[] = {
        {&n->product, type, 3, {count, n->longest, width}},
        {&n->score, type, 2, {count, width}},
    };
    return ca_method_take_list(measure ? NULL : &n->buffers, list, sizeof list / sizeof *list);
}

int64_t ca_eap_neurons_bytes(const ca_arch *arch, ca_dtype dtype, const ca_circuit_graph *graph,
                             int64_t longest, bool hidden) {
    eap_neurons n = {.graph = graph, .longest = longest, .hidden = hidden};
    return take(&n, arch, dtype, true);
}

ca_status ca_eap_neurons_create(const eap_gradients *gradients, const ca_circuit_graph *graph,
                                int64_t longest, bool hidden, eap_neurons *out) {
    ca_status st = CA_OK;
    const ca_model *m = gradients->ends->model;
    *out =
        (eap_neurons){.gradients = gradients, .graph = graph, .longest = longest, .hidden = hidden};
    CA_TRY(ca_method_buffers_create(m->backend, (size_t)take(out, &m->arch, m->dtype, true),
                                    &out->buffers));
    take(out, &m->arch, m->dtype, false);
out:
    if (st != CA_OK) ca_eap_neurons_free(out);
    return st;
}

void ca_eap_neurons_free(eap_neurons *n) {
    ca_method_buffers_free(&n->buffers);
    *n = (eap_neurons){0};
}

/* product [count, n, D] *= gradient [n, D], the same for all. */
static ca_status weigh(ca_backend *be, ca_tensor product, ca_tensor gradient) {
    return ca_multiply(be, product, product, ca_tensor_repeat(gradient, product.shape[0]));
}

static ca_status weigh_outputs(eap_neurons *neurons, int64_t first, ca_tensor product) {
    ca_status st = CA_OK;
    const eap_gradients *g = neurons->gradients;
    const ca_model *m = g->ends->model;
    int64_t rows = product.shape[1], heads = neurons->graph->heads;
    CA_TRY(ca_eap_expand(m, neurons->graph, &g->difference, first, product));
    ca_tensor gradient = ca_tensor_slice(g->output, 1, first, rows);
    CA_TRY(weigh(m->backend, ca_tensor_slice(product, 0, 0, 1), ca_tensor_at(gradient, 0, 0)));
    for (int64_t l = 0; l < m->arch.layers; l++) {
        CA_TRY(weigh(m->backend,
                     ca_tensor_slice(product, 0, ca_circuit_head(neurons->graph, l, 0), heads),
                     ca_tensor_at(gradient, 0, 1 + 2 * l)));
        CA_TRY(weigh(m->backend, ca_tensor_slice(product, 0, ca_circuit_mlp(neurons->graph, l), 1),
                     ca_tensor_at(gradient, 0, 2 + 2 * l)));
    }
out:
    return st;
}

ca_status ca_eap_neurons_pair(eap_neurons *neurons, int64_t n, ca_tensor *score) {
    ca_status st = CA_OK;
    const eap_gradients *g = neurons->gradients;
    ca_backend *be = g->ends->model->backend;
    int64_t first = g->part.row[n], rows = g->part.row[n + 1] - first;
    ca_tensor product = ca_tensor_slice(neurons->product, 1, 0, rows);
    *score = neurons->score;
    if (neurons->hidden)
        CA_TRY(ca_multiply(be, product, ca_tensor_slice(g->difference.hidden, 1, first, rows),
                           ca_tensor_slice(g->hidden, 1, first, rows)));
    else
        CA_TRY(weigh_outputs(neurons, first, product));
    CA_TRY(ca_column_sums(be, *score, product));
out:
    return st;
}
