/* SPDX-License-Identifier: MIT
 *
 * The tokenizer against ids, offsets and texts recorded from Hugging Face's `tokenizers`
 * (tests/fixtures/tokenizers/<kind>/cases.jsonl), and its properties on random text.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "causa/tokenizer.h"

#define FIXTURES "tests/fixtures/tokenizers/"

static const char *const kinds[] = {
    "gpt2",   "smollm2",          "llama3",     "qwen2",   "neox",    "tekken",
    "llama2", "llama2-metaspace", "gemma",      "added",   "prefix",  "metaspace-split",
    "next",   "previous",         "contiguous", "removed", "unknown",
};
enum { KIND_COUNT = sizeof kinds / sizeof kinds[0] };

static ca_tokenizer *open_kind(const char *kind) {
    char path[200];
    ca_tokenizer *t;
    snprintf(path, sizeof path, FIXTURES "%s", kind);
    if (ca_tokenizer_open(path, &t) != CA_OK) fail_msg("%s", ca_error_text());
    return t;
}

static ca_encoding encode(const ca_tokenizer *t, const char *text, size_t length, bool special) {
    ca_encoding e;
    if (ca_tokenizer_encode(t, text, length, special, &e) != CA_OK)
        fail_msg("'%s': %s", text, ca_error_text());
    return e;
}

/* ---- recorded cases ---------------------------------------------------------------------- */

static bool same_ids(const ca_encoding *e, json_t *ids) {
    if (e->count != (int64_t)json_array_size(ids)) return false;
    for (int64_t i = 0; i < e->count; i++)
        if (e->ids[i] != json_integer_value(json_array_get(ids, (size_t)i))) return false;
    return true;
}

static bool same_offsets(const ca_encoding *e, json_t *offsets) {
    if (e->count != (int64_t)json_array_size(offsets)) return false;
    for (int64_t i = 0; i < e->count; i++) {
        json_t *span = json_array_get(offsets, (size_t)i);
        if (e->start[i] != json_integer_value(json_array_get(span, 0)) ||
            e->end[i] != json_integer_value(json_array_get(span, 1)))
            return false;
    }
    return true;
}

static bool same_text(const ca_tokenizer *t, const ca_encoding *e, bool skip_special,
                      json_t *expected) {
    ca_string text = {0};
    assert_int_equal(ca_tokenizer_decode(t, e->ids, e->count, skip_special, &text), CA_OK);
    bool same =
        text.length == json_string_length(expected) &&
        (text.length == 0 || memcmp(text.text, json_string_value(expected), text.length) == 0);
    ca_string_free(&text);
    return same;
}

/* Number of fields of one recorded case that differ; each is printed. */
static int check_case(const ca_tokenizer *t, const char *kind, json_t *c) {
    json_t *text = json_object_get(c, "text");
    size_t length = json_string_length(text);
    ca_encoding plain = encode(t, json_string_value(text), length, false);
    ca_encoding special = encode(t, json_string_value(text), length, true);
    const struct {
        const char *field;
        bool same;
    } checks[] = {
        {"ids", same_ids(&plain, json_object_get(c, "ids"))},
        {"ids_special", same_ids(&special, json_object_get(c, "ids_special"))},
        {"offsets", same_offsets(&plain, json_object_get(c, "offsets"))},
        {"decoded", same_text(t, &plain, false, json_object_get(c, "decoded"))},
        {"decoded_special", same_text(t, &special, true, json_object_get(c, "decoded_special"))},
    };
    int wrong = 0;
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
        if (checks[i].same) continue;
        print_message("%s: '%s': %s differs\n", kind, json_string_value(text), checks[i].field);
        wrong++;
    }
    ca_encoding_free(&plain);
    ca_encoding_free(&special);
    return wrong;
}

/* Number of fields that differ in all cases of a file. */
static int check_cases(const ca_tokenizer *t, const char *kind, const char *path) {
    const size_t flags = JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL;
    int cases = 0, wrong = 0;
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    for (json_t *c; (c = json_loadf(file, flags, NULL)) != NULL; cases++) {
        wrong += check_case(t, kind, c);
        json_decref(c);
    }
    fclose(file);
    assert_true(cases >= 70);
    return wrong;
}

