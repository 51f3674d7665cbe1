/* SPDX-License-Identifier: MIT
 *
 * bench_patch [MODEL [THREADS]]: the time of a patching map, every layer and token of the residual
 * stream of one prompt, in plain forwards of the same prompt. The forwards run packed, as many rows
 * at once as a pass of cells has: a tool that runs every cell from the first layer and token on
 * needs one of them per cell. Beside them the matrix product of the same run.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "causa/ops.h"
#include "method/patch/engine.h"

typedef struct bench {
    ca_backend *be;
    ca_model *model;
    double peak; /* FLOP/s */
    int64_t tokens;
    int32_t *ids; /* [2, tokens] the pair */
    patch_engine *engine;
    patch_place *places; /* [L] */
    patch_cell *cells;   /* [tokens] */
    int64_t waiting;     /* cells without logits */
    ca_batch *batch;     /* of plain forwards */
    ca_pass *pass;
    void *staging;  /* [V] logits on their way to the host */
    double *logits; /* [V] */
    ca_tensor operands[3];
} bench;

static const double LEAST_SECONDS = 6;
enum {
    MOST_WAIT = 256, /* cells whose logits are made together, as in the method */
    STRIDE = 3,      /* layers of the map between two passes of plain forwards */
};

static ca_status multiply(bench *b) {
    return ca_matmul(b->be, b->operands[0], b->operands[1], b->operands[2], (ca_tensor){0},
                     (ca_matmul_options){.transpose_b = true, .alpha = 1});
}

static ca_status measure_peak(bench *b) {
    enum { N = 1024 };
    ca_status st = CA_OK;
    void *memory = NULL;
    double seconds = 1e30;
    CA_TRY(ca_alloc(b->be, 3 * N * N * sizeof(float), &memory));
    for (int i = 0; i < 3; i++) {
        b->operands[i] = ca_tensor_2d((float *)memory + i * N * N, CA_F32, N, N);
        CA_TRY(ca_fill(b->be, b->operands[i], 0.5));
    }
    for (int i = 0; i < 20; i++) {
        double before = ca_seconds();
        CA_TRY(multiply(b));
        CA_TRY(ca_sync(b->be));
        if (ca_seconds() - before < seconds) seconds = ca_seconds() - before;
    }
    b->peak = 2.0 * N * N * N / seconds;
out:
    if (memory) ca_release(b->be, memory);
    return st;
}

/* Makes the logits of the cells run so far and brings them to the host. */
static ca_status fetch(bench *b) {
    ca_status st = CA_OK;
    ca_tensor logits;
    CA_TRY(ca_patch_engine_logits(b->engine, &logits));
    for (; b->waiting > 0; b->waiting--)
        CA_TRY(ca_download_f64(b->be, ca_tensor_slice(logits, 0, b->waiting - 1, 1), b->staging,
                               b->logits));
out:
    return st;
}

static ca_status run_pair(bench *b) {
    ca_status st = CA_OK;
    ca_batch *base = ca_patch_engine_base(b->engine);
    ca_tensor logits;
    ca_batch_clear(base);
    for (int i = 0; i < 2; i++) {
        ca_batch_add(base, b->ids + i * b->tokens, b->tokens, 0, 0);
        ca_batch_read(base, b->tokens - 1);
    }
    CA_TRY(ca_batch_upload(base));
    CA_TRY(ca_patch_engine_run_base(b->engine, NULL, &logits));
    CA_TRY(ca_sync(b->be));
out:
    return st;
}

/* The cells of one layer; their logits when no more can wait, or it is the last. */
static ca_status run_layer(bench *b, int64_t layer) {
    ca_status st = CA_OK;
    CA_TRY(ca_patch_engine_run_cells(b->engine, &b->places[layer], b->cells, b->tokens));
    b->waiting += b->tokens;
    if (b->waiting + b->tokens > MOST_WAIT || layer + 1 == b->model->arch.layers) CA_TRY(fetch(b));
    CA_TRY(ca_sync(b->be));
out:
    return st;
}

static ca_status run_forwards(bench *b) {
    ca_status st = CA_OK;
    ca_forward request = ca_forward_all(b->model, b->batch);
    CA_TRY(ca_pass_forward(b->pass, &request));
    CA_TRY(ca_sync(b->be));
out:
    return st;
}

/* One map, and plain forwards in between: other programs slow both alike. Adds to the seconds. */
static ca_status run_map(bench *b, double *map, double *forwards, int64_t *passes) {
    ca_status st = CA_OK;
    double before = ca_seconds();
    CA_TRY(run_pair(b));
    *map += ca_seconds() - before;
    for (int64_t l = 0; l < b->model->arch.layers; l++) {
        before = ca_seconds();
        CA_TRY(run_layer(b, l));
        *map += ca_seconds() - before;
        if (l % STRIDE) continue;
        before = ca_seconds();
        CA_TRY(run_forwards(b));
        *forwards += ca_seconds() - before;
        (*passes)++;
    }
out:
    return st;
}

