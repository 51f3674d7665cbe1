/* SPDX-License-Identifier: MIT
 *
 * Model files: architecture, tensor values after loading, rotary tables, digests, and refusals.
 * Expected values come from tests/fixtures/make_expected.py (numpy and the gguf package).
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "causa/model.h"
#include "causa/ops.h"
#include "model_files.h"

static int open_backend(void **state) {
    ca_backend *be = NULL;
    check(ca_backend_open("ref", 2, &be));
    *state = be;
    return 0;
}

static int close_backend(void **state) {
    ca_backend_close(*state);
    return 0;
}

/* Opens the weights of a fixture under another config.json; `refused` NULL: must work. */
static void with_config(const char *model, const char *config, const char *refused) {
    char directory[64], weights[PATH_MAX];
    ca_model_file *file = NULL;
    make_directory(directory);
    write_file(directory, "config.json", config, strlen(config));
    snprintf(weights, sizeof weights, MODELS "%s/model.safetensors", model);
    link_file(directory, "model.safetensors", weights);
    ca_status st = ca_model_file_open(directory, &file);
    if (refused == NULL) {
        check(st);
    } else {
        assert_int_equal(st, CA_E_MODEL);
        if (strstr(ca_error_text(), refused) == NULL)
            fail_msg("expected '%s' in '%s'", refused, ca_error_text());
        assert_non_null(strstr(ca_error_text(), directory));
    }
    ca_model_file_close(file);
    remove_directory(directory);
}

static void with_edit(const char *model, const char *from, const char *to, const char *refused) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, MODELS "%s/config.json", model);
    char *config = edited(path, from, to);
    with_config(model, config, refused);
    free(config);
}

static ca_model *load(const char *path, ca_backend *be, ca_dtype dtype, int64_t max_rows) {
    ca_model_file *file = NULL;
    ca_model *m = NULL;
    check(ca_model_file_open(path, &file));
    check(ca_model_load(file, be, dtype, max_rows, &m));
    ca_model_file_close(file);
    return m;
}

/* ---- architecture */

static void test_gpt2_architecture(void **state) {
    ca_model_file *file = NULL;
    (void)state;
    check(ca_model_file_open(MODELS "gpt2-inner", &file));
    const ca_arch *a = ca_model_file_arch(file);
    assert_string_equal(a->family, "gpt2");
    assert_int_equal(a->layers, 2);
    assert_int_equal(a->width, 40);
    assert_int_equal(a->heads, 4);
    assert_int_equal(a->kv_heads, 4);
    assert_int_equal(a->head_dim, 10);
    assert_int_equal(a->mlp_width, 100);
    assert_int_equal(a->vocab, 409);
    assert_int_equal(a->max_positions, 48);
    assert_int_equal(a->norm.kind, CA_NORM_LAYER);
    assert_int_equal(a->activation, CA_GELU_TANH);
    assert_true(a->tied && a->learned_positions && a->scale_by_layer && a->pre_norm);
    assert_true(!a->gated && !a->parallel && !a->post_norm);
    assert_int_equal(a->rope_count, 0);
    assert_string_equal(ca_model_file_format(file), "safetensors F16");
    assert_int_equal(ca_model_file_parameters(file), 48080);
    ca_model_file_close(file);
}

static void test_llama_architecture(void **state) {
    ca_model_file *file = NULL;
    (void)state;
    check(ca_model_file_open(MODELS "llama3-gqa", &file));
    const ca_arch *a = ca_model_file_arch(file);
    assert_string_equal(a->family, "llama");
    assert_int_equal(a->kv_heads, 2);
    assert_int_equal(a->head_dim, 8);
    assert_int_equal(a->norm.kind, CA_NORM_RMS);
    assert_int_equal(a->activation, CA_SILU);
    assert_true(a->gated && !a->tied && !a->learned_positions);
    assert_int_equal(a->rope_count, 1);
    assert_int_equal(a->rope[0].kind, CA_ROPE_LLAMA3);
    assert_int_equal(a->rope[0].dim, 8);
    assert_int_equal(a->rope[0].original_max_positions, 32);
    assert_true(a->rope[0].theta == 500000.0 && a->rope[0].factor == 8.0);
    assert_string_equal(ca_model_file_format(file), "safetensors BF16, 3 shards");
    ca_model_file_close(file);
    /* the head width of the configuration wins over width / heads */
    check(ca_model_file_open(MODELS "llama3-gqa-new", &file));
    assert_int_equal(ca_model_file_arch(file)->head_dim, 16);
    ca_model_file_close(file);
    check(ca_model_file_open(MODELS "gguf/llama-q4_1.gguf", &file));
    assert_string_equal(ca_model_file_format(file), "GGUF v3 Q4_1");
    assert_true(ca_model_file_arch(file)->tied);
    ca_model_file_close(file);
}