static void test_recorded_cases(void **state) {
    (void)state;
    int wrong = 0;
    for (int k = 0; k < KIND_COUNT; k++) {
        char path[200];
        ca_tokenizer *t = open_kind(kinds[k]);
        snprintf(path, sizeof path, FIXTURES "%s/cases.jsonl", kinds[k]);
        wrong += check_cases(t, kinds[k], path);
        ca_tokenizer_free(t);
    }
    assert_int_equal(wrong, 0);
}

/* ---- properties -------------------------------------------------------------------------- */

/* Appends a random character; small code points are the likely ones. */
static size_t random_character(ca_philox_key key, uint64_t index, char *out) {
    static const int bits[] = {7, 7, 7, 8, 10, 12, 16, 20};
    uint32_t random[4];
    ca_philox(key, index, random);
    uint32_t c = random[0] & ((1u << bits[random[1] % 8]) - 1);
    if (c >= 0xD800 && c <= 0xDFFF) c -= 0x800;
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t length = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = length - 1; i > 0; i--, c >>= 6) out[i] = (char)(0x80 | (c & 0x3F));
    out[0] = (char)((length == 2 ? 0xC0 : length == 3 ? 0xE0 : 0xF0) | c);
    return length;
}

/* Without a normalizer, decoding gives back the text, and offsets cover it in order. */
static void test_round_trip(void **state) {
    (void)state;
    static const char *const lossless[] = {"gpt2", "smollm2", "llama3", "tekken", "gemma"};
    for (size_t k = 0; k < sizeof lossless / sizeof lossless[0]; k++) {
        ca_tokenizer *t = open_kind(lossless[k]);
        bool gemma = strcmp(lossless[k], "gemma") == 0; /* writes U+2581 as a space */
        for (uint64_t round = 0; round < 300; round++) {
            char text[4 * 64];
            size_t length = 0;
            ca_philox_key key = {.seed = round, .stream = ca_stream(lossless[k])};
            for (uint64_t i = 0; i < 1 + round % 64; i++)
                length += random_character(key, i, text + length);
            if (gemma && memmem(text, length, "\xE2\x96\x81", 3) != NULL) continue;

            ca_encoding e = encode(t, text, length, false);
            ca_string decoded = {0};
            assert_int_equal(ca_tokenizer_decode(t, e.ids, e.count, false, &decoded), CA_OK);
            assert_int_equal(decoded.length, length);
            assert_memory_equal(decoded.text, text, length);
            for (int64_t i = 0; i < e.count; i++) {
                assert_true(e.start[i] < e.end[i] && e.end[i] <= (int64_t)length);
                if (i > 0) assert_true(e.start[i] >= e.start[i - 1] && e.start[i] <= e.end[i - 1]);
            }
            assert_int_equal(e.start[0], 0);
            assert_int_equal(e.end[e.count - 1], length);
            ca_string_free(&decoded);
            ca_encoding_free(&e);
        }
        ca_tokenizer_free(t);
    }
}

/* One word of 200 000 letters: with a quadratic merge this takes minutes. */
static void test_long_word(void **state) {
    (void)state;
    enum { LENGTH = 200000 };
    ca_tokenizer *t = open_kind("gpt2");
    char *word = malloc(LENGTH);
    assert_non_null(word);
    for (int i = 0; i < LENGTH; i++) word[i] = "theandofinghe"[(i * 7 + i / 11) % 13];
    double started = ca_seconds();
    ca_encoding e = encode(t, word, LENGTH, false);
    assert_true(ca_seconds() - started < 20); /* takes 0.05 s; room for sanitizers */
    ca_string decoded = {0};
    assert_int_equal(ca_tokenizer_decode(t, e.ids, e.count, false, &decoded), CA_OK);
    assert_int_equal(decoded.length, LENGTH);
    assert_memory_equal(decoded.text, word, LENGTH);
    assert_true(e.count < LENGTH); /* something merged */
    ca_string_free(&decoded);
    ca_encoding_free(&e);
    free(word);
    ca_tokenizer_free(t);
}

