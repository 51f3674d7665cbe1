/* SPDX-License-Identifier: MIT
 *
 * The executor: runs a frozen decoder over packed rows, with hooks that read or rewrite values and
 * gradients, and any number of cotangents (lanes) in the backward.
 *
 *   ca_batch   packed rows: sequences of different length end to end, without padding; each may sit
 *              on a prefix, which is a range of key/value rows of another pass
 *   ca_pass    one forward over a batch between two depths with its saved values, and any number of
 *              backward passes over it; made once for the largest sizes, then used in a loop
 *   ca_hook    function called with a view of a site's value or gradient
 *
 * Nothing is allocated after ca_batch_create and ca_pass_create.
 */
#ifndef CAUSA_GRAPH_H
#define CAUSA_GRAPH_H

#include "causa/site.h"

/* ---- batch ------------------------------------------------------------------------------- */

typedef struct ca_batch {
    ca_backend *backend;
    ca_sequences sequences;
    int32_t *ids;       /* [T] host */
    int64_t *read_rows; /* [n] host: rows whose final norm and logits are computed, rising */
    int64_t reads;
    ca_tensor ids_b;  /* [T] i32, backend memory */
    ca_tensor read_b; /* [n] i64, backend memory */
    /* capacities and owned memory */
    int64_t max_sequences, max_rows, max_reads;
    int64_t *index; /* [4 max_sequences + 2] the host arrays of `sequences` */
    int32_t *positions;
    char *staging; /* host: all arrays as they lie in `memory` */
    void *memory;
} ca_batch;

ca_status ca_batch_create(ca_backend *backend, int64_t max_sequences, int64_t max_rows,
                          int64_t max_reads, ca_batch **out) CA_MUST_USE;
void ca_batch_free(ca_batch *batch);
/* Bytes of backend memory that ca_batch_create takes. */
int64_t ca_batch_bytes(int64_t max_sequences, int64_t max_rows, int64_t max_reads);

void ca_batch_clear(ca_batch *batch);
/* Appends a sequence.
 *
 * ids                        [count] own tokens (ignored by passes that start from residuals)
 * prefix_start, prefix_rows  rows of the prefix pass that come before, 0 rows for none
 * Asserts that the capacity suffices. */
void ca_batch_add(ca_batch *batch, const int32_t *ids, int64_t count, int64_t prefix_start,
                  int64_t prefix_rows);
/* Asks for final norm and logits at a row of the sequence added last; `row` counts from the start
 * of its own part; calls must come in rising order. */
void ca_batch_read(ca_batch *batch, int64_t row);
/* Sends the batch to the backend. Call once after the last add, before a pass uses it. */
ca_status ca_batch_upload(ca_batch *batch) CA_MUST_USE;

/* ---- hooks ------------------------------------------------------------------------------- */

typedef struct ca_pass ca_pass;

typedef struct ca_hook_call {
    ca_backend *backend;
    const ca_model *model;
    const ca_batch *batch;
    ca_site_kind site;
    int64_t layer;  /* -1 outside blocks */
    int64_t lanes;  /* backward: R; forward: 0 */
    bool recompute; /* a forward value is made again for the backward: edit it again, tap it not */
} ca_hook_call;

/* Hooks of a site run in list order in the forward and in reverse order in the backward.
 *
 * forward   value as in CA_SITE_LIST; may be rewritten only when `edits` is set
 * backward  gradient with a leading lane axis, [R, T, D] ...; on entry with respect to the value
 *           that this hook left, on return with respect to the value that it found. An edit must
 *           have one when the pass has lanes; a hook without edits may still rewrite gradients.
 * They enqueue backend operations and know nothing of other hooks. Either may be NULL.
 *
 * Where nothing reads attn_out or mlp_out in the forward, a backend that `accumulates` makes them
 * in the residual stream, and rounds once where a branch that is read is rounded before it is
 * added: there, and on no other backend, such a tap changes last bits. One on attn.pattern does on
 * all but `ref`, whose attention rounds probabilities as storing them does; one on attn.result on
 * all, for the heads' results are rounded before they are added. */
