/* SPDX-License-Identifier: MIT
 *
 * What every method does alike: the /data group, backend buffers, the loop over micro-batches.
 */
#ifndef CAUSA_METHOD_COMMON_H
#define CAUSA_METHOD_COMMON_H

#include "causa/method.h"

/* Writes /data: id, tokens, offsets, pieces, the pair's tokens, answers, excluded rows. */
ca_status ca_method_write_data(ca_job *job) CA_MUST_USE;

/* Text of a token for readers: decoded alone. Appended to `out`. "" without a tokenizer. */
ca_status ca_method_piece(const ca_job *job, int32_t id, ca_string *out) CA_MUST_USE;

/* The same for many tokens: pieces[i] is the text of ids[i], inside `text`. The caller frees both.
 */
ca_status ca_method_pieces(const ca_job *job, const int32_t *ids, int64_t count, ca_string *text,
                           const char ***pieces) CA_MUST_USE;

/* The Philox stream of a prompt's random numbers of one kind. Its tokens name the prompt: the
 * numbers are the same wherever it stands in whichever file. `draw` tells those of one prompt and
 * kind apart. */
uint64_t ca_method_prompt_stream(const char *kind, const ca_prompt_text *prompt, int64_t draw);

/* CA_E_DATA unless an example has a corrupted prompt of the clean one's length that differs from it.
 * who: needs it, for the message: "style swap". */
ca_status ca_method_check_pair(const ca_dataset *data, const ca_example *example,
                               const char *who) CA_MUST_USE;

/* One allocation of backend memory from which a method takes its tensors. */
typedef struct method_buffers {
    ca_backend *backend;
    void *memory;
    size_t size, used;
} method_buffers;
/* Bytes that a tensor of `count` elements takes. */
size_t ca_method_buffer_bytes(int64_t count, ca_dtype dtype);
ca_status ca_method_buffers_create(ca_backend *backend, size_t bytes,
                                   method_buffers *out) CA_MUST_USE;
/* Contiguous tensor; asserts that the room suffices. */
ca_tensor ca_method_buffers_take(method_buffers *buffers, ca_dtype dtype, int rank,
                                 const int64_t *shape);
/* One tensor of a list that is taken together. */
typedef struct method_tensor {
    ca_tensor *tensor;
    ca_dtype dtype;
    int rank;
    int64_t shape[3];
} method_tensor;
/* Takes all tensors of a list; with buffers == NULL they are only measured. Gives their bytes. */
int64_t ca_method_take_list(method_buffers *buffers, const method_tensor *list, size_t count);
void ca_method_buffers_free(method_buffers *buffers);

/* Runs one micro-batch: examples [first, last). */
typedef ca_status (*method_step)(void *context, int64_t first, int64_t last);
/* Calls `step` for the micro-batches of the packing from job->resume_at on, with progress; stops
 * after the running one on a signal. done as in ca_method.run. */
ca_status ca_method_run_batches(ca_job *job, const ca_packing *packing, const char *task,
                                method_step step, void *context, int64_t *done) CA_MUST_USE;

/* Fills rows, batches and bytes of a plan from a packing. */
void ca_method_plan_packing(const ca_packing *packing, ca_plan *plan);

#endif
