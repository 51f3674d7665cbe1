/* SPDX-License-Identifier: MIT
 *
 * CSV as in RFC 4180: quoted fields, doubled quotes, line breaks inside quotes, CRLF or LF. The
 * first row names the columns; an unnamed first column (written by pandas) is the row index and
 * is left out.
 */
#include "table.h"

#include <stdlib.h>
#include <string.h>

typedef struct csv_reader {
    const char *path, *p, *end;
    int64_t line;
    ca_string field;
} csv_reader;

typedef enum field_end { FIELD_COMMA, FIELD_LINE, FIELD_FILE } field_end;

static ca_status read_quoted(csv_reader *r) {
    ca_status st = CA_OK;
    int64_t opened = r->line;
    for (r->p++;; r->p++) {
        if (r->p == r->end)
            return ca_fail(CA_E_DATA, "%s: line %lld: a quoted field is never closed", r->path,
                           (long long)opened);
        if (*r->p == '"') {
            if (r->p + 1 == r->end || r->p[1] != '"') break;
            r->p++;
        }
        if (*r->p == '\n') r->line++;
        CA_TRY(ca_string_append(&r->field, r->p, 1));
    }
    r->p++;
    if (r->p < r->end && *r->p != ',' && *r->p != '\n' && *r->p != '\r')
        return ca_fail(CA_E_DATA,
                       "%s: line %lld: expected a comma or the end of the line after a closing "
                       "quote, got '%c'",
                       r->path, (long long)r->line, *r->p);
out:
    return st;
}

/* Reads one field into r->field and says what ended it. */
static ca_status read_field(csv_reader *r, field_end *ended) {
    ca_status st = CA_OK;
    r->field.length = 0;
    CA_TRY(ca_string_append(&r->field, "", 0));
    if (r->p < r->end && *r->p == '"') {
        CA_TRY(read_quoted(r));
    } else {
        const char *start = r->p;
        while (r->p < r->end && *r->p != ',' && *r->p != '\n' && *r->p != '\r') {
            if (*r->p == '"')
                return ca_fail(CA_E_DATA,
                               "%s: line %lld: a quote inside a field that does not begin with one",
                               r->path, (long long)r->line);
            r->p++;
        }
        CA_TRY(ca_string_append(&r->field, start, (size_t)(r->p - start)));
    }
    if (r->p == r->end) {
        *ended = FIELD_FILE;
    } else if (*r->p == ',') {
        r->p++;
        *ended = FIELD_COMMA;
    } else {
        if (*r->p == '\r') r->p++;
        if (r->p < r->end && *r->p == '\n') r->p++;
        r->line++;
        *ended = FIELD_LINE;
    }
out:
    return st;
}

static ca_status read_header(csv_reader *r, table *t, int64_t *skipped) {
    ca_status st = CA_OK;
    field_end ended = FIELD_COMMA;
    *skipped = 0;
    for (int64_t n = 0, index; ended == FIELD_COMMA; n++) {
        CA_TRY(read_field(r, &ended));
        if (n == 0 && r->field.length == 0 && ended == FIELD_COMMA) {
            *skipped = 1;
            continue;
        }
        if (r->field.length == 0)
            return ca_fail(CA_E_DATA, "%s: line 1: column %lld has no name", r->path,
                           (long long)n + 1);
        if (ca_table_find(t, r->field.text) >= 0)
            return ca_fail(CA_E_DATA, "%s: line 1: the column '%s' is named twice", r->path,
                           r->field.text);
        CA_TRY(ca_table_column(t, r->field.text, r->field.length, &index));
    }
out:
    return st;
}

static ca_status read_row(csv_reader *r, table *t, int64_t skipped) {
    ca_status st = CA_OK;
    field_end ended = FIELD_COMMA;
    int64_t line = r->line, n = 0;
    CA_TRY(ca_table_add_row(t, line));
    for (; ended == FIELD_COMMA; n++) {
        CA_TRY(read_field(r, &ended));
        int64_t c = n - skipped;
        if (c < 0 || c >= t->columns) continue;
        cell *value = &t->cells[c][t->rows - 1];
        char *copy;
        if (r->field.length == 0) continue; /* an empty field is absent */
        CA_TRY(ca_arena_strdup(t->arena, r->field.text, r->field.length, &copy));
        value->kind = CELL_TEXT;
        value->text = copy;
    }
    if (n != t->columns + skipped)
        st =
            ca_fail(CA_E_DATA, "%s: line %lld: expected %lld fields as in the first line, got %lld",
                    r->path, (long long)line, (long long)(t->columns + skipped), (long long)n);
out:
    return st;
}

ca_status ca_table_parse_csv(const char *path, const char *text, size_t size, table *t) {
    ca_status st = CA_OK;
    csv_reader r = {.path = path, .p = text, .end = text + size, .line = 1};
    int64_t skipped;
    if (size == 0) return ca_fail(CA_E_DATA, "%s: the file is empty", path);
    CA_TRY(read_header(&r, t, &skipped));
    while (r.p < r.end) {
        if (*r.p == '\n' || *r.p == '\r') { /* blank line */
            r.line += *r.p == '\n';
            r.p++;
            continue;
        }
        CA_TRY(read_row(&r, t, skipped));
    }
out:
    ca_string_free(&r.field);
    return st;
}
