/* SPDX-License-Identifier: MIT
 *
 * Checks that the shim can fail: every canary is run with and without its fault, in every mode,
 * each time in a process of its own. A fault must be caught (the process fails) where its row says
 * so; without it the process must succeed.
 *
 *   check_canaries                     all, as cmocka tests
 *   check_canaries NAME fault|twin     one, as the tests run it; the environment sets the mode
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "canaries.h"

/* The Makefile says which build this is. */
static const unsigned build = CA_SIMT_BUILD;

typedef struct mode {
    unsigned bits;
    const char *schedule, *streams;
    bool sanitized; /* also with the sanitizers, which take long */
} mode;

static const mode modes[] = {
    {0, "seq", "eager", true},       {REVERSE, "reverse", "eager", false},
    {0, "random:1", "eager", false}, {GREEDY, "greedy:1", "eager", false},
    {LAZY, "seq", "lazy:1", true},
};

static int run_alone(const char *name, const char *which) {
    for (int i = 0; i < canary_count; i++) {
        if (strcmp(canaries[i].name, name) != 0) continue;
        return canaries[i].run(strcmp(which, "fault") == 0) ? 0 : 1;
    }
    fprintf(stderr, "no canary has the name '%s'\n", name);
    return 2;
}

static void become(const canary *c, const mode *m, const char *which, int output) {
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    setenv("CA_SIMT_SCHEDULE", m->schedule, 1);
    setenv("CA_SIMT_STREAMS", m->streams, 1);
    setenv("ASAN_OPTIONS", "detect_leaks=0:symbolize=0", 1);
    setenv("UBSAN_OPTIONS", "symbolize=0", 1);
    setenv("TSAN_OPTIONS", "halt_on_error=1:symbolize=0:atexit_sleep_ms=0", 1);
    char program[] = "check_canaries", name[128], variant[16];
    snprintf(name, sizeof name, "%s", c->name);
    snprintf(variant, sizeof variant, "%s", which);
    char *arguments[] = {program, name, variant, NULL};
    execv("/proc/self/exe", arguments);
    _exit(127);
}

/* Runs a canary; returns whether its process failed, and what it wrote. */
static bool fails(const canary *c, const mode *m, const char *which, char *text, size_t size) {
    int ends[2], status;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) become(c, m, which, ends[1]);
    close(ends[1]);
    size_t length = 0;
    char rest[4096];
    for (;;) {
        bool full = length + 1 >= size;
        ssize_t n =
            read(ends[0], full ? rest : text + length, full ? sizeof rest : size - 1 - length);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        if (!full) length += (size_t)n;
    }
    text[length] = '\0';
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

static void test_canary(void **state) {
    const canary *c = *state;
    char text[16384];
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        const mode *m = &modes[i];
        if (build != PLAIN && !m->sanitized) continue;
        if (fails(c, m, "twin", text, sizeof text))
            fail_msg("%s %s: fails without its fault:\n%s", m->schedule, m->streams, text);
        bool caught = fails(c, m, "fault", text, sizeof text);
        if (!caught && (c->caught_by & (build | m->bits)))
            fail_msg("%s %s: the fault was not caught", m->schedule, m->streams);
        if (caught && c->says && !strstr(text, c->says))
            fail_msg("%s %s: expected '%s', got:\n%s", m->schedule, m->streams, c->says, text);
    }
}

int main(int argc, char **argv) {
    if (argc == 3) return run_alone(argv[1], argv[2]);
    struct CMUnitTest *tests = calloc((size_t)canary_count, sizeof *tests);
    if (!tests) return 1;
    for (int i = 0; i < canary_count; i++)
        tests[i] = (struct CMUnitTest){canaries[i].name, test_canary, NULL, NULL,
                                       (void *)(uintptr_t)&canaries[i]};
    int failed = _cmocka_run_group_tests("canaries", tests, (size_t)canary_count, NULL, NULL);
    free(tests);
    return failed;
}
