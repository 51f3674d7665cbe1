/* SPDX-License-Identifier: MIT
 *
 * libFuzzer harness of .safetensors files: any bytes are the weights beside a small config.json.
 * Either an error with text comes back, or a model whose digest and sizes can be asked for. The
 * corpus is in corpus/safetensors. Runs in the root of the repository.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "causa/model.h"

#define FUZZED       "model.safetensors"
#define FIXED        "config.json"
#define FIXED_SOURCE "tests/fuzz/corpus/model_config/llama.json"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char directory[] = "/tmp/causa-fuzz-XXXXXX";
static char fuzzed[PATH_MAX], fixed[PATH_MAX];

static void require(bool holds) {
    if (!holds) abort();
}

static void remove_directory(void) {
    unlink(fuzzed);
    unlink(fixed);
    rmdir(directory);
}

/* A model directory for the whole run: one file is a link, the other is written for each input. */
static void make_directory(void) {
    char source[PATH_MAX];
    require(mkdtemp(directory) != NULL && realpath(FIXED_SOURCE, source) != NULL);
    snprintf(fuzzed, sizeof fuzzed, "%s/" FUZZED, directory);
    snprintf(fixed, sizeof fixed, "%s/" FIXED, directory);
    require(symlink(source, fixed) == 0 && atexit(remove_directory) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ca_model_file *file = NULL;
    char hex[65];
    if (fuzzed[0] == '\0') make_directory();
    FILE *f = fopen(fuzzed, "wb");
    require(f != NULL && fwrite(data, 1, size, f) == size && fclose(f) == 0);
    ca_error_clear();
    if (ca_model_file_open(directory, &file) != CA_OK) {
        require(ca_error_text()[0] != '\0');
        return 0;
    }
    require(ca_model_file_sha256(file, hex) == CA_OK);
    require(ca_model_file_parameters(file) > 0 && ca_model_file_bytes(file, CA_F64) > 0);
    ca_model_file_close(file);
    return 0;
}
