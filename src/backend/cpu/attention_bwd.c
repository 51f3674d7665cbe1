/* SPDX-License-Identifier: MIT
 *
 * Attention backward for many cotangents (lanes). Work is cut into (sequence, head that receives
 * dk and dv, block of lanes), so that every sum is made by one thread in one order. A tile's
 * probabilities are recomputed once from q, k and lse and used for all lanes of the block:
 *
 *   dV += P^T dO    dP = dO V^T    dS = P (dP - rowsum(dO O))    dQ += scale dS K
 *   dK += scale dS^T Q
 */
#include "cpu.h"

enum { MAX_LANES = 16 }; /* lanes of one block */

typedef struct cpu_backward {
    ca_tensor dq, dk, dv, d_o, o, lse, q, k, v, prefix_k, prefix_v;
    const ca_sequences *seq;
    ca_attention attention;
} cpu_backward;

/* Query rows [row0, row0 + rows) of one head and the lanes [lane0, lane0 + lanes). */
typedef struct cpu_query_tile {
    int64_t s, head, target, row0, rows, t0; /* t0: row0 as packed row; target: head of dk, dv */
    int64_t lane0, lanes;
    const float *q;
    ca_cpu_side k, v;
    float delta[MAX_LANES][CPU_QUERY_TILE]; /* rowsum(dO O) */
} cpu_query_tile;

/* Row t, head h, lane r of [R, T, H, Dh]. */
static float *lane_head_row(const ca_tensor *x, int64_t r, int64_t t, int64_t h) {
    return (float *)x->data + r * x->stride[0] + t * x->stride[1] + h * x->stride[2];
}

static void clear_rows(const ca_tensor *x, int64_t r, int64_t t, int64_t count, int64_t h) {
    for (int64_t i = 0; i < count; i++)
        memset(lane_head_row(x, r, t + i, h), 0, (size_t)x->shape[3] * sizeof(float));
}

static void find_delta(const cpu_backward *b, cpu_query_tile *tile) {
    for (int64_t l = 0; l < tile->lanes; l++)
        for (int64_t i = 0; i < tile->rows; i++) {
            const float *d_o = lane_head_row(&b->d_o, tile->lane0 + l, tile->t0 + i, tile->head);
            const float *o = (const float *)b->o.data + (tile->t0 + i) * b->o.stride[0] +
                             tile->head * b->o.stride[1];
            double sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t d = 0; d < b->attention.head_dim; d++)
                sum += (double)d_o[d] * (double)o[d];
            tile->delta[l][i] = (float)sum;
        }
}

/* p [rows, keys] = probabilities of the keys [at, at + keys); slope = p times the derivative of
 * the cap, which is p itself (the same tile) without a cap. */
static bool find_probabilities(const cpu_backward *b, const cpu_query_tile *tile, float *p,
                               float *slope, int64_t at, int64_t keys) {
    const ca_attention *attention = &b->attention;
    if (!ca_cpu_scores(p, CPU_TILE_STRIDE, tile->q, b->q.stride[0], tile->rows, &tile->k, at, keys,
                       attention))
        return false;
    float inverse = attention->soft_cap > 0 ? (float)(1.0 / attention->soft_cap) : 0.0f;
    for (int64_t i = 0; i < tile->rows; i++) {
        float *row = p + i * CPU_TILE_STRIDE, *slope_row = slope + i * CPU_TILE_STRIDE;
        float lse = ((const float *)b->lse.data)[(tile->t0 + i) * b->lse.stride[0] + tile->head];
        int64_t low = cpu_first_key(&tile->k, tile->row0 + i, attention->window) - at;
        int64_t high = cpu_min(cpu_last_key(&tile->k, tile->row0 + i) + 1 - at, keys);
        low = cpu_min(cpu_max(low, 0), keys);
        high = cpu_max(high, low);
        memset(row, 0, (size_t)low * sizeof(float));
        memset(row + high, 0, (size_t)(keys - high) * sizeof(float));
        if (slope == p) {
#pragma omp simd
            for (int64_t j = low; j < high; j++) row[j] = cpu_exp(row[j] - lse);
        } else {
            memset(slope_row, 0, (size_t)keys * sizeof(float));
#pragma omp simd
            for (int64_t j = low; j < high; j++) {
                float t = row[j] * inverse, e = cpu_exp(row[j] - lse);
                row[j] = e;
                slope_row[j] = e * (1.0f - t * t);
            }
        }
    }
    return true;
}

/* All gradients of one lane that pass through one block of keys. ds: scratch. */
static bool lane_block(const cpu_backward *b, const cpu_query_tile *tile, int64_t l, const float *p,
                       const float *slope, float *ds, int64_t at, int64_t keys) {
    const int64_t ld = CPU_TILE_STRIDE, width = b->attention.head_dim, rows = tile->rows;
    const float scale = (float)b->attention.scale;
    int64_t r = tile->lane0 + l, k_stride, v_stride;
    const float *k = cpu_side_row(&tile->k, at, &k_stride);
    const float *v = cpu_side_row(&tile->v, at, &v_stride);
    const float *d_o = lane_head_row(&b->d_o, r, tile->t0, tile->head);

    if (!ca_cpu_gemm_tile(false, true, rows, keys, width, 1.0f, d_o, b->d_o.stride[1], v, v_stride,
                          0.0f, ds, ld))
        return false;
    for (int64_t i = 0; i < rows; i++) {
        const float *slope_row = slope + i * ld;
        float *row = ds + i * ld, delta = tile->delta[l][i];
#pragma omp simd
        for (int64_t j = 0; j < keys; j++) row[j] = slope_row[j] * (row[j] - delta);
    }
    if (!ca_cpu_gemm_tile(false, false, rows, width, keys, scale, ds, ld, k, k_stride, 1.0f,
                          lane_head_row(&b->dq, r, tile->t0, tile->head), b->dq.stride[1]))
        return false;
    if (at < tile->k.prefix_rows) return true; /* the prefix is constant */

    int64_t t = b->seq->row_start[tile->s] + at - tile->k.prefix_rows;
    return ca_cpu_gemm_tile(true, false, keys, width, rows, scale, ds, ld, tile->q, b->q.stride[0],
                            1.0f, lane_head_row(&b->dk, r, t, tile->target), b->dk.stride[1]) &&
           ca_cpu_gemm_tile(true, false, keys, width, rows, 1.0f, p, ld, d_o, b->d_o.stride[1],
                            1.0f, lane_head_row(&b->dv, r, t, tile->target), b->dv.stride[1]);
}