static void close_case(bench *b) {
    ca_patch_engine_free(b->engine);
    ca_pass_free(b->pass);
    ca_batch_free(b->batch);
    free(b->ids);
    free(b->places);
    free(b->cells);
    free(b->staging);
    free(b->logits);
    *b = (bench){.be = b->be, .model = b->model, .peak = b->peak};
}

/* A prompt of `tokens` tokens of which all differ from the other one's; `copies` of it in a batch
 * of plain forwards. */
static ca_status open_case(bench *b, int64_t tokens, int64_t copies) {
    ca_status st = CA_OK;
    const ca_arch *a = &b->model->arch;
    int64_t rows = tokens * (tokens + 1) / 2;
    b->tokens = tokens;
    CA_TRY(ca_calloc((size_t)(2 * tokens), sizeof *b->ids, &b->ids));
    CA_TRY(ca_calloc((size_t)a->layers, sizeof *b->places, &b->places));
    CA_TRY(ca_calloc((size_t)tokens, sizeof *b->cells, &b->cells));
    CA_TRY(ca_calloc((size_t)a->vocab, sizeof(double), &b->staging));
    CA_TRY(ca_calloc((size_t)a->vocab, sizeof *b->logits, &b->logits));
    for (int64_t t = 0; t < 2 * tokens; t++) b->ids[t] = (int32_t)((t * 7919 + 13) % a->vocab);
    for (int64_t l = 0; l < a->layers; l++) b->places[l] = (patch_place){CA_SITE_RESID_PRE, l, l};
    for (int64_t t = 0; t < tokens; t++)
        b->cells[t] = (patch_cell){0, tokens, tokens, t, t + 1, 1, -1, NULL};
    CA_TRY(ca_patch_engine_create(b->model, b->places, a->layers,
                                  (patch_sizes){.base_rows = 2 * tokens,
                                                .base_sequences = 2,
                                                .base_reads = 2,
                                                .cell_rows = rows,
                                                .cell_sequences = MOST_WAIT,
                                                .cell_reads = MOST_WAIT},
                                  &b->engine));
    CA_TRY(ca_batch_create(b->be, copies, copies * tokens, copies, &b->batch));
    for (int64_t i = 0; i < copies; i++) {
        ca_batch_add(b->batch, b->ids, tokens, 0, 0);
        ca_batch_read(b->batch, tokens - 1);
    }
    CA_TRY(ca_batch_upload(b->batch));
    CA_TRY(ca_pass_create(
        b->model, &(ca_pass_limits){.rows = copies * tokens, .reads = copies, .logits = true},
        &b->pass));
out:
    return st;
}

static ca_status bench_map(bench *b, int64_t tokens) {
    ca_status st = CA_OK;
    int64_t copies = (tokens + 1) / 2, cells = b->model->arch.layers * tokens;
    int64_t maps = 0, passes = 0;
    double map = 0, forwards = 0, start = ca_seconds();
    CA_TRY(open_case(b, tokens, copies));
    CA_TRY(run_pair(b)); /* warms up */
    CA_TRY(run_forwards(b));
    for (; maps == 0 || ca_seconds() - start < LEAST_SECONDS; maps++)
        CA_TRY(run_map(b, &map, &forwards, &passes));
    map /= (double)maps;
    double one = forwards / (double)(passes * copies);
    printf("map of %" PRId64 " x %" PRId64 " cells %10.2f s, %6.1f ms per forward: %7.1f forwards, "
           "%.3f per cell\n",
           b->model->arch.layers, tokens, map, 1e3 * one, map / one, map / one / (double)cells);
    fflush(stdout);
out:
    close_case(b);
    return st;
}

static ca_status run(bench *b, const char *path, int threads) {
    ca_status st = CA_OK;
    ca_model_file *file = NULL;
    CA_TRY(ca_backend_open("cpu", threads, &b->be));
    CA_TRY(measure_peak(b));
    CA_TRY(ca_model_file_open(path, &file));
    CA_TRY(ca_model_load(file, b->be, CA_F32, 0, &b->model));
    printf("%s, sgemm peak %.1f GFLOP/s, %d threads\n", path, 1e-9 * b->peak, b->be->threads);
    CA_TRY(bench_map(b, 16));
    CA_TRY(bench_map(b, 32));
out:
    ca_model_free(b->model);
    ca_model_file_close(file);
    if (b->be) ca_backend_close(b->be);
    return st;
}

int main(int argc, char **argv) {
    bench b = {0};
    const char *path = argc > 1 ? argv[1] : "build/models/smollm2.gguf";
    if (argc == 1 && !ca_file_exists(path)) {
        printf("%s is not there (make smollm2 fetches it): the bundled model instead\n", path);
        path = "experiments/demo-model";
    }
    ca_status st = run(&b, path, argc > 2 ? atoi(argv[2]) : 0);
    if (st != CA_OK) fprintf(stderr, "bench: %s\n", ca_error_text());
    return ca_status_exit_code(st);
}
