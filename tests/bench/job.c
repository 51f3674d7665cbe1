/* SPDX-License-Identifier: MIT
 *
 * See job.h.
 */
#include "job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "causa/ops.h"

ca_status bench_measure_peak(bench *b) {
    enum { N = 2048, RUNS = 5 };
    ca_status st = CA_OK;
    void *memory = NULL;
    ca_tensor t[3];
    CA_TRY(ca_alloc(b->be, (size_t)3 * N * N * sizeof(float), &memory));
    for (int i = 0; i < 3; i++) {
        t[i] = ca_tensor_2d((float *)memory + (size_t)i * N * N, CA_F32, N, N);
        CA_TRY(ca_fill(b->be, t[i], 0.5));
    }
    double spent = 0;
    for (int run = 0; run < RUNS; run++) {
        double before = ca_seconds();
        CA_TRY(ca_matmul(b->be, t[0], t[1], t[2], (ca_tensor){0},
                         (ca_matmul_options){.transpose_b = true, .alpha = 1}));
        CA_TRY(ca_sync(b->be));
        double seconds = ca_seconds() - before, rate = 2.0 * N * N * N / seconds;
        if (rate > b->peak) b->peak = rate;
        spent += seconds;
    }
    b->rate = RUNS * 2.0 * N * N * N / spent;
out:
    if (memory) ca_release(b->be, memory);
    return st;
}

ca_status bench_resolve(const char *method, const char *text, ca_document **document,
                        ca_config **config) {
    static const ca_option kind[] = {{"method.kind", CA_OPTION_TEXT, NULL, NULL, NULL, ""}, {0}};
    static const ca_option *tables[] = {ca_job_options, ca_data_options, kind, NULL, NULL};
    ca_status st = CA_OK;
    tables[3] = ca_method_find(method)->options;
    CA_TRY(ca_document_parse(text, strlen(text), "bench", NULL, 0, document));
    CA_TRY(ca_config_resolve(*document, 0, tables, config));
out:
    return st;
}

static ca_status run_model(bench *b, int threads, ca_status (*run)(bench *b)) {
    ca_status st = CA_OK;
    CA_TRY(ca_backend_open("cpu", threads, &b->be));
    CA_TRY(ca_model_file_open(b->path, &b->file));
    CA_TRY(ca_model_load(b->file, b->be, CA_F32, 0, &b->model));
    CA_TRY(run(b));
out:
    ca_model_free(b->model);
    ca_model_file_close(b->file);
    if (b->be) ca_backend_close(b->be);
    return st;
}

int bench_main(int argc, char **argv, double most_seconds, ca_status (*run)(bench *b)) {
    bench b = {.path = argc > 1 ? argv[1] : "build/models/smollm2.gguf",
               .most_seconds = argc > 3 ? atof(argv[3]) : most_seconds};
    if (argc == 1 && !ca_file_exists(b.path)) {
        printf("%s is not there (make smollm2 fetches it): the bundled model instead\n", b.path);
        b.path = "experiments/demo-model";
    }
    ca_log_set_level(CA_LOG_ERROR);
    ca_status st = run_model(&b, argc > 2 ? atoi(argv[2]) : 0, run);
    if (st != CA_OK) fprintf(stderr, "bench: %s\n", ca_error_text());
    return ca_status_exit_code(st);
}
