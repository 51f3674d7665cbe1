/* SPDX-License-Identifier: MIT
 *
 * From a config to a prepared job: options, backend, model headers, tokenizer, data, method.
 */
#include "cli.h"

#include "causa/ops.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

const ca_option ca_job_options[] = {
    {"name", CA_OPTION_TEXT, NULL, NULL, NULL,
     "name of the run, letters, digits and ._-; the result is results/<name>.h5"},
    {"output", CA_OPTION_TEXT, "", NULL, NULL,
     "result file (of a sweep: folder) in place of results/<name>"},
    {"seed", CA_OPTION_INT, "42", "0..", NULL, "seed of all random numbers"},
    {"backend", CA_OPTION_TEXT, "auto", NULL, NULL,
     "auto, ref, cpu, cuda or cuda:N; auto falls back and says so"},
    {"precision", CA_OPTION_CHOICE, "f32", NULL, "f32|bf16|f64",
     "type of weights and values; bf16: of weight matrices and what they multiply, while sums and "
     "values stay f32; f64 on backend ref only"},
    {"memory", CA_OPTION_BYTES, "auto", NULL, "auto", "limit for everything, such as 12GiB"},
    {"batch", CA_OPTION_INT, "auto", "1..", "auto", "tokens per micro-batch"},
    {"model", CA_OPTION_TEXT, NULL, NULL, NULL, "Hugging Face directory or GGUF file"},
    {0},
};

enum { MOST_METHODS = 4, COMMON_TABLES = 3, MOST_METHOD_OPTIONS = 64 };

void ca_cli_option_tables(const ca_method *method, const ca_option **tables) {
    static char kinds[128];
    static ca_option kind_options[2] = {
        {"method.kind", CA_OPTION_CHOICE, NULL, NULL, kinds, "what is done"}, {0}};
    int n = 0;
    kinds[0] = '\0';
    for (const ca_method *const *m = ca_methods(); *m; m++)
        snprintf(kinds + strlen(kinds), sizeof kinds - strlen(kinds), "%s%s", kinds[0] ? "|" : "",
                 (*m)->kind);
    tables[n++] = ca_job_options;
    tables[n++] = ca_data_options;
    tables[n++] = kind_options;
    for (const ca_method *const *m = ca_methods(); *m; m++) {
        if (method && *m != method) continue;
        assert(n < COMMON_TABLES + MOST_METHODS);
        tables[n++] = (*m)->options;
    }
    tables[n] = NULL;
}

/* A config whose method.kind is missing or unknown is asked for no other option of a method: one
 * table of the options of all methods, none of them required. */
static void make_optional(const ca_option **tables, ca_option rows[MOST_METHOD_OPTIONS + 1]) {
    int64_t n = 0;
    for (const ca_option **t = tables; *t; t++)
        for (const ca_option *o = *t; o->path; o++) {
            assert(n < MOST_METHOD_OPTIONS);
            rows[n] = *o;
            if (!rows[n].fallback) rows[n].fallback = "";
            n++;
        }
    rows[n] = (ca_option){0};
    tables[0] = rows;
    tables[1] = NULL;
}

ca_status ca_cli_session_open(const cli_arguments *arguments, cli_session *session) {
    *session = (cli_session){.arguments = arguments};
    if (arguments->count == 0) return ca_fail(CA_E_USAGE, "expected a config file");
    ca_status st = ca_document_open(arguments->words[0], arguments->words + 1, arguments->count - 1,
                                    &session->document);
    return st == CA_E_IO ? CA_E_USAGE : st; /* a config that is not there */
}

static void release_method(cli_session *s) {
    if (s->state) s->method->release(s->state);
    s->state = NULL;
}

/* What depends on the point only. */
static void close_point(cli_session *s) {
    release_method(s);
    ca_dataset_free(s->data);
    s->data = NULL;
    ca_config_free(s->config);
    s->config = NULL;
    ca_give_back_memory(); /* a point starts with what a run of it alone would */
}

static void close_model(cli_session *s) {
    ca_model_free(s->model);
    ca_tokenizer_free(s->tokenizer);
    ca_model_file_close(s->file);
    if (s->backend) ca_backend_close(s->backend);
    free(s->opened);
    s->model = NULL;
    s->tokenizer = NULL;
    s->file = NULL;
    s->backend = NULL;
    s->opened = NULL;
}

void ca_cli_session_close(cli_session *s) {
    close_point(s);
    close_model(s);
    ca_document_free(s->document);
    s->document = NULL;
}

static ca_status check_name(const ca_config *config) {
    const char *name = ca_config_text(config, "name");
    size_t good = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");
    if (name[0] && name[good] == '\0' && strlen(name) <= 200) return CA_OK;
    return ca_config_fail(config, "name", "expected up to 200 letters, digits and ._-, got '%s'",
                          name);
}

