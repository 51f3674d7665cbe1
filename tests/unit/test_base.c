/* SPDX-License-Identifier: MIT
 *
 * Error text, memory, strings, files, digests and random numbers of src/base.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "causa/base.h"
#include "causa/version.h"

/* ---- status ------------------------------------------------------------------------------ */

static void test_exit_codes_follow_the_list(void **state) {
    (void)state;
    assert_int_equal(ca_status_exit_code(CA_OK), 0);
    assert_int_equal(ca_status_exit_code(CA_E_CONFIG), 2);
    assert_int_equal(ca_status_exit_code(CA_E_MODEL), 3);
    assert_int_equal(ca_status_exit_code(CA_E_MEMORY), 5);
    assert_int_equal(ca_status_exit_code(CA_E_PREEMPTED), 75);
    assert_int_equal(ca_status_exit_code(CA_E_INTERRUPT), 130);
    assert_string_equal(ca_status_text(CA_E_MEMORY), "out of memory");
    assert_string_equal(ca_status_text((ca_status)999), "unknown status");
}

static void test_context_goes_before_the_text(void **state) {
    (void)state;
    ca_error_clear();
    assert_string_equal(ca_error_text(), "");
    assert_int_equal(ca_fail(CA_E_DATA, "row %d: expected %s", 7, "a number"), CA_E_DATA);
    assert_int_equal(ca_context(CA_E_CONFIG, "%s", "a.csv"), CA_E_CONFIG);
    ca_hint("try %s", "head a.csv");
    assert_string_equal(ca_error_text(), "a.csv: row 7: expected a number");
    assert_string_equal(ca_error_hint(), "try head a.csv");

    /* The old text may be an argument of the new one. */
    (void)ca_fail(CA_E_DATA, "again (%s)", ca_error_text());
    assert_string_equal(ca_error_text(), "again (a.csv: row 7: expected a number)");
    ca_error_clear();
    assert_string_equal(ca_error_text(), "");
    assert_string_equal(ca_error_hint(), "");
}

static void test_long_error_text_is_cut_and_marked(void **state) {
    (void)state;
    enum { SIZE = 100000 };
    char *text = malloc(SIZE + 1);
    assert_non_null(text);
    memset(text, 'x', SIZE);
    text[SIZE] = '\0';

    text[5000] = '\0'; /* a config error of many lines fits */
    (void)ca_fail(CA_E_CONFIG, "%s", text);
    assert_string_equal(ca_error_text(), text);

    text[5000] = 'x';
    (void)ca_fail(CA_E_CONFIG, "%s", text);
    size_t length = strlen(ca_error_text());
    assert_true(length > 60000 && length < SIZE);
    assert_string_equal(ca_error_text() + length - 4, "x...");
    (void)ca_context(CA_E_CONFIG, "file");
    length = strlen(ca_error_text());
    assert_memory_equal(ca_error_text(), "file: xxx", 9);
    assert_string_equal(ca_error_text() + length - 3, "...");
    (void)ca_context(CA_E_CONFIG, "%s", text);
    assert_int_equal(ca_error_text()[0], 'x');
    free(text);
    ca_error_clear();
}

static void *fail_elsewhere(void *unused) {
    (void)unused;
    (void)ca_fail(CA_E_IO, "other thread");
    return NULL;
}

static void test_error_text_belongs_to_the_thread(void **state) {
    (void)state;
    (void)ca_fail(CA_E_DATA, "mine");
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_string_equal(ca_error_text(), "mine");
    ca_error_clear();
}

/* ---- memory ------------------------------------------------------------------------------ */

static void test_sizes_are_checked(void **state) {
    (void)state;
    size_t result;
    assert_true(ca_mul_size(1u << 16, 1u << 15, &result));
    assert_int_equal(result, 1u << 31);
    assert_false(ca_mul_size(SIZE_MAX, 2, &result));
    assert_true(ca_add_size(SIZE_MAX - 1, 1, &result));
    assert_true(result == SIZE_MAX);
    assert_false(ca_add_size(SIZE_MAX, 1, &result));

    int number, *numbers = &number;
    assert_int_equal(ca_calloc(SIZE_MAX / 2, 4, &numbers), CA_E_MEMORY);
    assert_null(numbers);
    assert_non_null(strstr(ca_error_text(), "9223372036854775807 x 4 bytes"));
    assert_int_equal(ca_calloc(0, 4, &numbers), CA_OK);
    assert_non_null(numbers);
    free(numbers);
}

