/* SPDX-License-Identifier: MIT
 *
 * The table of the cuda backend: each operation is a launch.
 */
#include "cuda.h"

static ca_status cuda_copy(ca_backend *be, ca_tensor dst, ca_tensor src) {
    return CA_CUDA_LAUNCH(be, copy, dst, src);
}

static ca_status cuda_fill(ca_backend *be, ca_tensor dst, double value) {
    return CA_CUDA_LAUNCH(be, fill, dst, value);
}

static ca_status cuda_gather(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor index,
                             double scale, bool accumulate) {
    return CA_CUDA_LAUNCH(be, gather, y, x, index, scale, accumulate);
}

static ca_status cuda_scatter_add(ca_backend *be, ca_tensor y, ca_tensor index, ca_tensor x) {
    return CA_CUDA_LAUNCH(be, scatter_add, y, index, x);
}

static ca_status cuda_add(ca_backend *be, ca_tensor y, ca_tensor x, double alpha) {
    return CA_CUDA_LAUNCH(be, add, y, x, alpha);
}

static ca_status cuda_add_scaled_rows(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor scale,
                                      double alpha) {
    return CA_CUDA_LAUNCH(be, add_scaled_rows, y, x, scale, alpha);
}

static ca_status cuda_multiply(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w) {
    return CA_CUDA_LAUNCH(be, multiply, y, x, w);
}

static ca_status cuda_sum_heads(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor bias) {
    return CA_CUDA_LAUNCH(be, sum_heads, y, x, bias);
}

static ca_status cuda_norm_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor gain,
                               ca_tensor bias, ca_norm norm) {
    return CA_CUDA_LAUNCH(be, norm_fwd, y, x, gain, bias, norm);
}

static ca_status cuda_norm_bwd(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor x,
                               ca_tensor gain, ca_norm norm, bool accumulate) {
    return CA_CUDA_LAUNCH(be, norm_bwd, dx, dy, x, gain, norm, accumulate);
}

static ca_status cuda_norm_stats(ca_backend *be, ca_tensor xhat, ca_tensor inverse, ca_tensor x,
                                 ca_norm norm) {
    return CA_CUDA_LAUNCH(be, norm_stats, xhat, inverse, x, norm);
}

static ca_status cuda_rope(ca_backend *be, ca_tensor x, ca_tensor cosine, ca_tensor sine,
                           ca_tensor positions, bool inverse) {
    return CA_CUDA_LAUNCH(be, rope, x, cosine, sine, positions, inverse);
}

static ca_status cuda_attention_fwd(ca_backend *be, ca_tensor o, ca_tensor lse, ca_tensor q,
                                    ca_tensor k, ca_tensor v, ca_tensor prefix_k,
                                    ca_tensor prefix_v, const ca_sequences *sequences,
                                    ca_attention attention) {
    if (attention.narrow && be->bfloat16 && attention.head_dim <= CA_K_ATTENTION_BF16_WIDTH)
        return CA_CUDA_LAUNCH(be, attention_fwd_bf16, o, lse, q, k, v, prefix_k, prefix_v,
                              sequences, attention);
    return CA_CUDA_LAUNCH(be, attention_fwd, o, lse, q, k, v, prefix_k, prefix_v, sequences,
                          attention);
}

/* The queue with scratch memory for the backward of attention. Released when the launches are
 * enqueued: what follows on the stream may have it. A power of two, so that few sizes are kept. */
static ca_status lane_scratch(ca_backend *be, const ca_tensor *dq, ca_queue *out) {
    ca_status st = CA_OK;
    const ca_cuda_context *c = be->context;
    int64_t needed = ca_k_attention_bwd_scratch(dq->shape[0], dq->shape[1], dq->shape[2]);
    void *scratch;
    *out = c->queue;
    for (out->scratch_count = 1; out->scratch_count < needed;) out->scratch_count *= 2;
    CA_TRY(ca_cuda_alloc(be, (size_t)out->scratch_count * sizeof *out->scratch, &scratch));
    out->scratch = scratch;
out:
    return st;
}

