/* SPDX-License-Identifier: MIT
 *
 * ca_config_resolve: a document, with the values of one sweep point, against the tables of options.
 * Every key must be known, every value must fit its row, every required option must be there;
 * all that is wrong is reported at once.
 */
#include "option.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { NAMES_LISTED = 16 };

typedef struct ca_resolver {
    const ca_document *document;
    ca_config *config; /* under construction */
    ca_arena *arena;   /* of the config */
    ca_problems problems;
    bool silent; /* the value is checked elsewhere */
} ca_resolver;

static ca_value *find_value(const ca_resolver *r, const char *path) {
    for (int64_t i = 0; i < r->config->count; i++)
        if (strcmp(r->config->values[i].option->path, path) == 0) return &r->config->values[i];
    return NULL;
}

/* Whether options live below `path`. */
static bool is_group(const ca_resolver *r, const char *path) {
    size_t length = strlen(path);
    for (int64_t i = 0; i < r->config->count; i++) {
        const char *known = r->config->values[i].option->path;
        if (strncmp(known, path, length) == 0 && known[length] == '.') return true;
    }
    return false;
}

/* ---- values ------------------------------------------------------------------------------ */

/* "expected WHAT THE OPTION ACCEPTS, got NODE", with the nearest choice. */
static ca_status wrong_value(ca_resolver *r, const ca_option *option, const ca_node *node,
                             bool element, const char *path) {
    if (r->silent) return CA_OK;
    ca_status st = CA_OK;
    ca_string expected = {0};
    const char *nearest = NULL;
    char *got;
    CA_TRY(ca_option_expected(option, element, &expected));
    CA_TRY(ca_node_describe(r->arena, node, &got));
    if (node->kind == CA_NODE_SCALAR)
        CA_TRY(ca_option_nearest(r->arena, option, node->text, &nearest));
    CA_TRY(ca_problems_add(&r->problems, ca_node_place(node), path, "expected %s, got %s%s%s%s",
                           expected.text, got, nearest != NULL ? "; did you mean '" : "",
                           nearest != NULL ? nearest : "", nearest != NULL ? "'?" : ""));
out:
    ca_string_free(&expected);
    return st;
}

static ca_status check_list(ca_resolver *r, const ca_node *node, const char *path,
                            ca_value *value) {
    ca_status st = CA_OK;
    const ca_option *option = value->option;
    if (node->kind == CA_NODE_SCALAR) {
        ca_scalar scalar;
        if (!ca_option_read(option, node, false, &scalar))
            return wrong_value(r, option, node, false, path);
        value->scalar = scalar;
        if (scalar.is_word) return CA_OK;
        value->count = 1;
        CA_TRY(ca_arena_alloc(r->arena, sizeof *value->items, &value->items));
        value->items[0] = scalar;
        return CA_OK;
    }
    if (node->kind != CA_NODE_LIST) return wrong_value(r, option, node, false, path);

    value->count = node->count;
    CA_TRY(ca_arena_alloc(r->arena, (size_t)node->count * sizeof *value->items, &value->items));
    for (int64_t i = 0; i < node->count; i++) {
        if (ca_option_read(option, node->items[i], true, &value->items[i])) continue;
        char *element_path;
        CA_TRY(ca_arena_printf(r->arena, &element_path, "%s[%" PRId64 "]", path, i));
        CA_TRY(wrong_value(r, option, node->items[i], true, element_path));
    }
out:
    return st;
}

static ca_status check_text_map(ca_resolver *r, const ca_node *node, const char *path,
                                const ca_option *option) {
    if (node->kind != CA_NODE_MAP) return wrong_value(r, option, node, false, path);
    ca_status st = CA_OK;
    for (int64_t i = 0; i < node->count; i++) {
        const ca_node *item = node->items[i];
        if (item->kind == CA_NODE_SCALAR) continue;
        char *item_path, *got;
        CA_TRY(ca_arena_printf(r->arena, &item_path, "%s.%s", path, node->keys[i]));
        CA_TRY(ca_node_describe(r->arena, item, &got));
        CA_TRY(ca_problems_add(&r->problems, ca_node_place(item), item_path,
                               "expected text, got %s", got));
    }
out:
    return st;
}

