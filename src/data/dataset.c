/* SPDX-License-Identifier: MIT
 *
 * Opens a prompt file, reads every row and reports all bad ones at once.
 */
#include "dataset.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_NAMES = 3 };

/* Names of our columns in files, ours first, then spellings of other tools. */
static const char *const column_names[COLUMN_COUNT][MOST_NAMES] = {
    [COLUMN_ID] = {"id"},
    [COLUMN_CLEAN] = {"clean", "text", "prompt"},
    [COLUMN_CLEAN_IDS] = {"clean_ids"},
    [COLUMN_CORRUPTED] = {"corrupted"},
    [COLUMN_CORRUPTED_IDS] = {"corrupted_ids"},
    [COLUMN_ANSWER] = {"answer"},
    [COLUMN_ANSWER_IDS] = {"answer_ids", "correct_idx"},
    [COLUMN_WRONG] = {"wrong"},
    [COLUMN_WRONG_IDS] = {"wrong_ids", "incorrect_idx"},
    [COLUMN_ANSWER_TEXT] = {"answer_text"},
    [COLUMN_ANSWER_TEXT_IDS] = {"answer_text_ids"},
    [COLUMN_WRONG_TEXT] = {"wrong_text"},
    [COLUMN_WRONG_TEXT_IDS] = {"wrong_text_ids"},
    [COLUMN_LABEL] = {"label"},
    [COLUMN_SUBJECT] = {"subject"},
    [COLUMN_SUBJECT_SPAN] = {"subject_span"},
};

/* The file's name of one of our columns: data.columns, else our own. */
static const char *mapped(const reader *r, const char *name) {
    const ca_node *columns = ca_config_node(r->config, "data.columns");
    const ca_node *node = columns ? ca_node_find(columns, name) : NULL;
    return node && node->kind == CA_NODE_SCALAR ? node->text : name;
}

const cell *ca_reader_cell(const reader *r, column_kind column, const char **name) {
    static const cell absent = {0};
    const char *const *names = column_names[column];
    *name = mapped(r, names[0]);
    for (int n = 0; n < MOST_NAMES && names[n]; n++) {
        int64_t c = ca_table_find(&r->table, mapped(r, names[n]));
        if (c < 0 || r->table.cells[c][r->row].kind == CELL_ABSENT) continue;
        *name = r->table.column[c];
        return &r->table.cells[c][r->row];
    }
    return &absent;
}

ca_status ca_reader_fail(const reader *r, const char *column, const char *format, ...) {
    char text[1024], line[32] = "";
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (r->table.line[r->row])
        snprintf(line, sizeof line, " (line %lld)", (long long)r->table.line[r->row]);
    return ca_fail(CA_E_DATA, "%s: row %lld%s, column %s: %s", r->path, (long long)r->row + 1, line,
                   column, text);
}

/* Every name in data.columns must be one of ours, every value a column of the file. */
static ca_status check_columns(const reader *r) {
    const char *ours[COLUMN_COUNT * MOST_NAMES];
    int64_t count = 0;
    const ca_node *map = ca_config_node(r->config, "data.columns");
    for (int c = 0; c < COLUMN_COUNT; c++)
        for (int n = 0; n < MOST_NAMES && column_names[c][n]; n++)
            ours[count++] = column_names[c][n];
    for (int64_t i = 0; map && i < map->count; i++) {
        bool known = false;
        for (int64_t k = 0; k < count; k++) known |= strcmp(map->keys[i], ours[k]) == 0;
        if (!known) {
            const char *near = ca_nearest_name(map->keys[i], ours, count);
            if (near) ca_hint("did you mean '%s'?", near);
            return ca_config_fail(r->config, "data.columns", "'%s' is not a column that is read",
                                  map->keys[i]);
        }
        const ca_node *value = map->items[i];
        if (value->kind != CA_NODE_SCALAR || ca_table_find(&r->table, value->text) < 0)
            return ca_config_fail(r->config, "data.columns", "%s has no column '%s'", r->path,
                                  value->kind == CA_NODE_SCALAR ? value->text : "?");
    }
    return CA_OK;
}

static bool has_column(const reader *r, column_kind column) {
    for (int n = 0; n < MOST_NAMES && column_names[column][n]; n++)
        if (ca_table_find(&r->table, mapped(r, column_names[column][n])) >= 0) return true;
    return false;
}

