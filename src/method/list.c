/* SPDX-License-Identifier: MIT
 *
 * The methods: one row here, one folder beside.
 */
#include "causa/method.h"

#include <string.h>

extern const ca_method ca_method_capture, ca_method_eap, ca_method_jacobian, ca_method_patch;

static const ca_method *const methods[] = {&ca_method_capture, &ca_method_eap, &ca_method_jacobian,
                                           &ca_method_patch, NULL};

const ca_method *const *ca_methods(void) { return methods; }

const ca_method *ca_method_find(const char *kind) {
    for (const ca_method *const *m = methods; *m; m++)
        if (strcmp((*m)->kind, kind) == 0) return *m;
    return NULL;
}
