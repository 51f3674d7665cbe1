/* SPDX-License-Identifier: MIT
 *
 * Do the scores depend on what the model has learned? They are computed again with blocks of random
 * weights, from the top down, and compared with those of the model. Private to src/method/jacobian.
 * Source: Adebayo et al. 2018, "Sanity Checks for Saliency Maps", arXiv 1810.03292.
 */
#ifndef CAUSA_JACOBIAN_RANDOMISE_H
#define CAUSA_JACOBIAN_RANDOMISE_H

#include "jacobian.h"

/* Scores of one micro-batch; nothing is written while j->control is set. */
typedef ca_status (*jacobian_rerun)(void *jacobian, int64_t first, int64_t last);

ca_status ca_jacobian_randomise_prepare(const ca_job *job, jacobian *j) CA_MUST_USE;
/* How often all scores are computed: 1 without it. */
int64_t ca_jacobian_randomise_runs(const jacobian *j);
/* Backend memory of the random blocks. */
int64_t ca_jacobian_randomise_bytes(const jacobian *j, const ca_job *job);
/* Gives the model that the pass is to be made for: the job's, or a copy of it whose blocks can be
 * exchanged later and which shares its weights until then. */
ca_status ca_jacobian_randomise_create(jacobian *j, const ca_model **model) CA_MUST_USE;
void ca_jacobian_randomise_free(struct jacobian_randomisation *r);
/* All of it, once the scores of all prompts are in the result. */
ca_status ca_jacobian_randomise(jacobian *j, jacobian_rerun rerun) CA_MUST_USE;

#endif
