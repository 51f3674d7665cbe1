/* SPDX-License-Identifier: MIT
 *
 * `causa inspect`: what a model or a result file is.
 */
#include "cli.h"

#include "causa/circuit.h"
#include "causa/gguf.h"

#include <stdlib.h>
#include <string.h>

/* ---- models ---- */

/* Nodes and edges of the computation graph that edge attribution scores. */
static void count_graph(const ca_arch *a, int64_t *nodes, int64_t *edges) {
    const ca_circuit_graph g = ca_circuit_graph_of(a, 0);
    *nodes = g.sources + 1; /* and the logits */
    *edges = g.edges;
}

static const char *norm_text(const ca_arch *a) {
    return a->norm.kind == CA_NORM_RMS ? "RMSNorm" : "LayerNorm";
}

static const char *position_text(const ca_arch *a, char text[96]) {
    static const char *const kinds[] = {"rotary", "rotary, linear scaling",
                                        "rotary, llama3 scaling"};
    if (a->learned_positions) return "learned positions";
    snprintf(text, 96, "%s, theta %g", kinds[a->rope[0].kind], a->rope[0].theta);
    return text;
}

static void print_model(const ca_model_file *f, const ca_tokenizer *t) {
    const ca_arch *a = ca_model_file_arch(f);
    int64_t nodes, edges;
    char text[96], bytes[32];
    count_graph(a, &nodes, &edges);
    printf("model         %s\n", ca_model_file_path(f));
    printf("family        %s (%s)\n", a->family, ca_model_file_format(f));
    printf("parameters    %lld\n", (long long)ca_model_file_parameters(f));
    printf("layers        %lld\n", (long long)a->layers);
    printf("width         %lld\n", (long long)a->width);
    printf("heads         %lld query, %lld key/value, %lld wide\n", (long long)a->heads,
           (long long)a->kv_heads, (long long)a->head_dim);
    printf("MLP           %lld hidden units%s\n", (long long)a->mlp_width,
           a->gated ? ", gated" : "");
    printf("vocabulary    %lld%s\n", (long long)a->vocab,
           a->tied ? ", head tied to the embedding" : "");
    printf("positions     %lld, %s\n", (long long)a->max_positions, position_text(a, text));
    printf("norm          %s, epsilon %g\n", norm_text(a), a->norm.epsilon);
    printf("graph         %lld nodes, %lld edges\n", (long long)nodes, (long long)edges);
    printf("tokenizer     %s\n", t ? ca_tokenizer_description(t) : "none: give prompts as ids");
    printf("memory        %s as f32, ", ca_bytes_text(ca_model_file_bytes(f, CA_F32), bytes));
    printf("%s as bf16, ", ca_bytes_text(ca_model_file_bytes(f, CA_BF16), bytes));
    printf("%s as f64\n", ca_bytes_text(ca_model_file_bytes(f, CA_F64), bytes));
    printf("sites        ");
    for (int k = 0; k < CA_SITE_COUNT; k++) {
        if (k == CA_SITE_RESID_MID && a->parallel) continue;
        printf(" %s%s", ca_site_in_block((ca_site_kind)k) ? "blocks.L." : "",
               ca_site_kind_name((ca_site_kind)k));
    }
    printf("\n");
}

static ca_status print_model_json(const ca_model_file *f, const ca_tokenizer *t) {
    const ca_arch *a = ca_model_file_arch(f);
    int64_t nodes, edges;
    char sha[65], position[96];
    ca_status st = ca_model_file_sha256(f, sha);
    if (st != CA_OK) return st;
    count_graph(a, &nodes, &edges);
    json_t *sites = json_array();
    for (int k = 0; k < CA_SITE_COUNT; k++)
        if (k != CA_SITE_RESID_MID || !a->parallel)
            json_array_append_new(sites, json_string(ca_site_kind_name((ca_site_kind)k)));
    json_t *root = json_pack(
        "{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:b, s:s, s:s, s:I, "
        "s:I, s:o, s:I, s:I, s:s, s:o}",
        "path", ca_model_file_path(f), "model_type", a->family, "format", ca_model_file_format(f),
        "parameters", (json_int_t)ca_model_file_parameters(f), "layers", (json_int_t)a->layers,
        "width", (json_int_t)a->width, "heads", (json_int_t)a->heads, "kv_heads",
        (json_int_t)a->kv_heads, "head_dim", (json_int_t)a->head_dim, "mlp_width",
        (json_int_t)a->mlp_width, "vocab", (json_int_t)a->vocab, "max_positions",
        (json_int_t)a->max_positions, "gated", a->gated, "tied", a->tied, "norm", norm_text(a),
        "positions", position_text(a, position), "nodes", (json_int_t)nodes, "edges",
        (json_int_t)edges, "sites", sites, "bytes_f32", (json_int_t)ca_model_file_bytes(f, CA_F32),
        "bytes_bf16", (json_int_t)ca_model_file_bytes(f, CA_BF16), "sha256", sha, "tokenizer",
        t ? json_string(ca_tokenizer_description(t)) : json_null());
    if (!root) return ca_fail(CA_E_MEMORY, "no memory for the output");
    json_dumpf(root, stdout, JSON_INDENT(2));
    printf("\n");
    json_decref(root);
    return CA_OK;
}

static ca_status inspect_model(const cli_arguments *arguments, const char *path) {
    ca_status st = CA_OK;
    ca_model_file *file = NULL;
    ca_tokenizer *tokenizer = NULL;
    CA_TRY(ca_model_file_open(path, &file));
    CA_TRY(ca_cli_open_tokenizer(path, &tokenizer));
    if (arguments->json)
        CA_TRY(print_model_json(file, tokenizer));
    else
        print_model(file, tokenizer);
out:
    ca_tokenizer_free(tokenizer);
    ca_model_file_close(file);
    return st;
}

