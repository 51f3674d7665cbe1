/* SPDX-License-Identifier: MIT
 *
 * GGUF reader: metadata of every kind, tensor table, and refusal of damaged files. Small files are
 * built here byte by byte; the real ones are fixtures.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "causa/gguf.h"

#define FIXTURE "tests/fixtures/models/gguf/llama-q4_0.gguf"

static void check(ca_status st) {
    if (st != CA_OK) fail_msg("%s: %s", ca_status_text(st), ca_error_text());
}

/* ---- a file under construction */

typedef struct bytes {
    unsigned char data[2048];
    size_t size;
} bytes;

static void put(bytes *b, const void *data, size_t size) {
    assert_true(b->size + size <= sizeof b->data);
    memcpy(b->data + b->size, data, size);
    b->size += size;
}

static void put_u32(bytes *b, uint32_t v) { put(b, &v, sizeof v); }
static void put_u64(bytes *b, uint64_t v) { put(b, &v, sizeof v); }

static void put_text(bytes *b, const char *text) {
    put_u64(b, strlen(text));
    put(b, text, strlen(text));
}

static void put_key(bytes *b, const char *key, uint32_t type) {
    put_text(b, key);
    put_u32(b, type);
}

static void put_header(bytes *b, uint32_t version, uint64_t tensors, uint64_t keys) {
    b->size = 0;
    put(b, "GGUF", 4);
    put_u32(b, version);
    put_u64(b, tensors);
    put_u64(b, keys);
}

static void put_tensor(bytes *b, const char *name, uint32_t type, uint64_t n0, uint64_t n1,
                       uint64_t offset) {
    put_text(b, name);
    put_u32(b, 2);
    put_u64(b, n0);
    put_u64(b, n1);
    put_u32(b, type);
    put_u64(b, offset);
}

static void pad(bytes *b, size_t to) {
    static const unsigned char zeros[64];
    while (b->size % to != 0) put(b, zeros, 1);
}

/* Opens the bytes as a file. */
static ca_status open_bytes(const bytes *b, ca_gguf **g) {
    char path[] = "/tmp/causa-test-gguf-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, b->data, b->size), (ssize_t)b->size);
    close(fd);
    ca_status st = ca_gguf_open(path, g);
    unlink(path);
    return st;
}

static void refuse(const bytes *b, const char *text) {
    ca_gguf *g = NULL;
    ca_error_clear();
    assert_int_equal(open_bytes(b, &g), CA_E_MODEL);
    assert_null(g);
    if (strstr(ca_error_text(), text) == NULL)
        fail_msg("expected '%s' in '%s'", text, ca_error_text());
}

/* ---- metadata */

static void test_scalars(void **state) {
    bytes b;
    ca_gguf *g = NULL;
    int64_t n = 0;
    double x = 0;
    bool flag = false;
    ca_gguf_string s;
    (void)state;
    put_header(&b, 2, 0, 8);
    put_key(&b, "u8", 0), put(&b, "\xff", 1);
    put_key(&b, "i8", 1), put(&b, "\xff", 1);
    put_key(&b, "u16", 2), put(&b, "\x01\x80", 2);
    put_key(&b, "i32", 5), put_u32(&b, (uint32_t)-7);
    put_key(&b, "u64", 10), put_u64(&b, UINT64_MAX);
    put_key(&b, "f64", 12), put(&b, &(double){0.1}, 8);
    put_key(&b, "bool", 7), put(&b, "\x02", 1);
    put_key(&b, "text", 8), put_text(&b, "h\xc3\xa9");
    check(open_bytes(&b, &g));
    assert_true(ca_gguf_int(g, "u8", &n) && n == 255);
    assert_true(ca_gguf_int(g, "i8", &n) && n == -1);
    assert_true(ca_gguf_int(g, "u16", &n) && n == 0x8001);
    assert_true(ca_gguf_int(g, "i32", &n) && n == -7);
    assert_false(ca_gguf_int(g, "u64", &n)); /* does not fit */
    assert_true(ca_gguf_float(g, "f64", &x) && x == 0.1);
    assert_true(ca_gguf_bool(g, "bool", &flag) && flag);
    assert_true(ca_gguf_text(g, "text", &s) && s.length == 3 &&
                memcmp(s.text, "h\xc3\xa9", 3) == 0);
    assert_false(ca_gguf_int(g, "f64", &n));
    assert_false(ca_gguf_float(g, "u8", &x));
    assert_false(ca_gguf_text(g, "u8", &s));
    assert_false(ca_gguf_bool(g, "absent", &flag));
    assert_int_equal(ca_gguf_array_length(g, "u8"), -1);
    assert_int_equal(ca_gguf_array_length(g, "absent"), -1);
    ca_gguf_close(g);
}

