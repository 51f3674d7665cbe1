/* SPDX-License-Identifier: MIT
 *
 * Writes attributes of result files: scalars and lists of text, always UTF-8 of variable length so
 * that h5py gives str.
 */
#include "writer.h"

#include <assert.h>
#include <string.h>

/* One ill-formed byte at a time becomes U+FFFD, as decoders do with errors="replace". */
static ca_status repair(ca_arena *arena, const char *text, const char **out) {
    static const char replacement[] = "\xEF\xBF\xBD";
    ca_string clean = {0};
    ca_status st = CA_OK;
    char *copy = NULL;
    size_t left = strlen(text);
    for (int64_t bad; (bad = ca_utf8_invalid(text, left)) >= 0;) {
        CA_TRY(ca_string_append(&clean, text, (size_t)bad));
        CA_TRY(ca_string_append(&clean, replacement, sizeof replacement - 1));
        text += bad + 1;
        left -= (size_t)bad + 1;
    }
    CA_TRY(ca_string_append(&clean, text, left));
    CA_TRY(ca_arena_strdup(arena, clean.text, clean.length, &copy));
    *out = copy;
out:
    ca_string_free(&clean);
    return st;
}

ca_status ca_result_clean_texts(ca_arena *arena, const char *const *texts, int64_t count,
                                const char ***out) {
    ca_status st = CA_OK;
    const char **clean = NULL;
    size_t bytes = 0;
    if (!ca_mul_size((size_t)count + 1, sizeof *clean, &bytes)) {
        return ca_fail(CA_E_MEMORY, "a list of %lld texts is too long", (long long)count);
    }
    CA_TRY(ca_arena_alloc(arena, bytes, &clean));
    for (int64_t i = 0; i < count; i++) {
        const char *text = texts[i] != NULL ? texts[i] : "";
        clean[i] = text;
        if (ca_utf8_invalid(text, strlen(text)) >= 0) CA_TRY(repair(arena, text, &clean[i]));
    }
    *out = clean;
out:
    return st;
}

/* Opens the object that gets the attribute; a missing one is made as a group. */
static ca_status open_object(ca_result *r, const char *object, hid_t *out) {
    ca_status st = CA_OK;
    if (!ca_h5_exists(r->file, object)) return ca_result_group(r, object, strlen(object), out);
    CA_H5(CA_E_IO, r->temporary, object, *out = H5Oopen(r->file, object, H5P_DEFAULT));
out:
    return st;
}

/* An existing attribute of the same type and size keeps its place in the listing. */
static bool fits(hid_t attribute, hid_t type, hid_t space) {
    hid_t old_type = H5Aget_type(attribute), old_space = H5Aget_space(attribute);
    bool same = H5Tequal(old_type, type) > 0 && H5Sextent_equal(old_space, space) > 0;
    ca_h5_close(old_type);
    ca_h5_close(old_space);
    return same;
}

/* data: what H5Awrite takes for the type; count < 0 means a scalar. */
static ca_status put(ca_result *r, const char *object, const char *name, ca_result_type type,
                     int64_t count, const void *data) {
    ca_status st = CA_OK;
    hid_t parent = -1, file_type = -1, memory_type = -1, space = -1, attribute = -1;
    hsize_t size = count > 0 ? (hsize_t)count : 0;
    CA_TRY(open_object(r, object, &parent));
    CA_H5(CA_E_IO, r->temporary, name, file_type = ca_h5_file_type(type));
    CA_H5(CA_E_IO, r->temporary, name, memory_type = ca_h5_memory_type(type));
    space = count < 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, &size, NULL);
    CA_H5(CA_E_IO, r->temporary, name, space);
    if (H5Aexists(parent, name) > 0) {
        CA_H5(CA_E_IO, r->temporary, name, attribute = H5Aopen(parent, name, H5P_DEFAULT));
        if (!fits(attribute, file_type, space)) {
            ca_h5_close(attribute);
            attribute = -1;
            CA_H5(CA_E_IO, r->temporary, name, H5Adelete(parent, name));
        }
    }
    if (attribute < 0) {
        CA_H5(CA_E_IO, r->temporary, name,
              attribute = H5Acreate2(parent, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT));
    }
    if (count != 0) CA_H5(CA_E_IO, r->temporary, name, H5Awrite(attribute, memory_type, data));
out:
    ca_h5_close(attribute);
    ca_h5_close(space);
    ca_h5_close(memory_type);
    ca_h5_close(file_type);
    ca_h5_close(parent);
    return st;
}

static ca_status put_texts(ca_result *r, const char *object, const char *name,
                           const char *const *values, int64_t length, int64_t count) {
    ca_status st = CA_OK;
    ca_arena *arena = NULL;
    const char **clean = NULL;
    CA_TRY(ca_arena_create(&arena));
    CA_TRY(ca_result_clean_texts(arena, values, length, &clean));
    CA_TRY(put(r, object, name, CA_RESULT_TEXT, count, clean));
out:
    ca_arena_destroy(arena);
    return st;
}

ca_status ca_result_attribute_text(ca_result *r, const char *object, const char *name,
                                   const char *value) {
    return put_texts(r, object, name, &value, 1, -1);
}

ca_status ca_result_attribute_texts(ca_result *r, const char *object, const char *name,
                                    const char *const *values, int64_t count) {
    assert(count >= 0);
    return put_texts(r, object, name, values, count, count);
}

ca_status ca_result_attribute_int(ca_result *r, const char *object, const char *name,
                                  int64_t value) {
    return put(r, object, name, CA_RESULT_I64, -1, &value);
}

ca_status ca_result_attribute_float(ca_result *r, const char *object, const char *name,
                                    double value) {
    return put(r, object, name, CA_RESULT_F64, -1, &value);
}
