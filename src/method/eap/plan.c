/* SPDX-License-Identifier: MIT
 *
 * What an attribution takes: which pairs share a pass, how many points do, memory and arithmetic.
 */
#include "eap.h"

enum {
    MOST_ROWS = 256, /* of a pass: more are no faster, and a row keeps every block's values */
    LEAST_ROWS = 64, /* as many run well, whatever they take */
    ROW_STEP = 32,
    MOST_READS = 64,     /* runs of a pass: bounds the logits */
    GROUP_ROWS = 144,    /* of the ends of a group: more are no faster */
    GROUP_PAIRS = 32,    /* bounds the prefixes */
    ENOUGH = 232 << 20,  /* bytes that more rows are not worth; 300 MB with the program itself */
    EXPANDED = 22 << 20, /* bytes of sources in D values, about */
    LEAST_EXPANDED_ROWS = 16,
    CELLS = 4, /* times the rows: of a pass that keeps no values */
};

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

bool ca_eap_runs_whole(const eap *e) {
    return e->ablation.kind != EAP_PATCHING || e->variant->clean_only;
}

/* Rows that a pair's points take in a pass; a pass has at most MOST_READS runs. */
static int64_t pass_rows_of(const eap *e, int64_t pair) {
    const ca_example *sequence = &e->metric.sequences->examples[pair];
    int64_t least = e->pass_rows / MOST_READS * ca_example_reads(sequence);
    return e->most_points * larger(ca_eap_tail_rows(sequence, ca_eap_runs_whole(e)), least);
}

/* The pair behind the last one that fits a pass that begins with `pair`, of at most `most` rows but
 * for one pair. */
static int64_t pass_end(const eap *e, int64_t pair, int64_t last, int64_t most) {
    for (int64_t rows = 0, first = pair; pair < last; pair++) {
        rows += pass_rows_of(e, pair);
        if (rows > most && pair > first) break;
    }
    return pair;
}

/* As few parts as can be, and the last one not much smaller than the others: passes of few rows are
 * slow. */
int64_t ca_eap_part_end(const eap *e, int64_t pair, int64_t last) {
    int64_t parts = 0, rows = 0, most = 0;
    for (int64_t i = pair; i < last; i = pass_end(e, i, last, e->pass_rows)) parts++;
    for (int64_t i = pair; i < last; i++) {
        rows += pass_rows_of(e, i);
        most = larger(most, pass_rows_of(e, i));
    }
    return pass_end(e, pair, last, smaller(e->pass_rows, rows / larger(1, parts) + most / 2));
}

int64_t ca_eap_ends_apart(const eap *e) {
    bool clean = true, ablated = !e->variant->clean_only;
    if (e->variant->path != EAP_NO_PATH && e->variant->path != EAP_OF_ACTIVATIONS) {
        clean = ca_eap_point_find(e->points, e->most_points, 1) < 0;
        ablated =
            e->ablation.kind != EAP_PATCHING || ca_eap_point_find(e->points, e->most_points, 0) < 0;
    }
    return clean + ablated;
}

eap_ends ca_eap_ends_wanted(const eap *e) {
    bool patching = e->ablation.kind == EAP_PATCHING;
    bool of_inputs = e->variant->path != EAP_NO_PATH && e->variant->path != EAP_OF_ACTIVATIONS;
    return (eap_ends){
        .ablation = patching ? NULL : &e->ablation,
        .sizes = e->sizes,
        .runs = larger(1, ca_eap_ends_apart(e)),
        .keep_stream = e->variant->keep_stream || e->own_site,
        .keep_hidden = e->level == EAP_HIDDEN,
        .difference_only = patching && of_inputs,
    };
}

/* Sizes of the largest part of a group. */
static eap_group_sizes measure_parts(const eap *e) {
    eap_group_sizes sizes = {0};
    const ca_packing *p = &e->packing;
    int64_t parts = ca_metric_parts(e->metric.kind);
    for (int64_t b = 0; b < p->batches; b++)
        for (int64_t pair = parts * p->first[b], end; pair < parts * p->first[b + 1]; pair = end) {
            int64_t rows = 0, reads = 0;
            end = ca_eap_part_end(e, pair, parts * p->first[b + 1]);
            for (int64_t i = pair; i < end; i++) {
                rows += ca_eap_tail_rows(&e->metric.sequences->examples[i], ca_eap_runs_whole(e));
                reads += ca_example_reads(&e->metric.sequences->examples[i]);
            }
            sizes.pairs = larger(sizes.pairs, end - pair);
            sizes.rows = larger(sizes.rows, rows);
            sizes.reads = larger(sizes.reads, reads);
        }
    return sizes;
}

/* Parts whose points have at most `rows` rows together, or of long pairs as many points as that
 * allows; groups of some parts. */
