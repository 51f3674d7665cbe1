/* SPDX-License-Identifier: MIT
 *
 * What a patching job takes: which examples share a first pass, how many cells share a pass, memory
 * and arithmetic. Cells are counted from shapes: their rows do not depend on the column.
 */
#include "patch.h"

#include <stdlib.h>

enum {
    MOST_ROWS = 1024,     /* of a pass: more are no faster on the processors tried */
    MOST_SEQUENCES = 256, /* cells of a pass, and rows of logits together */
    MOST_PASSES = 4,      /* of one column and one group */
};

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* What the runs of one example take: its sequences, clean or corrupted. */
typedef struct run_load {
    int64_t rows, longest, reads, keys, pattern;
} run_load;

static run_load run_of(const ca_job *job, const patch_state *p, int64_t example) {
    run_load load = {0};
    int64_t parts = ca_metric_parts(p->metric.kind);
    for (int64_t q = 0; q < parts; q++) {
        const ca_example *e = &p->metric.sequences->examples[example * parts + q];
        int64_t length = e->clean.count;
        load.rows += length;
        load.longest = larger(load.longest, length);
        load.reads += ca_example_reads(e);
        load.keys += ca_sequence_keys(job->arch, length, 0);
        load.pattern += length * length;
    }
    return load;
}

/* Rows, keys, reads and number of the cells of one example in one column and one draw. */
typedef struct cell_load {
    int64_t cells, rows, keys, reads;
} cell_load;

static cell_load load_of(const ca_job *job, const patch_state *p, int64_t example) {
    cell_load load = {0};
    int64_t parts = ca_metric_parts(p->metric.kind);
    for (int64_t i = 0; i < p->slots * parts; i++) {
        patch_span span = p->spans[example * p->slots + i / parts];
        const ca_example *e = &p->metric.sequences->examples[example * parts + i % parts];
        if (span.from < 0 || span.from == span.to) continue;
        load.cells++;
        load.rows += e->clean.count - span.from;
        load.keys += ca_sequence_keys(job->arch, e->clean.count - span.from, span.from);
        load.reads += ca_example_reads(e);
    }
    return load;
}

/* Sizes of the runs of the largest groups. */
static void measure_groups(const ca_job *job, const patch_state *p, patch_sizes *sizes) {
    for (int64_t g = 0; g < p->packing.batches; g++) {
        int64_t rows = 0, reads = 0, pattern = 0;
        for (int64_t i = p->packing.first[g]; i < p->packing.first[g + 1]; i++) {
            run_load load = run_of(job, p, i);
            rows += (1 + p->draws) * load.rows;
            reads += (1 + p->draws) * load.reads;
            pattern += (1 + p->draws) * load.pattern;
        }
        sizes->base_rows = larger(sizes->base_rows, rows);
        sizes->base_reads = larger(sizes->base_reads, reads);
        sizes->base_pattern = larger(sizes->base_pattern, pattern);
    }
}

/* Cuts the examples into groups: their runs have at most half the rows of a cell pass, and their
 * cells of one column fill at most four, more of which would be no faster. */
static ca_status cut_groups(const ca_job *job, patch_state *p, int64_t rows) {
    ca_status st = CA_OK;
    int64_t *lengths = NULL, longest = 0, reads = 0, count = job->data->count;
    int64_t parts = ca_metric_parts(p->metric.kind);
    ca_pass_limits limits = {.logits = true, .key_values = true};
    CA_TRY(ca_calloc((size_t)count + 1, sizeof *lengths, &lengths));
    for (int64_t i = 0; i < count; i++) {
        run_load run = run_of(job, p, i);
        int64_t cells = p->draws * load_of(job, p, i).rows / (2 * MOST_PASSES);
        lengths[i] = larger((1 + p->draws) * run.rows, cells);
        longest = larger(longest, run.longest);
        reads = larger(reads, run.reads);
    }
    ca_packing_free(&p->packing);
    CA_TRY(ca_plan_packing(job->arch, job->dtype, &limits, lengths, NULL, count, 1 + p->draws,
                           rows > 1 ? rows / 2 : 1, INT64_MAX, &p->packing));
    rows = larger(rows, longest);
    p->sizes = (patch_sizes){
        .base_sequences = p->packing.max_sequences * parts * (1 + p->draws),
        .cell_rows = rows,
        .cell_pattern = rows * longest,
        .cell_sequences = smaller(rows, MOST_SEQUENCES),
        .cell_reads = smaller(rows, MOST_SEQUENCES),
    };
    /* half of the room is free for the next pass, and must do for one cell */
    if (reads > 1) p->sizes.cell_reads = larger(p->sizes.cell_reads, 2 * reads);
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
            int64_t runs = 1 + p->draws;
            run_load run = run_of(job, p, i);
            cell_load load = load_of(job, p, i);
            rows += p->draws * load.rows;
            plan->tokens += runs * run.rows;
            plan->cells += p->draws * load.cells * p->column_count;
            plan->flops += ca_flops_forward(arch, runs * run.rows, runs * run.keys, arch->layers);
            plan->flops +=
                ca_flops_head(arch, runs * run.reads + p->draws * load.reads * p->column_count);
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
