/* SPDX-License-Identifier: MIT
 *
 * Masked soft interventions of the reference backend: on rows, and on ragged attention patterns.
 */
#include "ref.h"

#include <stdlib.h>
#include <string.h>

/* The ends are taken as they are: a sum with 0 times the other value would lose the sign of a zero
 * and spread what is not finite. */
static double mix(double m, double x, double source) {
    if (m == 0) return x;
    if (m == 1) return source;
    return x + m * (source - x);
}

ca_status ca_ref_mix_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor source,
                         ca_tensor mask) {
    (void)be;
    int64_t n = ca_ref_width(&x), weights = ca_ref_width(&mask);
    double *xi = NULL, *si, *mi;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(2 * n + weights, &xi));
    si = xi + n;
    mi = si + n;
    for (int64_t row = 0; row < ca_ref_rows(&x); row++) {
        ca_ref_load(&x, row, xi);
        ca_ref_load(&source, row, si);
        ca_ref_load(&mask, row, mi);
        for (int64_t d = 0; d < n; d++) xi[d] = mix(mi[weights == 1 ? 0 : d], xi[d], si[d]);
        ca_ref_store(&y, row, xi);
    }
out:
    free(xi);
    return st;
}

/* Row buffers of the backward: [W] each, but m and dm [1] for one weight a row. */
typedef struct mix_row {
    double *dy, *x, *source, *d_x, *d_source, *m, *dm;
} mix_row;

static void mix_row_bwd(mix_row w, int64_t n, int64_t weights, bool accumulate) {
    memset(w.dm, 0, (size_t)weights * sizeof *w.dm);
    for (int64_t d = 0; d < n; d++) {
        int64_t i = weights == 1 ? 0 : d;
        w.dm[i] += w.dy[d] * (w.source[d] - w.x[d]);
        w.d_source[d] = w.m[i] * w.dy[d];
        w.d_x[d] = (1 - w.m[i]) * w.dy[d] + (accumulate ? w.d_x[d] : 0);
    }
}

ca_status ca_ref_mix_bwd(ca_backend *be, ca_tensor d_x, ca_tensor d_source, ca_tensor d_mask,
                         ca_tensor dy, ca_tensor x, ca_tensor source, ca_tensor mask,
                         bool accumulate) {
    (void)be;
    int64_t n = ca_ref_width(&dy), weights = ca_ref_width(&mask);
    double *s = NULL;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(5 * n + 2 * weights, &s));
    mix_row w = {s, s + n, s + 2 * n, s + 3 * n, s + 4 * n, s + 5 * n, s + 5 * n + weights};
    for (int64_t row = 0; row < ca_ref_rows(&dy); row++) {
        ca_ref_load(&dy, row, w.dy);
        ca_ref_load(&mask, row, w.m);
        if (d_mask.data) ca_ref_load(&x, row, w.x);
        if (d_mask.data) ca_ref_load(&source, row, w.source);
        if (accumulate) ca_ref_load(&d_x, row, w.d_x);
        mix_row_bwd(w, n, weights, accumulate);
        if (d_mask.data) ca_ref_store(&d_mask, row, w.dm);
        if (d_source.data) ca_ref_store(&d_source, row, w.d_source);
        ca_ref_store(&d_x, row, w.d_x);
    }
out:
    free(s);
    return st;
}

/* ---- attention patterns */

/* One row of a pattern: keys [first, last] of `keys` are visible to row t of sequence s. */
typedef struct pattern_row {
    int64_t packed, at, keys, first, last; /* packed row, first element in the flat pattern */
} pattern_row;

static pattern_row row_of(const ca_sequences *sequences, ca_attention attention, int64_t s,
                          int64_t h, int64_t t) {
    ca_ref_sequence sequence = ca_ref_sequence_at(sequences, s);
    int64_t i = sequence.prefix + t;
    return (pattern_row){.packed = sequence.row + t,
                         .at = ca_ref_pattern_row(sequences, s, attention.heads, h, t),
                         .keys = sequence.keys,
                         .first = ca_ref_first_key(attention, i),
                         .last = i};
}

static bool visible(pattern_row row, int64_t j) { return j >= row.first && j <= row.last; }

ca_status ca_ref_pattern_mix_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor source,
                                 ca_tensor mask, const ca_sequences *sequences,
                                 ca_attention attention) {
    (void)be;
    for (int64_t s = 0; s < sequences->count; s++)
        for (int64_t h = 0; h < attention.heads; h++)
            for (int64_t t = 0; t < ca_ref_sequence_at(sequences, s).own; t++) {
                pattern_row row = row_of(sequences, attention, s, h, t);
                double m = ca_ref_get(&mask, row.packed * attention.heads + h);
                for (int64_t j = row.at; j < row.at + row.keys; j++)
                    ca_ref_set(&y, j,
                               visible(row, j - row.at)
                                   ? mix(m, ca_ref_get(&x, j), ca_ref_get(&source, j))
                                   : 0);
            }
    return CA_OK;
}

/* The arguments of pattern_mix_bwd by name. */
typedef struct pattern_mix {
    ca_tensor d_x, d_source, d_mask, dy, x, source, mask;
    bool accumulate;
} pattern_mix;

/* Lane r of one row; `weight` counts the elements of the mask. */
static void pattern_row_bwd(const pattern_mix *w, pattern_row row, int64_t r, int64_t weight) {
    int64_t lane = r * w->dy.shape[1];
    double m = ca_ref_get(&w->mask, weight), dm = 0;
    for (int64_t j = row.at; j < row.at + row.keys; j++) {
        bool seen = visible(row, j - row.at);
        double g = seen ? ca_ref_get(&w->dy, lane + j) : 0;
        if (w->d_mask.data && seen) dm += g * (ca_ref_get(&w->source, j) - ca_ref_get(&w->x, j));
        if (w->d_source.data) ca_ref_set(&w->d_source, lane + j, seen ? m * g : 0);
        double before = w->accumulate && seen ? ca_ref_get(&w->d_x, lane + j) : 0;
        ca_ref_set(&w->d_x, lane + j, seen ? (1 - m) * g + before : 0);
    }
    if (w->d_mask.data)
        ca_ref_set(&w->d_mask, r * w->d_mask.shape[1] * w->d_mask.shape[2] + weight, dm);
}

ca_status ca_ref_pattern_mix_bwd(ca_backend *be, ca_tensor d_x, ca_tensor d_source,
                                 ca_tensor d_mask, ca_tensor dy, ca_tensor x, ca_tensor source,
                                 ca_tensor mask, const ca_sequences *sequences,
                                 ca_attention attention, bool accumulate) {
    (void)be;
    const pattern_mix w = {d_x, d_source, d_mask, dy, x, source, mask, accumulate};
    for (int64_t r = 0; r < dy.shape[0]; r++)
        for (int64_t s = 0; s < sequences->count; s++)
            for (int64_t h = 0; h < attention.heads; h++)
                for (int64_t t = 0; t < ca_ref_sequence_at(sequences, s).own; t++) {
                    pattern_row row = row_of(sequences, attention, s, h, t);
                    pattern_row_bwd(&w, row, r, row.packed * attention.heads + h);
                }
    return CA_OK;
}
