/* SPDX-License-Identifier: MIT
 *
 * Sites: the named places of a decoder at which values can be read, rewritten or differentiated.
 * Names follow TransformerLens without its `hook_` prefix, which is accepted too.
 */
#ifndef CAUSA_SITE_H
#define CAUSA_SITE_H

#include "causa/model.h"

/* X(kind, name, inside a block, has a head axis)
 *
 * Values, with T rows and n read rows:
 *   embed, resid_pre, attn_in, attn_out, resid_mid, mlp_in, mlp_out, resid_post  [T, D]
 *   attn.q, attn.z [T, H, Dh]   attn.k, attn.v [T, K, Dh]   attn.result [T, H, D]
 *   attn.pattern   flat, see ca_sequences       mlp.pre, mlp.post [T, F]
 *   final_norm     [n, D]                       logits [n, V]
 * attn_in and mlp_in are the residual stream as the branch reads it, before its norm: an edit changes
 * what the branch reads, not the stream. q, k and v are the projections, before any q/k norm and
 * before RoPE. mlp.pre is what the activation function reads (the gate's half of a gated MLP), mlp.post what the output projection
 * reads. attn_out and mlp_out are what is added to the residual stream. */
#define CA_SITE_LIST(X)                                                                            \
    X(CA_SITE_EMBED, "embed", false, false)                                                        \
    X(CA_SITE_RESID_PRE, "resid_pre", true, false)                                                 \
    X(CA_SITE_ATTN_IN, "attn_in", true, false)                                                     \
    X(CA_SITE_Q, "attn.q", true, true)                                                             \
    X(CA_SITE_K, "attn.k", true, true)                                                             \
    X(CA_SITE_V, "attn.v", true, true)                                                             \
    X(CA_SITE_PATTERN, "attn.pattern", true, true)                                                 \
    X(CA_SITE_Z, "attn.z", true, true)                                                             \
    X(CA_SITE_RESULT, "attn.result", true, true)                                                   \
    X(CA_SITE_ATTN_OUT, "attn_out", true, false)                                                   \
    X(CA_SITE_RESID_MID, "resid_mid", true, false)                                                 \
    X(CA_SITE_MLP_IN, "mlp_in", true, false)                                                       \
    X(CA_SITE_MLP_PRE, "mlp.pre", true, false)                                                     \
    X(CA_SITE_MLP_POST, "mlp.post", true, false)                                                   \
    X(CA_SITE_MLP_OUT, "mlp_out", true, false)                                                     \
    X(CA_SITE_RESID_POST, "resid_post", true, false)                                               \
    X(CA_SITE_FINAL_NORM, "final_norm", false, false)                                              \
    X(CA_SITE_LOGITS, "logits", false, false)

typedef enum ca_site_kind {
#define CA_SITE_ENUM(kind, name, block, head) kind,
    CA_SITE_LIST(CA_SITE_ENUM)
#undef CA_SITE_ENUM
        CA_SITE_COUNT
} ca_site_kind;

typedef struct ca_site {
    ca_site_kind kind;
    int64_t layer; /* -1 outside blocks */
    int64_t head;  /* -1 = the whole site */
} ca_site;

/* Bit of a site kind in a set. */
#define CA_SITE_BIT(kind) (1u << (kind))

/* Parses "blocks.[0-3,8].attn.z[2,7]", "blocks.*.resid_post", "final_norm" and expands it into one
 * site per layer and per head named, layers slowest. Without brackets: the whole site.
 *
 * sites  appended to; *sites is grown, the caller frees it
 * Errors: CA_E_CONFIG with what is wrong and the nearest known name; layers and heads are checked
 * against the architecture; resid_mid does not exist in parallel blocks. */
ca_status ca_site_parse(const char *text, const ca_arch *arch, ca_site **sites, int64_t *count) CA_MUST_USE;

enum { CA_SITE_NAME_MAX = 64 };
/* "blocks.3.attn.z[2]" */
const char *ca_site_name(ca_site site, char text[CA_SITE_NAME_MAX]);
const char *ca_site_kind_name(ca_site_kind kind);
bool ca_site_has_heads(ca_site_kind kind);
bool ca_site_in_block(ca_site_kind kind);
/* Heads of a site (K for attn.k and attn.v), 1 where it has none. */
int64_t ca_site_heads(const ca_arch *arch, ca_site_kind kind);
/* Values per row and head: D, Dh, F or V; 0 for attn.pattern, whose rows differ in length. */
int64_t ca_site_width(const ca_arch *arch, ca_site_kind kind);

#endif
