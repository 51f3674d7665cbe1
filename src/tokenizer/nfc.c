/* SPDX-License-Identifier: MIT
 *
 * Unicode composition (NFC) that keeps the origin of every character.
 *
 * `tokenizers` counts, for each character it writes, how many source characters it uses up, and
 * walks the source by these counts: a composed character takes the origin of the first character
 * it stands for, an inserted one that of its predecessor. Origins follow that rule exactly, so
 * offsets agree even where marks are reordered.
 */
#include "pipeline.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* change: source characters taken - 1; 0 = one for one, 1 = inserted, negative = more removed. */
typedef struct mark {
    int32_t code_point;
    int32_t change;
} mark;

typedef struct marks {
    mark *at;
    int64_t count, capacity;
} marks;

enum { FIRST_AFFECTED = 0x300 }; /* below it every character is its own NFC */

bool ca_tok_nfc_needed(const ca_tok_component *c, const ca_tok_text *text) {
    (void)c;
    for (int64_t i = 0; i < text->length; i++) {
        if ((unsigned char)text->bytes[i] >= 0xCC) return true; /* lead byte of U+0300 and up */
    }
    return false;
}

static ca_status marks_add(marks *list, int32_t code_point, int32_t change) {
    ca_status st = CA_OK;
    CA_TRY(ca_grow(&list->at, &list->capacity, list->count + 1, sizeof *list->at));
    list->at[list->count++] = (mark){.code_point = code_point, .change = change};
out:
    return st;
}

static int combining_class(int32_t code_point) {
    return code_point < FIRST_AFFECTED ? 0 : utf8proc_get_property(code_point)->combining_class;
}

/* Canonical decomposition of every character of the text, marks in canonical order. */
static ca_status decompose(const ca_tok_text *text, marks *list) {
    ca_status st = CA_OK;
    for (int64_t i = 0; i < text->length;) {
        int32_t code_point;
        utf8proc_int32_t parts[8]; /* the longest canonical decomposition has four */
        int boundary = 0;
        i += utf8proc_iterate((const utf8proc_uint8_t *)text->bytes + i, text->length - i,
                              &code_point);
        utf8proc_ssize_t count =
            utf8proc_decompose_char(code_point, parts, 8, UTF8PROC_DECOMPOSE, &boundary);
        if (count < 1 || count > 8) {
            parts[0] = code_point;
            count = 1;
        }
        for (utf8proc_ssize_t k = 0; k < count; k++) CA_TRY(marks_add(list, parts[k], k > 0));
    }
    /* Stable insertion by combining class; starters (class 0) are never passed. */
    for (int64_t i = 1; i < list->count; i++) {
        mark moved = list->at[i];
        int class = combining_class(moved.code_point);
        int64_t k = i;
        if (class == 0) continue;
        for (; k > 0 && combining_class(list->at[k - 1].code_point) > class; k--)
            list->at[k] = list->at[k - 1];
        list->at[k] = moved;
    }
out:
    return st;
}

/* The character that a and b compose to, or -1. */
static int32_t compose_pair(int32_t a, int32_t b) {
    if (b < FIRST_AFFECTED) return -1;
    utf8proc_int32_t pair[2] = {a, b};
    utf8proc_ssize_t count = utf8proc_normalize_utf32(pair, 2, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    return count == 1 ? pair[0] : -1;
}

/* Canonical composition in place. */
static void compose(marks *list) {
    int64_t starter = -1, written = 0;
    int last_class = -1; /* class of the mark kept last after the starter; -1 = none */
    for (int64_t i = 0; i < list->count; i++) {
        mark m = list->at[i];
        int class = combining_class(m.code_point);
        if (starter >= 0 && last_class < class) {
            int32_t composed = compose_pair(list->at[starter].code_point, m.code_point);
            if (composed >= 0) {
                list->at[starter].code_point = composed;
                list->at[starter].change += m.change - 1;
                continue;
            }
        }
        if (class == 0) {
            starter = written;
            last_class = -1;
        } else {
            last_class = class;
        }
        list->at[written++] = m;
    }
    list->count = written;
}

/* Writes the characters; `at` walks the source by the counts. */
static ca_status write_marks(const marks *list, const ca_tok_text *text, ca_tok_buffer *out) {
    ca_status st = CA_OK;
    int64_t at = 0;
    for (int64_t i = 0; i < list->count; i++) {
        mark m = list->at[i];
        int64_t from = m.change > 0 ? at - 1 : at;
        ca_tok_span origin = {0, 0};
        if (from >= 0 && from < text->length) origin = ca_tok_text_origin(text, from, from + 1);
        for (int32_t taken = m.change; taken <= 0 && at < text->length; taken++)
            at += ca_tok_character_length(text->bytes[at]);

        utf8proc_uint8_t spelled[4];
        utf8proc_ssize_t length = utf8proc_encode_char(m.code_point, spelled);
        CA_TRY(ca_tok_buffer_put(out, (const char *)spelled, length, origin));
    }
out:
    return st;
}

ca_status ca_tok_nfc(const ca_tok_component *c, ca_tok_matcher *matcher, const ca_tok_text *text,
                     ca_tok_buffer *out) {
    (void)c;
    (void)matcher;
    ca_status st = CA_OK;
    marks list = {0};
    CA_TRY(decompose(text, &list));
    compose(&list);
    CA_TRY(write_marks(&list, text, out));
out:
    free(list.at);
    return st;
}
