/* SPDX-License-Identifier: MIT
 *
 * Log lines to stderr, to a JSONL file and to a sink. Callable from any thread.
 */
#include "causa/base.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "stderr_line.h"

static struct {
    pthread_mutex_t lock; /* guards everything below and the order of lines */
    ca_log_level level;
    int rank;
    FILE *file;
    ca_log_sink sink;
    void *sink_context;
    bool line_stands; /* a progress line without a newline is on the terminal */
} state = {.lock = PTHREAD_MUTEX_INITIALIZER, .level = CA_LOG_INFO};

/* ---- stderr ------------------------------------------------------------------------------ */

bool ca_log_prints(ca_log_level level) {
    return level <= state.level && (state.rank == 0 || level == CA_LOG_ERROR);
}

static void wipe_standing_line(void) {
    if (state.line_stands) fputs("\r\033[K", stderr);
    state.line_stands = false;
}

void ca_stderr_line_replace(const char *text) {
    pthread_mutex_lock(&state.lock);
    fprintf(stderr, "\r%s\033[K", text);
    fflush(stderr);
    state.line_stands = true;
    pthread_mutex_unlock(&state.lock);
}

void ca_stderr_line_end(void) {
    pthread_mutex_lock(&state.lock);
    if (state.line_stands) fputc('\n', stderr);
    state.line_stands = false;
    pthread_mutex_unlock(&state.lock);
}

void ca_stderr_line_print(const char *text) {
    pthread_mutex_lock(&state.lock);
    wipe_standing_line();
    fprintf(stderr, "%s\n", text);
    pthread_mutex_unlock(&state.lock);
}

static void print_to_stderr(ca_log_level level, const char *message) {
    static const char *const prefix[] = {[CA_LOG_ERROR] = "error: ",
                                         [CA_LOG_WARNING] = "warning: ",
                                         [CA_LOG_INFO] = "",
                                         [CA_LOG_DEBUG] = "debug: "};
    wipe_standing_line();
    if (state.rank == 0)
        fprintf(stderr, "causa: %s%s\n", prefix[level], message);
    else
        fprintf(stderr, "causa: %srank %d: %s\n", prefix[level], state.rank, message);
}

/* ---- JSONL ------------------------------------------------------------------------------- */

/* JSON must be UTF-8, messages may quote files that are not: bad bytes become U+FFFD. */
static void write_json_string(FILE *file, const char *text) {
    size_t count = strlen(text);
    int64_t bad = ca_utf8_invalid(text, count);
    fputc('"', file);
    for (size_t i = 0; i < count; i++) {
        unsigned char c = (unsigned char)text[i];
        if (bad == (int64_t)i) {
            fputs("\\ufffd", file);
            int64_t next = ca_utf8_invalid(text + i + 1, count - i - 1);
            bad = next < 0 ? -1 : (int64_t)i + 1 + next;
        } else if (c == '"' || c == '\\') {
            fprintf(file, "\\%c", c);
        } else if (c < 0x20) {
            fprintf(file, "\\u%04x", c);
        } else {
            fputc(c, file);
        }
    }
    fputc('"', file);
}

static void write_to_file(double time, ca_log_level level, const char *message) {
    static const char *const name[] = {[CA_LOG_ERROR] = "error",
                                       [CA_LOG_WARNING] = "warning",
                                       [CA_LOG_INFO] = "info",
                                       [CA_LOG_DEBUG] = "debug"};
    fprintf(state.file, "{\"time\": %.6f, \"level\": \"%s\", \"rank\": %d, \"message\": ", time,
            name[level], state.rank);
    write_json_string(state.file, message);
    fputs("}\n", state.file);
    fflush(state.file); /* one write per line: what was logged survives a crash */
}

/* ---- public ------------------------------------------------------------------------------ */

void ca_log_set_level(ca_log_level level) { state.level = level; }

void ca_log_set_rank(int rank) { state.rank = rank; }

ca_status ca_log_open(const char *jsonl_path) {
    ca_log_close();
    /* Appending: ranks may share the file, and a resumed run goes on in it. */
    FILE *file = fopen(jsonl_path, "ae");
    if (file == NULL)
        return ca_fail(CA_E_IO, "%s: expected a log file that can be written, got '%s'", jsonl_path,
                       strerror(errno));
    pthread_mutex_lock(&state.lock);
    state.file = file;
    pthread_mutex_unlock(&state.lock);
    return CA_OK;
}

void ca_log_close(void) {
    pthread_mutex_lock(&state.lock);
    if (state.file != NULL) fclose(state.file);
    state.file = NULL;
    pthread_mutex_unlock(&state.lock);
}

void ca_log_set_sink(ca_log_sink sink, void *context) {
    pthread_mutex_lock(&state.lock);
    state.sink = sink;
    state.sink_context = context;
    pthread_mutex_unlock(&state.lock);
}

static double unix_time(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void ca_log(ca_log_level level, const char *format, ...) {
    /* Debug lines are made only on request; the file and the sink keep the rest at -q too. */
    if (level == CA_LOG_DEBUG && state.level < CA_LOG_DEBUG) return;

    /* The message is made before the lock is taken; long ones move to the heap. */
    char small[1024], *message = small;
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(small, sizeof small, format, arguments);
    va_end(arguments);
    if (length < 0) return;
    if ((size_t)length >= sizeof small) {
        char *large = malloc((size_t)length + 1);
        if (large != NULL) {
            va_start(arguments, format);
            vsnprintf(large, (size_t)length + 1, format, arguments);
            va_end(arguments);
            message = large;
        }
    }

    double time = unix_time();
    pthread_mutex_lock(&state.lock);
    if (ca_log_prints(level)) print_to_stderr(level, message);
    if (state.file != NULL) write_to_file(time, level, message);
    if (state.sink != NULL) state.sink(state.sink_context, time, level, message);
    pthread_mutex_unlock(&state.lock);
    if (message != small) free(message);
}
