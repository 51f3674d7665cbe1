/* SPDX-License-Identifier: MIT
 *
 * From table rows to examples. Private to src/data.
 */
#ifndef CAUSA_DATA_DATASET_H
#define CAUSA_DATA_DATASET_H

#include "causa/data.h"
#include "table.h"

/* Our columns; dataset.c has the names that each may have in a file. */
typedef enum column_kind {
    COLUMN_ID,
    COLUMN_CLEAN,
    COLUMN_CLEAN_IDS,
    COLUMN_CORRUPTED,
    COLUMN_CORRUPTED_IDS,
    COLUMN_ANSWER,
    COLUMN_ANSWER_IDS,
    COLUMN_WRONG,
    COLUMN_WRONG_IDS,
    COLUMN_ANSWER_TEXT,
    COLUMN_ANSWER_TEXT_IDS,
    COLUMN_WRONG_TEXT,
    COLUMN_WRONG_TEXT_IDS,
    COLUMN_LABEL,
    COLUMN_SUBJECT,
    COLUMN_SUBJECT_SPAN,
    COLUMN_COUNT
} column_kind;

/* What the reading of every row needs. */
typedef struct reader {
    const ca_config *config;
    const ca_tokenizer *tokenizer;
    int64_t vocab, positions;
    ca_data_needs needs;
    int32_t bos; /* -1: none */
    const char *path;
    table table;
    int64_t row; /* being read, from 0 */
} reader;

/* The cell of one of our columns in the current row; absent cells have kind CELL_ABSENT.
 * name: the file's name of the column, for messages. */
const cell *ca_reader_cell(const reader *r, column_kind column, const char **name);

/* "FILE: row N, column C: text" as CA_E_DATA. */
ca_status ca_reader_fail(const reader *r, const char *column, const char *format, ...)
    CA_PRINTF(3, 4);

/* row.c: fills an example from the current row. Errors: CA_E_DATA; or *excluded set (to be freed)
 * when the row is to be skipped. */
ca_status ca_reader_example(const reader *r, ca_example *e, char **excluded) CA_MUST_USE;
void ca_example_free(ca_example *e);

#endif
