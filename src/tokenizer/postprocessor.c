/* SPDX-License-Identifier: MIT
 *
 * Post-processors: special tokens around the text, and offsets without white space. They run on
 * every encoding; only TemplateProcessing looks at whether special tokens are wanted.
 */
#include "pipeline.h"

#include <string.h>

/* ---- ByteLevel: offsets of a token leave out the white space at its borders --------------- */

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* The byte-level letter of a space. */
static bool is_space_letter(const char *at) { return memcmp(at, "\xC4\xA0", 2) == 0; }

/* How many characters of white space a token begins with. */
static int64_t space_at_start(const ca_tok_token *token) {
    int64_t spaces = 0;
    for (size_t i = 0; i < token->length;) {
        bool letter = token->length - i >= 2 && is_space_letter(token->text + i);
        if (!letter && !is_space(token->text[i])) break;
        i += letter ? 2 : 1;
        spaces++;
    }
    return spaces;
}

static int64_t space_at_end(const ca_tok_token *token) {
    int64_t spaces = 0;
    for (size_t i = token->length; i > 0;) {
        bool letter = i >= 2 && is_space_letter(token->text + i - 2);
        if (!letter && !is_space(token->text[i - 1])) break;
        i -= letter ? 2 : 1;
        spaces++;
    }
    return spaces;
}

/* Moves the borders of a span inwards by whole characters. */
static ca_tok_span trim(const ca_tok_text *source, ca_tok_span span, int64_t leading,
                        int64_t trailing) {
    for (; leading > 0 && span.start < span.end; leading--)
        span.start += ca_tok_character_length(source->bytes[span.start]);
    for (; trailing > 0 && span.start < span.end; trailing--) {
        do span.end--;
        while (span.end > span.start && ca_tok_is_continuation(source->bytes[span.end]));
    }
    return span;
}

static ca_status trim_offsets(const ca_tok_component *c, const ca_tokenizer *t,
                              const ca_tok_text *source, bool special, ca_tok_output *output) {
    (void)special;
    ca_encoding *e = &output->encoding;
    for (int64_t i = 0; i < e->count; i++) {
        const ca_tok_token *token = &t->token[e->ids[i]];
        int64_t leading = space_at_start(token), trailing = space_at_end(token);
        /* A single space may be the one that the pre-tokenizer put in front. */
        if (leading == 1 && c->only_first && (i == 0 || e->start[i] == 0)) leading = 0;
        ca_tok_span span = trim(source, (ca_tok_span){e->start[i], e->end[i]}, leading, trailing);
        e->start[i] = span.start;
        e->end[i] = span.end;
    }
    return CA_OK;
}

/* only_first = the pre-tokenizer may have added a space. */
static ca_status read_byte_level(ca_tokenizer *t, json_t *json, ca_tok_component *c) {
    (void)t;
    ca_status st = CA_OK;
    bool trim;
    CA_TRY(ca_tok_json_bool(json, "trim_offsets", true, &trim));
    CA_TRY(ca_tok_json_bool(json, "add_prefix_space", true, &c->only_first));
    if (trim) c->finish = trim_offsets;
out:
    return st;
}

/* ---- TemplateProcessing: ids before and after the text ------------------------------------ */

static void move_right(ca_encoding *e, int64_t by, int64_t count) {
    memmove(e->ids + by, e->ids, (size_t)count * sizeof *e->ids);
    memmove(e->start + by, e->start, (size_t)count * sizeof *e->start);
    memmove(e->end + by, e->end, (size_t)count * sizeof *e->end);
}

static ca_status add_special(const ca_tok_component *c, const ca_tokenizer *t,
                             const ca_tok_text *source, bool special, ca_tok_output *output) {
    (void)t;
    (void)source;
    ca_status st = CA_OK;
    ca_encoding *e = &output->encoding;
    if (!special) return CA_OK;
    int64_t text_count = e->count;
    for (int64_t i = 0; i < c->before + c->after; i++) /* room; the values follow */
        CA_TRY(ca_tok_output_add(output, c->ids[i], (ca_tok_span){0, 0}));
    if (c->before == 0) return CA_OK;
    move_right(e, c->before, text_count);
    for (int64_t i = 0; i < c->before + c->after; i++) {
        int64_t at = i < c->before ? i : text_count + i;
        e->ids[at] = c->ids[i];
        e->start[at] = e->end[at] = 0;
    }
out:
    return st;
}

/* Appends the ids that special_tokens gives for one name. */
static ca_status template_ids(ca_tokenizer *t, json_t *json, const char *name, int32_t *ids,
                              int64_t capacity, int64_t *count) {
    ca_status st = CA_OK;
    json_t *all, *entry, *list;
    CA_TRY(ca_tok_json_get(json, "special_tokens", JSON_OBJECT, &all));
    CA_TRY(ca_tok_json_get(all, name, JSON_OBJECT, &entry));
    CA_TRY(ca_tok_json_get(entry, "ids", JSON_ARRAY, &list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *id = json_array_get(list, i);
        long long value = json_is_integer(id) ? json_integer_value(id) : -1;
        if (value < 0 || value >= t->size || t->token[value].text == NULL)
            CA_TRY(ca_fail(CA_E_MODEL,
                           "special_tokens: %.80s: expected ids of the vocabulary, "
                           "got %lld",
                           name, value));
        if (*count == capacity)
            CA_TRY(ca_fail(CA_E_MODEL, "single: expected at most %lld special ids, got more",
                           (long long)capacity));
        ids[(*count)++] = (int32_t)value;
    }
out:
    return st;
}

static ca_status read_template(ca_tokenizer *t, json_t *json, ca_tok_component *c) {
    enum { MAX_IDS = 64 };
    ca_status st = CA_OK;
    json_t *single, *part;
    int64_t count = 0, texts = 0;
    CA_TRY(ca_arena_alloc(t->arena, MAX_IDS * sizeof *c->ids, &c->ids));
    CA_TRY(ca_tok_json_get(json, "single", JSON_ARRAY, &single));
    for (size_t i = 0; i < json_array_size(single); i++) {
        json_t *step = json_array_get(single, i), *name;
        CA_TRY(ca_tok_json_find(step, "Sequence", JSON_OBJECT, &part));
        if (part != NULL) {
            c->before = count;
            texts++;
            continue;
        }
        CA_TRY(ca_tok_json_get(step, "SpecialToken", JSON_OBJECT, &part));
        CA_TRY(ca_tok_json_get(part, "id", JSON_STRING, &name));
        CA_TRY(template_ids(t, json, json_string_value(name), c->ids, MAX_IDS, &count));
    }
    if (texts != 1)
        CA_TRY(ca_fail(CA_E_MODEL, "single: expected one Sequence, got %lld", (long long)texts));
    c->after = count - c->before;
    c->finish = add_special;
    if (c->before > 0) t->bos = c->ids[0];
out:
    return st;
}

static const ca_tok_row rows[] = {
    {"ByteLevel", read_byte_level},
    {"TemplateProcessing", read_template},
};

const ca_tok_stage ca_tok_postprocessors = {
    .name = "post_processor",
    .members = "processors",
    .rows = rows,
    .row_count = sizeof rows / sizeof rows[0],
};
