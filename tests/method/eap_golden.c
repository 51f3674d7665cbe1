/* SPDX-License-Identifier: MIT
 *
 * See eap_golden.h. The files hold matrices for x W; a ca_model holds [out, in].
 */
#include "eap_golden.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

const char *const every_golden[] = {"tiny_seq", "tiny_parallel", "tiny_gqa", NULL};

/* ---- json */

static const json_t *member(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    if (!value) fail_msg("golden file: no key '%s'", key);
    return value;
}

static int64_t integer(const json_t *object, const char *key) {
    return (int64_t)json_integer_value(member(object, key));
}

static double *list(fixture *f, const json_t *array, int64_t count) {
    double *out = numbers(f, count);
    assert_int_equal(json_array_size(array), count);
    for (int64_t i = 0; i < count; i++)
        out[i] = json_number_value(json_array_get(array, (size_t)i));
    return out;
}

/* {"shape": ..., "data": ...} of any shape. */
static double *array_of(fixture *f, const json_t *object, const char *key, int64_t count) {
    return list(f, member(member(object, key), "data"), count);
}

/* ---- model */

/* Weights of one file, on their way into one piece of backend memory. */
typedef struct builder {
    fixture *f;
    const json_t *weights;
    int64_t layer; /* -1: outside blocks */
    int64_t used;  /* elements */
    void *staging;
} builder;

static const char *key_of(const builder *b, const char *name) {
    static char key[64];
    if (b->layer < 0) return name;
    snprintf(key, sizeof key, "%lld.%s", (long long)b->layer, name);
    return key;
}

static double *read_weight(builder *b, const char *name, int64_t count) {
    return array_of(b->f, b->weights, key_of(b, name), count);
}

/* rows == 0: a vector. Vectors and rows begin at multiples of 16 elements. */
static ca_tensor put(builder *b, int64_t rows, int64_t columns, const double *values) {
    ca_model *m = b->f->model;
    size_t size = ca_dtype_size(m->dtype);
    char *data = (char *)m->memory + (size_t)b->used * size;
    ca_tensor t =
        rows ? ca_tensor_2d(data, m->dtype, rows, columns) : ca_tensor_1d(data, m->dtype, columns);
    b->used += (ca_tensor_count(&t) + 15) / 16 * 16;
    if ((size_t)b->used * size > (size_t)m->bytes) fail_msg("golden model: no room");
    ok(ca_upload_f64(b->f->backend, t, b->staging, values));
    return t;
}

static ca_tensor vector(builder *b, const char *name, int64_t count) {
    return put(b, 0, count, read_weight(b, name, count));
}

/* [blocks, in, out] of the file as [blocks out, in]. */
static double *transpose(builder *b, const char *name, int64_t blocks, int64_t in, int64_t out) {
    const double *from = read_weight(b, name, blocks * in * out);
    double *to = numbers(b->f, blocks * in * out);
    for (int64_t n = 0; n < blocks; n++)
        for (int64_t i = 0; i < in; i++)
            for (int64_t o = 0; o < out; o++)
                to[(n * out + o) * in + i] = from[(n * in + i) * out + o];
    return to;
}

static ca_tensor matrix(builder *b, const char *name, int64_t in, int64_t out) {
    return put(b, out, in, transpose(b, name, 1, in, out));
}

/* Rows q | k | v of all heads, and their biases. */
static void put_qkv(builder *b, ca_layer *layer) {
    const ca_arch *a = &b->f->model->arch;
    static const char *const weights[] = {"W_Q", "W_K", "W_V"}, *const biases[] = {"b_Q", "b_K",
                                                                                   "b_V"};
    int64_t rows = (a->heads + 2 * a->kv_heads) * a->head_dim, at = 0;
    double *w = numbers(b->f, rows * a->width), *bias = numbers(b->f, rows);
    for (int i = 0; i < 3; i++) {
        int64_t heads = i ? a->kv_heads : a->heads, count = heads * a->head_dim;
        memcpy(w + at * a->width, transpose(b, weights[i], heads, a->width, a->head_dim),
               (size_t)(count * a->width) * sizeof *w);
        memcpy(bias + at, read_weight(b, biases[i], count), (size_t)count * sizeof *bias);
        at += count;
    }
    layer->qkv_weight = put(b, rows, a->width, w);
    layer->qkv_bias = put(b, 0, rows, bias);
}

