/* SPDX-License-Identifier: MIT
 *
 * libFuzzer harness of the tokenizer: any bytes are a tokenizer.json or a GGUF file. Either an
 * error with text comes back, or a tokenizer whose ids and offsets stay in range on fixed texts
 * and on the file itself. The corpus is in corpus/tokenizer.
 */
#include "causa/tokenizer.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void require(bool condition) {
    if (!condition) abort();
}

static void check_text(const ca_tokenizer *t, const char *text, size_t length, bool special) {
    ca_encoding e;
    if (ca_tokenizer_encode(t, text, length, special, &e) != CA_OK) {
        require(ca_error_text()[0] != '\0');
        require(e.count == 0 && e.ids == NULL);
        return;
    }
    for (int64_t i = 0; i < e.count; i++) {
        require(ca_tokenizer_token(t, e.ids[i]) != NULL);
        require(0 <= e.start[i] && e.start[i] <= e.end[i] && e.end[i] <= (int64_t)length);
    }
    ca_string decoded = {0};
    require(ca_tokenizer_decode(t, e.ids, e.count, special, &decoded) == CA_OK);
    require(ca_utf8_invalid(decoded.text, decoded.length) < 0);
    ca_string_free(&decoded);
    ca_encoding_free(&e);
}

static void check_tokenizer(const ca_tokenizer *t, const char *bytes, size_t size) {
    static const char *const texts[] = {
        "",
        " ",
        "Hello  world, it's 12345\n\n\tx ",
        "na\xC3\xAFve nai\xCC\x88ve \xE6\x9D\xB1\xE4\xBA\xAC \xF0\x9F\x91\x8D\xF0\x9F\x8F\xBD",
        "<s><|x|> a <|x|>b",
        "\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB e\xCC\x81\xCC\xA3 \xE2\x96\x81",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        check_text(t, texts[i], strlen(texts[i]), false);
        check_text(t, texts[i], strlen(texts[i]), true);
    }
    check_text(t, bytes, size < 2000 ? size : 2000, true);
    for (int32_t id = -1; id < ca_tokenizer_size(t) && id < 1000; id++) {
        const char *token = ca_tokenizer_token(t, id);
        if (token != NULL) require(ca_tokenizer_id(t, token) >= 0);
    }
    require(ca_tokenizer_bos(t) < ca_tokenizer_size(t));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    char path[64];
    int file = memfd_create("tokenizer", 0);
    require(file >= 0);
    require(write(file, bytes, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);

    ca_tokenizer *t;
    if (ca_tokenizer_open(path, &t) == CA_OK)
        check_tokenizer(t, (const char *)bytes, size);
    else
        require(t == NULL && ca_error_text()[0] != '\0');
    ca_tokenizer_free(t);
    close(file);
    return 0;
}
