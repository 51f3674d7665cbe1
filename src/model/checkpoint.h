/* SPDX-License-Identifier: MIT
 *
 * The files of a model seen as one table of named weights, whatever their format: a Hugging Face
 * directory (config.json and one or more .safetensors files) or a GGUF file.
 */
#ifndef CAUSA_MODEL_CHECKPOINT_H
#define CAUSA_MODEL_CHECKPOINT_H

#include <jansson.h>

#include "causa/gguf.h"
#include "encoding.h"

enum { CA_MAX_WEIGHT_RANK = 8 };

typedef struct ca_weight {
    const char *name;
    const char *file;            /* for messages */
    const char *type;            /* as the file spells it */
    const ca_encoding *encoding; /* NULL: known to the format but not usable as a weight */
    int rank;
    int64_t shape[CA_MAX_WEIGHT_RANK];
    const unsigned char *data;
    size_t bytes;
    bool used; /* belongs to the model; set while names are resolved */
} ca_weight;

typedef struct ca_checkpoint {
    const char *path;
    ca_arena *arena;    /* names and messages */
    ca_weight *weights; /* sorted by name */
    int64_t count, capacity;
    ca_file_map *maps;
    int64_t map_count, map_capacity;
    const char *config_file;     /* config.json or the GGUF file, for messages */
    json_t *json;                /* config.json; NULL for GGUF */
    ca_gguf *gguf;               /* NULL for a directory */
    const unsigned char *header; /* text of config.json, or everything before GGUF tensor data */
    size_t header_size;
    const char *format; /* "safetensors BF16, 3 shards" */
    const char *hole;   /* message about bytes that no tensor claims, or NULL */
} ca_checkpoint;

ca_status ca_checkpoint_open(const char *path, ca_checkpoint **out) CA_MUST_USE;
void ca_checkpoint_close(ca_checkpoint *c);
/* Gives back the memory of what was read of the files. */
void ca_checkpoint_forget(const ca_checkpoint *c);
ca_weight *ca_checkpoint_find(const ca_checkpoint *c, const char *name); /* NULL when absent */

/* Maps `path`; the map lives as long as the checkpoint. */
ca_status ca_checkpoint_map(ca_checkpoint *c, const char *path, ca_file_map *map) CA_MUST_USE;
/* A new zeroed row of the table, valid until the next call. */
ca_status ca_checkpoint_add(ca_checkpoint *c, ca_weight **out) CA_MUST_USE;

/* "[12, 576]" into `text`. */
void ca_shape_text(char *text, size_t size, int rank, const int64_t *shape);

#endif
