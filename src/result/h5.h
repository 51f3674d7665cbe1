/* SPDX-License-Identifier: MIT
 *
 * What the files of this folder share: the HDF5 types of ca_result_type, turning a failed HDF5
 * call into one line of text, closing ids. Nothing outside src/result sees an hid_t.
 */
#ifndef CAUSA_RESULT_H5_H
#define CAUSA_RESULT_H5_H

#include <hdf5.h>

#include "causa/result.h"

/* Runs an HDF5 call whose negative value means failure; on failure stores
 * "file: place: H5Xcall: the library's words" and jumps to `out:`. */
#define CA_H5(status, file, place, call)                                                           \
    do {                                                                                           \
        if ((int64_t)(call) < 0) {                                                                 \
            st = ca_h5_fail(status, file, place, #call);                                           \
            goto out;                                                                              \
        }                                                                                          \
    } while (0)

/* To be called before the first HDF5 call of every public function that opens or creates a file. */
void ca_h5_begin(void);
ca_status ca_h5_fail(ca_status st, const char *file, const char *place, const char *call);

/* A new datatype id, closed by the caller: little-endian in the file, native in memory. */
hid_t ca_h5_file_type(ca_result_type type);
hid_t ca_h5_memory_type(ca_result_type type);
size_t ca_h5_type_size(ca_result_type type); /* bytes of one element in memory */
/* Which of our types a stored type is; false when it is none of them. */
bool ca_h5_type_of(hid_t stored, ca_result_type *type);
const char *ca_h5_type_name(ca_result_type type); /* "f32", "f64", "i32", "i64", "bool", "text" */

/* Elements of a shape; false when a size is negative or the bytes do not fit size_t. */
bool ca_h5_count(const ca_result_shape *shape, ca_result_type type, int64_t *count);

/* Closes an id of any kind; negative ids are ignored. */
void ca_h5_close(hid_t id);

/* Whether an object of this path exists ("/" always does); no error is left behind. */
bool ca_h5_exists(hid_t file, const char *path);

#endif
