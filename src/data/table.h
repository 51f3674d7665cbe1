/* SPDX-License-Identifier: MIT
 *
 * A prompt file as rows of named cells, whatever its format. Private to src/data.
 */
#ifndef CAUSA_DATA_TABLE_H
#define CAUSA_DATA_TABLE_H

#include "causa/base.h"

typedef enum cell_kind { CELL_ABSENT, CELL_TEXT, CELL_INT, CELL_LIST, CELL_OTHER } cell_kind;

/* A value. CSV cells are texts; JSON ones keep their kind (floats: CELL_OTHER and their text). */
typedef struct cell {
    cell_kind kind;
    const char *text; /* TEXT: UTF-8, NUL-terminated; else the value as JSON text */
    int64_t integer;
    int64_t count;
    struct cell *items;
} cell;

typedef struct table {
    ca_arena *arena; /* owns everything */
    int64_t columns, rows, capacity;
    const char **column; /* [columns] names */
    cell **cells;        /* [columns][rows] */
    int64_t *line;       /* [rows] line of the file where the row begins; 0 when unknown (JSON) */
} table;

/* The format is that of the suffix: .csv, .jsonl, .json.
 * Errors: CA_E_DATA "FILE: line N: ..." */
ca_status ca_table_open(const char *path, const char *text, size_t size, table *out) CA_MUST_USE;
void ca_table_free(table *t);

/* csv.c, json.c: parsers behind ca_table_open. */
ca_status ca_table_parse_csv(const char *path, const char *text, size_t size, table *t) CA_MUST_USE;
ca_status ca_table_parse_json(const char *path, const char *text, size_t size,
                              table *t) CA_MUST_USE;
ca_status ca_table_parse_jsonl(const char *path, const char *text, size_t size,
                               table *t) CA_MUST_USE;

/* Appends a row of absent cells. */
ca_status ca_table_add_row(table *t, int64_t line) CA_MUST_USE;
/* Index of a column, added with absent cells in all rows when new. */
ca_status ca_table_column(table *t, const char *name, size_t length, int64_t *index) CA_MUST_USE;
/* Index or -1. */
int64_t ca_table_find(const table *t, const char *name);

#endif
