/* SPDX-License-Identifier: MIT
 *
 * What a run prints and how it is told to stop: log lines, progress lines, signals.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <regex.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "causa/base.h"

/* ---- capturing stderr -------------------------------------------------------------------- */

static int kept_stderr;
static char captured[4096];

/* From here on stderr is `fd`, which is closed. */
static void redirect(int fd) {
    fflush(stderr);
    kept_stderr = dup(STDERR_FILENO);
    assert_true(fd >= 0 && kept_stderr >= 0);
    assert_int_equal(dup2(fd, STDERR_FILENO), STDERR_FILENO);
    close(fd);
}

static void restore(void) {
    fflush(stderr);
    dup2(kept_stderr, STDERR_FILENO);
    close(kept_stderr);
}

static void capture_to_file(FILE *file) { redirect(dup(fileno(file))); }

static const char *captured_from_file(FILE *file) {
    restore();
    rewind(file);
    captured[fread(captured, 1, sizeof captured - 1, file)] = '\0';
    fclose(file);
    return captured;
}

static void assert_matches(const char *text, const char *pattern) {
    regex_t expression;
    assert_int_equal(regcomp(&expression, pattern, REG_EXTENDED | REG_NOSUB), 0);
    if (regexec(&expression, text, 0, NULL, 0) != 0)
        fail_msg("expected a text that matches '%s', got '%s'", pattern, text);
    regfree(&expression);
}

/* ---- log --------------------------------------------------------------------------------- */

static void test_levels_and_ranks(void **state) {
    (void)state;
    FILE *file = tmpfile();
    capture_to_file(file);
    ca_log_set_level(CA_LOG_INFO);
    ca_log(CA_LOG_INFO, "%d examples", 3);
    ca_log(CA_LOG_DEBUG, "unseen");
    ca_log(CA_LOG_WARNING, "odd");
    ca_log_set_level(CA_LOG_ERROR);
    ca_log(CA_LOG_WARNING, "unseen");
    ca_log_set_level(CA_LOG_DEBUG);
    ca_log(CA_LOG_DEBUG, "detail");
    ca_log_set_rank(2);
    ca_log(CA_LOG_WARNING, "unseen");
    ca_log(CA_LOG_ERROR, "broken");
    ca_log_set_rank(0);
    ca_log_set_level(CA_LOG_INFO);
    assert_string_equal(captured_from_file(file),
                        "causa: 3 examples\ncausa: warning: odd\ncausa: debug: detail\n"
                        "causa: error: rank 2: broken\n");
}

static int lines_seen;

static void count_line(void *context, double unix_time, ca_log_level level, const char *message) {
    assert_string_equal((const char *)context, "context");
    assert_true(unix_time > 1.6e9);
    assert_int_equal(level, CA_LOG_WARNING);
    assert_true(strlen(message) > 0);
    lines_seen++;
}

static void test_jsonl_is_valid_json_whatever_is_logged(void **state) {
    (void)state;
    char path[] = "/tmp/causa-log-XXXXXX", context[] = "context", longer[3000], *text;
    close(mkstemp(path));
    memset(longer, 'z', sizeof longer);
    longer[sizeof longer - 1] = '\0';

    ca_log_set_level(CA_LOG_ERROR); /* -q: the file has the lines all the same */
    assert_int_equal(ca_log_open(path), CA_OK);
    ca_log_set_sink(count_line, context);
    ca_log(CA_LOG_WARNING, "a \"b\" \\ \n\t caf\xC3\xA9 \xFF\xFE end");
    ca_log(CA_LOG_WARNING, "%s", longer);
    ca_log(CA_LOG_DEBUG, "unseen");
    ca_log_set_sink(NULL, NULL);
    ca_log_close();
    ca_log_set_level(CA_LOG_INFO);
    assert_int_equal(lines_seen, 2);

    size_t size;
    assert_int_equal(ca_file_read(path, &text, &size), CA_OK);
    assert_matches(text, "^\\{\"time\": [0-9]+\\.[0-9]{6}, \"level\": \"warning\", \"rank\": 0, "
                         "\"message\": \"a ");
    assert_non_null(strstr(text, "\"a \\\"b\\\" \\\\ \\u000a\\u0009 caf\xC3\xA9 "
                                 "\\ufffd\\ufffd end\"}\n"));
    assert_non_null(strstr(text, longer));
    assert_int_equal(ca_utf8_invalid(text, size), -1);
    free(text);
    unlink(path);
    assert_int_equal(ca_log_open("/nonexistent/causa.jsonl"), CA_E_IO);
    assert_non_null(strstr(ca_error_text(), "/nonexistent/causa.jsonl: expected a log file"));
}

/* ---- progress ---------------------------------------------------------------------------- */

static void test_progress_in_a_file_is_one_line_at_the_end(void **state) {
    (void)state;
    FILE *file = tmpfile();
    capture_to_file(file);
    ca_progress p;
    ca_progress_start(&p, "eap", "prompt", 50);
    for (int i = 0; i < 21; i++) ca_progress_add(&p, 1);
    p.started -= 13; /* as if thirteen seconds had passed */
    ca_progress_finish(&p);
    assert_matches(captured_from_file(file),
                   "^eap:  42%\\|####      \\| 21/50 \\[00:13<00:1[78], 1\\.6prompt/s\\]\n$");
}