/* Ill-formed bytes become one U+FFFD for each maximal part of a character. */
static void test_decode_invalid(void **state) {
    (void)state;
    ca_tokenizer *t = open_kind("gpt2");
    /* letters of E6 9D ("æ", "Ŀ"), then "a", then of F0 28 ("ð", "(") */
    const int32_t ids[] = {
        ca_tokenizer_id(t, "\xC3\xA6"), ca_tokenizer_id(t, "\xC4\xBF"), ca_tokenizer_id(t, "a"),
        ca_tokenizer_id(t, "\xC3\xB0"), ca_tokenizer_id(t, "("),        9999999,
    };
    for (int i = 0; i < 5; i++) assert_true(ids[i] >= 0);
    ca_string text = {0};
    assert_int_equal(ca_tokenizer_decode(t, ids, 6, false, &text), CA_OK);
    assert_string_equal(text.text, "\xEF\xBF\xBD"
                                   "a\xEF\xBF\xBD(");
    ca_string_free(&text);
    ca_tokenizer_free(t);
}

static void test_accessors(void **state) {
    (void)state;
    ca_tokenizer *t = open_kind("llama3");
    assert_string_equal(ca_tokenizer_description(t),
                        "byte-level BPE, 600 tokens, adds BOS <|begin_of_text|>");
    assert_int_equal(ca_tokenizer_size(t), 600);
    assert_int_equal(ca_tokenizer_bos(t), 0);
    assert_int_equal(ca_tokenizer_default_bos(t), 0);
    assert_true(ca_tokenizer_is_special(t, 0));
    assert_false(ca_tokenizer_is_special(t, 5));
    assert_false(ca_tokenizer_is_special(t, -1));
    assert_string_equal(ca_tokenizer_token(t, 1), "<|end_of_text|>");
    assert_null(ca_tokenizer_token(t, 600));
    assert_null(ca_tokenizer_token(t, -1));
    assert_int_equal(ca_tokenizer_id(t, "<|end_of_text|>"), 1);
    assert_int_equal(ca_tokenizer_id(t, "no such token"), -1);
    assert_int_equal(strlen(ca_tokenizer_sha256(t)), 64);
    ca_tokenizer_free(t);

    t = open_kind("smollm2");
    assert_string_equal(ca_tokenizer_description(t), "byte-level BPE, 600 tokens, adds no BOS");
    assert_int_equal(ca_tokenizer_bos(t), -1);
    assert_int_equal(ca_tokenizer_default_bos(t), -1);
    assert_int_equal(ca_tokenizer_eos(t), -1);
    assert_int_equal(ca_tokenizer_pad(t), -1);
    ca_encoding e;
    assert_int_equal(ca_tokenizer_encode(t, "ab\xFFz", 4, false, &e), CA_E_DATA);
    assert_non_null(strstr(ca_error_text(), "byte 2"));
    assert_int_equal(e.count, 0);
    ca_tokenizer_free(t);
}

/* ---- files that must be refused ---------------------------------------------------------- */

static char directory[] = "/tmp/causa-tokenizer-XXXXXX";

static int make_directory(void **state) {
    (void)state;
    return mkdtemp(directory) == NULL;
}

static int remove_directory(void **state) {
    (void)state;
    return rmdir(directory);
}

