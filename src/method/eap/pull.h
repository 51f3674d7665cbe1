/* SPDX-License-Identifier: MIT
 *
 * The hooks that sum the gradients of a pass over its points. See gradients.h.
 */
#ifndef CAUSA_METHOD_EAP_PULL_H
#define CAUSA_METHOD_EAP_PULL_H

#include "gradients.h"

enum { EAP_PULL_HOOKS = 12 };
/* Fills the hooks that g->wants asks for and says how many. */
int64_t ca_eap_pull_hooks(eap_gradients *g, ca_hook hooks[EAP_PULL_HOOKS]);
/* Clears the sums, before a backward. */
ca_status ca_eap_pull_begin(eap_gradients *g) CA_MUST_USE;

#endif
