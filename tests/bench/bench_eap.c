/* SPDX-License-Identifier: MIT
 *
 * bench_eap [MODEL [THREADS [SECONDS]]]: time and memory of edge attribution on the backend `cpu`,
 * per pair of prompts of 15 and 16 tokens, beside a matrix product and plain forwards of the same
 * run. The method is run as `causa run` does, its result file included; loading is not timed.
 *
 * Pairs differ first where those of indirect object identification do (token 10 or 13), or at
 * token 1, where almost nothing is shared. Arithmetic is told in whole forwards of a pair's prompt:
 * runs and gradients, then the products of the scores. Ten circuits of all sizes, a curve of
 * faithfulness, are told without the attribution that chose them. Memory is that beside the
 * weights, as planned and as the system saw it. SECONDS (10) bounds one case.
 */
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "causa/ops.h"
#include "eap/score.h"
#include "job.h"

enum { MOST_TURNS = 9, MOST_PROMPTS = 16 };

typedef struct eap_case {
    const char *name, *method; /* YAML of `method` beyond kind */
    int64_t points;
    int64_t pairs;
    bool early; /* the first difference is token 1 */
    bool curve; /* with circuits, beyond the case before it */
    /* measured */
    double best, last, spent, flops, forward;
    double beside[MOST_TURNS]; /* FLOP/s of each turn over those of sgemm before and after */
    int turns;
    int64_t planned, taken; /* bytes */
} eap_case;

#define PLAIN "eap", "variant: eap", 1
#define PATH  "ig-inputs, 5 steps", "variant: ig-inputs, steps: 5", 5
#define CURVE                                                                                      \
    "ten circuits",                                                                                \
        "variant: eap, evaluate: {faithfulness: true}, circuit: "                                  \
        "{fractions: [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]}",                  \
        1
static eap_case cases[] = {
    {PLAIN, .pairs = 8},
    {PLAIN, .pairs = 8, .early = true},
    {PLAIN, .pairs = 64},
    {CURVE, .pairs = 64, .curve = true},
    {PLAIN, .pairs = 64, .early = true},
    {CURVE, .pairs = 64, .early = true, .curve = true},
    {PATH, .pairs = 8},
    {PATH, .pairs = 8, .early = true},
    {PATH, .pairs = 64},
    {PATH, .pairs = 64, .early = true},
};
enum { CASES = sizeof cases / sizeof *cases };

static const char *const DATA = "build/bench_eap.json", *const RESULT = "build/bench_eap.h5";

/* ---- pairs ---- */

static int64_t length_of(int64_t pair) { return 15 + pair % 2; }

static int64_t difference_of(const eap_case *c, int64_t pair) {
    return c->early ? 1 : 10 + 3 * (pair % 2);
}

static int64_t token_of(int64_t pair, int64_t t, int64_t vocab) {
    return (pair * 2711 + t * 7919 + 13) % vocab;
}

static void write_ids(FILE *out, const eap_case *c, int64_t pair, bool corrupted, int64_t vocab) {
    for (int64_t t = 0; t < length_of(pair); t++) {
        int64_t id = token_of(pair, t, vocab);
        if (corrupted && t == difference_of(c, pair)) id = (id + 1) % vocab;
        fprintf(out, "%s%" PRId64, t ? "," : "[", id);
    }
    fputs("]", out);
}

static ca_status write_pairs(const eap_case *c, int64_t vocab) {
    FILE *out = fopen(DATA, "w");
    if (!out) return ca_fail(CA_E_IO, "%s: cannot be written", DATA);
    for (int64_t n = 0; n < c->pairs; n++) {
        fputs(n ? ",\n{\"clean_ids\": " : "[{\"clean_ids\": ", out);
        write_ids(out, c, n, false, vocab);
        fputs(", \"corrupted_ids\": ", out);
        write_ids(out, c, n, true, vocab);
        fputs(", \"answer_ids\": [5], \"wrong_ids\": [7]}", out);
    }
    fputs("]\n", out);
    return fclose(out) == 0 ? CA_OK : ca_fail(CA_E_IO, "%s: cannot be written", DATA);
}

/* ---- memory ---- */

