/* SPDX-License-Identifier: MIT
 *
 * Result files: round trips, layout, life cycle (temporary, checkpoint, resume, finish), and what a
 * user reads when a folder is missing, a disk is full or a file is not ours.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "causa/result.h"

static char folder[64];
static char path[128], temporary[160], checkpoint[160];

static int make_folder(void **state) {
    (void)state;
    (void)snprintf(folder, sizeof folder, "/tmp/causa-result-XXXXXX");
    if (mkdtemp(folder) == NULL) return 1;
    (void)snprintf(path, sizeof path, "%s/x.h5", folder);
    (void)snprintf(temporary, sizeof temporary, "%s.tmp", path);
    (void)snprintf(checkpoint, sizeof checkpoint, "%s.checkpoint", path);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    (void)unlink(path);
    (void)unlink(temporary);
    (void)unlink(checkpoint);
    return rmdir(folder); /* fails when anything else was left behind */
}

static void ok(ca_status st) {
    if (st != CA_OK) fail_msg("%s", ca_error_text());
}

static ca_result *create(void) {
    ca_result *r = NULL;
    ok(ca_result_create(path, &r));
    ok(ca_result_attribute_text(r, "/", "config_sha256", "abc"));
    return r;
}

static ca_result_reader *open_reader(const char *name) {
    ca_result_reader *reader = NULL;
    ok(ca_result_reader_open(name, &reader));
    return reader;
}

static void expect_floats(ca_result_reader *reader, const char *dataset, const double *want,
                          int64_t count) {
    double *got = NULL;
    int64_t got_count = -1;
    ok(ca_result_reader_floats(reader, dataset, &got, &got_count));
    assert_int_equal(got_count, count);
    for (int64_t i = 0; i < count; i++) {
        /* stored values are exactly representable: no tolerance */
        if (isnan(want[i]) ? !isnan(got[i]) : got[i] != want[i]) {
            fail_msg("%s[%lld] = %g, expected %g", dataset, (long long)i, got[i], want[i]);
        }
    }
    free(got);
}

/* ---- values */

static void test_attributes_round_trip(void **state) {
    (void)state;
    ca_result *r = create();
    const char *lines[] = {"sign: higher is better", "naïve 原因"};
    ok(ca_result_attribute_text(r, "/", "method", "capture"));
    ok(ca_result_attribute_int(r, "/run/deep", "ranks", INT64_C(1) << 40));
    ok(ca_result_attribute_float(r, "/run/deep", "wall_seconds", 0.1));
    ok(ca_result_attribute_texts(r, "/", "conventions", lines, 2));
    ok(ca_result_attribute_texts(r, "/", "nothing", NULL, 0));
    ok(ca_result_attribute_text(r, "/", "method", "jacobian")); /* replaces */
    ok(ca_result_finish(r));

    ca_result_reader *reader = open_reader(path);
    const char *text = NULL;
    int64_t number = 0;
    double real = 0;
    assert_true(ca_result_reader_text(reader, "/", "method", &text));
    assert_string_equal(text, "jacobian");
    assert_true(ca_result_reader_text(reader, "/", "status", &text));
    assert_string_equal(text, "complete");
    assert_true(ca_result_reader_text(reader, "/", "conventions", &text));
    assert_string_equal(text, "sign: higher is better\nnaïve 原因");
    assert_true(ca_result_reader_int(reader, "/run/deep", "ranks", &number));
    assert_int_equal(number, INT64_C(1) << 40);
    assert_true(ca_result_reader_float(reader, "/run/deep", "wall_seconds", &real));
    assert_true(real == 0.1);
    assert_false(ca_result_reader_text(reader, "/", "ranks", &text));
    assert_false(ca_result_reader_text(reader, "/absent/group", "ranks", &text));
    assert_false(ca_result_reader_text(reader, "/run/deep", "ranks", &text)); /* another type */
    assert_false(ca_result_reader_int(reader, "/", "method", &number));
    ca_result_reader_close(reader);
}

static void test_ill_formed_text_is_replaced(void **state) {
    (void)state;
    ca_result *r = create();
    ok(ca_result_attribute_text(r, "/", "model_path", "half \xF0\x9F of \xFF it"));
    ok(ca_result_finish(r));
    ca_result_reader *reader = open_reader(path);
    const char *text = NULL;
    assert_true(ca_result_reader_text(reader, "/", "model_path", &text));
    assert_int_equal(ca_utf8_invalid(text, strlen(text)), -1);
    assert_non_null(strstr(text, " of \xEF\xBF\xBD it"));
    ca_result_reader_close(reader);
}

