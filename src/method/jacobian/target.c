/* SPDX-License-Identifier: MIT
 *
 * Targets: which logit is explained at which position of each prompt.
 *
 *   gold      the row's answer, read at the last token; without an answer the prompt's own next
 *             token: position `last` is then the last but one and the last token the target
 *   argmax    the most probable token, known after the forward
 *   "text"    one token, "#17" by id
 *   "A:B"     contrast logit(A) - logit(B); both sides one token
 */
#include "jacobian.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Position named in the config: last (negative one) or an index that may count from the end. */
static ca_status read_position(const ca_job *job, bool *last, int64_t *index) {
    const char *text = ca_config_text(job->config, "method.position");
    *last = strcmp(text, "last") == 0;
    *index = *last ? -1 : ca_config_int(job->config, "method.position");
    return CA_OK;
}

/* The side of a contrast or a single token, at a place of the config. */
static ca_status token_of(const ca_job *job, const char *text, int32_t *id) {
    ca_status st = ca_token_of_text(job->tokenizer, text, job->arch->vocab, id);
    return st == CA_OK
               ? CA_OK
               : ca_context(CA_E_CONFIG, "%s", ca_config_where(job->config, "method.target"));
}

/* "A:B" with both sides not empty; a text with spaces around the colon or a lone ":" is no
 * contrast. */
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

static ca_status place_target(const ca_job *job, const ca_example *e, bool gold, bool last,
                              int64_t index, jacobian_target *t) {
    int64_t length = e->clean.count;
    const char *place = ca_example_place(job->data, e);
    /* An explicit position before the end asks for the prompt's own next token. */
    t->position = index < 0 ? index + length : index;
    if (t->position < 0 || t->position >= length)
        return ca_fail(CA_E_DATA, "%s: position %lld is outside the prompt of %lld tokens", place,
                       (long long)index, (long long)length);
    if (!gold) return CA_OK;
    if (t->position == length - 1 && e->answer.count) {
        if (e->answer.count > 1)
            return ca_fail(CA_E_DATA,
                           "%s: column answer: target gold needs one token, got %lld alternatives",
                           place, (long long)e->answer.count);
        t->id = e->answer.ids[0];
        return CA_OK;
    }
    if (last) t->position = length - 2;
    if (t->position < 0 || t->position + 1 >= length)
        return ca_fail(CA_E_DATA,
                       "%s: target gold needs an answer or a token after position %lld, but the "
                       "prompt has %lld tokens",
                       place, (long long)(t->position < 0 ? 0 : t->position), (long long)length);
    t->held_out = true;
    t->id = e->clean.ids[t->position + 1];
    return CA_OK;
}

ca_status ca_jacobian_targets(const ca_job *job, jacobian_target *targets) {
    ca_status st = CA_OK;
    const char *text = ca_config_text(job->config, "method.target");
    bool gold = strcmp(text, "gold") == 0, argmax = strcmp(text, "argmax") == 0, last;
    int32_t id = -1, other = -1;
    int64_t index;
    CA_TRY(read_position(job, &last, &index));
    if (!gold && !argmax) CA_TRY(fixed_target(job, text, &id, &other));
    for (int64_t i = 0; i < job->data->count; i++) {
        targets[i] = (jacobian_target){.id = id, .other = other};
        CA_TRY(place_target(job, &job->data->examples[i], gold, last, index, &targets[i]));
    }
out:
    return st;
}
