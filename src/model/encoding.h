/* SPDX-License-Identifier: MIT
 *
 * How numbers are stored in weight files: plain floats and the block-quantised GGUF types.
 */
#ifndef CAUSA_MODEL_ENCODING_H
#define CAUSA_MODEL_ENCODING_H

#include <stddef.h>
#include <stdint.h>

enum { CA_MAX_BLOCK_VALUES = 256 }; /* a multiple of the block of every encoding */

typedef struct ca_encoding {
    const char *name; /* as safetensors and GGML spell it */
    int ggml_type;
    int64_t block_values; /* consecutive values that share a block */
    size_t block_bytes;
    /* out [blocks * block_values], in [blocks * block_bytes], any alignment */
    void (*decode)(float *out, const unsigned char *in, int64_t blocks);
} ca_encoding;

/* NULL when the type is unknown or cannot be decoded. */
const ca_encoding *ca_encoding_by_name(const char *name);
const ca_encoding *ca_encoding_by_ggml_type(uint32_t type);
/* Name of a GGML type, decodable or not: "Q2_K"; "unknown" beyond the list. */
const char *ca_ggml_type_name(uint32_t type);
/* "F32, F16, BF16, Q4_0, …", for messages. */
const char *ca_encoding_names(void);

#endif
