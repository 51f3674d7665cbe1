/* SPDX-License-Identifier: MIT
 *
 * Host side of a ca_sequences from a list of sequences, for tests of attention. Sequence s sits on
 * prefix rows of its own; a row that belongs to no sequence lies before each prefix.
 */
#ifndef CA_TESTS_SEQUENCES_H
#define CA_TESTS_SEQUENCES_H

#include "causa/backend.h"

enum { MAX_SEQUENCES = 8 };

typedef struct sequence_lengths {
    int64_t count;
    int64_t own[MAX_SEQUENCES], prefix[MAX_SEQUENCES];
} sequence_lengths;

typedef struct sequence_arrays {
    ca_sequences sequences; /* the host pointers point into this struct */
    int64_t row_start[MAX_SEQUENCES + 1], pattern_start[MAX_SEQUENCES + 1];
    int64_t prefix_start[MAX_SEQUENCES], prefix_rows[MAX_SEQUENCES];
    int64_t total_prefix; /* P */
} sequence_arrays;

static inline void sequence_arrays_fill(sequence_arrays *a, const sequence_lengths *lengths) {
    *a = (sequence_arrays){.sequences.count = lengths->count};
    ca_sequences *q = &a->sequences;
    for (int64_t s = 0; s < lengths->count; s++) {
        int64_t own = lengths->own[s], prefix = lengths->prefix[s], keys = prefix + own;
        a->row_start[s + 1] = a->row_start[s] + own;
        a->pattern_start[s + 1] = a->pattern_start[s] + own * keys;
        a->prefix_rows[s] = prefix;
        if (prefix > 0) {
            a->prefix_start[s] = a->total_prefix + 1;
            a->total_prefix += prefix + 1;
        }
        q->max_rows = own > q->max_rows ? own : q->max_rows;
        q->max_keys = keys > q->max_keys ? keys : q->max_keys;
    }
    q->rows = a->row_start[lengths->count];
    q->row_start = a->row_start;
    q->pattern_start = a->pattern_start;
    q->prefix_start = a->prefix_start;
    q->prefix_rows = a->prefix_rows;
}

#endif
