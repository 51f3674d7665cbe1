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
    bool of_cells; /* only where cells are sets of tokens */
} words[] = {
    {"all", CA_POSITION_ALL, false},         {"last", CA_POSITION_LAST, false},
    {"subject", CA_POSITION_SUBJECT, false}, {"subject_last", CA_POSITION_SUBJECT_LAST, false},
    {"whole", CA_POSITION_WHOLE, true},
};

/* ---- config ---- */

typedef struct position_reader {
    const ca_config *config;
    const char *path;
    bool cells; /* sets of tokens are wanted */
} position_reader;

static ca_status bad_value(const position_reader *r) {
    return ca_config_fail(r->config, r->path,
                          r->cells ? "expected all, last, subject, subject_last, whole, {after: "
                                     "\"text\"} or a list of token indices and of these, [1, 3] "
                                     "inside it for several tokens at once"
                                   : "expected all, last, subject, subject_last, a list of token "
                                     "indices or {after: \"text\"}");
}

static bool parse_index(const ca_node *node, int64_t *value) {
    if (!node || node->kind != CA_NODE_SCALAR || node->quoted || !node->text[0]) return false;
    char *end;
    errno = 0;
    *value = strtoll(node->text, &end, 10);
    return *end == '\0' && errno == 0;
}

static bool is_list_of_indices(const ca_node *node) {
    int64_t value;
    bool all = node->kind == CA_NODE_LIST && node->count > 0;
    for (int64_t i = 0; all && i < node->count; i++) all = parse_index(node->items[i], &value);
    return all;
}

static ca_status read_after(const position_reader *r, const ca_node *node, ca_positions *p) {
    ca_status st = CA_OK;
    const ca_node *after = ca_node_find(node, "after");
    if (node->count != 1 || !after || after->kind != CA_NODE_SCALAR || !after->text[0])
        return bad_value(r);
    p->kind = CA_POSITION_AFTER;
    CA_TRY(ca_calloc(strlen(after->text) + 1, 1, &p->after));
    strcpy(p->after, after->text);
out:
    return st;
}

static bool has_index(const ca_positions *p, int64_t index) {
    for (int64_t i = 0; i < p->count; i++)
        if (p->indices[i] == index) return true;
    return false;
}

static ca_status read_indices(const position_reader *r, const ca_node *node, ca_positions *p) {
    ca_status st = CA_OK;
    bool list = node->kind == CA_NODE_LIST;
    int64_t count = list ? node->count : 1;
    p->kind = CA_POSITION_LIST;
    CA_TRY(ca_calloc((size_t)count, sizeof *p->indices, &p->indices));
    while (p->count < count) {
        int64_t index = 0;
        parse_index(list ? node->items[p->count] : node, &index);
        if (has_index(p, index))
            return ca_config_fail(r->config, r->path,
                                  "expected every position once, got %lld twice", (long long)index);
        p->indices[p->count++] = index;
    }
out:
    return st;
}

static ca_status read_word(const position_reader *r, const ca_node *node, ca_positions *p) {
    for (size_t i = 0; node->kind == CA_NODE_SCALAR && i < sizeof words / sizeof *words; i++) {
        if ((words[i].of_cells && !r->cells) || strcmp(node->text, words[i].word) != 0) continue;
        p->kind = words[i].kind;
        return CA_OK;
    }
    return bad_value(r);
}

/* Anything but a list of cells. */
static ca_status read_one(const position_reader *r, const ca_node *node, ca_positions *p) {
    int64_t index;
    if (node->kind == CA_NODE_MAP) return read_after(r, node, p);
    if (is_list_of_indices(node) || parse_index(node, &index)) return read_indices(r, node, p);
    return read_word(r, node, p);
}

static bool same_cell(const ca_positions *a, const ca_positions *b) {
    bool same = a->kind == b->kind && a->count == b->count;
    if (same && a->kind == CA_POSITION_AFTER) return strcmp(a->after, b->after) == 0;
    for (int64_t i = 0; same && a->kind == CA_POSITION_LIST && i < a->count; i++)
        same = has_index(b, a->indices[i]);
    return same;
}

static ca_status refuse_twice(const position_reader *r, const ca_positions *cell) {
    ca_string name = {0};
    ca_status st = ca_positions_print(cell, &name);
    if (st == CA_OK)
        st = ca_config_fail(r->config, r->path, "expected every position once, got %s twice",
                            name.text);
    ca_string_free(&name);
    return st;
}

static ca_status read_cells(const position_reader *r, const ca_node *node, ca_positions *p) {
    ca_status st = CA_OK;
    p->kind = CA_POSITION_CELLS;
    CA_TRY(ca_calloc((size_t)node->count, sizeof *p->cells, &p->cells));
    while (p->count < node->count) {
        int64_t before = p->count++;
        ca_positions *cell = &p->cells[before];
        CA_TRY(read_one(r, node->items[before], cell));
        if (cell->kind == CA_POSITION_ALL) CA_TRY(bad_value(r)); /* a cell for each, not one */
        for (int64_t k = 0; k < before; k++)
            if (same_cell(&p->cells[k], cell)) CA_TRY(refuse_twice(r, cell));
    }
out:
    return st;
}

