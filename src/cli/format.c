/* SPDX-License-Identifier: MIT
 *
 * Numbers as people read them.
 */
#include "cli.h"

const char *ca_cli_bytes(int64_t bytes, char text[32]) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    int unit = 0;
    for (; value >= 1024 && unit < 4; unit++) value /= 1024;
    snprintf(text, 32, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return text;
}

const char *ca_cli_flops(double flops, char text[32]) {
    static const char *const units[] = {"", "k", "M", "G", "T", "P", "E"};
    int unit = 0;
    for (; flops >= 1000 && unit < 6; unit++) flops /= 1000;
    snprintf(text, 32, "%.3g %sFLOP", flops, units[unit]);
    return text;
}
