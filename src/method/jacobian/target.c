/* SPDX-License-Identifier: MIT
 *
 * Reads: which logit is explained at which positions of each prompt.
 *
 *   gold      at a position before the last one the prompt's own next token; at the last one the
 *             row's answer. Position `last` without an answer: the last but one is read and the
 *             last token is the target
 *   argmax    the most probable token, known after the forward
 *   "text"    one token, "#17" by id
 *   answer_text  at the positions before its tokens, which are put behind the prompt: a span
 *   "A:B"     contrast logit(A) - logit(B); both sides one token
 *   answer:wrong  where rows have a column wrong: the contrast of the row's answer and wrong answer
 */
#include "jacobian.h"

#include "causa/position.h"

#include <stdlib.h>
#include <string.h>

/* The side of a contrast or a single token, at a place of the config. */
static ca_status token_of(const ca_job *job, const char *text, int32_t *id) {
    ca_status st = ca_token_of_text(job->tokenizer, text, job->arch->vocab, id);
    if (st == CA_OK) return CA_OK;
    return ca_context(CA_E_CONFIG, "%s", ca_config_where(job->config, "method.target"));
}

/* "A:B" with both sides not empty; ":" and "A:" are tokens. */
static ca_status fixed_target(const ca_job *job, const char *text, int32_t *id, int32_t *other) {
    ca_status st = CA_OK;
    const char *colon = strchr(text + (text[0] == ':'), ':');
    *other = -1;
    if (!colon || !colon[1]) return token_of(job, text, id);
    ca_string side = {0};
    CA_TRY(ca_string_append(&side, text, (size_t)(colon - text)));
    CA_TRY(token_of(job, side.text, id));
    CA_TRY(token_of(job, colon + 1, other));
    if (*id == *other)
        st = ca_config_fail(job->config, "method.target",
                            "expected two different tokens, got token %d twice", *id);
out:
    ca_string_free(&side);
    return st;
}

/* The gold token after a position. */
static ca_status gold_target(const ca_job *job, const ca_example *e, jacobian_read *read) {
    if (read->position + 1 < e->clean.count) {
        read->id = e->clean.ids[read->position + 1];
        return CA_OK;
    }
    const char *place = ca_example_place(job->data, e);
    if (e->answer.count == 0)
        return ca_fail(CA_E_DATA,
                       "%s: target gold needs a token after position %lld or an answer, but the "
                       "prompt has %lld tokens",
                       place, (long long)read->position, (long long)e->clean.count);
    if (e->answer.count > 1)
        return ca_fail(CA_E_DATA,
                       "%s: column answer: target gold needs one token, got %lld alternatives",
                       place, (long long)e->answer.count);
    read->id = e->answer.ids[0];
    return CA_OK;
}

/* Whether `answer:wrong` names the columns; without them it is two tokens spelt so. */
static bool names_columns(const ca_job *job, const char *text) {
    if (strcmp(text, "answer:wrong") != 0) return false;
    for (int64_t i = 0; i < job->data->count; i++)
        if (job->data->examples[i].wrong.count > 0) return true;
    return false;
}

/* The row's own contrast. */
static ca_status contrast_of_row(const ca_job *job, const ca_example *e, jacobian_read *read) {
    const char *place = ca_example_place(job->data, e);
    const struct {
        const char *column;
        const ca_answers *answers;
    } sides[] = {{"answer", &e->answer}, {"wrong", &e->wrong}};
    for (int k = 0; k < 2; k++)
        if (sides[k].answers->count != 1)
            return ca_fail(CA_E_DATA,
                           "%s: column %s: target answer:wrong needs one token, got %lld", place,
                           sides[k].column, (long long)sides[k].answers->count);
    read->id = e->answer.ids[0];
    read->other = e->wrong.ids[0];
    if (read->id != read->other) return CA_OK;
    return ca_fail(CA_E_DATA, "%s: column wrong: expected another token than answer, got %d twice",
                   place, read->id);
}

/* Positions of a prompt that are read, written to tokens [clean.count]. */
static ca_status positions_of(const ca_job *job, const ca_positions *p, bool gold,
                              const ca_example *e, int64_t *tokens, int64_t *count) {
    ca_status st = CA_OK;
    CA_TRY(ca_positions_resolve(p, job->data, e, tokens, count));
    bool without_answer = gold && e->answer.count == 0 && e->clean.count > 1;
    if (p->kind == CA_POSITION_LAST && without_answer) tokens[0]--;
    if (p->kind == CA_POSITION_ALL && without_answer) --*count;
out:
    return st;
}

