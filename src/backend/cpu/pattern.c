/* SPDX-License-Identifier: MIT
 *
 * Attention in two steps with the probabilities in between. Tiles and blocks as in attention.c;
 * what a hook left at invisible places of a pattern is never read, and they are written as 0.
 */
#include "cpu.h"

typedef struct cpu_pattern {
    ca_tensor pattern, d_pattern, q, o, dq, dk, dv; /* those an operation has */
    const ca_sequences *seq;
    ca_attention attention;
} cpu_pattern;

/* Query rows [row0, row0 + rows) of sequence s and query head `head`. `target` is the head of dk
 * and dv, `lane` the cotangent; both only backward. */
typedef struct cpu_pattern_tile {
    int64_t s, head, target, lane, row0, rows, t0, keys; /* t0: row0 as packed row */
    ca_cpu_side side; /* keys or values, whichever the operation reads */
} cpu_pattern_tile;

typedef bool cpu_tile_function(const cpu_pattern *w, const cpu_pattern_tile *tile, float *scratch);

static float *pattern_row(const cpu_pattern *w, const ca_tensor *pattern,
                          const cpu_pattern_tile *tile, int64_t i) {
    int64_t lane = pattern->rank == 2 ? tile->lane * pattern->stride[0] : 0;
    int64_t own = tile->keys - tile->side.prefix_rows;
    return (float *)pattern->data + lane + w->attention.heads * w->seq->pattern_start[tile->s] +
           (tile->head * own + tile->row0 + i) * tile->keys;
}

/* Row t, head h of [T, H, Dh], of lane `lane` in [R, T, H, Dh]. */
static float *head_row(const ca_tensor *x, int64_t lane, int64_t t, int64_t h) {
    int axis = x->rank - 3;
    return (float *)x->data + (axis > 0 ? lane * x->stride[0] : 0) + t * x->stride[axis] +
           h * x->stride[axis + 1];
}

/* Keys that row i of the tile sees, as places of the block [at, at + keys): [*low, *high). */
static void visible(const cpu_pattern *w, const cpu_pattern_tile *tile, int64_t i, int64_t at,
                    int64_t keys, int64_t *low, int64_t *high) {
    int64_t first = cpu_first_key(&tile->side, tile->row0 + i, w->attention.window);
    int64_t last = cpu_last_key(&tile->side, tile->row0 + i);
    *low = cpu_min(cpu_max(first - at, 0), keys);
    *high = cpu_max(*low, cpu_min(last + 1 - at, keys));
}

static int64_t tile_first(const cpu_pattern *w, const cpu_pattern_tile *tile) {
    return cpu_first_key(&tile->side, tile->row0, w->attention.window);
}
static int64_t tile_end(const cpu_pattern_tile *tile) {
    return cpu_last_key(&tile->side, tile->row0 + tile->rows - 1) + 1;
}

/* block [rows, keys] = the visible part of the pattern, zeros elsewhere. */
static void load_block(const cpu_pattern *w, const cpu_pattern_tile *tile, float *block, int64_t at,
                       int64_t keys) {
    for (int64_t i = 0; i < tile->rows; i++) {
        int64_t low, high;
        visible(w, tile, i, at, keys, &low, &high);
        float *row = block + i * CPU_TILE_STRIDE;
        memset(row, 0, (size_t)keys * sizeof(float));
        memcpy(row + low, pattern_row(w, &w->pattern, tile, i) + at + low,
               (size_t)(high - low) * sizeof(float));
    }
}

/* ---- tiles of the four operations -------------------------------------------------------- */

static void softmax(float *x, int64_t n) {
    float top = -INFINITY;
    double sum = 0;
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < n; j++) top = x[j] > top ? x[j] : top;
    for (int64_t at = 0; at < n; at += CPU_KEY_BLOCK) {
        int64_t end = cpu_min(n, at + CPU_KEY_BLOCK);
        float part = 0;
#pragma omp simd reduction(+ : part)
        for (int64_t j = at; j < end; j++) {
            x[j] = cpu_exp(x[j] - top);
            part += x[j];
        }
        sum += (double)part;
    }
    float inverse = (float)(1.0 / sum);
    for (int64_t j = 0; j < n; j++) x[j] *= inverse;
}

