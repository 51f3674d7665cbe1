/* SPDX-License-Identifier: MIT
 *
 * Between host and device, through page-locked staging memory. Transfers take their place among
 * the operations on the one stream; the host only waits for room in the staging memory, and for
 * what it downloads.
 *
 * What is uploaded crosses the bus on a stream of its own, at once and beside the operations that
 * are enqueued, into staging memory of the device; only the copy from there to its destination
 * waits for its turn.
 */
#include "cuda.h"

#include <string.h>

enum {
    HALF = 1 << 20,        /* bytes of staging memory that are filled before the other half is */
    OVERLAPPED = 16 << 10, /* least bytes: fewer are across within the time of one more copy */
    STAGING_ALIGNMENT = 64
};

ca_status ca_cuda_staging_create(ca_backend *be) {
    ca_status st = CA_OK;
    ca_cuda_context *c = be->context;
    ca_cuda_staging *s = &c->staging;
    void *landing;
    CA_CUDA(cudaStreamCreateWithFlags, &s->stream, cudaStreamNonBlocking);
    CA_CUDA(cudaEventCreateWithFlags, &s->landed, cudaEventDisableTiming);
    CA_TRY(ca_cuda_alloc(be, 2 * (size_t)HALF, &landing));
    s->landing = landing;
    for (int i = 0; i < 2; i++) {
        CA_CUDA(cudaMallocHost, (void **)&s->half[i], HALF);
        CA_CUDA(cudaEventCreateWithFlags, &s->done[i], cudaEventDisableTiming);
    }
    CA_CUDA(cudaMallocHost, (void **)&c->fault, sizeof *c->fault);
out:
    return st;
}

void ca_cuda_staging_free(ca_cuda_context *c) {
    ca_cuda_staging *s = &c->staging;
    for (int i = 0; i < 2; i++) {
        if (s->done[i]) (void)cudaEventDestroy(s->done[i]);
        if (s->half[i]) (void)cudaFreeHost(s->half[i]);
    }
    if (s->landed) (void)cudaEventDestroy(s->landed);
    if (s->stream) (void)cudaStreamDestroy(s->stream);
    if (c->fault) (void)cudaFreeHost(c->fault);
}

static size_t bytes_of(const ca_tensor *t) {
    return (size_t)ca_tensor_count(t) * ca_dtype_size(t->dtype);
}

/* Staging memory for up to `bytes` bytes, *room of them, at *at of the half that is filled. Turns
 * to the other half when this one is full, as soon as the device has taken what was there to its
 * destination, and so out of the landing too. */
static ca_status stage(ca_cuda_context *c, size_t bytes, size_t *at, size_t *room) {
    ca_status st = CA_OK;
    ca_cuda_staging *s = &c->staging;
    if (s->used == HALF) {
        CA_CUDA(cudaEventRecord, s->done[s->turn], c->queue.stream);
        s->turn = !s->turn;
        CA_CUDA(cudaEventSynchronize, s->done[s->turn]);
        s->used = 0;
    }
    *at = s->used;
    *room = bytes < HALF - s->used ? bytes : HALF - s->used;
    s->used += (*room + STAGING_ALIGNMENT - 1) / STAGING_ALIGNMENT * STAGING_ALIGNMENT;
out:
    return st;
}

/* What is staged at `at` goes to its destination. */
static ca_status send(ca_cuda_context *c, char *to, size_t at, size_t bytes) {
    ca_status st = CA_OK;
    const ca_cuda_staging *s = &c->staging;
    const char *staged = s->half[s->turn] + at;
    char *landing = s->landing + s->turn * HALF + at;
    if (bytes < OVERLAPPED) {
        CA_CUDA(cudaMemcpyAsync, to, staged, bytes, cudaMemcpyHostToDevice, c->queue.stream);
        return CA_OK;
    }
    CA_CUDA(cudaMemcpyAsync, landing, staged, bytes, cudaMemcpyHostToDevice, s->stream);
    CA_CUDA(cudaEventRecord, s->landed, s->stream);
    CA_CUDA(cudaStreamWaitEvent, c->queue.stream, s->landed, cudaEventWaitDefault);
    CA_CUDA(cudaMemcpyAsync, to, landing, bytes, cudaMemcpyDeviceToDevice, c->queue.stream);
out:
    return st;
}

ca_status ca_cuda_upload(ca_backend *be, ca_tensor dst, const void *host) {
    ca_status st = CA_OK;
    ca_cuda_context *c = be->context;
    size_t bytes = bytes_of(&dst), room, staged;
    for (size_t at = 0; at < bytes; at += room) {
        CA_TRY(stage(c, bytes - at, &staged, &room));
        memcpy(c->staging.half[c->staging.turn] + staged, (const char *)host + at, room);
        CA_TRY(send(c, (char *)dst.data + at, staged, room));
    }
out:
    return st;
}

/* Pieces of HALF bytes, in turns through the two halves; the host takes one out while the next
 * comes in. Uploads that may still be read from there are earlier on the stream, or it waits for
 * them. */
ca_status ca_cuda_download(ca_backend *be, void *host, ca_tensor src) {
    ca_status st = CA_OK;
    ca_cuda_context *c = be->context;
    ca_cuda_staging *s = &c->staging;
    size_t bytes = bytes_of(&src), at = 0, size = 0;
    for (int turn = 0;; turn = !turn, at += HALF) {
        size = bytes - at < HALF ? bytes - at : HALF;
        CA_CUDA(cudaMemcpyAsync, s->half[turn], (const char *)src.data + at, size,
                cudaMemcpyDeviceToHost, c->queue.stream);
        CA_CUDA(cudaEventRecord, s->done[turn], c->queue.stream);
        if (at > 0) {
            CA_CUDA(cudaEventSynchronize, s->done[!turn]);
            memcpy((char *)host + at - HALF, s->half[!turn], HALF);
        }
        if (at + size == bytes) {
            CA_TRY(ca_cuda_sync(be));
            memcpy((char *)host + at, s->half[turn], size);
            break;
        }
    }
    s->used = 0; /* the device has read all that was staged */
out:
    return st;
}

/* In the words of the other backends, which can name the index as well. */
static ca_status report_fault(int32_t fault) {
    static const char *const texts[] = {
        [CA_FAULT_GATHER] = "gather: index: expected rows of x, got one outside",
        [CA_FAULT_SCATTER] = "scatter_add: index: expected rising rows of y, got one outside or "
                             "out of order",
        [CA_FAULT_ROPE] = "rope: positions: expected rows of cosine and sine, got one outside",
        [CA_FAULT_CROSS_ENTROPY] = "cross_entropy: target: expected columns of x, got one outside",
    };
    bool known = fault > 0 && (size_t)fault < sizeof texts / sizeof *texts;
    return ca_fail(CA_E_SHAPE, "%s",
                   known ? texts[fault] : "expected an index within, got another");
}

ca_status ca_cuda_sync(ca_backend *be) {
    ca_status st = CA_OK;
    ca_cuda_context *c = be->context;
    CA_CUDA(cudaMemcpyAsync, c->fault, c->queue.fault, sizeof *c->fault, cudaMemcpyDeviceToHost,
            c->queue.stream);
    CA_CUDA(cudaStreamSynchronize, c->queue.stream);
    if (*c->fault == CA_FAULT_NONE) goto out;
    CA_CUDA(cudaMemsetAsync, c->queue.fault, 0, sizeof *c->fault, c->queue.stream);
    st = report_fault(*c->fault);
out:
    return st;
}