static ca_status cut_groups(const ca_job *job, eap *e, int64_t rows) {
    ca_status st = CA_OK;
    bool whole = ca_eap_runs_whole(e);
    e->longest = 1;
    for (int64_t i = 0; i < e->metric.sequences->count; i++)
        e->longest = larger(e->longest, ca_eap_tail_rows(&e->metric.sequences->examples[i], whole));
    e->most_points =
        smaller(larger(1, smaller(e->point_count, EAP_MOST_POINTS)), larger(1, rows / e->longest));
    e->pass_rows = rows;
    int64_t group_rows = larger(rows / e->most_points, smaller(rows, GROUP_ROWS));
    int64_t pairs = larger(GROUP_PAIRS, MOST_READS / e->most_points);
    CA_TRY(ca_eap_groups_cut(job, &e->metric, whole, 1, group_rows / pairs, group_rows, &e->packing,
                             &e->sizes));
    e->part_sizes = measure_parts(e);
out:
    return st;
}

/* What everything takes when passes have at most so many rows. */
static ca_status measure(const ca_job *job, eap *e, int64_t rows, int64_t *bytes) {
    ca_status st = CA_OK;
    int64_t row_bytes =
        e->sums.query.sources * job->arch->width * (int64_t)ca_dtype_size(job->dtype);
    CA_TRY(cut_groups(job, e, rows));
    e->expand_rows = smaller(e->part_sizes.rows, larger(LEAST_EXPANDED_ROWS, EXPANDED / row_bytes));
    e->cell_rows = CELLS * rows;
    *bytes = ca_eap_ablation_bytes(job->arch, job->dtype, &e->ablation);
    const eap_ends ends = ca_eap_ends_wanted(e);
    *bytes += ca_eap_ends_bytes(job->arch, job->dtype, &ends);
    *bytes += e->variant->bytes(job, e);
out:
    return st;
}

/* Fewer rows until everything fits, or nothing smaller is left; who asked sees what is needed. */
static ca_status fit(const ca_job *job, eap *e, int64_t *bytes) {
    ca_status st = CA_OK;
    for (int64_t rows = job->batch ? job->batch : MOST_ROWS;;) {
        CA_TRY(measure(job, e, rows, bytes));
        bool fits = *bytes <= job->memory;
        if (job->batch || (fits && (*bytes <= ENOUGH || rows <= LEAST_ROWS)) || rows <= 1) break;
        rows = rows > LEAST_ROWS ? rows - ROW_STEP : rows / 2;
    }
out:
    return st;
}

/* The means alone are made when nothing is attributed. */
static double sequence_flops(const ca_job *job, const eap *e, const ca_example *example) {
    const ca_arch *a = job->arch;
    bool whole = ca_eap_runs_whole(e);
    int64_t prefix = ca_eap_prefix_rows(example, whole), rows = ca_eap_tail_rows(example, whole);
    int64_t means = e->ablation.positions ? 1 : 0,
            runs = means + (e->given ? 0 : ca_eap_ends_apart(e));
    if (runs == 0) return 0;
    double flops = ca_flops_forward(a, prefix, ca_sequence_keys(a, prefix, 0), a->layers);
    flops += (double)runs * ca_flops_forward(a, rows, ca_sequence_keys(a, rows, prefix), a->layers);
    flops += ca_flops_head(a, runs * ca_example_reads(example));
    return e->given ? flops : flops + e->variant->flops(job, e, rows, prefix);
}

ca_status ca_eap_plan(const ca_job *job, eap *e, ca_plan *plan) {
    ca_status st = CA_OK;
    int64_t bytes = 0;
    e->most_points = 1;
    if (!e->given || e->ablation.positions) CA_TRY(fit(job, e, &bytes));
    e->sums.pairs = e->sizes.pairs / ca_metric_parts(e->metric.kind);
    for (int64_t i = 0; i < e->metric.sequences->count; i++) {
        const ca_example *sequence = &e->metric.sequences->examples[i];
        plan->tokens += (e->variant->clean_only ? 1 : 2) * sequence->clean.count;
        plan->flops += sequence_flops(job, e, sequence);
    }
    plan->examples = job->data->count;
    plan->work_bytes += bytes;
    if (e->packing.batches == 0) goto out;
    int64_t passes = (e->point_count + e->most_points - 1) / e->most_points;
    plan->batches = e->packing.batches * larger(1, e->site_count * passes);
    plan->batch_rows = larger(e->most_points * e->part_sizes.rows,
                              larger(1, ca_eap_ends_apart(e)) * e->sizes.rows);
    plan->host_bytes += ca_eap_attribute_host_bytes(e, job->arch->vocab);
out:
    return st;
}