static bool backward_tile(const cpu_backward *b, cpu_query_tile *tile, float *tiles) {
    float *p = tiles, *ds = tiles + CPU_TILE_SIZE;
    float *slope = b->attention.soft_cap > 0 ? tiles + 2 * CPU_TILE_SIZE : p;
    find_delta(b, tile);
    int64_t first = cpu_first_key(&tile->k, tile->row0, b->attention.window);
    int64_t end = cpu_last_key(&tile->k, tile->row0 + tile->rows - 1) + 1, keys;
    for (int64_t at = first; at < end; at += keys) {
        keys = cpu_block(&tile->k, at, end);
        if (!find_probabilities(b, tile, p, slope, at, keys)) return false;
        for (int64_t l = 0; l < tile->lanes; l++)
            if (!lane_block(b, tile, l, p, slope, ds, at, keys)) return false;
    }
    return true;
}

/* Everything that adds to dk and dv of sequence s, head `target`, in one block of lanes. */
static bool backward_item(const cpu_backward *b, int64_t s, int64_t target, int64_t lane0,
                          int64_t lanes, float *tiles) {
    int64_t start = b->seq->row_start[s], own = b->seq->row_start[s + 1] - start;
    int64_t per_target = b->attention.heads / b->dk.shape[2];
    int64_t per_kv_head = b->attention.heads / b->attention.kv_heads;
    int64_t head0 = target * per_target;
    for (int64_t r = lane0; r < lane0 + lanes; r++) {
        clear_rows(&b->dk, r, start, own, target);
        clear_rows(&b->dv, r, start, own, target);
        for (int64_t h = head0; h < head0 + per_target; h++) clear_rows(&b->dq, r, start, own, h);
    }
    cpu_query_tile tile = {.s = s, .target = target, .lane0 = lane0, .lanes = lanes};
    tile.k = ca_cpu_side_of(&b->k, &b->prefix_k, b->seq, s, head0 / per_kv_head);
    tile.v = ca_cpu_side_of(&b->v, &b->prefix_v, b->seq, s, head0 / per_kv_head);
    for (tile.head = head0; tile.head < head0 + per_target; tile.head++)
        for (tile.row0 = 0; tile.row0 < own; tile.row0 += CPU_QUERY_TILE) {
            tile.rows = cpu_min(CPU_QUERY_TILE, own - tile.row0);
            tile.t0 = start + tile.row0;
            tile.q =
                (const float *)b->q.data + tile.t0 * b->q.stride[0] + tile.head * b->q.stride[1];
            if (!backward_tile(b, &tile, tiles)) return false;
        }
    return true;
}

ca_status ca_cpu_attention_bwd(ca_backend *be, ca_tensor dq, ca_tensor dk, ca_tensor dv,
                               ca_tensor d_o, ca_tensor o, ca_tensor lse, ca_tensor q, ca_tensor k,
                               ca_tensor v, ca_tensor prefix_k, ca_tensor prefix_v,
                               const ca_sequences *seq, ca_attention attention) {
    const cpu_backward b = {.dq = dq,
                            .dk = dk,
                            .dv = dv,
                            .d_o = d_o,
                            .o = o,
                            .lse = lse,
                            .q = q,
                            .k = k,
                            .v = v,
                            .prefix_k = prefix_k,
                            .prefix_v = prefix_v,
                            .seq = seq,
                            .attention = attention};
    int64_t lanes = dq.shape[0], targets = dk.shape[2];
    /* fewer lanes in a block recompute more probabilities but keep more threads busy */
    int64_t block = cpu_min(lanes, MAX_LANES);
    while (block > 1 && seq->count * targets * (lanes / block) < 4 * be->threads)
        block = (block + 1) / 2;
    int64_t blocks = block > 0 ? (lanes + block - 1) / block : 0;
    int64_t items = seq->count * targets * blocks;
    bool done = true;
#pragma omp parallel for num_threads(cpu_attention_threads(be, seq, &attention)) schedule(dynamic) reduction(&& : done)
    for (int64_t item = 0; item < items; item++) {
        int64_t lane0 = item % blocks * block, target = item / blocks % targets;
        done = backward_item(&b, item / blocks / targets, target, lane0,
                             cpu_min(block, lanes - lane0), ca_cpu_thread_tiles(be)) &&
               done;
    }
    return done ? CA_OK
                : ca_fail(CA_E_BACKEND, "cpu: attention_bwd: %s refused a tile of q %s",
                          ca_cpu_libraries, ca_tensor_text(&q));
}
