/* SPDX-License-Identifier: MIT
 *
 * Normalizers: rewrite the text between added tokens before it is cut. One row of the table and
 * one reading function for each type.
 */
#include "pipeline.h"

static ca_status keep_content(ca_tokenizer *t, json_t *json, const char *key, ca_tok_component *c) {
    ca_status st = CA_OK;
    json_t *content;
    CA_TRY(ca_tok_json_get(json, key, JSON_STRING, &content));
    c->content_length = json_string_length(content);
    CA_TRY(ca_arena_strdup(t->arena, json_string_value(content), c->content_length, &c->content));
out:
    return st;
}

static ca_status read_nfc(ca_tokenizer *t, json_t *json, ca_tok_component *c) {
    (void)t;
    (void)json;
    c->rewrite = ca_tok_nfc;
    c->needed = ca_tok_nfc_needed;
    return CA_OK;
}

/* The mark put in front shares the origin of the first character. */
static ca_status prepend(const ca_tok_component *c, ca_tok_matcher *matcher,
                         const ca_tok_text *text, ca_tok_buffer *out) {
    (void)matcher;
    ca_status st = CA_OK;
    if (text->length == 0) return CA_OK;
    CA_TRY(ca_tok_buffer_put(out, c->content, (int64_t)c->content_length,
                             ca_tok_text_origin(text, 0, 1)));
    CA_TRY(ca_tok_buffer_copy(out, text, 0, text->length));
out:
    return st;
}

static ca_status read_prepend(ca_tokenizer *t, json_t *json, ca_tok_component *c) {
    c->rewrite = prepend;
    return keep_content(t, json, "prepend", c);
}

/* The new text takes the origin of the last character it replaces. */
ca_status ca_tok_replace(const ca_tok_component *c, ca_tok_matcher *matcher,
                         const ca_tok_text *text, ca_tok_buffer *out) {
    ca_status st = CA_OK;
    int64_t done = 0;
    for (int64_t at = 0; at < text->length;) {
        int64_t start, end;
        CA_TRY(ca_tok_pattern_find(c->pattern, matcher, text, at, &start, &end));
        if (start < 0) break;
        CA_TRY(ca_tok_buffer_copy(out, text, done, start));
        /* An empty match inserts after the character before it. */
        ca_tok_span origin = {0, 0};
        if (end > 0) origin = ca_tok_text_origin(text, end - 1, end);
        CA_TRY(ca_tok_buffer_put(out, c->content, (int64_t)c->content_length, origin));
        done = end;
        at = end;
        if (start == end && end < text->length) at += ca_tok_character_length(text->bytes[end]);
    }
    CA_TRY(ca_tok_buffer_copy(out, text, done, text->length));
out:
    return st;
}

ca_status ca_tok_replace_read(ca_tokenizer *t, json_t *json, ca_tok_component *c) {
    ca_status st = CA_OK;
    CA_TRY(keep_content(t, json, "content", c));
    CA_TRY(ca_tok_pattern_read(json, &c->pattern));
    c->rewrite = ca_tok_replace;
out:
    return st;
}

static const ca_tok_row rows[] = {
    {"NFC", read_nfc},
    {"Prepend", read_prepend},
    {"Replace", ca_tok_replace_read},
};

const ca_tok_stage ca_tok_normalizers = {
    .name = "normalizer",
    .members = "normalizers",
    .rows = rows,
    .row_count = sizeof rows / sizeof rows[0],
};

ca_status ca_tok_normalize(const ca_tokenizer *t, ca_tok_matcher *matcher, ca_tok_text *text,
                           ca_tok_buffer buffers[2]) {
    ca_status st = CA_OK;
    int turn = 0;
    for (int64_t i = 0; i < t->normalizers.count; i++) {
        const ca_tok_component *c = &t->normalizers.at[i];
        if (c->needed != NULL && !c->needed(c, text)) continue;
        ca_tok_buffer *out = &buffers[turn];
        out->length = 0;
        CA_TRY(c->rewrite(c, matcher, text, out));
        *text = ca_tok_buffer_text(out);
        turn = 1 - turn;
    }
out:
    return st;
}
