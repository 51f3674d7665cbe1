/* SPDX-License-Identifier: MIT
 *
 * Reads result files back, for `causa inspect`, `--resume` and sweeps. Everything in a file is
 * taken as hostile: depths, ranks and sizes are checked before they are used.
 */
#include "reader.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <hdf5_hl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_DEPTH = 32, MAX_TEXTS = 4096 };

/* ---- attributes */

/* One scalar read through the library's conversion; false when it is absent or of another kind. */
static bool read_number(ca_result_reader *reader, const char *object, const char *name,
                        hid_t memory_type, H5T_class_t class, void *value) {
    if (!ca_h5_exists(reader->file, object)) return false;
    hid_t id = H5Aopen_by_name(reader->file, object, name, H5P_DEFAULT, H5P_DEFAULT);
    if (id < 0) return false;
    hid_t type = H5Aget_type(id), space = H5Aget_space(id);
    bool ok = H5Tget_class(type) == class && H5Sget_simple_extent_npoints(space) == 1 &&
              H5Aread(id, memory_type, value) >= 0;
    ca_h5_close(space);
    ca_h5_close(type);
    ca_h5_close(id);
    return ok;
}

bool ca_result_reader_int(ca_result_reader *reader, const char *object, const char *name,
                          int64_t *value) {
    return read_number(reader, object, name, H5T_NATIVE_INT64, H5T_INTEGER, value);
}

bool ca_result_reader_float(ca_result_reader *reader, const char *object, const char *name,
                            double *value) {
    return read_number(reader, object, name, H5T_NATIVE_DOUBLE, H5T_FLOAT, value);
}

/* Appends every text of an attribute of variable-length or fixed-length strings, a line each. */
static ca_status append_texts(hid_t attribute, hid_t type, hid_t space, int64_t count,
                              ca_string *out) {
    ca_status st = CA_OK;
    char **texts = NULL, *fixed = NULL;
    const size_t width = H5Tget_size(type);
    const bool variable = H5Tis_variable_str(type) > 0;
    hid_t memory = H5Tcopy(type);
    size_t bytes = 0;
    if (variable) {
        CA_TRY(ca_calloc((size_t)count, sizeof *texts, &texts));
        if (H5Aread(attribute, memory, texts) < 0) goto out;
    } else {
        if (!ca_mul_size((size_t)count, width, &bytes)) goto out;
        CA_TRY(ca_calloc(bytes + 1, 1, &fixed));
        if (H5Aread(attribute, memory, fixed) < 0) goto out;
    }
    for (int64_t i = 0; i < count; i++) {
        const char *text = variable ? texts[i] : fixed + (size_t)i * width;
        size_t length = text == NULL ? 0 : variable ? strlen(text) : strnlen(text, width);
        if (i > 0) CA_TRY(ca_string_append(out, "\n", 1));
        CA_TRY(ca_string_append(out, text != NULL ? text : "", length));
    }
out:
    if (texts != NULL) (void)H5Dvlen_reclaim(memory, space, H5P_DEFAULT, texts);
    free(texts);
    free(fixed);
    ca_h5_close(memory);
    return st;
}

/* The shortest of two precisions that reads back as the same number. */
static ca_status append_float(ca_string *out, double value) {
    char text[32];
    (void)snprintf(text, sizeof text, "%.15g", value);
    if (strtod(text, NULL) == value) return ca_string_printf(out, "%s", text);
    return ca_string_printf(out, "%.17g", value);
}

static ca_status append_numbers(hid_t attribute, H5T_class_t class, int64_t count, ca_string *out) {
    ca_status st = CA_OK;
    int64_t *ints = NULL;
    double *floats = NULL;
    if (class == H5T_FLOAT) {
        CA_TRY(ca_calloc((size_t)count, sizeof *floats, &floats));
        if (H5Aread(attribute, H5T_NATIVE_DOUBLE, floats) < 0) goto out;
    } else {
        CA_TRY(ca_calloc((size_t)count, sizeof *ints, &ints));
        if (H5Aread(attribute, H5T_NATIVE_INT64, ints) < 0) goto out;
    }
    for (int64_t i = 0; i < count; i++) {
        if (i > 0) CA_TRY(ca_string_append(out, ", ", 2));
        if (floats != NULL) {
            CA_TRY(append_float(out, floats[i]));
        } else {
            CA_TRY(ca_string_printf(out, "%lld", (long long)ints[i]));
        }
    }
out:
    free(ints);
    free(floats);
    return st;
}