/* A line of /proc/self/status in bytes; 0 where there is none. */
static int64_t memory_line(const char *name) {
    char line[128];
    int64_t kilobytes = 0;
    FILE *in = fopen("/proc/self/status", "r");
    if (!in) return 0;
    while (fgets(line, sizeof line, in))
        if (strncmp(line, name, strlen(name)) == 0)
            kilobytes = strtoll(line + strlen(name), NULL, 10);
    fclose(in);
    return 1024 * kilobytes;
}

/* Gives back what earlier jobs freed, and makes what is left the largest use so far. */
static void forget_peak(void) {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
    FILE *out = fopen("/proc/self/clear_refs", "w");
    if (!out) return;
    fputs("5", out);
    fclose(out);
}

/* ---- one job ---- */

static ca_status resolve(const bench *b, const eap_case *c, ca_document **document,
                         ca_config **config) {
    ca_status st = CA_OK;
    ca_string text = {0};
    CA_TRY(ca_string_printf(&text,
                            "name: bench\nmodel: %s\ndata: {file: %s, bos: false}\n"
                            "method: {kind: eap, %s}\n",
                            b->path, DATA, c->method));
    CA_TRY(bench_resolve("eap", text.text, document, config));
out:
    ca_string_free(&text);
    return st;
}

static ca_status run_job(ca_job *job, eap_case *c) {
    ca_status st = CA_OK;
    const ca_method *method = ca_method_find("eap");
    const ca_arch *arch = job->arch;
    void *state = NULL;
    int64_t done;
    CA_TRY(ca_dataset_open(job->config, NULL, arch->vocab, arch->max_positions, method->needs,
                           &job->data));
    CA_TRY(method->prepare(job, &job->plan, &state));
    CA_TRY(ca_result_create(RESULT, &job->result));
    forget_peak();
    int64_t before = memory_line("VmRSS:");
    double start = ca_seconds();
    CA_TRY(method->run(job, state, &done));
    double seconds = ca_seconds() - start;
    int64_t taken = memory_line("VmHWM:") - before;
    c->spent += seconds;
    c->last = seconds;
    if (c->best == 0 || seconds < c->best) c->best = seconds;
    if (taken > c->taken) c->taken = taken;
    c->flops = job->plan.flops;
    c->planned = job->plan.work_bytes + job->plan.host_bytes;
out:
    ca_result_abandon(job->result);
    if (state) method->release(state);
    ca_dataset_free(job->data);
    return st;
}

static ca_status run_once(bench *b, eap_case *c) {
    ca_status st = CA_OK;
    ca_document *document = NULL;
    ca_job job = {.file = b->file,
                  .arch = ca_model_file_arch(b->file),
                  .backend = b->be,
                  .dtype = CA_F32,
                  .memory = (int64_t)4 << 30,
                  .model = b->model};
    ca_config *config = NULL;
    CA_TRY(write_pairs(c, job.arch->vocab));
    CA_TRY(resolve(b, c, &document, &config));
    job.config = config;
    CA_TRY(run_job(&job, c));
out:
    ca_config_free(config);
    ca_document_free(document);
    return st;
}

/* ---- plain forwards ---- */

/* Seconds of one prompt in a batch of as many as the case has pairs, or as a pass has rows for. */
static ca_status run_forwards(bench *b, eap_case *c) {
    ca_status st = CA_OK;
    int64_t prompts = c->pairs < MOST_PROMPTS ? c->pairs : MOST_PROMPTS, rows = 0;
    int32_t ids[MOST_PROMPTS + 1];
    ca_batch *batch = NULL;
    ca_pass *pass = NULL;
    for (int64_t n = 0; n < prompts; n++) rows += length_of(n);
    ca_pass_limits limits = {.rows = rows, .reads = prompts, .logits = true};
    CA_TRY(ca_batch_create(b->be, prompts, rows, prompts, &batch));
    CA_TRY(ca_pass_create(b->model, &limits, &pass));
    for (int64_t n = 0; n < prompts; n++) {
        for (int64_t t = 0; t < length_of(n); t++)
            ids[t] = (int32_t)token_of(n, t, b->model->arch.vocab);
        ca_batch_add(batch, ids, length_of(n), 0, 0);
        ca_batch_read(batch, length_of(n) - 1);
    }
    CA_TRY(ca_batch_upload(batch));
    ca_forward request = ca_forward_all(b->model, batch);
    for (int run = 0; run < 3; run++) {
        double before = ca_seconds();
        CA_TRY(ca_pass_forward(pass, &request));
        CA_TRY(ca_sync(b->be));
        double seconds = (ca_seconds() - before) / (double)prompts;
        if (c->forward == 0 || seconds < c->forward) c->forward = seconds;
    }
out:
    ca_pass_free(pass);
    ca_batch_free(batch);
    return st;
}

