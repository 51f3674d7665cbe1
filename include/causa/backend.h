/* SPDX-License-Identifier: MIT
 *
 * The backend table: every operation that the executor and the methods compose.
 *
 * A backend is a const table of typed function pointers. `ref` is the definition (plain C, float64
 * sums, float32 or float64 storage), `cpu` the fast float32 one; `cuda` runs on the GPU.
 * Callers use the checked functions of ops.h, never the table.
 *
 * Operations work on whole tensors and only enqueue; ca_download and ca_sync wait.
 *
 * Letters: T rows (packed tokens), D width, H query heads, K key/value heads, Dh head width,
 * F MLP width, V vocabulary, R lanes.
 */
#ifndef CAUSA_BACKEND_H
#define CAUSA_BACKEND_H

#include "causa/tensor.h"

typedef struct ca_backend ca_backend;

/* X(name): one row per backend, see src/backend/registry.c. */
#define CA_BACKEND_LIST(X) X(ref) X(cpu) X(cuda)

typedef enum ca_norm_kind { CA_NORM_RMS, CA_NORM_LAYER } ca_norm_kind;

/* RMS:   y = x / sqrt(mean(x^2) + epsilon) * (gain_offset + gain)
 * layer: y = (x - mean(x)) / sqrt(var(x) + epsilon) * (gain_offset + gain) + bias */
typedef struct ca_norm {
    ca_norm_kind kind;
    double epsilon;
    double gain_offset; /* 1 for Gemma, which stores gain - 1; else 0 */
} ca_norm;

/* X(name, text in config.json files) */
typedef enum ca_activation {
    CA_GELU,      /* x Phi(x), by erf */
    CA_GELU_TANH, /* x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 */
    CA_SILU,      /* x / (1 + exp(-x)) */
    CA_RELU
} ca_activation;

typedef struct ca_attention {
    int64_t heads, kv_heads, head_dim;
    double scale;    /* multiplies q . k */
    double soft_cap; /* c tanh(score / c) after the scale and before the mask; 0 = none */
    int64_t window;  /* key j is visible from i when i - j < window; 0 = no limit */
    bool narrow;     /* attention_fwd may round q, k, v and probabilities to bf16, as cuda does */
} ca_attention;

/* How packed rows form sequences. Row t of sequence s has row_start[s] <= t < row_start[s + 1].
 * A sequence may sit on a prefix: rows [prefix_start[s], prefix_start[s] + prefix_rows[s]) of the
 * prefix key and value tensors come before its own keys. Its rows then have positions
 * prefix_rows[s], prefix_rows[s] + 1, ... Attention is causal inside a sequence.
 *
 * Patterns are ragged: sequence s holds [H, own rows, prefix_rows + own rows] probabilities
 * starting at element H * pattern_start[s] of a flat buffer of H * pattern_start[count] elements.
 * Invisible keys have probability 0. */
typedef struct ca_sequences {
    int64_t count, rows;
    int64_t max_rows;             /* longest own part */
    int64_t max_keys;             /* longest prefix + own part */
    const int64_t *row_start;     /* [count + 1] host */
    const int64_t *prefix_start;  /* [count] host */
    const int64_t *prefix_rows;   /* [count] host */
    const int64_t *pattern_start; /* [count + 1] host */
    /* the same in backend memory, i64 */
    ca_tensor row_start_b, prefix_start_b, prefix_rows_b, pattern_start_b;
    ca_tensor positions; /* [T] i32, backend memory */
} ca_sequences;

typedef struct ca_matmul_options {
    bool transpose_a, transpose_b;
    double alpha, beta;
    bool wide; /* with b in bf16: a enters as it is instead of rounded to bf16 */
} ca_matmul_options;

/* One step of Adam, see ca_adam_step. */
typedef struct ca_adam {
    double learning_rate, beta1, beta2, epsilon;
    int64_t step;        /* 1 for the first one: corrects the bias of moments that began as 0 */
    double weight_decay; /* decoupled; 0 = Adam, else AdamW */
    double lower, upper; /* the parameter is clamped to [lower, upper]; +-INFINITY = no limit */
} ca_adam;

