/* SPDX-License-Identifier: MIT
 *
 * "method.steps=10": values from the command line put into the tree before it is checked. They
 * win over the file: the override of a swept key takes the key out of the sweep.
 */
#include "tree.h"

#include <inttypes.h>
#include <string.h>

/* One plain scalar, with the blanks around it dropped. */
static ca_status plain_value(ca_arena *arena, ca_problems *problems, const char *text,
                             ca_place start, const char *path, ca_node **out) {
    ca_status st = CA_OK;
    size_t length = strlen(text);
    int64_t invalid = ca_utf8_invalid(text, length);
    if (invalid >= 0)
        return ca_problems_add(problems, start, path,
                               "expected UTF-8 text, got the byte 0x%02X at byte offset %" PRId64,
                               (unsigned char)text[invalid], invalid);
    while (length > 0 && text[length - 1] == ' ') length--;

    char *own;
    CA_TRY(ca_node_create(arena, CA_NODE_SCALAR, start, out));
    CA_TRY(ca_arena_strdup(arena, text, length, &own));
    (*out)->text = own;
    if (ca_scalar_null(own)) {
        (*out)->kind = CA_NODE_NULL;
        (*out)->text = "null";
    }
out:
    return st;
}

ca_status ca_value_parse(ca_arena *arena, ca_problems *problems, const char *text, ca_place start,
                         const char *path, int depth, ca_node **out) {
    *out = NULL;
    size_t blanks = strspn(text, " ");
    text += blanks;
    start.column += (int)blanks;
    if (text[0] == '\0' || strchr("[{'\"", text[0]) == NULL)
        return plain_value(arena, problems, text, start, path, out);

    ca_status st = ca_yaml_parse(arena, problems, text, strlen(text), start, path, depth, out);
    if (st == CA_E_CONFIG) return CA_OK; /* noted as a problem */
    if (st == CA_OK && (*out)->kind == CA_NODE_MAP && text[0] != '{') {
        *out = NULL;
        return ca_problems_add(problems, start, path,
                               "expected a value in YAML flow style, got a map without braces");
    }
    return st;
}

/* Number of keys in "a.b.c", or 0 when the path is malformed. */
static int count_keys(const char *path) {
    if (ca_utf8_invalid(path, strlen(path)) >= 0) return 0;
    int count = 0;
    for (;;) {
        size_t length = strcspn(path, ".");
        if (length == 0 || length > CA_YAML_MAX_KEY_BYTES || count == CA_YAML_MAX_DEPTH) return 0;
        count++;
        if (path[length] == '\0') return count;
        path += length + 1;
    }
}

/* Takes the keys at and below `path` out of the sweep. */
static void drop_swept(ca_node *root, const char *path) {
    int64_t at = ca_map_index(root, "sweep");
    if (at < 0 || root->items[at]->kind != CA_NODE_MAP) return;
    ca_node *sweep = root->items[at];
    size_t length = strlen(path);
    for (int64_t i = sweep->count - 1; i >= 0; i--) {
        const char *key = sweep->keys[i];
        if (strncmp(key, path, length) != 0) continue;
        if (key[length] == '\0' || key[length] == '.') ca_map_remove(sweep, key);
    }
}

/* sweep.method.steps=[1, 2]: the swept key is one key, dots and all. */
static ca_status put_sweep(ca_arena *arena, ca_node *root, const char *path, ca_node *value,
                           const ca_node **blocked) {
    ca_status st = CA_OK;
    int64_t at = ca_map_index(root, "sweep");
    ca_node *sweep = at >= 0 ? root->items[at] : NULL;
    *blocked = NULL;
    if (sweep == NULL || sweep->kind == CA_NODE_NULL) {
        CA_TRY(ca_node_create(arena, CA_NODE_MAP, ca_node_place(value), &sweep));
        CA_TRY(ca_map_set(arena, root, "sweep", sweep));
    }
    if (sweep->kind != CA_NODE_MAP)
        *blocked = sweep;
    else
        st = ca_map_set(arena, sweep, path, value);
out:
    return st;
}

ca_status ca_override_apply(ca_arena *arena, ca_problems *problems, const char *text, int64_t index,
                            ca_node *root) {
    ca_status st = CA_OK;
    const char *equals = strchr(text, '=');
    size_t length = equals != NULL ? (size_t)(equals - text) : 0;
    ca_place place = {ca_command_line, (int)index + 1, 1};
    ca_place value_place = {ca_command_line, place.line, (int)length + 2};
    char *path, *shown;
    ca_node *value;
    CA_TRY(ca_arena_strdup(arena, text, length, &path));
    int keys = count_keys(path);
    if (keys == 0) {
        ca_node whole = {.kind = CA_NODE_SCALAR, .text = text};
        if (ca_utf8_invalid(text, strlen(text)) >= 0) whole.text = "bytes that are no UTF-8";
        CA_TRY(ca_node_describe(arena, &whole, &shown));
        return ca_problems_add(problems, place, "",
                               "expected key=value such as method.steps=10, got %s", shown);
    }
    CA_TRY(ca_value_parse(arena, problems, equals + 1, value_place, path, keys, &value));
    if (value == NULL) goto out;
    value->key_line = place.line;
    value->key_column = place.column;

    const ca_node *blocked;
    if (strncmp(path, "sweep.", 6) == 0) {
        CA_TRY(put_sweep(arena, root, path + 6, value, &blocked));
    } else {
        drop_swept(root, path);
        CA_TRY(ca_tree_put(arena, root, path, value, &blocked));
    }
    if (blocked == NULL) goto out;
    CA_TRY(ca_node_describe(arena, blocked, &shown));
    CA_TRY(ca_problems_add(problems, place, path,
                           "expected a key inside a map, got one inside %s%s", shown,
                           blocked->kind == CA_NODE_LIST ? "; give the whole list" : ""));
out:
    return st;
}
