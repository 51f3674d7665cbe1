/* SPDX-License-Identifier: MIT
 *
 * Configuration: the exact text of messages, hostile input, overrides and sweeps.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config_options.h"

static void expect_error(const char *text, const char *const *overrides, const char *expected) {
    ca_config *config;
    ca_status st = resolve(text, overrides, 0, &config);
    ca_config_free(config);
    assert_string_equal(st == CA_OK ? "no error" : ca_error_text(), expected);
    assert_int_equal(st, CA_E_CONFIG);
}

/* ---- messages ---------------------------------------------------------------------------- */

static void test_all_errors_at_once(void **state) {
    (void)state;
    expect_error("nam: x\n"
                 "seed: -1\n"
                 "memory: 12 gigs\n"
                 "data:\n"
                 "  limit: ten\n"
                 "  colums: {}\n"
                 "  columns: {answer: [1]}\n"
                 "method:\n"
                 "  kind: epa\n"
                 "  steps: \"10\"\n"
                 "  rate: .inf\n"
                 "  absolute: yes\n"
                 "  sizes: [1, 0, x]\n"
                 "  scopes: [semantics]\n"
                 "steps: 3\n",
                 NULL,
                 "f.yaml:1:1: nam: expected a known key, got 'nam'; did you mean 'name'?\n"
                 "f.yaml:1:1: name: expected text (required), got nothing\n"
                 "f.yaml:2:7: seed: expected an integer of at least 0, got '-1'\n"
                 "f.yaml:3:9: memory: expected a size such as 12GiB, 300MB or a number of bytes"
                 " of at least 1 or auto, got '12 gigs'\n"
                 "f.yaml:4:1: data.file: expected text (required), got nothing\n"
                 "f.yaml:5:10: data.limit: expected an integer of at least 1, got 'ten'\n"
                 "f.yaml:6:3: data.colums: expected a known key, got 'colums';"
                 " did you mean 'columns'?\n"
                 "f.yaml:7:21: data.columns.answer: expected text, got a list\n"
                 "f.yaml:9:9: method.kind: expected one of capture, eap, das, got 'epa';"
                 " did you mean 'eap'?\n"
                 "f.yaml:10:10: method.steps: expected an integer in 1..1000, got the text '10'\n"
                 "f.yaml:11:9: method.rate: expected a number in (0..1], got '.inf'\n"
                 "f.yaml:12:13: method.absolute: expected true or false, got 'yes'\n"
                 "f.yaml:13:14: method.sizes[1]: expected an integer of at least 1, got '0'\n"
                 "f.yaml:13:17: method.sizes[2]: expected an integer of at least 1, got 'x'\n"
                 "f.yaml:14:12: method.scopes[0]: expected one of semantic, fisher,"
                 " got 'semantics'; did you mean 'semantic'?\n"
                 "f.yaml:15:1: steps: expected a known key, got 'steps';"
                 " did you mean 'method.steps'?");
}

/* Other names of a word are no words: they are answered with it, and never listed. */
static void test_other_names_of_a_word(void **state) {
    (void)state;
    expect_error("name: x\ndata: {file: p.csv}\n"
                 "method: {kind: eap, scopes: [J, Lens, fisher, le, semantic=lens]}\n",
                 NULL,
                 "f.yaml:3:30: method.scopes[0]: expected one of semantic, fisher, got 'J';"
                 " did you mean 'semantic'?\n"
                 "f.yaml:3:33: method.scopes[1]: expected one of semantic, fisher, got 'Lens';"
                 " did you mean 'semantic'?\n"
                 "f.yaml:3:47: method.scopes[3]: expected one of semantic, fisher, got 'le'\n"
                 "f.yaml:3:51: method.scopes[4]: expected one of semantic, fisher,"
                 " got 'semantic=lens'");
}

