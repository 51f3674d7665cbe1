/* SPDX-License-Identifier: MIT
 *
 * See restart.h.
 */
#include "restart.h"

#include "causa/ops.h"

#include <assert.h>
#include <stdlib.h>

static const ca_site_kind site_of[] = {
    [EAP_CHANGE_STREAM] = CA_SITE_COUNT,
    [EAP_CHANGE_Z] = CA_SITE_Z,
    [EAP_CHANGE_MLP_IN] = CA_SITE_MLP_IN,
    [EAP_CHANGE_MLP_OUT] = CA_SITE_MLP_OUT,
};

/* A cell has at most the rows of logits of its group, and half of the room is free for the next. */
static int64_t most_reads(int64_t reads) {
    return 2 * reads > EAP_MOST_CELLS ? 2 * reads : EAP_MOST_CELLS;
}

static ca_pass_limits limits_of(int64_t rows, int64_t reads) {
    const uint32_t sites =
        CA_SITE_BIT(CA_SITE_Z) | CA_SITE_BIT(CA_SITE_MLP_IN) | CA_SITE_BIT(CA_SITE_MLP_OUT);
    return (ca_pass_limits){.rows = rows, .reads = reads, .sites = sites, .edited = sites};
}

static int64_t take(eap_restart *r, const ca_arch *a, ca_dtype type, bool measure) {
    int64_t group = a->heads / a->kv_heads * a->head_dim;
    const method_tensor list[] = {
        {&r->value, type, 2, {r->most_rows, group > a->width ? group : a->width}},
        {&r->resid, type, 2, {r->most_rows, a->width}},
        {&r->normed, type, 2, {r->most_reads, a->width}},
        {&r->logits, type, 2, {r->most_reads, a->vocab}},
    };
    return ca_method_take_list(measure ? NULL : &r->buffers, list, sizeof list / sizeof *list);
}

int64_t ca_eap_restart_bytes(const ca_arch *arch, ca_dtype dtype, int64_t most_rows,
                             int64_t longest, int64_t reads) {
    eap_restart r = {.most_rows = most_rows > longest ? most_rows : longest,
                     .most_reads = most_reads(reads)};
    ca_pass_limits limits = limits_of(r.most_rows, r.most_reads);
    return take(&r, arch, dtype, true) + ca_pass_bytes(arch, dtype, &limits) +
           ca_batch_bytes(r.most_reads, r.most_rows, r.most_reads);
}

ca_status ca_eap_restart_create(const eap_ends *ends, method_scorer *scorer, int64_t most_rows,
                                int64_t longest, eap_restart *r) {
    ca_status st = CA_OK;
    const ca_model *m = ends->model;
    *r = (eap_restart){.ends = ends,
                       .scorer = scorer,
                       .most_rows = most_rows > longest ? most_rows : longest,
                       .most_reads = most_reads(ends->sizes.reads)};
    ca_pass_limits limits = limits_of(r->most_rows, r->most_reads);
    CA_TRY(ca_batch_create(m->backend, r->most_reads, r->most_rows, r->most_reads, &r->batch));
    CA_TRY(ca_pass_create(m, &limits, &r->pass));
    CA_TRY(ca_method_buffers_create(m->backend, (size_t)take(r, &m->arch, m->dtype, true),
                                    &r->buffers));
    take(r, &m->arch, m->dtype, false);
    CA_TRY(ca_calloc((size_t)r->most_reads, sizeof *r->cells, &r->cells));
out:
    if (st != CA_OK) ca_eap_restart_free(r);
    return st;
}

void ca_eap_restart_free(eap_restart *r) {
    ca_pass_free(r->pass);
    ca_batch_free(r->batch);
    ca_method_buffers_free(&r->buffers);
    free(r->cells);
    *r = (eap_restart){0};
}

/* ---- scores ---- */

