/* SPDX-License-Identifier: MIT
 *
 * index.h5 of a sweep: the points and what became of them, the swept values, the headline numbers,
 * links to the files. And the end of points of an earlier sweep that it does not have.
 */
#include "cli.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Numbers when every value of the key is one, else texts. */
static ca_status put_key(const cli_session *s, ca_result *r, int64_t key, int64_t points) {
    ca_status st = CA_OK;
    char path[256];
    const char **texts = NULL;
    double *numbers = NULL;
    bool numeric = true;
    ca_result_shape shape = {1, {points}, {"point"}};
    CA_TRY(ca_calloc((size_t)points, sizeof *texts, &texts));
    CA_TRY(ca_calloc((size_t)points, sizeof *numbers, &numbers));
    for (int64_t p = 0; p < points; p++) {
        char *end;
        texts[p] = ca_document_sweep_value(s->document, p, key);
        numbers[p] = strtod(texts[p], &end);
        numeric &= end != texts[p] && *end == '\0';
    }
    snprintf(path, sizeof path, "/%s", ca_document_sweep_key(s->document, key));
    CA_TRY(numeric ? ca_result_put(r, path, CA_RESULT_F64, shape, numbers)
                   : ca_result_put(r, path, CA_RESULT_TEXT, shape, texts));
out:
    free(texts);
    free(numbers);
    return st;
}

/* Of a result; NaN where its method lacks it. Objects of which a result has one give one name. */
static ca_status read_headline(const char *const *headlines, const char *name, const char *file,
                               double *value) {
    ca_status st = CA_OK;
    ca_result_reader *reader = NULL;
    char object[128];
    *value = NAN;
    CA_TRY(ca_result_reader_open(file, &reader));
    for (const char *const *h = headlines; *h; h++) {
        const char *at = strchr(*h, '@');
        if (strcmp(at + 1, name) != 0) continue;
        snprintf(object, sizeof object, "%.*s", (int)(at - *h), *h);
        if (ca_result_reader_float(reader, object, name, value)) break;
    }
out:
    ca_result_reader_close(reader);
    return st;
}

/* One dataset for each name of the headlines, "object@name"; NaN where a point failed. */
static ca_status put_headline(ca_result *r, char **files, int64_t points,
                              const char *const *headlines, const char *name) {
    ca_status st = CA_OK;
    char path[128];
    double *values = NULL;
    snprintf(path, sizeof path, "/%s", name);
    if (ca_result_has(r, path)) return CA_OK;
    CA_TRY(ca_calloc((size_t)points, sizeof *values, &values));
    for (int64_t p = 0; p < points; p++) {
        values[p] = NAN;
        if (files[p]) CA_TRY(read_headline(headlines, name, files[p], &values[p]));
    }
    CA_TRY(
        ca_result_put(r, path, CA_RESULT_F64, (ca_result_shape){1, {points}, {"point"}}, values));
out:
    free(values);
    return st;
}

static ca_status put_points(ca_result *r, char **files, int64_t points) {
    ca_status st = CA_OK;
    char(*names)[32] = NULL, link[48], file[48];
    const char **texts = NULL, **status = NULL;
    ca_result_shape shape = {1, {points}, {"point"}};
    CA_TRY(ca_calloc((size_t)points, sizeof *names, &names));
    CA_TRY(ca_calloc((size_t)points, sizeof *texts, &texts));
    CA_TRY(ca_calloc((size_t)points, sizeof *status, &status));
    for (int64_t p = 0; p < points; p++) {
        snprintf(names[p], sizeof names[p], "point-%05lld", (long long)p);
        texts[p] = names[p];
        status[p] = files[p] ? "complete" : "failed";
        if (!files[p]) continue;
        snprintf(link, sizeof link, "/%s", names[p]);
        snprintf(file, sizeof file, "%s.h5", names[p]);
        CA_TRY(ca_result_link(r, link, file));
    }
    CA_TRY(ca_result_put(r, "/point", CA_RESULT_TEXT, shape, texts));
    CA_TRY(ca_result_put(r, "/status", CA_RESULT_TEXT, shape, status));
out:
    free(names);
    free(texts);
    free(status);
    return st;
}

