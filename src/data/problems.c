/* SPDX-License-Identifier: MIT
 *
 * Bad rows of a data file, gathered so that one message names all of them.
 */
#include "causa/data.h"

enum { MOST_ROWS = 20 };

ca_status ca_row_problems_take(ca_row_problems *problems, ca_status st) {
    if (st != CA_E_DATA) return st;
    if (problems->count++ >= MOST_ROWS) return CA_OK;
    return ca_string_printf(&problems->text, "%s%s", problems->count > 1 ? "\n" : "",
                            ca_error_text());
}

ca_status ca_row_problems_report(ca_row_problems *problems) {
    ca_status st = CA_OK;
    if (problems->count == 0) goto out;
    if (problems->count > MOST_ROWS)
        CA_TRY(ca_string_printf(&problems->text, "\n... and %lld more rows",
                                (long long)(problems->count - MOST_ROWS)));
    st = ca_fail(CA_E_DATA, "%s", problems->text.text);
out:
    ca_row_problems_free(problems);
    return st;
}

void ca_row_problems_free(ca_row_problems *problems) {
    ca_string_free(&problems->text);
    *problems = (ca_row_problems){0};
}
