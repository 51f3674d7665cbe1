/* SPDX-License-Identifier: MIT
 *
 * bench_scopes [MODEL [THREADS [SECONDS]]]: time per prompt of the scopes of the method `jacobian`
 * on the backend `cpu`, alone and packed 64 at a time, in multiples of the semantic scope, beside a
 * matrix product that the same run measures. The method is run as `causa run` does, its result file
 * included; loading is not timed.
 *
 * SECONDS (20) bounds one case at one size: what takes less than a sixth is repeated, and what
 * would take more with 64 prompts packs fewer, of which the table tells how many.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "job.h"

typedef struct scope_case {
    const char *name, *method; /* YAML of `method` beyond kind and target */
} scope_case;

static const scope_case cases[] = {
    {"semantic", "scopes: [semantic]"},
    {"temperature", "scopes: [temperature]"},
    {"input x gradient", "scopes: [input_x_gradient]"},
    {"Fisher, 1 eigenpair", "scopes: [fisher]"},
    {"semantic, temperature, Fisher 1", "scopes: [semantic, temperature, fisher]"},
    {"Fisher, 16 eigenpairs", "scopes: [fisher], rank: 16"},
    {"Fisher, 16 random probes", "scopes: [fisher], fisher: {estimator: hutchinson, probes: 16}"},
    {"integrated gradients, 10 nodes", "scopes: [integrated_gradients]"},
    {"semantic along a path, 10 nodes", "scopes: [path_semantic]"},
};
enum { CASES = sizeof cases / sizeof *cases, MOST_TURNS = 7, MOST_PACKED = 64 };

/* One case at one size. */
typedef struct measured {
    int64_t prompts, packed; /* in the file; in a micro-batch */
    double best, spent, flops;
} measured;

static const int64_t MOST_MEMORY = (int64_t)2 << 30;
static const char *const DATA = "build/bench_scopes.json", *const RESULT = "build/bench_scopes.h5";

/* ---- one job ---- */

static ca_status write_prompts(int64_t prompts, int64_t tokens, int64_t vocab) {
    FILE *out = fopen(DATA, "w");
    if (!out) return ca_fail(CA_E_IO, "%s: cannot be written", DATA);
    uint32_t state = 1;
    for (int64_t i = 0; i < prompts; i++) {
        fprintf(out, "%s{\"clean_ids\": [", i ? ",\n" : "[");
        for (int64_t t = 0; t < tokens; t++) {
            state = state * 1664525u + 1013904223u;
            fprintf(out, "%s%" PRId64, t ? "," : "", (int64_t)(state >> 8) % vocab);
        }
        fprintf(out, "]}");
    }
    fprintf(out, "]\n");
    return fclose(out) == 0 ? CA_OK : ca_fail(CA_E_IO, "%s: cannot be written", DATA);
}

static ca_status resolve(const bench *b, const scope_case *c, ca_document **document,
                         ca_config **config) {
    ca_status st = CA_OK;
    ca_string text = {0};
    CA_TRY(ca_string_printf(&text,
                            "name: bench\nmodel: %s\ndata: {file: %s}\n"
                            "method: {kind: jacobian, target: argmax, %s}\n",
                            b->path, DATA, c->method));
    CA_TRY(bench_resolve("jacobian", text.text, document, config));
out:
    ca_string_free(&text);
    return st;
}

/* Seconds of one run of the prompts in DATA, rows a micro-batch; flops as the plan has them. */
static ca_status run_once(bench *b, const ca_config *config, int64_t rows, double *seconds,
                          double *flops) {
    ca_status st = CA_OK;
    const ca_method *method = ca_method_find("jacobian");
    const ca_arch *arch = ca_model_file_arch(b->file);
    void *state = NULL;
    int64_t done;
    ca_job job = {.config = config,
                  .file = b->file,
                  .arch = arch,
                  .backend = b->be,
                  .dtype = CA_F32,
                  .memory = MOST_MEMORY,
                  .batch = rows,
                  .model = b->model};
    CA_TRY(
        ca_dataset_open(config, NULL, arch->vocab, arch->max_positions, method->needs, &job.data));
    CA_TRY(method->prepare(&job, &job.plan, &state));
    CA_TRY(ca_result_create(RESULT, &job.result));
    double before = ca_seconds();
    CA_TRY(method->run(&job, state, &done));
    *seconds = ca_seconds() - before;
    *flops = job.plan.flops;
out:
    ca_result_abandon(job.result);
    if (state) method->release(state);
    ca_dataset_free(job.data);
    return st;
}

