/* SPDX-License-Identifier: MIT
 *
 * A group of examples: their clean and corrupted runs in one pass, then every cell of every place,
 * packed in the order place, example, draw, column, slot. Cells are scored in that order, many
 * passes at a time, so that their number says where a stopped group goes on.
 *
 * What is run are the sequences of the metric, of which an example may have several: their values
 * are added up when the example is written.
 */
#include "patch.h"

#include "causa/ops.h"

#include <math.h>
#include <stdlib.h>

enum { MOST_WAIT = 4 /* full passes whose cells wait to be scored: bounds what a signal loses */ };

/* Runs of the sequences of the running group; n counts them from 0. */
typedef struct patch_group {
    int64_t first, count;   /* sequences [first, first + count) */
    int64_t *clean_row;     /* [n] rows of the first pass at which the runs begin */
    int64_t *corrupted_row; /* [n, draws] */
    double *clean;          /* [n] metric */
    double *corrupted;      /* [n, draws] */
    int32_t *predicted;     /* [n] by the clean run */
    double *value;          /* [n, draws, columns, slots] metric of the patched runs */
    /* cells waiting to be scored, of which the first `passed` have had their pass */
    patch_cell *cells; /* [cell_reads] */
    int64_t *sequence; /* [cell_reads] n of each */
    double **to;       /* [cell_reads] its element of `value` */
    int64_t waiting, passed;
    int64_t rows, passed_rows;   /* of the cells without and with their pass */
    int64_t reads, passed_reads; /* the same of rows of logits */
    int64_t scored;              /* cells of the group whose value is known */
    int64_t met;                 /* cells of the group that came by, an earlier run's included */
    method_scorer scorer;
    double *row; /* [columns, slots], one of each dataset */
} patch_group;

static int64_t parts_of(const patch_state *p) { return ca_metric_parts(p->metric.kind); }

static int64_t most_runs(const patch_state *p) { return p->packing.max_sequences * parts_of(p); }

static int64_t cells_per_run(const patch_state *p) { return p->column_count * p->slots; }

int64_t ca_patch_group_host_bytes(const ca_job *job, const patch_state *p) {
    int64_t n = most_runs(p);
    return (int64_t)sizeof(double) * (n * p->draws + 3) * cells_per_run(p) +
           ca_method_scorer_host_bytes(&p->metric, job->arch->vocab, n);
}

ca_status ca_patch_group_create(patch_state *p) {
    ca_status st = CA_OK;
    patch_group *g = NULL;
    size_t n = (size_t)most_runs(p), draws = (size_t)p->draws, cells = (size_t)cells_per_run(p);
    size_t waiting = (size_t)p->sizes.cell_reads;
    CA_TRY(ca_calloc(1, sizeof *g, &g));
    p->group = g;
    CA_TRY(ca_calloc(n, sizeof *g->clean_row, &g->clean_row));
    CA_TRY(ca_calloc(n * draws, sizeof *g->corrupted_row, &g->corrupted_row));
    CA_TRY(ca_calloc(n, sizeof *g->clean, &g->clean));
    CA_TRY(ca_calloc(n * draws, sizeof *g->corrupted, &g->corrupted));
    CA_TRY(ca_calloc(n, sizeof *g->predicted, &g->predicted));
    CA_TRY(ca_calloc(n * draws * cells, sizeof *g->value, &g->value));
    CA_TRY(ca_calloc(waiting, sizeof *g->cells, &g->cells));
    CA_TRY(ca_calloc(waiting, sizeof *g->sequence, &g->sequence));
    CA_TRY(ca_calloc(waiting, sizeof(double *), &g->to));
    CA_TRY(ca_calloc(3 * cells, sizeof *g->row, &g->row));
    CA_TRY(ca_method_scorer_create(&p->metric, p->job->data, p->job->backend, p->job->arch->vocab,
                                   most_runs(p), &g->scorer));
out:
    return st; /* freed by the owner */
}

void ca_patch_group_free(patch_group *g) {
    if (!g) return;
    free(g->clean_row);
    free(g->corrupted_row);
    free(g->clean);
    free(g->corrupted);
    free(g->predicted);
    free(g->value);
    free(g->cells);
    free(g->sequence);
    free(g->to);
    free(g->row);
    ca_method_scorer_free(&g->scorer);
    free(g);
}

