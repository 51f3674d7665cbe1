/* SPDX-License-Identifier: MIT
 *
 * Opens the files of a model and lists their tensors: config.json and .safetensors files of a
 * directory (symbolic links are followed, so a snapshot folder of the Hugging Face cache works), or
 * one GGUF file. Knows nothing of architectures.
 */
#include "checkpoint.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "gguf_file.h"
#include "safetensors.h"

void ca_shape_text(char *text, size_t size, int rank, const int64_t *shape) {
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < rank && used < size; i++) {
        int n =
            snprintf(text + used, size - used, "%s%lld", i == 0 ? "[" : ", ", (long long)shape[i]);
        used += n > 0 ? (size_t)n : 0;
    }
    if (used < size) snprintf(text + used, size - used, "%s", rank == 0 ? "[]" : "]");
}

/* A file of the model that cannot be read makes the model invalid. */
static ca_status model_error(ca_status st) { return st == CA_E_IO ? CA_E_MODEL : st; }

ca_status ca_checkpoint_map(ca_checkpoint *c, const char *path, ca_file_map *map) {
    ca_status st = CA_OK;
    CA_TRY(ca_grow(&c->maps, &c->map_capacity, c->map_count + 1, sizeof *c->maps));
    CA_TRY(model_error(ca_file_map_open(path, map)));
    c->maps[c->map_count++] = *map;
out:
    return st;
}

ca_status ca_checkpoint_add(ca_checkpoint *c, ca_weight **out) {
    ca_status st = CA_OK;
    CA_TRY(ca_grow(&c->weights, &c->capacity, c->count + 1, sizeof *c->weights));
    *out = c->weights + c->count++;
    **out = (ca_weight){0};
out:
    return st;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const ca_weight *)a)->name, ((const ca_weight *)b)->name);
}

ca_weight *ca_checkpoint_find(const ca_checkpoint *c, const char *name) {
    ca_weight wanted = {.name = name};
    if (c->count == 0) return NULL;
    return bsearch(&wanted, c->weights, (size_t)c->count, sizeof wanted, by_name);
}

static ca_status sort_weights(ca_checkpoint *c) {
    ca_weight *w = c->weights;
    if (c->count == 0) return ca_fail(CA_E_MODEL, "%s: expected tensors, got none", c->path);
    qsort(w, (size_t)c->count, sizeof *w, by_name);
    for (int64_t i = 1; i < c->count; i++)
        if (by_name(w + i - 1, w + i) == 0)
            return ca_fail(CA_E_MODEL, "%s: tensor '%s': expected once, got it in %s too",
                           w[i - 1].file, w[i].name, w[i].file);
    return CA_OK;
}

/* The type that holds most of the bytes stands for the whole checkpoint. Types are strings of a
 * table, so that their addresses identify them. */
static const char *main_type(const ca_checkpoint *c) {
    enum { MAX_TYPES = 32 };
    const char *types[MAX_TYPES] = {0};
    size_t bytes[MAX_TYPES] = {0};
    int count = 0, best = 0;
    for (int64_t i = 0; i < c->count; i++) {
        int k = 0;
        while (k < count && types[k] != c->weights[i].type) k++;
        assert(k < MAX_TYPES);
        types[k] = c->weights[i].type;
        bytes[k] += c->weights[i].bytes;
        if (k == count) count++;
        if (bytes[k] > bytes[best]) best = k;
    }
    return types[best];
}

/* ---- Hugging Face directories */

static ca_status load_json(ca_checkpoint *c, const char *path, json_t **out) {
    ca_status st = CA_OK;
    ca_file_map map = {0};
    json_error_t error;
    CA_TRY(ca_checkpoint_map(c, path, &map));
    json_t *json = json_loadb((const char *)map.data, map.size, JSON_REJECT_DUPLICATES, &error);
    if (json == NULL) {
        st = ca_fail(CA_E_MODEL, "%s:%d:%d: expected a JSON object, got: %s", path, error.line,
                     error.column, map.size == 0 ? "an empty file" : error.text);
        goto out;
    }
    if (!json_is_object(json)) {
        json_decref(json);
        st = ca_fail(CA_E_MODEL, "%s: expected a JSON object, got another value", path);
        goto out;
    }
    *out = json;
out:
    return st;
}

