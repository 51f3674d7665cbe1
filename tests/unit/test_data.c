/* SPDX-License-Identifier: MIT
 *
 * Prompt files: what the three formats give, how texts become ids, and the message of every
 * refusal.
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

static const ca_data_needs nothing = {0};
static const ca_data_needs pair = {.pair = true};

static void expect_ids(const int32_t *ids, int64_t count, const char *expected) {
    char text[256] = "";
    for (int64_t i = 0; i < count; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%d", i ? " " : "", ids[i]);
    assert_string_equal(text, expected);
}

/* ---- formats ---- */

static void test_csv(void **state) {
    (void)state;
    ca_dataset *d = must_open("a.csv",
                              "\xEF\xBB\xBFid,clean_ids,note\r\n"
                              "\"a,b\",\"[1, 2]\",\"line\r\nbreak\"\r\n"
                              "\r\n"
                              "\"say \"\"hi\"\"\",3 4 5,\n"
                              ",7|8,x",
                              "");
    assert_int_equal(d->count, 3);
    assert_string_equal(d->examples[0].id, "a,b");
    assert_string_equal(d->examples[1].id, "say \"hi\"");
    assert_string_equal(d->examples[2].id, "2"); /* empty: the row number */
    expect_ids(d->examples[0].clean.ids, d->examples[0].clean.count, "1 2");
    expect_ids(d->examples[1].clean.ids, d->examples[1].clean.count, "3 4 5");
    expect_ids(d->examples[2].clean.ids, d->examples[2].clean.count, "7 8");
    assert_int_equal(d->examples[2].row, 3);
    assert_int_equal(strlen(d->sha256), 64);
    assert_false(d->pairs);
    ca_dataset_free(d);

    d = must_open("pandas.csv", ",clean_ids\n0,5\n1,6\n", ""); /* an unnamed index column */
    assert_int_equal(d->count, 2);
    expect_ids(d->examples[1].clean.ids, 1, "6");
    ca_dataset_free(d);
}

static void test_csv_errors(void **state) {
    (void)state;
    refuse_data("a.csv", "", "the file is empty");
    refuse_data("a.csv", "clean\n", "the file has no rows");
    refuse_data("a.csv", "\n\n", "line 1: column 1 has no name");
    refuse_data("a.csv", "clean,\na,b\n", "line 1: column 2 has no name");
    refuse_data("a.csv", "clean,id,clean\n", "line 1: the column 'clean' is named twice");
    refuse_data("a.csv", "clean,id\na,b\n\na\n",
                "line 4: expected 2 fields as in the first line, got 1");
    refuse_data("a.csv", "clean\na,b\n", "line 2: expected 1 fields as in the first line, got 2");
    refuse_data("a.csv", "clean,id\n\"a\nb\",c\n\"d\n", "line 4: a quoted field is never closed");
    refuse_data("a.csv", "clean\n\"a\"b\n",
                "line 2: expected a comma or the end of the line after a closing quote, got 'b'");
    refuse_data("a.csv", "clean\na\"b\n",
                "line 2: a quote inside a field that does not begin with one");
}

static void test_json(void **state) {
    (void)state;
    static const char rows[] =
        "[{\"id\": 7, \"clean_ids\": [1, 2], \"answer_ids\": [3, 4], \"label\": -5},"
        " {\"clean_ids\": 6, \"correct_idx\": 8, \"incorrect_idx\": 9, \"id\": null}]";
    char wrapped[512];
    snprintf(wrapped, sizeof wrapped, "{\"version\": 1, \"prompts\": %s}", rows);
    for (int k = 0; k < 2; k++) {
        ca_dataset *d = must_open("a.json", k ? wrapped : rows, "");
        assert_int_equal(d->count, 2);
        assert_string_equal(d->examples[0].id, "7");
        assert_string_equal(d->examples[1].id, "1");
        expect_ids(d->examples[0].answer.ids, d->examples[0].answer.count, "3 4");
        assert_true(d->examples[0].has_label);
        assert_int_equal(d->examples[0].label, -5);
        assert_false(d->examples[1].has_label);
        expect_ids(d->examples[1].clean.ids, d->examples[1].clean.count, "6");
        expect_ids(d->examples[1].answer.ids, d->examples[1].answer.count, "8");
        expect_ids(d->examples[1].wrong.ids, d->examples[1].wrong.count, "9");
        ca_dataset_free(d);
    }
    ca_dataset *d =
        must_open("a.jsonl", "\n{\"clean_ids\": [1]}\n \n\"the\"\n{\"prompt\": \"a\"}", "");
    assert_int_equal(d->count, 3);
    assert_string_equal(d->examples[1].clean.text, "the"); /* a plain text is a prompt */
    assert_string_equal(d->examples[2].clean.text, "a");
    ca_dataset_free(d);
}

