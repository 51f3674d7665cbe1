/* SPDX-License-Identifier: MIT
 *
 * Words: runs of tokens that readers take as one. White space belongs to the word behind it, but
 * line ends close a word; special tokens stand alone. In a series of numbers every number is one.
 */
#include "jacobian.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static bool is_blank(const char *text, size_t length) {
    for (size_t i = 0; i < length; i++)
        if (!is_space(text[i])) return false;
    return length > 0;
}

/* Token by token, what the next one must know of the one before. */
typedef struct word_reader {
    const ca_job *job;
    ca_string piece; /* of the token read last */
    bool closed;     /* what follows begins a word */
    bool blank;      /* nothing but white space so far: what follows does not */
} word_reader;

/* SentencePiece spells the space before a word so; decoding a token alone drops it. */
static bool has_word_mark(const char *spelling) {
    return spelling && strncmp(spelling, "\xE2\x96\x81", 3) == 0;
}

ca_status ca_jacobian_begins_with_space(const ca_job *job, int32_t id, bool *begins) {
    ca_status st = CA_OK;
    ca_string piece = {0};
    CA_TRY(ca_method_piece(job, id, &piece));
    *begins = has_word_mark(ca_tokenizer_token(job->tokenizer, id)) ||
              (piece.length > 0 && is_space(piece.text[0]));
out:
    ca_string_free(&piece);
    return st;
}

static ca_status begins_word(word_reader *r, int32_t id, bool *begins) {
    ca_status st = CA_OK;
    const ca_tokenizer *t = r->job->tokenizer;
    bool special = ca_tokenizer_is_special(t, id);
    r->piece.length = 0;
    CA_TRY(ca_method_piece(r->job, id, &r->piece));
    const char *text = r->piece.text;
    size_t length = r->piece.length;
    bool marked = has_word_mark(ca_tokenizer_token(t, id)) || (length > 0 && is_space(text[0]));
    char last = length > 0 ? text[length - 1] : 'x';
    *begins = r->closed || special || (marked && !r->blank);
    r->blank = is_blank(text, length) && last != '\n';
    r->closed = special || last == '\n' || (is_space(last) && !r->blank);
out:
    return st;
}

ca_status ca_jacobian_words_prepare(const ca_job *job, jacobian_words *out) {
    out->rule = ca_config_text(job->config, "method.words");
    out->asked = strcmp(out->rule, "auto") != 0;
    if (!out->asked) out->rule = "sum";
    if (!out->asked || job->tokenizer) return CA_OK;
    return ca_config_fail(job->config, "method.words",
                          "expected auto with a model without tokenizer, whose tokens form no "
                          "words, got %s",
                          out->rule);
}

/* Where the words of a prompt begin [tokens]. */
static ca_status mark_words(word_reader *reader, const ca_prompt_text *prompt, bool *begins,
                            bool *series) {
    ca_status st = CA_OK;
    CA_TRY(ca_jacobian_find_numbers(reader->job, prompt, begins, series));
    reader->closed = true;
    for (int64_t t = 0; !*series && t < prompt->count; t++)
        CA_TRY(begins_word(reader, prompt->ids[t], &begins[t]));
out:
    return st;
}

ca_status ca_jacobian_find_words(const ca_job *job, jacobian_words *out) {
    ca_status st = CA_OK;
    int64_t count = job->data->count, total = 0, words = 0, at = 0;
    word_reader reader = {.job = job};
    bool *begins = NULL;
    if (!job->tokenizer) return CA_OK;
    for (int64_t i = 0; i < count; i++) total += job->data->examples[i].clean.count;
    CA_TRY(ca_calloc((size_t)total + 1, sizeof *out->offsets, &out->offsets));
    CA_TRY(ca_calloc((size_t)count + 1, sizeof *out->first, &out->first));
    CA_TRY(ca_calloc((size_t)count + 1, sizeof *out->series, &out->series));
    CA_TRY(ca_calloc((size_t)total + 1, sizeof *begins, &begins));
    for (int64_t i = 0; i < count; i++) {
        const ca_prompt_text *prompt = &job->data->examples[i].clean;
        out->first[i] = words;
        CA_TRY(mark_words(&reader, prompt, begins, &out->series[i]));
        for (int64_t t = 0; t < prompt->count; t++, at++)
            if (begins[t]) out->offsets[words++] = at;
    }
    out->first[count] = words;
    out->offsets[words] = total;
out:
    free(begins);
    ca_string_free(&reader.piece);
    return st;
}