static const ca_example *sequence_of(const patch_state *p, int64_t n) {
    return &p->metric.sequences->examples[p->group->first + n];
}

/* Which example it is of. */
static int64_t example_of(const patch_state *p, int64_t n) {
    return (p->group->first + n) / parts_of(p);
}

/* ---- first pass ---- */

static void add_run(patch_state *p, const ca_prompt_text *prompt, int64_t reads, int64_t *row) {
    ca_batch *batch = ca_patch_engine_base(p->engine);
    *row = batch->sequences.rows;
    ca_batch_add(batch, prompt->ids, prompt->count, 0, 0);
    for (int64_t r = reads; r > 0; r--) ca_batch_read(batch, prompt->count - r);
}

static void add_runs(patch_state *p, int64_t n) {
    patch_group *g = p->group;
    const ca_example *e = sequence_of(p, n);
    int64_t reads = ca_example_reads(e);
    add_run(p, &e->clean, reads, &g->clean_row[n]);
    for (int64_t d = 0; d < p->draws; d++) {
        int64_t *row = &g->corrupted_row[n * p->draws + d];
        add_run(p, p->restore ? &e->clean : &e->corrupted, reads, row);
        if (p->restore) /* that of the prompt, whatever follows it */
            ca_patch_noise_add(&p->noise, p->job, &p->job->data->examples[example_of(p, n)], d,
                               *row);
    }
}

/* Metrics of the unpatched runs. Those of a sequence follow each other, the clean one first. */
static ca_status score_runs(patch_state *p, ca_tensor logits) {
    ca_status st = CA_OK;
    patch_group *g = p->group;
    for (int64_t n = 0, at = 0; n < g->count; n++) {
        const ca_example *e = sequence_of(p, n);
        int64_t reads = ca_example_reads(e);
        ca_tensor clean = ca_tensor_slice(logits, 0, at, reads);
        at += reads;
        CA_TRY(ca_method_scorer_clean(&g->scorer, n, clean, &g->predicted[n]));
        CA_TRY(ca_method_score(&g->scorer, e, n, clean, &g->clean[n]));
        for (int64_t d = 0; d < p->draws; d++, at += reads)
            CA_TRY(ca_method_score(&g->scorer, e, n, ca_tensor_slice(logits, 0, at, reads),
                                   &g->corrupted[n * p->draws + d]));
    }
out:
    return st;
}

static ca_status run_sequences(patch_state *p) {
    ca_status st = CA_OK;
    ca_batch *batch = ca_patch_engine_base(p->engine);
    ca_hook noise;
    ca_tensor logits;
    ca_batch_clear(batch);
    p->noise.count = 0;
    for (int64_t n = 0; n < p->group->count; n++) add_runs(p, n);
    CA_TRY(ca_batch_upload(batch));
    if (p->restore) CA_TRY(ca_patch_noise_upload(&p->noise, p->job->backend, &noise));
    CA_TRY(ca_patch_engine_run_base(p->engine, p->restore ? &noise : NULL, &logits));
    CA_TRY(score_runs(p, logits));
out:
    return st;
}

/* ---- cells ---- */

static ca_status score_cells(patch_state *p) {
    ca_status st = CA_OK;
    patch_group *g = p->group;
    ca_tensor logits;
    if (g->passed == 0) return CA_OK;
    CA_TRY(ca_patch_engine_logits(p->engine, &logits));
    for (int64_t c = 0, at = 0; c < g->passed; at += g->cells[c++].reads)
        CA_TRY(ca_method_score(&g->scorer, sequence_of(p, g->sequence[c]), g->sequence[c],
                               ca_tensor_slice(logits, 0, at, g->cells[c].reads), g->to[c]));
    g->scored += g->passed;
    g->waiting = g->passed = g->passed_rows = g->passed_reads = 0;
out:
    return st;
}

/* Runs the cells that wait for their pass. Scores when half of the room is taken: the next pass may
 * need the other half. */
static ca_status run_pass(patch_state *p, const patch_place *place) {
    ca_status st = CA_OK;
    patch_group *g = p->group;
    if (g->waiting == g->passed) return CA_OK;
    CA_TRY(ca_signal_status());
    CA_TRY(
        ca_patch_engine_run_cells(p->engine, place, g->cells + g->passed, g->waiting - g->passed));
    g->passed = g->waiting;
    g->passed_rows += g->rows;
    g->passed_reads += g->reads;
    g->rows = g->reads = 0;
    if (2 * g->passed_reads > p->sizes.cell_reads ||
        g->passed_rows >= MOST_WAIT * p->sizes.cell_rows)
        CA_TRY(score_cells(p));
out:
    return st;
}

