/* SPDX-License-Identifier: MIT
 *
 * Refusal of damaged .safetensors headers. What sound ones hold is tested by test_model.c.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "model_files.h"

static void with_header(const char *header, size_t data_bytes, const char *text) {
    char directory[64], file[4096] = {0};
    uint64_t length = strlen(header);
    make_directory(directory);
    link_file(directory, "config.json", MODELS "smollm2/config.json");
    memcpy(file, &length, sizeof length);
    memcpy(file + sizeof length, header, length);
    assert_true(sizeof length + length + data_bytes <= sizeof file);
    write_file(directory, "model.safetensors", file, sizeof length + length + data_bytes);
    refuse(directory, text);
    remove_directory(directory);
}

static void test_headers(void **state) {
    (void)state;
    with_header("[]", 0, "header");
    with_header("{\"a\": ", 0, "header: byte");
    with_header("{\"a\": 3}", 0, "tensor 'a'");
    with_header("{\"a\": {\"dtype\": \"F8\", \"shape\": [1], \"data_offsets\": [0, 4]}}", 4,
                "'F8'");
    with_header("{\"a\": {\"dtype\": \"F32\", \"shape\": [1.5], \"data_offsets\": [0, 4]}}", 4,
                "shape");
    with_header("{\"a\": {\"dtype\": \"F32\", \"shape\": [-1], \"data_offsets\": [0, 4]}}", 4,
                "shape");
    with_header("{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 8]}}", 8,
                "shape [1] of F32");
    with_header("{\"a\": {\"dtype\": \"F32\", \"shape\": [4611686018427387905], "
                "\"data_offsets\": [0, 4]}}",
                4, "shape [4611686018427387905]");
    with_header("{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}", 3,
                "data_offsets past the end");
    with_header("{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [4, 0]}}", 4,
                "0 <= begin <= end");
    with_header("{\"a\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 8]},"
                " \"b\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [4, 8]}}",
                8, "'a' and 'b'");
    with_header("{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]},"
                " \"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}",
                4, "tensor 'a': expected once");
    with_header("{\"\\u001b\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}", 4,
                "control characters");
    with_header("{}", 0, "expected tensors");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_headers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
