/* SPDX-License-Identifier: MIT
 *
 * What a patching job takes: which examples share a first pass, how many cells share a pass, memory
 * and arithmetic. Cells are counted from shapes: their rows do not depend on the column.
 */
#include "patch.h"

#include <stdlib.h>

enum {
    MOST_ROWS = 1024,     /* of a pass: more are no faster on the processors tried */
    MOST_SEQUENCES = 256, /* cells of a pass, and of passes scored together: bounds the logits */
    MOST_PASSES = 4,      /* of one column and one group */
};

/* Rows, keys and number of the cells of one example in one column and one draw. */
typedef struct cell_load {
    int64_t cells, rows, keys;
} cell_load;

static cell_load load_of(const ca_job *job, const patch_state *p, int64_t example) {
    cell_load load = {0};
    int64_t length = job->data->examples[example].clean.count;
    for (int64_t s = 0; s < p->slots; s++) {
        patch_span span = p->spans[example * p->slots + s];
        if (span.from < 0 || span.from == span.to) continue;
        load.cells++;
        load.rows += length - span.from;
        load.keys += ca_sequence_keys(job->arch, length - span.from, span.from);
    }
    return load;
}

/* Sizes of the runs of the largest groups. */
static void measure_groups(const ca_job *job, const patch_state *p, patch_sizes *sizes) {
    for (int64_t g = 0; g < p->packing.batches; g++) {
        int64_t rows = 0, pattern = 0;
        for (int64_t i = p->packing.first[g]; i < p->packing.first[g + 1]; i++) {
            int64_t length = job->data->examples[i].clean.count;
            rows += (1 + p->draws) * length;
            pattern += (1 + p->draws) * length * length;
        }
        if (rows > sizes->base_rows) sizes->base_rows = rows;
        if (pattern > sizes->base_pattern) sizes->base_pattern = pattern;
    }
}

/* Cuts the examples into groups: their runs have at most half the rows of a cell pass, and their
 * cells of one column fill at most four, more of which would be no faster. */
static ca_status cut_groups(const ca_job *job, patch_state *p, int64_t rows) {
    ca_status st = CA_OK;
    int64_t *lengths = NULL, longest = 0, count = job->data->count;
    ca_pass_limits limits = {.logits = true, .key_values = true};
    CA_TRY(ca_calloc((size_t)count + 1, sizeof *lengths, &lengths));
    for (int64_t i = 0; i < count; i++) {
        int64_t length = job->data->examples[i].clean.count;
        int64_t cells = p->draws * load_of(job, p, i).rows / (2 * MOST_PASSES);
        lengths[i] = (1 + p->draws) * length;
        if (lengths[i] < cells) lengths[i] = cells;
        if (length > longest) longest = length;
    }
    ca_packing_free(&p->packing);
    CA_TRY(ca_plan_packing(job->arch, job->dtype, &limits, lengths, NULL, count, 1 + p->draws,
                           rows > 1 ? rows / 2 : 1, INT64_MAX, &p->packing));
    rows = rows > longest ? rows : longest;
    p->sizes = (patch_sizes){
        .base_sequences = p->packing.max_sequences * (1 + p->draws),
        .cell_rows = rows,
        .cell_pattern = rows * longest,
        .cell_sequences = rows < MOST_SEQUENCES ? rows : MOST_SEQUENCES,
    };
    measure_groups(job, p, &p->sizes);
out:
    free(lengths);
    return st;
}

/* Fewer rows until everything fits, or nothing smaller is left; who asked sees what is needed. */
static ca_status fit(const ca_job *job, patch_state *p, int64_t *bytes) {
    ca_status st = CA_OK;
    for (int64_t rows = job->batch ? job->batch : MOST_ROWS;; rows /= 2) {
        CA_TRY(cut_groups(job, p, rows));
        CA_TRY(ca_patch_engine_bytes(job->arch, job->dtype, p->places, p->place_count, p->sizes,
                                     bytes));
        if (p->restore) *bytes += ca_patch_noise_bytes(job->arch, job->dtype, p->sizes.base_rows);
        if (*bytes <= job->memory || job->batch || rows <= 1) break;
    }
out:
    return st;
}

ca_status ca_patch_plan(const ca_job *job, patch_state *p, ca_plan *plan) {
    ca_status st = CA_OK;
    const ca_arch *arch = job->arch;
    int64_t bytes = 0, layers = 0; /* run by one cell of every column */
    for (int64_t c = 0; c < p->column_count; c++)
        layers += arch->layers - p->places[p->columns[c].place].first;
    CA_TRY(fit(job, p, &bytes));
    plan->batches = p->packing.batches;
    plan->batch_rows = p->sizes.cell_rows;
    for (int64_t g = 0; g < p->packing.batches; g++) {
        int64_t rows = 0;
        for (int64_t i = p->packing.first[g]; i < p->packing.first[g + 1]; i++) {
            int64_t length = job->data->examples[i].clean.count, runs = 1 + p->draws;
            cell_load load = load_of(job, p, i);
            rows += p->draws * load.rows;
            plan->tokens += runs * length;
            plan->cells += p->draws * load.cells * p->column_count;
            plan->flops += ca_flops_forward(arch, runs * length,
                                            runs * ca_sequence_keys(arch, length, 0), arch->layers);
            plan->flops += ca_flops_head(arch, runs + p->draws * load.cells * p->column_count);
            plan->flops += (double)p->draws * ca_flops_forward(arch, load.rows, load.keys, layers);
        }
        for (int64_t c = 0, first = 0; c < p->column_count; c = first) { /* passes of each place */
            while (first < p->column_count && p->columns[first].place == p->columns[c].place)
                first++;
            plan->batches += ((first - c) * rows + p->sizes.cell_rows - 1) / p->sizes.cell_rows;
        }
    }
    plan->examples = job->data->count;
    plan->work_bytes += bytes;
    plan->host_bytes += ca_patch_group_host_bytes(job, p);
out:
    return st;
}
