/* SPDX-License-Identifier: MIT
 *
 * Runs a fuzz target over its corpus as a plain test: the program fuzz_NAME reads every file of
 * tests/fuzz/corpus/NAME, and beginnings of it, for files that were cut short in transfer.
 * Linked with one fuzz_*.c; prints TAP, one test per file. What fails, crashes or trips a
 * sanitizer; the file is named before it is tried.
 */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "causa/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CUTS = 16 };

static ca_status replay_file(const char *path) {
    char *text;
    size_t size;
    ca_status st = ca_file_read(path, &text, &size);
    if (st != CA_OK) return st;
    for (size_t cut = 0; cut <= CUTS; cut++) {
        /* A copy of the exact size, so that reading past the end is seen. */
        size_t count = size / CUTS * cut + (cut == CUTS ? size % CUTS : 0);
        uint8_t *copy;
        st = ca_calloc(count, 1, &copy);
        if (st != CA_OK) break;
        memcpy(copy, text, count);
        LLVMFuzzerTestOneInput(copy, count);
        free(copy);
    }
    free(text);
    return st;
}

static int is_visible(const struct dirent *entry) { return entry->d_name[0] != '.'; }

int main(void) {
    const char *name = program_invocation_short_name;
    if (strncmp(name, "fuzz_", 5) == 0) name += 5;
    char folder[256];
    snprintf(folder, sizeof folder, "tests/fuzz/corpus/%s", name);

    struct dirent **entries;
    int count = scandir(folder, &entries, is_visible, alphasort);
    if (count <= 0) {
        fprintf(stderr, "%s: expected a corpus of files, got none\n", folder);
        return 1;
    }
    int failed = 0;
    printf("1..%d\n", count);
    for (int i = 0; i < count; i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
        printf("# %s\n", path);
        fflush(stdout);
        ca_status st = replay_file(path);
        if (st != CA_OK) printf("# %s\n", ca_error_text());
        printf("%sok %d - %s\n", st == CA_OK ? "" : "not ", i + 1, entries[i]->d_name);
        failed += st != CA_OK;
        free(entries[i]);
    }
    free(entries);
    return failed > 0;
}
