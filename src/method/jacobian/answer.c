/* SPDX-License-Identifier: MIT
 *
 * The result on the terminal: per prompt what is explained, what the model predicts, and the tokens
 * that moved it most. Read from the result file, so that a resumed run shows all of it.
 */
#include "jacobian.h"
#include "statistics.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_EXAMPLES = 12, STRONGEST = 4 };

/* Tokens as one quoted word. */
static ca_status print_pieces(const ca_job *job, const int32_t *ids, int64_t count,
                              ca_string *text) {
    ca_status st = CA_OK;
    ca_string piece = {0};
    for (int64_t t = 0; t < count; t++) CA_TRY(ca_method_piece(job, ids[t], &piece));
    CA_TRY(ca_string_printf(text, "'"));
    for (size_t i = 0; i < piece.length; i++) {
        bool control = (unsigned char)piece.text[i] < ' ';
        CA_TRY(ca_string_append(text, control ? "~" : piece.text + i, 1));
    }
    if (piece.length == 0) CA_TRY(ca_string_printf(text, "#%d", ids[0])); /* no tokenizer */
    CA_TRY(ca_string_printf(text, "'"));
out:
    ca_string_free(&piece);
    return st;
}

static ca_status print_piece(const ca_job *job, int32_t id, ca_string *text) {
    return print_pieces(job, &id, 1, text);
}

static ca_status print_prompt(const ca_example *e, ca_string *text) {
    ca_status st = CA_OK;
    enum { MOST_BYTES = 84 };
    CA_TRY(ca_string_printf(text, "%s", e->id));
    for (size_t i = 0; e->clean.text && e->clean.text[i]; i++) {
        char c = e->clean.text[i];
        bool boundary = ((unsigned char)c & 0xC0) != 0x80; /* a character begins here */
        if (i >= MOST_BYTES && boundary) {
            CA_TRY(ca_string_printf(text, " ..."));
            break;
        }
        if (i == 0) CA_TRY(ca_string_printf(text, ": "));
        CA_TRY(ca_string_append(text, (unsigned char)c < ' ' ? " " : &c, 1));
    }
    CA_TRY(ca_string_printf(text, "\n"));
out:
    return st;
}

/* What is named: tokens, or the numbers of a series. */
typedef struct unit {
    int64_t first, last; /* tokens of the prompt */
    int64_t number;      /* in the series, from 1 */
} unit;

static bool has_digit(const ca_job *job, const int32_t *ids, int64_t count) {
    for (int64_t t = 0; t < count; t++) {
        const char *spelling = ca_tokenizer_token(job->tokenizer, ids[t]);
        if (spelling && !ca_tokenizer_is_special(job->tokenizer, ids[t]) &&
            strpbrk(spelling, "0123456789"))
            return true;
    }
    return false;
}

/* unit [tokens]: those of a prompt; how many. */
static int64_t list_units(const jacobian *j, const ca_job *job, int64_t example, unit *units) {
    const ca_example *e = &job->data->examples[example];
    const jacobian_words *w = &j->words;
    int64_t count = 0;
    if (!w->series || !w->series[example]) {
        for (; count < e->clean.count; count++) units[count] = (unit){count, count + 1, 0};
        return count;
    }
    const int64_t *token = w->offsets + w->first[example];
    for (int64_t k = 0; k < w->first[example + 1] - w->first[example]; k++) {
        unit u = {token[k] - token[0], token[k + 1] - token[0], count + 1};
        if (has_digit(job, e->clean.ids + u.first, u.last - u.first)) units[count++] = u;
    }
    return count;
}

/* The strongest of one prompt in falling order, ties by position. */
static ca_status print_scores(const jacobian *j, const ca_job *job, int64_t example,
                              const char *scope, const float *score, ca_string *text) {
    ca_status st = CA_OK;
    const int32_t *ids = job->data->examples[example].clean.ids;
    size_t tokens = (size_t)job->data->examples[example].clean.count;
    unit *units = NULL;
    ranked_value *order = NULL;
    CA_TRY(ca_calloc(tokens, sizeof *units, &units));
    CA_TRY(ca_calloc(tokens, sizeof *order, &order));
    int64_t count = list_units(j, job, example, units);
    for (int64_t k = 0; k < count; k++) {
        float value = ca_jacobian_aggregate(j->words.rule, score + units[k].first,
                                            units[k].last - units[k].first);
        order[k] = (ranked_value){(double)value, k};
    }
    ca_statistics_sort(order, count);
    CA_TRY(ca_string_printf(text, "    %-16s ", scope));
    for (int64_t n = 0; n < STRONGEST && n < count; n++) {
        unit u = units[order[n].index];
        CA_TRY(ca_string_printf(text, "%s", n ? "   " : ""));
        CA_TRY(print_pieces(job, ids + u.first, u.last - u.first, text));
        if (u.number) CA_TRY(ca_string_printf(text, " (no. %lld)", (long long)u.number));
        CA_TRY(ca_string_printf(text, " %.3g", order[n].value));
    }
out:
    free(units);
    free(order);
    return st;
}