typedef struct ca_hook {
    ca_site_kind site;
    int64_t first_layer, last_layer; /* inclusive; ignored outside blocks */
    bool edits;
    bool per_query_head; /* attn.k, attn.v: the backward sees each query head's share of the
                            gradient, [R, T, H, Dh], before the shares of a group are added; it may
                            not rewrite them. Not with a q/k norm over all heads at once */
    ca_status (*forward)(void *context, const ca_hook_call *call, ca_tensor value);
    ca_status (*backward)(void *context, const ca_hook_call *call, ca_tensor gradient);
    void *context;
} ca_hook;

/* ---- pass -------------------------------------------------------------------------------- */

/* What a pass is made for. Sizes are upper bounds of what its batches hold. */
typedef struct ca_pass_limits {
    int64_t rows, reads;
    int64_t layers;      /* most blocks that one forward runs; 0 = all */
    int64_t lanes;       /* most cotangents of a backward; 0 = forward only */
    bool keep;           /* keep every block's values for the backward; else only block inputs are
                            kept and a block is recomputed when its gradient is needed */
    bool logits;         /* has room for logits */
    bool key_values;     /* keeps the keys and values of all layers, to serve as a prefix */
    uint32_t sites;      /* CA_SITE_BITs of all hooks */
    uint32_t edited;     /* CA_SITE_BITs of the hooks that edit */
    bool per_query_head; /* some hook asks for it */
    int64_t pattern;     /* most pattern elements per head (pattern_start[count]) when hooked */
} ca_pass_limits;

/* Adds the sites of hooks to the limits. */
void ca_pass_limits_add_hooks(ca_pass_limits *limits, const ca_hook *hooks, int64_t count);

/* Bytes of backend memory that ca_pass_create takes for these limits. */
int64_t ca_pass_bytes(const ca_arch *arch, ca_dtype dtype, const ca_pass_limits *limits);

ca_status ca_pass_create(const ca_model *model, const ca_pass_limits *limits,
                         ca_pass **out) CA_MUST_USE;
void ca_pass_free(ca_pass *pass);

typedef enum ca_head { CA_HEAD_NONE, CA_HEAD_NORM, CA_HEAD_LOGITS } ca_head;

typedef struct ca_forward {
    const ca_batch *batch;
    int64_t first_layer; /* blocks [first_layer, last_layer) are run */
    int64_t last_layer;
    ca_tensor resid;       /* [T, D] input of block first_layer; absent = embed the ids */
    ca_head head;          /* what follows the last block; only when last_layer == L */
    const ca_pass *prefix; /* made with key_values; NULL when no sequence has a prefix */
    const ca_hook *hooks;  /* must outlive the backward passes over this forward */
    int64_t hook_count;
} ca_forward;

/* A request for the whole model: embed to logits at the read rows. */
ca_forward ca_forward_all(const ca_model *model, const ca_batch *batch);

ca_status ca_pass_forward(ca_pass *pass, const ca_forward *request) CA_MUST_USE;

/* logits [n, V] of normed rows [n, D], as CA_HEAD_NORM leaves them: the vocabulary head and its
 * cap. For rows of many passes at once, which read the head's weights once. Runs no hooks. */
ca_status ca_head_forward(const ca_model *model, ca_tensor logits, ca_tensor normed) CA_MUST_USE;

/* Values of the last forward. resid of a layer: its input; `last_layer`: the output of the last
 * block. Only that one exists in forward-only passes. */
ca_tensor ca_pass_resid(const ca_pass *pass, int64_t layer);
ca_tensor ca_pass_final_norm(const ca_pass *pass); /* [n, D] */
ca_tensor ca_pass_logits(const ca_pass *pass);     /* [n, V] */

/* q [T, H, Dh], k and v [T, K, Dh] of a layer, of a pass that keeps its blocks or is at that block
 * in its backward. True: as projected; false: q and k are rotated. */
bool ca_pass_qkv(const ca_pass *pass, int64_t layer, ca_tensor *q, ca_tensor *k, ca_tensor *v);

/* Keys and values of a layer, [T, K, Dh], as the last forward of a pass made with key_values left
 * them: normed and rotated. */