static void test_single_messages(void **state) {
    (void)state;
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"- a\n", "f.yaml:1:1: expected a map of options, got a list"},
        {"name: x\ndata: 3\nmethod: {kind: eap}\n", "f.yaml:2:7: data: expected a map, got '3'"},
        {"name: x\ndata: {file: p}\nmethod:\n",
         "f.yaml:1:1: method.kind: expected one of capture, eap, das (required), got nothing"},
        {MINIMAL "seed:\n", "f.yaml:4:6: seed: expected an integer of at least 0, got null"},
        {MINIMAL "seed: 1\nseed: 2\n",
         "f.yaml:5:1: seed: expected each key once, got a second one (the first is at 4:1)"},
        {MINIMAL "seed: 1.0\n", "f.yaml:4:7: seed: expected an integer of at least 0, got '1.0'"},
        {MINIMAL "seed: 99999999999999999999\n",
         "f.yaml:4:7: seed: expected an integer of at least 0, got '99999999999999999999'"},
        {MINIMAL "seed: !!int 3\n", "f.yaml:4:7: seed: expected a value without a tag, got one"},
        {MINIMAL "data.limit: 3\n",
         "f.yaml:4:1: data.limit: expected one map inside the other, got a key with dots"},
        {MINIMAL "qwertz: 3\n",
         "f.yaml:4:1: qwertz: expected one of the keys name, seed, memory, model, data, method,"
         " sweep, got 'qwertz'"},
        {MINIMAL "---\nname: y\n", "f.yaml:4:1: expected one YAML document, got a second one"},
        {MINIMAL "model: *nowhere\n",
         "f.yaml:4:8: model: expected the alias of an anchor above, got an unknown one"},
        {MINIMAL "model: &a [*a]\n",
         "f.yaml:4:12: model[0]: expected the alias of a finished value, got one inside its own"
         " anchor"},
        {MINIMAL "'': 3\n", "f.yaml:4:1: expected a name as key, got nothing"},
        {MINIMAL "? [a]\n: 3\n",
         "f.yaml:4:3: expected a name as key, got a list, a map or an alias"},
        {"name: [a\nseed: 3\n",
         "f.yaml:2:5: expected well-formed YAML, got an error: did not find expected ',' or ']'"
         " (while parsing a flow sequence that began in line 1)"},
        {"name: \xc3\xa4 \xff\n",
         "f.yaml:1:9: expected UTF-8 text, got the byte 0xFF at byte offset 9"},
        {"name: a\x01 b\n", "f.yaml:1:8: expected well-formed YAML, got an error: control"
                            " characters are not allowed"},
        {MINIMAL "model: \"a\\0b\"\n",
         "f.yaml:4:8: model: expected text without NUL characters, got one"},
        {MINIMAL "model: [a\xc3\xa4]\n", "f.yaml:4:8: model: expected text, got a list"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_error(cases[i].text, NULL, cases[i].expected);
}

static void test_missing_file(void **state) {
    (void)state;
    ca_document *document;
    assert_int_equal(ca_document_open("tests/fixtures/no-such.yaml", NULL, 0, &document), CA_E_IO);
    assert_non_null(strstr(ca_error_text(), "tests/fixtures/no-such.yaml"));
    assert_null(document);
}

/* ---- hostile input ----------------------------------------------------------------------- */

static void append(ca_string *s, const char *text) {
    assert_int_equal(ca_string_append(s, text, strlen(text)), CA_OK);
}

static void test_depth_is_limited(void **state) {
    (void)state;
    ca_string text = {0};
    append(&text, "model: ");
    for (int i = 0; i < 100; i++) append(&text, "[");
    ca_config *config;
    assert_int_equal(resolve(text.text, NULL, 0, &config), CA_E_CONFIG);
    assert_non_null(strstr(ca_error_text(), "expected at most 64 levels of nesting, got more"));
    ca_string_free(&text);
}

/* Nine levels of tenfold aliases: a billion values from 500 bytes. */
static void test_aliases_are_limited(void **state) {
    (void)state;
    ca_string text = {0};
    append(&text, "a0: &a0 [0,0,0,0,0,0,0,0,0,0]\n");
    for (int i = 1; i < 9; i++) {
        assert_int_equal(ca_string_printf(&text, "a%d: &a%d [", i, i), CA_OK);
        for (int k = 0; k < 10; k++)
            assert_int_equal(ca_string_printf(&text, "%s*a%d", k > 0 ? "," : "", i - 1), CA_OK);
        append(&text, "]\n");
    }
    ca_config *config;
    assert_int_equal(resolve(text.text, NULL, 0, &config), CA_E_CONFIG);
    assert_non_null(strstr(ca_error_text(), "expected at most 1000000 values"));
    ca_string_free(&text);
}