static void test_arrays(void **state) {
    bytes b;
    ca_gguf *g = NULL;
    int64_t n = 0;
    double x = 0;
    ca_gguf_string s;
    (void)state;
    put_header(&b, 3, 0, 4);
    put_key(&b, "ints", 9), put_u32(&b, 3), put_u64(&b, 2), put(&b, "\x01\x00\xfe\xff", 4);
    put_key(&b, "floats", 9), put_u32(&b, 6), put_u64(&b, 1), put(&b, &(float){0.5f}, 4);
    put_key(&b, "texts", 9), put_u32(&b, 8), put_u64(&b, 2), put_text(&b, ""), put_text(&b, "ab");
    put_key(&b, "empty", 9), put_u32(&b, 8), put_u64(&b, 0);
    check(open_bytes(&b, &g));
    assert_int_equal(ca_gguf_array_length(g, "ints"), 2);
    assert_true(ca_gguf_array_int(g, "ints", 1, &n) && n == -2);
    assert_false(ca_gguf_array_int(g, "ints", 2, &n));
    assert_false(ca_gguf_array_int(g, "ints", -1, &n));
    assert_true(ca_gguf_array_float(g, "floats", 0, &x) && x == 0.5);
    assert_true(ca_gguf_array_text(g, "texts", 0, &s) && s.length == 0);
    assert_true(ca_gguf_array_text(g, "texts", 1, &s) && memcmp(s.text, "ab", 2) == 0);
    assert_false(ca_gguf_array_text(g, "ints", 0, &s));
    assert_false(ca_gguf_array_int(g, "texts", 0, &n));
    assert_false(ca_gguf_array_float(g, "texts", 1, &x));
    assert_int_equal(ca_gguf_array_length(g, "empty"), 0);
    assert_false(ca_gguf_int(g, "ints", &n));
    ca_gguf_close(g);
}

static void test_fixture(void **state) {
    ca_gguf *g = NULL;
    int64_t n = 0;
    double x = 0;
    ca_gguf_string s;
    (void)state;
    assert_true(ca_gguf_is(FIXTURE));
    assert_false(ca_gguf_is("tests/fixtures/models/smollm2/config.json"));
    assert_false(ca_gguf_is("tests/fixtures/none"));
    check(ca_gguf_open(FIXTURE, &g));
    assert_string_equal(ca_gguf_path(g), FIXTURE);
    assert_true(ca_gguf_text(g, "general.architecture", &s) && memcmp(s.text, "llama", 5) == 0);
    assert_true(ca_gguf_int(g, "llama.embedding_length", &n) && n == 256);
    assert_true(ca_gguf_float(g, "llama.rope.freq_base", &x) && x == 10000.0);
    assert_int_equal(ca_gguf_array_length(g, "tokenizer.ggml.tokens"), 288);
    assert_true(ca_gguf_array_text(g, "tokenizer.ggml.tokens", 0, &s) && s.length == 13);
    assert_int_equal(ca_gguf_tensor_count(g), 11);
    const ca_gguf_tensor *t = ca_gguf_tensor_find(g, "token_embd.weight");
    assert_non_null(t);
    assert_int_equal(t->rank, 2);
    assert_int_equal(t->shape[0], 288);
    assert_int_equal(t->shape[1], 256);
    assert_int_equal(t->type, 2);
    assert_int_equal(t->bytes, 288 * 256 / 32 * 18);
    assert_null(ca_gguf_tensor_find(g, "token_embd"));
    assert_non_null(ca_gguf_tensor_at(g, 10));
    assert_null(ca_gguf_tensor_at(g, 11));
    ca_gguf_close(g);
}

/* ---- tensors */

static void test_tensor_data(void **state) {
    bytes b;
    ca_gguf *g = NULL;
    float values[6] = {1, 2, 3, 4, 5, 6};
    (void)state;
    put_header(&b, 3, 1, 1);
    put_key(&b, "general.alignment", 4), put_u32(&b, 64);
    put_tensor(&b, "w", 0, 3, 2, 0);
    pad(&b, 64);
    put(&b, values, sizeof values);
    check(open_bytes(&b, &g));
    const ca_gguf_tensor *t = ca_gguf_tensor_find(g, "w");
    assert_int_equal(t->shape[0], 2);
    assert_int_equal(t->shape[1], 3);
    assert_int_equal(t->bytes, sizeof values);
    assert_memory_equal(t->data, values, sizeof values);
    ca_gguf_close(g);
}

