/* SPDX-License-Identifier: MIT
 *
 * `causa run`: one result file per sweep point. Every point is checked before the first one runs;
 * a point that fails does not stop the others.
 */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

/* Which points this call runs. */
typedef struct point_range {
    int64_t first, last, shard, shards;
} point_range;

static ca_status choose_points(const cli_arguments *a, int64_t points, point_range *out) {
    ca_status st = CA_OK;
    *out = (point_range){0, points, 0, 1};
    if (a->points) {
        CA_TRY(ca_cli_parse_range("points", a->points, ':', &out->first, &out->last));
        if (out->first >= out->last || out->last > points)
            return ca_fail(CA_E_USAGE, "--points: expected A < B <= %lld, got %s",
                           (long long)points, a->points);
    }
    if (a->shard) {
        CA_TRY(ca_cli_parse_range("shard", a->shard, '/', &out->shard, &out->shards));
        if (out->shard >= out->shards)
            return ca_fail(CA_E_USAGE, "--shard: expected I < N, got %s", a->shard);
    }
out:
    return st;
}

static bool chosen(const point_range *r, int64_t point) {
    return r->first <= point && point < r->last && point % r->shards == r->shard;
}

/* An existing result is kept, finished (--resume) or replaced (--overwrite), never by accident. */
static ca_status check_output(const cli_session *s, const char *path, bool *done) {
    *done = false;
    ca_status st = ca_cli_check_folder(s, path);
    if (st != CA_OK) return st;
    if (!ca_file_exists(path)) return CA_OK;
    if (s->arguments->resume && ca_result_is_complete(path, ca_config_sha256(s->config))) {
        *done = true;
        return CA_OK;
    }
    if (s->arguments->overwrite) return CA_OK;
    if (s->arguments->resume) {
        ca_hint("--overwrite replaces it; another name or output keeps both");
        return ca_fail(CA_E_USAGE, "%s: the file holds the result of another configuration", path);
    }
    ca_hint("--overwrite replaces it, --resume keeps it when it is the result of the same "
            "configuration");
    return ca_fail(CA_E_USAGE, "%s: the file exists already", path);
}

static void announce(const cli_session *s, int64_t point, int64_t points, const char *path) {
    const ca_plan *p = &s->job.plan;
    char memory[32], work[32];
    if (points > 1)
        ca_log(CA_LOG_INFO, "point %lld of %lld", (long long)point + 1, (long long)points);
    ca_log(CA_LOG_INFO, "%s on %s (%s, %s, threads: %d), examples: %lld, tokens: %lld, %s, %s",
           s->method->kind, ca_config_text(s->config, "model"), s->backend->name,
           ca_dtype_name(s->job.precision), s->backend->threads, (long long)p->examples,
           (long long)p->tokens, ca_cli_flops(p->flops, work),
           ca_bytes_text(p->weight_bytes + p->work_bytes + p->host_bytes, memory));
    if (s->data->excluded_count)
        ca_log(CA_LOG_WARNING, "%s: rows left out: %lld; they are listed in /data/excluded",
               s->data->path, (long long)s->data->excluded_count);
    if (s->data->unanswered && s->data->unanswered < s->data->count)
        ca_log(CA_LOG_WARNING, "%s: answer is empty in %lld of %lld rows", s->data->path,
               (long long)s->data->unanswered, (long long)s->data->count);
    ca_log(CA_LOG_DEBUG, "output %s", path);
}

/* Methods that go over the examples again count on behind the last one. */
static void announce_resume(int64_t at, int64_t count) {
    if (at < count)
        ca_log(CA_LOG_INFO, "going on at example %lld of %lld", (long long)at, (long long)count);
    else
        ca_log(CA_LOG_INFO, "going on after the first pass over %lld examples", (long long)count);
}

static bool same_rows(const cli_session *s, const char *const *id, int64_t count) {
    bool same = count == s->data->count;
    for (int64_t i = 0; same && i < count; i++) same = strcmp(id[i], s->data->examples[i].id) == 0;
    return same;
}

/* Rows that were kept for the model's answers must be those of the checkpoint: on another machine
 * the nearest of them may be answered otherwise. */
