/* SPDX-License-Identifier: MIT
 *
 * Decoders: token spellings back to text. Each takes the list of tokens that the one before it
 * left and writes a new list; the text of the last list is the result.
 */
#include "pipeline.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- lists of strings -------------------------------------------------------------------- */

ca_status ca_tok_strings_append(ca_tok_strings *s, const char *bytes, size_t count) {
    return ca_string_append(&s->text, bytes, count);
}

ca_status ca_tok_strings_close(ca_tok_strings *s) {
    ca_status st = CA_OK;
    CA_TRY(ca_grow(&s->end, &s->capacity, s->count + 1, sizeof *s->end));
    s->end[s->count++] = (int64_t)s->text.length;
out:
    return st;
}

void ca_tok_strings_clear(ca_tok_strings *s) {
    s->count = 0;
    s->text.length = 0;
}

void ca_tok_strings_free(ca_tok_strings *s) {
    ca_string_free(&s->text);
    free(s->end);
    *s = (ca_tok_strings){0};
}

static ca_tok_text string_at(const ca_tok_strings *s, int64_t i) {
    int64_t from = i > 0 ? s->end[i - 1] : 0;
    return (ca_tok_text){.bytes = s->text.text + from, .length = s->end[i] - from, .base = from};
}

/* ---- invalid bytes ----------------------------------------------------------------------- */

static const char replacement[] = "\xEF\xBF\xBD"; /* U+FFFD */

/* Length of the longest beginning of a character at an ill-formed place; at least 1. The Unicode
 * standard (3.9, "substitution of maximal subparts") writes one U+FFFD for all of it. */
static size_t ill_formed_length(const unsigned char *bytes, size_t count) {
    unsigned char lead = bytes[0], low = 0x80, high = 0xBF;
    size_t wanted = lead >= 0xC2 && lead <= 0xDF   ? 2
                    : lead >= 0xE0 && lead <= 0xEF ? 3
                    : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                   : 1;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
    size_t length = 1;
    while (length < wanted && length < count && bytes[length] >= low && bytes[length] <= high) {
        low = 0x80;
        high = 0xBF;
        length++;
    }
    return length;
}

static ca_status append_lossy(ca_tok_strings *out, const char *bytes, size_t count) {
    ca_status st = CA_OK;
    for (size_t at = 0; at < count;) {
        int64_t invalid = ca_utf8_invalid(bytes + at, count - at);
        size_t valid = invalid < 0 ? count - at : (size_t)invalid;
        CA_TRY(ca_tok_strings_append(out, bytes + at, valid));
        at += valid;
        if (at == count) break;
        CA_TRY(ca_tok_strings_append(out, replacement, sizeof replacement - 1));
        at += ill_formed_length((const unsigned char *)bytes + at, count - at);
    }
out:
    return st;
}

/* ---- ByteLevel --------------------------------------------------------------------------- */

/* Appends the bytes that the letters of a token spell, or the token itself when one of its
 * characters is no letter. */
static ca_status append_bytes(ca_string *out, const ca_tok_text *token) {
    size_t before = out->length;
    for (int64_t i = 0; i < token->length;) {
        unsigned char lead = (unsigned char)token->bytes[i];
        int64_t length = ca_tok_character_length(token->bytes[i]);
        int32_t code_point = lead;
        if (length == 2) code_point = (lead & 0x1F) << 6 | (token->bytes[i + 1] & 0x3F);
        int byte = length > 2 ? -1 : ca_tok_letter_byte(code_point);
        if (byte < 0) {
            out->length = before;
            return ca_string_append(out, token->bytes, (size_t)token->length);
        }
        char written = (char)byte;
        ca_status st = ca_string_append(out, &written, 1);
        if (st != CA_OK) return st;
        i += length;
    }
    return CA_OK;
}