static void write_file(const char *name, const char *bytes, size_t count, char *path, size_t room) {
    snprintf(path, room, "%s/%s", directory, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

/* Opens the text as the tokenizer.json of a directory; every word must be in the message. */
static void refuse_text(const char *text, const char *const words[3]) {
    char path[200];
    ca_tokenizer *t;
    write_file("tokenizer.json", text, strlen(text), path, sizeof path);
    ca_status st = ca_tokenizer_open(directory, &t);
    unlink(path);
    if (st != CA_E_MODEL) fail_msg("expected CA_E_MODEL for %s, got %d", words[0], st);
    assert_null(t);
    assert_non_null(strstr(ca_error_text(), "tokenizer.json"));
    for (int i = 0; i < 3 && words[i] != NULL; i++)
        if (strstr(ca_error_text(), words[i]) == NULL)
            fail_msg("expected '%s' in: %s", words[i], ca_error_text());
}

static json_t *vocabulary(json_t *root) {
    return json_object_get(json_object_get(root, "model"), "vocab");
}

static void unknown_merge(json_t *root) {
    json_array_append_new(json_object_get(json_object_get(root, "model"), "merges"),
                          json_pack("[ss]", "zz-not", "there-qq"));
}
static void duplicate_id(json_t *root) {
    json_object_set_new(vocabulary(root), "the", json_integer(5));
}
static void negative_id(json_t *root) {
    json_object_set_new(vocabulary(root), "the", json_integer(-1));
}
static void huge_id(json_t *root) {
    json_object_set_new(vocabulary(root), "the", json_integer(1000000000));
}
static void real_id(json_t *root) { json_object_set_new(vocabulary(root), "the", json_real(1.5)); }
static void unigram(json_t *root) {
    json_object_set_new(json_object_get(root, "model"), "type", json_string("Unigram"));
}
static void dropout(json_t *root) {
    json_object_set_new(json_object_get(root, "model"), "dropout", json_real(0.1));
}
static void word_suffix(json_t *root) {
    json_object_set_new(json_object_get(root, "model"), "end_of_word_suffix", json_string("</w>"));
}
static void no_model(json_t *root) { json_object_del(root, "model"); }
static void unknown_pretokenizer(json_t *root) {
    json_object_set_new(root, "pre_tokenizer", json_pack("{ss}", "type", "Whoosh"));
}
static void unknown_normalizer(json_t *root) {
    json_object_set_new(
        root, "normalizer",
        json_pack("{sss[{ss}]}", "type", "Sequence", "normalizers", "type", "Lowercase"));
}
static void set_pattern(json_t *root, const char *pattern) {
    json_object_set_new(root, "pre_tokenizer",
                        json_pack("{sss{ss}ss}", "type", "Split", "pattern", "Regex", pattern,
                                  "behavior", "Isolated"));
}
static void broken_pattern(json_t *root) { set_pattern(root, "(unclosed"); }
static void class_intersection(json_t *root) { set_pattern(root, "[\\p{L}&&[^x]]+"); }
static void wrong_behavior(json_t *root) {
    set_pattern(root, "x");
    json_object_set_new(json_object_get(root, "pre_tokenizer"), "behavior", json_string("Often"));
}
static void letters_then_digits(json_t *root) {
    json_object_set_new(root, "pre_tokenizer",
                        json_pack("{sss[{ss}{ss}]}", "type", "Sequence", "pretokenizers", "type",
                                  "ByteLevel", "type", "Digits"));
}
static void template_without_text(json_t *root) {
    json_object_set_new(
        root, "post_processor",
        json_pack("{sss[]s{}}", "type", "TemplateProcessing", "single", "special_tokens"));
}
static void added_with_other_id(json_t *root) {
    json_array_append_new(json_object_get(root, "added_tokens"),
                          json_pack("{sssi}", "content", "a", "id", 5));
}
static void added_twice(json_t *root) {
    for (int id = 700; id < 702; id++)
        json_array_append_new(json_object_get(root, "added_tokens"),
                              json_pack("{sssi}", "content", "<new>", "id", id));
}

static void test_malformed(void **state) {
    (void)state;
    const struct {
        void (*spoil)(json_t *root);
        const char *words[3];
    } cases[] = {
        {unknown_merge, {"merges", "entry 343", "zz-not"}},
        {duplicate_id, {"id 5", "the"}},
        {negative_id, {"the", "-1"}},
        {huge_id, {"vocab_size", "1000000000"}},
        {real_id, {"the", "integer"}},
        {unigram, {"Unigram", "BPE"}},
        {dropout, {"dropout", "0.1"}},
        {word_suffix, {"end_of_word_suffix", "</w>"}},
        {no_model, {"model", "nothing"}},
        {unknown_pretokenizer, {"pre_tokenizer", "Whoosh", "ByteLevel, Digits, Split"}},
        {unknown_normalizer, {"normalizer", "Lowercase", "NFC"}},
        {broken_pattern, {"regular expression", "(unclosed"}},
        {class_intersection, {"regular expression", "&&"}},
        {wrong_behavior, {"behavior", "Often", "Isolated"}},
        {letters_then_digits, {"pre_tokenizer", "ByteLevel", "Digits"}},
        {template_without_text, {"post_processor", "Sequence"}},
        {added_with_other_id, {"added_tokens", "'a'"}},
        {added_twice, {"added_tokens", "<new>"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *root = json_load_file(FIXTURES "gpt2/tokenizer.json", 0, NULL);
        assert_non_null(root);
        cases[i].spoil(root);
        char *text = json_dumps(root, 0);
        assert_non_null(text);
        refuse_text(text, cases[i].words);
        free(text);
        json_decref(root);
    }
}

static void test_not_json(void **state) {
    (void)state;
    char *text;
    size_t size;
    assert_int_equal(ca_file_read(FIXTURES "gpt2/tokenizer.json", &text, &size), CA_OK);
    text[size - 200] = '\0';
    refuse_text(text, (const char *const[3]){"line "});
    free(text);
    refuse_text("", (const char *const[3]){"line 1"});
    refuse_text("[1, 2]", (const char *const[3]){"expected an object"});
    refuse_text("{\"\\ud800\": 1}", (const char *const[3]){"line 1"});
    refuse_text("{\"\xFF\": 1}", (const char *const[3]){"line 1"});
    char *deep = calloc(100001, 1);
    assert_non_null(deep);
    memset(deep, '[', 100000);
    refuse_text(deep, (const char *const[3]){"line 1"});
    free(deep);

    ca_tokenizer *t;
    assert_int_equal(ca_tokenizer_open(directory, &t), CA_E_MODEL);
    assert_non_null(strstr(ca_error_text(), "tokenizer.json"));
}

/* bos_token of tokenizer_config.json is the default where the post-processor adds none; eos_token
 * and pad_token are read beside it. */
static void test_config_bos(void **state) {
    (void)state;
    static const char *const configs[] = {
        "{\"bos_token\": \"<|im_start|>\", \"pad_token\": \"no such token\", "
        "\"eos_token\": null}",
        "{\"bos_token\": {\"content\": \"<|im_start|>\"}, \"eos_token\": "
        "\"<|im_start|>\", \"pad_token\": {\"content\": "
        "\"<|im_start|>\"}}"};
    char *text, path[200], config[200];
    size_t size;
    assert_int_equal(ca_file_read(FIXTURES "smollm2/tokenizer.json", &text, &size), CA_OK);
    write_file("tokenizer.json", text, size, path, sizeof path);
    for (int i = 0; i < 2; i++) {
        ca_tokenizer *t;
        write_file("tokenizer_config.json", configs[i], strlen(configs[i]), config, sizeof config);
        assert_int_equal(ca_tokenizer_open(directory, &t), CA_OK);
        assert_int_equal(ca_tokenizer_bos(t), -1);
        assert_int_equal(ca_tokenizer_default_bos(t), 1);
        assert_int_equal(ca_tokenizer_eos(t), i ? 1 : -1);
        assert_int_equal(ca_tokenizer_pad(t), i ? 1 : -1);
        ca_tokenizer_free(t);
    }
    unlink(path);
    unlink(config);
    free(text);
}

/* ---- GGUF -------------------------------------------------------------------------------- */

static void put(ca_string *s, const void *bytes, size_t count) {
    assert_int_equal(ca_string_append(s, bytes, count), CA_OK);
}
static void put_u32(ca_string *s, uint32_t value) { put(s, &value, sizeof value); }
static void put_u64(ca_string *s, uint64_t value) { put(s, &value, sizeof value); }
static void put_text(ca_string *s, const char *text) {
    put_u64(s, strlen(text));
    put(s, text, strlen(text));
}
static void put_text_key(ca_string *s, const char *key, const char *value) {
    put_text(s, key);
    put_u32(s, 8);
    put_text(s, value);
}
static void put_array_key(ca_string *s, const char *key, uint32_t type, uint64_t count) {
    put_text(s, key);
    put_u32(s, 9);
    put_u32(s, type);
    put_u64(s, count);
}

/* The vocabulary of a tokenizer.json as a GGUF file without tensors. */
static void write_gguf(json_t *root, const char *pre, char *path, size_t room) {
    ca_string s = {0};
    json_t *vocab = vocabulary(root), *merge, *id, *added, *content;
    json_t *merges = json_object_get(json_object_get(root, "model"), "merges");
    size_t count = json_object_size(vocab), i;
    const char *text, **tokens = calloc(count, sizeof *tokens);
    assert_non_null(tokens);
    json_object_foreach(vocab, text, id) tokens[json_integer_value(id)] = text;

    put(&s, "GGUF", 4);
    put_u32(&s, 3);
    put_u64(&s, 0);
    put_u64(&s, 8);
    put_text_key(&s, "tokenizer.ggml.model", "gpt2");
    put_text_key(&s, "tokenizer.ggml.pre", pre);
    put_array_key(&s, "tokenizer.ggml.tokens", 8, count);
    for (i = 0; i < count; i++) put_text(&s, tokens[i]);
    put_array_key(&s, "tokenizer.ggml.merges", 8, json_array_size(merges));
    json_array_foreach(merges, i, merge) {
        char both[200];
        snprintf(both, sizeof both, "%s %s", json_string_value(json_array_get(merge, 0)),
                 json_string_value(json_array_get(merge, 1)));
        put_text(&s, both);
    }
    put_array_key(&s, "tokenizer.ggml.token_type", 5, count);
    for (size_t token = 0; token < count; token++) {
        uint32_t type = 1;
        json_array_foreach(json_object_get(root, "added_tokens"), i, added) {
            content = json_object_get(added, "content");
            if (strcmp(json_string_value(content), tokens[token]) == 0) type = 3;
        }
        put_u32(&s, type);
    }
    static const char *const special[] = {"bos", "eos", "padding"};
    for (uint32_t k = 0; k < 3; k++) {
        char key[64];
        snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", special[k]);
        put_text(&s, key);
        put_u32(&s, 4);
        put_u32(&s, k);
    }
    write_file("vocabulary.gguf", s.text, s.length, path, room);
    ca_string_free(&s);
    free(tokens);
}

static void test_gguf(void **state) {
    (void)state;
    static const char *const pairs[][2] = {
        {"gpt2", "gpt-2"}, {"smollm2", "smollm"}, {"llama3", "llama-bpe"}, {"qwen2", "qwen2"}};
    for (size_t k = 0; k < 4; k++) {
        char path[200], cases[200];
        snprintf(path, sizeof path, FIXTURES "%s/tokenizer.json", pairs[k][0]);
        json_t *root = json_load_file(path, 0, NULL);
        assert_non_null(root);
        write_gguf(root, pairs[k][1], path, sizeof path);
        json_decref(root);
        ca_tokenizer *t;
        ca_status st = ca_tokenizer_open(path, &t);
        unlink(path);
        if (st != CA_OK) fail_msg("%s", ca_error_text());
        assert_int_equal(ca_tokenizer_default_bos(t), 0);
        assert_int_equal(ca_tokenizer_bos(t), strcmp(pairs[k][0], "llama3") == 0 ? 0 : -1);
        assert_int_equal(ca_tokenizer_eos(t), 1);
        assert_int_equal(ca_tokenizer_pad(t), 2);
        snprintf(cases, sizeof cases, FIXTURES "%s/cases.jsonl", pairs[k][0]);
        assert_int_equal(check_cases(t, pairs[k][0], cases), 0);
        ca_tokenizer_free(t);
    }
}

static void test_gguf_refused(void **state) {
    (void)state;
    char path[200];
    ca_tokenizer *t;
    json_t *root = json_load_file(FIXTURES "gpt2/tokenizer.json", 0, NULL);
    assert_non_null(root);
    write_gguf(root, "whoosh", path, sizeof path);
    json_decref(root);
    assert_int_equal(ca_tokenizer_open(path, &t), CA_E_MODEL);
    unlink(path);
    assert_non_null(strstr(ca_error_text(), "vocabulary.gguf"));
    assert_non_null(strstr(ca_error_text(), "'whoosh'"));
    assert_non_null(strstr(ca_error_text(), "llama-bpe"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recorded_cases), cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_long_word),      cmocka_unit_test(test_decode_invalid),
        cmocka_unit_test(test_accessors),      cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_not_json),       cmocka_unit_test(test_config_bos),
        cmocka_unit_test(test_gguf),           cmocka_unit_test(test_gguf_refused),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