/* Reads `node` into a value. Null stands for an absent optional value. */
static ca_status check_value(ca_resolver *r, const ca_node *node, const char *path,
                             ca_value *value) {
    const ca_option *option = value->option;
    value->place = node;
    bool optional = option->fallback != NULL && option->fallback[0] == '\0';
    if (node->kind == CA_NODE_NULL && optional) return CA_OK;
    value->node = node;
    if (node->kind == CA_NODE_NULL) return wrong_value(r, option, node, false, path);
    if (option->type == CA_OPTION_ANY) return CA_OK;
    if (option->type == CA_OPTION_MAP) return check_text_map(r, node, path, option);
    if (ca_option_is_list(option)) return check_list(r, node, path, value);
    if (ca_option_read(option, node, false, &value->scalar)) return CA_OK;
    return wrong_value(r, option, node, false, path);
}

/* ---- keys -------------------------------------------------------------------------------- */

/* The names that may stand below `prefix`, each once. */
static ca_status list_names(const ca_resolver *r, const char *prefix, const char ***names,
                            int64_t *count) {
    ca_status st = CA_OK;
    size_t length = strlen(prefix);
    *count = 0;
    CA_TRY(ca_arena_alloc(r->arena, (size_t)(r->config->count + 1) * sizeof **names, names));
    for (int64_t i = 0; i < r->config->count; i++) {
        const char *path = r->config->values[i].option->path;
        if (length > 0) {
            if (strncmp(path, prefix, length) != 0 || path[length] != '.') continue;
            path += length + 1;
        }
        char *name;
        CA_TRY(ca_arena_strdup(r->arena, path, ca_path_key_length(path), &name));
        bool known = false;
        for (int64_t k = 0; k < *count && !known; k++) known = strcmp((*names)[k], name) == 0;
        if (!known) (*names)[(*count)++] = name;
    }
    if (length == 0) (*names)[(*count)++] = "sweep";
out:
    return st;
}

/* The path of an option with this last key, for keys that stand on a wrong level. */
static const char *find_last_key(const ca_resolver *r, const char *key) {
    for (int64_t i = 0; i < r->config->count; i++) {
        const char *path = r->config->values[i].option->path;
        const char *dot = strrchr(path, '.');
        if (dot != NULL && strcmp(dot + 1, key) == 0) return path;
    }
    return NULL;
}

static ca_status unknown_key(ca_resolver *r, ca_place place, const char *prefix, const char *key,
                             const char *path) {
    ca_status st = CA_OK;
    ca_string listed = {0};
    const char **names;
    int64_t count;
    CA_TRY(list_names(r, prefix, &names, &count));
    const char *nearest = ca_nearest_name(key, names, count);
    if (nearest == NULL) nearest = find_last_key(r, key);
    if (nearest != NULL || count > NAMES_LISTED) {
        CA_TRY(ca_problems_add(&r->problems, place, path, "expected a known key, got '%s'%s%s%s",
                               key, nearest != NULL ? "; did you mean '" : "",
                               nearest != NULL ? nearest : "", nearest != NULL ? "'?" : ""));
        goto out;
    }
    for (int64_t i = 0; i < count; i++)
        CA_TRY(ca_string_printf(&listed, "%s%s", i > 0 ? ", " : "", names[i]));
    CA_TRY(ca_problems_add(&r->problems, place, path, "expected one of the keys %s, got '%s'",
                           listed.text, key));
out:
    ca_string_free(&listed);
    return st;
}

static bool is_swept(const ca_resolver *r, const char *path) {
    for (int64_t i = 0; i < r->document->sweep.count; i++)
        if (strcmp(r->document->sweep.axes[i].path, path) == 0) return true;
    return false;
}

static ca_status check_map(ca_resolver *r, const ca_node *map, const char *prefix);

static ca_status check_pair(ca_resolver *r, const char *prefix, const char *key,
                            const ca_node *node) {
    ca_status st = CA_OK;
    char *path, *got;
    CA_TRY(ca_arena_printf(r->arena, &path, "%s%s%s", prefix, prefix[0] != '\0' ? "." : "", key));
    if (strchr(key, '.') != NULL)
        return ca_problems_add(&r->problems, ca_key_place(node), path,
                               "expected one map inside the other, got a key with dots");
    ca_value *value = find_value(r, path);
    if (value != NULL) {
        r->silent = is_swept(r, path);
        st = check_value(r, node, path, value);
        r->silent = false;
        return st;
    }
    if (!is_group(r, path)) return unknown_key(r, ca_key_place(node), prefix, key, path);
    if (node->kind == CA_NODE_MAP) return check_map(r, node, path);
    if (node->kind == CA_NODE_NULL) return CA_OK;
    CA_TRY(ca_node_describe(r->arena, node, &got));
    CA_TRY(ca_problems_add(&r->problems, ca_node_place(node), path, "expected a map, got %s", got));
out:
    return st;
}

