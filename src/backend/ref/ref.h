/* SPDX-License-Identifier: MIT
 *
 * Shared by the files of the reference backend: storage seen as rows of doubles, scratch memory,
 * the attention row, and the operations that table.c lists.
 *
 * Every operation loads rows into doubles, computes, and rounds once when it stores. Arguments
 * have been checked by ops.c.
 */
#ifndef CA_BACKEND_REF_H
#define CA_BACKEND_REF_H

#include "causa/backend.h"

/* ---- storage: a tensor as rows (all axes but the last) of `width` values */

int64_t ca_ref_rows(const ca_tensor *t);
int64_t ca_ref_width(const ca_tensor *t);
void ca_ref_load(const ca_tensor *t, int64_t row, double *values /* [width] */);
void ca_ref_store(const ca_tensor *t, int64_t row, const double *values);
/* The first element of a row, for copies that keep the dtype. */
void *ca_ref_row(const ca_tensor *t, int64_t row);
/* One element, counted in row-major order of the shape. */
double ca_ref_get(const ca_tensor *t, int64_t element);
void ca_ref_set(const ca_tensor *t, int64_t element, double value);
/* Rounds to bf16, to nearest even. */
void ca_ref_round_bf16(double *values, int64_t count);
/* Element i of an i32 or i64 vector. */
int64_t ca_ref_index(const ca_tensor *t, int64_t i);

/* `count` zeroed doubles, freed with free(). */
ca_status ca_ref_scratch(int64_t count, double **out) CA_MUST_USE;
double ca_ref_dot(const double *a, const double *b, int64_t n);
/* log sum exp of n >= 1 values. */
double ca_ref_log_sum_exp(const double *x, int64_t n);

/* ---- attention: one sequence and one key/value head at a time */

/* Key j of a row at position i is visible for first <= j <= i. */
typedef struct ca_ref_sequence {
    int64_t row, own;           /* first packed row, number of rows */
    int64_t prefix_row, prefix; /* the same in the prefix tensors */
    int64_t keys;               /* prefix + own */
} ca_ref_sequence;

/* Doubles for one sequence and head; everything is [max_keys, Dh], [Dh] or [max_keys]. */
typedef struct ca_ref_attention {
    ca_attention a;
    double *k, *v, *dk, *dv; /* [max_keys, Dh] */
    double *q, *o, *dq;      /* [Dh] */
    double *score, *p, *dp;  /* [max_keys] */
    double *memory;          /* owns the above */
} ca_ref_attention;

ca_status ca_ref_attention_open(const ca_sequences *sequences, ca_attention attention,
                                ca_ref_attention *out) CA_MUST_USE;
void ca_ref_attention_close(ca_ref_attention *w);
ca_ref_sequence ca_ref_sequence_at(const ca_sequences *sequences, int64_t s);
/* Keys or values of one head, the prefix first, as [keys, Dh]. */
void ca_ref_load_keys(double *out, const ca_tensor *prefix, const ca_tensor *own,
                      ca_ref_sequence sequence, int64_t kv_head);
/* Stores the own rows of a [keys, Dh] gradient as head `head` of lane r of out. */
void ca_ref_store_keys(const ca_tensor *out, int64_t r, int64_t head, ca_ref_sequence sequence,
                       const double *gradient);
int64_t ca_ref_first_key(ca_attention attention, int64_t i);
/* Where the row of query t (0 = first own row) and head h begins in the flat pattern. */
int64_t ca_ref_pattern_row(const ca_sequences *sequences, int64_t s, int64_t heads, int64_t h,
                           int64_t t);
/* score[first..i] of the query row w->q. */
void ca_ref_scores(ca_ref_attention *w, int64_t first, int64_t i);
/* p[first..i] from score[first..i]; returns the log of the sum of exp(score). */
double ca_ref_softmax(ca_ref_attention *w, int64_t first, int64_t i);
/* dp (gradient at the probabilities) becomes the gradient at q . k; adds to w->dk, sets w->dq. */
void ca_ref_score_bwd(ca_ref_attention *w, int64_t first, int64_t i);

/* ---- operations */

ca_status ca_ref_alloc(ca_backend *be, size_t bytes, void **out);
void ca_ref_release(ca_backend *be, void *data);
ca_status ca_ref_upload(ca_backend *be, ca_tensor dst, const void *host);
ca_status ca_ref_download(ca_backend *be, void *host, ca_tensor src);
ca_status ca_ref_copy(ca_backend *be, ca_tensor dst, ca_tensor src);
ca_status ca_ref_fill(ca_backend *be, ca_tensor dst, double value);
ca_status ca_ref_sync(ca_backend *be);
ca_status ca_ref_memory_info(ca_backend *be, size_t *available, size_t *total);

ca_status ca_ref_matmul(ca_backend *be, ca_tensor c, ca_tensor a, ca_tensor b, ca_tensor bias,
                        ca_matmul_options options);

ca_status ca_ref_gather(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor index, double scale,
                        bool accumulate);