static ca_status check_kept(const cli_session *s, const char *path) {
    ca_status st = CA_OK;
    ca_string file = {0};
    ca_result_reader *reader = NULL;
    const char *const *id, *sha256;
    int64_t count;
    if (!s->arguments->resume || strcmp(ca_config_text(s->config, "data.keep"), "all") == 0)
        return CA_OK;
    CA_TRY(ca_string_printf(&file, "%s.checkpoint", path));
    if (!ca_file_exists(file.text)) goto out;
    CA_TRY(ca_result_reader_open(file.text, &reader));
    if (!ca_result_reader_text(reader, "/", "config_sha256", &sha256) ||
        strcmp(sha256, ca_config_sha256(s->config)) != 0 ||
        !ca_result_reader_has(reader, "/data/id"))
        goto out;
    CA_TRY(ca_result_reader_texts(reader, "/data/id", &id, &count));
    if (!same_rows(s, id, count)) {
        ca_hint("without --resume the run begins again");
        st = ca_fail(CA_E_DATA,
                     "%s: expected the %lld rows that the model answered correctly when it was "
                     "written, got others, %lld of them",
                     file.text, (long long)count, (long long)s->data->count);
    }
out:
    ca_result_reader_close(reader);
    ca_string_free(&file);
    return st;
}

/* Opens the file, or the checkpoint of an earlier run. */
static ca_status open_result(cli_session *s, const char *path, ca_result **result) {
    ca_status st = CA_OK;
    *result = NULL;
    CA_TRY(check_kept(s, path));
    if (s->arguments->resume) {
        CA_TRY(ca_result_resume(path, ca_config_sha256(s->config), result, &s->job.resume_at));
        if (*result) announce_resume(s->job.resume_at, s->data->count);
    }
    if (!*result) {
        CA_TRY(ca_result_create(path, result));
        CA_TRY(ca_cli_write_provenance(s, *result));
    }
out:
    return st;
}

/* Prints the result in a few lines; the file says the rest. */
static ca_status print_answer(cli_session *s) {
    ca_status st = CA_OK;
    ca_string text = {0};
    if (!s->method->answer || s->arguments->quiet || s->arguments->json) return CA_OK;
    CA_TRY(s->method->answer(&s->job, s->state, &text));
    fputs(text.text, stdout);
out:
    ca_string_free(&text);
    return st;
}

/* Beside which plan memory was too little. */
static void tell_plan(const cli_session *s) {
    const ca_plan *p = &s->job.plan;
    char weights[32], work[32];
    ca_hint("planned were weights %s and work %s for micro-batches of up to %lld rows; a smaller "
            "memory or batch needs less",
            ca_bytes_text(p->weight_bytes, weights), ca_bytes_text(p->work_bytes, work),
            (long long)p->batch_rows);
}

/* Once, from the beginning: what was written so far is left. */
static ca_status run_halved(cli_session *s, const char *path, ca_result **result, int64_t *done) {
    ca_status st = CA_OK;
    char text[1024];
    snprintf(text, sizeof text, "%s", ca_error_text());
    const ca_plan whole = s->job.plan;
    if (ca_cli_session_halve(s) != CA_OK) {
        s->job.plan = whole;
        return ca_fail(CA_E_MEMORY, "%s", text);
    }
    ca_log(CA_LOG_WARNING, "%s; going on with micro-batches of up to %lld rows", text,
           (long long)s->job.plan.batch_rows);
    ca_result_abandon(*result);
    CA_TRY(open_result(s, path, result));
    s->job.result = *result;
    st = s->method->run(&s->job, s->state, done);
out:
    return st;
}

/* Memory may run out although it was planned: others use the device too. */
static ca_status run_method(cli_session *s, const char *path, ca_result **result, int64_t *done) {
    ca_status st = CA_OK;
    CA_TRY(ca_cli_session_load(s));
    s->job.result = *result;
    st = s->method->run(&s->job, s->state, done);
    if (st == CA_E_MEMORY && s->job.resume_at == 0) st = run_halved(s, path, result, done);
out:
    if (st == CA_E_MEMORY) tell_plan(s);
    return st;
}