static void test_many_errors_are_counted(void **state) {
    (void)state;
    ca_string text = {0};
    append(&text, MINIMAL);
    for (int i = 0; i < 150; i++)
        assert_int_equal(ca_string_printf(&text, "wrong-key-number-%d: 1\n", i), CA_OK);
    ca_config *config;
    assert_int_equal(resolve(text.text, NULL, 0, &config), CA_E_CONFIG);
    assert_non_null(strstr(ca_error_text(), "\n... and 50 more"));
    ca_string_free(&text);
}

/* ---- overrides --------------------------------------------------------------------------- */

static void test_overrides(void **state) {
    (void)state;
    const char *overrides[] = {"method.steps=10",
                               "method.sizes=[1, 5]",
                               "data={file: q.csv, limit: 7}",
                               "model=a: b #17 ",
                               "method.target=\"gold\"",
                               "data.columns.answer=correct_idx",
                               "method.noise.sigma=3",
                               NULL};
    ca_config *c = must_resolve(MINIMAL "seed: 3\n", overrides);
    assert_int_equal(ca_config_int(c, "seed"), 3);
    assert_int_equal(ca_config_int(c, "method.steps"), 10);
    assert_int_equal(ca_config_count(c, "method.sizes"), 2);
    assert_int_equal(ca_config_int_at(c, "method.sizes", 1), 5);
    assert_string_equal(ca_config_text(c, "data.file"), "q.csv");
    assert_int_equal(ca_config_int(c, "data.limit"), 7);
    /* Not a list, a map or quoted: the text as it stands. */
    assert_string_equal(ca_config_text(c, "model"), "a: b #17");
    assert_string_equal(ca_config_text(c, "method.target"), "gold");
    assert_false(ca_config_is_word(c, "method.target"));
    assert_string_equal(ca_node_find(ca_config_node(c, "data.columns"), "answer")->text,
                        "correct_idx");
    assert_string_equal(ca_config_where(c, "method.steps"), "command line: method.steps");
    assert_string_equal(ca_config_where(c, "seed"), "f.yaml:4:7: seed");
    ca_config_free(c);
}

static void test_wrong_overrides(void **state) {
    (void)state;
    const char *overrides[] = {
        "method.stpes=10", "seed=x",          "method.sizes.0=3",        "nonsense", "a..b=3",
        "model=[a",        "method.kind.x=1", "data.limit={a: 1, a: 2}", NULL};
    expect_error(MINIMAL "seed: y\n", overrides,
                 "command line: method.stpes: expected a known key, got 'stpes';"
                 " did you mean 'steps'?\n"
                 "command line: seed: expected an integer of at least 0, got 'x'\n"
                 "command line: method.sizes: expected a list of integers of at least 1 or all,"
                 " got a map\n"
                 "command line: expected key=value such as method.steps=10, got 'nonsense'\n"
                 "command line: expected key=value such as method.steps=10, got 'a..b=3'\n"
                 "command line: model: expected well-formed YAML, got an error: did not find"
                 " expected ',' or ']' (while parsing a flow sequence that began in line 6)\n"
                 "command line: method.kind.x: expected a key inside a map, got one inside 'eap'\n"
                 "command line: data.limit: expected an integer of at least 1, got a map\n"
                 "command line: data.limit.a: expected each key once, got a second one"
                 " (the first is at 8:13)");
    const char *into_list[] = {"method.sizes.0=3", NULL};
    expect_error("name: x\ndata: {file: p}\nmethod: {kind: eap, sizes: [1]}\n", into_list,
                 "command line: method.sizes.0: expected a key inside a map, got one inside a"
                 " list; give the whole list");
}

/* ---- sweeps ------------------------------------------------------------------------------ */

