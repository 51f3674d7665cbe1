/* SPDX-License-Identifier: MIT
 *
 * Circuit files: JSON and result files hold what was written, byte for byte where the peers' JSON
 * is concerned, and what is wrong in a file is named.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "causa/circuit.h"

static char folder[64], json[96], again[96], h5[96];

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/causa-circuit-XXXXXX");
    if (!mkdtemp(folder)) return 1;
    snprintf(json, sizeof json, "%s/x.json", folder);
    snprintf(again, sizeof again, "%s/y.json", folder);
    snprintf(h5, sizeof h5, "%s/x.h5", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    (void)unlink(json);
    (void)unlink(again);
    (void)unlink(h5);
    return rmdir(folder); /* fails when anything else was left behind */
}

static void ok(ca_status st) {
    if (st != CA_OK) fail_msg("%s", ca_error_text());
}

static void write_text(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0 && fclose(f) == 0);
}

static void expect_text(const char *path, const char *want) {
    char *got;
    size_t size;
    ok(ca_file_read(path, &got, &size));
    assert_string_equal(got, want);
    free(got);
}

/* ---- one layer, one head: the whole text by hand */

#define CFG                                                                                        \
    "{\"cfg\": {\"n_layers\": 1, \"n_heads\": 1, \"parallel_attn_mlp\": false, \"d_model\": 8}, "
#define NODES                                                                                      \
    "\"nodes\": {\"input\": {\"in_graph\": true}, \"a0.h0\": {\"in_graph\": true}, "               \
    "\"m0\": {\"in_graph\": false}, \"logits\": {\"in_graph\": true}}, "
#define EDGES                                                                                      \
    "\"edges\": {\"input->a0.h0<q>\": {\"score\": 0.1, \"in_graph\": false}, "                     \
    "\"input->a0.h0<k>\": {\"score\": -2.0, \"in_graph\": true}, "                                 \
    "\"input->a0.h0<v>\": {\"score\": NaN, \"in_graph\": false}, "                                 \
    "\"input->m0\": {\"score\": 1e-05, \"in_graph\": true}, "                                      \
    "\"a0.h0->m0\": {\"score\": Infinity, \"in_graph\": false}, "                                  \
    "\"input->logits\": {\"score\": -Infinity, \"in_graph\": false}, "                             \
    "\"a0.h0->logits\": {\"score\": 0.30000000000000004, \"in_graph\": true}, "                    \
    "\"m0->logits\": {\"score\": 0.0, \"in_graph\": false}}}"
#define WHOLE CFG NODES EDGES

static void test_by_hand(void **state) {
    (void)state;
    ca_circuit_file file;
    write_text(json, WHOLE);
    ok(ca_circuit_file_read(json, &file));
    assert_true(file.graph.layers == 1 && file.graph.heads == 1 && file.graph.width == 8);
    assert_true(!file.graph.parallel && file.graph.kv_columns == 1 && !file.node_score);
    /* columns: q k v m logits; rows: input a0.h0 m0 */
    const double want[] = {0.1, -2,  NAN, 1e-5,     -INFINITY,
                           NAN, NAN, NAN, INFINITY, 0.30000000000000004,
                           NAN, NAN, NAN, NAN,      0};
    const bool in[15] = {[1] = true, [3] = true, [9] = true};
    for (int i = 0; i < 15; i++)
        assert_true(isnan(want[i]) ? isnan(file.score[i]) : file.score[i] == want[i]);
    assert_memory_equal(file.in, in, sizeof in);
    ok(ca_circuit_file_write(again, &file, NULL));
    expect_text(again, WHOLE);
    ca_circuit_file_free(&file);
}

/* Neurons of a node in the peers' keys; through a result file, where scores are float32. A node
 * without a list keeps all of its neurons. */
