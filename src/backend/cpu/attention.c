/* SPDX-License-Identifier: MIT
 *
 * Attention forward, and what the attention files share. Work is cut into tiles of query rows of
 * one head; a tile walks over its visible keys in blocks and keeps a running softmax, so that
 * scores never leave the thread's own tile. Query heads read their group's keys and values where
 * they are.
 */
#include "cpu.h"

#include <omp.h>

/* ---- shared ------------------------------------------------------------------------------ */

ca_cpu_side ca_cpu_side_of(const ca_tensor *own, const ca_tensor *prefix, const ca_sequences *seq,
                           int64_t s, int64_t kv_head) {
    ca_cpu_side side = {
        .own = (const float *)own->data + seq->row_start[s] * own->stride[0] +
               kv_head * own->stride[1],
        .own_stride = own->stride[0],
        .prefix_rows = seq->prefix_rows[s],
        .count = seq->prefix_rows[s] + seq->row_start[s + 1] - seq->row_start[s],
    };
    if (side.prefix_rows > 0) {
        side.prefix = (const float *)prefix->data + seq->prefix_start[s] * prefix->stride[0] +
                      kv_head * prefix->stride[1];
        side.prefix_stride = prefix->stride[0];
    }
    return side;
}

float *ca_cpu_thread_tiles(const ca_backend *be) {
    const ca_cpu_context *context = be->context;
    assert(omp_get_thread_num() < be->threads);
    return context->tiles + (int64_t)omp_get_thread_num() * CPU_TILES * CPU_TILE_SIZE;
}

bool ca_cpu_scores(float *scores, int64_t ld, const float *q, int64_t q_stride, int64_t rows,
                   const ca_cpu_side *k, int64_t at, int64_t keys, const ca_attention *attention) {
    int64_t k_stride;
    const float *k_rows = cpu_side_row(k, at, &k_stride);
    if (!ca_cpu_gemm_tile(false, true, rows, keys, attention->head_dim, (float)attention->scale, q,
                          q_stride, k_rows, k_stride, 0.0f, scores, ld))
        return false;
    if (attention->soft_cap > 0) {
        float cap = (float)attention->soft_cap, inverse = (float)(1.0 / attention->soft_cap);
        for (int64_t i = 0; i < rows; i++) {
#pragma omp simd
            for (int64_t j = 0; j < keys; j++)
                scores[i * ld + j] = cap * cpu_tanh(scores[i * ld + j] * inverse);
        }
    }
    return true;
}

ca_status ca_cpu_tiles(ca_backend *be, const ca_sequences *seq, const int64_t **tile_start) {
    ca_cpu_context *context = be->context;
    ca_status st = ca_grow(&context->tile_start, &context->tile_capacity, seq->count + 1,
                           sizeof *context->tile_start);
    if (st != CA_OK) return st;
    int64_t *start = context->tile_start;
    start[0] = 0;
    for (int64_t s = 0; s < seq->count; s++) {
        int64_t rows = seq->row_start[s + 1] - seq->row_start[s];
        start[s + 1] = start[s] + (rows + CPU_QUERY_TILE - 1) / CPU_QUERY_TILE;
    }
    *tile_start = start;
    return CA_OK;
}

