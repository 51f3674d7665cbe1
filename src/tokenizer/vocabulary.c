/* SPDX-License-Identifier: MIT
 *
 * The token table (id to text) and the dictionaries (text to id): one for the model's vocabulary,
 * one for added tokens. Filled while a tokenizer is opened, constant afterwards.
 */
#include "pipeline.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* FNV-1a with a final mix: the slots are the low bits. */
static uint64_t hash_text(const char *text, size_t length) {
    uint64_t hash = 0xCBF29CE484222325u;
    for (size_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)text[i]) * 0x100000001B3u;
    return hash ^ hash >> 32;
}

ca_status ca_tok_dictionary_create(ca_tok_dictionary *d, int64_t count) {
    ca_status st = CA_OK;
    uint64_t slots = 16;
    while (slots < 2 * (uint64_t)count) slots *= 2;
    CA_TRY(ca_calloc(slots, sizeof *d->slot, &d->slot));
    for (uint64_t i = 0; i < slots; i++) d->slot[i] = -1;
    d->mask = slots - 1;
out:
    return st;
}

/* The slot that holds the text, or the free one where it belongs. */
static int32_t *find_slot(const ca_tok_dictionary *d, const ca_tokenizer *t, const char *text,
                          size_t length) {
    uint64_t at = hash_text(text, length) & d->mask;
    while (d->slot[at] >= 0) {
        const ca_tok_token *token = &t->token[d->slot[at]];
        if (token->length == length && memcmp(token->text, text, length) == 0) break;
        at = (at + 1) & d->mask;
    }
    return &d->slot[at];
}

int32_t ca_tok_dictionary_add(ca_tok_dictionary *d, const ca_tokenizer *t, int32_t id) {
    int32_t *slot = find_slot(d, t, t->token[id].text, t->token[id].length);
    if (*slot >= 0) return *slot;
    *slot = id;
    return -1;
}

int32_t ca_tok_dictionary_find(const ca_tok_dictionary *d, const ca_tokenizer *t, const char *text,
                               size_t length) {
    return *find_slot(d, t, text, length);
}

ca_status ca_tok_vocabulary_reserve(ca_tokenizer *t, int64_t count) {
    enum { SPARE = 1024 };
    ca_status st = CA_OK;
    if (count > INT32_MAX / 8)
        return ca_fail(CA_E_MODEL, "vocabulary: expected at most %d tokens, got %lld",
                       INT32_MAX / 8, (long long)count);
    t->limit = 4 * count + SPARE;
    CA_TRY(ca_arena_alloc(t->arena, (size_t)t->limit * sizeof *t->token, &t->token));
    CA_TRY(ca_tok_dictionary_create(&t->words, count));
    CA_TRY(ca_tok_dictionary_create(&t->extras, count));
out:
    return st;
}

static ca_status check_id(const ca_tokenizer *t, const char *text, int64_t id) {
    if (id < 0)
        return ca_fail(CA_E_MODEL, "token '%.80s': expected an id of at least 0, got %lld", text,
                       (long long)id);
    if (id >= t->limit)
        return ca_fail(CA_E_MODEL,
                       "token '%.80s': expected an id that a vocab_size for these tokens can "
                       "hold (below %lld), got %lld",
                       text, (long long)t->limit, (long long)id);
    return CA_OK;
}

/* Puts a token into the table; the place must be free. */
static ca_status place(ca_tokenizer *t, const ca_tok_token *token, int64_t id) {
    ca_status st = CA_OK;
    ca_tok_token *held = &t->token[id];
    char *text;
    if (held->text != NULL)
        return ca_fail(CA_E_MODEL,
                       "token '%.80s': expected an id of its own, got id %lld of "
                       "'%.80s'",
                       token->text, (long long)id, held->text);
    CA_TRY(ca_arena_strdup(t->arena, token->text, token->length, &text));
    *held = *token;
    held->text = text;
    if (id >= t->size) t->size = id + 1;
    t->count++;
out:
    return st;
}

ca_status ca_tok_vocabulary_add(ca_tokenizer *t, const char *text, size_t length, int64_t id) {
    ca_status st = CA_OK;
    ca_tok_token token = {.text = text, .length = length};
    CA_TRY(check_id(t, text, id));
    CA_TRY(place(t, &token, id));
    int32_t taken = ca_tok_dictionary_add(&t->words, t, (int32_t)id);
    if (taken >= 0)
        CA_TRY(ca_fail(CA_E_MODEL, "token '%.80s': expected one id, got %d and %lld", text, taken,
                       (long long)id));
out:
    return st;
}

ca_status ca_tok_vocabulary_add_extra(ca_tokenizer *t, const ca_tok_token *token, int64_t id) {
    ca_status st = CA_OK;
    CA_TRY(check_id(t, token->text, id));
    int32_t known = ca_tok_dictionary_find(&t->words, t, token->text, token->length);
    if (known >= 0 && known != id)
        CA_TRY(ca_fail(CA_E_MODEL,
                       "added token '%.80s': expected id %d of the vocabulary, got %lld",
                       token->text, known, (long long)id));
    if (known >= 0) { /* the same token: only the flags are new */
        const char *text = t->token[id].text;
        t->token[id] = *token;
        t->token[id].text = text;
    } else {
        CA_TRY(place(t, token, id));
    }
    int32_t taken = ca_tok_dictionary_add(&t->extras, t, (int32_t)id);
    if (taken >= 0)
        CA_TRY(ca_fail(CA_E_MODEL,
                       "added token '%.80s': expected it once, got it again with id "
                       "%lld",
                       token->text, (long long)id));
out:
    return st;
}

int32_t ca_tok_id(const ca_tokenizer *t, const char *text, size_t length) {
    int32_t id = ca_tok_dictionary_find(&t->extras, t, text, length);
    return id >= 0 ? id : ca_tok_dictionary_find(&t->words, t, text, length);
}
