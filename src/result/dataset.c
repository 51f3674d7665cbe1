/* SPDX-License-Identifier: MIT
 *
 * Writes datasets, their dimension labels and scales, and links between files.
 *
 * Layout: small datasets are contiguous. Ids, indices, masks and texts above a few pages are
 * chunked, shuffled and gzip-compressed at level 1; floating-point scores are never compressed
 * (they shrink by a seventh and cost seconds). Floats that are filled part by part are chunked so
 * that the rows are not first written as fill values.
 */
#include "writer.h"

#include <assert.h>
#include <hdf5_hl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { COMPRESS_BYTES = 1 << 14, CHUNK_BYTES = 1 << 18 };

static ca_status check_shape(ca_result *r, const char *dataset, const ca_result_shape *shape,
                             ca_result_type type, int64_t *count) {
    if (ca_h5_count(shape, type, count)) return CA_OK;
    return ca_fail(CA_E_SHAPE, "%s: %s: expected sizes whose product fits 63 bits, got %lld, ...",
                   r->path, dataset, (long long)shape->size[0]);
}

static hid_t make_space(const ca_result_shape *shape) {
    hsize_t size[CA_RESULT_MAX_RANK] = {0};
    if (shape->rank == 0) return H5Screate(H5S_SCALAR);
    for (int axis = 0; axis < shape->rank; axis++) size[axis] = (hsize_t)shape->size[axis];
    return H5Screate_simple(shape->rank, size, NULL);
}

/* As many whole trailing axes as fit CHUNK_BYTES, then part of one axis, then 1. */
static void choose_chunk(const ca_result_shape *shape, size_t element, hsize_t *chunk) {
    int64_t room = CHUNK_BYTES / (int64_t)element;
    for (int axis = shape->rank - 1; axis >= 0; axis--) {
        int64_t size = shape->size[axis] < room ? shape->size[axis] : room;
        chunk[axis] = (hsize_t)size;
        room = room / size > 1 ? room / size : 1;
    }
}

static herr_t set_unwritten(hid_t list, ca_result_type type) {
    const double nan_value = NAN;
    const int64_t none = -1;
    switch (type) {
    case CA_RESULT_F32:
    case CA_RESULT_F64:
        return H5Pset_fill_value(list, H5T_NATIVE_DOUBLE, &nan_value);
    case CA_RESULT_I32:
    case CA_RESULT_I64:
        return H5Pset_fill_value(list, H5T_NATIVE_INT64, &none);
    case CA_RESULT_BOOL:
    case CA_RESULT_TEXT:
        return 0; /* the library's own fill is FALSE and "" */
    }
    return -1;
}

/* Property list of a new dataset. parts: it will be filled part by part. */
static hid_t creation_list(const ca_result_shape *shape, ca_result_type type, int64_t count,
                           bool parts) {
    const size_t element = ca_h5_type_size(type), bytes = (size_t)count * element;
    const bool floats = type == CA_RESULT_F32 || type == CA_RESULT_F64;
    const unsigned order = H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED;
    hsize_t chunk[CA_RESULT_MAX_RANK] = {0};
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    if (list < 0) return list;
    herr_t bad = H5Pset_obj_track_times(list, false);
    bad |= H5Pset_attr_creation_order(list, order);
    bad |= parts ? set_unwritten(list, type) : 0;
    if (shape->rank > 0 && (floats ? parts && bytes > CHUNK_BYTES : bytes > COMPRESS_BYTES)) {
        choose_chunk(shape, element, chunk);
        bad |= H5Pset_chunk(list, shape->rank, chunk);
        bad |= floats ? 0 : H5Pset_shuffle(list);
        bad |= floats ? 0 : H5Pset_deflate(list, 1);
    }
    if (bad >= 0) return list;
    ca_h5_close(list);
    return -1;
}

/* Whether the existing dataset can be written over as it is. */
static bool fits(hid_t dataset, hid_t type, hid_t space) {
    hid_t old_type = H5Dget_type(dataset), old_space = H5Dget_space(dataset);
    bool same = H5Tequal(old_type, type) > 0 && H5Sextent_equal(old_space, space) > 0;
    ca_h5_close(old_type);
    ca_h5_close(old_space);
    return same;
}