static void test_neurons(void **state) {
    (void)state;
    static const char text[] =
        CFG "\"nodes\": {\"input\": {\"in_graph\": true, "
            "\"neurons\": [true, false, true, false, false, false, false, true], "
            "\"neurons_scores\": [1.5, -2.0, 0.25, NaN, 0.0, 8.0, Infinity, 3.0]}, "
            "\"a0.h0\": {\"in_graph\": true}, \"m0\": {\"in_graph\": false}, "
            "\"logits\": {\"in_graph\": true}}, " EDGES;
    const bool kept[8] = {true, false, true, false, false, false, false, true};
    ca_circuit_file file, other;
    write_text(json, text);
    ok(ca_circuit_file_read(json, &file));
    assert_memory_equal(file.neurons, kept, sizeof kept);
    for (int i = 8; i < 3 * 8; i++) assert_true(file.neurons[i] && isnan(file.neuron_score[i]));
    assert_true(file.neuron_score[1] == -2 && isnan(file.neuron_score[3]));
    ok(ca_circuit_file_write(again, &file, NULL));
    ok(ca_circuit_file_write(h5, &file, NULL));
    for (int i = 0; i < 2; i++) {
        ok(ca_circuit_file_read(i ? h5 : again, &other));
        assert_memory_equal(other.neurons, file.neurons, 3 * 8 * sizeof(bool));
        for (int n = 0; n < 3 * 8; n++)
            assert_true(isnan(file.neuron_score[n])
                            ? isnan(other.neuron_score[n])
                            : other.neuron_score[n] == file.neuron_score[n]);
        ca_circuit_file_free(&other);
    }
    ca_circuit_file_free(&file);
}

/* Lines, spaces, the order of keys, whole numbers and literals inside of texts. */
static void test_other_spelling(void **state) {
    (void)state;
    static const char text[] =
        "{\"note\": \"NaN, \\\"Infinity\\\\\",\n \"edges\": {\n"
        "\"m0->logits\":{\"score\":7},\"a0.h0->logits\":{\"score\":NaN},"
        "\"input->logits\":{\"score\":1},\n\"a0.h0->m0\":{\"score\":2},\"input->m0\":{\"score\":3},"
        "\"input->a0.h0<v>\":{\"score\":4},\"input->a0.h0<k>\":{\"score\":5},"
        "\"input->a0.h0<q>\":{\"score\":-6}},\n"
        "\"nodes\":{\"m0\":{\"score\":2.5},\"a0.h0\":{\"score\":NaN},\"input\":{}},"
        "\"cfg\":{\"parallel_attn_mlp\":false,\"d_model\":8,\"n_heads\":1,\"n_layers\":1}}";
    ca_circuit_file file;
    write_text(json, text);
    ok(ca_circuit_file_read(json, &file));
    assert_true(file.score[0] == -6 && file.score[14] == 7 && isnan(file.score[9]));
    assert_null(file.in);
    assert_true(isnan(file.node_score[0]) && isnan(file.node_score[1]));
    assert_true(file.node_score[2] == 2.5);
    ca_circuit_file_free(&file);
    assert_int_equal(ca_circuit_file_read_at(json, 0, &file), CA_E_DATA);
    assert_non_null(strstr(ca_error_text(), "expected a circuit, got scores only"));
}

/* ---- all kinds of graphs, there and back */

static ca_circuit_file make_file(int kind) {
    const ca_arch arch = {.layers = 3, .heads = 4, .width = 16, .parallel = kind & 1};
    const ca_circuit_graph g = ca_circuit_graph_of(&arch, kind & 2 ? 2 : 0);
    const ca_philox_key key = {5, (uint64_t)kind};
    ca_circuit_file file = {.graph = g};
    ok(ca_calloc((size_t)(g.sources * g.destinations), sizeof *file.score, &file.score));
    ok(ca_calloc((size_t)(g.sources * g.destinations), sizeof *file.in, &file.in));
    for (int64_t v = 0; v < g.destinations; v++)
        for (int64_t u = 0; u < g.sources; u++) {
            const int64_t i = u * g.destinations + v;
            const bool edge = u < ca_circuit_parents(&g, v);
            file.score[i] = edge ? (float)ca_philox_normal(key, (uint64_t)i) : NAN;
            file.in[i] = edge && file.score[i] > 1;
        }
    if (!(kind & 4)) return file;
    ok(ca_calloc((size_t)g.sources, sizeof *file.node_score, &file.node_score));
    for (int64_t u = 0; u < g.sources; u++) file.node_score[u] = u % 3 ? (double)u / 4 : NAN;
    return file;
}

