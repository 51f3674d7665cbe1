/* SPDX-License-Identifier: MIT
 *
 * The object behind ca_result, shared by file.c (life of the file), attribute.c and dataset.c.
 */
#ifndef CAUSA_RESULT_WRITER_H
#define CAUSA_RESULT_WRITER_H

#include "h5.h"

/* A dataset that is being filled. It stays open until the file is closed: its chunk cache is what
 * makes many small writes cheap. */
typedef struct ca_open_dataset {
    char *name;
    hid_t id;
} ca_open_dataset;

struct ca_result {
    char *path;      /* final name */
    char *temporary; /* path + ".tmp", the file that is open */
    hid_t file;
    ca_open_dataset *datasets;
    int64_t dataset_count, dataset_capacity;
};

/* Opens a group, making it and its parents when they are missing; the caller closes *out.
 * path: absolute, "/" is the root; length: bytes of it that count. */
ca_status ca_result_group(ca_result *r, const char *path, size_t length, hid_t *out) CA_MUST_USE;

/* Texts as HDF5 takes them: every byte that is not UTF-8 (half a character in a token piece)
 * becomes U+FFFD, so that every string in a file decodes. Memory lives in the arena. */
ca_status ca_result_clean_texts(ca_arena *arena, const char *const *texts, int64_t count,
                                const char ***out) CA_MUST_USE;

#endif
