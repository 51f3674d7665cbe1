/* SPDX-License-Identifier: MIT
 *
 * Plans from shapes alone: floating-point operations, and the cut of sequences into micro-batches
 * that fit a memory limit.
 */
#include "causa/graph.h"

#include <stdlib.h>

/* ---- operations ---- */

int64_t ca_sequence_keys(const ca_arch *arch, int64_t rows, int64_t prefix) {
    (void)arch; /* windows see fewer keys; counted as if they saw all */
    return rows * prefix + rows * (rows + 1) / 2;
}

static double weights_per_block(const ca_arch *a) {
    double qkv = (double)(a->heads + 2 * a->kv_heads) * (double)a->head_dim;
    double out = (double)a->heads * (double)a->head_dim;
    double mlp = (double)(a->gated ? 3 : 2) * (double)a->mlp_width;
    return (qkv + out + mlp) * (double)a->width;
}

/* q k^T and p v: 4 H Dh per (row, key) pair. */
static double attention_flops(const ca_arch *a, int64_t keys) {
    return 4.0 * (double)a->heads * (double)a->head_dim * (double)keys;
}

double ca_flops_forward(const ca_arch *arch, int64_t rows, int64_t keys, int64_t layers) {
    return (double)layers *
           (2.0 * (double)rows * weights_per_block(arch) + attention_flops(arch, keys));
}

double ca_flops_head(const ca_arch *arch, int64_t reads) {
    return 2.0 * (double)reads * (double)arch->width * (double)arch->vocab;
}

double ca_flops_backward(const ca_arch *arch, int64_t rows, int64_t keys, int64_t layers,
                         int64_t lanes, bool keep) {
    /* Per lane: one product per weight, and dP, dV, dQ, dK; the scores are made again for all. */
    double linear = 2.0 * (double)rows * weights_per_block(arch),
           scores = attention_flops(arch, keys);
    double block = (double)lanes * (linear + 2 * scores) + scores / 2;
    double again = ca_flops_forward(arch, rows, keys, 1) -
                   2.0 * (double)rows * (double)arch->width * (double)arch->mlp_width;
    return (double)layers * (block + (keep ? 0 : again));
}

/* ---- micro-batches ---- */

enum { MOST_ROWS = 1024 }; /* GEMMs of more rows run no faster on the CPUs tried */

/* Cuts the sequences at `tokens` rows per batch; fills `first` and the limits. */
static void cut(const int64_t *lengths, const int64_t *prefix, int64_t count, int64_t reads,
                int64_t tokens, ca_packing *p) {
    int64_t rows = 0, pattern = 0, sequences = 0;
    p->batches = 0;
    p->max_sequences = p->limits.rows = p->limits.reads = p->limits.pattern = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t keys = lengths[i] + (prefix ? prefix[i] : 0);
        if (i == 0 || rows + lengths[i] > tokens) {
            p->first[p->batches++] = i;
            rows = pattern = sequences = 0;
        }
        rows += lengths[i];
        pattern += lengths[i] * keys;
        sequences++;
        if (rows > p->limits.rows) p->limits.rows = rows;
        if (pattern > p->limits.pattern) p->limits.pattern = pattern;
        if (sequences > p->max_sequences) p->max_sequences = sequences;
    }
    p->first[p->batches] = count;
    p->limits.reads = p->max_sequences * reads;
}

static int64_t bytes_of(const ca_arch *arch, ca_dtype dtype, const ca_packing *p) {
    return ca_pass_bytes(arch, dtype, &p->limits) +
           ca_batch_bytes(p->max_sequences, p->limits.rows, p->limits.reads);
}

ca_status ca_plan_packing(const ca_arch *arch, ca_dtype dtype, const ca_pass_limits *template,
                          const int64_t *lengths, const int64_t *prefix, int64_t count,
                          int64_t reads, int64_t tokens, int64_t budget, ca_packing *out) {
    ca_status st = CA_OK;
    int64_t longest = 0;
    ca_packing p = {.limits = *template};
    CA_TRY(ca_calloc((size_t)count + 1, sizeof *p.first, &p.first));
    for (int64_t i = 0; i < count; i++) {
        if (lengths[i] > longest) longest = lengths[i];
        p.keys += ca_sequence_keys(arch, lengths[i], prefix ? prefix[i] : 0);
    }
    /* Halve the rows until it fits, or nothing smaller is left. Recomputing costs a forward and
     * smaller batches cost less, so it is tried only when the rows of the longest sequence alone do
     * not fit otherwise. */
    for (int64_t rows = tokens ? tokens : MOST_ROWS;; rows /= 2) {
        bool recompute = template->lanes && (rows <= longest || tokens);
        cut(lengths, prefix, count, reads, rows, &p);
        for (int again = 0; again <= recompute; again++) {
            p.limits.keep = !again;
            p.bytes = bytes_of(arch, dtype, &p);
            if (p.bytes <= budget) goto found;
        }
        if (tokens || rows <= 1) break;
    }
found:
    *out = p;
out:
    return st;
}

void ca_packing_free(ca_packing *packing) {
    free(packing->first);
    packing->first = NULL;
}
