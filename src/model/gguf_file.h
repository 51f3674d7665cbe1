/* SPDX-License-Identifier: MIT
 *
 * What the model loader needs of a GGUF file beyond the public reader.
 */
#ifndef CAUSA_MODEL_GGUF_FILE_H
#define CAUSA_MODEL_GGUF_FILE_H

#include "causa/gguf.h"

int ca_gguf_version(const ca_gguf *g);
bool ca_gguf_has(const ca_gguf *g, const char *key);
/* Everything before the tensor data: magic, metadata, tensor table. */
const unsigned char *ca_gguf_header(const ca_gguf *g, size_t *size);

#endif
