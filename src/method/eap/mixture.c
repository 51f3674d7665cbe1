/* SPDX-License-Identifier: MIT
 *
 * See lanes.h: which deltas make the input of each destination, their masks, and their sums.
 */
#include "lanes.h"

#include "causa/ops.h"

#include <assert.h>

/* A sum of few deltas is made one by one, of many as a product with a mask of 0, 1 and -1. On one
 * core with AVX-512 (80 rows of width 576) the product of n rows with s slots takes as long as
 * adding s (n + 8) / 20 deltas singly; products are taken a little earlier, since on a device every
 * single addition is a launch. */
enum { PRODUCT_ROWS = 8, TERM_ROWS = 32 };

/* Sources of earlier layers: parents of all destinations of a layer, but for those of the MLP in
 * its own layer. */
static int64_t below(const ca_circuit_graph *g, int64_t layer) {
    return ca_circuit_head(g, layer, 0);
}

int ca_eap_lane_factor(const eap_runs *r, const eap_lane *lane, int64_t source,
                       int64_t destination) {
    if (!lane->circuit->nodes[source]) return 0;
    bool kept = lane->circuit->edges[source * r->graph.destinations + destination];
    return lane->mixture[destination].own ? (kept ? 0 : -1) : (kept ? 1 : 0);
}

/* ---- lanes */

/* Anybody in the circuit who reads the destination. */
static bool has_reader(const ca_circuit_graph *g, const ca_circuit *c, int64_t destination) {
    ca_circuit_readers readers = ca_circuit_readers_of(g, destination);
    for (int64_t i = 0; i < readers.count; i++)
        if (c->nodes[readers.first + i]) return true;
    return false;
}

static void set_mixture(const ca_circuit_graph *g, const eap_lane *lane, int64_t destination) {
    const ca_circuit *c = lane->circuit;
    int64_t parents = ca_circuit_parents(g, destination), kept = 0;
    ca_circuit_input input = ca_circuit_destination_place(g, destination).input;
    for (int64_t u = 0; u < parents; u++)
        kept += c->nodes[u] && c->edges[u * g->destinations + destination];
    int64_t dropped = lane->rank[parents] - kept;
    /* a head's input without a kept edge is the ablated one, which is at hand projected */
    bool needed = input == CA_CIRCUIT_MLP || kept > 0;
    lane->mixture[destination] = (eap_mixture){
        .read = input == CA_CIRCUIT_LOGITS || (needed && has_reader(g, c, destination)),
        .own = dropped < kept,
        .terms = dropped < kept ? dropped : kept,
    };
}

/* Writes the mask of a layer behind those of the lane so far, when a product is the faster way. */
static void set_mask(eap_runs *r, eap_lane *lane, int64_t layer, int64_t *used) {
    const ca_circuit_graph *g = &r->graph;
    int64_t first = ca_circuit_column(g, layer, CA_CIRCUIT_Q), slots = lane->rank[below(g, layer)];
    int64_t rows = 0, terms = 0;
    double *mask = r->mask_host + *used;
    for (int64_t v = first; v <= first + eap_columns(g); v++) {
        if (!lane->mixture[v].read) continue;
        for (int64_t u = 0, i = 0; u < below(g, layer); u++) {
            if (!lane->circuit->nodes[u]) continue;
            int factor = ca_eap_lane_factor(r, lane, u, v);
            mask[rows * slots + i++] = factor;
            terms += factor != 0;
        }
        rows++;
    }
    lane->mask[layer] = -1;
    if (TERM_ROWS * terms <= slots * (rows + PRODUCT_ROWS)) return;
    lane->mask[layer] = r->masks_used + *used;
    *used += rows * slots;
}

/* Whole sources take no mask, so that keeping all neurons changes no bit. */
static ca_status set_neurons(eap_runs *r, eap_lane *lane) {
    ca_status st = CA_OK;
    const ca_circuit *c = lane->circuit;
    int64_t sources = r->graph.sources, width = r->graph.width, slots = lane->rank[sources];
    assert(!c->neurons || r->sizes.neurons);
    for (int64_t u = 0; u < sources; u++) {
        lane->masked[u] = false;
        if (!c->neurons || !c->nodes[u]) continue;
        double *to = r->neurons_host + lane->rank[u] * width;
        for (int64_t d = 0; d < width; d++) {
            to[d] = c->neurons[u * width + d];
            lane->masked[u] |= !c->neurons[u * width + d];
        }
    }
    if (c->neurons && slots)
        CA_TRY(ca_upload_f64(r->model->backend, ca_tensor_slice(r->neurons, 0, lane->slot, slots),
                             r->neurons_staging, r->neurons_host));
out:
    return st;
}

ca_status ca_eap_lane_mask(const eap_runs *r, const eap_lane *lane, int64_t source,
                           ca_tensor delta) {
    if (!lane->masked[source]) return CA_OK;
    ca_tensor kept = ca_tensor_at(r->neurons, 0, eap_slot(lane, source));
    return ca_multiply(r->model->backend, delta, delta, ca_tensor_repeat(kept, delta.shape[0]));
}

static ca_status set_lane(eap_runs *r, eap_lane *lane) {
    ca_status st = CA_OK;
    const ca_circuit_graph *g = &r->graph;
    int64_t used = 0;
    for (int64_t u = 0; u < g->sources; u++)
        lane->rank[u + 1] = lane->rank[u] + lane->circuit->nodes[u];
    CA_TRY(set_neurons(r, lane));
    for (int64_t v = 0; v < g->destinations; v++) set_mixture(g, lane, v);
    for (int64_t l = 0; l < g->layers; l++) set_mask(r, lane, l, &used);
    if (used) {
        ca_tensor masks = ca_tensor_slice(r->masks, 0, r->masks_used, used);
        CA_TRY(ca_upload_f64(r->model->backend, masks, r->mask_staging, r->mask_host));
        r->masks_used += used;
    }
out:
    return st;
}

