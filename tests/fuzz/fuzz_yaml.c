/* SPDX-License-Identifier: MIT
 *
 * libFuzzer harness of the configuration: any bytes are a file (up to the first NUL) and then one
 * override per NUL-terminated text. Either an error with text comes back, or a resolved text that
 * resolves to itself. The corpus is in corpus/yaml.
 */
#include "causa/config.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_OVERRIDES = 4 };

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* One row of every type, so that every reader and writer of values is reached. */
static const ca_option options[] = {
    {"name", CA_OPTION_TEXT, "x", NULL, "auto|last", "text"},
    {"seed", CA_OPTION_INT, "42", "0..", "auto", "integer"},
    {"memory", CA_OPTION_BYTES, "auto", NULL, "auto", "bytes"},
    {"data.rate", CA_OPTION_FLOAT, "", NULL, NULL, "number"},
    {"data.keep", CA_OPTION_BOOL, "true", NULL, "auto", "bool"},
    {"data.columns", CA_OPTION_MAP, "{}", NULL, NULL, "map"},
    {"data.deep.kind", CA_OPTION_CHOICE, "a", NULL, "a|b", "choice"},
    {"method.ints", CA_OPTION_INTS, "[]", "..9", "all", "integers"},
    {"method.floats", CA_OPTION_FLOATS, "", "(0..1]", NULL, "numbers"},
    {"method.texts", CA_OPTION_TEXTS, "", NULL, "all", "texts"},
    {"method.choices", CA_OPTION_CHOICES, "[a]", NULL, "a|b", "choices"},
    {"method.any", CA_OPTION_ANY, "", NULL, NULL, "tree"},
    {NULL, CA_OPTION_ANY, NULL, NULL, NULL, NULL}};

static const ca_option *const tables[] = {options, NULL};

static void require(bool condition) {
    if (!condition) abort();
}

/* The resolved text of a config must give the same text again. */
static void check_repeats(const ca_config *config) {
    const char *text = ca_config_yaml(config);
    ca_document *document;
    ca_config *again;
    require(ca_document_parse(text, strlen(text), "resolved", NULL, 0, &document) == CA_OK);
    require(ca_config_resolve(document, 0, tables, &again) == CA_OK);
    require(strcmp(ca_config_yaml(again), text) == 0);
    ca_config_free(again);
    ca_document_free(document);
}

static void check_document(const ca_document *document) {
    int64_t points = ca_document_points(document);
    require(points >= 1);
    for (int64_t k = 0; k < ca_document_sweep_keys(document); k++)
        require(ca_document_sweep_value(document, points - 1, k) != NULL);
    ca_config *config;
    ca_status st = ca_config_resolve(document, points - 1, tables, &config);
    require(st == CA_OK || (st == CA_E_CONFIG && ca_error_text()[0] != '\0'));
    if (st == CA_OK) check_repeats(config);
    ca_config_free(config);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    char *text = malloc(size + 1);
    if (text == NULL) return 0;
    if (size > 0) memcpy(text, bytes, size);
    text[size] = '\0';

    size_t length = strlen(text);
    const char *overrides[MOST_OVERRIDES];
    int64_t count = 0;
    for (size_t at = length + 1; at < size && count < MOST_OVERRIDES;) {
        overrides[count++] = text + at;
        at += strlen(text + at) + 1;
    }
    ca_document *document;
    ca_status st = ca_document_parse(text, length, "fuzz.yaml", overrides, count, &document);
    require(st == CA_OK || (st == CA_E_CONFIG && ca_error_text()[0] != '\0'));
    if (st == CA_OK) check_document(document);
    ca_document_free(document);
    free(text);
    return 0;
}
