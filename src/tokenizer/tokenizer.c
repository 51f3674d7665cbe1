/* SPDX-License-Identifier: MIT
 *
 * Opens a tokenizer from a model directory, a tokenizer.json or a GGUF file, and answers questions
 * about its vocabulary. Encoding is in encode.c, decoding in decoder.c.
 */
#include "pipeline.h"

#include "causa/gguf.h"

#include <stdlib.h>
#include <string.h>

static ca_status read_directory(ca_tokenizer *t, const char *path) {
    ca_status st = CA_OK;
    char *file = NULL;
    CA_TRY(ca_path_join(path, "tokenizer.json", &file));
    if (!ca_file_exists(file))
        CA_TRY(ca_fail(CA_E_MODEL,
                       "%s: expected a file tokenizer.json in the model directory, got "
                       "none",
                       path));
    CA_TRY(ca_tok_read_json(t, file));
out:
    free(file);
    return st;
}

/* "byte-level BPE, 49152 tokens, adds no BOS" */
static ca_status describe(ca_tokenizer *t) {
    const char *kind = t->bpe.byte_level      ? "byte-level BPE"
                       : t->bpe.byte_fallback ? "character BPE with byte fallback"
                                              : "character BPE";
    if (t->bos < 0)
        return ca_arena_printf(t->arena, &t->description, "%s, %lld tokens, adds no BOS", kind,
                               (long long)t->count);
    return ca_arena_printf(t->arena, &t->description, "%s, %lld tokens, adds BOS %s", kind,
                           (long long)t->count, t->token[t->bos].text);
}

ca_status ca_tokenizer_open(const char *path, ca_tokenizer **out) {
    ca_status st = CA_OK;
    ca_tokenizer *t = NULL;
    *out = NULL;
    CA_TRY(ca_calloc(1, sizeof *t, &t));
    CA_TRY(ca_arena_create(&t->arena));
    t->bos = t->default_bos = t->eos = t->pad = -1;
    if (ca_is_directory(path))
        CA_TRY(read_directory(t, path));
    else if (ca_gguf_is(path))
        CA_TRY(ca_tok_read_gguf(t, path));
    else
        CA_TRY(ca_tok_read_json(t, path));
    if (t->bos >= 0) t->default_bos = t->bos;
    CA_TRY(ca_tok_tries_build(t));
    CA_TRY(describe(t));
    *out = t;
    t = NULL;
out:
    ca_tokenizer_free(t);
    return st;
}

void ca_tokenizer_free(ca_tokenizer *t) {
    if (t == NULL) return;
    ca_tok_components_free(&t->normalizers);
    ca_tok_components_free(&t->pretokenizers);
    ca_tok_components_free(&t->postprocessors);
    ca_tok_components_free(&t->decoders);
    ca_tok_trie_free(&t->raw);
    ca_tok_trie_free(&t->normalized);
    free(t->words.slot);
    free(t->extras.slot);
    free(t->bpe.merge);
    ca_arena_destroy(t->arena);
    free(t);
}

const char *ca_tokenizer_token(const ca_tokenizer *t, int32_t id) {
    return id < 0 || id >= t->size ? NULL : t->token[id].text;
}

int32_t ca_tokenizer_id(const ca_tokenizer *t, const char *token) {
    return ca_tok_id(t, token, strlen(token));
}

bool ca_tokenizer_is_special(const ca_tokenizer *t, int32_t id) {
    return id >= 0 && id < t->size && t->token[id].special;
}

int64_t ca_tokenizer_size(const ca_tokenizer *t) { return t->size; }

int32_t ca_tokenizer_bos(const ca_tokenizer *t) { return t->bos; }

int32_t ca_tokenizer_default_bos(const ca_tokenizer *t) { return t->default_bos; }

int32_t ca_tokenizer_eos(const ca_tokenizer *t) { return t->eos; }

int32_t ca_tokenizer_pad(const ca_tokenizer *t) { return t->pad; }

const char *ca_tokenizer_description(const ca_tokenizer *t) { return t->description; }

const char *ca_tokenizer_sha256(const ca_tokenizer *t) { return t->sha256; }
