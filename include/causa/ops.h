/* SPDX-License-Identifier: MIT
 *
 * The operations, checked: shapes, dtypes, strides and aliasing are verified here once for every
 * backend, then the backend's table entry is called. Returns CA_E_SHAPE with the operation, the
 * argument, what was expected and what came.
 *
 * Unless said otherwise every tensor has the same floating dtype (f32, or f64 on `ref`), inputs may
 * be strided or repeated (stride 0), outputs may be strided but not repeated, and outputs do not
 * overlap inputs. "[..., D]" is any number of leading axes, the same for all such arguments.
 */
#ifndef CAUSA_OPS_H
#define CAUSA_OPS_H

#include "causa/backend.h"

/* ---- memory */

/* At least `bytes` bytes, 64-aligned. `ref` fills new memory with NaN so that a read before a
 * write shows. Errors: CA_E_MEMORY. */
ca_status ca_alloc(ca_backend *be, size_t bytes, void **out) CA_MUST_USE;
void ca_release(ca_backend *be, void *data);
/* host -> dst, dst contiguous; the same dtype. `host` may be reused on return. */
ca_status ca_upload(ca_backend *be, ca_tensor dst, const void *host) CA_MUST_USE;
/* src -> host, waits. src contiguous. */
ca_status ca_download(ca_backend *be, void *host, ca_tensor src) CA_MUST_USE;
/* An f32, f64 or bf16 tensor -> host as float64, waits. staging: room for its values as they are
 * stored. */
ca_status ca_download_f64(ca_backend *be, ca_tensor src, void *staging, double *host) CA_MUST_USE;
/* float64 host -> an f32, f64 or bf16 tensor (bf16: through f32). staging: as above. */
ca_status ca_upload_f64(ca_backend *be, ca_tensor dst, void *staging, const double *host) CA_MUST_USE;
/* dst = src, same shape; floating dtypes may differ (round to nearest even). */
ca_status ca_copy(ca_backend *be, ca_tensor dst, ca_tensor src) CA_MUST_USE;
ca_status ca_fill(ca_backend *be, ca_tensor dst, double value) CA_MUST_USE;
ca_status ca_sync(ca_backend *be) CA_MUST_USE;
ca_status ca_memory_info(ca_backend *be, size_t *available, size_t *total) CA_MUST_USE;

/* ---- dense */

/* c = alpha op(a) op(b) + beta c + bias
 *
 * c [M, N], a [M, K] ([K, M] when transpose_a), b [K, N] ([N, K] when transpose_b); or all three
 * with one or two leading axes, [B, M, N] or [G, B, M, N]: a product for each place in them. Each
 * axis has a stride of its own, 0 repeats an input: heads in groups that share a factor are
 * [groups, heads of a group, ...] with stride 0 along the second axis of that factor. bias [N] or
 * absent. beta == 0 never reads c.
 *
 * b may be bf16 where the backend offers it. Then a is rounded to bf16, to nearest even, and the
 * products, which are exact in f32, are summed in f32 (`ref`: float64). With options.wide a enters
 * as it is: for the algebra of methods, where sums cancel. Where b is bf16 a may be too: for what
 * enters many products, which is then rounded once, by ca_copy. */
ca_status ca_matmul(ca_backend *be, ca_tensor c, ca_tensor a, ca_tensor b, ca_tensor bias,
                    ca_matmul_options options) CA_MUST_USE;
/* y [T, out] = x [T, in] w^T + bias; w [out, in] as Hugging Face stores it, perhaps in bf16. */
ca_status ca_linear_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w,
                        ca_tensor bias) CA_MUST_USE;
/* dx [..., in] = dy [..., out] w; both contiguous (lanes are more rows); w as above. */
ca_status ca_linear_bwd(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor w) CA_MUST_USE;

/* ---- rows */

/* y[r, i] = scale x[r, index[i]] (+ y[r, i] when accumulate)
 * y [n, D] or [R, n, D], x [N, D] or [R, N, D], perhaps in bf16; index [n] i32 or i64, each in
 * [0, N). */
ca_status ca_gather(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor index, double scale,
                    bool accumulate) CA_MUST_USE;
