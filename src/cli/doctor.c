/* SPDX-License-Identifier: MIT
 *
 * `causa doctor`: is this model read and computed right? Tokenizer round trip, finite logits, and
 * per layer the residual stream and its gradient on the fast backend against `ref` in float64 (in
 * bf16: against `ref` in bf16) and, when given, against stored values of another implementation.
 *
 * A reference file holds groups prompt/<n> with ids [T], logits [T, V], resid [L + 1, T, D] (input
 * of every block, then the output of the last), grad_resid [L, T, D] and the attributes a and b:
 * the gradients are those of logits[T - 1, a] - logits[T - 1, b]. What is missing is not compared.
 */
#include "cli.h"

#include "causa/graph.h"
#include "causa/ops.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of the largest value: float32 rounding, amplified by the norms of small models; gradients three
 * times that. A float32 reference (made by most tools) agrees to about 1e-5. */
static const double VALUE_LIMIT = 1e-4, GRADIENT_LIMIT = 3e-4;
/* In bf16 a value near the middle of two bf16 numbers may be rounded down on one backend and up on
 * the other: one element of a product's input then differs by 2^-8. Stored values were computed
 * without rounding to bf16: every element of every input differs. */
static const double NARROW_LIMIT = 100, UNROUNDED_LIMIT = 1000; /* times the limits above */

static const char FAST[] = "cpu"; /* the backend that is examined */

/* All values of one run. */
typedef struct trace {
    int64_t layers, rows, width, vocab;
    double *resid;    /* [L + 1, T, D] */
    double *gradient; /* [L, T, D] */
    double *logits;   /* [T, V] */
} trace;

typedef struct examination {
    const cli_arguments *arguments;
    ca_model_file *file;
    ca_tokenizer *tokenizer;
    json_t *rows; /* of the table, NULL when printing text */
    int64_t compared, failed;
    ca_dtype precision; /* of the fast backend: CA_F32 or CA_BF16 */
} examination;

static ca_status trace_create(const ca_arch *a, int64_t rows, trace *out) {
    ca_status st = CA_OK;
    int64_t values = rows * a->width;
    *out = (trace){.layers = a->layers, .rows = rows, .width = a->width, .vocab = a->vocab};
    CA_TRY(ca_calloc((size_t)((a->layers + 1) * values), sizeof(double), &out->resid));
    CA_TRY(ca_calloc((size_t)(a->layers * values), sizeof(double), &out->gradient));
    CA_TRY(ca_calloc((size_t)(rows * a->vocab), sizeof(double), &out->logits));
out:
    return st; /* what was made is freed by trace_free */
}

static void trace_free(trace *t) {
    free(t->resid);
    free(t->gradient);
    free(t->logits);
    *t = (trace){0};
}

/* ---- one run ---- */

typedef struct gradient_tap {
    trace *trace;
    void *staging;
} gradient_tap;

static ca_status keep_gradient(void *context, const ca_hook_call *call, ca_tensor gradient) {
    gradient_tap *tap = context;
    return ca_download_f64(call->backend, gradient, tap->staging,
                           tap->trace->gradient +
                               call->layer * tap->trace->rows * tap->trace->width);
}

/* Cotangent of logits[last, a] - logits[last, b] at the final norm of every read row. */
static ca_status set_cotangent(const ca_model *m, int64_t rows, int32_t a, int32_t b, void *memory,
                               ca_tensor *out) {
    ca_status st = CA_OK;
    int64_t width = m->arch.width;
    size_t index_at = ((size_t)(rows * width) * ca_dtype_size(m->dtype) + 63) & ~(size_t)63;
    *out = ca_tensor_3d(memory, m->dtype, 1, rows, width);
    ca_tensor last = ca_tensor_slice(ca_tensor_2d(memory, m->dtype, rows, width), 0, rows - 1, 1);
    ca_tensor index = ca_tensor_1d((char *)memory + index_at, CA_I32, 1);
    CA_TRY(ca_fill(m->backend, *out, 0));
    CA_TRY(ca_upload(m->backend, index, &a));
    CA_TRY(ca_gather(m->backend, last, m->head, index, 1, false));
    CA_TRY(ca_upload(m->backend, index, &b));
    CA_TRY(ca_gather(m->backend, last, m->head, index, -1, true));
out:
    return st;
}

