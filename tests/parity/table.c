/* SPDX-License-Identifier: MIT
 *
 * Runs tables of parity cases.
 */
#include "table.h"

#include <math.h>
#include <string.h>

double sum_scale(fill f, int64_t terms) {
    double counted = f == RARE ? (double)terms / RARITY : (double)terms;
    return fill_amplitude(f) * fill_amplitude(f) * sqrt(counted);
}

/* Shapes rise in the table; the first of the contents counts as a shape. */
static parity_kind kind_of(const operation *o, row_case c) {
    int64_t rows = 0, width = 0;
    for (int i = 0; o->rows[i] != END; i++) rows = o->rows[i];
    for (int i = 0; o->widths[i] != END; i++) width = o->widths[i];
    if (o->fills & (ONE(c.f) - 1)) return FURTHER_CONTENT;
    return c.rows == rows && c.width == width && c.lanes == 3 ? LARGEST_SHAPE : FURTHER_SHAPE;
}

static void run_row_case(ca_backend *be, ca_backend *ref, const operation *o, row_case c,
                         parity_summary *summary) {
    char label[128];
    snprintf(label, sizeof label, "%s rows %lld width %lld lanes %lld variant %d %s", o->name,
             (long long)c.rows, (long long)c.width, (long long)c.lanes, c.variant, fill_name(c.f));
    parity_case(be, ref, o->run, &c, kind_of(o, c), label, summary);
}

/* Three lanes at every size; one and many at the largest number of rows. */
static void run_operation(ca_backend *be, ca_backend *ref, const void *context) {
    const operation *o = context;
    if (strstr(o->name, "bf16") && !be->bfloat16) {
        print_message("%s: %s: this device has no bf16\n", be->name, o->name);
        return;
    }
    parity_summary summary = {0};
    for (const int64_t *rows = o->rows; *rows != END; rows++)
        for (const int64_t *width = o->widths; *width != END; width++)
            for (int variant = 0; variant < o->variants; variant++)
                for (int f = 0; f < FILL_COUNT; f++)
                    if (o->fills >> f & 1)
                        run_row_case(be, ref, o, (row_case){*rows, *width, 3, variant, (fill)f},
                                     &summary);
    int64_t most = 0;
    for (const int64_t *rows = o->rows; *rows != END; rows++) most = *rows;
    for (int variant = 0; o->fills & LANED && variant < o->variants; variant++)
        for (int64_t lanes = 1; lanes <= 16; lanes += 15)
            run_row_case(be, ref, o, (row_case){most, o->widths[1], lanes, variant, NORMAL},
                         &summary);
    parity_report(be, o->name, &summary);
}

static void test_operation(void **state) { parity_each_backend(run_operation, *state); }

void table_tests(const operation *operations, int count, struct CMUnitTest *tests) {
    for (int i = 0; i < count; i++)
        tests[i] = (struct CMUnitTest){.name = operations[i].name,
                                       .test_func = test_operation,
                                       .initial_state = (void *)(uintptr_t)&operations[i]};
}
