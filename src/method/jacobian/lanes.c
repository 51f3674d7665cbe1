/* SPDX-License-Identifier: MIT
 *
 * All scopes and positions from one forward: their vectors go through the backward as lanes, in
 * tiles that fit the pass, and are reduced per token at the leaf; [lanes, T, D] is never sent.
 */
#include "jacobian.h"

#include "causa/ops.h"

#include <math.h>
#include <string.h>

/* What a lane of a tile is: a vector of a column, for a slot. */
typedef struct lane_place {
    int64_t column, vector, slot;
} lane_place;

/* Lane number `index` of all slots: slots are the slowest. */
static lane_place place_of(const jacobian *j, int64_t index) {
    lane_place p = {.slot = index / j->lanes};
    int64_t vector = index % j->lanes;
    while (p.column + 1 < j->columns &&
           (j->column[p.column].lanes == 0 ||
            vector >= j->column[p.column].first_lane + j->column[p.column].lanes))
        p.column++;
    p.vector = vector;
    return p;
}

int64_t ca_jacobian_slots_of(const jacobian *j, int64_t example) {
    return j->reads.span ? 1 : j->reads.start[example + 1] - j->reads.start[example];
}

int64_t ca_jacobian_slots_before(const jacobian *j, int64_t example) {
    return j->reads.span ? example : j->reads.start[example];
}

int64_t ca_jacobian_read_of(const jacobian *j, int64_t example, int64_t slot) {
    int64_t read = j->reads.start[example] + slot;
    return read < j->reads.start[example + 1] ? read - j->reads.start[j->first] : -1;
}

ca_status ca_jacobian_slot_cotangent(jacobian *j, int64_t slot, ca_tensor vector,
                                     ca_tensor cotangent) {
    ca_status st = CA_OK;
    ca_backend *be = j->job->backend;
    int64_t rows = 0;
    if (j->slots == 1) return ca_copy(be, cotangent, vector);
    for (int64_t i = j->first; i < j->last; i++) {
        int64_t read = ca_jacobian_read_of(j, i, slot);
        if (read >= 0) j->row_host[rows++] = read;
    }
    ca_tensor index = ca_tensor_slice(j->slot_rows, 0, 0, rows);
    ca_tensor chosen = ca_tensor_slice(j->slot_vectors, 0, 0, rows);
    CA_TRY(ca_fill(be, cotangent, 0));
    if (rows == 0) return CA_OK;
    CA_TRY(ca_upload(be, index, j->row_host));
    CA_TRY(ca_gather(be, chosen, vector, index, 1, false));
    CA_TRY(ca_scatter_add(be, cotangent, index, chosen));
out:
    return st;
}

/* Values x of the leaf [T, D], which scores multiply gradients with. */
ca_status ca_jacobian_set_leaf(jacobian *j) {
    const ca_model *m = j->job->model;
    ca_tensor leaf = ca_tensor_slice(j->leaf, 0, 0, j->batch->sequences.rows);
    if (j->layer > 0) return ca_copy(m->backend, leaf, ca_pass_resid(j->pass, j->layer));
    return ca_gather(m->backend, leaf, m->embed, j->batch->ids_b, m->arch.embed_scale, false);
}

/* Adds what one lane gives to the scores of its slot. norm, dot: [T] of the packed rows. */
static void combine(jacobian *j, int64_t column, int64_t slot, const double *norm,
                    const double *dot) {
    const jacobian_column *c = &j->column[column];
    const ca_sequences *s = &j->batch->sequences;
    for (int64_t i = j->first; i < j->last; i++) {
        if (ca_jacobian_read_of(j, i, slot) < 0) continue;
        int64_t tokens = j->job->data->examples[i].clean.count, n = i - j->first;
        int64_t row = s->row_start[n], rows = s->row_start[n + 1] - row;
        int64_t at = j->score_start[i] - j->score_start[j->first] + slot * tokens;
        for (int64_t t = 0; t < rows; t++) {
            double value = norm[row + t];
            if (c->scope->combine == COMBINE_SUM_SQUARES)
                c->score[at + t] += (float)(value * value);
            else
                c->score[at + t] = (float)value;
            if (c->squares) c->squares[at + t] += value * value * value * value;
            if (c->scope->has_signed) c->signed_score[at + t] = (float)dot[row + t];
            if (c->scope->combine == COMBINE_SUM_SQUARES)
                c->signed_score[at + t] += (float)(dot[row + t] * dot[row + t] / 2);
        }
    }
}

