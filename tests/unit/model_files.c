/* SPDX-License-Identifier: MIT
 *
 * Temporary model directories: files written for one test beside links to fixtures.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "model_files.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "causa/model.h"

void check(ca_status st) {
    if (st != CA_OK) fail_msg("%s: %s", ca_status_text(st), ca_error_text());
}

void write_file(const char *directory, const char *name, const void *bytes, size_t size) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

void link_file(const char *directory, const char *name, const char *target) {
    char path[PATH_MAX], real[PATH_MAX];
    assert_non_null(realpath(target, real));
    snprintf(path, sizeof path, "%s/%s", directory, name);
    assert_int_equal(symlink(real, path), 0);
}

void make_directory(char directory[64]) {
    strcpy(directory, "/tmp/causa-test-model-XXXXXX");
    assert_non_null(mkdtemp(directory));
}

void remove_directory(const char *directory) {
    static const char *const names[] = {"config.json",
                                        "model.safetensors",
                                        "pytorch_model.bin",
                                        "model.safetensors.index.json",
                                        "a.safetensors",
                                        "model-00001-of-00003.safetensors",
                                        "model-00002-of-00003.safetensors",
                                        "model-00003-of-00003.safetensors"};
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(directory), 0);
}

char *edited(const char *path, const char *from, const char *to) {
    char *text = NULL;
    size_t size = 0;
    ca_string s = {0};
    check(ca_file_read(path, &text, &size));
    char *at = strstr(text, from);
    assert_non_null(at);
    *at = '\0';
    check(ca_string_printf(&s, "%s%s%s", text, to, at + strlen(from)));
    free(text);
    return s.text;
}

void refuse(const char *path, const char *text) {
    ca_model_file *file = NULL;
    ca_error_clear();
    assert_int_equal(ca_model_file_open(path, &file), CA_E_MODEL);
    assert_null(file);
    if (strstr(ca_error_text(), text) == NULL)
        fail_msg("expected '%s' in '%s'", text, ca_error_text());
}
