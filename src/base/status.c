/* SPDX-License-Identifier: MIT
 *
 * The error text of the current thread. Every function that fails calls ca_fail once, at the
 * place that knows what happened; main prints the text. Callable at any time from any thread;
 * allocates nothing, so that running out of memory can be reported too.
 */
#include "causa/base.h"

#include <string.h>

enum { ERROR_TEXT_SIZE = 64 * 1024, ERROR_HINT_SIZE = 1024 };

/* Config errors hold one line per mistake of a file, hence the size. */
static _Thread_local char error_text[ERROR_TEXT_SIZE];
static _Thread_local char error_hint[ERROR_HINT_SIZE];
/* New text is composed here first: its arguments may point into the text that it replaces. */
static _Thread_local char composed[ERROR_TEXT_SIZE];

int ca_status_exit_code(ca_status st) {
    switch (st) {
#define EXIT_CODE_CASE(name, code, text)                                                           \
    case name:                                                                                     \
        return code;
        CA_STATUS_LIST(EXIT_CODE_CASE)
#undef EXIT_CODE_CASE
    }
    return 1;
}

const char *ca_status_text(ca_status st) {
    switch (st) {
#define TEXT_CASE(name, code, text)                                                                \
    case name:                                                                                     \
        return text;
        CA_STATUS_LIST(TEXT_CASE)
#undef TEXT_CASE
    }
    return "unknown status";
}

/* Writes into `composed` from `at` on; a text that does not fit ends with "...", so that nobody
 * takes it for the whole. Returns the length of all that is there. */
static size_t compose(size_t at, const char *format, va_list arguments) {
    int added = vsnprintf(composed + at, sizeof composed - at, format, arguments);
    if (added < 0) composed[at] = '\0';
    if (added >= 0 && (size_t)added >= sizeof composed - at)
        memcpy(composed + sizeof composed - sizeof "...", "...", sizeof "...");
    return at + strlen(composed + at);
}

CA_PRINTF(2, 3) static size_t compose_more(size_t at, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    size_t length = compose(at, format, arguments);
    va_end(arguments);
    return length;
}

ca_status ca_fail(ca_status st, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    size_t length = compose(0, format, arguments);
    va_end(arguments);
    memcpy(error_text, composed, length + 1);
    return st;
}

ca_status ca_context(ca_status st, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    size_t length = compose(0, format, arguments);
    va_end(arguments);
    if (error_text[0] != '\0') length = compose_more(length, ": %s", error_text);
    memcpy(error_text, composed, length + 1);
    return st;
}

void ca_hint(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    compose(0, format, arguments);
    va_end(arguments);
    snprintf(error_hint, sizeof error_hint, "%.*s", ERROR_HINT_SIZE - 1, composed);
}

const char *ca_error_text(void) { return error_text; }

const char *ca_error_hint(void) { return error_hint; }

void ca_error_clear(void) {
    error_text[0] = '\0';
    error_hint[0] = '\0';
}
