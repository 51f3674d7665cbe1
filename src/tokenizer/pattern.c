/* SPDX-License-Identifier: MIT
 *
 * Regular expressions of tokenizer.json, run by PCRE2, and the five ways to cut text at matches.
 * The files are written for Oniguruma: what PCRE2 would read differently is refused.
 * Compiled patterns are shared between threads; each call brings its own matcher.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "pipeline.h"

#include <assert.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

struct ca_tok_pattern {
    pcre2_code *code;
};

struct ca_tok_matcher {
    pcre2_match_data *data;
};

/* (?m) lets the dot match a line end in Oniguruma and moves ^ and $ in PCRE2. */
static bool sets_multiline(const char *text, size_t length, size_t group) {
    size_t i = group + 2;
    while (i < length && ((text[i] >= 'a' && text[i] <= 'z') || text[i] == '-')) {
        if (text[i++] == 'm') return true;
    }
    return false;
}

/* The constructs that both libraries accept with different meanings. */
static const char *foreign_construct(const char *text, size_t length) {
    bool in_class = false;
    for (size_t i = 0; i < length; i++) {
        char next = i + 1 < length ? text[i + 1] : '\0';
        if (text[i] == '\\') {
            if (next == 'h' || next == 'H') return "\\h";
            i++;
        } else if (!in_class && text[i] == '[') {
            in_class = true;
            /* A bracket right after the opening one stands for itself. */
            if (next == '^') i++;
            if (i + 1 < length && text[i + 1] == ']') i++;
        } else if (in_class && text[i] == ']') {
            in_class = false;
        } else if (in_class && text[i] == '[' && next != ':') {
            return "a class inside a class";
        } else if (in_class && text[i] == '[') {
            const char *end = memchr(text + i, ']', length - i);
            if (end != NULL) i = (size_t)(end - text);
        } else if (in_class && text[i] == '&' && next == '&') {
            return "&&";
        } else if (!in_class && text[i] == '(' && next == '*') {
            return "(*";
        } else if (!in_class && text[i] == '(' && next == '?' && sets_multiline(text, length, i)) {
            return "(?m)";
        }
    }
    return NULL;
}

ca_status ca_tok_pattern_compile(const char *text, size_t length, bool literal,
                                 ca_tok_pattern **out) {
    ca_status st = CA_OK;
    *out = NULL;
    ca_tok_pattern *pattern = NULL;

    const char *foreign = literal ? NULL : foreign_construct(text, length);
    if (foreign != NULL)
        return ca_fail(CA_E_MODEL,
                       "regular expression '%.200s': expected one that PCRE2 reads as Oniguruma "
                       "does, got one with %s",
                       text, foreign);

    CA_TRY(ca_calloc(1, sizeof *pattern, &pattern));
    /* Oniguruma's ^ and $ always match at line borders. */
    uint32_t options =
        PCRE2_UTF |
        (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
    int error = 0;
    PCRE2_SIZE offset = 0;
    pattern->code = pcre2_compile((PCRE2_SPTR)text, length, options, &error, &offset, NULL);
    if (pattern->code == NULL) {
        PCRE2_UCHAR reason[160];
        pcre2_get_error_message(error, reason, sizeof reason);
        CA_TRY(ca_fail(CA_E_MODEL,
                       "regular expression '%.200s': expected one that compiles, got '%s' at "
                       "byte %zu",
                       text, (const char *)reason, (size_t)offset));
    }
    /* Without a JIT compiler on this machine the interpreter gives the same matches. */
    (void)pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE);
    *out = pattern;
    pattern = NULL;
out:
    ca_tok_pattern_free(pattern);
    return st;
}

void ca_tok_pattern_free(ca_tok_pattern *pattern) {
    if (pattern == NULL) return;
    pcre2_code_free(pattern->code);
    free(pattern);
}

ca_status ca_tok_matcher_create(ca_tok_matcher **out) {
    ca_status st = CA_OK;
    ca_tok_matcher *matcher = NULL;
    *out = NULL;
    CA_TRY(ca_calloc(1, sizeof *matcher, &matcher));
    matcher->data = pcre2_match_data_create(1, NULL);
    if (matcher->data == NULL)
        CA_TRY(ca_fail(CA_E_MEMORY, "host memory: expected room for a regular expression match, "
                                    "got none"));
    *out = matcher;
    matcher = NULL;
out:
    ca_tok_matcher_free(matcher);
    return st;
}