ca_status ca_cli_write_index(const cli_session *s, const bool *failed) {
    ca_status st = CA_OK;
    int64_t points = ca_document_points(s->document), missing = 0;
    char **files = NULL; /* [points], NULL where a point failed */
    char *folder = NULL, *path = NULL;
    ca_result *r = NULL;
    CA_TRY(ca_calloc((size_t)points, sizeof *files, &files));
    for (int64_t p = 0; p < points; p++) {
        bool done;
        if (failed[p]) continue;
        CA_TRY(ca_cli_session_output(s, p, &files[p]));
        CA_TRY(ca_cli_session_done(s, p, files[p], &done));
        missing += !done;
    }
    CA_TRY(ca_cli_session_folder(s, &folder));
    CA_TRY(ca_path_join(folder, "index.h5", &path));
    if (missing) { /* other calls (--points, --shard) are still at work */
        ca_log(CA_LOG_INFO, "no index.h5 written: points not there yet: %lld of %lld",
               (long long)missing, (long long)points);
        (void)unlink(path); /* one of an earlier sweep, whose points are being overwritten */
        goto out;
    }
    CA_TRY(ca_result_create(path, &r));
    CA_TRY(ca_result_attribute_text(r, "/", "method", "sweep"));
    CA_TRY(put_points(r, files, points));
    for (int64_t k = 0; k < ca_document_sweep_keys(s->document); k++)
        CA_TRY(put_key(s, r, k, points));
    for (const char *const *h = s->method->headlines; *h; h++)
        CA_TRY(put_headline(r, files, points, s->method->headlines, strchr(*h, '@') + 1));
    ca_result *whole = r;
    r = NULL;
    CA_TRY(ca_result_finish(whole));
    ca_log(CA_LOG_INFO, "wrote %s", path);
out:
    ca_result_abandon(r);
    for (int64_t p = 0; files && p < points; p++) free(files[p]);
    free(files);
    free(folder);
    free(path);
    return st;
}

/* ---- points of an earlier sweep ---- */

/* The number of a point's result or checkpoint, by the whole of its name; else -1. */
static int64_t point_of(const char *name) {
    char expected[64];
    if (strncmp(name, "point-", 6) != 0) return -1;
    int64_t point = strtoll(name + 6, NULL, 10);
    for (int i = 0; i < 2; i++) {
        snprintf(expected, sizeof expected, "point-%05lld.h5%s", (long long)point,
                 i ? ".checkpoint" : "");
        if (strcmp(name, expected) == 0) return point;
    }
    return -1;
}

/* A result of this tool whose config has the name of this sweep, which is its first line. */
static bool is_of_sweep(const cli_session *s, const char *path) {
    ca_result_reader *reader = NULL;
    const char *tool, *config, *own = ca_config_yaml(s->config);
    if (ca_result_reader_open(path, &reader) != CA_OK) return false;
    bool is = ca_result_reader_text(reader, "/", "tool", &tool) && strcmp(tool, "causa") == 0 &&
              ca_result_reader_text(reader, "/", "config", &config) &&
              strncmp(config, own, strcspn(own, "\n") + 1) == 0;
    ca_result_reader_close(reader);
    return is;
}

ca_status ca_cli_remove_stale(const cli_session *s) {
    ca_status st = CA_OK;
    int64_t points = ca_document_points(s->document), removed = 0;
    char *folder = NULL, *path = NULL;
    DIR *entries = NULL;
    CA_TRY(ca_cli_session_folder(s, &folder));
    entries = opendir(folder);
    if (!entries) CA_TRY(ca_fail(CA_E_IO, "%s: %s", folder, strerror(errno)));
    for (const struct dirent *e = readdir(entries); e; e = readdir(entries)) {
        if (point_of(e->d_name) < points) continue;
        free(path);
        CA_TRY(ca_path_join(folder, e->d_name, &path));
        if (!is_of_sweep(s, path)) continue;
        if (unlink(path) != 0)
            CA_TRY(ca_fail(CA_E_IO, "%s: a point of an earlier sweep cannot be removed: %s", path,
                           strerror(errno)));
        removed++;
    }
    if (removed)
        ca_log(CA_LOG_INFO,
               "%s: removed points of an earlier sweep, of which this one has fewer: %lld", folder,
               (long long)removed);
out:
    if (entries) closedir(entries);
    free(folder);
    free(path);
    return st;
}