static ca_status load_config(ca_checkpoint *c) {
    ca_status st = CA_OK;
    char *path = NULL, *own_path = NULL;
    CA_TRY(ca_path_join(c->path, "config.json", &path));
    CA_TRY(ca_arena_strdup(c->arena, path, strlen(path), &own_path));
    c->config_file = own_path;
    if (!ca_file_exists(path)) {
        st =
            ca_fail(CA_E_MODEL, "%s: expected config.json in a model directory, got none", c->path);
        ca_hint("give a Hugging Face model directory, or a .gguf file itself");
        goto out;
    }
    CA_TRY(load_json(c, path, &c->json));
    c->header = c->maps[c->map_count - 1].data;
    c->header_size = c->maps[c->map_count - 1].size;
out:
    free(path);
    return st;
}

/* Shards lie beside their index: a name with a directory in it would read any file. */
static ca_status check_shard_name(const char *index, const char *tensor, json_t *shard) {
    const char *name = json_string_value(shard);
    if (name == NULL || name[0] == '\0' || name[0] == '.' || strchr(name, '/') != NULL)
        return ca_fail(CA_E_MODEL,
                       "%s: weight_map: tensor '%.200s': expected the name of a file in "
                       "the same directory, got '%.200s'",
                       index, tensor, name == NULL ? "another value" : name);
    return CA_OK;
}

static ca_status read_shards(ca_checkpoint *c, const char *index, json_t *map) {
    ca_status st = CA_OK;
    char *path = NULL;
    const char *tensor;
    json_t *shard, *read = json_object();
    if (read == NULL) return ca_fail(CA_E_MEMORY, "%s: out of memory", index);
    json_object_foreach(map, tensor, shard) {
        CA_TRY(check_shard_name(index, tensor, shard));
        const char *name = json_string_value(shard);
        if (json_object_get(read, name) != NULL) continue;
        if (json_object_set_new(read, name, json_true()) != 0) {
            st = ca_fail(CA_E_MEMORY, "%s: out of memory", index);
            goto out;
        }
        free(path);
        path = NULL;
        CA_TRY(ca_path_join(c->path, name, &path));
        CA_TRY(ca_safetensors_read(c, path));
    }
out:
    free(path);
    json_decref(read);
    return st;
}

/* Every tensor that the index promises must be in the shard that it names. */
static ca_status check_index(const ca_checkpoint *c, const char *index, json_t *map) {
    const char *tensor;
    json_t *shard;
    json_object_foreach(map, tensor, shard) {
        const char *name = json_string_value(shard);
        const ca_weight *w = ca_checkpoint_find(c, tensor);
        const char *file = w == NULL ? NULL : strrchr(w->file, '/');
        if (file == NULL || strcmp(file + 1, name) != 0)
            return ca_fail(CA_E_MODEL, "%s: weight_map: tensor '%.200s': expected it in %s, got %s",
                           index, tensor, name, w == NULL ? "none" : w->file);
    }
    return CA_OK;
}

static ca_status read_index(ca_checkpoint *c, const char *index) {
    ca_status st = CA_OK;
    json_t *json = NULL;
    char *format = NULL;
    CA_TRY(load_json(c, index, &json));
    json_t *map = json_object_get(json, "weight_map");
    if (!json_is_object(map)) {
        st = ca_fail(CA_E_MODEL, "%s: expected an object 'weight_map', got none", index);
        goto out;
    }
    int64_t maps_before = c->map_count;
    CA_TRY(read_shards(c, index, map));
    CA_TRY(sort_weights(c));
    CA_TRY(check_index(c, index, map));
    CA_TRY(ca_arena_printf(c->arena, &format, "safetensors %s, %lld shards", main_type(c),
                           (long long)(c->map_count - maps_before)));
    c->format = format;
out:
    json_decref(json);
    return st;
}

static ca_status read_single(ca_checkpoint *c, const char *path) {
    ca_status st = CA_OK;
    char *format = NULL;
    CA_TRY(ca_safetensors_read(c, path));
    CA_TRY(sort_weights(c));
    CA_TRY(ca_arena_printf(c->arena, &format, "safetensors %s", main_type(c)));
    c->format = format;
out:
    return st;
}