static ca_status add_cell(patch_state *p, const patch_place *place, int64_t n, patch_cell cell,
                          double *to) {
    ca_status st = CA_OK;
    patch_group *g = p->group;
    int64_t rows = cell.length - cell.from;
    if (g->met++ < g->scored) return CA_OK; /* by an earlier run */
    if (g->passed_reads + g->reads + cell.reads > p->sizes.cell_reads ||
        g->rows + rows > p->sizes.cell_rows || g->waiting - g->passed == p->sizes.cell_sequences)
        CA_TRY(run_pass(p, place));
    g->cells[g->waiting] = cell;
    g->sequence[g->waiting] = n;
    g->to[g->waiting++] = to;
    g->rows += rows;
    g->reads += cell.reads;
out:
    return st;
}

/* All slots of one column in one run. */
static ca_status add_slots(patch_state *p, int64_t n, int64_t draw, int64_t column) {
    ca_status st = CA_OK;
    patch_group *g = p->group;
    const patch_span *spans = p->spans + example_of(p, n) * p->slots;
    int64_t run = n * p->draws + draw;
    double *to = g->value + (run * p->column_count + column) * p->slots;
    patch_cell cell = {
        .source = p->denoise ? g->clean_row[n] : g->corrupted_row[run],
        .target = p->denoise ? g->corrupted_row[run] : g->clean_row[n],
        .length = sequence_of(p, n)->clean.count,
        .reads = ca_example_reads(sequence_of(p, n)),
        .head = p->columns[column].site.head,
    };
    for (int64_t s = 0; s < p->slots; s++) {
        cell.from = spans[s].from;
        cell.to = spans[s].to;
        cell.tokens = spans[s].tokens;
        if (cell.from >= 0 && cell.from < cell.to)
            CA_TRY(add_cell(p, &p->places[p->columns[column].place], n, cell, &to[s]));
        else
            to[s] = cell.from < 0 ? NAN : p->denoise ? g->corrupted[run] : g->clean[n];
    }
out:
    return st;
}

static ca_status run_place(patch_state *p, int64_t place, int64_t first, int64_t last) {
    ca_status st = CA_OK;
    for (int64_t n = 0; n < p->group->count; n++)
        for (int64_t d = 0; d < p->draws; d++)
            for (int64_t c = first; c < last; c++) CA_TRY(add_slots(p, n, d, c));
    CA_TRY(run_pass(p, &p->places[place]));
out:
    return st;
}

static ca_status run_places(patch_state *p) {
    ca_status st = CA_OK;
    for (int64_t c = 0, end = 0; c < p->column_count; c = end) {
        int64_t place = p->columns[c].place;
        while (end < p->column_count && p->columns[end].place == place) end++;
        CA_TRY(run_place(p, place, c, end));
    }
    CA_TRY(score_cells(p));
out:
    return st;
}

/* ---- a stopped group ---- */

/* Which group it was and how many of its cells are scored; then their values. */
static const char *const PROGRESS = CA_RESULT_UNFINISHED "/cells";
static const char *const VALUES = CA_RESULT_UNFINISHED "/value";

static ca_status save_cells(const patch_state *p) {
    ca_status st = CA_OK;
    const patch_group *g = p->group;
    int64_t progress[] = {g->first, g->count, g->scored};
    ca_result_shape shape = {
        3,
        {g->count * p->draws, p->column_count, p->slots},
        {"run", "site", "position"},
    };
    if (g->scored == 0) return CA_OK;
    CA_TRY(ca_result_put(p->job->result, PROGRESS, CA_RESULT_I64, (ca_result_shape){1, {3}, {NULL}},
                         progress));
    CA_TRY(ca_result_put(p->job->result, VALUES, CA_RESULT_F64, shape, g->value));
out:
    return st;
}

/* Takes what an earlier run left of the same group. Passes are cut where it would have cut them:
 * it left off after a pass. */
