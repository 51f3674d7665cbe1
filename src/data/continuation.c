/* SPDX-License-Identifier: MIT
 *
 * Prompts with whole continuations behind them.
 */
#include "causa/data.h"

#include <stdlib.h>
#include <string.h>

/* joined = the tokens of a prompt and then `count` ids, which cover no bytes of its text. The text
 * stays the prompt's. what: names the column of the ids. */
static ca_status join(const char *place, const char *what, const ca_prompt_text *prompt,
                      const int32_t *ids, int64_t count, int64_t positions,
                      ca_prompt_text *joined) {
    ca_status st = CA_OK;
    size_t own = (size_t)prompt->count, more = (size_t)count, all = own + more;
    *joined = (ca_prompt_text){.text = prompt->text, .count = prompt->count + count};
    if (joined->count > positions)
        return ca_fail(CA_E_DATA,
                       "%s: column %s: prompt and continuation have %lld tokens, but the model "
                       "takes %lld",
                       place, what, (long long)joined->count, (long long)positions);
    CA_TRY(ca_calloc(all, sizeof *joined->ids, &joined->ids));
    CA_TRY(ca_calloc(all, sizeof *joined->start, &joined->start));
    CA_TRY(ca_calloc(all, sizeof *joined->end, &joined->end));
    memcpy(joined->ids, prompt->ids, own * sizeof *joined->ids);
    memcpy(joined->start, prompt->start, own * sizeof *joined->start);
    memcpy(joined->end, prompt->end, own * sizeof *joined->end);
    memcpy(joined->ids + own, ids, more * sizeof *joined->ids);
out:
    return st; /* freed by the owner */
}

static void free_tokens(ca_prompt_text *prompt) {
    free(prompt->ids);
    free(prompt->start);
    free(prompt->end);
}

static ca_status check(const char *place, const char *what, const ca_continuation *text) {
    if (text->count) return CA_OK;
    return ca_fail(CA_E_DATA, "%s: column %s: expected a continuation, got none", place, what);
}

/* ---- behind the answer ---- */

ca_status ca_example_join_answer(const ca_dataset *dataset, ca_example *e, int64_t positions) {
    ca_status st = CA_OK;
    const char *place = ca_example_place(dataset, e), *what = "answer_text";
    ca_prompt_text joined = {0};
    if (e->joined) return CA_OK;
    CA_TRY(check(place, what, &e->answer_text));
    CA_TRY(
        join(place, what, &e->clean, e->answer_text.ids, e->answer_text.count, positions, &joined));
    ca_prompt_text swap = e->clean;
    e->clean = joined;
    e->joined = true;
    joined = swap;
out:
    free_tokens(&joined);
    return st;
}

/* ---- sequences ---- */

/* *sequence, whose tokens are still nobody's. */
static ca_status continue_example(const ca_dataset *dataset, const ca_example *e, bool wrong,
                                  int64_t positions, ca_example *sequence) {
    ca_status st = CA_OK;
    const ca_continuation *text = wrong ? &e->wrong_text : &e->answer_text;
    const char *place = ca_example_place(dataset, e), *what = wrong ? "wrong_text" : "answer_text";
    *sequence = *e;
    sequence->clean = sequence->corrupted = (ca_prompt_text){0};
    CA_TRY(check(place, what, text));
    sequence->suffix = text->count - 1;
    sequence->suffix_wrong = wrong;
    CA_TRY(join(place, what, &e->clean, text->ids, text->count - 1, positions, &sequence->clean));
    if (e->corrupted.count)
        CA_TRY(join(place, what, &e->corrupted, text->ids, text->count - 1, positions,
                    &sequence->corrupted));
out:
    return st;
}

ca_status ca_dataset_continue(const ca_dataset *dataset, bool wrong, int64_t positions,
                              ca_dataset **out) {
    ca_status st = CA_OK;
    ca_dataset *d = NULL;
    ca_row_problems problems = {0};
    int64_t parts = wrong ? 2 : 1;
    CA_TRY(ca_calloc(1, sizeof *d, &d));
    *d = *dataset;
    d->count = parts * dataset->count;
    d->examples = NULL;
    CA_TRY(ca_calloc((size_t)d->count + 1, sizeof *d->examples, &d->examples));
    for (int64_t i = 0; i < d->count; i++)
        CA_TRY(ca_row_problems_take(&problems,
                                    continue_example(dataset, &dataset->examples[i / parts],
                                                     i % parts == 1, positions, &d->examples[i])));
    CA_TRY(ca_row_problems_report(&problems));
    *out = d;
    d = NULL;
out:
    ca_dataset_free_continued(d);
    ca_row_problems_free(&problems);
    return st;
}

void ca_dataset_free_continued(ca_dataset *d) {
    if (!d) return;
    for (int64_t i = 0; d->examples && i < d->count; i++) {
        free_tokens(&d->examples[i].clean);
        free_tokens(&d->examples[i].corrupted);
    }
    free(d->examples);
    free(d);
}