static void with_tensor(uint32_t type, uint64_t n0, uint64_t n1, uint64_t offset,
                        const char *text) {
    bytes b;
    put_header(&b, 3, 1, 0);
    put_tensor(&b, "w", type, n0, n1, offset);
    pad(&b, 32);
    put(&b, (char[64]){0}, 64);
    refuse(&b, text);
}

static void test_bad_tensors(void **state) {
    bytes b;
    (void)state;
    with_tensor(10, 256, 1, 0, "Q2_K (10)");
    with_tensor(99, 1, 1, 0, "unknown (99)");
    with_tensor(2, 33, 1, 0, "multiple of 32");
    with_tensor(0, 17, 1, 0, "past the end");
    with_tensor(0, 1, 1, 4, "multiple of 32");
    with_tensor(0, 1, 1, 1ull << 40, "past the end");
    with_tensor(0, 0, 1, 0, "dimension 0 of 0");
    with_tensor(0, 1ull << 33, 1ull << 33, 0, "dimension 1");
    with_tensor(0, 1ull << 61, 2, 0, "past the end");
    put_header(&b, 3, 2, 0);
    put_tensor(&b, "w", 0, 2, 8, 0), put_tensor(&b, "v", 0, 1, 1, 32);
    pad(&b, 32), put(&b, (char[64]){0}, 64);
    refuse(&b, "shared bytes");
    put_header(&b, 3, 2, 0);
    put_tensor(&b, "w", 0, 1, 1, 0), put_tensor(&b, "w", 0, 1, 1, 32);
    pad(&b, 32), put(&b, (char[64]){0}, 64);
    refuse(&b, "'w': expected once");
}

/* ---- damaged headers */

static void test_bad_headers(void **state) {
    bytes b = {.size = 0};
    (void)state;
    refuse(&b, "too short");
    put_header(&b, 1, 0, 0);
    refuse(&b, "version");
    put_header(&b, 3, 1ull << 60, 0);
    refuse(&b, "tensor count");
    put_header(&b, 3, 0, 1ull << 60);
    refuse(&b, "key count");
    put_header(&b, 3, 0, 1);
    put_u64(&b, 1ull << 63), put_u64(&b, 0);
    refuse(&b, "string length");
    put_header(&b, 3, 0, 1);
    put_key(&b, "k", 77), put_u64(&b, 0);
    refuse(&b, "'k': value type");
    put_header(&b, 3, 0, 1);
    put_key(&b, "k", 9), put_u32(&b, 9), put_u64(&b, 0);
    refuse(&b, "array of arrays");
    put_header(&b, 3, 0, 1);
    put_key(&b, "k", 9), put_u32(&b, 8), put_u64(&b, 1ull << 61);
    refuse(&b, "array length");
    put_header(&b, 3, 0, 1);
    put_key(&b, "\x1b[2J", 4), put_u32(&b, 0);
    refuse(&b, "printable");
    put_header(&b, 3, 0, 2);
    put_key(&b, "k", 4), put_u32(&b, 0), put_key(&b, "k", 4), put_u32(&b, 0);
    refuse(&b, "'k': expected once");
    put_header(&b, 3, 0, 1);
    put_key(&b, "general.alignment", 4), put_u32(&b, 24);
    refuse(&b, "general.alignment");
}

/* Cut at every length inside the metadata and at many inside the rest, the file is refused. */
static void test_truncated(void **state) {
    char *text = NULL;
    size_t size = 0;
    bytes b;
    (void)state;
    check(ca_file_read(FIXTURE, &text, &size));
    assert_true(size > sizeof b.data);
    for (size_t n = 0; n < sizeof b.data; n += n < 200 ? 1 : 61) {
        memcpy(b.data, text, n);
        b.size = n;
        refuse(&b, "/tmp/");
    }
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scalars),     cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_fixture),     cmocka_unit_test(test_tensor_data),
        cmocka_unit_test(test_bad_tensors), cmocka_unit_test(test_bad_headers),
        cmocka_unit_test(test_truncated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