static ca_status resolve(const cli_session *s, int64_t point, const ca_method **method,
                         ca_config **config) {
    ca_status st = CA_OK;
    const ca_option *tables[COMMON_TABLES + MOST_METHODS + 1];
    ca_option optional[MOST_METHOD_OPTIONS + 1];
    const char *kind = ca_document_text(s->document, "method.kind");
    for (int64_t k = 0; k < ca_document_sweep_keys(s->document); k++)
        if (strcmp(ca_document_sweep_key(s->document, k), "method.kind") == 0)
            kind = ca_document_sweep_value(s->document, point, k);
    *method = kind ? ca_method_find(kind) : NULL;
    ca_cli_option_tables(*method, tables);
    if (!*method) make_optional(tables + COMMON_TABLES, optional);
    CA_TRY(ca_config_resolve(s->document, point, tables, config));
    CA_TRY(check_name(*config));
out:
    return st;
}

ca_status ca_cli_session_done(const cli_session *s, int64_t point, const char *file, bool *done) {
    ca_status st = CA_OK;
    const ca_method *method;
    ca_config *config = NULL;
    CA_TRY(resolve(s, point, &method, &config));
    *done = ca_result_is_complete(file, ca_config_sha256(config));
out:
    ca_config_free(config);
    return st;
}

ca_status ca_cli_open_tokenizer(const char *model, ca_tokenizer **out) {
    ca_status st = CA_OK;
    char *path = NULL;
    *out = NULL;
    if (ca_is_directory(model)) {
        CA_TRY(ca_path_join(model, "tokenizer.json", &path));
        if (!ca_file_exists(path)) goto out; /* then prompts must come as ids */
    }
    CA_TRY(ca_tokenizer_open(model, out));
out:
    free(path);
    return st;
}

static ca_status open_tokenizer(cli_session *s, const char *model) {
    ca_status st = CA_OK;
    int64_t vocab = ca_model_file_arch(s->file)->vocab;
    CA_TRY(ca_cli_open_tokenizer(model, &s->tokenizer));
    if (s->tokenizer && ca_tokenizer_size(s->tokenizer) > vocab)
        st =
            ca_fail(CA_E_MODEL,
                    "%s: tokenizer: expected ids below the model's vocab_size %lld, got an id %lld",
                    model, (long long)vocab, (long long)ca_tokenizer_size(s->tokenizer) - 1);
out:
    return st;
}

static ca_dtype chosen_precision(const ca_config *config) {
    const char *text = ca_config_text(config, "precision");
    return strcmp(text, "f64") == 0 ? CA_F64 : strcmp(text, "bf16") == 0 ? CA_BF16 : CA_F32;
}

static ca_status check_precision(const cli_session *s) {
    const ca_backend *be = s->backend;
    ca_dtype precision = chosen_precision(s->config);
    if (precision == CA_F64 && !be->float64)
        return ca_config_fail(s->config, "precision", "f64 needs backend=ref, got %s", be->name);
    if (precision == CA_BF16 && !be->bfloat16)
        return ca_config_fail(s->config, "precision",
                              "bf16 needs compute capability 8.0 or newer, got %s",
                              be->device ? be->device : be->name);
    return CA_OK;
}

/* Backend, model headers and tokenizer; kept from the point before when they are the same. */
static ca_status open_model(cli_session *s) {
    ca_status st = CA_OK;
    ca_string key = {0};
    const char *model = ca_config_path(s->config, "model"),
               *backend = ca_config_text(s->config, "backend");
    const char *precision = ca_config_text(s->config, "precision");
    CA_TRY(ca_string_printf(&key, "%s\n%s\n%s", model, backend, precision));
    if (s->opened && strcmp(s->opened, key.text) == 0) goto out;
    close_model(s);
    st = ca_backend_open(backend, s->arguments->threads, &s->backend);
    if (st != CA_OK) {
        st = ca_context(st, "%s", ca_config_where(s->config, "backend"));
        goto out;
    }
    CA_TRY(check_precision(s));
    st = ca_model_file_open(model, &s->file);
    if (st != CA_OK) {
        st = ca_context(st, "%s", ca_config_where(s->config, "model"));
        goto out;
    }
    CA_TRY(open_tokenizer(s, model));
    CA_TRY(ca_string_append(&key, "", 1));
    s->opened = key.text;
    key = (ca_string){0};
out:
    ca_string_free(&key);
    return st;
}