static void expect_same(const double *got, const double *want, int64_t n) {
    assert_true((got == NULL) == (want == NULL));
    for (int64_t i = 0; want && i < n; i++)
        if (isnan(want[i]) ? !isnan(got[i]) : got[i] != want[i])
            fail_msg("[%lld]: got %.17g, expected %.17g", (long long)i, got[i], want[i]);
}

static void expect_file(const char *path, const ca_circuit_file *want) {
    ca_circuit_file got;
    const int64_t n = want->graph.sources * want->graph.destinations;
    ok(ca_circuit_file_read(path, &got));
    ok(ca_circuit_file_check(&got, path, &want->graph));
    expect_same(got.score, want->score, n);
    expect_same(got.node_score, want->node_score, want->graph.sources);
    assert_true((got.in == NULL) == (want->in == NULL));
    if (want->in) assert_memory_equal(got.in, want->in, (size_t)n);
    ca_circuit_file_free(&got);
}

/* Scores are numbers of 32 bits here: a result file keeps no more. */
static void test_round_trips(void **state) {
    (void)state;
    for (int kind = 0; kind < 8; kind++)
        for (int circuit = 0; circuit < 2; circuit++) {
            ca_circuit_file file = make_file(kind);
            if (!circuit) {
                free(file.in);
                file.in = NULL;
            }
            ok(ca_circuit_file_write(json, &file, NULL));
            expect_file(json, &file);
            ok(ca_circuit_file_write(h5, &file, json));
            expect_file(h5, &file);
            ca_circuit_file_free(&file);
        }
}

static void test_order_of_names(void **state) {
    (void)state;
    static const struct {
        int kind;
        const char *part;
    } parts[] = {
        {0, "\"edges\": {\"input->a0.h0<q>\": "},
        {0, "\"input->a0.h3<v>\": {X}, \"input->m0\": {X}, \"a0.h0->m0\": "},
        {1, "\"input->m1\": {X}, \"a0.h0->a1.h0<q>\": "},
        {2, "\"a0.h0->a1.h3<q>\": {X}, \"a0.h0->a1.kv0<k>\": {X}, \"a0.h0->a1.kv0<v>\": {X}, "
            "\"a0.h0->a1.kv1<k>\": "},
        {2, "\"d_model\": 16, \"kv_columns\": 2}"},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        ca_circuit_file file = make_file(parts[i].kind);
        char *text;
        size_t size, n = 0;
        ok(ca_circuit_file_write(json, &file, NULL));
        ok(ca_file_read(json, &text, &size));
        for (char *p = text; *p; p++) { /* {"score": … } becomes {X} */
            const bool edge = strncmp(p, "{\"score\": ", 10) == 0;
            if (edge) text[n++] = '{', text[n++] = 'X', p = strchr(p, '}');
            text[n++] = *p;
        }
        text[n] = '\0';
        if (!strstr(text, parts[i].part)) fail_msg("expected %s in %s", parts[i].part, text);
        free(text);
        ca_circuit_file_free(&file);
    }
}

/* ---- one of several circuits */

