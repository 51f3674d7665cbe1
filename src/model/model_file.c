/* SPDX-License-Identifier: MIT
 *
 * Opens a model without reading its weights: configuration, tensor headers, and the match between
 * the two. After success every binding names stored tensors of the right shape in an encoding that
 * can be read, and no stored tensor is left over.
 */
#include "model_file.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_TENSOR_NAME = 256, SAMPLE_BYTES = 4096 };

static int64_t extent(const ca_arch *a, ca_extent e) {
    switch (e) {
    case CA_EXTENT_ONE:
        return 1;
    case CA_EXTENT_WIDTH:
        return a->width;
    case CA_EXTENT_Q:
        return a->heads * a->head_dim;
    case CA_EXTENT_KV:
        return a->kv_heads * a->head_dim;
    case CA_EXTENT_QKV:
        return (a->heads + 2 * a->kv_heads) * a->head_dim;
    case CA_EXTENT_HEAD:
        return a->head_dim;
    case CA_EXTENT_MLP:
        return a->mlp_width;
    case CA_EXTENT_VOCAB:
        return a->vocab;
    case CA_EXTENT_POSITIONS:
        return a->max_positions;
    }
    return 0;
}

static bool exists(const ca_spec *spec, ca_when when) {
    switch (when) {
    case CA_WHEN_ALWAYS:
        return true;
    case CA_WHEN_UNTIED:
        return !spec->arch.tied;
    case CA_WHEN_QKV_BIAS:
        return spec->qkv_bias;
    case CA_WHEN_OUT_BIAS:
        return spec->out_bias;
    case CA_WHEN_MLP_BIAS:
        return spec->mlp_bias;
    case CA_WHEN_QK_NORM:
        return spec->arch.qk_norm != CA_QK_NORM_NONE;
    }
    return false;
}

/* ---- from names to stored tensors */

/* By its full name, or without the prefix that some files leave out. */
static ca_weight *find(const ca_model_file *file, const char *name) {
    const char *prefix = file->spec.weights->prefix;
    ca_weight *w = ca_checkpoint_find(file->checkpoint, name);
    if (w == NULL && strncmp(name, prefix, strlen(prefix)) == 0)
        w = ca_checkpoint_find(file->checkpoint, name + strlen(prefix));
    return w;
}

/* "model.layers.*.mlp" of layer 3 is "model.layers.3.mlp". */
static void expand_name(char *name, size_t size, const char *pattern, int64_t layer) {
    const char *star = strchr(pattern, '*');
    if (star == NULL)
        snprintf(name, size, "%s", pattern);
    else
        snprintf(name, size, "%.*s%lld%s", (int)(star - pattern), pattern, (long long)layer,
                 star + 1);
}

static ca_status fail_missing(const ca_model_file *file, const char *name) {
    const ca_weight_list *list = file->spec.weights;
    bool is_head = strcmp(name, list->head) == 0;
    return ca_fail(CA_E_MODEL, "%s: tensor '%s': expected in a %s model%s, got none",
                   file->checkpoint->path, name, file->spec.family->model_type,
                   is_head ? " whose embeddings are not tied (tie_word_embeddings)" : "");
}

static ca_status check_shape(const ca_weight *w, bool is_vector, ca_layout layout, int64_t rows,
                             int64_t columns) {
    char expected[64], got[128];
    bool is_transposed = layout == CA_LAYOUT_TRANSPOSED;
    int64_t shape[2] = {is_transposed ? columns : rows, is_transposed ? rows : columns};
    int rank = is_vector ? 1 : 2;
    if (w->rank == rank && memcmp(w->shape, shape, (size_t)rank * sizeof *shape) == 0) return CA_OK;
    ca_shape_text(expected, sizeof expected, rank, shape);
    ca_shape_text(got, sizeof got, w->rank, w->shape);
    return ca_fail(CA_E_MODEL, "%s: tensor '%s': expected shape %s, got %s", w->file, w->name,
                   expected, got);
}

