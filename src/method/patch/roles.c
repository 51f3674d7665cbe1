/* SPDX-License-Identifier: MIT
 *
 * What a token is to the change that is made to its prompt: a part of it (the subject that gets
 * noise, the tokens in which the prompts of a pair differ), before it, behind it, or the last
 * token. Prompts of different length come together by these roles, not by token numbers.
 * Source: Meng et al. 2022, "Locating and Editing Factual Associations in GPT", figure 2.
 */
#include "patch.h"

#include <math.h>

static const char *const of_subject[PATCH_ROLES] = {
    "before the subject", "first subject token", "middle subject tokens",
    "last subject token", "first token after",   "further tokens",
    "last token",
};
static const char *const of_difference[PATCH_ROLES] = {
    "before the first difference",
    "first differing token",
    "other differing tokens",
    "tokens between",
    "first token after",
    "further tokens",
    "last token",
};

const char *const *ca_patch_role_names(const patch_state *p) {
    return p->restore ? of_subject : of_difference;
}

/* The end of the changed tokens. */
static int64_t end_of_change(const patch_state *p, const ca_example *e) {
    int64_t end = e->clean.count;
    if (p->restore) return e->subject_last;
    while (e->clean.ids[end - 1] == e->corrupted.ids[end - 1]) end--;
    return end;
}

static int role_in_change(const patch_state *p, const ca_example *e, int64_t t, int64_t end) {
    if (p->restore) return t == end - 1 ? 3 : t == e->subject_first ? 1 : 2;
    if (t == e->first_difference) return 1;
    return e->clean.ids[t] != e->corrupted.ids[t] ? 2 : 3;
}

/* role [tokens of the prompt] */
static void set_roles(const patch_state *p, const ca_example *e, int *role) {
    int64_t length = e->clean.count, end = end_of_change(p, e);
    int64_t first = p->restore ? e->subject_first : e->first_difference;
    for (int64_t t = 0; t < length; t++)
        role[t] = t < first         ? 0
                  : t < end         ? role_in_change(p, e, t, end)
                  : t == length - 1 ? 6
                  : t == end        ? 4
                                    : 5;
}

ca_status ca_patch_align(const ca_job *job, patch_state *p) {
    ca_status st = CA_OK;
    int64_t all = job->data->count * p->slots;
    if (p->positions != CA_POSITION_ALL) return CA_OK;
    CA_TRY(ca_calloc((size_t)all + 1, sizeof *p->role, &p->role));
    for (int64_t k = 0; k < all; k++) p->role[k] = -1;
    for (int64_t i = 0; i < job->data->count; i++)
        set_roles(p, &job->data->examples[i], p->role + i * p->slots);
    for (int64_t k = p->slots; k < all; k++)
        p->by_role = p->by_role || p->role[k] != p->role[k - p->slots];
out:
    return st;
}

void ca_patch_count_roles(const patch_state *p, int64_t examples, int64_t count[PATCH_ROLES]) {
    for (int r = 0; r < PATCH_ROLES; r++) count[r] = 0;
    for (int64_t i = 0; i < examples; i++) {
        bool has[PATCH_ROLES] = {false};
        for (int64_t s = 0; s < p->slots; s++)
            if (p->role[i * p->slots + s] >= 0) has[p->role[i * p->slots + s]] = true;
        for (int r = 0; r < PATCH_ROLES; r++) count[r] += has[r];
    }
}

/* Means over the tokens of each role, of one example and column. NaN: it has no such token. */
static void mean_by_role(const int *role, const double *at_tokens, int64_t slots, double *by_role) {
    int64_t count[PATCH_ROLES] = {0};
    double sum[PATCH_ROLES] = {0};
    for (int64_t s = 0; s < slots; s++) {
        if (role[s] < 0) continue;
        sum[role[s]] += at_tokens[s];
        count[role[s]]++;
    }
    for (int r = 0; r < PATCH_ROLES; r++) by_role[r] = count[r] ? sum[r] / (double)count[r] : NAN;
}

void ca_patch_group_by_role(const patch_state *p, int64_t examples, const double *at_tokens,
                            double *by_role) {
    for (int64_t i = 0; i < examples; i++)
        for (int64_t c = 0; c < p->column_count; c++)
            mean_by_role(p->role + i * p->slots, at_tokens + (i * p->column_count + c) * p->slots,
                         p->slots, by_role + (i * p->column_count + c) * PATCH_ROLES);
}
