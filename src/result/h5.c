/* SPDX-License-Identifier: MIT
 *
 * Types, error text and small lookups that the writer and the reader of result files share.
 */
#include "h5.h"

#include <assert.h>
#include <limits.h>
#include <string.h>

/* The library is told once, before its first call, not to flush open files at exit: after a failed
 * close (disk full) that handler walks freed objects. Every file is closed explicitly instead.
 * Its own printing is turned off because ca_h5_fail reports the same words in one line. */
void ca_h5_begin(void) {
    static bool begun = false;
    if (begun) return;
    begun = true;
    (void)H5dont_atexit();
    (void)H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

/* ---- error text */

enum { WORDS_MAX = PATH_MAX + 512 }; /* the words may hold a file name */

static herr_t keep_innermost(unsigned depth, const H5E_error2_t *entry, void *context) {
    char *words = context;
    if (depth == 0 && entry->desc != NULL) (void)snprintf(words, WORDS_MAX, "%s", entry->desc);
    return 0;
}

/* File drivers describe a failed system call as "... error message = 'No space left on device',
 * ..."; the words between the quotes are what a user needs. */
static const char *system_words(char *words) {
    static const char mark[] = "error message = '";
    char *start = strstr(words, mark);
    start = start != NULL ? start + sizeof mark - 1 : words;
    char *end = strpbrk(start, start != words ? "'\n" : "\n");
    if (end != NULL) *end = '\0';
    return start;
}

ca_status ca_h5_fail(ca_status st, const char *file, const char *place, const char *call) {
    char words[WORDS_MAX] = "";
    (void)H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, words);
    /* "space = H5Screate_simple(rank, ...)" names the call between '=' and '('. */
    const char *name = strstr(call, "H5");
    if (name == NULL) name = call;
    const char *reason = words[0] != '\0' ? system_words(words) : "failed";
    int length = (int)strcspn(name, "(");
    (void)ca_fail(st, "%s: %s: %.*s: %s", file, place, length, name, reason);
    if (strstr(reason, "lock") != NULL) {
        ca_hint("on a network file system without locks set HDF5_USE_FILE_LOCKING=FALSE");
    }
    return st;
}

/* ---- types */

static hid_t bool_type(void) {
    hid_t type = H5Tenum_create(H5T_NATIVE_INT8);
    int8_t value = 0;
    (void)H5Tenum_insert(type, "FALSE", &value);
    value = 1;
    (void)H5Tenum_insert(type, "TRUE", &value);
    return type;
}

static hid_t text_type(void) {
    hid_t type = H5Tcopy(H5T_C_S1);
    (void)H5Tset_size(type, H5T_VARIABLE);
    (void)H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
}

hid_t ca_h5_file_type(ca_result_type type) {
    switch (type) {
    case CA_RESULT_F32:
        return H5Tcopy(H5T_IEEE_F32LE);
    case CA_RESULT_F64:
        return H5Tcopy(H5T_IEEE_F64LE);
    case CA_RESULT_I32:
        return H5Tcopy(H5T_STD_I32LE);
    case CA_RESULT_I64:
        return H5Tcopy(H5T_STD_I64LE);
    case CA_RESULT_BOOL:
        return bool_type();
    case CA_RESULT_TEXT:
        return text_type();
    }
    assert(!"unknown result type");
    return H5I_INVALID_HID;
}

hid_t ca_h5_memory_type(ca_result_type type) {
    switch (type) {
    case CA_RESULT_F32:
        return H5Tcopy(H5T_NATIVE_FLOAT);
    case CA_RESULT_F64:
        return H5Tcopy(H5T_NATIVE_DOUBLE);
    case CA_RESULT_I32:
        return H5Tcopy(H5T_NATIVE_INT32);
    case CA_RESULT_I64:
        return H5Tcopy(H5T_NATIVE_INT64);
    case CA_RESULT_BOOL:
        return bool_type();
    case CA_RESULT_TEXT:
        return text_type();
    }
    assert(!"unknown result type");
    return H5I_INVALID_HID;
}

size_t ca_h5_type_size(ca_result_type type) {
    switch (type) {
    case CA_RESULT_F32:
        return sizeof(float);
    case CA_RESULT_F64:
        return sizeof(double);
    case CA_RESULT_I32:
        return sizeof(int32_t);
    case CA_RESULT_I64:
        return sizeof(int64_t);
    case CA_RESULT_BOOL:
        return sizeof(int8_t);
    case CA_RESULT_TEXT:
        return sizeof(char *);
    }
    assert(!"unknown result type");
    return 0;
}

const char *ca_h5_type_name(ca_result_type type) {
    static const char *const names[] = {
        [CA_RESULT_F32] = "f32", [CA_RESULT_F64] = "f64",   [CA_RESULT_I32] = "i32",
        [CA_RESULT_I64] = "i64", [CA_RESULT_BOOL] = "bool", [CA_RESULT_TEXT] = "text",
    };
    return names[type];
}

bool ca_h5_type_of(hid_t stored, ca_result_type *type) {
    size_t size = H5Tget_size(stored);
    switch (H5Tget_class(stored)) {
    case H5T_FLOAT:
        *type = size == 4 ? CA_RESULT_F32 : CA_RESULT_F64;
        return size == 4 || size == 8;
    case H5T_INTEGER:
        *type = size == 4 ? CA_RESULT_I32 : CA_RESULT_I64;
        return size == 4 || size == 8;
    case H5T_ENUM:
        *type = CA_RESULT_BOOL;
        return size == 1;
    case H5T_STRING:
        *type = CA_RESULT_TEXT;
        return H5Tis_variable_str(stored) > 0;
    default:
        return false;
    }
}

bool ca_h5_count(const ca_result_shape *shape, ca_result_type type, int64_t *count) {
    assert(shape->rank >= 0 && shape->rank <= CA_RESULT_MAX_RANK);
    size_t product = 1, bytes = 0;
    for (int axis = 0; axis < shape->rank; axis++) {
        if (shape->size[axis] < 0) return false;
        if (!ca_mul_size(product, (size_t)shape->size[axis], &product)) return false;
    }
    if (!ca_mul_size(product, ca_h5_type_size(type), &bytes) || bytes > INT64_MAX) return false;
    *count = (int64_t)product;
    return true;
}

/* ---- ids and paths */

void ca_h5_close(hid_t id) {
    if (id >= 0) (void)H5Idec_ref(id);
}

bool ca_h5_exists(hid_t file, const char *path) {
    if (strcmp(path, "/") == 0) return true;
    /* H5Lexists wants every parent to exist, so each prefix is asked for. */
    char prefix[PATH_MAX];
    if (strlen(path) >= sizeof prefix) return false;
    for (const char *end = path; end != NULL;) {
        end = strchr(end + 1, '/');
        size_t length = end != NULL ? (size_t)(end - path) : strlen(path);
        memcpy(prefix, path, length);
        prefix[length] = '\0';
        if (H5Lexists(file, prefix, H5P_DEFAULT) <= 0) return false;
    }
    return H5Oexists_by_name(file, path, H5P_DEFAULT) > 0;
}