static bool pattern_tile(const cpu_pattern *w, const cpu_pattern_tile *tile, float *scratch) {
    (void)scratch;
    int64_t end = tile_end(tile), keys;
    for (int64_t at = tile_first(w, tile); at < end; at += keys) {
        keys = cpu_block(&tile->side, at, end);
        if (!ca_cpu_scores(pattern_row(w, &w->pattern, tile, 0) + at, tile->keys,
                           head_row(&w->q, 0, tile->t0, tile->head), w->q.stride[0], tile->rows,
                           &tile->side, at, keys, &w->attention))
            return false;
    }
    for (int64_t i = 0; i < tile->rows; i++) {
        float *row = pattern_row(w, &w->pattern, tile, i);
        int64_t low, high;
        visible(w, tile, i, 0, tile->keys, &low, &high);
        memset(row, 0, (size_t)low * sizeof(float));
        memset(row + high, 0, (size_t)(tile->keys - high) * sizeof(float));
        softmax(row + low, high - low);
    }
    return true;
}

/* dS = P (dP - rowsum(P dP)) cap', then dQ += scale dS K and dK += scale dS^T Q. */
static bool pattern_tile_bwd(const cpu_pattern *w, const cpu_pattern_tile *tile, float *scratch) {
    const int64_t ld = CPU_TILE_STRIDE, width = w->attention.head_dim;
    const float scale = (float)w->attention.scale;
    const bool capped = w->attention.soft_cap > 0;
    const float inverse = capped ? (float)(1.0 / w->attention.soft_cap) : 0.0f;
    const float *q = head_row(&w->q, 0, tile->t0, tile->head);
    float *ds = scratch, *scores = scratch + CPU_TILE_SIZE;
    float delta[CPU_QUERY_TILE];
    for (int64_t i = 0; i < tile->rows; i++) {
        const float *p = pattern_row(w, &w->pattern, tile, i);
        const float *dp = pattern_row(w, &w->d_pattern, tile, i);
        int64_t low, high;
        visible(w, tile, i, 0, tile->keys, &low, &high);
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = low; j < high; j++) sum += (double)p[j] * (double)dp[j];
        delta[i] = (float)sum;
    }
    int64_t end = tile_end(tile), keys;
    for (int64_t at = tile_first(w, tile); at < end; at += keys) {
        keys = cpu_block(&tile->side, at, end);
        load_block(w, tile, ds, at, keys);
        if (capped && !ca_cpu_scores(scores, ld, q, w->q.stride[0], tile->rows, &tile->side, at,
                                     keys, &w->attention))
            return false;
        for (int64_t i = 0; i < tile->rows; i++) {
            const float *dp = pattern_row(w, &w->d_pattern, tile, i) + at;
            int64_t low, high;
            visible(w, tile, i, at, keys, &low, &high);
            for (int64_t j = low; j < high; j++) ds[i * ld + j] *= dp[j] - delta[i];
            for (int64_t j = low; capped && j < high; j++) {
                float t = scores[i * ld + j] * inverse;
                ds[i * ld + j] *= 1.0f - t * t;
            }
        }
        int64_t k_stride;
        const float *k = cpu_side_row(&tile->side, at, &k_stride);
        if (!ca_cpu_gemm_tile(false, false, tile->rows, width, keys, scale, ds, ld, k, k_stride,
                              1.0f, head_row(&w->dq, tile->lane, tile->t0, tile->head),
                              w->dq.stride[1]))
            return false;
        int64_t t = w->seq->row_start[tile->s] + at - tile->side.prefix_rows;
        if (at >= tile->side.prefix_rows &&
            !ca_cpu_gemm_tile(true, false, keys, width, tile->rows, scale, ds, ld, q,
                              w->q.stride[0], 1.0f, head_row(&w->dk, tile->lane, t, tile->target),
                              w->dk.stride[1]))
            return false;
    }
    return true;
}

