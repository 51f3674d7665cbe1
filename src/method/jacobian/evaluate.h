/* SPDX-License-Identifier: MIT
 *
 * Evaluation of the scores, private to src/method/jacobian: how the prediction changes when tokens
 * are ablated, the best-scored ones (AOPC) or each alone (leave-one-out).
 *
 * The *candidates* of a prompt are its tokens up to the position read, a BOS at its start excluded.
 * An ablated run of a prompt differs from the clean run only from its first ablated token on; it is
 * one sequence of a second, forward-only pass whose prefix is the clean run's rows before it. Many
 * runs are packed into one batch, in the order of their prompts.
 */
#ifndef CAUSA_JACOBIAN_EVALUATE_H
#define CAUSA_JACOBIAN_EVALUATE_H

#include "jacobian.h"
#include "statistics.h"

typedef enum jacobian_ablation {
    ABLATE_ZERO,  /* the token's embedding is zero */
    ABLATE_PAD,   /* another token stands in its place */
    ABLATE_MEAN,  /* its embedding is the mean over the vocabulary */
    ABLATE_DELETE /* it is left out and the positions close up */
} jacobian_ablation;

/* Takes what an ablated run gives. index: as given to ca_jacobian_ablate; log_p [V]. */
typedef void (*jacobian_ablated)(jacobian *j, int64_t example, int64_t index, const double *log_p);

typedef struct jacobian_evaluation {
    int64_t fractions; /* 0: no AOPC */
    double *fraction;  /* [fractions] rising */
    jacobian_ablation ablation;
    int32_t pad;
    bool loo;
    int64_t longest;   /* rows of a prompt */
    int64_t most_sets; /* tokens in the sets of all fractions of a prompt */
    /* the second pass */
    int64_t rows, most_runs; /* of a batch */
    ca_batch *batch;
    ca_pass *pass;
    ca_hook hook; /* rewrites embeddings */
    method_buffers buffers;
    ca_tensor index, edited_rows, ones, mean;
    int64_t *index_host; /* [rows] packed rows whose embedding is rewritten */
    int64_t edited;
    struct {
        int64_t example, index;
    } * run;         /* [most_runs] of the batch */
    int32_t *ids;    /* [longest] */
    int64_t *tokens; /* [longest] */
    jacobian_ablation kind;
    jacobian_ablated take;
    /* log-probabilities on the host */
    void *staging;       /* [V] of the pass's type */
    double *clean;       /* [V] log-probabilities of the clean run of clean_example */
    double *probability; /* [V] exp of these */
    double *ablated;     /* [V] */
    int64_t clean_example;
    int32_t predicted; /* argmax of `clean` */
    /* results of the micro-batch */
    /* AOPC: [columns + 1, examples, fractions], the last column is random */
    double *delta;         /* change of log p(predicted) */
    double *divergence;    /* KL(clean || ablated) */
    bool *flipped;         /* another token is the most probable */
    int32_t *set;          /* [most_sets] */
    double *kl;            /* LOO: [most_scores] */
    double *score;         /* [longest] of one scope */
    ranked_value *ranking; /* [longest] */
    double *ranks;         /* [2 longest] */
} jacobian_evaluation;

/* Candidates of an example: tokens [*first, *first + *count). Returns how many tokens fractions and
 * percentiles are of: the candidates and, when the prompt holds the target, its slot. */
int64_t ca_jacobian_candidates(const jacobian *j, const ca_job *job, int64_t example,
                               int64_t *first, int64_t *count);

/* ablate.c */

/* The following runs are ablated so, and given to `take`. */
void ca_jacobian_ablate_begin(jacobian *j, jacobian_ablation kind, jacobian_ablated take);
/* Adds the run of an example with tokens [count] (rising, at least one) ablated. */
ca_status ca_jacobian_ablate(jacobian *j, int64_t example, const int64_t *tokens, int64_t count,
                             int64_t index) CA_MUST_USE;
/* Runs what has been added. */
ca_status ca_jacobian_ablate_end(jacobian *j) CA_MUST_USE;
/* The hook's context is j. */
ca_status ca_jacobian_ablate_embeddings(void *context, const ca_hook_call *call,
                                        ca_tensor value) CA_MUST_USE;
/* sum P (log P - log Q), P the clean distribution of the run being taken. */
double ca_jacobian_divergence(const jacobian *j, const double *log_q);

/* aopc.c */

/* Tokens ablated for a fraction of an example. */
int64_t ca_jacobian_ablated_count(const jacobian *j, const ca_job *job, int64_t example,
                                  int64_t fraction);
ca_status ca_jacobian_aopc_reserve(jacobian *j) CA_MUST_USE;
ca_status ca_jacobian_aopc(jacobian *j) CA_MUST_USE;
ca_status ca_jacobian_aopc_summary(jacobian *j) CA_MUST_USE;

/* whole_words.c: AOPC by whether the target begins a word; only with a tokenizer. */
ca_status ca_jacobian_whole_words_summary(jacobian *j) CA_MUST_USE;
ca_status ca_jacobian_whole_words_answer(const jacobian *j, ca_job *job,
                                         ca_string *text) CA_MUST_USE;

/* loo.c */
ca_status ca_jacobian_loo_reserve(jacobian *j) CA_MUST_USE;
ca_status ca_jacobian_loo(jacobian *j) CA_MUST_USE;
ca_status ca_jacobian_loo_summary(jacobian *j) CA_MUST_USE;

#endif
