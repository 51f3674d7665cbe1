/* SPDX-License-Identifier: MIT
 *
 * Reads the byte-level BPE vocabulary inside a GGUF file. GGUF stores tokens and merges but names
 * the rest of the pipeline with one word, tokenizer.ggml.pre; the table here spells each word as
 * the components of the tokenizer.json that the model was published with.
 */
#include "pipeline.h"

#include "causa/gguf.h"

#include <stdlib.h>
#include <string.h>

#define BYTE_LEVEL(use_regex)                                                                      \
    "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": " use_regex "}"
#define SPLIT(regex)                                                                               \
    "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"" regex "\"}, \"behavior\": \"Isolated\"}"
#define CONTRACTIONS_AND_LETTERS                                                                   \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+"
#define SYMBOLS_AND_SPACE                                                                          \
    " ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"

/* One row for each value of tokenizer.ggml.pre. */
static const struct preset {
    const char *name;
    const char *normalizer, *pretokenizer; /* JSON */
    bool ignore_merges, add_bos; /* add_bos: when tokenizer.ggml.add_bos_token is absent */
} presets[] = {
    {"gpt-2", "null", BYTE_LEVEL("true"), false, false},
    {"smollm", "null",
     "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\", \"individual_digits\": "
     "true}, " BYTE_LEVEL("true") "]}",
     false, false},
    {"llama-bpe", "null",
     "{\"type\": \"Sequence\", \"pretokenizers\": [" SPLIT(
         CONTRACTIONS_AND_LETTERS
         "|\\\\p{N}{1,3}|" SYMBOLS_AND_SPACE) ", " BYTE_LEVEL("false") "]}",
     true, true},
    {"qwen2", "{\"type\": \"NFC\"}",
     "{\"type\": \"Sequence\", \"pretokenizers\": [" SPLIT(
         CONTRACTIONS_AND_LETTERS "|\\\\p{N}|" SYMBOLS_AND_SPACE) ", " BYTE_LEVEL("false") "]}",
     false, false},
};
enum { PRESET_COUNT = sizeof presets / sizeof presets[0] };

/* Values of tokenizer.ggml.token_type. */
enum { TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER_DEFINED = 4 };

static ca_status find_preset(const ca_gguf *g, const struct preset **out) {
    ca_status st = CA_OK;
    ca_string known = {0};
    ca_gguf_string model = {"", 0}, pre = {"", 0};
    (void)ca_gguf_text(g, "tokenizer.ggml.model", &model);
    if (model.length != 4 || memcmp(model.text, "gpt2", 4) != 0)
        CA_TRY(ca_fail(CA_E_MODEL,
                       "tokenizer.ggml.model: expected one that is supported (gpt2), got '%.*s'",
                       (int)(model.length < 80 ? model.length : 80), model.text));
    (void)ca_gguf_text(g, "tokenizer.ggml.pre", &pre);
    *out = NULL;
    for (size_t i = 0; i < PRESET_COUNT; i++) {
        const char *name = presets[i].name;
        if (strlen(name) == pre.length && memcmp(name, pre.text, pre.length) == 0)
            *out = &presets[i];
        CA_TRY(ca_string_printf(&known, "%s%s", i > 0 ? ", " : "", name));
    }
    if (*out == NULL)
        CA_TRY(ca_fail(CA_E_MODEL,
                       "tokenizer.ggml.pre: expected one that is supported (%s), got '%.*s'",
                       known.text, (int)(pre.length < 80 ? pre.length : 80), pre.text));
out:
    ca_string_free(&known);
    return st;
}

/* Element of a string array as text without NUL that is valid UTF-8. */
static ca_status text_at(const ca_gguf *g, const char *key, int64_t index, ca_gguf_string *text) {
    bool usable = ca_gguf_array_text(g, key, index, text) &&
                  ca_utf8_invalid(text->text, text->length) < 0 &&
                  memchr(text->text, '\0', text->length) == NULL;
    if (usable) return CA_OK;
    return ca_fail(CA_E_MODEL, "%s: entry %lld: expected UTF-8 text, got something else", key,
                   (long long)index);
}

static ca_status read_tokens(ca_tokenizer *t, const ca_gguf *g, ca_sha256 *digest) {
    static const char key[] = "tokenizer.ggml.tokens", types[] = "tokenizer.ggml.token_type";
    ca_status st = CA_OK;
    ca_string spelled = {0};
    int64_t count = ca_gguf_array_length(g, key);
    if (count < 1) CA_TRY(ca_fail(CA_E_MODEL, "%s: expected a list of strings, got none", key));
    CA_TRY(ca_tok_vocabulary_reserve(t, count));
    for (int64_t id = 0; id < count; id++) {
        ca_gguf_string text;
        int64_t type = 1;
        CA_TRY(text_at(g, key, id, &text));
        (void)ca_gguf_array_int(g, types, id, &type);
        spelled.length = 0; /* the copy ends in NUL, as messages want it */
        CA_TRY(ca_string_append(&spelled, text.text, text.length));
        CA_TRY(ca_tok_vocabulary_add(t, spelled.text, spelled.length, id));
        ca_sha256_add(digest, spelled.text, spelled.length + 1);

        bool special = type == TYPE_UNKNOWN || type == TYPE_CONTROL;
        if ((!special && type != TYPE_USER_DEFINED) || spelled.length == 0) continue;
        ca_tok_token token = {
            .text = spelled.text, .length = spelled.length, .added = true, .special = special};
        CA_TRY(ca_tok_vocabulary_add_extra(t, &token, id));
    }
out:
    ca_string_free(&spelled);
    return st;
}