ca_status ca_ref_scatter_add(ca_backend *be, ca_tensor y, ca_tensor index, ca_tensor x);
ca_status ca_ref_add_scaled_rows(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor scale,
                                 double alpha);
ca_status ca_ref_multiply(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w);
ca_status ca_ref_add(ca_backend *be, ca_tensor y, ca_tensor x, double alpha);
ca_status ca_ref_sum_heads(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor bias);

ca_status ca_ref_norm_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor gain, ca_tensor bias,
                          ca_norm norm);
ca_status ca_ref_norm_bwd(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor x, ca_tensor gain,
                          ca_norm norm, bool accumulate);
ca_status ca_ref_norm_stats(ca_backend *be, ca_tensor xhat, ca_tensor inverse, ca_tensor x,
                            ca_norm norm);

ca_status ca_ref_rope(ca_backend *be, ca_tensor x, ca_tensor cosine, ca_tensor sine,
                      ca_tensor positions, bool inverse);
ca_status ca_ref_attention_fwd(ca_backend *be, ca_tensor o, ca_tensor lse, ca_tensor q, ca_tensor k,
                               ca_tensor v, ca_tensor prefix_k, ca_tensor prefix_v,
                               const ca_sequences *sequences, ca_attention attention);
ca_status ca_ref_attention_bwd(ca_backend *be, ca_tensor dq, ca_tensor dk, ca_tensor dv,
                               ca_tensor d_o, ca_tensor o, ca_tensor lse, ca_tensor q, ca_tensor k,
                               ca_tensor v, ca_tensor prefix_k, ca_tensor prefix_v,
                               const ca_sequences *sequences, ca_attention attention);
ca_status ca_ref_pattern_fwd(ca_backend *be, ca_tensor pattern, ca_tensor q, ca_tensor k,
                             ca_tensor prefix_k, const ca_sequences *sequences,
                             ca_attention attention);
ca_status ca_ref_pattern_bwd(ca_backend *be, ca_tensor dq, ca_tensor dk, ca_tensor d_pattern,
                             ca_tensor pattern, ca_tensor q, ca_tensor k, ca_tensor prefix_k,
                             const ca_sequences *sequences, ca_attention attention);
ca_status ca_ref_pattern_apply_fwd(ca_backend *be, ca_tensor o, ca_tensor pattern, ca_tensor v,
                                   ca_tensor prefix_v, const ca_sequences *sequences,
                                   ca_attention attention);
ca_status ca_ref_pattern_apply_bwd(ca_backend *be, ca_tensor d_pattern, ca_tensor dv, ca_tensor d_o,
                                   ca_tensor pattern, ca_tensor v, ca_tensor prefix_v,
                                   const ca_sequences *sequences, ca_attention attention);

ca_status ca_ref_mix_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor source,
                         ca_tensor mask);
ca_status ca_ref_mix_bwd(ca_backend *be, ca_tensor d_x, ca_tensor d_source, ca_tensor d_mask,
                         ca_tensor dy, ca_tensor x, ca_tensor source, ca_tensor mask,
                         bool accumulate);
ca_status ca_ref_pattern_mix_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor source,
                                 ca_tensor mask, const ca_sequences *sequences,
                                 ca_attention attention);
ca_status ca_ref_pattern_mix_bwd(ca_backend *be, ca_tensor d_x, ca_tensor d_source,
                                 ca_tensor d_mask, ca_tensor dy, ca_tensor x, ca_tensor source,
                                 ca_tensor mask, const ca_sequences *sequences,
                                 ca_attention attention, bool accumulate);

ca_status ca_ref_act_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_activation kind, bool gated);
ca_status ca_ref_act_bwd(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor x,
                         ca_activation kind, bool gated);

ca_status ca_ref_soft_cap_fwd(ca_backend *be, ca_tensor y, ca_tensor x, double cap);
ca_status ca_ref_soft_cap_bwd(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor y, double cap);
ca_status ca_ref_log_sum_exp_rows(ca_backend *be, ca_tensor y, ca_tensor x);
ca_status ca_ref_softmax_rows(ca_backend *be, ca_tensor y, ca_tensor x);
ca_status ca_ref_top_k(ca_backend *be, ca_tensor values, ca_tensor indices, ca_tensor x);
ca_status ca_ref_cross_entropy_fwd(ca_backend *be, ca_tensor loss, ca_tensor x, ca_tensor target);
ca_status ca_ref_cross_entropy_bwd(ca_backend *be, ca_tensor dx, ca_tensor x, ca_tensor target,
                                   ca_tensor scale);

ca_status ca_ref_row_norms(ca_backend *be, ca_tensor y, ca_tensor x);
ca_status ca_ref_row_dots(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w);
ca_status ca_ref_row_distances(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w);
ca_status ca_ref_column_sums(ca_backend *be, ca_tensor y, ca_tensor x);

ca_status ca_ref_adam_step(ca_backend *be, ca_tensor parameter, ca_tensor first, ca_tensor second,
                           ca_tensor gradient, ca_adam adam);

#endif
