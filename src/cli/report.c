/* SPDX-License-Identifier: MIT
 *
 * `causa report`.
 */
#include "cli.h"

#include "causa/report.h"
#include "causa/version.h"

ca_status ca_cli_report(const cli_arguments *arguments) {
    if (arguments->count != 1)
        return ca_fail(CA_E_USAGE, "expected one result file, got %lld",
                       (long long)arguments->count);
    return ca_report_run(arguments->words[0], arguments->output, ca_python());
}