static void test_sweep_product(void **state) {
    (void)state;
    ca_document *d = must_open(
        MINIMAL "sweep: {method.steps: [1, 5, 20], data.limit: [null, 3]}\nseed: 9\n", NULL, 0);
    assert_int_equal(ca_document_points(d), 6);
    assert_int_equal(ca_document_sweep_keys(d), 2);
    assert_string_equal(ca_document_sweep_key(d, 0), "method.steps");
    const char *steps[] = {"1", "1", "5", "5", "20", "20"};
    for (int64_t point = 0; point < 6; point++) {
        assert_string_equal(ca_document_sweep_value(d, point, 0), steps[point]);
        assert_string_equal(ca_document_sweep_value(d, point, 1), point % 2 ? "3" : "null");
        ca_config *c;
        assert_int_equal(ca_config_resolve(d, point, tables, &c), CA_OK);
        assert_int_equal(ca_config_int(c, "method.steps"), strtol(steps[point], NULL, 10));
        assert_int_equal(ca_config_has(c, "data.limit"), point % 2);
        assert_null(strstr(ca_config_yaml(c), "sweep"));
        ca_config_free(c);
    }
    ca_document_free(d);
}

static void test_sweep_and_overrides(void **state) {
    (void)state;
    const char *const overrides[] = {"seed=7", "sweep.method.steps=[1, 2]"};
    ca_document *d =
        must_open(MINIMAL "sweep: {seed: [1, 2, 3], method.steps: [9]}\n", overrides, 2);
    assert_int_equal(ca_document_points(d), 2);
    assert_int_equal(ca_document_sweep_keys(d), 1);
    ca_config *c;
    assert_int_equal(ca_config_resolve(d, 1, tables, &c), CA_OK);
    assert_int_equal(ca_config_int(c, "seed"), 7);
    assert_int_equal(ca_config_int(c, "method.steps"), 2);
    ca_config_free(c);
    ca_document_free(d);
}

static void test_wrong_sweeps(void **state) {
    (void)state;
    expect_error(MINIMAL "sweep:\n"
                         "  method.stpes: [1]\n"
                         "  method.steps: [1, 0, x]\n"
                         "  method.sizes: [1]\n"
                         "  data.columns: [a]\n"
                         "  data: [a]\n"
                         "  seed: 3\n"
                         "  model: []\n"
                         "  name: [a, [b]]\n",
                 NULL,
                 "f.yaml:5:3: sweep.method.stpes: expected a known key, got 'stpes';"
                 " did you mean 'steps'?\n"
                 "f.yaml:6:21: sweep.method.steps: expected an integer in 1..1000, got '0'\n"
                 "f.yaml:6:24: sweep.method.steps: expected an integer in 1..1000, got 'x'\n"
                 "f.yaml:7:3: sweep.method.sizes: expected the key of a single value,"
                 " got that of a list\n"
                 "f.yaml:8:3: sweep.data.columns: expected the key of a single value,"
                 " got that of a map\n"
                 "f.yaml:9:3: sweep.data: expected the key of a single value, got that of a map\n"
                 "f.yaml:10:9: sweep.seed: expected a list of values, got '3'\n"
                 "f.yaml:11:10: sweep.model: expected a list of values, got an empty list\n"
                 "f.yaml:12:13: sweep.name: expected a single value in the list, got a list");
    expect_error(MINIMAL "sweep: 3\n", NULL,
                 "f.yaml:4:8: sweep: expected a map from keys to lists of values, got '3'");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_errors_at_once),
        cmocka_unit_test(test_other_names_of_a_word),
        cmocka_unit_test(test_single_messages),
        cmocka_unit_test(test_missing_file),
        cmocka_unit_test(test_depth_is_limited),
        cmocka_unit_test(test_aliases_are_limited),
        cmocka_unit_test(test_many_errors_are_counted),
        cmocka_unit_test(test_overrides),
        cmocka_unit_test(test_wrong_overrides),
        cmocka_unit_test(test_sweep_product),
        cmocka_unit_test(test_sweep_and_overrides),
        cmocka_unit_test(test_wrong_sweeps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