static ca_status fail_without_weights(const ca_checkpoint *c, bool has_pickle) {
    ca_status st = ca_fail(CA_E_MODEL,
                           "%s: expected model.safetensors or "
                           "model.safetensors.index.json, got %s",
                           c->path, has_pickle ? "pytorch_model.bin only" : "neither");
    if (has_pickle)
        ca_hint("pickled weights can run code when they are read; convert them once: python3 -c "
                "\"from transformers import AutoModelForCausalLM as M; "
                "M.from_pretrained('%s').save_pretrained('NEW_DIRECTORY')\"",
                c->path);
    return st;
}

static ca_status open_directory(ca_checkpoint *c) {
    ca_status st = CA_OK;
    char *single = NULL, *index = NULL, *pickle = NULL, *pickle_index = NULL;
    CA_TRY(load_config(c));
    CA_TRY(ca_path_join(c->path, "model.safetensors", &single));
    CA_TRY(ca_path_join(c->path, "model.safetensors.index.json", &index));
    CA_TRY(ca_path_join(c->path, "pytorch_model.bin", &pickle));
    CA_TRY(ca_path_join(c->path, "pytorch_model.bin.index.json", &pickle_index));
    if (ca_file_exists(single)) {
        CA_TRY(read_single(c, single));
    } else if (ca_file_exists(index)) {
        CA_TRY(read_index(c, index));
    } else {
        st = fail_without_weights(c, ca_file_exists(pickle) || ca_file_exists(pickle_index));
    }
out:
    free(single);
    free(index);
    free(pickle);
    free(pickle_index);
    return st;
}

/* ---- GGUF files */

static ca_status add_gguf_tensor(ca_checkpoint *c, const ca_gguf_tensor *t) {
    ca_status st = CA_OK;
    ca_weight *w = NULL;
    char *name = NULL;
    CA_TRY(ca_arena_strdup(c->arena, t->name.text, (size_t)t->name.length, &name));
    CA_TRY(ca_checkpoint_add(c, &w));
    const ca_encoding *encoding = ca_encoding_by_ggml_type((uint32_t)t->type);
    *w = (ca_weight){.name = name,
                     .file = c->path,
                     .type = encoding->name,
                     .encoding = encoding,
                     .rank = t->rank,
                     .data = t->data,
                     .bytes = t->bytes};
    memcpy(w->shape, t->shape, (size_t)t->rank * sizeof *t->shape);
out:
    return st;
}

static ca_status open_gguf(ca_checkpoint *c) {
    ca_status st = CA_OK;
    char *format = NULL;
    c->config_file = c->path;
    CA_TRY(model_error(ca_gguf_open(c->path, &c->gguf)));
    c->header = ca_gguf_header(c->gguf, &c->header_size);
    for (int64_t i = 0; i < ca_gguf_tensor_count(c->gguf); i++)
        CA_TRY(add_gguf_tensor(c, ca_gguf_tensor_at(c->gguf, i)));
    CA_TRY(sort_weights(c));
    CA_TRY(
        ca_arena_printf(c->arena, &format, "GGUF v%d %s", ca_gguf_version(c->gguf), main_type(c)));
    c->format = format;
out:
    return st;
}

ca_status ca_checkpoint_open(const char *path, ca_checkpoint **out) {
    ca_status st = CA_OK;
    ca_checkpoint *c = NULL;
    char *own_path = NULL;
    CA_TRY(ca_calloc(1, sizeof *c, &c));
    CA_TRY(ca_arena_create(&c->arena));
    CA_TRY(ca_arena_strdup(c->arena, path, strlen(path), &own_path));
    c->path = own_path;
    if (ca_is_directory(path))
        CA_TRY(open_directory(c));
    else if (ca_file_exists(path))
        CA_TRY(open_gguf(c));
    else
        CA_TRY(ca_fail(CA_E_MODEL,
                       "%s: expected a model directory or a GGUF file, got nothing there", path));
    *out = c;
    c = NULL;
out:
    ca_checkpoint_close(c);
    return st;
}

void ca_checkpoint_forget(const ca_checkpoint *c) {
    for (int64_t i = 0; i < c->map_count; i++) ca_file_map_forget(c->maps + i);
}

void ca_checkpoint_close(ca_checkpoint *c) {
    if (c == NULL) return;
    for (int64_t i = 0; i < c->map_count; i++) ca_file_map_close(c->maps + i);
    free(c->maps);
    free(c->weights);
    ca_gguf_close(c->gguf);
    json_decref(c->json);
    if (c->arena != NULL) ca_arena_destroy(c->arena);
    free(c);
}