static bool apply_tile(const cpu_pattern *w, const cpu_pattern_tile *tile, float *scratch) {
    int64_t first = tile_first(w, tile), end = tile_end(tile), keys;
    for (int64_t at = first; at < end; at += keys) {
        keys = cpu_block(&tile->side, at, end);
        load_block(w, tile, scratch, at, keys);
        int64_t v_stride;
        const float *v = cpu_side_row(&tile->side, at, &v_stride);
        if (!ca_cpu_gemm_tile(false, false, tile->rows, w->attention.head_dim, keys, 1.0f, scratch,
                              CPU_TILE_STRIDE, v, v_stride, at == first ? 0.0f : 1.0f,
                              head_row(&w->o, 0, tile->t0, tile->head), w->o.stride[0]))
            return false;
    }
    return true;
}

/* dP = dO V^T at visible places, dV += P^T dO; `o` holds dO. */
static bool apply_tile_bwd(const cpu_pattern *w, const cpu_pattern_tile *tile, float *scratch) {
    const int64_t width = w->attention.head_dim, d_o_stride = w->o.stride[1];
    const float *d_o = head_row(&w->o, tile->lane, tile->t0, tile->head);
    int64_t end = tile_end(tile), keys;
    for (int64_t at = tile_first(w, tile); at < end; at += keys) {
        keys = cpu_block(&tile->side, at, end);
        int64_t v_stride;
        const float *v = cpu_side_row(&tile->side, at, &v_stride);
        if (!ca_cpu_gemm_tile(false, true, tile->rows, keys, width, 1.0f, d_o, d_o_stride, v,
                              v_stride, 0.0f, pattern_row(w, &w->d_pattern, tile, 0) + at,
                              tile->keys))
            return false;
        if (at < tile->side.prefix_rows) continue; /* the prefix is constant */
        load_block(w, tile, scratch, at, keys);
        int64_t t = w->seq->row_start[tile->s] + at - tile->side.prefix_rows;
        if (!ca_cpu_gemm_tile(true, false, keys, width, tile->rows, 1.0f, scratch, CPU_TILE_STRIDE,
                              d_o, d_o_stride, 1.0f, head_row(&w->dv, tile->lane, t, tile->target),
                              w->dv.stride[1]))
            return false;
    }
    for (int64_t i = 0; i < tile->rows; i++) {
        float *row = pattern_row(w, &w->d_pattern, tile, i);
        int64_t low, high;
        visible(w, tile, i, 0, tile->keys, &low, &high);
        memset(row, 0, (size_t)low * sizeof(float));
        memset(row + high, 0, (size_t)(tile->keys - high) * sizeof(float));
    }
    return true;
}

/* ---- running over tiles ------------------------------------------------------------------ */

/* Every tile writes its own rows: all tiles of all heads at once. */
static ca_status run_forward(ca_backend *be, const cpu_pattern *w, const ca_tensor *own,
                             const ca_tensor *prefix, cpu_tile_function *function,
                             const char *name) {
    const int64_t *tile_start;
    ca_status st = ca_cpu_tiles(be, w->seq, &tile_start);
    if (st != CA_OK) return st;
    int64_t heads = w->attention.heads, items = tile_start[w->seq->count] * heads;
    bool done = true;
#pragma omp parallel for num_threads(cpu_attention_threads(be, w->seq, &w->attention)) schedule(dynamic) reduction(&& : done)
    for (int64_t item = items - 1; item >= 0; item--) {
        int64_t s = ca_cpu_tile_sequence(tile_start, w->seq->count, item / heads);
        cpu_pattern_tile tile = {.s = s, .head = item % heads};
        tile.side =
            ca_cpu_side_of(own, prefix, w->seq, s, tile.head / (heads / w->attention.kv_heads));
        tile.keys = tile.side.count;
        tile.row0 = (item / heads - tile_start[s]) * CPU_QUERY_TILE;
        tile.rows = cpu_min(CPU_QUERY_TILE, tile.keys - tile.side.prefix_rows - tile.row0);
        tile.t0 = w->seq->row_start[s] + tile.row0;
        done = function(w, &tile, ca_cpu_thread_tiles(be)) && done;
    }
    return done ? CA_OK
                : ca_fail(CA_E_BACKEND, "cpu: %s: %s refused a tile", name, ca_cpu_libraries);
}

static void clear_rows(const ca_tensor *x, int64_t lane, int64_t t, int64_t count, int64_t h) {
    for (int64_t i = 0; x->data != NULL && i < count; i++)
        memset(head_row(x, lane, t + i, h), 0, (size_t)cpu_width(x) * sizeof(float));
}

