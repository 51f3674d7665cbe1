/* SPDX-License-Identifier: MIT
 *
 * One row of a prompt file: texts and ids, answers, subject, with every check that can be made
 * before the model runs.
 */
#include "dataset.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void text_free(ca_prompt_text *t) {
    free(t->text);
    free(t->ids);
    free(t->start);
    free(t->end);
}

void ca_example_free(ca_example *e) {
    free(e->id);
    text_free(&e->clean);
    text_free(&e->corrupted);
    free(e->answer.ids);
    free(e->wrong.ids);
    free(e->answer_text.ids);
    free(e->wrong_text.ids);
    *e = (ca_example){0};
}

static ca_status copy_text(const char *text, char **out) {
    ca_status st = CA_OK;
    CA_TRY(ca_calloc(strlen(text) + 1, 1, out));
    strcpy(*out, text);
out:
    return st;
}

static bool parse_whole(const char *text, int64_t *value) {
    char *end;
    errno = 0;
    *value = strtoll(text, &end, 10);
    return end != text && *end == '\0' && errno == 0;
}

/* ---- ids ---- */

static ca_status check_id(const reader *r, const char *column, int64_t id) {
    if (id >= 0 && id < r->vocab) return CA_OK;
    return ca_reader_fail(r, column, "expected token ids from 0 to %lld, got %lld",
                          (long long)r->vocab - 1, (long long)id);
}

/* Ids as a JSON list, an integer, or text: "[1, 2, 3]", "1 2 3", "7|8". */
static ca_status read_ids(const reader *r, const cell *c, const char *column, int64_t *count,
                          int32_t **ids) {
    ca_status st = CA_OK;
    int64_t room = c->kind == CELL_LIST   ? c->count
                   : c->kind == CELL_TEXT ? (int64_t)strlen(c->text)
                                          : 1,
            n = 0;
    CA_TRY(ca_calloc((size_t)room + 1, sizeof **ids, ids));
    if (c->kind == CELL_TEXT) {
        for (const char *p = c->text; *(p += strspn(p, " ,|[]\t\n"));) {
            char *end;
            errno = 0;
            long long id = strtoll(p, &end, 10);
            if (end == p || errno)
                return ca_reader_fail(r, column, "expected token ids, got '%s'", c->text);
            CA_TRY(check_id(r, column, id));
            (*ids)[n++] = (int32_t)id;
            p = end;
        }
    } else {
        for (int64_t i = 0; i < room; i++) {
            const cell *item = c->kind == CELL_LIST ? &c->items[i] : c;
            if (item->kind != CELL_INT)
                return ca_reader_fail(r, column, "expected token ids, got %s",
                                      item->text ? item->text : "null");
            CA_TRY(check_id(r, column, item->integer));
            (*ids)[n++] = (int32_t)item->integer;
        }
    }
    *count = n;
    if (n == 0) st = ca_reader_fail(r, column, "expected at least one token id");
out:
    return st;
}

/* ---- prompts ---- */

static ca_status encode(const reader *r, const char *column, const char *text,
                        ca_prompt_text *out) {
    ca_status st = CA_OK;
    ca_encoding e = {0};
    if (!r->tokenizer)
        return ca_reader_fail(
            r, column, "the model has no tokenizer: give token ids in a column %s_ids", column);
    st = ca_tokenizer_encode(r->tokenizer, text, strlen(text), false, &e);
    if (st != CA_OK)
        return ca_context(st, "%s: row %lld, column %s", r->path, (long long)r->row + 1, column);
    if (e.count == 0) CA_TRY(ca_reader_fail(r, column, "the prompt is empty"));
    int64_t bos = r->bos >= 0;
    out->count = e.count + bos;
    CA_TRY(ca_calloc((size_t)out->count, sizeof *out->ids, &out->ids));
    CA_TRY(ca_calloc((size_t)out->count, sizeof *out->start, &out->start));
    CA_TRY(ca_calloc((size_t)out->count, sizeof *out->end, &out->end));
    if (bos) out->ids[0] = r->bos;
    for (int64_t i = 0; i < e.count; i++) {
        out->ids[i + bos] = e.ids[i];
        out->start[i + bos] = e.start[i];
        out->end[i + bos] = e.end[i];
        CA_TRY(check_id(r, column, e.ids[i]));
    }
    CA_TRY(copy_text(text, &out->text));
out:
    ca_encoding_free(&e);
    return st;
}