static void test_datasets_round_trip(void **state) {
    (void)state;
    ca_result *r = create();
    const float f32[6] = {1.5f, -2, 0, 4, NAN, INFINITY};
    const double scalar = 0.1;
    const int32_t i32[3] = {1, -1, INT32_MAX};
    const int64_t i64[2] = {0, INT64_C(1) << 50};
    const int8_t flags[3] = {1, 0, 1};
    ok(ca_result_put(r, "/patch/value", CA_RESULT_F32, (ca_result_shape){2, {2, 3}, {0}}, f32));
    ok(ca_result_put(r, "/scalar", CA_RESULT_F64, (ca_result_shape){.rank = 0}, &scalar));
    ok(ca_result_put(r, "/data/tokens", CA_RESULT_I32, (ca_result_shape){1, {3}, {0}}, i32));
    ok(ca_result_put(r, "/data/offsets", CA_RESULT_I64, (ca_result_shape){1, {2}, {0}}, i64));
    ok(ca_result_put(r, "/mask", CA_RESULT_BOOL, (ca_result_shape){1, {3}, {0}}, flags));
    ok(ca_result_put(r, "/empty", CA_RESULT_I32, (ca_result_shape){2, {0, 4}, {0}}, NULL));
    ok(ca_result_finish(r));

    ca_result_reader *reader = open_reader(path);
    expect_floats(reader, "/patch/value", (double[]){1.5, -2, 0, 4, NAN, INFINITY}, 6);
    expect_floats(reader, "/scalar", (double[]){0.1}, 1);
    expect_floats(reader, "/data/tokens", (double[]){1, -1, INT32_MAX}, 3);
    expect_floats(reader, "/data/offsets", (double[]){0, 1125899906842624.0}, 2);
    expect_floats(reader, "/mask", (double[]){1, 0, 1}, 3);
    expect_floats(reader, "/empty", NULL, 0);
    double *values = NULL;
    int64_t count = 0;
    assert_int_equal(ca_result_reader_floats(reader, "/no/such", &values, &count), CA_E_DATA);
    assert_non_null(strstr(ca_error_text(), "/no/such"));
    ca_result_reader_close(reader);
}

static void test_texts_and_truths_are_read(void **state) {
    (void)state;
    static const char *const names[] = {"m0", "", "é"};
    const int8_t flags[6] = {1, 0, 1, 0, 0, 1};
    ca_result *r = create();
    ok(ca_result_put(r, "/names", CA_RESULT_TEXT, (ca_result_shape){1, {3}, {0}}, names));
    ok(ca_result_put(r, "/mask", CA_RESULT_BOOL, (ca_result_shape){2, {2, 3}, {0}}, flags));
    ok(ca_result_finish(r));

    ca_result_reader *reader = open_reader(path);
    const char *const *texts;
    bool *truths;
    int64_t count;
    ca_result_shape shape;
    ok(ca_result_reader_shape(reader, "/mask", &shape));
    assert_true(shape.rank == 2 && shape.size[0] == 2 && shape.size[1] == 3);
    ok(ca_result_reader_texts(reader, "/names", &texts, &count));
    assert_int_equal(count, 3);
    for (int i = 0; i < 3; i++) assert_string_equal(texts[i], names[i]);
    ok(ca_result_reader_bools(reader, "/mask", 1, &truths, &count));
    assert_true(count == 3 && !truths[0] && !truths[1] && truths[2]);
    free(truths);
    assert_int_equal(ca_result_reader_bools(reader, "/mask", 2, &truths, &count), CA_E_DATA);
    assert_non_null(strstr(ca_error_text(), "/mask: expected an entry from 0 to 1, got 2"));
    assert_int_equal(ca_result_reader_bools(reader, "/names", 0, &truths, &count), CA_E_DATA);
    assert_non_null(strstr(ca_error_text(), "/names: expected true or false"));
    assert_int_equal(ca_result_reader_texts(reader, "/mask", &texts, &count), CA_E_DATA);
    assert_non_null(strstr(ca_error_text(), "/mask: expected texts"));
    assert_true(ca_result_reader_has(reader, "/mask") && !ca_result_reader_has(reader, "/none"));
    ca_result_reader_close(reader);
}

