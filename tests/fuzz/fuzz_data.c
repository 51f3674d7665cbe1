/* SPDX-License-Identifier: MIT
 *
 * libFuzzer harness of prompt files: the first byte chooses the format, the rest is the file.
 * Either an error with text comes back, or examples whose ids, spans and counts are in range. The
 * corpus is in corpus/data.
 */
#include "causa/position.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

enum { VOCAB = 640, POSITIONS = 64 };

static const ca_option method_options[] = {
    {"positions", CA_OPTION_ANY, "subject", NULL, NULL, "resolved in every prompt"}, {0}};
static const ca_option *const tables[] = {ca_data_options, method_options, NULL};
static const char *const formats[] = {"csv", "json", "jsonl"};

static void require(bool condition) {
    if (!condition) abort();
}

static void check_ids(const int32_t *ids, int64_t count) {
    for (int64_t i = 0; i < count; i++) require(ids[i] >= 0 && ids[i] < VOCAB);
}

static void check_prompt(const ca_prompt_text *prompt) {
    require(prompt->count <= POSITIONS);
    check_ids(prompt->ids, prompt->count);
    int64_t length = prompt->text ? (int64_t)strlen(prompt->text) : 0;
    for (int64_t t = 0; t < prompt->count; t++)
        require(0 <= prompt->start[t] && prompt->start[t] <= prompt->end[t] &&
                prompt->end[t] <= length);
}

static void check_positions(const ca_positions *positions, const ca_dataset *d,
                            const ca_example *e) {
    int64_t tokens[POSITIONS], count;
    ca_status st = ca_positions_resolve(positions, d, e, tokens, &count);
    require(st == CA_OK || (st == CA_E_DATA && ca_error_text()[0]));
    for (int64_t i = 0; st == CA_OK && i < count; i++)
        require(tokens[i] >= 0 && tokens[i] < e->clean.count && (!i || tokens[i] > tokens[i - 1]));
}

static void check_dataset(const ca_dataset *d, const ca_config *config) {
    ca_positions positions;
    require(d->count > 0);
    require(ca_positions_read(config, "positions", &positions) == CA_OK);
    for (int64_t i = 0; i < d->count; i++) {
        const ca_example *e = &d->examples[i];
        require(e->id && e->clean.count > 0);
        check_prompt(&e->clean);
        check_prompt(&e->corrupted);
        check_ids(e->answer.ids, e->answer.count);
        check_ids(e->wrong.ids, e->wrong.count);
        check_ids(e->answer_text.ids, e->answer_text.count);
        check_ids(e->wrong_text.ids, e->wrong_text.count);
        require(0 <= e->subject_first && e->subject_first <= e->subject_last);
        require(e->subject_last <= e->clean.count);
        if (d->pairs) require(e->first_difference <= e->clean.count);
        check_positions(&positions, d, e);
    }
    ca_positions_free(&positions);
}

static ca_config *make_config(const char *path) {
    char text[256];
    ca_document *document;
    ca_config *config;
    snprintf(text, sizeof text, "data: {file: %s, mismatch: skip}", path);
    require(ca_document_parse(text, strlen(text), "fuzz.yaml", NULL, 0, &document) == CA_OK);
    require(ca_config_resolve(document, 0, tables, &config) == CA_OK);
    ca_document_free(document);
    return config;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    static ca_tokenizer *tokenizer;
    static const char fixture[] = "tests/fixtures/tokenizers/gpt2/tokenizer.json";
    if (!tokenizer) require(ca_tokenizer_open(fixture, &tokenizer) == CA_OK);
    if (size == 0) return 0;

    char path[64];
    snprintf(path, sizeof path, "/tmp/causa-fuzz-data-%d.%s", (int)getpid(),
             formats[bytes[0] % (sizeof formats / sizeof *formats)]);
    FILE *file = fopen(path, "wb");
    require(file && fwrite(bytes + 1, 1, size - 1, file) == size - 1 && fclose(file) == 0);

    ca_config *config = make_config(path);
    ca_dataset *d;
    ca_status st = ca_dataset_open(config, tokenizer, VOCAB, POSITIONS, (ca_data_needs){0}, &d);
    if (st == CA_OK)
        check_dataset(d, config);
    else
        require(ca_error_text()[0] != '\0');
    if (st == CA_OK) ca_dataset_free(d);
    ca_config_free(config);
    unlink(path);
    return 0;
}
