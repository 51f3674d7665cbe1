/* SPDX-License-Identifier: MIT
 *
 * Rotary positions and causal attention of the reference backend.
 *
 * One row of scores at a time: score[j] = cap(scale q . k[j]) for the visible keys j, p = softmax,
 * rounded as the two steps of pattern.c store it: both give the same bits, so that a run does not
 * depend on who reads its patterns.
 * The backward pass computes p again from q and k, and reads neither o nor lse, so rounding of
 * those never enters the definition.
 *
 * Sources: Vaswani et al. 2017, "Attention is all you need", 3.2.1; Su et al. 2021,
 * "RoFormer", 3.4.2 (Differs: pairs are (i, i + n/2), as in Hugging Face checkpoints); Ainslie et
 * al. 2023, "GQA"; Gemma team 2024, "Gemma 2" (soft cap).
 */
#include "ref.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

ca_status ca_ref_rope(ca_backend *be, ca_tensor x, ca_tensor cosine, ca_tensor sine,
                      ca_tensor positions, bool inverse) {
    (void)be;
    int64_t heads = x.shape[x.rank - 2], rows = positions.shape[0];
    int64_t half = cosine.shape[1], width = ca_ref_width(&x);
    double *scratch = NULL;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(2 * half + width, &scratch));
    double *c = scratch, *s = c + half, *v = s + half;
    for (int64_t row = 0; row < ca_ref_rows(&x); row++) {
        int64_t position = ca_ref_index(&positions, row / heads % rows);
        if (position < 0 || position >= cosine.shape[0]) {
            st = ca_fail(CA_E_SHAPE, "rope: positions: expected 0 to %lld, got %lld",
                         (long long)cosine.shape[0] - 1, (long long)position);
            goto out;
        }
        ca_ref_load(&cosine, position, c);
        ca_ref_load(&sine, position, s);
        ca_ref_load(&x, row, v);
        for (int64_t i = 0; i < half; i++) {
            double a = v[i], b = v[i + half], turn = inverse ? -s[i] : s[i];
            v[i] = a * c[i] - b * turn;
            v[i + half] = b * c[i] + a * turn;
        }
        ca_ref_store(&x, row, v);
    }
out:
    free(scratch);
    return st;
}

/* ---- parts shared with pattern.c */

ca_status ca_ref_attention_open(const ca_sequences *sequences, ca_attention attention,
                                ca_ref_attention *out) {
    int64_t width = attention.head_dim, keys = sequences->max_keys, block = keys * width;
    *out = (ca_ref_attention){.a = attention};
    ca_status st = ca_ref_scratch(4 * block + 3 * width + 3 * keys, &out->memory);
    if (st != CA_OK) return st;
    out->k = out->memory;
    out->v = out->k + block;
    out->dk = out->v + block;
    out->dv = out->dk + block;
    out->q = out->dv + block;
    out->o = out->q + width;
    out->dq = out->o + width;
    out->score = out->dq + width;
    out->p = out->score + keys;
    out->dp = out->p + keys;
    return CA_OK;
}

void ca_ref_attention_close(ca_ref_attention *w) { free(w->memory); }

ca_ref_sequence ca_ref_sequence_at(const ca_sequences *sequences, int64_t s) {
    ca_ref_sequence sequence = {
        .row = sequences->row_start[s],
        .own = sequences->row_start[s + 1] - sequences->row_start[s],
        .prefix_row = sequences->prefix_start[s],
        .prefix = sequences->prefix_rows[s],
    };
    sequence.keys = sequence.prefix + sequence.own;
    return sequence;
}

void ca_ref_load_keys(double *out, const ca_tensor *prefix, const ca_tensor *own,
                      ca_ref_sequence sequence, int64_t kv_head) {
    int64_t heads = own->shape[1], width = own->shape[2];
    for (int64_t j = 0; j < sequence.prefix; j++)
        ca_ref_load(prefix, (sequence.prefix_row + j) * heads + kv_head, out + j * width);
    for (int64_t j = 0; j < sequence.own; j++)
        ca_ref_load(own, (sequence.row + j) * heads + kv_head, out + (sequence.prefix + j) * width);
}

void ca_ref_store_keys(const ca_tensor *out, int64_t r, int64_t head, ca_ref_sequence sequence,
                       const double *gradient) {
    int64_t rows = out->shape[1], heads = out->shape[2], width = out->shape[3];
    for (int64_t j = 0; j < sequence.own; j++)
        ca_ref_store(out, (r * rows + sequence.row + j) * heads + head,
                     gradient + (sequence.prefix + j) * width);
}

int64_t ca_ref_first_key(ca_attention attention, int64_t i) {
    return attention.window > 0 && i >= attention.window ? i - attention.window + 1 : 0;
}

void ca_ref_scores(ca_ref_attention *w, int64_t first, int64_t i) {
    int64_t width = w->a.head_dim;
    double cap = w->a.soft_cap;
    for (int64_t j = first; j <= i; j++) {
        double score = w->a.scale * ca_ref_dot(w->q, w->k + j * width, width);
        w->score[j] = cap > 0 ? cap * tanh(score / cap) : score;
    }
}

double ca_ref_softmax(ca_ref_attention *w, int64_t first, int64_t i) {
    double lse = ca_ref_log_sum_exp(w->score + first, i - first + 1);
    for (int64_t j = first; j <= i; j++) w->p[j] = exp(w->score[j] - lse);
    return lse;
}

