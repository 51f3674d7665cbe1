/* SPDX-License-Identifier: MIT
 *
 * A group of examples: their clean and corrupted runs in one pass, then every cell of every place,
 * packed in the order example, draw, column, slot.
 */
#include "patch.h"

#include "causa/ops.h"

#include <math.h>
#include <stdlib.h>

enum { CHUNK = 16 }; /* rows of logits brought to the host at once */

/* Runs of the examples of the running group; n counts them from 0. */
typedef struct patch_group {
    int64_t first, count;   /* examples [first, first + count) */
    int64_t *clean_row;     /* [n] rows of the first pass at which the runs begin */
    int64_t *corrupted_row; /* [n, draws] */
    double *clean;          /* [n] metric */
    double *corrupted;      /* [n, draws] */
    int32_t *predicted;     /* [n] by the clean run */
    double *reference;      /* [n, V] log-probabilities of the clean run, where the metric asks */
    double *value;          /* [n, draws, columns, slots] metric of the patched runs */
    /* cells waiting for their pass */
    patch_cell *cells; /* [cell_sequences] */
    int64_t *example;  /* [cell_sequences] n of each */
    double **to;       /* [cell_sequences] its element of `value` */
    int64_t waiting, rows;
    /* scratch */
    double *logits, *log_probs; /* [CHUNK, V], [V] */
    void *staging;              /* [CHUNK, V] */
    double *row;                /* [columns, slots], one of each dataset */
} patch_group;

static int64_t most_examples(const patch_state *p) { return p->packing.max_sequences; }

static int64_t cells_per_run(const patch_state *p) { return p->column_count * p->slots; }

int64_t ca_patch_group_host_bytes(const ca_job *job, const patch_state *p) {
    int64_t vocab = job->arch->vocab, n = most_examples(p);
    int64_t reference = p->metric.kind->needs & CA_METRIC_REFERENCE ? n * vocab : 0;
    return (int64_t)sizeof(double) * ((n * p->draws + 1) * cells_per_run(p) + reference +
                                      (2 * CHUNK + 1) * vocab + 2 * cells_per_run(p));
}

ca_status ca_patch_group_create(patch_state *p) {
    ca_status st = CA_OK;
    patch_group *g = NULL;
    size_t n = (size_t)most_examples(p), draws = (size_t)p->draws, cells = (size_t)cells_per_run(p);
    size_t vocab = (size_t)p->job->arch->vocab, waiting = (size_t)p->sizes.cell_sequences;
    CA_TRY(ca_calloc(1, sizeof *g, &g));
    p->group = g;
    CA_TRY(ca_calloc(n, sizeof *g->clean_row, &g->clean_row));
    CA_TRY(ca_calloc(n * draws, sizeof *g->corrupted_row, &g->corrupted_row));
    CA_TRY(ca_calloc(n, sizeof *g->clean, &g->clean));
    CA_TRY(ca_calloc(n * draws, sizeof *g->corrupted, &g->corrupted));
    CA_TRY(ca_calloc(n, sizeof *g->predicted, &g->predicted));
    if (p->metric.kind->needs & CA_METRIC_REFERENCE)
        CA_TRY(ca_calloc(n * vocab, sizeof *g->reference, &g->reference));
    CA_TRY(ca_calloc(n * draws * cells, sizeof *g->value, &g->value));
    CA_TRY(ca_calloc(waiting, sizeof *g->cells, &g->cells));
    CA_TRY(ca_calloc(waiting, sizeof *g->example, &g->example));
    CA_TRY(ca_calloc(waiting, sizeof(double *), &g->to));
    CA_TRY(ca_calloc(CHUNK * vocab, sizeof *g->logits, &g->logits));
    CA_TRY(ca_calloc(CHUNK * vocab, sizeof(double), &g->staging));
    CA_TRY(ca_calloc(vocab, sizeof *g->log_probs, &g->log_probs));
    CA_TRY(ca_calloc(3 * cells, sizeof *g->row, &g->row));
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
    free(g->reference);
    free(g->value);
    free(g->cells);
    free(g->example);
    free(g->to);
    free(g->logits);
    free(g->log_probs);
    free(g->staging);
    free(g->row);
    free(g);
}

static const ca_example *example_of(const patch_state *p, int64_t n) {
    return &p->job->data->examples[p->group->first + n];
}