static void test_grow_doubles_and_keeps(void **state) {
    (void)state;
    double *values = NULL;
    int64_t capacity = 0, moves = 0;
    for (int64_t i = 0; i < 1000; i++) {
        int64_t before = capacity;
        assert_int_equal(ca_grow(&values, &capacity, i + 1, sizeof *values), CA_OK);
        if (capacity != before) moves++;
        values[i] = (double)i;
    }
    assert_true(moves <= 8); /* 8, 16, ... 1024 */
    for (int64_t i = 0; i < 1000; i++) assert_true(values[i] == (double)i);

    int64_t kept = capacity;
    assert_int_equal(ca_grow(&values, &capacity, INT64_MAX, sizeof *values), CA_E_MEMORY);
    assert_int_equal(capacity, kept);
    assert_true(values[999] == 999);
    free(values);
}

static void test_arena_gives_zeroed_aligned_memory(void **state) {
    (void)state;
    ca_arena *arena;
    assert_int_equal(ca_arena_create(&arena), CA_OK);
    unsigned char *last = NULL;
    for (size_t size = 0; size < 200000; size = size * 2 + 1) {
        unsigned char *bytes;
        assert_int_equal(ca_arena_alloc(arena, size, &bytes), CA_OK);
        assert_int_equal((uintptr_t)bytes % 16, 0);
        assert_ptr_not_equal(bytes, last);
        for (size_t i = 0; i < size; i++) assert_int_equal(bytes[i], 0);
        memset(bytes, 0xFF, size);
        last = bytes;
    }
    void *none = arena;
    assert_int_equal(ca_arena_alloc(arena, SIZE_MAX - 3, &none), CA_E_MEMORY);
    assert_null(none);
    assert_int_equal(ca_arena_alloc(arena, SIZE_MAX / 2, &none), CA_E_MEMORY);

    char *text;
    assert_int_equal(ca_arena_strdup(arena, "hello world", 5, &text), CA_OK);
    assert_string_equal(text, "hello");
    assert_int_equal(ca_arena_printf(arena, &text, "%05d|%s", 42, "x"), CA_OK);
    assert_string_equal(text, "00042|x");
    ca_arena_destroy(arena);
    ca_arena_destroy(NULL);
}

/* ---- strings ----------------------------------------------------------------------------- */

static void test_string_grows(void **state) {
    (void)state;
    ca_string s = {0};
    assert_int_equal(ca_string_append(&s, "", 0), CA_OK);
    assert_string_equal(s.text, "");
    for (int i = 0; i < 500; i++) assert_int_equal(ca_string_printf(&s, "%d,", i), CA_OK);
    assert_int_equal(s.length, 10 * 2 + 90 * 3 + 400 * 4);
    assert_memory_equal(s.text, "0,1,2,", 6);
    assert_string_equal(s.text + s.length - 8, "498,499,");
    assert_int_equal(ca_string_append(&s, "a\0b", 3), CA_OK);
    assert_int_equal(s.text[s.length - 2], 0);
    assert_int_equal(ca_string_append(&s, "x", SIZE_MAX - 4), CA_E_MEMORY);
    ca_string_free(&s);
    assert_null(s.text);
}

static void test_bytes_text(void **state) {
    (void)state;
    char text[32];
    assert_string_equal(ca_bytes_text(0, text), "0 B");
    assert_string_equal(ca_bytes_text(1023, text), "1023 B");
    assert_string_equal(ca_bytes_text(1536, text), "1.5 KiB");
    assert_string_equal(ca_bytes_text(INT64_C(3) << 30, text), "3.0 GiB");
    assert_string_equal(ca_bytes_text(INT64_C(5) << 50, text), "5120.0 TiB");
}

static void test_edit_distance(void **state) {
    (void)state;
    assert_int_equal(ca_edit_distance("", ""), 0);
    assert_int_equal(ca_edit_distance("kitten", "sitting"), 3);
    assert_int_equal(ca_edit_distance("", "abc"), 3);
    assert_int_equal(ca_edit_distance("flaw", "lawn"), 2);
    char longer[400];
    memset(longer, 'a', sizeof longer);
    longer[399] = '\0';
    assert_int_equal(ca_edit_distance(longer, longer), 0);
    assert_true(ca_edit_distance(longer, "a") > 255);
}

