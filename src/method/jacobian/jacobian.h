/* SPDX-License-Identifier: MIT
 *
 * Jacobian Scopes, private to src/method/jacobian.
 *
 * For a prompt with tokens t_0 .. t_{T-1}, x_t the leaf of token t (its embedding, or the residual
 * stream that enters a later block) and y_p the output of the final norm at a position p, every
 * scope chooses row vectors v and scores a token by the size of J_t^T v, J_t = d y_p / d x_t.
 *
 * Vocabulary of this folder: a *read* is a (prompt, position) pair whose prediction is explained;
 * the s-th read of a prompt is its *slot* s. A *lane* is one vector of one scope for one slot: it
 * serves that slot of all prompts of a micro-batch at once. The lanes of all scopes and slots share
 * one forward and go through the backward in tiles. The reads of a *span* are explained by their
 * sum: they are one slot, whose lanes hold the vectors of all of them.
 *
 * Source: "Jacobian Scopes", arXiv 2601.16407.
 */
#ifndef CAUSA_JACOBIAN_H
#define CAUSA_JACOBIAN_H

#include "causa/method.h"
#include "common.h"
#include "fisher.h"
#include "hutchinson.h"

/* What is explained at a read: the logit of `id`, or logit(id) - logit(other). */
typedef struct jacobian_read {
    int64_t position; /* token whose prediction is read */
    int32_t id;       /* -1: the argmax, known after the forward */
    int32_t other;    /* -1: none */
} jacobian_read;

/* Reads of all prompts, end to end. */
typedef struct jacobian_reads {
    jacobian_read *read;
    int64_t *start; /* [N + 1] */
    int64_t most;   /* reads of one prompt */
    bool span;      /* the reads of a prompt are explained together */
    bool contrast;  /* every read has an `other` */
} jacobian_reads;

/* Words of all prompts, end to end; offsets == NULL without a tokenizer. */
typedef struct jacobian_words {
    const char *rule; /* sum, max or mean */
    bool asked;       /* by the config: matrices are merged too */
    int64_t *offsets; /* [words + 1] first token of each, of the tokens of all prompts */
    int64_t *first;   /* [N + 1] first word of each prompt */
    bool *series;     /* [N] the prompt is a series of numbers */
    /* rows of merged matrices, of all prompts; NULL without */
    int64_t *row;        /* [reads] row of each */
    int64_t *row_word;   /* [rows] the word explained; -1 behind the prompt */
    int64_t *row_start;  /* [N + 1] first row of each prompt */
    int64_t *cell_start; /* [N + 1] first cell [rows, words] of each prompt */
} jacobian_words;

/* target.c. Errors name the config place or the data row. */
ca_status ca_jacobian_reads(const ca_job *job, jacobian_reads *out) CA_MUST_USE;
void ca_jacobian_reads_free(jacobian_reads *reads);

/* How the gradients g [T, D] of a scope's lanes become a score per token. */
typedef enum jacobian_combine {
    COMBINE_NORM,        /* |g_t| */
    COMBINE_SUM_SQUARES, /* sum over lanes of |g_t|^2 */
    COMBINE_PRODUCT      /* |g_t * x_t|, the norm of the elementwise product */
} jacobian_combine;

/* Function whose gradient is integrated along scaled inputs, for scopes that are (path.c). */
typedef enum jacobian_path { PATH_NONE, PATH_LOGIT, PATH_LOGPROB } jacobian_path;

/* Embeddings at which such paths begin, the same at every token. */
typedef enum jacobian_baseline {
    BASELINE_ZERO,
    BASELINE_MEAN, /* of the vocabulary */
    BASELINE_TOKEN /* that of one token */
} jacobian_baseline;

struct jacobian;

/* A scope of the table in scope.c: one row and one function. */
typedef struct jacobian_scope {
    const char *name;
    const char *target;        /* what is explained, for the attributes of its group */
    const char *compat_target; /* with compat; NULL: the same */
    const char *units;
    jacobian_combine combine;
    bool has_signed; /* also g_t . x_t */
    bool of_target;  /* explains the target, which of a span is a sum */
    jacobian_path path;
    /* Vectors per read. */
    int64_t (*lanes)(const struct jacobian *j);
    /* Writes the vectors of all reads of the micro-batch: vectors [lanes, n, D]. Not for paths. */
    ca_status (*vectors)(struct jacobian *j, ca_tensor vectors);
} jacobian_scope;

/* Warns when the final norm makes the temperature scope meaningless: |y| does not depend on the
 * input with a uniform gain. */
ca_status ca_jacobian_check_gain(const struct jacobian *j) CA_MUST_USE;

/* NULL when unknown. */
const jacobian_scope *ca_jacobian_scope_find(const char *name);