static void test_progress_prints_every_ten_seconds(void **state) {
    (void)state;
    FILE *file = tmpfile();
    capture_to_file(file);
    ca_progress p;
    ca_progress_start(&p, "das", "step", 4);
    p.started -= 7300;
    ca_progress_add(&p, 1); /* too early for a line */
    p.printed -= 11;
    ca_progress_add(&p, 1);
    ca_progress_add(&p, 2);
    ca_progress_finish(&p);
    assert_matches(captured_from_file(file),
                   "^das:  50%\\|#####     \\| 2/4 \\[2:01:40<2:01:40, 3650\\.[0-9]+s/step\\]\n"
                   "das: 100%\\|##########\\| 4/4 \\[2:01:40<00:00, 1825\\.[0-9]+s/step\\]\n$");
}

static void test_progress_keeps_quiet(void **state) {
    (void)state;
    FILE *file = tmpfile();
    capture_to_file(file);
    ca_progress p;
    ca_log_set_level(CA_LOG_WARNING); /* -q */
    ca_progress_start(&p, "das", "step", 4);
    ca_progress_add(&p, 4);
    ca_progress_finish(&p);
    ca_log_set_level(CA_LOG_INFO);
    ca_log_set_rank(1); /* not the first rank */
    ca_progress_start(&p, "das", "step", 4);
    ca_progress_finish(&p);
    ca_log_set_rank(0);
    assert_string_equal(captured_from_file(file), "");
}

static void test_progress_without_total(void **state) {
    (void)state;
    FILE *file = tmpfile();
    capture_to_file(file);
    ca_progress p;
    ca_progress_start(&p, "read", "row", 0);
    ca_progress_add(&p, 300);
    p.started -= 2;
    ca_progress_finish(&p);
    assert_matches(captured_from_file(file), "^read: 300row \\[00:02, 1(50|49)row/s\\]\n$");
}

static void test_progress_on_a_terminal_is_one_standing_line(void **state) {
    (void)state;
    int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    assert_true(terminal >= 0);
    assert_int_equal(grantpt(terminal), 0);
    assert_int_equal(unlockpt(terminal), 0);
    redirect(open(ptsname(terminal), O_RDWR | O_NOCTTY));

    ca_progress p;
    ca_progress_start(&p, "multi", "step", 10);
    ca_log(CA_LOG_INFO, "note");
    ca_progress_add(&p, 10);
    ca_progress_finish(&p);
    restore(); /* closes the terminal's other side: what was written is followed by an end */
    size_t used = 0;
    for (ssize_t got; (got = read(terminal, captured + used, sizeof captured - 1 - used)) > 0;)
        used += (size_t)got;
    captured[used] = '\0';
    close(terminal);

    /* start, wiped by the log line, the end on a line of its own; \n comes back as \r\n */
    assert_matches(captured, "^\r"
                             "multi:   0%\\|          \\| 0/10 \\[00:00<\\?, \\?step/s\\]\033\\[K"
                             "\r\033\\[Kcausa: note\r\n"
                             "\rmulti: 100%\\|##########\\| 10/10 \\[00:00<00:00, "
                             "[0-9.]+step/s\\]\033\\[K\r\n$");
}

/* ---- signals ----------------------------------------------------------------------------- */

/* To the process, as from outside; the thread that waits for it needs a moment. */
static void send(int number) {
    kill(getpid(), number);
    for (int i = 0; i < 2000 && ca_signal_received() == 0; i++) usleep(1000);
}

static void assert_signal(int number, ca_status expected, const char *text) {
    ca_signals_install();
    assert_int_equal(ca_signal_received(), 0);
    assert_int_equal(ca_signal_status(), CA_OK);
    send(number);
    assert_int_equal(ca_signal_received(), number);
    assert_int_equal(ca_signal_status(), expected);
    assert_non_null(strstr(ca_error_text(), text));
}

static void test_signals_ask_to_stop(void **state) {
    (void)state;
    assert_signal(SIGTERM, CA_E_PREEMPTED, "SIGTERM");
    send(SIGUSR1);
    usleep(20000);
    /* the first one decides */
    assert_int_equal(ca_signal_received(), SIGTERM);
    assert_signal(SIGUSR1, CA_E_PREEMPTED, "SIGUSR1");
    assert_signal(SIGINT, CA_E_INTERRUPT, "SIGINT");
}

static void test_second_interrupt_kills(void **state) {
    (void)state;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        ca_signals_install();
        send(SIGINT);
        if (ca_signal_received() == SIGINT) kill(getpid(), SIGINT);
        sleep(5);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels_and_ranks),
        cmocka_unit_test(test_jsonl_is_valid_json_whatever_is_logged),
        cmocka_unit_test(test_progress_in_a_file_is_one_line_at_the_end),
        cmocka_unit_test(test_progress_prints_every_ten_seconds),
        cmocka_unit_test(test_progress_keeps_quiet),
        cmocka_unit_test(test_progress_without_total),
        cmocka_unit_test(test_progress_on_a_terminal_is_one_standing_line),
        cmocka_unit_test(test_signals_ask_to_stop),
        cmocka_unit_test(test_second_interrupt_kills),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
