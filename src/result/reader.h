/* SPDX-License-Identifier: MIT
 *
 * The object behind ca_result_reader, shared by read.c (attributes, objects) and values.c (data).
 */
#ifndef CAUSA_RESULT_READER_H
#define CAUSA_RESULT_READER_H

#include "h5.h"

struct ca_result_reader {
    char *path;
    hid_t file;
    ca_arena *arena; /* texts given out */
};

#endif