static void write_circuits(const ca_circuit_graph *g, int64_t count, const int8_t *in) {
    ca_result *r;
    float *score;
    const ca_result_shape edges = {2, {g->sources, g->destinations}, {"source", "destination"}};
    const ca_result_shape all = {
        3, {count, g->sources, g->destinations}, {"size", "source", "destination"}};
    ok(ca_calloc((size_t)(g->sources * g->destinations), sizeof *score, &score));
    ok(ca_result_create(h5, &r));
    ok(ca_circuit_put_graph(r, g));
    ok(ca_result_attribute_text(r, "/", "model_path", "models/x"));
    ok(ca_result_put(r, "/edges/score", CA_RESULT_F32, edges, score));
    ok(ca_result_put(r, "/circuits/in_circuit", CA_RESULT_BOOL, all, in));
    ok(ca_result_finish(r));
    free(score);
}

static int64_t count_edges(const ca_circuit_file *file) {
    int64_t count = 0;
    for (int64_t i = 0; i < file->graph.sources * file->graph.destinations; i++)
        count += file->in[i];
    return count;
}

/* Circuit n holds the first n + 1 edges from the input, and entries that are no edges. */
static void test_one_of_several_circuits(void **state) {
    (void)state;
    const ca_arch arch = {.layers = 1, .heads = 2, .width = 4};
    const ca_circuit_graph g = ca_circuit_graph_of(&arch, 0);
    int8_t in[3][4 * 8] = {{0}};
    for (int n = 0; n < 3; n++) {
        for (int v = 0; v <= n; v++) in[n][v] = 1;
        in[n][3 * 8] = 1; /* m0 -> a0.h0<q> */
    }
    write_circuits(&g, 3, in[0]);
    for (int64_t n = -1; n < 4; n++) {
        ca_circuit_file file;
        ca_status st =
            n < 0 ? ca_circuit_file_read(h5, &file) : ca_circuit_file_read_at(h5, n, &file);
        if (n == 3) {
            assert_int_equal(st, CA_E_DATA);
            assert_non_null(strstr(ca_error_text(), "expected an entry from 0 to 2, got 3"));
            continue;
        }
        ok(st);
        assert_string_equal(file.model, "models/x");
        assert_int_equal(count_edges(&file), n < 0 ? 3 : n + 1);
        assert_true(isnan(file.score[3 * 8]) && file.score[0] == 0);
        ca_circuit_file_free(&file);
    }
}

/* ---- what is wrong is named */

static void expect_message(const char *path, const char *part) {
    ca_circuit_file file;
    assert_int_equal(ca_circuit_file_read(path, &file), CA_E_DATA);
    if (!strstr(ca_error_text(), part) || strstr(ca_error_text(), path) != ca_error_text())
        fail_msg("expected '%s: … %s …', got '%s'", path, part, ca_error_text());
    assert_true(!file.score && !file.in && !file.node_score && !file.model);
}

/* WHOLE with one part replaced. */
static void expect_broken(const char *from, const char *to, const char *part) {
    ca_string text = {0};
    const char *at = strstr(WHOLE, from);
    assert_non_null(at);
    ok(ca_string_append(&text, WHOLE, (size_t)(at - WHOLE)));
    ok(ca_string_printf(&text, "%s%s", to, at + strlen(from)));
    write_text(json, text.text);
    expect_message(json, part);
    ca_string_free(&text);
}