/* y[r, index[i]] += x[r, i]; index [n] i64 strictly increasing. */
ca_status ca_scatter_add(ca_backend *be, ca_tensor y, ca_tensor index, ca_tensor x) CA_MUST_USE;
/* y += alpha x, same shape. */
ca_status ca_add(ca_backend *be, ca_tensor y, ca_tensor x, double alpha) CA_MUST_USE;
/* y = x * w, elementwise, same shape; y == x is allowed. */
ca_status ca_multiply(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w) CA_MUST_USE;
/* y += alpha scale x, a factor for each row: y, x [..., D], scale [...]. */
ca_status ca_add_scaled_rows(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor scale,
                             double alpha) CA_MUST_USE;
/* y [T, D] = sum over h of x [T, H, D] in the order of h, + bias [D] or absent. */
ca_status ca_sum_heads(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor bias) CA_MUST_USE;

/* ---- norm: over the last axis */

/* y, x [..., D]; gain [D]; bias [D] or absent. In place (y == x) is allowed. */
ca_status ca_norm_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor gain, ca_tensor bias,
                      ca_norm norm) CA_MUST_USE;
/* dx (+)= (d norm / d x)^T dy at x. dx, dy, x [..., D] of one shape (repeat x for lanes).
 * dx == dy is allowed when not accumulating. */
ca_status ca_norm_bwd(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor x, ca_tensor gain,
                      ca_norm norm, bool accumulate) CA_MUST_USE;
/* What the gradient of a norm needs of its input:
 *
 *   xhat    = (x - mean) inverse, RMS: x inverse; the row without gain and bias
 *   inverse = 1 / sqrt(variance + epsilon), RMS: of the mean square; in 1 / units of x
 *
 * xhat, x [..., D]; inverse [...]; xhat == x is allowed. Of `norm` the gain offset does not count.
 * With c = dy (gain_offset + gain), norm_bwd is inverse (c - mean(c) - xhat mean(c xhat)), for RMS
 * without mean(c). Hence dx . v needs c . v, xhat . v and sums, and no dx of its own for each v. */
ca_status ca_norm_stats(ca_backend *be, ca_tensor xhat, ca_tensor inverse, ca_tensor x,
                        ca_norm norm) CA_MUST_USE;

/* ---- attention */

/* Rotates halves (i, i + n/2) of the first n of the Dh values of each head, in place.
 * x [T, H, Dh] or [R, T, H, Dh]; cosine, sine [P, n / 2], n <= Dh; positions [T] i32 in [0, P).
 * inverse: rotates back, which is also the gradient. */
ca_status ca_rope(ca_backend *be, ca_tensor x, ca_tensor cosine, ca_tensor sine,
                  ca_tensor positions, bool inverse) CA_MUST_USE;

/* o = softmax(mask(cap(scale q k^T))) v without storing the probabilities.
 * o, q [T, H, Dh]; k, v [T, K, Dh]; H a multiple of K; lse [T, H]: log of the sum of exp(score);
 * prefix_k, prefix_v [P, K, Dh] or absent (then every prefix_rows is 0). */
ca_status ca_attention_fwd(ca_backend *be, ca_tensor o, ca_tensor lse, ca_tensor q, ca_tensor k,
                           ca_tensor v, ca_tensor prefix_k, ca_tensor prefix_v,
                           const ca_sequences *sequences, ca_attention attention) CA_MUST_USE;
/* Gradients of attention_fwd for R cotangents; the prefix is constant.
 * dq, d_o [R, T, H, Dh]; dk, dv [R, T, K, Dh], or [R, T, H, Dh]: then each query head keeps its
 * own share and head h belongs to key/value head h / (H / K). */
ca_status ca_attention_bwd(ca_backend *be, ca_tensor dq, ca_tensor dk, ca_tensor dv, ca_tensor d_o,
                           ca_tensor o, ca_tensor lse, ca_tensor q, ca_tensor k, ca_tensor v,
                           ca_tensor prefix_k, ca_tensor prefix_v, const ca_sequences *sequences,
                           ca_attention attention) CA_MUST_USE;

/* The same in two steps with the probabilities in between, for hooks on `attn.pattern`. On `ref`
 * o has the same bits either way.
 * pattern [H * pattern_start[count]] flat, see ca_sequences; d_pattern [R, the same]. Elements of
 * invisible keys are written as 0 and never read. */