int64_t ca_cpu_tile_sequence(const int64_t *tile_start, int64_t count, int64_t tile) {
    int64_t low = 0, high = count; /* tile_start[low] <= tile < tile_start[high] */
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (tile_start[middle] <= tile)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* ---- forward ----------------------------------------------------------------------------- */

typedef struct cpu_forward {
    ca_tensor o, lse, q, k, v, prefix_k, prefix_v;
    const ca_sequences *seq;
    ca_attention attention;
} cpu_forward;

/* Turns the visible scores [low, high) of one row into exp(score - *top) and the others into 0;
 * moves the running *top and *sum. Returns the factor for what was summed under the old top. */
static float soften_row(float *scores, int64_t low, int64_t high, int64_t keys, float *top,
                        double *sum) {
    float highest = *top, part = 0;
#pragma omp simd reduction(max : highest)
    for (int64_t j = low; j < high; j++) highest = scores[j] > highest ? scores[j] : highest;
#pragma omp simd reduction(+ : part)
    for (int64_t j = low; j < high; j++) {
        float p = cpu_exp(scores[j] - highest);
        scores[j] = p;
        part += p;
    }
    for (int64_t j = 0; j < low; j++) scores[j] = 0.0f;
    for (int64_t j = cpu_max(high, 0); j < keys; j++) scores[j] = 0.0f;
    /* equal also covers a row that has seen no key yet, where both are -inf */
    float factor = *top < highest ? cpu_exp(*top - highest) : 1.0f;
    *top = highest;
    *sum = *sum * (double)factor + (double)part;
    return factor;
}

/* Query rows [row0, row0 + rows) of sequence s, head h. */
static bool forward_tile(const cpu_forward *f, float *scores, int64_t s, int64_t h, int64_t row0,
                         int64_t rows) {
    const ca_attention *attention = &f->attention;
    int64_t kv_head = h / (attention->heads / attention->kv_heads);
    ca_cpu_side k = ca_cpu_side_of(&f->k, &f->prefix_k, f->seq, s, kv_head);
    ca_cpu_side v = ca_cpu_side_of(&f->v, &f->prefix_v, f->seq, s, kv_head);
    int64_t t0 = f->seq->row_start[s] + row0;
    const float *q = (const float *)f->q.data + t0 * f->q.stride[0] + h * f->q.stride[1];
    float *o = (float *)f->o.data + t0 * f->o.stride[0] + h * f->o.stride[1];
    float top[CPU_QUERY_TILE];
    double sum[CPU_QUERY_TILE];
    for (int64_t i = 0; i < rows; i++) {
        top[i] = -INFINITY;
        sum[i] = 0;
    }

    int64_t first = cpu_first_key(&k, row0, attention->window);
    int64_t end = cpu_last_key(&k, row0 + rows - 1) + 1, keys;
    for (int64_t at = first; at < end; at += keys) {
        keys = cpu_block(&k, at, end);
        if (!ca_cpu_scores(scores, CPU_TILE_STRIDE, q, f->q.stride[0], rows, &k, at, keys,
                           attention))
            return false;
        for (int64_t i = 0; i < rows; i++) {
            int64_t low = cpu_first_key(&k, row0 + i, attention->window) - at;
            int64_t high = cpu_last_key(&k, row0 + i) + 1 - at;
            float factor = soften_row(scores + i * CPU_TILE_STRIDE, cpu_min(cpu_max(low, 0), keys),
                                      cpu_min(high, keys), keys, &top[i], &sum[i]);
            if (at > first && factor != 1.0f)
                for (int64_t d = 0; d < attention->head_dim; d++)
                    o[i * f->o.stride[0] + d] *= factor;
        }
        int64_t v_stride;
        const float *v_rows = cpu_side_row(&v, at, &v_stride);
        if (!ca_cpu_gemm_tile(false, false, rows, attention->head_dim, keys, 1.0f, scores,
                              CPU_TILE_STRIDE, v_rows, v_stride, at == first ? 0.0f : 1.0f, o,
                              f->o.stride[0]))
            return false;
    }
    for (int64_t i = 0; i < rows; i++) {
        float inverse = (float)(1.0 / sum[i]);
        for (int64_t d = 0; d < attention->head_dim; d++) o[i * f->o.stride[0] + d] *= inverse;
        *((float *)f->lse.data + (t0 + i) * f->lse.stride[0] + h) =
            (float)((double)top[i] + log(sum[i]));
    }
    return true;
}

ca_status ca_cpu_attention_fwd(ca_backend *be, ca_tensor o, ca_tensor lse, ca_tensor q, ca_tensor k,
                               ca_tensor v, ca_tensor prefix_k, ca_tensor prefix_v,
                               const ca_sequences *seq, ca_attention attention) {
    const int64_t *tile_start;
    ca_status st = ca_cpu_tiles(be, seq, &tile_start);
    if (st != CA_OK) return st;
    const cpu_forward f = {.o = o,
                           .lse = lse,
                           .q = q,
                           .k = k,
                           .v = v,
                           .prefix_k = prefix_k,
                           .prefix_v = prefix_v,
                           .seq = seq,
                           .attention = attention};
    int64_t items = tile_start[seq->count] * attention.heads;
    bool done = true;
    /* from the back: the last tile of a sequence sees the most keys */
#pragma omp parallel for num_threads(cpu_attention_threads(be, seq, &attention)) schedule(dynamic) reduction(&& : done)
    for (int64_t item = items - 1; item >= 0; item--) {
        int64_t tile = item / attention.heads, h = item % attention.heads;
        int64_t s = ca_cpu_tile_sequence(tile_start, seq->count, tile);
        int64_t row0 = (tile - tile_start[s]) * CPU_QUERY_TILE;
        int64_t own = seq->row_start[s + 1] - seq->row_start[s];
        done = forward_tile(&f, ca_cpu_thread_tiles(be), s, h, row0,
                            cpu_min(CPU_QUERY_TILE, own - row0)) &&
               done;
    }
    return done ? CA_OK
                : ca_fail(CA_E_BACKEND, "cpu: attention_fwd: %s refused a tile of q %s",
                          ca_cpu_libraries, ca_tensor_text(&q));
}