/* A file without any column of prompts is said once, not once a row. */
static ca_status check_prompt_column(const reader *r, column_kind text, column_kind ids) {
    ca_status st = CA_OK;
    ca_string wanted = {0}, found = {0};
    if (r->table.rows == 0 || has_column(r, text) || has_column(r, ids)) return CA_OK;
    for (int n = 0; n < MOST_NAMES && column_names[text][n]; n++)
        CA_TRY(ca_string_printf(&wanted, "%s%s", n ? ", " : "", column_names[text][n]));
    for (int64_t c = 0; c < r->table.columns; c++)
        CA_TRY(ca_string_printf(&found, "%s%.80s", c ? ", " : "", r->table.column[c]));
    ca_hint("data.columns.%s=NAME says which column has the prompts", column_names[text][0]);
    st = ca_fail(CA_E_DATA, "%s: expected a column %s or %s, got the columns %s", r->path,
                 wanted.text, column_names[ids][0], found.text ? found.text : "(none)");
out:
    ca_string_free(&wanted);
    ca_string_free(&found);
    return st;
}

static ca_status choose_bos(reader *r) {
    const char *path = "data.bos";
    r->bos = -1;
    if (!ca_config_is_word(r->config, path)) {
        int64_t id = ca_config_int(r->config, path);
        if (id >= r->vocab)
            return ca_config_fail(r->config, path, "expected a token id below %lld, got %lld",
                                  (long long)r->vocab, (long long)id);
        r->bos = (int32_t)id;
        return CA_OK;
    }
    const char *word = ca_config_text(r->config, path);
    if (strcmp(word, "false") == 0 || !r->tokenizer) return CA_OK;
    r->bos = strcmp(word, "auto") == 0 ? ca_tokenizer_bos(r->tokenizer)
                                       : ca_tokenizer_default_bos(r->tokenizer);
    if (strcmp(word, "true") == 0 && r->bos < 0)
        return ca_config_fail(r->config, path, "the tokenizer names no BOS token: give its id");
    return CA_OK;
}

static ca_status add_excluded(ca_dataset *d, char *text, int64_t *capacity) {
    ca_status st = CA_OK;
    CA_TRY(ca_grow(&d->excluded, capacity, d->excluded_count + 1, sizeof *d->excluded));
    d->excluded[d->excluded_count++] = text;
    return CA_OK;
out:
    free(text);
    return st;
}

/* Reads all rows; those that are bad are listed together. */
static ca_status read_rows(reader *r, ca_dataset *d) {
    ca_status st = CA_OK;
    int64_t capacity = 0, excluded_capacity = 0;
    int64_t start = d->unjudged ? 0 : d->start, limit = d->unjudged ? INT64_MAX : d->limit;
    ca_row_problems problems = {0};
    for (r->row = 0; r->row < r->table.rows && d->count < limit; r->row++) {
        ca_example e = {0};
        char *excluded = NULL;
        st = ca_reader_example(r, &e, &excluded);
        if (st == CA_OK && !excluded && start-- <= 0) {
            CA_TRY(ca_grow(&d->examples, &capacity, d->count + 1, sizeof *d->examples));
            d->examples[d->count++] = e;
            continue;
        }
        ca_example_free(&e);
        CA_TRY(ca_row_problems_take(&problems, st));
        if (excluded) CA_TRY(add_excluded(d, excluded, &excluded_capacity));
    }
    CA_TRY(ca_row_problems_report(&problems));
out:
    ca_row_problems_free(&problems);
    return st;
}

static ca_status digest(const char *text, size_t size, char hex[65]) {
    ca_status st = CA_OK;
    ca_sha256 *sha;
    CA_TRY(ca_sha256_create(&sha));
    ca_sha256_add(sha, text, size);
    ca_sha256_finish(sha, hex);
out:
    return st;
}

static void count_columns(ca_dataset *d) {
    d->pairs = true;
    d->unanswered = 0;
    for (int64_t i = 0; i < d->count; i++) {
        d->pairs &= d->examples[i].corrupted.count == d->examples[i].clean.count;
        d->unanswered += d->examples[i].answer.count == 0;
    }
}

static void read_filters(const ca_config *config, ca_dataset *d) {
    d->unjudged = strcmp(ca_config_text(config, "data.keep"), "correct") == 0;
    d->start = ca_config_int(config, "data.start");
    d->limit =
        ca_config_is_word(config, "data.limit") ? INT64_MAX : ca_config_int(config, "data.limit");
}