/* What is read back from the result. */
typedef struct answer {
    int32_t *predicted; /* [reads, top] */
    float *probability; /* the same */
    float *score;       /* [columns, scores] */
    int64_t scores;
    double *residual; /* [columns, slots], of paths */
    int64_t slots;
} answer;

/* The last read of a prompt, of a span all: one row of its block of scores. */
static ca_status print_example(const jacobian *j, const ca_job *job, int64_t example,
                               const answer *a, ca_string *text) {
    ca_status st = CA_OK;
    const ca_example *e = &job->data->examples[example];
    int64_t read = j->reads.start[example + 1] - 1;
    int64_t first = j->reads.span ? j->reads.start[example] : read;
    int64_t row = j->score_start[example + 1] - e->clean.count;
    int64_t slot = ca_jacobian_slots_before(j, example + 1) - 1;
    CA_TRY(print_prompt(e, text));
    CA_TRY(ca_string_printf(text, "    target"));
    for (int64_t r = first; r <= read; r++) {
        int32_t target = j->reads.read[r].id;
        CA_TRY(ca_string_printf(text, " "));
        CA_TRY(print_piece(job, target < 0 ? a->predicted[r * j->top] : target, text));
    }
    if (j->reads.contrast) { /* the same at all reads */
        CA_TRY(ca_string_printf(text, " rather than "));
        CA_TRY(print_piece(job, j->reads.read[read].other, text));
    }
    CA_TRY(ca_string_printf(text, ", the model predicts"));
    for (int64_t r = first; r <= read; r++) {
        CA_TRY(ca_string_printf(text, " "));
        CA_TRY(print_piece(job, a->predicted[r * j->top], text));
        CA_TRY(ca_string_printf(text, " (p = %.3f)", (double)a->probability[r * j->top]));
    }
    CA_TRY(ca_string_printf(text, "; moved most by\n"));
    for (int64_t c = 0; c < j->columns; c++) {
        const jacobian_scope *scope = j->column[c].scope;
        CA_TRY(print_scores(j, job, example, scope->name, a->score + c * a->scores + row, text));
        if (scope->path)
            CA_TRY(ca_string_printf(text, "   residual %.3g", a->residual[c * a->slots + slot]));
        CA_TRY(ca_string_printf(text, "\n"));
    }
out:
    return st;
}

static ca_status read_answer(const jacobian *j, ca_job *job, answer *a) {
    ca_status st = CA_OK;
    int64_t count = job->data->count, reads = j->reads.start[count];
    char path[64];
    a->scores = j->score_start[count];
    a->slots = ca_jacobian_slots_before(j, count);
    CA_TRY(ca_calloc((size_t)(a->scores * j->columns) + 1, sizeof *a->score, &a->score));
    CA_TRY(ca_calloc((size_t)(reads * j->top) + 1, sizeof *a->probability, &a->probability));
    CA_TRY(ca_calloc((size_t)(reads * j->top) + 1, sizeof *a->predicted, &a->predicted));
    CA_TRY(ca_calloc((size_t)(a->slots * j->columns) + 1, sizeof *a->residual, &a->residual));
    CA_TRY(ca_result_read_back(job->result, "/predictions/token_ids", a->predicted));
    CA_TRY(ca_result_read_back(job->result, "/predictions/probability", a->probability));
    for (int64_t c = 0; c < j->columns; c++) {
        const jacobian_scope *scope = j->column[c].scope;
        snprintf(path, sizeof path, "/attribution/%s/%s", scope->name,
                 j->matrix ? "matrix" : "score");
        CA_TRY(ca_result_read_back(job->result, path, a->score + c * a->scores));
        if (!scope->path) continue;
        snprintf(path, sizeof path, "/attribution/%s/residual", scope->name);
        CA_TRY(ca_result_read_back(job->result, path, a->residual + c * a->slots));
    }
out:
    return st;
}

ca_status ca_jacobian_answer(ca_job *job, void *state, ca_string *text) {
    ca_status st = CA_OK;
    const jacobian *j = state;
    int64_t count = job->data->count, shown = count < MOST_EXAMPLES ? count : MOST_EXAMPLES;
    answer a = {0};
    CA_TRY(read_answer(j, job, &a));
    for (int64_t i = 0; i < shown; i++) CA_TRY(print_example(j, job, i, &a, text));
    if (shown < count)
        CA_TRY(ca_string_printf(text, "... and %lld more prompts\n", (long long)(count - shown)));
    CA_TRY(ca_jacobian_evaluation_answer(j, job, text));
out:
    free(a.score);
    free(a.probability);
    free(a.predicted);
    free(a.residual);
    return st;
}
