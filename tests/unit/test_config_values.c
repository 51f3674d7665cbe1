/* SPDX-License-Identifier: MIT
 *
 * Configuration: values, the law that the resolved text resolves to itself, files, help.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "config_options.h"

/* ---- values ------------------------------------------------------------------------------ */

static void test_scalar_forms(void **state) {
    (void)state;
    ca_config *c = must_resolve(MINIMAL, NULL);
    assert_true(ca_config_is_word(c, "memory"));
    assert_string_equal(ca_config_text(c, "memory"), "auto");
    assert_int_equal(ca_config_bytes(c, "memory"), 0);
    assert_true(ca_config_is_word(c, "method.target"));
    assert_false(ca_config_has(c, "data.limit"));
    assert_int_equal(ca_config_int(c, "data.limit"), 0);
    assert_null(ca_config_text(c, "model"));
    assert_null(ca_config_node(c, "method.noise"));
    assert_float_equal(ca_config_float(c, "method.rate"), 0.001, 0);
    assert_true(ca_config_bool(c, "method.absolute"));
    ca_config_free(c);

    static const struct {
        const char *text;
        int64_t bytes;
    } sizes[] = {{"memory=12GiB", 12LL << 30},  {"memory=300MB", 300000000},
                 {"memory=1.5 GiB", 3LL << 29}, {"memory=1024", 1024},
                 {"memory='2 KiB'", 2048},      {"memory=0x10", 16}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const char *overrides[] = {sizes[i].text, "seed=0o17", "method.absolute=FALSE",
                                   "method.scale=-.5E1", NULL};
        c = must_resolve(MINIMAL, overrides);
        assert_int_equal(ca_config_bytes(c, "memory"), sizes[i].bytes);
        assert_int_equal(ca_config_int(c, "seed"), 15);
        assert_false(ca_config_bool(c, "method.absolute"));
        assert_float_equal(ca_config_float(c, "method.scale"), -5, 0);
        ca_config_free(c);
    }
}

static void test_refused_scalars(void **state) {
    (void)state;
    static const char *const refused[] = {
        "memory=12G",       "memory=-1",          "memory=1e30TiB",   "memory=1e3",
        "method.scale=nan", "method.scale=1e999", "method.scale=1_0", "method.scale=.",
        "seed=1e3",         "seed=+-1",           "seed=0x",          "method.rate=0",
        "method.steps=1001"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        const char *overrides[] = {refused[i], NULL};
        ca_config *c;
        if (resolve(MINIMAL, overrides, 0, &c) != CA_E_CONFIG) fail_msg("%s passed", refused[i]);
    }
}

static void test_lists_and_words(void **state) {
    (void)state;
    const char *overrides[] = {
        "method.sizes=all", "method.sites=blocks.0.attn.z",     "method.fractions=[0.5, 1]",
        "data.bos=true",    "method.scopes=[fisher, semantic]", NULL};
    ca_config *c = must_resolve(MINIMAL, overrides);
    assert_true(ca_config_is_word(c, "method.sizes"));
    assert_int_equal(ca_config_count(c, "method.sizes"), 0);
    assert_int_equal(ca_config_count(c, "method.sites"), 1);
    assert_string_equal(ca_config_text_at(c, "method.sites", 0), "blocks.0.attn.z");
    assert_float_equal(ca_config_float_at(c, "method.fractions", 1), 1, 0);
    assert_string_equal(ca_config_text(c, "data.bos"), "true");
    assert_string_equal(ca_config_text_at(c, "method.scopes", 0), "fisher");
    ca_config_free(c);
}

static void test_anchors_and_merges(void **state) {
    (void)state;
    ca_config *c = must_resolve("name: &n x\n"
                                "model: *n\n"
                                "data: {file: p.csv}\n"
                                "method:\n"
                                "  kind: eap\n"
                                "  noise:\n"
                                "    first: &base {sigma: 3, draws: 1}\n"
                                "    second: {<<: *base, draws: 2}\n",
                                NULL);
    assert_string_equal(ca_config_text(c, "model"), "x");
    const ca_node *second = ca_node_find(ca_config_node(c, "method.noise"), "second");
    assert_int_equal(second->count, 2);
    assert_string_equal(ca_node_find(second, "draws")->text, "2");
    assert_string_equal(ca_node_find(second, "sigma")->text, "3");
    assert_int_equal(ca_node_find(second, "draws")->key_line, 8);
    assert_string_equal(ca_config_where(c, "method.noise.second.draws"),
                        "f.yaml:8:32: method.noise.second.draws");
    ca_config_free(c);
}

static void test_fail_names_the_place(void **state) {
    (void)state;
    ca_config *c = must_resolve(MINIMAL, NULL);
    assert_int_equal(ca_config_fail(c, "method.kind", "expected %d, got 2", 1), CA_E_CONFIG);
    assert_string_equal(ca_error_text(), "f.yaml:3:16: method.kind: expected 1, got 2");
    /* A default has no place of its own: the map it would stand in. */
    assert_string_equal(ca_config_where(c, "method.steps"), "f.yaml:3:1: method.steps");
    ca_config_free(c);
}