/* The table. NULL = this backend does not offer the operation. Shapes as in ops.h, where every
 * operation is documented; they have been checked when a function here is called. */
typedef struct ca_backend_ops {
    /* memory */
    ca_status (*alloc)(ca_backend *be, size_t bytes, void **out);
    void (*release)(ca_backend *be, void *data);
    ca_status (*upload)(ca_backend *be, ca_tensor dst, const void *host);
    ca_status (*download)(ca_backend *be, void *host, ca_tensor src);
    ca_status (*copy)(ca_backend *be, ca_tensor dst, ca_tensor src);
    ca_status (*fill)(ca_backend *be, ca_tensor dst, double value);
    ca_status (*sync)(ca_backend *be);
    ca_status (*memory_info)(ca_backend *be, size_t *available, size_t *total);
    /* dense */
    ca_status (*matmul)(ca_backend *be, ca_tensor c, ca_tensor a, ca_tensor b, ca_tensor bias,
                        ca_matmul_options options);
    /* rows */
    ca_status (*gather)(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor index, double scale,
                        bool accumulate);
    ca_status (*scatter_add)(ca_backend *be, ca_tensor y, ca_tensor index, ca_tensor x);
    ca_status (*add)(ca_backend *be, ca_tensor y, ca_tensor x, double alpha);
    ca_status (*add_scaled_rows)(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor scale,
                                 double alpha);
    ca_status (*multiply)(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w);
    ca_status (*sum_heads)(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor bias);
    /* norm */
    ca_status (*norm_fwd)(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor gain, ca_tensor bias,
                          ca_norm norm);
    ca_status (*norm_bwd)(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor x, ca_tensor gain,
                          ca_norm norm, bool accumulate);
    ca_status (*norm_stats)(ca_backend *be, ca_tensor xhat, ca_tensor inverse, ca_tensor x,
                            ca_norm norm);
    /* attention */
    ca_status (*rope)(ca_backend *be, ca_tensor x, ca_tensor cosine, ca_tensor sine,
                      ca_tensor positions, bool inverse);
    ca_status (*attention_fwd)(ca_backend *be, ca_tensor o, ca_tensor lse, ca_tensor q, ca_tensor k,
                               ca_tensor v, ca_tensor prefix_k, ca_tensor prefix_v,
                               const ca_sequences *sequences, ca_attention attention);
    ca_status (*attention_bwd)(ca_backend *be, ca_tensor dq, ca_tensor dk, ca_tensor dv,
                               ca_tensor d_o, ca_tensor o, ca_tensor lse, ca_tensor q, ca_tensor k,
                               ca_tensor v, ca_tensor prefix_k, ca_tensor prefix_v,
                               const ca_sequences *sequences, ca_attention attention);
    ca_status (*pattern_fwd)(ca_backend *be, ca_tensor pattern, ca_tensor q, ca_tensor k,
                             ca_tensor prefix_k, const ca_sequences *sequences,
                             ca_attention attention);
    ca_status (*pattern_bwd)(ca_backend *be, ca_tensor dq, ca_tensor dk, ca_tensor d_pattern,
                             ca_tensor pattern, ca_tensor q, ca_tensor k, ca_tensor prefix_k,
                             const ca_sequences *sequences, ca_attention attention);
    ca_status (*pattern_apply_fwd)(ca_backend *be, ca_tensor o, ca_tensor pattern, ca_tensor v,
                                   ca_tensor prefix_v, const ca_sequences *sequences,
                                   ca_attention attention);
    ca_status (*pattern_apply_bwd)(ca_backend *be, ca_tensor d_pattern, ca_tensor dv, ca_tensor d_o,
                                   ca_tensor pattern, ca_tensor v, ca_tensor prefix_v,
                                   const ca_sequences *sequences, ca_attention attention);
    /* intervention */
    ca_status (*mix_fwd)(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor source,
                         ca_tensor mask);
    ca_status (*mix_bwd)(ca_backend *be, ca_tensor d_x, ca_tensor d_source, ca_tensor d_mask,
                         ca_tensor dy, ca_tensor x, ca_tensor source, ca_tensor mask,
                         bool accumulate);
    ca_status (*pattern_mix_fwd)(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor source,
                                 ca_tensor mask, const ca_sequences *sequences,
                                 ca_attention attention);
    ca_status (*pattern_mix_bwd)(ca_backend *be, ca_tensor d_x, ca_tensor d_source,
                                 ca_tensor d_mask, ca_tensor dy, ca_tensor x, ca_tensor source,
                                 ca_tensor mask, const ca_sequences *sequences,
                                 ca_attention attention, bool accumulate);
    /* mlp */
    ca_status (*act_fwd)(ca_backend *be, ca_tensor y, ca_tensor x, ca_activation kind, bool gated);
    ca_status (*act_bwd)(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor x,
                         ca_activation kind, bool gated);
    /* head */
    ca_status (*soft_cap_fwd)(ca_backend *be, ca_tensor y, ca_tensor x, double cap);
    ca_status (*soft_cap_bwd)(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor y, double cap);
    ca_status (*log_sum_exp)(ca_backend *be, ca_tensor y, ca_tensor x);
    ca_status (*softmax)(ca_backend *be, ca_tensor y, ca_tensor x);
    ca_status (*top_k)(ca_backend *be, ca_tensor values, ca_tensor indices, ca_tensor x);
    ca_status (*cross_entropy_fwd)(ca_backend *be, ca_tensor loss, ca_tensor x, ca_tensor target);
    ca_status (*cross_entropy_bwd)(ca_backend *be, ca_tensor dx, ca_tensor x, ca_tensor target,
                                   ca_tensor scale);
    /* reduce */
    ca_status (*row_norms)(ca_backend *be, ca_tensor y, ca_tensor x);
    ca_status (*row_dots)(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w);
    ca_status (*row_distances)(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w);
    ca_status (*column_sums)(ca_backend *be, ca_tensor y, ca_tensor x);
    /* optimise */
    ca_status (*adam_step)(ca_backend *be, ca_tensor parameter, ca_tensor first, ca_tensor second,
                           ca_tensor gradient, ca_adam adam);
} ca_backend_ops;