void ca_jacobian_words_free(jacobian_words *words) {
    free(words->offsets);
    free(words->first);
    free(words->series);
    free(words->row);
    free(words->row_word);
    free(words->row_start);
    free(words->cell_start);
    *words = (jacobian_words){0};
}

static const char *path_of(const jacobian_column *c, const char *name, char path[96]) {
    snprintf(path, 96, "/attribution/%s/%s", c->scope->name, name);
    return path;
}

static ca_status reserve_words(jacobian *j, const jacobian_column *c, const char *name) {
    ca_status st = CA_OK;
    char path[96];
    int64_t words = j->words.first[j->job->data->count];
    CA_TRY(ca_result_reserve(j->job->result, path_of(c, name, path), CA_RESULT_F32,
                             (ca_result_shape){1, {words}, {"word"}}));
    CA_TRY(ca_result_attribute_text(j->job->result, path, "aggregate", j->words.rule));
out:
    return st;
}

ca_status ca_jacobian_words_reserve(jacobian *j) {
    ca_status st = CA_OK;
    if (!j->words.offsets || (j->matrix && !j->words.asked)) return CA_OK;
    int64_t words = j->words.first[j->job->data->count];
    CA_TRY(ca_result_put(j->job->result, "/data/word_offsets", CA_RESULT_I64,
                         (ca_result_shape){1, {words + 1}, {"word"}}, j->words.offsets));
    if (j->matrix) return ca_jacobian_word_matrix_reserve(j);
    for (int64_t c = 0; c < j->columns; c++) {
        CA_TRY(reserve_words(j, &j->column[c], "word_score"));
        if (j->column[c].scope->has_signed) CA_TRY(reserve_words(j, &j->column[c], "word_signed"));
    }
out:
    return st;
}

float ca_jacobian_aggregate(const char *rule, const float *score, int64_t count) {
    double sum = 0, most = 0;
    for (int64_t t = 0; t < count; t++) {
        sum += (double)score[t];
        if (fabs((double)score[t]) > fabs(most)) most = (double)score[t];
    }
    if (strcmp(rule, "max") == 0) return (float)most;
    return (float)(strcmp(rule, "mean") == 0 ? sum / (double)count : sum);
}

/* score: of the tokens of the micro-batch; values: room for its words. */
static ca_status write_words(jacobian *j, const jacobian_column *c, const char *name,
                             const float *score, float *values) {
    const int64_t *offsets = j->words.offsets + j->words.first[j->first];
    int64_t count = j->words.first[j->last] - j->words.first[j->first];
    char path[96];
    for (int64_t w = 0; w < count; w++)
        values[w] = ca_jacobian_aggregate(j->words.rule, score + offsets[w] - offsets[0],
                                          offsets[w + 1] - offsets[w]);
    return ca_result_write(j->job->result, path_of(c, name, path), j->words.first[j->first], count,
                           values);
}

ca_status ca_jacobian_write_words(jacobian *j) {
    ca_status st = CA_OK;
    float *values = NULL;
    if (!j->words.offsets || (j->matrix && !j->words.asked)) return CA_OK;
    if (j->matrix) return ca_jacobian_write_word_matrix(j);
    int64_t count = j->words.first[j->last] - j->words.first[j->first];
    CA_TRY(ca_calloc((size_t)count, sizeof *values, &values));
    for (int64_t c = 0; c < j->columns; c++) {
        const jacobian_column *column = &j->column[c];
        CA_TRY(write_words(j, column, "word_score", column->score, values));
        if (column->scope->has_signed)
            CA_TRY(write_words(j, column, "word_signed", column->signed_score, values));
    }
out:
    free(values);
    return st;
}
