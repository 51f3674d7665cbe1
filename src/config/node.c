/* SPDX-License-Identifier: MIT
 *
 * Finding, copying and changing nodes of a tree. Called by everything in src/config, and through
 * ca_node_find by the owners of CA_OPTION_ANY values.
 */
#include "tree.h"

#include <assert.h>
#include <string.h>

int64_t ca_map_index(const ca_node *map, const char *key) {
    if (map == NULL || map->kind != CA_NODE_MAP) return -1;
    for (int64_t i = 0; i < map->count; i++)
        if (strcmp(map->keys[i], key) == 0) return i;
    return -1;
}

const ca_node *ca_node_find(const ca_node *map, const char *key) {
    int64_t i = ca_map_index(map, key);
    return i >= 0 ? map->items[i] : NULL;
}

const ca_node *ca_node_at(const ca_node *root, const char *path) {
    char key[CA_YAML_MAX_KEY_BYTES + 1];
    const ca_node *node = root;
    while (node != NULL) {
        size_t length = strcspn(path, ".");
        if (length > CA_YAML_MAX_KEY_BYTES) return NULL;
        memcpy(key, path, length);
        key[length] = '\0';
        node = ca_node_find(node, key);
        if (path[length] == '\0') break;
        path += length + 1;
    }
    return node;
}

ca_status ca_node_copy(ca_arena *arena, const ca_node *from, const char *file, ca_node **out) {
    ca_status st = CA_OK;
    ca_node *node;
    CA_TRY(ca_arena_alloc(arena, sizeof *node, &node));
    *node = *from;
    if (from->file != ca_command_line) node->file = file;
    if (from->text != NULL) {
        char *text;
        CA_TRY(ca_arena_strdup(arena, from->text, strlen(from->text), &text));
        node->text = text;
    }
    if (from->count > 0) {
        CA_TRY(ca_arena_alloc(arena, (size_t)from->count * sizeof *node->items, &node->items));
        if (from->kind == CA_NODE_MAP)
            CA_TRY(ca_arena_alloc(arena, (size_t)from->count * sizeof *node->keys, &node->keys));
    }
    for (int64_t i = 0; i < from->count; i++) {
        CA_TRY(ca_node_copy(arena, from->items[i], file, &node->items[i]));
        if (from->kind != CA_NODE_MAP) continue;
        char *key;
        CA_TRY(ca_arena_strdup(arena, from->keys[i], strlen(from->keys[i]), &key));
        node->keys[i] = key;
    }
    *out = node;
out:
    return st;
}

ca_status ca_map_set(ca_arena *arena, ca_node *map, const char *key, ca_node *value) {
    assert(map->kind == CA_NODE_MAP);
    int64_t i = ca_map_index(map, key);
    if (i >= 0) {
        map->items[i] = value;
        return CA_OK;
    }
    ca_status st = CA_OK;
    const char **keys;
    ca_node **items;
    char *own_key;
    size_t count = (size_t)map->count;
    CA_TRY(ca_arena_alloc(arena, (count + 1) * sizeof *keys, &keys));
    CA_TRY(ca_arena_alloc(arena, (count + 1) * sizeof *items, &items));
    CA_TRY(ca_arena_strdup(arena, key, strlen(key), &own_key));
    if (count > 0) {
        memcpy(keys, map->keys, count * sizeof *keys);
        memcpy(items, map->items, count * sizeof *items);
    }
    keys[count] = own_key;
    items[count] = value;
    map->keys = keys;
    map->items = items;
    map->count++;
out:
    return st;
}

void ca_map_remove(ca_node *map, const char *key) {
    int64_t i = ca_map_index(map, key);
    if (i < 0) return;
    map->count--;
    size_t after = (size_t)(map->count - i);
    memmove(&map->keys[i], &map->keys[i + 1], after * sizeof *map->keys);
    memmove(&map->items[i], &map->items[i + 1], after * sizeof *map->items);
}

ca_status ca_tree_put(ca_arena *arena, ca_node *root, const char *path, ca_node *value,
                      const ca_node **blocked) {
    ca_status st = CA_OK;
    char key[CA_YAML_MAX_KEY_BYTES + 1];
    ca_node *map = root;
    *blocked = NULL;
    for (;;) {
        size_t length = strcspn(path, ".");
        assert(length > 0 && length <= CA_YAML_MAX_KEY_BYTES);
        memcpy(key, path, length);
        key[length] = '\0';
        if (path[length] == '\0') return ca_map_set(arena, map, key, value);

        int64_t i = ca_map_index(map, key);
        ca_node *next = i >= 0 ? map->items[i] : NULL;
        if (next == NULL || next->kind == CA_NODE_NULL) {
            CA_TRY(ca_node_create(arena, CA_NODE_MAP, ca_node_place(value), &next));
            next->key_line = value->key_line;
            next->key_column = value->key_column;
            CA_TRY(ca_map_set(arena, map, key, next));
        } else if (next->kind != CA_NODE_MAP) {
            *blocked = next;
            return CA_OK;
        }
        map = next;
        path += length + 1;
    }
out:
    return st;
}
