/* SPDX-License-Identifier: MIT
 *
 * What log.c and progress.c share: stderr is written by one of them at a time, and a progress
 * line that stands on the terminal is wiped before a log line is printed over it.
 */
#ifndef CAUSA_BASE_STDERR_LINE_H
#define CAUSA_BASE_STDERR_LINE_H

#include "causa/base.h"

/* True when this process may print lines of this level to stderr. */
bool ca_log_prints(ca_log_level level);

/* Puts `text` on the terminal in place of the progress line that stands there. */
void ca_stderr_line_replace(const char *text);
/* Ends the standing line, so that whatever comes next begins on a new one. */
void ca_stderr_line_end(void);
/* One whole line, which may scroll past: a standing progress line is wiped first. */
void ca_stderr_line_print(const char *text);

#endif
