/* SPDX-License-Identifier: MIT
 *
 * Finds the report script and runs it as a child process. Called by `causa report`; expects that
 * the process may have children (no SIGCHLD handler that reaps them).
 */
#include "causa/report.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { WORDS_MAX = 2048, EXIT_DATA = 3 };

/* ---- where it is */

static bool is_script(const char *folder) {
    char main_file[PATH_MAX];
    int length = snprintf(main_file, sizeof main_file, "%s/__main__.py", folder);
    return length > 0 && (size_t)length < sizeof main_file && ca_file_exists(main_file);
}

static ca_status copy_text(const char *text, char **out) {
    ca_string copy = {0};
    ca_status st = ca_string_printf(&copy, "%s", text);
    if (st == CA_OK) *out = copy.text;
    return st;
}

ca_status ca_report_script(char **path) {
    /* the binary lies in build/, in build/<variant>/ or in <prefix>/bin/ */
    static const char *const places[] = {"../src/report", "../../src/report",
                                         "../share/causa/report"};
    const char *named = getenv("CAUSA_REPORT");
    char executable[PATH_MAX], folder[PATH_MAX];
    *path = NULL;
    if (named != NULL && named[0] != '\0') {
        if (is_script(named)) return copy_text(named, path);
        return ca_fail(CA_E_FAILED, "CAUSA_REPORT: expected a folder with __main__.py, got '%s'",
                       named);
    }
    ssize_t length = readlink("/proc/self/exe", executable, sizeof executable - 1);
    if (length < 0) return ca_fail(CA_E_FAILED, "/proc/self/exe: %s", strerror(errno));
    executable[length] = '\0';
    const char *bin = dirname(executable);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        int count = snprintf(folder, sizeof folder, "%s/%s", bin, places[i]);
        if (count > 0 && (size_t)count < sizeof folder && is_script(folder)) {
            return copy_text(folder, path);
        }
    }
    ca_hint("set CAUSA_REPORT to the folder src/report of the source tree");
    return ca_fail(CA_E_FAILED, "%s: expected the report script in %s, %s or %s, got none", bin,
                   places[0], places[1], places[2]);
}

/* ---- running it */

/* Reads all that the child says on stderr and keeps the end of it. */
static void collect(int fd, char words[WORDS_MAX]) {
    size_t used = 0;
    for (;;) {
        if (used == WORDS_MAX - 1) {
            memmove(words, words + WORDS_MAX / 2, used - WORDS_MAX / 2);
            used -= WORDS_MAX / 2;
        }
        ssize_t got = read(fd, words + used, WORDS_MAX - 1 - used);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        used += (size_t)got;
    }
    words[used] = '\0';
}

/* The last line that is not empty: of a traceback, the one that names the error. */
static const char *last_line(char *words) {
    size_t length = strlen(words);
    while (length > 0 && strchr("\r\n ", words[length - 1]) != NULL) words[--length] = '\0';
    const char *newline = strrchr(words, '\n');
    return newline != NULL ? newline + 1 : words;
}

/* Starts the child with its stderr in the pipe. */
static ca_status start(char *const argv[], const int pipe_ends[2], pid_t *child) {
    posix_spawn_file_actions_t actions;
    int error = posix_spawn_file_actions_init(&actions);
    if (error != 0)
        return ca_fail(CA_E_FAILED, "%s: cannot start it: %s", argv[0], strerror(error));
    error = posix_spawn_file_actions_adddup2(&actions, pipe_ends[1], STDERR_FILENO);
    if (error == 0) error = posix_spawnp(child, argv[0], &actions, NULL, argv, environ);
    (void)posix_spawn_file_actions_destroy(&actions);
    if (error == 0) return CA_OK;
    ca_hint("reports need Python 3 with h5py, numpy and matplotlib");
    return ca_fail(CA_E_FAILED, "%s: cannot start it: %s", argv[0], strerror(error));
}

static ca_status run_child(char *const argv[], const char *result_path) {
    int ends[2] = {-1, -1}, status = 0;
    char words[WORDS_MAX];
    pid_t child = -1;
    if (pipe2(ends, O_CLOEXEC) != 0) return ca_fail(CA_E_FAILED, "pipe: %s", strerror(errno));
    ca_status st = start(argv, ends, &child);
    (void)close(ends[1]); /* so that reading ends with the child */
    if (st != CA_OK) goto out;
    collect(ends[0], words);
    while (waitpid(child, &status, 0) < 0) {
        if (errno == EINTR) continue;
        st = ca_fail(CA_E_FAILED, "%s: waiting for it: %s", argv[0], strerror(errno));
        goto out;
    }
    if (WIFSIGNALED(status)) {
        st = ca_fail(CA_E_FAILED, "%s: report: ended by signal %d", result_path, WTERMSIG(status));
    } else if (WEXITSTATUS(status) != 0) {
        const char *line = last_line(words);
        st = WEXITSTATUS(status) == EXIT_DATA ? CA_E_DATA : CA_E_FAILED;
        st = ca_fail(st, "%s", line[0] != '\0' ? line : "report: the script failed without a word");
    }
out:
    (void)close(ends[0]);
    return st;
}

ca_status ca_report_run(const char *result_path, const char *out_dir, const char *python) {
    ca_status st = CA_OK;
    ca_arena *arena = NULL;
    char *script = NULL, *argv[8] = {0};
    CA_TRY(ca_report_script(&script));
    /* -B: no __pycache__ beside an installed script; "--": a name may begin with a dash */
    const char *words[] = {python != NULL ? python : "python3", "-B", script,     "-o",
                           out_dir != NULL ? out_dir : "",      "--", result_path};
    CA_TRY(ca_arena_create(&arena));
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        CA_TRY(ca_arena_strdup(arena, words[i], strlen(words[i]), &argv[i]));
    }
    CA_TRY(run_child(argv, result_path));
out:
    ca_arena_destroy(arena);
    free(script);
    return st;
}
