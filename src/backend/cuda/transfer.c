/* SPDX-License-Identifier: MIT
 *
 * Between host and device, through page-locked staging memory. Transfers take their place among
 * the operations on the one stream; the host only waits for room in the staging memory, and for
 * what it downloads.
 */
#include "cuda.h"

#include <string.h>

enum {
    HALF = 4 << 20, /* bytes of staging memory that are filled before the other half is */
    STAGING_ALIGNMENT = 64
};

ca_status ca_cuda_staging_create(ca_cuda_context *c) {
    ca_status st = CA_OK;
    ca_cuda_staging *s = &c->staging;
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
    if (c->fault) (void)cudaFreeHost(c->fault);
}

static size_t bytes_of(const ca_tensor *t) {
    return (size_t)ca_tensor_count(t) * ca_dtype_size(t->dtype);
}

/* Staging memory for up to `bytes` bytes, *room of them. Turns to the other half when this one is
 * full, as soon as the device has read what was there. */
static ca_status stage(ca_cuda_context *c, size_t bytes, char **to, size_t *room) {
    ca_status st = CA_OK;
    ca_cuda_staging *s = &c->staging;
    if (s->used == HALF) {
        CA_CUDA(cudaEventRecord, s->done[s->turn], c->queue.stream);
        s->turn = !s->turn;
        CA_CUDA(cudaEventSynchronize, s->done[s->turn]);
        s->used = 0;
    }
    *to = s->half[s->turn] + s->used;
    *room = bytes < HALF - s->used ? bytes : HALF - s->used;
    s->used += (*room + STAGING_ALIGNMENT - 1) / STAGING_ALIGNMENT * STAGING_ALIGNMENT;
out:
    return st;
}

ca_status ca_cuda_upload(ca_backend *be, ca_tensor dst, const void *host) {
    ca_status st = CA_OK;
    ca_cuda_context *c = be->context;
    size_t bytes = bytes_of(&dst), room;
    for (size_t at = 0; at < bytes; at += room) {
        char *staged;
        CA_TRY(stage(c, bytes - at, &staged, &room));
        memcpy(staged, (const char *)host + at, room);
        CA_CUDA(cudaMemcpyAsync, (char *)dst.data + at, staged, room, cudaMemcpyHostToDevice,
                c->queue.stream);
    }
out:
    return st;
}

/* Pieces of HALF bytes, in turns through the two halves; the host takes one out while the next
 * comes in. Uploads that may still be read from there are earlier on the stream. */
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
