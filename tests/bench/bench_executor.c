/* SPDX-License-Identifier: MIT
 *
 * bench_executor [BACKEND [MODEL [THREADS]]]: forward and backward of a model, as shares of the
 * fastest matrix product that the same run measures on this machine, and planned against measured
 * memory. Times are the best of several runs; machines are shared and noisy, shares less.
 */
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

#include "causa/graph.h"
#include "causa/ops.h"

typedef struct bench {
    ca_backend *be;
    ca_model *model;
    double peak; /* FLOP/s */
    ca_batch *batch;
    ca_pass *pass;
    ca_tensor cotangents; /* [R, n, D] */
    void *memory;
} bench;

typedef ca_status (*bench_function)(bench *b);

static const double LEAST_SECONDS = 1.5;

static ca_status measure(bench *b, bench_function function, double *seconds) {
    ca_status st = CA_OK;
    double start = ca_seconds();
    *seconds = 1e30;
    for (int run = 0; run < 3 || ca_seconds() - start < LEAST_SECONDS; run++) {
        double before = ca_seconds();
        CA_TRY(function(b));
        CA_TRY(ca_sync(b->be));
        double took = ca_seconds() - before;
        if (took < *seconds) *seconds = took;
    }
out:
    return st;
}

/* ---- the machine's limit ---- */

static int64_t shape[3];
static ca_tensor operands[3];

static ca_status multiply(bench *b) {
    return ca_matmul(b->be, operands[0], operands[1], operands[2], (ca_tensor){0},
                     (ca_matmul_options){.transpose_b = true, .alpha = 1});
}

static ca_status measure_peak(bench *b) {
    static const int64_t shapes[][3] = {{512, 1536, 1536},
                                        {1024, 1024, 1024},
                                        {2048, 2048, 2048},
                                        {512, 3072, 576},
                                        {1024, 4096, 1024}};
    ca_status st = CA_OK;
    void *memory = NULL;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int64_t m = shapes[i][0], n = shapes[i][1], k = shapes[i][2];
        double seconds;
        CA_TRY(ca_alloc(b->be, (size_t)(m * n + m * k + n * k) * sizeof(float), &memory));
        float *at = memory;
        operands[0] = ca_tensor_2d(at, CA_F32, m, n);
        operands[1] = ca_tensor_2d(at + m * n, CA_F32, m, k);
        operands[2] = ca_tensor_2d(at + m * n + m * k, CA_F32, n, k);
        CA_TRY(ca_fill(b->be, operands[1], 0.5));
        CA_TRY(ca_fill(b->be, operands[2], 0.25));
        CA_TRY(measure(b, multiply, &seconds));
        double rate = 2.0 * (double)(m * n * k) / seconds;
        if (rate > b->peak) {
            b->peak = rate;
            shape[0] = m;
            shape[1] = n;
            shape[2] = k;
        }
        ca_release(b->be, memory);
        memory = NULL;
    }
    printf("sgemm peak %.1f GFLOP/s at %" PRId64 " x %" PRId64 " x %" PRId64 ", %d threads\n\n",
           1e-9 * b->peak, shape[0], shape[1], shape[2], b->be->threads);
out:
    if (memory) ca_release(b->be, memory);
    return st;
}

/* ---- passes ---- */

static ca_status forward(bench *b) {
    ca_forward request = ca_forward_all(b->model, b->batch);
    return ca_pass_forward(b->pass, &request);
}

static ca_status backward(bench *b) {
    ca_tensor gradient;
    ca_backward request = {.lanes = b->cotangents.shape[0], .d_final_norm = b->cotangents};
    return ca_pass_backward(b->pass, &request, &gradient);
}

static ca_status forward_and_backward(bench *b) {
    ca_status st = forward(b);
    return st == CA_OK ? backward(b) : st;
}

static void close_case(bench *b) {
    ca_pass_free(b->pass);
    ca_batch_free(b->batch);
    if (b->memory) ca_release(b->be, b->memory);
    b->pass = NULL;
    b->batch = NULL;
    b->memory = NULL;
    malloc_trim(0);
}

/* `sequences` prompts of `rows` tokens, read at their last row. */
static ca_status open_case(bench *b, int64_t sequences, int64_t rows, int64_t lanes, bool keep) {
    ca_status st = CA_OK;
    const ca_arch *a = &b->model->arch;
    int32_t *ids = NULL;
    ca_pass_limits limits = {
        .rows = sequences * rows, .reads = sequences, .lanes = lanes, .keep = keep, .logits = true};
    CA_TRY(ca_calloc((size_t)rows, sizeof *ids, &ids));
    for (int64_t i = 0; i < rows; i++) ids[i] = (int32_t)((i * 7919 + 13) % a->vocab);
    CA_TRY(ca_batch_create(b->be, sequences, sequences * rows, sequences, &b->batch));
    for (int64_t s = 0; s < sequences; s++) {
        ca_batch_add(b->batch, ids, rows, 0, 0);
        ca_batch_read(b->batch, rows - 1);
    }
    CA_TRY(ca_batch_upload(b->batch));
    CA_TRY(ca_pass_create(b->model, &limits, &b->pass));
    int64_t values = (lanes ? lanes : 1) * sequences * a->width;
    CA_TRY(ca_alloc(b->be, (size_t)values * sizeof(float), &b->memory));
    b->cotangents = ca_tensor_3d(b->memory, CA_F32, lanes ? lanes : 1, sequences, a->width);
    CA_TRY(ca_fill(b->be, b->cotangents, 0.01));
out:
    free(ids);
    return st;
}