static ca_status cuda_attention_bwd(ca_backend *be, ca_tensor dq, ca_tensor dk, ca_tensor dv,
                                    ca_tensor d_o, ca_tensor o, ca_tensor lse, ca_tensor q,
                                    ca_tensor k, ca_tensor v, ca_tensor prefix_k,
                                    ca_tensor prefix_v, const ca_sequences *sequences,
                                    ca_attention attention) {
    ca_queue queue;
    ca_status st = lane_scratch(be, &dq, &queue);
    if (st != CA_OK) return st;
    st = ca_cuda_launched(be, "attention_bwd",
                          ca_k_attention_bwd(&queue, dq, dk, dv, d_o, o, lse, q, k, v, prefix_k,
                                             prefix_v, sequences, attention));
    ca_cuda_release(be, queue.scratch);
    return st;
}

static ca_status cuda_pattern_fwd(ca_backend *be, ca_tensor pattern, ca_tensor q, ca_tensor k,
                                  ca_tensor prefix_k, const ca_sequences *sequences,
                                  ca_attention attention) {
    return CA_CUDA_LAUNCH(be, pattern_fwd, pattern, q, k, prefix_k, sequences, attention);
}

static ca_status cuda_pattern_bwd(ca_backend *be, ca_tensor dq, ca_tensor dk, ca_tensor d_pattern,
                                  ca_tensor pattern, ca_tensor q, ca_tensor k, ca_tensor prefix_k,
                                  const ca_sequences *sequences, ca_attention attention) {
    ca_queue queue;
    ca_status st = lane_scratch(be, &dq, &queue);
    if (st != CA_OK) return st;
    st = ca_cuda_launched(
        be, "pattern_bwd",
        ca_k_pattern_bwd(&queue, dq, dk, d_pattern, pattern, q, k, prefix_k, sequences, attention));
    ca_cuda_release(be, queue.scratch);
    return st;
}

static ca_status cuda_pattern_apply_fwd(ca_backend *be, ca_tensor o, ca_tensor pattern, ca_tensor v,
                                        ca_tensor prefix_v, const ca_sequences *sequences,
                                        ca_attention attention) {
    return CA_CUDA_LAUNCH(be, pattern_apply_fwd, o, pattern, v, prefix_v, sequences, attention);
}

static ca_status cuda_pattern_apply_bwd(ca_backend *be, ca_tensor d_pattern, ca_tensor dv,
                                        ca_tensor d_o, ca_tensor pattern, ca_tensor v,
                                        ca_tensor prefix_v, const ca_sequences *sequences,
                                        ca_attention attention) {
    return CA_CUDA_LAUNCH(be, pattern_apply_bwd, d_pattern, dv, d_o, pattern, v, prefix_v,
                          sequences, attention);
}

static ca_status cuda_mix_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor source,
                              ca_tensor mask) {
    return CA_CUDA_LAUNCH(be, mix_fwd, y, x, source, mask);
}

static ca_status cuda_mix_bwd(ca_backend *be, ca_tensor d_x, ca_tensor d_source, ca_tensor d_mask,
                              ca_tensor dy, ca_tensor x, ca_tensor source, ca_tensor mask,
                              bool accumulate) {
    return CA_CUDA_LAUNCH(be, mix_bwd, d_x, d_source, d_mask, dy, x, source, mask, accumulate);
}

static ca_status cuda_pattern_mix_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor source,
                                      ca_tensor mask, const ca_sequences *sequences,
                                      ca_attention attention) {
    return CA_CUDA_LAUNCH(be, pattern_mix_fwd, y, x, source, mask, sequences, attention);
}

static ca_status cuda_pattern_mix_bwd(ca_backend *be, ca_tensor d_x, ca_tensor d_source,
                                      ca_tensor d_mask, ca_tensor dy, ca_tensor x, ca_tensor source,
                                      ca_tensor mask, const ca_sequences *sequences,
                                      ca_attention attention, bool accumulate) {
    return CA_CUDA_LAUNCH(be, pattern_mix_bwd, d_x, d_source, d_mask, dy, x, source, mask,
                          sequences, attention, accumulate);
}

static ca_status cuda_act_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_activation kind,
                              bool gated) {
    return CA_CUDA_LAUNCH(be, act_fwd, y, x, kind, gated);
}

static ca_status cuda_act_bwd(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor x,
                              ca_activation kind, bool gated) {
    return CA_CUDA_LAUNCH(be, act_bwd, dx, dy, x, kind, gated);
}

static ca_status cuda_soft_cap_fwd(ca_backend *be, ca_tensor y, ca_tensor x, double cap) {
    return CA_CUDA_LAUNCH(be, soft_cap_fwd, y, x, cap);
}