void ca_pass_cache(const ca_pass *pass, int64_t layer, ca_tensor *k, ca_tensor *v);

typedef struct ca_backward {
    int64_t lanes;
    /* Cotangents, any that apply are summed: */
    ca_tensor d_logits;     /* [R, n, V]; overwritten when the model caps its logits */
    ca_tensor d_final_norm; /* [R, n, D] */
    ca_tensor d_resid;      /* [R, T, D] at the output of the last block */
    int64_t stop_layer;     /* go down to the input of this block, >= first_layer */
} ca_backward;

/* One backward over the last forward. gradient: view [R, T, D] in the pass of the gradient at the
 * input of block stop_layer (0: at the token embeddings, below any hook); valid until the next
 * backward. No weight gradients are computed. */
ca_status ca_pass_backward(ca_pass *pass, const ca_backward *request,
                           ca_tensor *gradient) CA_MUST_USE;

/* ---- parts of a block -------------------------------------------------------------------- */

/* What the forward of a pass is made of, on tensors of the caller: for methods that give the parts
 * of a block inputs of their own. No hooks run. T rows of any sequences. */

/* How a layer attends. */
ca_attention ca_block_attention(const ca_model *model, int64_t layer);
/* qkv [T, (H + 2 K) Dh] = projections of x [T, D], normed into `normed` [T, D] where the family
 * norms before attention. */
ca_status ca_block_qkv(const ca_model *model, int64_t layer, ca_tensor qkv, ca_tensor normed,
                       ca_tensor x) CA_MUST_USE;
/* Makes projections what attention reads, in place: q/k norm, then rotary positions [T] i32.
 * q [T, H, Dh], k [T, K, Dh]; with a norm per head, or none, K may be any number. */
ca_status ca_block_rotate(const ca_model *model, int64_t layer, ca_tensor q, ca_tensor k,
                          ca_tensor positions) CA_MUST_USE;
/* up [T, F], or [T, 2 F] gate | up, = what the MLP's activation function reads, of x [T, D]. */
ca_status ca_block_up(const ca_model *model, int64_t layer, ca_tensor up, ca_tensor normed,
                      ca_tensor x) CA_MUST_USE;

/* ---- plan -------------------------------------------------------------------------------- */

/* Floating-point operations (a multiply and an add count as two) from shapes alone.
 * keys: sum over rows of the keys that each row sees. */
double ca_flops_forward(const ca_arch *arch, int64_t rows, int64_t keys, int64_t layers);
double ca_flops_head(const ca_arch *arch, int64_t reads);
double ca_flops_backward(const ca_arch *arch, int64_t rows, int64_t keys, int64_t layers,
                         int64_t lanes, bool keep);
/* Keys seen by the rows of one causal sequence of `rows` rows on a prefix. */
int64_t ca_sequence_keys(const ca_arch *arch, int64_t rows, int64_t prefix);

/* Sequences cut into micro-batches, in their order. */
typedef struct ca_packing {
    int64_t batches;
    int64_t *first;        /* [batches + 1] index of the first sequence of each */
    int64_t max_sequences; /* most sequences of a micro-batch */
    ca_pass_limits limits; /* what the pass must be made for, `keep` decided */
    int64_t bytes;         /* backend memory of batch and pass together */
    int64_t keys;          /* sum of ca_sequence_keys over all sequences */
} ca_packing;

/* lengths   [count] own rows of the sequences, prefix [count] prefix rows or NULL
 * reads     rows read per sequence
 * template  lanes, logits, sites ... of the pass; rows, reads, pattern and keep are filled in
 * tokens    rows per micro-batch; 0 = as many as are of use and fit. A longer sequence is a
 *           micro-batch of its own
 * budget    bytes for batch and pass. When nothing fits, the smallest packing is given, with
 * `bytes` above the budget: whoever knows the whole need compares and says it */
ca_status ca_plan_packing(const ca_arch *arch, ca_dtype dtype, const ca_pass_limits *template,
                          const int64_t *lengths, const int64_t *prefix, int64_t count,
                          int64_t reads, int64_t tokens, int64_t budget,
                          ca_packing *out) CA_MUST_USE;
void ca_packing_free(ca_packing *packing);

#endif