/* Residual streams and logits of a pass that ran forward. */
static ca_status keep_values(ca_backend *be, const ca_pass *pass, void *staging, trace *out) {
    ca_status st = CA_OK;
    for (int64_t l = 0; l <= out->layers; l++)
        CA_TRY(ca_download_f64(be, ca_pass_resid(pass, l), staging,
                               out->resid + l * out->rows * out->width));
    CA_TRY(ca_download_f64(be, ca_pass_logits(pass), staging, out->logits));
out:
    return st;
}

static ca_status run_model(const ca_model *m, const int32_t *ids, int64_t rows, int32_t a,
                           int32_t b, trace *out) {
    ca_status st = CA_OK;
    const ca_arch *arch = &m->arch;
    ca_batch *batch = NULL;
    ca_pass *pass = NULL;
    void *staging = NULL, *memory = NULL;
    int64_t values = rows * arch->width,
            largest = rows * (arch->vocab > arch->width ? arch->vocab : arch->width);
    ca_tensor cotangent, gradient;
    CA_TRY(trace_create(arch, rows, out));
    CA_TRY(ca_calloc((size_t)largest, sizeof(double), &staging));
    gradient_tap tap = {out, staging};
    ca_hook hook = {.site = CA_SITE_RESID_PRE,
                    .last_layer = arch->layers - 1,
                    .backward = keep_gradient,
                    .context = &tap};
    ca_pass_limits limits = {.rows = rows, .reads = rows, .lanes = 1, .logits = true};
    ca_pass_limits_add_hooks(&limits, &hook, 1);
    CA_TRY(ca_batch_create(m->backend, 1, rows, rows, &batch));
    CA_TRY(ca_pass_create(m, &limits, &pass));
    CA_TRY(ca_alloc(m->backend, (size_t)(values + 64) * sizeof(double), &memory));
    ca_batch_add(batch, ids, rows, 0, 0);
    for (int64_t t = 0; t < rows; t++) ca_batch_read(batch, t);
    CA_TRY(ca_batch_upload(batch));
    ca_forward forward = ca_forward_all(m, batch);
    forward.hooks = &hook;
    forward.hook_count = 1;
    CA_TRY(ca_pass_forward(pass, &forward));
    CA_TRY(keep_values(m->backend, pass, staging, out));
    CA_TRY(set_cotangent(m, rows, a, b, memory, &cotangent));
    ca_backward backward = {.lanes = 1, .d_final_norm = cotangent};
    CA_TRY(ca_pass_backward(pass, &backward, &gradient));
out:
    if (memory) ca_release(m->backend, memory);
    ca_pass_free(pass);
    ca_batch_free(batch);
    free(staging);
    return st;
}

static ca_status run_backend(const examination *x, const char *name, ca_dtype dtype,
                             const int32_t *ids, int64_t rows, int32_t a, int32_t b, trace *out) {
    ca_status st = CA_OK;
    ca_backend *be = NULL;
    ca_model *m = NULL;
    CA_TRY(ca_backend_open(name, x->arguments->threads, &be));
    CA_TRY(ca_model_load(x->file, be, dtype, rows, &m));
    CA_TRY(run_model(m, ids, rows, a, b, out));
out:
    ca_model_free(m);
    if (be) ca_backend_close(be);
    return st;
}

/* ---- comparison ---- */

