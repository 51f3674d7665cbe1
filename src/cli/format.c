/* SPDX-License-Identifier: MIT
 *
 * Numbers as people read them.
 */
#include "cli.h"

const char *ca_cli_flops(double flops, char text[32]) {
    static const char *const units[] = {"", "k", "M", "G", "T", "P", "E"};
    int unit = 0;
    for (; flops >= 1000 && unit < 6; unit++) flops /= 1000;
    snprintf(text, 32, "%.3g %sFLOP", flops, units[unit]);
    return text;
}
