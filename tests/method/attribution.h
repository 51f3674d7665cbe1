/* SPDX-License-Identifier: MIT
 *
 * Edge attribution of a golden model's pairs, as its tests vary it: in groups cut anywhere, with
 * few or many points in a pass, behind prefixes or over whole prompts, whole or token by token.
 *
 * What comes back belongs to the golden's fixture.
 */
#ifndef CAUSA_TESTS_ATTRIBUTION_H
#define CAUSA_TESTS_ATTRIBUTION_H

#include "eap_golden.h"
#include "eap/eap.h"

enum { MOST_PAIRS = 8, MOST_SITES = 7, MOST_POINTS = 128 };

typedef struct attribution {
    eap_golden *g;
    eap_site sites[MOST_SITES]; /* a path each; their scores are added */
    int64_t site_count;
    eap_point points[MOST_POINTS];
    int64_t point_count;
    int64_t at_a_time;           /* points of a pass */
    int64_t cut[MOST_PAIRS + 1]; /* first pair of each group, and the number of pairs */
    int64_t groups;
    int64_t part;               /* pairs of a group that passes take at a time */
    int64_t expanded;           /* rows whose outputs and gradients have D values at a time */
    bool whole;                 /* no prefixes */
    bool keep_ends;             /* both ends' outputs are kept where their difference would do */
    bool by_position;           /* units are tokens */
    eap_ablation_kind ablation; /* other than patching: whole prompts */
    int64_t mean_positions;     /* 1 for mean, the prompts' length for mean-positional */
    bool own_site;              /* a path scores the edges that leave its site alone */
    const char *metric;
    /* filled by attribute() */
    double *edge;              /* [N, F, R], 0 where there is no edge */
    double *node;              /* [N, F] from the gradients at the sources' outputs */
    double *before_difference; /* [N] largest |score| of tokens equal in both prompts */
    double *clean, *corrupted; /* [N] metric of the ends */
} attribution;

/* One path of the embeddings with the points of a rule, everything at once, logit_diff. */
attribution attribution_of(eap_golden *g, eap_rule rule, int64_t points);
/* The clean run alone. */
attribution attribution_at_clean(eap_golden *g);
/* One group per batch of the reference. */
void cut_as_reference(attribution *a);
void attribute(attribution *a);

/* [F, R] mean over pairs; as_peer: divided by the size of the reference's batch first. */
double *mean_scores(const attribution *a, bool as_peer);

/* Calls the test with every golden model on every backend that opens here. */
void on_every_golden(void (*test)(eap_golden *g));

#endif
