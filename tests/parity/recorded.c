/* SPDX-License-Identifier: MIT
 *
 * Parity cases compared bit for bit from run to run, for which the environment asks:
 *
 *   CA_TEST_BACKEND=NAME  runs cases on this backend only
 *   CA_PARITY_RECORD=DIR    writes a digest of what each case wrote to DIR/PROGRAM.txt
 *   CA_PARITY_EXPECT=DIR    compares with the digests of such a file instead of with `ref`
 *   CA_PARITY_CASES=shapes  runs every shape and variant with one content only
 *   CA_PARITY_CASES=largest runs every variant at its largest shape only
 */
#include "parity.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int64_t cases; /* of this process, those that were left out included */

bool parity_backend_is_chosen(const char *name) {
    const char *only = getenv("CA_TEST_BACKEND");
    return !only || strcmp(only, name) == 0;
}

bool parity_case_is_chosen(parity_kind kind) {
    const char *text = getenv("CA_PARITY_CASES");
    cases++;
    if (!text) return true;
    if (strcmp(text, "shapes") == 0) return kind != FURTHER_CONTENT;
    if (strcmp(text, "largest") == 0) return kind == LARGEST_SHAPE;
    fail_msg("CA_PARITY_CASES: expected shapes or largest, got '%s'", text);
    return false;
}

/* FNV-1a over what was written. */
static uint64_t digest_of(const parity *p) {
    uint64_t digest = 0xcbf29ce484222325u;
    for (int i = 0; i < p->count; i++) {
        if (!p->buffers[i].written) continue;
        for (size_t at = 0; at < p->buffers[i].bytes; at++)
            digest = (digest ^ p->buffers[i].after[at]) * 0x100000001b3u;
    }
    return digest;
}

/* Opened by the first case, which may be in any test of the program. */
static FILE *file_of(const char *variable, const char *mode) {
    const char *folder = getenv(variable);
    char path[4096];
    if (!folder) return NULL;
    snprintf(path, sizeof path, "%s/%s.txt", folder, program_invocation_short_name);
    FILE *file = fopen(path, mode);
    if (!file) fail_msg("%s: cannot open %s", variable, path);
    return file;
}

static void expect(FILE *file, uint64_t digest, const char *label) {
    char line[512];
    while (fgets(line, sizeof line, file)) {
        int64_t number;
        uint64_t recorded;
        int at = 0;
        line[strcspn(line, "\n")] = '\0';
        if (sscanf(line, "%" SCNd64 " %" SCNx64 " %n", &number, &recorded, &at) != 2 || at == 0)
            fail_msg("CA_PARITY_EXPECT: expected number, digest and case, got '%s'", line);
        if (number < cases) continue;
        assert_string_equal(line + at, label);
        if (recorded != digest) fail_msg("%s: other bits than in the recorded run", label);
        return;
    }
    fail_msg("CA_PARITY_EXPECT: %s: not in the file", label);
}

bool parity_compare_recorded(const parity *p, const char *label) {
    static bool opened;
    static FILE *record, *expected;
    if (!opened) {
        record = file_of("CA_PARITY_RECORD", "w");
        expected = file_of("CA_PARITY_EXPECT", "r");
        opened = true;
    }
    if (!record && !expected) return false;
    uint64_t digest = digest_of(p);
    if (record) {
        fprintf(record, "%" PRId64 " %016" PRIx64 " %s\n", cases, digest, label);
        fflush(record); /* tests end as they like */
    }
    if (expected) expect(expected, digest, label);
    return expected != NULL;
}
