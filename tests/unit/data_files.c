/* SPDX-License-Identifier: MIT
 *
 * See data_files.h.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "data_files.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const ca_option method_options[] = {
    {"positions", CA_OPTION_ANY, "all", NULL, NULL, "for the tests of positions"}, {0}};
const ca_option *const data_tables[] = {ca_data_options, method_options, NULL};
static const ca_data_needs nothing = {0};

ca_tokenizer *tokenizer;
static char folder[] = "/tmp/causa-test-data-XXXXXX";
static char file[64]; /* the prompt file of the running test */
ca_config *config;

ca_status open_bytes(const char *name, const char *content, size_t size, const char *options,
                     const ca_tokenizer *with, ca_data_needs needs, ca_dataset **out) {
    char text[512];
    ca_document *document = NULL;
    *out = NULL;
    ca_error_clear();
    snprintf(file, sizeof file, "%s/%s", folder, name);
    FILE *f = fopen(file, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(content, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
    snprintf(text, sizeof text, "data:\n  file: %s\n%s", file, options);
    ca_config_free(config);
    config = NULL;
    if (ca_document_parse(text, strlen(text), "d.yaml", NULL, 0, &document) != CA_OK ||
        ca_config_resolve(document, 0, data_tables, &config) != CA_OK)
        fail_msg("%s", ca_error_text());
    ca_document_free(document);
    ca_status st = ca_dataset_open(config, with, VOCAB, POSITIONS, needs, out);
    unlink(file);
    return st;
}

ca_dataset *must_open(const char *name, const char *content, const char *options) {
    ca_dataset *d;
    if (open_bytes(name, content, strlen(content), options, tokenizer, nothing, &d) != CA_OK)
        fail_msg("%s", ca_error_text());
    return d;
}

void expect_error(ca_status got, const char *words) {
    assert_int_not_equal(got, CA_OK);
    if (!strstr(ca_error_text(), words)) fail_msg("'%s' is not in '%s'", words, ca_error_text());
    assert_non_null(strstr(ca_error_text(), got == CA_E_DATA ? file : "d.yaml:"));
}

void refuse_data(const char *name, const char *content, const char *words) {
    ca_dataset *d;
    ca_status st = open_bytes(name, content, strlen(content), "", tokenizer, nothing, &d);
    assert_int_equal(st, CA_E_DATA);
    assert_null(d);
    expect_error(st, words);
}

int set_up_data(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    return ca_tokenizer_open("tests/fixtures/tokenizers/gpt2/tokenizer.json", &tokenizer) == CA_OK
               ? 0
               : -1;
}

int tear_down_data(void **state) {
    (void)state;
    ca_tokenizer_free(tokenizer);
    ca_config_free(config);
    return rmdir(folder);
}
