/* SPDX-License-Identifier: MIT
 *
 * Temporary model directories for the tests of the model loader.
 */
#ifndef CAUSA_TESTS_MODEL_FILES_H
#define CAUSA_TESTS_MODEL_FILES_H

#include "causa/base.h"

#define MODELS "tests/fixtures/models/"

/* Fails the test with the stored error text. */
void check(ca_status st);
void make_directory(char directory[64]);
/* Removes the directory with every file that these tests put into one. */
void remove_directory(const char *directory);
void write_file(const char *directory, const char *name, const void *bytes, size_t size);
/* A symbolic link, as in the cache of the Hugging Face hub. */
void link_file(const char *directory, const char *name, const char *target);
/* The text of a file with the first `from` replaced by `to`, which must occur. */
char *edited(const char *path, const char *from, const char *to);
/* Opening the model at `path` must fail with CA_E_MODEL and this text in the message. */
void refuse(const char *path, const char *text);

#endif