static ca_status check_encoding(const ca_weight *w, int64_t columns) {
    if (w->encoding == NULL)
        return ca_fail(CA_E_MODEL, "%s: tensor '%s': expected a dtype of %s, got %s", w->file,
                       w->name, ca_encoding_names(), w->type);
    if (columns % w->encoding->block_values != 0)
        return ca_fail(CA_E_MODEL,
                       "%s: tensor '%s': expected a type of single values for a vector, "
                       "got %s",
                       w->file, w->name, w->type);
    return CA_OK;
}

static ca_status bind_part(const ca_model_file *file, ca_binding *b, const ca_weight_part *part) {
    ca_status st = CA_OK;
    char name[MAX_TENSOR_NAME];
    expand_name(name, sizeof name, part->name, b->layer);
    ca_weight *w = find(file, name);
    if (w == NULL) return fail_missing(file, name);
    int64_t rows = extent(&file->spec.arch, part->rows);
    CA_TRY(check_shape(w, b->is_vector, part->layout, rows, b->columns));
    CA_TRY(check_encoding(w, b->columns));
    w->used = true;
    b->parts[b->part_count++] = (ca_part){w, part->layout, rows};
    b->rows += rows;
out:
    return st;
}

static ca_status bind_row(ca_model_file *file, const ca_weight_row *row, int64_t layer) {
    ca_status st = CA_OK;
    CA_TRY(ca_grow(&file->bindings, &file->binding_capacity, file->binding_count + 1,
                   sizeof *file->bindings));
    ca_binding *b = file->bindings + file->binding_count;
    *b = (ca_binding){.layer = layer,
                      .field = row->field,
                      .is_vector = row->columns == CA_EXTENT_ONE,
                      .columns = extent(&file->spec.arch, row->columns)};
    for (int i = 0; i < CA_MAX_PARTS && row->parts[i].name != NULL; i++)
        CA_TRY(bind_part(file, b, row->parts + i));
    file->binding_count++;
out:
    return st;
}

/* The usual mistake of edited configurations, named by its key instead of by a shape. */
static ca_status check_vocabulary(const ca_model_file *file) {
    const ca_spec *spec = &file->spec;
    const ca_weight *w = find(file, spec->weights->embed);
    if (w == NULL) return fail_missing(file, spec->weights->embed);
    if (w->rank == 2 && w->shape[0] != spec->arch.vocab)
        return ca_fail(CA_E_MODEL,
                       "%s: vocab_size: expected %lld, the rows of tensor '%s', got %lld",
                       file->checkpoint->config_file, (long long)w->shape[0], w->name,
                       (long long)spec->arch.vocab);
    return CA_OK;
}

/* A tensor that nothing uses means that the model is not what its configuration says. */
static ca_status check_all_used(const ca_model_file *file) {
    const ca_checkpoint *c = file->checkpoint;
    for (int64_t i = 0; i < c->count; i++) {
        const ca_weight *w = c->weights + i;
        if (!w->used && !ca_family_ignores(w->name))
            return ca_fail(CA_E_MODEL,
                           "%s: tensor '%s': expected only tensors of a %s model with "
                           "this configuration, got one more",
                           w->file, w->name, file->spec.family->model_type);
    }
    return CA_OK;
}

static ca_status bind_all(ca_model_file *file) {
    ca_status st = CA_OK;
    const ca_spec *spec = &file->spec;
    CA_TRY(check_vocabulary(file));
    for (int i = 0; i < spec->weights->count; i++) {
        const ca_weight_row *row = spec->weights->rows + i;
        if (!exists(spec, row->when)) continue;
        if (!row->per_layer) CA_TRY(bind_row(file, row, -1));
        for (int64_t l = 0; row->per_layer && l < spec->arch.layers; l++)
            CA_TRY(bind_row(file, row, l));
    }
    /* A tied head may be stored again; the loader compares it. */
    ca_weight *head = find(file, spec->weights->head);
    if (head != NULL) head->used = true;
    CA_TRY(check_all_used(file));
    if (file->checkpoint->hole != NULL) st = ca_fail(CA_E_MODEL, "%s", file->checkpoint->hole);
out:
    return st;
}