/* One more run of a case. */
static ca_status take_turn(bench *b, const scope_case *c, int64_t tokens, measured *m) {
    ca_status st = CA_OK;
    ca_document *document = NULL;
    ca_config *config = NULL;
    double seconds;
    CA_TRY(write_prompts(m->prompts, tokens, ca_model_file_arch(b->file)->vocab));
    CA_TRY(resolve(b, c, &document, &config));
    CA_TRY(run_once(b, config, tokens * m->packed, &seconds, &m->flops));
    if (m->best == 0 || seconds < m->best) m->best = seconds;
    m->spent += seconds;
out:
    ca_config_free(config);
    ca_document_free(document);
    return st;
}

/* ---- all scopes at one size ---- */

static double seconds_a_prompt(const measured *m) { return m->best / (double)m->prompts; }

/* Cases take turns, so that a disturbance of the machine meets all of them; the best turn counts.
 */
static ca_status measure(bench *b, int64_t tokens, measured *m) {
    ca_status st = CA_OK;
    for (int turn = 0; turn < MOST_TURNS; turn++)
        for (int i = 0; i < CASES; i++)
            if (turn == 0 || 3 * (m[i].spent + m[i].best) <= b->most_seconds)
                CA_TRY(take_turn(b, &cases[i], tokens, &m[i]));
out:
    return st;
}

static void print(const bench *b, const measured *m) {
    for (int i = 0; i < CASES; i++)
        printf("  %-33s %3" PRId64
               " packed %9.1f ms a prompt  %5.2f x semantic  %3.0f %% of sgemm\n",
               cases[i].name, m[i].packed, 1e3 * seconds_a_prompt(&m[i]),
               seconds_a_prompt(&m[i]) / seconds_a_prompt(&m[0]),
               100 * m[i].flops / m[i].best / b->peak);
    printf("\n");
    fflush(stdout);
}

static ca_status bench_size(bench *b, int64_t tokens, int64_t prompts) {
    ca_status st = CA_OK;
    measured alone[CASES] = {0}, packed[CASES] = {0};
    for (int i = 0; i < CASES; i++) alone[i] = (measured){.prompts = prompts, .packed = 1};
    printf("%" PRId64 " tokens\n", tokens);
    if (tokens > ca_model_file_arch(b->file)->max_positions) {
        printf("  more than the model takes\n\n");
        return CA_OK;
    }
    CA_TRY(measure(b, tokens, alone));
    print(b, alone);
    for (int i = 0; i < CASES; i++) {
        int64_t most = MOST_PACKED;
        while (most > 2 && (double)most * seconds_a_prompt(&alone[i]) > b->most_seconds) most /= 2;
        packed[i] = (measured){.prompts = most, .packed = most};
    }
    CA_TRY(measure(b, tokens, packed));
    print(b, packed);
out:
    return st;
}

static ca_status run(bench *b) {
    ca_status st = CA_OK;
    CA_TRY(bench_measure_peak(b));
    printf("%s, sgemm %.1f GFLOP/s, %d threads; goals: three scopes together 2.1, Fisher with 16 "
           "eigenpairs 9 times semantic\n\n",
           b->path, 1e-9 * b->peak, b->be->threads);
    CA_TRY(bench_size(b, 32, 2));
    CA_TRY(bench_size(b, 128, 1));
    CA_TRY(bench_size(b, 512, 1));
out:
    remove(DATA);
    return st;
}

int main(int argc, char **argv) { return bench_main(argc, argv, 20, run); }
