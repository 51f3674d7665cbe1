/* SPDX-License-Identifier: MIT
 *
 * Getters of a resolved configuration. Cheap but linear in the number of options: read values
 * once, before loops. A path that is in no table is a mistake of the caller.
 */
#include "option.h"

#include <assert.h>
#include <string.h>

/* The value whose path is `path`, or a CA_OPTION_ANY or MAP value that `path` lies in. */
static const ca_value *find_around(const ca_config *config, const char *path) {
    const ca_value *found = NULL;
    for (int64_t i = 0; i < config->count && found == NULL; i++) {
        const char *known = config->values[i].option->path;
        size_t length = strlen(known);
        if (strncmp(path, known, length) != 0) continue;
        if (path[length] == '\0' || path[length] == '.') found = &config->values[i];
    }
    assert(found != NULL && "the path is in no table of options");
    return found;
}

static const ca_value *find(const ca_config *config, const char *path) {
    const ca_value *value = find_around(config, path);
    assert(strcmp(value->option->path, path) == 0);
    return value;
}

static const ca_scalar *find_scalar(const ca_config *config, const char *path,
                                    ca_option_type type) {
    const ca_value *value = find(config, path);
    assert(value->option->type == type);
    (void)type;
    return &value->scalar;
}

static const ca_scalar *find_item(const ca_config *config, const char *path, int64_t index) {
    const ca_value *value = find(config, path);
    assert(ca_option_is_list(value->option) && index >= 0 && index < value->count);
    return &value->items[index];
}

bool ca_config_has(const ca_config *config, const char *path) {
    return find(config, path)->node != NULL;
}

bool ca_config_is_word(const ca_config *config, const char *path) {
    return find(config, path)->scalar.is_word;
}

const char *ca_config_text(const ca_config *config, const char *path) {
    return find(config, path)->scalar.text;
}

int64_t ca_config_int(const ca_config *config, const char *path) {
    return find_scalar(config, path, CA_OPTION_INT)->integer;
}

double ca_config_float(const ca_config *config, const char *path) {
    return find_scalar(config, path, CA_OPTION_FLOAT)->number;
}

bool ca_config_bool(const ca_config *config, const char *path) {
    return find_scalar(config, path, CA_OPTION_BOOL)->truth;
}

int64_t ca_config_bytes(const ca_config *config, const char *path) {
    return find_scalar(config, path, CA_OPTION_BYTES)->integer;
}

int64_t ca_config_count(const ca_config *config, const char *path) {
    return find(config, path)->count;
}

int64_t ca_config_int_at(const ca_config *config, const char *path, int64_t index) {
    return find_item(config, path, index)->integer;
}

double ca_config_float_at(const ca_config *config, const char *path, int64_t index) {
    return find_item(config, path, index)->number;
}

const char *ca_config_text_at(const ca_config *config, const char *path, int64_t index) {
    return find_item(config, path, index)->text;
}

const ca_node *ca_config_node(const ca_config *config, const char *path) {
    return find(config, path)->node;
}

const char *ca_config_yaml(const ca_config *config) { return config->yaml; }

const char *ca_config_sha256(const ca_config *config) { return config->sha256; }

/* ---- places ------------------------------------------------------------------------------ */

const char *ca_config_where(const ca_config *config, const char *path) {
    const ca_value *value = find_around(config, path);
    const ca_node *place = value->place;
    /* Inside a tree that its owner reads: as far down as the keys go. */
    for (const char *rest = path + strlen(value->option->path); *rest == '.';) {
        char key[CA_YAML_MAX_KEY_BYTES + 1];
        size_t length = ca_path_key_length(++rest);
        if (length > CA_YAML_MAX_KEY_BYTES) break;
        memcpy(key, rest, length);
        key[length] = '\0';
        const ca_node *next = ca_node_find(place, key);
        if (next == NULL) break;
        place = next;
        rest += length;
    }
    ca_string text = {0};
    char *own = NULL;
    ca_status st =
        ca_place_print(value->node != NULL ? ca_node_place(place) : ca_key_place(place), &text);
    if (st == CA_OK) st = ca_string_printf(&text, ": %s", path);
    if (st == CA_OK) st = ca_arena_strdup(config->arena, text.text, text.length, &own);
    ca_string_free(&text);
    return st == CA_OK ? own : path; /* without memory the key has to do */
}

ca_status ca_config_fail(const ca_config *config, const char *path, const char *format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return ca_fail(CA_E_CONFIG, "%s: %s", ca_config_where(config, path), text);
}

/* ---- files ------------------------------------------------------------------------------- */

static bool exists(const char *path) { return ca_file_exists(path) || ca_is_directory(path); }

const char *ca_config_file(const ca_config *config, const char *name) {
    const char *slash = strrchr(config->file, '/');
    if (name[0] == '/' || slash == NULL || exists(name)) return name;
    char *beside;
    ca_status st = ca_arena_printf(config->arena, &beside, "%.*s/%s", (int)(slash - config->file),
                                   config->file, name);
    return st == CA_OK && exists(beside) ? beside : name;
}

const char *ca_config_path(const ca_config *config, const char *path) {
    const ca_value *value = find(config, path);
    return value->node != NULL ? ca_config_file(config, value->scalar.text) : NULL;
}