static void put_layer(builder *b, int64_t l) {
    const ca_arch *a = &b->f->model->arch;
    ca_layer *layer = &b->f->model->layers[l];
    b->layer = l;
    *layer = (ca_layer){.rope = -1, .attention_scale = a->attention_scale};
    layer->norm1_gain = vector(b, "ln1_w", a->width);
    layer->norm1_bias = vector(b, "ln1_b", a->width);
    put_qkv(b, layer);
    layer->out_weight = matrix(b, "W_O", a->heads * a->head_dim, a->width);
    layer->out_bias = vector(b, "b_O", a->width);
    layer->norm2_gain = vector(b, "ln2_w", a->width);
    layer->norm2_bias = vector(b, "ln2_b", a->width);
    layer->up_weight = matrix(b, "W_in", a->width, a->mlp_width);
    layer->up_bias = vector(b, "b_in", a->mlp_width);
    layer->down_weight = matrix(b, "W_out", a->mlp_width, a->width);
    layer->down_bias = vector(b, "b_out", a->width);
    b->layer = -1;
}

static ca_arch arch_of(const json_t *cfg) {
    ca_arch a = {
        .family = "gpt2",
        .layers = integer(cfg, "n_layers"),
        .width = integer(cfg, "d_model"),
        .heads = integer(cfg, "n_heads"),
        .kv_heads = integer(cfg, "n_kv_heads"),
        .head_dim = integer(cfg, "d_head"),
        .mlp_width = integer(cfg, "d_mlp"),
        .vocab = integer(cfg, "d_vocab"),
        .max_positions = integer(cfg, "n_ctx"),
        .norm = {CA_NORM_LAYER, json_real_value(member(cfg, "ln_eps")), 0},
        .pre_norm = true,
        .parallel = json_is_true(member(cfg, "parallel_attn_mlp")),
        .activation = CA_GELU,
        .learned_positions = true,
        .embed_scale = 1,
    };
    a.attention_scale = 0.5; /* 1 / sqrt(d_head) */
    assert_int_equal(a.head_dim, 4);
    return a;
}

static void build_model(fixture *f, const json_t *root) {
    builder b = {.f = f, .weights = member(root, "weights"), .layer = -1};
    ca_model *m = calloc(1, sizeof *m);
    assert_non_null(m);
    f->model = m;
    m->arch = arch_of(member(root, "cfg"));
    m->backend = f->backend;
    m->precision = m->dtype = f->exact ? CA_F64 : CA_F32;
    const ca_arch *a = &m->arch;
    /* everything but vectors, plus a generous allowance for them and the gaps */
    int64_t block = a->width * (4 * a->heads * a->head_dim + 2 * a->mlp_width + 32);
    m->bytes = (int64_t)sizeof(double) *
               (a->layers * block + a->width * (2 * a->vocab + a->max_positions + 32));
    m->layers = calloc((size_t)a->layers, sizeof *m->layers);
    assert_non_null(m->layers);
    b.staging = numbers(f, block + a->width * a->vocab);
    ok(ca_alloc(f->backend, (size_t)m->bytes, &m->memory));
    m->embed = put(&b, a->vocab, a->width, read_weight(&b, "W_E", a->vocab * a->width));
    m->positions =
        put(&b, a->max_positions, a->width, read_weight(&b, "W_pos", a->max_positions * a->width));
    m->final_gain = vector(&b, "lnf_w", a->width);
    m->final_bias = vector(&b, "lnf_b", a->width);
    m->head = matrix(&b, "W_U", a->width, a->vocab);
    m->head_bias = vector(&b, "b_U", a->vocab);
    for (int64_t l = 0; l < a->layers; l++) put_layer(&b, l);
    f->layers = a->layers;
    f->width = a->width;
    f->vocab = a->vocab;
}

/* ---- pairs */

static char *text_of(fixture *f, const char *text) {
    char *copy = (char *)numbers(f, (int64_t)strlen(text) / (int64_t)sizeof(double) + 1);
    return strcpy(copy, text);
}

static int32_t *ids_of(fixture *f, const json_t *array, int64_t count) {
    int32_t *ids = (int32_t *)numbers(f, count);
    for (int64_t i = 0; i < count; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(array, (size_t)i));
    return ids;
}

static void read_pair(eap_golden *g, const json_t *batch, size_t i, ca_example *e, int64_t row) {
    const json_t *labels = json_array_get(member(batch, "labels"), i);
    int64_t count = (int64_t)json_integer_value(json_array_get(member(batch, "lengths"), i));
    char id[24];
    snprintf(id, sizeof id, "%lld", (long long)row);
    *e = (ca_example){
        .id = text_of(&g->f, id),
        .row = row + 1,
        .clean = {.count = count,
                  .ids = ids_of(&g->f, json_array_get(member(batch, "clean"), i), count)},
        .corrupted = {.count = count,
                      .ids = ids_of(&g->f, json_array_get(member(batch, "corrupted"), i), count)},
        .answer = {1, ids_of(&g->f, labels, 2)},
    };
    e->wrong = (ca_answers){1, e->answer.ids + 1};
    while (e->first_difference < count &&
           e->clean.ids[e->first_difference] == e->corrupted.ids[e->first_difference])
        e->first_difference++;
}