/* Largest difference as a share of the largest value; infinite when a value is not finite. */
static double worst_share(const double *got, const double *expected, int64_t count) {
    double worst = 0, largest = 0;
    for (int64_t i = 0; i < count; i++) {
        double error = fabs(got[i] - expected[i]);
        if (!isfinite(error)) return INFINITY;
        if (error > worst) worst = error;
        if (fabs(expected[i]) > largest) largest = fabs(expected[i]);
    }
    return worst == 0 ? 0 : worst / largest;
}

static void compare(examination *x, const char *what, int64_t layer, const char *against,
                    const double *got, const double *expected, int64_t count, double limit) {
    char place[48];
    double share = worst_share(got, expected, count);
    bool good = share <= limit;
    x->compared++;
    x->failed += !good;
    snprintf(place, sizeof place, layer >= 0 ? "%s %lld" : "%s", what, (long long)layer);
    if (x->rows)
        json_array_append_new(x->rows,
                              json_pack("{s:s, s:s, s:f, s:f, s:b}", "place", place, "against",
                                        against, "error", isfinite(share) ? share : -1.0, "limit",
                                        limit, "ok", good));
    else
        printf("  %-16s against %-10s error %9.2e  limit %.0e  %s\n", place, against, share, limit,
               good ? "ok" : "OUT OF TOLERANCE");
}

/* slack: times the limits of f32 */
static void compare_traces(examination *x, const trace *got, const trace *expected,
                           const char *against, double slack) {
    int64_t values = got->rows * got->width;
    for (int64_t l = 0; l <= got->layers && expected->resid; l++)
        compare(x, "resid", l, against, got->resid + l * values, expected->resid + l * values,
                values, slack * VALUE_LIMIT);
    if (expected->logits)
        compare(x, "logits", -1, against, got->logits, expected->logits, got->rows * got->vocab,
                slack * VALUE_LIMIT);
    for (int64_t l = got->layers - 1; l >= 0 && expected->gradient; l--)
        compare(x, "gradient", l, against, got->gradient + l * values,
                expected->gradient + l * values, values, slack * GRADIENT_LIMIT);
}

/* ---- examinations ---- */

static ca_status check_round_trip(examination *x) {
    static const char *const texts[] = {"Hello, world!", " naïve café 12345", "line\n  two\tTab",
                                        "日本語 👍🏽", "x_1 = f(2, 'a');"};
    ca_status st = CA_OK;
    ca_encoding e = {0};
    ca_string back = {0};
    for (size_t i = 0; x->tokenizer && i < sizeof texts / sizeof *texts; i++) {
        back.length = 0;
        CA_TRY(ca_tokenizer_encode(x->tokenizer, texts[i], strlen(texts[i]), false, &e));
        CA_TRY(ca_tokenizer_decode(x->tokenizer, e.ids, e.count, false, &back));
        ca_encoding_free(&e);
        e = (ca_encoding){0};
        if (strcmp(back.text, texts[i]) != 0) {
            ca_log(CA_LOG_WARNING, "tokenizer: \"%s\" comes back as \"%s\"", texts[i], back.text);
            x->failed++;
        }
    }
    if (!x->rows) printf("tokenizer     %s\n", x->tokenizer ? "round trip checked" : "none");
out:
    ca_encoding_free(&e);
    ca_string_free(&back);
    return st;
}

/* The fast backend against the definition on one prompt. */
static ca_status check_parity(examination *x, const int32_t *ids, int64_t rows) {
    ca_status st = CA_OK;
    trace fast = {0}, definition = {0};
    const ca_arch *a = ca_model_file_arch(x->file);
    int32_t first = (int32_t)(a->vocab / 3), second = (int32_t)(a->vocab / 2);
    CA_TRY(run_backend(x, FAST, x->precision, ids, rows, first, second, &fast));
    for (int64_t i = 0; i < rows * a->vocab; i++)
        if (!isfinite(fast.logits[i]))
            CA_TRY(ca_fail(CA_E_NUMERIC, "%s: the logits are not finite",
                           ca_model_file_path(x->file)));
    bool narrow = x->precision == CA_BF16;
    CA_TRY(run_backend(x, "ref", narrow ? CA_BF16 : CA_F64, ids, rows, first, second, &definition));
    compare_traces(x, &fast, &definition, narrow ? "ref bf16" : "ref f64",
                   narrow ? NARROW_LIMIT : 1);
out:
    trace_free(&fast);
    trace_free(&definition);
    return st;
}