/* One scope of a job. */
typedef struct jacobian_column {
    const jacobian_scope *scope;
    int64_t lanes;      /* per slot */
    int64_t first_lane; /* in `vectors` */
    float *score,
        *signed_score; /* of the micro-batch: blocks [P_i, T_i] end to end; of sums of
                          squares the signed ones hold 1/2 sum over lanes of (g_t . x_t)^2 */
    double *squares;   /* the same: sums over lanes of |g_t|^4; NULL without probes */
    double *change;    /* [n] of paths: f(x) - f(b) of every read; else NULL */
} jacobian_column;

enum { JACOBIAN_MOST_SCOPES = 8, JACOBIAN_TILE = 16, JACOBIAN_ENTROPY = 16 /* reads at a time */ };

typedef struct jacobian {
    jacobian_reads reads;
    jacobian_words words;
    jacobian_column column[JACOBIAN_MOST_SCOPES];
    int64_t columns;
    int64_t lanes;                          /* vectors per slot, over the scopes of one backward */
    int64_t tile;                           /* lanes of one backward */
    int64_t path_tile;                      /* the same of integrated scopes, at most as many */
    int64_t top;                            /* predictions kept */
    int64_t layer;                          /* leaf: the input of this block */
    int64_t rank;                           /* eigenpairs of the Fisher scope */
    int64_t probes;                         /* of its Hutchinson estimator; 0: eigenpairs */
    int64_t steps;                          /* nodes of a path */
    jacobian_baseline baseline;             /* where it begins */
    int32_t baseline_id;                    /* of BASELINE_TOKEN */
    bool compat;                            /* gradients as in the published implementation */
    struct jacobian_evaluation *evaluation; /* NULL when none is asked for */
    struct jacobian_randomisation *randomisation; /* the same */
    int64_t slots;                                /* most slots of one prompt */
    bool gold, matrix;                            /* matrix: several slots per prompt */
    int64_t *score_start; /* [N + 1] first score of each prompt in the flat arrays */
    ca_packing packing;
    int64_t most_reads, most_scores; /* of one micro-batch */
    /* while running */
    bool control; /* the weights are not the model's: only scores are wanted */
    ca_job *job;
    ca_batch *batch;
    ca_pass *pass;
    method_buffers buffers;
    int64_t first, last; /* examples of the micro-batch */
    int64_t n;           /* its reads */
    ca_tensor ids, others, slot_rows, direction, vectors, slot_vectors, cotangents, leaf, product;
    ca_tensor probability;
    ca_tensor path_baseline;           /* [1, D] embedding */
    ca_tensor path_stream, path_point; /* [T, D] baseline and node of a leaf behind block 0 */
    ca_tensor path_sum;                /* [path_tile, T, D] */
    ca_tensor path_vector;             /* [n, D] gradient of the log-probabilities at y */
    ca_hook path_hook;
    double alpha; /* the point of a path of embeddings: 0 = its baseline, 1 = the input */
    ca_tensor norms, dots, values, lse, top_values, top_ids;
    void *staging;                   /* the largest download */
    double *numbers;                 /* the same as float64 */
    jacobian_fisher *fisher;         /* NULL without that scope, or with probes */
    double *eigenvalues;             /* [n, rank] */
    jacobian_hutchinson *hutchinson; /* NULL without probes */
    ca_philox_key *keys;             /* [n] */
    double *residual;                /* [slots of the micro-batch] of one path scope */
    int64_t *row_host;               /* [n] */
    int32_t *id_host;                /* [n] */
} jacobian;

/* Slots of an example, and how many there are before it. */
int64_t ca_jacobian_slots_of(const jacobian *j, int64_t example);
int64_t ca_jacobian_slots_before(const jacobian *j, int64_t example);
/* The read of a micro-batch that is slot s of example i, or -1. */
int64_t ca_jacobian_read_of(const jacobian *j, int64_t example, int64_t slot);

/* lanes.c: backwards over the last forward; fills the score arrays of the columns. */
ca_status ca_jacobian_lanes(jacobian *j) CA_MUST_USE;

/* Values of the leaf for the last forward, to be set before any reduction. */
ca_status ca_jacobian_set_leaf(jacobian *j) CA_MUST_USE;
/* cotangent [n, D] of a lane: its vector [n, D] at the reads of its slot, zero at the others. */
ca_status ca_jacobian_slot_cotangent(jacobian *j, int64_t slot, ca_tensor vector,
                                     ca_tensor cotangent) CA_MUST_USE;
/* Adds what a gradient [T, D] of a column gives to the scores of a slot. */
ca_status ca_jacobian_reduce(jacobian *j, int64_t column, int64_t slot,
                             ca_tensor gradient) CA_MUST_USE;

/* ablate.c: mean [1, D] = the mean embedding of the vocabulary. ones [1, V]: room */
ca_status ca_jacobian_mean_embedding(const ca_model *model, ca_tensor ones,
                                     ca_tensor mean) CA_MUST_USE;

