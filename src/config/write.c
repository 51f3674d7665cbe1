/* SPDX-License-Identifier: MIT
 *
 * YAML text of scalars and trees, such that this program reads the same values from it, and other
 * readers, YAML 1.1 ones too, take texts for texts.
 */
#include "tree.h"

#include <string.h>

/* ---- scalars ----------------------------------------------------------------------------- */

/* Whether the plain text keeps its meaning behind a key and inside brackets. Stricter than YAML:
 * only letters, digits and a few marks, single blanks inside. */
static bool is_safe_plain(const char *text) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    static const char marks[] = "0123456789_./+-@^()=$:|*";
    if (text[0] == '\0' || text[0] == ':' || text[0] == '|' || text[0] == '*' || text[0] == '@' ||
        text[0] == '=')
        return false;
    for (const char *c = text; *c != '\0'; c++) {
        bool blank = *c == ' ';
        if (blank && (c == text || c[1] == ' ' || c[1] == '\0')) return false;
        if (*c == ':' && (c[1] == ' ' || c[1] == '\0')) return false;
        if (!blank && strchr(letters, *c) == NULL && strchr(marks, *c) == NULL) return false;
    }
    /* "- a" is a list, "---" begins a document. */
    return text[0] != '-' || (text[1] != '\0' && text[1] != ' ' && text[1] != '-');
}

/* Decodes one character of well-formed UTF-8; returns its length. */
static int decode(const char *text, uint32_t *point) {
    const unsigned char *b = (const unsigned char *)text;
    int length = b[0] < 0x80 ? 1 : b[0] < 0xE0 ? 2 : b[0] < 0xF0 ? 3 : 4;
    *point = length == 1 ? b[0] : (uint32_t)b[0] & (0xFFu >> (length + 1));
    for (int i = 1; i < length; i++) *point = *point << 6 | (b[i] & 0x3Fu);
    return length;
}

/* Characters that YAML readers refuse or fold when they stand for themselves. */
static bool must_escape(uint32_t point) {
    if (point < 0x20 || (point >= 0x7F && point < 0xA0)) return true;
    if (point == 0x2028 || point == 0x2029 || point == 0xFEFF) return true;
    return point == 0xFFFE || point == 0xFFFF;
}

static ca_status write_quoted(ca_string *out, const char *text) {
    ca_status st = CA_OK;
    CA_TRY(ca_string_append(out, "\"", 1));
    while (*text != '\0') {
        uint32_t point;
        int length = decode(text, &point);
        if (point == '"' || point == '\\')
            CA_TRY(ca_string_printf(out, "\\%c", (char)point));
        else if (point == '\n')
            CA_TRY(ca_string_append(out, "\\n", 2));
        else if (must_escape(point))
            CA_TRY(ca_string_printf(out, point < 0x100 ? "\\x%02X" : "\\u%04X", point));
        else
            CA_TRY(ca_string_append(out, text, (size_t)length));
        text += length;
    }
    CA_TRY(ca_string_append(out, "\"", 1));
out:
    return st;
}

ca_status ca_write_text(ca_string *out, const char *text, bool always_quote) {
    if (always_quote || ca_scalar_ambiguous(text) || !is_safe_plain(text))
        return write_quoted(out, text);
    return ca_string_append(out, text, strlen(text));
}

static ca_status write_scalar(ca_string *out, const ca_node *node) {
    if (node->kind == CA_NODE_NULL) return ca_string_append(out, "null", 4);
    if (node->quoted || !is_safe_plain(node->text)) return write_quoted(out, node->text);
    return ca_string_append(out, node->text, strlen(node->text));
}

/* ---- trees ------------------------------------------------------------------------------- */

static bool is_flat(const ca_node *node) {
    if (node->kind == CA_NODE_MAP) return node->count == 0;
    if (node->kind != CA_NODE_LIST) return true;
    for (int64_t i = 0; i < node->count; i++)
        if (node->items[i]->kind == CA_NODE_LIST || node->items[i]->kind == CA_NODE_MAP)
            return false;
    return true;
}

/* A scalar, an empty map or a list of scalars, on one line. */
static ca_status write_flat(ca_string *out, const ca_node *node) {
    if (node->kind == CA_NODE_MAP) return ca_string_append(out, "{}", 2);
    if (node->kind != CA_NODE_LIST) return write_scalar(out, node);
    ca_status st = CA_OK;
    CA_TRY(ca_string_append(out, "[", 1));
    for (int64_t i = 0; i < node->count; i++) {
        if (i > 0) CA_TRY(ca_string_append(out, ", ", 2));
        CA_TRY(write_scalar(out, node->items[i]));
    }
    CA_TRY(ca_string_append(out, "]", 1));
out:
    return st;
}

/* The pairs of a map; the first follows what already stands on its line when `inline_first`. */
static ca_status write_pairs(ca_string *out, const ca_node *map, int indent, bool inline_first) {
    ca_status st = CA_OK;
    for (int64_t i = 0; i < map->count; i++) {
        CA_TRY(ca_string_printf(out, "%*s", i == 0 && inline_first ? 0 : indent, ""));
        CA_TRY(ca_write_text(out, map->keys[i], false));
        CA_TRY(ca_string_append(out, ":", 1));
        CA_TRY(ca_write_node(out, map->items[i], indent));
    }
out:
    return st;
}

ca_status ca_write_node(ca_string *out, const ca_node *node, int indent) {
    ca_status st = CA_OK;
    if (is_flat(node)) {
        CA_TRY(ca_string_append(out, " ", 1));
        CA_TRY(write_flat(out, node));
        return ca_string_append(out, "\n", 1);
    }
    CA_TRY(ca_string_append(out, "\n", 1));
    if (node->kind == CA_NODE_MAP) return write_pairs(out, node, indent + 2, false);
    for (int64_t i = 0; i < node->count; i++) {
        const ca_node *item = node->items[i];
        CA_TRY(ca_string_printf(out, "%*s-", indent + 2, ""));
        if (item->kind == CA_NODE_MAP && item->count > 0) {
            CA_TRY(ca_string_append(out, " ", 1));
            CA_TRY(write_pairs(out, item, indent + 4, true));
        } else {
            CA_TRY(ca_write_node(out, item, indent + 2));
        }
    }
out:
    return st;
}
