/* SPDX-License-Identifier: MIT
 *
 * The engine of activation patching: one pass over whole prompts that keeps what cells need, and
 * passes over packed cells that start at the patched layer and at the first changed row.
 *
 * A cell takes a prompt of the first pass (the target), puts the values of another one (the source)
 * in at some tokens of one place, and runs the rest. Rows before those tokens cannot change: they
 * are the prefix, read from the first pass's keys and values.
 */
#ifndef CAUSA_METHOD_PATCH_ENGINE_H
#define CAUSA_METHOD_PATCH_ENGINE_H

#include "causa/graph.h"

/* Where values are exchanged. CA_SITE_FINAL_NORM, with first == last == L, stands for what the head
 * reads at the tokens whose logits are read: nothing is run after it. CA_SITE_RESID_PRE stands for
 * the residual stream: the one that enters block `first`, or with first == L the one that leaves
 * the last block. Not attn.result, whose exchange is that of attn.z. Of attn.pattern a token's
 * value is its row: how it attends. */
typedef struct patch_place {
    ca_site_kind kind;
    int64_t first, last; /* layers, inclusive; of the stream one */
} patch_place;

typedef struct patch_cell {
    int64_t source, target; /* rows of the first pass at which the two prompts begin */
    int64_t length;         /* tokens of both */
    int64_t from, to;       /* tokens [from, to) take the source's values; at least one */
    int64_t reads;          /* last tokens whose logits are read; none before `from` */
    int64_t head;           /* -1 = all */
    const bool *tokens;     /* [length]: of [from, to) only those with true; NULL: all */
} patch_cell;

/* Upper bounds of what the two kinds of passes hold. */
typedef struct patch_sizes {
    int64_t base_rows, base_sequences, base_reads;
    int64_t base_pattern;   /* pattern elements per head of its prompts: squares of their lengths */
    int64_t cell_rows;      /* of a pass */
    int64_t cell_pattern;   /* the same of a pass: rows times keys of each cell */
    int64_t cell_sequences; /* of a pass */
    int64_t cell_reads;     /* of passes whose logits are asked for together */
} patch_sizes;

typedef struct patch_engine patch_engine;

/* Backend memory that an engine takes. */
ca_status ca_patch_engine_bytes(const ca_arch *arch, ca_dtype dtype, const patch_place *places,
                                int64_t count, patch_sizes sizes, int64_t *bytes) CA_MUST_USE;
ca_status ca_patch_engine_create(const ca_model *model, const patch_place *places, int64_t count,
                                 patch_sizes sizes, patch_engine **out) CA_MUST_USE;
void ca_patch_engine_free(patch_engine *engine);

/* The batch of whole prompts: cleared, filled (read at the last rows of each) and uploaded by the
 * caller. */
ca_batch *ca_patch_engine_base(patch_engine *engine);
/* Runs it and keeps what cells need. embed: a hook at the embeddings, or NULL. logits: the rows
 * read of each prompt, valid until the next run. */
ca_status ca_patch_engine_run_base(patch_engine *engine, const ca_hook *embed,
                                   ca_tensor *logits) CA_MUST_USE;
/* Runs cells of one place in one pass, up to the final norm. */
ca_status ca_patch_engine_run_cells(patch_engine *engine, const patch_place *place,
                                    const patch_cell *cells, int64_t count) CA_MUST_USE;
/* Logits of all cells run since the last call, the rows read of each in their order, valid until
 * the next call. Together, because reading the head's weights costs as much as its product with few
 * rows. */
ca_status ca_patch_engine_logits(patch_engine *engine, ca_tensor *logits) CA_MUST_USE;

#endif
