/* SPDX-License-Identifier: MIT
 *
 * Lists of components as tokenizer.json nests them, and the JSON fields that several types share.
 * Called while a tokenizer is opened. To support another type, add a row to the table of its
 * stage (normalizer.c, pretokenizer.c, postprocessor.c, decoder.c) and the function it names.
 */
#include "pipeline.h"

#include <stdlib.h>
#include <string.h>

const char *ca_tok_json_type_name(json_type type) {
    switch (type) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "true or false";
    case JSON_NULL:
        break;
    }
    return "null";
}

ca_status ca_tok_json_find(json_t *object, const char *key, json_type type, json_t **out) {
    *out = NULL;
    if (!json_is_object(object))
        return ca_fail(CA_E_MODEL, "expected an object with '%s', got %s", key,
                       object == NULL ? "nothing" : ca_tok_json_type_name(json_typeof(object)));
    json_t *value = json_object_get(object, key);
    if (value == NULL || json_is_null(value)) return CA_OK;
    if (json_typeof(value) != type)
        return ca_fail(CA_E_MODEL, "%s: expected %s, got %s", key, ca_tok_json_type_name(type),
                       ca_tok_json_type_name(json_typeof(value)));
    *out = value;
    return CA_OK;
}

ca_status ca_tok_json_get(json_t *object, const char *key, json_type type, json_t **out) {
    ca_status st = ca_tok_json_find(object, key, type, out);
    if (st == CA_OK && *out == NULL)
        return ca_fail(CA_E_MODEL, "%s: expected %s, got nothing", key,
                       ca_tok_json_type_name(type));
    return st;
}

ca_status ca_tok_json_bool(json_t *object, const char *key, bool otherwise, bool *out) {
    json_t *value = json_object_get(object, key);
    *out = otherwise;
    if (value == NULL || json_is_null(value)) return CA_OK;
    if (!json_is_boolean(value))
        return ca_fail(CA_E_MODEL, "%s: expected true or false, got %s", key,
                       ca_tok_json_type_name(json_typeof(value)));
    *out = json_is_true(value);
    return CA_OK;
}

ca_status ca_tok_json_count(json_t *object, const char *key, int64_t *out) {
    ca_status st = CA_OK;
    json_t *value;
    *out = 0;
    CA_TRY(ca_tok_json_get(object, key, JSON_INTEGER, &value));
    *out = json_integer_value(value);
    if (*out < 0)
        CA_TRY(ca_fail(CA_E_MODEL, "%s: expected a number of at least 0, got %lld", key,
                       (long long)*out));
out:
    return st;
}

ca_status ca_tok_json_parse(const char *text, size_t size, json_t **out) {
    json_error_t error;
    *out = json_loadb(text, size, 0, &error);
    if (*out == NULL)
        return ca_fail(CA_E_MODEL, "line %d, column %d: expected valid JSON, got '%s'", error.line,
                       error.column, error.text);
    return CA_OK;
}

ca_status ca_tok_pattern_read(json_t *json, ca_tok_pattern **out) {
    ca_status st = CA_OK;
    json_t *pattern, *text;
    *out = NULL;
    CA_TRY(ca_tok_json_get(json, "pattern", JSON_OBJECT, &pattern));
    bool literal = json_object_get(pattern, "String") != NULL;
    CA_TRY(ca_tok_json_get(pattern, literal ? "String" : "Regex", JSON_STRING, &text));
    CA_TRY(ca_tok_pattern_compile(json_string_value(text), json_string_length(text), literal, out));
out:
    return st;
}

/* "A, B, Sequence" */
static ca_status list_types(const ca_tok_stage *stage, ca_string *out) {
    ca_status st = CA_OK;
    for (size_t i = 0; i < stage->row_count; i++)
        CA_TRY(ca_string_printf(out, "%s, ", stage->rows[i].type));
    CA_TRY(ca_string_printf(out, "Sequence"));
out:
    return st;
}

static ca_status fail_type(const ca_tok_stage *stage, const char *type) {
    ca_status st = CA_OK;
    ca_string types = {0};
    CA_TRY(list_types(stage, &types));
    CA_TRY(ca_fail(CA_E_MODEL, "expected a type that is supported (%s), got '%.80s'", types.text,
                   type));
out:
    ca_string_free(&types);
    return st;
}

static ca_status read_one(ca_tokenizer *t, const ca_tok_row *row, json_t *json,
                          ca_tok_components *list) {
    ca_status st = CA_OK;
    CA_TRY(ca_grow(&list->at, &list->capacity, list->count + 1, sizeof *list->at));
    ca_tok_component *c = &list->at[list->count++]; /* counted first: its pattern is freed */
    *c = (ca_tok_component){.type = row->type};
    st = row->read(t, json, c);
    if (st != CA_OK) st = ca_context(st, "%s", row->type);
out:
    return st;
}

static ca_status read_nested(ca_tokenizer *t, const ca_tok_stage *stage, json_t *json,
                             ca_tok_components *list) {
    ca_status st = CA_OK;
    json_t *type, *members;
    CA_TRY(ca_tok_json_get(json, "type", JSON_STRING, &type));
    const char *name = json_string_value(type);
    if (strcmp(name, "Sequence") == 0) {
        CA_TRY(ca_tok_json_get(json, stage->members, JSON_ARRAY, &members));
        for (size_t i = 0; i < json_array_size(members); i++)
            CA_TRY(read_nested(t, stage, json_array_get(members, i), list));
        return CA_OK;
    }
    for (size_t i = 0; i < stage->row_count; i++) {
        if (strcmp(name, stage->rows[i].type) == 0) return read_one(t, &stage->rows[i], json, list);
    }
    CA_TRY(fail_type(stage, name));
out:
    return st;
}

ca_status ca_tok_components_read(ca_tokenizer *t, const ca_tok_stage *stage, json_t *json,
                                 ca_tok_components *list) {
    if (json == NULL || json_is_null(json)) return CA_OK;
    ca_status st = read_nested(t, stage, json, list);
    return st == CA_OK ? st : ca_context(st, "%s", stage->name);
}

void ca_tok_components_free(ca_tok_components *list) {
    for (int64_t i = 0; i < list->count; i++) ca_tok_pattern_free(list->at[i].pattern);
    free(list->at);
    *list = (ca_tok_components){0};
}
