/* SPDX-License-Identifier: MIT
 *
 * The mistakes found in a configuration: collected while reading, overriding and checking, and
 * reported together, so that a user mends a file once.
 */
#include "tree.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { PROBLEMS_KEPT = 100, EXCERPT_BYTES = 40 };

const char ca_command_line[] = "command line";

ca_place ca_node_place(const ca_node *node) {
    return (ca_place){node->file, node->line, node->column};
}

ca_place ca_key_place(const ca_node *node) {
    if (node->key_line == 0) return ca_node_place(node);
    return (ca_place){node->file, node->key_line, node->key_column};
}

ca_status ca_place_print(ca_place place, ca_string *out) {
    /* An override is found by its key; counting its columns helps nobody. */
    if (place.file == ca_command_line) return ca_string_printf(out, "%s", place.file);
    return ca_string_printf(out, "%s:%d:%d", place.file, place.line, place.column);
}

ca_status ca_problems_add(ca_problems *problems, ca_place place, const char *path,
                          const char *format, ...) {
    if (problems->count++ >= PROBLEMS_KEPT) return CA_OK;

    ca_status st = CA_OK;
    char *text = NULL;
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    const char *colon = path[0] != '\0' ? ": " : "";
    size_t head = strlen(path) + strlen(colon);
    int length = vsnprintf(NULL, 0, format, arguments);
    size_t size = head + (length > 0 ? (size_t)length : 0) + 1;
    CA_TRY(ca_arena_alloc(problems->arena, size, &text));
    snprintf(text, size, "%s%s", path, colon);
    vsnprintf(text + head, size - head, format, again);
    /* Keys and values of the user may hold line ends; a problem is one line. */
    for (char *c = text; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7F) *c = '?';

    CA_TRY(
        ca_grow(&problems->list, &problems->capacity, problems->kept + 1, sizeof *problems->list));
    problems->list[problems->kept] = (ca_problem){place, problems->kept, text};
    problems->kept++;
out:
    va_end(again);
    va_end(arguments);
    return st;
}

ca_status ca_problems_add_all(ca_problems *problems, const ca_problems *more) {
    ca_status st = CA_OK;
    for (int64_t i = 0; i < more->kept; i++)
        CA_TRY(ca_problems_add(problems, more->list[i].place, "", "%s", more->list[i].text));
    problems->count += more->count - more->kept;
out:
    return st;
}

static int compare_int(int64_t a, int64_t b) { return (a > b) - (a < b); }

/* The order in which a reader goes through the file; the command line comes last. */
static int compare_problems(const void *left, const void *right) {
    const ca_problem *a = left, *b = right;
    int order = compare_int(a->place.file == ca_command_line, b->place.file == ca_command_line);
    if (order == 0) order = compare_int(a->place.line, b->place.line);
    if (order == 0) order = compare_int(a->place.column, b->place.column);
    return order != 0 ? order : compare_int(a->order, b->order);
}

ca_status ca_problems_report(ca_problems *problems) {
    if (problems->count == 0) return CA_OK;
    ca_status st = CA_OK;
    ca_string lines = {0};
    qsort(problems->list, (size_t)problems->kept, sizeof *problems->list, compare_problems);
    for (int64_t i = 0; i < problems->kept; i++) {
        if (i > 0) CA_TRY(ca_string_append(&lines, "\n", 1));
        CA_TRY(ca_place_print(problems->list[i].place, &lines));
        CA_TRY(ca_string_printf(&lines, ": %s", problems->list[i].text));
    }
    if (problems->count > problems->kept)
        CA_TRY(ca_string_printf(&lines, "\n... and %" PRId64 " more",
                                problems->count - problems->kept));
    st = ca_fail(CA_E_CONFIG, "%s", lines.text);
out:
    ca_string_free(&lines);
    return st;
}

void ca_problems_free(ca_problems *problems) {
    free(problems->list);
    *problems = (ca_problems){0};
}

/* Bytes of `text` that are shown: all, or as many whole characters as fit the excerpt. */
static int excerpt_length(const char *text, size_t length) {
    if (length <= EXCERPT_BYTES) return (int)length;
    int cut = EXCERPT_BYTES;
    while (cut > 0 && ((unsigned char)text[cut] & 0xC0) == 0x80) cut--;
    return cut;
}

ca_status ca_node_describe(ca_arena *arena, const ca_node *node, char **out) {
    switch (node->kind) {
    case CA_NODE_NULL:
        return ca_arena_printf(arena, out, "null");
    case CA_NODE_LIST:
        return ca_arena_printf(arena, out, node->count > 0 ? "a list" : "an empty list");
    case CA_NODE_MAP:
        return ca_arena_printf(arena, out, node->count > 0 ? "a map" : "an empty map");
    case CA_NODE_SCALAR:
        break;
    }
    size_t length = strlen(node->text);
    int shown = excerpt_length(node->text, length);
    return ca_arena_printf(arena, out, "%s'%.*s%s'", node->quoted ? "the text " : "", shown,
                           node->text, (size_t)shown < length ? "..." : "");
}
