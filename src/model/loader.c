/* SPDX-License-Identifier: MIT
 *
 * Reads the weights of an opened model into the memory of a backend: one allocation, filled tensor
 * by tensor in pieces that are converted in a small host buffer and uploaded.
 */
#include <stdlib.h>
#include <string.h>

#include "causa/ops.h"
#include "model_file.h"
#include "rope.h"

/* Large enough that threads meet seldom, small beside any model. */
enum { STAGING_BYTES = 16 << 20 };

/* One load in progress. */
typedef struct loader {
    const ca_model_file *file;
    ca_model *model;
    int threads;
    size_t used;   /* bytes of model->memory given to tensors */
    void *staging; /* host */
    size_t staging_bytes;
} loader;

/* Rows of `row_bytes` that fit the staging buffer; at least one does. */
static int64_t piece_rows(const loader *ld, size_t row_bytes) {
    return (int64_t)(ld->staging_bytes / row_bytes);
}

static ca_tensor take(loader *ld, ca_dtype dtype, int64_t rows, int64_t columns) {
    ca_tensor t = ca_tensor_2d((char *)ld->model->memory + ld->used, dtype, rows, columns);
    ld->used += ca_model_tensor_bytes(rows * columns, dtype);
    return t;
}

/* t [rows, columns] from row `start` on */
static ca_status load_part(loader *ld, ca_tensor t, const ca_part *part, int64_t start) {
    ca_status st = CA_OK;
    int64_t columns = t.shape[1], step = piece_rows(ld, (size_t)columns * ca_dtype_size(t.dtype));
    for (int64_t r = 0; r < part->rows; r += step) {
        int64_t n = part->rows - r < step ? part->rows - r : step;
        CA_TRY(ca_convert_rows(ld->staging, t.dtype, part, columns, ld->model->arch.head_dim, r, n,
                               ld->threads));
        CA_TRY(ca_upload(ld->model->backend, ca_tensor_slice(t, 0, start + r, n), ld->staging));
    }
out:
    return st;
}

static ca_status load_binding(loader *ld, const ca_binding *b) {
    ca_status st = CA_OK;
    ca_model *m = ld->model;
    void *owner = b->layer < 0 ? (void *)m : (void *)(m->layers + b->layer);
    ca_tensor t = take(ld, ca_binding_dtype(b, m->precision), b->rows, b->columns);
    *(ca_tensor *)((char *)owner + b->field) =
        b->is_vector ? ca_tensor_1d(t.data, t.dtype, b->rows) : t;
    int64_t start = 0;
    for (int i = 0; i < b->part_count; i++) {
        CA_TRY(load_part(ld, t, b->parts + i, start));
        start += b->parts[i].rows;
    }
out:
    return st;
}

static ca_status load_rope(loader *ld, int index, int64_t rows) {
    ca_status st = CA_OK;
    ca_model *m = ld->model;
    double *frequency = NULL;
    int64_t pairs = m->arch.rope[index].dim / 2;
    size_t row_bytes = (size_t)pairs * ca_dtype_size(m->dtype);
    int64_t step = piece_rows(ld, 2 * row_bytes);
    m->cosine[index] = take(ld, m->dtype, rows, pairs);
    m->sine[index] = take(ld, m->dtype, rows, pairs);
    CA_TRY(ca_calloc((size_t)pairs, sizeof *frequency, &frequency));
    ca_rope_frequencies(frequency, m->arch.rope + index, ld->file->spec.rope_divisors);
    for (int64_t r = 0; r < rows; r += step) {
        int64_t n = rows - r < step ? rows - r : step;
        char *sine = (char *)ld->staging + (size_t)n * row_bytes;
        ca_rope_rows(ld->staging, sine, m->dtype, frequency, pairs, r, n, ld->threads);
        CA_TRY(ca_upload(m->backend, ca_tensor_slice(m->cosine[index], 0, r, n), ld->staging));
        CA_TRY(ca_upload(m->backend, ca_tensor_slice(m->sine[index], 0, r, n), sine));
    }
out:
    free(frequency);
    return st;
}