static ca_status decode_byte_level(const ca_tok_component *c, const ca_tok_strings *in,
                                   ca_tok_strings *out) {
    (void)c;
    ca_status st = CA_OK;
    ca_string bytes = {0};
    for (int64_t i = 0; i < in->count; i++) {
        ca_tok_text token = string_at(in, i);
        CA_TRY(append_bytes(&bytes, &token));
    }
    CA_TRY(append_lossy(out, bytes.text, bytes.length));
    CA_TRY(ca_tok_strings_close(out));
out:
    ca_string_free(&bytes);
    return st;
}

static ca_status read_byte_level(ca_tokenizer *t, json_t *json, ca_tok_component *c) {
    (void)t;
    (void)json;
    c->decode = decode_byte_level;
    return CA_OK;
}

/* ---- ByteFallback ------------------------------------------------------------------------ */

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte of "<0x41>", or -1. */
static int fallback_byte(const ca_tok_text *token) {
    if (token->length != 6 || memcmp(token->bytes, "<0x", 3) != 0 || token->bytes[5] != '>')
        return -1;
    int high = hex_digit(token->bytes[3]), low = hex_digit(token->bytes[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

/* A run of byte tokens is a text when it is valid as a whole, else one U+FFFD for each byte. */
static ca_status close_run(ca_string *run, ca_tok_strings *out) {
    ca_status st = CA_OK;
    if (run->length == 0) return CA_OK;
    if (ca_utf8_invalid(run->text, run->length) < 0) {
        CA_TRY(ca_tok_strings_append(out, run->text, run->length));
        CA_TRY(ca_tok_strings_close(out));
    } else {
        for (size_t i = 0; i < run->length; i++) {
            CA_TRY(ca_tok_strings_append(out, replacement, sizeof replacement - 1));
            CA_TRY(ca_tok_strings_close(out));
        }
    }
    run->length = 0;
out:
    return st;
}

static ca_status decode_byte_fallback(const ca_tok_component *c, const ca_tok_strings *in,
                                      ca_tok_strings *out) {
    (void)c;
    ca_status st = CA_OK;
    ca_string run = {0};
    for (int64_t i = 0; i < in->count; i++) {
        ca_tok_text token = string_at(in, i);
        int byte = fallback_byte(&token);
        char written = (char)byte;
        if (byte >= 0) {
            CA_TRY(ca_string_append(&run, &written, 1));
            continue;
        }
        CA_TRY(close_run(&run, out));
        CA_TRY(ca_tok_strings_append(out, token.bytes, (size_t)token.length));
        CA_TRY(ca_tok_strings_close(out));
    }
    CA_TRY(close_run(&run, out));
out:
    ca_string_free(&run);
    return st;
}

static ca_status read_byte_fallback(ca_tokenizer *t, json_t *json, ca_tok_component *c) {
    (void)t;
    (void)json;
    c->decode = decode_byte_fallback;
    return CA_OK;
}

/* ---- Fuse, Replace, Strip, Metaspace ------------------------------------------------------ */

static ca_status decode_fuse(const ca_tok_component *c, const ca_tok_strings *in,
                             ca_tok_strings *out) {
    (void)c;
    ca_status st = CA_OK;
    CA_TRY(ca_tok_strings_append(out, in->text.text, in->text.length));
    CA_TRY(ca_tok_strings_close(out));
out:
    return st;
}

static ca_status read_fuse(ca_tokenizer *t, json_t *json, ca_tok_component *c) {
    (void)t;
    (void)json;
    c->decode = decode_fuse;
    return CA_OK;
}

static ca_status decode_replace(const ca_tok_component *c, const ca_tok_strings *in,
                                ca_tok_strings *out) {
    ca_status st = CA_OK;
    ca_tok_matcher *matcher = NULL;
    ca_tok_buffer replaced = {0};
    CA_TRY(ca_tok_matcher_create(&matcher));
    for (int64_t i = 0; i < in->count; i++) {
        ca_tok_text token = string_at(in, i);
        replaced.length = 0;
        CA_TRY(c->rewrite(c, matcher, &token, &replaced));
        CA_TRY(ca_tok_strings_append(out, replaced.bytes, (size_t)replaced.length));
        CA_TRY(ca_tok_strings_close(out));
    }
out:
    ca_tok_buffer_free(&replaced);
    ca_tok_matcher_free(matcher);
    return st;
}

static ca_status read_replace(ca_tokenizer *t, json_t *json, ca_tok_component *c) {
    c->decode = decode_replace;
    return ca_tok_replace_read(t, json, c);
}

/* Takes up to `start` copies of the content from the front of each token, `stop` from its end. */
static ca_status decode_strip(const ca_tok_component *c, const ca_tok_strings *in,
                              ca_tok_strings *out) {
    ca_status st = CA_OK;
    int64_t unit = (int64_t)c->content_length;
    for (int64_t i = 0; i < in->count; i++) {
        ca_tok_text token = string_at(in, i);
        int64_t from = 0, to = token.length;
        for (int64_t k = 0; k < c->start && to - from >= unit; k++, from += unit)
            if (memcmp(token.bytes + from, c->content, c->content_length) != 0) break;
        for (int64_t k = 0; k < c->stop && to - from >= unit; k++, to -= unit)
            if (memcmp(token.bytes + to - unit, c->content, c->content_length) != 0) break;
        CA_TRY(ca_tok_strings_append(out, token.bytes + from, (size_t)(to - from)));
        CA_TRY(ca_tok_strings_close(out));
    }
out:
    return st;
}

static ca_status read_strip(ca_tokenizer *t, json_t *json, ca_tok_component *c) {
    ca_status st = CA_OK;
    json_t *content;
    CA_TRY(ca_tok_json_get(json, "content", JSON_STRING, &content));
    c->content_length = json_string_length(content);
    if (c->content_length == 0)
        CA_TRY(ca_fail(CA_E_MODEL, "content: expected a character, got ''"));
    CA_TRY(ca_arena_strdup(t->arena, json_string_value(content), c->content_length, &c->content));
    CA_TRY(ca_tok_json_count(json, "start", &c->start));
    CA_TRY(ca_tok_json_count(json, "stop", &c->stop));
    c->decode = decode_strip;
out:
    return st;
}

static const ca_tok_row rows[] = {
    {"ByteLevel", read_byte_level},
    {"ByteFallback", read_byte_fallback},
    {"Fuse", read_fuse},
    {"Replace", read_replace},
    {"Strip", read_strip},
};

const ca_tok_stage ca_tok_decoders = {
    .name = "decoder",
    .members = "decoders",
    .rows = rows,
    .row_count = sizeof rows / sizeof rows[0],
};

/* ---- ids to text ------------------------------------------------------------------------- */

ca_status ca_tokenizer_decode(const ca_tokenizer *t, const int32_t *ids, int64_t count,
                              bool skip_special, ca_string *out) {
    ca_status st = CA_OK;
    ca_tok_strings lists[2] = {0};
    int turn = 0;
    for (int64_t i = 0; i < count; i++) {
        const char *text = ca_tokenizer_token(t, ids[i]);
        if (text == NULL || (skip_special && t->token[ids[i]].special)) continue;
        /* Without a decoder tokens are words. */
        if (t->decoders.count == 0 && lists[0].count > 0)
            CA_TRY(ca_tok_strings_append(&lists[0], " ", 1));
        CA_TRY(ca_tok_strings_append(&lists[0], text, t->token[ids[i]].length));
        CA_TRY(ca_tok_strings_close(&lists[0]));
    }
    for (int64_t i = 0; i < t->decoders.count; i++, turn = 1 - turn) {
        const ca_tok_component *c = &t->decoders.at[i];
        ca_tok_strings_clear(&lists[1 - turn]);
        CA_TRY(c->decode(c, &lists[turn], &lists[1 - turn]));
    }
    CA_TRY(ca_string_append(out, lists[turn].text.text, lists[turn].text.length));
out:
    ca_tok_strings_free(&lists[0]);
    ca_tok_strings_free(&lists[1]);
    return st;
}
