/* SPDX-License-Identifier: MIT
 *
 * Pre-tokenizers: cut normalized text into the pieces inside which BPE merges. A type may rewrite
 * each piece first (add a space) and then cut it at a pattern; both are data of the component.
 */
#include "pipeline.h"

#include <string.h>

/* The words of GPT-2: contractions, letters, digits and the rest with one space before each, and
 * white space but its last character when a word follows. */
static const char gpt2_words[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+"
                                 "| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static ca_status put_space(const ca_tok_component *c, ca_tok_matcher *matcher,
                           const ca_tok_text *text, ca_tok_buffer *out) {
    (void)c;
    (void)matcher;
    ca_status st = CA_OK;
    if (text->bytes[0] != ' ')
        CA_TRY(ca_tok_buffer_put(out, " ", 1, ca_tok_text_origin(text, 0, 1)));
    CA_TRY(ca_tok_buffer_copy(out, text, 0, text->length));
out:
    return st;
}

static ca_status read_byte_level(ca_tokenizer *t, json_t *json, ca_tok_component *c) {
    ca_status st = CA_OK;
    bool add_prefix_space, use_regex;
    CA_TRY(ca_tok_json_bool(json, "add_prefix_space", true, &add_prefix_space));
    CA_TRY(ca_tok_json_bool(json, "use_regex", true, &use_regex));
    if (add_prefix_space) c->rewrite = put_space;
    if (use_regex) {
        c->splits = true;
        CA_TRY(ca_tok_pattern_compile(gpt2_words, sizeof gpt2_words - 1, false, &c->pattern));
    }
    t->bpe.byte_level = true;
out:
    return st;
}

bool ca_tok_is_byte_level(const ca_tok_component *c) { return strcmp(c->type, "ByteLevel") == 0; }

static ca_status read_digits(ca_tokenizer *t, json_t *json, ca_tok_component *c) {
    (void)t;
    ca_status st = CA_OK;
    bool individual;
    CA_TRY(ca_tok_json_bool(json, "individual_digits", false, &individual));
    const char *digits = individual ? "\\p{N}" : "\\p{N}+";
    c->splits = true;
    CA_TRY(ca_tok_pattern_compile(digits, strlen(digits), false, &c->pattern));
out:
    return st;
}

static ca_status read_split(ca_tokenizer *t, json_t *json, ca_tok_component *c) {
    (void)t;
    static const char *const names[] = {
        [CA_TOK_ISOLATED] = "Isolated",        [CA_TOK_REMOVED] = "Removed",
        [CA_TOK_CONTIGUOUS] = "Contiguous",    [CA_TOK_WITH_PREVIOUS] = "MergedWithPrevious",
        [CA_TOK_WITH_NEXT] = "MergedWithNext",
    };
    const int known = sizeof names / sizeof names[0];
    ca_status st = CA_OK;
    json_t *behavior;
    CA_TRY(ca_tok_json_get(json, "behavior", JSON_STRING, &behavior));
    int found = 0;
    while (found < known && strcmp(json_string_value(behavior), names[found]) != 0) found++;
    if (found == known)
        CA_TRY(ca_fail(CA_E_MODEL,
                       "behavior: expected Isolated, Removed, Contiguous, MergedWithPrevious or "
                       "MergedWithNext, got '%.80s'",
                       json_string_value(behavior)));
    c->behavior = (ca_tok_behavior)found;
    c->splits = true;
    CA_TRY(ca_tok_json_bool(json, "invert", false, &c->invert));
    CA_TRY(ca_tok_pattern_read(json, &c->pattern));
out:
    return st;
}

/* Spaces become marks, and a piece that begins without one gets one in front. */
static ca_status mark_spaces(const ca_tok_component *c, ca_tok_matcher *matcher,
                             const ca_tok_text *text, ca_tok_buffer *out) {
    (void)matcher;
    ca_status st = CA_OK;
    int64_t mark = (int64_t)c->content_length;
    bool marked = text->bytes[0] == ' ' ||
                  (text->length >= mark && memcmp(text->bytes, c->content, (size_t)mark) == 0);
    ca_tok_span first = ca_tok_text_origin(text, 0, 1);
    bool wanted = c->start > 0 && (!c->only_first || first.start == 0);
    if (!marked && wanted) CA_TRY(ca_tok_buffer_put(out, c->content, mark, first));

    int64_t done = 0;
    for (int64_t i = 0; i < text->length; i++) {
        if (text->bytes[i] != ' ') continue;
        CA_TRY(ca_tok_buffer_copy(out, text, done, i));
        CA_TRY(ca_tok_buffer_put(out, c->content, mark, ca_tok_text_origin(text, i, i + 1)));
        done = i + 1;
    }
    CA_TRY(ca_tok_buffer_copy(out, text, done, text->length));
out:
    return st;
}

/* content = the mark, start = 1 when one is put in front, only_first = of the source only. */
static ca_status read_metaspace(ca_tokenizer *t, json_t *json, ca_tok_component *c) {
    ca_status st = CA_OK;
    json_t *mark, *scheme;
    bool old_prefix;
    CA_TRY(ca_tok_json_get(json, "replacement", JSON_STRING, &mark));
    c->content_length = json_string_length(mark);
    if (c->content_length == 0)
        CA_TRY(ca_fail(CA_E_MODEL, "replacement: expected a character, got ''"));
    CA_TRY(ca_arena_strdup(t->arena, json_string_value(mark), c->content_length, &c->content));

    /* Files older than prepend_scheme say add_prefix_space. */
    CA_TRY(ca_tok_json_bool(json, "add_prefix_space", true, &old_prefix));
    CA_TRY(ca_tok_json_find(json, "prepend_scheme", JSON_STRING, &scheme));
    const char *name = scheme != NULL ? json_string_value(scheme) : old_prefix ? "always" : "never";
    if (strcmp(name, "always") != 0 && strcmp(name, "first") != 0 && strcmp(name, "never") != 0)
        CA_TRY(ca_fail(CA_E_MODEL, "prepend_scheme: expected always, first or never, got '%.80s'",
                       name));
    c->start = strcmp(name, "never") != 0;
    c->only_first = strcmp(name, "first") == 0;

    c->rewrite = mark_spaces;
    c->behavior = CA_TOK_WITH_NEXT;
    CA_TRY(ca_tok_json_bool(json, "split", true, &c->splits));
    if (c->splits) CA_TRY(ca_tok_pattern_compile(c->content, c->content_length, true, &c->pattern));
out:
    return st;
}

static const ca_tok_row rows[] = {
    {"ByteLevel", read_byte_level},
    {"Digits", read_digits},
    {"Split", read_split},
    {"Metaspace", read_metaspace},
};

const ca_tok_stage ca_tok_pretokenizers = {
    .name = "pre_tokenizer",
    .members = "pretokenizers",
    .rows = rows,
    .row_count = sizeof rows / sizeof rows[0],
};