/* ---- metric ---- */

static ca_status score(const patch_state *p, int64_t n, const double *logits, double *value) {
    const patch_group *g = p->group;
    int64_t vocab = p->job->arch->vocab;
    if (p->metric.kind->needs & CA_METRIC_LOG_PROBS)
        ca_metric_log_softmax(logits, vocab, g->log_probs);
    *value = p->metric.kind->value(&(ca_metric_input){
        .vocab = vocab,
        .logits = logits,
        .log_probs = g->log_probs,
        .reference = g->reference ? g->reference + n * vocab : NULL,
        .example = example_of(p, n),
        .numbers = p->metric.numbers,
    });
    if (isfinite(*value)) return CA_OK;
    return ca_fail(CA_E_NUMERIC, "%s: the metric is not finite",
                   ca_example_place(p->job->data, example_of(p, n)));
}

/* Rows [first, first + count) of logits to the host; count <= CHUNK. */
static ca_status fetch(const patch_state *p, ca_tensor logits, int64_t first, int64_t count) {
    return ca_download_f64(p->job->backend, ca_tensor_slice(logits, 0, first, count),
                           p->group->staging, p->group->logits);
}

/* ---- first pass ---- */

static void add_run(patch_state *p, const ca_prompt_text *prompt, int64_t *row) {
    ca_batch *batch = ca_patch_engine_base(p->engine);
    *row = batch->sequences.rows;
    ca_batch_add(batch, prompt->ids, prompt->count, 0, 0);
    ca_batch_read(batch, prompt->count - 1);
}

static void add_example(patch_state *p, int64_t n) {
    patch_group *g = p->group;
    const ca_example *e = example_of(p, n);
    add_run(p, &e->clean, &g->clean_row[n]);
    for (int64_t d = 0; d < p->draws; d++) {
        int64_t *row = &g->corrupted_row[n * p->draws + d];
        add_run(p, p->restore ? &e->clean : &e->corrupted, row);
        if (p->restore) ca_patch_noise_add(&p->noise, p->job, e, d, *row);
    }
}

/* Metrics of the unpatched runs. The runs of an example follow each other, the clean one first. */
static ca_status score_runs(patch_state *p, ca_tensor logits) {
    ca_status st = CA_OK;
    patch_group *g = p->group;
    int64_t vocab = p->job->arch->vocab, runs = 1 + p->draws;
    for (int64_t n = 0; n < g->count; n++)
        for (int64_t r = 0; r < runs; r++) {
            CA_TRY(fetch(p, logits, n * runs + r, 1));
            if (r == 0) g->predicted[n] = ca_metric_argmax(g->logits, vocab);
            if (r == 0 && g->reference)
                ca_metric_log_softmax(g->logits, vocab, g->reference + n * vocab);
            CA_TRY(score(p, n, g->logits,
                         r == 0 ? &g->clean[n] : &g->corrupted[n * p->draws + r - 1]));
        }
out:
    return st;
}

static ca_status run_examples(patch_state *p) {
    ca_status st = CA_OK;
    ca_batch *batch = ca_patch_engine_base(p->engine);
    ca_hook noise;
    ca_tensor logits;
    ca_batch_clear(batch);
    p->noise.count = 0;
    for (int64_t n = 0; n < p->group->count; n++) add_example(p, n);
    CA_TRY(ca_batch_upload(batch));
    if (p->restore) CA_TRY(ca_patch_noise_upload(&p->noise, p->job->backend, &noise));
    CA_TRY(ca_patch_engine_run_base(p->engine, p->restore ? &noise : NULL, &logits));
    CA_TRY(score_runs(p, logits));
out:
    return st;
}

/* ---- cells ---- */

static ca_status flush(patch_state *p, const patch_place *place) {
    ca_status st = CA_OK;
    patch_group *g = p->group;
    ca_tensor logits;
    if (g->waiting == 0) return CA_OK;
    CA_TRY(ca_signal_status()); /* a group may take minutes; it is begun again by --resume */
    CA_TRY(ca_patch_engine_run_cells(p->engine, place, g->cells, g->waiting, &logits));
    for (int64_t c = 0; c < g->waiting; c += CHUNK) {
        int64_t rows = g->waiting - c < CHUNK ? g->waiting - c : CHUNK;
        CA_TRY(fetch(p, logits, c, rows));
        for (int64_t r = 0; r < rows; r++)
            CA_TRY(score(p, g->example[c + r], g->logits + r * p->job->arch->vocab, g->to[c + r]));
    }
    g->waiting = g->rows = 0;
out:
    return st;
}

