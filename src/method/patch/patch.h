/* SPDX-License-Identifier: MIT
 *
 * Activation patching, private to src/method/patch.
 *
 * Every prompt has one clean run and `draws` corrupted ones: the other prompt of the pair (swap,
 * one draw), or the clean prompt with noise on its subject's embeddings (restore). A cell writes
 * states of one run into the other at one column (a site, or a head of it, over a window of layers)
 * and one slot (a set of tokens).
 */
#ifndef CAUSA_METHOD_PATCH_H
#define CAUSA_METHOD_PATCH_H

#include "causa/metric.h"
#include "causa/position.h"

#include "common.h"
#include "engine.h"
#include "interval.h"
#include "scorer.h"

typedef struct patch_column {
    ca_site site; /* as the config names it */
    int64_t place;
} patch_column;

/* Tokens [from, to) that a cell patches, or of these those with tokens[t]; from == to: nothing to
 * run, the target stays as it is; from < 0: no such token in the prompt. */
typedef struct patch_span {
    int64_t from, to;
    const bool *tokens; /* [tokens of the prompt]; NULL: all */
} patch_span;

/* Noise on the subject's embeddings of corrupted runs. */
typedef struct patch_noise {
    double sigma; /* standard deviation, in units of the embeddings */
    method_buffers buffers;
    ca_tensor rows;  /* [noised rows, D] */
    ca_tensor index; /* [noised rows] i64, rows of the batch, rising */
    int64_t count, most;
    double *row_host; /* [noised rows, D] */
    void *staging;    /* [noised rows, D] as the backend stores them */
    int64_t *index_host;
} patch_noise;

typedef struct patch_state {
    bool restore; /* style */
    bool denoise; /* direction: clean states into the corrupted run */
    int64_t draws;
    ca_metric metric;
    patch_column *columns; /* [column_count], those of one place next to each other */
    int64_t column_count;
    patch_place *places;
    int64_t place_count;
    ca_position_kind positions;
    int64_t slots;
    int64_t *slot_position; /* [slots] as named, the first of several; -1 the last, 0 for named sets
                               of tokens */
    ca_string *slot_name;   /* [slots] as configs write them */
    patch_span *spans;      /* [N, slots] of the prompts; what follows them is never patched */
    bool *chosen;           /* [N, slots, longest prompt] of cells with gaps; else NULL */
    int *role;              /* [N, slots] of positions: all, -1 beyond a prompt; else NULL */
    bool by_role;           /* the prompts' roles stand at different places */
    ca_packing packing;     /* examples in groups that share a first pass */
    patch_sizes sizes;
    /* while running */
    ca_job *job;
    patch_engine *engine;
    patch_noise noise;
    struct patch_group *group;
} patch_state;

/* columns.c: the sites, the positions, and the tokens of every cell. Errors name the place of the
 * config or the row of the data. */
ca_status ca_patch_read_columns(const ca_job *job, patch_state *p) CA_MUST_USE;
ca_status ca_patch_read_slots(const ca_job *job, patch_state *p) CA_MUST_USE;

/* roles.c: what tokens are to the change of their prompt. */
enum { PATCH_ROLES = 7 };
const char *const *ca_patch_role_names(const patch_state *p); /* [PATCH_ROLES] */
/* Sets p->role and p->by_role; after the slots. */
ca_status ca_patch_align(const ca_job *job, patch_state *p) CA_MUST_USE;
/* Prompts that have a token of each role. */
void ca_patch_count_roles(const patch_state *p, int64_t examples, int64_t count[PATCH_ROLES]);
/* Values [examples, columns, slots] of positions: all to means over the tokens of a role
 * [examples, columns, PATCH_ROLES]; NaN where a prompt has no such token. */
void ca_patch_group_by_role(const patch_state *p, int64_t examples, const double *at_tokens,
                            double *by_role);

/* plan.c: groups and sizes that fit the memory. */
ca_status ca_patch_plan(const ca_job *job, patch_state *p, ca_plan *plan) CA_MUST_USE;

/* noise.c. Bytes of backend memory for `rows` noised rows. */
int64_t ca_patch_noise_bytes(const ca_arch *arch, ca_dtype dtype, int64_t rows);
ca_status ca_patch_noise_create(const ca_job *job, patch_noise *noise, int64_t rows) CA_MUST_USE;
void ca_patch_noise_free(patch_noise *noise);
/* Draws the noise of a prompt's subject for a sequence that begins at row `start` of the batch.
 * What is drawn depends on seed, tokens of the prompt, draw, position and dimension alone. */
void ca_patch_noise_add(patch_noise *noise, const ca_job *job, const ca_example *example,
                        int64_t draw, int64_t start);
/* Sends what was added to the backend; the hook adds it to the embeddings. */
ca_status ca_patch_noise_upload(patch_noise *noise, ca_backend *backend, ca_hook *hook) CA_MUST_USE;

/* group.c: runs all cells of examples [first, last) and writes their part of the result. A signal
 * leaves the cells done so far in the result, from where a resumed run takes them. */
ca_status ca_patch_group_create(patch_state *p) CA_MUST_USE;
void ca_patch_group_free(struct patch_group *group);
int64_t ca_patch_group_host_bytes(const ca_job *job, const patch_state *p);
ca_status ca_patch_group_run(void *state, int64_t first, int64_t last) CA_MUST_USE;

/* output.c: the datasets before the first group and the means after the last one; the strongest
 * cells for the terminal. */
ca_status ca_patch_reserve(ca_job *job, const patch_state *p) CA_MUST_USE;
ca_status ca_patch_summarise(ca_job *job, const patch_state *p) CA_MUST_USE;
ca_status ca_patch_answer(ca_job *job, void *state, ca_string *text) CA_MUST_USE;

#endif
