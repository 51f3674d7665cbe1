/* SPDX-License-Identifier: MIT
 *
 * `causa tokens`: ids, pieces and byte offsets of texts from the arguments or from stdin.
 */
#include "cli.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static ca_status piece_of(const ca_tokenizer *t, int32_t id, ca_string *piece) {
    piece->length = 0;
    return ca_tokenizer_decode(t, &id, 1, false, piece);
}

static ca_status print_json(const ca_tokenizer *t, const char *text, size_t length,
                            const ca_encoding *e) {
    ca_status st = CA_OK;
    ca_string piece = {0};
    json_t *ids = json_array(), *pieces = json_array(), *offsets = json_array();
    json_t *root = json_pack("{s:s%, s:o, s:o, s:o}", "text", text, length, "ids", ids, "pieces",
                             pieces, "offsets", offsets);
    if (!root) return ca_fail(CA_E_MEMORY, "no memory for the output");
    for (int64_t i = 0; i < e->count; i++) {
        CA_TRY(piece_of(t, e->ids[i], &piece));
        json_array_append_new(ids, json_integer(e->ids[i]));
        json_array_append_new(pieces, json_stringn(piece.text, piece.length));
        json_array_append_new(offsets,
                              json_pack("[I, I]", (json_int_t)e->start[i], (json_int_t)e->end[i]));
    }
    json_dumpf(root, stdout, JSON_COMPACT);
    printf("\n");
out:
    json_decref(root);
    ca_string_free(&piece);
    return st;
}

/* A piece as one line of text: controls escaped. */
static void print_piece(const char *text, size_t length) {
    putchar('\'');
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '\n')
            fputs("\\n", stdout);
        else if (c == '\t')
            fputs("\\t", stdout);
        else if (c < 32 || c == 127)
            printf("\\x%02x", c);
        else
            putchar(c);
    }
    putchar('\'');
}

static ca_status print_text(const ca_tokenizer *t, const ca_encoding *e) {
    ca_status st = CA_OK;
    ca_string piece = {0};
    for (int64_t i = 0; i < e->count; i++) {
        CA_TRY(piece_of(t, e->ids[i], &piece));
        printf("%4lld  id %-7d bytes %lld-%-6lld ", (long long)i, e->ids[i], (long long)e->start[i],
               (long long)e->end[i]);
        print_piece(piece.text, piece.length);
        printf("\n");
    }
    printf("tokens: %lld\n", (long long)e->count);
out:
    ca_string_free(&piece);
    return st;
}

static ca_status show(const cli_arguments *a, const ca_tokenizer *t, const char *text,
                      size_t length) {
    ca_status st = CA_OK;
    ca_encoding e = {0};
    CA_TRY(ca_tokenizer_encode(t, text, length, !a->no_special, &e));
    CA_TRY(a->json ? print_json(t, text, length, &e) : print_text(t, &e));
out:
    ca_encoding_free(&e);
    return st;
}

/* With --json a line that begins with a quote is a JSON string: it may hold line breaks. */
static ca_status show_line(const cli_arguments *a, const ca_tokenizer *t, const char *line,
                           size_t length, int64_t number) {
    ca_status st = CA_OK;
    json_error_t error;
    if (!a->json || line[0] != '"') {
        st = show(a, t, line, length);
        return st == CA_OK ? st : ca_context(st, "stdin: line %lld", (long long)number);
    }
    json_t *value = json_loadb(line, length, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (!value || !json_is_string(value))
        st = ca_fail(CA_E_DATA, "stdin: line %lld: expected a JSON string: %s", (long long)number,
                     value ? "got another value" : error.text);
    else
        st = show(a, t, json_string_value(value), json_string_length(value));
    json_decref(value);
    return st;
}

static ca_status show_stdin(const cli_arguments *a, const ca_tokenizer *t) {
    ca_status st = CA_OK;
    char *line = NULL;
    size_t room = 0;
    int64_t number = 0;
    for (ssize_t n; (n = getline(&line, &room, stdin)) >= 0;) {
        if (n > 0 && line[n - 1] == '\n') line[--n] = '\0';
        CA_TRY(show_line(a, t, line, (size_t)n, ++number));
    }
out:
    free(line);
    return st;
}

ca_status ca_cli_tokens(const cli_arguments *arguments) {
    ca_status st = CA_OK;
    ca_tokenizer *t = NULL;
    if (arguments->count == 0) return ca_fail(CA_E_USAGE, "expected a model");
    if (!ca_is_directory(arguments->words[0]) && !ca_file_exists(arguments->words[0]))
        return ca_fail(CA_E_MODEL,
                       "%s: expected a model directory or a GGUF file, got nothing there",
                       arguments->words[0]);
    CA_TRY(ca_tokenizer_open(arguments->words[0], &t));
    if (arguments->count == 1) CA_TRY(show_stdin(arguments, t));
    for (int64_t i = 1; i < arguments->count; i++)
        CA_TRY(show(arguments, t, arguments->words[i], strlen(arguments->words[i])));
out:
    ca_tokenizer_free(t);
    return st;
}