ca_status ca_eap_lanes_set(eap_runs *r, const ca_circuit *circuits, int64_t count) {
    ca_status st = CA_OK;
    int64_t slot = 0;
    assert(count <= r->sizes.lanes);
    r->count = count;
    r->masks_used = 0;
    for (int64_t s = 0; s < count; s++) {
        r->lanes[s].circuit = &circuits[s];
        r->lanes[s].slot = slot;
        CA_TRY(set_lane(r, &r->lanes[s]));
        slot += r->lanes[s].rank[r->graph.sources];
    }
    assert(slot <= r->sizes.sources);
out:
    return st;
}

/* ---- inputs */

/* What the sum of deltas is added to. */
typedef enum base { BASE_ABLATED, BASE_OWN, BASE_NOTHING } base;

/* The MLP of a sequential block reads the stream behind attention, which is not known yet. */
static base base_of(const eap_runs *r, const eap_lane *lane, int64_t layer, int64_t column) {
    if (column == eap_columns(&r->graph) && !r->graph.parallel) return BASE_NOTHING;
    int64_t first = ca_circuit_column(&r->graph, layer, CA_CIRCUIT_Q);
    return lane->mixture[first + column].own ? BASE_OWN : BASE_ABLATED;
}

/* Rows of `input` take the streams that they start from, equal neighbours in one copy. */
static ca_status put_bases(eap_runs *r, int64_t layer, int64_t s, int64_t count) {
    ca_status st = CA_OK;
    const eap_lane *lane = &r->lanes[s];
    for (int64_t from = 0, to; from < count; from = to) {
        base kind = base_of(r, lane, layer, r->columns[from]);
        for (to = from + 1; to < count && base_of(r, lane, layer, r->columns[to]) == kind;) to++;
        ca_tensor rows = eap_stack(r, r->input, from, to - from);
        ca_tensor own = eap_rows(r, r->resid, s), ablated = eap_layer_of(r->ablated_pre, layer);
        if (kind == BASE_NOTHING)
            CA_TRY(ca_fill(r->model->backend, rows, 0));
        else
            CA_TRY(ca_copy(r->model->backend, rows,
                           ca_tensor_repeat(kind == BASE_OWN ? own : ablated, to - from)));
    }
out:
    return st;
}

static ca_tensor flat(ca_tensor t) {
    return ca_tensor_2d(t.data, t.dtype, t.shape[0], t.shape[1] * t.shape[2]);
}

/* Adds the deltas of earlier layers. */
static ca_status add_deltas(eap_runs *r, int64_t layer, const eap_lane *lane, int64_t count) {
    ca_status st = CA_OK;
    const ca_circuit_graph *g = &r->graph;
    ca_backend *be = r->model->backend;
    int64_t first = ca_circuit_column(g, layer, CA_CIRCUIT_Q), slots = lane->rank[below(g, layer)];
    if (lane->mask[layer] >= 0) {
        ca_tensor mask = ca_tensor_slice(r->masks, 0, lane->mask[layer], count * slots);
        return ca_matmul(be, flat(eap_stack(r, r->input, 0, count)),
                         ca_tensor_2d(mask.data, mask.dtype, count, slots),
                         flat(eap_stack(r, r->slots, lane->slot, slots)), (ca_tensor){0},
                         (ca_matmul_options){.alpha = 1, .beta = 1});
    }
    for (int64_t i = 0; i < count; i++)
        for (int64_t u = 0; u < below(g, layer); u++) {
            int factor = ca_eap_lane_factor(r, lane, u, first + r->columns[i]);
            if (factor)
                CA_TRY(ca_add(be, flat(eap_stack(r, r->input, i, 1)),
                              flat(eap_stack(r, r->slots, eap_slot(lane, u), 1)), factor));
        }
out:
    return st;
}

/* Norms the rows of heads to where all lanes of a column lie together. */
static ca_status norm_inputs(eap_runs *r, int64_t layer, int64_t j, int64_t n, int64_t count) {
    ca_status st = CA_OK;
    const ca_model *model = r->model;
    const ca_layer *w = &model->layers[layer];
    for (int64_t from = 0, to; from < count; from = to) {
        for (to = from + 1; to < count && r->columns[to] == r->columns[to - 1] + 1;) to++;
        ca_tensor y = eap_stack(r, r->normed, r->columns[from] * n + j, to - from);
        y.stride[0] *= n;
        CA_TRY(ca_norm_fwd(model->backend, y, eap_stack(r, r->input, from, to - from),
                           w->norm1_gain, w->norm1_bias, model->arch.norm));
    }
out:
    return st;
}

ca_status ca_eap_lane_inputs(eap_runs *r, int64_t layer, int64_t s, int64_t j, int64_t n,
                             int64_t m) {
    ca_status st = CA_OK;
    const eap_lane *lane = &r->lanes[s];
    int64_t first = ca_circuit_column(&r->graph, layer, CA_CIRCUIT_Q), count = 0;
    for (int64_t i = 0; i <= eap_columns(&r->graph); i++)
        if (lane->mixture[first + i].read) r->columns[count++] = i;
    if (count == 0) return CA_OK;
    CA_TRY(put_bases(r, layer, s, count));
    CA_TRY(add_deltas(r, layer, lane, count));
    if (m >= 0) { /* the MLP's column is the last one */
        count--;
        CA_TRY(
            ca_copy(r->model->backend, eap_rows(r, r->mlp_input, m), eap_rows(r, r->input, count)));
    }
    if (j >= 0) CA_TRY(norm_inputs(r, layer, j, n, count));
out:
    return st;
}