/* Text of any attribute this tool writes; *known is false for kinds it does not write. */
static ca_status attribute_text(hid_t attribute, ca_string *out, bool *known) {
    ca_status st = CA_OK;
    hid_t type = H5Aget_type(attribute), space = H5Aget_space(attribute);
    const H5T_class_t class = H5Tget_class(type);
    const hssize_t count = H5Sget_simple_extent_npoints(space);
    *known = count >= 0 && count <= MAX_TEXTS &&
             (class == H5T_STRING || class == H5T_FLOAT || class == H5T_INTEGER);
    if (*known) CA_TRY(ca_string_append(out, "", 0)); /* an empty list is "" */
    if (*known && count > 0) {
        if (class == H5T_STRING) {
            CA_TRY(append_texts(attribute, type, space, count, out));
        } else {
            CA_TRY(append_numbers(attribute, class, count, out));
        }
    }
out:
    ca_h5_close(space);
    ca_h5_close(type);
    return st;
}

bool ca_result_reader_text(ca_result_reader *reader, const char *object, const char *name,
                           const char **value) {
    ca_string text = {0};
    char *copy = NULL;
    bool known = false;
    if (!ca_h5_exists(reader->file, object)) return false;
    hid_t id = H5Aopen_by_name(reader->file, object, name, H5P_DEFAULT, H5P_DEFAULT);
    if (id < 0) return false;
    hid_t type = H5Aget_type(id);
    bool ok = H5Tget_class(type) == H5T_STRING && attribute_text(id, &text, &known) == CA_OK &&
              known && ca_arena_strdup(reader->arena, text.text, text.length, &copy) == CA_OK;
    if (ok) *value = copy;
    ca_string_free(&text);
    ca_h5_close(type);
    ca_h5_close(id);
    return ok;
}

/* What dimension labels and scales are made of; no business of a reader. */
static bool is_housekeeping(const char *name) {
    static const char *const names[] = {"CLASS", "NAME", "DIMENSION_LABELS", "DIMENSION_LIST",
                                        "REFERENCE_LIST"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) == 0) return true;
    }
    return false;
}

static ca_status visit_attribute(hid_t attribute, ca_result_attribute_visitor visitor,
                                 void *context) {
    ca_status st = CA_OK;
    ca_string value = {0};
    char name[256];
    bool known = false;
    if (H5Aget_name(attribute, sizeof name, name) < 0 || is_housekeeping(name)) return CA_OK;
    CA_TRY(attribute_text(attribute, &value, &known));
    if (known) CA_TRY(visitor(context, name, value.text));
out:
    ca_string_free(&value);
    return st;
}

/* Creation order where the object keeps one, else by name. */
static H5_index_t attribute_order(hid_t object) {
    hid_t probe =
        H5Aopen_by_idx(object, ".", H5_INDEX_CRT_ORDER, H5_ITER_INC, 0, H5P_DEFAULT, H5P_DEFAULT);
    ca_h5_close(probe);
    return probe >= 0 ? H5_INDEX_CRT_ORDER : H5_INDEX_NAME;
}

ca_status ca_result_reader_attributes(ca_result_reader *reader, const char *object,
                                      ca_result_attribute_visitor visitor, void *context) {
    ca_status st = CA_OK;
    hid_t id = -1, attribute = -1;
    CA_H5(CA_E_DATA, reader->path, object, id = H5Oopen(reader->file, object, H5P_DEFAULT));
    const int count = H5Aget_num_attrs(id);
    const H5_index_t order = attribute_order(id);
    for (int i = 0; i < count; i++) {
        CA_H5(CA_E_DATA, reader->path, object,
              attribute = H5Aopen_by_idx(id, ".", order, H5_ITER_INC, (hsize_t)i, H5P_DEFAULT,
                                         H5P_DEFAULT));
        CA_TRY(visit_attribute(attribute, visitor, context));
        ca_h5_close(attribute);
        attribute = -1;
    }
out:
    ca_h5_close(attribute);
    ca_h5_close(id);
    return st;
}

/* ---- open */

