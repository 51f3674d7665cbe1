/* SPDX-License-Identifier: MIT
 *
 * Positions of configs resolved against prompts.
 */
#include "causa/position.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *word;
    ca_position_kind kind;
} words[] = {
    {"all", CA_POSITION_ALL},
    {"last", CA_POSITION_LAST},
    {"subject", CA_POSITION_SUBJECT},
    {"subject_last", CA_POSITION_SUBJECT_LAST},
};

static ca_status bad_value(const ca_config *config, const char *path) {
    return ca_config_fail(config, path,
                          "expected all, last, subject, subject_last, a list of token indices or "
                          "{after: \"text\"}");
}

static bool parse_index(const ca_node *node, int64_t *value) {
    if (!node || node->kind != CA_NODE_SCALAR || node->quoted || !node->text[0]) return false;
    char *end;
    errno = 0;
    *value = strtoll(node->text, &end, 10);
    return *end == '\0' && errno == 0;
}

ca_status ca_positions_read(const ca_config *config, const char *path, ca_positions *out) {
    ca_status st = CA_OK;
    const ca_node *node = ca_config_node(config, path);
    ca_positions p = {.kind = CA_POSITION_LIST};
    int64_t one;
    if (!node) return bad_value(config, path);
    if (node->kind == CA_NODE_MAP) {
        const ca_node *after = ca_node_find(node, "after");
        if (node->count != 1 || !after || after->kind != CA_NODE_SCALAR || !after->text[0])
            return bad_value(config, path);
        p.kind = CA_POSITION_AFTER;
        CA_TRY(ca_calloc(strlen(after->text) + 1, 1, &p.after));
        strcpy(p.after, after->text);
    } else if (node->kind == CA_NODE_LIST || parse_index(node, &one)) {
        p.count = node->kind == CA_NODE_LIST ? node->count : 1;
        CA_TRY(ca_calloc((size_t)p.count + 1, sizeof *p.indices, &p.indices));
        for (int64_t i = 0; i < p.count; i++) {
            if (!parse_index(node->kind == CA_NODE_LIST ? node->items[i] : node, &p.indices[i])) {
                st = bad_value(config, path);
                goto out;
            }
        }
        if (p.count == 0) {
            st = bad_value(config, path);
            goto out;
        }
    } else {
        bool found = false;
        for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
            if (node->kind != CA_NODE_SCALAR || strcmp(node->text, words[i].word) != 0) continue;
            p.kind = words[i].kind;
            found = true;
        }
        if (!found) return bad_value(config, path);
    }
    *out = p;
    return CA_OK;
out:
    ca_positions_free(&p);
    return st;
}

void ca_positions_free(ca_positions *positions) {
    free(positions->indices);
    free(positions->after);
    *positions = (ca_positions){0};
}

static int compare(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static ca_status resolve_list(const ca_positions *p, const ca_dataset *dataset,
                              const ca_example *example, int64_t *tokens, int64_t *count) {
    int64_t length = example->clean.count, n = 0;
    for (int64_t i = 0; i < p->count; i++) {
        int64_t index = p->indices[i] < 0 ? p->indices[i] + length : p->indices[i];
        if (index < 0 || index >= length)
            return ca_fail(
                CA_E_DATA, "%s: column clean: position %lld is outside the prompt of %lld tokens",
                ca_example_place(dataset, example), (long long)p->indices[i], (long long)length);
        bool repeated = false;
        for (int64_t k = 0; k < n; k++) repeated |= tokens[k] == index;
        if (!repeated) tokens[n++] = index;
    }
    qsort(tokens, (size_t)n, sizeof *tokens, compare);
    *count = n;
    return CA_OK;
}

static ca_status resolve_after(const ca_positions *p, const ca_dataset *dataset,
                               const ca_example *example, int64_t *tokens, int64_t *count) {
    const ca_prompt_text *prompt = &example->clean;
    const char *place = ca_example_place(dataset, example);
    if (!prompt->text)
        return ca_fail(
            CA_E_DATA,
            "%s: column clean: a position after \"%s\" needs the prompt as text, got token ids",
            place, p->after);
    const char *found = strstr(prompt->text, p->after);
    if (!found)
        return ca_fail(CA_E_DATA, "%s: column clean: \"%s\" is not in the prompt", place, p->after);
    if (strstr(found + 1, p->after))
        return ca_fail(CA_E_DATA, "%s: column clean: \"%s\" is in the prompt more than once", place,
                       p->after);
    int64_t end = (int64_t)(found - prompt->text) + (int64_t)strlen(p->after);
    for (int64_t t = 0; t < prompt->count; t++) {
        if (prompt->start[t] < end || prompt->end[t] == 0) continue;
        tokens[0] = t;
        *count = 1;
        return CA_OK;
    }
    return ca_fail(CA_E_DATA, "%s: column clean: no token comes after \"%s\"", place, p->after);
}

ca_status ca_positions_resolve(const ca_positions *p, const ca_dataset *dataset,
                               const ca_example *example, int64_t *tokens, int64_t *count) {
    int64_t first = 0, last = example->clean.count; /* [first, last) */
    switch (p->kind) {
    case CA_POSITION_LIST:
        return resolve_list(p, dataset, example, tokens, count);
    case CA_POSITION_AFTER:
        return resolve_after(p, dataset, example, tokens, count);
    case CA_POSITION_ALL:
        break;
    case CA_POSITION_LAST:
        first = last - 1;
        break;
    case CA_POSITION_SUBJECT:
    case CA_POSITION_SUBJECT_LAST:
        if (example->subject_first == example->subject_last)
            return ca_fail(CA_E_DATA,
                           "%s: the position 'subject' needs the column subject or subject_span",
                           ca_example_place(dataset, example));
        first = p->kind == CA_POSITION_SUBJECT ? example->subject_first : example->subject_last - 1;
        last = example->subject_last;
        break;
    }
    for (*count = 0; first + *count < last; ++*count) tokens[*count] = first + *count;
    return CA_OK;
}
