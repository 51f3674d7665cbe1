/* SPDX-License-Identifier: MIT
 *
 * Attention of the reference backend in two steps with the probabilities in between. Invisible
 * keys have probability 0 and gradient 0, and are never read.
 */
#include "ref.h"

#include <string.h>

int64_t ca_ref_pattern_row(const ca_sequences *sequences, int64_t s, int64_t heads, int64_t h,
                           int64_t t) {
    ca_ref_sequence sequence = ca_ref_sequence_at(sequences, s);
    return heads * sequences->pattern_start[s] + (h * sequence.own + t) * sequence.keys;
}

/* The visible part of a pattern row, and its way back with zeros in the invisible part. */
static void load_visible(const ca_tensor *pattern, int64_t at, int64_t first, int64_t i,
                         double *p) {
    for (int64_t j = first; j <= i; j++) p[j] = ca_ref_get(pattern, at + j);
}

static void store_visible(const ca_tensor *pattern, int64_t at, int64_t first, int64_t i,
                          int64_t keys, const double *p) {
    for (int64_t j = 0; j < keys; j++) ca_ref_set(pattern, at + j, j >= first && j <= i ? p[j] : 0);
}

ca_status ca_ref_pattern_fwd(ca_backend *be, ca_tensor pattern, ca_tensor q, ca_tensor k,
                             ca_tensor prefix_k, const ca_sequences *sequences,
                             ca_attention attention) {
    (void)be;
    int64_t heads = attention.heads, group = heads / attention.kv_heads;
    ca_ref_attention w;
    ca_status st = ca_ref_attention_open(sequences, attention, &w);
    if (st != CA_OK) return st;
    for (int64_t s = 0; s < sequences->count; s++) {
        ca_ref_sequence sequence = ca_ref_sequence_at(sequences, s);
        for (int64_t h = 0; h < heads; h++) {
            ca_ref_load_keys(w.k, &prefix_k, &k, sequence, h / group);
            for (int64_t t = 0; t < sequence.own; t++) {
                int64_t i = sequence.prefix + t, first = ca_ref_first_key(attention, i);
                ca_ref_load(&q, (sequence.row + t) * heads + h, w.q);
                ca_ref_scores(&w, first, i);
                ca_ref_softmax(&w, first, i);
                store_visible(&pattern, ca_ref_pattern_row(sequences, s, heads, h, t), first, i,
                              sequence.keys, w.p);
            }
        }
    }
    ca_ref_attention_close(&w);
    return CA_OK;
}

/* Adds one query head's share to w->dk and stores its dq. */
static void pattern_head_bwd(ca_ref_attention *w, const ca_tensor *dq, const ca_tensor *d_pattern,
                             const ca_tensor *pattern, const ca_tensor *q,
                             const ca_sequences *sequences, int64_t s, int64_t r, int64_t h) {
    ca_ref_sequence sequence = ca_ref_sequence_at(sequences, s);
    int64_t heads = w->a.heads, rows = q->shape[0], lane = r * pattern->shape[0];
    for (int64_t t = 0; t < sequence.own; t++) {
        int64_t i = sequence.prefix + t, first = ca_ref_first_key(w->a, i);
        int64_t row = (sequence.row + t) * heads + h;
        int64_t at = ca_ref_pattern_row(sequences, s, heads, h, t);
        ca_ref_load(q, row, w->q);
        ca_ref_scores(w, first, i); /* the slope of the cap */
        load_visible(pattern, at, first, i, w->p);
        load_visible(d_pattern, lane + at, first, i, w->dp);
        ca_ref_score_bwd(w, first, i);
        ca_ref_store(dq, r * rows * heads + row, w->dq);
    }
}

ca_status ca_ref_pattern_bwd(ca_backend *be, ca_tensor dq, ca_tensor dk, ca_tensor d_pattern,
                             ca_tensor pattern, ca_tensor q, ca_tensor k, ca_tensor prefix_k,
                             const ca_sequences *sequences, ca_attention attention) {
    (void)be;
    int64_t targets = dk.shape[2]; /* kv_heads, or heads: each query head keeps its share */
    int64_t per_kv_head = attention.heads / attention.kv_heads;
    int64_t per_target = attention.heads / targets;
    ca_ref_attention w;
    ca_status st = ca_ref_attention_open(sequences, attention, &w);
    if (st != CA_OK) return st;
    for (int64_t r = 0; r < dq.shape[0]; r++) {
        for (int64_t s = 0; s < sequences->count; s++) {
            ca_ref_sequence sequence = ca_ref_sequence_at(sequences, s);
            for (int64_t target = 0; target < targets; target++) {
                int64_t head = target * per_target;
                ca_ref_load_keys(w.k, &prefix_k, &k, sequence, head / per_kv_head);
                memset(w.dk, 0, (size_t)(sequence.keys * attention.head_dim) * sizeof *w.dk);
                for (int64_t h = head; h < head + per_target; h++)
                    pattern_head_bwd(&w, &dq, &d_pattern, &pattern, &q, sequences, s, r, h);
                ca_ref_store_keys(&dk, r, target, sequence, w.dk);
            }
        }
    }
    ca_ref_attention_close(&w);
    return CA_OK;
}