static ca_status set_labels(ca_result *r, hid_t id, const char *dataset,
                            const ca_result_shape *shape) {
    ca_status st = CA_OK;
    for (int axis = 0; axis < shape->rank; axis++) {
        if (shape->label[axis] == NULL) continue;
        CA_H5(CA_E_IO, r->temporary, dataset,
              H5DSset_label(id, (unsigned)axis, shape->label[axis]));
    }
out:
    return st;
}

static ca_status make_dataset(ca_result *r, const char *dataset, hid_t type, hid_t space,
                              hid_t list, const ca_result_shape *shape, hid_t *out) {
    ca_status st = CA_OK;
    hid_t group = -1;
    const char *leaf = strrchr(dataset, '/');
    assert(dataset[0] == '/' && leaf[1] != '\0');
    CA_TRY(ca_result_group(r, dataset, (size_t)(leaf - dataset), &group));
    CA_H5(CA_E_IO, r->temporary, dataset,
          *out = H5Dcreate2(group, leaf + 1, type, space, H5P_DEFAULT, list, H5P_DEFAULT));
    CA_TRY(set_labels(r, *out, dataset, shape));
out:
    ca_h5_close(group);
    return st;
}

/* Opens a dataset of this shape, making it when there is none and replacing it when it differs. */
static ca_status ensure_dataset(ca_result *r, const char *dataset, ca_result_type type,
                                const ca_result_shape *shape, bool parts, hid_t *out) {
    ca_status st = CA_OK;
    int64_t count = 0;
    hid_t file_type = -1, space = -1, list = -1;
    CA_TRY(check_shape(r, dataset, shape, type, &count));
    CA_H5(CA_E_IO, r->temporary, dataset, file_type = ca_h5_file_type(type));
    CA_H5(CA_E_IO, r->temporary, dataset, space = make_space(shape));
    if (ca_h5_exists(r->file, dataset)) {
        CA_H5(CA_E_IO, r->temporary, dataset, *out = H5Dopen2(r->file, dataset, H5P_DEFAULT));
        if (fits(*out, file_type, space)) goto out;
        ca_h5_close(*out);
        *out = -1;
        CA_H5(CA_E_IO, r->temporary, dataset, H5Ldelete(r->file, dataset, H5P_DEFAULT));
    }
    CA_H5(CA_E_IO, r->temporary, dataset, list = creation_list(shape, type, count, parts));
    CA_TRY(make_dataset(r, dataset, file_type, space, list, shape, out));
out:
    ca_h5_close(list);
    ca_h5_close(space);
    ca_h5_close(file_type);
    return st;
}

/* memory, selection: the parts of `data` and of the dataset, or H5S_ALL.
 * count: elements in data. */
static ca_status transfer(ca_result *r, const char *dataset, hid_t id, ca_result_type type,
                          hid_t memory, hid_t selection, int64_t count, const void *data) {
    ca_status st = CA_OK;
    ca_arena *arena = NULL;
    hid_t memory_type = -1;
    if (count == 0) return CA_OK;
    CA_H5(CA_E_IO, r->temporary, dataset, memory_type = ca_h5_memory_type(type));
    if (type == CA_RESULT_TEXT) {
        const char **clean = NULL;
        CA_TRY(ca_arena_create(&arena));
        CA_TRY(ca_result_clean_texts(arena, data, count, &clean));
        data = clean;
    }
    CA_H5(CA_E_IO, r->temporary, dataset,
          H5Dwrite(id, memory_type, memory, selection, H5P_DEFAULT, data));
out:
    ca_arena_destroy(arena);
    ca_h5_close(memory_type);
    return st;
}

/* ---- open datasets */

static ca_open_dataset *find_open(ca_result *r, const char *dataset) {
    for (int64_t i = 0; i < r->dataset_count; i++) {
        if (strcmp(r->datasets[i].name, dataset) == 0) return &r->datasets[i];
    }
    return NULL;
}