/* Large enough for chunks and compression; written over, and once with another shape. */
static void test_large_and_replaced_datasets(void **state) {
    (void)state;
    enum { COUNT = 100000 };
    int32_t *ids = malloc(COUNT * sizeof *ids);
    double *want = malloc(COUNT * sizeof *want);
    for (int i = 0; i < COUNT; i++) want[i] = ids[i] = (i * 37) % 5003;
    ca_result *r = create();
    ok(ca_result_put(r, "/ids", CA_RESULT_I32, (ca_result_shape){2, {10, 10}, {0}}, ids));
    ok(ca_result_put(r, "/ids", CA_RESULT_I32, (ca_result_shape){1, {COUNT}, {0}}, ids));
    ok(ca_result_put(r, "/ids", CA_RESULT_I32, (ca_result_shape){1, {COUNT}, {0}}, ids));
    ok(ca_result_finish(r));
    ca_result_reader *reader = open_reader(path);
    expect_floats(reader, "/ids", want, COUNT);
    ca_result_reader_close(reader);
    free(ids);
    free(want);
}

static void test_reserved_rows(void **state) {
    (void)state;
    enum { ROWS = 600, WIDTH = 300 }; /* 720 KB: several chunks */
    float *rows = calloc(ROWS * WIDTH, sizeof *rows);
    double *want = malloc(ROWS * WIDTH * sizeof *want);
    for (int i = 0; i < ROWS * WIDTH; i++) rows[i] = (float)(i % 1021);
    for (int i = 0; i < ROWS * WIDTH; i++) {
        int row = i / WIDTH;
        want[i] = row >= 5 && row < 405 ? (double)rows[i] : NAN;
    }
    ca_result *r = create();
    const ca_result_shape shape = {2, {ROWS, WIDTH}, {"row", "width"}};
    ok(ca_result_reserve(r, "/activations/a", CA_RESULT_F32, shape));
    for (int first = 398; first >= 5; first -= 7) { /* backwards, in odd pieces */
        ok(ca_result_write(r, "/activations/a", first, 7, rows + first * WIDTH));
    }
    ok(ca_result_write(r, "/activations/a", 5, 2, rows + 5 * WIDTH));
    ok(ca_result_write(r, "/activations/a", ROWS, 0, NULL));
    const int32_t id = 7;
    const int8_t yes = 1;
    const char *name = "seven";
    const ca_result_shape line = {1, {3}, {"row"}};
    ok(ca_result_reserve(r, "/i", CA_RESULT_I32, line));
    ok(ca_result_reserve(r, "/b", CA_RESULT_BOOL, line));
    ok(ca_result_reserve(r, "/t", CA_RESULT_TEXT, line));
    ok(ca_result_write(r, "/i", 1, 1, &id));
    ok(ca_result_write(r, "/b", 1, 1, &yes));
    ok(ca_result_write(r, "/t", 1, 1, &name));
    assert_int_equal(ca_result_write(r, "/i", 2, 2, &id), CA_E_SHAPE);
    assert_non_null(strstr(ca_error_text(), "/i: expected rows within 0 to 3, got 2 to 4"));
    assert_int_equal(ca_result_write(r, "/absent", 0, 1, &id), CA_E_IO);
    int32_t ids[3] = {0};
    int8_t flags[3] = {9, 9, 9};
    ok(ca_result_read_back(r, "/i", ids));
    ok(ca_result_read_back(r, "/b", flags));
    assert_true(ids[0] == -1 && ids[1] == 7 && ids[2] == -1);
    assert_true(flags[0] == 0 && flags[1] == 1 && flags[2] == 0);
    assert_int_equal(ca_result_read_back(r, "/t", ids), CA_E_IO);
    ok(ca_result_finish(r));

    ca_result_reader *reader = open_reader(path);
    expect_floats(reader, "/activations/a", want, ROWS * WIDTH);
    expect_floats(reader, "/i", (double[]){-1, 7, -1}, 3);
    expect_floats(reader, "/b", (double[]){0, 1, 0}, 3);
    ca_result_reader_close(reader);
    free(rows);
    free(want);
}