ca_status ca_model_file_open(const char *path, ca_model_file **out) {
    ca_status st = CA_OK;
    ca_model_file *file = NULL;
    CA_TRY(ca_calloc(1, sizeof *file, &file));
    CA_TRY(ca_checkpoint_open(path, &file->checkpoint));
    CA_TRY(ca_spec_read(file->checkpoint, &file->spec));
    CA_TRY(bind_all(file));
    *out = file;
    file = NULL;
out:
    ca_model_file_close(file);
    return st;
}

void ca_model_file_close(ca_model_file *file) {
    if (file == NULL) return;
    ca_checkpoint_close(file->checkpoint);
    ca_spec_free(&file->spec);
    free(file->bindings);
    free(file);
}

/* ---- questions */

const ca_arch *ca_model_file_arch(const ca_model_file *file) { return &file->spec.arch; }

const char *ca_model_file_path(const ca_model_file *file) { return file->checkpoint->path; }

const char *ca_model_file_format(const ca_model_file *file) { return file->checkpoint->format; }

int64_t ca_model_file_parameters(const ca_model_file *file) {
    int64_t count = 0;
    for (int64_t i = 0; i < file->binding_count; i++)
        count += file->bindings[i].rows * file->bindings[i].columns;
    return count;
}

size_t ca_model_tensor_bytes(int64_t count, ca_dtype dtype) {
    return ((size_t)count * ca_dtype_size(dtype) + 63) & ~(size_t)63;
}

int64_t ca_model_rope_rows(const ca_arch *arch, int64_t max_rows) {
    return max_rows > 0 && max_rows < arch->max_positions ? max_rows : arch->max_positions;
}

ca_dtype ca_precision_values(ca_dtype precision) {
    return precision == CA_BF16 ? CA_F32 : precision;
}

ca_dtype ca_binding_dtype(const ca_binding *binding, ca_dtype precision) {
    return binding->is_vector ? ca_precision_values(precision) : precision;
}

int64_t ca_model_file_bytes(const ca_model_file *file, ca_dtype precision) {
    const ca_arch *a = &file->spec.arch;
    size_t bytes = 0;
    for (int64_t i = 0; i < file->binding_count; i++) {
        const ca_binding *b = file->bindings + i;
        bytes += ca_model_tensor_bytes(b->rows * b->columns, ca_binding_dtype(b, precision));
    }
    for (int r = 0; r < a->rope_count; r++)
        bytes += 2 * ca_model_tensor_bytes(a->max_positions * (a->rope[r].dim / 2),
                                           ca_precision_values(precision));
    return (int64_t)bytes;
}

/* Header bytes, then of every tensor in the order of names: "NAME TYPE SHAPE\n", its first and its
 * last 4096 bytes (once when they overlap). Shards therefore do not matter, metadata of
 * .safetensors files neither. */
ca_status ca_model_file_sha256(const ca_model_file *file, char hex[65]) {
    ca_status st = CA_OK;
    const ca_checkpoint *c = file->checkpoint;
    ca_sha256 *digest = NULL;
    CA_TRY(ca_sha256_create(&digest));
    ca_sha256_add(digest, c->header, c->header_size);
    for (int64_t i = 0; i < c->count; i++) {
        const ca_weight *w = c->weights + i;
        char shape[192], line[512];
        ca_shape_text(shape, sizeof shape, w->rank, w->shape);
        int length = snprintf(line, sizeof line, "%s %s %s\n", w->name, w->type, shape);
        ca_sha256_add(digest, line, (size_t)length);
        size_t first = w->bytes < SAMPLE_BYTES ? w->bytes : SAMPLE_BYTES;
        size_t rest = w->bytes - first, last = rest < SAMPLE_BYTES ? rest : SAMPLE_BYTES;
        ca_sha256_add(digest, w->data, first);
        ca_sha256_add(digest, w->data + w->bytes - last, last);
    }
    ca_sha256_finish(digest, hex);
out:
    return st;
}
