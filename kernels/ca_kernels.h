/* SPDX-License-Identifier: MIT
 *
 * Launchers of the CUDA kernels: plain C, called by src/backend/cuda, defined in the .cu files
 * here.
 *
 * Arguments were checked by src/backend/ops.c and mean what ops.h says; every tensor lies in device
 * memory. Outputs and activations are f32; weights (matrices that are gathered from or converted)
 * may be bf16. Launchers only enqueue on the queue's stream, allocate nothing, and return the
 * launch's error (a cudaError_t; 0 is success). They are not called for no elements: ops.c returns
 * before.
 */
#ifndef CA_KERNELS_H
#define CA_KERNELS_H

#ifdef __cplusplus
extern "C" {
#endif

#include "causa/backend.h"

/* Where launches go. */
typedef struct ca_queue {
    void *stream;   /* cudaStream_t */
    int32_t *fault; /* device: set to a ca_fault by kernels that meet a bad index */
    float *scratch; /* device: of operations that say so, free again when they are done */
    int64_t scratch_count;
    int multiprocessors; /* bounds the grids of kernels that stride over their work */
    int most_blocks;     /* of a launch, along x */
} ca_queue;

/* Bad indices cannot be reported where they occur: the element becomes NaN and the next download
 * or sync reports. */
typedef enum ca_fault {
    CA_FAULT_NONE,
    CA_FAULT_GATHER,
    CA_FAULT_SCATTER,
    CA_FAULT_ROPE,
    CA_FAULT_CROSS_ENTROPY
} ca_fault;

/* ---- convert.cu: any floating dtypes, also integers where both are equal */
int ca_k_copy(const ca_queue *queue, ca_tensor dst, ca_tensor src);
int ca_k_fill(const ca_queue *queue, ca_tensor dst, double value);
/* terms [3, count] bf16; x of `count` f32 elements = their sum, exactly down to 2^-133 */
int ca_k_split_bf16(const ca_queue *queue, ca_tensor terms, ca_tensor x);

/* ---- rows.cu */
int ca_k_add_bias(const ca_queue *queue, ca_tensor y, ca_tensor bias); /* y [..., N] += bias [N] */
int ca_k_gather(const ca_queue *queue, ca_tensor y, ca_tensor x, ca_tensor index, double scale,
                bool accumulate); /* x f32 or bf16 */
int ca_k_scatter_add(const ca_queue *queue, ca_tensor y, ca_tensor index, ca_tensor x);
int ca_k_add(const ca_queue *queue, ca_tensor y, ca_tensor x, double alpha);
int ca_k_add_scaled_rows(const ca_queue *queue, ca_tensor y, ca_tensor x, ca_tensor scale,
                         double alpha);
int ca_k_multiply(const ca_queue *queue, ca_tensor y, ca_tensor x, ca_tensor w);
int ca_k_sum_heads(const ca_queue *queue, ca_tensor y, ca_tensor x, ca_tensor bias);

/* ---- norm.cu */
int ca_k_norm_fwd(const ca_queue *queue, ca_tensor y, ca_tensor x, ca_tensor gain, ca_tensor bias,
                  ca_norm norm);
int ca_k_norm_bwd(const ca_queue *queue, ca_tensor dx, ca_tensor dy, ca_tensor x, ca_tensor gain,
                  ca_norm norm, bool accumulate);
int ca_k_norm_stats(const ca_queue *queue, ca_tensor xhat, ca_tensor inverse, ca_tensor x,
                    ca_norm norm);

/* ---- rope.cu */
int ca_k_rope(const ca_queue *queue, ca_tensor x, ca_tensor cosine, ca_tensor sine,
              ca_tensor positions, bool inverse);

/* ---- attention_fwd.cu, attention_bwd.cu */
int ca_k_attention_fwd(const ca_queue *queue, ca_tensor o, ca_tensor lse, ca_tensor q, ca_tensor k,
                       ca_tensor v, ca_tensor prefix_k, ca_tensor prefix_v,
                       const ca_sequences *sequences, ca_attention attention);
int ca_k_attention_bwd(const ca_queue *queue, ca_tensor dq, ca_tensor dk, ca_tensor dv,
                       ca_tensor d_o, ca_tensor o, ca_tensor lse, ca_tensor q, ca_tensor k,
                       ca_tensor v, ca_tensor prefix_k, ca_tensor prefix_v,
                       const ca_sequences *sequences, ca_attention attention);

/* attention_fwd_bf16.cu: heads of up to CA_K_ATTENTION_BF16_WIDTH columns, else
 * cudaErrorInvalidValue. */
enum { CA_K_ATTENTION_BF16_WIDTH = 128 };
int ca_k_attention_fwd_bf16(const ca_queue *queue, ca_tensor o, ca_tensor lse, ca_tensor q,
                            ca_tensor k, ca_tensor v, ca_tensor prefix_k, ca_tensor prefix_v,
                            const ca_sequences *sequences, ca_attention attention);

/* Floats of queue->scratch that attention_bwd and pattern_bwd need for R lanes, T rows and H query
 * heads: R T H, one for each row of cotangents. With less they return cudaErrorInvalidValue. */
int64_t ca_k_attention_bwd_scratch(int64_t lanes, int64_t rows, int64_t heads);

/* ---- pattern.cu */
int ca_k_pattern_fwd(const ca_queue *queue, ca_tensor pattern, ca_tensor q, ca_tensor k,
                     ca_tensor prefix_k, const ca_sequences *sequences, ca_attention attention);
int ca_k_pattern_bwd(const ca_queue *queue, ca_tensor dq, ca_tensor dk, ca_tensor d_pattern,
                     ca_tensor pattern, ca_tensor q, ca_tensor k, ca_tensor prefix_k,
                     const ca_sequences *sequences, ca_attention attention);
int ca_k_pattern_apply_fwd(const ca_queue *queue, ca_tensor o, ca_tensor pattern, ca_tensor v,
                           ca_tensor prefix_v, const ca_sequences *sequences,
                           ca_attention attention);
int ca_k_pattern_apply_bwd(const ca_queue *queue, ca_tensor d_pattern, ca_tensor dv, ca_tensor d_o,
                           ca_tensor pattern, ca_tensor v, ca_tensor prefix_v,
                           const ca_sequences *sequences, ca_attention attention);

/* ---- intervention.cu */
int ca_k_mix_fwd(const ca_queue *queue, ca_tensor y, ca_tensor x, ca_tensor source, ca_tensor mask);
int ca_k_mix_bwd(const ca_queue *queue, ca_tensor d_x, ca_tensor d_source, ca_tensor d_mask,
                 ca_tensor dy, ca_tensor x, ca_tensor source, ca_tensor mask, bool accumulate);
int ca_k_pattern_mix_fwd(const ca_queue *queue, ca_tensor y, ca_tensor x, ca_tensor source,
                         ca_tensor mask, const ca_sequences *sequences, ca_attention attention);
int ca_k_pattern_mix_bwd(const ca_queue *queue, ca_tensor d_x, ca_tensor d_source, ca_tensor d_mask,
                         ca_tensor dy, ca_tensor x, ca_tensor source, ca_tensor mask,
                         const ca_sequences *sequences, ca_attention attention, bool accumulate);

/* ---- activation.cu */
int ca_k_act_fwd(const ca_queue *queue, ca_tensor y, ca_tensor x, ca_activation kind, bool gated);
int ca_k_act_bwd(const ca_queue *queue, ca_tensor dx, ca_tensor dy, ca_tensor x, ca_activation kind,
                 bool gated);

/* ---- head.cu */
int ca_k_soft_cap_fwd(const ca_queue *queue, ca_tensor y, ca_tensor x, double cap);
int ca_k_soft_cap_bwd(const ca_queue *queue, ca_tensor dx, ca_tensor dy, ca_tensor y, double cap);
/* Rows of more than 4096 elements need 2 floats of queue->scratch for each 4096 of one row, begun
 * ones included, else cudaErrorInvalidValue; more scratch takes more rows at once. */
int ca_k_log_sum_exp(const ca_queue *queue, ca_tensor y, ca_tensor x);
int ca_k_softmax(const ca_queue *queue, ca_tensor y, ca_tensor x);
int ca_k_top_k(const ca_queue *queue, ca_tensor values, ca_tensor indices, ca_tensor x);

/* ---- cross_entropy.cu */
int ca_k_cross_entropy_fwd(const ca_queue *queue, ca_tensor loss, ca_tensor x, ca_tensor target);
int ca_k_cross_entropy_bwd(const ca_queue *queue, ca_tensor dx, ca_tensor x, ca_tensor target,
                           ca_tensor scale);

/* ---- column_sums.cu: faster with scratch memory */
int ca_k_column_sums(const ca_queue *queue, ca_tensor y, ca_tensor x);

/* ---- optimise.cu */
int ca_k_adam_step(const ca_queue *queue, ca_tensor parameter, ca_tensor first, ca_tensor second,
                   ca_tensor gradient, ca_adam adam);

/* ---- reduce.cu */
int ca_k_row_norms(const ca_queue *queue, ca_tensor y, ca_tensor x);
int ca_k_row_dots(const ca_queue *queue, ca_tensor y, ca_tensor x, ca_tensor w);
int ca_k_row_distances(const ca_queue *queue, ca_tensor y, ca_tensor x, ca_tensor w);

#ifdef __cplusplus
}
#endif

#endif
