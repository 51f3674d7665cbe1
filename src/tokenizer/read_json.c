/* SPDX-License-Identifier: MIT
 *
 * Reads tokenizer.json: vocabulary, merges, added tokens and the four lists of components.
 * Whatever would change ids and is not supported is refused with its name.
 */
#include "pipeline.h"

#include <stdlib.h>
#include <string.h>

/* ---- model ------------------------------------------------------------------------------- */

static ca_status read_vocabulary(ca_tokenizer *t, json_t *vocab) {
    ca_status st = CA_OK;
    const char *text;
    json_t *id;
    json_object_foreach(vocab, text, id) {
        if (!json_is_integer(id))
            CA_TRY(ca_fail(CA_E_MODEL, "token '%.80s': expected an integer id, got %s", text,
                           ca_tok_json_type_name(json_typeof(id))));
        CA_TRY(ca_tok_vocabulary_add(t, text, strlen(text), json_integer_value(id)));
    }
out:
    return st == CA_OK ? st : ca_context(st, "model.vocab");
}

/* "a b", or ["a", "b"] in newer files. */
static ca_status read_merge(ca_tokenizer *t, json_t *merge, int64_t rank) {
    if (json_is_string(merge))
        return ca_tok_bpe_add_merge_text(t, json_string_value(merge), json_string_length(merge),
                                         rank);
    json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
    if (json_array_size(merge) != 2 || !json_is_string(left) || !json_is_string(right))
        return ca_fail(CA_E_MODEL, "merges: entry %lld: expected a pair of strings, got %s",
                       (long long)rank, ca_tok_json_type_name(json_typeof(merge)));
    return ca_tok_bpe_add_merge(t, json_string_value(left), json_string_length(left),
                                json_string_value(right), json_string_length(right), rank);
}

static ca_status read_merges(ca_tokenizer *t, json_t *merges) {
    ca_status st = CA_OK;
    CA_TRY(ca_tok_bpe_reserve(&t->bpe, (int64_t)json_array_size(merges)));
    for (size_t i = 0; i < json_array_size(merges); i++)
        CA_TRY(read_merge(t, json_array_get(merges, i), (int64_t)i));
out:
    return st == CA_OK ? st : ca_context(st, "model");
}

/* Options that must be off, because they would change ids. */
static ca_status refuse_options(json_t *model) {
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    ca_status st = CA_OK;
    json_t *value = json_object_get(model, "dropout");
    if (value != NULL && !json_is_null(value) && json_number_value(value) != 0)
        CA_TRY(ca_fail(CA_E_MODEL, "dropout: expected null, got %g", json_number_value(value)));
    for (int i = 0; i < 2; i++) {
        CA_TRY(ca_tok_json_find(model, affixes[i], JSON_STRING, &value));
        if (value != NULL && json_string_length(value) > 0)
            CA_TRY(ca_fail(CA_E_MODEL, "%s: expected null, got '%.80s'", affixes[i],
                           json_string_value(value)));
    }
out:
    return st;
}

static ca_status read_options(ca_tokenizer *t, json_t *model) {
    ca_status st = CA_OK;
    json_t *unknown;
    CA_TRY(refuse_options(model));
    CA_TRY(ca_tok_json_bool(model, "byte_fallback", false, &t->bpe.byte_fallback));
    CA_TRY(ca_tok_json_bool(model, "fuse_unk", false, &t->bpe.fuse_unknown));
    CA_TRY(ca_tok_json_bool(model, "ignore_merges", false, &t->bpe.ignore_merges));
    CA_TRY(ca_tok_json_find(model, "unk_token", JSON_STRING, &unknown));
    t->bpe.unknown = -1;
    if (unknown == NULL) return CA_OK;
    t->bpe.unknown = ca_tok_dictionary_find(&t->words, t, json_string_value(unknown),
                                            json_string_length(unknown));
    if (t->bpe.unknown < 0)
        CA_TRY(ca_fail(CA_E_MODEL, "unk_token: expected a token of the vocabulary, got '%.80s'",
                       json_string_value(unknown)));
out:
    return st == CA_OK ? st : ca_context(st, "model");
}

static ca_status read_model(ca_tokenizer *t, json_t *root, size_t extras) {
    ca_status st = CA_OK;
    json_t *model, *type, *vocab, *merges;
    CA_TRY(ca_tok_json_get(root, "model", JSON_OBJECT, &model));
    /* Early files have no type; only BPE has merges. */
    CA_TRY(ca_tok_json_find(model, "type", JSON_STRING, &type));
    if (type != NULL && strcmp(json_string_value(type), "BPE") != 0)
        CA_TRY(ca_fail(CA_E_MODEL,
                       "model.type: expected a type that is supported (BPE), got "
                       "'%.80s'",
                       json_string_value(type)));
    CA_TRY(ca_tok_json_get(model, "vocab", JSON_OBJECT, &vocab));
    CA_TRY(ca_tok_json_get(model, "merges", JSON_ARRAY, &merges));
    CA_TRY(ca_tok_vocabulary_reserve(t, (int64_t)(json_object_size(vocab) + extras)));
    CA_TRY(read_vocabulary(t, vocab));
    CA_TRY(read_merges(t, merges));
    CA_TRY(read_options(t, model));
    ca_tok_bpe_prepare(t);
out:
    return st;
}

/* ---- added tokens ------------------------------------------------------------------------ */