static void test_impossible_shapes(void **state) {
    (void)state;
    ca_result *r = create();
    const ca_result_shape huge = {3, {INT64_MAX, INT64_MAX, 2}, {0}};
    const ca_result_shape negative = {1, {-1}, {0}};
    assert_int_equal(ca_result_put(r, "/a", CA_RESULT_F32, huge, &huge), CA_E_SHAPE);
    assert_int_equal(ca_result_reserve(r, "/a", CA_RESULT_F32, negative), CA_E_SHAPE);
    const int32_t layers[2] = {0, 1};
    const double values[3] = {0};
    ok(ca_result_put(r, "/layer", CA_RESULT_I32, (ca_result_shape){1, {2}, {0}}, layers));
    ok(ca_result_put(r, "/v", CA_RESULT_F64, (ca_result_shape){1, {3}, {0}}, values));
    assert_int_equal(ca_result_scale(r, "/v", 0, "/layer"), CA_E_SHAPE);
    ca_result_abandon(r);
}

/* ---- visiting */

typedef struct listing {
    char text[2048];
} listing;

static ca_status list_entry(void *context, const ca_result_entry *entry) {
    listing *l = context;
    size_t used = strlen(l->text);
    used += (size_t)snprintf(l->text + used, sizeof l->text - used, "%s %s", entry->path,
                             entry->group ? "group" : entry->type);
    for (int axis = 0; axis < entry->shape.rank; axis++) {
        const char *label = entry->shape.label[axis];
        used += (size_t)snprintf(l->text + used, sizeof l->text - used, " %s=%lld",
                                 label != NULL ? label : "?", (long long)entry->shape.size[axis]);
    }
    (void)snprintf(l->text + used, sizeof l->text - used, "\n");
    return CA_OK;
}

static ca_status list_attribute(void *context, const char *name, const char *value) {
    listing *l = context;
    size_t used = strlen(l->text);
    (void)snprintf(l->text + used, sizeof l->text - used, "%s=%s\n", name, value);
    return CA_OK;
}

static ca_status refuse(void *context, const ca_result_entry *entry) {
    (void)context;
    return ca_fail(CA_E_FAILED, "no %s", entry->path);
}

static void test_visit_keeps_creation_order(void **state) {
    (void)state;
    ca_result *r = create();
    const char *names[2] = {"b", "a"};
    const int32_t layers[2] = {3, 4};
    const float values[4] = {0};
    ok(ca_result_put(r, "/z/name", CA_RESULT_TEXT, (ca_result_shape){1, {2}, {"site"}}, names));
    ok(ca_result_put(r, "/layer", CA_RESULT_I32, (ca_result_shape){1, {2}, {"layer"}}, layers));
    ok(ca_result_put(r, "/a/value", CA_RESULT_F32,
                     (ca_result_shape){2, {2, 2}, {"example", "layer"}}, values));
    ok(ca_result_scale(r, "/a/value", 1, "/layer"));
    ok(ca_result_scale(r, "/a/value", 1, "/layer")); /* twice is once */
    ok(ca_result_attribute_float(r, "/a/value", "aopc", -1.25));
    ok(ca_result_attribute_text(r, "/a/value", "units", "nat"));
    ok(ca_result_attribute_float(r, "/a/value", "aopc", 0.1)); /* keeps its place */
    ok(ca_result_link(r, "/points/point-00000", "point-00000.h5"));
    ok(ca_result_finish(r));

    ca_result_reader *reader = open_reader(path);
    listing l = {{0}};
    ok(ca_result_reader_visit(reader, list_entry, &l));
    assert_string_equal(l.text, "/z group\n/z/name text site=2\n/layer i32 layer=2\n/a group\n"
                                "/a/value f32 example=2 layer=2\n/points group\n"
                                "/points/point-00000 link\n");
    l.text[0] = '\0';
    ok(ca_result_reader_attributes(reader, "/a/value", list_attribute, &l));
    assert_string_equal(l.text, "aopc=0.1\nunits=nat\n");
    l.text[0] = '\0';
    ok(ca_result_reader_attributes(reader, "/", list_attribute, &l));
    assert_string_equal(l.text,
                        "schema_version=1\ntool=causa\nstatus=complete\nconfig_sha256=abc\n");
    assert_int_equal(ca_result_reader_visit(reader, refuse, NULL), CA_E_FAILED);
    assert_string_equal(ca_error_text(), "no /z");
    ca_result_reader_close(reader);
}

/* ---- life cycle */

static void test_final_name_appears_at_the_end(void **state) {
    (void)state;
    ca_result *r = create();
    assert_true(ca_file_exists(temporary));
    assert_false(ca_file_exists(path));
    ok(ca_result_finish(r));
    assert_false(ca_file_exists(temporary));
    assert_true(ca_result_is_complete(path, "abc"));
    assert_false(ca_result_is_complete(path, "abd"));
    assert_false(ca_result_is_complete("no/such.h5", "abc"));

    ca_result_abandon(create());
    assert_false(ca_file_exists(temporary));
    assert_true(ca_result_is_complete(path, "abc")); /* the earlier one is untouched */
    ca_result_abandon(NULL);
}