/* Takes the id over. */
static ca_status keep_open(ca_result *r, const char *dataset, hid_t id) {
    ca_string name = {0};
    ca_status st = CA_OK;
    CA_TRY(ca_string_printf(&name, "%s", dataset));
    CA_TRY(ca_grow(&r->datasets, &r->dataset_capacity, r->dataset_count + 1, sizeof *r->datasets));
    r->datasets[r->dataset_count++] = (ca_open_dataset){.name = name.text, .id = id};
    return CA_OK;
out:
    ca_string_free(&name);
    ca_h5_close(id);
    return st;
}

static void forget_open(ca_result *r, const char *dataset) {
    ca_open_dataset *open = find_open(r, dataset);
    if (open == NULL) return;
    ca_h5_close(open->id);
    free(open->name);
    *open = r->datasets[--r->dataset_count];
}

/* ---- public */

ca_status ca_result_put(ca_result *r, const char *dataset, ca_result_type type,
                        ca_result_shape shape, const void *data) {
    ca_status st = CA_OK;
    hid_t id = -1;
    int64_t count = 0;
    CA_TRY(check_shape(r, dataset, &shape, type, &count));
    forget_open(r, dataset);
    CA_TRY(ensure_dataset(r, dataset, type, &shape, false, &id));
    CA_TRY(transfer(r, dataset, id, type, H5S_ALL, H5S_ALL, count, data));
out:
    ca_h5_close(id);
    return st;
}

ca_status ca_result_reserve(ca_result *r, const char *dataset, ca_result_type type,
                            ca_result_shape shape) {
    hid_t id = -1;
    assert(shape.rank >= 1);
    forget_open(r, dataset);
    ca_status st = ensure_dataset(r, dataset, type, &shape, true, &id);
    if (st == CA_OK) return keep_open(r, dataset, id);
    ca_h5_close(id);
    return st;
}

static ca_status open_again(ca_result *r, const char *dataset, hid_t *out) {
    ca_status st = CA_OK;
    hid_t id = -1;
    ca_open_dataset *open = find_open(r, dataset);
    if (open == NULL) {
        CA_H5(CA_E_IO, r->temporary, dataset, id = H5Dopen2(r->file, dataset, H5P_DEFAULT));
        CA_TRY(keep_open(r, dataset, id));
        open = find_open(r, dataset);
    }
    *out = open->id;
out:
    return st;
}

ca_status ca_result_write(ca_result *r, const char *dataset, int64_t first, int64_t count,
                          const void *data) {
    ca_status st = CA_OK;
    hid_t id = -1, space = -1, memory = -1, stored = -1;
    hsize_t size[H5S_MAX_RANK] = {0}, start[H5S_MAX_RANK] = {0};
    ca_result_type type = CA_RESULT_F32;
    CA_TRY(open_again(r, dataset, &id));
    CA_H5(CA_E_IO, r->temporary, dataset, space = H5Dget_space(id));
    CA_H5(CA_E_IO, r->temporary, dataset, stored = H5Dget_type(id));
    const int rank = H5Sget_simple_extent_dims(space, size, NULL);
    const int64_t rows = rank > 0 ? (int64_t)size[0] : 0;
    if (first < 0 || count < 0 || first > rows || count > rows - first) {
        st =
            ca_fail(CA_E_SHAPE, "%s: %s: expected rows within 0 to %lld, got %lld to %lld", r->path,
                    dataset, (long long)rows, (long long)first, (long long)(first + count));
        goto out;
    }
    if (count == 0) goto out;
    if (!ca_h5_type_of(stored, &type)) {
        st =
            ca_fail(CA_E_IO, "%s: %s: expected a type of this tool, got another", r->path, dataset);
        goto out;
    }
    int64_t elements = count;
    for (int axis = 1; axis < rank; axis++) elements *= (int64_t)size[axis];
    start[0] = (hsize_t)first;
    size[0] = (hsize_t)count;
    CA_H5(CA_E_IO, r->temporary, dataset, memory = H5Screate_simple(rank, size, NULL));
    CA_H5(CA_E_IO, r->temporary, dataset,
          H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, size, NULL));
    CA_TRY(transfer(r, dataset, id, type, memory, space, elements, data));