static const ca_example *example_of(const eap_restart *r) {
    const eap_group *g = r->ends->group;
    return &g->data->examples[g->first + r->pair];
}

/* Rows of logits of a cell. */
static int64_t cell_reads(const eap_restart *r) { return ca_example_reads(example_of(r)); }

static ca_status score(eap_restart *r) {
    ca_status st = CA_OK;
    int64_t reads = cell_reads(r);
    ca_tensor logits = ca_tensor_slice(r->logits, 0, 0, r->passed * reads);
    assert(r->passed == r->waiting);
    if (r->passed == 0) return CA_OK;
    CA_TRY(ca_head_forward(r->ends->model, logits,
                           ca_tensor_slice(r->normed, 0, 0, r->passed * reads)));
    for (int64_t c = 0; c < r->passed; c++)
        CA_TRY(ca_method_score(r->scorer, example_of(r), r->pair,
                               ca_tensor_slice(logits, 0, c * reads, reads), r->cells[c].to));
    r->passed = r->waiting = 0;
out:
    return st;
}

/* ---- passes ---- */

/* Tail rows of the pair, of [.., T, D] of its group. */
static ca_tensor of_pair(const eap_restart *r, ca_tensor t) {
    const eap_group *g = r->ends->group;
    return ca_tensor_slice(t, t.rank - 2, g->row[r->pair], g->row[r->pair + 1] - g->row[r->pair]);
}

static int64_t pair_rows(const eap_restart *r) {
    const eap_group *g = r->ends->group;
    return g->row[r->pair + 1] - g->row[r->pair];
}

/* Rows [first, first + count) of the waiting cells' values [.., D]. */
static ca_tensor changed_rows(const eap_restart *r, int64_t first, int64_t count) {
    ca_tensor rows = ca_tensor_slice(r->value, 0, first, count);
    return ca_tensor_slice(rows, 1, 0, r->ends->model->arch.width);
}

/* Changes the value of every cell. */
static ca_status change(void *context, const ca_hook_call *call, ca_tensor value) {
    ca_status st = CA_OK;
    const eap_restart *r = context;
    int64_t rows = pair_rows(r), cells = r->waiting - r->passed;
    if (r->change != EAP_CHANGE_Z)
        return ca_add(call->backend, value, changed_rows(r, 0, cells * rows), 1);
    for (int64_t c = 0; c < cells; c++) {
        const eap_cell *cell = &r->cells[r->passed + c];
        ca_tensor z =
            ca_tensor_slice(ca_tensor_slice(value, 1, cell->head, cell->heads), 0, c * rows, rows);
        ca_tensor from = ca_tensor_slice(r->value, 0, c * rows, rows);
        from = ca_tensor_slice(from, 1, 0, cell->heads * z.shape[2]);
        CA_TRY(ca_copy(call->backend, z, ca_tensor_split_last(from, cell->heads)));
    }
out:
    return st;
}

static ca_status set_batch(eap_restart *r, int64_t cells) {
    const eap_group *g = r->ends->group;
    int64_t rows = pair_rows(r);
    ca_batch_clear(r->batch);
    for (int64_t c = 0; c < cells; c++) {
        ca_batch_add(r->batch, NULL, rows, g->prefix_start[r->pair], g->tail[r->pair]);
        for (int64_t read = cell_reads(r); read > 0; read--) ca_batch_read(r->batch, rows - read);
    }
    return ca_batch_upload(r->batch);
}