/* softmax: dscore = p (dp - p . dp);  cap: d tanh;  q . k: dq = sum dscore k, dk += dscore q */
void ca_ref_score_bwd(ca_ref_attention *w, int64_t first, int64_t i) {
    int64_t width = w->a.head_dim;
    double cap = w->a.soft_cap;
    double mean = ca_ref_dot(w->p + first, w->dp + first, i - first + 1);
    memset(w->dq, 0, (size_t)width * sizeof *w->dq);
    for (int64_t j = first; j <= i; j++) {
        double ds = w->a.scale * w->p[j] * (w->dp[j] - mean);
        if (cap > 0) ds *= 1 - (w->score[j] / cap) * (w->score[j] / cap);
        for (int64_t d = 0; d < width; d++) {
            w->dq[d] += ds * w->k[j * width + d];
            w->dk[j * width + d] += ds * w->q[d];
        }
    }
}

/* ---- the operations */

static void round_to_f32(double *values, int64_t count) {
    for (int64_t i = 0; i < count; i++) values[i] = (float)values[i];
}

ca_status ca_ref_attention_fwd(ca_backend *be, ca_tensor o, ca_tensor lse, ca_tensor q, ca_tensor k,
                               ca_tensor v, ca_tensor prefix_k, ca_tensor prefix_v,
                               const ca_sequences *sequences, ca_attention attention) {
    (void)be;
    int64_t heads = attention.heads, width = attention.head_dim, group = heads / attention.kv_heads;
    ca_ref_attention w;
    ca_status st = ca_ref_attention_open(sequences, attention, &w);
    if (st != CA_OK) return st;
    for (int64_t s = 0; s < sequences->count; s++) {
        ca_ref_sequence sequence = ca_ref_sequence_at(sequences, s);
        for (int64_t h = 0; h < heads; h++) {
            ca_ref_load_keys(w.k, &prefix_k, &k, sequence, h / group);
            ca_ref_load_keys(w.v, &prefix_v, &v, sequence, h / group);
            for (int64_t t = 0; t < sequence.own; t++) {
                int64_t row = (sequence.row + t) * heads + h;
                int64_t i = sequence.prefix + t, first = ca_ref_first_key(attention, i);
                ca_ref_load(&q, row, w.q);
                ca_ref_scores(&w, first, i);
                ca_ref_set(&lse, row, ca_ref_softmax(&w, first, i));
                if (q.dtype == CA_F32) round_to_f32(w.p + first, i - first + 1);
                memset(w.o, 0, (size_t)width * sizeof *w.o);
                for (int64_t j = first; j <= i; j++)
                    for (int64_t d = 0; d < width; d++) w.o[d] += w.p[j] * w.v[j * width + d];
                ca_ref_store(&o, row, w.o);
            }
        }
    }
    ca_ref_attention_close(&w);
    return CA_OK;
}

/* Adds one query head's share to w->dk and w->dv and stores its dq. */
static void attention_head_bwd(ca_ref_attention *w, const ca_tensor *dq, const ca_tensor *d_o,
                               const ca_tensor *q, ca_ref_sequence sequence, int64_t r, int64_t h) {
    int64_t heads = w->a.heads, width = w->a.head_dim, rows = q->shape[0];
    for (int64_t t = 0; t < sequence.own; t++) {
        int64_t i = sequence.prefix + t, first = ca_ref_first_key(w->a, i);
        int64_t row = (sequence.row + t) * heads + h, lane_row = r * rows * heads + row;
        ca_ref_load(q, row, w->q);
        ca_ref_load(d_o, lane_row, w->o);
        ca_ref_scores(w, first, i);
        ca_ref_softmax(w, first, i);
        for (int64_t j = first; j <= i; j++) {
            w->dp[j] = ca_ref_dot(w->o, w->v + j * width, width);
            for (int64_t d = 0; d < width; d++) w->dv[j * width + d] += w->p[j] * w->o[d];
        }
        ca_ref_score_bwd(w, first, i);
        ca_ref_store(dq, lane_row, w->dq);
    }
}

ca_status ca_ref_attention_bwd(ca_backend *be, ca_tensor dq, ca_tensor dk, ca_tensor dv,
                               ca_tensor d_o, ca_tensor o, ca_tensor lse, ca_tensor q, ca_tensor k,
                               ca_tensor v, ca_tensor prefix_k, ca_tensor prefix_v,
                               const ca_sequences *sequences, ca_attention attention) {
    (void)be, (void)o, (void)lse;
    int64_t targets = dk.shape[2]; /* kv_heads, or heads: each query head keeps its share */
    int64_t per_kv_head = attention.heads / attention.kv_heads;
    int64_t per_target = attention.heads / targets;
    ca_ref_attention w;
    ca_status st = ca_ref_attention_open(sequences, attention, &w);
    if (st != CA_OK) return st;
    for (int64_t r = 0; r < dq.shape[0]; r++) {
        for (int64_t s = 0; s < sequences->count; s++) {
            ca_ref_sequence sequence = ca_ref_sequence_at(sequences, s);
            size_t bytes = (size_t)(sequence.keys * attention.head_dim) * sizeof *w.dk;
            for (int64_t target = 0; target < targets; target++) {
                int64_t head = target * per_target;
                ca_ref_load_keys(w.k, &prefix_k, &k, sequence, head / per_kv_head);
                ca_ref_load_keys(w.v, &prefix_v, &v, sequence, head / per_kv_head);
                memset(w.dk, 0, bytes);
                memset(w.dv, 0, bytes);
                for (int64_t h = head; h < head + per_target; h++)
                    attention_head_bwd(&w, &dq, &d_o, &q, sequence, r, h);
                ca_ref_store_keys(&dk, r, target, sequence, w.dk);
                ca_ref_store_keys(&dv, r, target, sequence, w.dv);
            }
        }
    }
    ca_ref_attention_close(&w);
    return CA_OK;
}