/* A head that is stored although it is tied must be the embedding. */
static ca_status check_tied_head(const ca_model_file *file) {
    const ca_weight_list *list = file->spec.weights;
    const ca_weight *head = ca_checkpoint_find(file->checkpoint, list->head);
    if (!file->spec.arch.tied || head == NULL) return CA_OK;
    const ca_weight *embed = file->bindings[0].parts[0].weight; /* lists begin with it */
    if (head->encoding == embed->encoding && head->bytes == embed->bytes &&
        memcmp(head->data, embed->data, head->bytes) == 0)
        return CA_OK;
    return ca_fail(CA_E_MODEL,
                   "%s: tensor '%s': expected the same values as '%s' because "
                   "tie_word_embeddings is true, got others",
                   head->file, head->name, embed->name);
}

static void set_layers(ca_model *m, const ca_spec *spec) {
    for (int64_t l = 0; l < m->arch.layers; l++) {
        double divisor = m->arch.scale_by_layer ? (double)(l + 1) : 1.0;
        m->layers[l].rope = spec->layers[l].rope;
        m->layers[l].window = spec->layers[l].window;
        m->layers[l].attention_scale = m->arch.attention_scale / divisor;
    }
}

/* Bytes of all tensors, and the longest row, which a piece must hold. */
static void measure(loader *ld, int64_t rope_rows, size_t *total) {
    const ca_arch *a = &ld->model->arch;
    *total = 0;
    ld->staging_bytes = STAGING_BYTES;
    for (int64_t i = 0; i < ld->file->binding_count; i++) {
        const ca_binding *b = ld->file->bindings + i;
        ca_dtype dtype = ca_binding_dtype(b, ld->model->precision);
        size_t row_bytes = (size_t)b->columns * ca_dtype_size(dtype);
        *total += ca_model_tensor_bytes(b->rows * b->columns, dtype);
        if (row_bytes > ld->staging_bytes) ld->staging_bytes = row_bytes;
    }
    for (int r = 0; r < a->rope_count; r++)
        *total += 2 * ca_model_tensor_bytes(rope_rows * (a->rope[r].dim / 2), ld->model->dtype);
}

static ca_status load_all(loader *ld, int64_t rope_rows) {
    ca_status st = CA_OK;
    ca_model *m = ld->model;
    size_t total = 0;
    measure(ld, rope_rows, &total);
    CA_TRY(ca_calloc((size_t)m->arch.layers, sizeof *m->layers, &m->layers));
    CA_TRY(ca_calloc(ld->staging_bytes, 1, &ld->staging));
    CA_TRY(ca_alloc(m->backend, total, &m->memory));
    m->bytes = (int64_t)total;
    for (int64_t i = 0; i < ld->file->binding_count; i++)
        CA_TRY(load_binding(ld, ld->file->bindings + i));
    for (int r = 0; r < m->arch.rope_count; r++) CA_TRY(load_rope(ld, r, rope_rows));
    if (m->arch.tied) m->head = m->embed;
    set_layers(m, &ld->file->spec);
    ca_checkpoint_forget(ld->file->checkpoint); /* the weights are copies */
out:
    return st;
}

static ca_status check_precision(const ca_backend *be, ca_dtype precision) {
    if (precision == CA_F32 || (precision == CA_F64 && be->float64) ||
        (precision == CA_BF16 && be->bfloat16))
        return CA_OK;
    return ca_fail(CA_E_BACKEND, "backend %s: expected weights as f32%s%s, got %s", be->name,
                   be->bfloat16 ? " or bf16" : "", be->float64 ? " or f64" : "",
                   ca_dtype_name(precision));
}

ca_status ca_model_load(const ca_model_file *file, ca_backend *backend, ca_dtype precision,
                        int64_t max_rows, ca_model **out) {
    ca_status st = CA_OK;
    loader ld = {.file = file, .threads = backend->threads > 0 ? backend->threads : 1};
    CA_TRY(check_precision(backend, precision));
    CA_TRY(check_tied_head(file));
    CA_TRY(ca_calloc(1, sizeof *ld.model, &ld.model));
    ld.model->arch = file->spec.arch;
    ld.model->backend = backend;
    ld.model->precision = precision;
    ld.model->dtype = ca_precision_values(precision);
    CA_TRY(load_all(&ld, ca_model_rope_rows(&file->spec.arch, max_rows)));
    *out = ld.model;
    ld.model = NULL;
out:
    free(ld.staging);
    ca_model_free(ld.model);
    return st;
}

void ca_model_free(ca_model *model) {
    if (model == NULL) return;
    if (model->memory != NULL) ca_release(model->backend, model->memory);
    free(model->layers);
    free(model);
}