/* Runs the cells that wait for their pass: all at one layer, all of one kind. */
static ca_status run_pass(eap_restart *r) {
    ca_status st = CA_OK;
    const ca_model *m = r->ends->model;
    int64_t cells = r->waiting - r->passed, rows = pair_rows(r), reads = cell_reads(r);
    if (cells == 0) return CA_OK;
    CA_TRY(ca_signal_status());
    CA_TRY(set_batch(r, cells));
    ca_tensor start = of_pair(r, ca_tensor_at(r->ends->stream, 0, r->layer));
    ca_tensor resid = ca_tensor_slice(r->resid, 0, 0, cells * rows);
    CA_TRY(ca_copy(m->backend, ca_tensor_3d(resid.data, resid.dtype, cells, rows, m->arch.width),
                   ca_tensor_repeat(start, cells)));
    if (r->change == EAP_CHANGE_STREAM)
        CA_TRY(ca_add(m->backend, resid, changed_rows(r, 0, cells * rows), 1));
    ca_hook hook = {.site = site_of[r->change],
                    .first_layer = r->layer,
                    .last_layer = r->layer,
                    .edits = true,
                    .forward = change,
                    .context = r};
    ca_forward request = ca_forward_all(m, r->batch);
    request.first_layer = r->layer;
    request.resid = resid;
    request.head = CA_HEAD_NORM;
    request.prefix = ca_eap_ends_prefix(r->ends);
    request.hooks = &hook;
    request.hook_count = r->change != EAP_CHANGE_STREAM;
    CA_TRY(ca_pass_forward(r->pass, &request));
    CA_TRY(ca_copy(m->backend, ca_tensor_slice(r->normed, 0, r->passed * reads, cells * reads),
                   ca_pass_final_norm(r->pass)));
    r->passed = r->waiting;
    r->rows = 0;
    if (2 * r->passed * reads > r->most_reads) CA_TRY(score(r));
out:
    return st;
}

void ca_eap_restart_pair(eap_restart *r, int64_t pair) {
    assert(r->waiting == 0);
    r->pair = pair;
}

static bool is_full(const eap_restart *r) {
    return (r->waiting + 1) * cell_reads(r) > r->most_reads;
}

ca_status ca_eap_restart_add(eap_restart *r, eap_change kind, int64_t layer, int64_t head,
                             ca_tensor value, double *to) {
    ca_status st = CA_OK;
    int64_t rows = pair_rows(r);
    bool other = r->change != kind || r->layer != layer;
    if (other || is_full(r) || r->rows + rows > r->most_rows) CA_TRY(run_pass(r));
    if (is_full(r)) CA_TRY(score(r));
    r->change = kind;
    r->layer = layer;
    ca_tensor place = ca_tensor_slice(r->value, 0, r->rows, rows);
    CA_TRY(ca_copy(r->ends->model->backend, ca_tensor_slice(place, 1, 0, value.shape[1]), value));
    int64_t heads = kind == EAP_CHANGE_Z ? value.shape[1] / r->ends->model->arch.head_dim : 0;
    r->cells[r->waiting++] = (eap_cell){head, heads, to};
    r->rows += rows;
out:
    return st;
}

ca_status ca_eap_restart_add_final(eap_restart *r, ca_tensor value, double *to) {
    ca_status st = CA_OK;
    const ca_model *m = r->ends->model;
    int64_t reads = cell_reads(r), first = pair_rows(r) - reads;
    CA_TRY(run_pass(r));
    if (is_full(r)) CA_TRY(score(r));
    ca_tensor normed = ca_tensor_slice(r->normed, 0, r->passed * reads, reads);
    ca_tensor final = of_pair(r, ca_tensor_at(r->ends->stream, 0, m->arch.layers));
    CA_TRY(ca_copy(m->backend, normed, ca_tensor_slice(final, 0, first, reads)));
    CA_TRY(ca_add(m->backend, normed, ca_tensor_slice(value, 0, first, reads), 1));
    CA_TRY(ca_norm_fwd(m->backend, normed, normed, m->final_gain, m->final_bias, m->arch.norm));
    r->cells[r->waiting++] = (eap_cell){.head = -1, .to = to};
    r->passed = r->waiting;
out:
    return st;
}

ca_status ca_eap_restart_finish(eap_restart *r) {
    ca_status st = CA_OK;
    CA_TRY(run_pass(r));
    CA_TRY(score(r));
out:
    return st;
}