ca_status ca_dataset_open(const ca_config *config, const ca_tokenizer *tokenizer, int64_t vocab,
                          int64_t positions, ca_data_needs needs, ca_dataset **out) {
    ca_status st = CA_OK;
    ca_dataset *d = NULL;
    char *text = NULL;
    size_t size;
    reader r = {.config = config,
                .tokenizer = tokenizer,
                .vocab = vocab,
                .positions = positions,
                .needs = needs};
    r.path = ca_config_path(config, "data.file");
    CA_TRY(ca_calloc(1, sizeof *d, &d));
    st = ca_file_read(r.path, &text, &size);
    if (st != CA_OK) {
        st = ca_context(CA_E_DATA, "%s", ca_config_where(config, "data.file"));
        goto out;
    }
    CA_TRY(ca_calloc(strlen(r.path) + 1, 1, &d->path));
    strcpy(d->path, r.path);
    CA_TRY(digest(text, size, d->sha256));
    CA_TRY(ca_table_open(r.path, text, size, &r.table));
    CA_TRY(check_columns(&r));
    CA_TRY(check_prompt_column(&r, COLUMN_CLEAN, COLUMN_CLEAN_IDS));
    if (needs.pair) CA_TRY(check_prompt_column(&r, COLUMN_CORRUPTED, COLUMN_CORRUPTED_IDS));
    CA_TRY(choose_bos(&r));
    d->bos = r.bos;
    read_filters(config, d);
    CA_TRY(read_rows(&r, d));
    if (d->count == 0) CA_TRY(ca_fail(CA_E_DATA, "%s: no row is left after filtering", r.path));
    count_columns(d);
    *out = d;
    d = NULL;
out:
    ca_dataset_free(d);
    ca_table_free(&r.table);
    free(text);
    return st;
}

static ca_status none_left(const ca_dataset *d, int64_t right, int64_t seen, const char *first) {
    if (right)
        return ca_fail(CA_E_DATA,
                       "%s: expected more rows that the model answers correctly than the %lld that "
                       "data.start leaves out, got %lld",
                       d->path, (long long)d->start, (long long)right);
    return ca_fail(CA_E_DATA,
                   "%s: expected rows that the model answers correctly, got none of %lld; the "
                   "first: %s",
                   d->path, (long long)seen, first);
}

ca_status ca_dataset_keep(ca_dataset *d, const bool *right, char **why, int64_t seen) {
    ca_status st = CA_OK;
    int64_t kept = 0, passed = 0, last = 0, capacity = d->excluded_count;
    /* Behind the last row that is used none is looked at, whatever was judged beside it. */
    while (last < seen && kept < d->limit) {
        bool used = right[last] && passed++ >= d->start;
        kept += used;
        last++;
    }
    if (kept == 0) return none_left(d, passed, seen, why[0]);
    CA_TRY(ca_grow(&d->excluded, &capacity, d->excluded_count + last, sizeof *d->excluded));
    kept = passed = 0;
    for (int64_t i = 0; i < d->count; i++) {
        if (i < last && right[i] && passed++ >= d->start) {
            d->examples[kept++] = d->examples[i];
            continue;
        }
        ca_example_free(&d->examples[i]);
        if (i >= last || right[i]) continue;
        d->excluded[d->excluded_count++] = why[i];
        why[i] = NULL;
    }
    d->count = kept;
    d->unjudged = false;
    count_columns(d);
out:
    return st;
}

void ca_dataset_free(ca_dataset *d) {
    if (!d) return;
    for (int64_t i = 0; i < d->count; i++) ca_example_free(&d->examples[i]);
    for (int64_t i = 0; i < d->excluded_count; i++) free(d->excluded[i]);
    free(d->examples);
    free(d->excluded);
    free(d->path);
    free(d);
}

ca_status ca_token_of_text(const ca_tokenizer *tokenizer, const char *text, int64_t vocab,
                           int32_t *id) {
    ca_status st = CA_OK;
    ca_encoding e = {0};
    ca_string shown = {0};
    if (text[0] == '#' && text[1]) {
        char *end;
        long long value = strtoll(text + 1, &end, 10);
        if (*end == '\0') {
            if (value < 0 || value >= vocab)
                return ca_fail(CA_E_DATA, "expected a token id from #0 to #%lld, got '%s'",
                               (long long)vocab - 1, text);
            *id = (int32_t)value;
            return CA_OK;
        }
    }
    if (!tokenizer)
        return ca_fail(CA_E_DATA,
                       "the model has no tokenizer: name the token by its id, such as #17");
    CA_TRY(ca_tokenizer_encode(tokenizer, text, strlen(text), false, &e));
    if (e.count != 1 || e.ids[0] >= vocab) {
        for (int64_t i = 0; i < e.count; i++)
            CA_TRY(ca_string_printf(&shown, "%s'%.*s'", i ? " " : "", (int)(e.end[i] - e.start[i]),
                                    text + e.start[i]));
        if (text[0] != ' ')
            ca_hint("a word after a text usually begins with a space: \" %s\"", text);
        st = ca_fail(CA_E_DATA,
                     "expected a text of exactly one token, got \"%s\", which is %lld tokens: %s",
                     text, (long long)e.count, shown.text ? shown.text : "");
    } else {
        *id = e.ids[0];
    }
out:
    ca_encoding_free(&e);
    ca_string_free(&shown);
    return st;
}

const char *ca_example_place(const ca_dataset *dataset, const ca_example *example) {
    static _Thread_local char text[512];
    snprintf(text, sizeof text, "%s: row %lld (id %.80s)", dataset->path, (long long)example->row,
             example->id);
    return text;
}
