/* SPDX-License-Identifier: MIT
 *
 * Result files: the only door to HDF5. A file is written as `<path>.tmp` and renamed when it is
 * whole, so a file under its final name is complete. Written with dimension labels and scales,
 * readable by h5py >= 2.10 without plugins.
 */
#ifndef CAUSA_RESULT_H
#define CAUSA_RESULT_H

#include "causa/base.h"

typedef struct ca_result ca_result;

typedef enum ca_result_type {
    CA_RESULT_F32,
    CA_RESULT_F64,
    CA_RESULT_I32,
    CA_RESULT_I64,
    CA_RESULT_BOOL, /* int8 in memory, enum FALSE/TRUE in the file (numpy bool) */
    CA_RESULT_TEXT  /* const char *, UTF-8, variable length */
} ca_result_type;

enum { CA_RESULT_MAX_RANK = 5, CA_RESULT_SCHEMA_VERSION = 1 };

typedef struct ca_result_shape {
    int rank;
    int64_t size[CA_RESULT_MAX_RANK];
    const char *label[CA_RESULT_MAX_RANK]; /* "example", "token", "layer", ... */
} ca_result_shape;

/* Creates `<path>.tmp` (and missing parent directories of it are an error, not created: a typing
 * error in `output` should not make a tree; the default folder results/ is made by the caller).
 * Errors: CA_E_IO when the folder is missing or read-only or the disk is full. */
ca_status ca_result_create(const char *path, ca_result **out) CA_MUST_USE;
/* Opens the checkpoint that ca_result_checkpoint left for `path`, to go on writing. *out is NULL
 * and the status CA_OK when there is none, or when its config_sha256 differs (logged).
 * next: the value given to ca_result_checkpoint. */
ca_status ca_result_resume(const char *path, const char *config_sha256, ca_result **out,
                           int64_t *next) CA_MUST_USE;
/* Writes status = "complete", closes, fsyncs, renames; removes a checkpoint. Frees the result. */
ca_status ca_result_finish(ca_result *result) CA_MUST_USE;
/* Writes status = "partial" and next, closes, renames to `<path>.checkpoint`. Frees the result. */
ca_status ca_result_checkpoint(ca_result *result, int64_t next) CA_MUST_USE;
/* Removes the .tmp file. Frees the result. NULL is allowed. */
void ca_result_abandon(ca_result *result);

/* Attributes of an object ("/" is the file). Missing groups are created. Existing ones replaced. */
ca_status ca_result_attribute_text(ca_result *r, const char *object, const char *name, const char *value) CA_MUST_USE;
ca_status ca_result_attribute_int(ca_result *r, const char *object, const char *name, int64_t value) CA_MUST_USE;
ca_status ca_result_attribute_float(ca_result *r, const char *object, const char *name, double value) CA_MUST_USE;
ca_status ca_result_attribute_texts(ca_result *r, const char *object, const char *name,
                                    const char *const *values, int64_t count) CA_MUST_USE;

/* A whole dataset in one call: "/attribution/semantic/score". Missing groups are created. */
ca_status ca_result_put(ca_result *r, const char *dataset, ca_result_type type,
                        ca_result_shape shape, const void *data) CA_MUST_USE;
/* A dataset of known shape that is filled part by part along its first axis. Rows never written
 * read as NaN, -1, false or "". */
ca_status ca_result_reserve(ca_result *r, const char *dataset, ca_result_type type,
                            ca_result_shape shape) CA_MUST_USE;
ca_status ca_result_write(ca_result *r, const char *dataset, int64_t first, int64_t count,
                          const void *data) CA_MUST_USE;
/* Reads a whole numeric or boolean dataset of the file being written back into `data`. */
ca_status ca_result_read_back(ca_result *r, const char *dataset, void *data) CA_MUST_USE;
bool ca_result_has(ca_result *r, const char *object);
/* The group of what only a checkpoint holds, the begun work of an example that is not finished.
 * ca_result_finish removes it. */
#define CA_RESULT_UNFINISHED "/unfinished"
/* Makes the 1-d dataset `scale` the dimension scale of an axis of `dataset`. */
ca_status ca_result_scale(ca_result *r, const char *dataset, int axis, const char *scale) CA_MUST_USE;
/* A link to the root of another file, relative path as given: index.h5 of a sweep. */
ca_status ca_result_link(ca_result *r, const char *name, const char *file) CA_MUST_USE;

/* ---- reading, for `inspect`, `--resume` and sweeps */

typedef struct ca_result_reader ca_result_reader;
/* Errors: CA_E_DATA when the file is no HDF5 file or no result of this tool. */
ca_status ca_result_reader_open(const char *path, ca_result_reader **out) CA_MUST_USE;
/* Opens any HDF5 file, for reference values that other tools wrote. */
ca_status ca_result_reader_open_any(const char *path, ca_result_reader **out) CA_MUST_USE;
void ca_result_reader_close(ca_result_reader *reader);
/* Attributes of an object; false when absent. Text is owned by the reader. */
bool ca_result_reader_text(ca_result_reader *reader, const char *object, const char *name, const char **value);
bool ca_result_reader_int(ca_result_reader *reader, const char *object, const char *name, int64_t *value);
bool ca_result_reader_float(ca_result_reader *reader, const char *object, const char *name, double *value);

typedef struct ca_result_entry {
    const char *path;
    bool group;
    const char *type; /* "f32", "i64", "text", "bool"; "" for groups; "link" for links */
    const char *target; /* of a link: the file or object that it names; else NULL */
    ca_result_shape shape;
} ca_result_entry;
typedef ca_status (*ca_result_visitor)(void *context, const ca_result_entry *entry);
/* Visits all objects in creation order, groups before their members. */
ca_status ca_result_reader_visit(ca_result_reader *reader, ca_result_visitor visitor, void *context) CA_MUST_USE;
/* Names and values of an object's attributes as text, in creation order. */
typedef ca_status (*ca_result_attribute_visitor)(void *context, const char *name, const char *value);
ca_status ca_result_reader_attributes(ca_result_reader *reader, const char *object,
                                      ca_result_attribute_visitor visitor, void *context) CA_MUST_USE;
bool ca_result_reader_has(ca_result_reader *reader, const char *object);
/* Sizes of a dataset, without labels. Errors: CA_E_DATA when there is none. */
ca_status ca_result_reader_shape(ca_result_reader *reader, const char *dataset,
                                 ca_result_shape *out) CA_MUST_USE;
/* A whole numeric dataset as float64, owned by the caller; count = elements. Errors: CA_E_DATA. */
ca_status ca_result_reader_floats(ca_result_reader *reader, const char *dataset, double **values,
                                  int64_t *count) CA_MUST_USE;
/* One entry of the first axis of a boolean dataset, owned by the caller. Errors: CA_E_DATA. */
ca_status ca_result_reader_bools(ca_result_reader *reader, const char *dataset, int64_t row,
                                 bool **values, int64_t *count) CA_MUST_USE;
/* A whole dataset of texts, owned by the reader. Errors: CA_E_DATA. */
ca_status ca_result_reader_texts(ca_result_reader *reader, const char *dataset,
                                 const char *const **values, int64_t *count) CA_MUST_USE;

/* True when `path` is a complete result whose config_sha256 equals the given one. */
bool ca_result_is_complete(const char *path, const char *config_sha256);

#endif
