/* SPDX-License-Identifier: MIT
 *
 * Prompt files of the tests of src/data: written, opened with options, removed.
 */
#ifndef CAUSA_TESTS_DATA_FILES_H
#define CAUSA_TESTS_DATA_FILES_H

#include "causa/position.h"

enum { VOCAB = 640, POSITIONS = 20 };

extern const ca_option *const data_tables[];
extern ca_tokenizer *tokenizer; /* GPT-2's */
extern ca_config *config;       /* of the file opened last */

ca_status open_bytes(const char *name, const char *content, size_t size, const char *options,
                     const ca_tokenizer *with, ca_data_needs needs, ca_dataset **out);
/* With the tokenizer. options: lines of YAML, `positions:` among them. */
ca_dataset *must_open(const char *name, const char *content, const char *options);
/* A message has these words and the file, or the config for other errors. */
void expect_error(ca_status got, const char *words);
/* Opening must fail with CA_E_DATA and a message with the file and these words. */
void refuse_data(const char *name, const char *content, const char *words);

int set_up_data(void **state);
int tear_down_data(void **state);

#endif