static void test_nearest_name_is_a_typing_error_away(void **state) {
    (void)state;
    static const char *const names[] = {"batch", "backend", "memory", "lr", "integrated_gradients"};
    assert_string_equal(ca_nearest_name("bakend", names, 5), "backend");
    assert_string_equal(ca_nearest_name("MEMORY", names, 5), "memory");
    assert_string_equal(ca_nearest_name("btach", names, 5), "batch");
    assert_string_equal(ca_nearest_name("integrated-gradient", names, 5), "integrated_gradients");
    assert_string_equal(ca_nearest_name("lt", names, 5), "lr");
    assert_null(ca_nearest_name("id", names, 5)); /* no letter in common */
    assert_null(ca_nearest_name("threads", names, 5));
    assert_null(ca_nearest_name("batch", names, 0));
}

static void test_utf8(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t count;
        int64_t invalid;
    } cases[] = {
        {"", 0, -1},
        {"plain", 5, -1},
        {"\0", 1, -1},
        {"caf\xC3\xA9", 5, -1},
        {"\xE2\x82\xAC\xF0\x9F\x98\x80", 7, -1},
        {"\xED\x9F\xBF\xEE\x80\x80\xF4\x8F\xBF\xBF", 10, -1}, /* D7FF E000 10FFFF */
        {"a\x80", 2, 1},                                      /* lone continuation */
        {"ab\xC3", 3, 2},                                     /* cut short */
        {"\xE2\x82", 2, 0},
        {"\xC0\x80", 2, 0},             /* overlong NUL */
        {"\xC1\xBF", 2, 0},             /* overlong */
        {"\xE0\x9F\xBF", 3, 0},         /* overlong */
        {"\xF0\x8F\xBF\xBF", 4, 0},     /* overlong */
        {"x\xED\xA0\x80", 4, 1},        /* surrogate D800 */
        {"\xF4\x90\x80\x80", 4, 0},     /* 110000 */
        {"\xF5\x80\x80\x80", 4, 0},     /* never begins a character */
        {"\xE2\x28\xA1", 3, 0},         /* second byte is ASCII */
        {"\xF0\x9F\x98\x41", 4, 0},     /* fourth byte is ASCII */
        {"ok \xC3\xA9 \xFF end", 10, 6} /* after valid text */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(ca_utf8_invalid(cases[i].bytes, cases[i].count), cases[i].invalid);
}

/* ---- files ------------------------------------------------------------------------------- */

static char folder[64];

static int make_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/causa-test-XXXXXX");
    return mkdtemp(folder) != NULL ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static char *path_in_folder(const char *name) {
    char *path;
    assert_int_equal(ca_path_join(folder, name, &path), CA_OK);
    return path;
}

static void write_file(const char *path, const char *bytes, size_t count) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

static void test_files_are_read_and_mapped(void **state) {
    (void)state;
    char *path = path_in_folder("three.bin"), *text = NULL;
    size_t size = 0;
    write_file(path, "a\0c", 3);
    assert_true(ca_file_exists(path));
    assert_false(ca_is_directory(path));
    assert_int_equal(ca_file_read(path, &text, &size), CA_OK);
    assert_int_equal(size, 3);
    assert_memory_equal(text, "a\0c", 4); /* and a NUL behind */
    free(text);

    ca_file_map map;
    assert_int_equal(ca_file_map_open(path, &map), CA_OK);
    assert_int_equal(map.size, 3);
    assert_memory_equal(map.data, "a\0c", 3);
    ca_file_map_close(&map);
    assert_null(map.data);

    write_file(path, "", 0);
    assert_int_equal(ca_file_map_open(path, &map), CA_OK);
    assert_int_equal(map.size, 0);
    assert_non_null(map.data);
    ca_file_map_close(&map);
    assert_int_equal(ca_file_read(path, &text, &size), CA_OK);
    assert_string_equal(text, "");
    free(text);
    free(path);
}