ca_status ca_pattern_fwd(ca_backend *be, ca_tensor pattern, ca_tensor q, ca_tensor k,
                         ca_tensor prefix_k, const ca_sequences *sequences,
                         ca_attention attention) CA_MUST_USE;
ca_status ca_pattern_bwd(ca_backend *be, ca_tensor dq, ca_tensor dk, ca_tensor d_pattern,
                         ca_tensor pattern, ca_tensor q, ca_tensor k, ca_tensor prefix_k,
                         const ca_sequences *sequences, ca_attention attention) CA_MUST_USE;
ca_status ca_pattern_apply_fwd(ca_backend *be, ca_tensor o, ca_tensor pattern, ca_tensor v,
                               ca_tensor prefix_v, const ca_sequences *sequences,
                               ca_attention attention) CA_MUST_USE;
ca_status ca_pattern_apply_bwd(ca_backend *be, ca_tensor d_pattern, ca_tensor dv, ca_tensor d_o,
                               ca_tensor pattern, ca_tensor v, ca_tensor prefix_v,
                               const ca_sequences *sequences, ca_attention attention) CA_MUST_USE;

/* ---- intervention: values replaced softly by those of another run
 *
 * A mask value m is a mixing weight: 0 keeps x and 1 takes the source, both bit for bit and
 * whatever the other one holds; values between (and beyond) mix linearly, x + m (source - x), so
 * that equal values stay as they are under any mask.
 * Source: De Cao et al. 2020, "How do decisions emerge across layers in neural models?" (masks that
 * replace hidden states, trained by gradients). */

/* y = (1 - mask) x + mask source
 *
 * y, x, source [..., W]; y == x is allowed. mask [..., W], or [..., 1]: one weight for a row. The
 * mask has the same leading axes; those along which it does not vary have stride 0, so that it
 * serves a channel, a head ([T, H, 1]), a row or a lane. */
ca_status ca_mix_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor source,
                     ca_tensor mask) CA_MUST_USE;
/* d_x (+)= (1 - mask) dy;  d_source = mask dy;  d_mask = dy (source - x)
 *
 * d_x, dy, x, source, mask of the shapes above (repeat x, source and mask for lanes); accumulate
 * concerns d_x, and d_x == dy is allowed when not accumulating. d_source as dy, or absent. d_mask
 * as mask but never repeated, or absent; [..., 1]: summed over the last axis. A mask that is
 * repeated along other axes sums d_mask over them (ca_column_sums). x and source may be absent
 * together with d_mask. */
ca_status ca_mix_bwd(ca_backend *be, ca_tensor d_x, ca_tensor d_source, ca_tensor d_mask,
                     ca_tensor dy, ca_tensor x, ca_tensor source, ca_tensor mask,
                     bool accumulate) CA_MUST_USE;

/* The same on attention patterns, with one weight per row and head.
 *
 * y, x, source [H * pattern_start[count]] flat, see ca_sequences; y == x is allowed; mask [T, H]
 * (one per head: repeat T). Of `attention` only heads and window count. Elements of invisible keys
 * are written as 0 and never read. */
ca_status ca_pattern_mix_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor source,
                             ca_tensor mask, const ca_sequences *sequences,
                             ca_attention attention) CA_MUST_USE;
/* d_x, d_source, dy [R, the same]; d_mask [R, T, H] sums over the keys; x, source and mask have no
 * lanes. What may be absent, accumulated and in place is as in ca_mix_bwd. */
ca_status ca_pattern_mix_bwd(ca_backend *be, ca_tensor d_x, ca_tensor d_source, ca_tensor d_mask,
                             ca_tensor dy, ca_tensor x, ca_tensor source, ca_tensor mask,
                             const ca_sequences *sequences, ca_attention attention,
                             bool accumulate) CA_MUST_USE;

/* ---- mlp */

/* plain: y [..., F] = act(x [..., F]).  gated: y = act(x[..., :F]) * x[..., F:], x [..., 2 F]. */
ca_status ca_act_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_activation kind,
                     bool gated) CA_MUST_USE;
/* dx as x; dy [..., F]; repeat x for lanes. */
ca_status ca_act_bwd(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor x, ca_activation kind,
                     bool gated) CA_MUST_USE;

/* ---- head */

