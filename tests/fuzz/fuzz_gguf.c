/* SPDX-License-Identifier: MIT
 *
 * libFuzzer harness of GGUF files: any bytes are a file in memory. Either an error with text comes
 * back, or every element of every key and every byte of every tensor can be read; then the same
 * file is opened as a model. The corpus is in corpus/gguf.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "causa/gguf.h"
#include "causa/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds) {
    if (!holds) abort();
}

static void read_arrays(const ca_gguf *g) {
    static const char *const keys[] = {"tokenizer.ggml.tokens", "tokenizer.ggml.scores",
                                       "tokenizer.ggml.token_type", "k"};
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        int64_t n = ca_gguf_array_length(g, keys[k]);
        for (int64_t i = 0; i < n; i++) {
            ca_gguf_string text;
            int64_t integer = 0;
            double real = 0;
            unsigned sum = 0;
            if (ca_gguf_array_text(g, keys[k], i, &text))
                for (uint64_t c = 0; c < text.length; c++) sum += (unsigned char)text.text[c];
            if (ca_gguf_array_int(g, keys[k], i, &integer)) sum++;
            if (ca_gguf_array_float(g, keys[k], i, &real)) sum++;
            require(sum < UINT32_MAX);
        }
    }
}

static void read_tensors(const ca_gguf *g) {
    for (int64_t i = 0; i < ca_gguf_tensor_count(g); i++) {
        const ca_gguf_tensor *t = ca_gguf_tensor_at(g, i);
        size_t sum = 0;
        for (size_t b = 0; b < t->bytes; b++) sum += t->data[b];
        require(sum <= t->bytes * 255 && t->rank >= 1 && t->rank <= 4);
    }
}

static void open_model(const char *path) {
    ca_model_file *file = NULL;
    char hex[65];
    if (ca_model_file_open(path, &file) != CA_OK) {
        require(ca_error_text()[0] != '\0');
        return;
    }
    require(ca_model_file_sha256(file, hex) == CA_OK);
    require(ca_model_file_bytes(file, CA_F32) > 0);
    ca_model_file_close(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ca_gguf *g = NULL;
    char path[64];
    int fd = memfd_create("fuzz_gguf", 0);
    require(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ca_error_clear();
    if (ca_gguf_open(path, &g) == CA_OK) {
        read_arrays(g);
        read_tensors(g);
        ca_gguf_close(g);
    } else {
        require(ca_error_text()[0] != '\0');
    }
    open_model(path);
    close(fd);
    return 0;
}