static void *write_pipe(void *path) {
    char line[1000];
    memset(line, 'p', sizeof line);
    FILE *file = fopen(path, "w");
    for (int i = 0; i < 100 && file != NULL; i++) fwrite(line, 1, sizeof line, file);
    if (file != NULL) fclose(file);
    return NULL;
}

/* `--data <(command)` of a shell: a file whose size is not known before its end. */
static void test_pipes_can_be_read_but_not_mapped(void **state) {
    (void)state;
    char *path = path_in_folder("pipe"), *text = NULL;
    assert_int_equal(mkfifo(path, 0600), 0);
    pthread_t writer;
    assert_int_equal(pthread_create(&writer, NULL, write_pipe, path), 0);
    size_t size = 0;
    assert_int_equal(ca_file_read(path, &text, &size), CA_OK);
    assert_int_equal(pthread_join(writer, NULL), 0);
    assert_int_equal(size, 100000);
    assert_int_equal(text[99999], 'p');
    assert_int_equal(strlen(text), size);
    free(text);

    ca_file_map map;
    assert_int_equal(ca_file_map_open("/dev/null", &map), CA_E_IO);
    assert_non_null(strstr(ca_error_text(), "/dev/null: expected a regular file"));
    free(path);
}

static void test_unreadable_files_are_named(void **state) {
    (void)state;
    char *path = path_in_folder("absent"), *text;
    size_t size;
    ca_file_map map;
    assert_false(ca_file_exists(path));
    assert_int_equal(ca_file_read(path, &text, &size), CA_E_IO);
    assert_null(text);
    assert_non_null(strstr(ca_error_text(), "absent: expected a readable file, got 'No such file"));
    assert_int_equal(ca_file_map_open(path, &map), CA_E_IO);
    assert_null(map.data);
    assert_int_equal(ca_file_read(folder, &text, &size), CA_E_IO);
    assert_non_null(strstr(ca_error_text(), "Is a directory"));
    assert_int_equal(ca_file_map_open(folder, &map), CA_E_IO);
    assert_false(ca_file_exists(folder));
    assert_true(ca_is_directory(folder));
    free(path);
}

static void test_paths_are_joined(void **state) {
    (void)state;
    static const char *const cases[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"", "b", "b"}, {"a", "/b", "/b"}, {"/", "b", "/b"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *path;
        assert_int_equal(ca_path_join(cases[i][0], cases[i][1], &path), CA_OK);
        assert_string_equal(path, cases[i][2]);
        free(path);
    }
}

static void test_directories_are_made_with_their_parents(void **state) {
    (void)state;
    char *path = path_in_folder("x/y//z/"), *file = path_in_folder("x/file");
    char *below = path_in_folder("x/file/deeper");
    assert_int_equal(ca_make_directories(path), CA_OK);
    assert_true(ca_is_directory(path));
    assert_int_equal(ca_make_directories(path), CA_OK); /* once more is no error */
    write_file(file, "1", 1);
    assert_int_equal(ca_make_directories(file), CA_E_IO);
    assert_int_equal(ca_make_directories(below), CA_E_IO);
    assert_non_null(strstr(ca_error_text(), "expected a directory that can be made"));
    assert_int_equal(ca_make_directories("."), CA_OK);
    assert_int_equal(ca_make_directories("/"), CA_OK);
    assert_int_equal(ca_make_directories(""), CA_OK);
    free(path);
    free(file);
    free(below);
}