static ca_status add_cell(patch_state *p, const patch_place *place, int64_t n, patch_cell cell,
                          double *to) {
    ca_status st = CA_OK;
    patch_group *g = p->group;
    int64_t rows = cell.length - cell.from;
    if (g->waiting == p->sizes.cell_sequences || g->rows + rows > p->sizes.cell_rows)
        CA_TRY(flush(p, place));
    g->cells[g->waiting] = cell;
    g->example[g->waiting] = n;
    g->to[g->waiting++] = to;
    g->rows += rows;
out:
    return st;
}

/* All slots of one column in one run. */
static ca_status add_slots(patch_state *p, int64_t n, int64_t draw, int64_t column) {
    ca_status st = CA_OK;
    patch_group *g = p->group;
    const patch_span *spans = p->spans + (g->first + n) * p->slots;
    int64_t run = n * p->draws + draw;
    double *to = g->value + (run * p->column_count + column) * p->slots;
    patch_cell cell = {
        .source = p->denoise ? g->clean_row[n] : g->corrupted_row[run],
        .target = p->denoise ? g->corrupted_row[run] : g->clean_row[n],
        .length = example_of(p, n)->clean.count,
        .head = p->columns[column].site.head,
    };
    for (int64_t s = 0; s < p->slots; s++) {
        cell.from = spans[s].from;
        cell.to = spans[s].to;
        to[s] = cell.from < 0 ? NAN : p->denoise ? g->corrupted[run] : g->clean[n];
        if (cell.from >= 0 && cell.from < cell.to)
            CA_TRY(add_cell(p, &p->places[p->columns[column].place], n, cell, &to[s]));
    }
out:
    return st;
}

static ca_status run_place(patch_state *p, int64_t place, int64_t first, int64_t last) {
    ca_status st = CA_OK;
    for (int64_t n = 0; n < p->group->count; n++)
        for (int64_t d = 0; d < p->draws; d++)
            for (int64_t c = first; c < last; c++) CA_TRY(add_slots(p, n, d, c));
    CA_TRY(flush(p, &p->places[place]));
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

/* Means over the draws, and their interval. */
static ca_status write_example(patch_state *p, int64_t n) {
    ca_status st = CA_OK;
    const patch_group *g = p->group;
    int64_t cells = cells_per_run(p), at = g->first + n, draws = p->draws;
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
        interval[c] = ca_patch_half_width(spread, draws);
    }
    CA_TRY(ca_result_write(p->job->result, "/patch/value", at, 1, value));
    CA_TRY(ca_result_write(p->job->result, "/patch/effect", at, 1, effect));
    if (draws > 1)
        CA_TRY(ca_result_write(p->job->result, "/patch/effect_interval", at, 1, interval));
    CA_TRY(ca_result_write(p->job->result, "/baseline/clean", at, 1, &g->clean[n]));
    CA_TRY(ca_result_write(p->job->result, "/baseline/corrupted", at, 1, &mean));
    CA_TRY(ca_result_write(p->job->result, "/baseline/predicted", at, 1, &g->predicted[n]));
    int64_t position = example_of(p, n)->clean.count - 1;
    CA_TRY(ca_result_write(p->job->result, "/data/position", at, 1, &position));
out:
    return st;
}

ca_status ca_patch_group_run(void *state, int64_t first, int64_t last) {
    ca_status st = CA_OK;
    patch_state *p = state;
    p->group->first = first;
    p->group->count = last - first;
    p->group->waiting = p->group->rows = 0;
    CA_TRY(run_examples(p));
    for (int64_t c = 0, end = 0; c < p->column_count; c = end) {
        int64_t place = p->columns[c].place;
        while (end < p->column_count && p->columns[end].place == place) end++;
        CA_TRY(run_place(p, place, c, end));
    }
    for (int64_t n = 0; n < p->group->count; n++) CA_TRY(write_example(p, n));
out:
    return st;
}