static ca_status check_map(ca_resolver *r, const ca_node *map, const char *prefix) {
    for (int64_t i = 0; i < map->count; i++) {
        if (prefix[0] == '\0' && strcmp(map->keys[i], "sweep") == 0) continue;
        ca_status st = check_pair(r, prefix, map->keys[i], map->items[i]);
        if (st != CA_OK) return st;
    }
    return CA_OK;
}

/* ---- options that are not in the document ------------------------------------------------ */

/* The nearest map on the way to `path`. *open is false when something else is in the way. */
static const ca_node *nearest_map(const ca_node *root, const char *path, int *depth, bool *open) {
    char key[CA_YAML_MAX_KEY_BYTES + 1];
    const ca_node *map = root;
    *open = true;
    *depth = 1;
    bool missing = false;
    for (const char *dot; (dot = strchr(path, '.')) != NULL; path = dot + 1) {
        snprintf(key, sizeof key, "%.*s", (int)(dot - path), path);
        const ca_node *next = missing ? NULL : ca_node_find(map, key);
        (*depth)++;
        if (next == NULL || next->kind == CA_NODE_NULL)
            missing = true;
        else if (next->kind == CA_NODE_MAP)
            map = next;
        else
            *open = false;
        if (!*open) break;
    }
    return map;
}

/* Whether the document has the map that the option stands in. */
static bool has_section(const ca_node *root, const char *path) {
    char key[CA_YAML_MAX_KEY_BYTES + 1];
    const ca_node *map = root;
    for (const char *dot; map != NULL && (dot = strchr(path, '.')) != NULL; path = dot + 1) {
        snprintf(key, sizeof key, "%.*s", (int)(dot - path), path);
        map = map->kind == CA_NODE_MAP ? ca_node_find(map, key) : NULL;
    }
    return map != NULL && map->kind == CA_NODE_MAP;
}

static ca_status fill_in(ca_resolver *r, ca_value *value) {
    ca_status st = CA_OK;
    const ca_option *option = value->option;
    if (value->place != NULL) return CA_OK; /* the document has it */
    bool open;
    int depth;
    const ca_node *map = nearest_map(r->config->root, option->path, &depth, &open);
    value->place = map;
    if (!open) return CA_OK; /* already reported */

    if (option->fallback == NULL) {
        ca_string expected = {0};
        st = ca_option_expected(option, false, &expected);
        if (st == CA_OK)
            st = ca_problems_add(&r->problems, ca_key_place(map), option->path,
                                 "expected %s (required), got nothing", expected.text);
        ca_string_free(&expected);
        return st;
    }
    const char *fallback = option->fallback;
    if (fallback[0] == '?')
        fallback = has_section(r->config->root, option->path) ? fallback + 1 : "";
    if (fallback[0] == '\0') return CA_OK;
    ca_node *node;
    CA_TRY(ca_value_parse(r->arena, &r->problems, fallback, ca_key_place(map), option->path, depth,
                          &node));
    if (node != NULL) CA_TRY(check_value(r, node, option->path, value));
out:
    return st;
}

/* ---- sweep ------------------------------------------------------------------------------- */

/* Every value of a swept key against the option's row. */
static ca_status check_axis(ca_resolver *r, const ca_sweep_axis *axis) {
    ca_status st = CA_OK;
    char *path;
    CA_TRY(ca_arena_printf(r->arena, &path, "sweep.%s", axis->path));
    const ca_value *known = find_value(r, axis->path);
    ca_place place = ca_key_place(axis->list);
    if (known == NULL && !is_group(r, axis->path)) {
        /* Against the names next to it: "method.stpes" is a typing error in "steps". */
        const char *dot = strrchr(axis->path, '.');
        size_t length = dot != NULL ? (size_t)(dot - axis->path) : 0;
        char *prefix;
        CA_TRY(ca_arena_strdup(r->arena, axis->path, length, &prefix));
        if (length == 0 || is_group(r, prefix))
            return unknown_key(r, place, prefix, dot != NULL ? dot + 1 : axis->path, path);
        return unknown_key(r, place, "", axis->path, path);
    }
    if (known == NULL || !ca_option_takes_scalar(known->option))
        return ca_problems_add(&r->problems, place, path,
                               "expected the key of a single value, got that of a %s",
                               known != NULL && ca_option_is_list(known->option) ? "list" : "map");
    for (int64_t i = 0; i < axis->list->count; i++) {
        ca_value scratch = {.option = known->option};
        CA_TRY(check_value(r, axis->list->items[i], path, &scratch));
    }
out:
    return st;
}