void ca_tok_matcher_free(ca_tok_matcher *matcher) {
    if (matcher == NULL) return;
    pcre2_match_data_free(matcher->data);
    free(matcher);
}

ca_status ca_tok_pattern_find(const ca_tok_pattern *pattern, ca_tok_matcher *matcher,
                              const ca_tok_text *text, int64_t from, int64_t *start, int64_t *end) {
    PCRE2_SPTR subject = (PCRE2_SPTR)text->bytes;
    uint32_t options = PCRE2_NO_UTF_CHECK;
    int found = pcre2_match(pattern->code, subject, (size_t)text->length, (size_t)from, options,
                            matcher->data, NULL);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter keeps its stack on the heap */
        found = pcre2_match(pattern->code, subject, (size_t)text->length, (size_t)from,
                            options | PCRE2_NO_JIT, matcher->data, NULL);
    if (found == PCRE2_ERROR_NOMATCH) {
        *start = *end = -1;
        return CA_OK;
    }
    if (found < 0) {
        PCRE2_UCHAR reason[160];
        pcre2_get_error_message(found, reason, sizeof reason);
        return ca_fail(CA_E_DATA,
                       "byte %lld: expected the tokenizer's regular expression to end, got '%s'",
                       (long long)from, (const char *)reason);
    }
    const PCRE2_SIZE *bounds = pcre2_get_ovector_pointer(matcher->data);
    *start = (int64_t)bounds[0];
    *end = (int64_t)bounds[1];
    return CA_OK;
}

/* The stretch that the next one may still join. */
typedef struct splitter {
    ca_tok_behavior behavior;
    bool invert;
    ca_tok_pieces *out;
    int64_t from, to;
    bool any, match; /* whether there is a stretch, and whether its last part matched */
} splitter;

static ca_status split_flush(splitter *s) {
    return s->any ? ca_tok_pieces_add(s->out, s->from, s->to, -1) : CA_OK;
}

/* Takes the next stretch, which did or did not match. */
static ca_status split_add(splitter *s, int64_t from, int64_t to, bool match) {
    ca_status st = CA_OK;
    bool join = false;
    match ^= s->invert;
    switch (s->behavior) {
    case CA_TOK_ISOLATED:
        break;
    case CA_TOK_REMOVED:
        if (match) return CA_OK;
        break;
    case CA_TOK_CONTIGUOUS:
        join = match == s->match;
        break;
    case CA_TOK_WITH_PREVIOUS:
        join = match && !s->match;
        break;
    case CA_TOK_WITH_NEXT:
        join = !match && s->match;
        break;
    }
    if (!s->any || !join) {
        CA_TRY(split_flush(s));
        s->from = from;
    }
    s->to = to;
    s->any = true;
    s->match = match;
out:
    return st;
}

ca_status ca_tok_pattern_split(const ca_tok_pattern *pattern, ca_tok_matcher *matcher,
                               const ca_tok_text *text, const ca_tok_piece *piece,
                               ca_tok_behavior behavior, bool invert, ca_tok_pieces *out) {
    ca_status st = CA_OK;
    /* Look-around sees the piece alone. */
    ca_tok_text part = ca_tok_text_part(text, piece->from, piece->to);
    splitter s = {.behavior = behavior, .invert = invert, .out = out};
    int64_t done = 0;  /* everything before it has been added */
    int64_t last = -1; /* end of the match before */
    for (int64_t at = 0; at <= part.length;) {
        int64_t start = -1, end = -1;
        CA_TRY(ca_tok_pattern_find(pattern, matcher, &part, at, &start, &end));
        if (start < 0) break;
        assert(at <= start && start <= end && end <= part.length);
        at = end;
        if (start == end && end == last) { /* an empty match never follows a match directly */
            at += end < part.length ? ca_tok_character_length(part.bytes[end]) : 1;
            continue;
        }
        if (done < start) CA_TRY(split_add(&s, piece->from + done, piece->from + start, false));
        CA_TRY(split_add(&s, piece->from + start, piece->from + end, true));
        done = last = end;
    }
    if (done < part.length)
        CA_TRY(split_add(&s, piece->from + done, piece->from + part.length, false));
    CA_TRY(split_flush(&s));
out:
    return st;
}