ca_status ca_ref_pattern_apply_fwd(ca_backend *be, ca_tensor o, ca_tensor pattern, ca_tensor v,
                                   ca_tensor prefix_v, const ca_sequences *sequences,
                                   ca_attention attention) {
    (void)be;
    int64_t heads = attention.heads, width = attention.head_dim, group = heads / attention.kv_heads;
    ca_ref_attention w;
    ca_status st = ca_ref_attention_open(sequences, attention, &w);
    if (st != CA_OK) return st;
    for (int64_t s = 0; s < sequences->count; s++) {
        ca_ref_sequence sequence = ca_ref_sequence_at(sequences, s);
        for (int64_t h = 0; h < heads; h++) {
            ca_ref_load_keys(w.v, &prefix_v, &v, sequence, h / group);
            for (int64_t t = 0; t < sequence.own; t++) {
                int64_t i = sequence.prefix + t, first = ca_ref_first_key(attention, i);
                load_visible(&pattern, ca_ref_pattern_row(sequences, s, heads, h, t), first, i,
                             w.p);
                memset(w.o, 0, (size_t)width * sizeof *w.o);
                for (int64_t j = first; j <= i; j++)
                    for (int64_t d = 0; d < width; d++) w.o[d] += w.p[j] * w.v[j * width + d];
                ca_ref_store(&o, (sequence.row + t) * heads + h, w.o);
            }
        }
    }
    ca_ref_attention_close(&w);
    return CA_OK;
}

/* Adds one query head's share to w->dv and stores its d_pattern. */
static void apply_head_bwd(ca_ref_attention *w, const ca_tensor *d_pattern, const ca_tensor *d_o,
                           const ca_tensor *pattern, const ca_sequences *sequences, int64_t s,
                           int64_t r, int64_t h) {
    ca_ref_sequence sequence = ca_ref_sequence_at(sequences, s);
    int64_t heads = w->a.heads, width = w->a.head_dim, rows = d_o->shape[1];
    for (int64_t t = 0; t < sequence.own; t++) {
        int64_t i = sequence.prefix + t, first = ca_ref_first_key(w->a, i);
        int64_t at = ca_ref_pattern_row(sequences, s, heads, h, t);
        ca_ref_load(d_o, (r * rows + sequence.row + t) * heads + h, w->o);
        load_visible(pattern, at, first, i, w->p);
        for (int64_t j = first; j <= i; j++) {
            w->dp[j] = ca_ref_dot(w->o, w->v + j * width, width);
            for (int64_t d = 0; d < width; d++) w->dv[j * width + d] += w->p[j] * w->o[d];
        }
        store_visible(d_pattern, r * pattern->shape[0] + at, first, i, sequence.keys, w->dp);
    }
}

ca_status ca_ref_pattern_apply_bwd(ca_backend *be, ca_tensor d_pattern, ca_tensor dv, ca_tensor d_o,
                                   ca_tensor pattern, ca_tensor v, ca_tensor prefix_v,
                                   const ca_sequences *sequences, ca_attention attention) {
    (void)be;
    int64_t targets = dv.shape[2];
    int64_t per_kv_head = attention.heads / attention.kv_heads;
    int64_t per_target = attention.heads / targets;
    ca_ref_attention w;
    ca_status st = ca_ref_attention_open(sequences, attention, &w);
    if (st != CA_OK) return st;
    for (int64_t r = 0; r < d_o.shape[0]; r++) {
        for (int64_t s = 0; s < sequences->count; s++) {
            ca_ref_sequence sequence = ca_ref_sequence_at(sequences, s);
            for (int64_t target = 0; target < targets; target++) {
                int64_t head = target * per_target;
                ca_ref_load_keys(w.v, &prefix_v, &v, sequence, head / per_kv_head);
                memset(w.dv, 0, (size_t)(sequence.keys * attention.head_dim) * sizeof *w.dv);
                for (int64_t h = head; h < head + per_target; h++)
                    apply_head_bwd(&w, &d_pattern, &d_o, &pattern, sequences, s, r, h);
                ca_ref_store_keys(&dv, r, target, sequence, w.dv);
            }
        }
    }
    ca_ref_attention_close(&w);
    return CA_OK;
}