static ca_status read_prompt(const reader *r, column_kind text_column, column_kind id_column,
                             bool required, ca_prompt_text *out) {
    ca_status st = CA_OK;
    const char *column;
    const cell *ids = ca_reader_cell(r, id_column, &column);
    if (ids->kind != CELL_ABSENT) {
        CA_TRY(read_ids(r, ids, column, &out->count, &out->ids));
        CA_TRY(ca_calloc((size_t)out->count, sizeof *out->start, &out->start));
        CA_TRY(ca_calloc((size_t)out->count, sizeof *out->end, &out->end));
    } else {
        const cell *text = ca_reader_cell(r, text_column, &column);
        if (text->kind == CELL_ABSENT)
            return required ? ca_reader_fail(r, column, "the prompt is missing or empty") : CA_OK;
        if (text->kind != CELL_TEXT)
            return ca_reader_fail(r, column, "expected a text, got %s", text->text);
        CA_TRY(encode(r, column, text->text, out));
    }
    if (out->count > r->positions)
        st = ca_reader_fail(r, column, "the prompt has %lld tokens, but the model takes %lld",
                            (long long)out->count, (long long)r->positions);
out:
    return st;
}

/* ---- answers ---- */

/* The first token of an answer. It must be clear: where the answer is more than one token, the row
 * is refused unless its first token is all of a word, which only the user can say (answer_ids). */
static ca_status first_token(const reader *r, const char *column, const char *text, int32_t *id) {
    ca_status st = CA_OK;
    ca_encoding e = {0};
    if (!r->tokenizer)
        return ca_reader_fail(r, column, "the model has no tokenizer: give ids in %s_ids", column);
    st = ca_tokenizer_encode(r->tokenizer, text, strlen(text), false, &e);
    if (st != CA_OK)
        return ca_context(st, "%s: row %lld, column %s", r->path, (long long)r->row + 1, column);
    if (e.count != 1) {
        ca_hint("an answer after a text usually begins with a space (\" Mary\"); several tokens "
                "are scored by answer_text");
        st = ca_reader_fail(r, column, "expected one token, got \"%s\", which is %lld tokens", text,
                            (long long)e.count);
    } else {
        *id = e.ids[0];
        st = check_id(r, column, *id);
    }
    ca_encoding_free(&e);
    return st;
}

static ca_status read_answer_texts(const reader *r, const cell *c, const char *column,
                                   ca_answers *out) {
    ca_status st = CA_OK;
    char *copy = NULL;
    int64_t room = c->kind == CELL_LIST   ? c->count
                   : c->kind == CELL_TEXT ? (int64_t)strlen(c->text) + 1
                                          : 0;
    if (room == 0)
        return ca_reader_fail(r, column, "expected a text or a list of texts, got %s", c->text);
    CA_TRY(ca_calloc((size_t)room, sizeof *out->ids, &out->ids));
    if (c->kind == CELL_LIST) {
        for (int64_t i = 0; i < c->count; i++) {
            if (c->items[i].kind != CELL_TEXT)
                return ca_reader_fail(r, column, "expected a list of texts");
            CA_TRY(first_token(r, column, c->items[i].text, &out->ids[out->count++]));
        }
        return CA_OK;
    }
    CA_TRY(copy_text(c->text, &copy));
    for (char *p = copy, *bar; p; p = bar ? bar + 1 : NULL) { /* "a|b" */
        if ((bar = strchr(p, '|'))) *bar = '\0';
        CA_TRY(first_token(r, column, p, &out->ids[out->count++]));
    }
out:
    free(copy);
    return st;
}

static ca_status read_answers(const reader *r, column_kind text_column, column_kind id_column,
                              ca_answers *out) {
    const char *column;
    const cell *ids = ca_reader_cell(r, id_column, &column);
    if (ids->kind != CELL_ABSENT) return read_ids(r, ids, column, &out->count, &out->ids);
    const cell *text = ca_reader_cell(r, text_column, &column);
    return text->kind == CELL_ABSENT ? CA_OK : read_answer_texts(r, text, column, out);
}

