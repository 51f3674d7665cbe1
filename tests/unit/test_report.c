/* SPDX-License-Identifier: MIT
 *
 * Finding and running the report script: what is passed on, and how failures read. The script is a
 * stand-in made here; the real one is tested in tests/e2e/test_report.py.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "causa/report.h"

static char folder[64], script[96], interpreter[96];

static int make_folder(void **state) {
    (void)state;
    (void)snprintf(folder, sizeof folder, "/tmp/causa-report-XXXXXX");
    if (mkdtemp(folder) == NULL) return 1;
    (void)snprintf(script, sizeof script, "%s/__main__.py", folder);
    (void)snprintf(interpreter, sizeof interpreter, "%s/interpreter", folder);
    return setenv("CAUSA_REPORT", folder, 1);
}

static int remove_folder(void **state) {
    (void)state;
    (void)unlink(script);
    (void)unlink(interpreter);
    return rmdir(folder);
}

static void write_file(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    (void)fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

/* A program that stands in for Python: sees the arguments `-B FOLDER -o DIR -- RESULT`. */
static void make_interpreter(char path[96], const char *body) {
    (void)snprintf(path, 96, "%s", interpreter);
    char text[512];
    (void)snprintf(text, sizeof text, "#!/bin/sh\n%s\n", body);
    write_file(path, text);
    assert_int_equal(chmod(path, 0700), 0);
    write_file(script, "");
}

static void test_script_is_found(void **state) {
    (void)state;
    char *path = NULL;
    assert_int_equal(ca_report_script(&path), CA_E_FAILED); /* no __main__.py yet */
    assert_non_null(strstr(ca_error_text(), "CAUSA_REPORT: expected a folder"));
    write_file(script, "");
    assert_int_equal(ca_report_script(&path), CA_OK);
    assert_string_equal(path, folder);
    free(path);
}

static void test_arguments_are_passed(void **state) {
    (void)state;
    char python[96];
    make_interpreter(python, "[ \"$1 $3 $4 $5 $6 $#\" = '-B -o out dir -- -x.h5 6' ] || exit 1");
    assert_int_equal(ca_report_run("-x.h5", "out dir", python), CA_OK);
    assert_int_equal(ca_report_run("-y.h5", "out dir", python), CA_E_FAILED);
}

static void test_failures_are_told(void **state) {
    (void)state;
    char python[96];
    make_interpreter(python, "echo Traceback >&2; echo 'ValueError: bad' >&2; echo >&2; exit 1");
    assert_int_equal(ca_report_run("x.h5", NULL, python), CA_E_FAILED);
    assert_string_equal(ca_error_text(), "ValueError: bad");
    make_interpreter(python, "echo 'x.h5: no result' >&2; exit 3");
    assert_int_equal(ca_report_run("x.h5", NULL, python), CA_E_DATA);
    assert_string_equal(ca_error_text(), "x.h5: no result");
    make_interpreter(python, "kill -9 $$");
    assert_int_equal(ca_report_run("x.h5", NULL, python), CA_E_FAILED);
    assert_non_null(strstr(ca_error_text(), "signal 9"));
    /* more than the buffer holds: the end is kept */
    make_interpreter(python, "i=0; while [ $i -lt 400 ]; do echo 'a long line of text' >&2; "
                             "i=$((i+1)); done; echo 'the last' >&2; exit 1");
    assert_int_equal(ca_report_run("x.h5", NULL, python), CA_E_FAILED);
    assert_string_equal(ca_error_text(), "the last");
    assert_int_equal(ca_report_run("x.h5", NULL, "/no/such/python"), CA_E_FAILED);
    assert_non_null(strstr(ca_error_text(), "/no/such/python: cannot start it: No such file"));
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        TEST(test_script_is_found),
        TEST(test_arguments_are_passed),
        TEST(test_failures_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