static void test_left_over_of_a_dead_run_is_overwritten(void **state) {
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        ca_result *r = NULL;
        if (ca_result_create(path, &r) != CA_OK) _exit(1);
        (void)raise(SIGKILL);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_true(ca_file_exists(temporary));
    assert_false(ca_file_exists(path));
    ok(ca_result_finish(create()));
    assert_true(ca_result_is_complete(path, "abc"));
}

static void test_two_writers_of_one_file(void **state) {
    (void)state;
    ca_result *first = create(), *second = NULL;
    assert_int_equal(ca_result_create(path, &second), CA_E_IO);
    assert_null(second);
    assert_non_null(strstr(ca_error_text(), "another process is writing"));
    ok(ca_result_finish(first));
    assert_true(ca_result_is_complete(path, "abc"));
}

static void test_checkpoint_and_resume(void **state) {
    (void)state;
    ca_result *r = NULL;
    int64_t next = -1;
    ok(ca_result_resume(path, "abc", &r, &next));
    assert_null(r); /* none yet */

    const ca_result_shape shape = {1, {4}, {"example"}};
    const double values[4] = {1, 2, 3, 4};
    r = create();
    ok(ca_result_reserve(r, "/baseline/clean", CA_RESULT_F64, shape));
    ok(ca_result_write(r, "/baseline/clean", 0, 2, values));
    ok(ca_result_checkpoint(r, 2));
    assert_true(ca_file_exists(checkpoint));
    assert_false(ca_file_exists(path));
    assert_false(ca_file_exists(temporary));
    ca_result_reader *reader = open_reader(checkpoint);
    const char *status = NULL;
    assert_true(ca_result_reader_text(reader, "/", "status", &status));
    assert_string_equal(status, "partial");
    expect_floats(reader, "/baseline/clean", (double[]){1, 2, NAN, NAN}, 4);
    ca_result_reader_close(reader);

    ok(ca_result_resume(path, "other", &r, &next));
    assert_null(r); /* another config */
    ok(ca_result_resume(path, "abc", &r, &next));
    assert_non_null(r);
    assert_int_equal(next, 2);
    ca_result_abandon(r);
    assert_true(ca_file_exists(checkpoint)); /* a crash after --resume loses nothing */

    ok(ca_result_resume(path, "abc", &r, &next));
    ok(ca_result_reserve(r, "/baseline/clean", CA_RESULT_F64, shape)); /* keeps what is there */
    ok(ca_result_write(r, "/baseline/clean", 2, 2, values + 2));
    ok(ca_result_finish(r));
    assert_false(ca_file_exists(checkpoint));
    reader = open_reader(path);
    expect_floats(reader, "/baseline/clean", values, 4);
    assert_false(ca_result_reader_int(reader, "/", "checkpoint_next", &next));
    ca_result_reader_close(reader);
}

/* A resumed run and an uninterrupted one give files that differ in nothing a reader sees; two
 * uninterrupted ones give equal bytes. */
static void test_equal_runs_give_equal_bytes(void **state) {
    (void)state;
    char *text[2] = {NULL, NULL};
    size_t size[2] = {0, 0};
    for (int run = 0; run < 2; run++) {
        const char *pieces[3] = {"a", "b", "c"};
        ca_result *r = create();
        ok(ca_result_put(r, "/data/pieces", CA_RESULT_TEXT, (ca_result_shape){1, {3}, {"token"}},
                         pieces));
        ok(ca_result_finish(r));
        ok(ca_file_read(path, &text[run], &size[run]));
        if (run == 0) (void)sleep(1); /* times in object headers have seconds */
    }
    assert_int_equal(size[0], size[1]);
    assert_memory_equal(text[0], text[1], size[0]);
    free(text[0]);
    free(text[1]);
}

/* ---- bad places and files */