/* Puts the values of one point into the config's tree. */
static ca_status put_point(ca_resolver *r, int64_t point) {
    ca_status st = CA_OK;
    for (int64_t i = 0; i < r->document->sweep.count; i++) {
        const ca_sweep_axis *axis = &r->document->sweep.axes[i];
        const ca_value *known = find_value(r, axis->path);
        if (known == NULL || !ca_option_takes_scalar(known->option)) continue;
        ca_node *value;
        const ca_node *blocked; /* reported when the maps are checked */
        CA_TRY(ca_node_copy(r->arena, ca_sweep_value(axis, point), r->config->file, &value));
        CA_TRY(ca_tree_put(r->arena, r->config->root, axis->path, value, &blocked));
    }
out:
    return st;
}

/* ---- resolve ----------------------------------------------------------------------------- */

static ca_status list_options(ca_resolver *r, const ca_option *const *tables) {
    ca_status st = CA_OK;
    ca_config *config = r->config;
    int64_t total = 0;
    for (int64_t t = 0; tables[t] != NULL; t++)
        for (const ca_option *o = tables[t]; o->path != NULL; o++) total++;
    CA_TRY(ca_arena_alloc(r->arena, (size_t)total * sizeof *config->values, &config->values));
    for (int64_t t = 0; tables[t] != NULL; t++)
        for (const ca_option *o = tables[t]; o->path != NULL; o++) {
            if (find_value(r, o->path) == NULL) config->values[config->count++].option = o;
        }
out:
    return st;
}

static ca_status check_document(ca_resolver *r) {
    ca_status st = CA_OK;
    CA_TRY(check_map(r, r->config->root, ""));
    for (int64_t i = 0; i < r->config->count; i++) CA_TRY(fill_in(r, &r->config->values[i]));
    for (int64_t i = 0; i < r->document->sweep.count; i++)
        CA_TRY(check_axis(r, &r->document->sweep.axes[i]));
    CA_TRY(ca_problems_report(&r->problems));
out:
    return st;
}

/* Keeps the resolved text in the config, and its digest. */
static ca_status keep_text(ca_config *config) {
    ca_status st = CA_OK;
    ca_string text = {0};
    ca_sha256 *digest;
    char *own;
    CA_TRY(ca_config_print(config, &text));
    CA_TRY(ca_arena_strdup(config->arena, text.text, text.length, &own));
    config->yaml = own;
    CA_TRY(ca_sha256_create(&digest));
    ca_sha256_add(digest, text.text, text.length);
    ca_sha256_finish(digest, config->sha256);
out:
    ca_string_free(&text);
    return st;
}

static ca_status resolve(ca_resolver *r, int64_t point, const ca_option *const *tables) {
    ca_status st = CA_OK;
    ca_config *config = r->config;
    char *file;
    CA_TRY(ca_arena_create(&config->arena));
    r->arena = r->problems.arena = config->arena;
    CA_TRY(ca_arena_strdup(r->arena, r->document->file, strlen(r->document->file), &file));
    config->file = file;
    CA_TRY(ca_node_copy(r->arena, r->document->root, file, &config->root));
    CA_TRY(list_options(r, tables));
    CA_TRY(put_point(r, point));
    CA_TRY(ca_problems_add_all(&r->problems, &r->document->problems));
    CA_TRY(check_document(r));
    CA_TRY(keep_text(config));
out:
    return st;
}

ca_status ca_config_resolve(const ca_document *document, int64_t point,
                            const ca_option *const *tables, ca_config **out) {
    assert(point >= 0 && point < document->sweep.points);
    *out = NULL;
    ca_resolver r = {.document = document};
    ca_status st = ca_calloc(1, sizeof *r.config, &r.config);
    if (st != CA_OK) return st;
    st = resolve(&r, point, tables);
    ca_problems_free(&r.problems);
    if (st == CA_OK)
        *out = r.config;
    else
        ca_config_free(r.config);
    return st;
}

void ca_config_free(ca_config *config) {
    if (config == NULL) return;
    ca_arena_destroy(config->arena);
    free(config);
}
