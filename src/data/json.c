/* SPDX-License-Identifier: MIT
 *
 * JSON prompt files: a list of objects, {"prompts": [...]}, or one object a line. A list of plain
 * strings is a list of prompts.
 */
#include "table.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static ca_status set_cell(table *t, const char *place, const char *name, const json_t *value,
                          cell *out) {
    ca_status st = CA_OK;
    char *copy;
    switch (json_typeof(value)) {
    case JSON_NULL:
        return CA_OK;
    case JSON_STRING:
        out->kind = CELL_TEXT;
        if (strlen(json_string_value(value)) != json_string_length(value))
            return ca_fail(CA_E_DATA, "%s: column %s: a zero character in the text", place, name);
        CA_TRY(
            ca_arena_strdup(t->arena, json_string_value(value), json_string_length(value), &copy));
        out->text = copy;
        break;
    case JSON_INTEGER:
        out->kind = CELL_INT;
        out->integer = json_integer_value(value);
        CA_TRY(ca_arena_printf(t->arena, &copy, "%lld", (long long)out->integer));
        out->text = copy;
        break;
    case JSON_ARRAY:
        out->kind = CELL_LIST;
        out->text = "a list";
        out->count = (int64_t)json_array_size(value);
        CA_TRY(
            ca_arena_alloc(t->arena, (size_t)(out->count + 1) * sizeof *out->items, &out->items));
        for (int64_t i = 0; i < out->count; i++) {
            const json_t *item = json_array_get(value, (size_t)i);
            if (json_is_array(item))
                return ca_fail(CA_E_DATA, "%s: column %s: a list inside a list", place, name);
            CA_TRY(set_cell(t, place, name, item, &out->items[i]));
        }
        break;
    default: {
        char *dumped = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
        if (!dumped) return ca_fail(CA_E_MEMORY, "%s: no memory for a value", place);
        out->kind = CELL_OTHER;
        st = ca_arena_strdup(t->arena, dumped, strlen(dumped), &copy);
        free(dumped);
        out->text = copy;
    }
    }
out:
    return st;
}

static ca_status add_object(table *t, const char *place, json_t *object, int64_t line) {
    ca_status st = CA_OK;
    const char *name;
    json_t *value;
    int64_t index;
    CA_TRY(ca_table_add_row(t, line));
    if (json_is_string(object)) {
        CA_TRY(ca_table_column(t, "clean", 5, &index));
        return set_cell(t, place, "clean", object, &t->cells[index][t->rows - 1]);
    }
    if (!json_is_object(object))
        return ca_fail(CA_E_DATA, "%s: expected an object or a text", place);
    json_object_foreach(object, name, value) {
        CA_TRY(ca_table_column(t, name, strlen(name), &index));
        CA_TRY(set_cell(t, place, name, value, &t->cells[index][t->rows - 1]));
    }
out:
    return st;
}

ca_status ca_table_parse_json(const char *path, const char *text, size_t size, table *t) {
    ca_status st = CA_OK;
    json_error_t error;
    char place[512];
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        return ca_fail(CA_E_DATA, "%s: line %d, column %d: %s", path, error.line, error.column,
                       error.text);
    json_t *list = json_is_object(root) ? json_object_get(root, "prompts") : root;
    if (!json_is_array(list)) {
        st = ca_fail(CA_E_DATA, "%s: expected a list of rows or {\"prompts\": [rows]}", path);
        goto out;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        snprintf(place, sizeof place, "%s: row %zu", path, i + 1);
        CA_TRY(add_object(t, place, json_array_get(list, i), 0));
    }
out:
    json_decref(root);
    return st;
}

ca_status ca_table_parse_jsonl(const char *path, const char *text, size_t size, table *t) {
    ca_status st = CA_OK;
    int64_t line = 0;
    char place[512];
    const char *end = text + size;
    for (const char *p = text; p < end;) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        size_t length = (size_t)((stop ? stop : end) - p);
        line++;
        if (strspn(p, " \t\r") < length) {
            json_error_t error;
            json_t *object =
                json_loadb(p, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
            if (!object)
                return ca_fail(CA_E_DATA, "%s: line %lld, column %d: %s", path, (long long)line,
                               error.column, error.text);
            snprintf(place, sizeof place, "%s: line %lld", path, (long long)line);
            st = add_object(t, place, object, line);
            json_decref(object);
            if (st != CA_OK) return st;
        }
        p += length + 1;
    }
    return st;
}