/* Runs the prepared point. A signal leaves a checkpoint when anything was finished. */
static ca_status run_point(cli_session *s, int64_t point, int64_t points, const char *path) {
    ca_status st = CA_OK;
    ca_result *result = NULL;
    cli_run_log *log = NULL;
    int64_t done = 0;
    CA_TRY(ca_cli_run_log_start(&log));
    CA_TRY(ca_cli_session_keep(s));
    announce(s, point, points, path);
    CA_TRY(open_result(s, path, &result));
    st = run_method(s, path, &result, &done);
    bool stopped = st == CA_E_PREEMPTED || st == CA_E_INTERRUPT;
    if (stopped && (done > 0 || ca_result_has(result, CA_RESULT_UNFINISHED))) {
        ca_result *partial = result;
        result = NULL;
        ca_status saved = ca_result_checkpoint(partial, done);
        if (saved == CA_OK)
            ca_log(CA_LOG_WARNING, "stopped; finished examples: %lld; --resume goes on",
                   (long long)(done < s->data->count ? done : s->data->count));
        st = saved == CA_OK ? st : saved;
        goto out;
    }
    CA_TRY(st);
    CA_TRY(print_answer(s));
    CA_TRY(ca_cli_write_run(s, log, result));
    ca_result *whole = result;
    result = NULL;
    CA_TRY(ca_result_finish(whole));
    ca_log(CA_LOG_INFO, "wrote %s", path);
out:
    ca_result_abandon(result);
    ca_cli_run_log_stop(log);
    return st;
}

static bool stops_sweep(ca_status st) {
    return st == CA_E_PREEMPTED || st == CA_E_INTERRUPT || st == CA_E_TERMINATED;
}

/* Prepares every point, so that a mistake in the last one shows before the first one runs. */
static ca_status check_points(cli_session *s, int64_t points, const point_range *range) {
    ca_status st = CA_OK;
    char *path = NULL;
    bool done;
    for (int64_t p = points - 1; p >= 0; p--) {
        if (!chosen(range, p)) continue;
        CA_TRY(ca_cli_session_point(s, p));
        CA_TRY(ca_cli_session_output(s, p, &path));
        CA_TRY(check_output(s, path, &done));
        free(path);
        path = NULL;
    }
out:
    free(path);
    return st;
}

/* With --json: the plan of a point, what became of it and where its result lies, on one line. */
static ca_status print_json(const cli_session *s, int64_t point, const char *path,
                            ca_status ended) {
    ca_status st = CA_OK;
    json_t *line = NULL;
    if (!s->arguments->json) return CA_OK;
    CA_TRY(ca_cli_plan_json(s, ca_document_points(s->document), path, &line));
    json_object_set_new(line, "point", json_integer(point));
    json_object_set_new(line, "status", json_string(ended == CA_OK ? "complete" : "failed"));
    json_dumpf(line, stdout, JSON_COMPACT);
    printf("\n");
    fflush(stdout); /* a reader follows a long sweep */
out:
    json_decref(line);
    return st;
}

static ca_status run_points(cli_session *s, int64_t points, const point_range *range) {
    ca_status st = CA_OK, last = CA_OK;
    char *path = NULL;
    bool *failed = NULL;
    int64_t failures = 0;
    CA_TRY(ca_calloc((size_t)points, sizeof *failed, &failed));
    CA_TRY(ca_cli_make_folder(s));
    for (int64_t p = 0; p < points; p++) {
        bool done;
        if (!chosen(range, p)) continue;
        CA_TRY(ca_cli_session_point(s, p));
        free(path);
        CA_TRY(ca_cli_session_output(s, p, &path));
        CA_TRY(check_output(s, path, &done));
        last = CA_OK;
        if (done) {
            ca_log(CA_LOG_INFO, "%s is complete already", path);
        } else {
            last = run_point(s, p, points, path);
        }
        if (last != CA_OK && (points == 1 || stops_sweep(last))) {
            st = last;
            goto out;
        }
        if (last != CA_OK) {
            ca_log(CA_LOG_ERROR, "point %lld failed: %s", (long long)p, ca_error_text());
            failed[p] = true;
            failures++;
        }
        CA_TRY(print_json(s, p, path, last));
    }
    bool sweep = ca_document_sweep_keys(s->document) > 0;
    if (sweep && s->arguments->overwrite) CA_TRY(ca_cli_remove_stale(s));
    if (sweep) CA_TRY(ca_cli_write_index(s, failed));
    if (failures)
        st = ca_fail(CA_E_POINTS, "%lld of %lld sweep points failed", (long long)failures,
                     (long long)points);
out:
    free(failed);
    free(path);
    return st;
}

ca_status ca_cli_run(const cli_arguments *arguments) {
    ca_status st = CA_OK;
    cli_session s = {0};
    point_range range;
    if (arguments->dry_run) return ca_cli_plan(arguments);
    ca_signals_install();
    CA_TRY(ca_cli_session_open(arguments, &s));
    int64_t points = ca_document_points(s.document);
    CA_TRY(choose_points(arguments, points, &range));
    CA_TRY(check_points(&s, points, &range));
    CA_TRY(run_points(&s, points, &range));
out:
    ca_cli_session_close(&s);
    return st;
}