static void test_json_errors(void **state) {
    (void)state;
    refuse_data("a.json", "", "line 1");
    refuse_data("a.json", "[{\"clean\": \"a\"},\n {\"clean\"]", "line 2, column");
    refuse_data("a.json", "{\"rows\": []}", "expected a list of rows or {\"prompts\": [rows]}");
    refuse_data("a.json", "3", "line 1");
    refuse_data("a.json", "[]", "the file has no rows");
    refuse_data("a.json", "[\"a\", 3]", "row 2: expected an object or a text");
    refuse_data("a.json", "[{\"clean\": \"a\", \"clean\": \"b\"}]", "duplicate");
    refuse_data("a.json", "[{\"answer\": [[1]]}]", "row 1: column answer: a list inside a list");
    refuse_data("a.json", "[{\"clean_ids\": [99999999999999999999]}]", "line 1");
    refuse_data("a.jsonl", "{\"clean\": \"a\"}\n{\"clean\": }\n", "line 2, column");
    refuse_data("a.jsonl", "{\"clean\": \"a\"}\n[1]", "line 2: expected an object or a text");
    refuse_data("a.txt", "a", "expected a file named .csv, .jsonl or .json");
    refuse_data("a.csv", "clean\na\xC3(\n", "invalid UTF-8 at byte 7");
    refuse_data("a.json", "[\"\xED\xA0\x80\"]", "invalid UTF-8 at byte 2");
    ca_dataset *d;
    expect_error(open_bytes("a.csv", "clean\na\0b\n", 10, "", tokenizer, nothing, &d),
                 "a zero byte at byte 7");
}

static void test_missing_file(void **state) {
    (void)state;
    ca_dataset *d;
    static const char text[] = "data: {file: nowhere.csv}\n";
    ca_document *document = NULL;
    ca_config *c = NULL;
    assert_int_equal(ca_document_parse(text, strlen(text), "d.yaml", NULL, 0, &document), CA_OK);
    assert_int_equal(ca_config_resolve(document, 0, data_tables, &c), CA_OK);
    assert_int_equal(ca_dataset_open(c, NULL, VOCAB, POSITIONS, nothing, &d), CA_E_DATA);
    assert_non_null(strstr(ca_error_text(), "d.yaml:1:14: data.file: nowhere.csv"));
    ca_config_free(c);
    ca_document_free(document);
}

/* ---- columns and rows ---- */