static void test_missing_folder(void **state) {
    (void)state;
    ca_result *r = NULL;
    char name[160];
    (void)snprintf(name, sizeof name, "%s/typo/x.h5", folder);
    assert_int_equal(ca_result_create(name, &r), CA_E_IO);
    assert_null(r);
    assert_non_null(strstr(ca_error_text(), "/typo' to exist"));
    assert_int_equal(ca_result_create(folder, &r), CA_E_IO);
    assert_non_null(strstr(ca_error_text(), "got a folder"));
    assert_int_equal(ca_result_create("/proc/x.h5", &r), CA_E_IO); /* read-only, also for root */
    assert_non_null(strstr(ca_error_text(), "/proc/x.h5.tmp: cannot create it: "));
}

static void test_foreign_files(void **state) {
    (void)state;
    ca_result_reader *reader = NULL;
    ca_result *r = NULL;
    int64_t next = 0;
    assert_int_equal(ca_result_reader_open(path, &reader), CA_E_IO);
    FILE *file = fopen(checkpoint, "w");
    assert_non_null(file);
    (void)fputs("this is no HDF5 file", file);
    (void)fclose(file);
    assert_int_equal(ca_result_reader_open(checkpoint, &reader), CA_E_DATA);
    assert_non_null(strstr(ca_error_text(), "expected an HDF5 file"));
    assert_null(reader);
    assert_int_equal(ca_result_resume(path, "abc", &r, &next), CA_E_DATA);
    assert_non_null(strstr(ca_error_hint(), "remove"));
    assert_false(ca_result_is_complete(checkpoint, "abc"));

    /* an HDF5 file cut in half must be refused or read, never crash */
    ok(ca_result_put((r = create()), "/x", CA_RESULT_I32, (ca_result_shape){1, {2}, {0}},
                     (int32_t[]){1, 2}));
    ok(ca_result_finish(r));
    char *bytes = NULL;
    size_t size = 0;
    ok(ca_file_read(path, &bytes, &size));
    for (size_t cut = 1; cut < size; cut += size / 16) {
        assert_int_equal(truncate(path, (off_t)(size - cut)), 0);
        ca_status st = ca_result_reader_open(path, &reader);
        assert_int_equal(st, CA_E_DATA);
    }
    free(bytes);
}

/* Runs a function in a child whose files may not grow beyond `limit` bytes, the nearest thing to a
 * full disk that needs no rights. The child must end with status 0, also after its exit handlers.
 */
static void in_small_disk(rlim_t limit, int (*body)(void)) {
    (void)fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        const struct rlimit file_size = {limit, limit};
        (void)signal(SIGXFSZ, SIG_IGN);
        if (setrlimit(RLIMIT_FSIZE, &file_size) != 0) _exit(90);
        exit(body());
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_false(ca_file_exists(temporary));
    assert_false(ca_file_exists(path));
}

static int fill_disk_by_put(void) {
    static float values[100000];
    ca_result *r = NULL;
    if (ca_result_create(path, &r) != CA_OK) return 1;
    const ca_result_shape shape = {1, {100000}, {"token"}};
    if (ca_result_put(r, "/score", CA_RESULT_F32, shape, values) != CA_E_IO) return 2;
    const char *text = ca_error_text();
    if (strstr(text, "x.h5.tmp: /score: H5Dwrite: File too large") == NULL) return 3;
    ca_result_abandon(r);
    return 0;
}

static int fill_disk_at_finish(void) {
    static char long_text[20000];
    memset(long_text, 'x', sizeof long_text - 1);
    ca_result *r = NULL;
    if (ca_result_create(path, &r) != CA_OK) return 1;
    if (ca_result_attribute_text(r, "/", "config", long_text) != CA_OK) return 2; /* cached */
    if (ca_result_finish(r) != CA_E_IO) return 3;
    return strstr(ca_error_text(), "File too large") == NULL ? 4 : 0;
}

static void test_full_disk(void **state) {
    (void)state;
    in_small_disk(300000, fill_disk_by_put);
    in_small_disk(4096, fill_disk_at_finish);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        TEST(test_attributes_round_trip),
        TEST(test_ill_formed_text_is_replaced),
        TEST(test_datasets_round_trip),
        TEST(test_texts_and_truths_are_read),
        TEST(test_large_and_replaced_datasets),
        TEST(test_reserved_rows),
        TEST(test_impossible_shapes),
        TEST(test_visit_keeps_creation_order),
        TEST(test_final_name_appears_at_the_end),
        TEST(test_left_over_of_a_dead_run_is_overwritten),
        TEST(test_two_writers_of_one_file),
        TEST(test_checkpoint_and_resume),
        TEST(test_equal_runs_give_equal_bytes),
        TEST(test_missing_folder),
        TEST(test_foreign_files),
        TEST(test_full_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