/* Norms and dot products of one lane's gradient [T, D]. */
ca_status ca_jacobian_reduce(jacobian *j, int64_t column, int64_t slot, ca_tensor gradient) {
    ca_status st = CA_OK;
    ca_backend *be = j->job->backend;
    const jacobian_scope *scope = j->column[column].scope;
    int64_t rows = j->batch->sequences.rows;
    ca_tensor norms = ca_tensor_slice(j->norms, 0, 0, rows),
              dots = ca_tensor_slice(j->dots, 0, 0, rows);
    ca_tensor sized = gradient, leaf = ca_tensor_slice(j->leaf, 0, 0, rows);
    double *norm = j->numbers, *dot = j->numbers + rows;
    bool has_dots = scope->has_signed || scope->combine == COMBINE_SUM_SQUARES;
    if (scope->combine == COMBINE_PRODUCT) {
        sized = ca_tensor_slice(j->product, 0, 0, rows);
        CA_TRY(ca_multiply(be, sized, gradient, leaf));
    }
    CA_TRY(ca_row_norms(be, norms, sized));
    if (has_dots) CA_TRY(ca_row_dots(be, dots, gradient, leaf));
    CA_TRY(ca_download_f64(be, norms, j->staging, norm));
    if (has_dots) CA_TRY(ca_download_f64(be, dots, j->staging, dot));
    combine(j, column, slot, norm, dot);
out:
    return st;
}

static ca_status run_tile(jacobian *j, int64_t first, int64_t count) {
    ca_status st = CA_OK;
    int64_t width = j->job->arch->width, rows = j->batch->sequences.rows;
    ca_tensor gradient;
    ca_tensor cotangents =
        ca_tensor_3d(j->cotangents.data, j->cotangents.dtype, count, j->n, width);
    for (int64_t r = 0; r < count; r++) {
        lane_place place = place_of(j, first + r);
        ca_tensor lane = ca_tensor_slice(cotangents, 0, r, 1);
        ca_tensor vector = ca_tensor_slice(j->vectors, 0, place.vector, 1);
        CA_TRY(ca_jacobian_slot_cotangent(j, place.slot,
                                          ca_tensor_2d(vector.data, vector.dtype, j->n, width),
                                          ca_tensor_2d(lane.data, lane.dtype, j->n, width)));
    }
    ca_backward request = {.lanes = count, .d_final_norm = cotangents, .stop_layer = j->layer};
    CA_TRY(ca_pass_backward(j->pass, &request, &gradient));
    for (int64_t r = 0; r < count; r++) {
        ca_tensor lane = ca_tensor_slice(gradient, 0, r, 1);
        lane_place place = place_of(j, first + r);
        CA_TRY(ca_jacobian_reduce(j, place.column, place.slot,
                                  ca_tensor_2d(lane.data, lane.dtype, rows, width)));
    }
out:
    return st;
}

ca_status ca_jacobian_lanes(jacobian *j) {
    ca_status st = CA_OK;
    int64_t width = j->job->arch->width, slots = 0;
    ca_tensor whole = j->vectors;
    if (j->lanes == 0) return CA_OK;
    for (int64_t i = j->first; i < j->last; i++) {
        int64_t n = ca_jacobian_slots_of(j, i);
        if (n > slots) slots = n;
    }
    j->vectors = ca_tensor_3d(whole.data, whole.dtype, j->lanes, j->n, width);
    for (int64_t c = 0; c < j->columns; c++) {
        const jacobian_column *column = &j->column[c];
        if (column->lanes)
            CA_TRY(column->scope->vectors(
                j, ca_tensor_slice(j->vectors, 0, column->first_lane, column->lanes)));
    }
    for (int64_t first = 0, all = slots * j->lanes; first < all; first += j->tile)
        CA_TRY(run_tile(j, first, all - first < j->tile ? all - first : j->tile));
out:
    j->vectors = whole;
    return st;
}