static void test_columns(void **state) {
    (void)state;
    ca_dataset *d = must_open("a.csv", "q,n\nthe,4\n", "  columns: {clean: q, label: n}\n");
    assert_string_equal(d->examples[0].clean.text, "the");
    assert_int_equal(d->examples[0].label, 4);
    ca_dataset_free(d);
    static const struct {
        const char *options, *words;
    } bad[] = {
        {"  columns: {clean: x}\n", "has no column 'x'"},
        {"  columns: {claen: q}\n", "'claen' is not a column that is read"},
        {"  bos: 640\n", "expected a token id below 640, got 640"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_error(
            open_bytes("a.csv", "q,clean\na,b\n", 12, bad[i].options, tokenizer, nothing, &d),
            bad[i].words);
}

static void test_start_and_limit(void **state) {
    (void)state;
    static const char rows[] = "clean_ids\n1\n2\n3\n4\n";
    ca_dataset *d = must_open("a.csv", rows, "  start: 1\n  limit: 2\n");
    assert_int_equal(d->count, 2);
    expect_ids(d->examples[0].clean.ids, 1, "2");
    assert_int_equal(d->examples[1].row, 3);
    ca_dataset_free(d);
    expect_error(open_bytes("a.csv", rows, strlen(rows), "  start: 4\n", NULL, nothing, &d),
                 "no row is left after filtering");
}

static void test_row_errors(void **state) {
    (void)state;
    static const struct {
        const char *row, *words;
    } bad[] = {
        {"{\"id\": 1}", "row 2 (line 2), column clean: the prompt is missing or empty"},
        {"{\"clean\": \"\"}", "column clean: the prompt is empty"},
        {"{\"text\": 4}", "column text: expected a text, got 4"},
        {"{\"clean_ids\": []}", "column clean_ids: expected at least one token id"},
        {"{\"clean_ids\": [1, null]}", "column clean_ids: expected token ids, got null"},
        {"{\"clean_ids\": \"1 two\"}", "expected token ids, got '1 two'"},
        {"{\"clean_ids\": {\"a\": 1}}", "expected token ids, got {\"a\":1}"},
        {"{\"clean_ids\": [640]}", "expected token ids from 0 to 639, got 640"},
        {"{\"clean_ids\": \"99999999999999999999\"}", "expected token ids, got '9999"},
        {"{\"clean\": \"a a a a a a a a a a a a a a a a a a a a a\"}", "but the model takes 20"},
        {"{\"clean\": \"a\", \"answer\": \"several words\"}",
         "column answer: expected one token, got \"several words\", which is"},
        {"{\"clean\": \"a\", \"answer\": \"a||b\"}", "got \"\", which is 0 tokens"},
        {"{\"clean\": \"a\", \"wrong\": [\"a\", 2]}", "column wrong: expected a list of texts"},
        {"{\"clean\": \"a\", \"answer\": 5}", "expected a text or a list of texts, got 5"},
        {"{\"clean\": \"a\", \"wrong_ids\": -2}", "column wrong_ids: expected token ids from 0"},
        {"{\"clean\": \"a\", \"answer_text\": 5}", "column answer_text: expected a text, got 5"},
        {"{\"clean\": \"a\", \"answer_text\": \"\"}", "column answer_text"},
        {"{\"clean\": \"a\", \"label\": \"1.5\"}",
         "column label: expected a whole number, got '1.5'"},
        {"{\"clean\": \"a\", \"label\": true}", "expected a whole number, got 'true'"},
        {"{\"clean\": \"a\", \"subject\": \"b\"}", "column subject: \"b\" is not in the prompt"},
        {"{\"clean\": \"a\", \"subject\": \"\"}", "column subject: expected a text"},
        {"{\"clean\": \"a a\", \"subject\": \"a\"}", "more than once: give subject_span"},
        {"{\"clean\": \"a\", \"subject_span\": [0, 2]}", "the span is empty or outside the prompt"},
        {"{\"clean\": \"a\", \"subject_span\": [1, 1]}", "the span is empty or outside the prompt"},
        {"{\"clean\": \"a\", \"subject_span\": [-1, 1]}",
         "the span is empty or outside the prompt"},
        {"{\"clean\": \"a\", \"subject_span\": \"0-1\"}",
         "expected [start, end) in characters as [5, 9], got 0-1"},
        {"{\"clean_ids\": [1, 2], \"subject_span\": [1, 3]}",
         "column subject_span: the span is empty or outside the prompt of 2 tokens"},
        {"{\"clean_ids\": [1, 2], \"subject_span\": [1]}",
         "column subject_span: expected [start, end) in tokens as [5, 9], got a list"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char rows[512];
        snprintf(rows, sizeof rows, "{\"clean_ids\": [1]}\n%s\n", bad[i].row);
        refuse_data("a.jsonl", rows, bad[i].words);
    }
    refuse_data("a.json", "[\"a\",\n\n{}]", "row 2, column clean"); /* lines are not known there */
    ca_dataset *d;
    static const struct {
        const char *row, *words;
    } without[] = {
        {"[{\"clean\": \"a\"}]", "give token ids in a column clean_ids"},
        {"[{\"clean_ids\": [1], \"answer\": \"a\"}]", "give ids in answer_ids"},
    };
    for (size_t i = 0; i < sizeof without / sizeof *without; i++)
        expect_error(
            open_bytes("a.json", without[i].row, strlen(without[i].row), "", NULL, nothing, &d),
            without[i].words);
}

static void test_all_bad_rows_are_listed(void **state) {
    (void)state;
    ca_string rows = {0};
    assert_int_equal(ca_string_printf(&rows, "clean_ids\n"), CA_OK);
    for (int i = 0; i < 25; i++) assert_int_equal(ca_string_printf(&rows, "%d\n", 700 + i), CA_OK);
    refuse_data("a.csv", rows.text,
                "row 1 (line 2), column clean_ids: expected token ids from 0 to 639");
    assert_non_null(strstr(ca_error_text(), "row 20 (line 21)"));
    assert_null(strstr(ca_error_text(), "row 21"));
    assert_non_null(strstr(ca_error_text(), "\n... and 5 more rows"));
    ca_string_free(&rows);
}

static void test_needs(void **state) {
    (void)state;
    static const struct {
        ca_data_needs needs;
        const char *words;
    } cases[] = {
        {{.pair = true}, "expected a column corrupted or corrupted_ids, got the columns clean_ids"},
        {{.answer = true}, "column answer: the method needs an answer"},
        {{.subject = true}, "column subject: the method needs a subject"},
    };
    ca_dataset *d;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_error(open_bytes("a.csv", "clean_ids\n1\n", 12, "", NULL, cases[i].needs, &d),
                     cases[i].words);
}

static void test_no_prompt_column(void **state) {
    (void)state;
    refuse_data(
        "a.csv", "question,answer\nthe,a\n",
        "expected a column clean, text, prompt or clean_ids, got the columns question, answer");
    assert_non_null(strstr(ca_error_hint(), "data.columns.clean=NAME"));
}

static void test_unanswered(void **state) {
    (void)state;
    ca_dataset *d = must_open("a.csv", "clean_ids,answer_ids\n1,2\n1,\n3,\n", "");
    assert_int_equal(d->unanswered, 2);
    ca_dataset_free(d);
}

/* ---- pairs ---- */

static void test_pairs(void **state) {
    (void)state;
    static const char rows[] = "clean_ids,corrupted_ids\n1 2 3,1 5 6\n4 5,4 5\n";
    ca_dataset *d = must_open("a.csv", rows, "");
    assert_true(d->pairs);
    assert_int_equal(d->examples[0].first_difference, 1);
    assert_int_equal(d->examples[1].first_difference, 2); /* none */
    ca_dataset_free(d);
}

static void test_pairs_of_different_length(void **state) {
    (void)state;
    static const char rows[] = "clean_ids,corrupted_ids,id\n1 2 3,1 2,p\n4 5,4 6,q\n";
    ca_dataset *d;
    expect_error(open_bytes("a.csv", rows, strlen(rows), "", NULL, pair, &d),
                 "row 1 (line 2), column corrupted: expected 3 tokens as in clean, got 2");
    assert_non_null(strstr(ca_error_hint(), "data.mismatch=skip"));
    /* A method that reads one prompt of them takes them, but not as pairs. */
    assert_int_equal(open_bytes("a.csv", rows, strlen(rows), "", NULL, nothing, &d), CA_OK);
    assert_int_equal(d->count, 2);
    assert_false(d->pairs);
    assert_string_equal(ca_error_hint(), "");
    ca_dataset_free(d);
    assert_int_equal(
        open_bytes("a.csv", rows, strlen(rows), "  mismatch: skip\n  limit: 1\n", NULL, pair, &d),
        CA_OK);
    assert_int_equal(d->count, 1);
    assert_string_equal(d->examples[0].id, "q");
    assert_int_equal(d->excluded_count, 1);
    assert_string_equal(d->excluded[0], "row 1 (id p): clean has 3 tokens, corrupted 2");
    ca_dataset_free(d);
}

/* ---- texts ---- */

static void test_texts_and_answers(void **state) {
    (void)state;
    ca_dataset *d = must_open("a.json",
                              "[{\"clean\": \"the a\", \"answer\": [\"a\", \"b\"], \"wrong\": "
                              "\"c|d\", \"answer_text\": \"a b\"}]",
                              "  bos: 7\n");
    const ca_example *e = &d->examples[0];
    ca_encoding plain;
    assert_int_equal(ca_tokenizer_encode(tokenizer, "the a", 5, false, &plain), CA_OK);
    assert_int_equal(e->clean.count, plain.count + 1);
    assert_int_equal(e->clean.ids[0], 7); /* BOS first, covering no byte */
    assert_int_equal(e->clean.end[0], 0);
    assert_memory_equal(e->clean.ids + 1, plain.ids, (size_t)plain.count * sizeof *plain.ids);
    assert_int_equal(e->clean.end[e->clean.count - 1], 5);
    ca_encoding_free(&plain);
    static const char *const texts[] = {"a", "b", "c", "d"};
    const int32_t got[] = {e->answer.ids[0], e->answer.ids[1], e->wrong.ids[0], e->wrong.ids[1]};
    assert_int_equal(e->answer.count + e->wrong.count, 4);
    for (int i = 0; i < 4; i++) {
        int32_t id;
        assert_int_equal(ca_token_of_text(tokenizer, texts[i], VOCAB, &id), CA_OK);
        assert_int_equal(got[i], id);
    }
    assert_true(e->answer_text.count >= 2);
    assert_int_equal(e->answer_text.ids[0], got[0]); /* no BOS before a continuation */
    ca_dataset_free(d);
}

/* A method that prepares its rows again, for less memory, finds them as they were. */
static void test_answers_are_joined_once(void **state) {
    (void)state;
    ca_dataset *d = must_open("a.json", "[{\"clean_ids\": [1, 2], \"answer_text_ids\": [3, 4]}]",
                              "  bos: false\n");
    for (int time = 0; time < 2; time++) {
        assert_int_equal(ca_example_join_answer(d, &d->examples[0], 4), CA_OK);
        expect_ids(d->examples[0].clean.ids, d->examples[0].clean.count, "1 2 3 4");
    }
    ca_dataset_free(d);
}

static void test_token_of_text(void **state) {
    (void)state;
    int32_t id = -1;
    assert_int_equal(ca_token_of_text(NULL, "#17", VOCAB, &id), CA_OK);
    assert_int_equal(id, 17);
    assert_int_equal(ca_token_of_text(tokenizer, "#", VOCAB, &id), CA_OK); /* the character */
    static const struct {
        const char *text, *words;
        bool with;
    } bad[] = {
        {"#640", "expected a token id from #0 to #639, got '#640'", true},
        {"#-1", "expected a token id from #0 to #639", true},
        {"house", "the model has no tokenizer: name the token by its id", false},
        {"several words", "expected a text of exactly one token, got \"several words\", which is",
         true},
        {"", "got \"\", which is 0 tokens", true},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ca_error_clear();
        assert_int_equal(ca_token_of_text(bad[i].with ? tokenizer : NULL, bad[i].text, VOCAB, &id),
                         CA_E_DATA);
        if (!strstr(ca_error_text(), bad[i].words)) fail_msg("%s", ca_error_text());
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_csv),
        cmocka_unit_test(test_csv_errors),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_json_errors),
        cmocka_unit_test(test_missing_file),
        cmocka_unit_test(test_columns),
        cmocka_unit_test(test_start_and_limit),
        cmocka_unit_test(test_row_errors),
        cmocka_unit_test(test_all_bad_rows_are_listed),
        cmocka_unit_test(test_needs),
        cmocka_unit_test(test_no_prompt_column),
        cmocka_unit_test(test_unanswered),
        cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_pairs_of_different_length),
        cmocka_unit_test(test_texts_and_answers),
        cmocka_unit_test(test_answers_are_joined_once),
        cmocka_unit_test(test_token_of_text),
    };
    return cmocka_run_group_tests(tests, set_up_data, tear_down_data);
}