/* Methods share names of options: the table that comes first decides. */
static void test_first_row_counts(void **state) {
    (void)state;
    static const ca_option first[] = {{"a.x", CA_OPTION_INT, "1", NULL, NULL, ""},
                                      {NULL, CA_OPTION_ANY, NULL, NULL, NULL, NULL}};
    static const ca_option second[] = {{"a.x", CA_OPTION_TEXT, NULL, NULL, NULL, ""},
                                       {"a.y", CA_OPTION_INT, "2", NULL, NULL, ""},
                                       {NULL, CA_OPTION_ANY, NULL, NULL, NULL, NULL}};
    static const ca_option *const both[] = {first, second, NULL};
    ca_document *d = must_open("", NULL, 0);
    ca_config *c;
    assert_int_equal(ca_config_resolve(d, 0, both, &c), CA_OK);
    assert_string_equal(ca_config_yaml(c), "a:\n  x: 1\n  y: 2\n");
    ca_config_free(c);
    ca_document_free(d);
}

/* ---- resolved text ----------------------------------------------------------------------- */

static void test_resolved_text(void **state) {
    (void)state;
    ca_config *c = must_resolve("method:\n"
                                "  noise: {b: [1, {x: \"1\", y: ~}], a: '2'}\n"
                                "  kind: \"das\"\n"
                                "  target: \"gold\"\n"
                                "  rate: 0.00001\n"
                                "  fractions: 0.1\n"
                                "data: {file: \"no\", columns: {answer: 3}}\n"
                                "memory: 1KiB\n"
                                "name: 'two\n\n  lines: \"#\"'\n",
                                NULL);
    assert_string_equal(ca_config_yaml(c), "name: \"two\\nlines: \\\"#\\\"\"\n"
                                           "seed: 42\n"
                                           "memory: 1024\n"
                                           "data:\n"
                                           "  file: \"no\"\n"
                                           "  bos: auto\n"
                                           "  columns:\n"
                                           "    answer: 3\n"
                                           "method:\n"
                                           "  kind: das\n"
                                           "  steps: 5\n"
                                           "  rate: 1.0e-05\n"
                                           "  absolute: true\n"
                                           "  target: \"gold\"\n"
                                           "  sizes: [1, 2]\n"
                                           "  fractions: [0.1]\n"
                                           "  sites: []\n"
                                           "  scopes: [semantic]\n"
                                           "  noise:\n"
                                           "    b:\n"
                                           "      - 1\n"
                                           "      - x: \"1\"\n"
                                           "        \"y\": null\n"
                                           "    a: \"2\"\n");
    assert_int_equal(strlen(ca_config_sha256(c)), 64);
    ca_config_free(c);
}

static void test_resolved_text_repeats(void **state) {
    (void)state;
    static const char *const texts[] = {
        MINIMAL,
        MINIMAL "seed: 7\nmodel: 'true'\n",
        MINIMAL "model: \"\\u2028 \\x85 \\t \\e \xc3\xa9 \xf0\x9f\x98\x80 ' \\\\ \"\n",
        MINIMAL "model: '-'\n",
        MINIMAL "model: '- a'\n",
        MINIMAL "model: 'a: b, [c] {d} # e'\n",
        MINIMAL "model: |\n  a\n   b\n\n",
        MINIMAL "model: '2024-01-01'\n",
        MINIMAL "model: '...'\n",
        MINIMAL "model: ' '\n",
        MINIMAL "memory: 3MiB\nsweep: {seed: [5, 6]}\n",
        "name: x\ndata: {file: p}\nmethod: {kind: eap, rate: 0.1234567890123456789, scale: -0.0}\n",
        "name: x\ndata: {file: p}\nmethod: {kind: eap, noise: [[1, [2, {}]], [{}, []], a b, -1]}\n",
        "name: x\ndata: {file: p}\nmethod: {kind: eap, noise: {'<<': 1, 'a: b': {' ': 2}}}\n",
        "name: x\ndata: {file: p}\nmethod: {kind: eap, noise: {? 'a\tb' : 2, \"\\x01\": [x: 1]}}\n",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        ca_config *first, *second;
        ca_status st = resolve(texts[i], NULL, 0, &first);
        if (st != CA_OK) fail_msg("%s in\n%s", ca_error_text(), texts[i]);
        st = resolve(ca_config_yaml(first), NULL, 0, &second);
        if (st != CA_OK) fail_msg("%s in\n%s", ca_error_text(), ca_config_yaml(first));
        assert_string_equal(ca_config_yaml(second), ca_config_yaml(first));
        assert_string_equal(ca_config_sha256(second), ca_config_sha256(first));
        const char *model = ca_config_text(first, "model");
        if (model != NULL) assert_string_equal(ca_config_text(second, "model"), model);
        ca_config_free(first);
        ca_config_free(second);
    }
}

/* ---- files and help ---------------------------------------------------------------------- */

