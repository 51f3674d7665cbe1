/* SPDX-License-Identifier: MIT
 *
 * AOPC of prompts whose target begins a word apart from that of prompts whose target continues one:
 * the rest of a word is nearly certain, and its first tokens are what it rests on.
 */
#include "evaluate.h"

#include <math.h>
#include <stdlib.h>

/* What is averaged over the prompts of each kind. */
typedef struct word_kinds {
    int64_t count;       /* prompts */
    int8_t *whole;       /* [N] the target begins a word */
    double *value, *own; /* [N] */
    int32_t *target, *predicted;
} word_kinds;

static const char *const names[] = {"word_parts", "whole_words"};

static ca_status open_kinds(ca_job *job, word_kinds *k) {
    ca_status st = CA_OK;
    size_t count = (size_t)job->data->count;
    k->count = job->data->count;
    CA_TRY(ca_calloc(count, sizeof *k->whole, &k->whole));
    CA_TRY(ca_calloc(count, sizeof *k->value, &k->value));
    CA_TRY(ca_calloc(count, sizeof *k->own, &k->own));
    CA_TRY(ca_calloc(count, sizeof *k->target, &k->target));
    CA_TRY(ca_calloc(count, sizeof *k->predicted, &k->predicted));
    CA_TRY(ca_result_read_back(job->result, "/data/target", k->target));
    CA_TRY(ca_result_read_back(job->result, "/baseline/predicted", k->predicted));
    for (int64_t i = 0; i < k->count; i++) {
        bool begins;
        CA_TRY(ca_jacobian_begins_with_space(job, k->target[i], &begins));
        k->whole[i] = begins;
    }
out:
    return st;
}

static void free_kinds(word_kinds *k) {
    free(k->whole);
    free(k->value);
    free(k->own);
    free(k->target);
    free(k->predicted);
}

/* The values of the prompts of a kind, in k->own. */
static int64_t choose(word_kinds *k, int whole) {
    int64_t n = 0;
    for (int64_t i = 0; i < k->count; i++)
        if (k->whole[i] == whole) k->own[n++] = k->value[i];
    return n;
}

static ca_status read_areas(const jacobian *j, ca_job *job, int64_t column, word_kinds *k,
                            const char **scope) {
    char path[96];
    *scope = column < j->columns ? j->column[column].scope->name : "random";
    snprintf(path, sizeof path, "/evaluation/aopc/%s/aopc_per_example", *scope);
    return ca_result_read_back(job->result, path, k->value);
}

static ca_status write_kinds(jacobian *j, word_kinds *k, const char *scope) {
    ca_status st = CA_OK;
    char path[96], name[32];
    snprintf(path, sizeof path, "/evaluation/aopc/%s", scope);
    for (int whole = 0; whole < 2; whole++) {
        int64_t n = choose(k, whole);
        snprintf(name, sizeof name, "aopc_%s", names[whole]);
        CA_TRY(
            ca_result_attribute_float(j->job->result, path, name, ca_statistics_mean(k->own, n)));
        snprintf(name, sizeof name, "sem_%s", names[whole]);
        CA_TRY(ca_result_attribute_float(j->job->result, path, name, ca_statistics_sem(k->own, n)));
    }
out:
    return st;
}

/* How many prompts there are of each kind, and how often the model predicts their target. */
static ca_status write_counts(jacobian *j, word_kinds *k) {
    ca_status st = CA_OK;
    ca_result *r = j->job->result;
    const char *group = "/evaluation/aopc";
    char name[32];
    for (int64_t i = 0; i < k->count; i++) k->value[i] = k->target[i] == k->predicted[i];
    for (int whole = 0; whole < 2; whole++) {
        int64_t n = choose(k, whole);
        CA_TRY(ca_result_attribute_int(r, group, names[whole], n));
        snprintf(name, sizeof name, "accuracy_%s", names[whole]);
        CA_TRY(ca_result_attribute_float(r, group, name, ca_statistics_mean(k->own, n)));
    }
    CA_TRY(ca_result_put(r, "/evaluation/aopc/whole_word", CA_RESULT_BOOL,
                         (ca_result_shape){1, {k->count}, {"example"}}, k->whole));
out:
    return st;
}

ca_status ca_jacobian_whole_words_summary(jacobian *j) {
    ca_status st = CA_OK;
    word_kinds k = {0};
    const char *scope;
    if (!j->job->tokenizer) return CA_OK;
    CA_TRY(open_kinds(j->job, &k));
    CA_TRY(write_counts(j, &k));
    for (int64_t c = 0; c <= j->columns; c++) {
        CA_TRY(read_areas(j, j->job, c, &k, &scope));
        CA_TRY(write_kinds(j, &k, scope));
    }
out:
    free_kinds(&k);
    return st;
}

ca_status ca_jacobian_whole_words_answer(const jacobian *j, ca_job *job, ca_string *text) {
    ca_status st = CA_OK;
    word_kinds k = {0};
    const char *scope;
    CA_TRY(open_kinds(job, &k));
    int64_t whole = choose(&k, 1), parts = k.count - whole;
    CA_TRY(ca_string_printf(text, "AOPC over %lld prompts", (long long)k.count));
    if (whole && parts)
        CA_TRY(ca_string_printf(text,
                                " (over %lld whose target begins a word, over %lld whose target "
                                "continues one)\n",
                                (long long)whole, (long long)parts));
    else
        CA_TRY(ca_string_printf(text, ", whose targets all %s\n",
                                whole ? "begin a word" : "continue one"));
    for (int64_t c = 0; c <= j->columns; c++) {
        CA_TRY(read_areas(j, job, c, &k, &scope));
        CA_TRY(
            ca_string_printf(text, "    %-22s %7.3f", scope, ca_statistics_mean(k.value, k.count)));
        if (whole && parts) {
            CA_TRY(ca_string_printf(text, " (%.3f,", ca_statistics_mean(k.own, choose(&k, 1))));
            CA_TRY(ca_string_printf(text, " %.3f)", ca_statistics_mean(k.own, choose(&k, 0))));
        }
        CA_TRY(ca_string_printf(text, "\n"));
    }
out:
    free_kinds(&k);
    return st;
}