static ca_status read_positions(position_reader r, ca_positions *out) {
    ca_status st = CA_OK;
    const ca_node *node = ca_config_node(r.config, r.path);
    ca_positions p = {0};
    if (!node) return bad_value(&r);
    bool cells = r.cells && node->kind == CA_NODE_LIST && node->count > 0;
    if (cells && !is_list_of_indices(node))
        CA_TRY(read_cells(&r, node, &p));
    else
        CA_TRY(read_one(&r, node, &p));
    *out = p;
    p = (ca_positions){0};
out:
    ca_positions_free(&p);
    return st;
}

ca_status ca_positions_read(const ca_config *config, const char *path, ca_positions *out) {
    return read_positions((position_reader){config, path, false}, out);
}

ca_status ca_positions_read_cells(const ca_config *config, const char *path, ca_positions *out) {
    return read_positions((position_reader){config, path, true}, out);
}

void ca_positions_free(ca_positions *positions) {
    for (int64_t i = 0; i < positions->count && positions->cells; i++) {
        free(positions->cells[i].indices);
        free(positions->cells[i].after);
    }
    free(positions->cells);
    free(positions->indices);
    free(positions->after);
    *positions = (ca_positions){0};
}

static ca_status print_list(const ca_positions *p, ca_string *out) {
    ca_status st = CA_OK;
    CA_TRY(ca_string_printf(out, "["));
    for (int64_t i = 0; i < p->count; i++) {
        CA_TRY(ca_string_printf(out, "%s", i > 0 ? ", " : ""));
        if (p->kind == CA_POSITION_LIST)
            CA_TRY(ca_string_printf(out, "%lld", (long long)p->indices[i]));
        else
            CA_TRY(ca_positions_print(&p->cells[i], out));
    }
    CA_TRY(ca_string_printf(out, "]"));
out:
    return st;
}

ca_status ca_positions_print(const ca_positions *p, ca_string *out) {
    if (p->kind == CA_POSITION_AFTER) return ca_string_printf(out, "after \"%s\"", p->after);
    if (p->kind == CA_POSITION_LIST && p->count == 1)
        return ca_string_printf(out, "%lld", (long long)p->indices[0]);
    if (p->kind == CA_POSITION_LIST || p->kind == CA_POSITION_CELLS) return print_list(p, out);
    size_t word = 0;
    while (words[word].kind != p->kind) word++;
    return ca_string_printf(out, "%s", words[word].word);
}

/* ---- prompts ---- */

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

/* Tokens of all cells; `tokens` has room for one set, so they are gathered in a mask. */
static ca_status resolve_cells(const ca_positions *p, const ca_dataset *dataset,
                               const ca_example *example, int64_t *tokens, int64_t *count) {
    ca_status st = CA_OK;
    bool *chosen = NULL;
    CA_TRY(ca_calloc((size_t)example->clean.count, sizeof *chosen, &chosen));
    for (int64_t i = 0; i < p->count; i++) {
        CA_TRY(ca_positions_resolve(&p->cells[i], dataset, example, tokens, count));
        for (int64_t k = 0; k < *count; k++) chosen[tokens[k]] = true;
    }
    *count = 0;
    for (int64_t t = 0; t < example->clean.count; t++)
        if (chosen[t]) tokens[(*count)++] = t;
out:
    free(chosen);
    return st;
}

ca_status ca_positions_resolve(const ca_positions *p, const ca_dataset *dataset,
                               const ca_example *example, int64_t *tokens, int64_t *count) {
    int64_t first = 0, last = example->clean.count; /* [first, last) */
    switch (p->kind) {
    case CA_POSITION_LIST:
        return resolve_list(p, dataset, example, tokens, count);
    case CA_POSITION_AFTER:
        return resolve_after(p, dataset, example, tokens, count);
    case CA_POSITION_CELLS:
        return resolve_cells(p, dataset, example, tokens, count);
    case CA_POSITION_ALL:
    case CA_POSITION_WHOLE:
        break;
    case CA_POSITION_LAST:
        first = last - 1;
        break;
    case CA_POSITION_SUBJECT:
    case CA_POSITION_SUBJECT_LAST:
        if (example->subject_first == example->subject_last)
            return ca_fail(CA_E_DATA, "%s: the position 'subject' needs the column %s",
                           ca_example_place(dataset, example),
                           example->clean.text ? "subject or subject_span"
                                               : "subject_span, in tokens of a row of token ids");
        first = p->kind == CA_POSITION_SUBJECT ? example->subject_first : example->subject_last - 1;
        last = example->subject_last;
        break;
    }
    for (*count = 0; first + *count < last; ++*count) tokens[*count] = first + *count;
    return CA_OK;
}