struct ca_backend {
    const char *name; /* "ref", "cpu", "cuda" */
    const ca_backend_ops *ops;
    int threads;
    bool float64;       /* offers float64 storage */
    bool bfloat16;      /* offers matrices in bf16 */
    bool accumulates;   /* a matmul with beta = 1 takes less time than one with 0 and an add */
    const char *device; /* "cuda:0 (NVIDIA H200)"; NULL: the host's processor */
    size_t peak_bytes;  /* of device memory held at one time so far */
    void *context;
};

/* One row of the registry. */
typedef struct ca_backend_entry {
    const char *name;
    const char *libraries; /* "oneDNN 2.6.3, OpenMP"; NULL when this backend was not built */
    const char *how_to_build;
    /* device  its number, -1 = the backend chooses */
    ca_status (*open)(int device, int threads, ca_backend **out);
    void (*close)(ca_backend *be);
} ca_backend_entry;

/* NULL-terminated, in the order of preference for `auto` from last to first. */
const ca_backend_entry *const *ca_backend_entries(void);

/* Opens "auto", "ref", "cpu", "cuda" or "cuda:N". `auto` takes the best backend that works and
 * logs why a better one does not; an explicit name never falls back.
 *
 * threads  0 = as many as the machine (or OMP_NUM_THREADS, or the CPU affinity mask) allows
 * Errors: CA_E_CONFIG for an unknown name, CA_E_BACKEND when it cannot run here. */
ca_status ca_backend_open(const char *name, int threads, ca_backend **out) CA_MUST_USE;
void ca_backend_close(ca_backend *be);

#endif