/* ---- results ---- */

typedef struct result_listing {
    ca_result_reader *reader;
    json_t *objects, *attributes; /* NULL when printing text */
    const char *indent;
} result_listing;

static void shape_text(const ca_result_entry *e, char *text, size_t size) {
    size_t n = 0;
    text[0] = '\0';
    for (int i = 0; i < e->shape.rank && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, "%s%lld%s%s", i ? ", " : "",
                              (long long)e->shape.size[i],
                              e->shape.label[i] && e->shape.label[i][0] ? " " : "",
                              e->shape.label[i] ? e->shape.label[i] : "");
}

static ca_status list_attribute(void *context, const char *name, const char *value) {
    result_listing *l = context;
    if (l->attributes) {
        json_object_set_new(l->attributes, name, json_string(value));
    } else if (strchr(value, '\n')) { /* the config: every line indented */
        printf("%s%s:\n", l->indent, name);
        for (const char *p = value; *p;) {
            size_t n = strcspn(p, "\n");
            printf("%s    %.*s\n", l->indent, (int)n, p);
            p += n + (p[n] == '\n');
        }
    } else {
        printf("%s%-18s %s\n", l->indent, name, value);
    }
    return CA_OK;
}

/* Another file, such as a point of a sweep: named, and to be inspected by itself. */
static ca_status list_link(result_listing *l, const ca_result_entry *e) {
    if (l->objects)
        json_array_append_new(l->objects, json_pack("{s:s, s:s, s:s}", "path", e->path, "type",
                                                    e->type, "target", e->target));
    else
        printf("%-44s link  %s\n", e->path, e->target);
    return CA_OK;
}

/* The headline numbers of the method that made the file, before everything else. */
static void list_headlines(const result_listing *l, json_t *json) {
    const char *kind = NULL;
    const ca_method *method =
        ca_result_reader_text(l->reader, "/", "method", &kind) ? ca_method_find(kind) : NULL;
    for (const char *const *h = method ? method->headlines : NULL; h && *h; h++) {
        char object[128];
        const char *at = strchr(*h, '@');
        double value;
        snprintf(object, sizeof object, "%.*s", (int)(at - *h), *h);
        if (!ca_result_reader_float(l->reader, object, at + 1, &value)) continue;
        if (json)
            json_object_set_new(json, at + 1, json_real(value));
        else
            printf("%-13s %.6g\n", at + 1, value);
    }
}

static ca_status list_entry(void *context, const ca_result_entry *e) {
    result_listing *l = context;
    char shape[256];
    shape_text(e, shape, sizeof shape);
    if (e->target) return list_link(l, e);
    if (l->objects) {
        json_t *sizes = json_array(), *attributes = json_object();
        for (int i = 0; i < e->shape.rank; i++)
            json_array_append_new(sizes, json_integer(e->shape.size[i]));
        json_array_append_new(l->objects, json_pack("{s:s, s:s, s:o, s:o}", "path", e->path, "type",
                                                    e->group ? "group" : e->type, "shape", sizes,
                                                    "attributes", attributes));
        l->attributes = attributes;
    } else {
        printf("%-44s %-5s %s%s%s\n", e->path, e->group ? "" : e->type, e->group ? "" : "[", shape,
               e->group ? "" : "]");
        l->indent = "    ";
    }
    return ca_result_reader_attributes(l->reader, e->path, list_attribute, l);
}

static ca_status inspect_result(const cli_arguments *arguments, const char *path) {
    ca_status st = CA_OK;
    json_t *root = NULL, *headlines = NULL;
    result_listing l = {.indent = ""};
    CA_TRY(ca_result_reader_open(path, &l.reader));
    if (arguments->json) {
        l.objects = json_array();
        l.attributes = json_object();
        headlines = json_object();
        root = json_pack("{s:s, s:o, s:o, s:o}", "path", path, "headlines", headlines, "attributes",
                         l.attributes, "objects", l.objects);
        if (!root) CA_TRY(ca_fail(CA_E_MEMORY, "no memory for the output"));
    } else {
        printf("result        %s\n", path);
    }
    list_headlines(&l, headlines);
    CA_TRY(ca_result_reader_attributes(l.reader, "/", list_attribute, &l));
    CA_TRY(ca_result_reader_visit(l.reader, list_entry, &l));
    if (root) {
        json_dumpf(root, stdout, JSON_INDENT(2));
        printf("\n");
    }
out:
    json_decref(root);
    if (l.reader) ca_result_reader_close(l.reader);
    return st;
}

static bool ends_with(const char *text, const char *suffix) {
    size_t n = strlen(text), m = strlen(suffix);
    return n >= m && strcmp(text + n - m, suffix) == 0;
}

ca_status ca_cli_inspect(const cli_arguments *arguments) {
    if (arguments->count != 1)
        return ca_fail(CA_E_USAGE, "expected a model or a result file, got %lld arguments",
                       (long long)arguments->count);
    const char *path = arguments->words[0];
    if (!ca_is_directory(path) && !ca_file_exists(path))
        return ca_fail(CA_E_DATA, "%s: expected a model or a result file, got nothing there", path);
    bool model = ca_is_directory(path) || (!ends_with(path, ".h5") && ca_gguf_is(path));
    return model ? inspect_model(arguments, path) : inspect_result(arguments, path);
}
