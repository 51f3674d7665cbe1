/* SPDX-License-Identifier: MIT
 *
 * Text <-> token ids, with the ids that Hugging Face's `tokenizers` gives. Reads tokenizer.json of
 * a model directory, or the vocabulary inside a GGUF file. Immutable once opened.
 */
#ifndef CAUSA_TOKENIZER_H
#define CAUSA_TOKENIZER_H

#include "causa/base.h"

typedef struct ca_tokenizer ca_tokenizer;

/* path: a model directory, a tokenizer.json or a GGUF file.
 * Errors: CA_E_MODEL naming the file, the place in it and what is not supported. */
ca_status ca_tokenizer_open(const char *path, ca_tokenizer **out) CA_MUST_USE;
void ca_tokenizer_free(ca_tokenizer *tokenizer);

typedef struct ca_encoding {
    int64_t count;
    int32_t *ids;
    int64_t *start, *end; /* bytes of the text that a token covers; 0, 0 for added specials */
} ca_encoding;
void ca_encoding_free(ca_encoding *encoding);

/* text     [length] UTF-8
 * special  add BOS and the like as the post-processor says
 * Errors: CA_E_DATA with the byte offset when the text is not UTF-8. */
ca_status ca_tokenizer_encode(const ca_tokenizer *tokenizer, const char *text, size_t length,
                              bool special, ca_encoding *out) CA_MUST_USE;
/* Appends the text of ids; bytes that form no character become U+FFFD as in `tokenizers`. */
ca_status ca_tokenizer_decode(const ca_tokenizer *tokenizer, const int32_t *ids, int64_t count,
                              bool skip_special, ca_string *out) CA_MUST_USE;
/* The vocabulary's own spelling of a token (byte-level letters), or NULL for an unknown id. */
const char *ca_tokenizer_token(const ca_tokenizer *tokenizer, int32_t id);
/* The id spelled exactly so in the vocabulary or the added tokens, or -1. */
int32_t ca_tokenizer_id(const ca_tokenizer *tokenizer, const char *token);
bool ca_tokenizer_is_special(const ca_tokenizer *tokenizer, int32_t id);

/* Largest id + 1. */
int64_t ca_tokenizer_size(const ca_tokenizer *tokenizer);
/* The id that the post-processor puts first, or -1 when it adds none. */
int32_t ca_tokenizer_bos(const ca_tokenizer *tokenizer);
/* Id to use when the user asks for a BOS (`bos: true`): the post-processor's, else the bos_token
 * of tokenizer_config.json or tokenizer.ggml.bos_token_id, else -1. */
int32_t ca_tokenizer_default_bos(const ca_tokenizer *tokenizer);
/* eos_token and pad_token of tokenizer_config.json, or tokenizer.ggml.eos_token_id and
 * padding_token_id; -1 where none is named. */
int32_t ca_tokenizer_eos(const ca_tokenizer *tokenizer);
int32_t ca_tokenizer_pad(const ca_tokenizer *tokenizer);
/* "byte-level BPE, 49152 tokens, adds no BOS" */
const char *ca_tokenizer_description(const ca_tokenizer *tokenizer);
/* SHA-256 of tokenizer.json (or of the GGUF vocabulary), hex. */
const char *ca_tokenizer_sha256(const ca_tokenizer *tokenizer);

#endif
