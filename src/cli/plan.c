/* SPDX-License-Identifier: MIT
 *
 * `causa plan`: everything up to the first weight.
 */
#include "cli.h"

#include <stdlib.h>

static void print_text(const cli_session *s, int64_t points, const char *output) {
    const ca_plan *p = &s->job.plan;
    char a[32], b[32], c[32], d[32];
    printf("%s", ca_config_yaml(s->config));
    printf("---\n");
    printf("output        %s\n", output);
    printf("sweep points  %lld\n", (long long)points);
    printf("model         %s, %s, %lld parameters\n", s->job.arch->family,
           ca_model_file_format(s->file), (long long)ca_model_file_parameters(s->file));
    printf("backend       %s, %s, threads: %d\n", s->backend->name, ca_dtype_name(s->job.precision),
           s->backend->threads);
    printf("examples      %lld (tokens: %lld, excluded rows: %lld%s)\n", (long long)p->examples,
           (long long)p->tokens, (long long)s->data->excluded_count,
           s->data->unjudged ? "; a run keeps those that the model answers correctly" : "");
    printf("micro-batches %lld (most rows: %lld)\n", (long long)p->batches,
           (long long)p->batch_rows);
    if (p->cells) printf("cells         %lld\n", (long long)p->cells);
    if (p->lanes)
        printf("backward      lanes: %lld, block values %s\n", (long long)p->lanes,
               p->recompute ? "recomputed" : "kept");
    printf("memory        %s per rank: weights %s, work %s, host arrays %s\n",
           ca_bytes_text(p->weight_bytes + p->work_bytes + p->host_bytes, a),
           ca_bytes_text(p->weight_bytes, b), ca_bytes_text(p->work_bytes, c),
           ca_bytes_text(p->host_bytes, d));
    printf("arithmetic    %s\n", ca_cli_flops(p->flops, a));
}

ca_status ca_cli_plan_json(const cli_session *s, int64_t points, const char *output, json_t **out) {
    const ca_plan *p = &s->job.plan;
    *out = json_pack(
        "{s:s, s:s, s:I, s:s, s:s, s:i, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:I, s:I, "
        "s:I, "
        "s:f}",
        "config", ca_config_yaml(s->config), "output", output, "points", (json_int_t)points,
        "model_type", s->job.arch->family, "backend", s->backend->name, "threads",
        s->backend->threads, "dtype", ca_dtype_name(s->job.precision), "examples",
        (json_int_t)p->examples, "excluded", (json_int_t)s->data->excluded_count, "tokens",
        (json_int_t)p->tokens, "batches", (json_int_t)p->batches, "batch_rows",
        (json_int_t)p->batch_rows, "cells", (json_int_t)p->cells, "lanes", (json_int_t)p->lanes,
        "recompute", p->recompute, "weight_bytes", (json_int_t)p->weight_bytes, "work_bytes",
        (json_int_t)p->work_bytes, "host_bytes", (json_int_t)p->host_bytes, "flops", p->flops);
    return *out ? CA_OK : ca_fail(CA_E_MEMORY, "no memory for the plan");
}

ca_status ca_cli_plan(const cli_arguments *arguments) {
    ca_status st = CA_OK;
    cli_session s = {0};
    char *output = NULL;
    json_t *json = NULL;
    CA_TRY(ca_cli_session_open(arguments, &s));
    int64_t points = ca_document_points(s.document);
    for (int64_t p = points - 1; p >= 0; p--) { /* all are checked, the first is shown */
        CA_TRY(ca_cli_session_point(&s, p));
        free(output);
        CA_TRY(ca_cli_session_output(&s, p, &output));
        CA_TRY(ca_cli_check_folder(&s, output));
    }
    if (arguments->json) {
        CA_TRY(ca_cli_plan_json(&s, points, output, &json));
        json_dumpf(json, stdout, JSON_INDENT(2));
        printf("\n");
    } else {
        print_text(&s, points, output);
    }
out:
    json_decref(json);
    free(output);
    ca_cli_session_close(&s);
    return st;
}
