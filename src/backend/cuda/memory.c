/* SPDX-License-Identifier: MIT
 *
 * Device memory: asking the driver for it waits for the device, so released blocks are kept for
 * the next request of the same size, and given back when an allocation would fail. Work is
 * enqueued on one stream, so a block may change hands while earlier work still uses it.
 */
#include "cuda.h"

#include <assert.h>
#include <stdlib.h>

enum { GRAIN = 512 }; /* bytes; sizes are rounded up to it */

static ca_cuda_block *kept_block(ca_cuda_context *c, size_t bytes) {
    for (int64_t i = 0; i < c->block_count; i++)
        if (!c->blocks[i].used && c->blocks[i].bytes == bytes) return &c->blocks[i];
    return NULL;
}

/* Frees the blocks that nobody uses. */
static ca_status give_back(ca_cuda_context *c) {
    ca_status st = CA_OK;
    int64_t kept = 0;
    CA_CUDA(cudaStreamSynchronize, c->queue.stream);
    for (int64_t i = 0; i < c->block_count; i++) {
        ca_cuda_block block = c->blocks[i];
        if (block.used) {
            c->blocks[kept++] = block;
        } else {
            (void)cudaFree(block.data);
            c->held -= block.bytes;
        }
    }
    c->block_count = kept;
out:
    return st;
}

static ca_status out_of_memory(ca_cuda_context *c, size_t bytes) {
    size_t available = 0, total = 0;
    char asked_text[32], available_text[32], total_text[32];
    (void)cudaGetLastError();
    (void)cudaMemGetInfo(&available, &total);
    return ca_fail(CA_E_MEMORY, "%s: expected room for %s, got %s free of %s", c->name,
                   ca_bytes_text(bytes > INT64_MAX ? INT64_MAX : (int64_t)bytes, asked_text),
                   ca_bytes_text((int64_t)available, available_text),
                   ca_bytes_text((int64_t)total, total_text));
}

static ca_status new_block(ca_cuda_context *c, size_t bytes, ca_cuda_block **out) {
    ca_status st = CA_OK;
    void *data = NULL;
    CA_TRY(ca_grow(&c->blocks, &c->block_capacity, c->block_count + 1, sizeof *c->blocks));
    cudaError_t error = cudaMalloc(&data, bytes);
    if (error == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        CA_TRY(give_back(c));
        error = cudaMalloc(&data, bytes);
    }
    if (error == cudaErrorMemoryAllocation) return out_of_memory(c, bytes);
    CA_TRY(ca_cuda_error(c, "cudaMalloc", error));
    *out = &c->blocks[c->block_count++];
    **out = (ca_cuda_block){.data = data, .bytes = bytes};
    c->held += bytes;
out:
    return st;
}

ca_status ca_cuda_alloc(ca_backend *be, size_t bytes, void **out) {
    ca_status st = CA_OK;
    ca_cuda_context *c = be->context;
    ca_cuda_block *block;
    size_t rounded;
    *out = NULL;
    if (!ca_add_size(bytes, bytes ? GRAIN - 1 : GRAIN, &rounded)) return out_of_memory(c, bytes);
    rounded -= rounded % GRAIN;
    block = kept_block(c, rounded);
    if (!block) CA_TRY(new_block(c, rounded, &block));
    block->used = true;
    *out = block->data;
    if (c->held > be->peak_bytes) be->peak_bytes = c->held;
out:
    return st;
}

void ca_cuda_release(ca_backend *be, void *data) {
    ca_cuda_context *c = be->context;
    if (!data) return;
    for (int64_t i = 0; i < c->block_count; i++)
        if (c->blocks[i].data == data) {
            assert(c->blocks[i].used);
            c->blocks[i].used = false;
            return;
        }
    assert(!"released memory belongs to this backend");
}

void ca_cuda_blocks_free(ca_cuda_context *c) {
    for (int64_t i = 0; i < c->block_count; i++) (void)cudaFree(c->blocks[i].data);
    free(c->blocks);
}

ca_status ca_cuda_memory_info(ca_backend *be, size_t *available, size_t *total) {
    ca_status st = CA_OK;
    ca_cuda_context *c = be->context;
    CA_CUDA(cudaMemGetInfo, available, total);
    for (int64_t i = 0; i < c->block_count; i++)
        if (!c->blocks[i].used) *available += c->blocks[i].bytes;
out:
    return st;
}