static ca_status read_added(ca_tokenizer *t, json_t *json) {
    ca_status st = CA_OK;
    json_t *content;
    int64_t id;
    ca_tok_token token = {.added = true};
    CA_TRY(ca_tok_json_get(json, "content", JSON_STRING, &content));
    CA_TRY(ca_tok_json_count(json, "id", &id));
    CA_TRY(ca_tok_json_bool(json, "special", false, &token.special));
    CA_TRY(ca_tok_json_bool(json, "normalized", !token.special, &token.normalized));
    CA_TRY(ca_tok_json_bool(json, "single_word", false, &token.single_word));
    CA_TRY(ca_tok_json_bool(json, "lstrip", false, &token.left_strip));
    CA_TRY(ca_tok_json_bool(json, "rstrip", false, &token.right_strip));
    token.text = json_string_value(content);
    token.length = json_string_length(content);
    if (token.length > 0) CA_TRY(ca_tok_vocabulary_add_extra(t, &token, id));
out:
    return st;
}

static ca_status read_all_added(ca_tokenizer *t, json_t *added) {
    ca_status st = CA_OK;
    for (size_t i = 0; i < json_array_size(added); i++) {
        st = read_added(t, json_array_get(added, i));
        if (st != CA_OK) return ca_context(st, "added_tokens: entry %zu", i);
    }
    return st;
}

/* ---- the file ---------------------------------------------------------------------------- */

static ca_status read_components(ca_tokenizer *t, json_t *root) {
    ca_status st = CA_OK;
    CA_TRY(ca_tok_components_read(t, &ca_tok_normalizers, json_object_get(root, "normalizer"),
                                  &t->normalizers));
    CA_TRY(ca_tok_components_read(t, &ca_tok_pretokenizers, json_object_get(root, "pre_tokenizer"),
                                  &t->pretokenizers));
    CA_TRY(ca_tok_components_read(t, &ca_tok_postprocessors,
                                  json_object_get(root, "post_processor"), &t->postprocessors));
    CA_TRY(ca_tok_components_read(t, &ca_tok_decoders, json_object_get(root, "decoder"),
                                  &t->decoders));
    /* ByteLevel spells bytes with letters; a pattern that comes later would see the letters. */
    for (int64_t i = 0; i + 1 < t->pretokenizers.count; i++) {
        if (ca_tok_is_byte_level(&t->pretokenizers.at[i]))
            CA_TRY(ca_fail(CA_E_MODEL,
                           "pre_tokenizer: expected ByteLevel to be the last one, got "
                           "'%s' after it",
                           t->pretokenizers.at[i + 1].type));
    }
out:
    return st;
}

static ca_status read_root(ca_tokenizer *t, const char *text, size_t size) {
    ca_status st = CA_OK;
    json_t *root = NULL, *added;
    CA_TRY(ca_tok_json_parse(text, size, &root));
    CA_TRY(ca_tok_json_find(root, "added_tokens", JSON_ARRAY, &added));
    CA_TRY(read_model(t, root, json_array_size(added)));
    CA_TRY(read_all_added(t, added));
    CA_TRY(read_components(t, root));
out:
    json_decref(root);
    return st;
}

/* A token that the config names: a string, or an object with content. -1 for none. */
static int32_t named_token(const ca_tokenizer *t, json_t *root, const char *key) {
    json_t *name = json_object_get(root, key);
    if (json_is_object(name)) name = json_object_get(name, "content");
    if (!json_is_string(name)) return -1;
    return ca_tok_id(t, json_string_value(name), json_string_length(name));
}

/* Of the tokenizer_config.json beside the file. */
static ca_status read_config_tokens(ca_tokenizer *t, const char *text, size_t size) {
    ca_status st = CA_OK;
    json_t *root = NULL;
    CA_TRY(ca_tok_json_parse(text, size, &root));
    t->default_bos = named_token(t, root, "bos_token");
    t->eos = named_token(t, root, "eos_token");
    t->pad = named_token(t, root, "pad_token");
out:
    json_decref(root);
    return st;
}

static ca_status read_config(ca_tokenizer *t, const char *path) {
    ca_status st = CA_OK;
    char *text = NULL;
    size_t size;
    ca_string config = {0};
    const char *slash = strrchr(path, '/');
    if (slash != NULL) CA_TRY(ca_string_append(&config, path, (size_t)(slash - path) + 1));
    CA_TRY(ca_string_printf(&config, "tokenizer_config.json"));
    if (!ca_file_exists(config.text)) goto out;
    CA_TRY(ca_file_read(config.text, &text, &size));
    st = read_config_tokens(t, text, size);
    if (st != CA_OK) st = ca_context(st, "%s", config.text);
out:
    free(text);
    ca_string_free(&config);
    return st;
}

ca_status ca_tok_read_json(ca_tokenizer *t, const char *path) {
    ca_status st = CA_OK;
    char *text = NULL;
    size_t size;
    ca_sha256 *digest;
    CA_TRY(ca_file_read(path, &text, &size));
    CA_TRY(ca_sha256_create(&digest));
    ca_sha256_add(digest, text, size);
    ca_sha256_finish(digest, t->sha256);
    st = read_root(t, text, size);
    if (st != CA_OK) CA_TRY(ca_context(st, "%s", path));
    CA_TRY(read_config(t, path));
out:
    free(text);
    return st;
}
