/* SPDX-License-Identifier: MIT
 *
 * See points.h.
 */
#include "points.h"

#include <math.h>
#include <string.h>

eap_rule ca_eap_rule_find(const char *name) {
#define EAP_RULE_FIND(rule, text)                                                                  \
    if (strcmp(name, text) == 0) return rule;
    EAP_RULE_LIST(EAP_RULE_FIND)
#undef EAP_RULE_FIND
    return EAP_LEFT;
}

const char *ca_eap_rule_name(eap_rule rule) {
    static const char *const names[] = {
#define EAP_RULE_NAME(rule, text) [rule] = text,
        EAP_RULE_LIST(EAP_RULE_NAME)
#undef EAP_RULE_NAME
    };
    return names[rule];
}

/* P_n and its derivative at x in (-1, 1). */
static double legendre(int64_t n, double x, double *slope) {
    double last = 1, value = x;
    for (int64_t k = 2; k <= n; k++) {
        double next = ((double)(2 * k - 1) * x * value - (double)(k - 1) * last) / (double)k;
        last = value;
        value = next;
    }
    *slope = (double)n * (x * value - last) / (x * x - 1);
    return value;
}

/* Roots of P_n by Newton's method from Chebyshev's angles (Abramowitz and Stegun 25.4.29). */
static void gauss_legendre(int64_t n, eap_point *points) {
    for (int64_t k = 0; k < n; k++) {
        double x = -cos(acos(-1.0) * ((double)k + 0.75) / ((double)n + 0.5)), slope, step;
        do {
            step = legendre(n, x, &slope) / slope;
            x -= step;
        } while (fabs(step) > 1e-15);
        points[k] = (eap_point){(1 + x) / 2, 1 / ((1 - x * x) * slope * slope)};
    }
}

int64_t ca_eap_point_find(const eap_point *points, int64_t count, double alpha) {
    for (int64_t k = 0; k < count; k++)
        if (points[k].alpha == alpha) return k;
    return -1;
}

void ca_eap_points(eap_rule rule, int64_t count, eap_point *points) {
    static const double shift[] = {[EAP_LEFT] = 0, [EAP_RIGHT] = 1, [EAP_MIDPOINT] = 0.5};
    if (rule == EAP_GAUSS_LEGENDRE) {
        gauss_legendre(count, points);
        return;
    }
    for (int64_t k = 0; k < count; k++)
        points[k] = (eap_point){((double)k + shift[rule]) / (double)count, 1 / (double)count};
}