static ca_status restore_cells(patch_state *p) {
    ca_status st = CA_OK;
    patch_group *g = p->group;
    int64_t progress[3];
    g->scored = 0;
    if (!ca_result_has(p->job->result, PROGRESS)) return CA_OK;
    CA_TRY(ca_result_read_back(p->job->result, PROGRESS, progress));
    if (progress[0] != g->first || progress[1] != g->count) return CA_OK;
    CA_TRY(ca_result_read_back(p->job->result, VALUES, g->value));
    g->scored = progress[2];
out:
    return st;
}

/* ---- result ---- */

/* An effect is undefined when the two runs do not differ: rounding alone would make it. */
static double gap_of(double clean, double corrupted) {
    double gap = clean - corrupted;
    return fabs(gap) > 1e-5 * fmax(fabs(clean), fabs(corrupted)) ? gap : NAN;
}

/* Takes value number n, from 0, into a mean; exact where all values are equal. */
static void add_to_mean(double *mean, int64_t n, double value) {
    *mean += (value - *mean) / (double)(n + 1);
}

/* Adds the values of an example's other sequences to those of its first one, n. */
static void add_parts(patch_state *p, int64_t n) {
    patch_group *g = p->group;
    int64_t draws = p->draws, cells = cells_per_run(p);
    for (int64_t q = n + 1; q < n + parts_of(p); q++) {
        g->clean[n] += g->clean[q];
        for (int64_t d = 0; d < draws; d++)
            g->corrupted[n * draws + d] += g->corrupted[q * draws + d];
        for (int64_t i = 0; i < draws * cells; i++)
            g->value[n * draws * cells + i] += g->value[q * draws * cells + i];
    }
}

/* Means over the draws, and their interval, of the example whose first sequence is n. */
static ca_status write_example(patch_state *p, int64_t n) {
    ca_status st = CA_OK;
    const patch_group *g = p->group;
    int64_t cells = cells_per_run(p), at = example_of(p, n), draws = p->draws;
    const double *corrupted = g->corrupted + n * draws;
    double *value = g->row, *effect = value + cells, *interval = effect + cells, mean = 0;
    for (int64_t d = 0; d < draws; d++) add_to_mean(&mean, d, corrupted[d]);
    double gap = gap_of(g->clean[n], mean);
    for (int64_t c = 0; c < cells; c++) {
        const double *of_draw = g->value + n * draws * cells + c;
        double spread = 0;
        value[c] = effect[c] = 0;
        for (int64_t d = 0; d < draws; d++) {
            add_to_mean(&value[c], d, of_draw[d * cells]);
            add_to_mean(&effect[c], d, (of_draw[d * cells] - corrupted[d]) / gap);
        }
        for (int64_t d = 0; d < draws; d++)
            spread += pow((of_draw[d * cells] - corrupted[d]) / gap - effect[c], 2);
        interval[c] = ca_method_half_width(spread, draws);
    }
    CA_TRY(ca_result_write(p->job->result, "/patch/value", at, 1, value));
    CA_TRY(ca_result_write(p->job->result, "/patch/effect", at, 1, effect));
    if (draws > 1)
        CA_TRY(ca_result_write(p->job->result, "/patch/effect_interval", at, 1, interval));
    CA_TRY(ca_result_write(p->job->result, "/baseline/clean", at, 1, &g->clean[n]));
    CA_TRY(ca_result_write(p->job->result, "/baseline/corrupted", at, 1, &mean));
    CA_TRY(ca_result_write(p->job->result, "/baseline/predicted", at, 1, &g->predicted[n]));
    int64_t position = p->job->data->examples[at].clean.count - 1;
    CA_TRY(ca_result_write(p->job->result, "/data/position", at, 1, &position));
out:
    return st;
}

ca_status ca_patch_group_run(void *state, int64_t first, int64_t last) {
    ca_status st = CA_OK;
    patch_state *p = state;
    patch_group *g = p->group;
    g->first = first * parts_of(p);
    g->count = (last - first) * parts_of(p);
    g->waiting = g->passed = g->met = 0;
    g->rows = g->passed_rows = g->reads = g->passed_reads = 0;
    CA_TRY(restore_cells(p));
    CA_TRY(run_sequences(p));
    st = run_places(p);
    if (st == CA_E_PREEMPTED || st == CA_E_INTERRUPT) {
        ca_status saved = save_cells(p);
        st = saved == CA_OK ? st : saved;
    }
    CA_TRY(st);
    for (int64_t n = 0; n < g->count; n += parts_of(p)) {
        add_parts(p, n);
        CA_TRY(write_example(p, n));
    }
out:
    return st;
}
