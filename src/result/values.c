/* SPDX-License-Identifier: MIT
 *
 * Reads datasets of result files. Their types and sizes are checked before anything is read: a file
 * may come from anywhere.
 */
#include "reader.h"

#include <stdlib.h>
#include <string.h>

bool ca_result_reader_has(ca_result_reader *reader, const char *object) {
    return ca_h5_exists(reader->file, object);
}

/* A dataset with its type, its space and its sizes; closed by close_dataset whatever happened. */
typedef struct dataset {
    hid_t id, type, space;
    ca_result_shape shape;
    int64_t count;
} dataset;

static void close_dataset(dataset *d) {
    ca_h5_close(d->space);
    ca_h5_close(d->type);
    ca_h5_close(d->id);
}

static ca_status open_dataset(ca_result_reader *reader, const char *name, dataset *d) {
    ca_status st = CA_OK;
    hsize_t size[H5S_MAX_RANK] = {0};
    *d = (dataset){.id = -1, .type = -1, .space = -1};
    if (!ca_h5_exists(reader->file, name))
        return ca_fail(CA_E_DATA, "%s: expected a dataset %s, got none", reader->path, name);
    CA_H5(CA_E_DATA, reader->path, name, d->id = H5Dopen2(reader->file, name, H5P_DEFAULT));
    CA_H5(CA_E_DATA, reader->path, name, d->type = H5Dget_type(d->id));
    CA_H5(CA_E_DATA, reader->path, name, d->space = H5Dget_space(d->id));
    const hssize_t elements = H5Sget_simple_extent_npoints(d->space);
    const int rank = H5Sget_simple_extent_dims(d->space, size, NULL);
    CA_H5(CA_E_DATA, reader->path, name, elements);
    if (rank < 0 || rank > CA_RESULT_MAX_RANK) {
        st = ca_fail(CA_E_DATA, "%s: %s: expected at most %d axes, got %d", reader->path, name,
                     CA_RESULT_MAX_RANK, rank);
        goto out;
    }
    d->shape.rank = rank;
    for (int axis = 0; axis < rank; axis++) d->shape.size[axis] = (int64_t)size[axis];
    d->count = elements;
out:
    return st;
}

static ca_status wrong_type(const ca_result_reader *reader, const char *name, const char *wanted) {
    return ca_fail(CA_E_DATA, "%s: %s: expected %s, got another type", reader->path, name, wanted);
}

ca_status ca_result_reader_shape(ca_result_reader *reader, const char *name, ca_result_shape *out) {
    dataset d;
    ca_status st = open_dataset(reader, name, &d);
    *out = d.shape;
    close_dataset(&d);
    return st;
}

ca_status ca_result_reader_floats(ca_result_reader *reader, const char *name, double **values,
                                  int64_t *count) {
    ca_status st = CA_OK;
    dataset d;
    double *numbers = NULL;
    *values = NULL;
    CA_TRY(open_dataset(reader, name, &d));
    const H5T_class_t class = H5Tget_class(d.type);
    if (class != H5T_FLOAT && class != H5T_INTEGER && class != H5T_ENUM) {
        st = wrong_type(reader, name, "numbers");
        goto out;
    }
    CA_TRY(ca_calloc((size_t)d.count, sizeof *numbers, &numbers));
    if (d.count > 0) {
        CA_H5(CA_E_DATA, reader->path, name,
              H5Dread(d.id, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, numbers));
    }
    *values = numbers;
    *count = d.count;
    numbers = NULL;
out:
    free(numbers);
    close_dataset(&d);
    return st;
}

/* One entry of the first axis; the memory space of *memory is its size. */
static ca_status choose_row(const ca_result_reader *reader, const char *name, dataset *d,
                            int64_t row, hid_t *memory) {
    ca_status st = CA_OK;
    hsize_t start[CA_RESULT_MAX_RANK] = {0}, size[CA_RESULT_MAX_RANK];
    const int64_t rows = d->shape.rank > 0 ? d->shape.size[0] : 0;
    if (row < 0 || row >= rows) {
        return ca_fail(CA_E_DATA, "%s: %s: expected an entry from 0 to %lld, got %lld",
                       reader->path, name, (long long)rows - 1, (long long)row);
    }
    for (int axis = 0; axis < d->shape.rank; axis++) size[axis] = (hsize_t)d->shape.size[axis];
    start[0] = (hsize_t)row;
    size[0] = 1;
    d->count /= rows;
    CA_H5(CA_E_DATA, reader->path, name,
          H5Sselect_hyperslab(d->space, H5S_SELECT_SET, start, NULL, size, NULL));
    CA_H5(CA_E_DATA, reader->path, name, *memory = H5Screate_simple(d->shape.rank, size, NULL));
out:
    return st;
}

ca_status ca_result_reader_bools(ca_result_reader *reader, const char *name, int64_t row,
                                 bool **values, int64_t *count) {
    ca_status st = CA_OK;
    dataset d;
    hid_t memory = -1;
    int8_t *bytes = NULL;
    bool *truths = NULL;
    *values = NULL;
    CA_TRY(open_dataset(reader, name, &d));
    const H5T_class_t class = H5Tget_class(d.type);
    if (class != H5T_ENUM && class != H5T_INTEGER) {
        st = wrong_type(reader, name, "true or false");
        goto out;
    }
    CA_TRY(choose_row(reader, name, &d, row, &memory));
    CA_TRY(ca_calloc((size_t)d.count, sizeof *bytes, &bytes));
    CA_TRY(ca_calloc((size_t)d.count, sizeof *truths, &truths));
    if (d.count > 0) {
        CA_H5(CA_E_DATA, reader->path, name,
              H5Dread(d.id, H5T_NATIVE_INT8, memory, d.space, H5P_DEFAULT, bytes));
    }
    for (int64_t i = 0; i < d.count; i++) truths[i] = bytes[i] != 0;
    *values = truths;
    *count = d.count;
    truths = NULL;
out:
    free(bytes);
    free(truths);
    ca_h5_close(memory);
    close_dataset(&d);
    return st;
}

ca_status ca_result_reader_texts(ca_result_reader *reader, const char *name,
                                 const char *const **values, int64_t *count) {
    ca_status st = CA_OK;
    dataset d;
    hid_t memory = -1;
    char **texts = NULL, **copies = NULL;
    size_t bytes = 0;
    CA_TRY(open_dataset(reader, name, &d));
    if (H5Tget_class(d.type) != H5T_STRING || H5Tis_variable_str(d.type) <= 0 ||
        !ca_mul_size((size_t)d.count + 1, sizeof *copies, &bytes)) {
        st = wrong_type(reader, name, "texts of any length");
        goto out;
    }
    CA_TRY(ca_arena_alloc(reader->arena, bytes, &copies));
    CA_TRY(ca_calloc((size_t)d.count, sizeof *texts, &texts));
    CA_H5(CA_E_DATA, reader->path, name, memory = H5Tcopy(d.type));
    if (d.count > 0) {
        CA_H5(CA_E_DATA, reader->path, name,
              H5Dread(d.id, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, texts));
    }
    for (int64_t i = 0; i < d.count; i++) {
        const char *text = texts[i] ? texts[i] : "";
        CA_TRY(ca_arena_strdup(reader->arena, text, strlen(text), &copies[i]));
    }
    *values = (const char *const *)copies;
    *count = d.count;
out:
    if (texts && memory >= 0) (void)H5Dvlen_reclaim(memory, d.space, H5P_DEFAULT, texts);
    free(texts);
    ca_h5_close(memory);
    close_dataset(&d);
    return st;
}
