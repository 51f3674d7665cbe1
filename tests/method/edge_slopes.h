/* SPDX-License-Identifier: MIT
 *
 * Edges the slow way: outputs of all sources from a plain run, and slopes of the loss by finite
 * differences of plain runs.
 */
#ifndef CAUSA_TESTS_EDGE_SLOPES_H
#define CAUSA_TESTS_EDGE_SLOPES_H

#include "eap/ablation.h"
#include "eap_golden.h"

/* Outputs [F, T, D] of all sources on a prompt. */
double *outputs_of(eap_golden *g, const ca_prompt_text *text);
/* What takes their place for pair n, [F, T, D]; means are over the clean prompts of the golden. */
double *ablated_outputs_of(eap_golden *g, int64_t n, eap_ablation_kind ablation);

/* Fails unless every score [F, R] of pair n is the slope of the loss, minus logit_diff, when the
 * input of v moves from the clean one by e (ablated_u - clean_u). On ref. */
void like_slopes(eap_golden *g, int64_t n, eap_ablation_kind ablation, const double *edge);

#endif