out:
    ca_h5_close(memory);
    ca_h5_close(stored);
    ca_h5_close(space);
    return st;
}

ca_status ca_result_read_back(ca_result *r, const char *dataset, void *data) {
    ca_status st = CA_OK;
    hid_t id = -1, stored = -1, memory_type = -1;
    ca_result_type type = CA_RESULT_TEXT;
    CA_TRY(open_again(r, dataset, &id));
    CA_H5(CA_E_IO, r->temporary, dataset, stored = H5Dget_type(id));
    if (!ca_h5_type_of(stored, &type) || type == CA_RESULT_TEXT) {
        st = ca_fail(CA_E_IO, "%s: %s: expected numbers, got another type", r->path, dataset);
        goto out;
    }
    CA_H5(CA_E_IO, r->temporary, dataset, memory_type = ca_h5_memory_type(type));
    CA_H5(CA_E_IO, r->temporary, dataset,
          H5Dread(id, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data));
out:
    ca_h5_close(memory_type);
    ca_h5_close(stored);
    return st;
}

bool ca_result_has(ca_result *r, const char *object) { return ca_h5_exists(r->file, object); }

ca_status ca_result_scale(ca_result *r, const char *dataset, int axis, const char *scale) {
    ca_status st = CA_OK;
    hid_t id = -1, scale_id = -1, space = -1, scale_space = -1;
    hsize_t size[H5S_MAX_RANK] = {0};
    CA_H5(CA_E_IO, r->temporary, dataset, id = H5Dopen2(r->file, dataset, H5P_DEFAULT));
    CA_H5(CA_E_IO, r->temporary, scale, scale_id = H5Dopen2(r->file, scale, H5P_DEFAULT));
    CA_H5(CA_E_IO, r->temporary, dataset, space = H5Dget_space(id));
    CA_H5(CA_E_IO, r->temporary, scale, scale_space = H5Dget_space(scale_id));
    const int rank = H5Sget_simple_extent_dims(space, size, NULL);
    const hssize_t length = H5Sget_simple_extent_npoints(scale_space);
    assert(axis >= 0 && axis < rank);
    if (H5Sget_simple_extent_ndims(scale_space) != 1 || (hsize_t)length != size[axis]) {
        st = ca_fail(CA_E_SHAPE,
                     "%s: %s: expected a scale of %lld values for axis %d, got %s of %lld", r->path,
                     dataset, (long long)size[axis], axis, scale, (long long)length);
        goto out;
    }
    if (H5DSis_scale(scale_id) <= 0) {
        CA_H5(CA_E_IO, r->temporary, scale, H5DSset_scale(scale_id, strrchr(scale, '/') + 1));
    }
    if (H5DSis_attached(id, scale_id, (unsigned)axis) <= 0) {
        CA_H5(CA_E_IO, r->temporary, dataset, H5DSattach_scale(id, scale_id, (unsigned)axis));
    }
out:
    ca_h5_close(scale_space);
    ca_h5_close(space);
    ca_h5_close(scale_id);
    ca_h5_close(id);
    return st;
}

ca_status ca_result_link(ca_result *r, const char *name, const char *file) {
    ca_status st = CA_OK;
    hid_t group = -1;
    const char *leaf = strrchr(name, '/');
    assert(name[0] == '/' && leaf[1] != '\0');
    CA_TRY(ca_result_group(r, name, (size_t)(leaf - name), &group));
    if (H5Lexists(group, leaf + 1, H5P_DEFAULT) > 0) {
        CA_H5(CA_E_IO, r->temporary, name, H5Ldelete(group, leaf + 1, H5P_DEFAULT));
    }
    CA_H5(CA_E_IO, r->temporary, name,
          H5Lcreate_external(file, "/", group, leaf + 1, H5P_DEFAULT, H5P_DEFAULT));
out:
    ca_h5_close(group);
    return st;
}
