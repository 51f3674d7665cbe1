/* SPDX-License-Identifier: MIT
 *
 * Matrices of explained and source tokens, merged to words on both sides. A row is of the word that
 * holds the token behind the position read, which the prediction there is about; a position at the
 * end of the prompt has a row of its own.
 */
#include "jacobian.h"

#include <stdlib.h>

/* The word of the token behind a read, of those of all prompts; -1 behind the prompt. */
static int64_t word_of_read(const jacobian *j, const ca_job *job, int64_t example, int64_t read) {
    const jacobian_words *w = &j->words;
    int64_t next = j->reads.read[read].position + 1, word = w->first[example + 1] - 1;
    if (next >= job->data->examples[example].clean.count) return -1;
    while (w->offsets[word] - w->offsets[w->first[example]] > next) word--;
    return word;
}

/* Rows of the prompts, end to end: row [reads] of each read, start [N + 1]. */
ca_status ca_jacobian_find_word_rows(jacobian *j, const ca_job *job) {
    ca_status st = CA_OK;
    jacobian_words *w = &j->words;
    int64_t count = job->data->count, reads = j->reads.start[count], rows = 0;
    CA_TRY(ca_calloc((size_t)reads + 1, sizeof *w->row, &w->row));
    CA_TRY(ca_calloc((size_t)reads + 1, sizeof *w->row_word, &w->row_word));
    CA_TRY(ca_calloc((size_t)count + 1, sizeof *w->row_start, &w->row_start));
    CA_TRY(ca_calloc((size_t)count + 1, sizeof *w->cell_start, &w->cell_start));
    for (int64_t i = 0; i < count; i++) {
        for (int64_t r = j->reads.start[i]; r < j->reads.start[i + 1]; r++) {
            int64_t word = word_of_read(j, job, i, r);
            if (r == j->reads.start[i] || word != w->row_word[rows - 1]) w->row_word[rows++] = word;
            w->row[r] = rows - 1;
        }
        w->row_start[i + 1] = rows;
        w->cell_start[i + 1] =
            w->cell_start[i] + (rows - w->row_start[i]) * (w->first[i + 1] - w->first[i]);
    }
out:
    return st;
}

static ca_status reserve_matrix(jacobian *j, const char *scope, const char *name) {
    ca_status st = CA_OK;
    int64_t cells = j->words.cell_start[j->job->data->count];
    char path[96];
    snprintf(path, sizeof path, "/attribution/%s/%s", scope, name);
    CA_TRY(ca_result_reserve(j->job->result, path, CA_RESULT_F32,
                             (ca_result_shape){1, {cells}, {"word explained, word"}}));
    CA_TRY(ca_result_attribute_text(j->job->result, path, "aggregate", j->words.rule));
out:
    return st;
}

ca_status ca_jacobian_word_matrix_reserve(jacobian *j) {
    ca_status st = CA_OK;
    ca_result *r = j->job->result;
    const jacobian_words *w = &j->words;
    int64_t count = j->job->data->count, rows = w->row_start[count];
    ca_result_shape examples = {1, {count + 1}, {"example"}};
    char path[96];
    CA_TRY(ca_result_put(r, "/attribution/word_rows", CA_RESULT_I64,
                         (ca_result_shape){1, {rows}, {"word explained"}}, w->row_word));
    CA_TRY(
        ca_result_put(r, "/attribution/word_row_offsets", CA_RESULT_I64, examples, w->row_start));
    for (int64_t c = 0; c < j->columns; c++) {
        const char *name = j->column[c].scope->name;
        CA_TRY(reserve_matrix(j, name, "word_matrix"));
        if (j->column[c].scope->has_signed) CA_TRY(reserve_matrix(j, name, "word_signed_matrix"));
        snprintf(path, sizeof path, "/attribution/%s/word_matrix_offsets", name);
        CA_TRY(ca_result_put(r, path, CA_RESULT_I64, examples, w->cell_start));
    }
out:
    return st;
}

/* The block [rows, words] of a prompt from its block [reads, tokens]. */
static void merge(const jacobian *j, int64_t example, const float *score, float *gathered,
                  float *cells) {
    const jacobian_words *w = &j->words;
    const int64_t *token = w->offsets + w->first[example];
    int64_t tokens = j->job->data->examples[example].clean.count;
    int64_t words = w->first[example + 1] - w->first[example];
    int64_t first = j->reads.start[example], last = j->reads.start[example + 1];
    for (int64_t from = first, to; from < last; from = to) {
        for (to = from; to < last && w->row[to] == w->row[from];) to++;
        float *row = cells + (w->row[from] - w->row_start[example]) * words;
        for (int64_t k = 0; k < words; k++) {
            int64_t n = 0;
            for (int64_t r = from; r < to; r++)
                for (int64_t t = token[k]; t < token[k + 1]; t++)
                    gathered[n++] = score[(r - first) * tokens + t - token[0]];
            row[k] = ca_jacobian_aggregate(w->rule, gathered, n);
        }
    }
}

/* score: the blocks of the micro-batch; gathered, cells: room for them and for the merged ones. */
static ca_status write_matrix(jacobian *j, const char *scope, const char *name, const float *score,
                              float *gathered, float *cells) {
    const jacobian_words *w = &j->words;
    int64_t first = w->cell_start[j->first], count = w->cell_start[j->last] - first;
    char path[96];
    for (int64_t i = j->first; i < j->last; i++)
        merge(j, i, score + j->score_start[i] - j->score_start[j->first], gathered,
              cells + w->cell_start[i] - first);
    snprintf(path, sizeof path, "/attribution/%s/%s", scope, name);
    return ca_result_write(j->job->result, path, first, count, cells);
}

ca_status ca_jacobian_write_word_matrix(jacobian *j) {
    ca_status st = CA_OK;
    int64_t cells = j->words.cell_start[j->last] - j->words.cell_start[j->first];
    float *gathered = NULL, *values = NULL;
    CA_TRY(ca_calloc((size_t)j->most_scores, sizeof *gathered, &gathered));
    CA_TRY(ca_calloc((size_t)cells + 1, sizeof *values, &values));
    for (int64_t c = 0; c < j->columns; c++) {
        const jacobian_column *k = &j->column[c];
        CA_TRY(write_matrix(j, k->scope->name, "word_matrix", k->score, gathered, values));
        if (k->scope->has_signed)
            CA_TRY(write_matrix(j, k->scope->name, "word_signed_matrix", k->signed_score, gathered,
                                values));
    }
out:
    free(gathered);
    free(values);
    return st;
}
