/* SPDX-License-Identifier: MIT
 *
 * The resolved configuration as YAML: what a result file stores and what repeats the run. In the
 * order of the tables, defaults written out, numbers in one spelling, so that equal configurations
 * have equal text and digest.
 */
#include "option.h"

#include <inttypes.h>
#include <string.h>

/* One scalar in the spelling of its option's type. */
static ca_status print_scalar(const ca_option *option, const ca_scalar *scalar, bool element,
                              ca_string *out) {
    if (scalar->is_word) return ca_string_printf(out, "%s", scalar->text);
    switch (option->type) {
    case CA_OPTION_INT:
    case CA_OPTION_INTS:
    case CA_OPTION_BYTES:
        return ca_string_printf(out, "%" PRId64, scalar->integer);
    case CA_OPTION_FLOAT:
    case CA_OPTION_FLOATS:
        return ca_float_print(scalar->number, out);
    case CA_OPTION_BOOL:
        return ca_string_printf(out, "%s", scalar->truth ? "true" : "false");
    default:
        break;
    }
    /* A text that equals a word was quoted to tell it from the word. */
    ca_scalar plain;
    ca_node node = {.kind = CA_NODE_SCALAR, .text = scalar->text};
    bool like_word = ca_option_read(option, &node, element, &plain) && plain.is_word;
    return ca_write_text(out, scalar->text, like_word);
}

static ca_status print_value(const ca_value *value, int indent, ca_string *out) {
    ca_status st = CA_OK;
    const ca_option *option = value->option;
    if (option->type == CA_OPTION_MAP || option->type == CA_OPTION_ANY)
        return ca_write_node(out, value->node, indent);
    CA_TRY(ca_string_append(out, " ", 1));
    if (!ca_option_is_list(option) || value->scalar.is_word) {
        CA_TRY(print_scalar(option, &value->scalar, false, out));
    } else {
        CA_TRY(ca_string_append(out, "[", 1));
        for (int64_t i = 0; i < value->count; i++) {
            if (i > 0) CA_TRY(ca_string_append(out, ", ", 2));
            CA_TRY(print_scalar(option, &value->items[i], true, out));
        }
        CA_TRY(ca_string_append(out, "]", 1));
    }
    CA_TRY(ca_string_append(out, "\n", 1));
out:
    return st;
}

/* Whether a path lies in the group whose name has `length` bytes with its final dot. */
static bool in_group(const char *path, const char *group, size_t length) {
    return strncmp(path, group, length) == 0;
}

/* Whether an earlier row has the same key on this level: the group was written there. */
static bool is_written(const ca_config *config, int64_t row, size_t length, size_t key_length) {
    const char *path = config->values[row].option->path;
    for (int64_t i = 0; i < row; i++) {
        if (config->values[i].node == NULL) continue;
        const char *earlier = config->values[i].option->path;
        if (in_group(earlier, path, length + key_length) && earlier[length + key_length] == '.')
            return true;
    }
    return false;
}

/* The rows below the group that is the first `length` bytes of `group`, final dot included. */
static ca_status print_group(const ca_config *config, const char *group, size_t length, int indent,
                             ca_string *out) {
    ca_status st = CA_OK;
    for (int64_t i = 0; i < config->count; i++) {
        const ca_value *value = &config->values[i];
        const char *path = value->option->path;
        if (value->node == NULL || !in_group(path, group, length)) continue;
        size_t key_length = ca_path_key_length(path + length);
        bool leaf = path[length + key_length] == '\0';
        if (!leaf && is_written(config, i, length, key_length)) continue;
        CA_TRY(ca_string_printf(out, "%*s%.*s:", indent, "", (int)key_length, path + length));
        if (leaf) {
            CA_TRY(print_value(value, indent, out));
            continue;
        }
        CA_TRY(ca_string_append(out, "\n", 1));
        CA_TRY(print_group(config, path, length + key_length + 1, indent + 2, out));
    }
out:
    return st;
}

ca_status ca_config_print(const ca_config *config, ca_string *out) {
    ca_status st = ca_string_append(out, "", 0);
    if (st == CA_OK) st = print_group(config, "", 0, 0, out);
    return st;
}