static ca_status read_merges(ca_tokenizer *t, const ca_gguf *g, ca_sha256 *digest) {
    static const char key[] = "tokenizer.ggml.merges";
    ca_status st = CA_OK;
    int64_t count = ca_gguf_array_length(g, key);
    if (count < 0) CA_TRY(ca_fail(CA_E_MODEL, "%s: expected a list of strings, got none", key));
    CA_TRY(ca_tok_bpe_reserve(&t->bpe, count));
    for (int64_t i = 0; i < count; i++) {
        ca_gguf_string text;
        CA_TRY(text_at(g, key, i, &text));
        CA_TRY(ca_tok_bpe_add_merge_text(t, text.text, text.length, i));
        ca_sha256_add(digest, text.text, text.length);
        ca_sha256_add(digest, "", 1);
    }
out:
    return st;
}

static ca_status read_stage(ca_tokenizer *t, const ca_tok_stage *stage, const char *text,
                            ca_tok_components *list) {
    ca_status st = CA_OK;
    json_t *json = NULL;
    /* A lone null is no JSON text for the reader; it means no component. */
    if (strcmp(text, "null") == 0) return CA_OK;
    CA_TRY(ca_tok_json_parse(text, strlen(text), &json));
    CA_TRY(ca_tok_components_read(t, stage, json, list));
out:
    json_decref(json);
    return st;
}

/* A token id of the file; *id stays where it names none. */
static ca_status read_id(const ca_tokenizer *t, const ca_gguf *g, const char *key, int32_t *id) {
    int64_t value;
    if (!ca_gguf_int(g, key, &value)) return CA_OK;
    if (value < 0 || value >= t->size)
        return ca_fail(CA_E_MODEL, "%s: expected an id below %lld, got %lld", key,
                       (long long)t->size, (long long)value);
    *id = (int32_t)value;
    return CA_OK;
}

/* BOS in front of every text, as a post-processor. */
static ca_status read_bos(ca_tokenizer *t, const ca_gguf *g, bool add) {
    ca_status st = CA_OK;
    ca_string text = {0};
    (void)ca_gguf_bool(g, "tokenizer.ggml.add_bos_token", &add);
    CA_TRY(read_id(t, g, "tokenizer.ggml.bos_token_id", &t->default_bos));
    if (!add || t->default_bos < 0) return CA_OK;
    CA_TRY(ca_string_printf(&text,
                            "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": "
                            "{\"id\": \"bos\"}}, {\"Sequence\": {\"id\": \"A\"}}], "
                            "\"special_tokens\": {\"bos\": {\"ids\": [%lld]}}}",
                            (long long)t->default_bos));
    CA_TRY(read_stage(t, &ca_tok_postprocessors, text.text, &t->postprocessors));
out:
    ca_string_free(&text);
    return st;
}

static ca_status read_all(ca_tokenizer *t, const ca_gguf *g, ca_sha256 *digest) {
    ca_status st = CA_OK;
    const struct preset *preset;
    CA_TRY(find_preset(g, &preset));
    ca_sha256_add(digest, preset->name, strlen(preset->name) + 1);
    CA_TRY(read_tokens(t, g, digest));
    CA_TRY(read_merges(t, g, digest));
    t->bpe.ignore_merges = preset->ignore_merges;
    t->bpe.unknown = -1;
    ca_tok_bpe_prepare(t);
    CA_TRY(read_stage(t, &ca_tok_normalizers, preset->normalizer, &t->normalizers));
    CA_TRY(read_stage(t, &ca_tok_pretokenizers, preset->pretokenizer, &t->pretokenizers));
    CA_TRY(read_bos(t, g, preset->add_bos));
    CA_TRY(read_id(t, g, "tokenizer.ggml.eos_token_id", &t->eos));
    CA_TRY(read_id(t, g, "tokenizer.ggml.padding_token_id", &t->pad));
    CA_TRY(read_stage(t, &ca_tok_decoders, "{\"type\": \"ByteLevel\"}", &t->decoders));
out:
    return st;
}

ca_status ca_tok_read_gguf(ca_tokenizer *t, const char *path) {
    ca_status st = CA_OK;
    ca_gguf *g = NULL;
    ca_sha256 *digest = NULL;
    CA_TRY(ca_gguf_open(path, &g));
    CA_TRY(ca_sha256_create(&digest));
    st = read_all(t, g, digest);
    if (st != CA_OK) st = ca_context(st, "%s", path);
out:
    if (digest != NULL) ca_sha256_finish(digest, t->sha256);
    ca_gguf_close(g);
    return st;
}