static ca_status check_tool(ca_result_reader *reader) {
    const char *tool = NULL;
    int64_t schema = 0;
    if (!ca_result_reader_text(reader, "/", "tool", &tool) || strcmp(tool, "causa") != 0) {
        return ca_fail(CA_E_DATA, "%s: /: expected the attribute tool = \"causa\", got %s",
                       reader->path, tool != NULL ? tool : "none");
    }
    if (!ca_result_reader_int(reader, "/", "schema_version", &schema) || schema < 1 ||
        schema > CA_RESULT_SCHEMA_VERSION) {
        return ca_fail(CA_E_DATA, "%s: /: expected schema_version 1 to %d, got %lld", reader->path,
                       CA_RESULT_SCHEMA_VERSION, (long long)schema);
    }
    return CA_OK;
}

ca_status ca_result_reader_open_any(const char *path, ca_result_reader **out) {
    ca_status st = CA_OK;
    ca_result_reader *reader = NULL;
    ca_string name = {0};
    int fd = -1;
    *out = NULL;
    ca_h5_begin();
    CA_TRY(ca_calloc(1, sizeof *reader, &reader));
    reader->file = -1;
    CA_TRY(ca_string_printf(&name, "%s", path));
    reader->path = name.text;
    CA_TRY(ca_arena_create(&reader->arena));
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        st = ca_fail(CA_E_IO, "%s: cannot open it: %s", path, strerror(errno));
        goto out;
    }
    if (ca_is_directory(path) || H5Fis_hdf5(path) <= 0) {
        st = ca_fail(CA_E_DATA, "%s: expected an HDF5 file, got %s", path,
                     ca_is_directory(path) ? "a folder" : "something else");
        goto out;
    }
    CA_H5(CA_E_DATA, path, "/", reader->file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT));
    *out = reader;
    reader = NULL;
out:
    if (fd >= 0) (void)close(fd);
    ca_result_reader_close(reader);
    return st;
}

ca_status ca_result_reader_open(const char *path, ca_result_reader **out) {
    ca_status st = CA_OK;
    CA_TRY(ca_result_reader_open_any(path, out));
    CA_TRY(check_tool(*out));
    return CA_OK;
out:
    ca_result_reader_close(*out);
    *out = NULL;
    return st;
}

void ca_result_reader_close(ca_result_reader *reader) {
    if (reader == NULL) return;
    if (reader->file >= 0) (void)H5Fclose(reader->file);
    ca_arena_destroy(reader->arena);
    free(reader->path);
    free(reader);
}

bool ca_result_is_complete(const char *path, const char *config_sha256) {
    ca_result_reader *reader = NULL;
    const char *status = NULL, *digest = NULL;
    if (!ca_file_exists(path)) return false;
    if (ca_result_reader_open(path, &reader) != CA_OK) {
        ca_error_clear(); /* not a result: an answer, not an error */
        return false;
    }
    bool complete = ca_result_reader_text(reader, "/", "status", &status) &&
                    strcmp(status, "complete") == 0 &&
                    ca_result_reader_text(reader, "/", "config_sha256", &digest) &&
                    strcmp(digest, config_sha256) == 0;
    ca_result_reader_close(reader);
    return complete;
}

/* ---- visit */

typedef struct visit {
    ca_result_reader *reader;
    ca_result_visitor visitor;
    void *context;
} visit;

static const char *stored_type_name(hid_t id) {
    ca_result_type type = CA_RESULT_F32;
    hid_t stored = H5Dget_type(id);
    const char *name = ca_h5_type_of(stored, &type) ? ca_h5_type_name(type) : "other";
    ca_h5_close(stored);
    return name;
}

static ca_status visit_dataset(const visit *v, const char *path, hid_t id) {
    ca_status st = CA_OK;
    ca_result_entry entry = {.path = path, .type = stored_type_name(id)};
    char labels[CA_RESULT_MAX_RANK][64] = {{0}};
    hsize_t size[H5S_MAX_RANK] = {0};
    hid_t space = -1;
    CA_H5(CA_E_DATA, v->reader->path, path, space = H5Dget_space(id));
    const int rank = H5Sget_simple_extent_dims(space, size, NULL);
    if (rank < 0 || rank > CA_RESULT_MAX_RANK) {
        st = ca_fail(CA_E_DATA, "%s: %s: expected at most %d axes, got %d", v->reader->path, path,
                     CA_RESULT_MAX_RANK, rank);
        goto out;
    }
    entry.shape.rank = rank;
    for (int axis = 0; axis < rank; axis++) {
        entry.shape.size[axis] = (int64_t)size[axis];
        if (H5DSget_label(id, (unsigned)axis, labels[axis], sizeof labels[axis]) > 0) {
            entry.shape.label[axis] = labels[axis];
        }
    }
    CA_TRY(v->visitor(v->context, &entry));
out:
    ca_h5_close(space);
    return st;
}