static ca_status read_continuation(const reader *r, column_kind text_column, column_kind id_column,
                                   ca_continuation *out) {
    ca_status st = CA_OK;
    const char *column;
    const cell *ids = ca_reader_cell(r, id_column, &column);
    ca_prompt_text text = {0};
    if (ids->kind != CELL_ABSENT) return read_ids(r, ids, column, &out->count, &out->ids);
    const cell *c = ca_reader_cell(r, text_column, &column);
    if (c->kind == CELL_ABSENT) return CA_OK;
    if (c->kind != CELL_TEXT) return ca_reader_fail(r, column, "expected a text, got %s", c->text);
    reader without_bos = *r;
    without_bos.bos = -1;
    CA_TRY(encode(&without_bos, column, c->text, &text));
    *out = (ca_continuation){text.count, text.ids};
    text.ids = NULL;
out:
    text_free(&text);
    return st;
}

/* ---- subject ---- */

/* Byte of the n-th character (code point), or -1 when the text is shorter. */
static int64_t byte_of_character(const char *text, int64_t n) {
    int64_t at = 0;
    for (; n > 0 && text[at]; n--) do
            at++;
        while (((unsigned char)text[at] & 0xC0) == 0x80);
    return n > 0 ? -1 : at;
}

/* "[5, 9]" or "5:9". */
static bool parse_span(const char *text, int64_t span[2]) {
    static const char *const forms[] = {" [ %lld , %lld ] %n", " %lld : %lld %n"};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        long long first, last;
        int end = 0;
        if (sscanf(text, forms[i], &first, &last, &end) < 2 || end == 0 || text[end]) continue;
        span[0] = first;
        span[1] = last;
        return true;
    }
    return false;
}

/* [start, end) of subject_span, in characters of a text, in tokens of a row of ids. */
static ca_status read_span(const reader *r, const cell *c, const char *column, bool of_text,
                           int64_t span[2]) {
    bool list = c->kind == CELL_LIST && c->count == 2 && c->items[0].kind == CELL_INT &&
                c->items[1].kind == CELL_INT;
    if (list) {
        span[0] = c->items[0].integer;
        span[1] = c->items[1].integer;
        return CA_OK;
    }
    if (c->kind == CELL_TEXT && parse_span(c->text, span)) return CA_OK;
    size_t length = strlen(r->path);
    bool csv = length > 4 && strcmp(r->path + length - 4, ".csv") == 0;
    return ca_reader_fail(r, column, "expected [start, end) in %s as %s, got %s",
                          of_text ? "characters" : "tokens", csv ? "5:9 or \"[5, 9]\"" : "[5, 9]",
                          c->text ? c->text : "null");
}

/* Bytes [*first, *last) of the prompt's text; equal without a subject. */
static ca_status find_subject(const reader *r, const ca_example *e, int64_t *first, int64_t *last,
                              const char **column) {
    ca_status st = CA_OK;
    const cell *given = ca_reader_cell(r, COLUMN_SUBJECT_SPAN, column);
    int64_t span[2];
    if (given->kind != CELL_ABSENT) {
        CA_TRY(read_span(r, given, *column, true, span));
        *first = span[0] < 0 ? -1 : byte_of_character(e->clean.text, span[0]);
        *last = span[1] < 0 ? -1 : byte_of_character(e->clean.text, span[1]);
        if (*first < 0 || *last <= *first)
            return ca_reader_fail(r, *column, "the span is empty or outside the prompt");
        return CA_OK;
    }
    const cell *c = ca_reader_cell(r, COLUMN_SUBJECT, column);
    if (c->kind == CELL_ABSENT) return CA_OK;
    if (c->kind != CELL_TEXT || !c->text[0]) return ca_reader_fail(r, *column, "expected a text");
    const char *found = strstr(e->clean.text, c->text);
    if (!found) return ca_reader_fail(r, *column, "\"%s\" is not in the prompt", c->text);
    if (strstr(found + 1, c->text))
        return ca_reader_fail(r, *column,
                              "\"%s\" is in the prompt more than once: give subject_span", c->text);
    *first = (int64_t)(found - e->clean.text);
    *last = *first + (int64_t)strlen(c->text);
out:
    return st;
}

/* Of a row of ids, in which a subject's text cannot be found: who needs it says so. */
static ca_status read_subject_tokens(const reader *r, ca_example *e) {
    ca_status st = CA_OK;
    const char *column;
    int64_t span[2];
    const cell *given = ca_reader_cell(r, COLUMN_SUBJECT_SPAN, &column);
    if (given->kind == CELL_ABSENT) return CA_OK;
    CA_TRY(read_span(r, given, column, false, span));
    if (span[0] < 0 || span[1] <= span[0] || span[1] > e->clean.count)
        return ca_reader_fail(r, column, "the span is empty or outside the prompt of %lld tokens",
                              (long long)e->clean.count);
    e->subject_first = span[0];
    e->subject_last = span[1];
out:
    return st;
}

