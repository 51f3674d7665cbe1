/* SPDX-License-Identifier: MIT
 *
 * Rows of named cells: growth, columns, choice of the parser.
 */
#include "table.h"

#include <stdlib.h>
#include <string.h>

static bool has_suffix(const char *path, const char *suffix) {
    size_t n = strlen(path), m = strlen(suffix);
    return n >= m && strcmp(path + n - m, suffix) == 0;
}

int64_t ca_table_find(const table *t, const char *name) {
    for (int64_t c = 0; c < t->columns; c++)
        if (strcmp(t->column[c], name) == 0) return c;
    return -1;
}

static ca_status grow_cells(cell **cells, int64_t rows, int64_t capacity) {
    cell *grown = realloc(*cells, (size_t)capacity * sizeof *grown);
    if (!grown) return ca_fail(CA_E_MEMORY, "no memory for %lld rows", (long long)capacity);
    memset(grown + rows, 0, (size_t)(capacity - rows) * sizeof *grown);
    *cells = grown;
    return CA_OK;
}

ca_status ca_table_add_row(table *t, int64_t line) {
    ca_status st = CA_OK;
    int64_t capacity = t->capacity;
    CA_TRY(ca_grow(&t->line, &capacity, t->rows + 1, sizeof *t->line));
    for (int64_t c = 0; c < t->columns && capacity != t->capacity; c++)
        CA_TRY(grow_cells(&t->cells[c], t->rows, capacity));
    t->capacity = capacity;
    t->line[t->rows++] = line;
out:
    return st;
}

ca_status ca_table_column(table *t, const char *name, size_t length, int64_t *index) {
    ca_status st = CA_OK;
    enum { MOST_COLUMNS = 1024 };
    char *copy;
    for (*index = 0; *index < t->columns; ++*index)
        if (strlen(t->column[*index]) == length && memcmp(t->column[*index], name, length) == 0)
            return CA_OK;
    if (t->columns == MOST_COLUMNS)
        return ca_fail(CA_E_DATA, "more than %d different columns", MOST_COLUMNS);
    if (!t->column) {
        CA_TRY(ca_calloc(MOST_COLUMNS, sizeof *t->column, &t->column));
        CA_TRY(ca_calloc(MOST_COLUMNS, sizeof *t->cells, &t->cells));
    }
    CA_TRY(ca_arena_strdup(t->arena, name, length, &copy));
    if (t->capacity) CA_TRY(grow_cells(&t->cells[t->columns], 0, t->capacity));
    t->column[t->columns++] = copy;
out:
    return st;
}

void ca_table_free(table *t) {
    if (t->arena) ca_arena_destroy(t->arena);
    for (int64_t c = 0; c < t->columns; c++) free(t->cells[c]);
    free(t->column);
    free(t->cells);
    free(t->line);
    *t = (table){0};
}

ca_status ca_table_open(const char *path, const char *text, size_t size, table *out) {
    ca_status st = CA_OK;
    table t = {0};
    if (size >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) { /* byte order mark */
        text += 3;
        size -= 3;
    }
    int64_t bad = ca_utf8_invalid(text, size);
    if (bad >= 0) return ca_fail(CA_E_DATA, "%s: invalid UTF-8 at byte %lld", path, (long long)bad);
    const char *nul = memchr(text, 0, size);
    if (nul)
        return ca_fail(CA_E_DATA, "%s: a zero byte at byte %lld", path, (long long)(nul - text));
    CA_TRY(ca_arena_create(&t.arena));
    if (has_suffix(path, ".csv"))
        CA_TRY(ca_table_parse_csv(path, text, size, &t));
    else if (has_suffix(path, ".jsonl"))
        CA_TRY(ca_table_parse_jsonl(path, text, size, &t));
    else if (has_suffix(path, ".json"))
        CA_TRY(ca_table_parse_json(path, text, size, &t));
    else
        CA_TRY(ca_fail(CA_E_DATA, "%s: expected a file named .csv, .jsonl or .json", path));
    if (t.rows == 0) CA_TRY(ca_fail(CA_E_DATA, "%s: the file has no rows", path));
    *out = t;
    return CA_OK;
out:
    ca_table_free(&t);
    return st;
}
