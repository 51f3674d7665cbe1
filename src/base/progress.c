/* SPDX-License-Identifier: MIT
 *
 * Progress of a loop: on a terminal one standing line in tqdm's shape, elsewhere (a Slurm log) a
 * line every ten seconds and one at the end. Called by the rank's main thread only.
 */
#include "causa/base.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include "stderr_line.h"

static const double TERMINAL_INTERVAL = 0.1, FILE_INTERVAL = 10.0; /* seconds */
enum { BAR_WIDTH = 10, LINE_SIZE = 256 };

/* "01:05" or "2:01:05". */
static void format_duration(double seconds, char text[24]) {
    const double longest = 359999999; /* keeps a silly ETA inside the buffer */
    int64_t whole = (int64_t)(seconds < longest ? seconds : longest);
    int64_t hours = whole / 3600, minutes = whole / 60 % 60, rest = whole % 60;
    if (hours > 0)
        snprintf(text, 24, "%lld:%02lld:%02lld", (long long)hours, (long long)minutes,
                 (long long)rest);
    else
        snprintf(text, 24, "%02lld:%02lld", (long long)minutes, (long long)rest);
}

/* "3.7prompt/s", or its inverse "2.10s/prompt" when that is the readable one. */
static void format_rate(double rate, const char *unit, char text[64]) {
    if (rate <= 0)
        snprintf(text, 64, "?%s/s", unit);
    else if (rate < 1)
        snprintf(text, 64, "%.2fs/%s", 1 / rate, unit);
    else
        snprintf(text, 64, rate < 100 ? "%.1f%s/s" : "%.0f%s/s", rate, unit);
}

static void format_line(const ca_progress *p, double now, char line[LINE_SIZE]) {
    double seconds = now - p->started;
    double rate = p->done > 0 && seconds > 0 ? (double)p->done / seconds : 0;
    char elapsed[24], remaining[24] = "?", speed[64];
    format_duration(seconds, elapsed);
    format_rate(rate, p->unit, speed);

    if (p->total <= 0) { /* nobody knows how long it will be */
        snprintf(line, LINE_SIZE, "%s: %lld%s [%s, %s]", p->task, (long long)p->done, p->unit,
                 elapsed, speed);
        return;
    }
    int64_t left = p->total > p->done ? p->total - p->done : 0;
    if (rate > 0) format_duration((double)left / rate, remaining);
    double share = left > 0 ? (double)p->done / (double)p->total : 1;

    char bar[BAR_WIDTH + 1] = "";
    for (int i = 0; i < BAR_WIDTH; i++) bar[i] = (i + 1) <= share * BAR_WIDTH ? '#' : ' ';
    snprintf(line, LINE_SIZE, "%s: %3d%%|%s| %lld/%lld [%s<%s, %s]", p->task, (int)(100 * share),
             bar, (long long)p->done, (long long)p->total, elapsed, remaining, speed);
}

/* A line longer than the terminal would wrap and could not be wiped. */
static void cut_to_terminal(char line[LINE_SIZE]) {
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return;
    if (size.ws_col < LINE_SIZE) line[size.ws_col - 1] = '\0';
}

static void show(ca_progress *p, double now) {
    char line[LINE_SIZE];
    p->printed = now;
    if (!ca_log_prints(CA_LOG_INFO)) return;
    format_line(p, now, line);
    if (p->terminal) {
        cut_to_terminal(line);
        ca_stderr_line_replace(line);
    } else {
        ca_stderr_line_print(line);
    }
}

void ca_progress_start(ca_progress *p, const char *task, const char *unit, int64_t total) {
    double now = ca_seconds();
    *p = (ca_progress){.task = task, .unit = unit, .total = total, .started = now, .printed = now};
    p->terminal = isatty(STDERR_FILENO) == 1;
    if (p->terminal) show(p, now);
}

void ca_progress_add(ca_progress *p, int64_t count) {
    p->done += count;
    double now = ca_seconds();
    if (now - p->printed >= (p->terminal ? TERMINAL_INTERVAL : FILE_INTERVAL)) show(p, now);
}

void ca_progress_finish(ca_progress *p) {
    show(p, ca_seconds());
    if (p->terminal) ca_stderr_line_end();
}