/* Room for the reads of all prompts: at most one a token. */
static ca_status allocate(const ca_job *job, jacobian_reads *out, int64_t **tokens) {
    ca_status st = CA_OK;
    int64_t total = 0, longest = 0, count = job->data->count;
    for (int64_t i = 0; i < count; i++) {
        int64_t length = job->data->examples[i].clean.count;
        total += length;
        if (length > longest) longest = length;
    }
    CA_TRY(ca_calloc((size_t)longest + 1, sizeof **tokens, tokens));
    CA_TRY(ca_calloc((size_t)total + 1, sizeof *out->read, &out->read));
    CA_TRY(ca_calloc((size_t)count + 1, sizeof *out->start, &out->start));
out:
    return st;
}

/* Closes the reads of prompt i. */
static void count_reads(jacobian_reads *out, int64_t i, int64_t n) {
    out->start[i + 1] = out->start[i] + n;
    if (n > out->most) out->most = n;
}

/* The continuations as spans, joined to their prompts. */
static ca_status read_answers(const ca_job *job, jacobian_reads *out) {
    ca_status st = CA_OK;
    int64_t *tokens = NULL;
    ca_row_problems problems = {0};
    const ca_node *position = ca_config_node(job->config, "method.position");
    if (position->kind != CA_NODE_SCALAR || strcmp(position->text, "last") != 0)
        return ca_config_fail(job->config, "method.position",
                              "expected last with target answer_text, whose positions are read");
    for (int64_t i = 0; i < job->data->count; i++)
        CA_TRY(ca_row_problems_take(
            &problems,
            ca_example_join_answer(job->data, &job->data->examples[i], job->arch->max_positions)));
    CA_TRY(ca_row_problems_report(&problems));
    CA_TRY(allocate(job, out, &tokens));
    for (int64_t i = 0; i < job->data->count; i++) {
        const ca_example *e = &job->data->examples[i];
        int64_t n = e->answer_text.count, first = e->clean.count - n - 1;
        for (int64_t k = 0; k < n; k++)
            out->read[out->start[i] + k] =
                (jacobian_read){.position = first + k, .id = e->answer_text.ids[k], .other = -1};
        count_reads(out, i, n);
    }
    out->span = true;
out:
    ca_row_problems_free(&problems);
    free(tokens);
    return st;
}

/* What every read explains. */
typedef struct wanted_target {
    bool gold, columns;
    int32_t id, other; /* -1 where it is not of the config */
} wanted_target;

/* The reads of prompt i, behind those of the prompts before it. tokens [prompt]: scratch. */
static ca_status read_prompt(const ca_job *job, const ca_positions *positions, wanted_target wanted,
                             int64_t i, int64_t *tokens, jacobian_reads *out) {
    ca_status st = CA_OK;
    const ca_example *e = &job->data->examples[i];
    int64_t n = 0;
    CA_TRY(positions_of(job, positions, wanted.gold, e, tokens, &n));
    for (int64_t s = 0; s < n; s++) {
        jacobian_read *read = &out->read[out->start[i] + s];
        *read = (jacobian_read){.position = tokens[s], .id = wanted.id, .other = wanted.other};
        if (wanted.gold) CA_TRY(gold_target(job, e, read));
        if (wanted.columns) CA_TRY(contrast_of_row(job, e, read));
    }
    count_reads(out, i, n);
out:
    return st;
}

ca_status ca_jacobian_reads(const ca_job *job, jacobian_reads *out) {
    ca_status st = CA_OK;
    const char *text = ca_config_text(job->config, "method.target");
    wanted_target wanted = {.gold = strcmp(text, "gold") == 0, .id = -1, .other = -1};
    int64_t *tokens = NULL;
    ca_positions positions = {0};
    ca_row_problems problems = {0};
    if (strcmp(text, "answer_text") == 0) return read_answers(job, out);
    CA_TRY(ca_positions_read(job->config, "method.position", &positions));
    wanted.columns = names_columns(job, text);
    if (!wanted.gold && !wanted.columns && strcmp(text, "argmax") != 0)
        CA_TRY(fixed_target(job, text, &wanted.id, &wanted.other));
    CA_TRY(allocate(job, out, &tokens));
    out->span = ca_config_bool(job->config, "method.span");
    out->contrast = wanted.columns || wanted.other >= 0;
    for (int64_t i = 0; i < job->data->count; i++)
        CA_TRY(
            ca_row_problems_take(&problems, read_prompt(job, &positions, wanted, i, tokens, out)));
    CA_TRY(ca_row_problems_report(&problems));
out:
    ca_row_problems_free(&problems);
    free(tokens);
    ca_positions_free(&positions);
    return st;
}

void ca_jacobian_reads_free(jacobian_reads *reads) {
    free(reads->read);
    free(reads->start);
    *reads = (jacobian_reads){0};
}
