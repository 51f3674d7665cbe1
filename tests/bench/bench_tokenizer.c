/* SPDX-License-Identifier: MIT
 *
 * Speed of the tokenizer on one core.
 * usage: bench_tokenizer [TOKENIZER [TEXT_FILE]]      SmolLM2's, or the bundled one, on the README
 * Prints the time to open the tokenizer, and MB/s and tokens/s for the whole file in one call and
 * for its lines one by one (best of five).
 */
#include <stdlib.h>
#include <string.h>

#include "causa/tokenizer.h"

static ca_status encode_lines(const ca_tokenizer *t, const char *text, size_t size, bool by_line,
                              int64_t *tokens) {
    ca_status st = CA_OK;
    *tokens = 0;
    for (size_t from = 0; from < size;) {
        const char *end = by_line ? memchr(text + from, '\n', size - from) : NULL;
        size_t length = end == NULL ? size - from : (size_t)(end - text) - from + 1;
        ca_encoding e;
        CA_TRY(ca_tokenizer_encode(t, text + from, length, false, &e));
        *tokens += e.count;
        ca_encoding_free(&e);
        from += length;
    }
out:
    return st;
}

static ca_status measure(const ca_tokenizer *t, const char *text, size_t size, bool by_line) {
    ca_status st = CA_OK;
    double best = 1e30;
    int64_t tokens = 0;
    for (int round = 0; round < 5; round++) {
        double started = ca_seconds();
        CA_TRY(encode_lines(t, text, size, by_line, &tokens));
        double seconds = ca_seconds() - started;
        if (seconds < best) best = seconds;
    }
    printf("%-12s %8.2f MB/s %10.0f tokens/s\n", by_line ? "line by line" : "whole file",
           (double)size / best / 1e6, (double)tokens / best);
out:
    return st;
}

int main(int argc, char **argv) {
    ca_status st = CA_OK;
    ca_tokenizer *t = NULL;
    char *text = NULL;
    size_t size;
    const char *real = "build/models/smollm2.gguf";
    const char *model = argc > 1 ? argv[1] : ca_file_exists(real) ? real : "experiments/demo-model";
    double started = ca_seconds();
    CA_TRY(ca_tokenizer_open(model, &t));
    printf("%s, opened in %.3f s\n", ca_tokenizer_description(t), ca_seconds() - started);
    CA_TRY(ca_file_read(argc > 2 ? argv[2] : "README.md", &text, &size));
    CA_TRY(measure(t, text, size, false));
    CA_TRY(measure(t, text, size, true));
out:
    if (st != CA_OK) fprintf(stderr, "error: %s\n", ca_error_text());
    free(text);
    ca_tokenizer_free(t);
    return ca_status_exit_code(st);
}
