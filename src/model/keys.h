/* SPDX-License-Identifier: MIT
 *
 * Typed, checked access to one group of configuration keys: an object of config.json or the keys
 * of a GGUF file that share a prefix. Messages name file and key.
 */
#ifndef CAUSA_MODEL_KEYS_H
#define CAUSA_MODEL_KEYS_H

#include "checkpoint.h"

typedef struct ca_keys {
    const char *file;
    char prefix[48]; /* "rope_scaling." in messages; "llama." also part of the GGUF key */
    json_t *object;  /* NULL for GGUF */
    const ca_gguf *gguf;
} ca_keys;

/* True when the key is there and not null. A NULL key is never there. */
bool ca_keys_has(const ca_keys *keys, const char *key);
/* An object inside an object; its keys are "key.…" in messages. Errors: CA_E_MODEL. */
ca_status ca_keys_object(const ca_keys *keys, const char *key, ca_keys *inner) CA_MUST_USE;

/* Required values: absent ones are errors too. */
ca_status ca_keys_int(const ca_keys *keys, const char *key, int64_t least, int64_t most,
                      int64_t *value) CA_MUST_USE;
/* Finite and greater than zero. */
ca_status ca_keys_positive(const ca_keys *keys, const char *key, double *value) CA_MUST_USE;
ca_status ca_keys_bool(const ca_keys *keys, const char *key, bool *value) CA_MUST_USE;
/* Cut to `size` - 1 bytes, which only texts that match no known name reach. */
ca_status ca_keys_text(const ca_keys *keys, const char *key, char *text, size_t size) CA_MUST_USE;

#endif