/* ---- all cases ---- */

/* Floating-point operations of whole forwards of all prompts, and of the products of the scores. */
static void count(const bench *b, const eap_case *c, double *forwards, double *scores) {
    const ca_arch *a = &b->model->arch;
    const ca_circuit_graph graph = ca_circuit_graph_of(a, 0);
    *forwards = *scores = 0;
    for (int64_t n = 0; n < c->pairs; n++) {
        int64_t rows = length_of(n), tail = rows - difference_of(c, n);
        *forwards += ca_flops_forward(a, rows, ca_sequence_keys(a, rows, 0), a->layers);
        *forwards += ca_flops_head(a, 1);
        *scores += ca_eap_scores_flops(a, &graph, tail, c->points);
    }
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *values, int count) {
    double sorted[MOST_TURNS];
    memcpy(sorted, values, (size_t)count * sizeof *values);
    qsort(sorted, (size_t)count, sizeof *sorted, ascending);
    return 0.5 * (sorted[(count - 1) / 2] + sorted[count / 2]);
}

static void print(const bench *b, const eap_case *c) {
    double forwards, scores, seconds = c->best, flops = c->flops;
    char beside[32] = "";
    count(b, c, &forwards, &scores);
    if (c->curve) {
        seconds -= c[-1].best;
        flops -= c[-1].flops;
        scores = 0;
    } else {
        snprintf(beside, sizeof beside, ", %.0f of that beside it",
                 100 * median(c->beside, c->turns));
    }
    double pair = seconds / (double)c->pairs;
    printf("%-19s %2" PRId64 " pairs, %-5s %8.1f ms a pair %5.2f plain forwards; operations %5.2f "
           "+ %4.2f forwards, %3.0f %% of sgemm%s; memory %4.0f MB, planned %4.0f\n",
           c->name, c->pairs, c->early ? "early" : "late", 1e3 * pair, pair / c->forward,
           (flops - scores) / forwards, scores / forwards, 100 * flops / seconds / b->peak, beside,
           1e-6 * (double)c->taken, 1e-6 * (double)c->planned);
}

/* One turn of a case between two measurements of sgemm. */
static ca_status take_turn(bench *b, eap_case *c) {
    ca_status st = CA_OK;
    CA_TRY(run_forwards(b, c));
    CA_TRY(bench_measure_peak(b));
    double before = b->rate;
    CA_TRY(run_once(b, c));
    CA_TRY(bench_measure_peak(b));
    c->beside[c->turns++] = c->flops / c->last / (0.5 * (before + b->rate));
out:
    return st;
}

/* Cases take turns, and the peak with them, so that a disturbance of the machine meets all. The
 * best turn counts beside the best product; and the middle one of the turns, each beside the
 * products before and after it, which a disturbance that lasts slows as well. A curve, the
 * difference of two runs, has no products of its own beside it. */
static ca_status run(bench *b) {
    ca_status st = CA_OK;
    for (int turn = 0; turn < MOST_TURNS; turn++)
        for (int i = 0; i < CASES; i++)
            if (!turn || 3 * (cases[i].spent + cases[i].best) <= b->most_seconds)
                CA_TRY(take_turn(b, &cases[i]));
    printf("%s, sgemm %.1f GFLOP/s, %d threads; goals: path 11 forwards of operations, "
           "55 %% of sgemm, 300 MB; circuits 12 plain forwards\n",
           b->path, 1e-9 * b->peak, b->be->threads);
    for (int i = 0; i < CASES; i++) print(b, &cases[i]);
out:
    remove(DATA);
    return st;
}

int main(int argc, char **argv) { return bench_main(argc, argv, 10, run); }