/* "?TEXT" is a default where the map around the option is given; what is resolved repeats. */
static void test_defaults_of_a_section(void **state) {
    (void)state;
    static const ca_option options[] = {
        {"a.b.sizes", CA_OPTION_INTS, "?[1, 2]", "1..", NULL, "Sizes"},
        {"a.b.kind", CA_OPTION_CHOICE, "?small", NULL, "small|large", "Kind"},
        {"a.c", CA_OPTION_INT, "5", NULL, NULL, "Number"},
        {NULL, CA_OPTION_ANY, NULL, NULL, NULL, NULL}};
    static const ca_option *const own[] = {options, NULL};
    static const struct {
        const char *text, *resolved;
    } cases[] = {
        {"{}", "a:\n  c: 5\n"},
        {"a: {c: 1}", "a:\n  c: 1\n"},
        {"a: {b: null}", "a:\n  c: 5\n"},
        {"a: {b: {}}", "a:\n  b:\n    sizes: [1, 2]\n    kind: small\n  c: 5\n"},
        {"a: {b: {kind: large}}", "a:\n  b:\n    sizes: [1, 2]\n    kind: large\n  c: 5\n"},
        {"sweep: {a.b.kind: [large]}", "a:\n  b:\n    sizes: [1, 2]\n    kind: large\n  c: 5\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *texts[] = {cases[i].text, cases[i].resolved};
        for (int k = 0; k < 2; k++) {
            ca_document *document;
            ca_config *config;
            assert_int_equal(
                ca_document_parse(texts[k], strlen(texts[k]), "f.yaml", NULL, 0, &document), CA_OK);
            assert_int_equal(ca_config_resolve(document, 0, own, &config), CA_OK);
            assert_string_equal(ca_config_yaml(config), cases[i].resolved);
            ca_config_free(config);
            ca_document_free(document);
        }
    }
}

static void test_path_beside_the_config(void **state) {
    (void)state;
    char folder[] = "/tmp/causa-config-XXXXXX";
    assert_non_null(mkdtemp(folder));
    char *config_file, *prompts;
    assert_int_equal(ca_path_join(folder, "c.yaml", &config_file), CA_OK);
    assert_int_equal(ca_path_join(folder, "only-beside.csv", &prompts), CA_OK);
    FILE *f = fopen(config_file, "w");
    assert_non_null(f);
    fputs("name: x\ndata: {file: only-beside.csv}\nmodel: nowhere\nmethod: {kind: eap}\n", f);
    fclose(f);
    f = fopen(prompts, "w");
    assert_non_null(f);
    fclose(f);

    ca_document *d;
    ca_config *c;
    assert_int_equal(ca_document_open(config_file, NULL, 0, &d), CA_OK);
    assert_int_equal(ca_config_resolve(d, 0, tables, &c), CA_OK);
    assert_string_equal(ca_document_text(d, "data.file"), "only-beside.csv");
    assert_null(ca_document_text(d, "data"));
    assert_string_equal(ca_config_path(c, "data.file"), prompts);
    assert_string_equal(ca_config_path(c, "model"), "nowhere");
    assert_string_equal(ca_config_file(c, "Makefile.none"), "Makefile.none");
    ca_config_free(c);
    ca_document_free(d);
    unlink(prompts);
    unlink(config_file);
    rmdir(folder);
    free(prompts);
    free(config_file);
}

static void test_help(void **state) {
    (void)state;
    static const ca_option rows[] = {
        {"data.file", CA_OPTION_TEXT, NULL, NULL, NULL, "Prompts"},
        {"seed", CA_OPTION_INT, "42", "0..", NULL, "Seed of all random numbers"},
        {"data.limit", CA_OPTION_INT, "", "1..", "all", "First n after filtering"},
        {"m.kind", CA_OPTION_CHOICE, "eap", NULL, "capture|patch|jacobian|eap",
         "A meaning so long that it does not fit the width of its column"},
        {NULL, CA_OPTION_ANY, NULL, NULL, NULL, NULL}};
    static const ca_option *const help_tables[] = {rows, NULL};
    ca_string help = {0};
    assert_int_equal(ca_options_help(help_tables, &help), CA_OK);
    assert_string_equal(
        help.text,
        "key         accepts                       default   range  meaning\n"
        "seed        integer                       42        0..    Seed of all random numbers\n"
        "\n"
        "data.file   text                          required         Prompts\n"
        "data.limit  integer or all                -         1..    First n after filtering\n"
        "\n"
        "m.kind      capture, patch, jacobian,     eap              A meaning so long that it"
        " does not fit the width of its\n"
        "            eap                                            column\n");
    ca_string_free(&help);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scalar_forms),
        cmocka_unit_test(test_refused_scalars),
        cmocka_unit_test(test_lists_and_words),
        cmocka_unit_test(test_anchors_and_merges),
        cmocka_unit_test(test_fail_names_the_place),
        cmocka_unit_test(test_first_row_counts),
        cmocka_unit_test(test_resolved_text),
        cmocka_unit_test(test_resolved_text_repeats),
        cmocka_unit_test(test_defaults_of_a_section),
        cmocka_unit_test(test_path_beside_the_config),
        cmocka_unit_test(test_help),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
