/* SPDX-License-Identifier: MIT
 *
 * Tables of parity cases: a row is an operation with its row counts, widths, variants and contents;
 * every combination is a case, and every row a test.
 */
#ifndef CA_TESTS_TABLE_H
#define CA_TESTS_TABLE_H

#include "parity.h"

/* One case. `variant` counts the forms of an operation (transposes, kinds, layouts). */
typedef struct row_case {
    int64_t rows, width, lanes;
    int variant;
    fill f;
} row_case;

static inline bool bit(const row_case *c, int n) { return c->variant >> n & 1; }

static const ca_tensor absent;

enum { MAX_SIZES = 5, END = -1 };

typedef struct operation {
    const char *name;
    parity_run run;
    int variants;
    int64_t rows[MAX_SIZES], widths[MAX_SIZES]; /* up to END */
    unsigned fills;                             /* bits of `fill`, LANED */
} operation;

#define ANY    ((1u << RARE) - 1) /* RARE: for sums */
#define ONE(f) (1u << (f))
#define LANED  (1u << FILL_COUNT) /* its cases have lanes */

/* What a sum of `terms` products of such values typically comes to. */
double sum_scale(fill f, int64_t terms);
/* tests [count]: one for each row, to be run by cmocka. */
void table_tests(const operation *operations, int count, struct CMUnitTest *tests);

#endif