/* path.c: where paths begin. Errors name the config place. */
ca_status ca_jacobian_read_baseline(const ca_job *job, jacobian *j) CA_MUST_USE;
/* Sets j->path_baseline, once the model is there. */
ca_status ca_jacobian_set_baseline(jacobian *j) CA_MUST_USE;
/* The scopes that are integrated; fills their scores and writes their residuals. On entry the pass
 * has the forward of the prompts, and the leaf its values; both are other ones afterwards. */
ca_status ca_jacobian_paths(jacobian *j) CA_MUST_USE;
/* How many they are. */
int64_t ca_jacobian_paths_of_slot(const jacobian *j);
/* The hook that paths of embeddings run with; the point is that of j->alpha when it is called. */
ca_hook ca_jacobian_path_hook(jacobian *j);

/* predict.c: top tokens, argmax targets, directions and values of the reads, written to the file.
 */
ca_status ca_jacobian_predict(jacobian *j) CA_MUST_USE;
/* direction [n, D] = d log p / d y of the targets at the last forward, sum_i p_i (w - w_i) for a
 * target's row w of the unembedding: not w less the mean row, of which nothing is left where the
 * target has nearly all probability. Of a contrast that of the logits. */
ca_status ca_jacobian_log_probability_direction(jacobian *j, ca_tensor direction) CA_MUST_USE;

/* output.c: the datasets of the method. */

/* ca_result_write, but for a control. */
ca_status ca_jacobian_write(jacobian *j, const char *dataset, int64_t first, int64_t count,
                            const void *data) CA_MUST_USE;
ca_status ca_jacobian_reserve(jacobian *j) CA_MUST_USE;
ca_status ca_jacobian_write_scores(jacobian *j) CA_MUST_USE;
/* Completeness residuals f(x) - f(b) - sum of signed scores of a path, of the `count` slots of the
 * micro-batch. */
ca_status ca_jacobian_write_residual(jacobian *j, int64_t column, int64_t count) CA_MUST_USE;
ca_status ca_jacobian_write_summary(jacobian *j) CA_MUST_USE;

/* words.c: scores of words, beside those of tokens. */

/* Takes the rule from the config: one that is asked for without a tokenizer is an error. */
ca_status ca_jacobian_words_prepare(const ca_job *job, jacobian_words *out) CA_MUST_USE;
ca_status ca_jacobian_find_words(const ca_job *job, jacobian_words *out) CA_MUST_USE;
void ca_jacobian_words_free(jacobian_words *words);
/* Whether a token is spelt with white space in front, as one that begins a word. */
ca_status ca_jacobian_begins_with_space(const ca_job *job, int32_t id, bool *begins) CA_MUST_USE;
ca_status ca_jacobian_words_reserve(jacobian *j) CA_MUST_USE;
ca_status ca_jacobian_write_words(jacobian *j) CA_MUST_USE;
/* One score of several; max: the one of the largest magnitude, with its sign. */
float ca_jacobian_aggregate(const char *rule, const float *score, int64_t count);

/* numbers.c: whether a prompt is a series of numbers; then where its words begin, begins [tokens],
 * which else is left alone. */
ca_status ca_jacobian_find_numbers(const ca_job *job, const ca_prompt_text *prompt, bool *begins,
                                   bool *series) CA_MUST_USE;

/* word_matrix.c: the same for matrices, where it is asked for. */
ca_status ca_jacobian_find_word_rows(jacobian *j, const ca_job *job) CA_MUST_USE;
ca_status ca_jacobian_word_matrix_reserve(jacobian *j) CA_MUST_USE;
ca_status ca_jacobian_write_word_matrix(jacobian *j) CA_MUST_USE;

/* evaluate.c: what happens to the prediction without the tokens that the scopes score highest. */
ca_status ca_jacobian_evaluation_prepare(const ca_job *job, jacobian *j) CA_MUST_USE;
/* Backend memory of it; sets its sizes from the packing. */
int64_t ca_jacobian_evaluation_bytes(jacobian *j, const ca_job *job);
void ca_jacobian_evaluation_plan(jacobian *j, const ca_job *job, ca_plan *plan);
ca_status ca_jacobian_evaluation_create(jacobian *j) CA_MUST_USE;
void ca_jacobian_evaluation_free(struct jacobian_evaluation *evaluation);
ca_status ca_jacobian_evaluation_reserve(jacobian *j) CA_MUST_USE;
/* For the last micro-batch, whose forward and scores are still there. */
ca_status ca_jacobian_evaluate(jacobian *j) CA_MUST_USE;
ca_status ca_jacobian_evaluation_summary(jacobian *j) CA_MUST_USE;
/* For the terminal. */
ca_status ca_jacobian_evaluation_answer(const jacobian *j, ca_job *job,
                                        ca_string *text) CA_MUST_USE;

/* answer.c: per prompt the prediction and the tokens that moved it most, for the terminal. */
ca_status ca_jacobian_answer(ca_job *job, void *state, ca_string *text) CA_MUST_USE;

#endif
