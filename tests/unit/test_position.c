/* SPDX-License-Identifier: MIT
 *
 * Positions of configs and spans of prompt files: which tokens they are, and every refusal.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "data_files.h"

#include <stdlib.h>
#include <string.h>

/* Token indices of a position expression in the first example, as text; NULL when refused. */
typedef ca_status (*positions_reader)(const ca_config *, const char *, ca_positions *);

static const char *positions_of(const ca_dataset *d, positions_reader read) {
    static char text[256];
    ca_positions p;
    int64_t tokens[POSITIONS], count;
    text[0] = '\0';
    ca_error_clear();
    if (read(config, "positions", &p) != CA_OK) return NULL;
    assert_true(d->examples[0].clean.count <= POSITIONS);
    ca_status st = ca_positions_resolve(&p, d, &d->examples[0], tokens, &count);
    ca_positions_free(&p);
    if (st != CA_OK) return NULL;
    for (int64_t i = 0; i < count; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%d", i ? " " : "",
                 (int)tokens[i]);
    return text;
}

static void test_positions(void **state) {
    (void)state;
    static const struct {
        const char *positions, *expected; /* or the words of the refusal, after a '!' */
    } cases[] = {
        {"all", "0 1 2 3"},
        {"last", "3"},
        {"2", "2"},
        {"-1", "3"},
        {"[3, 0, -1]", "0 3"}, /* rising, once each: 3 and -1 are the same token of this prompt */
        {"[3, 0, -1, 0]", "!expected every position once, got 0 twice"},
        {"[4]", "!position 4 is outside the prompt of 4 tokens"},
        {"-5", "!position -5 is outside the prompt of 4 tokens"},
        {"subject", "!the position 'subject' needs the column subject_span, in tokens of a row of"},
        {"{after: x}", "!a position after \"x\" needs the prompt as text, got token ids"},
        {"first", "!expected all, last, subject"},
        {"[]", "!expected all, last, subject"},
        {"[a]", "!expected all, last, subject"},
        {"whole", "!expected all, last, subject, subject_last, a list"},
        {"[[1, 2]]", "!expected all, last, subject"},
        {"['1']", "!expected all, last, subject"},
        {"1.5", "!expected all, last, subject"},
        {"99999999999999999999", "!expected all, last, subject"},
        {"{before: x}", "!expected all, last, subject"},
        {"{after: ''}", "!expected all, last, subject"},
        {"{after: [x]}", "!expected all, last, subject"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char options[128];
        snprintf(options, sizeof options, "positions: %s\n", cases[i].positions);
        ca_dataset *d = must_open("a.csv", "clean_ids\n1 2 3 4\n", options);
        const char *got = positions_of(d, ca_positions_read);
        if (cases[i].expected[0] == '!') {
            assert_null(got);
            if (!strstr(ca_error_text(), cases[i].expected + 1)) fail_msg("%s", ca_error_text());
        } else {
            assert_non_null(got);
            assert_string_equal(got, cases[i].expected);
        }
        ca_dataset_free(d);
    }
}

/* The forms of a span in CSV, where a list is text; of a row of ids it counts tokens. */
static void test_spans_of_csv(void **state) {
    (void)state;
    static const struct {
        const char *span, *expected; /* or the words of the refusal, after a '!' */
    } cases[] = {
        {"1:3", "1 2"},
        {" 0 : 4 ", "0 1 2 3"},
        {"\"[2, 3]\"", "2"},
        {"\"[2,3]\"", "2"},
        {"3:5", "!the span is empty or outside the prompt of 4 tokens"},
        {"2:2", "!the span is empty"},
        {"-1:2", "!the span is empty"},
        {"2", "!expected [start, end) in tokens as 5:9 or \"[5, 9]\", got 2"},
        {"\"[2, 3\"", "!expected [start, end) in tokens as 5:9"},
        {"1:3:2", "!expected [start, end) in tokens as 5:9"},
        {"a:b", "!expected [start, end) in tokens as 5:9"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[128];
        snprintf(text, sizeof text, "clean_ids,subject_span\n1 2 3 4,%s\n", cases[i].span);
        if (cases[i].expected[0] == '!') {
            refuse_data("a.csv", text, cases[i].expected + 1);
            continue;
        }
        ca_dataset *d = must_open("a.csv", text, "positions: subject\n");
        assert_string_equal(positions_of(d, ca_positions_read), cases[i].expected);
        ca_dataset_free(d);
    }
}

/* Sets of tokens: what they print as, cells apart, and which tokens they have together. */
static void test_cells_of_tokens(void **state) {
    (void)state;
    static const struct {
        const char *positions, *printed, *expected; /* printed NULL: refused with these words */
    } cases[] = {
        {"whole", "whole", "0 1 2 3"},
        {"2", "2", "2"},
        {"[3, 0]", "[3, 0]", "0 3"},
        {"[[1, 3], last]", "[[1, 3], last]", "1 3"},
        {"[[-1, 0], 1]", "[[-1, 0], 1]", "0 1 3"},
        {"[whole, 2]", "[whole, 2]", "0 1 2 3"},
        {"[{after: x}]", "[after \"x\"]", "!needs the prompt as text"},
        {"[[1, 4]]", "[[1, 4]]", "!position 4 is outside the prompt of 4 tokens"},
        {"[all, 1]", NULL, "expected all, last, subject, subject_last, whole"},
        {"[[1, last]]", NULL, "expected all, last"},
        {"[[[1]]]", NULL, "expected all, last"},
        {"[[]]", NULL, "expected all, last"},
        {"[]", NULL, "expected all, last"},
        {"[1, b]", NULL, "[1, 3] inside it for several tokens at once"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char options[128];
        ca_positions p;
        ca_string text = {0};
        snprintf(options, sizeof options, "positions: %s\n", cases[i].positions);
        ca_dataset *d = must_open("a.csv", "clean_ids\n1 2 3 4\n", options);
        bool refused = cases[i].printed == NULL || cases[i].expected[0] == '!';
        const char *got = positions_of(d, ca_positions_read_cells);
        if (refused) {
            assert_null(got);
            const char *words = cases[i].expected + (cases[i].printed != NULL);
            if (!strstr(ca_error_text(), words)) fail_msg("%s", ca_error_text());
        } else {
            assert_string_equal(got, cases[i].expected);
        }
        if (cases[i].printed) {
            assert_int_equal(ca_positions_read_cells(config, "positions", &p), CA_OK);
            assert_int_equal(ca_positions_print(&p, &text), CA_OK);
            assert_string_equal(text.text, cases[i].printed);
            ca_string_free(&text);
            ca_positions_free(&p);
        }
        ca_dataset_free(d);
    }
}

/* Bytes that the tokens of a position expression cover in the first prompt. */
static void expect_covered(const char *rows, const char *positions, const char *expected) {
    char options[128];
    snprintf(options, sizeof options, "positions: %s\n", positions);
    ca_dataset *d = must_open("a.json", rows, options);
    const char *got = positions_of(d, ca_positions_read);
    if (!got) {
        if (!strstr(ca_error_text(), expected)) fail_msg("%s", ca_error_text());
    } else {
        const ca_prompt_text *clean = &d->examples[0].clean;
        char *end;
        long first = strtol(got, &end, 10), last = first;
        while (*end) last = strtol(end, &end, 10);
        ca_string covered = {0};
        assert_int_equal(ca_string_append(&covered, clean->text + clean->start[first],
                                          (size_t)(clean->end[last] - clean->start[first])),
                         CA_OK);
        assert_string_equal(covered.text, expected);
        ca_string_free(&covered);
    }
    ca_dataset_free(d);
}

static void test_text_positions(void **state) {
    (void)state;
    /* the span is in characters, the prompt's bytes are more */
    static const char span[] =
        "[{\"clean\": \"na\\u00efve caf\\u00e9 x\", \"subject_span\": [5, 10]}]";
    static const char subject[] = "[{\"clean\": \"x 12 y\", \"subject\": \" 12\"}]";
    expect_covered(span, "subject", " caf\xC3\xA9");
    expect_covered(subject, "subject", " 12");
    expect_covered("[{\"clean\": \"x 12 y\", \"subject_span\": \"1:4\"}]", "subject", " 12");
    expect_covered(subject, "{after: x}", " 1");
    expect_covered(subject, "{after: z}", "\"z\" is not in the prompt");
    expect_covered(subject, "{after: ' '}", "\" \" is in the prompt more than once");
    expect_covered(subject, "{after: y}", "no token comes after \"y\"");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_positions),
        cmocka_unit_test(test_spans_of_csv),
        cmocka_unit_test(test_cells_of_tokens),
        cmocka_unit_test(test_text_positions),
    };
    return cmocka_run_group_tests(tests, set_up_data, tear_down_data);
}