/* y = cap tanh(x / cap); y == x is allowed. */
ca_status ca_soft_cap_fwd(ca_backend *be, ca_tensor y, ca_tensor x, double cap) CA_MUST_USE;
/* dx = dy (1 - (y / cap)^2), y as the forward left it; dx == dy is allowed. */
ca_status ca_soft_cap_bwd(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor y,
                          double cap) CA_MUST_USE;
/* y [n] = log sum exp over the last axis of x [n, V]. */
ca_status ca_log_sum_exp(ca_backend *be, ca_tensor y, ca_tensor x) CA_MUST_USE;
/* y = softmax over the last axis of x [..., V]; y == x is allowed. */
ca_status ca_softmax(ca_backend *be, ca_tensor y, ca_tensor x) CA_MUST_USE;
/* The k largest of each row of x [n, V], falling; ties by rising index. NaN sorts first.
 * values [n, k], indices [n, k] i32, k <= V. */
ca_status ca_top_k(ca_backend *be, ca_tensor values, ca_tensor indices, ca_tensor x) CA_MUST_USE;

/* loss [n] = log sum exp(x [n, V]) - x[n, target[n]], in nats; target [n] i32, each in [0, V). */
ca_status ca_cross_entropy_fwd(ca_backend *be, ca_tensor loss, ca_tensor x,
                               ca_tensor target) CA_MUST_USE;
/* dx [n, V] = scale[n] (softmax(x[n]) - onehot(target[n])); scale [n]: the gradient at each loss.
 * The target's element, -scale times the sum of the other probabilities, keeps its digits where the
 * target has nearly all of it. dx == x is allowed. */
ca_status ca_cross_entropy_bwd(ca_backend *be, ca_tensor dx, ca_tensor x, ca_tensor target,
                               ca_tensor scale) CA_MUST_USE;

/* ---- reduce */

/* y [...] = Euclidean norm over the last axis of x [..., D]. */
ca_status ca_row_norms(ca_backend *be, ca_tensor y, ca_tensor x) CA_MUST_USE;
/* y [...] = sum over the last axis of x [..., D] w [..., D]; repeat w for lanes. */
ca_status ca_row_dots(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w) CA_MUST_USE;
/* y [...] = sum over the last axis of |x - w|, x and w [..., D]; w absent: of |x|. The L1 distance
 * of rows, or their L1 norm; repeat x or w to compare one row with many. */
ca_status ca_row_distances(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w) CA_MUST_USE;
/* y [..., D] = sum over T of x [..., T, D] along one fixed binary tree; 0 when T is 0.
 *
 * The tree over T rows: one row is its own sum; else the sum of the first P rows plus that of the
 * others, P being the largest power of two below T, both along their own trees. 7 rows make
 * ((0 + 1) + (2 + 3)) + ((4 + 5) + 6). Every addition is rounded to the dtype, also on `ref`, so
 * all backends agree bit for bit.
 *
 * Rows [k C, (k + 1) C) are a subtree when C is a power of two: the sums of such chunks, wherever
 * they were made, add up to the same bits when column_sums adds them. */
ca_status ca_column_sums(ca_backend *be, ca_tensor y, ca_tensor x) CA_MUST_USE;

/* ---- optimise */

/* One step of Adam on a parameter and its first and second moment, all in place:
 *
 *   first     = beta1 first + (1 - beta1) gradient
 *   second    = beta2 second + (1 - beta2) gradient^2
 *   parameter = clamp(parameter (1 - learning_rate weight_decay) - learning_rate *
 *               (first / (1 - beta1^step)) / (sqrt(second / (1 - beta2^step)) + epsilon))
 *
 * parameter, first, second, gradient [...] of one shape; both moments are 0 before step 1.
 * Errors: also CA_E_SHAPE for numbers out of range.
 * Sources: Kingma and Ba 2015, "Adam: a method for stochastic optimization", algorithm 1;
 * Loshchilov and Hutter 2019, "Decoupled weight decay regularization", algorithm 2.
 * Differs: the decay is multiplied by the learning rate, as PyTorch's AdamW does; clamping is
 * ours. */
ca_status ca_adam_step(ca_backend *be, ca_tensor parameter, ca_tensor first, ca_tensor second,
                       ca_tensor gradient, ca_adam adam) CA_MUST_USE;

#endif