static void read_pairs(eap_golden *g) {
    const json_t *batches = member(g->root, "batches");
    assert_int_equal(json_array_size(batches), GOLDEN_BATCHES);
    for (int b = 0; b < GOLDEN_BATCHES; b++)
        g->batch[b + 1] = g->batch[b] + (int64_t)json_array_size(
                                            member(json_array_get(batches, (size_t)b), "lengths"));
    g->data.count = g->batch[GOLDEN_BATCHES];
    g->data.path = text_of(&g->f, g->f.name);
    g->data.pairs = true;
    g->data.bos = -1; /* the ids begin with it already */
    g->data.examples = calloc((size_t)g->data.count, sizeof *g->data.examples);
    assert_non_null(g->data.examples);
    for (int b = 0; b < GOLDEN_BATCHES; b++)
        for (int64_t n = g->batch[b]; n < g->batch[b + 1]; n++)
            read_pair(g, json_array_get(batches, (size_t)b), (size_t)(n - g->batch[b]),
                      &g->data.examples[n], n);
    g->clean = list(&g->f, member(g->root, "clean_logit_diff"), g->data.count);
    g->corrupted = list(&g->f, member(g->root, "corrupted_logit_diff"), g->data.count);
}

/* ---- circuits */

static int64_t find(const json_t *names, const char *name, size_t length) {
    for (size_t i = 0; i < json_array_size(names); i++)
        if (json_string_length(json_array_get(names, i)) == length &&
            memcmp(json_string_value(json_array_get(names, i)), name, length) == 0)
            return (int64_t)i;
    fail_msg("golden file: no node '%.*s'", (int)length, name);
    return -1;
}

/* The numbers of rows and columns are those of the lists in the file, which are in graph order. */
static void read_circuit(eap_golden *g, const json_t *from, golden_circuit *c) {
    const json_t *sources = member(g->root, "fwd_nodes"), *into = member(g->root, "bwd_nodes");
    const json_t *edges = member(from, "edges");
    c->rule = strcmp(json_string_value(member(from, "select")), "greedy") == 0 ? CA_CIRCUIT_GREEDY
                                                                               : CA_CIRCUIT_TOP;
    c->count = integer(from, "n");
    c->absolute = json_is_true(member(from, "absolute"));
    c->kept = integer(from, "edges_kept");
    c->faithfulness = json_number_value(member(from, "faithfulness"));
    c->logit_diff = list(&g->f, member(from, "logit_diff"), g->data.count);
    int64_t columns = (int64_t)json_array_size(into);
    c->edges = (bool *)numbers(&g->f, (int64_t)json_array_size(sources) * columns);
    for (size_t i = 0; i < json_array_size(edges); i++) {
        const char *name = json_string_value(json_array_get(edges, i));
        const char *arrow = strstr(name, "->");
        assert_non_null(arrow);
        int64_t u = find(sources, name, (size_t)(arrow - name));
        c->edges[u * columns + find(into, arrow + 2, strlen(arrow + 2))] = true;
    }
}

/* ---- life */

void eap_golden_open(eap_golden *g, const char *name, const char *backend) {
    char path[128];
    json_error_t error;
    *g = (eap_golden){.f = {.name = name, .exact = strcmp(backend, "ref") == 0}};
    ok(ca_backend_open(backend, 2, &g->f.backend));
    snprintf(path, sizeof path, "tests/fixtures/eap/%s.json", name);
    g->root = json_load_file(path, 0, &error);
    if (!g->root) fail_msg("%s: %s", path, error.text);
    build_model(&g->f, g->root);
    g->graph = ca_circuit_graph_of(&g->f.model->arch, 0);
    read_pairs(g);
    const json_t *circuits = member(g->root, "circuits");
    assert_int_equal(json_array_size(circuits), GOLDEN_CIRCUITS);
    for (size_t i = 0; i < GOLDEN_CIRCUITS; i++)
        read_circuit(g, json_array_get(circuits, i), &g->circuits[i]);
}

void eap_golden_close(eap_golden *g) {
    free(g->data.examples);
    json_decref(g->root);
    fixture_close(&g->f);
}

double *eap_golden_scores(eap_golden *g, const char *name) {
    return array_of(&g->f, member(g->root, "scores"), name,
                    g->graph.sources * g->graph.destinations);
}

void on_goldens(const char *backend, void (*test)(eap_golden *g)) {
    for (const char *const *name = every_golden; *name; name++) {
        eap_golden g;
        eap_golden_open(&g, *name, backend);
        test(&g);
        eap_golden_close(&g);
    }
}