/* A dataset of the reference as float64 when it has the expected number of values. */
static ca_status read_reference(ca_result_reader *r, const char *group, const char *name,
                                int64_t count, double **out) {
    ca_status st = CA_OK;
    char path[96];
    int64_t n;
    snprintf(path, sizeof path, "%s/%s", group, name);
    CA_TRY(ca_result_reader_floats(r, path, out, &n));
    if (n != count)
        st = ca_fail(CA_E_DATA, "%s: expected %lld values, got %lld", path, (long long)count,
                     (long long)n);
out:
    return st;
}

static ca_status check_reference_prompt(examination *x, ca_result_reader *r, const char *group) {
    ca_status st = CA_OK;
    const ca_arch *arch = ca_model_file_arch(x->file);
    trace got = {0}, expected = {0};
    char path[96];
    double *ids_read = NULL;
    int32_t *ids = NULL;
    int64_t rows, a = 0, b = 1;
    snprintf(path, sizeof path, "%s/ids", group);
    CA_TRY(ca_result_reader_floats(r, path, &ids_read, &rows));
    CA_TRY(ca_calloc((size_t)rows + 1, sizeof *ids, &ids));
    for (int64_t i = 0; i < rows; i++) {
        if (!(ids_read[i] >= 0 && ids_read[i] < (double)arch->vocab))
            CA_TRY(ca_fail(CA_E_DATA, "%s: token id %g is outside the vocabulary of %lld", path,
                           ids_read[i], (long long)arch->vocab));
        ids[i] = (int32_t)ids_read[i];
    }
    if (rows < 1 || rows > arch->max_positions)
        CA_TRY(ca_fail(CA_E_DATA, "%s: expected 1 to %lld tokens, got %lld", path,
                       (long long)arch->max_positions, (long long)rows));
    bool gradients =
        ca_result_reader_int(r, group, "a", &a) && ca_result_reader_int(r, group, "b", &b);
    if (a < 0 || b < 0 || a >= arch->vocab || b >= arch->vocab)
        CA_TRY(ca_fail(CA_E_DATA, "%s: attributes a and b are outside the vocabulary", group));
    int64_t values = rows * arch->width;
    CA_TRY(read_reference(r, group, "logits", rows * arch->vocab, &expected.logits));
    CA_TRY(read_reference(r, group, "resid", (arch->layers + 1) * values, &expected.resid));
    if (gradients)
        CA_TRY(read_reference(r, group, "grad_resid", arch->layers * values, &expected.gradient));
    CA_TRY(run_backend(x, FAST, x->precision, ids, rows, (int32_t)a, (int32_t)b, &got));
    if (!x->rows) printf("%s, tokens: %lld\n", group, (long long)rows);
    compare_traces(x, &got, &expected, "reference", x->precision == CA_BF16 ? UNROUNDED_LIMIT : 1);
out:
    free(ids_read);
    free(ids);
    trace_free(&got);
    trace_free(&expected);
    return st;
}

typedef struct prompt_visit {
    examination *x;
    ca_result_reader *reader;
    int64_t prompts;
} prompt_visit;

static ca_status visit_prompt(void *context, const ca_result_entry *e) {
    prompt_visit *v = context;
    if (!e->group || strncmp(e->path, "/prompt/", 8) != 0 || strchr(e->path + 8, '/')) return CA_OK;
    v->prompts++;
    return check_reference_prompt(v->x, v->reader, e->path);
}

