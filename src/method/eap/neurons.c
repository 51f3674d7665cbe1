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

/* The place of a source's output in the sums of gradients. */
static int64_t output_of(const ca_circuit_graph *graph, int64_t source) {
    ca_circuit_place place = ca_circuit_source_place(graph, source);
    return place.layer < 0 ? 0 : 1 + 2 * place.layer + (place.head < 0);
}

/* product [F, n, D], of which sources [first, first + count) are weighed by the gradients of their
 * outputs, which heads of a layer share. */
static ca_status weigh_outputs(eap_neurons *neurons, int64_t row, int64_t first, int64_t count,
                               ca_tensor product) {
    ca_status st = CA_OK;
    const eap_gradients *g = neurons->gradients;
    const ca_circuit_graph *graph = neurons->graph;
    ca_backend *be = g->ends->model->backend;
    ca_tensor gradient = ca_tensor_slice(g->output, 1, row, product.shape[1]);
    CA_TRY(ca_eap_expand(g->ends->model, graph, &g->difference, row, product));
    for (int64_t u = first, next; u < first + count; u = next) {
        int64_t output = output_of(graph, u);
        for (next = u + 1; next < first + count && output_of(graph, next) == output;) next++;
        ca_tensor some = ca_tensor_slice(product, 0, u, next - u);
        CA_TRY(ca_multiply(be, some, some,
                           ca_tensor_repeat(ca_tensor_at(gradient, 0, output), next - u)));
    }
out:
    return st;
}

ca_status ca_eap_neurons_pair(eap_neurons *neurons, int64_t n, int64_t first, int64_t count,
                              ca_tensor *score) {
    ca_status st = CA_OK;
    const eap_gradients *g = neurons->gradients;
    ca_backend *be = g->ends->model->backend;
    int64_t row = g->part.row[n], rows = g->part.row[n + 1] - row;
    ca_tensor all = ca_tensor_slice(neurons->product, 1, 0, rows);
    ca_tensor product = ca_tensor_slice(all, 0, first, count);
    *score = ca_tensor_slice(neurons->score, 0, first, count);
    if (neurons->hidden) {
        ca_tensor difference = ca_tensor_slice(g->difference.hidden, 1, row, rows);
        ca_tensor gradient = ca_tensor_slice(g->hidden, 1, row, rows);
        CA_TRY(ca_multiply(be, product, ca_tensor_slice(difference, 0, first, count),
                           ca_tensor_slice(gradient, 0, first, count)));
    } else {
        CA_TRY(weigh_outputs(neurons, row, first, count, all));
    }
    CA_TRY(ca_column_sums(be, *score, product));
out:
    return st;
}