static ca_status read_subject(const reader *r, ca_example *e) {
    ca_status st = CA_OK;
    const char *column;
    int64_t first = 0, last = 0; /* bytes */
    if (!e->clean.text) return read_subject_tokens(r, e);
    CA_TRY(find_subject(r, e, &first, &last, &column));
    for (int64_t t = 0; first < last && t < e->clean.count; t++) { /* tokens that touch the span */
        if (e->clean.end[t] <= first || e->clean.start[t] >= last) continue;
        if (e->subject_first == e->subject_last) e->subject_first = t;
        e->subject_last = t + 1;
    }
out:
    return st;
}

/* ---- row ---- */

static ca_status check_pair(const reader *r, ca_example *e, char **excluded) {
    ca_status st = CA_OK;
    const ca_prompt_text *a = &e->clean, *b = &e->corrupted;
    if (b->count == 0)
        return r->needs.pair ? ca_reader_fail(r, "corrupted", "the method needs a pair of prompts")
                             : CA_OK;
    if (a->count != b->count) {
        ca_string text = {0};
        CA_TRY(ca_string_printf(&text, "row %lld (id %s): clean has %lld tokens, corrupted %lld",
                                (long long)r->row + 1, e->id, (long long)a->count,
                                (long long)b->count));
        if (strcmp(ca_config_text(r->config, "data.mismatch"), "skip") == 0) {
            *excluded = text.text;
            return CA_OK;
        }
        ca_string_free(&text);
        if (!r->needs.pair) return CA_OK;
        ca_hint("data.mismatch=skip leaves such pairs out and lists them in the result");
        return ca_reader_fail(r, "corrupted", "expected %lld tokens as in clean, got %lld",
                              (long long)a->count, (long long)b->count);
    }
    e->first_difference = a->count;
    for (int64_t i = a->count - 1; i >= 0; i--)
        if (a->ids[i] != b->ids[i]) e->first_difference = i;
out:
    return st;
}

static ca_status read_id_and_label(const reader *r, ca_example *e) {
    ca_status st = CA_OK;
    const char *column;
    char number[32];
    const cell *id = ca_reader_cell(r, COLUMN_ID, &column);
    snprintf(number, sizeof number, "%lld", (long long)r->row);
    CA_TRY(copy_text(id->kind == CELL_ABSENT ? number : id->text, &e->id));
    const cell *label = ca_reader_cell(r, COLUMN_LABEL, &column);
    if (label->kind == CELL_ABSENT) return CA_OK;
    e->has_label = true;
    if (label->kind == CELL_INT)
        e->label = label->integer;
    else if (label->kind != CELL_TEXT || !parse_whole(label->text, &e->label))
        st = ca_reader_fail(r, column, "expected a whole number, got '%s'", label->text);
out:
    return st;
}

ca_status ca_reader_example(const reader *r, ca_example *e, char **excluded) {
    ca_status st = CA_OK;
    *excluded = NULL;
    e->row = r->row + 1;
    CA_TRY(read_id_and_label(r, e));
    CA_TRY(read_prompt(r, COLUMN_CLEAN, COLUMN_CLEAN_IDS, true, &e->clean));
    CA_TRY(read_prompt(r, COLUMN_CORRUPTED, COLUMN_CORRUPTED_IDS, r->needs.pair, &e->corrupted));
    CA_TRY(read_answers(r, COLUMN_ANSWER, COLUMN_ANSWER_IDS, &e->answer));
    CA_TRY(read_answers(r, COLUMN_WRONG, COLUMN_WRONG_IDS, &e->wrong));
    CA_TRY(read_continuation(r, COLUMN_ANSWER_TEXT, COLUMN_ANSWER_TEXT_IDS, &e->answer_text));
    CA_TRY(read_continuation(r, COLUMN_WRONG_TEXT, COLUMN_WRONG_TEXT_IDS, &e->wrong_text));
    CA_TRY(read_subject(r, e));
    if (r->needs.answer && e->answer.count == 0)
        CA_TRY(ca_reader_fail(r, "answer", "the method needs an answer"));
    if (r->needs.subject && e->subject_first == e->subject_last)
        CA_TRY(ca_reader_fail(r, "subject", "the method needs a subject"));
    CA_TRY(check_pair(r, e, excluded));
out:
    return st;
}