static ca_status check_reference(examination *x, const char *path) {
    ca_status st = CA_OK;
    prompt_visit v = {.x = x};
    CA_TRY(ca_result_reader_open_any(path, &v.reader));
    CA_TRY(ca_result_reader_visit(v.reader, visit_prompt, &v));
    if (v.prompts == 0)
        st = ca_fail(CA_E_DATA, "%s: expected groups prompt/<n> with ids, logits and resid", path);
out:
    if (v.reader) ca_result_reader_close(v.reader);
    return st;
}

/* The prompt of --prompt, or ids spread over the vocabulary when there is no tokenizer. */
static ca_status choose_prompt(const examination *x, int32_t **ids, int64_t *rows) {
    ca_status st = CA_OK;
    const ca_arch *a = ca_model_file_arch(x->file);
    const char *text = x->arguments->prompt
                           ? x->arguments->prompt
                           : "When Mary and John went to the store, John gave a drink to";
    ca_encoding e = {0};
    if (x->tokenizer) {
        CA_TRY(ca_tokenizer_encode(x->tokenizer, text, strlen(text), true, &e));
        if (e.count == 0) CA_TRY(ca_fail(CA_E_USAGE, "--prompt: the prompt is empty"));
    } else if (x->arguments->prompt) {
        CA_TRY(ca_fail(CA_E_USAGE, "--prompt: %s has no tokenizer", ca_model_file_path(x->file)));
    }
    *rows = x->tokenizer ? e.count : 16;
    if (*rows > a->max_positions) *rows = a->max_positions;
    CA_TRY(ca_calloc((size_t)*rows, sizeof **ids, ids));
    for (int64_t i = 0; i < *rows; i++)
        (*ids)[i] = x->tokenizer ? e.ids[i] : (int32_t)((i * 7919 + 11) % a->vocab);
out:
    ca_encoding_free(&e);
    return st;
}

ca_status ca_cli_doctor(const cli_arguments *arguments) {
    ca_status st = CA_OK;
    examination x = {.arguments = arguments, .precision = CA_F32};
    int32_t *ids = NULL;
    int64_t rows;
    json_t *root = NULL;
    if (arguments->count != 1)
        return ca_fail(CA_E_USAGE, "expected one model, got %lld", (long long)arguments->count);
    if (arguments->precision && strcmp(arguments->precision, "bf16") == 0)
        x.precision = CA_BF16;
    else if (arguments->precision && strcmp(arguments->precision, "f32") != 0)
        return ca_fail(CA_E_USAGE, "--precision: expected f32 or bf16, got '%s'",
                       arguments->precision);
    if (arguments->json) {
        x.rows = json_array();
        root = json_pack("{s:s, s:o}", "model", arguments->words[0], "comparisons", x.rows);
        if (!root) return ca_fail(CA_E_MEMORY, "no memory for the output");
    }
    CA_TRY(ca_model_file_open(arguments->words[0], &x.file));
    CA_TRY(ca_cli_open_tokenizer(arguments->words[0], &x.tokenizer));
    if (!x.rows) printf("model         %s\n", arguments->words[0]);
    CA_TRY(check_round_trip(&x));
    CA_TRY(choose_prompt(&x, &ids, &rows));
    if (!x.rows) printf("%s %s, tokens: %lld\n", FAST, ca_dtype_name(x.precision), (long long)rows);
    CA_TRY(check_parity(&x, ids, rows));
    if (arguments->reference) CA_TRY(check_reference(&x, arguments->reference));
    if (root) {
        json_object_set_new(root, "failed", json_integer(x.failed));
        json_dumpf(root, stdout, JSON_INDENT(2));
        printf("\n");
    } else {
        printf("comparisons: %lld, failed: %lld\n", (long long)x.compared, (long long)x.failed);
    }
    if (x.failed)
        st = ca_fail(CA_E_NUMERIC, "%s: %lld of %lld checks are out of tolerance",
                     arguments->words[0], (long long)x.failed, (long long)x.compared);
out:
    json_decref(root);
    free(ids);
    ca_tokenizer_free(x.tokenizer);
    ca_model_file_close(x.file);
    return st;
}