static void print_share(const bench *b, const char *name, double seconds, double flops,
                        double tokens) {
    printf("%-46s %9.1f ms %8.1f GFLOP/s  %3.0f %% of peak  %7.0f tokens/s\n", name, 1e3 * seconds,
           1e-9 * flops / seconds, 100 * flops / seconds / b->peak, tokens / seconds);
    fflush(stdout);
}

static ca_status bench_case(bench *b, const char *name, int64_t sequences, int64_t rows,
                            int64_t lanes, bool keep, bench_function function) {
    ca_status st = CA_OK;
    const ca_arch *a = &b->model->arch;
    int64_t total = sequences * rows, keys = sequences * ca_sequence_keys(a, rows, 0);
    double seconds, flops = 0;
    CA_TRY(open_case(b, sequences, rows, lanes, keep));
    if (function != forward) flops += ca_flops_backward(a, total, keys, a->layers, lanes, keep);
    if (function != backward)
        flops += ca_flops_forward(a, total, keys, a->layers) + ca_flops_head(a, sequences);
    if (function == backward) CA_TRY(forward(b));
    CA_TRY(measure(b, function, &seconds));
    print_share(b, name, seconds, flops, (double)total);
out:
    close_case(b);
    return st;
}

/* Bytes in use: of the device, or the resident set. */
static int64_t bytes_in_use(const bench *b) {
    size_t available, total;
    if (!b->be->device) return ca_host_bytes();
    return ca_memory_info(b->be, &available, &total) == CA_OK ? (int64_t)(total - available) : 0;
}

/* Growth of the memory in use while a case is made and run, beside what the plan says. */
static ca_status bench_memory(bench *b, const char *name, int64_t sequences, int64_t rows,
                              int64_t lanes, bool keep) {
    ca_status st = CA_OK;
    const ca_arch *a = &b->model->arch;
    ca_pass_limits limits = {
        .rows = sequences * rows, .reads = sequences, .lanes = lanes, .keep = keep, .logits = true};
    double planned = (double)(ca_pass_bytes(a, CA_F32, &limits) +
                              ca_batch_bytes(sequences, sequences * rows, sequences));
    int64_t before = bytes_in_use(b);
    CA_TRY(open_case(b, sequences, rows, lanes, keep));
    CA_TRY(forward_and_backward(b));
    double grown = (double)(bytes_in_use(b) - before);
    printf("%-46s planned %7.1f MiB, memory in use grew by %7.1f MiB (%+.1f %%)\n", name,
           planned / 1048576, grown / 1048576, 100 * (grown - planned) / planned);
out:
    close_case(b);
    return st;
}

static ca_status run(bench *b, const char *backend, const char *path, int threads) {
    ca_status st = CA_OK;
    ca_model_file *file = NULL;
    CA_TRY(ca_backend_open(backend, threads, &b->be));
    CA_TRY(measure_peak(b));
    CA_TRY(ca_model_file_open(path, &file));
    double best = 1e30;
    for (int i = 0; i < 3; i++) { /* the first one reads the disk */
        double before = ca_seconds();
        ca_model_free(b->model);
        b->model = NULL;
        CA_TRY(ca_model_load(file, b->be, CA_F32, 0, &b->model));
        if (ca_seconds() - before < best) best = ca_seconds() - before;
    }
    printf("%s: %s, %" PRId64 " parameters, loaded in %.2f s (warm)\n\n", path,
           ca_model_file_format(file), ca_model_file_parameters(file), best);
    CA_TRY(bench_memory(b, "1 x 512 rows, 1 lane, kept", 1, 512, 1, true));
    CA_TRY(bench_memory(b, "1 x 512 rows, 16 lanes, recomputed", 1, 512, 16, false));
    CA_TRY(bench_memory(b, "64 x 32 rows, 1 lane, kept", 64, 32, 1, true));
    printf("\n");
    CA_TRY(bench_case(b, "forward, 1 x 512", 1, 512, 0, false, forward));
    CA_TRY(bench_case(b, "forward, 1 x 16", 1, 16, 0, false, forward));
    CA_TRY(bench_case(b, "forward, 8 x 16", 8, 16, 0, false, forward));
    CA_TRY(bench_case(b, "backward, 1 x 512, 1 lane", 1, 512, 1, true, backward));
    CA_TRY(bench_case(b, "backward, 1 x 512, 1 lane, recomputed", 1, 512, 1, false, backward));
    CA_TRY(bench_case(b, "backward, 1 x 512, 16 lanes", 1, 512, 16, true, backward));
    CA_TRY(bench_case(b, "forward + backward, 64 x 32, 1 lane", 64, 32, 1, true,
                      forward_and_backward));
    CA_TRY(
        bench_case(b, "forward + backward, 1 x 32, 1 lane", 1, 32, 1, true, forward_and_backward));
    CA_TRY(bench_case(b, "forward + backward, 1 x 128, 1 lane", 1, 128, 1, true,
                      forward_and_backward));
    CA_TRY(bench_case(b, "forward + backward, 1 x 512, 1 lane", 1, 512, 1, true,
                      forward_and_backward));
out:
    ca_model_free(b->model);
    ca_model_file_close(file);
    if (b->be) ca_backend_close(b->be);
    return st;
}

int main(int argc, char **argv) {
    bench b = {0};
    const char *path = argc > 2 ? argv[2] : "build/models/smollm2.gguf";
    if (argc <= 2 && !ca_file_exists(path)) {
        printf("%s is not there (make smollm2 fetches it): the bundled model instead\n", path);
        path = "experiments/demo-model";
    }
    ca_status st = run(&b, argc > 1 ? argv[1] : "cpu", path, argc > 3 ? atoi(argv[3]) : 0);
    if (st != CA_OK) fprintf(stderr, "bench: %s\n", ca_error_text());
    return ca_status_exit_code(st);
}
