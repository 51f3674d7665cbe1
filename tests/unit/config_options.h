/* SPDX-License-Identifier: MIT
 *
 * The tables of options that the tests of the configuration share, and the steps from text to
 * config. Included once by each of them, after cmocka.
 */
#ifndef CAUSA_TESTS_CONFIG_OPTIONS_H
#define CAUSA_TESTS_CONFIG_OPTIONS_H

#include "causa/config.h"

#include <string.h>

static const ca_option job_options[] = {
    {"name", CA_OPTION_TEXT, NULL, NULL, NULL, "Name of the run"},
    {"seed", CA_OPTION_INT, "42", "0..", NULL, "Seed of all random numbers"},
    {"memory", CA_OPTION_BYTES, "auto", "1..", "auto", "Limit per rank"},
    {"model", CA_OPTION_TEXT, "", NULL, NULL, "Model directory"},
    {"data.file", CA_OPTION_TEXT, NULL, NULL, NULL, "Prompts"},
    {"data.limit", CA_OPTION_INT, "", "1..", NULL, "First n after filtering"},
    {"data.bos", CA_OPTION_INT, "auto", "0..", "auto|true|false", "First token"},
    {"data.columns", CA_OPTION_MAP, "{}", NULL, NULL, "Map from our names to the file's"},
    {"method.kind", CA_OPTION_CHOICE, NULL, NULL, "capture|eap|das", "What to run"},
    {NULL, CA_OPTION_ANY, NULL, NULL, NULL, NULL}};

static const ca_option method_options[] = {
    {"method.steps", CA_OPTION_INT, "5", "1..1000", NULL, "Steps of the integral"},
    {"method.rate", CA_OPTION_FLOAT, "1e-3", "(0..1]", NULL, "Learning rate"},
    {"method.scale", CA_OPTION_FLOAT, "", NULL, NULL, "Any number"},
    {"method.absolute", CA_OPTION_BOOL, "true", NULL, NULL, "Order by size"},
    {"method.target", CA_OPTION_TEXT, "gold", NULL, "gold|argmax", "What is explained"},
    {"method.sizes", CA_OPTION_INTS, "[1, 2]", "1..", "all", "Circuit sizes"},
    {"method.fractions", CA_OPTION_FLOATS, "", "0..1", NULL, "Circuit fractions"},
    {"method.sites", CA_OPTION_TEXTS, "[]", NULL, NULL, "Sites"},
    {"method.scopes", CA_OPTION_CHOICES, "[semantic]", NULL, "semantic=lens=J|fisher", "Scopes"},
    {"method.noise", CA_OPTION_ANY, "", NULL, NULL, "Noise of the subject"},
    {NULL, CA_OPTION_ANY, NULL, NULL, NULL, NULL}};

static const ca_option *const tables[] = {job_options, method_options, NULL};

/* The smallest valid file; more text may follow. */
#define MINIMAL "name: x\ndata: {file: p.csv}\nmethod: {kind: eap}\n"

/* Resolves a text; CA_OK or the error that either step gave. */
static ca_status resolve(const char *text, const char *const *overrides, int64_t point,
                         ca_config **out) {
    *out = NULL;
    int64_t count = 0;
    while (overrides != NULL && overrides[count] != NULL) count++;
    ca_document *document;
    ca_status st = ca_document_parse(text, strlen(text), "f.yaml", overrides, count, &document);
    if (st != CA_OK) return st;
    st = ca_config_resolve(document, point, tables, out);
    ca_document_free(document);
    return st;
}

static ca_config *must_resolve(const char *text, const char *const *overrides) {
    ca_config *config;
    ca_status st = resolve(text, overrides, 0, &config);
    if (st != CA_OK) fail_msg("%s", ca_error_text());
    return config;
}

static ca_document *must_open(const char *text, const char *const *overrides, int64_t count) {
    ca_document *document;
    ca_status st = ca_document_parse(text, strlen(text), "f.yaml", overrides, count, &document);
    if (st != CA_OK) fail_msg("%s", ca_error_text());
    return document;
}

#endif
