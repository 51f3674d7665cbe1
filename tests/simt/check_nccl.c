/* SPDX-License-Identifier: MIT
 *
 * The simulated NCCL: a sum over one rank in the order of its stream, and what it refuses.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "include/nccl.h"

enum { COUNT = 1000 };

static ncclComm_t one_rank(void) {
    ncclUniqueId id;
    ncclComm_t comm;
    assert_int_equal(ncclGetUniqueId(&id), ncclSuccess);
    assert_int_equal(ncclCommInitRank(&comm, 1, id, 0), ncclSuccess);
    return comm;
}

/* Upload, sum and download on one stream need no wait in between; without the sum, the download
 * would find what device memory begins with. */
static void test_sum_in_order(void **state) {
    (void)state;
    float values[COUNT], sums[COUNT] = {0};
    void *from, *to;
    cudaStream_t stream;
    ncclComm_t comm = one_rank();
    for (int i = 0; i < COUNT; i++) values[i] = (float)i / 3;
    assert_int_equal(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    assert_int_equal(cudaMalloc(&from, sizeof values), cudaSuccess);
    assert_int_equal(cudaMalloc(&to, sizeof values), cudaSuccess);
    assert_int_equal(cudaMemcpyAsync(from, values, sizeof values, cudaMemcpyHostToDevice, stream),
                     cudaSuccess);
    assert_int_equal(ncclAllReduce(from, to, COUNT, ncclFloat32, ncclSum, comm, stream),
                     ncclSuccess);
    assert_int_equal(ncclAllReduce(to, to, COUNT, ncclFloat32, ncclSum, comm, stream), ncclSuccess);
    assert_int_equal(cudaMemcpyAsync(sums, to, sizeof sums, cudaMemcpyDeviceToHost, stream),
                     cudaSuccess);
    assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
    assert_memory_equal(sums, values, sizeof values);
    assert_int_equal(ncclCommDestroy(comm), ncclSuccess);
    assert_int_equal(cudaFree(from), cudaSuccess);
    assert_int_equal(cudaFree(to), cudaSuccess);
    assert_int_equal(cudaStreamDestroy(stream), cudaSuccess);
}

static void test_refuses(void **state) {
    (void)state;
    int version;
    void *data;
    ncclUniqueId unknown = {{0}};
    ncclComm_t comm;
    assert_int_equal(ncclGetVersion(&version), ncclSuccess);
    assert_int_equal(version, NCCL_VERSION_CODE);
    assert_int_equal(ncclCommInitRank(&comm, 1, unknown, 0), ncclInvalidArgument);
    comm = one_rank();
    assert_int_equal(cudaMalloc(&data, 64), cudaSuccess);
    assert_int_equal(ncclAllReduce(data, data, 1, (ncclDataType_t)99, ncclSum, comm, NULL),
                     ncclInvalidArgument);
    assert_int_equal(ncclAllReduce(data, data, 0, ncclFloat32, ncclSum, comm, NULL), ncclSuccess);
    assert_int_equal(ncclCommDestroy(comm), ncclSuccess);
    assert_int_equal(ncclAllReduce(data, data, 1, ncclFloat32, ncclSum, comm, NULL),
                     ncclInvalidArgument);
    assert_int_equal(ncclCommDestroy(comm), ncclInvalidArgument);
    assert_string_equal(ncclGetErrorString(ncclInvalidArgument), "invalid argument");
    assert_int_equal(cudaFree(data), cudaSuccess);
}

/* Ends the program with status 70, as every fault does. */
static void test_beyond_the_allocation(void **state) {
    (void)state;
    int status;
    pid_t child = fork();
    if (child == 0) {
        void *data;
        (void)freopen("/dev/null", "w", stderr);
        if (cudaMalloc(&data, 64) != cudaSuccess) _exit(1);
        (void)ncclAllReduce(data, data, 17, ncclFloat32, ncclSum, one_rank(), NULL);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 70);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sum_in_order),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_beyond_the_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