static void test_broken_json(void **state) {
    (void)state;
    static const char *const cases[][3] = {
        {"{\"cfg\"", "\n\n  {\"cfg\" NaN", "line 3, column "},
        {"{\"cfg\"", "[{\"cfg\"", "line 1, column "},
        {"\"edges\"", "\"links\"", "edges: expected an object, got nothing"},
        {"\"nodes\": {", "\"nodes\": 3, \"n\": {", "nodes: expected an object, got another number"},
        {"\"n_layers\": 1", "\"n_layers\": \"x\"",
         "cfg: n_layers: expected a whole number from 1 to 4096, got a text"},
        {"\"n_layers\": 1", "\"n_layers\": 0", "cfg: n_layers"},
        {"\"n_layers\": 1", "\"layers\": 1",
         "cfg: n_layers: expected a whole number from 1 to 4096, got nothing"},
        {"\"n_heads\": 1", "\"n_heads\": 9999999999", "cfg: n_heads"},
        {"\"n_heads\": 1", "\"n_heads\": 1.5", "cfg: n_heads"},
        {"\"n_heads\": 1", "\"n_heads\": 1, \"kv_columns\": 2",
         "cfg: kv_columns: expected a divisor of 1 heads, got 2"},
        {"\"parallel_attn_mlp\": false", "\"parallel_attn_mlp\": 0",
         "cfg: parallel_attn_mlp: expected true or false, got another number"},
        {"\"n_layers\": 1", "\"n_layers\": 4096",
         "edges: expected all 67121153 of a graph of 4096 layers and 1 heads, got 8"},
        {"\"parallel_attn_mlp\": false", "\"parallel_attn_mlp\": true",
         "edges: expected names of a graph of 1 layers and 1 heads, got 'a0.h0->m0'"},
        {"a0.h0->m0", "a0.h1->m0", "got 'a0.h1->m0'"},
        {"a0.h0->m0", "m0->a0.h0<q>", "got 'm0->a0.h0<q>'"},
        {"input->m0", "input->m0 ", "got 'input->m0 '"},
        {"input->m0", "input:m0", "got 'input:m0'"},
        {"input->m0", "input->logits", "line 1, column "}, /* twice */
        {"\"input->m0\": {\"score\": 1e-05, \"in_graph\": true}, ", "",
         "edges: expected all 8 of a graph of 1 layers and 1 heads, got 7"},
        {"\"score\": 0.1", "\"score\": null",
         "edges: input->a0.h0<q>: score: expected a number, got null"},
        {"\"score\": 0.1", "\"score\": \"NaN\"",
         "edges: input->a0.h0<q>: score: expected a number, got a text"},
        {"\"score\": 0.1, \"in_graph\": false", "\"scores\": 1",
         "edges: input->a0.h0<q>: expected score or in_graph, got neither"},
        {"\"score\": 0.1, \"in_graph\": false", "\"in_graph\": 1",
         "edges: input->a0.h0<q>: in_graph: expected true or false, got another number"},
        {"\"m0\": {", "\"m1\": {",
         "nodes: expected names of a graph of 1 layers and 1 heads, got 'm1'"},
        {"\"m0\": {\"in_graph\": false}, ", "", "nodes: expected all 3 and the logits, got 2"},
        {"\"m0\": {", "\"m0\": {\"score\": [], ",
         "nodes: m0: score: expected a number, got a list"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_broken(cases[i][0], cases[i][1], cases[i][2]);
    expect_broken(WHOLE, "", "line 1, column 0");
}

static void test_broken_results(void **state) {
    (void)state;
    const ca_arch arch = {.layers = 1, .heads = 2, .width = 4};
    const ca_circuit_graph g = ca_circuit_graph_of(&arch, 0);
    const struct {
        const char *name;
        int64_t value;
        const char *part;
    } attributes[] = {
        {"layers", 2, "/edges/source: its sizes do not fit"},
        {"layers", -1, "/edges: expected an attribute layers from 1 to 4096"},
        {"heads", 4, "/edges/source: its sizes do not fit"},
        {"kv_columns", 3, "/edges: kv_columns: expected a divisor of 2 heads, got 3"},
        {"kv_columns", 1, "/edges/destination: its sizes do not fit"},
    };
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++) {
        ca_result *r;
        ok(ca_result_create(h5, &r));
        ok(ca_circuit_put_graph(r, &g));
        ok(ca_result_attribute_int(r, "/edges", attributes[i].name, attributes[i].value));
        ok(ca_result_finish(r));
        expect_message(h5, attributes[i].part);
    }
    ca_result *r;
    ok(ca_result_create(h5, &r));
    ok(ca_circuit_put_graph(r, &g));
    ok(ca_result_finish(r));
    expect_message(h5, "expected a dataset /edges/score, got none");
    ok(ca_result_create(h5, &r));
    ok(ca_result_finish(r));
    expect_message(h5, "/edges: expected an attribute layers from 1 to 4096, got a file without");
    write_text(h5, WHOLE);
    expect_message(h5, "expected an HDF5 file, got something else");
    expect_message("x.pt", "expected a name that ends in .json or .h5");
}

static void test_other_models(void **state) {
    (void)state;
    const ca_arch arch = {.layers = 3, .heads = 4, .width = 16};
    static const char *const parts[] = {
        NULL, "expected sequential blocks, got parallel ones",
        "x.json: expected key and value columns of kv_columns "
        "query, 4 a layer, got those of kv_columns native, 2 a layer"};
    const ca_circuit_graph g = ca_circuit_graph_of(&arch, 0);
    for (int kind = 1; kind < 3; kind++) {
        ca_circuit_file file = make_file(kind);
        assert_int_equal(ca_circuit_file_check(&file, "x.json", &g), CA_E_DATA);
        assert_non_null(strstr(ca_error_text(), parts[kind]));
        file.graph = g;
        file.graph.heads = 5;
        assert_int_equal(ca_circuit_file_check(&file, "x.json", &g), CA_E_DATA);
        assert_string_equal(ca_error_text(), "x.json: of another model: expected 4 heads, got 5");
        ca_circuit_file_free(&file);
    }
    /* Neither file nor run has a column for every head: then they are of different models. */
    ca_circuit_file file = {.graph = ca_circuit_graph_of(&arch, 2)};
    const ca_circuit_graph one = ca_circuit_graph_of(&arch, 1);
    assert_int_equal(ca_circuit_file_check(&file, "x.json", &one), CA_E_DATA);
    assert_string_equal(
        ca_error_text(),
        "x.json: of another model: expected 1 key and value columns a layer, got 2");
}

/* A failed write leaves neither the file nor its beginnings. */
static void test_unwritable(void **state) {
    (void)state;
    char path[128];
    ca_circuit_file file = make_file(0);
    snprintf(path, sizeof path, "%s/none/x.json", folder);
    assert_int_equal(ca_circuit_file_write(path, &file, NULL), CA_E_IO);
    assert_non_null(strstr(ca_error_text(), path));
    snprintf(path, sizeof path, "%s/none/x.h5", folder);
    assert_int_equal(ca_circuit_file_write(path, &file, NULL), CA_E_IO);
    assert_int_equal(ca_circuit_file_write("x.pt", &file, NULL), CA_E_DATA);
    ca_circuit_file_free(&file);
}

static void test_full_disk(void **state) {
    (void)state;
    struct rlimit before, tight;
    ca_circuit_file file = make_file(0);
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    tight = before;
    tight.rlim_cur = 6000; /* the file needs about 14000 bytes */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
    const ca_status st = ca_circuit_file_write(json, &file, NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(st, CA_E_IO);
    assert_non_null(strstr(ca_error_text(), "x.json: cannot write it: File too large"));
    assert_false(ca_file_exists(json));
    ca_circuit_file_free(&file);
}

int main(void) {
    ca_log_set_level(CA_LOG_ERROR);
    const struct CMUnitTest all[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)
        TEST(test_by_hand),     TEST(test_neurons),        TEST(test_other_spelling),
        TEST(test_round_trips), TEST(test_order_of_names), TEST(test_one_of_several_circuits),
        TEST(test_broken_json), TEST(test_broken_results), TEST(test_other_models),
        TEST(test_unwritable),  TEST(test_full_disk),
#undef TEST
    };
    return cmocka_run_group_tests(all, NULL, NULL);
}