static ca_status cuda_soft_cap_bwd(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor y,
                                   double cap) {
    return CA_CUDA_LAUNCH(be, soft_cap_bwd, dx, dy, y, cap);
}

static ca_status cuda_log_sum_exp(ca_backend *be, ca_tensor y, ca_tensor x) {
    return CA_CUDA_LAUNCH(be, log_sum_exp, y, x);
}

static ca_status cuda_softmax(ca_backend *be, ca_tensor y, ca_tensor x) {
    return CA_CUDA_LAUNCH(be, softmax, y, x);
}

static ca_status cuda_top_k(ca_backend *be, ca_tensor values, ca_tensor indices, ca_tensor x) {
    return CA_CUDA_LAUNCH(be, top_k, values, indices, x);
}

static ca_status cuda_cross_entropy_fwd(ca_backend *be, ca_tensor loss, ca_tensor x,
                                        ca_tensor target) {
    return CA_CUDA_LAUNCH(be, cross_entropy_fwd, loss, x, target);
}

static ca_status cuda_cross_entropy_bwd(ca_backend *be, ca_tensor dx, ca_tensor x, ca_tensor target,
                                        ca_tensor scale) {
    return CA_CUDA_LAUNCH(be, cross_entropy_bwd, dx, x, target, scale);
}

static ca_status cuda_row_norms(ca_backend *be, ca_tensor y, ca_tensor x) {
    return CA_CUDA_LAUNCH(be, row_norms, y, x);
}

static ca_status cuda_row_dots(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w) {
    return CA_CUDA_LAUNCH(be, row_dots, y, x, w);
}

static ca_status cuda_row_distances(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w) {
    return CA_CUDA_LAUNCH(be, row_distances, y, x, w);
}

static ca_status cuda_column_sums(ca_backend *be, ca_tensor y, ca_tensor x) {
    return CA_CUDA_LAUNCH(be, column_sums, y, x);
}

static ca_status cuda_adam_step(ca_backend *be, ca_tensor parameter, ca_tensor first,
                                ca_tensor second, ca_tensor gradient, ca_adam adam) {
    return CA_CUDA_LAUNCH(be, adam_step, parameter, first, second, gradient, adam);
}

const ca_backend_ops ca_cuda_ops = {
    .alloc = ca_cuda_alloc,
    .release = ca_cuda_release,
    .upload = ca_cuda_upload,
    .download = ca_cuda_download,
    .copy = cuda_copy,
    .fill = cuda_fill,
    .sync = ca_cuda_sync,
    .memory_info = ca_cuda_memory_info,
    .matmul = ca_cuda_matmul,
    .gather = cuda_gather,
    .scatter_add = cuda_scatter_add,
    .add = cuda_add,
    .add_scaled_rows = cuda_add_scaled_rows,
    .multiply = cuda_multiply,
    .sum_heads = cuda_sum_heads,
    .norm_fwd = cuda_norm_fwd,
    .norm_bwd = cuda_norm_bwd,
    .norm_stats = cuda_norm_stats,
    .rope = cuda_rope,
    .attention_fwd = cuda_attention_fwd,
    .attention_bwd = cuda_attention_bwd,
    .pattern_fwd = cuda_pattern_fwd,
    .pattern_bwd = cuda_pattern_bwd,
    .pattern_apply_fwd = cuda_pattern_apply_fwd,
    .pattern_apply_bwd = cuda_pattern_apply_bwd,
    .mix_fwd = cuda_mix_fwd,
    .mix_bwd = cuda_mix_bwd,
    .pattern_mix_fwd = cuda_pattern_mix_fwd,
    .pattern_mix_bwd = cuda_pattern_mix_bwd,
    .act_fwd = cuda_act_fwd,
    .act_bwd = cuda_act_bwd,
    .soft_cap_fwd = cuda_soft_cap_fwd,
    .soft_cap_bwd = cuda_soft_cap_bwd,
    .log_sum_exp = cuda_log_sum_exp,
    .softmax = cuda_softmax,
    .top_k = cuda_top_k,
    .cross_entropy_fwd = cuda_cross_entropy_fwd,
    .cross_entropy_bwd = cuda_cross_entropy_bwd,
    .row_norms = cuda_row_norms,
    .row_dots = cuda_row_dots,
    .row_distances = cuda_row_distances,
    .column_sums = cuda_column_sums,
    .adam_step = cuda_adam_step,
};