/* ---- values */

static const ca_tensor *field(const ca_model *m, int64_t layer, const char *name) {
#define FIELD(owner, f)                                                                            \
    if (strcmp(name, #f) == 0) return &(owner)->f
    if (layer < 0) {
        FIELD(m, embed);
        FIELD(m, positions);
        FIELD(m, final_gain);
        FIELD(m, final_bias);
        FIELD(m, head);
        return NULL;
    }
    const ca_layer *l = m->layers + layer;
    FIELD(l, norm1_gain);
    FIELD(l, norm1_bias);
    FIELD(l, qkv_weight);
    FIELD(l, qkv_bias);
    FIELD(l, out_weight);
    FIELD(l, out_bias);
    FIELD(l, norm2_gain);
    FIELD(l, norm2_bias);
    FIELD(l, up_weight);
    FIELD(l, up_bias);
    FIELD(l, down_weight);
    FIELD(l, down_bias);
#undef FIELD
    return NULL;
}

static double *download(ca_backend *be, const ca_tensor *t) {
    size_t count = (size_t)ca_tensor_count(t);
    double *values = malloc(count * sizeof *values);
    assert_non_null(values);
    check(ca_download(be, values, *t));
    if (t->dtype == CA_F32) /* widened from the end, so that nothing is overwritten unread */
        for (size_t i = count; i-- > 0;) {
            float x;
            memcpy(&x, (const char *)values + i * sizeof x, sizeof x);
            values[i] = (double)x;
        }
    return values;
}

/* One line of expected.txt after its model: LAYER NAME COUNT SUM, then INDEX VALUE pairs. */
static void check_line(const ca_model *m, char *line) {
    char name[32];
    long long layer, count;
    double sum, total = 0, magnitude = 0;
    int used = 0;
    assert_int_equal(sscanf(line, "%lld %31s %lld %lf%n", &layer, name, &count, &sum, &used), 4);
    const ca_tensor *t = field(m, layer, name);
    if (t == NULL || t->data == NULL) fail_msg("no tensor %s of layer %lld", name, layer);
    assert_int_equal(ca_tensor_count(t), count);
    double *values = download(m->backend, t);
    for (long long i = 0; i < count; i++) {
        total += values[i];
        magnitude += fabs(values[i]);
    }
    /* n additions in f64, in two different orders: below n 2^-53 of the sum of magnitudes each */
    if (!(fabs(total - sum) <= 2e-16 * 2 * (double)count * magnitude))
        fail_msg("%s of layer %lld: sum %.17g, expected %.17g", name, layer, total, sum);
    char *cursor = line + used;
    for (;;) {
        long long index = strtoll(cursor, &cursor, 10);
        double expected = strtod(cursor, &cursor);
        if (!(values[index] == expected)) /* decoding is exact */
            fail_msg("%s[%lld] of layer %lld: %.17g, expected %.17g", name, index, layer,
                     values[index], expected);
        if (*cursor == '\0' || *cursor == '\n') break;
    }
    free(values);
}

static void check_values(ca_backend *be, ca_dtype dtype) {
    char line[4096], path[PATH_MAX], loaded[PATH_MAX] = "", model[128];
    ca_model *m = NULL;
    int used = 0, lines = 0;
    FILE *f = fopen(MODELS "expected.txt", "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f) != NULL) {
        assert_int_equal(sscanf(line, "%127s%n", model, &used), 1);
        snprintf(path, sizeof path, MODELS "%s", model);
        if (strcmp(path, loaded) != 0) {
            ca_model_free(m);
            m = load(path, be, dtype, 0);
            strcpy(loaded, path);
        }
        check_line(m, line + used);
        lines++;
    }
    assert_true(lines > 150);
    ca_model_free(m);
    fclose(f);
}

static void test_values_f32(void **state) { check_values(*state, CA_F32); }
static void test_values_f64(void **state) { check_values(*state, CA_F64); }

/* Every matrix is the f32 one rounded once; the rest has the same bits. */
static void same_but_rounded(ca_tensor narrow, ca_tensor f32, bool is_matrix) {
    assert_int_equal(narrow.rank, f32.rank);
    if (!f32.data) return;
    assert_int_equal(narrow.dtype, is_matrix ? CA_BF16 : CA_F32);
    for (int64_t i = 0; i < ca_tensor_count(&f32); i++) {
        float x = ((const float *)f32.data)[i];
        if (is_matrix)
            assert_int_equal(((const uint16_t *)narrow.data)[i], ca_bf16_round(x));
        else
            assert_true(((const float *)narrow.data)[i] == x);
    }
}

static void test_values_bf16(void **state) {
    static const char *const names[] = {"gpt2", "llama3-gqa", "qwen2", "gguf/llama-q8_0.gguf"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, MODELS "%s", names[i]);
        ca_model *f32 = load(path, *state, CA_F32, 0), *narrow = load(path, *state, CA_BF16, 0);
        assert_int_equal(narrow->dtype, CA_F32);
        assert_int_equal(narrow->precision, CA_BF16);
        same_but_rounded(narrow->embed, f32->embed, true);
        same_but_rounded(narrow->head, f32->head, true);
        same_but_rounded(narrow->positions, f32->positions, true);
        same_but_rounded(narrow->final_gain, f32->final_gain, false);
        same_but_rounded(narrow->cosine[0], f32->cosine[0], false);
        for (int64_t l = 0; l < f32->arch.layers; l++) {
            const ca_layer *a = narrow->layers + l, *b = f32->layers + l;
            same_but_rounded(a->qkv_weight, b->qkv_weight, true);
            same_but_rounded(a->out_weight, b->out_weight, true);
            same_but_rounded(a->up_weight, b->up_weight, true);
            same_but_rounded(a->down_weight, b->down_weight, true);
            same_but_rounded(a->qkv_bias, b->qkv_bias, false);
            same_but_rounded(a->norm1_gain, b->norm1_gain, false);
        }
        ca_model_free(f32);
        ca_model_free(narrow);
    }
}

static void test_layers(void **state) {
    ca_model *m = load(MODELS "gpt2-inner", *state, CA_F32, 0);
    /* 1 / sqrt(10), divided by layer + 1: the same two roundings as in the loader */
    assert_true(m->layers[0].attention_scale == 1 / sqrt(10.0));
    assert_true(m->layers[1].attention_scale == 1 / sqrt(10.0) / 2);
    assert_int_equal(m->layers[1].rope, -1);
    assert_ptr_equal(m->head.data, m->embed.data);
    assert_null(m->head_bias.data);
    assert_int_equal(m->layers[0].qkv_weight.shape[0], 120);
    assert_int_equal(m->layers[0].qkv_weight.shape[1], 40);
    assert_int_equal(m->layers[0].qkv_bias.rank, 1);
    ca_model_free(m);
    m = load(MODELS "llama3-gqa", *state, CA_F32, 0);
    assert_int_equal(m->layers[2].rope, 0);
    assert_null(m->layers[0].qkv_bias.data);
    assert_int_equal(m->layers[0].qkv_weight.shape[0], (8 + 2 * 2) * 8);
    assert_int_equal(m->layers[0].up_weight.shape[0], 2 * 150);
    ca_model_free(m);
}

static void test_bytes(void **state) {
    static const char *const names[] = {"gpt2", "llama3-gqa", "smollm2", "gguf/llama-q8_0.gguf"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[PATH_MAX];
        ca_model_file *file = NULL;
        ca_model *m = NULL;
        snprintf(path, sizeof path, MODELS "%s", names[i]);
        check(ca_model_file_open(path, &file));
        check(ca_model_load(file, *state, CA_F64, 0, &m));
        assert_int_equal(m->bytes, ca_model_file_bytes(file, CA_F64));
        assert_true(m->bytes >= 8 * ca_model_file_parameters(file));
        ca_model_free(m);
        check(ca_model_load(file, *state, CA_BF16, 0, &m));
        assert_int_equal(m->bytes, ca_model_file_bytes(file, CA_BF16));
        assert_true(m->bytes < ca_model_file_bytes(file, CA_F32) - ca_model_file_parameters(file));
        ca_model_free(m);
        ca_model_file_close(file);
    }
}

/* ---- rotary tables: rows computed in double precision by another program */

static void check_rope(const ca_model *m, int64_t row, const double *cosine, const double *sine) {
    int64_t pairs = m->cosine[0].shape[1];
    double *c = download(m->backend, &m->cosine[0]), *s = download(m->backend, &m->sine[0]);
    for (int64_t i = 0; i < pairs; i++) {
        /* an angle of 100 carries an error of a few 2^-53 * 100 */
        if (cosine != NULL) assert_true(fabs(c[row * pairs + i] - cosine[i]) < 1e-13);
        if (sine != NULL) assert_true(fabs(s[row * pairs + i] - sine[i]) < 1e-13);
        assert_true(c[i] == 1 && s[i] == 0);
    }
    free(c);
    free(s);
}

static void test_rope(void **state) {
    static const double cosine[] = {0.86231887228768389, 0.89153414408845111, 0.99984375406896808,
                                    0.99999977902913906};
    static const double sine[] = {
        0.33696155136705802, 0.83504345808769387,   0.30743851458038085,   0.098660413638773564,
        0.03124491398532608, 0.0098819568470522989, 0.0031249949137394629, 0.0009882116079608671};
    ca_model *m = load(MODELS "llama3-gqa", *state, CA_F64, 0);
    assert_int_equal(m->cosine[0].shape[0], 128);
    check_rope(m, 100, cosine, NULL);
    ca_model_free(m);
    m = load(MODELS "llama3-gqa-new", *state, CA_F64, 101);
    assert_int_equal(m->cosine[0].shape[0], 101);
    assert_int_equal(m->cosine[0].shape[1], 8);
    check_rope(m, 100, NULL, sine);
    ca_model_free(m);
    /* unscaled: the angle of the first pair is the position itself */
    m = load(MODELS "smollm2", *state, CA_F64, 12);
    const double plain[] = {cos(11), cos(11 / sqrt(100000.0))};
    check_rope(m, 11, plain, NULL);
    ca_model_free(m);
}

/* ---- digest */

static void test_sha256(void **state) {
    char plain[65], same[65], other[65], directory[64], config[PATH_MAX];
    ca_model_file *file = NULL;
    (void)state;
    snprintf(config, sizeof config, MODELS "smollm2/config.json");
    check(ca_model_file_open(MODELS "smollm2", &file));
    check(ca_model_file_sha256(file, plain));
    ca_model_file_close(file);
    /* links to the same files: the same digest; one bit of a weight changed: another */
    make_directory(directory);
    link_file(directory, "config.json", config);
    link_file(directory, "model.safetensors", MODELS "smollm2/model.safetensors");
    check(ca_model_file_open(directory, &file));
    check(ca_model_file_sha256(file, same));
    ca_model_file_close(file);
    assert_string_equal(plain, same);
    remove_directory(directory);
    make_directory(directory);
    link_file(directory, "config.json", config);
    char *bytes = NULL;
    size_t size = 0;
    check(ca_file_read(MODELS "smollm2/model.safetensors", &bytes, &size));
    bytes[size - 4] ^= 1;
    write_file(directory, "model.safetensors", bytes, size);
    free(bytes);
    check(ca_model_file_open(directory, &file));
    check(ca_model_file_sha256(file, other));
    ca_model_file_close(file);
    assert_string_not_equal(plain, other);
    remove_directory(directory);
}

/* ---- configurations */

static void test_rope_spellings(void **state) {
    const char *old = "\"rope_scaling\": null";
    (void)state;
    with_edit("smollm2", old, "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.0}", NULL);
    with_edit("smollm2", old, "\"rope_scaling\": {\"type\": \"linear\"}", "rope_scaling.factor");
    with_edit("smollm2", old, "\"rope_scaling\": {\"factor\": 2.0}", "rope_scaling.rope_type");
    with_edit("smollm2", old, "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 2.0}",
              "got 'yarn'");
    with_edit("smollm2", old,
              "\"rope_scaling\": {\"type\": \"linear\", \"rope_type\": \"llama3\", \"factor\": 2}",
              "older key type");
    with_edit("smollm2", old,
              "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 1e5}", NULL);
    with_edit("smollm2", old,
              "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 1e4}",
              "rope_parameters: expected the same");
    with_edit("smollm2", "\"rope_theta\": 100000.0", "\"rope_theta\": -1", "rope_theta");
}

static void test_tied_and_bias(void **state) {
    (void)state;
    with_edit("smollm2", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false",
              "'lm_head.weight'");
    with_edit("smollm2", "\"attention_bias\": true", "\"attention_bias\": false", "k_proj.bias");
    with_edit("llama3-gqa-new", "\"mlp_bias\": false", "\"mlp_bias\": true", "gate_proj.bias");
    with_edit("smollm2", "\"max_position_embeddings\"", "\"max_sequence_length\"", NULL);
    with_edit("gpt2", "\"n_inner\": null", "\"n_inner\": 100",
              "expected shape [36, 100], got [36, 144]");
    with_edit("gpt2", "\"scale_attn_weights\": true", "\"scale_attn_weights\": false", NULL);
}

static void test_refused_configurations(void **state) {
    (void)state;
    with_edit("smollm2", "\"vocab_size\": 398", "\"vocab_size\": 397", "vocab_size: expected 398");
    with_edit("smollm2", "\"model_type\": \"llama\"", "\"model_type\": \"mamba\"",
              ca_family_names());
    with_edit("smollm2", "\"hidden_size\": 36", "\"hidden_size\": \"many\"", "hidden_size");
    with_edit("smollm2", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3",
              "'model.layers.2.input_layernorm.weight'");
    with_edit("smollm2", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1",
              "'model.layers.1.input_layernorm.weight'");
    with_edit("smollm2", "\"hidden_act\": \"silu\"", "\"hidden_act\": \"swoosh\"", "hidden_act");
    with_edit("smollm2", "\"head_dim\": 4", "\"head_dim\": 3", "even number");
    with_config("smollm2", "{\n\"a\": 1,\n\"a\": 2}", "config.json:3:");
    with_config("smollm2", "", "config.json");
    with_config("smollm2", "[1, 2]", "config.json");
}

/* ---- directories */

static void test_directories(void **state) {
    char directory[64];
    (void)state;
    refuse("/nonexistent/model", "/nonexistent/model");
    make_directory(directory);
    refuse(directory, "config.json");
    link_file(directory, "config.json", MODELS "smollm2/config.json");
    refuse(directory, "model.safetensors");
    write_file(directory, "pytorch_model.bin", "x", 1);
    refuse(directory, "pytorch_model.bin only");
    assert_non_null(strstr(ca_error_hint(), "save_pretrained"));
    const char *escape = "{\"weight_map\": {\"x\": \"../a.safetensors\"}}";
    write_file(directory, "model.safetensors.index.json", escape, strlen(escape));
    refuse(directory, "same directory");
    link_file(directory, "a.safetensors", MODELS "smollm2/model.safetensors");
    const char *extra = "{\"weight_map\": {\"x\": \"a.safetensors\"}}";
    write_file(directory, "model.safetensors.index.json", extra, strlen(extra));
    refuse(directory, "tensor 'x'");
    remove_directory(directory);
}

/* ---- values that are not numbers; a head that is stored although it is tied */

/* Loads smollm2 with the first value of `tensor` replaced. */
static ca_status load_with_value(ca_backend *be, const char *tensor, float value) {
    char directory[64], *bytes = NULL;
    size_t size = 0;
    ca_model_file *file = NULL;
    ca_model *m = NULL;
    make_directory(directory);
    link_file(directory, "config.json", MODELS "smollm2/config.json");
    check(ca_file_read(MODELS "smollm2/model.safetensors", &bytes, &size));
    uint64_t length;
    memcpy(&length, bytes, sizeof length);
    char *entry = strstr(bytes + sizeof length, tensor);
    assert_non_null(entry);
    unsigned long offset = strtoul(strstr(entry, "data_offsets\":[") + 15, NULL, 10);
    memcpy(bytes + sizeof length + length + offset, &value, sizeof value);
    write_file(directory, "model.safetensors", bytes, size);
    free(bytes);
    check(ca_model_file_open(directory, &file));
    ca_status st = ca_model_load(file, be, CA_F32, 0, &m);
    ca_model_free(m);
    ca_model_file_close(file);
    remove_directory(directory);
    return st;
}

static void test_not_finite(void **state) {
    assert_int_equal(load_with_value(*state, "layers.1.mlp.up_proj.weight", NAN), CA_E_MODEL);
    assert_non_null(strstr(ca_error_text(), "'model.layers.1.mlp.up_proj.weight'"));
    assert_non_null(strstr(ca_error_text(), "value 0 is NaN"));
    assert_int_equal(load_with_value(*state, "model.norm.weight", -INFINITY), CA_E_MODEL);
    assert_non_null(strstr(ca_error_text(), "infinite"));
    check(load_with_value(*state, "model.norm.weight", 3.4e38f));
}

static void test_head_of_tied_model(void **state) {
    char directory[64];
    ca_model_file *file = NULL;
    ca_model *m = NULL;
    make_directory(directory);
    char *config = edited(MODELS "llama3-gqa/config.json", "\"tie_word_embeddings\": false",
                          "\"tie_word_embeddings\": true");
    write_file(directory, "config.json", config, strlen(config));
    free(config);
    char *index = NULL;
    size_t size = 0;
    check(ca_file_read(MODELS "llama3-gqa/model.safetensors.index.json", &index, &size));
    write_file(directory, "model.safetensors.index.json", index, size);
    free(index);
    for (int i = 1; i <= 3; i++) {
        char name[64], target[PATH_MAX];
        snprintf(name, sizeof name, "model-0000%d-of-00003.safetensors", i);
        snprintf(target, sizeof target, MODELS "llama3-gqa/%s", name);
        link_file(directory, name, target);
    }
    check(ca_model_file_open(directory, &file));
    assert_int_equal(ca_model_load(file, *state, CA_F32, 0, &m), CA_E_MODEL);
    assert_non_null(strstr(ca_error_text(), "'lm_head.weight'"));
    ca_model_file_close(file);
    remove_directory(directory);
}

static void test_dtype(void **state) {
    ca_backend narrow = *(ca_backend *)*state;
    ca_model_file *file = NULL;
    ca_model *m = NULL;
    narrow.float64 = narrow.bfloat16 = false;
    check(ca_model_file_open(MODELS "smollm2", &file));
    assert_int_equal(ca_model_load(file, &narrow, CA_F64, 0, &m), CA_E_BACKEND);
    assert_int_equal(ca_model_load(file, &narrow, CA_BF16, 0, &m), CA_E_BACKEND);
    assert_string_equal(ca_error_text(), "backend ref: expected weights as f32, got bf16");
    assert_int_equal(ca_model_load(file, *state, CA_F16, 0, &m), CA_E_BACKEND);
    ca_model_file_close(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpt2_architecture),
        cmocka_unit_test(test_llama_architecture),
        cmocka_unit_test(test_values_f32),
        cmocka_unit_test(test_values_f64),
        cmocka_unit_test(test_values_bf16),
        cmocka_unit_test(test_layers),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_sha256),
        cmocka_unit_test(test_rope_spellings),
        cmocka_unit_test(test_tied_and_bias),
        cmocka_unit_test(test_refused_configurations),
        cmocka_unit_test(test_directories),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_head_of_tied_model),
        cmocka_unit_test(test_dtype),
    };
    return cmocka_run_group_tests(tests, open_backend, close_backend);
}
