/* SPDX-License-Identifier: MIT
 *
 * Where gradients are taken: points on the straight line from the ablated to the clean value of one
 * site, with the weights of a quadrature rule.
 */
#ifndef CAUSA_METHOD_EAP_POINTS_H
#define CAUSA_METHOD_EAP_POINTS_H

#include "causa/base.h"

/* The site's value is ablated + alpha (clean - ablated). */
typedef struct eap_point {
    double alpha, weight;
} eap_point;

/* X(rule, name) of the nodes k = 0 .. m - 1, weights 1/m:
 *   left k/m, right (k + 1)/m, midpoint (k + 1/2)/m; Gauss-Legendre: nodes and weights of its own
 */
#define EAP_RULE_LIST(X)                                                                           \
    X(EAP_LEFT, "left")                                                                            \
    X(EAP_RIGHT, "right")                                                                          \
    X(EAP_MIDPOINT, "midpoint")                                                                    \
    X(EAP_GAUSS_LEGENDRE, "gauss-legendre")

typedef enum eap_rule {
#define EAP_RULE_ENUM(rule, name) rule,
    EAP_RULE_LIST(EAP_RULE_ENUM)
#undef EAP_RULE_ENUM
} eap_rule;

/* The rule of that name, which is one of the list. */
eap_rule ca_eap_rule_find(const char *name);

const char *ca_eap_rule_name(eap_rule rule);

/* The first point with this alpha; -1: none. */
int64_t ca_eap_point_find(const eap_point *points, int64_t count, double alpha);

/* Fills points [count] on [0, 1], rising. */
void ca_eap_points(eap_rule rule, int64_t count, eap_point *points);

#endif