/* Bytes for everything: what the user allows, or most of what is free. */
static ca_status memory_limit(const cli_session *s, int64_t *limit) {
    ca_status st = CA_OK;
    size_t available, total;
    *limit = ca_config_bytes(s->config, "memory");
    if (ca_config_is_word(s->config, "memory")) {
        CA_TRY(ca_memory_info(s->backend, &available, &total));
        *limit = (int64_t)((double)available * 0.8) + (s->model ? s->model->bytes : 0);
    }
out:
    return st;
}

/* Methods plan the smallest work when the memory is too little for any. */
static ca_status check_memory(const cli_session *s, int64_t limit) {
    const ca_plan *p = &s->job.plan;
    char total[32], weights[32], work[32], most[32];
    if (p->weight_bytes + p->work_bytes <= limit) return CA_OK;
    if (s->job.batch) ca_hint("a smaller batch needs less");
    return ca_fail(CA_E_MEMORY,
                   "%s: needs %s (weights %s, work %s for micro-batches of up to %lld rows), but "
                   "the limit is %s",
                   ca_config_where(s->config, "memory"),
                   ca_bytes_text(p->weight_bytes + p->work_bytes, total),
                   ca_bytes_text(p->weight_bytes, weights), ca_bytes_text(p->work_bytes, work),
                   (long long)p->batch_rows, ca_bytes_text(limit, most));
}

static ca_status open_data(cli_session *s) {
    const ca_arch *arch = ca_model_file_arch(s->file);
    ca_dataset_free(s->data);
    s->data = NULL;
    return ca_dataset_open(s->config, s->tokenizer, arch->vocab, arch->max_positions,
                           s->method->needs, &s->data);
}

ca_status ca_cli_session_point(cli_session *s, int64_t point) {
    ca_status st = CA_OK;
    close_point(s);
    CA_TRY(resolve(s, point, &s->method, &s->config));
    CA_TRY(open_model(s));
    const ca_arch *arch = ca_model_file_arch(s->file);
    int64_t limit;
    CA_TRY(open_data(s));
    s->job = (ca_job){
        .config = s->config,
        .file = s->file,
        .arch = arch,
        .backend = s->backend,
        .precision = chosen_precision(s->config),
        .dtype = ca_precision_values(chosen_precision(s->config)),
        .tokenizer = s->tokenizer,
        .data = s->data,
        .batch = ca_config_is_word(s->config, "batch") ? 0 : ca_config_int(s->config, "batch"),
    };
    s->job.plan.weight_bytes = ca_model_file_bytes(s->file, s->job.precision);
    CA_TRY(memory_limit(s, &limit));
    s->job.memory = limit > s->job.plan.weight_bytes ? limit - s->job.plan.weight_bytes : 0;
    CA_TRY(s->method->prepare(&s->job, &s->job.plan, &s->state));
    if (s->data->unjudged) CA_TRY(ca_keep_plan(&s->job, s->method, &s->job.plan));
    CA_TRY(check_memory(s, limit));
out:
    return st;
}

ca_status ca_cli_session_keep(cli_session *s) {
    ca_status st = CA_OK;
    ca_plan judged = {0}, plan = {.weight_bytes = s->job.plan.weight_bytes};
    if (!s->data->unjudged) return CA_OK;
    release_method(s); /* it holds on to the rows, and may have changed them */
    CA_TRY(open_data(s));
    s->job.data = s->data;
    CA_TRY(ca_keep_plan(&s->job, s->method, &judged));
    CA_TRY(ca_cli_session_load(s));
    CA_TRY(ca_keep_run(&s->job, s->method));
    CA_TRY(s->method->prepare(&s->job, &plan, &s->state));
    plan.flops += judged.flops;
    if (judged.work_bytes > plan.work_bytes) plan.work_bytes = judged.work_bytes;
    s->job.plan = plan;
out:
    return st;
}

ca_status ca_cli_session_halve(cli_session *s) {
    ca_status st = CA_OK;
    ca_job *job = &s->job;
    int64_t weights = job->plan.weight_bytes;
    job->memory = job->plan.work_bytes / 2;
    release_method(s);
    job->plan = (ca_plan){.weight_bytes = weights};
    CA_TRY(s->method->prepare(job, &job->plan, &s->state));
    CA_TRY(check_memory(s, weights + job->memory));
out:
    return st;
}

ca_status ca_cli_session_load(cli_session *s) {
    ca_status st = CA_OK;
    if (!s->model) {
        double started = ca_seconds();
        CA_TRY(ca_model_load(s->file, s->backend, s->job.precision, 0, &s->model));
        ca_log(CA_LOG_DEBUG, "weights loaded in %.2f s", ca_seconds() - started);
    }
    s->job.model = s->model;
out:
    return st;
}
