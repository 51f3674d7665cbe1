/* SPDX-License-Identifier: MIT
 *
 * Reader of GGUF files: key-value metadata and tensor table over a memory map. Used by the model
 * loader (weights) and the tokenizer (vocabulary and merges).
 */
#ifndef CAUSA_GGUF_H
#define CAUSA_GGUF_H

#include "causa/base.h"

typedef struct ca_gguf ca_gguf;

typedef struct ca_gguf_string { /* not NUL-terminated; points into the map */
    const char *text;
    uint64_t length;
} ca_gguf_string;

typedef struct ca_gguf_tensor {
    ca_gguf_string name;
    int type; /* GGML type number */
    int rank;
    int64_t shape[4]; /* slowest first, as [out, in] */
    const unsigned char *data;
    size_t bytes;
} ca_gguf_tensor;

/* True when the file begins with the GGUF magic. */
bool ca_gguf_is(const char *path);
/* Checks the whole structure: counts, lengths, types, offsets, alignment. Errors: CA_E_MODEL. */
ca_status ca_gguf_open(const char *path, ca_gguf **out) CA_MUST_USE;
void ca_gguf_close(ca_gguf *g);
/* Gives back the memory of the pages that were read. */
void ca_gguf_forget(const ca_gguf *gguf);
const char *ca_gguf_path(const ca_gguf *g);

/* Metadata; false when the key is absent or of another kind. Integers of any width convert. */
bool ca_gguf_int(const ca_gguf *g, const char *key, int64_t *value);
bool ca_gguf_float(const ca_gguf *g, const char *key, double *value);
bool ca_gguf_bool(const ca_gguf *g, const char *key, bool *value);
bool ca_gguf_text(const ca_gguf *g, const char *key, ca_gguf_string *value);
/* Arrays: element count, or -1. Elements of string arrays are indexed when the file is opened. */
int64_t ca_gguf_array_length(const ca_gguf *g, const char *key);
bool ca_gguf_array_text(const ca_gguf *g, const char *key, int64_t index, ca_gguf_string *value);
bool ca_gguf_array_int(const ca_gguf *g, const char *key, int64_t index, int64_t *value);
bool ca_gguf_array_float(const ca_gguf *g, const char *key, int64_t index, double *value);

int64_t ca_gguf_tensor_count(const ca_gguf *g);
const ca_gguf_tensor *ca_gguf_tensor_at(const ca_gguf *g, int64_t index);
const ca_gguf_tensor *ca_gguf_tensor_find(const ca_gguf *g, const char *name); /* NULL when absent */

#endif