/* FIPS 180-4 examples: the empty message, "abc" and a million times "a". */
static void test_sha256(void **state) {
    (void)state;
    char hex[65];
    ca_sha256 *digest;
    assert_int_equal(ca_sha256_create(&digest), CA_OK);
    ca_sha256_finish(digest, hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");

    assert_int_equal(ca_sha256_create(&digest), CA_OK);
    ca_sha256_add(digest, "a", 1);
    ca_sha256_add(digest, NULL, 0);
    ca_sha256_add(digest, "bc", 2);
    ca_sha256_finish(digest, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");

    char block[1000];
    memset(block, 'a', sizeof block);
    assert_int_equal(ca_sha256_create(&digest), CA_OK);
    for (int i = 0; i < 1000; i++) ca_sha256_add(digest, block, sizeof block);
    ca_sha256_finish(digest, hex);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

/* ---- random numbers ---------------------------------------------------------------------- */

/* The known answers published with Random123. */
static void test_philox_known_answers(void **state) {
    (void)state;
    static const struct {
        ca_philox_key key;
        uint64_t index;
        uint32_t expected[4];
    } cases[] = {
        {{0, 0}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{UINT64_MAX, UINT64_MAX}, UINT64_MAX, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x299f31d0a4093822, 0x0370734413198a2e},
         0x85a308d3243f6a88,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t out[4];
        ca_philox(cases[i].key, cases[i].index, out);
        assert_memory_equal(out, cases[i].expected, sizeof out);
    }
}

/* Standard errors for n = 20000: mean of U 0.0020, mean of N 0.0071, variance of N 0.01.
 * The limits are five of them; the draws are fixed, so the test cannot flicker. */
static void test_uniform_and_normal_moments(void **state) {
    (void)state;
    enum { COUNT = 20000 };
    ca_philox_key key = {42, ca_stream("test.moments")};
    double uniform = 0, mean = 0, square = 0;
    for (uint64_t i = 0; i < COUNT; i++) {
        double u = ca_philox_uniform(key, i), z = ca_philox_normal(key, i);
        assert_true(u > 0 && u < 1 && isfinite(z));
        uniform += u / COUNT;
        mean += z / COUNT;
        square += z * z / COUNT;
    }
    assert_true(fabs(uniform - 0.5) < 0.0102);
    assert_true(fabs(mean) < 0.0354);
    assert_true(fabs(square - 1) < 0.05);

    /* Another seed, stream or index is another number. */
    double here = ca_philox_uniform(key, 0);
    assert_true(here == ca_philox_uniform(key, 0));
    assert_true(here != ca_philox_uniform(key, 1));
    assert_true(here != ca_philox_uniform((ca_philox_key){43, key.stream}, 0));
    assert_true(here != ca_philox_uniform((ca_philox_key){42, ca_stream("test.other")}, 0));
}

/* Published FNV-1a values of 64 bits. */
static void test_stream_is_fnv1a(void **state) {
    (void)state;
    assert_true(ca_stream("") == 0xcbf29ce484222325u);
    assert_true(ca_stream("a") == 0xaf63dc4c8601ec8cu);
    assert_true(ca_stream("foobar") == 0x85944171f73967e8u);
}

static void test_clocks_memory_and_version(void **state) {
    (void)state;
    double before = ca_seconds();
    usleep(2000);
    double passed = ca_seconds() - before;
    assert_true(passed >= 0.002 && passed < 10);
    assert_true(ca_host_bytes() > 100000);
    assert_true(ca_peak_host_bytes() >= ca_host_bytes());
    assert_int_equal(strspn(ca_version(), "0123456789."), strlen(ca_version()));
    assert_true(strlen(ca_git_revision()) > 0);
    assert_true(strlen(ca_libraries()) > 0);
    assert_true(strlen(ca_python()) > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exit_codes_follow_the_list),
        cmocka_unit_test(test_context_goes_before_the_text),
        cmocka_unit_test(test_long_error_text_is_cut_and_marked),
        cmocka_unit_test(test_error_text_belongs_to_the_thread),
        cmocka_unit_test(test_sizes_are_checked),
        cmocka_unit_test(test_grow_doubles_and_keeps),
        cmocka_unit_test(test_arena_gives_zeroed_aligned_memory),
        cmocka_unit_test(test_string_grows),
        cmocka_unit_test(test_bytes_text),
        cmocka_unit_test(test_edit_distance),
        cmocka_unit_test(test_nearest_name_is_a_typing_error_away),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_files_are_read_and_mapped),
        cmocka_unit_test(test_pipes_can_be_read_but_not_mapped),
        cmocka_unit_test(test_unreadable_files_are_named),
        cmocka_unit_test(test_paths_are_joined),
        cmocka_unit_test(test_directories_are_made_with_their_parents),
        cmocka_unit_test(test_sha256),
        cmocka_unit_test(test_philox_known_answers),
        cmocka_unit_test(test_uniform_and_normal_moments),
        cmocka_unit_test(test_stream_is_fnv1a),
        cmocka_unit_test(test_clocks_memory_and_version),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