static ca_status visit_group(const visit *v, const char *path, hid_t group, int depth);

/* Links to other files (the points of a sweep) are named, not followed. */
static ca_status visit_link(const visit *v, hid_t group, const char *path, const char *name,
                            const H5L_info_t *info) {
    ca_status st = CA_OK;
    char *value = NULL;
    const char *file = NULL, *object;
    ca_result_entry entry = {.path = path, .type = "link", .target = ""};
    CA_TRY(ca_calloc(info->u.val_size + 1, 1, &value));
    CA_H5(CA_E_DATA, v->reader->path, path,
          H5Lget_val(group, name, value, info->u.val_size, H5P_DEFAULT));
    if (info->type == H5L_TYPE_SOFT) entry.target = value;
    if (info->type == H5L_TYPE_EXTERNAL &&
        H5Lunpack_elink_val(value, info->u.val_size, NULL, &file, &object) >= 0)
        entry.target = file;
    CA_TRY(v->visitor(v->context, &entry));
out:
    free(value);
    return st;
}

static ca_status visit_child(const visit *v, hid_t group, const char *path, const char *name,
                             int depth) {
    ca_status st = CA_OK;
    ca_string child = {0};
    hid_t id = -1;
    H5L_info_t info;
    CA_TRY(ca_string_printf(&child, "%s/%s", path, name));
    CA_H5(CA_E_DATA, v->reader->path, child.text, H5Lget_info(group, name, &info, H5P_DEFAULT));
    if (info.type != H5L_TYPE_HARD) {
        st = visit_link(v, group, child.text, name, &info);
        goto out;
    }
    CA_H5(CA_E_DATA, v->reader->path, child.text, id = H5Oopen(group, name, H5P_DEFAULT));
    const H5I_type_t kind = H5Iget_type(id);
    if (kind == H5I_GROUP) {
        ca_result_entry entry = {.path = child.text, .group = true, .type = ""};
        CA_TRY(v->visitor(v->context, &entry));
        CA_TRY(visit_group(v, child.text, id, depth + 1));
    } else if (kind == H5I_DATASET) {
        CA_TRY(visit_dataset(v, child.text, id));
    }
out:
    ca_h5_close(id);
    ca_string_free(&child);
    return st;
}

static ca_status visit_group(const visit *v, const char *path, hid_t group, int depth) {
    ca_status st = CA_OK;
    char name[1024];
    H5G_info_t info;
    if (depth > MAX_DEPTH) {
        return ca_fail(CA_E_DATA, "%s: %s: expected at most %d nested groups, got more",
                       v->reader->path, path, MAX_DEPTH);
    }
    CA_H5(CA_E_DATA, v->reader->path, path, H5Gget_info(group, &info));
    const bool ordered = H5Lget_name_by_idx(group, ".", H5_INDEX_CRT_ORDER, H5_ITER_INC, 0, name,
                                            sizeof name, H5P_DEFAULT) >= 0;
    const H5_index_t order = ordered ? H5_INDEX_CRT_ORDER : H5_INDEX_NAME;
    for (hsize_t i = 0; i < info.nlinks; i++) {
        CA_H5(
            CA_E_DATA, v->reader->path, path,
            H5Lget_name_by_idx(group, ".", order, H5_ITER_INC, i, name, sizeof name, H5P_DEFAULT));
        CA_TRY(visit_child(v, group, path, name, depth));
    }
out:
    return st;
}

ca_status ca_result_reader_visit(ca_result_reader *reader, ca_result_visitor visitor,
                                 void *context) {
    ca_status st = CA_OK;
    const visit v = {.reader = reader, .visitor = visitor, .context = context};
    hid_t root = -1;
    CA_H5(CA_E_DATA, reader->path, "/", root = H5Gopen2(reader->file, "/", H5P_DEFAULT));
    CA_TRY(visit_group(&v, "", root, 0));
out:
    ca_h5_close(root);
    return st;
}
