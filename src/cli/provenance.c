/* SPDX-License-Identifier: MIT
 *
 * What a result says of where it came from: root attributes (a function of config, model and data
 * alone) and the group /run (this run on this machine).
 */
#include "cli.h"

#include "causa/version.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct cli_run_log {
    double started; /* monotonic */
    char date[32];
    int64_t count, capacity;
    double *time;
    const char **level;
    char **message;
};

static const char *const level_names[] = {"error", "warning", "info", "debug"};

/* Messages beyond memory are lost: a log must not fail a run. */
static void keep_message(void *context, double unix_time, ca_log_level level, const char *message) {
    cli_run_log *log = context;
    int64_t capacity = log->capacity;
    if (ca_grow(&log->time, &capacity, log->count + 1, sizeof *log->time) != CA_OK) return;
    capacity = log->capacity;
    if (ca_grow(&log->level, &capacity, log->count + 1, sizeof *log->level) != CA_OK) return;
    capacity = log->capacity;
    if (ca_grow(&log->message, &capacity, log->count + 1, sizeof *log->message) != CA_OK) return;
    log->capacity = capacity;
    char *copy = strdup(message);
    if (!copy) return;
    log->time[log->count] = unix_time;
    log->level[log->count] = level_names[level];
    log->message[log->count++] = copy;
}

ca_status ca_cli_run_log_start(cli_run_log **out) {
    ca_status st = CA_OK;
    time_t now = time(NULL);
    struct tm utc;
    CA_TRY(ca_calloc(1, sizeof **out, out));
    (*out)->started = ca_seconds();
    strftime((*out)->date, sizeof(*out)->date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    ca_log_set_sink(keep_message, *out);
out:
    return st;
}

void ca_cli_run_log_stop(cli_run_log *log) {
    if (!log) return;
    ca_log_set_sink(NULL, NULL);
    for (int64_t i = 0; i < log->count; i++) free(log->message[i]);
    free(log->time);
    free(log->level);
    free(log->message);
    free(log);
}

static ca_status text(ca_result *r, const char *name, const char *value) {
    return ca_result_attribute_text(r, "/", name, value);
}

ca_status ca_cli_write_provenance(const cli_session *s, ca_result *r) {
    ca_status st = CA_OK;
    char sha[65];
    int64_t conventions = 0;
    CA_TRY(ca_model_file_sha256(s->file, sha));
    CA_TRY(text(r, "tool_version", ca_version()));
    CA_TRY(text(r, "git_revision", ca_git_revision()));
    CA_TRY(text(r, "method", s->method->kind));
    CA_TRY(text(r, "config", ca_config_yaml(s->config)));
    CA_TRY(text(r, "config_sha256", ca_config_sha256(s->config)));
    CA_TRY(ca_result_attribute_int(r, "/", "seed", ca_config_int(s->config, "seed")));
    CA_TRY(text(r, "backend", s->backend->name));
    CA_TRY(text(r, "precision", ca_config_text(s->config, "precision")));
    CA_TRY(text(r, "model_path", ca_config_text(s->config, "model")));
    CA_TRY(text(r, "model_type", s->job.arch->family));
    CA_TRY(text(r, "model_sha256", sha));
    CA_TRY(text(r, "tokenizer_sha256", s->tokenizer ? ca_tokenizer_sha256(s->tokenizer) : ""));
    CA_TRY(text(r, "data_sha256", s->data->sha256));
    while (s->method->conventions[conventions]) conventions++;
    CA_TRY(ca_result_attribute_texts(r, "/", "conventions", s->method->conventions, conventions));
out:
    return st;
}

static ca_status write_log(const cli_run_log *log, ca_result *r) {
    ca_status st = CA_OK;
    ca_result_shape shape = {1, {log->count}, {"line"}};
    CA_TRY(ca_result_put(r, "/run/log/time", CA_RESULT_F64, shape, log->time));
    CA_TRY(ca_result_put(r, "/run/log/level", CA_RESULT_TEXT, shape, log->level));
    CA_TRY(ca_result_put(r, "/run/log/message", CA_RESULT_TEXT, shape, log->message));
out:
    return st;
}

static ca_status command_line(const cli_arguments *a, ca_string *out) {
    ca_status st = CA_OK;
    CA_TRY(ca_string_printf(out, "causa run"));
    for (int64_t i = 0; i < a->count; i++) CA_TRY(ca_string_printf(out, " %s", a->words[i]));
    if (a->resume) CA_TRY(ca_string_printf(out, " --resume"));
    if (a->overwrite) CA_TRY(ca_string_printf(out, " --overwrite"));
    if (a->points) CA_TRY(ca_string_printf(out, " --points %s", a->points));
    if (a->shard) CA_TRY(ca_string_printf(out, " --shard %s", a->shard));
    if (a->threads) CA_TRY(ca_string_printf(out, " --threads %d", a->threads));
out:
    return st;
}

ca_status ca_cli_write_run(const cli_session *s, cli_run_log *log, ca_result *r) {
    ca_status st = CA_OK;
    double seconds = ca_seconds() - log->started;
    char host[256] = "";
    ca_string line = {0};
    gethostname(host, sizeof host - 1);
    CA_TRY(command_line(s->arguments, &line));
    CA_TRY(ca_result_attribute_text(r, "/run", "started", log->date));
    CA_TRY(ca_result_attribute_float(r, "/run", "wall_seconds", seconds));
    CA_TRY(ca_result_attribute_text(r, "/run", "command_line", line.text));
    CA_TRY(ca_result_attribute_text(r, "/run", "hostname", host));
    CA_TRY(ca_result_attribute_text(r, "/run", "device", s->backend->name));
    CA_TRY(ca_result_attribute_int(r, "/run", "ranks", 1));
    CA_TRY(ca_result_attribute_int(r, "/run", "threads", s->backend->threads));
    CA_TRY(ca_result_attribute_int(r, "/run", "peak_host_bytes", ca_peak_host_bytes()));
    CA_TRY(ca_result_attribute_int(r, "/run", "peak_device_bytes", 0));
    CA_TRY(ca_result_attribute_float(r, "/run", "tokens_per_second",
                                     (double)s->job.plan.tokens / seconds));
    CA_TRY(ca_result_attribute_float(r, "/run", "flops", s->job.plan.flops));
    CA_TRY(write_log(log, r));
out:
    ca_string_free(&line);
    return st;
}
