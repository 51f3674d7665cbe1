/* SPDX-License-Identifier: MIT
 *
 * Positions: which tokens of a prompt a method reads or rewrites, as written in configs.
 */
#ifndef CAUSA_POSITION_H
#define CAUSA_POSITION_H

#include "causa/config.h"
#include "causa/data.h"

typedef enum ca_position_kind {
    CA_POSITION_ALL,
    CA_POSITION_LAST,
    CA_POSITION_SUBJECT,      /* every token of the subject */
    CA_POSITION_SUBJECT_LAST, /* its last token */
    CA_POSITION_LIST,         /* indices; negative ones count from the end */
    CA_POSITION_AFTER,        /* the first token after a text */
    CA_POSITION_WHOLE,        /* every token, as one cell */
    CA_POSITION_CELLS         /* several of these, a cell each */
} ca_position_kind;

typedef struct ca_positions {
    ca_position_kind kind;
    int64_t count; /* of indices or cells */
    int64_t *indices;
    char *after;
    struct ca_positions *cells;
} ca_positions;

/* Reads `all | last | subject | subject_last | N | [N, ...] | {after: "text"}` at a path of the
 * config. Errors: CA_E_CONFIG with the place. */
ca_status ca_positions_read(const ca_config *config, const char *path, ca_positions *out) CA_MUST_USE;
/* The same for methods whose cells are sets of tokens: also `whole`, and a list of sets, each
 * written as above or as a list of indices, that are tokens of one cell: [[1, 3], last, whole].
 * Gives CA_POSITION_CELLS for a list unless all of it are indices. */
ca_status ca_positions_read_cells(const ca_config *config, const char *path,
                                  ca_positions *out) CA_MUST_USE;
void ca_positions_free(ca_positions *positions);
/* How configs write it: last, [1, 3], after "text"; appended to `out`. */
ca_status ca_positions_print(const ca_positions *positions, ca_string *out) CA_MUST_USE;

/* The token indices of a prompt, rising and without repeats; of CA_POSITION_CELLS of all of them.
 *
 * tokens  [example->clean.count] room; count: how many were written
 * Errors: CA_E_DATA naming the row: a position outside the prompt, no subject, text not found or
 * found more than once. */
ca_status ca_positions_resolve(const ca_positions *positions, const ca_dataset *dataset,
                               const ca_example *example, int64_t *tokens, int64_t *count) CA_MUST_USE;

#endif