/* `summed` (dk or dv) adds over tiles: one thread for a (sequence, head of `summed`, lane). */
static ca_status run_backward(ca_backend *be, const cpu_pattern *w, const ca_tensor *summed,
                              const ca_tensor *own, const ca_tensor *prefix,
                              cpu_tile_function *function, const char *name) {
    int64_t lanes = summed->shape[0], targets = summed->shape[2];
    int64_t per_target = w->attention.heads / targets;
    int64_t per_kv_head = w->attention.heads / w->attention.kv_heads;
    bool done = true;
#pragma omp parallel for num_threads(cpu_attention_threads(be, w->seq, &w->attention)) schedule(dynamic) reduction(&& : done)
    for (int64_t item = 0; item < w->seq->count * targets * lanes; item++) {
        cpu_pattern_tile tile = {
            .s = item / lanes / targets, .target = item / lanes % targets, .lane = item % lanes};
        int64_t head0 = tile.target * per_target, start = w->seq->row_start[tile.s];
        tile.side = ca_cpu_side_of(own, prefix, w->seq, tile.s, head0 / per_kv_head);
        tile.keys = tile.side.count;
        int64_t rows = tile.keys - tile.side.prefix_rows;
        clear_rows(summed, tile.lane, start, rows, tile.target);
        for (tile.head = head0; tile.head < head0 + per_target; tile.head++) {
            clear_rows(&w->dq, tile.lane, start, rows, tile.head);
            for (tile.row0 = 0; tile.row0 < rows; tile.row0 += CPU_QUERY_TILE) {
                tile.rows = cpu_min(CPU_QUERY_TILE, rows - tile.row0);
                tile.t0 = start + tile.row0;
                done = function(w, &tile, ca_cpu_thread_tiles(be)) && done;
            }
        }
    }
    return done ? CA_OK
                : ca_fail(CA_E_BACKEND, "cpu: %s: %s refused a tile", name, ca_cpu_libraries);
}

ca_status ca_cpu_pattern_fwd(ca_backend *be, ca_tensor pattern, ca_tensor q, ca_tensor k,
                             ca_tensor prefix_k, const ca_sequences *seq, ca_attention attention) {
    const cpu_pattern w = {.pattern = pattern, .q = q, .seq = seq, .attention = attention};
    return run_forward(be, &w, &k, &prefix_k, pattern_tile, "pattern_fwd");
}

ca_status ca_cpu_pattern_bwd(ca_backend *be, ca_tensor dq, ca_tensor dk, ca_tensor d_pattern,
                             ca_tensor pattern, ca_tensor q, ca_tensor k, ca_tensor prefix_k,
                             const ca_sequences *seq, ca_attention attention) {
    const cpu_pattern w = {.pattern = pattern,
                           .d_pattern = d_pattern,
                           .q = q,
                           .dq = dq,
                           .dk = dk,
                           .seq = seq,
                           .attention = attention};
    return run_backward(be, &w, &dk, &k, &prefix_k, pattern_tile_bwd, "pattern_bwd");
}

ca_status ca_cpu_pattern_apply_fwd(ca_backend *be, ca_tensor o, ca_tensor pattern, ca_tensor v,
                                   ca_tensor prefix_v, const ca_sequences *seq,
                                   ca_attention attention) {
    const cpu_pattern w = {.pattern = pattern, .o = o, .seq = seq, .attention = attention};
    return run_forward(be, &w, &v, &prefix_v, apply_tile, "pattern_apply_fwd");
}

ca_status ca_cpu_pattern_apply_bwd(ca_backend *be, ca_tensor d_pattern, ca_tensor dv, ca_tensor d_o,
                                   ca_tensor pattern, ca_tensor v, ca_tensor prefix_v,
                                   const ca_sequences *seq, ca_attention attention) {
    const cpu_pattern w = {.pattern = pattern,
                           .d_pattern = d_pattern,
                           .o = d_o,
                           .dv = dv,
                           .seq = seq,
                           .attention = attention};
    return run_backward(be, &w, &dv, &v, &prefix_v, apply_tile_bwd, "pattern_apply_bwd");
}
